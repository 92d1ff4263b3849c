/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Sparse images that claim much of which they hold nothing: a check reads, and a repair writes, what is there.
 * Counted in blocks, since a hole is read fast enough for nobody to see it in a small test.
 */
#include "forge_fixture.h"
#include "tests/support/file_device.h"

#define SPARSE_SIZE (16ull << 30)
#define LARGE_RUN (1u + ASH_BITS_PER_BITMAP / ASH_INODES_PER_BLOCK) /* blocks */
#define RUNS_PER_GROUP 7u
#define GROUPS_WITH_RUNS 90u
#define RUNS (1u + RUNS_PER_GROUP * GROUPS_WITH_RUNS)
#define FEW 12000u

static uint64_t blocks_read, blocks_written;

static void count_blocks(void *context, const struct bdev_request *request)
{
	(void)context;
	if (request->op == BDEV_READ)
		blocks_read += request->length / ASH_BLOCK_SIZE;
	if (request->op == BDEV_WRITE)
		blocks_written += request->length / ASH_BLOCK_SIZE;
}

static struct bdev *sparse_device(void)
{
	struct bdev *device = file_device("/var/tmp", SPARSE_SIZE);

	if (bdev_next_data(device, 0) != SPARSE_SIZE) {
		bdev_close(device);
		cr_skip_test("no holes in files there");
	}
	return device;
}

static void sparse_open(struct sick *sick, uint32_t inodes_per_run)
{
	struct ash_mkfs_options options = { .log_blocks = ASH_LOG_MIN_BLOCKS, .inodes_per_run = inodes_per_run };
	char error[BDEV_ERROR_TEXT] = "";

	memset(sick, 0, sizeof(*sick));
	cr_assert_eq(fault_open(sparse_device(), &sick->engine.dev), 0);
	cr_assert_eq(ash_mkfs(sick->engine.dev, &options, error), 0, "%s", error);
	blocks_read = blocks_written = 0;
	fault_ask(sick->engine.dev, count_blocks, NULL);
}

static void run_put(struct engine *engine, const struct ash_super *super, uint64_t run, uint64_t block)
{
	struct ash_bitmap_block bitmap = { .header = super->header, .initialized = ash_put32(LARGE_RUN - 1) };

	bitmap.header.magic = ash_put32(ASH_MAGIC_INODE_BITMAP);
	bitmap.header.owner = ash_put64(run);
	bitmap.header.address = ash_put64(block);
	block_seal(engine, (uint8_t *)&bitmap);
}

/* Bitmaps of runs, by which all of their blocks were written. */
static void runs_put(struct engine *engine)
{
	uint64_t start, count, run = 1, leaf = block_take(engine);
	uint8_t bytes[ASH_BLOCK_SIZE], *node;
	struct ash_super super;

	image_read(engine, 0, &super);
	table_extent(&super, &start, &count);
	cr_assert_eq(count, LARGE_RUN);
	node = tree_block_begin(engine, bytes, leaf, ASH_INO_TABLE, 0);
	node_add_extent(node, 0, start, LARGE_RUN);
	for (uint64_t group = 2; group < 2 + GROUPS_WITH_RUNS; group++) {
		uint64_t block = ash_group_start(group) + 2;

		node_add_extent(node, run * LARGE_RUN, block, RUNS_PER_GROUP * LARGE_RUN);
		for (unsigned i = 0; i < RUNS_PER_GROUP; i++)
			run_put(engine, &super, run++, block + i * LARGE_RUN);
	}
	block_seal(engine, bytes);
	node_begin(super.table_inode.data, ASH_DATA_FORK_SIZE, 1);
	node_add_child(super.table_inode.data, 0, leaf);
	super.table_inode.blocks = ash_put64((uint64_t)RUNS * LARGE_RUN + 1);
	super.inode_runs = ash_put64(RUNS);
	super.table_inode.size = ash_put64((uint64_t)RUNS * LARGE_RUN << ASH_BLOCK_SHIFT);
	super_put(engine, 0, &super);
}

/* Of the first run's records one block is not a hole: it is looked at all the same. */
static void record_put(struct engine *engine, uint64_t ino)
{
	struct ash_inode record = { .magic = ash_put32(ASH_MAGIC_INODE), .ino = ash_put64(ino), .nlink = ash_put32(1) };

	record.mode = ash_put32(S_IFREG | 0644);
	inode_forge(engine, ino, &record);
}

Test(holes, records_of_runs)
{
	struct ash_check_result result;
	struct ash_bitmap_block bitmap;
	struct sick sick;

	sparse_open(&sick, ASH_BITS_PER_BITMAP);
	record_put(&sick.engine, 30000);
	image_read(&sick.engine, run_start(&sick.engine), &bitmap);
	bitmap.initialized = ash_put32(LARGE_RUN - 1);
	block_seal(&sick.engine, (uint8_t *)&bitmap);
	runs_put(&sick.engine);
	blocks_read = 0;
	memory_limit(100u << 20); /* for twenty million inodes */
	result = check(&sick, ASH_CHECK_NO);
	cr_expect(strstr(sick.codes, "unreachable-inode"), "%s", sick.codes);
	cr_expect_eq(result.inodes, (uint64_t)RUNS * ASH_BITS_PER_BITMAP);
	cr_expect_lt(blocks_read, FEW, "%llu", (unsigned long long)blocks_read);
	cr_expect_eq(check(&sick, ASH_CHECK_YES).left, 0, "%s", sick.codes);
	cr_expect_eq(check(&sick, ASH_CHECK_NO).problems, 0, "%s", sick.codes);
	engine_close(&sick.engine);
}

