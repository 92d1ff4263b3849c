/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Asynchronous writes in flight while others change part of the same block: what was acknowledged stays. The delay layer
 * holds the read of the others' read-modify-write, or the asynchronous write itself.
 */
#include "file_fixture.h"
#include "tests/support/delay.h"

#include <linux/falloc.h>
#include <pthread.h>
#include <unistd.h>

#define BYTES 16384u
#define AT 4096u /* the block that is fought for */
#define ASYNC_FLAGS (ASH_WRITE_THROUGH | ASH_WRITE_NO_TIMES)
#define MILLISECOND 1000000u

static const struct ash_open_options options = { .no_threads = true, .atime = ASH_ATIME_NONE };

struct race {
	struct fixture f;
	struct ash_queue *queue;
	uint64_t ino;
	uint64_t device_offset; /* of the block */
	uint8_t *late, *got;    /* a block each */
	unsigned finished;
	int64_t last;
};

static uint64_t make_full(struct race *race, const char *name)
{
	uint64_t ino = make_file(&race->f, name);
	uint8_t *content = aligned(BYTES);

	memset(content, 'o', BYTES);
	cr_assert_eq(ash_write(race->f.volume, ino, content, BYTES, 0, ASH_WRITE_THROUGH), BYTES);
	bdev_buffer_free(content, BYTES);
	return ino;
}

static void race_open(struct race *race)
{
	uint64_t block;

	*race = (struct race){ .late = aligned(4096), .got = aligned(4096) };
	fixture_open(&race->f, "mem:64M", &options);
	cr_assert_eq(ash_close(race->f.volume), 0);
	cr_assert_eq(delay_open(race->f.dev, &race->f.dev), 0);
	fixture_mount(&race->f);
	race->ino = make_full(race, "f");
	memset(race->late, 'A', 4096);
	cr_assert_eq(ash_sync(race->f.volume), 0);
	cr_assert_eq(ash_bmap(race->f.volume, race->ino, AT / 4096, &block), 0);
	race->device_offset = block * 4096;
	cr_assert_eq(ash_queue_open(race->f.volume, 16, &race->queue), 0);
}

static void race_close(struct race *race)
{
	ash_queue_close(race->queue);
	fixture_close(&race->f);
	bdev_buffer_free(race->late, 4096);
	bdev_buffer_free(race->got, 4096);
}

static void delay_block(struct race *race, enum bdev_op op, unsigned count, uint64_t nanoseconds)
{
	const struct delay_rule rule = { .ops = DELAY_OP(op),
					 .offset = race->device_offset,
					 .length = 4096,
					 .count = count,
					 .nanoseconds = nanoseconds };

	delay_set(race->f.dev, &rule);
}

static void on_done(void *user, int64_t result)
{
	struct race *race = user;

	race->finished++;
	race->last = result;
}

static int submit(struct race *race)
{
	return ash_submit_write(race->queue, race->ino, race->late, 4096, AT, ASYNC_FLAGS, on_done, race);
}

static void drain(struct race *race)
{
	while (ash_queue_in_flight(race->queue))
		cr_assert_gt(ash_queue_reap(race->queue, true), 0);
}

/* ---- Changes of part of the block, and what they leave of a write that was there before ---- */

static int cut_and_grow(struct race *race)
{
	int rc = set_size(&race->f, race->ino, AT + 100);

	return rc ? rc : set_size(&race->f, race->ino, BYTES);
}

static int punch(struct race *race)
{
	return ash_fallocate(race->f.volume, race->ino, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, AT, 100);
}

static int zero_range(struct race *race)
{
	return ash_fallocate(race->f.volume, race->ino, FALLOC_FL_ZERO_RANGE, AT + 100, 8192);
}

static int write_direct(struct race *race)
{
	return ash_write(race->f.volume, race->ino, "BBBBBBBB", 8, AT + 8, ASH_WRITE_THROUGH) == 8 ? 0 : -EIO;
}

static int write_buffered(struct race *race)
{
	return ash_write(race->f.volume, race->ino, "BBBBBBBB", 8, AT + 8, 0) == 8 ? 0 : -EIO;
}

static const struct change {
	const char *name;
	int (*run)(struct race *race);
	unsigned begin, end; /* bytes of the block that it changes */
	uint8_t to;
} changes[] = {
	{ "truncate and grow", cut_and_grow, 100, 4096, 0 },
	{ "punch", punch, 0, 100, 0 },
	{ "zero range", zero_range, 100, 4096, 0 },
	{ "small direct write", write_direct, 8, 16, 'B' },
	{ "small buffered write", write_buffered, 8, 16, 'B' },
};
#define CHANGES (sizeof(changes) / sizeof(changes[0]))

