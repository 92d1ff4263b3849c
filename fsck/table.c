/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The inode table: its extents, the bitmaps of its runs, and reading all records in order.
 *
 * The table is read in pieces of up to 1 MiB. For a large table a helper thread reads the next piece while the
 * checking thread works on the last one: two buffers, each owned by one side at a time; `lock` guards who owns
 * which. The helper does nothing but read the device and look into the (read-only) overlay.
 *
 * A run whose bitmap block is lost is rebuilt at once from its records, which carry number and checksum each,
 * before anything else looks at it.
 */
#include "internal.h"

#include <stdio.h>
#include <pthread.h>
#include <stdlib.h>

#define PIECE_BLOCKS 256u    /* 1 MiB */
#define THREAD_PIECES 16u    /* from this many pieces on a helper is worth its start */
#define RECORDS_LOOKED_AT 4u /* blocks of a run: the lowest free number is taken first, and freed records keep theirs */
#define RUNS_UNSEEN 64u
#define BLOCKS_UNSEEN (1u << 16)

bool bit_test(const uint8_t *bits, uint64_t bit)
{
	return bits[bit / 8] >> (bit % 8) & 1;
}

void bit_set(uint8_t *bits, uint64_t bit, bool value)
{
	if (value)
		bits[bit / 8] |= (uint8_t)(1u << (bit % 8));
	else
		bits[bit / 8] &= (uint8_t) ~(1u << (bit % 8));
}

/* ---- The map ---- */

uint64_t run_blocks(const struct checker *checker)
{
	return 1 + checker->inodes_per_run / ASH_INODES_PER_BLOCK;
}

/* The number of the first inode in the run's block of records `index`. */
static uint64_t records_first(const struct checker *checker, uint64_t run, uint64_t index)
{
	return run * checker->inodes_per_run + index * ASH_INODES_PER_BLOCK;
}

/* NULL: hole. */
static const struct table_extent *extent_of(const struct checker *checker, uint64_t file_block)
{
	size_t low = 0, high = checker->table.count;

	while (low < high) {
		size_t middle = (low + high) / 2;
		const struct table_extent *extent = &checker->table.items[middle];

		if (file_block < extent->file_block)
			high = middle;
		else if (file_block - extent->file_block >= extent->count)
			low = middle + 1;
		else
			return extent;
	}
	return NULL;
}

uint64_t table_block(const struct checker *checker, uint64_t file_block)
{
	const struct table_extent *extent = extent_of(checker, file_block);

	return extent ? extent->start + (file_block - extent->file_block) : 0;
}

/* How many of `count` file blocks from `first` on have a place. */
uint64_t table_mapped(const struct checker *checker, uint64_t first, uint64_t count)
{
	size_t low = 0, high = checker->table.count;
	uint64_t mapped = 0;

	while (low < high) { /* the first extent that ends behind `first` */
		size_t middle = (low + high) / 2;
		const struct table_extent *extent = &checker->table.items[middle];

		if (extent->file_block + extent->count <= first)
			low = middle + 1;
		else
			high = middle;
	}
	for (; low < checker->table.count && checker->table.items[low].file_block < first + count; low++) {
		const struct table_extent *extent = &checker->table.items[low];
		uint64_t from = extent->file_block > first ? extent->file_block : first;
		uint64_t end = extent->file_block + extent->count;

		mapped += (end < first + count ? end : first + count) - from;
	}
	return mapped;
}

int table_cut_extent(struct checker *checker, size_t *index, uint64_t first, uint64_t end)
{
	struct table_extent *extent = &checker->table.items[*index];
	struct table_extent rest = *extent;
	uint64_t stop = extent->file_block + extent->count;
	uint64_t from = extent->file_block > first ? extent->file_block : first, to = stop < end ? stop : end;

	if (from >= to)
		return 0;
	map_clear(&checker->found, extent->start + (from - extent->file_block), to - from);
	extent->count = from - extent->file_block;
	rest.start += to - rest.file_block;
	rest.file_block = to;
	rest.count = stop - to;
	if (!rest.count)
		return 0;
	*index = checker->table.count;
	return LIST_ADD(&checker->table, rest);
}

int table_cut(struct checker *checker, uint64_t first, uint64_t end)
{
	size_t count = checker->table.count;
	int result = 0;

	for (size_t i = 0; i < count && !result; i++) {
		size_t index = i;

		result = table_cut_extent(checker, &index, first, end);
	}
	return result;
}

static int compare_extents(const void *a, const void *b)
{
	const struct table_extent *x = a, *y = b;

	return x->file_block < y->file_block ? -1 : x->file_block > y->file_block;
}

/* In order, without the empty ones that table_cut() leaves. */
void table_tidy(struct checker *checker)
{
	size_t kept = 0;

	for (size_t i = 0; i < checker->table.count; i++)
		if (checker->table.items[i].count)
			checker->table.items[kept++] = checker->table.items[i];
	checker->table.count = kept;
	if (kept)
		qsort(checker->table.items, kept, sizeof(*checker->table.items), compare_extents);
}

