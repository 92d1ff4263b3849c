// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * File sizes: truncation, growth, freeing the blocks of a deleted inode.
 *
 * Concept: a new size is one transaction with whatever else changes (setattr). A shrink that frees more extents than one
 * transaction may hold sets the size and makes the inode an orphan in the first one; the chain that follows frees the
 * rest and takes the mark back in the last one. After a crash recovery finishes the chain.
 *
 * Rule: between the links of the chain the lock is free, and blocks with old content still hang behind the end of
 * file. So the inode is in the volume's list of pending truncations; whoever wants to write, grow or allocate first
 * finishes the chain itself (ash_file_resume_truncate) and nobody has to wait for a sleeping owner.
 *
 * Growth: bytes behind the old end of file are undefined on the device and are zeroed, complete before the record (I2).
 *
 * Locks: the inode's lock per transaction; the pending list under the write-behind lock, changed with the inode locked.
 */
#include <stdlib.h>
#include "file_edit.h"

/* Leaves room for one more tree change beyond it, and for what setattr adds (an attribute dropped). */
#define REMOVE_LOG_BYTES (24u << 10)

/* ---- The list of pending truncations ---- */

bool ash_truncation_pending(const struct ash_volume *volume, uint64_t ino)
{
	struct ash_write_behind *wb = volume->wb;
	const struct ash_pending_truncation *at;

	if (!atomic_load(&wb->truncation_count))
		return false;
	pthread_mutex_lock(&wb->lock);
	for (at = wb->truncations; at && at->ino != ino; at = at->next)
		;
	pthread_mutex_unlock(&wb->lock);
	return at != NULL;
}

static int pending_add(struct ash_volume *volume, uint64_t ino)
{
	struct ash_write_behind *wb = volume->wb;
	struct ash_pending_truncation *entry;

	if (ash_truncation_pending(volume, ino))
		return 0;
	entry = malloc(sizeof(*entry));
	if (!entry)
		return -ENOMEM;
	pthread_mutex_lock(&wb->lock);
	*entry = (struct ash_pending_truncation){ .next = wb->truncations, .ino = ino };
	wb->truncations = entry;
	atomic_fetch_add(&wb->truncation_count, 1);
	pthread_mutex_unlock(&wb->lock);
	return 0;
}

void ash_truncation_forget(struct ash_volume *volume, uint64_t ino)
{
	struct ash_write_behind *wb = volume->wb;
	struct ash_pending_truncation **at, *entry;

	if (!atomic_load(&wb->truncation_count))
		return;
	pthread_mutex_lock(&wb->lock);
	for (at = &wb->truncations; *at && (*at)->ino != ino; at = &(*at)->next)
		;
	entry = *at;
	if (entry) {
		*at = entry->next;
		atomic_fetch_sub(&wb->truncation_count, 1);
	}
	pthread_mutex_unlock(&wb->lock);
	free(entry);
}

/* ---- Sizes cut within a block ---- */

/* wb lock held. */
static struct ash_wb_shrink *shrink_slot(struct ash_write_behind *wb, uint64_t ino, uint64_t durable)
{
	struct ash_wb_shrink *slot = NULL;

	for (unsigned i = 0; i < ASH_WB_SHRINKS; i++) {
		if (wb->shrinks[i].lsn && wb->shrinks[i].ino == ino)
			return &wb->shrinks[i];
		if (wb->shrinks[i].lsn <= durable)
			slot = &wb->shrinks[i];
	}
	return slot;
}

static void note_shrink(struct ash_volume *volume, uint64_t ino, uint64_t lsn)
{
	struct ash_write_behind *wb = volume->wb;
	uint64_t durable = ash_log_durable(volume);

	pthread_mutex_lock(&wb->lock);
	struct ash_wb_shrink *slot = shrink_slot(wb, ino, durable);
	if (slot)
		*slot = (struct ash_wb_shrink){ ino, lsn };
	else
		wb->shrink_floor = lsn > wb->shrink_floor ? lsn : wb->shrink_floor;
	pthread_mutex_unlock(&wb->lock);
}

int ash_edit_settle_end(struct ash_edit *edit, uint64_t block, uint64_t count)
{
	struct ash_write_behind *wb = edit->volume->wb;
	uint64_t size = ash_edit_disk_size(edit), end = size >> ASH_BLOCK_SHIFT;

	if (!(size & (ASH_BLOCK_SIZE - 1)) || end < block || end - block >= count)
		return 0;
	pthread_mutex_lock(&wb->lock);
	uint64_t lsn = wb->shrink_floor;
	for (unsigned i = 0; i < ASH_WB_SHRINKS; i++)
		if (wb->shrinks[i].ino == edit->icore->ino && wb->shrinks[i].lsn > lsn)
			lsn = wb->shrinks[i].lsn;
	pthread_mutex_unlock(&wb->lock);
	if (!lsn || lsn <= ash_log_durable(edit->volume))
		return 0;
	return ash_log_force(edit->volume, lsn);
}

