/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The blocks that the log changes, as images in memory (replay.h): a hash table by block number; their home content;
 * the verdict on home content that is bad.
 *
 *   base    read the home content of every block that is not formatted by the log itself
 *   judge   a block whose home content was bad is accepted only if its image at the LSN of an announcement
 *           had the announced checksum (a torn home write); else it is damage and stays as it is (I8).
 *           Home content that cannot be read is judged likewise, but what fails is lost: it has no image
 *
 * Single-threaded while it replays; constant, and so free to look at from any thread, when the overlay is finished.
 */
#include "replay.h"

#include <stdlib.h>

/* ---- The table ---- */

struct ash_replay_image *ash_replay_image_find(const struct ash_overlay *overlay, uint64_t block)
{
	struct ash_replay_image *image =
		overlay->bucket_count ?
			overlay->buckets[ash_hash_slot(overlay->multiplier, block, overlay->bucket_count)] :
			NULL;

	while (image && image->block != block)
		image = image->next;
	return image;
}

static int buckets_grow(struct ash_overlay *overlay)
{
	size_t old_count = overlay->bucket_count;
	struct ash_replay_image **old = overlay->buckets;

	overlay->bucket_count = old_count ? old_count * 4 : 256;
	overlay->buckets = calloc(overlay->bucket_count, sizeof(*old));
	if (!overlay->buckets) {
		overlay->buckets = old;
		overlay->bucket_count = old_count;
		return -ENOMEM;
	}
	for (size_t i = 0; i < old_count; i++) {
		while (old[i]) {
			struct ash_replay_image *image = old[i];
			size_t bucket = ash_hash_slot(overlay->multiplier, image->block, overlay->bucket_count);

			old[i] = image->next;
			image->next = overlay->buckets[bucket];
			overlay->buckets[bucket] = image;
		}
	}
	free(old);
	return 0;
}

int ash_replay_image_add(struct ash_overlay *overlay, uint64_t block, uint64_t lsn, struct ash_replay_image **out)
{
	struct ash_replay_image *image;
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
	bucket = ash_hash_slot(overlay->multiplier, block, overlay->bucket_count);
	image->next = overlay->buckets[bucket];
	overlay->buckets[bucket] = image;
	overlay->image_count++;
	*out = image;
	return 0;
}

/* ---- Base ---- */

static bool is_header_magic(uint32_t magic)
{
	return magic == ASH_MAGIC_SUPER || magic == ASH_MAGIC_GROUP_TABLE || magic == ASH_MAGIC_BLOCK_BITMAP ||
	       magic == ASH_MAGIC_INODE_BITMAP || magic == ASH_MAGIC_TREE_NODE;
}

uint32_t ash_replay_image_type(const uint8_t *bytes)
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

static void image_judge_base(struct ash_overlay *overlay, struct ash_replay_image *image)
{
	const struct ash_block_header *header = (const void *)image->bytes;

	if (ash_replay_image_type(image->bytes) == ASH_TYPE_INODE_TABLE) {
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
	uint64_t x = (*(struct ash_replay_image *const *)a)->block, y = (*(struct ash_replay_image *const *)b)->block;

	return x < y ? -1 : x > y;
}

/*
 * Without content there is not even a type: only an announcement, or a format, can make a whole block of what the log
 * holds.
 */
static int base_read_alone(struct ash_overlay *overlay, struct ash_replay_image *image)
{
	int error = ash_replay_blocks_read(overlay, image->block, 1, image->bytes, &image->lost);

	image->suspect = image->lost;
	if (!error && !image->lost)
		image_judge_base(overlay, image);
	return error;
}

/* Neighbours, in one read if that can be done. */
static int run_read(struct ash_overlay *overlay, struct ash_replay_image **list, const struct iovec *iov, int count)
{
	int error = bdev_readv(overlay->dev, iov, count, list[0]->block * ASH_BLOCK_SIZE);
	bool each = ash_unreadable(error);

	if (each)
		error = 0;
	for (int i = 0; !error && i < count; i++) {
		if (each)
			error = base_read_alone(overlay, list[i]);
		else
			image_judge_base(overlay, list[i]);
	}
	return error;
}

/* Home content in address order. */
static int bases_read_sorted(struct ash_overlay *overlay, struct ash_replay_image **list, size_t count)
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
		error = run_read(overlay, list + i, iov, run);
		i += (size_t)run;
	}
	return error;
}

