# SPDX-License-Identifier: LGPL-2.1-or-later
# Helper of the mount tests: a loop device over a file in memory, a mount, and results in TAP style. Source it, then:
#
#	volume 256M		make file, loop device ($LOOP) and volume
#	attach [options]	mount it at $MNT (the daemon stays a child: $DAEMON)
#	detach			unmount and wait for the daemon
#	crash			kill the daemon with SIGKILL and remove the dead mount
#	device_free		nobody claims the loop device; device_comes_free: within 20 s
#	device_writes		how many the loop device has had
#	abort_connection M:N	end the connection of the mount with this device number (mountpoint -d), whatever waits
#	check NAME COMMAND...	one behaviour: 'ok' when the command succeeds
#	skipped NAME REASON	one behaviour that cannot be looked at here: counted as skipped
#	needs PROGRAM NAME	the program is there, or NAME is skipped
#	fsck_clean NAME		fsck.ashlar -n finds nothing
#	sync_all		syncfs(2), or what takes its place on an older kernel
#	kernel_since VERSION	the kernel is at least that
#	finish			print the plan; the exit status of the script
#
# Whatever happens, everything is unmounted and detached at the end. A script that cannot run at all calls `skip REASON`.
# ASHLAR_BUILD: the build folder (default: build beside the sources). LOOP_DIR: where the file lies (/dev/shm, or
# /var/tmp where tmpfs knows no O_DIRECT, as before Linux 6.6).

set -u
TEST_DIR=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
BUILD=${ASHLAR_BUILD:-$TEST_DIR/../../build}
if [ -z "${LOOP_DIR:-}" ]; then
	LOOP_DIR=/var/tmp
	direct=$(mktemp /dev/shm/ashlar-direct.XXXXXX) &&
		dd if=/dev/zero of="$direct" bs=4096 count=1 oflag=direct 2>/dev/null && LOOP_DIR=/dev/shm
	rm -f "$direct"
fi
WORK= LOOP= MNT= DAEMON= IMAGE=
COUNT=0 FAILED=0

skip() { echo "1..0 # SKIP $*"; exit 0; }

# What the build makes is never missing. Call it as NAME=$(program NAME) || exit 1
program() {
	local found
	found=$(find "$BUILD" -name "$1" -type f -perm -u+x 2>/dev/null | head -1)
	[ -n "$found" ] || { echo "Bail out! $1 is not built in $BUILD" >&3; return 1; }
	echo "$found"
}

cleanup() {
	local status=$?
	trap - EXIT INT TERM
	cd /
	[ -n "$DAEMON" ] && [ "$status" -ne 0 ] && kill -9 "$DAEMON" 2>/dev/null
	if [ -n "$WORK" ]; then
		for point in $(awk -v w="$WORK/" 'index($2, w) == 1 { print $2 }' /proc/mounts); do
			umount "$point" 2>/dev/null || umount -l "$point" 2>/dev/null
		done
		for dev in $(losetup -l -n -O NAME,BACK-FILE | awk -v w="$WORK/" 'index($2, w) == 1 { print $1 }'); do
			losetup -d "$dev" 2>/dev/null
		done
		rm -rf "$WORK"
	fi
	exit "$status"
}

require_root() {
	[ "$(id -u)" = 0 ] || skip "not root"
	[ -e /dev/fuse ] || skip "no /dev/fuse"
	[ -e /dev/loop-control ] || skip "no loop devices"
}

start() {
	require_root
	trap cleanup EXIT
	trap 'exit 130' INT TERM
	ASHLARFS=$(program ashlarfs) || exit 1
	MKFS=$(program mkfs.ashlar) || exit 1
	ASHLARCTL=$(program ashlarctl) || exit 1
	FSCK=$(program fsck.ashlar) || exit 1
	WORK=$(mktemp -d "$LOOP_DIR/ashlar-mount.XXXXXX")
	MNT=$WORK/mnt
	mkdir "$MNT"
	# Other users must reach the mount point.
	chmod 755 "$WORK"
}

note() { echo "# $*"; }

# The outcome goes to the real output, also when a check's own output is thrown away.
exec 3>&1
ok() { COUNT=$((COUNT + 1)); echo "ok $COUNT - $*" >&3; }
skipped() { COUNT=$((COUNT + 1)); echo "ok $COUNT - $1 # SKIP $2" >&3; }
not_ok() { COUNT=$((COUNT + 1)); FAILED=$((FAILED + 1)); echo "not ok $COUNT - $*" >&3; }

