#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# The file behind the loop device of a mounted volume is cut. Reads and writes end with errors or with what was there, none of them
# hangs, umount returns, the daemon ends; the volume is refused afterwards, with a reason.
# With the size of the loop device as it was (the kernel gives EIO behind the end of the file) and with the new size.
. "$(dirname "$0")/lib.sh"
start

# Every command has to end; what it says is another matter.
ends() { timeout -k 5 60 "$@" >/dev/null 2>&1; [ $? -lt 124 ]; }

fill() {
	mkdir "$MNT/d"
	for i in $(seq 20); do
		head -c 3000000 /dev/zero | tr '\0' "$(printf "\\$(printf %03o $((64 + i)))")" >"$MNT/d/file$i"
	done
	sync_all
}

# What was synced is right to the last byte, or reading it is an error. Blocks of zeroes are told by a device that does not know
# its size where a later write made the image longer again (a backup of the superblock does), and without direct I/O behind
# its end: of data, which has no checksums, nobody can know better. $1: what is left of the image, $2: does the device know,
# $3: so many files have to be right, since they lie in what is left (I8).
right_or_error() {
	python3 - "$MNT" "$IMAGE" "$(numfmt --from=iec "$1")" "$2" "$3" "$(losetup -n -O DIO "$LOOP" | xargs)" <<'PY'
import errno, os, sys
mount, image, left, knows, wanted, direct = sys.argv[1:]
right, errors, bad, zeroes = 0, 0, [], []
def blank(data, byte):
    """Blocks of zeroes, the others right."""
    return all(set(data[at:at + 4096]) in ({0}, {byte}) for at in range(0, len(data), 4096))
for i in range(1, 21):
    try:
        data = open('%s/d/file%d' % (mount, i), 'rb').read()
    except OSError as error:
        if error.errno in (errno.EIO, errno.EUCLEAN):
            errors += 1
        else:
            bad.append('file %d: %s' % (i, error.strerror))
        continue
    if data == bytes([64 + i]) * 3000000:
        right += 1
    else:
        text = 'file %d: %d bytes, %d of them zeroes' % (i, len(data), data.count(0))
        (zeroes if len(data) == 3000000 and blank(data, 64 + i) else bad).append(text)
if knows == 'yes' or (direct == '1' and os.stat(image).st_size <= int(left)):
    bad += zeroes
print('# %d files are right, %d cannot be read, %d have zeroes, %d are wrong' % (right, errors, len(zeroes), len(bad)),
      *bad, sep='\n# ')
sys.exit(bool(bad) or right < int(wanted))
PY
}

round() {
	local name=$1 left=$2 capacity=$3 right=$4
	volume 96M
	attach
	fill
	drop_caches
	head -c 200000 /dev/urandom >"$MNT/d/unsynced"
	truncate -s "$left" "$IMAGE"
	[ "$capacity" = yes ] && losetup -c "$LOOP"
	check "$name: reads end" ends cat "$MNT"/d/file*
	check "$name: no read gives wrong data" timeout 60 bash -c "$(declare -f right_or_error); MNT=$MNT IMAGE=$IMAGE LOOP=$LOOP right_or_error $left $capacity $right"
	check "$name: writes end" ends dd if=/dev/zero of="$MNT/d/new" bs=1M count=20 conv=fsync
	check "$name: an overwrite past the page cache ends" ends dd if=/dev/zero of="$MNT/d/file19" bs=64k count=8 oflag=direct conv=notrunc
	check "$name: names can be asked for" ends ls -lR "$MNT"
	check "$name: rm ends" ends rm -f "$MNT/d/file2"
	check "$name: sync ends" ends sync -f "$MNT"
	check_fails "$name: an fsync of what cannot be written is an error" dd if=/dev/zero of="$MNT/d/more" bs=1M count=60 conv=fsync status=none
	check "$name: umount returns" ends umount "$MNT"
	mountpoint -q "$MNT" && umount -l "$MNT"
	check "$name: the daemon ends" gone "$DAEMON"
	wait "$DAEMON" 2>/dev/null
	note "$name: the daemon ended with $?"
	DAEMON=
	if [ "$capacity" = yes ]; then
		check_fails "$name: the volume is refused afterwards" timeout 60 "$ASHLARFS" "$LOOP" "$MNT"
	else
		check "$name: a mount of what is left ends" ends "$ASHLARFS" "$LOOP" "$MNT"
		mountpoint -q "$MNT" && check "$name: and its umount" ends umount "$MNT"
	fi
	losetup -d "$LOOP"
	rm -f "$IMAGE" "$WORK/log"
}

# A child that ended is a zombie until it is waited for.
gone() {
	for _ in $(seq 600); do
		case $(awk '/^State/ { print $2 }' "/proc/$1/status" 2>/dev/null) in '' | Z) return 0 ;; esac
		sleep 0.05
	done
	return 1
}

round "half is left" 48M no 5
round "half is left, the device knows" 48M yes 5
round "4 MiB are left, the device knows" 4M yes 0
round "nothing is left, the device knows" 0 yes 0
echo "# campaign shrink_mount: cases 4, distinct 4 faults, violations $FAILED, skipped 0, seconds $SECONDS"
finish
