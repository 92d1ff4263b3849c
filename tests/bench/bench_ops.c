/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * One row of compare.sh on a mounted filesystem: does the operations, prints "COUNT SECONDS CALLER-CPU-SECONDS".
 *
 * bench_ops ROW DIRECTORY COUNT
 *   create       COUNT files of 4 KiB, 1000 to a directory: open, write, close
 *   stat, read, unlink   of all these; in an order that is not that of creation (unlink: in order)
 *   fsync        COUNT appends of 4 KiB to one file, fsync after each
 *   seqwrite, seqread    one file of COUNT MiB in calls of 1 MiB; the write includes the fsync
 *   direct1, direct16    COUNT random reads of 4 KiB with O_DIRECT from that file, 1 or 16 in flight (libaio)
 */
#include <errno.h>
#include <fcntl.h>
#include <libaio.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define BLOCK 4096u
#define MIB (1u << 20)
#define FILES_PER_DIRECTORY 1000u
#define DEPTH_MAX 16u

static const char *base;

static void must(const char *what, long result)
{
	if (result < 0) {
		fprintf(stderr, "bench_ops: %s: %s\n", what, strerror(errno));
		exit(1);
	}
}

static void *aligned(size_t size)
{
	void *memory = NULL;

	if (posix_memalign(&memory, BLOCK, size)) {
		fprintf(stderr, "bench_ops: out of memory\n");
		exit(1);
	}
	memset(memory, 0x37, size);
	return memory;
}

static void file_path(char path[512], unsigned number)
{
	snprintf(path, 512, "%s/d%u/f%u", base, number / FILES_PER_DIRECTORY, number);
}

/* Visits every number below `count` once, far apart. */
static unsigned scattered(unsigned i, unsigned count)
{
	unsigned step = 7919;

	while (count % step == 0)
		step++;
	return (unsigned)((unsigned long long)i * step % count);
}

static void row_create(unsigned count)
{
	char path[512], *buffer = aligned(BLOCK);

	for (unsigned i = 0; i < count; i++) {
		int fd;

		if (i % FILES_PER_DIRECTORY == 0) {
			snprintf(path, sizeof(path), "%s/d%u", base, i / FILES_PER_DIRECTORY);
			must(path, mkdir(path, 0755));
		}
		file_path(path, i);
		fd = open(path, O_CREAT | O_EXCL | O_WRONLY, 0644);
		must(path, fd);
		must("write", write(fd, buffer, BLOCK));
		must("close", close(fd));
	}
	free(buffer);
}

static void row_stat(unsigned count)
{
	struct stat st;
	char path[512];

	for (unsigned i = 0; i < count; i++) {
		file_path(path, scattered(i, count));
		must(path, stat(path, &st));
	}
}

static void row_read(unsigned count)
{
	char path[512], *buffer = aligned(BLOCK);

	for (unsigned i = 0; i < count; i++) {
		int fd;

		file_path(path, scattered(i, count));
		fd = open(path, O_RDONLY);
		must(path, fd);
		must("read", read(fd, buffer, BLOCK));
		close(fd);
	}
	free(buffer);
}

static void row_unlink(unsigned count)
{
	char path[512];

	for (unsigned i = 0; i < count; i++) {
		file_path(path, i);
		must(path, unlink(path));
	}
}

static void row_fsync(unsigned count)
{
	char path[512], *buffer = aligned(BLOCK);
	int fd;

	snprintf(path, sizeof(path), "%s/appended", base);
	fd = open(path, O_CREAT | O_WRONLY | O_APPEND, 0644);
	must(path, fd);
	for (unsigned i = 0; i < count; i++) {
		must("write", write(fd, buffer, BLOCK));
		must("fsync", fsync(fd));
	}
	close(fd);
	free(buffer);
}

static int open_big(int flags)
{
	char path[512];
	int fd;

	snprintf(path, sizeof(path), "%s/big", base);
	fd = open(path, flags, 0644);
	must(path, fd);
	return fd;
}

static void row_seqwrite(unsigned mib)
{
	char *buffer = aligned(MIB);
	int fd = open_big(O_CREAT | O_TRUNC | O_WRONLY);

	for (unsigned i = 0; i < mib; i++)
		must("write", write(fd, buffer, MIB));
	must("fsync", fsync(fd));
	close(fd);
	free(buffer);
}

