/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The inode table: blocks of it that the device does not give, on a volume that was closed in order, and who owns the
 * tree blocks of its extents.
 */
#include "forge_fixture.h"

static bool has_name(struct ash_volume *volume, const char *name)
{
	struct ash_attr attr;

	return ash_lookup(volume, ASH_INO_ROOT, name, &attr) == 0;
}

static unsigned names_left(struct sick *sick)
{
	unsigned count = 0;
	char name[16];

	engine_mount(&sick->engine);
	for (unsigned i = 0; i < FILES; i++) {
		snprintf(name, sizeof(name), "file%u", i);
		count += has_name(sick->engine.volume, name);
	}
	cr_expect_eq(ash_close(sick->engine.volume), 0);
	sick->engine.volume = NULL;
	return count;
}

/* A bad sector costs the inodes in its block, and is healed. */
Test(table, unreadable_block)
{
	struct sick sick;

	sick_open(&sick, true);
	make_unreadable(&sick, sick.table);
	expect_healed(&sick, "unreadable");
	expect_files(&sick, false);
	cr_expect_geq(names_left(&sick), FILES - ASH_INODES_PER_BLOCK);
	engine_close(&sick.engine);
}

Test(table, unreadable_block_of_the_root)
{
	struct ash_attr attr;
	struct sick sick;
	uint32_t offset;
	struct ash_block_id id;

	sick_open(&sick, true);
	engine_mount(&sick.engine);
	cr_assert_eq(ash_itable_locate(sick.engine.volume, ASH_INO_ROOT, &id, &offset), 0);
	cr_assert_eq(ash_close(sick.engine.volume), 0);
	sick.engine.volume = NULL;
	make_unreadable(&sick, id.block);
	expect_healed(&sick, "unreadable");
	engine_mount(&sick.engine);
	cr_expect_eq(ash_lookup(sick.engine.volume, ASH_INO_ROOT, "lost+found", &attr), 0);
	cr_expect_eq(ash_getattr(sick.engine.volume, sick.file, &attr), 0);
	engine_close(&sick.engine);
}

/* The device stumbles over the whole piece and then over the block, and comes round. */
static void come_round(void *context, const struct bdev_request *request)
{
	struct sick *sick = context;
	uint64_t offset = sick->bad * ASH_BLOCK_SIZE;

	if (request->op == BDEV_READ && request->offset <= offset && request->offset + request->length > offset &&
	    ++sick->position > 2)
		fault_clear(sick->engine.dev);
}

Test(table, block_that_is_read_the_third_time_costs_nothing)
{
	struct ash_check_result result;
	struct sick sick;

	sick_open(&sick, true);
	sick.position = 0;
	make_unreadable(&sick, sick.table);
	fault_ask(sick.engine.dev, come_round, &sick);
	result = check(&sick, ASH_CHECK_YES);
	cr_expect_eq(result.problems, 0, "%s", sick.codes);
	cr_expect_gt(sick.position, 2, "the block was asked for");
	cr_expect_eq(names_left(&sick), FILES);
	engine_close(&sick.engine);
}

static bool say_no(void *context, const struct ash_check_problem *problem)
{
	(void)context;
	(void)problem;
	return false;
}

/* Who does not give them up keeps the names and the numbers, for the day when the device reads again. */
Test(table, unreadable_block_is_kept_where_nobody_gives_it_up)
{
	struct ash_check_options options = {
		.mode = ASH_CHECK_ASK, .force = true, .no_threads = true, .ask = say_no, .report = note_code
	};
	struct ash_check_result result;
	struct sick sick;

	sick_open(&sick, true);
	make_unreadable(&sick, sick.table);
	options.context = &sick;
	cr_assert_eq(ash_check(sick.engine.dev, &options, &result), 0, "%s", result.error);
	cr_expect_str_eq(sick.codes, "unreadable ");
	cr_expect_gt(result.left, 0);
	fault_clear(sick.engine.dev);
	cr_expect_eq(check(&sick, ASH_CHECK_NO).problems, 0, "%s", sick.codes);
	cr_expect_eq(names_left(&sick), FILES);
	engine_close(&sick.engine);
}

/* Nor does a block that cannot be written anew keep the rest of the volume from being repaired. */
Test(table, block_that_cannot_be_written_either)
{
	struct fault_rule rule = { .ops = FAULT_OP(BDEV_READ) | FAULT_OP(BDEV_WRITE), .length = ASH_BLOCK_SIZE };
	struct ash_check_result result;
	struct sick sick;

	sick_open(&sick, true);
	rule.offset = sick.table * ASH_BLOCK_SIZE;
	cr_assert_eq(fault_add(sick.engine.dev, &rule), 0);
	result = check(&sick, ASH_CHECK_YES);
	cr_expect_eq(result.left, 1, "%s", sick.codes);
	cr_expect_eq(result.problems, 1, "%s", sick.codes);
	fault_clear(sick.engine.dev);
	cr_expect_eq(check(&sick, ASH_CHECK_YES).left, 0, "%s", sick.codes);
	cr_expect_eq(names_left(&sick), FILES);
	engine_close(&sick.engine);
}

/* The log has all of a block that was new when the power went: what is at home is not needed. */
Test(table, unreadable_block_that_the_log_has)
{
	const struct ash_create create = { .mode = S_IFDIR | 0755 };
	struct ash_block_id id = { 0 };
	struct ash_attr attr;
	struct sick sick;
	uint32_t offset;
	char name[16];

	sick_open(&sick, true);
	engine_mount(&sick.engine);
	for (unsigned i = 0; i < 100; i++) {
		snprintf(name, sizeof(name), "folder%u", i);
		cr_assert_eq(ash_create(sick.engine.volume, ASH_INO_ROOT, name, &create, &attr), 0);
	}
	cr_assert_eq(ash_itable_locate(sick.engine.volume, attr.ino, &id, &offset), 0);
	cr_assert_eq(ash_log_force(sick.engine.volume, ash_log_end(sick.engine.volume)), 0);
	ash_abandon(sick.engine.volume);
	sick.engine.volume = NULL;
	make_unreadable(&sick, id.block);
	cr_expect_eq(check(&sick, ASH_CHECK_NO).problems, 0, "%s", sick.codes);
	fault_clear(sick.engine.dev);
	engine_mount(&sick.engine);
	engine_close(&sick.engine);
}

/* ---- A run whose bitmap is lost ---- */

/* The block of the bitmap of run 0. */
static void run_bitmap_spoil(struct sick *sick)
{
	struct ash_super super;
	uint64_t start, count;

	image_read(&sick->engine, 0, &super);
	table_extent(&super, &start, &count);
	image_spoil(&sick->engine, start, 3000);
}

/* The second damage is no reason to delete the file unseen. */
Test(table, lost_bitmap_and_an_inode_with_a_wrong_checksum)
{
	uint8_t block[ASH_BLOCK_SIZE];
	const struct ash_inode *record = (const void *)block;
	struct sick sick;

	sick_open(&sick, true);
	image_read(&sick.engine, sick.table, block);
	while (ash_get64(record->ino) != sick.file)
		record++;
	image_spoil(&sick.engine, sick.table,
		    (uint32_t)((const uint8_t *)record - block + offsetof(struct ash_inode, mtime)));
	run_bitmap_spoil(&sick);
	expect_healed(&sick, "inode-checksum");
	cr_expect_eq(names_left(&sick), FILES);
	engine_close(&sick.engine);
}

/* All of the last block with inodes have a wrong checksum: where the run ends, the bitmap tells, damaged as it is. */
Test(table, lost_bitmap_and_a_last_block_of_wrong_checksums)
{
	struct sick sick;

	sick_open(&sick, true);
	for (uint32_t i = 0; i < ASH_INODES_PER_BLOCK; i++)
		image_spoil(&sick.engine, sick.table, i * ASH_INODE_SIZE + (uint32_t)offsetof(struct ash_inode, mtime));
	run_bitmap_spoil(&sick);
	expect_healed(&sick, "inode-checksum");
	cr_expect_eq(names_left(&sick), FILES);
	engine_close(&sick.engine);
}

