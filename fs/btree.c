/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The B+tree.
 *
 * Concept: the root lies in an inode's fork, all other nodes in blocks of their own; records are in the leaves
 * only. Inner node: record i leads to the keys from its own key up to the next one's; the first record's key counts
 * as minus infinity, so that removing a first child needs no correction above. A fork of kind EMPTY is an
 * empty tree; the first insertion makes a root, the last deletion takes it back.
 *
 * Growing: a node that is full splits, and the separator goes one level up; a full root hands its records to a
 * new child. Whoever inserts behind a node's last record leaves that node full (ascending keys fill nodes).
 * Shrinking: an empty node is freed; one under a quarter is joined with a neighbour of the same parent when both
 * fill at most three quarters; the root pulls its only child in when that fills at most three quarters of it.
 *
 * Distrust (I8): a node from the device is checked once as a page (ash_node_check, remembered in buffer.checked) and
 * against its parent's bounds. Each further step compares its level and the child's address: levels fall by
 * one, so no damage can make a loop. Who changes a tree compares first and last key with the bounds at
 * each step. Who reads compares the keys that it shows, and the leaf's bounds when it finds nothing there: two
 * cache misses a level less, and a walk only goes forward even when two parents share a child. A root has its bit in
 * its block's `checked`; the superblock's, which is asked for rarely, is checked whenever it is used.
 *
 * Undo (I9): a call that fails leaves its changes to the abort of the transaction.
 *
 * Locks: the inode's lock owns root and nodes (I11): shared to read, exclusive to change. Device reads happen
 * under it.
 */
#include "btree.h"

#include <assert.h>

#include "alloc.h"
#include "btree_node.h"
#include "volume.h"

/* A node on the way down: what it may hold is [low, high); high 0 means no limit. */
struct step {
	struct ash_node node;
	uint32_t index; /* inner: the child taken; leaf: where the key is or would be */
	uint64_t low, high;
};

/* From the root (0) to the leaf (depth); one more than levels, for a root that grows. */
struct path {
	uint32_t depth;
	struct step steps[ASH_TREE_MAX_LEVEL + 2];
};

static int damaged(const struct ash_tree *tree, const struct ash_buffer *buffer, const char *what)
{
	return ash_damaged(tree->volume, buffer->id.block, what);
}

/* ---- Going down ---- */

static uint8_t kind_of(const struct ash_tree *tree)
{
	return tree->buffer->data[tree->kind_offset];
}

/* The root's bit in its buffer's `checked`; 0 in the superblock. */
static uint16_t root_bit(const struct ash_tree *tree)
{
	bool attribute = tree->offset % ASH_INODE_SIZE >= offsetof(struct ash_inode, attr);

	if (tree->buffer->id.type != ASH_TYPE_INODE_TABLE)
		return 0;
	return (uint16_t)(1u << (2 * (tree->offset / ASH_INODE_SIZE) + attribute));
}

/* 1: there is a root, 0: the tree is empty, -EUCLEAN. */
static int root_load(const struct ash_tree *tree, struct step *root)
{
	uint16_t bit = root_bit(tree);
	const char *wrong;

	*root = (struct step){ .node = { tree->buffer, tree->offset, tree->size } };
	if (kind_of(tree) == ASH_FORK_EMPTY || kind_of(tree) == ASH_FORK_INLINE)
		return 0;
	if (kind_of(tree) != ASH_FORK_TREE)
		return damaged(tree, tree->buffer, "unknown fork kind");
	if (atomic_load_explicit(&tree->buffer->checked, memory_order_relaxed) & bit)
		return 1;
	wrong = ash_node_check(ash_node_bytes(&root->node), tree->size, UINT32_MAX);
	if (wrong)
		return damaged(tree, tree->buffer, wrong);
	atomic_fetch_or_explicit(&tree->buffer->checked, bit, memory_order_relaxed);
	return 1;
}

