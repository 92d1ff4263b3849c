/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A mount takes over the log that was replayed: the contract is in log_mount.h.
 *
 * The images go into the cache as dirty buffers with the LSNs that they have in the log, so the tail stays where it
 * is until they are home, and nothing is written but a control block with the new epoch.
 */
#include "log_mount.h"
#include "engine.h"
#include "recover.h"
#include "replay.h"

#include <stdlib.h>

static int log_sizes(struct ash_volume *volume, struct ash_log *log)
{
	uint64_t memory;

	log->blocks = volume->log_blocks - 2;
	log->first_block = volume->log_start + 2;
	/*
	 * A transaction is at most an eighth of the log; the memory ring holds several and the system reserve. One write takes
	 * what it holds at the most.
	 */
	memory = log->blocks < ASH_LOG_WRITE_MAX ? log->blocks : ASH_LOG_WRITE_MAX;
	log->memory_blocks = memory;
	log->checkpoint_reserve = log->blocks / 8;
	log->system_reserve = log->blocks / 16 < 64 ? log->blocks / 16 : 64;
	log->dirty_limit = log->checkpoint_reserve * ASH_LOG_PAYLOAD / 24 / 4;
	if (log->dirty_limit > ash_cache_limit(volume) / 2)
		log->dirty_limit = ash_cache_limit(volume) / 2;
	log->memory = bdev_buffer_alloc(memory * ASH_BLOCK_SIZE);
	log->batch = bdev_buffer_alloc((size_t)ASH_CHECKPOINT_BATCH * ASH_BLOCK_SIZE);
	log->crc = calloc(log->blocks, sizeof(*log->crc));
	log->control = bdev_buffer_alloc(ASH_BLOCK_SIZE);
	if (!log->memory || !log->batch || !log->crc || !log->control || ash_checkpoint_open(log))
		return -ENOMEM;
	return volume->no_write ? 0 : bdev_queue_open(volume->dev, 64, &log->queue);
}

static void log_continue(struct ash_volume *volume, struct ash_log *log, const struct ash_overlay *overlay)
{
	const struct ash_overlay_info *info = &overlay->info;
	uint64_t tail = ash_get64(info->control.tail_position);

	log->position = log->written = info->end_position;
	log->durable_lsn = log->position * ASH_LOG_PAYLOAD;
	log->tail_lsn = ash_get64(info->control.tail_lsn);
	log->tail_previous_crc = ash_get32(info->control.tail_previous_crc);
	log->sequence = ash_get64(info->control.sequence);
	log->epoch_position = info->end_position;
	log->crc[(tail + log->blocks - 1) % log->blocks] = log->tail_previous_crc;
	for (uint64_t i = 0; i < overlay->block_total; i++)
		log->crc[(tail + i) % log->blocks] = overlay->blocks[i].crc;
	((struct ash_log_block *)(log->memory + log->position % log->memory_blocks * ASH_BLOCK_SIZE))->first_record =
		ash_put16(ASH_LOG_NO_RECORD);
	volume->epoch = ash_get64(info->control.epoch) + 1;
	volume->was_clean = info->clean;
	volume->clean_used_inodes = ash_get64(info->control.used_inodes);
}

/*
 * A lost block (recover.h). The device may give it again at any moment, in an old state: a buffer that is of no type stands
 * in its place, and, dirty, in the way of the tail (I4). The volume is open without writing, so it never goes home.
 */
static int lost_to_cache(struct ash_volume *volume, const struct ash_replay_image *image)
{
	struct ash_block_id id = { image->block, ASH_TYPE_LOST, 0 };
	struct ash_buffer *buffer;
	int error;

	assert(volume->no_write);
	ash_damaged(volume, image->block, "it cannot be read, and the log holds only parts of it");
	error = ash_buffer_get_new(volume, id, &buffer);
	if (error)
		return error;
	buffer->bad_records = UINT32_MAX;
	pthread_mutex_lock(&volume->log->lock);
	ash_log_dirty_locked(volume->log, buffer, image->first_lsn);
	pthread_mutex_unlock(&volume->log->lock);
	ash_buffer_put(volume, buffer);
	return 0;
}

