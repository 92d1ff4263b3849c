/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Passes 4 and 5: bitmaps, group flags and free counts, totals, against what the passes before found.
 *
 * Bitmaps are written before the flags and counts that lean on them, with a flush between. Blocks marked in use that nobody
 * was found to use are freed only when nothing before was left unrepaired: they may belong to it. No locks.
 */
#include "internal.h"

struct difference {
	uint64_t count, first; /* bits */
};

static struct difference bits_without(const uint64_t *bits, const uint64_t *other, uint32_t words)
{
	struct difference difference = { 0 };

	for (uint32_t i = 0; i < words; i++) {
		uint64_t rest = le64toh(bits[i]) & ~le64toh(other[i]);

		if (rest && !difference.count)
			difference.first = i * 64ull + (uint64_t)__builtin_ctzll(rest);
		difference.count += (uint64_t)__builtin_popcountll(rest);
	}
	return difference;
}

/* ---- Blocks ---- */

struct group_work {
	struct checker *checker;
	uint64_t group;
	uint64_t want[GROUP_WORDS];
	bool write_bitmap, write_table;
};

static int bitmap_write(struct group_work *work)
{
	struct checker *checker = work->checker;
	struct ash_bitmap_block *bitmap = (void *)checker->scratch;
	uint64_t block = ash_group_bitmap(work->group);

	block_begin(checker, bitmap, block, ASH_MAGIC_BLOCK_BITMAP, work->group);
	memcpy(bitmap->bits, work->want, sizeof(work->want));
	return block_write(checker, block, bitmap);
}

static void compare_bitmap(struct group_work *work, const struct ash_bitmap_block *bitmap)
{
	struct checker *checker = work->checker;
	const uint64_t *have = (const void *)bitmap->bits;
	struct difference missing = bits_without(work->want, have, GROUP_WORDS);
	struct difference extra = bits_without(have, work->want, GROUP_WORDS);
	struct problem_context context = { .number = work->group };

	if (missing.count) {
		context.have = missing.count;
		context.block = ash_group_start(work->group) + missing.first;
		work->write_bitmap = problem(checker, PROBLEM_BITMAP_MISSING_BITS, &context);
	}
	if (!extra.count)
		return;
	context.have = extra.count;
	context.block = ash_group_start(work->group) + extra.first;
	if (checker->result->left || !problem(checker, PROBLEM_BITMAP_EXTRA_BITS, &context)) {
		for (uint32_t i = 0; i < GROUP_WORDS; i++)
			work->want[i] |= have[i];
		return;
	}
	work->write_bitmap = true;
}

static bool has_only_fixed(struct checker *checker, uint64_t group)
{
	return map_group_used(&checker->found, group) == ash_group_bitmap(group) - ash_group_start(group) + 1;
}

static void check_untouched(struct group_work *work)
{
	struct checker *checker = work->checker;
	struct problem_context context = { .number = work->group };

	if (has_only_fixed(checker, work->group))
		return;
	context.have = map_group_used(&checker->found, work->group);
	if (problem(checker, PROBLEM_GROUP_UNINIT_USED, &context)) {
		checker->group_flags[work->group] &= ~ASH_GROUP_UNINIT;
		work->write_bitmap = work->write_table = true;
	}
}

static void check_bitmap(struct group_work *work)
{
	struct checker *checker = work->checker;
	struct ash_bitmap_block *bitmap = (void *)checker->scratch;
	struct problem_context context = { .number = work->group, .block = ash_group_bitmap(work->group) };

	if (block_read(checker, context.block, bitmap))
		context.why = "cannot be read";
	else
		context.why = block_wrong(checker, bitmap, context.block, ASH_MAGIC_BLOCK_BITMAP, work->group);
	if (!context.why)
		compare_bitmap(work, bitmap);
	else
		work->write_bitmap = problem(checker, PROBLEM_BITMAP_BAD, &context);
}

