/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What a check leaves behind: a volume that is skipped the next time must be one that can be mounted, and in which
 * nothing is known to be wrong.
 */
#include "forge_fixture.h"

/* Without `force`. */
static struct ash_check_result check_again(struct sick *sick, enum ash_check_mode mode)
{
	struct ash_check_options options = { .mode = mode, .no_threads = true, .report = note_code, .context = sick };
	struct ash_check_result result;

	sick->codes[0] = 0;
	cr_assert_eq(ash_check(sick->engine.dev, &options, &result), 0, "%s", result.error);
	return result;
}

/* A problem that is more than preen repairs, and that no mount looks at. */
static void bitmap_spoil(struct sick *sick)
{
	image_spoil(&sick->engine, ash_group_bitmap(0), 100);
}

/* ---- What is left is not forgotten ---- */

Test(check, preen_remembers_where_it_stopped)
{
	struct ash_check_result result;
	struct sick sick;

	sick_open(&sick, true);
	bitmap_spoil(&sick);
	engine_mount(&sick.engine);
	ash_abandon(sick.engine.volume); /* the log is not closed: preen replays it, and closes it */
	sick.engine.volume = NULL;
	for (unsigned i = 0; i < 3; i++) {
		result = check_again(&sick, ASH_CHECK_PREEN);
		cr_expect(result.stopped, "run %u: %s", i, sick.codes);
		cr_expect(!result.skipped, "run %u", i);
		cr_expect_gt(result.left, 0, "run %u", i);
	}
	cr_expect_eq(check_again(&sick, ASH_CHECK_YES).left, 0);
	cr_expect(check_again(&sick, ASH_CHECK_PREEN).skipped);
	engine_close(&sick.engine);
}

/* Nothing was written, for nobody wanted it: the next run asks again, also without force. */
Test(check, what_was_declined_is_remembered)
{
	struct ash_check_result result;
	struct sick sick;

	sick_open(&sick, true);
	bitmap_spoil(&sick);
	cr_expect_gt(check(&sick, ASH_CHECK_ASK).left, 0);
	result = check_again(&sick, ASH_CHECK_ASK);
	cr_expect(!result.skipped);
	cr_expect_gt(result.left, 0, "%s", sick.codes);
	engine_close(&sick.engine);
}

Test(check, looking_sets_no_mark)
{
	struct ash_check_result result;
	struct sick sick;

	sick_open(&sick, true);
	bitmap_spoil(&sick);
	result = check(&sick, ASH_CHECK_NO);
	cr_expect_gt(result.left, 0);
	cr_expect(!result.changed);
	engine_close(&sick.engine);
}

/* ---- What no mount takes is not skipped ---- */

static void expect_seen(struct sick *sick, const char *code)
{
	struct ash_check_result result;

	sick->engine.options.no_write = true; /* so that the log stays closed */
	cr_expect_neq(engine_try_mount(&sick->engine), 0, "a mount refuses it");
	sick->engine.options.no_write = false;
	result = check_again(sick, ASH_CHECK_YES);
	cr_expect(!result.skipped);
	cr_expect(strstr(sick->codes, code), "%s", sick->codes);
	cr_expect_eq(result.left, 0);
	cr_expect(check_again(sick, ASH_CHECK_YES).skipped);
	expect_files(sick, true);
	engine_close(&sick->engine);
}

Test(check, damaged_group_table_is_seen)
{
	struct ash_super super;
	struct sick sick;

	sick_open(&sick, true);
	image_read(&sick.engine, 0, &super);
	image_spoil(&sick.engine, ash_get64(super.group_table_start), 100);
	expect_seen(&sick, "group-table-bad");
}

Test(check, wrong_number_of_runs_is_seen)
{
	struct ash_super super;
	struct sick sick;

	sick_open(&sick, true);
	image_read(&sick.engine, 0, &super);
	super.inode_runs = ash_put64(1000);
	super_put(&sick.engine, 0, &super);
	expect_seen(&sick, "table-size");
}

/* Behind the end of the closed log lies a block that only a later control block can have allowed. */
Test(check, log_that_has_lost_its_end_is_seen)
{
	_Alignas(8) uint8_t bytes[ASH_BLOCK_SIZE] = { 0 };
	struct ash_log_block *block = (void *)bytes;
	struct ash_log_control control;
	struct ash_super super;
	struct sick sick;
	uint64_t position, place;

	sick_open(&sick, true);
	image_read(&sick.engine, 0, &super);
	image_read(&sick.engine, sick.log_start, bytes);
	memcpy(&control, bytes, sizeof(control));
	memset(bytes, 0, sizeof(bytes));
	position = sick.position + 3;
	place = sick.log_start + 2 + position % sick.ring;
	block->header = super.header;
	block->header.magic = ash_put32(ASH_MAGIC_LOG_BLOCK);
	block->header.address = ash_put64(place);
	block->header.owner = ash_put64(position);
	block->epoch = ash_put64(ash_get64(control.epoch) + 10);
	block->header.crc = ash_put32(ash_block_crc(ash_get32(super.checksum_seed), bytes));
	image_write(&sick.engine, place, bytes);
	expect_seen(&sick, "log-replay");
}

