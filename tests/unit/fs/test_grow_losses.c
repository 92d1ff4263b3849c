/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A growth, and an unmount that refreshes the backups, of which what was not flushed is lost: the volume can be mounted
 * and is sound, has its old size or the new one, and some copy of the superblock besides the first is good at any time.
 */
#include "loss_fixture.h"

#include "fsck/check.h"
#include "tests/support/backup.h"

#define DEVICE "mem:132M"
#define DEVICE_BLOCKS 33792u /* a group, and 1536 blocks of another */

struct judge {
	struct engine engine;
	uint64_t old_blocks, new_blocks;
};

static bool any_backup(struct judge *judge)
{
	return backup_is_good(judge->engine.dev, judge->old_blocks - 1) ||
	       backup_is_good(judge->engine.dev, judge->new_blocks - 1) ||
	       backup_is_good(judge->engine.dev, ash_group_start(1));
}

static const char *judge_volume(struct judge *judge)
{
	struct ash_check_options look = { .mode = ASH_CHECK_NO, .no_threads = true };
	struct engine *engine = &judge->engine;
	struct ash_check_result result;
	struct ash_statfs statfs;
	struct ash_attr attr;
	char back[8] = "";
	const char *why = NULL;

	if (engine_try_mount(engine))
		return "it cannot be mounted";
	if (ash_lookup(engine->volume, ASH_INO_ROOT, "file", &attr) ||
	    ash_read(engine->volume, attr.ino, back, sizeof(back), 0) != sizeof(back) || strcmp(back, "content"))
		why = "the file is lost";
	else if (ash_statfs(engine->volume, &statfs) ||
		 (statfs.blocks != judge->old_blocks && statfs.blocks != judge->new_blocks))
		why = "it has another size";
	else if (ash_check_writable(engine->volume))
		why = "it is called damaged";
	if (ash_close(engine->volume) && !why)
		why = "it cannot be closed";
	engine->volume = NULL;
	if (!why && (ash_check(engine->dev, &look, &result) || result.problems))
		why = "it is not sound";
	return why;
}

static const char *state_judge(void *context, bool untouched)
{
	struct judge *judge = context;

	(void)untouched;
	return any_backup(judge) ? judge_volume(judge) : "no backup is good";
}

/* A volume of `blocks` with a file, closed. */
static void volume_make(struct engine *engine, uint64_t blocks)
{
	struct ash_mkfs_options options = { .block_count = blocks,
					    .log_blocks = ASH_LOG_MIN_BLOCKS,
					    .inodes_per_run = 64 };
	struct ash_create create = { .mode = S_IFREG | 0644 };
	char error[BDEV_ERROR_TEXT] = "";
	struct ash_attr attr;

	memset(engine, 0, sizeof(*engine));
	engine->dev = engine_device(DEVICE);
	engine->options.no_threads = true;
	cr_assert_eq(ash_mkfs(engine->dev, &options, error), 0, "%s", error);
	engine_mount(engine);
	cr_assert_eq(ash_create(engine->volume, ASH_INO_ROOT, "file", &create, &attr), 0);
	cr_assert_eq(ash_write(engine->volume, attr.ino, "content", 8, 0, 0), 8);
	cr_assert_eq(ash_close(engine->volume), 0);
	engine->volume = NULL;
}

static void explore(struct losses *losses, struct engine *engine, uint64_t old_blocks, uint64_t new_blocks)
{
	static struct judge judge;

	judge = (struct judge){ .engine = *engine, .old_blocks = old_blocks, .new_blocks = new_blocks };
	judge.engine.dev = losses->dev;
	losses->judge = state_judge;
	losses->context = &judge;
	losses_explore(losses);
	losses_close(losses);
	engine_close(engine);
}

/* The device may hold anything behind the volume's end. */
static void explore_growth(uint64_t old_blocks, uint64_t new_blocks)
{
	static struct losses losses;
	uint8_t rubbish[ASH_BLOCK_SIZE];
	struct engine engine;

	volume_make(&engine, old_blocks);
	memset(rubbish, 0xa5, sizeof(rubbish));
	if (old_blocks <= ash_group_start(1))
		image_write(&engine, ash_group_bitmap(1), rubbish);
	losses_open(&losses, &engine.dev);
	engine_mount(&engine);
	cr_assert_eq(ash_grow(engine.volume, new_blocks), 0);
	ash_abandon(engine.volume);
	engine.volume = NULL;
	explore(&losses, &engine, old_blocks, new_blocks);
}

