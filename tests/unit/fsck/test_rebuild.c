/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Writing a fork anew, where there is not space for everything. */
#include "forge_fixture.h"

#include <dirent.h>

static uint64_t ino_of(struct sick *sick, const char *name)
{
	struct ash_attr attr;

	cr_assert_eq(ash_lookup(sick->engine.volume, ASH_INO_ROOT, name, &attr), 0);
	return attr.ino;
}

/* Blocks of content, from one write: as few extents as can be. */
static void file_fill(struct sick *sick, uint64_t ino, size_t blocks)
{
	size_t size = blocks * ASH_BLOCK_SIZE;
	void *data = calloc(blocks, ASH_BLOCK_SIZE);

	memset(data, 7, size);
	cr_assert_eq(ash_write(sick->engine.volume, ino, data, size, 0, 0), (ssize_t)size);
	cr_assert_eq(ash_fsync(sick->engine.volume, ino, false), 0);
	free(data);
}

static void close_volume(struct sick *sick)
{
	cr_assert_eq(ash_close(sick->engine.volume), 0);
	sick->engine.volume = NULL;
}

/* The file claims the first `count` blocks of another's first extent. */
static void claim_of_other(struct sick *sick, uint64_t ino, uint64_t other, uint32_t count)
{
	struct ash_inode record, theirs;
	const struct ash_extent_value *extent;
	const uint8_t *value;
	uint32_t length;
	uint64_t key;

	inode_get(&sick->engine, other, &theirs);
	inode_get(&sick->engine, ino, &record);
	ash_node_record(theirs.data, 0, &key, &value, &length);
	extent = (const void *)value;
	cr_assert_geq(ash_get32(extent->count), count);
	record.data_kind = ASH_FORK_TREE;
	node_begin(record.data, ASH_DATA_FORK_SIZE, 0);
	node_add_extent(record.data, 0, ash_get64(extent->start), count);
	record.size = ash_put64((uint64_t)count * ASH_BLOCK_SIZE);
	record.blocks = ash_put64(count);
	inode_forge(&sick->engine, ino, &record);
}

/*
 * Two files claim blocks of a third. There is no space for the copy that the first needs: what was taken for it is
 * free again, the other's repair has it, and the rest of the check is done.
 */
Test(rebuild, without_space_gives_back_what_it_took)
{
	uint64_t big, first, second, linked, used;
	struct ash_check_result result;
	struct ash_inode record;
	struct sick sick;

	sick_open(&sick, true);
	engine_mount(&sick.engine);
	big = ino_of(&sick, "file0");
	first = ino_of(&sick, "file1");
	second = ino_of(&sick, "file2");
	linked = ino_of(&sick, "file3");
	file_fill(&sick, big, 1600);
	close_volume(&sick);
	used = check(&sick, ASH_CHECK_NO).used_blocks;
	claim_of_other(&sick, first, big, 1600);
	claim_of_other(&sick, second, big, 2);
	inode_get(&sick.engine, linked, &record);
	record.nlink = ash_put32(2);
	inode_forge(&sick.engine, linked, &record);
	result = check(&sick, ASH_CHECK_YES);
	cr_expect(strstr(sick.codes, "no-space"), "%s", sick.codes);
	cr_expect(strstr(sick.codes, "link-count"), "%s", sick.codes);
	cr_expect_eq(result.left, 1);
	cr_expect_eq(result.used_blocks, used + 2, "%llu and %llu", (unsigned long long)result.used_blocks,
		     (unsigned long long)used);
	engine_close(&sick.engine);
}

#define LEAF_RECORDS 144u /* extents that fill a leaf: too many for one that is written anew */

/*
 * No block is free, and the one leaf that the tree has is not enough for a new one: it is not touched then, and all
 * but the bad extent is still there.
 */
