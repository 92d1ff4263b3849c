/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A scrub while others work: changes between its looks, in the middle of its reads, and from all sides at once. */
#include "scrub_fixture.h"

/* ---- What happens between a look at memory and the read of the device ---- */

struct meanwhile {
	struct fixture *f;
	uint64_t block; /* when this one is read */
	void (*act)(struct meanwhile *meanwhile);
	unsigned times;
	bool inside;
};

static void on_request(void *context, const struct bdev_request *request)
{
	struct meanwhile *meanwhile = context;

	if (meanwhile->inside || request->op != BDEV_READ ||
	    meanwhile->block * ASH_BLOCK_SIZE - request->offset >= request->length)
		return;
	meanwhile->inside = true;
	meanwhile->times++;
	meanwhile->act(meanwhile);
	meanwhile->inside = false;
}

static void act_change_mode(struct meanwhile *meanwhile)
{
	struct ash_setattr change = { .valid = ASH_SET_MODE, .mode = S_IFREG | (meanwhile->times & 0777) };

	cr_assert_eq(ash_setattr(meanwhile->f->names.volume, meanwhile->f->attribute, &change, NULL), 0);
}

Test(scrub_races, a_change_during_the_read_is_no_damage)
{
	struct fixture f;
	struct result result;
	struct meanwhile meanwhile = { .f = &f, .act = act_change_mode };
	struct ash_record record;
	uint32_t offset;

	fixture_open(&f);
	meanwhile.block = record_block(&f, f.attribute, &offset);
	cr_assert_eq(ash_record_get(f.names.volume, f.attribute, &record), 0); /* cached and clean */
	fault_ask(f.names.dev, on_request, &meanwhile);
	scrub_all(&f, &result);
	fault_ask(f.names.dev, NULL, NULL);
	cr_expect_gt(meanwhile.times, 0);
	cr_expect_eq(result.last.problems, 0, "%s", result.list[0].what);
	cr_expect_eq(result.last.newer, 1);
	ash_record_put(f.names.volume, &record);
	fixture_close(&f);
}

static void act_create(struct meanwhile *meanwhile)
{
	if (meanwhile->times == 1)
		names_file(&meanwhile->f->names, ASH_INO_ROOT, "first");
}

/* The record of that change has LSN 0. */
Test(scrub_races, the_first_change_of_a_volume_is_no_damage)
{
	struct fixture f;
	struct result result;
	struct meanwhile meanwhile = { .f = &f, .act = act_create };
	char error[BDEV_ERROR_TEXT] = "";
	struct bdev *memory;
	uint32_t offset;

	cr_assert_eq(bdev_open("mem:32M", NULL, &memory, error), 0, "%s", error);
	fixture_new_on(&f, memory);
	meanwhile.block = record_block(&f, ASH_INO_ROOT, &offset);
	fault_ask(f.names.dev, on_request, &meanwhile);
	scrub_all(&f, &result);
	fault_ask(f.names.dev, NULL, NULL);
	cr_expect_gt(meanwhile.times, 0);
	cr_expect_eq(result.last.problems, 0, "block %llu: %s", (unsigned long long)result.list[0].block,
		     result.list[0].what);
	cr_expect_gt(result.last.newer, 0);
	fixture_close(&f);
}

static void *change_and_go_home(void *argument)
{
	struct meanwhile *meanwhile = argument;

	while (!__atomic_load_n(&meanwhile->inside, __ATOMIC_RELAXED)) {
		__atomic_fetch_add(&meanwhile->times, 1, __ATOMIC_RELAXED);
		act_change_mode(meanwhile);
		cr_assert_eq(ash_checkpoint(meanwhile->f->names.volume), 0);
		usleep(5000); /* clean for most of the time, and never for as long as a read takes */
	}
	return NULL;
}

/*
 * The read shows what was before a home write that ends before the read does: memory is clean both times. The delay layer
 * reads at once and waits then.
 */
Test(scrub_races, a_home_write_during_the_read_is_no_damage, .timeout = 120)
{
	struct delay_rule rule = { .ops = DELAY_OP(BDEV_READ), .length = ASH_BLOCK_SIZE, .nanoseconds = 30000000 };
	struct meanwhile meanwhile = { 0 };
	struct ash_record record;
	struct fixture f;
	struct result result;
	struct bdev *fault;
	pthread_t thread;
	uint32_t offset;

	fixture_open_on(&f, file_device("/tmp", 256u << 20));
	cr_assert_eq(ash_close(f.names.volume), 0);
	fault = f.names.dev;
	cr_assert_eq(delay_open(fault, &f.names.dev), 0);
	names_mount(&f.names);
	cr_assert_eq(ash_record_get(f.names.volume, f.attribute, &record), 0);
	rule.offset = record_block(&f, f.attribute, &offset) * ASH_BLOCK_SIZE;
	delay_set(f.names.dev, &rule);
	meanwhile.f = &f;
	cr_assert_eq(pthread_create(&thread, NULL, change_and_go_home, &meanwhile), 0);
	/* as often as it takes for some home writes to have met a read: a busy machine does few meanwhile */
	do {
		scrub_all(&f, &result);
		cr_expect_eq(result.last.problems, 0, "block %llu: %s", (unsigned long long)result.list[0].block,
			     result.list[0].what);
	} while (__atomic_load_n(&meanwhile.times, __ATOMIC_RELAXED) <= 5 && !result.last.problems);
	__atomic_store_n(&meanwhile.inside, true, __ATOMIC_RELAXED);
	pthread_join(thread, NULL);
	ash_record_put(f.names.volume, &record);
	fixture_close(&f);
}

