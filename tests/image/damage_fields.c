/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Damage to one field at a time: see damage.h. Which fields there are is found in the image (sites.h). */
#include "damage.h"

#include <stdio.h>
#include <stdlib.h>

/* ---- What is expected ---- */

void affect(struct test *test, uint64_t ino)
{
	for (unsigned i = 0; i < test->affected_count; i++)
		if (test->affected[i] == ino)
			return;
	if (test->affected_count == AFFECTED_MAX)
		die("%s: too many inodes", test->name);
	test->affected[test->affected_count++] = ino;
}

bool is_super(const struct image *image, const struct site *site)
{
	return site->structure == S_SUPER || site->cover == COVER_TABLE ||
	       (site->structure == S_BLOCK_HEADER &&
		(!site->block || site->block == ash_get64(image->super.block_count) - 1 ||
		 site->block == ash_group_start(1)));
}

/* Names, attributes and the shape of a node are checked whenever they are used. */
bool leads_astray(const struct site *site)
{
	switch (site->structure) {
	case S_INODE:
	case S_NODE:
	case S_SLOT:
	case S_BLOCK_HEADER:
	case S_DIRENT:
	case S_XATTR:
	case S_EXTERNAL:
		return false;
	default:
		return true;
	}
}

struct test field_test(const struct image *image, const struct site *site, enum change change, enum seal seal)
{
	struct test test = { .names_move = site->owner != 0 };
	bool spare;

	snprintf(test.name, sizeof(test.name), "%s: %s %s, %s", site->place, site->field.name, change_names[change],
		 seal_names[seal]);
	if (site->owner)
		affect(&test, site->owner);
	if (site->cover == COVER_NONE)
		affect(&test, image->block_file); /* either file's value */
	/* a backup's table inode may be older; that of the primary has no name, and so no links */
	spare = site->spare || (seal != SEAL_WRONG && site->cover == COVER_TABLE &&
				(site->block || !strcmp(site->field.name, "nlink")));
	test.must_report = !spare && (seal == SEAL_WRONG || (seal == SEAL_RIGHT && site->field.expect == REPORT));
	test.must_not = seal == SEAL_RIGHT && site->cover != COVER_TABLE && site->field.expect == BENIGN &&
			!site->spare;
	test.blind = seal != SEAL_WRONG && leads_astray(site);
	return test;
}

/* ---- Which fields were damaged ---- */

#define FIELDS_MAX 32u
_Static_assert(CAMPAIGN_MARKS >= FIELDS_MAX * SEALS * STRUCTURES, "a mark for each field under each seal");

/* Was an image with this damage judged? */
static bool *judged(enum structure structure, unsigned field, enum seal seal)
{
	return &campaign_marks()[(structure * FIELDS_MAX + field) * SEALS + seal];
}

/* NULL: a field that is not in the table, but a place of its own. */
static bool *judged_at(const struct site *site, enum seal seal)
{
	const struct fields *fields = &structures[site->structure];

	for (unsigned i = 0; i < fields->count && i < FIELDS_MAX; i++)
		if (fields->items[i].name == site->field.name)
			return judged(site->structure, i, seal);
	return NULL;
}

/* Sealing undoes damage to a checksum. */
static bool must_cover(const struct field *field, enum seal seal)
{
	return field->kind != F_NESTED && (seal == SEAL_WRONG || (seal == SEAL_RIGHT && field->kind != F_CHECKSUM));
}

static bool is_log_part(enum structure s)
{
	return s == S_LOG_BLOCK || s == S_LOG_RECORD || s == S_LOG_ITEM;
}

static bool is_super_part(enum structure s)
{
	return s == S_SUPER;
}

static bool is_other_part(enum structure s)
{
	return !is_log_part(s) && !is_super_part(s);
}

/* Every field of these structures was damaged, with wrong and right checksums, and judged. */
static void check_cover(bool (*wants)(enum structure s))
{
	for (enum structure s = 0; s < STRUCTURES; s++) {
		const struct fields *fields = &structures[s];
		bool good = true;
		char name[120];

		if (!wants(s) || getenv("DAMAGE_ONLY"))
			continue;
		for (unsigned i = 0; i < fields->count; i++) {
			const struct field *field = &fields->items[i];

			if ((!must_cover(field, SEAL_WRONG) || *judged(s, i, SEAL_WRONG)) &&
			    (!must_cover(field, SEAL_RIGHT) || *judged(s, i, SEAL_RIGHT)))
				continue;
			printf("# %s.%s was not damaged\n", fields->type ? fields->type : "a part", field->name);
			good = false;
		}
		snprintf(name, sizeof(name), "every field of %s %u was damaged with right and wrong checksums",
			 fields->type ? fields->type : "part", s);
		campaign_check(name, good);
	}
}

