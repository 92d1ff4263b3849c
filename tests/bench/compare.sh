#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# Ashlar against other filesystems on one device: medians of alternating rounds, ratios to ext4, processor time.
#
# Each round makes, mounts and measures every filesystem in turn on the same loop device, so that drift of the machine
# hits all of them. Processor time per operation is the caller's plus the daemon's (utime + stime of the server
# process; what kernel threads do for a kernel filesystem is not in it).
set -u

rounds=7 size=2G backing=ram disk_dir=/var/tmp files=20000 systems="ashlar ext4 fuse2fs" cold=drop check=0 extra=
rows="create stat_warm stat_cold read_cold fsync direct1 direct16 seqwrite seqread untar unlink"
null_rows="create stat_warm fsync untar unlink"
appends=2000 direct=20000 mib=256

usage() {
	cat <<-END
	usage: compare.sh [--rounds N] [--size SIZE] [--backing ram|disk] [--disk-dir DIR] [--files N] [--rows "ROW ..."]
	                  [--fs "ashlar ext4 fuse2fs xfs btrfs ntfs-3g null"] [--cold drop|remount] [--options ASHLARFS-OPTIONS]
	                  [--check] [--quick]
	rows: $rows
	null: a FUSE server that does nothing, on one core with its caller: what FUSE costs on this machine, whoever serves
	      ($null_rows)
	--cold: what comes before the cold rows: dropping the kernel's caches, or an unmount and a mount
	--check: print TAP lines for the bars of the foundation
	--quick: 1 round with small counts
	END
}
while [ $# -gt 0 ]; do
	case $1 in
	--rounds) rounds=$2; shift 2 ;;
	--size) size=$2; shift 2 ;;
	--backing) backing=$2; shift 2 ;;
	--disk-dir) disk_dir=$2; shift 2 ;;
	--files) files=$2; shift 2 ;;
	--rows) rows=$2; shift 2 ;;
	--fs) systems=$2; shift 2 ;;
	--cold) cold=$2; shift 2 ;;
	--options) extra=$2; shift 2 ;;
	--check) check=1; shift ;;
	--quick) rounds=1 files=2000 appends=200 direct=2000 mib=32 size=1G; shift ;;
	--help|-h) usage; exit 0 ;;
	*) usage >&2; exit 2 ;;
	esac
done

skip() { echo "1..0 # SKIP $1"; exit 0; }
[ "$(id -u)" = 0 ] || skip "needs root"
[ -c /dev/fuse ] || skip "no /dev/fuse"
build=${ASHLAR_BUILD:-$PWD/build}
PATH="$build:$build/fsck:$build/mkfs:$build/fs/fuse:$build/tests/bench:$PATH"
ops=$build/tests/bench/bench_ops
for program in bench_ops ashlarfs mkfs.ashlar; do
	command -v $program >/dev/null || skip "not built: $program"
done

work=$(mktemp -d /tmp/ashlar-compare.XXXXXX)
mnt=$work/mnt
results=$work/results
mkdir "$mnt"
: >"$results"
case $backing in
ram) image=$(mktemp /dev/shm/ashlar-compare.XXXXXX) ;;
disk) image=$(mktemp "$disk_dir/ashlar-compare.XXXXXX") ;;
*) usage >&2; exit 2 ;;
esac
loop=

unmount_now() {
	mountpoint -q "$mnt" || return 0
	for _ in $(seq 20); do umount "$mnt" 2>/dev/null && break; sleep 0.25; done
	mountpoint -q "$mnt" && { echo "# $mnt stays busy: lazy unmount" >&2; umount -l "$mnt"; }
	[ -n "${daemon:-}" ] && for _ in $(seq 200); do [ -d "/proc/$daemon" ] || break; sleep 0.02; done
	daemon=
}
cleanup() {
	unmount_now
	[ -n "$loop" ] && losetup -d "$loop"
	rm -rf "$image" "$work"
}
trap cleanup EXIT
trap 'exit 130' INT TERM

if [ "$backing" = disk ]; then
	fallocate -l "$size" "$image" || exit 1
else
	truncate -s "$size" "$image"
	dd if=/dev/zero of="$image" bs=1M count=$(($(stat -c %s "$image") >> 20)) conv=notrunc status=none # its pages exist
fi
loop=$(losetup --find --show "$image") || exit 1
losetup --direct-io=on "$loop" 2>/dev/null || echo "# $loop goes through the page cache of $image" >&2
tarball=$work/include.tar
[[ " $rows " == *" untar "* ]] && tar -C /usr -cf "$tarball" include

# The first that we may use, for "null" and its caller.
one_core=$(taskset -cp $$ | sed 's/.*: //; s/[-,].*//')

