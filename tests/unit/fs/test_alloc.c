/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The block allocator: the two steps, the end of space, reuse only when it is safe (I3), first use of a group, counts. */
#include "engine_fixture.h"

#include <pthread.h>
#include <unistd.h>

static struct ash_extent claim(struct engine *engine, uint64_t goal, uint64_t wanted, unsigned flags)
{
	struct ash_extent extent;

	cr_assert_eq(ash_claim(engine->volume, goal, wanted, flags, &extent), 0);
	return extent;
}

/* Claim all there is for `flags`; how many blocks. */
static uint64_t claim_all(struct engine *engine, unsigned flags)
{
	struct ash_extent extent;
	uint64_t count = 0;
	int error;

	while (!(error = ash_claim(engine->volume, 0, 100000, flags, &extent)))
		count += extent.count;
	cr_assert_eq(error, -ENOSPC);
	return count;
}

static uint64_t log_claim(struct engine *engine, struct ash_extent extent)
{
	struct ash_txn *txn = engine_begin(engine, ASH_TXN_SMALL);

	cr_assert_eq(ash_alloc_log(txn, extent), 0);
	return ash_txn_commit(txn);
}

static void free_extent(struct engine *engine, struct ash_extent extent)
{
	struct ash_txn *txn = engine_begin(engine, ASH_TXN_SMALL);

	cr_assert_eq(ash_free(txn, extent, false), 0);
	ash_txn_commit(txn);
}

static bool overlap(struct ash_extent a, struct ash_extent b)
{
	return a.start < b.start + b.count && b.start < a.start + a.count;
}

Test(alloc, claim_costs_nothing_after_a_crash)
{
	struct engine engine;
	struct ash_extent extent;
	uint64_t before;

	engine_open(&engine, "mem:16M", 0);
	before = free_blocks(&engine);
	extent = claim(&engine, 0, 10, 0);
	cr_expect_eq(extent.count, 10);
	cr_expect_eq(free_blocks(&engine), before - 10);
	engine_again(&engine);
	cr_expect_eq(free_blocks(&engine), before);
	extent = claim(&engine, 0, 10, 0);
	log_claim(&engine, extent);
	engine_again(&engine);
	cr_expect_eq(free_blocks(&engine), before - 10);
	engine_close(&engine);
}

Test(alloc, extends_at_the_goal)
{
	struct engine engine;
	struct ash_extent first, second;

	engine_open(&engine, "mem:64M", 0);
	first = claim(&engine, 5000, 8, 0);
	second = claim(&engine, first.start + first.count, 8, 0);
	cr_expect_eq(first.start, 5000);
	cr_expect_eq(second.start, first.start + first.count);
	engine_close(&engine);
}

Test(alloc, reserves_are_kept_to_the_last_block)
{
	struct engine engine;
	struct ash_extent extent;
	uint64_t all, plain, reserved, emergency;

	engine_open(&engine, "mem:16M", 0);
	all = free_blocks(&engine);
	cr_assert_eq(ash_space_reserve(engine.volume, 100), 0);
	plain = claim_all(&engine, 0);
	cr_expect_eq(ash_space_reserve(engine.volume, 1), -ENOSPC);
	cr_expect_eq(ash_claim(engine.volume, 0, 1, 0, &extent), -ENOSPC);
	emergency = claim_all(&engine, ASH_CLAIM_EMERGENCY);
	cr_expect_geq(emergency, 16);
	reserved = claim_all(&engine, ASH_CLAIM_RESERVED);
	cr_expect_eq(reserved, 100);
	cr_expect_eq(plain + emergency + reserved, all);
	engine_close(&engine);
}

struct claimer {
	struct engine *engine;
	uint64_t count;
};

static void *claim_greedily(void *argument)
{
	struct claimer *claimer = argument;

	claimer->count = claim_all(claimer->engine, 0);
	return NULL;
}

/* Several at the end of space must not, together, take what is promised to buffered data. */
Test(alloc, claims_of_threads_respect_the_reserve)
{
	for (int round = 0; round < 20; round++) {
		struct claimer claimers[3];
		struct engine engine;
		pthread_t threads[3];

		engine_open(&engine, "mem:16M", 0);
		cr_assert_eq(ash_space_reserve(engine.volume, 1000), 0);
		for (int i = 0; i < 3; i++) {
			claimers[i].engine = &engine;
			cr_assert_eq(pthread_create(&threads[i], NULL, claim_greedily, &claimers[i]), 0);
		}
		for (int i = 0; i < 3; i++)
			pthread_join(threads[i], NULL);
		cr_assert_eq(claim_all(&engine, ASH_CLAIM_RESERVED), 1000 + 20, "the reserve and the emergency blocks");
		engine_close(&engine);
	}
}

