/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * mkfs and the check as a library, for want of memory at every place: they say so, or do without, and never say that a damaged volume
 * is good or a good one damaged. What a repair left half done the next one finishes. One thread.
 */
#include "alloc.h"
#include "subject.h"

#include <ashlar/format.h>
#include <errno.h>
#include <fsck/check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct checked {
	const struct fault_workload *source;
	struct injector *in;
	struct stage stage;
	struct bdev *dev;
	bool bad;
	char text[VERDICT_TEXT];
};

static void wrong(struct checked *c, const char *what, const char *detail)
{
	if (!c->bad)
		snprintf(c->text, sizeof(c->text), "%s: %.700s", what, detail);
	c->bad = true;
}

static uint32_t magic_at(const struct checked *c, uint64_t offset)
{
	uint32_t magic;

	memcpy(&magic, c->stage.arena.work + offset, sizeof(magic));
	return le32toh(magic);
}

/* A bitmap, a tree node and an inode record lose a byte each. */
static void damage(struct checked *c)
{
	unsigned bitmaps = 0, nodes = 0, records = 0;

	for (uint64_t at = 0; at < c->stage.arena.size; at += ASH_INODE_SIZE) {
		uint32_t magic = magic_at(c, at);
		bool hit = (magic == ASH_MAGIC_BLOCK_BITMAP && at % ASH_BLOCK_SIZE == 0 && !bitmaps++) ||
			   (magic == ASH_MAGIC_TREE_NODE && at % ASH_BLOCK_SIZE == 0 && ++nodes == 1) ||
			   (magic == ASH_MAGIC_INODE && ++records == 12);

		if (hit)
			arena_write(&c->stage.arena, at + 200, "\x5a", 1);
	}
	arena_accept(&c->stage.arena);
}

static int check(struct checked *c, enum ash_check_mode mode, struct ash_check_result *result)
{
	struct ash_check_options options = { .mode = mode, .force = true, .no_threads = true };

	memset(result, 0, sizeof(*result));
	return ash_check(c->dev, &options, result);
}

static int make(struct checked *c)
{
	static const uint8_t key[32] = { 7 };
	struct ash_mkfs_options options = { .log_blocks = ASH_LOG_MIN_BLOCKS, .seed = key, .now = 1700000000 };

	return ash_mkfs(c->dev, &options, NULL);
}

/* What the call gives when nothing fails. */
static struct ash_check_result reference(struct checked *c)
{
	struct ash_check_result result = { 0 };

	if (c->source->special != SPECIAL_MKFS && check(c, ASH_CHECK_NO, &result))
		wrong(c, "without a fault", result.error);
	if (c->source->damaged && !result.problems)
		wrong(c, "without a fault", "the damage is not seen");
	return result;
}

static void verify(struct checked *c, int error, const struct ash_check_result *result,
		   const struct ash_check_result *expected)
{
	struct ash_check_result again;
	bool repairs = c->source->special == SPECIAL_REPAIR;

	if (error && (error != -ENOMEM || !alloc_hits()))
		wrong(c, "the answer", strerror(-error));
	if (!error && c->source->special == SPECIAL_CHECK && result->problems != expected->problems)
		wrong(c, "another verdict for want of memory", result->first);
	if (alloc_live())
		wrong(c, "leak", "memory is held");
	if (c->source->special == SPECIAL_MKFS && error && make(c))
		wrong(c, "mkfs", "fails a second time");
	if (repairs && (check(c, ASH_CHECK_YES, &again) || again.left))
		wrong(c, "the next repair", again.error[0] ? again.error : again.first);
	if (check(c, ASH_CHECK_NO, &again) ||
	    again.problems != (repairs || c->source->special == SPECIAL_MKFS ? 0 : expected->problems))
		wrong(c, "the next check", again.error[0] ? again.error : again.first);
}

static void run(struct checked *c)
{
	struct ash_check_result expected = reference(c), result = { 0 };
	int error;

	alloc_attach(c->in);
	alloc_forget();
	c->in->armed = true;
	alloc_enter();
	if (c->source->special == SPECIAL_MKFS)
		error = make(c);
	else
		error = check(c, c->source->special == SPECIAL_REPAIR ? ASH_CHECK_YES : ASH_CHECK_NO, &result);
	alloc_leave();
	c->in->armed = false;
	alloc_attach(NULL);
	verify(c, error, &result, &expected);
}

void checked_run(const struct fault_workload *workload, struct injector *in)
{
	struct checked c = { .source = workload, .in = in };

	if (!stage_set(&c.stage, &workload->base, c.text))
		c.bad = true;
	if (arena_device(&c.stage.arena, false, &c.dev))
		abort();
	if (workload->damaged)
		damage(&c);
	if (!c.bad)
		run(&c);
	inject_finish(in, !c.bad, c.text);
	bdev_close(c.dev);
	stage_free(&c.stage);
}
