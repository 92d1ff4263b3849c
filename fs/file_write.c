// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * Writing files.
 *
 * Concept: ash_write() offers a write to the write-behind buffer (wbuf.c) and otherwise writes it through, in pieces
 * of at most PIECE_BYTES, each a transaction: look up the map, claim blocks for holes, write the data, then map the
 * claims and raise the size, so that data is complete before the record that makes it reachable (I2). Written blocks
 * are overwritten in place.
 *
 * A write into space that was allocated ahead needs no blocks but, where it splits an unwritten extent, tree nodes. When
 * there is none, the whole extent is made written, the rest of it with zeroes (complete before the record, I2): that
 * needs no further record, and happens once for each extent.
 *
 * A piece ends early, and the next one continues, when its transaction has no room for one more extent. A failure in
 * the middle commits what is complete: a long write returns the bytes done (I9 for the rest).
 *
 * Locks: the inode's lock, exclusively, over each piece; shared for aligned overwrites that change no record.
 */
#include "file_edit.h"

#define BLOCK_MASK (ASH_BLOCK_SIZE - 1)
#define RECLAIMS_MAX 4u
#define PIECE_BYTES (4u << 20)
#define SMALL_PIECE_BYTES (64u << 10)

/* What is still to be written. */
struct source {
	const uint8_t *bytes;
	uint64_t offset, length;
	bool whole; /* no node for a split can be had: unwritten extents become written as a whole */
};

static void source_advance(struct source *source, uint64_t bytes)
{
	source->bytes += bytes;
	source->offset += bytes;
	source->length -= bytes;
}

/* Bytes of the source that fall into [.., end of `count` blocks from `block`). */
static uint64_t source_within(const struct source *source, uint64_t block, uint64_t count)
{
	uint64_t room = ((block + count) << ASH_BLOCK_SHIFT) - source->offset;

	return source->length < room ? source->length : room;
}

/* Data into a hole. On failure `*fatal` says whether the edit must be aborted or can be committed as it is. */
static int write_hole(struct ash_edit *edit, struct source *source, const struct ash_mapping *hole, bool *fatal)
{
	struct ash_extent extent;
	int rc = ash_edit_claim(edit, hole->file_block, hole->count, 0, &extent);

	if (rc)
		return rc;
	const struct ash_mapping fresh = {
		.file_block = hole->file_block, .count = extent.count, .start = extent.start, .unwritten = true
	};
	uint64_t bytes = source_within(source, hole->file_block, extent.count);
	rc = ash_edit_write_run(edit, &fresh, source->bytes, source->offset, bytes);
	if (rc) {
		ash_edit_unclaim_last(edit);
		return rc;
	}
	*fatal = true;
	rc = ash_edit_map_new(edit, hole->file_block, extent, false);
	if (rc)
		return rc;
	*fatal = false;
	source_advance(source, bytes);
	return 0;
}

static int write_mapped(struct ash_edit *edit, struct source *source, const struct ash_mapping *mapping, bool *fatal)
{
	uint64_t bytes = source_within(source, mapping->file_block, mapping->count);
	int rc = ash_edit_write_run(edit, mapping, source->bytes, source->offset, bytes);

	if (rc)
		return rc;
	if (mapping->unwritten) {
		*fatal = true;
		rc = source->whole ? ash_edit_set_whole_written(edit, mapping) :
				     ash_map_set_written(edit->txn, &edit->tree, mapping->file_block, mapping->count);
		if (rc)
			return rc;
		*fatal = false;
	}
	source_advance(source, bytes);
	return 0;
}

/* One extent or hole. */
static int write_step(struct ash_edit *edit, struct source *source, bool *fatal)
{
	uint64_t block = source->offset >> ASH_BLOCK_SHIFT;
	uint64_t limit = ash_blocks_of((source->offset & BLOCK_MASK) + source->length);
	struct ash_mapping mapping;
	int rc = ash_edit_map(edit, block, limit, &mapping);

	if (rc)
		return rc;
	return mapping.start ? write_mapped(edit, source, &mapping, fatal) : write_hole(edit, source, &mapping, fatal);
}

/* Content that stays within the inode: no block at all. */
static bool write_inline(struct ash_edit *edit, struct source *source)
{
	uint64_t size = ash_edit_disk_size(edit), end = source->offset + source->length;
	uint8_t bytes[ASH_DATA_FORK_SIZE] = { 0 };

	if (edit->record.inode->data_kind == ASH_FORK_TREE || end > sizeof(bytes) || size > sizeof(bytes))
		return false;
	if (edit->record.inode->data_kind == ASH_FORK_INLINE)
		memcpy(bytes, edit->record.inode->data, size);
	memcpy(bytes + source->offset, source->bytes, source->length);
	ash_edit_set_inline(edit, bytes, end > size ? end : size);
	source_advance(source, source->length);
	return true;
}

