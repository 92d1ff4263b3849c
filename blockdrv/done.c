/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Finished requests waiting for reap, and the queue that executes at submit. See done.h.
 *
 * Locking: none; a queue belongs to one thread at a time.
 */
#include "done.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <unistd.h>

int bdev_done_init(struct bdev_done *done, unsigned depth)
{
	done->depth = depth;
	done->head = 0;
	done->count = 0;
	done->event_fd = -1;
	done->requests = calloc(depth, sizeof(*done->requests));
	return done->requests ? 0 : -ENOMEM;
}

void bdev_done_free(struct bdev_done *done)
{
	if (done->event_fd >= 0)
		close(done->event_fd);
	free(done->requests);
}

void bdev_done_push(struct bdev_done *done, struct bdev_request *request)
{
	assert(done->count < done->depth);
	done->requests[(done->head + done->count++) % done->depth] = request;
	if (done->event_fd >= 0)
		eventfd_write(done->event_fd, 1);
}

unsigned bdev_done_pop(struct bdev_done *done, struct bdev_request **out, unsigned max)
{
	unsigned count = 0;

	while (count < max && done->count) {
		out[count++] = done->requests[done->head];
		done->head = (done->head + 1) % done->depth;
		done->count--;
	}
	return count;
}

int bdev_done_event_fd(struct bdev_done *done)
{
	if (done->event_fd < 0)
		done->event_fd = eventfd(done->count, EFD_CLOEXEC | EFD_NONBLOCK);
	return done->event_fd;
}

void bdev_done_event_clear(struct bdev_done *done)
{
	eventfd_t count;

	if (done->event_fd >= 0)
		eventfd_read(done->event_fd, &count);
}

struct emulated_queue {
	struct bdev_queue queue;
	struct bdev_done done;
};

int bdev_emulated_queue_open(struct bdev *dev, unsigned depth, struct bdev_queue **out)
{
	struct emulated_queue *queue = calloc(1, sizeof(*queue));

	(void)dev;
	if (!queue)
		return -ENOMEM;
	if (bdev_done_init(&queue->done, depth)) {
		free(queue);
		return -ENOMEM;
	}
	*out = &queue->queue;
	return 0;
}

void bdev_emulated_queue_close(struct bdev_queue *base)
{
	struct emulated_queue *queue = (struct emulated_queue *)base;

	bdev_done_free(&queue->done);
	free(queue);
}

int bdev_emulated_submit(struct bdev_queue *base, struct bdev_request *const *requests, unsigned count)
{
	struct emulated_queue *queue = (struct emulated_queue *)base;

	for (unsigned i = 0; i < count; i++) {
		requests[i]->result = bdev_execute(base->dev, requests[i]);
		bdev_done_push(&queue->done, requests[i]);
	}
	return (int)count;
}

int bdev_emulated_reap(struct bdev_queue *base, struct bdev_request **out, unsigned min, unsigned max)
{
	struct emulated_queue *queue = (struct emulated_queue *)base;

	(void)min; /* everything in flight is done already */
	return (int)bdev_done_pop(&queue->done, out, max);
}

int bdev_emulated_event_fd(struct bdev_queue *base)
{
	return bdev_done_event_fd(&((struct emulated_queue *)base)->done);
}

void bdev_emulated_event_clear(struct bdev_queue *base)
{
	bdev_done_event_clear(&((struct emulated_queue *)base)->done);
}
