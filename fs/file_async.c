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
 * Writes in flight are counted on the in-core inode. Who reads part of a block and writes it back waits until there are
 * none (ash_async_bar()), holding no lock. A thread that waits reaps the queues that it owns, since nobody else would;
 * only when nothing of its own is left in flight does it sleep, so that no two can wait for each other.
 *
 * Locks: a queue belongs to the thread that used it last and has none of its own, but its place in the volume's list
 * of queues, under the write-behind lock.
 */
#include <limits.h>
#include <stdlib.h>
#include "file_edit.h"
#include "lock.h"

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
	struct ash_icore *icore; /* of a write: a reference, and one of its async_writes */
	unsigned parts, pending;
	bool write;
	struct bdev_request requests[PARTS];
	struct iovec iov[PARTS];
};

struct ash_queue {
	struct ash_volume *volume;
	struct ash_queue *next;      /* wb lock */
	_Atomic(const void *) owner; /* &this_thread of the thread that used it last; NULL: it gave it up */
	struct bdev_queue *device;
	unsigned depth;
	unsigned device_in_flight; /* device requests */
	unsigned in_flight;        /* ours */
	struct slot *free;
	struct slot *slots;
	unsigned staged; /* device requests waiting for ash_queue_kick() */
	struct bdev_request *stage[STAGE];
};

/* Its address tells threads apart. */
static _Thread_local const char this_thread;

static void own(struct ash_queue *queue)
{
	atomic_store_explicit(&queue->owner, &this_thread, memory_order_relaxed);
}

void ash_queue_disown(struct ash_queue *queue)
{
	const void *self = &this_thread;

	atomic_compare_exchange_strong(&queue->owner, &self, NULL);
}

static void list_add(struct ash_queue *queue)
{
	struct ash_write_behind *wb = queue->volume->wb;

	pthread_mutex_lock(&wb->lock);
	queue->next = wb->queues;
	wb->queues = queue;
	pthread_mutex_unlock(&wb->lock);
}

static void list_remove(struct ash_queue *queue)
{
	struct ash_write_behind *wb = queue->volume->wb;
	struct ash_queue **at;

	pthread_mutex_lock(&wb->lock);
	for (at = &wb->queues; *at != queue; at = &(*at)->next)
		;
	*at = queue->next;
	pthread_mutex_unlock(&wb->lock);
}

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
	own(queue);
	list_add(queue);
	*out = queue;
	return 0;
}

