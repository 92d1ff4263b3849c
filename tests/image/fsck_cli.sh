#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# fsck.ashlar: what it refuses (and that it writes nothing then), its modes, exit codes and outputs.
source "$(dirname "$0")/cli_common.sh"

# exits NAME CODE COMMAND...: this exit code; output in out and err.
exits() {
	local name=$1 code=$2 status
	shift 2
	"$@" >out 2>err
	status=$?
	[ "$status" -eq "$code" ] || echo "exit $status, not $code" >>err
	[ "$status" -eq "$code" ]
	ok "$name" $?
}

# One line on stderr and exit 8.
refused() {
	local name=$1 text=$2
	shift 2
	"$@" >out 2>err
	[ $? -eq 8 ] && [ "$(wc -l <err)" -eq 1 ] && [ ! -s out ] && grep -qi -- "$text" err
	ok "$name" $?
}

has() {
	grep -q -- "$2" "$3"
	ok "$1" $?
}

# damage FILE BLOCK OFFSET HEX...: bytes into a block
damage() {
	local file=$1 at=$(($2 * 4096 + $3))
	shift 3
	printf "$(printf '\\x%s' "$@")" | dd of="$file" bs=1 seek="$at" conv=notrunc status=none
}

# on_terminal KEYS COMMAND...: with a terminal of its own; the keys are pressed at its first question.
on_terminal() {
	python3 - "$@" <<'PYTHON'
import os, pty, sys
child, terminal = pty.fork()
if not child:
    os.execvp(sys.argv[2], sys.argv[2:])
seen, keys = b'', sys.argv[1].encode()
while True:
    try:
        got = os.read(terminal, 4096)
    except OSError:
        break
    if not got:
        break
    seen += got
    if keys and b'[y/n]? ' in seen:
        os.write(terminal, keys)
        keys = b''
sys.stdout.buffer.write(seen)
status = os.waitpid(child, 0)[1]
sys.exit(os.WEXITSTATUS(status) if os.WIFEXITED(status) else 128 + os.WTERMSIG(status))
PYTHON
}

# ---- Things that are no volume ----

mkdir folder
: >empty
printf 'a text file\n' >text
yes 'a long text' | head -c 8M >long_text
truncate -s 64M zeroes
for mode in -n -y -p; do
	refused "a folder is refused ($mode)" "is a folder" fsck.ashlar $mode folder
	refused "/dev/null is refused ($mode)" "neither a block device nor a regular file" fsck.ashlar $mode /dev/null
	refused "a missing file is refused ($mode)" "no such file" fsck.ashlar $mode missing
	refused "an empty file is refused ($mode)" "empty" fsck.ashlar $mode empty
	refused "a text file is refused ($mode)" "no Ashlar volume" fsck.ashlar $mode text
	refused "a long text file is refused ($mode)" "no Ashlar volume" fsck.ashlar $mode long_text
	refused "a file of zeroes is refused ($mode)" "no Ashlar volume" fsck.ashlar $mode zeroes
done
[ ! -e missing ] && [ ! -s empty ] && [ "$(cat text)" = 'a text file' ]
ok "nothing was written" $?

# ---- Usage ----

exits "no device: usage" 16 fsck.ashlar -n
[ "$(wc -l <err)" -eq 1 ] && grep -q "missing.*--help" err
ok "and one line says what is missing" $?
exits "two devices: usage" 16 fsck.ashlar -n a b
[ "$(wc -l <err)" -eq 1 ] && grep -q "only one.*--help" err
ok "and one line says what is too much" $?
exits "an unknown option: usage" 16 fsck.ashlar -Q text
[ "$(cat err)" = "fsck.ashlar: unknown option '-Q'; try 'fsck.ashlar --help'" ]
ok "and one line says where the options are" $?
exits "an unknown long option: usage" 16 fsck.ashlar --quick text
[ "$(cat err)" = "fsck.ashlar: unknown option '--quick'; try 'fsck.ashlar --help'" ]
ok "with its word" $?
exits "-n with -y: usage" 16 fsck.ashlar -n -y text
[ "$(wc -l <err)" -eq 1 ] && grep -q "only one of -n, -p and -y.*--help" err
ok "and one line says so" $?
for number in "" x 1x -1; do
	exits "-b '$number': usage" 16 fsck.ashlar -n -b "$number" text
