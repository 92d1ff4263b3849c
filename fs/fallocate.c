// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * ash_fallocate: space ahead, holes, zeroes.
 *
 * Concept: a range is cut into its partial blocks, which are zeroed in place, and its whole blocks, which are mapped,
 * unmapped or made unwritten in a chain of bounded transactions. What may fail for want of space comes first: holes are
 * mapped, which changes no content, before the first byte is zeroed; the rest may use the emergency reserve (I9).
 *
 * Rules: the size is raised in the last transaction; until then blocks behind the end of file are merely unwritten.
 * After a crash a punch or zero-range may be done in part (data operations are not atomic, I7).
 *
 * Locks: the inode's lock per transaction.
 */
#include <linux/falloc.h>
#include "file_edit.h"

#define BLOCK_MASK (ASH_BLOCK_SIZE - 1)
#define ZERO_BLOCKS 1024u
#define LONG_PIECE 16u /* extents: others go on meanwhile, as if this were a wait for the device */

struct range {
	uint64_t offset, end; /* bytes */
};

/* Blocks of the range that lie in holes. */
static int count_holes(struct ash_volume *volume, struct ash_icore *icore, uint64_t block, uint64_t end,
		       uint64_t *holes)
{
	struct ash_edit edit;
	/* blocks that a truncation is still to free are no space */
	int rc = ash_truncation_pending(volume, icore->ino) ? ash_file_resume_truncate(volume, icore) : 0;

	*holes = 0;
	if (!rc)
		rc = ash_edit_look(&edit, volume, icore, false);
	if (rc)
		return rc;
	while (block < end && !rc) {
		struct ash_mapping mapping;

		rc = ash_edit_map(&edit, block, end - block, &mapping);
		if (!mapping.start)
			*holes += mapping.count;
		block = mapping.file_block + mapping.count;
	}
	ash_edit_abort(&edit);
	return rc;
}

/* What a chain of allocations still has set aside, in blocks. */
struct budget {
	uint64_t reserved;
};

/* Map one hole, or a part of it, as unwritten. */
static int allocate_step(struct ash_edit *edit, const struct ash_mapping *hole, struct budget *budget, uint64_t *next)
{
	struct ash_extent extent;
	uint64_t wanted = hole->count < ASH_EXTENT_MAX_BLOCKS ? hole->count : ASH_EXTENT_MAX_BLOCKS;

	/* The claim is plain: what it takes is first taken out of what was set aside. */
	uint64_t free_up = wanted < budget->reserved ? wanted : budget->reserved;
	ash_space_unreserve(edit->volume, free_up);
	budget->reserved -= free_up;
	int rc = ash_edit_claim(edit, hole->file_block, wanted, 0, &extent);
	if (rc)
		return rc;
	if (extent.count < free_up && !ash_space_reserve(edit->volume, free_up - extent.count))
		budget->reserved += free_up - extent.count;
	rc = ash_edit_map_new(edit, hole->file_block, extent, true);
	*next = hole->file_block + extent.count;
	return rc;
}

/* End the transaction of a piece that got as far as block `at`, or failed. */
static int end_piece(struct ash_edit *edit, int rc, uint64_t at, uint64_t *block)
{
	struct ash_inode header;

	if (rc) {
		ash_edit_abort(edit);
		return rc;
	}
	ash_edit_header(edit, &header);
	ash_edit_set_header(edit, &header);
	ash_edit_commit(edit, true);
	*block = at;
	return 0;
}

/* One transaction: allocate holes from *block on. */
static int allocate_piece(struct ash_volume *volume, struct ash_icore *icore, uint64_t *block, uint64_t end,
			  struct budget *budget)
{
	struct ash_edit edit;
	uint64_t at = *block;
	unsigned steps = 0;
	int rc = ash_edit_begin_settled(&edit, volume, icore, ASH_EDIT_LOG_BYTES);

