/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Several files synced together: they share flushes, and each has a result of its own. */
#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <unistd.h>
#include "file_fixture.h"

static const struct ash_open_options quiet = { .no_threads = true };

#define FILES ASH_FSYNC_MAX
#define NOBODY 123456789u

struct batch {
	struct fixture f;
	struct ash_fsync items[FILES];
	uint8_t block[4096];
	uint64_t beside; /* a file that is none of theirs */
	unsigned overwrites;
};

static void batch_open(struct batch *batch)
{
	char name[16];

	fixture_open(&batch->f, "mem:64M", &quiet);
	for (unsigned i = 0; i < FILES; i++) {
		snprintf(name, sizeof(name), "f%u", i);
		batch->items[i] = (struct ash_fsync){ .ino = make_file(&batch->f, name), .result = 1 };
	}
	fill(batch->block, sizeof(batch->block), 1);
}

static void batch_write(struct batch *batch, unsigned flags)
{
	for (unsigned i = 0; i < FILES; i++)
		if (batch->items[i].ino != NOBODY)
			cr_assert_eq(ash_write(batch->f.volume, batch->items[i].ino, batch->block, 4096, 0, flags),
				     4096);
}

static uint64_t flushes(struct batch *batch)
{
	struct ash_counters counters;

	ash_counters(batch->f.volume, &counters);
	return counters.flushes;
}

Test(file_sync, many_files_share_the_flushes_of_one)
{
	struct batch batch;

	batch_open(&batch);
	batch_write(&batch, 0);
	uint64_t before = flushes(&batch);
	ash_fsync_all(batch.f.volume, batch.items, 1);
	uint64_t one = flushes(&batch) - before;
	cr_assert_gt(one, 0);
	batch_write(&batch, 0);
	before = flushes(&batch);
	ash_fsync_all(batch.f.volume, batch.items, FILES);
	cr_expect_leq(flushes(&batch) - before, one);
	for (unsigned i = 0; i < FILES; i++)
		cr_expect_eq(batch.items[i].result, 0);
	fixture_close(&batch.f);
}

static void expect_survives(struct batch *batch, unsigned first)
{
	uint8_t got[4096];
	char name[16];

	fixture_crash(&batch->f);
	for (unsigned i = first; i < FILES; i++) {
		snprintf(name, sizeof(name), "f%u", i);
		cr_assert_eq(ash_read(batch->f.volume, find_file(&batch->f, name), got, sizeof(got), 0), 4096);
		cr_assert_eq(memcmp(got, batch->block, sizeof(got)), 0);
	}
}

/* Somebody overwrites data in place during each flush: it is not theirs, and nobody waits for it. */
static void overwrite_meanwhile(void *context, const struct bdev_request *request)
{
	struct batch *batch = context;

	if (request->op != BDEV_FLUSH)
		return;
	cr_expect_eq(ash_write(batch->f.volume, batch->beside, batch->block, 4096, 0,
			       ASH_WRITE_THROUGH | ASH_WRITE_NO_TIMES),
		     4096);
	batch->overwrites++;
}

/* `count` 0: of a sync of all. `meanwhile`: what happens during each request to the device, if anything. */
static uint64_t flushes_beside(struct batch *batch, void (*meanwhile)(void *, const struct bdev_request *),
			       size_t count)
{
	batch_write(batch, 0);
	uint64_t before = flushes(batch);
	fault_ask(batch->f.dev, meanwhile, batch);
	if (count)
		ash_fsync_all(batch->f.volume, batch->items, count);
	else
		cr_expect_eq(ash_sync(batch->f.volume), 0);
	fault_ask(batch->f.dev, NULL, NULL);
	for (size_t i = 0; i < count; i++)
		cr_expect_eq(batch->items[i].result, 0);
	return flushes(batch) - before;
}

