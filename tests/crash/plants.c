/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The proof that the explorer sees defects: the core is built with planted ones (fs/plant.h), one is switched on at a
 * time, and a workload must report a violation. A plant that is not seen fails the test: the explorer must be mended.
 *
 * crash_plants [--plant N] [--all]      (--all: go on after the first violation, to see how many workloads find it)
 *
 * Each run is a process of its own: a planted defect may also crash or hang, which counts as seen.
 */
#include "explore.h"

#include <fs/plant.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

int ash_plant;

static const struct plant {
	enum ash_plant_kind kind;
	const char *name;
	const char *workloads[8]; /* likely ones first; then all others */
} plants[] = {
	{ ASH_PLANT_LOG_AFTER_HOME, "log written after home", { "checkpoints", "log wrap-around", "big directory" } },
	{ ASH_PLANT_NO_DATA_FLUSH, "missing flush before log", { "append", "hole writes", "many small files" } },
	{ ASH_PLANT_NO_REVOKE, "missing revoke", { "reuse on a full", "reuse: metadata", "fragmented" } },
	{ ASH_PLANT_EARLY_REUSE,
	  "early reuse of freed blocks",
	  { "reuse: data", "reuse on a full", "truncation chain" } },
	{ ASH_PLANT_TAIL_EARLY, "tail advanced too early", { "checkpoints", "log wrap-around" } },
	{ ASH_PLANT_NO_TAIL_ZERO, "missing tail zeroing", { "truncate and grow", "truncate up" } },
	{ ASH_PLANT_RENAME_SPLIT, "rename not atomic", { "rename over", "replace by rename" } },
	{ ASH_PLANT_NO_ORPHAN, "orphan not recorded", { "orphans", "deletion chain", "O_TMPFILE" } },
};
#define PLANT_COUNT (sizeof(plants) / sizeof(*plants))

static struct explore_result *shared;

/* True: the defect was seen. */
static bool explore_planted(const struct plant *plant, const struct workload *workload)
{
	struct explore_settings settings = {
		.seed = 1, .subsets = 60, .share = 100, .crowded_share = 30, .stop_at_first = true
	};
	int status;
	pid_t pid;

	fflush(stdout);
	pid = fork();
	if (pid == 0) {
		ash_plant = (int)plant->kind;
		explore(workload, &settings, shared);
		_exit(0);
	}
	waitpid(pid, &status, 0);
	return status != 0 || shared->broken || shared->violations;
}

static bool is_likely(const struct plant *plant, const struct workload *workload)
{
	for (size_t i = 0; i < 8 && plant->workloads[i]; i++) {
		if (strstr(workload->name, plant->workloads[i]))
			return true;
	}
	return false;
}

/* How many workloads saw it; stops at the first unless `all`. */
static unsigned hunt(const struct plant *plant, bool likely, bool all)
{
	unsigned seen = 0;

	for (size_t i = 0; i < scripted_workload_count && (all || !seen); i++) {
		const struct workload *workload = &scripted_workloads[i];

		if (is_likely(plant, workload) != likely || !explore_planted(plant, workload))
			continue;
		seen++;
		printf("# seen by \"%s\": %s\n", workload->name, shared->text[0]);
	}
	return seen;
}

/* Without a plant the same build must find nothing, else nothing is proved. */
static bool is_quiet(void)
{
	const struct plant none = { .kind = ASH_PLANT_NONE };
	static const char *const names[] = { "checkpoints", "append", "rename over", "orphans",
					     "truncate and grow: zeroes" };
	bool quiet = true;

	for (size_t i = 0; i < scripted_workload_count; i++) {
		for (size_t j = 0; j < sizeof(names) / sizeof(*names); j++) {
			if (!strcmp(names[j], scripted_workloads[i].name) &&
			    explore_planted(&none, &scripted_workloads[i])) {
				printf("# \"%s\": %s\n", names[j], shared->text[0]);
				quiet = false;
			}
		}
	}
	return quiet;
}

int main(int argc, char **argv)
{
	static const struct option options[] = {
		{ "plant", required_argument, NULL, 'p' },
		{ "all", no_argument, NULL, 'a' },
		{ 0 },
	};
	unsigned only = 0, failures = 0;
	bool all = false;
	int c;

	while ((c = getopt_long(argc, argv, "", options, NULL)) != -1) {
		if (c == 'p')
			only = (unsigned)strtoul(optarg, NULL, 10);
		else if (c == 'a')
			all = true;
		else
			return 2;
	}
	shared = mmap(NULL, sizeof(*shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (shared == MAP_FAILED)
		return 2;
	printf("1..%zu\n", only ? 2 : PLANT_COUNT + 1);
	printf("%s 1 - nothing is seen where nothing is planted\n", is_quiet() ? "ok" : (failures++, "not ok"));
	for (size_t i = 0; i < PLANT_COUNT; i++) {
		unsigned seen;

		if (only && plants[i].kind != only)
			continue;
		seen = hunt(&plants[i], true, all);
		if (!seen || all)
			seen += hunt(&plants[i], false, all);
		failures += !seen;
		printf("%s %zu - planted defect: %s\n", seen ? "ok" : "not ok", only ? 2 : i + 2, plants[i].name);
	}
	return failures ? 1 : 0;
}