Test(alloc, freed_blocks_wait_until_the_record_is_durable)
{
	struct engine engine;
	struct ash_extent extent, again;
	uint64_t before;

	engine_open(&engine, "mem:16M", 0);
	extent = claim(&engine, 2000, 50, 0);
	log_claim(&engine, extent);
	before = free_blocks(&engine);
	free_extent(&engine, extent);
	cr_expect_eq(free_blocks(&engine), before + 50, "statfs shows them at once");
	cr_expect(ash_alloc_freed(engine.volume));
	ash_alloc_reap(engine.volume);
	again = claim(&engine, 2000, 50, 0);
	cr_expect(!overlap(extent, again));
	cr_assert_eq(ash_log_force(engine.volume, ash_log_end(engine.volume)), 0);
	cr_expect(!ash_alloc_freed(engine.volume));
	again = claim(&engine, 2000, 50, 0);
	cr_expect_eq(again.start, extent.start);
	engine_close(&engine);
}

static void *run_checkpoint(void *argument)
{
	struct engine *engine = argument;

	cr_expect_eq(ash_log_checkpoint(engine->volume, true), 0);
	return NULL;
}

/* It may still be writing an old image of what was metadata over whoever has the blocks next. */
Test(alloc, freed_blocks_wait_for_a_checkpoint_that_runs, .timeout = 60)
{
	const struct delay_rule home = { .ops = DELAY_OP(BDEV_WRITE),
					 .offset = ash_group_bitmap(0) * ASH_BLOCK_SIZE,
					 .length = ASH_BLOCK_SIZE,
					 .count = 1,
					 .nanoseconds = DELAY_HELD };
	struct engine engine = { .options = { .no_threads = true } };
	struct bdev *memory = engine_device("mem:64M");
	struct ash_extent extent;
	pthread_t checkpoint;

	engine_format(memory, 0);
	cr_assert_eq(delay_open(memory, &engine.dev), 0);
	engine_mount(&engine);
	extent = claim(&engine, 5000, 64, 0);
	log_claim(&engine, extent);
	delay_set(engine.dev, &home);
	cr_assert_eq(pthread_create(&checkpoint, NULL, run_checkpoint, &engine), 0);
	while (!delay_caught(engine.dev))
		usleep(1000);
	free_extent(&engine, extent);
	cr_assert_eq(ash_log_force(engine.volume, ash_log_end(engine.volume)), 0);
	cr_expect(!overlap(claim(&engine, extent.start, 64, 0), extent));
	delay_release(engine.dev);
	pthread_join(checkpoint, NULL);
	cr_expect(overlap(claim(&engine, extent.start, 64, 0), extent), "it has ended");
	engine_close(&engine);
}

Test(alloc, freed_blocks_wait_for_data_io_that_began_before)
{
	struct engine engine;
	struct ash_extent extent;
	unsigned before, after;

	engine_open(&engine, "mem:16M", 0);
	extent = claim(&engine, 2000, 50, 0);
	log_claim(&engine, extent);
	before = ash_io_enter(engine.volume);
	free_extent(&engine, extent);
	after = ash_io_enter(engine.volume);
	cr_assert_eq(ash_log_force(engine.volume, ash_log_end(engine.volume)), 0);
	cr_expect(ash_alloc_freed(engine.volume));
	cr_expect(!overlap(extent, claim(&engine, 2000, 50, 0)));
	ash_io_leave(engine.volume, before);
	ash_alloc_reap(engine.volume);
	cr_expect(!ash_alloc_freed(engine.volume), "later I/O does not matter");
	cr_expect_eq(claim(&engine, 2000, 50, 0).start, extent.start);
	ash_io_leave(engine.volume, after);
	engine_close(&engine);
}

