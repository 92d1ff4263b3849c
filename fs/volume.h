/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The open volume: geometry and one pointer for each layer. Internal to fs/ and fsck/.
 */
#ifndef FS_VOLUME_H
#define FS_VOLUME_H

#include <ashlar/ashlar.h>
#include <ashlar/format.h>
#include <errno.h>
#include "alloc.h"
#include "cache.h"
#include "checksum.h"
#include "log.h"
#include "txn.h"

struct ash_cache;
struct ash_log;
struct ash_allocator;
struct ash_itable;
struct ash_icache;
struct ash_write_behind;

struct ash_volume {
	struct bdev *dev;
	struct ash_open_options options;
	bool no_write;
	bool locked_device;
	_Atomic bool read_only; /* asked for, or forced by damage or failure */
	_Atomic int failed;     /* I6: negative errno of the first failure; 0: healthy */
	/* What may change while open; `options` has what was asked for at first. */
	_Atomic int atime; /* enum ash_atime */
	_Atomic bool no_directory_atime, sync;

	/* constant while open, except by ash_grow() under rename_lock + group locks */
	uint64_t block_count;
	uint32_t group_count;
	uint64_t group_table_start, group_table_blocks;
	uint64_t log_start, log_blocks;
	uint32_t checksum_seed, inodes_per_run;
	uint8_t hash_key[16];
	uint8_t metadata_uuid[16];
	uint64_t epoch; /* of this mount */

	struct ash_buffer *super; /* block 0, referenced while open; holds the table inode's record (ASH_INO_TABLE) */

	struct ash_cache *cache;     /* cache.c */
	struct ash_log *log;         /* log.c */
	struct ash_allocator *alloc; /* alloc.c */
	struct ash_itable *itable;   /* itable.c */
	struct ash_icache *icache;   /* icache.c */
	struct ash_write_behind *wb; /* wbuf.c */
	pthread_mutex_t rename_lock;

	pthread_t worker; /* commit interval, write-behind by age, checkpoint, discard */
	pthread_mutex_t worker_lock;
	pthread_cond_t worker_wake;
	bool worker_running, worker_stop, worker_kick;
	bool discards_later; /* there is a worker, or was one until the close, which discards what it left */

	/* from the log control block, for itable.c: totals are true only when the last unmount was clean */
	bool was_clean;
	uint64_t clean_used_inodes;

	uint64_t *replayed_groups; /* only while opening: groups whose bitmaps the log changed */
	size_t replayed_count;

	_Atomic uint64_t damaged_blocks, flushes;
};

/* Log one line through the options' log function. */
void ash_say(struct ash_volume *volume, enum ash_log_level level, const char *format, ...)
	__attribute__((format(printf, 3, 4)));
/* A wait on the device or for log space begins or ends (hooks of the options). */
static inline void ash_wait_begin(struct ash_volume *volume)
{
	if (volume->options.wait_begin)
		volume->options.wait_begin(volume->options.context);
}
static inline void ash_wait_end(struct ash_volume *volume)
{
	if (volume->options.wait_end)
		volume->options.wait_end(volume->options.context);
}
/* Take a lock that is held over the device. */
static inline void ash_lock_long(struct ash_volume *volume, pthread_mutex_t *lock)
{
	if (!pthread_mutex_trylock(lock))
		return;
	ash_wait_begin(volume);
	pthread_mutex_lock(lock);
	ash_wait_end(volume);
}
/* Now, as time stamps want it. */
struct timespec ash_now(void);
/* Less than a second from now, for waits that have an end. */
static inline struct timespec ash_deadline(clockid_t clock, long ns)
{
	struct timespec until;

	clock_gettime(clock, &until);
	until.tv_nsec += ns;
	if (until.tv_nsec >= 1000000000) {
		until.tv_nsec -= 1000000000;
		until.tv_sec++;
	}
	return until;
}
/* -EROFS (or the failure) when nothing may be changed, else 0. */
static inline int ash_check_writable(const struct ash_volume *volume)
{
	return atomic_load(&volume->read_only) ? -EROFS : 0;
}
/* Wake the background worker early. */
void ash_worker_kick(struct ash_volume *volume);

/* Inode records the table can hold without growing, and how many are in use (itable.c). */
void ash_itable_counts(struct ash_volume *volume, uint64_t *total, uint64_t *used);
/* Before unmounting: is the second one true? Bitmaps that could not be read so far are tried once more. */
bool ash_itable_settle(struct ash_volume *volume);
/* In-core inodes alive, for ash_counters() (icache.c). */
uint64_t ash_icache_count(struct ash_volume *volume);
/* Bytes of buffered file data (wbuf.c). */
uint64_t ash_wb_bytes(struct ash_volume *volume);

/* Layers' life, in the order ash_open() calls them; *_close frees memory and writes nothing. */
int ash_cache_open(struct ash_volume *volume);
void ash_cache_close(struct ash_volume *volume);
void ash_log_close(struct ash_volume *volume);
int ash_alloc_open(struct ash_volume *volume);
void ash_alloc_close(struct ash_volume *volume);
int ash_wb_open(struct ash_volume *volume);
void ash_wb_close(struct ash_volume *volume); /* drops buffered data */

/* Write-behind, for sync, unmount, reclaim and the worker (wbuf.c). */
int ash_wb_flush_all(struct ash_volume *volume);
/* Losses of data, the last of them left out as long as one is not told of: a number that grows. */
uint64_t ash_wb_losses_told(struct ash_volume *volume);
/*
 * Was data lost of which nobody has been told yet, or others have been since ash_wb_losses_told() was `since`? Its
 * error; the caller tells (I5).
 */
int ash_wb_take_loss(struct ash_volume *volume, uint64_t since);
/* Flush what is older than half the commit interval or over the limits. True: some was old, and its records are new. */
bool ash_wb_tick(struct ash_volume *volume);
uint64_t ash_wb_reserved_blocks(struct ash_volume *volume);
/* Give back every speculative preallocation. */
void ash_wb_drop_preallocations(struct ash_volume *volume);

#endif
