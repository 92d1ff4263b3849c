/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The crash explorer: workloads, their crash states, the verdicts. Prints TAP and a line for each campaign.
 *
 * Without --set, ASHLAR_TEST_LEVEL chooses what is done: a part of everything (quick), all scripted workloads and all
 * of one operation (normal), minutes of two operations besides (long), half an hour of them (deep).
 */
#include "campaign.h"
#include "tests/support/level.h"

#include <getopt.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define SCRIPTED_MAX 256u
#define DEEP_BUDGET 1800 /* seconds of two-operation workloads */
#define LONG_BUDGET 120

enum level { LEVEL_QUICK, LEVEL_NORMAL, LEVEL_LONG, LEVEL_DEEP };
enum set { SET_SCRIPTED, SET_ONE, SET_TWO, SET_RANDOM, SET_BESIDE, SET_GROW, SET_COUNT };

static const char *const set_names[SET_COUNT] = { "scripted", "one", "two", "random", "beside", "grow" };

struct arguments {
	enum level level;
	unsigned sets; /* bit per set */
	const char *name, *save, *resume;
	uint64_t seed, from, count;
	unsigned subsets, share, jobs; /* 0: by level */
	double budget;
	bool single, all, stop, trace;
};

/* ---- Scripted workloads: a process for each ---- */

struct run {
	const struct workload *chosen[SCRIPTED_MAX];
	size_t count;
	struct explore_settings settings;
	struct explore_result *results; /* shared with the children */
	pid_t pids[SCRIPTED_MAX];
	unsigned jobs;
};

static bool is_good(const struct explore_result *result, int status)
{
	return status == 0 && !result->broken && !result->violations;
}

static void print_result(size_t number, const struct workload *workload, const struct explore_result *result,
			 int status)
{
	uint64_t texts = result->broken ? 1 : result->violations < 3 ? result->violations : 3;

	for (uint64_t i = 0; i < texts; i++)
		printf("# %s\n", result->text[i]);
	if (WIFSIGNALED(status))
		printf("# %s\n", WTERMSIG(status) == SIGALRM ? "hangs" : strsignal(WTERMSIG(status)));
	printf("%s %zu - crash: %s: %llu operations, %llu writes, %llu flushes, %llu states, %llu in recovery, %llu "
	       "violations, %.1f s\n",
	       is_good(result, status) ? "ok" : "not ok", number, workload->name,
	       (unsigned long long)result->operations, (unsigned long long)result->writes,
	       (unsigned long long)result->flushes, (unsigned long long)result->states,
	       (unsigned long long)result->recovery_states, (unsigned long long)result->violations, result->seconds);
	fflush(stdout);
}

static void start(struct run *run, size_t index)
{
	fflush(stdout);
	run->pids[index] = fork();
	if (run->pids[index] == 0) {
		struct explore_settings settings = run->settings;

		settings.seed = settings.seed * 1000 + index;
		explore(run->chosen[index], &settings, &run->results[index]);
		fflush(stdout);
		_exit(0);
	}
}

static void run_all(struct run *run, struct campaign_result *sum, size_t *number)
{
	size_t next = 0, finished = 0;

	while (finished < run->count) {
		int status;
		pid_t pid;

		while (next < run->count && next - finished < run->jobs) {
			start(run, next);
			next++;
		}
		pid = wait(&status);
		for (size_t i = 0; i < next; i++) {
			const struct explore_result *result = &run->results[i];

			if (run->pids[i] != pid)
				continue;
			finished++;
			print_result(++*number, run->chosen[i], result, status);
			sum->states += result->states;
			sum->recovery_states += result->recovery_states;
			sum->skipped += result->skipped;
			sum->violations += is_good(result, status) || result->violations ? result->violations : 1;
		}
	}
	sum->workloads = run->count;
}

static void choose(struct run *run, const char *name)
{
	const struct workload *workload;

	for (size_t i = 0; (workload = workload_at(i)) && run->count < SCRIPTED_MAX; i++) {
		if (!name || strstr(workload->name, name))
			run->chosen[run->count++] = workload;
	}
}

static bool run_scripted(const struct arguments *arguments, const struct explore_settings *settings,
			 struct campaign_result *sum, size_t *number)
{
	struct run run = { .settings = *settings, .jobs = arguments->jobs };
	struct timespec begin, end;
	size_t length;

