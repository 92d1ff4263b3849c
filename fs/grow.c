/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Growing a volume: groups are appended.
 *
 * Concept: a growth goes in steps, each of them a whole one: new group table entries (all but the last group are
 * UNINIT: nothing else of them is written), the bitmap of the group that was the last one, and the superblock's size
 * change in one transaction.
 *
 * Order of a step:
 *   backups of the superblock and the last bitmap in the new part are written and flushed - the transaction - a
 *   checkpoint, so that the superblock at home knows the new size before any log record can speak of blocks in the new
 *   part (replay checks addresses against it, I8) - the allocator takes the new blocks in - the older backups are
 *   rewritten.
 * A crash leaves the old size or the new one. The old size's last block, a backup until then, becomes a free block.
 *
 * Locks: rename_lock, held over the whole call; it owns the size fields of the superblock. Under it the inode table's
 * grow_lock, while the superblock is copied.
 */
#include "alloc_group.h"
#include "engine.h"
#include "names.h"
#include "plant.h"

#include <ashlar/blockdev.h>

#define STEP_TABLE_BLOCKS 8u /* 4 KiB of log each */

struct size {
	uint64_t blocks;
	uint32_t groups;
};

static struct size size_of(uint64_t blocks)
{
	return (struct size){ blocks, (uint32_t)((blocks + ASH_BLOCKS_PER_GROUP - 1) / ASH_BLOCKS_PER_GROUP) };
}

static uint64_t group_length(struct size size, uint64_t group)
{
	uint64_t rest = size.blocks - ash_group_start(group);

	return rest < ASH_BLOCKS_PER_GROUP ? rest : ASH_BLOCKS_PER_GROUP;
}

/* ---- Backups of the superblock ---- */

static int write_backup(struct ash_volume *volume, struct ash_super *image, uint64_t address)
{
	image->header.address = ash_put64(address);
	image->header.crc = ash_put32(ash_block_crc(0, image));
	return bdev_write(volume->dev, image, ASH_BLOCK_SIZE, address << ASH_BLOCK_SHIFT, 0);
}

/*
 * Backups in groups [first, last) and in the last block of the volume, as they are to be when it has `size`. The runs of
 * the inode table that they count are durable in the log before: one that counts more than that is evidence of damage.
 */
static int write_backups(struct ash_volume *volume, struct size size, uint32_t first, uint32_t last)
{
	struct ash_super *image = bdev_buffer_alloc(ASH_BLOCK_SIZE);
	int result;

	if (!image)
		return -ENOMEM;
	ash_lock_long(volume, ash_itable_lock(volume)); /* no run is half made */
	ash_lock(&volume->super->lock);
	memcpy(image, volume->super->data, ASH_BLOCK_SIZE);
	ash_unlock(&volume->super->lock);
	pthread_mutex_unlock(ash_itable_lock(volume));
	result = ash_log_force(volume, ash_log_end(volume));
	image->block_count = ash_put64(size.blocks);
	image->group_count = ash_put32(size.groups);
	ash_image_stamp(volume->checksum_seed, ASH_MAGIC_SUPER, 0, (uint8_t *)image);
	for (uint32_t group = first ? first : 1; group < last && !result; group++)
		if (ash_group_has_super(group))
			result = write_backup(volume, image, ash_group_start(group));
	if (!result)
		result = write_backup(volume, image, size.blocks - 1);
	if (!result && !ASH_PLANTED(ASH_PLANT_GROW_NO_FLUSH))
		result = ash_log_flush_home(volume);
	bdev_buffer_free(image, ASH_BLOCK_SIZE);
	return result;
}

/* ---- The new last group ---- */

static void set_bits(struct ash_bitmap_block *block, uint64_t first, uint64_t count)
{
	for (uint64_t bit = first; bit < first + count; bit++)
		block->bits[bit / 8] |= (uint8_t)(1u << bit % 8);
}

/*
 * It holds a backup in its last block, so it is not UNINIT. Its bitmap is written in place, as mkfs would: nothing
 * refers to it yet, and a log record about it could not be replayed before the new size is at home.
 */
