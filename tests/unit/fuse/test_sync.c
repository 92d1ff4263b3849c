/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Requests that wait for the device's flush, or write, while as many workers as may be do so already: what is kept is
 * served later.
 */
#include "front_stubs.h"

#include <criterion/criterion.h>
#include <errno.h>
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

static int late_result; /* of a wait that was put off */
static uint64_t last_lsn;
static unsigned flushes; /* that one or several waited for */
static uint64_t now_ns = UINT64_C(1000000000);

void ash_fsync_all(struct ash_volume *volume, struct ash_fsync *items, size_t count)
{
	(void)volume;
	flushes++;
	for (size_t i = 0; i < count; i++) {
		items[i].result = items[i].flags & ASH_FSYNC_LSN ? late_result : 0;
		last_lsn = items[i].lsn;
	}
}

static uint64_t forgotten;   /* inode of the last ash_forget() */
static uint64_t links_fewer; /* of the last notify_links_changed() */

void notify_links_changed(struct front *front, uint64_t ino, bool others)
{
	(void)front;
	cr_expect(others, "they may have been served while the reply waited");
	links_fewer = ino;
}

void ash_forget(struct ash_volume *volume, uint64_t ino, uint64_t lookups)
{
	(void)volume;
	cr_expect_eq(lookups, 1);
	forgotten = ino;
}

static unsigned answered_before; /* attributes were asked for */

int ash_getattr(struct ash_volume *volume, uint64_t ino, struct ash_attr *attr)
{
	(void)volume;
	answered_before = answered;
	*attr = (struct ash_attr){ .ino = ino };
	return 0;
}

uint64_t full_validity(struct front *front, uint64_t ino)
{
	(void)front;
	(void)ino;
	return 1;
}

static uint64_t renewed; /* inode whose attributes were put into the last reply */

void attr_to_fuse(const struct ash_attr *attr, struct fuse_attr *out)
{
	(void)out;
	renewed = attr->ino;
}

void attr_to_fuse_entry(const struct ash_attr *attr, struct fuse_entry_out *out)
{
	attr_to_fuse(attr, &out->attr);
}

void request_attach(struct request *request, struct request *spare)
{
	(void)request;
	free(spare);
}

struct request *request_shrink(struct request *request)
{
	request->memory_size = request->length;
	return request_detach(request);
}

uint64_t front_now_ns(void)
{
	return now_ns;
}

