#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# Instructions per operation of the core, by callgrind: exact and repeatable where seconds are not.
# usage: instructions.sh [ROW ...] [-- FILES]      (the top functions of each row with PROFILE=1)
set -u
build=${ASHLAR_BUILD:-$PWD/build}
bench=$build/tests/bench/bench_core
files=5000
rows=()
while [ $# -gt 0 ]; do
	if [ "$1" = -- ]; then files=$2; shift 2; else rows+=("$1"); shift; fi
done
[ ${#rows[@]} -gt 0 ] || rows=(create lookup stat write overwrite read append_fsync readdir rename unlink)
command -v valgrind >/dev/null || { echo "1..0 # SKIP no valgrind"; exit 0; }
[ -x "$bench" ] || { echo "1..0 # SKIP not built: $bench"; exit 0; }
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
printf '# %-14s %12s %14s\n' row operations instructions
for row in "${rows[@]}"; do
	valgrind --tool=callgrind --callgrind-out-file="$work/out" --collect-atstart=no --toggle-collect="row_$row" \
		"$bench" --files "$files" --rounds 1 --size 512M --row "$row" >"$work/text" 2>"$work/log" ||
		{ cat "$work/log" >&2; exit 1; }
	total=$(sed -n 's/^summary: \([0-9]*\).*/\1/p; s/^totals: \([0-9]*\).*/\1/p' "$work/out" | tail -1)
	count=$files
	[ "$row" = append_fsync ] && count=$((files / 10))
	printf '# %-14s %12d %14d\n' "$row" "$count" $((total / count))
	[ -n "${PROFILE:-}" ] && callgrind_annotate "$work/out" | sed -n '/^Ir/,$p' | grep -v '^-' | head -25
done
exit 0
