/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Blocks that are claimed more than once: how much is asked, and what is left when there are too many for copies. */
#include "forge_fixture.h"

#include <time.h>

#define SPARE 32u /* blocks at both ends of the free space for other things */

/* Free space in one piece, and where it begins. */
static uint64_t region_open(struct sick *sick, uint64_t *count)
{
	struct ash_super super;
	uint64_t first;

	sick_open(sick, true);
	image_read(&sick->engine, 0, &super);
	first = block_take(&sick->engine);
	*count = (ash_get64(super.block_count) - first - 2 * SPARE) & ~1ull;
	return first + SPARE;
}

static uint64_t file_ino(const struct sick *sick, unsigned number)
{
	return sick->file - FILES + 1 + number;
}

static void file_forge(struct sick *sick, uint64_t ino, struct ash_inode *record, uint64_t blocks,
		       uint64_t extent_blocks)
{
	record->data_kind = ASH_FORK_TREE;
	record->size = ash_put64(extent_blocks * ASH_BLOCK_SIZE);
	record->blocks = ash_put64(blocks);
	inode_forge(&sick->engine, ino, record);
}

static unsigned reports;

static void count_report(void *context, const struct ash_check_problem *problem)
{
	note_code(context, problem);
	reports++;
}

static struct ash_check_result count_check(struct sick *sick, enum ash_check_mode mode)
{
	struct ash_check_options options = {
		.mode = mode, .force = true, .no_threads = true, .report = count_report, .context = sick
	};
	struct ash_check_result result;

	reports = 0;
	sick->codes[0] = 0;
	cr_assert_eq(ash_check(sick->engine.dev, &options, &result), 0, "%s", result.error);
	return result;
}

/* A file has every second block of another's extent. */
Test(claim, one_question_for_each_fork)
{
	struct ash_inode record;
	uint64_t count, region;
	struct sick sick;

	region = region_open(&sick, &count);
	inode_get(&sick.engine, file_ino(&sick, 0), &record);
	node_begin(record.data, ASH_DATA_FORK_SIZE, 0);
	for (unsigned i = 0; i < 8; i++)
		node_add_extent(record.data, i, region + 2ull * i, 1);
	file_forge(&sick, file_ino(&sick, 0), &record, 8, 8);
	inode_get(&sick.engine, file_ino(&sick, 1), &record);
	node_begin(record.data, ASH_DATA_FORK_SIZE, 0);
	node_add_extent(record.data, 0, region, 16);
	file_forge(&sick, file_ino(&sick, 1), &record, 16, 16);
	cr_expect_eq(check(&sick, ASH_CHECK_YES).left, 0, "%s", sick.codes);
	cr_expect_eq(strncmp(sick.codes, "duplicate-blocks bitmap", 23), 0, "%s", sick.codes);
	cr_expect_eq(check(&sick, ASH_CHECK_NO).problems, 0, "%s", sick.codes);
	inode_get(&sick.engine, file_ino(&sick, 1), &record);
	cr_expect_eq(ash_get64(record.blocks), 17, "copies, not holes, and a leaf");
	engine_close(&sick.engine);
}

#define VALUE_SIZE (ASH_XATTR_INLINE_MAX + 1)

/* The only attribute in the record: where its value lies. */
static uint8_t *extent_of_value(struct ash_inode *record)
{
	const uint8_t *value;
	uint32_t length;
	uint64_t key;

	cr_assert_eq(ash_node_count(record->attr), 1);
	ash_node_record(record->attr, 0, &key, &value, &length);
	return record->attr + (value - record->attr) + sizeof(struct ash_xattr_value) + strlen("user.x") +
	       sizeof(struct ash_xattr_external);
}

