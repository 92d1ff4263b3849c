#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# ashlarctl scrub of a mounted volume: no false alarm while a heavy load runs, damage done to the device under the mount is
# found and the mount goes on, refusals, interruption, read-only mounts, and what it costs.
# SCRUB_SECONDS: how long the load runs (20; 60 at the long levels; 5 at the quick one).
# SCRUB_COST=1: measure how a scrub slows a load, in alternating runs.
. "$(dirname "$0")/lib.sh"
start
case ${ASHLAR_TEST_LEVEL:-normal} in
quick) SECONDS_OF_LOAD=5 ;;
long | deep) SECONDS_OF_LOAD=60 ;;
*) SECONDS_OF_LOAD=20 ;;
esac
SECONDS_OF_LOAD=${SCRUB_SECONDS:-$SECONDS_OF_LOAD}
volume 1G -L "scrub-$$"

# scrub CODE NAME [OPTION...] TARGET: the exit status is CODE; output in $WORK/out and $WORK/err.
scrub() {
	local code=$1 name=$2 rc
	shift 2
	"$ASHLARCTL" scrub "$@" >"$WORK/out" 2>"$WORK/err"
	rc=$?
	if [ "$rc" = "$code" ]; then ok "$name"; else
		sed 's/^/# /' "$WORK/out" "$WORK/err" | head -20
		note "status $rc, not $code"
		not_ok "$name"
	fi
}
has() { grep -qE -- "$1" "$WORK/out" "$WORK/err"; }
value() { python3 -c "import json, sys; print(json.load(open('$WORK/out'))['$1'])"; }
# The file a root-only test can hand to another user must be readable by him.
as_nobody() { setpriv --reuid=65534 --regid=65534 --clear-groups "$@"; }

cat >"$WORK/load.py" <<'PY'
# Random changes of all kinds below a folder until a file named stop appears; prints how many.
import os, random, sys
root, stop, seed, limit = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
r = random.Random(seed)
os.mkdir(root)
dirs, files, count = [root], [], 0

def write(path, flags, offset, length):
    fd = os.open(path, os.O_RDWR | flags, 0o644)
    os.pwrite(fd, os.urandom(length), offset)
    os.close(fd)

def one():
    x = r.random()
    if x < 0.45 and len(files) < 8000:
        files.append(r.choice(dirs) + '/f%d' % r.randrange(20000))
        write(files[-1], os.O_CREAT | os.O_TRUNC, 0, r.choice([10, 300, 5000, 70000]))
    elif x < 0.68 and files:
        os.unlink(files.pop(r.randrange(len(files))))
    elif x < 0.72:
        dirs.append(r.choice(dirs) + '/d%d' % r.randrange(300))
        os.mkdir(dirs[-1])
    elif x < 0.75 and len(dirs) > 1:
        path = r.choice(dirs[1:])
        os.rmdir(path)
        dirs.remove(path)
    elif x < 0.80 and files:
        path, new = files.pop(r.randrange(len(files))), r.choice(dirs) + '/r%d' % r.randrange(20000)
        os.rename(path, new)
        files.append(new)
    elif x < 0.86 and files:
        os.setxattr(r.choice(files), 'user.x%d' % r.randrange(5), os.urandom(r.choice([10, 400, 3000, 60000])))
    elif x < 0.90 and files:
        os.truncate(r.choice(files), r.choice([0, 100, 10000, 200000, 90000000]))
    elif x < 0.96 and files:
        write(r.choice(files), 0, r.randrange(400000), r.randrange(1, 5000))
    elif x < 0.97 and files:
        files.append(r.choice(dirs) + '/l%d' % r.randrange(20000))
        os.link(files[-2], files[-1])
    elif x < 0.972:
        fd = os.open(root, os.O_RDONLY)
        os.fsync(fd)
        os.close(fd)

while not os.path.exists(stop) and (not limit or count < limit):
    count += 1
    try:
        one()
    except OSError:
        pass
print(count)
PY

# ---- under load ----
# A small cache and log, so that blocks come and go and checkpoints follow each other.
attach cache=2
scrub 0 "a new volume is clean" "$MNT"
check "says so" has "clean, 1 inodes, 1 folders"
loads=()
for i in 1 2 3; do
	python3 "$WORK/load.py" "$MNT/load$i" "$WORK/stop" "$i" 0 >"$WORK/count$i" &
	loads+=($!)
