/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Write-behind: what is buffered is seen, gets its blocks when it is flushed, survives what it must, and never lacks
 * space.
 */
#include <linux/falloc.h>
#include <pthread.h>
#include <stdio.h>
#include <unistd.h>
#include "file_fixture.h"
#include "fs/volume.h"
#include "fs/wbuf.h"

static const struct ash_open_options quiet = { .no_threads = true };

static uint64_t buffered_bytes(struct fixture *f)
{
	struct ash_counters counters;

	ash_counters(f->volume, &counters);
	return counters.write_behind_bytes;
}

Test(wbuf, small_writes_wait_and_are_seen)
{
	uint8_t bytes[10000], got[10000];
	struct fixture f;

	fixture_open(&f, "mem:64M", &quiet);
	uint64_t ino = make_file(&f, "f"), before = free_blocks(&f);
	fill(bytes, sizeof(bytes), 1);
	cr_assert_eq(ash_write(f.volume, ino, bytes, sizeof(bytes), 0, 0), 10000);
	cr_assert_eq(buffered_bytes(&f), 3 * 4096);
	cr_assert_eq(attr_of(&f, ino).size, 10000);
	cr_assert_eq(attr_of(&f, ino).blocks, 24);
	cr_assert_eq(ash_read(f.volume, ino, got, sizeof(got), 0), 10000);
	cr_assert_eq(memcmp(got, bytes, sizeof(got)), 0);
	cr_assert_eq(ash_write_back(f.volume, ino), 0);
	cr_assert_eq(buffered_bytes(&f), 0);
	cr_assert_eq(attr_of(&f, ino).blocks, 24);
	cr_assert_eq(free_blocks(&f), before - 3);
	fixture_close(&f);
}

Test(wbuf, synced_data_survives_and_unsynced_names_keep_their_order)
{
	uint8_t got[100];
	struct fixture f;

	fixture_open(&f, "mem:64M", &quiet);
	uint64_t ino = make_file(&f, "f");
	cr_assert_eq(ash_write(f.volume, ino, "hello", 5, 0, 0), 5);
	cr_assert_eq(ash_fsync(f.volume, ino, false), 0);
	cr_assert_eq(ash_write(f.volume, ino, "lost?", 5, 5, 0), 5);
	fixture_crash(&f);
	ino = find_file(&f, "f");
	cr_assert_eq(ash_read(f.volume, ino, got, sizeof(got), 0), 5);
	cr_assert_eq(memcmp(got, "hello", 5), 0);
	fixture_close(&f);
}

Test(wbuf, sync_writes_out_every_file)
{
	struct fixture f;
	char name[16];

	fixture_open(&f, "mem:64M", &quiet);
	for (unsigned i = 0; i < 500; i++) {
		snprintf(name, sizeof(name), "f%u", i);
		cr_assert_eq(ash_write(f.volume, make_file(&f, name), name, sizeof(name), i % 3 * 3000, 0),
			     sizeof(name));
	}
	cr_assert_eq(ash_sync(f.volume), 0);
	cr_assert_eq(buffered_bytes(&f), 0);
	fixture_crash(&f);
	for (unsigned i = 0; i < 500; i++) {
		char got[16];

		snprintf(name, sizeof(name), "f%u", i);
		cr_assert_eq(ash_read(f.volume, find_file(&f, name), got, sizeof(got), i % 3 * 3000), sizeof(got));
		cr_assert_str_eq(got, name);
	}
	fixture_close(&f);
}

