/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Blocks that the device does not give, on a volume whose log must be replayed: -n names them and writes nothing, -y
 * writes them anew, which heals them as it heals a disk's sectors, and then -n finds nothing.
 */
#include "forge_fixture.h"

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

/* That of the lower sequence, so that the log stays clean. */
static uint64_t older_control(struct sick *sick)
{
	uint8_t bytes[2][ASH_BLOCK_SIZE];
	uint64_t sequences[2];

	for (uint64_t i = 0; i < 2; i++) {
		image_read(&sick->engine, sick->log_start + i, bytes[i]);
		sequences[i] = ash_get64(((const struct ash_log_control *)(const void *)bytes[i])->sequence);
	}
	return sick->log_start + (sequences[1] < sequences[0]);
}

/* Block 0 is damaged, or another volume's: preen does not touch the log of a superblock that nobody has accepted yet. */
Test(journal, control_block_under_a_superblock_that_is_not_settled)
{
	uint8_t before[3][ASH_BLOCK_SIZE], after[ASH_BLOCK_SIZE];
	struct ash_check_result result;
	struct ash_super super;
	struct sick sick;

	for (unsigned other = 0; other < 2; other++) {
		sick_open(&sick, true);
		image_spoil(&sick.engine, older_control(&sick), 100);
		image_read(&sick.engine, 0, &super);
		super.checksum_seed = ash_put32(ash_get32(super.checksum_seed) + 1);
		if (other)
			super_put(&sick.engine, 0, &super);
		else
			image_spoil(&sick.engine, 0, 3000);
		for (uint64_t i = 0; i < 3; i++)
			image_read(&sick.engine, i ? sick.log_start + i - 1 : 0, before[i]);
		result = check(&sick, ASH_CHECK_PREEN);
		cr_expect(result.stopped, "%s", sick.codes);
		cr_expect(!result.changed, "%s", sick.codes);
		for (uint64_t i = 0; i < 3; i++) {
			image_read(&sick.engine, i ? sick.log_start + i - 1 : 0, after);
			cr_expect_arr_eq(after, before[i], sizeof(after), "block %u of those", (unsigned)i);
		}
		expect_healed(&sick, "log-control-one");
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

/* ---- Blocks that contradict the log ---- */

/* A good log block in the ring, behind the end of the closed log. */
static void ring_forge(struct sick *sick, uint64_t position, uint64_t epoch, uint64_t displaced)
{
	_Alignas(8) uint8_t bytes[ASH_BLOCK_SIZE] = { 0 };
	struct ash_log_block *block = (void *)bytes;
	uint64_t place = sick->log_start + 2 + position % sick->ring;
	struct ash_super super;

	image_read(&sick->engine, 0, &super);
	block->header = super.header;
	block->header.magic = ash_put32(ASH_MAGIC_LOG_BLOCK);
	block->header.address = ash_put64(place + displaced);
	block->header.owner = ash_put64(position);
	block->epoch = ash_put64(epoch);
	block->header.crc = ash_put32(ash_block_crc(ash_get32(super.checksum_seed), bytes));
	image_write(&sick->engine, place, bytes);
}

static void expect_overcome(uint64_t laps, uint64_t epoch, uint64_t displaced)
{
	struct sick sick;

	sick_open(&sick, true);
	ring_forge(&sick, sick.position + 5 + laps * sick.ring, epoch, displaced);
	expect_healed(&sick, "log-replay");
	expect_files(&sick, true);
	engine_close(&sick.engine);
}

/* Further than any log gets: a new one cannot begin behind it. */
Test(journal, block_of_an_impossible_position_and_epoch)
{
	expect_overcome(1ull << 32, 1ull << 40, 0);
}

Test(journal, block_of_an_impossible_position)
{
	expect_overcome(1ull << 32, 2, 0);
}

Test(journal, block_of_an_impossible_epoch)
{
	expect_overcome(0, 1ull << 40, 0);
}

Test(journal, block_of_a_later_epoch_in_another_place)
{
	expect_overcome(0, 1000, 1);
}

/* ---- A log in which the volume grew ---- */

/* From the first write to block 0 on nothing reaches the device. */
static void cut_at_super(void *context, const struct bdev_request *request)
{
	const struct fault_rule gone = { .ops = FAULT_OP(BDEV_WRITE) | FAULT_OP(BDEV_FLUSH) };
	struct sick *sick = context;

	if (request->op == BDEV_WRITE && !request->offset && !sick->bad) {
		sick->bad = 1;
		fault_add(sick->engine.dev, &gone);
	}
}

static void folder_fill(struct sick *sick, unsigned names)
{
	struct ash_create create = { .mode = S_IFDIR | 0755 };
	struct ash_attr folder, attr;
	char name[32];

	cr_assert_eq(ash_create(sick->engine.volume, ASH_INO_ROOT, "folder", &create, &folder), 0);
	create.mode = S_IFREG | 0644;
	for (unsigned i = 0; i < names; i++) {
		snprintf(name, sizeof(name), "a file with number %u", i);
		cr_assert_eq(ash_create(sick->engine.volume, folder.ino, name, &create, &attr), 0);
	}
}

/* The log has the new size and blocks behind the old end; block 0 has neither, and nothing is at home. */
Test(journal, given_up_log_in_which_the_volume_grew)
{
	const uint64_t before = 4096, after = 8192, names = 800;
	struct ash_mkfs_options options = { .block_count = before, .log_blocks = 1024 };
	char error[BDEV_ERROR_TEXT] = "", name[32];
	struct sick sick = { 0 };
	struct ash_attr attr, folder;
	struct ash_super super;

	cr_assert_eq(fault_open(engine_device("mem:32M"), &sick.engine.dev), 0);
	cr_assert_eq(ash_mkfs(sick.engine.dev, &options, error), 0, "%s", error);
	sick.engine.options.no_threads = true;
	engine_mount(&sick.engine);
	files_make(&sick);
	for (uint64_t piece = before / 2, end = 0; piece;) /* full up to the old end */
		if (ash_fallocate(sick.engine.volume, sick.file, 0, end * ASH_BLOCK_SIZE, piece * ASH_BLOCK_SIZE))
			piece /= 2;
		else
			end += piece;
	cr_assert_eq(ash_checkpoint(sick.engine.volume), 0);
	fault_ask(sick.engine.dev, cut_at_super, &sick);
	cr_expect_neq(ash_grow(sick.engine.volume, after), 0);
	ash_abandon(sick.engine.volume);
	fault_ask(sick.engine.dev, NULL, NULL);
	fault_clear(sick.engine.dev);
	engine_mount(&sick.engine);
	folder_fill(&sick, names);
	cr_assert_eq(ash_log_force(sick.engine.volume, ash_log_end(sick.engine.volume)), 0);
	ash_abandon(sick.engine.volume);
	sick.engine.volume = NULL;

	image_read(&sick.engine, 0, &super);
	cr_assert_eq(ash_get64(super.block_count), before, "the log alone has the new size");
	super.inode_runs = ash_put64(1000); /* for which a mount refuses to replay it */
	super_put(&sick.engine, 0, &super);
	cr_expect_eq(check(&sick, ASH_CHECK_YES).left, 0, "%s", sick.codes);
	cr_expect(strstr(sick.codes, "log-replay"), "%s", sick.codes);
	cr_expect_eq(check(&sick, ASH_CHECK_NO).problems, 0, "%s", sick.codes);
	image_read(&sick.engine, 0, &super);
	cr_expect_eq(ash_get64(super.block_count), after);
	engine_mount(&sick.engine);
	cr_assert_eq(ash_lookup(sick.engine.volume, ASH_INO_ROOT, "folder", &folder), 0);
	for (unsigned i = 0; i < names; i++) {
		snprintf(name, sizeof(name), "a file with number %u", i);
		cr_assert_eq(ash_lookup(sick.engine.volume, folder.ino, name, &attr), 0, "%s: %s", name, sick.codes);
	}
	engine_close(&sick.engine);
}
