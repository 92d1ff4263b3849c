/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Linux native AIO: "aio:PATH", the default driver. The only file that includes libaio.
 *
 * Concept: a queue is one AIO context. Reads, writes and flushes go through io_submit(2); discard and
 * zeroes have no asynchronous form and are executed at submit. Completions are taken from the ring
 * that the kernel maps into our memory; io_getevents(2) is called only to wait.
 *
 * Rules: what the kernel refuses to queue (no room, no support) is executed at once, so submit
 * accepts everything that fits the queue. So is everything when the kernel gives no context (all of
 * fs.aio-max-nr is used up): slower, but no failure of who happens to come last. The event descriptor must be asked for before the
 * first submit, because each request carries it to the kernel.
 *
 * Locking: none; a queue belongs to one thread at a time. The ring has one consumer, us; the kernel
 * produces, hence acquire on its tail and release on our head.
 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE /* RWF_DSYNC */
#endif
#include "done.h"
#include "file.h"

#include <errno.h>
#include <libaio.h>
#include <stdlib.h>
#include <sys/uio.h>

#define AIO_BATCH 64

/* The head of the ring at the context's address: kernel, fs/aio.c, struct aio_ring. */
#define AIO_RING_MAGIC 0xa10a10a1u

struct aio_ring {
	unsigned id, size, head, tail, magic, compat_features, incompat_features, header_length;
	struct io_event events[];
};

struct aio_queue {
	struct bdev_queue queue;
	io_context_t context; /* NULL: none was to be had */
	struct bdev_done done;
	struct iocb *iocbs;
	struct iocb **free; /* a stack */
	unsigned free_count;
	bool ring_readable; /* the ring has the layout that we know */
};

static struct aio_queue *aio_queue(struct bdev_queue *base)
{
	return (struct aio_queue *)base;
}

static void aio_queue_free(struct aio_queue *queue)
{
	if (queue->context)
		io_destroy(queue->context); /* waits for what is in flight */
	if (queue->done.requests)
		bdev_done_free(&queue->done);
	free(queue->free);
	free(queue->iocbs);
	free(queue);
}

/* 0 with NULL: no contexts are left, or none can be had in this place. */
static int context_open(unsigned depth, io_context_t *context)
{
	int result = io_setup((int)depth, context);

	if (result)
		*context = NULL;
	return result == -EAGAIN || result == -ENOSYS ? 0 : result;
}

static bool ring_is_known(io_context_t context)
{
	const struct aio_ring *ring = (const struct aio_ring *)context;

	return ring && ring->magic == AIO_RING_MAGIC && ring->incompat_features == 0 &&
	       ring->header_length == sizeof(struct aio_ring);
}

static int aio_queue_open(struct bdev *dev, unsigned depth, struct bdev_queue **out)
{
	struct aio_queue *queue = calloc(1, sizeof(*queue));
	int result = -ENOMEM;

	(void)dev;
	if (!queue)
		return -ENOMEM;
	queue->iocbs = calloc(depth, sizeof(*queue->iocbs));
	queue->free = calloc(depth, sizeof(struct iocb *));
	if (queue->iocbs && queue->free)
		result = bdev_done_init(&queue->done, depth);
	if (!result)
		result = context_open(depth, &queue->context);
	if (result) {
		aio_queue_free(queue);
		return result;
	}
	for (unsigned i = 0; i < depth; i++)
		queue->free[queue->free_count++] = &queue->iocbs[i];
	queue->ring_readable = ring_is_known(queue->context);
	*out = &queue->queue;
	return 0;
}

static void aio_queue_close(struct bdev_queue *base)
{
	aio_queue_free(aio_queue(base));
}

/* ---- Submit. ---- */

static struct iocb *prepare(struct aio_queue *queue, struct bdev_request *request)
{
	struct iocb *iocb = queue->free[--queue->free_count];
	int fd = bdev_file(queue->queue.dev)->fd;

	if (request->op == BDEV_FLUSH)
		io_prep_fdsync(iocb, fd);
	else if (request->op == BDEV_READ)
		io_prep_preadv(iocb, fd, request->iov, request->iov_count, (long long)request->offset);
	else
		io_prep_pwritev(iocb, fd, request->iov, request->iov_count, (long long)request->offset);
	if (request->flags & BDEV_FUA)
		iocb->aio_rw_flags = RWF_DSYNC;
	if (queue->done.event_fd >= 0)
		io_set_eventfd(iocb, queue->done.event_fd);
	iocb->data = request;
	return iocb;
}

