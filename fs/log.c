/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The log: append, group commit, control blocks, the orphan set, failure. The contract is in log.h; the
 * states of a log block:
 *
 *   open      records are appended to it in memory (one block: log.position)
 *   closed    full, or closed early by a force; in memory, to be written by the next leader
 *   written   on the device; not rewritten before the tail has passed it, since it may hold acknowledged records
 *
 * One leader at a time writes closed blocks. It fixes what it will write, then flushes the device if file data was
 * written since the last flush (I2), then computes the chained checksums, writes, flushes. Those who wait for an
 * LSN that it covers get it for nothing.
 *
 * Locks: log.lock guards everything in struct ash_log that has no other comment, and is dropped over log writes;
 * flush_lock is held over a device flush or a write-through only.
 */
#include "engine.h"

#include <stdlib.h>
#include <sys/random.h>
#include <time.h>

static struct ash_log_block *memory_block(struct ash_log *log, uint64_t position)
{
	return (void *)(log->memory + position % log->memory_blocks * ASH_BLOCK_SIZE);
}

/* ---- Failure (I6) ---- */

int ash_volume_fail(struct ash_volume *volume, int error, const char *what)
{
	int healthy = 0;

	if (!atomic_compare_exchange_strong(&volume->failed, &healthy, error))
		return -EROFS;
	atomic_store(&volume->read_only, true);
	ash_say(volume, ASH_LOG_ERROR,
		"%s: %s; the volume is read-only now and nothing more will be acknowledged as durable. "
		"Unmount it, see to the device, run fsck.ashlar",
		what, strerror(-error));
	return -EROFS;
}

static int failure(const struct ash_volume *volume)
{
	return atomic_load(&volume->failed) ? -EIO : 0;
}

/* ---- Append ---- */

static void block_open(struct ash_log *log)
{
	struct ash_log_block *block = memory_block(log, log->position);

	block->first_record = ash_put16(ASH_LOG_NO_RECORD);
	log->used = 0;
}

static void block_close(struct ash_log *log)
{
	struct ash_log_block *block = memory_block(log, log->position);

	block->used = ash_put16((uint16_t)log->used);
	memset(block->payload + log->used, 0, ASH_LOG_PAYLOAD - log->used);
	log->position++;
	block_open(log);
}

uint64_t ash_log_append_locked(struct ash_volume *volume, uint8_t *record, uint32_t length)
{
	struct ash_log *log = volume->log;
	uint64_t start = ash_log_append_lsn(log);
	struct ash_log_record *header = (void *)record;
	struct ash_log_block *block = memory_block(log, log->position);

	header->lsn = ash_put64(start);
	if (ash_get16(block->first_record) == ASH_LOG_NO_RECORD)
		block->first_record = ash_put16((uint16_t)log->used);
	atomic_fetch_add_explicit(&log->record_bytes, length, memory_order_relaxed);
	while (length) {
		uint32_t part = ASH_LOG_PAYLOAD - log->used;

		if (part > length)
			part = length;
		block = memory_block(log, log->position);
		memcpy(block->payload + log->used, record, part);
		record += part;
		length -= part;
		log->used += part;
		if (log->used == ASH_LOG_PAYLOAD)
			block_close(log);
		/* reservations keep both rings from overflowing; if not, the arithmetic above is wrong */
		assert(log->position - log->written < log->memory_blocks);
		assert(ash_log_used_blocks_locked(log) <= log->blocks);
	}
	return start;
}

uint64_t ash_log_end(struct ash_volume *volume)
{
	struct ash_log *log = volume->log;
	uint64_t end;

	pthread_mutex_lock(&log->lock);
	end = ash_log_append_lsn(log);
	pthread_mutex_unlock(&log->lock);
	return end;
}

uint64_t ash_log_durable(struct ash_volume *volume)
{
	struct ash_log *log = volume->log;
	uint64_t durable;

	pthread_mutex_lock(&log->lock);
	durable = log->durable_lsn;
	pthread_mutex_unlock(&log->lock);
	return durable;
}

/* ---- Dirty buffers ---- */