static void check_block(struct race *race, const struct change *change)
{
	unsigned wrong = 0;

	cr_assert_eq(ash_fsync(race->f.volume, race->ino, false), 0);
	cr_assert_eq(ash_read(race->f.volume, race->ino, race->got, 4096, AT), 4096);
	for (unsigned i = 0; i < 4096; i++)
		wrong += race->got[i] != (i >= change->begin && i < change->end ? change->to : 'A');
	cr_expect_eq(wrong, 0, "%s: %u bytes are wrong", change->name, wrong);
}

struct job {
	struct race *race;
	const struct change *change;
	bool returned;
	pthread_t thread;
};

static void *job_main(void *argument)
{
	struct job *job = argument;

	cr_expect_eq(job->change->run(job->race), 0, "%s", job->change->name);
	__atomic_store_n(&job->returned, true, __ATOMIC_RELEASE);
	return NULL;
}

static void job_start(struct job *job)
{
	cr_assert_eq(pthread_create(&job->thread, NULL, job_main, job), 0);
}

/*
 * The write is accepted, and reaches the device when the other thread has read the old block, if that does not wait: as
 * on a device that works on several requests at once.
 */
static void write_lands_within(const struct change *change)
{
	struct race race;
	struct job job = { .race = &race, .change = change };

	race_open(&race);
	delay_block(&race, BDEV_READ, 1, DELAY_HELD);
	cr_assert_eq(submit(&race), 1);
	job_start(&job);
	for (unsigned i = 0; i < 100 && !delay_caught(race.f.dev); i++)
		usleep(2000);
	drain(&race);
	cr_expect_eq(race.last, 4096);
	delay_release(race.f.dev);
	pthread_join(job.thread, NULL);
	check_block(&race, change);
	race_close(&race);
}

Test(file_async_races, what_was_acknowledged_is_not_undone, .timeout = 60)
{
	for (unsigned i = 0; i < CHANGES; i++)
		write_lands_within(&changes[i]);
}

Test(file_async_races, a_change_waits_for_the_write_on_the_device, .timeout = 60)
{
	for (unsigned i = 0; i < CHANGES; i++) {
		struct race race;
		struct job job = { .race = &race, .change = &changes[i] };

		race_open(&race);
		delay_block(&race, BDEV_WRITE, 1, DELAY_HELD);
		cr_assert_eq(submit(&race), 1);
		ash_queue_kick(race.queue);
		job_start(&job);
		usleep(50000);
		cr_expect_not(__atomic_load_n(&job.returned, __ATOMIC_ACQUIRE), "%s", changes[i].name);
		delay_release(race.f.dev);
		drain(&race);
		pthread_join(job.thread, NULL);
		check_block(&race, &changes[i]);
		race_close(&race);
	}
}

/* Nobody else would reap. */
Test(file_async_races, the_thread_of_the_queue_reaps_by_itself, .timeout = 60)
{
	for (unsigned i = 0; i < 2 * CHANGES; i++) {
		const struct change *change = &changes[i / 2];
		struct race race;

		race_open(&race);
		delay_block(&race, BDEV_WRITE, 1, 20 * MILLISECOND);
		cr_assert_eq(submit(&race), 1);
		if (i % 2)
			ash_queue_kick(race.queue);
		cr_expect_eq(change->run(&race), 0, "%s", change->name);
		cr_expect_eq(race.finished, 1, "%s", change->name);
		cr_expect_eq(race.last, 4096);
		check_block(&race, change);
		race_close(&race);
	}
}

Test(file_async_races, whole_blocks_wait_for_nothing, .timeout = 60)
{
	struct race race;
	uint8_t *block = aligned(4096);

	race_open(&race);
	delay_block(&race, BDEV_WRITE, 1, DELAY_HELD);
	cr_assert_eq(submit(&race), 1);
	ash_queue_kick(race.queue);
	memset(block, 'C', 4096);
	cr_expect_eq(ash_write(race.f.volume, race.ino, block, 4096, 0, ASH_WRITE_THROUGH), 4096);
	cr_expect_eq(ash_write(race.f.volume, race.ino, block, 4096, BYTES, ASH_WRITE_THROUGH), 4096);
	cr_expect_eq(ash_read(race.f.volume, race.ino, race.got, 4096, 0), 4096);
	cr_expect_eq(race.finished, 0);
	delay_release(race.f.dev);
	drain(&race);
	race_close(&race);
	bdev_buffer_free(block, 4096);
}