static void check_flags(struct group_work *work)
{
	struct checker *checker = work->checker;
	uint32_t *flags = &checker->group_flags[work->group];
	struct problem_context context = { .number = work->group, .have = *flags };

	if ((*flags & ~ASH_GROUP_UNINIT) && problem(checker, PROBLEM_GROUP_FLAGS, &context)) {
		*flags &= ASH_GROUP_UNINIT;
		work->write_table = true;
	}
}

static void check_free_count(struct group_work *work)
{
	struct checker *checker = work->checker;
	struct problem_context context = { .number = work->group, .have = checker->group_free[work->group] };
	uint64_t used = 0;

	for (uint32_t i = 0; i < GROUP_WORDS; i++)
		used += (uint64_t)__builtin_popcountll(work->want[i]);
	context.want = ASH_BITS_PER_BITMAP - used;
	if (context.have == context.want || !checker->log_clean)
		return; /* after a crash they are counted again by the mount */
	if (problem(checker, PROBLEM_GROUP_FREE_COUNT, &context)) {
		checker->group_free[work->group] = (uint32_t)context.want;
		work->write_table = true;
	}
}

static int check_group(struct checker *checker, uint64_t group, bool *write_table)
{
	struct group_work work = { .checker = checker, .group = group };
	int result = 0;

	map_group_bits(&checker->found, group, work.want);
	check_flags(&work);
	if (checker->group_flags[group] & ASH_GROUP_UNINIT)
		check_untouched(&work);
	else
		check_bitmap(&work);
	check_free_count(&work);
	if (work.write_bitmap)
		result = bitmap_write(&work);
	*write_table = *write_table || work.write_table;
	return result;
}

static int table_block_write(struct checker *checker, uint64_t index)
{
	struct ash_group_table_block *table = (void *)checker->scratch;
	uint64_t first = index * ASH_GROUPS_PER_TABLE_BLOCK,
		 block = ash_get64(checker->super->group_table_start) + index;
	int result = check_flush(checker);

	if (result)
		return result;
	block_begin(checker, table, block, ASH_MAGIC_GROUP_TABLE, 0);
	table->first_group = ash_put64(first);
	for (uint64_t i = 0; i < ASH_GROUPS_PER_TABLE_BLOCK && first + i < checker->group_count; i++) {
		table->flags[i] = ash_put32(checker->group_flags[first + i]);
		table->free_blocks[i] = ash_put32(checker->group_free[first + i]);
	}
	return block_write(checker, block, table);
}

static int check_table_block(struct checker *checker, uint64_t index)
{
	uint64_t first = index * ASH_GROUPS_PER_TABLE_BLOCK;
	bool write = false;
	int result = 0;

	if (!checker->table_block_good[index] && !checker->repair)
		return 0; /* which groups are untouched is not known */
	for (uint64_t i = 0; i < ASH_GROUPS_PER_TABLE_BLOCK && first + i < checker->group_count && !result; i++) {
		result = check_group(checker, first + i, &write);
		if (!(i & 63))
			progress(checker, 4, first + i, checker->group_count);
	}
	return !result && write ? table_block_write(checker, index) : result;
}

int bitmaps_check(struct checker *checker)
{
	int result = 0;

	for (uint64_t i = 0; i * ASH_GROUPS_PER_TABLE_BLOCK < checker->group_count && !result; i++) {
		result = check_cancelled(checker);
		if (!result)
			result = check_table_block(checker, i);
	}
	return result;
}

/* ---- Inodes ---- */

static void run_bits(const struct checker *checker, uint64_t run, uint8_t bits[ASH_BLOCK_SIZE])
{
	uint64_t first = run * checker->inodes_per_run, end = first + checker->inodes_per_run;

	memset(bits, 0, ASH_BLOCK_SIZE);
	for (uint32_t i = 0; i < ASH_INO_FIRST_FREE && !run; i++)
		bit_set(bits, i, true);
	for (uint64_t ino = first; (ino = inode_known_from(checker, ino, end)) < end; ino++) {
		uint8_t state = inode_state(checker, ino);

		if ((state & INODE_TYPE) || ((state & INODE_DAMAGED) && inode_bit(checker, ino)))
			bit_set(bits, ino - first, true);
	}
	for (size_t i = LIST_FROM(&checker->unplaced, first); i < checker->unplaced.count; i++) {
		const struct inode_range *range = &checker->unplaced.items[i];

		if (range->first >= end)
			break;
		for (uint64_t ino = range->first; ino < range->end; ino++)
			if (inode_bit(checker, ino))
				bit_set(bits, ino - first, true);
	}
}

