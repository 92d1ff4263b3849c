/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Write-behind: the flush of pages that are scattered over a file writes many of them at once, and what becomes of the
 * others when one of them fails is as if they had gone one after the other.
 */
#include <linux/falloc.h>
#include <pthread.h>
#include <stdio.h>
#include <unistd.h>
#include "file_fixture.h"
#include "fs/volume.h"

#define PAGE 4096u
#define STRIDE (4 * PAGE)
#define PAGES 300u

static const struct ash_open_options quiet = { .no_threads = true };
static bool no_queues;

int __real_bdev_queue_open(struct bdev *dev, unsigned depth, struct bdev_queue **out);
int __wrap_bdev_queue_open(struct bdev *dev, unsigned depth, struct bdev_queue **out);

int __wrap_bdev_queue_open(struct bdev *dev, unsigned depth, struct bdev_queue **out)
{
	return no_queues ? -ENOMEM : __real_bdev_queue_open(dev, depth, out);
}

/* A volume whose requests are counted; `f->dev` is what counts. */
static uint64_t open_counted(struct fixture *f)
{
	fixture_open(f, "mem:64M", &quiet);
	uint64_t ino = make_file(f, "f");
	cr_assert_eq(ash_close(f->volume), 0);
	cr_assert_eq(bdev_stats_open(f->dev, &f->dev), 0);
	fixture_mount(f);
	return ino;
}

static struct bdev_stats_kind sync_counted(struct fixture *f, uint64_t ino)
{
	struct bdev_stats stats;

	bdev_stats_reset(f->dev);
	cr_assert_eq(ash_fsync(f->volume, ino, false), 0);
	bdev_stats_get(f->dev, &stats);
	return stats.write;
}

/* All blocks of the file, in one piece. */
static void write_old(struct fixture *f, uint64_t ino, unsigned pages)
{
	uint8_t *bytes = aligned((size_t)pages * STRIDE);

	fill(bytes, (size_t)pages * STRIDE, 1);
	cr_assert_eq(ash_write(f->volume, ino, bytes, (size_t)pages * STRIDE, 0, ASH_WRITE_THROUGH),
		     (int64_t)pages * STRIDE);
	cr_assert_eq(ash_sync(f->volume), 0);
	bdev_buffer_free(bytes, (size_t)pages * STRIDE);
}

static void page_content(uint8_t bytes[PAGE], unsigned number)
{
	fill(bytes, PAGE, 100 + number);
}

/* One page of each stride is buffered. */
static void scatter(struct fixture *f, uint64_t ino, unsigned from, unsigned to)
{
	uint8_t bytes[PAGE];

	for (unsigned i = from; i < to; i++) {
		page_content(bytes, i);
		cr_assert_eq(ash_write(f->volume, ino, bytes, PAGE, (uint64_t)i * STRIDE, 0), PAGE);
	}
}

static bool page_is_new(struct fixture *f, uint64_t ino, unsigned number)
{
	uint8_t bytes[PAGE], got[PAGE];

	page_content(bytes, number);
	return ash_read(f->volume, ino, got, PAGE, (uint64_t)number * STRIDE) == PAGE && !memcmp(got, bytes, PAGE);
}

static void expect_new(struct fixture *f, unsigned from, unsigned to)
{
	uint64_t ino = find_file(f, "f");

	for (unsigned i = from; i < to; i++)
		cr_expect(page_is_new(f, ino, i), "page %u", i);
}

static void expect_new_but(struct fixture *f, unsigned lost, unsigned to)
{
	uint64_t ino = find_file(f, "f");

	for (unsigned i = 0; i < to; i++)
		cr_expect_eq(page_is_new(f, ino, i), i != lost, "page %u", i);
}