	if (rc)
		return rc;
	rc = ash_edit_outline(&edit, 0);
	while (at < end && !rc && ash_edit_room(&edit)) {
		struct ash_mapping mapping;
		uint64_t next;

		if (++steps == LONG_PIECE)
			ash_wait_begin(volume);
		rc = ash_edit_map(&edit, at, end - at, &mapping);
		if (rc)
			break;
		next = mapping.file_block + mapping.count;
		if (!mapping.start)
			rc = allocate_step(&edit, &mapping, budget, &next);
		at = next;
	}
	if (steps >= LONG_PIECE)
		ash_wait_end(volume);
	return end_piece(&edit, rc, at, block);
}

/* Set aside what the holes of blocks [block, end) take. */
static int reserve_holes(struct ash_volume *volume, struct ash_icore *icore, uint64_t block, uint64_t end,
			 uint64_t *holes)
{
	int rc = count_holes(volume, icore, block, end, holes);

	return rc || !*holes ? rc : ash_space_reserve(volume, *holes);
}

/* Allocate the holes of blocks [block, end). */
static int allocate_blocks(struct ash_volume *volume, struct ash_icore *icore, uint64_t block, uint64_t end)
{
	struct budget budget = { 0 };
	uint64_t holes;
	int rc = reserve_holes(volume, icore, block, end, &holes);

	/* Counted anew: holes with buffered data over them had their space set aside twice; written out, they are none. */
	if (rc == -ENOSPC && ash_reclaim_space(volume))
		rc = reserve_holes(volume, icore, block, end, &holes);
	if (rc || !holes)
		return rc;
	budget.reserved = holes;
	while (block < end && !rc)
		rc = allocate_piece(volume, icore, &block, end, &budget);
	ash_space_unreserve(volume, budget.reserved);
	return rc;
}

/* One transaction: written blocks from *block on become unwritten. */
static int empty_piece(struct ash_volume *volume, struct ash_icore *icore, uint64_t *block, uint64_t end)
{
	struct ash_edit edit;
	uint64_t at = *block;
	unsigned steps = 0;
	int rc = ash_edit_begin_settled(&edit, volume, icore, ASH_EDIT_LOG_BYTES);

	if (rc)
		return rc;
	while (at < end && !rc && ash_edit_room(&edit)) {
		struct ash_mapping mapping;

		if (++steps == LONG_PIECE)
			ash_wait_begin(volume);
		rc = ash_edit_map(&edit, at, end - at, &mapping);
		if (!rc && mapping.start && !mapping.unwritten) {
			/* What is written into an unwritten block goes to the device before its record. */
			rc = ash_edit_settle_end(&edit, mapping.file_block, mapping.count);
			if (!rc)
				rc = ash_map_set_unwritten(edit.txn, &edit.tree, mapping.file_block, mapping.count);
		}
		at = mapping.file_block + mapping.count;
	}
	if (steps >= LONG_PIECE)
		ash_wait_end(volume);
	return end_piece(&edit, rc, at, block);
}

/* Zeroes are written over the blocks of one extent from *block on. */
static int zero_piece(struct ash_volume *volume, struct ash_icore *icore, uint64_t *block, uint64_t end)
{
	struct ash_mapping mapping;
	struct ash_edit edit;
	int rc = ash_edit_begin_settled(&edit, volume, icore, ASH_EDIT_LOG_BYTES);

	if (rc)
		return rc;
	/* not too many: the log waits for the transaction, and others for the inode */
	rc = ash_edit_map(&edit, *block, end - *block < ZERO_BLOCKS ? end - *block : ZERO_BLOCKS, &mapping);
	if (!rc && mapping.start && !mapping.unwritten) {
		rc = ash_edit_settle_end(&edit, mapping.file_block, mapping.count);
		if (!rc)
			rc = ash_data_zero(volume, mapping.count, mapping.start);
	}
	return end_piece(&edit, rc, rc ? *block : mapping.file_block + mapping.count, block);
}