Test(file_sync, a_writer_beside_them_costs_no_flush_for_each)
{
	struct batch batch;

	batch_open(&batch);
	batch.beside = make_file(&batch.f, "beside");
	batch.overwrites = 0;
	cr_assert_eq(ash_write(batch.f.volume, batch.beside, batch.block, 4096, 0, ASH_WRITE_SYNC), 4096);
	uint64_t alone = flushes_beside(&batch, NULL, 1);
	uint64_t one = flushes_beside(&batch, overwrite_meanwhile, 1);
	uint64_t all = flushes_beside(&batch, overwrite_meanwhile, FILES);
	make_file(&batch.f, "another");
	uint64_t whole = flushes_beside(&batch, overwrite_meanwhile, 0);
	cr_expect_gt(batch.overwrites, 0);
	cr_expect_leq(one, alone, "%u flushes, without a writer %u", (unsigned)one, (unsigned)alone);
	cr_expect_leq(all, alone, "%u files: %u flushes", FILES, (unsigned)all);
	cr_expect_leq(whole, alone, "the volume: %u flushes", (unsigned)whole);
	expect_survives(&batch, 0);
	fixture_close(&batch.f);
}

Test(file_sync, all_are_durable)
{
	struct batch batch;

	batch_open(&batch);
	batch_write(&batch, 0);
	for (unsigned i = 0; i < FILES; i += 2)
		batch.items[i].flags = ASH_FSYNC_DATA;
	ash_fsync_all(batch.f.volume, batch.items, FILES);
	expect_survives(&batch, 0);
	fixture_close(&batch.f);
}

Test(file_sync, what_was_written_through_becomes_durable)
{
	struct batch batch;

	batch_open(&batch);
	batch_write(&batch, ASH_WRITE_THROUGH);
	for (unsigned i = 0; i < FILES; i++)
		batch.items[i].flags = ASH_FSYNC_WRITTEN | (i % 2 ? ASH_FSYNC_DATA : 0);
	ash_fsync_all(batch.f.volume, batch.items, FILES);
	expect_survives(&batch, 0);
	fixture_close(&batch.f);
}

/* The first one's data is lost, the second does not exist. */
Test(file_sync, an_error_is_of_its_file_alone)
{
	struct batch batch;

	batch_open(&batch);
	batch.items[1].ino = NOBODY;
	cr_assert_eq(ash_write(batch.f.volume, batch.items[0].ino, batch.block, 4096, 0, 0), 4096);
	fault_add(batch.f.dev, &(struct fault_rule){ .ops = FAULT_OP(BDEV_WRITE), .length = 64 << 20 });
	cr_assert_eq(ash_write_back(batch.f.volume, batch.items[0].ino), -EIO);
	fault_clear(batch.f.dev);
	batch_write(&batch, 0);
	ash_fsync_all(batch.f.volume, batch.items, FILES);
	cr_expect_eq(batch.items[0].result, -EIO);
	cr_expect_lt(batch.items[1].result, 0);
	for (unsigned i = 2; i < FILES; i++)
		cr_expect_eq(batch.items[i].result, 0);
	expect_survives(&batch, 2);
	fixture_close(&batch.f);
}

Test(file_sync, a_write_behind_error_is_kept_for_fsync)
{
	struct batch batch;

	batch_open(&batch);
	cr_assert_eq(ash_write(batch.f.volume, batch.items[0].ino, batch.block, 4096, 0, 0), 4096);
	fault_add(batch.f.dev, &(struct fault_rule){ .ops = FAULT_OP(BDEV_WRITE), .length = 64 << 20 });
	cr_assert_eq(ash_write_back(batch.f.volume, batch.items[0].ino), -EIO);
	fault_clear(batch.f.dev);
	batch.items[0].flags = ASH_FSYNC_WRITTEN;
	ash_fsync_all(batch.f.volume, batch.items, 1);
	cr_expect_eq(batch.items[0].result, 0);
	cr_expect_eq(ash_fsync(batch.f.volume, batch.items[0].ino, false), -EIO);
	fixture_close(&batch.f);
}

/* Two callers of one file: what was lost may have been the data of either. */
Test(file_sync, all_who_sync_a_file_are_told_of_its_loss)
{
	struct batch batch;

	batch_open(&batch);
	batch.items[2].ino = batch.items[0].ino;
	cr_assert_eq(ash_write(batch.f.volume, batch.items[0].ino, batch.block, 4096, 0, 0), 4096);
	fault_add(batch.f.dev, &(struct fault_rule){ .ops = FAULT_OP(BDEV_WRITE), .length = 64 << 20 });
	cr_assert_eq(ash_write_back(batch.f.volume, batch.items[0].ino), -EIO);
	fault_clear(batch.f.dev);
	ash_fsync_all(batch.f.volume, batch.items, 3);
	cr_expect_eq(batch.items[0].result, -EIO);
	cr_expect_eq(batch.items[1].result, 0);
	cr_expect_eq(batch.items[2].result, -EIO);
	cr_expect_eq(ash_fsync(batch.f.volume, batch.items[0].ino, false), 0, "it was told of");
	cr_expect_eq(ash_sync(batch.f.volume), 0, "it was told of");
	fixture_close(&batch.f);
}

