/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Trim: what is free is told to the device, a piece at a time, withdrawn meanwhile so that nobody takes it.
 *
 * What is withdrawn is still space: statfs counts it, who lacks it waits for it (space.c), and that ends the trim, for
 * otherwise the next piece would be gone when he looks again. So nobody gets ENOSPC because of a trim. What is set aside
 * for buffered data, and the emergency reserve, whose users cannot wait, are never withdrawn.
 *
 * Locks: group.lock for a look or a piece taken, never over the discard itself.
 */
#include "alloc_group.h"

struct trim {
	uint32_t bit, end; /* what is left to look at, within the group */
	uint32_t run_end;  /* the free run at `bit` is long enough and ends here; 0: not known yet */
	uint64_t minimum;  /* blocks */
	uint64_t lacks;    /* of the allocator, when the trim began */
	ash_stop stop;     /* NULL: goes on */
	void *context;
	uint64_t *trimmed; /* bytes */
};

/* Withdraw the next piece of a free run of at least `minimum` blocks, so that nobody takes it meanwhile. */
static bool trim_take(struct ash_volume *volume, uint32_t index, struct trim *trim, struct ash_extent *out)
{
	enum { PIECE = 2048 }; /* a short time for few blocks: others may need them */
	struct ash_alloc_group *group = &volume->alloc->groups[index];
	bool found = false;

	pthread_mutex_lock(&group->lock);
	if (trim->end > group->size)
		trim->end = group->size;
	while (!found && trim->bit < trim->end) {
		uint32_t first = ash_busy_find(group->busy, trim->bit, trim->end, false);
		uint32_t last = ash_busy_find(group->busy, first, trim->end, true);
		bool enough = last - first >= trim->minimum || (trim->bit == first && last <= trim->run_end);
		uint64_t least;
		uint32_t taken;

		trim->bit = last;
		if (first == last || !enough)
			continue;
		trim->run_end = last;
		if (last - first > PIECE)
			trim->bit = last = first + PIECE;
		least = last - first < trim->minimum ? last - first : trim->minimum;
		taken = (uint32_t)ash_alloc_space_withdraw(volume->alloc, least, last - first, trim->lacks);
		found = taken != 0;
		if (!found)
			continue;
		trim->bit = first + taken;
		ash_busy_fill(group->busy, first, taken, true);
		__atomic_store_n(&group->free, group->free - taken, __ATOMIC_RELAXED);
		*out = (struct ash_extent){ ash_group_start(index) + first, taken };
	}
	pthread_mutex_unlock(&group->lock);
	return found;
}

static int extent_discard(struct ash_volume *volume, struct ash_extent extent, const struct trim *trim)
{
	int error;

	if (trim->stop && trim->stop(trim->context))
		return -EINTR;
	ash_wait_begin(volume);
	error = bdev_discard(volume->dev, extent.start * ASH_BLOCK_SIZE, extent.count * ASH_BLOCK_SIZE);
	ash_wait_end(volume);
	if (!error)
		*trim->trimmed += extent.count * ASH_BLOCK_SIZE;
	return error;
}

/* group.lock held. Withdraw all of a group that was never used; 0: others may need it, or another trim is at it. */
static uint32_t uninit_take(struct ash_allocator *alloc, struct ash_alloc_group *group, uint64_t lacks)
{
	uint32_t count;

	if (group->withdrawn)
		return 0;
	count = (uint32_t)ash_alloc_space_withdraw(alloc, group->free, group->free, lacks);
	if (count) {
		group->withdrawn = true;
		__atomic_store_n(&group->free, 0, __ATOMIC_RELAXED);
	}
	return count;
}

/* What a trim may discard of a group that was never used: an empty extent when it is not enough. */
static struct ash_extent uninit_extent(struct ash_volume *volume, uint32_t index, const struct trim *trim)
{
	uint32_t first = ash_group_has_super(index) ? 2 : 1, end = volume->alloc->groups[index].size;

	end -= ash_alloc_is_last_block(volume, ash_group_start(index) + end - 1);
	first = trim->bit > first ? trim->bit : first;
	end = trim->end < end ? trim->end : end;
	if (end <= first || end - first < trim->minimum)
		return (struct ash_extent){ 0 };
	return (struct ash_extent){ ash_group_start(index) + first, end - first };
}

/* A group that was never used needs no bitmap for this: it is withdrawn as a whole. 1: it is in use by now. */
static int trim_uninit(struct ash_volume *volume, uint32_t index, const struct trim *trim)
{
	struct ash_alloc_group *group = &volume->alloc->groups[index];
	struct ash_extent extent = uninit_extent(volume, index, trim);
	uint32_t count;
	bool uninit;
	int error;

	pthread_mutex_lock(&group->lock);
	uninit = group->uninit;
	count = uninit && extent.count ? uninit_take(volume->alloc, group, trim->lacks) : 0;
	pthread_mutex_unlock(&group->lock);
	if (!count)
		return !uninit;
	error = extent_discard(volume, extent, trim);
	pthread_mutex_lock(&group->lock);
	group->withdrawn = false;
	__atomic_store_n(&group->free, count, __ATOMIC_RELAXED);
	ash_alloc_space_give(volume->alloc, count, ASH_CLAIM_WITHDRAWN);
	pthread_mutex_unlock(&group->lock);
	return error;
}

static int trim_group(struct ash_volume *volume, uint32_t index, struct trim trim)
{
	struct ash_extent extent;
	int error = trim_uninit(volume, index, &trim);

	if (error != 1)
		return error;
	error = ash_alloc_lock_loaded(volume, index);
	if (error)
		return ash_alloc_spoils_group(error) ? 0 : error;
	pthread_mutex_unlock(&volume->alloc->groups[index].lock);
	while (!error && trim_take(volume, index, &trim, &extent)) {
		error = extent_discard(volume, extent, &trim);
		ash_alloc_release(volume, extent, ASH_CLAIM_WITHDRAWN);
	}
	return error;
}

int ash_trim_until(struct ash_volume *volume, uint64_t start, uint64_t length, uint64_t minimum, ash_stop stop,
		   void *context, uint64_t *trimmed)
{
	uint64_t first = start / ASH_BLOCK_SIZE + (start % ASH_BLOCK_SIZE != 0), end, lacks;
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
	/* what was freed becomes trimmable; no more than that, for a sync tells of data that was lost, and would tell a trim */
	error = ash_log_force(volume, ash_log_end(volume));
	ash_alloc_reap(volume);
	lacks = atomic_load(&volume->alloc->lacks);
	for (uint64_t at = first; !error && at < end && atomic_load(&volume->alloc->lacks) == lacks;) {
		uint32_t index = (uint32_t)(at / ASH_BLOCKS_PER_GROUP);
		uint64_t group_end = ash_group_start(index + 1) < end ? ash_group_start(index + 1) : end;

		error = trim_group(volume, index,
				   (struct trim){ .bit = at % ASH_BLOCKS_PER_GROUP,
						  .end = (uint32_t)(group_end - ash_group_start(index)),
						  .minimum = minimum,
						  .lacks = lacks,
						  .stop = stop,
						  .context = context,
						  .trimmed = trimmed });
		at = group_end;
	}
	return error;
}

int ash_trim(struct ash_volume *volume, uint64_t start, uint64_t length, uint64_t minimum, uint64_t *trimmed)
{
	return ash_trim_until(volume, start, length, minimum, NULL, NULL, trimmed);
}
