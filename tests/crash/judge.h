/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The verdict on one crash image: recover it, walk it, ask the oracle, unmount, check.
 */
#ifndef TESTS_CRASH_JUDGE_H
#define TESTS_CRASH_JUDGE_H

#include "script.h"

#define VERDICT_TEXT 1200

struct judgement {
	const struct script *script; /* its history and its workload */
	struct history_moment moment;
	bool may_be_unformatted; /* mkfs was running */
	bool check_before;       /* fsck -n on the image as it is, with the log overlaid */
	bool use_after;          /* write to the recovered volume before it is checked */
	bool grow_after;         /* make it grow to the whole device first */
	const uint64_t *sizes;   /* blocks that the volume may have; none: any */
	size_t size_count;
	struct bdev *dev; /* device over the image; the caller's */
};

/* Options of every volume in this suite: no threads, small cache, no access times. */
struct ash_open_options crash_open_options(const struct workload *workload);
/* True: all is well. Otherwise `text` says what is not. */
bool judge(const struct judgement *judgement, char text[VERDICT_TEXT]);

#endif
