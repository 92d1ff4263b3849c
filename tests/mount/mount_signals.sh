#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# Told to go by a signal while the mount is in use, or no longer where it was.
. "$(dirname "$0")/lib.sh"
start
USERS=() NUMBER=
# Interrupted: nobody may be left who waits for pages that a daemon that was killed will not write.
let_go() {
	local status=$?
	[ ${#USERS[@]} = 0 ] || kill -9 "${USERS[@]}" 2>/dev/null
	[ -z "$DAEMON" ] || [ -z "$NUMBER" ] || abort_connection "$NUMBER" 2>/dev/null
	(exit "$status")
	cleanup
}
trap let_go EXIT
volume 256M

# gone SECONDS: SIGTERM ends the daemon within this time. Else it is made to end: SIGKILL alone may not do.
gone() {
	kill -TERM "$DAEMON"
	for _ in $(seq $(($1 * 10))); do
		kill -0 "$DAEMON" 2>/dev/null || break
		sleep 0.1
	done
	if kill -0 "$DAEMON" 2>/dev/null; then
		note "the daemon is still there: $(cat /proc/"$DAEMON"/task/*/comm /proc/"$DAEMON"/task/*/wchan | xargs)"
		abort_connection "$NUMBER"
		wait "$DAEMON"
		DAEMON=
		return 1
	fi
	wait "$DAEMON"
	DAEMON=
}

# ---- users who make the daemon wait for pages that only it can write ----
cat >"$WORK/seeker.py" <<'PY'
import os, sys
fd = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT)
while True:
    os.ftruncate(fd, 0)
    for at in range(0, 16 << 20, 65536):
        os.pwrite(fd, b'x' * 65536, at)
        os.lseek(fd, 0, os.SEEK_HOLE)
PY
attach
NUMBER=$(mountpoint -d "$MNT")
echo before >"$MNT/file"
for i in 1 2 3 4; do
	python3 "$WORK/seeker.py" "$MNT/seek$i" 2>/dev/null &
	USERS+=($!)
done
for _ in $(seq 300); do
	[ -s "$MNT/seek1" ] && [ -s "$MNT/seek2" ] && [ -s "$MNT/seek3" ] && [ -s "$MNT/seek4" ] && break
	sleep 0.1
done
check "SIGTERM ends the daemon of a mount whose users write and seek" gone 30
kill "${USERS[@]}" 2>/dev/null
wait "${USERS[@]}" 2>/dev/null
USERS=()
check "the device is free afterwards" device_comes_free
check_fails "the volume was closed in order" grep -q "not closed in order" <("$ASHLARCTL" info "$LOOP")
fsck_clean "fsck -n finds nothing"
attach
check "what was there before is there" same "$(cat "$MNT/file")" before

# ---- another filesystem at the same place ----
other() { mount -t tmpfs none "$MNT" && echo other >"$MNT/other"; }
is_other() { same "$(cat "$MNT/other")" other; }
other
check "SIGTERM ends the daemon of a mount that is covered" gone 30
check "what covers it stays" is_other
umount -l "$MNT"
mountpoint -q "$MNT" && umount "$MNT"
check "the device is free afterwards" device_comes_free
attach
sleep 1000 <"$MNT/file" &
USERS=($!)
umount -l "$MNT"
other
check "SIGTERM ends the daemon of a mount that was detached" gone 30
check "what was mounted there since stays" is_other
umount "$MNT"
kill "${USERS[@]}"
USERS=()
check "the device is free then, too" device_comes_free
check_fails "the volume was closed in order" grep -q "not closed in order" <("$ASHLARCTL" info "$LOOP")
fsck_clean "fsck -n finds nothing then, too"

# ---- who has written, not synced, and holds the file open ----
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
fsck_clean "fsck -n finds nothing after all this"
finish
