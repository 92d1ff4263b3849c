/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Sets of states that were seen, as 64-bit keys. Two kinds: one that belongs to a process and grows, and one that
 * processes share (made before they are forked) and whose size is fixed.
 *
 * Locking: a shared set may be used by all processes at once, without locks; a set of a process by one thread.
 */
#ifndef TESTS_CRASH_SEEN_H
#define TESTS_CRASH_SEEN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct seen {
	uint64_t *keys; /* open addressing; 0: empty */
	size_t capacity, count;
	bool shared;
};

/* A growing set starts as { 0 }. `capacity`: a power of two. False: no memory. */
bool seen_share(struct seen *seen, size_t capacity);
void seen_free(struct seen *seen);
/*
 * True: it was not there. A shared set that is full says so of everything: states are then judged again and counted
 * again, never left out.
 */
bool seen_add(struct seen *seen, uint64_t key);
/* Any good mix will do: of two keys, or to draw lots with a key. */
uint64_t seen_mix(uint64_t a, uint64_t b);

#endif
