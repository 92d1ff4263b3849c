/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Runs of the inode table that are found by their bitmap blocks, or by their records: what is taken for one, and what
 * the search costs.
 */
#include "forge_fixture.h"

/* A good bitmap block of a run at `block`. */
static void bitmap_forge(struct sick *sick, uint64_t block, uint64_t run, uint32_t initialized)
{
	_Alignas(8) uint8_t bytes[ASH_BLOCK_SIZE] = { 0 };
	struct ash_bitmap_block *bitmap = (void *)bytes;
	struct ash_super super;

	image_read(&sick->engine, 0, &super);
	bitmap->header = super.header;
	bitmap->header.magic = ash_put32(ASH_MAGIC_INODE_BITMAP);
	bitmap->header.address = ash_put64(block);
	bitmap->header.owner = ash_put64(run);
	bitmap->initialized = ash_put32(initialized);
	bitmap->header.crc = ash_put32(ash_block_crc(ash_get32(super.checksum_seed), bytes));
	image_write(&sick->engine, block, bytes);
}

static uint64_t blocks_read;

static void count_reads(void *context, const struct bdev_request *request)
{
	(void)context;
	if (request->op == BDEV_READ)
		blocks_read += request->length / ASH_BLOCK_SIZE;
}

/* Each free block says that it begins a run, and the superblock that one is missing. */
static void flood(uint64_t first_run, uint64_t runs)
{
	struct ash_super super;
	struct ash_mkfs_options options = { .log_blocks = ASH_LOG_MIN_BLOCKS, .inodes_per_run = 2048 };
	char error[BDEV_ERROR_TEXT] = "";
	uint64_t start, count, blocks;
	struct sick sick = { 0 };

	cr_assert_eq(fault_open(engine_device("mem:16M"), &sick.engine.dev), 0);
	cr_assert_eq(ash_mkfs(sick.engine.dev, &options, error), 0, "%s", error);
	image_read(&sick.engine, 0, &super);
	table_extent(&super, &start, &count);
	blocks = ash_get64(super.block_count);
	super.inode_runs = ash_put64(2);
	super_put(&sick.engine, 0, &super);
	for (uint64_t block = start + count + 100; block + count < blocks; block++)
		bitmap_forge(&sick, block, first_run + block % runs, (uint32_t)count - 1);
	blocks_read = 0;
	fault_ask(sick.engine.dev, count_reads, NULL);
	check(&sick, ASH_CHECK_NO);
	fault_ask(sick.engine.dev, NULL, NULL);
	cr_expect_lt(blocks_read, 40 * blocks, "%llu of %llu", (unsigned long long)blocks_read,
		     (unsigned long long)blocks);
	engine_close(&sick.engine);
}

Test(lost, many_bitmaps_of_impossible_runs)
{
	flood(100, 2000);
}

Test(lost, many_bitmaps_of_possible_runs)
{
	flood(1, 10);
}

static void expect_names(struct sick *sick)
{
	struct ash_attr attr;
	char name[16];

	engine_mount(&sick->engine);
	for (unsigned i = 0; i < FILES; i++) {
		snprintf(name, sizeof(name), "file%u", i);
		cr_expect_eq(ash_lookup(sick->engine.volume, ASH_INO_ROOT, name, &attr), 0, "%s", name);
	}
	cr_expect_eq(ash_close(sick->engine.volume), 0);
	sick->engine.volume = NULL;
}

/* The run, which lies at the end of the volume, is lost. A bitmap of it without records lies before it. */
Test(lost, run_with_records_before_one_without)
{
	_Alignas(8) uint8_t bytes[ASH_BLOCK_SIZE];
	struct ash_block_header *header = (void *)bytes;
	uint64_t start, count, last, to;
	struct ash_super super;
	struct sick sick;

	sick_open(&sick, true);
	image_read(&sick.engine, 0, &super);
	table_extent(&super, &start, &count);
	last = ash_get64(super.block_count) - 1;
	to = last - 10 - count;
	for (uint64_t i = 0; i < count; i++) {
		image_read(&sick.engine, start + i, bytes);
		if (!i) {
			header->address = ash_put64(to);
			header->crc = ash_put32(ash_block_crc(ash_get32(super.checksum_seed), bytes));
		}
		image_write(&sick.engine, to + i, bytes);
		memset(bytes, 0, sizeof(bytes));
		image_write(&sick.engine, start + i, bytes);
	}
	bitmap_forge(&sick, start + 2, 0, 1);
	expect_healed(&sick, "table-lost-run");
	expect_names(&sick);
	engine_close(&sick.engine);
}

