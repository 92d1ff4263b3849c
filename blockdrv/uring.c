/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * io_uring: "uring:PATH". The only file that includes liburing; not built without it.
 *
 * Concept: a queue is one ring with the device as its registered file 0. Everything but the discard
 * of a block device goes through the ring; that one has no such operation in the kernels that we
 * support and is executed at submit.
 *
 * Rules: no ring flag that ties the ring to one thread (SINGLE_ISSUER, COOP_TASKRUN): a queue may be
 * handed from thread to thread. The kernel cancels queued work of a thread that ends;
 * bdev_file_finish() repeats such requests.
 *
 * Locking: none; a queue belongs to one thread at a time.
 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE /* RWF_DSYNC */
#endif
#include "done.h"
#include "file.h"

#include <errno.h>
#include <fcntl.h>
#include <liburing.h>
#include <linux/falloc.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/uio.h>

#define URING_BATCH 64

struct uring_queue {
	struct bdev_queue queue;
	struct io_uring ring;
	struct bdev_done done;
	bool event_registered;
};

static struct uring_queue *uring_queue(struct bdev_queue *base)
{
	return (struct uring_queue *)base;
}

/* ---- Open and close. ---- */

static int uring_queue_open(struct bdev *dev, unsigned depth, struct bdev_queue **out)
{
	struct uring_queue *queue = calloc(1, sizeof(*queue));
	int result;

	if (!queue)
		return -ENOMEM;
	result = bdev_done_init(&queue->done, depth);
	if (result)
		goto free_queue;
	result = io_uring_queue_init(depth, &queue->ring, 0);
	if (result)
		goto free_done;
	result = io_uring_register_files(&queue->ring, &bdev_file(dev)->fd, 1);
	if (result)
		goto exit_ring;
	*out = &queue->queue;
	return 0;

exit_ring:
	io_uring_queue_exit(&queue->ring);
free_done:
	bdev_done_free(&queue->done);
free_queue:
	free(queue);
	return result;
}

static void uring_queue_close(struct bdev_queue *base)
{
	struct uring_queue *queue = uring_queue(base);

	io_uring_queue_exit(&queue->ring);
	bdev_done_free(&queue->done);
	free(queue);
}

/* ---- Submit. ---- */

static void prepare(struct io_uring_sqe *sqe, const struct bdev_request *request)
{
	const struct iovec *iov = request->iov;
	unsigned count = (unsigned)request->iov_count;

	switch (request->op) {
	case BDEV_READ:
		io_uring_prep_readv(sqe, 0, iov, count, request->offset);
		break;
	case BDEV_WRITE:
		io_uring_prep_writev2(sqe, 0, iov, count, request->offset, request->flags & BDEV_FUA ? RWF_DSYNC : 0);
		break;
	case BDEV_FLUSH:
		io_uring_prep_fsync(sqe, 0, IORING_FSYNC_DATASYNC);
		break;
	case BDEV_DISCARD:
	case BDEV_WRITE_ZEROES:
		/* The offset and length fields are 64 bits wide; liburing 2.3 declares them as off_t. */
		io_uring_prep_fallocate(sqe, 0,
					FALLOC_FL_KEEP_SIZE | (request->op == BDEV_DISCARD ? FALLOC_FL_PUNCH_HOLE :
											     FALLOC_FL_ZERO_RANGE),
					(off_t)request->offset, (off_t)request->length);
		break;
	}
	io_uring_sqe_set_flags(sqe, IOSQE_FIXED_FILE);
	io_uring_sqe_set_data(sqe, (void *)request);
}

static bool has_ring_form(const struct bdev *dev, const struct bdev_request *request)
{
	if (request->op == BDEV_DISCARD && dev->geometry.block_device)
		return false;
	/* fallocate(2) refuses an empty range, we do not. */
	return request->length || (request->op != BDEV_DISCARD && request->op != BDEV_WRITE_ZEROES);
}

/*
 * What the kernel has not taken (it was short of memory, say) stays in the ring until reap offers it again. It will
 * not complete, so that nothing of the kernel's will wake who waits for the event: we do.
 */
static void remind(const struct uring_queue *queue)
{
	if (io_uring_sq_ready(&queue->ring) && queue->done.event_fd >= 0)
		eventfd_write(queue->done.event_fd, 1);
}

