#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
#
# Build Ashlar and run its tests. The last line of the output is always `N passed, N failed, N skipped`.
#
# A run is a list of stages. Each stage is a build in a folder of its own followed by meson test suites, or a
# check of the sources. Single tests are counted, not test programs: from TAP lines, and from the summary of
# criterion where a program does not print TAP. A stage that cannot be done counts as one failed test.
#
# The run fails when a test failed, when a suite has no tests, and when all tests of a suite that this machine can
# run were skipped.

set -u -o pipefail

source_dir=$(cd "$(dirname "$0")/.." && pwd)
build_dir=$source_dir/build
level=normal
install=yes
suites=()
stages=()
total_passed=0 total_failed=0 total_skipped=0
timeouts=()
fuzzers_pid= # running in the background

usage() {
	cat <<-'END'
	Usage: tests/run.sh [options]
	Install what is needed (apt-get), build, run the tests.

	  --no-install    do not install packages
	  --quick         small sizes: what .ci/run uses
	  --long          the sizes of the acceptance figures (an hour)
	  --deep          full campaigns with fixed seeds, and one table of them at the end (90 minutes on two
	                  cores): all suites but mount and bench, and the coverage-guided fuzzers
	  --suite NAME    only this suite; can be repeated: unit model crash fault image stress mount fuzz bench
	  --gcc           gcc, warnings are errors, all suites (the default when no stage is named)
	  --clang         build with clang, warnings are errors
	  --sanitize      ASan and UBSan: unit, model, crash, fault, image, fuzz
	  --tsan          TSan: tests marked `concurrent`
	  --lint          cppcheck, clang-format, man pages, shell syntax
	  --ci            all of these stages
	  --debian-kernel the mount scripts on Debian 12's own kernel, in an emulated machine (an hour)
	  --build DIR     where to build (default: build/ in the checkout; stages add a suffix)
	  --help
	END
}

packages=(gcc g++ clang meson ninja-build pkg-config libfuse3-dev fuse3 libblkid-dev libaio-dev liburing-dev
	libcriterion-dev python3 git sqlite3 fio attr acl e2fsprogs fuse2fs strace cppcheck clang-format man-db
	libcap2-bin util-linux procps)

say() { printf '\n== %s\n' "$*"; }

# Count the outcome of something that is one test by itself: name, result (0: passed).
count_one() {
	if [ "$2" -eq 0 ]; then
		total_passed=$((total_passed + 1))
		printf 'ok - %s\n' "$1"
	else
		total_failed=$((total_failed + 1))
		printf 'not ok - %s\n' "$1"
	fi
}

# One line for each campaign that ran: "# campaign NAME: cases N, distinct N states, violations N, skipped N, seconds N".
print_campaigns() {
	python3 - "$campaigns" <<'END'
import re, sys
form = re.compile(r'(\S+): cases (\d+), distinct (\d+) (\S+), violations (\d+), skipped (\d+), seconds ([\d.]+)')
rows, broken = [], 0
for line in open(sys.argv[1]):
    found = form.match(line)
    if found:
        rows.append(found.groups())
    else:
        print('# not understood:', line.rstrip())
print('%-20s %12s %14s %-8s %10s %10s %9s' % ('campaign', 'cases', 'distinct', '', 'violations', 'skipped', 'seconds'))
for name, cases, distinct, what, violations, skipped, seconds in rows:
    print('%-20s %12s %14s %-8s %10s %10s %9.0f' % (name, cases, distinct, what, violations, skipped, float(seconds)))
print('%-20s %12d %14d %-8s %10d %10d %9.0f' % ('all', sum(int(r[1]) for r in rows), sum(int(r[2]) for r in rows), '',
      sum(int(r[4]) for r in rows), sum(int(r[5]) for r in rows), sum(float(r[6]) for r in rows)))
END
}