/*
 * The run lies in two pieces, and one block of it has no place. Behind the first piece lies what belongs to a file: the
 * run is not lost, and does not lie there.
 */
Test(lost, run_with_a_hole_is_not_taken_for_one_piece)
{
	static const char text[ASH_BLOCK_SIZE] = "content";
	uint8_t block[ASH_BLOCK_SIZE] = { 0 };
	char back[sizeof(text)] = "";
	struct ash_inode *record = (void *)block;
	struct ash_extent_value extent;
	uint64_t start, count, to, first;
	struct ash_super super;
	struct sick sick;

	sick_open(&sick, true);
	image_read(&sick.engine, 0, &super);
	table_extent(&super, &start, &count);
	to = ash_get64(super.block_count) - count - 50;
	first = count - 8;
	table_begin(&super);
	table_add(&super, 0, start, first);
	table_add(&super, first + 1, to + first + 1, count - first - 1);
	super_put(&sick.engine, 0, &super);
	for (uint64_t i = first + 1; i < count; i++)
		image_write(&sick.engine, to + i, block);
	image_write(&sick.engine, start + first + 2, text);
	image_read(&sick.engine, sick.table, block);
	while (ash_get64(record->ino) != sick.file)
		record++;
	extent = (struct ash_extent_value){ ash_put64(start + first + 2), ash_put32(1), ash_put32(0) };
	record->data_kind = ASH_FORK_TREE;
	node_begin(record->data, ASH_DATA_FORK_SIZE, 0);
	node_add(record->data, 0, &extent, sizeof(extent));
	record->size = ash_put64(sizeof(text));
	record->blocks = ash_put64(1);
	record->crc = ash_put32(ash_inode_crc(ash_get32(super.checksum_seed), record));
	image_write(&sick.engine, sick.table, block);

	expect_healed(&sick, "table-hole");
	cr_expect(!strstr(sick.codes, "table-lost-run"), "%s", sick.codes);
	engine_mount(&sick.engine);
	cr_expect_eq(ash_read(sick.engine.volume, sick.file, back, sizeof(back), 0), sizeof(back));
	cr_expect_str_eq(back, text);
	engine_close(&sick.engine);
}

static const uint8_t nothing[ASH_BLOCK_SIZE];

/* The tree block with the table's extents is lost, and with it the bitmap of the only run. */
static void table_and_bitmap_lose(struct sick *sick, uint64_t *start, uint64_t *count)
{
	struct ash_super super;
	uint64_t last;

	image_read(&sick->engine, 0, &super);
	last = ash_get64(super.block_count) - 1;
	table_extent(&super, start, count);
	node_begin(super.table_inode.data, ASH_DATA_FORK_SIZE, 1);
	node_add_child(super.table_inode.data, 0, last - 5);
	super_put(&sick->engine, 0, &super);
	super_put(&sick->engine, last, &super);
	image_write(&sick->engine, *start, nothing);
}

Test(lost, run_without_a_bitmap_is_found_by_its_records)
{
	uint64_t start, count;
	struct sick sick;

	sick_open(&sick, true);
	table_and_bitmap_lose(&sick, &start, &count);
	expect_healed(&sick, "table-lost-run");
	expect_names(&sick);
	engine_close(&sick.engine);
}

/* A copy, as a file may hold it, lies before the run, and both have the same records. The copy's bitmap tells. */
Test(lost, copy_of_a_run_is_not_taken_for_the_run)
{
	uint64_t start, count, found, last;
	uint8_t bytes[ASH_BLOCK_SIZE];
	struct ash_super super;
	struct sick sick;

	sick_open(&sick, true);
	image_read(&sick.engine, 0, &super);
	last = ash_get64(super.block_count) - 1;
	table_extent(&super, &start, &count);
	for (uint64_t i = 0; i < count; i++) { /* the run moves to the end, the copy to where it was has a bitmap */
		image_read(&sick.engine, start + i, bytes);
		image_write(&sick.engine, last - 10 - count + i, bytes);
	}
	image_write(&sick.engine, last - 10 - count, nothing);
	image_read(&sick.engine, start, bytes);
	table_and_bitmap_lose(&sick, &start, &count);
	((struct ash_block_header *)(void *)bytes)->address = ash_put64(start + 1);
	((struct ash_block_header *)(void *)bytes)->crc =
		ash_put32(ash_block_crc(ash_get32(super.checksum_seed), bytes));
	image_write(&sick.engine, start, bytes);
	expect_healed(&sick, "table-lost-run");
	image_read(&sick.engine, 0, &super);
	table_extent(&super, &found, &count);
	cr_expect_eq(found, last - 10 - count);
	expect_names(&sick);
	engine_close(&sick.engine);
}
