/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The common part of all layers. See layer.h.
 *
 * States of a slot in a queue: free -> (before) -> pending or answered; pending -> lower -> answered;
 * answered -> (after) -> reaped and free. "Answered" requests wait in `done` only when `before`
 * answered them; those from the lower queue are reaped at once.
 *
 * Locking: none; a queue belongs to one thread at a time.
 */
#include "layer.h"
#include "done.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <unistd.h>

#define LAYER_BATCH 64

struct layer_queue {
	struct bdev_queue queue;
	struct bdev_queue *lower;
	struct bdev_done done;
	struct bdev_layer_slot *slots;
	struct bdev_layer_slot *free;
	struct bdev_layer_slot *pending, **pending_end; /* not taken by the lower queue yet; a fifo */
	int poll_fd; /* epoll over the lower event descriptor and our own, -1 until asked for */
};

static struct layer_queue *layer_queue(struct bdev_queue *base)
{
	return (struct layer_queue *)base;
}

/* ---- Blocking calls. ---- */

int bdev_layer_execute_lower(struct bdev *lower, const struct bdev_request *request)
{
	switch (request->op) {
	case BDEV_READ:
		return bdev_readv(lower, request->iov, request->iov_count, request->offset);
	case BDEV_WRITE:
		return bdev_writev(lower, request->iov, request->iov_count, request->offset, request->flags);
	case BDEV_FLUSH:
		return bdev_flush(lower);
	case BDEV_DISCARD:
		return bdev_discard(lower, request->offset, request->length);
	case BDEV_WRITE_ZEROES:
		return bdev_write_zeroes(lower, request->offset, request->length);
	}
	return -EINVAL;
}

static bool call_before(struct bdev_layer *layer, struct bdev_layer_slot *slot)
{
	return layer->before ? layer->before(layer, slot) : true;
}

static void call_after(struct bdev_layer *layer, struct bdev_layer_slot *slot)
{
	if (layer->after)
		layer->after(layer, slot);
}

static int execute(struct bdev *dev, const struct bdev_request *request)
{
	struct bdev_layer *layer = (struct bdev_layer *)dev;
	struct bdev_layer_slot slot = { .request = *request };

	if (call_before(layer, &slot))
		slot.request.result = bdev_layer_execute_lower(dev->lower, &slot.request);
	call_after(layer, &slot);
	return slot.request.result;
}

int bdev_layer_rw(struct bdev *dev, bool write, const struct iovec *iov, int count, uint64_t offset, unsigned flags)
{
	struct bdev_request request = {
		.op = write ? BDEV_WRITE : BDEV_READ,
		.flags = flags,
		.offset = offset,
		.iov = iov,
		.iov_count = count,
	};

	for (int i = 0; i < count; i++)
		request.length += iov[i].iov_len;
	return execute(dev, &request);
}

int bdev_layer_flush(struct bdev *dev)
{
	struct bdev_request request = { .op = BDEV_FLUSH };

	return execute(dev, &request);
}

int bdev_layer_discard(struct bdev *dev, uint64_t offset, uint64_t length)
{
	struct bdev_request request = { .op = BDEV_DISCARD, .offset = offset, .length = length };

	return execute(dev, &request);
}

int bdev_layer_write_zeroes(struct bdev *dev, uint64_t offset, uint64_t length)
{
	struct bdev_request request = { .op = BDEV_WRITE_ZEROES, .offset = offset, .length = length };

	return execute(dev, &request);
}

/* ---- Queues. ---- */

int bdev_layer_queue_open(struct bdev *dev, unsigned depth, struct bdev_queue **out)
{
	struct layer_queue *queue = calloc(1, sizeof(*queue));
	int result = -ENOMEM;

	if (!queue)
		return -ENOMEM;
	queue->poll_fd = -1;
	queue->pending_end = &queue->pending;
	queue->slots = calloc(depth, sizeof(*queue->slots));
	if (!queue->slots)
		goto free_queue;
	for (unsigned i = 0; i < depth; i++) {
		queue->slots[i].next = queue->free;
		queue->free = &queue->slots[i];
	}
	result = bdev_done_init(&queue->done, depth);
	if (result)
		goto free_slots;
	result = bdev_queue_open(dev->lower, depth, &queue->lower);
	if (result)
		goto free_done;
	*out = &queue->queue;
	return 0;

free_done:
	bdev_done_free(&queue->done);
free_slots:
	free(queue->slots);
free_queue:
	free(queue);
	return result;
}