int table_locate(const struct checker *checker, uint64_t ino, uint64_t *block, uint32_t *offset)
{
	uint64_t run = ino / checker->inodes_per_run, index = ino % checker->inodes_per_run;

	if (run >= checker->run_count)
		return -ENOENT;
	*block = table_block(checker, run * run_blocks(checker) + 1 + index / ASH_INODES_PER_BLOCK);
	*offset = (uint32_t)(index % ASH_INODES_PER_BLOCK) * ASH_INODE_SIZE;
	return *block ? 0 : -ENOENT;
}

struct table_walk {
	struct checker *checker;
	uint64_t floor;  /* next free file block */
	uint64_t blocks; /* nodes and data */
};

static int table_bad_node(void *context, uint64_t block, const char *why)
{
	struct table_walk *walk = context;
	struct problem_context at = { .block = block, .why = why };

	if (problem(walk->checker, PROBLEM_TABLE_EXTENT, &at))
		return rebuild_schedule(walk->checker, ASH_INO_TABLE, false);
	return 0;
}

/* Blocks of the table belong to it before anybody else; what it claims twice is dropped. */
static int table_claim(struct checker *checker, uint64_t start, uint64_t count, bool *taken)
{
	*taken = map_any(&checker->found, start, count);
	return *taken ? 0 : map_set(&checker->found, start, count, NULL, NULL);
}

static int table_node(void *context, uint64_t block)
{
	struct table_walk *walk = context;
	bool taken;
	int result = table_claim(walk->checker, block, 1, &taken);

	if (!result && taken)
		return table_bad_node(walk, block, "a tree block lies where other metadata is");
	walk->blocks++;
	return result ? result : LIST_ADD(&walk->checker->table_nodes, block);
}

static int table_record(void *context, uint64_t key, const uint8_t *value, uint32_t length)
{
	struct table_walk *walk = context;
	struct checker *checker = walk->checker;
	const struct ash_extent_value *extent = (const void *)value;
	struct table_extent entry = { .file_block = key };
	const char *why = extent_wrong(checker, key, value, length, walk->floor);
	bool taken = false;
	int result;

	if (!why) {
		entry.start = ash_get64(extent->start);
		entry.count = ash_get32(extent->count);
		if (ash_get32(extent->flags))
			why = "unwritten part";
	}
	if (!why) {
		result = table_claim(checker, entry.start, entry.count, &taken);
		if (result)
			return result;
		if (taken)
			why = "part lies where other metadata is";
	}
	if (why)
		return table_bad_node(walk, entry.start, why);
	walk->floor = key + entry.count;
	walk->blocks += entry.count;
	return LIST_ADD(&checker->table, entry);
}

static int table_map(struct checker *checker)
{
	const struct ash_inode *inode = &checker->super->table_inode;
	struct table_walk context = { .checker = checker };
	struct tree_walk walk = { .checker = checker,
				  .owner = ASH_INO_TABLE,
				  .context = &context,
				  .node = table_node,
				  .bad = table_bad_node,
				  .record = table_record };
	struct problem_context count = { .have = ash_get64(inode->blocks) };
	int result = 0;

	checker->table.count = checker->table_nodes.count = checker->holes.count = 0;
	if (inode->data_kind == ASH_FORK_TREE)
		result = tree_walk(&walk, inode->data, ASH_DATA_FORK_SIZE);
	count.want = context.blocks;
	if (!result && count.want != count.have && !checker->rebuilds.count &&
	    problem(checker, PROBLEM_INODE_BLOCKS, &count)) {
		checker->super->table_inode.blocks = ash_put64(context.blocks);
		result = inode_write(checker, ASH_INO_TABLE, &checker->super->table_inode);
	}
	return result;
}

/* ---- How many runs there are ---- */

/* Is the run's bitmap where the map says? */
static bool run_named(struct checker *checker, uint64_t run)
{
	uint64_t block = table_block(checker, run * run_blocks(checker));

	return block && !block_read(checker, block, checker->scratch) &&
	       !block_wrong(checker, checker->scratch, block, ASH_MAGIC_INODE_BITMAP, run);
}

/*
 * Is there enough of the run for its holes to be filled? Its bitmap, or half of a run that is counted: a few blocks say little,
 * and what a forger maps of each of many runs would have all the others written.
 */
static bool run_there(struct checker *checker, uint64_t run)
{
	uint64_t mapped = table_mapped(checker, run * run_blocks(checker), run_blocks(checker));
	bool counted = run < runs_counted(checker);

	return mapped == run_blocks(checker) ||
	       (mapped && ((counted && mapped >= run_blocks(checker) / 2) || run_named(checker, run)));
}

/* Is it surely one, also behind a run that is missing? */
static bool run_certain(struct checker *checker, uint64_t run)
{
	return run_named(checker, run) ||
	       (run < runs_counted(checker) &&
		table_mapped(checker, run * run_blocks(checker), run_blocks(checker)) == run_blocks(checker));
}