static void row_seqread(unsigned mib)
{
	char *buffer = aligned(MIB);
	int fd = open_big(O_RDONLY);

	for (unsigned i = 0; i < mib; i++)
		must("read", read(fd, buffer, MIB));
	close(fd);
	free(buffer);
}

static uint64_t random_block(uint64_t *state, uint64_t blocks)
{
	*state = *state * 6364136223846793005ull + 1442695040888963407ull;
	return (*state >> 20) % blocks;
}

static void row_direct1(unsigned count)
{
	char *buffer = aligned(BLOCK);
	int fd = open_big(O_RDONLY | O_DIRECT);
	uint64_t blocks = (uint64_t)lseek(fd, 0, SEEK_END) / BLOCK, state = 1;

	for (unsigned i = 0; i < count; i++)
		must("pread", pread(fd, buffer, BLOCK, (off_t)(random_block(&state, blocks) * BLOCK)));
	close(fd);
	free(buffer);
}

static void row_direct16(unsigned count)
{
	struct iocb iocbs[DEPTH_MAX], *pointers[DEPTH_MAX];
	struct io_event events[DEPTH_MAX];
	char *buffer = aligned(BLOCK * DEPTH_MAX);
	io_context_t context = NULL;
	int fd = open_big(O_RDONLY | O_DIRECT);
	uint64_t blocks = (uint64_t)lseek(fd, 0, SEEK_END) / BLOCK, state = 1;
	unsigned submitted = 0, finished = 0;

	errno = -io_setup(DEPTH_MAX, &context);
	must("io_setup", errno ? -1 : 0);
	for (unsigned i = 0; i < DEPTH_MAX; i++) {
		pointers[i] = &iocbs[i];
		io_prep_pread(&iocbs[i], fd, buffer + (size_t)i * BLOCK, BLOCK,
			      (long long)(random_block(&state, blocks) * BLOCK));
	}
	errno = io_submit(context, DEPTH_MAX, pointers) == (int)DEPTH_MAX ? 0 : EIO;
	must("io_submit", errno ? -1 : 0);
	submitted = DEPTH_MAX;
	while (finished < submitted) {
		int got = io_getevents(context, 1, DEPTH_MAX, events, NULL), again = 0;

		for (int i = 0; i < got; i++) {
			struct iocb *iocb = events[i].obj;

			errno = events[i].res == BLOCK ? 0 : EIO;
			must("aio read", errno ? -1 : 0);
			finished++;
			if (submitted + (unsigned)again >= count)
				continue;
			io_prep_pread(iocb, fd, iocb->u.c.buf, BLOCK,
				      (long long)(random_block(&state, blocks) * BLOCK));
			pointers[again++] = iocb;
		}
		if (again)
			submitted += (unsigned)io_submit(context, again, pointers);
	}
	io_destroy(context);
	close(fd);
	free(buffer);
}

static const struct {
	const char *name;
	void (*run)(unsigned count);
} rows[] = {
	{ "create", row_create },   { "stat", row_stat },       { "read", row_read },
	{ "unlink", row_unlink },   { "fsync", row_fsync },     { "seqwrite", row_seqwrite },
	{ "seqread", row_seqread }, { "direct1", row_direct1 }, { "direct16", row_direct16 },
};

static double seconds(clockid_t clock)
{
	struct timespec time;

	clock_gettime(clock, &time);
	return (double)time.tv_sec + (double)time.tv_nsec / 1e9;
}

int main(int argc, char **argv)
{
	unsigned count = argc == 4 ? (unsigned)strtoul(argv[3], NULL, 10) : 0;

	for (size_t i = 0; count && i < sizeof(rows) / sizeof(*rows); i++) {
		double wall, processor;

		if (strcmp(rows[i].name, argv[1]))
			continue;
		base = argv[2];
		wall = seconds(CLOCK_MONOTONIC);
		processor = seconds(CLOCK_PROCESS_CPUTIME_ID);
		rows[i].run(count);
		printf("%u %.6f %.6f\n", count, seconds(CLOCK_MONOTONIC) - wall,
		       seconds(CLOCK_PROCESS_CPUTIME_ID) - processor);
		return 0;
	}
	fprintf(stderr,
		"usage: bench_ops create|stat|read|unlink|fsync|seqwrite|seqread|direct1|direct16 DIRECTORY COUNT\n");
	return 2;
}