Test(grow_losses, within_the_last_group, .timeout = 300)
{
	explore_growth(4096, 8192);
}

Test(grow_losses, by_a_group, .timeout = 300)
{
	explore_growth(4096, DEVICE_BLOCKS);
}

Test(grow_losses, within_the_second_group, .timeout = 300)
{
	explore_growth(DEVICE_BLOCKS - 1024, DEVICE_BLOCKS);
}

/* The table got a run that no backup knows: all are written anew, and never all are on their way. */
Test(grow_losses, backups_at_unmount, .timeout = 300)
{
	struct ash_create create = { .mode = S_IFREG | 0644 };
	static struct losses losses;
	struct ash_super super;
	struct engine engine;
	struct ash_attr attr;
	char name[16];

	volume_make(&engine, DEVICE_BLOCKS);
	engine_mount(&engine);
	for (unsigned i = 0; i < 64; i++) {
		snprintf(name, sizeof(name), "file%u", i);
		cr_assert_eq(ash_create(engine.volume, ASH_INO_ROOT, name, &create, &attr), 0);
	}
	cr_assert_eq(ash_checkpoint(engine.volume), 0);
	ash_abandon(engine.volume);
	losses_open(&losses, &engine.dev);
	engine_mount(&engine);
	cr_assert_eq(ash_close(engine.volume), 0);
	engine.volume = NULL;
	for (unsigned i = 0; i < 3; i++) {
		image_read(&engine, (const uint64_t[]){ 0, ash_group_start(1), DEVICE_BLOCKS - 1 }[i], &super);
		cr_expect_gt(ash_get64(super.inode_runs), 1, "%u", i);
	}
	explore(&losses, &engine, DEVICE_BLOCKS, DEVICE_BLOCKS);
}

struct race {
	struct engine engine;
	uint64_t log_start;
	unsigned files;
	bool making;
};

/* Somebody else makes files, for which the inode table grows, when a checkpoint of the growth is about to end. */
static void files_race(void *context, const struct bdev_request *request)
{
	struct ash_create create = { .mode = S_IFREG | 0644 };
	struct race *race = context;
	struct ash_attr attr;
	char name[16];

	if (request->op != BDEV_WRITE || race->making || request->offset / ASH_BLOCK_SIZE - race->log_start >= 2)
		return;
	race->making = true;
	for (unsigned i = 0; i < 64; i++) {
		snprintf(name, sizeof(name), "race%u", race->files++);
		cr_assert_eq(ash_create(race->engine.volume, ASH_INO_ROOT, name, &create, &attr), 0);
	}
	race->making = false;
}

/* Runs that the log does not have durably are not in a backup: block 0 would be taken for an old one. */
Test(grow_losses, backups_do_not_run_ahead)
{
	struct ash_volume_info info;
	struct ash_super backup;
	struct race race;

	volume_make(&race.engine, 4096);
	cr_assert_eq(fault_open(race.engine.dev, &race.engine.dev), 0);
	race.files = 0;
	race.making = false;
	engine_mount(&race.engine);
	race.log_start = race.engine.volume->log_start;
	fault_ask(race.engine.dev, files_race, &race);
	cr_assert_eq(ash_grow(race.engine.volume, 0), 0);
	fault_ask(race.engine.dev, NULL, NULL);
	cr_assert_gt(race.files, 0);
	ash_abandon(race.engine.volume);
	engine_mount(&race.engine);
	cr_assert_eq(ash_volume_info(race.engine.volume, &info), 0);
	image_read(&race.engine, info.block_count - 1, &backup);
	cr_expect_leq(ash_get64(backup.inode_runs), info.inode_runs);
	engine_close(&race.engine);
}

/* ---- The write of block 0 that was lost ---- */

