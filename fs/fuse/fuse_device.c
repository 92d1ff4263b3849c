/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The device behind a mount: what the user names, who owns it, and the volume on it.
 *
 *	block device		opened with O_EXCL, which keeps mounted devices and other tools out
 *	image, by root		the owner lock on the image (`guard`), then a loop device over it with direct I/O and
 *				autoclear, which is then a block device like any other; where loop devices are refused,
 *				as to root of a user namespace, the image itself
 *	image, by others	the image itself; its owner lock is held until everything is on it
 *	mem:, nbd: ...		whatever the driver opens; plain fuse
 *
 * Order of opening: guard, loop device, device, volume (which takes the owner lock on the device and replays the
 * log); the exclusive claim is given up last, right before the kernel makes its own. Closing is the reverse.
 *
 * Errors are printed here, one line each; callers get the errno only to fail. Called by one thread, before the
 * workers start and after they are idle. No locks.
 */
#include "fuse_front.h"
#include "mkfs/probe.h"

#include <ashlar/format.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/loop.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <unistd.h>

#ifndef PR_SET_IO_FLUSHER
#define PR_SET_IO_FLUSHER 57
#endif

#define LOCK_WAIT_MS 5000u /* a predecessor may still be writing its last blocks */
#define LOOP_ATTEMPTS 16

static void log_volume(void *context, enum ash_log_level level, const char *text)
{
	front_log(context, level, "%s", text);
}

static int fail(struct front *front, int error, const char *what)
{
	front_log(front, ASH_LOG_ERROR, "%s: %s", front->source, what);
	return error;
}

/* Texts of the layers below begin with their own name of the device, which may be a loop device nobody asked for. */
static int fail_text(struct front *front, int error, const char *text)
{
	char use[PROBE_TEXT];

	if (error == -EBUSY && probe_in_use(front->source, use) == 1)
		return fail(front, error, use);
	if (error == -ENOMEM)
		return fail(front, error,
			    "cannot allocate memory (cache= and write_behind= say how much is asked for)");
	if (text[0] == '/' && strstr(text, ": "))
		text = strstr(text, ": ") + 2;
	return fail(front, error, *text ? text : strerror(-error));
}

/* In use by somebody else? One who is about to leave gets a moment, a mount does not. */
static int check_free(struct front *front)
{
	char text[PROBE_TEXT];

	return probe_wait_free(front->source, LOCK_WAIT_MS, text) == 1 ? fail(front, -EBUSY, text) : 0;
}

/* ---- Names ---- */

/* "aio:/dev/sdb1" into driver and path. A file of that very name comes first. */
static void split_driver(struct front *front)
{
	struct front_options *options = &front->options;
	size_t length = strspn(front->source, "abcdefghijklmnopqrstuvwxyz-0123456789");

	if (front->source[length] != ':' || length == 0 || length >= sizeof(options->driver) ||
	    access(front->source, F_OK) == 0)
		return;
	memcpy(options->driver, front->source, length);
	options->driver[length] = '\0';
	memmove(front->source, front->source + length + 1, strlen(front->source + length + 1) + 1);
}

static bool driver_takes_path(const struct front *front)
{
	static const char *const drivers[] = { "", "aio", "uring", "sync" };

	for (size_t i = 0; i < sizeof(drivers) / sizeof(drivers[0]); i++)
		if (strcmp(front->options.driver, drivers[i]) == 0)
			return true;
	return false;
}

static int resolve_name(struct front *front)
{
	int rc = probe_resolve_tag(front->options.device, &front->source);

	if (rc == 0) {
		split_driver(front);
		if (!driver_takes_path(front))
			return 0;
		char *real = realpath(front->source, NULL);
		if (real) {
			free(front->source);
			front->source = real;
		}
		return 0;
	}
	front_log(front, ASH_LOG_ERROR, "%s: %s", front->options.device,
		  rc == -ENODEV ? "no Ashlar volume has this label or UUID" :
		  rc == -EINVAL ? "is not a label of 1 to 64 bytes, or a UUID of 32 hexadecimal digits" :
		  rc == -EEXIST ? "more than one volume has this label or UUID: name the device instead" :
				  strerror(-rc));
	return rc;
}

/* ---- Loop device over an image ---- */

static int loop_configure(int loop, int image, bool read_only, const char *name)
{
	struct loop_config config = { .fd = (uint32_t)image, .block_size = ASH_BLOCK_SIZE };

	config.info.lo_flags = LO_FLAGS_AUTOCLEAR | LO_FLAGS_DIRECT_IO | (read_only ? LO_FLAGS_READ_ONLY : 0);
	snprintf((char *)config.info.lo_file_name, LO_NAME_SIZE, "%s", name);
	return ioctl(loop, LOOP_CONFIGURE, &config) < 0 ? -errno : 0;
}

