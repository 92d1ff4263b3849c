/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * fsck.ashlar: the command line over ash_check(). Opens and locks the device, shows problems, asks, draws the progress
 * bar, prints the summary, and turns the result into the exit codes that fsck(8) documents, added up:
 * 0 clean, 1 all repaired, 4 errors left, 8 could not run, 16 usage, 32 interrupted, 128 library error (not used).
 *
 * SIGINT, SIGTERM and SIGHUP end the check at its next safe point (see ash_check_options.cancelled), so that no
 * repair is left half written. Single-threaded but for the library's helper.
 */
#include "check.h"

#include <ashlar/ashlar.h>
#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <inttypes.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "mkfs/json.h"
#include "mkfs/probe.h"
#include "mkfs/standard.h"
#include "mkfs/tool.h"

enum exit_code {
	EXIT_CLEAN = 0,
	EXIT_REPAIRED = 1,
	EXIT_LEFT = 4,
	EXIT_OPERATION = 8,
	EXIT_USAGE = 16,
	EXIT_INTERRUPTED = 32,
};
#define BAR_WIDTH 50u
#define PASS_COUNT 5u

struct front {
	const char *name;
	struct ash_check_options options;
	uint64_t super_block; /* -b */
	bool json_wanted, bar, bar_shown, quiet;
	unsigned bar_last; /* thousandths */
	struct json json;
};

/* The state that a signal handler can reach. */
static volatile sig_atomic_t interrupted;
static int interrupt_pipe[2] = { -1, -1 }; /* it has a byte once there was a signal: a question waits for it, too */

static void on_interrupt(int signal_number)
{
	int error = errno;

	interrupted = signal_number;
	if (write(interrupt_pipe[1], "", 1) < 0)
		errno = error; /* full of earlier signals, which will do */
}

static bool on_cancelled(void *context)
{
	(void)context;
	return interrupted != 0;
}

/* Where nobody answers, nobody is there to be asked on. */
static void end_of_answers(void)
{
	if (!interrupted)
		interrupted = SIGHUP;
}

/*
 * What is written to a slow terminal must not be lost: hence SA_RESTART. A reader who goes must not end a repair half-way:
 * the exit status tells that output was lost, see output_written().
 */
static int catch_signals(void)
{
	struct sigaction ignore = { .sa_handler = SIG_IGN };
	struct sigaction action = { .sa_handler = on_interrupt, .sa_flags = SA_RESTART };

	if (pipe2(interrupt_pipe, O_CLOEXEC | O_NONBLOCK))
		return tool_error(EXIT_OPERATION, "cannot make a pipe: %s", strerror(errno));
	sigaction(SIGINT, &action, NULL);
	sigaction(SIGTERM, &action, NULL);
	sigaction(SIGHUP, &action, NULL);
	sigaction(SIGPIPE, &ignore, NULL);
	return 0;
}

/* ---- What the check tells ---- */

static void bar_clear(struct front *front)
{
	if (front->bar_shown)
		fprintf(stdout, "\r%*s\r", (int)(BAR_WIDTH + 40), "");
	front->bar_shown = false;
}

static void on_progress(void *context, unsigned pass, uint64_t done, uint64_t total)
{
	struct front *front = context;
	unsigned now = total ? (unsigned)(done * 1000 / total) : 1000;
	unsigned all = (pass * 1000 + (now > 1000 ? 1000 : now)) / (PASS_COUNT + 1), filled = all * BAR_WIDTH / 1000;

	if (!front->bar || (front->bar_shown && all == front->bar_last))
		return;
	front->bar_last = all;
	front->bar_shown = true;
	printf("\r%s: |%.*s%*s| %u.%u%%  ", front->name, (int)filled,
	       "==================================================", (int)(BAR_WIDTH - filled), "", all / 10, all % 10);
	fflush(stdout);
}

static void on_say(void *context, const char *text)
{
	struct front *front = context;

	if (front->json_wanted)
		return;
	bar_clear(front);
	printf("%s\n", text);
}

static const char *severity_name(enum ash_check_severity severity)
{
	static const char *const names[] = { "note", "error", "loss" };

	return names[severity];
}

static void report_json(struct front *front, const struct ash_check_problem *problem)
{
	json_open(&front->json, NULL, '{');
	json_string(&front->json, "code", problem->code);
	json_string(&front->json, "severity", severity_name(problem->severity));
	json_bytes(&front->json, "message", problem->message, strlen(problem->message));
	if (problem->ino)
		json_number(&front->json, "inode", problem->ino);
	if (problem->block)
		json_number(&front->json, "block", problem->block);
	json_bool(&front->json, "fixed", problem->fixed);
	json_close(&front->json, '}');
}

