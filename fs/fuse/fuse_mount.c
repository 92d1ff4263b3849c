/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The kernel's side of a mount: attaching, detaching, and limits that only /sys offers.
 *
 * Root calls mount(2) itself, so that the flags are exactly those that mount(8) would use (libfuse adds nosuid and
 * nodev), as type fuseblk.ashlar on a block device and fuse.ashlar otherwise. Ordinary users go through
 * fusermount3, that is fuse_session_mount().
 *
 * Called by the main thread, but for mount_tune(), which the leader calls once. No locks.
 */
#include "fuse_front.h"

#include <ashlar/format.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <unistd.h>

#define READ_AHEAD_KIB 2048       /* two requests of the largest size */
#define DIRTY_PART 16u            /* of a volume may be dirty in the page cache, */
#define DIRTY_MINIMUM (64u << 20) /* bytes; with half of it the kernel begins to write back */
#define DIRTY_START_PART 8u       /* of that from the beginning */
#define WRITE_BACK_STEP_MS 50
#define WRITE_BACK_QUIET_MS 250u
#define WRITE_BACK_LIMIT_MS 30000u /* for a sync(2) of all filesystems */

int mount_check_point(struct front *front)
{
	const char *name = front->options.mountpoint;
	struct stat stat_point;

	front->mountpoint = realpath(name, NULL);
	if (front->mountpoint && stat(front->mountpoint, &stat_point) == 0) {
		if (S_ISDIR(stat_point.st_mode))
			return 0;
		front_log(front, ASH_LOG_ERROR, "mount point %s is not a folder", name);
		return -ENOTDIR;
	}
	int error = errno;
	if (error == ENOENT)
		front_log(front, ASH_LOG_ERROR, "mount point %s does not exist (make it with mkdir)", name);
	else if (error == ENOTCONN)
		front_log(front, ASH_LOG_ERROR,
			  "mount point %s holds a mount whose program has ended (remove it with umount -l)", name);
	else
		front_log(front, ASH_LOG_ERROR, "mount point %s: %s", name, strerror(error));
	return -error;
}

/* ---- Ordinary users ---- */

static const struct {
	unsigned long flag;
	const char *option;
} user_flags[] = {
	{ MS_RDONLY, "ro" },       { MS_NOEXEC, "noexec" },   { MS_SYNCHRONOUS, "sync" },
	{ MS_DIRSYNC, "dirsync" }, { MS_NOATIME, "noatime" },
};

/* Commas and backslashes of a path are special in a list of options. */
static void escape(char *out, size_t size, const char *text)
{
	size_t used = strlen(out);

	for (; *text && used + 3 < size; text++) {
		if (*text == ',' || *text == '\\')
			out[used++] = '\\';
		out[used++] = *text;
	}
	out[used] = '\0';
}

int mount_arguments(struct front *front, struct fuse_args *args)
{
	char list[9000] = "default_permissions,subtype=ashlar,fsname=";

	if (geteuid() == 0)
		return 0;
	escape(list, sizeof(list) - 128, front->source);
	if (front->options.allow_other)
		strcat(list, ",allow_other");
	for (size_t i = 0; i < sizeof(user_flags) / sizeof(user_flags[0]); i++) {
		if (!(front->options.mount_flags & user_flags[i].flag))
			continue;
		strcat(list, ",");
		strcat(list, user_flags[i].option);
	}
	return fuse_opt_add_arg(args, "-o") || fuse_opt_add_arg(args, list) ? -ENOMEM : 0;
}

static int attach_user(struct front *front)
{
	/* fusermount3 has printed why. */
	if (fuse_session_mount(front->session, front->mountpoint))
		return -EPERM;
	int descriptor = fuse_session_fd(front->session);
	fcntl(descriptor, F_SETFD, FD_CLOEXEC);
	return session_connect(front, descriptor);
}

/* ---- Root ---- */

static int open_fuse(struct front *front)
{
	int descriptor = open("/dev/fuse", O_RDWR | O_CLOEXEC);

	if (descriptor >= 0)
		return descriptor;
	int error = errno;
	front_log(front, ASH_LOG_ERROR, "/dev/fuse: %s%s", strerror(error),
		  error == ENOENT || error == ENODEV ? " (load the kernel module with modprobe fuse)" : "");
	return -error;
}