void ash_log_dirty_locked(struct ash_log *log, struct ash_buffer *buffer, uint64_t start_lsn)
{
	if (buffer->dead)
		return;
	if (atomic_load(&buffer->dirty)) {
		if (buffer->writing && !buffer->next_first_lsn)
			buffer->next_first_lsn = start_lsn;
		return;
	}
	buffer->first_lsn = start_lsn;
	buffer->dirty_next = NULL;
	buffer->dirty_previous = log->dirty_last;
	if (log->dirty_last)
		log->dirty_last->dirty_next = buffer;
	else
		log->dirty_first = buffer;
	log->dirty_last = buffer;
	log->dirty_count++;
	atomic_store(&buffer->dirty, true);
}

void ash_log_clean_locked(struct ash_log *log, struct ash_buffer *buffer)
{
	if (buffer->dirty_previous)
		buffer->dirty_previous->dirty_next = buffer->dirty_next;
	else
		log->dirty_first = buffer->dirty_next;
	if (buffer->dirty_next)
		buffer->dirty_next->dirty_previous = buffer->dirty_previous;
	else
		log->dirty_last = buffer->dirty_previous;
	log->dirty_count--;
	buffer->first_lsn = 0;
	atomic_store(&buffer->dirty, false);
}

void ash_log_forget_locked(struct ash_log *log, struct ash_buffer *buffer)
{
	buffer->dead = true;
	if (atomic_load(&buffer->dirty))
		ash_log_clean_locked(log, buffer);
}

/* ---- Orphans ---- */

uint64_t ash_hash_multiplier(void)
{
	uint64_t multiplier;
	struct timespec now;

	/* Without a source of randomness, as early in a boot: what the loader and the clock did. */
	if (getrandom(&multiplier, sizeof(multiplier), GRND_NONBLOCK) != sizeof(multiplier)) {
		clock_gettime(CLOCK_MONOTONIC, &now);
		multiplier = ((uint64_t)now.tv_nsec ^ (uintptr_t)&multiplier) * 0x9e3779b97f4a7c15ull;
	}
	return multiplier | 1;
}

static size_t orphan_slot(const struct ash_orphan_set *set, uint64_t ino)
{
	size_t slot = ash_hash_slot(set->multiplier, ino, set->slot_count);

	while (set->slots[slot].ino && set->slots[slot].ino != ino)
		slot = (slot + 1) & (set->slot_count - 1);
	return slot;
}

int ash_orphan_set_room(struct ash_orphan_set *set, size_t more)
{
	size_t wanted = set->slot_count ? set->slot_count : 64;
	struct ash_orphan_set bigger = { .count = set->count, .multiplier = set->multiplier };

	while ((set->count + more) * 2 > wanted)
		wanted *= 2;
	if (wanted == set->slot_count)
		return 0;
	bigger.slots = calloc(wanted, sizeof(*bigger.slots));
	if (!bigger.slots)
		return -ENOMEM;
	bigger.slot_count = wanted;
	if (!bigger.multiplier)
		bigger.multiplier = ash_hash_multiplier();
	for (size_t i = 0; i < set->slot_count; i++)
		if (set->slots[i].ino)
			bigger.slots[orphan_slot(&bigger, set->slots[i].ino)] = set->slots[i];
	free(set->slots);
	*set = bigger;
	return 0;
}

void ash_orphan_set_change(struct ash_orphan_set *set, uint64_t ino, uint64_t lsn, bool add)
{
	size_t slot, next;

	if (!set->slot_count)
		return;
	slot = orphan_slot(set, ino);
	if (add) {
		set->count += set->slots[slot].ino == 0;
		set->slots[slot] = (struct ash_orphan){ ino, lsn };
		return;
	}
	if (!set->slots[slot].ino)
		return;
	set->slots[slot].ino = 0;
	set->count--;
	/* close the gap: whoever probed over this slot moves up */
	for (next = (slot + 1) & (set->slot_count - 1); set->slots[next].ino;
	     next = (next + 1) & (set->slot_count - 1)) {
		struct ash_orphan moved = set->slots[next];

		set->slots[next].ino = 0;
		set->slots[orphan_slot(set, moved.ino)] = moved;
	}
}