/* ---- Taking blocks away ---- */

int ash_edit_remove(struct ash_edit *edit, uint64_t block, uint64_t count, uint64_t *remaining)
{
	uint64_t freed = 0;

	*remaining = 0;
	if (edit->record.inode->data_kind != ASH_FORK_TREE || !count)
		return 0;
	int rc = ash_map_remove(edit->txn, &edit->tree, block, count, REMOVE_LOG_BYTES, remaining, &freed);
	edit->removed += freed;
	return rc;
}

/* Set the header as it is, with the blocks counted. */
static void settle_blocks(struct ash_edit *edit)
{
	struct ash_inode header;

	ash_edit_header(edit, &header);
	ash_edit_set_header(edit, &header);
}

static bool has_links(const struct ash_edit *edit)
{
	return ash_get32(edit->record.inode->nlink) > 0;
}

/* One link of the chain. 1: more to do. */
static int resume_once(struct ash_volume *volume, struct ash_icore *icore)
{
	uint64_t remaining;
	struct ash_edit edit;
	int rc = ash_edit_begin(&edit, volume, icore, ASH_EDIT_LOG_BYTES);

	if (rc)
		return rc;
	if (!ash_truncation_pending(volume, icore->ino)) {
		ash_edit_abort(&edit);
		return 0;
	}
	uint64_t first = ash_blocks_of(ash_edit_disk_size(&edit));
	rc = ash_edit_remove(&edit, first, ASH_FILE_MAX_BLOCKS - first, &remaining);
	if (rc) {
		ash_edit_abort(&edit);
		return rc;
	}
	settle_blocks(&edit);
	if (!remaining) {
		if (has_links(&edit))
			ash_orphan_remove(edit.txn, icore->ino);
		ash_truncation_forget(volume, icore->ino);
	}
	ash_edit_commit(&edit, false);
	return remaining != 0;
}

int ash_file_resume_truncate(struct ash_volume *volume, struct ash_icore *icore)
{
	int rc;

	do
		rc = resume_once(volume, icore);
	while (rc > 0);
	return rc;
}

int ash_file_finish_truncate(struct ash_volume *volume, uint64_t ino)
{
	struct ash_icore *icore;
	int rc = ash_icore_get(volume, ino, &icore);

	if (rc)
		return rc;
	rc = pending_add(volume, ino);
	if (!rc)
		rc = ash_file_resume_truncate(volume, icore);
	ash_icore_put(volume, icore);
	return rc;
}

int ash_file_remove_blocks(struct ash_volume *volume, struct ash_icore *icore, uint64_t block, uint64_t count)
{
	uint64_t remaining = count;
	struct ash_edit edit;

	while (remaining) {
		int rc = ash_edit_begin_settled(&edit, volume, icore, ASH_EDIT_LOG_BYTES);

		if (rc)
			return rc;
		rc = ash_edit_remove(&edit, block, remaining, &remaining);
		if (rc) {
			ash_edit_abort(&edit);
			return rc;
		}
		ash_drop_preallocation(volume, icore);
		settle_blocks(&edit);
		ash_edit_commit(&edit, true);
	}
	return 0;
}

/*
 * One transaction of ash_file_free_all(). 1: more to do. Files only: a symbolic link without its target would be damage for
 * whoever meets it within the chain, so that goes with the record, in one transaction.
 */
static int free_once(struct ash_volume *volume, struct ash_icore *icore)
{
	uint64_t remaining;
	struct ash_edit edit;
	int rc = ash_edit_begin(&edit, volume, icore, ASH_EDIT_LOG_BYTES);

	if (rc)
		return rc;
	ash_wb_drop(volume, icore, 0);
	if (edit.record.inode->data_kind == ASH_FORK_INLINE)
		ash_edit_set_inline(&edit, NULL, 0);
	rc = ash_edit_remove(&edit, 0, ASH_FILE_MAX_BLOCKS, &remaining);
	if (rc) {
		ash_edit_abort(&edit);
		return rc;
	}
	struct ash_inode header;
	ash_edit_header(&edit, &header);
	header.size = ash_put64(0); /* nothing is left to read while the chain runs */
	ash_edit_set_header(&edit, &header);
	if (!remaining)
		ash_truncation_forget(volume, icore->ino);
	ash_edit_commit(&edit, false);
	return remaining != 0;
}

