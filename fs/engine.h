/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What cache.c, txn.c, log.c, checkpoint.c, recovery, scrub, the allocator and the volume as a whole (volume.c,
 * volume_info.c, grow.c) share. Nothing else includes this.
 */
#ifndef FS_ENGINE_H
#define FS_ENGINE_H

#include "plant.h"
#include "volume.h"

/* ---- cache.c ---- */

/* A buffer for a block whose old content does not matter: zeroed, one reference. An older buffer of the block is
 * detached. `replayed`: content comes from the log and is checked at the first get. */
int ash_buffer_get_new(struct ash_volume *volume, struct ash_block_id id, struct ash_buffer **out);
/* Take the buffer of `block`, if there is one, out of the cache (its block was freed or its format undone). */
void ash_buffer_detach(struct ash_volume *volume, uint64_t block);
/* The buffer of `block` if cached, without reading and checking: referenced; else NULL. */
struct ash_buffer *ash_buffer_peek(struct ash_volume *volume, uint64_t block);
/* Mark a buffer as holding replayed content. */
void ash_buffer_set_replayed(struct ash_volume *volume, struct ash_buffer *buffer);
uint64_t ash_cache_blocks(struct ash_volume *volume);
uint64_t ash_cache_limit(struct ash_volume *volume); /* buffers */
void ash_cache_hits(struct ash_volume *volume, uint64_t *hits, uint64_t *misses);

/* NULL, or why `data` is not the block that `id` says: header only. */
const char *ash_header_wrong(const struct ash_volume *volume, struct ash_block_id id, const uint8_t *data,
			     bool verify_crc);
/* Inode table: bit i: record i is damaged. */
uint32_t ash_records_wrong(const struct ash_volume *volume, struct ash_block_id id, const uint8_t *data,
			   bool verify_crc);

/* Compute the checksums of an image about to go home; inode table: of each record with a magic that is not in
 * `bad_records` (damage is never blessed with a good checksum). */
void ash_image_stamp(uint32_t seed, uint32_t type, uint32_t bad_records, uint8_t *image);
/* The checksum of a home-write record: over the stamped image. */
uint32_t ash_image_crc(uint32_t seed, const uint8_t *image);

/* ---- undo ---- */

enum ash_undo_kind { ASH_UNDO_BYTES, ASH_UNDO_SET, ASH_UNDO_CLEAR, ASH_UNDO_FORMAT };

struct ash_undo {
	struct ash_undo *buffer_next; /* older change of the same buffer, any transaction */
	struct ash_undo *txn_next;    /* older change of the same transaction */
	struct ash_txn *txn;
	struct ash_touch *touch;
	enum ash_undo_kind kind;
	uint32_t offset; /* bytes; bits for SET and CLEAR */
	uint32_t length;
	uint8_t old[];
};
/* Put the old content of one change back into `data`. */
void ash_undo_apply(const struct ash_undo *undo, uint8_t *data);
void ash_bits_change(uint8_t *bits, uint32_t first, uint32_t count, bool set);

/* ---- log.c ---- */

struct ash_orphan {
	uint64_t ino; /* 0: empty slot */
	uint64_t lsn; /* of the record that says so and is still in the log */
};

/* Open addressing with linear probing, at most half full. Zero-initialise; free `slots` when done. */
struct ash_orphan_set {
	struct ash_orphan *slots;
	size_t slot_count, count;
	uint64_t multiplier; /* of ash_hash_slot() */
};

/*
 * A hash table of numbers that come from the device: multiply-shift (Dietzfelbinger et al., 1997). With a multiplier that
 * who made the image cannot know, nobody chooses the numbers that collide. `slots`: a power of two, at least 2.
 */
uint64_t ash_hash_multiplier(void);
static inline size_t ash_hash_slot(uint64_t multiplier, uint64_t number, size_t slots)
{
	return (size_t)(number * multiplier >> (64 - __builtin_ctzll(slots)));
}

/* Room for `more` additions; they then cannot fail. 0 or -ENOMEM. */
int ash_orphan_set_room(struct ash_orphan_set *set, size_t more);
void ash_orphan_set_change(struct ash_orphan_set *set, uint64_t ino, uint64_t lsn, bool add);
/* The numbers, ascending; a malloc'ed list, NULL when there are none. 0 or -ENOMEM. */
int ash_orphan_set_list(const struct ash_orphan_set *set, uint64_t **list, size_t *count);

struct ash_log {
	pthread_mutex_t lock;
	pthread_cond_t changed; /* durable moved, leader done, space freed, reservation released */
	uint64_t blocks;        /* of the ring on the device, control blocks not counted */
	uint64_t first_block;   /* device block of ring slot 0 */

