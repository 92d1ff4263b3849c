/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Workloads that are generated: every sequence of one or two operations out of a table, each followed by one of the
 * syncs, after the manner of CrashMonkey's ACE; long random ones; random ones beside chores (beside.h); and random ones
 * on a volume that grows meanwhile.
 *
 * Concept: a set has a size, and each workload of it an index, which is all that is needed to make it again. Indices
 * count everything, also sequences that cannot succeed (stage_accepts() tells these).
 */
#ifndef TESTS_CRASH_GENERATED_H
#define TESTS_CRASH_GENERATED_H

#include "script.h"

/* ---- The table of operations ---- */

enum step_kind {
	STEP_CREATE,
	STEP_MKDIR,
	STEP_RMDIR,
	STEP_SYMLINK,
	STEP_LINK,
	STEP_UNLINK,
	STEP_UNLINK_OPEN, /* the file is kept open */
	STEP_RENAME,
	STEP_TRUNCATE,
	STEP_WRITE,
	STEP_FALLOCATE,
	STEP_COPY,
	STEP_SETXATTR,
	STEP_REMOVEXATTR,
	STEP_CHMOD,
	STEP_TMPFILE /* `length` bytes are written; linked as `to`, unless that is NULL */
};

struct step {
	enum step_kind kind;
	const char *group;      /* what it is an example of: reports are by group */
	const char *path;       /* what it is done to; new names: what is made */
	const char *to;         /* the other name; name of an attribute */
	uint64_t offset, other; /* bytes; `other`: in the target of a copy */
	uint64_t length;        /* bytes; of truncations and symbolic links: the size */
	int flags;              /* of write, rename, fallocate; the mode of a chmod */
};

extern const struct step generated_steps[];
extern const size_t generated_step_count;

/* What may follow an operation. */
enum step_sync { SYNC_NOTHING, SYNC_FSYNC, SYNC_FDATASYNC, SYNC_PARENT, SYNC_ALL, SYNC_KINDS };
/* How the volume is used: plain, on a device with FUA, without write-behind. */
enum generated_mode { MODE_PLAIN, MODE_FUA, MODE_WRITE_THROUGH, MODE_KINDS };

/* Do it, and the sync. A subject that is gone, or never was there, fails the script. */
void step_do(struct script *script, const struct step *step, enum step_sync sync);
void step_describe(const struct step *step, enum step_sync sync, char *text, size_t size);

/* ---- The sets ---- */

enum generated_set {
	GENERATED_ONE,
	GENERATED_TWO,
	GENERATED_RANDOM,
	GENERATED_BESIDE,
	GENERATED_GROWTH,
	GENERATED_SETS
};
/* Operations by a seed, chosen by the volume's answers; no list of steps. */
static inline bool generated_is_random(enum generated_set set)
{
	return set >= GENERATED_RANDOM;
}

struct generated {
	struct workload workload; /* its context is this structure: do not move it */
	enum generated_set set;
	uint64_t index;
	unsigned count; /* steps */
	const struct step *steps[2];
	enum step_sync syncs[2];
};

/* How many workloads there are; of random ones, as many as one wants. */
uint64_t generated_size(enum generated_set set);
void generated_make(struct generated *generated, enum generated_set set, uint64_t index);
/* "creat /A/new, fsync; ..." */
void generated_describe(const struct generated *generated, char *text, size_t size);
/* Makes the tree that all of a set start from; has no run of its own. */
const struct workload *generated_base(enum generated_set set);

#endif
