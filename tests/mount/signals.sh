# SPDX-License-Identifier: LGPL-2.1-or-later
# For scripts that tell the daemon to go by a signal, beside lib.sh; after start.
USERS=() NUMBER=
# Interrupted: nobody may be left who waits for pages that a daemon that was killed will not write.
let_go() {
	local status=$?
	[ ${#USERS[@]} = 0 ] || kill -9 "${USERS[@]}" 2>/dev/null
	[ -z "$DAEMON" ] || [ -z "$NUMBER" ] || abort_connection "$NUMBER" 2>/dev/null
	(exit "$status")
	cleanup
}
trap let_go EXIT
volume 256M

# gone SECONDS: SIGTERM ends the daemon within this time. Else it is made to end: SIGKILL alone may not do.
gone() {
	kill -TERM "$DAEMON"
	for _ in $(seq $(($1 * 10))); do
		kill -0 "$DAEMON" 2>/dev/null || break
		sleep 0.1
	done
	if kill -0 "$DAEMON" 2>/dev/null; then
		note "the daemon is still there: $(cat /proc/"$DAEMON"/task/*/comm /proc/"$DAEMON"/task/*/wchan | xargs)"
		abort_connection "$NUMBER"
		wait "$DAEMON"
		DAEMON=
		return 1
	fi
	wait "$DAEMON"
	DAEMON=
}

# Another filesystem at the same place.
other() { mount -t tmpfs none "$MNT" && echo other >"$MNT/other"; }
