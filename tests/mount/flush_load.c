/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * mount_flush_load FOLDER THREADS SECONDS KIND: threads write a block to a file each and wait until it is durable,
 * again and again, while one looks up names that are not there, one a millisecond.
 * KIND: fsync, fdatasync, osync (O_DIRECT with O_SYNC), odsync, syncfs, or mixed, all of these in turn. For volumes where
 * that is durable when it returns: write, without a sync, or names: each makes, moves and removes files in the folder
 * names0, names1 ...
 * Or direct writes that nobody syncs: to blocks that are written, allocated, holes, behind the end, or to parts of blocks;
 * or direct, all of these in turn.
 * Or appends, to files that are there: append0, append1 ...
 *
 * Prints: syncs (or writes) a second, microseconds of one on average, microseconds of a lookup on average, of the longest.
 */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define THREADS_MAX 1024
#define BLOCK 4096
#define BLOCKS 64

static const char *const kinds[] = { "fsync", "fdatasync", "osync", "odsync", "syncfs", "write" };
#define KINDS (sizeof(kinds) / sizeof(kinds[0]))
#define UNSYNCED (KINDS - 1) /* "write" */
#define MIXED UNSYNCED       /* one of those before */

static const char *const places[] = { "written", "allocated", "holes", "behind", "parts" };
enum { WRITTEN, ALLOCATED, HOLES, BEHIND, PARTS, PLACES };

static atomic_bool stopping;
static atomic_long syncs, microseconds;
static pthread_barrier_t ready; /* the files are there: who makes one keeps others from looking into the folder */
static const char *folder, *kind_name;

static double now_us(void)
{
	struct timespec time;

	clock_gettime(CLOCK_MONOTONIC, &time);
	return (double)time.tv_sec * 1e6 + (double)time.tv_nsec / 1e3;
}

static _Noreturn void fail(const char *what)
{
	fprintf(stderr, "%s: %s\n", what, strerror(errno));
	exit(1);
}

/* One more is done that began then. */
static void count_since(double start)
{
	microseconds += (long)(now_us() - start);
	syncs++;
}

static int sync_as(unsigned kind, int fd)
{
	if (kind == 0)
		return fsync(fd);
	if (kind == 1)
		return fdatasync(fd);
	return kind == 4 ? syncfs(fd) : 0;
}

/* A thread's file, and what it writes there. */
struct writer {
	char name[4096];
	int fd;
	void *block;
	size_t length;
};

static void writer_open(struct writer *writer, const char *prefix, unsigned number, int flags)
{
	snprintf(writer->name, sizeof(writer->name), "%s/%s%u", folder, prefix, number);
	writer->fd = open(writer->name, O_RDWR | O_CREAT | flags, 0644);
	if (writer->fd < 0 || posix_memalign(&writer->block, BLOCK, BLOCK))
		fail(writer->name);
	memset(writer->block, (int)number, BLOCK);
	writer->length = BLOCK;
}

static void timed_write(const struct writer *writer, unsigned number, unsigned kind)
{
	off_t offset = (off_t)(number % BLOCKS) * BLOCK;
	double start = now_us();

	if (pwrite(writer->fd, writer->block, writer->length, offset) != (ssize_t)writer->length ||
	    sync_as(kind, writer->fd))
		fail(writer->name);
	count_since(start);
}

static void *syncer(void *argument)
{
	const int flags[KINDS] = { 0, 0, O_DIRECT | O_SYNC, O_DIRECT | O_DSYNC, 0, 0 };
	unsigned number = (unsigned)(size_t)argument, kind = number % MIXED;
	struct writer writer;

	for (unsigned i = 0; i < KINDS; i++)
		if (strcmp(kind_name, kinds[i]) == 0)
			kind = i;
	writer_open(&writer, "sync", number, flags[kind]);
	pthread_barrier_wait(&ready);
	for (unsigned i = 0; !stopping; i++)
		timed_write(&writer, i, kind);
	close(writer.fd);
	return NULL;
}

/* The blocks are as `place` says. */
static int lay_out(unsigned place, int fd)
{
	static const char zeroes[BLOCKS * BLOCK] __attribute__((aligned(BLOCK)));

	if (place == ALLOCATED)
		return ftruncate(fd, 0) || fallocate(fd, 0, 0, sizeof(zeroes));
	if (place == HOLES || place == BEHIND)
		return ftruncate(fd, 0) || (place == HOLES && ftruncate(fd, sizeof(zeroes)));
	return pwrite(fd, zeroes, sizeof(zeroes), 0) != sizeof(zeroes);
}