struct stumble {
	struct sick *sick;
	unsigned times;
};

/* The block cannot be read so many times. */
static void stumble(void *context, const struct bdev_request *request)
{
	struct stumble *stumble = context;
	uint64_t offset = stumble->sick->bad * ASH_BLOCK_SIZE;

	if (request->op == BDEV_READ && request->offset <= offset && request->offset + request->length > offset &&
	    !stumble->times--)
		fault_clear(stumble->sick->engine.dev);
}

/*
 * It is read by the search for lost runs, in a piece and alone, twice for the bitmap, and by pass 1, in a piece and alone:
 * whichever fails, the inodes are there. The last block with inodes, behind which the run would seem to end, and another.
 */
Test(table, lost_bitmap_and_a_block_that_is_read_later)
{
	struct stumble context;
	struct sick sick;

	for (unsigned i = 0; i < 12; i++) {
		sick_open(&sick, true);
		run_bitmap_spoil(&sick);
		make_unreadable(&sick, sick.table - i % 2);
		context = (struct stumble){ &sick, i / 2 };
		fault_ask(sick.engine.dev, stumble, &context);
		cr_expect_eq(check(&sick, ASH_CHECK_YES).left, 0, "%u: %s", i, sick.codes);
		fault_ask(sick.engine.dev, NULL, NULL);
		cr_expect_gt(context.times, i, "%u: the block was asked for often enough", i);
		cr_expect_eq(check(&sick, ASH_CHECK_NO).problems, 0, "%u: %s", i, sick.codes);
		cr_expect_eq(names_left(&sick), FILES, "%u", i);
		engine_close(&sick.engine);
	}
}

Test(table, lost_bitmap_and_an_unreadable_block)
{
	struct sick sick;

	sick_open(&sick, true);
	run_bitmap_spoil(&sick);
	make_unreadable(&sick, sick.table);
	expect_healed(&sick, "unreadable");
	cr_expect_geq(names_left(&sick), FILES - ASH_INODES_PER_BLOCK);
	engine_close(&sick.engine);
}

/* Preen stops at the bitmap; who declines all keeps what the device gives the next day. */
Test(table, lost_bitmap_costs_nothing_where_the_block_is_kept)
{
	struct sick sick;

	sick_open(&sick, true);
	run_bitmap_spoil(&sick);
	make_unreadable(&sick, sick.table);
	cr_expect_gt(check(&sick, ASH_CHECK_ASK).left, 0);
	fault_clear(sick.engine.dev);
	cr_expect_eq(check(&sick, ASH_CHECK_YES).left, 0, "%s", sick.codes);
	cr_expect_eq(names_left(&sick), FILES);
	engine_close(&sick.engine);
}

/* ---- Tree blocks of the table ---- */

/* The table's extents move from the superblock into one tree block at `block`. */
static void table_grow_tree(struct sick *sick, uint64_t block)
{
	_Alignas(8) uint8_t bytes[ASH_BLOCK_SIZE] = { 0 };
	struct ash_tree_block *node = (void *)bytes;
	uint8_t *leaf = bytes + offsetof(struct ash_tree_block, node);
	struct ash_super super;
	struct ash_inode *inode = &super.table_inode;
	ash_le64 child = ash_put64(block);

	image_read(&sick->engine, 0, &super);
	cr_assert_gt(ash_node_count(inode->data), 0);
	node->header = super.header;
	node->header.magic = ash_put32(ASH_MAGIC_TREE_NODE);
	node->header.address = ash_put64(block);
	node->header.owner = ash_put64(ASH_INO_TABLE);
	node_begin(leaf, ASH_TREE_NODE_SIZE, 0);
	for (uint32_t i = 0; i < ash_node_count(inode->data); i++) {
		const uint8_t *value;
		uint32_t length;
		uint64_t key;

		ash_node_record(inode->data, i, &key, &value, &length);
		node_add(leaf, key, value, length);
	}
	node->header.crc = ash_put32(ash_block_crc(ash_get32(super.checksum_seed), bytes));
	image_write(&sick->engine, block, bytes);
	node_begin(inode->data, ASH_DATA_FORK_SIZE, 1);
	node_add(inode->data, 0, &child, sizeof(child));
	inode->blocks = ash_put64(ash_get64(inode->blocks) + 1);
	super_put(&sick->engine, 0, &super);
}

/* Of the one extent of sick->file. */
static uint64_t first_block(struct sick *sick)
{
	uint8_t block[ASH_BLOCK_SIZE];
	const struct ash_inode *record = (const void *)block;
	const struct ash_extent_value *extent;
	const uint8_t *value;
	uint32_t length;
	uint64_t key;

	image_read(&sick->engine, sick->table, block);
	while (ash_get64(record->ino) != sick->file)
		record++;
	cr_assert_eq(record->data_kind, ASH_FORK_TREE);
	ash_node_record(record->data, 0, &key, &value, &length);
	extent = (const void *)value;
	return ash_get64(extent->start);
}

/* A file got a tree block of the table, whose bit was lost: the first write into the file would lose the table. */
Test(table, file_that_claims_a_tree_block_of_the_table)
{
	static const char text[ASH_BLOCK_SIZE] = "content";
	struct sick sick;

	sick_open(&sick, true);
	engine_mount(&sick.engine);
	cr_assert_eq(ash_write(sick.engine.volume, sick.file, text, sizeof(text), 0, 0), sizeof(text));
	cr_assert_eq(ash_fsync(sick.engine.volume, sick.file, false), 0);
	cr_assert_eq(ash_close(sick.engine.volume), 0);
	sick.engine.volume = NULL;
	table_grow_tree(&sick, first_block(&sick));
	cr_expect_gt(check(&sick, ASH_CHECK_NO).problems, 0);
	cr_expect(strstr(sick.codes, "duplicate-blocks"), "%s", sick.codes);
	cr_expect_eq(check(&sick, ASH_CHECK_YES).left, 0, "%s", sick.codes);
	cr_expect_eq(check(&sick, ASH_CHECK_NO).problems, 0, "%s", sick.codes);
	cr_expect_eq(names_left(&sick), FILES);
	engine_close(&sick.engine);
}

/* ---- Holes ---- */

/* The table moves to the end of the volume, but for its first block and for block `at`, which is in no place any more. */
static void hole_make(struct sick *sick, uint64_t at)
{
	uint8_t block[ASH_BLOCK_SIZE];
	struct ash_super super;
	uint64_t start, count, to;

	image_read(&sick->engine, 0, &super);
	table_extent(&super, &start, &count);
	cr_assert_lt(at + 1, count);
	to = ash_get64(super.block_count) - count - 50;
	for (uint64_t i = at > 0; i < count; i++) {
		image_read(&sick->engine, start + i, block);
		image_write(&sick->engine, to + i, block);
		memset(block, 'x', sizeof(block));
		image_write(&sick->engine, start + i, block);
	}
	table_begin(&super);
	if (at)
		table_add(&super, 0, start, 1);
	if (at > 1)
		table_add(&super, 1, to + 1, at - 1);
	table_add(&super, at + 1, to + at + 1, count - at - 1);
	super_put(&sick->engine, 0, &super);
}

static void expect_filled(uint64_t at)
{
	struct sick sick;

	sick_open(&sick, true);
	hole_make(&sick, at);
	cr_expect_neq(engine_try_mount(&sick.engine), 0, "a mount refuses block %llu", (unsigned long long)at);
	expect_healed(&sick, "table-hole");
	cr_expect_geq(names_left(&sick), at == 1 ? 0 : FILES - ASH_INODES_PER_BLOCK);
	engine_close(&sick.engine);
}

Test(table, hole_behind_the_inodes_in_use)
{
	expect_filled(20);
}

Test(table, hole_among_the_inodes_in_use)
{
	expect_filled(3);
}

Test(table, hole_in_place_of_the_root)
{
	expect_filled(1);
}

Test(table, hole_in_place_of_the_bitmap)
{
	expect_filled(0);
}

