#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# ashlarctl: each command, and the refusals of all tools that open a volume.
source "$(dirname "$0")/cli_common.sh"

mkdir -p tree/folder
echo hello >tree/greeting
head -c 200000 /dev/urandom >tree/folder/data
ln -s greeting tree/link
touch -d '2010-10-10 10:10:10' tree/greeting
mkfs.ashlar -q -L label -d tree volume 64M || { echo "Bail out! mkfs.ashlar does not work"; exit 1; }
cp volume pristine

# ---- Reading: nothing changes ----

touch -d '2020-01-01' volume
works "info" ashlarctl info volume
has "shows the label" "label          label"
has "and that it was closed in order" "state          good"
works "info --json" ashlarctl info --json volume
json "has label, blocks and use" "v['label'] == 'label' and v['blocks'] == 16384 and 0 < v['free_blocks'] < 16384 and not v['in_use'] and v['clean']"
works "ls" ashlarctl ls volume
[ "$(sort out | tr '\n' ' ')" = "folder greeting link " ]
ok "lists names" $?
works "ls -a" ashlarctl ls -a volume /
[ "$(sort out | tr '\n' ' ')" = ". .. folder greeting link " ]
ok "lists . and .." $?
works "ls -l" ashlarctl ls -l volume /
has "shows modes and targets" "link -> greeting"
works "ls of a file" ashlarctl ls volume /greeting
has "shows it" "greeting"
works "ls -R" ashlarctl ls -R volume
has "goes down" "data"
works "ls --json" ashlarctl ls --json volume /folder
json "has names and sizes" "[(e['name'], e['size'], e['type']) for e in v] == [('data', 200000, 'file')]"
works "stat" ashlarctl stat volume /greeting
has "shows times" "2010-10-10 10:10:10"
works "stat --json" ashlarctl stat --json volume /greeting
json "has size and mtime" "v['size'] == 6 and v['mtime']['seconds'] == 1286705410 and v['links'] == 1"
works "stat of inode 1" ashlarctl stat --json volume inode:1
json "is the root folder" "v['inode'] == 1 and v['type'] == 'folder' and v['links'] == 3"
works "cat" ashlarctl cat volume /folder/data
cmp out tree/folder/data
ok "gives the content" $?
works "get of a file" ashlarctl get volume /folder/data copy
cmp copy tree/folder/data
ok "copies it" $?
fails "get does not overwrite" "File exists" ashlarctl get volume /folder/data copy || true
works "get of a folder" ashlarctl get volume /folder got
cmp got/data tree/folder/data
ok "copies what is in it" $?
works "get into a folder" ashlarctl get volume /greeting got
cmp got/greeting tree/greeting
ok "keeps the name" $?

# What is there stays as it is: mode, owner, times, and what a link of the same name leads to.
mkdir -p trap/locked outside
echo d >trap/f
chmod 4777 trap/f
chmod 700 trap/locked
touch -d '2001-01-01' trap/f trap/locked
mkfs.ashlar -q -d trap trap.img 16M
echo secret >secret
chmod 600 secret
ln -s ../secret outside/f
touch -d '2020-01-01' secret
before=$(stat -c '%a %u %g %y %z' secret)
fails "get onto a link" "File exists" ashlarctl get trap.img /f outside || true
[ "$before" = "$(stat -c '%a %u %g %y %z' secret)" ]
ok "leaves what the link leads to alone" $?
cp secret outside/plain
before=$(stat -c '%a %u %g %y %z' outside/plain)
fails "get onto a file" "File exists" ashlarctl get trap.img /f outside/plain || true
[ "$before" = "$(stat -c '%a %u %g %y %z' outside/plain)" ]
ok "leaves the file alone" $?
mkdir -m 750 outside/there
works "get of the root into a folder" ashlarctl get trap.img / outside/there
[ "$(stat -c %a outside/there)" = 750 ] && [ "$(stat -c %a outside/there/locked)" = 700 ] && [ "$(stat -c %a outside/there/f)" = 4777 ] &&
	[ "$(stat -c %Y outside/there/locked)" -eq "$(date -d 2001-01-01 +%s)" ]