static void on_report(void *context, const struct ash_check_problem *problem)
{
	struct front *front = context;

	if (front->json_wanted) {
		report_json(front, problem);
		return;
	}
	/* Most notes are everyday matters (a crash leaves some); shown when they are acted on. A question showed its problem. */
	if ((problem->severity == ASH_CHECK_NOTE && !problem->fixed && !problem->told) || problem->asked)
		return;
	bar_clear(front);
	printf("%s. %s? %s.\n", problem->message, problem->question, problem->fixed ? "yes" : "no");
}

/*
 * The first character of a line of the standard input; EOF at its end, and after a signal. A signal may come before
 * anything waits here, and in any thread: a read that counts on being interrupted would miss it.
 */
static int read_answer(void)
{
	struct pollfd wanted[] = { { .fd = STDIN_FILENO, .events = POLLIN },
				   { .fd = interrupt_pipe[0], .events = POLLIN } };
	unsigned char next = 0;
	int first = EOF, ready;

	while (next != '\n') {
		ready = poll(wanted, 2, -1);
		if (interrupted || (ready < 0 && errno != EINTR))
			return EOF;
		if (ready < 0)
			continue;
		if (read(STDIN_FILENO, &next, 1) != 1)
			break;
		if (first == EOF)
			first = next;
	}
	return first;
}

static bool on_ask(void *context, const struct ash_check_problem *problem)
{
	int answer;

	bar_clear(context);
	while (!interrupted) {
		printf("%s. %s [y/n]? ", problem->message, problem->question);
		fflush(stdout);
		answer = read_answer();
		if (answer == EOF) {
			end_of_answers();
			break;
		}
		if (answer == 'y' || answer == 'Y')
			return true;
		if (answer == 'n' || answer == 'N')
			return false;
	}
	putchar('\n');
	return false;
}

/* ---- Opening ---- */

static int open_failed(const struct front *front, const char *path, int result, const char *error)
{
	char what[PROBE_TEXT];

	if (result == -EBUSY && path && probe_in_use(path, what) > 0)
		return tool_error(EXIT_OPERATION, "%s %s: unmount it first", front->name, what);
	return tool_error(EXIT_OPERATION, "%s%s", error, result == -EROFS ? "; -n checks it without writing" : "");
}

static int open_device(const struct front *front, struct bdev **dev)
{
	bool look = front->options.mode == ASH_CHECK_NO;
	struct bdev_open_options options = { .read_only = look, .exclusive = true, .allow_buffered = true };
	const char *path = tool_device_path(front->name);
	char error[BDEV_ERROR_TEXT] = "";
	const char *why = path ? tool_kind_wrong(path) : NULL;
	int result;

	if (why)
		return tool_error(EXIT_OPERATION, "%s: %s", path, why);
	if (tool_wait_free(front->name))
		return EXIT_OPERATION;
	result = bdev_open(front->name, &options, dev, error);
	if (result)
		return open_failed(front, path, result, error);
	result = bdev_lock(*dev, !look, TOOL_LOCK_TIMEOUT_MS);
	if (!result)
		return EXIT_CLEAN;
	bdev_close(*dev);
	return open_failed(front, path, result,
			   result == -EBUSY ? "in use by another Ashlar program" : strerror(-result));
}

/* A device that was given to another filesystem may still hold our backups: nobody wants those brought back. */
static int refuse_foreign(const struct front *front)
{
	const char *path = tool_device_path(front->name);
	char what[PROBE_TEXT];

	if (!path || probe_foreign_signature(path, what) <= 0)
		return EXIT_CLEAN;
	return tool_error(EXIT_OPERATION, "%s %s: not an Ashlar volume", front->name, what);
}

static int open_volume(const struct front *front, struct bdev **dev)
{
	int code = open_device(front, dev);

	if (code)
		return code;
	code = refuse_foreign(front);
	if (code)
		bdev_close(*dev);
	return code;
}

/* ---- Results ---- */

/* Repaired only counts where nothing is left: but for a check that was cut off, whose repairs are there all the same. */
static int exit_code(int error, const struct ash_check_result *result)
{
	int code = error ? EXIT_OPERATION : EXIT_CLEAN;

	if (result->cancelled)
		code |= EXIT_INTERRUPTED;
	if (result->left || result->stopped)
		code |= EXIT_LEFT;
	if (code == EXIT_CLEAN ? result->fixed > 0 : result->cancelled && result->changed)
		code |= EXIT_REPAIRED;
	return code;
}

