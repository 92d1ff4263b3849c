/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Extent map of a file.
 *
 * Concept: one tree record per extent, key = first file block, value = struct ash_extent_value. Holes are absent.
 * Neighbours are joined when file blocks, device blocks and flags continue and the sum stays within
 * ASH_EXTENT_MAX_BLOCKS, so that the number of records follows the fragmentation and nothing else.
 *
 * Distrust (I8): each extent that comes out of the tree is checked (length, flags, inside the volume, no
 * overflow) before use, and against its neighbour where both are at hand. Damage is reported by
 * ash_damaged() and gives -EUCLEAN.
 *
 * Undo (I9): a call that fails leaves its changes to the abort of the transaction.
 * Locks: the inode's lock owns the map: shared for ash_map_get(), exclusive for the rest.
 */
#include "map.h"

#include "volume.h"

#define LONG_WALK 4096u  /* extents: 0.1 ms, as long as a device may take for a request */
#define LONG_REMOVAL 16u /* extents: each changes the tree, and frees its blocks */

/* An extent as numbers. */
struct run {
	uint64_t file_block, start;
	uint32_t count, flags;
};

static uint64_t run_end(const struct run *run)
{
	return run->file_block + run->count;
}

static int damaged(const struct ash_tree *tree, const char *what)
{
	return ash_damaged(tree->volume, tree->buffer->id.block, what);
}

static const char *check_run(const struct ash_volume *volume, const struct run *run)
{
	if (!run->count || run->count > ASH_EXTENT_MAX_BLOCKS)
		return "extent length out of range";
	if (run->flags & ~ASH_EXTENT_UNWRITTEN)
		return "unknown extent flags";
	if (!run->start || run->start >= volume->block_count || run->count > volume->block_count - run->start)
		return "extent outside of the volume";
	if (run->file_block > (uint64_t)INT64_MAX >> ASH_BLOCK_SHIFT)
		return "extent behind the largest file offset";
	return NULL;
}

/* What is wrong with the record, or NULL. */
static const char *decode_value(const struct ash_volume *volume, uint64_t file_block, const uint8_t *value,
				uint32_t length, struct run *run)
{
	struct ash_extent_value extent;

	*run = (struct run){ 0 };
	if (length != sizeof(extent))
		return "extent record of wrong length";
	memcpy(&extent, value, sizeof(extent));
	*run = (struct run){ file_block, ash_get64(extent.start), ash_get32(extent.count), ash_get32(extent.flags) };
	return check_run(volume, run);
}

const char *ash_map_check(const struct ash_volume *volume, uint64_t file_block, const uint8_t *value, uint32_t length,
			  struct ash_mapping *out)
{
	struct run run = { 0 };
	const char *wrong = decode_value(volume, file_block, value, length, &run);

	*out = (struct ash_mapping){ file_block, run.count, run.start, run.flags & ASH_EXTENT_UNWRITTEN };
	return wrong;
}

static int decode(const struct ash_cursor *cursor, struct run *run)
{
	const char *wrong = decode_value(cursor->tree.volume, cursor->key, cursor->value, cursor->length, run);

	return wrong ? damaged(&cursor->tree, wrong) : 0;
}

static struct ash_extent_value encode(const struct run *run)
{
	return (struct ash_extent_value){
		.start = ash_put64(run->start),
		.count = ash_put32(run->count),
		.flags = ash_put32(run->flags),
	};
}

/* The last extent that begins at or before `file_block`: 1 found (the cursor stands on it), 0 none. */
static int run_before(const struct ash_tree *tree, uint64_t file_block, struct ash_cursor *cursor, struct run *run)
{
	int result = ash_tree_seek_before(tree, file_block, cursor);

	if (result > 0) {
		int error = decode(cursor, run);

		return error ? error : 1;
	}
	return result;
}

/* The extent behind the cursor's; the cursor moves there. */
static int run_next(struct ash_cursor *cursor, struct run *run)
{
	int result = ash_tree_next(cursor);

	if (result > 0) {
		int error = decode(cursor, run);

		return error ? error : 1;
	}
	return result;
}

/* ---- Looking up ---- */

/* The first extent that begins at or behind `file_block`. */
static int run_at_or_after(const struct ash_tree *tree, uint64_t file_block, struct ash_cursor *cursor, struct run *run)
{
	int result = ash_tree_seek(tree, file_block, cursor);

	if (result > 0) {
		int error = decode(cursor, run);

		return error ? error : 1;
	}
	return result;
}

static int get_hole(const struct ash_tree *tree, bool has_before, struct ash_cursor *cursor, struct ash_mapping *out)
{
	struct run next = { 0 };
	int result = has_before ? run_next(cursor, &next) : run_at_or_after(tree, out->file_block, cursor, &next);

	if (result > 0 && next.file_block - out->file_block < out->count)
		out->count = next.file_block - out->file_block;
	return result < 0 ? result : 0;
}

