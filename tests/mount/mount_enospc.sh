#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# Acceptance 7: 3 writers fill the volume, everything is deleted, again and again: free blocks come back exactly, fsck is
# clean, nobody hangs. ENOSPC_CYCLES (3; the long form is 10), ENOSPC_SIZE (256M). And write(2) fails when what it wrote
# before found no room, for as long as that is so.
. "$(dirname "$0")/lib.sh"
start
case ${ASHLAR_TEST_LEVEL:-quick} in long | deep) CYCLES=10 ;; *) CYCLES=3 ;; esac
CYCLES=${ENOSPC_CYCLES:-$CYCLES}
volume "${ENOSPC_SIZE:-256M}"
attach
free_blocks() { stat -f -c %f "$MNT"; }
cat >"$WORK/fill.py" <<'PY'
import errno, os, sys
base, size = sys.argv[1], int(sys.argv[2])
os.makedirs(base)
n = 0
try:
    while True:
        fd = os.open('%s/%d' % (base, n), os.O_CREAT | os.O_WRONLY)
        try:
            data = b'%d' % n * (size // len(b'%d' % n) + 1)
            while data:
                data = data[os.write(fd, data[:size]):]
                if len(data) <= len(b'%d' % n):
                    break
        finally:
            os.close(fd)
        n += 1
except OSError as error:
    if error.errno != errno.ENOSPC:
        raise
print(n)
PY
# The inode file grows with the number of files there are at a time, and stays: let it grow beyond what a cycle needs.
python3 -c "
import os
os.mkdir('$MNT/inodes')
for i in range(24000):
    os.mknod('$MNT/inodes/%d' % i)"
rm -rf "$MNT/inodes"
# What a cycle adds to the inode table stays: runs, and now and then a node of the table's own tree. Nothing else may.
info() { "$ASHLARCTL" info --json "$LOOP" | python3 -c "import json, sys; print(json.load(sys.stdin)['$1'])"; }
table_blocks() { "$ASHLARCTL" dump "$LOOP" inode:0 | awk '$1 == "blocks" { print $2 }'; }
detach
table_before=$(table_blocks)
run_blocks=$(($(info inodes_per_run) / 8 + 1))
attach
baseline=$(free_blocks)
back() { [ "$1" -le "$baseline" ] && [ $(((baseline - $1) % run_blocks)) -le 1 ]; } # exactly at the end
for cycle in $(seq "$CYCLES"); do
	pids=()
	for spec in small:3000 middle:100000 large:3000000; do
		timeout 120 python3 "$WORK/fill.py" "$MNT/${spec%:*}" "${spec#*:}" >"$WORK/${spec%:*}" 2>"$WORK/${spec%:*}.err" &
		pids+=($!)
	done
	good=1
	for pid in "${pids[@]}"; do wait "$pid" || good=0; done
	cat "$WORK"/*.err | sed 's/^/# /'
	check "cycle $cycle: three writers end with ENOSPC ($(cat "$WORK/small") $(cat "$WORK/middle") $(cat "$WORK/large") files)" same $good 1
	check "cycle $cycle: the volume is nearly full" [ "$(stat -f -c %a "$MNT")" -lt 1500 ]
	check "cycle $cycle: removing works on a full volume" rm -rf "$MNT/small" "$MNT/middle" "$MNT/large"
	sync_all
	free=$(free_blocks)
	# The kernel sends FORGETs when it likes: a few seconds are allowed.
	for _ in $(seq 50); do
		back "$free" && break
		sleep 0.1
		sync_all
		free=$(free_blocks)
	done
	check "cycle $cycle: free blocks are back ($free of $baseline, runs of $run_blocks)" back "$free"
	check "cycle $cycle: there is room again" eval 'dd if=/dev/zero of="$MNT/room" bs=1M count=50 status=none && rm "$MNT/room"'
done
detach
fsck_clean "fsck after all this"
grown=$(($(table_blocks) - table_before))
attach
check "only what the inode table grew by is missing: $grown blocks" same "$(($(free_blocks) + grown))" "$baseline"

# The kernel does not look at the count that a WRITE of its cached pages answers: half of a file must not pass for all.
python3 - "$MNT" >"$WORK/acknowledged" <<'PY'
import os, sys
os.chdir(sys.argv[1])
fill = os.open('fill', os.O_CREAT | os.O_WRONLY)
want = os.statvfs('.').f_bavail * 4096 - 2000000
while want > 0:
    try:
        os.posix_fallocate(fill, 0, want)
        break
    except OSError:
        want -= 500000
for i in range(1000):
    try:
        fd = os.open('edge%d' % i, os.O_CREAT | os.O_WRONLY)
        os.write(fd, bytes([65 + i % 26]) * (90000 + i))
        os.fsync(fd)
    except OSError:
        break
    print(i)
PY
drop_caches
check "a full volume: what was fsynced is there ($(wc -l <"$WORK/acknowledged") files)" python3 -c "
import sys
numbers = [int(line) for line in open('$WORK/acknowledged')]
bad = [i for i in numbers if open('$MNT/edge%d' % i, 'rb').read() != bytes([65 + i % 26]) * (90000 + i)]
print('# bad:', bad) if bad else None
sys.exit(bool(bad) or not numbers)"

# One line for each behaviour: a name, then "ok" or what was wrong. The kernel is made to write back
# (POSIX_FADV_DONTNEED), for it need not before a tenth of the memory is dirty.
cat >"$WORK/full.py" <<'PY'
import errno, os, sys, time
os.chdir(sys.argv[1])
MIB = 1 << 20

def error_of(call, *arguments):
    try:
        call(*arguments)
    except OSError as error:
        return errno.errorcode[error.errno]
    return 'no error'

def expect(name, got, want):
    print('%s\t%s' % (name, 'ok' if got == want else ('got %r' % (got,))[:200]), flush=True)

def pattern(offset, length):
    return b''.join(b'%015d\n' % at for at in range(offset, offset + length, 16))

def fill(name, left):
    fd = os.open(name, os.O_CREAT | os.O_WRONLY)
    size = os.fstat(fd).st_size
    step = 16 * MIB
    while step >= 4096:
        if os.statvfs('.').f_bavail * 4096 > left + step and \
                error_of(os.posix_fallocate, fd, size, step) == 'no error':
            size += step
        else:
            step //= 2
    os.close(fd)

# Until it fails: the error.
def run_away(fd, limit=512 * MIB, write_back=True):
    size = os.fstat(fd).st_size
    while size < limit:
        try:
            size += os.write(fd, pattern(size, MIB))
        except OSError as error:
            return errno.errorcode[error.errno]
        if write_back:
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
            time.sleep(0.002)
    return 'no error'

def open_for_append(name):
    return os.open(name, os.O_CREAT | os.O_RDWR | os.O_APPEND)

other = os.open('other', os.O_CREAT | os.O_RDWR)
os.write(other, b'a' * MIB)
os.fsync(other)
room = os.open('room', os.O_CREAT | os.O_RDWR)
os.posix_fallocate(room, 0, 8 * MIB)
os.close(room)
fill('rest', 2 * MIB)

if sys.argv[3] == 'limited':
    unasked = open_for_append('unasked')
    expect('ENOSPC long before a tenth of the memory is dirty', run_away(unasked, 128 * MIB, write_back=False), 'ENOSPC')
    print('# %d MiB were taken' % (os.fstat(unasked).st_size // MIB))
    error_of(os.fsync, unasked)
    os.unlink('unasked')

fd = open_for_append('runaway')
expect('who writes on without looking gets ENOSPC', run_away(fd), 'ENOSPC')
size = os.fstat(fd).st_size
direct = os.open('runaway', os.O_RDONLY | os.O_DIRECT)
scratch = os.open(sys.argv[2], os.O_CREAT | os.O_RDWR | os.O_TRUNC)
error_of(os.sendfile, scratch, direct, 0, 4096) # reads past the cache are told of the failure, too: once
print('# %d MiB were taken before' % (size // MIB))
expect('so does every further write', [error_of(os.write, fd, b'x') for _ in range(20)], ['ENOSPC'] * 20)
expect('so do its other forms', [error_of(os.writev, fd, [b'x']), error_of(os.pwrite, fd, b'x', size),
    error_of(os.pwritev, fd, [b'x'], size)], ['ENOSPC'] * 3)
source = os.open('/proc/self/exe', os.O_RDONLY)
plain = os.open('runaway', os.O_WRONLY)
expect('so does sendfile into it', error_of(os.sendfile, plain, source, 0, 4096), 'ENOSPC')
expect('and by another name of it, opened now', (os.link('runaway', 'runaway2'),
    error_of(os.write, open_for_append('runaway2'), b'x'))[1], 'ENOSPC')

def readers():
    yield 'stat', os.stat('runaway').st_size, size
    yield 'fstat', os.fstat(fd).st_size, size
    yield 'lseek to the end', os.lseek(fd, 0, os.SEEK_END), size
    yield 'a read at the end', os.read(fd, 100), b''
    yield 'a read across the end', os.pread(fd, 8192, size - 100), pattern(size - 112, 112)[12:]
    yield 'a read within it', os.pread(fd, 4096, 0), pattern(0, 4096)
    yield 'sendfile from its end', os.sendfile(scratch, fd, size - 100, 8192), 100
    yield 'sendfile from its end past the cache', os.sendfile(scratch, direct, size - 4096, 8192), 4096
for name, got, want in readers():
    expect('%s goes on' % name, got, want)
wrong = []
for _ in range(50):
    try:
        wrong += [name for name, got, want in readers() if got != want]
    except OSError as error:
        wrong.append(str(error))
expect('again and again, after each answer that is valid for no time', wrong, [])
expect('another file can be overwritten', os.pwrite(other, b'b' * 65536, 4096), 65536)
expect('and fsynced', error_of(os.fsync, other), 'no error')

os.unlink('room')
data = pattern(0, MIB)
expect('when there is room again the same descriptor writes', error_of(os.write, fd, data), 'no error')
expect('fsync tells of the data that was lost', error_of(os.fsync, fd), 'ENOSPC')
expect('once', error_of(os.fsync, fd), 'no error')
expect('and writes go on', error_of(os.write, fd, data), 'no error')
expect('fsync, too', error_of(os.fsync, fd), 'no error')
print('=%d' % size)

fill('rest', 2 * MIB)
fd = open_for_append('again')
expect('full again: ENOSPC', run_away(fd), 'ENOSPC')
expect('fsync tells it', error_of(os.fsync, fd), 'ENOSPC')
expect('a second one finds nothing to tell', error_of(os.fsync, fd), 'no error')
plain = os.open('again', os.O_RDWR)
expect('then blocks that the file has can be overwritten', error_of(os.pwrite, plain, b'c' * 4096, 0), 'no error')
expect('and fsynced after that', error_of(os.fsync, plain), 'no error')
expect('ENOSPC once more', run_away(fd), 'ENOSPC')
expect('each open file is told by fsync', [error_of(os.fsync, fd), error_of(os.fsync, plain)], ['ENOSPC'] * 2)
expect('and write goes on to fail', error_of(os.write, fd, b'x'), 'ENOSPC')
os.ftruncate(plain, 4096)
expect('a truncated file can be written', error_of(os.pwrite, plain, b'd' * 4096, 0), 'no error')
expect('and fsynced, too', error_of(os.fsync, plain), 'no error')
PY
rm -f "$MNT/fill" "$MNT"/edge*
sync_all
limited=$(kernel_since 6.14 && echo limited)
timeout 300 python3 "$WORK/full.py" "$MNT" "$WORK/scratch" "$limited" >"$WORK/full.out" 2>"$WORK/full.err"
check "the looks at a full volume were all made" same $? 0
sed 's/^/# /' "$WORK/full.err"
while IFS=$'\t' read -r name result; do
	case $name in
	'#'*) note "${name#\# }" ;;
	=*) size=${name#=} ;;
	*) check "a full volume: $name" same "$result" ok ;;
	esac
done <"$WORK/full.out"
drop_caches
check "what was written when there was room again is there" python3 -c "
import sys
data = b''.join(b'%015d\n' % at for at in range(0, 1 << 20, 16))
with open('$MNT/runaway', 'rb') as file:
    file.seek(${size:-0})
    sys.exit(file.read() != data * 2)"
check "and what was overwritten" python3 -c "
import sys
a, b = b'a', b'b'
sys.exit(open('$MNT/other', 'rb').read() != a * 4096 + b * 65536 + a * ((1 << 20) - 4096 - 65536))"

# From one Ashlar volume to another: files of both may have the same number.
cat >"$WORK/between.py" <<'PY'
import errno, os, sys, time
full, second = sys.argv[1:]
MIB = 1 << 20

def same_number():
    names = {}
    for i in range(300):
        for mount in (full, second):
            name = '%s/number%d' % (mount, i)
            os.mknod(name)
            other = names.setdefault(os.stat(name).st_ino, name)
            if os.path.dirname(other) != mount:
                return (name, other) if mount == full else (other, name)

# Until it fails or the file ends: the error, and how much.
def run(copy, source, target):
    source, target = os.open(source, os.O_RDONLY), os.open(target, os.O_WRONLY | os.O_TRUNC)
    done = 0
    try:
        while True:
            more = copy(source, target)
            done += more
            if more == 0:
                return 'no error', done
            os.posix_fadvise(target, 0, 0, os.POSIX_FADV_DONTNEED)
            time.sleep(0.002)
    except OSError as error:
        return errno.errorcode[error.errno], done

def with_splice(source, target):
    ends = os.pipe()
    try:
        done = os.splice(source, ends[1], 65536)
        while done and os.splice(ends[0], target, done) == 0:
            pass
        return done
    finally:
        os.close(ends[0])
        os.close(ends[1])

copies = (('sendfile', lambda source, target: os.sendfile(target, source, None, MIB)),
    ('copy_file_range', lambda source, target: os.copy_file_range(source, target, MIB)))
if hasattr(os, 'splice'): # Python 3.10
    copies += ('splice', with_splice),
target, source = same_number()
with open(source, 'wb') as file:
    for _ in range(256):
        file.write(b'x' * MIB)
        file.flush()
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
for name, copy in copies:
    print('%s to a full one\t%s' % (name, run(copy, source, target)[0]), flush=True)
os.mknod(second + '/copy')
size = os.stat(target).st_size
for other in second + '/copy', source: # the second has its number
    for name, copy in copies:
        error, done = run(copy, target, other)
        if done != size:
            error = '%d of %d' % (done, size)
        print('%s of its file to another one\t%s' % (name, error), flush=True)
PY
mkdir "$WORK/second"
truncate -s 1G "$WORK/image2"
SECOND=$(loop_attach "$WORK/image2")
"$MKFS" -q "$SECOND"
"$ASHLARFS" "$SECOND" "$WORK/second" -f 2>>"$WORK/log" &
BESIDE=$!
for _ in $(seq 200); do
	mountpoint -q "$WORK/second" && break
	sleep 0.05
done
timeout 120 python3 "$WORK/between.py" "$MNT" "$WORK/second" >"$WORK/between.out"
check "copies between two volumes came to an end" same $? 0
while IFS=$'\t' read -r name result; do
	case $name in
	*full*) check "a full volume: $name" same "$result" ENOSPC ;;
	*) check "a full volume: $name" same "$result" "no error" ;;
	esac
done <"$WORK/between.out"
umount "$WORK/second"
wait "$BESIDE"
losetup -d "$SECOND"
# O_DIRECT, of which the last one finds room for a part: behind the end, and in a hole.
cat >"$WORK/direct.py" <<'PY'
import errno, mmap, os, sys
MIB = 1 << 20
block = mmap.mmap(-1, MIB)
for name, size in ('growing', 0), ('hole', 1 << 40):
    path = sys.argv[1] + '/' + name
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_DIRECT)
    os.ftruncate(fd, size)
    done = 0
    try:
        while True:
            block[:] = done.to_bytes(8, 'big') * (MIB // 8)
            assert os.pwrite(fd, block, done * MIB) == MIB
            done += 1
    except OSError as error:
        result = errno.errorcode[error.errno]
    bad = 0
    for i in range(done):
        assert os.preadv(fd, [block], i * MIB) == MIB
        bad += block[:] != i.to_bytes(8, 'big') * (MIB // 8)
    now = os.fstat(fd).st_size
    print('%s %s %d bad, %s' % (name, result if done > 9 else 'too early', bad, now == (size or done * MIB)), flush=True)
    os.close(fd)
    os.unlink(path)
    os.sync()
PY
rm -rf "${MNT:?}"/*
sync_all
# Of an odd number of blocks: the last MiB does not fit.
for i in 1 2 3; do head -c 4096 /dev/urandom >"$MNT/block$i"; done
sync_all
timeout 120 python3 "$WORK/direct.py" "$MNT" >"$WORK/direct.out"
check "a full volume: O_DIRECT behind the end and in a hole" same "$(cat "$WORK/direct.out")" \
	"growing ENOSPC 0 bad, True
hole ENOSPC 0 bad, True"
detach
fsck_clean "fsck of the full volume"
finish
