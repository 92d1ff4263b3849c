/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Does a flush, and a write that is to be durable, reach the kernel? No test that reads back can tell: what was written
 * is seen with or without them, until the power goes. So the calls are looked at on their way.
 */
#include "../../../blockdrv/file.h"
#include "devices.h"

#include <errno.h>
#include <libaio.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>
#ifdef HAVE_LIBURING
#include <liburing.h>
#endif

#define LENGTH 16384u

/* What went to the kernel. */
struct seen {
	unsigned syncs;   /* of the data of the whole device */
	unsigned durable; /* writes with RWF_DSYNC */
	unsigned plain;   /* queued writes without it */
	int fd;           /* of the last blocking one */
};
static struct seen seen;

/* So many calls fail with this error. */
static int failures, failure;

int __real_fdatasync(int fd);
ssize_t __real_pwritev64v2(int fd, const struct iovec *iov, int count, off64_t offset, int flags);
int __real_io_submit(io_context_t context, long count, struct iocb **iocbs);
int __wrap_fdatasync(int fd);
ssize_t __wrap_pwritev64v2(int fd, const struct iovec *iov, int count, off64_t offset, int flags);
int __wrap_io_submit(io_context_t context, long count, struct iocb **iocbs);

int __wrap_fdatasync(int fd)
{
	seen.syncs++;
	seen.fd = fd;
	if (failures > 0 && failures--) {
		errno = failure;
		return -1;
	}
	return __real_fdatasync(fd);
}

ssize_t __wrap_pwritev64v2(int fd, const struct iovec *iov, int count, off64_t offset, int flags)
{
	seen.durable += flags == RWF_DSYNC;
	seen.fd = fd;
	return __real_pwritev64v2(fd, iov, count, offset, flags);
}

int __wrap_io_submit(io_context_t context, long count, struct iocb **iocbs)
{
	for (long i = 0; i < count; i++) {
		bool write = iocbs[i]->aio_lio_opcode == IO_CMD_PWRITEV;

		seen.syncs += iocbs[i]->aio_lio_opcode == IO_CMD_FDSYNC;
		seen.durable += write && iocbs[i]->aio_rw_flags == RWF_DSYNC;
		seen.plain += write && iocbs[i]->aio_rw_flags == 0;
	}
	return __real_io_submit(context, count, iocbs);
}

#ifdef HAVE_LIBURING
int __real_io_uring_submit(struct io_uring *ring);
int __wrap_io_uring_submit(struct io_uring *ring);

int __wrap_io_uring_submit(struct io_uring *ring)
{
	for (unsigned at = ring->sq.sqe_head; at != ring->sq.sqe_tail; at++) {
		const struct io_uring_sqe *sqe = &ring->sq.sqes[at & *ring->sq.kring_mask];
		bool write = sqe->opcode == IORING_OP_WRITEV;

		seen.syncs += sqe->opcode == IORING_OP_FSYNC && sqe->fsync_flags == IORING_FSYNC_DATASYNC &&
			      !sqe->off && !sqe->len;
		seen.durable += write && sqe->rw_flags == RWF_DSYNC;
		seen.plain += write && sqe->rw_flags == 0;
	}
	return __real_io_uring_submit(ring);
}
#endif

static void expect_seen(const char *what, unsigned syncs, unsigned durable, unsigned plain)
{
	cr_expect_eq(seen.syncs, syncs, "%s: %u syncs", what, seen.syncs);
	cr_expect_eq(seen.durable, durable, "%s: %u durable writes", what, seen.durable);
	cr_expect_eq(seen.plain, plain, "%s: %u plain queued writes", what, seen.plain);
	seen = (struct seen){ .fd = -1 };
}

/* ---- Blocking calls ---- */

static void check_blocking(struct device *device)
{
	unsigned char *buffer = bdev_buffer_alloc(LENGTH);
	struct iovec iov[2] = { { buffer, 4096 }, { buffer + 8192, 4096 } };
	int fd = bdev_file(device->dev)->fd;

	seen = (struct seen){ .fd = -1 };
	cr_assert_eq(bdev_flush(device->dev), 0);
	cr_expect_eq(seen.fd, fd);
	expect_seen("a flush", 1, 0, 0);
	cr_assert_eq(bdev_write(device->dev, buffer, LENGTH, 0, BDEV_FUA), 0);
	cr_expect_eq(seen.fd, fd);
	expect_seen("one piece", 0, 1, 0);
	cr_assert_eq(bdev_writev(device->dev, iov, 2, 4096, BDEV_FUA), 0);
	expect_seen("two pieces", 0, 1, 0);
	cr_assert_eq(bdev_write(device->dev, buffer, LENGTH, 0, 0), 0);
	cr_assert_eq(bdev_writev(device->dev, iov, 2, 4096, 0), 0);
	cr_assert_eq(bdev_read(device->dev, buffer, LENGTH, 0), 0);
	expect_seen("neither is asked for", 0, 0, 0);
	bdev_buffer_free(buffer, LENGTH);
}

