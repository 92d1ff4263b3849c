#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# The same random system calls here and on the kernel's ext4: twin.c. Between runs, in turn: a remount, SIGKILL after a
# sync, new folders, nothing. ASHLAR_TEST_LEVEL: number of seeds. ASHLAR_TWIN_SEEDS: which ones, instead.
. "$(dirname "$0")/lib.sh"
start
command -v mkfs.ext4 >/dev/null || skip "no mkfs.ext4"
grep -qw ext4 /proc/filesystems || skip "this kernel has no ext4"
TWIN=$(program mount_twin) || exit 1
case ${ASHLAR_TEST_LEVEL:-normal} in
quick) LAST=16 ;;
normal) LAST=60 ;;
*) LAST=200 ;;
esac
EXT4=$WORK/ext4
mkdir "$EXT4"
truncate -s 2G "$WORK/twin"
mkfs.ext4 -q -F -I 256 "$WORK/twin"
mount -o loop "$WORK/twin" "$EXT4" || skip "ext4 does not mount"
volume 2G
attach

# The folder itself belongs to the state that is compared.
fresh() {
	for folder in "$EXT4" "$MNT"; do
		rm -rf "$folder/t"
		mkdir -m 1777 "$folder/t"
	done
}

fresh
for seed in ${ASHLAR_TWIN_SEEDS:-$(seq "$LAST")}; do
	check "seed $seed: 3000 operations end alike" eval '"$TWIN" "$EXT4/t" "$MNT/t" "$seed" 3000 >&3'
	[ "$FAILED" = 0 ] || fresh
	case $((seed % 4)) in
	1) detach; attach ;;
	2) sync_all; crash; attach ;;
	3) fresh ;;
	esac
done
# What the last one left is there after a remount, too.
detach
attach
check "the trees are equal after a remount" eval '"$TWIN" "$EXT4/t" "$MNT/t" 0 1 >&3'
detach
fsck_clean "fsck -n finds nothing"
umount "$EXT4"
finish
