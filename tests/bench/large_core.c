/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Large things in process: a directory of very many entries, and a volume that is filled and emptied again and again by
 * several writers. Prints TAP.
 *
 * large_core directory|full [COUNT]
 *   directory: COUNT entries (1 000 000; quick 100 000)
 *   full:      COUNT rounds (10; quick 3) of three writers to ENOSPC
 * Both run on a sparse file (sync: driver) or memory; both end with a check of the volume. A hang is ended by alarm(2).
 */
#include <ashlar/ashlar.h>

#include <ashlar/format.h>
#include <errno.h>
#include <fsck/check.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "tests/support/level.h"

#define WRITERS 3u
#define FILES_PER_WRITER 4000u
#define COLD_LOOKUPS 100u

static unsigned test_number, failures;

static void verdict(bool good, const char *what, const char *detail)
{
	printf("%s %u - %s%s%s\n", good ? "ok" : "not ok", ++test_number, what, detail[0] ? ": " : "", detail);
	failures += !good;
	fflush(stdout);
}

/* About a time: on a machine that does other things beside, it is shown and not judged, as by large_common.sh. */
static void verdict_timed(bool good, const char *what, const char *detail)
{
	if (good || !test_level_is_quick()) {
		verdict(good, what, detail);
		return;
	}
	printf("ok %u - %s: %s # SKIP times are judged at the normal and long levels\n", ++test_number, what, detail);
	fflush(stdout);
}

static double now(void)
{
	struct timespec time;

	clock_gettime(CLOCK_MONOTONIC, &time);
	return (double)time.tv_sec + (double)time.tv_nsec / 1e9;
}

static void bail(const char *what, int64_t error)
{
	printf("Bail out! %s: %s\n", what, strerror((int)-error));
	exit(1);
}

static struct bdev *make_device(const char *name)
{
	struct bdev *dev;
	char error[BDEV_ERROR_TEXT] = "";

	if (bdev_open(name, &(struct bdev_open_options){ 0 }, &dev, error) ||
	    ash_mkfs(dev, &(struct ash_mkfs_options){ .no_discard = true }, error)) {
		printf("Bail out! %s\n", error);
		exit(1);
	}
	return dev;
}

static struct ash_volume *open_volume(struct bdev *dev, uint64_t cache)
{
	struct ash_open_options options = { .cache_bytes = cache, .commit_seconds = 1 };
	struct ash_volume *volume;
	char error[BDEV_ERROR_TEXT] = "";

	if (ash_open(dev, &options, &volume, error)) {
		printf("Bail out! %s\n", error);
		exit(1);
	}
	return volume;
}

static void check(struct bdev *dev)
{
	struct ash_check_result result = { 0 };
	int error = ash_check(dev, &(struct ash_check_options){ .mode = ASH_CHECK_NO }, &result);

	verdict(!error && !result.problems, "fsck finds nothing", error ? result.error : result.first);
}

/* Free blocks, and blocks that the inode table took for its runs. */
static uint64_t free_and_runs(struct ash_volume *volume)
{
	struct ash_statfs statfs;
	struct ash_volume_info info;

	if (ash_sync(volume) || ash_statfs(volume, &statfs) || ash_volume_info(volume, &info))
		bail("statfs", -EIO);
	return statfs.free_blocks + info.inode_runs * (info.inodes_per_run / ASH_INODES_PER_BLOCK + 1);
}

/* ---- A large directory ---- */

static int count_entry(void *context, const char *name, size_t length, uint64_t ino, unsigned type, uint64_t next,
		       const struct ash_attr *attr)
{
	(void)name, (void)length, (void)ino, (void)type, (void)next, (void)attr;
	++*(uint64_t *)context;
	return 0;
}

static double create_entries(struct ash_volume *volume, uint64_t directory, unsigned from, unsigned to)
{
	const struct ash_create create = { .mode = S_IFREG | 0644 };
	double begin = now();

	for (unsigned i = from; i < to; i++) {
		struct ash_attr attr;
		char name[64];
		int error;

		snprintf(name, sizeof(name), "entry-with-a-usual-name-%u", i);
		error = ash_create(volume, directory, name, &create, &attr);
		if (error)
			bail("create", error);
		ash_forget(volume, attr.ino, 1);
	}
	return now() - begin;
}

