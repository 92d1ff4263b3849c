/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Block allocator: the contract is in alloc.h.
 *
 * `busy` of a group is made when the group is first used, from its bitmap block, which then stays referenced.
 * A group whose bitmap was never written (ASH_GROUP_UNINIT) gets one in a system transaction that nobody undoes.
 *
 * The life of a freed extent:
 *   bits cleared in the bitmap by the transaction -> committed: on the pending list with the LSN, the I/O generation
 *   and the checkpoint count of that moment -> reap: LSN durable, older data I/O ended, a checkpoint that may still
 *   have been writing it ended -> with discard: on the discard list until trimmed -> bits cleared in `busy`.
 *
 * Locks: group.lock -> space_lock; pending_lock and io_lock stand alone. alloc_bits_committed() runs under log.lock and
 * takes only a buffer lock.
 */
#include "engine.h"

#include <stdlib.h>

#define WORDS (ASH_BLOCKS_PER_GROUP / 64)

struct group {
	pthread_mutex_t lock;
	uint64_t *busy;            /* NULL: not loaded */
	struct ash_buffer *bitmap; /* referenced while loaded */
	uint32_t free;             /* blocks not busy; while not loaded: as the group table says */
	uint32_t longest;          /* no free run is longer */
	uint32_t size;             /* blocks; the last group may be short */
	bool uninit;
	bool withdrawn; /* while uninit: being trimmed */
};

struct pending {
	struct pending *next;
	struct ash_extent extent;
	uint64_t lsn, generation, checkpoint;
};

struct discard {
	struct discard *next;
	struct ash_extent extent;
};

#define GENERATIONS 256u

struct ash_allocator {
	struct group *groups;
	_Atomic uint32_t group_count; /* raised by ash_alloc_extend() */
	struct ash_buffer **table;    /* referenced while open */

	pthread_mutex_t space_lock;
	uint64_t free;      /* sum of group.free */
	uint64_t reserved;  /* for buffered data; part of free */
	uint64_t emergency; /* kept back for unlink, truncate and punch */

	pthread_mutex_t pending_lock;
	struct pending *pending, **pending_end;
	uint64_t pending_blocks;
	struct discard *discards;

	pthread_mutex_t io_lock;
	uint64_t generation, oldest; /* of data I/O */
	uint32_t in_flight[GENERATIONS];

	_Atomic uint32_t rotor; /* group where a claim without goal begins */
};

static struct group *group_of(struct ash_volume *volume, uint64_t block)
{
	return &volume->alloc->groups[block / ASH_BLOCKS_PER_GROUP];
}

static struct ash_group_table_block *table_of(struct ash_volume *volume, uint64_t group, struct ash_buffer **buffer)
{
	*buffer = volume->alloc->table[group / ASH_GROUPS_PER_TABLE_BLOCK];
	return (void *)(*buffer)->data;
}

/* ---- Bits of `busy` ---- */

static bool bit_get(const uint64_t *words, uint32_t bit)
{
	return words[bit / 64] >> (bit % 64) & 1;
}

static void bits_fill(uint64_t *words, uint32_t first, uint32_t count, bool set)
{
	while (count) {
		uint32_t shift = first % 64, n = 64 - shift < count ? 64 - shift : count;
		uint64_t mask = (n == 64 ? ~0ull : (1ull << n) - 1) << shift;

		words[first / 64] = set ? words[first / 64] | mask : words[first / 64] & ~mask;
		first += n;
		count -= n;
	}
}

/* First bit at or behind `from` with the value `set`; `end` if none before it. */
static uint32_t bit_find(const uint64_t *words, uint32_t from, uint32_t end, bool set)
{
	while (from < end) {
		uint64_t word = (set ? words[from / 64] : ~words[from / 64]) >> (from % 64);

		if (word) {
			from += (uint32_t)__builtin_ctzll(word);
			return from < end ? from : end;
		}
		from = (from / 64 + 1) * 64;
	}
	return end;
}

static uint32_t bits_count(const uint64_t *words, uint32_t end)
{
	uint32_t count = 0;

	for (uint32_t i = 0; i < end / 64; i++)
		count += (uint32_t)__builtin_popcountll(words[i]);
	for (uint32_t bit = end / 64 * 64; bit < end; bit++)
		count += bit_get(words, bit);
	return count;
}

/* ---- Groups ---- */

static bool is_last_block(const struct ash_volume *volume, uint64_t block)
{
	return block == volume->block_count - 1;
}

/* The fixed blocks of a group that was never written: see format.h. */
static uint32_t uninit_bits(struct ash_volume *volume, uint32_t index, struct ash_txn *txn, struct ash_buffer *bitmap)
{
	struct group *group = &volume->alloc->groups[index];
	uint32_t fixed = ash_group_has_super(index) ? 2 : 1, beyond = ASH_BLOCKS_PER_GROUP - group->size;

	ash_txn_bits(txn, bitmap, 0, fixed, true);
	if (beyond)
		ash_txn_bits(txn, bitmap, group->size, beyond, true);
	if (!is_last_block(volume, ash_group_start(index) + group->size - 1))
		return fixed + beyond;
	ash_txn_bits(txn, bitmap, group->size - 1, 1, true);
	return fixed + beyond + 1;
}