void ash_queue_close(struct ash_queue *queue)
{
	if (!queue)
		return;
	while (queue->in_flight && ash_queue_reap(queue, true) > 0)
		;
	list_remove(queue);
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

/* ---- Writes in flight ---- */

static void write_lower(struct ash_icore *icore)
{
	/* Either this sees the bar, or who put it up before it looked at the count sees the count lowered. */
	if (atomic_fetch_sub(&icore->async_writes, 1) == 1 && atomic_load(&icore->async_barred))
		syscall(SYS_futex, &icore->async_writes, FUTEX_WAKE_PRIVATE, INT_MAX, NULL, NULL, 0);
}

/* Shared lock held. False: writes are kept out now. */
static bool write_raise(struct ash_icore *icore)
{
	atomic_fetch_add(&icore->async_writes, 1);
	/* Raised before it looks: no write can slip in after ash_async_bar() has found the count zero. */
	if (!atomic_load(&icore->async_barred))
		return true;
	write_lower(icore);
	return false;
}

/* A queue of the calling thread with something in flight. */
static struct ash_queue *own_busy_queue(struct ash_volume *volume)
{
	struct ash_queue *queue;

	pthread_mutex_lock(&volume->wb->lock);
	for (queue = volume->wb->queues; queue; queue = queue->next)
		if (atomic_load_explicit(&queue->owner, memory_order_relaxed) == &this_thread && queue->in_flight)
			break;
	pthread_mutex_unlock(&volume->wb->lock);
	return queue;
}

bool ash_async_reap_own(struct ash_volume *volume)
{
	struct ash_queue *queue = own_busy_queue(volume);

	return queue && ash_queue_reap(queue, true) > 0;
}

int ash_async_bar(struct ash_volume *volume, struct ash_icore *icore)
{
	uint32_t count;

	atomic_fetch_add(&icore->async_barred, 1);
	while ((count = atomic_load(&icore->async_writes)) > 0) {
		struct ash_queue *queue = own_busy_queue(volume);

		if (queue) {
			int rc = ash_queue_reap(queue, true);

			if (rc > 0)
				continue;
			ash_async_admit(icore);
			return rc ? rc : -EDEADLK; /* from a callback, where no call is allowed */
		}
		ash_wait_begin(volume);
		syscall(SYS_futex, &icore->async_writes, FUTEX_WAIT_PRIVATE, count, NULL, NULL, 0);
		ash_wait_end(volume);
	}
	return 0;
}

void ash_async_admit(struct ash_icore *icore)
{
	atomic_fetch_sub(&icore->async_barred, 1);
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
static uint64_t readable(const struct ash_edit *edit, size_t length, uint64_t offset, unsigned flags)
{
	uint64_t size = ash_edit_disk_size(edit);

	if (offset >= size)
		return 0;
	if (!(flags & ASH_READ_NO_ATIME) && ash_atime_due(edit->volume, edit->record.inode))
		return 0;
	return length < size - offset ? length : size - offset;
}

/* Is an overwrite all that this write would do? */
static bool overwritable(struct ash_edit *edit, size_t length, uint64_t offset, unsigned flags)
{
	const struct ash_inode *inode = edit->record.inode;
	uint64_t size = ash_edit_disk_size(edit);

	const unsigned slow = ASH_WRITE_SYNC | ASH_WRITE_DSYNC | ASH_WRITE_APPEND | ASH_WRITE_KILL_SUIDGID;

	return (flags & ASH_WRITE_THROUGH) && !(flags & slow) && !atomic_load(&edit->volume->sync) &&
	       !(ash_get32(inode->flags) & (ASH_INODE_SYNC | ASH_INODE_IMMUTABLE | ASH_INODE_APPEND)) &&
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

/* The I/O is over, or comes to nothing: take back what prepare() did. */
static void release(struct ash_queue *queue, struct slot *slot)
{
	ash_io_leave(queue->volume, slot->ticket);
	if (!slot->write)
		return;
	write_lower(slot->icore);
	ash_icore_put(queue->volume, slot->icore);
}

/* Fill the slot, pin its blocks, count it if it is a write. False: blocking call. */
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
			bytes = readable(&edit, length, offset, flags);
		else if (overwritable(&edit, length, offset, flags))
			bytes = length;
		slot->result = (int64_t)bytes;
		/* The last block is read whole; the caller's memory has room, since its length is whole blocks. */
		good = bytes && plan_parts(&edit, slot, memory, offset, ash_blocks_of(bytes) << ASH_BLOCK_SHIFT);
		good = good && (!slot->write || write_raise(icore));
		if (good)
			slot->ticket = ash_io_enter(queue->volume);
		ash_edit_abort(&edit);
	}
	if (good && slot->write)
		slot->icore = icore;
	else
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
	release(queue, slot);
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

	own(queue);
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

	own(queue);
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
		release(queue, slot);
		return 0;
	}
	queue->free = slot->next;
	queue->in_flight++;
	stage_parts(queue, slot);
	return 1;
}

int ash_submit_read_flags(struct ash_queue *queue, uint64_t ino, void *buffer, size_t length, uint64_t offset,
			  unsigned flags, ash_done done, void *user)
{
	return submit(queue, false, ino, buffer, length, offset, flags, done, user);
}

int ash_submit_read(struct ash_queue *queue, uint64_t ino, void *buffer, size_t length, uint64_t offset, ash_done done,
		    void *user)
{
	return ash_submit_read_flags(queue, ino, buffer, length, offset, 0, done, user);
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
	own(queue);
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