static int compare_times(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return x < y ? -1 : x > y;
}

/* Seconds, the median. */
static double cold_lookup(struct ash_volume *volume, uint64_t directory, unsigned count)
{
	double took[COLD_LOOKUPS];

	for (unsigned i = 0; i < COLD_LOOKUPS; i++) {
		struct ash_attr attr;
		char name[64];
		double begin = now();
		int error;

		snprintf(name, sizeof(name), "entry-with-a-usual-name-%u",
			 (unsigned)((uint64_t)i * 7919 * 104729 % count));
		error = ash_lookup(volume, directory, name, &attr);
		if (error)
			bail("lookup", error);
		ash_forget(volume, attr.ino, 1);
		took[i] = now() - begin;
	}
	qsort(took, COLD_LOOKUPS, sizeof(took[0]), compare_times);
	return took[COLD_LOOKUPS / 2];
}

static void remove_entries(struct ash_volume *volume, uint64_t directory, unsigned count)
{
	for (unsigned i = 0; i < count; i++) {
		char name[64];
		int error;

		snprintf(name, sizeof(name), "entry-with-a-usual-name-%u", i);
		error = ash_unlink(volume, directory, name, NULL);
		if (error)
			bail("unlink", error);
	}
}

static void large_directory(unsigned count)
{
	const struct ash_create create = { .mode = S_IFDIR | 0755 };
	struct bdev *dev = make_device("mem:4G");
	struct ash_volume *volume = open_volume(dev, 0);
	uint64_t free_before = free_and_runs(volume), listed = 0;
	unsigned tenth = count / 10;
	struct ash_attr attr;
	double first, last, cold;
	char text[200];

	if (ash_create(volume, 1, "large", &create, &attr))
		bail("mkdir", -EIO);
	first = create_entries(volume, attr.ino, 0, tenth);
	create_entries(volume, attr.ino, tenth, count - tenth);
	last = create_entries(volume, attr.ino, count - tenth, count);
	snprintf(text, sizeof(text), "%.0f per second at the start, %.0f at the end", tenth / first, tenth / last);
	verdict_timed(last <= first * 2, "creating does not slow down to less than half", text);
	if (ash_close(volume))
		bail("close", -EIO);
	volume = open_volume(dev, 0);
	cold = cold_lookup(volume, attr.ino, count);
	snprintf(text, sizeof(text), "%.1f us, the median", cold * 1e6);
	verdict_timed(cold < 0.001, "a cold lookup takes less than 1 ms", text);
	if (ash_readdir(volume, attr.ino, 0, false, count_entry, &listed))
		bail("readdir", -EIO);
	snprintf(text, sizeof(text), "%llu", (unsigned long long)listed);
	verdict(listed == (uint64_t)count + 2, "every entry is listed once", text);
	remove_entries(volume, attr.ino, count);
	if (ash_rmdir(volume, 1, "large", NULL))
		bail("rmdir", -EIO);
	ash_forget(volume, attr.ino, 1);
	snprintf(text, sizeof(text), "%lld blocks missing", (long long)(free_before - free_and_runs(volume)));
	verdict(free_and_runs(volume) == free_before, "free blocks are as before", text);
	verdict(ash_close(volume) == 0, "unmount", "");
	check(dev);
	bdev_close(dev);
}

/* ---- A full volume ---- */

struct writer {
	struct ash_volume *volume;
	uint64_t directory;
	unsigned number;
	uint64_t bytes;
	int64_t error; /* that ended it */
};