done
exits "--help" 0 fsck.ashlar --help
has "--help names the options" "--preen" out
exits "--version" 0 fsck.ashlar --version
has "--version" "fsck.ashlar [0-9]" out
refused "questions need a terminal" "need a terminal" fsck.ashlar zeroes

# ---- A good volume ----

mkfs.ashlar -q -L good good 64M >out 2>err
ok "mkfs" $?
cp good untouched
exits "a clean volume is skipped" 0 fsck.ashlar -y good
has "and says so" "good: clean" out
exits "-f checks it" 0 fsck.ashlar -y -f good
has "and counts" "clean, .* folders, .* blocks" out
exits "-n always checks" 0 fsck.ashlar -n good
has "and counts too" "clean, .* folders, .* blocks" out
exits "by the superblock in block 0" 0 fsck.ashlar -n -b 0 good
refused "by one that is not there" "no superblock" fsck.ashlar -y -b 5 good
exits "-p" 0 fsck.ashlar -p good
exits "-C without a terminal" 0 fsck.ashlar -n -C good
! grep -q "%" out
ok "draws no bar" $?
if command -v python3 >/dev/null; then
	exits "-C on a terminal" 0 on_terminal "" fsck.ashlar -n -C good
	has "draws a bar up to 100 %" "| 100.0%" out
else
	skip "-C on a terminal" "no python3"
fi
exits "--json" 0 fsck.ashlar -n --json good
if command -v python3 >/dev/null; then
	python3 -c 'import json; d = json.load(open("out")); assert d["clean"] and not d["problems"] and d["exit_code"] == 0'
	ok "--json is JSON" $?
else
	skip "--json is JSON" "no python3"
fi
cmp -s good untouched
ok "a good volume is left as it is" $?

# ---- Damage ----

cp good bad
damage bad 1 100 00 00 00 00 # the bitmap of group 0: no checksum fits
cp bad bad_untouched
exits "-n finds damage: 4" 4 fsck.ashlar -n bad
has "and names it" "Bitmap of group 0" out
cmp -s bad bad_untouched
ok "-n writes nothing" $?
exits "--json finds it too" 4 fsck.ashlar -n --json bad
has "by its code" '"bitmap-bad"' out
for force in -f "" ""; do
	exits "-p stops at what is not safe: 4 (${force:-and again})" 4 fsck.ashlar -p $force bad
	has "and says so" "UNEXPECTED INCONSISTENCY" out
done
if [ -w /dev/full ]; then
	for option in "" --json; do
		fsck.ashlar -n $option good >/dev/full 2>err
		[ $? -eq 8 ] && [ "$(wc -l <err)" -eq 1 ] && grep -q "could not be written" err
		ok "output that cannot be written: 8 ($option)" $?
	done
fi
fsck.ashlar -n good >&- 2>err
[ $? -eq 8 ] && [ "$(wc -l <err)" -eq 1 ] && grep -q "could not be written" err
ok "a closed output: 8" $?
# unread COMMAND...: its output goes to a pipe that nobody reads any more.
unread() {
	local status
	mkfifo unread_pipe
	exec 8<>unread_pipe 9>unread_pipe 8>&-
	"$@" >&9 9>&-
	status=$?
	exec 9>&-
	rm unread_pipe
	return $status
}
exits "-n without a reader: 8, with 4" 12 unread fsck.ashlar -n bad
has "and says so" "could not be written: Broken pipe" err
exits "--help without a reader: 8" 8 unread fsck.ashlar --help
exits "-y repairs: 1" 1 fsck.ashlar -y -f bad
exits "then it is clean" 0 fsck.ashlar -n bad
exits "and stays so" 0 fsck.ashlar -y -f bad

cp good bad
damage bad 0 60 ff ff ff ff
exits "a damaged superblock: 4" 4 fsck.ashlar -n bad
exits "is found by -y without -f" 1 fsck.ashlar -y bad
exits "and repaired" 0 fsck.ashlar -n bad
for rubbish in /dev/zero /dev/urandom; do
	dd if=$rubbish of=bad bs=4096 count=1 conv=notrunc status=none
	exits "a superblock overwritten from $rubbish is restored" 1 fsck.ashlar -y bad
	exits "and the volume clean" 0 fsck.ashlar -n bad
done