check() {
	local name=$1
	shift
	if "$@"; then ok "$name"; else not_ok "$name"; fi
}

# The command must fail.
check_fails() {
	local name=$1
	shift
	if "$@" 2>/dev/null; then not_ok "$name"; else ok "$name"; fi
}

needs() { command -v "$1" >/dev/null || { skipped "$2" "no $1"; return 1; }; }

# All of the volume durable. Before Linux 6.18 syncfs(2) does not reach the daemon: its commit (5 s) has to be waited for.
sync_all() { sync -f "$MNT" && { kernel_since 6.18 || sleep 6; }; }

# Is the kernel this version, or a later one?
kernel_since() { printf '%s\n' "$1" "$(uname -r)" | sort -VC; }

same() { [ "$1" = "$2" ] || { note "expected '$2', got '$1'"; return 1; }; }

# A loop device for a file, past the page cache where that can be had: not on tmpfs before Linux 6.6. Asked for both at
# once, losetup fails there and leaves the device attached all the same.
loop_attach() {
	local device
	device=$(losetup -f --show "$1") || return 1
	losetup --direct-io=on "$device" 2>/dev/null
	echo "$device"
}

volume() {
	IMAGE=$WORK/image
	truncate -s "$1" "$IMAGE"
	shift
	LOOP=$(loop_attach "$IMAGE") || skip "no free loop device"
	"$MKFS" -q "$@" "$LOOP" || { echo "Bail out! mkfs.ashlar failed"; exit 1; }
}

# What is mounted there already (somebody kept it busy when it was to go) is not taken for ours.
attach() {
	local options=${1:-} before
	before=$(mountpoint -d "$MNT" 2>/dev/null)
	"$ASHLARFS" "${2:-$LOOP}" "$MNT" -f ${options:+-o "$options"} 2>>"$WORK/log" &
	DAEMON=$!
	for _ in $(seq 600); do
		mountpoint -q "$MNT" && [ "$(mountpoint -d "$MNT")" != "$before" ] && return 0
		kill -0 "$DAEMON" 2>/dev/null || break
		sleep 0.05
	done
	kill -9 "$DAEMON" 2>/dev/null # else the end of one that does not mount would be waited for
	wait "$DAEMON"
	DAEMON=
	sed 's/^/# /' "$WORK/log"
	echo "Bail out! the volume could not be mounted"
	exit 1
}

detach() {
	local rc
	umount "$MNT" || { note "umount failed"; return 1; }
	wait "$DAEMON"
	rc=$?
	DAEMON=
	[ "$rc" = 0 ] || note "the daemon ended with $rc"
	return "$rc"
}

crash() {
	kill -9 "$DAEMON"
	wait "$DAEMON" 2>/dev/null
	DAEMON=
	umount -l "$MNT"
	device_comes_free || note "the device is still in use"
}

device_writes() { awk '{ print $5 }' "/sys/block/${LOOP#/dev/}/stat"; }

device_free() { python3 -c "import os; os.close(os.open('$LOOP', os.O_RDWR | os.O_EXCL))"; }

# The kernel lets go of the device when the last user of a dead mount is gone.
device_comes_free() {
	for _ in $(seq 400); do
		device_free 2>/dev/null && return 0
		sleep 0.05
	done
	return 1
}

abort_connection() {
	mkdir -p "$WORK/connections"
	mountpoint -q "$WORK/connections" || mount -t fusectl none "$WORK/connections"
	echo 1 >"$WORK/connections/$((${1%:*} << 20 | ${1#*:}))/abort"
}

# Forget what the kernel has cached of the mount.
drop_caches() { sync -f "$MNT"; echo 3 >/proc/sys/vm/drop_caches; }

fsck_clean() {
	if "$FSCK" -n "$LOOP" >"$WORK/fsck.out" 2>&1; then ok "$1"; else
		sed 's/^/# /' "$WORK/fsck.out" | head -20
		not_ok "$1"
	fi
}

finish() {
	[ -s "$WORK/log" ] && sed 's/^/# log: /' "$WORK/log" | head -20
	echo "1..$COUNT"
	[ "$FAILED" = 0 ] || echo "# $FAILED of $COUNT failed"
	[ "$FAILED" = 0 ]
	exit
}