/* Pages from `from` on, on a fresh mount: their neighbours in the file are neighbours in memory as well. */
static void write_run(struct fixture *f, uint64_t ino, unsigned from, unsigned pages)
{
	uint8_t bytes[PAGE];

	for (unsigned i = from; i < from + pages; i++) {
		page_content(bytes, i);
		cr_assert_eq(ash_write(f->volume, ino, bytes, PAGE, (uint64_t)i * PAGE, 0), PAGE);
	}
}

static bool run_is_new(struct fixture *f, uint64_t ino, unsigned from, unsigned pages)
{
	uint8_t bytes[PAGE], got[PAGE];

	for (unsigned i = from; i < from + pages; i++) {
		page_content(bytes, i);
		if (ash_read(f->volume, ino, got, PAGE, (uint64_t)i * PAGE) != PAGE || memcmp(got, bytes, PAGE))
			return false;
	}
	return true;
}

Test(wbuf_scattered, pages_overwritten_in_place_go_together)
{
	struct fixture f;
	uint64_t ino = open_counted(&f);

	write_old(&f, ino, PAGES);
	scatter(&f, ino, 0, PAGES);
	struct bdev_stats_kind writes = sync_counted(&f, ino);
	cr_expect_geq(writes.requests, PAGES);
	cr_expect_geq(writes.in_flight_max, 64, "%llu", (unsigned long long)writes.in_flight_max);
	fixture_crash(&f);
	expect_new(&f, 0, PAGES);
	fixture_close(&f);
}

/* Their blocks lie one behind the other. */
Test(wbuf_scattered, new_pages_of_a_sparse_file_are_few_writes)
{
	struct fixture f;
	uint64_t ino = open_counted(&f);

	scatter(&f, ino, 0, PAGES);
	struct bdev_stats_kind writes = sync_counted(&f, ino);
	cr_expect_lt(writes.requests, PAGES / 10, "%llu", (unsigned long long)writes.requests);
	fixture_crash(&f);
	expect_new(&f, 0, PAGES);
	fixture_close(&f);
}

/* More changes of the map than a transaction has room for. */
Test(wbuf_scattered, pages_of_an_unwritten_extent_go_together)
{
	uint8_t got[PAGE], zero[PAGE] = { 0 };
	struct fixture f;
	uint64_t ino = open_counted(&f);

	cr_assert_eq(ash_fallocate(f.volume, ino, 0, 0, (uint64_t)PAGES * STRIDE), 0);
	cr_assert_eq(ash_sync(f.volume), 0);
	scatter(&f, ino, 0, PAGES);
	struct bdev_stats_kind writes = sync_counted(&f, ino);
	cr_expect_geq(writes.in_flight_max, 32, "%llu", (unsigned long long)writes.in_flight_max);
	cr_expect_lt(writes.requests, PAGES * 3 / 2, "%llu", (unsigned long long)writes.requests);
	fixture_crash(&f);
	expect_new(&f, 0, PAGES);
	for (unsigned i = 0; i < PAGES; i++) {
		cr_assert_eq(ash_read(f.volume, find_file(&f, "f"), got, PAGE, (uint64_t)i * STRIDE + PAGE), PAGE);
		cr_expect_eq(memcmp(got, zero, PAGE), 0, "behind page %u", i);
	}
	fixture_close(&f);
}

/* Runs that adjoin in the file adjoin on the device, although nothing is mapped yet when the later ones are claimed. */
Test(wbuf_scattered, a_long_run_stays_in_one_piece)
{
	enum { LENGTH = 256 << 10, PARTS = 24 };
	uint8_t *bytes = aligned(LENGTH);
	struct fixture f;
	uint64_t first, block;

	fixture_open(&f, "mem:64M", &quiet);
	uint64_t ino = make_file(&f, "f");
	fill(bytes, LENGTH, 1);
	for (uint64_t i = 0; i < PARTS; i++)
		cr_assert_eq(ash_write(f.volume, ino, bytes, LENGTH, i * LENGTH, 0), LENGTH);
	cr_assert_eq(ash_fsync(f.volume, ino, false), 0);
	cr_assert_eq(ash_bmap(f.volume, ino, 0, &first), 0);
	for (uint64_t i = 0; i < PARTS * LENGTH / PAGE; i++) {
		cr_assert_eq(ash_bmap(f.volume, ino, i, &block), 0);
		cr_assert_eq(block, first + i);
	}
	bdev_buffer_free(bytes, LENGTH);
	fixture_close(&f);
}