/* group.lock held. */
static int group_initialize(struct ash_volume *volume, uint32_t index)
{
	struct ash_block_id id = { ash_group_bitmap(index), ASH_MAGIC_BLOCK_BITMAP, index };
	struct ash_buffer *table_buffer, *bitmap;
	struct ash_group_table_block *table = table_of(volume, index, &table_buffer);
	uint32_t slot = index % ASH_GROUPS_PER_TABLE_BLOCK;
	ash_le32 flags = ash_put32(ash_get32(table->flags[slot]) & ~ASH_GROUP_UNINIT);
	struct ash_txn *txn;
	uint32_t fixed;
	int error = ash_txn_begin_system(volume, &txn);

	if (error)
		return error;
	error = ash_txn_new_block(txn, id, &bitmap);
	if (error) {
		ash_txn_abort(txn);
		return error;
	}
	fixed = uninit_bits(volume, index, txn, bitmap);
	ash_txn_set(txn, table_buffer, offsetof(struct ash_group_table_block, flags) + slot * 4, &flags, sizeof(flags));
	/* the commit will count these blocks as taken just now, but the table never counted them as free */
	ash_lock(&table_buffer->lock);
	table->free_blocks[slot] = ash_put32(volume->alloc->groups[index].free + fixed);
	ash_unlock(&table_buffer->lock);
	ash_txn_commit(txn);
	volume->alloc->groups[index].bitmap = bitmap;
	volume->alloc->groups[index].uninit = false;
	return 0;
}

/* group.lock held, bitmap referenced: make `busy`, correct the counts. */
static int group_fill(struct ash_volume *volume, uint32_t index)
{
	struct ash_allocator *alloc = volume->alloc;
	struct group *group = &alloc->groups[index];
	const struct ash_bitmap_block *block = (const void *)group->bitmap->data;
	uint64_t *busy = malloc(WORDS * 8);
	uint32_t free_blocks;

	if (!busy)
		return -ENOMEM;
	ash_lock(&group->bitmap->lock);
	memcpy(busy, block->bits, WORDS * 8);
	ash_unlock(&group->bitmap->lock);
	for (uint32_t i = 0; i < WORDS; i++)
		busy[i] = le64toh(busy[i]);
	bits_fill(busy, group->size, ASH_BLOCKS_PER_GROUP - group->size, true);
	free_blocks = group->size - bits_count(busy, group->size);
	pthread_mutex_lock(&alloc->space_lock);
	alloc->free += free_blocks;
	alloc->free -= group->free;
	pthread_mutex_unlock(&alloc->space_lock);
	__atomic_store_n(&group->free, free_blocks, __ATOMIC_RELAXED);
	__atomic_store_n(&group->longest, group->size, __ATOMIC_RELAXED);
	group->busy = busy;
	return 0;
}

/* Returns with group.lock held when 0. The bitmap is read before the lock is taken. */
static int group_lock_loaded(struct ash_volume *volume, uint32_t index)
{
	struct group *group = &volume->alloc->groups[index];
	struct ash_block_id id = { ash_group_bitmap(index), ASH_MAGIC_BLOCK_BITMAP, index };
	struct ash_buffer *bitmap = NULL;
	int error = 0;

	pthread_mutex_lock(&group->lock);
	if (group->busy)
		return 0;
	if (!group->uninit) {
		pthread_mutex_unlock(&group->lock);
		error = ash_buffer_get(volume, id, &bitmap);
		if (error)
			return error;
		pthread_mutex_lock(&group->lock);
		if (group->busy) {
			ash_buffer_put(volume, bitmap);
			return 0;
		}
		group->bitmap = bitmap;
	} else {
		error = group->withdrawn ? -ENOSPC : group_initialize(volume, index);
	}
	if (!error)
		error = group_fill(volume, index);
	if (error) {
		if (group->bitmap)
			ash_buffer_put(volume, group->bitmap);
		group->bitmap = NULL;
		pthread_mutex_unlock(&group->lock);
	}
	return error;
}

/* Commit of a transaction with bit changes, under log.lock: the table's derived count follows, and goes home in time. */
void ash_alloc_bits_committed(struct ash_volume *volume, uint64_t group, int64_t delta, uint64_t start_lsn,
			      uint64_t end_lsn)
{
	struct ash_buffer *buffer;
	struct ash_group_table_block *table;
	uint32_t slot = group % ASH_GROUPS_PER_TABLE_BLOCK;

	if (!volume->alloc || group >= volume->alloc->group_count)
		return;
	table = table_of(volume, group, &buffer);
	ash_lock(&buffer->lock);
	table->free_blocks[slot] = ash_put32((uint32_t)(ash_get32(table->free_blocks[slot]) + delta));
	buffer->last_lsn = end_lsn;
	ash_unlock(&buffer->lock);
	ash_log_dirty_locked(volume->log, buffer, start_lsn);
}