static int write_last_bitmap(struct ash_volume *volume, struct size size)
{
	struct ash_bitmap_block *block = bdev_buffer_alloc(ASH_BLOCK_SIZE);
	uint32_t group = size.groups - 1;
	uint64_t address = ash_group_bitmap(group), length = group_length(size, group);
	int result;

	if (!block)
		return -ENOMEM;
	block->header.magic = ash_put32(ASH_MAGIC_BLOCK_BITMAP);
	block->header.address = ash_put64(address);
	block->header.owner = ash_put64(group);
	memcpy(block->header.metadata_uuid, volume->metadata_uuid, sizeof(block->header.metadata_uuid));
	set_bits(block, 0, address + 1 - ash_group_start(group));
	set_bits(block, length - 1, ASH_BLOCKS_PER_GROUP - length + 1);
	block->header.crc = ash_put32(ash_block_crc(volume->checksum_seed, block));
	result = bdev_write(volume->dev, block, ASH_BLOCK_SIZE, address << ASH_BLOCK_SHIFT, 0);
	bdev_buffer_free(block, ASH_BLOCK_SIZE);
	return result;
}

/* ---- The transaction of a step ---- */

static uint32_t free_of_new_group(struct size size, uint32_t group)
{
	return ash_alloc_uninit_free(group, group_length(size, group), group + 1 == size.groups);
}

/* Entries of groups [first, last), all in one table block. */
static void log_entries(struct ash_txn *txn, struct size size, uint32_t first, uint32_t last)
{
	struct ash_buffer *table = ash_alloc_table(ash_txn_volume(txn), first);
	uint32_t slot = first % ASH_GROUPS_PER_TABLE_BLOCK, bytes = (last - first) * (uint32_t)sizeof(ash_le32);
	ash_le32 flags[ASH_GROUPS_PER_TABLE_BLOCK], free_blocks[ASH_GROUPS_PER_TABLE_BLOCK];

	for (uint32_t group = first; group < last; group++) {
		flags[group - first] = ash_put32(group + 1 < size.groups ? ASH_GROUP_UNINIT : 0);
		free_blocks[group - first] = ash_put32(free_of_new_group(size, group));
	}
	ash_txn_set(txn, table, offsetof(struct ash_group_table_block, flags) + slot * 4, flags, bytes);
	ash_txn_set(txn, table, offsetof(struct ash_group_table_block, free_blocks) + slot * 4, free_blocks, bytes);
}

static void log_table(struct ash_txn *txn, struct size old, struct size size)
{
	for (uint32_t group = old.groups; group < size.groups;) {
		uint32_t end = (group / ASH_GROUPS_PER_TABLE_BLOCK + 1) * ASH_GROUPS_PER_TABLE_BLOCK;

		if (end > size.groups)
			end = size.groups;
		log_entries(txn, size, group, end);
		group = end;
	}
}

/*
 * The old last group gets longer, or at least its backup block free. What lies behind the volume's end is set in its
 * bitmap.
 */
static void log_old_last_group(struct ash_txn *txn, struct ash_buffer *bitmap, struct size old, struct size size)
{
	uint32_t first = (uint32_t)group_length(old, old.groups - 1) - 1;
	uint32_t end = (uint32_t)group_length(size, old.groups - 1) - (old.groups == size.groups);

	ash_txn_bits(txn, bitmap, first, end - first, false);
}

static void log_super(struct ash_txn *txn, struct size size)
{
	struct ash_buffer *super = ash_txn_volume(txn)->super;
	ash_le64 blocks = ash_put64(size.blocks);
	ash_le32 groups = ash_put32(size.groups);

	ash_txn_set(txn, super, offsetof(struct ash_super, block_count), &blocks, sizeof(blocks));
	ash_txn_set(txn, super, offsetof(struct ash_super, group_count), &groups, sizeof(groups));
}

/* The bitmap of the old last group. An UNINIT one is written now, so that nobody makes it with the old size later. */
static int load_old_last_group(struct ash_volume *volume, struct size old, struct ash_buffer **bitmap)
{
	struct ash_extent extent;
	int result = ash_alloc_bitmap(volume, old.groups - 1, bitmap);

	if (result || *bitmap)
		return result;
	result = ash_claim(volume, ash_group_start(old.groups - 1), 1, ASH_CLAIM_EMERGENCY, &extent);
	if (result)
		return result;
	ash_unclaim(volume, extent, ASH_CLAIM_EMERGENCY);
	result = ash_alloc_bitmap(volume, old.groups - 1, bitmap);
	return !result && !*bitmap ? -ENOSPC : result;
}

