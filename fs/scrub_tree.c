/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Trees, for a scrub: one leaf of one fork at a time, with the nodes on the way to it.
 *
 * Each node is read by scrub_home() and checked as a page, for its level and against its parent's bounds; a leaf's records
 * for what they say. Nodes are kept for the next leaf of the same step, so that an inner node is read once for its leaves.
 * A node is counted with the first leaf below it. One that cannot be used costs what lies under it: the next leaf is
 * looked for behind it.
 *
 * Levels fall by one at each step and keys only grow, so that no damage, and no change under an unlocked look, makes a
 * loop. Locks: none here; the caller holds the inode's lock when the verdict is to count.
 */
#include "scrub.h"

#include <dirent.h>

#include "btree_node.h"
#include "map.h"

#define KEY_HASH (~0ull << ASH_DIR_COLLISION_BITS)
#define FIRST_KEY 3u /* of directories and attributes: those below are positions */

/* A place in the tree, and whose it is. */
struct place {
	const struct ash_inode *record;
	uint64_t ino;
	uint64_t block; /* of the node, for messages */
	const uint8_t *node;
	uint32_t size;
	uint64_t low, high; /* what the node may hold; high 0: no limit */
	struct scrub_tally *tally;
};

static void wrong_here(struct scrub *scrub, const struct place *place, const char *what)
{
	scrub_problem(scrub, place->ino, place->block, what);
}

/* ---- Records ---- */

static const char *target_wrong(struct scrub *scrub, const struct ash_dirent_value *entry)
{
	uint64_t ino = ash_get64(entry->ino);
	int64_t mode;

	if (ino < ASH_INO_FIRST_FREE || !scrub_inode_in_use(scrub, ino))
		return "directory entry names an inode that is not in use";
	mode = scrub_cached_mode(scrub, ino);
	if (!mode)
		return "directory entry names an inode that is not in use";
	if (mode > 0 && IFTODT((uint32_t)mode) != entry->type)
		return "directory entry of another type than its inode";
	return NULL;
}

static void look_at_entry(struct scrub *scrub, const struct place *place, uint64_t key, const uint8_t *value,
			  uint32_t length)
{
	const struct ash_dirent_value *entry = (const void *)value;
	const char *wrong = ash_dirent_check(value, length);

	if (!wrong && (key & KEY_HASH) != ash_name_key(scrub->volume, (const char *)entry->name, entry->name_length))
		wrong = "directory entry with the key of another name";
	if (!wrong) {
		place->tally->entries++;
		place->tally->subdirectories += entry->type == DT_DIR;
		wrong = target_wrong(scrub, entry);
	}
	if (wrong)
		wrong_here(scrub, place, wrong);
}

static const char *value_wrong(struct scrub *scrub, const struct ash_extent *extents, uint32_t count, uint32_t size,
			       uint32_t crc)
{
	uint8_t *at = scrub->value;
	int error = 0;

	for (uint32_t i = 0; i < count && !error; i++) {
		error = scrub_device_read(scrub, at, extents[i].start, (uint32_t)extents[i].count);
		at += extents[i].count * ASH_BLOCK_SIZE;
	}
	if (error)
		return "value of an attribute cannot be read";
	return ash_crc32c(scrub->volume->checksum_seed, scrub->value, size) == crc ? NULL : "checksum of an attribute";
}

/* A long value, in blocks of its own: `at` lies behind the name, without alignment. Its record is a checked one. */
static const char *external_wrong(struct scrub *scrub, const struct place *place, const uint8_t *at, uint32_t size)
{
	struct ash_extent extents[ASH_XATTR_MAX_EXTENTS];
	struct ash_xattr_external external;
	uint32_t count;

	memcpy(&external, at, sizeof(external));
	count = ash_get32(external.extent_count);
	at += sizeof(external);
	for (uint32_t i = 0; i < count; i++, at += sizeof(external.extents[0])) {
		const char *wrong;
		ash_le64 start;
		ash_le32 blocks;

		memcpy(&start, at, sizeof(start));
		memcpy(&blocks, at + sizeof(start), sizeof(blocks));
		extents[i] = (struct ash_extent){ ash_get64(start), ash_get32(blocks) };
		wrong = scrub_extent_wrong(scrub, extents[i]);
		if (wrong)
			return wrong;
		place->tally->blocks += extents[i].count;
	}
	return value_wrong(scrub, extents, count, size, ash_get32(external.value_crc));
}

