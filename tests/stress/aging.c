/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The worker of aging.sh.
 *
 * stress_aging fill MOUNT JOURNAL			fill an empty volume to 90 %, sync
 * stress_aging churn MOUNT JOURNAL SEED SECONDS	work until the time is over, or the daemon is gone (JOURNAL.killed exists)
 * stress_aging verify MOUNT JOURNAL			after a new mount: is what is there what may be there?
 * stress_aging figures DEVICE WHEN			of an unmounted volume
 * stress_aging total JOURNAL				operations, syncs, files and bytes checked, violations
 */
#include "aging.h"
#include "unit.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/fsuid.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <time.h>
#include <unistd.h>

#define FULL_PERCENT 90
#define SLACK_PERCENT 2
#define FAILED (-1)

struct worker {
	struct journal *journal;
	struct lane *lane;
	const char *killed; /* a file that exists when the daemon was killed */
	unsigned number;
	uint64_t random;
	double end;
	int folder;
	bool fill;
	unsigned percent; /* of the volume in use, now and then */
	bool tight;       /* there is hardly space for more to be buffered */
	bool over;
	unsigned char *buffer;
};

static double now(void)
{
	struct timespec time;

	clock_gettime(CLOCK_MONOTONIC, &time);
	return (double)time.tv_sec + (double)time.tv_nsec / 1e9;
}

static uint32_t draw(struct worker *worker, uint32_t limit)
{
	worker->random = worker->random * UINT64_C(6364136223846793005) + 1442695040888963407u;
	return (uint32_t)((worker->random >> 32) * limit >> 32);
}

/* An error ends the lane. It is right when the daemon was killed, which whoever did it tells before. */
static int failed(struct worker *worker, const char *what)
{
	int error = errno;

	worker->over = true;
	if (access(worker->killed, F_OK))
		aging_violation(worker->journal, "lane %u: %s: %s", worker->number, what, strerror(error));
	return FAILED;
}

/* ---- Names ---- */

static void name_text(uint32_t name, char text[16])
{
	snprintf(text, 16, "n%u", name);
}

/* Written down before it is done. */
static void begin_operation(struct worker *worker, struct name_operation operation)
{
	struct lane *lane = worker->lane;

	lane->operations[lane->begun - lane->floor] = operation;
	lane->begun++;
	lane->files[operation.file].last_operation = lane->begun;
}

/* It was refused. */
static void take_back(struct worker *worker, uint32_t last_operation)
{
	struct lane *lane = worker->lane;

	lane->begun--;
	lane->files[lane->operations[lane->begun - lane->floor].file].last_operation = last_operation;
}

static void end_operation(struct worker *worker)
{
	struct lane *lane = worker->lane;

	aging_apply(lane->names, &lane->operations[lane->begun - lane->floor - 1]);
	__atomic_add_fetch(&worker->journal->operations, 1, __ATOMIC_RELAXED);
}

static bool pick(struct worker *worker, bool used, uint32_t *name)
{
	uint32_t first = draw(worker, LANE_NAMES);

	for (uint32_t i = 0; i < LANE_NAMES; i++) {
		*name = (first + i) % LANE_NAMES;
		if (!!worker->lane->names[*name] == used)
			return true;
	}
	return false;
}

static struct aging_file *file_of(struct worker *worker, uint32_t name)
{
	return &worker->lane->files[worker->lane->names[name] - 1];
}

static int open_name(struct worker *worker, uint32_t name, int flags)
{
	char text[16];

	name_text(name, text);
	return openat(worker->folder, text, flags | O_CLOEXEC);
}

static bool free_record(struct worker *worker, uint32_t *file)
{
	for (uint32_t i = 0; i < LANE_FILES; i++) {
		*file = (worker->lane->owners + i) % LANE_FILES;
		if (!worker->lane->files[*file].owner)
			return true;
	}
	return false;
}

/* ---- Content ---- */

static bool room_for_change(const struct aging_file *file)
{
	return file->count < FILE_CHANGES;
}

