/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The checker of histories is checked itself: histories written by hand that are linearizable must pass, those that
 * are not must be rejected. A checker that accepts everything, or one that looks at each name alone, fails here.
 */
#include "linear.h"

#include <errno.h>
#include <linux/fs.h>
#include <stdio.h>
#include <string.h>

#define A 1u
#define B 2u
#define D (LINEAR_DIRECTORY | 3u)
#define OPS 8

#define CREATE(b, e, n, o, r)                                                                    \
	{                                                                                        \
		.begin = b, .end = e, .kind = LINEAR_CREATE, .name = n, .object = o, .result = r \
	}
#define LINK(b, e, o, n, r)                                                                    \
	{                                                                                      \
		.begin = b, .end = e, .kind = LINEAR_LINK, .name = n, .object = o, .result = r \
	}
#define UNLINK(b, e, n, r)                                                          \
	{                                                                           \
		.begin = b, .end = e, .kind = LINEAR_UNLINK, .name = n, .result = r \
	}
#define RMDIR(b, e, n, r)                                                          \
	{                                                                          \
		.begin = b, .end = e, .kind = LINEAR_RMDIR, .name = n, .result = r \
	}
#define RENAME(b, e, n, m, f, r)                                                                            \
	{                                                                                                   \
		.begin = b, .end = e, .kind = LINEAR_RENAME, .name = n, .other = m, .flags = f, .result = r \
	}
#define LOOK(b, e, n, o, r)                                                                      \
	{                                                                                        \
		.begin = b, .end = e, .kind = LINEAR_LOOKUP, .name = n, .object = o, .result = r \
	}
#define COUNT(b, e, o, n)                                                           \
	{                                                                           \
		.begin = b, .end = e, .kind = LINEAR_COUNT, .object = o, .links = n \
	}

