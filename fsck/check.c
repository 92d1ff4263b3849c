/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The rounds of a check.
 *
 * Passes 0 to 3 look at structure. When they repaired something, everything that was learnt may be wrong, so
 * they run again from the start, a few times at most; only on sound structure are bitmaps and counts compared (4, 5).
 * A check that only looks runs each pass once, but for passes 0 to 2 where names lead to lost runs. No locks, no global state.
 */
#include "internal.h"

#include <stdio.h>
#include <stdlib.h>

/* ---- One round's memory ---- */

static void round_free(struct checker *checker)
{
	map_close(&checker->found);
	map_close(&checker->twice);
	LIST_FREE(&checker->table);
	LIST_FREE(&checker->table_nodes);
	LIST_FREE(&checker->holes);
	LIST_FREE(&checker->directories);
	LIST_FREE(&checker->rebuilds);
	LIST_FREE(&checker->additions);
	LIST_FREE(&checker->losses);
	free(checker->runs);
	known_close(checker);
	free(checker->group_flags);
	free(checker->group_free);
	free(checker->table_block_good);
	checker->runs = NULL;
	checker->group_flags = checker->group_free = NULL;
	checker->table_block_good = NULL;
	checker->run_count = checker->inode_count = 0;
}

/* What is in use in any volume, besides each group's fixed blocks. */
static int round_begin(struct checker *checker)
{
	const struct ash_super *super = checker->super;
	int result;

	round_free(checker);
	checker->changed = false;
	checker->declined_before = checker->declined_count;
	checker->twice_count = 0;
	checker->next_free_block = 0;
	result = map_open(&checker->found, checker->block_count, true);
	if (!result)
		result = map_open(&checker->twice, checker->block_count, false);
	if (!result)
		result = map_set(&checker->found, ash_get64(super->group_table_start),
				 ash_get64(super->group_table_blocks), NULL, NULL);
	if (!result)
		result =
			map_set(&checker->found, ash_get64(super->log_start), ash_get64(super->log_blocks), NULL, NULL);
	if (!result)
		result = map_set(&checker->found, checker->block_count - 1, 1, NULL, NULL);
	return result;
}

/* ---- Passes ---- */

/* Go on with the next pass only when nothing waits to be repaired and nothing forbids to go on. */
static bool settled(const struct checker *checker)
{
	return !checker->rebuilds.count && !checker->changed && !checker->result->stopped;
}

/* Where the root has no place, nothing is connected to it, and nothing can be. */
static bool root_has_place(const struct checker *checker)
{
	uint64_t block;
	uint32_t offset;

	return !table_locate(checker, ASH_INO_ROOT, &block, &offset);
}

static int connect_and_rebuild(struct checker *checker, bool names_known)
{
	bool connected = settled(checker) && root_has_place(checker);
	int result = connected ? connect_check(checker) : 0;

	if (!result)
		result = table_holes_fill(checker);
	if (!result && checker->rebuilds.count)
		result = rebuild_all(checker, names_known);
	/* Where there was no space for any of them, there will not be another round for pass 3. */
	if (result || connected || !settled(checker) || !root_has_place(checker))
		return result;
	result = connect_check(checker);
	return result || !checker->rebuilds.count ? result : rebuild_all(checker, names_known);
}

static int structure(struct checker *checker)
{
	int result = round_begin(checker);
	bool names_known = false;

	if (!result)
		result = super_check(checker);
	if (!result)
		result = journal_settle(checker);
	if (!result)
		result = group_table_check(checker);
	if (!result)
		result = table_load(checker);
	if (!result && !checker->repair && !checker->inode_count)
		return 0;
	if (!result)
		result = inodes_check(checker);
	if (!result && checker->twice_count)
		result = claims_resolve(checker);
	if (!result && !checker->changed) {
		result = directories_check(checker);
		names_known = true;
	}
	if (!result)
		result = connect_and_rebuild(checker, names_known);
	return result ? result : check_cancelled(checker);
}

static int rounds(struct checker *checker)
{
	int result = 0;

	for (unsigned round = 0; round < MAX_ROUNDS && !result; round++) {
		result = structure(checker);
		if (result == -EAGAIN) { /* names lead behind the table: the next round looks for lost runs */
			checker->changed = true;
			result = 0;
			continue;
		}
		if (result || checker->result->stopped || !checker->changed)
			break;
	}
	if (!result && checker->changed) {
		snprintf(checker->result->error, sizeof(checker->result->error),
			 "%s: the structure is not sound after %u rounds of repair: run fsck.ashlar again",
			 bdev_name(checker->dev), MAX_ROUNDS);
		checker->result->left++;
		return 0;
	}
	if (!result && !(checker->repair && checker->result->left))
		result = backups_check(checker);
	if (!result && !checker->result->stopped)
		result = inode_bitmaps_check(checker);
	if (!result && !checker->result->stopped)
		result = bitmaps_check(checker);
	return result || checker->result->stopped ? result : totals_check(checker);
}

/* ---- Begin and end ---- */

static int checker_open(struct checker *checker)
{
	checker->super = bdev_buffer_alloc(ASH_BLOCK_SIZE);
	checker->scratch = bdev_buffer_alloc(2 * ASH_BLOCK_SIZE);
	checker->node_buffers = bdev_buffer_alloc(NODE_LEVELS * ASH_BLOCK_SIZE);
	return checker->super && checker->scratch && checker->node_buffers ? 0 : -ENOMEM;
}

