/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Writes into space that was allocated ahead, on a volume without any other: none may fail, through or buffered. */
#include <fcntl.h>
#include <linux/falloc.h>
#include <stdio.h>
#include "file_fixture.h"
#include "fsck/check.h"

static const struct ash_open_options through = { .no_threads = true, .no_write_behind = true };
static const struct ash_open_options buffered = { .no_threads = true };

#define BLOCK 4096u
#define AHEAD 5000u /* blocks */

/* Blocks written, and what must not be there. */
struct full {
	struct fixture f;
	uint64_t ino, filler, before;
	uint8_t *block, *back, *zeroes;
	bool written[AHEAD];
};

/* Every block that a file may get holds something: what is not zeroed shows. */
static void dirty_all_space(struct full *full)
{
	size_t length = 1 << 20;
	uint8_t *bytes = aligned(length);
	uint64_t end = 0;
	int64_t put;

	memset(bytes, 0xa5, length);
	while ((put = ash_write(full->f.volume, full->filler, bytes, length, end, ASH_WRITE_THROUGH)) > 0)
		end += (uint64_t)put;
	cr_assert_eq(put, -ENOSPC);
	cr_assert_eq(set_size(&full->f, full->filler, 0), 0);
	bdev_buffer_free(bytes, length);
}

static void full_open(struct full *full, const struct ash_open_options *options)
{
	fixture_open(&full->f, "mem:64M", options);
	memset(full->written, 0, sizeof(full->written));
	full->block = aligned(BLOCK);
	full->back = aligned(BLOCK);
	full->zeroes = aligned(BLOCK);
	memset(full->zeroes, 0, BLOCK);
	full->ino = make_file(&full->f, "ahead");
	full->filler = make_file(&full->f, "filler");
	dirty_all_space(full);
	cr_assert_eq(ash_sync(full->f.volume), 0);
	full->before = free_blocks(&full->f);
}

static uint64_t available(struct fixture *f)
{
	struct ash_statfs statfs;

	cr_assert_eq(ash_statfs(f->volume, &statfs), 0);
	return statfs.available_blocks;
}

/* Nothing is left but the emergency reserve. */
static void take_the_rest(struct full *full)
{
	uint64_t end = attr_of(&full->f, full->filler).size, chunk;

	for (chunk = 4096 * BLOCK; chunk >= BLOCK;) {
		if (ash_fallocate(full->f.volume, full->filler, 0, (int64_t)end, (int64_t)chunk))
			chunk /= 2;
		else
			end += chunk;
	}
	cr_assert_eq(ash_sync(full->f.volume), 0);
	cr_assert_eq(available(&full->f), 0);
}

/* Extents of three blocks only: the filler has every other three. */
static void scatter_free_space(struct full *full)
{
	take_the_rest(full);
	uint64_t blocks = attr_of(&full->f, full->filler).size / BLOCK;
	for (uint64_t at = 0; at + 6 < blocks && at < 2 * AHEAD; at += 6)
		cr_assert_eq(ash_fallocate(full->f.volume, full->filler, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
					   (int64_t)at * BLOCK, 3 * BLOCK),
			     0);
	cr_assert_eq(ash_sync(full->f.volume), 0);
}

static void write_block(struct full *full, uint32_t at)
{
	fill(full->block, BLOCK, at);
	cr_assert_eq(ash_write(full->f.volume, full->ino, full->block, BLOCK, (uint64_t)at * BLOCK, 0), BLOCK,
		     "block %u", at);
	full->written[at] = true;
}

static void check_blocks(struct full *full, uint32_t count)
{
	for (uint32_t at = 0; at < count; at++) {
		fill(full->block, BLOCK, at);
		cr_assert_eq(ash_read(full->f.volume, full->ino, full->back, BLOCK, (uint64_t)at * BLOCK), BLOCK);
		cr_assert_eq(memcmp(full->back, full->written[at] ? full->block : full->zeroes, BLOCK), 0, "block %u",
			     at);
	}
}

static void say_problem(void *context, const struct ash_check_problem *problem)
{
	(void)context;
	if (problem->severity != ASH_CHECK_NOTE)
		fprintf(stderr, "%s\n", problem->message);
}

