/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Reading blocks for a scrub: from the device, because a good copy in memory proves nothing about it, and without ever
 * taking a home write on its way, or content that only memory has by now, for damage.
 *
 * A block is quiet while it is not cached, or cached and clean. Only a home write changes the device under it, and that
 * needs a dirty buffer first. So a read between two looks that both find the block quiet, with no record in between, is a
 * read of what the last home write left. Then it must have its checksum, be what it is taken for, and, when a clean buffer
 * is at hand, hold exactly the buffer's bytes: a home write that never arrived has a good checksum, too.
 * A buffer's bytes are compared as they are committed; those of the group table without its counts, which are not logged.
 *
 * A block new to its use is neither: but nothing that is committed leads to one before it is dirty.
 *
 * Nothing goes through the cache, so that a scrub does not push out what others use.
 *
 * Locks: log.lock -> buffer.lock -> shard lock for a moment, none over a read. The caller may hold owner locks.
 */
#include "scrub.h"

#include "engine.h"

#define TRIES 6
#define RUN_BITMAPS (1ull << 63) /* in scrub.bitmaps: the bitmap is that of an inode run */

/* What memory knows of a block at one moment; holds a reference. */
struct look {
	struct ash_buffer *buffer; /* NULL: not cached */
	uint64_t lsn;              /* of the last record that touched it */
	bool newer;                /* than the device: to be written, or being written */
};

/* ---- Memory ---- */

static struct look look_take(struct ash_volume *volume, uint64_t block)
{
	struct look look = { .buffer = ash_buffer_peek(volume, block) };

	if (!look.buffer)
		return look;
	pthread_mutex_lock(&volume->log->lock);
	look.lsn = look.buffer->last_lsn;
	/* first_lsn does not tell: the first record of a new volume lies at 0 */
	look.newer = atomic_load(&look.buffer->dirty) || look.buffer->writing || look.buffer->dead;
	pthread_mutex_unlock(&volume->log->lock);
	return look;
}

static void look_put(struct ash_volume *volume, struct look *look)
{
	if (look->buffer)
		ash_buffer_put(volume, look->buffer);
}

static bool quiet_between(const struct look *before, const struct look *after)
{
	if (before->newer || after->newer)
		return false;
	/* the reference keeps a buffer from being evicted and read again */
	return before->buffer ? before->buffer == after->buffer && before->lsn == after->lsn : !after->lsn;
}

void scrub_committed(struct ash_buffer *buffer, uint8_t *image)
{
	ash_lock(&buffer->lock);
	memcpy(image, buffer->data, ASH_BLOCK_SIZE);
	for (const struct ash_undo *undo = buffer->undo; undo; undo = undo->buffer_next)
		ash_undo_apply(undo, image);
	ash_unlock(&buffer->lock);
}

/* A block as memory has it: its checksum means nothing there. */
static struct scrub_home judge_memory(struct scrub *scrub, struct ash_block_id id, struct ash_buffer *buffer,
				      uint8_t *image)
{
	struct scrub_home home = { .newer = true };

	scrub_committed(buffer, image);
	if (id.type == ASH_TYPE_INODE_TABLE)
		home.bad_records = atomic_load(&buffer->bad_records) |
				   ash_records_wrong(scrub->volume, id, image, false);
	else
		home.wrong = ash_header_wrong(scrub->volume, id, image, false);
	home.usable = !home.wrong;
	return home;
}

/* ---- Device ---- */

int scrub_device_read(struct scrub *scrub, void *data, uint64_t block, uint32_t count)
{
	struct ash_volume *volume = scrub->volume;
	int error;

	ash_wait_begin(volume);
	error = bdev_read(volume->dev, data, (size_t)count * ASH_BLOCK_SIZE, block * ASH_BLOCK_SIZE);
	ash_wait_end(volume);
	if (error == -ENOMEM)
		scrub->error = error;
	return error;
}

/* Records of the device that are not those of a clean buffer. */
static uint32_t records_differ(const uint8_t *image, const uint8_t *committed)
{
	uint32_t differ = 0;

	for (uint32_t i = 0; i < ASH_INODES_PER_BLOCK; i++)
		if (memcmp(image + i * ASH_INODE_SIZE, committed + i * ASH_INODE_SIZE, ASH_INODE_SIZE))
			differ |= 1u << i;
	return differ;
}