Test(wbuf, many_small_files_become_few_writes)
{
	struct bdev_stats stats;
	struct fixture f;
	uint8_t bytes[4096];
	char name[16];

	fixture_open(&f, "mem:64M", &quiet);
	cr_assert_eq(ash_close(f.volume), 0);
	cr_assert_eq(bdev_stats_open(f.dev, &f.dev), 0);
	fixture_mount(&f);
	fill(bytes, sizeof(bytes), 1);
	for (unsigned i = 0; i < 256; i++) {
		snprintf(name, sizeof(name), "f%u", i);
		cr_assert_eq(ash_write(f.volume, make_file(&f, name), bytes, sizeof(bytes), 0, 0), 4096);
	}
	bdev_stats_reset(f.dev);
	cr_assert_eq(ash_sync(f.volume), 0);
	bdev_stats_get(f.dev, &stats);
	cr_assert_lt(stats.write.requests, 30, "%llu writes", (unsigned long long)stats.write.requests);
	fixture_close(&f);
}

Test(wbuf, space_is_reserved_so_that_flushing_cannot_fail)
{
	uint8_t bytes[4096];
	struct fixture f;
	uint64_t offset = 0;

	fixture_open(&f, "mem:16M", &quiet);
	uint64_t ino = make_file(&f, "f"), other = make_file(&f, "other");
	fill(bytes, sizeof(bytes), 1);
	/* Every second block: as many extents as can be. */
	while (ash_write(f.volume, ino, bytes, 4096, offset, 0) == 4096)
		offset += 8192;
	while (ash_write(f.volume, other, bytes, 4096, 0, ASH_WRITE_APPEND) == 4096)
		;
	cr_assert_eq(ash_sync(f.volume), 0);
	for (uint64_t at = 0; at < offset; at += 8192) {
		uint8_t got[4096];

		cr_assert_eq(ash_read(f.volume, ino, got, 4096, at), 4096);
		cr_assert_eq(memcmp(got, bytes, 4096), 0);
	}
	fixture_close(&f);
}

Test(wbuf, a_background_error_is_reported_once)
{
	uint8_t bytes[8192] = { 1 };
	struct fixture f;

	fixture_open(&f, "mem:64M", &quiet);
	uint64_t ino = make_file(&f, "f"), before = free_blocks(&f);
	cr_assert_eq(ash_write(f.volume, ino, bytes, sizeof(bytes), 0, 0), 8192);
	fault_add(f.dev, &(struct fault_rule){ .ops = FAULT_OP(BDEV_WRITE), .length = 64 << 20 });
	cr_assert_eq(ash_write_back(f.volume, ino), -EIO);
	fault_clear(f.dev);
	cr_assert_eq(attr_of(&f, ino).size, 0);
	cr_assert_eq(ash_fsync(f.volume, ino, false), -EIO);
	cr_assert_eq(ash_fsync(f.volume, ino, false), 0);
	cr_assert_eq(free_blocks(&f), before);
	cr_assert_eq(ash_write(f.volume, ino, bytes, sizeof(bytes), 0, 0), 8192);
	cr_assert_eq(ash_fsync(f.volume, ino, false), 0);
	fixture_close(&f);
}

Test(wbuf, an_error_outlives_forget)
{
	uint8_t bytes[8192] = { 1 };
	struct fixture f;

	fixture_open(&f, "mem:64M", &quiet);
	uint64_t ino = make_file(&f, "f");
	cr_assert_eq(ash_write(f.volume, ino, bytes, sizeof(bytes), 0, 0), 8192);
	fault_add(f.dev, &(struct fault_rule){ .ops = FAULT_OP(BDEV_WRITE), .length = 64 << 20 });
	cr_assert_eq(ash_write_back(f.volume, ino), -EIO);
	fault_clear(f.dev);
	ash_forget(f.volume, ino, 1);
	cr_assert_eq(ash_fsync(f.volume, find_file(&f, "f"), false), -EIO);
	fixture_close(&f);
}

