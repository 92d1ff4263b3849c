/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The log as it stands on the device, read and taken apart: control blocks, the chain of log blocks from the tail on,
 * the records in it, their items (replay.h).
 *
 *   chain   log blocks from the tail while each is what the one before announced: own address and position, checksum,
 *           checksum of the predecessor, epoch. Where the chain ends the log ends, unless a later block or the control
 *           block says that this place was durable, or a block can only have been written under a control block that
 *           is not there: then the log is damaged.
 *
 * A block that the device does not give is no block of ours: a control block does not rule, a log block ends the chain. Which
 * ones these are is remembered, for unlike rubbish they may be there again tomorrow.
 *
 * A record that runs over an epoch's end was never complete: a new epoch starts at a block and with a record.
 * Single-threaded, no locks.
 */
#include "replay.h"

#include <stdlib.h>

static int unreadable_note(struct ash_overlay *overlay, uint64_t block)
{
	return ash_replay_list_add(&overlay->unreadable, &overlay->unreadable_count, &overlay->unreadable_room, block);
}

/* ---- Control blocks ---- */

bool ash_log_control_plausible(const struct ash_log_control *control, uint64_t ring_blocks)
{
	uint64_t tail = ash_get64(control->tail_position), epoch_position = ash_get64(control->epoch_position);

	return ash_get64(control->tail_lsn) / ASH_LOG_PAYLOAD == tail && tail < (1ull << 50) &&
	       epoch_position < (1ull << 50) && epoch_position <= tail + ring_blocks &&
	       ash_get64(control->epoch) < (1ull << 62) && ash_get64(control->sequence) < (1ull << 62);
}

static bool control_good(const struct ash_overlay *overlay, const struct ash_log_control *control, uint64_t block)
{
	return ash_get32(control->header.magic) == ASH_MAGIC_LOG_CONTROL &&
	       ash_get32(control->header.crc) == ash_block_crc(overlay->seed, control) &&
	       ash_get64(control->header.address) == block && !ash_get64(control->header.owner) &&
	       !memcmp(control->header.metadata_uuid, overlay->uuid, 16) &&
	       ash_log_control_plausible(control, overlay->ring_blocks);
}

/*
 * Two places that cannot be read are damage. When the superblock's, which could be read a moment ago, cannot be either, the
 * device is gone.
 */
static int controls_lost(struct ash_overlay *overlay, uint8_t *memory)
{
	int error = 0;

	if (overlay->unreadable_count == 2 && overlay->super_block < overlay->block_count)
		error = bdev_read(overlay->dev, memory, ASH_BLOCK_SIZE, overlay->super_block * ASH_BLOCK_SIZE);
	return error ? error : ash_replay_damage(overlay, "both control blocks are bad");
}

int ash_replay_control_read(struct ash_overlay *overlay)
{
	struct ash_log_control *pair = bdev_buffer_alloc(2 * ASH_BLOCK_SIZE);
	int found = -1, error;
	bool bad[2];

	if (!pair)
		return -ENOMEM;
	error = ash_replay_blocks_read(overlay, overlay->log_start, 2, (uint8_t *)pair, bad);
	for (int i = 0; !error && i < 2; i++) {
		if (bad[i])
			error = unreadable_note(overlay, overlay->log_start + (uint64_t)i);
		if (!control_good(overlay, &pair[i], overlay->log_start + (uint64_t)i)) {
			overlay->control_lost = true;
			continue;
		}
		if (found < 0 || ash_get64(pair[i].sequence) > ash_get64(pair[found].sequence))
			found = i;
	}
	overlay->unreadable_controls = overlay->unreadable_count;
	if (!error && found < 0)
		error = controls_lost(overlay, (uint8_t *)pair);
	if (!error)
		overlay->info.control = pair[found];
	bdev_buffer_free(pair, 2 * ASH_BLOCK_SIZE);
	return error;
}

/* ---- Chain ---- */

