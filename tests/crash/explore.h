/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Exploring one workload: record it, make its crash states, judge each.
 */
#ifndef TESTS_CRASH_EXPLORE_H
#define TESTS_CRASH_EXPLORE_H

#include "judge.h"
#include "seen.h"
#include "stage.h"

struct explore_settings {
	uint64_t seed;
	unsigned subsets;           /* distinct subsets and tears per window that are sought */
	unsigned share;             /* percent of the states that are judged (100: all) */
	unsigned crowded_share;     /* the same for workloads marked `crowded` */
	unsigned recovery_permille; /* of the judged states: crash again during their recovery */
	bool stop_at_first;
	bool trace;         /* print the operations */
	const char *save;   /* folder for the images of violations; NULL: none */
	struct seen *known; /* states that other workloads on the same stage had are not judged again; NULL: all are */
};

struct explore_result {
	uint64_t operations, writes, flushes; /* recorded */
	uint64_t states;                      /* distinct, judged */
	uint64_t repeated;                    /* known from other workloads, with the same operations before them */
	uint64_t recovery_states;             /* distinct, of crashes during recovery */
	uint64_t skipped;                     /* made, but not judged because of `share` */
	uint64_t violations;
	bool broken; /* the workload itself went wrong: see text */
	double seconds;
	char text[3][VERDICT_TEXT]; /* of the first violations */
};

/* On a stage that other workloads use as well, one after another. */
void explore_on(struct stage *stage, const struct workload *workload, const struct explore_settings *settings,
		struct explore_result *result);
/* On a stage of its own. */
void explore(const struct workload *workload, const struct explore_settings *settings, struct explore_result *result);

#endif