/* A backup that has what the primary lost of a run is better than empty blocks. */
Test(table, hole_that_a_backup_fills)
{
	uint8_t block[ASH_BLOCK_SIZE];
	struct ash_super super;
	uint64_t start, count, to;
	struct sick sick;

	sick_open(&sick, true);
	image_read(&sick.engine, 0, &super);
	table_extent(&super, &start, &count);
	to = ash_get64(super.block_count) - count - 50;
	for (uint64_t i = 4; i < count; i++) {
		image_read(&sick.engine, start + i, block);
		image_write(&sick.engine, to + i, block);
		memset(block, 'x', sizeof(block));
		image_write(&sick.engine, start + i, block);
	}
	table_begin(&super);
	table_add(&super, 0, start, 4);
	table_add(&super, 4, to + 4, count - 4);
	super_put(&sick.engine, ash_get64(super.block_count) - 1, &super);
	table_begin(&super);
	table_add(&super, 0, start, 2);
	table_add(&super, 4, to + 4, count - 4);
	super_put(&sick.engine, 0, &super);
	cr_expect_neq(engine_try_mount(&sick.engine), 0, "a mount refuses it");
	cr_expect_eq(check(&sick, ASH_CHECK_YES).left, 0, "%s", sick.codes);
	cr_expect_eq(check(&sick, ASH_CHECK_NO).problems, 0, "%s", sick.codes);
	cr_expect_eq(names_left(&sick), FILES);
	engine_close(&sick.engine);
}

/* The root's block among those that stay missing: nothing is connected to it then, nor anything made for that. */
Test(table, hole_in_place_of_the_root_that_is_to_stay)
{
	struct ash_check_options options = {
		.mode = ASH_CHECK_ASK, .force = true, .no_threads = true, .ask = say_no, .report = note_code
	};
	struct ash_check_result result;
	struct sick sick;

	sick_open(&sick, true);
	hole_make(&sick, 1);
	options.context = &sick;
	cr_assert_eq(ash_check(sick.engine.dev, &options, &result), 0, "%s", result.error);
	cr_expect(strstr(sick.codes, "table-hole"), "%s", sick.codes);
	cr_expect(!strstr(sick.codes, "unreachable-"), "%s", sick.codes);
	engine_close(&sick.engine);
}

/* Its inodes are damaged as long as nobody gives them up: the names stay. */
Test(table, hole_is_kept_where_nobody_fills_it)
{
	struct ash_check_options options = {
		.mode = ASH_CHECK_ASK, .force = true, .no_threads = true, .ask = say_no, .report = note_code
	};
	struct ash_check_result result;
	struct sick sick;

	sick_open(&sick, true);
	hole_make(&sick, 3);
	options.context = &sick;
	cr_assert_eq(ash_check(sick.engine.dev, &options, &result), 0, "%s", result.error);
	cr_expect_gt(result.left, 0);
	cr_expect(strstr(sick.codes, "table-hole"), "%s", sick.codes);
	cr_expect(!strstr(sick.codes, "dirent"), "%s", sick.codes);
	cr_expect(!strstr(sick.codes, "inode-bitmap"), "%s", sick.codes);
	engine_close(&sick.engine);
}

/* ---- Behind the last run ---- */

/* One block, so far behind that nothing that lies before it can be there. */
static void stray_add(struct sick *sick)
{
	struct ash_super super;
	uint64_t start, count;

	image_read(&sick->engine, 0, &super);
	table_extent(&super, &start, &count);
	table_add(&super, 1ull << 40, ash_get64(super.block_count) - 50, 1);
	super.table_inode.blocks = ash_put64(count + 1);
	super_put(&sick->engine, 0, &super);
}

Test(table, extent_far_behind_the_last_run)
{
	struct ash_super super;
	struct sick sick;

	sick_open(&sick, true);
	stray_add(&sick);
	expect_healed(&sick, "table-extent");
	image_read(&sick.engine, 0, &super);
	cr_expect_eq(ash_get64(super.inode_runs), 1);
	cr_expect_eq(names_left(&sick), FILES);
	engine_close(&sick.engine);
}

/* The superblock speaks of the runs that would have to be there. */
Test(table, extent_far_behind_the_last_run_and_as_many_runs)
{
	struct ash_super super;
	struct sick sick;

	sick_open(&sick, true);
	stray_add(&sick);
	image_read(&sick.engine, 0, &super);
	super.inode_runs = ash_put64(1ull << 30);
	super_put(&sick.engine, 0, &super);
	expect_healed(&sick, "table-extent");
	cr_expect_eq(names_left(&sick), FILES);
	engine_close(&sick.engine);
}

/* Preen, which does not get as far as to know whether the primary is right, leaves the backups as they are. */
Test(table, backups_stay_until_the_primary_is_proven)
{
	struct ash_check_options options = { .mode = ASH_CHECK_PREEN, .force = true, .no_threads = true };
	struct ash_super before, after;
	struct ash_check_result result;
	struct sick sick;
	uint64_t last;

	sick_open(&sick, true);
	image_read(&sick.engine, 0, &before);
	last = ash_get64(before.block_count) - 1;
	image_read(&sick.engine, last, &before);
	stray_add(&sick);
	cr_assert_eq(ash_check(sick.engine.dev, &options, &result), 0, "%s", result.error);
	cr_expect(result.stopped);
	image_read(&sick.engine, last, &after);
	cr_expect_arr_eq(&before, &after, sizeof(before));
	engine_close(&sick.engine);
}

/* ---- An old backup ---- */

/* It grew, and the block of its last backup before that is free now; its table, which is large, has grown a tree. */
Test(table, old_backup_of_a_volume_that_has_grown)
{
	static const char text[ASH_BLOCK_SIZE] = "content";
	const uint64_t before = 4096, after = 8192;
	struct ash_mkfs_options options = { .block_count = before, .log_blocks = ASH_LOG_MIN_BLOCKS };
	char error[BDEV_ERROR_TEXT] = "";
	struct ash_super super;
	struct sick sick = { 0 };

	cr_assert_eq(fault_open(engine_device("mem:32M"), &sick.engine.dev), 0);
	cr_assert_eq(ash_mkfs(sick.engine.dev, &options, error), 0, "%s", error);
	sick.engine.options.no_threads = true;
	engine_mount(&sick.engine);
	files_make(&sick);
	cr_assert_eq(ash_grow(sick.engine.volume, after), 0);
	cr_assert_eq(ash_write(sick.engine.volume, sick.file, text, sizeof(text), 0, 0), sizeof(text));
	cr_assert_eq(ash_close(sick.engine.volume), 0);
	sick.engine.volume = NULL;
	image_read(&sick.engine, before - 1, &super);
	cr_assert_eq(ash_get32(super.header.magic), ASH_MAGIC_SUPER, "the old backup is still there");
	table_grow_tree(&sick, after - 100);
	image_read(&sick.engine, 0, &super);
	super.header.address = ash_put64(after - 1);
	super.header.crc = ash_put32(ash_block_crc(0, &super));
	image_write(&sick.engine, after - 1, &super);
	memset(&super, 0, sizeof(super));
	image_write(&sick.engine, 0, &super);
	cr_expect_eq(check(&sick, ASH_CHECK_YES).left, 0, "%s", sick.codes);
	image_read(&sick.engine, 0, &super);
	cr_expect_eq(ash_get64(super.block_count), after);
	cr_expect_eq(check(&sick, ASH_CHECK_NO).problems, 0, "%s", sick.codes);
	cr_expect_eq(names_left(&sick), FILES);
	engine_close(&sick.engine);
}

/* A volume on a device that may be larger: `super` is that of the small volume. */
static void small_make(struct sick *sick, const char *device, uint64_t blocks, struct ash_super *super)
{
	struct ash_mkfs_options options = { .block_count = blocks, .log_blocks = ASH_LOG_MIN_BLOCKS };
	char error[BDEV_ERROR_TEXT] = "";

	*sick = (struct sick){ 0 };
	cr_assert_eq(fault_open(engine_device(device), &sick->engine.dev), 0);
	cr_assert_eq(ash_mkfs(sick->engine.dev, &options, error), 0, "%s", error);
	sick->engine.options.no_threads = true;
	image_read(&sick->engine, 0, super);
}

