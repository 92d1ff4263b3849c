/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Extent maps against an array with one element for each file block, on a volume in memory; then limits, and damaged
 * extents (I8).
 */
#include <criterion/criterion.h>
#include <errno.h>

#include "fs/map.h"
#include "tree_fixture.h"

#define FILE_BLOCKS 3000u

struct cell {
	uint64_t block; /* 0: hole */
	bool unwritten;
};

struct run {
	struct fixture fixture;
	struct cell cells[FILE_BLOCKS], before[FILE_BLOCKS];
	struct ash_extent claims[16]; /* of the open transaction */
	unsigned claim_count;
	uint64_t random;
};

static uint64_t dice(struct run *run, uint64_t sides)
{
	return fixture_random(&run->random) % sides;
}

static struct ash_tree *tree_of(struct run *run)
{
	return &run->fixture.data;
}

/* Does the cell continue the one before it? */
static bool continues(const struct run *run, unsigned i)
{
	const struct cell *cell = &run->cells[i], *before = cell - 1;

	return i && before->block && cell->block == before->block + 1 && cell->unwritten == before->unwritten;
}

static unsigned model_extents(const struct run *run)
{
	unsigned count = 0;

	for (unsigned i = 0; i < FILE_BLOCKS; i++)
		count += run->cells[i].block && !continues(run, i);
	return count;
}

static unsigned tree_extents(struct run *run)
{
	struct ash_cursor cursor = { 0 };
	unsigned count = 0;
	int found;

	for (found = ash_tree_seek(tree_of(run), 0, &cursor); found > 0; found = ash_tree_next(&cursor))
		count++;
	cr_assert_eq(found, 0);
	ash_cursor_done(&cursor);
	return count;
}

/* ash_map_find() to the end, and to an end that comes right behind what there is, or right before. */
static void expect_found(struct run *run, unsigned at, bool data)
{
	uint64_t expected = at, found;

	while (expected < FILE_BLOCKS && (run->cells[expected].block && !run->cells[expected].unwritten) != data)
		expected++;
	cr_assert_eq(ash_map_find(tree_of(run), at, FILE_BLOCKS, data, &found), 0);
	cr_assert_eq(found, expected, "%lu instead of %lu, from %u", found, expected, at);
	cr_assert_eq(ash_map_find(tree_of(run), at, expected, data, &found), 0);
	cr_assert_eq(found, expected);
	cr_assert_eq(ash_map_find(tree_of(run), at, expected + 1, data, &found), 0);
	cr_assert_eq(found, expected < FILE_BLOCKS || !data ? expected : expected + 1);
}

/* The whole map by ash_map_get(), and as few records as possible. */
static void expect_equal(struct run *run)
{
	for (unsigned at = 0; at < FILE_BLOCKS;) {
		struct ash_mapping mapping;

		cr_assert_eq(ash_map_get(tree_of(run), at, FILE_BLOCKS - at, &mapping), 0);
		cr_assert_eq(mapping.file_block, at);
		cr_assert(mapping.count > 0 && mapping.count <= FILE_BLOCKS - at);
		for (unsigned i = 0; i < mapping.count; i++) {
			const struct cell *cell = &run->cells[at + i];

			cr_assert_eq(cell->block, mapping.start ? mapping.start + i : 0, "block %u", at + i);
			cr_assert(!mapping.start || cell->unwritten == mapping.unwritten);
		}
		at += (unsigned)mapping.count;
	}
	cr_assert_eq(tree_extents(run), model_extents(run));
	for (unsigned i = 0; i < 20; i++)
		expect_found(run, (unsigned)dice(run, FILE_BLOCKS), dice(run, 2));
}

