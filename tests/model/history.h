/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The oracle for crashes: does what was found afterwards follow from what was done before (I5, I7)?
 *
 * Concept: a history is the model at the last full sync and every operation since. After a crash, names, attributes and
 * explicit truncations must be those after some prefix of the operations, and the prefix must hold every operation
 * that was synced. File data has more freedom: what is not synced may be there, be missing or be partly there, byte by
 * byte; but each byte must be one that the file really had at that place (or zero where there was nothing), and what
 * was synced and not changed since must be exact.
 */
#ifndef TESTS_MODEL_HISTORY_H
#define TESTS_MODEL_HISTORY_H

#include "model.h"

struct history {
	struct model base;
	struct op *ops;
	size_t count, capacity;
	/* Files whose data nobody vouches for any more, since an error was reported for it: data, size and times of
	 * these are not judged. */
	uint64_t *doubtful;
	size_t doubtful_count;
};

void history_start(struct history *history, const struct model *base);
/* A copy of a finished operation (or of one that was running when the power went). */
void history_add(struct history *history, const struct op *op);
void history_doubt(struct history *history, uint64_t ino);
void history_free(struct history *history);

/* Operations [0, completed) had returned, [completed, issued) had begun (at most one). */
struct history_moment {
	size_t completed, issued;
};

/*
 * Is `observed` allowed? *prefix: the number of operations that explain it. Otherwise `text` says what speaks
 * against each prefix.
 */
bool history_explains(const struct history *history, struct history_moment moment, const struct model *observed,
		      size_t *prefix, char *text, size_t size);

/* How many of the first `completed` operations were acknowledged syncs: before and after, other things are due. */
size_t history_syncs(const struct history *history, size_t completed);

#endif