/* The record of the first file is from a time at which it had the block with what is another file's value now. */
Test(claim, attribute_whose_checksum_is_right)
{
	uint8_t values[2][VALUE_SIZE] = { { 1 }, { 2 } }, back[VALUE_SIZE] = { 0 };
	struct ash_inode first, last;
	struct sick sick;

	sick_open(&sick, true);
	engine_mount(&sick.engine);
	for (unsigned i = 0; i < 2; i++)
		cr_assert_eq(ash_setxattr(sick.engine.volume, file_ino(&sick, i ? FILES - 1 : 0), "user.x", values[i],
					  VALUE_SIZE, 0),
			     0);
	cr_assert_eq(ash_close(sick.engine.volume), 0);
	inode_get(&sick.engine, file_ino(&sick, 0), &first);
	inode_get(&sick.engine, sick.file, &last);
	memcpy(extent_of_value(&first), extent_of_value(&last), sizeof(ash_le64));
	inode_forge(&sick.engine, file_ino(&sick, 0), &first);
	expect_healed(&sick, "duplicate-blocks");
	engine_mount(&sick.engine);
	cr_expect_eq(ash_getxattr(sick.engine.volume, sick.file, "user.x", back, VALUE_SIZE), VALUE_SIZE);
	cr_expect_arr_eq(back, values[1], VALUE_SIZE);
	engine_close(&sick.engine);
}

/* A tree whose leaves lie at every second block of the region. */
static void comb_forge(struct sick *sick, uint64_t ino, uint64_t region, uint64_t count)
{
	uint8_t inner[ASH_BLOCK_SIZE], leaf[ASH_BLOCK_SIZE], *node = NULL;
	uint64_t inner_block = region - SPARE;
	struct ash_inode record;

	inode_get(&sick->engine, ino, &record);
	node_begin(record.data, ASH_DATA_FORK_SIZE, 2);
	for (uint64_t i = 0; i < count / 2; i++) {
		if (i % 200 == 0) {
			if (node)
				block_seal(&sick->engine, inner);
			node_add_child(record.data, i, ++inner_block);
			node = tree_block_begin(&sick->engine, inner, inner_block, ino, 1);
		}
		node_add_child(node, i, region + 2 * i);
		node_add_extent(tree_block_begin(&sick->engine, leaf, region + 2 * i, ino, 0), i, region - 1, 1);
		block_seal(&sick->engine, leaf);
	}
	block_seal(&sick->engine, inner);
	file_forge(sick, ino, &record, count, count / 2);
}

/*
 * Every file claims all of the region several times: many times the volume. Work, memory and output stay in
 * proportion to the claims, and the volume is sound afterwards.
 */
Test(claim, many_claims_of_everything)
{
	struct ash_check_result result;
	struct ash_inode record;
	uint64_t count, region;
	struct sick sick;

	region = region_open(&sick, &count);
	comb_forge(&sick, file_ino(&sick, 0), region, count);
	for (unsigned i = 1; i < FILES; i++) {
		inode_get(&sick.engine, file_ino(&sick, i), &record);
		node_begin(record.data, ASH_DATA_FORK_SIZE, 0);
		for (unsigned e = 0; e < 8; e++)
			node_add_extent(record.data, e * count, region, (uint32_t)count);
		file_forge(&sick, file_ino(&sick, i), &record, 8 * count, 8 * count);
	}
	result = count_check(&sick, ASH_CHECK_NO);
	cr_expect_lt(reports, 2 * FILES, "%u", reports);
	cr_expect(strstr(sick.codes, "duplicate-too-many"), "%s", sick.codes);
	result = count_check(&sick, ASH_CHECK_YES);
	cr_expect_eq(result.left, 0);
	cr_expect_lt(reports, 4 * FILES, "%u", reports);
	cr_expect_eq(result.files, FILES);
	cr_expect_eq(check(&sick, ASH_CHECK_NO).problems, 0, "%s", sick.codes);
	engine_close(&sick.engine);
}

