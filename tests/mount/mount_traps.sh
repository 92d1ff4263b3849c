#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# The traps of the FUSE side, one by one. Each one is seen to fail when its rule is broken.
. "$(dirname "$0")/lib.sh"
start
PROGRAM=$(program mount_helper) || exit 1
# Other users run it, too, and the build may lie where they cannot go (/root).
HELPER=$WORK/mount_helper
cp "$PROGRAM" "$HELPER"
volume 1G
# becomes WANTED COMMAND...: within ten seconds. What the kernel is not told of stays as it is.
becomes() {
	local wanted=$1 got
	shift
	for _ in $(seq 100); do
		got=$("$@")
		[ "$got" != "$wanted" ] || return 0
		sleep 0.1
	done
	same "$got" "$wanted"
}
# umount(2), and at the very moment it returns: who has the device open? O_EXCL alone does not tell, since the claim is the
# kernel's; so the daemon's descriptors are looked at, too.
umount_frees_device() {
	python3 - "$MNT" "$LOOP" "$DAEMON" <<'PY'
import ctypes, os, sys
mount, device, daemon = sys.argv[1:]
libc = ctypes.CDLL(None, use_errno=True)
if libc.umount2(mount.encode(), 0):
    sys.exit('umount2: ' + os.strerror(ctypes.get_errno()))
folder = '/proc/%s/fd' % daemon
held = False
try:
    for name in os.listdir(folder):
        try:
            held |= os.readlink(folder + '/' + name) == device
        except OSError:
            pass
except OSError:
    pass
os.close(os.open(device, os.O_RDWR | os.O_EXCL))
if held:
    print('# the daemon still has the device open')
sys.exit(held)
PY
}

# ---- O_TRUNC with OPEN unanswered, the inode not in the cache ----
attach
seq 100000 >"$MNT/long"
detach
attach
echo x >"$MNT/long"
check "echo x > longfile, cold: size" same "$(stat -c %s "$MNT/long")" 2
drop_caches
check "echo x > longfile, cold: content" same "$(cat "$MNT/long")" x
seq 100000 >"$MNT/long"
drop_caches
echo y >"$MNT/long"
check "echo y > longfile, after eviction" same "$(stat -c %s "$MNT/long") $(cat "$MNT/long")" "2 y"

# ---- SEEK_HOLE and the kernel's dirty pages ----
good=1
for i in $(seq 40); do
	[ "$("$HELPER" islands "$MNT/islands")" = "1048576 1052672 3145728" ] || good=0
done
check "SEEK_DATA and SEEK_HOLE see dirty pages" same $good 1
check "SEEK_HOLE sees many holes that were filled" python3 - "$MNT/filled" <<'PY'
import os, sys
fd = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT)
for block in range(0, 23, 2):
    os.pwrite(fd, b'f' * 4096, block * 4096)
os.fsync(fd)
for block in range(1, 23, 2):
    os.pwrite(fd, b'f' * 4096, block * 4096)