int ash_alloc_note_replayed(struct ash_volume *volume, uint64_t group)
{
	uint64_t *more = reallocarray(volume->replayed_groups, volume->replayed_count + 1, sizeof(*more));

	if (!more)
		return -ENOMEM;
	volume->replayed_groups = more;
	more[volume->replayed_count++] = group;
	return 0;
}

/* ---- Claims ---- */

/* group.lock held: the best free run for `wanted` at or behind bit `from`: the first long enough, else the longest. */
static uint32_t run_find(struct group *group, uint32_t from, uint32_t wanted, uint32_t *first)
{
	uint32_t best = 0, at = from;
	bool wrapped = from == 0;

	for (;;) {
		uint32_t start = bit_find(group->busy, at, group->size, false), end, limit;

		if (start >= group->size) {
			if (wrapped)
				break;
			wrapped = true;
			at = 0;
			continue;
		}
		if (wrapped && from && start >= from)
			break;
		limit = group->size - start > wanted ? start + wanted : group->size;
		end = bit_find(group->busy, start, limit, true);
		if (end - start > best) {
			best = end - start;
			*first = start;
			if (best >= wanted)
				return best;
		}
		at = end;
		if (at >= group->size && wrapped)
			break;
	}
	if (best < wanted)
		__atomic_store_n(&group->longest, best, __ATOMIC_RELAXED);
	return best;
}

/* space_lock held: how many of `wanted` blocks this caller may have. */
static uint64_t space_allowed_locked(const struct ash_allocator *alloc, uint64_t wanted, unsigned flags)
{
	uint64_t kept = flags & ASH_CLAIM_RESERVED ? 0 : alloc->reserved, allowed;

	if (!(flags & (ASH_CLAIM_EMERGENCY | ASH_CLAIM_RESERVED)))
		kept += alloc->emergency;
	allowed = alloc->free > kept ? alloc->free - kept : 0;
	return wanted < allowed ? wanted : allowed;
}

/* Look and take are one step: two claims that each see the same last blocks must not both eat into the reserve. */
static uint64_t space_take(struct ash_allocator *alloc, uint64_t wanted, unsigned flags)
{
	uint64_t count;

	pthread_mutex_lock(&alloc->space_lock);
	count = space_allowed_locked(alloc, wanted, flags);
	alloc->free -= count;
	if (flags & ASH_CLAIM_RESERVED)
		alloc->reserved -= count < alloc->reserved ? count : alloc->reserved;
	pthread_mutex_unlock(&alloc->space_lock);
	return count;
}

static void space_give(struct ash_allocator *alloc, uint64_t count, unsigned flags)
{
	pthread_mutex_lock(&alloc->space_lock);
	alloc->free += count;
	if (flags & ASH_CLAIM_RESERVED)
		alloc->reserved += count;
	pthread_mutex_unlock(&alloc->space_lock);
}

static uint64_t space_allowed(struct ash_allocator *alloc, uint64_t wanted, unsigned flags)
{
	uint64_t allowed;

	pthread_mutex_lock(&alloc->space_lock);
	allowed = space_allowed_locked(alloc, wanted, flags);
	pthread_mutex_unlock(&alloc->space_lock);
	return allowed;
}

/* Try one group; at least `minimum` adjacent blocks (fewer when another claim took the last) or nothing. 1 claimed, 0 not here. */
static int group_claim(struct ash_volume *volume, uint32_t index, uint32_t from, uint64_t wanted, uint64_t minimum,
		       unsigned flags, struct ash_extent *out)
{
	struct group *group = &volume->alloc->groups[index];
	uint32_t first = 0, found, limit = wanted > group->size ? group->size : (uint32_t)wanted;
	int error;

	/* a look without the lock saves visits; a stale value costs at most a better place */
	if (__atomic_load_n(&group->free, __ATOMIC_RELAXED) < minimum ||
	    __atomic_load_n(&group->longest, __ATOMIC_RELAXED) < minimum)
		return 0;
	error = group_lock_loaded(volume, index);
	if (error)
		return error;
	found = run_find(group, from, limit, &first);
	found = found >= minimum ? (uint32_t)space_take(volume->alloc, found, flags) : 0;
	if (found) {
		bits_fill(group->busy, first, found, true);
		__atomic_store_n(&group->free, group->free - found, __ATOMIC_RELAXED);
	}
	pthread_mutex_unlock(&group->lock);
	if (found == 0)
		return 0;
	*out = (struct ash_extent){ ash_group_start(index) + first, found };
	return 1;
}

static int claim_round(struct ash_volume *volume, uint64_t goal, uint64_t wanted, uint64_t minimum, unsigned flags,
		       struct ash_extent *out)
{
	struct ash_allocator *alloc = volume->alloc;
	uint32_t start = (uint32_t)(goal / ASH_BLOCKS_PER_GROUP), damaged = 0;
	int result = 0;