static uint64_t ring_block(const struct ash_overlay *overlay, uint64_t position)
{
	return overlay->log_start + 2 + position % overlay->ring_blocks;
}

static bool block_follows(const struct ash_overlay *overlay, const struct ash_log_block *block, uint64_t position,
			  uint32_t previous_crc, uint64_t previous_epoch)
{
	const struct ash_log_control *control = &overlay->info.control;
	uint64_t epoch = ash_get64(block->epoch), newest = ash_get64(control->epoch);

	if (ash_get32(block->header.magic) != ASH_MAGIC_LOG_BLOCK || ash_get64(block->header.owner) != position ||
	    ash_get64(block->header.address) != ring_block(overlay, position) ||
	    memcmp(block->header.metadata_uuid, overlay->uuid, 16))
		return false;
	if (ash_get32(block->previous_crc) != previous_crc || ash_get16(block->used) > ASH_LOG_PAYLOAD ||
	    ash_get32(block->header.crc) != ash_block_crc(overlay->seed, block))
		return false;
	if (position >= ash_get64(control->epoch_position))
		return epoch == newest;
	return epoch < newest && epoch >= previous_epoch;
}

static int chain_add(struct ash_overlay *overlay, const struct ash_log_block *block, size_t *info_room)
{
	uint32_t used = ash_get16(block->used);
	int error = ash_replay_array_room((void **)&overlay->blocks, overlay->block_total, info_room,
					  sizeof(*overlay->blocks));

	if (error)
		return error;
	if (overlay->stream_length + used > overlay->stream_room) {
		size_t room = overlay->stream_room ? 2 * overlay->stream_room : 1u << 16;
		uint8_t *bigger = realloc(overlay->stream, room);

		if (!bigger)
			return -ENOMEM;
		overlay->stream = bigger;
		overlay->stream_room = room;
	}
	overlay->blocks[overlay->block_total++] = (struct ash_replay_log_block){
		.epoch = ash_get64(block->epoch),
		.start = overlay->stream_length,
		.used = used,
		.crc = ash_get32(block->header.crc),
	};
	if (used) /* an empty block may come before there is a stream at all */
		memcpy(overlay->stream + overlay->stream_length, block->payload, used);
	overlay->stream_length += used;
	return 0;
}

enum { READ_BLOCKS = 256 };

struct ring_piece {
	uint8_t *memory;
	uint64_t count;
	bool bad[READ_BLOCKS]; /* cannot be read */
};

/* Log blocks from `position` on, as many as fit before the ring wraps. */
static int ring_read(struct ash_overlay *overlay, uint64_t position, struct ring_piece *piece)
{
	uint64_t left = overlay->ring_blocks - position % overlay->ring_blocks;

	piece->count = left < READ_BLOCKS ? left : READ_BLOCKS;
	return ash_replay_blocks_read(overlay, ring_block(overlay, position), piece->count, piece->memory, piece->bad);
}

static const struct ash_log_block *piece_block(const struct ring_piece *piece, uint64_t i)
{
	return (const void *)(piece->memory + i * ASH_BLOCK_SIZE);
}

/* A block that is good in itself and does not fit a log that ends at `position`. */
static bool block_disproves_end(const struct ash_overlay *overlay, const struct ash_log_block *block, uint64_t at,
				uint64_t position)
{
	const struct ash_log_control *control = &overlay->info.control;
	uint64_t epoch = ash_get64(block->epoch), newest = ash_get64(control->epoch),
		 owner = ash_get64(block->header.owner);
	uint64_t limit = ash_get64(control->tail_position) + overlay->ring_blocks;

	if (ash_get32(block->header.magic) != ASH_MAGIC_LOG_BLOCK || epoch < newest || owner < position ||
	    owner % overlay->ring_blocks != at % overlay->ring_blocks ||
	    ash_get32(block->header.crc) != ash_block_crc(overlay->seed, block) ||
	    memcmp(block->header.metadata_uuid, overlay->uuid, 16))
		return false;
	/* an epoch, or a lap of the ring, that only a control block newer than the one that rules can have allowed */
	if (epoch > newest || owner >= limit)
		return true;
	return ash_get64(block->durable_position) > position;
}