int ash_log_orphan_room(struct ash_log *log, size_t more)
{
	int error;

	pthread_mutex_lock(&log->lock);
	/* a few more for transactions that have room promised and did not commit yet */
	error = ash_orphan_set_room(&log->orphans, more + 64);
	pthread_mutex_unlock(&log->lock);
	return error;
}

static int compare_numbers(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

	return x < y ? -1 : x > y;
}

int ash_orphan_set_list(const struct ash_orphan_set *set, uint64_t **list, size_t *count)
{
	*list = NULL;
	*count = 0;
	if (!set->count)
		return 0;
	*list = malloc(set->count * sizeof(**list));
	if (!*list)
		return -ENOMEM;
	for (size_t i = 0; i < set->slot_count; i++)
		if (set->slots[i].ino)
			(*list)[(*count)++] = set->slots[i].ino;
	qsort(*list, *count, sizeof(**list), compare_numbers);
	return 0;
}

int ash_log_orphans(struct ash_volume *volume, uint64_t **list, size_t *count)
{
	struct ash_log *log = volume->log;

	pthread_mutex_lock(&log->lock);
	int error = ash_orphan_set_list(&log->orphans, list, count);
	pthread_mutex_unlock(&log->lock);
	return error;
}

/* ---- Flushing file data ---- */

void ash_log_note_data(struct ash_volume *volume)
{
	atomic_fetch_add(&volume->log->data_written, 1);
}

/*
 * flush_lock held: one flush at a time, and a failed one is known before the next one begins. A device, or the kernel's page
 * cache before it, tells of lost writes once; whoever flushed afterwards would be told that all is well (I5, I6).
 */
static int flush_locked(struct ash_volume *volume, const char *what)
{
	int error = failure(volume);

	if (error)
		return error;
	error = bdev_flush(volume->dev);
	atomic_fetch_add(&volume->flushes, 1);
	if (error)
		ash_volume_fail(volume, error, what);
	return error;
}

/*
 * A write-through may be a write and a flush (RWF_DSYNC), which is told of lost writes as any other: so it takes its
 * turn, too.
 */
static int write_through(struct ash_volume *volume, const void *bytes, size_t length, uint64_t offset, const char *what)
{
	int error;

	ash_wait_begin(volume);
	pthread_mutex_lock(&volume->log->flush_lock);
	error = failure(volume);
	if (!error) {
		error = bdev_write(volume->dev, bytes, length, offset, BDEV_FUA);
		if (error)
			ash_volume_fail(volume, error, what);
	}
	pthread_mutex_unlock(&volume->log->flush_lock);
	ash_wait_end(volume);
	return error;
}

/* Data writes up to number `wanted`. */
static int flush_data(struct ash_volume *volume, uint64_t wanted)
{
	struct ash_log *log = volume->log;
	uint64_t covered;
	int error = 0;

	if (atomic_load(&log->data_flushed) >= wanted)
		return failure(volume);
	ash_wait_begin(volume);
	pthread_mutex_lock(&log->flush_lock);
	if (atomic_load(&log->data_flushed) < wanted) {
		covered = atomic_load(&log->data_written);
		error = flush_locked(volume, "flushing the device");
		if (!error)
			atomic_store(&log->data_flushed, covered);
	}
	pthread_mutex_unlock(&log->flush_lock);
	ash_wait_end(volume);
	return error ? error : failure(volume);
}

int ash_log_flush_data(struct ash_volume *volume)
{
	return flush_data(volume, atomic_load(&volume->log->data_written));
}

/* ---- Force ---- */

