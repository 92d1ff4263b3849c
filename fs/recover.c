/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Replay of the log into memory (recover.h), and the opening of the log at mount.
 *
 *   chain   read log blocks from the tail while each is what the one before announced: own address and position,
 *           checksum, checksum of the predecessor, epoch. Where the chain ends the log ends, unless a later block
 *           says that this place was durable, or can only have been written under a control block that is not
 *           there: then the log is damaged.
 *   collect revokes (block -> last record that voids) and home-write announcements
 *   base    read the home content of every block that is not formatted by the log itself
 *   apply   every item in order, bounds checked
 *   judge   a block whose home content was bad is accepted only if its image at the LSN of an announcement
 *           had the announced checksum (a torn home write); else it is damage and stays as it is
 *
 * A record that runs over an epoch's end was never complete: a new epoch starts at a block and with a record.
 * Single-threaded; the finished overlay is constant.
 */
#include "recover.h"
#include "engine.h"

#include <stdio.h>
#include <stdlib.h>

struct image {
	struct image *next;
	uint64_t block;
	uint64_t first_lsn, last_lsn;
	uint8_t *bytes;
	uint32_t bad_records;    /* of the home content, inode table only */
	size_t homes, homes_end; /* announcements of this block, by LSN, that were not tested yet */
	bool needs_base, suspect;
};

struct home {
	uint64_t block, lsn;
	uint32_t crc;
};

struct revoke {
	uint64_t block, lsn; /* block 0: empty slot (block 0 is never freed) */
};

struct log_block_info {
	uint64_t epoch;
	size_t start; /* in the stream */
	uint32_t used, crc;
};

struct ash_overlay {
	struct bdev *dev;
	struct ash_overlay_info info;
	bool control_lost; /* only one control block is good */
	uint64_t block_count, log_start, log_blocks, ring_blocks;
	uint32_t seed;
	uint8_t uuid[16];
	uint8_t *stream;
	size_t stream_length, stream_room;
	struct log_block_info *blocks; /* from the tail position on */
	uint64_t block_total;
	struct image **buckets;
	size_t bucket_count, image_count;
	struct revoke *revokes;
	size_t revoke_slots, revoke_count;
	struct home *homes;
	size_t home_count, home_room;
	uint64_t revoke_total; /* blocks named by revoke items, repeated ones too */
	struct ash_orphan_set orphan_set;
	uint64_t *orphans; /* the numbers of the set, made at the end */
	uint64_t *damaged;
	size_t damaged_count, damaged_room;
	char *error;
};

static int damage(struct ash_overlay *overlay, const char *what)
{
	if (overlay->error)
		snprintf(overlay->error, BDEV_ERROR_TEXT, "the log is damaged (%s); run fsck.ashlar", what);
	return -EUCLEAN;
}

/* Grow an array of `size`-byte elements to hold one more. */
static int array_room(void **array, size_t count, size_t *room, size_t size)
{
	size_t wanted = *room ? *room * 2 : 64;
	void *bigger;

	if (count < *room)
		return 0;
	bigger = reallocarray(*array, wanted, size);
	if (!bigger)
		return -ENOMEM;
	*array = bigger;
	*room = wanted;
	return 0;
}

/* ---- Control blocks ---- */

static bool control_good(const struct ash_overlay *overlay, const struct ash_log_control *control, uint64_t block)
{
	uint64_t tail = ash_get64(control->tail_position), epoch_position = ash_get64(control->epoch_position);

	return ash_get32(control->header.magic) == ASH_MAGIC_LOG_CONTROL &&
	       ash_get32(control->header.crc) == ash_block_crc(overlay->seed, control) &&
	       ash_get64(control->header.address) == block &&
	       !memcmp(control->header.metadata_uuid, overlay->uuid, 16) &&
	       ash_get64(control->tail_lsn) / ASH_LOG_PAYLOAD == tail && tail < (1ull << 50) &&
	       epoch_position < (1ull << 50) && epoch_position <= tail + overlay->ring_blocks &&
	       ash_get64(control->epoch) < (1ull << 62) && ash_get64(control->sequence) < (1ull << 62);
}

