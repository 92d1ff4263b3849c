/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * One node of the B+tree: the slotted page of format.h. Private to btree.c.
 *
 * The calls here know a single node and nothing of the tree around it; those that change go through txn.h,
 * and the caller holds the owner's lock exclusively. A node that is handed in was checked by ash_node_check().
 */
#ifndef FS_BTREE_NODE_H
#define FS_BTREE_NODE_H

#include "btree.h"

/* A node in its place: in a block of its own, or a root inside an inode record. */
struct ash_node {
	struct ash_buffer *buffer;
	uint32_t offset; /* of the node header in the block */
	uint32_t size;   /* bytes of the node, header included */
};

/* A record on its way in. `value` must not point into a node. */
struct ash_tree_item {
	uint64_t key;
	const void *value;
	uint32_t length;
};

static inline const uint8_t *ash_node_bytes(const struct ash_node *node)
{
	return node->buffer->data + node->offset;
}

/* Bytes that a record with a value of `length` takes in the heap: even, so that records stay aligned to 2. */
static inline uint32_t ash_record_size(uint32_t length)
{
	return ((uint32_t)sizeof(struct ash_tree_record) + length + 1) & ~1u;
}

static inline uint64_t ash_node_key(const void *node, uint32_t index)
{
	return ash_get64(ash_node_record_at(node, index)->key);
}

/* Heap bytes of record `index`. */
static inline uint32_t ash_node_record_size(const void *node, uint32_t index)
{
	return ash_record_size(ash_get16(ash_node_record_at(node, index)->length));
}

/* Inner node: block of child `index`; from the device, so not yet known to lie in the volume. */
static inline uint64_t ash_node_child(const void *node, uint32_t index)
{
	ash_le64 child;

	memcpy(&child, ash_node_record_at(node, index)->value, sizeof(child));
	return ash_get64(child);
}

/*
 * Index of the first record with a key of at least `key`; the count when there is none. The node's keys should lie in
 * [low_key, high_key) (high_key 0: no limit); they need not. Keys lie all over the heap, so that each step of a plain
 * bisection is a cache miss that waits for the one before. Hashes, and mostly file offsets too, are spread evenly: the
 * records around the place where the key should be are looked at together.
 */
uint32_t ash_node_search_near(const void *node, uint64_t key, uint64_t low_key, uint64_t high_key);
/* Inner node: index of the child that holds `key`; bounds as above. */
uint32_t ash_node_search_child(const void *node, uint64_t key, uint64_t low_key, uint64_t high_key);
/* Bytes in use: header, slots and live records. */
uint32_t ash_node_used(const struct ash_node *node);
/* Does a record with a value of `length` fit, after compaction if need be? */
bool ash_node_fits(const struct ash_node *node, uint32_t length);

/* Insert before `index`. It must fit. */
void ash_node_insert(struct ash_txn *txn, const struct ash_node *node, uint32_t index,
		     const struct ash_tree_item *item);
void ash_node_remove(struct ash_txn *txn, const struct ash_node *node, uint32_t index);
/* Keep the first `count` records. */
void ash_node_truncate(struct ash_txn *txn, const struct ash_node *node, uint32_t count);
/* Overwrite the value of record `index` with one of the same length. */
void ash_node_set_value(struct ash_txn *txn, const struct ash_node *node, uint32_t index, const void *value);

/* A node being built in memory: begin, add in order of keys, store. */
struct ash_node_image {
	uint32_t size, count, heap_start;
	uint32_t level;
	uint8_t bytes[ASH_TREE_NODE_SIZE];
};
void ash_node_image_begin(struct ash_node_image *image, uint32_t size, uint32_t level);
void ash_node_image_add(struct ash_node_image *image, uint64_t key, const void *value, uint32_t length);
/* Add records [first, first + count) of a node. */
void ash_node_image_copy(struct ash_node_image *image, const void *node, uint32_t first, uint32_t count);
/* Replace the node's content; sizes must be equal. What lies between slots and heap is not written. */
void ash_node_image_store(struct ash_txn *txn, struct ash_node_image *image, const struct ash_node *node);

#endif
