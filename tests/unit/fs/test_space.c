/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Space that was freed but is not available yet. */
#include <linux/falloc.h>
#include <pthread.h>
#include <unistd.h>
#include "file_fixture.h"
#include "fs/alloc_group.h"
#include "fs/engine.h"
#include "fs/wbuf.h"
#include "tests/support/delay.h"

#define PIECE (1u << 20)

/* Set: this thread pauses behind each unlock of this one, so that others come in between. */
static _Thread_local pthread_mutex_t *pause_behind;
/* Set: this thread is slow to wake when this one is unlocked. */
static _Thread_local pthread_mutex_t *late_for;

int __real_pthread_mutex_lock(pthread_mutex_t *mutex);
int __wrap_pthread_mutex_lock(pthread_mutex_t *mutex);

int __wrap_pthread_mutex_lock(pthread_mutex_t *mutex)
{
	if (mutex != late_for)
		return __real_pthread_mutex_lock(mutex);
	while (pthread_mutex_trylock(mutex))
		usleep(1000);
	return 0;
}

int __real_pthread_mutex_unlock(pthread_mutex_t *mutex);
int __wrap_pthread_mutex_unlock(pthread_mutex_t *mutex);

int __wrap_pthread_mutex_unlock(pthread_mutex_t *mutex)
{
	int error = __real_pthread_mutex_unlock(mutex);

	if (mutex == pause_behind)
		usleep(50000);
	return error;
}

static void *run_checkpoint(void *context)
{
	struct fixture *f = context;

	cr_expect_eq(ash_checkpoint(f->volume), 0);
	return NULL;
}

struct releaser {
	struct fixture *f;
	_Atomic bool released;
};

static void *release_later(void *context)
{
	struct releaser *releaser = context;

	usleep(300000);
	releaser->released = true;
	delay_release(releaser->f->dev);
	return NULL;
}

static _Atomic size_t sorted; /* elements, of all that qsort() was given */

void __real_qsort(void *base, size_t count, size_t size, int (*compare)(const void *, const void *));
void __wrap_qsort(void *base, size_t count, size_t size, int (*compare)(const void *, const void *));

void __wrap_qsort(void *base, size_t count, size_t size, int (*compare)(const void *, const void *))
{
	sorted += count;
	__real_qsort(base, count, size, compare);
}

/* One file that takes all the space. */
static uint64_t fill_up(struct fixture *f, uint8_t *bytes)
{
	uint64_t big = make_file(f, "big"), at = 0;
	int64_t written;

	while ((written = ash_write(f->volume, big, bytes, PIECE, at, ASH_WRITE_THROUGH)) > 0)
		at += (uint64_t)written;
	cr_assert_eq(written, -ENOSPC);
	cr_assert_eq(ash_checkpoint(f->volume), 0);
	return big;
}

/* A full volume on a device that delays. */
static uint64_t open_full(struct fixture *f, uint8_t *bytes)
{
	char error[BDEV_ERROR_TEXT] = "";
	struct bdev *memory;

	*f = (struct fixture){ .options = { .no_threads = true, .log = quiet_log } };
	cr_assert_eq(bdev_open("mem:24M", &(struct bdev_open_options){ 0 }, &memory, error), 0, "%s", error);
	cr_assert_eq(delay_open(memory, &f->dev), 0);
	cr_assert_eq(ash_mkfs(f->dev, &(struct ash_mkfs_options){ 0 }, error), 0, "mkfs: %s", error);
	fixture_mount(f);
	return fill_up(f, bytes);
}

/* The last blocks of a full volume are free again, at once. */
static void leave(struct fixture *f, uint64_t big, uint64_t blocks)
{
	cr_assert_eq(set_size(f, big, attr_of(f, big).size - blocks * 4096), 0);
	cr_assert_eq(ash_sync(f->volume), 0);
	cr_assert(!ash_alloc_freed(f->volume));
}

static uint64_t available(struct fixture *f)
{
	struct ash_statfs space;

	cr_assert_eq(ash_statfs(f->volume, &space), 0);
	return space.available_blocks;
}

/* All but `blocks` are set aside; returns how many. */
static uint64_t keep_but(struct fixture *f, uint64_t blocks)
{
	uint64_t kept = available(f) - blocks;

	cr_assert_eq(ash_space_reserve(f->volume, kept), 0);
	return kept;
}

/*
 * What a checkpoint may still be writing is not given out before it ends. Who lacks space waits for that: the blocks count as
 * free, and the data may be the kernel's, acknowledged long ago.
 */