static const char *check_bounds(const struct step *step, uint32_t level)
{
	const uint8_t *bytes = ash_node_bytes(&step->node);
	uint32_t count = ash_node_count(bytes);
	uint32_t first = level ? 1 : 0;

	if (ash_node_level(bytes) != level)
		return "tree level is wrong";
	if (!count)
		return "empty tree node";
	if (first < count && ash_node_key(bytes, first) < step->low)
		return "tree key below its parent's bound";
	if (first < count && step->high && ash_node_key(bytes, count - 1) >= step->high)
		return "tree key above its parent's bound";
	return NULL;
}

static const char *check_node(const struct step *step, uint32_t level, bool change)
{
	struct ash_buffer *buffer = step->node.buffer;
	const uint8_t *bytes = ash_node_bytes(&step->node);
	const char *wrong;

	if (atomic_load_explicit(&buffer->checked, memory_order_relaxed)) {
		if (change || ash_node_level(bytes) != level || !ash_node_count(bytes))
			return check_bounds(step, level);
		return NULL;
	}
	wrong = ash_node_check(bytes, ASH_TREE_NODE_SIZE, level);
	if (!wrong)
		wrong = check_bounds(step, level);
	if (!wrong)
		atomic_store_explicit(&buffer->checked, 1, memory_order_relaxed);
	return wrong;
}

static void step_put(const struct ash_tree *tree, const struct step *step)
{
	if (step->node.buffer != tree->buffer)
		ash_buffer_put(tree->volume, step->node.buffer);
}

/* Load child `index` of `parent`; a reference on success. `change`: to change the tree. */
static int child_load(const struct ash_tree *tree, const struct step *parent, uint32_t index, bool change,
		      struct step *child)
{
	const uint8_t *bytes = ash_node_bytes(&parent->node);
	struct ash_block_id id = { ash_node_child(bytes, index), ASH_MAGIC_TREE_NODE, tree->owner };
	const char *wrong;
	int result;

	if (!id.block || id.block >= tree->volume->block_count)
		return damaged(tree, parent->node.buffer, "tree child outside of the volume");
	child->low = index ? ash_node_key(bytes, index) : parent->low;
	child->high = index + 1 < ash_node_count(bytes) ? ash_node_key(bytes, index + 1) : parent->high;
	child->node.offset = offsetof(struct ash_tree_block, node);
	child->node.size = ASH_TREE_NODE_SIZE;
	result = ash_buffer_get_at(tree->volume, id, child->node.offset, &child->node.buffer);
	if (result)
		return result;
	wrong = check_node(child, ash_node_level(bytes) - 1, change);
	if (!wrong)
		return 0;
	result = damaged(tree, child->node.buffer, wrong);
	ash_buffer_put(tree->volume, child->node.buffer);
	return result;
}

/* The leaf for `key`, for readers: 1 with a reference, 0 empty tree, negative errno. */
static int leaf_find(const struct ash_tree *tree, uint64_t key, struct step *leaf)
{
	int result = root_load(tree, leaf);

	if (result <= 0)
		return result;
	while (ash_node_level(ash_node_bytes(&leaf->node))) {
		struct step parent = *leaf;
		uint32_t index = ash_node_search_child(ash_node_bytes(&parent.node), key, parent.low, parent.high);

		result = child_load(tree, &parent, index, false, leaf);
		step_put(tree, &parent);
		if (result)
			return result;
	}
	leaf->index = ash_node_search_near(ash_node_bytes(&leaf->node), key, leaf->low, leaf->high);
	return 1;
}

static void path_put(const struct ash_tree *tree, struct path *path)
{
	for (uint32_t i = 0; i <= path->depth; i++)
		step_put(tree, &path->steps[i]);
}

/* The way to the leaf for `key`, for writers: 1 with references (path_put), 0 empty tree, negative errno. */
static int path_find(const struct ash_tree *tree, uint64_t key, struct path *path)
{
	struct step *step = path->steps;
	int result = root_load(tree, step);

	path->depth = 0;
	if (result <= 0)
		return result;
	while (ash_node_level(ash_node_bytes(&step->node))) {
		step->index = ash_node_search_child(ash_node_bytes(&step->node), key, step->low, step->high);
		result = child_load(tree, step, step->index, true, step + 1);
		if (result) {
			path_put(tree, path);
			return result;
		}
		step++;
		path->depth++;
	}
	step->index = ash_node_search_near(ash_node_bytes(&step->node), key, step->low, step->high);
	return 1;
}