ok "the folder keeps its mode, what is made in it has the volume's" $?
fails "get to an empty name" "the target has no name" ashlarctl get trap.img /f ""
# As on a volume whose folder has a link and a file of one name: the file cannot be made, and must not go through the link.
mkdir outside/twin
ln -s ../../secret outside/twin/f
before=$(stat -c '%a %u %g %y %z' secret)
ashlarctl get trap.img / outside/twin >out 2>err
[ $? -ne 0 ] && [ "$before" = "$(stat -c '%a %u %g %y %z' secret)" ] && [ -d outside/twin/locked ]
ok "a tree does not lead out of the target, and the rest is copied" $?

# Deeper than a small stack would bear if each level took a part of it.
depth=3000
if [ "$(ulimit -Hn)" = unlimited ] || [ "$(ulimit -Hn)" -gt $((depth + 100)) ]; then
	python3 - $depth <<'END'
import os, sys
os.mkdir('deep')
os.chdir('deep')
for i in range(int(sys.argv[1])):
    open('before', 'w').close()
    os.mkdir('d')
    os.mkdir('empty', 0o711)
    os.utime('.', (1, 1000000 + i))
    os.chdir('d')
open('bottom', 'w').write('reached')
END
	works "-d of a deep tree" bash -c "ulimit -s 256; exec mkfs.ashlar -q -d deep deep.img 64M"
	bash -c "ulimit -s 256; exec ashlarctl ls -R deep.img" >out 2>err
	[ $? -eq 0 ] && [ "$(grep -c '^/.*:$' out)" -eq $((2 * depth + 1)) ] && grep -q bottom out
	ok "ls -R of it" $?
	works "ls -R --json of it" bash -c "ulimit -s 256; exec ashlarctl ls -R --json deep.img"
	works "get of it" bash -c "ulimit -s 256; exec ashlarctl get deep.img / deep_copy"
	python3 - $depth >out 2>err <<'END'
import os, sys
os.chdir('deep_copy')
for i in range(int(sys.argv[1])):
    os.stat('before')
    assert os.stat('empty').st_mode & 0o7777 == 0o711
    assert i == 0 or os.stat('.').st_mtime == 1000000 + i
    os.chdir('d')
assert open('bottom').read() == 'reached'
END
	ok "has all of it" $?
	rm -rf deep deep_copy deep.img
else
	skip "a deep tree" "too few files may be open"
fi

# A damaged inode: its name is listed, nothing is made in its place, and the rest is copied.
mkdir -p hurt/folder/sub
echo lost >hurt/folder/lost
echo kept >hurt/folder/kept
echo below >hurt/folder/sub/below
mkfs.ashlar -q -d hurt hurt.img 16M
python3 - "$(ashlarctl stat --json hurt.img /folder/lost | python3 -c 'import json, sys; print(json.load(sys.stdin)["inode"])')" <<'END'
import sys
image = open('hurt.img', 'r+b')
data = image.read()
at = -512
while True:
    at = data.index(b'ASIN', at + 512)
    if at % 512 == 0 and int.from_bytes(data[at + 8:at + 16], 'little') == int(sys.argv[1]):
        break
image.seek(at + 4)
image.write(bytes([data[at + 4] ^ 0x40]))
END
ashlarctl get hurt.img /folder rescued >out 2>err
[ $? -eq 1 ] && grep -q "rescued/lost: damaged inode, run fsck.ashlar -f:" err
ok "get of a folder with a damaged inode: status 1, and names it" $?
[ ! -e rescued/lost ] && [ "$(cat rescued/kept rescued/sub/below)" = "$(printf 'kept\nbelow')" ]
ok "nothing is made in its place, and the rest is copied" $?
for options in "" -l -R -lR --json; do
	ashlarctl ls $options hurt.img /folder >out 2>err
	[ $? -eq 1 ] && grep -q "/folder/lost: damaged inode, run fsck.ashlar -f:" err && grep -q lost out && grep -q kept out
	ok "ls $options says so and lists the rest: status 1" $?
	# What was met is not on the volume, which nobody may write here: without -f the check would be skipped.
	[ "$(wc -l <err)" -eq 2 ] && [ "$(grep -c 'damaged metadata: block .*; run fsck.ashlar -f$' err)" -eq 1 ]
	ok "ls $options names the damaged block once" $?
