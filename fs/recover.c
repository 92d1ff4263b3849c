/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Replay of the log into memory: the contract is in recover.h, the parts are in replay.h.
 *
 *   chain   read the log (replay_scan.c)
 *   collect revokes (block -> last record that voids) and home-write announcements
 *   base    read the home content of every block that is not formatted by the log itself (replay_image.c)
 *   apply   every item in order, bounds checked
 *   judge   blocks whose home content was bad: torn, and mended by the log, or damaged (replay_image.c)
 *
 * Single-threaded; the finished overlay is constant.
 */
#include "recover.h"
#include "replay.h"

#include <stdio.h>
#include <stdlib.h>

int ash_replay_damage(struct ash_overlay *overlay, const char *what)
{
	if (overlay->error)
		snprintf(overlay->error, BDEV_ERROR_TEXT, "the log is damaged (%s); run fsck.ashlar", what);
	return -EUCLEAN;
}

/* Grow an array of `size`-byte elements to hold one more. */
int ash_replay_array_room(void **array, size_t count, size_t *room, size_t size)
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

bool ash_unreadable(int error)
{
	return error && error != -ENOMEM && error != -ENODEV;
}

int ash_replay_blocks_read(struct ash_overlay *overlay, uint64_t first, uint64_t count, uint8_t *memory, bool *bad)
{
	int error = bdev_read(overlay->dev, memory, count * ASH_BLOCK_SIZE, first * ASH_BLOCK_SIZE);
	bool each = ash_unreadable(error);

	memset(bad, 0, count * sizeof(*bad));
	if (!each)
		return error;
	for (uint64_t i = 0; i < count; i++, memory += ASH_BLOCK_SIZE) {
		error = bdev_read(overlay->dev, memory, ASH_BLOCK_SIZE, (first + i) * ASH_BLOCK_SIZE);
		bad[i] = ash_unreadable(error);
		if (error && !bad[i])
			return error;
		if (bad[i])
			memset(memory, 0, ASH_BLOCK_SIZE);
	}
	return 0;
}