/* Does the leaf hold `key` at its index? */
static bool leaf_has(const struct step *leaf, uint64_t key)
{
	const uint8_t *bytes = ash_node_bytes(&leaf->node);

	return leaf->index < ash_node_count(bytes) && ash_node_key(bytes, leaf->index) == key;
}

/* ---- Reading ---- */

void ash_cursor_done(struct ash_cursor *cursor)
{
	if (cursor->leaf)
		ash_buffer_put(cursor->tree.volume, cursor->leaf);
	cursor->leaf = NULL;
	cursor->valid = false;
}

static const uint8_t *cursor_bytes(const struct ash_cursor *cursor)
{
	if (cursor->leaf)
		return cursor->leaf->data + offsetof(struct ash_tree_block, node);
	return cursor->tree.buffer->data + cursor->tree.offset;
}

/* 1, or -EUCLEAN when the record does not belong into this leaf. */
static int cursor_show(struct ash_cursor *cursor, uint32_t index)
{
	cursor->index = index;
	ash_node_record(cursor_bytes(cursor), index, &cursor->key, &cursor->value, &cursor->length);
	cursor->valid = true;
	if (cursor->key >= cursor->low && (!cursor->next_low || cursor->key < cursor->next_low))
		return 1;
	cursor->valid = false;
	return damaged(&cursor->tree, cursor->leaf, "tree key outside of its parent's bounds");
}

/* Take over the leaf's reference. */
static int cursor_stand(struct ash_cursor *cursor, const struct step *leaf, uint32_t index)
{
	cursor->leaf = leaf->node.buffer == cursor->tree.buffer ? NULL : leaf->node.buffer;
	cursor->low = leaf->low;
	cursor->next_low = leaf->high;
	return cursor_show(cursor, index);
}

/* Nothing was found in the leaf: is it the right one? Drops it. */
static int leaf_miss(const struct ash_tree *tree, const struct step *leaf)
{
	const char *wrong = leaf->node.buffer == tree->buffer ? NULL : check_bounds(leaf, 0);
	int result = wrong ? damaged(tree, leaf->node.buffer, wrong) : 0;

	step_put(tree, leaf);
	return result;
}

int ash_tree_seek(const struct ash_tree *tree, uint64_t key, struct ash_cursor *cursor)
{
	struct step leaf;

	ash_cursor_done(cursor);
	cursor->tree = *tree;
	for (;;) {
		int result = leaf_find(&cursor->tree, key, &leaf);

		if (result <= 0)
			return result;
		if (leaf.index < ash_node_count(ash_node_bytes(&leaf.node)))
			return cursor_stand(cursor, &leaf, leaf.index);
		/* A leaf is never empty, so the next one has it: once at most in a sound tree, and always forward. */
		result = leaf_miss(&cursor->tree, &leaf);
		if (result || !leaf.high)
			return result;
		key = leaf.high;
	}
}

int ash_tree_seek_before(const struct ash_tree *tree, uint64_t key, struct ash_cursor *cursor)
{
	struct step leaf;

	ash_cursor_done(cursor);
	cursor->tree = *tree;
	for (;;) {
		int result = leaf_find(&cursor->tree, key, &leaf);

		if (result <= 0)
			return result;
		if (leaf_has(&leaf, key))
			leaf.index++;
		if (leaf.index)
			return cursor_stand(cursor, &leaf, leaf.index - 1);
		result = leaf_miss(&cursor->tree, &leaf);
		if (result || !leaf.low)
			return result;
		key = leaf.low - 1;
	}
}

int ash_tree_next(struct ash_cursor *cursor)
{
	if (!cursor->valid)
		return 0;
	if (cursor->index + 1 < ash_node_count(cursor_bytes(cursor)))
		return cursor_show(cursor, cursor->index + 1);
	if (!cursor->next_low) {
		ash_cursor_done(cursor);
		return 0;
	}
	return ash_tree_seek(&cursor->tree, cursor->next_low, cursor);
}

