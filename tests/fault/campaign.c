/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The fault campaigns on the library. Prints TAP.
 *
 * fault_campaign KIND [--list] [--workload PART-OF-NAME] [--seed N] [--share PERCENT] [--jobs N]
 *                [--workload NAME --point N --variant N]
 * KIND: fault_read fault_write fault_flush fault_short fault_enospc enomem
 *
 * Each workload runs in a process of its own, each fault in a child of it (inject.h). With --point one fault is done in the process
 * itself, for a debugger. ASHLAR_TEST_LEVEL=quick takes some of the workloads and a seeded share of their points; any other level all.
 */
#include "subject.h"

#include <errno.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define WORKLOADS_MAX 256

struct campaign {
	enum inject_kind kind;
	const struct fault_workload *chosen[WORKLOADS_MAX];
	size_t count;
	struct inject_results *results; /* shared */
	pid_t pids[WORKLOADS_MAX];
	uint64_t seed, point;
	unsigned share, jobs, variant, stride;
	bool trace;
};

static bool is_good(const struct inject_results *results, int status)
{
	return !status && !results->broken && !results->violations;
}

static void print_result(const struct campaign *c, size_t index, size_t number, int status)
{
	const struct inject_results *results = &c->results[index];
	const char *name = c->chosen[index]->base.name;
	uint64_t texts = results->broken ? 1 : results->violations < INJECT_TEXTS ? results->violations : INJECT_TEXTS;

	for (uint64_t i = 0; i < texts; i++)
		printf("# %s --workload '%s' --seed %llu %s\n", inject_name(c->kind), name, (unsigned long long)c->seed,
		       results->text[i]);
	if (status)
		printf("# %s: the run without faults ended with status 0x%x\n", name, status);
	printf("%s %zu - %s: %s: %llu points, %llu cases, %llu skipped, %llu violations\n",
	       is_good(results, status) ? "ok" : "not ok", number, inject_name(c->kind), name,
	       (unsigned long long)results->points, (unsigned long long)results->cases,
	       (unsigned long long)results->skipped, (unsigned long long)results->violations);
	fflush(stdout);
}

static void work(struct campaign *c, size_t index)
{
	struct injector in = { .kind = c->kind,
			       .only_point = c->point,
			       .only_variant = c->variant,
			       .share = c->share,
			       .also = index,
			       .trace = c->trace,
			       .results = &c->results[index] };

	generator_init(&in.random, c->seed * 1000 + index);
	if (c->chosen[index]->special)
		checked_run(c->chosen[index], &in);
	else
		subject_run(c->chosen[index], &in);
}

static void start(struct campaign *c, size_t index)
{
	fflush(stdout);
	c->pids[index] = fork();
	if (c->pids[index] == 0) {
		work(c, index);
		_exit(0);
	}
}

static size_t run_all(struct campaign *c)
{
	size_t next = 0, finished = 0, bad = 0;

	while (finished < c->count) {
		int status;
		pid_t pid;

		for (; next < c->count && next - finished < c->jobs; next++)
			start(c, next);
		pid = wait(&status);
		for (size_t i = 0; pid > 0 && i < next; i++) {
			if (c->pids[i] != pid)
				continue;
			print_result(c, i, ++finished, status);
			bad += !is_good(&c->results[i], status);
		}
	}
	return bad;
}

static void print_summary(const struct campaign *c, double seconds)
{
	uint64_t cases = 0, points = 0, skipped = 0, violations = 0;

	for (size_t i = 0; i < c->count; i++) {
		cases += c->results[i].cases;
		points += c->results[i].points;
		skipped += c->results[i].skipped;
		violations += c->results[i].violations + c->results[i].broken;
	}
	printf("# campaign %s: cases %llu, distinct %llu faults, violations %llu, skipped %llu, seconds %.0f\n",
	       inject_name(c->kind), (unsigned long long)cases, (unsigned long long)points,
	       (unsigned long long)violations, (unsigned long long)skipped, seconds);
}

