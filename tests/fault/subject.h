/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * One workload on one volume, with a fault somewhere in it, and the verdict.
 *
 * Rules that are checked
 * - Until the fault, and after it as long as the volume is healthy, every answer is the model's.
 * - The operation that meets the fault fails with its error, or succeeds; when it fails nothing has changed (I9), except the data
 *   of a file that it was to change, whose bytes are then old or new ones.
 * - A failed log or metadata write or flush makes the volume fail (I6): nothing is acknowledged afterwards. A failed data write, a
 *   failed read, a failed allocation, a failed discard does not.
 * - Data lost in the background is reported by the next sync or fsync of that file, once, and by no other file's.
 * - A failed operation is tried again once the fault is over, and works then.
 * - After the unmount, on a good device: the state is one that I2 and I7 allow for what was acknowledged, fsck finds nothing, the
 *   library holds no memory.
 */
#ifndef TESTS_FAULT_SUBJECT_H
#define TESTS_FAULT_SUBJECT_H

#include "inject.h"
#include "tests/crash/stage.h"

struct subject;

/* Not a workload on a volume: mkfs or a check of what setup makes, for want of memory only (checked.c). */
enum fault_special { SPECIAL_NONE, SPECIAL_MKFS, SPECIAL_CHECK, SPECIAL_REPAIR };

struct fault_workload {
	struct workload base;
	const struct workload *before; /* runs, is synced and cut off by a power cut: the mount recovers it */
	enum fault_special special;
	bool damaged;                          /* the image, for these */
	uint64_t write_behind;                 /* bytes of the buffer; 0: 1 MiB */
	uint64_t small_blocks;                 /* the volume has so many, the device more; without setup */
	void (*more)(struct subject *subject); /* after `run`: calls that are no operations of the model */
};

/* The scripted workloads of the crash explorer, and some more. */
const struct fault_workload *fault_workloads(size_t *count);

#define SUBJECT_FILES 512

struct snapshot {
	uint64_t ino;
	struct content content;
};

struct subject {
	struct script script;     /* model, history, runner */
	struct workload workload; /* a copy: names may be missing after a fault */
	const struct fault_workload *source;
	struct injector *in;
	struct stage stage;
	struct bdev *fault;
	struct history_moment moment;
	bool failed; /* the volume (I6) */
	bool frozen; /* nothing more can have happened on the device that the history should know of */
	bool bad;    /* the verdict; `text` says why */
	bool audited;
	unsigned operations_after;       /* the fault */
	uint64_t unknown[SUBJECT_FILES]; /* files whose state in memory is unknown: answers about them are not judged */
	unsigned unknown_count;
	uint64_t buffered[SUBJECT_FILES]; /* files that were written and not synced since */
	unsigned buffered_count;
	uint64_t counted[64]; /* references that readdir with attributes took */
	unsigned counted_count;
	struct snapshot *trail; /* what files once held */
	size_t trail_count, trail_capacity;
	char text[VERDICT_TEXT];
};

/* Neither returns in a child of the injector. */
void checked_run(const struct fault_workload *workload, struct injector *in);
void subject_run(const struct fault_workload *workload, struct injector *in);

/* ---- For subject.c, audit.c and workloads.c ---- */

/* Note what is wrong; the first one counts. */
void subject_bad(struct subject *x, const char *what, const char *detail);
/* An operation that has happened, or (not completed) may have when the volume failed: for the history. */
void subject_remember(struct subject *x, const struct op *op, bool completed);
/* Faults so far. */
unsigned subject_hits(const struct subject *x);
/* Did the fault strike, and is it over? */
bool subject_fault_over(const struct subject *x);
/* Device gone: nothing can be read. */
bool subject_gone(const struct subject *x);
bool subject_unknown(const struct subject *x, uint64_t ino);
void subject_set_unknown(struct subject *x, uint64_t ino);
/* Ask the volume whether it has failed. */
void subject_look(struct subject *x);
/* A call that is no operation of the model: `call` must answer `expected`; after a fault it may fail and must then work again. */
void subject_call(struct subject *x, const char *name, int64_t (*call)(struct subject *x), int64_t expected);

/* The file whose data or size an operation changes; 0: none. */
uint64_t audit_data_subject(const struct op *op);
/* `op` met the fault: was it answered as it should, and is the state in memory what it should be? */
void audit(struct subject *x, const struct op *op);
/* Keep what the file holds now. */
void audit_remember(struct subject *x, uint64_t ino);

#endif
