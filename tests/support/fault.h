/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A test layer that makes requests fail on demand.
 *
 * Concept: rules are tried in the order in which they were added; the first one that fires decides.
 * A request that fails does not reach the device below, except the first bytes of a short transfer.
 * A campaign that wants a look at every request before the rules do sets a function for it.
 *
 * Locking: one mutex around the rules; any thread may add, clear and ask at any time.
 */
#ifndef TESTS_SUPPORT_FAULT_H
#define TESTS_SUPPORT_FAULT_H

#include <ashlar/blockdev.h>

#define FAULT_OP(op) (1u << (op)) /* for `ops`, as in FAULT_OP(BDEV_READ) | FAULT_OP(BDEV_WRITE) */
#define FAULT_ANY 0u

struct fault_rule {
	unsigned ops;         /* FAULT_OP() bits, or FAULT_ANY */
	uint64_t offset;      /* bytes; requests that overlap [offset, offset + length) match */
	uint64_t length;      /* bytes; 0: the whole device. A flush matches whatever the range */
	unsigned skip;        /* so many matching requests pass first: 0 fails the first one */
	unsigned count;       /* so many fail then; 0: all */
	int error;            /* negative errno; 0: -EIO */
	bool short_transfer;  /* reads and writes: `short_bytes` bytes are transferred before the error */
	uint64_t short_bytes; /* rounded down to logical blocks */
	bool sticky;          /* once it fired, every later request of any kind fails: the device is gone */
};

#define FAULT_RULES_MAX 32

/* Takes ownership of `lower`. 0 or -ENOMEM. */
int fault_open(struct bdev *lower, struct bdev **out);
/* 0 or -ENOSPC when there are FAULT_RULES_MAX rules. */
int fault_add(struct bdev *fault_layer, const struct fault_rule *rule);
/* Forget all rules, what they counted, and a device that is gone. */
void fault_clear(struct bdev *fault_layer);
/* Requests that failed because of a rule since the last fault_clear(). */
unsigned fault_hits(struct bdev *fault_layer);

/* The first of them. */
struct fault_event {
	enum bdev_op op;
	uint64_t offset, length; /* bytes */
	uint8_t head[4];         /* of a write: its first bytes */
};
/* False: none failed since the last fault_clear(). */
bool fault_first(struct bdev *fault_layer, struct fault_event *out);

/* `ask` is called for every request before the rules are tried, without a lock: it may add rules. NULL: nobody. */
void fault_ask(struct bdev *fault_layer, void (*ask)(void *context, const struct bdev_request *request), void *context);

#endif