/* More frees than there are I/O generations: an old ticket still pins what it may touch. */
Test(alloc, io_generations_do_not_wrap_over_a_ticket)
{
	struct engine engine;
	struct ash_extent extent;
	unsigned ticket;

	engine_open(&engine, "mem:16M", 0);
	extent = claim(&engine, 1000, 600, 0);
	cr_assert_eq(extent.count, 600);
	log_claim(&engine, extent);
	ticket = ash_io_enter(engine.volume);
	for (uint64_t i = 0; i < 600; i++)
		free_extent(&engine, (struct ash_extent){ extent.start + i, 1 });
	cr_assert_eq(ash_log_force(engine.volume, ash_log_end(engine.volume)), 0);
	cr_expect(!overlap(extent, claim(&engine, extent.start, 1, 0)));
	ash_io_leave(engine.volume, ticket);
	ash_alloc_reap(engine.volume);
	cr_expect(!ash_alloc_freed(engine.volume));
	engine_close(&engine);
}

/*
 * What was freed when there was no further generation shares its own with the I/O that comes next. As soon as there is
 * one again it gets one: else I/O that never pauses would hold the blocks for ever.
 */
Test(alloc, io_without_a_pause_does_not_hold_freed_blocks)
{
	struct engine engine;
	struct ash_extent extent;
	unsigned ticket, next;

	engine_open(&engine, "mem:16M", 0);
	extent = claim(&engine, 1000, 600, 0);
	cr_assert_eq(extent.count, 600);
	log_claim(&engine, extent);
	ticket = ash_io_enter(engine.volume);
	for (uint64_t i = 0; i < 600; i++)
		free_extent(&engine, (struct ash_extent){ extent.start + i, 1 });
	cr_assert_eq(ash_log_force(engine.volume, ash_log_end(engine.volume)), 0);
	for (unsigned i = 0; i < 4; i++) {
		next = ash_io_enter(engine.volume);
		ash_io_leave(engine.volume, ticket);
		ticket = next;
		ash_alloc_reap(engine.volume);
	}
	cr_expect(!ash_alloc_freed(engine.volume));
	ash_io_leave(engine.volume, ticket);
	engine_close(&engine);
}

Test(alloc, abort_gives_a_freed_extent_back_to_its_owner)
{
	struct engine engine;
	struct ash_extent extent;
	struct ash_txn *txn;
	uint64_t before;

	engine_open(&engine, "mem:16M", 0);
	extent = claim(&engine, 2000, 50, 0);
	log_claim(&engine, extent);
	before = free_blocks(&engine);
	txn = engine_begin(&engine, ASH_TXN_SMALL);
	cr_assert_eq(ash_free(txn, extent, false), 0);
	ash_txn_abort(txn);
	cr_expect(!ash_alloc_freed(engine.volume));
	cr_expect_eq(free_blocks(&engine), before);
	free_extent(&engine, extent);
	cr_expect_eq(free_blocks(&engine), before + 50);
	engine_close(&engine);
}

static void expect_refused(struct engine *engine, uint64_t start, uint64_t count)
{
	struct ash_txn *txn = engine_begin(engine, ASH_TXN_SMALL);

	cr_expect_eq(ash_free(txn, (struct ash_extent){ start, count }, false), -EUCLEAN, "%llu+%llu",
		     (unsigned long long)start, (unsigned long long)count);
	ash_txn_abort(txn);
}

Test(alloc, nothing_is_freed_twice_nor_the_volumes_own_blocks)
{
	struct engine engine;
	struct ash_extent extent;
	uint64_t before, last;

	engine_open(&engine, "mem:300M", 0);
	ash_abandon(engine.volume);
	engine.options.continue_on_damage = true;
	engine_mount(&engine);
	last = engine.volume->block_count - 1;
	extent = claim(&engine, 20000, 10, 0);
	log_claim(&engine, extent);
	free_extent(&engine, extent);
	before = free_blocks(&engine);
	expect_refused(&engine, extent.start, 10);
	expect_refused(&engine, extent.start + 9, 2);
	expect_refused(&engine, 0, 1);
	expect_refused(&engine, ash_group_bitmap(0), 1);
	expect_refused(&engine, ash_group_start(1), 1);
	expect_refused(&engine, ash_group_bitmap(2), 1);
	expect_refused(&engine, engine.volume->log_start + 5, 1);
	expect_refused(&engine, engine.volume->group_table_start, 1);
	expect_refused(&engine, last, 1);
	expect_refused(&engine, last + 1, 1);
	expect_refused(&engine, UINT64_MAX - 5, 10);
	expect_refused(&engine, 5, 0);
	cr_expect_eq(free_blocks(&engine), before);
	engine_close(&engine);
}

