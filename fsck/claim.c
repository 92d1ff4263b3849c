/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Pass 1b, only when pass 1 met blocks that are claimed twice: who claims them, and who keeps them.
 *
 * Fixed metadata, the log and the inode table keep what they have; then tree blocks (their headers name
 * their owner, so no two trees can both be right); then long attribute values, whose checksums were right a moment ago; then
 * data in the order of inode numbers. A loser among files gets a copy of the contested blocks, so that nothing is lost
 * whoever was right; where somebody's metadata lies, it gets a hole. No locks: one thread.
 */
#include "internal.h"

#include <stdlib.h>

struct claim {
	uint64_t ino, start, count;
	bool node, attribute;
};

struct claims {
	struct checker *checker;
	uint64_t ino, floor;
	bool attribute;
	LIST(struct claim) list;
	struct block_map system, owned;
};

static int claim_part(struct claims *claims, uint64_t start, uint64_t count, bool node)
{
	return LIST_ADD(&claims->list, (struct claim){ claims->ino, start, count, node, claims->attribute });
}

/* The contested parts of a range. */
static int claim_range(struct claims *claims, uint64_t start, uint64_t count, bool node)
{
	const struct block_map *twice = &claims->checker->twice;
	uint64_t length = 0;
	int result = 0;

	if (!map_any(twice, start, count))
		return 0;
	for (uint64_t i = 0; i < count && !result; i++) {
		if (map_test(twice, start + i)) {
			length++;
			continue;
		}
		if (length)
			result = claim_part(claims, start + i - length, length, node);
		length = 0;
	}
	if (!result && length)
		result = claim_part(claims, start + count - length, length, node);
	return result;
}

static int claim_node(void *context, uint64_t block)
{
	return claim_range(context, block, 1, true);
}

static int claim_extent(void *context, uint64_t key, const uint8_t *value, uint32_t length)
{
	struct claims *claims = context;
	const struct ash_extent_value *extent = (const void *)value;

	if (extent_wrong(claims->checker, key, value, length, claims->floor))
		return 0;
	claims->floor = key + ash_get32(extent->count);
	return claim_range(claims, ash_get64(extent->start), ash_get32(extent->count), false);
}

static int claim_attribute(void *context, uint64_t key, const uint8_t *value, uint32_t length)
{
	struct claims *claims = context;
	const struct ash_xattr_value *attribute = (const void *)value;
	struct external external;
	int result = 0;

	(void)key;
	if (attribute_wrong(claims->checker, value, length))
		return 0;
	external_get(attribute, &external);
	for (uint32_t i = 0; i < external.count && !result; i++)
		result = claim_range(claims, external.extents[i].start, external.extents[i].count, false);
	return result;
}

static int claim_inode(struct claims *claims, const struct ash_inode *record)
{
	struct tree_walk walk = { .checker = claims->checker,
				  .owner = claims->ino,
				  .context = claims,
				  .node = claim_node,
				  .record = S_ISDIR(ash_get32(record->mode)) ? NULL : claim_extent };
	int result = 0;

	claims->floor = 0;
	claims->attribute = false;
	if (record->data_kind == ASH_FORK_TREE)
		result = tree_walk(&walk, record->data, ASH_DATA_FORK_SIZE);
	claims->attribute = true;
	walk.record = claim_attribute;
	if (!result && record->attr_kind == ASH_FORK_TREE)
		result = tree_walk(&walk, record->attr, ASH_ATTR_FORK_SIZE);
	return result;
}

static int collect(struct claims *claims)
{
	struct checker *checker = claims->checker;
	int result = 0;

	for (uint64_t ino = ASH_INO_ROOT; ino < checker->inode_count && !result; ino++) {
		struct ash_inode record;

		result = check_cancelled(checker);
		if (result || !(checker->state[ino] & INODE_TYPE))
			continue;
		claims->ino = ino;
		result = inode_read(checker, ino, &record);
		if (!result)
			result = claim_inode(claims, &record);
	}
	return result;
}

