/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The concurrency test: threads of all kinds (stress.h) on one volume, results judged.
 *
 * stress_concurrency [--seeds FIRST-LAST] [--seed N] [--seconds N] [--mount FOLDER [--full]]
 *
 * With the library each seed is a process with a volume of its own in memory: the seed chooses size, cache, log,
 * write-behind, discard, delays of the device, and whether the volume is full. Work goes in rounds; after each the threads
 * rest and everything is judged: histories, link counts, contents. At the end the volume is closed, checked, mounted
 * again and compared. On a mounted folder there is one seed, and mounting and checking are the caller's (concurrency_mount.sh).
 */
#include "stress.h"

#include <ashlar/ashlar.h>
#include <errno.h>
#include <fsck/check.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <support/delay.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define ROUND_MS 250
#define HANG_SECONDS 120
#define ROOM_BYTES (16u << 20) /* free on an empty volume of the mount tests */

struct settings {
	uint64_t first, last;
	unsigned seconds; /* for each seed */
	const char *mount;
	bool full;
};

/* What the process of a seed tells the one that started it. */
struct figures {
	uint64_t operations, rounds, full_answers, torn, violations;
};

struct session {
	struct stress stress;
	struct target target;
	struct stress_worker workers[STRESS_THREADS + 1]; /* the last one is the main thread's */
	unsigned count;
	uint32_t names[LINEAR_NAMES];
	struct bdev *dev, *delay;
	struct ash_open_options options;
	struct figures *figures;
};

/* ---- A session: workers, rounds ---- */

static void add_workers(struct session *session, unsigned count, const char *kind, void *(*work)(void *))
{
	for (unsigned i = 0; i < count && session->count < STRESS_THREADS; i++) {
		struct stress_worker *worker = &session->workers[session->count];

		worker->stress = &session->stress;
		worker->work = work;
		worker->kind = kind;
		worker->number = session->count++;
		worker->random = session->stress.seed * UINT64_C(0x9e3779b97f4a7c15) + worker->number * 7919 + 1;
		worker->step = "";
		if (work == names_work) {
			worker->history_size = names_history_room();
			worker->history = malloc(worker->history_size * sizeof(*worker->history));
			if (!worker->history)
				abort();
		}
	}
}

static void make_workers(struct session *session)
{
	struct stress_worker *rest = &session->workers[STRESS_THREADS];
	uint64_t seed = session->stress.seed;

	add_workers(session, 4 + (unsigned)(seed % 3), "names", names_work);
	add_workers(session, 2 + (unsigned)(seed / 2 % 3), "blocks", blocks_work);
	add_workers(session, 2 + (unsigned)(seed / 3 % 2), "publish", publish_work);
	add_workers(session, 1 + (unsigned)(seed % 2), "upkeep", upkeep_work);
	*rest = (struct stress_worker){ .stress = &session->stress,
					.kind = "main",
					.running = true,
					.thread = pthread_self(),
					.number = STRESS_THREADS,
					.random = seed,
					.step = "",
					.history_size = 200 };
	rest->history = malloc(rest->history_size * sizeof(*rest->history));
	if (!rest->history)
		abort();
	watch_start(session->workers, STRESS_THREADS + 1, HANG_SECONDS);
}

static void free_workers(struct session *session)
{
	watch_stop();
	for (unsigned i = 0; i <= STRESS_THREADS; i++)
		free(session->workers[i].history);
}

static void *run_worker(void *context)
{
	struct stress_worker *worker = context;

	worker->work(worker);
	STORE(&worker->running, false);
	return NULL;
}

static void run_workers(struct session *session)
{
	struct timespec time = { .tv_nsec = ROUND_MS * 1000000L };

	STORE(&session->stress.stop, 0u);
	for (unsigned i = 0; i < session->count; i++) {
		STORE(&session->workers[i].running, true);
		if (pthread_create(&session->workers[i].thread, NULL, run_worker, &session->workers[i]))
			abort();
	}
	nanosleep(&time, NULL);
	STORE(&session->stress.stop, 1u);
	for (unsigned i = 0; i < session->count; i++)
		pthread_join(session->workers[i].thread, NULL);
}

