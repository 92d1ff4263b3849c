/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Block allocator: the contract is in alloc.h. Here are the claims and the figures of free space; the groups are in
 * alloc_group.c, the life of a freed block in alloc_free.c, trimming in alloc_trim.c.
 *
 * A claim looks group by group, from the goal on, first for all blocks in one piece and then for less. The look at
 * a group's figures is without its lock; what is found there is taken under it.
 *
 * A group whose bitmap is damaged or cannot be read is passed by (I8): the others have room. It is tried again now and
 * then, for a fault of reading may go away, and when nothing else is left.
 *
 * Locks: alloc_group.h.
 */
#include "alloc_group.h"

/* So many claims pass a group by before its bitmap is tried again: a disk may take seconds to say that it cannot read. */
#define SHUNNED_CLAIMS 1024u
/* Besides ASH_CLAIM_*: try those groups, too. */
#define CLAIM_SHUNNED 0x100u

/* ---- Free counts ---- */

/* space_lock held: how many of `wanted` blocks this caller may have. */
static uint64_t space_allowed_locked(const struct ash_allocator *alloc, uint64_t wanted, unsigned flags)
{
	uint64_t kept = flags & ASH_CLAIM_RESERVED ? 0 : alloc->reserved, allowed;

	if (!(flags & (ASH_CLAIM_EMERGENCY | ASH_CLAIM_RESERVED)))
		kept += flags & ASH_CLAIM_PROMISED ? alloc->emergency / 2 : alloc->emergency;
	allowed = alloc->free > kept ? alloc->free - kept : 0;
	return wanted < allowed ? wanted : allowed;
}

/*
 * Take up to `wanted` blocks out of the volume's free count, as the claim's flags allow: how many. Look and take are
 * one step: two claims that each see the same last blocks must not both eat into the reserve.
 */
static uint64_t space_take(struct ash_allocator *alloc, uint64_t wanted, unsigned flags)
{
	uint64_t count;

	pthread_mutex_lock(&alloc->space_lock);
	count = space_allowed_locked(alloc, wanted, flags);
	alloc->free -= count;
	if (flags & ASH_CLAIM_RESERVED)
		alloc->reserved -= count < alloc->reserved ? count : alloc->reserved;
	if (flags & ASH_CLAIM_AHEAD)
		alloc->ahead += count;
	pthread_mutex_unlock(&alloc->space_lock);
	return count;
}

uint64_t ash_alloc_space_withdraw(struct ash_allocator *alloc, uint64_t least, uint64_t most, uint64_t lacks)
{
	uint64_t count = 0;

	pthread_mutex_lock(&alloc->space_lock);
	if (alloc->lacks == lacks)
		count = space_allowed_locked(alloc, most, 0);
	count = count >= least ? count : 0;
	alloc->free -= count;
	alloc->withdrawn += count;
	alloc->withdrew |= count != 0;
	pthread_mutex_unlock(&alloc->space_lock);
	return count;
}

void ash_alloc_space_give(struct ash_allocator *alloc, uint64_t count, unsigned flags)
{
	pthread_mutex_lock(&alloc->space_lock);
	alloc->free += count;
	if (flags & ASH_CLAIM_WITHDRAWN)
		alloc->withdrawn -= count;
	if (flags & ASH_CLAIM_PENDING)
		alloc->pending_blocks -= count;
	if (flags & ASH_CLAIM_AHEAD)
		alloc->ahead -= count;
	if (flags & ASH_CLAIM_RESERVED)
		alloc->reserved += count;
	pthread_mutex_unlock(&alloc->space_lock);
}

bool ash_alloc_lack(struct ash_volume *volume)
{
	struct ash_allocator *alloc = volume->alloc;
	bool withdrew;

	pthread_mutex_lock(&alloc->space_lock);
	withdrew = alloc->withdrew;
	/* what is out now may be what the next one lacks, too */
	alloc->withdrew = alloc->withdrawn != 0;
	alloc->lacks++;
	pthread_mutex_unlock(&alloc->space_lock);
	return withdrew;
}

static uint64_t space_allowed(struct ash_allocator *alloc, uint64_t wanted, unsigned flags)
{
	uint64_t allowed;

	pthread_mutex_lock(&alloc->space_lock);
	allowed = space_allowed_locked(alloc, wanted, flags);
	pthread_mutex_unlock(&alloc->space_lock);
	return allowed;
}

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

	pthread_mutex_lock(&alloc->space_lock);
	*free_blocks = alloc->free + alloc->withdrawn + alloc->pending_blocks + alloc->ahead;
	*available = *free_blocks > alloc->reserved + alloc->emergency ?
			     *free_blocks - alloc->reserved - alloc->emergency :
			     0;
	pthread_mutex_unlock(&alloc->space_lock);
}

/* ---- Claims ---- */

