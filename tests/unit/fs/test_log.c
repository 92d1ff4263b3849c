/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The log: going round the ring, group commit, the flush before pointers (I2), the orphan set, the tail (I4), and what
 * follows a failed write or flush (I6).
 */
#include "blockdrv/driver.h"
#include "engine_fixture.h"

#include <pthread.h>

#define CONTENT (ASH_BLOCK_SIZE - BODY)

Test(log, goes_round_the_ring_many_times)
{
	struct engine engine;
	uint64_t block;

	engine_open(&engine, "mem:16M", 0);
	block = node_new(&engine, 5, 0);
	for (int i = 1; i <= 2000; i++) {
		node_fill(&engine, block, 5, 0, CONTENT, (uint8_t)i);
		if (i % 200 == 0) {
			engine_again(&engine);
			cr_assert(node_is(&engine, block, 5, 0, CONTENT, (uint8_t)i));
		}
	}
	/* each filled about a block: more than seven rounds */
	cr_expect_gt(ash_log_end(engine.volume), 7 * (ASH_LOG_MIN_BLOCKS - 2) * (uint64_t)ASH_LOG_PAYLOAD);
	cr_expect_eq(engine.errors, 0, "%s", engine.last_error);
	engine_close(&engine);
}

/* ---- Group commit ---- */

enum { SYNCERS = 8, SYNCS = 40 };

struct syncer {
	struct engine *engine;
	uint64_t block, owner;
};

static void *sync_often(void *argument)
{
	struct syncer *syncer = argument;

	for (int i = 0; i < SYNCS; i++) {
		uint64_t lsn = node_fill(syncer->engine, syncer->block, syncer->owner, 0, 30, (uint8_t)(i + 1));

		cr_assert_eq(ash_log_force(syncer->engine->volume, lsn), 0);
		cr_assert_geq(ash_log_durable(syncer->engine->volume), lsn);
	}
	return NULL;
}

Test(log, threads_share_commits)
{
	struct engine engine = { .options = { .no_threads = true } };
	struct delay_rule slow = { .ops = DELAY_OP(BDEV_WRITE), .nanoseconds = 1000000 };
	struct bdev *memory = engine_device("mem:16M");
	struct syncer syncers[SYNCERS];
	pthread_t threads[SYNCERS];
	struct ash_counters before, after;

	engine_format(memory, 0);
	cr_assert_eq(delay_open(memory, &engine.dev), 0);
	engine_mount(&engine);
	for (uint64_t i = 0; i < SYNCERS; i++)
		syncers[i] = (struct syncer){ &engine, node_new(&engine, 50 + i, 0), 50 + i };
	cr_assert_eq(ash_checkpoint(engine.volume), 0);
	before = counters(&engine);
	delay_set(engine.dev, &slow);
	for (int i = 0; i < SYNCERS; i++)
		cr_assert_eq(pthread_create(&threads[i], NULL, sync_often, &syncers[i]), 0);
	for (int i = 0; i < SYNCERS; i++)
		pthread_join(threads[i], NULL);
	delay_set(engine.dev, NULL);
	after = counters(&engine);
	cr_expect_eq(after.transactions - before.transactions, SYNCERS * SYNCS);
	/* alone each would need a commit of its own; while one leader writes the others gather behind the next */
	cr_expect_leq(after.commits - before.commits, SYNCERS * SYNCS / 2);
	engine_again(&engine);
	for (int i = 0; i < SYNCERS; i++)
		cr_expect(node_is(&engine, syncers[i].block, syncers[i].owner, 0, 30, SYNCS));
	engine_close(&engine);
}