static int uring_submit(struct bdev_queue *base, struct bdev_request *const *requests, unsigned count)
{
	struct uring_queue *queue = uring_queue(base);

	for (unsigned i = 0; i < count; i++) {
		struct io_uring_sqe *sqe = NULL;

		if (has_ring_form(base->dev, requests[i]))
			sqe = io_uring_get_sqe(&queue->ring);
		if (sqe) {
			prepare(sqe, requests[i]);
			continue;
		}
		requests[i]->result = bdev_execute(base->dev, requests[i]);
		bdev_done_push(&queue->done, requests[i]);
	}
	while (io_uring_submit(&queue->ring) == -EINTR)
		;
	remind(queue);
	return (int)count;
}

/* ---- Reap. ---- */

static unsigned take_completions(struct uring_queue *queue, struct bdev_request **out, unsigned max)
{
	struct io_uring_cqe *cqes[URING_BATCH];
	unsigned total = 0;

	while (total < max) {
		unsigned room = max - total < URING_BATCH ? max - total : URING_BATCH;
		unsigned count = io_uring_peek_batch_cqe(&queue->ring, cqes, room);
		int answers[URING_BATCH];

		for (unsigned i = 0; i < count; i++) {
			out[total + i] = io_uring_cqe_get_data(cqes[i]);
			answers[i] = cqes[i]->res;
		}
		/* Given back before finishing, which may take long. */
		io_uring_cq_advance(&queue->ring, count);
		for (unsigned i = 0; i < count; i++)
			out[total + i]->result = bdev_file_finish(queue->queue.dev, out[total + i], answers[i]);
		total += count;
		if (count < room)
			break;
	}
	return total;
}

/* Requests are with the kernel or in the ring: no reason to leave them. */
static bool is_passing(int result)
{
	return result == -EINTR || result == -EAGAIN || result == -EBUSY || result == -ENOMEM;
}

static int uring_reap(struct bdev_queue *base, struct bdev_request **out, unsigned min, unsigned max)
{
	struct uring_queue *queue = uring_queue(base);
	unsigned count = bdev_done_pop(&queue->done, out, max);

	if (io_uring_sq_ready(&queue->ring))
		io_uring_submit(&queue->ring);
	count += take_completions(queue, out + count, max - count);
	while (count < min) {
		int result = io_uring_submit_and_wait(&queue->ring, min - count);

		if (result < 0 && !is_passing(result)) {
			remind(queue);
			return count ? (int)count : result;
		}
		count += take_completions(queue, out + count, max - count);
	}
	remind(queue);
	return (int)count;
}

static int uring_event_fd(struct bdev_queue *base)
{
	struct uring_queue *queue = uring_queue(base);
	int fd = bdev_done_event_fd(&queue->done);

	if (fd >= 0 && !queue->event_registered) {
		if (io_uring_register_eventfd(&queue->ring, fd))
			return -1;
		queue->event_registered = true;
	}
	return fd;
}

static void uring_event_clear(struct bdev_queue *base)
{
	bdev_done_event_clear(&uring_queue(base)->done);
}

static const struct bdev_operations uring_operations = {
	.name = "uring",
	BDEV_FILE_OPERATIONS,
	.queue_open = uring_queue_open,
	.queue_close = uring_queue_close,
	.submit = uring_submit,
	.reap = uring_reap,
	.event_fd = uring_event_fd,
	.event_clear = uring_event_clear,
};

/* io_uring may be missing in the kernel or forbidden (kernel.io_uring_disabled, seccomp). */
static int check_available(const char *name, char *error)
{
	struct io_uring ring;
	int result = io_uring_queue_init(1, &ring, 0);

	if (result)
		return bdev_open_error(error, result == -ENOMEM ? -ENOMEM : -ENOTSUP,
				       "uring:%s: io_uring is not available here (%s); use aio:%s", name,
				       strerror(-result), name);
	io_uring_queue_exit(&ring);
	return 0;
}

int bdev_uring_open(const char *name, const struct bdev_open_options *options, struct bdev **out, char *error)
{
	int result = check_available(name, error);

	return result ? result : bdev_file_open(name, options, &uring_operations, false, out, error);
}