static int log_step(struct ash_volume *volume, struct size old, struct size size)
{
	struct ash_buffer *bitmap;
	struct ash_txn *txn;
	int result = ash_alloc_extend_prepare(volume, size.groups);

	if (!result)
		result = load_old_last_group(volume, old, &bitmap);
	if (!result && size.groups > old.groups && !ASH_PLANTED(ASH_PLANT_GROW_BITMAP))
		result = write_last_bitmap(volume, size);
	if (!result) /* and a flush */
		result = write_backups(volume, size, ASH_PLANTED(ASH_PLANT_GROW_BACKUPS) ? 1 : old.groups, size.groups);
	if (!result)
		result = ash_txn_begin(volume, ASH_TXN_NAME, &txn);
	if (result)
		return result;
	log_table(txn, old, size);
	log_old_last_group(txn, bitmap, old, size);
	log_super(txn, size);
	ash_txn_commit(txn);
	if (ASH_PLANTED(ASH_PLANT_GROW_UNLOGGED))
		return 0;
	result = ash_log_checkpoint(volume, true);
	if (ASH_PLANTED(ASH_PLANT_GROW_BITMAP) && !result && size.groups > old.groups)
		result = write_last_bitmap(volume, size);
	return result;
}

static int grow_step(struct ash_volume *volume, struct size size)
{
	struct size old = { volume->block_count, volume->group_count };
	int result = log_step(volume, old, size);

	if (result)
		return result;
	volume->block_count = size.blocks;
	volume->group_count = size.groups;
	ash_alloc_extend(volume, old.groups, old.blocks);
	return 0;
}

/* ---- The call ---- */

/* A rest that is too small for a group is left alone. */
static int choose_size(struct ash_volume *volume, uint64_t blocks, struct size *out)
{
	uint64_t device, rest;
	int result = bdev_refresh_size(volume->dev);

	if (result)
		return result;
	device = bdev_geometry(volume->dev)->size >> ASH_BLOCK_SHIFT;
	if (!blocks)
		blocks = device;
	if (blocks > device || blocks < volume->block_count)
		return -EINVAL;
	rest = blocks % ASH_BLOCKS_PER_GROUP;
	if (rest < ASH_MIN_GROUP_BLOCKS && blocks - rest >= volume->block_count)
		blocks -= rest;
	if (blocks > volume->group_table_blocks * ASH_GROUPS_PER_TABLE_BLOCK * ASH_BLOCKS_PER_GROUP)
		return -EFBIG; /* mkfs left room in the group table for twice its size */
	*out = size_of(blocks);
	return 0;
}

/* Where the next step ends. */
static struct size next_step(const struct ash_volume *volume, struct size target)
{
	uint64_t tables = volume->group_count / ASH_GROUPS_PER_TABLE_BLOCK + STEP_TABLE_BLOCKS;
	uint64_t groups = tables * ASH_GROUPS_PER_TABLE_BLOCK;

	return groups < target.groups ? size_of(ash_group_start(groups)) : target;
}

static int grow_locked(struct ash_volume *volume, uint64_t blocks)
{
	uint32_t old_groups = volume->group_count;
	struct size target;
	int result = choose_size(volume, blocks, &target);

	if (result || target.blocks == volume->block_count)
		return result;
	while (!result && volume->block_count < target.blocks)
		result = grow_step(volume, next_step(volume, target));
	if (result || ASH_PLANTED(ASH_PLANT_GROW_UNLOGGED))
		return result;
	return write_backups(volume, target, 1, old_groups);
}

int ash_grow(struct ash_volume *volume, uint64_t blocks)
{
	int result = ash_check_writable(volume);

	if (result)
		return result;
	ash_lock_long(volume, &volume->rename_lock);
	result = grow_locked(volume, blocks);
	pthread_mutex_unlock(&volume->rename_lock);
	return result;
}