/* One file claims everything, many times, and another has its content there: that is kept, whatever their numbers. */
Test(claim, who_claims_least_keeps_most)
{
	char text[ASH_BLOCK_SIZE] = "content", back[ASH_BLOCK_SIZE] = "";
	struct ash_inode record;
	uint64_t count, region;
	struct sick sick;

	region = region_open(&sick, &count) - SPARE;
	engine_mount(&sick.engine);
	cr_assert_eq(ash_write(sick.engine.volume, sick.file, text, sizeof(text), 0, 0), sizeof(text));
	cr_assert_eq(ash_close(sick.engine.volume), 0);
	sick.engine.volume = NULL;
	inode_get(&sick.engine, file_ino(&sick, 0), &record);
	node_begin(record.data, ASH_DATA_FORK_SIZE, 0);
	for (unsigned e = 0; e < 8; e++)
		node_add_extent(record.data, e * count, region, (uint32_t)count);
	file_forge(&sick, file_ino(&sick, 0), &record, 8 * count, 8 * count);
	cr_expect_eq(check(&sick, ASH_CHECK_YES).left, 0, "%s", sick.codes);
	cr_expect(strstr(sick.codes, "duplicate-too-many"), "%s", sick.codes);
	cr_expect_eq(check(&sick, ASH_CHECK_NO).problems, 0, "%s", sick.codes);
	engine_mount(&sick.engine);
	cr_expect_eq(ash_read(sick.engine.volume, sick.file, back, sizeof(back), 0), sizeof(back));
	cr_expect_eq(memcmp(text, back, sizeof(back)), 0);
	engine_close(&sick.engine);
}

/* ---- Time ---- */

#define LEAVES 12u
#define LEAF_EXTENTS 140u

/* A file of which each extent is the same part of the volume; processor seconds that a check takes, and a repair. */
static double claims_check(uint32_t blocks)
{
	struct ash_mkfs_options options = { .log_blocks = ASH_LOG_MIN_BLOCKS, .inodes_per_run = 2048 };
	uint64_t ino = ASH_INO_FIRST_FREE, extents = (uint64_t)LEAVES * LEAF_EXTENTS;
	struct ash_inode record = { .magic = ash_put32(ASH_MAGIC_INODE), .ino = ash_put64(ino) };
	char error[BDEV_ERROR_TEXT] = "";
	struct timespec before, after;
	uint8_t bytes[ASH_BLOCK_SIZE];
	struct sick sick = { 0 };

	sick.engine.dev = engine_device("mem:8G");
	cr_assert_eq(ash_mkfs(sick.engine.dev, &options, error), 0, "%s", error);
	node_begin(record.data, ASH_DATA_FORK_SIZE, 1);
	for (uint64_t leaf = 0; leaf < LEAVES; leaf++) {
		uint64_t block = block_take(&sick.engine);
		uint8_t *node = tree_block_begin(&sick.engine, bytes, block, ino, 0);

		for (uint64_t i = leaf * LEAF_EXTENTS; i < (leaf + 1) * LEAF_EXTENTS; i++)
			node_add_extent(node, i * ASH_EXTENT_MAX_BLOCKS, ash_group_start(2) + 100, blocks);
		block_seal(&sick.engine, bytes);
		node_add_child(record.data, leaf * LEAF_EXTENTS * ASH_EXTENT_MAX_BLOCKS, block);
	}
	record.mode = ash_put32(S_IFREG | 0644);
	record.nlink = ash_put32(1);
	record.size = ash_put64(extents * ASH_EXTENT_MAX_BLOCKS << ASH_BLOCK_SHIFT);
	record.blocks = ash_put64(extents * blocks + LEAVES);
	file_forge(&sick, ino, &record, extents * blocks + LEAVES, extents * ASH_EXTENT_MAX_BLOCKS);
	clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &before);
	cr_expect_gt(check(&sick, ASH_CHECK_NO).problems, 0);
	cr_expect(strstr(sick.codes, "duplicate-too-many"), "%s", sick.codes);
	cr_expect_eq(check(&sick, ASH_CHECK_YES).left, 0, "%s", sick.codes);
	clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &after);
	cr_expect_eq(check(&sick, ASH_CHECK_NO).problems, 0, "%s", sick.codes);
	bdev_close(sick.engine.dev);
	return (double)(after.tv_sec - before.tv_sec) + (double)(after.tv_nsec - before.tv_nsec) / 1e9;
}

/* An extent costs no more for being thirty times as long. */
Test(claim, extents_as_long_as_can_be)
{
	double one = claims_check(ASH_BLOCKS_PER_GROUP), most = claims_check(ASH_EXTENT_MAX_BLOCKS);

	cr_expect_lt(most, 5 * one + 0.2, "%.2f for a group, %.2f for as much as can be", one, most);
}