/* No memory or contexts for a queue: one after the other, as ever. */
Test(wbuf_scattered, without_a_queue_they_are_written_all_the_same)
{
	struct fixture f;

	fixture_open(&f, "mem:64M", &quiet);
	uint64_t ino = make_file(&f, "f");
	write_old(&f, ino, PAGES / 2);
	scatter(&f, ino, 0, PAGES);
	no_queues = true;
	cr_assert_eq(ash_fsync(f.volume, ino, false), 0);
	no_queues = false;
	fixture_crash(&f);
	expect_new(&f, 0, PAGES);
	fixture_close(&f);
}

/* ---- Several threads, each with a queue ---- */

#define THREADS 3u

struct writer {
	pthread_t thread;
	struct fixture *f;
	uint64_t ino;
};

static void *writer_main(void *argument)
{
	struct writer *writer = argument;

	for (unsigned round = 0; round < 10; round++) {
		scatter(writer->f, writer->ino, round % 2 * 20, 100);
		cr_assert_eq(ash_fsync(writer->f->volume, writer->ino, false), 0);
	}
	return NULL;
}

Test(wbuf_scattered, several_files_at_a_time)
{
	struct writer writers[THREADS];
	struct fixture f;
	char name[8];

	fixture_open(&f, "mem:64M", &quiet);
	for (unsigned i = 0; i < THREADS; i++) {
		snprintf(name, sizeof(name), "f%u", i);
		writers[i] = (struct writer){ .f = &f, .ino = make_file(&f, name) };
		cr_assert_eq(pthread_create(&writers[i].thread, NULL, writer_main, &writers[i]), 0);
	}
	for (unsigned i = 0; i < THREADS; i++) {
		pthread_join(writers[i].thread, NULL);
		for (unsigned page = 0; page < 100; page++)
			cr_expect(page_is_new(&f, writers[i].ino, page), "file %u, page %u", i, page);
	}
	fixture_close(&f);
}

/* ---- One of them fails ---- */

enum { MANY = 100, BAD = 40 };

/* Before anything is buffered: to ask where a block lies writes that out. */
static void fail_page(struct fixture *f, uint64_t ino, unsigned number, int error)
{
	struct fault_rule rule = { .ops = FAULT_OP(BDEV_WRITE), .length = PAGE, .error = error };
	uint64_t block;

	cr_assert_eq(ash_bmap(f->volume, ino, (uint64_t)number * STRIDE / PAGE, &block), 0);
	rule.offset = block * PAGE;
	cr_assert_eq(fault_add(f->dev, &rule), 0);
}

/* A file of which all is to be overwritten, and BAD fails. */
static uint64_t open_with_bad(struct fixture *f, int error)
{
	fixture_open(f, "mem:64M", &quiet);
	uint64_t ino = make_file(f, "f");
	write_old(f, ino, MANY);
	fail_page(f, ino, BAD, error);
	scatter(f, ino, 0, MANY);
	return ino;
}

/* It alone is lost, and that is told once. */
static void one_fails(bool queues)
{
	struct fixture f;
	uint64_t ino = open_with_bad(&f, -EIO);

	no_queues = !queues;
	cr_expect_eq(ash_fsync(f.volume, ino, false), -EIO);
	fault_clear(f.dev);
	cr_expect_eq(ash_fsync(f.volume, ino, false), 0, "once");
	no_queues = false;
	expect_new_but(&f, BAD, MANY);
	fixture_crash(&f);
	expect_new_but(&f, BAD, MANY);
	fixture_close(&f);
}

Test(wbuf_scattered, a_page_that_fails_is_lost_alone)
{
	one_fails(true);
}

