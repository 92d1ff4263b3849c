#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# A 15 TiB sparse image: mkfs, mount, files at both ends, check. TAP.
set -u
skip() { echo "1..0 # SKIP $1"; exit 0; }
[ "$(id -u)" = 0 ] || skip "needs root"
[ -c /dev/fuse ] || skip "no /dev/fuse"
build=${ASHLAR_BUILD:-$PWD/build}
PATH="$build:$build/fsck:$build/mkfs:$build/fs/fuse:$build/tests/bench:$PATH"
for program in ashlarfs mkfs.ashlar fsck.ashlar; do
	command -v $program >/dev/null || skip "not built: $program"
done
folder=${ASHLAR_LARGE_DIR:-/var/tmp}
work=$(mktemp -d "$folder/ashlar-sparse.XXXXXX")
image=$work/image
mnt=$work/mnt
mkdir "$mnt"
loop=
cleanup() {
	mountpoint -q "$mnt" && { umount "$mnt" || umount -l "$mnt"; }
	[ -n "$loop" ] && losetup -d "$loop"
	rm -rf "$work"
}
trap cleanup EXIT
trap 'exit 130' INT TERM
truncate -s 15T "$image" 2>/dev/null || skip "$folder cannot hold a sparse file of 15 TiB"
loop=$(losetup --find --show --direct-io=on "$image" 2>/dev/null) || loop=$(losetup --find --show "$image") || skip "no loop device"
n=0 bad=0
verdict() {
	n=$((n + 1))
	if [ "$1" = 0 ]; then echo "ok $n - $2"; else echo "not ok $n - $2"; bad=1; fi
}
# A missed time says nothing at the quick level, where the machine may be doing other things: shown, not judged.
timed() {
	if [ "$1" != 0 ] && [ "${ASHLAR_TEST_LEVEL:-}" = quick ]; then n=$((n + 1)); echo "ok $n - $2 # SKIP times are judged at the normal and long levels"
	else verdict "$@"; fi
}
elapsed() { awk -v b="$1" -v e="$(date +%s.%N)" 'BEGIN { printf "%.2f", e - b }'; }
under() { awk -v a="$1" -v b="$2" 'BEGIN { exit !(a < b) }'; echo $?; }
mount_volume() {
	ashlarfs "$loop" "$mnt" || return 1
	mountpoint -q "$mnt"
}

begin=$(date +%s.%N)
mkfs.ashlar -q -f "$loop" || { echo "Bail out! mkfs"; exit 1; }
t=$(elapsed "$begin")
timed "$(under "$t" 3)" "mkfs of 15 TiB takes $t s, under 3"
begin=$(date +%s.%N)
mount_volume || { echo "Bail out! mount"; exit 1; }
t=$(elapsed "$begin")
timed "$(under "$t" 1)" "mounting takes $t s, under 1"

# The near end: some files. The far end: space between is taken by preallocated files, which cost no writing.
cp -r /usr/include/linux "$mnt/near"
i=0
while [ "$(stat -f -c '%a' "$mnt")" -gt $((64 << 18)) ] && [ $i -lt 40 ]; do
	free=$(stat -f -c '%a' "$mnt")
	take=$((free - (32 << 18)))
	[ $take -gt $((1 << 29)) ] && take=$((1 << 29)) # blocks: 2 TiB
	fallocate -l $((take * 4096)) "$mnt/taken$i" || break
	i=$((i + 1))
done
cp -r /usr/include/linux "$mnt/far"
sync -f "$mnt"
last=$(filefrag -v -b4096 "$mnt/far/fs.h" 2>/dev/null | awk '$1 == "0:" { sub(/\.\..*/, "", $4); print $4 }')
echo "# a file of the far end lies at block ${last:-unknown} of $((15 << 28)); $i files took the space between"
umount "$mnt"
verdict $? "umount"
mount_volume
diff -r /usr/include/linux "$mnt/near" >/dev/null && diff -r /usr/include/linux "$mnt/far" >/dev/null
verdict $? "files at both ends are as they were"
umount "$mnt"
fsck.ashlar -n -f "$loop" >"$work/fsck" 2>&1
code=$?
[ $code = 0 ] || sed 's/^/# /' "$work/fsck" | head -5
verdict $code "fsck finds nothing"
echo "1..$n"
exit $bad
