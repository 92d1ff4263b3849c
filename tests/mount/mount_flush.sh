#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# Callers that wait for the device's flush, more than there are workers: nobody else waits, all are answered, and share
# flushes.
. "$(dirname "$0")/lib.sh"
start
ASHLARFS=$(program ashlarfs_slow) || exit 77
LOAD=$(program mount_flush_load) || exit 77
export ASHLAR_TEST_FLUSH_MS=20
volume 256M

# load THREADS KIND: sets RATE, LATENCY, LOOKUP and LONGEST; a caller that is not answered lets it time out.
load() {
	RATE=0 LATENCY=0 LOOKUP=999999 LONGEST=999999
	read -r RATE LATENCY LOOKUP LONGEST < <(timeout 60 "$LOAD" "$MNT" "$1" 2 "$2" || echo "0 0 999999 999999")
	note "$2 by $1 threads: $RATE a second, $LATENCY us each; a lookup $LOOKUP us, the longest $LONGEST us"
	[ "$RATE" -gt 0 ]
}
below() { [ "$1" -lt "$2" ] || { note "$1 is not below $2"; return 1; }; }

for threads in 8 3 2; do
	attach "threads=$threads"
	for kind in fsync mixed; do
		check "threads=$threads: $kind by 64 callers is answered" load 64 "$kind"
		check "threads=$threads: a lookup meanwhile waits for no flush" below "$LOOKUP" 5000
	done
	check "threads=$threads: unmounted in order" detach
done
attach threads=1
check "threads=1: 16 callers are answered" load 16 mixed
check "threads=1: unmounted in order" detach

attach
check "one caller" load 1 fsync
ONE=$RATE
check "64 callers" load 64 fsync
# Eight at a time made at most four times as many.
check "64 callers share flushes: eight times as many as one caller makes" below $((ONE * 8)) "$RATE"
check "400 callers" load 400 fsync
check "a lookup waits for no flush" below "$LOOKUP" 5000

# The end of the connection finds callers waiting; they and the daemon come to an end.
"$LOAD" "$MNT" 64 60 mixed >/dev/null 2>&1 &
CALLER=$!
sleep 1
abort_connection "$(mountpoint -d "$MNT")"
ended() {
	for _ in $(seq 200); do
		kill -0 "$1" 2>/dev/null || return 0
		sleep 0.05
	done
	return 1
}
check "the connection is cut: the callers are answered" ended "$CALLER"
check "the connection is cut: the daemon ends" ended "$DAEMON"
wait "$CALLER" "$DAEMON" 2>/dev/null
DAEMON=
umount -l "$MNT" 2>/dev/null
check "the device is free afterwards" device_comes_free

# A signal while callers wait.
attach
"$LOAD" "$MNT" 64 2 mixed >/dev/null 2>&1 &
CALLER=$!
sleep 1
kill -TERM "$DAEMON"
check "SIGTERM: the callers are answered" wait "$CALLER"
check "SIGTERM: the daemon ends" ended "$DAEMON"
wait "$DAEMON" 2>/dev/null
DAEMON=
check "the device is free afterwards" device_comes_free
fsck_clean "fsck -n finds nothing"
finish
