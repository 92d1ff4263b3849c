/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Who asks: is the caller an administrator, as capable(CAP_SYS_ADMIN) of the kernel would say? Has he been killed, as
 * fatal_signal_pending() would say? Is he writing?
 *
 * A request has a uid, but no capabilities: the root of a container has uid 0 and may have none of them. They stand in
 * /proc/PID/status, PID being the thread that asks. The number is still its own: once a request is read, its caller
 * waits in the kernel until it is answered, whatever signal it gets. Those of a user namespace below ours are worth
 * nothing here: everybody is given all of them in a namespace of his own. Whatever signal ends a process, each of its
 * threads has a SIGKILL pending then. (INTERRUPT would tell of each signal, also of those that end nobody.)
 *
 * Which system call he is in stands in /proc/PID/syscall. A GETATTR of an open file comes from write(2), read(2) and
 * lseek(2), and from the kernel's own reads, as execve(2) reads a script; of calls that write to another file, only
 * from those that read this one. A 32-bit program's calls have other numbers: it is not known to write.
 *
 * Rules
 * - Only for ioctl(2), listxattr(2) and copy_file_range(2). A caller in the middle of execve(2) holds locks of its
 *   /proc entries. One that waits in these is not there, nor is a thread beside it: execve(2) takes those locks when
 *   all others are gone.
 * - caller_is_killed(): for WRITEs past the page cache, too. Of an asynchronous one the caller may be in execve(2) and
 *   wait there until it is answered, but /proc/PID/status takes none of those locks.
 * - caller_writes(): only for a GETATTR of an open file. execve(2) reads files without the lock that /proc/PID/syscall
 *   takes (since Linux 5.7; before, it holds that lock all the time), and closes files with it, which asks for no
 *   attributes. No thread beside it waits then, as above.
 * - Where /proc cannot be read (none in a chroot, one of another PID namespace, a caller that we cannot see from ours)
 *   the uid decides: nothing is known against root then, and root must be able to trim, scrub and remount there, too.
 *   What a root without capabilities can do by it costs time, not data. And nobody is known to write: so
 *   it is for an ordinary user's daemon where Yama forbids to look.
 *
 * No state and no locks.
 */
#include "fuse_front.h"

#include <linux/capability.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <unistd.h>

struct status {
	bool has_uid, has_pending, has_effective;
	uint32_t uid;     /* of the thread, for files */
	uint64_t pending; /* signals of this thread, 1 << (number - 1) */
	uint64_t effective;
};

/* Does /proc count processes as the kernel's requests do, by our own PID namespace? */
static bool proc_is_ours(void)
{
	char text[16] = "";

	return readlink("/proc/self", text, sizeof(text) - 1) > 0 && atol(text) == (long)getpid();
}

static bool status_read(pid_t pid, struct status *out)
{
	char path[64], *line = NULL;
	size_t size = 0; /* the list of groups, which comes before, may be long */
	FILE *file;

	*out = (struct status){ 0 };
	snprintf(path, sizeof(path), "/proc/%ld/status", (long)pid);
	file = fopen(path, "re");
	if (!file)
		return false;
	while (!out->has_effective && getline(&line, &size, file) > 0) {
		if (sscanf(line, "Uid: %*u %*u %*u %" SCNu32, &out->uid) == 1)
			out->has_uid = true;
		if (sscanf(line, "SigPnd: %" SCNx64, &out->pending) == 1)
			out->has_pending = true;
		if (sscanf(line, "CapEff: %" SCNx64, &out->effective) == 1)
			out->has_effective = true;
	}
	free(line);
	fclose(file);
	return out->has_uid && out->has_pending && out->has_effective;
}

/* Where we may not look, as an ordinary user's daemon may not, the capabilities alone count. */
static bool same_user_namespace(pid_t pid)
{
	struct stat ours, theirs;
	char path[64];

	snprintf(path, sizeof(path), "/proc/%ld/ns/user", (long)pid);
	if (stat("/proc/self/ns/user", &ours) || stat(path, &theirs))
		return true;
	return ours.st_dev == theirs.st_dev && ours.st_ino == theirs.st_ino;
}

static bool caller_status(pid_t pid, struct status *out)
{
	return pid > 0 && proc_is_ours() && status_read(pid, out);
}

bool caller_is_administrator(fuse_req_t request)
{
	const struct fuse_ctx *caller = fuse_req_ctx(request);
	struct status status;

	if (caller->uid != 0)
		return false;
	if (!caller_status(caller->pid, &status))
		return true;
	/* Another user's thread: the kernel asks in the name of root, as overlayfs does when it copies a file up. */
	if (status.uid != 0)
		return true;
	return (status.effective >> CAP_SYS_ADMIN & 1) && same_user_namespace(caller->pid);
}