int ash_tree_get(const struct ash_tree *tree, uint64_t key, void *value, uint32_t size)
{
	struct step leaf;
	const uint8_t *bytes;
	uint32_t length;
	int result = leaf_find(tree, key, &leaf);

	if (result <= 0)
		return result ? result : -ENOENT;
	if (!leaf_has(&leaf, key)) {
		result = leaf_miss(tree, &leaf);
		return result ? result : -ENOENT;
	}
	ash_node_record(ash_node_bytes(&leaf.node), leaf.index, &key, &bytes, &length);
	result = length > size ? -ERANGE : (int)length;
	if (result > 0)
		memcpy(value, bytes, length);
	step_put(tree, &leaf);
	return result;
}

uint32_t ash_tree_height(const struct ash_tree *tree)
{
	uint32_t level;

	if (kind_of(tree) != ASH_FORK_TREE)
		return 0;
	level = ash_node_level(tree->buffer->data + tree->offset);
	return level < ASH_TREE_MAX_LEVEL ? level : ASH_TREE_MAX_LEVEL;
}

/* ---- The inode's fields ---- */

void ash_tree_count_blocks(struct ash_txn *txn, const struct ash_tree *tree, int64_t delta)
{
	ash_le64 blocks;

	memcpy(&blocks, tree->buffer->data + tree->blocks_offset, sizeof(blocks));
	blocks = ash_put64(ash_get64(blocks) + (uint64_t)delta);
	ash_txn_set(txn, tree->buffer, tree->blocks_offset, &blocks, sizeof(blocks));
}

static void set_kind(struct ash_txn *txn, const struct ash_tree *tree, uint8_t kind)
{
	ash_txn_set(txn, tree->buffer, tree->kind_offset, &kind, sizeof(kind));
}

static void root_create(struct ash_txn *txn, const struct ash_tree *tree, const struct step *root)
{
	struct ash_node_image image;

	ash_node_image_begin(&image, tree->size, 0);
	ash_node_image_store(txn, &image, &root->node);
	set_kind(txn, tree, ASH_FORK_TREE);
}

/* ---- Growing ---- */

/* A new, still empty node: a reference in `out`. */
static int node_new(struct ash_txn *txn, const struct ash_tree *tree, uint64_t near, struct ash_node *out)
{
	struct ash_block_id id = { 0, ASH_MAGIC_TREE_NODE, tree->owner };
	int result = ash_alloc_meta(txn, near, tree->claim_flags, &id.block);

	if (result)
		return result;
	if (tree->claimed)
		(*tree->claimed)++;
	result = ash_txn_new_block(txn, id, &out->buffer);
	if (result)
		return result;
	out->offset = offsetof(struct ash_tree_block, node);
	out->size = ASH_TREE_NODE_SIZE;
	atomic_store_explicit(&out->buffer->checked, 1, memory_order_relaxed);
	ash_tree_count_blocks(txn, tree, 1);
	return 0;
}

/* Hand the root's records to a new child: the path gets one step longer. */
static int root_grow(struct ash_txn *txn, const struct ash_tree *tree, struct path *path)
{
	struct step *root = &path->steps[0];
	const uint8_t *bytes = ash_node_bytes(&root->node);
	uint32_t level = ash_node_level(bytes);
	struct ash_node_image image;
	struct ash_node child;
	ash_le64 pointer;
	int result;

	if (level >= ASH_TREE_MAX_LEVEL)
		return -EFBIG;
	result = node_new(txn, tree, tree->goal, &child);
	if (result)
		return result;
	ash_node_image_begin(&image, child.size, level);
	ash_node_image_copy(&image, bytes, 0, ash_node_count(bytes));
	ash_node_image_store(txn, &image, &child);

	pointer = ash_put64(child.buffer->id.block);
	ash_node_image_begin(&image, root->node.size, level + 1);
	ash_node_image_add(&image, 0, &pointer, sizeof(pointer));
	ash_node_image_store(txn, &image, &root->node);

	memmove(root + 2, root + 1, path->depth * sizeof(*root));
	root[1] = (struct step){ .node = child, .index = root->index };
	root->index = 0;
	path->depth++;
	return 0;
}

