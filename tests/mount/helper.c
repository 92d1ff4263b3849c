/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * mount_helper COMMAND ...: what the mount tests need and no standard program does.
 *
 *	depth read|write FILE N SECONDS
 *				N asynchronous O_DIRECT requests of 256 KiB in flight all the time; prints requests per second
 *	appends FILE N		N writes of 4 KiB, one system call each
 *	overwrites FILE N	N writes of 4 KiB with O_DIRECT, all to the first block
 *	islands FILE		data at 1 MiB and at 3 MiB of a file of 4 MiB, nothing synced, then reports what
 *				SEEK_DATA and SEEK_HOLE say: "1048576 1052672 3145728"
 *	spawn FOLDER		programs are started by children that inherit files with dirty pages, to be closed by execve(2)
 *	as UID COMMAND ...	run a command as another user without groups
 */
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <libaio.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define DEPTH_MAX 64
#define DEPTH_SIZE 262144

static double now(void)
{
	struct timespec time;

	clock_gettime(CLOCK_MONOTONIC, &time);
	return (double)time.tv_sec + (double)time.tv_nsec / 1e9;
}

static int fail(const char *what)
{
	fprintf(stderr, "%s: %s\n", what, strerror(errno));
	return 1;
}

static void depth_prepare(struct iocb *block, int fd, bool write, void *buffer, off_t file_size)
{
	off_t offset = rand() % (file_size / DEPTH_SIZE) * DEPTH_SIZE;

	if (write)
		io_prep_pwrite(block, fd, buffer, DEPTH_SIZE, offset);
	else
		io_prep_pread(block, fd, buffer, DEPTH_SIZE, offset);
}

static int depth(bool write, const char *name, int count, double seconds)
{
	struct iocb blocks[DEPTH_MAX], *pointers[1];
	struct io_event events[DEPTH_MAX];
	io_context_t context = 0;
	struct stat st;
	void *buffer;
	long done = 0;
	int fd = open(name, (write ? O_WRONLY : O_RDONLY) | O_DIRECT);

	if (fd < 0 || fstat(fd, &st) || count > DEPTH_MAX || io_setup(DEPTH_MAX, &context) ||
	    posix_memalign(&buffer, 4096, (size_t)count * DEPTH_SIZE))
		return fail(name);
	memset(buffer, 'd', (size_t)count * DEPTH_SIZE);
	for (int i = 0; i < count; i++) {
		depth_prepare(&blocks[i], fd, write, (char *)buffer + i * DEPTH_SIZE, st.st_size);
		pointers[0] = &blocks[i];
		if (io_submit(context, 1, pointers) != 1)
			return fail("io_submit");
	}
	double start = now();
	while (now() - start < seconds) {
		int got = io_getevents(context, 1, DEPTH_MAX, events, NULL);
		for (int i = 0; i < got; i++) {
			struct iocb *block = events[i].obj;
			if (events[i].res != DEPTH_SIZE)
				return fail("result");
			depth_prepare(block, fd, write, block->u.c.buf, st.st_size);
			if (io_submit(context, 1, &block) != 1)
				return fail("io_submit");
			done++;
		}
	}
	printf("%.0f\n", (double)done / seconds);
	return 0;
}

static int appends(const char *name, int count)
{
	static char block[4096];
	int fd = open(name, O_WRONLY | O_CREAT | O_APPEND, 0644);

	for (int i = 0; i < count; i++)
		if (write(fd, block, sizeof(block)) != sizeof(block))
			return fail(name);
	return 0;
}

static int overwrites(const char *name, int count)
{
	void *block;
	int fd = open(name, O_WRONLY | O_DIRECT);

	if (fd < 0 || posix_memalign(&block, 4096, 4096))
		return fail(name);
	memset(block, 'o', 4096);
	for (int i = 0; i < count; i++)
		if (pwrite(fd, block, 4096, 0) != 4096)
			return fail(name);
	return 0;
}

static int islands(const char *name)
{
	static char block[4096];
	int fd = open(name, O_RDWR | O_CREAT | O_TRUNC, 0644);

	memset(block, 'i', sizeof(block));
	if (fd < 0 || ftruncate(fd, 4 << 20) || pwrite(fd, block, sizeof(block), 1 << 20) < 0 ||
	    pwrite(fd, block, sizeof(block), 3 << 20) < 0)
		return fail(name);
	off_t data = lseek(fd, 0, SEEK_DATA), hole = lseek(fd, data, SEEK_HOLE), second = lseek(fd, hole, SEEK_DATA);
	printf("%lld %lld %lld\n", (long long)data, (long long)hole, (long long)second);
	return 0;
}

enum { SPAWN_ROUNDS = 60, SPAWN_FILES = 20 };

static int spawn_once(const char *folder)
{
	static const char bytes[100];
	int files[SPAWN_FILES], status;

	for (int i = 0; i < SPAWN_FILES; i++) {
		char name[512];

		snprintf(name, sizeof(name), "%s/spawn%d", folder, i);
		files[i] = open(name, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
		if (files[i] < 0 || write(files[i], bytes, sizeof(bytes)) != sizeof(bytes))
			return fail(name);
	}
	usleep(2000); /* longer than the daemon's looks at its callers are apart */
	pid_t child = fork();
	if (child == 0) {
		execlp("true", "true", NULL);
		_exit(127);
	}
	for (int i = 0; i < SPAWN_FILES; i++)
		close(files[i]);
	return child < 0 || waitpid(child, &status, 0) != child || status ? fail("child") : 0;
}

static int spawn(const char *folder)
{
	int rc = 0;

	for (int i = 0; i < SPAWN_ROUNDS && !rc; i++)
		rc = spawn_once(folder);
	return rc;
}

static int as(unsigned user, char **command)
{
	if (setgroups(0, NULL) || setgid(user) || setuid(user))
		return fail("setuid");
	execvp(command[0], command);
	return fail(command[0]);
}

int main(int argc, char **argv)
{
	if (argc == 6 && strcmp(argv[1], "depth") == 0)
		return depth(strcmp(argv[2], "write") == 0, argv[3], atoi(argv[4]), atof(argv[5]));
	if (argc == 4 && strcmp(argv[1], "appends") == 0)
		return appends(argv[2], atoi(argv[3]));
	if (argc == 4 && strcmp(argv[1], "overwrites") == 0)
		return overwrites(argv[2], atoi(argv[3]));
	if (argc == 3 && strcmp(argv[1], "islands") == 0)
		return islands(argv[2]);
	if (argc == 3 && strcmp(argv[1], "spawn") == 0)
		return spawn(argv[2]);
	if (argc >= 4 && strcmp(argv[1], "as") == 0)
		return as((unsigned)atoi(argv[2]), argv + 3);
	fprintf(stderr, "usage: see the source\n");
	return 2;
}
