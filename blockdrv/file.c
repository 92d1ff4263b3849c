/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A block device or image file behind a descriptor. See file.h.
 *
 * Concept: I/O goes through one descriptor opened with O_DIRECT. An exclusive open of a block device
 * holds its O_EXCL claim on a second descriptor, so that giving up the claim is one close() and
 * neither I/O nor the owner lock notices.
 *
 * The owner lock is an OFD lock on the I/O descriptor itself. The kernel drops such a lock with the
 * last reference to the open file, and requests in flight hold references: the lock of a killed
 * process outlives its last write. OFD locks belong to the inode, so two device nodes of one device
 * do not see each other; the O_EXCL claim covers that case.
 *
 * Rules: a transfer is complete or a failure. Beyond the end of a device or image that shrank
 * under us there is -EIO.
 *
 * Locking: none. Descriptors are constant, except `claim_fd`, which is exchanged atomically.
 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE /* O_DIRECT, F_OFD_SETLK, statx, preadv2 */
#endif
#include "file.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/falloc.h>
#include <linux/fs.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

/* ---- Geometry. ---- */

/*
 * A line of the device's request queue in sysfs (Documentation/ABI/stable/sysfs-block). Only whole
 * disks have the folder; for a partition ".." of its own folder is the disk's.
 */
static bool read_queue_text(dev_t device, const char *attribute, char *text, size_t size)
{
	static const char *const places[] = { "queue", "../queue" };

	for (size_t i = 0; i < sizeof(places) / sizeof(places[0]); i++) {
		char path[128];
		FILE *file;
		bool good;

		snprintf(path, sizeof(path), "/sys/dev/block/%u:%u/%s/%s", major(device), minor(device), places[i],
			 attribute);
		file = fopen(path, "re");
		if (!file)
			continue;
		good = fgets(text, (int)size, file) != NULL;
		fclose(file);
		return good;
	}
	return false;
}

static uint64_t read_queue_number(dev_t device, const char *attribute)
{
	char text[64];

	return read_queue_text(device, attribute, text, sizeof(text)) ? strtoull(text, NULL, 10) : 0;
}

static bool has_volatile_cache(dev_t device)
{
	char text[64];

	if (!read_queue_text(device, "write_cache", text, sizeof(text)))
		return true; /* unknown: a flush too many does no harm */
	return strncmp(text, "write back", 10) == 0;
}

static int block_device_size(int fd, uint64_t *size)
{
	return ioctl(fd, BLKGETSIZE64, size) ? -errno : 0;
}

static int block_device_geometry(int fd, dev_t device, struct bdev_geometry *geometry)
{
	unsigned int physical = 0, optimal = 0;
	int logical = 0;
	int result = block_device_size(fd, &geometry->size);

	if (result)
		return result;
	if (ioctl(fd, BLKSSZGET, &logical) || logical <= 0)
		return -EIO;
	if (ioctl(fd, BLKPBSZGET, &physical) || physical < (unsigned int)logical)
		physical = (unsigned int)logical;
	if (ioctl(fd, BLKIOOPT, &optimal))
		optimal = 0;
	geometry->block_device = true;
	geometry->device_number = device;
	geometry->logical_block = (uint32_t)logical;
	geometry->physical_block = physical;
	geometry->optimal_io = optimal;
	geometry->memory_align = (uint32_t)logical;
	geometry->volatile_cache = has_volatile_cache(device);
	geometry->fua = geometry->volatile_cache && read_queue_number(device, "fua") == 1;
	geometry->rotational = read_queue_number(device, "rotational") == 1;
	geometry->write_zeroes = read_queue_number(device, "write_zeroes_max_bytes") > 0;
	geometry->discard = !geometry->read_only && read_queue_number(device, "discard_max_bytes") > 0;
	if (geometry->discard) {
		uint64_t granularity = read_queue_number(device, "discard_granularity");

		geometry->discard_granularity = granularity ? (uint32_t)granularity : geometry->logical_block;
	}
	return 0;
}

/* Without statx's help: try the smaller block. A read past the end or of old data changes nothing. */
static uint32_t probe_direct_block(int fd)
{
	unsigned char buffer[8192];
	unsigned char *aligned = (unsigned char *)(((uintptr_t)buffer + 4095) & ~(uintptr_t)4095);

	return pread(fd, aligned, 512, 512) >= 0 ? 512 : 4096;
}

