/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Checkpoint: dirty metadata goes home, then the log tail moves.
 *
 * One round takes the dirty buffers whose oldest record lies before a target, in batches:
 *   pick     under log.lock: mark `writing`; later commits set next_first_lsn
 *   copy     under buffer.lock: the bytes, with the undo of open transactions taken back: the committed image
 *   announce under log.lock: append (block, LSN, checksum) of each image; drop those freed meanwhile
 *   force    the announcement and everything the images hold is durable (I1)
 *   write    in address order through the asynchronous queue, neighbours merged
 *   settle   under log.lock: clean, or dirty from next_first_lsn on
 * After the last batch: flush, orphan records logged again where the tail would pass them, what supersedes records
 * that it would pass forced, control block with the new tail, durable; only then does the space count as free (I4).
 *
 * Runs under checkpoint_lock, holds no other lock over I/O, waits for no transaction.
 */
#include "engine.h"

#include <stdlib.h>

struct image {
	struct ash_buffer *buffer;
	uint8_t *bytes;
	uint64_t lsn;
	bool dropped;
};

/* Of one checkpoint at a time (checkpoint_lock): a checkpoint needs no memory, so that want of it fails no volume. */
struct ash_checkpoint_memory {
	struct image images[ASH_CHECKPOINT_BATCH];
	struct bdev_request requests[ASH_CHECKPOINT_BATCH];
	struct iovec iov[ASH_CHECKPOINT_BATCH];
};

int ash_checkpoint_open(struct ash_log *log)
{
	log->checkpoint = calloc(1, sizeof(*log->checkpoint));
	return log->checkpoint ? 0 : -ENOMEM;
}

static int compare_block(const void *a, const void *b)
{
	uint64_t x = ((const struct image *)a)->buffer->id.block, y = ((const struct image *)b)->buffer->id.block;

	return x < y ? -1 : x > y;
}

static uint32_t batch_pick(struct ash_log *log, uint64_t target, struct image *images)
{
	uint32_t count = 0;

	pthread_mutex_lock(&log->lock);
	for (struct ash_buffer *buffer = log->dirty_first; buffer && count < ASH_CHECKPOINT_BATCH;
	     buffer = buffer->dirty_next) {
		if (buffer->first_lsn >= target || buffer->writing)
			continue;
		buffer->writing = true;
		buffer->next_first_lsn = 0;
		images[count++] = (struct image){ .buffer = ash_buffer_hold(buffer) };
	}
	pthread_mutex_unlock(&log->lock);
	qsort(images, count, sizeof(*images), compare_block);
	return count;
}

static void batch_copy(struct ash_volume *volume, struct image *images, uint32_t count)
{
	for (uint32_t i = 0; i < count; i++) {
		struct ash_buffer *buffer = images[i].buffer;

		images[i].bytes = volume->log->batch + (size_t)i * ASH_BLOCK_SIZE;
		ash_lock(&buffer->lock);
		memcpy(images[i].bytes, buffer->data, ASH_BLOCK_SIZE);
		for (const struct ash_undo *undo = buffer->undo; undo; undo = undo->buffer_next)
			ash_undo_apply(undo, images[i].bytes);
		images[i].lsn = buffer->last_lsn;
		ash_unlock(&buffer->lock);
		ash_image_stamp(volume->checksum_seed, buffer->id.type, buffer->bad_records, images[i].bytes);
	}
}

/* log.lock held: the log has been lengthened from position `first` on, and a force will close the open block. */
static void round_count_locked(struct ash_log *log, uint64_t first)
{
	log->round_blocks += log->position + (log->used != 0) - first;
}