Test(alloc, first_use_writes_a_bitmap_and_survives_a_crash)
{
	struct engine engine;
	struct ash_extent extent;
	uint64_t before;

	engine_open(&engine, "mem:600M", 0);
	before = free_blocks(&engine);
	extent = claim(&engine, ash_group_start(3), 20, 0);
	cr_expect_eq(extent.start, ash_group_bitmap(3) + 1, "behind superblock and bitmap");
	cr_expect_eq(free_blocks(&engine), before - 20);
	log_claim(&engine, extent);
	engine_again(&engine);
	cr_expect_eq(free_blocks(&engine), before - 20);
	cr_expect(!overlap(extent, claim(&engine, ash_group_start(3), 20, 0)));
	free_extent(&engine, extent);
	cr_assert_eq(ash_close(engine.volume), 0);
	engine_mount(&engine);
	cr_expect_eq(free_blocks(&engine), before);
	engine_close(&engine);
}

/* Free counts are not logged: whatever stands at home, a crash does not spoil them. */
Test(alloc, counts_are_true_after_a_crash)
{
	struct engine engine;
	struct ash_extent extent;
	struct ash_group_table_block table;
	uint64_t before, start;

	engine_open(&engine, "mem:64M", 0);
	before = free_blocks(&engine);
	start = engine.volume->group_table_start;
	extent = claim(&engine, 5000, 300, 0);
	log_claim(&engine, extent);
	engine_cut(&engine);
	image_read(&engine, start, &table);
	table.free_blocks[0] = ash_put32(77); /* a torn write may leave anything there: it is outside the checksum */
	image_write(&engine, start, &table);
	engine_mount(&engine);
	cr_expect_eq(free_blocks(&engine), before - 300);
	cr_assert_eq(ash_close(engine.volume), 0);
	engine.volume = NULL;
	image_read(&engine, start, &table);
	cr_expect_eq(ash_get32(table.free_blocks[0]), before - 300, "and at home");
	engine_close(&engine);
}

Test(alloc, damaged_bitmap_spoils_its_group_only)
{
	struct engine engine;
	struct ash_extent extent;

	engine_open(&engine, "mem:300M", 0);
	extent = claim(&engine, ash_group_start(1) + 100, 10, 0);
	log_claim(&engine, extent);
	cr_assert_eq(ash_close(engine.volume), 0);
	image_spoil(&engine, ash_group_bitmap(1), 1000);
	engine.options.continue_on_damage = true;
	engine_mount(&engine);
	extent = claim(&engine, ash_group_start(1) + 100, 10, 0);
	cr_expect_neq(extent.start / ASH_BLOCKS_PER_GROUP, 1);
	expect_refused(&engine, ash_group_start(1) + 100, 1);
	engine_close(&engine);
}

/* Right checksums and all: what the volume stands on is not given away. */
Test(alloc, a_bitmap_that_calls_the_volumes_own_blocks_free)
{
	struct ash_bitmap_block bitmap;
	struct engine engine;

	for (int what = 0; what < 4; what++) {
		struct ash_extent extent;
		uint64_t block;
		uint32_t seed;

		engine_open(&engine, "mem:300M", 0);
		engine.options.continue_on_damage = true;
		seed = engine.volume->checksum_seed;
		block = what == 0 ? 0 :
			what == 1 ? ash_group_bitmap(0) :
			what == 2 ? engine.volume->log_start + engine.volume->log_blocks - 1 :
				    engine.volume->group_table_start;
		cr_assert_lt(block, ASH_BLOCKS_PER_GROUP);
		cr_assert_eq(ash_close(engine.volume), 0);
		image_read(&engine, ash_group_bitmap(0), &bitmap);
		bitmap.bits[block / 8] &= (uint8_t) ~(1u << block % 8);
		bitmap.header.crc = ash_put32(ash_block_crc(seed, &bitmap));
		image_write(&engine, ash_group_bitmap(0), &bitmap);
		engine_mount(&engine);
		extent = claim(&engine, 5, 10, 0);
		cr_expect_geq(extent.start, ash_group_start(1), "%d", what);
		engine_close(&engine);
	}
}