	for (uint32_t i = 0; i < alloc->group_count; i++) {
		uint32_t index = (start + i) % alloc->group_count;

		result = group_claim(volume, index, i ? 0 : goal % ASH_BLOCKS_PER_GROUP, wanted, minimum, flags, out);
		if (result == -EUCLEAN) { /* a damaged bitmap spoils its group only (I8) */
			damaged++;
			continue;
		}
		/* no log space now to write the first bitmap of this group, or it is being trimmed: others will do */
		if (result && result != -ENOSPC)
			return result;
	}
	return damaged ? -EUCLEAN : 0;
}

int ash_claim(struct ash_volume *volume, uint64_t goal, uint64_t wanted, unsigned flags, struct ash_extent *out)
{
	struct ash_allocator *alloc = volume->alloc;
	int result;

	wanted = space_allowed(alloc, wanted, flags);
	if (!wanted)
		return -ENOSPC;
	if (wanted > ASH_BLOCKS_PER_GROUP)
		wanted = ASH_BLOCKS_PER_GROUP;
	if (goal == 0 || goal >= volume->block_count)
		goal = ash_group_start(atomic_load(&alloc->rotor) % alloc->group_count);
	/* all in one piece, then halves, so that big files stay in big pieces on an aged volume */
	for (uint64_t minimum = wanted;; minimum = minimum > 8 ? minimum / 4 : 1) {
		result = claim_round(volume, goal, wanted, minimum, flags, out);
		if (result == 1) {
			atomic_store(&alloc->rotor, (uint32_t)(out->start / ASH_BLOCKS_PER_GROUP));
			return 0;
		}
		if (result < 0 && result != -EUCLEAN)
			return result;
		if (minimum == 1)
			return result ? result : -ENOSPC;
	}
}

/* Give blocks back to the free ones, group by group. */
static void busy_clear(struct ash_volume *volume, struct ash_extent extent, unsigned flags)
{
	while (extent.count) {
		struct group *group = group_of(volume, extent.start);
		uint32_t first = extent.start % ASH_BLOCKS_PER_GROUP;
		uint32_t count = ASH_BLOCKS_PER_GROUP - first < extent.count ? ASH_BLOCKS_PER_GROUP - first :
									       (uint32_t)extent.count;

		pthread_mutex_lock(&group->lock);
		bits_fill(group->busy, first, count, false);
		__atomic_store_n(&group->free, group->free + count, __ATOMIC_RELAXED);
		__atomic_store_n(&group->longest, group->size, __ATOMIC_RELAXED);
		space_give(volume->alloc, count, flags);
		pthread_mutex_unlock(&group->lock);
		extent.start += count;
		extent.count -= count;
	}
}

void ash_unclaim(struct ash_volume *volume, struct ash_extent extent, unsigned flags)
{
	busy_clear(volume, extent, flags);
}

/* Log the claim of an extent; every group it touches is loaded. */
static void bits_log(struct ash_txn *txn, struct ash_extent extent)
{
	struct ash_volume *volume = ash_txn_volume(txn);

	while (extent.count) {
		struct group *group = group_of(volume, extent.start);
		uint32_t first = extent.start % ASH_BLOCKS_PER_GROUP;
		uint32_t count = ASH_BLOCKS_PER_GROUP - first < extent.count ? ASH_BLOCKS_PER_GROUP - first :
									       (uint32_t)extent.count;

		ash_txn_bits(txn, group->bitmap, first, count, true);
		extent.start += count;
		extent.count -= count;
	}
}

int ash_alloc_log(struct ash_txn *txn, struct ash_extent extent)
{
	bits_log(txn, extent);
	return 0;
}

struct claim_end {
	struct ash_extent extent;
	unsigned flags;
};

static void claim_end(struct ash_volume *volume, void *context, uint64_t lsn)
{
	const struct claim_end *claim = context;

	if (!lsn)
		ash_unclaim(volume, claim->extent, claim->flags);
}

int ash_alloc_meta(struct ash_txn *txn, uint64_t goal, unsigned flags, uint64_t *block)
{
	struct claim_end end = { .flags = flags };
	int error = ash_claim(ash_txn_volume(txn), goal, 1, flags, &end.extent);

	if (error)
		return error;
	ash_txn_on_end(txn, claim_end, &end, sizeof(end));
	bits_log(txn, end.extent);
	*block = end.extent.start;
	return 0;
}

/* ---- Freeing ---- */

/* Blocks that no file can own. */
static bool is_fixed(const struct ash_volume *volume, struct ash_extent extent)
{
	uint64_t end = extent.start + extent.count;

	if (extent.start < volume->group_table_start + volume->group_table_blocks && end > volume->group_table_start)
		return true;
	if (extent.start < volume->log_start + volume->log_blocks && end > volume->log_start)
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

	if (!extent.count || extent.start >= volume->block_count || extent.count > volume->block_count - extent.start)
		return ash_damaged(volume, extent.start, "an extent lies outside the volume");
	if (is_fixed(volume, extent))
		return ash_damaged(volume, extent.start, "an extent covers blocks of the volume's own structure");
	while (extent.count) {
		uint32_t index = (uint32_t)(extent.start / ASH_BLOCKS_PER_GROUP),
			 first = extent.start % ASH_BLOCKS_PER_GROUP;
		uint32_t count = ASH_BLOCKS_PER_GROUP - first < extent.count ? ASH_BLOCKS_PER_GROUP - first :
									       (uint32_t)extent.count;
		struct group *group = &volume->alloc->groups[index];
		int error = group_lock_loaded(volume, index);
		bool all;

		if (error)
			return error;
		all = bits_all_set(group->bitmap, first, count);
		if (all)
			ash_txn_bits(txn, group->bitmap, first, count, false);
		pthread_mutex_unlock(&group->lock);
		if (!all)
			return ash_damaged(volume, extent.start, "a block that is free already would be freed");
		extent.start += count;
		extent.count -= count;
	}
	return 0;
}