Test(log, nothing_to_write_costs_nothing)
{
	struct engine engine;
	struct ash_counters before;
	uint64_t lsn, block;

	engine_open(&engine, "mem:16M", 0);
	block = node_new(&engine, 5, 0);
	lsn = node_fill(&engine, block, 5, 0, 10, 1);
	cr_assert_eq(ash_log_force(engine.volume, lsn), 0);
	before = counters(&engine);
	cr_assert_eq(ash_log_force(engine.volume, lsn), 0);
	cr_assert_eq(ash_log_flush_data(engine.volume), 0);
	cr_expect_eq(counters(&engine).flushes, before.flushes);
	cr_expect_eq(counters(&engine).log_blocks_written, before.log_blocks_written);
	engine_close(&engine);
}

/* ---- Data before pointers (I2), on the record of what reached the device ---- */

static size_t find_entry(struct bdev *record, size_t from, enum record_kind kind, uint64_t first, uint64_t blocks)
{
	size_t i = from;

	for (; i < record_count(record); i++) {
		const struct record_entry *entry = record_get(record, i);

		if (entry->kind == kind &&
		    (kind == RECORD_FLUSH ||
		     (entry->offset >= first * ASH_BLOCK_SIZE && entry->offset < (first + blocks) * ASH_BLOCK_SIZE)))
			break;
	}
	return i;
}

Test(log, data_is_flushed_before_the_log_is_written)
{
	struct engine engine = { .options = { .no_threads = true } };
	struct bdev *memory = engine_device("mem:16M");
	struct ash_extent extent;
	struct ash_txn *txn;
	uint8_t bytes[ASH_BLOCK_SIZE] = { 1 };
	size_t data, flush, log;

	engine_format(memory, 0);
	cr_assert_eq(record_open(memory, &engine.dev), 0);
	engine_mount(&engine);
	cr_assert_eq(ash_claim(engine.volume, 0, 1, 0, &extent), 0);
	record_clear(engine.dev);
	image_write(&engine, extent.start, bytes);
	ash_log_note_data(engine.volume);
	txn = engine_begin(&engine, ASH_TXN_SMALL);
	cr_assert_eq(ash_alloc_log(txn, extent), 0);
	cr_assert_eq(ash_log_force(engine.volume, ash_txn_commit(txn)), 0);
	data = find_entry(engine.dev, 0, RECORD_WRITE, extent.start, 1);
	flush = find_entry(engine.dev, data, RECORD_FLUSH, 0, 0);
	log = find_entry(engine.dev, 0, RECORD_WRITE, engine.volume->log_start, engine.volume->log_blocks);
	cr_expect_lt(flush, log, "data %zu, flush %zu, log %zu", data, flush, log);
	cr_expect_lt(log, record_count(engine.dev));
	cr_expect_lt(find_entry(engine.dev, log, RECORD_FLUSH, 0, 0) - log, 2, "and the log after it");
	engine_close(&engine);
}

/* A home write comes after the flush of the log that describes it (I1), the control block after the flush of the home write (I4). */
Test(log, home_write_lies_between_log_and_control_block)
{
	struct engine engine = { .options = { .no_threads = true } };
	struct bdev *memory = engine_device("mem:16M");
	size_t home, control;
	uint64_t block, start;

	engine_format(memory, 0);
	cr_assert_eq(record_open(memory, &engine.dev), 0);
	engine_mount(&engine);
	start = engine.volume->log_start;
	block = node_new(&engine, 5, 3);
	record_clear(engine.dev);
	cr_assert_eq(ash_log_checkpoint(engine.volume, true), 0);
	home = find_entry(engine.dev, 0, RECORD_WRITE, block, 1);
	control = find_entry(engine.dev, home, RECORD_WRITE, start, 2);
	cr_assert_lt(home, record_count(engine.dev));
	cr_assert_lt(control, record_count(engine.dev));
	cr_assert_lt(find_entry(engine.dev, 0, RECORD_WRITE, start + 2, engine.volume->log_blocks - 2), home);
	for (size_t i = 0; i < home; i++)
		if (find_entry(engine.dev, i, RECORD_WRITE, start, engine.volume->log_blocks) == i)
			cr_expect(record_is_durable(engine.dev, i, home + 1), "log write %zu before the home write %zu",
				  i, home);
	cr_expect(record_is_durable(engine.dev, home, control + 1), "home write %zu before the control block %zu", home,
		  control);
	engine_close(&engine);
}

