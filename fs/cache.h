/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Metadata block cache.
 *
 * A buffer is the one copy in memory of a metadata block's current content. It is found by block
 * number, counted by references, verified when it is read (I8), and changed only through the calls
 * of txn.h. A buffer holds committed bytes plus those of open transactions; each of these has its
 * old bytes in the undo list of the buffer, so that the checkpoint can copy the committed image at any
 * moment without waiting for anybody.
 *
 * Who may look at the bytes: the holder of the lock that owns them (inode lock, run lock, group lock;
 * I11) reads without a lock of the cache. All writing goes through txn.h, which takes `lock`.
 *
 * Lock order inside the engine: log.lock -> buffer.lock -> shard.lock. No engine lock is ever held while a
 * caller's code runs, nor over device I/O.
 */
#ifndef FS_CACHE_H
#define FS_CACHE_H

#include "lock.h"
#include <ashlar/format.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

struct ash_volume;
struct ash_undo;

#define ASH_TYPE_INODE_TABLE 1u /* no block header; other types are the header's magic */
#define ASH_TYPE_LOST 2u        /* its content is not known: nobody can get such a buffer (log_mount.c) */

/* What a block must be: checked against the header when it is read or found in the cache. */
struct ash_block_id {
	uint64_t block;
	uint32_t type;  /* ASH_MAGIC_* or ASH_TYPE_INODE_TABLE */
	uint64_t owner; /* inode table: first inode number of the block */
};

struct ash_buffer {
	/* what every ash_buffer_get() looks at, in one cache line; changed under the shard lock where no other is named (but
	 * `accessed`, a hint). Without it, anybody may look at hash_next, id.block and the references, and whoever has a
	 * reference at all of it */
	struct ash_buffer *_Atomic hash_next;
	struct ash_block_id id;
	uint8_t *data;               /* ASH_BLOCK_SIZE bytes, aligned */
	_Atomic uint32_t references; /* no lock; CLAIMED (cache.c): nobody may take one */
	_Atomic bool dirty;          /* set by commit (a reference is held), cleared by the checkpoint */
	/* for btree.c: the node's inside was checked since it was loaded; inode table: bits 2 i and 2 i + 1 stand
	 * for the data and the attribute root of record i */
	_Atomic uint16_t checked;
	_Atomic bool accessed, loading, replayed, detached;
	int load_error;
	_Atomic uint32_t bad_records; /* inode table: bit i: record i failed its check when read */

	struct ash_buffer *clock_next, *clock_previous;
	struct ash_buffer *dirty_next, *dirty_previous; /* log.lock */
	struct ash_lock lock;                           /* bytes against the checkpoint's copy; the undo list */
	struct ash_undo *undo;                          /* newest first; of open transactions */
	/* log.lock (last_lsn: also `lock`): */
	uint64_t first_lsn;      /* oldest record not yet home, while `dirty`; 0 is one, too */
	uint64_t last_lsn;       /* end of the newest record that touched it */
	uint64_t next_first_lsn; /* first record after the copy that is on its way home */
	bool writing;            /* a copy is on its way home */
	bool dead;               /* its block was freed: never write it home */
} __attribute__((aligned(64)));

/*
 * Get a reference to the block, reading it if need be. -EUCLEAN when it is not what `id` says
 * (counted and logged), -EIO, -ENOMEM. May block on the device; the caller may hold owner locks.
 */
int ash_buffer_get(struct ash_volume *volume, struct ash_block_id id, struct ash_buffer **out);
/* The same for a caller that will look at the bytes from `offset` on first: they are fetched with the buffer. */
int ash_buffer_get_at(struct ash_volume *volume, struct ash_block_id id, uint32_t offset, struct ash_buffer **out);
/* Bytes from `offset` of the block will be asked for soon: fetch them, if it is there. No lock needed. */
void ash_buffer_prefetch(struct ash_volume *volume, uint64_t block, uint32_t offset);
void ash_buffer_put(struct ash_volume *volume, struct ash_buffer *buffer);
/* One more reference. */
static inline struct ash_buffer *ash_buffer_hold(struct ash_buffer *buffer)
{
	atomic_fetch_add(&buffer->references, 1);
	return buffer;
}
/* Report damage found by a caller inside a block: counts it, logs one line, returns -EUCLEAN (or the
 * volume's policy makes it read-only as well: errors=remount-ro). */
int ash_damaged(struct ash_volume *volume, uint64_t block, const char *what) __attribute__((cold));

#endif
