/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Scrubbing an open volume: its metadata is read from the device and judged while the volume is in use.
 *
 * A scrub is a chain of short steps. struct ash_scrub is all that it remembers, so whoever runs it just stops calling,
 * and any number of scrubs may run at once. The same structure goes through ioctl(2) on a mount (root only), where it
 * must have one layout for all programs.
 *
 *	struct ash_scrub scrub = { .version = ASH_SCRUB_VERSION };
 *	do
 *		result = ash_scrub(volume, &scrub);	or ioctl(fd, ASH_IOC_SCRUB, &scrub)
 *	while (!result && !scrub.finished);
 */
#ifndef ASHLAR_SCRUB_H
#define ASHLAR_SCRUB_H

#include <assert.h>
#include <linux/ioctl.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

struct ash_volume;

#define ASH_SCRUB_VERSION 1u
#define ASH_SCRUB_LIST 64u /* problems that one step can name */
#define ASH_SCRUB_TEXT 80u

struct ash_scrub_problem {
	uint64_t ino;              /* 0: about no inode */
	uint64_t block;            /* of the volume */
	char what[ASH_SCRUB_TEXT]; /* with NUL */
};

struct ash_scrub {
	uint32_t version;  /* ASH_SCRUB_VERSION, else -EINVAL */
	uint32_t finished; /* out: 1 after the last step */
	/* Where the next step begins: zero for the first one, then as the last step left it. */
	uint32_t phase, fork;
	uint64_t index, key, tally[4];
	/* Since the first step: */
	uint64_t done, total; /* progress, in units of no meaning */
	uint64_t blocks;      /* read from the device and found good */
	uint64_t newer;       /* not judged on the device: a newer content is in memory, and that was judged */
	uint64_t inodes;      /* in use */
	uint64_t directories; /* of these */
	uint64_t problems;
	/* Of this step. When `problems` grew by more than `listed`, the rest is in the log of the volume's owner. */
	uint32_t listed, reserved;
	struct ash_scrub_problem list[ASH_SCRUB_LIST];
};
static_assert(sizeof(struct ash_scrub_problem) == 96, "no padding");
static_assert(sizeof(struct ash_scrub) == 128 + 96 * ASH_SCRUB_LIST, "no padding; an ioctl takes less than 16 KiB");

#define ASH_IOC_SCRUB _IOWR(0xa5, 0x53, struct ash_scrub)

/*
 * One step: some 5 ms of work, holding no lock for longer than it takes to look at one node of a tree. 0, -EINVAL
 * (version or place), -ENOMEM. Damage is no error here: it is listed, and treated as ash_open()'s options say of damage
 * that an operation meets (logged, counted, read-only unless continue_on_damage).
 */
int ash_scrub(struct ash_volume *volume, struct ash_scrub *scrub);

#ifdef __cplusplus
}
#endif
#endif
