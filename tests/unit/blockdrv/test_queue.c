/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Queues: the same behaviour from every driver. */
#include "devices.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <string.h>

#define DEPTH 32
#define PIECE 16384

struct batch {
	struct bdev_request requests[64];
	struct bdev_request *pointers[64];
	struct iovec iov[64];
	unsigned char *memory;
};

static void batch_init(struct batch *batch, enum bdev_op op, unsigned count)
{
	memset(batch, 0, sizeof(*batch));
	batch->memory = bdev_buffer_alloc((size_t)64 * PIECE);
	for (unsigned i = 0; i < count; i++) {
		batch->iov[i] = (struct iovec){ batch->memory + (size_t)i * PIECE, PIECE };
		batch->requests[i] = (struct bdev_request){
			.op = op,
			.offset = (uint64_t)i * PIECE,
			.length = PIECE,
			.iov = &batch->iov[i],
			.iov_count = 1,
			.result = 12345,
			.user = (void *)(uintptr_t)i,
		};
		if (op == BDEV_FLUSH)
			batch->requests[i].length = 0;
		batch->pointers[i] = &batch->requests[i];
	}
}

static void batch_free(struct batch *batch)
{
	bdev_buffer_free(batch->memory, (size_t)64 * PIECE);
}

/* Submit `count` and reap all; every request must come back once, with `result`. */
static void run_all(struct bdev_queue *queue, struct batch *batch, unsigned count, int result)
{
	bool seen[64] = { false };
	unsigned reaped = 0;

	cr_assert_eq(bdev_submit(queue, batch->pointers, count), (int)count);
	cr_assert_eq(bdev_queue_in_flight(queue), count);
	while (reaped < count) {
		struct bdev_request *done[64];
		int got = bdev_reap(queue, done, 1, 64);

		cr_assert_gt(got, 0);
		for (int i = 0; i < got; i++) {
			uintptr_t number = (uintptr_t)done[i]->user;

			cr_assert_eq(done[i], &batch->requests[number]);
			cr_assert_not(seen[number], "request %zu came twice", (size_t)number);
			seen[number] = true;
			cr_assert_eq(done[i]->result, result, "result %d", done[i]->result);
		}
		reaped += (unsigned)got;
	}
	cr_assert_eq(bdev_queue_in_flight(queue), 0);
}

DRIVER_TEST(queue, every_operation_completes)
{
	struct bdev_queue *queue;
	struct batch batch;

	cr_assert_eq(bdev_queue_open(device->dev, DEPTH, &queue), 0);
	batch_init(&batch, BDEV_WRITE, DEPTH);
	pattern_fill(batch.memory, (size_t)DEPTH * PIECE, 5);
	batch.requests[3].flags = BDEV_FUA;
	run_all(queue, &batch, DEPTH, 0);
	batch_free(&batch);

	batch_init(&batch, BDEV_FLUSH, 3);
	run_all(queue, &batch, 3, 0);
	batch_free(&batch);

	batch_init(&batch, BDEV_READ, DEPTH);
	run_all(queue, &batch, DEPTH, 0);
	cr_assert(pattern_matches(batch.memory, (size_t)DEPTH * PIECE, 5));
	batch_free(&batch);

	batch_init(&batch, BDEV_WRITE_ZEROES, 2);
	run_all(queue, &batch, 2, 0);
	batch_free(&batch);
	batch_init(&batch, BDEV_DISCARD, 4);
	run_all(queue, &batch, 4, 0);
	batch_free(&batch);

	batch_init(&batch, BDEV_READ, DEPTH);
	run_all(queue, &batch, DEPTH, 0);
	cr_assert(is_zero(batch.memory, 2 * PIECE));
	batch_free(&batch);
	bdev_queue_close(queue);
}