/* Is there an inode of the run where its first ones should be? A block that the device does not give may hold some. */
static bool run_inhabited(struct checker *checker, uint64_t run)
{
	const struct ash_inode *records = (const void *)checker->scratch;
	uint64_t ino = run * checker->inodes_per_run;

	for (uint32_t index = 0; index < RECORDS_LOOKED_AT && index + 1 < run_blocks(checker); index++) {
		uint64_t block = table_block(checker, run * run_blocks(checker) + 1 + index);

		if (!block)
			continue;
		if (block_read(checker, block, checker->scratch))
			return true;
		for (uint32_t i = 0; i < ASH_INODES_PER_BLOCK; i++, ino++)
			if (ash_get32(records[i].magic) == ASH_MAGIC_INODE && ash_get64(records[i].ino) == ino)
				return true;
	}
	return false;
}

/* What was found of runs that somebody says are there. */
struct sight {
	uint64_t seen, unseen;
};

/*
 * A run without anything of its own is believed in as one that was damaged. That may happen to a quarter of a GiB of
 * the table, or to a few of the largest runs; what is more must not be more than what is there.
 */
static bool sight_believes(const struct checker *checker, const struct sight *sight)
{
	return sight->unseen <= sight->seen + RUNS_UNSEEN + BLOCKS_UNSEEN / run_blocks(checker);
}

static bool sight_take(struct checker *checker, struct sight *sight, uint64_t run)
{
	if (run_named(checker, run) || run_inhabited(checker, run))
		sight->seen++;
	else
		sight->unseen++;
	return sight_believes(checker, sight);
}

/*
 * Runs without a gap from the first on. Not believed in more of them: those up to the last one of which there is
 * something.
 */
static uint64_t runs_in_front(struct checker *checker, uint64_t last, struct sight *sight)
{
	uint64_t run = 0, end = 0;

	for (; run < last && run_there(checker, run); run++) {
		uint64_t seen = sight->seen;

		if (!sight_take(checker, sight, run))
			return end;
		if (sight->seen > seen)
			end = run + 1;
	}
	return run;
}

/* The end of the runs behind a gap, or behind those that are not believed in; 0: there are none. */
static uint64_t runs_behind(struct checker *checker, uint64_t front, uint64_t last, struct sight *sight)
{
	struct sight passed = *sight;
	uint64_t end = last, run;

	while (end > front && !run_certain(checker, end - 1)) {
		passed.unseen++;
		if (!sight_believes(checker, &passed))
			return 0;
		end--;
	}
	for (run = end; run > front && sight_take(checker, sight, run - 1);)
		run--;
	sight->unseen += run - front; /* as far as was not looked */
	return sight_believes(checker, sight) ? end : 0;
}

/*
 * The runs that the map has: those without a gap from the first on, and what lies behind a missing one when it is certain
 * that it is a run. An extent somewhere behind is no reason to believe in all that would lie before it. Nor are
 * extents and counts, of which a few bytes claim millions of runs, without anything in the runs: memory, problems and
 * repairs are for what is there.
 */
static uint64_t runs_there(struct checker *checker)
{
	uint64_t most = checker->block_count / run_blocks(checker), last = 0, front, behind;
	struct sight sight = { 0 };

	if (checker->table.count) {
		const struct table_extent *extent = &checker->table.items[checker->table.count - 1];

		last = (extent->file_block + extent->count + run_blocks(checker) - 1) / run_blocks(checker);
	}
	if (last > most) /* as the engine has it */
		last = most;
	front = runs_in_front(checker, last, &sight);
	if (front == last)
		return last;
	behind = runs_behind(checker, front, last, &sight);
	return behind ? behind : front;
}

static int behind_drop(struct checker *checker)
{
	uint64_t end = checker->run_count * run_blocks(checker);
	size_t count = checker->table.count;
	int result = 0;

	for (size_t i = 0; i < count && !result; i++) {
		const struct table_extent *extent = &checker->table.items[i];
		uint64_t from = extent->file_block > end ? extent->file_block : end;
		struct problem_context at = { .block = extent->start + (from - extent->file_block),
					      .why = "blocks behind the last run" };
		size_t index = i;

		if (extent->file_block + extent->count <= end || !problem(checker, PROBLEM_TABLE_EXTENT, &at))
			continue;
		result = table_cut_extent(checker, &index, from, UINT64_MAX);
		if (!result)
			result = rebuild_schedule(checker, ASH_INO_TABLE, false);
	}
	table_tidy(checker);
	return result;
}

/*
 * Without its first run, where the root is, a table may be what is left of an older volume, whose superblock was taken for
 * want of a better one. It is this volume's, damaged, when block 0 is good and at least half of the runs are where they
 * belong, or when somebody chose the superblock; and nothing of the first one is anywhere on a device that could be read.
 */
static bool first_run_lost(struct checker *checker)
{
	bool chosen = checker->options->super_block;
	uint64_t named = 0;

	if (!checker->first_run_gone || (checker->super_from && !chosen))
		return false;
	for (uint64_t run = 1; run < checker->run_count; run++)
		named += run_named(checker, run);
	return named && (chosen || named >= checker->run_count - named);
}

