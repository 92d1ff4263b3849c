/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What a device may make of writes that were not flushed, for tests of single actions (tests/crash has workloads).
 *
 * An action is recorded; then the power goes at the end of each window between two flushes, and of what was written
 * in it all, nothing, or some is on the device, torn between sectors where that happens. The test judges each state.
 */
#ifndef TESTS_LOSS_FIXTURE_H
#define TESTS_LOSS_FIXTURE_H

#include <criterion/criterion.h>

#include "engine_fixture.h"
#include "tests/support/level.h"

#define SECTOR 512u
#define WINDOW_MAX 1024u /* changes that are not durable at one time */

struct losses {
	uint8_t *base; /* the device before the action */
	uint64_t blocks;
	struct bdev *record; /* of the action */
	struct bdev *dev;    /* the state that is judged */
	bool *dirty;         /* per block: ... is perhaps not `base` there */
	/* NULL, or what is wrong with it. `untouched`: nothing of the action is there. */
	const char *(*judge)(void *context, bool untouched);
	void *context;

	uint64_t random;
	unsigned states, bad;
	size_t open[WINDOW_MAX]; /* changes that are not durable at the cut */
	unsigned open_count;
};

static inline void losses_note(void *context, const struct bdev_request *request)
{
	struct losses *losses = context;
	uint64_t end = (request->offset + request->length + ASH_BLOCK_SIZE - 1) / ASH_BLOCK_SIZE;

	if (request->op == BDEV_READ || request->op == BDEV_FLUSH)
		return;
	for (uint64_t block = request->offset / ASH_BLOCK_SIZE; block < end; block++)
		losses->dirty[block] = true;
}

/* Put a recording layer on *dev, and make the device for the states: losses->dev. */
static inline void losses_open(struct losses *losses, struct bdev **dev)
{
	uint64_t size = bdev_geometry(*dev)->size;
	static const uint8_t zero[ASH_BLOCK_SIZE];
	char name[32];

	memset(losses, 0, sizeof(*losses));
	losses->blocks = size / ASH_BLOCK_SIZE;
	losses->random = 88172645463325252ull;
	losses->base = bdev_buffer_alloc(size);
	losses->dirty = calloc(losses->blocks, sizeof(*losses->dirty));
	cr_assert(losses->base && losses->dirty);
	cr_assert_eq(bdev_read(*dev, losses->base, size, 0), 0);
	cr_assert_eq(record_open(*dev, dev), 0);
	losses->record = *dev;
	snprintf(name, sizeof(name), "mem:%llu", (unsigned long long)size);
	cr_assert_eq(fault_open(engine_device(name), &losses->dev), 0);
	fault_ask(losses->dev, losses_note, losses);
	for (uint64_t block = 0; block < losses->blocks; block++)
		losses->dirty[block] = memcmp(losses->base + block * ASH_BLOCK_SIZE, zero, sizeof(zero)) != 0;
}

/* The recorded device stays. */
static inline void losses_close(struct losses *losses)
{
	bdev_close(losses->dev);
	bdev_buffer_free(losses->base, losses->blocks * ASH_BLOCK_SIZE);
	free(losses->dirty);
}

/* ---- One state ---- */

static inline void losses_reset(struct losses *losses)
{
	for (uint64_t block = 0; block < losses->blocks; block++)
		if (losses->dirty[block])
			cr_assert_eq(bdev_write(losses->dev, losses->base + block * ASH_BLOCK_SIZE, ASH_BLOCK_SIZE,
						block * ASH_BLOCK_SIZE, 0),
				     0);
	memset(losses->dirty, 0, losses->blocks * sizeof(*losses->dirty));
}

static inline bool losses_untouched(struct losses *losses)
{
	uint8_t *bytes = bdev_buffer_alloc(ASH_BLOCK_SIZE);
	bool same = true;

	for (uint64_t block = 0; block < losses->blocks && same; block++) {
		if (!losses->dirty[block])
			continue;
		cr_assert_eq(bdev_read(losses->dev, bytes, ASH_BLOCK_SIZE, block * ASH_BLOCK_SIZE), 0);
		same = !memcmp(bytes, losses->base + block * ASH_BLOCK_SIZE, ASH_BLOCK_SIZE);
	}
	bdev_buffer_free(bytes, ASH_BLOCK_SIZE);
	return same;
}