static struct change *begin_change(struct worker *worker, struct aging_file *file, enum change_kind kind, uint32_t from,
				   uint32_t to)
{
	struct change *change = &file->changes[file->count];

	*change = (struct change){ ++worker->lane->generations, kind, from, to };
	file->count++;
	return change;
}

static int write_range(struct worker *worker, struct aging_file *file, int fd, uint32_t from, uint32_t to)
{
	struct change *change = begin_change(worker, file, CHANGE_WRITE, from, to);
	uint32_t at = from, piece = draw(worker, 2) ? FILE_SIZE_MAX : 16384;

	unit_fill(worker->buffer, to - from, from, file->owner, change->generation);
	while (at < to) {
		uint32_t length = to - at < piece ? to - at : piece;
		ssize_t put = pwrite(fd, worker->buffer + (at - from), length, at);

		if (put < 0 && errno == ENOSPC) {
			/* The volume is fuller than it looked: nothing more is known of this file. */
			file->doubtful = 1;
			return 0;
		}
		if (put <= 0 || put % UNIT)
			return failed(worker, "write");
		at += (uint32_t)put;
	}
	if (to > file->size)
		file->size = to;
	return 0;
}

static uint32_t draw_size(struct worker *worker)
{
	static const uint32_t limits[] = { 1, 4096, 4096, 65536, 65536, 65536, 524288, 524288, 524288, FILE_SIZE_MAX };
	uint32_t limit = limits[draw(worker, sizeof(limits) / sizeof(*limits))];

	return draw(worker, limit) / UNIT * UNIT;
}

/* close(2) sends what the kernel holds back: this is where a full volume refuses it. */
static void close_file(struct aging_file *file, int fd)
{
	if (close(fd) && errno == ENOSPC)
		file->doubtful = 1;
}

static int sync_file(struct worker *worker, struct aging_file *file, int fd)
{
	if (draw(worker, 2) ? fsync(fd) : fdatasync(fd)) {
		if (errno != ENOSPC)
			return failed(worker, "fsync");
		file->doubtful = 1;
		return 0;
	}
	/* The record of the last operation on its name is durable, and with it everything before (I7). */
	if (file->last_operation > worker->lane->floor)
		aging_advance(worker->lane, file->last_operation);
	file->synced = file->count;
	file->synced_size = file->size;
	__atomic_add_fetch(&worker->journal->syncs, 1, __ATOMIC_RELAXED);
	return 0;
}

static int sync_all(struct worker *worker)
{
	struct lane *lane = worker->lane;

	if (syncfs(worker->folder)) {
		if (errno != ENOSPC)
			return failed(worker, "syncfs");
		/* Somebody's data found no space; whose is not told. */
		for (uint32_t i = 0; i < LANE_FILES; i++)
			lane->files[i].doubtful |= lane->files[i].count != lane->files[i].synced;
		return 0;
	}
	aging_advance(lane, lane->begun);
	for (uint32_t i = 0; i < LANE_FILES; i++) {
		lane->files[i].synced = lane->files[i].count;
		lane->files[i].synced_size = lane->files[i].size;
	}
	__atomic_add_fetch(&worker->journal->syncs, 1, __ATOMIC_RELAXED);
	return 0;
}

/* ---- Operations ---- */

static int do_create(struct worker *worker)
{
	struct lane *lane = worker->lane;
	uint32_t name, index;
	struct aging_file *file;
	int fd, rc = 0;

	if (!pick(worker, false, &name) || !free_record(worker, &index))
		return 0;
	file = &lane->files[index];
	*file = (struct aging_file){ .owner = (worker->number + 1) << 24 | ++lane->owners };
	begin_operation(worker, (struct name_operation){ NAME_CREATE, name, 0, index });
	setfsuid(file->owner);
	fd = open_name(worker, name, O_RDWR | O_CREAT | O_EXCL);
	int error = errno;
	setfsuid(0);
	errno = error;
	if (fd < 0 && errno == ENOSPC) {
		take_back(worker, 0);
		file->owner = 0;
		return 0;
	}
	if (fd < 0)
		return failed(worker, "create");
	end_operation(worker);
	uint32_t size = draw_size(worker);
	if (size)
		rc = write_range(worker, file, fd, 0, size);
	if (!rc && !draw(worker, 4))
		rc = sync_file(worker, file, fd);
	close_file(file, fd);
	return rc;
}

