# SPDX-License-Identifier: LGPL-2.1-or-later
#
# For the tests of the command-line tools: TAP output, a scratch folder, and the few questions that are asked of every
# tool. Sourced by cli_*.sh, not run.

set -u
export LC_ALL=C.UTF-8 TZ=UTC
scratch=$(mktemp -d "${TMPDIR:-/tmp}/ashlar-cli-XXXXXX")
tests=0
failures=0

# What lies here, not what was attached once: the device may be somebody else's by now.
clean_up() {
	cd /
	awk -v inside="$scratch/" 'index($2, inside) == 1 { print $2 }' /proc/mounts | xargs -r umount
	losetup -l -n -O NAME,BACK-FILE 2>/dev/null |
		awk -v inside="$scratch/" 'index($2, inside) == 1 { print $1 }' | xargs -r losetup -d
	rm -rf "$scratch"
}
trap clean_up EXIT
cd "$scratch" || exit 1

# ok NAME RESULT: result 0 is a pass; the files out and err of a failed one are shown.
ok() {
	tests=$((tests + 1))
	if [ "$2" -eq 0 ]; then
		echo "ok $tests - $1"
		return
	fi
	echo "not ok $tests - $1"
	sed 's/^/# out: /' out 2>/dev/null | head -10
	sed 's/^/# err: /' err 2>/dev/null | head -10
	failures=$((failures + 1))
}

skip() {
	tests=$((tests + 1))
	echo "ok $tests - $1 # SKIP $2"
}

done_testing() {
	echo "1..$tests"
	exit $((failures > 0))
}

# Run a command that must succeed / fail; its output is in out and err.
works() {
	local name=$1
	shift
	"$@" >out 2>err
	ok "$name" $?
}

# fails NAME TEXT COMMAND...: non-zero exit by itself (not by a signal), one line on stderr that has TEXT, no output.
fails() {
	local name=$1 text=$2 status
	shift 2
	"$@" >out 2>err
	status=$?
	[ $status -ne 0 ] && [ $status -lt 126 ] && [ "$(wc -l <err)" -eq 1 ] && [ ! -s out ] && grep -qF -- "$text" err
	ok "$name" $?
}

# fails_untouched NAME TEXT FILE COMMAND...: as fails, and not a byte, the size or the time of FILE has changed.
fails_untouched() {
	local name=$1 text=$2 file=$3 before after
	shift 3
	before=$(stat -c '%s %Y %i' "$file" && sha256sum <"$file")
	fails "$name" "$text" "$@"
	after=$(stat -c '%s %Y %i' "$file" && sha256sum <"$file")
	[ "$before" = "$after" ]
	ok "$name: nothing is written" $?
}

# hold FILE SECONDS: somebody else has the owner lock of FILE from now on, for so long. Its process is $holder. The file
# let_go is there before he gives it up.
hold() {
	rm -f held let_go
	python3 -c '
import fcntl, struct, sys, time
image = open(sys.argv[1], "r+b")
fcntl.fcntl(image, fcntl.F_OFD_SETLK, struct.pack("hhqqi4x", fcntl.F_WRLCK, 0, 0, 0, 0))
open("held", "w").close()
time.sleep(float(sys.argv[2]))
open("let_go", "w").close()' "$@" &
	holder=$!
	for _ in $(seq 200); do [ -e held ] && break; sleep 0.05; done
}

release() {
	kill "$holder" 2>/dev/null
	wait "$holder" 2>/dev/null
}

# timed COMMAND...: what it took is in $took, in milliseconds.
timed() {
	local began=${EPOCHREALTIME/./} status
	"$@"
	status=$?
	took=$(((${EPOCHREALTIME/./} - began) / 1000))
	return $status
}

# waits FILE COMMAND...: while somebody has the lock who is about to end it waits, and does its work; who stays is told of.
waits() {
	local file=$1 name="${*:2:2}"
	shift
	hold "$file" 1
	works "$name waits for one who ends" "$@"
	[ -e let_go ]
	ok "$name: and does nothing before" $?
	release
	hold "$file" 60
	fails "$name does not wait for ever" "is in use by another Ashlar program" timed "$@"
	[ "$took" -ge 2900 ]
	ok "$name: gives up after ${took} ms" $?
	release
}

# fails_at_once NAME TEXT COMMAND...: as fails, and before the time is over that an end is waited for.
fails_at_once() {
	fails "$1" "$2" timed "${@:3}"
	[ "$took" -lt 2900 ]
	ok "$1: after ${took} ms" $?
}

# full NAME COMMAND...: with a standard output that takes nothing: one line on stderr, and not status 0.
full() {
	local name=$1 status
	shift
	: >out
	"$@" >/dev/full 2>err
	status=$?
	[ $status -ne 0 ] && [ $status -lt 126 ] && [ "$(wc -l <err)" -eq 1 ] && grep -q "standard output" err
	ok "$name with a full output" $?
}

# unopened NAME COMMAND...: the same with none at all; an image that is opened does not become it.
unopened() {
	local name=$1 status
	shift
	"$@" >&- 2>err
	status=$?
	[ $status -ne 0 ] && [ $status -lt 126 ] && [ "$(wc -l <err)" -eq 1 ] && grep -q "standard output" err
	ok "$name with a closed output" $?
}

# has NAME TEXT: the last output has the text.
has() {
	grep -qF -- "$2" out
	ok "$1" $?
}

# json NAME EXPRESSION: the last output is JSON, and the Python expression over `v` is true.
json() {
	python3 -c "import json, sys; v = json.load(open('out')); sys.exit(not ($2))" 2>>err
	ok "$1" $?
}

is_root() { [ "$(id -u)" -eq 0 ]; }
can_loop() { is_root && [ -e /dev/loop-control ] && losetup -f >/dev/null 2>&1; }

# Attach a file; the device is in $loop.
attach() { loop=$(losetup -f --show "$1"); }

# A volume with an incompat bit that nobody knows, its checksum right.
set_incompat_bit() {
	python3 - "$1" <<'END'
import sys
def crc32c(data):
    crc = 0xffffffff
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = (crc >> 1) ^ (0x82f63b78 if crc & 1 else 0)
    return crc ^ 0xffffffff
with open(sys.argv[1], 'r+b') as image:
    block = bytearray(image.read(4096))
    block[152 + 7] = 0x40  # incompat, bit 62
    block[4:8] = bytes(4)
    block[4:8] = crc32c(block).to_bytes(4, 'little')
    image.seek(0)
    image.write(block)
END
}