/* The same by the flag of a group whose bitmap was never written. */
Test(alloc, the_log_is_in_no_unused_group)
{
	struct ash_group_table_block table;
	struct ash_extent extent;
	struct engine engine;
	uint64_t start;
	uint32_t seed;

	engine_open(&engine, "mem:300M", 0);
	engine.options.continue_on_damage = true;
	start = engine.volume->group_table_start;
	seed = engine.volume->checksum_seed;
	cr_assert_eq(ash_close(engine.volume), 0);
	image_read(&engine, start, &table);
	table.flags[0] = ash_put32(ASH_GROUP_UNINIT);
	table.header.crc = ash_put32(ash_block_crc(seed, &table));
	image_write(&engine, start, &table);
	engine_mount(&engine);
	extent = claim(&engine, 5, 10, 0);
	cr_expect_geq(extent.start, ash_group_start(1));
	engine_close(&engine);
}

/* Counts have no checksum. Where no bitmap corrects one, it follows from the size. */
Test(alloc, the_count_of_an_unused_group_is_not_believed)
{
	struct ash_group_table_block table;
	struct engine engine;
	uint64_t before, start;

	engine_open(&engine, "mem:600M", 0);
	before = free_blocks(&engine);
	start = engine.volume->group_table_start;
	cr_assert_eq(ash_close(engine.volume), 0);
	image_read(&engine, start, &table);
	cr_assert(ash_get32(table.flags[3]) & ASH_GROUP_UNINIT);
	table.free_blocks[3] = ash_put32(ash_get32(table.free_blocks[3]) + 1);
	image_write(&engine, start, &table);
	engine_mount(&engine);
	cr_expect_eq(free_blocks(&engine), before);
	log_claim(&engine, claim(&engine, ash_group_start(3), 20, 0));
	cr_expect_eq(free_blocks(&engine), before - 20);
	cr_assert_eq(ash_close(engine.volume), 0);
	image_read(&engine, start, &table);
	engine_mount(&engine);
	cr_expect_eq(free_blocks(&engine), before - 20);
	engine_close(&engine);
}

/* Group 0 without a free block, group 1 in use, group 2 not; then the bitmap of group 1 cannot be read. */
static void open_without_bitmap(struct engine *engine)
{
	struct bdev *memory = engine_device("mem:300M");
	struct ash_extent extent;

	memset(engine, 0, sizeof(*engine));
	cr_assert_eq(fault_open(memory, &engine->dev), 0);
	engine_format(engine->dev, ASH_LOG_MIN_BLOCKS);
	engine->options.no_threads = true;
	engine_mount(engine);
	for (uint64_t wanted = 1024; wanted; wanted = wanted > 1 ? 1 : 0)
		do {
			extent = claim(engine, 5000, wanted, 0);
			log_claim(engine, extent);
		} while (extent.start < ash_group_start(1));
	cr_assert_lt(extent.start, ash_group_start(2));
	cr_assert_eq(ash_close(engine->volume), 0);
	engine->errors = 0;
	cr_assert_eq(fault_add(engine->dev, &(struct fault_rule){ .ops = FAULT_OP(BDEV_READ),
								  .offset = ash_group_bitmap(1) * ASH_BLOCK_SIZE,
								  .length = ASH_BLOCK_SIZE }),
		     0);
	engine_mount(engine);
}

Test(alloc, a_bitmap_that_cannot_be_read_spoils_its_group_only)
{
	struct engine engine;
	uint64_t trimmed;

	open_without_bitmap(&engine);
	for (unsigned i = 0; i < 500; i++) {
		struct ash_extent extent = claim(&engine, ash_group_start(1) + 100, 10, 0);

		cr_expect_geq(extent.start, ash_group_start(2));
		cr_expect_eq(extent.count, 10);
	}
	cr_expect_eq(fault_hits(engine.dev), 1, "it is not read at every claim");
	cr_expect_eq(engine.errors, 2, "nor told of");
	cr_expect(strstr(engine.last_error, "group 1 "), "%s", engine.last_error);
	cr_expect_eq(ash_trim(engine.volume, 0, UINT64_MAX, 0, &trimmed), 0);
	cr_expect_gt(trimmed, 16u << 20, "the other groups");
	engine_close(&engine);
}