finish() {
	if [ -s "$campaigns" ] && [ "$level" != quick ]; then
		say "campaigns"
		print_campaigns
		printf '\n'
	fi
	rm -f "$campaigns"
	printf '%d passed, %d failed, %d skipped\n' "$total_passed" "$total_failed" "$total_skipped"
	[ "$total_failed" -eq 0 ] && [ "$total_passed" -gt 0 ]
	exit
}

install_packages() {
	local missing=() package sudo=
	command -v dpkg-query >/dev/null || { say "not a Debian system: packages are not installed"; return 0; }
	for package in "${packages[@]}"; do
		dpkg-query -W -f='${Status}' "$package" 2>/dev/null | grep -q '^install ok installed' || missing+=("$package")
	done
	[ ${#missing[@]} -eq 0 ] && return 0
	say "installing: ${missing[*]}"
	if [ "$(id -u)" -ne 0 ]; then
		command -v sudo >/dev/null || { echo "tests/run.sh: as root, run: apt-get install ${missing[*]}" >&2; return 1; }
		sudo=sudo
	fi
	$sudo apt-get -qq update && DEBIAN_FRONTEND=noninteractive $sudo apt-get -qq -y install "${missing[@]}" >/dev/null
}

# ---- Suites ----

# Can this machine run the suite at all? Others may be skipped, with the reason.
can_run() {
	case $1 in
	mount | bench) [ "$(id -u)" -eq 0 ] && [ -c /dev/fuse ] && [ -e /dev/loop-control ] ;;
	*) true ;;
	esac
}

# For each failed test its last lines, then "= SUITE passed failed skipped seconds" for each suite, from a testlog.json of
# meson. Seconds: the sum of its programs, which ran beside each other.
count_log() {
	python3 - "$1" "$campaigns" <<'END'
import json, re, sys
suites = {}
tap = re.compile(r'^\s*(not )?ok\b(.*)$', re.M)
synthesis = re.compile(r'Synthesis: Tested: *(\d+) \| Passing: *(\d+) \| Failing: *(\d+) \| Crashing: *(\d+)')
bad = ('FAIL', 'ERROR', 'TIMEOUT', 'INTERRUPT', 'UNEXPECTEDPASS')
campaigns = open(sys.argv[2], 'a')
for line in open(sys.argv[1], errors='replace'):
    test = json.loads(line)
    p = f = s = 0
    for text in re.findall(r'^# campaign (.*)$', test.get('stdout') or '', re.M):
        campaigns.write(text + '\n')
    output = re.sub(r'\x1b\[[0-9;]*m', '', (test.get('stdout') or '') + '\n' + (test.get('stderr') or ''))
    for negated, rest in tap.findall(output):
        if re.search(r'#\s*skip', rest, re.I):
            s += 1
        elif re.search(r'#\s*todo', rest, re.I):
            s += 1
        elif negated:
            f += 1
            print('not ok -', test['name'] + ':', rest.strip(' -'))
        else:
            p += 1
    if p + f + s == 0:
        found = synthesis.search(output)
        if found:
            tested, p, failing, crashing = map(int, found.groups())
            f = failing + crashing
            s = tested - p - f if tested > p + f else 0
    if p + f + s == 0:
        p, f, s = (0, 0, 1) if test['result'] == 'SKIP' else (0, 1, 0) if test['result'] in bad else (1, 0, 0)
    if test['result'] in bad and f == 0:
        f = 1
    if f:
        print('not ok -', test['name'] + ':', test['result'], '- its last lines:')
        for text in output.strip().splitlines()[-15:]:
            print('    ' + text)
    suite = suites.setdefault(test['name'].split(' / ')[0].split(':')[-1].split('+')[0], [0, 0, 0, 0])
    for i, number in enumerate((p, f, s, test['duration'])):
        suite[i] += number
for name, numbers in suites.items():
    print('=', name, *map(round, numbers))
END
}