static void execute_now(struct aio_queue *queue, struct bdev_request *request)
{
	request->result = bdev_execute(queue->queue.dev, request);
	bdev_done_push(&queue->done, request);
}

static void submit_batch(struct aio_queue *queue, struct iocb **batch, int count)
{
	while (count) {
		int accepted = io_submit(queue->context, count, batch);

		if (accepted == -EINTR)
			continue;
		if (accepted <= 0) { /* the first one is refused: its own result will say why */
			struct bdev_request *request = batch[0]->data;

			queue->free[queue->free_count++] = batch[0];
			execute_now(queue, request);
			accepted = 1;
		}
		batch += accepted;
		count -= accepted;
	}
}

static int aio_submit(struct bdev_queue *base, struct bdev_request *const *requests, unsigned count)
{
	struct aio_queue *queue = aio_queue(base);
	struct iocb *batch[AIO_BATCH];
	int used = 0;

	for (unsigned i = 0; i < count; i++) {
		if (!queue->context || requests[i]->op == BDEV_DISCARD || requests[i]->op == BDEV_WRITE_ZEROES) {
			execute_now(queue, requests[i]);
			continue;
		}
		batch[used++] = prepare(queue, requests[i]);
		if (used == AIO_BATCH) {
			submit_batch(queue, batch, used);
			used = 0;
		}
	}
	submit_batch(queue, batch, used);
	return (int)count;
}

/* ---- Reap. ---- */

static struct bdev_request *finish(struct aio_queue *queue, const struct io_event *event)
{
	struct bdev_request *request = event->data;

	queue->free[queue->free_count++] = event->obj;
	request->result = bdev_file_finish(queue->queue.dev, request, (long)event->res);
	return request;
}

static unsigned take_from_ring(struct aio_queue *queue, struct bdev_request **out, unsigned max)
{
	struct aio_ring *ring = (struct aio_ring *)queue->context;
	unsigned head, tail, count = 0;

	if (!queue->ring_readable)
		return 0;
	head = ring->head;
	tail = __atomic_load_n(&ring->tail, __ATOMIC_ACQUIRE);
	while (count < max && head != tail) {
		struct io_event event = ring->events[head];

		head = (head + 1) % ring->size;
		/* Given back before finishing, which may take long. */
		__atomic_store_n(&ring->head, head, __ATOMIC_RELEASE);
		out[count++] = finish(queue, &event);
	}
	return count;
}

/* With min 0 this polls, for kernels whose ring we cannot read. */
static int take_from_kernel(struct aio_queue *queue, struct bdev_request **out, unsigned min, unsigned max)
{
	struct io_event events[AIO_BATCH];
	struct timespec zero = { 0 };
	int count;

	if (max > AIO_BATCH)
		max = AIO_BATCH;
	if (min > max)
		min = max;
	do
		count = io_getevents(queue->context, (long)min, (long)max, events, min ? NULL : &zero);
	while (count == -EINTR);
	for (int i = 0; i < count; i++)
		out[i] = finish(queue, &events[i]);
	return count;
}

static int aio_reap(struct bdev_queue *base, struct bdev_request **out, unsigned min, unsigned max)
{
	struct aio_queue *queue = aio_queue(base);
	unsigned count = bdev_done_pop(&queue->done, out, max);

	count += take_from_ring(queue, out + count, max - count);
	if (queue->context && !queue->ring_readable && count >= min && count < max) {
		int polled = take_from_kernel(queue, out + count, 0, max - count);

		count += polled > 0 ? (unsigned)polled : 0;
	}
	while (count < min) {
		int taken = take_from_kernel(queue, out + count, min - count, max - count);

		if (taken < 0)
			return count ? (int)count : taken;
		count += (unsigned)taken;
	}
	return (int)count;
}

static int aio_event_fd(struct bdev_queue *base)
{
	return bdev_done_event_fd(&aio_queue(base)->done);
}

static void aio_event_clear(struct bdev_queue *base)
{
	bdev_done_event_clear(&aio_queue(base)->done);
}

static const struct bdev_operations aio_operations = {
	.name = "aio",
	BDEV_FILE_OPERATIONS,
	.queue_open = aio_queue_open,
	.queue_close = aio_queue_close,
	.submit = aio_submit,
	.reap = aio_reap,
	.event_fd = aio_event_fd,
	.event_clear = aio_event_clear,
};

int bdev_aio_open(const char *name, const struct bdev_open_options *options, struct bdev **out, char *error)
{
	return bdev_file_open(name, options, &aio_operations, false, out, error);
}