DRIVER_TEST(queue, full_queue_takes_the_rest_later)
{
	struct bdev_request *done[64];
	struct bdev_queue *queue;
	struct batch batch;

	cr_assert_eq(bdev_queue_open(device->dev, 8, &queue), 0);
	batch_init(&batch, BDEV_READ, 20);
	cr_assert_eq(bdev_submit(queue, batch.pointers, 20), 8);
	cr_assert_eq(bdev_submit(queue, batch.pointers + 8, 12), 0);
	cr_assert_eq(bdev_reap(queue, done, 3, 3), 3);
	cr_assert_eq(bdev_submit(queue, batch.pointers + 8, 12), 3);
	cr_assert_eq(bdev_reap(queue, done, 64, 64), 8, "min is at most what is in flight");
	cr_assert_eq(bdev_reap(queue, done, 1, 64), 0, "nothing in flight: no wait");
	bdev_queue_close(queue);
	batch_free(&batch);
}

DRIVER_TEST(queue, depth_is_concurrent)
{
	struct bdev_queue *queue;
	struct bdev_stats stats;
	struct batch batch;
	struct bdev *layer;

	cr_assert_eq(bdev_stats_open(device->dev, &layer), 0);
	device->dev = layer;
	cr_assert_eq(bdev_queue_open(layer, DEPTH, &queue), 0);
	batch_init(&batch, BDEV_READ, DEPTH);
	run_all(queue, &batch, DEPTH, 0);
	bdev_stats_get(layer, &stats);
	cr_assert_eq(stats.read.in_flight_max, DEPTH);
	cr_assert_eq(stats.read.requests, DEPTH);
	cr_assert_eq(stats.read.bytes, DEPTH * PIECE);
	bdev_queue_close(queue);
	batch_free(&batch);
}

DRIVER_TEST(queue, wrong_requests_end_the_batch)
{
	struct bdev_request *done[4];
	struct bdev_queue *queue;
	struct batch batch;

	cr_assert_eq(bdev_queue_open(device->dev, 4, &queue), 0);
	batch_init(&batch, BDEV_READ, 3);
	batch.requests[1].offset = 1;
	cr_assert_eq(bdev_submit(queue, batch.pointers, 3), 1);
	cr_assert_eq(bdev_submit(queue, batch.pointers + 1, 2), -EINVAL);
	batch.requests[1].offset = DEVICE_SIZE;
	cr_assert_eq(bdev_submit(queue, batch.pointers + 1, 2), -EINVAL);
	batch.requests[1].offset = 0;
	batch.requests[1].length = 512;
	cr_assert_eq(bdev_submit(queue, batch.pointers + 1, 2), -EINVAL, "length is not the vector's");
	batch.requests[2].flags = BDEV_FUA;
	cr_assert_eq(bdev_submit(queue, batch.pointers + 2, 1), -EINVAL, "FUA on a read");
	cr_assert_eq(bdev_reap(queue, done, 1, 4), 1);
	bdev_queue_close(queue);
	batch_free(&batch);
	cr_assert_eq(bdev_queue_open(device->dev, 100000, &queue), -EINVAL);
}

/* More requests than the queue takes at a time; then with wrong ones in the middle. */
DRIVER_TEST(queue, run_does_all_or_tells_where_it_ended)
{
	struct bdev_queue *queue;
	struct batch batch;

	cr_assert_eq(bdev_queue_open(device->dev, 8, &queue), 0);
	batch_init(&batch, BDEV_WRITE, 64);
	pattern_fill(batch.memory, 64 * PIECE, 7);
	cr_assert_eq(bdev_run(queue, batch.requests, 64), 0);
	for (unsigned i = 0; i < 64; i++)
		cr_assert_eq(batch.requests[i].result, 0);
	memset(batch.memory, 0, 64 * PIECE);
	cr_assert_eq(bdev_read(device->dev, batch.memory, 64 * PIECE, 0), 0);
	cr_assert(pattern_matches(batch.memory, 64 * PIECE, 7));
	batch.requests[20].offset = DEVICE_SIZE;
	cr_assert_eq(bdev_run(queue, batch.requests, 64), -EINVAL);
	for (unsigned i = 0; i < 64; i++)
		cr_assert_eq(batch.requests[i].result, i < 20 ? 0 : i == 20 ? -EINVAL : -EIO);
	cr_assert_eq(bdev_queue_in_flight(queue), 0);
	cr_assert_eq(bdev_run(queue, batch.requests + 20, 3), -EINVAL, "the first");
	cr_assert_eq(bdev_run(queue, batch.requests, 0), 0);
	bdev_queue_close(queue);
	batch_free(&batch);
}