int ash_replay_bases_read(struct ash_overlay *overlay)
{
	struct ash_replay_image **list = malloc((overlay->image_count + 1) * sizeof(*list));
	size_t count = 0;
	int error;

	if (!list)
		return -ENOMEM;
	for (size_t i = 0; i < overlay->bucket_count; i++)
		for (struct ash_replay_image *image = overlay->buckets[i]; image; image = image->next)
			if (image->needs_base)
				list[count++] = image;
	qsort(list, count, sizeof(*list), compare_image);
	error = bases_read_sorted(overlay, list, count);
	free(list);
	return error;
}

/* ---- Judge ---- */

static int compare_home(const void *a, const void *b)
{
	const struct ash_replay_home *x = a, *y = b;

	if (x->block != y->block)
		return x->block < y->block ? -1 : 1;
	return x->lsn < y->lsn ? -1 : x->lsn > y->lsn;
}

/* Give each image its run of announcements. */
void ash_replay_homes_sort(struct ash_overlay *overlay)
{
	size_t end;

	if (overlay->home_count)
		qsort(overlay->homes, overlay->home_count, sizeof(*overlay->homes), compare_home);
	for (size_t i = 0; i < overlay->home_count; i = end) {
		struct ash_replay_image *image = ash_replay_image_find(overlay, overlay->homes[i].block);

		for (end = i; end < overlay->home_count && overlay->homes[end].block == overlay->homes[i].block;)
			end++;
		if (!image)
			continue;
		image->homes = i;
		image->homes_end = end;
	}
}

/* Announcements of a suspect block whose LSN the image has reached; each is tested once. */
void ash_replay_image_test(struct ash_overlay *overlay, struct ash_replay_image *image, uint64_t reached)
{
	uint8_t copy[ASH_BLOCK_SIZE] __attribute__((aligned(16)));

	for (; image->homes < image->homes_end && overlay->homes[image->homes].lsn <= reached; image->homes++) {
		memcpy(copy, image->bytes, sizeof(copy));
		ash_image_stamp(overlay->seed, ash_replay_image_type(copy), 0, copy);
		if (ash_image_crc(overlay->seed, copy) == overlay->homes[image->homes].crc) {
			image->suspect = image->lost = false;
			image->bad_records = 0;
			return;
		}
	}
}

void ash_replay_image_format(const struct ash_overlay *overlay, struct ash_replay_image *image, uint32_t type,
			     uint64_t owner)
{
	struct ash_block_header *header = (void *)image->bytes;

	memset(image->bytes, 0, ASH_BLOCK_SIZE);
	image->suspect = image->lost = false;
	image->bad_records = 0;
	if (!is_header_magic(type))
		return;
	header->magic = ash_put32(type);
	header->address = ash_put64(image->block);
	header->owner = ash_put64(owner);
	memcpy(header->metadata_uuid, overlay->uuid, 16);
}

static int image_finish(struct ash_overlay *overlay, struct ash_replay_image *image)
{
	uint32_t type;
	int error = 0;

	if (image->suspect)
		ash_replay_image_test(overlay, image, UINT64_MAX);
	if (image->lost)
		return ash_replay_list_add(&overlay->lost, &overlay->lost_count, &overlay->lost_room, image->block);
	if (image->suspect)
		error = ash_replay_list_add(&overlay->damaged, &overlay->damaged_count, &overlay->damaged_room,
					    image->block);
	type = ash_replay_image_type(image->bytes);
	/* a block with a header that stays suspect keeps its bad checksum */
	if (!image->suspect || type == ASH_TYPE_INODE_TABLE)
		ash_image_stamp(overlay->seed, type, image->bad_records, image->bytes);
	return error;
}

int ash_replay_images_finish(struct ash_overlay *overlay)
{
	int error = 0;

	for (size_t i = 0; !error && i < overlay->bucket_count; i++)
		for (struct ash_replay_image *image = overlay->buckets[i]; !error && image; image = image->next)
			error = image_finish(overlay, image);
	return error;
}