/* Append the home-write records in pieces of one record each; returns the LSN to force. */
static uint64_t batch_announce(struct ash_volume *volume, struct image *images, uint32_t count)
{
	enum { PIECE = 128 };
	uint8_t record[sizeof(struct ash_log_record) + PIECE * (sizeof(struct ash_log_item) + 8)];
	struct ash_log *log = volume->log;
	uint64_t first, end;

	pthread_mutex_lock(&log->lock);
	first = log->position;
	for (uint32_t i = 0; i < count;) {
		struct ash_log_record header;
		uint8_t *at = record + sizeof(header);
		uint32_t items = 0;

		for (; i < count && items < PIECE; i++) {
			struct ash_log_item item = { .kind = ASH_LOG_HOME, .length = ash_put16(8) };
			ash_le64 lsn = ash_put64(images[i].lsn);

			images[i].dropped = images[i].buffer->dead;
			if (images[i].dropped)
				continue;
			item.block = ash_put64(images[i].buffer->id.block);
			item.value = ash_put32(ash_image_crc(volume->checksum_seed, images[i].bytes));
			memcpy(at, &item, sizeof(item));
			memcpy(at + sizeof(item), &lsn, sizeof(lsn));
			at += sizeof(item) + sizeof(lsn);
			items++;
		}
		if (!items)
			continue;
		/*
		 * Only repeated crashes in the middle of recovery can use the reserve up. Without the record a torn
		 * home write would be reported as damage instead of being mended: the lesser evil than no recovery.
		 */
		if (ash_log_used_blocks_locked(log) + log->reserved_blocks + ash_log_orphan_blocks_locked(log) + 4 >
		    log->blocks)
			break;
		header = (struct ash_log_record){ .length = ash_put32((uint32_t)(at - record)),
						  .items = ash_put32(items) };
		memcpy(record, &header, sizeof(header));
		ash_log_append_locked(volume, record, (uint32_t)(at - record));
	}
	round_count_locked(log, first);
	end = ash_log_append_lsn(log);
	pthread_mutex_unlock(&log->lock);
	return end;
}

/* Images lie one behind the other in batch memory, so that neighbours on the device are one transfer. */
static int batch_write(struct ash_volume *volume, const struct image *images, uint32_t count)
{
	struct ash_checkpoint_memory *memory = volume->log->checkpoint;
	uint32_t n = 0;
	int error;

	for (uint32_t i = 0; i < count;) {
		uint32_t run = 1;

		if (images[i].dropped) {
			i++;
			continue;
		}
		while (i + run < count && !images[i + run].dropped && run < 64 &&
		       images[i + run].buffer->id.block == images[i].buffer->id.block + run)
			run++;
		memory->iov[n] = (struct iovec){ images[i].bytes, (size_t)run * ASH_BLOCK_SIZE };
		memory->requests[n] = (struct bdev_request){
			.op = BDEV_WRITE,
			.offset = images[i].buffer->id.block * ASH_BLOCK_SIZE,
			.length = (uint64_t)run * ASH_BLOCK_SIZE,
			.iov = &memory->iov[n],
			.iov_count = 1,
		};
		n++;
		i += run;
	}
	/* What cannot be reaped stays in flight until the queue is closed, and the volume has failed (I6). */
	error = bdev_run(volume->log->queue, memory->requests, n);
	atomic_fetch_add(&volume->log->home_writes, count);
	return error;
}

static void dirty_clean_locked(struct ash_log *log, struct ash_buffer *buffer, bool home)
{
	buffer->writing = false;
	if (buffer->dead || !home)
		return;
	if (buffer->next_first_lsn) {
		buffer->first_lsn = buffer->next_first_lsn;
		return;
	}
	ash_log_clean_locked(log, buffer);
}

static void batch_settle(struct ash_volume *volume, struct image *images, uint32_t count, bool home)
{
	struct ash_log *log = volume->log;

	pthread_mutex_lock(&log->lock);
	for (uint32_t i = 0; i < count; i++)
		dirty_clean_locked(log, images[i].buffer, home);
	pthread_mutex_unlock(&log->lock);
	for (uint32_t i = 0; i < count; i++)
		ash_buffer_put(volume, images[i].buffer);
}