static const struct {
	const char *what;
	enum linear_outcome outcome;
	uint32_t start[LINEAR_NAMES];
	struct linear_op ops[OPS];
	bool may_be_full;
	bool kernel; /* and A had a second name once */
} cases[] = {
	{ "one after the other",
	  LINEAR_GOOD,
	  { 0 },
	  { CREATE(1, 2, 0, A, 0), LOOK(3, 4, 0, A, 0), UNLINK(5, 6, 0, 0), LOOK(7, 8, 0, 0, -ENOENT) },
	  false,
	  false },
	{ "of two creations at once one wins",
	  LINEAR_GOOD,
	  { 0 },
	  { CREATE(1, 5, 0, A, -EEXIST), CREATE(2, 6, 0, B, 0), LOOK(7, 8, 0, B, 0) },
	  false,
	  false },
	{ "two creations of one name, both successful",
	  LINEAR_BAD,
	  { 0 },
	  { CREATE(1, 5, 0, A, 0), CREATE(2, 6, 0, B, 0) },
	  false,
	  false },
	{ "with a removal at the same time they may",
	  LINEAR_GOOD,
	  { 0 },
	  { CREATE(1, 5, 0, A, 0), CREATE(2, 6, 0, B, 0), UNLINK(1, 6, 0, 0) },
	  false,
	  false },
	{ "two creations, none successful, name absent",
	  LINEAR_BAD,
	  { 0 },
	  { CREATE(1, 5, 0, A, -EEXIST), CREATE(2, 6, 0, B, -EEXIST) },
	  false,
	  false },
	{ "a lookup that misses what was there before it began",
	  LINEAR_BAD,
	  { 0 },
	  { CREATE(1, 2, 0, A, 0), LOOK(3, 4, 0, 0, -ENOENT) },
	  false,
	  false },
	{ "a lookup during the creation may miss it",
	  LINEAR_GOOD,
	  { 0 },
	  { CREATE(1, 4, 0, A, 0), LOOK(3, 5, 0, 0, -ENOENT) },
	  false,
	  false },
	{ "seen, then not seen, nobody removed it",
	  LINEAR_BAD,
	  { 0 },
	  { CREATE(1, 9, 0, A, 0), LOOK(2, 3, 0, A, 0), LOOK(4, 5, 0, 0, -ENOENT) },
	  false,
	  false },
	{ "not seen, then seen, during one creation",
	  LINEAR_GOOD,
	  { 0 },
	  { CREATE(1, 9, 0, A, 0), LOOK(2, 3, 0, 0, -ENOENT), LOOK(4, 5, 0, A, 0) },
	  false,
	  false },
	{ "a lookup finds another creation's object",
	  LINEAR_BAD,
	  { 0 },
	  { CREATE(1, 2, 0, A, 0), UNLINK(3, 4, 0, 0), CREATE(5, 6, 0, B, 0), LOOK(7, 8, 0, A, 0) },
	  false,
	  false },
	{ "unlinked twice", LINEAR_BAD, { A }, { UNLINK(1, 5, 0, 0), UNLINK(2, 6, 0, 0) }, false, false },
	{ "unlink says that it removed another object",
	  LINEAR_BAD,
	  { A },
	  { { .begin = 1, .end = 2, .kind = LINEAR_UNLINK, .object = B } },
	  false,
	  false },
	{ "rename: both names are seen, one after the other",
	  LINEAR_GOOD,
	  { A },
	  { RENAME(1, 9, 0, 1, 0, 0), LOOK(2, 3, 0, A, 0), LOOK(4, 5, 1, A, 0), LOOK(6, 7, 0, 0, -ENOENT) },
	  false,
	  false },
	{ "rename: the old name after the new one was seen",
	  LINEAR_BAD,
	  { A },
	  { RENAME(1, 9, 0, 1, 0, 0), LOOK(2, 3, 1, A, 0), LOOK(4, 5, 0, A, 0) },
	  false,
	  false },
	{ "rename: neither name, each possible by itself",
	  LINEAR_BAD,
	  { A },
	  { RENAME(1, 9, 0, 1, 0, 0), LOOK(2, 3, 0, 0, -ENOENT), LOOK(4, 5, 1, 0, -ENOENT) },
	  false,
	  false },
	{ "rename over: the target is never missing",
	  LINEAR_BAD,
	  { A, B },
	  { RENAME(1, 9, 0, 1, 0, 0), LOOK(2, 3, 1, 0, -ENOENT) },
	  false,
	  false },
	{ "rename over: the old, then the new target",
	  LINEAR_GOOD,
	  { A, B },
	  { RENAME(1, 9, 0, 1, 0, 0), LOOK(2, 3, 1, B, 0), LOOK(4, 5, 1, A, 0), LOOK(6, 7, 0, 0, -ENOENT) },
	  false,
	  false },
	{ "rename over: the old target after the new one",
	  LINEAR_BAD,
	  { A, B },
	  { RENAME(1, 9, 0, 1, 0, 0), LOOK(2, 3, 1, A, 0), LOOK(4, 5, 1, B, 0) },
	  false,
	  false },
	{ "noreplace replaced", LINEAR_BAD, { A, B }, { RENAME(1, 2, 0, 1, RENAME_NOREPLACE, 0) }, false, false },
	{ "noreplace refused, target there",
	  LINEAR_GOOD,
	  { A, B },
	  { RENAME(1, 2, 0, 1, RENAME_NOREPLACE, -EEXIST) },
	  false,
	  false },
	{ "noreplace refused, target absent",
	  LINEAR_BAD,
	  { A },
	  { RENAME(1, 2, 0, 1, RENAME_NOREPLACE, -EEXIST) },
	  false,
	  false },
	{ "exchange, both sides change in one instant",
	  LINEAR_GOOD,
	  { A, B },
	  { RENAME(1, 9, 0, 1, RENAME_EXCHANGE, 0), LOOK(2, 3, 0, B, 0), LOOK(4, 5, 1, A, 0) },
	  false,
	  false },
	{ "exchange seen half",
	  LINEAR_BAD,
	  { A, B },
	  { RENAME(1, 9, 0, 1, RENAME_EXCHANGE, 0), LOOK(2, 3, 0, B, 0), LOOK(4, 5, 1, B, 0) },
	  false,
	  false },
	{ "exchange with an absent name", LINEAR_BAD, { A }, { RENAME(1, 2, 0, 1, RENAME_EXCHANGE, 0) }, false, false },
	{ "two exchanges in a circle",
	  LINEAR_GOOD,
	  { A, B, D },
	  { RENAME(1, 9, 0, 1, RENAME_EXCHANGE, 0), RENAME(1, 9, 1, 2, RENAME_EXCHANGE, 0), LOOK(10, 11, 0, D, 0),
	    LOOK(10, 11, 1, A, 0), LOOK(10, 11, 2, B, 0) },
	  false,
	  false },
	{ "the same, an object twice",
	  LINEAR_BAD,
	  { A, B, D },
	  { RENAME(1, 9, 0, 1, RENAME_EXCHANGE, 0), RENAME(1, 9, 1, 2, RENAME_EXCHANGE, 0), LOOK(10, 11, 0, D, 0),
	    LOOK(10, 11, 1, A, 0), LOOK(10, 11, 2, A, 0) },
	  false,
	  false },
	{ "a link and a rename of its source",
	  LINEAR_GOOD,
	  { A },
	  { LINK(1, 9, A, 1, 0), RENAME(1, 9, 0, 2, 0, 0), LOOK(10, 11, 1, A, 0), LOOK(10, 11, 2, A, 0),
	    COUNT(12, 13, A, 2) },
	  false,
	  false },
	{ "a link to what has no name", LINEAR_BAD, { A }, { UNLINK(1, 2, 0, 0), LINK(3, 4, A, 1, 0) }, false, false },
	{ "a link refused, since there was no name",
	  LINEAR_GOOD,
	  { A },
	  { UNLINK(1, 5, 0, 0), LINK(3, 4, A, 1, -ENOENT) },
	  false,
	  false },
	{ "a link count that never was", LINEAR_BAD, { A, A }, { UNLINK(1, 9, 0, 0), COUNT(2, 3, A, 0) }, false, false },
	{ "link counts during an unlink",
	  LINEAR_GOOD,
	  { A, A },
	  { UNLINK(1, 9, 0, 0), COUNT(2, 3, A, 2), COUNT(4, 5, A, 1) },
	  false,
	  false },
	{ "link counts backwards",
	  LINEAR_BAD,
	  { A, A },
	  { UNLINK(1, 9, 0, 0), COUNT(2, 3, A, 1), COUNT(4, 5, A, 2) },
	  false,
	  false },
	{ "rename of two names of one file does nothing",
	  LINEAR_GOOD,
	  { A, A },
	  { RENAME(1, 2, 0, 1, 0, 0), LOOK(3, 4, 0, A, 0), COUNT(5, 6, A, 2) },
	  false,
	  false },
	{ "unlink of a directory", LINEAR_BAD, { D }, { UNLINK(1, 2, 0, 0) }, false, false },
	{ "unlink of a directory refused",
	  LINEAR_GOOD,
	  { D },
	  { UNLINK(1, 2, 0, -EISDIR), RMDIR(3, 4, 0, 0) },
	  false,
	  false },
	{ "a file over a directory", LINEAR_BAD, { A, D }, { RENAME(1, 2, 0, 1, 0, 0) }, false, false },
	{ "a full volume, allowed",
	  LINEAR_GOOD,
	  { 0 },
	  { CREATE(1, 2, 0, A, -ENOSPC), LOOK(3, 4, 0, 0, -ENOENT) },
	  true,
	  false },
	{ "a full volume, not allowed", LINEAR_BAD, { 0 }, { CREATE(1, 2, 0, A, -ENOSPC) }, false, false },
	{ "a full volume, but the name is there",
	  LINEAR_BAD,
	  { 0 },
	  { CREATE(1, 2, 0, A, -ENOSPC), LOOK(3, 4, 0, A, 0) },
	  true,
	  false },
	{ "unlink on a full volume", LINEAR_BAD, { A }, { UNLINK(1, 2, 0, -ENOSPC) }, true, false },
	{ "a count that runs ahead of the names",
	  LINEAR_BAD,
	  { A, A },
	  { UNLINK(1, 9, 0, 0), COUNT(2, 3, A, 1), LOOK(4, 5, 0, A, 0) },
	  false,
	  false },
	{ "through a kernel it may",
	  LINEAR_GOOD,
	  { A, A },
	  { UNLINK(1, 9, 0, 0), COUNT(2, 3, A, 1), LOOK(4, 5, 0, A, 0) },
	  false,
	  true },
	{ "but not before the unlink began",
	  LINEAR_BAD,
	  { A, A },
	  { COUNT(1, 2, A, 1), UNLINK(3, 9, 0, 0) },
	  false,
	  true },
	{ "nor after it ended", LINEAR_BAD, { A, A }, { UNLINK(1, 2, 0, 0), COUNT(3, 4, A, 2) }, false, true },
	{ "a count longer than what changed it",
	  LINEAR_GOOD,
	  { A, A },
	  { COUNT(1, 9, A, 2), UNLINK(2, 3, 0, 0), LOOK(4, 5, 0, 0, -ENOENT) },
	  false,
	  true },
	{ "a count that never was, through a kernel",
	  LINEAR_BAD,
	  { A, A },
	  { UNLINK(1, 9, 0, 0), COUNT(2, 3, A, 0) },
	  false,
	  true },
	{ "a link refused, although there is a name", LINEAR_BAD, { A }, { LINK(1, 2, A, 1, -ENOENT) }, false, false },
	{ "the same through a kernel", LINEAR_GOOD, { A }, { LINK(1, 2, A, 1, -ENOENT) }, false, true },
	{ "of an object that never had two names", LINEAR_BAD, { B }, { LINK(1, 2, B, 1, -ENOENT) }, false, true },
	{ "an I/O error", LINEAR_BAD, { A }, { LOOK(1, 2, 0, 0, -EIO) }, true, false },
};

int main(void)
{
	unsigned count = sizeof(cases) / sizeof(*cases), failed = 0;
	static char text[LINEAR_TEXT];

	printf("1..%u\n", count);
	for (unsigned i = 0; i < count; i++) {
		struct linear_problem problem = { .names = 4,
						  .may_be_full = cases[i].may_be_full,
						  .ops = cases[i].ops };
		static const uint32_t linked[] = { A };
		bool right;

		memcpy(problem.start, cases[i].start, sizeof(problem.start));
		problem.kernel = cases[i].kernel;
		problem.linked = linked;
		problem.linked_count = 1;
		while (problem.count < OPS && cases[i].ops[problem.count].end)
			problem.count++;
		right = linear_check(&problem, text) == cases[i].outcome && (cases[i].outcome == LINEAR_BAD) == !!*text;
		failed += !right;
		printf("%sok %u - %s: %s\n", right ? "" : "not ", i + 1,
		       cases[i].outcome == LINEAR_BAD ? "rejected" : "accepted", cases[i].what);
	}
	return failed ? 1 : 0;
}
