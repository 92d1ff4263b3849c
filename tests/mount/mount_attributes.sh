#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# ACLs, capabilities, chattr, attributes that survive; what needs programs rather than system calls.
. "$(dirname "$0")/lib.sh"
start
HELPER=$(program mount_helper) || exit 1
volume 128M
attach
as() { "$HELPER" as 65534 "$@" 2>/dev/null; }
if needs setfacl "access control lists"; then
	echo secret >"$MNT/f"
	chmod 640 "$MNT/f"
	check_fails "0640: another user may not read" as cat "$MNT/f" >/dev/null
	check "setfacl" setfacl -m u:65534:r "$MNT/f"
	check "another user may read by ACL" as cat "$MNT/f" >/dev/null
	check "getfacl" eval 'getfacl -cn "$MNT/f" | grep -q "^user:65534:r--"'
	drop_caches
	check "ACL from the device" eval 'getfacl -cn "$MNT/f" | grep -q "^user:65534:r--"'
	chmod 600 "$MNT/f"
	check "chmod changes the mask" eval 'getfacl -cn "$MNT/f" | grep -q "^mask::---"'
	check_fails "which keeps the user out" as cat "$MNT/f" >/dev/null
	check "setfacl -b" setfacl -b "$MNT/f"
	check_fails "removed" eval 'getfacl -cn "$MNT/f" | grep -q 65534'
	mkdir "$MNT/d"
	setfacl -d -m u:65534:rwx,g::rx,o::- "$MNT/d"
	(umask 077; echo x >"$MNT/d/f"; mkdir "$MNT/d/sub")
	check "default ACL: inherited by a file, umask not applied" eval 'getfacl -cn "$MNT/d/f" | grep -q "^user:65534:rwx" && [ $(stat -c %a "$MNT/d/f") = 660 ]'
	check "default ACL: inherited by a folder" eval 'getfacl -cn "$MNT/d/sub" | grep -q "^default:user:65534:rwx"'
	(umask 077; echo x >"$MNT/plain")
	check "umask without default ACL" same "$(stat -c %a "$MNT/plain")" 600
	chmod 2755 "$MNT/d/f"
	check "mode set by setfacl" eval 'setfacl -m u::rw,g::r,o::r "$MNT/plain" && [ $(stat -c %a "$MNT/plain") = 644 ]'
fi
if needs setcap "security.capability"; then
	cp /bin/true "$MNT/cap"
	chmod 777 "$MNT/cap"
	setcap cap_net_raw+ep "$MNT/cap"
	check "security.capability" eval 'getcap "$MNT/cap" | grep -q cap_net_raw'
	echo >>"$MNT/cap"
	check_fails "gone after a write" eval 'getcap "$MNT/cap" | grep -q cap_net_raw'
	setcap cap_net_raw+ep "$MNT/cap"
	chown 65534 "$MNT/cap"
	check_fails "gone after chown" eval 'getcap "$MNT/cap" | grep -q cap_net_raw'
fi
echo x >"$MNT/flags"
setfattr -n trusted.secret -v 1 "$MNT/flags" 2>/dev/null
setfattr -n user.open -v 1 "$MNT/flags" 2>/dev/null
check "trusted attributes are hidden from others" eval 'as python3 -c "import os; l = os.listxattr(\"$MNT/flags\"); assert l == [\"user.open\"], l"'
cat >"$WORK/list.py" <<'PY'
import ctypes, os, sys
if len(sys.argv) > 2 and ctypes.CDLL(None).unshare(0x10000000): # a user namespace of its own, with all capabilities in it
    sys.exit('unshare')