/* It grows, gets files, and block 0 is the old one. */
static void grow_behind(struct sick *sick, uint64_t blocks, struct ash_super *old)
{
	engine_mount(&sick->engine);
	cr_assert_eq(ash_grow(sick->engine.volume, blocks), 0);
	files_make(sick);
	cr_assert_eq(ash_close(sick->engine.volume), 0);
	sick->engine.volume = NULL;
	super_put(&sick->engine, 0, old);
}

/* Block 0 is from before that; `restored`: and with it all of that time's volume. */
static void expect_grown(uint64_t before, uint64_t after, const char *device, bool restored)
{
	uint8_t *image = calloc(restored ? before : 1, ASH_BLOCK_SIZE);
	struct ash_super old, super;
	struct sick sick;

	cr_assert(image);
	small_make(&sick, device, before, &old);
	for (uint64_t i = 0; i < before && restored; i++)
		image_read(&sick.engine, i, image + i * ASH_BLOCK_SIZE);
	grow_behind(&sick, after, &old);
	for (uint64_t i = 0; i < before && restored; i++)
		image_write(&sick.engine, i, image + i * ASH_BLOCK_SIZE);
	free(image);
	if (restored)
		cr_expect_eq(check(&sick, ASH_CHECK_NO).problems, 0, "%s", sick.codes);
	else
		expect_healed(&sick, "super-bad");
	image_read(&sick.engine, 0, &super);
	cr_expect_eq(ash_get64(super.block_count), restored ? before : after);
	cr_expect_eq(names_left(&sick), restored ? 0 : FILES);
	engine_close(&sick.engine);
}

/* A backup that was there before knows better, and the free block of the last one does not. */
Test(table, primary_of_a_volume_that_has_grown)
{
	expect_grown(ASH_BLOCKS_PER_GROUP + 1024, ASH_BLOCKS_PER_GROUP + 2048, "mem:134M", false);
}

/* There was none, but the only one in the last block: all that know lie in the new part. */
Test(table, primary_of_a_volume_of_one_group_that_has_grown)
{
	expect_grown(ASH_BLOCKS_PER_GROUP, ASH_BLOCKS_PER_GROUP + 2048, "mem:134M", false);
	expect_grown(4096, 6144, "mem:24M", false);
}

/* Nor do the places that the size of the device tells help. */
Test(table, primary_of_a_volume_that_has_grown_and_ends_before_its_device)
{
	expect_grown(4096, 6144, "mem:32M", false);
}

static int check_by(struct sick *sick, enum ash_check_mode mode, const uint64_t *super_block,
		    struct ash_check_result *result)
{
	struct ash_check_options options = { .mode = mode,
					     .force = true,
					     .no_threads = true,
					     .super_block = super_block,
					     .report = note_code,
					     .context = sick };

	sick->codes[0] = 0;
	return ash_check(sick->engine.dev, &options, result);
}

/* And where no superblock of the larger volume is left: what is behind the old end is not given up unasked. */
static void expect_grown_and_lost(uint64_t before, uint64_t after, bool last_is_lost)
{
	static const enum ash_check_mode modes[] = { ASH_CHECK_NO, ASH_CHECK_PREEN, ASH_CHECK_YES };
	static const uint8_t nothing[ASH_BLOCK_SIZE];
	struct ash_check_result result;
	struct ash_super old, super;
	const uint64_t zero = 0;
	struct sick sick;

	small_make(&sick, "mem:150M", before, &old);
	grow_behind(&sick, after, &old);
	image_write(&sick.engine, after - 1, nothing);
	if (after > ash_group_start(1))
		image_write(&sick.engine, ash_group_start(1), nothing);
	if (last_is_lost)
		image_write(&sick.engine, before - 1, nothing);
	for (unsigned i = 0; i < 3; i++) {
		cr_expect_eq(check_by(&sick, modes[i], NULL, &result), -ESTALE, "%s", sick.codes);
		cr_expect(!result.changed);
		cr_expect(strstr(result.error, "-b 0 "), "%s", result.error);
	}
	cr_expect_eq(check_by(&sick, ASH_CHECK_YES, &zero, &result), 0, "%s", result.error);
	cr_expect_eq(result.left, 0, "%s", sick.codes);
	cr_expect_eq(check(&sick, ASH_CHECK_NO).problems, 0, "%s", sick.codes);
	image_read(&sick.engine, 0, &super);
	cr_expect_eq(ash_get64(super.block_count), before);
	engine_close(&sick.engine);
}

Test(table, primary_of_a_volume_that_has_grown_of_which_no_copy_is_left)
{
	expect_grown_and_lost(4096, 6144, false);
	expect_grown_and_lost(4096, 6144, true);
	expect_grown_and_lost(4096, ASH_BLOCKS_PER_GROUP + 2048, false);
	expect_grown_and_lost(ASH_BLOCKS_PER_GROUP, ASH_BLOCKS_PER_GROUP + 2048, false);
}

/* What the larger volume left behind its end is not believed against all of an older one. */
Test(table, volume_from_before_it_grew_that_was_restored)
{
	expect_grown(4096, 6144, "mem:24M", true);
	expect_grown(4096, 6144, "mem:32M", true);
}

/* Only the bad block 0 tells where the volume ends on a larger device, and so where its last backup is. */
Test(table, torn_primary_tells_where_the_last_backup_is)
{
	static const uint8_t nothing[ASH_BLOCK_SIZE];
	struct ash_mkfs_options options = { .block_count = ASH_BLOCKS_PER_GROUP + 2048,
					    .log_blocks = ASH_LOG_MIN_BLOCKS };
	char error[BDEV_ERROR_TEXT] = "";
	struct sick sick = { 0 };

	cr_assert_eq(fault_open(engine_device("mem:150M"), &sick.engine.dev), 0);
	cr_assert_eq(ash_mkfs(sick.engine.dev, &options, error), 0, "%s", error);
	sick.engine.options.no_threads = true;
	engine_mount(&sick.engine);
	files_make(&sick);
	cr_assert_eq(ash_close(sick.engine.volume), 0);
	sick.engine.volume = NULL;
	image_spoil(&sick.engine, 0, 3000);
	image_write(&sick.engine, ash_group_start(1), nothing);
	cr_expect_eq(check(&sick, ASH_CHECK_YES).left, 0, "%s", sick.codes);
	cr_expect(strstr(sick.codes, "super-bad"), "%s", sick.codes);
	cr_expect_eq(check(&sick, ASH_CHECK_NO).problems, 0, "%s", sick.codes);
	cr_expect_eq(names_left(&sick), FILES);
	engine_close(&sick.engine);
}

/* What it tells may be the size from before the volume grew, of which the last backup is still there. */
Test(table, torn_primary_tells_an_old_size)
{
	const uint64_t before = 4096, after = 6144;
	struct ash_super old;
	struct sick sick;

	small_make(&sick, "mem:32M", before, &old);
	grow_behind(&sick, after, &old);
	image_spoil(&sick.engine, 0, 3000);
	expect_healed(&sick, "super-bad");
	image_read(&sick.engine, 0, &old);
	cr_expect_eq(ash_get64(old.block_count), after);
	cr_expect_eq(names_left(&sick), FILES);
	engine_close(&sick.engine);
}

/* Block 0 is another volume's, and the only backup is lost: that other one is not made of what is there. */
Test(table, primary_of_a_volume_that_is_not_there)
{
	static const uint8_t nothing[ASH_BLOCK_SIZE];
	struct ash_check_options options = { .mode = ASH_CHECK_YES, .force = true, .no_threads = true };
	struct ash_check_result result;
	struct ash_super super, other;
	struct sick sick;

	sick_open(&sick, true);
	image_read(&sick.engine, 0, &super);
	other = super;
	other.checksum_seed = ash_put32(ash_get32(super.checksum_seed) + 1);
	super_put(&sick.engine, 0, &other);
	image_write(&sick.engine, ash_get64(super.block_count) - 1, nothing);
	cr_expect_eq(ash_check(sick.engine.dev, &options, &result), -EINVAL, "%s", result.error);
	cr_expect(!result.changed);
	super_put(&sick.engine, 0, &super);
	cr_expect_eq(names_left(&sick), FILES);
	engine_close(&sick.engine);
}