static void choose(struct campaign *c, const char *name)
{
	size_t count = 0;
	const struct fault_workload *all = fault_workloads(&count);

	for (size_t i = 0; i < count && c->count < WORKLOADS_MAX; i++) {
		bool exact = c->point != UINT64_MAX;

		if (all[i].special && c->kind != INJECT_ENOMEM)
			continue;
		if (!name && i % c->stride != c->kind % c->stride)
			continue;
		if (!name || (exact ? !strcmp(all[i].base.name, name) : strstr(all[i].base.name, name) != NULL))
			c->chosen[c->count++] = &all[i];
	}
}

static int usage(FILE *to, int code)
{
	fprintf(to, "usage: fault_campaign KIND [--list] [--workload PART-OF-NAME] [--seed N] [--share PERCENT]\n"
		    "                      [--jobs N] [--workload NAME --point N --variant N]\n"
		    "KIND: fault_read fault_write fault_flush fault_short fault_enospc enomem\n");
	return code;
}

static int list(struct campaign *c)
{
	choose(c, NULL);
	for (size_t i = 0; i < c->count; i++)
		printf("%s\n", c->chosen[i]->base.name);
	return 0;
}

static bool choose_kind(struct campaign *c, const char *name)
{
	for (unsigned kind = 0; kind < INJECT_KINDS; kind++) {
		if (name && !strcmp(inject_name(kind), name)) {
			c->kind = kind;
			return true;
		}
	}
	return false;
}

static int run_campaign(struct campaign *c)
{
	const struct rlimit no_core = { 0, 0 };
	struct timespec begin, end;
	size_t bad = 0;

	c->results =
		mmap(NULL, c->count * sizeof(*c->results), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (c->results == MAP_FAILED) {
		perror("mmap");
		return 2;
	}
	setrlimit(RLIMIT_CORE, &no_core);
	prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0); /* a child that writes a byte would copy 2 MiB */
	clock_gettime(CLOCK_MONOTONIC, &begin);
	printf("1..%zu\n", c->count);
	if (c->point != UINT64_MAX) {
		work(c, 0);
		print_result(c, 0, 1, 0);
		bad = !is_good(&c->results[0], 0);
	} else {
		bad = run_all(c);
	}
	clock_gettime(CLOCK_MONOTONIC, &end);
	print_summary(c, (double)(end.tv_sec - begin.tv_sec) + (double)(end.tv_nsec - begin.tv_nsec) / 1e9);
	return bad != 0;
}

int main(int argc, char **argv)
{
	static const struct option options[] = {
		{ "list", no_argument, NULL, 'l' },          { "workload", required_argument, NULL, 'w' },
		{ "seed", required_argument, NULL, 's' },    { "share", required_argument, NULL, 'p' },
		{ "jobs", required_argument, NULL, 'j' },    { "point", required_argument, NULL, 'n' },
		{ "variant", required_argument, NULL, 'v' }, { "help", no_argument, NULL, 'h' },
		{ "trace", no_argument, NULL, 't' },         { 0 },
	};
	const char *level = getenv("ASHLAR_TEST_LEVEL"), *name = NULL;
	static struct campaign c = { .seed = 1, .jobs = 2, .share = 100, .stride = 1, .point = UINT64_MAX };
	bool listing = false;
	int option;

	if (level && !strcmp(level, "quick")) {
		c.share = 4;
		c.stride = 5;
	}
	while ((option = getopt_long(argc, argv, "h", options, NULL)) != -1) {
		switch (option) {
		case 'l':
			listing = true;
			break;
		case 'w':
			name = optarg;
			c.stride = 1;
			break;
		case 's':
			c.seed = strtoull(optarg, NULL, 10);
			break;
		case 'p':
			c.share = (unsigned)strtoul(optarg, NULL, 10);
			break;
		case 'j':
			c.jobs = (unsigned)strtoul(optarg, NULL, 10);
			break;
		case 'n':
			c.point = strtoull(optarg, NULL, 10);
			break;
		case 'v':
			c.variant = (unsigned)strtoul(optarg, NULL, 10);
			break;
		case 't':
			c.trace = true;
			break;
		case 'h':
			return usage(stdout, 0);
		default:
			return usage(stderr, 2);
		}
	}
	if (listing)
		return list(&c);
	if (optind + 1 != argc || !choose_kind(&c, argv[optind]))
		return usage(stderr, 2);
	choose(&c, name);
	if (!c.count || !c.jobs)
		return usage(stderr, 2);
	return run_campaign(&c);
}
