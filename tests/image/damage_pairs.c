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

static bool damage_one(struct image *image, const struct sites *sites, size_t index, uint64_t *state, unsigned *supers,
		       struct test *test)
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
	if (is_super(image, site) && ++*supers > 1)
		test->any_change = test->may_refuse = true; /* perhaps no good copy is left */
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
		unsigned wanted = 2 + (unsigned)(random_next(&state) % (FIELDS_MAX - 1)), done = 0, supers = 0;
		struct test test = { .known = image->clean ? NULL : &image->settled };
		size_t index = 0;

		snprintf(test.name, sizeof(test.name), "pair %u of seed %llu", i, (unsigned long long)damage_seed);
		for (unsigned tries = 0; done < wanted && tries < 100; tries++) {
			index = pick(&sites, index, &state);
			done += damage_one(image, &sites, index, &state, &supers, &test);
		}
		judge(image, &test);
	}
	sites_free(&sites);
}