/* group.lock held: the best free run for `wanted` at or behind bit `from`: the first long enough, else the longest. */
static uint32_t run_find(struct ash_alloc_group *group, uint32_t from, uint32_t wanted, uint32_t *first)
{
	uint32_t best = 0, at = from;
	bool wrapped = from == 0;

	for (;;) {
		uint32_t start = ash_busy_find(group->busy, at, group->size, false), end, limit;

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
		end = ash_busy_find(group->busy, start, limit, true);
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

static bool group_shunned(struct ash_alloc_group *group)
{
	uint32_t claims = atomic_load_explicit(&group->shunned, memory_order_relaxed);

	if (claims > 1)
		atomic_store_explicit(&group->shunned, claims - 1, memory_order_relaxed);
	return claims > 1;
}

static void group_shun(struct ash_volume *volume, uint32_t index, int error)
{
	if (!atomic_exchange(&volume->alloc->groups[index].shunned, SHUNNED_CLAIMS))
		ash_say(volume, ASH_LOG_ERROR,
			"the bitmap of group %u cannot be had (%s): its free blocks are not used", index,
			strerror(-error));
}

/* Try one group; at least `minimum` adjacent blocks (fewer when another claim took the last) or nothing. 1 claimed, 0 not here. */
static int group_claim(struct ash_volume *volume, uint32_t index, uint32_t from, uint64_t wanted, uint64_t minimum,
		       unsigned flags, struct ash_extent *out)
{
	struct ash_alloc_group *group = &volume->alloc->groups[index];
	uint32_t first = 0, found, limit = wanted > group->size ? group->size : (uint32_t)wanted;
	int error;

	/* a look without the lock saves visits; a stale value costs at most a better place */
	if (__atomic_load_n(&group->free, __ATOMIC_RELAXED) < minimum ||
	    __atomic_load_n(&group->longest, __ATOMIC_RELAXED) < minimum)
		return 0;
	if (!(flags & CLAIM_SHUNNED) && group_shunned(group))
		return -EIO;
	error = ash_alloc_lock_loaded(volume, index);
	if (ash_alloc_spoils_group(error))
		group_shun(volume, index, error);
	if (error)
		return error;
	if (atomic_load_explicit(&group->shunned, memory_order_relaxed))
		atomic_store_explicit(&group->shunned, 0, memory_order_relaxed);
	found = run_find(group, from, limit, &first);
	found = found >= minimum ? (uint32_t)space_take(volume->alloc, found, flags) : 0;
	if (found) {
		ash_busy_fill(group->busy, first, found, true);
		__atomic_store_n(&group->free, group->free - found, __ATOMIC_RELAXED);
	}
	pthread_mutex_unlock(&group->lock);
	if (found == 0)
		return 0;
	*out = (struct ash_extent){ ash_group_start(index) + first, found };
	return 1;
}

/* Will blocks be free soon that are not now? */
static bool comes_back(struct ash_volume *volume)
{
	bool out;

	pthread_mutex_lock(&volume->alloc->space_lock);
	out = volume->alloc->withdrawn || volume->alloc->ahead;
	pthread_mutex_unlock(&volume->alloc->space_lock);
	return out || ash_alloc_freed(volume);
}

/* 1 claimed; 0 no group has that much; an error that ash_alloc_spoils_group(): none that could be looked at has. */
static int claim_round(struct ash_volume *volume, uint64_t goal, uint64_t wanted, uint64_t minimum, unsigned flags,
		       struct ash_extent *out)
{
	struct ash_allocator *alloc = volume->alloc;
	uint32_t start = (uint32_t)(goal / ASH_BLOCKS_PER_GROUP);
	int result = 0, spoilt = 0;

	for (uint32_t i = 0; i < alloc->group_count; i++) {
		uint32_t index = (start + i) % alloc->group_count;

		result = group_claim(volume, index, i ? 0 : goal % ASH_BLOCKS_PER_GROUP, wanted, minimum, flags, out);
		/* -ENOSPC: no log space now to write the first bitmap of this group, or it is being trimmed: others will do */
		if (ash_alloc_spoils_group(result))
			spoilt = result;
		else if (result && result != -ENOSPC)
			return result;
	}
	return spoilt;
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
	/* all in one piece, then quarters, so that big files stay in big pieces on an aged volume; a group cannot give all
	 * its blocks, for one is its bitmap, so it would be in vain to ask every group for that */
	for (uint64_t minimum = wanted < ASH_BLOCKS_PER_GROUP ? wanted : wanted / 4;;
	     minimum = minimum > 8 ? minimum / 4 : 1) {
		result = claim_round(volume, goal, wanted, minimum, flags, out);
		if (result == 1) {
			atomic_store(&alloc->rotor, (uint32_t)(out->start / ASH_BLOCKS_PER_GROUP));
			return 0;
		}
		if (result && !ash_alloc_spoils_group(result))
			return result;
		if (minimum > 1)
			continue;
		/* with blocks that will be free soon there is hope, and buffered data is given up for any other error */
		if (!result || flags & CLAIM_SHUNNED)
			return result && !comes_back(volume) ? result : -ENOSPC;
		flags |= CLAIM_SHUNNED;
	}
}

void ash_claim_used(struct ash_volume *volume, uint64_t count)
{
	pthread_mutex_lock(&volume->alloc->space_lock);
	volume->alloc->ahead -= count;
	pthread_mutex_unlock(&volume->alloc->space_lock);
}

uint64_t ash_alloc_ahead(struct ash_volume *volume)
{
	uint64_t ahead;

	pthread_mutex_lock(&volume->alloc->space_lock);
	ahead = volume->alloc->ahead;
	pthread_mutex_unlock(&volume->alloc->space_lock);
	return ahead;
}

void ash_unclaim(struct ash_volume *volume, struct ash_extent extent, unsigned flags)
{
	ash_alloc_release(volume, extent, flags);
}

/* Log the claim of an extent; every group it touches is loaded. */
static void bits_log(struct ash_txn *txn, struct ash_extent extent)
{
	struct ash_alloc_part part;

	while (ash_alloc_part_next(&extent, &part))
		ash_txn_bits(txn, ash_txn_volume(txn)->alloc->groups[part.index].bitmap, part.first, part.count, true);
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
