#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# Mounting itself: how a mount looks, the background, signals, umount(8) and the device, mount(8), images, refusals.
. "$(dirname "$0")/lib.sh"
start
INSTALLED=
# Interrupted: the link of a script that is gone would be in the way of every later one.
take_away() {
	local status=$?
	[ -z "$INSTALLED" ] || rm -f "$INSTALLED"
	(exit "$status")
	cleanup
}
trap take_away EXIT
volume 128M -L basic-$$

in_mounts() { grep -q "^$1 $MNT $2 " /proc/mounts || { grep "$MNT" /proc/mounts; return 1; }; }
quiet() { [ ! -s "$1" ] || { sed 's/^/# /' "$1"; return 1; }; }
# refused NAME TEXT COMMAND...: it fails with exactly one line for people, which has this text, and no mount is left.
refused() {
	local name=$1 text=$2 rc
	shift 2
	"$@" >"$WORK/out" 2>&1
	rc=$?
	if [ "$rc" != 0 ] && [ "$(wc -l <"$WORK/out")" = 1 ] && grep -qF -- "$text" "$WORK/out" && ! mountpoint -q "$WORK/other"; then
		ok "refused: $name ($(cat "$WORK/out"))"
	else
		note "status $rc, expected: $text"
		sed 's/^/# /' "$WORK/out"
		not_ok "refused: $name"
		umount "$WORK/other" 2>/dev/null
	fi
}
mkdir "$WORK/other"

# ---- background ----
(flock -n 8 && "$ASHLARFS" "$LOOP" "$MNT" 9>"$WORK/inherited") 8>"$WORK/lock" >"$WORK/out" 2>&1
check "exit status 0 when the mount is up" same $? 0
check "nothing printed" quiet "$WORK/out"
check "mounted when the command returns" mountpoint -q "$MNT"
check "shown as fuseblk.ashlar with its device" in_mounts "$LOOP" fuseblk.ashlar
PID=$(pgrep -f "^$ASHLARFS $LOOP $MNT")
check "a lock of the caller's is not kept" flock -n "$WORK/lock" true
check "nothing of the caller's is open" eval '! ls -l "/proc/$PID/fd" | grep -q "$WORK/"'
check "umask 0" grep -q "^Umask:	0000" "/proc/$PID/status"
check "working directory is /" same "$(readlink "/proc/$PID/cwd")" /
check "root's mount is not nosuid, not nodev" eval '! grep " $MNT " /proc/mounts | grep -qE "nosuid|nodev"'
# near VALUE WANTED: no more than a quarter away.
near() { [ $(($1 * 4)) -ge $(($2 * 3)) ] && [ $(($1 * 4)) -le $(($2 * 5)) ]; }
# dirty_limit: strict? and what part of the kernel's limit, in percent; FUSE begins with 1 1.
dirty_limit() { (cd "/sys/class/bdi/$(mountpoint -d "$MNT")-fuseblk" && echo "$(cat strict_limit) $(cat max_ratio)"); }
if kernel_since 6.14; then
	bytes=$(cat "/sys/class/bdi/$(mountpoint -d "$MNT")-fuseblk/max_bytes")
	# The kernel keeps it as a part of the memory that is free, and tells what that comes to now.
	check "a small volume has a dirty limit of its own, of 64 MiB ($bytes)" near "$bytes" $((64 << 20))
	check "which is strict" same "$(dirty_limit | cut -d' ' -f1)" 1
fi
echo data >"$MNT/file"
umount "$MNT"
check "umount succeeds" same $? 0
check "the device is free when umount returns" device_free
check "the daemon is gone soon" eval 'for i in $(seq 40); do kill -0 $PID 2>/dev/null || break; sleep 0.05; done; ! kill -0 $PID 2>/dev/null'
attach
check "content is there after umount" same "$(cat "$MNT/file")" data

