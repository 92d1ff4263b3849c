/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The log. When nothing may be written it is replayed in memory and everything is read through that
 * overlay. When repairing, it is replayed for real by opening and closing the volume with the engine, so
 * that what follows works on a device that is current. A log that cannot be replayed is given up in two steps that
 * may be interrupted anywhere: first the images that replay did give are written home, then, after a flush,
 * the control blocks say that the log is empty.
 *
 * What the log needs and the device does not give (recover.h) keeps the engine from writing. Here it is given up, when that
 * is wanted, by writing the block anew with what is no block of ours. That heals most sectors, and it makes sure that
 * nothing old comes back under a log that went on; what follows is the ordinary way with a damaged block.
 *
 * No locks: one thread.
 */
#include "internal.h"

#include <stdio.h>
#include <stdlib.h>

/* ---- Control blocks ---- */

/* As replay judges them. */
static bool control_valid(struct checker *checker, uint64_t block, struct ash_log_control *out)
{
	if (bdev_read(checker->dev, checker->scratch, ASH_BLOCK_SIZE, block << ASH_BLOCK_SHIFT))
		return false;
	memcpy(out, checker->scratch, sizeof(*out));
	return !block_wrong(checker, out, block, ASH_MAGIC_LOG_CONTROL, 0) &&
	       ash_log_control_plausible(out, ash_get64(checker->super->log_blocks) - 2);
}

int journal_control(struct checker *checker, struct ash_log_control *out, uint64_t *block)
{
	uint64_t start = ash_get64(checker->super->log_start);
	struct ash_log_control controls[2];
	bool valid[2];
	unsigned best;

	for (unsigned i = 0; i < 2; i++)
		valid[i] = control_valid(checker, start + i, &controls[i]);
	if (!valid[0] && !valid[1])
		return -ENOENT;
	best = !valid[0] || (valid[1] && ash_get64(controls[1].sequence) > ash_get64(controls[0].sequence));
	*out = controls[best];
	*block = start + best;
	return 0;
}

/* Both blocks get the same content but for the sequence, the older place first. */
static int control_write(struct checker *checker, struct ash_log_control *control, uint64_t first)
{
	uint64_t start = ash_get64(checker->super->log_start), sequence = ash_get64(control->sequence);
	int result = 0;

	for (unsigned i = 0; i < 2 && !result; i++) {
		uint64_t block = start + (first - start + i) % 2;
		struct ash_log_control *copy = (void *)checker->scratch;

		block_begin(checker, copy, block, ASH_MAGIC_LOG_CONTROL, 0);
		memcpy((uint8_t *)copy + sizeof(copy->header), (const uint8_t *)control + sizeof(copy->header),
		       sizeof(*copy) - sizeof(copy->header));
		copy->sequence = ash_put64(sequence + 1 + i);
		result = block_write(checker, block, copy);
		if (!result)
			result = check_flush(checker);
	}
	return result;
}

int journal_totals(struct checker *checker, uint64_t free_blocks, uint64_t used_inodes)
{
	struct ash_log_control control;
	uint64_t block;
	int result = journal_control(checker, &control, &block);

	if (result)
		return result;
	control.free_blocks = ash_put64(free_blocks);
	control.used_inodes = ash_put64(used_inodes);
	return control_write(checker, &control, block == ash_get64(checker->super->log_start) ? block + 1 : block - 1);
}

/* ---- Unreadable blocks ---- */

/* Neither a header nor, in any of eight places, an inode record, in use or free. */
static int block_give_up(struct checker *checker, uint64_t block)
{
	memset(checker->scratch, 0xff, ASH_BLOCK_SIZE);
	return block_write_raw(checker, block, checker->scratch, 1);
}

/* Block 0 has copies, and is restored from them: see super.c. */
static int lost_give_up(struct checker *checker, const struct ash_overlay *overlay)
{
	const uint64_t *blocks;
	size_t count;
	int result = 0;

	ash_overlay_lost(overlay, &blocks, &count);
	for (size_t i = 0; i < count && !result; i++)
		if (blocks[i] && extent_inside(checker, blocks[i], 1))
			result = block_give_up(checker, blocks[i]);
	return result;
}