/* ---- What supersedes older records while the tail moves (I4) ---- */

struct late {
	struct engine *engine;
	void (*change)(struct ash_txn *txn, uint64_t what);
	uint64_t what, lsn;
	unsigned flushes; /* before it happens */
};

static void late_free(struct ash_txn *txn, uint64_t block)
{
	cr_assert_eq(ash_free(txn, (struct ash_extent){ block, 1 }, true), 0);
}

static void late_orphan(struct ash_txn *txn, uint64_t ino)
{
	ash_txn_orphan(txn, ino, true);
}

/* Another thread commits while the checkpoint waits for the device. Nobody forces it. */
static void late_commit(void *context, const struct bdev_request *request)
{
	struct late *late = context;
	struct ash_txn *txn;

	if (request->op != BDEV_FLUSH || late->lsn || late->flushes--)
		return;
	txn = engine_begin(late->engine, ASH_TXN_SMALL);
	late->change(txn, late->what);
	late->lsn = ash_txn_commit(txn);
}

static void late_open(struct engine *engine, uint64_t *hot)
{
	*engine = (struct engine){ .options = { .no_threads = true } };
	cr_assert_eq(fault_open(engine_device("mem:16M"), &engine->dev), 0);
	engine_format(engine->dev, ASH_LOG_MIN_BLOCKS);
	engine_mount(engine);
	*hot = node_new(engine, 5, 0);
	for (int i = 0; i < 60; i++)
		node_fill(engine, *hot, 5, 0, CONTENT, (uint8_t)i);
}

/* A checkpoint of the older half of the log, and `late` within; then the power goes. True when it was durable by then. */
static bool late_cut(struct late *late)
{
	struct engine *engine = late->engine;
	uint64_t tail = engine->volume->log->tail_lsn;
	bool durable;

	cr_assert_eq(ash_log_force(engine->volume, ash_log_end(engine->volume)), 0);
	fault_ask(engine->dev, late_commit, late);
	cr_assert_eq(ash_log_checkpoint(engine->volume, false), 0);
	fault_ask(engine->dev, NULL, NULL);
	cr_assert_gt(engine->volume->log->tail_lsn, tail);
	durable = late->lsn && ash_log_durable(engine->volume) >= late->lsn;
	ash_abandon(engine->volume);
	engine_mount(engine);
	return durable;
}

/* A node whose freeing is not durable is needed after a crash, and the log has the only copy of it. */
Test(log, tail_does_not_pass_a_node_that_may_not_be_free)
{
	unsigned seen = 0;

	for (unsigned flushes = 0; flushes < 4; flushes++) {
		struct engine engine;
		struct late late = { .engine = &engine, .change = late_free, .flushes = flushes };
		uint64_t hot;
		bool freed;

		late_open(&engine, &hot);
		late.what = node_new(&engine, 6, 7);
		freed = late_cut(&late);
		cr_expect(freed || node_is(&engine, late.what, 6, 0, CONTENT, 7), "freed at flush %u", flushes);
		cr_expect_eq(engine.errors, 0, "%s", engine.last_error);
		seen += late.lsn != 0;
		engine_close(&engine);
	}
	cr_expect_gt(seen, 1);
}