Test(wbuf, unlinked_data_never_reaches_the_device)
{
	uint8_t bytes[8192] = { 1 };
	struct fixture f;

	fixture_open(&f, "mem:64M", &quiet);
	uint64_t before = free_blocks(&f), ino = make_file(&f, "f");
	cr_assert_eq(ash_write(f.volume, ino, bytes, sizeof(bytes), 0, 0), 8192);
	cr_assert_eq(ash_unlink(f.volume, 1, "f", NULL), 0);
	cr_assert_eq(ash_read(f.volume, ino, bytes, sizeof(bytes), 0), 8192);
	ash_forget(f.volume, ino, 1);
	cr_assert_eq(buffered_bytes(&f), 0);
	cr_assert_eq(ash_sync(f.volume), 0);
	cr_assert_eq(free_blocks(&f), before);
	fixture_close(&f);
}

Test(wbuf, replacing_never_leaves_an_empty_file)
{
	struct fixture f;
	char got[8];

	fixture_open(&f, "mem:64M", &quiet);
	uint64_t ino = make_file(&f, "f");
	cr_assert_eq(ash_write(f.volume, ino, "old", 3, 0, 0), 3);
	cr_assert_eq(ash_sync(f.volume), 0);
	/* By truncation. */
	cr_assert_eq(set_size(&f, ino, 0), 0);
	cr_assert_eq(ash_write(f.volume, ino, "new", 3, 0, 0), 3);
	/* By rename. */
	uint64_t next = make_file(&f, "next");
	cr_assert_eq(ash_write(f.volume, next, "newer", 5, 0, 0), 5);
	cr_assert_eq(ash_rename(f.volume, 1, "next", 1, "f", 0), 0);
	/* Force the log by another file: what is in it now is durable. */
	cr_assert_eq(ash_fsync(f.volume, 1, false), 0);
	fixture_crash(&f);
	cr_assert_eq(ash_read(f.volume, find_file(&f, "f"), got, sizeof(got), 0), 5);
	cr_assert_eq(memcmp(got, "newer", 5), 0);
	fixture_close(&f);
}

Test(wbuf, truncation_to_zero_then_data_is_in_the_log_at_once)
{
	struct fixture f;
	char got[8];

	fixture_open(&f, "mem:64M", &quiet);
	uint64_t ino = make_file(&f, "f");
	cr_assert_eq(ash_write(f.volume, ino, "old", 3, 0, 0), 3);
	cr_assert_eq(ash_sync(f.volume), 0);
	cr_assert_eq(set_size(&f, ino, 0), 0);
	cr_assert_eq(ash_write(f.volume, ino, "new", 3, 0, 0), 3);
	make_file(&f, "later");
	cr_assert_eq(ash_fsync(f.volume, 1, false), 0); /* the log up to there, not the file itself */
	fixture_crash(&f);
	cr_assert_eq(ash_read(f.volume, find_file(&f, "f"), got, sizeof(got), 0), 3);
	cr_assert_eq(memcmp(got, "new", 3), 0);
	fixture_close(&f);
}

Test(wbuf, a_full_buffer_writes_itself_out)
{
	const struct ash_open_options tiny = { .no_threads = true, .write_behind_bytes = 1 << 20 };
	uint8_t *bytes = malloc(200000);
	struct fixture f;
	char name[16];

	fixture_open(&f, "mem:64M", &tiny);
	fill(bytes, 200000, 4);
	for (unsigned i = 0; i < 100; i++) {
		snprintf(name, sizeof(name), "f%u", i);
		cr_assert_eq(ash_write(f.volume, make_file(&f, name), bytes, 200000, 0, 0), 200000);
		cr_assert_leq(buffered_bytes(&f), 1 << 20);
	}
	for (unsigned i = 0; i < 100; i++) {
		uint8_t *got = malloc(200000);

		snprintf(name, sizeof(name), "f%u", i);
		cr_assert_eq(ash_read(f.volume, find_file(&f, name), got, 200000, 0), 200000);
		cr_assert_eq(memcmp(got, bytes, 200000), 0);
		free(got);
	}
	fixture_close(&f);
	free(bytes);
}