static struct scrub_home judge_device(struct scrub *scrub, struct ash_block_id id, struct ash_buffer *buffer,
				      const uint8_t *image)
{
	struct ash_volume *volume = scrub->volume;
	uint32_t length = id.type == ASH_MAGIC_GROUP_TABLE ? ASH_GROUP_TABLE_CRC_LENGTH : ASH_BLOCK_SIZE;
	struct scrub_home home = { 0 };

	if (buffer) {
		scrub_committed(buffer, scrub->committed);
		ash_image_stamp(volume->checksum_seed, id.type, atomic_load(&buffer->bad_records), scrub->committed);
	}
	if (id.type == ASH_TYPE_INODE_TABLE) {
		home.bad_records = ash_records_wrong(volume, id, image, true);
		if (buffer)
			home.bad_records |= records_differ(image, scrub->committed);
		home.usable = true;
		return home;
	}
	home.wrong = ash_header_wrong(volume, id, image, true);
	if (!home.wrong && buffer && memcmp(image, scrub->committed, length))
		home.wrong = "not what was written last";
	home.usable = !home.wrong;
	return home;
}

static bool is_bad(const struct scrub_home *home)
{
	return home->wrong || home->bad_records;
}

/* One try: 1 with a verdict on the device, 0 when the block was not quiet. */
static int home_try(struct scrub *scrub, struct ash_block_id id, uint8_t *image, struct scrub_home *home)
{
	struct ash_volume *volume = scrub->volume;
	struct look before = look_take(volume, id.block), after;
	int result = 1, error;

	if (before.newer) {
		*home = judge_memory(scrub, id, before.buffer, image);
		look_put(volume, &before);
		return 1;
	}
	error = scrub_device_read(scrub, image, id.block, 1);
	after = look_take(volume, id.block);
	if (!quiet_between(&before, &after)) {
		result = 0;
	} else if (error == -ENOMEM) {
		*home = (struct scrub_home){ .newer = true };
	} else if (error) {
		*home = (struct scrub_home){ .wrong = "cannot be read" };
	} else {
		*home = judge_device(scrub, id, after.buffer, image);
	}
	/* what memory has is still good for a look into what lies below */
	if (result && home->wrong && after.buffer)
		home->usable = judge_memory(scrub, id, after.buffer, image).usable;
	look_put(volume, &before);
	look_put(volume, &after);
	return result;
}

struct scrub_home scrub_home(struct scrub *scrub, struct ash_block_id id, uint8_t *image)
{
	struct scrub_home home = { .newer = true };
	unsigned bad = 0;

	if (id.block >= scrub->volume->block_count)
		return (struct scrub_home){ .wrong = "address outside the volume" };
	for (unsigned i = 0; i < TRIES; i++) {
		int verdict = home_try(scrub, id, image, &home);

		if (verdict && (home.newer || !is_bad(&home) || ++bad == 2))
			return home;
	}
	/* Changed and written home under each read: then somebody else has just read it. */
	return (struct scrub_home){ .newer = true };
}

void scrub_home_records(struct scrub *scrub, struct ash_block_id first, uint32_t count, struct scrub_home *homes,
			uint8_t *images)
{
	struct look before[SCRUB_AHEAD];
	int error;

	for (uint32_t i = 0; i < count; i++)
		before[i] = look_take(scrub->volume, first.block + i);
	error = scrub_device_read(scrub, images, first.block, count);
	for (uint32_t i = 0; i < count; i++) {
		struct ash_block_id id = { first.block + i, first.type, first.owner + i * ASH_INODES_PER_BLOCK };
		struct look after = look_take(scrub->volume, id.block);
		uint8_t *image = images + (size_t)i * ASH_BLOCK_SIZE;
		bool good = !error && quiet_between(&before[i], &after);

		if (good) {
			homes[i] = judge_device(scrub, id, after.buffer, image);
			good = !is_bad(&homes[i]);
		}
		look_put(scrub->volume, &before[i]);
		look_put(scrub->volume, &after);
		if (!good)
			homes[i] = scrub_home(scrub, id, image);
	}
}

/* ---- Bitmaps ---- */

static bool bits_all_set(const uint8_t *bits, uint32_t first, uint32_t count)
{
	for (uint32_t bit = first; bit < first + count;) {
		if (bit % 8 == 0 && first + count - bit >= 8 && bits[bit / 8] == 0xff)
			bit += 8;
		else if (bits[bit / 8] >> bit % 8 & 1)
			bit++;
		else
			return false;
	}
	return true;
}

/* A bitmap that is not cached, as kept in this step; NULL: it cannot be had. */
static const uint8_t *bitmap_kept(struct scrub *scrub, struct ash_block_id id, uint64_t name)
{
	unsigned slot = scrub->next_bitmap;

	for (unsigned i = 0; i < SCRUB_BITMAPS; i++)
		if (scrub->bitmaps[i].group == name)
			return scrub->bitmaps[i].data;
	scrub->bitmaps[slot].group = UINT64_MAX;
	if (!scrub_home(scrub, id, scrub->bitmaps[slot].data).usable)
		return NULL;
	scrub->bitmaps[slot].group = name;
	scrub->next_bitmap = (slot + 1) % SCRUB_BITMAPS;
	return scrub->bitmaps[slot].data;
}

