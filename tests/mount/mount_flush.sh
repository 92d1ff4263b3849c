#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# A slow device. Callers that wait for its flush, more than there are workers: nobody else waits, all are answered, and
# share flushes. A file whose pages are written back, copies, direct writes. A trim that waits for its discards ends when
# its caller is killed.
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
# A lookup takes less than one flush, on the average; with a worker for each who waits it was 80 ms to 13 s.
below() { [ "$1" -lt "$2" ] || { note "$1 is not below $2"; return 1; }; }

# many COUNT KIND RATE: the load that has just run made more than that. A machine that is busy for a moment is no reason:
# up to twice it runs again.
many() {
	for _ in 1 2; do
		below "$3" "$RATE" && return
		load "$1" "$2" || return
	done
	below "$3" "$RATE"
}

# appears FILE: or half a minute has gone.
appears() {
	for _ in $(seq 600); do
		[ -e "$1" ] && break
		sleep 0.05
	done
}

# ended PID [TWENTIETHS OF A SECOND]
ended() {
	for _ in $(seq "${2:-200}"); do
		kill -0 "$1" 2>/dev/null || return 0
		sleep 0.05
	done
	return 1
}

for threads in 8 3 2; do
	attach "threads=$threads"
	for kind in fsync mixed; do
		check "threads=$threads: $kind by 64 callers is answered" load 64 "$kind"
		check "threads=$threads: a lookup meanwhile waits for no flush" below "$LOOKUP" 20000
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
check "64 callers share flushes: eight times as many as one caller makes" many 64 fsync $((ONE * 8))
# Data written in place meanwhile is the next flush's: nobody waits for it.
cat >"$WORK/overwrite.py" <<'PY'
import mmap, os, sys, time
fd = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT | os.O_DIRECT)
os.pwrite(fd, mmap.mmap(-1, 1 << 18), 0)
block, end = mmap.mmap(-1, 4096), time.time() + 30
while time.time() < end:
    os.pwrite(fd, block, 0)
    time.sleep(0.001)
PY
python3 "$WORK/overwrite.py" "$MNT/beside" &
WRITER=$!
check "64 callers beside a writer" load 64 fsync
check "they share flushes as without him" many 64 fsync $((ONE * 8))
kill "$WRITER"
wait "$WRITER" 2>/dev/null
check "400 callers" load 400 fsync
check "a lookup waits for no flush" below "$LOOKUP" 20000

# Changes that are durable when they return.
mkdir "$MNT"/names{0..63}
check "unmounted in order" detach
attach sync
check "sync: one caller" load 1 names
ONE=$RATE
check "sync: one caller writes" load 1 write
ONE_WRITES=$RATE
for threads in 8 3; do
	check "unmounted in order" detach
	attach "sync,threads=$threads"
	check "sync, threads=$threads: 64 callers" load 64 names
	check "sync, threads=$threads: they share flushes" many 64 names $((ONE * 8))
	check "sync, threads=$threads: a lookup waits for no flush" below "$LOOKUP" 20000
	check "sync, threads=$threads: mixed by 64 callers is answered" load 64 mixed
	# The kernel's WRITEs, most of which are kept until it is their turn.
	check "sync, threads=$threads: 64 callers write" load 64 write
	check "sync, threads=$threads: their WRITEs share flushes" many 64 write $((ONE_WRITES * 4))
	check "sync, threads=$threads: a lookup waits for no WRITE's flush" below "$LOOKUP" 20000
done

