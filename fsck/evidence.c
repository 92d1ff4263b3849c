/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Which of two superblocks tells the truth, when both have right checksums and differ: the one by which more of the
 * volume is found. Looks at blocks, believes none: what it counts are right checksums, places and UUIDs.
 *
 * No locks: one thread.
 */
#include "internal.h"

#define EVIDENCE_RUNS 64u    /* of the inode table; more would make large volumes slow */
#define EVIDENCE_RECORDS 64u /* blocks of the first run */
#define PIECE_BLOCKS 256u    /* read at a time */
#define END_BITS 64u         /* of a group's bitmap, that are all set where the group is not full */

/* Is it a good block of that kind from `block`, by the seed and UUID of `super`? */
static bool is_sealed(const struct ash_super *super, const void *data, uint64_t block, uint32_t magic)
{
	const struct ash_block_header *header = data;

	return ash_get32(header->magic) == magic && ash_get64(header->address) == block &&
	       ash_get32(header->crc) == ash_block_crc(ash_get32(super->checksum_seed), data) &&
	       !memcmp(header->metadata_uuid, super->header.metadata_uuid, 16);
}

/* Is there one of that kind and owner? */
static bool bears(struct checker *checker, const struct ash_super *super, uint64_t block, uint32_t magic,
		  uint64_t owner)
{
	const struct ash_block_header *header = (const void *)(checker->scratch + ASH_BLOCK_SIZE);

	return block < ash_get64(super->block_count) &&
	       !block_read(checker, block, checker->scratch + ASH_BLOCK_SIZE) &&
	       is_sealed(super, header, block, magic) && ash_get64(header->owner) == owner;
}

static bool lies_in(uint64_t block, ash_le64 start, ash_le64 count)
{
	return block >= ash_get64(start) && block - ash_get64(start) < ash_get64(count);
}

/*
 * Device block of a block of the inode table, when its extents are in the superblock; 0: none that could be, also when
 * the extents overlap.
 */
static uint64_t table_place(const struct ash_super *super, uint64_t file_block)
{
	const uint8_t *root = super->table_inode.data, *value;
	uint64_t first, floor = 0, block = 0;
	uint32_t length;

	for (uint32_t i = 0; i < ash_node_count(root); i++) {
		const struct ash_extent_value *extent;

		ash_node_record(root, i, &first, &value, &length);
		extent = (const void *)value;
		if (length != sizeof(*extent) || first < floor || extent->flags.raw)
			return 0;
		floor = first + ash_get32(extent->count);
		if (file_block >= first && file_block < floor)
			block = ash_get64(extent->start) + file_block - first;
	}
	return lies_in(block, super->log_start, super->log_blocks) ||
			       lies_in(block, super->group_table_start, super->group_table_blocks) ||
			       block >= ash_get64(super->block_count) ?
		       0 :
		       block;
}

static uint32_t run_length(const struct ash_super *super)
{
	return 1 + ash_get32(super->inodes_per_run) / ASH_INODES_PER_BLOCK;
}

/* Is the run where the table's extents say? */
static bool run_found(struct checker *checker, const struct ash_super *super, uint64_t run)
{
	uint32_t run_blocks = run_length(super);
	uint64_t block = table_place(super, run * run_blocks);

	return run < ash_get64(super->inode_runs) && block && table_place(super, (run + 1) * run_blocks - 1) &&
	       bears(checker, super, block, ASH_MAGIC_INODE_BITMAP, run);
}

/* Has it all of the run, where the other one has what it has of it, and the other one less? A run never moves. */
static bool run_completed(const struct ash_super *super, const struct ash_super *than, uint64_t run)
{
	uint64_t first = run * run_length(super);
	bool more = false;

	for (uint32_t i = 0; i < run_length(super); i++) {
		uint64_t here = table_place(super, first + i), there = table_place(than, first + i);

		if (!here || (there && there != here))
			return false;
		more |= !there;
	}
	return more;
}