/* Bits of what somebody owns do not change while he does, so a look at the cached block will do. */
static bool bitmap_has(struct scrub *scrub, struct ash_block_id id, uint64_t name, uint32_t first, uint32_t count)
{
	struct ash_buffer *buffer = ash_buffer_peek(scrub->volume, id.block);
	const uint8_t *block;
	bool all;

	if (!buffer) {
		block = bitmap_kept(scrub, id, name);
		return !block || bits_all_set(((const struct ash_bitmap_block *)block)->bits, first, count);
	}
	ash_lock(&buffer->lock);
	all = bits_all_set(((const struct ash_bitmap_block *)buffer->data)->bits, first, count);
	ash_unlock(&buffer->lock);
	ash_buffer_put(scrub->volume, buffer);
	return all;
}

bool scrub_group_uninit(struct scrub *scrub, uint64_t group)
{
	const struct ash_group_table_block *table = (const void *)scrub->committed;

	scrub_committed(ash_alloc_table(scrub->volume, group), scrub->committed);
	return ash_get32(table->flags[group % ASH_GROUPS_PER_TABLE_BLOCK]) & ASH_GROUP_UNINIT;
}

const char *scrub_extent_wrong(struct scrub *scrub, struct ash_extent extent)
{
	struct ash_volume *volume = scrub->volume;

	if (!extent.start || !extent.count || extent.start >= volume->block_count ||
	    extent.count > volume->block_count - extent.start)
		return "extent outside of the volume";
	if (ash_is_fixed(volume, extent))
		return "extent covers blocks of the volume's own structure";
	while (extent.count) {
		uint64_t group = extent.start / ASH_BLOCKS_PER_GROUP;
		uint32_t first = extent.start % ASH_BLOCKS_PER_GROUP, count = ASH_BLOCKS_PER_GROUP - first;
		struct ash_block_id id = { ash_group_bitmap(group), ASH_MAGIC_BLOCK_BITMAP, group };

		if (count > extent.count)
			count = (uint32_t)extent.count;
		if (scrub_group_uninit(scrub, group))
			return "extent in a group that was never used";
		if (!bitmap_has(scrub, id, group, first, count))
			return "extent is free in the bitmap";
		extent.start += count;
		extent.count -= count;
	}
	return NULL;
}

bool scrub_inode_in_use(struct scrub *scrub, uint64_t ino)
{
	uint64_t run = ino / scrub->volume->inodes_per_run;
	struct ash_block_id id;

	if (!ash_itable_bitmap(scrub->volume, run, &id))
		return false;
	return bitmap_has(scrub, id, run | RUN_BITMAPS, (uint32_t)(ino % scrub->volume->inodes_per_run), 1);
}

int64_t scrub_cached_mode(struct scrub *scrub, uint64_t ino)
{
	struct ash_volume *volume = scrub->volume;
	const struct ash_inode *record;
	struct ash_buffer *buffer = NULL;
	struct ash_block_id id;
	int64_t mode = -1;
	uint32_t offset;
	int result;

	if (!ash_itable_bitmap(volume, ino / volume->inodes_per_run, &id))
		return 0;
	buffer = ash_buffer_peek(volume, id.block); /* else locating the record would read the bitmap */
	if (!buffer)
		return -1;
	ash_buffer_put(volume, buffer);
	result = ash_itable_locate(volume, ino, &id, &offset);
	if (result)
		return result == -ESTALE ? 0 : -1;
	buffer = ash_buffer_peek(volume, id.block);
	if (!buffer)
		return -1;
	scrub_committed(buffer, scrub->committed);
	record = (const void *)(scrub->committed + offset);
	if (!(atomic_load(&buffer->bad_records) & 1u << offset / ASH_INODE_SIZE))
		mode = ash_get32(record->magic) == ASH_MAGIC_INODE ? ash_get32(record->mode) : 0;
	ash_buffer_put(volume, buffer);
	return mode;
}

void scrub_forget(struct scrub *scrub)
{
	for (unsigned i = 0; i <= ASH_TREE_MAX_LEVEL; i++)
		scrub->path[i].block = 0;
	for (unsigned i = 0; i < SCRUB_BITMAPS; i++)
		scrub->bitmaps[i].group = UINT64_MAX;
}