cp good bad
dd if=/dev/zero of=bad bs=4096 seek=3 count=2 conv=notrunc status=none
exits "both log control blocks lost: -p stops with 4" 4 fsck.ashlar -p bad
has "and says so" "UNEXPECTED INCONSISTENCY; run fsck.ashlar by hand" out
[ ! -s err ]
ok "and nothing else" $?
exits "-y repairs" 1 fsck.ashlar -y bad
exits "and the volume is clean" 0 fsck.ashlar -n bad

# ---- Not for us ----

cp good short
truncate -s 40M short
cp short short_untouched
refused "a truncated image is refused" "shorter than the volume" fsck.ashlar -y short
refused "also by -n" "shorter than the volume" fsck.ashlar -n short
cmp -s short short_untouched
ok "and left alone" $?
if command -v mkfs.ext4 >/dev/null; then
	mkfs.ashlar -q old 256M
	for label in "" ashlar-old "an Ashlar vol"; do
		cp old foreign
		# as on a disk that is not cleared: our backups stay
		mkfs.ext4 -q -F -E nodiscard,lazy_itable_init=0 -L "$label" foreign >/dev/null 2>&1
		cp foreign foreign_untouched
		for mode in -n -p -y; do
			refused "a device that ext4 has now is refused ($mode, label '$label')" "ext4" fsck.ashlar $mode foreign
		done
		refused "also by scrub (label '$label')" "ext4" ashlarctl scrub foreign
		cmp -s foreign foreign_untouched
		ok "and left alone" $?
	done
	rm -f old foreign foreign_untouched
else
	skip "a device that ext4 has now is refused" "no mkfs.ext4"
fi

# An unknown incompat bit under a right checksum: the tool that can set it is python3 with a CRC32C of its own.
if command -v python3 >/dev/null; then
	cp good future
	python3 - <<'PYTHON'
def crc32c(data, crc=0):
    crc ^= 0xffffffff
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82f63b78 if crc & 1 else 0)
    return crc ^ 0xffffffff
with open('future', 'r+b') as f:
    block = bytearray(f.read(4096))
    incompat = 40 + 8 + 4 + 4 + 16 + 64 + 16
    block[incompat + 7] |= 0x40
    block[4:8] = bytes(4)
    block[4:8] = crc32c(block).to_bytes(4, 'little')
    f.seek(0)
    f.write(block)
PYTHON
	cp future future_untouched
	refused "an unknown incompat bit is refused" "features" fsck.ashlar -y future
	refused "also by -n" "features" fsck.ashlar -n future
	cmp -s future future_untouched
	ok "and left alone" $?
else
	skip "an unknown incompat bit is refused" "no python3"
fi

# ---- Failures as JSON ----

if command -v python3 >/dev/null; then
	exits "--json of a missing file" 8 fsck.ashlar -n --json missing
	python3 -c 'import json; d = json.load(open("out")); assert "o such file" in d["error"] and d["exit_code"] == 8 and not d["clean"]'
	ok "is JSON with the error" $?
	exits "--json without -n, -p or -y" 8 fsck.ashlar --json good
	python3 -c 'import json; d = json.load(open("out")); assert "need a terminal" in d["error"] and d["exit_code"] == 8 and not d["clean"]'
	ok "is JSON with the error" $?
	exits "--json and a wrong option" 16 fsck.ashlar --json -z good
	python3 -c 'import json; d = json.load(open("out")); assert "unknown option" in d["error"] and d["exit_code"] == 16'
	ok "is JSON, too" $?
	exits "--json without a device" 16 fsck.ashlar --json
	python3 -c 'import json; d = json.load(open("out")); assert "is missing" in d["error"] and d["exit_code"] == 16'
	ok "is JSON, too" $?
	exits "--json of a label that nobody has" 8 fsck.ashlar -n --json LABEL=nobody-has-this
	python3 -c 'import json; d = json.load(open("out")); assert d["error"] and d["exit_code"] == 8'
	ok "is JSON with the error" $?
	exits "--json of no volume" 8 fsck.ashlar -n --json zeroes
	python3 -c 'import json; d = json.load(open("out")); assert "no Ashlar volume" in d["error"]'
	ok "is JSON with the error" $?
fi

# ---- Labels ----

label=fsck-cli-$$
mkfs.ashlar -q -L $label first 64M
cp first second
if can_loop && attach first && attach second; then
	refused "a label that two volumes have is refused" "name the device" fsck.ashlar -n LABEL=$label
	losetup -d "$loop"
	exits "one that a single volume has is found" 0 fsck.ashlar -n LABEL=$label
