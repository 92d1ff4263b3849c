/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Is a history of concurrent operations on a few names linearizable?
 *
 * Every operation has a moment before its call, one after its answer, and its answer. The history is good when each
 * operation can be given one instant between its two moments, so that one operation after the other, in the order of
 * these instants, gives exactly these answers.
 *
 * All names together are one object: a rename changes two names in one instant, which a search for each name by itself
 * could not tell. The search is Wing and Gong's with the events in the order of time: the set of all configurations
 * (what the names are, which of the running operations have had their instant) is carried from event to event; an
 * operation is given its instant no earlier than the next answer needs. Operations that change nothing get theirs in
 * the first configuration that they fit. An empty set is a violation.
 *
 * What stands behind a name is the number of the creation that made it; each number is used once, so an answer tells
 * which of several creations was seen. The caller splits what is not one instant into several operations: a list
 * of a directory is a lookup of each name that it can hold, a lookup that tells the link count is a lookup and a count.
 *
 * Through a mount two things are weaker, for what the kernel does above any filesystem (`kernel`). A change of a name has
 * two instants there: the filesystem's, which link counts show, and then the name cache's, which names show; so a
 * count must have been right in some order at some moment of its call, but need not fit the same order as the
 * names. And FUSE counts links down by itself after an unlink or a replacing rename, even when the answer of another
 * request has just told it the new count: a file of several names can then have none left in the kernel's eyes, and
 * link(2) refuses it with ENOENT until its attributes are asked for again. So this answer is right for objects that
 * ever had a second name (`linked`).
 */
#ifndef TESTS_STRESS_LINEAR_H
#define TESTS_STRESS_LINEAR_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define LINEAR_NAMES 8              /* names at most */
#define LINEAR_DIRECTORY 0x40000000 /* this bit of an object's number says that it is a directory */
#define LINEAR_ANY UINT32_MAX       /* a lookup found something, but not what */
#define LINEAR_TEXT 6000            /* bytes of an explanation */

enum linear_kind {
	LINEAR_CREATE, /* create or mkdir of `object` at `name` */
	LINEAR_LINK,   /* `object` gets `name`, too */
	LINEAR_UNLINK,
	LINEAR_RMDIR,
	LINEAR_RENAME, /* `name` to `other`, with the flags of renameat2(2) */
	LINEAR_LOOKUP, /* `name` is `object` */
	LINEAR_COUNT,  /* `object`, a file, has `links` names */
	LINEAR_KINDS
};

struct linear_op {
	uint64_t begin, end; /* ns */
	enum linear_kind kind;
	uint8_t name, other;
	unsigned flags;
	uint32_t object; /* of unlink and rmdir: what lost its name, 0 when the answer does not tell */
	uint32_t links;
	int result; /* 0 or negative errno */
	unsigned thread;
};

struct linear_problem {
	unsigned names;
	uint32_t start[LINEAR_NAMES]; /* what stands behind the names before the first operation; 0: nothing */
	bool may_be_full;             /* operations that need space may answer -ENOSPC, and then change nothing */
	bool kernel;                  /* the answers went through a kernel, see above */
	const uint32_t *linked;       /* objects that had a second name; with `kernel` */
	size_t linked_count;
	const struct linear_op *ops;
	size_t count;
};

enum linear_outcome { LINEAR_GOOD, LINEAR_BAD, LINEAR_UNDECIDED };

/* `explanation` (LINEAR_TEXT bytes) says which answer fits no order. Undecided: too many operations at a time. */
enum linear_outcome linear_check(const struct linear_problem *problem, char *explanation);

/* One line about an operation. */
void linear_print(const struct linear_op *op, uint64_t zero, char *text, size_t size);

#endif