static void summary(const struct front *front, const struct ash_check_result *result)
{
	if (result->skipped) {
		printf("%s: clean (use -f to check it all the same)\n", front->name);
		return;
	}
	if (result->stopped) {
		printf("%s: UNEXPECTED INCONSISTENCY; run fsck.ashlar by hand (without -p)\n", front->name);
		return;
	}
	if (result->cancelled) {
		printf("%s: interrupted before the end: %" PRIu64 " problems until then, %" PRIu64
		       " repaired; run fsck.ashlar again\n",
		       front->name, result->problems, result->fixed);
		return;
	}
	if (result->error[0])
		printf("%s\n", result->error);
	if (result->fixed || result->left)
		printf("%s: %" PRIu64 " problems, %" PRIu64 " repaired, %" PRIu64 " left\n", front->name,
		       result->problems, result->fixed, result->left);
	printf("%s: %s, %" PRIu64 " files, %" PRIu64 " folders, %" PRIu64 "/%" PRIu64 " blocks\n", front->name,
	       result->left ? "NOT CLEAN" : "clean", result->files, result->directories, result->used_blocks,
	       result->block_count);
}

static void begin_json(struct front *front)
{
	json_begin(&front->json, stdout);
	json_open(&front->json, NULL, '{');
	json_string(&front->json, "device", front->name);
	json_open(&front->json, "problems", '[');
}

static void summary_json(struct front *front, int code, const struct ash_check_result *result)
{
	struct json *json = &front->json;

	json_close(json, ']');
	json_number(json, "problem_count", result->problems);
	json_number(json, "notes", result->notes);
	json_number(json, "fixed", result->fixed);
	json_number(json, "left", result->left);
	json_bool(json, "skipped", result->skipped);
	json_bool(json, "stopped", result->stopped);
	json_bool(json, "interrupted", result->cancelled);
	json_bool(json, "changed", result->changed);
	json_bool(json, "clean", !(code & ~EXIT_REPAIRED));
	json_number(json, "blocks", result->block_count);
	json_number(json, "used_blocks", result->used_blocks);
	json_number(json, "inodes", result->inodes);
	json_number(json, "used_inodes", result->used_inodes);
	json_number(json, "files", result->files);
	json_number(json, "directories", result->directories);
	json_bytes(json, "error", result->error, strlen(result->error));
	json_number(json, "exit_code", (uint64_t)code);
	json_close(json, '}');
	json_end(json);
}

/* The bar's last step, for who looks at it. */
static void end_bar(struct front *front, int error, const struct ash_check_result *result)
{
	if (!error && !result->skipped && !result->stopped && !result->cancelled)
		on_progress(front, PASS_COUNT, 1, 1);
	bar_clear(front);
}

static int check_volume(struct front *front, struct ash_check_result *result)
{
	struct bdev *dev;
	int error;

	if (open_volume(front, &dev))
		return -ENODEV;
	error = ash_check(dev, &front->options, result);
	bdev_close(dev);
	end_bar(front, error, result);
	if (error)
		tool_error(EXIT_OPERATION, "%s", result->error);
	return error;
}

static int check(struct front *front)
{
	struct ash_check_result result = { 0 };
	char *device = NULL;
	int error;

	if (front->json_wanted)
		begin_json(front);
	error = tool_resolve_tag(&front->name, &device) ? -ENODEV : check_volume(front, &result);
	if (error)
		snprintf(result.error, sizeof(result.error), "%s", tool_first_error());
	if (front->json_wanted)
		summary_json(front, exit_code(error, &result), &result);
	else if (!error)
		summary(front, &result);
	free(device);
	return exit_code(error, &result);
}

/* Who reads the output must not take a part of it for all. */
static int output_written(int code)
{
	int failed = fflush(stdout) ? errno : 0;

	if (!failed && !ferror(stdout))
		return code;
	return tool_error(code | EXIT_OPERATION, "the output could not be written%s%s", failed ? ": " : "",
			  failed ? strerror(failed) : "");
}

/* ---- Command line ---- */

