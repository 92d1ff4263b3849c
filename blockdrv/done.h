/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Requests that are finished and not yet reaped, with the event descriptor of their queue.
 *
 * Concept: drivers execute some requests at submit (all of them in sync and mem, discards in aio);
 * these wait here. It holds as many as the queue is deep, so that pushing cannot fail.
 *
 * Locking: none; belongs to its queue, which belongs to one thread at a time.
 */
#ifndef BLOCKDRV_DONE_H
#define BLOCKDRV_DONE_H

#include "driver.h"

struct bdev_done {
	struct bdev_request **requests; /* a ring */
	unsigned depth, head, count;
	int event_fd; /* -1 until somebody asks for it: most queues never pay for it */
};

int bdev_done_init(struct bdev_done *done, unsigned depth);
void bdev_done_free(struct bdev_done *done);
void bdev_done_push(struct bdev_done *done, struct bdev_request *request);
/* Move up to `max` to `out`; the number moved. */
unsigned bdev_done_pop(struct bdev_done *done, struct bdev_request **out, unsigned max);

int bdev_done_event_fd(struct bdev_done *done); /* created at the first call; -1 when that fails */
void bdev_done_event_clear(struct bdev_done *done);

/* The queue of a driver that executes at submit (sync, mem): complete operations for its table. */
int bdev_emulated_queue_open(struct bdev *dev, unsigned depth, struct bdev_queue **out);
void bdev_emulated_queue_close(struct bdev_queue *queue);
int bdev_emulated_submit(struct bdev_queue *queue, struct bdev_request *const *requests, unsigned count);
int bdev_emulated_reap(struct bdev_queue *queue, struct bdev_request **out, unsigned min, unsigned max);
int bdev_emulated_event_fd(struct bdev_queue *queue);
void bdev_emulated_event_clear(struct bdev_queue *queue);

#define BDEV_EMULATED_QUEUE_OPERATIONS                                                                  \
	.queue_open = bdev_emulated_queue_open, .queue_close = bdev_emulated_queue_close,               \
	.submit = bdev_emulated_submit, .reap = bdev_emulated_reap, .event_fd = bdev_emulated_event_fd, \
	.event_clear = bdev_emulated_event_clear

#endif
