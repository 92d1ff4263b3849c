/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The model test: random operations on a volume in memory and on the model, every answer compared, with remounts,
 * checks and power cuts between.
 *
 * test_model [--seeds FIRST-LAST] [--seed N] [--ops N] [--jobs N] [--trace] [--without OPERATION]...
 *
 * Each seed runs in a process of its own, so that a crash or a hang of one is one failure; it chooses the size of
 * volume, log and cache, write-behind, threads. Prints TAP. `--seed N --trace` repeats a failure and shows each operation.
 */
#include "generate.h"
#include "history.h"
#include "observe.h"
#include "run.h"
#include "tests/support/level.h"

#include <errno.h>
#include <fsck/check.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#define TRACE_LINES 40
#define TRACE_WIDTH 200
#define HISTORY_LIMIT 300 /* operations without a full sync */
#define CLOCK_START 1700000000000000000
#define SEED_TIMEOUT 600 /* seconds: longer is a hang */

struct settings {
	uint64_t seed_first, seed_last, ops, without;
	unsigned jobs;
	bool trace;
};

struct session {
	uint64_t seed;
	bool trace;
	struct bdev *dev;
	struct ash_open_options options;
	struct model model;
	struct history history;
	struct generator generator;
	struct runner runner;
	char lines[TRACE_LINES][TRACE_WIDTH];
	uint64_t line_count, remounts, crashes, checks;
	char failure[RUN_FAILURE_TEXT];
};

static void quiet_log(void *context, enum ash_log_level level, const char *text)
{
	struct session *session = context;

	if (session->trace)
		printf("# log %d: %s\n", level, text);
}

static bool session_failed(struct session *session, const char *what, const char *detail)
{
	snprintf(session->failure, sizeof(session->failure), "%.100s: %.800s", what, detail);
	return false;
}

static bool session_error(struct session *session, const char *what, int error, const char *detail)
{
	char text[BDEV_ERROR_TEXT + 100];

	snprintf(text, sizeof(text), "%s (%s)", strerror(-error), detail);
	return session_failed(session, what, text);
}

static void remember(struct session *session, const char *line)
{
	snprintf(session->lines[session->line_count++ % TRACE_LINES], TRACE_WIDTH, "%s", line);
	if (session->trace)
		printf("# %llu: %s\n", (unsigned long long)session->runner.index, line);
}

/* The seed decides what kind of volume it is. */
static bool make_volume(struct session *session)
{
	static const uint64_t sizes[] = { 16, 32, 64, 24 }, logs[] = { 258, 512, 1024 };
	static const uint64_t caches[] = { 1 << 20, 4 << 20, 64 << 20 };
	uint8_t key[32] = { (uint8_t)session->seed, (uint8_t)(session->seed >> 8), 7 };
	struct ash_mkfs_options mkfs = { .seed = key,
					 .now = CLOCK_START / 1000000000,
					 .no_discard = session->seed & 1,
					 .log_blocks = logs[session->seed % 3] };
	uint64_t size = sizes[session->seed % 4];
	char name[32], error[BDEV_ERROR_TEXT] = "";
	int result;

	session->options = (struct ash_open_options){
		.no_threads = session->seed % 5 != 2,
		.no_write_behind = session->seed % 3 == 1,
		.discard = session->seed % 4 == 3,
		.atime = session->seed % 2 ? ASH_ATIME_NONE : ASH_ATIME_RELATIVE,
		.cache_bytes = caches[session->seed / 2 % 3],
		.write_behind_bytes = session->seed % 7 == 3 ? 1 << 20 : 0,
		.commit_seconds = 1,
		.log = quiet_log,
		.context = session,
	};
	snprintf(name, sizeof(name), "mem:%lluM", (unsigned long long)size);
	result = bdev_open(name, &(struct bdev_open_options){ 0 }, &session->dev, error);
	if (result)
		return session_error(session, "opening the device", result, error);
	result = ash_mkfs(session->dev, &mkfs, error);
	if (result)
		return session_error(session, "mkfs", result, error);
	session->runner.may_be_full = session->seed % 5 == 4;
	session->generator.data_limit = (size << 20) / (session->runner.may_be_full ? 1 : 8);
	session->generator.names = session->seed % 6 == 5 ? 2000 : 24;
	return true;
}

static bool open_volume(struct session *session)
{
	char error[BDEV_ERROR_TEXT] = "";
	int result = ash_open(session->dev, &session->options, &session->runner.volume, error);

	if (result) {
		session->runner.volume = NULL;
		return session_error(session, "ash_open", result, error);
	}
	return true;
}

static bool check_volume(struct session *session)
{
	struct ash_check_options options = { .mode = ASH_CHECK_NO, .no_threads = true };
	struct ash_check_result result;
	int error = ash_check(session->dev, &options, &result);

	session->checks++;
	if (error)
		return session_error(session, "fsck could not run", error, result.error);
	return result.problems ? session_failed(session, "fsck finds", result.first) : true;
}

