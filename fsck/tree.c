/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Walking a B+tree that nobody trusts.
 *
 * A node is used only if its header, checksum, owner, address, level, slots and keys are right: every key must
 * lie between the separators above it. An inner node always has children and every leaf below a root has records,
 * so that a block can be used by one pointer only; with the levels falling by one, a walk ends after as
 * many reads as there are pointers. Bad nodes are told to the caller and skipped. No locks: one thread.
 */
#include "internal.h"

struct bounds {
	uint64_t low, high; /* keys in [low, high] */
};

static uint64_t child_of(const uint8_t *node, uint32_t index, uint64_t *key)
{
	const uint8_t *value;
	uint32_t length;
	ash_le64 child;

	ash_node_record(node, index, key, &value, &length);
	memcpy(&child, value, sizeof(child));
	return ash_get64(child);
}

/* Keys against the separators above. An inner node's first key means nothing. */
static const char *keys_wrong(const uint8_t *node, struct bounds bounds)
{
	uint32_t count = ash_node_count(node), first = ash_node_level(node) ? 1 : 0;
	const uint8_t *value;
	uint32_t length;
	uint64_t key;

	if (count <= first)
		return NULL;
	ash_node_record(node, first, &key, &value, &length);
	if (key < bounds.low || (first && key == bounds.low)) /* the first child of an inner node has a range too */
		return "keys below their range";
	ash_node_record(node, count - 1, &key, &value, &length);
	return key > bounds.high ? "keys above their range" : NULL;
}

static const char *load_child(struct tree_walk *walk, uint64_t block, uint32_t level, struct bounds bounds)
{
	struct checker *checker = walk->checker;
	uint8_t *buffer = checker->node_buffers + ((size_t)level << ASH_BLOCK_SHIFT);
	const uint8_t *node = buffer + offsetof(struct ash_tree_block, node);
	const char *why;

	if (!block || !extent_inside(checker, block, 1))
		return "points outside the volume";
	if (block_read(checker, block, buffer))
		return "cannot be read";
	why = block_wrong(checker, buffer, block, ASH_MAGIC_TREE_NODE, walk->owner);
	if (!why)
		why = ash_node_check(node, ASH_TREE_NODE_SIZE, level);
	if (!why && !ash_node_count(node))
		why = "empty node";
	return why ? why : keys_wrong(node, bounds);
}

static int walk_leaf(struct tree_walk *walk, const uint8_t *node)
{
	uint32_t count = ash_node_count(node);
	int result = 0;

	for (uint32_t i = 0; i < count && !result && walk->record; i++) {
		const uint8_t *value;
		uint32_t length;
		uint64_t key;

		ash_node_record(node, i, &key, &value, &length);
		result = walk->record(walk->context, key, value, length);
	}
	return result;
}

static int walk_node(struct tree_walk *walk, const uint8_t *node, struct bounds bounds);

static int walk_child(struct tree_walk *walk, uint64_t block, uint32_t level, struct bounds bounds)
{
	const char *why = load_child(walk, block, level, bounds);
	int result;

	if (why)
		return walk->bad ? walk->bad(walk->context, block, why) : 0;
	result = walk->node ? walk->node(walk->context, block) : 0;
	if (result)
		return result > 0 ? 0 : result;
	return walk_node(walk,
			 walk->checker->node_buffers + ((size_t)level << ASH_BLOCK_SHIFT) +
				 offsetof(struct ash_tree_block, node),
			 bounds);
}

static int walk_node(struct tree_walk *walk, const uint8_t *node, struct bounds bounds)
{
	uint32_t count = ash_node_count(node), level = ash_node_level(node);
	int result = 0;

	if (!level)
		return walk_leaf(walk, node);
	for (uint32_t i = 0; i < count && !result; i++) {
		struct bounds part = bounds;
		uint64_t key, next, block = child_of(node, i, &key);

		if (i)
			part.low = key;
		if (i + 1 < count) {
			child_of(node, i + 1, &next);
			part.high = next - 1;
		}
		result = walk_child(walk, block, level - 1, part);
	}
	return result;
}

int tree_walk(struct tree_walk *walk, const uint8_t *root, uint32_t size)
{
	const char *why = ash_node_check(root, size, UINT32_MAX);
	struct bounds all = { 0, UINT64_MAX };

	if (!why)
		why = keys_wrong(root, all);
	if (why)
		return walk->bad ? walk->bad(walk->context, 0, why) : 0;
	return walk_node(walk, root, all);
}