/* A hole in the table; nothing else would look at that block. */
Test(check, hole_in_the_table_is_seen)
{
	struct ash_super super;
	uint64_t start, count;
	struct sick sick;

	sick_open(&sick, true);
	image_read(&sick.engine, 0, &super);
	table_extent(&super, &start, &count);
	table_begin(&super);
	table_add(&super, 0, start, count - 2);
	table_add(&super, count - 1, start + count - 1, 1);
	super_put(&sick.engine, 0, &super);
	expect_seen(&sick, "super-table-inode"); /* a backup has it whole */
}

/* ---- A last group that is none ---- */

/* A volume of one group on a device with so many blocks more, all superblocks of which say that these are a group. */
static void expect_no_group(unsigned more)
{
	const uint64_t blocks = ASH_BLOCKS_PER_GROUP + more;
	struct ash_check_result result;
	struct ash_super super, forged;
	struct sick sick = { 0 };
	char device[32];

	snprintf(device, sizeof(device), "mem:%lluk", (unsigned long long)blocks * ASH_BLOCK_SIZE / 1024);
	sick.engine.dev = engine_device(device);
	engine_format(sick.engine.dev, 0);
	sick.engine.options.no_threads = true;
	image_read(&sick.engine, 0, &super);
	cr_assert_eq(ash_get64(super.block_count), ASH_BLOCKS_PER_GROUP);
	forged = super;
	forged.block_count = ash_put64(blocks);
	forged.group_count = ash_put32(2);
	super_put(&sick.engine, 0, &forged);
	super_put(&sick.engine, ash_group_start(1), &forged);
	super_put(&sick.engine, blocks - 1, &forged);
	cr_expect_eq(engine_try_mount(&sick.engine), -EUCLEAN, "%u", more);
	result = check(&sick, ASH_CHECK_YES);
	cr_expect_eq(result.left, 0, "%u: %s", more, sick.codes);
	cr_expect_eq(check(&sick, ASH_CHECK_NO).problems, 0, "%u: %s", more, sick.codes);
	image_read(&sick.engine, 0, &forged);
	cr_expect_eq(ash_get64(forged.block_count), ASH_BLOCKS_PER_GROUP, "%u", more);
	engine_close(&sick.engine);
}

Test(check, last_group_without_room_for_its_own_blocks)
{
	expect_no_group(1);
}

Test(check, last_group_whose_bitmap_is_the_last_backup)
{
	expect_no_group(2);
}

Test(check, last_group_that_is_too_short)
{
	expect_no_group(ASH_MIN_GROUP_BLOCKS - 1);
}

/* ---- Log and group table ---- */

/* Is either believed to be in this place, with the other one far away? */
static bool place_good(const struct ash_super *made, uint64_t start, uint64_t count)
{
	const uint64_t away = ash_group_start(1) + 5000;
	struct ash_super log = *made, table = *made;

	log.log_start = table.group_table_start = ash_put64(start);
	log.log_blocks = table.group_table_blocks = ash_put64(count);
	log.group_table_start = table.log_start = ash_put64(away);
	cr_expect_eq(!ash_geometry_wrong(&log), !ash_geometry_wrong(&table), "%llu, %llu", (unsigned long long)start,
		     (unsigned long long)count);
	return !ash_geometry_wrong(&log);
}

/* Each lies in one group, between the fixed blocks: they would be written over one another. */
Test(check, place_of_log_and_group_table)
{
	const uint64_t count = 300, second = ash_group_start(1), third = ash_group_start(2), blocks = third + 1000;
	struct engine engine = { .dev = engine_device("mem:262048k") };
	struct ash_super super;

	engine_format(engine.dev, 0);
	image_read(&engine, 0, &super);
	cr_assert_eq(ash_get64(super.block_count), blocks);
	cr_expect_null(ash_geometry_wrong(&super));
	cr_expect(place_good(&super, 2, count));
	cr_expect(!place_good(&super, 1, count));
	cr_expect(place_good(&super, second - count, count));
	cr_expect(!place_good(&super, second - count + 1, count));
	cr_expect(!place_good(&super, second, count));
	cr_expect(!place_good(&super, second + 1, count));
	cr_expect(place_good(&super, second + 2, count));
	cr_expect(!place_good(&super, third, count));
	cr_expect(place_good(&super, third + 1, count));
	cr_expect(place_good(&super, blocks - 1 - count, count));
	cr_expect(!place_good(&super, blocks - count, count));
	cr_expect(!place_good(&super, blocks, count));
	engine_close(&engine);
}
