/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * ashlarfs: mount an Ashlar volume. Life and death of the program.
 *
 * Unless -f is given, the program forks before it opens anything (threads and asynchronous contexts do not survive
 * a fork). The child does everything and prints errors to the terminal itself; the parent waits at a pipe and
 * leaves with 0 when the child reports that the kernel's INIT was answered, else with the child's status.
 *
 * The main thread then only waits: for the connection to end (somebody unmounted), or for a signal, upon which it
 * unmounts itself, while the workers serve what the kernel writes back. If the mount is in use it is
 * detached, synced, and served for a grace period; if somebody else has detached or covered it, it is only served.
 * Where it outlives that, as a bind mount, say, what its users have written until then is written back, and the
 * connection is cut.
 *
 * No locks.
 */
#include "fuse_front.h"
#include "mkfs/standard.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/signalfd.h>
#include <sys/wait.h>
#include <syslog.h>
#include <unistd.h>

#define GRACE_MS 10000 /* for users of a mount that was told to go by a signal */

uint64_t front_now_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

#define CLOSE_MAX 65536

static void close_between(unsigned first, unsigned last)
{
	if (first > last || close_range(first, last, 0) == 0)
		return;
	/* Linux before 5.9 has no such call. */
	long limit = sysconf(_SC_OPEN_MAX);
	if (limit < 0 || limit > CLOSE_MAX)
		limit = CLOSE_MAX; /* without a limit there may be a thousand million */
	for (; first <= last && first < (unsigned long)limit; first++)
		close((int)first);
}

void front_close_descriptors(int first, int except)
{
	if (except > first)
		close_between((unsigned)first, (unsigned)except - 1);
	if (except >= first)
		first = except + 1;
	close_between((unsigned)first, UINT_MAX);
}

static void print_help(void)
{
	puts("Usage: ashlarfs DEVICE MOUNTPOINT [-f] [-d] [-o option[,option...]]\n"
	     "Mount the Ashlar volume on DEVICE: a block device, an image file, LABEL=text or UUID=uuid.\n"
	     "\n"
	     "  -f               stay in the foreground\n"
	     "  -d               the same, and print every request\n"
	     "  -r, -w           as -o ro, -o rw\n"
	     "  -o OPTIONS       mount options, see below\n"
	     "  -V, --version    print the version\n"
	     "  -h, --help       print this text\n"
	     "\n"
	     "Options beside those of mount(8) (ro, noatime, nosuid, sync, ...):\n"
	     "  commit=SECONDS   age at which changes go to the device unasked (5; at most 3600)\n"
	     "  discard          tell the device about freed blocks (nodiscard)\n"
	     "  errors=remount-ro|continue   what to do about damage (remount-ro)\n"
	     "  cache=MIB        memory for metadata (64)\n"
	     "  write_behind=MIB memory for file data that is not written yet (32)\n"
	     "  driver=NAME      how to reach the device: aio, uring, sync (aio)\n"
	     "  threads=N        most threads that serve requests (8)\n"
	     "  allow_other      let other users in (always so for root's mounts)\n"
	     "\n"
	     "Unmount with umount(8), or fusermount3 -u for an ordinary user.");
}

/* ---- Into the background ---- */

static void detach_terminal(struct front *front)
{
	int null = open("/dev/null", O_RDWR | O_CLOEXEC);

	openlog("ashlarfs", LOG_PID, LOG_DAEMON);
	atomic_store(&front->background, true);
	if (null < 0)
		return;
	for (int i = 0; i <= 2; i++)
		dup2(null, i);
	if (null > 2)
		close(null);
}

static void report_up(struct front *front, int *report)
{
	if (*report < 0)
		return;
	detach_terminal(front);
	if (write(*report, "", 1) < 0)
		front_log(front, ASH_LOG_WARNING, "the program that started this one is gone");
	close(*report);
	*report = -1;
}

/* ---- Waiting and unmounting ---- */

static bool wait_down(const struct front *front, int timeout_ms)
{
	struct pollfd down = { .fd = front->down, .events = POLLIN };

	return poll(&down, 1, timeout_ms) > 0;
}

/* A signal: unmount. Afterwards the connection has ended, or all is written back and it is to be cut. */
static void unmount_by_signal(struct front *front)
{
	int rc = mount_detach(front, false);

	if (rc == -ENOENT) {
		front_log(front, ASH_LOG_WARNING, "%s does not lead to this volume any more: its users have %d seconds",
			  front->mountpoint, GRACE_MS / 1000);
	} else if (rc) {
		front_log(front, ASH_LOG_WARNING, "%s is in use: detached, its users have %d seconds",
			  front->mountpoint, GRACE_MS / 1000);
		mount_detach_in_use(front);
	}
	if (!wait_down(front, GRACE_MS))
		mount_write_back(front);
}

static int signals_open(void)
{
	sigset_t signals;

	signal(SIGPIPE, SIG_IGN);
	sigemptyset(&signals);
	sigaddset(&signals, SIGTERM);
	sigaddset(&signals, SIGINT);
	sigaddset(&signals, SIGHUP);
	pthread_sigmask(SIG_BLOCK, &signals, NULL);
	return signalfd(-1, &signals, SFD_CLOEXEC);
}