/* A block of which nothing is needed and that cannot even be written is no reason to end the check. */
static void dead_block_renew(struct checker *checker, uint64_t block)
{
	if (block_give_up(checker, block))
		repair_refused(checker, "log block", block);
}

static int kept_back(struct checker *checker)
{
	snprintf(checker->result->error, sizeof(checker->result->error),
		 "%s: the log cannot be replayed without giving up what cannot be read", bdev_name(checker->dev));
	return -EUCLEAN;
}

/* Without the block at its end the log would be damaged, for its epoch begins behind that: what it holds would be lost. */
static bool end_is_needed(const struct ash_overlay_info *info)
{
	return info->end_unknown && info->end_position < ash_get64(info->control.epoch_position);
}

/*
 * Ask about all that the overlay could not read and, when repairing, give it up. -EUCLEAN: that is not wanted. *ends, when
 * repairing: the log itself is to be given up, with nothing in it touched yet.
 */
static int unreadable_resolve(struct checker *checker, const struct ash_overlay *overlay, bool *ends)
{
	bool end = ash_overlay_info(overlay)->end_unknown, wanted = true;
	const uint64_t *ring, *lost;
	size_t count, controls, lost_count;
	int result = 0;

	ash_overlay_unreadable(overlay, &ring, &count, &controls);
	ash_overlay_lost(overlay, &lost, &lost_count);
	for (size_t i = 0; i < lost_count; i++)
		wanted &= problem(checker, PROBLEM_LOG_HOME_UNREADABLE, &(struct problem_context){ .block = lost[i] });
	for (size_t i = 0; i < count; i++) {
		bool fix = problem(checker, end ? PROBLEM_LOG_END_UNREADABLE : PROBLEM_LOG_UNREADABLE,
				   &(struct problem_context){ .block = ring[i] });

		if (end)
			wanted &= fix;
		else if (fix)
			dead_block_renew(checker, ring[i]);
	}
	if (!checker->repair)
		return 0;
	if (!wanted)
		return kept_back(checker);
	*ends = end_is_needed(ash_overlay_info(overlay));
	if (*ends)
		return 0;
	for (size_t i = 0; end && i < count && !result; i++)
		result = block_give_up(checker, ring[i]);
	if (!result)
		result = lost_give_up(checker, overlay);
	return result || !checker->result->changed ? result : check_flush(checker);
}

/* ---- An empty log ---- */

/* More than any log of ours reaches, and far enough below what a control block can say (recover.h). */
#define HORIZON_POSITION (1ull << 39)
#define HORIZON_EPOCH (1ull << 31)

/* A block that replay would take for one of this log. It does not look at the address. */
static bool ring_block_good(const struct checker *checker, const struct ash_log_block *block)
{
	return ash_get32(block->header.magic) == ASH_MAGIC_LOG_BLOCK &&
	       ash_get32(block->header.crc) == ash_block_crc(checker->seed, block) &&
	       !memcmp(block->header.metadata_uuid, checker->super->header.metadata_uuid, 16);
}

/*
 * The newest position and epoch that any block of the log carries: a new log begins behind both. A block behind which none
 * can begin, or that is not in its place, is written over, for it would contradict every log; so is one that cannot be
 * read, for it may be there again.
 */