Test(wbuf, old_data_flushes_by_age)
{
	const struct ash_open_options aged = { .commit_seconds = 1 };
	struct fixture f;

	fixture_open(&f, "mem:64M", &aged);
	uint64_t ino = make_file(&f, "f");
	cr_assert_eq(ash_write(f.volume, ino, "x", 1, 0, 0), 1);
	for (unsigned i = 0; i < 50 && buffered_bytes(&f); i++)
		usleep(100000);
	cr_assert_eq(buffered_bytes(&f), 0);
	fixture_close(&f);
}

/*
 * Written just behind a turn of the worker, it was too young for the next one, and lay there for nearly two intervals.
 */
Test(wbuf, old_data_is_durable_within_the_commit_interval)
{
	const struct ash_open_options aged = { .commit_seconds = 3 };
	struct fixture f;
	uint8_t got[2];

	fixture_open(&f, "mem:64M", &aged);
	uint64_t ino = make_file(&f, "f");
	cr_assert_eq(ash_sync(f.volume), 0);
	usleep(200000);
	cr_assert_eq(ash_write(f.volume, ino, "x", 1, 0, 0), 1);
	sleep(3);
	fixture_crash(&f);
	cr_assert_eq(ash_read(f.volume, find_file(&f, "f"), got, sizeof(got), 0), 1);
	cr_assert_eq(got[0], 'x');
	fixture_close(&f);
}

/* ---- Several threads on the same few files ---- */

#define WORKERS 3

struct worker {
	struct fixture *f;
	uint64_t own, shared;
	unsigned seed;
};

static void *work(void *argument)
{
	struct worker *w = argument;
	uint8_t *bytes = malloc(100000), *got = malloc(100000);
	struct ash_volume *volume = w->f->volume;

	for (unsigned i = 0; i < 150; i++) {
		size_t length = 1 + (w->seed * 7919 + i * 104729) % 100000;

		fill(bytes, length, w->seed + i);
		cr_assert_eq(ash_write(volume, w->own, bytes, length, 0, i % 5 ? 0 : ASH_WRITE_THROUGH),
			     (int64_t)length);
		cr_assert_eq(ash_write(volume, w->shared, bytes, 100, (i * 37) % 5000 * 100, 0), 100);
		cr_assert_eq(ash_read(volume, w->own, got, length, 0), (int64_t)length);
		cr_assert_eq(memcmp(bytes, got, length), 0);
		ash_read(volume, w->shared, got, 100000, i * 1000);
		if (i % 7 == 0)
			cr_assert_eq(ash_fsync(volume, w->shared, false), 0);
		if (i % 11 == 0)
			set_size(w->f, w->shared, i * 1000);
		if (i % 13 == 0)
			cr_assert_eq(ash_fallocate(volume, w->shared, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
						   i * 500, 9000),
				     0);
		if (i % 29 == 0)
			cr_assert_eq(ash_sync(volume), 0);
	}
	free(bytes);
	free(got);
	return NULL;
}

Test(wbuf, threads_do_not_disturb_each_other)
{
	const struct ash_open_options options = { .write_behind_bytes = 1 << 20, .commit_seconds = 1 };
	struct worker workers[WORKERS];
	pthread_t threads[WORKERS];
	struct fixture f;
	char name[16];

	fixture_open(&f, "mem:64M", &options);
	uint64_t before = free_blocks(&f), shared = make_file(&f, "shared");
	for (unsigned i = 0; i < WORKERS; i++) {
		snprintf(name, sizeof(name), "own%u", i);
		workers[i] = (struct worker){ &f, make_file(&f, name), shared, i };
		cr_assert_eq(pthread_create(&threads[i], NULL, work, &workers[i]), 0);
	}
	for (unsigned i = 0; i < WORKERS; i++)
		pthread_join(threads[i], NULL);
	for (unsigned i = 0; i < WORKERS; i++)
		cr_assert_eq(set_size(&f, workers[i].own, 0), 0);
	cr_assert_eq(set_size(&f, shared, 0), 0);
	cr_assert_eq(ash_sync(f.volume), 0);
	cr_assert_eq(free_blocks(&f), before);
	fixture_close(&f);
}