# The programs of a suite, as ninja names them.
programs_of() {
	meson introspect --tests "$1" | python3 -c "
import json, os, sys
tests = [t for t in json.load(sys.stdin) if any('$2' in s.split(':')[-1] for s in t['suite'])]
print(*sorted({os.path.relpath(os.path.realpath(t['cmd'][0]), sys.argv[1]) for t in tests}), sep='\n')" "$(realpath "$1")"
}

# Run suites in a build folder, their programs beside each other, two more of them than there are processors, since many
# wait more than they work (those of --deep work, and have lanes); counts. Arguments: build folder, suites (one word),
# meson options.
run_suites() {
	local build=$1 names=$2 suite p f s seconds log jobs list=()
	shift 2
	for suite in $names; do
		if [ -n "$(programs_of "$build" "$suite")" ]; then
			list+=(--suite "$suite")
		else
			count_one "suite $suite has tests" 1
		fi
	done
	[ ${#list[@]} -gt 0 ] || return
	jobs=$(nproc)
	[ "$level" = deep ] || jobs=$((jobs + 2))
	log=$build/meson-logs/testlog-${names// /-}
	rm -f "$log.json"
	(cd "$build" && meson test --no-rebuild "${list[@]}" --logbase "${log##*/}" --print-errorlogs \
		--num-processes "$jobs" "$@" "${timeouts[@]}" >"$log.out" 2>&1)
	if [ ! -s "$log.json" ]; then
		tail -20 "$log.out"
		count_one "suites $names run" 1
		return
	fi
	count_log "$log.json" >"$log.counts"
	grep -v '^= ' "$log.counts"
	while read -r _ suite p f s seconds; do
		total_passed=$((total_passed + p)) total_failed=$((total_failed + f)) total_skipped=$((total_skipped + s))
		printf '%-7s %5d passed %3d failed %3d skipped  %4ds\n' "$suite" "$p" "$f" "$s" "$seconds"
		if [ $((p + f)) -eq 0 ] && can_run "$suite"; then
			count_one "suite $suite is not skipped where it can run" 1
		fi
	done < <(grep '^= ' "$log.counts")
}

# Those of the suites that were asked for.
all_wanted() {
	local suite list=()
	for suite in "$@"; do
		[ ${#suites[@]} -eq 0 ] || [[ " ${suites[*]} " == *" $suite "* ]] && list+=("$suite")
	done
	echo "${list[*]}"
}

# Configure (again) and build. Arguments: build folder, compiler, the suite whose programs are enough (empty: build all),
# meson options.
build_in() {
	local build=$1 compiler=$2 suite=$3 targets=()
	shift 3
	if [ -f "$build/build.ninja" ]; then
		CC=$compiler meson setup --reconfigure "$build" "$source_dir" -Dtests=enabled "$@" >"$build.log" 2>&1
	else
		CC=$compiler meson setup "$build" "$source_dir" -Dtests=enabled "$@" >"$build.log" 2>&1
	fi && { [ -z "$suite" ] || mapfile -t targets < <(programs_of "$build" "$suite"); } &&
		ninja -k 0 -C "$build" "${targets[@]}" >>"$build.log" 2>&1 || { grep -E 'error|ERROR|warning' "$build.log" | head -20; return 1; }
}

stage_gcc() {
	say "gcc"
	build_in "$build_dir" gcc "" -Dwerror=true
	count_one "gcc builds without a warning" $?
	[ -f "$build_dir/build.ninja" ] || return
	if [ "$level" = deep ] && [ ${#suites[@]} -eq 0 ]; then
		run_campaigns
		return
	fi
	run_suites "$build_dir" "$(all_wanted unit model crash fault image stress mount fuzz bench)" --timeout-multiplier 2
}

# Several suites one after the other; their counts go to the file named first.
run_lane() {
	local counts=$1 suite
	shift
	total_passed=0 total_failed=0 total_skipped=0
	for suite in "$@"; do
		run_suites "$build_dir" "$suite"
	done
	echo "$total_passed $total_failed $total_skipped" >"$counts"
}

# The campaigns in full. Some are bounded by time and some by work: side by side they take the least time together.
run_campaigns() {
	local folder lane p f s pids=()
	folder=$(mktemp -d)
	fuzzers_start
	run_lane "$folder/1.counts" unit crash >"$folder/1.out" &
	pids+=($!)
	run_lane "$folder/2.counts" stress model >"$folder/2.out" &
	pids+=($!)
	run_lane "$folder/3.counts" fault image fuzz >"$folder/3.out" &
	pids+=($!)
	wait "${pids[@]}"
	for lane in 1 2 3; do
		cat "$folder/$lane.out"
		read -r p f s <"$folder/$lane.counts" || { count_one "campaigns end" 1; continue; }
		total_passed=$((total_passed + p)) total_failed=$((total_failed + f)) total_skipped=$((total_skipped + s))
	done
	rm -rf "$folder"
}

# Coverage-guided fuzzing: a build of its own, by tests/fuzz/campaign.sh, in the background until stage_fuzzers.
fuzzers_start() {
	local major
	major=$(clang -dumpversion | cut -d. -f1)
	packages=("libclang-rt-$major-dev")
	[ "$install" = no ] || install_packages
	"$source_dir/tests/fuzz/campaign.sh" --build "$build_dir-fuzz" --seconds 600 >"$build_dir-fuzz.log" 2>&1 &
	fuzzers_pid=$!
}

stage_fuzzers() {
	local result
	say "coverage-guided fuzzers"
	[ -n "$fuzzers_pid" ] || fuzzers_start
	wait "$fuzzers_pid"
	result=$?
	fuzzers_pid=
	sed -n 's/^# campaign //p' "$build_dir-fuzz.log" >>"$campaigns"
	[ $result -eq 0 ] || tail -20 "$build_dir-fuzz.log"
	count_one "fuzzers find nothing" $result
}

stage_clang() {
	say "clang"
	build_in "$build_dir-clang" clang "" -Dwerror=true -Doptimization=1 -Ddebug=false
	count_one "clang builds without a warning" $?
}

# The level that the sanitizers' manuals advise, and no more than the lines of a stack: these builds take a third less time.
sanitized=(-Doptimization=1 -Dc_args=-g1)

# A quarantine of 32 MiB holds what thousands of requests freed; the default of 256 costs page faults.
stage_sanitize() {
	say "ASan and UBSan"
	build_in "$build_dir-asan" gcc "" "${sanitized[@]}" -Db_sanitize=address,undefined -Db_lundef=false
	count_one "ASan and UBSan build" $?
	export ASAN_OPTIONS=abort_on_error=0:detect_leaks=1:detect_stack_use_after_return=0:quarantine_size_mb=32
	export UBSAN_OPTIONS=halt_on_error=1:print_stacktrace=1
	run_suites "$build_dir-asan" "$(all_wanted unit model crash fault image fuzz)" --timeout-multiplier 4
	unset ASAN_OPTIONS UBSAN_OPTIONS
}

stage_tsan() {
	say "TSan"
	build_in "$build_dir-tsan" gcc concurrent "${sanitized[@]}" -Db_sanitize=thread -Db_lundef=false
	count_one "TSan build" $?
	TSAN_OPTIONS="halt_on_error=0 exitcode=66 second_deadlock_stack=1" \
		run_suites "$build_dir-tsan" concurrent --timeout-multiplier 6
}

# ---- Another kernel ----

stage_debian_kernel() {
	local line
	say "Debian 12's own kernel"
	packages=(qemu-system-x86 debootstrap)
	[ "$install" = no ] || install_packages
	build_in "$build_dir" gcc ""
	count_one "gcc builds" $?
	while read -r line; do
		case $line in
		*"# SKIP"*) total_skipped=$((total_skipped + 1)) ;;
		"ok "*) count_one "${line#* - }" 0; continue ;;
		"not ok "* | "Bail out!"*) count_one "${line#* - }" 1; continue ;;
		1..*) continue ;;
		esac
		printf '%s\n' "$line"
	done < <(ASHLAR_BUILD=$build_dir "$source_dir/tests/mount/debian_kernel.sh")
}

# ---- Checks of the sources ----

sources() { (cd "$source_dir" && find include blockdrv fs mkfs fsck tests examples -name '*.[ch]' | sort); }

check_format() {
	(cd "$source_dir" && sources | xargs clang-format --dry-run --Werror) >"$build_dir-format.log" 2>&1 && return 0
	grep -o '^[^:]*\.[ch]' "$build_dir-format.log" | sort | uniq -c
	return 1
}

check_cppcheck() {
	(cd "$source_dir" && cppcheck --quiet --std=c11 --enable=warning,portability --inline-suppr --error-exitcode=1 \
		--suppress=missingIncludeSystem --suppress=normalCheckLevelMaxBranches -D_GNU_SOURCE -D__linux__ -D__x86_64__ \
		-DHAVE_LIBURING=1 -DASHLAR_VERSION='"0"' -I include -I . -j 2 blockdrv fs mkfs fsck examples 2>&1)
}

check_man() {
	local page output result=0
	for page in "$source_dir"/docs/man/*.[1-8]; do
		output=$(MANROFFSEQ='' MANWIDTH=80 LC_ALL=C.UTF-8 man --warnings -E UTF-8 -l -Tutf8 -Z "$page" 2>&1 >/dev/null)
		[ -z "$output" ] || { printf '%s\n' "$output"; result=1; }
	done
	return $result
}

check_shell() {
	local file result=0
	while read -r file; do
		bash -n "$file" || result=1
	done < <(cd "$source_dir" && grep -lE '^#!/bin/(ba)?sh' -r tests examples .ci | sed "s|^|$source_dir/|")
	return $result
}

check_licence() {
	local file result=0
	while read -r file; do
		head -1 "$source_dir/$file" | grep -q 'SPDX-License-Identifier: LGPL-2.1-or-later' && continue
		echo "$file: no licence line"
		result=1
	done < <(sources)
	return $result
}

stage_lint() {
	local check
	say "checks of the sources"
	for check in licence format cppcheck man shell; do
		check_$check
		count_one "check: $check" $?
	done
}

# ---- Main ----

while [ $# -gt 0 ]; do
	case $1 in
	--no-install) install=no ;;
	--quick) level=quick ;;
	--long) level=long ;;
	--deep) level=deep ;;
	--suite)
		[ $# -gt 1 ] || { usage >&2; exit 2; }
		suites+=("$2")
		shift
		;;
	--gcc | --clang | --sanitize | --tsan | --lint) stages+=("${1#--}") ;;
	--ci) stages=(gcc clang sanitize tsan lint) ;;
	--debian-kernel) stages+=(debian_kernel) ;;
	--build)
		[ $# -gt 1 ] || { usage >&2; exit 2; }
		build_dir=$(realpath -m "$2")
		shift
		;;
	-h | --help) usage; exit 0 ;;
	*) usage >&2; exit 2 ;;
	esac
	shift
done

if [ ${#stages[@]} -eq 0 ]; then
	stages=(gcc)
	[ "$level" = deep ] && [ ${#suites[@]} -eq 0 ] && stages+=(fuzzers)
fi
export ASHLAR_TEST_LEVEL=$level
campaigns=$(mktemp)
[ "$level" = deep ] && timeouts=(--timeout-multiplier 0)
[ "$install" = no ] || install_packages
[ $? -eq 0 ] || count_one "packages can be installed" 1
for stage in "${stages[@]}"; do
	began=$SECONDS
	"stage_$stage"
	printf -- '-- %s took %ds\n' "$stage" $((SECONDS - began))
done
printf '\n'
finish
