#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
#
# From a checkout to a live file tree in one command: install what is needed, build, make a volume, mount it, put
# real things on it, compare every file with its source, unmount, check, mount again, compare again.
#
# As root: an image on a loop device (or --device), mounted as fuseblk. As an ordinary user: the image itself,
# mounted through fusermount3. Everything lives in a new temporary folder and is taken away at the end, also after
# a failure or Ctrl-C; so it can be run again at any time. Works offline when the packages are installed.

set -eu -o pipefail

usage() {
	cat <<-'END'
	Usage: examples/quickstart.sh [options]
	Build Ashlar and try it with real files, from nothing to a checked volume.

	  --keep         leave the volume mounted at the end
	  --image PATH   the image file to use (default: in a temporary folder; is kept when given)
	  --size SIZE    size of the image (default: 2G, or more when /usr/share needs it)
	  --device DEV   use this empty block device instead of an image (root)
	  --build DIR    where to build (default: build-quickstart/ in the checkout)
	  --no-install   do not install packages
	  --help
	END
}

keep=no image= size= device= install=yes build=
while [ $# -gt 0 ]; do
	case $1 in
	--keep) keep=yes ;;
	--no-install) install=no ;;
	--image | --size | --device | --build)
		[ $# -gt 1 ] || { usage >&2; exit 2; }
		declare "${1#--}=$2"
		shift
		;;
	-h | --help) usage; exit 0 ;;
	*) usage >&2; exit 2 ;;
	esac
	shift
done

source_dir=$(cd "$(dirname "$0")/.." && pwd)
build=${build:-$source_dir/build-quickstart}
[ -z "$image" ] || image=$(realpath -m "$image")
work= mount_point= loop= mounted=no succeeded=no made_image=no current=
steps=() times=()

die() {
	echo "quickstart: $*" >&2
	exit 1
}

is_root() { [ "$(id -u)" -eq 0 ]; }

# ---- Cleaning up ----

unmount() {
	if is_root; then
		umount "$mount_point"
	else
		fusermount3 -u "$mount_point"
	fi
	mounted=no
}

clean_up() {
	local status=$?
	trap - EXIT INT TERM HUP
	set +e
	exec >&3 2>&4
	cd /
	if [ $succeeded = no ] && [ -n "$current" ]; then
		printf 'failed\n'
		tail -30 "$work/log" >&2
	fi
	if [ $keep = yes ] && [ $succeeded = yes ]; then
		exit $status
	fi
	[ $mounted = no ] || unmount || umount -l "$mount_point" 2>/dev/null || fusermount3 -uz "$mount_point"
	[ -z "$loop" ] || losetup -d "$loop"
	[ $made_image = no ] || [ $succeeded = yes ] || rm -f "$image"
	[ -z "$work" ] || rm -rf --one-file-system "$work"
	if [ $succeeded = no ]; then
		printf 'quickstart: failed%s; what it made has been taken away\n' "${current:+ at: $current}" >&2
		[ $status -ne 0 ] || status=1
	fi
	exit $status
}
exec 3>&1 4>&2
trap clean_up EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

# ---- Steps, with their times ----

# step TEXT COMMAND...: run, time, remember. A command that fails ends the script (set -e): see clean_up.
step() {
	local text=$1 began=$EPOCHREALTIME ended
	shift
	current=$text
	printf '%-52s ' "$text ..."
	exec >"$work/log" 2>&1
	"$@"
	exec >&3 2>&4
	ended=$EPOCHREALTIME
	current=
	steps+=("$text")
	times+=("$(((${ended/[.,]/} - ${began/[.,]/}) / 1000))")
	printf '%10s\n' "$(seconds "${times[-1]}")"
}

# Milliseconds as seconds.
seconds() { printf '%d.%03d s' $(($1 / 1000)) $(($1 % 1000)); }

packages=(gcc meson ninja-build pkg-config libfuse3-dev fuse3 libblkid-dev libaio-dev liburing-dev git sqlite3)

