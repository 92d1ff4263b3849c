/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * ashlarctl scrub: are the metadata of a volume good, mounted or not? Nothing is repaired.
 *
 * A mounted volume belongs to its server, so it is the server that reads and judges, a step at each ioctl(2); this
 * program only goes on asking (ashlar/scrub.h). An unmounted one gets all that fsck.ashlar -n knows (ash_check()), which
 * takes the volume to itself, reading.
 *
 * The exit status is put together as that of fsck(8). An interrupt ends a scrub between two steps, or where the check
 * tells of its progress: both have nothing to put away. The second one ends the program at once.
 */
#include "mkfs/ctl.h"
#include "mkfs/probe.h"

#include <ashlar/scrub.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>
#include "fsck/check.h"

enum exit_code { EXIT_CLEAN = 0, EXIT_LEFT = 4, EXIT_OPERATION = 8, EXIT_INTERRUPTED = 32 };

#define CHECK_PASSES 6u
#define REDRAW_NS 100000000ull

struct front {
	const struct ctl *ctl;
	const char *name;   /* as the user gave it */
	const char *folder; /* the mount that is scrubbed; NULL: unmounted */
	struct json json;
	bool bar, bar_shown;
	uint64_t started, drawn; /* ns */
	uint64_t problems, notes;
	bool stopped; /* by a signal: only a part was looked at */
	/* one of these, by `folder` */
	struct ash_scrub scrub;
	struct ash_check_result check;
};

/* The one piece of state that a signal handler can reach. */
static volatile sig_atomic_t interrupted;

static void on_interrupt(int signal_number)
{
	interrupted = signal_number;
}

static uint64_t now_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

/* ---- Progress: a line on the terminal ---- */

static void bar_clear(struct front *front)
{
	if (front->bar_shown)
		fputs("\r\033[K", stderr);
	front->bar_shown = false;
}

static void bar_draw(struct front *front, uint64_t done, uint64_t total, const char *what)
{
	uint64_t now = now_ns();

	if (!front->bar || (front->bar_shown && now - front->drawn < REDRAW_NS))
		return;
	front->drawn = now;
	front->bar_shown = true;
	fprintf(stderr, "\r%s: %.1f %%%s\033[K", front->name, total ? (double)done * 100.0 / (double)total : 0.0, what);
	fflush(stderr);
}

/* ---- Result ---- */

static int exit_code(const struct front *front, int error)
{
	int code = front->problems ? EXIT_LEFT : EXIT_CLEAN;

	if (error)
		code |= EXIT_OPERATION;
	return front->stopped ? code | EXIT_INTERRUPTED : code;
}

static double seconds_of(const struct front *front)
{
	return (double)(now_ns() - front->started) / 1e9;
}

static void json_figures(struct front *front)
{
	struct json *json = &front->json;
	double seconds = seconds_of(front);

	json_number(json, "milliseconds", (uint64_t)(seconds * 1000));
	if (front->folder) {
		json_number(json, "blocks_read", front->scrub.blocks);
		json_number(json, "blocks_in_memory", front->scrub.newer);
		json_number(json, "inodes", front->scrub.inodes);
		json_number(json, "directories", front->scrub.directories);
		json_number(json, "blocks_per_second",
			    seconds > 0 ? (uint64_t)((double)front->scrub.blocks / seconds) : 0);
	} else {
		json_number(json, "blocks", front->check.block_count);
		json_number(json, "used_blocks", front->check.used_blocks);
		json_number(json, "inodes", front->check.files + front->check.directories);
		json_number(json, "directories", front->check.directories);
		json_number(json, "notes", front->notes);
	}
}

static void json_result(struct front *front, int error)
{
	struct json *json = &front->json;

	json_close(json, ']');
	json_number(json, "problem_count", front->problems);
	json_figures(front);
	json_bool(json, "interrupted", front->stopped);
	json_bool(json, "clean", !exit_code(front, error));
	json_number(json, "exit_code", (uint64_t)exit_code(front, error));
	json_close(json, '}');
	json_end(json);
}

