/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A volume in memory and the forks of its root inode, for the tests of trees and what stands on them. The root
 * directory's forks are used as bare trees; the volume is abandoned at the end, so nobody minds what they hold.
 */
#ifndef TESTS_TREE_FIXTURE_H
#define TESTS_TREE_FIXTURE_H

#include <ashlar/ashlar.h>
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "fs/btree.h"
#include "fs/inode.h"
#include "fs/volume.h"

struct fixture {
	struct bdev *dev;
	struct ash_volume *volume;
	struct ash_record record;
	struct ash_tree data, attr;
	char last_message[256];
};

/* Damage is part of some tests: keep the text instead of printing it. */
static inline void fixture_log(void *context, enum ash_log_level level, const char *text)
{
	struct fixture *fixture = context;

	(void)level;
	snprintf(fixture->last_message, sizeof(fixture->last_message), "%s", text);
}

static inline void fixture_mount(struct fixture *fixture)
{
	struct ash_open_options options = {
		.no_threads = true,
		.continue_on_damage = true,
		.cache_bytes = 1u << 20,
		.log = fixture_log,
		.context = fixture,
	};
	char error[BDEV_ERROR_TEXT] = "";

	cr_assert_eq(ash_open(fixture->dev, &options, &fixture->volume, error), 0, "%s", error);
	cr_assert_eq(ash_record_get(fixture->volume, ASH_INO_ROOT, &fixture->record), 0);
	ash_record_tree(fixture->volume, &fixture->record, false, &fixture->data);
	ash_record_tree(fixture->volume, &fixture->record, true, &fixture->attr);
}

static inline void fixture_open(struct fixture *fixture, const char *device)
{
	struct bdev_open_options device_options = { 0 };
	static const uint8_t seed[] = "0123456789abcdef0123456789abcdef";
	struct ash_mkfs_options options = { .seed = seed, .now = 1000000000 };
	char error[BDEV_ERROR_TEXT] = "";

	memset(fixture, 0, sizeof(*fixture));
	cr_assert_eq(bdev_open(device, &device_options, &fixture->dev, error), 0, "%s", error);
	cr_assert_eq(ash_mkfs(fixture->dev, &options, error), 0, "%s", error);
	fixture_mount(fixture);
}

static inline void fixture_close(struct fixture *fixture)
{
	ash_record_put(fixture->volume, &fixture->record);
	ash_abandon(fixture->volume);
	bdev_close(fixture->dev);
}

static inline uint64_t fixture_blocks(const struct fixture *fixture)
{
	return ash_get64(fixture->record.inode->blocks);
}

/* Make everything durable, then cut the power: what is there afterwards comes from the log. */
static inline void fixture_cut(struct fixture *fixture)
{
	cr_assert_eq(ash_log_force(fixture->volume, ash_log_end(fixture->volume)), 0);
	ash_record_put(fixture->volume, &fixture->record);
	ash_abandon(fixture->volume);
	fixture->last_message[0] = 0;
	fixture_mount(fixture);
	fixture->last_message[0] = 0; /* the log says that it was replayed */
}

/* Free blocks of the volume when nothing is pending. */
static inline uint64_t fixture_free(struct fixture *fixture)
{
	struct ash_statfs stat;

	cr_assert_eq(ash_sync(fixture->volume), 0);
	cr_assert_eq(ash_statfs(fixture->volume, &stat), 0);
	return stat.free_blocks;
}

static inline struct ash_txn *fixture_begin(struct fixture *fixture, uint32_t bytes)
{
	struct ash_txn *txn;

	cr_assert_eq(ash_txn_begin(fixture->volume, bytes, &txn), 0);
	return txn;
}

/* A small generator with a period of 2^64: the same numbers in every run. */
static inline uint64_t fixture_random(uint64_t *state)
{
	uint64_t z = *state += 0x9e3779b97f4a7c15ull;

	z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9ull;
	z = (z ^ z >> 27) * 0x94d049bb133111ebull;
	return z ^ z >> 31;
}

#endif