/* With another volume's block 0 came its group table and its log, but the files are where the backup says. */
Test(table, primary_of_another_volume_with_its_group_table_and_log)
{
	uint8_t block[ASH_BLOCK_SIZE];
	struct ash_block_header *header = (void *)block;
	struct ash_super super, other;
	struct sick sick;
	uint64_t places[3];

	sick_open(&sick, true);
	image_read(&sick.engine, 0, &super);
	other = super;
	other.checksum_seed = ash_put32(ash_get32(super.checksum_seed) + 1);
	super_put(&sick.engine, 0, &other);
	places[0] = ash_get64(super.group_table_start);
	places[1] = ash_get64(super.log_start);
	places[2] = places[1] + 1;
	for (unsigned i = 0; i < 3; i++) {
		image_read(&sick.engine, places[i], block);
		header->crc = ash_put32(ash_block_crc(ash_get32(other.checksum_seed), block));
		image_write(&sick.engine, places[i], block);
	}
	expect_healed(&sick, "super-bad");
	cr_expect_eq(names_left(&sick), FILES);
	engine_close(&sick.engine);
}

/* A volume with a small table; *old is its superblock before that grew. */
static void small_runs_open(struct sick *sick, struct ash_super *old)
{
	struct ash_mkfs_options options = { .log_blocks = ASH_LOG_MIN_BLOCKS, .inodes_per_run = 16 };
	char error[BDEV_ERROR_TEXT] = "";

	memset(sick, 0, sizeof(*sick));
	cr_assert_eq(fault_open(engine_device("mem:16M"), &sick->engine.dev), 0);
	cr_assert_eq(ash_mkfs(sick->engine.dev, &options, error), 0, "%s", error);
	image_read(&sick->engine, 0, old);
	sick->engine.options.no_threads = true;
	engine_mount(&sick->engine);
	files_make(sick);
	cr_assert_eq(ash_close(sick->engine.volume), 0);
	sick->engine.volume = NULL;
}

/* The table has grown runs and a tree. What was written to block 0 since then never got there; the backups have it. */
Test(table, primary_whose_last_write_was_lost)
{
	char would[sizeof(((struct sick *)NULL)->codes)];
	struct ash_super old, super;
	struct sick sick;

	small_runs_open(&sick, &old);
	image_read(&sick.engine, 0, &super);
	cr_assert_gt(ash_get64(super.inode_runs), ash_get64(old.inode_runs));
	table_grow_tree(&sick, ash_get64(super.block_count) - 100);
	image_read(&sick.engine, 0, &super);
	super_put(&sick.engine, ash_get64(super.block_count) - 1, &super);
	super_put(&sick.engine, 0, &old);
	cr_expect(!check(&sick, ASH_CHECK_NO).changed);
	memcpy(would, sick.codes, sizeof(would));
	cr_expect_eq(check(&sick, ASH_CHECK_YES).left, 0, "%s", sick.codes);
	cr_expect(strstr(sick.codes, "super-table-inode"), "%s", sick.codes);
	cr_expect_str_eq(sick.codes, would, "who only looks is told the same");
	cr_expect_eq(check(&sick, ASH_CHECK_NO).problems, 0, "%s", sick.codes);
	cr_expect_eq(names_left(&sick), FILES);
	engine_close(&sick.engine);
}

/* Who mounts that does not write over what the backups know, nor is it called clean. */
Test(table, primary_whose_last_write_was_lost_is_not_written_to)
{
	struct ash_check_options options = { .mode = ASH_CHECK_YES, .no_threads = true };
	struct ash_create create = { .mode = S_IFREG | 0644 };
	struct ash_check_result result;
	struct ash_super old, backup;
	struct ash_attr attr;
	struct sick sick;

	small_runs_open(&sick, &old);
	super_put(&sick.engine, 0, &old);
	engine_mount(&sick.engine);
	cr_expect_gt(sick.engine.errors, 0);
	cr_expect_eq(ash_create(sick.engine.volume, ASH_INO_ROOT, "new", &create, &attr), -EROFS);
	cr_assert_eq(ash_close(sick.engine.volume), 0);
	sick.engine.volume = NULL;
	image_read(&sick.engine, ash_get64(old.block_count) - 1, &backup);
	cr_expect_gt(ash_get64(backup.inode_runs), ash_get64(old.inode_runs));
	super_put(&sick.engine, 0, &old);
	cr_assert_eq(ash_check(sick.engine.dev, &options, &result), 0, "%s", result.error);
	cr_expect(!result.skipped);
	cr_expect_eq(result.left, 0);
	cr_expect_eq(names_left(&sick), FILES);
	engine_close(&sick.engine);
}

/* Who replays the log must not copy that block 0 to the backups, which know better. */
Test(table, primary_whose_last_write_was_lost_under_a_log)
{
	struct ash_setattr change = { .valid = ASH_SET_MODE, .mode = 0600 };
	struct ash_super old;
	struct sick sick;

	small_runs_open(&sick, &old);
	engine_mount(&sick.engine);
	cr_assert_eq(ash_setattr(sick.engine.volume, sick.file, &change, NULL), 0);
	cr_assert_eq(ash_log_force(sick.engine.volume, ash_log_end(sick.engine.volume)), 0);
	ash_abandon(sick.engine.volume);
	sick.engine.volume = NULL;
	super_put(&sick.engine, 0, &old);
	cr_expect_eq(check(&sick, ASH_CHECK_YES).left, 0, "%s", sick.codes);
	cr_expect_eq(check(&sick, ASH_CHECK_NO).problems, 0, "%s", sick.codes);
	cr_expect_eq(names_left(&sick), FILES);
	expect_files(&sick, true);
	engine_close(&sick.engine);
}

/* The tree to which the backup leads is lost, and with it a run: that there are others behind it only the backup knows. */
Test(table, primary_whose_last_write_was_lost_and_a_run)
{
	static const uint8_t nothing[ASH_BLOCK_SIZE];
	struct ash_super old, super;
	struct ash_block_id id;
	uint32_t offset;
	struct sick sick;
	uint64_t tree;

	small_runs_open(&sick, &old);
	engine_mount(&sick.engine);
	cr_assert_eq(ash_itable_locate(sick.engine.volume, 16, &id, &offset), 0);
	cr_assert_eq(ash_close(sick.engine.volume), 0);
	sick.engine.volume = NULL;
	for (uint64_t i = 0; i < 3; i++) /* the bitmap of run 1, and its records */
		image_write(&sick.engine, id.block - 1 + i, nothing);
	image_read(&sick.engine, 0, &super);
	tree = ash_get64(super.block_count) - 100;
	table_grow_tree(&sick, tree);
	image_read(&sick.engine, 0, &super);
	super_put(&sick.engine, ash_get64(super.block_count) - 1, &super);
	super_put(&sick.engine, 0, &old);
	image_write(&sick.engine, tree, nothing);
	cr_expect_eq(check(&sick, ASH_CHECK_YES).left, 0, "%s", sick.codes);
	cr_expect_eq(check(&sick, ASH_CHECK_NO).problems, 0, "%s", sick.codes);
	cr_expect_eq(names_left(&sick), FILES - 16);
	engine_close(&sick.engine);
}

/* More files, so that the table grows; the volume stays sound. */
static void expect_usable(struct sick *sick)
{
	struct ash_create create = { .mode = S_IFREG | 0644 };
	struct ash_attr attr;
	char name[16];

	engine_mount(&sick->engine);
	for (unsigned i = 0; i < 2 * FILES; i++) {
		snprintf(name, sizeof(name), "new%u", i);
		cr_assert_eq(ash_create(sick->engine.volume, ASH_INO_ROOT, name, &create, &attr), 0);
	}
	cr_assert_eq(ash_close(sick->engine.volume), 0);
	sick->engine.volume = NULL;
	cr_expect_eq(check(sick, ASH_CHECK_NO).problems, 0, "%s", sick->codes);
}