static bool table_readable(const struct ash_super *super)
{
	return !ash_node_check(super->table_inode.data, ASH_DATA_FORK_SIZE, 0);
}

/* Is any block of the tree where the root says? */
static bool tree_found(struct checker *checker, const struct ash_super *super)
{
	const uint8_t *root = super->table_inode.data, *value;
	uint32_t length;
	uint64_t key;

	if (ash_node_check(root, ASH_DATA_FORK_SIZE, UINT32_MAX))
		return false;
	for (uint32_t i = 0; i < ash_node_count(root) && ash_node_level(root); i++) {
		ash_le64 child;

		ash_node_record(root, i, &key, &value, &length);
		memcpy(&child, value, sizeof(child));
		if (bears(checker, super, ash_get64(child), ASH_MAGIC_TREE_NODE, ASH_INO_TABLE))
			return true;
	}
	return false;
}

/*
 * Not all of a tree is looked at here. But runs only become more, and a backup knows of none before the primary does:
 * one that has more of them is newer than a primary whose last write was lost.
 */
bool table_leads_further(struct checker *checker, const struct ash_super *super, const struct ash_super *than)
{
	if (!table_readable(super))
		return ash_get64(super->inode_runs) > ash_get64(than->inode_runs) && tree_found(checker, super);
	if (!table_readable(than))
		return false;
	for (uint64_t run = 0; run < EVIDENCE_RUNS; run++)
		if (run_found(checker, super, run) &&
		    (!run_found(checker, than, run) || run_completed(super, than, run)))
			return true;
	return false;
}

static unsigned table_evidence(struct checker *checker, const struct ash_super *super)
{
	unsigned found = 0;

	if (tree_found(checker, super)) /* so large a table has many runs */
		return EVIDENCE_RUNS;
	for (uint64_t run = 0; run < EVIDENCE_RUNS && table_readable(super); run++)
		found += run_found(checker, super, run);
	return found;
}

/* Places that never change weigh more than runs, of which an older copy knows fewer. */
unsigned super_evidence(struct checker *checker, const struct ash_super *super)
{
	uint64_t log = ash_get64(super->log_start);
	unsigned fixed = bears(checker, super, ash_get64(super->group_table_start), ASH_MAGIC_GROUP_TABLE, 0) +
			 bears(checker, super, log, ASH_MAGIC_LOG_CONTROL, 0) +
			 bears(checker, super, log + 1, ASH_MAGIC_LOG_CONTROL, 0);

	return fixed * (EVIDENCE_RUNS + 1) + table_evidence(checker, super);
}

/* Is any record of the first run where the table's extents say? */
static bool records_found(struct checker *checker, const struct ash_super *super)
{
	const struct ash_inode *records = (const void *)(checker->scratch + ASH_BLOCK_SIZE);

	for (uint32_t i = 1; i < run_length(super) && i <= EVIDENCE_RECORDS; i++) {
		uint64_t block = table_place(super, i);

		if (block && !block_read(checker, block, checker->scratch + ASH_BLOCK_SIZE) &&
		    records_sealed(ash_get32(super->checksum_seed), records, (i - 1) * ASH_INODES_PER_BLOCK))
			return true;
	}
	return false;
}

/*
 * Group table and log are a few blocks, which lie side by side: one write to the wrong device brings another volume's. The
 * files are where the inode table is. Where that is a tree, what does not show of it may lie under a lost block.
 */
bool table_is_elsewhere(struct checker *checker, const struct ash_super *super, const struct ash_super *than)
{
	return table_readable(super) && !table_evidence(checker, super) && !records_found(checker, super) &&
	       table_evidence(checker, than);
}

bool super_evidence_is_fixed(unsigned evidence)
{
	return evidence > EVIDENCE_RUNS;
}

/* A bitmap of a run in its own place, or records of the volume wherever they are. */
static bool is_of_table(const struct ash_super *super, const uint8_t *data, uint64_t block)
{
	uint64_t first_ino;

	return is_sealed(super, data, block, ASH_MAGIC_INODE_BITMAP) ||
	       (records_numbered((const void *)data, &first_ino) &&
		records_sealed(ash_get32(super->checksum_seed), (const void *)data, first_ino));
}