static int do_remove(struct worker *worker, uint32_t name)
{
	char text[16];

	name_text(name, text);
	begin_operation(worker, (struct name_operation){ NAME_REMOVE, name, 0, worker->lane->names[name] - 1 });
	if (unlinkat(worker->folder, text, 0))
		return failed(worker, "unlink");
	end_operation(worker);
	return 0;
}

/* To a free name, or over another file. */
static int do_rename(struct worker *worker, uint32_t name)
{
	char text[16], other_text[16];
	uint32_t other, last_operation = file_of(worker, name)->last_operation;

	if (!pick(worker, draw(worker, 2), &other) || other == name)
		return 0;
	name_text(name, text);
	name_text(other, other_text);
	begin_operation(worker, (struct name_operation){ NAME_RENAME, name, other, worker->lane->names[name] - 1 });
	if (renameat(worker->folder, text, worker->folder, other_text)) {
		if (errno != ENOSPC)
			return failed(worker, "rename");
		take_back(worker, last_operation);
		return 0;
	}
	end_operation(worker);
	return 0;
}

static int do_truncate(struct worker *worker, struct aging_file *file, int fd)
{
	uint32_t size = draw(worker, 2) ? draw(worker, file->size + 1) : draw_size(worker);

	size = size / UNIT * UNIT;
	begin_change(worker, file, CHANGE_SIZE, file->size, size);
	if (ftruncate(fd, size)) {
		if (errno != ENOSPC)
			return failed(worker, "truncate");
		file->doubtful = 1;
		return 0;
	}
	file->size = size;
	return 0;
}

static int do_write(struct worker *worker, struct aging_file *file, int fd, bool append)
{
	uint32_t from = append ? file->size : draw(worker, file->size + 1) / UNIT * UNIT;
	uint32_t to = from + UNIT + draw_size(worker) / 4 / UNIT * UNIT;

	if (to > FILE_SIZE_MAX)
		return 0;
	return write_range(worker, file, fd, from, to);
}

/* Something with the content of a file that is there. */
static int do_content(struct worker *worker, uint32_t name)
{
	struct aging_file *file = file_of(worker, name);
	char text[16];
	int fd = open_name(worker, name, O_RDWR), rc = 0;

	if (fd < 0)
		return failed(worker, "open");
	switch (draw(worker, 8)) {
	case 0:
	case 1:
		rc = do_write(worker, file, fd, false);
		break;
	case 2:
	case 3:
		rc = do_write(worker, file, fd, true);
		break;
	case 4:
		rc = do_truncate(worker, file, fd);
		break;
	case 5:
		rc = sync_file(worker, file, fd);
		break;
	default:
		name_text(name, text);
		posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
		if (!aging_check_content(worker->journal, file, fd, text, false))
			rc = failed(worker, "read");
	}
	if (!rc && !draw(worker, 6))
		rc = sync_file(worker, file, fd);
	close_file(file, fd);
	__atomic_add_fetch(&worker->journal->operations, 1, __ATOMIC_RELAXED);
	return rc;
}

/* What is buffered has more space set aside than it will take: that alone does not make the volume full, yet. */
static void measure(struct worker *worker)
{
	struct statvfs st;

	if (fstatvfs(worker->folder, &st))
		return;
	worker->percent = (unsigned)(100 - 100 * st.f_bfree / st.f_blocks);
	worker->tight = 100 * st.f_bavail / st.f_blocks < SLACK_PERCENT;
}

