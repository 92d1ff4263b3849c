/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Block allocator.
 *
 * Two truths per group: the bitmap block (in the cache; what is logged) and `busy` (in memory; what may not be
 * handed out: used blocks, claims that are not logged yet, freed blocks whose freeing is not durable or that
 * still have I/O in flight or are being discarded; I3). Allocation is two steps: a claim takes blocks from `busy`,
 * no transaction needed; logging a claim sets the bits within a transaction. A claim that is not logged costs
 * nothing after a crash.
 *
 * Locks: one per group, innermost but for the engine's; never held over device I/O (bitmaps are loaded first).
 */
#ifndef FS_ALLOC_H
#define FS_ALLOC_H

#include "txn.h"

/* A run of blocks on the device. */
struct ash_extent {
	uint64_t start; /* block */
	uint64_t count; /* blocks */
};

#define ASH_CLAIM_RESERVED 1u  /* the blocks were set aside by ash_space_reserve(): takes them from there */
#define ASH_CLAIM_EMERGENCY 2u /* may use the last blocks kept back for unlink, truncate and punch */
#define ASH_CLAIM_PROMISED 4u  /* may use half of those: a node for space that was promised earlier */
#define ASH_CLAIM_AHEAD 8u     /* counts as free until ash_claim_used() */

/*
 * Claim between 1 and `wanted` adjacent blocks, as near behind `goal` as can be (0: anywhere); prefers one long run.
 * -ENOSPC, -EIO, -EUCLEAN, -ENOMEM.
 */
int ash_claim(struct ash_volume *volume, uint64_t goal, uint64_t wanted, unsigned flags, struct ash_extent *out);
/* So many blocks of an ASH_CLAIM_AHEAD become a claim like any other. */
void ash_claim_used(struct ash_volume *volume, uint64_t count);
/* Blocks of claims with ASH_CLAIM_AHEAD, of which that is not said. */
uint64_t ash_alloc_ahead(struct ash_volume *volume);
/* Give a claim back that was not logged. */
void ash_unclaim(struct ash_volume *volume, struct ash_extent extent, unsigned flags);
/* Log a claim within `txn`. If the transaction aborts, the claim is the caller's again. -EIO, -EUCLEAN when the
 * bitmap cannot be had (not after a claim of the same mount: claimed groups stay loaded). */
int ash_alloc_log(struct ash_txn *txn, struct ash_extent extent);
/* Claim and log one metadata block; given back by itself if the transaction aborts. */
int ash_alloc_meta(struct ash_txn *txn, uint64_t goal, unsigned flags, uint64_t *block);
/*
 * Free blocks within `txn`: bits cleared now, reusable when the record is durable and no I/O that began before
 * is in flight (I3). `metadata`: each block is revoked as well. -EUCLEAN if some are already free or fixed.
 */
int ash_free(struct ash_txn *txn, struct ash_extent extent, bool metadata);

/* Set `count` blocks aside for buffered data; 0 or -ENOSPC. */
int ash_space_reserve(struct ash_volume *volume, uint64_t count);
void ash_space_unreserve(struct ash_volume *volume, uint64_t count);

/* Data I/O in flight pins what it touches: enter before the extents are looked up (or while the inode lock is held), leave when done. */
unsigned ash_io_enter(struct ash_volume *volume);
void ash_io_leave(struct ash_volume *volume, unsigned ticket);

/* Make freed blocks available whose record is durable. Called after each force; also by ENOSPC paths. */
void ash_alloc_reap(struct ash_volume *volume);
/* All blocks that were freed until now, by their count since the volume was opened; 0 when none of them is pending. */
uint64_t ash_alloc_freed(struct ash_volume *volume);
/* Reap and discard. Is nothing pending any more of what ash_alloc_freed() has counted, and nothing withdrawn by a trim? */
bool ash_alloc_available(struct ash_volume *volume, uint64_t freed);
/*
 * Somebody lacks space: trims under way withdraw no more of it. True: they have withdrawn some since the last call, which
 * may be what was missing. ash_alloc_available() tells when it is back.
 */
bool ash_alloc_lack(struct ash_volume *volume);
/* Free blocks as statfs shows them: free or on their way there; available: less what is set aside. */
void ash_alloc_counts(struct ash_volume *volume, uint64_t *free_blocks, uint64_t *available);
/*
 * Discard what waits for it (option `discard`), for about so long, or until somebody lacks space, who does the rest.
 * True: some is left.
 */
bool ash_alloc_discard(struct ash_volume *volume, uint64_t budget_ns);
/*
 * Growing (grow.c), with rename_lock held and nothing else going on in the volume. Prepare references the table
 * blocks of the groups to come; the caller changes table, bitmap of the old last group and superblock in one transaction,
 * sets the volume's new block_count and group_count, and then extends, which cannot fail.
 */
int ash_alloc_extend_prepare(struct ash_volume *volume, uint32_t group_count);
void ash_alloc_extend(struct ash_volume *volume, uint32_t old_groups, uint64_t old_block_count);
/* Table block of a prepared group. */
struct ash_buffer *ash_alloc_table(struct ash_volume *volume, uint64_t group);
/* Are there blocks among these that no file can own: superblocks, bitmaps, group table, log? Inside the volume. */
bool ash_is_log_or_group_table(const struct ash_volume *volume, struct ash_extent extent);
bool ash_is_fixed(const struct ash_volume *volume, struct ash_extent extent);
/* Bitmap buffer of a group for ash_txn_bits(); NULL when the group is not initialised. -EIO, -EUCLEAN. */
int ash_alloc_bitmap(struct ash_volume *volume, uint32_t group, struct ash_buffer **bitmap);
/*
 * For the outermost level of an operation that got -ENOSPC (nothing open, no lock held): flush buffered data,
 * force the log, reap. True: try once more.
 */
bool ash_reclaim_space(struct ash_volume *volume);

#endif
