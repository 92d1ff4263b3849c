/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What must hold for a damaged image, and how a campaign of many is run.
 *
 * For each image, twice from the same bytes:
 * - look at it: open without writing, walk and read everything, fsck -n. Nothing may be written. Then fsck -y must leave
 *   a volume in which fsck -n finds nothing, which can be walked, and in which every inode that the damage did not touch is
 *   as it was.
 * - use it: open for writing, walk, create, write, rename, unlink, sync, close; then fsck -y, fsck -n, walk as before.
 * Neither may crash, hang, or write behind the volume's end.
 *
 * A campaign runs in a child process: one that dies or hangs costs its image only. Single-threaded.
 */
#ifndef TESTS_IMAGE_JUDGE_H
#define TESTS_IMAGE_JUDGE_H

#include "image.h"

#define AFFECTED_MAX 40u

struct test {
	char name[360];
	bool must_report; /* a look must find a problem */
	bool must_not;    /* ... must find none */
	bool any_change;  /* content may change anywhere (only soundness is asked for) */
	bool names_move;  /* names may change: inodes are compared, not directories and counts of links */
	bool blind;  /* it looks good to a writer, who may then write over anything: compare after the repair only */
	bool always; /* judged whatever the share is */
	bool may_refuse; /* says of itself that it is no volume for this program: then nobody may write anything */
	const struct manifest *known; /* what must be found again; NULL: the image's */
	uint64_t affected[AFFECTED_MAX];
	unsigned affected_count;
};

/* The image is damaged: judge, print a line of TAP, and put it back. False when it is left to the share. */
bool judge(struct image *image, const struct test *test);

/* Walk, read and change an open volume, in damaged places first. Results do not matter. */
void use_volume(struct ash_volume *volume, const struct image *image, const struct test *test);
/* Inodes that the last use_volume() changed of itself. */
bool use_changes(const struct image *image, uint64_t ino);

/* ---- Campaigns ---- */

/* So many of a hundred images are judged; the others are counted as skipped. A crash is a violation, and the rest goes on. */
void campaign_run(const char *name, unsigned share, void (*body)(struct image *image), struct image *image);
/* Must the image that is damaged now be judged? Called once for each, in the same order in every run. */
bool campaign_wants(struct image *image, const struct test *test);
void campaign_result(const struct test *test, const char *trouble);
/* A check that is about no image. */
void campaign_check(const char *name, bool good);
#define CAMPAIGN_MARKS 4096u
/* So many flags that are false when a campaign begins and outlive a child that dies. */
bool *campaign_marks(void);
/* "1..N"; the exit status. */
int campaign_end(void);

/* ASHLAR_TEST_LEVEL */
enum level { LEVEL_QUICK, LEVEL_NORMAL, LEVEL_LONG };
enum level test_level(void);

#endif
