# SPDX-License-Identifier: LGPL-2.1-or-later
# What large_directory.sh and large_volume.sh share: the mounts and the verdicts of tests/mount/lib.sh, and with them
#
#	is_long			is this the full form?
#	timed NAME COMMAND...	as check, but a missed time at the quick level, where the machine may be doing other things,
#				is shown and not judged
#	now, elapsed SINCE	seconds with fractions
#	under A B		is the number A below B?
#	figure NAME		of the unmounted volume, from ashlarctl info
#	record NUMBER		the record of an inode of the unmounted volume, field by field

. "$(dirname "${BASH_SOURCE[0]}")/../mount/lib.sh"

is_long() { case ${ASHLAR_TEST_LEVEL:-} in long | deep) ;; *) false ;; esac; }
timed() {
	local name=$1
	shift
	if "$@"; then ok "$name"
	elif [ "${ASHLAR_TEST_LEVEL:-}" = quick ]; then ok "$name # SKIP times are judged at the normal and long levels"
	else not_ok "$name"; fi
}
now() { date +%s.%N; }
elapsed() { awk -v b="$1" -v e="$(now)" 'BEGIN { printf "%.2f", e - b }'; }
under() { awk -v a="$1" -v b="$2" 'BEGIN { exit !(a < b) }'; }
figure() { "$ASHLARCTL" info --json "$LOOP" | python3 -c "import json, sys; print(json.load(sys.stdin)['$1'])"; }
record() { "$ASHLARCTL" dump "$LOOP" "inode:$1"; }