/* All groups say that something was allocated in them. */
static void groups_touched(struct engine *engine)
{
	struct ash_group_table_block table;
	struct ash_super super;

	image_read(engine, 0, &super);
	image_read(engine, ash_get64(super.group_table_start), &table);
	for (unsigned i = 0; i < ash_get32(super.group_count); i++)
		table.flags[i] = ash_put32(0);
	table.header.crc = ash_put32(ash_block_crc(ash_get32(super.checksum_seed), &table));
	image_write(engine, ash_get64(super.group_table_start), &table);
	super.inode_runs = ash_put64(2);
	super_put(engine, 0, &super);
}

Test(holes, search_for_a_run)
{
	struct sick sick;

	sparse_open(&sick, 2048);
	groups_touched(&sick.engine);
	blocks_read = 0;
	check(&sick, ASH_CHECK_NO);
	cr_expect(strstr(sick.codes, "table-size"), "%s", sick.codes);
	cr_expect_lt(blocks_read, FEW, "%llu", (unsigned long long)blocks_read);
	engine_close(&sick.engine);
}

#define FOUND_RUNS 40u

/* Bitmaps that say that all records behind them were written. There is nothing. */
Test(holes, search_for_a_run_among_bitmaps)
{
	struct ash_super super;
	struct sick sick;

	sparse_open(&sick, ASH_BITS_PER_BITMAP);
	groups_touched(&sick.engine);
	image_read(&sick.engine, 0, &super);
	for (uint64_t i = 0; i < FOUND_RUNS / 2; i++)
		run_put(&sick.engine, &super, 2 + i, ash_group_start(2 + i) + 2);
	blocks_read = 0;
	check(&sick, ASH_CHECK_NO);
	cr_expect(strstr(sick.codes, "table-size"), "%s", sick.codes);
	cr_expect_lt(blocks_read, FEW, "%llu", (unsigned long long)blocks_read);
	engine_close(&sick.engine);
}

/* The superblock, with a table of so many runs, and its backup, so that nothing else is to be repaired about it. */
static void table_put(struct engine *engine, struct ash_super *super, uint64_t runs)
{
	super->inode_runs = ash_put64(runs);
	super->table_inode.size = ash_put64(runs * LARGE_RUN << ASH_BLOCK_SHIFT);
	super_put(engine, ash_get64(super->block_count) - 1, super);
	super_put(engine, 0, super);
}

/* What is repaired takes few writes, and the table has all the runs then. */
static void expect_table_repaired(struct sick *sick, const char *code, uint64_t runs)
{
	struct ash_check_result result;

	blocks_written = 0;
	cr_expect_eq(check(sick, ASH_CHECK_YES).left, 0, "%s", sick->codes);
	cr_expect(strstr(sick->codes, code), "%s", sick->codes);
	cr_expect_lt(blocks_written, FEW, "%llu", (unsigned long long)blocks_written);
	result = check(sick, ASH_CHECK_NO);
	cr_expect_eq(result.problems, 0, "%s", sick->codes);
	cr_expect_eq(result.inodes, runs * ASH_BITS_PER_BITMAP);
}

/*
 * The table's extents are lost, and every other run: one block is there of each run that is found. A free block that is
 * no hole becomes empty.
 */
Test(holes, runs_between_those_that_are_found)
{
	const uint64_t old = ash_group_start(3) + 10000;
	uint8_t bytes[ASH_BLOCK_SIZE], empty[ASH_BLOCK_SIZE] = { 0 };
	struct ash_super super;
	struct sick sick;

	sparse_open(&sick, ASH_BITS_PER_BITMAP);
	groups_touched(&sick.engine);
	image_read(&sick.engine, 0, &super);
	for (uint64_t i = 0; i < FOUND_RUNS; i++) {
		uint64_t start = ash_group_start(2 + i) + 2;
		struct ash_inode records[ASH_INODES_PER_BLOCK] = { 0 };

		records[0].magic = ash_put32(ASH_MAGIC_INODE);
		records[0].ino = ash_put64(2 * (i + 1) * ASH_BITS_PER_BITMAP);
		records[0].crc = ash_put32(ash_inode_crc(ash_get32(super.checksum_seed), &records[0]));
		image_write(&sick.engine, start + 1, records);
	}
	node_begin(super.table_inode.data, ASH_DATA_FORK_SIZE, 1);
	node_add_child(super.table_inode.data, 0, ash_group_start(1) + 100);
	table_put(&sick.engine, &super, 2 * FOUND_RUNS + 1);
	memset(bytes, 'x', sizeof(bytes));
	image_write(&sick.engine, old, bytes);
	expect_table_repaired(&sick, "table-lost-run", 2 * FOUND_RUNS + 1);
	image_read(&sick.engine, old, bytes);
	cr_expect_arr_eq(bytes, empty, sizeof(bytes));
	engine_close(&sick.engine);
}