static int lose(struct claims *claims, const struct claim *claim, uint64_t start, uint64_t count, bool copy)
{
	struct checker *checker = claims->checker;
	struct problem_context context = { .ino = claim->ino, .block = start, .have = count };
	struct loss loss = { claim->ino, start, count, copy };
	int result;

	if (!problem(checker, PROBLEM_DUPLICATE_BLOCKS, &context))
		return 0;
	result = rebuild_schedule(checker, claim->ino, claim->attribute);
	/* A tree block that lies where it must not is moved by the rebuild itself. */
	return result || claim->node ? result : LIST_ADD(&checker->losses, loss);
}

/* 0: free so far, 1: another file's, 2: metadata. */
static unsigned owner_of(const struct claims *claims, uint64_t block)
{
	return map_test(&claims->system, block) ? 2 : map_test(&claims->owned, block) ? 1 : 0;
}

static int settle(struct claims *claims, const struct claim *claim)
{
	uint64_t end = claim->start + claim->count;
	int result = 0;

	for (uint64_t at = claim->start; at < end && !result;) {
		unsigned owner = owner_of(claims, at);
		uint64_t length = 1;

		while (at + length < end && owner_of(claims, at + length) == owner)
			length++;
		if (owner)
			result = lose(claims, claim, at, length, owner == 1);
		else
			result = map_set(claim->node ? &claims->system : &claims->owned, at, length, NULL, NULL);
		at += length;
	}
	return result;
}

static int system_blocks(struct claims *claims)
{
	struct checker *checker = claims->checker;
	const struct ash_super *super = checker->super;
	struct block_map *map = &claims->system;
	int result =
		map_set(map, ash_get64(super->group_table_start), ash_get64(super->group_table_blocks), NULL, NULL);

	if (!result)
		result = map_set(map, ash_get64(super->log_start), ash_get64(super->log_blocks), NULL, NULL);
	if (!result)
		result = map_set(map, checker->block_count - 1, 1, NULL, NULL);
	for (size_t i = 0; i < checker->table.count && !result; i++)
		result = map_set(map, checker->table.items[i].start, checker->table.items[i].count, NULL, NULL);
	for (size_t i = 0; i < checker->table_nodes.count && !result; i++)
		result = map_set(map, checker->table_nodes.items[i], 1, NULL, NULL);
	return result;
}

static unsigned turn_of(const struct claim *claim)
{
	return claim->node ? 0 : claim->attribute ? 1 : 2;
}

static int compare_losses(const void *a, const void *b)
{
	const struct loss *x = a, *y = b;

	if (x->ino != y->ino)
		return x->ino < y->ino ? -1 : 1;
	return x->start < y->start ? -1 : x->start > y->start;
}

int claims_resolve(struct checker *checker)
{
	struct claims claims = { .checker = checker };
	int result = map_open(&claims.system, checker->block_count, true);

	if (!result)
		result = map_open(&claims.owned, checker->block_count, false);
	if (!result)
		result = system_blocks(&claims);
	if (!result)
		result = collect(&claims);
	for (unsigned turn = 0; turn < 3; turn++)
		for (size_t i = 0; i < claims.list.count && !result; i++)
			if (turn_of(&claims.list.items[i]) == turn)
				result = settle(&claims, &claims.list.items[i]);
	if (checker->losses.count)
		qsort(checker->losses.items, checker->losses.count, sizeof(*checker->losses.items), compare_losses);
	LIST_FREE(&claims.list);
	map_close(&claims.system);
	map_close(&claims.owned);
	return result;
}

const struct loss *loss_find(const struct checker *checker, uint64_t ino, uint64_t start, uint64_t count)
{
	size_t low = 0, high = checker->losses.count;

	while (low < high) {
		size_t middle = (low + high) / 2;
		const struct loss *loss = &checker->losses.items[middle];

		if (loss->ino < ino || (loss->ino == ino && loss->start + loss->count <= start))
			low = middle + 1;
		else
			high = middle;
	}
	if (low == checker->losses.count || checker->losses.items[low].ino != ino ||
	    checker->losses.items[low].start >= start + count)
		return NULL;
	return &checker->losses.items[low];
}
