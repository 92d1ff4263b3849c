/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * An overlay while it is made (recover.h). Shared by recover.c, replay_scan.c, replay_image.c, and by log_mount.c, which
 * takes a finished one over; nothing else includes this.
 *
 * Legal order: control, chain; then the records and items as often as wanted; images are added before the base is read;
 * announcements are sorted before the first image is tested; the end of it is ash_replay_images_finish().
 *
 * Locking: none. One thread makes an overlay; a finished one is constant. All of these may block in device reads.
 * Errors: 0, or a negative errno: -EUCLEAN with a text when the log is damaged, -ENOMEM, or what the device says.
 * Items reach their callback unchecked but for their length; who takes them looks at the rest (I8).
 */
#ifndef FS_REPLAY_H
#define FS_REPLAY_H

#include "engine.h"
#include "recover.h"

/* A block that the log changes. */
struct ash_replay_image {
	struct ash_replay_image *next; /* of its bucket */
	uint64_t block;
	uint64_t first_lsn, last_lsn;
	uint8_t *bytes;
	uint32_t bad_records;    /* of the home content, inode table only */
	size_t homes, homes_end; /* announcements of this block, by LSN, that were not tested yet */
	bool needs_base, suspect;
	bool lost; /* the home content cannot be read: bytes that no record holds are zero, and mean nothing */
};

/* The announcement of a home write. */
struct ash_replay_home {
	uint64_t block, lsn;
	uint32_t crc;
};

struct ash_replay_revoke {
	uint64_t block, lsn; /* block 0: empty slot (block 0 is never freed) */
};

struct ash_replay_log_block {
	uint64_t epoch;
	size_t start; /* in the stream */
	uint32_t used, crc;
};

struct ash_overlay {
	struct bdev *dev;
	struct ash_overlay_info info;
	bool control_lost; /* only one control block is good */
	bool end_lost;     /* the block at the end of the chain cannot be read */
	uint64_t block_count, log_start, log_blocks, ring_blocks;
	uint64_t super_block; /* where the superblock that led here was read */
	uint32_t seed;
	uint8_t uuid[16];
	uint8_t *stream; /* the payload of all log blocks */
	size_t stream_length, stream_room;
	struct ash_replay_log_block *blocks; /* from the tail position on */
	uint64_t block_total;
	struct ash_replay_image **buckets;
	size_t bucket_count, image_count;
	struct ash_replay_revoke *revokes;
	size_t revoke_slots, revoke_count;
	struct ash_replay_home *homes;
	size_t home_count, home_room;
	uint64_t revoke_total; /* blocks named by revoke items, repeated ones too */
	uint64_t multiplier;   /* of the tables of images and revokes: ash_hash_slot() */
	struct ash_orphan_set orphan_set;
	uint64_t *orphans; /* the numbers of the set, made at the end */
	uint64_t *damaged;
	size_t damaged_count, damaged_room;
	uint64_t *lost;
	size_t lost_count, lost_room;
	uint64_t *unreadable; /* of the log itself: control blocks, then those of the ring */
	size_t unreadable_count, unreadable_room, unreadable_controls;
	char *error;
};

/* ---- recover.c ---- */

/* Say that the log is damaged and how. Returns -EUCLEAN. */
int ash_replay_damage(struct ash_overlay *overlay, const char *what);
/* Grow an array of `size`-byte elements to hold one more. 0 or -ENOMEM. */
int ash_replay_array_room(void **array, size_t count, size_t *room, size_t size);
/* A block behind the end of such an array. 0 or -ENOMEM. */
int ash_replay_list_add(uint64_t **list, size_t *count, size_t *room, uint64_t block);
/*
 * `count` blocks from `first` on in one request and, when that fails, each on its own: one bad sector costs one block. That
 * is zero then, which no block of ours is, and has its flag in `bad`. An error: the place is not to blame.
 */
int ash_replay_blocks_read(struct ash_overlay *overlay, uint64_t first, uint64_t count, uint8_t *memory, bool *bad);

/* ---- replay_scan.c ---- */

struct ash_replay_record {
	const uint8_t *bytes;
	uint32_t length, items;
	uint64_t lsn;     /* of its first byte */
	uint64_t end_lsn; /* as ash_log_append_lsn() said after it */
};

/* Both return nonzero to end the walk, which returns that. `tail`: the item's bytes, as many as its length says. */
typedef int (*ash_replay_record_each)(struct ash_overlay *overlay, const struct ash_replay_record *record,
				      void *context);
typedef int (*ash_replay_item_each)(struct ash_overlay *overlay, const struct ash_replay_record *record,
				    const struct ash_log_item *item, const uint8_t *tail, void *context);

/* The control block that rules, into info. */
int ash_replay_control_read(struct ash_overlay *overlay);
/* The log's blocks from the tail to the end, into stream and blocks. */
int ash_replay_chain_read(struct ash_overlay *overlay);
/* The complete records, in order. */
int ash_replay_records_each(struct ash_overlay *overlay, ash_replay_record_each each, void *context);
int ash_replay_items_each(struct ash_overlay *overlay, ash_replay_item_each each, void *context);

/* ---- replay_image.c ---- */

/* NULL when the log does not change the block. */
struct ash_replay_image *ash_replay_image_find(const struct ash_overlay *overlay, uint64_t block);
/* A zeroed image of a block that has none, first changed by the record at `lsn`. */
int ash_replay_image_add(struct ash_overlay *overlay, uint64_t block, uint64_t lsn, struct ash_replay_image **out);
/* The magic of a block with a header, else ASH_TYPE_INODE_TABLE. */
uint32_t ash_replay_image_type(const uint8_t *bytes);
/* Home content of the images that need it; those where it is bad become suspect, or lost when it cannot be read. */
int ash_replay_bases_read(struct ash_overlay *overlay);
/* Give each image its run of announcements. */
void ash_replay_homes_sort(struct ash_overlay *overlay);
/* Announcements of a suspect block whose LSN the image has reached; each is tested once. */
void ash_replay_image_test(struct ash_overlay *overlay, struct ash_replay_image *image, uint64_t reached);
/* The image of a block that is new to its use. */
void ash_replay_image_format(const struct ash_overlay *overlay, struct ash_replay_image *image, uint32_t type,
			     uint64_t owner);
/* The last verdicts, the lists of damaged and lost blocks, checksums. */
int ash_replay_images_finish(struct ash_overlay *overlay);

#endif
