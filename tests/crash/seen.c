/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Sets of keys: see seen.h. In a shared set a slot changes once, from empty to its key, by compare-and-swap; what a
 * process adds is therefore new for exactly one of them.
 */
#include "seen.h"

#include <stdlib.h>
#include <sys/mman.h>
#include "tests/model/content.h"

#define PROBES 256u /* so many slots taken in a row: the set counts as full */

bool seen_share(struct seen *seen, size_t capacity)
{
	void *memory = mmap(NULL, capacity * sizeof(uint64_t), PROT_READ | PROT_WRITE,
			    MAP_SHARED | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	*seen = (struct seen){ .capacity = capacity, .shared = true };
	seen->keys = memory == MAP_FAILED ? NULL : memory;
	return seen->keys != NULL;
}

void seen_free(struct seen *seen)
{
	if (seen->shared)
		munmap(seen->keys, seen->capacity * sizeof(*seen->keys));
	else
		free(seen->keys);
	*seen = (struct seen){ 0 };
}

uint64_t seen_mix(uint64_t a, uint64_t b)
{
	uint64_t z = a + b * 0x9e3779b97f4a7c15ull + 0x9e3779b97f4a7c15ull;

	z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9ull;
	z = (z ^ z >> 27) * 0x94d049bb133111ebull;
	return z ^ z >> 31;
}

static bool add_shared(struct seen *seen, uint64_t key)
{
	for (size_t i = 0; i < PROBES; i++) {
		uint64_t *slot = &seen->keys[(key + i) & (seen->capacity - 1)], found = 0;

		if (__atomic_compare_exchange_n(slot, &found, key, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED))
			return true;
		if (found == key)
			return false;
	}
	return true;
}

static void grow(struct seen *seen)
{
	struct seen bigger = { .capacity = seen->capacity ? seen->capacity * 2 : 1024 };

	bigger.keys = test_alloc(bigger.capacity * sizeof(*bigger.keys));
	for (size_t i = 0; i < seen->capacity; i++) {
		if (seen->keys[i])
			seen_add(&bigger, seen->keys[i]);
	}
	free(seen->keys);
	*seen = bigger;
}

bool seen_add(struct seen *seen, uint64_t key)
{
	size_t at;

	key = key ? key : 1;
	if (seen->shared)
		return add_shared(seen, key);
	if (seen->count * 2 >= seen->capacity)
		grow(seen);
	for (at = key & (seen->capacity - 1); seen->keys[at]; at = (at + 1) & (seen->capacity - 1)) {
		if (seen->keys[at] == key)
			return false;
	}
	seen->keys[at] = key;
	seen->count++;
	return true;
}
