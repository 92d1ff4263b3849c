/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Lookup counts: how often each inode number was given to the caller and not yet given back.
 *
 * Concept: the kernel may hold ten million inodes, so a count must not cost an in-core inode. Each shard is an
 * open-addressing table of 16-byte slots {number, count and marks}, filled to at most 7/8, grown by half and
 * shrunk when it empties. Positions come from the high bits of a multiplicative hash, scaled to any capacity.
 * Removal shifts the following slots back, so there are no tombstones.
 *
 * Rules: a count is taken before the operation that answers with the inode commits, so that want of memory fails the
 * operation (I9). The marks say what must happen when the count gets 0; they go with the slot.
 *
 * Locks: one mutex for each shard; a leaf.
 */
#include "names.h"

#include <stdlib.h>

#define SHARDS 64u
#define CAPACITY_MIN 16u
#define MARK_SHIFT 62u
#define COUNT_MASK ((1ull << MARK_SHIFT) - 1)

struct slot {
	uint64_t ino;   /* 0: empty */
	uint64_t value; /* count, marks in the top bits */
};

struct shard {
	struct ash_lock lock;
	struct slot *_Atomic slots; /* atomic, like the capacity, for ash_lookup_prefetch() alone */
	_Atomic size_t capacity;
	size_t used;
} __attribute__((aligned(64)));

struct ash_lookups {
	struct shard shards[SHARDS];
};

static uint64_t hash_of(uint64_t ino)
{
	return ino * UINT64_C(0x9e3779b97f4a7c15);
}

static struct shard *shard_of(struct ash_volume *volume, uint64_t ino)
{
	return &ash_icache_lookups(volume)->shards[(hash_of(ino) >> 32) % SHARDS];
}

static size_t home_of(uint64_t ino, size_t capacity)
{
	return (size_t)(((unsigned __int128)hash_of(ino) * capacity) >> 64);
}

/* The slot of `ino`, or the empty one where it would go. */
static size_t find(const struct shard *shard, uint64_t ino)
{
	const struct slot *slots = shard->slots;
	size_t capacity = shard->capacity, i = home_of(ino, capacity);

	while (slots[i].ino && slots[i].ino != ino)
		if (++i == capacity)
			i = 0;
	return i;
}

static struct slot *lookup(const struct shard *shard, uint64_t ino)
{
	size_t i;

	if (!shard->used)
		return NULL;
	i = find(shard, ino);
	return shard->slots[i].ino ? &shard->slots[i] : NULL;
}

static int resize(struct shard *shard, size_t capacity)
{
	struct shard larger = { .capacity = capacity, .used = shard->used };

	larger.slots = calloc(capacity, sizeof(*larger.slots));
	if (!larger.slots)
		return -ENOMEM;
	for (size_t i = 0; i < shard->capacity; i++)
		if (shard->slots[i].ino)
			larger.slots[find(&larger, shard->slots[i].ino)] = shard->slots[i];
	free(shard->slots);
	shard->slots = larger.slots;
	shard->capacity = capacity;
	return 0;
}

static int make_room(struct shard *shard)
{
	if (!shard->capacity)
		return resize(shard, CAPACITY_MIN);
	if (shard->used + 1 <= shard->capacity - shard->capacity / 8)
		return 0;
	return resize(shard, shard->capacity + shard->capacity / 2);
}

/* Is `at` a place in the probe sequence from `home` that comes before (or is) `hole`? Cyclic. */
static bool may_move(size_t home, size_t hole, size_t at)
{
	return hole <= at ? home <= hole || home > at : home <= hole && home > at;
}

static void erase(struct shard *shard, size_t hole)
{
	size_t at = hole;

	for (;;) {
		if (++at == shard->capacity)
			at = 0;
		if (!shard->slots[at].ino)
			break;
		if (may_move(home_of(shard->slots[at].ino, shard->capacity), hole, at)) {
			shard->slots[hole] = shard->slots[at];
			hole = at;
		}
	}
	shard->slots[hole].ino = 0;
	shard->used--;
	if (shard->capacity > CAPACITY_MIN && shard->used < shard->capacity / 8)
		(void)resize(shard, shard->capacity / 4 + CAPACITY_MIN); /* no memory: stays large */
}