static void file_alignment(int fd, struct bdev_geometry *geometry)
{
	geometry->logical_block = 0;
	geometry->memory_align = 4096;
#ifdef STATX_DIOALIGN
	struct statx status;

	if (!statx(fd, "", AT_EMPTY_PATH, STATX_DIOALIGN, &status) && (status.stx_mask & STATX_DIOALIGN) &&
	    status.stx_dio_offset_align) {
		geometry->logical_block = status.stx_dio_offset_align < 512 ? 512 : status.stx_dio_offset_align;
		geometry->memory_align = status.stx_dio_mem_align < 512 ? 512 : status.stx_dio_mem_align;
	}
#endif
	if (!geometry->logical_block)
		geometry->logical_block = probe_direct_block(fd);
}

static void regular_file_geometry(int fd, const struct stat *status, struct bdev_geometry *geometry)
{
	file_alignment(fd, geometry);
	/* A ragged end cannot be reached with direct I/O. */
	geometry->size = (uint64_t)status->st_size & ~(uint64_t)(geometry->logical_block - 1);
	geometry->physical_block = 4096;
	geometry->volatile_cache = true;
	geometry->write_zeroes = true;
	geometry->discard = !geometry->read_only;
	geometry->discard_granularity = geometry->discard ? (uint32_t)status->st_blksize : 0;
}

/*
 * All I/O names its offset: that of the descriptor, which this moves, means nothing to anybody. A filesystem may take data
 * that it has not written out yet for a hole (OpenZFS before 2.2.2, its issue 15526): it is told to do so before.
 */
uint64_t bdev_file_next_data(struct bdev *dev, uint64_t offset)
{
	struct bdev_file *file = bdev_file(dev);
	off_t data;

	if (dev->geometry.block_device || offset > INT64_MAX)
		return offset;
	if (!file->settled && fdatasync(file->fd))
		return offset;
	file->settled = true;
	data = lseek(file->fd, (off_t)offset, SEEK_DATA);
	if (data < 0)
		return errno == ENXIO && offset < dev->geometry.size ? dev->geometry.size : offset;
	return (uint64_t)data;
}

int bdev_file_refresh_size(struct bdev *dev)
{
	struct stat status;
	uint64_t size;

	if (dev->geometry.block_device) {
		int result = block_device_size(bdev_file(dev)->fd, &size);

		if (result)
			return result;
	} else {
		if (fstat(bdev_file(dev)->fd, &status))
			return -errno;
		size = (uint64_t)status.st_size & ~(uint64_t)(dev->geometry.logical_block - 1);
	}
	__atomic_store_n(&dev->geometry.size, size, __ATOMIC_RELEASE);
	return 0;
}

/* ---- Open. ---- */

static int check_type(const char *path, mode_t mode, char *error)
{
	if (S_ISREG(mode) || S_ISBLK(mode))
		return 0;
	if (S_ISDIR(mode))
		return bdev_open_error(error, -EISDIR, "%s: is a folder; give a block device or an image file", path);
	return bdev_open_error(error, -ENOTBLK, "%s: is a %s; give a block device or an image file", path,
			       S_ISCHR(mode)  ? "character device" :
			       S_ISFIFO(mode) ? "fifo" :
						"socket");
}

/* Of an image file: the file system that it lies on. */
static int write_protected(const char *path, char *error)
{
	struct stat status;

	if (!stat(path, &status) && S_ISREG(status.st_mode))
		return bdev_open_error(error, -EROFS,
				       "%s: is on a file system that is read-only; remount that one read-write first",
				       path);
	return bdev_open_error(error, -EROFS,
			       "%s: is write-protected (by a switch, losetup -r, blockdev --setro): it can only be "
			       "read until that is undone",
			       path);
}

/* Only the driver without a queue, and only where it may, goes on without. */
static int direct_refused(const char *path, const struct bdev_open_options *options, bool may_buffer, char *error)
{
	if (may_buffer)
		return bdev_open_error(error, -EINVAL,
				       "%s: direct I/O (O_DIRECT) is refused here; set allow_buffered to go on without",
				       path);
	return bdev_open_error(error, -EINVAL, "%s: direct I/O (O_DIRECT) is refused here; use sync:%s%s", path, path,
			       options->allow_buffered ? "" : " with allow_buffered");
}

