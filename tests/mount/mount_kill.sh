#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# Acceptance 3: the daemon is killed in the middle of `cp -a` and of 4 concurrent sqlite writers. Each cycle: fsck -n of the
# unmounted volume is clean, it mounts within seconds, every acknowledged transaction is there, databases are whole.
# (journal_mode=truncate: a commit ends with an fsync of the journal, whose error sqlite reports. When it deletes the
# journal it takes a folder that cannot be opened any more, as on a dead mount, for success, also with synchronous=extra.)
# KILL_CYCLES: how many (3; the long form is 20). KILL_SEED: of the random points.
. "$(dirname "$0")/lib.sh"
start
python3 -c 'import sqlite3' 2>/dev/null || skip "python3 has no sqlite3"
case ${ASHLAR_TEST_LEVEL:-quick} in long | deep) CYCLES=20 ;; *) CYCLES=3 ;; esac
CYCLES=${KILL_CYCLES:-$CYCLES}
RANDOM=${KILL_SEED:-1}
volume 1G
attach
cat >"$WORK/writer.py" <<'PY'
import os, sqlite3, sys
path, log = sys.argv[1:]
db = sqlite3.connect(path, isolation_level=None)
db.execute('pragma journal_mode=truncate')
db.execute('pragma synchronous=full')
db.execute('create table if not exists t(n integer primary key, data blob)')
last = db.execute('select coalesce(max(n), 0) from t').fetchone()[0]
out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
while True:
    last += 1
    db.execute('insert into t values(?, ?)', (last, os.urandom(3000)))
    os.pwrite(out, b'%20d' % last, 0)
PY
cat >"$WORK/verify.py" <<'PY'
import sqlite3, sys
path, log = sys.argv[1:]
try:
    acknowledged = int(open(log).read() or 0)
except (FileNotFoundError, ValueError):
    acknowledged = 0
db = sqlite3.connect(path)
whole = db.execute('pragma integrity_check').fetchone()[0]
if acknowledged:
    last, count = db.execute('select max(n), count(*) from t').fetchone()
else:
    last = count = 0
print('# %s: %d acknowledged, %s there, %s' % (path.split('/')[-1], acknowledged, last, whole))
sys.exit(0 if whole == 'ok' and (last or 0) >= acknowledged and count == last else 1)
PY
# The last transaction that writer $1 has been told of.
acknowledged() { local n; n=$(tr -d ' ' 2>/dev/null <"$WORK/ack$1"); echo "${n:-0}"; }
# Everybody has work behind him: each writer a transaction more than it had, cp a file.
all_work() {
	local i idle
	for _ in $(seq 600); do
		idle=
		for i in 1 2 3 4; do [ "$(acknowledged $i)" -gt "${had[i]}" ] || idle+=" writer $i"; done
		[ -n "$(find "$MNT/copy$((cycle % 2))" -type f -print -quit)" ] || idle+=" cp"
		[ -n "$idle" ] || return 0
		sleep 0.05
	done
	note "nothing from:$idle"
	return 1
}
touch "$WORK"/ack{1,2,3,4}
for cycle in $(seq "$CYCLES"); do
	writers=() had=(0)
	for i in 1 2 3 4; do had+=("$(acknowledged $i)"); done
	for i in 1 2 3 4; do
		python3 "$WORK/writer.py" "$MNT/db$i" "$WORK/ack$i" 2>/dev/null &
		writers+=($!)
	done
	rm -rf "$MNT/copy$((cycle % 2))"
	mkdir "$MNT/copy$((cycle % 2))"
	sync_all # the folder outlives also a kill that comes at once
	cp -a /usr/include "$MNT/copy$((cycle % 2))/" 2>/dev/null &
	copy=$!
	# Every second time they are killed whenever it comes, perhaps as they begin.
	[ $((cycle % 2)) = 0 ] || check "cycle $cycle: 4 writers commit, files are copied" all_work
	sleep $((RANDOM % 3)).$((RANDOM % 10))$((RANDOM % 10))
	kill -9 "$DAEMON"
	wait "$DAEMON" 2>/dev/null
	DAEMON=
	umount -l "$MNT"
	kill "${writers[@]}" $copy 2>/dev/null
	wait "${writers[@]}" $copy 2>/dev/null
	device_comes_free
	check "cycle $cycle: ashlarctl says that it was not closed" grep -q "not closed in order" <("$ASHLARCTL" info "$LOOP")
	fsck_clean "cycle $cycle: fsck -n before the log is replayed"
	started=$(date +%s%N)
	attach
	check "cycle $cycle: mounted within 5 seconds ($((($(date +%s%N) - started) / 1000000)) ms)" \
		[ $((($(date +%s%N) - started) / 1000000)) -lt 5000 ]
	for i in 1 2 3 4; do
		check "cycle $cycle: database $i" python3 "$WORK/verify.py" "$MNT/db$i" "$WORK/ack$i"
	done
	check "cycle $cycle: what was copied can be read" eval 'find "$MNT/copy$((cycle % 2))" -type f -exec cat {} + >/dev/null'
done
detach
fsck_clean "fsck at the end"
finish
