/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The proof that the explorer sees defects: the core is built with planted ones (fs/plant.h), one is switched on at a
 * time, and a scripted workload and a generated one must report a violation. A plant that is not seen fails the test:
 * the explorer must be mended.
 *
 * crash_plants [--plant N] [--all]      (--all: go on after the first violation, to see how many workloads find it)
 *
 * Each run is a process of its own: a planted defect may also crash or hang, which counts as seen.
 */
#include "campaign.h"

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
	const char *workloads[8];     /* likely ones first; then all others */
	enum generated_set generated; /* the same for generated ones */
} plants[] = {
	{ ASH_PLANT_LOG_AFTER_HOME,
	  "log written after home",
	  { "checkpoints", "log wrap-around", "big directory" },
	  GENERATED_ONE },
	{ ASH_PLANT_NO_DATA_FLUSH,
	  "missing flush before log",
	  { "append", "hole writes", "many small files" },
	  GENERATED_ONE },
	{ ASH_PLANT_NO_REVOKE,
	  "missing revoke",
	  { "reuse on a full", "reuse: metadata", "fragmented" },
	  GENERATED_RANDOM },
	{ ASH_PLANT_EARLY_REUSE,
	  "early reuse of freed blocks",
	  { "reuse: data", "reuse on a full", "truncation chain" },
	  GENERATED_RANDOM },
	{ ASH_PLANT_TAIL_EARLY, "tail advanced too early", { "checkpoints", "log wrap-around" }, GENERATED_ONE },
	{ ASH_PLANT_NO_TAIL_ZERO, "missing tail zeroing", { "truncate and grow", "truncate up" }, GENERATED_ONE },
	{ ASH_PLANT_RENAME_SPLIT, "rename not atomic", { "rename over", "replace by rename" }, GENERATED_ONE },
	{ ASH_PLANT_NO_ORPHAN, "orphan not recorded", { "orphans", "deletion chain", "O_TMPFILE" }, GENERATED_ONE },
	{ ASH_PLANT_TAIL_OVER_FREED, "tail over freed metadata", { "checkpoints beside" }, GENERATED_BESIDE },
	{ ASH_PLANT_GROW_NO_FLUSH, "growth: missing flush before the size", { "grow over" }, GENERATED_GROWTH },
	{ ASH_PLANT_GROW_BITMAP, "growth: bitmap behind the size", { "grow over" }, GENERATED_GROWTH },
	{ ASH_PLANT_GROW_BACKUPS,
	  "growth: old backups before the size",
	  { "grow within the second" },
	  GENERATED_GROWTH },
	{ ASH_PLANT_GROW_UNLOGGED, "growth: ends before it is durable", { "grow over" }, GENERATED_GROWTH },
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

	const struct workload *workload;

	for (size_t i = 0; (workload = workload_at(i)) && (all || !seen); i++) {
		if (is_likely(plant, workload) != likely || !explore_planted(plant, workload))
			continue;
		seen++;
		printf("# seen by \"%s\": %s\n", workload->name, shared->text[0]);
	}
	return seen;
}

/* ---- Generated workloads ---- */

/* Sizes of the search, in the order of the sets: the one-operation set is searched whole. */
static const struct search {
	enum generated_set set;
	const char *name;
	uint64_t count; /* 0: all */
} searches[] = {
	{ GENERATED_ONE, "of one operation", 0 }, { GENERATED_TWO, "of two operations", 1000 },
	{ GENERATED_RANDOM, "random", 200 },      { GENERATED_BESIDE, "beside chores", 2000 },
	{ GENERATED_GROWTH, "that grow", 500 },
};
#define SEARCH_COUNT (sizeof(searches) / sizeof(*searches))

static struct campaign_result *found;

static bool search_planted(const struct plant *plant, const struct search *search, bool all)
{
	struct campaign_settings settings = { .set = search->set, .jobs = 2, .first_only = !all, .quiet = true };
	int status;
	pid_t pid;

	settings.explore = (struct explore_settings){
		.seed = 1, .subsets = 40, .share = 100, .crowded_share = 100, .stop_at_first = true
	};
	settings.count = search->count;
	memset(found, 0, sizeof(*found));
	fflush(stdout);
	pid = fork();
	if (pid == 0) {
		ash_plant = (int)plant->kind;
		_exit(campaign_run(&settings, found, NULL) ? 0 : 1);
	}
	waitpid(pid, &status, 0);
	return status != 0 || found->violations;
}

static bool hunt_generated(const struct plant *plant, bool all)
{
	bool seen = false;

	for (size_t turn = 0; turn < SEARCH_COUNT && (all || !seen); turn++) {
		size_t i = (plant->generated + turn) % SEARCH_COUNT;

		if (!search_planted(plant, &searches[i], all))
			continue;
		seen = true;
		if (all)
			printf("# seen by %llu of %llu workloads %s\n", (unsigned long long)found->bad,
			       (unsigned long long)found->workloads, searches[i].name);
		else
			printf("# seen by the %lluth workload %s\n", (unsigned long long)found->workloads,
			       searches[i].name);
	}
	return seen;
}

/* ---- The whole of it ---- */

/* Without a plant the same build must find nothing, else nothing is proved. */
static bool is_quiet(void)
{
	const struct plant none = { .kind = ASH_PLANT_NONE };
	static const char *const names[] = { "checkpoints",
					     "append",
					     "rename over",
					     "orphans",
					     "truncate and grow: zeroes",
					     "grow within the second group" };
	const struct workload *workload;
	bool quiet = true;

	for (size_t i = 0; (workload = workload_at(i)); i++) {
		for (size_t j = 0; j < sizeof(names) / sizeof(*names); j++) {
			if (!strcmp(names[j], workload->name) && explore_planted(&none, workload)) {
				printf("# \"%s\": %s\n", names[j], shared->text[0]);
				quiet = false;
			}
		}
	}
	for (size_t i = 0; i < SEARCH_COUNT; i++) {
		struct search part = searches[i];

		part.count = generated_is_random(part.set) ? 5 : 150;
		quiet = quiet && !search_planted(&none, &part, false);
	}
	return quiet;
}

static void *share(size_t size)
{
	void *memory = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);

	return memory == MAP_FAILED ? NULL : memory;
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
	shared = share(sizeof(*shared));
	found = share(sizeof(*found));
	if (!shared || !found)
		return 2;
	printf("1..%zu\n", only ? 3 : 2 * PLANT_COUNT + 1);
	printf("%s 1 - nothing is seen where nothing is planted\n", is_quiet() ? "ok" : (failures++, "not ok"));
	for (size_t i = 0; i < PLANT_COUNT; i++) {
		unsigned seen;
		bool generated;

		if (only && plants[i].kind != only)
			continue;
		seen = hunt(&plants[i], true, all);
		if (!seen || all)
			seen += hunt(&plants[i], false, all);
		printf("%s %zu - planted defect: %s: scripted workloads\n", seen ? "ok" : "not ok",
		       only ? 2 : 2 * i + 2, plants[i].name);
		generated = hunt_generated(&plants[i], all);
		printf("%s %zu - planted defect: %s: generated workloads\n", generated ? "ok" : "not ok",
		       only ? 3 : 2 * i + 3, plants[i].name);
		failures += !seen + !generated;
	}
	return failures ? 1 : 0;
}
