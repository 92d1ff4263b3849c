/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What the core alone costs: operations per second in process, on a volume in memory, the log on.
 *
 * bench_core [--files N] [--rounds N] [--size SIZE] [--row NAME] [--check]
 *
 * Every row runs in each round on a fresh volume, in the same order; the median is printed. Processor time per
 * operation is of the whole process, background thread included. --check fails (TAP) when the bars of the
 * foundation are missed: 300 000 creates and 1 000 000 lookups a second on one thread. --row runs only what that
 * row needs, for instructions.sh, which counts instructions inside row_*().
 */
#include <ashlar/ashlar.h>

#include <errno.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>

#include "tests/support/level.h"

#define BLOCK 4096u
#define MAX_ROUNDS 32

struct bench {
	struct ash_volume *volume;
	unsigned files;
	uint64_t *inos;
	uint64_t directory;
	unsigned char *buffer;
};

struct measure {
	double seconds, processor;
};

static double now(void)
{
	struct timespec time;

	clock_gettime(CLOCK_MONOTONIC, &time);
	return (double)time.tv_sec + (double)time.tv_nsec / 1e9;
}

static double processor_time(void)
{
	struct rusage usage;

	getrusage(RUSAGE_SELF, &usage);
	return (double)(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) +
	       (double)(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) / 1e6;
}

static void die(const char *what, int64_t error)
{
	fprintf(stderr, "bench_core: %s: %s\n", what, strerror((int)-error));
	exit(2);
}

static void must(const char *what, int64_t result)
{
	if (result < 0)
		die(what, result);
}

/* "f1234567": snprintf would be a part of what is measured. */
static void file_name(char name[16], unsigned number)
{
	name[0] = 'f';
	for (int i = 7; i >= 1; i--) {
		name[i] = (char)('0' + number % 10);
		number /= 10;
	}
	name[8] = 0;
}

/* ---- Rows. Each does `files` operations and returns how many it did. ---- */

#define ROW __attribute__((noinline)) static uint64_t

ROW row_create(struct bench *b)
{
	const struct ash_create create = { .mode = S_IFREG | 0644, .umask = 022 };
	struct ash_attr attr;
	char name[16];

	for (unsigned i = 0; i < b->files; i++) {
		file_name(name, i);
		must("create", ash_create(b->volume, b->directory, name, &create, &attr));
		b->inos[i] = attr.ino;
	}
	return b->files;
}

ROW row_lookup(struct bench *b)
{
	struct ash_attr attr;
	char name[16];

	for (unsigned i = 0; i < b->files; i++) {
		file_name(name, (unsigned)(((uint64_t)i * 7919) % b->files));
		must("lookup", ash_lookup(b->volume, b->directory, name, &attr));
		ash_forget(b->volume, attr.ino, 1);
	}
	return b->files;
}

ROW row_stat(struct bench *b)
{
	struct ash_attr attr;

	for (unsigned i = 0; i < b->files; i++)
		must("getattr", ash_getattr(b->volume, b->inos[((uint64_t)i * 7919) % b->files], &attr));
	return b->files;
}

ROW row_write(struct bench *b)
{
	for (unsigned i = 0; i < b->files; i++)
		must("write", ash_write(b->volume, b->inos[i], b->buffer, BLOCK, 0, 0));
	must("sync", ash_sync(b->volume));
	return b->files;
}

ROW row_overwrite(struct bench *b)
{
	for (unsigned i = 0; i < b->files; i++)
		must("write", ash_write(b->volume, b->inos[((uint64_t)i * 7919) % b->files], b->buffer, BLOCK, 0,
					ASH_WRITE_THROUGH));
	return b->files;
}

ROW row_read(struct bench *b)
{
	for (unsigned i = 0; i < b->files; i++)
		must("read", ash_read(b->volume, b->inos[((uint64_t)i * 7919) % b->files], b->buffer, BLOCK, 0));
	return b->files;
}

