/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A campaign: the workloads of a generated set, in a seeded order, spread over processes, until the set, the number
 * asked for or the time is used up.
 *
 * Concept: the stage is set once and inherited by all processes; each takes the next position of the order from a
 * counter that they share. A process that dies is a violation of the workload that it was at, and is replaced. The
 * order is a permutation of the set, so a campaign can go on where an earlier one stopped, and neither leaves a
 * workload out nor does one twice.
 */
#ifndef TESTS_CRASH_CAMPAIGN_H
#define TESTS_CRASH_CAMPAIGN_H

#include "explore.h"
#include "generated.h"

struct campaign_settings {
	enum generated_set set;
	struct explore_settings explore; /* its seed is the order's, too */
	unsigned jobs;
	uint64_t from;      /* position to begin at */
	uint64_t count;     /* positions; 0: all */
	double budget;      /* seconds; 0: no limit */
	const char *resume; /* file that keeps the position between runs; NULL: none */
	bool single;        /* the workload with index `from` alone */
	bool first_only;    /* end at the first workload with a violation */
	bool quiet;         /* print nothing */
};

struct campaign_result {
	uint64_t size, begin, end; /* of the order: positions [begin, end) were done */
	uint64_t workloads;        /* explored */
	uint64_t invalid;          /* passed over: an operation of theirs only fails */
	uint64_t bad;              /* explored, with violations */
	uint64_t states, repeated, recovery_states, skipped, violations;
	double seconds;
};

/*
 * Prints a TAP line for each group of operations, numbered on from *number. False: it could not run (said on stderr).
 * Violations are in the result.
 */
bool campaign_run(const struct campaign_settings *settings, struct campaign_result *result, size_t *number);
/* The line that tests/run.sh collects. */
void campaign_line(const char *name, const struct campaign_result *result);

/* Position to index: a permutation of [0, size) for each seed. */
uint64_t campaign_permute(uint64_t position, uint64_t size, uint64_t seed);

#endif