Test(rebuild, without_space_leaves_the_old_nodes)
{
	uint8_t leaf[ASH_BLOCK_SIZE], after[ASH_BLOCK_SIZE], *node;
	uint64_t block, end, owner, filler;
	struct ash_inode record;
	struct ash_super super;
	struct sick sick;

	sick_open(&sick, true);
	image_read(&sick.engine, 0, &super);
	end = ash_get64(super.block_count) - 1;
	block = block_take(&sick.engine);
	owner = sick.file - 1;
	filler = sick.file;
	node = tree_block_begin(&sick.engine, leaf, block, owner, 0);
	for (uint64_t i = 0; i + 1 < LEAF_RECORDS; i++)
		node_add_extent(node, i, block + 1 + i, 1);
	node_add_extent(node, LEAF_RECORDS, end + 1, 1);
	block_seal(&sick.engine, leaf);
	inode_get(&sick.engine, owner, &record);
	record.data_kind = ASH_FORK_TREE;
	node_begin(record.data, ASH_DATA_FORK_SIZE, 1);
	node_add_child(record.data, 0, block);
	record.size = ash_put64((LEAF_RECORDS + 1ull) * ASH_BLOCK_SIZE);
	record.blocks = ash_put64(LEAF_RECORDS + 1);
	inode_forge(&sick.engine, owner, &record);
	inode_get(&sick.engine, filler, &record);
	record.data_kind = ASH_FORK_TREE;
	node_begin(record.data, ASH_DATA_FORK_SIZE, 0);
	node_add_extent(record.data, 0, block + LEAF_RECORDS, (uint32_t)(end - block - LEAF_RECORDS));
	record.size = ash_put64((end - block - LEAF_RECORDS) * ASH_BLOCK_SIZE);
	record.blocks = ash_put64(end - block - LEAF_RECORDS);
	inode_forge(&sick.engine, filler, &record);
	cr_expect_eq(check(&sick, ASH_CHECK_YES).left, 1, "%s", sick.codes);
	cr_expect(strstr(sick.codes, "no-space"), "%s", sick.codes);
	image_read(&sick.engine, block, after);
	cr_expect_eq(memcmp(leaf, after, sizeof(leaf)), 0);
	engine_close(&sick.engine);
}

/* ---- Many at once ---- */

#define RINGS 70u

/* A directory with one entry, for a directory. */
static void directory_forge(struct sick *sick, uint64_t ino, uint64_t child)
{
	uint8_t value[sizeof(struct ash_dirent_value) + 1];
	struct ash_dirent_value entry = { .ino = ash_put64(child), .type = DT_DIR, .name_length = 1 };
	struct ash_inode record;

	memcpy(value, &entry, sizeof(entry));
	value[sizeof(entry)] = 'p';
	inode_get(&sick->engine, ino, &record);
	record.data_kind = ASH_FORK_TREE;
	node_begin(record.data, ASH_DATA_FORK_SIZE, 0);
	node_add(record.data, key_of(&sick->engine, "p"), value, sizeof(value));
	record.nlink = ash_put32(3);
	record.size = ash_put64(1);
	record.parent = ash_put64(child);
	inode_forge(&sick->engine, ino, &record);
}

/* Its names are lost. */
static void directory_empty(struct sick *sick, uint64_t ino)
{
	struct ash_inode record;

	inode_get(&sick->engine, ino, &record);
	record.data_kind = ASH_FORK_EMPTY;
	memset(record.data, 0, sizeof(record.data));
	record.nlink = ash_put32(2);
	record.size = record.blocks = ash_put64(0);
	inode_forge(&sick->engine, ino, &record);
}

/* So many directories are written anew that lost+found is scheduled again and again: each lost file gets one name. */
Test(rebuild, fork_that_is_scheduled_again_after_many_others)
{
	struct ash_create create = { .mode = S_IFDIR | 0755 };
	uint64_t folder, rings[2 * RINGS], lost;
	struct ash_attr attr;
	struct sick sick;
	char name[32];

	sick_open(&sick, true);
	engine_mount(&sick.engine);
	cr_assert_eq(ash_create(sick.engine.volume, ASH_INO_ROOT, "folder", &create, &attr), 0);
	folder = attr.ino;
	for (unsigned i = 0; i < 2 * RINGS; i++) {
		snprintf(name, sizeof(name), "ring%u", i);
		cr_assert_eq(ash_create(sick.engine.volume, folder, name, &create, &attr), 0);
		rings[i] = attr.ino;
	}
	create.mode = S_IFREG | 0644;
	cr_assert_eq(ash_create(sick.engine.volume, folder, "lost", &create, &attr), 0);
	lost = attr.ino;
	close_volume(&sick);
	directory_empty(&sick, folder);
	for (unsigned i = 0; i < 2 * RINGS; i++)
		directory_forge(&sick, rings[i], rings[i ^ 1]);
	cr_expect_eq(check(&sick, ASH_CHECK_YES).left, 0);
	cr_expect_eq(check(&sick, ASH_CHECK_NO).problems, 0, "%s", sick.codes);
	engine_mount(&sick.engine);
	cr_expect_eq(ash_getattr(sick.engine.volume, lost, &attr), 0);
	cr_expect_eq(attr.nlink, 1, "%u", attr.nlink);
	snprintf(name, sizeof(name), "#%llu.1", (unsigned long long)lost);
	cr_expect_eq(ash_lookup(sick.engine.volume, ino_of(&sick, "lost+found"), name, &attr), -ENOENT);
	engine_close(&sick.engine);
}
