#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# mkfs.ashlar: what it refuses (and that it writes nothing then), what it makes, -d.
source "$(dirname "$0")/cli_common.sh"

# ---- Things that are not devices ----

mkdir folder
: >empty
printf 'a text file\n' >text
yes 'a long text' | head -c 8M >long_text
mkfifo fifo
truncate -s 4095K short
touch -d '2020-01-01' text long_text empty short

fails "a folder is refused" "is a folder" mkfs.ashlar folder
fails "/dev/null is refused" "neither a block device nor a regular file" mkfs.ashlar /dev/null
fails "a fifo is refused" "neither a block device nor a regular file" mkfs.ashlar fifo
fails "a missing file needs a size" "give its size" mkfs.ashlar missing
fails "a missing device is not created" "no such device" mkfs.ashlar /dev/ashlar-missing 64M
fails "nor one in a folder of devices" "no such device" mkfs.ashlar /dev/ashlar-missing/disk 64M
[ ! -e missing ] && [ ! -e /dev/ashlar-missing ]
ok "missing files stay missing" $?
(umask 022 && mkfs.ashlar -q made 16M) >out 2>err
[ "$(stat -c %a made)" = 600 ]
ok "an image that is created is its owner's alone" $?
(umask 022 && truncate -s 16M there && mkfs.ashlar -q there) >out 2>err
[ "$(stat -c %a there)" = 644 ]
ok "one that is there keeps its mode" $?
fails_untouched "an empty file needs a size" "is an empty file" empty mkfs.ashlar empty
fails_untouched "a file below 4 MiB is too small" "is too small (4193280 bytes)" short mkfs.ashlar short
fails_untouched "a text file is refused" "is too small (12 bytes)" text mkfs.ashlar -f text
fails_untouched "a text file with a size is refused" "unknown kind" text mkfs.ashlar text 64M
fails_untouched "a long text file is refused" "unknown kind" long_text mkfs.ashlar long_text

{ head -c 5000 /dev/zero; cat long_text; } >behind
touch -d '2020-01-01' behind
fails_untouched "text behind zeroes is refused" "holds data" behind mkfs.ashlar behind
head -c 8M /dev/zero >zeroes
works "a file full of zeroes is taken" mkfs.ashlar -q zeroes
fails "a label is no target" "mkfs wants a device or a file" mkfs.ashlar LABEL=foo 8M
[ ! -e LABEL=foo ]
ok "no file of that name is made" $?

# ---- Bad arguments ----

fails "no device" "a device or file is missing" mkfs.ashlar
fails "too many arguments" "'more' is too much" mkfs.ashlar new 16M more
fails "an unknown option" "unknown option '-x'" mkfs.ashlar -x new 16M
fails "an option without its argument" "'-L' needs an argument" mkfs.ashlar new 16M -L

fails "a bad size" "is not a size" mkfs.ashlar new 12Q
fails "a size below 4 MiB" "too small" mkfs.ashlar new 2M
fails "a bad UUID" "is not a UUID" mkfs.ashlar -U 1234 new 16M
fails "a label of 65 bytes" "longer than 64 bytes" mkfs.ashlar -L "$(printf '%065d' 0)" new 16M
fails "a log below 1 MiB" "must be between" mkfs.ashlar -l 1000k new 16M
fails "a log over 124 MiB" "must be between" mkfs.ashlar -l 125M new 16M
fails "a log that does not fit" "choose a smaller" mkfs.ashlar -l 16300k new 16M
fails "a block size other than 4096" "only 4096" mkfs.ashlar -b 1024 new 16M
fails "a missing source folder" "No such file" mkfs.ashlar -d missing new 16M
fails "a source that is not a folder" "is not a folder" mkfs.ashlar -d text new 16M
[ ! -e new ]
ok "no file is made by a refused command" $?

# ---- Content that is there ----

if command -v mkfs.ext4 >/dev/null; then
	truncate -s 32M ext4
	mkfs.ext4 -q -L precious ext4
	touch -d '2020-01-01' ext4
	fails_untouched "an ext4 file system is refused" "contains an ext4 file system labelled 'precious'" ext4 mkfs.ashlar ext4
	works "-f overwrites it" mkfs.ashlar -q -f ext4
	! command -v blkid >/dev/null || ! blkid -p ext4 >/dev/null
	ok "its signature is gone" $?
else
	skip "an ext4 file system is refused" "no mkfs.ext4"