static int table_search(struct checker *checker, const struct ash_super *super, bool *found)
{
	uint8_t *piece = bdev_buffer_alloc((size_t)PIECE_BLOCKS << ASH_BLOCK_SHIFT);
	uint64_t end = ash_get64(super->block_count), count;
	int result = piece ? 0 : -ENOMEM;

	for (uint64_t at = 1; !result && !*found && (at = block_with_data(checker, at, end)) < end; at += count) {
		count = end - at < PIECE_BLOCKS ? end - at : PIECE_BLOCKS;
		result = check_cancelled(checker);
		if (!result)
			result = blocks_read(checker, at, count, piece, NULL);
		for (uint64_t i = 0; i < count && !result && !*found; i++)
			*found = is_of_table(super, piece + (i << ASH_BLOCK_SHIFT), at + i);
	}
	bdev_buffer_free(piece, (size_t)PIECE_BLOCKS << ASH_BLOCK_SHIFT);
	return result;
}

int table_find(struct checker *checker, const struct ash_super *super, bool *found)
{
	*found = table_evidence(checker, super) || (table_readable(super) && records_found(checker, super));
	return *found ? 0 : table_search(checker, super, found);
}

/* The bitmap of its last group, in the second block of checker->scratch; NULL where it is not good. */
static const uint8_t *last_bits(struct checker *checker, const struct ash_super *super)
{
	uint64_t group = ash_get32(super->group_count) - 1;

	if (!bears(checker, super, ash_group_bitmap(group), ASH_MAGIC_BLOCK_BITMAP, group))
		return NULL;
	return ((const struct ash_bitmap_block *)(const void *)(checker->scratch + ASH_BLOCK_SIZE))->bits;
}

static uint64_t last_length(const struct ash_super *super)
{
	return group_length(ash_get64(super->block_count), ash_get32(super->group_count) - 1);
}

static bool last_group_has_grown(struct checker *checker, const struct ash_super *super)
{
	const uint8_t *bits = last_bits(checker, super);

	for (uint64_t bit = last_length(super); bits && bit < ASH_BITS_PER_BITMAP; bit++)
		if (!bit_test(bits, bit))
			return true;
	return false;
}

static bool next_group_is_known(struct checker *checker, const struct ash_super *super)
{
	const struct ash_group_table_block *table = (const void *)(checker->scratch + ASH_BLOCK_SIZE);
	uint64_t next = ash_get32(super->group_count), index = next / ASH_GROUPS_PER_TABLE_BLOCK;
	uint32_t slot = (uint32_t)(next % ASH_GROUPS_PER_TABLE_BLOCK);

	return index < ash_get64(super->group_table_blocks) &&
	       bears(checker, super, ash_get64(super->group_table_start) + index, ASH_MAGIC_GROUP_TABLE, 0) &&
	       (table->flags[slot].raw || table->free_blocks[slot].raw);
}

bool super_is_outgrown(struct checker *checker, const struct ash_super *super)
{
	return last_group_has_grown(checker, super) || next_group_is_known(checker, super);
}

/*
 * Growing frees the last block, which others may have by now. Behind the new end all is set, unless the end is in another
 * group: that tells it from rubbish under a right checksum.
 */
bool super_has_surely_grown(struct checker *checker, const struct ash_super *super, bool last_is_lost)
{
	bool next = next_group_is_known(checker, super), grown = last_group_has_grown(checker, super);
	const uint8_t *bits = last_bits(checker, super);

	if (!bits || !(grown || next))
		return false;
	for (uint64_t bit = ASH_BITS_PER_BITMAP - END_BITS; bit < ASH_BITS_PER_BITMAP; bit++)
		if (!next && !bit_test(bits, bit))
			return false;
	return (grown && last_is_lost) || !bit_test(bits, last_length(super) - 1);
}
