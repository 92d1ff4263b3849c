/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The trace layer. */
#include "devices.h"

#include <errno.h>

struct log {
	struct bdev_trace_event events[16];
	unsigned count;
};

static void sink(void *context, const struct bdev_trace_event *event)
{
	struct log *log = context;

	cr_assert_lt(log->count, 16);
	log->events[log->count++] = *event;
}

DRIVER_TEST(trace, tells_about_each_request)
{
	unsigned char *buffer = bdev_buffer_alloc(4096);
	struct iovec iov = { buffer, 4096 };
	struct bdev_request request = { .op = BDEV_READ, .offset = 8192, .length = 4096, .iov = &iov, .iov_count = 1 };
	struct bdev_request *pointer = &request, *done;
	struct bdev_queue *queue;
	struct log log = { .count = 0 };
	struct bdev *dev;

	cr_assert_eq(bdev_trace_open(device->dev, sink, &log, &dev), 0);
	device->dev = dev;
	cr_assert_eq(bdev_write(dev, buffer, 4096, 4096, BDEV_FUA), 0);
	cr_assert_eq(bdev_flush(dev), 0);
	cr_assert_eq(bdev_queue_open(dev, 4, &queue), 0);
	cr_assert_eq(bdev_submit(queue, &pointer, 1), 1);
	cr_assert_eq(bdev_reap(queue, &done, 1, 1), 1);
	cr_assert_eq(done, &request);
	bdev_queue_close(queue);

	cr_assert_eq(log.count, 3);
	cr_expect_eq(log.events[0].op, BDEV_WRITE);
	cr_expect_eq(log.events[0].flags, BDEV_FUA);
	cr_expect_eq(log.events[0].offset, 4096);
	cr_expect_eq(log.events[0].length, 4096);
	cr_expect_eq(log.events[1].op, BDEV_FLUSH);
	cr_expect_eq(log.events[2].op, BDEV_READ);
	cr_expect_eq(log.events[2].offset, 8192);
	for (int i = 0; i < 3; i++) {
		cr_expect_leq(log.events[i].start_ns, log.events[i].end_ns);
		cr_expect_eq(log.events[i].result, 0);
	}
	bdev_buffer_free(buffer, 4096);
}
