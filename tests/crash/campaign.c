/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Running a campaign: see campaign.h. What processes share is one mapping of counters, changed by atomic additions;
 * each position belongs to the process that took it.
 */
#include "campaign.h"

#include <errno.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define JOBS_MAX 64u
#define GROUPS_MAX 64u
#define PRINTED_MAX 40u
#define SAVE_SECONDS 10
#define IDLE UINT64_MAX
#define KNOWN_STATES (1u << 25) /* slots; memory is used as they fill */

static const char *const set_names[GENERATED_SETS] = { "one operation", "two operations", "random operations",
						       "operations beside chores", "operations and growths" };
static const char *const set_options[GENERATED_SETS] = { "one", "two", "random", "beside", "grow" };

struct tally {
	uint64_t workloads, invalid, bad, states, repeated, recovery_states, skipped, violations;
};

struct shared {
	uint64_t next; /* position */
	uint64_t current[JOBS_MAX];
	uint64_t bad; /* workloads with violations */
	struct tally groups[GROUPS_MAX];
};

struct campaign {
	const struct campaign_settings *settings;
	struct stage *stage;
	struct seen known;
	struct shared *shared;
	pid_t pids[JOBS_MAX];
	unsigned alive;
	uint64_t size, end;
	const char *groups[GROUPS_MAX];
	unsigned group_count;
	double began;
	double saved;
};

static double now(void)
{
	struct timespec time;

	clock_gettime(CLOCK_MONOTONIC, &time);
	return (double)time.tv_sec + (double)time.tv_nsec / 1e9;
}

/* Four rounds of a Feistel network over the next even power of two; what falls outside goes round again. */
uint64_t campaign_permute(uint64_t position, uint64_t size, uint64_t seed)
{
	unsigned half = 1;
	uint64_t mask;

	while (1ull << 2 * half < size)
		half++;
	mask = (1ull << half) - 1;
	do {
		uint64_t left = position >> half, right = position & mask;

		for (unsigned round = 0; round < 4; round++) {
			uint64_t next = left ^ (seen_mix(seed * 4 + round, right) & mask);

			left = right;
			right = next;
		}
		position = left << half | right;
	} while (position >= size);
	return position;
}

/* ---- Groups ---- */

static unsigned group_of(struct campaign *c, const char *name)
{
	unsigned i = 0;

	while (i < c->group_count && strcmp(c->groups[i], name))
		i++;
	if (i == c->group_count && c->group_count < GROUPS_MAX)
		c->groups[c->group_count++] = name;
	return i < GROUPS_MAX ? i : GROUPS_MAX - 1;
}

static void name_groups(struct campaign *c)
{
	for (size_t i = 0; !generated_is_random(c->settings->set) && i < generated_step_count; i++)
		group_of(c, generated_steps[i].group);
	if (generated_is_random(c->settings->set))
		group_of(c, "random operations");
}

static struct tally *tally_of(struct campaign *c, const struct generated *generated)
{
	return &c->shared->groups[group_of(c, generated->count ? generated->steps[0]->group : "random operations")];
}

static void add(uint64_t *counter, uint64_t value)
{
	__atomic_add_fetch(counter, value, __ATOMIC_RELAXED);
}

/* ---- Workloads ---- */

static uint64_t index_at(const struct campaign *c, uint64_t position)
{
	if (c->settings->single)
		return position;
	return campaign_permute(position, c->size, c->settings->explore.seed);
}

static void report(struct campaign *c, const struct generated *generated, const char *text)
{
	char what[600];

	add(&tally_of(c, generated)->bad, 1);
	if (__atomic_add_fetch(&c->shared->bad, 1, __ATOMIC_RELAXED) > PRINTED_MAX || c->settings->quiet)
		return;
	generated_describe(generated, what, sizeof(what));
	printf("# %s %" PRIu64 ": %s\n#   %s\n#   again: crash_explorer --set %s --index %" PRIu64
	       " --subsets %u --seed %" PRIu64 " --trace\n",
	       set_names[generated->set], generated->index, what, text, set_options[generated->set], generated->index,
	       c->settings->explore.subsets, c->settings->explore.seed);
	fflush(stdout);
}

