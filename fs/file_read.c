// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * Reading files: ash_read, ash_seek, ash_bmap, access times.
 *
 * Concept: under the shared lock the range is walked piece by piece; each piece comes from a buffered page, from
 * inline content, from an extent or is zeroes. ash_seek and ash_bmap answer from the extent map alone and have
 * buffered data written out before.
 *
 * Locks: the shared inode lock is held over the device I/O, which is why blocks cannot be freed under it. The access
 * time is a small transaction of its own after the lock was dropped.
 */
#include <limits.h>
#include <unistd.h>
#include "file_edit.h"

#define BLOCK_MASK (ASH_BLOCK_SIZE - 1)

/* One piece of at most `length` bytes at `offset`; returns its size. */
static int64_t read_piece(struct ash_edit *edit, uint8_t *target, uint64_t offset, uint64_t length, uint64_t capacity)
{
	const struct ash_write_buffer *buffer = edit->icore->buffered;
	uint64_t block = offset >> ASH_BLOCK_SHIFT, inside = offset & BLOCK_MASK;
	uint64_t limit = ash_blocks_of(inside + length);
	struct ash_mapping mapping;

	if (buffer) {
		uint32_t index = ash_wb_find(buffer, block);

		if (index < buffer->count && buffer->pages[index].block == block) {
			uint64_t take = length < ASH_BLOCK_SIZE - inside ? length : ASH_BLOCK_SIZE - inside;

			memcpy(target, ash_wb_page_bytes(edit->volume, buffer->pages[index].page) + inside, take);
			return (int64_t)take;
		}
		if (index < buffer->count && buffer->pages[index].block - block < limit)
			limit = buffer->pages[index].block - block;
	}
	int rc = ash_edit_map(edit, block, limit, &mapping);
	if (rc)
		return rc;
	uint64_t take = ((mapping.file_block + mapping.count) << ASH_BLOCK_SHIFT) - offset;
	if (take > length)
		take = length;
	/* Memory behind this piece will be written by later pieces, so it is spare for this one only at the end. */
	rc = ash_edit_read_run(edit, &mapping, target, offset, take, take == length ? capacity : take);
	return rc ? rc : (int64_t)take;
}

static int64_t read_locked(struct ash_edit *edit, uint8_t *target, size_t capacity, uint64_t offset)
{
	uint64_t size = ash_edit_size(edit), done = 0;

	if (offset >= size)
		return 0;
	uint64_t length = capacity < size - offset ? capacity : size - offset;
	if (edit->record.inode->data_kind == ASH_FORK_INLINE && !edit->icore->buffered) {
		memcpy(target, edit->record.inode->data + offset, length);
		return (int64_t)length;
	}
	while (done < length) {
		int64_t piece = read_piece(edit, target + done, offset + done, length - done, capacity - done);

		if (piece < 0)
			return piece; /* fewer bytes would say: end of file */
		done += (uint64_t)piece;
	}
	return (int64_t)done;
}

/* Failing to note an access is no failure of the read. */
static void update_atime(struct ash_volume *volume, struct ash_icore *icore)
{
	struct ash_edit edit;
	struct ash_inode header;
	struct timespec now = ash_now();

	if (ash_edit_begin(&edit, volume, icore, ASH_TXN_SMALL))
		return;
	ash_edit_header(&edit, &header);
	header.atime = ash_put64((uint64_t)now.tv_sec);
	header.atime_ns = ash_put32((uint32_t)now.tv_nsec);
	ash_edit_set_header(&edit, &header);
	ash_edit_commit(&edit, false);
}

int64_t ash_read_flags(struct ash_volume *volume, uint64_t ino, void *buffer, size_t length, uint64_t offset,
		       unsigned flags)
{
	struct ash_icore *icore;
	struct ash_edit edit;

	if (length > SSIZE_MAX)
		length = SSIZE_MAX;
	int64_t result = ash_icore_get(volume, ino, &icore);
	if (result)
		return result;
	result = ash_edit_look(&edit, volume, icore, false);
	if (!result) {
		result = read_locked(&edit, buffer, length, offset);
		bool due = result > 0 && !(flags & ASH_READ_NO_ATIME) && ash_atime_due(volume, edit.record.inode);

		ash_edit_abort(&edit);
		if (due)
			update_atime(volume, icore);
	}
	ash_icore_put(volume, icore);
	return result;
}