/*
 * What even lost.c did not find cannot be put back: its records, and where they belong, are unknown. What lies behind it
 * need not be lost, too: where the superblock counts them, such runs are holes, and the root a new one.
 */
static int runs_whole(struct checker *checker)
{
	uint64_t run = 0;

	while (run < checker->run_count &&
	       (run_there(checker, run) || (run < runs_counted(checker) && (run || first_run_lost(checker)))))
		run++;
	if (!checker->repair || (run && run == checker->run_count))
		return 0;
	snprintf(checker->result->error, sizeof(checker->result->error),
		 "%s: run %llu of the inode table cannot be found", bdev_name(checker->dev), (unsigned long long)run);
	return -EUCLEAN;
}

/* ---- Holes ---- */

/* No mount takes a table with a hole. Which blocks are free, and can fill it, is known after pass 1. */
static int hole_check(struct checker *checker, uint64_t first, uint64_t end)
{
	struct problem_context at = { .number = first, .want = end - 1 };
	bool fill = problem(checker, PROBLEM_TABLE_HOLE, &at);

	checker->changed = checker->changed || fill;
	return LIST_ADD(&checker->holes, (struct table_hole){ first, end - first, fill });
}

static int holes_check(struct checker *checker)
{
	uint64_t at = 0, end = checker->run_count * run_blocks(checker);
	int result = 0;

	for (size_t i = 0; i < checker->table.count && at < end && !result; i++) {
		const struct table_extent *extent = &checker->table.items[i];

		if (extent->file_block > at)
			result = hole_check(checker, at, extent->file_block < end ? extent->file_block : end);
		at = extent->file_block + extent->count;
	}
	return !result && at < end ? hole_check(checker, at, end) : result;
}

/*
 * The inodes there are damaged: names and numbers stay as they are, as long as the hole does. Not those of runs of
 * which there is nothing: nobody has names in them.
 */
static int hole_inodes(struct checker *checker, const struct table_hole *hole)
{
	uint64_t end = hole->first + hole->count, run_end;
	int result = 0;

	for (uint64_t at = hole->first; at < end && !result; at = run_end) {
		uint64_t run = at / run_blocks(checker), from = at % run_blocks(checker), to;

		run_end = (run + 1) * run_blocks(checker);
		to = (run_end < end ? run_end : end) - run * run_blocks(checker);
		if (!from) /* the bitmap */
			from++;
		if (from < to && run_there(checker, run))
			result = LIST_ADD(&checker->unplaced,
					  (struct inode_range){ records_first(checker, run, from - 1),
								records_first(checker, run, to - 1) });
	}
	return result;
}

/* A hole of the image is zero as it is: few bytes of such an image can claim more runs than a disk has room for. */
static int blocks_zero(struct checker *checker, uint64_t block, uint32_t count)
{
	uint64_t end = block + count;
	int result = 0;

	memset(checker->scratch, 0, ASH_BLOCK_SIZE);
	for (; !result && (block = block_with_data(checker, block, end)) < end; block++)
		result = block_write_raw(checker, block, checker->scratch, 1);
	return result;
}

static int hole_fill(struct checker *checker, const struct table_hole *hole)
{
	uint64_t block = 0, end = 0; /* of the last piece */
	uint32_t count = 0;
	int result = 0;

	for (uint64_t done = 0; done < hole->count && !result; done += count) {
		uint64_t rest = hole->count - done;

		result = check_cancelled(checker);
		if (!result)
			result = blocks_allocate(checker, rest < PIECE_BLOCKS ? (uint32_t)rest : PIECE_BLOCKS, &block,
						 &count);
		if (!result)
			result = blocks_zero(checker, block, count);
		if (!result && block == end)
			checker->table.items[checker->table.count - 1].count += count;
		else if (!result)
			result = LIST_ADD(&checker->table, (struct table_extent){ hole->first + done, block, count });
		end = block + count;
	}
	return result;
}

int table_holes_fill(struct checker *checker)
{
	bool filled = false;
	int result = 0;

	for (size_t i = 0; i < checker->holes.count && !result; i++) {
		if (!checker->holes.items[i].fill)
			continue;
		result = hole_fill(checker, &checker->holes.items[i]);
		filled = true;
	}
	table_tidy(checker);
	if (result == -ENOSPC) {
		problem(checker, PROBLEM_NO_SPACE, &(struct problem_context){ .ino = ASH_INO_TABLE });
		result = 0;
	}
	return result || !filled ? result : rebuild_schedule(checker, ASH_INO_TABLE, false);
}

/* ---- Its size ---- */

static int size_check(struct checker *checker)
{
	struct ash_super *super = checker->super;
	uint64_t size = checker->run_count * run_blocks(checker) << ASH_BLOCK_SHIFT;
	struct problem_context context = { .have = ash_get64(super->inode_runs), .want = checker->run_count };

	if (context.have == context.want && ash_get64(super->table_inode.size) == size)
		return 0;
	if (!problem(checker, PROBLEM_TABLE_SIZE, &context))
		return 0;
	super->inode_runs = ash_put64(checker->run_count);
	super->table_inode.size = ash_put64(size);
	/* With the new extents, when there are some: rebuild.c writes the inode. */
	return checker->rebuilds.count ? 0 : inode_write(checker, ASH_INO_TABLE, &super->table_inode);
}