static void explore_generated(struct campaign *c, uint64_t index)
{
	struct explore_settings settings = c->settings->explore;
	struct explore_result result;
	struct generated generated;
	struct tally *tally;

	generated_make(&generated, c->settings->set, index);
	tally = tally_of(c, &generated);
	if (!generated_is_random(generated.set) && !stage_accepts(c->stage, &generated.workload)) {
		add(&tally->invalid, 1);
		return;
	}
	settings.known = &c->known;
	explore_on(c->stage, &generated.workload, &settings, &result);
	add(&tally->workloads, 1);
	add(&tally->states, result.states);
	add(&tally->repeated, result.repeated);
	add(&tally->recovery_states, result.recovery_states);
	add(&tally->skipped, result.skipped);
	add(&tally->violations, result.broken ? 1 : result.violations);
	if (result.broken || result.violations)
		report(c, &generated, result.text[0]);
}

/* ---- Processes ---- */

static bool is_over(const struct campaign *c)
{
	if (c->settings->first_only && __atomic_load_n(&c->shared->bad, __ATOMIC_RELAXED))
		return true;
	return c->settings->budget > 0 && now() - c->began >= c->settings->budget;
}

static void work(struct campaign *c, unsigned slot)
{
	while (!is_over(c)) {
		uint64_t position = __atomic_fetch_add(&c->shared->next, 1, __ATOMIC_RELAXED);

		if (position >= c->end)
			break;
		__atomic_store_n(&c->shared->current[slot], position, __ATOMIC_RELAXED);
		explore_generated(c, index_at(c, position));
		__atomic_store_n(&c->shared->current[slot], IDLE, __ATOMIC_RELAXED);
	}
}

static bool start(struct campaign *c, unsigned slot)
{
	fflush(stdout);
	c->pids[slot] = fork();
	if (c->pids[slot] < 0) {
		perror("fork");
		return false;
	}
	if (c->pids[slot] == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL); /* nobody counts for it any more */
		work(c, slot);
		fflush(stdout);
		_exit(0);
	}
	c->alive++;
	return true;
}

/* The process did not come to its end: that is a violation. */
static void died(struct campaign *c, unsigned slot, int status)
{
	uint64_t position = c->shared->current[slot];
	struct generated generated;
	char text[100];

	snprintf(text, sizeof(text), "%s",
		 !WIFSIGNALED(status)        ? "the process ended early" :
		 WTERMSIG(status) == SIGALRM ? "hangs" :
					       strsignal(WTERMSIG(status)));
	c->shared->current[slot] = IDLE;
	if (position == IDLE) {
		printf("# a process died between workloads: %s\n", text);
		add(&c->shared->groups[0].violations, 1);
		return;
	}
	generated_make(&generated, c->settings->set, index_at(c, position));
	add(&tally_of(c, &generated)->workloads, 1);
	add(&tally_of(c, &generated)->violations, 1);
	report(c, &generated, text);
	start(c, slot);
}

/* Every position below this one is done. */
static uint64_t done_below(const struct campaign *c)
{
	uint64_t low = c->shared->next < c->end ? c->shared->next : c->end;

	for (unsigned i = 0; i < c->settings->jobs; i++) {
		uint64_t current = __atomic_load_n(&c->shared->current[i], __ATOMIC_RELAXED);

		low = current < low ? current : low;
	}
	return low;
}

/* ---- The file that keeps the position ---- */

static bool load_position(const struct campaign *c, uint64_t *position)
{
	FILE *file = c->settings->resume ? fopen(c->settings->resume, "r") : NULL;
	uint64_t size, seed;
	char set[16];
	int fields;

	if (!file)
		return true;
	fields = fscanf(file, "ashlar crash campaign set %15s size %" SCNu64 " seed %" SCNu64 " position %" SCNu64, set,
			&size, &seed, position);
	fclose(file);
	if (fields == 4 && !strcmp(set, set_options[c->settings->set]) && size == c->size &&
	    seed == c->settings->explore.seed && *position <= size)
		return true;
	fprintf(stderr, "crash_explorer: %s is of another set, size or seed\n", c->settings->resume);
	return false;
}

/* By renaming, so that there is always a whole one. */
static void save_position(struct campaign *c)
{
	char path[4096];
	FILE *file;

	c->saved = now();
	if (!c->settings->resume)
		return;
	snprintf(path, sizeof(path), "%s.new", c->settings->resume);
	file = fopen(path, "w");
	if (file) {
		fprintf(file, "ashlar crash campaign set %s size %" PRIu64 " seed %" PRIu64 " position %" PRIu64 "\n",
			set_options[c->settings->set], c->size, c->settings->explore.seed, done_below(c));
		if (fclose(file) == 0 && rename(path, c->settings->resume) == 0)
			return;
	}
	fprintf(stderr, "crash_explorer: %s: %s\n", c->settings->resume, strerror(errno));
}

/* ---- The whole of it ---- */

