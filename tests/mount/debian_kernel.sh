#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# The mount scripts on Debian 12's own kernel, in an emulated machine: people have that one, and it lacks what later
# kernels do for FUSE (docs/DESIGN.md, 13, "Older kernels").
#
# usage: debian_kernel.sh [--folder DIR] [--seconds N] [SCRIPT ...]
#   --folder DIR   where the root folder, its image and the logs are (/var/tmp/ashlar-vm, 4 GiB); the root is made once
#   --seconds N    the longest that a script may take (1800: the processor is emulated)
#   SCRIPT         of tests/mount (all mount_*.sh)
#
# Needs root, Debian 12 itself (the programs of $ASHLAR_BUILD run in there as they are), qemu-system-x86, debootstrap, and
# the network for the first time. One line per script, with the lines of what failed.
set -u
source_dir=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
build=${ASHLAR_BUILD:-$source_dir/build}
folder=/var/tmp/ashlar-vm seconds=1800 scripts=()
while [ $# -gt 0 ]; do
	case $1 in
	--folder) folder=$2; shift 2 ;;
	--seconds) seconds=$2; shift 2 ;;
	-*) sed -n '/^# usage/,/^$/s/^# \{0,1\}//p' "$0" >&2; exit 2 ;;
	*) scripts+=("$1"); shift ;;
	esac
done
if [ ${#scripts[@]} -eq 0 ]; then
	for script in "$source_dir"/tests/mount/mount_*.sh; do scripts+=("$(basename "$script" .sh)"); done
fi
skip() { echo "1..0 # SKIP $*"; exit 0; }
[ "$(id -u)" = 0 ] || skip "not root"
command -v qemu-system-x86_64 >/dev/null || skip "no qemu-system-x86_64 (package qemu-system-x86)"
command -v debootstrap >/dev/null || skip "no debootstrap"
[ -x "$build/ashlarfs" ] || { echo "Bail out! not built: $build"; exit 1; }

root=$folder/root machine=
cleanup() { [ -n "$machine" ] && kill "$machine" 2>/dev/null; rm -f "$folder/disk"; }
trap cleanup EXIT
trap 'exit 130' INT TERM

# What the scripts call, and what the programs are linked with.
packages="linux-image-cloud-amd64 libfuse3-3 fuse3 libaio1 liburing2 python3 sqlite3 fio attr acl strace procps kmod
	libcap2-bin fdisk git"
if [ ! -e "$folder/made" ]; then
	rm -rf "$root"
	mkdir -p "$root"
	debootstrap --variant=minbase --include=systemd-sysv,udev,initramfs-tools bookworm "$root" >"$folder/log" 2>&1 &&
		chroot "$root" /bin/sh -c "apt-get update && DEBIAN_FRONTEND=noninteractive \
			apt-get install -y --no-install-recommends $(echo $packages)" >>"$folder/log" 2>&1 ||
		{ tail -3 "$folder/log"; echo "Bail out! no root folder"; exit 1; }
	touch "$folder/made"
fi

here=$root/root/ashlar
rm -rf "$here"
mkdir -p "$here/build/fsck" "$here/build/tests" "$here/tests"
cp -r "$source_dir/tests/mount" "$here/tests/"
cp "$build"/{ashlarfs,ashlarctl,mkfs.ashlar,mount.ashlar} "$here/build/"
cp "$build/fsck/fsck.ashlar" "$here/build/fsck/"
mkdir "$here/build/tests/mount"
find "$build/tests/mount" -maxdepth 1 -type f -perm -u+x -exec cp {} "$here/build/tests/mount/" \;
cat >"$here/run" <<END
modprobe -a loop fuse
echo "# Linux \$(uname -r)"
export ASHLAR_TEST_LEVEL=quick ASHLAR_BUILD=/root/ashlar/build
for script in ${scripts[*]}; do
	begin=\$(date +%s)
	timeout $seconds /root/ashlar/tests/mount/\$script.sh >/root/output 2>&1
	status=\$?
	grep -E '^(not ok|Bail|# *(failed|bad|expected))' /root/output | sed 's/^/# /'
	grep -q '^1\.\.0' /root/output && status="skipped"
	echo "result \$script \$status \$((\$(date +%s) - begin)) \$(grep -c '^ok' /root/output)"
done
END
cat >"$root/etc/systemd/system/ashlar.service" <<'END'
[Service]
Type=oneshot
TTYPath=/dev/ttyS1
StandardOutput=tty
StandardError=tty
Environment=HOME=/root LC_ALL=C.UTF-8
ExecStart=/bin/bash /root/ashlar/run
ExecStopPost=/bin/systemctl poweroff -f
TimeoutStartSec=infinity
[Install]
WantedBy=multi-user.target
END
mkdir -p "$root/etc/systemd/system/multi-user.target.wants"
ln -sf ../ashlar.service "$root/etc/systemd/system/multi-user.target.wants/"
echo '/dev/vda / ext4 rw 0 1' >"$root/etc/fstab"
rm -f "$folder/disk" "$folder/console" "$folder/results"
truncate -s 10G "$folder/disk"
mkfs.ext4 -q -F -d "$root" "$folder/disk" || exit 1

kernel=$(echo "$root"/boot/vmlinuz-*) initrd=$(echo "$root"/boot/initrd.img-*)
qemu-system-x86_64 -accel tcg,thread=multi -cpu max -smp 2 -m 4G -kernel "$kernel" -initrd "$initrd" \
	-append "root=/dev/vda rw console=ttyS0 systemd.show_status=0" \
	-drive "file=$folder/disk,if=virtio,format=raw,cache=unsafe" -display none -net none -no-reboot \
	-serial "file:$folder/console" -serial "file:$folder/results" >"$folder/log" 2>&1 &
machine=$!
wait "$machine"
machine=
tr -d '\r' <"$folder/results" | awk -v wanted=${#scripts[@]} '
	$1 == "result" {
		n++
		if ($3 == "skipped") printf "ok %d - %s # SKIP\n", n, $2
		else printf "%sok %d - %s (%d checks, %d s)\n", $3 ? "not " : "", n, $2, $5, $4
		failed += $3 != "skipped" && $3 != 0
		next
	}
	/^#/
	END {
		if (n < wanted) { print "Bail out! the machine ended early"; failed++ }
		print "1.." n + 0
		exit failed > 0
	}'