ROW row_append_fsync(struct bench *b)
{
	unsigned count = b->files / 10 ? b->files / 10 : 1;

	for (unsigned i = 0; i < count; i++) {
		must("write", ash_write(b->volume, b->inos[0], b->buffer, BLOCK, 0, ASH_WRITE_APPEND));
		must("fsync", ash_fsync(b->volume, b->inos[0], false));
	}
	return count;
}

static int count_entry(void *context, const char *name, size_t length, uint64_t ino, unsigned type, uint64_t next,
		       const struct ash_attr *attr)
{
	(void)name, (void)length, (void)ino, (void)type, (void)next, (void)attr;
	++*(uint64_t *)context;
	return 0;
}

ROW row_readdir(struct bench *b)
{
	uint64_t count = 0;

	must("readdir", ash_readdir(b->volume, b->directory, 0, false, count_entry, &count));
	return count;
}

ROW row_rename(struct bench *b)
{
	char from[16], to[16];

	for (unsigned i = 0; i < b->files; i++) {
		file_name(from, i);
		file_name(to, i);
		to[0] = 'g';
		must("rename", ash_rename(b->volume, b->directory, from, b->directory, to, 0));
	}
	return b->files;
}

ROW row_unlink(struct bench *b)
{
	char name[16];

	for (unsigned i = 0; i < b->files; i++) {
		file_name(name, i);
		name[0] = 'g';
		must("unlink", ash_unlink(b->volume, b->directory, name, NULL));
		ash_forget(b->volume, b->inos[i], 1);
	}
	return b->files;
}

static const struct row {
	const char *name;
	uint64_t (*run)(struct bench *b);
	double bar; /* operations per second asked for; 0: none */
} rows[] = {
	{ "create", row_create, 300000 },
	{ "lookup", row_lookup, 1000000 },
	{ "stat", row_stat, 0 },
	{ "write", row_write, 0 },
	{ "overwrite", row_overwrite, 0 },
	{ "read", row_read, 0 },
	{ "append_fsync", row_append_fsync, 0 },
	{ "readdir", row_readdir, 0 },
	{ "rename", row_rename, 0 },
	{ "unlink", row_unlink, 0 },
};
#define ROWS (sizeof(rows) / sizeof(*rows))

static void open_bench(struct bench *b, struct bdev **dev, const char *size)
{
	struct ash_open_options options = { .cache_bytes = 512 << 20, .write_behind_bytes = 128 << 20 };
	const struct ash_create create = { .mode = S_IFDIR | 0755 };
	char name[64], error[BDEV_ERROR_TEXT] = "";
	struct ash_attr attr;

	snprintf(name, sizeof(name), "mem:%s", size);
	if (bdev_open(name, &(struct bdev_open_options){ 0 }, dev, error) ||
	    ash_mkfs(*dev, &(struct ash_mkfs_options){ .no_discard = true }, error) ||
	    ash_open(*dev, &options, &b->volume, error)) {
		fprintf(stderr, "bench_core: %s\n", error);
		exit(2);
	}
	must("mkdir", ash_create(b->volume, 1, "d", &create, &attr));
	b->directory = attr.ino;
}

static void run_round(struct bench *b, const char *size, struct measure measures[ROWS], const char *last,
		      uint64_t done[ROWS])
{
	struct bdev *dev;

	open_bench(b, &dev, size);
	for (size_t i = 0; i < ROWS; i++) {
		double begin = now(), processor = processor_time();

		done[i] = rows[i].run(b);
		measures[i] = (struct measure){ now() - begin, processor_time() - processor };
		if (last && !strcmp(last, rows[i].name))
			break;
	}
	must("close", ash_close(b->volume));
	bdev_close(dev);
}

static int by_seconds(const void *a, const void *b)
{
	double left = ((const struct measure *)a)->seconds, right = ((const struct measure *)b)->seconds;

	return (left > right) - (left < right);
}

/*
 * One bar as TAP. At the quick level, which every change runs on machines that do other things meanwhile, a missed
 * time says nothing of the change: the figure is shown and the verdict skipped.
 */