/* The log goes once around, and its tail passes what was looked for. */
static void act_turn_log(struct meanwhile *meanwhile)
{
	struct ash_volume *volume = meanwhile->f->names.volume;
	uint64_t end = volume->log->written + volume->log->blocks + 10;

	while (volume->log->written < end) {
		act_change_mode(meanwhile);
		cr_assert_eq(ash_sync(volume), 0);
		if (volume->log->written % 50 == 0)
			cr_assert_eq(ash_checkpoint(volume), 0);
	}
	cr_assert_eq(ash_checkpoint(volume), 0);
}

Test(scrub_races, log_blocks_that_the_tail_has_passed_are_not_judged)
{
	struct fixture f;
	struct result result;
	struct meanwhile meanwhile = { .f = &f, .act = act_turn_log };
	struct ash_log *log;

	fixture_open(&f);
	log = f.names.volume->log;
	names_file(&f.names, ASH_INO_ROOT, "new");
	cr_assert_eq(ash_sync(f.names.volume), 0);
	meanwhile.block = log->first_block + (log->written - 1) % log->blocks;
	fault_ask(f.names.dev, on_request, &meanwhile);
	scrub_from(&f, 1, &result);
	fault_ask(f.names.dev, NULL, NULL);
	cr_expect_geq(meanwhile.times, 1);
	cr_expect_eq(result.last.problems, 0, "block %llu: %s", (unsigned long long)result.list[0].block,
		     result.list[0].what);
	fixture_close(&f);
}

/* Blocks are compared with what is committed, not with what a transaction that is still open has made of them. */
Test(scrub_races, open_transactions_are_not_looked_at)
{
	struct fixture f;
	struct result result;
	struct ash_txn *txn;
	uint64_t block;

	fixture_open(&f);
	cr_assert_eq(ash_txn_begin(f.names.volume, ASH_TXN_SMALL, &txn), 0);
	cr_assert_eq(ash_alloc_meta(txn, 0, 0, &block), 0);
	scrub_from(&f, 1, &result);
	cr_expect_eq(result.last.problems, 0, "block %llu: %s", (unsigned long long)result.list[0].block,
		     result.list[0].what);
	ash_txn_abort(txn);
	fixture_close(&f);
}

/* ---- Others at work ---- */

struct churn {
	struct names *names;
	pthread_t thread;
	uint64_t root;
	unsigned seed, done;
	bool stop;
};

static void churn_names(struct churn *churn)
{
	struct ash_volume *volume = churn->names->volume;
	char name[32], other[32];
	int64_t ino;

	snprintf(name, sizeof(name), "%u", churn->seed++ % 500);
	snprintf(other, sizeof(other), "%u", churn->seed * 7 % 500);
	ino = names_make(churn->names, churn->root, name, churn->seed % 9 ? S_IFREG | 0644 : S_IFDIR | 0755);
	if (ino > 0 && churn->seed % 3 == 0)
		ash_write(volume, (uint64_t)ino, name, sizeof(name), churn->seed % 64 * 10000, 0);
	if (ino > 0 && churn->seed % 5 == 0) {
		char value[3000] = "value";

		ash_setxattr(volume, (uint64_t)ino, "user.x", value, churn->seed % 2 ? 100 : sizeof(value), 0);
	}
	if (churn->seed % 2)
		ash_rename(volume, churn->root, name, churn->root, other, 0);
	else if (ash_unlink(volume, churn->root, other, NULL) == -EISDIR)
		ash_rmdir(volume, churn->root, other, NULL);
	if (churn->seed % 200 == 0)
		ash_checkpoint(volume);
}

static void *churn_main(void *argument)
{
	struct churn *churn = argument;

	while (!__atomic_load_n(&churn->stop, __ATOMIC_RELAXED)) {
		churn_names(churn);
		churn->done++;
	}
	return NULL;
}

Test(scrub_races, no_false_alarm_while_others_work, .timeout = 120)
{
	const char *level = getenv("ASHLAR_TEST_LEVEL");
	unsigned seconds = level && !strcmp(level, "quick") ? 2 : 8, rounds = 0;
	struct churn churns[2] = { { 0 } };
	uint64_t looked_at = 0;
	struct fixture f;
	struct result result;
	struct timespec end, now;

	fixture_open_on(&f, file_device("/tmp", 256u << 20));
	cr_assert_eq(ash_close(f.names.volume), 0);
	f.names.options.no_threads = false;
	f.names.options.cache_bytes = 1 << 20; /* so that blocks come and go */
	names_mount(&f.names);
	for (unsigned i = 0; i < 2; i++) {
		churns[i].names = &f.names;
		churns[i].seed = i * 1000;
		churns[i].root = names_directory(&f.names, ASH_INO_ROOT, i ? "one" : "two");
		cr_assert_eq(pthread_create(&churns[i].thread, NULL, churn_main, &churns[i]), 0);
	}
	clock_gettime(CLOCK_MONOTONIC, &end);
	end.tv_sec += seconds;
	do {
		scrub_all(&f, &result);
		cr_expect_eq(result.last.problems, 0, "round %u: inode %llu, block %llu: %s", rounds,
			     (unsigned long long)result.list[0].ino, (unsigned long long)result.list[0].block,
			     result.list[0].what);
		rounds++;
		looked_at += result.last.blocks + result.last.newer;
		clock_gettime(CLOCK_MONOTONIC, &now);
	} while (now.tv_sec < end.tv_sec && !result.last.problems);
	for (unsigned i = 0; i < 2; i++) {
		__atomic_store_n(&churns[i].stop, true, __ATOMIC_RELAXED);
		pthread_join(churns[i].thread, NULL);
		cr_expect_gt(churns[i].done, 100);
	}
	cr_expect_gt(looked_at, 200);
	names_close(&f.names);
}