static void judge_round(struct session *session)
{
	struct stress_worker *rest = &session->workers[STRESS_THREADS];

	stress_step(rest, "judging");
	names_look(rest);
	names_judge(&session->stress, session->workers, STRESS_THREADS + 1, session->names);
	blocks_verify(rest);
	publish_verify(rest);
}

/* Everything that a full volume may refuse is made before it is full. */
static bool prepare(struct session *session)
{
	struct stress_worker *rest = &session->workers[STRESS_THREADS];

	stress_step(rest, "preparing");
	session->stress.target = &session->target;
	session->stress.publish = publish_open();
	session->stress.blocks = blocks_open(&session->stress, rest);
	return session->stress.blocks && upkeep_open(&session->stress, rest);
}

static void work(struct session *session, unsigned seconds)
{
	uint64_t end = stress_now() + seconds * UINT64_C(1000000000);

	do {
		stress_step(&session->workers[STRESS_THREADS], "waiting for the workers of a round");
		run_workers(session);
		judge_round(session);
		session->figures->rounds++;
	} while (stress_now() < end && !session->stress.violations);
}

static void report(struct session *session)
{
	session->figures->operations = session->stress.operations;
	session->figures->full_answers = session->stress.full_answers;
	session->figures->torn = session->stress.torn;
	session->figures->violations = session->stress.violations;
}

/* ---- With the library ---- */

static void volume_log(void *context, enum ash_log_level level, const char *text)
{
	struct session *session = context;

	if (level != ASH_LOG_NOTICE)
		stress_violation(&session->stress, "log: %s", text);
}

static void choose_options(struct session *session)
{
	uint64_t seed = session->stress.seed;

	session->stress.full = seed % 3 == 1;
	session->options = (struct ash_open_options){
		.cache_bytes = seed % 7 == 6 ? 4 << 20 : 1 << 20,
		.write_behind_bytes = seed % 4 == 1 ? 0 : 1 << 20,
		.no_write_behind = seed % 5 == 4,
		.discard = seed % 2,
		.sync = seed % 13 == 12,
		.atime = seed % 4 == 2 ? ASH_ATIME_STRICT : ASH_ATIME_RELATIVE,
		.commit_seconds = 1,
		.log = volume_log,
		.context = session,
	};
}

static bool failed(struct session *session, const char *what, int rc, const char *error)
{
	stress_violation(&session->stress, "%s: %s (%s)", what, strerror(-rc), error);
	return false;
}

static bool make_volume(struct session *session)
{
	struct ash_mkfs_options mkfs = { .log_blocks = ASH_LOG_MIN_BLOCKS };
	struct delay_rule slow = { .ops = DELAY_OP(BDEV_WRITE) | DELAY_OP(BDEV_READ) | DELAY_OP(BDEV_FLUSH),
				   .nanoseconds = 100000 };
	char error[BDEV_ERROR_TEXT] = "";
	struct bdev *memory;
	int rc = bdev_open(session->stress.full ? "mem:20M" : "mem:40M", &(struct bdev_open_options){ 0 }, &memory,
			   error);

	if (rc)
		return failed(session, "opening the device", rc, error);
	session->dev = memory;
	rc = delay_open(memory, &session->delay);
	if (rc)
		return failed(session, "delays", rc, "");
	session->dev = session->delay;
	rc = ash_mkfs(session->dev, &mkfs, error);
	if (rc)
		return failed(session, "mkfs", rc, error);
	if (session->stress.seed % 4 == 3)
		delay_set(session->delay, &slow);
	return true;
}

static bool open_volume(struct session *session)
{
	char error[BDEV_ERROR_TEXT] = "";
	struct ash_volume *volume;
	int rc = ash_open(session->dev, &session->options, &volume, error);

	if (!rc)
		rc = target_open_library(&session->target, volume);
	return rc ? failed(session, "opening the volume", rc, error) : true;
}