int ash_map_get(const struct ash_tree *tree, uint64_t file_block, uint64_t limit, struct ash_mapping *out)
{
	struct ash_cursor cursor = { 0 };
	struct run run;
	int result = run_before(tree, file_block, &cursor, &run);

	*out = (struct ash_mapping){ .file_block = file_block, .count = limit };
	if (result > 0 && run_end(&run) > file_block) {
		if (run_end(&run) - file_block < limit)
			out->count = run_end(&run) - file_block;
		out->start = run.start + (file_block - run.file_block);
		out->unwritten = run.flags & ASH_EXTENT_UNWRITTEN;
		result = 0;
	} else if (result >= 0) {
		result = get_hole(tree, result > 0, &cursor, out);
	}
	ash_cursor_done(&cursor);
	return result;
}

/* run_next() of a walk: neighbours are both at hand. */
static int run_next_apart(struct ash_cursor *cursor, struct run *run)
{
	const uint64_t end = run_end(run);
	int result = run_next(cursor, run);

	return result > 0 && run->file_block < end ? damaged(&cursor->tree, "extents overlap") : result;
}

int ash_map_find(const struct ash_tree *tree, uint64_t file_block, uint64_t end, bool data, uint64_t *found)
{
	struct ash_cursor cursor = { 0 };
	struct run run = { 0 };
	uint64_t at = file_block, looked = 0;
	int result = run_before(tree, at, &cursor, &run);

	if (!result)
		result = run_at_or_after(tree, at, &cursor, &run);
	while (result > 0 && at < end) {
		if (run.file_block > at) {
			if (!data)
				break;
			at = run.file_block; /* a hole: then its extent, if it begins before the end */
			continue;
		}
		if (run_end(&run) > at) {
			if (!(run.flags & ASH_EXTENT_UNWRITTEN) == data)
				break;
			at = run_end(&run);
		}
		if (++looked == LONG_WALK)
			ash_wait_begin(tree->volume);
		result = run_next_apart(&cursor, &run);
	}
	if (looked >= LONG_WALK)
		ash_wait_end(tree->volume);
	ash_cursor_done(&cursor);
	*found = at < end && (result > 0 || !data) ? at : end; /* behind the last extent there is no data */
	return result < 0 ? result : 0;
}

int ash_map_get_whole(const struct ash_tree *tree, uint64_t file_block, struct ash_mapping *out)
{
	struct ash_cursor cursor = { 0 };
	struct run run;
	int result = run_before(tree, file_block, &cursor, &run);

	*out = (struct ash_mapping){ .file_block = file_block, .count = 1 };
	if (result > 0 && run_end(&run) > file_block)
		*out = (struct ash_mapping){ run.file_block, run.count, run.start, run.flags & ASH_EXTENT_UNWRITTEN };
	ash_cursor_done(&cursor);
	return result < 0 ? result : 0;
}

/* ---- Inserting ---- */

static int put_new(struct ash_txn *txn, struct ash_tree *tree, const struct run *run)
{
	struct ash_extent_value value = encode(run);
	int result = ash_tree_insert(txn, tree, run->file_block, &value, sizeof(value));

	/* A new record lies where a hole or another extent's rest is: somebody else there overlaps it. */
	return result == -EEXIST ? damaged(tree, "extents overlap") : result;
}

static int put_again(struct ash_txn *txn, struct ash_tree *tree, const struct run *run)
{
	struct ash_extent_value value = encode(run);

	return ash_tree_replace(txn, tree, run->file_block, &value, sizeof(value));
}

static bool continues(const struct run *left, const struct run *right)
{
	return run_end(left) == right->file_block && left->start + left->count == right->start &&
	       left->flags == right->flags;
}

/* The extents around a hole that is to be filled. */
struct around {
	struct run before, after;
	bool has_before, has_after;
};

static int look_around(const struct ash_tree *tree, const struct run *run, struct around *around)
{
	struct ash_cursor cursor = { 0 };
	int result = run_before(tree, run->file_block, &cursor, &around->before);

	around->has_before = result > 0;
	if (result > 0) {
		result = run_next(&cursor, &around->after);
	} else if (!result) {
		result = ash_tree_seek(tree, run->file_block, &cursor);
		if (result > 0) {
			int error = decode(&cursor, &around->after);

			result = error ? error : 1;
		}
	}
	around->has_after = result > 0;
	ash_cursor_done(&cursor);
	if (result < 0)
		return result;
	if (around->has_before && run_end(&around->before) > run->file_block)
		return damaged(tree, "extents overlap");
	if (around->has_after && around->after.file_block < run_end(run))
		return damaged(tree, "extents overlap");
	return 0;
}