static int attach_failed(struct front *front, int error)
{
	const char *text = strerror(error);

	if (error == EBUSY)
		text = "the device is in use";
	else if (error == ENODEV)
		text = "this kernel has no FUSE (load it with modprobe fuse)";
	else if (error == EPERM)
		text = "not permitted to mount";
	front_log(front, ASH_LOG_ERROR, "cannot mount %s on %s: %s", front->source, front->mountpoint, text);
	return -error;
}

static int attach_root(struct front *front)
{
	const struct front_options *options = &front->options;
	char *data;
	int descriptor = open_fuse(front);

	if (descriptor < 0)
		return descriptor;
	if (asprintf(&data, "fd=%d,rootmode=%o,user_id=0,group_id=0,default_permissions,allow_other%s%s%s", descriptor,
		     S_IFDIR, front->block_device ? ",blksize=4096" : "", options->security ? "," : "",
		     options->security ? options->security : "") < 0) {
		close(descriptor);
		return -ENOMEM;
	}
	int rc = mount(front->source, front->mountpoint, front->block_device ? "fuseblk.ashlar" : "fuse.ashlar",
		       options->mount_flags, data);
	int error = errno;
	free(data);
	if (rc) {
		close(descriptor);
		return attach_failed(front, error);
	}
	rc = session_connect(front, descriptor);
	if (rc) {
		close(descriptor);
		umount2(front->mountpoint, MNT_DETACH | UMOUNT_NOFOLLOW);
	}
	return rc;
}

/* Of the filesystem on top at the mount point; 0: not known. No request to ourselves: nothing is asked that we know. */
static dev_t number_on_top(const struct front *front)
{
	struct statx top;

	if (statx(AT_FDCWD, front->mountpoint, AT_SYMLINK_NOFOLLOW | AT_NO_AUTOMOUNT | AT_STATX_DONT_SYNC, 0, &top))
		return 0;
	return makedev(top.stx_dev_major, top.stx_dev_minor);
}

int mount_attach(struct front *front)
{
	int rc = geteuid() == 0 ? attach_root(front) : attach_user(front);

	if (rc)
		return rc;
	front->mount_number = number_on_top(front);
	if (front->loop_refused)
		front_log(front, ASH_LOG_WARNING, "%s: no loop device: umount will not wait for everything",
			  front->source);
	return 0;
}

/* ---- Detaching ---- */

static int detach_user(struct front *front, bool lazy)
{
	int status;
	pid_t child = fork();

	if (child < 0)
		return -errno;
	if (child == 0) {
		execlp("fusermount3", "fusermount3", lazy ? "-uqz" : "-uq", "--", front->mountpoint, NULL);
		_exit(127);
	}
	while (waitpid(child, &status, 0) < 0)
		if (errno != EINTR)
			return -errno;
	return WIFEXITED(status) && WEXITSTATUS(status) == 0 ? 0 : -EBUSY;
}

int mount_detach(struct front *front, bool lazy)
{
	/* Ours may have been detached or covered since: what is there now is somebody else's. */
	if (front->mount_number && number_on_top(front) != front->mount_number)
		return -ENOENT;
	if (geteuid() != 0)
		return detach_user(front, lazy);
	return umount2(front->mountpoint, UMOUNT_NOFOLLOW | (lazy ? MNT_DETACH : 0)) ? -errno : 0;
}

/* ---- The kernel's dirty pages ---- */

/*
 * It is a child that waits for the kernel: other filesystems may hang, and so may this one, when we are killed. It has
 * nothing of ours open but `descriptor` (-1: nothing), for as long as somebody has /dev/fuse open the connection does
 * not end.
 */
static pid_t write_back_child(int descriptor, void (*write_back)(int descriptor))
{
	pid_t child = fork();

	if (child == 0) {
		front_close_descriptors(0, descriptor);
		write_back(descriptor);
		_exit(0);
	}
	return child;
}