Test(space, freed_during_a_checkpoint)
{
	uint8_t *bytes = aligned(PIECE);
	struct fixture f;
	struct delay_rule hold = { .ops = DELAY_OP(BDEV_WRITE), .count = 1, .nanoseconds = DELAY_HELD };
	struct releaser releaser = { .f = &f };
	pthread_t checkpoint, later;
	uint64_t big, other;

	memset(bytes, 7, PIECE);
	big = open_full(&f, bytes);
	other = make_file(&f, "other");
	cr_assert_eq(ash_sync(f.volume), 0);
	hold.offset = data_start(&f); /* a block's home, not the log */
	hold.length = UINT32_MAX;
	delay_set(f.dev, &hold);
	cr_assert_eq(pthread_create(&checkpoint, NULL, run_checkpoint, &f), 0);
	for (int i = 0; i < 10000 && !delay_caught(f.dev); i++)
		usleep(1000);
	cr_assert_eq(delay_caught(f.dev), 1);
	cr_assert_eq(set_size(&f, big, 0), 0);
	cr_assert_eq(pthread_create(&later, NULL, release_later, &releaser), 0);
	cr_expect_eq(ash_write(f.volume, other, bytes, PIECE, 0, ASH_WRITE_THROUGH), PIECE);
	cr_expect(releaser.released, "the blocks were given out while the checkpoint was writing");
	pthread_join(later, NULL);
	pthread_join(checkpoint, NULL);
	bdev_buffer_free(bytes, PIECE);
	fixture_close(&f);
}

/* Each zeroed block in the middle of an extent would split it, and splits need nodes. */
Test(space, zeroing_does_not_spend_the_reserve)
{
	uint8_t *bytes = aligned(PIECE);
	uint64_t big, before, blocks;
	struct fixture f;

	memset(bytes, 7, PIECE);
	big = open_full(&f, bytes);
	blocks = attr_of(&f, big).size / 4096;
	before = free_blocks(&f);
	for (uint64_t i = 1; i < blocks; i += 2)
		cr_assert_eq(ash_fallocate(f.volume, big, FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE, i * 4096, 4096),
			     0, "block %llu", (unsigned long long)i);
	cr_assert_eq(ash_sync(f.volume), 0);
	cr_expect_geq(free_blocks(&f) + 1, before, "%llu blocks were free, %llu are", (unsigned long long)before,
		      (unsigned long long)free_blocks(&f));
	for (uint64_t i = 0; i < blocks; i++) {
		cr_assert_eq(ash_read(f.volume, big, bytes, 4096, i * 4096), 4096);
		cr_expect_eq(bytes[0], i % 2 ? 0 : 7);
		cr_expect(!memcmp(bytes, bytes + 1, 4095), "block %llu", (unsigned long long)i);
	}
	cr_expect_eq(ash_unlink(f.volume, 1, "big", NULL), 0);
	bdev_buffer_free(bytes, PIECE);
	fixture_close(&f);
}

/* What is buffered over holes has its space set aside already: space for the same blocks is not asked for once more. */
Test(space, allocating_what_is_buffered_needs_no_space)
{
	enum { LEFT = 100, BUFFERED = 60 };
	static const int modes[] = { 0, FALLOC_FL_ZERO_RANGE, FALLOC_FL_KEEP_SIZE };
	uint8_t *bytes = aligned(PIECE);
	struct ash_statfs space;
	struct fixture f;
	uint64_t big, ino;

	memset(bytes, 7, PIECE);
	big = open_full(&f, bytes);
	cr_assert_eq(set_size(&f, big, attr_of(&f, big).size - LEFT * 4096), 0);
	for (unsigned i = 0; i < sizeof(modes) / sizeof(modes[0]); i++) {
		cr_assert_eq(ash_sync(f.volume), 0);
		cr_assert_eq(ash_statfs(f.volume, &space), 0);
		cr_assert_lt(space.available_blocks, 2 * BUFFERED);
		ino = make_file(&f, "f");
		cr_assert_eq(ash_write(f.volume, ino, bytes, BUFFERED * 4096, 0, 0), BUFFERED * 4096);
		cr_expect_eq(ash_fallocate(f.volume, ino, modes[i], 0, BUFFERED * 4096), 0, "mode %d", modes[i]);
		cr_assert_eq(ash_unlink(f.volume, 1, "f", NULL), 0);
		ash_forget(f.volume, ino, 1);
	}
	bdev_buffer_free(bytes, PIECE);
	fixture_close(&f);
}