fi
truncate -s 32M table
printf '\x80\x01\x01\x00\x83\xfe\xff\xff\x00\x08\x00\x00\x00\xf0\x00\x00' | dd of=table bs=1 seek=446 conv=notrunc status=none
printf '\x55\xaa' | dd of=table bs=1 seek=510 conv=notrunc status=none
touch -d '2020-01-01' table
fails_untouched "a partition table is refused" "partition table (dos)" table mkfs.ashlar table
truncate -s 16M volume
works "a volume in a file" mkfs.ashlar -L first volume
has "the report has the size" "16 MiB: 4096 blocks"
touch -d '2020-01-01' volume
fails_untouched "an Ashlar volume is refused" "contains an Ashlar volume labelled 'first'" volume mkfs.ashlar volume
works "-f makes it anew" mkfs.ashlar -f volume

# What fsck.ashlar can repair is not to be lost. On a device: of a file, unknown data is refused anyway.
if can_loop; then
	truncate -s 160M repairable
	attach repairable
	for damage in "its magic:0:4" "its volume magic:40:8" "its first block:0:4096" "its first 2 MiB:0:2097152"; do
		IFS=: read -r name at length <<<"$damage"
		mkfs.ashlar -q -f -L first "$loop"
		head -c "$length" /dev/zero | dd of="$loop" bs=4096 seek="$at" oflag=seek_bytes conv=notrunc status=none
		fails_untouched "a volume without $name is refused" "contains a damaged Ashlar volume labelled 'first'" repairable mkfs.ashlar "$loop"
	done
	head -c 4096 /dev/zero | dd of="$loop" bs=4096 seek=32256 conv=notrunc status=none
	fails_untouched "with its last backup only, too" "contains a damaged Ashlar volume" repairable mkfs.ashlar "$loop"
	head -c 4096 /dev/zero | dd of="$loop" bs=4096 seek=40959 conv=notrunc status=none
	works "without any superblock it is none" mkfs.ashlar -q "$loop"
else
	skip "a damaged volume on a device is refused" "needs root and loop devices"
fi

# ---- What is made ----

works "SIZE creates a file" mkfs.ashlar -q created 20M
[ "$(stat -c %s created)" -eq $((20 << 20)) ] && [ ! -s out ]
ok "of that size, and -q says nothing" $?
truncate -s 40M limited
works "SIZE limits a longer file" mkfs.ashlar --json limited 20M
json "the volume has the size asked for" "v['blocks'] == 5120 and not v['dry_run']"
[ "$(stat -c %s limited)" -eq $((40 << 20)) ]
ok "the file keeps its own" $?
: >dry
touch -d '2020-01-01' dry
works "-n succeeds" mkfs.ashlar -n dry 64M
has "-n says what would be" "would make"
[ ! -s dry ] && [ "$(stat -c %Y dry)" -eq "$(date -d 2020-01-01 +%s)" ]
ok "-n writes nothing" $?
works "-U and -L" mkfs.ashlar --json -U 01234567-89ab-cdef-0123-456789abcdef -L 'two words' -l 2M u.img 64M
json "are in the report" "v['uuid'] == '01234567-89ab-cdef-0123-456789abcdef' and v['label'] == 'two words' and v['log_blocks'] == 514"
works "and in the volume" ashlarctl --json info u.img
json "as info shows" "v['uuid'] == '01234567-89ab-cdef-0123-456789abcdef' and v['label'] == 'two words' and v['log_blocks'] == 514"
if truncate -s 15T huge 2>/dev/null; then
	TIMEFORMAT='%U %S'
	{ time works "15 TiB" mkfs.ashlar -q huge; } 2>spent
	awk '{ exit !($1 + $2 < 2) }' spent
	ok "in less than 2 seconds of processor time" $?
	# The bitmaps of all groups would take half a GiB.
	[ "$(stat -c %b huge)" -lt 20000 ]
	ok "of which less than 10 MB are written" $?
	works "info of 15 TiB" ashlarctl --json info huge
	json "has its blocks" "v['blocks'] == 15 << 28"
	rm huge
else
	skip "15 TiB" "no sparse file of that size can be made here"
fi
works "--help" mkfs.ashlar --help
works "--version" mkfs.ashlar --version

