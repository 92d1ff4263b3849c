/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Whoever waits for the device or a lock for long says so: the hooks of the options, by which others go on meanwhile. */
#include "engine_fixture.h"

#include <linux/falloc.h>
#include <pthread.h>
#include <unistd.h>

#include "fs/wbuf.h"

static _Atomic int waiting; /* threads */
static _Thread_local int nested;
static _Thread_local unsigned begun;

static void wait_begin(void *context)
{
	(void)context;
	begun++;
	if (nested++ == 0)
		atomic_fetch_add(&waiting, 1);
}

static void wait_end(void *context)
{
	(void)context;
	if (--nested == 0)
		atomic_fetch_sub(&waiting, 1);
}

/* So many threads wait, now or in a while. */
static bool waiting_reaches(int threads)
{
	for (int i = 0; i < 5000 && atomic_load(&waiting) != threads; i++)
		usleep(1000);
	return atomic_load(&waiting) == threads;
}

static void open_watched(struct engine *engine)
{
	struct bdev *memory = engine_device("mem:64M");

	*engine = (struct engine){
		.options = { .no_threads = true, .wait_begin = wait_begin, .wait_end = wait_end },
	};
	engine_format(memory, 0);
	cr_assert_eq(delay_open(memory, &engine->dev), 0);
	engine_mount(engine);
}

/* The next request of this kind does not end. */
static void hold(struct engine *engine, unsigned op)
{
	const struct delay_rule rule = { .ops = DELAY_OP(op), .count = 1, .nanoseconds = DELAY_HELD };

	delay_set(engine->dev, &rule);
}

/* A call in a thread of its own. */
struct call {
	struct engine *engine;
	int (*run)(struct engine *engine);
	pthread_t thread;
};

static void *call_run(void *argument)
{
	struct call *call = argument;

	cr_expect_eq(call->run(call->engine), 0);
	return NULL;
}

static void call_begin(struct call *call)
{
	cr_assert_eq(pthread_create(&call->thread, NULL, call_run, call), 0);
}

static void call_end(struct call *call)
{
	pthread_join(call->thread, NULL);
	cr_expect_eq(atomic_load(&waiting), 0);
}

/* The call waits for this lock, which somebody holds over the device. */
static void waits_for(struct engine *engine, pthread_mutex_t *lock, int (*run)(struct engine *engine))
{
	struct call call = { .engine = engine, .run = run };

	pthread_mutex_lock(lock);
	call_begin(&call);
	cr_expect(waiting_reaches(1));
	pthread_mutex_unlock(lock);
	call_end(&call);
}

static int run_sync(struct engine *engine)
{
	return ash_sync(engine->volume);
}

static int run_flush_down(struct engine *engine)
{
	return ash_wb_flush_down(engine->volume, 0);
}

static int run_checkpoint(struct engine *engine)
{
	return ash_log_checkpoint(engine->volume, true);
}

static int run_label(struct engine *engine)
{
	return ash_set_label(engine->volume, "label");
}

static int run_reclaim(struct engine *engine)
{
	ash_reclaim_space(engine->volume);
	return 0;
}

static int run_trim(struct engine *engine)
{
	uint64_t trimmed;

	return ash_trim(engine->volume, 0, UINT64_MAX, 0, &trimmed);
}

Test(waits, locks_held_over_the_device, .timeout = 60)
{
	struct engine engine;

	open_watched(&engine);
	waits_for(&engine, &engine.volume->wb->flush_lock, run_sync);
	waits_for(&engine, &engine.volume->wb->flush_lock, run_flush_down);
	waits_for(&engine, &engine.volume->wb->reclaim_lock, run_reclaim);
	waits_for(&engine, &engine.volume->log->checkpoint_lock, run_checkpoint);
	waits_for(&engine, &engine.volume->rename_lock, run_label);
	engine_close(&engine);
}

