#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# Acceptance 7: 3 writers fill the volume, everything is deleted, again and again: free blocks come back exactly, fsck is
# clean, nobody hangs. ENOSPC_CYCLES (3; the long form is 10), ENOSPC_SIZE (256M).
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
detach
finish
