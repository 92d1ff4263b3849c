/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Writing a fork anew, where there is not space for everything. */
#include "forge_fixture.h"

#include <dirent.h>
#include <time.h>

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

/* ---- Time ---- */

#define CROWD_RUNS 4u
#define CROWD_FOLDERS 10000u
#define CROWD_LOST 110000u

/* Runs of the largest kind, and so many of their inodes in use. */
static void crowd_table(struct engine *engine, uint32_t used)
{
	uint32_t per_run = ASH_BITS_PER_BITMAP, blocks = 1 + per_run / ASH_INODES_PER_BLOCK;
	struct ash_bitmap_block bitmap;
	struct ash_super super;

	image_read(engine, 0, &super);
	super.inode_runs = ash_put64(CROWD_RUNS);
	super.table_inode.size = ash_put64((uint64_t)CROWD_RUNS * blocks << ASH_BLOCK_SHIFT);
	table_begin(&super);
	for (uint32_t run = 0; run < CROWD_RUNS; run++) {
		uint64_t start = ash_group_start(2 + run) + 2;
		uint32_t bits = used < run * per_run ? 0 : used - run * per_run;

		table_add(&super, run * blocks, start, blocks);
		memset(&bitmap, 0, sizeof(bitmap));
		bitmap.header = super.header;
		bitmap.header.magic = ash_put32(ASH_MAGIC_INODE_BITMAP);
		bitmap.header.owner = ash_put64(run);
		bitmap.header.address = ash_put64(start);
		bitmap.initialized = ash_put32(blocks - 1);
		for (uint32_t i = 0; i < bits && i < per_run; i++)
			bitmap.bits[i / 8] |= (uint8_t)(1u << i % 8);
		block_seal(engine, (uint8_t *)&bitmap);
	}
	super_put(engine, 0, &super);
}

/* A folder that is its own parent, or an empty file. */
static struct ash_inode crowd_record(const struct ash_super *super, uint64_t ino, bool folder, uint64_t key)
{
	struct ash_inode record = { .magic = ash_put32(ASH_MAGIC_INODE), .ino = ash_put64(ino) };
	struct ash_dirent_value entry = { .ino = ash_put64(ino), .type = DT_DIR, .name_length = 1 };
	uint8_t value[sizeof(entry) + 1];

	record.mode = ash_put32(folder ? S_IFDIR | 0755 : S_IFREG | 0644);
	record.nlink = ash_put32(folder ? 3 : 1);
	if (folder) {
		memcpy(value, &entry, sizeof(entry));
		value[sizeof(entry)] = 'x';
		record.parent = ash_put64(ino);
		record.data_kind = ASH_FORK_TREE;
		record.size = ash_put64(1);
		node_begin(record.data, ASH_DATA_FORK_SIZE, 0);
		node_add(record.data, key, value, sizeof(value));
	}
	record.crc = ash_put32(ash_inode_crc(ash_get32(super->checksum_seed), &record));
	return record;
}

/* Inodes without a name, the first of them folders. */
static void crowd_records(struct engine *engine, uint32_t folders, uint32_t used)
{
	uint32_t per_run = ASH_BITS_PER_BITMAP;
	uint64_t key = key_of(engine, "x");
	struct ash_inode records[ASH_INODES_PER_BLOCK];
	struct ash_super super;

	image_read(engine, 0, &super);
	for (uint32_t ino = ASH_INO_FIRST_FREE; ino < used; ino++) {
		records[ino % ASH_INODES_PER_BLOCK] =
			crowd_record(&super, ino, ino - ASH_INO_FIRST_FREE < folders, key);
		if (ino % ASH_INODES_PER_BLOCK == ASH_INODES_PER_BLOCK - 1)
			image_write(engine,
				    ash_group_start(2 + ino / per_run) + 3 + ino % per_run / ASH_INODES_PER_BLOCK,
				    records);
	}
}

/* Processor seconds that a repair takes. */
static double crowd_repair(uint32_t folders, uint32_t lost)
{
	struct ash_mkfs_options options = { .log_blocks = ASH_LOG_MIN_BLOCKS, .inodes_per_run = ASH_BITS_PER_BITMAP };
	uint32_t used = ASH_INO_FIRST_FREE + folders + lost;
	char error[BDEV_ERROR_TEXT] = "";
	struct timespec before, after;
	struct sick sick = { 0 };

	sick.engine.dev = engine_device("mem:1G");
	cr_assert_eq(ash_mkfs(sick.engine.dev, &options, error), 0, "%s", error);
	crowd_table(&sick.engine, used);
	crowd_records(&sick.engine, folders, used);
	clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &before);
	cr_expect_eq(check(&sick, ASH_CHECK_YES).left, 0, "%s", sick.codes);
	clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &after);
	bdev_close(sick.engine.dev);
	return (double)(after.tv_sec - before.tv_sec) + (double)(after.tv_nsec - before.tv_nsec) / 1e9;
}

/*
 * What waits for a name costs nothing where other directories are written anew: both together take as long as each
 * alone.
 */
Test(rebuild, lost_files_and_rings_of_directories_together)
{
	double folders = crowd_repair(CROWD_FOLDERS, 0), lost = crowd_repair(0, CROWD_LOST);
	double both = crowd_repair(CROWD_FOLDERS, CROWD_LOST);

	cr_expect_lt(both, 2 * (folders + lost) + 0.2, "%.2f, %.2f alone, %.2f together", folders, lost, both);
}
