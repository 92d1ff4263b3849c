/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A test layer that records every change and flush, from which crash states are made.
 *
 * Concept: the log is a list of entries in the order of their issue. A change is issued when it is
 * submitted, and its data is copied then. Reads are not recorded. Each entry knows how long the log
 * was when it completed, which tells a flush what it covers: the flush at index f makes durable
 * what completed while the log had at most f entries, that is, before the flush was issued.
 *
 * A crash at `cut` means: entries [0, cut) had been issued, entry `cut` had not. Of these,
 * record_is_durable() ones are on the disk for sure; each of the others may be there, be missing, or
 * (writes) be torn, independently of each other. To make a crash image: copy the base image, then
 * in index order record_apply() what is durable or was chosen to have survived.
 *
 * A flush whose lower device failed, and a write that failed, make nothing durable. A failed write
 * may still have reached the disk, like any write that was not flushed.
 *
 * Locking: one mutex for the log. Entries do not move or change except `completed_at` and `result`,
 * so walk the log when nothing is in flight.
 */
#ifndef TESTS_SUPPORT_RECORD_H
#define TESTS_SUPPORT_RECORD_H

#include <ashlar/blockdev.h>

enum record_kind { RECORD_WRITE, RECORD_DISCARD, RECORD_WRITE_ZEROES, RECORD_FLUSH, RECORD_MARK };

#define RECORD_IN_FLIGHT SIZE_MAX

struct record_entry {
	enum record_kind kind;
	unsigned flags;      /* BDEV_FUA */
	uint64_t offset;     /* bytes */
	uint64_t length;     /* bytes */
	void *data;          /* of a write, `length` bytes; else NULL */
	uint64_t mark;       /* of a mark: the number that the test gave */
	size_t completed_at; /* entries in the log at completion; RECORD_IN_FLIGHT until then */
	int result;          /* 0 or negative errno, once completed */
};

/* Takes ownership of `lower`. 0 or -ENOMEM. */
int record_open(struct bdev *lower, struct bdev **out);

/* `ask` is called, without a lock, for every change and flush before it is issued. NULL: nobody. */
void record_ask(struct bdev *record_layer, void (*ask)(void *context, const struct bdev_request *request),
		void *context);

/* Put a mark in the log ("this fsync was acknowledged", "operation 17 begins"). 0 or -ENOMEM. */
int record_mark(struct bdev *record_layer, uint64_t mark);
/* Forget everything recorded; nothing may be in flight. */
void record_clear(struct bdev *record_layer);

/* ---- Walking. Entries live until record_clear() or bdev_close(). ---- */

size_t record_count(struct bdev *record_layer);
const struct record_entry *record_get(struct bdev *record_layer, size_t index);

/* Is this entry on the disk for sure after a crash at `cut`? False for flushes and marks. */
bool record_is_durable(struct bdev *record_layer, size_t index, size_t cut);

/* Apply an entry to another device. Discards become zeroes. Flushes and marks do nothing. */
int record_apply(const struct record_entry *entry, struct bdev *target);
/* A torn entry: only bytes [first, first + length) of it; multiples of the logical block. */
int record_apply_part(const struct record_entry *entry, struct bdev *target, uint64_t first, uint64_t length);

#endif