hole = os.lseek(fd, 0, os.SEEK_HOLE)
print('# block %d' % (hole // 4096))
sys.exit(hole != 23 * 4096)
PY
python3 - "$MNT" "$WORK" <<'PY'
import os, subprocess, sys
mount, work = sys.argv[1:]
bad = 0
for i in range(40):
    f = open(mount + '/sparse', 'wb')
    f.truncate(8 << 20)
    for at in (1 << 20, 3 << 20, (5 << 20) + 12345, 8 << 20):
        f.seek(at)
        f.write(bytes([65 + i % 26]) * (4096 + i))
        f.flush()
    # Still open, nothing synced: the copy must hold everything that was written.
    subprocess.run(['cp', '--sparse=auto', '--reflink=never', mount + '/sparse', work + '/copy'], check=True)
    bad += open(mount + '/sparse', 'rb').read() != open(work + '/copy', 'rb').read()
    f.close()
    os.unlink(mount + '/sparse')
sys.exit(1 if bad else 0)
PY
check "cp of a sparse file while it is written" same $? 0
python3 - "$MNT" <<'PY'
import os, sys
f = open(sys.argv[1] + '/grown', 'wb', buffering=0)
f.write(b'a' * 100)
os.fsync(f.fileno())
f.seek(10 << 20)
f.write(b'b' * 100)
sys.exit(0 if os.lseek(f.fileno(), 4096, os.SEEK_DATA) == 10 << 20 else 1)
PY
check "SEEK_DATA beyond the size that the server knows" same $? 0

# ---- write-behind ----
mkdir "$MNT/many"
sync_all
before=$(device_writes)
python3 - "$MNT/many" <<'PY'
import os, sys
for i in range(10000):
    fd = os.open('%s/%d' % (sys.argv[1], i), os.O_CREAT | os.O_WRONLY)
    os.write(fd, b'%d\n' % i * 100)
    os.close(fd)
PY
after=$(device_writes)
note "10000 small files: $((after - before)) writes to the device before syncfs"
check "closing 10000 small files does not wait for the device" [ $((after - before)) -lt 3000 ]
sync_all
crash
attach
check "they survive syncfs and SIGKILL" same "$(find "$MNT/many" -type f | wc -l)" 10000
check "with their content" python3 -c "
import sys
sys.exit(any(open('$MNT/many/%d' % i, 'rb').read() != b'%d\n' % i * 100 for i in range(10000)))"
rm -rf "$MNT/many"

# ---- replace by rename, no fsync ----
mkdir "$MNT/replace"
for i in $(seq 100); do echo "old content of $i" >"$MNT/replace/$i"; done
sync_all
for round in 1 2 3; do
	python3 - "$MNT/replace" $round <<'PY' &
import os, sys
def replace(i, turn):
    with open(sys.argv[1] + '/tmp', 'w') as f:
        f.write('new content of %d in turn %d of %s\n' % (i, turn, sys.argv[2]))
    os.rename(sys.argv[1] + '/tmp', '%s/%d' % (sys.argv[1], i))
try:
    for turn in range(1000000):
        for i in range(1, 101):
            replace(i, turn)
except OSError:
    sys.exit(1)  # the daemon is killed
PY
	writer=$!
	for _ in $(seq 300); do grep -q " of $round\$" "$MNT/replace/100" && break; sleep 0.1; done
	sleep 0.$((RANDOM % 9 + 1))
	[ $round = 2 ] && sleep 6 # a second more than what is old enough stays in memory
	check "replace by rename, round $round: all are replaced, and it goes on" \
		eval 'same "$(cat "$MNT"/replace/[1-9]* | grep -c " of $round\$")" 100 && kill -0 $writer'
	crash
	wait $writer 2>/dev/null
	attach
	replaced=$(cat "$MNT"/replace/[1-9]* | grep -c " of $round\$")
	[ $round != 2 ] || check "replace by rename: $replaced new ones are there after six seconds" same "$replaced" 100
	check "replace by rename, round $round: every file is the old or a new one" \
		python3 -c "
import re, sys
bad = [i for i in range(1, 101) if not re.fullmatch(r'(old content of %d|new content of %d in turn \d+ of \d)\n' % (i, i), open('$MNT/replace/%d' % i).read())]
print('# bad:', bad[:10]) if bad else None
sys.exit(bool(bad))"
done

# ---- set-user-id ----
cp /bin/true "$MNT/suid"
chmod 4777 "$MNT/suid"
"$HELPER" as 65534 sh -c "echo >>'$MNT/suid'"
check "suid cleared by a write of another user" same "$(stat -c %a "$MNT/suid")" 777
drop_caches
check "and stays cleared" same "$(stat -c %a "$MNT/suid")" 777
chmod 4777 "$MNT/suid"
"$HELPER" as 65534 truncate -s 100 "$MNT/suid"
check "suid cleared by a truncation of another user" same "$(stat -c %a "$MNT/suid")" 777
chmod 6777 "$MNT/suid"
echo >>"$MNT/suid"
check "root's write leaves suid" same "$(stat -c %a "$MNT/suid")" 6777
chown 1:1 "$MNT/suid"
check "chown clears suid and sgid, for root, too" same "$(stat -c %a "$MNT/suid")" 777
python3 - "$MNT/capable" <<'PY'
import os, sys
name = sys.argv[1]
value = bytes.fromhex('0100000200200000000000000000000000000000')
def kept(action):
    with open(name, 'wb') as f:
        f.write(b'data')
    os.setxattr(name, 'security.capability', value)
    action()
    return 'security.capability' in os.listxattr(name)
def write():
    with open(name, 'ab') as f:
        f.write(b'more')
bad = [what.__name__ for what in (write, lambda: os.truncate(name, 1), lambda: os.chown(name, 2, 2)) if kept(what)]
print('# kept by:', bad) if bad else None
sys.exit(bool(bad))
PY
check "security.capability goes with a write, a truncation, a chown" same $? 0

# ---- times under writeback ----
echo data >"$WORK/source"
touch -d "2001-02-03 04:05:06.789" "$WORK/source"
cp -p "$WORK/source" "$MNT/copy"
echo more >"$MNT/touched"
touch -d "1999-01-01 00:00:00.5" "$MNT/touched"
sync_all
check "cp -p keeps the mtime" same "$(stat -c %y "$MNT/copy")" "$(stat -c %y "$WORK/source")"
detach
attach
check "also after mounting again" same "$(stat -c %y "$MNT/copy")" "$(stat -c %y "$WORK/source")"
check "touch -d, too" same "$(date -d "$(stat -c %y "$MNT/touched")" +%s.%1N)" "$(date -d "1999-01-01 00:00:00.5" +%s.%1N)"
# A write to a set-user-id file by another user is not cached by the kernel: the daemon sets its times, when it flushes.
echo data >"$MNT/through"
chmod 4777 "$MNT/through"
"$HELPER" as 65534 sh -c "echo >>'$MNT/through'"
touch -d "1999-01-01 00:00:00.5" "$MNT/through"
drop_caches
check "touch -d after a write past the kernel's cache" \
	same "$(date -d "$(stat -c %y "$MNT/through")" +%s.%1N)" "$(date -d "1999-01-01 00:00:00.5" +%s.%1N)"
echo written >"$MNT/written"
written=$(stat -c %Y.%y "$MNT/written")
sleep 1.1
sync_all
check "write-back does not move the mtime" same "$(stat -c %Y.%y "$MNT/written")" "$written"
# The flusher sends the times without waiting for the WRITEs before: some come later, and must not set times. Afterwards
# the kernel forgets the file, and the daemon's word counts.
flushed=$(python3 - "$MNT/flushed" <<'PY'
import ctypes, os, sys, time
f = open(sys.argv[1], 'wb', buffering=0)
for i in range(160):
    f.write(b'x' * (1 << 20))
print(os.fstat(f.fileno()).st_mtime_ns)
time.sleep(0.1)
ctypes.CDLL(None).syncfs(f.fileno())
PY
)
drop_caches
check "write-back in the background does not, either" same "$(python3 -c "import os; print(os.stat('$MNT/flushed').st_mtime_ns)")" "$flushed"
rm "$MNT/flushed"

# ---- stale attributes ----
echo 1 >"$MNT/a"
ln "$MNT/a" "$MNT/b"
check "nlink of both names after ln" same "$(stat -c %h "$MNT/a" "$MNT/b" | xargs)" "2 2"
chmod 600 "$MNT/a"
check "chmod by one name is seen by the other" same "$(stat -c %a "$MNT/b")" 600
echo longer >"$MNT/a"
check "size, too" same "$(stat -c %s "$MNT/b")" 7
rm "$MNT/a"
check "nlink, too" same "$(stat -c %h "$MNT/b")" 1
echo 2 >"$MNT/c"
ln "$MNT/c" "$MNT/d"
stat "$MNT/d" >/dev/null
mv "$MNT/b" "$MNT/c"
check "nlink after rename over a sibling" same "$(stat -c %h "$MNT/d")" 1
dd if=/dev/urandom of="$MNT/delayed" bs=64K count=1 status=none
first=$(stat -c %b "$MNT/delayed")
sync_all
check "st_blocks is not 0 before allocation" [ "$first" -gt 0 ]
check "st_blocks after it" becomes 128 stat -c %b "$MNT/delayed"
# A file that stays open after its writes, as a database's: st_blocks 0 is a hole to tar -S. Small ones are flushed together.
python3 - "$MNT" >"$WORK/known" <<'PY'
import os, sys, time
files = [(os.open('%s/open%d' % (sys.argv[1], i), os.O_CREAT | os.O_RDWR), size) for i, size in
         enumerate([100, 4096, 5000, 300000, 3000000])]
for fd, size in files:
    os.write(fd, os.urandom(size))
    os.fsync(fd)
time.sleep(4)
for fd, size in files:
    if os.fstat(fd).st_blocks * 512 < min(size, 4096):
        print(size, os.fstat(fd).st_blocks)
PY
check "st_blocks of files that stay open" same "$(cat "$WORK/known")" ""
rm "$MNT"/open?

# A copy of a large file is as many requests as it takes: who is killed need not wait for the rest.
dd if=/dev/zero of="$MNT/large" bs=1M count=300 status=none
python3 - "$MNT" >"$WORK/known" <<'PY'
import os, sys
from_fd = os.open(sys.argv[1] + '/large', os.O_RDONLY)
to_fd = os.open(sys.argv[1] + '/copy', os.O_CREAT | os.O_WRONLY)
print(os.copy_file_range(from_fd, to_fd, 300 << 20) <= 8 << 20)
PY
check "copy_file_range ends after 8 MiB" same "$(cat "$WORK/known")" True
rm "$MNT/large" "$MNT/copy"

# Every other block: the map needs nodes of its own, which nobody knows of before the flush. 100 files: none is forgotten.
# They stay open, so that the kernel keeps what it believes.
mkdir "$MNT/combs"
python3 - "$MNT/combs" >"$WORK/known" <<'PY'
import ctypes, os, sys, time
files = []
for i in range(100):
    fd = os.open('%s/%d' % (sys.argv[1], i), os.O_CREAT | os.O_WRONLY)
    for block in range(40):
        os.pwrite(fd, b'x' * 4096, block * 8192)
    os.close(os.dup(fd))
    files.append(fd)
    os.fstat(fd)
ctypes.CDLL(None).syncfs(files[0])
time.sleep(6)
for fd in files:
    print(os.fstat(fd).st_blocks)
PY
drop_caches
for i in $(seq 0 99); do stat -c %b "$MNT/combs/$i"; done >"$WORK/fresh"
check "st_blocks with nodes of the map" [ "$(head -1 "$WORK/fresh")" -gt 320 ]
check "the kernel was told of every one ($(diff "$WORK/known" "$WORK/fresh" | grep -c '^<') were not)" \
	cmp -s "$WORK/known" "$WORK/fresh"
rm -r "$MNT/combs"

# ---- GETXATTR ----
detach
"$ASHLARFS" "$LOOP" "$MNT" -d 2>"$WORK/requests" &
DAEMON=$!
for _ in $(seq 600); do mountpoint -q "$MNT" && break; sleep 0.05; done
# requests NAME: how many of them there were so far.
requests() { grep -c " $1(" "$WORK/requests"; }
opens() { for _ in $(seq 20); do : <"$MNT/appended" || return 1; done; }
rm -f "$MNT/appended"
check "2000 writes" "$HELPER" appends "$MNT/appended" 2000
check "are in the file" same "$(stat -c %s "$MNT/appended")" $((2000 * 4096))
check "open(2), 20 times" opens
count=$(requests GETXATTR)
check "2000 writes: at most one GETXATTR ($count)" [ "$count" -le 1 ]
count=$(requests OPEN)
check "OPEN is asked once ($count)" same "$count" 1

# ---- O_DIRECT without CAP_FSETID: each WRITE asks to clear set-user-id bits, whether there are any or not ----
chmod 666 "$MNT/appended"
before=$(requests GETATTR) writes=$(requests WRITE)
check "2000 direct writes of another user" "$HELPER" as 65534 "$HELPER" overwrites "$MNT/appended" 2000
check "are 2000 requests" same $(($(requests WRITE) - writes)) 2000
count=$(($(requests GETATTR) - before))
check "2000 direct writes of another user: hardly a GETATTR ($count)" [ "$count" -le 20 ]
chmod 6777 "$MNT/appended"
check "direct writes to a set-user-id file" "$HELPER" as 65534 "$HELPER" overwrites "$MNT/appended" 2
check "suid and sgid cleared by a direct write of another user" same "$(stat -c %a "$MNT/appended")" 777
drop_caches
check "and stay cleared" same "$(stat -c %a "$MNT/appended")" 777
detach

# ---- depth ----
attach
dd if=/dev/zero of="$MNT/deep" bs=1M count=200 status=none
sync_all
# deepest read|write UID: the most requests seen on the device while 16 are in flight from one caller.
deepest() {
	local worker reads writes deepest=0
	"$HELPER" as "$2" "$HELPER" depth "$1" "$MNT/deep" 16 2 >"$WORK/rate" &
	worker=$!
	while kill -0 $worker 2>/dev/null; do
		for _ in 1 2 3 4 5 6 7 8 9 10; do
			read -r reads writes <"/sys/block/${LOOP#/dev/}/inflight"
			[ "$1" = write ] && reads=$writes
			[ "$reads" -gt $deepest ] && deepest=$reads
		done
	done
	wait $worker || deepest=0
	echo $deepest
}
chmod 666 "$MNT/deep"
for kind in read write; do
	for user in 0 65534; do
		# Seen once it is proven; a device that is faster than what sends to it at the moment does not show it.
		for _ in 1 2 3 4 5; do
			deepest=$(deepest $kind $user)
			[ "$deepest" -ge 14 ] && break
		done
		note "16 times 256 KiB in flight ($kind, user $user): at most $deepest seen on the device, $(cat "$WORK/rate") per second"
		check "depth 16 reaches the device ($kind, user $user)" [ "$deepest" -ge 14 ]
	done
done

# ---- execve(2) closes files with dirty pages, and locks /proc of the process meanwhile ----
"$HELPER" spawn "$MNT" &
spawner=$!
for _ in $(seq 300); do
	kill -0 $spawner 2>/dev/null || break
	sleep 0.1
done
if kill -0 $spawner 2>/dev/null; then
	not_ok "programs start while their files are written back"
	crash # nothing else ends it
	attach
else
	wait $spawner
	check "programs start while their files are written back" same $? 0
fi

# ---- umount and the device ----
good=1
for i in 1 2 3 4 5; do
	dd if=/dev/urandom of="$MNT/last" bs=1M count=40 status=none
	sum=$(sha256sum <"$MNT/last")
	umount_frees_device || good=0
	wait "$DAEMON"
	attach
	[ "$(sha256sum <"$MNT/last")" = "$sum" ] || good=0
done
check "umount returns when the device is free and holds everything" same $good 1
detach
fsck_clean "fsck after all this"

# ---- link counts while a change waits for the device ----
# The device lies on a filesystem that can be frozen, so that the flush of a sync mount takes as long as it is to. Meanwhile
# another worker answers for the name that is left, with the new count. Of a regular file the kernel sends the change time
# afterwards, and with the answer all is announced once more: so it is done with another kind.
# counted_once NAME COMMAND...: links of $MNT/two/NAME after a command that takes the other one of its two names away.
counted_once() {
	local name=$1 before
	shift
	before=$(stat -c %h "$MNT/two/$name")
	fsfreeze -f "$WORK/slow"
	"$@" &
	sleep 0.5
	note "asked meanwhile: $(timeout 20 stat --cached=never -c %h "$MNT/two/$name")"
	fsfreeze -u "$WORK/slow"
	wait $!
	same "$before" 2 && becomes 1 stat -c %h "$MNT/two/$name"
}
if needs mkfs.ext4 "links on a slow device" && needs fsfreeze "links on a slow device"; then
	losetup -d "$LOOP"
	rm "$IMAGE"
	truncate -s 300M "$WORK/frozen"
	mkfs.ext4 -q "$WORK/frozen"
	mkdir "$WORK/slow"
	mount "$WORK/frozen" "$WORK/slow"
	dd if=/dev/zero of="$WORK/slow/image" bs=1M count=128 status=none
	LOOP=$(loop_attach "$WORK/slow/image")
	"$MKFS" -q "$LOOP"
	attach sync
	mkdir "$MNT/one" "$MNT/two"
	for name in unlinked replaced; do
		mkfifo "$MNT/one/$name"
		ln "$MNT/one/$name" "$MNT/two/$name"
	done
	echo new >"$MNT/one/new"
	check "unlink that waits for the device is counted once" counted_once unlinked rm "$MNT/one/unlinked"
	check "what is left of it can be linked" ln "$MNT/two/unlinked" "$MNT/two/linked"
	check "a rename over a name, too" counted_once replaced mv -f "$MNT/one/new" "$MNT/one/replaced"
	detach
	losetup -d "$LOOP"
	umount "$WORK/slow"
fi

# ---- people who read the daemon's lines ----
# A line for each damaged inode, to a pipe whose reader is busy: he may be waiting for this mount.
losetup -d "$LOOP" 2>/dev/null
volume 64M
attach
mkdir "$MNT/folder"
for i in $(seq 1500); do echo "to be damaged" >"$MNT/folder/$i"; done
detach
python3 - "$LOOP" <<'PY'
import sys
with open(sys.argv[1], 'r+b') as device:
    data = device.read()
    device.seek(0)
    device.write(data.replace(b'to be damaged', b'is damaged!!!'))
PY
mv "$WORK/log" "$WORK/log.before"
mkfifo "$WORK/log"
sleep 60 <"$WORK/log" &
READER=$!
attach errors=continue
all_met() { [ "$(timeout 20 ls -l "$MNT/folder" 2>&1 >/dev/null | wc -l)" = 1500 ]; }
check "lines that nobody reads: who meets damage does not wait" all_met
check "nor do others" timeout 20 touch "$MNT/new"
umount "$MNT"
check "nor does the end of the daemon" timeout 30 tail --pid="$DAEMON" -f /dev/null
kill "$READER"
wait "$READER" 2>/dev/null
check "unmounted in order" wait "$DAEMON"
DAEMON=
mv "$WORK/log.before" "$WORK/log"
finish