static int explain_open(const char *path, const struct bdev_open_options *options, int code, char *error)
{
	switch (code) {
	case EACCES:
	case EPERM:
		return bdev_open_error(error, -EACCES, "%s: permission denied; run as root or as a user who may %s it",
				       path, options->read_only ? "read" : "write");
	case EBUSY:
		return bdev_open_error(error, -EBUSY, "%s: mounted or in use; unmount it first", path);
	case EROFS:
		return write_protected(path, error);
	case ENXIO:
	case ENOMEDIUM:
		return bdev_open_error(error, -ENODEV, "%s: no such device or no medium in it", path);
	default:
		return bdev_open_error(error, -code, "%s: cannot open: %s", path, strerror(code));
	}
}

/* The claim is taken first: an exclusive open that fails must not have touched the device. */
static int open_claim(struct bdev_file *file, const char *path, const struct bdev_open_options *options, char *error)
{
	file->claim_fd = open(path, O_RDONLY | O_EXCL | O_CLOEXEC);
	return file->claim_fd < 0 ? explain_open(path, options, errno, error) : 0;
}

static int open_io(struct bdev_file *file, const char *path, const struct bdev_open_options *options, bool may_buffer,
		   char *error)
{
	int flags = (options->read_only ? O_RDONLY : O_RDWR) | O_CLOEXEC | O_NOCTTY;

	file->fd = open(path, flags | O_DIRECT);
	if (file->fd < 0 && errno == EINVAL && may_buffer && options->allow_buffered) {
		file->fd = open(path, flags);
		file->dev.geometry.buffered = file->fd >= 0;
	} else if (file->fd < 0 && errno == EINVAL) {
		return direct_refused(path, options, may_buffer, error);
	}
	return file->fd < 0 ? explain_open(path, options, errno, error) : 0;
}

static int check_geometry(const char *path, const struct bdev_geometry *geometry, char *error)
{
	if (geometry->logical_block >= 512 && geometry->logical_block <= 4096 &&
	    !(geometry->logical_block & (geometry->logical_block - 1)))
		return 0;
	return bdev_open_error(error, -EINVAL, "%s: blocks of %u bytes are not supported; at most 4096", path,
			       geometry->logical_block);
}

static int read_geometry(struct bdev_file *file, const char *path, const struct stat *expected, char *error)
{
	struct bdev_geometry *geometry = &file->dev.geometry;
	struct stat status;
	int device_read_only = 0;
	int result;

	if (fstat(file->fd, &status))
		return bdev_open_error(error, -errno, "%s: cannot stat: %s", path, strerror(errno));
	if ((status.st_mode & S_IFMT) != (expected->st_mode & S_IFMT) || status.st_rdev != expected->st_rdev)
		return bdev_open_error(error, -ENODEV, "%s: was replaced while it was opened; try again", path);
	if (S_ISREG(status.st_mode)) {
		regular_file_geometry(file->fd, &status, geometry);
		return check_geometry(path, geometry, error);
	}
	if (!ioctl(file->fd, BLKROGET, &device_read_only) && device_read_only && !geometry->read_only)
		return write_protected(path, error);
	result = block_device_geometry(file->fd, status.st_rdev, geometry);
	if (result)
		return bdev_open_error(error, result, "%s: cannot read its size: %s", path, strerror(-result));
	return check_geometry(path, geometry, error);
}

static int open_descriptors(struct bdev_file *file, const char *path, const struct bdev_open_options *options,
			    bool may_buffer, char *error)
{
	struct stat status;
	int result;

	if (stat(path, &status))
		return errno == ENOENT ? bdev_open_error(error, -ENOENT, "%s: no such device or file", path) :
					 explain_open(path, options, errno, error);
	result = check_type(path, status.st_mode, error); /* before open(2), which waits on a fifo */
	if (!result && options->exclusive && S_ISBLK(status.st_mode))
		result = open_claim(file, path, options, error);
	if (!result)
		result = open_io(file, path, options, may_buffer, error);
	if (!result)
		result = read_geometry(file, path, &status, error);
	return result;
}

int bdev_file_open(const char *path, const struct bdev_open_options *options, const struct bdev_operations *operations,
		   bool may_buffer, struct bdev **out, char *error)
{
	struct bdev_file *file = calloc(1, sizeof(*file));
	int result = -ENOMEM;

	if (!file)
		return bdev_open_error(error, -ENOMEM, "%s: out of memory", path);
	file->fd = -1;
	file->claim_fd = -1;
	if (bdev_init(&file->dev, operations, path, options))
		bdev_open_error(error, -ENOMEM, "%s: out of memory", path);
	else {
		file->dev.geometry.read_only = options->read_only;
		result = open_descriptors(file, path, options, may_buffer, error);
	}
	if (result) {
		free(file->dev.name);
		bdev_file_close(&file->dev);
		return result;
	}
	*out = &file->dev;
	return 0;
}

