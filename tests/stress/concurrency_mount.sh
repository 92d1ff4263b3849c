#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# The concurrency test on real mounts: each seed has a volume of its own, small, with the smallest log and cache; every
# third one is nearly full. Afterwards: a clean unmount, fsck -n, and a second run on what the first one left, which
# looks at every published file again and removes everything.
#
#	concurrency_mount.sh [--seeds FIRST-LAST] [--seed N] [--seconds N]
. "$(dirname "$0")/../mount/lib.sh"
case ${ASHLAR_TEST_LEVEL:-normal} in
quick) first=1 last=2 seconds=2 ;;
long | deep) first=1 last=30 seconds=12 ;;
*) first=1 last=8 seconds=4 ;;
esac
while [ $# -gt 1 ]; do
	case $1 in
	--seeds | --seed) first=${2%-*} last=${2#*-} ;;
	--seconds) seconds=$2 ;;
	esac
	shift 2
done
start
CONCURRENCY=$(program stress_concurrency) || exit 1
began=$SECONDS operations=0 rounds=0 violations=0 skipped=0

# One run of the program on the mount; its figures are added up.
run() {
	local status=0 figures
	timeout 900 "$CONCURRENCY" --mount "$MNT" "$@" >"$WORK/out" 2>&1 || status=$?
	grep -v '^figures' "$WORK/out" | sed '/^#/!s/^/# /' | head -200
	figures=$(grep '^figures' "$WORK/out")
	read -r _ o r v _ <<<"${figures:-figures 0 0 1 0}"
	operations=$((operations + o)) rounds=$((rounds + r)) violations=$((violations + v))
	[ "$status" = 0 ] || note "again: concurrency_mount.sh --seed $seed --seconds $seconds"
	return "$status"
}

for seed in $(seq "$first" "$last"); do
	options=cache=1,commit=1
	[ $((seed % 2)) = 0 ] && options=$options,discard
	[ $((seed % 5)) = 3 ] && options=$options,threads=2
	[ $((seed % 7)) = 5 ] && options=$options,driver=sync
	full=
	[ $((seed % 3)) = 1 ] && full=--full
	volume "$([ -n "$full" ] && echo 24M || echo 48M)" -l 1M
	attach "$options"
	check "seed $seed${full:+, full}: $options" run --seed "$seed" --seconds "$seconds" $full
	check "seed $seed: unmounted" detach
	fsck_clean "seed $seed: fsck finds nothing"
	attach "$options"
	check "seed $seed: what was left, and again" run --seed "$((seed + 1000))" --seconds 1 $full
	check "seed $seed: unmounted again" detach
	fsck_clean "seed $seed: fsck finds nothing again"
	losetup -d "$LOOP"
	rm -f "$IMAGE"
done
violations=$((violations > FAILED ? violations : FAILED))
note "campaign concurrency_mount: cases $operations, distinct $rounds states, violations $violations, skipped $skipped, seconds $((SECONDS - began))"
finish
