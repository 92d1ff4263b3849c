/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Requests that wait for the device's flush, while as many workers as may be wait already: what is kept is served
 * together later.
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

/* Two workers note when their requests came, and are not kept in that order: the sync counts from the earlier one. */
Test(sync, one_for_all_counts_from_the_first_that_came)
{
	struct front *front = aligned_alloc(_Alignof(struct front), sizeof(*front));
	struct worker worker = { .syncing = true };

	cr_assert_not_null(front);
	memset(front, 0, sizeof(*front));
	pthread_mutex_init(&front->syncs.lock, NULL);
	front->syncs.kept_end = &front->syncs.kept;
	front->syncs.limit = front->syncs.active = 1;
	worker.front = front;
	current_worker = &worker;
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