static void *direct_writer(void *argument)
{
	unsigned number = (unsigned)(size_t)argument, place = number % PLACES;
	struct writer writer;

	for (unsigned i = 0; i < PLACES; i++)
		if (strcmp(kind_name, places[i]) == 0)
			place = i;
	writer_open(&writer, "direct", number, O_DIRECT);
	if (place == PARTS)
		writer.length = BLOCK / 2;
	if (lay_out(place, writer.fd))
		fail(writer.name);
	pthread_barrier_wait(&ready);
	for (unsigned i = 0; !stopping; i++) {
		if (place != WRITTEN && place != PARTS && i && i % BLOCKS == 0 && lay_out(place, writer.fd))
			fail(writer.name);
		timed_write(&writer, i, UNSYNCED);
	}
	close(writer.fd);
	return NULL;
}

static void *appender(void *argument)
{
	static const char block[BLOCK];
	char name[4096];

	snprintf(name, sizeof(name), "%s/append%u", folder, (unsigned)(size_t)argument);
	int fd = open(name, O_WRONLY | O_APPEND);
	if (fd < 0)
		fail(name);
	pthread_barrier_wait(&ready);
	while (!stopping) {
		double start = now_us();
		if (write(fd, block, sizeof(block)) != sizeof(block))
			fail(name);
		count_since(start);
	}
	close(fd);
	return NULL;
}

static void *namer(void *argument)
{
	char directory[4096], name[4200], moved[4200];

	snprintf(directory, sizeof(directory), "%s/names%u", folder, (unsigned)(size_t)argument);
	snprintf(name, sizeof(name), "%s/a", directory);
	snprintf(moved, sizeof(moved), "%s/b", directory);
	unlink(name); /* of an earlier run */
	unlink(moved);
	pthread_barrier_wait(&ready);
	for (unsigned i = 0; !stopping; i++) {
		double start = now_us();
		if (i % 3 == 0 ? mknod(name, S_IFREG | 0644, 0) : i % 3 == 1 ? rename(name, moved) : unlink(moved))
			fail(directory);
		count_since(start);
	}
	return NULL;
}

static void *(*load_named(const char *name))(void *)
{
	if (strcmp(name, "names") == 0)
		return namer;
	if (strcmp(name, "appends") == 0)
		return appender;
	for (unsigned i = 0; i < PLACES; i++)
		if (strcmp(name, places[i]) == 0)
			return direct_writer;
	return strcmp(name, "direct") == 0 ? direct_writer : syncer;
}

int main(int argc, char **argv)
{
	pthread_t threads[THREADS_MAX];
	double sum = 0, longest = 0;
	char name[4096];
	struct stat st;

	if (argc != 5 || atoi(argv[2]) > THREADS_MAX)
		return 2;
	folder = argv[1];
	kind_name = argv[4];
	const int count = atoi(argv[2]);
	void *(*const load)(void *) = load_named(kind_name);
	pthread_barrier_init(&ready, NULL, (unsigned)count + 1);
	for (int i = 0; i < count; i++)
		if (pthread_create(&threads[i], NULL, load, (void *)(size_t)i))
			fail("pthread_create");
	pthread_barrier_wait(&ready);
	usleep(300000); /* all of them are at it */
	const long syncs_before = syncs, microseconds_before = microseconds;
	const double start = now_us();
	int lookups = 0;
	while (now_us() - start < atof(argv[3]) * 1e6) {
		snprintf(name, sizeof(name), "%s/absent%d.%d", folder, (int)getpid(), lookups++);
		double before = now_us();
		if (stat(name, &st) == 0 || errno != ENOENT)
			fail(name);
		double took = now_us() - before;
		sum += took;
		longest = took > longest ? took : longest;
		usleep(1000);
	}
	const double seconds = (now_us() - start) / 1e6;
	const long done = syncs - syncs_before, spent = microseconds - microseconds_before;
	printf("%.0f %.0f %.0f %.0f\n", (double)done / seconds, done ? (double)spent / (double)done : 0.0,
	       sum / lookups, longest);
	stopping = true;
	for (int i = 0; i < count; i++)
		pthread_join(threads[i], NULL);
	return 0;
}
