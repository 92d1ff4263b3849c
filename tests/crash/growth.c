/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Workloads of volumes that grow: within the last group, to its border, over it, by several groups; between operations,
 * some of them not durable yet, and beside what the volume's own worker does. (No other call may be under way: that is
 * ash_grow()'s contract.) The volume is nearly full before, so that what is written afterwards lies in the new part.
 */
#include "script.h"

#include <linux/falloc.h>
#include <stdio.h>
#include <ashlar/format.h>

#define MIB 256u                   /* blocks */
#define GROUP ASH_BLOCKS_PER_GROUP /* 126 MiB */

/* What is available is set aside but for `left` blocks; unwritten blocks behind the end of a file are never read. */
static void fill(struct script *s, uint64_t left)
{
	struct ash_statfs statfs;

	do_create(s, "/filler");
	if (!s->failed && !ash_statfs(s->runner.volume, &statfs) && statfs.available_blocks > left)
		do_fallocate(s, "/filler", FALLOC_FL_KEEP_SIZE, 0, (statfs.available_blocks - left) * ASH_BLOCK_SIZE);
}

/* /a/f of 10000 bytes, /a/g of 30 blocks, /b/h short; 40 blocks are left */
static void setup_nearly_full(struct script *s)
{
	do_mkdir(s, "/a");
	do_mkdir(s, "/b");
	do_create(s, "/a/f");
	do_write(s, "/a/f", 0, 10000, 0);
	do_create(s, "/a/g");
	do_write(s, "/a/g", 0, 30 * 4096, 0);
	do_create(s, "/b/h");
	do_write(s, "/b/h", 0, 100, 0);
	fill(s, 40);
	do_sync(s);
}

/* Something before that is not durable, something behind that needs the new part. */
static void grow_between(struct script *s, uint64_t blocks)
{
	do_write(s, "/a/f", 5000, 20000, 0);
	do_chmod(s, "/b/h", 0600);
	do_grow(s, blocks);
	do_create(s, "/b/new");
	do_write(s, "/b/new", 0, 300000, ASH_WRITE_THROUGH);
	do_fsync(s, "/b/new");
	do_unlink(s, "/a/g");
	do_write(s, "/a/f", 0, 9000, 0);
	do_fsync(s, "/a/f");
}

static void run_within(struct script *s)
{
	grow_between(s, 7 * MIB);
}

static void run_to_border(struct script *s)
{
	grow_between(s, GROUP);
}

static void run_over_border(struct script *s)
{
	grow_between(s, GROUP + 64);
}

/* Groups without a bitmap get their first one when something is written there. */
static void run_by_groups(struct script *s)
{
	grow_between(s, 3 * GROUP + 2 * MIB);
	fill(s, 3 * GROUP - 1000);
	do_create(s, "/a/far");
	do_write(s, "/a/far", 0, 50000, 0);
	do_sync(s);
}

static void run_within_second(struct script *s)
{
	grow_between(s, GROUP + 6 * MIB);
}

static void run_twice(struct script *s)
{
	do_chmod(s, "/a", 0711);
	do_grow(s, 4 * MIB + 17);
	do_create(s, "/a/one");
	do_write(s, "/a/one", 0, 200000, 0);
	do_fsync(s, "/a/one");
	do_grow(s, GROUP + 3 * MIB);
	do_write(s, "/a/one", 100000, 200000, 0);
	do_create(s, "/a/two");
	do_fsync(s, "/a/one");
	do_grow(s, GROUP + 4 * MIB);
	do_write(s, "/a/two", 0, 100000, 0);
	do_sync(s);
}

/* Unlinked but open, freed but not durably, set aside ahead of the end. */
static void run_orphans(struct script *s)
{
	uint64_t f = do_open(s, "/a/f"), g = do_open(s, "/a/g");

	do_unlink(s, "/a/f");
	do_unlink(s, "/a/g");
	do_fsync(s, "/a");
	do_create(s, "/b/short-lived");
	do_write(s, "/b/short-lived", 0, 60000, ASH_WRITE_THROUGH);
	do_fsync(s, "/b/short-lived");
	do_unlink(s, "/b/short-lived");
	do_forget(s, g);
	do_write_ino(s, f, 0, 30000, 0);
	do_grow(s, 6 * MIB);
	do_create(s, "/b/reuses");
	do_write(s, "/b/reuses", 0, 400000, ASH_WRITE_THROUGH);
	do_fsync(s, "/b/reuses");
	do_truncate_ino(s, f, 5000);
	do_grow(s, GROUP + 2 * MIB);
	do_forget(s, f);
	do_write(s, "/b/reuses", 400000, 90000, ASH_WRITE_THROUGH);
	do_sync(s);
}

