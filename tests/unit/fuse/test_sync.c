/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Requests that wait for the device's flush, or write from the page cache, while as many workers as may be do so
 * already: what is kept is served later.
 */
#include "front_stubs.h"

#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

/* ---- The volume, and one more of the front end ---- */

static uint64_t next_begin; /* of ash_sync_begin() */
static uint64_t since[8];   /* what each ash_sync_since() was told */
static unsigned syncs;

uint64_t ash_sync_begin(struct ash_volume *volume)
{
	(void)volume;
	return next_begin;
}

int ash_sync_since(struct ash_volume *volume, uint64_t begin)
{
	(void)volume;
	since[syncs++] = begin;
	return 0;
}

void ash_fsync_all(struct ash_volume *volume, struct ash_fsync *items, size_t count)
{
	(void)volume;
	for (size_t i = 0; i < count; i++)
		items[i].result = 0;
}

void request_attach(struct request *request, struct request *spare)
{
	(void)request;
	free(spare);
}

/* ---- Tests ---- */

static void keep_syncfs(struct front *front, uint64_t begin)
{
	struct request *request = calloc(1, sizeof(*request));

	cr_assert_not_null(request);
	request->front = front;
	request->opcode = FUSE_SYNCFS;
	next_begin = begin;
	cr_assert(sync_serve(request, 0), "kept");
}

/* As many workers as may wait do so. */
static struct front *front_open(struct worker *worker)
{
	struct front *front = aligned_alloc(_Alignof(struct front), sizeof(*front));

	cr_assert_not_null(front);
	memset(front, 0, sizeof(*front));
	pthread_mutex_init(&front->syncs.lock, NULL);
	front->syncs.kept_end = &front->syncs.kept;
	front->syncs.writes_end = &front->syncs.writes;
	front->syncs.limit = front->syncs.active = 1;
	*worker = (struct worker){ .front = front, .syncing = true };
	current_worker = worker;
	return front;
}

/* Two workers note when their requests came, and are not kept in that order: the sync counts from the earlier one. */
Test(sync, one_for_all_counts_from_the_first_that_came)
{
	struct worker worker;
	struct front *front = front_open(&worker);

	/* half of what is kept is taken at a time: of these four the first two */
	keep_syncfs(front, 6);
	keep_syncfs(front, 5);
	keep_syncfs(front, 7);
	keep_syncfs(front, 7);
	sync_finish(&worker);
	cr_expect_eq(answered, 4);
	cr_expect_eq(finished, 4);
	cr_assert_eq(syncs, 3);
	cr_expect_eq(since[0], 5);
	free(front);
}

/* ---- WRITEs from the page cache ---- */

static unsigned written, told_of;
static size_t write_length = 4096;

static bool write_job(struct request *request)
{
	cr_expect_eq(request->nodeid, written++, "in the order of arrival");
	/* of every fourth one the kernel is told, in the notifier's thread */
	if (request->nodeid % 4)
		return false;
	told_of++;
	free(request);
	return true;
}

static bool keep_write(struct front *front, uint64_t number)
{
	struct request *request = calloc(1, sizeof(*request));

	cr_assert_not_null(request);
	*request = (struct request){ .front = front, .opcode = FUSE_WRITE, .nodeid = number, .length = write_length };
	bool kept = write_keep(request, write_job);
	if (!kept)
		free(request);
	return kept;
}

/* All workers but two, whatever they wait for; what the kernel sends beyond that is done afterwards. */
Test(sync, writes_leave_workers_for_others)
{
	enum { LIMIT = 6, FLUSHES = 2 };
	struct worker workers[LIMIT];
	struct front *front = front_open(&workers[0]);

	front->syncs.limit = LIMIT;
	front->syncs.active = FLUSHES;
	for (unsigned i = 0; i < LIMIT - FLUSHES; i++) {
		workers[i] = (struct worker){ .front = front };
		current_worker = &workers[i];
		cr_expect_not(keep_write(front, 0));
		cr_expect(workers[i].writing);
	}
	current_worker = &(struct worker){ .front = front };
	for (unsigned i = 0; i < FRONT_QUEUE_DEPTH; i++)
		cr_expect(keep_write(front, i));
	cr_expect_not(current_worker->writing);
	for (unsigned i = 0; i < LIMIT - FLUSHES; i++)
		write_finish(&workers[i]);
	cr_expect_eq(written, FRONT_QUEUE_DEPTH);
	cr_expect_eq(finished + told_of, FRONT_QUEUE_DEPTH);
	cr_expect_eq(front->syncs.writing, 0);
	free(front);
}

/* Those who wait for a flush may wait for its data: one writes always. */
Test(sync, a_write_is_let_in_when_all_others_wait_for_flushes)
{
	struct worker worker;
	struct front *front = front_open(&worker);

	cr_expect_not(keep_write(front, 0));
	cr_expect(keep_write(front, 0));
	write_finish(&worker);
	cr_expect_eq(written, 1);
	cr_expect_not(keep_write(front, 0));
	free(front);
}

/* Never more than the kernel sends at once, nor too much data: beyond that a worker does it at once. */
Test(sync, kept_writes_are_bounded)
{
	struct worker worker;
	struct front *front = front_open(&worker);

	cr_expect_not(keep_write(front, 0));
	for (unsigned i = 0; i < FRONT_QUEUE_DEPTH; i++)
		cr_expect(keep_write(front, i));
	cr_expect_not(keep_write(front, 0));
	cr_expect_eq(front->syncs.writing, 2);
	write_finish(&worker);
	cr_expect_eq(front->syncs.writing, 1);
	written = 0;
	write_length = FRONT_MAX_WRITE;
	for (unsigned i = 0; i < 4; i++)
		cr_expect(keep_write(front, i));
	cr_expect_not(keep_write(front, 0));
	write_finish(&worker);
	cr_expect_eq(written, 4);
	cr_expect_eq(front->syncs.writes_bytes, 0);
	free(front);
}