/* An orphan that is added once more is one by its first record, too. */
Test(log, tail_does_not_pass_an_orphan_that_was_added_again)
{
	unsigned seen = 0;

	for (unsigned flushes = 0; flushes < 4; flushes++) {
		struct engine engine;
		struct late late = { .engine = &engine, .change = late_orphan, .what = 1000, .flushes = flushes };
		struct ash_txn *txn;
		uint64_t hot, *list;
		size_t count;

		late_open(&engine, &hot);
		txn = engine_begin(&engine, ASH_TXN_SMALL);
		ash_txn_orphan(txn, 1000, true);
		ash_txn_commit(txn);
		engine.options.no_write = true; /* recovery would find that this inode does not exist */
		late_cut(&late);
		cr_assert_eq(ash_log_orphans(engine.volume, &list, &count), 0);
		cr_expect_eq(count, 1, "added again at flush %u", flushes);
		seen += late.lsn != 0;
		free(list);
		engine_close(&engine);
	}
	cr_expect_gt(seen, 1);
}

/* ---- Orphans ---- */

Test(log, orphans_outlive_the_tail)
{
	enum { ORPHANS = 4000 };
	struct engine engine;
	uint64_t block, *list, sum = 0, wanted = 0;
	size_t count;

	engine_open(&engine, "mem:16M", 0);
	block = node_new(&engine, 5, 0);
	for (uint64_t i = 0; i < ORPHANS; i += 50) {
		struct ash_txn *txn = engine_begin(&engine, ASH_TXN_SMALL);

		for (uint64_t k = i; k < i + 50; k++)
			ash_txn_orphan(txn, 1000 + k, true);
		ash_txn_commit(txn);
	}
	for (int i = 0; i < 1500; i++) /* six rounds of the ring */
		node_fill(&engine, block, 5, 0, CONTENT, (uint8_t)i);
	for (uint64_t i = 0; i < ORPHANS; i += 2) {
		struct ash_txn *txn = engine_begin(&engine, ASH_TXN_SMALL);

		ash_txn_orphan(txn, 1000 + i, false);
		ash_txn_commit(txn);
	}
	for (uint64_t i = 1; i < ORPHANS; i += 2)
		wanted += 1000 + i;
	for (int i = 0; i < 500; i++)
		node_fill(&engine, block, 5, 0, CONTENT, (uint8_t)i);
	engine_cut(&engine);
	/* look without recovery, which would find that these inodes do not exist */
	engine.options.no_write = true;
	engine_mount(&engine);
	cr_assert_eq(ash_log_orphans(engine.volume, &list, &count), 0);
	cr_assert_eq(count, ORPHANS / 2);
	for (size_t i = 0; i < count; i++)
		sum += list[i];
	cr_expect_eq(sum, wanted);
	free(list);
	engine_close(&engine);
}

/* ---- System transactions while a checkpoint runs ---- */

struct system_tries {
	struct ash_volume *volume;
	unsigned count, refused;
};

/* Another thread, which holds locks and cannot wait, opens one while the checkpoint waits for the device. */
static void try_system(void *context, const struct bdev_request *request)
{
	struct system_tries *tries = context;
	struct ash_txn *txn;

	if (request->op != BDEV_FLUSH)
		return;
	tries->count++;
	if (ash_txn_begin_system(tries->volume, &txn))
		tries->refused++;
	else
		ash_txn_abort(txn);
}