static int log_horizon(struct checker *checker, uint64_t *position, uint64_t *epoch)
{
	uint64_t start = ash_get64(checker->super->log_start), blocks = ash_get64(checker->super->log_blocks);
	const struct ash_log_block *block = (const void *)checker->scratch;

	for (uint64_t i = 2; i < blocks; i++) {
		uint64_t own, its_epoch;
		int result;

		if (bdev_read(checker->dev, checker->scratch, ASH_BLOCK_SIZE, (start + i) << ASH_BLOCK_SHIFT)) {
			block_give_up(checker, start + i);
			continue;
		}
		if (!ring_block_good(checker, block))
			continue;
		own = ash_get64(block->header.owner);
		its_epoch = ash_get64(block->epoch);
		if (own >= HORIZON_POSITION || its_epoch >= HORIZON_EPOCH ||
		    ash_get64(block->header.address) != start + i) {
			result = block_give_up(checker, start + i);
			if (result)
				return result;
			continue;
		}
		*position = own >= *position ? own + 1 : *position;
		*epoch = its_epoch > *epoch ? its_epoch : *epoch;
	}
	return check_flush(checker);
}

static int log_reset(struct checker *checker)
{
	struct ash_log_control control;
	uint64_t block, position = 0, epoch = 0;
	uint64_t start = ash_get64(checker->super->log_start);
	int result;

	if (journal_control(checker, &control, &block)) {
		memset(&control, 0, sizeof(control));
		block = start + 1;
	}
	position = ash_get64(control.tail_position);
	epoch = ash_get64(control.epoch);
	result = log_horizon(checker, &position, &epoch);
	if (result)
		return result;
	control.epoch = ash_put64(epoch + 1);
	control.tail_position = control.epoch_position = ash_put64(position);
	control.tail_lsn = ash_put64(position * ASH_LOG_PAYLOAD);
	control.tail_previous_crc = ash_put32(0);
	control.clean = ash_put32(1);
	return control_write(checker, &control, block == start ? start + 1 : start);
}

static int write_image(void *context, uint64_t block, const uint8_t *image)
{
	struct checker *checker = context;

	if (!extent_inside(checker, block, 1))
		return 0;
	memcpy(checker->scratch, image, ASH_BLOCK_SIZE);
	return block_write_raw(checker, block, checker->scratch, 1);
}

/* Block 0 as it is in the log, or has come home from it, may be better than what was found at first, or of a larger volume. */
static void super_take(struct checker *checker, const void *fresh)
{
	int error;

	if (checker->outvoted || super_wrong(fresh, 0, bdev_geometry(checker->dev)->size >> ASH_BLOCK_SHIFT, &error))
		return;
	memcpy(checker->super, fresh, sizeof(*checker->super));
	checker->super_from = 0;
	checker->stale_super = false;
	super_geometry(checker);
}

static void super_again(struct checker *checker)
{
	if (!block_read(checker, 0, checker->scratch))
		super_take(checker, checker->scratch);
}

/* The image of block 0 has gone home over the mark: it is set again before the log ends. */
static int mark_again(struct checker *checker)
{
	int result = check_flush(checker);

	super_again(checker);
	checker->marked = false;
	return result;
}

/* In a volume that grew in the log are images of blocks behind the end that block 0 tells of at home. */
static int images_home(struct checker *checker, const struct ash_overlay *overlay)
{
	const uint8_t *super = ash_overlay_block(overlay, 0);
	int result;

	if (super)
		super_take(checker, super);
	result = ash_overlay_each(overlay, write_image, checker);
	if (!result)
		result = lost_give_up(checker, overlay);
	return !result && super ? mark_again(checker) : result;
}

static int log_give_up(struct checker *checker)
{
	struct ash_overlay *overlay = NULL;
	char error[BDEV_ERROR_TEXT];
	int result = ash_overlay_open(checker->dev, checker->super, &overlay, error);

	/* damaged, it is given up; with want of memory it is not known to be */
	if (result == -ENOMEM)
		return result;
	result = overlay ? images_home(checker, overlay) : 0;
	ash_overlay_close(overlay);
	if (!result)
		result = check_flush(checker);
	return result ? result : log_reset(checker);
}

/* ---- Replay for real ---- */

static void engine_says(void *context, enum ash_log_level level, const char *text)
{
	(void)level;
	say(context, "%s", text);
}