static int batch_run(struct ash_volume *volume, struct image *images, uint32_t count)
{
	uint64_t lsn;
	int error = 0;

	batch_copy(volume, images, count);
	if (ASH_PLANTED(ASH_PLANT_LOG_AFTER_HOME))
		error = batch_write(volume, images, count);
	lsn = batch_announce(volume, images, count);
	if (!error)
		error = ash_log_force(volume, lsn);
	if (!error && !ASH_PLANTED(ASH_PLANT_LOG_AFTER_HOME)) {
		ash_wait_begin(volume);
		error = batch_write(volume, images, count);
		ash_wait_end(volume);
	}
	if (error)
		ash_volume_fail(volume, error, "writing metadata");
	batch_settle(volume, images, count, !error);
	return error;
}

/* ---- Tail ---- */

/* log.lock held: the oldest record that is still needed, orphans aside. */
static uint64_t oldest_dirty(const struct ash_log *log)
{
	uint64_t lsn = log->durable_lsn;

	for (const struct ash_buffer *buffer = log->dirty_first; buffer; buffer = buffer->dirty_next)
		if (buffer->first_lsn < lsn)
			lsn = buffer->first_lsn;
	return lsn;
}

enum { RENEW_ITEMS = 200, RENEW_RECORDS = 8 }; /* a record is less than a block: see memory_full() in txn.c */

/* log.lock held: one record of orphans whose own lies before `tail`, from *slot on. How many. */
static uint32_t orphans_append(struct ash_volume *volume, uint64_t tail, size_t *slot)
{
	struct ash_log *log = volume->log;
	uint8_t record[sizeof(struct ash_log_record) + RENEW_ITEMS * sizeof(struct ash_log_item)];
	struct ash_log_record header;
	uint8_t *at = record + sizeof(header);
	uint64_t start = ash_log_append_lsn(log);
	uint32_t items = 0;

	for (; *slot < log->orphans.slot_count && items < RENEW_ITEMS; ++*slot) {
		struct ash_orphan *orphan = &log->orphans.slots[*slot];
		struct ash_log_item item = { .kind = ASH_LOG_ORPHAN_ADD, .block = ash_put64(orphan->ino) };

		if (!orphan->ino || orphan->lsn >= tail)
			continue;
		orphan->lsn = start;
		memcpy(at, &item, sizeof(item));
		at += sizeof(item);
		items++;
	}
	if (!items)
		return 0;
	header = (struct ash_log_record){ .length = ash_put32((uint32_t)(at - record)), .items = ash_put32(items) };
	memcpy(record, &header, sizeof(header));
	ash_log_append_locked(volume, record, (uint32_t)(at - record));
	return items;
}

/*
 * Orphans whose record lies before `tail` are logged again at the end, a few blocks between two forces. While the lock is
 * dropped entries may move to other slots; one that is missed keeps the tail where it is until the next round.
 */
static int orphans_renew(struct ash_volume *volume, uint64_t tail)
{
	struct ash_log *log = volume->log;
	uint64_t lsn = 1, first; /* end and beginning of what was appended in this turn */
	size_t slot = 0;
	int error = 0;

	while (lsn && !error) {
		lsn = 0;
		pthread_mutex_lock(&log->lock);
		first = log->position;
		for (int i = 0; i < RENEW_RECORDS; i++) {
			if (ash_log_used_blocks_locked(log) + log->reserved_blocks + 3 > log->blocks ||
			    !orphans_append(volume, tail, &slot))
				break;
			lsn = ash_log_append_lsn(log);
		}
		if (lsn)
			round_count_locked(log, first);
		pthread_mutex_unlock(&log->lock);
		/* durable before the tail passes the older records (I4) */
		if (lsn)
			error = ash_log_force(volume, lsn);
	}
	return error;
}

/* log.lock held. */
static uint64_t oldest_orphan(const struct ash_log *log, uint64_t lsn)
{
	for (size_t slot = 0; slot < log->orphans.slot_count; slot++)
		if (log->orphans.slots[slot].ino && log->orphans.slots[slot].lsn < lsn)
			lsn = log->orphans.slots[slot].lsn;
	return lsn;
}