/* Size with its slot of record `i` of the node as it would be with `item` inserted at `index`. */
static uint32_t virtual_size(const uint8_t *bytes, uint32_t index, const struct ash_tree_item *item, uint32_t i)
{
	uint32_t slot = sizeof(ash_le16);

	if (i == index)
		return slot + ash_record_size(item->length);
	return slot + ash_node_record_size(bytes, i < index ? i : i - 1);
}

/* How many records, the new one counted, stay on the left of a split. */
static uint32_t split_point(const struct ash_node *node, uint32_t index, const struct ash_tree_item *item)
{
	const uint8_t *bytes = ash_node_bytes(node);
	uint32_t count = ash_node_count(bytes), total = 0, left = 0, i;

	if (index == count)
		return count;
	for (i = 0; i <= count; i++)
		total += virtual_size(bytes, index, item, i);
	for (i = 0; i < count; i++) {
		uint32_t size = virtual_size(bytes, index, item, i);

		if (i && left + size / 2 > total / 2)
			break;
		left += size;
	}
	return i;
}

static void build_right(struct ash_node_image *image, const struct ash_node *node, uint32_t index,
			const struct ash_tree_item *item, uint32_t left)
{
	const uint8_t *bytes = ash_node_bytes(node);
	uint32_t count = ash_node_count(bytes);

	ash_node_image_begin(image, node->size, ash_node_level(bytes));
	if (index < left) {
		ash_node_image_copy(image, bytes, left - 1, count - left + 1);
		return;
	}
	ash_node_image_copy(image, bytes, left, index - left);
	ash_node_image_add(image, item->key, item->value, item->length);
	ash_node_image_copy(image, bytes, index, count - index);
}

/*
 * Split a full node and insert `item` at `index` into the half where it belongs. On return *separator and *right are
 * what the parent must get.
 */
static int node_split(struct ash_txn *txn, const struct ash_tree *tree, const struct ash_node *node, uint32_t index,
		      const struct ash_tree_item *item, uint64_t *separator, uint64_t *right)
{
	uint32_t left = split_point(node, index, item);
	uint64_t near = tree->goal ? tree->goal : node->buffer->id.block;
	struct ash_node_image image;
	struct ash_node new_node;
	int result = node_new(txn, tree, near, &new_node);

	if (result)
		return result;
	build_right(&image, node, index, item, left);
	ash_node_image_store(txn, &image, &new_node);
	*separator = ash_node_key(ash_node_bytes(&new_node), 0);
	*right = new_node.buffer->id.block;
	if (index < left) {
		ash_node_truncate(txn, node, left - 1);
		ash_node_insert(txn, node, index, item);
	} else {
		ash_node_truncate(txn, node, left);
	}
	ash_buffer_put(tree->volume, new_node.buffer);
	return 0;
}

/* Put `item` before `index` of the path's leaf, splitting upwards as need be. */
static int path_insert(struct ash_txn *txn, const struct ash_tree *tree, struct path *path,
		       const struct ash_tree_item *item)
{
	uint32_t depth = path->depth;
	uint32_t index = path->steps[depth].index;
	struct ash_tree_item pending = *item;
	ash_le64 pointer;

	while (!ash_node_fits(&path->steps[depth].node, pending.length)) {
		uint64_t separator, right;
		int result;

		if (!depth) {
			result = root_grow(txn, tree, path);
			if (result)
				return result;
			depth = 1;
			continue;
		}
		result = node_split(txn, tree, &path->steps[depth].node, index, &pending, &separator, &right);
		if (result)
			return result;
		pointer = ash_put64(right);
		pending = (struct ash_tree_item){ separator, &pointer, sizeof(pointer) };
		depth--;
		index = path->steps[depth].index + 1;
	}
	ash_node_insert(txn, &path->steps[depth].node, index, &pending);
	return 0;
}

