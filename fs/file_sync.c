// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * fsync and write-back of one inode.
 *
 * Concept (I5): buffered data is written out and its record appended; then the log is forced up to the inode's last
 * LSN, which flushes data before it writes (I2); then data that was overwritten in place, for which no record was
 * appended, is flushed, which costs nothing when the log has just done so. An error of background write-behind is
 * reported here, once, but to all who are at it: whose data was lost is not known. Of several that are synced together
 * all is written first, so that one force and one flush do for all.
 *
 * Locks: none over device I/O of the log; the inode's lock to read its state.
 */
#include <assert.h>
#include "file_edit.h"

/* The unreported error, which is thereby reported; else one that others have reported since `told`. */
static int take_error(struct ash_volume *volume, struct ash_icore *icore, uint32_t told)
{
	ash_icore_lock(volume, icore, true);
	if (icore->write_error) {
		ash_wb_loss_told(volume, icore);
		icore->told_error = icore->write_error;
		icore->write_error = 0;
		atomic_fetch_add(&icore->told, 1);
	}
	int error = atomic_load(&icore->told) != told ? icore->told_error : 0;
	ash_icore_unlock(icore);
	return error;
}

static bool has_error(struct ash_volume *volume, struct ash_icore *icore, uint32_t told)
{
	ash_icore_lock(volume, icore, false);
	bool error = icore->write_error || atomic_load(&icore->told) != told;
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

/* One that has begun. The reference keeps what the inode knows of errors. */
struct begun {
	struct ash_icore *icore; /* NULL: it could not be had */
	uint32_t told;
};

static int fsync_begin(struct ash_volume *volume, uint64_t ino, struct begun *begun)
{
	int rc = ash_icore_get(volume, ino, &begun->icore);

	if (rc)
		begun->icore = NULL;
	else
		begun->told = atomic_load(&begun->icore->told);
	return rc;
}

/* Everything but the waits for the device's flush. `*lsn`: up to where the log has to be durable then. */
static int fsync_write(struct ash_volume *volume, unsigned flags, const struct begun *begun, uint64_t *lsn)
{
	struct ash_icore *icore = begun->icore;
	int error, rc = 0;

	if (!(flags & ASH_FSYNC_WRITTEN)) {
		rc = write_back(volume, icore);
		error = has_error(volume, icore, begun->told) ? take_error(volume, icore, begun->told) : 0;
		if (error)
			rc = error;
	}
	*lsn = atomic_load(flags & ASH_FSYNC_DATA ? &icore->data_lsn : &icore->lsn);
	return rc;
}

/*
 * One force and one flush, after all is written: what others write while these last is not waited for. Both fail with
 * the volume only (I6), and then for all.
 */
void ash_fsync_all(struct ash_volume *volume, struct ash_fsync *items, size_t count)
{
	struct begun begun[ASH_FSYNC_MAX];
	uint64_t lsn = 0, last = 0;
	bool written = false;

	assert(count <= ASH_FSYNC_MAX);
	/* all of them before the first may report an error: several can be of one file */
	for (size_t i = 0; i < count; i++) {
		begun[i].icore = NULL;
		items[i].result = items[i].flags & ASH_FSYNC_LSN ? 0 : fsync_begin(volume, items[i].ino, &begun[i]);
	}
	for (size_t i = 0; i < count; i++) {
		if (begun[i].icore) {
			items[i].result = fsync_write(volume, items[i].flags, &begun[i], &lsn);
			ash_icore_put(volume, begun[i].icore);
		} else {
			lsn = items[i].lsn;
		}
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
