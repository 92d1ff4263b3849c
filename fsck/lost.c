/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Runs of the inode table that no copy of the superblock knows.
 *
 * When block 0 is gone and a backup has to serve, the table may have grown since that backup was written. The bitmap
 * block at the start of each run names its run and its own address under the volume's secret checksum, so the missing runs
 * are found by reading the groups that are in use, and are put back behind those that are known. Only a copy in its own
 * place can match: a file that holds an image of the volume has other addresses.
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
	LIST(struct candidate) found;
};

static int look_at(struct search *search, const uint8_t *data, uint64_t block)
{
	struct checker *checker = search->checker;
	const struct ash_block_header *header = (const void *)data;
	uint64_t run = ash_get64(header->owner);

	if (ash_get32(header->magic) != ASH_MAGIC_INODE_BITMAP || run < checker->run_count ||
	    block_wrong(checker, data, block, ASH_MAGIC_INODE_BITMAP, run) ||
	    !extent_inside(checker, block, search->run_blocks) || map_any(&checker->found, block, search->run_blocks))
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

		blocks_read(checker, start + at, count, buffer, NULL);
		for (uint64_t i = 0; i < count && !result; i++)
			result = look_at(search, buffer + (i << ASH_BLOCK_SHIFT), start + at + i);
	}
	progress(checker, 0, group, checker->group_count);
	return result;
}

static int compare(const void *a, const void *b)
{
	const struct candidate *x = a, *y = b;

	return x->run < y->run ? -1 : x->run > y->run;
}

/* Runs are numbered without gaps: what follows a gap stays lost. */
static int adopt(struct search *search)
{
	struct checker *checker = search->checker;
	int result = 0;

	if (search->found.count)
		qsort(search->found.items, search->found.count, sizeof(*search->found.items), compare);
	for (size_t i = 0; i < search->found.count && !result; i++) {
		const struct candidate *candidate = &search->found.items[i];
		struct problem_context context = { .number = candidate->run, .block = candidate->block };
		struct table_extent extent = { candidate->run * search->run_blocks, candidate->block,
					       search->run_blocks };

		if (candidate->run != checker->run_count ||
		    map_any(&checker->found, candidate->block, search->run_blocks) ||
		    !problem(checker, PROBLEM_TABLE_LOST_RUN, &context))
			continue;
		result = map_set(&checker->found, extent.start, extent.count, NULL, NULL);
		if (!result)
			result = LIST_ADD(&checker->table, extent);
		if (!result)
			result = rebuild_schedule(checker, ASH_INO_TABLE, false);
		checker->run_count++;
	}
	return result;
}

int lost_runs_find(struct checker *checker)
{
	struct search search = { .checker = checker, .run_blocks = 1 + checker->inodes_per_run / ASH_INODES_PER_BLOCK };
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