/* What the checkpoint announces comes out of its own reserve, not out of that of system transactions. */
Test(log, system_transactions_go_on_under_a_checkpoint)
{
	enum { NODES = 9000 }; /* announced, they take more than the system reserve */
	struct engine engine = { .options = { .no_threads = true, .cache_bytes = 128u << 20 } };
	struct system_tries tries = { 0 };
	struct ash_log *log;
	uint64_t hot;

	cr_assert_eq(fault_open(engine_device("mem:128M"), &engine.dev), 0);
	engine_format(engine.dev, 4098);
	engine_mount(&engine);
	log = engine.volume->log;
	hot = node_new(&engine, 5, 0);
	for (int i = 0; i < NODES; i++) {
		struct ash_txn *txn = engine_begin(&engine, ASH_TXN_SMALL);

		node_make(&engine, txn, 6);
		ash_txn_commit(txn);
	}
	/* until the next ordinary transaction would have to wait */
	for (int i = 1; ash_log_used_blocks_locked(log) + ash_log_blocks_for(ASH_TXN_SMALL) + log->checkpoint_reserve +
				log->system_reserve <=
			log->blocks;
	     i++)
		node_fill(&engine, hot, 5, 0, CONTENT, (uint8_t)i);
	cr_assert_eq(counters(&engine).checkpoints, 0);
	tries.volume = engine.volume;
	fault_ask(engine.dev, try_system, &tries);
	cr_assert_eq(ash_log_checkpoint(engine.volume, true), 0);
	fault_ask(engine.dev, NULL, NULL);
	cr_expect_gt(tries.count, NODES / ASH_CHECKPOINT_BATCH);
	cr_expect_eq(tries.refused, 0, "%u of %u", tries.refused, tries.count);
	engine_close(&engine);
}

/* ---- Failure (I6) ---- */

static void expect_failed(struct engine *engine, uint64_t lsn)
{
	struct ash_txn *txn;

	cr_expect_eq(engine->errors, 1, "said once, not %u times", engine->errors);
	cr_expect_lt(ash_log_force(engine->volume, lsn), 0, "no later sync is acknowledged");
	cr_expect_lt(ash_log_force(engine->volume, 0), 0);
	cr_expect_lt(ash_log_flush_data(engine->volume), 0);
	cr_expect_lt(ash_sync(engine->volume), 0);
	cr_expect_lt(ash_checkpoint(engine->volume), 0);
	cr_expect_eq(ash_txn_begin(engine->volume, ASH_TXN_SMALL, &txn), -EROFS);
	cr_expect_lt(ash_close(engine->volume), 0);
	engine->volume = NULL;
	cr_expect_eq(engine->errors, 1);
}

static void failure_case(const struct fault_rule *rule, bool in_checkpoint)
{
	struct engine engine = { .options = { .no_threads = true } };
	struct bdev *memory = engine_device("mem:16M");
	uint64_t block, lsn;

	engine_format(memory, 0);
	cr_assert_eq(fault_open(memory, &engine.dev), 0);
	engine_mount(&engine);
	block = node_new(&engine, 5, 1);
	lsn = ash_log_end(engine.volume);
	cr_assert_eq(ash_log_force(engine.volume, lsn), 0);
	if (!in_checkpoint)
		lsn = node_fill(&engine, block, 5, 0, 100, 2);
	cr_assert_eq(fault_add(engine.dev, rule), 0);
	cr_expect_lt(in_checkpoint ? ash_log_checkpoint(engine.volume, true) : ash_log_force(engine.volume, lsn), 0);
	cr_assert_eq(fault_hits(engine.dev), 1);
	fault_clear(engine.dev); /* the device is well again: that changes nothing */
	expect_failed(&engine, lsn);
	engine_mount(&engine);
	cr_expect(node_is(&engine, block, 5, 200, 100, 1), "what was acknowledged before is there");
	engine_close(&engine);
}

Test(log, failed_log_write_is_sticky)
{
	failure_case(&(struct fault_rule){ .ops = FAULT_OP(BDEV_WRITE), .count = 1 }, false);
}

Test(log, short_log_write_is_sticky)
{
	failure_case(
		&(struct fault_rule){
			.ops = FAULT_OP(BDEV_WRITE), .count = 1, .short_transfer = true, .short_bytes = 512 },
		false);
}

Test(log, failed_flush_is_sticky)
{
	failure_case(&(struct fault_rule){ .ops = FAULT_OP(BDEV_FLUSH), .count = 1 }, false);
}

/* The first write of this checkpoint is the announcement, the second a home write, the last the control block. */
Test(log, failed_announcement_is_sticky)
{
	failure_case(&(struct fault_rule){ .ops = FAULT_OP(BDEV_WRITE), .count = 1 }, true);
}