static void *write_until_full(void *argument)
{
	static const size_t sizes[] = { 100, 5000, 300000, 4096, 70000, 1 };
	const struct ash_create create = { .mode = S_IFREG | 0644 };
	struct writer *writer = argument;
	unsigned char *data = calloc(1, 300000);

	writer->error = data ? 0 : -ENOMEM;
	for (unsigned i = 0; !writer->error && i < FILES_PER_WRITER; i++) {
		size_t size = sizes[(i + writer->number) % 6];
		struct ash_attr attr;
		char name[32];

		snprintf(name, sizeof(name), "w%u-%u", writer->number, i);
		writer->error = ash_create(writer->volume, writer->directory, name, &create, &attr);
		for (unsigned part = 0; !writer->error && part < 4; part++) {
			int64_t written = ash_write(writer->volume, attr.ino, data, size, part * size,
						    i % 5 ? 0 : ASH_WRITE_THROUGH);

			if (written < 0)
				writer->error = written;
			else
				writer->bytes += (uint64_t)written;
		}
		if (!writer->error || writer->error == -ENOSPC)
			ash_forget(writer->volume, attr.ino, attr.ino != 0);
	}
	free(data);
	return NULL;
}

static void fill(struct ash_volume *volume, uint64_t directory, struct writer writers[WRITERS])
{
	pthread_t threads[WRITERS];

	for (unsigned i = 0; i < WRITERS; i++) {
		writers[i] = (struct writer){ .volume = volume, .directory = directory, .number = i };
		if (pthread_create(&threads[i], NULL, write_until_full, &writers[i]))
			bail("pthread_create", -EAGAIN);
	}
	for (unsigned i = 0; i < WRITERS; i++)
		pthread_join(threads[i], NULL);
}

static void empty(struct ash_volume *volume, uint64_t directory)
{
	for (unsigned writer = 0; writer < WRITERS; writer++) {
		for (unsigned i = 0; i < FILES_PER_WRITER; i++) {
			char name[32];
			int error;

			snprintf(name, sizeof(name), "w%u-%u", writer, i);
			error = ash_unlink(volume, directory, name, NULL);
			if (error == -ENOENT)
				break;
			if (error)
				bail("unlink on a full volume", error);
		}
	}
}

static void full_volume(unsigned rounds)
{
	const struct ash_create create = { .mode = S_IFDIR | 0755 };
	struct bdev *dev = make_device("mem:160M");
	struct ash_volume *volume = open_volume(dev, 8 << 20);
	uint64_t before = free_and_runs(volume);
	struct ash_attr attr;

	for (unsigned round = 0; round < rounds; round++) {
		struct writer writers[WRITERS];
		char text[200];
		bool good = true;
		uint64_t after;

		if (ash_create(volume, 1, "d", &create, &attr))
			bail("mkdir", -EIO);
		fill(volume, attr.ino, writers);
		for (unsigned i = 0; i < WRITERS; i++)
			good = good && writers[i].error == -ENOSPC;
		snprintf(text, sizeof(text), "%.1f MiB; ended by %s, %s, %s",
			 (double)(writers[0].bytes + writers[1].bytes + writers[2].bytes) / (1 << 20),
			 strerror((int)-writers[0].error), strerror((int)-writers[1].error),
			 strerror((int)-writers[2].error));
		verdict(good, "three writers reach ENOSPC and nothing else", text);
		verdict(ash_sync(volume) == 0, "what is on a full volume can be synced", "");
		empty(volume, attr.ino);
		ash_forget(volume, attr.ino, 1);
		if (ash_rmdir(volume, 1, "d", NULL))
			bail("rmdir", -EIO);
		after = free_and_runs(volume);
		snprintf(text, sizeof(text), "%lld missing", (long long)(before - after));
		verdict(after == before, "all blocks come back", after == before ? "" : text);
	}
	verdict(ash_close(volume) == 0, "unmount", "");
	check(dev);
	bdev_close(dev);
}

int main(int argc, char **argv)
{
	bool is_long = test_level_is_long();
	unsigned count = argc > 2 ? (unsigned)strtoul(argv[2], NULL, 10) : 0;

	alarm(is_long ? 3600 : 600);
	if (argc > 1 && !strcmp(argv[1], "directory"))
		large_directory(count ? count : is_long ? 1000000 : 100000);
	else if (argc > 1 && !strcmp(argv[1], "full"))
		full_volume(count ? count : is_long ? 10 : 3);
	else {
		fprintf(stderr, "usage: large_core directory|full [COUNT]\n");
		return 2;
	}
	printf("1..%u\n", test_number);
	return failures ? 1 : 0;
}