/*
 * Where to stop looking for a block that disproves an end at `position`. A write begins when the one before is durable, and all
 * its blocks say so, and no more than that: the proof that `position` was durable lies in the write behind the one that it
 * belongs to. Behind the tail of a closed log nothing was written: there a glance will do.
 */
static uint64_t end_check_limit(const struct ash_overlay *overlay, uint64_t position)
{
	const struct ash_log_control *control = &overlay->info.control;
	bool closed = ash_get32(control->clean) == 1 && !overlay->block_total;
	uint64_t limit = position + (closed ? 2 * READ_BLOCKS : 2 * ASH_LOG_WRITE_MAX);
	uint64_t lap = ash_get64(control->tail_position) + overlay->ring_blocks;

	return limit < lap ? limit : lap;
}

/*
 * The chain broke at `position`. An unfinished log write leaves that behind. But a good block elsewhere that was
 * written when `position` was already durable, or under a newer control block, proves damage: acknowledged records are
 * lost. So does an epoch that began behind `position`, unless the block there may still be what it was. When one control
 * block is bad (torn, or lost later) the whole ring is looked at, else as far as such a block can lie.
 */
static int chain_end_check(struct ash_overlay *overlay, uint64_t position, struct ring_piece *piece)
{
	uint64_t limit = end_check_limit(overlay, position), at = position + 1;
	int error = 0;

	if (!overlay->end_lost && position < ash_get64(overlay->info.control.epoch_position))
		return ash_replay_damage(overlay, "durable blocks of it are lost");
	if (overlay->control_lost) {
		at = position;
		limit = position + overlay->ring_blocks;
	}
	for (; !error && at < limit; at += piece->count) {
		error = ring_read(overlay, at, piece);
		for (uint64_t i = 0; !error && i < piece->count && at + i < limit; i++) {
			if (piece->bad[i] && at + i != position)
				error = unreadable_note(overlay, ring_block(overlay, at + i));
			else if (block_disproves_end(overlay, piece_block(piece, i), at + i, position))
				error = ash_replay_damage(overlay, "durable blocks of it are lost");
		}
	}
	return error;
}

int ash_replay_chain_read(struct ash_overlay *overlay)
{
	const struct ash_log_control *control = &overlay->info.control;
	uint64_t position = ash_get64(control->tail_position), limit = position + overlay->ring_blocks;
	struct ring_piece piece = { .memory = bdev_buffer_alloc((size_t)READ_BLOCKS * ASH_BLOCK_SIZE) };
	uint32_t crc = ash_get32(control->tail_previous_crc);
	uint64_t epoch = 0;
	size_t info_room = 0;
	bool good = true;
	int error = piece.memory ? 0 : -ENOMEM;

	while (!error && good && position < limit) {
		error = ring_read(overlay, position, &piece);
		for (uint64_t i = 0; !error && i < piece.count && position < limit; i++) {
			const struct ash_log_block *block = piece_block(&piece, i);

			good = block_follows(overlay, block, position, crc, epoch);
			overlay->end_lost = piece.bad[i];
			if (!good)
				break;
			error = chain_add(overlay, block, &info_room);
			crc = ash_get32(block->header.crc);
			epoch = ash_get64(block->epoch);
			position++;
		}
	}
	overlay->info.end_position = position;
	if (!error && overlay->end_lost)
		error = unreadable_note(overlay, ring_block(overlay, position));
	if (!error && !good)
		error = chain_end_check(overlay, position, &piece);
	bdev_buffer_free(piece.memory, (size_t)READ_BLOCKS * ASH_BLOCK_SIZE);
	return error;
}