/* A free loop device over `image`; others may be looking for one at the same time. */
static int loop_attach(struct front *front, int image, bool read_only, char *path, size_t path_size)
{
	int control = open("/dev/loop-control", O_RDWR | O_CLOEXEC), rc = -EBUSY;

	if (control < 0)
		return -errno;
	for (int i = 0; i < LOOP_ATTEMPTS && rc == -EBUSY; i++) {
		int number = ioctl(control, LOOP_CTL_GET_FREE);
		if (number < 0) {
			rc = -errno;
			break;
		}
		snprintf(path, path_size, "/dev/loop%d", number);
		front->loop = open(path, (read_only ? O_RDONLY : O_RDWR) | O_CLOEXEC);
		rc = front->loop < 0 ? -errno : loop_configure(front->loop, image, read_only, front->source);
		if (rc && front->loop >= 0) {
			close(front->loop);
			front->loop = -1;
		}
	}
	close(control);
	return rc;
}

/* Own the image for as long as the mount lives: a second mount or mkfs of it is refused by this lock. */
static int guard_open(struct front *front, bool read_only)
{
	struct bdev_open_options options = { .read_only = read_only, .allow_buffered = true };
	char name[4200], error[BDEV_ERROR_TEXT] = "";

	snprintf(name, sizeof(name), "sync:%s", front->source);
	int rc = bdev_open(name, &options, &front->guard, error);
	if (rc)
		return rc == -EACCES || rc == -EROFS ? rc : fail_text(front, rc, error);
	rc = bdev_lock(front->guard, !read_only, LOCK_WAIT_MS);
	return rc ? fail_text(front, rc, "is in use by another program of Ashlar (mounted already?)") : 0;
}

/* The loop device's path goes to `path`; it stays as it is where loop devices are refused. */
static int image_attach(struct front *front, bool read_only, char *path, size_t path_size)
{
	char loop[64];
	int rc = guard_open(front, read_only);

	if (rc)
		return rc;
	int image = open(front->source, (read_only ? O_RDONLY : O_RDWR) | O_CLOEXEC);
	if (image < 0)
		return fail(front, -errno, strerror(errno));
	rc = loop_attach(front, image, read_only, loop, sizeof(loop));
	close(image);
	front->loop_refused = rc == -EACCES || rc == -EPERM;
	if (front->loop_refused) {
		/* The volume locks the image now. */
		bdev_close(front->guard);
		front->guard = NULL;
		return 0;
	}
	if (rc) {
		char text[128];
		snprintf(text, sizeof(text), "cannot attach a loop device: %s", strerror(-rc));
		return fail(front, rc, text);
	}
	snprintf(path, path_size, "%s", loop);
	return 0;
}

/* ---- Device ---- */

static int fail_small(struct front *front, const struct stat *stat)
{
	char text[96];

	if (!stat->st_size)
		return fail(front, -EINVAL, "is an empty file (make a volume with mkfs.ashlar)");
	snprintf(text, sizeof(text), "is too small (%lld bytes) to hold an Ashlar volume", (long long)stat->st_size);
	return fail(front, -EINVAL, text);
}

static int check_kind(struct front *front, struct stat *stat_out)
{
	if (stat(front->source, stat_out))
		return fail(front, -errno, errno == ENOENT ? "no such device or image" : strerror(errno));
	if (S_ISDIR(stat_out->st_mode))
		return fail(front, -EISDIR, "is a folder, not a device or image");
	if (!S_ISREG(stat_out->st_mode) && !S_ISBLK(stat_out->st_mode))
		return fail(front, -ENOTBLK, "is neither a block device nor an image file");
	if (S_ISREG(stat_out->st_mode) && stat_out->st_size < ASH_BLOCK_SIZE)
		return fail_small(front, stat_out);
	return check_free(front);
}

static int device_open_path(struct front *front, bool read_only, const char *path)
{
	struct bdev_open_options options = { .read_only = read_only, .exclusive = true, .allow_buffered = true };
	char name[4200], error[BDEV_ERROR_TEXT] = "";
	const char *driver = front->options.driver;

	snprintf(name, sizeof(name), "%s%s%s", driver, *driver ? ":" : "", path);
	int rc = bdev_open(name, &options, &front->device, error);
	if (rc == 0 || rc == -EACCES || rc == -EROFS || rc == -EPERM) {
		if (rc && read_only)
			fail_text(front, rc, error);
		return rc;
	}
	return fail_text(front, rc, error);
}