static int control_read(struct ash_overlay *overlay)
{
	struct ash_log_control *pair = bdev_buffer_alloc(2 * ASH_BLOCK_SIZE);
	int found = -1, error;

	if (!pair)
		return -ENOMEM;
	error = bdev_read(overlay->dev, pair, 2 * ASH_BLOCK_SIZE, overlay->log_start * ASH_BLOCK_SIZE);
	for (int i = 0; !error && i < 2; i++) {
		if (!control_good(overlay, &pair[i], overlay->log_start + (uint64_t)i)) {
			overlay->control_lost = true;
			continue;
		}
		if (found < 0 || ash_get64(pair[i].sequence) > ash_get64(pair[found].sequence))
			found = i;
	}
	if (!error && found < 0)
		error = damage(overlay, "both control blocks are bad");
	if (!error)
		overlay->info.control = pair[found];
	bdev_buffer_free(pair, 2 * ASH_BLOCK_SIZE);
	return error;
}

/* ---- Chain ---- */

static bool block_follows(const struct ash_overlay *overlay, const struct ash_log_block *block, uint64_t position,
			  uint32_t previous_crc, uint64_t previous_epoch)
{
	const struct ash_log_control *control = &overlay->info.control;
	uint64_t epoch = ash_get64(block->epoch), newest = ash_get64(control->epoch);

	if (ash_get32(block->header.magic) != ASH_MAGIC_LOG_BLOCK || ash_get64(block->header.owner) != position ||
	    ash_get64(block->header.address) != overlay->log_start + 2 + position % overlay->ring_blocks ||
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
	int error = array_room((void **)&overlay->blocks, overlay->block_total, info_room, sizeof(*overlay->blocks));

	if (error)
		return error;
	if (overlay->stream_length + used > overlay->stream_room) {
		size_t room = (overlay->stream_room + (1u << 20)) * 2;
		uint8_t *bigger = realloc(overlay->stream, room);

		if (!bigger)
			return -ENOMEM;
		overlay->stream = bigger;
		overlay->stream_room = room;
	}
	overlay->blocks[overlay->block_total++] = (struct log_block_info){
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

/* Log blocks [position, +count) into `memory`; count is what fits before the ring wraps. */
static int ring_read(struct ash_overlay *overlay, uint64_t position, uint64_t *count, uint8_t *memory)
{
	uint64_t slot = position % overlay->ring_blocks;

	*count = overlay->ring_blocks - slot < READ_BLOCKS ? overlay->ring_blocks - slot : READ_BLOCKS;
	return bdev_read(overlay->dev, memory, *count * ASH_BLOCK_SIZE,
			 (overlay->log_start + 2 + slot) * ASH_BLOCK_SIZE);
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
 * The chain broke at `position`. An unfinished log write leaves that behind. But a good block elsewhere that was
 * written when `position` was already durable, or under a newer control block, proves damage: acknowledged records are
 * lost. When one control block is bad (torn, or lost later) the whole ring is looked at, else the next few blocks.
 */
static int chain_end_check(struct ash_overlay *overlay, uint64_t position, uint8_t *memory)
{
	uint64_t limit = ash_get64(overlay->info.control.tail_position) + overlay->ring_blocks, at = position + 1,
		 count;
	int error;

	if (overlay->control_lost) {
		at = position;
		limit = position + overlay->ring_blocks;
	} else if (limit > position + 2 * READ_BLOCKS) {
		limit = position + 2 * READ_BLOCKS;
	}
	for (; at < limit; at += count) {
		error = ring_read(overlay, at, &count, memory);
		if (error)
			return error;
		for (uint64_t i = 0; i < count && at + i < limit; i++)
			if (block_disproves_end(overlay, (const void *)(memory + i * ASH_BLOCK_SIZE), at + i, position))
				return damage(overlay, "durable blocks of it are lost");
	}
	return 0;
}

static int chain_read(struct ash_overlay *overlay)
{
	const struct ash_log_control *control = &overlay->info.control;
	uint64_t position = ash_get64(control->tail_position), limit = position + overlay->ring_blocks;
	uint8_t *memory = bdev_buffer_alloc((size_t)READ_BLOCKS * ASH_BLOCK_SIZE);
	uint32_t crc = ash_get32(control->tail_previous_crc);
	uint64_t epoch = 0, count;
	size_t info_room = 0;
	bool good = true;
	int error = memory ? 0 : -ENOMEM;

	while (!error && good && position < limit) {
		error = ring_read(overlay, position, &count, memory);
		for (uint64_t i = 0; !error && i < count && position < limit; i++) {
			const struct ash_log_block *block = (const void *)(memory + i * ASH_BLOCK_SIZE);

			good = block_follows(overlay, block, position, crc, epoch);
			if (!good)
				break;
			error = chain_add(overlay, block, &info_room);
			crc = ash_get32(block->header.crc);
			epoch = ash_get64(block->epoch);
			position++;
		}
	}
	overlay->info.end_position = position;
	overlay->info.end_crc = crc;
	if (!error && !good)
		error = chain_end_check(overlay, position, memory);
	bdev_buffer_free(memory, (size_t)READ_BLOCKS * ASH_BLOCK_SIZE);
	return error;
}

/* ---- Records ---- */

struct record {
	const uint8_t *bytes;
	uint32_t length, items;
	uint64_t lsn;     /* of its first byte */
	uint64_t end_lsn; /* as ash_log_append_lsn() said after it */
};

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

typedef int (*record_each)(struct ash_overlay *overlay, const struct record *record, void *context);

/* Records of blocks [index, next), whose stream bytes end at `end`; starts at stream offset `at`. */
static int epoch_records(struct ash_overlay *overlay, uint64_t index, size_t at, size_t end, record_each each,
			 void *context)
{
	int result = 0;

	while (!result && at + sizeof(struct ash_log_record) <= end) {
		struct ash_log_record header;
		struct record record = { .bytes = overlay->stream + at };

		while (at >= overlay->blocks[index].start + overlay->blocks[index].used)
			index++;
		memcpy(&header, overlay->stream + at, sizeof(header));
		record.length = ash_get32(header.length);
		record.items = ash_get32(header.items);
		record.lsn = ash_get64(header.lsn);
		if (record.length < sizeof(header) || record.lsn != stream_lsn(overlay, index, at))
			return damage(overlay, "a record's header is wrong");
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

static int records_each(struct ash_overlay *overlay, record_each each, void *context)
{
	uint32_t skip = ash_get64(overlay->info.control.tail_lsn) % ASH_LOG_PAYLOAD;
	uint64_t index = 0, next;
	int result = 0;

	if (overlay->block_total && skip > overlay->blocks[0].used)
		return damage(overlay, "its tail lies behind its end");
	while (!result && index < overlay->block_total) {
		size_t end = epoch_end(overlay, index, &next);

		result = epoch_records(overlay, index, overlay->blocks[index].start + (index ? 0 : skip), end, each,
				       context);
		index = next;
	}
	return result;
}

typedef int (*item_each)(struct ash_overlay *overlay, const struct record *record, const struct ash_log_item *item,
			 const uint8_t *tail, void *context);

struct item_walk {
	item_each each;
	void *context;
};

static int record_items(struct ash_overlay *overlay, const struct record *record, void *context)
{
	const struct item_walk *walk = context;
	uint32_t at = sizeof(struct ash_log_record);
	int result = 0;

	for (uint32_t i = 0; !result && i < record->items; i++) {
		struct ash_log_item item;

		if (at + sizeof(item) > record->length)
			return damage(overlay, "an item runs over its record");
		memcpy(&item, record->bytes + at, sizeof(item));
		at += sizeof(item);
		if (ash_get16(item.length) > record->length - at)
			return damage(overlay, "an item runs over its record");
		result = walk->each(overlay, record, &item, record->bytes + at, walk->context);
		at += ash_get16(item.length);
	}
	if (!result && at != record->length)
		return damage(overlay, "a record has bytes behind its items");
	return result;
}

static int items_each(struct ash_overlay *overlay, item_each each, void *context)
{
	struct item_walk walk = { each, context };

	return records_each(overlay, record_items, &walk);
}

static uint32_t tail32(const uint8_t *tail)
{
	ash_le32 v;

	memcpy(&v, tail, sizeof(v));
	return ash_get32(v);
}

static uint64_t tail64(const uint8_t *tail)
{
	ash_le64 v;

	memcpy(&v, tail, sizeof(v));
	return ash_get64(v);
}

/* ---- Collect ---- */

/* Each revoke that is written names one block: the largest log cannot hold as many. */
#define REVOKES_MAX (ASH_LOG_MAX_BLOCKS * (uint64_t)ASH_LOG_PAYLOAD / sizeof(struct ash_log_item))

static struct revoke *revoke_slot(const struct ash_overlay *overlay, uint64_t block)
{
	size_t slot = (block * 0x9e3779b97f4a7c15ull >> 24) & (overlay->revoke_slots - 1);

	while (overlay->revokes[slot].block && overlay->revokes[slot].block != block)
		slot = (slot + 1) & (overlay->revoke_slots - 1);
	return &overlay->revokes[slot];
}

static int revoke_add(struct ash_overlay *overlay, uint64_t block, uint64_t lsn)
{
	struct revoke *slot;

	if ((overlay->revoke_count + 1) * 2 > overlay->revoke_slots) {
		struct revoke *old = overlay->revokes;
		size_t old_slots = overlay->revoke_slots;

		overlay->revoke_slots = old_slots ? old_slots * 2 : 256;
		overlay->revokes = calloc(overlay->revoke_slots, sizeof(*old));
		if (!overlay->revokes) {
			overlay->revokes = old;
			overlay->revoke_slots = old_slots;
			return -ENOMEM;
		}
		for (size_t i = 0; i < old_slots; i++)
			if (old[i].block)
				*revoke_slot(overlay, old[i].block) = old[i];
		free(old);
	}
	slot = revoke_slot(overlay, block);
	overlay->revoke_count += slot->block == 0;
	*slot = (struct revoke){ block, lsn };
	return 0;
}

static bool revoked(const struct ash_overlay *overlay, uint64_t block, uint64_t lsn)
{
	const struct revoke *slot;

	if (!overlay->revoke_count)
		return false;
	slot = revoke_slot(overlay, block);
	return slot->block && lsn < slot->lsn;
}

static size_t bucket_of(const struct ash_overlay *overlay, uint64_t block)
{
	return (block * 0x9e3779b97f4a7c15ull >> 24) & (overlay->bucket_count - 1);
}

static struct image *image_find(const struct ash_overlay *overlay, uint64_t block)
{
	struct image *image = overlay->bucket_count ? overlay->buckets[bucket_of(overlay, block)] : NULL;

	while (image && image->block != block)
		image = image->next;
	return image;
}

static int buckets_grow(struct ash_overlay *overlay)
{
	size_t old_count = overlay->bucket_count;
	struct image **old = overlay->buckets;

	overlay->bucket_count = old_count ? old_count * 4 : 256;
	overlay->buckets = calloc(overlay->bucket_count, sizeof(*old));
	if (!overlay->buckets) {
		overlay->buckets = old;
		overlay->bucket_count = old_count;
		return -ENOMEM;
	}
	for (size_t i = 0; i < old_count; i++) {
		while (old[i]) {
			struct image *image = old[i];
			size_t bucket = bucket_of(overlay, image->block);

			old[i] = image->next;
			image->next = overlay->buckets[bucket];
			overlay->buckets[bucket] = image;
		}
	}
	free(old);
	return 0;
}

static int image_add(struct ash_overlay *overlay, uint64_t block, uint64_t lsn, struct image **out)
{
	struct image *image;
	size_t bucket;

	if (overlay->image_count >= overlay->bucket_count && buckets_grow(overlay))
		return -ENOMEM;
	image = calloc(1, sizeof(*image));
	if (!image)
		return -ENOMEM;
	image->bytes = bdev_buffer_alloc(ASH_BLOCK_SIZE);
	if (!image->bytes) {
		free(image);
		return -ENOMEM;
	}
	image->block = block;
	image->first_lsn = lsn;
	bucket = bucket_of(overlay, block);
	image->next = overlay->buckets[bucket];
	overlay->buckets[bucket] = image;
	overlay->image_count++;
	*out = image;
	return 0;
}

/* Metadata of the log's own run and addresses outside the volume are no business of a record. */
static bool address_good(const struct ash_overlay *overlay, uint64_t block, uint64_t count)
{
	if (count == 0 || block >= overlay->block_count || count > overlay->block_count - block)
		return false;
	return block + count <= overlay->log_start || block >= overlay->log_start + overlay->log_blocks;
}

static bool item_good(const struct ash_overlay *overlay, const struct ash_log_item *item, const uint8_t *tail)
{
	uint64_t block = ash_get64(item->block);
	uint32_t value = ash_get32(item->value), length = ash_get16(item->length);

	switch (item->kind) {
	case ASH_LOG_BYTES:
		return address_good(overlay, block, 1) && value <= ASH_BLOCK_SIZE && length <= ASH_BLOCK_SIZE - value;
	case ASH_LOG_FORMAT:
		return address_good(overlay, block, 1) && length == 8;
	case ASH_LOG_BITS_SET:
	case ASH_LOG_BITS_CLEAR:
		return address_good(overlay, block, 1) && length == 4 && value < ASH_BITS_PER_BITMAP &&
		       tail32(tail) <= ASH_BITS_PER_BITMAP - value;
	case ASH_LOG_REVOKE:
		return length == 4 && tail32(tail) <= ASH_BLOCKS_PER_GROUP && block &&
		       address_good(overlay, block, tail32(tail));
	case ASH_LOG_HOME:
		return length == 8 && address_good(overlay, block, 1);
	case ASH_LOG_ORPHAN_ADD:
	case ASH_LOG_ORPHAN_DEL:
		return length == 0 && block != 0;
	case ASH_LOG_ORPHAN_RESET:
		return length == 0;
	default:
		return false;
	}
}

static int collect(struct ash_overlay *overlay, const struct record *record, const struct ash_log_item *item,
		   const uint8_t *tail, void *context)
{
	uint64_t block = ash_get64(item->block);
	int error = 0;

	(void)context;
	if (!item_good(overlay, item, tail))
		return damage(overlay, "an item has impossible values");
	if (item->kind == ASH_LOG_REVOKE) {
		overlay->revoke_total += tail32(tail);
		if (overlay->revoke_total > REVOKES_MAX)
			return damage(overlay, "too many revokes");
		for (uint32_t i = 0; !error && i < tail32(tail); i++)
			error = revoke_add(overlay, block + i, record->lsn);
	} else if (item->kind == ASH_LOG_HOME) {
		error = array_room((void **)&overlay->homes, overlay->home_count, &overlay->home_room,
				   sizeof(*overlay->homes));
		if (!error)
			overlay->homes[overlay->home_count++] =
				(struct home){ .block = block, .lsn = tail64(tail), .crc = ash_get32(item->value) };
	}
	return error;
}

/* Which blocks the log touches, and whether their home content matters: not if a format comes first. */
static int collect_images(struct ash_overlay *overlay, const struct record *record, const struct ash_log_item *item,
			  const uint8_t *tail, void *context)
{
	uint64_t block = ash_get64(item->block);
	struct image *image;
	int error;

	(void)tail;
	(void)context;
	if (item->kind != ASH_LOG_BYTES && item->kind != ASH_LOG_FORMAT && item->kind != ASH_LOG_BITS_SET &&
	    item->kind != ASH_LOG_BITS_CLEAR)
		return 0;
	if (revoked(overlay, block, record->lsn))
		return 0;
	image = image_find(overlay, block);
	if (image)
		return 0;
	error = image_add(overlay, block, record->lsn, &image);
	if (!error)
		image->needs_base = item->kind != ASH_LOG_FORMAT;
	return error;
}

/* ---- Base ---- */

static bool is_header_magic(uint32_t magic)
{
	return magic == ASH_MAGIC_SUPER || magic == ASH_MAGIC_GROUP_TABLE || magic == ASH_MAGIC_BLOCK_BITMAP ||
	       magic == ASH_MAGIC_INODE_BITMAP || magic == ASH_MAGIC_TREE_NODE;
}

static uint32_t image_type(const uint8_t *bytes)
{
	const struct ash_block_header *header = (const void *)bytes;
	uint32_t magic = ash_get32(header->magic);

	return is_header_magic(magic) ? magic : ASH_TYPE_INODE_TABLE;
}

/* Which records of an inode-table block are bad on their own. */
static uint32_t records_bad(const struct ash_overlay *overlay, const uint8_t *bytes)
{
	static const uint8_t zero[ASH_INODE_SIZE];
	uint32_t bad = 0;

	for (uint32_t i = 0; i < ASH_INODES_PER_BLOCK; i++) {
		const struct ash_inode *record = (const void *)(bytes + i * ASH_INODE_SIZE);

		if (!memcmp(record, zero, ASH_INODE_SIZE))
			continue;
		if (ash_get32(record->magic) != ASH_MAGIC_INODE ||
		    ash_get32(record->crc) != ash_inode_crc(overlay->seed, record))
			bad |= 1u << i;
	}
	return bad;
}

static void image_judge_base(struct ash_overlay *overlay, struct image *image)
{
	const struct ash_block_header *header = (const void *)image->bytes;

	if (image_type(image->bytes) == ASH_TYPE_INODE_TABLE) {
		image->bad_records = records_bad(overlay, image->bytes);
		image->suspect = image->bad_records != 0;
		return;
	}
	image->suspect = ash_get32(header->crc) != ash_block_crc(overlay->seed, image->bytes) ||
			 ash_get64(header->address) != image->block ||
			 memcmp(header->metadata_uuid, overlay->uuid, 16) != 0;
}

static int compare_image(const void *a, const void *b)
{
	uint64_t x = (*(struct image *const *)a)->block, y = (*(struct image *const *)b)->block;

	return x < y ? -1 : x > y;
}

/* Home content in address order, neighbours in one read. */
static int bases_read_sorted(struct ash_overlay *overlay, struct image **list, size_t count)
{
	enum { MAX_RUN = 64 };
	struct iovec iov[MAX_RUN];
	int error = 0;

	for (size_t i = 0; !error && i < count;) {
		int run = 0;

		while (run < MAX_RUN && i + (size_t)run < count &&
		       list[i + (size_t)run]->block == list[i]->block + (uint64_t)run) {
			iov[run] = (struct iovec){ list[i + (size_t)run]->bytes, ASH_BLOCK_SIZE };
			run++;
		}
		error = bdev_readv(overlay->dev, iov, run, list[i]->block * ASH_BLOCK_SIZE);
		for (int k = 0; !error && k < run; k++)
			image_judge_base(overlay, list[i + (size_t)k]);
		i += (size_t)run;
	}
	return error;
}

static int bases_read(struct ash_overlay *overlay)
{
	struct image **list = malloc((overlay->image_count + 1) * sizeof(*list));
	size_t count = 0;
	int error;

	if (!list)
		return -ENOMEM;
	for (size_t i = 0; i < overlay->bucket_count; i++)
		for (struct image *image = overlay->buckets[i]; image; image = image->next)
			if (image->needs_base)
				list[count++] = image;
	qsort(list, count, sizeof(*list), compare_image);
	error = bases_read_sorted(overlay, list, count);
	free(list);
	return error;
}

/* ---- Apply and judge ---- */

static int compare_home(const void *a, const void *b)
{
	const struct home *x = a, *y = b;

	if (x->block != y->block)
		return x->block < y->block ? -1 : 1;
	return x->lsn < y->lsn ? -1 : x->lsn > y->lsn;
}

/* Give each image its run of announcements. */
static void homes_sort(struct ash_overlay *overlay)
{
	size_t end;

	if (overlay->home_count)
		qsort(overlay->homes, overlay->home_count, sizeof(*overlay->homes), compare_home);
	for (size_t i = 0; i < overlay->home_count; i = end) {
		struct image *image = image_find(overlay, overlay->homes[i].block);

		for (end = i; end < overlay->home_count && overlay->homes[end].block == overlay->homes[i].block;)
			end++;
		if (!image)
			continue;
		image->homes = i;
		image->homes_end = end;
	}
}

/* Announcements of a suspect block whose LSN the image has reached; each is tested once. */
static void image_test(struct ash_overlay *overlay, struct image *image, uint64_t reached)
{
	uint8_t copy[ASH_BLOCK_SIZE] __attribute__((aligned(16)));

	for (; image->homes < image->homes_end && overlay->homes[image->homes].lsn <= reached; image->homes++) {
		memcpy(copy, image->bytes, sizeof(copy));
		ash_image_stamp(overlay->seed, image_type(copy), 0, copy);
		if (ash_image_crc(overlay->seed, copy) == overlay->homes[image->homes].crc) {
			image->suspect = false;
			image->bad_records = 0;
			return;
		}
	}
}

static void image_format(const struct ash_overlay *overlay, struct image *image, uint32_t type, uint64_t owner)
{
	struct ash_block_header *header = (void *)image->bytes;

	memset(image->bytes, 0, ASH_BLOCK_SIZE);
	image->suspect = false;
	image->bad_records = 0;
	if (!is_header_magic(type))
		return;
	header->magic = ash_put32(type);
	header->address = ash_put64(image->block);
	header->owner = ash_put64(owner);
	memcpy(header->metadata_uuid, overlay->uuid, 16);
}

static int orphan_change(struct ash_overlay *overlay, uint64_t ino, uint64_t lsn, bool add)
{
	int error = add ? ash_orphan_set_room(&overlay->orphan_set, 1) : 0;

	if (!error)
		ash_orphan_set_change(&overlay->orphan_set, ino, lsn, add);
	return error;
}

static void orphans_reset(struct ash_orphan_set *set)
{
	free(set->slots);
	*set = (struct ash_orphan_set){ 0 };
}

static int orphans_list(struct ash_overlay *overlay)
{
	const struct ash_orphan_set *set = &overlay->orphan_set;
	size_t count = 0;

	if (!set->count)
		return 0;
	overlay->orphans = malloc(set->count * sizeof(*overlay->orphans));
	if (!overlay->orphans)
		return -ENOMEM;
	for (size_t i = 0; i < set->slot_count; i++)
		if (set->slots[i].ino)
			overlay->orphans[count++] = set->slots[i].ino;
	return 0;
}

static int apply(struct ash_overlay *overlay, const struct record *record, const struct ash_log_item *item,
		 const uint8_t *tail, void *context)
{
	uint64_t block = ash_get64(item->block);
	uint32_t value = ash_get32(item->value);
	struct image *image;
	uint8_t *bits;

	(void)context;
	if (item->kind == ASH_LOG_ORPHAN_ADD || item->kind == ASH_LOG_ORPHAN_DEL)
		return orphan_change(overlay, block, record->lsn, item->kind == ASH_LOG_ORPHAN_ADD);
	if (item->kind == ASH_LOG_ORPHAN_RESET)
		orphans_reset(&overlay->orphan_set);
	if (item->kind > ASH_LOG_BITS_CLEAR || revoked(overlay, block, record->lsn))
		return 0;
	image = image_find(overlay, block);
	if (image->suspect)
		image_test(overlay, image, record->lsn);
	image->last_lsn = record->end_lsn;
	bits = image->bytes + offsetof(struct ash_bitmap_block, bits);
	switch (item->kind) {
	case ASH_LOG_BYTES:
		memcpy(image->bytes + value, tail, ash_get16(item->length));
		break;
	case ASH_LOG_FORMAT:
		image_format(overlay, image, value, tail64(tail));
		break;
	default:
		ash_bits_change(bits, value, tail32(tail), item->kind == ASH_LOG_BITS_SET);
	}
	return 0;
}

static int images_finish(struct ash_overlay *overlay)
{
	int error = 0;

	for (size_t i = 0; i < overlay->bucket_count; i++) {
		for (struct image *image = overlay->buckets[i]; image; image = image->next) {
			if (image->suspect)
				image_test(overlay, image, UINT64_MAX);
			if (image->suspect) {
				error = array_room((void **)&overlay->damaged, overlay->damaged_count,
						   &overlay->damaged_room, sizeof(*overlay->damaged));
				if (error)
					return error;
				overlay->damaged[overlay->damaged_count++] = image->block;
			}
			/* a block with a header that stays suspect keeps its bad checksum */
			if (!image->suspect || image_type(image->bytes) == ASH_TYPE_INODE_TABLE)
				ash_image_stamp(overlay->seed, image_type(image->bytes), image->bad_records,
						image->bytes);
		}
	}
	return error;
}

static int count_record(struct ash_overlay *overlay, const struct record *record, void *context)
{
	(void)context;
	overlay->info.records++;
	overlay->info.bytes += record->length;
	return 0;
}

static int replay(struct ash_overlay *overlay)
{
	int error = control_read(overlay);

	if (!error)
		error = chain_read(overlay);
	if (!error)
		error = records_each(overlay, count_record, NULL);
	if (!error)
		error = items_each(overlay, collect, NULL);
	if (!error)
		error = items_each(overlay, collect_images, NULL);
	if (!error)
		error = bases_read(overlay);
	if (!error) {
		homes_sort(overlay);
		error = items_each(overlay, apply, NULL);
	}
	if (!error)
		error = images_finish(overlay);
	if (!error)
		error = orphans_list(overlay);
	if (!error)
		overlay->info.clean = ash_get32(overlay->info.control.clean) == 1 && overlay->block_total == 0;
	return error;
}

/* ---- The overlay ---- */

int ash_overlay_open(struct bdev *dev, const struct ash_super *super, struct ash_overlay **out, char *error_text)
{
	struct ash_overlay *overlay = calloc(1, sizeof(*overlay));
	int error;

	*out = NULL;
	if (!overlay)
		return -ENOMEM;
	overlay->dev = dev;
	overlay->error = error_text;
	/* records of a volume that was grown and not checkpointed go beyond what the superblock at home says */
	overlay->block_count = bdev_geometry(dev)->size / ASH_BLOCK_SIZE;
	overlay->log_start = ash_get64(super->log_start);
	overlay->log_blocks = ash_get64(super->log_blocks);
	overlay->seed = ash_get32(super->checksum_seed);
	memcpy(overlay->uuid, super->header.metadata_uuid, 16);
	if (overlay->log_blocks < 3 || overlay->log_blocks > ASH_LOG_MAX_BLOCKS ||
	    overlay->log_start >= overlay->block_count ||
	    overlay->log_blocks > overlay->block_count - overlay->log_start) {
		free(overlay);
		return -EUCLEAN;
	}
	overlay->ring_blocks = overlay->log_blocks - 2;
	error = replay(overlay);
	if (error) {
		ash_overlay_close(overlay);
		return error;
	}
	overlay->error = NULL;
	*out = overlay;
	return 0;
}

void ash_overlay_close(struct ash_overlay *overlay)
{
	if (!overlay)
		return;
	for (size_t i = 0; i < overlay->bucket_count; i++) {
		while (overlay->buckets[i]) {
			struct image *image = overlay->buckets[i];

			overlay->buckets[i] = image->next;
			bdev_buffer_free(image->bytes, ASH_BLOCK_SIZE);
			free(image);
		}
	}
	free(overlay->buckets);
	free(overlay->stream);
	free(overlay->blocks);
	free(overlay->revokes);
	free(overlay->homes);
	free(overlay->orphan_set.slots);
	free(overlay->orphans);
	free(overlay->damaged);
	free(overlay);
}

const struct ash_overlay_info *ash_overlay_info(const struct ash_overlay *overlay)
{
	return &overlay->info;
}

const uint8_t *ash_overlay_block(const struct ash_overlay *overlay, uint64_t block)
{
	const struct image *image = image_find(overlay, block);

	return image ? image->bytes : NULL;
}

void ash_overlay_orphans(const struct ash_overlay *overlay, const uint64_t **list, size_t *count)
{
	*list = overlay->orphans;
	*count = overlay->orphan_set.count;
}

void ash_overlay_damaged(const struct ash_overlay *overlay, const uint64_t **blocks, size_t *count)
{
	*blocks = overlay->damaged;
	*count = overlay->damaged_count;
}

int ash_overlay_each(const struct ash_overlay *overlay,
		     int (*each)(void *context, uint64_t block, const uint8_t *image), void *context)
{
	int result = 0;

	for (size_t i = 0; !result && i < overlay->bucket_count; i++)
		for (const struct image *image = overlay->buckets[i]; !result && image; image = image->next)
			result = each(context, image->block, image->bytes);
	return result;
}

struct view_walk {
	int (*each)(void *context, const struct ash_log_view *view);
	void *context;
};

static int record_view(struct ash_overlay *overlay, const struct record *record, void *context)
{
	const struct view_walk *walk = context;
	struct ash_log_view view = {
		.lsn = record->lsn,
		.position = ash_lsn_position(record->lsn),
		.length = record->length,
		.items = record->items,
		.record = record->bytes,
	};

	(void)overlay;
	return walk->each(walk->context, &view);
}

int ash_overlay_each_record(const struct ash_overlay *overlay,
			    int (*each)(void *context, const struct ash_log_view *view), void *context)
{
	struct view_walk walk = { each, context };

	/* the walk changes nothing; its callbacks during replay do */
	return records_each((struct ash_overlay *)overlay, record_view, &walk);
}

/* ---- Mount ---- */

static int log_sizes(struct ash_volume *volume, struct ash_log *log)
{
	uint64_t memory;

	log->blocks = volume->log_blocks - 2;
	log->first_block = volume->log_start + 2;
	/* a transaction is at most an eighth of the log; the memory ring holds several and the system reserve */
	memory = log->blocks < 4096 ? log->blocks : 4096;
	log->memory_blocks = memory;
	log->checkpoint_reserve = log->blocks / 8;
	log->system_reserve = log->blocks / 16 < 64 ? log->blocks / 16 : 64;
	log->dirty_limit = log->checkpoint_reserve * ASH_LOG_PAYLOAD / 24 / 4;
	if (log->dirty_limit > ash_cache_limit(volume) / 2)
		log->dirty_limit = ash_cache_limit(volume) / 2;
	log->memory = bdev_buffer_alloc(memory * ASH_BLOCK_SIZE);
	log->batch = bdev_buffer_alloc((size_t)ASH_CHECKPOINT_BATCH * ASH_BLOCK_SIZE);
	log->crc = calloc(log->blocks, sizeof(*log->crc));
	if (!log->memory || !log->batch || !log->crc)
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

static int image_to_cache(struct ash_volume *volume, const struct image *image)
{
	const struct ash_block_header *header = (const void *)image->bytes;
	uint32_t type = image_type(image->bytes);
	struct ash_block_id id = { image->block, type, type == ASH_TYPE_INODE_TABLE ? 0 : ash_get64(header->owner) };
	struct ash_buffer *buffer;
	int error;

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
		for (const struct image *image = overlay->buckets[i]; !error && image; image = image->next)
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