static void insert_some(struct run *run, struct ash_txn *txn)
{
	unsigned at = (unsigned)dice(run, FILE_BLOCKS), room = 0;
	uint64_t wanted = 1 + dice(run, 40), goal = 0;
	bool unwritten = dice(run, 3) == 0;
	struct ash_extent claim;
	struct ash_mapping mapping;

	while (at + room < FILE_BLOCKS && !run->cells[at + room].block && room < wanted)
		room++;
	if (!room || run->claim_count == 16)
		return;
	if (at && run->cells[at - 1].block) {
		goal = run->cells[at - 1].block + 1;
		unwritten = run->cells[at - 1].unwritten;
	}
	cr_assert_eq(ash_claim(run->fixture.volume, goal, room, 0, &claim), 0);
	run->claims[run->claim_count++] = claim;
	cr_assert_eq(ash_alloc_log(txn, claim), 0);
	mapping = (struct ash_mapping){ at, claim.count, claim.start, unwritten };
	cr_assert_eq(ash_map_insert(txn, tree_of(run), &mapping), 0);
	for (unsigned i = 0; i < claim.count; i++)
		run->cells[at + i] = (struct cell){ claim.start + i, unwritten };
}

static void change_some(struct run *run, struct ash_txn *txn)
{
	unsigned at = (unsigned)dice(run, FILE_BLOCKS), count = 1 + (unsigned)dice(run, dice(run, 8) ? 30 : 500);
	bool unwritten = dice(run, 2);

	if (count > FILE_BLOCKS - at)
		count = FILE_BLOCKS - at;
	if (unwritten)
		cr_assert_eq(ash_map_set_unwritten(txn, tree_of(run), at, count), 0);
	else
		cr_assert_eq(ash_map_set_written(txn, tree_of(run), at, count), 0);
	for (unsigned i = at; i < at + count; i++)
		run->cells[i].unwritten = unwritten && run->cells[i].block;
}

static void remove_some(struct run *run, struct ash_txn *txn)
{
	unsigned at = (unsigned)dice(run, FILE_BLOCKS);
	unsigned count = 1 + (unsigned)dice(run, dice(run, 8) ? 60 : FILE_BLOCKS);
	uint32_t limit = dice(run, 2) ? 1000 : 20000;
	uint64_t remaining, freed, expected = 0;

	cr_assert_eq(ash_map_remove(txn, tree_of(run), at, count, limit, &remaining, &freed), 0);
	cr_assert(remaining < count, "no progress");
	for (unsigned i = at + (unsigned)remaining; i < at + count && i < FILE_BLOCKS; i++) {
		expected += run->cells[i].block != 0;
		run->cells[i] = (struct cell){ 0 };
	}
	cr_assert_eq(freed, expected, "%lu freed instead of %lu", (unsigned long)freed, (unsigned long)expected);
}

static void one_transaction(struct run *run)
{
	struct ash_txn *txn = fixture_begin(&run->fixture, 4 * ASH_TXN_TREE);
	bool abort = dice(run, 8) == 0;

	run->claim_count = 0;
	memcpy(run->before, run->cells, sizeof(run->cells));
	for (unsigned operations = 1 + (unsigned)dice(run, 3); operations; operations--) {
		uint64_t choice = dice(run, 100);

		if (choice < 60)
			insert_some(run, txn);
		else if (choice < 85)
			change_some(run, txn);
		else
			remove_some(run, txn);
	}
	if (!abort) {
		ash_txn_commit(txn);
		return;
	}
	ash_txn_abort(txn);
	memcpy(run->cells, run->before, sizeof(run->cells));
	while (run->claim_count)
		ash_unclaim(run->fixture.volume, run->claims[--run->claim_count], 0);
	expect_equal(run);
}