/* Is there a record in [key, key + span)? The path stands on the lower bound of `key`. */
static int range_taken(const struct ash_tree *tree, const struct step *leaf, uint64_t key, uint64_t span)
{
	const uint8_t *bytes = ash_node_bytes(&leaf->node);
	struct ash_cursor cursor = { 0 };
	int result;

	if (leaf->index < ash_node_count(bytes))
		return ash_node_key(bytes, leaf->index) - key < span;
	if (!leaf->high || leaf->high - key >= span)
		return 0;
	result = ash_tree_seek(tree, leaf->high, &cursor);
	if (result > 0)
		result = cursor.key - key < span;
	ash_cursor_done(&cursor);
	return result;
}

int ash_tree_insert_alone(struct ash_txn *txn, struct ash_tree *tree, uint64_t key, uint64_t span, const void *value,
			  uint32_t length)
{
	struct ash_tree_item item = { key, value, length };
	struct path path;
	int result;

	assert(length <= ASH_TREE_MAX_VALUE);
	result = path_find(tree, key, &path);
	if (result < 0)
		return result;
	if (!result) {
		if (kind_of(tree) != ASH_FORK_EMPTY)
			return damaged(tree, tree->buffer, "inline data where a tree should be");
		root_create(txn, tree, &path.steps[0]);
	}
	result = range_taken(tree, &path.steps[path.depth], key, span);
	if (result > 0)
		result = -EEXIST;
	if (!result)
		result = path_insert(txn, tree, &path, &item);
	path_put(tree, &path);
	return result;
}

int ash_tree_insert(struct ash_txn *txn, struct ash_tree *tree, uint64_t key, const void *value, uint32_t length)
{
	return ash_tree_insert_alone(txn, tree, key, 1, value, length);
}

int ash_tree_replace(struct ash_txn *txn, struct ash_tree *tree, uint64_t key, const void *value, uint32_t length)
{
	struct ash_tree_item item = { key, value, length };
	struct path path;
	struct step *leaf;
	int result;

	assert(length <= ASH_TREE_MAX_VALUE);
	result = path_find(tree, key, &path);
	if (result <= 0)
		return result ? result : -ENOENT;
	leaf = &path.steps[path.depth];
	result = -ENOENT;
	if (leaf_has(leaf, key)) {
		const uint8_t *old;
		uint32_t old_length;

		ash_node_record(ash_node_bytes(&leaf->node), leaf->index, &key, &old, &old_length);
		result = 0;
		if (old_length == length) {
			ash_node_set_value(txn, &leaf->node, leaf->index, value);
		} else {
			ash_node_remove(txn, &leaf->node, leaf->index);
			result = path_insert(txn, tree, &path, &item);
		}
	}
	path_put(tree, &path);
	return result;
}

/* ---- Shrinking ---- */

/* Take child `index` out of its parent and free its block. */
static int child_drop(struct ash_txn *txn, const struct ash_tree *tree, const struct step *parent, uint32_t index)
{
	struct ash_extent extent = { ash_node_child(ash_node_bytes(&parent->node), index), 1 };

	ash_node_remove(txn, &parent->node, index);
	ash_tree_count_blocks(txn, tree, -1);
	return ash_free(txn, extent, true);
}

static bool poor(const struct ash_node *node)
{
	return ash_node_used(node) < node->size / 4;
}

/* May `used` bytes lie in a node of `size` with enough room left for what comes next? */
static bool comfortable(uint32_t used, uint32_t size)
{
	return used <= size - size / 4;
}

static void join(struct ash_txn *txn, const struct step *left, const struct step *right)
{
	const uint8_t *bytes = ash_node_bytes(&right->node);
	uint32_t level = ash_node_level(bytes);
	struct ash_node_image image;
	uint64_t key;
	const uint8_t *value;
	uint32_t length;

	ash_node_image_begin(&image, left->node.size, level);
	ash_node_image_copy(&image, ash_node_bytes(&left->node), 0, ash_node_count(ash_node_bytes(&left->node)));
	ash_node_record(bytes, 0, &key, &value, &length);
	/* The first key of an inner node meant "lowest"; inside the joined node it must say what that was. */
	ash_node_image_add(&image, level ? right->low : key, value, length);
	ash_node_image_copy(&image, bytes, 1, ash_node_count(bytes) - 1);
	ash_node_image_store(txn, &image, &left->node);
}