/* Headers and chained checksums of closed blocks; only the leader does this. */
static void blocks_seal(struct ash_volume *volume, uint64_t first, uint64_t end)
{
	struct ash_log *log = volume->log;

	for (uint64_t p = first; p < end; p++) {
		struct ash_log_block *block = memory_block(log, p);

		memset(&block->header, 0, sizeof(block->header));
		block->header.magic = ash_put32(ASH_MAGIC_LOG_BLOCK);
		block->header.address = ash_put64(log->first_block + p % log->blocks);
		block->header.owner = ash_put64(p);
		memcpy(block->header.metadata_uuid, volume->metadata_uuid, 16);
		block->epoch = ash_put64(volume->epoch);
		block->previous_crc = ash_put32(log->crc[(p + log->blocks - 1) % log->blocks]);
		block->durable_position = ash_put64(first);
		block->header.crc = ash_put32(ash_block_crc(volume->checksum_seed, block));
		log->crc[p % log->blocks] = ash_get32(block->header.crc);
	}
}

/* Write positions [first, end): pieces end where either ring wraps. */
static int blocks_write(struct ash_volume *volume, uint64_t first, uint64_t end)
{
	struct ash_log *log = volume->log;
	bool one_piece, fua;
	int error = 0;

	one_piece = first % log->blocks + (end - first) <= log->blocks &&
		    first % log->memory_blocks + (end - first) <= log->memory_blocks;
	fua = one_piece && bdev_geometry(volume->dev)->fua;
	atomic_fetch_add(&log->blocks_written, end - first);
	while (!error && first < end) {
		uint64_t count = end - first;

		if (count > log->blocks - first % log->blocks)
			count = log->blocks - first % log->blocks;
		if (count > log->memory_blocks - first % log->memory_blocks)
			count = log->memory_blocks - first % log->memory_blocks;
		uint64_t offset = (log->first_block + first % log->blocks) * ASH_BLOCK_SIZE;

		error = fua ? write_through(volume, memory_block(log, first), count * ASH_BLOCK_SIZE, offset,
					    "writing the log") :
			      bdev_write(volume->dev, memory_block(log, first), count * ASH_BLOCK_SIZE, offset, 0);
		first += count;
	}
	if (!error && !fua) {
		pthread_mutex_lock(&log->flush_lock);
		/* data that completed before this flush is durable with it as well */
		uint64_t covered = atomic_load(&log->data_written);

		error = flush_locked(volume, "writing the log");
		if (!error && atomic_load(&log->data_flushed) < covered)
			atomic_store(&log->data_flushed, covered);
		pthread_mutex_unlock(&log->flush_lock);
	}
	return error;
}

/* log.lock held, dropped while working. The caller is the leader. */
static void lead(struct ash_volume *volume)
{
	struct ash_log *log = volume->log;
	uint64_t first = log->written, end;
	int error;

	if (log->used)
		block_close(log);
	end = log->position;
	pthread_mutex_unlock(&log->lock);

	ash_wait_begin(volume);
	error = ASH_PLANTED(ASH_PLANT_NO_DATA_FLUSH) ? 0 : ash_log_flush_data(volume);
	if (!error && first < end) {
		blocks_seal(volume, first, end);
		error = blocks_write(volume, first, end);
		if (error)
			ash_volume_fail(volume, error, "writing the log");
	}
	ash_wait_end(volume);
	atomic_fetch_add(&log->commits, 1);

	pthread_mutex_lock(&log->lock);
	if (!error && !failure(volume)) {
		log->written = end;
		log->durable_lsn = end * ASH_LOG_PAYLOAD;
	}
}

int ash_log_force(struct ash_volume *volume, uint64_t lsn)
{
	struct ash_log *log = volume->log;
	bool led = false;
	int error;

	if (volume->no_write)
		return 0;
	pthread_mutex_lock(&log->lock);
	while (!(error = failure(volume)) && log->durable_lsn < lsn) {
		if (log->leader) {
			ash_wait_begin(volume);
			pthread_cond_wait(&log->changed, &log->lock);
			ash_wait_end(volume);
			continue;
		}
		log->leader = true;
		lead(volume);
		log->leader = false;
		led = true;
		pthread_cond_broadcast(&log->changed);
	}
	pthread_mutex_unlock(&log->lock);
	if (led && !error)
		ash_alloc_reap(volume);
	return error;
}