static void look_at_attribute(struct scrub *scrub, const struct place *place, uint64_t key, const uint8_t *value,
			      uint32_t length)
{
	const struct ash_xattr_value *attribute = (const void *)value;
	const char *wrong = ash_xattr_check(value, length);

	if (!wrong && (key & KEY_HASH) != ash_name_key(scrub->volume, (const char *)attribute->name_and_value,
						       attribute->name_length))
		wrong = "attribute with the key of another name";
	if (!wrong && attribute->kind)
		wrong = external_wrong(scrub, place, attribute->name_and_value + attribute->name_length,
				       ash_get32(attribute->value_length));
	if (wrong)
		wrong_here(scrub, place, wrong);
}

/* `floor`: where the extent before ends; raised to the end of this one. */
static void look_at_extent(struct scrub *scrub, const struct place *place, uint64_t key, const uint8_t *value,
			   uint32_t length, uint64_t *floor)
{
	struct ash_mapping mapping;
	const char *wrong = ash_map_check(scrub->volume, key, value, length, &mapping);

	if (!wrong && key < *floor)
		wrong = "extents overlap";
	if (!wrong) {
		*floor = key + mapping.count;
		place->tally->blocks += mapping.count;
		wrong = scrub_extent_wrong(scrub, (struct ash_extent){ mapping.start, mapping.count });
	}
	if (wrong)
		wrong_here(scrub, place, wrong);
}

/* Returns where the last extent ends; 0 for records of another kind. */
static uint64_t look_at_records(struct scrub *scrub, const struct place *place, bool attribute)
{
	bool names = attribute || S_ISDIR(ash_get32(place->record->mode));
	uint64_t floor = 0;

	for (uint32_t i = 0; i < ash_node_count(place->node); i++) {
		const uint8_t *value;
		uint32_t length;
		uint64_t key;

		ash_node_record(place->node, i, &key, &value, &length);
		if (names && key < FIRST_KEY)
			wrong_here(scrub, place, "name with a reserved key");
		else if (attribute)
			look_at_attribute(scrub, place, key, value, length);
		else if (names)
			look_at_entry(scrub, place, key, value, length);
		else
			look_at_extent(scrub, place, key, value, length, &floor);
	}
	return floor;
}

/* ---- Nodes ---- */

static const char *node_wrong(const struct place *place, uint32_t level)
{
	const char *wrong = ash_node_check(place->node, place->size, level);
	uint32_t count = ash_node_count(place->node), first = level ? 1 : 0;

	if (wrong)
		return wrong;
	if (!count)
		return "empty tree node";
	if (first < count && ash_node_key(place->node, first) < place->low)
		return "tree key below its parent's bound";
	if (first < count && place->high && ash_node_key(place->node, count - 1) >= place->high)
		return "tree key above its parent's bound";
	return NULL;
}

/* A node is part of what the inode adds up to, good or not. */
static void count_node(struct scrub *scrub, const struct place *place, const struct scrub_home *home)
{
	place->tally->blocks++;
	if (scrub->sure || home->wrong)
		return; /* it was counted when it became a suspect; it is reported */
	if (home->newer)
		scrub->state->newer++;
	else
		scrub->state->blocks++;
}

/* The block of the child that leads to `key`. The bounds of `place` become the child's. */
static uint64_t child_towards(struct place *place, uint64_t key)
{
	uint32_t index = ash_node_search_child(place->node, key, place->low, place->high);

	place->high = index + 1 < ash_node_count(place->node) ? ash_node_key(place->node, index + 1) : place->high;
	place->low = index ? ash_node_key(place->node, index) : place->low;
	return ash_node_child(place->node, index);
}