Test(log, failed_home_write_is_sticky)
{
	failure_case(&(struct fault_rule){ .ops = FAULT_OP(BDEV_WRITE), .skip = 1, .count = 1 }, true);
}

Test(log, failed_flush_of_home_writes_is_sticky)
{
	failure_case(&(struct fault_rule){ .ops = FAULT_OP(BDEV_FLUSH), .skip = 1, .count = 1 }, true);
}

static void *flush_data(void *argument)
{
	struct engine *engine = argument;

	return (void *)(intptr_t)ash_log_flush_data(engine->volume);
}

/* A device, or the page cache before it, tells of lost writes once: the next flush would be told that all is well. */
Test(log, nobody_flushes_after_a_flush_that_failed)
{
	struct engine engine = { .options = { .no_threads = true } };
	struct fault_rule once = { .ops = FAULT_OP(BDEV_FLUSH), .count = 1 };
	struct delay_rule slow = { .ops = DELAY_OP(BDEV_FLUSH), .nanoseconds = 200000000 };
	struct bdev *memory = engine_device("mem:16M"), *faulty;
	uint64_t before;
	pthread_t first;
	void *result;

	engine_format(memory, 0);
	cr_assert_eq(fault_open(memory, &faulty), 0);
	cr_assert_eq(delay_open(faulty, &engine.dev), 0);
	engine_mount(&engine);
	cr_assert_eq(fault_add(faulty, &once), 0);
	delay_set(engine.dev, &slow);
	before = counters(&engine).flushes;
	ash_log_note_data(engine.volume);
	cr_assert_eq(pthread_create(&first, NULL, flush_data, &engine), 0);
	while (pthread_mutex_trylock(&engine.volume->log->flush_lock) == 0) {
		pthread_mutex_unlock(&engine.volume->log->flush_lock);
		sched_yield();
	}
	ash_log_note_data(engine.volume); /* which the first one does not cover, and waits for its turn */
	cr_expect_lt(ash_log_flush_data(engine.volume), 0);
	pthread_join(first, &result);
	cr_expect_lt((int)(intptr_t)result, 0);
	cr_expect_eq(counters(&engine).flushes - before, 1u, "the device was not asked again");
	cr_expect_eq(engine.errors, 1);
	engine_close(&engine);
}

static void *checkpoint(void *argument)
{
	struct engine *engine = argument;

	return (void *)(intptr_t)ash_log_checkpoint(engine->volume, true);
}

static void *force_all(void *argument)
{
	struct engine *engine = argument;

	return (void *)(intptr_t)ash_log_force(engine->volume, ash_log_end(engine->volume));
}

/* A write-through that fails while a flush of data is asked for: it may have been told of what that data has lost. */
static void flush_behind_a_write_through(bool control)
{
	struct engine engine = { .options = { .no_threads = true } };
	struct bdev *memory = engine_device("mem:16M"), *faulty;
	pthread_t first;
	void *result;

	engine_format(memory, 0);
	if (!control)
		memory->geometry.fua = memory->geometry.volatile_cache = true;
	cr_assert_eq(fault_open(memory, &faulty), 0);
	cr_assert_eq(delay_open(faulty, &engine.dev), 0);
	engine_mount(&engine);
	uint64_t offset = (engine.volume->log_start + (control ? 0 : 2)) * ASH_BLOCK_SIZE;
	uint64_t length = (control ? 2 : engine.volume->log_blocks - 2) * ASH_BLOCK_SIZE;
	struct fault_rule once = { .ops = FAULT_OP(BDEV_WRITE), .offset = offset, .length = length, .count = 1 };
	struct delay_rule slow = {
		.ops = DELAY_OP(BDEV_WRITE), .offset = offset, .length = length, .count = 1, .nanoseconds = 200000000
	};
	node_new(&engine, 99, 7);
	if (control) /* then only the control block is written through below */
		cr_assert_eq(ash_log_force(engine.volume, ash_log_end(engine.volume)), 0);
	cr_assert_eq(fault_add(faulty, &once), 0);
	delay_set(engine.dev, &slow);
	cr_assert_eq(pthread_create(&first, NULL, control ? checkpoint : force_all, &engine), 0);
	while (!delay_caught(engine.dev))
		sched_yield();
	while (!fault_hits(faulty)) /* it has failed below, and who asked for it does not know yet */
		sched_yield();
	ash_log_note_data(engine.volume);
	cr_expect_lt(ash_log_flush_data(engine.volume), 0);
	pthread_join(first, &result);
	cr_expect_lt((int)(intptr_t)result, 0);
	engine_close(&engine);
}