int ash_log_make_durable(struct ash_volume *volume, uint64_t lsn)
{
	/* What others write while the log is forced is theirs: it needs no flush more. */
	uint64_t wanted = atomic_load(&volume->log->data_written);
	int error = ash_log_force(volume, lsn);

	return error ? error : flush_data(volume, wanted);
}

/* ---- Waits that are put off ---- */

static _Thread_local struct {
	const struct ash_volume *volume; /* NULL: none is */
	bool due;
	uint64_t lsn;
} deferred;

void ash_defer_begin(struct ash_volume *volume)
{
	deferred.volume = volume;
	deferred.due = false;
	deferred.lsn = 0;
}

bool ash_defer_is_due(void)
{
	return deferred.due;
}

bool ash_defer_end(uint64_t *lsn)
{
	bool due = deferred.due;

	*lsn = deferred.lsn;
	deferred.volume = NULL;
	deferred.due = false;
	return due;
}

bool ash_log_defer(struct ash_volume *volume, uint64_t lsn)
{
	if (deferred.volume != volume)
		return false;
	deferred.due = true;
	if (lsn > deferred.lsn)
		deferred.lsn = lsn;
	return true;
}

/* ---- Control blocks ---- */

int ash_log_write_control(struct ash_volume *volume, uint64_t tail_lsn, bool clean, uint64_t free_blocks,
			  uint64_t used_inodes)
{
	struct ash_log *log = volume->log;
	struct ash_log_control *control = log->control;
	uint64_t position = ash_lsn_position(tail_lsn);
	uint64_t sequence = log->sequence + 1;
	uint64_t block = volume->log_start + sequence % 2;
	/* while the tail stays in its block, the ring may be so full that the block before it is overwritten */
	uint32_t previous_crc = position == ash_lsn_position(log->tail_lsn) ?
					log->tail_previous_crc :
					log->crc[(position + log->blocks - 1) % log->blocks];
	int error;

	memset(control, 0, ASH_BLOCK_SIZE);
	control->header.magic = ash_put32(ASH_MAGIC_LOG_CONTROL);
	control->header.address = ash_put64(block);
	memcpy(control->header.metadata_uuid, volume->metadata_uuid, 16);
	control->sequence = ash_put64(sequence);
	control->epoch = ash_put64(volume->epoch);
	control->tail_position = ash_put64(position);
	control->tail_lsn = ash_put64(tail_lsn);
	control->tail_previous_crc = ash_put32(previous_crc);
	control->clean = ash_put32(clean);
	control->epoch_position = ash_put64(log->epoch_position);
	control->free_blocks = ash_put64(free_blocks);
	control->used_inodes = ash_put64(used_inodes);
	control->header.crc = ash_put32(ash_block_crc(volume->checksum_seed, control));
	error = write_through(volume, control, ASH_BLOCK_SIZE, block * ASH_BLOCK_SIZE,
			      "writing the log's control block");
	if (error)
		return error;
	log->sequence = sequence;
	log->tail_previous_crc = previous_crc;
	return 0;
}

void ash_log_close(struct ash_volume *volume)
{
	struct ash_log *log = volume->log;

	if (!log)
		return;
	if (log->queue)
		bdev_queue_close(log->queue);
	bdev_buffer_free(log->batch, (size_t)ASH_CHECKPOINT_BATCH * ASH_BLOCK_SIZE);
	bdev_buffer_free(log->control, ASH_BLOCK_SIZE);
	free(log->checkpoint);
	bdev_buffer_free(log->memory, log->memory_blocks * ASH_BLOCK_SIZE);
	free(log->crc);
	free(log->orphans.slots);
	for (unsigned class = 0; class < 4; class ++) {
		while (log->arenas[class]) {
			void *arena = log->arenas[class];

			log->arenas[class] = *(void **)arena;
			free(arena);
		}
	}
	pthread_mutex_destroy(&log->lock);
	pthread_mutex_destroy(&log->checkpoint_lock);
	pthread_mutex_destroy(&log->flush_lock);
	pthread_mutex_destroy(&log->arena_lock);
	pthread_cond_destroy(&log->changed);
	free(log);
	volume->log = NULL;
}
