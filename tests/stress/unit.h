/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Data that tells whose it is: every 16 bytes hold the file's number, the number of the write, their own place in the
 * file, and a check over the three. So foreign, misplaced and old bytes are each recognised wherever they show up.
 */
#ifndef TESTS_STRESS_UNIT_H
#define TESTS_STRESS_UNIT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define UNIT 16u

/* These work on memory of the caller's alone, and a lot of it: nothing that TSan need look at. */
#define UNIT_LOOP __attribute__((no_sanitize("thread")))

struct unit {
	uint32_t owner, generation, place, check;
};

UNIT_LOOP static inline uint32_t unit_check(const struct unit *unit)
{
	uint64_t mix = unit->owner * UINT64_C(0x9e3779b97f4a7c15) ^ unit->generation * UINT64_C(0xc2b2ae3d27d4eb4f) ^
		       unit->place * UINT64_C(0x165667b19e3779f9);

	return (uint32_t)((mix ^ mix >> 29) * UINT64_C(0xbf58476d1ce4e5b9) >> 32);
}

/* `offset` and `length` are multiples of UNIT. */
UNIT_LOOP static inline void unit_fill(void *buffer, size_t length, uint64_t offset, uint32_t owner,
				       uint32_t generation)
{
	struct unit *units = buffer;

	for (size_t i = 0; i < length / UNIT; i++) {
		units[i] = (struct unit){ owner, generation, (uint32_t)(offset / UNIT + i), 0 };
		units[i].check = unit_check(&units[i]);
	}
}

UNIT_LOOP static inline bool unit_zero(const struct unit *unit)
{
	return !(unit->owner | unit->generation | unit->place | unit->check);
}

/* Is it a unit of this file and place, of whatever generation? */
UNIT_LOOP static inline bool unit_right(const struct unit *unit, uint64_t offset, uint32_t owner)
{
	return unit->owner == owner && unit->place == (uint32_t)(offset / UNIT) && unit->check == unit_check(unit);
}

#endif