Test(alloc, a_bitmap_that_cannot_be_read_costs_no_buffered_data)
{
	const struct ash_create create = { .mode = S_IFREG | 0644 };
	struct engine engine;
	struct ash_attr attr;
	char data[100000];

	open_without_bitmap(&engine);
	memset(data, 'x', sizeof(data));
	cr_assert_eq(ash_create(engine.volume, ASH_INO_ROOT, "file", &create, &attr), 0);
	cr_assert_eq(ash_write(engine.volume, attr.ino, data, sizeof(data), 0, 0), sizeof(data));
	cr_expect_eq(ash_fsync(engine.volume, attr.ino, false), 0);
	memset(data, 0, sizeof(data));
	cr_expect_eq(ash_read(engine.volume, attr.ino, data, sizeof(data), 0), sizeof(data));
	cr_expect_eq(data[sizeof(data) - 1], 'x');
	cr_expect_gt(fault_hits(engine.dev), 0);
	engine_close(&engine);
}

Test(alloc, a_bitmap_that_could_not_be_read_is_tried_again)
{
	struct engine engine;
	struct ash_extent extent;
	unsigned claims = 0;
	int error;

	open_without_bitmap(&engine);
	claim(&engine, ash_group_start(1) + 100, 10, 0);
	fault_clear(engine.dev);
	do {
		extent = claim(&engine, ash_group_start(1) + 5000, 1, 0);
	} while (extent.start >= ash_group_start(2) && ++claims < 2000);
	cr_expect_eq(extent.start / ASH_BLOCKS_PER_GROUP, 1, "after some claims");
	engine_close(&engine);

	open_without_bitmap(&engine);
	while (!(error = ash_claim(engine.volume, 0, 100000, 0, &extent)))
		cr_assert_geq(extent.start, ash_group_start(2));
	cr_expect_eq(error, -EIO);
	fault_clear(engine.dev);
	extent = claim(&engine, 0, 100, 0);
	cr_expect_eq(extent.start / ASH_BLOCKS_PER_GROUP, 1, "at once when nothing else is left");
	engine_close(&engine);
}

/* What growing files have ahead comes back when space is lacking: until then this is no error of a device. */
Test(alloc, a_bitmap_that_cannot_be_read_is_not_all_that_is_left_while_blocks_are_ahead)
{
	struct engine engine;
	struct ash_extent ahead, extent;
	int error;

	open_without_bitmap(&engine);
	ahead = claim(&engine, 0, 50, ASH_CLAIM_AHEAD);
	while (!(error = ash_claim(engine.volume, 0, 100000, 0, &extent)))
		;
	cr_expect_eq(error, -ENOSPC, "%d", error);
	ash_unclaim(engine.volume, ahead, ASH_CLAIM_AHEAD);
	extent = claim(&engine, 0, 50, 0);
	cr_expect_eq(extent.start, ahead.start);
	cr_expect_eq(ash_claim(engine.volume, 0, 1, 0, &extent), -EIO);
	engine_close(&engine);
}

Test(alloc, a_device_that_is_gone_is_no_matter_of_one_group)
{
	struct engine engine;
	struct ash_extent extent;

	open_without_bitmap(&engine);
	fault_clear(engine.dev);
	cr_assert_eq(fault_add(engine.dev, &(struct fault_rule){ .error = -ENODEV, .sticky = true }), 0);
	cr_expect_eq(ash_claim(engine.volume, ash_group_start(1) + 100, 10, 0, &extent), -ENODEV);
	engine_close(&engine);
}

static uint64_t discarded(struct bdev *record, struct ash_extent extent)
{
	uint64_t count = 0;

	for (size_t i = 0; i < record_count(record); i++) {
		const struct record_entry *entry = record_get(record, i);

		if (entry->kind == RECORD_DISCARD && entry->offset >= extent.start * ASH_BLOCK_SIZE &&
		    entry->offset + entry->length <= (extent.start + extent.count) * ASH_BLOCK_SIZE)
			count += entry->length / ASH_BLOCK_SIZE;
	}
	return count;
}

