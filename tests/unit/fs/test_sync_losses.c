/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Several threads write and sync several files each, while flushes take their time. Whenever the power goes, what was
 * acknowledged is there, also when of all that was not flushed nothing is.
 */
#include <pthread.h>

#include "loss_fixture.h"

#define THREADS 6u
#define FILES 4u /* of one thread */
#define ROUNDS 40u
#define WORDS (ASH_BLOCK_SIZE / sizeof(uint64_t))

struct syncing {
	struct engine engine;
	struct losses losses;
	uint64_t files[THREADS * FILES];
	uint64_t acknowledged[THREADS * FILES]; /* at the cut */
};

struct writer {
	struct syncing *s;
	unsigned number;
	pthread_t thread;
};

/* A block that is full of one number, in place or into the buffer; how it is synced. */
static unsigned write_one(struct syncing *s, unsigned file, uint64_t value, unsigned way, uint64_t *block)
{
	static const unsigned flags[] = { 0, ASH_WRITE_THROUGH | ASH_WRITE_NO_TIMES, ASH_WRITE_THROUGH };
	static const unsigned syncs[] = { 0, ASH_FSYNC_WRITTEN | ASH_FSYNC_DATA, ASH_FSYNC_WRITTEN };

	for (unsigned i = 0; i < WORDS; i++)
		block[i] = value;
	cr_expect_eq(ash_write(s->engine.volume, s->files[file], block, ASH_BLOCK_SIZE, 0, flags[way]), ASH_BLOCK_SIZE);
	return syncs[way];
}

static void *write_and_sync(void *argument)
{
	struct writer *writer = argument;
	struct syncing *s = writer->s;
	uint64_t random = 88172645463325252ull + writer->number, *block = bdev_buffer_alloc(ASH_BLOCK_SIZE);

	for (uint64_t value = 1; value <= ROUNDS; value++) {
		struct ash_fsync items[FILES];

		for (unsigned i = 0; i < FILES; i++) {
			unsigned file = writer->number * FILES + i, way = (unsigned)(engine_random(&random) >> 20) % 3;

			items[i] = (struct ash_fsync){ .ino = s->files[file],
						       .flags = write_one(s, file, value, way, block) };
		}
		ash_fsync_all(s->engine.volume, items, FILES);
		for (unsigned i = 0; i < FILES; i++) {
			cr_expect_eq(items[i].result, 0);
			record_mark(s->losses.record, value << 8 | (writer->number * FILES + i));
		}
	}
	bdev_buffer_free(block, ASH_BLOCK_SIZE);
	return NULL;
}

static const char *judge(void *context, bool untouched)
{
	struct syncing *s = context;
	struct engine after = { .dev = s->losses.dev, .options = { .no_threads = true } };
	uint64_t *block = bdev_buffer_alloc(ASH_BLOCK_SIZE);
	const char *why = NULL;

	(void)untouched;
	if (engine_try_mount(&after)) {
		bdev_buffer_free(block, ASH_BLOCK_SIZE);
		return "it cannot be mounted";
	}
	for (unsigned file = 0; file < THREADS * FILES && !why; file++) {
		if (ash_read(after.volume, s->files[file], block, ASH_BLOCK_SIZE, 0) != ASH_BLOCK_SIZE)
			why = "a file cannot be read";
		else if (block[0] < s->acknowledged[file])
			why = "what was acknowledged is not there";
	}
	ash_abandon(after.volume);
	bdev_buffer_free(block, ASH_BLOCK_SIZE);
	return why;
}

/* What had been acknowledged when the power went at `cut`. */
static void acknowledged_until(struct syncing *s, size_t cut)
{
	memset(s->acknowledged, 0, sizeof(s->acknowledged));
	for (size_t i = 0; i < cut; i++) {
		const struct record_entry *entry = record_get(s->losses.record, i);

		if (entry->kind == RECORD_MARK)
			s->acknowledged[entry->mark & 0xff] = entry->mark >> 8;
	}
}

static void make_files(struct syncing *s)
{
	const struct ash_create create = { .mode = S_IFREG | 0644 };
	uint64_t *block = bdev_buffer_alloc(ASH_BLOCK_SIZE);
	struct ash_attr attr;
	char name[16];

	for (unsigned i = 0; i < THREADS * FILES; i++) {
		snprintf(name, sizeof(name), "f%u", i);
		cr_assert_eq(ash_create(s->engine.volume, ASH_INO_ROOT, name, &create, &attr), 0);
		s->files[i] = attr.ino;
		write_one(s, i, 0, 2, block);
	}
	cr_assert_eq(ash_checkpoint(s->engine.volume), 0);
	bdev_buffer_free(block, ASH_BLOCK_SIZE);
}

Test(sync_losses, what_was_acknowledged_is_there, .timeout = 250)
{
	const struct delay_rule slow = { .ops = DELAY_OP(BDEV_FLUSH), .nanoseconds = 300000 };
	unsigned states = test_level_is_long() ? 2000 : test_level_is_quick() ? 60 : 300;
	struct writer writers[THREADS];
	struct syncing *s = calloc(1, sizeof(*s));
	uint64_t random = 88172645463325252ull;

	cr_assert_not_null(s);
	engine_open(&s->engine, "mem:16M", 0);
	make_files(s);
	engine_cut(&s->engine);
	cr_assert_eq(delay_open(s->engine.dev, &s->engine.dev), 0);
	delay_set(s->engine.dev, &slow);
	losses_open(&s->losses, &s->engine.dev);
	s->losses.judge = judge;
	s->losses.context = s;
	engine_mount(&s->engine);
	for (unsigned i = 0; i < THREADS; i++) {
		writers[i] = (struct writer){ .s = s, .number = i };
		cr_assert_eq(pthread_create(&writers[i].thread, NULL, write_and_sync, &writers[i]), 0);
	}
	for (unsigned i = 0; i < THREADS; i++)
		pthread_join(writers[i].thread, NULL);
	ash_abandon(s->engine.volume);
	s->engine.volume = NULL;
	for (unsigned i = 0; i < states; i++) {
		size_t cut = 1 + engine_random(&random) % record_count(s->losses.record);

		acknowledged_until(s, cut);
		losses_try(&s->losses, cut, i % 3 ? LOSSES_ALL : LOSSES_RANDOM, i);
	}
	cr_expect_eq(s->losses.bad, 0, "%u of %u states", s->losses.bad, s->losses.states);
	losses_close(&s->losses);
	engine_close(&s->engine);
	free(s);
}
