/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Runs of the inode table that are not where the table's extents say, or that no copy of the superblock knows.
 *
 * When block 0 is gone and a backup has to serve, the table may have grown since that backup was written; and the
 * extents may be damaged under right checksums. The bitmap block at the start of each run names its run and its own
 * address under the volume's secret checksum, so the runs are found by reading the groups that are in use. Only a copy in
 * its own place can match: a file that holds an image of the volume has other addresses. The records behind the
 * bitmap must be those of the run, too: a run in several pieces is left alone. What a block is taken for costs a bounded
 * number of reads, whatever else the volume holds.
 *
 * A run whose bitmap is lost as well is found by its records, which are sealed with the secret and tell its number and
 * their places in it. They do not tell their address, and a file may hold a copy: so they count only for a run that the
 * table should have and has nothing of, and of the places where they lie the one with most of them.
 *
 * A check that only looks goes on with the map as it would be, so that it tells what a repair would do, and not of names that
 * lead nowhere. Nothing is written here: the table's inode is written anew by rebuild.c, and with it the primary superblock, which
 * until then is left as it is, so that an interrupted run comes here again.
 */
#include "internal.h"

#include <stdlib.h>

#define PIECE_BLOCKS 256u
#define STRANGE_MAX 16u /* blocks of others behind a bitmap, more than of its own, after which it is none of a run's */

struct candidate {
	uint64_t run, block; /* in this order: LIST_FROM() */
	uint64_t records;    /* of the run, behind the bitmap */
};

struct search {
	struct checker *checker;
	uint64_t run_blocks;
	uint8_t *block;
	uint64_t end;    /* of the last candidate with records: no run begins within another */
	bool first_gone; /* nothing of the first run was met, nor a block that cannot be read */
	LIST(struct candidate) found;
	LIST(struct candidate) sighted;  /* by records alone */
	LIST(struct table_extent) added; /* to the map, at the end: it is searched until then */
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

struct records {
	uint32_t own, strange;
};

/* One block of what should be the run's records. */
static struct records records_count(const struct ash_inode *records, uint64_t first_ino)
{
	struct records count = { 0 };