static int write_blocks(struct ash_edit *edit, struct source *source, bool *fatal)
{
	uint64_t size = ash_edit_disk_size(edit);

	*fatal = true;
	int rc = ash_edit_outline(edit, 0);
	/* A write that begins in the block of the old end zeroes the gap as it fills that block. */
	if (!rc && source->offset >> ASH_BLOCK_SHIFT > size >> ASH_BLOCK_SHIFT)
		rc = ash_edit_zero_tail(edit);
	if (rc)
		return rc;
	*fatal = false;
	while (source->length && !rc && ash_edit_room(edit))
		rc = write_step(edit, source, fatal);
	return rc;
}

static void finish_piece(struct ash_edit *edit, uint64_t end, unsigned flags)
{
	struct ash_inode header;
	bool grows = end > ash_edit_disk_size(edit);
	bool data = grows || edit->added || ash_txn_bytes(edit->txn);
	bool untold = edit->added && flags & ASH_WRITE_NO_TIMES; /* after a write of its own the kernel asks again */

	ash_edit_header(edit, &header);
	if (grows)
		header.size = ash_put64(end);
	if (!(flags & ASH_WRITE_NO_TIMES)) {
		struct timespec now = ash_now();

		ash_stamp_mtime(&header, now);
		ash_stamp_ctime(&header, now);
	}
	ash_edit_set_header(edit, &header);
	edit->icore->truncated_to_zero = false;
	if (untold)
		ash_wb_blocks_changed(edit->volume, edit->icore->ino);
	ash_edit_commit(edit, data);
}

/*
 * One transaction for at most `wanted` bytes. Bytes written (fewer when it ran out of room or met an error behind
 * them), or a negative errno when none were. *tried: bytes that were in place when a failure undid the transaction.
 */
static int64_t try_piece(struct ash_volume *volume, struct ash_icore *icore, struct source *source, uint64_t wanted,
			 unsigned flags, uint64_t *tried)
{
	struct ash_edit edit;
	bool fatal = false;
	int rc = ash_edit_begin_settled(&edit, volume, icore,
					wanted <= SMALL_PIECE_BYTES ? ASH_EDIT_SMALL_LOG_BYTES : ASH_EDIT_LOG_BYTES);

	if (rc)
		return rc;
	if (flags & ASH_WRITE_APPEND)
		source->offset = ash_edit_disk_size(&edit);
	if (source->offset >= ASH_FILE_MAX_SIZE) {
		ash_edit_abort(&edit);
		return -EFBIG;
	}
	if (wanted > ASH_FILE_MAX_SIZE - source->offset)
		wanted = ASH_FILE_MAX_SIZE - source->offset;
	struct source piece = { source->bytes, source->offset, wanted, source->whole };
	if (!write_inline(&edit, &piece))
		rc = write_blocks(&edit, &piece, &fatal);
	uint64_t done = wanted - piece.length;
	if (fatal || !done) {
		*tried = done;
		ash_edit_abort(&edit);
		return rc ? rc : -EIO;
	}
	finish_piece(&edit, piece.offset, flags);
	source_advance(source, done);
	return (int64_t)done;
}

/*
 * What was overwritten in place before a failure cannot be undone. So the part before the failure, whose blocks are
 * free again, is written once more without the rest, and the caller learns how far it got.
 */
static int64_t write_piece(struct ash_volume *volume, struct ash_icore *icore, struct source *source, unsigned flags)
{
	uint64_t wanted = source->length < PIECE_BYTES ? source->length : PIECE_BYTES;
	int64_t result;

	do {
		uint64_t tried = 0;

		result = try_piece(volume, icore, source, wanted, flags, &tried);
		wanted = tried;
	} while (result < 0 && wanted);
	return result;
}

/* Whole written blocks, no record to change: no transaction, shared lock. -EAGAIN when it is not so. */
static int64_t overwrite(struct ash_volume *volume, struct ash_icore *icore, const struct source *source)
{
	struct source left = *source;
	struct ash_edit edit;

	if (((source->offset | source->length) & BLOCK_MASK) || source->length > PIECE_BYTES)
		return -EAGAIN;
	int rc = ash_edit_look(&edit, volume, icore, false);
	if (rc)
		return rc;
	if (icore->buffered || edit.record.inode->data_kind != ASH_FORK_TREE ||
	    source->offset + source->length > ash_edit_disk_size(&edit))
		rc = -EAGAIN;
	while (left.length && !rc) {
		uint64_t block = left.offset >> ASH_BLOCK_SHIFT;
		struct ash_mapping mapping;

		rc = ash_edit_map(&edit, block, left.length >> ASH_BLOCK_SHIFT, &mapping);
		if (!rc && (!mapping.start || mapping.unwritten))
			rc = -EAGAIN;
		if (rc)
			break;
		uint64_t bytes = source_within(&left, block, mapping.count);
		rc = ash_edit_write_run(&edit, &mapping, left.bytes, left.offset, bytes);
		if (!rc)
			source_advance(&left, bytes);
	}
	ash_edit_abort(&edit);
	if (rc == -EAGAIN || left.length == source->length)
		return rc;
	return (int64_t)(source->length - left.length);
}

