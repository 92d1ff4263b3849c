/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Checking and repairing a volume, as a library: fsck.ashlar is a thin main on it, and tests call it in process.
 *
 * ash_check() needs the device alone (the caller holds bdev_lock(), exclusive unless mode is ASH_CHECK_NO). It keeps
 * no global state, may run for several devices at once, and starts a helper thread only for large volumes.
 */
#ifndef FSCK_CHECK_H
#define FSCK_CHECK_H

#include <ashlar/blockdev.h>
#include <stdbool.h>
#include <stdint.h>

enum ash_check_mode {
	ASH_CHECK_NO,    /* look only: nothing is written, the log is overlaid in memory */
	ASH_CHECK_PREEN, /* repair what is safe without asking; stop at anything else */
	ASH_CHECK_YES,   /* repair everything */
	ASH_CHECK_ASK,   /* ask for each */
};

enum ash_check_severity {
	ASH_CHECK_NOTE,  /* derived or redundant data that a crash may leave stale: no inconsistency */
	ASH_CHECK_ERROR, /* an inconsistency */
	ASH_CHECK_LOSS,  /* an inconsistency whose repair gives something up */
};

/* One problem, for people and programs. Strings are valid during the call only. */
struct ash_check_problem {
	const char *code; /* stable identifier */
	enum ash_check_severity severity;
	const char *message;  /* one line, without newline */
	const char *question; /* "Clear it" */
	uint64_t ino;         /* 0 when it is about no inode */
	uint64_t block;       /* 0 when it is about no block */
	bool fixed;           /* will be repaired; meaningless in `ask` */
	bool asked;           /* `ask` decided */
	bool told;            /* a note for people also when it is not fixed */
};

struct ash_check_options {
	enum ash_check_mode mode;
	bool force; /* check a clean volume too (ASH_CHECK_NO always does) */
	bool no_threads;
	/* The block with the superblock that is believed, whatever the others say; NULL: that with the best evidence. */
	const uint64_t *super_block;
	/* Any of these may be NULL. `ask` NULL in ASH_CHECK_ASK means no. */
	bool (*ask)(void *context, const struct ash_check_problem *problem);
	void (*report)(void *context, const struct ash_check_problem *problem);
	void (*progress)(void *context, unsigned pass, uint64_t done, uint64_t total);
	void (*say)(void *context, const char *text); /* other news: log replayed, ... */
	/*
	 * Asked often. True: nothing more is repaired or asked, and the check ends at the next point where what is on the device
	 * is consistent, or the volume marked so that the next check goes on. Stays true once it was.
	 */
	bool (*cancelled)(void *context);
	void *context;
};

struct ash_check_result {
	uint64_t problems; /* inconsistencies found (notes not counted) */
	uint64_t notes;
	uint64_t fixed; /* of `problems`, those repaired */
	uint64_t left;  /* of `problems`, those not repaired */
	bool skipped;   /* clean, and not forced */
	bool changed;   /* something was written, the log's replay included, but for the mark that something is left */
	bool stopped;   /* preen met what it must not repair by itself */
	bool cancelled; /* it ended early because `cancelled` said so */
	uint64_t block_count, used_blocks, inodes, used_inodes, directories, files;
	char label[65];
	char first[256];             /* message of the first problem, for one-line reports */
	char error[BDEV_ERROR_TEXT]; /* why it could not run, when the result is negative */
};

/*
 * 0: it ran (see *result; clean when problems == 0). Negative errno when it could not: -EINVAL no Ashlar volume,
 * -ENOTSUP unknown features, -ENODATA device shorter than the volume, -ENOTUNIQ two volumes (choose by `super_block`),
 * -EROFS, -EIO, -ENOMEM.
 */
int ash_check(struct bdev *dev, const struct ash_check_options *options, struct ash_check_result *result);

#endif