int ash_file_free_all(struct ash_volume *volume, struct ash_icore *icore)
{
	int rc;

	do
		rc = free_once(volume, icore);
	while (rc > 0);
	return rc == -EINVAL || rc == -EISDIR ? 0 : rc;
}

/* ---- Setting the size ---- */

/* Make the content fit `size` bytes, one of them or both below the size of an inode's data fork. */
static int resize_inline(struct ash_edit *edit, uint64_t size)
{
	uint8_t bytes[ASH_DATA_FORK_SIZE] = { 0 };
	uint64_t old = ash_edit_disk_size(edit);

	if (size > sizeof(bytes))
		return ash_edit_outline(edit, 0);
	memcpy(bytes, edit->record.inode->data, old < size ? old : size);
	ash_edit_set_inline(edit, bytes, size);
	return 0;
}

/* The first transaction. 1: a chain must follow. */
static int set_size_once(struct ash_edit *edit, uint64_t size, ash_record_change also, void *context)
{
	struct ash_volume *volume = edit->volume;
	uint64_t old = ash_edit_disk_size(edit), first = ash_blocks_of(size), remaining = 0;
	struct ash_inode header;
	int rc = 0;

	if (edit->record.inode->data_kind == ASH_FORK_INLINE)
		rc = resize_inline(edit, size);
	else if (size > old)
		rc = ash_edit_zero_tail(edit);
	else
		rc = ash_edit_remove(edit, first, ASH_FILE_MAX_BLOCKS - first, &remaining);
	if (rc)
		return rc;
	ash_edit_header(edit, &header);
	header.size = ash_put64(size);
	ash_edit_set_header(edit, &header);
	if (also)
		rc = also(edit->txn, edit->icore, &edit->record, context);
	if (!rc && remaining)
		rc = pending_add(volume, edit->icore->ino);
	if (!rc && remaining && has_links(edit))
		ash_orphan_add(edit->txn, edit->icore->ino);
	return rc ? rc : remaining != 0;
}

/* A truncation to zero throws buffered data away; any other size first writes it out. */
static int begin_size(struct ash_edit *edit, struct ash_volume *volume, struct ash_icore *icore, uint64_t size)
{
	if (size)
		return ash_edit_begin_settled(edit, volume, icore, ASH_EDIT_LOG_BYTES);
	for (;;) {
		int rc = ash_edit_begin(edit, volume, icore, ASH_EDIT_LOG_BYTES);

		if (rc || !ash_truncation_pending(volume, icore->ino))
			return rc;
		ash_edit_abort(edit);
		rc = ash_file_resume_truncate(volume, icore);
		if (rc)
			return rc;
	}
}

static int set_size(struct ash_volume *volume, struct ash_icore *icore, uint64_t size, ash_record_change also,
		    void *context)
{
	struct ash_edit edit;
	int rc = begin_size(&edit, volume, icore, size);

	if (rc)
		return rc;
	uint64_t before = ash_edit_size(&edit);
	rc = set_size_once(&edit, size, also, context);
	if (rc < 0) {
		ash_edit_abort(&edit);
		return rc;
	}
	/* Nothing can fail any more. Buffered data goes when the log has what takes its place (I5). */
	uint64_t lsn = ash_edit_commit_locked(&edit, true);
	if (size < before || !size)
		ash_wb_drop(volume, icore, size);
	if (before && !size) {
		icore->truncated_to_zero = true;
		ash_wb_keep(volume, icore);
	}
	if (size < before && (size & (ASH_BLOCK_SIZE - 1)))
		note_shrink(volume, icore->ino, lsn);
	ash_edit_unlock(&edit);
	/* The size is set, and logged with an orphan: who comes next, or the next mount, finishes what this cannot. */
	if (rc > 0)
		(void)ash_file_resume_truncate(volume, icore);
	return 0;
}

int ash_file_set_size(struct ash_volume *volume, struct ash_icore *icore, uint64_t size, ash_record_change also,
		      void *context)
{
	if (size > ASH_FILE_MAX_SIZE)
		return -EFBIG;
	int rc = ash_async_bar(volume, icore);

	if (rc)
		return rc;
	rc = set_size(volume, icore, size, also, context);
	if (rc == -ENOSPC && ash_reclaim_space(volume))
		rc = set_size(volume, icore, size, also, context);
	ash_async_admit(icore);
	return rc;
}
