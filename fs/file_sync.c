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

/* Everything but the waits for the device's flush. With a result other than 0 there is no inode. */
static int fsync_write(struct ash_volume *volume, const struct ash_fsync *item, struct ash_icore **out)
{
	int rc = ash_icore_get(volume, item->ino, out);

	if (rc || item->flags & ASH_FSYNC_WRITTEN)
		return rc;
	rc = write_back(volume, *out);
	/* Somebody else may have taken the error by now: what this call's own writing met stays an error. */
	int error = has_error(volume, *out) ? take_error(volume, *out) : 0;
	if (error)
		rc = error;
	if (rc)
		ash_icore_put(volume, *out);
	return rc;
}

void ash_fsync_all(struct ash_volume *volume, struct ash_fsync *items, size_t count)
{
	struct ash_icore *icores[ASH_FSYNC_MAX];

	assert(count <= ASH_FSYNC_MAX);
	for (size_t i = 0; i < count; i++)
		items[i].result = fsync_write(volume, &items[i], &icores[i]);
	for (size_t i = 0; i < count; i++) {
		if (items[i].result)
			continue;
		items[i].result = ash_file_make_durable(volume, icores[i], items[i].flags & ASH_FSYNC_DATA);
		ash_icore_put(volume, icores[i]);
	}
}

int ash_fsync(struct ash_volume *volume, uint64_t ino, bool data_only)
{
	struct ash_fsync item = { .ino = ino, .flags = data_only ? ASH_FSYNC_DATA : 0 };

	ash_fsync_all(volume, &item, 1);
	return item.result;
}
