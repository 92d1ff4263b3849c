/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A volume on memory with a fault layer, and small helpers, for the tests of file data. */
#ifndef TESTS_UNIT_FS_FILE_FIXTURE_H
#define TESTS_UNIT_FS_FILE_FIXTURE_H

#include <ashlar/ashlar.h>
#include <criterion/criterion.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include "tests/support/fault.h"

struct fixture {
	struct bdev *dev; /* the fault layer */
	struct ash_volume *volume;
	struct ash_open_options options;
};

static inline void quiet_log(void *context, enum ash_log_level level, const char *text)
{
	(void)context;
	(void)level;
	(void)text;
}

static inline void fixture_mount(struct fixture *f)
{
	char error[BDEV_ERROR_TEXT] = "";

	cr_assert_eq(ash_open(f->dev, &f->options, &f->volume, error), 0, "open: %s", error);
}

static inline void fixture_open(struct fixture *f, const char *device, const struct ash_open_options *options)
{
	char error[BDEV_ERROR_TEXT] = "";
	struct ash_mkfs_options mkfs = { 0 };
	struct bdev *memory;

	*f = (struct fixture){ .options = *options };
	f->options.log = quiet_log;
	cr_assert_eq(bdev_open(device, &(struct bdev_open_options){ 0 }, &memory, error), 0, "%s", error);
	cr_assert_eq(fault_open(memory, &f->dev), 0);
	cr_assert_eq(ash_mkfs(f->dev, &mkfs, error), 0, "mkfs: %s", error);
	fixture_mount(f);
}

static inline void fixture_remount(struct fixture *f)
{
	cr_assert_eq(ash_close(f->volume), 0);
	fixture_mount(f);
}

/* The power is cut. */
static inline void fixture_crash(struct fixture *f)
{
	ash_abandon(f->volume);
	fixture_mount(f);
}

static inline void fixture_close(struct fixture *f)
{
	cr_assert_eq(ash_close(f->volume), 0);
	bdev_close(f->dev);
}

static inline uint64_t make_file(struct fixture *f, const char *name)
{
	const struct ash_create create = { .mode = S_IFREG | 0644 };
	struct ash_attr attr;

	cr_assert_eq(ash_create(f->volume, 1, name, &create, &attr), 0);
	return attr.ino;
}

static inline uint64_t find_file(struct fixture *f, const char *name)
{
	struct ash_attr attr;

	cr_assert_eq(ash_lookup(f->volume, 1, name, &attr), 0);
	return attr.ino;
}

static inline struct ash_attr attr_of(struct fixture *f, uint64_t ino)
{
	struct ash_attr attr;

	cr_assert_eq(ash_getattr(f->volume, ino, &attr), 0);
	return attr;
}

static inline uint64_t free_blocks(struct fixture *f)
{
	struct ash_statfs fs;

	cr_assert_eq(ash_statfs(f->volume, &fs), 0);
	return fs.free_blocks;
}

/* Where data lies, and metadata at home, in bytes: behind the log. */
static inline uint64_t data_start(struct fixture *f)
{
	struct ash_volume_info info;

	cr_assert_eq(ash_volume_info(f->volume, &info), 0);
	return (info.log_start + info.log_blocks) * 4096;
}

static inline int set_size(struct fixture *f, uint64_t ino, uint64_t size)
{
	const struct ash_setattr change = { .valid = ASH_SET_SIZE, .size = size };

	return ash_setattr(f->volume, ino, &change, NULL);
}

static inline void *aligned(size_t bytes)
{
	void *memory = bdev_buffer_alloc(bytes);

	cr_assert_not_null(memory);
	return memory;
}

/* Content that tells its place. */
static inline void fill(uint8_t *bytes, size_t length, unsigned seed)
{
	for (size_t i = 0; i < length; i++)
		bytes[i] = (uint8_t)((i * 131 + seed * 7919 + (i >> 8)) | 1);
}

#endif
