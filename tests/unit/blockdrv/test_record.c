/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The layer that records changes: order, data, and what is durable at a crash. */
#include "../../support/delay.h"
#include "../../support/fault.h"
#include "../../support/record.h"
#include "devices.h"

#include <errno.h>
#include <string.h>

static struct bdev *open_memory(void)
{
	struct bdev *dev;

	cr_assert_eq(bdev_open("mem:1M", NULL, &dev, NULL), 0);
	return dev;
}

static struct bdev *open_record(void)
{
	struct bdev *dev;

	cr_assert_eq(record_open(open_memory(), &dev), 0);
	return dev;
}

Test(record, copies_data_in_order)
{
	unsigned char *buffer = bdev_buffer_alloc(8192);
	struct iovec iov[2] = { { buffer + 4096, 4096 }, { buffer, 4096 } };
	struct bdev *dev = open_record();
	const struct record_entry *entry;

	memset(buffer, 1, 4096);
	memset(buffer + 4096, 2, 4096);
	cr_assert_eq(bdev_writev(dev, iov, 2, 4096, BDEV_FUA), 0);
	memset(buffer, 9, 8192);
	cr_assert_eq(bdev_read(dev, buffer, 4096, 0), 0);
	cr_assert_eq(bdev_discard(dev, 8192, 4096), 0);
	cr_assert_eq(bdev_write_zeroes(dev, 16384, 512), 0);
	cr_assert_eq(bdev_flush(dev), 0);
	cr_assert_eq(record_mark(dev, 42), 0);

	cr_assert_eq(record_count(dev), 5, "reads are not recorded");
	entry = record_get(dev, 0);
	cr_expect_eq(entry->kind, RECORD_WRITE);
	cr_expect_eq(entry->flags, BDEV_FUA);
	cr_expect_eq(entry->offset, 4096);
	cr_expect_eq(entry->length, 8192);
	cr_expect_eq(((unsigned char *)entry->data)[0], 2);
	cr_expect_eq(((unsigned char *)entry->data)[8191], 1);
	cr_expect_eq(record_get(dev, 1)->kind, RECORD_DISCARD);
	cr_expect_eq(record_get(dev, 2)->kind, RECORD_WRITE_ZEROES);
	cr_expect_eq(record_get(dev, 2)->offset, 16384);
	cr_expect_eq(record_get(dev, 3)->kind, RECORD_FLUSH);
	cr_expect_eq(record_get(dev, 4)->kind, RECORD_MARK);
	cr_expect_eq(record_get(dev, 4)->mark, 42);
	record_clear(dev);
	cr_expect_eq(record_count(dev), 0);
	bdev_close(dev);
	bdev_buffer_free(buffer, 8192);
}

Test(record, a_flush_makes_durable_what_completed_before)
{
	unsigned char *buffer = bdev_buffer_alloc(4096);
	struct bdev *dev = open_record();

	cr_assert_eq(bdev_write(dev, buffer, 4096, 0, 0), 0);           /* 0 */
	cr_assert_eq(bdev_write(dev, buffer, 4096, 4096, BDEV_FUA), 0); /* 1 */
	cr_assert_eq(bdev_flush(dev), 0);                               /* 2 */
	cr_assert_eq(bdev_write(dev, buffer, 4096, 8192, 0), 0);        /* 3 */
	cr_assert_eq(record_mark(dev, 0), 0);                           /* 4 */

	cr_expect_not(record_is_durable(dev, 0, 2), "no flush yet");
	cr_expect(record_is_durable(dev, 1, 3), "FUA, acknowledged");
	cr_expect_not(record_is_durable(dev, 1, 2), "FUA, still in flight at this cut");
	cr_expect_not(record_is_durable(dev, 0, 3), "the flush is still in flight");
	cr_expect(record_is_durable(dev, 0, 4));
	cr_expect_not(record_is_durable(dev, 3, 5), "after the flush");
	cr_expect_not(record_is_durable(dev, 2, 5), "a flush has no data");
	bdev_close(dev);
	bdev_buffer_free(buffer, 4096);
}

Test(record, a_failed_flush_makes_nothing_durable)
{
	struct fault_rule rule = { .ops = FAULT_OP(BDEV_FLUSH) };
	unsigned char *buffer = bdev_buffer_alloc(4096);
	struct bdev *fault, *dev;

	cr_assert_eq(fault_open(open_memory(), &fault), 0);
	cr_assert_eq(fault_add(fault, &rule), 0);
	cr_assert_eq(record_open(fault, &dev), 0);
	cr_assert_eq(bdev_write(dev, buffer, 4096, 0, 0), 0);
	cr_assert_eq(bdev_flush(dev), -EIO);
	cr_assert_eq(record_mark(dev, 0), 0);
	cr_expect_eq(record_get(dev, 1)->result, -EIO);
	cr_expect_not(record_is_durable(dev, 0, 3));
	bdev_close(dev);
	bdev_buffer_free(buffer, 4096);
}

