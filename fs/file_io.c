// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * File bytes to and from the device.
 *
 * Concept: whole blocks move directly between the caller's memory and the device where its alignment allows; what
 * is left (heads, tails, unaligned memory) goes through bounce buffers of ASH_BOUNCE_BYTES. Only a partly covered
 * block that holds data is read before it is written.
 *
 * Rules: bytes of a block at and behind the end of file are undefined on the device (I2) and are zeroes here. Every
 * finished write is announced to the log before the caller can append the record that makes it reachable.
 *
 * Locks: the caller holds the inode's lock, so its extents cannot change (nor their blocks be reused, I3) meanwhile.
 * Spare bounce buffers and queues are kept under the write-behind lock; no device I/O happens under that one. A queue
 * is in use by one call at a time, which waits for all that it submits: to the holder of locks it is a blocking call.
 */
#include <limits.h>
#include "file_edit.h"
#include "plant.h"

#define BLOCK_MASK (ASH_BLOCK_SIZE - 1)

uint8_t *ash_bounce_get(struct ash_volume *volume)
{
	struct ash_write_behind *wb = volume->wb;
	uint8_t *bounce = NULL;

	pthread_mutex_lock(&wb->lock);
	if (wb->bounce_count)
		bounce = wb->bounces[--wb->bounce_count];
	pthread_mutex_unlock(&wb->lock);
	return bounce ? bounce : bdev_buffer_alloc(ASH_BOUNCE_BYTES);
}

void ash_bounce_put(struct ash_volume *volume, uint8_t *bounce)
{
	struct ash_write_behind *wb = volume->wb;

	pthread_mutex_lock(&wb->lock);
	if (wb->bounce_count < ASH_WB_SPARE_BOUNCES) {
		wb->bounces[wb->bounce_count++] = bounce;
		bounce = NULL;
	}
	pthread_mutex_unlock(&wb->lock);
	if (bounce)
		bdev_buffer_free(bounce, ASH_BOUNCE_BYTES);
}

static int data_read(struct ash_volume *volume, void *target, uint64_t length, uint64_t block)
{
	ash_wait_begin(volume);
	int rc = bdev_read(volume->dev, target, length, block << ASH_BLOCK_SHIFT);
	ash_wait_end(volume);
	return rc;
}

/* A damaged extent over the log, a bitmap, a superblock: the damage of one file must not become the volume's (I8). */
int ash_data_check(struct ash_volume *volume, struct ash_extent extent)
{
	return ash_is_fixed(volume, extent) ?
		       ash_damaged(volume, extent.start, "a file's extent lies over blocks of the volume") :
		       0;
}

static int not_ours(struct ash_volume *volume, uint64_t block, uint64_t length)
{
	return ash_data_check(volume, (struct ash_extent){ block, ash_blocks_of(length) });
}

int ash_data_write(struct ash_volume *volume, const void *source, uint64_t length, uint64_t block)
{
	int rc = not_ours(volume, block, length);

	if (rc)
		return rc;
	ash_wait_begin(volume);
	rc = bdev_write(volume->dev, source, length, block << ASH_BLOCK_SHIFT, 0);
	ash_wait_end(volume);
	if (!rc)
		ash_log_note_data(volume);
	return rc;
}

int ash_data_zero(struct ash_volume *volume, uint64_t count, uint64_t block)
{
	int rc = count ? not_ours(volume, block, count << ASH_BLOCK_SHIFT) : 0;

	if (rc || !count)
		return rc;
	ash_wait_begin(volume);
	rc = bdev_write_zeroes(volume->dev, block << ASH_BLOCK_SHIFT, count << ASH_BLOCK_SHIFT);
	ash_wait_end(volume);
	if (!rc)
		ash_log_note_data(volume);
	return rc;
}