/* Operations with large records, until so many sixteenths of the log are in use. */
static void fill_log(struct script *s, unsigned sixteenths)
{
	struct ash_volume_info info = { 0 };
	char path[256];

	snprintf(path, sizeof(path), "/b/%0240d", 0);
	while (!s->failed &&
	       info.log_end_lsn - info.log_tail_lsn <= info.log_blocks * ASH_LOG_PAYLOAD * sixteenths / 16) {
		do_symlink(s, path, 250);
		do_unlink(s, path);
		ash_volume_info(s->runner.volume, &info);
	}
}

static void run_full_log(struct script *s)
{
	fill_log(s, 11); /* what is kept for checkpoint and orphans is more than three sixteenths */
	do_fsync(s, "/b");
	do_chmod(s, "/b", 0700);
	do_grow(s, 6 * MIB);
	do_create(s, "/a/new");
	do_write(s, "/a/new", 0, 250000, 0);
	do_fsync(s, "/a/new");
	do_grow(s, GROUP + MIB);
	do_write(s, "/a/new", 200000, 100000, 0);
	do_fdatasync(s, "/a/new");
}

/* The inode table has a run that is in no durable record yet: no backup may count it. */
static void run_new_run(struct script *s)
{
	char path[32];

	for (unsigned run = 0; run < 2; run++) {
		for (unsigned i = 0; i < 70; i++) {
			snprintf(path, sizeof(path), "/b/%u-%u", run, i);
			do_create(s, path);
		}
		do_grow(s, run ? GROUP + 2 * MIB : 6 * MIB);
	}
	do_create(s, "/a/last");
	do_sync(s);
}

/* The volume's worker is at a checkpoint, or writes back what was buffered, wherever it is when the growth begins. */
static void run_beside(struct script *s)
{
	static const enum chore chores[] = { CHORE_HALF, CHORE_CHECKPOINT, CHORE_SYNC };
	uint64_t blocks = 4 * MIB;
	char path[32];

	for (uint32_t passes = 0; passes < 4; passes++) {
		for (unsigned i = 0; i < 3; i++) {
			snprintf(path, sizeof(path), "/b/%u-%u", passes, i);
			do_create(s, path);
			do_write(s, path, 0, 20000, 0);
			do_chmod(s, "/a", 0700 + passes);
			if (i == 1)
				do_fsync(s, path);
			do_write(s, "/a/f", 0, 5000, 0);
			do_grow_beside(s, chores[i], passes, blocks += passes == 2 ? GROUP / 2 : 50);
		}
	}
	do_sync(s);
}

/* The rest: what else differs from a plain workload. */
#define GROWS(name_, run_, mib_, device_, ...)                                                   \
	{                                                                                        \
		.name = "grow " name_, .setup = setup_nearly_full, .run = (run_), .mib = (mib_), \
		.device_mib = (device_), .crowded = true, ##__VA_ARGS__                          \
	}

const struct workload growth_workloads[] = {
	GROWS("within the last group", run_within, 4, 8),
	GROWS("within the last group, FUA", run_within, 4, 8, .fua = true),
	GROWS("to the group's border", run_to_border, 4, 128, .write_through = true),
	GROWS("over the border", run_over_border, 4, 130, .fua = true),
	GROWS("from the border", run_over_border, 126, 130),
	GROWS("by several groups", run_by_groups, 4, 384),
	GROWS("by several groups, discard", run_by_groups, 4, 384, .discard = true),
	GROWS("within the second group", run_within_second, 128, 136),
	GROWS("from the second group", run_by_groups, 128, 384, .write_through = true),
	GROWS("again and again", run_twice, 4, 132),
	GROWS("with orphans and freed blocks", run_orphans, 4, 130),
	GROWS("with a nearly full log", run_full_log, 4, 128),
	GROWS("with a new run of inodes", run_new_run, 4, 132),
	GROWS("beside the worker", run_beside, 4, 256),
};
const size_t growth_workload_count = sizeof(growth_workloads) / sizeof(*growth_workloads);

const struct workload *workload_at(size_t index)
{
	if (index < scripted_workload_count)
		return &scripted_workloads[index];
	index -= scripted_workload_count;
	return index < growth_workload_count ? &growth_workloads[index] : NULL;
}
