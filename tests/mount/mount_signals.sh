#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# Told to go by a signal while the mount is in use, or no longer where it was.
. "$(dirname "$0")/lib.sh"
start
. "$TEST_DIR/signals.sh"

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
finish