Test(wbuf_scattered, a_page_that_fails_is_lost_alone_without_a_queue)
{
	one_fails(false);
}

/* Pages that adjoin are one request, of which one sector is bad. */
Test(wbuf_scattered, a_page_that_fails_is_lost_alone_among_neighbours)
{
	uint8_t *bytes = aligned(STRIDE * MANY), *got = aligned(STRIDE * MANY);
	enum { PAGES_ALL = STRIDE / PAGE * MANY, LOST = BAD * STRIDE / PAGE };
	struct fixture f;

	fixture_open(&f, "mem:64M", &quiet);
	uint64_t ino = make_file(&f, "f");
	write_old(&f, ino, MANY);
	fail_page(&f, ino, BAD, -EIO);
	fill(bytes, STRIDE * MANY, 7);
	for (unsigned i = 0; i < MANY; i++)
		cr_assert_eq(ash_write(f.volume, ino, bytes + i * STRIDE, STRIDE, (uint64_t)i * STRIDE, 0), STRIDE);
	cr_expect_eq(ash_fsync(f.volume, ino, false), -EIO);
	fault_clear(f.dev);
	fixture_crash(&f);
	cr_assert_eq(ash_read(f.volume, find_file(&f, "f"), got, STRIDE * MANY, 0), STRIDE * MANY);
	for (unsigned i = 0; i < PAGES_ALL; i++)
		cr_expect_eq(!memcmp(got + i * PAGE, bytes + i * PAGE, PAGE), i != LOST, "page %u", i);
	bdev_buffer_free(bytes, STRIDE * MANY);
	bdev_buffer_free(got, STRIDE * MANY);
	fixture_close(&f);
}

/*
 * What lies behind the end of file in its block is not zeroes on the device. When that block cannot be written again, the
 * file must not grow over it (I2).
 */
Test(wbuf_scattered, the_page_at_the_end_of_file_fails)
{
	enum { OLD = 2 * PAGE + 100 };
	uint8_t bytes[STRIDE], got[STRIDE];
	struct fixture f;

	fixture_open(&f, "mem:64M", &quiet);
	uint64_t ino = make_file(&f, "f");
	write_old(&f, ino, 1);
	cr_assert_eq(set_size(&f, ino, OLD), 0);
	cr_assert_eq(ash_sync(f.volume), 0);
	cr_assert_eq(ash_read(f.volume, ino, got, OLD, 0), OLD);
	uint64_t block;
	cr_assert_eq(ash_bmap(f.volume, ino, OLD / PAGE, &block), 0);
	fault_add(f.dev, &(struct fault_rule){ .ops = FAULT_OP(BDEV_WRITE), .offset = block * PAGE, .length = PAGE });
	fill(bytes, STRIDE, 7);
	cr_assert_eq(ash_write(f.volume, ino, bytes, STRIDE, STRIDE, 0), STRIDE);
	cr_expect_eq(ash_fsync(f.volume, ino, false), -EIO);
	fault_clear(f.dev);
	cr_expect_eq(attr_of(&f, ino).size, OLD);
	fixture_crash(&f);
	ino = find_file(&f, "f");
	cr_expect_eq(attr_of(&f, ino).size, OLD);
	cr_assert_eq(ash_read(f.volume, ino, bytes, STRIDE, 0), OLD);
	cr_expect_eq(memcmp(bytes, got, OLD), 0);
	fixture_close(&f);
}

/* ---- A bad block among those that are new ---- */

/* The first long write of data finds a bad block in itself, which stays bad. */
struct bad_block {
	struct bdev *dev;
	uint64_t offset; /* 0: not met yet */
};

static void ask_bad(void *context, const struct bdev_request *request)
{
	struct bad_block *bad = context;

	if (request->op != BDEV_WRITE || bad->offset || request->length < 16 * PAGE)
		return;
	bad->offset = request->offset + 11 * PAGE;
	fault_add(bad->dev, &(struct fault_rule){ .ops = FAULT_OP(BDEV_WRITE), .offset = bad->offset, .length = PAGE });
}