	for (uint32_t i = 0; i < ASH_INODES_PER_BLOCK; i++) {
		if (record_is_zero(&records[i]))
			continue;
		if (ash_get32(records[i].magic) == ASH_MAGIC_INODE && ash_get64(records[i].ino) == first_ino + i)
			count.own++;
		else
			count.strange++;
	}
	return count;
}

/*
 * Do the initialized blocks behind the bitmap hold the records of this run? Damaged ones may be among them. A run whose
 * bitmap is where the map says is lost only when there are records for which the map has no place: else nothing tells that it
 * lies in one piece, and what it lacks is filled with empty blocks (table.c). Holes of the image hold no records.
 */
static bool records_match(struct search *search, uint64_t run, uint64_t block, uint32_t initialized, uint64_t *records)
{
	struct checker *checker = search->checker;
	bool lost = table_block(checker, run * search->run_blocks) != block;
	uint64_t own = 0, strange = 0, own_blocks = 0, strange_blocks = 0;
	uint64_t end = block + 1 + (initialized < search->run_blocks - 1 ? initialized : search->run_blocks - 1);

	for (uint64_t at = block + 1; (at = block_with_data(checker, at, end)) < end; at++) {
		struct records count;
		uint64_t i = at - block - 1;

		if (block_read(checker, at, search->block))
			continue;
		count = records_count((const void *)search->block,
				      run * checker->inodes_per_run + i * ASH_INODES_PER_BLOCK);
		own += count.own;
		strange += count.strange;
		own_blocks += count.own > 0;
		strange_blocks += !count.own && count.strange;
		if (strange_blocks > own_blocks + STRANGE_MAX)
			return false;
		lost |= count.own && !table_block(checker, run * search->run_blocks + 1 + i);
	}
	*records = own;
	return lost && own >= strange;
}

bool records_numbered(const struct ash_inode *records, uint64_t *first_ino)
{
	uint32_t i = 0;

	while (i < ASH_INODES_PER_BLOCK && ash_get32(records[i].magic) != ASH_MAGIC_INODE)
		i++;
	if (i == ASH_INODES_PER_BLOCK || ash_get64(records[i].ino) % ASH_INODES_PER_BLOCK != i)
		return false;
	*first_ino = ash_get64(records[i].ino) - i;
	return true;
}

uint32_t records_sealed(uint32_t seed, const struct ash_inode *records, uint64_t first_ino)
{
	uint32_t count = 0;

	for (uint32_t i = 0; i < ASH_INODES_PER_BLOCK; i++)
		count += ash_get32(records[i].magic) == ASH_MAGIC_INODE && ash_get64(records[i].ino) == first_ino + i &&
			 ash_get32(records[i].crc) == ash_inode_crc(seed, &records[i]);
	return count;
}

/* Should the table have the run, while nothing of it has a place? */
static bool run_missing(struct search *search, uint64_t run)
{
	struct checker *checker = search->checker;

	return run < checker->block_count / search->run_blocks &&
	       (checker->stale_super || run < runs_counted(checker)) &&
	       !table_mapped(checker, run * search->run_blocks, search->run_blocks);
}

static int look_at_records(struct search *search, const struct ash_inode *records, uint64_t block)
{
	struct checker *checker = search->checker;
	struct candidate *last = search->sighted.count ? &search->sighted.items[search->sighted.count - 1] : NULL;
	struct candidate sighted;
	uint64_t first_ino, index;

	if (!records_numbered(records, &first_ino))
		return 0;
	index = first_ino % checker->inodes_per_run / ASH_INODES_PER_BLOCK;
	sighted = (struct candidate){ .run = first_ino / checker->inodes_per_run, .block = block - 1 - index };
	if (block <= 1 + index || !run_missing(search, sighted.run) ||
	    !extent_inside(checker, sighted.block, search->run_blocks))
		return 0;
	sighted.records = records_sealed(checker->seed, records, first_ino);
	if (!sighted.records)
		return 0;
	search->first_gone &= sighted.run > 0;
	if (last && last->run == sighted.run && last->block == sighted.block) {
		last->records += sighted.records;
		return 0;
	}
	return LIST_ADD(&search->sighted, sighted);
}

static int look_at(struct search *search, const uint8_t *data, uint64_t block)
{
	struct checker *checker = search->checker;
	const struct ash_bitmap_block *bitmap = (const void *)data;
	struct candidate candidate = { .run = ash_get64(bitmap->header.owner), .block = block };
	uint64_t run = candidate.run;

	if (block < search->end)
		return 0;
	if (ash_get32(bitmap->header.magic) != ASH_MAGIC_INODE_BITMAP)
		return look_at_records(search, (const void *)data, block);
	if (run >= checker->block_count / search->run_blocks ||
	    block_wrong(checker, data, block, ASH_MAGIC_INODE_BITMAP, run) ||
	    !extent_inside(checker, block, search->run_blocks))
		return 0;
	search->first_gone &= run > 0;
	if (check_cancelled(checker))
		return -ECANCELED;
	if (run_good(search, run) ||
	    !records_match(search, run, block, ash_get32(bitmap->initialized), &candidate.records))
		return 0;
	if (candidate.records)
		search->end = block + search->run_blocks;
	return LIST_ADD(&search->found, candidate);
}

static int search_group(struct search *search, uint64_t group, uint8_t *buffer)
{
	struct checker *checker = search->checker;
	uint64_t start = ash_group_start(group), length = group_length(checker->block_count, group);
	bool bad[PIECE_BLOCKS];
	int result = 0;

	for (uint64_t at = 0, count; at < length && !result; at += count) {
		at = block_with_data(checker, start + at, start + length) - start;
		count = length - at < PIECE_BLOCKS ? length - at : PIECE_BLOCKS;
		if (!count)
			break;
		result = check_cancelled(checker);
		if (!result)
			result = blocks_read(checker, start + at, count, buffer, bad);
		for (uint64_t i = 0; i < count && !result; i++) {
			search->first_gone &= !bad[i];
			result = look_at(search, buffer + (i << ASH_BLOCK_SHIFT), start + at + i);
		}
	}
	progress(checker, 0, group, checker->group_count);
	return result;
}

/* ---- Putting back ---- */

/* Of those for one run the first is put back: the one with most records. */
static int compare_candidates(const void *a, const void *b)
{
	const struct candidate *x = a, *y = b;

	if (x->run != y->run)
		return x->run < y->run ? -1 : 1;
	if (x->records != y->records)
		return x->records > y->records ? -1 : 1;
	return x->block < y->block ? -1 : x->block > y->block;
}

/* With a good bitmap before them the records are a copy of the run, or were refused together with it. */
static bool sighted_with_bitmap(struct search *search, const struct candidate *sighted)
{
	const struct ash_block_header *header = (const void *)search->block;

	return !block_read(search->checker, sighted->block, search->block) &&
	       !block_wrong(search->checker, search->block, ash_get64(header->address), ASH_MAGIC_INODE_BITMAP,
			    sighted->run);
}

/* Runs that have been sighted, and of which no bitmap was found, are candidates as well. */
static int sighted_take(struct search *search)
{
	size_t named = search->found.count;
	const struct candidate *list = search->sighted.items;
	int result = 0;

	if (named)
		qsort(search->found.items, named, sizeof(*search->found.items), compare_candidates);
	for (size_t i = 0; i < search->sighted.count && !result; i++) {
		size_t at = list_from(search->found.items, named, sizeof(*search->found.items), list[i].run);

		if ((at == named || search->found.items[at].run != list[i].run) &&
		    !sighted_with_bitmap(search, &list[i]))
			result = LIST_ADD(&search->found, list[i]);
	}
	return result;
}

static int table_clear(struct search *search, uint64_t first, uint64_t count)
{
	int result;

	if (!table_mapped(search->checker, first, count))
		return 0;
	result = table_cut(search->checker, first, first + count);
	table_tidy(search->checker);
	return result;
}

/*
 * Runs are numbered without gaps, so that what follows a gap behind `runs` others is none; but where the superblock
 * counts it, the gap is what damage left of a run (table.c).
 */
static bool run_fits(const struct checker *checker, uint64_t run, uint64_t runs)
{
	return run <= runs || run < runs_counted(checker);
}

static int adopt_one(struct search *search, const struct candidate *candidate)
{
	struct checker *checker = search->checker;
	struct problem_context context = { .number = candidate->run, .block = candidate->block };
	struct table_extent extent = { candidate->run * search->run_blocks, candidate->block, search->run_blocks };
	size_t added = search->added.count;
	int result = 0;

	/* A second candidate comes too late. */
	if (!run_fits(checker, candidate->run, checker->run_count) || run_good(search, candidate->run) ||
	    (added && search->added.items[added - 1].file_block == extent.file_block))
		return 0;
	if (!problem(checker, PROBLEM_TABLE_LOST_RUN, &context) && checker->repair)
		return 0;
	result = table_clear(search, extent.file_block, extent.count);
	if (!result && !map_any(&checker->found, extent.start, extent.count)) {
		result = map_set(&checker->found, extent.start, extent.count, NULL, NULL);
		if (!result)
			result = LIST_ADD(&search->added, extent);
		if (candidate->run >= checker->run_count)
			checker->run_count = candidate->run + 1;
	}
	return result || !checker->repair ? result : rebuild_schedule(checker, ASH_INO_TABLE, false);
}

/* Takes from an extent of the map what lies in runs that will be put back. */
static int clear_extent(struct search *search, size_t index)
{
	struct checker *checker = search->checker;
	const struct table_extent extent = checker->table.items[index];
	size_t i = LIST_FROM(&search->found, extent.file_block / search->run_blocks);
	int result = 0;

	for (; i < search->found.count && !result; i++) {
		uint64_t first = search->found.items[i].run * search->run_blocks;

		if (first >= extent.file_block + extent.count)
			break;
		result = table_cut_extent(checker, &index, first, first + search->run_blocks);
	}
	return result;
}

/* The claims of all that will be put back go first, so that none is in another's way; and those behind the last run. */
static int clear_way(struct search *search)
{
	struct checker *checker = search->checker;
	uint64_t runs = checker->run_count;
	size_t count = checker->table.count;
	int result = 0;

	for (size_t i = 0; i < search->found.count; i++)
		if (search->found.items[i].run >= runs && run_fits(checker, search->found.items[i].run, runs))
			runs = search->found.items[i].run + 1; /* they are in order */
	for (size_t i = 0; i < count && search->found.count && !result; i++)
		result = clear_extent(search, i);
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
	if (checker->options->mode != ASH_CHECK_ASK)
		result = clear_way(search);
	for (size_t i = 0; i < search->found.count && !result; i++)
		result = adopt_one(search, &search->found.items[i]);
	for (size_t i = 0; i < search->added.count && !result; i++)
		result = LIST_ADD(&checker->table, search->added.items[i]);
	table_tidy(checker);
	return result;
}

bool lost_runs_any(struct checker *checker)
{
	struct search search = { .checker = checker, .run_blocks = run_blocks(checker), .block = checker->scratch };

	for (uint64_t run = 0; run < checker->run_count; run++)
		if (!run_good(&search, run))
			return true;
	return false;
}

int lost_runs_find(struct checker *checker)
{
	struct search search = {
		.checker = checker, .run_blocks = run_blocks(checker), .block = checker->scratch, .first_gone = true
	};
	size_t size = (size_t)PIECE_BLOCKS << ASH_BLOCK_SHIFT;
	uint8_t *buffer = bdev_buffer_alloc(size);
	int result = buffer ? 0 : -ENOMEM;

	for (uint64_t group = 0; group < checker->group_count && !result; group++)
		if (!(checker->group_flags[group] & ASH_GROUP_UNINIT))
			result = search_group(&search, group, buffer);
	if (!result)
		result = sighted_take(&search);
	if (!result)
		result = adopt(&search);
	checker->first_run_gone = search.first_gone;
	LIST_FREE(&search.found);
	LIST_FREE(&search.sighted);
	LIST_FREE(&search.added);
	bdev_buffer_free(buffer, size);
	return result;
}