static int one_operation(struct worker *worker)
{
	struct lane *lane = worker->lane;
	uint32_t name;

	if (lane->begun - lane->floor > LANE_OPERATIONS - 10 || !draw(worker, 400))
		return sync_all(worker);
	if (!pick(worker, true, &name))
		return do_create(worker);
	if (file_of(worker, name)->doubtful || !room_for_change(file_of(worker, name)) ||
	    file_of(worker, name)->count + 2 > FILE_CHANGES)
		return do_remove(worker, name);
	if (worker->tight && worker->fill)
		return sync_all(worker);
	if (worker->tight || worker->percent > FULL_PERCENT + SLACK_PERCENT ||
	    (worker->percent > FULL_PERCENT && !draw(worker, 3)))
		return do_remove(worker, name);
	if (worker->fill || (worker->percent < FULL_PERCENT && draw(worker, 2)))
		return do_create(worker);
	switch (draw(worker, 10)) {
	case 0:
		return do_create(worker);
	case 1:
		return do_remove(worker, name);
	case 2:
		return do_rename(worker, name);
	default:
		return do_content(worker, name);
	}
}

static void *work(void *context)
{
	struct worker *worker = context;

	for (unsigned i = 0; !worker->over && now() < worker->end; i++) {
		if (i % 16 == 0)
			measure(worker);
		if (worker->fill && worker->percent >= FULL_PERCENT) {
			if (sync_all(worker))
				break;
			measure(worker);
			if (worker->percent >= FULL_PERCENT)
				break;
		}
		if (one_operation(worker))
			break;
	}
	if (worker->fill && !worker->over)
		sync_all(worker);
	return NULL;
}

/* ---- Main ---- */

static int run_lanes(struct journal *journal, const char *mount, const char *killed, uint64_t seed, double seconds,
		     bool fill)
{
	struct worker workers[LANES];
	pthread_t threads[LANES];
	uint64_t before = journal->violations;
	char path[AGING_PATH];

	for (unsigned i = 0; i < LANES; i++) {
		struct worker *worker = &workers[i];

		*worker = (struct worker){ .journal = journal,
					   .lane = &journal->lanes[i],
					   .killed = killed,
					   .number = i,
					   .random = (seed + 1) * UINT64_C(0x9e3779b97f4a7c15) + i,
					   .end = now() + seconds,
					   .fill = fill,
					   .buffer = malloc(FILE_SIZE_MAX) };
		snprintf(path, sizeof(path), "%s/lane%u", mount, i);
		if (fill && mkdir(path, 0777) == 0)
			chmod(path, 0777);
		worker->folder = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
		if (worker->folder < 0)
			failed(worker, path);
		if (!worker->buffer || pthread_create(&threads[i], NULL, work, worker))
			abort();
	}
	for (unsigned i = 0; i < LANES; i++) {
		pthread_join(threads[i], NULL);
		close(workers[i].folder);
		free(workers[i].buffer);
	}
	return journal->violations == before ? 0 : 1;
}

int main(int argc, char **argv)
{
	struct journal *journal;
	char killed[AGING_PATH];

	if (argc == 4 && !strcmp(argv[1], "figures"))
		return aging_figures(argv[2], argv[3]);
	if (argc < 3 || !(journal = aging_open(argv[argc == 3 ? 2 : 3]))) {
		fprintf(stderr, "usage: see the source\n");
		return 2;
	}
	if (!strcmp(argv[1], "total")) {
		printf("%llu %llu %llu %llu %llu\n", (unsigned long long)journal->operations,
		       (unsigned long long)journal->syncs, (unsigned long long)journal->checked_files,
		       (unsigned long long)journal->checked_bytes, (unsigned long long)journal->violations);
		return 0;
	}
	snprintf(killed, sizeof(killed), "%s.killed", argv[3]);
	alarm(900); /* a hang ends here */
	if (!strcmp(argv[1], "fill"))
		return run_lanes(journal, argv[2], killed, 0, 600, true);
	if (!strcmp(argv[1], "churn") && argc == 6)
		return run_lanes(journal, argv[2], killed, strtoull(argv[4], NULL, 10), atof(argv[5]), false);
	if (!strcmp(argv[1], "verify")) {
		uint64_t before = journal->violations;

		aging_verify(journal, argv[2]);
		return journal->violations == before ? 0 : 1;
	}
	return 2;
}