/* Written out without a loss, while that is asked at each request. How many failed? */
static unsigned sync_asking(struct fixture *f, uint64_t ino, void (*ask)(void *, const struct bdev_request *),
			    struct bad_block *bad)
{
	fault_ask(f->dev, ask, bad);
	cr_expect_eq(ash_fsync(f->volume, ino, false), 0);
	fault_ask(f->dev, NULL, NULL);
	unsigned hits = fault_hits(f->dev);
	fault_clear(f->dev);
	return hits;
}

/* Runs with a hole of one page between them, and a block that is bad in the first of them: one request, if they are new. */
static void one_bad_in_runs(unsigned first, unsigned pages, unsigned runs)
{
	struct fixture f;

	fixture_open(&f, "mem:64M", &quiet);
	uint64_t ino = make_file(&f, "f");
	struct bad_block bad = { .dev = f.dev };

	write_run(&f, ino, 0, first);
	for (unsigned i = 0; i < runs; i++)
		write_run(&f, ino, first + 1 + i * (pages + 1), pages);
	cr_expect_geq(sync_asking(&f, ino, ask_bad, &bad), 1);
	fixture_crash(&f);
	ino = find_file(&f, "f");
	cr_expect(run_is_new(&f, ino, 0, first));
	for (unsigned i = 0; i < runs; i++)
		cr_expect(run_is_new(&f, ino, first + 1 + i * (pages + 1), pages), "run %u", i);
	fixture_close(&f);
}

/* More pages in one request than a request has vectors, since they adjoin: half of that is still too many. */
Test(wbuf_scattered, a_bad_block_in_a_request_of_many_pages_is_exchanged, .timeout = 60)
{
	one_bad_in_runs(1500, 700, 1);
}

Test(wbuf_scattered, a_bad_block_in_a_request_of_many_runs_is_exchanged, .timeout = 60)
{
	one_bad_in_runs(256, 256, 8);
}

/* What failed once, of a length that is no power of two, is written in pieces that grow again, up to the most there may be. */
Test(wbuf_scattered, a_request_that_failed_once_is_written_in_pieces, .timeout = 60)
{
	enum { OLD = 700, ALL = 2600 };
	struct fixture f;

	fixture_open(&f, "mem:64M", &quiet);
	uint64_t ino = make_file(&f, "f");
	write_run(&f, ino, 0, OLD);
	cr_assert_eq(ash_sync(f.volume), 0);
	write_run(&f, ino, 0, ALL);
	fault_add(f.dev, &(struct fault_rule){ .ops = FAULT_OP(BDEV_WRITE), .count = 1 });
	cr_expect_eq(ash_fsync(f.volume, ino, false), 0);
	fault_clear(f.dev);
	cr_expect(run_is_new(&f, ino, 0, ALL));
	fixture_close(&f);
}

/* All blocks but `left` are another file's. */
static void fill_volume(struct fixture *f, unsigned left)
{
	enum { PIECE = 64 * PAGE };
	uint8_t *bytes = aligned(PIECE);
	uint64_t ino = make_file(f, "filler"), size = 0;

	for (size_t length = PIECE; length >= PAGE; length /= 2)
		while (ash_write(f->volume, ino, bytes, length, size, ASH_WRITE_THROUGH) == (int64_t)length)
			size += length;
	cr_assert_eq(set_size(f, ino, size - (uint64_t)left * PAGE), 0);
	cr_assert_eq(ash_sync(f->volume), 0);
	bdev_buffer_free(bytes, PIECE);
}

