/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Scrubbing an open volume: the contract is in ashlar/scrub.h, how it judges in scrub.h.
 *
 * The way of a scrub: a checkpoint, so that the device holds what there is to look at; superblock, group table, control
 * blocks; the live part of the log; each group's backup superblock and bitmap; the tree of the inode table; each run's
 * bitmap and inode blocks, and with each inode its forks, leaf by leaf. A step ends between any two of these.
 *
 * What only the whole volume can tell (a block of two files, names of a file against its links, free counts) is left to
 * fsck.
 *
 * Locks: see scrub_home.c and scrub_inode.c; checkpoint_lock (tried only) and rename_lock for one block each.
 */
#include "scrub.h"

#include <stdio.h>

#include "alloc_group.h"
#include "engine.h"

#define STEP_NS 5000000ull /* whoever serves this serves nobody else meanwhile */
#define LOG_BATCH SCRUB_AHEAD
#define LISTED_ENOUGH (ASH_SCRUB_LIST / 2) /* ends a step, so that what comes next can be listed */

enum phase { PHASE_BEGIN, PHASE_FIXED, PHASE_LOG, PHASE_GROUPS, PHASE_TABLE, PHASE_INODES, PHASE_END };

static uint64_t now_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

bool scrub_time_is_up(const struct scrub *scrub)
{
	return scrub->error || scrub->state->listed >= LISTED_ENOUGH || now_ns() >= scrub->deadline;
}

void scrub_time_more(struct scrub *scrub)
{
	uint64_t least = now_ns() + STEP_NS / 2;

	if (scrub->deadline < least)
		scrub->deadline = least;
}

/* ---- Problems ---- */

static void list(struct ash_scrub *state, uint64_t ino, uint64_t block, const char *what)
{
	struct ash_scrub_problem *problem = &state->list[state->listed];

	state->problems++;
	if (state->listed == ASH_SCRUB_LIST)
		return;
	problem->ino = ino;
	problem->block = block;
	snprintf(problem->what, sizeof(problem->what), "%s", what);
	state->listed++;
}

void scrub_problem(struct scrub *scrub, uint64_t ino, uint64_t block, const char *what)
{
	char text[ASH_SCRUB_TEXT + 32] = "";

	if (scrub->error) /* what there was no memory to read is not damage */
		return;
	if (!scrub->sure) {
		scrub->suspect = true;
		return;
	}
	list(scrub->state, ino, block, what);
	if (ino)
		snprintf(text, sizeof(text), "inode %llu: ", (unsigned long long)ino);
	strncat(text, what, ASH_SCRUB_TEXT);
	ash_damaged(scrub->volume, block, text);
}

bool scrub_take_home(struct scrub *scrub, uint64_t block, const struct scrub_home *home)
{
	if (home->wrong)
		scrub_problem(scrub, 0, block, home->wrong);
	else if (home->newer)
		scrub->state->newer++;
	else
		scrub->state->blocks++;
	return home->usable;
}

/* ---- Fixed places ---- */

void scrub_next_phase(struct ash_scrub *state)
{
	state->phase++;
	state->fork = SCRUB_FORK_NONE;
	state->index = state->key = 0;
}

/* What is dirty goes home, to be read there. Nothing depends on that, so a failure is the log's to report. */
static void phase_begin(struct scrub *scrub)
{
	if (!atomic_load(&scrub->volume->read_only))
		ash_log_checkpoint(scrub->volume, true);
	scrub_next_phase(scrub->state);
}

/* Only a checkpoint writes control blocks, so none is on its way under its lock. The newest must be there. */
static void look_at_controls(struct scrub *scrub)
{
	struct ash_volume *volume = scrub->volume;
	const struct ash_log_control *control = (const void *)scrub->device;
	struct scrub_home home = { .wrong = "log control block: not what was written last" };
	uint64_t sequence = volume->log->sequence;

	for (uint64_t block = volume->log_start; block < volume->log_start + 2; block++) {
		struct ash_block_id id = { block, ASH_MAGIC_LOG_CONTROL, 0 };

		if (!scrub_device_read(scrub, scrub->device, block, 1) &&
		    !ash_header_wrong(volume, id, scrub->device, true) && ash_get64(control->sequence) == sequence)
			home.wrong = NULL;
	}
	scrub_take_home(scrub, volume->log_start + sequence % 2, &home);
}