# ---- refusals (acceptance 9) ----
refused "second mount of the device" "is mounted on $MNT" "$ASHLARFS" "$LOOP" "$WORK/other"
refused "second mount through the image" "is mounted on $MNT (as $LOOP)" "$ASHLARFS" "$IMAGE" "$WORK/other"
began=${EPOCHREALTIME/./}
refused "mkfs of a mounted device" "is mounted on $MNT: unmount it first" "$MKFS" -q "$LOOP"
refused "mkfs -f of a mounted device" "is mounted on $MNT: unmount it first" "$MKFS" -q -f "$LOOP"
refused "fsck -y of a mounted device" "is mounted on $MNT: unmount it first" "$FSCK" -y "$LOOP"
refused "a label for a mounted device" "is mounted on $MNT: unmount it first" "$ASHLARCTL" label "$LOOP" other
check "at once: nobody waits for the end of a mount" [ $((${EPOCHREALTIME/./} - began)) -lt 2900000 ]
detach
# The name of a mount point is its maker's: no orders to the terminal of whoever reads it.
evil="$WORK/$(printf 'm\033]0;X\007\302\233')"
harmless() { ! LC_ALL=C grep -q "$(printf '\033]\|\302\233\|\007')" "$1" && grep -qaF "$2" "$1"; }
refused "mount point with control characters" "does not exist" "$ASHLARFS" "$LOOP" "$evil"
check "which become question marks" harmless "$WORK/out" '/m?]0;X?? does not exist'
mkdir "$evil"
"$ASHLARFS" "$LOOP" "$evil"
script -qec "'$ASHLARCTL' info '$LOOP'" /dev/null >"$WORK/out" </dev/null
check "on a terminal, too" harmless "$WORK/out" '/m?]0;X??'
script -qec "'$ASHLARCTL' trim '$LOOP'" /dev/null >"$WORK/out" </dev/null
check "wherever it is told" harmless "$WORK/out" '/m?]0;X??'
check "where there is none it is as it is" eval '"$ASHLARCTL" info "$LOOP" | grep -qF "$evil"'
umount "$evil"
rmdir "$evil"
: >"$WORK/empty"
echo "a text file" >"$WORK/text"
head -c 100000 /dev/urandom >"$WORK/noise"
head -c 20000000 "$IMAGE" >"$WORK/truncated"
"$MKFS" -q "$WORK/other.img" 2>/dev/null
refused "empty file" "is an empty file" "$ASHLARFS" "$WORK/empty" "$WORK/other"
refused "folder" "is a folder, not a device or image" "$ASHLARFS" "$WORK" "$WORK/other"
refused "text file" "is too small (12 bytes) to hold an Ashlar volume" "$ASHLARFS" "$WORK/text" "$WORK/other"
refused "noise" "not an Ashlar volume" "$ASHLARFS" "$WORK/noise" "$WORK/other"
refused "truncated image" "the volume has 32768 blocks, the device only 4882" "$ASHLARFS" "$WORK/truncated" "$WORK/other"
refused "/dev/null" "is neither a block device nor an image file" "$ASHLARFS" /dev/null "$WORK/other"
refused "nothing there" "nothing: no such device or image" "$ASHLARFS" "$WORK/nothing" "$WORK/other"
refused "no such label" "no Ashlar volume has this label or UUID" "$ASHLARFS" LABEL=none-$$ "$WORK/other"
refused "mount point missing" "nowhere does not exist" "$ASHLARFS" "$LOOP" "$WORK/nowhere"
refused "mount point is a file" "text is not a folder" "$ASHLARFS" "$LOOP" "$WORK/text"
refused "unknown option" "unknown option 'typo'" "$ASHLARFS" "$LOOP" "$WORK/other" -o typo
refused "bad value" "option cache=many: a size in MiB" "$ASHLARFS" "$LOOP" "$WORK/other" -o cache=many
refused "more memory than there is" "cannot allocate memory (cache= and write_behind=" bash -c 'ulimit -v 4000000; exec "$@"' - "$ASHLARFS" "$LOOP" "$WORK/other" -o write_behind=65536
refused "no device" "a device and a mount point are needed" "$ASHLARFS"
for f in empty text noise truncated; do sha256sum "$WORK/$f"; done >"$WORK/sums"
check "nothing was written to what was refused" sha256sum -c --quiet "$WORK/sums"
python3 - "$IMAGE" "$WORK/incompat" <<'PY'
import sys
# An unknown incompat bit, with the checksum made right: CRC32C of block 0 with the crc field as zero.
d = bytearray(open(sys.argv[1], 'rb').read())
table = []
for i in range(256):
    c = i
    for _ in range(8):
        c = (c >> 1) ^ (0x82f63b78 if c & 1 else 0)
    table.append(c)
def crc32c(data):
    c = 0xffffffff
    for b in data:
        c = table[(c ^ b) & 255] ^ (c >> 8)
    return c ^ 0xffffffff
def raw(data):
    c = 0
    for b in data:
        c = table[(c ^ b) & 255] ^ (c >> 8)
    return c