/* I/O ends before the claim does, so that the next claimer never meets our I/O. */
void bdev_file_close(struct bdev *dev)
{
	struct bdev_file *file = bdev_file(dev);

	if (file->fd >= 0)
		close(file->fd);
	if (file->claim_fd >= 0)
		close(file->claim_fd);
	free(file);
}

/* ---- Owner lock and claim. ---- */

static int set_lock(struct bdev *dev, short type)
{
	/* Whole file: start 0, length 0. l_pid must be 0 for OFD locks (fcntl(2)). */
	struct flock lock = { .l_type = type, .l_whence = SEEK_SET };

	while (fcntl(bdev_file(dev)->fd, F_OFD_SETLK, &lock)) {
		if (errno == EAGAIN || errno == EACCES)
			return -EBUSY;
		if (errno != EINTR)
			return -errno;
	}
	return 0;
}

int bdev_file_lock(struct bdev *dev, bool exclusive, unsigned timeout_ms)
{
	const struct timespec pause = { .tv_nsec = 20 * 1000 * 1000 };
	uint64_t deadline = bdev_now_ns() + (uint64_t)timeout_ms * 1000000u;
	/* The kernel wants a writable descriptor for a write lock. A reader's shared lock keeps writers out as well. */
	short type = exclusive && !dev->geometry.read_only ? F_WRLCK : F_RDLCK;

	for (;;) {
		int result = set_lock(dev, type);

		if (result != -EBUSY || bdev_now_ns() >= deadline)
			return result;
		nanosleep(&pause, NULL);
	}
}

void bdev_file_unlock(struct bdev *dev)
{
	set_lock(dev, F_UNLCK);
}

int bdev_file_drop_exclusive(struct bdev *dev)
{
	int claim = __atomic_exchange_n(&bdev_file(dev)->claim_fd, -1, __ATOMIC_ACQ_REL);

	if (claim >= 0)
		close(claim);
	return 0;
}

/* ---- Transfers. ---- */

/* The kernel says ENOSPC (write) past the end of a block device; a thin device that is full says it, too. */
static int judge_error(struct bdev *dev, int code, uint64_t end)
{
	uint64_t size;

	if (code == ENOSPC && dev->geometry.block_device && !block_device_size(bdev_file(dev)->fd, &size) && end > size)
		return -EIO;
	return code == ENXIO ? -ENODEV : -code;
}

/* What is left of `iov` after `done` bytes, as much of it as fits in `rest`. */
static int rest_of(const struct iovec *iov, int count, uint64_t done, struct iovec *rest, int room)
{
	int used = 0;

	for (int i = 0; i < count && used < room; i++) {
		if (done >= iov[i].iov_len) {
			done -= iov[i].iov_len;
			continue;
		}
		rest[used].iov_base = (char *)iov[i].iov_base + done;
		rest[used++].iov_len = iov[i].iov_len - done;
		done = 0;
	}
	return used;
}

static ssize_t transfer_once(int fd, bool write, const struct iovec *iov, int count, uint64_t offset, unsigned flags)
{
	if (flags & BDEV_FUA)
		return pwritev2(fd, iov, count, (off_t)offset, RWF_DSYNC);
	if (count == 1)
		return write ? pwrite(fd, iov->iov_base, iov->iov_len, (off_t)offset) :
			       pread(fd, iov->iov_base, iov->iov_len, (off_t)offset);
	return write ? pwritev(fd, iov, count, (off_t)offset) : preadv(fd, iov, count, (off_t)offset);
}

static uint64_t iov_length(const struct iovec *iov, int count)
{
	uint64_t length = 0;

	for (int i = 0; i < count; i++)
		length += iov[i].iov_len;
	return length;
}

