/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The B+tree: 64-bit keys, values of up to ASH_TREE_MAX_VALUE bytes, root inside an inode's fork.
 *
 * One implementation for extents, directory entries and attributes (format.h: struct ash_node_header).
 * Locking: the inode's lock owns the whole tree: shared to read, exclusive to change. Node buffers are
 * referenced only during a call, except that a cursor holds the leaf it stands on.
 * Nothing read from a node is trusted before ash_node_check() (I8): it runs once for each buffer read from the device.
 * Values that are passed in must not point into a node (copy what a cursor shows before changing the tree). After an
 * error of a changing call the caller aborts the transaction: part of the change may have been made.
 */
#ifndef FS_BTREE_H
#define FS_BTREE_H

#include "txn.h"

/* A tree is named by where its root lies. Filled by ash_record_tree() (inode.h). */
struct ash_tree {
	struct ash_volume *volume;
	uint64_t owner;            /* inode number: in every node's header */
	struct ash_buffer *buffer; /* that holds the inode record (or the superblock) */
	uint32_t offset;           /* of the root node's header in that block */
	uint32_t size;             /* bytes of the root node: ASH_DATA_FORK_SIZE or ASH_ATTR_FORK_SIZE */
	uint32_t kind_offset;      /* of the fork's kind byte (enum ash_fork_kind) */
	uint32_t blocks_offset;    /* of ash_inode.blocks in the block: kept by the tree for its own nodes */
	uint64_t goal;             /* where new nodes would best lie */
	uint32_t claim_flags;      /* ASH_CLAIM_* for new nodes; 0 unless the caller has reserved or frees space */
	uint32_t *claimed;         /* counts new nodes for a caller that has reserved them; NULL: nobody asks */
};

/*
 * Check a node of `size` bytes (header at `node`): slots in bounds, sorted strictly, records inside
 * the heap without overlap, level as expected (UINT32_MAX: any up to the maximum), values of inner nodes 8 bytes.
 * NULL when good, else what is wrong.
 */
const char *ash_node_check(const void *node, uint32_t size, uint32_t level);
static inline uint32_t ash_node_count(const void *node)
{
	return ash_get16(((const struct ash_node_header *)node)->count);
}
static inline uint32_t ash_node_level(const void *node)
{
	return ash_get16(((const struct ash_node_header *)node)->level);
}
/* Record `index` of a checked node. */
static inline const struct ash_tree_record *ash_node_record_at(const void *node, uint32_t index)
{
	const ash_le16 *slots = (const ash_le16 *)((const uint8_t *)node + sizeof(struct ash_node_header));

	return (const struct ash_tree_record *)((const uint8_t *)node + ash_get16(slots[index]));
}
static inline void ash_node_record(const void *node, uint32_t index, uint64_t *key, const uint8_t **value,
				   uint32_t *length)
{
	const struct ash_tree_record *record = ash_node_record_at(node, index);

	*key = ash_get64(record->key);
	*value = record->value;
	*length = ash_get16(record->length);
}

/*
 * A place in a tree: holds a reference to a leaf. Zero-initialise; ash_cursor_done() always. Valid until the tree
 * changes.
 */
struct ash_cursor {
	struct ash_tree tree;
	struct ash_buffer *leaf; /* NULL: the root itself is the leaf */
	uint32_t index;
	uint64_t low;      /* lowest key that this leaf may hold */
	uint64_t next_low; /* lowest key that lies beyond this leaf; 0: none */
	bool valid;
	uint64_t key; /* of the record it stands on */
	const uint8_t *value;
	uint32_t length;
};

/* First record with a key of at least `key`: 1 found, 0 none, negative errno. */
int ash_tree_seek(const struct ash_tree *tree, uint64_t key, struct ash_cursor *cursor);
/* Last record with a key of at most `key`. */
int ash_tree_seek_before(const struct ash_tree *tree, uint64_t key, struct ash_cursor *cursor);
int ash_tree_next(struct ash_cursor *cursor); /* 1, 0 at the end, negative errno */
void ash_cursor_done(struct ash_cursor *cursor);

/* Copy of the value: its length, -ENOENT, -ERANGE when larger than size. */
int ash_tree_get(const struct ash_tree *tree, uint64_t key, void *value, uint32_t size);
/* -EEXIST. May need up to two new blocks a level; at most 2 * (height + 1) blocks. */
int ash_tree_insert(struct ash_txn *txn, struct ash_tree *tree, uint64_t key, const void *value, uint32_t length);
/* The same, but -EEXIST also when any record lies in [key, key + span). */
int ash_tree_insert_alone(struct ash_txn *txn, struct ash_tree *tree, uint64_t key, uint64_t span, const void *value,
			  uint32_t length);
/* Replace the value (any new length). -ENOENT. */
int ash_tree_replace(struct ash_txn *txn, struct ash_tree *tree, uint64_t key, const void *value, uint32_t length);
/* -ENOENT. Frees emptied nodes, merges poor ones, lowers the root. Never needs a block. */
int ash_tree_delete(struct ash_txn *txn, struct ash_tree *tree, uint64_t key);
/* Height (0: root is a leaf), for reservations. */
uint32_t ash_tree_height(const struct ash_tree *tree);
/* Correct ash_inode.blocks, for blocks that belong to the fork but are no nodes (long attribute values). */
void ash_tree_count_blocks(struct ash_txn *txn, const struct ash_tree *tree, int64_t delta);

#endif
