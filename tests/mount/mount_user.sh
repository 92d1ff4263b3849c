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
HELPER=$(program mount_helper) || exit 1
command -v fusermount3 >/dev/null || skip "fusermount3 is not installed"
as() { "$HELPER" as 65534 "$@"; }
cp "$ASHLARFS" "$MKFS" "$ASHLARCTL" "$FSCK" "$WORK/"
chmod 755 "$WORK"/ashlarfs "$WORK"/*.ashlar "$WORK"/ashlarctl
mkdir "$WORK/home"
chown 65534 "$WORK/home" "$MNT"
as truncate -s 64M "$WORK/home/image"
check "mkfs of an image by its owner" as "$WORK/mkfs.ashlar" -q "$WORK/home/image"
as "$WORK/ashlarfs" "$WORK/home/image" "$MNT" >"$WORK/out" 2>&1
rc=$?
if [ $rc != 0 ] && grep -qiE 'permission|not permitted|fuse device' "$WORK/out"; then
	skipped "a mount by its owner" "fusermount3 may not mount here: $(head -1 "$WORK/out")"
	finish
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
check "scrub by root, whom the kernel keeps out" told 8 "allow_other" "$WORK/ashlarctl" scrub "$MNT"
check "trim" told 1 "allow_other" "$WORK/ashlarctl" trim "$MNT"
# That the image is mounted there is only what its user says: the lock tells that it is in use.
check "scrub of the image by root" told 8 "in use by another Ashlar program" "$WORK/ashlarctl" scrub "$WORK/home/image"
check "trim" told 1 "in use by another Ashlar program" "$WORK/ashlarctl" trim "$WORK/home/image"
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
after_unmount fsck.ashlar -n -f "$WORK/home/image"
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
	skipped "root of a user namespace" "no user namespaces for ordinary users, or loop devices for them"
fi
# ---- What an ordinary user says of his mounts ----
# claim FSTYPE_OPTIONS: a FUSE mount of his at $WORK/claimed, of which nobody answers requests. Its process is $CLAIM.
mkdir "$WORK/claimed"
chown 65534 "$WORK/claimed"
claim() {
	rm -f "$WORK/home/up"
	as python3 - "$1" "$WORK/claimed" "$WORK/home/up" <<'PY' &
import os, socket, subprocess, sys, time
ours, theirs = socket.socketpair()
subprocess.run(['fusermount3', '-o', sys.argv[1], '--', sys.argv[2]], pass_fds=[theirs.fileno()], check=True,
               env=dict(os.environ, _FUSE_COMMFD=str(theirs.fileno())))
device = socket.recv_fds(ours, 1, 1)[1]
with open(sys.argv[3] + '.new', 'w') as up:
    print(os.getpid(), file=up)
os.rename(sys.argv[3] + '.new', sys.argv[3])
time.sleep(600)
PY
	for _ in $(seq 100); do [ -e "$WORK/home/up" ] && CLAIM=$(cat "$WORK/home/up") && return; sleep 0.05; done
	return 1
}
unclaim() {
	kill "$CLAIM"
	for _ in $(seq 100); do [ -d "/proc/$CLAIM" ] || break; sleep 0.05; done
	umount "$WORK/claimed"
}
as_root() { "$@" >"$WORK/out" 2>&1 || { sed 's/^/# /' "$WORK/out"; return 1; }; }
mkdir "$WORK/root"
volume 64M
for type in "" ",subtype=ashlar"; do
	if ! claim "fsname=$LOOP$type"; then
		skipped "the source of a user's mount" "fusermount3 refuses one of his choice"
		break
	fi
	check "the mount has the name that its user gave it${type:+ ($type)}" grep -q "^$LOOP $WORK/claimed fuse" /proc/mounts
	check "which does not keep root from mkfs.ashlar" as_root "$MKFS" -q -f "$LOOP"
	check "from fsck.ashlar" as_root "$FSCK" -f -n "$LOOP"
	check "from ashlarctl" as_root "$ASHLARCTL" label "$LOOP" free
	check "from ashlarfs" as_root "$ASHLARFS" "$LOOP" "$WORK/root"
	check "and is not where the volume is mounted" eval '"$ASHLARCTL" info "$LOOP" | grep -q "mounted  *on $WORK/root$"'
	umount "$WORK/root"
	unclaim
done
# The mount of an ordinary user that is really one holds the owner lock, and is refused by that.
refused() {
	"$@" >"$WORK/out" 2>&1 && return 1
	grep -qF "$WORK/home/image is in use by another Ashlar program" "$WORK/out" && [ "$(wc -l <"$WORK/out")" = 1 ] && return
	grep -qF "$WORK/home/image: is in use by another Ashlar program" "$WORK/out" && [ "$(wc -l <"$WORK/out")" = 1 ] && return
	sed 's/^/# /' "$WORK/out"
	return 1
}
as "$WORK/ashlarfs" "$WORK/home/image" "$MNT"
check "a user's own mount of an image: refused to root's mkfs.ashlar" refused "$MKFS" -q -f "$WORK/home/image"
check "fsck.ashlar" refused "$FSCK" -f -y "$WORK/home/image"
check "ashlarctl" refused "$ASHLARCTL" label "$WORK/home/image" other
check "and ashlarfs" refused "$ASHLARFS" "$WORK/home/image" "$WORK/root"
as fusermount3 -u "$MNT"
for _ in $(seq 100); do "$ASHLARCTL" info "$WORK/home/image" | grep -q "^in use" || break; sleep 0.05; done
check "fsck" eval '"$FSCK" -n "$WORK/home/image" >/dev/null'
finish
