// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * Asynchronous reads and in-place overwrites for an event loop.
 *
 * Concept: only what needs no waiting and no record is submitted: aligned memory, whole blocks, a few written extents,
 * nothing buffered. Everything else answers 0 and is the blocking call's. A request has up to PARTS device requests;
 * it is finished when the last of them is.
 *
 * Rules: the inode's lock is only tried, and dropped before the submission (I10). A ticket taken under it pins the
 * blocks, so that they are not reused while the device works on them (I3). Data written is announced to the log at
 * completion (I2); fsync flushes it.
 *
 * Locks: a queue belongs to one thread and has none of its own.
 */
#include <limits.h>
#include <stdlib.h>
#include "file_edit.h"

#define BLOCK_MASK (ASH_BLOCK_SIZE - 1)
#define PARTS 4u
#define DEFAULT_DEPTH 64u
#define STAGE 32u

struct slot {
	struct slot *next; /* free list */
	ash_done done;
	void *user;
	int64_t result; /* bytes, unless a part failed */
	unsigned ticket;
	unsigned parts, pending;
	bool write;
	struct bdev_request requests[PARTS];
	struct iovec iov[PARTS];
};

struct ash_queue {
	struct ash_volume *volume;
	struct bdev_queue *device;
	unsigned depth;
	unsigned device_in_flight; /* device requests */
	unsigned in_flight;        /* ours */
	struct slot *free;
	struct slot *slots;
	unsigned staged; /* device requests waiting for ash_queue_kick() */
	struct bdev_request *stage[STAGE];
};

int ash_queue_open(struct ash_volume *volume, unsigned depth, struct ash_queue **out)
{
	struct ash_queue *queue = calloc(1, sizeof(*queue));

	if (!queue)
		return -ENOMEM;
	queue->volume = volume;
	queue->depth = depth ? depth : DEFAULT_DEPTH;
	queue->slots = calloc(queue->depth, sizeof(*queue->slots));
	int rc = queue->slots ? bdev_queue_open(volume->dev, queue->depth, &queue->device) : -ENOMEM;
	if (rc) {
		free(queue->slots);
		free(queue);
		return rc;
	}
	for (unsigned i = 0; i < queue->depth; i++) {
		queue->slots[i].next = queue->free;
		queue->free = &queue->slots[i];
	}
	*out = queue;
	return 0;
}

void ash_queue_close(struct ash_queue *queue)
{
	if (!queue)
		return;
	while (queue->in_flight && ash_queue_reap(queue, true) > 0)
		;
	bdev_queue_close(queue->device);
	free(queue->slots);
	free(queue);
}

int ash_queue_event_fd(struct ash_queue *queue)
{
	return bdev_queue_event_fd(queue->device);
}

unsigned ash_queue_in_flight(const struct ash_queue *queue)
{
	return queue->in_flight;
}

/* ---- Submission ---- */

/* Cut [offset, +bytes) into device requests. False: holes, unwritten or too many extents. */
static bool plan_parts(struct ash_edit *edit, struct slot *slot, uint8_t *memory, uint64_t offset, uint64_t bytes)
{
	slot->parts = 0;
	while (bytes) {
		struct ash_mapping mapping;
		uint64_t block = offset >> ASH_BLOCK_SHIFT;

		if (slot->parts == PARTS || ash_edit_map(edit, block, bytes >> ASH_BLOCK_SHIFT, &mapping) ||
		    !mapping.start || mapping.unwritten ||
		    (slot->write && ash_is_fixed(edit->volume, (struct ash_extent){ mapping.start, mapping.count })))
			return false;
		uint64_t length = mapping.count << ASH_BLOCK_SHIFT;
		slot->iov[slot->parts] = (struct iovec){ memory, length };
		slot->requests[slot->parts] = (struct bdev_request){
			.op = slot->write ? BDEV_WRITE : BDEV_READ,
			.offset = mapping.start << ASH_BLOCK_SHIFT,
			.length = length,
			.iov = &slot->iov[slot->parts],
			.iov_count = 1,
			.user = slot,
		};
		slot->parts++;
		memory += length;
		offset += length;
		bytes -= length;
	}
	return true;
}

