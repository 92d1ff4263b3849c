/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* How answers of the kernel to queued requests become results (blockdrv/file.h). */
#include "../../../blockdrv/file.h"
#include "devices.h"

#include <errno.h>
#include <string.h>

static struct bdev_request request_for(enum bdev_op op, struct iovec *iov, int count, uint64_t offset)
{
	struct bdev_request request = { .op = op, .offset = offset, .iov = iov, .iov_count = count };

	for (int i = 0; i < count; i++)
		request.length += iov[i].iov_len;
	return request;
}

static void check_short_answers(struct device *device)
{
	size_t length = 40 * 4096;
	unsigned char *buffer = bdev_buffer_alloc(length);
	struct bdev_request request;
	struct iovec iov[20];

	pattern_fill(buffer, length, 1);
	cr_assert_eq(bdev_write(device->dev, buffer, length, 0, 0), 0);
	for (int i = 0; i < 20; i++)
		iov[i] = (struct iovec){ buffer + (size_t)i * 8192, 8192 };
	for (int64_t done = 0; done <= (int64_t)length; done += 4096) {
		memset(buffer + done, 0, length - (size_t)done); /* what the kernel did not transfer */
		request = request_for(BDEV_READ, iov, 20, 0);
		cr_assert_eq(bdev_file_finish(device->dev, &request, done), 0);
		cr_assert(pattern_matches(buffer, length, 1), "continued after %d bytes", (int)done);
	}
	bdev_buffer_free(buffer, length);
}

static void check_passing_errors(struct device *device)
{
	static const int passing[] = { -EINTR, -EAGAIN, -ECANCELED, -EOPNOTSUPP, -EINVAL };
	unsigned char *buffer = bdev_buffer_alloc(4096);
	struct iovec iov = { buffer, 4096 };

	for (unsigned i = 0; i < sizeof(passing) / sizeof(passing[0]); i++) {
		struct bdev_request write = request_for(BDEV_WRITE, &iov, 1, 8192);
		struct bdev_request flush = { .op = BDEV_FLUSH };

		pattern_fill(buffer, 4096, i);
		cr_expect_eq(bdev_file_finish(device->dev, &write, passing[i]), 0, "%d", passing[i]);
		memset(buffer, 0, 4096);
		cr_expect_eq(bdev_read(device->dev, buffer, 4096, 8192), 0);
		cr_expect(pattern_matches(buffer, 4096, i), "%d: was not repeated", passing[i]);
		cr_expect_eq(bdev_file_finish(device->dev, &flush, passing[i]), 0);
	}
	bdev_buffer_free(buffer, 4096);
}

static void check_real_errors(struct device *device)
{
	unsigned char *buffer = bdev_buffer_alloc(4096);
	struct iovec iov = { buffer, 4096 };
	struct bdev_request request = request_for(BDEV_WRITE, &iov, 1, 0);

	cr_expect_eq(bdev_file_finish(device->dev, &request, -EIO), -EIO);
	cr_expect_eq(bdev_file_finish(device->dev, &request, -ENODEV), -ENODEV);
	cr_expect_eq(bdev_file_finish(device->dev, &request, -ENXIO), -ENODEV);
	cr_expect_eq(bdev_file_finish(device->dev, &request, -ENOSPC), -ENOSPC, "inside the device it is real");
	bdev_buffer_free(buffer, 4096);
}

Test(file, short_answers_are_continued)
{
	device_run("sync", check_short_answers);
}
Test(file, short_answers_are_continued_loop)
{
	device_run("loop_aio", check_short_answers);
}
Test(file, passing_errors_are_repeated)
{
	device_run("sync", check_passing_errors);
}
Test(file, passing_errors_are_repeated_loop)
{
	device_run("loop_aio", check_passing_errors);
}
Test(file, real_errors_are_passed_on)
{
	device_run("sync", check_real_errors);
}
Test(file, real_errors_are_passed_on_loop)
{
	device_run("loop_aio", check_real_errors);
}