static int device_open_kind(struct front *front, bool read_only)
{
	char path[4100];
	struct stat stat;
	int rc = 0;

	if (!driver_takes_path(front))
		return device_open_path(front, read_only, front->source);
	rc = check_kind(front, &stat);
	if (rc)
		return rc;
	snprintf(path, sizeof(path), "%s", front->source);
	if (S_ISREG(stat.st_mode) && geteuid() == 0)
		rc = image_attach(front, read_only, path, sizeof(path));
	if (rc == 0)
		rc = device_open_path(front, read_only, path);
	if (front->loop >= 0)
		close(front->loop); /* the device has it open now, or it goes away */
	front->loop = -1;
	return rc;
}

/* Read-only when the device is write-protected, as mount(8) does. */
static int device_open_any(struct front *front)
{
	bool read_only = front->options.volume.read_only;
	int rc = device_open_kind(front, read_only);

	if (!read_only && (rc == -EACCES || rc == -EROFS || rc == -EPERM)) {
		bdev_close(front->guard);
		front->guard = NULL;
		read_only = true;
		rc = device_open_kind(front, read_only);
		if (rc == 0)
			front_log(front, ASH_LOG_WARNING, "%s: write-protected, mounting read-only", front->source);
	}
	if (rc == 0 && (read_only || bdev_geometry(front->device)->read_only)) {
		front->options.mount_flags |= MS_RDONLY;
		front->options.volume.read_only = true;
		/* A device that cannot be written gets its log overlaid in memory. */
		front->options.volume.no_write = bdev_geometry(front->device)->read_only;
	}
	return rc;
}

/* ---- Volume ---- */

static int volume_open(struct front *front)
{
	struct ash_open_options *options = &front->options.volume;
	struct ash_volume_info info;
	char error[BDEV_ERROR_TEXT] = "";

	options->log = log_volume;
	options->context = front;
	options->wait_begin = crew_wait_begin;
	options->wait_end = crew_wait_end;
	options->attributes_changed = notify_attributes_changed;
	/*
	 * The kernel may wait for us to write its dirty pages: our own allocations must not wait for that. All threads
	 * that are started from here on inherit it, the volume's own among them. It takes CAP_SYS_RESOURCE.
	 */
	prctl(PR_SET_IO_FLUSHER, 1, 0, 0, 0);
	int rc = ash_open(front->device, options, &front->volume, error);
	if (rc)
		return fail_text(front, rc, error);
	if (ash_volume_info(front->volume, &info) == 0)
		front->answers_open = info.compat & ASH_COMPAT_INODE_FLAGS;
	if (ash_queue_open(front->volume, FRONT_QUEUE_DEPTH, &front->queue) || ash_queue_event_fd(front->queue) < 0) {
		ash_queue_close(front->queue);
		front->queue = NULL; /* one request at a time, then */
	}
	return 0;
}

static int open_both(struct front *front)
{
	int rc = device_open_any(front);

	if (rc == 0)
		rc = volume_open(front);
	if (rc)
		device_close(front);
	return rc;
}

/*
 * A read-only mount replays the log, as ext4's does, where the device lets it: by an open and a close before its own.
 * Where it does not, or where anything is wrong, the log stays as it is and is looked through.
 */
static int replay_and_open(struct front *front)
{
	struct ash_open_options *options = &front->options.volume;

	device_close(front);
	if (device_open_kind(front, false) == 0 && !bdev_geometry(front->device)->read_only) {
		options->no_write = false;
		volume_open(front);
	}
	device_close(front);
	front->close_error = 0;
	return open_both(front);
}

int device_open(struct front *front)
{
	bool read_only = front->options.volume.read_only;
	struct ash_volume_info info;
	int rc = resolve_name(front);

	if (rc == 0)
		rc = open_both(front);
	if (rc == 0 && read_only && ash_volume_info(front->volume, &info) == 0 && info.no_write && !info.was_clean)
		rc = replay_and_open(front);
	if (rc)
		return rc;
	front->block_device = bdev_geometry(front->device)->block_device && geteuid() == 0;
	if (!front->block_device || !driver_takes_path(front))
		return 0;
	/* From here on the loop device over an image stands for it. */
	char *name = strdup(bdev_name(front->device));
	if (name) {
		free(front->source);
		front->source = name;
	}
	return 0;
}

int device_release_claim(struct front *front)
{
	int rc = front->block_device ? bdev_drop_exclusive(front->device) : 0;

	return rc ? fail(front, rc, strerror(-rc)) : 0;
}

int device_close(struct front *front)
{
	if (front->queue)
		ash_queue_close(front->queue);
	front->queue = NULL;
	if (front->volume) {
		front->close_error = ash_close(front->volume);
		front->volume = NULL;
		if (front->close_error)
			front_log(front, ASH_LOG_ERROR, "%s: not everything could be written: %s", front->source,
				  strerror(-front->close_error));
	}
	if (front->device)
		bdev_close(front->device);
	if (front->guard)
		bdev_close(front->guard);
	front->device = front->guard = NULL;
	return front->close_error;
}
