#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# A very large directory, and many inodes in the kernel's cache, on a mounted volume. TAP.
# long: 1 000 000 entries, 200 000 files stat'ed; quick: a tenth.
set -u
skip() { echo "1..0 # SKIP $1"; exit 0; }
[ "$(id -u)" = 0 ] || skip "needs root"
[ -c /dev/fuse ] || skip "no /dev/fuse"
build=${ASHLAR_BUILD:-$PWD/build}
PATH="$build:$build/fsck:$build/mkfs:$build/fs/fuse:$build/tests/bench:$PATH"
for program in ashlarfs mkfs.ashlar fsck.ashlar ashlarctl bench_entries; do
	command -v $program >/dev/null || skip "not built: $program"
done
entries=100000 files=20000
[ "${ASHLAR_TEST_LEVEL:-quick}" = long ] && entries=1000000 files=200000

work=$(mktemp -d /tmp/ashlar-large.XXXXXX)
image=$(mktemp /dev/shm/ashlar-large.XXXXXX)
mnt=$work/mnt
mkdir "$mnt"
loop=
cleanup() {
	mountpoint -q "$mnt" && { umount "$mnt" || umount -l "$mnt"; }
	[ -n "$loop" ] && losetup -d "$loop"
	rm -rf "$work" "$image"
}
trap cleanup EXIT
trap 'exit 130' INT TERM
n=0 bad=0
verdict() { # STATUS TEXT
	n=$((n + 1))
	if [ "$1" = 0 ]; then echo "ok $n - $2"; else echo "not ok $n - $2"; bad=1; fi
}
# A missed time says nothing at the quick level, where the machine may be doing other things: shown, not judged.
timed() {
	if [ "$1" != 0 ] && [ "${ASHLAR_TEST_LEVEL:-}" = quick ]; then n=$((n + 1)); echo "ok $n - $2 # SKIP times are judged at the normal and long levels"
	else verdict "$@"; fi
}
truncate -s 4G "$image"
loop=$(losetup --find --show --direct-io=on "$image" 2>/dev/null) || loop=$(losetup --find --show "$image") || skip "no loop device"
mkfs.ashlar -q -f "$loop" || exit 1
ashlarfs "$loop" "$mnt" || exit 1
for _ in $(seq 100); do mountpoint -q "$mnt" && break; sleep 0.05; done
free() { sync -f "$mnt"; stat -f -c %f "$mnt"; }
server() { pgrep -f "ashlarfs $loop" | head -1; }

mkdir "$mnt/d"
free_before=$(free)
rates=$(bench_entries create "$mnt/d" "$entries") || exit 1
timed "$(awk -v r="$rates" 'BEGIN { split(r, a, " "); print (a[2] * 2 < a[1]) }')" "create rate at the end at least half of the start: $rates per second"
sync -f "$mnt"; echo 3 >/proc/sys/vm/drop_caches
cold=$(bench_entries lookup "$mnt/d" "$entries") || exit 1
timed "$(awk -v c="$cold" 'BEGIN { print (c >= 1000) }')" "a cold lookup takes less than 1 ms: $cold us"
listed=$(ls -f "$mnt/d" | wc -l)
verdict "$([ "$listed" = $((entries + 2)) ]; echo $?)" "ls -f lists $listed, $((entries + 2)) expected"
bench_entries remove "$mnt/d" "$entries" || exit 1
for _ in $(seq 40); do
	free_after=$(free)
	[ "$free_after" -ge "$free_before" ] && break
	sleep 0.25
done
run=$(( $(ashlarctl info --json "$loop" 2>/dev/null | grep -o '"inodes_per_run": *[0-9]*' | grep -o '[0-9]*$' || echo 0) / 8 + 1))
missing=$((free_before - free_after))
verdict "$([ $missing -le 0 ] || [ $((missing % run)) = 0 ]; echo $?)" "free blocks are as before but for inode runs of $run blocks: $missing less"

bench_entries create "$mnt/d" "$files" >/dev/null
pid=$(server)
bench_entries lookup-all "$mnt/d" "$files" || exit 1
rss=$(awk '/^VmRSS/ { print int($2 / 1024) }' "/proc/${pid:-self}/status")
verdict "$([ -n "$pid" ] && [ "$rss" -lt 350 ]; echo $?)" "$files files stat'ed: the server has $rss MiB resident, under 350"
umount "$mnt"
verdict $? "umount"
fsck.ashlar -n -f "$loop" >"$work/fsck" 2>&1
verdict $? "fsck finds nothing"
echo "1..$n"
exit $bad