print(*sorted(os.listxattr(sys.argv[1])))
PY
# uid 0 without capabilities, as the root of a container.
bare() { setpriv --bounding-set=-all --inh-caps=-all "$@"; }
check "root sees them" same "$(python3 "$WORK/list.py" "$MNT/flags")" "trusted.secret user.open"
check "uid 0 without CAP_SYS_ADMIN does not" same "$(bare python3 "$WORK/list.py" "$MNT/flags")" "user.open"
check "nor with that of a user namespace below" same "$(bare python3 "$WORK/list.py" "$MNT/flags" below)" "user.open"
check "uid 0 with nothing but CAP_SYS_ADMIN does" same "$(setpriv --bounding-set=-all,+sys_admin python3 "$WORK/list.py" "$MNT/flags")" "trusted.secret user.open"
if grep -qw overlay /proc/filesystems; then
	# The kernel lists them in the name of who has mounted the overlay, in a thread of an ordinary user.
	mkdir -m 777 "$WORK/upper" "$WORK/over" "$MNT/lower"
	mkdir "$WORK/work"
	echo x >"$MNT/lower/f"
	chmod 666 "$MNT/lower/f"
	setfattr -n trusted.secret -v 1 "$MNT/lower/f"
	mount -t overlay overlay -o "lowerdir=$MNT/lower,upperdir=$WORK/upper,workdir=$WORK/work" "$WORK/over"
	as sh -c "echo y >>$WORK/over/f"
	check "overlayfs copies them up, whoever writes" same "$(python3 "$WORK/list.py" "$WORK/upper/f" | grep -o trusted.secret)" trusted.secret
	umount "$WORK/over"
else
	note "this kernel has no overlayfs"
fi
cat >"$WORK/refusals.py" <<'PY'
import os, sys
class Refusals:
    def __init__(self, fd):
        self.fd, self.bad = fd, []
    # An action, or the fsync after it, fails.
    def of(self, what, action):
        try:
            action()
            os.fsync(self.fd)
            self.bad.append(what)
        except OSError:
            pass
    def end(self):
        if self.bad:
            print('# bad:', self.bad)
        sys.exit(bool(self.bad))
PY
check "chattr +i" chattr +i "$MNT/flags"
check_fails "immutable: no write by name, this mount" eval 'echo y >"$MNT/flags"'
# The kernel asks nobody about OPEN on this mount, and takes data into its page cache: it must not get further.
check "immutable: dirty pages are taken, later ones are refused and forgotten" env PYTHONPATH="$WORK" python3 - "$MNT/late" <<'PY'
import mmap, os, subprocess, sys, time
from refusals import Refusals
name = sys.argv[1]
fd = os.open(name, os.O_CREAT | os.O_RDWR)
os.write(fd, b'old' * 3000)
pages = mmap.mmap(fd, 9000)
pages[0:4] = b'MMAP'
subprocess.run(['chattr', '+i', name], check=True)
expected = b'MMAP' + (b'old' * 3000)[4:]
os.fsync(fd)
refusals = Refusals(fd)
refused = refusals.of
refused('pwrite', lambda: os.pwrite(fd, b'NEW', 5000))
def store():
    pages[6000:6003] = b'NEW'
    pages.flush()
refused('store', store)
late = os.open(name, os.O_WRONLY)
refused('pwrite by a later descriptor', lambda: os.pwrite(late, b'NEW', 100))
for _ in range(100):
    if open(name, 'rb').read() == expected:
        break
    time.sleep(0.05)
else:
    refusals.bad.append('forgotten')
refusals.end()
PY
detach
attach
check "immutable: it is as it was when it became so" python3 -c "
import sys
sys.exit(open('$MNT/late', 'rb').read() != b'MMAP' + (b'old' * 3000)[4:])"
check "lsattr after mounting again" eval 'lsattr "$MNT/flags" | grep -q "^----i"'
check_fails "immutable: open for writing is refused at once" python3 -c "import os; os.open('$MNT/flags', os.O_WRONLY)"
check_fails "immutable: no removal" rm -f "$MNT/flags"
check "immutable: readable" same "$(cat "$MNT/flags")" x
chattr -i "$MNT/flags"
check "chattr -i" eval 'echo y >"$MNT/flags"'
chattr +a "$MNT/flags"
check "append-only: append" eval 'echo z >>"$MNT/flags"'
check_fails "append-only: no overwrite" eval 'echo z >"$MNT/flags"'
check "append-only: what takes O_APPEND back overwrites nothing" env PYTHONPATH="$WORK" python3 - "$MNT/flags" "$MNT/scratch" <<'PY'
import ctypes, errno, fcntl, mmap, os, sys
from refusals import Refusals
libc = ctypes.CDLL(None, use_errno=True)
fd = os.open(sys.argv[1], os.O_RDWR | os.O_APPEND)
source = os.open(sys.argv[2], os.O_RDWR | os.O_CREAT)
os.write(source, b'BAD' * 3000)
before = os.pread(fd, 100, 0)
refusals = Refusals(fd)
refused = refusals.of
def no_append():
    text = ctypes.create_string_buffer(b'BAD')
    vector = (ctypes.c_void_p * 2)(ctypes.addressof(text), 3)
    if libc.pwritev2(fd, vector, 1, ctypes.c_long(0), 0x20) < 0:  # RWF_NOAPPEND
        raise OSError(ctypes.get_errno(), 'pwritev2')