/* Transfer what follows the first `done` bytes. */
static int transfer_rest(struct bdev *dev, bool write, const struct iovec *iov, int count, uint64_t offset,
			 unsigned flags, uint64_t done)
{
	uint64_t length = iov_length(iov, count);
	struct iovec rest[16];
	int fd = bdev_file(dev)->fd;

	while (done < length) {
		bool whole = done == 0;
		int used = whole ? count : rest_of(iov, count, done, rest, 16);
		ssize_t bytes = transfer_once(fd, write, whole ? iov : rest, used, offset + done, flags);

		if (bytes < 0 && errno == EINTR)
			continue;
		/* EINVAL after a part: the rest is not aligned any more, as at a ragged end. */
		if (bytes == 0 || (bytes < 0 && errno == EINVAL && !whole))
			return -EIO;
		if (bytes < 0)
			return judge_error(dev, errno, offset + length);
		done += (uint64_t)bytes;
	}
	return 0;
}

int bdev_file_rw(struct bdev *dev, bool write, const struct iovec *iov, int count, uint64_t offset, unsigned flags)
{
	return transfer_rest(dev, write, iov, count, offset, flags, 0);
}

int bdev_file_finish(struct bdev *dev, const struct bdev_request *request, int64_t answer)
{
	bool transfer = request->op == BDEV_READ || request->op == BDEV_WRITE;

	if (answer >= 0 && (!transfer || (uint64_t)answer == request->length))
		return 0;
	if (answer >= 0)
		return transfer_rest(dev, request->op == BDEV_WRITE, request->iov, request->iov_count, request->offset,
				     request->flags, (uint64_t)answer);
	switch (-answer) {
	case EINTR:
	case EAGAIN:
	case ECANCELED:
	case EINVAL:
	case EOPNOTSUPP:
	case EBUSY:
		return bdev_execute(dev, request);
	default:
		return judge_error(dev, (int)-answer, request->offset + request->length);
	}
}

int bdev_file_flush(struct bdev *dev)
{
	while (fdatasync(bdev_file(dev)->fd)) {
		if (errno != EINTR)
			return judge_error(dev, errno, 0);
	}
	return 0;
}

/* ---- Discard and zeroes. ---- */

static int try_fallocate(int fd, int mode, uint64_t offset, uint64_t length)
{
	while (fallocate(fd, mode | FALLOC_FL_KEEP_SIZE, (off_t)offset, (off_t)length)) {
		if (errno != EINTR)
			return -errno;
	}
	return 0;
}

static int try_range_ioctl(int fd, unsigned long command, uint64_t offset, uint64_t length)
{
	uint64_t range[2] = { offset, length };

	while (ioctl(fd, command, range)) {
		if (errno != EINTR)
			return errno == ENOTTY ? -EOPNOTSUPP : -errno;
	}
	return 0;
}

int bdev_file_discard(struct bdev *dev, uint64_t offset, uint64_t length)
{
	int fd = bdev_file(dev)->fd;

	if (dev->geometry.block_device)
		return try_range_ioctl(fd, BLKDISCARD, offset, length);
	return try_fallocate(fd, FALLOC_FL_PUNCH_HOLE, offset, length);
}

/* One page of zeroes, many times per call: nothing to allocate, so nothing that can run out. */
static int write_zero_pages(struct bdev *dev, uint64_t offset, uint64_t length)
{
	static const unsigned char page[4096] __attribute__((aligned(4096)));
	struct iovec iov[256];

	while (length) {
		uint64_t part = 0;
		int count = 0;
		int result;

		for (; count < 256 && part < length; count++) {
			iov[count].iov_base = (void *)page;
			iov[count].iov_len = length - part < sizeof(page) ? length - part : sizeof(page);
			part += iov[count].iov_len;
		}
		result = bdev_file_rw(dev, true, iov, count, offset, 0);
		if (result)
			return result;
		offset += part;
		length -= part;
	}
	return 0;
}

/* EBUSY: BLKZEROOUT met a page of the device in the page cache that somebody holds. */
static bool needs_fallback(int result)
{
	return result == -EOPNOTSUPP || result == -ENOSYS || result == -EINVAL || result == -EBUSY;
}

int bdev_file_write_zeroes(struct bdev *dev, uint64_t offset, uint64_t length)
{
	int fd = bdev_file(dev)->fd;
	int result;

	if (dev->geometry.block_device) {
		result = try_range_ioctl(fd, BLKZEROOUT, offset, length);
	} else {
		result = try_fallocate(fd, FALLOC_FL_ZERO_RANGE, offset, length);
		if (needs_fallback(result))
			result = try_fallocate(fd, FALLOC_FL_PUNCH_HOLE, offset, length);
	}
	if (needs_fallback(result))
		return write_zero_pages(dev, offset, length);
	return result ? judge_error(dev, -result, offset + length) : 0;
}