/* The number of runs is written only when all of them are there: else no mount, and no later check, gets on with it. */
static int table_count(struct checker *checker)
{
	int result = 0;

	checker->run_count = runs_there(checker);
	if (checker->stale_super || checker->run_count < runs_counted(checker) || checker->rebuilds.count ||
	    lost_runs_any(checker)) {
		result = lost_runs_find(checker);
		if (!result)
			checker->run_count = runs_there(checker);
	}
	if (!result)
		result = behind_drop(checker);
	if (!result)
		result = runs_whole(checker);
	if (!result)
		result = holes_check(checker);
	checker->inode_count = checker->run_count * checker->inodes_per_run;
	return result ? result : size_check(checker);
}

/* ---- Runs ---- */

static bool record_lives(const struct checker *checker, const struct ash_inode *record, uint64_t ino)
{
	return ash_get32(record->magic) == ASH_MAGIC_INODE && ash_get64(record->ino) == ino &&
	       ash_get32(record->mode) && ash_get32(record->crc) == ash_inode_crc(checker->seed, record);
}

/* Damaged, but with the form and the number of an inode: pass 1 asks what is to be done with it. */
static bool record_may_live(const struct ash_inode *record, uint64_t ino)
{
	return ash_get32(record->magic) == ASH_MAGIC_INODE && ash_get64(record->ino) == ino && !record_wrong(record);
}

static bool block_lives(const struct checker *checker, const uint8_t *data, uint64_t first_ino)
{
	for (uint32_t i = 0; i < ASH_INODES_PER_BLOCK; i++)
		if (record_lives(checker, (const void *)(data + i * ASH_INODE_SIZE), first_ino + i))
			return true;
	return false;
}

static uint64_t records_block(const struct checker *checker, uint64_t run, uint32_t index)
{
	return table_block(checker, run * run_blocks(checker) + 1 + index);
}

/*
 * The first of the run's blocks of records in [index, end) that may hold something: not what a hole of the image has,
 * which are free records all. What has no place may hold something.
 */
static uint32_t records_with_data(const struct checker *checker, uint64_t run, uint32_t index, uint32_t end)
{
	while (index < end) {
		uint64_t file_block = run * run_blocks(checker) + 1 + index, block, data, stop;
		const struct table_extent *extent = extent_of(checker, file_block);

		if (!extent)
			break;
		block = extent->start + (file_block - extent->file_block);
		stop = extent->start + extent->count - block < end - index ? extent->start + extent->count :
									     block + (end - index);
		data = block_with_data(checker, block, stop);
		index += (uint32_t)(data - block);
		if (data < stop)
			break;
	}
	return index;
}

/* What a damaged bitmap says of its initialized blocks, when it is this run's by its header; 0: nothing. */
static uint32_t initialized_said(const struct checker *checker, uint64_t run, uint64_t block,
				 const struct ash_bitmap_block *bitmap)
{
	const struct ash_block_header *header = &bitmap->header;
	uint32_t said = ash_get32(bitmap->initialized);

	return ash_get32(header->magic) == ASH_MAGIC_INODE_BITMAP && ash_get64(header->owner) == run &&
			       ash_get64(header->address) == block &&
			       !memcmp(header->metadata_uuid, checker->super->header.metadata_uuid, 16) &&
			       said <= checker->inodes_per_run / ASH_INODES_PER_BLOCK ?
		       said :
		       0;
}

/*
 * How many blocks of a run without bitmap count as initialized: *surely, or up to the last one with a living record, or that
 * cannot be read now. *surely becomes what it is without the latter. What lies behind may be an older volume's, whose
 * records have our numbers.
 */
static uint32_t run_initialized(struct checker *checker, uint64_t run, uint32_t *surely)
{
	uint32_t blocks = checker->inodes_per_run / ASH_INODES_PER_BLOCK, last;
	uint8_t *data = checker->node_buffers;

	*surely = last = *surely ? *surely : 1;
	for (uint32_t i = *surely; (i = records_with_data(checker, run, i, blocks)) < blocks; i++) {
		uint64_t block = records_block(checker, run, i);

		if (!block)
			continue;
		if (block_read(checker, block, data))
			last = i + 1;
		else if (block_lives(checker, data, records_first(checker, run, i)))
			last = *surely = i + 1;
	}
	return last;
}

/* Bits of one block, by its records; what is no record is made zero. Returns whether anything was. */
static bool block_bits(const struct checker *checker, uint8_t *data, uint64_t first_ino, bool damaged_too,
		       uint8_t *bits, uint32_t bit)
{
	bool dirty = false;

	for (uint32_t i = 0; i < ASH_INODES_PER_BLOCK; i++) {
		struct ash_inode *record = (void *)(data + i * ASH_INODE_SIZE);

		if (record_lives(checker, record, first_ino + i) ||
		    (damaged_too && record_may_live(record, first_ino + i))) {
			bit_set(bits, bit + i, true);
		} else {
			dirty = dirty || !record_is_zero(record);
			memset(record, 0, sizeof(*record));
		}
	}
	return dirty;
}

