/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The statistics layer. */
#include "../../support/delay.h"
#include "../../support/fault.h"
#include "devices.h"

#include <errno.h>

static uint64_t histogram_sum(const struct bdev_stats_kind *kind)
{
	uint64_t sum = 0;

	for (int i = 0; i < 40; i++)
		sum += kind->latency_histogram[i];
	return sum;
}

static struct bdev *open_memory(void)
{
	struct bdev *dev;

	cr_assert_eq(bdev_open("mem:1M", NULL, &dev, NULL), 0);
	return dev;
}

Test(stats, counts_each_kind)
{
	unsigned char *buffer = bdev_buffer_alloc(8192);
	struct bdev_stats stats;
	struct bdev *dev;

	cr_assert_eq(bdev_stats_open(open_memory(), &dev), 0);
	for (int i = 0; i < 3; i++)
		cr_assert_eq(bdev_write(dev, buffer, 8192, 0, 0), 0);
	cr_assert_eq(bdev_read(dev, buffer, 4096, 0), 0);
	cr_assert_eq(bdev_flush(dev), 0);
	cr_assert_eq(bdev_discard(dev, 0, 4096), 0);
	cr_assert_eq(bdev_write_zeroes(dev, 0, 12288), 0);
	bdev_stats_get(dev, &stats);
	cr_expect_eq(stats.write.requests, 3);
	cr_expect_eq(stats.write.bytes, 3 * 8192);
	cr_expect_eq(stats.write.in_flight_max, 1);
	cr_expect_eq(histogram_sum(&stats.write), 3);
	cr_expect_eq(stats.read.requests, 1);
	cr_expect_eq(stats.read.bytes, 4096);
	cr_expect_eq(stats.flush.requests, 1);
	cr_expect_eq(stats.flush.bytes, 0);
	cr_expect_eq(stats.discard.bytes, 4096);
	cr_expect_eq(stats.write_zeroes.bytes, 12288);
	cr_expect_eq(stats.write.errors, 0);
	bdev_stats_reset(dev);
	bdev_stats_get(dev, &stats);
	cr_expect_eq(stats.write.requests + stats.read.requests + stats.flush.requests, 0);
	cr_expect_eq(histogram_sum(&stats.write), 0);
	bdev_close(dev);
	bdev_buffer_free(buffer, 8192);
}

Test(stats, sees_errors_and_latency)
{
	struct fault_rule rule = { .ops = FAULT_OP(BDEV_READ), .count = 1 };
	struct delay_rule slow = { .ops = DELAY_OP(BDEV_WRITE), .nanoseconds = 20000000 };
	unsigned char *buffer = bdev_buffer_alloc(4096);
	struct bdev *fault, *delay, *dev;
	struct bdev_stats stats;

	cr_assert_eq(fault_open(open_memory(), &fault), 0);
	cr_assert_eq(delay_open(fault, &delay), 0);
	cr_assert_eq(bdev_stats_open(delay, &dev), 0);
	fault_add(fault, &rule);
	delay_set(delay, &slow);
	cr_assert_eq(bdev_read(dev, buffer, 4096, 0), -EIO);
	cr_assert_eq(bdev_write(dev, buffer, 4096, 0, 0), 0);
	bdev_stats_get(dev, &stats);
	cr_expect_eq(stats.read.requests, 1);
	cr_expect_eq(stats.read.errors, 1);
	cr_expect_eq(stats.read.bytes, 0);
	cr_expect_geq(stats.write.latency_max_ns, 20000000);
	cr_expect_geq(stats.write.latency_total_ns, stats.write.latency_max_ns);
	for (int i = 0; i < 24; i++) /* 2^24 ns are 16.8 ms */
		cr_expect_eq(stats.write.latency_histogram[i], 0);
	bdev_close(dev);
	bdev_buffer_free(buffer, 4096);
}