static void go_to(struct place *place, struct scrub_node *node)
{
	place->node = node->data + offsetof(struct ash_tree_block, node);
	place->size = ASH_TREE_NODE_SIZE;
}

/*
 * The child that leads to `key` of the node at `place`, which becomes it. False: it cannot be used; place->high is where to go
 * on all the same. The leaf with an inner node's lowest key speaks for that node: damage on the device does not keep a
 * good copy in memory from leading to the others.
 */
static bool descend(struct scrub *scrub, struct place *place, uint64_t key)
{
	uint32_t level = ash_node_level(place->node) - 1;
	struct scrub_node *kept = &scrub->path[level];
	struct ash_block_id id = { child_towards(place, key), ASH_MAGIC_TREE_NODE, place->ino };
	bool again = id.block && kept->block == id.block, first;
	struct scrub_home home = { .usable = true };
	const char *wrong;

	first = !level || place->low == key;
	if (!id.block || id.block >= scrub->volume->block_count) {
		wrong_here(scrub, place, "tree child outside of the volume");
		return false;
	}
	if (!again)
		home = scrub_home(scrub, id, kept->data);
	kept->block = 0;
	place->block = id.block;
	go_to(place, kept);
	if (home.wrong && (first || !home.usable))
		wrong_here(scrub, place, home.wrong);
	if (!home.usable)
		return false;
	wrong = node_wrong(place, level);
	if (!wrong && !again && scrub_extent_wrong(scrub, (struct ash_extent){ id.block, 1 }))
		wrong = "tree node in a block that is free or the volume's own";
	if (wrong) {
		wrong_here(scrub, place, wrong);
		return false;
	}
	if (first)
		count_node(scrub, place, &home);
	kept->block = id.block;
	return true;
}

static bool root_place(struct scrub *scrub, struct place *place, bool attribute)
{
	const char *wrong;

	place->node = attribute ? place->record->attr : place->record->data;
	place->size = attribute ? ASH_ATTR_FORK_SIZE : ASH_DATA_FORK_SIZE;
	wrong = ash_node_check(place->node, place->size, UINT32_MAX);
	if (wrong)
		wrong_here(scrub, place, wrong);
	return !wrong;
}

/*
 * The first key of the leaf that holds `key`, from the root's place down; UINT64_MAX when it is not to be had: that is reported
 * when it is that leaf's turn. What was kept of the way to another leaf goes.
 */
static uint64_t first_key_of_leaf(struct scrub *scrub, struct place place, uint64_t key)
{
	while (ash_node_level(place.node)) {
		uint32_t level = ash_node_level(place.node) - 1;
		struct scrub_node *kept = &scrub->path[level];
		struct ash_block_id id = { child_towards(&place, key), ASH_MAGIC_TREE_NODE, place.ino };

		kept->block = 0;
		if (!id.block || !scrub_home(scrub, id, kept->data).usable)
			return UINT64_MAX;
		go_to(&place, kept);
		if (node_wrong(&place, level))
			return UINT64_MAX;
	}
	return ash_node_count(place.node) ? ash_node_key(place.node, 0) : UINT64_MAX;
}

void scrub_leaf(struct scrub *scrub, const struct ash_inode *record, uint64_t record_block, bool attribute,
		uint64_t key, struct scrub_tally *tally, uint64_t *next)
{
	struct place place = { .record = record, .ino = ash_get64(record->ino), .block = record_block, .tally = tally };
	struct place root;
	uint64_t end;

	*next = 0;
	if (!root_place(scrub, &place, attribute))
		return;
	root = place;
	while (ash_node_level(place.node))
		if (!descend(scrub, &place, key)) {
			*next = place.high;
			return;
		}
	end = look_at_records(scrub, &place, attribute);
	/* Its end may lie behind the leaf's bound: records leave the next leaf, and the bound stays. */
	if (place.high && end > place.high && end > first_key_of_leaf(scrub, root, place.high))
		wrong_here(scrub, &place, "extent reaches into one of the next leaf");
	*next = place.high;
}
