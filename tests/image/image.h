/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Volumes for the damage campaigns and the fuzzers: a small one with one of everything, kept as bytes, damaged through
 * the codec.
 *
 * The images are real: made by ash_mkfs() and filled through the volume API, on the mem driver. A test copies the bytes
 * to a device, damages a field, and asks what the engine and the check make of it.
 *
 *   image.c     making, restoring        locate.c   where things are
 *   manifest.c  walking and reading      fields.c   every field of the format
 *   sites.c     every place of an image where a field lies
 */
#ifndef TESTS_IMAGE_H
#define TESTS_IMAGE_H

#include <ashlar/ashlar.h>
#include <ashlar/format.h>
#include "fsck/check.h"

/* One inode as found by walking: what must stay the same when something else is damaged. */
struct known_inode {
	uint64_t ino;
	uint32_t mode, nlink;
	uint64_t size;
	uint32_t content; /* CRC32C of data or target; of a directory: of its names */
	uint32_t attributes;
};

struct manifest {
	struct known_inode *items;
	size_t count, space;
	int error; /* first error that the walk met: 0 for a sound volume */
};

#define IMAGE_CLEAN 1u /* closed in order; else abandoned with a log that has items of every kind */
#define IMAGE_TAIL 2u  /* the device goes on behind the volume: nobody may write there */
#define IMAGE_TAIL_BLOCKS 128u

struct image {
	struct bdev *dev;   /* a trace layer: writes are watched */
	struct bdev *fault; /* the layer below it */
	uint8_t *pristine;  /* of the whole device */
	uint8_t *dirty;     /* per block: written since it was restored */
	uint64_t writes;    /* since the test began */
	uint64_t outside;   /* of these, those that touched something behind the volume's end */
	uint64_t size;      /* bytes, of the device */
	uint64_t volume_size;
	bool clean;
	struct manifest manifest;
	struct manifest
		settled; /* not clean: what was home before the log's records began, and does not depend on them */
	struct ash_super super;
	uint32_t seed;
	/* numbers of the inodes that tests aim at */
	uint64_t inline_file, block_file, extent_file, long_link, short_link, attribute_file, fifo, device, hard, empty,
		flat_directory, deep_directory, small_directory, child_directory, unwritten_file;
};

/* Dies with a message when it cannot be made: nothing to test then. `flags`: IMAGE_*. */
void image_make(struct image *image, const char *device, unsigned flags);
void image_free(struct image *image);
/* Device content as it was. */
void image_restore(struct image *image);
/* Was something written behind the volume's end, though the superblock says no other end? */
bool image_outside(struct image *image);
void image_read(struct image *image, uint64_t block, void *data);
void image_write(struct image *image, uint64_t block, const void *data);

/* Walk, read and stat all of a volume; content is compared later. Opens it as `options` say. Negative errno when it does not open. */
int manifest_take(struct bdev *dev, const struct ash_open_options *options, struct manifest *out);
/* The same of an open volume. */
void manifest_walk(struct ash_volume *volume, struct manifest *out);
void manifest_free(struct manifest *manifest);
const struct known_inode *manifest_find(const struct manifest *manifest, uint64_t ino);
/* For the options of ash_open(): damage is what these tests are about. */
void quiet_log(void *context, enum ash_log_level level, const char *text);

/* ---- Where things are, read from the bytes ---- */

uint64_t locate_table_block(struct image *image, uint64_t file_block); /* of the inode table */
uint64_t locate_inode(struct image *image, uint64_t ino, uint32_t *offset);
void inode_get(struct image *image, uint64_t ino, struct ash_inode *out);
void inode_put(struct image *image, uint64_t ino, const struct ash_inode *record, bool seal);
/* Blocks of the tree of a fork, the top one first; returns how many (at most `max`). */
unsigned locate_nodes(struct image *image, uint64_t ino, bool attribute, uint64_t *blocks, unsigned max);
/* Write a block with a header, sealed or not. */
void block_put(struct image *image, uint64_t block, void *data, bool seal);
/* The checksum that belongs to a block with a header: a superblock's has a start value of its own. */
void block_seal(const struct image *image, void *data);
/* Make checksums and predecessors of the log blocks from index `first` of the ring on right again. */
void log_rechain(struct image *image, uint64_t first);

/* The record at `index` of a node at `node`: its place in memory. */
struct ash_tree_record *node_record(void *node, unsigned index);

void die(const char *format, ...) __attribute__((format(printf, 1, 2), noreturn));

#endif