/* Halves need no more room than the whole: what is exchanged is one block. */
Test(wbuf_scattered, a_bad_block_is_exchanged_on_a_volume_that_is_nearly_full, .timeout = 60)
{
	enum { ALL = 1000 };
	struct fixture f;

	fixture_open(&f, "mem:64M", &quiet);
	uint64_t ino = make_file(&f, "f");
	struct bad_block bad = { .dev = f.dev };

	fill_volume(&f, ALL + 50);
	write_run(&f, ino, 0, ALL);
	cr_expect_geq(sync_asking(&f, ino, ask_bad, &bad), 5);
	fixture_crash(&f);
	cr_expect(run_is_new(&f, find_file(&f, "f"), 0, ALL));
	fixture_close(&f);
}

/* What needs the file written out has no part in the loss. */
Test(wbuf_scattered, a_loss_is_no_error_of_the_next_change)
{
	struct fixture f;
	uint64_t ino = open_with_bad(&f, -EIO);
	uint8_t bytes[PAGE] __attribute__((aligned(PAGE)));

	fill(bytes, PAGE, 5);
	cr_expect_eq(ash_write(f.volume, ino, bytes, PAGE, STRIDE * MANY, ASH_WRITE_THROUGH), PAGE);
	cr_expect_eq(ash_fsync(f.volume, ino, false), -EIO);
	scatter(&f, ino, BAD, BAD + 1);
	cr_expect_eq(ash_fallocate(f.volume, ino, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, PAGE, PAGE), 0);
	cr_expect_eq(ash_fsync(f.volume, ino, false), -EIO);
	scatter(&f, ino, BAD, BAD + 1);
	cr_expect_eq(ash_seek(f.volume, ino, 0, SEEK_HOLE), PAGE);
	cr_expect_eq(ash_fsync(f.volume, ino, false), -EIO, "it alone tells");
	cr_expect_eq(ash_fsync(f.volume, ino, false), 0);
	fixture_close(&f);
}

/* ---- Many bad blocks ---- */

enum { EVERY = 97 };

/* Each block of the device with a number that is divisible: more than one flush remembers. */
static void ask_many(void *context, const struct bdev_request *request)
{
	struct bad_block *bad = context;
	uint64_t first = request->offset / PAGE, last = (request->offset + request->length - 1) / PAGE;

	fault_clear(bad->dev);
	if (request->op == BDEV_WRITE && bad->offset <= request->offset &&
	    (first % EVERY == 0 || first / EVERY != last / EVERY))
		fault_add(bad->dev, &(struct fault_rule){ .ops = FAULT_OP(BDEV_WRITE), .count = 1 });
}

Test(wbuf_scattered, many_bad_blocks_are_exchanged, .timeout = 60)
{
	enum { ALL = 2600 };
	struct fixture f;
	uint64_t block;

	fixture_open(&f, "mem:64M", &quiet);
	uint64_t ino = make_file(&f, "f");
	struct bad_block bad = { .dev = f.dev, .offset = data_start(&f) };

	write_run(&f, ino, 0, ALL);
	sync_asking(&f, ino, ask_many, &bad);
	for (unsigned i = 0; i < ALL; i++) {
		cr_assert_eq(ash_bmap(f.volume, ino, i, &block), 0);
		cr_expect_neq(block % EVERY, 0, "page %u", i);
	}
	fixture_crash(&f);
	cr_expect(run_is_new(&f, find_file(&f, "f"), 0, ALL));
	fixture_close(&f);
}

/* Its data goes elsewhere: nothing is lost, and only that block is not in the file. */
Test(wbuf_scattered, a_bad_block_is_exchanged)
{
	struct fixture f;

	fixture_open(&f, "mem:64M", &quiet);
	uint64_t ino = make_file(&f, "f"), other = make_file(&f, "g"), block;
	uint64_t before = free_blocks(&f);
	struct bad_block bad = { .dev = f.dev };

	scatter(&f, ino, 0, PAGES);
	cr_expect_geq(sync_asking(&f, ino, ask_bad, &bad), 2);
	for (unsigned i = 0; i < PAGES; i++) {
		cr_assert_eq(ash_bmap(f.volume, ino, (uint64_t)i * STRIDE / PAGE, &block), 0);
		cr_expect_neq(block, bad.offset / PAGE, "page %u", i);
	}
	cr_expect_eq(ash_fsync(f.volume, other, false), 0);
	fixture_crash(&f);
	expect_new(&f, 0, PAGES);
	cr_assert_eq(set_size(&f, find_file(&f, "f"), 0), 0);
	cr_assert_eq(ash_sync(f.volume), 0);
	cr_expect_eq(free_blocks(&f), before);
	fixture_close(&f);
}