/* ---- Several syncs at the same time ---- */

static struct batch *meeting;
static pthread_t second;
static uint64_t second_ino; /* 0: of all */
static int second_result = 1;
static _Thread_local bool is_second;
static atomic_bool second_waits;

static void note_wait(void *context)
{
	(void)context;
	if (is_second)
		second_waits = true;
}

static void note_nothing(void *context)
{
	(void)context;
}

static void *sync_second(void *argument)
{
	(void)argument;
	is_second = true;
	second_result = second_ino ? ash_fsync(meeting->f.volume, second_ino, false) : ash_sync(meeting->f.volume);
	return NULL;
}

/* While the first one writes, the second one begins, and waits for it. */
static void begin_second(void *context, const struct bdev_request *request)
{
	(void)context;
	if (request->op != BDEV_WRITE || second_waits)
		return;
	cr_assert_eq(pthread_create(&second, NULL, sync_second, NULL), 0);
	for (unsigned i = 0; i < 5000 && !second_waits; i++)
		usleep(1000);
}

static uint64_t meeting_open(struct batch *batch)
{
	const struct ash_open_options options = { .no_threads = true,
						  .wait_begin = note_wait,
						  .wait_end = note_nothing };

	meeting = batch;
	fixture_open(&batch->f, "mem:64M", &options);
	fill(batch->block, sizeof(batch->block), 1);
	return make_file(&batch->f, "f");
}

/*
 * Data is buffered, and lost when the first one writes it: the second one has begun by then. Both may take turns at
 * writing it, so no number of failures is enough; the log is no part of what fails, as both force it.
 */
static void meeting_prepare(struct batch *batch, uint64_t ino)
{
	cr_assert_eq(ash_write(batch->f.volume, ino, batch->block, 4096, 0, 0), 4096);
	fault_add(batch->f.dev, &(struct fault_rule){ .ops = FAULT_OP(BDEV_WRITE),
						      .offset = data_start(&batch->f),
						      .length = 64 << 20 });
	fault_ask(batch->f.dev, begin_second, batch);
}

static void meeting_end(struct batch *batch)
{
	pthread_join(second, NULL);
	fault_ask(batch->f.dev, NULL, NULL);
	fault_clear(batch->f.dev);
}

/* What both were to make durable was lost: the one that found out is not the only one to tell. */
Test(file_sync, syncs_at_once_tell_of_a_loss_each, .timeout = 60)
{
	struct batch batch;
	uint64_t ino = meeting_open(&batch), begin = ash_sync_begin(batch.f.volume);

	meeting_prepare(&batch, ino);
	cr_expect_eq(ash_sync(batch.f.volume), -EIO);
	meeting_end(&batch);
	cr_expect_eq(second_result, -EIO);
	cr_expect_eq(ash_sync(batch.f.volume), 0, "it was told of");
	cr_expect_eq(ash_sync_since(batch.f.volume, begin), -EIO, "but not before he came who still waits");
	cr_expect_eq(ash_fsync(batch.f.volume, ino, false), -EIO);
	fixture_close(&batch.f);
}

Test(file_sync, fsyncs_at_once_tell_of_a_loss_each, .timeout = 60)
{
	struct batch batch;
	uint64_t ino = meeting_open(&batch);

	second_ino = ino;
	meeting_prepare(&batch, ino);
	cr_expect_eq(ash_fsync(batch.f.volume, ino, false), -EIO);
	meeting_end(&batch);
	cr_expect_eq(second_result, -EIO);
	cr_expect_eq(ash_fsync(batch.f.volume, ino, false), 0, "it was told of");
	cr_expect_eq(ash_sync(batch.f.volume), 0, "it was told of");
	fixture_close(&batch.f);
}