static void check_volume(struct full *full)
{
	const struct ash_check_options options = { .mode = ASH_CHECK_NO, .no_threads = true, .report = say_problem };
	struct ash_check_result result;

	cr_assert_eq(ash_close(full->f.volume), 0);
	cr_assert_eq(ash_check(full->f.dev, &options, &result), 0);
	cr_assert_eq(result.problems, 0, "%s", result.first);
	fixture_mount(&full->f);
}

/* The volume is sound, and what was taken comes back. */
static void full_close(struct full *full)
{
	check_volume(full);
	cr_assert_eq(ash_unlink(full->f.volume, 1, "ahead", NULL), 0);
	cr_assert_eq(ash_unlink(full->f.volume, 1, "filler", NULL), 0);
	cr_assert_eq(ash_sync(full->f.volume), 0);
	cr_assert_eq(free_blocks(&full->f), full->before);
	check_volume(full);
	fixture_close(&full->f);
	bdev_buffer_free(full->block, BLOCK);
	bdev_buffer_free(full->back, BLOCK);
	bdev_buffer_free(full->zeroes, BLOCK);
}

/* Every other block of one long extent, some of them in parts: many more extents than the tree has room for. */
static void write_alternate_blocks(const struct ash_open_options *options)
{
	static struct full full;

	full_open(&full, options);
	cr_assert_eq(ash_fallocate(full.f.volume, full.ino, 0, 0, (int64_t)AHEAD * BLOCK), 0);
	uint64_t blocks = attr_of(&full.f, full.ino).blocks;
	take_the_rest(&full);
	uint64_t left = free_blocks(&full.f);
	for (uint32_t i = 0; i < AHEAD / 2; i++) {
		write_block(&full, 2 * (i * 7 % (AHEAD / 2)));
		if (i % 100 == 99)
			cr_assert_eq(ash_fsync(full.f.volume, full.ino, false), 0);
	}
	cr_assert_eq(ash_fsync(full.f.volume, full.ino, false), 0);
	cr_assert_eq(attr_of(&full.f, full.ino).blocks, blocks);
	cr_assert_eq(free_blocks(&full.f), left);
	check_blocks(&full, AHEAD);
	fixture_crash(&full.f);
	full.ino = find_file(&full.f, "ahead");
	check_blocks(&full, AHEAD);
	full_close(&full);
}

Test(file_write, alternate_blocks_ahead_on_a_full_volume, .timeout = 60)
{
	write_alternate_blocks(&through);
}

Test(file_write, alternate_blocks_ahead_on_a_full_volume_buffered, .timeout = 60)
{
	write_alternate_blocks(&buffered);
}

/* The middle of each of very many short extents. */
static void write_middles(const struct ash_open_options *options)
{
	enum { SHORT = 4000 };
	static struct full full;

	full_open(&full, options);
	scatter_free_space(&full);
	cr_assert_eq(ash_fallocate(full.f.volume, full.ino, 0, 0, SHORT * BLOCK), 0);
	take_the_rest(&full);
	uint64_t left = free_blocks(&full.f);
	for (uint32_t at = 1; at < SHORT; at += 3)
		write_block(&full, at);
	cr_assert_eq(ash_fsync(full.f.volume, full.ino, false), 0);
	cr_assert_eq(free_blocks(&full.f), left);
	check_blocks(&full, SHORT);
	full_close(&full);
}

Test(file_write, the_middle_of_short_extents_ahead_on_a_full_volume, .timeout = 60)
{
	write_middles(&through);
}

Test(file_write, the_middle_of_short_extents_ahead_on_a_full_volume_buffered, .timeout = 60)
{
	write_middles(&buffered);
}

/*
 * Space behind the end of file: what lies behind the new end stays unwritten, which the check asks for, and so does not
 * show what a write that was lost left there.
 */
