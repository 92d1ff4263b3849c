/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The crash explorer: workloads, their crash states, the verdicts. Prints TAP and a table.
 *
 * crash_explorer [--list] [--workload NAME] [--seed N] [--subsets N] [--share PERCENT] [--jobs N] [--stop] [--trace]
 *                [--save FOLDER]
 *
 * Each workload runs in a process of its own. ASHLAR_TEST_LEVEL=long makes more states and
 * judges all; quick judges a seeded share of those of crowded workloads.
 */
#include "explore.h"

#include <getopt.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

struct run {
	const struct workload *chosen[512];
	size_t count;
	struct explore_settings settings;
	struct explore_result *results; /* shared with the children */
	pid_t pids[512];
	unsigned jobs;
};

static void print_result(size_t number, const struct workload *workload, const struct explore_result *result,
			 int status)
{
	bool good = status == 0 && !result->broken && !result->violations;
	uint64_t texts = result->broken ? 1 : result->violations < 3 ? result->violations : 3;

	for (uint64_t i = 0; i < texts; i++)
		printf("# %s\n", result->text[i]);
	if (WIFSIGNALED(status))
		printf("# %s\n", WTERMSIG(status) == SIGALRM ? "hangs" : strsignal(WTERMSIG(status)));
	printf("%s %zu - crash: %s: %llu operations, %llu writes, %llu flushes, %llu states, %llu in recovery, %llu "
	       "violations, %.1f s\n",
	       good ? "ok" : "not ok", number, workload->name, (unsigned long long)result->operations,
	       (unsigned long long)result->writes, (unsigned long long)result->flushes,
	       (unsigned long long)result->states, (unsigned long long)result->recovery_states,
	       (unsigned long long)result->violations, result->seconds);
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
		_exit(0);
	}
}

static int run_all(struct run *run)
{
	size_t next = 0, finished = 0, bad = 0;

	printf("1..%zu\n", run->count);
	while (finished < run->count) {
		int status;
		pid_t pid;

		while (next < run->count && next - finished < run->jobs) {
			start(run, next);
			next++;
		}
		pid = wait(&status);
		for (size_t i = 0; i < next; i++) {
			if (run->pids[i] != pid)
				continue;
			print_result(++finished, run->chosen[i], &run->results[i], status);
			bad += status != 0 || run->results[i].broken || run->results[i].violations;
		}
	}
	return bad != 0;
}

static void print_summary(const struct run *run, double seconds)
{
	uint64_t states = 0, recovery = 0, skipped = 0, violations = 0, operations = 0, writes = 0;

	for (size_t i = 0; i < run->count; i++) {
		operations += run->results[i].operations;
		writes += run->results[i].writes;
		states += run->results[i].states;
		recovery += run->results[i].recovery_states;
		skipped += run->results[i].skipped;
		violations += run->results[i].violations;
	}
	printf("# workloads %zu, operations %llu, device writes %llu\n", run->count, (unsigned long long)operations,
	       (unsigned long long)writes);
	printf("# distinct states judged %llu, of crashes during recovery %llu more, made but left out by --share "
	       "%llu\n",
	       (unsigned long long)states, (unsigned long long)recovery, (unsigned long long)skipped);
	printf("# violations %llu, time %.1f s\n", (unsigned long long)violations, seconds);
}

static void choose(struct run *run, const char *name)
{
	for (size_t i = 0; i < scripted_workload_count && run->count < 512; i++) {
		if (!name || strstr(scripted_workloads[i].name, name))
			run->chosen[run->count++] = &scripted_workloads[i];
	}
}

static int usage(FILE *to, int code)
{
	fprintf(to,
		"usage: crash_explorer [--list] [--workload PART-OF-NAME] [--seed N] [--subsets N] [--share PERCENT]\n"
		"                      [--jobs N] [--stop] [--trace] [--save FOLDER]\n");
	return code;
}

static int list(void)
{
	for (size_t i = 0; i < scripted_workload_count; i++)
		printf("%s\n", scripted_workloads[i].name);
	return 0;
}

int main(int argc, char **argv)
{
	static const struct option options[] = {
		{ "list", no_argument, NULL, 'l' },
		{ "workload", required_argument, NULL, 'w' },
		{ "seed", required_argument, NULL, 's' },
		{ "subsets", required_argument, NULL, 'n' },
		{ "share", required_argument, NULL, 'p' },
		{ "jobs", required_argument, NULL, 'j' },
		{ "stop", no_argument, NULL, 'x' },
		{ "trace", no_argument, NULL, 't' },
		{ "save", required_argument, NULL, 'S' },
		{ "help", no_argument, NULL, 'h' },
		{ 0 },
	};
	const char *level = getenv("ASHLAR_TEST_LEVEL"), *name = NULL;
	bool is_long = level && !strcmp(level, "long");
	static struct run run;
	struct timespec begin, end;
	int c, code;

	run.jobs = 2;
	run.settings = (struct explore_settings){ .seed = 1,
						  .subsets = 60,
						  .share = is_long ? 100 : 50,
						  .crowded_share = is_long ? 100 : 25,
						  .recovery_permille = is_long ? 10 : 5 };
	while ((c = getopt_long(argc, argv, "h", options, NULL)) != -1) {
		switch (c) {
		case 'l':
			return list();
		case 'w':
			name = optarg;
			break;
		case 's':
			run.settings.seed = strtoull(optarg, NULL, 10);
			break;
		case 'n':
			run.settings.subsets = (unsigned)strtoul(optarg, NULL, 10);
			break;
		case 'p':
			run.settings.share = run.settings.crowded_share = (unsigned)strtoul(optarg, NULL, 10);
			break;
		case 'j':
			run.jobs = (unsigned)strtoul(optarg, NULL, 10);
			break;
		case 'x':
			run.settings.stop_at_first = true;
			break;
		case 't':
			run.settings.trace = true;
			break;
		case 'S':
			run.settings.save = optarg;
			break;
		case 'h':
			return usage(stdout, 0);
		default:
			return usage(stderr, 2);
		}
	}
	choose(&run, name);
	if (!run.count || !run.jobs)
		return usage(stderr, 2);
	run.results =
		mmap(NULL, run.count * sizeof(*run.results), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (run.results == MAP_FAILED) {
		perror("mmap");
		return 2;
	}
	clock_gettime(CLOCK_MONOTONIC, &begin);
	code = run_all(&run);
	clock_gettime(CLOCK_MONOTONIC, &end);
	print_summary(&run, (double)(end.tv_sec - begin.tv_sec) + (double)(end.tv_nsec - begin.tv_nsec) / 1e9);
	return code;
}
