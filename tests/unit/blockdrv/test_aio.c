/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Linux AIO where the kernel has no context left: fs.aio-max-nr is of the whole machine, others use it up. */
#include "devices.h"

#include <errno.h>
#include <libaio.h>
#include <poll.h>
#include <string.h>

static int setup_error;

int __real_io_setup(int depth, io_context_t *context);
int __wrap_io_setup(int depth, io_context_t *context);

int __wrap_io_setup(int depth, io_context_t *context)
{
	return setup_error ? setup_error : __real_io_setup(depth, context);
}

/* One request, waited for by the event. */
static void run(struct bdev_queue *queue, enum bdev_op op, void *memory)
{
	struct pollfd event = { .fd = bdev_queue_event_fd(queue), .events = POLLIN };
	struct iovec iov = { memory, 4096 };
	struct bdev_request request = { .op = op, .offset = 8192, .iov = &iov, .iov_count = 1 }, *done = &request;

	request.length = op == BDEV_FLUSH ? 0 : 4096;
	cr_assert_eq(bdev_submit(queue, &done, 1), 1);
	cr_assert_eq(poll(&event, 1, 5000), 1);
	bdev_queue_event_clear(queue);
	cr_assert_eq(bdev_reap(queue, &done, 0, 1), 1);
	cr_assert_eq(done, &request);
	cr_assert_eq(request.result, 0);
	cr_assert_eq(bdev_reap(queue, &done, 1, 1), 0, "nothing is left");
}

static void check_without_context(int error)
{
	unsigned char *memory = bdev_buffer_alloc(4096);
	struct bdev_queue *queue;
	struct device device;

	device_open(&device, "aio", NULL);
	setup_error = error;
	cr_assert_eq(bdev_queue_open(device.dev, 8, &queue), 0);
	cr_assert_geq(bdev_queue_event_fd(queue), 0);
	pattern_fill(memory, 4096, 3);
	run(queue, BDEV_WRITE, memory);
	run(queue, BDEV_FLUSH, memory);
	memset(memory, 0, 4096);
	run(queue, BDEV_READ, memory);
	cr_assert(pattern_matches(memory, 4096, 3));
	bdev_queue_close(queue);
	bdev_buffer_free(memory, 4096);
	device_close(&device);
}

Test(aio, without_a_context_requests_are_executed_at_submit)
{
	check_without_context(-EAGAIN);
	check_without_context(-ENOSYS);
}

Test(aio, other_errors_are_told)
{
	struct bdev_queue *queue;
	struct device device;

	device_open(&device, "aio", NULL);
	setup_error = -ENOMEM;
	cr_assert_eq(bdev_queue_open(device.dev, 8, &queue), -ENOMEM);
	device_close(&device);
}