/* Data in nearly all that is free: also in the block of the last backup before the growth. */
static void volume_fill(struct engine *engine)
{
	struct ash_create create = { .mode = S_IFREG | 0644 };
	static char mib[1 << 20];
	struct ash_attr attr;

	memset(mib, 'm', sizeof(mib));
	cr_assert_eq(ash_create(engine->volume, ASH_INO_ROOT, "filler", &create, &attr), 0);
	for (uint64_t at = 0; free_blocks(engine) > 3 * sizeof(mib) / ASH_BLOCK_SIZE; at += sizeof(mib))
		cr_assert_eq(ash_write(engine->volume, attr.ino, mib, sizeof(mib), at, ASH_WRITE_THROUGH), sizeof(mib));
}

/* A closed volume that has grown, with a block 0 from before. */
static void grown_make(struct engine *engine, uint64_t old_blocks, uint64_t new_blocks, bool full)
{
	struct ash_super old, last;

	volume_make(engine, old_blocks);
	image_read(engine, 0, &old);
	engine_mount(engine);
	cr_assert_eq(ash_grow(engine->volume, new_blocks), 0);
	if (full)
		volume_fill(engine);
	cr_assert_eq(ash_close(engine->volume), 0);
	engine->volume = NULL;
	image_write(engine, 0, &old);
	image_read(engine, old_blocks - 1, &last);
	cr_assert_eq(ash_get32(last.header.magic) == ASH_MAGIC_SUPER, !full, "%llu: what took the last backup's place",
		     (unsigned long long)old_blocks);
}

static uint8_t *device_read(struct engine *engine)
{
	uint64_t size = bdev_geometry(engine->dev)->size;
	uint8_t *bytes = bdev_buffer_alloc(size);

	cr_assert(bytes);
	cr_assert_eq(bdev_read(engine->dev, bytes, size, 0), 0);
	return bytes;
}

/* But for block 0 and the log. */
static void expect_left_alone(struct engine *engine, const uint8_t *before)
{
	const struct ash_super *super = (const void *)before;
	uint64_t log = ash_get64(super->log_start), log_end = log + ash_get64(super->log_blocks);
	uint64_t size = bdev_geometry(engine->dev)->size;
	uint8_t *after = device_read(engine);

	for (uint64_t block = 1; block < size / ASH_BLOCK_SIZE; block++)
		if (block < log || block >= log_end)
			cr_expect(!memcmp(before + block * ASH_BLOCK_SIZE, after + block * ASH_BLOCK_SIZE,
					  ASH_BLOCK_SIZE),
				  "block %llu", (unsigned long long)block);
	bdev_buffer_free(after, size);
}

static void expect_noticed(uint64_t old_blocks, uint64_t new_blocks, bool full)
{
	struct ash_check_options repair = { .mode = ASH_CHECK_YES, .force = true, .no_threads = true };
	struct judge judge = { .old_blocks = new_blocks, .new_blocks = new_blocks };
	struct ash_create create = { .mode = S_IFREG | 0644 };
	struct engine *engine = &judge.engine;
	struct ash_check_result result;
	struct ash_attr attr;
	const char *why;
	uint8_t *before;

	grown_make(engine, old_blocks, new_blocks, full);
	before = device_read(engine);
	engine_mount(engine);
	cr_expect_eq(ash_create(engine->volume, ASH_INO_ROOT, "more", &create, &attr), -EROFS, "%llu, %llu",
		     (unsigned long long)old_blocks, (unsigned long long)new_blocks);
	cr_expect_eq(ash_close(engine->volume), 0);
	engine->volume = NULL;
	expect_left_alone(engine, before);
	bdev_buffer_free(before, bdev_geometry(engine->dev)->size);
	cr_expect_eq(ash_check(engine->dev, &repair, &result), 0, "%s", result.error);
	cr_expect_eq(result.left, 0, "%s", result.first);
	why = judge_volume(&judge);
	cr_expect_null(why, "%s", why);
	engine_close(engine);
}

/* Within the second group, a backup tells; else the group table or the bitmap of the old last group. */
Test(grow_losses, block_0_from_before_it_grew)
{
	for (unsigned full = 0; full < 2; full++) {
		expect_noticed(DEVICE_BLOCKS - 1024, DEVICE_BLOCKS, full);
		expect_noticed(4096, DEVICE_BLOCKS, full);
	}
	expect_noticed(ASH_BLOCKS_PER_GROUP, DEVICE_BLOCKS, false);
}