/* Whoever got them before the discard has ended would lose what was written meanwhile. */
Test(alloc, freed_blocks_are_discarded_before_they_are_free, .timeout = 60)
{
	const struct delay_rule hold = { .ops = DELAY_OP(BDEV_DISCARD), .nanoseconds = DELAY_HELD };
	struct engine engine = { .options = { .discard = true, .commit_seconds = 1 } };
	struct bdev *memory = engine_device("mem:64M"), *record;
	struct ash_extent extent, other;
	uint64_t before;

	engine_format(memory, 0);
	cr_assert_eq(record_open(memory, &record), 0);
	cr_assert_eq(delay_open(record, &engine.dev), 0);
	engine_mount(&engine);
	extent = claim(&engine, 5000, 64, 0);
	log_claim(&engine, extent);
	before = free_blocks(&engine);
	delay_set(engine.dev, &hold);
	free_extent(&engine, extent);
	cr_assert_eq(ash_log_force(engine.volume, ash_log_end(engine.volume)), 0);
	cr_expect_eq(free_blocks(&engine), before + 64);
	while (!delay_caught(engine.dev))
		usleep(1000);
	other = claim(&engine, extent.start, 64, 0);
	cr_expect(!overlap(other, extent), "the discard has not ended");
	cr_expect(ash_alloc_freed(engine.volume));
	delay_release(engine.dev);
	for (int i = 0; i < 500 && ash_alloc_freed(engine.volume); i++)
		usleep(10000);
	cr_expect(!ash_alloc_freed(engine.volume));
	cr_expect_eq(discarded(record, extent), 64);
	cr_expect_eq(free_blocks(&engine), before + 64 - other.count);
	cr_expect(overlap(claim(&engine, extent.start, 64, 0), extent));
	cr_assert_eq(ash_close(engine.volume), 0);
	engine.volume = NULL;
	engine_close(&engine);
}

Test(alloc, trim_finds_free_runs_and_leaves_groups_alone_that_were_never_used)
{
	struct engine engine = { .options = { .no_threads = true } };
	struct bdev *memory = engine_device("mem:600M");
	struct ash_extent used, freed;
	uint64_t trimmed, before;

	engine_format(memory, 0);
	cr_assert_eq(record_open(memory, &engine.dev), 0);
	engine_mount(&engine);
	used = claim(&engine, 10000, 5000, 0);
	log_claim(&engine, used);
	freed = claim(&engine, used.start + used.count, 64, 0);
	log_claim(&engine, freed);
	free_extent(&engine, freed); /* not durable: the trim sees to that */
	before = free_blocks(&engine);
	record_clear(engine.dev);
	cr_assert_eq(ash_trim(engine.volume, 0, UINT64_MAX, 0, &trimmed), 0);
	cr_expect_eq(free_blocks(&engine), before);
	cr_expect_leq(trimmed, before * ASH_BLOCK_SIZE);
	cr_expect_geq(trimmed, (before - 20) * ASH_BLOCK_SIZE, "%llu of %llu",
		      (unsigned long long)trimmed / ASH_BLOCK_SIZE, (unsigned long long)before);
	cr_expect_eq(discarded(engine.dev, used), 0);
	cr_expect_eq(engine.volume->log->dirty_count, 2, "bitmap and table of the claim, no bitmap of an unused group");
	/* runs of at least 32 MiB: those are found though they are trimmed in smaller pieces */
	cr_assert_eq(ash_trim(engine.volume, 0, UINT64_MAX, 32u << 20, &trimmed), 0);
	cr_expect_gt(trimmed, 100u << 20);
	engine_close(&engine);
}

static bool third_time(void *times)
{
	return ++*(unsigned *)times == 3;
}

/* What is told to stop has discarded what it says, and keeps nothing back. */
Test(alloc, trim_until_told_to_stop)
{
	struct engine engine = { .options = { .no_threads = true } };
	const struct ash_extent all = { 0, (600u << 20) / ASH_BLOCK_SIZE };
	struct bdev *memory = engine_device("mem:600M");
	unsigned times = 0;
	uint64_t trimmed, before;

	engine_format(memory, 0);
	cr_assert_eq(record_open(memory, &engine.dev), 0);
	engine_mount(&engine);
	before = free_blocks(&engine);
	record_clear(engine.dev);
	cr_assert_eq(ash_trim_until(engine.volume, 0, UINT64_MAX, 0, third_time, &times, &trimmed), -EINTR);
	cr_expect_eq(times, 3);
	cr_expect_gt(trimmed, 0);
	cr_expect_eq(trimmed, discarded(engine.dev, all) * ASH_BLOCK_SIZE);
	cr_expect_eq(free_blocks(&engine), before);
	cr_assert_eq(ash_trim(engine.volume, 0, UINT64_MAX, 0, &trimmed), 0);
	cr_expect_geq(trimmed, (before - 20) * ASH_BLOCK_SIZE);
	engine_close(&engine);
}

/* ---- A trim under way ---- */

struct trimmer {
	struct engine *engine;
	uint64_t start; /* bytes */
	pthread_t thread;
	_Atomic bool ended;
	int result;
	uint64_t trimmed;
};

