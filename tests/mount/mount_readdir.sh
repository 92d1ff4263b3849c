#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# Folders: large ones, listing under concurrent changes, many at once. READDIR_FILES: entries of the large one (20000).
. "$(dirname "$0")/lib.sh"
start
FILES=${READDIR_FILES:-20000}
volume 512M
attach
mkdir "$MNT/large"
python3 - "$MNT/large" "$FILES" <<'PY'
import os, sys
for i in range(int(sys.argv[2])):
    os.close(os.open('%s/file-%07d' % (sys.argv[1], i), os.O_CREAT | os.O_WRONLY))
PY
check "$FILES entries are listed" same "$(ls -f "$MNT/large" | wc -l)" $((FILES + 2))
drop_caches
check "also cold" same "$(ls -f "$MNT/large" | sort -u | wc -l)" $((FILES + 2))
check "and with attributes" same "$(ls -l "$MNT/large" | wc -l)" $((FILES + 1))
python3 - "$MNT/large" "$FILES" <<'PY'
import os, sys, threading
folder, count = sys.argv[1], int(sys.argv[2])
stop = threading.Event()
changes = 0
def churn():
    global changes
    while not stop.is_set():
        name = '%s/temporary-%d' % (folder, changes % 500)
        try:
            os.close(os.open(name, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
        except FileExistsError:
            os.unlink(name)
        changes += 1
thread = threading.Thread(target=churn)
thread.start()
bad = idle = 0
for turn in range(10):
    before = changes
    names = [n for n in os.listdir(folder) if n.startswith('file-')]
    bad += len(names) != count or len(set(names)) != count
    idle += changes == before
died = not thread.is_alive()
stop.set()
thread.join()
print('# %d names made or removed meanwhile, %d lists without any%s' % (changes, idle, ', then it died' if died else ''))
sys.exit(bad > 0 or died or idle > 5)
PY
check "entries that exist throughout are listed exactly once" same $? 0
python3 - "$MNT/large" <<'PY'
import os, sys
# Remove while listing, as rm -rf does.
removed = 0
with os.scandir(sys.argv[1]) as entries:
    for entry in entries:
        os.unlink(entry.path)
        removed += 1
sys.exit(1 if os.listdir(sys.argv[1]) else 0)
PY
check "removing while listing leaves nothing" same $? 0
check "rmdir" rmdir "$MNT/large"
python3 - "$MNT" <<'PY'
import os, sys, threading
errors = []
def work(k):
    try:
        base = '%s/w%d' % (sys.argv[1], k)
        os.mkdir(base)
        for i in range(300):
            os.mkdir('%s/d%d' % (base, i))
            open('%s/d%d/f' % (base, i), 'w').write('x')
        for i in range(300):
            os.rename('%s/d%d/f' % (base, i), '%s/f%d' % (base, i))
            os.rmdir('%s/d%d' % (base, i))
        assert len(os.listdir(base)) == 300
    except Exception as error:
        errors.append(error)
threads = [threading.Thread(target=work, args=(k,)) for k in range(6)]
[t.start() for t in threads]; [t.join() for t in threads]
print(errors) if errors else None
sys.exit(bool(errors))
PY
check "6 threads make, move and remove" same $? 0
detach
fsck_clean "fsck after all this"
finish
