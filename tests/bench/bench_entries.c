/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Helper of large_directory.sh: COUNT files in one directory of a mounted filesystem.
 *
 * bench_entries create|lookup|lookup-all|remove DIRECTORY COUNT
 *   create      prints the rates per second of the first and of the last tenth
 *   lookup      100 of them, far apart: prints the mean time in us
 *   lookup-all  stat of every one
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
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

static double lookup(int directory, unsigned count, unsigned step)
{
	double begin = now();
	unsigned done = 0;

	for (unsigned i = 0; i < count; i += step, done++) {
		struct stat st;
		char name[64];

		name_of(name, i);
		must(name, fstatat(directory, name, &st, 0));
	}
	return (now() - begin) / done * 1e6;
}

int main(int argc, char **argv)
{
	unsigned count = argc == 4 ? (unsigned)strtoul(argv[3], NULL, 10) : 0;
	int directory;

	if (count < 100) {
		fprintf(stderr, "usage: bench_entries create|lookup|lookup-all|remove DIRECTORY COUNT (100 or more)\n");
		return 2;
	}
	directory = open(argv[2], O_RDONLY | O_DIRECTORY);
	must(argv[2], directory);
	if (!strcmp(argv[1], "create")) {
		double first = create(directory, 0, count / 10), last;

		create(directory, count / 10, count - count / 10);
		last = create(directory, count - count / 10, count);
		printf("%.0f %.0f\n", first, last);
	} else if (!strcmp(argv[1], "lookup")) {
		printf("%.0f\n", lookup(directory, count, count / 100));
	} else if (!strcmp(argv[1], "lookup-all")) {
		lookup(directory, count, 1);
	} else {
		for (unsigned i = 0; i < count; i++) {
			char name[64];

			name_of(name, i);
			must(name, unlinkat(directory, name, 0));
		}
	}
	return 0;
}