/* The page stays in the buffer, and those behind it. */
Test(wbuf_scattered, an_error_that_may_go_away_loses_nothing)
{
	struct fixture f;
	uint64_t ino = open_with_bad(&f, -ENOSPC);

	cr_expect_eq(ash_fsync(f.volume, ino, false), -ENOSPC);
	fault_clear(f.dev);
	expect_new(&f, 0, MANY);
	cr_expect_eq(ash_fsync(f.volume, ino, false), 0);
	fixture_crash(&f);
	expect_new(&f, 0, MANY);
	fixture_close(&f);
}

/* A device that takes no new block, wherever it lies: no page of them, no block, no size. */
Test(wbuf_scattered, new_blocks_that_cannot_be_written_are_given_back)
{
	struct fixture f;

	fixture_open(&f, "mem:64M", &quiet);
	uint64_t ino = make_file(&f, "f");
	write_old(&f, ino, 10);
	uint64_t before = free_blocks(&f);
	scatter(&f, ino, 0, 30);
	/* Ten in place, then the new ones. */
	cr_assert_eq(fault_add(f.dev, &(struct fault_rule){ .ops = FAULT_OP(BDEV_WRITE), .skip = 10 }), 0);
	cr_expect_eq(ash_fsync(f.volume, ino, false), -EIO);
	cr_expect_leq(fault_hits(f.dev), 64 + 16, "%u", fault_hits(f.dev)); /* together, then one by one */
	fault_clear(f.dev);
	cr_expect_eq(ash_fsync(f.volume, ino, false), 0, "once");
	cr_expect_eq(attr_of(&f, ino).size, 10 * STRIDE);
	cr_expect_eq(free_blocks(&f), before);
	scatter(&f, ino, 0, 30);
	cr_expect_eq(ash_fsync(f.volume, ino, false), 0);
	fixture_crash(&f);
	expect_new(&f, 0, 30);
	fixture_close(&f);
}

/* All kinds in turn, and each of the first writes fails in its turn: pages are whole, and nothing is left of a claim. */
Test(wbuf_scattered, any_write_may_fail)
{
	enum { ALL = 90 };

	for (unsigned skip = 0; skip < 70; skip++) {
		struct fixture f;

		fixture_open(&f, "mem:64M", &quiet);
		uint64_t ino = make_file(&f, "f");
		write_old(&f, ino, 20);
		cr_assert_eq(ash_fallocate(f.volume, ino, 0, 20 * STRIDE, 20 * STRIDE), 0);
		cr_assert_eq(ash_fallocate(f.volume, ino, 0, 60 * STRIDE, 10 * STRIDE), 0);
		cr_assert_eq(ash_sync(f.volume), 0);
		scatter(&f, ino, 0, ALL);
		fault_add(f.dev, &(struct fault_rule){ .ops = FAULT_OP(BDEV_WRITE), .skip = skip, .count = 1 });
		int rc = ash_write_back(f.volume, ino);
		fault_clear(f.dev);
		cr_expect(rc == 0 || rc == -EIO);
		cr_expect_eq(ash_fsync(f.volume, ino, false), rc);
		if (!rc)
			expect_new(&f, 0, ALL);
		/* Again: what is there now must be as good as new. */
		scatter(&f, ino, 0, ALL);
		cr_expect_eq(ash_fsync(f.volume, ino, false), 0);
		fixture_crash(&f);
		expect_new(&f, 0, ALL);
		fixture_close(&f);
	}
}