/* Bytes that a read of the range gives at most, 0 if it must be blocking. */
static uint64_t readable(const struct ash_edit *edit, size_t length, uint64_t offset)
{
	uint64_t size = ash_edit_disk_size(edit);

	if (offset >= size || ash_atime_due(edit->volume, edit->record.inode))
		return 0;
	return length < size - offset ? length : size - offset;
}

/* Is an overwrite all that this write would do? */
static bool overwritable(struct ash_edit *edit, size_t length, uint64_t offset, unsigned flags)
{
	const struct ash_inode *inode = edit->record.inode;
	uint64_t size = ash_edit_disk_size(edit);

	return (flags & ASH_WRITE_THROUGH) && !(flags & (ASH_WRITE_SYNC | ASH_WRITE_APPEND | ASH_WRITE_KILL_SUIDGID)) &&
	       !edit->volume->options.sync && !(ash_get32(inode->flags) & ASH_INODE_SYNC) &&
	       inode->attr_kind == ASH_FORK_EMPTY && offset < size && length <= size - offset;
}

/* As ash_edit_look(), without waiting. */
static bool try_look(struct ash_edit *edit, struct ash_volume *volume, struct ash_icore *icore)
{
	if (pthread_rwlock_tryrdlock(&icore->lock))
		return false;
	*edit = (struct ash_edit){ .volume = volume, .icore = icore };
	if (icore->deleted || icore->buffered || ash_record_get(volume, icore->ino, &edit->record)) {
		ash_icore_unlock(icore);
		return false;
	}
	if (S_ISREG(ash_get32(edit->record.inode->mode)) && edit->record.inode->data_kind == ASH_FORK_TREE) {
		ash_record_tree(volume, &edit->record, false, &edit->tree);
		return true;
	}
	ash_edit_abort(edit);
	return false;
}

/* Fill the slot and pin its blocks. False: blocking call. */
static bool prepare(struct ash_queue *queue, struct slot *slot, uint64_t ino, void *memory, size_t length,
		    uint64_t offset, unsigned flags)
{
	struct ash_icore *icore;
	struct ash_edit edit;
	uint64_t bytes = 0;
	bool good = false;

	if (ash_icore_get(queue->volume, ino, &icore))
		return false;
	if (try_look(&edit, queue->volume, icore)) {
		if (!slot->write)
			bytes = readable(&edit, length, offset);
		else if (overwritable(&edit, length, offset, flags))
			bytes = length;
		slot->result = (int64_t)bytes;
		/* The last block is read whole; the caller's memory has room, since its length is whole blocks. */
		good = bytes && plan_parts(&edit, slot, memory, offset, ash_blocks_of(bytes) << ASH_BLOCK_SHIFT);
		if (good)
			slot->ticket = ash_io_enter(queue->volume);
		ash_edit_abort(&edit);
	}
	ash_icore_put(queue->volume, icore);
	return good;
}

/* The time of an overwrite, as a record of its own: it may be there before the data. */
static int stamp_times(struct ash_volume *volume, uint64_t ino)
{
	struct ash_icore *icore;
	struct ash_inode header;
	struct ash_edit edit;
	struct timespec now = ash_now();
	int rc = ash_icore_get(volume, ino, &icore);

	if (rc)
		return rc;
	rc = ash_edit_begin(&edit, volume, icore, ASH_TXN_SMALL);
	if (!rc) {
		ash_edit_header(&edit, &header);
		ash_stamp_mtime(&header, now);
		ash_stamp_ctime(&header, now);
		ash_edit_set_header(&edit, &header);
		ash_edit_commit(&edit, false);
	}
	ash_icore_put(volume, icore);
	return rc;
}

static void finish(struct ash_queue *queue, struct slot *slot)
{
	ash_done done = slot->done;
	void *user = slot->user;
	int64_t result = slot->result;

	if (slot->write && result > 0)
		ash_log_note_data(queue->volume);
	ash_io_leave(queue->volume, slot->ticket);
	slot->next = queue->free;
	queue->free = slot;
	queue->in_flight--;
	done(user, result);
}

