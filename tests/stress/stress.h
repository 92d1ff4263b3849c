/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The parts of the concurrency test: threads of several kinds that work on one target until they are told to stop.
 *
 *	names	everything that can be done to a few names in two folders; the history is judged by linear.c
 *	blocks	a few files, overwritten, zeroed and read at once; every 16 bytes tell whose and how old they are
 *	publish	whole files under names that tell their content, replaced, linked, removed, read
 *	upkeep	sync, checkpoint, trim, a full volume and room again, metadata beyond the cache
 *
 * What threads share in here is atomic without ordering when TSan looks on, so that the test itself does not order what
 * the filesystem forgot to order; else it is ordered, so that the rules hold on every processor.
 */
#ifndef TESTS_STRESS_STRESS_H
#define TESTS_STRESS_STRESS_H

#include "linear.h"
#include "target.h"

#include <pthread.h>
#include <stdatomic.h>

#if defined(__SANITIZE_THREAD__)
#define STRESS_ORDER __ATOMIC_RELAXED
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define STRESS_ORDER __ATOMIC_RELAXED
#endif
#endif
#ifndef STRESS_ORDER
#define STRESS_ORDER __ATOMIC_SEQ_CST
#endif
#define LOAD(where) __atomic_load_n(where, STRESS_ORDER)
#define STORE(where, value) __atomic_store_n(where, value, STRESS_ORDER)
#define ADD(where, value) __atomic_add_fetch(where, value, STRESS_ORDER)

#define STRESS_THREADS 16 /* at most; the main thread has this number */

struct blocks;
struct publish;

struct stress {
	struct target *target;
	uint64_t seed;
	bool full;     /* the volume is nearly full: -ENOSPC is a fit answer to what needs space */
	unsigned stop; /* atomic */
	uint64_t violations;
	uint64_t operations, full_answers, torn; /* atomic, for the figures */
	uint32_t *linked;                        /* objects that ever had two names, see linear.h */
	size_t linked_count;
	struct blocks *blocks;
	struct publish *publish;
};

struct stress_worker {
	struct stress *stress;
	void *(*work)(void *worker);
	const char *kind;
	unsigned number; /* from 0, over all kinds */
	uint64_t random;
	unsigned created; /* objects that this thread has made */
	/* names: what happened since the last check */
	struct linear_op *history;
	size_t history_count, history_size;
	/* for the watch */
	pthread_t thread;
	uint64_t beats;   /* atomic */
	const char *step; /* atomic: what it is doing */
	bool running;     /* atomic */
};

uint32_t stress_draw(struct stress_worker *worker, uint32_t limit);
uint64_t stress_now(void); /* ns */
bool stress_stopped(const struct stress *stress);
/* The worker begins something: for the watch and the figures. */
void stress_step(struct stress_worker *worker, const char *step);
/* A number that no other object has: the creator's thread and a count. */
uint32_t stress_owner(struct stress_worker *worker);
/* One line "# violation ..." for each; the run goes on. */
void stress_violation(struct stress *stress, const char *format, ...) __attribute__((format(printf, 2, 3)));
/* Is `rc` success? -ENOSPC is counted, and right when the volume is full; every other error is a violation. */
bool stress_went(struct stress_worker *worker, const char *what, int64_t rc);

/* ---- The kinds ---- */

#define NAMES_COUNT 6 /* half of them in each folder */

void *names_work(void *worker);
/* What stands behind the names now, as operations of a last thread. */
void names_look(struct stress_worker *worker);
/* Judge the histories of `count` workers from `start` on; afterwards `start` is what the names are now. */
void names_judge(struct stress *stress, struct stress_worker *workers, unsigned count, uint32_t start[LINEAR_NAMES]);
unsigned names_history_room(void);

struct blocks *blocks_open(struct stress *stress, struct stress_worker *worker);
void *blocks_work(void *worker);
/* Nobody works: is everything as the last writers left it? */
void blocks_verify(struct stress_worker *worker);
/* Let go of the files; what they hold is remembered. */
void blocks_close(struct stress *stress);
/* The target was closed and opened again. */
void blocks_reopen(struct stress *stress);

struct publish *publish_open(void);
void *publish_work(void *worker);
void publish_verify(struct stress_worker *worker);

/* Fill the volume, make the ballast. */
bool upkeep_open(struct stress *stress, struct stress_worker *worker);
void *upkeep_work(void *worker);

/* ---- The watch: a worker that does not come forward for `seconds` is a hang: stacks, and the end ---- */

void watch_start(struct stress_worker *workers, unsigned count, unsigned seconds);
void watch_stop(void);

#endif
