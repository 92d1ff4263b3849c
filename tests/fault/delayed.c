/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * One request that takes long: everything that does not depend on it goes on, and who waits for it goes on when it is done. TAP.
 *
 * Concept: no time is measured. The delay layer holds the Nth request of an operation until it is told to let go; meanwhile other
 * operations must finish, and the one that waits must not. N goes up until the operation makes no Nth request. The same for requests
 * through an asynchronous queue. Under `mem:` and `aio:`.
 */
#include <ashlar/ashlar.h>
#include <errno.h>
#include <fsck/check.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>
#include "tests/support/delay.h"

#define SECONDS 60 /* more is a hang */
#define BYTES (64u << 10)

static struct {
	unsigned cases, faults, bad;
} total;

struct bench {
	struct bdev *delay;
	struct ash_volume *volume;
	uint64_t directory, cold, a, b; /* inode numbers */
	unsigned char *buffer;
};

static void fail(const char *what, long long value)
{
	printf("# %s (%lld)\n", what, value);
	fflush(stdout);
	_exit(1);
}

static void must(const char *what, int64_t result, int64_t expected)
{
	if (result != expected)
		fail(what, (long long)result);
}

/* ---- The volume ---- */

static uint64_t make(struct ash_volume *volume, uint64_t parent, const char *name, uint32_t mode)
{
	struct ash_create create = { .mode = mode };
	struct ash_attr attr;

	must(name, ash_create(volume, parent, name, &create, &attr), 0);
	return attr.ino;
}

static void fill_file(struct bench *bench, uint64_t ino, int byte)
{
	memset(bench->buffer, byte, BYTES);
	must("write", ash_write(bench->volume, ino, bench->buffer, BYTES, 0, 0), BYTES);
}

static void open_volume(struct bench *bench)
{
	struct ash_open_options options = { .no_threads = true, .commit_seconds = 3600, .atime = ASH_ATIME_NONE };

	must("mount", ash_open(bench->delay, &options, &bench->volume, NULL), 0);
}

/* What the operation under test needs is cold; what the others need was used already. */
static void set_up(struct bench *bench, const char *device)
{
	struct bdev *lower;
	char name[40];

	must("device", bdev_open(device, NULL, &lower, NULL), 0);
	must("layer", delay_open(lower, &bench->delay), 0);
	must("mkfs", ash_mkfs(bench->delay, &(struct ash_mkfs_options){ .no_discard = true }, NULL), 0);
	open_volume(bench);
	bench->buffer = bdev_buffer_alloc(BYTES);
	bench->cold = make(bench->volume, 1, "cold", S_IFDIR | 0755);
	for (int i = 0; i < 300; i++) {
		snprintf(name, sizeof(name), "an entry with a longer name %d", i);
		make(bench->volume, bench->cold, name, S_IFREG | 0644);
	}
	bench->a = make(bench->volume, bench->cold, "a", S_IFREG | 0644);
	bench->directory = make(bench->volume, 1, "others", S_IFDIR | 0755);
	for (int i = 0; i < 8; i++) { /* inodes in other blocks of the table */
		snprintf(name, sizeof(name), "other%d", i);
		bench->b = make(bench->volume, bench->directory, name, S_IFREG | 0644);
	}
	fill_file(bench, bench->a, 'a');
	fill_file(bench, bench->b, 'b');
	must("close", ash_close(bench->volume), 0);
	open_volume(bench);
}

static void tear_down(struct bench *bench)
{
	struct ash_check_options options = { .mode = ASH_CHECK_NO, .no_threads = true };
	struct ash_check_result result = { 0 };

	must("unmount", ash_close(bench->volume), 0);
	must("fsck", ash_check(bench->delay, &options, &result), 0);
	must(result.problems ? result.first : "fsck", (int64_t)result.problems, 0);
	bdev_buffer_free(bench->buffer, BYTES);
	bdev_close(bench->delay);
}

static int any_entry(void *context, const char *name, size_t length, uint64_t ino, unsigned type, uint64_t next,
		     const struct ash_attr *attr)
{
	(void)name, (void)length, (void)ino, (void)type, (void)next, (void)attr;
	++*(unsigned *)context;
	return 0;
}

/* What must go on. `sync`: the held request is none that a sync of another file has to wait for. */
static void others(struct bench *bench, bool sync, unsigned round)
{
	struct ash_volume *volume = bench->volume;
	struct ash_attr attr;
	unsigned entries = 0;
	char name[40], byte;
	uint64_t ino;

	must("read", ash_read(volume, bench->b, &byte, 1, 5000), 1);
	must("data", byte, 'b');
	must("lookup", ash_lookup(volume, bench->directory, "other0", &attr), 0);
	ash_forget(volume, attr.ino, 1);
	must("readdir", ash_readdir(volume, bench->directory, 0, false, any_entry, &entries), 0);
	snprintf(name, sizeof(name), "meanwhile%u", round);
	ino = make(volume, bench->directory, name, S_IFREG | 0644);
	must("buffered write", ash_write(volume, ino, name, sizeof(name), 0, 0), sizeof(name));
	must("setxattr", ash_setxattr(volume, ino, "user.x", name, sizeof(name), 0), 0);
	must("rename", ash_rename(volume, bench->directory, name, bench->directory, "renamed", 0), 0);
	if (sync)
		must("fsync", ash_fsync(volume, ino, false), 0);
	must("unlink", ash_unlink(volume, bench->directory, "renamed", NULL), 0);
	ash_forget(volume, ino, 1);
}