static void phase_fixed(struct scrub *scrub)
{
	struct ash_volume *volume = scrub->volume;
	uint64_t tables = (volume->group_count + ASH_GROUPS_PER_TABLE_BLOCK - 1) / ASH_GROUPS_PER_TABLE_BLOCK;
	struct ash_scrub *state = scrub->state;
	struct ash_block_id id = { 0, ASH_MAGIC_SUPER, 0 };
	struct scrub_home home;

	if (state->index > tables) {
		if (pthread_mutex_trylock(&volume->log->checkpoint_lock)) {
			state->newer++; /* a checkpoint is about to write one */
		} else {
			look_at_controls(scrub);
			pthread_mutex_unlock(&volume->log->checkpoint_lock);
		}
		scrub_next_phase(state);
		return;
	}
	if (state->index)
		id = (struct ash_block_id){ volume->group_table_start + state->index - 1, ASH_MAGIC_GROUP_TABLE, 0 };
	home = scrub_home(scrub, id, scrub->block);
	scrub_take_home(scrub, id.block, &home);
	state->index++;
}

/* ---- The live log ---- */

/* The checksums that blocks from position `first` on must have; how many are on the device and still needed. */
static uint32_t log_expect(struct ash_log *log, uint64_t *first, uint32_t crc[LOG_BATCH])
{
	uint64_t tail = ash_lsn_position(log->tail_lsn), count;

	if (*first < tail)
		*first = tail;
	count = log->written > *first ? log->written - *first : 0;
	if (count > LOG_BATCH)
		count = LOG_BATCH;
	if (count > log->blocks - *first % log->blocks)
		count = log->blocks - *first % log->blocks;
	for (uint64_t i = 0; i < count; i++)
		crc[i] = log->crc[(*first + i) % log->blocks];
	return (uint32_t)count;
}

static void look_at_log_block(struct scrub *scrub, uint64_t position, const uint8_t *data, uint32_t crc)
{
	struct ash_log *log = scrub->volume->log;
	struct ash_block_id id = { log->first_block + position % log->blocks, ASH_MAGIC_LOG_BLOCK, position };
	const char *wrong = ash_header_wrong(scrub->volume, id, data, true);

	if (!wrong && ash_get32(((const struct ash_block_header *)data)->crc) != crc)
		wrong = "not what was written last";
	scrub_take_home(scrub, id.block, &(struct scrub_home){ .wrong = wrong });
}

static void phase_log(struct scrub *scrub)
{
	struct ash_volume *volume = scrub->volume;
	struct ash_log *log = volume->log;
	struct ash_scrub *state = scrub->state;
	uint64_t first = state->index, tail;
	uint32_t crc[LOG_BATCH], count = 0;
	int error;

	if (!volume->no_write && !atomic_load(&volume->failed)) {
		pthread_mutex_lock(&log->lock);
		/* no further than what there is now: the log never ends */
		if (!state->key)
			state->key = log->written;
		count = first < state->key ? log_expect(log, &first, crc) : 0;
		pthread_mutex_unlock(&log->lock);
	}
	if (!count) {
		scrub_next_phase(state);
		return;
	}
	error = scrub_device_read(scrub, scrub->ahead, log->first_block + first % log->blocks, count);
	scrub->ahead_count = 0;
	pthread_mutex_lock(&log->lock);
	tail = ash_lsn_position(log->tail_lsn);
	pthread_mutex_unlock(&log->lock);
	for (uint32_t i = 0; i < count; i++) {
		if (first + i < tail)
			continue; /* it may have been overwritten by now */
		if (error)
			scrub_problem(scrub, 0, log->first_block + (first + i) % log->blocks, "cannot be read");
		else
			look_at_log_block(scrub, first + i, scrub->ahead + i * (size_t)ASH_BLOCK_SIZE, crc[i]);
	}
	state->index = first + count;
}

/* ---- Groups ---- */

static const char *backup_wrong(struct scrub *scrub, uint64_t block)
{
	struct ash_block_id id = { block, ASH_MAGIC_SUPER, 0 };
	ash_wait_begin(scrub->volume);
	int error = bdev_read(scrub->volume->dev, scrub->device, ASH_BLOCK_SIZE, block * ASH_BLOCK_SIZE);
	ash_wait_end(scrub->volume);

	return error                                                    ? "backup superblock: cannot be read" :
	       ash_header_wrong(scrub->volume, id, scrub->device, true) ? "backup superblock is damaged" :
									  NULL;
}

/* A power cut may tear one, and nothing depends on it: named, and no more. Growth writes them, under rename_lock. */
static void look_at_backup(struct scrub *scrub, uint64_t block)
{
	const char *wrong = backup_wrong(scrub, block);

	if (wrong) {
		ash_lock_long(scrub->volume, &scrub->volume->rename_lock);
		if (block < scrub->volume->block_count)
			wrong = backup_wrong(scrub, block);
		pthread_mutex_unlock(&scrub->volume->rename_lock);
	}
	if (wrong)
		list(scrub->state, 0, block, wrong);
	else
		scrub->state->blocks++;
}