DRIVER_TEST(queue, event_descriptor_tells)
{
	struct bdev_request *done[4];
	struct bdev_queue *queue;
	struct pollfd poll_fd = { .events = POLLIN };
	struct batch batch;
	int reaped = 0;

	cr_assert_eq(bdev_queue_open(device->dev, 4, &queue), 0);
	poll_fd.fd = bdev_queue_event_fd(queue);
	cr_assert_geq(poll_fd.fd, 0);
	cr_assert_eq(poll(&poll_fd, 1, 0), 0, "nothing was submitted");
	batch_init(&batch, BDEV_READ, 4);
	batch.requests[2].op = BDEV_WRITE_ZEROES;
	batch.requests[3].op = BDEV_FLUSH;
	cr_assert_eq(bdev_submit(queue, batch.pointers, 4), 4);
	while (reaped < 4) {
		int got;

		cr_assert_eq(poll(&poll_fd, 1, 5000), 1, "%d of 4 reaped and no event", reaped);
		bdev_queue_event_clear(queue);
		got = bdev_reap(queue, done, 0, 4);
		cr_assert_geq(got, 0);
		reaped += got;
	}
	bdev_queue_event_clear(queue);
	cr_assert_eq(poll(&poll_fd, 1, 0), 0, "cleared");
	bdev_queue_close(queue);
	batch_free(&batch);
}

DRIVER_TEST(queue, close_waits_for_what_is_in_flight)
{
	struct bdev_queue *queue;
	struct batch batch;

	cr_assert_eq(bdev_queue_open(device->dev, 0, &queue), 0);
	batch_init(&batch, BDEV_READ, 64);
	cr_assert_eq(bdev_submit(queue, batch.pointers, 64), 64);
	bdev_queue_close(queue);
	for (int i = 0; i < 64; i++)
		cr_assert_eq(batch.requests[i].result, 0);
	batch_free(&batch);
}

struct submitter {
	struct bdev_queue *queue;
	struct batch *batch;
	int accepted;
};

static void *submit_and_end(void *argument)
{
	struct submitter *submitter = argument;

	submitter->accepted = bdev_submit(submitter->queue, submitter->batch->pointers, DEPTH);
	return NULL;
}

DRIVER_TEST(queue, outlives_the_thread_that_submitted)
{
	struct submitter submitter;
	struct bdev_request *done[DEPTH];
	struct bdev_queue *queue;
	struct batch batch;
	pthread_t thread;

	cr_assert_eq(bdev_queue_open(device->dev, DEPTH, &queue), 0);
	batch_init(&batch, BDEV_WRITE, DEPTH);
	for (int i = 8; i < DEPTH; i += 8) {
		batch.requests[i].op = BDEV_FLUSH;
		batch.requests[i].length = 0;
	}
	submitter = (struct submitter){ queue, &batch, 0 };
	cr_assert_eq(pthread_create(&thread, NULL, submit_and_end, &submitter), 0);
	pthread_join(thread, NULL);
	cr_assert_eq(submitter.accepted, DEPTH);
	cr_assert_eq(bdev_reap(queue, done, DEPTH, DEPTH), DEPTH);
	for (int i = 0; i < DEPTH; i++)
		cr_assert_eq(batch.requests[i].result, 0, "request %d: %d", i, batch.requests[i].result);
	bdev_queue_close(queue);
	batch_free(&batch);
}

DRIVER_TEST(queue, two_queues_are_independent)
{
	struct bdev_queue *first, *second;
	struct bdev_request *done[4];
	struct batch batch;

	cr_assert_eq(bdev_queue_open(device->dev, 4, &first), 0);
	cr_assert_eq(bdev_queue_open(device->dev, 4, &second), 0);
	batch_init(&batch, BDEV_READ, 8);
	cr_assert_eq(bdev_submit(first, batch.pointers, 4), 4);
	cr_assert_eq(bdev_reap(second, done, 1, 4), 0);
	cr_assert_eq(bdev_submit(second, batch.pointers + 4, 4), 4);
	cr_assert_eq(bdev_reap(first, done, 4, 4), 4);
	cr_assert_lt((uintptr_t)done[0]->user, 4);
	bdev_queue_close(first);
	bdev_queue_close(second);
	batch_free(&batch);
}
