#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# Data in the large: trees, big files, random access checked by fio, concurrent writers, mmap, trim.
. "$(dirname "$0")/lib.sh"
start
volume 1G
attach
mkdir "$MNT/tree"
cp -a /usr/include/linux /usr/include/asm-generic "$MNT/tree/" 2>/dev/null
check "tree copied" diff -r /usr/include/linux "$MNT/tree/linux"
detach
attach
check "tree after mounting again" diff -r /usr/include/linux "$MNT/tree/linux"
(cd /usr/include && tar cf - linux) | tar xf - -C "$MNT"
check "untar" diff -r /usr/include/linux "$MNT/linux"
dd if=/dev/urandom of="$WORK/random" bs=1M count=150 status=none
cp "$WORK/random" "$MNT/random"
check "150 MiB, from the page cache" cmp "$WORK/random" "$MNT/random"
drop_caches
check "150 MiB, from the device" cmp "$WORK/random" "$MNT/random"
dd if="$WORK/random" of="$MNT/direct" bs=1M oflag=direct status=none
drop_caches
check "150 MiB by O_DIRECT" cmp "$WORK/random" "$MNT/direct"
rm "$MNT/direct" "$WORK/random"
python3 - "$MNT" <<'PY'
import os, random, sys
random.seed(7)
size = 3 << 20
model = bytearray()
path = sys.argv[1] + '/model'
fd = os.open(path, os.O_RDWR | os.O_CREAT)
for turn in range(3000):
    kind = random.random()
    at = random.randrange(size)
    n = random.choice([1, 100, 4096, 5000, 65536, 200000])
    if kind < 0.55:
        data = os.urandom(n)
        if len(model) < at:
            model.extend(bytes(at - len(model)))
        model[at:at + n] = data
        os.pwrite(fd, data, at)
    elif kind < 0.9:
        assert os.pread(fd, n, at) == bytes(model[at:at + n]), 'turn %d at %d' % (turn, at)
    elif kind < 0.95:
        os.ftruncate(fd, at)
        model = model[:at] + bytes(max(0, at - len(model)))
    elif kind < 0.98:
        os.fsync(fd)
    else:
        open('/proc/sys/vm/drop_caches', 'w').write('1')
os.close(fd)
assert open(path, 'rb').read() == bytes(model)
PY
check "random reads, writes and truncations equal a model" same $? 0
python3 - "$MNT" <<'PY'
import os, sys, threading
def writer(k):
    fd = os.open('%s/shared' % sys.argv[1], os.O_RDWR | os.O_CREAT)
    for i in range(200):
        os.pwrite(fd, bytes([k]) * 10000, (i * 8 + k) * 10000)
        if i % 50 == 0:
            os.fsync(fd)
threads = [threading.Thread(target=writer, args=(k,)) for k in range(8)]
[t.start() for t in threads]; [t.join() for t in threads]
data = open('%s/shared' % sys.argv[1], 'rb').read()
sys.exit(any(data[(i * 8 + k) * 10000:(i * 8 + k + 1) * 10000] != bytes([k]) * 10000 for i in range(200) for k in range(8)))
PY
check "8 writers in one file" same $? 0
if needs fio "fio, verified"; then
	fio --name=verify --directory="$MNT" --rw=randwrite --bs=4k-64k --size=64M --verify=crc32c --direct=1 --ioengine=libaio \
		--iodepth=16 --numjobs=2 --group_reporting --minimal >"$WORK/fio" 2>&1
	check "fio: O_DIRECT random writes at depth 16, verified" same $? 0
	fio --name=mmap --directory="$MNT" --rw=randrw --bs=4k --size=32M --verify=crc32c --ioengine=mmap --minimal >"$WORK/fio" 2>&1
	check "fio: mmap, verified" same $? 0
	rm -f "$MNT"/verify.* "$MNT"/mmap.*
fi