/* What a sync was to make durable was lost, and an fsync tells of it first: the sync must not say that all is there. */
Test(file_sync, a_sync_tells_of_a_loss_that_an_fsync_told_of_meanwhile)
{
	struct batch batch;

	batch_open(&batch);
	uint64_t ino = batch.items[0].ino, begin = ash_sync_begin(batch.f.volume);
	cr_assert_eq(ash_write(batch.f.volume, ino, batch.block, 4096, 0, 0), 4096);
	fault_add(batch.f.dev, &(struct fault_rule){ .ops = FAULT_OP(BDEV_WRITE), .length = 64 << 20 });
	cr_assert_eq(ash_write_back(batch.f.volume, ino), -EIO);
	fault_clear(batch.f.dev);
	uint64_t behind = ash_sync_begin(batch.f.volume);
	cr_expect_eq(ash_fsync(batch.f.volume, ino, false), -EIO);
	cr_expect_eq(ash_sync_since(batch.f.volume, begin), -EIO, "begun before the loss");
	cr_expect_eq(ash_sync_since(batch.f.volume, behind), -EIO, "begun before it was told of");
	cr_expect_eq(ash_sync(batch.f.volume), 0, "it was told of");
	fixture_close(&batch.f);
}

/* ---- Waits that are put off ---- */

static void change_much(struct batch *batch)
{
	struct ash_volume *volume = batch->f.volume;
	struct ash_setattr mode = { .valid = ASH_SET_MODE, .mode = 0600 };
	struct ash_attr attr;

	batch_write(batch, 0);
	make_file(&batch->f, "made");
	cr_assert_eq(ash_rename(volume, 1, "made", 1, "moved", 0), 0);
	cr_assert_eq(ash_link(volume, find_file(&batch->f, "moved"), 1, "linked", &attr), 0);
	cr_assert_eq(ash_setattr(volume, attr.ino, &mode, &attr), 0);
	cr_assert_eq(ash_setxattr(volume, attr.ino, "user.a", "b", 1, 0), 0);
	cr_assert_eq(ash_fallocate(volume, attr.ino, 0, 0, 65536), 0);
	make_file(&batch->f, "gone");
	cr_assert_eq(ash_unlink(volume, 1, "gone", NULL), 0);
}

/* As with `-o sync`: they are made without a flush, then one wait is for all, and then they survive. */
Test(file_sync, waits_that_are_put_off_are_one)
{
	struct batch batch;
	struct ash_attr attr;
	uint64_t lsn;

	batch_open(&batch);
	cr_assert_eq(ash_sync(batch.f.volume), 0);
	ash_set_sync(batch.f.volume, true);
	ash_defer_begin(batch.f.volume);
	cr_expect_not(ash_defer_is_due());
	uint64_t before = flushes(&batch);
	change_much(&batch);
	cr_expect_eq(flushes(&batch), before, "nobody waited");
	cr_expect(ash_defer_is_due());
	cr_assert(ash_defer_end(&lsn));
	struct ash_fsync item = { .flags = ASH_FSYNC_LSN, .lsn = lsn, .result = 1 };
	ash_fsync_all(batch.f.volume, &item, 1);
	cr_expect_eq(item.result, 0);
	cr_expect_gt(flushes(&batch), before);
	expect_survives(&batch, 0);
	cr_assert_eq(ash_getattr(batch.f.volume, find_file(&batch.f, "linked"), &attr), 0);
	cr_expect_eq(attr.mode & 07777, 0600);
	cr_expect_eq(attr.size, 65536);
	cr_expect_eq(ash_lookup(batch.f.volume, 1, "gone", &attr), -ENOENT);
	fixture_close(&batch.f);
}

Test(file_sync, nothing_is_put_off_unasked)
{
	struct batch batch, other;
	uint64_t lsn;

	batch_open(&batch);
	batch_open(&other);
	ash_defer_begin(batch.f.volume);
	change_much(&batch);
	cr_expect_not(ash_defer_is_due(), "nothing of that had to be durable");
	ash_set_sync(other.f.volume, true);
	uint64_t before = flushes(&other);
	make_file(&other.f, "made");
	cr_expect_gt(flushes(&other), before, "another volume waits");
	cr_expect_not(ash_defer_end(&lsn));
	ash_set_sync(batch.f.volume, true);
	before = flushes(&batch);
	make_file(&batch.f, "waits");
	cr_expect_gt(flushes(&batch), before, "waits are not put off any more");
	fixture_close(&batch.f);
	fixture_close(&other.f);
}
