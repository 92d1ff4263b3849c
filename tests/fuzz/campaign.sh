#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
#
# The fuzzers with coverage: builds the harnesses with clang, libFuzzer, ASan and UBSan in a build folder of their own,
# makes the seeds with the project's own make_corpus, and runs each harness for a while. Nothing is expected to be found.
#
#   tests/fuzz/campaign.sh [--seconds N] [--names "NAME ..."] [--build DIR] [--seed N] [--jobs N]
#
# Prints for each harness the inputs run, the edges covered, the inputs worth keeping, and a line `# campaign ...`. A
# finding is saved in DIR/findings, minimised, named after what was found, and makes the exit status 1. The corpus stays in
# DIR/corpus: the next run goes on from there.

set -u -o pipefail

source_dir=$(cd "$(dirname "$0")/../.." && pwd)
build=$source_dir/build-fuzz
names="node tree super log mount fsck"
seed=1 jobs=1
case ${ASHLAR_TEST_LEVEL:-normal} in
quick) seconds=5 ;;
deep) seconds=600 ;;
long) seconds=120 ;;
*) seconds=20 ;;
esac

usage() { sed -n 's/^# \{0,1\}//; 3,12p' "$0"; }

while [ $# -gt 0 ]; do
	case $1 in
	--seconds | --names | --build | --seed | --jobs)
		[ $# -gt 1 ] || { usage >&2; exit 2; }
		case $1 in
		--seconds) seconds=$2 ;;
		--names) names=$2 ;;
		--build) build=$(realpath -m "$2") ;;
		--seed) seed=$2 ;;
		--jobs) jobs=$2 ;;
		esac
		shift
		;;
	-h | --help) usage; exit 0 ;;
	*) usage >&2; exit 2 ;;
	esac
	shift
done

# ---- What is needed ----

missing() {
	echo "tests/fuzz/campaign.sh: $1" >&2
	exit 77
}
command -v clang >/dev/null || missing "clang is not installed: apt-get install clang"
command -v meson >/dev/null || missing "meson is not installed: apt-get install meson ninja-build"
probe=$(mktemp -d)
trap 'rm -rf "$probe"' EXIT
printf 'int LLVMFuzzerTestOneInput(const char *d, unsigned long n) { return d && n == 99; }\n' >"$probe/probe.c"
clang -fsanitize=fuzzer,address,undefined -o "$probe/probe" "$probe/probe.c" 2>"$probe/log" ||
	missing "clang cannot link -fsanitize=fuzzer,address,undefined: apt-get install libclang-rt-$(clang -dumpversion | cut -d. -f1)-dev
$(tail -2 "$probe/log")"

# ---- Build and seeds ----

options=(-Dtests=auto -Db_lundef=false -Dbuildtype=debugoptimized
	"-Dc_args=-fsanitize=fuzzer-no-link,address,undefined -fno-sanitize-recover=undefined -fno-omit-frame-pointer"
	"-Dc_link_args=-fsanitize=address,undefined")
mkdir -p "$build"
if [ -f "$build/build.ninja" ]; then
	meson setup --reconfigure "$build" "$source_dir" "${options[@]}" >"$build/setup.log" 2>&1
else
	CC=clang meson setup "$build" "$source_dir" "${options[@]}" >"$build/setup.log" 2>&1
fi || { tail -5 "$build/setup.log"; echo "tests/fuzz/campaign.sh: cannot configure $build" >&2; exit 1; }
targets=(tests/fuzz/make_corpus)
for name in $names; do
	targets+=("tests/fuzz/fuzz_$name")
done
ninja -C "$build" "${targets[@]}" >"$build/ninja.log" 2>&1 || {
	grep -E 'error|FAILED|unknown target' "$build/ninja.log" | head -10
	echo "tests/fuzz/campaign.sh: cannot build the harnesses" >&2
	exit 1
}
seeds=$build/seeds
rm -rf "$seeds"
"$build/tests/fuzz/make_corpus" "$seeds" || exit 1

# ---- Runs ----

export ASAN_OPTIONS=detect_stack_use_after_return=0:allocator_may_return_null=1
export UBSAN_OPTIONS=print_stacktrace=1
findings=$build/findings
mkdir -p "$findings"