/* What the last check told of runs, names and records. */
struct code_counts {
	unsigned lost_runs, holes, names, checksums;
};

static unsigned code_count(const struct sick *sick, const char *code)
{
	unsigned count = 0;

	for (const char *at = sick->codes; (at = strstr(at, code)); at += strlen(code))
		count++;
	return count;
}

static struct code_counts codes_count(const struct sick *sick)
{
	return (struct code_counts){ code_count(sick, "table-lost-run "), code_count(sick, "table-hole "),
				     code_count(sick, "dirent-target "), code_count(sick, "inode-checksum ") };
}

/*
 * Nor do the backups know them, as when the power went before a clean end: but names lead to them. Given up, they would be
 * made anew at the same place, with the old records behind the new ones.
 */
static void expect_named_runs(bool one_is_gone)
{
	static const uint8_t nothing[ASH_BLOCK_SIZE];
	struct code_counts would, did;
	struct ash_super old, super;
	struct ash_block_id id;
	uint32_t offset;
	struct sick sick;

	small_runs_open(&sick, &old);
	engine_mount(&sick.engine);
	cr_assert_eq(ash_itable_locate(sick.engine.volume, 16, &id, &offset), 0);
	cr_assert_eq(ash_close(sick.engine.volume), 0);
	sick.engine.volume = NULL;
	for (uint64_t i = 0; i < 3 && one_is_gone; i++) /* the bitmap of run 1, and its records */
		image_write(&sick.engine, id.block - 1 + i, nothing);
	image_read(&sick.engine, 0, &super);
	super_put(&sick.engine, ash_get64(super.block_count) - 1, &old);
	super_put(&sick.engine, 0, &old);
	image_spoil(&sick.engine, run_start(&sick.engine) + 2,
		    offsetof(struct ash_inode, atime)); /* of the first file */
	cr_expect(!check(&sick, ASH_CHECK_NO).changed);
	would = codes_count(&sick);
	cr_expect_eq(check(&sick, ASH_CHECK_YES).left, 0, "%s", sick.codes);
	did = codes_count(&sick);
	cr_expect_gt(did.lost_runs, 0, "%s", sick.codes);
	cr_expect_eq(would.lost_runs, did.lost_runs);
	cr_expect_eq(would.holes, did.holes);
	cr_expect_eq(would.checksums, 1, "not once more when the runs are looked for");
	cr_expect_eq(did.checksums, 1);
	cr_expect_eq(would.names, did.names, "who only looks is told of %u names, not %u", would.names, did.names);
	cr_expect_eq(did.names, one_is_gone ? 16 : 0, "%s", sick.codes);
	cr_expect_eq(check(&sick, ASH_CHECK_NO).problems, 0, "%s", sick.codes);
	cr_expect_eq(names_left(&sick), one_is_gone ? FILES - 16 : FILES);
	expect_usable(&sick);
	engine_close(&sick.engine);
}

Test(table, runs_that_only_names_know)
{
	expect_named_runs(false);
}

Test(table, run_that_only_names_know_behind_one_that_is_gone)
{
	expect_named_runs(true);
}

/* Inodes from there on, with or without a name. */
static unsigned inodes_from(struct sick *sick, uint64_t ino)
{
	struct ash_attr attr;
	unsigned count = 0;

	engine_mount(&sick->engine);
	for (; ino < ASH_INO_FIRST_FREE + FILES; ino++)
		count += ash_getattr(sick->engine.volume, ino, &attr) == 0;
	cr_assert_eq(ash_close(sick->engine.volume), 0);
	sick->engine.volume = NULL;
	return count;
}

/* The first run, with the root, and the map of the table are gone: an empty run takes its place, unless a block may have it. */
Test(table, first_run_lost_with_the_map)
{
	static const uint8_t nothing[ASH_BLOCK_SIZE];
	struct ash_check_options options = { .mode = ASH_CHECK_YES, .force = true, .no_threads = true };
	struct ash_check_result result;
	struct ash_super old, super;
	struct sick sick;
	uint64_t start, tree;

	small_runs_open(&sick, &old);
	start = run_start(&sick.engine);
	image_read(&sick.engine, 0, &super);
	tree = ash_get64(super.block_count) - 100;
	table_grow_tree(&sick, tree);
	image_write(&sick.engine, tree, nothing);
	image_write(&sick.engine, start + 1, nothing);
	image_write(&sick.engine, start + 2, nothing);
	make_unreadable(&sick, start);
	cr_expect_eq(ash_check(sick.engine.dev, &options, &result), -EUCLEAN, "%s", result.error);
	fault_clear(sick.engine.dev);
	image_write(&sick.engine, start, nothing);
	cr_expect_eq(check(&sick, ASH_CHECK_YES).left, 0, "%s", sick.codes);
	cr_expect_eq(check(&sick, ASH_CHECK_NO).problems, 0, "%s", sick.codes);
	cr_expect_eq(inodes_from(&sick, 16), ASH_INO_FIRST_FREE + FILES - 16);
	cr_expect_eq(check(&sick, ASH_CHECK_NO).problems, 0, "%s", sick.codes);
	engine_close(&sick.engine);
}

/* ---- Two volumes ---- */

#define SMALL_RUN 16u /* inodes: the fewest */
#define SMALL_BLOCKS (1u + SMALL_RUN / ASH_INODES_PER_BLOCK)

/*
 * Over the first blocks, to the end of so many runs, come those of another volume, its first run with them, that has one
 * file; `clean`: not only in its log.
 */
static void first_blocks_replace(struct sick *sick, const char *device, const struct ash_super *super, uint64_t runs,
				 bool clean)
{
	struct ash_mkfs_options options = { .log_blocks = ASH_LOG_MIN_BLOCKS, .inodes_per_run = SMALL_RUN };
	struct ash_create create = { .mode = S_IFREG | 0644 };
	struct engine other = { .options = { .no_threads = true } };
	char error[BDEV_ERROR_TEXT] = "";
	uint8_t block[ASH_BLOCK_SIZE];
	struct ash_attr attr;
	uint64_t end;

	other.dev = engine_device(device);
	cr_assert_eq(ash_mkfs(other.dev, &options, error), 0, "%s", error);
	engine_mount(&other);
	cr_assert_eq(ash_create(other.volume, ASH_INO_ROOT, "other", &create, &attr), 0);
	if (clean)
		cr_assert_eq(ash_close(other.volume), 0);
	else
		engine_cut(&other);
	other.volume = NULL;
	end = ash_get64(super->log_start) + ash_get64(super->log_blocks) + runs * SMALL_BLOCKS;
	for (uint64_t i = 0; i < end; i++) {
		image_read(&other, i, block);
		image_write(&sick->engine, i, block);
	}
	engine_close(&other);
}