static void wait_for_end(struct front *front, int signals, int *report)
{
	struct pollfd polls[3] = { { .fd = front->down, .events = POLLIN },
				   { .fd = signals, .events = POLLIN },
				   { .fd = front->up, .events = POLLIN } };

	for (;;) {
		if (poll(polls, 3, -1) < 0 && errno != EINTR)
			return;
		if (polls[2].revents) {
			report_up(front, report);
			polls[2].fd = -1;
			polls[2].revents = 0;
		}
		if (polls[0].revents)
			return;
		if (polls[1].revents) {
			unmount_by_signal(front);
			return;
		}
	}
}

/* ---- One mount ---- */

static int serve(struct front *front, int signals, int *report)
{
	log_start(front);
	int rc = notify_start(front);

	if (rc == 0)
		rc = crew_start(front);
	if (rc == 0)
		wait_for_end(front, signals, report);
	else
		front_log(front, ASH_LOG_ERROR, "cannot start threads: %s", strerror(-rc));
	/* First: it may wait in the kernel for pages whose WRITEs the crew has to answer. */
	notify_stop(front);
	crew_stop(front);
	crew_join(front);
	if (front->connection_error)
		front_log(front, ASH_LOG_ERROR, "%s: connection to the kernel lost: %s", front->mountpoint,
			  strerror(-front->connection_error));
	if (rc || front->connection_error)
		mount_detach(front, true);
	return rc;
}

static int mount_and_serve(struct front *front, int signals, int *report)
{
	int rc = session_open(front);

	if (rc) {
		front_log(front, ASH_LOG_ERROR, "cannot start a FUSE session: %s", strerror(-rc));
		return rc;
	}
	rc = device_release_claim(front);
	if (rc == 0)
		rc = mount_attach(front);
	if (rc == 0) {
		if (chdir("/"))
			front_log(front, ASH_LOG_WARNING, "cannot leave the working directory");
		rc = serve(front, signals, report);
	}
	return rc;
}

/* Exit status. `report`: where to say that the mount is up, or -1. */
static int run(struct front *front, int report)
{
	int signals = signals_open();

	umask(0);
	front->up = eventfd(0, EFD_CLOEXEC);
	front->down = eventfd(0, EFD_CLOEXEC);
	if (signals < 0 || front->up < 0 || front->down < 0) {
		front_log(front, ASH_LOG_ERROR, "cannot start: %s", strerror(errno));
		return 1;
	}
	if (mount_check_point(front) || device_open(front))
		return 1;
	int rc = mount_and_serve(front, signals, &report);
	/* After DESTROY there is nothing left to close. */
	int close_error = device_close(front);
	session_close(front);
	return rc || close_error || front->connection_error ? 1 : 0;
}

/* The parent of the daemon: its own status when the mount is up, else the child's. */
static int wait_for_mount(pid_t child, int report)
{
	char byte;
	int status;
	ssize_t got;

	do {
		got = read(report, &byte, 1);
	} while (got < 0 && errno == EINTR);
	if (got == 1)
		return 0;
	while (waitpid(child, &status, 0) < 0)
		if (errno != EINTR)
			return 1;
	return WIFEXITED(status) && WEXITSTATUS(status) ? WEXITSTATUS(status) : 1;
}

static int run_in_background(struct front *front)
{
	int report[2];

	if (pipe2(report, O_CLOEXEC)) {
		front_log(front, ASH_LOG_ERROR, "cannot start: %s", strerror(errno));
		return 1;
	}
	pid_t child = fork();
	if (child < 0) {
		front_log(front, ASH_LOG_ERROR, "cannot start: %s", strerror(errno));
		return 1;
	}
	if (child > 0) {
		close(report[1]);
		return wait_for_mount(child, report[0]);
	}
	/* Inherited: a lock or a pipe of the caller's would stay in use as long as the mount. */
	front_close_descriptors(3, report[1]);
	setsid();
	return run(front, report[1]);
}

static void front_init(struct front *front)
{
	front->loop = -1;
	front->transport.descriptor = front->transport.prompt = -1;
	pthread_mutex_init(&front->buffers_lock, NULL);
	pthread_mutex_init(&front->notifier.lock, NULL);
	pthread_mutex_init(&front->syncs.lock, NULL);
	pthread_mutex_init(&front->full.lock, NULL);
	pthread_mutex_init(&front->log.lock, NULL);
	pthread_cond_init(&front->log.changed, NULL);
	pthread_cond_init(&front->notifier.changed, NULL);
	front->notifier.jobs_end = &front->notifier.jobs;
	front->syncs.kept_end = &front->syncs.kept;
	front->syncs.writes_end = &front->syncs.writes;
}

static void front_free(struct front *front)
{
	options_free(&front->options);
	free(front->source);
	free(front->mountpoint);
	free(front->notifier.inodes);
	free(front);
}

int main(int argc, char **argv)
{
	char error[OPTION_ERROR_TEXT];
	struct front *front = aligned_alloc(_Alignof(struct front), sizeof(*front));
	int status = 0;

	standard_guard();
	if (!front)
		return 1;
	memset(front, 0, sizeof(*front));
	front_init(front);
	if (options_parse(&front->options, argc, argv, error)) {
		front_log(front, ASH_LOG_ERROR, "%s", error);
		status = 1;
	} else if (front->options.help) {
		print_help();
		status = standard_finish(0, 1);
	} else if (front->options.version) {
		printf("ashlarfs %s\n", ash_version());
		status = standard_finish(0, 1);
	} else {
		status = front->options.foreground ? run(front, -1) : run_in_background(front);
	}
	if (log_stop(front)) /* else its thread may still look at it */
		front_free(front);
	return status;
}