struct trimmer {
	struct fixture *f;
	uint64_t start; /* bytes */
};

static void *run_trim(void *context)
{
	struct trimmer *trimmer = context;
	uint64_t trimmed;

	cr_expect_eq(ash_trim(trimmer->f->volume, trimmer->start, UINT64_MAX, 0, &trimmed), 0);
	return NULL;
}

/* Ask for nearly all there is while a trim from `start` on is at its first discard. */
static void allocate_while_trimmed(const char *device, uint64_t start)
{
	struct fixture f = { .options = { .no_threads = true, .log = quiet_log } };
	struct trimmer trimmer = { &f, start };
	struct delay_rule slow = { .ops = DELAY_OP(BDEV_DISCARD), .nanoseconds = 300000000 };
	char error[BDEV_ERROR_TEXT] = "";
	struct bdev *memory;
	struct ash_statfs before;
	pthread_t thread;

	cr_assert_eq(bdev_open(device, &(struct bdev_open_options){ 0 }, &memory, error), 0, "%s", error);
	cr_assert_eq(delay_open(memory, &f.dev), 0);
	cr_assert_eq(ash_mkfs(f.dev, &(struct ash_mkfs_options){ 0 }, error), 0, "mkfs: %s", error);
	fixture_mount(&f);
	uint64_t ino = make_file(&f, "f");
	cr_assert_eq(ash_statfs(f.volume, &before), 0);
	delay_set(f.dev, &slow);
	cr_assert_eq(pthread_create(&thread, NULL, run_trim, &trimmer), 0);
	for (int i = 0; i < 10000 && !delay_caught(f.dev); i++)
		usleep(1000);
	cr_assert_geq(delay_caught(f.dev), 1);
	cr_expect_eq(free_blocks(&f), before.free_blocks, "it is space still");
	cr_expect_eq(ash_fallocate(f.volume, ino, 0, 0, (before.available_blocks - 64) * 4096), 0);
	pthread_join(thread, NULL);
	fixture_close(&f);
}

/* What a trim has withdrawn comes back: who lacks it waits, and the trim takes no more. */
Test(space, withdrawn_by_a_trim, .timeout = 60)
{
	allocate_while_trimmed("mem:24M", 0);
}

Test(space, withdrawn_by_a_trim_of_a_group_that_was_never_used, .timeout = 60)
{
	allocate_while_trimmed("mem:256M", 128u << 20);
}

#define PUNCHED 600u

/* A file of blocks of which every other one (`apart`), or all, are freed one by one; discards take 10 ms each. */
static void punch(struct fixture *f, bool apart)
{
	struct delay_rule slow = { .ops = DELAY_OP(BDEV_DISCARD), .nanoseconds = 10000000 };
	char error[BDEV_ERROR_TEXT] = "";
	uint8_t *bytes = aligned(PIECE);
	struct bdev *device;

	*f = (struct fixture){ .options = { .discard = true, .commit_seconds = 1, .log = quiet_log } };
	memset(bytes, 7, PIECE);
	cr_assert_eq(bdev_open("mem:64M", NULL, &device, error), 0, "%s", error);
	cr_assert_eq(delay_open(device, &f->dev), 0);
	cr_assert_eq(ash_mkfs(f->dev, &(struct ash_mkfs_options){ 0 }, error), 0, "mkfs: %s", error);
	fixture_mount(f);
	uint64_t file = make_file(f, "file");
	for (uint64_t at = 0; at < 2 * PUNCHED * 4096; at += PIECE)
		cr_assert_eq(ash_write(f->volume, file, bytes, PIECE, at, ASH_WRITE_THROUGH), (int64_t)PIECE);
	cr_assert_eq(ash_sync(f->volume), 0);
	delay_set(f->dev, &slow);
	for (uint64_t i = 0; i < PUNCHED; i++)
		cr_assert_eq(ash_fallocate(f->volume, file, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
					   (apart ? 2 * i : i) * 4096, 4096),
			     0);
	bdev_buffer_free(bytes, PIECE);
}

static uint64_t since(uint64_t start)
{
	return (ash_monotonic_ns() - start) / 1000000;
}

