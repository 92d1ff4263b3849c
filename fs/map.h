/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Extent map of a file: file blocks to device blocks, over the B+tree of the data fork.
 * The inode's lock owns it. A data fork of kind EMPTY or INLINE has no extents; INLINE must be turned into
 * blocks by file.c before the first insert.
 */
#ifndef FS_MAP_H
#define FS_MAP_H

#include "alloc.h"
#include "btree.h"

struct ash_mapping {
	uint64_t file_block; /* first */
	uint64_t count;      /* blocks, at least 1 */
	uint64_t start;      /* device block; 0: a hole */
	bool unwritten;
};

/* An extent record of a checked node: NULL and what it says, or what is wrong with it. */
const char *ash_map_check(const struct ash_volume *volume, uint64_t file_block, const uint8_t *value, uint32_t length,
			  struct ash_mapping *out);
/* What lies at `file_block`: an extent's rest or a hole up to the next extent (at most `limit` blocks). 0 or errno. */
int ash_map_get(const struct ash_tree *tree, uint64_t file_block, uint64_t limit, struct ash_mapping *out);
/*
 * The first block of [file_block, end) that is written (`data`), or that is not; `end` when there is none. The leaves
 * are walked, so many extents take long, but not long each: after some thousand the hooks say that the caller waits.
 */
int ash_map_find(const struct ash_tree *tree, uint64_t file_block, uint64_t end, bool data, uint64_t *found);
/* The whole extent that covers `file_block`; one block of a hole if none does. 0 or errno. */
int ash_map_get_whole(const struct ash_tree *tree, uint64_t file_block, struct ash_mapping *out);
/* Map a hole to device blocks (already logged as allocated in this transaction); merges with neighbours. */
int ash_map_insert(struct ash_txn *txn, struct ash_tree *tree, const struct ash_mapping *mapping);
/*
 * Turn [file_block, +count), all unwritten, into written; splits and merges. At most 2 more extents; none, and so no
 * new node, when that is one whole extent.
 */
int ash_map_set_written(struct ash_txn *txn, struct ash_tree *tree, uint64_t file_block, uint64_t count);
/* The reverse, for ZERO_RANGE. */
int ash_map_set_unwritten(struct ash_txn *txn, struct ash_tree *tree, uint64_t file_block, uint64_t count);
/*
 * Take extents out of [file_block, +count) and free their blocks, from the end backwards, until done or `txn` has
 * collected about `byte_limit` log bytes. *remaining: blocks of the range, from its start, not yet looked at
 * (0: done). *freed: data blocks freed (the caller corrects ash_inode.blocks).
 */
int ash_map_remove(struct ash_txn *txn, struct ash_tree *tree, uint64_t file_block, uint64_t count, uint32_t byte_limit,
		   uint64_t *remaining, uint64_t *freed);

#endif