/* A volume that the engine opened without writing was not replayed: something has become unreadable just now. */
static int engine_close(struct checker *checker, struct ash_volume *volume)
{
	struct ash_volume_info info;
	int result = ash_volume_info(volume, &info);

	if (!result && info.no_write) {
		ash_abandon(volume);
		snprintf(checker->result->error, sizeof(checker->result->error), "blocks that it needs cannot be read");
		return -EUCLEAN;
	}
	checker->result->changed = true;
	result = ash_close(volume);
	if (result)
		snprintf(checker->result->error, sizeof(checker->result->error), "writing what the log holds: %s",
			 strerror(-result));
	return result;
}

static int replay(struct checker *checker)
{
	struct ash_open_options options = { .no_threads = true,
					    .skip_lock = true,
					    .continue_on_damage = true,
					    .foreign_backups = true,
					    .log = engine_says,
					    .context = checker };
	struct problem_context context = { .why = checker->result->error };
	struct ash_volume *volume;
	bool opened = false;
	int result = -EUCLEAN;

	/* The engine would believe block 0, and copy it to the backups. */
	if (checker->outvoted || checker->behind)
		snprintf(checker->result->error, sizeof(checker->result->error), "the superblock is not to be trusted");
	else
		result = ash_open(checker->dev, &options, &volume, checker->result->error);
	opened = !result;
	if (opened)
		result = engine_close(checker, volume);
	super_again(checker); /* however it ended, it may have got as far as writing block 0 */
	if (!result) {
		say(checker, "%s: log replayed", bdev_name(checker->dev));
		return 0;
	}
	/* what the engine could not read before it wrote anything is repaired by the passes, as what is damaged is */
	if ((result == -EIO && opened) || result == -ENOMEM || result == -EBUSY)
		return result;
	if (!problem(checker, PROBLEM_LOG_REPLAY, &context))
		return result;
	checker->result->error[0] = 0;
	return log_give_up(checker);
}

/* ---- Opening ---- */

static int report_damaged(struct checker *checker)
{
	const uint64_t *blocks;
	size_t count;

	ash_overlay_damaged(checker->overlay, &blocks, &count);
	for (size_t i = 0; i < count; i++)
		problem(checker, PROBLEM_LOG_DAMAGED_BLOCK, &(struct problem_context){ .block = blocks[i] });
	return 0;
}

static int note_image(void *context, uint64_t block, const uint8_t *image)
{
	struct checker *checker = context;

	(void)image;
	return LIST_ADD(&checker->images, block);
}

static int compare_blocks(const void *a, const void *b)
{
	const uint64_t *x = a, *y = b;

	return *x < *y ? -1 : *x > *y;
}

/* What the device has is not what is read there. */
static int note_images(struct checker *checker)
{
	const uint64_t *lost;
	size_t count;
	int result = ash_overlay_each(checker->overlay, note_image, checker);

	ash_overlay_lost(checker->overlay, &lost, &count);
	for (size_t i = 0; i < count && !result; i++)
		result = LIST_ADD(&checker->images, lost[i]);
	if (checker->images.count)
		qsort(checker->images.items, checker->images.count, sizeof(*checker->images.items), compare_blocks);
	return result;
}

static int overlay_open(struct checker *checker)
{
	struct problem_context context = { .why = checker->result->error };
	int result = ash_overlay_open(checker->dev, checker->super, &checker->overlay, checker->result->error);
	bool ends = false;

	if (result == -ENOMEM || result == -EIO)
		return result;
	if (result) {
		checker->overlay = NULL;
		problem(checker, PROBLEM_LOG_REPLAY, &context);
		checker->result->error[0] = 0;
		return 0;
	}
	result = note_images(checker);
	if (result)
		return result;
	ash_overlay_orphans(checker->overlay, &checker->orphans, &checker->orphan_count);
	checker->log_clean = ash_overlay_info(checker->overlay)->clean;
	report_damaged(checker);
	unreadable_resolve(checker, checker->overlay, &ends);
	super_again(checker);
	return 0;
}

/* The superblock in use is a backup, which tells where the log is, and nobody has accepted it yet. */
static bool super_unsettled(const struct checker *checker)
{
	return checker->repair && checker->super_from && !checker->restore;
}