/* Insert one extent of at most ASH_EXTENT_MAX_BLOCKS into a hole, joining it with its neighbours. */
static int insert_run(struct ash_txn *txn, struct ash_tree *tree, struct run run)
{
	struct around around;
	int result = look_around(tree, &run, &around);

	if (result)
		return result;
	if (around.has_before && continues(&around.before, &run)) {
		/* Fill the one before to its limit; what is left makes a record of its own. */
		uint32_t room = ASH_EXTENT_MAX_BLOCKS - around.before.count;
		uint32_t moved = run.count < room ? run.count : room;

		around.before.count += moved;
		run.file_block += moved;
		run.start += moved;
		run.count -= moved;
		if (moved && run.count) {
			result = put_again(txn, tree, &around.before);
			if (result)
				return result;
		}
		if (!run.count)
			run = around.before;
	}
	if (around.has_after && continues(&run, &around.after) &&
	    around.after.count <= ASH_EXTENT_MAX_BLOCKS - run.count) {
		result = ash_tree_delete(txn, tree, around.after.file_block);
		if (result)
			return result;
		run.count += around.after.count;
	}
	if (around.has_before && run.file_block == around.before.file_block)
		return put_again(txn, tree, &run);
	return put_new(txn, tree, &run);
}

int ash_map_insert(struct ash_txn *txn, struct ash_tree *tree, const struct ash_mapping *mapping)
{
	uint32_t flags = mapping->unwritten ? ASH_EXTENT_UNWRITTEN : 0;
	uint64_t done = 0;

	while (done < mapping->count) {
		uint64_t left = mapping->count - done;
		struct run run = { mapping->file_block + done, mapping->start + done,
				   left < ASH_EXTENT_MAX_BLOCKS ? (uint32_t)left : ASH_EXTENT_MAX_BLOCKS, flags };
		int result = insert_run(txn, tree, run);

		if (result)
			return result;
		done += run.count;
	}
	return 0;
}

/* ---- Changing the unwritten flag ---- */

/* The part of `run` within [from, to). */
static struct run cut(const struct run *run, uint64_t from, uint64_t to)
{
	uint64_t first = from > run->file_block ? from : run->file_block;
	uint64_t end = to < run_end(run) ? to : run_end(run);

	return (struct run){ first, run->start + (first - run->file_block), end > first ? (uint32_t)(end - first) : 0,
			     run->flags };
}

/* Shorten the record to its part before `from`; without one it goes. */
static int keep_left(struct ash_txn *txn, struct ash_tree *tree, const struct run *run, uint64_t from)
{
	struct run left = cut(run, 0, from);

	return left.count ? put_again(txn, tree, &left) : ash_tree_delete(txn, tree, run->file_block);
}

/* The first extent that reaches beyond `file_block` or begins behind it: 1, 0 none. */
static int run_from(const struct ash_tree *tree, uint64_t file_block, struct run *run)
{
	struct ash_cursor cursor = { 0 };
	int result = run_before(tree, file_block, &cursor, run);

	if (result > 0 && run_end(run) <= file_block) {
		result = run_next(&cursor, run);
	} else if (!result) {
		result = ash_tree_seek(tree, file_block, &cursor);
		if (result > 0) {
			int error = decode(&cursor, run);

			result = error ? error : 1;
		}
	}
	ash_cursor_done(&cursor);
	return result;
}

/* The extent that ends at or before the one that begins at `file_block`: 1, 0 none. */
static int run_left_of(const struct ash_tree *tree, uint64_t file_block, struct run *run)
{
	struct ash_cursor cursor = { 0 };
	int result = file_block ? run_before(tree, file_block - 1, &cursor, run) : 0;

	ash_cursor_done(&cursor);
	return result > 0 && run_end(run) > file_block ? damaged(tree, "extents overlap") : result;
}

static bool joins(const struct run *left, const struct run *right)
{
	return continues(left, right) && left->count <= ASH_EXTENT_MAX_BLOCKS - right->count;
}

/*
 * Give all of `run` other flags and join it with its neighbours. The record is changed where it is: deleted and put in
 * again it could need a node, if it was the last of its leaf and the next leaf is full.
 */
static int change_whole(struct ash_txn *txn, struct ash_tree *tree, struct run run, uint32_t flags)
{
	struct run before, after;
	int has_before = run_left_of(tree, run.file_block, &before);
	int has_after = has_before < 0 ? 0 : run_from(tree, run_end(&run), &after);
	int result = has_before < 0 ? has_before : has_after < 0 ? has_after : 0;

	run.flags = flags;
	if (!result && has_after && after.file_block < run_end(&run))
		result = damaged(tree, "extents overlap");
	if (!result && has_after && joins(&run, &after)) {
		result = ash_tree_delete(txn, tree, after.file_block);
		run.count += after.count;
	}
	if (!result && has_before && joins(&before, &run)) {
		result = ash_tree_delete(txn, tree, run.file_block);
		before.count += run.count;
		run = before;
	}
	return result ? result : put_again(txn, tree, &run);
}