/* ---- Blocking operations in a thread ---- */

struct waiting {
	struct bench *bench;
	void (*run)(struct bench *bench);
	_Atomic bool done;
};

static void run_read(struct bench *bench)
{
	static unsigned char data[BYTES];

	must("read", ash_read(bench->volume, bench->a, data, BYTES, 0), BYTES);
	for (unsigned i = 0; i < BYTES; i++)
		must("data", data[i], 'a');
}

static void run_write_through(struct bench *bench)
{
	static unsigned char data[BYTES];

	memset(data, 'a', BYTES);
	must("write", ash_write(bench->volume, bench->a, data, BYTES, 100, ASH_WRITE_THROUGH), BYTES);
}

static void run_fsync(struct bench *bench)
{
	static unsigned char data[BYTES];

	memset(data, 'a', BYTES);
	must("write", ash_write(bench->volume, bench->a, data, BYTES, BYTES, 0), BYTES);
	must("fsync", ash_fsync(bench->volume, bench->a, false), 0);
}

static void run_checkpoint(struct bench *bench)
{
	make(bench->volume, bench->cold, "checkpointed", S_IFREG | 0644);
	must("checkpoint", ash_checkpoint(bench->volume), 0);
}

static void run_readdir(struct bench *bench)
{
	unsigned entries = 0;

	must("readdir", ash_readdir(bench->volume, bench->cold, 0, false, any_entry, &entries), 0);
	must("entries", entries, 303);
}

static void run_lookup(struct bench *bench)
{
	struct ash_attr attr;

	must("lookup", ash_lookup(bench->volume, bench->cold, "an entry with a longer name 250", &attr), 0);
}

static void run_truncate(struct bench *bench)
{
	struct ash_setattr change = { .valid = ASH_SET_SIZE, .size = 5000 };

	must("truncate", ash_setattr(bench->volume, bench->a, &change, NULL), 0);
	change.size = 20000;
	must("truncate", ash_setattr(bench->volume, bench->a, &change, NULL), 0);
}

static const struct {
	const char *name;
	void (*run)(struct bench *bench);
	unsigned ops;
	bool syncs_wait; /* for a log write or a flush others wait, too */
} operations[] = {
	{ "read", run_read, DELAY_OP(BDEV_READ), false },
	{ "readdir", run_readdir, DELAY_OP(BDEV_READ), false },
	{ "lookup", run_lookup, DELAY_OP(BDEV_READ), false },
	{ "write through", run_write_through, DELAY_OP(BDEV_READ) | DELAY_OP(BDEV_WRITE), false },
	{ "truncate", run_truncate, DELAY_OP(BDEV_READ) | DELAY_OP(BDEV_WRITE), true },
	{ "fsync", run_fsync, 0, true },
	{ "checkpoint", run_checkpoint, 0, true },
};
#define OPERATIONS (sizeof(operations) / sizeof(*operations))

static void *thread_main(void *argument)
{
	struct waiting *waiting = argument;

	waiting->run(waiting->bench);
	atomic_store(&waiting->done, true);
	return NULL;
}

static void nap(void)
{
	nanosleep(&(struct timespec){ .tv_nsec = 200000 }, NULL);
}

/* False: the operation makes no request number `n`. */
static bool hold_nth(const char *device, unsigned index, unsigned n)
{
	struct delay_rule rule = { .ops = operations[index].ops, .skip = n, .count = 1, .nanoseconds = DELAY_HELD };
	struct bench bench;
	struct waiting waiting = { .bench = &bench, .run = operations[index].run };
	pthread_t thread;
	bool caught;

	set_up(&bench, device);
	others(&bench, false, 0); /* warm */
	delay_set(bench.delay, &rule);
	if (pthread_create(&thread, NULL, thread_main, &waiting))
		fail("pthread_create", errno);
	while (!delay_caught(bench.delay) && !atomic_load(&waiting.done))
		nap();
	caught = delay_caught(bench.delay);
	if (caught) {
		for (unsigned round = 1; round < 20; round++)
			others(&bench, !operations[index].syncs_wait, round);
		must("it waits", atomic_load(&waiting.done), false);
	}
	delay_release(bench.delay);
	pthread_join(thread, NULL);
	others(&bench, true, 99);
	tear_down(&bench);
	return caught;
}

/* ---- Through a queue ---- */

static void queue_done(void *user, int64_t result)
{
	*(int64_t *)user = result;
}

static unsigned finished(const int64_t *results, unsigned count)
{
	unsigned n = 0;

	for (unsigned i = 0; i < count; i++)
		n += results[i] != 0;
	return n;
}