else
	skip "a label that two volumes have is refused" "no loop devices"
fi

# ---- Write-protected ----

if can_loop && loop=$(losetup -r -f --show good); then
	refused "a write-protected device is not repaired" "is write-protected.*; -n checks it without writing" fsck.ashlar -fp "$loop"
	exits "and can be checked" 0 fsck.ashlar -n "$loop"
	losetup -d "$loop"
else
	skip "a write-protected device" "no loop devices"
fi

# ---- Interrupts ----

# A volume in which 600 files have no name: as many problems.
many_problems() {
	mkdir -p tree/folder
	(cd tree/folder && seq -f 'file%g' 600 | xargs touch)
	rm -f many
	mkfs.ashlar -q -d tree many 64M
	python3 - <<'PYTHON'
with open('many', 'r+b') as f:
    for block in range(64 * 256):
        f.seek(block * 4096)
        if f.read(4) == b'ASTN':
            f.seek(block * 4096)
            f.write(bytes(4096))
PYTHON
}

# The signal comes when the output has filled the pipe that nobody reads: in the middle of the work.
signalled() {
	python3 - "$@" <<'PYTHON'
import array, fcntl, signal, subprocess, sys, termios, time
number = getattr(signal, sys.argv[1])
child = subprocess.Popen(sys.argv[2:], stdout=subprocess.PIPE, pipesize=4096)
waiting = array.array('i', [0])
end = time.monotonic() + 60
while waiting[0] < 4000 and child.poll() is None and time.monotonic() < end:
    time.sleep(0.05)
    fcntl.ioctl(child.stdout, termios.FIONREAD, waiting)
child.send_signal(number)
sys.stdout.buffer.write(child.communicate()[0])
sys.exit(child.returncode if child.returncode >= 0 else 128 - child.returncode)
PYTHON
}

if command -v python3 >/dev/null && python3 -c 'import sys; sys.exit(sys.version_info < (3, 10))'; then
	for signal in SIGINT SIGTERM SIGHUP; do
		many_problems
		exits "$signal stops -y: 32, with 1 and 4" 37 signalled $signal fsck.ashlar -y -f many
		has "it says so" "interrupted before the end" out
		! grep -q ": clean" out && [ "$(wc -l <out)" -lt 400 ]
		ok "and does not go on" $?
		exits "what is there is not clean" 4 fsck.ashlar -n many
		exits "the next run, not forced, ends the work" 1 fsck.ashlar -y many
		exits "and the volume is clean" 0 fsck.ashlar -n many
	done
	many_problems
	exits "-y without a reader: 8, with 1" 9 unread fsck.ashlar -y -f many
	exits "it came to the end all the same" 0 fsck.ashlar -n many
	many_problems
	exits "SIGTERM stops -n: 32 and 4" 36 signalled SIGTERM fsck.ashlar -n many
	many_problems
	cp many many_untouched
	exits "Ctrl-C at a question: 32 and 4" 36 on_terminal $'\003' fsck.ashlar -f many
	[ "$(wc -l <out)" -lt 8 ] && ! grep -q "^no" out
	ok "no more questions" $?
	if strace -o /dev/null true 2>/dev/null; then
		# The signal comes after the question and before anything waits for the answer. (LeakSanitizer cannot be traced.)
		ASAN_OPTIONS=detect_leaks=0 exits "Ctrl-C as a question is asked: 32 and 4" 36 on_terminal $'\003' \
			strace -f -o /dev/null -e trace=write -e inject=write:delay_exit=500000 fsck.ashlar -f many
	else
		skip "Ctrl-C as a question is asked" "no strace"
	fi
	cmp -s -i 4096 many many_untouched
	ok "nothing is written but the mark" $?
	exits "which the next run heeds, also without -f" 4 fsck.ashlar -p many
else
	skip "interrupts" "no python3"
fi
rm -rf many many_untouched tree

# ---- Two damages at once, and old volumes below ----

# A folder of several leaves, as "d" in volume $1; the block of its third leaf.
third_leaf() {
	ashlarctl dump "$1" "inode:$(ashlarctl stat "$1" /d | sed -n 's/^inode  *\([0-9]*\),.*/\1/p')" |
		sed -n 's/^ *key .*: child block //p' | sed -n 3p
}