/*
 * Join children `index` and `index + 1` if that makes sense: 1 done, 0 not, negative errno. Joining is never needed:
 * a neighbour that cannot be read (reported already) just stays as it is, so that damage spoils only what lies
 * in it (I8).
 */
static int try_join(struct ash_txn *txn, const struct ash_tree *tree, const struct step *parent, uint32_t index)
{
	struct step left, right;
	int result = 0;

	if (index + 1 >= ash_node_count(ash_node_bytes(&parent->node)))
		return 0;
	if (child_load(tree, parent, index, true, &left))
		return 0;
	if (child_load(tree, parent, index + 1, true, &right)) {
		step_put(tree, &left);
		return 0;
	}
	if (left.node.buffer != right.node.buffer &&
	    comfortable(ash_node_used(&left.node) + ash_node_used(&right.node), left.node.size)) {
		join(txn, &left, &right);
		result = child_drop(txn, tree, parent, index + 1);
		if (!result)
			result = 1;
	}
	step_put(tree, &right);
	step_put(tree, &left);
	return result;
}

static int join_around(struct ash_txn *txn, const struct ash_tree *tree, const struct step *parent)
{
	int result = try_join(txn, tree, parent, parent->index);

	if (!result && parent->index)
		result = try_join(txn, tree, parent, parent->index - 1);
	return result;
}

/* The root pulls its only child in while that is small, and goes when it is empty. */
static int root_settle(struct ash_txn *txn, const struct ash_tree *tree, struct step *root)
{
	for (;;) {
		const uint8_t *bytes = ash_node_bytes(&root->node), *child_bytes;
		struct ash_node_image image;
		struct ash_extent extent;
		struct step child;
		int result;

		if (!ash_node_count(bytes)) {
			set_kind(txn, tree, ASH_FORK_EMPTY);
			return 0;
		}
		if (!ash_node_level(bytes) || ash_node_count(bytes) > 1 || child_load(tree, root, 0, true, &child))
			return 0;
		if (!comfortable(ash_node_used(&child.node), root->node.size)) {
			step_put(tree, &child);
			return 0;
		}
		extent = (struct ash_extent){ child.node.buffer->id.block, 1 };
		ash_node_image_begin(&image, root->node.size, ash_node_level(bytes) - 1);
		child_bytes = ash_node_bytes(&child.node);
		ash_node_image_copy(&image, child_bytes, 0, ash_node_count(child_bytes));
		ash_node_image_store(txn, &image, &root->node);
		step_put(tree, &child);
		ash_tree_count_blocks(txn, tree, -1);
		result = ash_free(txn, extent, true);
		if (result)
			return result;
	}
}

static int path_shrink(struct ash_txn *txn, const struct ash_tree *tree, struct path *path)
{
	for (uint32_t depth = path->depth; depth; depth--) {
		struct step *step = &path->steps[depth], *parent = step - 1;
		int result;

		if (!ash_node_count(ash_node_bytes(&step->node)))
			result = child_drop(txn, tree, parent, parent->index);
		else if (poor(&step->node))
			result = join_around(txn, tree, parent);
		else
			break;
		if (result < 0)
			return result;
	}
	return root_settle(txn, tree, &path->steps[0]);
}

int ash_tree_delete(struct ash_txn *txn, struct ash_tree *tree, uint64_t key)
{
	struct path path;
	struct step *leaf;
	int result = path_find(tree, key, &path);

	if (result <= 0)
		return result ? result : -ENOENT;
	leaf = &path.steps[path.depth];
	result = -ENOENT;
	if (leaf_has(leaf, key)) {
		ash_node_remove(txn, &leaf->node, leaf->index);
		result = path_shrink(txn, tree, &path);
	}
	path_put(tree, &path);
	return result;
}
