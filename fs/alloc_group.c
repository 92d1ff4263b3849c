/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The groups of the allocator: their bitmaps made and loaded, blocks given back (alloc_group.h).
 */
#include "alloc_group.h"
#include "recover.h"

#include <stdlib.h>

/* Has the group blocks of this extent? */
static bool is_within(uint32_t index, uint64_t start, uint64_t count)
{
	return start < ash_group_start(index) + ASH_BLOCKS_PER_GROUP && start + count > ash_group_start(index);
}

/* The fixed blocks of a group that was never written: see format.h. */
static void uninit_bits(struct ash_volume *volume, uint32_t index, struct ash_txn *txn, struct ash_buffer *bitmap)
{
	struct ash_alloc_group *group = &volume->alloc->groups[index];
	uint32_t fixed = ash_group_has_super(index) ? 2 : 1, beyond = ASH_BLOCKS_PER_GROUP - group->size;

	ash_txn_bits(txn, bitmap, 0, fixed, true);
	if (beyond)
		ash_txn_bits(txn, bitmap, group->size, beyond, true);
	if (ash_alloc_is_last_block(volume, ash_group_start(index) + group->size - 1))
		ash_txn_bits(txn, bitmap, group->size - 1, 1, true);
}

/* group.lock held. */
static int group_initialize(struct ash_volume *volume, uint32_t index)
{
	struct ash_block_id id = { ash_group_bitmap(index), ASH_MAGIC_BLOCK_BITMAP, index };
	struct ash_buffer *table_buffer, *bitmap;
	struct ash_group_table_block *table = ash_alloc_table_of(volume, index, &table_buffer);
	uint32_t slot = index % ASH_GROUPS_PER_TABLE_BLOCK;
	ash_le32 flags = ash_put32(ash_get32(table->flags[slot]) & ~ASH_GROUP_UNINIT);
	struct ash_txn *txn;
	int error;

	if (is_within(index, volume->log_start, volume->log_blocks) ||
	    is_within(index, volume->group_table_start, volume->group_table_blocks))
		return ash_damaged(volume, volume->group_table_start + index / ASH_GROUPS_PER_TABLE_BLOCK,
				   "group of the log or the group table without a bitmap");
	error = ash_txn_begin_system(volume, &txn);
	if (error)
		return error;
	error = ash_txn_new_block(txn, id, &bitmap);
	if (error) {
		ash_txn_abort(txn);
		return error;
	}
	uninit_bits(volume, index, txn, bitmap);
	ash_txn_set(txn, table_buffer, offsetof(struct ash_group_table_block, flags) + slot * 4, &flags, sizeof(flags));
	/* the commit takes off all bits that are set here, also those of blocks that the table never counted as free */
	ash_lock(&table_buffer->lock);
	table->free_blocks[slot] = ash_put32(ASH_BLOCKS_PER_GROUP);
	ash_unlock(&table_buffer->lock);
	ash_txn_commit(txn);
	volume->alloc->groups[index].bitmap = bitmap;
	volume->alloc->groups[index].uninit = false;
	return 0;
}

/* Are all of the group's blocks of `extent` busy? */
static bool part_is_busy(const uint64_t *busy, uint32_t index, uint64_t start, uint64_t count)
{
	uint64_t first = ash_group_start(index), end = start + count;

	if (start < first)
		start = first;
	if (end > first + ASH_BLOCKS_PER_GROUP)
		end = first + ASH_BLOCKS_PER_GROUP;
	return start >= end ||
	       ash_busy_find(busy, (uint32_t)(start - first), (uint32_t)(end - first), false) >= end - first;
}

void ash_alloc_bitmap_words(const struct ash_bitmap_block *block, uint64_t words[ASH_ALLOC_WORDS])
{
	memcpy(words, block->bits, ASH_ALLOC_WORDS * 8);
	for (uint32_t i = 0; i < ASH_ALLOC_WORDS; i++)
		words[i] = le64toh(words[i]);
}

const char *ash_alloc_fixed_wrong(const struct ash_volume *volume, uint32_t index, const uint64_t *busy)
{
	uint64_t bitmap = ash_group_bitmap(index), start = ash_group_start(index);

	if (!part_is_busy(busy, index, start, bitmap - start + 1) ||
	    !part_is_busy(busy, index, volume->log_start, volume->log_blocks) ||
	    !part_is_busy(busy, index, volume->group_table_start, volume->group_table_blocks))
		return "bitmap says that the volume's own blocks are free";
	return part_is_busy(busy, index, volume->block_count - 1, 1) ?
		       NULL :
		       "bitmap says that the last backup superblock is free";
}

/* group.lock held, bitmap referenced: make `busy`, correct the counts. */
static int group_fill(struct ash_volume *volume, uint32_t index)
{
	struct ash_allocator *alloc = volume->alloc;
	struct ash_alloc_group *group = &alloc->groups[index];
	const struct ash_bitmap_block *block = (const void *)group->bitmap->data;
	uint64_t *busy = malloc(ASH_ALLOC_WORDS * 8);
	uint32_t free_blocks;
	const char *wrong;

	if (!busy)
		return -ENOMEM;
	ash_lock(&group->bitmap->lock);
	ash_alloc_bitmap_words(block, busy);
	ash_unlock(&group->bitmap->lock);
	ash_busy_fill(busy, group->size, ASH_BLOCKS_PER_GROUP - group->size, true);
	wrong = ash_alloc_fixed_wrong(volume, index, busy);
	if (wrong) {
		free(busy);
		return ash_damaged(volume, group->bitmap->id.block, wrong);
	}
	free_blocks = group->size - ash_busy_count(busy, group->size);
	pthread_mutex_lock(&alloc->space_lock);
	alloc->free += free_blocks;
	alloc->free -= group->free;
	pthread_mutex_unlock(&alloc->space_lock);
	__atomic_store_n(&group->free, free_blocks, __ATOMIC_RELAXED);
	__atomic_store_n(&group->longest, group->size, __ATOMIC_RELAXED);
	group->busy = busy;
	return 0;
}

bool ash_alloc_spoils_group(int result)
{
	return result < 0 && ash_unreadable(result) && result != -EROFS && result != -ENOSPC;
}

/* Returns with group.lock held when 0. The bitmap is read before the lock is taken. */
int ash_alloc_lock_loaded(struct ash_volume *volume, uint32_t index)
{
	struct ash_alloc_group *group = &volume->alloc->groups[index];
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
	table = ash_alloc_table_of(volume, group, &buffer);
	ash_lock(&buffer->lock);
	table->free_blocks[slot] = ash_put32((uint32_t)(ash_get32(table->free_blocks[slot]) + delta));
	buffer->last_lsn = end_lsn;
	ash_unlock(&buffer->lock);
	ash_log_dirty_locked(volume->log, buffer, start_lsn);
}

void ash_alloc_release(struct ash_volume *volume, struct ash_extent extent, unsigned flags)
{
	struct ash_alloc_part part;

	while (ash_alloc_part_next(&extent, &part)) {
		struct ash_alloc_group *group = &volume->alloc->groups[part.index];

		pthread_mutex_lock(&group->lock);
		ash_busy_fill(group->busy, part.first, part.count, false);
		__atomic_store_n(&group->free, group->free + part.count, __ATOMIC_RELAXED);
		__atomic_store_n(&group->longest, group->size, __ATOMIC_RELAXED);
		ash_alloc_space_give(volume->alloc, part.count, flags);
		pthread_mutex_unlock(&group->lock);
	}
}
