/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Trim: what is free is told to the device, a piece at a time, withdrawn meanwhile so that nobody takes it.
 *
 * Locks: group.lock for a look or a piece taken, never over the discard itself.
 */
#include "alloc_group.h"

struct trim {
	uint32_t bit, end; /* what is left to look at, within the group */
	uint32_t run_end;  /* the free run at `bit` is long enough and ends here; 0: not known yet */
	uint64_t minimum;  /* blocks */
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
		uint64_t taken;

		trim->bit = last;
		if (first == last || !enough)
			continue;
		trim->run_end = last;
		if (last - first > PIECE)
			trim->bit = last = first + PIECE;
		taken = ash_alloc_space_take(volume->alloc, last - first, ASH_CLAIM_EMERGENCY);
		found = taken == last - first;
		if (!found) { /* the rest is promised to buffered data */
			ash_alloc_space_give(volume->alloc, taken, 0);
			continue;
		}
		ash_busy_fill(group->busy, first, last - first, true);
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
	struct ash_alloc_group *group = &volume->alloc->groups[index];
	uint32_t first = ash_group_has_super(index) ? 2 : 1, end;
	int error = 0;

	pthread_mutex_lock(&group->lock);
	if (!group->uninit || group->withdrawn) {
		error = !group->uninit;
		pthread_mutex_unlock(&group->lock);
		return error;
	}
	group->withdrawn = true;
	end = group->size - ash_alloc_is_last_block(volume, ash_group_start(index) + group->size - 1);
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
	error = ash_alloc_lock_loaded(volume, index);
	if (error)
		return error == -EUCLEAN ? 0 : error; /* a damaged bitmap spoils its group only (I8) */
	pthread_mutex_unlock(&volume->alloc->groups[index].lock);
	while (!error && trim_take(volume, index, &trim, &extent)) {
		error = extent_discard(volume, extent, trimmed);
		ash_alloc_release(volume, extent, 0);
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
