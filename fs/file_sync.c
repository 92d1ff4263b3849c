// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * fsync and write-back of one inode.
 *
 * Concept (I5): buffered data is written out and its record appended; then the log is forced up to the inode's last
 * LSN, which flushes data before it writes (I2); then data that was overwritten in place, for which no record was
 * appended, is flushed, which costs nothing when the log has just done so. An error of background write-behind is
 * reported here, once. Of several that are synced together all is written first, so that one force and one flush do
 * for all.
 *
 * Locks: none over device I/O of the log; the inode's lock to read its state.
 */
#include <assert.h>
#include "file_edit.h"

/* The unreported error, which is thereby reported. */
static int take_error(struct ash_volume *volume, struct ash_icore *icore)
{
	ash_icore_lock(volume, icore, true);
	int error = icore->write_error;
	if (error)
		ash_wb_loss_told(volume, icore);
	icore->write_error = 0;
	ash_icore_unlock(icore);
	return error;
}

static bool has_error(struct ash_volume *volume, struct ash_icore *icore)
{
	ash_icore_lock(volume, icore, false);
	bool error = icore->write_error;
	ash_icore_unlock(icore);
	return error;
}

static bool has_buffered(struct ash_volume *volume, struct ash_icore *icore)
{
	ash_icore_lock(volume, icore, false);
	bool buffered = icore->buffered;
	ash_icore_unlock(icore);
	return buffered;
}

static int write_back(struct ash_volume *volume, struct ash_icore *icore)
{
	return has_buffered(volume, icore) ? ash_wb_flush_inode(volume, icore) : 0;
}

int ash_write_back(struct ash_volume *volume, uint64_t ino)
{
	struct ash_icore *icore;
	int rc = ash_icore_get(volume, ino, &icore);

	if (rc)
		return rc;
	rc = write_back(volume, icore);
	ash_icore_put(volume, icore);
	return rc;
}

/* Everything but the waits for the device's flush. `*lsn`: up to where the log has to be durable then. */
static int fsync_write(struct ash_volume *volume, const struct ash_fsync *item, uint64_t *lsn)
{
	struct ash_icore *icore;
	int error, rc = ash_icore_get(volume, item->ino, &icore);

	if (rc)
		return rc;
	if (!(item->flags & ASH_FSYNC_WRITTEN)) {
		rc = write_back(volume, icore);
		/* Somebody else may have taken the error by now: what this call's own writing met stays an error. */
		error = has_error(volume, icore) ? take_error(volume, icore) : 0;
		if (error)
			rc = error;
	}
	*lsn = atomic_load(item->flags & ASH_FSYNC_DATA ? &icore->data_lsn : &icore->lsn);
	ash_icore_put(volume, icore);
	return rc;
}

/*
 * One force and one flush, after all is written: what others write while these last is not waited for. Both fail with
 * the volume only (I6), and then for all.
 */
void ash_fsync_all(struct ash_volume *volume, struct ash_fsync *items, size_t count)
{
	uint64_t lsn = 0, last = 0;
	bool written = false;

	assert(count <= ASH_FSYNC_MAX);
	for (size_t i = 0; i < count; i++) {
		items[i].result = fsync_write(volume, &items[i], &lsn);
		if (items[i].result)
			continue;
		written = true;
		if (lsn > last)
			last = lsn;
	}
	if (!written)
		return;
	int error = ash_log_make_durable(volume, last);
	for (size_t i = 0; i < count; i++)
		if (!items[i].result)
			items[i].result = error;
}

int ash_fsync(struct ash_volume *volume, uint64_t ino, bool data_only)
{
	struct ash_fsync item = { .ino = ino, .flags = data_only ? ASH_FSYNC_DATA : 0 };

	ash_fsync_all(volume, &item, 1);
	return item.result;
}