static void checker_close(struct checker *checker)
{
	round_free(checker);
	journal_close(checker);
	free(checker->declined);
	free(checker->names);
	bdev_buffer_free(checker->super, ASH_BLOCK_SIZE);
	bdev_buffer_free(checker->scratch, 2 * ASH_BLOCK_SIZE);
	bdev_buffer_free(checker->node_buffers, NODE_LEVELS * ASH_BLOCK_SIZE);
	bdev_buffer_free(checker->value, ASH_XATTR_SIZE_MAX);
}

static void engine_mute(void *context, enum ash_log_level level, const char *text)
{
	(void)context;
	(void)level;
	(void)text;
}

/*
 * Would a mount take it, meet no damage, and find the log closed? It reads the group table, a backup of the superblock and
 * the extents of the inode table.
 */
static bool opens_clean(struct checker *checker)
{
	struct ash_open_options options = {
		.no_write = true, .no_threads = true, .skip_lock = true, .log = engine_mute
	};
	char error[BDEV_ERROR_TEXT];
	struct ash_volume_info info;
	struct ash_counters counters;
	struct ash_volume *volume;
	bool clean;

	if (ash_open(checker->dev, &options, &volume, error))
		return false;
	ash_counters(volume, &counters);
	clean = !ash_volume_info(volume, &info) && info.was_clean && !counters.damaged_blocks;
	ash_abandon(volume);
	return clean;
}

/* Does the log need something that cannot be read? Then a mount would not write. */
static bool log_closed(struct checker *checker)
{
	struct ash_overlay *overlay = NULL;
	char error[BDEV_ERROR_TEXT];
	const uint64_t *lost;
	size_t count;
	bool closed;

	if (ash_overlay_open(checker->dev, checker->super, &overlay, error))
		return false;
	ash_overlay_lost(overlay, &lost, &count);
	closed = ash_overlay_info(overlay)->clean && !ash_overlay_info(overlay)->end_unknown && !count;
	ash_overlay_close(overlay);
	return closed;
}

/* Quick answer for a volume that was closed in order. What a mount would refuse is not called clean. */
static bool may_skip(struct checker *checker)
{
	return checker->repair && !checker->options->force && !checker->options->super_block && !checker->super_from &&
	       !(ash_get32(checker->super->state) & ASH_STATE_ERRORS) && log_closed(checker) && opens_clean(checker);
}

/* What was found and is left is not forgotten: without the mark a closed log would make the next run skip the volume. */
static int left_remember(struct checker *checker)
{
	bool changed = checker->result->changed;
	int result;

	/* A log that could not be applied makes it check anyway, and is not to be written over. */
	if (!checker->result->left || !checker->log_clean || (ash_get32(checker->super->state) & ASH_STATE_ERRORS))
		return 0;
	result = mark_volume(checker);
	checker->result->changed = changed; /* nothing was repaired by that */
	return result;
}

/*
 * The mark goes last, when all else is durable; it stays, or is set, when something was left. A check that was cancelled
 * leaves the mark that its first write set: the next one finds the volume not clean.
 */
static int finish(struct checker *checker)
{
	const struct ash_check_result *found = checker->result;
	int result = 0;

	if (!checker->repair)
		return 0;
	if (found->changed)
		result = check_flush(checker);
	if (!result)
		result = left_remember(checker);
	if (result || found->left || found->cancelled || !(ash_get32(checker->super->state) & ASH_STATE_ERRORS))
		return result;
	checker->super->state = ash_put32(ash_get32(checker->super->state) & ~ASH_STATE_ERRORS);
	checker->marked = true;
	result = super_write_all(checker);
	return result ? result : check_flush(checker);
}

/*
 * Without a repair that was not made a check may be unable to go on. That is no failure of the check: where preen
 * stopped, or the user cancelled, the result says so.
 */
static bool ended_early(struct checker *checker, int error)
{
	struct ash_check_result *result = checker->result;
	uint64_t put_off = checker->rebuilds.count; /* to the end of the round, which did not come */

	if ((!result->stopped && !result->cancelled) || error == -EIO || error == -ENOMEM)
		return false;
	result->left += put_off;
	result->fixed -= put_off < result->fixed ? put_off : result->fixed;
	result->error[0] = 0;
	return true;
}

static int run(struct checker *checker)
{
	int result = checker_open(checker);

	if (!result)
		result = super_find(checker);
	if (result)
		return ended_early(checker, result) ? 0 : result; /* nothing is known yet that could be left */
	super_geometry(checker);
	if (may_skip(checker)) {
		checker->result->skipped = true;
		return 0;
	}
	if (checker->repair && bdev_geometry(checker->dev)->read_only)
		return -EROFS;
	result = journal_open(checker);
	if (!result)
		result = check_cancelled(checker);
	if (!result)
		result = rounds(checker);
	return result && !ended_early(checker, result) ? result : finish(checker);
}

int ash_check(struct bdev *dev, const struct ash_check_options *options, struct ash_check_result *result)
{
	struct checker checker = {
		.dev = dev, .options = options, .result = result, .repair = options->mode != ASH_CHECK_NO
	};
	int error;

	memset(result, 0, sizeof(*result));
	error = run(&checker);
	if (error && !result->error[0])
		snprintf(result->error, sizeof(result->error), "%s: %s", bdev_name(dev), strerror(-error));
	checker_close(&checker);
	return error;
}