done
rounds=0 blocks=0 newer=0 bad=0 began=$SECONDS
# On a busy machine the first scrub, of a volume with next to nothing on it, may take all of the time.
while [ $((SECONDS - began)) -lt "$SECONDS_OF_LOAD" ] || { [ "$blocks" -le 100 ] && [ $((SECONDS - began)) -lt 60 ]; }; do
	"$ASHLARCTL" scrub --json "$MNT" >"$WORK/out" 2>"$WORK/err" &
	one=$!
	"$ASHLARCTL" scrub -q "$LOOP" >"$WORK/out2" 2>&1 # two at a time
	two=$?
	wait $one
	if [ $? != 0 ] || [ "$two" != 0 ]; then
		bad=$((bad + 1))
		cat "$WORK/out" "$WORK/err" "$WORK/out2" | sed 's/^/# /' | head -30
		break
	fi
	rounds=$((rounds + 2))
	blocks=$((blocks + $(value blocks_read)))
	newer=$((newer + $(value blocks_in_memory)))
done
: >"$WORK/stop"
wait "${loads[@]}"
operations=$(($(cat "$WORK"/count?|paste -sd+)))
seconds=$((SECONDS - began))
note "$rounds scrubs, half of which read $blocks blocks and found $newer newer in memory; $operations operations meanwhile"
check "no false alarm in $seconds seconds of load" same "$bad" 0
check "the load has done something" [ "$operations" -gt $((SECONDS_OF_LOAD * 100)) ]
check "and scrubs have read something" [ "$blocks" -gt 100 ]
scrub 0 "clean after the load" --json "$LOOP"
# What the kernel writes back and forgets in its own time is newer in memory for a while.
for _ in $(seq 50); do
	[ "$(value blocks_in_memory)" != 0 ] || break
	sync -f "$MNT"
	"$ASHLARCTL" scrub --json "$LOOP" >"$WORK/out" 2>"$WORK/err"
done
check "all of it was read from the device" same "$(value blocks_in_memory)" 0
inodes=$(value inodes)
check "every inode was seen" same "$inodes" "$(find "$MNT" -printf '%i\n' | sort -u | wc -l)"
echo "# campaign scrub: cases $rounds, distinct $operations states, violations $bad, skipped 0, seconds $((SECONDS - began))"

# ---- what it costs ----
if [ "${SCRUB_COST:-0}" = 1 ]; then
	mkdir "$MNT/cost"
	for round in 1 2 3 4 5; do
		for with in without with; do
			rm -f "$WORK/stop"
			if [ $with = with ]; then
				(while [ ! -e "$WORK/stop" ]; do "$ASHLARCTL" scrub -q "$MNT" || exit; done) &
				scrubber=$!
			fi
			from=$(date +%s%N)
			python3 "$WORK/load.py" "$MNT/cost/$round$with" "$WORK/none" "$round" 8000 >/dev/null
			note "round $round $with: $((($(date +%s%N) - from) / 1000000)) ms for 8000 operations"
			: >"$WORK/stop"
			[ $with = with ] && wait $scrubber
		done
	done
fi

# ---- refusals ----
echo "only root's" >"$WORK/err"
chmod 755 "$MNT"
cp "$ASHLARCTL" "$WORK/ashlarctl"
chmod 755 "$WORK/ashlarctl"
as_nobody "$WORK/ashlarctl" scrub "$MNT" >"$WORK/out" 2>"$WORK/err"
check "another user: status 8" same $? 8
check "is told that it is root's" has "only root"
scrub 8 "a folder of another file system" /proc
check "is told" has "not on a mounted Ashlar volume"
scrub 8 "a missing target" "$WORK/none"
scrub 16 "no target"
scrub 16 "two targets" "$MNT" "$MNT"
scrub 16 "an unknown option" --frobnicate "$MNT"
scrub 0 "by label" "LABEL=scrub-$$"
scrub 8 "by a label that nobody has" LABEL=nobody-has-this
scrub 0 "by image, which is on a loop device that is mounted" "$IMAGE"
scrub 0 "quietly" -q "$MNT"
check "nothing is printed" same "$(cat "$WORK/out" "$WORK/err")" ""
script -qec "'$ASHLARCTL' scrub -p '$MNT'" /dev/null >"$WORK/out" 2>"$WORK/err" </dev/null
check "progress on a terminal" has "%, [0-9]+ blocks, 0 problems"
scrub 0 "no progress line where there is no terminal" -p "$MNT"
check "none" same "$(cat "$WORK/err")" ""

