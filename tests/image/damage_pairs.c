/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Several fields at once, chosen by a seed: see damage.h. */
#include "damage.h"

#include <stdio.h>

#define FIELDS_MAX 5u

uint64_t damage_seed = 1;

static uint64_t random_next(uint64_t *state)
{
	uint64_t z = *state += 0x9e3779b97f4a7c15ull;

	z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9ull;
	z = (z ^ z >> 27) * 0x94d049bb133111ebull;
	return z ^ z >> 31;
}

/* The expectations of both together: neither can be asked for what the other excuses. */
static void join(struct test *all, const struct test *one)
{
	size_t length = strlen(all->name);

	snprintf(all->name + length, sizeof(all->name) - length, "; %.60s", one->name);
	all->blind |= one->blind;
	all->names_move |= one->names_move;
	for (unsigned i = 0; i < one->affected_count; i++)
		affect(all, one->affected[i]);
}

/* Neighbours are likelier than chance has it: two fields of one structure, two structures of one block. */
static size_t pick(const struct sites *sites, size_t last, uint64_t *state)
{
	size_t near = last + random_next(state) % 40;

	return random_next(state) % 3 || near >= sites->count ? random_next(state) % sites->count : near;
}

/* What the damages of one image were to. */
struct together {
	unsigned supers, runs;
	uint64_t astray[FIELDS_MAX]; /* what was sealed wrong, and would lead a writer astray under a right seal */
	unsigned astray_count;
};

/* What one checksum covers. */
static uint64_t sealed_unit(const struct site *site)
{
	return site->block * ASH_INODES_PER_BLOCK + (site->cover == COVER_RECORD ? site->offset / ASH_INODE_SIZE : 0);
}

/* A later damage to the same unit, with a right seal, seals the earlier one, too. */
static void note_astray(struct together *together, const struct site *site, enum seal seal, struct test *test)
{
	if (seal == SEAL_WRONG && leads_astray(site))
		together->astray[together->astray_count++] = sealed_unit(site);
	for (unsigned i = 0; seal != SEAL_WRONG && i < together->astray_count; i++)
		test->blind |= together->astray[i] == sealed_unit(site);
}

static bool is_run_bitmap(const struct image *image, const struct site *site)
{
	const struct ash_block_header *header = (const void *)(image->pristine + site->block * ASH_BLOCK_SIZE);

	return ash_get32(header->magic) == ASH_MAGIC_INODE_BITMAP;
}

static bool damage_one(struct image *image, const struct sites *sites, size_t index, uint64_t *state,
		       struct together *together, struct test *test)
{
	const struct site *site = &sites->items[index];
	uint8_t data[ASH_BLOCK_SIZE] __attribute__((aligned(4096)));
	enum change change = random_next(state) % CHANGES;
	enum seal seal = random_next(state) % 8 ? (random_next(state) % 4 ? SEAL_RIGHT : SEAL_OUTER) : SEAL_WRONG;
	struct test one;

	image_read(image, site->block, data);
	if (!site_can_seal(site, seal) || !site_change(image, sites, index, change, data))
		return false;
	one = field_test(image, site, change, seal);
	join(test, &one);
	note_astray(together, site, seal, test);
	together->supers += is_super(image, site);
	together->runs += is_run_bitmap(image, site);
	if (is_super(image, site) && together->supers > 1)
		test->any_change = test->may_refuse = true; /* perhaps no good copy is left */
	/* The backups of a volume that was not closed lack its newest runs, which are found by their bitmaps. */
	if (!image->clean && together->supers && together->runs)
		test->any_change = true;
	if (seal != SEAL_WRONG && (is_super(image, site) || site->cover == COVER_LOG))
		test->any_change = test->may_refuse = true;
	site_put(image, site, data, seal);
	return true;
}

void damage_pairs(struct image *image)
{
	static const unsigned counts[] = { 80, 2500, 10000 };
	struct sites sites;

	sites_find(image, &sites);
	for (unsigned i = 0; i < counts[test_level()]; i++) {
		uint64_t state = damage_seed * 1000003 + i;
		unsigned wanted = 2 + (unsigned)(random_next(&state) % (FIELDS_MAX - 1)), done = 0;
		struct test test = { .known = image->clean ? NULL : &image->settled };
		struct together together = { 0 };
		size_t index = 0;

		snprintf(test.name, sizeof(test.name), "pair %u of seed %llu", i, (unsigned long long)damage_seed);
		for (unsigned tries = 0; done < wanted && tries < 100; tries++) {
			index = pick(&sites, index, &state);
			done += damage_one(image, &sites, index, &state, &together, &test);
		}
		judge(image, &test);
	}
	sites_free(&sites);
}
