/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The layer that makes requests slow. */
#include "../../support/delay.h"
#include "devices.h"

#include <errno.h>
#include <poll.h>
#include <time.h>

static uint64_t now_ms(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

#define DELAY_MS 200

DRIVER_TEST(delay, others_overtake)
{
	struct delay_rule rule = { .offset = 4096, .length = 4096, .count = 1, .nanoseconds = DELAY_HELD };
	unsigned char *buffer = bdev_buffer_alloc(8 * 4096);
	struct bdev_request requests[8], *pointers[8], *done[8];
	struct bdev_queue *queue;
	struct iovec iov[8];
	struct bdev *dev;
	uint64_t start;

	cr_assert_eq(delay_open(device->dev, &dev), 0);
	device->dev = dev;
	delay_set(dev, &rule);
	cr_assert_eq(bdev_queue_open(dev, 8, &queue), 0);
	for (int i = 0; i < 8; i++) {
		iov[i] = (struct iovec){ buffer + i * 4096, 4096 };
		requests[i] = (struct bdev_request){
			.op = BDEV_WRITE,
			.offset = (uint64_t)i * 4096,
			.length = 4096,
			.iov = &iov[i],
			.iov_count = 1,
		};
		pointers[i] = &requests[i];
	}
	cr_assert_eq(bdev_submit(queue, pointers, 8), 8);
	cr_assert_eq(bdev_reap(queue, done, 7, 8), 7);
	for (int i = 0; i < 7; i++)
		cr_expect_neq(done[i], &requests[1]);
	cr_assert_eq(bdev_queue_in_flight(queue), 1);
	delay_release(dev);
	cr_assert_eq(bdev_reap(queue, done, 1, 8), 1);
	cr_expect_eq(done[0], &requests[1]);
	cr_expect_eq(requests[1].result, 0);
	rule.nanoseconds = DELAY_MS * 1000000ull;
	delay_set(dev, &rule);
	start = now_ms();
	cr_assert_eq(bdev_submit(queue, &pointers[1], 1), 1);
	cr_assert_eq(bdev_reap(queue, done, 1, 8), 1);
	cr_expect_geq(now_ms() - start, DELAY_MS);
	bdev_queue_close(queue);
	bdev_buffer_free(buffer, 8 * 4096);
}

Test(delay, event_descriptor_fires_when_it_is_due)
{
	struct delay_rule rule = { .nanoseconds = 50000000 };
	struct bdev_request request = { .op = BDEV_FLUSH }, *pointer = &request, *done;
	struct pollfd poll_fd = { .events = POLLIN };
	struct bdev *lower, *dev;
	struct bdev_queue *queue;
	uint64_t start = now_ms();
	int got = 0;

	cr_assert_eq(bdev_open("mem:1M", NULL, &lower, NULL), 0);
	cr_assert_eq(delay_open(lower, &dev), 0);
	delay_set(dev, &rule);
	cr_assert_eq(bdev_queue_open(dev, 4, &queue), 0);
	poll_fd.fd = bdev_queue_event_fd(queue);
	cr_assert_eq(bdev_submit(queue, &pointer, 1), 1);
	for (int i = 0; i < 100 && !got; i++) {
		cr_assert_eq(poll(&poll_fd, 1, 5000), 1);
		bdev_queue_event_clear(queue);
		got = bdev_reap(queue, &done, 0, 1);
	}
	cr_expect_eq(got, 1);
	cr_expect_geq(now_ms() - start, 50);
	bdev_queue_close(queue);
	bdev_close(dev);
}

Test(delay, blocking_calls_and_no_rule)
{
	struct delay_rule rule = { .ops = DELAY_OP(BDEV_FLUSH), .nanoseconds = 50000000 };
	struct bdev *lower, *dev;
	uint64_t start = now_ms();

	cr_assert_eq(bdev_open("mem:1M", NULL, &lower, NULL), 0);
	cr_assert_eq(delay_open(lower, &dev), 0);
	delay_set(dev, &rule);
	cr_assert_eq(bdev_flush(dev), 0);
	cr_expect_geq(now_ms() - start, 50);
	rule.nanoseconds = 3600ull * 1000000000;
	delay_set(dev, &rule);
	cr_assert_eq(bdev_write_zeroes(dev, 0, 4096), 0, "another kind");
	delay_set(dev, NULL);
	cr_assert_eq(bdev_flush(dev), 0);
	cr_expect_lt(now_ms() - start, 10000);
	bdev_close(dev);
}