static void pending_add(struct ash_volume *volume, struct pending *pending)
{
	struct ash_allocator *alloc = volume->alloc;

	/* I/O that begins from now on cannot know these blocks; what began before carries an older generation */
	pthread_mutex_lock(&alloc->io_lock);
	pending->generation = alloc->generation;
	if (alloc->generation - alloc->oldest < GENERATIONS - 1)
		alloc->generation++;
	pthread_mutex_unlock(&alloc->io_lock);
	pending->checkpoint = atomic_load(&volume->log->checkpoint_started);
	pthread_mutex_lock(&alloc->pending_lock);
	*alloc->pending_end = pending;
	alloc->pending_end = &pending->next;
	alloc->pending_blocks += pending->extent.count;
	pthread_mutex_unlock(&alloc->pending_lock);
}

static void free_end(struct ash_volume *volume, void *context, uint64_t lsn)
{
	struct pending *pending = *(struct pending **)context;

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
	struct pending *pending = calloc(1, sizeof(*pending));
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

/* Is all data I/O older than `generation` + 1 done? */
static bool io_passed(struct ash_allocator *alloc, uint64_t generation)
{
	bool passed;

	pthread_mutex_lock(&alloc->io_lock);
	while (alloc->oldest < alloc->generation && alloc->in_flight[alloc->oldest % GENERATIONS] == 0)
		alloc->oldest++;
	passed = alloc->oldest > generation || alloc->in_flight[alloc->oldest % GENERATIONS] == 0;
	pthread_mutex_unlock(&alloc->io_lock);
	return passed;
}

unsigned ash_io_enter(struct ash_volume *volume)
{
	struct ash_allocator *alloc = volume->alloc;
	unsigned ticket;

	pthread_mutex_lock(&alloc->io_lock);
	ticket = alloc->generation % GENERATIONS;
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

/* Ready ones leave the list in order; the first that is not ready ends the look. */
static struct pending *pending_take(struct ash_volume *volume, uint64_t durable)
{
	struct ash_allocator *alloc = volume->alloc;
	uint64_t finished = atomic_load(&volume->log->checkpoint_finished);
	struct pending *list = NULL, **end = &list;

	pthread_mutex_lock(&alloc->pending_lock);
	while (alloc->pending) {
		struct pending *pending = alloc->pending;

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
	struct discard *discard;

	if (!volume->options.discard || !volume->worker_running || !bdev_geometry(volume->dev)->discard)
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
	struct ash_allocator *alloc = volume->alloc;
	struct pending *list;

	if (!alloc)
		return;
	list = pending_take(volume, ash_log_durable(volume));
	while (list) {
		struct pending *pending = list;
		uint64_t count = pending->extent.count;

		list = pending->next;
		if (!discard_later(volume, pending->extent)) {
			busy_clear(volume, pending->extent, 0);
			pthread_mutex_lock(&alloc->pending_lock);
			alloc->pending_blocks -= count;
			pthread_mutex_unlock(&alloc->pending_lock);
		}
		free(pending);
	}
}

void ash_alloc_discard(struct ash_volume *volume)
{
	struct ash_allocator *alloc = volume->alloc;
	struct discard *list;

	pthread_mutex_lock(&alloc->pending_lock);
	list = alloc->discards;
	alloc->discards = NULL;
	pthread_mutex_unlock(&alloc->pending_lock);
	while (list) {
		struct discard *discard = list;

		list = discard->next;
		/* advice only: a device that refuses keeps the old content, which nothing can see */
		bdev_discard(volume->dev, discard->extent.start * ASH_BLOCK_SIZE,
			     discard->extent.count * ASH_BLOCK_SIZE);
		busy_clear(volume, discard->extent, 0);
		pthread_mutex_lock(&alloc->pending_lock);
		alloc->pending_blocks -= discard->extent.count;
		pthread_mutex_unlock(&alloc->pending_lock);
		free(discard);
	}
}

bool ash_alloc_pending(struct ash_volume *volume)
{
	bool pending;

	pthread_mutex_lock(&volume->alloc->pending_lock);
	pending = volume->alloc->pending_blocks != 0;
	pthread_mutex_unlock(&volume->alloc->pending_lock);
	return pending;
}

/* ---- Space ---- */

int ash_space_reserve(struct ash_volume *volume, uint64_t count)
{
	struct ash_allocator *alloc = volume->alloc;
	int error = 0;

	pthread_mutex_lock(&alloc->space_lock);
	if (alloc->free < alloc->reserved + alloc->emergency + count)
		error = -ENOSPC;
	else
		alloc->reserved += count;
	pthread_mutex_unlock(&alloc->space_lock);
	return error;
}

void ash_space_unreserve(struct ash_volume *volume, uint64_t count)
{
	struct ash_allocator *alloc = volume->alloc;

	pthread_mutex_lock(&alloc->space_lock);
	assert(alloc->reserved >= count);
	alloc->reserved -= count;
	pthread_mutex_unlock(&alloc->space_lock);
}

void ash_alloc_counts(struct ash_volume *volume, uint64_t *free_blocks, uint64_t *available)
{
	struct ash_allocator *alloc = volume->alloc;
	uint64_t pending;

	pthread_mutex_lock(&alloc->pending_lock);
	pending = alloc->pending_blocks;
	pthread_mutex_unlock(&alloc->pending_lock);
	pthread_mutex_lock(&alloc->space_lock);
	*free_blocks = alloc->free + pending;
	*available = *free_blocks > alloc->reserved + alloc->emergency ?
			     *free_blocks - alloc->reserved - alloc->emergency :
			     0;
	pthread_mutex_unlock(&alloc->space_lock);
}

/* ---- Trim ---- */

struct trim {
	uint32_t bit, end; /* what is left to look at, within the group */
	uint32_t run_end;  /* the free run at `bit` is long enough and ends here; 0: not known yet */
	uint64_t minimum;  /* blocks */
};

/* Withdraw the next piece of a free run of at least `minimum` blocks, so that nobody takes it meanwhile. */
static bool trim_take(struct ash_volume *volume, uint32_t index, struct trim *trim, struct ash_extent *out)
{
	enum { PIECE = 2048 }; /* a short time for few blocks: others may need them */
	struct group *group = &volume->alloc->groups[index];
	bool found = false;

	pthread_mutex_lock(&group->lock);
	if (trim->end > group->size)
		trim->end = group->size;
	while (!found && trim->bit < trim->end) {
		uint32_t first = bit_find(group->busy, trim->bit, trim->end, false);
		uint32_t last = bit_find(group->busy, first, trim->end, true);
		bool enough = last - first >= trim->minimum || (trim->bit == first && last <= trim->run_end);
		uint64_t taken;

		trim->bit = last;
		if (first == last || !enough)
			continue;
		trim->run_end = last;
		if (last - first > PIECE)
			trim->bit = last = first + PIECE;
		taken = space_take(volume->alloc, last - first, ASH_CLAIM_EMERGENCY);
		found = taken == last - first;
		if (!found) { /* the rest is promised to buffered data */
			space_give(volume->alloc, taken, 0);
			continue;
		}
		bits_fill(group->busy, first, last - first, true);
		__atomic_store_n(&group->free, group->free - (last - first), __ATOMIC_RELAXED);
		*out = (struct ash_extent){ ash_group_start(index) + first, last - first };
	}
	pthread_mutex_unlock(&group->lock);
	return found;
}

static int extent_discard(struct ash_volume *volume, struct ash_extent extent, uint64_t *trimmed)
{
	int error = bdev_discard(volume->dev, extent.start * ASH_BLOCK_SIZE, extent.count * ASH_BLOCK_SIZE);

	if (!error)
		*trimmed += extent.count * ASH_BLOCK_SIZE;
	return error;
}

/* A group that was never used needs no bitmap for this: it is withdrawn as a whole. 1: it is in use by now. */
static int trim_uninit(struct ash_volume *volume, uint32_t index, const struct trim *trim, uint64_t *trimmed)
{
	struct group *group = &volume->alloc->groups[index];
	uint32_t first = ash_group_has_super(index) ? 2 : 1, end;
	int error = 0;

	pthread_mutex_lock(&group->lock);
	if (!group->uninit || group->withdrawn) {
		error = !group->uninit;
		pthread_mutex_unlock(&group->lock);
		return error;
	}
	group->withdrawn = true;
	end = group->size - is_last_block(volume, ash_group_start(index) + group->size - 1);
	pthread_mutex_unlock(&group->lock);
	first = trim->bit > first ? trim->bit : first;
	end = trim->end < end ? trim->end : end;
	if (end > first && end - first >= trim->minimum)
		error = extent_discard(volume, (struct ash_extent){ ash_group_start(index) + first, end - first },
				       trimmed);
	pthread_mutex_lock(&group->lock);
	group->withdrawn = false;
	pthread_mutex_unlock(&group->lock);
	return error;
}

static int trim_group(struct ash_volume *volume, uint32_t index, struct trim trim, uint64_t *trimmed)
{
	struct ash_extent extent;
	int error = trim_uninit(volume, index, &trim, trimmed);

	if (error != 1)
		return error;
	error = group_lock_loaded(volume, index);
	if (error)
		return error == -EUCLEAN ? 0 : error; /* a damaged bitmap spoils its group only (I8) */
	pthread_mutex_unlock(&volume->alloc->groups[index].lock);
	while (!error && trim_take(volume, index, &trim, &extent)) {
		error = extent_discard(volume, extent, trimmed);
		busy_clear(volume, extent, 0);
	}
	return error;
}

int ash_trim(struct ash_volume *volume, uint64_t start, uint64_t length, uint64_t minimum, uint64_t *trimmed)
{
	uint64_t first = start / ASH_BLOCK_SIZE + (start % ASH_BLOCK_SIZE != 0), end;
	int error = ash_check_writable(volume);

	*trimmed = 0;
	if (error)
		return error;
	if (!bdev_geometry(volume->dev)->discard)
		return -EOPNOTSUPP;
	if (first >= volume->block_count)
		return -EINVAL;
	if (length > (volume->block_count - first) * ASH_BLOCK_SIZE)
		length = (volume->block_count - first) * ASH_BLOCK_SIZE;
	end = first + length / ASH_BLOCK_SIZE;
	minimum = minimum / ASH_BLOCK_SIZE ? minimum / ASH_BLOCK_SIZE : 1;
	/* frees that nobody can see yet become trimmable */
	error = ash_sync(volume);
	for (uint64_t at = first; !error && at < end;) {
		uint32_t index = (uint32_t)(at / ASH_BLOCKS_PER_GROUP);
		uint64_t group_end = ash_group_start(index + 1) < end ? ash_group_start(index + 1) : end;

		error = trim_group(volume, index,
				   (struct trim){ .bit = at % ASH_BLOCKS_PER_GROUP,
						  .end = (uint32_t)(group_end - ash_group_start(index)),
						  .minimum = minimum },
				   trimmed);
		at = group_end;
	}
	return error;
}

/* ---- Life ---- */

/* Reference the table blocks of the first `groups` groups. */
static int table_load(struct ash_volume *volume, uint32_t groups)
{
	struct ash_allocator *alloc = volume->alloc;
	uint64_t blocks = (groups + (uint64_t)ASH_GROUPS_PER_TABLE_BLOCK - 1) / ASH_GROUPS_PER_TABLE_BLOCK;
	int error = 0;

	if (blocks > volume->group_table_blocks)
		return ash_damaged(volume, 0, "the group table is too small for the volume");
	for (uint64_t i = 0; !error && i < blocks; i++) {
		struct ash_block_id id = { volume->group_table_start + i, ASH_MAGIC_GROUP_TABLE, 0 };

		if (!alloc->table[i])
			error = ash_buffer_get(volume, id, &alloc->table[i]);
	}
	return error;
}

static int table_open(struct ash_volume *volume)
{
	struct ash_allocator *alloc = volume->alloc;
	/* room for all that the table can hold, so that growing never moves it; untouched memory costs nothing */
	alloc->table = calloc(volume->group_table_blocks, sizeof(*alloc->table));
	return alloc->table ? table_load(volume, volume->group_count) : -ENOMEM;
}

static uint32_t group_size(const struct ash_volume *volume, uint32_t index)
{
	uint64_t rest = volume->block_count - ash_group_start(index);

	return rest < ASH_BLOCKS_PER_GROUP ? (uint32_t)rest : ASH_BLOCKS_PER_GROUP;
}

static void groups_open(struct ash_volume *volume, uint32_t first)
{
	struct ash_allocator *alloc = volume->alloc;

	for (uint32_t i = first; i < alloc->group_count; i++) {
		struct group *group = &alloc->groups[i];
		struct ash_buffer *buffer;
		const struct ash_group_table_block *table = table_of(volume, i, &buffer);
		uint32_t slot = i % ASH_GROUPS_PER_TABLE_BLOCK;

		pthread_mutex_init(&group->lock, NULL);
		group->size = group_size(volume, i);
		group->free = ash_get32(table->free_blocks[slot]);
		if (group->free > group->size)
			group->free = group->size; /* only a hint until the bitmap is read */
		group->uninit = ash_get32(table->flags[slot]) & ASH_GROUP_UNINIT;
		group->longest = group->size;
		alloc->free += group->free;
	}
}

/* The free count of a group is true again, in memory and (through the dirty table block) at home. */
static int group_recount(struct ash_volume *volume, uint64_t index)
{
	struct ash_log *log = volume->log;
	struct ash_group_table_block *table;
	struct ash_buffer *buffer;
	int error;

	if (index >= volume->group_count)
		return ash_damaged(volume, 0, "the log holds the bitmap of a group that does not exist");
	error = group_lock_loaded(volume, (uint32_t)index);
	if (error)
		return error;
	table = table_of(volume, index, &buffer);
	pthread_mutex_lock(&log->lock);
	ash_lock(&buffer->lock);
	table->free_blocks[index % ASH_GROUPS_PER_TABLE_BLOCK] = ash_put32(volume->alloc->groups[index].free);
	if (buffer->last_lsn < log->durable_lsn)
		buffer->last_lsn = log->durable_lsn;
	ash_unlock(&buffer->lock);
	ash_log_dirty_locked(log, buffer, log->tail_lsn);
	pthread_mutex_unlock(&log->lock);
	pthread_mutex_unlock(&volume->alloc->groups[index].lock);
	return 0;
}

/* Groups that replay touched. A damaged bitmap spoils its group only (I8). */
static int replayed_recount(struct ash_volume *volume)
{
	int error = 0;

	for (size_t i = 0; i < volume->replayed_count && (!error || error == -EUCLEAN); i++)
		error = group_recount(volume, volume->replayed_groups[i]);
	if (error == -EUCLEAN)
		error = 0;
	free(volume->replayed_groups);
	volume->replayed_groups = NULL;
	volume->replayed_count = 0;
	return error;
}

int ash_alloc_open(struct ash_volume *volume)
{
	struct ash_allocator *alloc = calloc(1, sizeof(*alloc));
	int error;

	if (!alloc)
		return -ENOMEM;
	volume->alloc = alloc;
	alloc->pending_end = &alloc->pending;
	pthread_mutex_init(&alloc->space_lock, NULL);
	pthread_mutex_init(&alloc->pending_lock, NULL);
	pthread_mutex_init(&alloc->io_lock, NULL);
	error = table_open(volume);
	if (error)
		return error;
	alloc->groups = calloc(volume->group_table_blocks * ASH_GROUPS_PER_TABLE_BLOCK, sizeof(*alloc->groups));
	if (!alloc->groups)
		return -ENOMEM;
	alloc->group_count = volume->group_count;
	/* half a percent, 16 to 256 blocks: enough to log unlinks and truncations, too little to miss */
	alloc->emergency = volume->block_count / 200;
	alloc->emergency = alloc->emergency < 16 ? 16 : alloc->emergency > 256 ? 256 : alloc->emergency;
	groups_open(volume, 0);
	return replayed_recount(volume);
}

/* ---- Growing (grow.c) ---- */

int ash_alloc_extend_prepare(struct ash_volume *volume, uint32_t group_count)
{
	return table_load(volume, group_count);
}

struct ash_buffer *ash_alloc_table(struct ash_volume *volume, uint64_t group)
{
	return volume->alloc->table[group / ASH_GROUPS_PER_TABLE_BLOCK];
}

int ash_alloc_bitmap(struct ash_volume *volume, uint32_t group, struct ash_buffer **bitmap)
{
	int error = 0;

	*bitmap = NULL;
	if (volume->alloc->groups[group].uninit)
		return 0;
	error = group_lock_loaded(volume, group);
	if (error)
		return error;
	*bitmap = volume->alloc->groups[group].bitmap;
	pthread_mutex_unlock(&volume->alloc->groups[group].lock);
	return 0;
}

/* The old last group: longer now, its last block no backup any more. */
static void last_group_extend(struct ash_volume *volume, uint32_t index, uint64_t old_block_count)
{
	struct ash_allocator *alloc = volume->alloc;
	struct group *group = &alloc->groups[index];
	uint32_t old_size, first, count;

	pthread_mutex_lock(&group->lock);
	old_size = group->size;
	group->size = group_size(volume, index);
	first = old_block_count == ash_group_start(index) + old_size ? old_size - 1 : old_size;
	count = group->size - first - is_last_block(volume, ash_group_start(index) + group->size - 1);
	if (group->busy)
		bits_fill(group->busy, first, count, false);
	__atomic_store_n(&group->free, group->free + count, __ATOMIC_RELAXED);
	__atomic_store_n(&group->longest, group->size, __ATOMIC_RELAXED);
	pthread_mutex_lock(&alloc->space_lock);
	alloc->free += count;
	pthread_mutex_unlock(&alloc->space_lock);
	pthread_mutex_unlock(&group->lock);
}

void ash_alloc_extend(struct ash_volume *volume, uint32_t old_groups, uint64_t old_block_count)
{
	last_group_extend(volume, old_groups - 1, old_block_count);
	volume->alloc->group_count = volume->group_count;
	groups_open(volume, old_groups);
}

static void lists_free(struct ash_allocator *alloc)
{
	while (alloc->pending) {
		struct pending *pending = alloc->pending;

		alloc->pending = pending->next;
		free(pending);
	}
	while (alloc->discards) {
		struct discard *discard = alloc->discards;

		alloc->discards = discard->next;
		free(discard);
	}
}

void ash_alloc_close(struct ash_volume *volume)
{
	struct ash_allocator *alloc = volume->alloc;

	free(volume->replayed_groups);
	volume->replayed_groups = NULL;
	if (!alloc)
		return;
	lists_free(alloc);
	for (uint32_t i = 0; i < alloc->group_count; i++) {
		free(alloc->groups[i].busy);
		pthread_mutex_destroy(&alloc->groups[i].lock);
	}
	free(alloc->groups);
	free(alloc->table);
	pthread_mutex_destroy(&alloc->space_lock);
	pthread_mutex_destroy(&alloc->pending_lock);
	pthread_mutex_destroy(&alloc->io_lock);
	free(alloc);
	volume->alloc = NULL;
}
