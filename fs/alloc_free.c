/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The life of a freed extent (I3):
 *   bits cleared in the bitmap by the transaction -> committed: on the pending list with the LSN, the I/O generation
 *   and the checkpoint count of that moment -> reap: LSN durable, older data I/O ended, a checkpoint that may still
 *   have been writing it ended -> with discard: on the discard list until trimmed -> bits cleared in `busy`.
 *
 * Locks: pending_lock protects both lists, space_lock the counts of them, io_lock the generations of data I/O; io_lock is
 * taken within pending_lock. discard_lock is held by whoever discards, over the device I/O, so that what it took off the
 * list, and sorted, can be waited for.
 */
#include "alloc_group.h"
#include "wbuf.h"

#include <stdlib.h>

struct ash_alloc_freed {
	struct ash_alloc_freed *next;
	struct ash_extent extent;
	uint64_t lsn, generation, checkpoint;
};

struct ash_alloc_discard {
	struct ash_alloc_discard *next;
	struct ash_extent extent;
};

#define DISCARD_MAX ((256ull << 20) / ASH_BLOCK_SIZE) /* blocks in one request */
#define LACK_NS 1000000000ull                         /* so long whoever lacks space waits for discards */

/* ---- Freeing ---- */

bool ash_is_log_or_group_table(const struct ash_volume *volume, struct ash_extent extent)
{
	uint64_t end = extent.start + extent.count;

	return (extent.start < volume->group_table_start + volume->group_table_blocks &&
		end > volume->group_table_start) ||
	       (extent.start < volume->log_start + volume->log_blocks && end > volume->log_start);
}

bool ash_is_fixed(const struct ash_volume *volume, struct ash_extent extent)
{
	uint64_t end = extent.start + extent.count;

	if (ash_is_log_or_group_table(volume, extent))
		return true;
	if (end == volume->block_count)
		return true;
	for (uint64_t group = extent.start / ASH_BLOCKS_PER_GROUP; ash_group_start(group) < end; group++)
		if (ash_group_bitmap(group) >= extent.start && ash_group_start(group) < end &&
		    (ash_group_bitmap(group) < end || ash_group_start(group) >= extent.start))
			return true;
	return false;
}

static bool bits_all_set(struct ash_buffer *bitmap, uint32_t first, uint32_t count)
{
	const uint8_t *bits = ((const struct ash_bitmap_block *)(const void *)bitmap->data)->bits;
	bool all = true;

	ash_lock(&bitmap->lock);
	for (uint32_t bit = first; all && bit < first + count; bit++)
		all = bits[bit / 8] >> bit % 8 & 1;
	ash_unlock(&bitmap->lock);
	return all;
}

/*
 * Clear the bits of an extent. Each must be set, in the volume and not fixed: a second free would give away somebody's
 * block. Look and clear are one step under the group's lock, for two damaged trees may free one block at the same time.
 */
static int bits_free(struct ash_txn *txn, struct ash_extent extent)
{
	struct ash_volume *volume = ash_txn_volume(txn);
	struct ash_alloc_part part;

	if (!extent.count || extent.start >= volume->block_count || extent.count > volume->block_count - extent.start)
		return ash_damaged(volume, extent.start, "an extent lies outside the volume");
	if (ash_is_fixed(volume, extent))
		return ash_damaged(volume, extent.start, "an extent covers blocks of the volume's own structure");
	while (ash_alloc_part_next(&extent, &part)) {
		struct ash_buffer *bitmap;
		int error = ash_alloc_lock_loaded(volume, part.index);
		bool all;

		if (error)
			return error;
		bitmap = volume->alloc->groups[part.index].bitmap;
		all = bits_all_set(bitmap, part.first, part.count);
		if (all)
			ash_txn_bits(txn, bitmap, part.first, part.count, false);
		pthread_mutex_unlock(&volume->alloc->groups[part.index].lock);
		if (!all)
			return ash_damaged(volume, ash_group_start(part.index) + part.first,
					   "a block that is free already would be freed");
	}
	return 0;
}

