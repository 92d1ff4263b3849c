/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What growing a volume needs of the allocator (grow.c, which holds rename_lock and keeps everything else out); the
 * contract is in alloc.h.
 */
#include "alloc_group.h"

int ash_alloc_extend_prepare(struct ash_volume *volume, uint32_t group_count)
{
	return ash_alloc_table_load(volume, group_count);
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
	error = ash_alloc_lock_loaded(volume, group);
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
	struct ash_alloc_group *group = &alloc->groups[index];
	uint32_t old_size, first, count;

	pthread_mutex_lock(&group->lock);
	old_size = group->size;
	group->size = ash_alloc_group_size(volume, index);
	first = old_block_count == ash_group_start(index) + old_size ? old_size - 1 : old_size;
	count = group->size - first - ash_alloc_is_last_block(volume, ash_group_start(index) + group->size - 1);
	if (group->busy)
		ash_busy_fill(group->busy, first, count, false);
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
	ash_alloc_groups_open(volume, old_groups, volume->group_count);
	volume->alloc->group_count = volume->group_count;
}
