/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The parts of test_damage: each makes damaged images and has them judged. */
#ifndef TESTS_IMAGE_DAMAGE_H
#define TESTS_IMAGE_DAMAGE_H

#include "judge.h"
#include "sites.h"

/* What damage to a field may do: the test's name and expectations, from the table of fields. */
struct test field_test(const struct image *image, const struct site *site, enum change change, enum seal seal);
/* Inodes that damage to anything in the site's block may cost. */
void affect_block(struct test *test, struct image *image, const struct site *site);
void affect(struct test *test, uint64_t ino);
/* A superblock or a backup, their header and the table inode included. */
bool is_super(const struct image *image, const struct site *site);
/*
 * Under right checksums a writer cannot see that it is led astray: to blocks that are free by the bitmap only, or that
 * belong to somebody else.
 */
bool leads_astray(const struct site *site);

void damage_fields(struct image *image);      /* every field but superblocks'; clean image */
void damage_supers(struct image *image);      /* superblock and backups; clean image that ends with the device */
void damage_groups(struct image *image);      /* a volume of two groups: three superblocks, a second bitmap */
void damage_log(struct image *image);         /* control blocks, log blocks, records, items; image not closed */
void damage_unclean(struct image *image);     /* all other fields of an image not closed */
void damage_blocks(struct image *image);      /* whole blocks: zeroed, rubbish, copied, swapped */
void damage_shapes(struct image *image);      /* cases of their own: rings, shared blocks, what is lost */
void damage_doubts(struct image *image);      /* records that look like one, but say what cannot be; checksum wrong */
void damage_pairs(struct image *image);       /* several fields at once, seeded */
void damage_interrupted(struct image *image); /* repairs that are cut off */

extern uint64_t damage_seed;

#endif