static int tail_move(struct ash_volume *volume)
{
	struct ash_log *log = volume->log;
	uint64_t tail, superseding;
	int error;

	pthread_mutex_lock(&log->lock);
	tail = oldest_dirty(log);
	pthread_mutex_unlock(&log->lock);
	error = orphans_renew(volume, tail);
	if (error)
		return error;
	pthread_mutex_lock(&log->lock);
	/* only older records can have become needed less; what was committed since lies behind `tail` */
	tail = oldest_orphan(log, tail);
	superseding = log->superseding_lsn;
	pthread_mutex_unlock(&log->lock);
	if (tail <= log->tail_lsn)
		return 0;
	/*
	 * Freed blocks left the dirty list, and orphans their place in the set, when the record that says so was appended. Unless
	 * it is durable before the tail passes their older records, a crash undoes it and they are needed after all (I4). One
	 * that is appended from here on finds in `tail` what it supersedes.
	 */
	error = ASH_PLANTED(ASH_PLANT_TAIL_OVER_FREED) ? 0 : ash_log_force(volume, superseding);
	if (error)
		return error;
	error = ash_log_write_control(volume, tail, false, 0, 0);
	if (error)
		return ash_volume_fail(volume, error, "writing the log's control block");
	pthread_mutex_lock(&log->lock);
	log->tail_lsn = tail;
	pthread_cond_broadcast(&log->changed);
	pthread_mutex_unlock(&log->lock);
	return 0;
}

int ash_log_flush_home(struct ash_volume *volume)
{
	/* home writes count as data for the flush: share the sequence, and with it flushes under way */
	ash_log_note_data(volume);
	return ash_log_flush_data(volume);
}

static int flush_and_move(struct ash_volume *volume)
{
	int error = ash_log_flush_home(volume);

	return error ? error : tail_move(volume);
}

static bool reserve_low(struct ash_log *log)
{
	bool low;

	pthread_mutex_lock(&log->lock);
	low = ash_log_used_blocks_locked(log) + log->reserved_blocks + log->checkpoint_reserve / 2 > log->blocks;
	pthread_mutex_unlock(&log->lock);
	return low;
}

static int round_run(struct ash_volume *volume, uint64_t target, struct image *images)
{
	uint32_t count;
	int error;

	if (ASH_PLANTED(ASH_PLANT_TAIL_EARLY)) {
		struct ash_log *log = volume->log;

		ash_log_write_control(volume, log->durable_lsn, false, 0, 0);
	}
	while ((count = batch_pick(volume->log, target, images)) > 0) {
		error = batch_run(volume, images, count);
		/* announcements eat the reserve: when it runs low, free space before the next batch */
		if (!error && reserve_low(volume->log))
			error = flush_and_move(volume);
		if (error)
			return error;
	}
	error = flush_and_move(volume);
	/* the next round has the whole reserve */
	pthread_mutex_lock(&volume->log->lock);
	volume->log->round_blocks = 0;
	pthread_mutex_unlock(&volume->log->lock);
	return error;
}

static uint64_t round_target(struct ash_log *log, bool all)
{
	uint64_t end, target;

	pthread_mutex_lock(&log->lock);
	end = ash_log_append_lsn(log);
	/* the older half frees half the space; when many buffers are the problem, age does not matter */
	target = all || log->dirty_count > log->dirty_limit / 2 ? end : log->tail_lsn + (end - log->tail_lsn) / 2;
	pthread_mutex_unlock(&log->lock);
	return target;
}

int ash_log_checkpoint(struct ash_volume *volume, bool all)
{
	struct ash_log *log = volume->log;
	int error;

	if (volume->no_write)
		return 0;
	if (atomic_load(&volume->failed))
		return -EIO;
	ash_lock_long(volume, &log->checkpoint_lock);
	atomic_fetch_add(&log->checkpoint_started, 1);
	atomic_fetch_add(&log->checkpoints, 1);
	error = ash_log_force(volume, ash_log_end(volume));
	if (!error)
		error = round_run(volume, round_target(log, all), log->checkpoint->images);
	atomic_store(&log->checkpoint_finished, atomic_load(&log->checkpoint_started));
	pthread_mutex_unlock(&log->checkpoint_lock);
	ash_alloc_reap(volume);
	return error;
}