Test(log, nobody_flushes_after_a_log_write_through_that_failed)
{
	flush_behind_a_write_through(false);
}

Test(log, nobody_flushes_after_a_control_block_that_failed)
{
	flush_behind_a_write_through(true);
}

/* ---- What comes while the device flushes ---- */

struct flushing {
	struct engine engine;
	uint64_t node;
	pthread_t thread;
};

/* A thread runs `work`, which waits for its flush: the device has done it, and the thread does not know yet. */
static void flushing_open(struct flushing *flushing, void *(*work)(void *))
{
	const struct delay_rule hold = { .ops = DELAY_OP(BDEV_FLUSH), .count = 1, .nanoseconds = DELAY_HELD };
	struct engine *engine = &flushing->engine;
	struct bdev *memory = engine_device("mem:16M");

	*flushing = (struct flushing){ .engine = { .options = { .no_threads = true } } };
	engine_format(memory, 0);
	cr_assert_eq(delay_open(memory, &engine->dev), 0);
	engine_mount(engine);
	flushing->node = node_new(engine, 5, 1);
	if (work == flush_data)
		ash_log_note_data(engine->volume);
	delay_set(engine->dev, &hold);
	cr_assert_eq(pthread_create(&flushing->thread, NULL, work, engine), 0);
	while (!delay_caught(engine->dev))
		sched_yield();
}

static void flushing_end(struct flushing *flushing)
{
	void *result;

	delay_release(flushing->engine.dev);
	pthread_join(flushing->thread, &result);
	cr_assert_eq((int)(intptr_t)result, 0);
}

/* Also several blocks of it, closed by then: they were not written. */
Test(log, what_is_appended_during_a_flush_is_not_durable, .timeout = 60)
{
	struct flushing flushing;
	struct engine *engine = &flushing.engine;
	uint64_t lsn = 0;

	flushing_open(&flushing, force_all);
	for (uint8_t value = 2; value < 6; value++)
		lsn = node_fill(engine, flushing.node, 5, 0, CONTENT, value);
	flushing_end(&flushing);
	cr_expect_lt(ash_log_durable(engine->volume), lsn - 3 * CONTENT);
	cr_assert_eq(ash_log_force(engine->volume, lsn), 0);
	ash_abandon(engine->volume);
	engine_mount(engine);
	cr_expect(node_is(engine, flushing.node, 5, 0, CONTENT, 5), "what was forced is there");
	engine_close(engine);
}

static void write_data_during(void *(*work)(void *))
{
	struct flushing flushing;
	struct engine *engine = &flushing.engine;
	uint64_t before;

	flushing_open(&flushing, work);
	ash_log_note_data(engine->volume);
	flushing_end(&flushing);
	before = counters(engine).flushes;
	cr_assert_eq(ash_log_flush_data(engine->volume), 0);
	cr_expect_eq(counters(engine).flushes, before + 1);
	engine_close(engine);
}

Test(log, data_written_during_a_flush_is_not_flushed, .timeout = 60)
{
	write_data_during(flush_data);
}

Test(log, data_written_during_the_flush_of_the_log_is_not_flushed, .timeout = 60)
{
	write_data_during(force_all);
}