static void close_volume(struct session *session)
{
	struct ash_check_options check = { .mode = ASH_CHECK_NO, .no_threads = true };
	struct ash_check_result result;
	int rc;

	stress_step(&session->workers[STRESS_THREADS], "closing");
	target_close(&session->target);
	rc = ash_close(session->target.volume);
	if (rc)
		failed(session, "closing the volume", rc, "");
	rc = ash_check(session->dev, &check, &result);
	if (rc || result.problems)
		failed(session, "fsck finds", rc, result.problems ? result.first : result.error);
}

static void run_seed(const struct settings *settings, uint64_t seed, struct figures *figures)
{
	struct session *session = calloc(1, sizeof(*session));

	if (!session)
		abort();
	session->figures = figures;
	session->stress.seed = seed;
	choose_options(session);
	make_workers(session);
	if (make_volume(session) && open_volume(session)) {
		if (prepare(session))
			work(session, settings->seconds);
		blocks_close(&session->stress);
		close_volume(session);
		if (!session->stress.violations && open_volume(session)) {
			blocks_reopen(&session->stress);
			judge_round(session);
			blocks_close(&session->stress);
			close_volume(session);
		}
		free(session->stress.blocks);
		free(session->stress.publish);
		free(session->stress.linked);
	}
	report(session);
	bdev_close(session->dev);
	free_workers(session);
	free(session);
}