/* sync(2) does not wait for what plain fuse writes back: it is done when no more of it comes. */
static void write_back_wait(struct front *front, pid_t child, bool everything)
{
	struct pollfd down = { .fd = front->down, .events = POLLIN };
	unsigned waited = 0, quiet = 0;
	bool done = false;

	while (!done || (everything && quiet < WRITE_BACK_QUIET_MS)) {
		/*
		 * When another filesystem hangs, the kernel sends us ours all the same: as long as it does, it has
		 * longer.
		 */
		if (everything && waited >= (quiet >= WRITE_BACK_QUIET_MS ? 1 : 10) * WRITE_BACK_LIMIT_MS) {
			front_log(front, ASH_LOG_WARNING, "%s: sync(2) takes too long: not waited for any more",
				  front->mountpoint);
			return;
		}
		if (poll(&down, 1, WRITE_BACK_STEP_MS) > 0)
			return;
		waited += WRITE_BACK_STEP_MS;
		quiet = transport_waiting(&front->transport) ? 0 : quiet + WRITE_BACK_STEP_MS;
		done = done || waitpid(child, NULL, WNOHANG) != 0;
	}
}

static void write_back_folder(int folder)
{
	syncfs(folder);
}

void mount_detach_in_use(struct front *front)
{
	int root = open(front->mountpoint, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	pid_t child = -1;

	mount_detach(front, true);
	if (root >= 0) {
		child = write_back_child(root, write_back_folder);
		close(root);
	}
	if (child > 0) /* else it is left to mount_write_back(), which tells when that fails */
		write_back_wait(front, child, false);
}

/*
 * A mount that was covered, or detached while in use, is reached by no path any more, and a descriptor on it that is
 * kept from before would make it busy. On a block device BLKFLSBUF reaches the filesystem wherever it is. Elsewhere
 * there is only sync(2) of everything.
 */
static void write_back_device(int device)
{
	if (device < 0)
		sync();
	else
		ioctl(device, BLKFLSBUF, 0);
}

void mount_write_back(struct front *front)
{
	int device = front->block_device ? open(front->source, O_RDONLY | O_CLOEXEC) : -1;
	pid_t child = write_back_child(device, write_back_device);

	if (child < 0)
		front_log(front, ASH_LOG_WARNING, "%s: cannot have the kernel's pages written back: %s",
			  front->mountpoint, strerror(errno));
	if (device >= 0)
		close(device);
	if (child > 0)
		write_back_wait(front, child, device < 0);
}

/* ---- Limits ---- */

static bool write_limit(const struct front *front, const char *name, uint64_t value)
{
	char path[128], text[24];

	snprintf(path, sizeof(path), "/sys/class/bdi/%u:%u%s/%s", major(front->mount_number),
		 minor(front->mount_number), front->block_device ? "-fuseblk" : "", name);
	int descriptor = open(path, O_WRONLY | O_CLOEXEC);
	if (descriptor < 0)
		return false; /* not permitted, or an older kernel: slower, not wrong */
	int length = snprintf(text, sizeof(text), "%llu", (unsigned long long)value);
	bool taken = write(descriptor, text, (size_t)length) == length;
	if (!taken && front->options.debug)
		fprintf(stderr, "%s: %s\n", path, strerror(errno));
	close(descriptor);
	return taken;
}

/*
 * The kernel takes a fifth of the memory before it makes writers wait, which may be more than a small volume holds: who
 * fills it would be told late, and an fsync wait long. The kernel refuses a limit above its own.
 */
static void limit_dirty_data(struct front *front)
{
	struct ash_statfs statfs;

	if (!front_limits_dirty_data(front) || ash_statfs(front->volume, &statfs))
		return;
	uint64_t share = statfs.blocks / DIRTY_PART * statfs.block_size;
	uint64_t limit = share > DIRTY_MINIMUM ? share : DIRTY_MINIMUM;
	if (!write_limit(front, "max_bytes", limit))
		return;
	write_limit(front, "strict_limit", 1);
	/* It has the share of what the kernel has written lately, and begins with hardly any. */
	write_limit(front, "min_bytes", limit / DIRTY_START_PART);
}

void mount_tune(struct front *front)
{
	if (geteuid() != 0 || !front->mount_number)
		return;
	/*
	 * The kernel distrusts FUSE servers: 1 % of the dirty limit, strictly. This one writes as fast as its device.
	 */
	write_limit(front, "strict_limit", 0);
	write_limit(front, "max_ratio", 100);
	write_limit(front, "read_ahead_kb", READ_AHEAD_KIB);
	limit_dirty_data(front);
}
