#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# A 15 TiB sparse image: mkfs, mount, files at both ends, check. TAP. ASHLAR_LARGE_DIR: where the image lies (/dev/shm);
# the bitmaps of 15 TiB take half a GiB there.
LOOP_DIR=${ASHLAR_LARGE_DIR:-/dev/shm}
. "$(dirname "$0")/large_common.sh"
start
truncate -s 15T "$WORK/image" 2>/dev/null || skip "$LOOP_DIR cannot hold a sparse file of 15 TiB"
tree=/usr/include/linux
[ -d "$tree" ] || skip "no $tree to copy"

begin=$(now)
volume 15T
t=$(elapsed "$begin")
timed "mkfs of 15 TiB takes $t s, under 3" under "$t" 3
begin=$(now)
attach
t=$(elapsed "$begin")
timed "mounting takes $t s, under 1" under "$t" 1

# A preallocated file takes the space between the two copies, all but 32 GiB, and costs no writing but of bitmaps.
cp -r "$tree" "$MNT/near"
sync -f "$MNT"
begin=$(now)
check "a file takes the space between" fallocate -l $((($(stat -f -c %a "$MNT") - (32 << 18)) * 4096)) "$MNT/between"
note "in $(elapsed "$begin") s"
cp -r "$tree" "$MNT/far"
numbers() { find "$MNT/$1" -maxdepth 1 -name '[a-d]*.h' -size +8k -exec stat -c %i {} +; }
near=$(numbers near) far=$(numbers far)
check "umount" detach

# Where the extents of some inodes lie: the lowest and the highest block.
places() {
	for inode in "$@"; do record "$inode"; done |
		awk '$3 == "blocks" && $5 == "+" { printf "%.0f\n%.0f\n", $4, $4 + $6 - 1 }' | sort -n | sed -n '1p;$p' | xargs
}
blocks=$(figure blocks)
read -r first last < <(places $near)
check "files of the first copy lie in blocks $first to $last, in the first tenth" [ "${last:-$blocks}" -lt $((blocks / 10)) ]
read -r first last < <(places $far)
check "files of the second one in $first to $last of $blocks, in the last tenth" [ "${first:-0}" -gt $((blocks / 10 * 9)) ]

attach
check "files at both ends are as they were" eval 'diff -r "$tree" "$MNT/near" && diff -r "$tree" "$MNT/far"'
check "umount again" detach
fsck_clean "fsck finds nothing"
finish