def store():
    pages = mmap.mmap(fd, 2, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE)
    pages[0:2] = b'BA'
    pages.flush()
refused('RWF_NOAPPEND', no_append)
refused('shared map', store)
fcntl.fcntl(fd, fcntl.F_SETFL, 0)
refused('pwrite', lambda: os.pwrite(fd, b'BAD', 0))
refused('pwrite over the end', lambda: os.pwrite(fd, b'BAD' * 3000, len(before) - 1))
refused('copy_file_range', lambda: os.copy_file_range(source, fd, 9000, 0, 0))
fcntl.fcntl(fd, fcntl.F_SETFL, os.O_APPEND)
os.write(fd, b'more\n')
os.fsync(fd)
if open(sys.argv[1], 'rb').read() != before + b'more\n':
    refusals.bad.append('content')
refusals.end()
PY
detach
attach
check "append-only: its content after that" same "$(tail -n 1 "$MNT/flags")" more
check "append-only: read through the cache beside appends" python3 - "$MNT/flags" <<'PY'
import os, sys
append = os.open(sys.argv[1], os.O_WRONLY | os.O_APPEND)
read = os.open(sys.argv[1], os.O_RDONLY)
expected = os.pread(read, 1 << 20, 0)
for i in range(3000):
    line = b'line %d\n' % i
    os.write(append, line)
    expected += line
    if i % 100 == 99 and os.pread(read, 1 << 20, 0) != expected:
        sys.exit('line %d' % i)
PY
chattr -a "$MNT/flags"
touch "$MNT/long"
blocks=$(stat -c %b "$MNT/long")
setfattr -n user.long -v "$(head -c 40000 /dev/zero | tr '\0' a)" "$MNT/long"
check "a long attribute is counted in st_blocks" [ "$(stat -c %b "$MNT/long")" -ge $((blocks + 80)) ]
setfattr -x user.long "$MNT/long"
check "and no longer when it is gone" same "$(stat -c %b "$MNT/long")" "$blocks"
rm "$MNT/long"
# Access times: the kernel moves none of its own, so these are the daemon's. After a change any read moves them (relatime).
cat >"$WORK/times.py" <<'PY'
import os, subprocess, time
def forget(path):
    subprocess.run(['sync', '-f', path], check=True)
    open('/proc/sys/vm/drop_caches', 'w').write('3')
def fresh(path, folder=False):
    """A file of 8 MiB or a folder, of which the access time is due, and nothing in the kernel."""
    if folder:
        os.mkdir(path)
        open(path + '/name', 'w').close()
    else:
        with open(path, 'wb') as f:
            f.write(b'x' * (8 << 20))
    forget(path)
    time.sleep(0.05)
def moved(path, flags=0):
    """Does reading all of it move the access time?"""
    before = os.stat(path).st_atime_ns
    fd = os.open(path, os.O_RDONLY | flags)
    if os.path.isdir(path):
        os.listdir(fd)
    else:
        while os.read(fd, 65536):
            pass
    os.close(fd)
    return os.stat(path).st_atime_ns != before
PY
check "O_NOATIME: reading leaves the access time of a file and of a folder" env PYTHONPATH="$WORK" python3 - "$MNT" <<'PY'
import os, sys, times
bad = []
for folder in False, True:
    path = sys.argv[1] + '/times-%d' % folder
    times.fresh(path, folder)
    if times.moved(path, os.O_NOATIME):
        bad.append('moved in spite of O_NOATIME: ' + path)
    times.forget(path)
    if not times.moved(path):
        bad.append('not moved without it: ' + path)
