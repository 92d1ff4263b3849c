/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A volume in memory and short calls on it, for the tests of the namespace layer. The device outlives the volume, so
 * that a test can look at what is there after a clean unmount or after a crash.
 */
#ifndef TESTS_NAMES_FIXTURE_H
#define TESTS_NAMES_FIXTURE_H

#include <ashlar/ashlar.h>
#include <criterion/criterion.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct names {
	struct bdev *dev;
	struct ash_volume *volume;
	struct ash_open_options options;
};

/* Messages about damage that a test makes are not for the terminal. */
static inline void names_quiet(void *context, enum ash_log_level level, const char *text)
{
	(void)context;
	(void)level;
	(void)text;
}

static inline void names_mount(struct names *names)
{
	char error[BDEV_ERROR_TEXT] = "";

	cr_assert_eq(ash_open(names->dev, &names->options, &names->volume, error), 0, "%s", error);
}

static inline void names_open(struct names *names, const char *device, bool threads)
{
	struct ash_mkfs_options options = { .inodes_per_run = 256 };
	char error[BDEV_ERROR_TEXT] = "";

	memset(names, 0, sizeof(*names));
	names->options.no_threads = !threads;
	names->options.log = names_quiet;
	cr_assert_eq(bdev_open(device, NULL, &names->dev, error), 0, "%s", error);
	cr_assert_eq(ash_mkfs(names->dev, &options, error), 0, "%s", error);
	names_mount(names);
}

static inline void names_remount(struct names *names)
{
	cr_assert_eq(ash_close(names->volume), 0);
	names_mount(names);
}

/* What was synced is all that is left. */
static inline void names_crash(struct names *names)
{
	ash_abandon(names->volume);
	names_mount(names);
}

static inline void names_close(struct names *names)
{
	cr_assert_eq(ash_close(names->volume), 0);
	bdev_close(names->dev);
}

/* Make something in `parent` and give its lookup count back: its number, or negative errno. */
static inline int64_t names_make(struct names *names, uint64_t parent, const char *name, uint32_t mode)
{
	struct ash_create create = { .mode = mode, .target = S_ISLNK(mode) ? "target" : NULL };
	struct ash_attr attr;
	int result = ash_create(names->volume, parent, name, &create, &attr);

	if (result)
		return result;
	ash_forget(names->volume, attr.ino, 1);
	return (int64_t)attr.ino;
}

static inline uint64_t names_file(struct names *names, uint64_t parent, const char *name)
{
	int64_t ino = names_make(names, parent, name, S_IFREG | 0644);

	cr_assert_gt(ino, 0, "create %s: %s", name, strerror((int)-ino));
	return (uint64_t)ino;
}

static inline uint64_t names_directory(struct names *names, uint64_t parent, const char *name)
{
	int64_t ino = names_make(names, parent, name, S_IFDIR | 0755);

	cr_assert_gt(ino, 0, "mkdir %s: %s", name, strerror((int)-ino));
	return (uint64_t)ino;
}

/* The number behind a name, or negative errno. */
static inline int64_t names_find(struct names *names, uint64_t parent, const char *name)
{
	struct ash_attr attr;
	int result = ash_lookup(names->volume, parent, name, &attr);

	if (result)
		return result;
	ash_forget(names->volume, attr.ino, 1);
	return (int64_t)attr.ino;
}

static inline struct ash_attr names_attr(struct names *names, uint64_t ino)
{
	struct ash_attr attr = { 0 };

	cr_assert_eq(ash_getattr(names->volume, ino, &attr), 0);
	return attr;
}

/* Wait until the clock of time stamps, which ticks with the kernel's timer (1 to 10 ms), has gone on. */
static inline void names_tick(void)
{
	struct timespec tick;

	clock_getres(CLOCK_REALTIME_COARSE, &tick);
	tick.tv_nsec *= 2;
	nanosleep(&tick, NULL);
}

static inline uint64_t names_used_inodes(struct names *names)
{
	struct ash_volume_info info;

	cr_assert_eq(ash_volume_info(names->volume, &info), 0);
	return info.used_inodes;
}

static inline uint64_t names_free_blocks(struct names *names)
{
	struct ash_statfs statfs;

	cr_assert_eq(ash_sync(names->volume), 0);
	cr_assert_eq(ash_statfs(names->volume, &statfs), 0);
	return statfs.free_blocks;
}

#endif
