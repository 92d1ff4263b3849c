/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What all the file data code shares: one inode looked at or changed under its lock, the blocks claimed on the way,
 * device I/O for its extents.
 *
 * Legal order: ash_edit_begin*() -> map, claim, write data, ash_edit_map_new() ... -> ash_edit_header() ->
 * ash_edit_commit(), or ash_edit_abort() at any point, which gives claims back. Data written before the commit is
 * announced to the log (I2) by ash_data_write() itself.
 */
#ifndef FS_FILE_EDIT_H
#define FS_FILE_EDIT_H

#include <sys/stat.h>
#include "file.h"
#include "map.h"
#include "volume.h"
#include "wbuf.h"
#include "xattr.h"

#define ASH_FILE_MAX_SIZE ((uint64_t)INT64_MAX)
#define ASH_FILE_MAX_BLOCKS ((ASH_FILE_MAX_SIZE >> ASH_BLOCK_SHIFT) + 1)
#define ASH_BOUNCE_BYTES (128u << 10)
#define ASH_EDIT_CLAIMS 32u
/* Log bytes of a data transaction (below an eighth of the smallest log), and of one step in it. */
#define ASH_EDIT_LOG_BYTES ASH_TXN_RENAME
#define ASH_EDIT_SMALL_LOG_BYTES ASH_TXN_NAME
#define ASH_EDIT_STEP_BYTES (52u << 10)

struct ash_edit_claim {
	struct ash_extent extent;
	uint64_t block; /* of the file: what it is for */
	unsigned flags;
};

struct ash_edit {
	struct ash_volume *volume;
	struct ash_icore *icore;
	struct ash_txn *txn; /* NULL: only looked at */
	struct ash_record record;
	struct ash_tree tree;
	uint32_t log_bytes;
	uint64_t added;   /* data blocks mapped by this transaction */
	uint64_t removed; /* data blocks freed by it */
	unsigned claim_count;
	struct ash_edit_claim claims[ASH_EDIT_CLAIMS];
};

/* Lock the inode and view its record. -ESTALE, -EISDIR, -EINVAL (neither file nor directory). */
int ash_edit_look(struct ash_edit *edit, struct ash_volume *volume, struct ash_icore *icore, bool exclusive);
/* The same within a new transaction, exclusively. */
int ash_edit_begin(struct ash_edit *edit, struct ash_volume *volume, struct ash_icore *icore, uint32_t log_bytes);
/* The same when the map is to be changed: nothing is buffered, no truncation is pending. */
int ash_edit_begin_settled(struct ash_edit *edit, struct ash_volume *volume, struct ash_icore *icore,
			   uint32_t log_bytes);
/* One more reference to an in-core inode that is alive and locked exclusively. */
void ash_edit_hold(struct ash_volume *volume, struct ash_icore *icore);
/* Commit, unlock. `data`: fdatasync must wait for it. */
uint64_t ash_edit_commit(struct ash_edit *edit, bool data);
/* The two halves of it. */
uint64_t ash_edit_commit_locked(struct ash_edit *edit, bool data);
void ash_edit_unlock(struct ash_edit *edit);
/* Undo (I9) and give claims back, but stay locked; then only ash_edit_abort() is allowed. */
void ash_edit_undo(struct ash_edit *edit);
/* Undo (I9), give claims back, unlock. Also ends a look. */
void ash_edit_abort(struct ash_edit *edit);

static inline uint64_t ash_edit_disk_size(const struct ash_edit *edit)
{
	return ash_get64(edit->record.inode->size);
}
/* As readers see it. */
static inline uint64_t ash_edit_size(const struct ash_edit *edit)
{
	return edit->icore->buffered ? edit->icore->buffered_size : ash_edit_disk_size(edit);
}
static inline uint64_t ash_blocks_of(uint64_t bytes)
{
	return (bytes >> ASH_BLOCK_SHIFT) + ((bytes & (ASH_BLOCK_SIZE - 1)) != 0);
}
/* Is there room in the transaction for one more step (claim and insert)? */
bool ash_edit_room(const struct ash_edit *edit);
/* The same for an insert of what is claimed. */
bool ash_edit_log_room(const struct ash_edit *edit);

/* Copy of the record's header with the blocks of this transaction counted in; change it and set it. */
void ash_edit_header(const struct ash_edit *edit, struct ash_inode *header);
void ash_edit_set_header(struct ash_edit *edit, const struct ash_inode *header);
void ash_stamp_mtime(struct ash_inode *header, struct timespec now);
void ash_stamp_ctime(struct ash_inode *header, struct timespec now);

/* ash_map_get() that knows forks without a tree. */
int ash_edit_map(const struct ash_edit *edit, uint64_t block, uint64_t limit, struct ash_mapping *out);
/* Claim up to `wanted` blocks for file block `block`; belongs to the edit until commit. */
int ash_edit_claim(struct ash_edit *edit, uint64_t block, uint64_t wanted, unsigned flags, struct ash_extent *out);
/* Give the last claim back (its I/O failed). */
void ash_edit_unclaim_last(struct ash_edit *edit);
/* Log the last claim and map it at `block`. After an error the edit must be aborted. */
int ash_edit_map_new(struct ash_edit *edit, uint64_t block, struct ash_extent extent, bool unwritten);
/* Turn inline content into a block, written before its record (I2). After an error the edit must be aborted. */
int ash_edit_outline(struct ash_edit *edit, unsigned claim_flags);
/* Zero from the end of file to the end of its block, where that lies on the device (I2: before the size grows). */
int ash_edit_zero_tail(struct ash_edit *edit);
/* Zero bytes [offset, end) of one block in place, if it is written. */
int ash_edit_zero_part(struct ash_edit *edit, uint64_t offset, uint64_t end);
/*
 * `mapping`, just written, lies in an unwritten extent: turn all of that extent into a written one, with zeroes in what
 * was not written. For when no block can be had for the node that a split may need.
 */
