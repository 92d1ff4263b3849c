/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Block maps: one bit per block, in the form of the bitmap blocks on disk, memory only for groups in which
 * something is set. A map of fixed blocks starts each group with what format.h says is always in use there, so
 * that it can be compared with the bitmap block as it is. No locks: one thread.
 */
#include "internal.h"

#include <stdlib.h>

uint64_t group_length(uint64_t block_count, uint64_t group)
{
	uint64_t rest = block_count - ash_group_start(group);

	return rest < ASH_BLOCKS_PER_GROUP ? rest : ASH_BLOCKS_PER_GROUP;
}

int list_grow(void *items, size_t *space, size_t count, size_t size)
{
	size_t wanted = count < 16 ? 16 : count * 2;
	void **place = items;
	void *grown = realloc(*place, wanted * size);

	if (!grown)
		return -ENOMEM;
	*place = grown;
	*space = wanted;
	return 0;
}

size_t list_from(const void *items, size_t count, size_t size, uint64_t key)
{
	size_t low = 0, high = count;

	while (low < high) {
		size_t middle = (low + high) / 2;
		uint64_t found;

		memcpy(&found, (const uint8_t *)items + middle * size, sizeof(found));
		if (found < key)
			low = middle + 1;
		else
			high = middle;
	}
	return low;
}

int map_open(struct block_map *map, uint64_t block_count, bool fixed)
{
	map->group_count = (block_count + ASH_BLOCKS_PER_GROUP - 1) / ASH_BLOCKS_PER_GROUP;
	map->block_count = block_count;
	map->fixed = fixed;
	map->groups = calloc(map->group_count, sizeof(*map->groups));
	map->full = calloc(map->group_count, sizeof(*map->full));
	return map->groups && map->full ? 0 : -ENOMEM;
}

void map_close(struct block_map *map)
{
	for (uint64_t i = 0; map->groups && i < map->group_count; i++)
		free(map->groups[i]);
	free(map->groups);
	free(map->full);
	map->groups = NULL;
	map->full = NULL;
}

/* The bits of word `word` that lie in [first, end). */
static uint64_t word_mask(uint64_t word, uint64_t first, uint64_t end)
{
	uint64_t low = word * 64, mask = ~0ull;

	if (first >= low + 64 || end <= low)
		return 0;
	if (first > low)
		mask &= ~0ull << (first - low);
	if (end < low + 64)
		mask &= ~0ull >> (low + 64 - end);
	return mask;
}

static void fixed_bits(uint64_t block_count, uint64_t group, uint64_t *bits)
{
	uint64_t length = group_length(block_count, group);

	for (uint64_t bit = 0; bit <= ash_group_bitmap(group) - ash_group_start(group); bit++)
		bits[0] |= htole64(1ull << bit);
	for (uint64_t word = length / 64; word < GROUP_WORDS; word++)
		bits[word] |= htole64(word_mask(word, length, ASH_BITS_PER_BITMAP));
}

static uint64_t *map_group(struct block_map *map, uint64_t group)
{
	if (!map->groups[group]) {
		map->groups[group] = calloc(GROUP_WORDS, sizeof(uint64_t));
		if (map->groups[group] && map->fixed)
			fixed_bits(map->block_count, group, map->groups[group]);
	}
	return map->groups[group];
}

bool map_test(const struct block_map *map, uint64_t block)
{
	uint64_t group = block / ASH_BLOCKS_PER_GROUP, bit = block % ASH_BLOCKS_PER_GROUP;

	if (!map->groups[group])
		return map->fixed && block <= ash_group_bitmap(group);
	return le64toh(map->groups[group][bit / 64]) >> (bit % 64) & 1;
}

static_assert(ASH_BLOCKS_PER_GROUP % 64 == 0, "no word of a map has blocks of two groups");

uint64_t map_word(const struct block_map *map, uint64_t block)
{
	uint64_t group = block / ASH_BLOCKS_PER_GROUP, bit = block % ASH_BLOCKS_PER_GROUP;

	if (map->groups[group])
		return le64toh(map->groups[group][bit / 64]);
	return map->fixed ? word_mask(bit / 64, 0, ash_group_bitmap(group) - ash_group_start(group) + 1) : 0;
}