/* Fixed blocks and what lies behind a short group are never free. */
static const char *fixed_bits_wrong(const struct ash_volume *volume, uint64_t group,
				    const struct ash_bitmap_block *bitmap)
{
	uint32_t index = (uint32_t)group, size = ash_alloc_group_size(volume, index);
	uint64_t words[ASH_ALLOC_WORDS];
	const char *wrong;

	ash_alloc_bitmap_words(bitmap, words);
	wrong = ash_alloc_fixed_wrong(volume, index, words);
	if (!wrong && ash_busy_find(words, size, ASH_BLOCKS_PER_GROUP, false) < ASH_BLOCKS_PER_GROUP)
		wrong = "bitmap says that blocks behind the volume's end are free";
	return wrong;
}

static void look_at_bitmap(struct scrub *scrub, uint64_t group)
{
	struct ash_block_id id = { ash_group_bitmap(group), ASH_MAGIC_BLOCK_BITMAP, group };
	struct scrub_home home = scrub_home(scrub, id, scrub->block);
	const char *wrong;

	if (!scrub_take_home(scrub, id.block, &home))
		return;
	wrong = fixed_bits_wrong(scrub->volume, group, (const void *)scrub->block);
	if (wrong)
		scrub_problem(scrub, 0, id.block, wrong);
}

static void phase_groups(struct scrub *scrub)
{
	struct ash_scrub *state = scrub->state;
	uint64_t group = state->index++;

	if (group >= scrub->volume->group_count) {
		look_at_backup(scrub, scrub->volume->block_count - 1);
		scrub_next_phase(state);
		return;
	}
	if (group && ash_group_has_super(group))
		look_at_backup(scrub, ash_group_start(group));
	if (!scrub_group_uninit(scrub, group))
		look_at_bitmap(scrub, group);
}

/* ---- Steps ---- */

static void progress(const struct scrub *scrub)
{
	struct ash_scrub *state = scrub->state;
	uint64_t groups = scrub->volume->group_count, total, used;

	ash_itable_counts(scrub->volume, &total, &used);
	total /= ASH_INODES_PER_BLOCK;
	state->total = groups + total;
	state->done = state->phase < PHASE_GROUPS  ? 0 :
		      state->phase == PHASE_GROUPS ? state->index :
		      state->phase == PHASE_TABLE  ? groups :
		      state->phase == PHASE_INODES ? groups + state->index / ASH_INODES_PER_BLOCK :
						     state->total;
	if (state->done > state->total)
		state->done = state->total;
}

static void run(struct scrub *scrub)
{
	static void (*const phases[])(struct scrub * scrub) = {
		[PHASE_BEGIN] = phase_begin,   [PHASE_FIXED] = phase_fixed,       [PHASE_LOG] = phase_log,
		[PHASE_GROUPS] = phase_groups, [PHASE_TABLE] = scrub_phase_table, [PHASE_INODES] = scrub_phase_inodes,
	};
	struct ash_scrub *state = scrub->state;

	do
		phases[state->phase](scrub);
	while (state->phase != PHASE_END && !scrub_time_is_up(scrub));
	state->finished = state->phase == PHASE_END;
	progress(scrub);
}

#define BLOCKS_OF_STEP (ASH_TREE_MAX_LEVEL + 1 + SCRUB_BITMAPS + SCRUB_AHEAD + 3 + SCRUB_VALUE)

static void memory_divide(struct scrub *scrub, uint8_t *memory)
{
	for (unsigned i = 0; i <= ASH_TREE_MAX_LEVEL; i++, memory += ASH_BLOCK_SIZE)
		scrub->path[i].data = memory;
	for (unsigned i = 0; i < SCRUB_BITMAPS; i++, memory += ASH_BLOCK_SIZE)
		scrub->bitmaps[i].data = memory;
	scrub->ahead = memory;
	scrub->block = scrub->ahead + SCRUB_AHEAD * ASH_BLOCK_SIZE;
	scrub->device = scrub->block + ASH_BLOCK_SIZE;
	scrub->committed = scrub->device + ASH_BLOCK_SIZE;
	scrub->value = scrub->committed + ASH_BLOCK_SIZE;
	scrub_forget(scrub);
}

int ash_scrub(struct ash_volume *volume, struct ash_scrub *state)
{
	struct scrub scrub = { .volume = volume, .state = state, .sure = true };
	uint8_t *memory;

	state->finished = state->listed = state->reserved = 0;
	if (state->version != ASH_SCRUB_VERSION || state->phase >= PHASE_END || state->fork > SCRUB_FORK_ATTRIBUTE)
		return -EINVAL;
	memset(state->list, 0, sizeof(state->list));
	memory = bdev_buffer_alloc(BLOCKS_OF_STEP * (size_t)ASH_BLOCK_SIZE);
	if (!memory)
		return -ENOMEM;
	memory_divide(&scrub, memory);
	scrub.deadline = now_ns() + STEP_NS;
	run(&scrub);
	bdev_buffer_free(memory, BLOCKS_OF_STEP * (size_t)ASH_BLOCK_SIZE);
	return scrub.error;
}