/*
 * After ENOSPC: is there another way? First what others set aside or have just freed, more than once, since others want
 * that, too, and a page of the kernel that cannot be written is lost; then without the nodes that a split of unwritten
 * extents may need, for a write into space that was allocated ahead must not fail.
 */
static bool try_harder(struct ash_volume *volume, struct source *source, unsigned *reclaims)
{
	bool whole = source->whole;

	if (++*reclaims <= RECLAIMS_MAX && ash_reclaim_space(volume))
		return true;
	source->whole = true;
	return !whole;
}

static int64_t write_through(struct ash_volume *volume, struct ash_icore *icore, struct source source, unsigned flags)
{
	uint64_t done = 0;
	unsigned reclaims = 0;
	int64_t piece;

	if ((flags & ASH_WRITE_NO_TIMES) && !(flags & ASH_WRITE_APPEND)) {
		piece = overwrite(volume, icore, &source);
		if (piece != -EAGAIN)
			return piece;
	}
	while (source.length) {
		piece = write_piece(volume, icore, &source, flags);
		if (piece == -ENOSPC && try_harder(volume, &source, &reclaims))
			continue;
		if (piece < 0)
			return done ? (int64_t)done : piece;
		done += (uint64_t)piece;
		reclaims = 0;
	}
	return (int64_t)done;
}

static int64_t write_icore(struct ash_volume *volume, struct ash_icore *icore, struct source source, unsigned flags)
{
	/* From the page cache whole pages come, with what was there before. */
	const struct ash_file_intent intent = { .appends = flags & ASH_WRITE_APPEND,
						.writes = !(flags & (ASH_WRITE_APPEND | ASH_WRITE_NO_TIMES)),
						.at = source.offset,
						.kills_suidgid = flags & ASH_WRITE_KILL_SUIDGID,
						.kills_all_sgid = flags & ASH_WRITE_KILL_SGID,
						.keeps_privileges = flags & ASH_WRITE_NO_TIMES };
	bool sync;
	int64_t result = ash_file_begin_change(volume, icore, intent, &sync);

	if (result)
		return result;
	sync = sync || (flags & ASH_WRITE_SYNC);
	bool durable = sync || flags & ASH_WRITE_DSYNC;
	result = -EAGAIN;
	if (!durable && !(flags & ASH_WRITE_THROUGH))
		result = ash_wb_write(volume, icore, source.bytes, source.length, source.offset, flags);
	if (result == -EAGAIN)
		result = write_through(volume, icore, source, flags);
	if (result > 0 && durable) {
		int rc = ash_file_make_durable(volume, icore, !sync);

		if (rc)
			return rc;
	}
	return result;
}

/* Blocks covered partly are read and written back: no asynchronous write may land in between. */
static int64_t write_apart(struct ash_volume *volume, struct ash_icore *icore, struct source source, unsigned flags)
{
	bool partial = (source.offset | source.length) & BLOCK_MASK;
	int64_t result = partial ? ash_async_bar(volume, icore) : 0;

	if (result)
		return result;
	result = write_icore(volume, icore, source, flags);
	if (partial)
		ash_async_admit(icore);
	return result;
}

int64_t ash_write(struct ash_volume *volume, uint64_t ino, const void *buffer, size_t length, uint64_t offset,
		  unsigned flags)
{
	struct source source = { .bytes = buffer, .offset = offset, .length = length };
	struct ash_icore *icore;
	int64_t result = ash_check_writable(volume);

	if (result)
		return result;
	if (flags & ASH_WRITE_APPEND)
		source.offset = 0;
	else if (offset >= ASH_FILE_MAX_SIZE)
		return length ? -EFBIG : 0;
	if (source.length > ASH_FILE_MAX_SIZE - source.offset)
		source.length = ASH_FILE_MAX_SIZE - source.offset;
	result = ash_icore_get(volume, ino, &icore);
	if (result)
		return result;
	if (source.length)
		result = write_apart(volume, icore, source, flags);
	ash_icore_put(volume, icore);
	return result;
}