# What changes while a reply waits is shown afterwards, though the reply says what was before.
check "unmounted in order" detach
export ASHLAR_TEST_FLUSH_MS=500
cat >"$WORK/meanwhile.py" <<'PY'
import mmap, os, sys, threading, time
mount = sys.argv[1]
name = mount + '/read'
os.mkdir(mount + '/linked')
fd = os.open(name, os.O_RDWR | os.O_CREAT | os.O_DIRECT)
os.pwrite(fd, mmap.mmap(-1, 4096), 0)
os.system('chattr +S %s %s/linked' % (name, mount))
def reads_meanwhile(change):
    os.utime(name, (1000, 2000))
    change = threading.Thread(target=change)
    change.start()
    time.sleep(0.2)
    os.preadv(fd, [mmap.mmap(-1, 4096)], 0)
    waits = change.is_alive()
    change.join()
    return waits and os.stat(name).st_atime > 1000
def counts_meanwhile():
    change = threading.Thread(target=lambda: os.unlink(mount + '/linked/name'))
    change.start()
    time.sleep(0.2)
    os.stat(name)
    change.join()
    return os.stat(name).st_nlink
print(reads_meanwhile(lambda: os.chmod(name, 0o600)), reads_meanwhile(lambda: os.link(name, mount + '/linked/name')),
      counts_meanwhile())
PY
attach
timeout 60 python3 "$WORK/meanwhile.py" "$MNT" >"$WORK/shown"
check "chattr +S: a file read while chmod and link wait, a name that goes" same "$(cat "$WORK/shown")" "True True 1"
rm -r "$MNT/read" "$MNT/linked"

# One file of scattered pages is written back, on a slow disk: the kernel sends them all at once.
check "unmounted in order" detach
unset ASHLAR_TEST_FLUSH_MS
export ASHLAR_TEST_WRITE_US=1000
export PYTHONPATH=$WORK
cat >"$WORK/lookups.py" <<'PY'
import os, time
# Until `end`: how long they take on the average, and at most, in microseconds.
def lookups(mount, end):
    took = []
    while time.time() < end:
        start = time.time()
        os.access('%s/absent%d' % (mount, len(took)), os.F_OK)
        took.append(time.time() - start)
        time.sleep(0.002)
    return 1e6 * sum(took) / len(took), 1e6 * max(took)
PY
cat >"$WORK/pages.py" <<'PY'
import os, sys, time
from lookups import lookups

# What is written in the cache, again and again, and has to be written back.
def scattered(fd):
    for i in range(12000):
        os.pwrite(fd, b'x' * 4096, i * 8192)
    os.fsync(fd)
    os.ftruncate(fd, 0)

def large(fd):
    for i in range(150):
        if time.time() < end:
            os.pwrite(fd, b'x' * (1 << 20), i << 20)

fd = os.open(sys.argv[1] + '/pages', os.O_RDWR | os.O_CREAT)
end, child = time.time() + 4, os.fork()
if child == 0:
    while time.time() < end:
        globals()[sys.argv[2]](fd)
    os._exit(0)
took = lookups(sys.argv[1], end)
os.waitpid(child, 0)
os.close(fd)
print('%d %d' % took)
PY
# write_back KIND: a lookup waits for no other file's pages.
write_back() {
	local threads
	for threads in 8 3; do
		attach "threads=$threads"
		LOOKUP=999999
		read -r LOOKUP LONGEST < <(timeout 100 python3 "$WORK/pages.py" "$MNT" "$1")
		note "a lookup $LOOKUP us, the longest $LONGEST us"
		check "threads=$threads: a lookup waits for no $1 pages of a file" below "$LOOKUP" 20000
		rm "$MNT/pages"
		check "threads=$threads: unmounted in order" detach
	done
}
write_back scattered
# To a disk of 100 MB/s: the kernel sends the pages of a large file in 64 WRITEs of a megabyte at once.
export ASHLAR_TEST_WRITE_US=10000
write_back large
export ASHLAR_TEST_WRITE_US=1000
# As many copies as there are callers.
cat >"$WORK/copies.py" <<'PY'
import os, sys, threading, time
from lookups import lookups
mount, size = sys.argv[1], int(sys.argv[3])
source = os.open(mount + '/source', os.O_RDWR | os.O_CREAT)
os.pwrite(source, b'x' * size, 0)
os.fsync(source)
end, copied = time.time() + 4, [0] * int(sys.argv[2])
def copy(number):
    fd = os.open('%s/copy%d' % (mount, number), os.O_RDWR | os.O_CREAT)
    while time.time() < end:
        copied[number] += os.copy_file_range(source, fd, size, 0, 0)