/* ---- Records ---- */

/* LSN of stream offset `at`, which lies in (or at the end of) block `index`. */
static uint64_t stream_lsn(const struct ash_overlay *overlay, uint64_t index, size_t at)
{
	uint64_t position = ash_get64(overlay->info.control.tail_position) + index;

	return position * ASH_LOG_PAYLOAD + (at - overlay->blocks[index].start);
}

/* Stream offset where the run of blocks of the epoch of block `index` ends. */
static size_t epoch_end(const struct ash_overlay *overlay, uint64_t index, uint64_t *next)
{
	uint64_t i = index;

	while (i < overlay->block_total && overlay->blocks[i].epoch == overlay->blocks[index].epoch)
		i++;
	*next = i;
	return i < overlay->block_total ? overlay->blocks[i].start : overlay->stream_length;
}

/* Records of blocks [index, next), whose stream bytes end at `end`; starts at stream offset `at`. */
static int epoch_records(struct ash_overlay *overlay, uint64_t index, size_t at, size_t end,
			 ash_replay_record_each each, void *context)
{
	int result = 0;

	while (!result && at + sizeof(struct ash_log_record) <= end) {
		struct ash_log_record header;
		struct ash_replay_record record = { .bytes = overlay->stream + at };

		while (at >= overlay->blocks[index].start + overlay->blocks[index].used)
			index++;
		memcpy(&header, overlay->stream + at, sizeof(header));
		record.length = ash_get32(header.length);
		record.items = ash_get32(header.items);
		record.lsn = ash_get64(header.lsn);
		if (record.length < sizeof(header) || record.lsn != stream_lsn(overlay, index, at))
			return ash_replay_damage(overlay, "a record's header is wrong");
		if (record.length > end - at)
			return 0; /* incomplete: the last one of its epoch */
		at += record.length;
		while (index + 1 < overlay->block_total &&
		       at > overlay->blocks[index].start + overlay->blocks[index].used)
			index++;
		record.end_lsn = stream_lsn(overlay, index, at);
		result = each(overlay, &record, context);
	}
	return result;
}

int ash_replay_records_each(struct ash_overlay *overlay, ash_replay_record_each each, void *context)
{
	uint32_t skip = ash_get64(overlay->info.control.tail_lsn) % ASH_LOG_PAYLOAD;
	uint64_t index = 0, next;
	int result = 0;

	if (overlay->block_total && skip > overlay->blocks[0].used)
		return ash_replay_damage(overlay, "its tail lies behind its end");
	while (!result && index < overlay->block_total) {
		size_t end = epoch_end(overlay, index, &next);

		result = epoch_records(overlay, index, overlay->blocks[index].start + (index ? 0 : skip), end, each,
				       context);
		index = next;
	}
	return result;
}

struct item_walk {
	ash_replay_item_each each;
	void *context;
};

static int record_items(struct ash_overlay *overlay, const struct ash_replay_record *record, void *context)
{
	const struct item_walk *walk = context;
	uint32_t at = sizeof(struct ash_log_record);
	int result = 0;

	for (uint32_t i = 0; !result && i < record->items; i++) {
		struct ash_log_item item;

		if (at + sizeof(item) > record->length)
			return ash_replay_damage(overlay, "an item runs over its record");
		memcpy(&item, record->bytes + at, sizeof(item));
		at += sizeof(item);
		if (ash_get16(item.length) > record->length - at)
			return ash_replay_damage(overlay, "an item runs over its record");
		result = walk->each(overlay, record, &item, record->bytes + at, walk->context);
		at += ash_get16(item.length);
	}
	if (!result && at != record->length)
		return ash_replay_damage(overlay, "a record has bytes behind its items");
	return result;
}

int ash_replay_items_each(struct ash_overlay *overlay, ash_replay_item_each each, void *context)
{
	struct item_walk walk = { each, context };

	return ash_replay_records_each(overlay, record_items, &walk);
}