bool session_run(struct request *request, bool (*handler)(struct request *request))
{
	return handler(request) || (due && request->late_length && sync_serve_late(request, 12345));
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

static struct worker dispatcher;

/* As many workers as may wait do so: this one. */
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
	dispatcher = (struct worker){ .front = front };
	current_worker = &dispatcher;
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

/* ---- Replies that wait until what they acknowledge is durable ---- */

/* Its reply is kept, and then waits for 12345. */
static bool reply_late(struct front *front, uint32_t opcode)
{
	struct request *request = calloc(1, sizeof(*request));
	struct fuse_out_header out = { .len = sizeof(out) + sizeof(struct fuse_entry_out), .unique = 7 };
	struct fuse_entry_out entry = { .nodeid = 77 };
	const struct iovec iov[2] = { { &out, sizeof(out) }, { &entry, sizeof(entry) } };
	unsigned before = answered;

	cr_assert_not_null(request);
	*request = (struct request){ .front = front, .opcode = opcode, .nodeid = 1, .unique = 7 };
	due = false;
	cr_expect_not(sync_keep_reply(request, iov, 2), "nothing is to be durable first");
	due = true;
	cr_expect_not(sync_keep_reply(request, iov, 2), "the reply to another request");
	current_worker->request = request;
	request->late_links = 78;
	cr_assert(sync_keep_reply(request, iov, 2));
	cr_expect_eq(request->late_length, out.len);
	cr_expect_eq(memcmp(request->late + sizeof(out), &entry, sizeof(entry)), 0);
	bool kept = sync_serve_late(request, 12345);
	current_worker->request = NULL;
	if (kept)
		cr_expect_eq(answered, before);
	else
		free(request);
	return kept;
}

Test(sync, a_late_reply_waits)
{
	struct worker worker;
	struct front *front = front_open(&worker);

	cr_assert(reply_late(front, FUSE_MKDIR), "as many as may be wait");
	cr_expect_eq(links_fewer, 0, "the kernel has not counted yet");
	sync_finish(&worker);
	cr_expect_eq(last_lsn, 12345);
	cr_expect_eq(answered, 1);
	cr_expect_eq(finished, 1);
	cr_expect_eq(forgotten, 0, "the kernel has the inode now");
	cr_expect_eq(links_fewer, 78);
	cr_expect_not(reply_late(front, FUSE_MKDIR), "there is a place");
	cr_expect_eq(answered, 2);
	free(front);
}

/* The kernel may have been told of what has changed since: it would go on showing what was before. */
Test(sync, a_late_reply_says_what_is)
{
	struct worker worker;
	struct front *front = front_open(&worker);

	cr_assert(reply_late(front, FUSE_MKDIR));
	sync_finish(&worker);
	cr_expect_eq(renewed, 0, "nobody else knows it");
	cr_expect_not(reply_late(front, FUSE_SETATTR));
	cr_expect_eq(renewed, 1);
	sync_finish(&dispatcher);
	cr_expect_not(reply_late(front, FUSE_LINK));
	cr_expect_eq(renewed, 77, "not the folder");
	free(front);
}

/* Somebody may be writing that inode: no other reply waits for it. */
Test(sync, what_needs_attributes_is_answered_last)
{
	struct worker worker;
	struct front *front = front_open(&worker);

	/* half of what is kept is taken at a time: of these four the first two */
	cr_assert(reply_late(front, FUSE_SETATTR));
	cr_assert(reply_late(front, FUSE_MKDIR));
	cr_assert(reply_late(front, FUSE_UNLINK));
	cr_assert(reply_late(front, FUSE_UNLINK));
	sync_finish(&worker);
	cr_expect_eq(answered, 4);
	cr_expect_eq(answered_before, 1);
	free(front);
}

/* It was done, but is not durable, and never will be: the caller gets the error, and no inode with it. */
Test(sync, a_late_reply_becomes_an_error)
{
	struct worker worker;
	struct front *front = front_open(&worker);

	late_result = -EIO;
	cr_assert(reply_late(front, FUSE_SETATTR));
	cr_assert(reply_late(front, FUSE_UNLINK));
	sync_finish(&worker);
	cr_expect_eq(answered, 2);
	cr_expect_eq(forgotten, 0, "these give no inode");
	cr_expect_not(reply_late(front, FUSE_MKDIR));
	cr_expect_eq(forgotten, 77);
	free(front);
}

/* ---- WRITEs, and copies ---- */

static unsigned written, told_of;
static const struct {
	struct fuse_in_header in;
	struct fuse_write_in write;
} pages = { .write = { .write_flags = FUSE_WRITE_CACHE } }, direct;

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

static bool keep(struct front *front, uint32_t opcode, uint64_t number)
{
	struct request *request = calloc(1, sizeof(*request));

	cr_assert_not_null(request);
	*request = (struct request){
		.front = front, .opcode = opcode, .argument = &pages.write, .nodeid = number, .length = FRONT_MAX_WRITE
	};
	bool kept = write_keep(request, write_job);
	if (!kept)
		free(request);
	return kept;
}

static bool keep_write(struct front *front, uint64_t number)
{
	return keep(front, FUSE_WRITE, number);
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

/* Whatever they wait for, it is all workers but two; one syncs always. */
Test(sync, syncs_leave_workers_for_others_beside_writes)
{
	struct worker worker;
	struct front *front = front_open(&worker);

	front->syncs.limit = 6;
	front->syncs.writing = 4;
	cr_expect_not(reply_late(front, FUSE_MKDIR), "one place is left");
	sync_finish(&dispatcher);
	front->syncs.writing++;
	cr_expect(reply_late(front, FUSE_MKDIR), "none is");
	sync_finish(&worker);
	cr_expect_eq(answered, 2);
	cr_expect_eq(front->syncs.active, 0);
	front->syncs.writing++;
	cr_expect_not(reply_late(front, FUSE_MKDIR), "nobody else would take it");
	cr_expect_eq(front->syncs.active, 1);
	free(front);
}

/* Those who wait for a flush may wait for its data: one writes always. */
Test(sync, a_write_is_let_in_when_all_others_wait_for_flushes)
{
	struct worker worker;
	struct front *front = front_open(&worker);
	cr_expect_not(keep_write(front, 0));
	cr_expect(keep_write(front, 0));
	write_finish(&dispatcher);
	cr_expect_eq(written, 1);
	cr_expect_not(keep_write(front, 0));
	free(front);
}

/* Never more than the kernel sends at once, of whatever size: beyond that a worker does it at once. */
Test(sync, kept_writes_are_bounded)
{
	struct worker worker;
	struct front *front = front_open(&worker);
	cr_expect_not(keep_write(front, 0));
	for (unsigned i = 0; i < FRONT_QUEUE_DEPTH; i++)
		cr_expect(keep_write(front, i));
	cr_expect_not(keep_write(front, 0));
	cr_expect_eq(front->syncs.writing, 2);
	write_finish(&dispatcher);
	cr_expect_eq(front->syncs.writing, 1);
	cr_expect_eq(written, FRONT_QUEUE_DEPTH);
	free(front);
}

/* There are as many as callers. The kernel's WRITEs find room beside them. */
Test(sync, any_number_of_copies_is_kept)
{
	struct worker worker;
	struct front *front = front_open(&worker);
	unsigned number = 0;

	cr_expect_not(keep(front, FUSE_COPY_FILE_RANGE, 0));
	while (number < 4 * FRONT_QUEUE_DEPTH)
		cr_expect(keep(front, FUSE_COPY_FILE_RANGE, number++));
	for (unsigned i = 0; i < FRONT_QUEUE_DEPTH; i++)
		cr_expect(keep_write(front, number++));
	cr_expect_not(keep_write(front, 0));
	write_finish(&dispatcher);
	cr_expect_eq(written, number);
	cr_expect_eq(front->syncs.pages_count, 0);
	free(front);
}

/* They have memory of their own, short ones no more than they need: beyond 64 MiB a worker does it at once. */
Test(sync, kept_direct_writes_are_bounded)
{
	enum { LONG = 1 << 20, SHORT = 4096 + 80 };
	struct worker worker;
	struct front *front = front_open(&worker);
	unsigned number = 0, last = 0;
	bool kept;

	cr_expect_not(keep_write(front, 0));
	do {
		struct request *request = calloc(1, sizeof(*request));

		cr_assert_not_null(request);
		*request = (struct request){ .front = front,
					     .opcode = FUSE_WRITE,
					     .argument = &direct.write,
					     .nodeid = number,
					     .memory_size = LONG,
					     .length = number < 60 ? LONG : SHORT };
		kept = write_keep(request, write_job);
		number += kept;
		if (!kept)
			free(request);
		last = number;
	} while (kept);
	cr_expect_eq(last, 60 + ((4u << 20) - LONG) / SHORT + 1);
	cr_expect_eq(front->syncs.writing, 2);
	cr_expect(keep_write(front, number), "those from the page cache have a bound of their own");
	write_finish(&dispatcher);
	cr_expect_eq(written, number + 1);
	cr_expect_eq(front->syncs.direct_bytes, 0);
	cr_expect_eq(front->syncs.pages_count, 0);
	free(front);
}

/* Where nobody waits for flushes, whoever writes does so, too; with others it is left to them. */
Test(sync, who_writes_leaves_syncs_to_others)
{
	struct worker worker;
	struct front *front = front_open(&worker);

	front->syncs.active = 0;
	cr_expect_not(keep_write(front, 0));
	cr_expect_not(reply_late(front, FUSE_WRITE), "nobody else would");
	cr_expect_eq(answered, 1);
	cr_expect(dispatcher.syncing);
	cr_expect_eq(front->syncs.active, 1);
	cr_expect_eq(front->syncs.both, 1);
	cr_expect(reply_late(front, FUSE_WRITE), "one waits, who takes it along");
	write_finish(&dispatcher);
	cr_expect_eq(front->syncs.writing, 0);
	cr_expect_eq(front->syncs.both, 0);
	sync_finish(&dispatcher);
	cr_expect_eq(answered, 2);
	cr_expect_eq(front->syncs.active, 0);
	free(front);
}

/* One who syncs is enough for any number of callers: the others make room for WRITEs, whoever came first. */
Test(sync, who_syncs_makes_room_for_writes)
{
	enum { WRITES = 3 };
	struct worker worker;
	struct front *front = front_open(&worker);

	front->syncs.limit = front->syncs.active = 2;
	cr_expect_not(keep_write(front, 0));
	current_worker = &(struct worker){ .front = front };
	for (unsigned i = 0; i < WRITES; i++)
		cr_expect(keep_write(front, i));
	keep_syncfs(front, 1);
	sync_finish(&worker);
	cr_expect_eq(written, WRITES);
	cr_expect_eq(answered, 0, "that is left to the other one");
	cr_expect_eq(front->syncs.active, 1);
	cr_expect_eq(front->syncs.writing, 1);
	cr_expect(keep_write(front, WRITES), "the other two have their places");
	worker.syncing = true;
	sync_finish(&worker);
	cr_expect_eq(answered, 1, "the last one stays");
	cr_expect_eq(front->syncs.active, 0);
	write_finish(&dispatcher);
	cr_expect_eq(written, WRITES + 1);
	free(front);
}

static uint64_t write_ns; /* that one takes */

static bool durable_job(struct request *request)
{
	struct fuse_out_header out = { .len = sizeof(out) };
	const struct iovec iov = { &out, sizeof(out) };

	cr_expect(sync_keep_reply(request, &iov, 1), "it is the worker's request now");
	written++;
	now_ns += write_ns;
	return false;
}

/* 64 WRITEs and copies that have to be durable are done by one worker, with nobody else who syncs. */
static struct front *durable_writes(unsigned count)
{
	static struct worker worker;
	struct front *front = front_open(&worker);
	struct request own = { .front = front };

	front->syncs.active = 0;
	cr_expect_not(keep_write(front, 0));
	for (unsigned i = 0; i < count; i++) {
		struct request *request = calloc(1, sizeof(*request));

		cr_assert_not_null(request);
		*request = (struct request){ .front = front,
					     .opcode = i % 2 ? FUSE_WRITE : FUSE_COPY_FILE_RANGE,
					     .argument = &pages.write };
		cr_assert(write_keep(request, durable_job));
	}
	dispatcher.request = &own;
	due = true;
	write_finish(&dispatcher);
	cr_expect_eq(dispatcher.request, &own);
	cr_expect_eq(written, count);
	cr_expect_eq(front->syncs.writing, 0);
	return front;
}

/* They are written first, then all wait for a few flushes: half of them for the first, and so on. */
Test(sync, what_is_kept_of_writes_shares_flushes)
{
	struct front *front = durable_writes(64);

	sync_finish(&dispatcher);
	cr_expect_eq(answered, 64);
	cr_expect_eq(finished, 64);
	cr_expect_leq(flushes, 2 + 7, "two alone, and 62 by halves");
	cr_expect_eq(last_lsn, 12345);
	cr_expect_eq(front->syncs.active, 0);
	free(front);
}

/* The first ones do not wait until the last is written. */
Test(sync, who_writes_syncs_in_turn)
{
	struct front *front;

	write_ns = 20000000;
	front = durable_writes(64);
	cr_expect_geq(flushes, 64 / 3 - 2, "one for three writes, which take 60 ms");
	cr_expect_lt(flushes, 64 / 2);
	cr_expect_gt(answered, 64 / 2);
	sync_finish(&dispatcher);
	cr_expect_eq(answered, 64);
	free(front);
}
