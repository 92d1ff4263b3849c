/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Setting the stage and recording: see stage.h. Time is the tests' own, so that the same workload writes the same
 * bytes every time. One thread.
 */
#include "stage.h"
#include "judge.h"

#include <ashlar/format.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "tests/model/observe.h"
#include "tests/support/record.h"

#define MOUNT_TIME 1700000000000000000

static bool went_wrong(char text[STAGE_TEXT], const char *what, const char *detail)
{
	snprintf(text, STAGE_TEXT, "%s: %.900s", what, detail);
	return false;
}

static uint64_t volume_bytes(const struct workload *workload)
{
	return (uint64_t)(workload->mib ? workload->mib : 6) << 20;
}

static uint64_t device_bytes(const struct workload *workload)
{
	return workload->device_mib ? (uint64_t)workload->device_mib << 20 : volume_bytes(workload);
}

static int format(const struct script *s, char *error)
{
	static const uint8_t key[32] = { 1, 2, 3 };
	struct ash_mkfs_options options = { .seed = key,
					    .now = MOUNT_TIME / 1000000000,
					    .no_discard = true,
					    .block_count = volume_bytes(s->workload) >> ASH_BLOCK_SHIFT,
					    .log_blocks = s->workload->log_blocks ? s->workload->log_blocks :
										    ASH_LOG_MIN_BLOCKS };

	return ash_mkfs(s->dev, &options, error);
}

static bool open_volume(struct script *s, char text[STAGE_TEXT])
{
	struct ash_open_options options = crash_open_options(s->workload);
	char error[BDEV_ERROR_TEXT] = "";
	struct ash_volume_info info;
	int code = ash_open(s->dev, &options, &s->runner.volume, error);

	if (code)
		return went_wrong(text, "mount", error[0] ? error : strerror(-code));
	ash_volume_info(s->runner.volume, &info);
	s->sizes[0] = info.block_count;
	return true;
}

static bool close_volume(struct script *s, char text[STAGE_TEXT])
{
	int code = ash_close(s->runner.volume);

	model_drop_references(&s->model);
	if (s->failed) {
		char detail[STAGE_TEXT];

		snprintf(detail, sizeof(detail), "%.200s: %.900s", s->failed_operation, s->runner.failure);
		return went_wrong(text, "wrong answer", detail);
	}
	return code ? went_wrong(text, "unmount", strerror(-code)) : true;
}

static struct script new_script(const struct stage *stage, const struct workload *workload)
{
	return (struct script){
		.workload = workload,
		.next_pattern = stage->next_pattern,
		.runner = { .clock = stage->clock, .may_be_full = workload->may_fill },
	};
}

/* ---- Before the recording ---- */

static bool set_up(struct script *s, char text[STAGE_TEXT])
{
	char error[BDEV_ERROR_TEXT + 300] = "";

	if (format(s, error))
		return went_wrong(text, "mkfs", error);
	if (!open_volume(s, text))
		return false;
	if (observe(s->runner.volume, &s->model, error, sizeof(error)))
		return went_wrong(text, "observing a new volume", error);
	if (s->workload->setup)
		s->workload->setup(s);
	return close_volume(s, text);
}

bool stage_set(struct stage *stage, const struct workload *workload, char text[STAGE_TEXT])
{
	uint64_t size = device_bytes(workload);
	struct script s;
	bool good;

	*stage = (struct stage){ .clock = MOUNT_TIME };
	s = new_script(stage, workload);
	s.arena = &stage->arena;
	s.runner.model = &s.model;
	test_clock_set(MOUNT_TIME);
	arena_init(&stage->arena, size);
	if (arena_device(&stage->arena, workload->fua, &s.dev))
		abort();
	good = set_up(&s, text);
	bdev_close(s.dev);
	if (good && workload->record_mkfs) { /* the base is an empty disk */
		arena_free(&stage->arena);
		arena_init(&stage->arena, size);
	}
	stage->model = s.model;
	stage->clock = s.runner.clock;
	stage->next_pattern = s.next_pattern;
	arena_init_like(&stage->scratch, &stage->arena);
	return good;
}

void stage_free(struct stage *stage)
{
	arena_free(&stage->arena);
	arena_free(&stage->scratch);
	model_free(&stage->model);
}

/* ---- The recording ---- */

/* The unmount is a sync: everything before it is due afterwards. */
static bool record_close(struct script *s, char text[STAGE_TEXT])
{
	struct op op = { .kind = OP_SYNC };
	size_t index = s->history.count;

	record_mark(s->dev, MARK_BEGIN(index));
	if (!close_volume(s, text))
		return false;
	record_mark(s->dev, MARK_END(index));
	history_add(&s->history, &op);
	return true;
}

bool stage_record(struct stage *stage, const struct workload *workload, struct script *s, char text[STAGE_TEXT])
{
	struct bdev *device;
	char error[BDEV_ERROR_TEXT] = "";

	*s = new_script(stage, workload);
	s->arena = &stage->scratch;
	s->runner.model = &s->model;
	test_clock_set(s->runner.clock);
	arena_restore(s->arena, &stage->arena);
	model_copy(&s->model, &stage->model);
	history_start(&s->history, &s->model);
	if (arena_device(s->arena, workload->fua, &device) || record_open(device, &s->dev))
		abort();
	if (workload->record_mkfs && format(s, error))
		return went_wrong(text, "mkfs", error);
	if (workload->record_mkfs)
		record_mark(s->dev, MARK_FORMATTED);
	if (!open_volume(s, text))
		return false;
	s->recording = true;
	workload->run(s);
	s->recording = false;
	return record_close(s, text);
}

void stage_strike(struct script *s)
{
	if (s->dev)
		bdev_close(s->dev);
	history_free(&s->history);
	model_free(&s->model);
	*s = (struct script){ 0 };
}

bool stage_accepts(const struct stage *stage, const struct workload *workload)
{
	struct script s = new_script(stage, workload);
	bool accepted;

	s.runner.model = &s.model;
	s.dry = true;
	model_copy(&s.model, &stage->model);
	workload->run(&s);
	accepted = !s.failed;
	model_free(&s.model);
	return accepted;
}