# Extents that do not continue each other, none of them written: what SEEK_DATA has to look through, by no worker.
worker_ticks() { cat /proc/"$DAEMON"/task/*/stat | awk '/ashlarfs-worker/ { ticks += $14 + $15 } END { print ticks }'; }
few() { [ "$1" -lt "$2" ] || { note "$1 is not below $2"; return 1; }; }
python3 - "$MNT/shattered" <<'PY'
import os, sys
fd = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT)
for block in reversed(range(100000)):
    os.posix_fallocate(fd, block * 4096, 4096)
PY
before=$(worker_ticks)
python3 - "$MNT/shattered" <<'PY'
import os, sys
fd = os.open(sys.argv[1], os.O_RDONLY)
for i in range(60):
    try:
        os.lseek(fd, 0, os.SEEK_DATA)
        sys.exit(1)
    except OSError:
        pass
    if os.lseek(fd, 0, os.SEEK_HOLE) != 0:
        sys.exit(1)
PY
check "100000 unwritten extents are no data" same $? 0
check "looking through them keeps no worker" few $(($(worker_ticks) - before)) 30
rm "$MNT/shattered"
check "fstrim" fstrim "$MNT"
check_fails "fstrim of less than a block" fstrim -l 4095 "$MNT"
check_fails "fstrim of no less than there can be" fstrim -m 1G "$MNT"
check "FIBMAP gives a block" python3 -c "
import fcntl, os, struct
fd = os.open('$MNT/random', os.O_RDONLY)
os.fsync(fd)
assert struct.unpack('i', fcntl.ioctl(fd, 1, struct.pack('i', 0)))[0] > 0"
# swapon(2) asks the same of each block, and refuses a file with a hole.
fallocate -l 1M "$MNT/swap" && chmod 600 "$MNT/swap" && mkswap -q "$MNT/swap"
check "swapon takes a file made by fallocate" swapon "$MNT/swap"
check "swapoff" swapoff "$MNT/swap"
truncate -s 2M "$MNT/swap"
mkswap -q "$MNT/swap"
check_fails "swapon refuses one with a hole" swapon "$MNT/swap"
rm "$MNT/swap"
if needs sqlite3 "sqlite3"; then
	sqlite3 "$MNT/db" "create table t(x); with recursive c(x) as (select 1 union all select x+1 from c where x<20000) insert into t select x from c;"
	check "sqlite3" same "$(sqlite3 "$MNT/db" 'select count(*), sum(x) from t; pragma integrity_check;' | tr '\n' ' ')" "20000|200010000 ok "
fi
detach
fsck_clean "fsck after all this"

# ---- Requests that came together ----
# A read of written blocks is submitted, for others wait behind it; those, writes behind the end of file, are not. It must be
# at the device before the first of them is done, not after the last. A stopped daemon lets them queue up in this order.
attach
python3 - "$MNT" "$DAEMON" <<'PY'
import mmap, os, signal, sys, threading, time
mount, daemon = sys.argv[1], int(sys.argv[2])
page, mib = mmap.mmap(-1, 4096), mmap.mmap(-1, 1 << 20)
fd = os.open(mount + '/first', os.O_RDWR | os.O_CREAT)
os.write(fd, b'x' * (1 << 20))
os.fsync(fd)
ends, threads = [], []
def call(name, function, *arguments):
    function(*arguments)
    ends.append(name)
def start(*arguments):
    threads.append(threading.Thread(target=call, args=arguments))
    threads[-1].start()
    time.sleep(0.02)
read = os.open(mount + '/first', os.O_RDONLY | os.O_DIRECT)
writes = [os.open('%s/behind%d' % (mount, i), os.O_RDWR | os.O_CREAT | os.O_DIRECT) for i in range(40)]
os.preadv(read, [page], 0)  # what only the first of them asks for, access time and capabilities, is over
for write in writes:
    os.pwritev(write, [page], 0)
os.kill(daemon, signal.SIGSTOP)
try:
    start('read', os.preadv, read, [page], 8192)
    for write in writes:
        start('write', os.pwritev, write, [mib], 4096)
finally:
    os.kill(daemon, signal.SIGCONT)
for thread in threads:
    thread.join()
print('# the read was answered as number %d of %d' % (ends.index('read') + 1, len(ends)))
for i in range(40):
    os.unlink('%s/behind%d' % (mount, i))
sys.exit(ends.index('read') > 20 or page[:4096] != b'x' * 4096)
PY
check "a read is not kept waiting for what came after it" same $? 0
detach

# ---- write_behind= ----
# 20 MiB of small files, with nothing old enough to go: under half of 64 MiB all of it stays in memory, with the default the
# worker brings it down to 8 MiB. Sectors are field 7 of /sys/block/NAME/stat.
sectors_written() { awk '{ print $7 }' "/sys/block/${LOOP#/dev/}/stat"; }
small_files() {
	local before name
	before=$(sectors_written)
	for name in $(seq 80); do head -c 256K /dev/zero | tr '\0' "${name: -1}" >"$MNT/behind.$name"; done
	for _ in $(seq 50); do
		written=$((($(sectors_written) - before) / 2048))
		[ "$written" -ge "$1" ] && break
		sleep 0.1
	done
}
attach commit=3600,write_behind=64
small_files 12
check "write_behind=64 keeps 20 MiB ($written MiB written)" [ "$written" -lt 2 ]
detach
attach commit=3600
check "they are there" same "$(cat "$MNT"/behind.* | wc -c)" $((20 << 20))
rm "$MNT"/behind.*
sync_all
small_files 12
check "the default does not ($written MiB written)" [ "$written" -ge 12 ]
rm "$MNT"/behind.*
detach

# ---- no memory ----
# A leader without memory for one more buffer: those in flight have some to give back, if it asks how they are.
attach
HELPER=$(program mount_helper) || exit 77
dd if=/dev/zero of="$MNT/memory" bs=1M count=64 status=none
sync_all
"$HELPER" depth read "$MNT/memory" 4 1 >/dev/null
size=$(awk '/^VmSize/ { print $2 }' "/proc/$DAEMON/status")
prlimit --pid "$DAEMON" --as=$(((size + 1500) * 1024)):
check "40 reads at once with memory for few of them" timeout -s KILL 30 "$HELPER" depth read "$MNT/memory" 40 2 >/dev/null
check "and others are answered" same "$(timeout -s KILL 10 ls "$MNT/nowhere" 2>/dev/null; echo $?)" 2
prlimit --pid "$DAEMON" --as=unlimited:
rm "$MNT/memory"
check "unmounted after that" detach

# ---- half a read ----
# The kernel shows zeroes for what a READ does not answer. So when the device ends between two extents, a read over both
# must be an error: not the first half, and zeroes.
attach
cut=$(python3 - "$MNT" <<'PY'
import fcntl, os, struct, sys
one, two = [os.open(sys.argv[1] + '/' + name, os.O_CREAT | os.O_RDWR) for name in ('one', 'two')]
for i in range(500):
    for fd in (one, two):
        os.pwrite(fd, b'1' * 32768, i * 32768)
        os.fsync(fd)
blocks = [struct.unpack('i', fcntl.ioctl(one, 1, struct.pack('i', i)))[0] for i in range(4000)]
edges = [i for i in range(1000, 3900) if blocks[i] > blocks[i - 1] + 1 and max(blocks[i - 8:i]) == blocks[i - 1]
         and min(blocks[i:i + 8]) == blocks[i]]
print(edges[0], blocks[edges[0] - 1] + 1) if edges else print()
PY
)
if [ -z "$cut" ]; then
	skipped "half a read is an error, not zeroes" "no two extents that lie apart"
else
	sync_all
	truncate -s $((${cut#* } * 4096)) "$IMAGE"
	losetup -c "$LOOP"
	echo 3 >/proc/sys/vm/drop_caches
	python3 - "$MNT/one" "${cut% *}" <<'PY'
import os, sys
fd, edge = os.open(sys.argv[1], os.O_RDONLY), int(sys.argv[2])
os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_RANDOM)
try:
    got = os.pread(fd, 65536, (edge - 8) * 4096)
except OSError:
    sys.exit(0)
print('# %d bytes, zeroes among them: %s' % (len(got), 0 in got))
sys.exit(len(got) > 32768)
PY
	check "half a read is an error, not zeroes" same $? 0
fi
umount "$MNT"
wait "$DAEMON"
DAEMON=
finish
