/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Blocks that the device does not give, on a volume whose log must be replayed: -n names them and writes nothing, -y
 * writes them anew, which heals them as it heals a disk's sectors, and then -n finds nothing.
 */
#include "sick_fixture.h"

Test(journal, unreadable_control_block)
{
	struct sick sick;

	for (uint64_t i = 0; i < 2; i++) {
		sick_open(&sick, false);
		make_unreadable(&sick, sick.log_start + i);
		cr_expect_eq(check(&sick, ASH_CHECK_NO).problems, 0, "a note");
		cr_expect(strstr(sick.codes, "log-control-one"), "%s", sick.codes);
		cr_expect_eq(check(&sick, ASH_CHECK_YES).left, 0);
		cr_expect_eq(check(&sick, ASH_CHECK_NO).notes, 0, "%s", sick.codes);
		expect_files(&sick, true);
		engine_close(&sick.engine);
	}
}

Test(journal, unreadable_unused_log_block)
{
	struct sick sick;

	sick_open(&sick, true);
	make_unreadable(&sick, sick.log_start + 2 + (sick.position + 100) % sick.ring);
	expect_healed(&sick, "log-unreadable");
	expect_files(&sick, true);
	engine_close(&sick.engine);
}

Test(journal, unreadable_last_log_block)
{
	struct sick sick;

	sick_open(&sick, false);
	make_unreadable(&sick, sick.log_start + 2 + (sick.position - 1) % sick.ring);
	expect_healed(&sick, "log-end-unreadable");
	expect_files(&sick, false);
	engine_close(&sick.engine);
}

/* Those behind it say that it was durable. */
Test(journal, unreadable_durable_log_block)
{
	struct ash_setattr change = { .valid = ASH_SET_MODE };
	struct sick sick;

	sick_open(&sick, false);
	engine_mount(&sick.engine);
	sick.position = sick.engine.volume->log->written;
	for (change.mode = 0600; change.mode < 0603; change.mode++) {
		cr_assert_eq(ash_setattr(sick.engine.volume, sick.file, &change, NULL), 0);
		cr_assert_eq(ash_log_force(sick.engine.volume, ash_log_end(sick.engine.volume)), 0);
	}
	ash_abandon(sick.engine.volume);
	sick.engine.volume = NULL;
	make_unreadable(&sick, sick.log_start + 2 + sick.position % sick.ring);
	expect_healed(&sick, "log-replay");
	cr_expect_eq(fault_hits(sick.engine.dev), 0, "its place was written anew");
	expect_files(&sick, false);
	engine_close(&sick.engine);
}

/* Of an epoch that began behind it: what is before it in the log is still there, and is kept. */
Test(journal, unreadable_log_block_before_the_epoch)
{
	struct ash_setattr change = { .valid = ASH_SET_MODE, .mode = 0640 };
	struct sick sick;
	uint64_t position;

	sick_open(&sick, false);
	engine_mount(&sick.engine);
	position = sick.engine.volume->log->written;
	cr_assert_eq(ash_setattr(sick.engine.volume, sick.file, &change, NULL), 0);
	cr_assert_eq(ash_log_force(sick.engine.volume, ash_log_end(sick.engine.volume)), 0);
	ash_abandon(sick.engine.volume);
	engine_mount(&sick.engine);
	ash_abandon(sick.engine.volume);
	sick.engine.volume = NULL;
	make_unreadable(&sick, sick.log_start + 2 + position % sick.ring);
	expect_healed(&sick, "log-end-unreadable");
	expect_files(&sick, true);
	engine_close(&sick.engine);
}

Test(journal, unreadable_home_block)
{
	struct sick sick;

	sick_open(&sick, false);
	make_unreadable(&sick, sick.table);
	expect_healed(&sick, "log-home-unreadable");
	expect_files(&sick, false);
	engine_close(&sick.engine);
}

/* Nothing is given up without being asked for, and nothing is written over the log then. */
Test(journal, unreadable_home_block_is_kept_by_preen)
{
	struct ash_check_options options = { .mode = ASH_CHECK_PREEN, .no_threads = true };
	struct ash_check_result result;
	struct sick sick;

	sick_open(&sick, false);
	make_unreadable(&sick, sick.table);
	cr_expect_eq(ash_check(sick.engine.dev, &options, &result), 0);
	cr_expect(result.stopped);
	cr_expect_gt(result.left, 0);
	cr_expect(!result.changed);
	fault_clear(sick.engine.dev);
	expect_files(&sick, true);
	engine_close(&sick.engine);
}

Test(journal, unreadable_group_table_under_a_log)
{
	struct sick sick;
	struct ash_super super;

	sick_open(&sick, false);
	image_read(&sick.engine, 0, &super);
	make_unreadable(&sick, ash_get64(super.group_table_start));
	expect_healed(&sick, "group-table-bad");
	expect_files(&sick, true);
	engine_close(&sick.engine);
}

Test(journal, unreadable_superblock_under_a_log)
{
	struct sick sick;

	sick_open(&sick, false);
	make_unreadable(&sick, 0);
	expect_healed(&sick, "super-bad");
	expect_files(&sick, true);
	engine_close(&sick.engine);
}

static size_t orphans_in_log(struct sick *sick)
{
	char error[BDEV_ERROR_TEXT];
	struct ash_overlay *overlay;
	const uint64_t *orphans;
	struct ash_super super;
	size_t count;

	image_read(&sick->engine, 0, &super);
	cr_assert_eq(ash_overlay_open(sick->engine.dev, &super, &overlay, error), 0, "%s", error);
	ash_overlay_orphans(overlay, &orphans, &count);
	ash_overlay_close(overlay);
	return count;
}

/* Its record is damaged: the engine leaves it in the log, and the check must not, for its number gets a new owner. */
Test(journal, orphan_that_cannot_be_released)
{
	uint8_t block[ASH_BLOCK_SIZE];
	struct ash_block_id id;
	struct ash_attr attr;
	struct sick sick;
	uint32_t offset;

	sick_open(&sick, true);
	engine_mount(&sick.engine);
	cr_assert_eq(ash_lookup(sick.engine.volume, ASH_INO_ROOT, "file0", &attr), 0);
	cr_assert_eq(ash_itable_locate(sick.engine.volume, attr.ino, &id, &offset), 0);
	cr_assert_eq(ash_unlink(sick.engine.volume, ASH_INO_ROOT, "file0", NULL), 0);
	cr_assert_eq(ash_checkpoint(sick.engine.volume), 0);
	ash_abandon(sick.engine.volume);
	sick.engine.volume = NULL;
	image_read(&sick.engine, id.block, block);
	block[offset + offsetof(struct ash_inode, uid)] ^= 1;
	image_write(&sick.engine, id.block, block);
	cr_expect_eq(orphans_in_log(&sick), 1);
	cr_expect_eq(check(&sick, ASH_CHECK_YES).left, 0, "%s", sick.codes);
	cr_expect_eq(orphans_in_log(&sick), 0);
	cr_expect_eq(check(&sick, ASH_CHECK_NO).problems, 0, "%s", sick.codes);
	engine_mount(&sick.engine);
	engine_close(&sick.engine);
}