static int controls_check(struct checker *checker)
{
	uint64_t start = ash_get64(checker->super->log_start), good;
	struct ash_log_control control;

	if (journal_control(checker, &control, &good)) {
		if (problem(checker, PROBLEM_LOG_CONTROL_BOTH, NULL))
			return log_give_up(checker);
		if (!checker->repair)
			return 0;
		snprintf(checker->result->error, sizeof(checker->result->error),
			 "%s: nothing more can be repaired without a log", bdev_name(checker->dev));
		return -EUCLEAN;
	}
	checker->log_clean = ash_get32(control.clean) == 1;
	checker->controls_wait = super_unsettled(checker);
	for (uint64_t block = start; block < start + 2 && !checker->controls_wait; block++) {
		struct ash_log_control other;
		struct problem_context context = { .block = block };

		if (!control_valid(checker, block, &other) && problem(checker, PROBLEM_LOG_CONTROL_ONE, &context) &&
		    checker->log_clean)
			return control_write(checker, &control, block);
	}
	return 0;
}

int journal_settle(struct checker *checker)
{
	return checker->controls_wait && !super_unsettled(checker) ? controls_check(checker) : 0;
}

bool journal_grows(struct checker *checker)
{
	struct ash_overlay *overlay = NULL;
	char error[BDEV_ERROR_TEXT];
	const struct ash_super *super = NULL;

	if (!ash_overlay_open(checker->dev, checker->super, &overlay, error))
		super = (const void *)ash_overlay_block(overlay, 0);
	bool grows = super && ash_get64(super->block_count) > ash_get64(checker->super->block_count);
	ash_overlay_close(overlay);
	return grows;
}

/* Is block 0, as the log leaves it, older than a backup? */
static bool super_is_behind(struct checker *checker, const struct ash_overlay *overlay)
{
	const struct ash_super *super = (const void *)ash_overlay_block(overlay, 0);

	if (!super)
		super = checker->super;
	return backups_count_runs(checker, super) > ash_get64(super->inode_runs);
}

/* The overlay knows whether records follow the control block's tail. A log that it cannot follow is not clean. */
static int journal_look(struct checker *checker, bool *clean, bool *ends)
{
	struct ash_overlay *overlay = NULL;
	char error[BDEV_ERROR_TEXT];
	int result = ash_overlay_open(checker->dev, checker->super, &overlay, error);

	*clean = *ends = false;
	if (result)
		return result == -EIO || result == -ENOMEM ? result : 0;
	*clean = ash_overlay_info(overlay)->clean;
	checker->behind = super_is_behind(checker, overlay);
	result = unreadable_resolve(checker, overlay, ends);
	ash_overlay_close(overlay);
	return result;
}

/* The engine leaves orphans that it cannot release in its log. From now on they are judged by their records alone. */
static int journal_apply(struct checker *checker)
{
	bool clean, ends;
	int result = journal_look(checker, &clean, &ends);

	if (result || clean)
		return result;
	if (!ends)
		result = replay(checker);
	if (!result && !ends)
		result = journal_look(checker, &clean, &ends);
	return result || clean ? result : log_give_up(checker);
}

int journal_open(struct checker *checker)
{
	struct ash_log_control control;
	uint64_t block;
	int result;

	if (!checker->repair) {
		result = controls_check(checker);
		if (!result && !journal_control(checker, &control, &block))
			result = overlay_open(checker);
		return result;
	}
	if (!journal_control(checker, &control, &block))
		result = journal_apply(checker);
	else
		result = controls_check(checker);
	if (!result)
		result = controls_check(checker);
	checker->log_clean = true;
	return result;
}

void journal_close(struct checker *checker)
{
	if (checker->overlay)
		ash_overlay_close(checker->overlay);
	checker->overlay = NULL;
	LIST_FREE(&checker->images);
	checker->orphans = NULL;
	checker->orphan_count = 0;
}
