/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The verdict on one crash image: see judge.h. The order matters: the oracle sees what recovery made of the image
 * before anything else is done to it; then an orderly unmount, fsck, and a second look: what recovery had only in memory is on
 * the disk by then, and must not have hit anybody's data. One thread.
 */
#include "judge.h"
#include "tests/model/observe.h"
#include "tests/support/backup.h"

#include <ashlar/format.h>
#include <errno.h>
#include <fsck/check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void silent(void *context, enum ash_log_level level, const char *text)
{
	(void)context;
	(void)level;
	if (getenv("CRASH_LOG"))
		fprintf(stderr, "log: %s\n", text);
}

struct ash_open_options crash_open_options(const struct workload *workload)
{
	return (struct ash_open_options){
		.no_threads = true,
		.no_write_behind = workload->write_through,
		.discard = workload->discard,
		.atime = ASH_ATIME_NONE,
		.cache_bytes = 1 << 20,
		.write_behind_bytes = 8 << 20,
		.log = silent,
		.commit_seconds = 3600,
	};
}

static bool wrong(char text[VERDICT_TEXT], const char *what, const char *detail)
{
	snprintf(text, VERDICT_TEXT, "%s: %.1000s", what, detail);
	return false;
}

/* To fsck this is a note, and it looks only when the log was closed: then they agree. */
static void note_backup(void *context, const struct ash_check_problem *problem)
{
	if (!strcmp(problem->code, "backup-stale"))
		snprintf(context, VERDICT_TEXT, "%s", problem->message);
}

static bool check(const struct judgement *j, const char *when, char text[VERDICT_TEXT])
{
	char stale[VERDICT_TEXT] = "";
	struct ash_check_options options = {
		.mode = ASH_CHECK_NO, .no_threads = true, .report = note_backup, .context = stale
	};
	struct ash_check_result result = { 0 };
	int error = ash_check(j->dev, &options, &result);

	if (error)
		return wrong(text, when, result.error[0] ? result.error : strerror(-error));
	if (result.problems)
		return wrong(text, when, result.first);
	return stale[0] ? wrong(text, when, stale) : true;
}

/* ---- Sizes ---- */

/* While it grows: block 0 is on its way. */
static bool some_backup(const struct judgement *j, char text[VERDICT_TEXT])
{
	for (size_t i = 0; i < j->size_count; i++) {
		if (backup_is_good(j->dev, j->sizes[i] - 1))
			return true;
		for (uint64_t group = 1; ash_group_start(group) < j->sizes[i]; group++) {
			if (ash_group_has_super(group) && backup_is_good(j->dev, ash_group_start(group)))
				return true;
		}
	}
	return wrong(text, "superblock", "no backup is good");
}

static bool size_fits(const struct judgement *j, struct ash_volume *volume, char text[VERDICT_TEXT])
{
	struct ash_volume_info info;
	char detail[40];

	if (!j->size_count)
		return true;
	ash_volume_info(volume, &info);
	for (size_t i = 0; i < j->size_count; i++) {
		if (info.block_count == j->sizes[i])
			return true;
	}
	snprintf(detail, sizeof(detail), "%llu blocks", (unsigned long long)info.block_count);
	return wrong(text, "a size that it must not have", detail);
}

static bool grow(const struct judgement *j, struct ash_volume *volume, char text[VERDICT_TEXT])
{
	const uint64_t blocks = bdev_geometry(j->dev)->size >> ASH_BLOCK_SHIFT;
	struct judgement after = { .sizes = &blocks, .size_count = 1 };
	int error = ash_grow(volume, blocks);

	return error ? wrong(text, "growing after recovery", strerror(-error)) : size_fits(&after, volume, text);
}

/* ---- The volume ---- */