/* A discard is advice: neither the commit interval nor an unmount waits for the six seconds that these take. */
Test(space, many_discards_hold_up_neither_data_nor_the_close, .timeout = 60)
{
	uint8_t byte = 7;
	struct fixture f;

	punch(&f, true);
	cr_assert_eq(ash_sync(f.volume), 0);
	while (!delay_caught(f.dev))
		usleep(1000); /* the worker is at it */
	uint64_t start = ash_monotonic_ns();
	cr_assert_eq(ash_write(f.volume, make_file(&f, "late"), &byte, 1, 0, 0), 1);
	do
		usleep(10000);
	while (ash_log_durable(f.volume) < ash_log_end(f.volume) && since(start) < 10000);
	cr_expect_lt(since(start), 3000u, "durable after %llu ms", (unsigned long long)since(start));
	start = ash_monotonic_ns();
	cr_expect_eq(ash_close(f.volume), 0);
	cr_expect_lt(since(start), 4000u, "closed after %llu ms", (unsigned long long)since(start));
	bdev_close(f.dev);
}

/* What was freed piece by piece is one range to the device. */
Test(space, neighbours_are_discarded_at_once, .timeout = 60)
{
	struct fixture f;

	punch(&f, false);
	cr_assert_eq(ash_sync(f.volume), 0);
	cr_assert_eq(ash_close(f.volume), 0);
	cr_expect_gt(delay_caught(f.dev), 0u);
	cr_expect_lt(delay_caught(f.dev), PUNCHED / 4, "%u discards", delay_caught(f.dev));
	bdev_close(f.dev);
}

/* Also what becomes available only when the close has made its freeing durable. */
Test(space, what_was_freed_before_the_close_is_discarded, .timeout = 60)
{
	struct fixture f;

	punch(&f, false);
	cr_assert_eq(ash_close(f.volume), 0);
	cr_expect_gt(delay_caught(f.dev), 0u);
	bdev_close(f.dev);
}

/* Whoever lacks space waits a second for discards, not for all that the worker goes on with meanwhile. */
Test(space, discards_are_forgone_for_whoever_lacks_space, .timeout = 60)
{
	struct fixture f;

	punch(&f, true);
	cr_assert_eq(ash_sync(f.volume), 0);
	while (!delay_caught(f.dev))
		usleep(1000); /* the worker is at it */
	pause_behind = &f.volume->alloc->discard_lock;
	cr_expect(ash_alloc_available(f.volume, ash_alloc_freed(f.volume)), "the worker has the rest");
	pause_behind = NULL;
	fixture_close(&f);
}

/* A million extents take long to sort: more than a tenth of a second, in which a slow device discards two of them. */
Test(space, discards_are_sorted_once, .timeout = 60)
{
	struct fixture f;

	punch(&f, true);
	cr_assert_eq(ash_sync(f.volume), 0);
	while (delay_caught(f.dev) < PUNCHED / 3)
		usleep(1000); /* twenty portions */
	cr_expect_lt(sorted, 3 * PUNCHED, "%zu", sorted);
	fixture_close(&f);
}

/* The worker gives the lock up for an instant between two portions; six seconds' worth of them are no second. */
Test(space, the_worker_leaves_discards_to_whoever_lacks_space, .timeout = 60)
{
	struct fixture f;

	punch(&f, true);
	cr_assert_eq(ash_sync(f.volume), 0);
	while (!delay_caught(f.dev))
		usleep(1000);
	late_for = &f.volume->alloc->discard_lock;
	uint64_t start = ash_monotonic_ns();
	cr_expect(ash_alloc_available(f.volume, ash_alloc_freed(f.volume)));
	cr_expect_lt(since(start), 3000u, "available after %llu ms", (unsigned long long)since(start));
	late_for = NULL;
	fixture_close(&f);
}

static void *sync_slowly(void *context)
{
	struct fixture *f = context;

	pause_behind = &f->volume->alloc->space_lock;
	cr_expect_eq(ash_sync(f->volume), 0);
	return NULL;
}

/* Blocks that become available are counted once, at any moment: statfs(2) never tells of more than there are. */
Test(space, freed_blocks_count_once, .timeout = 60)
{
	struct fixture f;
	pthread_t thread;

	fixture_open(&f, "mem:64M", &(struct ash_open_options){ .no_threads = true });
	uint64_t ino = make_file(&f, "f"), before = free_blocks(&f), most = 0;
	cr_assert_eq(ash_fallocate(f.volume, ino, 0, 0, 16 << 20), 0);
	cr_assert_eq(set_size(&f, ino, 0), 0);
	cr_expect_eq(free_blocks(&f), before);
	cr_assert_eq(pthread_create(&thread, NULL, sync_slowly, &f), 0);
	for (int i = 0; i < 200; i++) {
		uint64_t now = free_blocks(&f);

		most = now > most ? now : most;
		usleep(1000);
	}
	pthread_join(thread, NULL);
	cr_expect(!ash_alloc_freed(f.volume));
	cr_expect_eq(most, before, "%llu of %llu blocks free", (unsigned long long)most, (unsigned long long)before);
	fixture_close(&f);
}