/* A slot that has moved meanwhile, or an address that never was one: a prefetch of anything is harmless. */
void ash_lookup_prefetch(struct ash_volume *volume, uint64_t ino)
{
	const struct shard *shard = shard_of(volume, ino);
	const struct slot *slots = atomic_load_explicit(&shard->slots, memory_order_relaxed);
	size_t capacity = atomic_load_explicit(&shard->capacity, memory_order_relaxed);

	__builtin_prefetch((const void *)((uintptr_t)slots + home_of(ino, capacity) * sizeof(*slots)), 1);
}

int ash_lookup_take(struct ash_volume *volume, uint64_t ino, uint64_t count)
{
	struct shard *shard = shard_of(volume, ino);
	struct slot *slot;
	int result = 0;

	if (!count)
		return 0;
	ash_lock(&shard->lock);
	slot = lookup(shard, ino);
	if (!slot) {
		result = make_room(shard);
		if (!result) {
			slot = &shard->slots[find(shard, ino)];
			*slot = (struct slot){ .ino = ino };
			shard->used++;
		}
	}
	if (!result)
		slot->value += count;
	ash_unlock(&shard->lock);
	return result;
}

uint64_t ash_lookup_release(struct ash_volume *volume, uint64_t ino, uint64_t count, unsigned *marks)
{
	struct shard *shard = shard_of(volume, ino);
	struct slot *slot;
	uint64_t left = 0;

	*marks = 0;
	ash_lock(&shard->lock);
	slot = lookup(shard, ino);
	if (slot) {
		uint64_t have = slot->value & COUNT_MASK;

		*marks = (unsigned)(slot->value >> MARK_SHIFT);
		left = have > count ? have - count : 0;
		slot->value -= have - left;
		if (!left)
			erase(shard, (size_t)(slot - shard->slots));
	}
	ash_unlock(&shard->lock);
	return left;
}

uint64_t ash_lookup_drop(struct ash_volume *volume, uint64_t ino, uint64_t count)
{
	unsigned marks;

	return ash_lookup_release(volume, ino, count, &marks);
}

uint64_t ash_lookup_count(struct ash_volume *volume, uint64_t ino)
{
	struct shard *shard = shard_of(volume, ino);
	const struct slot *slot;
	uint64_t count;

	ash_lock(&shard->lock);
	slot = lookup(shard, ino);
	count = slot ? slot->value & COUNT_MASK : 0;
	ash_unlock(&shard->lock);
	return count;
}

bool ash_lookup_mark(struct ash_volume *volume, uint64_t ino, unsigned marks)
{
	struct shard *shard = shard_of(volume, ino);
	struct slot *slot;

	ash_lock(&shard->lock);
	slot = lookup(shard, ino);
	if (slot)
		slot->value = (slot->value & COUNT_MASK) | (uint64_t)marks << MARK_SHIFT;
	ash_unlock(&shard->lock);
	return slot;
}

unsigned ash_lookup_marks(struct ash_volume *volume, uint64_t ino)
{
	struct shard *shard = shard_of(volume, ino);
	const struct slot *slot;
	unsigned marks;

	ash_lock(&shard->lock);
	slot = lookup(shard, ino);
	marks = slot ? (unsigned)(slot->value >> MARK_SHIFT) : 0;
	ash_unlock(&shard->lock);
	return marks;
}

int ash_lookups_open(struct ash_lookups **out)
{
	struct ash_lookups *lookups = aligned_alloc(64, sizeof(*lookups));

	if (!lookups)
		return -ENOMEM;
	memset(lookups, 0, sizeof(*lookups));
	*out = lookups;
	return 0;
}

void ash_lookups_close(struct ash_lookups *lookups)
{
	if (!lookups)
		return;
	for (unsigned i = 0; i < SHARDS; i++)
		free(lookups->shards[i].slots);
	free(lookups);
}