/*
 * One flush claims a tree node and frees it again: the extents outgrow the root when the middle of an unwritten one is
 * written, and fit it once others, written whole, have joined their neighbours. The node came out of the reserve, and
 * the reserve must know.
 */
Test(wbuf, a_node_that_a_flush_claims_and_frees_is_not_reserved_any_more)
{
	enum { HOLES = 3, APART = 10, LENGTH = 3 };
	uint8_t *bytes = aligned((HOLES + 2) * APART * 4096);
	struct ash_statfs before, after;
	struct fixture f;

	fixture_open(&f, "mem:64M", &quiet);
	uint64_t ino = make_file(&f, "f"), size = (HOLES + 2) * APART * 4096;
	cr_assert_eq(ash_write(f.volume, ino, bytes, size, 0, ASH_WRITE_THROUGH), (int64_t)size);
	for (uint64_t i = 1; i <= HOLES; i++)
		cr_assert_eq(ash_fallocate(f.volume, ino, FALLOC_FL_ZERO_RANGE, i * APART * 4096, LENGTH * 4096), 0);
	cr_assert_eq(ash_sync(f.volume), 0);
	cr_assert_eq(ash_statfs(f.volume, &before), 0);
	cr_assert_eq(ash_write(f.volume, ino, bytes, 4096, (APART + 1) * 4096, 0), 4096);
	for (uint64_t i = 2; i <= HOLES; i++)
		cr_assert_eq(ash_write(f.volume, ino, bytes, LENGTH * 4096, i * APART * 4096, 0), LENGTH * 4096);
	cr_assert_eq(ash_sync(f.volume), 0);
	cr_assert_eq(ash_statfs(f.volume, &after), 0);
	cr_assert_eq(after.free_blocks, before.free_blocks);
	cr_assert_eq(after.available_blocks, before.available_blocks);
	fixture_close(&f);
	bdev_buffer_free(bytes, (HOLES + 2) * APART * 4096);
}

/* Freed blocks that wait for their discard are shown as free: who needs them waits for it instead of being refused. */
Test(wbuf, blocks_that_wait_for_their_discard_are_space, .timeout = 60)
{
	static const struct ash_open_options options = { .discard = true, .no_write_behind = true };
	size_t length = 1 << 20;
	uint8_t *bytes = aligned(length);
	struct fixture f;

	fixture_open(&f, "mem:16M", &options);
	for (int round = 0; round < 100; round++) {
		uint64_t ino = make_file(&f, "f");

		for (uint64_t i = 0; i < 8; i++)
			cr_assert_eq(ash_write(f.volume, ino, bytes, length, i * length, 0), (int64_t)length,
				     "round %d", round);
		cr_assert_eq(ash_unlink(f.volume, 1, "f", NULL), 0);
		ash_forget(f.volume, ino, 1);
	}
	fixture_close(&f);
	bdev_buffer_free(bytes, length);
}

/*
 * Data that the buffer lost on its own, under pressure of other writes: the next sync says so, once, and so does an
 * fsync of the file.
 */