static bool explained(const struct judgement *j, struct ash_volume *volume, struct model *observed,
		      char text[VERDICT_TEXT])
{
	char reason[800];
	size_t prefix;
	bool good = observe(volume, observed, reason, sizeof(reason)) == 0;

	if (good && !j->may_be_unformatted) /* while mkfs runs there is no model */
		good = history_explains(&j->script->history, j->moment, observed, &prefix, reason, sizeof(reason));
	return good ? true : wrong(text, "oracle", reason);
}

/* After the unmount everything must be as it was seen before. */
static bool unchanged(const struct judgement *j, const struct model *before, char text[VERDICT_TEXT])
{
	struct ash_open_options options = crash_open_options(j->script->workload);
	struct ash_volume *volume;
	struct model observed;
	char reason[BDEV_ERROR_TEXT + 300] = "";
	bool good;
	int error;

	options.no_write = options.read_only = true;
	error = ash_open(j->dev, &options, &volume, reason);
	if (error)
		return wrong(text, "second mount", reason[0] ? reason : strerror(-error));
	good = observe(volume, &observed, reason, sizeof(reason)) == 0 &&
	       models_equal(before, &observed, COMPARE_CONTENT, reason, sizeof(reason));
	model_free(&observed);
	error = ash_close(volume);
	if (good && error)
		return wrong(text, "unmount of a read-only volume", strerror(-error));
	return good ? true : wrong(text, "after recovery, unmount and mount", reason);
}

/* A recovered volume must be usable: what it thinks is free is free. */
static bool use(struct ash_volume *volume, char text[VERDICT_TEXT])
{
	struct ash_create create = { .mode = S_IFREG | 0600 };
	struct ash_attr attr;
	unsigned char *data = test_alloc(20000);
	int error = ash_create(volume, 1, "used-after-recovery", &create, &attr);
	int64_t written = 0;

	memset(data, 0x5a, 20000);
	if (!error) {
		written = ash_write(volume, attr.ino, data, 20000, 0, 0);
		if (written >= 0)
			error = ash_fsync(volume, attr.ino, false);
		ash_forget(volume, attr.ino, 1);
	}
	free(data);
	if ((error && error != -ENOSPC && error != -EEXIST) || (written < 0 && written != -ENOSPC))
		return wrong(text, "writing after recovery", strerror(error ? -error : (int)-written));
	return true;
}

/* A crash damages nothing: whatever is torn, the log must mend. */
static bool nothing_damaged(struct ash_volume *volume, char text[VERDICT_TEXT])
{
	struct ash_counters counters;
	char detail[60];

	ash_counters(volume, &counters);
	snprintf(detail, sizeof(detail), "%llu", (unsigned long long)counters.damaged_blocks);
	return counters.damaged_blocks ? wrong(text, "damaged blocks after recovery", detail) : true;
}

static bool judge_volume(const struct judgement *j, struct ash_volume *volume, char text[VERDICT_TEXT])
{
	struct model observed;
	bool good = explained(j, volume, &observed, text);
	int error;

	good = good && (j->may_be_unformatted || (nothing_damaged(volume, text) && size_fits(j, volume, text)));
	good = good && (!j->grow_after || grow(j, volume, text));
	good = good && (!j->use_after || use(volume, text));
	error = ash_close(volume);
	if (good && error)
		good = wrong(text, "unmount", strerror(-error));
	good = good && check(j, "fsck", text) && (j->use_after || unchanged(j, &observed, text));
	model_free(&observed);
	return good;
}

bool judge(const struct judgement *j, char text[VERDICT_TEXT])
{
	struct ash_open_options options = crash_open_options(j->script->workload);
	struct ash_volume *volume;
	char error_text[BDEV_ERROR_TEXT] = "";
	int error;

	if (j->size_count > 1 && !some_backup(j, text))
		return false;
	if (j->check_before && !j->may_be_unformatted && !check(j, "fsck before recovery", text))
		return false;
	error = ash_open(j->dev, &options, &volume, error_text);
	if (error && j->may_be_unformatted)
		return true;
	if (error)
		return wrong(text, "mount", error_text[0] ? error_text : strerror(-error));
	return judge_volume(j, volume, text);
}