static void restart_history(struct session *session)
{
	history_free(&session->history);
	history_start(&session->history, &session->model);
}

static bool observe_volume(struct session *session, struct model *observed)
{
	char text[512];
	int error = observe(session->runner.volume, observed, text, sizeof(text));

	if (error)
		return session_failed(session, "observing", text);
	for (size_t i = 0; i < observed->capacity && session->options.atime != ASH_ATIME_NONE; i++) {
		if (observed->nodes[i])
			observed->nodes[i]->atime_known = false;
	}
	return true;
}

/* With relative access times the walk itself is a reader. */
static void forget_access_times(struct session *session)
{
	for (size_t i = 0; i < session->model.capacity && session->options.atime != ASH_ATIME_NONE; i++) {
		if (session->model.nodes[i])
			session->model.nodes[i]->atime_known = false;
	}
}

static bool compare_all(struct session *session)
{
	struct model observed;
	char text[512];
	bool fits = true;

	forget_access_times(session);
	fits = observe_volume(session, &observed);
	if (fits && !models_equal(&session->model, &observed, COMPARE_CONTENT, text, sizeof(text)))
		fits = session_failed(session, "after a remount", text);
	model_free(&observed);
	return fits;
}

static bool remount(struct session *session)
{
	struct ash_volume *volume = session->runner.volume;
	int error;

	remember(session, "REMOUNT");
	session->remounts++;
	session->runner.volume = NULL;
	error = ash_close(volume);
	if (error)
		return session_error(session, "ash_close", error, "");
	model_drop_references(&session->model);
	if (!check_volume(session) || !open_volume(session) || !compare_all(session))
		return false;
	restart_history(session);
	return true;
}

/* What is found becomes the model. */
static void adopt(struct session *session, struct model *observed)
{
	model_free(&session->model);
	session->model = *observed;
	session->runner.model = &session->model;
	restart_history(session);
}

static bool power_cut(struct session *session)
{
	struct history_moment moment = { session->history.count, session->history.count };
	struct model observed;
	char text[700];
	size_t prefix;

	remember(session, "POWER CUT");
	session->crashes++;
	ash_abandon(session->runner.volume);
	session->runner.volume = NULL;
	if (session->crashes % 2 == 0 && !check_volume(session))
		return false;
	if (!open_volume(session))
		return false;
	if (!observe_volume(session, &observed)) {
		model_free(&observed);
		return false;
	}
	if (!history_explains(&session->history, moment, &observed, &prefix, text, sizeof(text))) {
		model_free(&observed);
		return session_failed(session, "after a power cut", text);
	}
	adopt(session, &observed);
	return true;
}

static bool do_one(struct session *session, struct op *op)
{
	char line[TRACE_WIDTH];
	bool fits = runner_do(&session->runner, op);

	op_describe(op, line, sizeof(line));
	remember(session, line);
	history_add(&session->history, op);
	if (!fits)
		return session_failed(session, line, session->runner.failure);
	if (op->result == 0 && (op->kind == OP_SYNC || op->kind == OP_CHECKPOINT))
		restart_history(session);
	return true;
}

/* Mostly the reference that an operation gave is given back at once; the rest are open files. */
static bool step(struct session *session)
{
	struct op op, forget;
	bool fits;

	generate(&session->generator, &session->model, &op);
	if (session->history.count > HISTORY_LIMIT)
		forget = (struct op){ .kind = OP_SYNC };
	else
		forget = (struct op){ .kind = OP_NONE };
	fits = forget.kind == OP_NONE || do_one(session, &forget);
	fits = fits && (op.kind == OP_NONE || do_one(session, &op));
	if (fits && op.result == 0 && op.result_ino && generator_below(&session->generator, 10) < 8) {
		forget = (struct op){ .kind = OP_FORGET, .ino = op.result_ino, .length = 1 };
		fits = do_one(session, &forget);
	}
	op_free(&op);
	return fits;
}

static bool run_steps(struct session *session, uint64_t ops)
{
	while (session->runner.index < ops) {
		uint64_t event = generator_below(&session->generator, 1000);

		if (event < 4 && !remount(session))
			return false;
		if (event >= 4 && event < 9 && !power_cut(session))
			return false;
		if (!step(session))
			return false;
	}
	return remount(session);
}

static void print_failure(const struct session *session)
{
	uint64_t first = session->line_count > TRACE_LINES ? session->line_count - TRACE_LINES : 0;

	for (uint64_t i = first; i < session->line_count; i++)
		printf("# .. %s\n", session->lines[i % TRACE_LINES]);
	printf("# seed %llu, operation %llu: %s\n# again: test_model --seed %llu --trace\n",
	       (unsigned long long)session->seed, (unsigned long long)session->runner.index, session->failure,
	       (unsigned long long)session->seed);
}

