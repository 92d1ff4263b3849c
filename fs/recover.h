/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Replay of the log into memory: metadata blocks as they are after the last complete record. Nothing is
 * written. The mount puts the images into its cache; fsck and read-only tools look through them.
 *
 * Nothing in the log is trusted: every item is checked for bounds before it is applied (I8).
 */
#ifndef FS_RECOVER_H
#define FS_RECOVER_H

#include <ashlar/blockdev.h>
#include <ashlar/format.h>
#include <stdbool.h>
#include <stdint.h>

struct ash_overlay;

struct ash_overlay_info {
	struct ash_log_control control; /* the one that rules */
	uint64_t end_position;          /* first position not in the log */
	uint64_t records, bytes;
	bool clean; /* control says so and no record follows */
	/* A block of the log that cannot be read may hold records behind the last one that was found. */
	bool end_unknown;
};

/*
 * Can the numbers of a control block be true, in a log of `ring_blocks` blocks behind the two control blocks? Header and
 * checksum are the caller's to check. What is refused here must not rule, for mount and fsck alike.
 */
bool ash_log_control_plausible(const struct ash_log_control *control, uint64_t ring_blocks);

/* May a read have failed with this because of the place that was read? Else memory is wanting, or the device is gone. */
bool ash_unreadable(int error);

/*
 * `super` is a checked superblock (any copy). -EUCLEAN with a text: the log is damaged. -ENOMEM, -ENODEV. Blocks that cannot
 * be read are no error: see below. With lost blocks or an unknown end the log is still needed as it is, and nothing may
 * be written before somebody has given them up.
 */
int ash_overlay_open(struct bdev *dev, const struct ash_super *super, struct ash_overlay **out, char *error);
void ash_overlay_close(struct ash_overlay *overlay);
const struct ash_overlay_info *ash_overlay_info(const struct ash_overlay *overlay);
/*
 * The replayed image of a block with right checksums, or NULL when the device's content is current, or the block is lost.
 * Thread-safe.
 */
const uint8_t *ash_overlay_block(const struct ash_overlay *overlay, uint64_t block);
/* Numbers of orphan inodes. */
void ash_overlay_orphans(const struct ash_overlay *overlay, const uint64_t **list, size_t *count);
/* Blocks whose home content was bad and that no home-write record explains. */
void ash_overlay_damaged(const struct ash_overlay *overlay, const uint64_t **blocks, size_t *count);
/*
 * Lost blocks: their home content cannot be read, and the log holds only parts of them. They have no image; should the
 * device give them later, that is an old state.
 */
void ash_overlay_lost(const struct ash_overlay *overlay, const uint64_t **blocks, size_t *count);
bool ash_overlay_is_lost(const struct ash_overlay *overlay, uint64_t block);
/* Blocks of the log's ring, and control blocks, that cannot be read, as far as they were looked at. */
void ash_overlay_unreadable(const struct ash_overlay *overlay, const uint64_t **ring, size_t *count,
			    size_t *control_count);
/* All images, in no order; stops at nonzero. */
int ash_overlay_each(const struct ash_overlay *overlay,
		     int (*each)(void *context, uint64_t block, const uint8_t *image), void *context);

/* One line of text per record and item, for `ashlarctl log`. */
struct ash_log_view {
	uint64_t lsn, position;
	uint32_t length, items;
	const uint8_t *record; /* header and items */
};
int ash_overlay_each_record(const struct ash_overlay *overlay,
			    int (*each)(void *context, const struct ash_log_view *view), void *context);

#endif