/* Nobody but who knows what is wanted can choose; nothing is written before, and what is chosen keeps all that is left of it. */
static void expect_choice(const char *device, bool map_is_lost, bool primary, bool clean)
{
	struct ash_check_result result;
	struct ash_super old, super;
	uint64_t runs = map_is_lost ? 2 : 1, first = runs * SMALL_RUN, chosen;
	struct ash_attr attr;
	struct sick sick;

	small_runs_open(&sick, &old);
	image_read(&sick.engine, 0, &super);
	chosen = ash_get64(super.block_count) - 1;
	first_blocks_replace(&sick, device, &super, runs, clean);
	if (map_is_lost) {
		memset(&super.table_inode, 0, sizeof(super.table_inode));
		super_put(&sick.engine, chosen, &super);
	}
	if (primary)
		chosen = 0;
	for (unsigned i = 0; i < 3; i++) {
		static const enum ash_check_mode modes[] = { ASH_CHECK_NO, ASH_CHECK_PREEN, ASH_CHECK_YES };

		cr_expect_eq(check_by(&sick, modes[i], NULL, &result), -ENOTUNIQ, "%s", sick.codes);
		cr_expect(!result.changed);
		cr_expect(strstr(result.error, "two volumes"), "%s", result.error);
	}
	cr_expect_eq(check_by(&sick, ASH_CHECK_YES, &chosen, &result), 0, "%s", result.error);
	cr_expect_eq(result.left, 0, "%s", sick.codes);
	if (primary)
		cr_expect(!strstr(sick.codes, "log-replay"), "%s", sick.codes);
	cr_expect_eq(check(&sick, ASH_CHECK_NO).problems, 0, "%s", sick.codes);
	if (!primary) {
		cr_expect_eq(inodes_from(&sick, first), ASH_INO_FIRST_FREE + FILES - first);
	} else {
		engine_mount(&sick.engine);
		cr_expect_eq(ash_lookup(sick.engine.volume, ASH_INO_ROOT, "other", &attr), 0);
	}
	engine_close(&sick.engine);
}

Test(table, first_blocks_of_another_volume)
{
	expect_choice("mem:16M", false, false, true);
	expect_choice("mem:16M", false, true, true);
}

/* Once it is chosen, its log is replayed. */
Test(table, first_blocks_of_another_volume_that_was_in_use)
{
	expect_choice("mem:16M", false, false, false);
	expect_choice("mem:16M", false, true, false);
}

Test(table, first_blocks_of_another_volume_and_no_map)
{
	expect_choice("mem:16M", true, false, true);
}

Test(table, first_blocks_of_a_smaller_volume)
{
	expect_choice("mem:8M", false, false, true);
}

/* Who mounts that does not write over the only superblock of the volume that was there. */
Test(table, first_blocks_of_another_volume_are_not_written_to)
{
	struct ash_create create = { .mode = S_IFREG | 0644 };
	uint8_t backup[ASH_BLOCK_SIZE], after[ASH_BLOCK_SIZE];
	struct ash_super old, super;
	struct ash_attr attr;
	struct sick sick;

	small_runs_open(&sick, &old);
	image_read(&sick.engine, 0, &super);
	first_blocks_replace(&sick, "mem:16M", &super, 1, true);
	image_read(&sick.engine, ash_get64(super.block_count) - 1, backup);
	engine_mount(&sick.engine);
	cr_expect_gt(sick.engine.errors, 0);
	cr_expect_eq(ash_lookup(sick.engine.volume, ASH_INO_ROOT, "other", &attr), 0);
	cr_expect_eq(ash_create(sick.engine.volume, ASH_INO_ROOT, "new", &create, &attr), -EROFS);
	cr_assert_eq(ash_close(sick.engine.volume), 0);
	sick.engine.volume = NULL;
	image_read(&sick.engine, ash_get64(super.block_count) - 1, after);
	cr_expect_arr_eq(after, backup, sizeof(backup));
	engine_close(&sick.engine);
}

/* ---- Three volumes ---- */

/* One filled the device, and has backups behind the end of that of two groups that was made then: *super is its own. */
static void volume_behind_another_open(struct sick *sick, const char *device, struct ash_super *super)
{
	struct ash_mkfs_options options = { .log_blocks = ASH_LOG_MIN_BLOCKS, .inodes_per_run = SMALL_RUN };
	char error[BDEV_ERROR_TEXT] = "";
	struct ash_super stale;

	memset(sick, 0, sizeof(*sick));
	cr_assert_eq(fault_open(engine_device(device), &sick->engine.dev), 0);
	cr_assert_eq(ash_mkfs(sick->engine.dev, &options, error), 0, "%s", error);
	options.block_count = ash_group_start(2);
	cr_assert_eq(ash_mkfs(sick->engine.dev, &options, error), 0, "%s", error);
	sick->engine.options.no_threads = true;
	engine_mount(&sick->engine);
	files_make(sick);
	cr_assert_eq(ash_close(sick->engine.volume), 0);
	sick->engine.volume = NULL;
	image_read(&sick->engine, 0, super);
	image_read(&sick->engine, ash_group_start(5), &stale);
	cr_assert_eq(ash_get32(stale.header.magic), ASH_MAGIC_SUPER, "the old backups are still there");
	cr_assert_neq(stale.checksum_seed.raw, super->checksum_seed.raw);
}

/* Block 0 of a third: the many backups of the first one are no reason to take it, of which nothing else is there. */
Test(table, stale_backups_of_one_volume_do_not_outvote_another)
{
	struct ash_super super, other;
	struct sick sick;

	volume_behind_another_open(&sick, "mem:640M", &super);
	other = super;
	other.checksum_seed = ash_put32(ash_get32(super.checksum_seed) + 1);
	memset(other.header.metadata_uuid, 7, 16);
	other.block_count = ash_put64(bdev_geometry(sick.engine.dev)->size / ASH_BLOCK_SIZE);
	other.group_count = ash_put32(6);
	super_put(&sick.engine, 0, &other);
	expect_healed(&sick, "super-bad");
	image_read(&sick.engine, 0, &other);
	cr_expect_eq(other.checksum_seed.raw, super.checksum_seed.raw);
	cr_expect_eq(names_left(&sick), FILES);
	engine_close(&sick.engine);
}

/* With the first blocks of the third come inodes: then that of which most is there is offered for a choice. */
Test(table, first_blocks_of_another_volume_and_stale_backups)
{
	struct ash_check_result result;
	struct ash_super super;
	struct sick sick;
	uint64_t last, named;

	volume_behind_another_open(&sick, "mem:640M", &super);
	first_blocks_replace(&sick, "mem:640M", &super, 1, true);
	cr_expect_eq(check_by(&sick, ASH_CHECK_YES, NULL, &result), -ENOTUNIQ, "%s", sick.codes);
	cr_expect(!result.changed);
	last = ash_get64(super.block_count) - 1;
	cr_assert(strstr(result.error, "is in block "), "%s", result.error);
	named = strtoull(strstr(result.error, "is in block ") + strlen("is in block "), NULL, 10);
	cr_expect(named == last || named == ash_group_start(1), "%s", result.error);
	engine_close(&sick.engine);
}

static bool cancel(void *context)
{
	(void)context;
	return true;
}

/* A signal while both are looked for is no failure of the check. */
Test(table, search_for_two_volumes_that_is_cancelled)
{
	struct ash_check_options options = {
		.mode = ASH_CHECK_YES, .force = true, .no_threads = true, .cancelled = cancel
	};
	struct ash_check_result result;
	struct ash_super old, super;
	struct sick sick;

	small_runs_open(&sick, &old);
	image_read(&sick.engine, 0, &super);
	first_blocks_replace(&sick, "mem:16M", &super, 2, true);
	memset(&super.table_inode, 0, sizeof(super.table_inode));
	super_put(&sick.engine, ash_get64(super.block_count) - 1, &super);
	cr_expect_eq(ash_check(sick.engine.dev, &options, &result), 0, "%s", result.error);
	cr_expect(result.cancelled);
	cr_expect(!result.changed);
	engine_close(&sick.engine);
}

/* Nor is one while a backup is looked for. */
Test(table, search_for_a_backup_that_is_cancelled)
{
	static const uint8_t nothing[ASH_BLOCK_SIZE];
	struct ash_check_options options = {
		.mode = ASH_CHECK_YES, .force = true, .no_threads = true, .cancelled = cancel
	};
	struct ash_check_result result;
	struct sick sick = { 0 };

	sick.engine.dev = engine_device("mem:16M");
	image_write(&sick.engine, 0, nothing);
	cr_expect_eq(ash_check(sick.engine.dev, &options, &result), 0, "%s", result.error);
	cr_expect(result.cancelled);
	engine_close(&sick.engine);
}

Test(table, superblock_chosen_where_there_is_none)
{
	struct ash_check_result result;
	struct sick sick;
	uint64_t block;

	sick_open(&sick, true);
	block = run_start(&sick.engine);
	cr_expect_eq(check_by(&sick, ASH_CHECK_YES, &block, &result), -EINVAL);
	block = UINT64_MAX;
	cr_expect_eq(check_by(&sick, ASH_CHECK_YES, &block, &result), -EINVAL);
	cr_expect(!result.changed);
	engine_close(&sick.engine);
}