static void write_behind_the_end(const struct ash_open_options *options)
{
	static struct full full;

	full_open(&full, options);
	scatter_free_space(&full);
	cr_assert_eq(ash_fallocate(full.f.volume, full.ino, FALLOC_FL_KEEP_SIZE, 0, (int64_t)AHEAD / 2 * BLOCK), 0);
	take_the_rest(&full);
	for (uint32_t at = 0; at < AHEAD / 2; at += at % 3 ? 5 : 2)
		write_block(&full, at);
	cr_assert_eq(ash_fsync(full.f.volume, full.ino, false), 0);
	uint32_t end = (uint32_t)(attr_of(&full.f, full.ino).size / BLOCK);
	check_blocks(&full, end);
	check_volume(&full);
	full.ino = find_file(&full.f, "ahead");
	cr_assert_eq(set_size(&full.f, full.ino, (uint64_t)AHEAD / 2 * BLOCK), 0);
	check_blocks(&full, AHEAD / 2);
	full_close(&full);
}

Test(file_write, blocks_ahead_behind_the_end_of_file_on_a_full_volume, .timeout = 60)
{
	write_behind_the_end(&through);
}

Test(file_write, blocks_ahead_behind_the_end_of_file_on_a_full_volume_buffered, .timeout = 60)
{
	write_behind_the_end(&buffered);
}

/* An error of the device while the rest of an extent is zeroed undoes the write; it succeeds when tried again. */
Test(file_write, an_error_while_zeroing_undoes_the_write, .timeout = 60)
{
	const struct fault_rule rule = { .ops = FAULT_OP(BDEV_WRITE_ZEROES), .count = 1 };
	static struct full full;
	uint32_t failed = 0;

	full_open(&full, &through);
	cr_assert_eq(ash_fallocate(full.f.volume, full.ino, 0, 0, (int64_t)AHEAD * BLOCK), 0);
	take_the_rest(&full);
	cr_assert_eq(fault_add(full.f.dev, &rule), 0);
	for (uint32_t at = 0; at < AHEAD; at += 2) {
		fill(full.block, BLOCK, at);
		int64_t result = ash_write(full.f.volume, full.ino, full.block, BLOCK, (uint64_t)at * BLOCK, 0);

		full.written[at] = result == BLOCK;
		if (result == BLOCK)
			continue;
		cr_assert_eq(result, -EIO);
		check_blocks(&full, AHEAD);
		failed++;
		write_block(&full, at);
	}
	cr_assert_eq(failed, 1);
	cr_assert_eq(ash_sync(full.f.volume), 0);
	check_blocks(&full, AHEAD);
	full_close(&full);
}

/*
 * An overwrite in place of a set-user-ID file, crashed right after: the mode, and for O_SYNC the times, are part of it.
 * Taking the bits away is a record that is forced on its own account; without it the times must be forced by
 * themselves.
 */
static void overwrite_synchronously(bool mount_sync, unsigned flags, bool times)
{
	struct ash_open_options options = { .no_threads = true, .sync = mount_sync };
	struct ash_setattr mode = { .valid = ASH_SET_MODE | ASH_SET_MTIME, .mode = 04755, .mtime = { .tv_sec = 1000 } };
	uint8_t *bytes = aligned(8192), *got = aligned(8192);
	struct fixture f;

	fixture_open(&f, "mem:64M", &options);
	uint64_t ino = make_file(&f, "f");
	fill(bytes, 8192, 1);
	cr_assert_eq(ash_write(f.volume, ino, bytes, 8192, 0, 0), 8192);
	cr_assert_eq(ash_setattr(f.volume, ino, &mode, NULL), 0);
	cr_assert_eq(ash_sync(f.volume), 0);
	fill(bytes, 8192, 2);
	cr_assert_eq(ash_write(f.volume, ino, bytes, 8192, 0, flags), 8192);
	fixture_crash(&f);
	ino = find_file(&f, "f");
	cr_assert_eq(ash_read(f.volume, ino, got, 8192, 0), 8192);
	cr_expect_eq(memcmp(got, bytes, 8192), 0);
	cr_expect_eq(attr_of(&f, ino).mode & 07777, flags & ASH_WRITE_KILL_SUIDGID ? 0755u : 04755u);
	if (times)
		cr_expect_neq(attr_of(&f, ino).mtime.tv_sec, 1000);
	fixture_close(&f);
	bdev_buffer_free(bytes, 8192);
	bdev_buffer_free(got, 8192);
}