int ash_replay_list_add(uint64_t **list, size_t *count, size_t *room, uint64_t block)
{
	int error = ash_replay_array_room((void **)list, *count, room, sizeof(**list));

	if (!error)
		(*list)[(*count)++] = block;
	return error;
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

static struct ash_replay_revoke *revoke_slot(const struct ash_overlay *overlay, uint64_t block)
{
	size_t slot = ash_hash_slot(overlay->multiplier, block, overlay->revoke_slots);

	while (overlay->revokes[slot].block && overlay->revokes[slot].block != block)
		slot = (slot + 1) & (overlay->revoke_slots - 1);
	return &overlay->revokes[slot];
}

static int revoke_add(struct ash_overlay *overlay, uint64_t block, uint64_t lsn)
{
	struct ash_replay_revoke *slot;

	if ((overlay->revoke_count + 1) * 2 > overlay->revoke_slots) {
		struct ash_replay_revoke *old = overlay->revokes;
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
	*slot = (struct ash_replay_revoke){ block, lsn };
	return 0;
}

static bool revoked(const struct ash_overlay *overlay, uint64_t block, uint64_t lsn)
{
	const struct ash_replay_revoke *slot;

	if (!overlay->revoke_count)
		return false;
	slot = revoke_slot(overlay, block);
	return slot->block && lsn < slot->lsn;
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

static int collect(struct ash_overlay *overlay, const struct ash_replay_record *record, const struct ash_log_item *item,
		   const uint8_t *tail, void *context)
{
	uint64_t block = ash_get64(item->block);
	int error = 0;

	(void)context;
	if (!item_good(overlay, item, tail))
		return ash_replay_damage(overlay, "an item has impossible values");
	if (item->kind == ASH_LOG_REVOKE) {
		overlay->revoke_total += tail32(tail);
		if (overlay->revoke_total > REVOKES_MAX)
			return ash_replay_damage(overlay, "too many revokes");
		for (uint32_t i = 0; !error && i < tail32(tail); i++)
			error = revoke_add(overlay, block + i, record->lsn);
	} else if (item->kind == ASH_LOG_HOME) {
		error = ash_replay_array_room((void **)&overlay->homes, overlay->home_count, &overlay->home_room,
					      sizeof(*overlay->homes));
		if (!error)
			overlay->homes[overlay->home_count++] = (struct ash_replay_home){
				.block = block, .lsn = tail64(tail), .crc = ash_get32(item->value)
			};
	}
	return error;
}

/* Which blocks the log touches, and whether their home content matters: not if a format comes first. */
static int collect_images(struct ash_overlay *overlay, const struct ash_replay_record *record,
			  const struct ash_log_item *item, const uint8_t *tail, void *context)
{
	uint64_t block = ash_get64(item->block);
	struct ash_replay_image *image;
	int error;

	(void)tail;
	(void)context;
	if (item->kind != ASH_LOG_BYTES && item->kind != ASH_LOG_FORMAT && item->kind != ASH_LOG_BITS_SET &&
	    item->kind != ASH_LOG_BITS_CLEAR)
		return 0;
	if (revoked(overlay, block, record->lsn))
		return 0;
	image = ash_replay_image_find(overlay, block);
	if (image)
		return 0;
	error = ash_replay_image_add(overlay, block, record->lsn, &image);
	if (!error)
		image->needs_base = item->kind != ASH_LOG_FORMAT;
	return error;
}

/* ---- Apply ---- */

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
	size_t count;

	return ash_orphan_set_list(&overlay->orphan_set, &overlay->orphans, &count);
}

static int apply(struct ash_overlay *overlay, const struct ash_replay_record *record, const struct ash_log_item *item,
		 const uint8_t *tail, void *context)
{
	uint64_t block = ash_get64(item->block);
	uint32_t value = ash_get32(item->value);
	struct ash_replay_image *image;
	uint8_t *bits;

	(void)context;
	if (item->kind == ASH_LOG_ORPHAN_ADD || item->kind == ASH_LOG_ORPHAN_DEL)
		return orphan_change(overlay, block, record->lsn, item->kind == ASH_LOG_ORPHAN_ADD);
	if (item->kind == ASH_LOG_ORPHAN_RESET)
		orphans_reset(&overlay->orphan_set);
	if (item->kind > ASH_LOG_BITS_CLEAR || revoked(overlay, block, record->lsn))
		return 0;
	image = ash_replay_image_find(overlay, block);
	if (image->suspect)
		ash_replay_image_test(overlay, image, record->lsn);
	image->last_lsn = record->end_lsn;
	bits = image->bytes + offsetof(struct ash_bitmap_block, bits);
	switch (item->kind) {
	case ASH_LOG_BYTES:
		memcpy(image->bytes + value, tail, ash_get16(item->length));
		break;
	case ASH_LOG_FORMAT:
		ash_replay_image_format(overlay, image, value, tail64(tail));
		break;
	default:
		ash_bits_change(bits, value, tail32(tail), item->kind == ASH_LOG_BITS_SET);
	}
	return 0;
}

static int count_record(struct ash_overlay *overlay, const struct ash_replay_record *record, void *context)
{
	(void)context;
	overlay->info.records++;
	overlay->info.bytes += record->length;
	return 0;
}

/*
 * Where the chain ends, an unreadable block may be anything: dead, a write that the power cut, or one that was
 * acknowledged. Only the control block of a clean close vouches that nothing is there. When the other control block is
 * bad, that one may be too old, and any unreadable block may be the one that would have told (chain_end_check()).
 */
static void info_judge(struct ash_overlay *overlay)
{
	struct ash_overlay_info *info = &overlay->info;

	info->clean = ash_get32(info->control.clean) == 1 && overlay->block_total == 0;
	info->end_unknown = (overlay->end_lost && !info->clean) ||
			    (overlay->control_lost && overlay->unreadable_count > overlay->unreadable_controls);
}

static int replay(struct ash_overlay *overlay)
{
	int error = ash_replay_control_read(overlay);

	if (!error)
		error = ash_replay_chain_read(overlay);
	if (!error)
		error = ash_replay_records_each(overlay, count_record, NULL);
	if (!error)
		error = ash_replay_items_each(overlay, collect, NULL);
	if (!error)
		error = ash_replay_items_each(overlay, collect_images, NULL);
	if (!error)
		error = ash_replay_bases_read(overlay);
	if (!error) {
		ash_replay_homes_sort(overlay);
		error = ash_replay_items_each(overlay, apply, NULL);
	}
	if (!error)
		error = ash_replay_images_finish(overlay);
	if (!error)
		error = orphans_list(overlay);
	if (!error)
		info_judge(overlay);
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
	overlay->multiplier = ash_hash_multiplier();
	/* records of a volume that was grown and not checkpointed go beyond what the superblock at home says */
	overlay->block_count = bdev_geometry(dev)->size / ASH_BLOCK_SIZE;
	overlay->super_block = ash_get64(super->header.address);
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
			struct ash_replay_image *image = overlay->buckets[i];

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
	free(overlay->lost);
	free(overlay->unreadable);
	free(overlay);
}

const struct ash_overlay_info *ash_overlay_info(const struct ash_overlay *overlay)
{
	return &overlay->info;
}

const uint8_t *ash_overlay_block(const struct ash_overlay *overlay, uint64_t block)
{
	const struct ash_replay_image *image = ash_replay_image_find(overlay, block);

	return image && !image->lost ? image->bytes : NULL;
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

void ash_overlay_lost(const struct ash_overlay *overlay, const uint64_t **blocks, size_t *count)
{
	*blocks = overlay->lost;
	*count = overlay->lost_count;
}

bool ash_overlay_is_lost(const struct ash_overlay *overlay, uint64_t block)
{
	const struct ash_replay_image *image = overlay->lost_count ? ash_replay_image_find(overlay, block) : NULL;

	return image && image->lost;
}

void ash_overlay_unreadable(const struct ash_overlay *overlay, const uint64_t **ring, size_t *count,
			    size_t *control_count)
{
	*control_count = overlay->unreadable_controls;
	*count = overlay->unreadable_count - overlay->unreadable_controls;
	*ring = *count ? overlay->unreadable + overlay->unreadable_controls : NULL;
}

int ash_overlay_each(const struct ash_overlay *overlay,
		     int (*each)(void *context, uint64_t block, const uint8_t *image), void *context)
{
	int result = 0;

	for (size_t i = 0; !result && i < overlay->bucket_count; i++)
		for (const struct ash_replay_image *image = overlay->buckets[i]; !result && image; image = image->next)
			result = image->lost ? 0 : each(context, image->block, image->bytes);
	return result;
}

struct view_walk {
	int (*each)(void *context, const struct ash_log_view *view);
	void *context;
};

static int record_view(struct ash_overlay *overlay, const struct ash_replay_record *record, void *context)
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
	return ash_replay_records_each((struct ash_overlay *)overlay, record_view, &walk);
}