Test(waits, discards_of_a_trim, .timeout = 60)
{
	struct engine engine;
	struct call trim = { .engine = &engine, .run = run_trim };

	open_watched(&engine);
	hold(&engine, BDEV_DISCARD);
	call_begin(&trim);
	while (!delay_caught(engine.dev))
		usleep(1000);
	cr_expect(waiting_reaches(1));
	delay_release(engine.dev);
	call_end(&trim);
	engine_close(&engine);
}

/* Of two calls the first reads the device, and the second waits for the first. */
static void second_waits(struct engine *engine, int (*run)(struct engine *engine))
{
	struct call first = { .engine = engine, .run = run }, second = first;

	hold(engine, BDEV_READ);
	call_begin(&first);
	while (!delay_caught(engine->dev))
		usleep(1000);
	call_begin(&second);
	cr_expect(waiting_reaches(2));
	delay_release(engine->dev);
	pthread_join(first.thread, NULL);
	call_end(&second);
}

static uint64_t node; /* a block that is not in the cache */

static int run_get(struct engine *engine)
{
	struct ash_buffer *buffer;
	int error = ash_buffer_get(engine->volume, node_id(node, 77), &buffer);

	if (!error)
		ash_buffer_put(engine->volume, buffer);
	return error;
}

/* The second to ask for a block waits as long as the first, who reads it. */
Test(waits, a_block_that_another_thread_reads, .timeout = 60)
{
	struct engine engine;

	open_watched(&engine);
	node = node_new(&engine, 77, 5);
	cr_assert_eq(ash_checkpoint(engine.volume), 0);
	engine_again(&engine);
	second_waits(&engine, run_get);
	engine_close(&engine);
}

static uint64_t file; /* an inode that is not in memory */

static int run_icore(struct engine *engine)
{
	struct ash_icore *icore;
	int error = ash_icore_get(engine->volume, file, &icore);

	if (!error)
		ash_icore_put(engine->volume, icore);
	return error;
}

static int make(struct engine *engine, const char *name, const char *target, uint64_t *ino)
{
	struct ash_create create = { .mode = target ? S_IFLNK | 0777 : S_IFREG | 0644, .target = target };
	struct ash_attr attr;
	int error = ash_create(engine->volume, ASH_INO_ROOT, name, &create, &attr);

	*ino = attr.ino;
	return error;
}

/* So does the second to ask for an inode: of its block it has not even heard. */
Test(waits, an_inode_that_another_thread_reads, .timeout = 60)
{
	struct engine engine;
	char name[16];

	open_watched(&engine);
	for (unsigned i = 0; i < 40; i++) {
		snprintf(name, sizeof(name), "f%u", i);
		cr_assert_eq(make(&engine, name, NULL, &file), 0);
	}
	cr_assert_eq(ash_checkpoint(engine.volume), 0);
	engine_again(&engine);
	second_waits(&engine, run_icore);
	engine_close(&engine);
}

static int run_symlink(struct engine *engine)
{
	char target[3000];

	memset(target, 't', sizeof(target) - 1);
	target[sizeof(target) - 1] = '\0';
	return make(engine, "link", target, &file);
}

static int run_readlink(struct engine *engine)
{
	char target[4096];

	return ash_readlink(engine->volume, file, target, sizeof(target)) > 0 ? 0 : -EIO;
}

static void waits_on_device(struct engine *engine, unsigned op, int (*run)(struct engine *engine))
{
	struct call call = { .engine = engine, .run = run };

	hold(engine, op);
	call_begin(&call);
	while (!delay_caught(engine->dev))
		usleep(1000);
	cr_expect(waiting_reaches(1));
	delay_release(engine->dev);
	call_end(&call);
}

Test(waits, long_targets_of_symbolic_links, .timeout = 60)
{
	struct engine engine;

	open_watched(&engine);
	waits_on_device(&engine, BDEV_WRITE, run_symlink);
	waits_on_device(&engine, BDEV_READ, run_readlink);
	engine_close(&engine);
}

