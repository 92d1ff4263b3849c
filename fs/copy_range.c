// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * ash_copy_range: copy between files, or within one, without the data leaving the process.
 *
 * Concept: the source is walked by its data and hole segments; data goes through one aligned buffer by ash_read() and
 * ash_write(), holes become holes of the target. Each step is an operation of its own; a failure in the middle gives
 * the bytes done, as copy_file_range(2) does.
 *
 * Locks: none here; never two inodes at once, so that opposite copies cannot wait for each other.
 */
#include <linux/falloc.h>
#include <unistd.h>
#include "file_edit.h"

#define COPY_BYTES (1u << 20)

struct copy {
	struct ash_volume *volume;
	uint64_t from, to; /* inodes */
	uint64_t at, end;  /* source bytes still to be copied */
	uint64_t target;   /* where `at` goes */
	uint8_t *buffer;
	unsigned flags; /* for the writes */
};

/* *flags (may be NULL): as chattr set them. */
static int size_of(struct ash_volume *volume, uint64_t ino, uint64_t *size, uint32_t *flags)
{
	struct ash_icore *icore;
	struct ash_edit edit;
	int rc = ash_icore_get(volume, ino, &icore);

	if (rc)
		return rc;
	rc = ash_edit_look(&edit, volume, icore, false);
	if (!rc) {
		*size = ash_edit_size(&edit);
		if (flags)
			*flags = ash_get32(edit.record.inode->flags);
		ash_edit_abort(&edit);
	}
	ash_icore_put(volume, icore);
	return rc;
}

/* The hole reaches to `until`: what the target holds there becomes zeroes. */
static int copy_hole(struct copy *copy, uint64_t until)
{
	uint64_t length = until - copy->at, size;
	int rc = size_of(copy->volume, copy->to, &size, NULL);

	if (!rc && copy->target < size)
		rc = ash_fallocate(copy->volume, copy->to, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, copy->target,
				   length < size - copy->target ? length : size - copy->target);
	if (rc)
		return rc;
	copy->at += length;
	copy->target += length;
	return 0;
}

static int copy_data(struct copy *copy, uint64_t until)
{
	while (copy->at < until) {
		size_t length = until - copy->at < COPY_BYTES ? until - copy->at : COPY_BYTES;
		int64_t got = ash_read(copy->volume, copy->from, copy->buffer, length, copy->at);

		if (got <= 0)
			return got ? (int)got : -ENODATA; /* cut meanwhile */
		int64_t put = ash_write(copy->volume, copy->to, copy->buffer, (size_t)got, copy->target, copy->flags);
		if (put < 0)
			return (int)put;
		copy->at += (uint64_t)put;
		copy->target += (uint64_t)put;
		if (put < got)
			return -ENOSPC;
	}
	return 0;
}

/* One segment of data or one hole. */
static int copy_segment(struct copy *copy)
{
	int64_t data = ash_seek_before(copy->volume, copy->from, copy->at, SEEK_DATA, copy->end);

	if (data == -ENXIO)
		return copy_hole(copy, copy->end);
	if (data < 0)
		return (int)data;
	if ((uint64_t)data > copy->at)
		return copy_hole(copy, (uint64_t)data);
	int64_t hole = ash_seek_before(copy->volume, copy->from, copy->at, SEEK_HOLE, copy->end);
	if (hole < 0)
		return (int)hole;
	return copy_data(copy, (uint64_t)hole);
}

static int stamp(struct ash_txn *txn, struct ash_icore *icore, struct ash_record *record, void *context)
{
	const struct timespec *now = context;
	struct ash_inode header;

	(void)icore;
	memcpy(&header, record->inode, offsetof(struct ash_inode, data));
	ash_stamp_mtime(&header, *now);
	ash_stamp_ctime(&header, *now);
	ash_record_set_header(txn, record, &header);
	return 0;
}

/* A copy that ended in a hole has not raised the size yet. */
static int raise_size(struct copy *copy)
{
	struct ash_volume *volume = copy->volume;
	struct ash_icore *icore;
	uint64_t size;
	bool sync;
	int rc = size_of(volume, copy->to, &size, NULL);

	if (rc || size >= copy->target)
		return rc;
	rc = ash_icore_get(volume, copy->to, &icore);
	if (rc)
		return rc;
	/* Holes behind the old end were no write: this is the first that the file hears of the copy. */
	rc = ash_file_begin_change(volume, icore, (struct ash_file_intent){ .writes = true, .at = size }, &sync);
	if (!rc) {
		struct timespec now = ash_now();

		rc = ash_file_set_size(volume, icore, copy->target, stamp, &now);
	}
	if (!rc && sync)
		rc = ash_file_make_durable(volume, icore, false);
	ash_icore_put(volume, icore);
	return rc;
}

static int64_t copy_all(struct copy *copy)
{
	uint64_t begin = copy->at;
	int rc = 0;

	while (copy->at < copy->end && !rc)
		rc = copy_segment(copy);
	if (copy->at > begin) {
		int raised = raise_size(copy);

		if (raised)
			return raised;
		return (int64_t)(copy->at - begin);
	}
	return rc == -ENODATA ? 0 : rc;
}

int64_t ash_copy_range(struct ash_volume *volume, uint64_t from, uint64_t from_offset, uint64_t to, uint64_t to_offset,
		       uint64_t length)
{
	struct copy copy = { .volume = volume, .from = from, .to = to, .at = from_offset, .target = to_offset };
	uint64_t size, target_size;
	uint32_t flags;
	int rc = ash_check_writable(volume);

	if (!rc)
		rc = size_of(volume, from, &size, NULL);
	if (!rc)
		rc = size_of(volume, to, &target_size, &flags);
	/* Append-only: nothing that is there is replaced. */
	if (!rc && (flags & ASH_INODE_IMMUTABLE || (flags & ASH_INODE_APPEND && to_offset < target_size)))
		rc = -EPERM;
	if (rc)
		return rc;
	if (from_offset >= size || !length)
		return 0;
	if (length > size - from_offset)
		length = size - from_offset;
	if (to_offset > ASH_FILE_MAX_SIZE || length > ASH_FILE_MAX_SIZE - to_offset)
		return -EFBIG;
	if (from == to && from_offset < to_offset + length && to_offset < from_offset + length)
		return -EINVAL;
	copy.end = from_offset + length;
	/* Much data would only push other files out of the buffer. */
	copy.flags = length > COPY_BYTES ? ASH_WRITE_THROUGH : 0;
	copy.buffer = bdev_buffer_alloc(COPY_BYTES);
	if (!copy.buffer)
		return -ENOMEM;
	int64_t result = copy_all(&copy);
	bdev_buffer_free(copy.buffer, COPY_BYTES);
	return result;
}
