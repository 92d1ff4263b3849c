/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* io_uring: what the kernel does not take at once is neither lost nor waited for without end. */
#include "devices.h"

#include <errno.h>
#include <liburing.h>
#include <poll.h>
#include <string.h>

#define COUNT 4
#define PIECE 4096

/* So many calls are refused, with this error. */
static int refusals, refusal;

int __real_io_uring_submit(struct io_uring *ring);
int __real_io_uring_submit_and_wait(struct io_uring *ring, unsigned wait_for);
int __wrap_io_uring_submit(struct io_uring *ring);
int __wrap_io_uring_submit_and_wait(struct io_uring *ring, unsigned wait_for);

int __wrap_io_uring_submit(struct io_uring *ring)
{
	return refusals > 0 && refusals-- ? refusal : __real_io_uring_submit(ring);
}

int __wrap_io_uring_submit_and_wait(struct io_uring *ring, unsigned wait_for)
{
	return refusals > 0 && refusals-- ? refusal : __real_io_uring_submit_and_wait(ring, wait_for);
}

struct reads {
	struct bdev_request requests[COUNT], *pointers[COUNT];
	struct iovec iov[COUNT];
	unsigned char *memory;
};

static void reads_init(struct reads *reads)
{
	memset(reads, 0, sizeof(*reads));
	reads->memory = bdev_buffer_alloc(COUNT * PIECE);
	for (unsigned i = 0; i < COUNT; i++) {
		reads->iov[i] = (struct iovec){ reads->memory + i * PIECE, PIECE };
		reads->requests[i] = (struct bdev_request){
			.op = BDEV_READ,
			.offset = i * PIECE,
			.length = PIECE,
			.iov = &reads->iov[i],
			.iov_count = 1,
		};
		reads->pointers[i] = &reads->requests[i];
	}
}

/* As the front end does: wait for the event, clear it, take what is there. */
static void reap_by_event(struct bdev_queue *queue)
{
	struct pollfd event = { .fd = bdev_queue_event_fd(queue), .events = POLLIN };
	struct bdev_request *done[COUNT];
	int reaped = 0;

	while (reaped < COUNT) {
		int got;

		cr_assert_eq(poll(&event, 1, 5000), 1, "%d of %d reaped and no event", reaped, COUNT);
		bdev_queue_event_clear(queue);
		got = bdev_reap(queue, done, 0, COUNT);
		cr_assert_geq(got, 0);
		reaped += got;
	}
}

static void reap_waiting(struct bdev_queue *queue)
{
	struct bdev_request *done[COUNT];

	cr_assert_eq(bdev_reap(queue, done, COUNT, COUNT), COUNT);
}

static void check(int error, int times, bool by_event)
{
	struct bdev_queue *queue;
	struct device device;
	struct reads reads;

	device_open(&device, "uring", NULL);
	cr_assert_eq(bdev_queue_open(device.dev, COUNT, &queue), 0);
	if (by_event)
		cr_assert_geq(bdev_queue_event_fd(queue), 0);
	reads_init(&reads);
	refusal = error;
	refusals = times;
	cr_assert_eq(bdev_submit(queue, reads.pointers, COUNT), COUNT);
	(by_event ? reap_by_event : reap_waiting)(queue);
	cr_assert_eq(refusals, 0);
	for (unsigned i = 0; i < COUNT; i++)
		cr_assert_eq(reads.requests[i].result, 0);
	bdev_queue_close(queue);
	bdev_buffer_free(reads.memory, COUNT * PIECE);
	device_close(&device);
}

Test(uring, a_refused_submit_wakes_who_waits_for_the_event)
{
	check(-EAGAIN, 1, true);
	check(-EBUSY, 1, true);
	check(-ENOMEM, 1, true);
}

Test(uring, so_does_a_reap_that_is_refused)
{
	check(-EAGAIN, 5, true);
}

Test(uring, who_waits_in_reap_gets_all)
{
	check(-EAGAIN, 3, false);
	check(-ENOMEM, 3, false);
}