/* What the device's queue does not take is done here and now. */
static void do_blocking(struct ash_queue *queue, struct bdev_request *request)
{
	struct slot *slot = request->user;
	int rc = slot->write ? bdev_writev(queue->volume->dev, request->iov, 1, request->offset, 0) :
			       bdev_readv(queue->volume->dev, request->iov, 1, request->offset);

	if (rc)
		slot->result = rc;
	if (!--slot->pending)
		finish(queue, slot);
}

int ash_queue_kick(struct ash_queue *queue)
{
	unsigned staged = queue->staged, done = 0;

	queue->staged = 0;
	while (done < staged) {
		int accepted = bdev_submit(queue->device, queue->stage + done, staged - done);

		if (accepted <= 0)
			break;
		queue->device_in_flight += (unsigned)accepted;
		done += (unsigned)accepted;
	}
	for (; done < staged; done++)
		do_blocking(queue, queue->stage[done]);
	return (int)staged;
}

/* Several requests that came together go to the device with one call: see ash_queue_kick(). */
static void stage_parts(struct ash_queue *queue, struct slot *slot)
{
	if (queue->staged + slot->parts > STAGE)
		ash_queue_kick(queue);
	slot->pending = slot->parts;
	for (unsigned i = 0; i < slot->parts; i++)
		queue->stage[queue->staged++] = &slot->requests[i];
}

static int submit(struct ash_queue *queue, bool write, uint64_t ino, void *memory, size_t length, uint64_t offset,
		  unsigned flags, ash_done done, void *user)
{
	struct slot *slot = queue->free;

	if (!slot || queue->device_in_flight >= queue->depth || !length || length > INT_MAX ||
	    ((offset | length) & BLOCK_MASK) || offset > ASH_FILE_MAX_SIZE - length ||
	    !ash_memory_aligned(queue->volume, memory))
		return 0;
	slot->write = write;
	slot->done = done;
	slot->user = user;
	if (!prepare(queue, slot, ino, memory, length, offset, flags))
		return 0;
	if (write && !(flags & ASH_WRITE_NO_TIMES) && stamp_times(queue->volume, ino)) {
		ash_io_leave(queue->volume, slot->ticket);
		return 0;
	}
	queue->free = slot->next;
	queue->in_flight++;
	stage_parts(queue, slot);
	return 1;
}

int ash_submit_read(struct ash_queue *queue, uint64_t ino, void *buffer, size_t length, uint64_t offset, ash_done done,
		    void *user)
{
	return submit(queue, false, ino, buffer, length, offset, 0, done, user);
}

int ash_submit_write(struct ash_queue *queue, uint64_t ino, const void *buffer, size_t length, uint64_t offset,
		     unsigned flags, ash_done done, void *user)
{
	if (ash_check_writable(queue->volume))
		return 0;
	return submit(queue, true, ino, (void *)(uintptr_t)buffer, length, offset, flags, done, user);
}

/* ---- Completion ---- */

/* Finished device requests, at least `minimum`; returns how many of ours ended with them. */
static int reap(struct ash_queue *queue, unsigned minimum)
{
	struct bdev_request *done[32];
	int finished = 0;
	int count = bdev_reap(queue->device, done, minimum, sizeof(done) / sizeof(done[0]));

	if (count < 0)
		return count;
	queue->device_in_flight -= (unsigned)count;
	for (int i = 0; i < count; i++) {
		struct slot *slot = done[i]->user;

		if (done[i]->result)
			slot->result = done[i]->result;
		if (!--slot->pending) {
			finish(queue, slot);
			finished++;
		}
	}
	return finished;
}

int ash_queue_poll(struct ash_queue *queue)
{
	return queue->device_in_flight ? reap(queue, 0) : 0;
}

int ash_queue_reap(struct ash_queue *queue, bool wait)
{
	unsigned before = queue->in_flight;

	ash_queue_kick(queue);
	bdev_queue_event_clear(queue->device);
	while (queue->device_in_flight) {
		bool block = wait && queue->in_flight == before;
		unsigned left = queue->device_in_flight;
		int count = reap(queue, block);

		if (count < 0)
			return queue->in_flight < before ? (int)(before - queue->in_flight) : count;
		if (!block && queue->device_in_flight >= left)
			break;
	}
	return queue->in_flight < before ? (int)(before - queue->in_flight) : 0;
}
