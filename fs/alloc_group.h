/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The allocator's memory, shared by alloc.c (claims, counts), alloc_group.c (groups), alloc_free.c (freed blocks),
 * alloc_trim.c, alloc_grow.c and alloc_open.c, and by grow.c and scrub.c; nothing else includes this. The contract with
 * others is alloc.h.
 *
 * `busy` of a group is made when the group is first used, from its bitmap block, which then stays referenced.
 * A group whose bitmap was never written (ASH_GROUP_UNINIT) gets one in a system transaction that nobody undoes.
 *
 * Locks: discard_lock (over device I/O, nothing else held); group.lock -> space_lock; pending_lock -> io_lock, which
 * nothing else is taken with. ash_alloc_bits_committed() runs under log.lock and takes only a buffer lock.
 */
#ifndef FS_ALLOC_GROUP_H
#define FS_ALLOC_GROUP_H

#include "engine.h"

#define ASH_ALLOC_WORDS (ASH_BLOCKS_PER_GROUP / 64)
#define ASH_ALLOC_GENERATIONS 256u

/* An extent that was freed and is not available yet; one that waits to be discarded (alloc_free.c). */
struct ash_alloc_freed;
struct ash_alloc_discard;

struct ash_alloc_group {
	pthread_mutex_t lock;
	uint64_t *busy;            /* NULL: not loaded */
	struct ash_buffer *bitmap; /* referenced while loaded */
	uint32_t free;             /* blocks not busy; while not loaded: as the group table says */
	uint32_t longest;          /* no free run is longer */
	uint32_t size;             /* blocks; the last group may be short */
	bool uninit;
	bool withdrawn; /* while uninit: being trimmed, `free` is 0 */
	/*
	 * its bitmap could not be had (I8): so many claims pass it by before one tries again (alloc.c); 0: never
	 * failed
	 */
	_Atomic uint32_t shunned;
};

struct ash_allocator {
	struct ash_alloc_group *groups;
	_Atomic uint32_t group_count; /* raised by ash_alloc_extend() */
	struct ash_buffer **table;    /* referenced while open */

	pthread_mutex_t space_lock;
	uint64_t free;           /* sum of group.free */
	uint64_t reserved;       /* for buffered data; part of free */
	uint64_t emergency;      /* kept back for unlink, truncate and punch */
	uint64_t withdrawn;      /* out of free for trims, which give them back */
	uint64_t ahead;          /* out of free by ASH_CLAIM_AHEAD */
	uint64_t pending_blocks; /* freed, and not in free yet */
	uint64_t pending_added;  /* all that ever were */
	bool withdrew;           /* some were, at a time since somebody last lacked space */
	_Atomic uint64_t lacks;  /* how often somebody lacked space; raised under space_lock */

	pthread_mutex_t pending_lock;
	struct ash_alloc_freed *pending, **pending_end;
	struct ash_alloc_discard *discards;
	pthread_mutex_t discard_lock;     /* whoever empties these lists; who lacks space waits here until it is done */
	_Atomic uint32_t lacking;         /* so many who lack space wait for that lock: the worker leaves it to them */
	struct ash_alloc_discard *sorted; /* taken off `discards`, neighbours merged; under discard_lock */

	pthread_mutex_t io_lock;
	uint64_t generation, oldest; /* of data I/O */
	uint32_t in_flight[ASH_ALLOC_GENERATIONS];

	_Atomic uint32_t rotor; /* group where a claim without goal begins */
};

/* What of an extent lies in one group. */
struct ash_alloc_part {
	uint32_t index;        /* of the group */
	uint32_t first, count; /* bits */
};

/* Take the part in its first group off the extent. False when nothing is left of it. */
static inline bool ash_alloc_part_next(struct ash_extent *extent, struct ash_alloc_part *part)
{
	uint64_t rest = ASH_BLOCKS_PER_GROUP - extent->start % ASH_BLOCKS_PER_GROUP;

	if (!extent->count)
		return false;
	part->index = (uint32_t)(extent->start / ASH_BLOCKS_PER_GROUP);
	part->first = extent->start % ASH_BLOCKS_PER_GROUP;
	part->count = (uint32_t)(rest < extent->count ? rest : extent->count);
	extent->start += part->count;
	extent->count -= part->count;
	return true;
}

static inline struct ash_group_table_block *ash_alloc_table_of(struct ash_volume *volume, uint64_t group,
							       struct ash_buffer **buffer)
{
	*buffer = volume->alloc->table[group / ASH_GROUPS_PER_TABLE_BLOCK];
	return (void *)(*buffer)->data;
}