int ash_data_writev(struct ash_volume *volume, struct iovec *iov, unsigned count, uint64_t block)
{
	uint64_t offset = block << ASH_BLOCK_SHIFT, bytes_all = 0;
	int rc;

	for (unsigned i = 0; i < count; i++)
		bytes_all += iov[i].iov_len;
	rc = not_ours(volume, block, bytes_all);
	if (rc)
		return rc;
	ash_wait_begin(volume);
	while (count && !rc) {
		unsigned part = count < IOV_MAX ? count : IOV_MAX;
		uint64_t bytes = 0;

		for (unsigned i = 0; i < part; i++)
			bytes += iov[i].iov_len;
		rc = bdev_writev(volume->dev, iov, (int)part, offset, 0);
		offset += bytes;
		iov += part;
		count -= part;
	}
	ash_wait_end(volume);
	if (!rc)
		ash_log_note_data(volume);
	return rc;
}

#define MANY_DEPTH 64u

/* NULL: none is to be had. */
static struct bdev_queue *idle_queue_get(struct ash_volume *volume)
{
	struct ash_write_behind *wb = volume->wb;
	struct bdev_queue *queue = NULL;

	pthread_mutex_lock(&wb->lock);
	if (wb->idle_queue_count)
		queue = wb->idle_queues[--wb->idle_queue_count];
	pthread_mutex_unlock(&wb->lock);
	if (!queue && bdev_queue_open(volume->dev, MANY_DEPTH, &queue))
		return NULL;
	return queue;
}

static void idle_queue_put(struct ash_volume *volume, struct bdev_queue *queue)
{
	struct ash_write_behind *wb = volume->wb;

	pthread_mutex_lock(&wb->lock);
	if (!bdev_queue_in_flight(queue) && wb->idle_queue_count < ASH_WB_SPARE_QUEUES) {
		wb->idle_queues[wb->idle_queue_count++] = queue;
		queue = NULL;
	}
	pthread_mutex_unlock(&wb->lock);
	bdev_queue_close(queue); /* also what could not be reaped has ended then */
}

/* The shortest path for a single one, and the way without a queue. */
static void write_in_turn(struct ash_volume *volume, struct bdev_request *requests, unsigned count)
{
	int rc = 0;

	for (unsigned i = 0; i < count; i++) {
		if (!rc)
			rc = bdev_writev(volume->dev, requests[i].iov, requests[i].iov_count, requests[i].offset, 0);
		requests[i].result = rc;
	}
}

void ash_data_write_many(struct ash_volume *volume, struct bdev_request *requests, unsigned count)
{
	bool any = false;

	if (!count)
		return;
	ash_wait_begin(volume);
	struct bdev_queue *queue = count > 1 ? idle_queue_get(volume) : NULL;
	if (queue) {
		bdev_run(queue, requests, count);
		idle_queue_put(volume, queue);
	} else {
		write_in_turn(volume, requests, count);
	}
	ash_wait_end(volume);
	for (unsigned i = 0; i < count; i++)
		any |= !requests[i].result;
	if (any)
		ash_log_note_data(volume);
}

/* Does the mapping hold file content, as opposed to zeroes? */
static bool mapping_written(const struct ash_mapping *mapping)
{
	return mapping->start && !mapping->unwritten;
}

static uint64_t mapping_device(const struct ash_mapping *mapping, uint64_t block)
{
	return mapping->start + (block - mapping->file_block);
}

int ash_edit_fill(struct ash_edit *edit, const struct ash_mapping *mapping, uint64_t block, uint8_t *out)
{
	uint64_t size = ash_edit_disk_size(edit), begin = block << ASH_BLOCK_SHIFT;

	if (!mapping_written(mapping) || begin >= size) {
		memset(out, 0, ASH_BLOCK_SIZE);
		return 0;
	}
	/* It will be written back: see ash_async_bar(). */
	assert(atomic_load(&edit->icore->async_barred) || size - begin < ASH_BLOCK_SIZE);
	int rc = data_read(edit->volume, out, ASH_BLOCK_SIZE, mapping_device(mapping, block));
	if (!rc && size - begin < ASH_BLOCK_SIZE && !ASH_PLANTED(ASH_PLANT_NO_TAIL_ZERO))
		memset(out + (size - begin), 0, ASH_BLOCK_SIZE - (size - begin));
	return rc;
}