static void wait_for_all(struct campaign *c)
{
	while (c->alive) {
		int status;
		pid_t pid = waitpid(-1, &status, WNOHANG);

		if (now() - c->saved >= SAVE_SECONDS)
			save_position(c);
		if (pid == 0)
			nanosleep(&(struct timespec){ .tv_nsec = 20000000 }, NULL);
		for (unsigned i = 0; pid > 0 && i < c->settings->jobs; i++) {
			if (c->pids[i] != pid)
				continue;
			c->alive--;
			if (status)
				died(c, i, status);
			break;
		}
	}
}

static void print_groups(const struct campaign *c, size_t *number)
{
	for (unsigned i = 0; i < c->group_count; i++) {
		const struct tally *t = &c->shared->groups[i];

		if (!t->workloads && !t->violations)
			continue;
		printf("%s %zu - crash: %s: %s%s%" PRIu64 " workloads, %" PRIu64 " states, %" PRIu64
		       " in recovery, %" PRIu64 " violations\n",
		       t->violations ? "not ok" : "ok", ++*number, set_names[c->settings->set],
		       generated_is_random(c->settings->set) ? "" : c->groups[i],
		       generated_is_random(c->settings->set) ? "" : ": ", t->workloads, t->states, t->recovery_states,
		       t->violations);
	}
	fflush(stdout);
}

static void sum_up(const struct campaign *c, struct campaign_result *result)
{
	for (unsigned i = 0; i < c->group_count; i++) {
		const struct tally *t = &c->shared->groups[i];

		result->workloads += t->workloads;
		result->invalid += t->invalid;
		result->bad += t->bad;
		result->states += t->states;
		result->repeated += t->repeated;
		result->recovery_states += t->recovery_states;
		result->skipped += t->skipped;
		result->violations += t->violations;
	}
	result->size = c->size;
	result->end = done_below(c);
	result->seconds = now() - c->began;
}

static bool run(struct campaign *c, struct campaign_result *result, size_t *number)
{
	const struct campaign_settings *settings = c->settings;

	result->begin = settings->from;
	if (!settings->single && !load_position(c, &result->begin))
		return false;
	c->end = settings->single                                             ? result->begin + 1 :
		 settings->count && settings->count < c->size - result->begin ? result->begin + settings->count :
										c->size;
	c->shared->next = result->begin;
	memset(c->shared->current, 0xff, sizeof(c->shared->current));
	name_groups(c);
	for (unsigned i = 0; i < settings->jobs; i++)
		start(c, i);
	wait_for_all(c);
	save_position(c);
	if (!settings->quiet)
		print_groups(c, number);
	sum_up(c, result);
	return true;
}

bool campaign_run(const struct campaign_settings *settings, struct campaign_result *result, size_t *number)
{
	struct stage stage;
	struct campaign c = {
		.settings = settings, .stage = &stage, .size = generated_size(settings->set), .began = now()
	};
	char text[STAGE_TEXT];
	bool good;

	*result = (struct campaign_result){ 0 };
	c.saved = c.began;
	c.shared = mmap(NULL, sizeof(*c.shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	good = settings->jobs <= JOBS_MAX && settings->from < c.size && c.shared != MAP_FAILED &&
	       seen_share(&c.known, KNOWN_STATES);
	if (!good) {
		fprintf(stderr, "crash_explorer: no such position, too many jobs, or no memory\n");
		return false;
	}
	good = stage_set(&stage, generated_base(settings->set), text);
	if (good)
		good = run(&c, result, number);
	else
		fprintf(stderr, "crash_explorer: %s\n", text);
	stage_free(&stage);
	seen_free(&c.known);
	munmap(c.shared, sizeof(*c.shared));
	return good;
}

void campaign_line(const char *name, const struct campaign_result *result)
{
	if (result->size)
		printf("# %s: positions %" PRIu64 " to %" PRIu64 " of %" PRIu64 "; %" PRIu64 " workloads, %" PRIu64
		       " passed over (an operation only fails); %" PRIu64 " states known from other workloads, %" PRIu64
		       " distinct ones of crashes during recovery\n",
		       name, result->begin, result->end, result->size, result->workloads, result->invalid,
		       result->repeated, result->recovery_states);
	printf("# campaign %s: cases %" PRIu64 ", distinct %" PRIu64 " states, violations %" PRIu64 ", skipped %" PRIu64
	       ", seconds %.0f\n",
	       name, result->workloads, result->states + result->recovery_states, result->violations,
	       result->invalid + result->skipped, result->seconds);
	fflush(stdout);
}