Test(durable, blocking_sync)
{
	device_run("sync", check_blocking);
}
Test(durable, blocking_aio)
{
	device_run("aio", check_blocking);
}
Test(durable, blocking_uring)
{
	device_run("uring", check_blocking);
}

static void check_failing_flush(struct device *device)
{
	failures = 3;
	failure = EINTR;
	seen = (struct seen){ .fd = -1 };
	cr_expect_eq(bdev_flush(device->dev), 0);
	expect_seen("interrupted three times", 4, 0, 0);
	failures = 1;
	failure = EIO;
	cr_expect_eq(bdev_flush(device->dev), -EIO);
	expect_seen("an error is not tried again: the second answer would be a lie", 1, 0, 0);
}

Test(durable, flush_that_fails)
{
	device_run("sync", check_failing_flush);
}

/* ---- Queues ---- */

static void run(struct bdev_queue *queue, struct bdev_request request, const struct iovec *iov, int count)
{
	struct bdev_request *pointer = &request;

	request.iov = iov;
	request.iov_count = count;
	for (int i = 0; i < count; i++)
		request.length += iov[i].iov_len;
	cr_assert_eq(bdev_submit(queue, &pointer, 1), 1);
	cr_assert_eq(bdev_reap(queue, &pointer, 1, 1), 1);
	cr_assert_eq(request.result, 0);
}

/* A queue may have a form of its own for them, or use the blocking calls, whose plain writes are not counted. */
static void check_queue(struct device *device, unsigned plain)
{
	unsigned char *buffer = bdev_buffer_alloc(LENGTH);
	struct iovec iov[2] = { { buffer, 4096 }, { buffer + 8192, 4096 } };
	struct bdev_queue *queue;

	cr_assert_eq(bdev_queue_open(device->dev, 4, &queue), 0);
	seen = (struct seen){ .fd = -1 };
	run(queue, (struct bdev_request){ .op = BDEV_FLUSH }, NULL, 0);
	expect_seen("a flush", 1, 0, 0);
	run(queue, (struct bdev_request){ .op = BDEV_WRITE, .offset = 4096, .flags = BDEV_FUA }, iov, 2);
	expect_seen("two pieces", 0, 1, 0);
	run(queue, (struct bdev_request){ .op = BDEV_WRITE, .flags = BDEV_FUA }, iov, 1);
	expect_seen("one piece", 0, 1, 0);
	run(queue, (struct bdev_request){ .op = BDEV_WRITE }, iov, 2);
	expect_seen("a write that need not be durable", 0, 0, plain);
	run(queue, (struct bdev_request){ .op = BDEV_READ }, iov, 2);
	expect_seen("a read", 0, 0, 0);
	bdev_queue_close(queue);
	bdev_buffer_free(buffer, LENGTH);
}

static void check_emulated_queue(struct device *device)
{
	check_queue(device, 0);
}

static void check_kernel_queue(struct device *device)
{
	check_queue(device, 1);
}

Test(durable, queue_sync)
{
	device_run("sync", check_emulated_queue);
}
Test(durable, queue_aio)
{
	device_run("aio", check_kernel_queue);
}
Test(durable, queue_uring)
{
	device_run("uring", check_kernel_queue);
}

/* What the kernel left over of a durable write, or has refused to queue, must be durable as well. */
static void check_rest(struct device *device)
{
	unsigned char *buffer = bdev_buffer_alloc(LENGTH);
	struct iovec iov[2] = { { buffer, 4096 }, { buffer + 8192, 4096 } };
	struct bdev_request write = { .op = BDEV_WRITE, .flags = BDEV_FUA, .length = 8192, .iov = iov, .iov_count = 2 };
	struct bdev_request flush = { .op = BDEV_FLUSH };

	seen = (struct seen){ .fd = -1 };
	cr_expect_eq(bdev_file_finish(device->dev, &write, 4096), 0);
	expect_seen("the second half", 0, 1, 0);
	cr_expect_eq(bdev_file_finish(device->dev, &write, -EAGAIN), 0);
	expect_seen("a refused write", 0, 1, 0);
	cr_expect_eq(bdev_file_finish(device->dev, &flush, -EAGAIN), 0);
	expect_seen("a refused flush", 1, 0, 0);
	bdev_buffer_free(buffer, LENGTH);
}

Test(durable, what_the_kernel_left_over)
{
	device_run("aio", check_rest);
}