Test(map, equals_an_array, .timeout = 120)
{
	static struct run run;
	uint64_t free_blocks, remaining = FILE_BLOCKS, freed;

	run.random = 5;
	fixture_open(&run.fixture, "mem:64M");
	free_blocks = fixture_free(&run.fixture);
	for (unsigned i = 0; i < 6000; i++) {
		one_transaction(&run);
		if (i % 64 == 0) {
			expect_equal(&run);
			/* Freed blocks come back when their freeing is durable (I3). */
			cr_assert_eq(ash_sync(run.fixture.volume), 0);
			if (i % 1024 == 0)
				fixture_cut(&run.fixture);
		}
	}
	expect_equal(&run);
	cr_assert(fixture_free(&run.fixture) < free_blocks);
	while (remaining) {
		struct ash_txn *txn = fixture_begin(&run.fixture, ASH_TXN_TREE);

		cr_assert_eq(ash_map_remove(txn, tree_of(&run), 0, remaining, 8000, &remaining, &freed), 0);
		ash_txn_commit(txn);
	}
	memset(run.cells, 0, sizeof(run.cells));
	expect_equal(&run);
	cr_assert_eq(fixture_blocks(&run.fixture), 0);
	cr_assert_eq(fixture_free(&run.fixture), free_blocks);
	cr_assert_eq(run.fixture.last_message[0], 0, "%s", run.fixture.last_message);
	fixture_close(&run.fixture);
}

/* ---- Limits: a map alone, over a device that is said to be large. Nothing is allocated. ---- */

static void map_put(struct fixture *fixture, uint64_t file_block, uint64_t count, uint64_t start, bool unwritten)
{
	struct ash_mapping mapping = { file_block, count, start, unwritten };
	struct ash_txn *txn = fixture_begin(fixture, ASH_TXN_TREE);

	cr_assert_eq(ash_map_insert(txn, &fixture->data, &mapping), 0);
	ash_txn_commit(txn);
}

static void expect_mapping(struct fixture *fixture, uint64_t at, uint64_t count, uint64_t start, bool unwritten)
{
	struct ash_mapping mapping;

	cr_assert_eq(ash_map_get(&fixture->data, at, 1ull << 40, &mapping), 0);
	cr_assert_eq(mapping.file_block, at);
	cr_assert_eq(mapping.count, count, "%lu blocks instead of %lu", (unsigned long)mapping.count,
		     (unsigned long)count);
	cr_assert_eq(mapping.start, start);
	cr_assert_eq(mapping.unwritten, unwritten);
}

static void large_open(struct fixture *fixture)
{
	fixture_open(fixture, "mem:16M");
	fixture->volume->block_count = 1ull << 40;
}

Test(map, long_mappings_are_cut)
{
	struct fixture fixture;
	uint64_t max = ASH_EXTENT_MAX_BLOCKS;

	large_open(&fixture);
	map_put(&fixture, 100, 2 * max + 10, 5000, false);
	expect_mapping(&fixture, 100, max, 5000, false);
	expect_mapping(&fixture, 100 + max, max, 5000 + max, false);
	expect_mapping(&fixture, 100 + 2 * max, 10, 5000 + 2 * max, false);
	expect_mapping(&fixture, 0, 100, 0, false);
	expect_mapping(&fixture, 110 + 2 * max, 1ull << 40, 0, false);
	fixture_close(&fixture);
}

Test(map, a_growing_extent_fills_up_to_the_limit)
{
	struct fixture fixture;
	uint64_t max = ASH_EXTENT_MAX_BLOCKS;

	large_open(&fixture);
	map_put(&fixture, 0, max - 5, 5000, false);
	map_put(&fixture, max - 5, 20, 5000 + max - 5, false);
	expect_mapping(&fixture, 0, max, 5000, false);
	expect_mapping(&fixture, max, 15, 5000 + max, false);
	map_put(&fixture, max + 15, 5, 5000 + max + 15, false);
	expect_mapping(&fixture, max, 20, 5000 + max, false);
	/* In front of a full one: no joining beyond the limit. */
	map_put(&fixture, 3 * max, max, 5000 + 3 * max, false);
	map_put(&fixture, 3 * max - 1, 1, 5000 + 3 * max - 1, false);
	expect_mapping(&fixture, 3 * max - 1, 1, 5000 + 3 * max - 1, false);
	expect_mapping(&fixture, 3 * max, max, 5000 + 3 * max, false);
	fixture_close(&fixture);
}