/* What is set aside behind the end of a growing file is nobody's yet. */
Test(space, blocks_ahead_count_as_free)
{
	uint8_t *bytes = aligned(PIECE / 16);
	struct fixture f;

	fixture_open(&f, "mem:64M", &(struct ash_open_options){ .no_threads = true });
	memset(bytes, 7, PIECE / 16);
	uint64_t ino = make_file(&f, "f");
	for (uint64_t at = 0; at < PIECE; at += PIECE / 16)
		cr_assert_eq(ash_write(f.volume, ino, bytes, PIECE / 16, at, ASH_WRITE_THROUGH), PIECE / 16);
	cr_assert_eq(ash_sync(f.volume), 0);
	uint64_t shown = free_blocks(&f), held = f.volume->alloc->free;
	ash_wb_drop_preallocations(f.volume);
	cr_expect_gt(f.volume->alloc->free, held);
	cr_expect_eq(free_blocks(&f), shown);
	cr_expect_eq(f.volume->alloc->free, shown);
	bdev_buffer_free(bytes, PIECE / 16);
	fixture_close(&f);
}

/* Symbolic links with this target need a block each. */
static int make_link(struct fixture *f, const char *name)
{
	char target[1001];
	struct ash_create create = { .mode = S_IFLNK | 0777, .target = target };
	struct ash_attr attr;

	memset(target, 't', sizeof(target) - 1);
	target[sizeof(target) - 1] = 0;
	return ash_create(f->volume, 1, name, &create, &attr);
}

/* Data that is lost gives back what was set aside for it; that it was lost is the affair of who syncs. */
Test(space, what_was_set_aside_for_lost_data_serves_others)
{
	uint8_t *bytes = aligned(PIECE);
	struct fixture f;

	memset(bytes, 7, PIECE);
	fixture_open(&f, "mem:24M", &(struct ash_open_options){ .no_threads = true });
	leave(&f, fill_up(&f, bytes), 100);
	cr_assert_eq(ash_write(f.volume, make_file(&f, "f"), bytes, 8 * 4096, 0, 0), 8 * 4096);
	uint64_t kept = keep_but(&f, 0);
	cr_assert_eq(
		fault_add(f.dev, &(struct fault_rule){ .ops = FAULT_OP(BDEV_WRITE),
						       .offset = data_start(&f),
						       .length = UINT32_MAX,
						       .count = 4 }), /* of 8, 4, 2, and of 1 that no other can take */
		0);
	cr_expect_eq(make_link(&f, "link"), 0);
	cr_expect_eq(fault_hits(f.dev), 4);
	cr_expect_eq(ash_sync(f.volume), -EIO);
	ash_space_unreserve(f.volume, kept);
	bdev_buffer_free(bytes, PIECE);
	fixture_close(&f);
}

/* What is written out for who lacks space takes no blocks ahead that he could have. */
Test(space, who_lacks_space_has_the_blocks_ahead_of_what_is_written_out_for_him)
{
	enum { EXTENTS = 8, PAGES = 4, VALUE = 16 };
	uint8_t *bytes = aligned(PIECE);
	uint64_t ino, other, kept;
	struct fixture f;

	memset(bytes, 7, PIECE);
	leave(&f, open_full(&f, bytes), 300);
	ino = make_file(&f, "f");
	other = make_file(&f, "other");
	for (uint64_t i = 0; i < EXTENTS; i++)
		cr_assert_eq(ash_write(f.volume, ino, bytes, 4096, i * 2 * 4096, ASH_WRITE_THROUGH), 4096);
	cr_assert_eq(ash_sync(f.volume), 0);
	/* more is set aside for these than they take: each could need nodes */
	for (uint64_t i = EXTENTS; i < EXTENTS + PAGES; i++)
		cr_assert_eq(ash_write(f.volume, ino, bytes, 4096, i * 2 * 4096, 0), 4096);
	kept = keep_but(&f, VALUE / 2);
	cr_expect_eq(ash_setxattr(f.volume, other, "user.a", bytes, VALUE * 4096, 0), 0);
	ash_space_unreserve(f.volume, kept);
	bdev_buffer_free(bytes, PIECE);
	fixture_close(&f);
}