# What a log says was found, as a piece of a file name.
finding_name() {
	local line
	line=$(grep -m1 -E 'SUMMARY:|runtime error:|ERROR: libFuzzer|ERROR: Address' "$1" | sed 's/.*: //')
	[ -n "$line" ] || line=unknown
	printf '%s' "$line" | tr -cs 'A-Za-z0-9_.' - | cut -c1-60 | sed 's/^-*//; s/-*$//'
}

# Minimise a finding and give it its name. Arguments: harness, input, log.
keep_finding() {
	local kept
	kept=$findings/$1-$(finding_name "$3")-$(md5sum <"$2" | cut -c1-8)
	mv "$2" "$kept"
	cp "$3" "$kept.log"
	"$build/tests/fuzz/fuzz_$1" -minimize_crash=1 -max_total_time=30 -timeout=25 -exact_artifact_path="$kept.min" \
		"$kept" >/dev/null 2>&1
	[ -s "$kept.min" ] || cp "$kept" "$kept.min"
	printf '# finding: %s\n' "$kept.min"
	grep -m1 -B1 -E '^==[0-9]+== ?ERROR|runtime error:' "$3" | sed 's/^/#   /'
	printf '#   again: %s %s\n' "$build/tests/fuzz/fuzz_$1" "$kept.min"
}

# Run one harness for its time; go on after a finding, five times at most.
run_harness() {
	local name=$1 work=$build/corpus/$1 log=$build/fuzz-$1.log began=$SECONDS executed=0 edges=0 found=0 left artifact count
	mkdir -p "$work" "$seeds/$name"
	rm -f "$build/$name-artifact-"*
	while left=$((seconds - (SECONDS - began))) && [ "$left" -gt 0 ] && [ "$found" -lt 5 ]; do
		"$build/tests/fuzz/fuzz_$name" -max_total_time="$left" -timeout=25 -rss_limit_mb=3072 -max_len=4096 \
			-seed=$((seed + found)) -print_final_stats=1 -artifact_prefix="$build/$name-artifact-" \
			"$work" "$seeds/$name" >"$log" 2>&1
		count=$(sed -n 's/^stat::number_of_executed_units: *//p' "$log" | tail -1)
		executed=$((executed + ${count:-0}))
		count=$(grep -o 'cov: [0-9]*' "$log" | tail -1 | cut -d' ' -f2)
		[ "${count:-0}" -gt "$edges" ] && edges=$count
		artifact=$(find "$build" -maxdepth 1 -name "$name-artifact-*" -size -64k -print -quit)
		if [ -n "$artifact" ]; then
			found=$((found + 1))
			keep_finding "$name" "$artifact" "$log"
			rm -f "$build/$name-artifact-"*
		elif ! grep -q '^Done ' "$log"; then
			found=$((found + 1))
			printf '# the harness ended by itself:\n'
			tail -5 "$log" | sed 's/^/#   /'
			break
		fi
	done
	[ "$found" -eq 0 ] || printf 'not '
	printf 'ok - fuzz_%s: %d inputs, %d edges covered, %d inputs kept, %d findings\n' "$name" \
		"$executed" "$edges" "$(find "$work" -type f | wc -l)" "$found"
	printf '# campaign fuzz_%s: cases %d, distinct %d images, violations %d, skipped 0, seconds %d\n' "$name" \
		"$executed" "$(find "$work" -type f | wc -l)" "$found" $((SECONDS - began))
	[ "$found" -eq 0 ]
}

# $jobs harnesses at a time; what each prints comes in one piece, in the order of the names.
failed=0 total=0
for name in $names; do
	[ "$(jobs -rp | wc -l)" -lt "$jobs" ] || wait -n
	{ run_harness "$name" >"$build/$name.out"; echo $? >"$build/$name.status"; } &
	total=$((total + 1))
done
wait
for name in $names; do
	[ "$(cat "$build/$name.status")" = 0 ] || failed=$((failed + 1))
	cat "$build/$name.out"
done
printf '1..%d\n' "$total"
[ "$failed" -eq 0 ]
