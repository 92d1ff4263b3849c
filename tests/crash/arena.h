/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Crash images that are cheap to make and to throw away.
 *
 * An arena holds two images of one size: `base`, what is certainly on the disk, and `work`, the state under test. Every
 * change of `work` notes its 4 KiB block, so that going back to `base` and hashing a state cost as much as the
 * difference. Memory is taken by what was written only. The arena is also a block device over `work` with a volatile
 * cache, so that recovery can run on it.
 * One thread.
 */
#ifndef TESTS_CRASH_ARENA_H
#define TESTS_CRASH_ARENA_H

#include <ashlar/blockdev.h>

#define ARENA_POISON 0xdb /* what blocks hold that nobody wrote */

struct arena {
	uint64_t size; /* bytes, a multiple of 4096 */
	unsigned char *base, *work;
	uint64_t *block_hashes; /* of base */
	uint64_t base_hash;
	uint32_t *dirty; /* blocks in which work may differ from base */
	size_t dirty_count;
	unsigned char *is_dirty; /* per block */
	uint32_t *moved;         /* blocks in which base may differ from what was loaded last */
	size_t moved_count;
	unsigned char *is_moved;
	uint32_t *written; /* blocks in which anything may differ from poison */
	size_t written_count;
	unsigned char *is_written;
};

/* All blocks of both images are poison. */
void arena_init(struct arena *arena, uint64_t size);
void arena_free(struct arena *arena);
/* work := base. */
void arena_reset(struct arena *arena);
/* base := work. */
void arena_accept(struct arena *arena);
/* A new one; base and work := the other's work. */
void arena_init_like(struct arena *arena, const struct arena *from);
/* The same for one that was made like `from`: only what has changed since is copied. */
void arena_restore(struct arena *arena, const struct arena *from);
void arena_write(struct arena *arena, uint64_t offset, const void *data, size_t length);
void arena_zero(struct arena *arena, uint64_t offset, uint64_t length);
/* Of the content of work. */
uint64_t arena_hash(const struct arena *arena);

/* A device over `work`. It must be closed before the arena goes. `fua`: offer FUA. */
int arena_device(struct arena *arena, bool fua, struct bdev **out);

#endif