(ulimit -f 8192; exec mkfs.ashlar -q limited.img 64M) >out 2>err
[ $? -eq 1 ] && grep -q "File too large" err && [ ! -e limited.img ]
ok "a file larger than allowed: an error, and no file" $?
mkdir -p no_direct
if is_root && mount -t ramfs none no_direct 2>/dev/null; then
	truncate -s 16M no_direct/image
	fails "where there is no direct I/O" "use sync:no_direct/image" mkfs.ashlar no_direct/image
	fails "a file that was to be made" "use sync:no_direct/new" mkfs.ashlar no_direct/new 16M
	[ ! -e no_direct/new ]
	ok "is not left behind" $?
	works "as it says" mkfs.ashlar -q sync:no_direct/new 16M
	for command in ls log "dump -x" scrub; do
		works "ashlarctl $command" ashlarctl $command sync:no_direct/new $([ "$command" != "dump -x" ] || echo 0)
	done
	works "fsck.ashlar" fsck.ashlar -f -y sync:no_direct/new
	umount no_direct
else
	skip "where there is no direct I/O" "ramfs cannot be mounted"
fi

full "--help" mkfs.ashlar --help
full "--version" mkfs.ashlar --version
full "--json" mkfs.ashlar --json full.img 16M
mkfs.ashlar --json text 64M >out 2>err
[ $? -eq 1 ] && [ "$(wc -l <err)" -eq 1 ]
ok "--json of what is refused" $?
json "is an error in JSON" "'unknown kind' in v['error']"
mkfs.ashlar --json >out 2>err
json "so is wrong use" "'is missing' in v['error']"
if [ -d /dev/shm ] && [ "$(stat -c %d /dev/shm)" != "$(stat -c %d /dev)" ] && [ -w /dev/shm ]; then
	works "a new image in /dev/shm" mkfs.ashlar -q "/dev/shm/ashlar-cli-new-$$" 16M
	rm -f "/dev/shm/ashlar-cli-new-$$"
else
	skip "a new image in /dev/shm" "no file system there"
fi
# Without descriptor 2 the image would get its number, and the message would lie in the image.
if [ -d /dev/shm ] && unclean=$(mktemp -p /dev/shm ashlar-cli-XXXXXX); then
	mkfs.ashlar -q "$unclean" 64M
	mkfs.ashlar -q -f -d /proc/1 "$unclean" 2>&-
	! grep -qa "mkfs.ashlar: " "$unclean"
	ok "no message gets into the image" $?
	rm "$unclean"
else
	skip "no message gets into the image" "no /dev/shm"
fi

# ---- Refusals are not preceded by a word about overwriting ----

truncate -s 16M content
mkfs.ashlar -q -L content content
touch -d '2020-01-01' content
fails_untouched "-f of a size that is too small" "too small: a volume needs" content mkfs.ashlar -f content 1M
fails_untouched "-f with a log that has no room" "no room for a log" content mkfs.ashlar -f -l 64M content
mkfs.ashlar -n -f content >out 2>err
[ $? -eq 0 ] && grep -q "labelled 'content': it would be overwritten$" err
ok "-n -f says what would be" $?
works "-f" mkfs.ashlar -f content
grep -q "labelled 'content': overwriting it$" err
ok "says so when nothing refuses it any more" $?
if can_loop && loop=$(losetup -r -f --show content); then
	fails_untouched "-f of a write-protected device" "is write-protected" content mkfs.ashlar -f "$loop"
	losetup -d "$loop"
else
	skip "-f of a write-protected device" "needs root and loop devices"
fi

# ---- Devices in use ----

if can_loop; then
	truncate -s 32M device
	attach device
	works "a loop device" mkfs.ashlar -q "$loop"
	if command -v mkfs.ext4 >/dev/null && mkfs.ext4 -q -F "$loop" && mkdir -p mnt && mount "$loop" mnt; then
		fails_at_once "a mounted device is refused even with -f" "is mounted on" mkfs.ashlar -f "$loop"
		fails_at_once "and the file behind it" "is mounted on" mkfs.ashlar -f device
		works "nothing was written: it still works" touch mnt/file
		ln device another
		mv device hidden
		fails "the file behind it by another name" "is mounted on" mkfs.ashlar -f another
		rm hidden
		truncate -s 32M device
		works "a new file of the old name is free" mkfs.ashlar -q device
		fails "and the mounted one still is not" "is mounted on" mkfs.ashlar -f another
		works "it still works" touch mnt/file
		umount mnt
	else
		skip "a mounted device is refused even with -f" "ext4 cannot be mounted"
	fi
else
	skip "a mounted device is refused even with -f" "needs root and loop devices"