print('# bad:', bad) if bad else None
sys.exit(bool(bad))
PY
detach
attach nodiratime
check "nodiratime: listing leaves the access time of a folder, reading moves that of a file" env PYTHONPATH="$WORK" python3 - "$MNT" <<'PY'
import sys, times
names = [sys.argv[1] + '/diratime-%d' % folder for folder in (False, True)]
for path, folder in zip(names, (False, True)):
    times.fresh(path, folder)
found = [times.moved(path) for path in names]
print('# moved, file and folder:', found)
sys.exit(found != [True, False])
PY
detach
# The kernel's flags of a mount are one thing, what the daemon makes of them another.
MOUNT_HELPER=$(program mount.ashlar) || exit 1
# remounted OPTIONS EXPECTED: afterwards reading a file and listing a folder move their access times, or do not.
remounted() {
	"$MOUNT_HELPER" "$LOOP" "$MNT" -o "remount,$1" || return 1
	REMOUNTS=$((${REMOUNTS:-0} + 1))
	PYTHONPATH="$WORK" python3 - "$MNT/remount-$REMOUNTS" "$2" <<'PY'
import sys, times
names = [sys.argv[1] + kind for kind in ('-file', '-folder')]
for path, folder in zip(names, (False, True)):
    times.fresh(path, folder)
found = ' '.join('moved' if times.moved(path) else 'stays' for path in names)
again = []
for path in names:
    times.forget(path)
    again.append('moved' if times.moved(path) else 'stays')
found += ', again ' + ' '.join(again)
print('# found:', found) if found != sys.argv[2] else None
sys.exit(found != sys.argv[2])
PY
}
attach commit=1
check "remount,noatime" remounted noatime "stays stays, again stays stays"
check "remount,sync leaves that" remounted sync,noatime "stays stays, again stays stays"
check "remount,relatime" remounted relatime "moved moved, again stays stays"
check "remount,nodiratime" remounted nodiratime,relatime "moved stays, again stays stays"
check "remount,strictatime" remounted strictatime "moved moved, again moved moved"
check "a remount that names none keeps it" remounted nosuid "moved moved, again moved moved"
check "remount,atime after noatime" eval 'remounted noatime "stays stays, again stays stays" && remounted atime "moved moved, again stays stays"'
"$MOUNT_HELPER" "$LOOP" "$MNT" -o remount,strictatime
touch "$MNT/last"
"$MOUNT_HELPER" "$LOOP" "$MNT" -o remount,ro
times=$(stat -c %x "$MNT/last" "$MNT")
before=$(device_writes)
cat "$MNT/remount-1-file" >/dev/null
cat "$MNT/last"
ls "$MNT" >/dev/null
sync_all
sleep 3
check "remount,ro: reading writes nothing" same "$(device_writes)" "$before"
check "and leaves access times" same "$(stat -c %x "$MNT/last" "$MNT")" "$times"
check "remount,rw: they move again" remounted rw,relatime "moved moved, again stays stays"
detach
attach commit=300
mkdir "$MNT/before-sync"
"$MOUNT_HELPER" "$LOOP" "$MNT" -o remount,sync
mkdir "$MNT/with-sync"
crash
attach sync,commit=300
check "remount,sync: what was before it, and what comes after it, is durable" [ -d "$MNT/before-sync" -a -d "$MNT/with-sync" ]
"$MOUNT_HELPER" "$LOOP" "$MNT" -o remount,async
before=$(device_writes)
mkdir "$MNT/without-sync"
check "remount,async: nothing waits for the device any more" same "$(device_writes)" "$before"
cat >"$WORK/remount.py" <<'PY'
import errno, fcntl, os, struct, sys
try:
    fcntl.ioctl(os.open(sys.argv[1], os.O_RDONLY), 0x4008a552, struct.pack('Q', int(sys.argv[2])))
    print('done')
except OSError as error:
    print(errno.errorcode[error.errno])