static void pending_add(struct ash_volume *volume, struct ash_alloc_freed *pending)
{
	struct ash_allocator *alloc = volume->alloc;

	/* I/O that begins from now on cannot know these blocks; what began before carries an older generation */
	pthread_mutex_lock(&alloc->io_lock);
	pending->generation = alloc->generation;
	if (alloc->generation - alloc->oldest < ASH_ALLOC_GENERATIONS - 1)
		alloc->generation++;
	pthread_mutex_unlock(&alloc->io_lock);
	pending->checkpoint = atomic_load(&volume->log->checkpoint_started);
	pthread_mutex_lock(&alloc->space_lock);
	alloc->pending_blocks += pending->extent.count;
	alloc->pending_added += pending->extent.count;
	pthread_mutex_unlock(&alloc->space_lock);
	pthread_mutex_lock(&alloc->pending_lock);
	*alloc->pending_end = pending;
	alloc->pending_end = &pending->next;
	pthread_mutex_unlock(&alloc->pending_lock);
}

static void free_end(struct ash_volume *volume, void *context, uint64_t lsn)
{
	struct ash_alloc_freed *pending = *(struct ash_alloc_freed **)context;

	if (!lsn) {
		free(pending);
		return;
	}
	pending->lsn = lsn;
	pending_add(volume, pending);
	if (ASH_PLANTED(ASH_PLANT_EARLY_REUSE)) {
		pending->lsn = 0;
		ash_alloc_reap(volume);
	}
}

int ash_free(struct ash_txn *txn, struct ash_extent extent, bool metadata)
{
	struct ash_alloc_freed *pending = calloc(1, sizeof(*pending));
	int error = pending ? bits_free(txn, extent) : -ENOMEM;

	if (error) {
		free(pending);
		return error; /* bits cleared so far come back with the abort */
	}
	pending->extent = extent;
	ash_txn_on_end(txn, free_end, &pending, sizeof(pending));
	for (uint64_t i = 0; metadata && i < extent.count; i++)
		ash_txn_revoke(txn, extent.start + i);
	return 0;
}

/* ---- Data I/O in flight ---- */

/*
 * Is all data I/O older than `generation` + 1 done? If not, and I/O that begins now would still carry it, the next begins a
 * new generation: else what follows could hold it for ever.
 */
static bool io_passed(struct ash_allocator *alloc, uint64_t generation)
{
	bool passed;

	pthread_mutex_lock(&alloc->io_lock);
	while (alloc->oldest < alloc->generation && alloc->in_flight[alloc->oldest % ASH_ALLOC_GENERATIONS] == 0)
		alloc->oldest++;
	passed = alloc->oldest > generation || alloc->in_flight[alloc->oldest % ASH_ALLOC_GENERATIONS] == 0;
	if (!passed && generation == alloc->generation && alloc->generation - alloc->oldest < ASH_ALLOC_GENERATIONS - 1)
		alloc->generation++;
	pthread_mutex_unlock(&alloc->io_lock);
	return passed;
}

unsigned ash_io_enter(struct ash_volume *volume)
{
	struct ash_allocator *alloc = volume->alloc;
	unsigned ticket;

	pthread_mutex_lock(&alloc->io_lock);
	ticket = alloc->generation % ASH_ALLOC_GENERATIONS;
	alloc->in_flight[ticket]++;
	pthread_mutex_unlock(&alloc->io_lock);
	return ticket;
}

void ash_io_leave(struct ash_volume *volume, unsigned ticket)
{
	struct ash_allocator *alloc = volume->alloc;

	pthread_mutex_lock(&alloc->io_lock);
	alloc->in_flight[ticket]--;
	pthread_mutex_unlock(&alloc->io_lock);
}

/* ---- Making available ---- */

/* Ready ones leave the list in order; the first that is not ready ends the look. */
static struct ash_alloc_freed *pending_take(struct ash_volume *volume, uint64_t durable)
{
	struct ash_allocator *alloc = volume->alloc;
	uint64_t finished = atomic_load(&volume->log->checkpoint_finished);
	struct ash_alloc_freed *list = NULL, **end = &list;