/* ---- Control blocks ---- */

/*
 * Whoever wrote the log that is replayed may have died before its flush. The first control block of the new life lets
 * what was replayed count as durable.
 */
Test(log, a_mount_flushes_before_its_control_block)
{
	struct engine engine = { .options = { .no_threads = true } };
	struct bdev *memory = engine_device("mem:16M");
	size_t control;

	engine_format(memory, 0);
	cr_assert_eq(record_open(memory, &engine.dev), 0);
	engine_mount(&engine);
	node_new(&engine, 5, 1);
	engine_cut(&engine);
	record_clear(engine.dev);
	engine_mount(&engine);
	control = find_entry(engine.dev, 0, RECORD_WRITE, engine.volume->log_start, 2);
	cr_assert_lt(control, record_count(engine.dev));
	cr_expect_lt(find_entry(engine.dev, 0, RECORD_FLUSH, 0, 0), control);
	engine_close(&engine);
}

static int ruling(const struct ash_log_control pair[2])
{
	return ash_get64(pair[1].sequence) > ash_get64(pair[0].sequence);
}

/* A power cut may tear the one that is being written: it must never be the one that rules. */
Test(log, the_ruling_control_block_is_never_written_over)
{
	struct engine engine = { .options = { .no_threads = true } };
	struct ash_log_control before[2], after[2];
	uint8_t torn[ASH_BLOCK_SIZE];
	struct ash_super super;

	engine.dev = engine_device("mem:16M");
	engine_format(engine.dev, 0);
	image_read(&engine, 0, &super);
	const uint64_t start = ash_get64(super.log_start);
	image_read(&engine, start, &before[0]);
	image_read(&engine, start + 1, &before[1]);
	for (unsigned i = 0; i < 8; i++) {
		const int ruled = ruling(before);

		engine_mount(&engine);
		image_read(&engine, start, &after[0]);
		image_read(&engine, start + 1, &after[1]);
		cr_expect(!memcmp(&before[ruled], &after[ruled], ASH_BLOCK_SIZE), "mount %u", i);
		cr_expect_neq(ruled, ruling(after), "mount %u", i);
		cr_assert_eq(ash_close(engine.volume), 0);
		engine.volume = NULL;
		image_read(&engine, start, &before[0]);
		image_read(&engine, start + 1, &before[1]);
		if (i == 3) { /* the newest one was torn: the other one rules */
			memcpy(torn, &before[ruling(before)], sizeof(torn));
			memset(torn + ASH_BLOCK_SIZE / 2, 0xa5, ASH_BLOCK_SIZE / 2);
			image_write(&engine, start + (uint64_t)ruling(before), torn);
			before[ruling(before)].sequence = ash_put64(0);
		}
	}
	engine_close(&engine);
}

/* ---- The orphan set ---- */

/*
 * Numbers from an image. These are all in one chain for whoever knows the multiplier 0x9e3779b97f4a7c15: they are multiples of
 * its inverse.
 */
Test(log, nobody_chooses_which_orphans_collide, .timeout = 60)
{
	const uint64_t inverse = 0xf1de83e19937733du;
	struct ash_orphan_set set = { 0 };
	uint64_t *list;
	size_t count;

	for (uint64_t k = 1; k <= 100000; k++) {
		cr_assert_eq(ash_orphan_set_room(&set, 1), 0);
		ash_orphan_set_change(&set, k * inverse, k, true);
	}
	cr_assert_eq(set.count, 100000u);
	for (uint64_t k = 1; k <= 100000; k += 2)
		ash_orphan_set_change(&set, k * inverse, k, false);
	cr_assert_eq(ash_orphan_set_list(&set, &list, &count), 0);
	cr_assert_eq(count, 50000u);
	for (size_t i = 1; i < count; i++)
		cr_assert_lt(list[i - 1], list[i]);
	free(list);
	free(set.slots);
}