/*
 * A split extent may need a node. Other blocks are zeroed already, so this must not fail for want of space; nor may
 * the emergency reserve, which unlink and truncate live on, be spent on it split by split.
 */
static int empty_blocks(struct ash_volume *volume, struct ash_icore *icore, uint64_t block, uint64_t end)
{
	int rc = 0;

	while (block < end && !rc) {
		rc = empty_piece(volume, icore, &block, end);
		if (rc == -ENOSPC)
			rc = zero_piece(volume, icore, &block, end);
	}
	return rc;
}

/*
 * The last transaction: size (if it grows) and times, together, so that no crash shows one without the other (I7).
 * `zeroed`: the content changed. Growing zeroes behind the old end first (I2).
 */
static int finish(struct ash_volume *volume, struct ash_icore *icore, uint64_t size, bool zeroed)
{
	struct ash_edit edit;
	struct ash_inode header;
	struct timespec now = ash_now();
	int rc = ash_edit_begin_settled(&edit, volume, icore, ASH_EDIT_LOG_BYTES);

	if (rc)
		return rc;
	bool grows = size > ash_edit_disk_size(&edit);
	if (grows) {
		rc = size > ASH_DATA_FORK_SIZE ? ash_edit_outline(&edit, 0) : 0;
		if (!rc)
			rc = ash_edit_zero_tail(&edit);
	}
	if (rc) {
		ash_edit_abort(&edit);
		return rc;
	}
	ash_edit_header(&edit, &header);
	if (grows)
		header.size = ash_put64(size);
	if (grows || zeroed)
		ash_stamp_mtime(&header, now);
	ash_stamp_ctime(&header, now);
	ash_edit_set_header(&edit, &header);
	ash_edit_commit(&edit, true);
	return 0;
}

/* Zero what of the range does not fill a block; [first, last) are its whole blocks. */
static int zero_edges(struct ash_edit *edit, struct range range, uint64_t first, uint64_t last)
{
	uint64_t size = ash_edit_disk_size(edit);
	int rc = 0;

	if (edit->record.inode->data_kind == ASH_FORK_INLINE) {
		uint8_t bytes[ASH_DATA_FORK_SIZE];
		uint64_t end = range.end < size ? range.end : size;

		memcpy(bytes, edit->record.inode->data, sizeof(bytes));
		if (range.offset < end)
			memset(bytes + range.offset, 0, end - range.offset);
		ash_edit_set_inline(edit, bytes, size);
		return 0;
	}
	if (first > last) /* within one block */
		return ash_edit_zero_part(edit, range.offset, range.end);
	if (range.offset & BLOCK_MASK)
		rc = ash_edit_zero_part(edit, range.offset, first << ASH_BLOCK_SHIFT);
	if (!rc && (range.end & BLOCK_MASK))
		rc = ash_edit_zero_part(edit, last << ASH_BLOCK_SHIFT, range.end);
	return rc;
}

/*
 * The first transaction of a punch or zero-range: the edges, and with `remove` the times and as many whole blocks as
 * fit: a short punch is one transaction (I7). A zero-range has its times in finish(). *remaining whole blocks are left.
 */
static int begin_zero(struct ash_volume *volume, struct ash_icore *icore, struct range range, bool remove,
		      uint64_t *remaining)
{
	uint64_t first = ash_blocks_of(range.offset), last = range.end >> ASH_BLOCK_SHIFT;
	struct timespec now = ash_now();
	struct ash_edit edit;
	struct ash_inode header;
	int rc = ash_edit_begin_settled(&edit, volume, icore, ASH_EDIT_LOG_BYTES);

	*remaining = last > first ? last - first : 0;
	if (rc)
		return rc;
	rc = zero_edges(&edit, range, first, last);
	if (!rc && remove)
		rc = ash_edit_remove(&edit, first, *remaining, remaining);
	if (rc) {
		ash_edit_abort(&edit);
		return rc;
	}
	if (remove) {
		ash_drop_preallocation(volume, icore);
		ash_edit_header(&edit, &header);
		ash_stamp_mtime(&header, now);
		ash_stamp_ctime(&header, now);
		ash_edit_set_header(&edit, &header);
	}
	ash_edit_commit(&edit, true);
	return 0;
}