	*sum = (struct campaign_result){ 0 };
	choose(&run, arguments->name);
	if (!run.count) {
		fprintf(stderr, "crash_explorer: no workload is called that\n");
		return false;
	}
	length = run.count * sizeof(*run.results);
	run.results = mmap(NULL, length, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (run.results == MAP_FAILED) {
		perror("mmap");
		return false;
	}
	clock_gettime(CLOCK_MONOTONIC, &begin);
	run_all(&run, sum, number);
	clock_gettime(CLOCK_MONOTONIC, &end);
	sum->seconds = (double)(end.tv_sec - begin.tv_sec) + (double)(end.tv_nsec - begin.tv_nsec) / 1e9;
	munmap(run.results, length);
	return true;
}

/* ---- What a level means ---- */

static struct explore_settings settings_for(const struct arguments *arguments, enum set set)
{
	static const unsigned generated_subsets[] = { 8, 24, 100, 100 };
	bool is_long = arguments->level >= LEVEL_LONG, is_quick = arguments->level == LEVEL_QUICK;
	struct explore_settings settings = { .seed = arguments->seed,
					     .subsets = is_long ? 100 : 60,
					     .share = is_long  ? 100 :
						      is_quick ? TEST_QUICK_PART(30) :
								 50,
					     .crowded_share = is_long  ? 100 :
							      is_quick ? TEST_QUICK_PART(15) :
									 25,
					     .recovery_permille = is_long ? 10 : 5,
					     .stop_at_first = arguments->stop,
					     .trace = arguments->trace,
					     .save = arguments->save };

	if (set != SET_SCRIPTED) { /* every state of theirs is judged */
		settings.subsets = generated_subsets[arguments->level];
		settings.share = settings.crowded_share = 100;
		settings.recovery_permille = 10;
	}
	if (arguments->subsets)
		settings.subsets = arguments->subsets;
	if (arguments->share)
		settings.share = settings.crowded_share = arguments->share;
	return settings;
}

static bool run_generated(const struct arguments *arguments, enum set set, const struct explore_settings *settings,
			  struct campaign_result *result, size_t *number)
{
	static const enum generated_set sets[] = {
		[SET_ONE] = GENERATED_ONE,       [SET_TWO] = GENERATED_TWO,     [SET_RANDOM] = GENERATED_RANDOM,
		[SET_BESIDE] = GENERATED_BESIDE, [SET_GROW] = GENERATED_GROWTH,
	};
	static const uint64_t counts[][SET_COUNT] = {
		[LEVEL_QUICK] = { [SET_ONE] = 120, [SET_TWO] = 80, [SET_RANDOM] = 5, [SET_BESIDE] = 6, [SET_GROW] = 4 },
		[LEVEL_NORMAL] = { [SET_TWO] = 400, [SET_RANDOM] = 30, [SET_BESIDE] = 60, [SET_GROW] = 40 },
		[LEVEL_LONG] = { [SET_RANDOM] = 200, [SET_BESIDE] = 400, [SET_GROW] = 150 },
		[LEVEL_DEEP] = { [SET_RANDOM] = 200, [SET_BESIDE] = 400, [SET_GROW] = 150 },
	};
	struct campaign_settings campaign = { .set = sets[set],
					      .explore = *settings,
					      .jobs = arguments->jobs,
					      .from = arguments->from,
					      .resume = arguments->resume,
					      .single = arguments->single };