/* Eight requests, of which one is held: seven finish, others work, the descriptor tells when it comes. */
static bool hold_queued(const char *device, bool write, unsigned n)
{
	struct delay_rule rule = {
		.ops = DELAY_OP(write ? BDEV_WRITE : BDEV_READ), .skip = n, .count = 1, .nanoseconds = DELAY_HELD
	};
	struct pollfd event = { .events = POLLIN };
	int64_t results[8] = { 0 };
	struct ash_queue *queue;
	struct bench bench;

	set_up(&bench, device);
	others(&bench, false, 0);
	run_read(&bench); /* its map is known */
	must("queue", ash_queue_open(bench.volume, 16, &queue), 0);
	event.fd = ash_queue_event_fd(queue);
	memset(bench.buffer, 'a', BYTES);
	delay_set(bench.delay, &rule);
	for (unsigned i = 0; i < 8; i++) {
		unsigned char *memory = bench.buffer + i * 4096;

		must("submit",
		     write ? ash_submit_write(queue, bench.a, memory, 4096, i * 8192,
					      ASH_WRITE_THROUGH | ASH_WRITE_NO_TIMES, queue_done, &results[i]) :
			     ash_submit_read(queue, bench.a, memory, 4096, i * 8192, queue_done, &results[i]),
		     1);
	}
	ash_queue_kick(queue);
	while (finished(results, 8) < 7)
		must("reap", ash_queue_reap(queue, true) >= 0, true);
	for (unsigned round = 1; round < 20; round++)
		others(&bench, true, round);
	must("in flight", ash_queue_in_flight(queue), 1);
	must("the held one", finished(results, 8), 7);
	must("caught", delay_caught(bench.delay), 1);
	delay_release(bench.delay);
	while (finished(results, 8) < 8) {
		must("the descriptor", poll(&event, 1, SECONDS * 1000), 1);
		must("reap", ash_queue_reap(queue, false) >= 0, true);
	}
	for (unsigned i = 0; i < 8; i++)
		must("bytes", results[i], 4096);
	for (unsigned i = 0; i < 8 * 4096; i++)
		must("data", bench.buffer[i], 'a');
	ash_queue_close(queue);
	others(&bench, true, 99);
	tear_down(&bench);
	return true;
}

/* ---- All of them, each in a process with an alarm ---- */

static bool run_case(const char *device, unsigned index, unsigned n)
{
	return index < OPERATIONS ? hold_nth(device, index, n) : hold_queued(device, index > OPERATIONS, n);
}

static const char *case_name(unsigned index)
{
	return index < OPERATIONS ? operations[index].name : index == OPERATIONS ? "queued read" : "queued write";
}

static void run_series(const char *driver, const char *device, unsigned index, unsigned number, unsigned step)
{
	unsigned bad = 0, held = 0, limit = index < OPERATIONS ? 400 : 8;
	bool more = true;

	for (unsigned n = 0; more && n < limit; n += step) {
		int status;
		pid_t pid = fork();

		if (pid == 0) {
			alarm(SECONDS);
			_exit(run_case(device, index, n) ? 0 : 2);
		}
		waitpid(pid, &status, 0);
		total.cases++;
		more = WIFEXITED(status) && WEXITSTATUS(status) == 0;
		held += more;
		if (more || (WIFEXITED(status) && WEXITSTATUS(status) == 2)) /* no such request: the end */
			continue;
		bad++;
		printf("# %s: request %u held: %s\n", case_name(index), n,
		       WIFSIGNALED(status) ? strsignal(WTERMSIG(status)) : "see above");
	}
	total.faults += held;
	total.bad += bad;
	printf("%s %u - delayed: %s, %s: %u requests held\n", bad ? "not ok" : "ok", number, driver, case_name(index),
	       held);
	fflush(stdout);
}

int main(void)
{
	const char *level = getenv("ASHLAR_TEST_LEVEL"), *folder = getenv("TMPDIR");
	bool quick = level && !strcmp(level, "quick");
	time_t begin = time(NULL);
	char path[200], device[220];
	unsigned number = 0;
	int fd;

	snprintf(path, sizeof(path), "%s/ashlar-delayed.XXXXXX",
		 folder                   ? folder :
		 access("/dev/shm", W_OK) ? "/tmp" :
					    "/dev/shm");
	fd = mkstemp(path);
	if (fd < 0 || ftruncate(fd, 24 << 20)) {
		perror(path);
		return 2;
	}
	close(fd);
	snprintf(device, sizeof(device), "aio:%s", path);
	printf("1..%zu\n", 2 * (OPERATIONS + 2));
	fflush(stdout);
	for (unsigned index = 0; index < OPERATIONS + 2; index++) {
		run_series("mem", "mem:24M", index, ++number, quick ? 3 : 1);
		run_series("aio", device, index, ++number, quick ? 5 : 1);
	}
	unlink(path);
	printf("# campaign fault_delay: cases %u, distinct %u faults, violations %u, skipped 0, seconds %lld\n",
	       total.cases, total.faults, total.bad, (long long)(time(NULL) - begin));
	return total.bad != 0;
}