/* A write that is in flight while a flush begins is not covered by it, whatever the order of issue. */
Test(record, a_flush_does_not_cover_what_is_in_flight)
{
	struct delay_rule slow = { .ops = DELAY_OP(BDEV_WRITE), .nanoseconds = 50000000 };
	unsigned char *buffer = bdev_buffer_alloc(4096);
	struct iovec iov = { buffer, 4096 };
	struct bdev_request write = { .op = BDEV_WRITE, .length = 4096, .iov = &iov, .iov_count = 1 };
	struct bdev_request flush = { .op = BDEV_FLUSH };
	struct bdev_request *pointers[2] = { &write, &flush }, *done[2];
	struct bdev *delay, *dev;
	struct bdev_queue *queue;

	cr_assert_eq(delay_open(open_memory(), &delay), 0);
	delay_set(delay, &slow);
	cr_assert_eq(record_open(delay, &dev), 0);
	cr_assert_eq(bdev_queue_open(dev, 4, &queue), 0);
	memset(buffer, 7, 4096);
	cr_assert_eq(bdev_submit(queue, pointers, 2), 2);
	memset(buffer, 8, 4096); /* the record took its copy at submit */
	cr_assert_eq(record_count(dev), 2);
	cr_assert_eq(record_get(dev, 0)->completed_at, RECORD_IN_FLIGHT);
	cr_assert_eq(bdev_reap(queue, done, 1, 2), 1);
	cr_assert_eq(done[0], &flush);
	cr_assert_eq(record_mark(dev, 1), 0);
	cr_assert_eq(bdev_reap(queue, done, 1, 2), 1);
	cr_assert_eq(record_mark(dev, 2), 0);
	cr_expect_eq(((unsigned char *)record_get(dev, 0)->data)[0], 7);
	cr_expect_not(record_is_durable(dev, 0, 4));
	cr_assert_eq(bdev_flush(dev), 0);
	cr_assert_eq(record_mark(dev, 3), 0);
	cr_expect(record_is_durable(dev, 0, record_count(dev)));
	bdev_queue_close(queue);
	bdev_close(dev);
	bdev_buffer_free(buffer, 4096);
}

/* Applying the whole log to a copy of the base image gives the device's content. */
DRIVER_TEST(record, replay_gives_the_same_image)
{
	size_t size = 1 << 20;
	unsigned char *buffer = bdev_buffer_alloc(size), *other = bdev_buffer_alloc(size);
	struct bdev *target = open_memory(), *dev;

	cr_assert_eq(record_open(device->dev, &dev), 0);
	device->dev = dev;
	for (unsigned i = 0; i < 40; i++) {
		uint64_t offset = (uint64_t)(i * 37 % 240) * 4096;

		pattern_fill(buffer, 16384, i);
		cr_assert_eq(bdev_write(dev, buffer, 16384, offset, 0), 0);
		if (i % 7 == 0)
			cr_assert_eq(bdev_write_zeroes(dev, offset + 4096, 4096), 0);
		if (i % 5 == 0)
			cr_assert_eq(bdev_flush(dev), 0);
	}
	for (size_t i = 0; i < record_count(dev); i++)
		cr_assert_eq(record_apply(record_get(dev, i), target), 0);
	cr_assert_eq(bdev_read(dev, buffer, size, 0), 0);
	cr_assert_eq(bdev_read(target, other, size, 0), 0);
	cr_expect_eq(memcmp(buffer, other, size), 0);
	bdev_close(target);
	bdev_buffer_free(buffer, size);
	bdev_buffer_free(other, size);
}

Test(record, torn_entries)
{
	unsigned char *buffer = bdev_buffer_alloc(8192);
	struct bdev *target = open_memory(), *dev = open_record();

	memset(buffer, 5, 8192);
	cr_assert_eq(bdev_write(dev, buffer, 8192, 4096, 0), 0);
	cr_assert_eq(record_apply_part(record_get(dev, 0), target, 512, 1024), 0);
	cr_assert_eq(bdev_read(target, buffer, 8192, 4096), 0);
	cr_expect(is_zero(buffer, 512));
	cr_expect_eq(buffer[512], 5);
	cr_expect_eq(buffer[1535], 5);
	cr_expect(is_zero(buffer + 1536, 8192 - 1536));
	bdev_close(target);
	bdev_close(dev);
	bdev_buffer_free(buffer, 8192);
}
