/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A device that changes its size under us: errors at once, never a hang. */
#include "devices.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/loop.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#define HALF (DEVICE_SIZE / 2)

static int queued(struct bdev *dev, enum bdev_op op, void *buffer, size_t length, uint64_t offset)
{
	struct iovec iov = { buffer, length };
	struct bdev_request request = {
		.op = op,
		.offset = offset,
		.length = length,
		.iov = &iov,
		.iov_count = 1,
		.result = 1,
	};
	struct bdev_request *pointer = &request, *done;
	struct bdev_queue *queue;

	cr_assert_eq(bdev_queue_open(dev, 1, &queue), 0);
	cr_assert_eq(bdev_submit(queue, &pointer, 1), 1);
	cr_assert_eq(bdev_reap(queue, &done, 1, 1), 1);
	bdev_queue_close(queue);
	return request.result;
}

static void check_reads(struct device *device)
{
	unsigned char *buffer = bdev_buffer_alloc(65536);

	cr_expect_eq(bdev_read(device->dev, buffer, 4096, HALF), -EIO, "past the end");
	cr_expect_eq(bdev_read(device->dev, buffer, 65536, HALF - 32768), -EIO, "across the end");
	cr_expect_eq(queued(device->dev, BDEV_READ, buffer, 4096, HALF), -EIO);
	cr_expect_eq(queued(device->dev, BDEV_READ, buffer, 65536, HALF - 32768), -EIO);
	cr_expect_eq(bdev_read(device->dev, buffer, 4096, HALF - 4096), 0);
	bdev_buffer_free(buffer, 65536);
}

static void check_file(struct device *device)
{
	cr_assert_eq(truncate(device->path, HALF), 0);
	check_reads(device);
	cr_assert_eq(truncate(device->path, HALF + 100), 0);
	check_reads(device);
	cr_expect_eq(bdev_refresh_size(device->dev), 0);
	cr_expect_eq(bdev_geometry(device->dev)->size, HALF);
}

static void check_loop(struct device *device)
{
	unsigned char *buffer = bdev_buffer_alloc(65536);

	cr_assert_eq(truncate(device->path, HALF), 0);
	cr_assert_eq(ioctl(device->loop_fd, LOOP_SET_CAPACITY, 0), 0);
	check_reads(device);
	cr_expect_eq(bdev_write(device->dev, buffer, 4096, HALF, 0), -EIO, "not ENOSPC");
	cr_expect_eq(bdev_write(device->dev, buffer, 65536, HALF - 32768, 0), -EIO);
	cr_expect_eq(queued(device->dev, BDEV_WRITE, buffer, 4096, HALF), -EIO);
	cr_expect_eq(queued(device->dev, BDEV_WRITE, buffer, 65536, HALF - 32768), -EIO);
	cr_expect_lt(bdev_write_zeroes(device->dev, HALF, 4096), 0);
	cr_expect_lt(queued(device->dev, BDEV_WRITE_ZEROES, NULL, 4096, HALF), 0);
	cr_expect_lt(bdev_discard(device->dev, HALF, 65536), 0);
	cr_expect_eq(bdev_refresh_size(device->dev), 0);
	cr_expect_eq(bdev_geometry(device->dev)->size, HALF);
	cr_expect_eq(bdev_write(device->dev, buffer, 4096, HALF, 0), -EINVAL, "known now");
	bdev_buffer_free(buffer, 65536);
}

Test(shrink, file_sync)
{
	device_run("sync", check_file);
}
Test(shrink, file_aio)
{
	device_run("aio", check_file);
}
Test(shrink, file_uring)
{
	device_run("uring", check_file);
}
Test(shrink, loop_aio)
{
	device_run("loop_aio", check_loop);
}
Test(shrink, loop_uring)
{
	device_run("loop_uring", check_loop);
}
