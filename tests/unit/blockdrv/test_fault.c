/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The layer that makes requests fail. */
#include "../../support/fault.h"
#include "devices.h"

#include <errno.h>
#include <poll.h>
#include <string.h>

struct setup {
	struct bdev *dev;
	unsigned char *buffer;
};

static struct setup set_up(const struct fault_rule *rule)
{
	struct setup setup = { .buffer = bdev_buffer_alloc(65536) };
	struct bdev *lower;

	cr_assert_eq(bdev_open("mem:1M", NULL, &lower, NULL), 0);
	cr_assert_eq(fault_open(lower, &setup.dev), 0);
	cr_assert_eq(fault_add(setup.dev, rule), 0);
	return setup;
}

static void tear_down(struct setup *setup)
{
	bdev_close(setup->dev);
	bdev_buffer_free(setup->buffer, 65536);
}

Test(fault, nth_of_a_kind)
{
	struct setup s = set_up(&(struct fault_rule){ .ops = FAULT_OP(BDEV_WRITE), .skip = 1, .count = 2 });

	cr_expect_eq(bdev_write(s.dev, s.buffer, 4096, 0, 0), 0);
	cr_expect_eq(bdev_read(s.dev, s.buffer, 4096, 0), 0);
	cr_expect_eq(bdev_write(s.dev, s.buffer, 4096, 0, 0), -EIO);
	cr_expect_eq(bdev_write(s.dev, s.buffer, 4096, 0, 0), -EIO);
	cr_expect_eq(bdev_write(s.dev, s.buffer, 4096, 0, 0), 0);
	cr_expect_eq(fault_hits(s.dev), 2);
	tear_down(&s);
}

Test(fault, range_and_error)
{
	struct setup s = set_up(&(struct fault_rule){ .offset = 8192, .length = 4096, .error = -ENOSPC });

	cr_expect_eq(bdev_write(s.dev, s.buffer, 8192, 0, 0), 0);
	cr_expect_eq(bdev_write(s.dev, s.buffer, 4096, 12288, 0), 0);
	cr_expect_eq(bdev_write(s.dev, s.buffer, 8192, 4096, 0), -ENOSPC);
	cr_expect_eq(bdev_read(s.dev, s.buffer, 512, 12288 - 512), -ENOSPC);
	cr_expect_eq(bdev_discard(s.dev, 0, 65536), -ENOSPC);
	fault_clear(s.dev);
	cr_expect_eq(bdev_read(s.dev, s.buffer, 512, 12288 - 512), 0);
	tear_down(&s);
}

Test(fault, failed_writes_change_nothing_and_short_ones_a_part)
{
	struct setup s = set_up(&(struct fault_rule){
		.ops = FAULT_OP(BDEV_WRITE), .count = 1, .short_transfer = true, .short_bytes = 5000 });

	memset(s.buffer, 0xee, 16384);
	cr_expect_eq(bdev_write(s.dev, s.buffer, 16384, 0, 0), -EIO);
	cr_expect_eq(bdev_read(s.dev, s.buffer, 16384, 0), 0);
	cr_expect_eq(s.buffer[4607], 0xee);
	cr_expect(is_zero(s.buffer + 4608, 16384 - 4608), "5000 rounded down to 512");
	fault_clear(s.dev);
	fault_add(s.dev, &(struct fault_rule){ .ops = FAULT_OP(BDEV_WRITE) });
	memset(s.buffer, 0xdd, 4096);
	cr_expect_eq(bdev_write(s.dev, s.buffer, 4096, 32768, 0), -EIO);
	cr_expect_eq(bdev_read(s.dev, s.buffer, 4096, 32768), 0);
	cr_expect(is_zero(s.buffer, 4096));
	tear_down(&s);
}

Test(fault, sticky_is_a_device_that_is_gone)
{
	struct setup s = set_up(&(struct fault_rule){ .ops = FAULT_OP(BDEV_FLUSH), .error = -ENODEV, .sticky = true });

	cr_expect_eq(bdev_read(s.dev, s.buffer, 4096, 0), 0);
	cr_expect_eq(bdev_flush(s.dev), -ENODEV);
	cr_expect_eq(bdev_read(s.dev, s.buffer, 4096, 0), -ENODEV);
	cr_expect_eq(bdev_write_zeroes(s.dev, 0, 4096), -ENODEV);
	fault_clear(s.dev);
	cr_expect_eq(bdev_read(s.dev, s.buffer, 4096, 0), 0);
	tear_down(&s);
}

DRIVER_TEST(fault, in_a_queue_hits_one_of_many)
{
	struct fault_rule rule = { .ops = FAULT_OP(BDEV_READ), .offset = 5 * 4096, .length = 4096 };
	unsigned char *buffer = bdev_buffer_alloc(65536);
	struct bdev_request requests[16], *pointers[16], *done[16];
	struct pollfd poll_fd = { .events = POLLIN };
	struct bdev_queue *queue;
	struct iovec iov[16];
	struct bdev *dev;
	int reaped = 0;

	cr_assert_eq(fault_open(device->dev, &dev), 0);
	device->dev = dev;
	cr_assert_eq(fault_add(dev, &rule), 0);
	cr_assert_eq(bdev_queue_open(dev, 16, &queue), 0);
	poll_fd.fd = bdev_queue_event_fd(queue);
	cr_assert_geq(poll_fd.fd, 0);
	for (int i = 0; i < 16; i++) {
		iov[i] = (struct iovec){ buffer + i * 4096, 4096 };
		requests[i] = (struct bdev_request){
			.op = BDEV_READ,
			.offset = (uint64_t)i * 4096,
			.length = 4096,
			.iov = &iov[i],
			.iov_count = 1,
		};
		pointers[i] = &requests[i];
	}
	cr_assert_eq(bdev_submit(queue, pointers, 16), 16);
	while (reaped < 16) {
		int got;

		cr_assert_eq(poll(&poll_fd, 1, 5000), 1);
		bdev_queue_event_clear(queue);
		got = bdev_reap(queue, done, 0, 16);
		cr_assert_geq(got, 0);
		reaped += got;
	}
	for (int i = 0; i < 16; i++)
		cr_expect_eq(requests[i].result, i == 5 ? -EIO : 0, "request %d: %d", i, requests[i].result);
	cr_expect_eq(fault_hits(dev), 1);
	bdev_queue_close(queue);
	bdev_buffer_free(buffer, 65536);
}