/* Give [from, to) of `run` other flags: what lies before and behind stays. */
static int change_part(struct ash_txn *txn, struct ash_tree *tree, const struct run *run, uint64_t from, uint64_t to,
		       uint32_t flags)
{
	struct run middle = cut(run, from, to), right = cut(run, to, UINT64_MAX);

	if (middle.count == run->count)
		return change_whole(txn, tree, *run, flags);
	int result = keep_left(txn, tree, run, middle.file_block);
	if (result)
		return result;
	/* The right part first: the middle then finds its neighbours complete. */
	if (right.count)
		result = put_new(txn, tree, &right);
	middle.flags = flags;
	return result ? result : insert_run(txn, tree, middle);
}

static int change_flags(struct ash_txn *txn, struct ash_tree *tree, uint64_t file_block, uint64_t count, uint32_t flags)
{
	uint64_t end = file_block + count;

	while (file_block < end) {
		struct run run;
		int result = run_from(tree, file_block, &run);

		if (result <= 0)
			return result;
		if (run.file_block >= end)
			return 0;
		if (run.flags != flags) {
			result = change_part(txn, tree, &run, file_block, end, flags);
			if (result)
				return result;
		}
		file_block = run_end(&run);
	}
	return 0;
}

int ash_map_set_written(struct ash_txn *txn, struct ash_tree *tree, uint64_t file_block, uint64_t count)
{
	return change_flags(txn, tree, file_block, count, 0);
}

int ash_map_set_unwritten(struct ash_txn *txn, struct ash_tree *tree, uint64_t file_block, uint64_t count)
{
	return change_flags(txn, tree, file_block, count, ASH_EXTENT_UNWRITTEN);
}

/* ---- Removing ---- */

/* Take [from, to) out of `run` and free its blocks. */
static int remove_part(struct ash_txn *txn, struct ash_tree *tree, const struct run *run, uint64_t from, uint64_t to,
		       uint64_t *freed)
{
	struct run middle = cut(run, from, to), right = cut(run, to, UINT64_MAX);
	int result = keep_left(txn, tree, run, middle.file_block);

	if (!result && right.count)
		result = put_new(txn, tree, &right);
	if (!result)
		result = ash_free(txn, (struct ash_extent){ middle.start, middle.count }, false);
	if (!result)
		*freed += middle.count;
	return result;
}

/* `*removed`: extents that were; from LONG_REMOVAL on a wait has begun. */
static int remove_runs(struct ash_txn *txn, struct ash_tree *tree, uint64_t file_block, uint64_t count,
		       uint32_t byte_limit, uint64_t *remaining, uint64_t *freed, unsigned *removed)
{
	/* A punch may split an extent and so need a node: freeing must not fail for want of space. */
	struct ash_tree emergency = *tree;
	uint64_t end = count < UINT64_MAX - file_block ? file_block + count : UINT64_MAX;

	emergency.claim_flags |= ASH_CLAIM_EMERGENCY;
	*freed = 0;
	*remaining = 0;
	while (end > file_block) {
		struct ash_cursor cursor = { 0 };
		struct run run;
		int result = run_before(tree, end - 1, &cursor, &run);

		ash_cursor_done(&cursor);
		if (result < 0)
			return result;
		if (!result || run_end(&run) <= file_block)
			return 0;
		/* Behind the first step `end` is where the extent after this one begins. */
		if (*removed && run_end(&run) > end)
			return damaged(tree, "extents overlap");
		result = remove_part(txn, &emergency, &run, file_block, end, freed);
		if (result)
			return result;
		end = run.file_block > file_block ? run.file_block : file_block;
		if (++*removed == LONG_REMOVAL)
			ash_wait_begin(tree->volume);
		/* One extent at least for each call, so that a chain of calls always gets on. */
		if (ash_txn_bytes(txn) >= byte_limit)
			break;
	}
	*remaining = end - file_block;
	return 0;
}

/* Others need not wait for many extents: they may go on meanwhile as if this were a wait for the device. */
int ash_map_remove(struct ash_txn *txn, struct ash_tree *tree, uint64_t file_block, uint64_t count, uint32_t byte_limit,
		   uint64_t *remaining, uint64_t *freed)
{
	unsigned removed = 0;
	int result = remove_runs(txn, tree, file_block, count, byte_limit, remaining, freed, &removed);

	if (removed >= LONG_REMOVAL)
		ash_wait_end(tree->volume);
	return result;
}
