#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# mount(8) by UUID= and LABEL=, as in fstab: it finds the device by the links in /dev/disk and then runs mount.ashlar. Where
# no udev makes the links, they are made here as the rules would.
. "$(dirname "$0")/lib.sh"
start
HELPER=/sbin/mount.ashlar
PLACED=()
take_away() {
	local status=$?
	[ ${#PLACED[@]} = 0 ] || rm -f "${PLACED[@]}"
	rmdir /dev/disk/by-uuid /dev/disk/by-label /dev/disk 2>/dev/null
	(exit "$status")
	cleanup
}
trap take_away EXIT

# link TARGET PATH: for the time of this test.
link() { mkdir -p "$(dirname "$2")" && ln -s "$1" "$2" 2>/dev/null && PLACED+=("$2"); }

[ ! -e $HELPER ] || skip "$HELPER is there already"
PROGRAM=$(program mount.ashlar) || exit 1
link "$PROGRAM" $HELPER || skip "$HELPER cannot be made"
volume 64M -L "tags $$/\"x\""
names=$("$ASHLARCTL" info --export "$LOOP")
value() { printf '%s\n' "$names" | sed -n "s/^$1=//p"; }
uuid=$(value ID_FS_UUID_ENC)
if [ -S /run/udev/control ]; then
	udevadm trigger --action=change "$LOOP" 2>/dev/null
	udevadm settle --timeout=10 2>/dev/null
fi
for path in "by-uuid/$uuid" "by-label/$(value ID_FS_LABEL_ENC)"; do
	[ -e "/dev/disk/$path" ] || link "$LOOP" "/dev/disk/$path" || skip "/dev/disk/$path cannot be made"
done

printf 'UUID=%s %s ashlar noatime,nofail 0 2\n' "$uuid" "$MNT" >"$WORK/fstab"
check "a line of fstab with UUID=" mount -T "$WORK/fstab" "$MNT"
check "is this volume" same "$(findmnt -no SOURCE,FSTYPE "$MNT" | tr -s ' ')" "$LOOP fuseblk.ashlar"
check "with its options" eval 'grep -q " $MNT .*noatime" /proc/mounts'
check "write" sh -c "echo there >$MNT/file"
check "a mounted volume still tells its names" same "$("$ASHLARCTL" info --export "$LOOP")" "$names"
check "unmounted" umount "$MNT"
for _ in $(seq 100); do pgrep -f "^ashlarfs .*$LOOP( |\$)" >/dev/null || break; sleep 0.05; done
check "mount by LABEL=" mount -t ashlar "LABEL=tags $$/\"x\"" "$MNT"
check "read" same "$(cat "$MNT/file")" there
check "unmounted again" umount "$MNT"
# fsck(8), which is given the device at boot, learns the type from a line that names it by a path only: hence the manual.
printf '/dev/disk/by-uuid/%s %s ashlar noatime,nofail 0 2\n' "$uuid" "$MNT" >"$WORK/fstab"
check "a line of fstab with a link in /dev/disk" mount -T "$WORK/fstab" "$MNT"
check "unmounted once more" umount "$MNT"
if [ -n "$FSCK" ] && command -v fsck >/dev/null; then
	check "fsck(8) finds the type by it" eval \
		'FSTAB_FILE=$WORK/fstab PATH=$(dirname "$FSCK"):$PATH fsck -N -T -a -M "$LOOP" | grep -q "fsck.ashlar -a $LOOP"'
fi
for _ in $(seq 100); do device_free 2>/dev/null && break; sleep 0.05; done
fsck_clean "fsck"
finish