threads = [threading.Thread(target=copy, args=(i,)) for i in range(len(copied))]
[t.start() for t in threads]
took = lookups(mount, end)
[t.join() for t in threads]
print('%d %d %d' % (*took, min(copied)))
PY
for callers in 16 120; do
	attach threads=8
	LOOKUP=999999 LEAST=0
	timeout 100 python3 "$WORK/copies.py" "$MNT" "$callers" $(((128 << 20) / callers)) >"$WORK/copied"
	read -r LOOKUP LONGEST LEAST <"$WORK/copied"
	note "a lookup $LOOKUP us, the longest $LONGEST us; each caller copied $LEAST bytes at least"
	check "a lookup waits for no copies of $callers callers" below "$LOOKUP" 20000
	check "each of $callers callers copies" below 0 "$LEAST"
	rm "$MNT"/copy* "$MNT/source"
	check "unmounted in order" detach
	export ASHLAR_TEST_WRITE_US=10000
done
# O_SYNC past the page cache of a file with chattr +S: whoever has waited for that counts once, and is not missed later.
cat >"$WORK/two_copies.py" <<'PY'
import mmap, os, sys, threading, time
mount = sys.argv[1]
source = os.open(mount + '/source', os.O_RDWR | os.O_CREAT)
os.pwrite(source, b'x' * (1 << 20), 0)
os.fsync(source)
def copy(number):
    os.copy_file_range(source, os.open('%s/copy%d' % (mount, number), os.O_RDWR | os.O_CREAT), 1 << 20, 0, 0)
def copies():
    threads = [threading.Thread(target=copy, args=(i,)) for i in range(2)]
    start = time.time()
    [t.start() for t in threads]
    [t.join() for t in threads]
    return 1e3 * (time.time() - start)
copies()
before = min(copies() for _ in range(3))
fd = os.open(mount + '/durable', os.O_RDWR | os.O_CREAT | os.O_DIRECT | os.O_SYNC)
os.system('chattr +S %s/durable' % mount)
for i in range(8):
    os.pwrite(fd, mmap.mmap(-1, 4096), i * 4096)
print('%d %d' % (before, min(copies() for _ in range(3))))
PY
export ASHLAR_TEST_WRITE_US=50000
attach threads=4
BEFORE=0 AFTER=999999
timeout 60 python3 "$WORK/two_copies.py" "$MNT" >"$WORK/copied"
read -r BEFORE AFTER <"$WORK/copied"
note "two copies took $BEFORE ms, and $AFTER ms afterwards"
check "O_SYNC and chattr +S: two copies are made at once as before" below "$AFTER" $((BEFORE * 3 / 2))
rm "$MNT"/copy* "$MNT/source"
check "unmounted in order" detach
# Direct writes that cannot be asynchronous: of 100 callers, a lookup waited for all.
export ASHLAR_TEST_WRITE_US=10000
for threads in 8 3; do
	attach "threads=$threads"
	for kind in direct odsync; do
		check "threads=$threads: $kind by 100 callers is answered" load 100 "$kind"
		check "threads=$threads: a lookup waits for no write of theirs" below "$LOOKUP" 20000
	done
	rm "$MNT"/direct* "$MNT"/sync*
	check "threads=$threads: unmounted in order" detach