	pthread_mutex_lock(&alloc->pending_lock);
	while (alloc->pending) {
		struct ash_alloc_freed *pending = alloc->pending;

		if (pending->lsn > durable || pending->checkpoint > finished || !io_passed(alloc, pending->generation))
			break;
		alloc->pending = pending->next;
		if (!alloc->pending)
			alloc->pending_end = &alloc->pending;
		pending->next = NULL;
		*end = pending;
		end = &pending->next;
	}
	pthread_mutex_unlock(&alloc->pending_lock);
	return list;
}

static bool discard_later(struct ash_volume *volume, struct ash_extent extent)
{
	struct ash_alloc_discard *discard;

	if (!volume->discards_later)
		return false;
	discard = malloc(sizeof(*discard));
	if (!discard)
		return false;
	discard->extent = extent;
	pthread_mutex_lock(&volume->alloc->pending_lock);
	discard->next = volume->alloc->discards;
	volume->alloc->discards = discard;
	pthread_mutex_unlock(&volume->alloc->pending_lock);
	return true;
}

void ash_alloc_reap(struct ash_volume *volume)
{
	struct ash_alloc_freed *list;

	if (!volume->alloc)
		return;
	list = pending_take(volume, ash_log_durable(volume));
	while (list) {
		struct ash_alloc_freed *pending = list;

		list = pending->next;
		if (!discard_later(volume, pending->extent))
			ash_alloc_release(volume, pending->extent, ASH_CLAIM_PENDING);
		free(pending);
	}
}

/* ---- Discarding ---- */

static int by_start(const void *a, const void *b)
{
	const struct ash_alloc_discard *const *x = a, *const *y = b;

	return ((*x)->extent.start > (*y)->extent.start) - ((*x)->extent.start < (*y)->extent.start);
}

/* The extent behind it joins it, unless one request would keep the device for too long. */
static bool discard_join(struct ash_alloc_discard *discard, struct ash_extent extent)
{
	if (discard->extent.start + discard->extent.count != extent.start ||
	    discard->extent.count + extent.count > DISCARD_MAX)
		return false;
	discard->extent.count += extent.count;
	return true;
}

/* A removed tree is thousands of extents and few ranges. Without memory they go one by one. */
static struct ash_alloc_discard *discards_merge(struct ash_alloc_discard *list)
{
	struct ash_alloc_discard **sorted, *merged = NULL, **end = &merged, *last = NULL;
	size_t count = 0, n = 0;

	for (const struct ash_alloc_discard *discard = list; discard; discard = discard->next)
		count++;
	sorted = count > 1 ? malloc(count * sizeof(struct ash_alloc_discard *)) : NULL;
	if (!sorted)
		return list;
	for (struct ash_alloc_discard *discard = list; discard; discard = discard->next)
		sorted[n++] = discard;
	qsort(sorted, count, sizeof(struct ash_alloc_discard *), by_start);
	for (n = 0; n < count; n++) {
		if (last && discard_join(last, sorted[n]->extent)) {
			free(sorted[n]);
			continue;
		}
		last = sorted[n];
		last->next = NULL;
		*end = last;
		end = &last->next;
	}
	free(sorted);
	return merged;
}

static struct ash_alloc_discard *discards_take(struct ash_allocator *alloc)
{
	pthread_mutex_lock(&alloc->pending_lock);
	struct ash_alloc_discard *list = alloc->discards;
	alloc->discards = NULL;
	pthread_mutex_unlock(&alloc->pending_lock);
	return list;
}

static void discard_end(struct ash_volume *volume, struct ash_alloc_discard *discard)
{
	ash_alloc_release(volume, discard->extent, ASH_CLAIM_PENDING);
	free(discard);
}

static void discards_end(struct ash_volume *volume, struct ash_alloc_discard *list)
{
	while (list) {
		struct ash_alloc_discard *discard = list;

		list = discard->next;
		discard_end(volume, discard);
	}
}