Test(file_write, a_synchronous_write_is_durable_with_the_mode_it_leaves)
{
	overwrite_synchronously(false, ASH_WRITE_DSYNC | ASH_WRITE_KILL_SUIDGID, false);
	overwrite_synchronously(false, ASH_WRITE_DSYNC | ASH_WRITE_THROUGH | ASH_WRITE_KILL_SUIDGID, false);
}

/* And so is all of a volume that is open with sync. */
Test(file_write, o_sync_is_durable_with_the_times)
{
	for (unsigned kill = 0; kill <= ASH_WRITE_KILL_SUIDGID; kill += ASH_WRITE_KILL_SUIDGID) {
		overwrite_synchronously(false, ASH_WRITE_SYNC | kill, true);
		overwrite_synchronously(false, ASH_WRITE_SYNC | ASH_WRITE_THROUGH | kill, true);
		overwrite_synchronously(true, kill, true);
	}
}

/* An overwrite without times leaves nothing in the log: whoever makes it durable must flush the device nevertheless. */
Test(file_write, overwrites_without_a_record_are_flushed)
{
	static const char *const ways[] = { "ash_sync", "ash_fsync", "ash_fsync of the data" };
	struct ash_open_options options = { .no_threads = true };
	struct ash_counters before, after;
	uint8_t *bytes = aligned(8192);
	struct fixture f;

	fixture_open(&f, "mem:64M", &options);
	uint64_t ino = make_file(&f, "f");
	fill(bytes, 8192, 1);
	cr_assert_eq(ash_write(f.volume, ino, bytes, 8192, 0, ASH_WRITE_THROUGH), 8192);
	for (unsigned way = 0; way < 3; way++) {
		cr_assert_eq(ash_sync(f.volume), 0);
		cr_assert_eq(ash_write(f.volume, ino, bytes, 8192, 0, ASH_WRITE_THROUGH | ASH_WRITE_NO_TIMES), 8192);
		ash_counters(f.volume, &before);
		cr_assert_eq(way == 0 ? ash_sync(f.volume) : ash_fsync(f.volume, ino, way == 2), 0);
		ash_counters(f.volume, &after);
		cr_expect_eq(after.transactions, before.transactions, "%s", ways[way]);
		cr_expect_gt(after.flushes, before.flushes, "%s", ways[way]);
	}
	fixture_close(&f);
	bdev_buffer_free(bytes, 8192);
}

/* Set-group-ID without group execution: of a member of the group it stays, of others it goes. */
Test(file_write, sgid_without_group_execution_goes_only_on_demand)
{
	struct ash_open_options options = { .no_threads = true };
	struct ash_setattr mode = { .valid = ASH_SET_MODE, .mode = 02664 };
	struct fixture f;

	fixture_open(&f, "mem:64M", &options);
	uint64_t ino = make_file(&f, "f");
	cr_assert_eq(ash_setattr(f.volume, ino, &mode, NULL), 0);
	cr_assert_eq(ash_write(f.volume, ino, "x", 1, 0, ASH_WRITE_KILL_SUIDGID), 1);
	cr_expect_eq(attr_of(&f, ino).mode & 07777, 02664u);
	cr_assert_eq(ash_write(f.volume, ino, "x", 1, 0, ASH_WRITE_KILL_SUIDGID | ASH_WRITE_KILL_SGID), 1);
	cr_expect_eq(attr_of(&f, ino).mode & 07777, 0664u);
	cr_assert_eq(ash_setattr(f.volume, ino, &mode, NULL), 0);
	struct ash_setattr owner = { .valid = ASH_SET_UID, .uid = 5 };
	cr_assert_eq(ash_setattr(f.volume, ino, &owner, NULL), 0);
	cr_expect_eq(attr_of(&f, ino).mode & 07777, 02664u);
	owner.valid |= ASH_SET_KILL_SGID;
	cr_assert_eq(ash_setattr(f.volume, ino, &owner, NULL), 0);
	cr_expect_eq(attr_of(&f, ino).mode & 07777, 0664u);
	fixture_close(&f);
}
