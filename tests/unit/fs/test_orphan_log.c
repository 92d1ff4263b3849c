/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Orphans as the log has them: how many it can carry, who leaves the set and when, and truncations that use the mark. */
#include "engine_fixture.h"
#include "fs/file_edit.h"

static const struct ash_create regular = { .mode = S_IFREG | 0644 };

static int orphan_make(struct engine *engine, uint64_t *ino)
{
	struct ash_attr attr;
	int result = ash_tmpfile(engine->volume, ASH_INO_ROOT, &regular, &attr);

	*ino = result ? 0 : attr.ino;
	return result;
}

#define NO_SUCH_INODES (1ull << 40)

enum { ORPHANS_MAX = 60000, CHANGES = 3000 };

/* Many times, so that the log goes round with the whole set in it. */
static void everything_else_goes_on(struct engine *engine, uint64_t file)
{
	struct ash_setattr change = { .valid = ASH_SET_MODE, .mode = 0600 };
	struct ash_attr attr;
	char name[16], other[16];

	for (int i = 0; i < CHANGES; i++) {
		snprintf(name, sizeof(name), "n%d", i);
		snprintf(other, sizeof(other), "o%d", i);
		cr_assert_eq(ash_create(engine->volume, ASH_INO_ROOT, name, &regular, &attr), 0);
		cr_assert_eq(ash_rename(engine->volume, ASH_INO_ROOT, name, ASH_INO_ROOT, other, 0), 0);
		cr_assert_eq(ash_rename(engine->volume, ASH_INO_ROOT, other, ASH_INO_ROOT, name, 0), 0);
		cr_assert_eq(ash_setattr(engine->volume, attr.ino, &change, NULL), 0);
		cr_assert_eq(ash_write(engine->volume, file, "data", 4, i * 100000, 0), 4);
		ash_forget(engine->volume, attr.ino, 1);
	}
	cr_assert_eq(ash_fsync(engine->volume, file, false), 0);
	/* nobody looks at it: it goes at once */
	cr_assert_eq(ash_unlink(engine->volume, ASH_INO_ROOT, "n1", NULL), 0);
	cr_assert_eq(ash_rename(engine->volume, ASH_INO_ROOT, "n3", ASH_INO_ROOT, "n2", 0), 0);
}

/* The smallest log. What would add to them is refused, all else goes on, and released orphans make room again. */
Test(orphan_log, more_than_it_can_carry_are_refused, .timeout = 120)
{
	static uint64_t inodes[ORPHANS_MAX];
	struct ash_attr attr;
	struct engine engine;
	uint32_t count = 0;
	uint64_t file;
	int result;

	engine_open(&engine, "mem:512M", 0);
	cr_assert_eq(ash_create(engine.volume, ASH_INO_ROOT, "held", &regular, &attr), 0);
	cr_assert_eq(ash_create(engine.volume, ASH_INO_ROOT, "file", &regular, &attr), 0);
	file = attr.ino;
	while (count < ORPHANS_MAX && !(result = orphan_make(&engine, &inodes[count])))
		count++;
	cr_assert_eq(result, -ENOSPC);
	cr_expect_gt(count, 8000);
	cr_expect_eq(ash_unlink(engine.volume, ASH_INO_ROOT, "held", NULL), -ENOSPC, "it is looked up");
	cr_expect_eq(ash_rename(engine.volume, ASH_INO_ROOT, "file", ASH_INO_ROOT, "held", 0), -ENOSPC);
	everything_else_goes_on(&engine, file);
	for (uint32_t i = 0; i < 500; i++)
		ash_forget(engine.volume, inodes[i], 1);
	cr_expect_eq(ash_unlink(engine.volume, ASH_INO_ROOT, "held", NULL), 0);
	cr_expect_eq(orphan_make(&engine, &inodes[0]), 0);
	cr_expect_eq(ash_sync(engine.volume), 0);
	engine_again(&engine);
	cr_expect_eq(ash_lookup(engine.volume, ASH_INO_ROOT, "n7", &attr), 0);
	cr_expect_eq(ash_lookup(engine.volume, ASH_INO_ROOT, "held", &attr), -ENOENT);
	engine_close(&engine);
}

/*
 * The first use of a group, or of a block of inodes, is a transaction of its own in the middle of another one. Wherever data
 * still finds room in the log, so must that: else a nearly empty volume has no space.
 */
Test(orphan_log, what_the_volume_itself_writes_has_room_where_data_has, .timeout = 120)
{
	struct ash_attr attr;
	struct engine engine;
	struct ash_txn *txn;
	int result = 0, tried = 0;

	engine_open(&engine, "mem:512M", 0);
	cr_assert_eq(ash_create(engine.volume, ASH_INO_ROOT, "file", &regular, &attr), 0);
	/* the log would refuse so many to those who ask */
	for (uint64_t i = 0; i < 12000;) {
		cr_assert_eq(ash_txn_begin(engine.volume, ASH_TXN_SMALL, &txn), 0);
		for (int k = 0; k < 100; k++, i++)
			ash_txn_orphan(txn, NO_SUCH_INODES + i, true);
		ash_txn_commit(txn);
	}
	for (uint64_t i = 0; i < 800 && !result; i++) {
		cr_assert_eq(ash_write(engine.volume, attr.ino, "data", 4, i * 4, ASH_WRITE_SYNC), 4);
		result = ash_txn_begin_modest(engine.volume, ASH_TXN_NAME, &txn);
		if (!result)
			ash_txn_abort(txn);
		if (result == -ENOSPC) {
			result = 0;
			continue;
		}
		cr_assert_eq(result, 0);
		result = ash_txn_begin_system(engine.volume, &txn);
		if (!result)
			ash_txn_abort(txn);
		tried++;
	}
	cr_expect_eq(result, 0, "after %d", tried);
	cr_expect_gt(tried, 400);
	engine_close(&engine);
}