/* In a process of its own; the exit code is the verdict. */
static int run_seed(uint64_t seed, const struct settings *settings)
{
	static struct session session;
	bool good;

	alarm(SEED_TIMEOUT);
	session.seed = seed;
	session.trace = settings->trace;
	generator_init(&session.generator, seed);
	session.generator.without = settings->without;
	model_init(&session.model);
	session.runner.model = &session.model;
	session.runner.clock = CLOCK_START;
	test_clock_set(CLOCK_START);
	history_start(&session.history, &session.model);
	good = make_volume(&session) && open_volume(&session);
	if (good) { /* the root's times are mkfs' */
		struct model observed;

		good = observe_volume(&session, &observed);
		adopt(&session, &observed);
		good = good && run_steps(&session, settings->ops);
	}
	if (session.runner.volume)
		ash_abandon(session.runner.volume);
	if (session.dev)
		bdev_close(session.dev);
	if (!good)
		print_failure(&session);
	printf("# seed %llu: %llu operations, %llu remounts, %llu power cuts, %llu checks, %llu times full\n",
	       (unsigned long long)seed, (unsigned long long)session.runner.index, (unsigned long long)session.remounts,
	       (unsigned long long)session.crashes, (unsigned long long)session.checks,
	       (unsigned long long)session.runner.full_count);
	history_free(&session.history);
	model_free(&session.model);
	fflush(stdout);
	return good ? 0 : 1;
}

/* `pids` is the parent's: the child gives its copy back, so that the leak check sees only what the run lost. */
static pid_t start_seed(uint64_t seed, const struct settings *settings, pid_t *pids)
{
	pid_t pid;

	fflush(stdout);
	pid = fork();
	if (pid == 0) {
		free(pids);
		setvbuf(stdout, NULL, _IOFBF, 1 << 20);
		exit(run_seed(seed, settings));
	}
	return pid;
}

static void report(uint64_t seed, uint64_t number, int status, uint64_t *failures)
{
	bool good = WIFEXITED(status) && WEXITSTATUS(status) == 0;

	*failures += !good;
	printf("%s %llu - model seed %llu", good ? "ok" : "not ok", (unsigned long long)number,
	       (unsigned long long)seed);
	if (WIFSIGNALED(status))
		printf(" # %s", WTERMSIG(status) == SIGALRM ? "hangs" : strsignal(WTERMSIG(status)));
	printf("\n");
	fflush(stdout);
}

static int run_all(const struct settings *settings)
{
	uint64_t count = settings->seed_last - settings->seed_first + 1, next = 0, number = 0, failures = 0;
	pid_t *pids = test_alloc(count * sizeof(*pids));
	unsigned running = 0;

	printf("1..%llu\n", (unsigned long long)count);
	while (number < count) {
		int status;
		pid_t pid;

		while (running < settings->jobs && next < count) {
			pids[next] = start_seed(settings->seed_first + next, settings, pids);
			next++;
			running++;
		}
		pid = wait(&status);
		for (uint64_t i = 0; i < next; i++) {
			if (pids[i] == pid)
				report(settings->seed_first + i, ++number, status, &failures);
		}
		running--;
	}
	free(pids);
	printf("# %llu operations in all\n", (unsigned long long)(count * settings->ops));
	return failures ? 1 : 0;
}

static int usage(FILE *to, int code)
{
	fprintf(to, "usage: test_model [--seeds FIRST-LAST] [--seed N] [--ops N] [--jobs N] [--trace] [--without "
		    "OPERATION]...\n"
		    "ASHLAR_TEST_LEVEL=quick|long chooses how many seeds and operations.\n");
	return code;
}

int main(int argc, char **argv)
{
	static const struct option options[] = {
		{ "seeds", required_argument, NULL, 's' }, { "seed", required_argument, NULL, 'S' },
		{ "ops", required_argument, NULL, 'o' },   { "jobs", required_argument, NULL, 'j' },
		{ "trace", no_argument, NULL, 't' },       { "without", required_argument, NULL, 'w' },
		{ "help", no_argument, NULL, 'h' },        { 0 },
	};
	bool is_long = test_level_is_long();
	struct settings settings = {
		.seed_first = 1,
		.seed_last = is_long ? 200 : TEST_QUICK_PART(24),
		.ops = is_long ? 20000 : 8500,
		.jobs = 2,
	};
	int c;

	while ((c = getopt_long(argc, argv, "h", options, NULL)) != -1) {
		if (c == 's' && sscanf(optarg, "%lu-%lu", &settings.seed_first, &settings.seed_last) != 2)
			return usage(stderr, 2);
		if (c == 'S')
			settings.seed_first = settings.seed_last = strtoull(optarg, NULL, 10);
		if (c == 'o')
			settings.ops = strtoull(optarg, NULL, 10);
		if (c == 'j')
			settings.jobs = (unsigned)strtoul(optarg, NULL, 10);
		if (c == 'w')
			settings.without |= 1ull << op_kind_by_name(optarg);
		if (c == 't')
			settings.trace = true;
		if (c == 'h')
			return usage(stdout, 0);
		if (c == '?')
			return usage(stderr, 2);
	}
	if (settings.seed_last < settings.seed_first || !settings.jobs)
		return usage(stderr, 2);
	return run_all(&settings);
}
