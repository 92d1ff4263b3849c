#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# POSIX behaviour (posix.c) on a real mount, and fsck afterwards; again on a volume whose OPENs are answered.
. "$(dirname "$0")/lib.sh"
start
POSIX=$(program mount_posix) || exit 1
volume 512M
round() {
	mkdir "$MNT/$1"
	"$POSIX" "$MNT/$1" >"$WORK/posix.out"
	local rc=$?
	grep -E '^(#|not ok)' "$WORK/posix.out" | sed 's/^not ok [0-9]*/# failed/'
	note "$(grep -c '^ok' "$WORK/posix.out") checks passed"
	check "POSIX behaviour, $2" same "$rc" 0
}
attach
round first "first mount"
detach
fsck_clean "fsck after it"
# The first round has used chattr: OPEN is answered now.
attach
round second "OPEN answered (inodes with flags)"
detach
fsck_clean "fsck after it"
finish