/*
 * discard_lock held. What is sorted is used up before the next is sorted: a very long list, of which a slow device takes
 * a few at a time, is sorted once and not each time. NULL: nothing waits.
 */
static struct ash_alloc_discard *discard_next(struct ash_allocator *alloc)
{
	if (!alloc->sorted)
		alloc->sorted = discards_merge(discards_take(alloc));
	return alloc->sorted;
}

/* discard_lock held. True: some is left. */
static bool discard_locked(struct ash_volume *volume, uint64_t budget_ns, bool yields)
{
	struct ash_allocator *alloc = volume->alloc;
	struct ash_alloc_discard *discard = discard_next(alloc);
	uint64_t until = ash_monotonic_ns() + budget_ns; /* from here on: sorting must not use up all the time */

	while (discard && ash_monotonic_ns() < until && !(yields && atomic_load(&alloc->lacking))) {
		alloc->sorted = discard->next;
		/* advice only: a device that refuses keeps the old content, which nothing can see */
		bdev_discard(volume->dev, discard->extent.start * ASH_BLOCK_SIZE,
			     discard->extent.count * ASH_BLOCK_SIZE);
		discard_end(volume, discard);
		discard = discard_next(alloc);
	}
	return discard != NULL;
}

bool ash_alloc_discard(struct ash_volume *volume, uint64_t budget_ns)
{
	/*
	 * A lock that is given up and taken again at once is hardly ever another's: the worker could keep whoever lacks
	 * space waiting until all is discarded. He leaves nothing to be done.
	 */
	if (atomic_load(&volume->alloc->lacking))
		return false;
	pthread_mutex_lock(&volume->alloc->discard_lock);
	bool more = discard_locked(volume, budget_ns, true);
	pthread_mutex_unlock(&volume->alloc->discard_lock);
	return more;
}

/*
 * Space is wanted now, and a discard is advice: after a second FITRIM makes up for the rest. Under the lock to the end,
 * or the worker would have the list again, and keep all of it from whoever lacks space.
 */
static void discard_or_forgo(struct ash_volume *volume)
{
	struct ash_allocator *alloc = volume->alloc;

	atomic_fetch_add(&alloc->lacking, 1);
	pthread_mutex_lock(&alloc->discard_lock);
	atomic_fetch_sub(&alloc->lacking, 1);
	if (discard_locked(volume, LACK_NS, false)) {
		discards_end(volume, alloc->sorted);
		alloc->sorted = NULL;
		discards_end(volume, discards_take(alloc));
	}
	pthread_mutex_unlock(&alloc->discard_lock);
}

uint64_t ash_alloc_freed(struct ash_volume *volume)
{
	struct ash_allocator *alloc = volume->alloc;
	uint64_t freed;

	pthread_mutex_lock(&alloc->space_lock);
	freed = alloc->pending_blocks ? alloc->pending_added : 0;
	pthread_mutex_unlock(&alloc->space_lock);
	return freed;
}

bool ash_alloc_available(struct ash_volume *volume, uint64_t freed)
{
	struct ash_allocator *alloc = volume->alloc;
	bool available, trimmed;

	ash_alloc_reap(volume);
	discard_or_forgo(volume);
	pthread_mutex_lock(&alloc->space_lock);
	available = alloc->pending_added - alloc->pending_blocks >= freed;
	trimmed = alloc->withdrawn == 0;
	pthread_mutex_unlock(&alloc->space_lock);
	return available && trimmed;
}

static void discards_drop(struct ash_alloc_discard *list)
{
	while (list) {
		struct ash_alloc_discard *discard = list;

		list = discard->next;
		free(discard);
	}
}

void ash_alloc_freed_drop(struct ash_allocator *alloc)
{
	while (alloc->pending) {
		struct ash_alloc_freed *pending = alloc->pending;

		alloc->pending = pending->next;
		free(pending);
	}
	discards_drop(alloc->discards);
	discards_drop(alloc->sorted);
}