# ---- interruption ----
# One that comes before the handler ends it by the signal, one that comes late is not seen: from both the time is learnt
# that it takes on this machine.
python3 - "$ASHLARCTL" "$MNT" >"$WORK/out" 2>"$WORK/err" <<'PY'
import signal, subprocess, sys, time
codes, delay = [], 0.004
while len(codes) < 20 or (32 not in codes and len(codes) < 200):
    child = subprocess.Popen([sys.argv[1], 'scrub', sys.argv[2]], stdout=subprocess.PIPE)
    time.sleep(delay)
    child.send_signal(signal.SIGINT)
    text = child.communicate()[0].decode()
    codes.append(child.returncode)
    if child.returncode == 32:
        print(text, end='')
    delay *= {-2: 1.5, 0: 0.8}.get(child.returncode, 1)
print(codes, file=sys.stderr)
sys.exit(0 if 32 in codes and {*codes} <= {0, 32, -2} else 1)
PY
check "an interrupt ends it with status 32" same $? 0
check "and a report of what was done" has "interrupted: only a part was looked at; 0 problems"
check "the mount goes on" touch "$MNT/still"
detach

# ---- damage under the mount ----
# A leaf of a folder: found through the volume, changed in the file behind the device.
attach
mkdir "$MNT/folder"
for i in $(seq 500); do echo "$i" >"$MNT/folder/a name of some length so that the folder has nodes $i"; done
inode=$(stat -c %i "$MNT/folder")
detach
block=$("$ASHLARCTL" dump "$LOOP" "inode:$inode" | sed -n 's/.*child block \([0-9]*\)$/\1/p' | tail -1)
check "a node of the folder is found ($block)" [ -n "$block" ]
dd if="$IMAGE" of="$WORK/good" bs=4096 skip="$block" count=1 status=none
# damage OFFSET: one byte of the block, on the device
damage() { printf '\377' | dd of="$IMAGE" bs=1 seek=$((block * 4096 + $1)) conv=notrunc status=none; }
restore() { dd if="$WORK/good" of="$IMAGE" bs=4096 seek="$block" conv=notrunc status=none; }
attach errors=continue
ls -l "$MNT/folder" >/dev/null
scrub 0 "clean before the damage" "$MNT"
damage 2048
scrub 4 "a damaged block under a cached one" "$MNT"
check "is named with its inode" has "inode $inode, block $block: bad checksum"
check "the result says what to do" has "NOT CLEAN, 1 problems: run fsck.ashlar -f,"
check "names are still there" same "$(ls "$MNT/folder" | wc -l)" 500
check "errors=continue: writing goes on" touch "$MNT/after"
scrub 4 "as JSON" --json "$MNT"
check "with block and inode" same "$(value problems)" \
	"[{'inode': $inode, 'block': $block, 'message': 'inode $inode, block $block: bad checksum'}]"
restore
scrub 0 "clean when the block is as it was" "$MNT"
detach
attach
damage 2048
scrub 4 "a damaged block that nobody has read" "$MNT"
check "is named with its inode" has "inode $inode, block $block: bad checksum"
check_fails "errors=remount-ro: the volume is read-only" touch "$MNT/refused"
# The kernel takes what is written into its cache, until its own WRITE has failed.
check "and who writes on gets EROFS" python3 -c "
import errno, os, sys, time
fd = os.open('$MNT/after', os.O_WRONLY)
for _ in range(200):
    try:
        os.write(fd, b'x' * 65536)
    except OSError as error:
        sys.exit(error.errno != errno.EROFS)
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    time.sleep(0.01)
sys.exit(1)"
check "/proc/mounts shows the kernel's flag all the same" eval 'grep " $MNT " /proc/mounts | grep -q " rw,"'
"$ASHLARCTL" info "$LOOP" >"$WORK/out"
check "info does not call it good: the device has the state of before" has "^state +mounted"
"$ASHLARCTL" info --json "$LOOP" >"$WORK/out"
check "JSON has no state of it" python3 -c "import json; v = json.load(open('$WORK/out')); assert v['in_use'] and not 'state' in v and not 'clean' in v"
check "and can be read" same "$(cat "$MNT/load1/x" 2>/dev/null; ls "$MNT" | grep -c after)" 1
restore
detach
"$ASHLARCTL" info "$LOOP" >"$WORK/out"
check "the volume remembers" has "damage was met"
"$ASHLARCTL" info --json "$LOOP" >"$WORK/out"
check "in JSON, too" same "$(value state)" 1

# ---- read-only ----
attach ro
scrub 0 "a read-only mount" --json "$MNT"
check "all of it" same "$(value blocks_in_memory)" 0
"$ASHLARCTL" info "$LOOP" >"$WORK/out"
check "info of it tells of the earlier damage" has "mounted; damage was met before"
damage 2048
scrub 4 "and damage in it" "$MNT"
check "is named" has "inode $inode, block $block: bad checksum"
restore
detach
fsck_clean "fsck finds nothing more than the mark"
finish