static int punch(struct ash_volume *volume, struct ash_icore *icore, struct range range)
{
	uint64_t remaining;
	int rc = begin_zero(volume, icore, range, true, &remaining);

	return rc ? rc : ash_file_remove_blocks(volume, icore, ash_blocks_of(range.offset), remaining);
}

static int zero_range(struct ash_volume *volume, struct ash_icore *icore, struct range range, bool keep_size)
{
	uint64_t first = ash_blocks_of(range.offset), whole = 0;
	int rc = allocate_blocks(volume, icore, range.offset >> ASH_BLOCK_SHIFT, ash_blocks_of(range.end));

	if (!rc)
		rc = begin_zero(volume, icore, range, false, &whole);
	if (!rc)
		rc = empty_blocks(volume, icore, first, first + whole);
	return rc ? rc : finish(volume, icore, keep_size ? 0 : range.end, true);
}

static int allocate(struct ash_volume *volume, struct ash_icore *icore, struct range range, bool keep_size)
{
	int rc = allocate_blocks(volume, icore, range.offset >> ASH_BLOCK_SHIFT, ash_blocks_of(range.end));

	return rc ? rc : finish(volume, icore, keep_size ? 0 : range.end, false);
}

static int dispatch(struct ash_volume *volume, struct ash_icore *icore, int mode, struct range range)
{
	bool keep_size = mode & FALLOC_FL_KEEP_SIZE;

	if (mode & FALLOC_FL_PUNCH_HOLE)
		return punch(volume, icore, range);
	if (mode & FALLOC_FL_ZERO_RANGE)
		return zero_range(volume, icore, range, keep_size);
	return allocate(volume, icore, range, keep_size);
}

/* Edges that are zeroed in place are read and written back: no asynchronous write may land in between. */
static int dispatch_apart(struct ash_volume *volume, struct ash_icore *icore, int mode, struct range range)
{
	bool edges = (mode & (FALLOC_FL_PUNCH_HOLE | FALLOC_FL_ZERO_RANGE)) &&
		     ((range.offset | range.end) & BLOCK_MASK);
	int rc = edges ? ash_async_bar(volume, icore) : 0;

	if (rc)
		return rc;
	rc = dispatch(volume, icore, mode, range);
	if (edges)
		ash_async_admit(icore);
	return rc;
}

static bool mode_known(int mode)
{
	return mode == 0 || mode == FALLOC_FL_KEEP_SIZE || mode == (FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE) ||
	       mode == FALLOC_FL_ZERO_RANGE || mode == (FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE);
}

int ash_fallocate(struct ash_volume *volume, uint64_t ino, int mode, uint64_t offset, uint64_t length)
{
	struct ash_icore *icore;
	int rc = ash_check_writable(volume);

	if (rc)
		return rc;
	if (!mode_known(mode))
		return -EOPNOTSUPP;
	if (!length)
		return -EINVAL;
	if (offset > ASH_FILE_MAX_SIZE || length > ASH_FILE_MAX_SIZE - offset)
		return -EFBIG;
	rc = ash_icore_get(volume, ino, &icore);
	if (rc)
		return rc;
	const struct range range = { offset, offset + length };
	const struct ash_file_intent intent = { .overwrites = mode & ~FALLOC_FL_KEEP_SIZE };
	bool sync;
	rc = ash_file_begin_change(volume, icore, intent, &sync);
	if (!rc)
		rc = dispatch_apart(volume, icore, mode, range);
	if (rc == -ENOSPC && ash_reclaim_space(volume))
		rc = dispatch_apart(volume, icore, mode, range);
	if (!rc && sync)
		rc = ash_file_make_durable(volume, icore, false);
	ash_icore_put(volume, icore);
	return rc;
}