	campaign.budget = arguments->budget;
	if (set == SET_TWO && !campaign.budget && arguments->level >= LEVEL_LONG)
		campaign.budget = arguments->level == LEVEL_LONG ? LONG_BUDGET : DEEP_BUDGET;
	campaign.count = arguments->count || campaign.budget ? arguments->count : counts[arguments->level][set];
	if (arguments->all) {
		campaign.count = 0;
		campaign.budget = 0;
	}
	return campaign_run(&campaign, result, number);
}

/* ---- Command line ---- */

static int usage(FILE *to, int code)
{
	fprintf(to, "usage: crash_explorer [--set scripted|one|two|random|beside|grow]... [options]\n"
		    "  --list             names of the scripted workloads, sizes of the sets\n"
		    "  --workload NAME    scripted workloads with this in their name\n"
		    "  --index N          this workload of the set alone\n"
		    "  --from N           begin at this position of the order\n"
		    "  --count N          so many positions\n"
		    "  --budget SECONDS   so long\n"
		    "  --all              the whole set, whatever the level says\n"
		    "  --resume FILE      go on where the last run with this file stopped\n"
		    "  --seed N           of order, subsets and tears\n"
		    "  --subsets N        distinct subsets and tears for each window\n"
		    "  --share PERCENT    of the states are judged\n"
		    "  --jobs N           processes\n"
		    "  --stop             each workload ends at its first violation\n"
		    "  --trace            print the operations\n"
		    "  --save FOLDER      keep the images of violations\n");
	return code;
}

static int list(void)
{
	const struct workload *workload;

	for (size_t i = 0; (workload = workload_at(i)); i++)
		printf("%s\n", workload->name);
	printf("# generated, one operation: %llu; two operations: %llu; random, beside, grow: %llu\n",
	       (unsigned long long)generated_size(GENERATED_ONE), (unsigned long long)generated_size(GENERATED_TWO),
	       (unsigned long long)generated_size(GENERATED_RANDOM));
	return 0;
}

static enum level level_of(const char *name)
{
	return !name                  ? LEVEL_NORMAL :
	       !strcmp(name, "quick") ? LEVEL_QUICK :
	       !strcmp(name, "long")  ? LEVEL_LONG :
	       !strcmp(name, "deep")  ? LEVEL_DEEP :
					LEVEL_NORMAL;
}

static bool add_set(struct arguments *arguments, const char *name)
{
	for (unsigned i = 0; i < SET_COUNT; i++) {
		if (!strcmp(set_names[i], name)) {
			arguments->sets |= 1u << i;
			return true;
		}
	}
	return false;
}

static bool set_argument(struct arguments *arguments, int option, const char *value)
{
	switch (option) {
	case 'g':
		return add_set(arguments, value);
	case 'w':
		arguments->name = value;
		return add_set(arguments, "scripted");
	case 'i':
		arguments->single = true;
		arguments->from = strtoull(value, NULL, 10);
		return true;
	case 'f':
		arguments->from = strtoull(value, NULL, 10);
		return true;
	case 'c':
		arguments->count = strtoull(value, NULL, 10);
		return true;
	case 'b':
		arguments->budget = strtod(value, NULL);
		return true;
	case 'a':
		return arguments->all = true;
	case 'r':
		arguments->resume = value;
		return true;
	case 's':
		arguments->seed = strtoull(value, NULL, 10);
		return true;
	case 'n':
		arguments->subsets = (unsigned)strtoul(value, NULL, 10);
		return true;
	case 'p':
		arguments->share = (unsigned)strtoul(value, NULL, 10);
		return true;
	case 'j':
		arguments->jobs = (unsigned)strtoul(value, NULL, 10);
		return arguments->jobs > 0;
	case 'x':
		return arguments->stop = true;
	case 't':
		return arguments->trace = true;
	case 'S':
		arguments->save = value;
		return true;
	default:
		return false;
	}
}

/* One set only can be told where to begin. */
static bool makes_sense(const struct arguments *arguments)
{
	bool one_set = arguments->sets && !(arguments->sets & (arguments->sets - 1));

	return one_set || (!arguments->single && !arguments->from && !arguments->resume);
}

static int run_sets(const struct arguments *arguments)
{
	size_t number = 0;
	uint64_t violations = 0;

	for (unsigned set = 0; set < SET_COUNT; set++) {
		struct explore_settings settings = settings_for(arguments, set);
		struct campaign_result result;
		char name[32];

		if (!(arguments->sets >> set & 1))
			continue;
		if (!(set == SET_SCRIPTED ? run_scripted(arguments, &settings, &result, &number) :
					    run_generated(arguments, set, &settings, &result, &number))) {
			printf("Bail out! the campaign could not run\n");
			return 2;
		}
		snprintf(name, sizeof(name), "crash-%s", set_names[set]);
		campaign_line(name, &result);
		violations += result.violations;
	}
	printf("1..%zu\n", number);
	return violations != 0;
}

int main(int argc, char **argv)
{
	static const struct option options[] = {
		{ "list", no_argument, NULL, 'l' },           { "set", required_argument, NULL, 'g' },
		{ "workload", required_argument, NULL, 'w' }, { "index", required_argument, NULL, 'i' },
		{ "from", required_argument, NULL, 'f' },     { "count", required_argument, NULL, 'c' },
		{ "budget", required_argument, NULL, 'b' },   { "all", no_argument, NULL, 'a' },
		{ "resume", required_argument, NULL, 'r' },   { "seed", required_argument, NULL, 's' },
		{ "subsets", required_argument, NULL, 'n' },  { "share", required_argument, NULL, 'p' },
		{ "jobs", required_argument, NULL, 'j' },     { "stop", no_argument, NULL, 'x' },
		{ "trace", no_argument, NULL, 't' },          { "save", required_argument, NULL, 'S' },
		{ "help", no_argument, NULL, 'h' },           { 0 },
	};
	struct arguments arguments = { .seed = 1, .level = level_of(getenv("ASHLAR_TEST_LEVEL")) };
	long processors = sysconf(_SC_NPROCESSORS_ONLN);
	int c;

	arguments.jobs = processors < 1 ? 1 : processors > 32 ? 32 : (unsigned)processors;
	while ((c = getopt_long(argc, argv, "h", options, NULL)) != -1) {
		if (c == 'l')
			return list();
		if (c == 'h')
			return usage(stdout, 0);
		if (!set_argument(&arguments, c, optarg))
			return usage(stderr, 2);
	}
	if (optind != argc || !makes_sense(&arguments))
		return usage(stderr, 2);
	if (!arguments.sets)
		arguments.sets = (1u << SET_COUNT) - 1;
	return run_sets(&arguments);
}