void bdev_layer_queue_close(struct bdev_queue *base)
{
	struct layer_queue *queue = layer_queue(base);

	if (queue->poll_fd >= 0)
		close(queue->poll_fd);
	bdev_queue_close(queue->lower);
	bdev_done_free(&queue->done);
	free(queue->slots);
	free(queue);
}

/* The end of a slot: its result belongs to the original now. */
static struct bdev_request *slot_finish(struct layer_queue *queue, struct bdev_layer_slot *slot)
{
	struct bdev_request *original = slot->original;

	call_after((struct bdev_layer *)queue->queue.dev, slot);
	original->result = slot->request.result;
	slot->next = queue->free;
	queue->free = slot;
	return original;
}

static struct bdev_layer_slot *take_pending(struct layer_queue *queue)
{
	struct bdev_layer_slot *slot = queue->pending;

	queue->pending = slot->next;
	if (!queue->pending)
		queue->pending_end = &queue->pending;
	return slot;
}

/* Offer what is pending to the lower queue. */
static void submit_pending(struct layer_queue *queue)
{
	struct bdev_request *batch[LAYER_BATCH];

	while (queue->pending) {
		struct bdev_layer_slot *slot = queue->pending;
		unsigned count = 0;
		int accepted;

		for (; slot && count < LAYER_BATCH; slot = slot->next)
			batch[count++] = &slot->request;
		accepted = bdev_submit(queue->lower, batch, count);
		if (accepted == 0 && bdev_queue_in_flight(queue->lower))
			return; /* full: reap first */
		for (int i = 0; i < accepted; i++)
			take_pending(queue);
		if (accepted <= 0) { /* refused, or an empty queue that takes nothing */
			slot = take_pending(queue);
			slot->request.result = accepted ? accepted : -EIO;
			bdev_done_push(&queue->done, slot_finish(queue, slot));
		}
	}
}

int bdev_layer_submit(struct bdev_queue *base, struct bdev_request *const *requests, unsigned count)
{
	struct layer_queue *queue = layer_queue(base);

	for (unsigned i = 0; i < count; i++) {
		struct bdev_layer_slot *slot = queue->free;

		queue->free = slot->next;
		*slot = (struct bdev_layer_slot){ .request = *requests[i], .original = requests[i] };
		slot->request.user = slot;
		if (!call_before((struct bdev_layer *)base->dev, slot)) {
			bdev_done_push(&queue->done, slot_finish(queue, slot));
			continue;
		}
		*queue->pending_end = slot;
		queue->pending_end = &slot->next;
	}
	submit_pending(queue);
	return (int)count;
}

int bdev_layer_reap(struct bdev_queue *base, struct bdev_request **out, unsigned min, unsigned max)
{
	struct layer_queue *queue = layer_queue(base);
	unsigned count = 0;

	for (;;) {
		unsigned wait;
		int reaped;

		submit_pending(queue);
		count += bdev_done_pop(&queue->done, out + count, max - count);
		wait = count < min ? 1 : 0; /* one, so that pending requests follow soon */
		reaped = bdev_reap(queue->lower, out + count, wait, max - count);
		if (reaped < 0)
			return count ? (int)count : reaped;
		for (int i = 0; i < reaped; i++, count++)
			out[count] = slot_finish(queue, out[count]->user);
		if (count >= min && !queue->pending)
			return (int)count;
		if (count >= max || (!wait && !reaped))
			return (int)count;
	}
}

/* One descriptor for both sources: an epoll descriptor is readable when one inside it is. */
int bdev_layer_event_fd(struct bdev_queue *base)
{
	struct layer_queue *queue = layer_queue(base);
	struct epoll_event event = { .events = EPOLLIN };
	int lower = bdev_queue_event_fd(queue->lower);
	int own = bdev_done_event_fd(&queue->done);

	if (queue->poll_fd >= 0 || lower < 0 || own < 0)
		return queue->poll_fd;
	queue->poll_fd = epoll_create1(EPOLL_CLOEXEC);
	if (queue->poll_fd < 0)
		return -1;
	if (epoll_ctl(queue->poll_fd, EPOLL_CTL_ADD, lower, &event) ||
	    epoll_ctl(queue->poll_fd, EPOLL_CTL_ADD, own, &event)) {
		close(queue->poll_fd);
		queue->poll_fd = -1;
	}
	return queue->poll_fd;
}

void bdev_layer_event_clear(struct bdev_queue *base)
{
	struct layer_queue *queue = layer_queue(base);

	bdev_queue_event_clear(queue->lower);
	bdev_done_event_clear(&queue->done);
}