/* So that a stream of them cannot keep the change waiting for ever. */
Test(file_async_races, new_writes_stay_out_while_a_change_waits, .timeout = 60)
{
	struct race race;
	struct job job = { .race = &race, .change = &changes[1] };
	unsigned tries = 0;

	race_open(&race);
	delay_block(&race, BDEV_WRITE, 1, DELAY_HELD);
	cr_assert_eq(submit(&race), 1);
	ash_queue_kick(race.queue);
	job_start(&job);
	while (submit(&race) == 1 && ++tries < 2000) {
		while (ash_queue_in_flight(race.queue) > 1)
			cr_assert_geq(ash_queue_reap(race.queue, false), 0);
		usleep(1000);
	}
	cr_expect_lt(tries, 2000);
	delay_release(race.f.dev);
	drain(&race);
	pthread_join(job.thread, NULL);
	cr_expect_eq(submit(&race), 1, "it let them in again");
	drain(&race);
	race_close(&race);
}

/* ---- Two threads, each with a queue, each in the other's way ---- */

struct rival {
	struct race *race;
	struct ash_queue *queue;
	uint64_t mine, theirs;
	pthread_barrier_t *barrier;
};

static void *rival_main(void *argument)
{
	struct rival *rival = argument;
	struct race own = *rival->race;

	cr_assert_eq(ash_queue_open(own.f.volume, 4, &own.queue), 0);
	for (unsigned round = 0; round < 20; round++) {
		own.ino = rival->mine;
		cr_expect_eq(submit(&own), 1);
		pthread_barrier_wait(rival->barrier);
		own.ino = rival->theirs;
		cr_expect_eq(write_direct(&own), 0);
		drain(&own);
		pthread_barrier_wait(rival->barrier);
	}
	cr_expect_eq(own.finished, 20);
	ash_queue_close(own.queue);
	return NULL;
}

Test(file_async_races, two_that_wait_for_each_other_both_end, .timeout = 60)
{
	struct race race;
	struct rival rivals[2];
	pthread_barrier_t barrier;
	pthread_t thread;

	race_open(&race);
	uint64_t other = make_full(&race, "g");
	pthread_barrier_init(&barrier, NULL, 2);
	rivals[0] = (struct rival){ .race = &race, .mine = race.ino, .theirs = other, .barrier = &barrier };
	rivals[1] = (struct rival){ .race = &race, .mine = other, .theirs = race.ino, .barrier = &barrier };
	cr_assert_eq(pthread_create(&thread, NULL, rival_main, &rivals[1]), 0);
	rival_main(&rivals[0]);
	pthread_join(thread, NULL);
	pthread_barrier_destroy(&barrier);
	race_close(&race);
}

/* ---- All at once ---- */

struct storm {
	struct race *race;
	bool stop;
	unsigned changes;
};

static void *storm_main(void *argument)
{
	struct storm *storm = argument;

	while (!__atomic_load_n(&storm->stop, __ATOMIC_RELAXED)) {
		cr_expect_eq((storm->changes % 3 ? punch : write_direct)(storm->race), 0);
		if (storm->changes++ % 16 == 0)
			cr_expect_eq(write_buffered(storm->race), 0);
		usleep(200);
	}
	return NULL;
}

/* As an event loop does it: what is not submitted is written at once. */
static void write_any_way(struct race *race)
{
	unsigned before = race->finished;

	if (submit(race) == 1) {
		while (race->finished == before)
			cr_assert_geq(ash_queue_reap(race->queue, true), 0);
		cr_expect_eq(race->last, 4096);
	} else {
		cr_expect_eq(ash_write(race->f.volume, race->ino, race->late, 4096, AT, ASYNC_FLAGS), 4096);
	}
}

Test(file_async_races, writes_and_changes_at_once, .timeout = 120)
{
	struct race race;
	struct storm storm = { .race = &race };
	pthread_t thread;
	unsigned lost = 0;

	race_open(&race);
	/* The read is done at once and answered later: long enough for a write to land. */
	delay_block(&race, BDEV_READ, 0, 100000);
	cr_assert_eq(pthread_create(&thread, NULL, storm_main, &storm), 0);
	for (unsigned round = 1; round <= 500; round++) {
		memset(race.late, (int)(round % 255 + 1), 4096);
		write_any_way(&race);
		cr_assert_eq(ash_read(race.f.volume, race.ino, race.got, 4096, AT), 4096);
		lost += memcmp(race.got + 100, race.late + 100, 4096 - 100) != 0;
	}
	__atomic_store_n(&storm.stop, true, __ATOMIC_RELAXED);
	pthread_join(thread, NULL);
	cr_expect_eq(lost, 0, "%u of 500 acknowledged writes", lost);
	cr_expect_gt(storm.changes, 0);
	cr_expect_gt(race.finished, 0);
	race_close(&race);
}