bool caller_is_killed(pid_t pid)
{
	struct status status;

	return caller_status(pid, &status) && (status.pending >> (SIGKILL - 1) & 1);
}

/* ---- Writing ---- */

#define PROTOCOL_5_11 33u /* minor version of Linux 5.11: HANDLE_KILLPRIV_V2 came with it */
#define CALL_ROUNDS 8u
#define CALL_NS 50000l /* doubled from round to round: 13 ms together */

struct call {
	long number; /* -1: none */
	unsigned long arguments[3];
};

/* He may not sleep yet, having asked just now: "running". False: not known. */
static bool call_read(uint32_t pid, struct call *out)
{
	struct timespec nap = { .tv_nsec = CALL_NS };
	char path[64], text[256];

	snprintf(path, sizeof(path), "/proc/%" PRIu32 "/syscall", pid);
	for (unsigned round = 0; round < CALL_ROUNDS; round++, nap.tv_nsec *= 2) {
		FILE *file = fopen(path, "re");
		if (!file)
			return false;
		bool read = fgets(text, sizeof(text), file) != NULL;
		fclose(file);
		if (!read)
			return false;
		if (sscanf(text, "%ld %lx %lx %lx", &out->number, &out->arguments[0], &out->arguments[1],
			   &out->arguments[2]) == 4)
			return true;
		if (strncmp(text, "running", 7) != 0)
			return false;
		nanosleep(&nap, NULL);
	}
	return false;
}

/* The file behind a descriptor of somebody. Asked of /proc alone, not of the file's filesystem. */
struct opened {
	uint64_t ino;
	unsigned long mount;
};

static bool opened_read(uint32_t pid, unsigned long descriptor, struct opened *out)
{
	char path[64], line[256];
	bool has_ino = false, has_mount = false;

	snprintf(path, sizeof(path), "/proc/%" PRIu32 "/fdinfo/%lu", pid, descriptor);
	FILE *file = fopen(path, "re");
	if (!file)
		return false;
	while (!(has_ino && has_mount) && fgets(line, sizeof(line), file))
		if (sscanf(line, "ino: %" SCNu64, &out->ino) == 1)
			has_ino = true;
		else if (sscanf(line, "mnt_id: %lu", &out->mount) == 1)
			has_mount = true;
	fclose(file);
	return has_ino && has_mount;
}

/* False: not of this volume, or not known, for it is not among those that he sees. */
static bool mount_is_ours(const struct front *front, uint32_t pid, unsigned long mount)
{
	char path[64], *line = NULL;
	unsigned long number;
	unsigned in_major, in_minor;
	size_t size = 0; /* there are paths in it */
	bool ours = false, found = false;

	snprintf(path, sizeof(path), "/proc/%" PRIu32 "/mountinfo", pid);
	FILE *file = fopen(path, "re");
	while (file && !found && getline(&line, &size, file) > 0) {
		found = sscanf(line, "%lu %*u %u:%u ", &number, &in_major, &in_minor) == 3 && number == mount;
		ours = found && makedev(in_major, in_minor) == front->mount_number;
	}
	free(line);
	if (file)
		fclose(file);
	return ours;
}

/*
 * Of two files, which one is asked about? Not what is read, if that has another number. It may have the same one where
 * it lies on another filesystem: so have the first files of each of two Ashlar volumes. In doubt it is read.
 */
static bool is_written(const struct request *request, unsigned long in, unsigned long out)
{
	const uint32_t pid = request->in->pid;
	struct opened from, to;

	if (!opened_read(pid, in, &from))
		return false;
	return from.ino != request->nodeid || (opened_read(pid, out, &to) && to.ino == request->nodeid &&
					       mount_is_ours(request->front, pid, to.mount));
}

bool caller_writes(const struct request *request)
{
	const uint32_t pid = request->in->pid;
	struct call call;

	if (request->front->protocol_minor < PROTOCOL_5_11 || !pid || !proc_is_ours() || !call_read(pid, &call))
		return false;
	switch (call.number) {
	case SYS_write:
	case SYS_pwrite64:
	case SYS_writev:
	case SYS_pwritev:
	case SYS_pwritev2:
		return true;
	case SYS_sendfile: /* where it comes from is asked, too */
		return is_written(request, call.arguments[1], call.arguments[0]);
	case SYS_splice:
	case SYS_copy_file_range: /* between two filesystems */
		return is_written(request, call.arguments[0], call.arguments[2]);
	default:
		return false;
	}
}