/* What was durable at the cut. */
static inline void losses_begin(struct losses *losses, size_t cut)
{
	losses_reset(losses);
	losses->open_count = 0;
	for (size_t i = 0; i < cut; i++) {
		const struct record_entry *entry = record_get(losses->record, i);

		if (entry->kind == RECORD_FLUSH || entry->kind == RECORD_MARK)
			continue;
		if (record_is_durable(losses->record, i, cut)) {
			cr_assert_eq(record_apply(entry, losses->dev), 0);
			continue;
		}
		cr_assert_lt(losses->open_count, WINDOW_MAX);
		losses->open[losses->open_count++] = i;
	}
}

enum losses_choice { LOSSES_ALL, LOSSES_NONE, LOSSES_EACH, LOSSES_RANDOM };

/* What becomes of a change: '-' is lost, '+' is there, '<' and '>': its front or its end is. */
static inline char losses_fate(struct losses *losses, enum losses_choice choice, unsigned number, unsigned change)
{
	if (choice == LOSSES_ALL || choice == LOSSES_NONE)
		return choice == LOSSES_ALL ? '-' : '+';
	if (choice == LOSSES_EACH)
		return "-+<>"[number >> 2 * change & 3];
	return "--++-++<>-"[(engine_random(&losses->random) >> 20) % 10];
}

static inline void losses_apply(struct losses *losses, const struct record_entry *entry, enum losses_choice choice,
				char fate)
{
	uint64_t sectors = entry->length / SECTOR, part = sectors / 2, first, length;

	if (fate == '+')
		cr_assert_eq(record_apply(entry, losses->dev), 0);
	if (choice == LOSSES_RANDOM && sectors > 1)
		part = 1 + engine_random(&losses->random) % (sectors - 1);
	first = fate == '>' ? part : 0;
	length = fate == '>' ? sectors - part : part;
	if ((fate == '<' || fate == '>') && part)
		cr_assert_eq(record_apply_part(entry, losses->dev, first * SECTOR, length * SECTOR), 0);
}

static inline void losses_try(struct losses *losses, size_t cut, enum losses_choice choice, unsigned number)
{
	char fates[65] = "";
	const char *why;

	losses_begin(losses, cut);
	for (unsigned i = 0; i < losses->open_count; i++) {
		char fate = losses_fate(losses, choice, number, i);

		losses_apply(losses, record_get(losses->record, losses->open[i]), choice, fate);
		if (i < sizeof(fates) - 1)
			fates[i] = fate;
	}
	losses->states++;
	why = losses->judge(losses->context, losses_untouched(losses));
	if (why && losses->bad++ < 3)
		cr_expect_fail("state %u: cut at %zu, %u changes (%s): %s", losses->states, cut, losses->open_count,
			       fates, why);
}

/* ---- All ---- */

/* All states of few changes, torn in the middle; else seeded ones. */
static inline void losses_window(struct losses *losses, size_t cut)
{
	unsigned subsets = test_level_is_long() ? 400 : test_level_is_quick() ? 16 : 48;
	bool each;

	losses_begin(losses, cut);
	each = losses->open_count <= 3;
	if (each)
		subsets = 1u << 2 * losses->open_count;
	for (enum losses_choice choice = LOSSES_ALL; choice <= LOSSES_NONE && !each; choice++)
		losses_try(losses, cut, choice, 0);
	for (unsigned i = 0; i < subsets; i++)
		losses_try(losses, cut, each ? LOSSES_EACH : LOSSES_RANDOM, i);
}

/* Before each flush, and at the end. Two flushes one after the other have no state between them. */
static inline void losses_explore(struct losses *losses)
{
	size_t count = record_count(losses->record), last = 0;

	for (size_t cut = 1; cut <= count; cut++) {
		if (cut < count && record_get(losses->record, cut)->kind != RECORD_FLUSH)
			continue;
		if (cut > last + 1 || cut == 1)
			losses_window(losses, cut);
		last = cut;
	}
	cr_expect_gt(losses->states, 0);
	cr_expect_eq(losses->bad, 0, "%u of %u states", losses->bad, losses->states);
}

#endif