static inline bool ash_alloc_is_last_block(const struct ash_volume *volume, uint64_t block)
{
	return block == volume->block_count - 1;
}

static inline uint32_t ash_alloc_group_size(const struct ash_volume *volume, uint32_t index)
{
	uint64_t rest = volume->block_count - ash_group_start(index);

	return rest < ASH_BLOCKS_PER_GROUP ? (uint32_t)rest : ASH_BLOCKS_PER_GROUP;
}

/* Free blocks of a group of `length` blocks without a bitmap: all but the fixed ones. `last`: of the volume. */
static inline uint32_t ash_alloc_uninit_free(uint64_t group, uint64_t length, bool last)
{
	uint32_t fixed = (ash_group_has_super(group) ? 2 : 1) + (last ? 1 : 0);

	return length > fixed ? (uint32_t)length - fixed : 0;
}

/* The bits of a bitmap block as words of this machine. */
void ash_alloc_bitmap_words(const struct ash_bitmap_block *block, uint64_t words[ASH_ALLOC_WORDS]);
/*
 * The volume's own blocks are never free: what a group's bitmap says wrongly of them, or NULL. One that is believed
 * would have data written over them (I8).
 */
const char *ash_alloc_fixed_wrong(const struct ash_volume *volume, uint32_t index, const uint64_t *busy);

/* ---- Bits of `busy` ---- */

static inline bool ash_busy_get(const uint64_t *words, uint32_t bit)
{
	return words[bit / 64] >> (bit % 64) & 1;
}

static inline void ash_busy_fill(uint64_t *words, uint32_t first, uint32_t count, bool set)
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
static inline uint32_t ash_busy_find(const uint64_t *words, uint32_t from, uint32_t end, bool set)
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

static inline uint32_t ash_busy_count(const uint64_t *words, uint32_t end)
{
	uint32_t count = 0;

	for (uint32_t i = 0; i < end / 64; i++)
		count += (uint32_t)__builtin_popcountll(words[i]);
	for (uint32_t bit = end / 64 * 64; bit < end; bit++)
		count += ash_busy_get(words, bit);
	return count;
}

/* ---- alloc_group.c ---- */

/* Lock the group and have its `busy`: returns with group.lock held when 0. The bitmap is read before the lock is taken.
 * -EIO, -EUCLEAN, -ENOMEM; -ENOSPC: never used, and no log space for its first bitmap now, or being trimmed. */
int ash_alloc_lock_loaded(struct ash_volume *volume, uint32_t index);
/*
 * Is that a matter of the group only, whose bitmap cannot be had (I8)? Not so without memory or device, nor when the
 * volume has become read-only; and without log space the group is as good as before.
 */
bool ash_alloc_spoils_group(int result);
/* Blocks that are busy become free, group by group. No lock held; the groups are loaded. `flags` as at the claim. */
void ash_alloc_release(struct ash_volume *volume, struct ash_extent extent, unsigned flags);

/* ---- alloc.c ---- */

/*
 * Take blocks out of the volume's free count for a trim, at least `least` or none: how many. Takes space_lock. Only
 * what any claim may have, and none at all when somebody lacked space since `lacks` was read: data that lacks it comes
 * before advice to the device.
 */
uint64_t ash_alloc_space_withdraw(struct ash_allocator *alloc, uint64_t least, uint64_t most, uint64_t lacks);
/* Behind the flags of alloc.h: a trim gives them back. */
#define ASH_CLAIM_WITHDRAWN 16u
/* They were freed, and pending until now. */
#define ASH_CLAIM_PENDING 32u
/* Give blocks back to the free count, and to what is set aside if they came from there. Takes space_lock. */
void ash_alloc_space_give(struct ash_allocator *alloc, uint64_t count, unsigned flags);

/* ---- alloc_open.c ---- */

/*
 * Reference the table blocks of the first `groups` groups. -EUCLEAN when the table has no such blocks, -EIO, -ENOMEM.
 */
int ash_alloc_table_load(struct ash_volume *volume, uint32_t groups);
/*
 * Groups [first, end), as the table tells of them, into memory. Opening or growing: nothing but the volume's own
 * worker goes on, which does not know them yet.
 */
void ash_alloc_groups_open(struct ash_volume *volume, uint32_t first, uint32_t end);

/* ---- alloc_free.c ---- */

/* Forget what waits, at close. */
void ash_alloc_freed_drop(struct ash_allocator *alloc);

#endif