	uint8_t *memory; /* blocks not yet written: position p in slot p % memory_blocks */
	uint64_t memory_blocks;
	uint32_t *crc; /* of each written block, by p % blocks */

	uint64_t position; /* of the open block */
	uint32_t used;     /* payload bytes in the open block */
	uint64_t written;  /* positions below are on the device */
	uint64_t durable_lsn;
	bool leader; /* someone writes the log */

	uint64_t tail_lsn;          /* as the control block on the device says */
	uint32_t tail_previous_crc; /* of the block before the tail's, whose slot in `crc` may be taken by then */
	uint64_t sequence;          /* of the last control block */
	uint64_t epoch_position;

	uint64_t reserved_blocks;                    /* of open transactions */
	uint64_t checkpoint_reserve, system_reserve; /* blocks */
	uint64_t round_blocks;                       /* that the running checkpoint has taken of its reserve so far */

	struct ash_buffer *dirty_first, *dirty_last;
	uint64_t dirty_count, dirty_limit;

	struct ash_orphan_set orphans;
	uint64_t superseding_lsn; /* end of the last record that freed metadata or changed the orphan set: see tail_move() */

	pthread_mutex_t checkpoint_lock;
	_Atomic uint64_t checkpoint_started, checkpoint_finished;
	struct bdev_queue *queue; /* of the checkpoint */
	uint8_t *batch;           /* images on their way home */
	struct ash_checkpoint_memory *checkpoint;
	struct ash_log_control *control; /* for the one who writes a control block: checkpoint_lock, mount, unmount */

	pthread_mutex_t flush_lock;
	_Atomic uint64_t data_written, data_flushed; /* sequence of data writes, and up to where they are durable */

	void *arenas[4]; /* free transaction arenas by class, linked through their first word */
	unsigned arena_count[4];
	pthread_mutex_t arena_lock;

	/* counters */
	_Atomic uint64_t transactions, record_bytes, blocks_written, commits, checkpoints, home_writes;
};

#define ASH_CHECKPOINT_BATCH 512u
/* What a checkpoint needs, allocated once (checkpoint.c); free() it when the queue is closed. */
int ash_checkpoint_open(struct ash_log *log);

/* Position of an LSN. */
static inline uint64_t ash_lsn_position(uint64_t lsn)
{
	return lsn / ASH_LOG_PAYLOAD;
}
static inline uint64_t ash_log_append_lsn(const struct ash_log *log)
{
	return log->position * ASH_LOG_PAYLOAD + log->used;
}
/* log.lock held: append one record; `length` bytes at `record`, header included, its lsn filled in here. Start LSN. */
uint64_t ash_log_append_locked(struct ash_volume *volume, uint8_t *record, uint32_t length);
/* log.lock held: the record at `start_lsn` touched the buffer; the caller has set last_lsn. */
void ash_log_dirty_locked(struct ash_log *log, struct ash_buffer *buffer, uint64_t start_lsn);
/* log.lock held: all of it is home. */
void ash_log_clean_locked(struct ash_log *log, struct ash_buffer *buffer);
/* log.lock held: the buffer will never go home. */
void ash_log_forget_locked(struct ash_log *log, struct ash_buffer *buffer);
/* Room for `more` orphans, so that a commit can add them. 0 or -ENOMEM. */
int ash_log_orphan_room(struct ash_log *log, size_t more);
/* log.lock held: blocks that the whole orphan set takes when it is logged again. */
static inline uint64_t ash_log_orphan_blocks_locked(const struct ash_log *log)
{
	return log->orphans.count ? log->orphans.count * (sizeof(struct ash_log_item) + 1) / ASH_LOG_PAYLOAD + 2 : 0;
}
/* Write a control block with tail `tail_lsn`; durable on return. */
int ash_log_write_control(struct ash_volume *volume, uint64_t tail_lsn, bool clean, uint64_t free_blocks,
			  uint64_t used_inodes);
/* Log blocks that a transaction of `bytes` may take, waste of an early close included. */
static inline uint64_t ash_log_blocks_for(uint32_t bytes)
{
	return bytes / ASH_LOG_PAYLOAD + 2;
}
uint64_t ash_log_used_blocks_locked(const struct ash_log *log);

/* ---- alloc.c, called at commit under log.lock: `delta` blocks of the group became free (or used when negative). ---- */
void ash_alloc_bits_committed(struct ash_volume *volume, uint64_t group, int64_t delta, uint64_t start_lsn,
			      uint64_t end_lsn);
/* The group's bitmap was changed by replay: count it again at ash_alloc_open(). */
int ash_alloc_note_replayed(struct ash_volume *volume, uint64_t group);

#endif