static bool run_process(const struct settings *settings, uint64_t seed, struct figures *figures)
{
	int status;
	pid_t child;

	fflush(stdout);
	child = fork();
	if (child == 0) {
		run_seed(settings, seed, figures);
		fflush(stdout);
		/* exit(3) in the child is what makes TSan report what it found. */
		exit(figures->violations ? 1 : 0);
	}
	if (child < 0 || waitpid(child, &status, 0) != child)
		return false;
	if (WIFSIGNALED(status))
		printf("# seed %llu ended by signal %d\n", (unsigned long long)seed, WTERMSIG(status));
	return WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

static int run_library(const struct settings *settings, struct figures *figures)
{
	uint64_t failures = 0, began = stress_now(), index = 0, seeds = settings->last - settings->first + 1;
	struct figures all = { 0 };

	printf("1..%llu\n", (unsigned long long)seeds);
	for (uint64_t seed = settings->first; seed <= settings->last; seed++) {
		memset(figures, 0, sizeof(*figures));
		bool good = run_process(settings, seed, figures);

		failures += !good;
		all.operations += figures->operations;
		all.rounds += figures->rounds;
		all.violations += figures->violations || good ? figures->violations : 1;
		printf("%sok %llu - seed %llu: %llu operations, %llu rounds, %llu times no space, %llu torn reads "
		       "repeated\n",
		       good ? "" : "not ", (unsigned long long)++index, (unsigned long long)seed,
		       (unsigned long long)figures->operations, (unsigned long long)figures->rounds,
		       (unsigned long long)figures->full_answers, (unsigned long long)figures->torn);
		if (!good)
			printf("# again: stress_concurrency --seed %llu --seconds %u\n", (unsigned long long)seed,
			       settings->seconds);
	}
	printf("# campaign concurrency_library: cases %llu, distinct %llu states, violations %llu, skipped 0, seconds "
	       "%llu\n",
	       (unsigned long long)all.operations, (unsigned long long)all.rounds, (unsigned long long)all.violations,
	       (unsigned long long)((stress_now() - began) / 1000000000));
	return failures ? 1 : 0;
}

/* ---- On a mount ---- */

/* An earlier run's files: they are as their names tell, and can be removed. */
static void clear_folders(struct session *session)
{
	struct stress_worker *rest = &session->workers[STRESS_THREADS];
	struct target *target = &session->target;
	struct target_list *list = calloc(1, sizeof(*list));

	publish_verify(rest);
	for (unsigned folder = 0; list && folder < TARGET_FOLDERS; folder++) {
		do {
			stress_went(rest, "list", target->ops->list(target, folder, list));
			for (size_t i = 0; i < list->count; i++) {
				const char *name = list->entries[i].name;
				int rc = target->ops->unlink(target, folder, name, NULL);

				if (rc == -EISDIR)
					rc = target->ops->rmdir(target, folder, name);
				stress_went(rest, "clearing", rc);
			}
		} while (list->count && !session->stress.violations);
	}
	free(list);
}

/* What was removed is free when the kernel has forgotten it, which takes it a moment. */
static void wait_for_room(struct session *session)
{
	struct target *target = &session->target;
	uint64_t free_bytes = 0;

	for (int i = 0; i < 200 && free_bytes < ROOM_BYTES; i++) {
		struct timespec pause = { .tv_nsec = 50000000 };

		target->ops->sync(target);
		target->ops->free_bytes(target, &free_bytes);
		if (free_bytes < ROOM_BYTES)
			nanosleep(&pause, NULL);
	}
	if (free_bytes < ROOM_BYTES)
		stress_violation(&session->stress, "%llu bytes free when all is removed",
				 (unsigned long long)free_bytes);
}

static int run_mount(const struct settings *settings, struct figures *figures)
{
	struct session *session = calloc(1, sizeof(*session));
	int rc;

	if (!session)
		abort();
	session->figures = figures;
	session->stress.seed = settings->first;
	make_workers(session);
	rc = target_open_mount(&session->target, settings->mount);
	if (rc) {
		failed(session, settings->mount, rc, "");
	} else {
		session->stress.target = &session->target;
		clear_folders(session);
		wait_for_room(session);
		session->stress.full = settings->full;
		if (prepare(session))
			work(session, settings->seconds);
		blocks_close(&session->stress);
		free(session->stress.blocks);
		free(session->stress.publish);
		free(session->stress.linked);
		target_close(&session->target);
	}
	report(session);
	printf("figures %llu %llu %llu %llu\n", (unsigned long long)figures->operations,
	       (unsigned long long)figures->rounds, (unsigned long long)figures->violations,
	       (unsigned long long)figures->full_answers);
	rc = figures->violations ? 1 : 0;
	free_workers(session);
	free(session);
	return rc;
}

/* ---- Main ---- */

static void default_sizes(struct settings *settings)
{
	const char *level = getenv("ASHLAR_TEST_LEVEL");
	bool quick = level && !strcmp(level, "quick"),
	     deep = level && (!strcmp(level, "long") || !strcmp(level, "deep"));

	settings->first = 1;
	settings->last = quick ? 4 : deep ? 60 : 24;
	settings->seconds = quick ? 1 : deep ? 5 : 2;
}

int main(int argc, char **argv)
{
	static const struct option options[] = {
		{ "seeds", required_argument, NULL, 's' },   { "seed", required_argument, NULL, 's' },
		{ "seconds", required_argument, NULL, 't' }, { "mount", required_argument, NULL, 'm' },
		{ "full", no_argument, NULL, 'f' },          { 0 }
	};
	struct settings settings = { 0 };
	struct figures *figures;
	char *end;
	int option;

	default_sizes(&settings);
	while ((option = getopt_long(argc, argv, "", options, NULL)) >= 0) {
		switch (option) {
		case 's':
			settings.first = settings.last = strtoull(optarg, &end, 10);
			if (*end == '-')
				settings.last = strtoull(end + 1, NULL, 10);
			break;
		case 't':
			settings.seconds = (unsigned)atoi(optarg);
			break;
		case 'm':
			settings.mount = optarg;
			break;
		case 'f':
			settings.full = true;
			break;
		default:
			fprintf(stderr, "usage: see the source\n");
			return 2;
		}
	}
	figures = mmap(NULL, sizeof(*figures), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (figures == MAP_FAILED)
		return 2;
	return settings.mount ? run_mount(&settings, figures) : run_library(&settings, figures);
}