have() { command -v "$1" >/dev/null 2>&1; }

# No discard: it would take the pages from the image, and what they cost to get back (several ms per MiB in a virtual
# machine whose host takes free memory) would be counted to whoever writes there next.
make_fs() {
	case $1 in
	ashlar) mkfs.ashlar -f -q -K "$loop" ;;
	ext4|fuse2fs) mkfs.ext4 -q -F -E nodiscard,lazy_itable_init=0,lazy_journal_init=0 "$loop" ;;
	xfs) mkfs.xfs -q -f -K "$loop" ;;
	btrfs) mkfs.btrfs -q -f -K "$loop" >/dev/null ;;
	ntfs-3g) mkfs.ntfs -q -F -f "$loop" >/dev/null ;;
	null) wipefs -q -a "$loop" ;;
	*) return 1 ;;
	esac
}

# Process that serves the mount, for its processor time.
find_daemon() {
	daemon=
	local pid
	for pid in $(pgrep -x "${1:0:15}"); do
		tr '\0' ' ' <"/proc/$pid/cmdline" 2>/dev/null | grep -q -e "$loop" -e "$mnt" && daemon=$pid
	done
}

mount_fs() {
	daemon=
	case $1 in
	ashlar) ashlarfs "$loop" "$mnt" ${extra:+-o "$extra"} && find_daemon ashlarfs ;;
	fuse2fs) fuse2fs "$loop" "$mnt" >/dev/null 2>&1 && find_daemon fuse2fs ;;
	ntfs-3g) ntfs-3g "$loop" "$mnt" && find_daemon ntfs-3g ;;
	null) taskset -c "$one_core" null_server "$loop" "$mnt" && find_daemon null_server ;;
	*) mount -t "$1" "$loop" "$mnt" ;;
	esac
	for _ in $(seq 100); do mountpoint -q "$mnt" && return 0; sleep 0.02; done
	echo "# $1 does not mount" >&2
	return 1
}

daemon_ticks() {
	[ -n "$daemon" ] && [ -r "/proc/$daemon/stat" ] && awk '{ sub(/.*\) /, ""); print $12 + $13 }' "/proc/$daemon/stat" || echo 0
}

go_cold() {
	sync -f "$mnt"
	if [ "$cold" = remount ]; then
		unmount_now
		mount_fs "$1"
	fi
	sync
	echo 3 >/proc/sys/vm/drop_caches
}

# measure FS ROW COMMAND...: the command prints "COUNT SECONDS CPU"
measure() {
	local fs=$1 row=$2 before after line
	shift 2
	before=$(daemon_ticks)
	line=$(
		[ "$fs" != null ] || taskset -cp "$one_core" "$BASHPID" >/dev/null
		"$@"
	) || { echo "# $fs: row $row failed" >&2; return 1; }
	after=$(daemon_ticks)
	echo "$fs $row $line $(((after - before)))" >>"$results"
}

untar() {
	local begin end
	mkdir -p "$mnt/tar"
	begin=$(date +%s.%N)
	TIMEFORMAT='%U %S'
	cpu=$({ time tar -C "$mnt/tar" -xf "$tarball"; } 2>&1) || return 1
	end=$(date +%s.%N)
	awk -v b="$begin" -v e="$end" -v c="$cpu" 'BEGIN { split(c, t, " "); printf "1 %.6f %.6f\n", e - b, t[1] + t[2] }'
}

run_row() {
	local fs=$1 row=$2
	case $row in
	create) measure "$fs" create "$ops" create "$mnt" "$files" ;;
	stat_warm) "$ops" stat "$mnt" "$files" >/dev/null; measure "$fs" stat_warm "$ops" stat "$mnt" "$files" ;;
	stat_cold) go_cold "$fs"; measure "$fs" stat_cold "$ops" stat "$mnt" "$files" ;;
	read_cold) go_cold "$fs"; measure "$fs" read_cold "$ops" read "$mnt" "$files" ;;
	fsync) measure "$fs" fsync "$ops" fsync "$mnt" "$appends" ;;
	seqwrite) measure "$fs" seqwrite "$ops" seqwrite "$mnt" "$mib" ;;
	seqread) go_cold "$fs"; measure "$fs" seqread "$ops" seqread "$mnt" "$mib" ;;
	direct1|direct16)
		[ -e "$mnt/big" ] || "$ops" seqwrite "$mnt" "$mib" >/dev/null
		measure "$fs" "$row" "$ops" "$row" "$mnt" "$direct" ;;
	untar) measure "$fs" untar untar ;;
	unlink) sync -f "$mnt"; measure "$fs" unlink "$ops" unlink "$mnt" "$files" ;;
	esac
}