/* Through a bounce buffer: from `offset`, at most `length` bytes; returns how many. */
static int64_t read_bounced(struct ash_edit *edit, const struct ash_mapping *mapping, uint8_t *target, uint64_t offset,
			    uint64_t length)
{
	uint64_t inside = offset & BLOCK_MASK;
	uint64_t take = length < ASH_BOUNCE_BYTES - inside ? length : ASH_BOUNCE_BYTES - inside;
	uint64_t block = offset >> ASH_BLOCK_SHIFT;
	uint8_t *bounce = ash_bounce_get(edit->volume);

	if (!bounce)
		return -ENOMEM;
	int rc = data_read(edit->volume, bounce, ash_blocks_of(inside + take) << ASH_BLOCK_SHIFT,
			   mapping_device(mapping, block));
	if (!rc)
		memcpy(target, bounce + inside, take);
	ash_bounce_put(edit->volume, bounce);
	return rc ? rc : (int64_t)take;
}

/* How many of `length` bytes at `target` can be transferred directly? Only whole blocks, but for spare memory behind. */
static uint64_t direct_bytes(const struct ash_volume *volume, const void *memory, uint64_t offset, uint64_t length)
{
	if ((offset & BLOCK_MASK) || !ash_memory_aligned(volume, memory))
		return 0;
	return length & ~(uint64_t)BLOCK_MASK;
}

int ash_edit_read_run(struct ash_edit *edit, const struct ash_mapping *mapping, uint8_t *target, uint64_t offset,
		      uint64_t length, uint64_t capacity)
{
	if (!mapping_written(mapping)) {
		memset(target, 0, length);
		return 0;
	}
	while (length) {
		uint64_t up = (length + BLOCK_MASK) & ~(uint64_t)BLOCK_MASK;
		uint64_t direct = direct_bytes(edit->volume, target, offset, up <= capacity ? up : length);
		int64_t moved;

		if (direct) {
			int rc = data_read(edit->volume, target, direct,
					   mapping_device(mapping, offset >> ASH_BLOCK_SHIFT));

			moved = rc ? rc : (int64_t)(direct < length ? direct : length);
		} else {
			/* An aligned caller's odd head or tail alone, so that the rest can go directly. */
			uint64_t head = ASH_BLOCK_SIZE - (offset & BLOCK_MASK);
			bool soon = ash_memory_aligned(edit->volume, target + head) && head < length;

			moved = read_bounced(edit, mapping, target, offset, soon ? head : length);
		}
		if (moved < 0)
			return (int)moved;
		target += moved;
		offset += moved;
		length -= moved;
		capacity -= moved;
	}
	return 0;
}

/* Old content into the first and last block of a bounce buffer where the new bytes do not cover them. */
static int prefill(struct ash_edit *edit, const struct ash_mapping *mapping, uint8_t *bounce, uint64_t offset,
		   uint64_t take)
{
	uint64_t first = offset >> ASH_BLOCK_SHIFT, last = (offset + take - 1) >> ASH_BLOCK_SHIFT;
	bool head = offset & BLOCK_MASK, tail = (offset + take) & BLOCK_MASK;
	int rc = 0;

	if (head || (tail && first == last))
		rc = ash_edit_fill(edit, mapping, first, bounce);
	if (!rc && tail && first != last)
		rc = ash_edit_fill(edit, mapping, last, bounce + ((last - first) << ASH_BLOCK_SHIFT));
	return rc;
}

static int64_t write_bounced(struct ash_edit *edit, const struct ash_mapping *mapping, const uint8_t *source,
			     uint64_t offset, uint64_t length)
{
	uint64_t inside = offset & BLOCK_MASK;
	uint64_t take = length < ASH_BOUNCE_BYTES - inside ? length : ASH_BOUNCE_BYTES - inside;
	uint8_t *bounce = ash_bounce_get(edit->volume);

	if (!bounce)
		return -ENOMEM;
	int rc = prefill(edit, mapping, bounce, offset, take);
	if (!rc) {
		memcpy(bounce + inside, source, take);
		rc = ash_data_write(edit->volume, bounce, ash_blocks_of(inside + take) << ASH_BLOCK_SHIFT,
				    mapping_device(mapping, offset >> ASH_BLOCK_SHIFT));
	}
	ash_bounce_put(edit->volume, bounce);
	return rc ? rc : (int64_t)take;
}