/*
 * Bits and `initialized` of a run from its records alone; what is no record there is zeroed when `write`. `said`: so many
 * blocks are initialized in any case.
 */
static int run_from_records(struct checker *checker, uint64_t run, uint32_t said, struct ash_bitmap_block *out,
			    bool write)
{
	uint32_t surely = said, last = run_initialized(checker, run, &surely);
	uint8_t *data = checker->node_buffers;

	for (uint32_t i = 0; (i = records_with_data(checker, run, i, last)) < last; i++) {
		uint64_t block = records_block(checker, run, i);
		uint32_t bit = i * ASH_INODES_PER_BLOCK;
		int result = 0;

		if (!block || block_read(checker, block, data)) {
			/* nobody gets the numbers of inodes that may be there; pass 4 frees those of which none is */
			for (uint32_t j = 0; j < ASH_INODES_PER_BLOCK; j++)
				bit_set(out->bits, bit + j, true);
			continue;
		}
		if (block_bits(checker, data, records_first(checker, run, i), i < surely, out->bits, bit) && write)
			result = block_write_raw(checker, block, data, 1);
		if (result)
			return result;
	}
	for (uint32_t i = 0; i < ASH_INO_FIRST_FREE && !run; i++)
		bit_set(out->bits, i, true);
	out->initialized = ash_put32(last);
	return 0;
}

static bool bits_beyond(const struct checker *checker, const struct ash_bitmap_block *bitmap)
{
	uint32_t first = ash_get32(bitmap->initialized) * ASH_INODES_PER_BLOCK;

	for (uint32_t bit = first; bit < checker->inodes_per_run; bit++)
		if (bit_test(bitmap->bits, bit))
			return true;
	return false;
}

/*
 * Do inodes live behind the initialized blocks? Then the bitmap is another run's, or an old one, whatever its checksum says.
 * Records are sealed with the volume's secret: no file's data looks like one.
 */
static bool records_beyond(struct checker *checker, uint64_t run, const struct ash_bitmap_block *bitmap)
{
	uint32_t blocks = checker->inodes_per_run / ASH_INODES_PER_BLOCK;
	uint8_t *data = checker->node_buffers;

	for (uint32_t i = ash_get32(bitmap->initialized); (i = records_with_data(checker, run, i, blocks)) < blocks;
	     i++) {
		uint64_t block = records_block(checker, run, i);

		if (block && !block_read(checker, block, data) &&
		    block_lives(checker, data, records_first(checker, run, i)))
			return true;
	}
	return false;
}

static const char *run_bitmap_wrong(struct checker *checker, uint64_t run, uint64_t block,
				    struct ash_bitmap_block *bitmap)
{
	const char *why = !block ? "not mapped" : block_read(checker, block, bitmap) ? "cannot be read" : NULL;

	if (!why)
		why = block_wrong(checker, bitmap, block, ASH_MAGIC_INODE_BITMAP, run);
	if (!why && (ash_get32(bitmap->initialized) > checker->inodes_per_run / ASH_INODES_PER_BLOCK ||
		     (!run && !ash_get32(bitmap->initialized))))
		why = "impossible count of initialized blocks";
	if (!why && (bits_beyond(checker, bitmap) || records_beyond(checker, run, bitmap)))
		why = "inodes in use behind the initialized blocks";
	return why;
}

static int run_load(struct checker *checker, uint64_t run)
{
	struct ash_bitmap_block *bitmap = (void *)(checker->node_buffers + 2 * ASH_BLOCK_SIZE);
	struct run_info *info = &checker->runs[run];
	uint64_t block = table_block(checker, run * run_blocks(checker));
	struct problem_context context = { .number = run,
					   .block = block,
					   .why = run_bitmap_wrong(checker, run, block, bitmap) };
	int result = 0;

	info->bitmap_block = block;
	info->valid = !context.why;
	if (context.why) {
		bool fix = problem(checker, PROBLEM_RUN_BITMAP, &context) && block;
		uint32_t said = initialized_said(checker, run, block, bitmap);

		block_begin(checker, bitmap, block, ASH_MAGIC_INODE_BITMAP, run);
		result = run_from_records(checker, run, said, bitmap, fix);
		if (!result && fix)
			result = block_write(checker, block, bitmap);
		checker->changed = checker->changed || fix;
		info->valid = fix;
	}
	info->initialized = ash_get32(bitmap->initialized);
	return result ? result : inode_bits_put(checker, run, bitmap->bits);
}