static int note_twice(struct block_map *twice, uint64_t group, uint64_t word, uint64_t bits)
{
	uint64_t *words = map_group(twice, group);

	if (!words)
		return -ENOMEM;
	words[word] |= htole64(bits);
	return 0;
}

static int set_in_group(struct block_map *map, uint64_t group, uint64_t first, uint64_t end, struct block_map *twice,
			uint64_t *hits)
{
	uint64_t *words = map_group(map, group);

	if (!words)
		return -ENOMEM;
	for (uint64_t word = first / 64; word * 64 < end; word++) {
		uint64_t mask = word_mask(word, first, end), old = le64toh(words[word]) & mask;

		words[word] |= htole64(mask);
		if (!old)
			continue;
		if (hits)
			*hits += (uint64_t)__builtin_popcountll(old);
		if (twice && note_twice(twice, group, word, old))
			return -ENOMEM;
	}
	return 0;
}

/* 28 bytes on the device can claim a million blocks, and as many such records the same ones: each costs little then. */
static int set_whole_group(struct block_map *map, uint64_t group, struct block_map *twice, uint64_t *hits)
{
	bool again = map->full[group];
	int result;

	if (again && (!twice || twice->full[group])) {
		if (hits)
			*hits += ASH_BLOCKS_PER_GROUP;
		return 0;
	}
	result = set_in_group(map, group, 0, ASH_BLOCKS_PER_GROUP, twice, hits);
	map->full[group] = again || !result;
	if (again && twice && !result)
		twice->full[group] = true;
	return result;
}

int map_set(struct block_map *map, uint64_t start, uint64_t count, struct block_map *twice, uint64_t *hits)
{
	while (count) {
		uint64_t group = start / ASH_BLOCKS_PER_GROUP, first = start % ASH_BLOCKS_PER_GROUP;
		uint64_t part = ASH_BLOCKS_PER_GROUP - first < count ? ASH_BLOCKS_PER_GROUP - first : count;
		int result = part == ASH_BLOCKS_PER_GROUP ? set_whole_group(map, group, twice, hits) :
							    set_in_group(map, group, first, first + part, twice, hits);

		if (result)
			return result;
		start += part;
		count -= part;
	}
	return 0;
}

bool map_any(const struct block_map *map, uint64_t start, uint64_t count)
{
	while (count) {
		uint64_t group = start / ASH_BLOCKS_PER_GROUP, first = start % ASH_BLOCKS_PER_GROUP;
		uint64_t part = ASH_BLOCKS_PER_GROUP - first < count ? ASH_BLOCKS_PER_GROUP - first : count;

		if (!map->groups[group] && map->fixed && start <= ash_group_bitmap(group))
			return true;
		if (map->groups[group])
			for (uint64_t word = first / 64; word * 64 < first + part; word++)
				if (le64toh(map->groups[group][word]) & word_mask(word, first, first + part))
					return true;
		start += part;
		count -= part;
	}
	return false;
}

void map_group_bits(const struct block_map *map, uint64_t group, uint64_t bits[GROUP_WORDS])
{
	memset(bits, 0, GROUP_WORDS * sizeof(uint64_t));
	if (map->groups[group])
		memcpy(bits, map->groups[group], GROUP_WORDS * sizeof(uint64_t));
	else if (map->fixed)
		fixed_bits(map->block_count, group, bits);
}

void map_clear(struct block_map *map, uint64_t start, uint64_t count)
{
	for (uint64_t block = start; block < start + count; block++) {
		uint64_t *words = map->groups[block / ASH_BLOCKS_PER_GROUP], bit = block % ASH_BLOCKS_PER_GROUP;

		map->full[block / ASH_BLOCKS_PER_GROUP] = false;
		if (words)
			words[bit / 64] &= htole64(~(1ull << bit % 64));
	}
}

uint64_t map_group_used(const struct block_map *map, uint64_t group)
{
	uint64_t used = 0;

	if (!map->groups[group])
		return map->fixed ? ash_group_bitmap(group) - ash_group_start(group) + 1 : 0;
	for (uint64_t word = 0; word < GROUP_WORDS; word++)
		used += (uint64_t)__builtin_popcountll(map->groups[group][word]);
	return used - (map->fixed ? ASH_BITS_PER_BITMAP - group_length(map->block_count, group) : 0);
}
