#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# Told to go by a signal while somebody who has written, and not synced, holds the file open.
. "$(dirname "$0")/lib.sh"
start
. "$TEST_DIR/signals.sh"

cat >"$WORK/holder.py" <<'PY'
import os, signal, sys
# What is said by SIGUSR1 is written later.
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])
fd = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT | os.O_TRUNC)
os.write(fd, b'early ' * 50000)
open(sys.argv[2], 'w').close()
while True:
    signal.sigwait([signal.SIGUSR1])
    os.write(fd, b'late ' * 50000)
PY
hold() {
	rm -f "$WORK/holds"
	python3 "$WORK/holder.py" "$1" "$WORK/holds" &
	USERS=($!)
	for _ in $(seq 200); do [ -e "$WORK/holds" ] && return; sleep 0.05; done
	note "the file could not be written"
}
# kept NAME BYTES: the user goes, and the file has what was written.
kept() {
	kill "${USERS[@]}"
	wait "${USERS[@]}" 2>/dev/null
	USERS=()
	device_comes_free || note "the device is still in use"
	attach
	NUMBER=$(mountpoint -d "$MNT")
	check "$1: what was written is there" same "$(stat -c %s "$MNT/held")" "$2"
}
attach
NUMBER=$(mountpoint -d "$MNT")
mkdir "$WORK/bind"
mount --bind "$MNT" "$WORK/bind"
hold "$WORK/bind/held"
check "SIGTERM ends the daemon of a mount that is bound elsewhere, too" gone 30
umount -l "$WORK/bind"
kept "bound elsewhere" 300000
hold "$MNT/held"
other
check "SIGTERM ends the daemon of a mount in use that is covered" gone 30
umount -l "$MNT"
umount -l "$MNT"
kept "covered" 300000
hold "$MNT/held"
umount -l "$MNT"
check "SIGTERM ends the daemon of a mount in use that was detached" gone 30
kept "detached" 300000
hold "$MNT/held"
(sleep 4; kill -USR1 "${USERS[@]}") &
check "SIGTERM ends the daemon of a mount in use" gone 30
kept "in use, written within the ten seconds" 550000
detach

# Killed while it waits for that: nothing of it may be left, or whoever asks the mount would wait for ever.
ASHLARFS=$(program ashlarfs_slow) || exit 77
export ASHLAR_TEST_FLUSH_MS=20000
attach
NUMBER=$(mountpoint -d "$MNT")
hold "$MNT/held"
slow=$DAEMON
DAEMON=
kill -TERM "$slow"
for _ in $(seq 100); do mountpoint -q "$MNT" || break; sleep 0.05; done
sleep 0.5
check "it waits" kill -0 "$slow"
kill -KILL "$slow"
ended() {
	local state
	for _ in $(seq 50); do
		state=$(cut -d' ' -f3 "/proc/$slow/task/"*/stat 2>/dev/null | xargs)
		[ -z "${state//[Z ]/}" ] && return 0
		sleep 0.1
	done
	note "its threads: $state"
	abort_connection "$NUMBER"
	return 1
}
check "SIGKILL ends it" ended
wait "$slow"
kill "${USERS[@]}"
wait "${USERS[@]}" 2>/dev/null
USERS=()
check "and the device comes free" device_comes_free
unset ASHLAR_TEST_FLUSH_MS
fsck_clean "fsck -n finds nothing after all this"
finish