Test(wbuf, sync_tells_of_data_lost_in_the_background)
{
	struct ash_open_options small = { .no_threads = true, .write_behind_bytes = 256 << 10 };
	const unsigned given_up = 1 + ASH_WB_FAILURES_MAX; /* as one of a batch, then alone */
	uint8_t *bytes = aligned(100 << 10);
	struct fixture f;
	uint64_t trimmed;

	fixture_open(&f, "mem:64M", &small);
	uint64_t lost = make_file(&f, "lost"), other = make_file(&f, "other");
	cr_assert_eq(ash_sync(f.volume), 0);
	memset(bytes, 'x', 100 << 10);
	cr_assert_eq(ash_write(f.volume, lost, bytes, 100 << 10, 0, 0), 100 << 10);
	fault_add(f.dev, &(struct fault_rule){ .ops = FAULT_OP(BDEV_WRITE), .length = 64 << 20, .count = given_up });
	cr_assert_eq(ash_write(f.volume, other, bytes, 100 << 10, 0, 0), 100 << 10, "the caller is somebody else");
	cr_assert_eq(fault_hits(f.dev), given_up);
	fault_clear(f.dev);
	cr_expect_eq(ash_trim(f.volume, 0, UINT64_MAX, 0, &trimmed), 0, "not the one to be told");
	cr_expect_gt(trimmed, 0);
	cr_expect_eq(ash_sync(f.volume), -EIO);
	cr_expect_eq(ash_sync(f.volume), 0, "once");
	cr_expect_eq(ash_fsync(f.volume, other, false), 0);
	cr_expect_eq(ash_fsync(f.volume, lost, false), -EIO);
	cr_expect_eq(ash_fsync(f.volume, lost, false), 0, "once");

	/* And when the fsync comes first the sync has nothing to tell. */
	cr_assert_eq(ash_write(f.volume, lost, bytes, 100 << 10, 0, 0), 100 << 10);
	fault_add(f.dev, &(struct fault_rule){ .ops = FAULT_OP(BDEV_WRITE), .length = 64 << 20, .count = given_up });
	cr_assert_eq(ash_write(f.volume, other, bytes, 100 << 10, 0, 0), 100 << 10);
	fault_clear(f.dev);
	cr_expect_eq(ash_fsync(f.volume, lost, false), -EIO);
	cr_expect_eq(ash_sync(f.volume), 0);
	fixture_close(&f);
	bdev_buffer_free(bytes, 100 << 10);
}

/* read(2) shows it, so whoever copies a file away by SEEK_DATA must find it: all counts as data. */
Test(wbuf, what_a_read_only_volume_keeps_is_found_by_seek)
{
	struct fixture f;

	fixture_open(&f, "mem:64M", &quiet);
	uint64_t ino = make_file(&f, "f");
	cr_assert_eq(ash_write(f.volume, ino, "kept", 4, 8192, 0), 4);
	atomic_store(&f.volume->read_only, true);
	cr_expect_eq(ash_seek(f.volume, ino, 100, SEEK_DATA), 100);
	cr_expect_eq(ash_seek(f.volume, ino, 100, SEEK_HOLE), 8196);
	cr_expect_eq(ash_seek(f.volume, ino, 8196, SEEK_DATA), -ENXIO);
	cr_expect_eq(buffered_bytes(&f), 4096);
	atomic_store(&f.volume->read_only, false);
	cr_expect_eq(ash_seek(f.volume, ino, 100, SEEK_DATA), 8192);
	fixture_close(&f);
}

/* What write(2) acknowledged can go nowhere any more: whoever closes the volume must hear of it (I5). */
Test(wbuf, closing_a_volume_turned_read_only_tells_of_buffered_data)
{
	struct fixture f;

	fixture_open(&f, "mem:64M", &quiet);
	uint64_t ino = make_file(&f, "f");
	cr_assert_eq(ash_sync(f.volume), 0);
	cr_assert_eq(ash_write(f.volume, ino, "kept", 4, 0, 0), 4);
	ash_set_read_only(f.volume, "a test");
	cr_expect_eq(ash_close(f.volume), -EIO);
	fixture_mount(&f);
	cr_expect_eq(attr_of(&f, find_file(&f, "f")).size, 0);
	ash_set_read_only(f.volume, "a test");
	fixture_close(&f); /* nothing was buffered */
}

/*
 * A truncation that is not durable, and its last block written anew through an unwritten extent: no crash may show the
 * old size over the new bytes (I7).
 */
