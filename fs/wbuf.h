/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Write-behind: small writes wait here, in memory, until they get blocks.
 *
 * One bounded region of pages for the volume; each inode with buffered data has a sorted array of them. Space for
 * everything buffered is reserved when it is buffered, so that writing it out cannot end in ENOSPC.
 *
 * Rules
 * - While an inode has buffered data, nothing but the flush changes its extent map: whoever wants to (write through,
 *   truncate, punch, fallocate) flushes or drops first. So a page that lay over a hole still does when it is flushed.
 * - Bytes of a page at and behind `buffered_size` are zero.
 * - A size raised by buffered data has the page with the old end of file in the buffer as well, zeroed behind it (I2).
 * - A data fork of kind INLINE with buffered data has its page 0 in the buffer.
 *
 * Locks: the inode's lock (exclusive to change) owns struct ash_write_buffer except the fields marked; `lock` of struct
 * ash_write_behind is taken after it. `flush_lock` is taken before everything, by who flushes many inodes.
 */
#ifndef FS_WBUF_H
#define FS_WBUF_H

#include "inode.h"
#include "volume.h"

/* Longer writes go through: copying them costs more than waiting for the device. */
#define ASH_WB_MAX_WRITE (512u << 10)
/* Writes of an inode's data that fail in a row until it is given up. To find one page among 1024, and another block, takes 11. */
#define ASH_WB_FAILURES_MAX 16u
/* In-core inodes kept for a preallocation or a truncation to zero. */
#define ASH_WB_KEEPERS 64u
#define ASH_WB_SPARE_BOUNCES 8u
#define ASH_WB_SPARE_QUEUES 16u
#define ASH_WB_SHRINKS 32u

struct ash_wb_page {
	uint64_t block;     /* of the file */
	uint32_t page;      /* index in the region */
	uint16_t hole;      /* 1: has no block on the device yet */
	uint16_t unwritten; /* 1: has an unwritten one */
};

struct ash_write_buffer {
	struct ash_write_buffer *next, *previous; /* wb lock: dirty list, oldest first */
	struct ash_icore *icore;                  /* holds a reference */
	uint64_t sequence;                        /* constant: order of creation */
	uint64_t since_ns;                        /* constant: monotonic time of creation */
	bool taken;                               /* wb lock: a flusher has it off the list, and will free it */
	bool detached;                            /* wb lock: emptied by somebody else while taken */
	bool times;                               /* `modified` is to become mtime and ctime */
	struct timespec modified;
	uint64_t reserved; /* blocks set aside in the allocator for this inode */
	uint32_t holes;    /* pages with `hole` */
	uint32_t ranges;   /* at least the number of map changes: runs of holes, twice those unwritten */
	uint32_t count, capacity;
	struct ash_wb_page *pages;   /* sorted by block */
	struct ash_wb_page first[2]; /* `pages` points here while they suffice */
};

struct ash_wb_keeper {
	struct ash_icore *icore; /* holds a reference; NULL: free */
	uint64_t since_ns;
};

struct ash_pending_truncation {
	struct ash_pending_truncation *next;
	uint64_t ino;
};

/* A size was cut within a block; until that is durable the block's old content must stay (I7). */
struct ash_wb_shrink {
	uint64_t ino;
	uint64_t lsn; /* end of the record; 0: free */
};

struct ash_write_behind {
	pthread_mutex_t flush_lock;
	pthread_mutex_t lock;
	/* under `lock`: */
	uint8_t *region;     /* constant */
	size_t region_bytes; /* constant */
	uint32_t page_count; /* constant; 0: no write-behind */
	uint32_t free_count;
	uint32_t *free_pages; /* a stack of free_count page numbers */
	struct ash_write_buffer *head, *tail;
	uint64_t sequence;
	uint8_t *bounces[ASH_WB_SPARE_BOUNCES];
	unsigned bounce_count;
	struct bdev_queue *idle_queues[ASH_WB_SPARE_QUEUES]; /* of ash_data_write_many(), opened when they are needed */
	unsigned idle_queue_count;
	struct ash_wb_keeper keepers[ASH_WB_KEEPERS];
	struct ash_pending_truncation *truncations;
	unsigned losses;     /* inodes that lost data, of which neither a sync nor an fsync has told yet (I5) */
	uint64_t lost;       /* how often any did: a sync tells of what was lost while it was under way, too */
	int loss_error;      /* of the last of them */
	uint64_t loss_round; /* syncs that have told */
	uint64_t *changed;   /* inodes whose st_blocks a flush changed, to be told */
	unsigned changed_count, changed_capacity;
	struct ash_wb_shrink shrinks[ASH_WB_SHRINKS];
	uint64_t shrink_floor;    /* of those that found no room in the table: any inode may be one of them */
	struct ash_queue *queues; /* those that are open (file_async.c) */
	/* free of it: */
	_Atomic uint32_t truncation_count;
	_Atomic uint64_t reserved; /* sum over the inodes */
	_Atomic uint64_t rotor;    /* where the data of the last new file ended */
	pthread_mutex_t reclaim_lock;
	_Atomic uint64_t reclaims_begun;
	uint64_t reclaim_succeeded; /* number of the last one that freed something */
};