PY
chmod 644 "$WORK/remount.py"
check "root may tell the daemon of a remount" same "$(python3 "$WORK/remount.py" "$MNT" 0)" done
check "another user may not" same "$(as python3 "$WORK/remount.py" "$MNT" 0)" EPERM
check "nor may uid 0 without CAP_SYS_ADMIN" same "$(bare python3 "$WORK/remount.py" "$MNT" 0)" EPERM
trim() { "$@" python3 - "$MNT" <<'PY'
import errno, fcntl, os, struct, sys
try:
    fcntl.ioctl(os.open(sys.argv[1], os.O_RDONLY), 0xc0185879, struct.pack('QQQ', 0, 1 << 62, 0))
    print('done')
except OSError as error:
    print(errno.errorcode[error.errno])
PY
}
check "FITRIM is root's" same "$(trim env)" done
check "not an ordinary user's" same "$(trim as)" EPERM
check "nor that of uid 0 without CAP_SYS_ADMIN" same "$(trim bare)" EPERM
check "a scrub is root's" "$ASHLARCTL" scrub -q "$MNT"
check_fails "not that of uid 0 without CAP_SYS_ADMIN" bare "$ASHLARCTL" scrub -q "$MNT"
check "a flag that is not known is refused" same "$(python3 "$WORK/remount.py" "$MNT" 2)" EINVAL
exec 9>"$MNT/open"
check_fails "remount,ro while a file is open for writing" "$MOUNT_HELPER" "$LOOP" "$MNT" -o remount,ro
exec 9>&-
check "changes nothing" remounted relatime "moved moved, again stays stays"
birth=$(stat -c %W "$MNT/flags")
if kernel_since 6.6; then
	check "birth time" [ "$birth" -gt 0 ]
else
	skipped "birth time" "the kernel does not ask for it"
fi
cp /bin/true "$MNT/run"
check "a program on it runs" "$MNT/run"
check "another user gets in" eval 'as ls "$MNT" >/dev/null'
check "inode numbers of stat and readdir agree" python3 -c "
import os
assert all(e.inode() == os.lstat(e.path).st_ino for e in os.scandir('$MNT'))"
cat >"$WORK/handles.py" <<'PY'
import ctypes, os
libc = ctypes.CDLL(None, use_errno=True)
class Handle(ctypes.Structure):
    _fields_ = [('bytes', ctypes.c_uint), ('type', ctypes.c_int), ('data', ctypes.c_ubyte * 128)]
def of(path):
    h, m = Handle(128), ctypes.c_int()
    assert libc.name_to_handle_at(-100, path.encode(), ctypes.byref(h), ctypes.byref(m), 0) == 0, ctypes.get_errno()
    return h
def opened(root, h):
    """A descriptor and 0, or -1 and the error."""
    fd = libc.open_by_handle_at(root, ctypes.byref(h), os.O_RDONLY)
    return fd, 0 if fd >= 0 else ctypes.get_errno()
PY
check "name_to_handle_at, open_by_handle_at" env PYTHONPATH="$WORK" python3 - "$MNT" <<'PY'
import handles, os, sys
path = sys.argv[1] + '/flags'
h = handles.of(path)
root = os.open(sys.argv[1], os.O_RDONLY)
os.sync()
open('/proc/sys/vm/drop_caches', 'w').write('3')
fd, error = handles.opened(root, h)
assert fd >= 0, error
assert os.read(fd, 10) == open(path, 'rb').read(10)
os.close(fd)
os.unlink(path)
open('/proc/sys/vm/drop_caches', 'w').write('3')
assert handles.opened(root, h) == (-1, 116)
PY
# A handle of a file that is gone, with its number on another file by the same number of creations in the next mount: that is
# what a client of an NFS server would hold. It is made by one mount, and used in the next.
handle() {
	PYTHONPATH="$WORK" python3 - "$MNT" "$WORK/handle" "$1" <<'PY'
import handles, os, pickle, sys
mount, kept, what = sys.argv[1:]
path = mount + '/life-' + what
open(path, 'w').write(what)
if what == 'first':
    pickle.dump((os.stat(path).st_ino, bytes(handles.of(path))), open(kept, 'wb'))
    os.unlink(path)
    sys.exit()
number, old = pickle.load(open(kept, 'rb'))
assert os.stat(path).st_ino == number, 'another number: %d, %d' % (os.stat(path).st_ino, number)
fd, error = handles.opened(os.open(mount, os.O_RDONLY), handles.Handle.from_buffer_copy(old))
assert fd < 0 and error == 116, 'opened: %r' % os.read(fd, 10) if fd >= 0 else error
PY
}
detach
attach
check "a file that goes" handle first
detach
attach
check "its handle does not open the file that got its number in the next mount" handle second
detach
fsck_clean "fsck after all this"
finish