static void text_figures(const struct front *front)
{
	double seconds = seconds_of(front);

	if (front->folder)
		printf(", %" PRIu64 " inodes, %" PRIu64 " folders; %" PRIu64
		       " blocks of metadata read in %.1f s (%.0f/s), %" PRIu64 " newer in memory\n",
		       front->scrub.inodes, front->scrub.directories, front->scrub.blocks, seconds,
		       seconds > 0 ? (double)front->scrub.blocks / seconds : 0.0, front->scrub.newer);
	else
		printf(", %" PRIu64 " files, %" PRIu64 " folders, %" PRIu64 "/%" PRIu64 " blocks; checked in %.1f s\n",
		       front->check.files, front->check.directories, front->check.used_blocks, front->check.block_count,
		       seconds);
}

static void text_result(struct front *front, int error)
{
	if (front->ctl->quiet && !exit_code(front, error))
		return;
	if (front->stopped)
		printf("%s: interrupted: only a part was looked at; %" PRIu64 " problems until then", front->name,
		       front->problems);
	else if (front->problems)
		printf("%s: NOT CLEAN, %" PRIu64 " problems: run fsck.ashlar -f", front->name, front->problems);
	else
		printf("%s: clean", front->name);
	text_figures(front);
}

static int finish(struct front *front, int error)
{
	bar_clear(front);
	if (front->ctl->json)
		json_result(front, error);
	else if (!error)
		text_result(front, error);
	return exit_code(front, error);
}

static void begin(struct front *front)
{
	front->started = now_ns();
	if (!front->ctl->json)
		return;
	json_begin(&front->json, stdout);
	json_open(&front->json, NULL, '{');
	json_string(&front->json, "target", front->name);
	json_bool(&front->json, "mounted", front->folder);
	if (front->folder)
		json_string(&front->json, "mount_point", front->folder);
	json_open(&front->json, "problems", '[');
}

/* One problem. `code` is NULL where there is none; 0: about no inode, about block 0 or none. */
static void problem_show(struct front *front, const char *code, uint64_t ino, uint64_t block, const char *text)
{
	struct json *json = &front->json;

	bar_clear(front);
	if (!front->ctl->json) {
		printf("%s\n", text);
		fflush(stdout);
		return;
	}
	json_open(json, NULL, '{');
	if (code)
		json_string(json, "code", code);
	if (ino)
		json_number(json, "inode", ino);
	if (block)
		json_number(json, "block", block);
	json_bytes(json, "message", text, strlen(text));
	json_close(json, '}');
}

/* ---- A mounted volume ---- */

static int step_failed(const struct front *front, int error)
{
	switch (error) {
	case EPERM:
		return tool_error(-1, "%s: only root may scrub a mounted volume; unmounted, whoever may read it",
				  front->folder);
	case ENOTTY:
	case ENOSYS:
	case EINVAL:
	case EOPNOTSUPP:
		return tool_error(-1, "%s: is not on a mounted Ashlar volume, or its server is of another version",
				  front->folder);
	}
	return tool_error(-1, "%s: %s", front->folder, strerror(error));
}

static void step_show(struct front *front)
{
	const struct ash_scrub *scrub = &front->scrub;
	char text[ASH_SCRUB_TEXT + 80];

	for (uint32_t i = 0; i < scrub->listed && i < ASH_SCRUB_LIST; i++) {
		const struct ash_scrub_problem *problem = &scrub->list[i];

		if (problem->ino)
			snprintf(text, sizeof(text), "inode %" PRIu64 ", block %" PRIu64 ": %.*s", problem->ino,
				 problem->block, (int)ASH_SCRUB_TEXT, problem->what);
		else
			snprintf(text, sizeof(text), "block %" PRIu64 ": %.*s", problem->block, (int)ASH_SCRUB_TEXT,
				 problem->what);
		problem_show(front, NULL, problem->ino, problem->block, text);
	}
	if (scrub->problems - front->problems > scrub->listed && !front->ctl->json)
		printf("%" PRIu64 " more problems there: see the system log\n",
		       scrub->problems - front->problems - scrub->listed);
	front->problems = scrub->problems;
	snprintf(text, sizeof(text), ", %" PRIu64 " blocks, %" PRIu64 " problems", scrub->blocks, scrub->problems);
	bar_draw(front, scrub->done, scrub->total, text);
}