Test(map, neighbours_join_only_when_all_continues)
{
	struct fixture fixture;

	large_open(&fixture);
	map_put(&fixture, 10, 10, 1000, false);
	map_put(&fixture, 20, 10, 1010, true); /* other flag */
	map_put(&fixture, 30, 10, 1021, true); /* other place */
	map_put(&fixture, 5, 5, 995, false);   /* continues in front */
	expect_mapping(&fixture, 5, 15, 995, false);
	expect_mapping(&fixture, 20, 10, 1010, true);
	expect_mapping(&fixture, 30, 10, 1021, true);
	fixture_close(&fixture);
}

Test(map, written_part_in_the_middle)
{
	struct fixture fixture;
	struct ash_txn *txn;

	large_open(&fixture);
	map_put(&fixture, 0, 100, 1000, true);
	txn = fixture_begin(&fixture, ASH_TXN_TREE);
	cr_assert_eq(ash_map_set_written(txn, &fixture.data, 40, 20), 0);
	ash_txn_commit(txn);
	expect_mapping(&fixture, 0, 40, 1000, true);
	expect_mapping(&fixture, 40, 20, 1040, false);
	expect_mapping(&fixture, 60, 40, 1060, true);
	txn = fixture_begin(&fixture, ASH_TXN_TREE);
	cr_assert_eq(ash_map_set_written(txn, &fixture.data, 0, 100), 0);
	ash_txn_commit(txn);
	expect_mapping(&fixture, 0, 100, 1000, false);
	fixture_close(&fixture);
}

Test(map, limit_cuts_extents_and_holes)
{
	struct fixture fixture;
	struct ash_mapping mapping;

	large_open(&fixture);
	map_put(&fixture, 10, 100, 1000, false);
	cr_assert_eq(ash_map_get(&fixture.data, 0, 4, &mapping), 0);
	cr_assert(mapping.count == 4 && !mapping.start);
	cr_assert_eq(ash_map_get(&fixture.data, 0, 40, &mapping), 0);
	cr_assert(mapping.count == 10 && !mapping.start);
	cr_assert_eq(ash_map_get(&fixture.data, 15, 7, &mapping), 0);
	cr_assert(mapping.count == 7 && mapping.start == 1005);
	fixture_close(&fixture);
}

/* Blocks that are taken for good: claimed and never logged. */
static void fill_volume(struct fixture *fixture)
{
	struct ash_extent claim;
	int result;

	do
		result = ash_claim(fixture->volume, 0, 1000, 0, &claim);
	while (!result);
	cr_assert_eq(result, -ENOSPC);
}

/* A punch that splits extents needs tree nodes: it gets them from the emergency reserve. */
Test(map, punching_works_on_a_full_volume)
{
	struct fixture fixture;
	struct ash_extent claim;
	struct ash_mapping mapping;
	struct ash_txn *txn;
	uint64_t remaining, freed, blocks;

	fixture_open(&fixture, "mem:16M");
	cr_assert_eq(ash_claim(fixture.volume, 0, 1000, 0, &claim), 0);
	txn = fixture_begin(&fixture, ASH_TXN_TREE);
	mapping = (struct ash_mapping){ 0, claim.count, claim.start, false };
	cr_assert_eq(ash_alloc_log(txn, claim), 0);
	cr_assert_eq(ash_map_insert(txn, &fixture.data, &mapping), 0);
	ash_txn_commit(txn);
	fill_volume(&fixture);
	blocks = fixture_blocks(&fixture);
	for (uint64_t at = 1; at + 1 < claim.count; at += 2) {
		txn = fixture_begin(&fixture, ASH_TXN_TREE);
		cr_assert_eq(ash_map_remove(txn, &fixture.data, at, 1, 8000, &remaining, &freed), 0);
		cr_assert_eq(freed, 1);
		ash_txn_commit(txn);
	}
	cr_assert(fixture_blocks(&fixture) > blocks, "no node was needed");
	fixture_close(&fixture);
}

