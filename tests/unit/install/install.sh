#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# What `meson install` puts where, and a program that has nothing but that: headers, library and pkg-config file.
set -u
here=$(cd "$(dirname "$0")" && pwd)
build=${ASHLAR_BUILD:-$here/../../../build}
work=$(mktemp -d) || exit 1
trap 'rm -rf "$work"' EXIT
count=0 failed=0

check() {
	local name=$1
	shift
	count=$((count + 1))
	if "$@" >"$work/out" 2>&1; then
		echo "ok $count - $name"
	else
		sed 's/^/# /' "$work/out"
		echo "not ok $count - $name"
		failed=1
	fi
}

# As the end of a path.
installed() { find "$work/root" -path "*/$1" \( -type f -o -type l \) | grep .; }

flags() {
	PKG_CONFIG_PATH=$(dirname "$(find "$work/root" -name ashlar.pc)") \
		pkg-config --define-variable=prefix="$work/root$prefix" "$@" ashlar
}

compile() {
	# shellcheck disable=SC2046 # flags are words
	cc -Wall -Wextra -Werror $(flags --cflags) "$here/program.c" -o "$work/program" $(flags --libs)
}

compile_cpp() {
	# shellcheck disable=SC2046
	g++ -x c++ -fsyntax-only -Wall -Wextra -Werror $(flags --cflags) -include "$1" - </dev/null
}

check "meson install" meson install -C "$build" --no-rebuild --destdir "$work/root"
prefix=$(sed -n 's/^prefix=//p' "$(find "$work/root" -name ashlar.pc)")
for file in sbin/ashlarfs sbin/mkfs.ashlar sbin/fsck.ashlar sbin/ashlarctl sbin/mount.ashlar \
	include/ashlar/{ashlar,blockdev,format,scrub}.h libashlar.a pkgconfig/ashlar.pc; do
	check "installed: $file" installed "$file"
done
for page in ashlarfs.1 mkfs.ashlar.8 fsck.ashlar.8 ashlarctl.8 mount.ashlar.8; do
	check "installed: $page" installed "$page*"
done
check "a program builds with it" compile
check "and runs" "$work/program"
for header in "$here"/../../../include/ashlar/*.h; do
	check "C++ takes $(basename "$header")" compile_cpp "ashlar/$(basename "$header")"
done
echo "1..$count"
exit "$failed"
