#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# An ordinary user: an image of his own, plain fuse through fusermount3.
. "$(dirname "$0")/lib.sh"
if [ "$(id -u)" = 0 ] && [ -e /dev/fuse ] && [ ! -v PRIVATE ] && [ "$(stat -c %a /dev/fuse)" != 666 ]; then
	# Some machines keep /dev/fuse for root: run with a device node of our own, in a mount namespace of our own.
	PRIVATE=1 exec unshare -m --propagation private bash -c \
		'mount -t tmpfs -o mode=755 none /media && mknod -m 666 /media/fuse c 10 229 && mount --bind /media/fuse /dev/fuse && exec "$0"' "$0"
fi
start
HELPER=$(program mount_helper)
command -v fusermount3 >/dev/null || skip "fusermount3 is not installed"
as() { "$HELPER" as 65534 "$@"; }
cp "$ASHLARFS" "$MKFS" "$ASHLARCTL" ${FSCK:+"$FSCK"} "$WORK/"
chmod 755 "$WORK"/ashlarfs "$WORK"/*.ashlar "$WORK"/ashlarctl
mkdir "$WORK/home"
chown 65534 "$WORK/home" "$MNT"
as truncate -s 64M "$WORK/home/image"
check "mkfs of an image by its owner" as "$WORK/mkfs.ashlar" -q "$WORK/home/image"
as "$WORK/ashlarfs" "$WORK/home/image" "$MNT" >"$WORK/out" 2>&1
rc=$?
if [ $rc != 0 ] && grep -qiE 'permission|not permitted|fuse device' "$WORK/out"; then
	skip "fusermount3 may not mount here: $(head -1 "$WORK/out")"
fi
check "mounted by its owner" same $rc 0
check "shown as fuse.ashlar" eval 'grep -q " $MNT fuse.ashlar .*nosuid,nodev" /proc/mounts'
check "write" as sh -c "echo mine >$MNT/file"
check "read" same "$(as cat "$MNT/file")" mine
check_fails "a second mount is refused" as "$WORK/ashlarfs" "$WORK/home/image" "$WORK/home"
began=${EPOCHREALTIME/./}
check_fails "mkfs of it is refused" as "$WORK/mkfs.ashlar" -q -f "$WORK/home/image"
check "at once: nobody waits for the end of a mount" [ $((${EPOCHREALTIME/./} - began)) -lt 2900000 ]
check "fusermount3 -u" as fusermount3 -u "$MNT"
check "the image is free when the daemon is done" eval 'for i in $(seq 100); do as "$WORK/ashlarfs" "$WORK/home/image" "$MNT" 2>/dev/null && break; sleep 0.05; done; grep -q " $MNT " /proc/mounts'
check "content is there" same "$(as cat "$MNT/file")" mine
# One line that has the text, and the status.
told() {
	local status=$1 text=$2 rc
	shift 2
	"$@" >"$WORK/out" 2>&1
	rc=$?
	[ $rc = "$status" ] && [ "$(wc -l <"$WORK/out")" = 1 ] && grep -qF -- "$text" "$WORK/out" && return
	note "status $rc: $(cat "$WORK/out")"
	return 1
}
REMOUNT=$(program mount.ashlar)
check "scrub by the user: what may be is said" told 8 "only root may scrub a mounted volume; unmounted" as "$WORK/ashlarctl" scrub "$MNT"
check "trim by the user" told 1 "only root may trim a mounted volume; unmounted" as "$WORK/ashlarctl" trim "$WORK/home/image"
for name in "$MNT" "$WORK/home/image"; do
	check "scrub by root of ${name##*/}, whom the kernel keeps out" told 8 "allow_other" "$WORK/ashlarctl" scrub "$name"
	check "trim" told 1 "allow_other" "$WORK/ashlarctl" trim "$name"
done
check "remount by root" told 32 "an ordinary user's mount, and root cannot reach it" "$REMOUNT" "$WORK/home/image" "$MNT" -o remount,ro
check "is as it was" eval 'grep " $MNT " /proc/mounts | grep -q " rw,nosuid,nodev"'
quietly() { as "$WORK/$1" "${@:2}" >"$WORK/out" 2>&1 || { sed 's/^/# /' "$WORK/out"; return 1; }; }
# after_unmount TOOL OPTION...: fusermount3 does not wait for the data that is still to be written, the tools do.
after_unmount() {
	as sh -c "head -c 40M /dev/zero | tr '\\0' x >$MNT/large"
	as fusermount3 -u "$MNT"
	check "$1 right after fusermount3 -u" quietly "$@"
	as "$WORK/ashlarfs" "$WORK/home/image" "$MNT"
}
[ -n "$FSCK" ] && after_unmount fsck.ashlar -n -f "$WORK/home/image"
after_unmount ashlarctl scrub "$WORK/home/image"
after_unmount ashlarctl trim "$WORK/home/image"
after_unmount ashlarctl label "$WORK/home/image" mine
after_unmount mkfs.ashlar -q -f "$WORK/home/image"
PID=$(pgrep -f "^$WORK/ashlarfs $WORK/home/image")
kill -TERM "$PID"
check "SIGTERM unmounts" eval 'for i in $(seq 100); do kill -0 "$PID" 2>/dev/null || break; sleep 0.05; done; ! grep -q " $MNT " /proc/mounts'
"$HELPER" as 65534 "$WORK/ashlarfs" -f "$WORK/home/image" "$MNT" 2>"$WORK/out" &
DAEMON=$!
for _ in $(seq 100); do mountpoint -q "$MNT" && break; sleep 0.05; done
kill -TERM $DAEMON
wait $DAEMON
check "SIGTERM in the foreground: exit status 0" same $? 0
DAEMON=
check "and no complaint" same "$(cat "$WORK/out")" ""
# Root of a user namespace: loop devices are refused, and mount(2) needs a mount namespace, too.
if as unshare -Urm true 2>/dev/null && ! as test -w /dev/loop-control; then
	as truncate -s 64M "$WORK/home/inside"
	as unshare -Ur "$WORK/mkfs.ashlar" -q "$WORK/home/inside"
	as unshare -Ur "$WORK/ashlarfs" "$WORK/home/inside" "$MNT" >"$WORK/out" 2>&1
	check "root of a user namespace alone: refused" same $? 1
	check "with one line" same "$(wc -l <"$WORK/out")" 1
	# inside COMMAND: with it mounted as $2.
	inside() {
		as unshare -Urm sh -c '"$0" "$1" "$2" && grep -q " $2 fuse.ashlar " /proc/mounts && eval "$3" && umount "$2"' \
			"$WORK/ashlarfs" "$WORK/home/inside" "$MNT" "$1" 2>"$WORK/out"
	}
	check "with a mount namespace of its own: mounted without a loop device" inside 'echo inside >"$2/file"'
	check "which a line says" eval '[ "$(wc -l <"$WORK/out")" = 1 ] && grep -q "no loop device" "$WORK/out"'
	check "what was written there is there" same "$(inside 'cat "$2/file"')" inside
else
	note "no user namespaces for ordinary users, or loop devices for them: not tested"
fi
[ -n "$FSCK" ] && check "fsck" eval '"$FSCK" -n "$WORK/home/image" >/dev/null'
finish