done
# Appends to append-only files come past the page cache, too, and wait when our own buffer is full.
for threads in 8 3; do
	attach
	touch "$MNT"/append{0..99}
	chattr +a "$MNT"/append*
	check "threads=$threads: unmounted in order" detach
	attach "threads=$threads,write_behind=1"
	check "threads=$threads: appends by 100 callers are answered" load 100 appends
	check "threads=$threads: a lookup waits for no append of theirs" below "$LOOKUP" 20000
	chattr -a "$MNT"/append*
	rm "$MNT"/append*
	check "threads=$threads: unmounted in order" detach
done
# What was kept meanwhile is written as it was given: parts of blocks, blocks, and what is too long to be copied.
cat >"$WORK/direct.py" <<'PY'
import mmap, os, sys, threading
mount, verify = sys.argv[1], len(sys.argv) > 2
sizes = [1000, 4096, 65536, 69632, 262144]
def content(number, size):
    return (b'%8d' % number * (size // 8 + 1))[:size]
def write(number):
    size = sizes[number % len(sizes)]
    flags = os.O_DSYNC if number % 3 == 0 else 0
    fd = os.open('%s/given%d' % (mount, number), os.O_RDWR | os.O_CREAT | os.O_DIRECT | flags)
    buffer = mmap.mmap(-1, 2 * size)
    for i in range(2):
        buffer[:size] = content(2 * number + i, size)
        written[number] += os.pwrite(fd, memoryview(buffer)[:size], i * size)
def is_right(number):
    size = sizes[number % len(sizes)]
    with open('%s/given%d' % (mount, number), 'rb') as f:
        return f.read() == content(2 * number, size) + content(2 * number + 1, size)
written = [0] * 150
if not verify:
    threads = [threading.Thread(target=write, args=(i,)) for i in range(len(written))]
    [t.start() for t in threads]
    [t.join() for t in threads]
    sys.exit(any(w != 2 * sizes[i % len(sizes)] for i, w in enumerate(written)))
wrong = [i for i in range(len(written)) if not is_right(i)]
print('# wrong:', wrong)
sys.exit(bool(wrong))
PY
attach
check "150 direct writers of several sizes are answered" timeout 100 python3 "$WORK/direct.py" "$MNT"
check "unmounted in order" detach
attach
check "what they wrote is there" python3 "$WORK/direct.py" "$MNT" verify
rm "$MNT"/given*
check "unmounted in order" detach
# Callers are killed, or the connection ends, while copies or direct writes wait: they are needed no more. All of them
# would take a quarter of a minute.
export ASHLAR_TEST_WRITE_US=500000
cat >"$WORK/cut.py" <<'PY'
import mmap, os, sys, threading
mount, size = sys.argv[1], 2 << 20
source = os.open(mount + '/source', os.O_RDWR | os.O_CREAT)
os.pwrite(source, b'x' * size, 0)
os.fsync(source)
def copy(number):
    fd = os.open('%s/copy%d' % (mount, number), os.O_RDWR | os.O_CREAT)
    try:
        while True:
            os.copy_file_range(source, fd, size, 0, 0)
    except OSError:
        pass
def write(number):
    fd = os.open('%s/copy%d' % (mount, number), os.O_RDWR | os.O_CREAT | os.O_DIRECT)
    try:
        for i in range(1 << 20):
            os.pwrite(fd, mmap.mmap(-1, 4096), i * 4096)
    except OSError:
        pass
job, callers = (write, 200) if sys.argv[3] == 'write' else (copy, 100)
threads = [threading.Thread(target=job, args=(i,)) for i in range(callers)]
[t.start() for t in threads]
open(sys.argv[2], 'w').close()
[t.join() for t in threads]
PY
all_do() {
	rm -f "$WORK/all_do"
	python3 "$WORK/cut.py" "$MNT" "$WORK/all_do" "$1" &
	CALLER=$!
	appears "$WORK/all_do"
	sleep 2
}
for kind in copy write; do
	attach threads=8
	all_do "$kind"
	kill -KILL "$CALLER"
	check "kill -9: nobody waits for the $kind of those who are killed" ended "$CALLER" 160
	wait "$CALLER" 2>/dev/null
	all_do "$kind"
	abort_connection "$(mountpoint -d "$MNT")"
	check "$kind: the connection is cut: the callers end" ended "$CALLER"
	check "$kind: the connection is cut: the daemon does not do those that wait" ended "$DAEMON" 160
	wait "$CALLER" "$DAEMON" 2>/dev/null
	DAEMON=
	umount -l "$MNT" 2>/dev/null
	device_comes_free
done
unset ASHLAR_TEST_WRITE_US
export ASHLAR_TEST_FLUSH_MS=20
attach

# What was acknowledged is there after kill -9, whoever wrote it: a file each, with numbers that grow.
cat >"$WORK/numbers.py" <<'PY'
import mmap, os, sys, threading, time
done = [0] * 48
def write(number):
    flags = (0, 0, os.O_DIRECT | os.O_SYNC, os.O_DIRECT | os.O_DSYNC)[number % 4]
    fd = os.open('%s/number%d' % (sys.argv[1], number), os.O_RDWR | os.O_CREAT | flags)
    block = mmap.mmap(-1, 4096)
    try:
        for value in range(1, 1000000):
            block[0:8] = value.to_bytes(8, 'little')
            os.pwrite(fd, block, 0)
            if number % 4 < 2:
                (os.fsync, os.fdatasync)[number % 4](fd)
            done[number] = value
    except OSError:
        pass
threads = [threading.Thread(target=write, args=(i,)) for i in range(len(done))]
[t.start() for t in threads]
while min(done) < 2 and all(t.is_alive() for t in threads):
    time.sleep(0.05)
open(sys.argv[2], 'w').close()
[t.join() for t in threads]
print(*done)
PY
python3 "$WORK/numbers.py" "$MNT" "$WORK/all_did" >"$WORK/acknowledged" &
CALLER=$!
# On a busy machine it takes a while until each of them was answered twice.
appears "$WORK/all_did"
sleep 1
crash
check "kill -9: the callers come to an end" wait "$CALLER"
attach
acknowledged_is_there() {
	python3 - "$MNT" "$WORK/acknowledged" <<'PY'
import sys
done = [int(word) for word in open(sys.argv[2]).read().split()]
found = [int.from_bytes(open('%s/number%d' % (sys.argv[1], i), 'rb').read(8), 'little') for i in range(len(done))]
print('# acknowledged:', sum(done), 'found:', sum(found))
sys.exit(len(done) != 48 or min(done) < 2 or any(f < d for f, d in zip(found, done)))
PY
}
check "what was acknowledged is there" acknowledged_is_there

# The end of the connection finds callers waiting; they and the daemon come to an end.
"$LOAD" "$MNT" 64 60 mixed >/dev/null 2>&1 &
CALLER=$!
sleep 1
abort_connection "$(mountpoint -d "$MNT")"
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

# A trim has 17 discards to make here, half a second each.
unset ASHLAR_TEST_FLUSH_MS
export ASHLAR_TEST_DISCARD_MS=500
attach
trims() { # PID: it waits in ioctl(FITRIM)
	for _ in $(seq 200); do
		grep -qi 0xc0185879 "/proc/$1/syscall" 2>/dev/null && return
		sleep 0.05
	done
	return 1
}
for signal in INT KILL; do
	# what a shell puts into the background ignores SIGINT
	python3 -c 'import os, signal, sys; signal.signal(signal.SIGINT, signal.SIG_DFL); os.execvp("fstrim", ["fstrim", sys.argv[1]])' "$MNT" &
	TRIM=$!
	check "SIG$signal: fstrim is under way" trims "$TRIM"
	kill -"$signal" "$TRIM"
	check "SIG$signal: it ends" ended "$TRIM" 40
	wait "$TRIM" 2>/dev/null
done
check "unmounted in order" detach
fsck_clean "fsck -n finds nothing"
finish