b = d[0:4096]
old = int.from_bytes(b[4:8], 'little')
z = bytearray(b); z[4:8] = bytes(4)
crc = crc32c if crc32c(z) == old else raw
known = crc(z) == old
incompat = 40 + 8 + 4 + 4 + 16 + 64 + 8 + 8
z[incompat + 7] |= 0x40
z[4:8] = crc(z).to_bytes(4, 'little')
d[0:4096] = z
open(sys.argv[2], 'wb').write(d)
sys.exit(not known)
PY
check "the checksum of a superblock can be made here" same $? 0
refused "unknown incompat bit" "features that this version does not know (incompat 0x4000000000000000)" "$ASHLARFS" "$WORK/incompat" "$WORK/other"

# ---- names, options ----
attach "" "LABEL=basic-$$"
check "LABEL= finds the device" in_mounts "$LOOP" fuseblk.ashlar
detach
attach "ro,noatime,nosuid,nodev,noexec,nofail,_netdev,x-systemd.automount,commit=7,cache=16,write_behind=8,threads=4,errors=continue"
check "ro, noatime, nosuid are the kernel's" eval 'grep " $MNT " /proc/mounts | grep -q "ro,nosuid,nodev,noexec,noatime"'
check_fails "read-only: no new file" touch "$MNT/new"
detach
attach "driver=sync,sync,discard,strictatime"
check "driver=sync works" eval 'echo x >"$MNT/sync" && [ "$(cat "$MNT/sync")" = x ]'
detach

# ---- signals ----
for signal in TERM INT HUP; do
	attach
	echo "$signal" >"$MNT/signal"
	kill -$signal "$DAEMON"
	wait "$DAEMON"
	check "SIG$signal: exit status 0" same $? 0
	DAEMON=
	check_fails "SIG$signal: unmounted" mountpoint -q "$MNT"
	attach
	check "SIG$signal: everything is there" same "$(cat "$MNT/signal")" "$signal"
	detach
done

# ---- image by root, mount(8) ----
losetup -d "$LOOP"
"$ASHLARFS" "$IMAGE" "$MNT"
check "image by root: a loop device, fuseblk" eval 'grep " $MNT " /proc/mounts | grep -q "^/dev/loop.* fuseblk.ashlar"'
check "image by root: content" same "$(cat "$MNT/file")" data
umount "$MNT"
check "image by root: the loop device is gone" eval 'for i in $(seq 40); do losetup -j "$IMAGE" | grep -q . || break; sleep 0.05; done; ! losetup -j "$IMAGE" | grep -q .'
HELPER=$(program mount.ashlar) || exit 1
if [ -e /sbin/mount.ashlar ] && [ "$(readlink -f /sbin/mount.ashlar)" != "$(readlink -f "$HELPER")" ]; then
	skipped "mount -t ashlar" "another mount.ashlar is installed"
else
	# The helper looks for ashlarfs beside itself: a copy of both is enough.
	mkdir "$WORK/bin"
	cp "$HELPER" "$ASHLARFS" "$WORK/bin/"
	[ -e /sbin/mount.ashlar ] || { ln -s "$WORK/bin/mount.ashlar" /sbin/mount.ashlar && INSTALLED=/sbin/mount.ashlar; }
	LOOP=$(loop_attach "$IMAGE")
	check "mount -t ashlar" mount -t ashlar "$LOOP" "$MNT" -o noatime,nofail,x-test=1
	check "mount -t ashlar: mounted" in_mounts "$LOOP" fuseblk.ashlar
	check "mount -o remount,ro" mount -o remount,ro "$MNT"
	check_fails "remounted read-only" touch "$MNT/new"
	umount "$MNT"
	echo "$LOOP $MNT ashlar noauto,nosuid,nofail 0 2" >"$WORK/fstab"
	check "mount by fstab" mount -T "$WORK/fstab" "$MNT"
	umount "$MNT"
	[ -z "$INSTALLED" ] || rm "$INSTALLED"
	INSTALLED=
fi
[ -n "${LOOP:-}" ] && losetup -d "$LOOP"
LOOP=$(loop_attach "$IMAGE")