static inline uint8_t *ash_wb_page_bytes(const struct ash_volume *volume, uint32_t page)
{
	return volume->wb->region + ((size_t)page << ASH_BLOCK_SHIFT);
}
uint64_t ash_monotonic_ns(void);

/* Index of the first page with a block of at least `block` (count if none). Lock held. */
uint32_t ash_wb_find(const struct ash_write_buffer *buffer, uint64_t block);
/* -EAGAIN: this write must go through. Else bytes (all of them) or an errno. Takes the inode's lock. */
int64_t ash_wb_write(struct ash_volume *volume, struct ash_icore *icore, const void *source, size_t length,
		     uint64_t offset, unsigned flags);
/* Write out what the inode has buffered and append its record. Takes the lock; no transaction open. */
int ash_wb_flush_inode(struct ash_volume *volume, struct ash_icore *icore);
/* The same for who only needs it to be written out: that data is lost is for fsync to tell, and no error here. */
int ash_wb_settle_inode(struct ash_volume *volume, struct ash_icore *icore);
/* Flush oldest first until at most `pages` pages are in use, or all files that had any when it began. No lock held. */
int ash_wb_flush_down(struct ash_volume *volume, uint32_t pages);
/* Data of the inode is lost: its next fsync and the next sync tell of it. Exclusive lock held. */
void ash_wb_note_loss(struct ash_volume *volume, struct ash_icore *icore, int error);
/* An fsync tells of icore->write_error: the next sync need not. Exclusive lock held. */
void ash_wb_loss_told(struct ash_volume *volume, const struct ash_icore *icore);

/*
 * Blocks were added without a reply that tells st_blocks (a WRITE's does not): the kernel, which keeps what it was
 * shown for ever, will be told to ask again.
 */
void ash_wb_blocks_changed(struct ash_volume *volume, uint64_t ino);
/* Tell it. No lock held. */
void ash_wb_tell_changed(struct ash_volume *volume);

/* Exclusive lock held: pages [from, to) leave the buffer. */
void ash_wb_remove_pages(struct ash_volume *volume, struct ash_write_buffer *buffer, uint32_t from, uint32_t to);
/* Blocks that `holes` new blocks and `ranges` map changes may take at most. The inode's lock held. */
uint64_t ash_wb_reserve_needed(const struct ash_record *record, const struct ash_tree *tree, uint64_t holes,
			       uint64_t ranges);
/* Exclusive lock held: set aside `need` blocks at least. 0 or -ENOSPC. */
int ash_wb_raise_reserve(struct ash_volume *volume, struct ash_write_buffer *buffer, uint64_t need);
/* Exclusive lock held, no pages left: the buffer goes away. The caller has a reference to the inode of its own. */
void ash_wb_detach(struct ash_volume *volume, struct ash_icore *icore);
/* The list's side of it: off the dirty list / back on its young end. wb lock held. */
void ash_wb_unlink(struct ash_write_behind *wb, struct ash_write_buffer *buffer);
void ash_wb_append(struct ash_write_behind *wb, struct ash_write_buffer *buffer);
void ash_wb_free(struct ash_write_buffer *buffer);

/* Pending time stamps of buffered data (mtime and ctime): false if none. Lock held. */
bool ash_wb_times(const struct ash_icore *icore, struct timespec *modified);
/* Exclusive lock held: an explicit mtime was set, the pending one is void. */
void ash_wb_forget_times(struct ash_icore *icore);

/* Keep the inode in core for a while (preallocation, truncation to zero). Exclusive lock held. */
void ash_wb_keep(struct ash_volume *volume, struct ash_icore *icore);
/* Exclusive lock held: keep it no longer. The caller has a reference of its own. */
void ash_wb_unkeep(struct ash_volume *volume, struct ash_icore *icore);
/* Let go of kept inodes since before `before_ns` (UINT64_MAX: all) and their preallocations. True: blocks came back. */
bool ash_wb_drop_kept(struct ash_volume *volume, uint64_t before_ns);
/* Exclusive lock held: give back the blocks claimed ahead. */
void ash_drop_preallocation(struct ash_volume *volume, struct ash_icore *icore);

#endif