/* 0, or -1 after a message. */
static int scrub_steps(struct front *front, int fd)
{
	front->scrub.version = ASH_SCRUB_VERSION;
	while (!interrupted && !front->scrub.finished) {
		if (!ioctl(fd, ASH_IOC_SCRUB, &front->scrub))
			step_show(front);
		else if (errno != EINTR)
			return errno;
	}
	front->stopped = !front->scrub.finished;
	return 0;
}

static int scrub_mounted(struct front *front)
{
	int fd = open(front->folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC), error;

	if (fd < 0 && errno == EACCES && probe_is_private(front->folder)) {
		tool_private_mount(front->folder, "scrub");
		return EXIT_OPERATION;
	}
	if (fd < 0)
		return tool_error(EXIT_OPERATION, "%s: %s", front->folder, strerror(errno));
	begin(front);
	error = scrub_steps(front, fd);
	close(fd);
	bar_clear(front);
	if (error)
		step_failed(front, error);
	return finish(front, error);
}

/* ---- An unmounted volume ---- */

static void on_report(void *context, const struct ash_check_problem *problem)
{
	struct front *front = context;

	if (problem->severity == ASH_CHECK_NOTE) {
		front->notes++;
		if (front->ctl->verbose && !front->ctl->json)
			problem_show(front, NULL, 0, 0, problem->message);
		return;
	}
	front->problems++;
	problem_show(front, problem->code, problem->ino, problem->block, problem->message);
}

static void on_progress(void *context, unsigned pass, uint64_t done, uint64_t total)
{
	struct front *front = context;

	if (interrupted) {
		int code;

		front->stopped = true;
		code = finish(front, 0);
		fflush(stdout);
		exit(code);
	}
	bar_draw(front, pass * 1000 + (total ? done * 1000 / total : 1000), CHECK_PASSES * 1000, "");
}

static void on_say(void *context, const char *text)
{
	struct front *front = context;

	if (!front->ctl->verbose || front->ctl->json)
		return;
	bar_clear(front);
	puts(text);
}

static int open_device(const struct front *front, struct bdev **dev)
{
	struct bdev_open_options options = { .read_only = true, .exclusive = true, .allow_buffered = true };
	const char *path = tool_device_path(front->name);
	char error[BDEV_ERROR_TEXT] = "", what[PROBE_TEXT];
	int result;

	if (path && tool_check_kind(path))
		return -1;
	if (tool_wait_free(front->name))
		return -1;
	if (path && probe_foreign_signature(path, what) > 0)
		return tool_error(-1, "%s %s: not an Ashlar volume", front->name, what);
	result = bdev_open(front->name, &options, dev, error);
	if (result)
		return tool_error(-1, "%s", error);
	result = bdev_lock(*dev, false, TOOL_LOCK_TIMEOUT_MS);
	if (!result)
		return 0;
	bdev_close(*dev);
	return tool_error(-1, "%s: %s", front->name,
			  result == -EBUSY ? "is in use by another Ashlar program" : strerror(-result));
}

static int scrub_unmounted(struct front *front)
{
	struct ash_check_options options = {
		.mode = ASH_CHECK_NO, .report = on_report, .progress = on_progress, .say = on_say, .context = front
	};
	struct bdev *dev;
	int error;

	if (open_device(front, &dev))
		return EXIT_OPERATION;
	begin(front);
	error = ash_check(dev, &options, &front->check);
	bdev_close(dev);
	bar_clear(front);
	if (error)
		tool_error(-1, "%s", front->check.error);
	return finish(front, error);
}

/* ---- Which of the two ---- */

static int scrub_device(struct front *front)
{
	const char *path = tool_device_path(front->name);
	char where[PROBE_TEXT];
	struct stat st;

	if (path && (stat(path, &st) ? probe_is_private(path) : S_ISDIR(st.st_mode)))
		front->folder = path;
	else if (path && probe_mount_point(path, where) > 0)
		front->folder = where;
	return front->folder ? scrub_mounted(front) : scrub_unmounted(front);
}

int ctl_scrub(const struct ctl *ctl)
{
	struct sigaction action = { .sa_handler = on_interrupt, .sa_flags = (int)SA_RESETHAND };
	struct front front = { .ctl = ctl, .name = ctl->arguments[0] };

	sigaction(SIGINT, &action, NULL);
	sigaction(SIGTERM, &action, NULL);
	front.bar = ctl->progress && isatty(STDERR_FILENO);
	return scrub_device(&front);
}