/* ---- Damage ---- */

static void raw_put(struct fixture *fixture, uint64_t key, uint64_t start, uint32_t count, uint32_t flags,
		    uint32_t length)
{
	struct {
		struct ash_extent_value value;
		uint8_t more[8];
	} raw = { { ash_put64(start), ash_put32(count), ash_put32(flags) }, { 0 } };
	struct ash_txn *txn = fixture_begin(fixture, ASH_TXN_TREE);

	cr_assert_eq(ash_tree_insert(txn, &fixture->data, key, &raw, length), 0);
	ash_txn_commit(txn);
}

static void expect_refused(uint64_t key, uint64_t start, uint32_t count, uint32_t flags, uint32_t length)
{
	struct fixture fixture;
	struct ash_mapping mapping;
	struct ash_txn *txn;
	uint64_t remaining, freed;

	fixture_open(&fixture, "mem:16M");
	raw_put(&fixture, key, start, count, flags, length);
	cr_assert_eq(ash_map_get(&fixture.data, key, 10, &mapping), -EUCLEAN);
	txn = fixture_begin(&fixture, ASH_TXN_TREE);
	cr_assert_eq(ash_map_remove(txn, &fixture.data, 0, UINT64_MAX, 1000, &remaining, &freed), -EUCLEAN);
	ash_txn_abort(txn);
	cr_assert_neq(fixture.last_message[0], 0);
	fixture_close(&fixture);
}

Test(map_damage, bad_extents_are_refused)
{
	expect_refused(0, 100, 0, 0, 16);
	expect_refused(0, 100, ASH_EXTENT_MAX_BLOCKS + 1, 0, 16);
	expect_refused(0, 0, 1, 0, 16);
	expect_refused(0, 1ull << 63, 1, 0, 16);
	expect_refused(0, 4095, 2, 0, 16);
	expect_refused(0, 100, 1, 2, 16);
	expect_refused(0, 100, 1, 0, 15);
	expect_refused(0, 100, 1, 0, 17);
	expect_refused(1ull << 52, 100, 1, 0, 16);
	expect_refused(UINT64_MAX - 1, 100, 1, 0, 16);
}

Test(map_damage, overlaps_are_refused)
{
	struct fixture fixture;
	struct ash_mapping mapping = { 15, 3, 2000, false };
	struct ash_extent claim;
	struct ash_txn *txn;
	uint64_t remaining, freed;

	fixture_open(&fixture, "mem:16M");
	txn = fixture_begin(&fixture, ASH_TXN_TREE);
	cr_assert_eq(ash_claim(fixture.volume, 0, 100, 0, &claim), 0);
	cr_assert_eq(claim.count, 100);
	cr_assert_eq(ash_alloc_log(txn, claim), 0);
	ash_txn_commit(txn);
	raw_put(&fixture, 10, claim.start, 10, 0, 16);
	raw_put(&fixture, 18, claim.start + 50, 10, 0, 16);
	txn = fixture_begin(&fixture, ASH_TXN_TREE);
	cr_assert_eq(ash_map_remove(txn, &fixture.data, 0, 100, 100000, &remaining, &freed), -EUCLEAN);
	ash_txn_abort(txn);
	cr_assert(strstr(fixture.last_message, "overlap"));
	txn = fixture_begin(&fixture, ASH_TXN_TREE);
	cr_assert_eq(ash_map_insert(txn, &fixture.data, &mapping), -EUCLEAN);
	ash_txn_abort(txn);
	txn = fixture_begin(&fixture, ASH_TXN_TREE);
	cr_assert_eq(ash_map_remove(txn, &fixture.data, 0, 18, 100000, &remaining, &freed), -EUCLEAN);
	ash_txn_abort(txn);
	fixture_close(&fixture);
}
