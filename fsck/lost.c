/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Runs of the inode table that are not where the table's extents say, or that no copy of the superblock knows.
 *
 * When block 0 is gone and a backup has to serve, the table may have grown since that backup was written; and the
 * extents may be damaged under right checksums. The bitmap block at the start of each run names its run and its own
 * address under the volume's secret checksum, so the runs are found by reading the groups that are in use. Only a copy in
 * its own place can match: a file that holds an image of the volume has other addresses. The records behind the
 * bitmap must be those of the run, too: a run in several pieces is left alone.
 *
 * Nothing is written here: the table's inode is written anew by rebuild.c, and with it the primary superblock, which
 * until then is left as it is, so that an interrupted run comes here again.
 */
#include "internal.h"

#include <stdlib.h>

#define PIECE_BLOCKS 256u

struct candidate {
	uint64_t run, block;
};

struct search {
	struct checker *checker;
	uint64_t run_blocks;
	uint8_t *block;
	LIST(struct candidate) found;
};

/* ---- What the table says ---- */

/* All of it is mapped, with its bitmap where it belongs. */
static bool run_good(struct search *search, uint64_t run)
{
	struct checker *checker = search->checker;
	uint64_t block = table_block(checker, run * search->run_blocks);

	return run < checker->run_count && block &&
	       table_mapped(checker, run * search->run_blocks, search->run_blocks) == search->run_blocks &&
	       !block_read(checker, block, search->block) &&
	       !block_wrong(checker, search->block, block, ASH_MAGIC_INODE_BITMAP, run);
}

/* ---- Searching ---- */

/* Do the initialized blocks behind the bitmap hold the records of this run? Damaged ones may be among them. */
static bool records_match(struct search *search, uint64_t run, uint64_t block, uint32_t initialized)
{
	struct checker *checker = search->checker;
	uint64_t good = 0, bad = 0;

	for (uint32_t i = 0; i < initialized && i + 1 < search->run_blocks; i++) {
		const struct ash_inode *records = (const void *)search->block;

		if (block_read(checker, block + 1 + i, search->block))
			continue;
		for (uint32_t j = 0; j < ASH_INODES_PER_BLOCK; j++) {
			uint64_t ino = run * checker->inodes_per_run + (uint64_t)i * ASH_INODES_PER_BLOCK + j;

			if (record_is_zero(&records[j]))
				continue;
			if (ash_get32(records[j].magic) == ASH_MAGIC_INODE && ash_get64(records[j].ino) == ino)
				good++;
			else
				bad++;
		}
	}
	return good >= bad;
}

static int look_at(struct search *search, const uint8_t *data, uint64_t block)
{
	struct checker *checker = search->checker;
	const struct ash_bitmap_block *bitmap = (const void *)data;
	uint64_t run = ash_get64(bitmap->header.owner);

	if (ash_get32(bitmap->header.magic) != ASH_MAGIC_INODE_BITMAP || run >= checker->block_count ||
	    block_wrong(checker, data, block, ASH_MAGIC_INODE_BITMAP, run) ||
	    !extent_inside(checker, block, search->run_blocks) || run_good(search, run) ||
	    !records_match(search, run, block, ash_get32(bitmap->initialized)))
		return 0;
	return LIST_ADD(&search->found, (struct candidate){ run, block });
}

static int search_group(struct search *search, uint64_t group, uint8_t *buffer)
{
	struct checker *checker = search->checker;
	uint64_t start = ash_group_start(group), length = group_length(checker->block_count, group);
	int result = 0;

	for (uint64_t at = 0; at < length && !result; at += PIECE_BLOCKS) {
		uint64_t count = length - at < PIECE_BLOCKS ? length - at : PIECE_BLOCKS;

		result = check_cancelled(checker);
		if (!result)
			result = blocks_read(checker, start + at, count, buffer, NULL);
		for (uint64_t i = 0; i < count && !result; i++)
			result = look_at(search, buffer + (i << ASH_BLOCK_SHIFT), start + at + i);
	}
	progress(checker, 0, group, checker->group_count);
	return result;
}

/* ---- Putting back ---- */

static int compare_candidates(const void *a, const void *b)
{
	const struct candidate *x = a, *y = b;

	return x->run < y->run ? -1 : x->run > y->run;
}

static int adopt_one(struct search *search, const struct candidate *candidate)
{
	struct checker *checker = search->checker;
	struct problem_context context = { .number = candidate->run, .block = candidate->block };
	struct table_extent extent = { candidate->run * search->run_blocks, candidate->block, search->run_blocks };
	int result = 0;

	/* Runs are numbered without gaps: what follows a gap stays lost. A second candidate comes too late. */
	if (candidate->run > checker->run_count || run_good(search, candidate->run))
		return 0;
	if (!problem(checker, PROBLEM_TABLE_LOST_RUN, &context))
		return 0;
	result = table_cut(checker, extent.file_block, extent.file_block + extent.count);
	if (!result && !map_any(&checker->found, extent.start, extent.count)) {
		result = map_set(&checker->found, extent.start, extent.count, NULL, NULL);
		if (!result)
			result = LIST_ADD(&checker->table, extent);
		checker->run_count += candidate->run == checker->run_count;
	}
	table_tidy(checker);
	return result ? result : rebuild_schedule(checker, ASH_INO_TABLE, false);
}

/* The claims of all that will be put back go first, so that none is in another's way; and those behind the last run. */
static int clear_way(struct search *search)
{
	struct checker *checker = search->checker;
	uint64_t runs = checker->run_count;
	int result = 0;

	for (size_t i = 0; i < search->found.count && !result; i++) {
		uint64_t run = search->found.items[i].run;

		result = table_cut(checker, run * search->run_blocks, (run + 1) * search->run_blocks);
		runs += run == runs; /* in order: a run behind a gap is not put back */
	}
	if (!result && search->found.count)
		result = table_cut(checker, runs * search->run_blocks, UINT64_MAX);
	table_tidy(checker);
	return result;
}

static int adopt(struct search *search)
{
	struct checker *checker = search->checker;
	int result = 0;

	if (search->found.count)
		qsort(search->found.items, search->found.count, sizeof(*search->found.items), compare_candidates);
	if (checker->repair && checker->options->mode != ASH_CHECK_ASK)
		result = clear_way(search);
	for (size_t i = 0; i < search->found.count && !result; i++)
		result = adopt_one(search, &search->found.items[i]);
	return result;
}

bool lost_runs_any(struct checker *checker)
{
	struct search search = { .checker = checker,
				 .run_blocks = 1 + checker->inodes_per_run / ASH_INODES_PER_BLOCK,
				 .block = checker->scratch };

	for (uint64_t run = 0; run < checker->run_count; run++)
		if (!run_good(&search, run))
			return true;
	return false;
}

int lost_runs_find(struct checker *checker)
{
	struct search search = { .checker = checker,
				 .run_blocks = 1 + checker->inodes_per_run / ASH_INODES_PER_BLOCK,
				 .block = checker->scratch };
	size_t size = (size_t)PIECE_BLOCKS << ASH_BLOCK_SHIFT;
	uint8_t *buffer = bdev_buffer_alloc(size);
	int result = buffer ? 0 : -ENOMEM;

	for (uint64_t group = 0; group < checker->group_count && !result; group++)
		if (!(checker->group_flags[group] & ASH_GROUP_UNINIT))
			result = search_group(&search, group, buffer);
	if (!result)
		result = adopt(&search);
	LIST_FREE(&search.found);
	bdev_buffer_free(buffer, size);
	return result;
}
