/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Asynchronous reads and overwrites: what is submitted, what must be blocking, and that results arrive. */
#include "file_fixture.h"

#define BLOCKS 64u
#define BYTES (BLOCKS * 4096u)

static const struct ash_open_options options = { .no_threads = true, .atime = ASH_ATIME_NONE };

struct async {
	struct fixture f;
	struct ash_queue *queue;
	uint64_t ino;
	uint8_t *content, *got; /* aligned, BYTES */
	unsigned finished;
	int64_t last;
};

static void async_open(struct async *a)
{
	*a = (struct async){ .content = aligned(BYTES), .got = aligned(BYTES) };
	fixture_open(&a->f, "mem:64M", &options);
	a->ino = make_file(&a->f, "f");
	fill(a->content, BYTES, 1);
	cr_assert_eq(ash_write(a->f.volume, a->ino, a->content, BYTES, 0, ASH_WRITE_THROUGH), BYTES);
	cr_assert_eq(ash_queue_open(a->f.volume, 16, &a->queue), 0);
}

static void async_close(struct async *a)
{
	ash_queue_close(a->queue);
	fixture_close(&a->f);
	bdev_buffer_free(a->content, BYTES);
	bdev_buffer_free(a->got, BYTES);
}

static void on_done(void *user, int64_t result)
{
	struct async *a = user;

	a->finished++;
	a->last = result;
}

static void drain(struct async *a)
{
	while (ash_queue_in_flight(a->queue))
		cr_assert_gt(ash_queue_reap(a->queue, true), 0);
}

Test(file_async, many_reads_are_in_flight_at_once)
{
	struct async a;

	async_open(&a);
	for (unsigned i = 0; i < 16; i++)
		cr_assert_eq(ash_submit_read(a.queue, a.ino, a.got + i * 4096, 4096, i * 4096, on_done, &a), 1);
	cr_assert_eq(ash_submit_read(a.queue, a.ino, a.got, 4096, 0, on_done, &a), 0, "the queue is full");
	drain(&a);
	cr_assert_eq(a.finished, 16);
	cr_assert_eq(memcmp(a.got, a.content, 16 * 4096), 0);
	async_close(&a);
}

Test(file_async, a_read_is_cut_at_the_end)
{
	struct async a;

	async_open(&a);
	cr_assert_eq(set_size(&a.f, a.ino, 5000), 0);
	cr_assert_eq(ash_submit_read(a.queue, a.ino, a.got, 16384, 0, on_done, &a), 1);
	drain(&a);
	cr_assert_eq(a.last, 5000);
	cr_assert_eq(memcmp(a.got, a.content, 5000), 0);
	async_close(&a);
}

Test(file_async, what_needs_more_is_left_to_the_blocking_call)
{
	struct async a;

	async_open(&a);
	cr_assert_eq(ash_submit_read(a.queue, a.ino, a.got, 100, 0, on_done, &a), 0, "odd length");
	cr_assert_eq(ash_submit_read(a.queue, a.ino, a.got, 4096, 1, on_done, &a), 0, "odd offset");
	cr_assert_eq(ash_submit_read(a.queue, a.ino, a.got + 1, 4096, 0, on_done, &a), 0, "odd memory");
	cr_assert_eq(ash_submit_read(a.queue, a.ino, a.got, 4096, BYTES, on_done, &a), 0, "end of file");
	cr_assert_eq(ash_submit_write(a.queue, a.ino, a.got, 4096, BYTES, ASH_WRITE_THROUGH | ASH_WRITE_NO_TIMES,
				      on_done, &a),
		     0, "growing");
	cr_assert_eq(ash_submit_write(a.queue, a.ino, a.got, 4096, 0, ASH_WRITE_NO_TIMES, on_done, &a), 0,
		     "may be buffered");
	cr_assert_eq(ash_write(a.f.volume, a.ino, "x", 1, 0, 0), 1);
	cr_assert_eq(ash_submit_read(a.queue, a.ino, a.got, 4096, 0, on_done, &a), 0, "buffered data");
	async_close(&a);
}

Test(file_async, a_read_that_moves_the_access_time_is_blocking)
{
	struct async a;

	async_open(&a);
	ash_queue_close(a.queue);
	a.f.options.atime = ASH_ATIME_STRICT;
	fixture_remount(&a.f);
	a.ino = find_file(&a.f, "f");
	cr_assert_eq(ash_queue_open(a.f.volume, 16, &a.queue), 0);
	cr_expect_eq(ash_submit_read(a.queue, a.ino, a.got, 4096, 0, on_done, &a), 0);
	struct timespec before = attr_of(&a.f, a.ino).atime;
	cr_expect_eq(ash_submit_read_flags(a.queue, a.ino, a.got, 4096, 0, ASH_READ_NO_ATIME, on_done, &a), 1);
	drain(&a);
	cr_expect_eq(a.last, 4096);
	struct timespec after = attr_of(&a.f, a.ino).atime;
	cr_expect(before.tv_sec == after.tv_sec && before.tv_nsec == after.tv_nsec);
	async_close(&a);
}

Test(file_async, overwrites_are_durable_after_fsync)
{
	struct async a;

	async_open(&a);
	/* What made the file is durable before: the flush below is for the overwrites, not for a record of the file's. */
	cr_assert_eq(ash_sync(a.f.volume), 0);
	fill(a.got, BYTES, 2);
	for (unsigned i = 0; i < 8; i++)
		cr_assert_eq(ash_submit_write(a.queue, a.ino, a.got + i * 8192, 8192, i * 8192,
					      ASH_WRITE_THROUGH | ASH_WRITE_NO_TIMES, on_done, &a),
			     1);
	drain(&a);
	cr_assert_eq(a.last, 8192);
	struct ash_counters before, after;
	ash_counters(a.f.volume, &before);
	cr_assert_eq(ash_fsync(a.f.volume, a.ino, true), 0);
	ash_counters(a.f.volume, &after);
	cr_assert_gt(after.flushes, before.flushes);
	cr_assert_eq(ash_read(a.f.volume, a.ino, a.content, BYTES, 0), BYTES);
	cr_assert_eq(memcmp(a.content, a.got, 65536), 0);
	async_close(&a);
}

Test(file_async, a_device_error_is_the_result)
{
	struct async a;

	async_open(&a);
	fault_add(a.f.dev, &(struct fault_rule){ .ops = FAULT_OP(BDEV_READ), .length = 64 << 20, .count = 1 });
	if (ash_submit_read(a.queue, a.ino, a.got, 8192, 0, on_done, &a)) {
		drain(&a);
		cr_assert_eq(a.last, -EIO);
	}
	fault_clear(a.f.dev);
	async_close(&a);
}