# ---- mount.ashlar itself ----
# helper STATUS NAME ARGUMENT...: exit status, and one line for people unless it is 0.
helper() {
	local status=$1 name=$2 rc
	shift 2
	"$WORK/bin/mount.ashlar" "$@" >"$WORK/out" 2>&1
	rc=$?
	if [ "$rc" = "$status" ] && { [ "$rc" = 0 ] || [ "$(wc -l <"$WORK/out")" = 1 ]; }; then
		ok "mount.ashlar: $name: status $status"
	else
		note "status $rc: $(cat "$WORK/out")"
		not_ok "mount.ashlar: $name: status $status"
	fi
}
said() { grep -qF -- "$1" "$WORK/out" || { note "$(cat "$WORK/out")"; return 1; }; }
mkdir -p "$WORK/bin"
cp "$HELPER" "$ASHLARFS" "$WORK/bin/"
helper 0 "--help" --help
check "names ashlarfs(1)" said "ashlarfs(1)"
helper 0 "--version" --version
helper 1 "no device"
helper 1 "an unknown option" "$LOOP" "$MNT" -x
helper 1 "an unknown option before others" -zv "$LOOP" "$MNT"
check "names it" said "'-z'"
helper 1 "an unknown long option" --colour "$LOOP" "$MNT"
check "names it" said "'--colour'"
"$ASHLARFS" -zf "$LOOP" "$MNT" >"$WORK/out" 2>&1
check "ashlarfs names it, too" said "'-z'"
"$ASHLARFS" --colour "$LOOP" "$MNT" >"$WORK/out" 2>&1
check "and a long one" said "'--colour'"
helper 1 "an unknown mount option" "$LOOP" "$MNT" -o typo
helper 1 "-o without argument" "$LOOP" "$MNT" -o
check "says so" said "needs an argument"
helper 1 "a driver that does not exist" "$LOOP" "$MNT" -o driver=foo
check "names it" said "no such driver: foo"
helper 1 "memory as the driver" "$LOOP" "$MNT" -o driver=mem
check "is none either" said "no such driver: mem"
helper 32 "a device that does not exist" "$WORK/missing" "$MNT" -o noatime
helper 0 "one that does not exist, with nofail" "$WORK/missing" "$MNT" -o noatime,nofail
check "says nothing" test ! -s "$WORK/out"
helper 0 "a label that does not exist, with nofail" "LABEL=missing $$" "$MNT" -o nofail
helper 32 "a folder that does not exist, with nofail" "$LOOP" "$WORK/missing" -o nofail
helper 32 "what is no volume, with nofail" /dev/null "$MNT" -o nofail
helper 1 "a cache that is too large" "$LOOP" "$MNT" -o cache=1048577
check "names the maximum" said "1048576"
helper 1 "no write-behind at all" "$LOOP" "$MNT" -o write_behind=0
check "names the minimum" said "from 1"
helper 32 "a device that does not exist" "$WORK/nothing" "$MNT"
helper 32 "a text file" "$WORK/text" "$MNT"
helper 32 "-f with a text file" -f "$WORK/text" "$MNT"
helper 32 "-f without a folder" -f "$LOOP" "$WORK/nowhere"
helper 1 "-f with an unknown mount option" -f "$LOOP" "$MNT" -o typo
helper 0 "-f with a good device" -f "$LOOP" "$MNT" -o noatime
check_fails "-f does not mount" mountpoint -q "$MNT"
helper 0 "-r" -r "$LOOP" "$MNT"
check_fails "-r is read-only" touch "$MNT/new"
helper 1 "remount with an unknown option" "$LOOP" "$MNT" -o remount,typo
helper 32 "remount,rw of a volume that was opened read-only" "$LOOP" "$MNT" -o remount,rw
check "says why" said "was opened read-only"
check "is still mounted read-only" eval 'grep " $MNT " /proc/mounts | grep -q " ro,"'
# mount(8) takes the type from the kernel, finds a helper of that name, and gives it the kernel's options.
helper 32 "the same as mount(8) asks for it" "$LOOP" "$MNT" -t fuseblk.ashlar \
	-o rw,relatime,user_id=0,group_id=0,default_permissions,allow_other,blksize=4096,max_read=131072,rootmode=40000,remount
check "says why" said "was opened read-only"
helper 1 "these options without remount" "$LOOP" "$MNT" -o user_id=0
mkdir -p "$WORK/sbin"
for type in fuseblk fuse; do
	ln -s mount.ashlar "$WORK/bin/mount.$type.ashlar"
	ln -s "$WORK/bin/mount.ashlar" "$WORK/sbin/mount.$type.ashlar"