# Spoil the record of file $2 of volume $1, in its modification time.
spoil_record() {
	local ino place
	ino=$(ashlarctl stat "$1" "$2" | sed -n 's/^inode  *\([0-9]*\),.*/\1/p')
	place=$(ashlarctl dump "$1" "inode:$ino" | sed -n 's/^at  *block //p')
	damage "$1" "$place" $((ino % 8 * 512 + 100)) 5a
}

mkdir -p tree/d
for i in $(seq 300); do mkdir "tree/d/folder number $i"; done
echo other >tree/other
mkfs.ashlar -q -d tree one 32M
damage one "$(third_leaf one)" 0 00 00 00 00
cp one two
spoil_record two /other
exits "a damaged leaf" 1 fsck.ashlar -y -f one
exits "a damaged leaf, and a record elsewhere" 1 fsck.ashlar -y -f two
ashlarctl ls one /d >names_one
ashlarctl ls two /d >names_two
[ "$(wc -l <names_one)" -gt 150 ] && cmp -s names_one names_two
ok "both keep the names in the good leaves" $?
exits "both are clean" 0 fsck.ashlar -n two
rm -f one two names_one names_two

# lost+found is no folder; its names are taken
touch tree/lost+found
mkfs.ashlar -q -d tree one 32M
damage one "$(third_leaf one)" 0 00 00 00 00
exits "names are lost, and lost+found is a file" 1 fsck.ashlar -y -f one
exits "they went to the root" 0 fsck.ashlar -n one
ashlarctl ls one / | grep -q '^#[0-9]'
ok "by number" $?
rm tree/lost+found
mkdir tree/lost+found
for i in $(seq 400 1000); do echo "$i" >"tree/lost+found/#$i"; done
mkfs.ashlar -q -f -d tree one 32M
damage one "$(third_leaf one)" 0 00 00 00 00
exits "names are lost, and their numbers are names in lost+found" 1 fsck.ashlar -y -f one
exits "they have names nevertheless" 0 fsck.ashlar -n one
ashlarctl ls one /lost+found | grep -q '^#[0-9]*\.1$'
ok "by number and another" $?
[ "$(ashlarctl ls one /lost+found | grep -c '^#[0-9]*$')" -eq 601 ]
ok "and who was there has kept his" $?
rm -rf one tree/lost+found

# a backup of an older volume behind the new one, and of the same before it grew
mkfs.ashlar -q one 512M
mkfs.ashlar -q -f -d tree one 300M
dd if=/dev/zero of=one bs=4096 count=1 conv=notrunc status=none
exits "block 0 lost, an older, larger volume had its backup behind" 1 fsck.ashlar -y -f one
exits "the newer one is clean" 0 fsck.ashlar -n one
rm -rf copy
ashlarctl get one / copy && rm -rf copy/lost+found && diff -r tree copy >/dev/null
ok "and has its files" $?
rm -rf one copy
truncate -s 100M one
mkfs.ashlar -q -f one 32M
ashlarctl resize one 64M >/dev/null
dd if=/dev/zero of=one bs=4096 count=1 conv=notrunc status=none
exits "block 0 lost of a volume that has grown" 1 fsck.ashlar -y -f one
ashlarctl info one | grep -q "64.0 MiB\|67108864\|16384 blocks"
ok "has its new size" $?
rm -rf one tree

# ---- In use ----

if command -v python3 >/dev/null; then
	waits good fsck.ashlar -y good
	waits good fsck.ashlar -n good
	hold good 60
	exits "--json of a locked volume" 8 fsck.ashlar -n --json good
	python3 -c 'import json; d = json.load(open("out")); assert "good is in use by another Ashlar program" in d["error"]'
	ok "says so" $?
	release
else
	skip "a locked volume is refused" "no python3"
fi
if can_loop && command -v mkfs.ext4 >/dev/null; then
	truncate -s 32M device
	mkdir mnt
	attach device
	if mkfs.ext4 -q -F "$loop" && mount "$loop" mnt; then
		for mode in -n -y; do
			fails_at_once "a mounted device is refused ($mode)" "is mounted on" fsck.ashlar $mode "$loop"
			fails_at_once "and the file behind it ($mode)" "is mounted on" fsck.ashlar $mode device
		done
		umount mnt
	else
		skip "a mounted device is refused" "ext4 cannot be mounted"
	fi
else
	skip "a mounted device is refused" "needs root, loop devices and mkfs.ext4"
fi
exits "the lock went with its holder" 0 fsck.ashlar -n good

done_testing
