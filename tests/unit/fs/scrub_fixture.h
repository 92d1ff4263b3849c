/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A volume with one of everything, its device, and a scrub of it, for the tests of scrub: test_scrub.c (what is found) and
 * test_scrub_races.c (what must not be taken for damage while others work).
 */
#ifndef TESTS_SCRUB_FIXTURE_H
#define TESTS_SCRUB_FIXTURE_H

#include <ashlar/format.h>
#include <ashlar/scrub.h>
#include <dirent.h>
#include <pthread.h>
#include <unistd.h>
#include "fs/engine.h"
#include "fs/names.h"
#include "names_fixture.h"
#include "tests/support/delay.h"
#include "tests/support/fault.h"
#include "tests/support/file_device.h"

#define ENTRIES 800u

struct fixture {
	struct names names;
	uint64_t big;       /* directory with a tree of nodes */
	uint64_t fragments; /* file with many extents */
	uint64_t attribute; /* file with a long attribute */
	uint64_t inodes, directories;
};

/* ---- A volume with one of everything ---- */

static inline void write_at(struct names *names, uint64_t ino, uint64_t offset, size_t length)
{
	char *data = malloc(length);

	memset(data, 'd', length);
	cr_assert_eq(ash_write(names->volume, ino, data, length, offset, 0), (int64_t)length);
	free(data);
}

static inline void fill(struct fixture *f)
{
	struct names *names = &f->names;
	char value[5000];

	memset(value, 'v', sizeof(value));
	f->big = names_directory(names, ASH_INO_ROOT, "big");
	for (unsigned i = 0; i < ENTRIES; i++) {
		char name[64];

		snprintf(name, sizeof(name), "a name of some length, so that the tree has nodes %u", i);
		names_file(names, f->big, name);
	}
	names_directory(names, f->big, "below");
	f->fragments = names_file(names, ASH_INO_ROOT, "fragments");
	for (unsigned i = 0; i < 300; i++)
		write_at(names, f->fragments, (uint64_t)i * 3 * ASH_BLOCK_SIZE, ASH_BLOCK_SIZE);
	f->attribute = names_file(names, ASH_INO_ROOT, "attribute");
	cr_assert_eq(ash_setxattr(names->volume, f->attribute, "user.long", value, sizeof(value), 0), 0);
	cr_assert_eq(ash_setxattr(names->volume, f->attribute, "user.short", value, 100, 0), 0);
	names_make(names, ASH_INO_ROOT, "link", S_IFLNK | 0777);
	names_make(names, ASH_INO_ROOT, "pipe", S_IFIFO | 0644);
	f->inodes = 1 + 2 + ENTRIES + 4;
	f->directories = 3;
}

/* A new volume on which nothing was ever changed. */
static inline void fixture_new_on(struct fixture *f, struct bdev *device)
{
	struct ash_mkfs_options options = { .inodes_per_run = 256, .log_blocks = ASH_LOG_MIN_BLOCKS };
	char error[BDEV_ERROR_TEXT] = "";

	memset(f, 0, sizeof(*f));
	cr_assert_eq(fault_open(device, &f->names.dev), 0);
	cr_assert_eq(ash_mkfs(f->names.dev, &options, error), 0, "%s", error);
	f->names.options.no_threads = true;
	f->names.options.log = names_quiet;
	f->names.options.continue_on_damage = true;
	names_mount(&f->names);
}

static inline void fixture_open_on(struct fixture *f, struct bdev *device)
{
	fixture_new_on(f, device);
	fill(f);
	names_remount(&f->names);
}

static inline void fixture_open(struct fixture *f)
{
	char error[BDEV_ERROR_TEXT] = "";
	struct bdev *memory;

	cr_assert_eq(bdev_open("mem:256M", NULL, &memory, error), 0, "%s", error);
	fixture_open_on(f, memory);
}

static inline void fixture_close(struct fixture *f)
{
	ash_abandon(f->names.volume);
	bdev_close(f->names.dev);
}

/* ---- The device ---- */

static inline void device_get(struct fixture *f, uint64_t block, void *out)
{
	uint8_t *buffer = bdev_buffer_alloc(ASH_BLOCK_SIZE);

	cr_assert_eq(bdev_read(f->names.dev, buffer, ASH_BLOCK_SIZE, block * ASH_BLOCK_SIZE), 0);
	memcpy(out, buffer, ASH_BLOCK_SIZE);
	bdev_buffer_free(buffer, ASH_BLOCK_SIZE);
}

static inline void device_put(struct fixture *f, uint64_t block, const void *data)
{
	uint8_t *buffer = bdev_buffer_alloc(ASH_BLOCK_SIZE);

	memcpy(buffer, data, ASH_BLOCK_SIZE);
	cr_assert_eq(bdev_write(f->names.dev, buffer, ASH_BLOCK_SIZE, block * ASH_BLOCK_SIZE, 0), 0);
	bdev_buffer_free(buffer, ASH_BLOCK_SIZE);
}

/* A tree node of an inode: the one behind `skip` others of the same level, by address. */
static inline uint64_t node_of(struct fixture *f, uint64_t owner, unsigned level, unsigned skip)
{
	for (uint64_t block = 1; block < f->names.volume->block_count; block++) {
		union {
			uint8_t bytes[ASH_BLOCK_SIZE];
			struct ash_tree_block node;
		} data;

		device_get(f, block, data.bytes);
		if (ash_get32(data.node.header.magic) == ASH_MAGIC_TREE_NODE &&
		    ash_get64(data.node.header.owner) == owner && ash_get64(data.node.header.address) == block &&
		    ash_get16(data.node.node.level) == level && !skip--)
			return block;
	}
	cr_assert_fail("inode %llu has no such node of level %u", (unsigned long long)owner, level);
	return 0;
}

static inline uint64_t record_block(struct fixture *f, uint64_t ino, uint32_t *offset)
{
	struct ash_block_id id;

	cr_assert_eq(ash_itable_locate(f->names.volume, ino, &id, offset), 0);
	return id.block;
}

/* ---- Scrubbing ---- */

struct result {
	struct ash_scrub last;
	unsigned listed;
	struct ash_scrub_problem list[1000];
};

static inline void scrub_from(struct fixture *f, uint32_t phase, struct result *result)
{
	struct ash_scrub *scrub = &result->last;

	memset(result, 0, sizeof(*result));
	*scrub = (struct ash_scrub){ .version = ASH_SCRUB_VERSION, .phase = phase };
	for (unsigned steps = 0; !scrub->finished; steps++) {
		cr_assert_lt(steps, 100000, "it does not end");
		cr_assert_eq(ash_scrub(f->names.volume, scrub), 0);
		for (uint32_t i = 0; i < scrub->listed && result->listed < 1000; i++)
			result->list[result->listed++] = scrub->list[i];
	}
}

static inline void scrub_all(struct fixture *f, struct result *result)
{
	scrub_from(f, 0, result);
}

static inline void expect_problem(const struct result *result, uint64_t ino, uint64_t block, const char *text)
{
	const struct ash_scrub_problem *first = &result->list[0];
	bool found = false;

	for (unsigned i = 0; i < result->listed; i++)
		found |= result->list[i].ino == ino && result->list[i].block == block &&
			 strstr(result->list[i].what, text);
	cr_expect(found, "'%s' of inode %llu, block %llu: %u problems, first: inode %llu, block %llu: %s", text,
		  (unsigned long long)ino, (unsigned long long)block, result->listed, (unsigned long long)first->ino,
		  (unsigned long long)first->block, first->what);
}

#endif