enum { PIECES = 6000 };

/* Every second block, so that the truncation is a chain of transactions, and too much metadata for the cache. */
static uint64_t scattered_orphan(struct engine *engine)
{
	uint8_t *block = bdev_buffer_alloc(ASH_BLOCK_SIZE);
	uint64_t ino, other;

	memset(block, 'S', ASH_BLOCK_SIZE);
	cr_assert_eq(orphan_make(engine, &ino), 0);
	for (uint64_t i = 0; i < PIECES; i++)
		cr_assert_eq(ash_write(engine->volume, ino, block, ASH_BLOCK_SIZE, i * 2 * ASH_BLOCK_SIZE,
				       ASH_WRITE_THROUGH),
			     ASH_BLOCK_SIZE);
	cr_assert_eq(ash_checkpoint(engine->volume), 0);
	for (int i = 0; i < PIECES; i++) {
		cr_assert_eq(orphan_make(engine, &other), 0);
		ash_forget(engine->volume, other, 1);
	}
	cr_assert_eq(ash_checkpoint(engine->volume), 0);
	bdev_buffer_free(block, ASH_BLOCK_SIZE);
	return ino;
}

/* Reads fail for a while, in the middle of the chain. */
static void cut_half_way(struct engine *engine, uint64_t ino)
{
	struct ash_setattr change = { .valid = ASH_SET_SIZE, .size = ASH_BLOCK_SIZE };

	for (unsigned skip = 1; skip < 200 && !ash_truncation_pending(engine->volume, ino); skip++) {
		struct fault_rule rule = { .ops = FAULT_OP(BDEV_READ), .skip = skip };
		int result;

		fault_add(engine->dev, &rule);
		result = ash_setattr(engine->volume, ino, &change, NULL);
		fault_clear(engine->dev);
		if (!result)
			break;
	}
	cr_assert(ash_truncation_pending(engine->volume, ino));
}

Test(orphan_log, a_name_leaves_an_unfinished_truncation_its_mark, .timeout = 120)
{
	struct ash_setattr grow = { .valid = ASH_SET_SIZE, .size = 2ull * PIECES * ASH_BLOCK_SIZE };
	uint8_t *block = bdev_buffer_alloc(ASH_BLOCK_SIZE);
	struct engine engine = { 0 };
	struct ash_attr attr;
	unsigned old = 0;

	cr_assert_eq(fault_open(engine_device("mem:512M"), &engine.dev), 0);
	engine_format(engine.dev, 1024);
	engine.options =
		(struct ash_open_options){ .no_threads = true, .cache_bytes = 1u << 20, .continue_on_damage = true };
	engine_mount(&engine);
	uint64_t ino = scattered_orphan(&engine);
	cut_half_way(&engine, ino);
	cr_assert_eq(ash_link(engine.volume, ino, ASH_INO_ROOT, "named", &attr), 0);
	engine_again(&engine);
	cr_assert_eq(ash_lookup(engine.volume, ASH_INO_ROOT, "named", &attr), 0);
	cr_expect_eq(attr.blocks, ASH_BLOCK_SIZE / 512);
	cr_assert_eq(ash_setattr(engine.volume, attr.ino, &grow, NULL), 0);
	for (uint64_t i = 1; i < PIECES; i++) {
		cr_assert_eq(ash_read(engine.volume, attr.ino, block, ASH_BLOCK_SIZE, i * 2 * ASH_BLOCK_SIZE),
			     ASH_BLOCK_SIZE);
		old += block[0] != 0;
	}
	cr_expect_eq(old, 0, "%u blocks with truncated content", old);
	bdev_buffer_free(block, ASH_BLOCK_SIZE);
	engine_close(&engine);
}

struct release {
	struct engine *engine;
	uint64_t ino;
	unsigned flushes; /* before it happens */
};

/* The orphan goes when the checkpoint has written everything home and is about to move the tail. */
static void release_orphan(void *context, const struct bdev_request *request)
{
	struct release *release = context;

	if (request->op != BDEV_FLUSH || !release->ino || release->flushes--)
		return;
	uint64_t ino = release->ino;
	release->ino = 0;
	ash_forget(release->engine->volume, ino, 1);
}

/* The record that took it out of the set is durable before the tail passes the one that put it there. */
Test(orphan_log, one_that_goes_while_the_tail_moves_is_not_lost)
{
	unsigned seen = 0;

	for (unsigned flushes = 0; flushes < 4; flushes++) {
		struct release release = { .flushes = flushes };
		struct engine engine = { 0 };
		struct ash_volume_info before, after;

		cr_assert_eq(fault_open(engine_device("mem:64M"), &engine.dev), 0);
		engine_format(engine.dev, ASH_LOG_MIN_BLOCKS);
		engine.options = (struct ash_open_options){ .no_threads = true };
		engine_mount(&engine);
		cr_assert_eq(ash_volume_info(engine.volume, &before), 0);
		cr_assert_eq(orphan_make(&engine, &release.ino), 0);
		cr_assert_eq(ash_sync(engine.volume), 0);
		release.engine = &engine;
		fault_ask(engine.dev, release_orphan, &release);
		cr_assert_eq(ash_checkpoint(engine.volume), 0);
		fault_ask(engine.dev, NULL, NULL);
		seen += !release.ino;
		ash_abandon(engine.volume);
		engine_mount(&engine);
		cr_assert_eq(ash_volume_info(engine.volume, &after), 0);
		cr_expect_eq(after.used_inodes, before.used_inodes, "released at flush %u", flushes);
		engine_close(&engine);
	}
	cr_expect_gt(seen, 0);
}