int table_load(struct checker *checker)
{
	int result = table_map(checker);

	if (!result)
		result = table_count(checker);
	if (!result && checker->restore && !checker->rebuilds.count)
		result = super_write(checker);
	if (result)
		return result;
	checker->runs = calloc(checker->run_count + 1, sizeof(*checker->runs));
	if (!checker->runs)
		return -ENOMEM;
	result = known_open(checker);
	for (uint64_t run = 0; run < checker->run_count && !result; run++)
		result = run_load(checker, run);
	for (size_t i = 0; i < checker->holes.count && !result; i++)
		result = hole_inodes(checker, &checker->holes.items[i]);
	return result;
}

/* ---- Reading it all ---- */

struct piece {
	uint64_t first_ino, block;
	uint32_t count; /* blocks; 0: the end */
};

struct reader {
	struct checker *checker;
	bool (*wanted)(struct checker *checker, uint64_t ino);
	/* where the next piece begins */
	uint64_t run;
	uint32_t index; /* inode block in the run */
	/* pieces in hand; `lock` guards full[] and stop */
	struct piece pieces[2];
	uint8_t *buffers[2];
	bool full[2], stop;
	bool bad[2][PIECE_BLOCKS]; /* blocks that could not be read */
	int error[2];
	pthread_mutex_t lock;
	pthread_cond_t changed;
};

static bool block_wanted(const struct reader *reader, uint64_t first_ino)
{
	if (!reader->wanted)
		return true;
	for (uint32_t i = 0; i < ASH_INODES_PER_BLOCK; i++)
		if (reader->wanted(reader->checker, first_ino + i))
			return true;
	return false;
}

/* Leave blocks behind of which no inode is known: to the last of them. */
static bool unknown_skips(struct reader *reader, uint64_t first_ino)
{
	uint32_t rest = reader->checker->runs[reader->run].initialized - reader->index;
	uint64_t end = first_ino + (uint64_t)rest * ASH_INODES_PER_BLOCK;
	uint64_t known = inode_known_from(reader->checker, first_ino, end);
	uint32_t blocks = (uint32_t)((known - first_ino) / ASH_INODES_PER_BLOCK);

	if (!blocks)
		return false;
	reader->index += blocks - 1;
	return true;
}

/* Leave a hole of the image behind: to its last block. */
static bool piece_skips(struct reader *reader)
{
	uint32_t end = reader->checker->runs[reader->run].initialized;
	uint32_t next = records_with_data(reader->checker, reader->run, reader->index, end);

	if (next == reader->index)
		return false;
	reader->index = next - 1;
	return true;
}

/* The next run of adjacent device blocks that are wanted; count 0 at the end. */
static struct piece next_piece(struct reader *reader)
{
	struct checker *checker = reader->checker;
	struct piece piece = { 0 };

	for (; reader->run < checker->run_count; reader->run++, reader->index = 0) {
		for (; reader->index < checker->runs[reader->run].initialized; reader->index++) {
			uint64_t ino =
				reader->run * checker->inodes_per_run + (uint64_t)reader->index * ASH_INODES_PER_BLOCK;
			uint64_t block = table_block(checker, reader->run * run_blocks(checker) + 1 + reader->index);

			if (piece.count && (block != piece.block + piece.count || piece.count == PIECE_BLOCKS ||
					    !block_wanted(reader, ino)))
				return piece;
			if (!piece.count && reader->wanted && unknown_skips(reader, ino))
				continue;
			if (!block || (!piece.count && !block_wanted(reader, ino)))
				continue;
			if (!piece.count && piece_skips(reader))
				continue;
			if (!piece.count)
				piece = (struct piece){ .first_ino = ino, .block = block };
			piece.count++;
		}
		if (piece.count)
			return piece;
	}
	return piece;
}

static void read_piece(struct reader *reader, unsigned slot)
{
	struct piece *piece = &reader->pieces[slot];

	*piece = next_piece(reader);
	reader->error[slot] = piece->count ? blocks_read(reader->checker, piece->block, piece->count,
							 reader->buffers[slot], reader->bad[slot]) :
					     0;
}

static void *helper(void *argument)
{
	struct reader *reader = argument;
	bool more = true;

	for (unsigned slot = 0; more; slot ^= 1) {
		pthread_mutex_lock(&reader->lock);
		while (reader->full[slot] && !reader->stop)
			pthread_cond_wait(&reader->changed, &reader->lock);
		more = !reader->stop;
		pthread_mutex_unlock(&reader->lock);
		if (!more)
			break;
		read_piece(reader, slot);
		more = reader->pieces[slot].count > 0;
		pthread_mutex_lock(&reader->lock);
		reader->full[slot] = true;
		pthread_cond_broadcast(&reader->changed);
		pthread_mutex_unlock(&reader->lock);
	}
	return NULL;
}

static void wait_full(struct reader *reader, unsigned slot)
{
	pthread_mutex_lock(&reader->lock);
	while (!reader->full[slot])
		pthread_cond_wait(&reader->changed, &reader->lock);
	pthread_mutex_unlock(&reader->lock);
}

static void give_back(struct reader *reader, unsigned slot)
{
	pthread_mutex_lock(&reader->lock);
	reader->full[slot] = false;
	pthread_cond_broadcast(&reader->changed);
	pthread_mutex_unlock(&reader->lock);
}

