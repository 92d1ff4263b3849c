/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Transactions.
 *
 * Legal order of calls for an operation:
 *   claims that may grow things (ash_inode_claim, ash_space_reserve) - no locks held
 *   ash_txn_begin()      reserves log space; may block; NO inode or group lock held
 *   take inode locks, in the documented order
 *   ash_txn_set() ...    change blocks in place; old bytes are kept
 *   ash_txn_commit()     appends one redo record (memory only; cannot fail), or ash_txn_abort()
 *   drop inode locks, ash_txn_end() is implied by commit and abort
 *   ash_log_force(lsn)   only where durability is asked for; no inode lock needed
 *
 * Every change is byte-exact: what is logged is what differs. The caller holds the lock that owns the bytes from
 * the first change until commit or abort returned (I11). Nothing here allocates memory that can fail:
 * begin sets an arena aside, sized by the reservation.
 */
#ifndef FS_TXN_H
#define FS_TXN_H

#include "cache.h"

struct ash_txn;

/* Worst cases in log bytes. A transaction is at most an eighth of the log. */
#define ASH_TXN_SMALL (8u << 10)    /* inode records, bits, no tree change */
#define ASH_TXN_TREE (40u << 10)    /* one tree insert or delete with a full chain of splits */
#define ASH_TXN_NAME (64u << 10)    /* a name and inodes: create, unlink, link */
#define ASH_TXN_RENAME (112u << 10) /* two names */

/*
 * Open a transaction with room for `log_bytes`. Blocks while the log is full (checkpoints meanwhile).
 * -EROFS read-only or failed volume, -ENOMEM, -ENOSPC when the log carries as many orphans as it can. `*out` is the
 * caller's until commit or abort.
 */
int ash_txn_begin(struct ash_volume *volume, uint32_t log_bytes, struct ash_txn **out);
/*
 * The same for what adds no orphans but one of its own at most: when there are more orphans than the log can carry, and
 * ash_txn_begin() answers -ENOSPC, it still begins, so that orphans can be released and buffered data written out.
 */
int ash_txn_begin_modest(struct ash_volume *volume, uint32_t log_bytes, struct ash_txn **out);
/* As begin, but with the system reserve: never blocks, may be called while another transaction is open
 * and locks are held; for small changes that are never undone by a caller (group or run initialisation). */
int ash_txn_begin_system(struct ash_volume *volume, struct ash_txn **out);

/* Copy `length` bytes to `offset` of the buffer's block. Equal bytes at both ends are not logged. */
void ash_txn_set(struct ash_txn *txn, struct ash_buffer *buffer, uint32_t offset, const void *source, uint32_t length);
/*
 * A block new to its use: a buffer of zeroes with a filled header (none for the inode table), logged as a
 * format record. The block must be allocated to the caller (ash_alloc_meta). -ENOMEM.
 */
int ash_txn_new_block(struct ash_txn *txn, struct ash_block_id id, struct ash_buffer **out);
/* Set or clear bits of a bitmap block: logged and undone logically (I11). They must have the opposite value. */
void ash_txn_bits(struct ash_txn *txn, struct ash_buffer *buffer, uint32_t first, uint32_t count, bool set);
/* A metadata block was freed by this transaction: earlier log items for it are void, its buffer dies at commit. */
void ash_txn_revoke(struct ash_txn *txn, uint64_t block);
/*
 * -ENOSPC: the orphan set has grown so large that one that is to stay may not be added. That is long before the set
 * leaves no room for other transactions: who holds many unlinked files open stops nobody but who would add to them.
 */
int ash_txn_orphan_room(const struct ash_txn *txn);
/* A change of the orphan set: logged only. The set that replay starts from is the log's (engine.h). */
void ash_txn_orphan(struct ash_txn *txn, uint64_t ino, bool add);

/* Run `end(context, lsn)` when the transaction committed (lsn > 0: end of its record) or was aborted (lsn 0),
 * in reverse order of registration at an abort, in order at a commit. `context` of at most 64 bytes is copied. */
typedef void (*ash_txn_end)(struct ash_volume *volume, void *context, uint64_t lsn);
void ash_txn_on_end(struct ash_txn *txn, ash_txn_end end, const void *context, uint32_t size);

/* Log bytes collected so far, to end a bounded piece of a chain in time. */
uint32_t ash_txn_bytes(const struct ash_txn *txn);
struct ash_volume *ash_txn_volume(const struct ash_txn *txn);

/* Append the record. Returns the LSN behind it (pass it to ash_log_force); a transaction without changes
 * returns the current end of the log. The record is only in memory. */
uint64_t ash_txn_commit(struct ash_txn *txn);
/* Put everything back (I9). */
void ash_txn_abort(struct ash_txn *txn);

#endif