int ash_edit_set_whole_written(struct ash_edit *edit, const struct ash_mapping *mapping);
/* Bytes of inline content changed or grown: `size` is the new size, at most ASH_DATA_FORK_SIZE. */
void ash_edit_set_inline(struct ash_edit *edit, const uint8_t *content, uint64_t size);

/* One block as the file has it: zeroes for holes, unwritten extents and bytes past the end of file. */
int ash_edit_fill(struct ash_edit *edit, const struct ash_mapping *mapping, uint64_t block, uint8_t *out);
/* Bytes of one mapping. `capacity`: bytes that may be overwritten at `target`. */
int ash_edit_read_run(struct ash_edit *edit, const struct ash_mapping *mapping, uint8_t *target, uint64_t offset,
		      uint64_t length, uint64_t capacity);
int ash_edit_write_run(struct ash_edit *edit, const struct ash_mapping *mapping, const uint8_t *source, uint64_t offset,
		       uint64_t length);

/*
 * Before blocks [block, +count) of the file are overwritten in place: if the end of file lies in one of them and was
 * cut there by a truncation that is not durable yet, make it so. Else a crash would show the old size over new bytes.
 */
int ash_edit_settle_end(struct ash_edit *edit, uint64_t block, uint64_t count);
/* Take blocks out of [block, +count), from its end, as many as fit the transaction; *remaining are left. */
int ash_edit_remove(struct ash_edit *edit, uint64_t block, uint64_t count, uint64_t *remaining);

/* Device I/O; offsets in blocks of the device. A finished write is noted in the log (I2). */
int ash_data_write(struct ash_volume *volume, const void *source, uint64_t length, uint64_t block);
int ash_data_zero(struct ash_volume *volume, uint64_t count, uint64_t block); /* `count` blocks */
int ash_data_writev(struct ash_volume *volume, struct iovec *iov, unsigned count, uint64_t block);
/* -EUCLEAN, and told, when the extent lies over blocks of the volume; the others here ask themselves. */
int ash_data_check(struct ash_volume *volume, struct ash_extent extent);
/*
 * Writes that are independent of each other, at most IOV_MAX vectors each, together; the caller has checked them. All
 * are over when it returns, each with its `result`; behind the first that failed some may not have been tried, and
 * have failed, too.
 */
void ash_data_write_many(struct ash_volume *volume, struct bdev_request *requests, unsigned count);
uint8_t *ash_bounce_get(struct ash_volume *volume); /* ASH_BOUNCE_BYTES, aligned; NULL: out of memory */
void ash_bounce_put(struct ash_volume *volume, uint8_t *bounce);
static inline bool ash_memory_aligned(const struct ash_volume *volume, const void *memory)
{
	return ((uintptr_t)memory & (bdev_geometry(volume->dev)->memory_align - 1)) == 0;
}

/*
 * Asynchronous writes hold no lock. Who reads part of a block to write the whole of it back would undo one that lands
 * in between, after it was acknowledged (I5). So such an operation keeps them out, from before it takes the inode's
 * lock until its end: ash_async_bar() waits for those in flight, new ones become blocking calls until
 * ash_async_admit(). No lock held (I10). On an error nothing is barred.
 * The block that the end of file cuts needs none of it: a write in flight lies within the size, and cutting that waits.
 */
int ash_async_bar(struct ash_volume *volume, struct ash_icore *icore);
void ash_async_admit(struct ash_icore *icore);
/* Wait for one of the requests that the calling thread has in flight itself. False: there is none that it may wait for. */
bool ash_async_reap_own(struct ash_volume *volume);

/* What is about to be done to the content of a file. */
struct ash_file_intent {
	bool appends;          /* -EFBIG when the file cannot grow */
	bool overwrites;       /* takes away what is there: not of an append-only file */
	bool writes;           /* from `at` on: the same, where the file ends behind it */
	uint64_t at;           /* bytes */
	bool kills_suidgid;    /* the caller may not leave suid and sgid behind */
	bool kills_all_sgid;   /* nor sgid where the group may not execute */
	bool keeps_privileges; /* who wrote has lost them before: data from the kernel's page cache */
};
/*
 * Before a change of content: -EPERM if the file is immutable, or append-only and not only appended to. Then clear
 * security.capability, and suid and sgid if asked, as a transaction of its own when there is anything to clear.
 * *sync: the change has to be durable: the inode is marked synchronous (chattr +S), or all of the volume is.
 */
int ash_file_begin_change(struct ash_volume *volume, struct ash_icore *icore, struct ash_file_intent intent,
			  bool *sync);
/*
 * A mode after a change by somebody without privileges. Set-group-ID without group execution once meant mandatory
 * locks: it goes where the caller is not in the group (`all_sgid`; setattr_should_drop_sgid() of the kernel).
 */
uint32_t ash_mode_without_suidgid(uint32_t mode, bool all_sgid);
int ash_file_resume_truncate(struct ash_volume *volume, struct ash_icore *icore);
/* After a change: what -o sync and O_SYNC ask for. */
int ash_file_make_durable(struct ash_volume *volume, struct ash_icore *icore, bool data_only);
/* Free [block, +count) from its end, a chain of transactions; nothing buffered there. */
int ash_file_remove_blocks(struct ash_volume *volume, struct ash_icore *icore, uint64_t block, uint64_t count);

#endif