struct appender {
	struct fixture *f;
	uint8_t *bytes;
	uint64_t ino, at;
};

static void *append_block(void *context)
{
	struct appender *a = context;

	cr_expect_eq(ash_write(a->f->volume, a->ino, a->bytes, 4096, a->at, ASH_WRITE_THROUGH), 4096);
	return NULL;
}

/* They count as free, so who lacks space gets them, also while their file is being written. */
Test(space, blocks_ahead_of_a_busy_file_are_waited_for, .timeout = 60)
{
	struct delay_rule hold = { .ops = DELAY_OP(BDEV_WRITE), .count = 1, .nanoseconds = DELAY_HELD };
	uint8_t *bytes = aligned(PIECE);
	struct fixture f;
	struct appender appender = { .f = &f, .bytes = bytes };
	struct releaser releaser = { .f = &f };
	pthread_t thread, later;

	memset(bytes, 7, PIECE);
	leave(&f, open_full(&f, bytes), 600);
	appender.ino = make_file(&f, "f");
	uint64_t other = make_file(&f, "other");
	for (; appender.at < PIECE / 2 || !f.volume->alloc->ahead; appender.at += PIECE / 16)
		cr_assert_eq(ash_write(f.volume, appender.ino, bytes, PIECE / 16, appender.at, ASH_WRITE_THROUGH),
			     PIECE / 16);
	cr_assert_eq(ash_sync(f.volume), 0);
	hold.offset = data_start(&f);
	hold.length = UINT32_MAX;
	delay_set(f.dev, &hold);
	cr_assert_eq(pthread_create(&thread, NULL, append_block, &appender), 0);
	for (int i = 0; i < 10000 && !delay_caught(f.dev); i++)
		usleep(1000);
	cr_assert_eq(delay_caught(f.dev), 1);
	uint64_t ahead = f.volume->alloc->ahead;
	cr_assert_gt(ahead, 8);
	cr_assert_eq(pthread_create(&later, NULL, release_later, &releaser), 0);
	cr_expect_eq(ash_fallocate(f.volume, other, 0, 0, (available(&f) - ahead / 2) * 4096), 0);
	pthread_join(later, NULL);
	pthread_join(thread, NULL);
	bdev_buffer_free(bytes, PIECE);
	fixture_close(&f);
}

#define READERS 4u

struct tail {
	struct fixture *f;
	uint64_t ino;
	_Atomic bool stop;
};

static void *read_on(void *context)
{
	uint8_t *bytes = aligned(PIECE / 16);
	struct tail *tail = context;

	while (!tail->stop)
		cr_expect_eq(ash_read(tail->f->volume, tail->ino, bytes, PIECE / 16, 0), PIECE / 16);
	bdev_buffer_free(bytes, PIECE / 16);
	return NULL;
}

/* Some reader is at it at any time: whoever only looks whether the file is free would never find it so. */
Test(space, blocks_ahead_of_a_file_that_is_read_all_the_time_are_had, .timeout = 120)
{
	const struct delay_rule slow = { .ops = DELAY_OP(BDEV_READ), .nanoseconds = 20000000 };
	uint8_t *bytes = aligned(PIECE);
	pthread_t readers[READERS];
	struct fixture f;
	struct tail tail = { .f = &f };

	memset(bytes, 7, PIECE);
	leave(&f, open_full(&f, bytes), 600);
	tail.ino = make_file(&f, "f");
	uint64_t other = make_file(&f, "other");
	for (uint64_t at = 0; at < PIECE / 2 || !f.volume->alloc->ahead; at += PIECE / 16)
		cr_assert_eq(ash_write(f.volume, tail.ino, bytes, PIECE / 16, at, ASH_WRITE_THROUGH), PIECE / 16);
	cr_assert_eq(ash_sync(f.volume), 0);
	delay_set(f.dev, &slow);
	for (unsigned i = 0; i < READERS; i++) {
		cr_assert_eq(pthread_create(&readers[i], NULL, read_on, &tail), 0);
		usleep(20000 / READERS);
	}
	uint64_t ahead = f.volume->alloc->ahead;
	cr_assert_gt(ahead, 8);
	cr_expect_eq(ash_fallocate(f.volume, other, 0, 0, (available(&f) - ahead / 2) * 4096), 0);
	tail.stop = true;
	for (unsigned i = 0; i < READERS; i++)
		pthread_join(readers[i], NULL);
	bdev_buffer_free(bytes, PIECE);
	fixture_close(&f);
}