int ash_edit_write_run(struct ash_edit *edit, const struct ash_mapping *mapping, const uint8_t *source, uint64_t offset,
		       uint64_t length)
{
	if (mapping_written(mapping)) {
		uint64_t first = offset >> ASH_BLOCK_SHIFT;
		int rc = ash_edit_settle_end(edit, first, ash_blocks_of(offset + length) - first);

		if (rc)
			return rc;
	}
	while (length) {
		uint64_t direct = direct_bytes(edit->volume, source, offset, length);
		int64_t moved;

		if (direct) {
			int rc = ash_data_write(edit->volume, source, direct,
						mapping_device(mapping, offset >> ASH_BLOCK_SHIFT));

			moved = rc ? rc : (int64_t)direct;
		} else {
			uint64_t head = ASH_BLOCK_SIZE - (offset & BLOCK_MASK);
			bool soon = ash_memory_aligned(edit->volume, source + head) && head < length;

			moved = write_bounced(edit, mapping, source, offset, soon ? head : length);
		}
		if (moved < 0)
			return (int)moved;
		source += moved;
		offset += moved;
		length -= moved;
	}
	return 0;
}

int ash_edit_zero_part(struct ash_edit *edit, uint64_t offset, uint64_t end)
{
	uint64_t block = offset >> ASH_BLOCK_SHIFT, inside = offset & BLOCK_MASK;
	struct ash_mapping mapping;
	int rc = ash_edit_map(edit, block, 1, &mapping);

	if (rc || !mapping_written(&mapping) || end <= offset)
		return rc;
	uint8_t *bounce = ash_bounce_get(edit->volume);
	if (!bounce)
		return -ENOMEM;
	rc = ash_edit_settle_end(edit, block, 1);
	if (!rc)
		rc = ash_edit_fill(edit, &mapping, block, bounce);
	if (!rc) {
		memset(bounce + inside, 0, end - offset);
		rc = ash_data_write(edit->volume, bounce, ASH_BLOCK_SIZE, mapping.start);
	}
	ash_bounce_put(edit->volume, bounce);
	return rc;
}

int ash_edit_zero_tail(struct ash_edit *edit)
{
	uint64_t size = ash_edit_disk_size(edit);

	if (ASH_PLANTED(ASH_PLANT_NO_TAIL_ZERO) || !(size & BLOCK_MASK) ||
	    edit->record.inode->data_kind != ASH_FORK_TREE)
		return 0;
	/* Filling clears what lies behind the end of file; writing it back is all. */
	return ash_edit_zero_part(edit, size, (size | BLOCK_MASK) + 1);
}

/*
 * Blocks wholly behind the end of file stay unwritten: they would be overwritten in place before the size that shows
 * them is logged. So an extent that reaches there is split at that end; one at a time in a file, since all before it lie
 * within the size. For this split half of the emergency reserve may be used.
 */
int ash_edit_set_whole_written(struct ash_edit *edit, const struct ash_mapping *mapping)
{
	uint64_t end = mapping->file_block + mapping->count, size_end = ash_blocks_of(ash_edit_disk_size(edit));
	struct ash_tree tree = edit->tree;
	struct ash_mapping whole;
	int rc = ash_map_get_whole(&tree, mapping->file_block, &whole);

	if (rc)
		return rc;
	uint64_t whole_end = whole.file_block + whole.count, until = size_end > end ? size_end : end;
	if (until > whole_end)
		until = whole_end;
	rc = ash_data_zero(edit->volume, mapping->file_block - whole.file_block, whole.start);
	if (!rc)
		rc = ash_data_zero(edit->volume, until - end, mapping->start + mapping->count);
	tree.claim_flags |= ASH_CLAIM_PROMISED;
	return rc ? rc : ash_map_set_written(edit->txn, &tree, whole.file_block, until - whole.file_block);
}