done
json "of a damaged inode there is its number" "[sorted(e) for e in v if e['name'] == 'lost'] == [['error', 'inode', 'name']]"

# A device that is bad in places: all that can be read is copied, and what cannot is named.
if [ -x "${ASHLAR_BUILD:-}/tests/ashlarctl_bad" ]; then
	mkdir rotten
	python3 -c "
import sys
for i in range(1300):
    sys.stdout.write(('block %d of the file ' % i * 300)[:4096])
sys.stdout.write('and its end')" >rotten/file
	echo whole >rotten/other
	mkfs.ashlar -q -d rotten rotten.img 32M
	bad=$(python3 -c "
image = open('rotten.img', 'rb').read()
print(','.join('%d:512' % (image.index(b'block %d of' % i) + 1024) for i in (300, 301, 700, 1299)))")
	ASHLAR_TEST_BAD=$bad "$ASHLAR_BUILD/tests/ashlarctl_bad" get rotten.img / rescued_in_part >out 2>err
	[ $? -eq 1 ] && [ "$(wc -l <err)" -eq 4 ]
	ok "get from a bad device: status 1" $?
	for range in "1228800 to 1236991" "2867200 to 2871295" "5320704 to 5324799"; do
		grep -qF "rescued_in_part/file: bytes $range cannot be read" err
		ok "names bytes $range" $?
	done
	python3 - >out 2>err <<'END'
before, after = open('rotten/file', 'rb').read(), bytearray(open('rescued_in_part/file', 'rb').read())
for i in (300, 301, 700, 1299):
    assert after[i * 4096:(i + 1) * 4096] == bytes(4096), i
    after[i * 4096:(i + 1) * 4096] = before[i * 4096:(i + 1) * 4096]
assert before == after
END
	ok "all else is copied, with holes in their places" $?
	[ "$(cat rescued_in_part/other)" = whole ]
	ok "so is another file" $?
else
	skip "get from a bad device" "tests/ashlarctl_bad is not built"
fi

works "log" ashlarctl log volume
has "shows the control block" "control"
works "log --json" ashlarctl log --json volume
json "is clean" "v['clean'] and v['records'] == []"
works "dump of block 0" ashlarctl dump volume 0
has "is the superblock" "superblock"
grep -q BAD out
ok "with nothing bad in it" $((! $?))
works "dump of the log's control block" ashlarctl dump volume 3
has "is one" "log control"
works "dump of inode 1" ashlarctl dump volume inode:1
has "is the root" "mode           040755"
grep -q greeting out
ok "with its names" $?
works "dump -x" ashlarctl dump -x volume 1
has "shows bytes" "ASBB"
works "label" ashlarctl label volume
[ "$(cat out)" = label ]
ok "prints it" $?
works "uuid" ashlarctl uuid volume
grep -qE '^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$' out
ok "prints it" $?
cmp volume pristine && [ "$(stat -c %Y volume)" -eq "$(date -d 2020-01-01 +%s)" ]
ok "reading commands have written nothing" $?
chmod 444 volume
works "a file that is read-only" ashlarctl cat volume /greeting
chmod 644 volume

fails "a path that is not there" "No such file" ashlarctl stat volume /none
fails "a path through a file" "Not a directory" ashlarctl stat volume /greeting/x
fails "cat of a folder" "not a regular file" ashlarctl cat volume /folder
fails "an inode that is not in use" "inode:200" ashlarctl stat volume inode:200
fails "in words" "no such inode" ashlarctl stat volume inode:200
fails "half a number" "No such file" ashlarctl stat volume inode:8x
for number in +1 " 1" -1 0x1 18446744073709551617; do
	fails "the number '$number'" "No such file" ashlarctl stat volume "inode:$number"
	fails "block '$number'" "give a block number" ashlarctl dump volume "block:$number"
done
works "a number that begins with 0" ashlarctl stat --json volume inode:01
json "is decimal" "v['inode'] == 1"
works "of more digits, too" ashlarctl dump volume 0000000000000032
fails "and not octal" "no such inode" ashlarctl stat volume inode:0200
mkdir names
echo odd >'names/<stdio>'
echo odd >'names/inode:8x'
mkfs.ashlar -q -d names names.img 16M
works "a file called <stdio>" ashlarctl cat names.img '<stdio>'
has "is found" "odd"
works "a file called inode:8x" ashlarctl cat names.img 'inode:8x'
has "is found" "odd"
fails "a block behind the end" "behind the volume's end" ashlarctl dump volume 16384
fails "an unknown command" "no command" ashlarctl frobnicate volume
fails "too few arguments" "cat: PATH is missing" ashlarctl cat volume
fails "too many arguments" "'more' is too much" ashlarctl cat volume /greeting more
fails "no command" "a command is missing" ashlarctl
fails "an unknown option" "unknown option '--colour'" ashlarctl --colour info volume
fails "--json where there is none" "cat has no --json" ashlarctl --json cat volume /greeting
touch -d '2020-01-01' volume
fails_untouched "-x where there is none" "label has no -x" volume ashlarctl label volume -x
fails_untouched "-a where there is none" "label has no -a" volume ashlarctl label volume other -a
fails "-R where there is none" "stat has no -R" ashlarctl stat -R volume /
fails "-q where there is none" "ls has no -q" ashlarctl ls --quiet volume
fails "-l where there is none" "scrub has no -l" ashlarctl scrub -l volume
works "an option before the command" ashlarctl -l ls volume
ashlarctl --json ls >out 2>err
json "wrong use is JSON too" "'DEVICE is missing' in v['error']"
ashlarctl --json frobnicate >out 2>err
json "an unknown command, too" "\"no command 'frobnicate'\" in v['error']"
ashlarctl --json scrub -z volume >out 2>err
json "and an unknown option" "\"unknown option '-z'\" in v['error']"
ashlarctl --json ls LABEL=nobody-has-this-label >out 2>err
json "and a label that nobody has" "'no such volume' in v['error']"
fails "an empty label" "a label has 1 to 64 bytes" ashlarctl info LABEL=
fails "half a UUID" "a UUID has 32 hexadecimal digits" ashlarctl info UUID=zz
fails "a label that nobody has" "no such volume" ashlarctl info LABEL=nobody-has-this-label
printf 'hello\n' >six
for command in info ls scrub dump; do
	fails "$command of 6 bytes" "is too small (6 bytes)" ashlarctl $command six $([ $command = dump ] && echo 0)
done
ashlarctl --json info six >out 2>err
json "an error is JSON too" "'too small' in v['error']"
if can_loop && attach pristine; then
	ashlarctl uuid pristine random
	works "LABEL= names a volume" ashlarctl ls "UUID=$(ashlarctl uuid "$loop")"
	has "lists it" "greeting"
	losetup -d "$loop"
else
	skip "LABEL= names a volume" "needs root and loop devices"
fi
if can_loop && loop=$(losetup -r -f --show pristine); then
	fails "label of a write-protected device" "is write-protected" ashlarctl label "$loop" new
	fails "resize of one" "is write-protected" ashlarctl resize "$loop"
	works "ls of one" ashlarctl ls "$loop"
	losetup -d "$loop"
else
	skip "a write-protected device" "needs root and loop devices"
fi
mkfs.ashlar -q -L "$(printf 'a\033b\nc')" escape.img 16M
python3 - <<'END' >out 2>err
import pty, os, sys
seen = []
def read(fd):
    data = os.read(fd, 4096)
    seen.append(data)
    return data
pty.spawn(['ashlarctl', 'label', 'escape.img'], read)
pty.spawn(['ashlarctl', 'info', 'escape.img'], read)
sys.exit(b'\033' in b''.join(seen) or b'a?b?c' not in b''.join(seen))
END
ok "a label's control characters do not reach the terminal" $?
# C1, the second set of control characters: as UTF-8, and as a byte that is no character. Other characters stay.
mkdir c1
touch c1/"$(printf 'a\302\23331mb')" c1/"$(printf 'c\233d')" c1/"$(printf 'e\303\233f\342\202\254\302\240g')"
mkfs.ashlar -q -d c1 c1.img 16M
python3 - <<'END' >out 2>err
import pty, os, sys
seen = []
def read(fd):
    data = os.read(fd, 4096)
    seen.append(data)
    return data
for command in 'ls', 'ls --json':
    pty.spawn(['ashlarctl'] + command.split() + ['c1.img'], read)
text = b''.join(seen)
wrong = [w for w in (b'a?31mb\r', b'c?d\r', b'e\303\233f\342\202\254\302\240g\r', b'"a\\u009b31mb"', b'"c\\udc9bd"') if w not in text]
print(text, wrong)
sys.exit(b'\302\233' in text or b'c\233' in text or bool(wrong))
END
ok "nor do those of the second set, in names" $?
works "ls --json" ashlarctl ls --json c1.img
json "has them all the same" "'a\\x9b31mb' in [e['name'] for e in v]"
fails "those in an error" "no?[31mname: No such file" ashlarctl cat volume "$(printf '/no\302\233[31mname')"
fails "control characters of an error" "no?such?[31mname: No such file" ashlarctl cat volume "/no"$'\n'"such"$'\033'"[31mname"

# For udev: names as it wants them, one line each whatever the label holds, and no word about what is no volume.
mkfs.ashlar -q -L "$(printf ' a/b "c"\nID_FS_TYPE=ext4 $(d)\\\377\303\244 ')" -U 01234567-89ab-cdef-0123-456789abcdef hostile.img 16M
works "info --export" ashlarctl info --export hostile.img
[ "$(cut -d= -f1 out | tr '\n' ' ')" = "ID_FS_TYPE ID_FS_USAGE ID_FS_VERSION ID_FS_UUID ID_FS_UUID_ENC ID_FS_LABEL ID_FS_LABEL_ENC " ]
ok "each key once: a label adds no line" $?
has "the type" "ID_FS_TYPE=ashlar"
has "the UUID" "ID_FS_UUID_ENC=01234567-89ab-cdef-0123-456789abcdef"
grep -qxF 'ID_FS_LABEL_ENC=\x20a\x2fb\x20\x22c\x22\x0aID_FS_TYPE=ext4\x20\x24\x28d\x29\x5c\xff'"$(printf '\303\244')"'\x20' out
ok "the label as the name of a link" $?
grep -qE '^ID_FS_LABEL=[^"$()[:cntrl:]]*$' out
ok "and without what could be taken for something else" $?
mkfs.ashlar -q plain.img 16M
works "info --export without a label" ashlarctl info --export plain.img
[ "$(grep -c LABEL out)" -eq 0 ] && [ "$(wc -l <out)" -eq 5 ]
ok "prints none" $?
cp plain.img bad_super
printf 'x' | dd of=bad_super bs=1 seek=600 conv=notrunc status=none
for file in six bad_super empty.img; do
	[ -e $file ] || truncate -s 1M $file
	ashlarctl info --export $file >out 2>err
	[ $? -eq 2 ] && [ ! -s out ] && [ ! -s err ]
	ok "info --export of $file: status 2 and not a word" $?
done
fails "info --export of what is not there" "No such file" ashlarctl info --export missing
fails "label has no --export" "label has no --export" ashlarctl --export label volume
fails "two forms" "choose one" ashlarctl --export --json info volume

# ---- Changing ----

works "label is set" ashlarctl label volume 'new label'
works "label" ashlarctl label volume
[ "$(cat out)" = 'new label' ]
ok "is the new one" $?
fails "a label of 65 bytes" "longer than 64" ashlarctl label volume "$(printf '%065d' 0)"
works "uuid is set" ashlarctl uuid volume 01234567-89ab-cdef-0123-456789abcdef
works "uuid" ashlarctl uuid volume
[ "$(cat out)" = 01234567-89ab-cdef-0123-456789abcdef ]
ok "is the new one" $?
fails "a bad UUID" "is not a UUID" ashlarctl uuid volume xyz
works "resize grows the file" ashlarctl resize volume 600M
works "info" ashlarctl info --json volume
json "shows the new size" "v['blocks'] == 600 * 256 and v['groups'] == 5"
fails "resize does not shrink" "not shrink" ashlarctl resize volume 100M
mkfs.ashlar -q limit.img 64M
fails "resize beyond the group table" "can grow to 66588770304 bytes (62.02 GiB) at most" ashlarctl resize limit.img 100G
[ "$(stat -c %s limit.img)" -eq $((64 << 20)) ]
ok "leaves the file as long as it was" $?
truncate -s 64M limit.img
# A volume that cannot be opened for writing: the file gets its length back.
works "resize to the limit" ashlarctl resize limit.img 66588770304
works "is in order" fsck.ashlar -n -f limit.img
rm limit.img
mkfs.ashlar -q limit.img 64M
(ulimit -f 131072; exec ashlarctl resize limit.img 1G) >out 2>err
[ $? -eq 1 ] && grep -q "File too large" err && [ "$(stat -c %s limit.img)" -eq $((64 << 20)) ]
ok "a resize that fails leaves the file as long as it was" $?
works "the content is there" ashlarctl cat volume /folder/data
cmp out tree/folder/data
ok "and right" $?
works "fsck after label, uuid and resize" fsck.ashlar -n -f volume
works "trim" ashlarctl trim volume
has "says how much" "discarded"
works "fsck after trim" fsck.ashlar -n -f volume

mkdir somewhere
fails "trim of a folder of another file system" "is not on a mounted Ashlar volume" ashlarctl trim somewhere
if can_loop && command -v mkfs.ext4 >/dev/null && truncate -s 32M ext4 && mkfs.ext4 -q ext4 && attach ext4 && mount "$loop" somewhere; then
	fails "trim of a mounted ext4" "is not on a mounted Ashlar volume" ashlarctl trim somewhere
	fails "trim of its device" "is not on a mounted Ashlar volume" ashlarctl trim "$loop"
	umount somewhere
else
	skip "trim of a mounted ext4" "ext4 cannot be mounted"
fi

# ---- Not a volume: every tool says so in one line and writes nothing ----

mkdir folder
: >empty
printf 'a text file\n' >text
head -c 20000 /dev/zero >zeroes
cp pristine unknown_bit
set_incompat_bit unknown_bit
cp pristine truncated
truncate -s 30M truncated
touch -d '2020-01-01' empty text zeroes unknown_bit truncated

for command in info ls log trim "label" "resize" scrub; do
	fails "$command of a folder in use as a device" "" ashlarctl $command /dev/null
	fails_untouched "$command of an empty file" "" empty ashlarctl $command empty
	fails_untouched "$command of a text file" "" text ashlarctl $command text
	fails_untouched "$command of zeroes" "" zeroes ashlarctl $command zeroes
	fails_untouched "$command with an unknown incompat bit" "" unknown_bit ashlarctl $command unknown_bit
	fails_untouched "$command of a truncated image" "" truncated ashlarctl $command truncated
done
fails "ls of a folder" "is a folder" ashlarctl ls folder
fails "ls of a missing file" "No such file" ashlarctl ls missing
fails "an unknown incompat bit has words" "incompat" ashlarctl ls unknown_bit

# ---- scrub: exit codes as fsck(8) ----

mkdir -p many/names
for i in $(seq 300); do echo "$i" >"many/names/a name of some length so that the folder has nodes $i"; done
mkfs.ashlar -q -L scrub -d many sound 140M
ashlarctl info --json sound >out
group_table=$(python3 -c "import json; print(json.load(open('out'))['group_table_start'])")
ashlarctl ls -l sound >/dev/null
inode=$(ashlarctl stat --json sound /names | python3 -c 'import json, sys; print(json.load(sys.stdin)["inode"])')
node=$(ashlarctl dump sound "inode:$inode" | sed -n 's/.*child block \([0-9]*\)$/\1/p' | head -1)
# Byte number of an inode record in an image.
record=$(python3 -c "
import sys
image = open('sound', 'rb').read()
at = -512
while True:
    at = image.index(b'ASIN', at + 512)
    if at % 512 == 0 and int.from_bytes(image[at + 8:at + 16], 'little') == $inode:
        break
print(at)")

# scrubs CODE NAME [ARGUMENT...]
scrubs() {
	local code=$1 name=$2 status
	shift 2
	ashlarctl scrub "$@" >out 2>err
	status=$?
	[ $status -eq "$code" ]
	ok "$name: status $code" $?
}
# damaged NAME BYTE TEXT: one byte changed; status 4, one line that has TEXT, and nothing is written.
damaged() {
	local before
	cp sound broken
	python3 -c "
image = open('broken', 'r+b')
image.seek($2)
byte = image.read(1)
image.seek($2)
image.write(bytes([byte[0] ^ 0x40]))"
	before=$(stat -c '%y %z' broken)
	scrubs 4 "scrub: $1" broken
	has "names it" "$3"
	has "and says what to do" "run fsck.ashlar -f,"
	[ "$before" = "$(stat -c '%y %z' broken)" ]
	ok "nothing is written" $?
	scrubs 4 "the same as JSON" --json broken
	json "has problems and exit code" "len(v['problems']) == v['problem_count'] > 0 and v['exit_code'] == 4 and not v['clean']"
}

scrubs 0 "scrub of a sound volume" sound
has "says so" "sound: clean"
has "with figures" "300 files, 2 folders"
scrubs 0 "quietly" -q sound
[ ! -s out ] && [ ! -s err ]
ok "nothing is printed" $?
scrubs 0 "as JSON" --json sound
json "is clean" "v['clean'] and v['problems'] == [] and not v['mounted'] and v['inodes'] == 302 and v['exit_code'] == 0"
scrubs 0 "of an image with a driver's name" sync:sound
damaged "superblock" 600 "Superblock"
damaged "group table" $((group_table * 4096 + 100)) "Group table block $group_table"
damaged "bitmap" $((4096 + 200)) "at block 1 "
damaged "node of a folder" $((node * 4096 + 1000)) "inode $inode: tree is damaged at block $node"
damaged "inode record" $((record + 60)) "Inode $inode"
damaged "backup superblock" $((32256 * 4096 + 600)) "at block 32256"
ashlarctl scrub -v broken >out 2>err
[ $? -eq 4 ]
ok "scrub -v" $?
scrubs 8 "scrub of what is no volume" text
scrubs 8 "scrub of a folder" folder
grep -q "not on a mounted Ashlar volume" err
ok "says why" $?
scrubs 8 "scrub of a missing file" missing
scrubs 8 "scrub of a label that nobody has" LABEL=nobody-has-this-label
scrubs 16 "scrub without a target"
scrubs 16 "scrub of two targets" sound sound
scrubs 16 "scrub with an unknown option" --unknown sound
hold sound 60
scrubs 8 "scrub of a volume that another program has" sound
grep -q "in use by another Ashlar program" err
ok "says so" $?
works "info --export of it" ashlarctl info --export sound
has "gives its names" "ID_FS_LABEL=scrub"
release
waits sound ashlarctl scrub sound
waits sound ashlarctl label sound scrub
waits sound ashlarctl ls sound
waits sound ashlarctl log sound
# An interrupt is heeded where the check tells of its progress: -INT is a child's to take only when it is not in the background.
python3 - >out 2>err <<'END'
import signal, subprocess, time
codes = set()
for delay in (0.0, 0.001, 0.002, 0.003, 0.005, 0.008, 0.012) * 4:
    child = subprocess.Popen(['ashlarctl', 'scrub', 'sound'], stdout=subprocess.PIPE)
    time.sleep(delay)
    child.send_signal(signal.SIGINT)
    text = child.communicate()[0].decode()
    codes.add(child.returncode)
    assert child.returncode != 32 or 'interrupted' in text
print(codes)
assert codes <= {0, 32, -2}
END
ok "an interrupt ends it with status 32 or comes too late" $?

works "--help" ashlarctl --help
works "--version" ashlarctl --version
full "--help" ashlarctl --help
full "--version" ashlarctl --version
full "info --json" ashlarctl info --json volume
full "ls" ashlarctl ls volume
full "cat" ashlarctl cat volume /folder/data
full "cat of a short file" ashlarctl cat volume /greeting
unopened "--help" ashlarctl --help
unopened "info" ashlarctl info volume
unopened "info --json" ashlarctl info --json volume
unopened "cat" ashlarctl cat volume /folder/data
ashlarctl label volume unopened >&- 2>err
ok "what prints nothing works with a closed output" $?
done_testing
