/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What scrub.c, scrub_home.c, scrub_inode.c and scrub_tree.c share. Nothing else includes this.
 *
 * How a scrub judges a volume that others change:
 *
 *   the device  A block is read from the device only while memory says that nothing newer than the device is known and
 *               that nothing is on its way there, before the read and after it (scrub_home.c). A verdict of "damaged"
 *               takes two such reads. What memory knows better is judged there.
 *   memory      Always as the image of what is committed: open transactions are taken back in a copy.
 *   structure   First without any lock of an inode. What looks wrong may only have changed meanwhile; so a suspect is
 *               looked at again under its inode's lock, and only that counts (`sure`).
 */
#ifndef FS_SCRUB_H
#define FS_SCRUB_H

#include "names.h"
#include <ashlar/scrub.h>

#define SCRUB_AHEAD 32u  /* inode blocks in one read */
#define SCRUB_BITMAPS 4u /* group bitmaps kept within a step */
/* ash_scrub.fork; none: the inode itself comes next */
enum { SCRUB_FORK_NONE, SCRUB_FORK_DATA, SCRUB_FORK_ATTRIBUTE };
#define SCRUB_VALUE (ASH_XATTR_SIZE_MAX / ASH_BLOCK_SIZE)

/* A node on the way to a leaf, kept for the next leaf of the same tree. */
struct scrub_node {
	uint64_t block; /* 0: nothing kept */
	uint8_t *data;
};

/* What became of a block (scrub_home.c). */
struct scrub_home {
	const char *wrong;    /* on the device; NULL: nothing */
	bool usable;          /* the image holds content that can be looked into */
	bool newer;           /* it is memory's, and the device was not judged */
	uint32_t bad_records; /* inode table: bit i: record i is damaged; `wrong` is NULL then */
};

/* One step. */
struct scrub {
	struct ash_volume *volume;
	struct ash_scrub *state;
	uint64_t deadline; /* ns */
	bool sure;         /* what is found is reported; else it only makes a suspect */
	bool suspect;
	int error; /* -ENOMEM: ends the step */

	struct scrub_node path[ASH_TREE_MAX_LEVEL + 1];
	struct {
		uint64_t group; /* UINT64_MAX: nothing kept */
		uint8_t *data;
	} bitmaps[SCRUB_BITMAPS];
	unsigned next_bitmap;
	uint64_t ahead_first, ahead_count; /* inode blocks in `ahead`: first inode and number of blocks */
	struct scrub_home homes[SCRUB_AHEAD];
	uint8_t *ahead;
	uint8_t *block;              /* of phases */
	uint8_t *device, *committed; /* within a call */
	uint8_t *value;              /* of an attribute */
};

/* ---- scrub.c ---- */

/* Note a problem, or a suspicion. */
void scrub_problem(struct scrub *scrub, uint64_t ino, uint64_t block, const char *what);
bool scrub_time_is_up(const struct scrub *scrub);
/* What was just read should be used in this step: it gets some time for that. */
void scrub_time_more(struct scrub *scrub);
void scrub_next_phase(struct ash_scrub *state);
/* Count or report the outcome of a block outside of trees. Can it be looked into? */
bool scrub_take_home(struct scrub *scrub, uint64_t block, const struct scrub_home *home);

/* ---- scrub_home.c ---- */

/*
 * The content of a block that is in use as `id` says, in `image`: of the device, or of memory where that is newer (or the
 * device's is damaged). May block on the device; the caller may hold owner locks. Nothing is reported or counted.
 */
struct scrub_home scrub_home(struct scrub *scrub, struct ash_block_id id, uint8_t *image);
/* The same for `count` neighbours of the inode table that lie behind one another; into `images`. */
void scrub_home_records(struct scrub *scrub, struct ash_block_id first, uint32_t count, struct scrub_home *homes,
			uint8_t *images);
int scrub_device_read(struct scrub *scrub, void *data, uint64_t block, uint32_t count);
/* The committed content of a cached block. */
void scrub_committed(struct ash_buffer *buffer, uint8_t *image);
/* Was the bitmap of the group never written? */
bool scrub_group_uninit(struct scrub *scrub, uint64_t group);
/* NULL, or what is wrong with an extent that a file owns: outside, on fixed blocks, not allocated. */
const char *scrub_extent_wrong(struct scrub *scrub, struct ash_extent extent);
/* Is the bit of an inode set in the bitmap of its run? True also when the bitmap cannot be had: that is reported elsewhere. */
bool scrub_inode_in_use(struct scrub *scrub, uint64_t ino);
/* -1 unless the record's block is cached: its committed mode, 0 when free. */
int64_t scrub_cached_mode(struct scrub *scrub, uint64_t ino);

/* ---- scrub_inode.c: one unit of work of a phase ---- */

void scrub_phase_table(struct scrub *scrub);
void scrub_phase_inodes(struct scrub *scrub);

/* ---- scrub_tree.c ---- */

/* What a fork adds up to. */
struct scrub_tally {
	uint64_t blocks; /* nodes, data, long values */
	uint64_t entries, subdirectories;
};
/*
 * Look at the leaf of a fork that holds `key`, and at nodes on the way that were not looked at for an earlier leaf. The next
 * leaf's key in *next; 0: that was the last one.
 */
void scrub_leaf(struct scrub *scrub, const struct ash_inode *record, uint64_t record_block, bool attribute,
		uint64_t key, struct scrub_tally *tally, uint64_t *next);
/* Forget nodes and bitmaps that were kept: before and after a lock. */
void scrub_forget(struct scrub *scrub);

#endif
