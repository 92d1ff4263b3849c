#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# overlayfs with its upper folder here, as container engines use it. It wants RENAME_WHITEOUT, O_TMPFILE, trusted
# attributes and types in readdir of a filesystem that, like ours, revalidates names; the kernel checks them at mount.
# Without hard links: on such a filesystem overlayfs (6.18) revalidates a file by the first of its names whichever was
# used, and gives ESTALE when that one was removed.
. "$(dirname "$0")/lib.sh"
start
grep -qw overlay /proc/filesystems || skip "this kernel has no overlayfs"
volume 256M
LOWER=$WORK/lower OVER=$WORK/over PLAIN=$WORK/plain

layers() { mount -t overlay overlay -o "lowerdir=$LOWER,upperdir=$MNT/upper,workdir=$MNT/work" "$OVER"; }
whiteout() { same "$(stat -c '%F %t:%T %a' "$1")" "character special file 0:0 0"; }

mkdir -p "$LOWER/folder/deep" "$LOWER/other" "$OVER"
for i in $(seq 200); do echo "below $i" >"$LOWER/folder/f$i"; done
echo below >"$LOWER/folder/deep/file"
cp -a "$LOWER" "$PLAIN"
attach
mkdir "$MNT/upper" "$MNT/work"
check "overlayfs takes a folder of ours as its upper one" layers
mountpoint -q "$OVER" || finish

rm "$OVER/folder/f1"
check "what is removed leaves a whiteout" whiteout "$MNT/upper/folder/f1"
mv "$OVER/folder/f2" "$OVER/other/f2"
check "what is renamed leaves a whiteout" whiteout "$MNT/upper/folder/f2"
check "and has its content" same "$(cat "$OVER/other/f2")" "below 2"
check "the old name is gone" eval '! stat "$OVER/folder/f2" 2>/dev/null'
rm "$PLAIN/folder/f1"
mv "$PLAIN/folder/f2" "$PLAIN/other/f2"

# The same on the overlay and on a plain folder: whatever is done, the trees are equal.
cat >"$WORK/churn.py" <<'PY'
import os, random, shutil, sys
names = ['%s/%s' % (f, n) for f in ('folder', 'other', 'folder/deep', 'made') for n in ['f%d' % i for i in range(1, 60)] + ['d']]
random.seed(11)
refused = done = 0
os.makedirs(sys.argv[1] + '/made')
os.makedirs(sys.argv[2] + '/made')
for step in range(3000):
    action, a, b = random.randrange(5), random.choice(names), random.choice(names)
    def act(top):
        x, y = os.path.join(top, a), os.path.join(top, b)
        try:
            if action < 2: os.rename(x, y)
            elif action == 2: open(x, 'a').write('step %d\n' % step)
            elif action == 3: os.unlink(x)
            else: os.mkdir(x)
        except OSError as error:
            return error.errno
        return 0
    over, plain = act(sys.argv[1]), act(sys.argv[2])
    # A folder that lies below cannot be renamed on an overlay (EXDEV, without redirect_dir): nor on the other one then.
    if over == 18 and plain == 0:
        os.rename(os.path.join(sys.argv[2], b), os.path.join(sys.argv[2], a))
        continue
    if over != plain:
        print('# step %d: action %d, %s, %s: %d instead of %d' % (step, action, a, b, over, plain))
        sys.exit(1)
    done, refused = done + (over == 0), refused + (over != 0)
print('# %d done, %d refused alike' % (done, refused))
PY
check "3000 operations end as on a plain folder" eval 'python3 "$WORK/churn.py" "$OVER" "$PLAIN" >&3'
check "the trees are equal" diff -r "$PLAIN" "$OVER"
umount "$OVER"
detach
fsck_clean "fsck -n finds nothing"
attach
check "overlayfs mounts again" layers
check "the trees are equal after a remount" diff -r "$PLAIN" "$OVER"
sync -f "$OVER"
umount "$OVER"
crash
attach
check "overlayfs mounts after SIGKILL" layers
check "the trees are equal then, too" diff -r "$PLAIN" "$OVER"
umount "$OVER"
detach
fsck_clean "fsck -n finds nothing then, too"

# ---- renameat2 itself ----
attach
cat >"$WORK/rename.py" <<'PY'
import ctypes, os, sys
libc = ctypes.CDLL(None, use_errno=True)
def rename(a, b, flags):
    return 0 if libc.renameat2(-100, a.encode(), -100, b.encode(), flags) == 0 else ctypes.get_errno()
os.chdir(sys.argv[1])
open('a', 'w').write('a'); open('b', 'w').write('b')
assert rename('a', 'b', 4 | 1) == 17          # NOREPLACE
assert rename('a', 'b', 4 | 2) == 22          # EXCHANGE
assert rename('a', 'b', 4) == 0
st = os.lstat('a')
assert st.st_mode == 0o020000 and st.st_rdev == 0 and st.st_nlink == 1, oct(st.st_mode)
assert open('b').read() == 'a'
os.chown('.', 1234, 1234)
os.setegid(1234); os.seteuid(1234)            # needs no CAP_MKNOD
assert rename('b', 'c', 4) == 0
st = os.lstat('b')
assert (st.st_uid, st.st_gid) == (1234, 1234), (st.st_uid, st.st_gid)
os.unlink('a')
PY
mkdir "$MNT/plain"
check "renameat2 with RENAME_WHITEOUT" python3 "$WORK/rename.py" "$MNT/plain"
detach
fsck_clean "fsck -n finds nothing at last"
finish
