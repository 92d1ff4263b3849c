/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What all layers share: a device that hands everything to a lower one, with a hook before and after.
 *
 * Concept: each request, blocking or queued, is seen as a `struct bdev_request` in a slot. `before`
 * may look, change the copy, or answer it; `after` sees the result. A layer is its two hooks and
 * its state.
 *
 * Rules: a queued request is copied into a slot of the layer's queue and the copy goes down, so that
 * layers stack in any order. `before` runs at submit. The layer accepts whatever its queue has
 * room for; what the lower queue does not take yet is offered again at the next submit or reap.
 *
 * Locking: none here. Hooks run on any thread, several at a time, and protect their own state.
 */
#ifndef BLOCKDRV_LAYER_H
#define BLOCKDRV_LAYER_H

#include "driver.h"

struct bdev_layer_slot {
	struct bdev_request request;   /* what goes down; `result` is set in `after` */
	struct bdev_request *original; /* NULL for a blocking call */
	uint64_t start_ns;
	uint64_t value; /* the hooks' */
	void *data;     /* the hooks' */
	struct bdev_layer_slot *next;
};

struct bdev_layer {
	struct bdev dev;
	/*
	 * True: go on to the lower device. False: `slot->request.result` is the answer, nothing goes
	 * down. May be NULL.
	 */
	bool (*before)(struct bdev_layer *layer, struct bdev_layer_slot *slot);
	/* Sees, and may change, `slot->request.result`. May be NULL. */
	void (*after)(struct bdev_layer *layer, struct bdev_layer_slot *slot);
};

/* Operations for the table of a layer; `close` is its own. */
int bdev_layer_rw(struct bdev *dev, bool write, const struct iovec *iov, int count, uint64_t offset, unsigned flags);
int bdev_layer_flush(struct bdev *dev);
int bdev_layer_discard(struct bdev *dev, uint64_t offset, uint64_t length);
int bdev_layer_write_zeroes(struct bdev *dev, uint64_t offset, uint64_t length);
int bdev_layer_queue_open(struct bdev *dev, unsigned depth, struct bdev_queue **out);
void bdev_layer_queue_close(struct bdev_queue *queue);
int bdev_layer_submit(struct bdev_queue *queue, struct bdev_request *const *requests, unsigned count);
int bdev_layer_reap(struct bdev_queue *queue, struct bdev_request **out, unsigned min, unsigned max);
int bdev_layer_event_fd(struct bdev_queue *queue);
void bdev_layer_event_clear(struct bdev_queue *queue);

#define BDEV_LAYER_OPERATIONS                                                                        \
	.rw = bdev_layer_rw, .flush = bdev_layer_flush, .discard = bdev_layer_discard,               \
	.write_zeroes = bdev_layer_write_zeroes, .queue_open = bdev_layer_queue_open,                \
	.queue_close = bdev_layer_queue_close, .submit = bdev_layer_submit, .reap = bdev_layer_reap, \
	.event_fd = bdev_layer_event_fd, .event_clear = bdev_layer_event_clear

/* Execute a request on any device with the checked blocking calls. */
int bdev_layer_execute_lower(struct bdev *lower, const struct bdev_request *request);

#endif
