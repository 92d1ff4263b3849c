/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The allocator's life: group table and groups into memory at open, a block 0 from before the volume grew noticed,
 * groups that replay touched counted again, all of it freed at close. Single-threaded.
 */
#include "alloc_group.h"

#include <stdlib.h>

int ash_alloc_note_replayed(struct ash_volume *volume, uint64_t group)
{
	uint64_t *more = reallocarray(volume->replayed_groups, volume->replayed_count + 1, sizeof(*more));

	if (!more)
		return -ENOMEM;
	volume->replayed_groups = more;
	more[volume->replayed_count++] = group;
	return 0;
}

/* Reference the table blocks of the first `groups` groups. */
int ash_alloc_table_load(struct ash_volume *volume, uint32_t groups)
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
	return alloc->table ? ash_alloc_table_load(volume, volume->group_count) : -ENOMEM;
}

void ash_alloc_groups_open(struct ash_volume *volume, uint32_t first, uint32_t end)
{
	struct ash_allocator *alloc = volume->alloc;

	for (uint32_t i = first; i < end; i++) {
		struct ash_alloc_group *group = &alloc->groups[i];
		struct ash_buffer *buffer;
		const struct ash_group_table_block *table = ash_alloc_table_of(volume, i, &buffer);
		uint32_t slot = i % ASH_GROUPS_PER_TABLE_BLOCK;

		pthread_mutex_init(&group->lock, NULL);
		group->size = ash_alloc_group_size(volume, i);
		group->uninit = ash_get32(table->flags[slot]) & ASH_GROUP_UNINIT;
		/* Where there is no bitmap that would correct it, the count of the table is not believed. */
		group->free = group->uninit ? ash_alloc_uninit_free(i, group->size, i + 1 == end) :
					      ash_get32(table->free_blocks[slot]);
		if (group->free > group->size)
			group->free = group->size; /* only a hint until the bitmap is read */
		group->longest = group->size;
		pthread_mutex_lock(&alloc->space_lock);
		alloc->free += group->free;
		pthread_mutex_unlock(&alloc->space_lock);
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
	error = ash_alloc_lock_loaded(volume, (uint32_t)index);
	if (error)
		return error;
	table = ash_alloc_table_of(volume, index, &buffer);
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

/* At home, and quietly: who needs a damaged one tells of that. */
static bool home_read(struct ash_volume *volume, struct ash_block_id id, uint8_t *data)
{
	return !bdev_read(volume->dev, data, ASH_BLOCK_SIZE, id.block * ASH_BLOCK_SIZE) &&
	       !ash_header_wrong(volume, id, data, true);
}

static bool last_group_has_grown(struct ash_volume *volume, uint8_t *data)
{
	uint32_t index = volume->group_count - 1;
	struct ash_block_id id = { ash_group_bitmap(index), ASH_MAGIC_BLOCK_BITMAP, index };
	uint64_t busy[ASH_ALLOC_WORDS];

	if (!home_read(volume, id, data))
		return false;
	ash_alloc_bitmap_words((const void *)data, busy);
	return ash_busy_find(busy, ash_alloc_group_size(volume, index), ASH_BLOCKS_PER_GROUP, false) <
	       ASH_BLOCKS_PER_GROUP;
}

static bool has_next_group(struct ash_volume *volume, uint8_t *data)
{
	const struct ash_group_table_block *table = (const void *)data;
	uint64_t index = volume->group_count / ASH_GROUPS_PER_TABLE_BLOCK;
	uint32_t slot = volume->group_count % ASH_GROUPS_PER_TABLE_BLOCK;
	struct ash_block_id id = { volume->group_table_start + index, ASH_MAGIC_GROUP_TABLE, 0 };

	return index < volume->group_table_blocks && home_read(volume, id, data) &&
	       (table->flags[slot].raw || table->free_blocks[slot].raw);
}

/*
 * Group table and last bitmap learn that the volume grew in one transaction with block 0, which the log gives to all or
 * to none: where they know more, the write of block 0 to its home was lost. A growth that a crash took back has left
 * only blocks behind the end. For a volume of one group there is no other evidence (volume.c: backups_compare()).
 */
static int outgrown_check(struct ash_volume *volume)
{
	uint8_t *data = bdev_buffer_alloc(ASH_BLOCK_SIZE);

	if (!data)
		return -ENOMEM;
	if (last_group_has_grown(volume, data) || has_next_group(volume, data))
		ash_damaged(volume, 0, "it is of a time before the volume grew, as bitmap or group table tell");
	bdev_buffer_free(data, ASH_BLOCK_SIZE);
	return 0;
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
	pthread_mutex_init(&alloc->discard_lock, NULL);
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
	ash_alloc_groups_open(volume, 0, alloc->group_count);
	error = outgrown_check(volume);
	return error ? error : replayed_recount(volume);
}

void ash_alloc_close(struct ash_volume *volume)
{
	struct ash_allocator *alloc = volume->alloc;

	free(volume->replayed_groups);
	volume->replayed_groups = NULL;
	if (!alloc)
		return;
	ash_alloc_freed_drop(alloc);
	for (uint32_t i = 0; i < alloc->group_count; i++) {
		free(alloc->groups[i].busy);
		pthread_mutex_destroy(&alloc->groups[i].lock);
	}
	free(alloc->groups);
	free(alloc->table);
	pthread_mutex_destroy(&alloc->space_lock);
	pthread_mutex_destroy(&alloc->pending_lock);
	pthread_mutex_destroy(&alloc->discard_lock);
	pthread_mutex_destroy(&alloc->io_lock);
	free(alloc);
	volume->alloc = NULL;
}