Test(wbuf, zeroing_a_range_waits_for_the_size_that_was_cut)
{
	static uint8_t old[8192], new[4096], got[8192];
	struct fixture f;

	fixture_open(&f, "mem:64M", &quiet);
	uint64_t ino = make_file(&f, "f");
	fill(old, sizeof(old), 1);
	fill(new, sizeof(new), 2);
	cr_assert_eq(ash_write(f.volume, ino, old, sizeof(old), 0, ASH_WRITE_THROUGH), 8192);
	cr_assert_eq(ash_sync(f.volume), 0);
	set_size(&f, ino, 5000);
	cr_assert_eq(ash_fallocate(f.volume, ino, FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE, 4096, 4096), 0);
	cr_assert_eq(ash_write(f.volume, ino, new, sizeof(new), 4096, ASH_WRITE_THROUGH), 4096);
	fixture_crash(&f);
	ino = find_file(&f, "f");
	/* Nothing forced the record of the last write. */
	int64_t length = ash_read(f.volume, ino, got, sizeof(got), 0);
	cr_assert(length == 5000 || length == 8192);
	cr_assert_eq(memcmp(got, old, length == 8192 ? 8192 : 4096), 0);
	fixture_close(&f);
}

/*
 * More sizes were cut than are kept one by one. The last block of the last of them is overwritten in place, which must
 * wait for that cut as for any (I7): else the old size would show the new bytes.
 */
Test(wbuf, overwriting_waits_for_the_size_that_was_cut_last_of_many)
{
	static uint8_t old[8192], new[904], got[8192];
	uint64_t ino = 0, lsn;
	struct fixture f;
	char name[16];

	fixture_open(&f, "mem:64M", &quiet);
	fill(old, sizeof(old), 1);
	fill(new, sizeof(new), 2);
	for (unsigned i = 0; i <= ASH_WB_SHRINKS; i++) {
		snprintf(name, sizeof(name), "f%u", i);
		cr_assert_eq(ash_write(f.volume, make_file(&f, name), old, sizeof(old), 0, ASH_WRITE_THROUGH), 8192);
	}
	cr_assert_eq(ash_sync(f.volume), 0);
	for (unsigned i = 0; i <= ASH_WB_SHRINKS; i++) {
		snprintf(name, sizeof(name), "f%u", i);
		ino = find_file(&f, name);
		cr_assert_eq(set_size(&f, ino, 5000), 0);
	}
	lsn = ash_log_end(f.volume);
	cr_assert_lt(ash_log_durable(f.volume), lsn);
	cr_assert_eq(ash_write(f.volume, ino, new, sizeof(new), 4096, ASH_WRITE_THROUGH), 904);
	cr_expect_geq(ash_log_durable(f.volume), lsn);
	fixture_crash(&f);
	cr_assert_eq(ash_read(f.volume, find_file(&f, name), got, sizeof(got), 0), 5000);
	cr_expect_eq(memcmp(got + 4096, new, sizeof(new)), 0);
	fixture_close(&f);
}

enum { THIN_FILES = 150 }; /* more of them than a batch has */

/*
 * A device that refuses to write what was never written with `error`, under buffers: `old` has blocks, the others need
 * some.
 */
static void open_thin(struct fixture *f, int error, uint8_t bytes[65536])
{
	struct fault_rule refuse = { .ops = FAULT_OP(BDEV_WRITE), .error = error };
	uint64_t block = 0;

	fixture_open(f, "mem:128M", &quiet);
	uint64_t old = make_file(f, "old");
	fill(bytes, 65536, 1);
	cr_assert_eq(ash_write(f->volume, old, bytes, 65536, 0, ASH_WRITE_THROUGH), 65536);
	cr_assert_eq(ash_sync(f->volume), 0);
	cr_assert_eq(ash_checkpoint(f->volume), 0);
	cr_assert_eq(ash_bmap(f->volume, old, 0, &block), 0);
	for (unsigned i = 0; i < THIN_FILES; i++) {
		char name[16];

		snprintf(name, sizeof(name), "n%u", i);
		cr_assert_eq(ash_write(f->volume, make_file(f, name), bytes, 8192, 0, 0), 8192);
	}
	cr_assert_eq(ash_write(f->volume, old, "new content", 11, 0, 0), 11);
	refuse.offset = (block + 16) * ASH_BLOCK_SIZE;
	refuse.length = (128ull << 20) - refuse.offset;
	cr_assert_eq(fault_add(f->dev, &refuse), 0);
}

