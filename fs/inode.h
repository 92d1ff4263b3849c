/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Inodes: the inode table (itable.c) and in-core inodes (icache.c).
 *
 * An inode's truth is its 512-byte record in a cached block; there is no decoded copy. `struct ash_icore` is
 * what memory needs besides: the lock, the last LSN, buffered data. It exists while somebody holds it
 * or it has buffered data or an unreported error (I5); lookup counts live in a compact table of their own
 * (number -> count), so that ten million looked-up inodes cost little.
 *
 * Lock order (I10):
 *   volume.rename_lock
 *   -> inode locks: parent directories before their children, unrelated directories by number, then other
 *      inodes by number
 *   -> write-behind bookkeeping (wb lock) -> run lock -> group lock -> engine (log, buffer, shard)
 * ash_txn_begin() comes before the inode locks.
 */
#ifndef FS_INODE_H
#define FS_INODE_H

#include <ashlar/ashlar.h>
#include "alloc.h"
#include "btree.h"

struct ash_write_buffer; /* buffered pages of one inode (wbuf.c) */

struct ash_icore {
	struct ash_icore *hash_next;
	uint64_t ino;
	uint64_t generation;
	uint32_t references;    /* icache lock of its shard */
	bool deleted;           /* record freed */
	bool truncated_to_zero; /* next data is not buffered (I7: replace by truncation) */
	int write_error;        /* of background write-behind, until an fsync reported it (I5) */
	int told_error;         /* the last that an fsync reported */
	_Atomic uint32_t told;  /* how many were: who began an fsync before reports it, too */
	uint64_t error_round;   /* wb->loss_round when it happened */
	pthread_rwlock_t lock;
	_Atomic uint64_t lsn;      /* end of the last record that changed the inode or its data pointers */
	_Atomic uint64_t data_lsn; /* the same without pure time changes: for fdatasync */
	/* file_async.c: */
	_Atomic uint32_t async_writes; /* in flight, each with a reference; raised under the lock, shared */
	_Atomic uint32_t async_barred; /* callers of ash_async_bar() */
	/* lock, exclusive to change: */
	struct ash_write_buffer *buffered; /* NULL: none */
	uint64_t buffered_size;            /* file size including buffered data; valid when `buffered` */
	struct ash_extent preallocated;    /* claimed, not logged: the blocks that follow the last extent */
	uint64_t preallocated_at;          /* file block of the first of them */
};

/* Get the in-core inode, checking that the record is in use (-ESTALE) and good (-EUCLEAN). */
int ash_icore_get(struct ash_volume *volume, uint64_t ino, struct ash_icore **out);
void ash_icore_put(struct ash_volume *volume, struct ash_icore *icore);
void ash_icore_lock(struct ash_volume *volume, struct ash_icore *icore, bool exclusive);
void ash_icore_unlock(struct ash_icore *icore);
/* txn end: raise lsn (and data_lsn) of the inode when it commits. */
void ash_icore_touch(struct ash_txn *txn, struct ash_icore *icore, bool data);

/* Lookup counts (lookup_count.c; who raises them includes names.h). Returns the count left. */
uint64_t ash_lookup_drop(struct ash_volume *volume, uint64_t ino, uint64_t count);
uint64_t ash_lookup_count(struct ash_volume *volume, uint64_t ino);

/* A view of the record: the caller holds the inode's lock. Put the buffer when done. */
struct ash_record {
	struct ash_buffer *buffer;
	uint32_t offset;               /* in the block */
	const struct ash_inode *inode; /* read-only view */
};
int ash_record_get(struct ash_volume *volume, uint64_t ino, struct ash_record *out);
void ash_record_put(struct ash_volume *volume, struct ash_record *record);
/* Change header fields: `header` is a full copy of the inode's first 128 bytes (struct ash_inode up to data). */
void ash_record_set_header(struct ash_txn *txn, struct ash_record *record, const struct ash_inode *header);
/* Change `length` bytes at `offset` of the record. */
void ash_record_set(struct ash_txn *txn, struct ash_record *record, uint32_t offset, const void *source,
		    uint32_t length);
/* The tree of a fork. `attribute`: attribute fork, else data fork. Holds no reference of its own: record must live. */
void ash_record_tree(struct ash_volume *volume, const struct ash_record *record, bool attribute, struct ash_tree *out);
/* Does a read of this inode now have to move its access time? */
bool ash_atime_due(const struct ash_volume *volume, const struct ash_inode *inode);
/* Attributes as stat shows them, buffered data included (icore may be NULL). */
void ash_record_attr(const struct ash_record *record, const struct ash_icore *icore, struct ash_attr *out);
/* NULL, or what is wrong with a record (magic, number, checksum, kinds, sizes); used by cache, fsck. */
const char *ash_inode_check(uint32_t seed, uint64_t ino, const struct ash_inode *record, bool verify_crc);

/*
 * Inode numbers, two steps as blocks: a claim (no transaction, no locks; may grow the table or initialise a block in
 * system transactions of their own), then logging it. `near` is the parent's number. A block that cannot be read costs
 * the numbers that lie in it; its error is the claim's when no others are to be had.
 */
int ash_inode_claim(struct ash_volume *volume, uint64_t near, uint64_t *ino);
void ash_inode_unclaim(struct ash_volume *volume, uint64_t ino);
/* Set the bit and write a fresh record (generation included); un-logged by itself if the txn aborts, the claim then stays the caller's. */
int ash_inode_log_new(struct ash_txn *txn, uint64_t ino, const struct ash_inode *record);
/* Clear the bit, mark the record free. The number is reusable when that is durable. */
int ash_inode_log_free(struct ash_txn *txn, uint64_t ino);
uint64_t ash_new_generation(struct ash_volume *volume);

/* Where the record of `ino` lies. -ESTALE beyond the table. */
int ash_itable_locate(struct ash_volume *volume, uint64_t ino, struct ash_block_id *id, uint32_t *offset);

/* Mount: read the run list; after recovery: count. Unmount: free memory. */
int ash_itable_open(struct ash_volume *volume);
void ash_itable_close(struct ash_volume *volume);
int ash_icache_open(struct ash_volume *volume);
void ash_icache_close(struct ash_volume *volume);

/* Orphans: inodes with nlink 0 that are still looked up, or with a truncation to finish. In memory + log records. */
void ash_orphan_add(struct ash_txn *txn, uint64_t ino);
void ash_orphan_remove(struct ash_txn *txn, uint64_t ino);
/* Delete an unlinked inode whose count is 0 (a chain of transactions). */
int ash_orphan_finish(struct ash_volume *volume, uint64_t ino);
/* After replay: finish all. */
int ash_orphan_recover(struct ash_volume *volume);

#endif