static void bar_print(size_t number, const struct row *row, double rate)
{
	bool good = rate >= row->bar, quick = test_level_is_quick();

	printf("%s %zu - %s: %.0f per second, %.0f asked for%s\n", good || quick ? "ok" : "not ok", number, row->name,
	       rate, row->bar, !good && quick ? " # SKIP bars are judged at the normal and long levels" : "");
}

static int report(struct measure measures[MAX_ROUNDS][ROWS], const uint64_t done[ROWS], unsigned rounds, bool check)
{
	int failures = 0;

	printf("# %-14s %12s %10s %14s\n", "row", "per second", "us each", "cpu us each");
	for (size_t i = 0; i < ROWS; i++) {
		struct measure sorted[MAX_ROUNDS], median;
		double count = (double)done[i];

		for (unsigned r = 0; r < rounds; r++)
			sorted[r] = measures[r][i];
		qsort(sorted, rounds, sizeof(*sorted), by_seconds);
		median = sorted[rounds / 2];
		if (!done[i])
			continue;
		printf("# %-14s %12.0f %10.3f %14.3f\n", rows[i].name, count / median.seconds,
		       median.seconds / count * 1e6, median.processor / count * 1e6);
		if (check && rows[i].bar > 0 && count / median.seconds < rows[i].bar)
			failures++;
	}
	for (size_t i = 0, n = 0; check && i < ROWS; i++) {
		if (rows[i].bar > 0) {
			struct measure sorted[MAX_ROUNDS];
			double rate;

			for (unsigned r = 0; r < rounds; r++)
				sorted[r] = measures[r][i];
			qsort(sorted, rounds, sizeof(*sorted), by_seconds);
			rate = (double)done[i] / sorted[rounds / 2].seconds;
			bar_print(++n, &rows[i], rate);
		}
	}
	return failures && !test_level_is_quick() ? 1 : 0;
}

static int usage(FILE *to, int code)
{
	fprintf(to, "usage: bench_core [--files N] [--rounds N] [--size SIZE] [--row NAME] [--check]\n");
	return code;
}

int main(int argc, char **argv)
{
	static const struct option options[] = {
		{ "files", required_argument, NULL, 'f' },
		{ "rounds", required_argument, NULL, 'r' },
		{ "size", required_argument, NULL, 's' },
		{ "row", required_argument, NULL, 'w' },
		{ "check", no_argument, NULL, 'c' },
		{ "help", no_argument, NULL, 'h' },
		{ 0 },
	};
	static struct measure measures[MAX_ROUNDS][ROWS];
	uint64_t done[ROWS] = { 0 };
	const char *size = "4G", *last = NULL;
	bool is_long = test_level_is_long(), check = false;
	struct bench bench = { .files = is_long ? 300000 : 100000 };
	unsigned rounds = is_long ? 7 : 3;
	int c;

	while ((c = getopt_long(argc, argv, "h", options, NULL)) != -1) {
		switch (c) {
		case 'f':
			bench.files = (unsigned)strtoul(optarg, NULL, 10);
			break;
		case 'r':
			rounds = (unsigned)strtoul(optarg, NULL, 10);
			break;
		case 's':
			size = optarg;
			break;
		case 'w':
			last = optarg;
			break;
		case 'c':
			check = true;
			break;
		case 'h':
			return usage(stdout, 0);
		default:
			return usage(stderr, 2);
		}
	}
	if (!bench.files || !rounds || rounds > MAX_ROUNDS)
		return usage(stderr, 2);
	bench.inos = calloc(bench.files, sizeof(*bench.inos));
	bench.buffer = bdev_buffer_alloc(BLOCK);
	if (!bench.inos || !bench.buffer)
		die("memory", -ENOMEM);
	memset(bench.buffer, 0x42, BLOCK);
	if (check)
		printf("1..2\n");
	for (unsigned r = 0; r < rounds; r++)
		run_round(&bench, size, measures[r], last, done);
	bdev_buffer_free(bench.buffer, BLOCK);
	free(bench.inos);
	return report(measures, done, rounds, check);
}