/* ---- Runs that are not there ---- */

#define CLAIMED_RUNS 4000000u
#define LEAF_EXTENTS 140u

/*
 * Extents of up to a group each, of blocks that were never written: 28 bytes claim ten thousand runs. The last run's
 * place.
 */
static uint64_t runs_claim(struct engine *engine, struct ash_super *super)
{
	uint64_t per_group = (ASH_BLOCKS_PER_GROUP - 3) / SMALL_BLOCKS * SMALL_BLOCKS;
	uint64_t end = (uint64_t)CLAIMED_RUNS * SMALL_BLOCKS, at = SMALL_BLOCKS, group = 2, last = 0, start, count,
		 nodes = 0;
	uint8_t leaf[ASH_BLOCK_SIZE], *node;

	table_extent(super, &start, &count);
	node_begin(super->table_inode.data, ASH_DATA_FORK_SIZE, 1);
	while (at < end) {
		uint64_t block = block_take(engine);

		node = tree_block_begin(engine, leaf, block, ASH_INO_TABLE, 0);
		node_add_child(super->table_inode.data, nodes++ ? at : 0, block);
		if (nodes == 1)
			node_add_extent(node, 0, start, SMALL_BLOCKS);
		for (unsigned i = 0; i < LEAF_EXTENTS && at < end; i++, group++) {
			uint64_t part = end - at < per_group ? end - at : per_group;

			node_add_extent(node, at, ash_group_start(group) + 2, (uint32_t)part);
			last = ash_group_start(group) + 2 + part - SMALL_BLOCKS;
			at += part;
		}
		block_seal(engine, leaf);
	}
	super->table_inode.blocks = ash_put64(end + nodes);
	super->table_inode.size = ash_put64(end << ASH_BLOCK_SHIFT);
	super->inode_runs = ash_put64(CLAIMED_RUNS);
	super_put(engine, 0, super);
	return last;
}

static void bitmap_put(struct engine *engine, const struct ash_super *super, uint64_t run, uint64_t block)
{
	struct ash_bitmap_block bitmap = { .header = super->header, .initialized = ash_put32(1) };

	bitmap.header.magic = ash_put32(ASH_MAGIC_INODE_BITMAP);
	bitmap.header.owner = ash_put64(run);
	bitmap.header.address = ash_put64(block);
	block_seal(engine, (uint8_t *)&bitmap);
}

/* Neither memory nor a problem for each of four million runs of which there is nothing but the claim. */
static void expect_claims_cost_nothing(bool last_is_there)
{
	struct ash_mkfs_options options = { .log_blocks = ASH_LOG_MIN_BLOCKS, .inodes_per_run = SMALL_RUN };
	struct ash_check_result result;
	char error[BDEV_ERROR_TEXT] = "";
	struct sick sick = { 0 };
	struct ash_super super;
	uint64_t last;

	sick.engine.dev = engine_device("mem:50G");
	cr_assert_eq(ash_mkfs(sick.engine.dev, &options, error), 0, "%s", error);
	image_read(&sick.engine, 0, &super);
	last = runs_claim(&sick.engine, &super);
	if (last_is_there)
		bitmap_put(&sick.engine, &super, CLAIMED_RUNS - 1, last);
	memory_limit(100u << 20);
	cr_expect_eq(engine_try_mount(&sick.engine), -EUCLEAN, "nor does a mount take memory for them");
	result = check(&sick, ASH_CHECK_NO);
	cr_expect_gt(result.problems, 0);
	cr_expect_lt(result.problems, 5000);
	result = check(&sick, ASH_CHECK_YES);
	cr_expect_eq(result.left, 0, "%s", sick.codes);
	result = check(&sick, ASH_CHECK_NO);
	cr_expect_eq(result.problems, 0, "%s", sick.codes);
	cr_expect_eq(result.inodes, SMALL_RUN);
	engine_mount(&sick.engine);
	engine_close(&sick.engine);
}

Test(table, millions_of_runs_that_are_only_claimed)
{
	expect_claims_cost_nothing(false);
}

Test(table, millions_of_runs_of_which_only_the_last_is_there)
{
	expect_claims_cost_nothing(true);
}

#define MANY_FILES 3000u
#define WIPED_FIRST 5u
#define WIPED_END 170u

static void many_files(struct sick *sick)
{
	struct ash_create create = { .mode = S_IFREG | 0644 };
	struct ash_attr attr;
	char name[16];

	engine_mount(&sick->engine);
	for (unsigned i = 0; i < MANY_FILES; i++) {
		snprintf(name, sizeof(name), "file%u", i);
		cr_assert_eq(ash_create(sick->engine.volume, ASH_INO_ROOT, name, &create, &attr), 0);
	}
	cr_assert_eq(ash_close(sick->engine.volume), 0);
	sick->engine.volume = NULL;
}

/* The tree block with the table's extents is lost; nothing else tells where runs are but themselves. */
static void table_map_lose(struct sick *sick)
{
	struct ash_super super;
	uint64_t last;

	image_read(&sick->engine, 0, &super);
	last = ash_get64(super.block_count) - 1;
	node_begin(super.table_inode.data, ASH_DATA_FORK_SIZE, 1);
	node_add_child(super.table_inode.data, 0, last - 5);
	super_put(&sick->engine, 0, &super);
	super_put(&sick->engine, last, &super);
}

/* Where most runs were wiped, the few behind them are not given up. */
static void expect_runs_behind(bool map_too)
{
	struct ash_mkfs_options options = { .log_blocks = ASH_LOG_MIN_BLOCKS, .inodes_per_run = SMALL_RUN };
	static const uint8_t nothing[ASH_BLOCK_SIZE];
	uint64_t wiped[(WIPED_END - WIPED_FIRST) * SMALL_BLOCKS], count = 0;
	char error[BDEV_ERROR_TEXT] = "";
	struct ash_block_id id;
	struct sick sick = { 0 };
	struct ash_attr attr;
	uint32_t offset;

	sick.engine.dev = engine_device("mem:64M");
	cr_assert_eq(ash_mkfs(sick.engine.dev, &options, error), 0, "%s", error);
	many_files(&sick);
	cr_expect_eq(check(&sick, ASH_CHECK_NO).problems, 0, "%s", sick.codes);
	engine_mount(&sick.engine);
	for (uint64_t run = WIPED_FIRST; run < WIPED_END; run++) {
		cr_assert(ash_itable_bitmap(sick.engine.volume, run, &id));
		wiped[count++] = id.block;
		for (uint32_t i = 0; i < SMALL_RUN; i += ASH_INODES_PER_BLOCK) {
			cr_assert_eq(ash_itable_locate(sick.engine.volume, run * SMALL_RUN + i, &id, &offset), 0);
			wiped[count++] = id.block;
		}
	}
	cr_assert_eq(ash_close(sick.engine.volume), 0);
	sick.engine.volume = NULL;
	for (uint64_t i = 0; i < count; i++)
		image_write(&sick.engine, wiped[i], nothing);
	if (map_too)
		table_map_lose(&sick);
	cr_expect_eq(check(&sick, ASH_CHECK_YES).left, 0, "%s", sick.codes);
	cr_expect_eq(check(&sick, ASH_CHECK_NO).problems, 0, "%s", sick.codes);
	engine_mount(&sick.engine);
	cr_expect_eq(ash_lookup(sick.engine.volume, ASH_INO_ROOT, "file0", &attr), 0);
	cr_expect_eq(ash_lookup(sick.engine.volume, ASH_INO_ROOT, "file2999", &attr), 0);
	engine_close(&sick.engine);
}

Test(table, runs_behind_a_wide_damage)
{
	expect_runs_behind(false);
}

Test(table, runs_behind_a_wide_damage_to_the_map_as_well)
{
	expect_runs_behind(true);
}
