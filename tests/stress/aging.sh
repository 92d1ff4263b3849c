#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# Endurance: a volume is filled to 90 %, and files of mixed sizes are created, changed, renamed, removed and synced, while
# the daemon is killed again and again. After each kill: fsck -n before the log is replayed, a new mount, and everything is
# compared with a journal kept outside (aging.h). Every fourth time the volume is unmounted instead. Fragmentation
# and free space are printed before and after.
#
#	aging.sh [--seconds N] [--seed N] [--size SIZE]
. "$(dirname "$0")/../mount/lib.sh"
case ${ASHLAR_TEST_LEVEL:-normal} in
quick) seconds=10 size=96M longest=3 ;;
long | deep) seconds=1800 size=1G longest=20 ;;
*) seconds=60 size=384M longest=6 ;;
esac
seed=1
while [ $# -gt 1 ]; do
	case $1 in
	--seconds) seconds=$2 ;;
	--seed) seed=$2 ;;
	--size) size=$2 ;;
	esac
	shift 2
done
start
AGING=$(program stress_aging) || exit 1
JOURNAL=$WORK/journal
RANDOM=$seed
began=$SECONDS cycles=0 kills=0

volume "$size"
attach commit=1
check "filled to 90 %" "$AGING" fill "$MNT" "$JOURNAL"
check "unmounted" detach
check "figures before" "$AGING" figures "$LOOP" before
attach commit=1
end=$((SECONDS + seconds))
while [ "$SECONDS" -lt "$end" ] && [ "$FAILED" = 0 ]; do
	cycles=$((cycles + 1))
	pause=$((RANDOM % longest)).$((RANDOM % 10))$((RANDOM % 10))
	if [ $((cycles % 4)) = 0 ]; then
		check "cycle $cycles: work for $pause s" "$AGING" churn "$MNT" "$JOURNAL" "$((seed * 10000 + cycles))" "$pause"
		check "cycle $cycles: unmounted" detach
	else
		"$AGING" churn "$MNT" "$JOURNAL" "$((seed * 10000 + cycles))" 600 >"$WORK/churn" 2>&1 &
		worker=$!
		sleep "$pause"
		touch "$JOURNAL.killed"
		kill -9 "$DAEMON"
		wait "$DAEMON" 2>/dev/null
		DAEMON=
		status=0
		wait "$worker" || status=$?
		cat "$WORK/churn"
		check "cycle $cycles: work for $pause s, then killed" [ "$status" = 0 ]
		umount -l "$MNT"
		check "cycle $cycles: the device is free" device_comes_free
		kills=$((kills + 1))
	fi
	fsck_clean "cycle $cycles: fsck finds nothing"
	attach commit=1
	rm -f "$JOURNAL.killed"
	check "cycle $cycles: everything synced is there, nothing foreign" "$AGING" verify "$MNT" "$JOURNAL"
done
check "unmounted at the end" detach
fsck_clean "fsck at the end"
check "figures after" "$AGING" figures "$LOOP" after
read -r operations syncs files bytes violations <<<"$("$AGING" total "$JOURNAL")"
[ "$violations" -ge "$FAILED" ] || violations=$FAILED
[ "$FAILED" = 0 ] || note "again: aging.sh --seed $seed --seconds $seconds --size $size"
note "$kills times killed; $syncs syncs; $files files with $((bytes >> 20)) MiB compared"
note "campaign aging: cases $operations, distinct $cycles cycles, violations $violations, skipped 0, seconds $((SECONDS - began))"
finish