/* ---- Fields ---- */

/* A wrong checksum is seen before the value: a few values are enough but in the long run. */
static bool worth(enum change change, enum seal seal)
{
	return seal != SEAL_WRONG || test_level() == LEVEL_LONG || change == CHANGE_ZERO || change == CHANGE_ONES ||
	       change == CHANGE_PLUS_ONE || change == CHANGE_HIGH_BIT;
}

typedef void (*adjust)(const struct image *image, const struct site *site, enum seal seal, struct test *test);

/* The share leaves images out, but no field: the first damage to each is always judged. */
static void damage_site(struct image *image, const struct sites *sites, size_t index, adjust adjust)
{
	const struct site *site = &sites->items[index];
	uint8_t data[ASH_BLOCK_SIZE] __attribute__((aligned(4096)));

	for (enum seal seal = 0; seal < SEALS; seal++)
		for (enum change change = 0; change < CHANGES; change++) {
			bool *mark = judged_at(site, seal);
			struct test test;

			if (!site_can_seal(site, seal) || !worth(change, seal))
				continue;
			image_read(image, site->block, data);
			if (!site_change(image, sites, index, change, data))
				continue;
			test = field_test(image, site, change, seal);
			if (adjust)
				adjust(image, site, seal, &test);
			test.always = mark && !*mark && must_cover(&site->field, seal);
			site_put(image, site, data, seal);
			if (judge(image, &test) && mark)
				*mark = true;
		}
}

static void damage_sites(struct image *image, bool (*wants)(const struct image *image, const struct site *site),
			 adjust adjust)
{
	struct sites sites;

	sites_find(image, &sites);
	for (size_t i = 0; i < sites.count; i++)
		if (wants(image, &sites.items[i]))
			damage_site(image, &sites, i, adjust);
	sites_free(&sites);
}

static bool no_super(const struct image *image, const struct site *site)
{
	return !is_super(image, site);
}

void damage_fields(struct image *image)
{
	damage_sites(image, no_super, NULL);
	check_cover(is_other_part);
}

/* One primary, one backup: when they differ and both look good, nobody can know. */
static void adjust_super(const struct image *image, const struct site *site, enum seal seal, struct test *test)
{
	(void)image;
	(void)site;
	if (seal == SEAL_WRONG)
		return;
	test->must_report = test->must_not = false;
	test->any_change = test->may_refuse = true;
}

void damage_supers(struct image *image)
{
	damage_sites(image, is_super, adjust_super);
	check_cover(is_super_part);
}

/* Of three two outvote one. What a newer program or a larger device would have there is refused, not repaired. */
static void adjust_vote(const struct image *image, const struct site *site, enum seal seal, struct test *test)
{
	static const char *const refusals[] = { "version", "block_shift", "block_count", "incompat", "ro_compat" };

	(void)image;
	if (seal == SEAL_WRONG)
		return;
	if (site->block && !strcmp(site->field.name, "inode_runs"))
		test->must_report = false; /* a backup may be older */
	for (size_t i = 0; i < sizeof(refusals) / sizeof(refusals[0]); i++)
		if (site->structure == S_SUPER && !strcmp(site->field.name, refusals[i])) {
			test->any_change = test->may_refuse = true;
			test->must_report = false;
		}
}

static bool in_groups(const struct image *image, const struct site *site)
{
	return is_super(image, site) || site->structure == S_GROUP_TABLE ||
	       (site->structure == S_BITMAP && site->block == ash_group_bitmap(1));
}

void damage_groups(struct image *image)
{
	damage_sites(image, in_groups, adjust_vote);
}

/* ---- An image that was not closed ---- */

static bool in_log(const struct image *image, const struct site *site)
{
	(void)image;
	return site->cover == COVER_LOG || site->structure == S_LOG_CONTROL;
}

static bool not_in_log(const struct image *image, const struct site *site)
{
	return !in_log(image, site);
}

/* What the log does not touch stays, unless items with right checksums say that it changes. */
static void adjust_log(const struct image *image, const struct site *site, enum seal seal, struct test *test)
{
	test->known = &image->settled;
	test->any_change = seal != SEAL_WRONG && site->cover == COVER_LOG;
	test->must_report = test->must_not = false;
}

/* Replay may mend it. */
static void adjust_unclean(const struct image *image, const struct site *site, enum seal seal, struct test *test)
{
	if (is_super(image, site))
		adjust_super(image, site, seal, test);
	test->known = &image->settled;
	test->must_report = test->must_not = false;
}

void damage_log(struct image *image)
{
	damage_sites(image, in_log, adjust_log);
	check_cover(is_log_part);
}

void damage_unclean(struct image *image)
{
	damage_sites(image, not_in_log, adjust_unclean);
}