static int check_run(struct checker *checker, uint64_t run)
{
	uint32_t words = (checker->inodes_per_run + 63) / 64, bytes = checker->inodes_per_run / 8;
	uint64_t want[ASH_BLOCK_SIZE / 8], have[ASH_BLOCK_SIZE / 8];
	struct ash_bitmap_block *bitmap = (void *)checker->scratch;
	struct difference missing, extra;
	struct problem_context context = { .number = run, .block = checker->runs[run].bitmap_block };
	bool write = false;
	int result;

	if (!checker->runs[run].valid)
		return 0;
	run_bits(checker, run, (uint8_t *)want);
	memset(have, 0, sizeof(have));
	inode_bits_get(checker, run, (uint8_t *)have);
	missing = bits_without(want, have, words);
	extra = bits_without(have, want, words);
	if (missing.count) {
		context.have = missing.count;
		context.ino = run * checker->inodes_per_run + missing.first;
		write = problem(checker, PROBLEM_INODE_BITMAP_MISSING, &context);
	}
	if (extra.count) {
		context.have = extra.count;
		context.ino = run * checker->inodes_per_run + extra.first;
		write = problem(checker, PROBLEM_INODE_BITMAP_EXTRA, &context) || write;
	}
	if (!write)
		return 0;
	result = inode_bits_put(checker, run, (const uint8_t *)want);
	if (!result)
		result = block_read(checker, context.block, bitmap);
	if (result)
		return result;
	memcpy(bitmap->bits, want, bytes);
	return block_write(checker, context.block, bitmap);
}

int inode_bitmaps_check(struct checker *checker)
{
	int result = 0;

	for (uint64_t run = 0; run < checker->run_count && !result; run++) {
		result = check_cancelled(checker);
		if (!result)
			result = check_run(checker, run);
	}
	return result;
}

/* ---- Totals ---- */

static void count_usage(struct checker *checker, uint64_t *free_blocks)
{
	struct ash_check_result *result = checker->result;
	uint64_t used = 0;

	for (uint64_t group = 0; group < checker->group_count; group++)
		used += map_group_used(&checker->found, group);
	*free_blocks = checker->block_count - used;
	result->used_blocks = used;
	result->inodes = checker->inode_count;
	result->used_inodes = inode_bits_count(checker);
	result->files = 0;
	for (uint64_t i = 0; (i = inode_known_from(checker, i, checker->inode_count)) < checker->inode_count; i++)
		result->files += (inode_state(checker, i) & INODE_TYPE) != 0;
	result->directories = checker->directories.count;
	result->files -= result->directories < result->files ? result->directories : result->files;
}

int totals_check(struct checker *checker)
{
	struct ash_log_control control;
	struct problem_context blocks = { 0 }, inodes = { 0 };
	uint64_t free_blocks, block;
	bool fix = false;

	count_usage(checker, &free_blocks);
	if (!checker->log_clean || journal_control(checker, &control, &block) || ash_get32(control.clean) != 1)
		return 0;
	blocks.have = ash_get64(control.free_blocks);
	blocks.want = free_blocks;
	inodes.have = ash_get64(control.used_inodes);
	inodes.want = checker->result->used_inodes;
	if (checker->repair && checker->result->left) /* more is in use than was found */
		free_blocks = blocks.want = blocks.have;
	if (blocks.have != blocks.want)
		fix = problem(checker, PROBLEM_TOTAL_BLOCKS, &blocks);
	if (inodes.have != inodes.want)
		fix = problem(checker, PROBLEM_TOTAL_INODES, &inodes) || fix;
	return fix ? journal_totals(checker, free_blocks, checker->result->used_inodes) : 0;
}