install_packages() {
	local missing=() package
	command -v dpkg-query >/dev/null || { echo "not a Debian system: install by hand: ${packages[*]}"; return 0; }
	for package in "${packages[@]}"; do
		dpkg-query -W -f='${Status}' "$package" 2>/dev/null | grep -q '^install ok installed' || missing+=("$package")
	done
	[ ${#missing[@]} -gt 0 ] || return 0
	is_root || { echo "missing packages; as root: apt-get install ${missing[*]}"; return 1; }
	apt-get -qq update
	DEBIAN_FRONTEND=noninteractive apt-get -qq -y install "${missing[@]}"
}

build_all() {
	if [ -f "$build/build.ninja" ]; then
		meson setup --reconfigure "$build" "$source_dir"
	else
		meson setup "$build" "$source_dir" --buildtype=release -Dtests=disabled
	fi
	ninja -C "$build"
}

program() {
	local path
	path=$(find "$build" -name "$1" -type f -perm -u+x | head -1)
	[ -n "$path" ] || die "the build has no $1"
	echo "$path"
}

# Sources: what is readable of them.
folders=(/usr/include /usr/share)

choose_size() {
	local needed
	needed=$({ du -cs --apparent-size -BM "${folders[@]}" 2>/dev/null || true; } | tail -1 | cut -dM -f1)
	size=$((needed * 3 / 2 + 512))
	[ $size -ge 2048 ] || size=2048
	size=${size}M
}

make_volume() {
	local options=(-q -L quickstart)
	if [ -n "$device" ]; then
		"$mkfs" "${options[@]}" "$device"
		return
	fi
	if [ -e "$image" ]; then
		# A volume of an earlier run may be overwritten, nothing else.
		if [ "$("$ctl" label "$image" 2>/dev/null)" = quickstart ]; then
			options+=(-f)
		fi
	else
		made_image=yes
	fi
	"$mkfs" "${options[@]}" "$image" "$size"
	if is_root; then
		loop=$(losetup -f --show "$image")
		losetup --direct-io=on "$loop" 2>/dev/null || true # not every filesystem's files can be read so
	fi
}

mount_volume() {
	"$ashlarfs" "${device:-${loop:-$image}}" "$mount_point"
	mounted=yes
	mountpoint -q "$mount_point"
}

unmount_volume() { unmount; }

copy_folders() {
	local folder
	for folder in "${folders[@]}"; do
		# Files that this user may not read are not there for the comparison either.
		cp -a "$folder" "$mount_point/" || [ "$(id -u)" -ne 0 ]
	done
	sync -f "$mount_point"
}

# Checksums of all files and targets of all links below the named folders, sorted by name.
checksums() {
	local parent=$1
	shift
	(
		cd "$parent"
		# find fails on folders that an ordinary user may not read: they are empty in the copy.
		{ find "$@" -type f -readable -print0 || [ "$(id -u)" -ne 0 ]; } |
			xargs -0 -r -n 100 -P "$(nproc)" stdbuf -oL sha256sum
		{ find "$@" -type l -printf 'link %p -> %l\n' || [ "$(id -u)" -ne 0 ]; }
	) | sort -k 2
}

compare_sources() {
	checksums /usr include share >"$work/source"
	checksums "$mount_point" include share >"$work/copy"
	[ -s "$work/source" ]
	diff "$work/source" "$work/copy"
	checksums "$mount_point" repository database program >"$work/made"
}

compare_all() {
	checksums "$mount_point" include share | diff "$work/copy" -
	checksums "$mount_point" repository database program | diff "$work/made" -
}

# The repository: this checkout, or one made of its files when it came without history.
clone_repository() {
	export GIT_CONFIG_GLOBAL=$work/gitconfig GIT_CONFIG_NOSYSTEM=1
	printf '[safe]\n\tdirectory = *\n[user]\n\tname = Quickstart\n\temail = quickstart@localhost\n' >"$work/gitconfig"
	local origin=$source_dir
	if ! git -C "$origin" rev-parse -q --verify HEAD >/dev/null 2>&1; then
		origin=$work/origin
		mkdir "$origin"
		tar -C "$source_dir" --exclude=.git --exclude='build*' -cf - . | tar -C "$origin" -xf -
		git -C "$origin" init -q
		git -C "$origin" add -A
		git -C "$origin" commit -q -m "the checkout"
	fi
	git clone -q --no-hardlinks "$origin" "$mount_point/repository"
	git -C "$mount_point/repository" commit -q --allow-empty -m "made on Ashlar"
	git -C "$mount_point/repository" fsck --strict
	[ -z "$(git -C "$mount_point/repository" status --porcelain)" ]
}

make_database() {
	mkdir -p "$mount_point/database"
	{
		echo 'PRAGMA synchronous = FULL; CREATE TABLE stones (number INTEGER PRIMARY KEY, mark TEXT);'
		for ((i = 1; i <= 1000; i++)); do
			echo "INSERT INTO stones VALUES ($i, hex(randomblob(64)));"
		done
	} | sqlite3 -bail "$mount_point/database/stones.db"
	check_database
}

check_database() {
	[ "$(sqlite3 "$mount_point/database/stones.db" 'PRAGMA integrity_check; SELECT count(*) FROM stones;' | tr '\n' ' ')" = "ok 1000 " ]
}

build_program() {
	mkdir -p "$mount_point/program"
	cd "$mount_point/program"
	cat >wall.h <<-'END'
	unsigned long stones(unsigned courses);
	END
	cat >wall.c <<-'END'
	#include "wall.h"
	unsigned long stones(unsigned courses) { return courses ? courses + stones(courses - 1) : 0; }
	END
	cat >main.c <<-'END'
	#include <stdio.h>
	#include "wall.h"
	int main(void) { return printf("%lu stones\n", stones(100)) < 0; }
	END
	gcc -O2 -Wall -c wall.c
	gcc -O2 -Wall -c main.c
	gcc -o wall main.o wall.o
	[ "$(./wall)" = "5050 stones" ]
	cd /
}

check_volume() { "$fsck" -n -f "${device:-${loop:-$image}}"; }

# ---- Go ----

[ -z "$device" ] || is_root || die "--device needs root"
[ -z "$device" ] || [ -b "$device" ] || die "$device is not a block device"
base=${TMPDIR:-/var/tmp}
[ -w "$base" ] || base=/tmp
work=$(mktemp -d "$base/ashlar-quickstart-XXXXXX")
mount_point=$work/mnt
mkdir "$mount_point"
image=${image:-$work/image}

[ $install = no ] || step "install packages" install_packages
[ -c /dev/fuse ] || die "no /dev/fuse here: load the module (modprobe fuse), or give the container the device"
step "build" build_all
mkfs=$(program mkfs.ashlar) fsck=$(program fsck.ashlar) ashlarfs=$(program ashlarfs) ctl=$(program ashlarctl)
[ -n "$size" ] || choose_size
if [ -n "$device" ]; then
	step "make a volume on $device" make_volume
else
	step "make a volume of $size" make_volume
fi
step "mount it" mount_volume
kind=$(findmnt -n -o FSTYPE "$mount_point" 2>/dev/null || awk -v m="$mount_point" '$2 == m { print $3 }' /proc/mounts)
step "copy /usr/include and /usr/share" copy_folders
step "clone a git repository" clone_repository
step "make a database in 1000 synced transactions" make_database
step "build and run a C program" build_program
step "compare every file with its source" compare_sources
step "unmount" unmount_volume
step "fsck.ashlar -n finds nothing wrong" check_volume
step "mount again" mount_volume
step "compare every file again" compare_all
step "check the database again" check_database

files=$(cat "$work/copy" "$work/made" | wc -l)
used=$(df -B1M --output=used "$mount_point" | tail -1 | tr -d ' ')
if [ $keep = no ]; then
	step "unmount" unmount_volume
fi
succeeded=yes

total=0
for time in "${times[@]}"; do total=$((total + time)); done
printf '\nAll %d steps passed in %s: %d files and links, %d MiB, on %s.\n' ${#steps[@]} "$(seconds $total)" "$files" \
	"$used" "$kind"
if [ $keep = yes ]; then
	what=${device:-${loop:-$image}}
	is_root && how="umount $mount_point" || how="fusermount3 -u $mount_point"
	[ -z "$loop" ] || losetup -d "$loop" # happens when it is unmounted
	printf 'It is still mounted: %s on %s\nTo end it: %s; rm -r %s\n' "$what" "$mount_point" "$how" "$work"
fi