#define LEAF_RUNS 120u
#define LEAVES 5u

/* The table's extents lead to the bitmap of each run, and to no block of its records. */
Test(holes, runs_that_are_only_bitmaps)
{
	uint64_t start, count, run = 1, block = ash_group_start(2) + 2;
	struct ash_super super;
	struct sick sick;

	sparse_open(&sick, ASH_BITS_PER_BITMAP);
	groups_touched(&sick.engine);
	image_read(&sick.engine, 0, &super);
	table_extent(&super, &start, &count);
	node_begin(super.table_inode.data, ASH_DATA_FORK_SIZE, 1);
	for (unsigned i = 0; i < LEAVES; i++) {
		uint8_t bytes[ASH_BLOCK_SIZE];
		uint8_t *node = tree_block_begin(&sick.engine, bytes, block, ASH_INO_TABLE, 0);

		node_add_child(super.table_inode.data, i ? run * LARGE_RUN : 0, block++);
		if (!i)
			node_add_extent(node, 0, start, LARGE_RUN);
		for (unsigned j = 0; j < LEAF_RUNS; j++, run++, block++) {
			node_add_extent(node, run * LARGE_RUN, block, 1);
			run_put(&sick.engine, &super, run, block);
		}
		block_seal(&sick.engine, bytes);
	}
	super.table_inode.blocks = ash_put64(LARGE_RUN + run - 1 + LEAVES);
	table_put(&sick.engine, &super, run);
	memory_limit(50u << 20); /* for twenty million inodes */
	check(&sick, ASH_CHECK_NO);
	cr_expect(strstr(sick.codes, "table-hole"), "%s", sick.codes);
	expect_table_repaired(&sick, "table-hole", run);
	engine_close(&sick.engine);
}

#define CLAIMED (1u << 17)

static void claim(struct engine *engine, uint64_t ino, uint64_t block)
{
	struct ash_inode record = { .magic = ash_put32(ASH_MAGIC_INODE), .ino = ash_put64(ino), .nlink = ash_put32(1) };

	record.mode = ash_put32(S_IFREG | 0644);
	record.data_kind = ASH_FORK_TREE;
	record.size = ash_put64((uint64_t)CLAIMED << ASH_BLOCK_SHIFT);
	record.blocks = ash_put64(CLAIMED);
	node_begin(record.data, ASH_DATA_FORK_SIZE, 0);
	for (uint64_t at = 0, count; at < CLAIMED;
	     at += count, block = ash_group_start(block / ASH_BLOCKS_PER_GROUP + 1) + 2) {
		count = ASH_BLOCKS_PER_GROUP - 2 < CLAIMED - at ? ASH_BLOCKS_PER_GROUP - 2 : CLAIMED - at;
		node_add_extent(record.data, at, block, (uint32_t)count);
	}
	inode_forge(engine, ino, &record);
}

/* A copy of a hole is a hole, and of what lies in it a copy. */
Test(holes, claimed_by_two_files)
{
	char text[ASH_BLOCK_SIZE] = "content", back[ASH_BLOCK_SIZE] = "";
	uint64_t block = ash_group_start(2) + 2;
	struct ash_check_result result;
	struct ash_attr attr;
	struct sick sick;

	sparse_open(&sick, 2048);
	claim(&sick.engine, 8, block);
	claim(&sick.engine, 9, block);
	image_write(&sick.engine, block + 5000, text);
	blocks_written = 0;
	result = check(&sick, ASH_CHECK_YES);
	cr_expect_eq(result.left, 0, "%s", sick.codes);
	cr_expect(strstr(sick.codes, "duplicate-blocks"), "%s", sick.codes);
	cr_expect_lt(blocks_written, FEW, "%llu", (unsigned long long)blocks_written);
	cr_expect_eq(check(&sick, ASH_CHECK_NO).problems, 0, "%s", sick.codes);
	engine_mount(&sick.engine);
	for (uint64_t ino = 8; ino < 10; ino++) {
		cr_assert_eq(ash_getattr(sick.engine.volume, ino, &attr), 0);
		cr_expect_eq(attr.size, (uint64_t)CLAIMED << ASH_BLOCK_SHIFT);
		cr_expect_eq(ash_read(sick.engine.volume, ino, back, sizeof(back), 5000ull << ASH_BLOCK_SHIFT),
			     sizeof(back));
		cr_expect_str_eq(back, text);
		cr_expect_eq(ash_read(sick.engine.volume, ino, back, sizeof(back), 5001ull << ASH_BLOCK_SHIFT),
			     sizeof(back));
		cr_expect_eq(back[0], 0);
	}
	engine_close(&sick.engine);
}