int64_t ash_read(struct ash_volume *volume, uint64_t ino, void *buffer, size_t length, uint64_t offset)
{
	return ash_read_flags(volume, ino, buffer, length, offset, 0);
}

/* ---- Where data lies ---- */

/* Shared lock on an inode with nothing buffered. */
static int look_flushed(struct ash_edit *edit, struct ash_volume *volume, struct ash_icore *icore)
{
	for (;;) {
		int rc = ash_edit_look(edit, volume, icore, false);

		if (rc || !icore->buffered)
			return rc;
		ash_edit_abort(edit);
		rc = ash_wb_settle_inode(volume, icore);
		if (rc)
			return rc;
	}
}

static int64_t seek_locked(struct ash_edit *edit, uint64_t offset, bool want_data, uint64_t limit)
{
	uint64_t size = ash_edit_disk_size(edit), block = offset >> ASH_BLOCK_SHIFT;

	if (offset >= size)
		return -ENXIO;
	if (size > limit)
		size = limit;
	const uint64_t end = ash_blocks_of(size);
	if (edit->record.inode->data_kind == ASH_FORK_INLINE)
		return (int64_t)(want_data ? offset : size);
	uint64_t found = want_data ? end : block;
	if (edit->record.inode->data_kind == ASH_FORK_TREE) {
		int rc = ash_map_find(&edit->tree, block, end, want_data, &found);

		if (rc)
			return rc;
	}
	if (found >= end)
		return want_data ? -ENXIO : (int64_t)size;
	found <<= ASH_BLOCK_SHIFT;
	return (int64_t)(found > offset ? found : offset);
}

/*
 * The volume turned read-only and what is buffered stays, to be read: where it lies the map does not say, so all of the file
 * counts as data, which is always allowed.
 */
static int64_t seek_unflushed(struct ash_volume *volume, struct ash_icore *icore, uint64_t offset, bool want_data,
			      uint64_t limit)
{
	struct ash_edit edit;
	int rc = ash_edit_look(&edit, volume, icore, false);

	if (rc)
		return rc;
	uint64_t size = ash_edit_size(&edit);
	ash_edit_abort(&edit);
	if (offset >= size)
		return -ENXIO;
	return (int64_t)(want_data ? offset : size < limit ? size : limit);
}

int64_t ash_seek(struct ash_volume *volume, uint64_t ino, uint64_t offset, int whence)
{
	return ash_seek_before(volume, ino, offset, whence, ASH_FILE_MAX_SIZE);
}

int64_t ash_seek_before(struct ash_volume *volume, uint64_t ino, uint64_t offset, int whence, uint64_t limit)
{
	struct ash_icore *icore;
	struct ash_edit edit;

	if (whence != SEEK_DATA && whence != SEEK_HOLE)
		return -EINVAL;
	int64_t result = ash_icore_get(volume, ino, &icore);
	if (result)
		return result;
	result = look_flushed(&edit, volume, icore);
	if (!result) {
		result = seek_locked(&edit, offset, whence == SEEK_DATA, limit);
		ash_edit_abort(&edit);
	} else if (result == -EROFS) {
		result = seek_unflushed(volume, icore, offset, whence == SEEK_DATA, limit);
	}
	ash_icore_put(volume, icore);
	return result;
}

int ash_bmap(struct ash_volume *volume, uint64_t ino, uint64_t block, uint64_t *out)
{
	struct ash_mapping mapping = { 0 };
	struct ash_icore *icore;
	struct ash_edit edit;
	int rc = ash_icore_get(volume, ino, &icore);

	if (rc)
		return rc;
	rc = look_flushed(&edit, volume, icore);
	if (!rc) {
		if (block < ash_blocks_of(ash_edit_disk_size(&edit)))
			rc = ash_edit_map(&edit, block, 1, &mapping);
		ash_edit_abort(&edit);
	}
	ash_icore_put(volume, icore);
	*out = mapping.start; /* also of space not yet written: through FUSE swapon(2) has no other way to see that it is there */
	return rc;
}
