/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The log. When nothing may be written it is replayed in memory and everything is read through that
 * overlay. When repairing, it is replayed for real by opening and closing the volume with the engine, so
 * that what follows works on a device that is current. A log that cannot be replayed is given up in two steps that
 * may be interrupted anywhere: first the images that replay did give are written home, then, after a flush,
 * the control blocks say that the log is empty.
 *
 * No locks: one thread.
 */
#include "internal.h"

#include <stdio.h>

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

/* ---- An empty log ---- */

/* The newest position and epoch that any block of the log carries: a new log begins behind both. */
static int log_horizon(struct checker *checker, uint64_t *position, uint64_t *epoch)
{
	uint64_t start = ash_get64(checker->super->log_start), blocks = ash_get64(checker->super->log_blocks);

	for (uint64_t i = 2; i < blocks; i++) {
		const struct ash_log_block *block = (const void *)checker->scratch;
		uint64_t own;

		if (bdev_read(checker->dev, checker->scratch, ASH_BLOCK_SIZE, (start + i) << ASH_BLOCK_SHIFT))
			continue;
		own = ash_get64(block->header.owner);
		if (block_wrong(checker, block, start + i, ASH_MAGIC_LOG_BLOCK, own))
			continue;
		if (own >= *position && own < 1ull << 39)
			*position = own + 1;
		if (ash_get64(block->epoch) > *epoch && ash_get64(block->epoch) < UINT32_MAX / 2)
			*epoch = ash_get64(block->epoch);
	}
	return 0;
}

static int log_reset(struct checker *checker)
{
	struct ash_log_control control;
	uint64_t block, position = 0, epoch = 0;
	uint64_t start = ash_get64(checker->super->log_start);

	if (journal_control(checker, &control, &block)) {
		memset(&control, 0, sizeof(control));
		block = start + 1;
	}
	position = ash_get64(control.tail_position);
	epoch = ash_get64(control.epoch);
	log_horizon(checker, &position, &epoch);
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

static int log_give_up(struct checker *checker)
{
	struct ash_overlay *overlay = NULL;
	char error[BDEV_ERROR_TEXT];
	int result = 0;

	if (!ash_overlay_open(checker->dev, checker->super, &overlay, error)) {
		result = ash_overlay_each(overlay, write_image, checker);
		ash_overlay_close(overlay);
	}
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

static int replay(struct checker *checker)
{
	struct ash_open_options options = { .no_threads = true,
					    .skip_lock = true,
					    .continue_on_damage = true,
					    .log = engine_says,
					    .context = checker };
	struct problem_context context = { .why = checker->result->error };
	struct ash_volume *volume;
	int result = -EUCLEAN;

	/* The engine would believe block 0. */
	if (checker->outvoted)
		snprintf(checker->result->error, sizeof(checker->result->error), "the superblock is not to be trusted");
	else
		result = ash_open(checker->dev, &options, &volume, checker->result->error);
	if (!result) {
		checker->result->changed = true;
		result = ash_close(volume);
		if (result)
			snprintf(checker->result->error, sizeof(checker->result->error),
				 "writing what the log holds: %s", strerror(-result));
	}
	if (!result) {
		say(checker, "%s: log replayed", bdev_name(checker->dev));
		return 0;
	}
	if (result == -EIO || result == -ENOMEM || result == -EBUSY)
		return result;
	if (!problem(checker, PROBLEM_LOG_REPLAY, &context))
		return result;
	checker->result->error[0] = 0;
	return log_give_up(checker);
}

/* ---- Opening ---- */

/* After the log has been applied, block 0 may be better than what was found at first. */
static int super_again(struct checker *checker)
{
	struct ash_super *fresh = (void *)checker->scratch;
	int error = block_read(checker, 0, fresh);

	if (!error && !checker->outvoted &&
	    !super_wrong(fresh, 0, bdev_geometry(checker->dev)->size >> ASH_BLOCK_SHIFT, &error)) {
		*checker->super = *fresh;
		checker->super_from = 0;
		checker->stale_super = false;
		super_geometry(checker);
	}
	return 0;
}

static int report_damaged(struct checker *checker)
{
	const uint64_t *blocks;
	size_t count;

	ash_overlay_damaged(checker->overlay, &blocks, &count);
	for (size_t i = 0; i < count; i++)
		problem(checker, PROBLEM_LOG_DAMAGED_BLOCK, &(struct problem_context){ .block = blocks[i] });
	return 0;
}

static int overlay_open(struct checker *checker)
{
	struct problem_context context = { .why = checker->result->error };
	int result = ash_overlay_open(checker->dev, checker->super, &checker->overlay, checker->result->error);

	if (result == -ENOMEM || result == -EIO)
		return result;
	if (result) {
		checker->overlay = NULL;
		problem(checker, PROBLEM_LOG_REPLAY, &context);
		checker->result->error[0] = 0;
		return 0;
	}
	ash_overlay_orphans(checker->overlay, &checker->orphans, &checker->orphan_count);
	checker->log_clean = ash_overlay_info(checker->overlay)->clean;
	report_damaged(checker);
	return super_again(checker);
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
	for (uint64_t block = start; block < start + 2; block++) {
		struct ash_log_control other;
		struct problem_context context = { .block = block };

		if (!control_valid(checker, block, &other) && problem(checker, PROBLEM_LOG_CONTROL_ONE, &context) &&
		    checker->log_clean)
			return control_write(checker, &control, block);
	}
	return 0;
}

int journal_open(struct checker *checker)
{
	struct ash_overlay *overlay = NULL;
	struct ash_log_control control;
	uint64_t block;
	char error[BDEV_ERROR_TEXT];
	bool clean = false;
	int result;

	if (!checker->repair) {
		result = controls_check(checker);
		if (!result && !journal_control(checker, &control, &block))
			result = overlay_open(checker);
		return result;
	}
	/* The overlay knows whether records follow the control block's tail. */
	if (!journal_control(checker, &control, &block)) {
		result = ash_overlay_open(checker->dev, checker->super, &overlay, error);
		if (result == -EIO || result == -ENOMEM)
			return result;
		clean = !result && ash_overlay_info(overlay)->clean;
		ash_overlay_close(overlay);
		result = clean ? 0 : replay(checker);
	} else {
		result = controls_check(checker);
	}
	if (!result)
		result = super_again(checker);
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
	checker->orphans = NULL;
	checker->orphan_count = 0;
}
