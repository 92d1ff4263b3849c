/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A test layer that makes matching requests slow without holding up others.
 *
 * Concept: a delayed request reaches the device at once; its completion is withheld until its time.
 * So a later request can overtake it, as on real devices. A blocking call sleeps in its own thread.
 *
 * Locking: one mutex around the rule; any thread may set it at any time.
 */
#ifndef TESTS_SUPPORT_DELAY_H
#define TESTS_SUPPORT_DELAY_H

#include <ashlar/blockdev.h>

#define DELAY_OP(op) (1u << (op))

struct delay_rule {
	unsigned ops;         /* DELAY_OP() bits; 0: any */
	uint64_t offset;      /* bytes; requests that overlap [offset, offset + length) match */
	uint64_t length;      /* bytes; 0: the whole device. A flush matches whatever the range */
	unsigned skip;        /* so many matching requests pass first: 0 delays the first one */
	unsigned count;       /* so many requests; 0: all */
	uint64_t nanoseconds; /* DELAY_HELD: until delay_release() */
};
#define DELAY_HELD UINT64_MAX

/* Takes ownership of `lower`. 0 or -ENOMEM. No rule at first. */
int delay_open(struct bdev *lower, struct bdev **out);
/* Replace the rule; NULL: nothing is delayed any more. Requests delayed already stay so. */
void delay_set(struct bdev *delay_layer, const struct delay_rule *rule);
/* Let go what is held, and what the rule would hold from now on. */
void delay_release(struct bdev *delay_layer);
/* Requests that the rule has caught since delay_set(). */
unsigned delay_caught(struct bdev *delay_layer);

#endif
