#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# A very large directory, and many inodes in the kernel's cache, on a mounted volume. TAP.
# long: 1 000 000 entries, 200 000 files stat'ed; quick: a tenth.
. "$(dirname "$0")/large_common.sh"
start
entries=100000 files=20000
is_long && entries=1000000 files=200000
BENCH=$(program bench_entries) || exit 1
bench() { "$BENCH" "$1" "$MNT/d" "$2" || { echo "Bail out! bench_entries $1"; exit 1; }; }
table_blocks() { record 0 | awk '$1 == "blocks" { print $2 }'; }

volume 4G
attach
mkdir "$MNT/d"
detach
free_before=$(figure free_blocks) table_before=$(table_blocks)

attach
live_before=$(stat -f -c %f "$MNT")
rates=$(bench create "$entries")
timed "create rate at the end at least half of the start: $rates per second" under "${rates% *}" "$((${rates#* } * 2))"
detach
attach # with nothing in the server's own cache
median=$(bench cold "$entries")
timed "a cold lookup takes less than 1 ms: $median us, the median" under "$median" 1000
listed=$(ls -f "$MNT/d" | wc -l)
check "ls -f lists $listed" same "$listed" $((entries + 2))
bench lookup-all "$files"
rss=$(awk '/^VmRSS/ { print int($2 / 1024) }' "/proc/$DAEMON/status")
check "$files files stat'ed: the server has $rss MiB resident, under 350" under "$rss" 350
bench remove "$entries"
sync -f "$MNT"
sleep 4 # for the kernel's FORGETs
sync -f "$MNT"
live_missing=$((live_before - $(stat -f -c %f "$MNT")))
check "umount" detach

# What the volume itself says of the inode table: its runs and the nodes of its own tree. It grows and stays; nothing else may.
missing=$((free_before - $(figure free_blocks))) grown=$(($(table_blocks) - table_before))
check "the removed entries left $missing blocks in use, by which the inode table grew" same "$missing" "$grown"
check "and so said statfs before the unmount ($live_missing)" same "$live_missing" "$grown"
check "and it did grow" [ "$grown" -gt 0 ]
fsck_clean "fsck finds nothing"
finish