static void *trim_all(void *argument)
{
	struct trimmer *trimmer = argument;

	trimmer->result = ash_trim(trimmer->engine->volume, trimmer->start, UINT64_MAX, 0, &trimmer->trimmed);
	trimmer->ended = true;
	return NULL;
}

/* A volume whose discards do not end. */
static void open_held(struct engine *engine, const char *device)
{
	struct bdev *memory = engine_device(device);

	*engine = (struct engine){ .options = { .no_threads = true } };
	engine_format(memory, 0);
	cr_assert_eq(delay_open(memory, &engine->dev), 0);
	engine_mount(engine);
	delay_set(engine->dev, &(struct delay_rule){ .ops = DELAY_OP(BDEV_DISCARD), .nanoseconds = DELAY_HELD });
}

/* Returns when the trim waits for its first discard, or found nothing to discard. */
static void trim_begin(struct trimmer *trimmer)
{
	cr_assert_eq(pthread_create(&trimmer->thread, NULL, trim_all, trimmer), 0);
	while (!delay_caught(trimmer->engine->dev) && !trimmer->ended)
		usleep(1000);
}

static void trim_end(struct trimmer *trimmer)
{
	delay_release(trimmer->engine->dev);
	pthread_join(trimmer->thread, NULL);
	cr_expect_eq(trimmer->result, 0);
}

/* What was promised to buffered data is there when it is written out, if only in a group that was never used. */
Test(alloc, trim_leaves_what_is_set_aside, .timeout = 60)
{
	struct engine engine;
	struct trimmer trimmer = { .engine = &engine, .start = ASH_BLOCKS_PER_GROUP * ASH_BLOCK_SIZE };
	uint64_t all, available;
	struct ash_extent extent;

	open_held(&engine, "mem:256M");
	/* group 2, then group 0; group 1 has its bitmap and a superblock */
	while (free_blocks(&engine) > ASH_BLOCKS_PER_GROUP - 2)
		cr_assert_neq(claim(&engine, ash_group_start(2), 1, 0).start / ASH_BLOCKS_PER_GROUP, 1);
	ash_alloc_counts(engine.volume, &all, &available);
	cr_assert_eq(ash_space_reserve(engine.volume, available), 0);
	trim_begin(&trimmer);
	cr_expect_eq(ash_claim(engine.volume, 0, 1, ASH_CLAIM_RESERVED, &extent), 0);
	trim_end(&trimmer);
	engine_close(&engine);
}

Test(alloc, trim_leaves_the_emergency_reserve, .timeout = 60)
{
	struct engine engine;
	struct trimmer trimmer = { .engine = &engine };
	struct ash_extent extent;

	open_held(&engine, "mem:24M");
	claim_all(&engine, 0);
	trim_begin(&trimmer);
	cr_expect_eq(ash_claim(engine.volume, 0, 1, ASH_CLAIM_EMERGENCY, &extent), 0);
	trim_end(&trimmer);
	engine_close(&engine);
}

/* Otherwise the next piece would be away when space is looked for again, and so on to the end. */
Test(alloc, who_lacks_space_ends_a_trim, .timeout = 60)
{
	struct engine engine;
	struct trimmer trimmer = { .engine = &engine };

	open_held(&engine, "mem:256M");
	trim_begin(&trimmer);
	cr_expect(ash_alloc_lack(engine.volume), "some is away");
	cr_expect(!ash_alloc_available(engine.volume, 0));
	trim_end(&trimmer);
	cr_expect(ash_alloc_available(engine.volume, 0));
	cr_expect_gt(trimmer.trimmed, 0);
	cr_expect_leq(trimmer.trimmed, 8u << 20, "one piece of 256 MiB");
	engine_close(&engine);
}

/* A claim may have failed for what a trim has given back by the time that somebody looks. */
Test(alloc, a_trim_is_worth_a_second_try)
{
	struct engine engine;
	uint64_t trimmed;

	engine_open(&engine, "mem:24M", 0);
	cr_expect(!ash_reclaim_space(engine.volume));
	cr_assert_eq(ash_trim(engine.volume, 0, UINT64_MAX, 0, &trimmed), 0);
	cr_expect(ash_reclaim_space(engine.volume));
	cr_expect(!ash_reclaim_space(engine.volume), "once");
	engine_close(&engine);
}