/* A thin device without space: buffers that need new blocks stay. */
Test(wbuf, a_sync_goes_past_buffers_that_cannot_be_written)
{
	uint8_t *bytes = aligned(65536), got[11];
	struct fixture f;

	open_thin(&f, -ENOSPC, bytes);
	cr_expect_lt(ash_sync(f.volume), 0);
	cr_expect_lt(ash_close(f.volume), 0);
	fault_clear(f.dev);
	fixture_mount(&f);
	cr_assert_eq(ash_read(f.volume, find_file(&f, "old"), got, 11, 0), 11);
	cr_expect_eq(memcmp(got, "new content", 11), 0);
	fixture_close(&f);
	bdev_buffer_free(bytes, 65536);
}

/* An error that may go away loses nothing: when it has, the next sync writes out what stayed. */
Test(wbuf, buffers_that_stayed_are_written_when_the_device_can_again)
{
	static const int errors[] = { -ENOSPC, -ENOMEM, -EROFS };
	uint8_t *bytes = aligned(65536), got[8192];

	for (unsigned e = 0; e < sizeof(errors) / sizeof(errors[0]); e++) {
		struct fixture f;

		open_thin(&f, errors[e], bytes);
		cr_expect_eq(ash_sync(f.volume), errors[e]);
		cr_expect_eq(buffered_bytes(&f), THIN_FILES * 8192);
		fault_clear(f.dev);
		cr_expect_eq(ash_sync(f.volume), 0, "%s", strerror(-errors[e]));
		cr_expect_eq(buffered_bytes(&f), 0);
		fixture_crash(&f);
		for (unsigned i = 0; i < THIN_FILES; i++) {
			char name[16];

			snprintf(name, sizeof(name), "n%u", i);
			cr_assert_eq(ash_read(f.volume, find_file(&f, name), got, 8192, 0), 8192, "%s", name);
			cr_assert_eq(memcmp(got, bytes, 8192), 0, "%s", name);
		}
		fixture_close(&f);
	}
	bdev_buffer_free(bytes, 65536);
}

#define ROUNDS 100u

struct refill {
	struct fixture f;
	uint64_t files[2];
	uint8_t *bytes;
	unsigned rounds;
};

/* While the data of one file is on its way to the device, the other one gets some. */
static void refill(void *context, const struct bdev_request *request)
{
	struct refill *refill = context;

	if (request->op != BDEV_WRITE || memcmp(request->iov[0].iov_base, "data", 4) || refill->rounds == ROUNDS)
		return;
	uint64_t ino = refill->files[++refill->rounds % 2];
	cr_assert_eq(ash_write(refill->f.volume, ino, refill->bytes, 4096, 0, 0), 4096);
}

/* Nobody writes out what others go on writing: they would keep him, and who waits for him, for as long as they like. */
Test(wbuf, making_room_ends_although_others_go_on_writing)
{
	struct refill r = { .bytes = aligned(4096) };

	memcpy(r.bytes, "data", 4);
	fixture_open(&r.f, "mem:64M", &quiet);
	r.files[0] = make_file(&r.f, "f");
	r.files[1] = make_file(&r.f, "g");
	cr_assert_eq(ash_write(r.f.volume, r.files[0], r.bytes, 4096, 0, 0), 4096);
	fault_ask(r.f.dev, refill, &r);
	cr_expect_eq(ash_wb_flush_down(r.f.volume, 0), 0);
	fault_ask(r.f.dev, NULL, NULL);
	cr_expect_eq(r.rounds, 1);
	cr_expect_eq(buffered_bytes(&r.f), 4096);
	bdev_buffer_free(r.bytes, 4096);
	fixture_close(&r.f);
}
