/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * File data: what the namespace and attribute code needs of it. The public calls are in ashlar.h.
 */
#ifndef FS_FILE_H
#define FS_FILE_H

#include "inode.h"

/* Changes of the record that go into the same transaction as a size change. `record` is locked exclusively. */
typedef int (*ash_record_change)(struct ash_txn *txn, struct ash_icore *icore, struct ash_record *record,
				 void *context);

/*
 * Set the size of a regular file. Begins its own transactions, takes the inode's lock; the caller holds neither.
 * `also` (may be NULL) runs once, in the transaction that changes the size (also when the size stays the same).
 * Growing zeroes from the old EOF to the block's end first, durable by I2's order. A long shrink is a chain:
 * the first transaction sets the size and makes the inode an orphan, the last one takes that back.
 */
int ash_file_set_size(struct ash_volume *volume, struct ash_icore *icore, uint64_t size, ash_record_change also,
		      void *context);
/* Recovery: free what lies beyond the end of file of an inode with links. */
int ash_file_finish_truncate(struct ash_volume *volume, uint64_t ino);
/* A truncation whose chain has not ended: nobody may map or grow meanwhile. Inode lock held. */
bool ash_truncation_pending(const struct ash_volume *volume, uint64_t ino);
/* It is finished, or its inode is freed. */
void ash_truncation_forget(struct ash_volume *volume, uint64_t ino);
/* Free all data extents of an inode without links (a chain of transactions); takes the lock. Record stays. */
int ash_file_free_all(struct ash_volume *volume, struct ash_icore *icore);

/* Exclusive lock held: forget buffered data at and behind `offset` and the preallocation. Never fails. */
void ash_wb_drop(struct ash_volume *volume, struct ash_icore *icore, uint64_t offset);
/* Lock held: blocks that buffered data will take (for st_blocks). */
uint64_t ash_wb_blocks(const struct ash_icore *icore);

#endif
