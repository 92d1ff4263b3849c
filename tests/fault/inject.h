/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Where a fault strikes, and what becomes of it.
 *
 * Concept: a workload runs once without faults, in the parent. At every point where something can fail (a device request of
 * the kind, an allocation) the process forks: the child lets it fail, goes on to the end of the workload, judges and tells;
 * the parent waits, and goes on without the fault. So every N is tried with the state that led to it, crashes and hangs stay in
 * the child, and nothing before the point is done twice. One thread.
 */
#ifndef TESTS_FAULT_INJECT_H
#define TESTS_FAULT_INJECT_H

#include "tests/crash/judge.h"
#include "tests/support/fault.h"

enum inject_kind { INJECT_READ, INJECT_WRITE, INJECT_FLUSH, INJECT_SHORT, INJECT_ENOSPC, INJECT_ENOMEM, INJECT_KINDS };

struct inject_variant {
	const char *name;
	struct fault_rule rule;
	bool half; /* short transfer: half of the request instead of rule.short_bytes */
	bool gone; /* nothing can be read any more */
};

#define INJECT_TEXTS 3
#define INJECT_SECONDS 30 /* more is a hang */

/* Shared with the children. */
struct inject_results {
	uint64_t points, cases, skipped, violations;
	uint64_t read_only; /* cases in which the volume failed (I6) */
	bool broken;        /* the workload went wrong without a fault */
	bool told;          /* the running child has given its verdict */
	char text[INJECT_TEXTS][VERDICT_TEXT];
	char verdict[VERDICT_TEXT]; /* of the running child; empty: all is well */
};

struct injector {
	enum inject_kind kind;
	uint64_t only_point; /* UINT64_MAX: all. Else this one, without a fork */
	unsigned only_variant;
	bool trace;     /* print the operations */
	unsigned share; /* percent of the points that are tried, */
	uint64_t also;  /* and this one: workload n has point n, so that what all begin with is tried throughout */
	struct generator random;
	struct inject_results *results;
	bool armed;
	uint64_t points; /* so far */
	/* in the child */
	const struct inject_variant *struck; /* NULL: the fault has not happened yet */
	uint64_t point;
	unsigned variant;
};

const char *inject_name(enum inject_kind kind);

/* A point is reached. True: let it fail, as in->struck says. */
bool inject_here(struct injector *in);
/* Ask at every matching request of the layer. */
void inject_device(struct injector *in, struct bdev *fault_layer);
/* The end of a run. Does not return in a child. */
void inject_finish(struct injector *in, bool good, const char *text);

#endif