# Whoever comes after one that has just given much memory back is better off than whoever comes after a quiet one, in a
# virtual machine whose host takes memory that stays free: so every other round goes the other way.
backwards=$(printf '%s\n' $systems | tac)
for round in $(seq "$rounds"); do
	[ $((round % 2)) = 1 ] && order=$systems || order=$backwards
	for fs in $order; do
		case $fs in
		fuse2fs) have fuse2fs || continue ;;
		ext4) have mkfs.ext4 || continue ;;
		xfs) have mkfs.xfs || continue ;;
		btrfs) have mkfs.btrfs || continue ;;
		ntfs-3g) have ntfs-3g && have mkfs.ntfs || continue ;;
		null) have null_server || continue ;;
		esac
		for _ in $(seq 20); do make_fs "$fs" 2>"$work/error" && break; sleep 0.5; done # the last one may still let go
		mount_fs "$fs" || { sed 's/^/# /' "$work/error" >&2; continue; }
		[[ " $rows " =~ \ (stat_warm|stat_cold|read_cold|unlink)\  ]] && [[ " $rows " != *" create "* ]] &&
			"$ops" create "$mnt" "$files" >/dev/null
		for row in $rows; do
			[ "$fs" = null ] && [[ " $null_rows " != *" $row "* ]] && continue
			run_row "$fs" "$row"
		done
		unmount_now
	done
	echo "# round $round of $rounds done" >&2
done

echo "# $(uname -r), $(nproc) processors, loop on $backing, $size, $rounds rounds, $files files, cold: $cold"
awk -v level="${ASHLAR_TEST_LEVEL:-}" -v systems="$systems" -v rows="$rows" -v check="$check" -v backing="$backing" -v ticks="$(getconf CLK_TCK)" '
function median(list, n,    a, i, j, t) {
	split(list, a, " ")
	for (i = 2; i <= n; i++) { t = a[i]; for (j = i - 1; j && a[j] + 0 > t + 0; j--) a[j + 1] = a[j]; a[j + 1] = t }
	return n % 2 ? a[(n + 1) / 2] : (a[n / 2] + a[n / 2 + 1]) / 2
}
{ key = $1 SUBSEP $2; rate[key] = rate[key] " " $3 / $4; cpu[key] = cpu[key] " " ($5 + $6 / ticks) / $3 * 1e6; n[key]++ }
END {
	split("create 0.35 unlink 0.30 stat_warm 0.9 stat_cold 0.2 read_cold 0.3 fsync 0.8 direct1 0.6 direct16 0.4 seqwrite 0.5 seqread 0.5 untar 0.35", bars, " ")
	if (backing == "disk") split("create 0.35 unlink 0.35 untar 0.35 fsync 0.9", bars, " ")
	for (i = 1; i in bars; i += 2) bar[bars[i]] = bars[i + 1]
	count = split(systems, fs, " "); split(rows, row, " ")
	printf "%-10s", "row"
	for (f = 1; f <= count; f++) printf " %11s %7s %9s", fs[f] "/s", "/ext4", "cpu us"
	printf "\n"
	for (r = 1; r in row; r++) {
		printf "%-10s", row[r]
		reference = ((("ext4" SUBSEP row[r]) in n) ? median(rate["ext4", row[r]], n["ext4", row[r]]) : 0)
		for (f = 1; f <= count; f++) {
			key = fs[f] SUBSEP row[r]
			if (!(key in n)) { printf " %11s %7s %9s", "-", "-", "-"; continue }
			m = median(rate[key], n[key]); value[key] = m
			printf " %11.1f %7s %9.1f", m, reference ? sprintf("%.2f", m / reference) : "-", median(cpu[key], n[key])
		}
		printf "\n"
	}
	if (!check) exit
	for (r = 1; r in row; r++) {
		a = value["ashlar", row[r]]; e = value["ext4", row[r]]; u = value["fuse2fs", row[r]]; z = value["null", row[r]]
		if (!a || !e || !(row[r] in bar)) continue
		good = a / e >= bar[row[r]]
		if (u && row[r] !~ /direct/ && a < u) good = 0
		# At the quick level the machine may be doing other things: the figure is shown, the verdict skipped.
		skip = !good && level == "quick"
		printf "%s %d - %s: %.2f of ext4 (bar %s), %.2f times fuse2fs%s%s\n", good || skip ? "ok" : "not ok", ++t, row[r], a / e, bar[row[r]], u ? a / u : 0, z ? sprintf(", a server that does nothing: %.2f", z / e) : "", skip ? " # SKIP bars are judged at the normal and long levels" : ""
	}
	printf "1..%d\n", t
}' "$results"