static int image_to_cache(struct ash_volume *volume, const struct ash_replay_image *image)
{
	const struct ash_block_header *header = (const void *)image->bytes;
	uint32_t type = ash_replay_image_type(image->bytes);
	struct ash_block_id id = { image->block, type, type == ASH_TYPE_INODE_TABLE ? 0 : ash_get64(header->owner) };
	struct ash_buffer *buffer;
	int error;

	if (image->lost)
		return lost_to_cache(volume, image);
	if (image->suspect) {
		ash_damaged(volume, image->block, "its home content is bad and no home write explains it");
		if (type != ASH_TYPE_INODE_TABLE)
			return 0; /* stays on the device as it is, for fsck */
	}
	error = ash_buffer_get_new(volume, id, &buffer);
	if (error)
		return error;
	memcpy(buffer->data, image->bytes, ASH_BLOCK_SIZE);
	buffer->bad_records = image->bad_records;
	buffer->last_lsn = image->last_lsn;
	ash_buffer_set_replayed(volume, buffer);
	pthread_mutex_lock(&volume->log->lock);
	ash_log_dirty_locked(volume->log, buffer, image->first_lsn);
	pthread_mutex_unlock(&volume->log->lock);
	ash_buffer_put(volume, buffer);
	if (type == ASH_MAGIC_BLOCK_BITMAP)
		error = ash_alloc_note_replayed(volume, id.owner);
	return error;
}

static int overlay_to_cache(struct ash_volume *volume, const struct ash_overlay *overlay)
{
	struct ash_log *log = volume->log;
	int error = 0;

	for (size_t i = 0; !error && i < overlay->bucket_count; i++)
		for (const struct ash_replay_image *image = overlay->buckets[i]; !error && image; image = image->next)
			error = image_to_cache(volume, image);
	if (!error && overlay->orphan_set.count)
		error = ash_log_orphan_room(log, overlay->orphan_set.count);
	for (size_t i = 0; !error && i < overlay->orphan_set.slot_count; i++) {
		const struct ash_orphan *orphan = &overlay->orphan_set.slots[i];

		if (orphan->ino)
			ash_orphan_set_change(&log->orphans, orphan->ino, orphan->lsn, true);
	}
	return error;
}

static int log_take_over(struct ash_volume *volume, const struct ash_overlay *overlay)
{
	struct ash_log *log = volume->log;
	int error = log_sizes(volume, log);

	if (error)
		return error;
	log_continue(volume, log, overlay);
	error = overlay_to_cache(volume, overlay);
	if (error || volume->no_write)
		return error;
	/*
	 * What replay read may still lie in the device's volatile cache, for whoever wrote it may have died before the flush.
	 * From here on it counts as durable, so it must be (I1, I5).
	 */
	error = bdev_flush(volume->dev);
	if (error)
		return error;
	/*
	 * A power cut may tear a control block, so it goes to the place that does not rule. Even sequences have the first place;
	 * after mkfs, fsck, or one that was torn, that may mean to leave one out.
	 */
	uint64_t ruling = ash_get64(overlay->info.control.header.address) - volume->log_start;
	log->sequence += (log->sequence + 1) % 2 == ruling;
	/* the epoch must be durable before the first block that carries it */
	return ash_log_write_control(volume, log->tail_lsn, false, 0, 0);
}

int ash_log_open_overlay(struct ash_volume *volume, const struct ash_overlay *overlay)
{
	struct ash_log *log = calloc(1, sizeof(*log));

	if (!log)
		return -ENOMEM;
	pthread_mutex_init(&log->lock, NULL);
	pthread_mutex_init(&log->checkpoint_lock, NULL);
	pthread_mutex_init(&log->flush_lock, NULL);
	pthread_mutex_init(&log->arena_lock, NULL);
	pthread_cond_init(&log->changed, NULL);
	volume->log = log;
	return log_take_over(volume, overlay);
}