done
# with_helpers COMMAND...: where they are found, in a mount namespace.
with_helpers() {
	unshare -m --propagation private bash -c 'mount -t overlay none -o "lowerdir=$0:/sbin" "$(readlink -f /sbin)" && exec "$@"' \
		"$WORK/sbin" "$@" >"$WORK/out" 2>&1
}
if with_helpers test -e /sbin/mount.fuseblk.ashlar; then
	check_fails "mount -o remount,rw of it" with_helpers mount -o remount,rw "$MNT"
	check "says why, too" said "was opened read-only"
	check "is read-only as /proc/mounts says" eval 'grep " $MNT " /proc/mounts | grep -q " ro,"'
	check "mount -o remount,nosuid" with_helpers sh -c 'mount -o remount,nosuid "$0" && grep " $0 " /proc/mounts' "$MNT"
	check "is nosuid" said "ro,nosuid"
else
	skipped "mount -o remount of what mount(8) finds" "no helper can be put into /sbin: $(head -1 "$WORK/out")"
fi
umount "$MNT"
sleep 0.5
"$MKFS" -q "$WORK/image.ro" 16M
helper 0 "-r of an image" -r "$WORK/image.ro" "$MNT"
helper 32 "remount,rw of it, whose loop device is read-only, too" "$WORK/image.ro" "$MNT" -o remount,rw
check "says why" said "was opened read-only"
umount "$MNT"
sleep 0.5
helper 0 "two -o" "$LOOP" "$MNT" -o ro -o noatime
check "both count" eval 'grep " $MNT " /proc/mounts | grep -q " ro,.*noatime"'
umount "$MNT"
sleep 0.5
helper 0 "no option" "$LOOP" "$MNT"
helper 0 "remount,ro" "$LOOP" "$MNT" -o remount,ro
mkdir -p "$WORK/other"
mount -t tmpfs none "$WORK/other"
helper 32 "remount,ro of another file system" nonsense "$WORK/other" -o remount,ro
check "says why" said "not a mounted Ashlar volume"
check "leaves it alone" touch "$WORK/other/file"
umount "$WORK/other"
check_fails "remount,ro is read-only" touch "$MNT/new"
helper 0 "remount,rw" "$LOOP" "$MNT" -o remount,rw
check "remount,rw is writable" touch "$MNT/new"
umount "$MNT"
sleep 0.5
env --ignore-signal=CHLD "$WORK/bin/mount.ashlar" "$LOOP" "$MNT" 2>"$WORK/out"
check "mount.ashlar with SIGCHLD ignored" same "$?" 0
check "has mounted" mountpoint -q "$MNT"
umount "$MNT"
sleep 0.5
fsck_clean "fsck after all this"

# ---- read-only after a crash: the log is replayed where it may be, and looked through where not ----
unclean() { grep -q "not closed in order" <("$ASHLARCTL" info "$LOOP"); }
left_behind() {
	attach
	echo "$1" >"$MNT/left"
	sync "$MNT/left" "$MNT" # fsync(2): syncfs(2) does not reach us before Linux 6.18
	crash
	check "a crash leaves a log" unclean
}
left_behind one
blockdev --setro "$LOOP"
before=$(md5sum <"$IMAGE")
attach ro
check "ro of a write-protected device: what was synced is there" same "$(cat "$MNT/left")" one
detach
check "nothing was written" same "$(md5sum <"$IMAGE")" "$before"
blockdev --setrw "$LOOP"
check "the log is still there" unclean
attach ro
check "ro of a device: what was synced is there" same "$(cat "$MNT/left")" one
check_fails "it is read-only" touch "$MNT/new"
detach
check_fails "the log was replayed" unclean
before=$(md5sum <"$IMAGE")
attach ro
detach
check "a read-only mount with nothing to replay writes nothing" same "$(md5sum <"$IMAGE")" "$before"
left_behind two
losetup -d "$LOOP"
"$ASHLARFS" "$IMAGE" "$MNT" -o ro
check "ro of an image: what was synced is there" same "$(cat "$MNT/left")" two
umount "$MNT"
for _ in $(seq 40); do pgrep -f "^$ASHLARFS $IMAGE " >/dev/null || break; sleep 0.05; done
check_fails "the log was replayed, too" grep -q "not closed in order" <("$ASHLARCTL" info "$IMAGE")
LOOP=$(loop_attach "$IMAGE")
fsck_clean "fsck after read-only mounts"
losetup -d "$LOOP"
rm "$IMAGE"
volume 1T # a sixteenth of it is more than the kernel's own limit
attach
check "a large volume has the kernel's dirty limit" same "$(dirty_limit)" "0 100"
detach
finish