#define EXTENTS 10000u

/* So many extents of a block, none of them written: neighbours in the file lie the other way round on the device. */
static uint64_t make_shattered(struct engine *engine)
{
	const struct ash_create create = { .mode = S_IFREG | 0644 };
	struct ash_attr attr;

	cr_assert_eq(ash_create(engine->volume, ASH_INO_ROOT, "shattered", &create, &attr), 0);
	for (uint64_t block = EXTENTS; block-- > 0;)
		cr_assert_eq(ash_fallocate(engine->volume, attr.ino, 0, block * ASH_BLOCK_SIZE, ASH_BLOCK_SIZE), 0);
	return attr.ino;
}

/* Nothing is read from the device, but others are not to wait until all is looked through. */
Test(waits, a_seek_over_many_extents, .timeout = 60)
{
	struct ash_counters before, after;
	struct engine engine;

	open_watched(&engine);
	uint64_t ino = make_shattered(&engine);
	cr_assert_eq(ash_seek(engine.volume, ino, 0, SEEK_DATA), -ENXIO);
	ash_counters(engine.volume, &before);
	begun = 0;
	cr_expect_eq(ash_seek(engine.volume, ino, 0, SEEK_DATA), -ENXIO);
	cr_expect_eq(begun, 1);
	cr_expect_eq(nested, 0);
	ash_counters(engine.volume, &after);
	cr_expect_eq(after.cache_misses, before.cache_misses);
	cr_expect_lt(after.cache_hits - before.cache_hits, EXTENTS / 10, "each leaf is visited once");
	/* A few are no reason. */
	cr_expect_eq(ash_seek(engine.volume, ino, (uint64_t)(EXTENTS - 100) * ASH_BLOCK_SIZE, SEEK_DATA), -ENXIO);
	cr_expect_eq(ash_seek(engine.volume, ino, 0, SEEK_HOLE), 0);
	cr_expect_eq(begun, 1);
	engine_close(&engine);
}

#define SOME 200u /* extents, few enough for one transaction and the log as it is */

/* What is done to so many extents of a file is not done in one go while all others wait; of a few nobody need know. */
static void offers(struct engine *engine, uint64_t ino, int mode)
{
	static uint64_t end = EXTENTS;
	const uint64_t few = 4;

	cr_assert_eq(ash_sync(engine->volume), 0);
	begun = 0;
	end -= few;
	cr_expect_eq(ash_fallocate(engine->volume, ino, mode, end * ASH_BLOCK_SIZE, few * ASH_BLOCK_SIZE), 0);
	cr_expect_eq(begun, 0, "mode %d", mode);
	end -= SOME;
	cr_expect_eq(ash_fallocate(engine->volume, ino, mode, end * ASH_BLOCK_SIZE, SOME * ASH_BLOCK_SIZE), 0);
	cr_expect_gt(begun, 0, "mode %d", mode);
	cr_expect_eq(nested, 0);
}

Test(waits, a_change_of_many_extents, .timeout = 60)
{
	struct engine engine;

	open_watched(&engine);
	uint64_t ino = make_shattered(&engine);
	offers(&engine, ino, FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE);
	offers(&engine, ino, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE);
	/* holes between extents */
	for (uint64_t block = 2 * EXTENTS; block < 2 * EXTENTS + SOME; block += 2)
		cr_assert_eq(ash_fallocate(engine.volume, ino, 0, block * ASH_BLOCK_SIZE, ASH_BLOCK_SIZE), 0);
	cr_assert_eq(ash_sync(engine.volume), 0);
	begun = 0;
	cr_expect_eq(ash_fallocate(engine.volume, ino, 0, 2ull * EXTENTS * ASH_BLOCK_SIZE, SOME * ASH_BLOCK_SIZE), 0);
	cr_expect_gt(begun, 0);
	engine_close(&engine);
}