static void usage(FILE *out)
{
	fputs("Usage: fsck.ashlar [-n | -p | -y] [-b BLOCK] [-f] [-C] [--json] DEVICE\n"
	      "Check an Ashlar volume on a block device or in an image file, and repair it.\n\n"
	      "  -n, --no        look only, write nothing; always checks everything\n"
	      "  -p, -a, --preen repair what is safe without asking; stop at anything else\n"
	      "  -y, --yes       repair everything without asking\n"
	      "  -b, --superblock BLOCK\n"
	      "                  believe the superblock in that block, where several differ\n"
	      "  -f, --force     check even when the volume was closed in order\n"
	      "  -C, --progress  show a progress bar on a terminal\n"
	      "      --json      problems and result as JSON on standard output\n"
	      "  -V, --version   show the version\n"
	      "  -h, --help      show this text\n\n"
	      "LABEL=text and UUID=... name a volume too. Without -n, -p or -y each repair is asked for.\n"
	      "Exit: 0 clean, 1 all repaired, 4 errors left, 8 could not run, 16 usage, 32 interrupted, added up.\n",
	      out);
}

static int misused(const char *what)
{
	return tool_error(EXIT_USAGE, "%s; try 'fsck.ashlar --help'", what);
}

static int set_mode(struct front *front, enum ash_check_mode mode)
{
	if (front->options.mode != ASH_CHECK_ASK && front->options.mode != mode)
		return misused("only one of -n, -p and -y can be given");
	front->options.mode = mode;
	return 0;
}

static int set_super_block(struct front *front, const char *text)
{
	char *end;

	errno = 0;
	front->super_block = strtoull(text, &end, 10);
	if (errno || *end || !isdigit((unsigned char)*text))
		return misused("-b needs the number of a block");
	front->options.super_block = &front->super_block;
	return 0;
}

static int parse_option(struct front *front, int option, char *const *argv)
{
	switch (option) {
	case 'n':
		return set_mode(front, ASH_CHECK_NO);
	case 'a':
	case 'p':
		return set_mode(front, ASH_CHECK_PREEN);
	case 'y':
		return set_mode(front, ASH_CHECK_YES);
	case 'b':
		return set_super_block(front, optarg);
	case 'f':
		front->options.force = true;
		return 0;
	case 'C':
		front->bar = true;
		return 0;
	case 'j':
		front->json_wanted = true;
		return 0;
	}
	return tool_option_error(EXIT_USAGE, option, argv);
}

static int parse(struct front *front, int argc, char **argv)
{
	static const struct option longs[] = {
		{ "no", no_argument, NULL, 'n' },    { "preen", no_argument, NULL, 'p' },
		{ "yes", no_argument, NULL, 'y' },   { "superblock", required_argument, NULL, 'b' },
		{ "force", no_argument, NULL, 'f' }, { "progress", no_argument, NULL, 'C' },
		{ "json", no_argument, NULL, 'j' },  { "version", no_argument, NULL, 'V' },
		{ "help", no_argument, NULL, 'h' },  { NULL, 0, NULL, 0 },
	};
	int option, code = 0;

	opterr = 0; /* one line, ours */
	while (!code && (option = getopt_long(argc, argv, "napyb:fC::Vh", longs, NULL)) != -1) {
		if (option == 'h') {
			usage(stdout);
			exit(output_written(0));
		}
		if (option == 'V') {
			printf("fsck.ashlar %s\n", ash_version());
			exit(output_written(0));
		}
		code = parse_option(front, option, argv);
	}
	if (!code && optind == argc)
		return misused("the device or image file is missing");
	if (!code && optind + 1 < argc)
		return misused("only one device or image file can be given");
	front->name = code ? NULL : argv[optind];
	return code;
}

static int need_terminal(const struct front *front)
{
	if (front->options.mode != ASH_CHECK_ASK ||
	    (isatty(STDIN_FILENO) && isatty(STDOUT_FILENO) && !front->json_wanted))
		return 0;
	return tool_error(EXIT_OPERATION, "need a terminal for questions: use -n, -p or -y");
}

/* No check was begun. */
static int refused(struct front *front, int code)
{
	struct ash_check_result result = { 0 };

	if (!front->json_wanted)
		return code;
	if (!front->name)
		front->name = "";
	snprintf(result.error, sizeof(result.error), "%s", tool_first_error());
	begin_json(front);
	summary_json(front, code, &result);
	return output_written(code);
}

int main(int argc, char **argv)
{
	struct front front = { .options = { .mode = ASH_CHECK_ASK,
					    .ask = on_ask,
					    .report = on_report,
					    .say = on_say,
					    .progress = on_progress,
					    .cancelled = on_cancelled } };
	int code;

	standard_guard();
	code = catch_signals();
	if (!code)
		code = parse(&front, argc, argv);
	front.options.context = &front;
	if (!code)
		code = need_terminal(&front);
	if (code)
		return refused(&front, code);
	/* A bar in a file or pipe is of no use to anybody. */
	front.bar = front.bar && !front.json_wanted && isatty(STDOUT_FILENO);
	return output_written(check(&front));
}
