/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Helper of large_directory.sh: COUNT files in one directory of a mounted filesystem.
 *
 * bench_entries create|cold|lookup-all|remove DIRECTORY COUNT
 *   create      prints the rates per second of the first and of the last tenth
 *   cold        21 of them, far apart, each after the kernel's caches were dropped: prints the median time in us
 *   lookup-all  stat of every one
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

static double now(void)
{
	struct timespec time;

	clock_gettime(CLOCK_MONOTONIC, &time);
	return (double)time.tv_sec + (double)time.tv_nsec / 1e9;
}

static void name_of(char name[64], unsigned number)
{
	snprintf(name, 64, "entry-with-a-usual-name-%u", number);
}

static void must(const char *what, int result)
{
	if (result < 0) {
		fprintf(stderr, "bench_entries: %s: %s\n", what, strerror(errno));
		exit(1);
	}
}

static double create(int directory, unsigned from, unsigned to)
{
	double begin = now();

	for (unsigned i = from; i < to; i++) {
		char name[64];
		int fd;

		name_of(name, i);
		fd = openat(directory, name, O_CREAT | O_EXCL | O_WRONLY, 0644);
		must(name, fd);
		close(fd);
	}
	return (to - from) / (now() - begin);
}

static void look(int directory, unsigned number)
{
	struct stat st;
	char name[64];

	name_of(name, number);
	must(name, fstatat(directory, name, &st, 0));
}

static void drop_caches(int directory)
{
	int fd = open("/proc/sys/vm/drop_caches", O_WRONLY);

	must("syncfs", syncfs(directory));
	must("drop_caches", fd);
	must("drop_caches", (int)write(fd, "3", 1));
	close(fd);
}

static int compare(const void *a, const void *b)
{
	const double *x = a, *y = b;

	return (*x > *y) - (*x < *y);
}

/* The median: what else the machine does hits single lookups. */
static double cold(int directory, unsigned count)
{
	double times[21];
	unsigned n = sizeof(times) / sizeof(times[0]);

	must("mlockall", mlockall(MCL_CURRENT)); /* the lookup is timed, not the reading of this program */
	for (unsigned i = 0; i < n; i++) {
		double begin;

		drop_caches(directory);
		begin = now();
		look(directory, (count - 1) / n * i);
		times[i] = (now() - begin) * 1e6;
	}
	qsort(times, n, sizeof(times[0]), compare);
	return times[n / 2];
}

int main(int argc, char **argv)
{
	unsigned count = argc == 4 ? (unsigned)strtoul(argv[3], NULL, 10) : 0;
	int directory;

	if (count < 100) {
		fprintf(stderr, "usage: bench_entries create|cold|lookup-all|remove DIRECTORY COUNT (100 or more)\n");
		return 2;
	}
	directory = open(argv[2], O_RDONLY | O_DIRECTORY);
	must(argv[2], directory);
	if (!strcmp(argv[1], "create")) {
		double first = create(directory, 0, count / 10), last;

		create(directory, count / 10, count - count / 10);
		last = create(directory, count - count / 10, count);
		printf("%.0f %.0f\n", first, last);
	} else if (!strcmp(argv[1], "cold")) {
		printf("%.0f\n", cold(directory, count));
	} else if (!strcmp(argv[1], "lookup-all")) {
		for (unsigned i = 0; i < count; i++)
			look(directory, i);
	} else {
		for (unsigned i = 0; i < count; i++) {
			char name[64];

			name_of(name, i);
			must(name, unlinkat(directory, name, 0));
		}
	}
	return 0;
}