fi

mkfs.ashlar -q locked 16M
waits locked mkfs.ashlar -fq locked

# Several at once on one blank file, or on one name that nobody has: one makes its volume, the others leave it alone.
contest() {
	local round size run runs wins
	for round in $(seq 12); do
		rm -f contested
		runs=()
		[ "$1" = blank ] && truncate -s 16M contested
		for size in 64M 80M 96M 112M 128M; do
			mkfs.ashlar -q contested $size 2>/dev/null &
			runs+=($!)
		done
		wins=0
		for run in "${runs[@]}"; do wait "$run" && wins=$((wins + 1)); done
		[ $wins -eq 1 ] && fsck.ashlar -n -f contested >out 2>err || return 1
	done
}
contest blank
ok "of several on one blank file, one wins" $?
contest missing
ok "of several that create one file, one wins" $?
rm -f contested

# ---- -d ----

mkdir -p tree/sub/deep 'tree/name with  spaces'
echo content >tree/file
head -c 300000 /dev/urandom >tree/sub/large
truncate -s 10M tree/sparse
printf 'end' | dd of=tree/sparse bs=1 seek=9000000 conv=notrunc status=none
ln tree/file tree/sub/hard
ln -s ../file tree/sub/soft
mkfifo tree/fifo
printf 'odd' >"tree/$(printf 'tab\there')"
chmod 4750 tree/file
chmod 2775 tree/sub
chmod 1777 tree
touch -d '2001-02-03 04:05:06.789' tree/sub/large
touch -h -d '2002-02-02' tree/sub/soft
if is_root; then
	chown 1234:5678 tree/sub/large
	mknod tree/device c 1 3
fi
attribute=no
command -v setfattr >/dev/null && setfattr -n user.colour -v blue tree/file 2>/dev/null && attribute=yes
touch -d '2003-03-03' tree/sub tree

works "-d fills a volume" mkfs.ashlar -q -d tree filled.img 64M
works "the tree comes out again" ashlarctl get filled.img / copy
listing() { (cd "$1" && find . -printf '%P|%y|%m|%n|%U:%G|%s|%T@|%l\n' | sed -E 's/^([^|]*\|d\|[^|]*\|[^|]*\|[^|]*)\|[0-9]+/\1/' | sort); }
diff <(listing tree) <(listing copy) >out 2>err
ok "types, modes, links, owners, sizes, times" $?
diff -r --no-dereference tree/sub copy/sub >out 2>err && cmp tree/file copy/file && cmp tree/sparse copy/sparse
ok "content" $?
[ "$(stat -c %b copy/sparse)" -lt 2048 ]
ok "holes" $?
[ "$(stat -c %i copy/file)" = "$(stat -c %i copy/sub/hard)" ]
ok "hard links" $?
if [ $attribute = yes ]; then
	[ "$(getfattr --only-values -n user.colour copy/file)" = blue ]
	ok "extended attributes" $?
else
	skip "extended attributes" "not possible in $scratch"
fi
works "fsck finds nothing wrong" fsck.ashlar -n -f filled.img

cp -a tree inside
works "-d of a folder that holds the image" mkfs.ashlar -q -d inside inside/self.img 32M
works "lists" ashlarctl ls inside/self.img
! grep -q self.img out
ok "leaves the image out" $?
head -c 8M /dev/urandom >tree/toolarge
fails "-d of too much" "toolarge" mkfs.ashlar -q -d tree small.img 8M
[ ! -e small.img ]
ok "removes the file that it made" $?

python3 - >out 2>err <<'END'
import os, signal, subprocess, time
os.makedirs('big')
for i in range(3000):
    open('big/%d' % i, 'wb').write(os.urandom(20000))
child = subprocess.Popen(['mkfs.ashlar', '-q', '-d', 'big', 'stopped.img', '256M'])
while not os.path.exists('stopped.img') and child.poll() is None:
    time.sleep(0.001)
child.send_signal(signal.SIGINT)
assert child.wait() == -signal.SIGINT, child.returncode
assert not os.path.exists('stopped.img')
END
ok "an interrupt removes the file that it made" $?
if can_loop && truncate -s 16781000 ragged && loop=$(losetup -f --show -b 4096 ragged 2>/dev/null); then
	works "a device whose last sector is cut off" mkfs.ashlar -q "$loop"
else
	skip "a device whose last sector is cut off" "needs root and loop devices"
fi

done_testing