/* Write it anew, which also heals a disk's sector. */
static int block_give_up(struct checker *checker, uint64_t block, void *data)
{
	int result;

	memset(data, 0, ASH_BLOCK_SIZE);
	result = block_write_raw(checker, block, data, 1);
	if (result)
		repair_refused(checker, "inode table block", block);
	else
		checker->changed = true;
	return result;
}

/*
 * A block of the table that cannot be read: it can be given up. Where that is not wanted, or the device does not take it,
 * its inodes count as damaged: their names and numbers stay, and nobody gets one of them.
 */
static int unreadable_block(struct checker *checker, uint64_t first_ino, uint64_t block, void *data)
{
	struct problem_context context = { .ino = first_ino, .block = block };
	int result = 0;

	if (problem(checker, PROBLEM_BLOCK_UNREADABLE, &context)) {
		result = block_give_up(checker, block, data);
		if (!result || !ash_unreadable(result))
			return result;
	}
	result = 0;
	for (uint32_t i = 0; i < ASH_INODES_PER_BLOCK && !result; i++)
		result = inode_state_add(checker, first_ino + i, INODE_DAMAGED);
	return result;
}

static int visit_block(struct reader *reader, unsigned slot, uint32_t index, unsigned pass, table_visit visit)
{
	const struct piece *piece = &reader->pieces[slot];
	uint64_t first_ino = piece->first_ino + (uint64_t)index * ASH_INODES_PER_BLOCK;
	uint8_t *data = reader->buffers[slot] + ((size_t)index << ASH_BLOCK_SHIFT);
	uint64_t block = piece->block + index;
	/* The device may only have stumbled. */
	int result = reader->bad[slot][index] ? block_read(reader->checker, block, data) : 0;

	if (!result)
		return visit(reader->checker, first_ino, (void *)data);
	/* Later passes lean on pass 1, which has read it. */
	return pass == 1 && ash_unreadable(result) ? unreadable_block(reader->checker, first_ino, block, data) : result;
}

static int visit_piece(struct reader *reader, unsigned slot, unsigned pass, table_visit visit)
{
	struct checker *checker = reader->checker;
	const struct piece *piece = &reader->pieces[slot];
	int result = check_cancelled(checker);

	if (!result)
		result = reader->error[slot];
	for (uint32_t i = 0; i < piece->count && !result; i++)
		result = visit_block(reader, slot, i, pass, visit);
	progress(checker, pass, piece->first_ino, checker->inode_count);
	return result;
}

static int scan_alone(struct reader *reader, unsigned pass, table_visit visit)
{
	int result = 0;

	for (;;) {
		read_piece(reader, 0);
		if (!reader->pieces[0].count || result)
			return result;
		result = visit_piece(reader, 0, pass, visit);
		if (result)
			return result;
	}
}

static int scan_with_helper(struct reader *reader, unsigned pass, table_visit visit)
{
	pthread_t thread;
	int result = 0;

	reader->buffers[1] = bdev_buffer_alloc((size_t)PIECE_BLOCKS << ASH_BLOCK_SHIFT);
	if (!reader->buffers[1] || pthread_create(&thread, NULL, helper, reader))
		return scan_alone(reader, pass, visit);
	for (unsigned slot = 0; !result; slot ^= 1) {
		wait_full(reader, slot);
		if (!reader->pieces[slot].count)
			break;
		result = visit_piece(reader, slot, pass, visit);
		give_back(reader, slot);
	}
	pthread_mutex_lock(&reader->lock);
	reader->stop = true;
	pthread_cond_broadcast(&reader->changed);
	pthread_mutex_unlock(&reader->lock);
	pthread_join(thread, NULL);
	return result;
}

int table_scan(struct checker *checker, unsigned pass, bool (*wanted)(struct checker *checker, uint64_t ino),
	       table_visit visit)
{
	struct reader reader = { .checker = checker,
				 .wanted = wanted,
				 .lock = PTHREAD_MUTEX_INITIALIZER,
				 .changed = PTHREAD_COND_INITIALIZER };
	uint64_t blocks = checker->inode_count / ASH_INODES_PER_BLOCK;
	size_t piece = (size_t)(blocks < PIECE_BLOCKS ? blocks + 1 : PIECE_BLOCKS) << ASH_BLOCK_SHIFT;
	int result;

	reader.buffers[0] = bdev_buffer_alloc(piece);
	if (!reader.buffers[0])
		return -ENOMEM;
	/* A helper's `wanted` may look only at what the visits do not change; only pass 1 asks for everything. */
	if (blocks < THREAD_PIECES * PIECE_BLOCKS || checker->options->no_threads || wanted)
		result = scan_alone(&reader, pass, visit);
	else
		result = scan_with_helper(&reader, pass, visit);
	bdev_buffer_free(reader.buffers[0], piece);
	if (reader.buffers[1])
		bdev_buffer_free(reader.buffers[1], (size_t)PIECE_BLOCKS << ASH_BLOCK_SHIFT);
	return result;
}
