/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The inode table: where records lie, which numbers are free.
 *
 * Concept: the table is the file of inode 0. Run r takes 1 + inodes_per_run / 8 of its blocks: a bitmap block, then
 * blocks of eight records. Memory has the place of each run, and from its first use on three bitmaps: `busy`
 * (what may not be handed out: used numbers, claims, freed ones that must wait) and two of freed numbers,
 * one that waits for its LSN to be durable and one that collects meanwhile. So freeing needs no memory that
 * could be wanting. A freed number is handed out again only when its freeing is durable, its lookup count is 0 and
 * no in-core inode of it is left.
 *
 * Rules: a claim marks `busy` only; nothing is logged, and a crash forgets it. ash_inode_log_new() and _free() change
 * the bitmap block by logical bit records, which need no owner (I11). Blocks at and beyond `initialized` of a run were
 * never written and are never read; they are formatted a few at a time in system transactions, together with raising
 * that field. A new run is a transaction of its own, and no caller undoes it.
 *
 * Locks: grow_lock (superblock fields of the table and the tree of inode 0; taken before a transaction begins, held
 * over it), then a run's lock (`busy`, `freed`, the `initialized` field), then the shards of the in-core inodes and
 * lookup counts, then the engine. compat_lock owns ash_super.compat. Published runs never move: finding one takes no
 * lock.
 */
#include "map.h"
#include "names.h"
#include "recover.h"

#include <stdlib.h>

#define CHUNK_RUNS 1024u
#define CHUNKS 65536u          /* 2^26 runs: more than 10^9 inodes even with the smallest ones */
#define FORMAT_BATCH 8u        /* inode blocks formatted at a time */
#define SEGMENTS_MAX 512u      /* extents that a new run may consist of: an aged volume has few long ones */
#define GROW_BYTES (64u << 10) /* log bytes after which a growth in pieces gives up */
#define RUN_UNREADABLE_MAX 4u  /* blocks of records that a search passes by before it leaves the run */
#define UNREADABLE_MAX 16u     /* blocks before it ends, and the table grows */
#define MISSING_MAX 16u        /* runs that were looked at when the table was opened, and were not there */

#define TRY_AGAIN UINT64_MAX /* no LSN */
#define RESERVED_BITS ((1ull << ASH_INO_FIRST_FREE) - 1)

enum run_state { RUN_UNLOADED, RUN_LOADED, RUN_DAMAGED };

struct run {
	uint64_t number;
	uint32_t segment_count;
	struct ash_extent first;     /* the only segment of nearly every run */
	struct ash_extent *segments; /* all of them, when more than one */
	_Atomic int state;
	_Atomic uint32_t initialized; /* inode blocks that were ever formatted */
	_Atomic uint32_t free;        /* bits of `busy` that are clear */
	_Atomic uint32_t pending;     /* bits set in freed[] */
	bool assumed;                 /* lock: `used` of the table has it as full, for its bitmap could not be read */
	pthread_mutex_t lock;
	uint32_t hint; /* no word of `busy` below it has a clear bit */
	uint64_t *busy;
	uint64_t *freed[2]; /* 0 waits until freed_lsn[0] is durable, 1 collects */
	uint32_t freed_count[2];
	uint64_t freed_lsn[2];
	uint64_t tried_at; /* durable LSN at the last try to make freed numbers available, or TRY_AGAIN */
};

struct ash_itable {
	_Atomic uint64_t run_count;
	_Atomic uint64_t run_hint;
	_Atomic uint64_t used;
	_Atomic uint32_t generation;
	pthread_mutex_t grow_lock, compat_lock;
	struct run **chunks[CHUNKS];
};

/* ---- Geometry ---- */

static uint64_t run_blocks(const struct ash_volume *volume)
{
	return 1 + volume->inodes_per_run / ASH_INODES_PER_BLOCK;
}

static uint32_t bitmap_words(const struct ash_volume *volume)
{
	return (volume->inodes_per_run + 63) / 64;
}

static struct run *run_at(const struct ash_itable *itable, uint64_t number)
{
	return itable->chunks[number / CHUNK_RUNS][number % CHUNK_RUNS];
}

/* NULL beyond the table. */
static struct run *run_of(const struct ash_volume *volume, uint64_t ino, uint32_t *index)
{
	uint64_t number = ino / volume->inodes_per_run;

	*index = (uint32_t)(ino % volume->inodes_per_run);
	if (number >= atomic_load_explicit(&volume->itable->run_count, memory_order_acquire))
		return NULL;
	return run_at(volume->itable, number);
}

/* Device block `index` of a run. */
static uint64_t run_block(const struct run *run, uint64_t index)
{
	if (run->segment_count == 1)
		return run->first.start + index;
	for (uint32_t i = 0; i < run->segment_count; i++) {
		if (index < run->segments[i].count)
			return run->segments[i].start + index;
		index -= run->segments[i].count;
	}
	assert(0);
	return 0;
}

static struct ash_block_id bitmap_id(const struct run *run)
{
	return (struct ash_block_id){ run_block(run, 0), ASH_MAGIC_INODE_BITMAP, run->number };
}

static struct ash_block_id records_id(const struct ash_volume *volume, const struct run *run, uint32_t block)
{
	return (struct ash_block_id){ run_block(run, 1 + block), ASH_TYPE_INODE_TABLE,
				      run->number * volume->inodes_per_run + (uint64_t)block * ASH_INODES_PER_BLOCK };
}

bool ash_itable_bitmap(struct ash_volume *volume, uint64_t number, struct ash_block_id *id)
{
	if (number >= atomic_load_explicit(&volume->itable->run_count, memory_order_acquire))
		return false;
	*id = bitmap_id(run_at(volume->itable, number));
	return true;
}

pthread_mutex_t *ash_itable_lock(struct ash_volume *volume)
{
	return &volume->itable->grow_lock;
}

pthread_mutex_t *ash_compat_lock(struct ash_volume *volume)
{
	return &volume->itable->compat_lock;
}

/* ---- Runs in memory ---- */

static void run_destroy(struct run *run)
{
	if (!run)
		return;
	free(run->segments);
	free(run->busy);
	pthread_mutex_destroy(&run->lock);
	free(run);
}

static int run_create(uint64_t number, const struct ash_extent *segments, uint32_t count, struct run **out)
{
	struct run *run = calloc(1, sizeof(*run));

	if (!run)
		return -ENOMEM;
	run->number = number;
	run->first = segments[0];
	run->segment_count = count;
	pthread_mutex_init(&run->lock, NULL);
	if (count > 1) {
		run->segments = malloc(count * sizeof(*segments));
		if (!run->segments) {
			run_destroy(run);
			return -ENOMEM;
		}
		memcpy(run->segments, segments, count * sizeof(*segments));
	}
	*out = run;
	return 0;
}

/* One allocation for the three bitmaps. */
static uint64_t *bitmaps_allocate(const struct ash_volume *volume)
{
	return calloc(3 * (size_t)bitmap_words(volume), sizeof(uint64_t));
}

/* Run lock held, or the run is not published. */
static void run_set_bitmaps(const struct ash_volume *volume, struct run *run, uint64_t *bitmaps, uint32_t initialized,
			    uint32_t used)
{
	run->busy = bitmaps;
	run->freed[0] = bitmaps + bitmap_words(volume);
	run->freed[1] = bitmaps + 2 * (size_t)bitmap_words(volume);
	atomic_store(&run->initialized, initialized);
	atomic_store(&run->free, volume->inodes_per_run - used);
	atomic_store(&run->state, RUN_LOADED);
}

/* Room for run `number` in the list; before it is published. */
static int list_room(struct ash_itable *itable, uint64_t number)
{
	struct run ***chunk = &itable->chunks[number / CHUNK_RUNS];

	if (number >= (uint64_t)CHUNKS * CHUNK_RUNS)
		return -ENOSPC;
	if (!*chunk)
		*chunk = calloc(CHUNK_RUNS, sizeof(**chunk));
	return *chunk ? 0 : -ENOMEM;
}

static void list_publish(struct ash_itable *itable, struct run *run)
{
	itable->chunks[run->number / CHUNK_RUNS][run->number % CHUNK_RUNS] = run;
	atomic_store_explicit(&itable->run_count, run->number + 1, memory_order_release);
}

/* ---- Loading a run's bitmap ---- */

/* Bits behind the run's end count as busy. Returns how many inodes are in use. *end: behind the last of them. */
static uint32_t bits_copy(const struct ash_volume *volume, const struct ash_bitmap_block *block, uint64_t *bits,
			  uint32_t *end)
{
	uint32_t used = 0;

	*end = 0;
	for (uint32_t i = 0; i < volume->inodes_per_run; i++) {
		if (!(block->bits[i / 8] & 1u << i % 8))
			continue;
		bits[i / 64] |= 1ull << i % 64;
		used++;
		*end = i + 1;
	}
	for (uint32_t i = volume->inodes_per_run; i < bitmap_words(volume) * 64; i++)
		bits[i / 64] |= 1ull << i % 64;
	return used;
}

static void run_set_damaged(const struct ash_volume *volume, struct run *run)
{
	pthread_mutex_lock(&run->lock);
	if (atomic_load(&run->state) == RUN_UNLOADED) {
		/* Records carry their own checksums: reading them needs no bitmap. */
		atomic_store(&run->initialized, volume->inodes_per_run / ASH_INODES_PER_BLOCK);
		atomic_store(&run->state, RUN_DAMAGED);
	}
	pthread_mutex_unlock(&run->lock);
}

/* What was assumed of the run is known now. Nobody took or freed a number of it meanwhile: that needs its bitmap. */
static void assumed_end(struct ash_volume *volume, struct run *run)
{
	if (!run->assumed)
		return;
	run->assumed = false;
	atomic_fetch_sub(&volume->itable->used, atomic_load(&run->free));
}

static int run_load_from(struct ash_volume *volume, struct run *run, struct ash_buffer *buffer)
{
	const struct ash_bitmap_block *block = (const void *)buffer->data;
	uint64_t *bitmaps = bitmaps_allocate(volume);
	uint32_t initialized = 0, used = 0, end;
	bool plausible;

	if (!bitmaps)
		return -ENOMEM;
	pthread_mutex_lock(&run->lock);
	if (atomic_load(&run->state) == RUN_UNLOADED) {
		/* Nobody changes the block before its run is loaded; the lock is for the checkpoint's sake. */
		ash_lock(&buffer->lock);
		initialized = ash_get32(block->initialized);
		used = bits_copy(volume, block, bitmaps, &end);
		ash_unlock(&buffer->lock);
		/* blocks behind the initialized ones are formatted before use: no inode in use may lie there */
		plausible = initialized <= volume->inodes_per_run / ASH_INODES_PER_BLOCK &&
			    end <= initialized * ASH_INODES_PER_BLOCK;
		if (!run->number) /* reserved numbers are never handed out */
			plausible &= (bitmaps[0] & RESERVED_BITS) == RESERVED_BITS;
		if (plausible) {
			run_set_bitmaps(volume, run, bitmaps, initialized, used);
			bitmaps = NULL;
			assumed_end(volume, run);
		}
	} else {
		free(bitmaps);
		bitmaps = NULL;
	}
	pthread_mutex_unlock(&run->lock);
	if (!bitmaps)
		return 0;
	free(bitmaps);
	return ash_damaged(volume, buffer->id.block, "inode bitmap: count of initialized blocks, or reserved inodes");
}

/* Afterwards the run is LOADED or DAMAGED. -EIO, -ENOMEM. May block on the device; no run lock held. */
static int run_load(struct ash_volume *volume, struct run *run)
{
	struct ash_buffer *buffer;
	int result;

	if (atomic_load_explicit(&run->state, memory_order_acquire) != RUN_UNLOADED)
		return 0;
	result = ash_buffer_get(volume, bitmap_id(run), &buffer);
	if (!result) {
		result = run_load_from(volume, run, buffer);
		ash_buffer_put(volume, buffer);
	}
	if (result != -EUCLEAN)
		return result;
	run_set_damaged(volume, run);
	return 0;
}

/* ---- Where records lie ---- */

int ash_itable_locate(struct ash_volume *volume, uint64_t ino, struct ash_block_id *id, uint32_t *offset)
{
	uint32_t index, block;
	struct run *run;
	int result;

	if (ino == ASH_INO_TABLE) {
		*id = volume->super->id;
		*offset = offsetof(struct ash_super, table_inode);
		return 0;
	}
	run = run_of(volume, ino, &index);
	if (!run)
		return -ESTALE;
	result = run_load(volume, run);
	if (result && !ash_unreadable(result))
		return result;
	block = index / ASH_INODES_PER_BLOCK;
	/* A bitmap that cannot be read stands in nobody's way to the records: they carry their own checksums. */
	if (!result && block >= atomic_load_explicit(&run->initialized, memory_order_acquire))
		return -ESTALE; /* never written */
	*id = records_id(volume, run, block);
	*offset = index % ASH_INODES_PER_BLOCK * ASH_INODE_SIZE;
	return 0;
}

void ash_itable_prefetch(struct ash_volume *volume, uint64_t ino)
{
	uint32_t index;
	const struct run *run = run_of(volume, ino, &index);

	if (run)
		ash_buffer_prefetch(volume, records_id(volume, run, index / ASH_INODES_PER_BLOCK).block,
				    index % ASH_INODES_PER_BLOCK * ASH_INODE_SIZE);
}

/* ---- Freed numbers; run lock held ---- */

/* Make the numbers of freed[0] available that nobody remembers. */
static void release_waiting(struct ash_volume *volume, struct run *run)
{
	for (uint32_t word = 0; word < bitmap_words(volume); word++) {
		uint64_t bits = run->freed[0][word];

		while (bits) {
			uint32_t index = word * 64 + (uint32_t)__builtin_ctzll(bits);
			uint64_t ino = run->number * volume->inodes_per_run + index;

			bits &= bits - 1;
			if (ash_lookup_count(volume, ino) || ash_icore_present(volume, ino))
				continue;
			run->freed[0][word] &= ~(1ull << index % 64);
			run->busy[word] &= ~(1ull << index % 64);
			run->freed_count[0]--;
			atomic_fetch_sub(&run->pending, 1);
			atomic_fetch_add(&run->free, 1);
			if (word < run->hint)
				run->hint = word;
		}
	}
}

static void release_freed(struct ash_volume *volume, struct run *run)
{
	uint64_t durable = ash_log_durable(volume);

	if (run->tried_at == durable)
		return;
	run->tried_at = durable;
	for (unsigned round = 0; round < 2; round++) {
		if (run->freed_count[0] && run->freed_lsn[0] <= durable)
			release_waiting(volume, run);
		if (!run->freed_count[0] && run->freed_count[1]) {
			uint64_t *empty = run->freed[0];

			run->freed[0] = run->freed[1];
			run->freed[1] = empty;
			run->freed_count[0] = run->freed_count[1];
			run->freed_count[1] = 0;
			run->freed_lsn[0] = run->freed_lsn[1];
		}
	}
}

static void note_freed(struct ash_volume *volume, uint64_t ino, uint64_t lsn)
{
	uint32_t index;
	struct run *run = run_of(volume, ino, &index);

	pthread_mutex_lock(&run->lock);
	run->freed[1][index / 64] |= 1ull << index % 64;
	/* The last of them covers the others; who committed first need not come here first. */
	if (!run->freed_count[1]++ || run->freed_lsn[1] < lsn)
		run->freed_lsn[1] = lsn;
	run->tried_at = TRY_AGAIN; /* it may be durable already */
	atomic_fetch_add(&run->pending, 1);
	pthread_mutex_unlock(&run->lock);
}

/* ---- Claims ---- */

/* A free number, now busy; -1 when there is none. Run lock held. */
static int64_t take_free(const struct ash_volume *volume, struct run *run)
{
	for (; run->hint < bitmap_words(volume); run->hint++) {
		uint64_t clear = ~run->busy[run->hint];

		if (clear) {
			run->busy[run->hint] |= clear & -clear;
			atomic_fetch_sub(&run->free, 1);
			return run->hint * 64 + __builtin_ctzll(clear);
		}
	}
	return -1;
}

static void give_back(struct run *run, uint32_t index)
{
	run->busy[index / 64] &= ~(1ull << index % 64);
	if (index / 64 < run->hint)
		run->hint = index / 64;
	atomic_fetch_add(&run->free, 1);
}

/* Format the inode blocks up to `block` and some more. Run lock held: it owns the `initialized` field. */
static int format_blocks(struct ash_volume *volume, struct run *run, struct ash_buffer *bitmap, uint32_t block)
{
	uint32_t from = atomic_load(&run->initialized), until = block + FORMAT_BATCH;
	uint32_t limit = volume->inodes_per_run / ASH_INODES_PER_BLOCK;
	struct ash_txn *txn;
	ash_le32 raised;
	int result;

	if (block < from)
		return 0;
	if (until > limit)
		until = limit;
	result = ash_txn_begin_system(volume, &txn);
	if (result)
		return result;
	for (uint32_t i = from; i < until && !result; i++) {
		struct ash_buffer *buffer;

		result = ash_txn_new_block(txn, records_id(volume, run, i), &buffer);
		if (!result)
			ash_buffer_put(volume, buffer);
	}
	if (result) {
		ash_txn_abort(txn);
		return result;
	}
	raised = ash_put32(until);
	ash_txn_set(txn, bitmap, offsetof(struct ash_bitmap_block, initialized), &raised, sizeof(raised));
	ash_txn_commit(txn);
	atomic_store_explicit(&run->initialized, until, memory_order_release);
	return 0;
}

/* 0, -EAGAIN when the run has no free number, or an error. */
static int claim_locked(struct ash_volume *volume, struct run *run, struct ash_buffer *bitmap, uint32_t *index)
{
	int64_t found;
	int result;

	if (atomic_load_explicit(&run->pending, memory_order_relaxed))
		release_freed(volume, run);
	found = take_free(volume, run);
	if (found < 0)
		return -EAGAIN;
	*index = (uint32_t)found;
	result = format_blocks(volume, run, bitmap, *index / ASH_INODES_PER_BLOCK);
	if (result)
		give_back(run, *index);
	return result;
}

/* A record in use under a free bit is damage: the number stays busy until fsck has looked. */
static int check_free(struct ash_volume *volume, uint64_t ino)
{
	struct ash_record record;
	int result = ash_record_get(volume, ino, &record);

	if (!result) {
		result = ash_damaged(volume, record.buffer->id.block, "inode in use is free in the bitmap");
		ash_record_put(volume, &record);
	}
	return result == -ESTALE ? 0 : result;
}

/* The other free numbers of the block of number `index`, which cannot be read, are of no use either. */
static void take_block(struct run *run, uint32_t index)
{
	uint32_t first = index - index % ASH_INODES_PER_BLOCK;

	pthread_mutex_lock(&run->lock);
	for (uint32_t i = first; i < first + ASH_INODES_PER_BLOCK; i++) {
		uint64_t bit = 1ull << i % 64;

		if (run->busy[i / 64] & bit)
			continue;
		run->busy[i / 64] |= bit;
		atomic_fetch_sub(&run->free, 1);
	}
	pthread_mutex_unlock(&run->lock);
}

/* A search for a free number passes by blocks that cannot be read, but not by all of a device that is gone. */
struct search {
	uint64_t ino;        /* what was found */
	unsigned unreadable; /* so many blocks were passed by */
	int error;           /* of the last of them */
};

/* -EAGAIN: go on elsewhere; or `error`, when that would be in vain. */
static int pass_by(const struct ash_volume *volume, struct search *search, int error)
{
	if (!ash_unreadable(error) || ash_check_writable(volume))
		return error;
	search->unreadable++;
	search->error = error;
	return -EAGAIN;
}

/* Numbers whose records are damaged or cannot be read stay busy. */
static int claim_checked(struct ash_volume *volume, struct run *run, struct ash_buffer *bitmap, struct search *search)
{
	uint32_t index;

	for (unsigned unreadable = 0; unreadable < RUN_UNREADABLE_MAX;) {
		int result;

		pthread_mutex_lock(&run->lock);
		result = claim_locked(volume, run, bitmap, &index);
		pthread_mutex_unlock(&run->lock);
		if (result)
			return result;
		search->ino = run->number * volume->inodes_per_run + index;
		result = check_free(volume, search->ino);
		if (!result || (result == -EUCLEAN && ash_check_writable(volume)))
			return result;
		if (result == -EUCLEAN)
			continue;
		result = pass_by(volume, search, result);
		if (result != -EAGAIN) {
			ash_inode_unclaim(volume, search->ino);
			return result;
		}
		take_block(run, index);
		unreadable++;
	}
	return -EAGAIN;
}

static int claim_in_run(struct ash_volume *volume, struct run *run, struct search *search)
{
	struct ash_buffer *bitmap;
	int result;

	if (!atomic_load_explicit(&run->free, memory_order_relaxed) &&
	    !atomic_load_explicit(&run->pending, memory_order_relaxed))
		return -EAGAIN;
	result = ash_buffer_get(volume, bitmap_id(run), &bitmap);
	if (result)
		return pass_by(volume, search, result);
	result = claim_checked(volume, run, bitmap, search);
	ash_buffer_put(volume, bitmap);
	return result;
}

static int try_run(struct ash_volume *volume, struct run *run, bool load, struct search *search)
{
	int state = atomic_load_explicit(&run->state, memory_order_acquire);
	int result;

	if (state == RUN_UNLOADED && load) {
		result = run_load(volume, run);
		if (result)
			return pass_by(volume, search, result);
		state = atomic_load(&run->state);
	}
	return state == RUN_LOADED ? claim_in_run(volume, run, search) : -EAGAIN;
}

/* The run of `near`, then the one that had a number last, other loaded ones, unloaded ones. -EAGAIN: none was found. */
static int try_runs(struct ash_volume *volume, uint64_t near, uint64_t runs, struct search *search)
{
	struct ash_itable *itable = volume->itable;
	uint64_t hint = atomic_load_explicit(&itable->run_hint, memory_order_relaxed);
	uint32_t index;
	struct run *run = run_of(volume, near, &index);
	int result = run ? try_run(volume, run, true, search) : -EAGAIN;

	for (uint64_t i = 0; i < 2 * runs && result == -EAGAIN && search->unreadable < UNREADABLE_MAX; i++) {
		uint64_t number = (hint + i) % runs;

		result = try_run(volume, run_at(itable, number), i >= runs, search);
		if (!result)
			atomic_store_explicit(&itable->run_hint, number, memory_order_relaxed);
	}
	return result;
}

/* ---- Growing the table ---- */

/* Claim the blocks of a run, in one piece if that can be had. */
static int claim_blocks(struct ash_volume *volume, uint64_t goal, struct ash_extent *segments, uint32_t *count)
{
	uint64_t wanted = run_blocks(volume);
	int result = 0;

	for (*count = 0; wanted && *count < SEGMENTS_MAX; (*count)++) {
		result = ash_claim(volume, goal, wanted, 0, &segments[*count]);
		if (result)
			break;
		wanted -= segments[*count].count;
		goal = segments[*count].start + segments[*count].count;
	}
	return result ? result : wanted ? -ENOSPC : 0;
}

static void unclaim_blocks(struct ash_volume *volume, const struct ash_extent *segments, uint32_t count)
{
	for (uint32_t i = 0; i < count; i++)
		ash_unclaim(volume, segments[i], 0);
}

static int log_segments(struct ash_txn *txn, struct ash_record *table, const struct ash_extent *segments,
			uint32_t count, uint64_t file_block)
{
	struct ash_tree tree;

	ash_record_tree(ash_txn_volume(txn), table, false, &tree);
	for (uint32_t i = 0; i < count; i++) {
		struct ash_mapping mapping = { file_block, segments[i].count, segments[i].start, false };
		int result = ash_alloc_log(txn, segments[i]);

		if (!result)
			result = ash_map_insert(txn, &tree, &mapping);
		if (!result && ash_txn_bytes(txn) > GROW_BYTES)
			result = -ENOSPC; /* too many pieces for one transaction */
		if (result)
			return result;
		file_block += segments[i].count;
	}
	return 0;
}

static int log_run(struct ash_txn *txn, struct ash_record *table, const struct run *run,
		   const struct ash_extent *segments)
{
	struct ash_volume *volume = ash_txn_volume(txn);
	uint64_t blocks = run_blocks(volume);
	ash_le64 runs = ash_put64(run->number + 1);
	struct ash_buffer *bitmap;
	struct ash_inode header;
	int result = log_segments(txn, table, segments, run->segment_count, run->number * blocks);

	if (!result)
		result = ash_txn_new_block(txn, bitmap_id(run), &bitmap);
	if (result)
		return result;
	ash_buffer_put(volume, bitmap);
	ash_record_header(table, &header);
	header.size = ash_put64((run->number + 1) * blocks << ASH_BLOCK_SHIFT);
	header.blocks = ash_put64(ash_get64(header.blocks) + blocks);
	ash_record_set_header(txn, table, &header);
	ash_txn_set(txn, volume->super, offsetof(struct ash_super, inode_runs), &runs, sizeof(runs));
	return 0;
}

/* grow_lock held. */
static int grow_logged(struct ash_volume *volume, const struct run *run, const struct ash_extent *segments)
{
	struct ash_record table;
	struct ash_txn *txn;
	int result = ash_txn_begin(volume, ASH_TXN_RENAME, &txn);

	if (result)
		return result;
	result = ash_record_get(volume, ASH_INO_TABLE, &table);
	if (!result) {
		result = log_run(txn, &table, run, segments);
		ash_record_put(volume, &table);
	}
	if (result)
		ash_txn_abort(txn);
	else
		ash_txn_commit(txn);
	return result;
}

static int grow_locked(struct ash_volume *volume, uint64_t number)
{
	struct run *last = run_at(volume->itable, number - 1), *run = NULL;
	struct ash_extent segments[SEGMENTS_MAX];
	uint64_t *bitmaps;
	uint32_t count;
	int result = list_room(volume->itable, number);

	if (result)
		return result;
	bitmaps = bitmaps_allocate(volume);
	if (!bitmaps)
		return -ENOMEM;
	result = claim_blocks(volume, run_block(last, run_blocks(volume) - 1) + 1, segments, &count);
	if (!result)
		result = run_create(number, segments, count, &run);
	if (!result)
		result = grow_logged(volume, run, segments);
	if (result) {
		unclaim_blocks(volume, segments, count);
		run_destroy(run);
		free(bitmaps);
		return result;
	}
	for (uint32_t i = volume->inodes_per_run; i < bitmap_words(volume) * 64; i++)
		bitmaps[i / 64] |= 1ull << i % 64;
	run_set_bitmaps(volume, run, bitmaps, 0, 0);
	list_publish(volume->itable, run);
	atomic_store(&volume->itable->run_hint, number);
	return 0;
}

/* One more run, unless another thread has added one since the caller counted `seen`. */
static int grow_table(struct ash_volume *volume, uint64_t seen)
{
	struct ash_itable *itable = volume->itable;
	int result = 0;

	ash_lock_long(volume, &itable->grow_lock);
	if (atomic_load(&itable->run_count) == seen)
		result = grow_locked(volume, seen);
	pthread_mutex_unlock(&itable->grow_lock);
	return result;
}

/* Make freed numbers durable, and look at all again that wait. -ENOSPC: there are none. */
static int settle_freed(struct ash_volume *volume)
{
	uint64_t runs = atomic_load(&volume->itable->run_count);
	bool waiting = false;

	for (uint64_t number = 0; number < runs; number++) {
		struct run *run = run_at(volume->itable, number);

		if (!atomic_load_explicit(&run->pending, memory_order_relaxed))
			continue;
		pthread_mutex_lock(&run->lock);
		run->tried_at = TRY_AGAIN; /* a number whose inode somebody still had then */
		pthread_mutex_unlock(&run->lock);
		waiting = true;
	}
	return waiting ? ash_log_force(volume, ash_log_end(volume)) : -ENOSPC;
}

int ash_inode_claim(struct ash_volume *volume, uint64_t near, uint64_t *ino)
{
	struct search search = { 0 };
	bool settled = false;
	int result = ash_check_writable(volume);

	while (!result) {
		uint64_t runs = atomic_load(&volume->itable->run_count);

		search.unreadable = 0;
		result = try_runs(volume, near, runs, &search);
		if (!result) {
			*ino = search.ino;
			return 0;
		}
		if (result == -EAGAIN)
			result = grow_table(volume, runs);
		if (result == -ENOSPC && !settled) {
			settled = true;
			result = settle_freed(volume);
		}
	}
	/* What cannot be read may have numbers. */
	return result == -ENOSPC && search.error ? search.error : result;
}

void ash_inode_unclaim(struct ash_volume *volume, uint64_t ino)
{
	uint32_t index;
	struct run *run = run_of(volume, ino, &index);

	pthread_mutex_lock(&run->lock);
	give_back(run, index);
	pthread_mutex_unlock(&run->lock);
}

/* ---- Logging ---- */

static void new_end(struct ash_volume *volume, void *context, uint64_t lsn)
{
	(void)context;
	if (lsn)
		atomic_fetch_add(&volume->itable->used, 1);
}

static void free_end(struct ash_volume *volume, void *context, uint64_t lsn)
{
	if (!lsn)
		return;
	atomic_fetch_sub(&volume->itable->used, 1);
	note_freed(volume, *(const uint64_t *)context, lsn);
}

/* The old content of the forks stays where the new record has none: it is not looked at, and need not be logged. */
static void log_record(struct ash_txn *txn, struct ash_buffer *buffer, uint32_t offset, const struct ash_inode *record)
{
	struct ash_inode header;

	memcpy(&header, record, ASH_INODE_HEADER_SIZE);
	header.crc = ((const struct ash_inode *)(buffer->data + offset))->crc; /* computed when the block goes home */
	ash_txn_set(txn, buffer, offset, &header, ASH_INODE_HEADER_SIZE);
	if (record->data_kind != ASH_FORK_EMPTY)
		ash_txn_set(txn, buffer, offset + offsetof(struct ash_inode, data), record->data, ASH_DATA_FORK_SIZE);
	if (record->attr_kind != ASH_FORK_EMPTY)
		ash_txn_set(txn, buffer, offset + offsetof(struct ash_inode, attr), record->attr, ASH_ATTR_FORK_SIZE);
}

int ash_inode_log_new(struct ash_txn *txn, uint64_t ino, const struct ash_inode *record)
{
	struct ash_volume *volume = ash_txn_volume(txn);
	struct ash_buffer *bitmap, *records;
	struct ash_block_id id;
	uint32_t index, offset;
	struct run *run = run_of(volume, ino, &index);
	int result = ash_itable_locate(volume, ino, &id, &offset);

	if (!result)
		result = ash_buffer_get(volume, id, &records);
	if (result)
		return result;
	result = ash_buffer_get(volume, bitmap_id(run), &bitmap);
	if (!result) {
		ash_txn_bits(txn, bitmap, index, 1, true);
		log_record(txn, records, offset, record);
		ash_txn_on_end(txn, new_end, &ino, sizeof(ino));
		ash_buffer_put(volume, bitmap);
	}
	ash_buffer_put(volume, records);
	return result;
}

/* Is the bit of a used inode set in the bitmap, as far as memory knows? */
static bool is_busy(struct run *run, uint32_t index)
{
	bool busy;

	pthread_mutex_lock(&run->lock);
	busy = run->busy[index / 64] >> index % 64 & 1;
	pthread_mutex_unlock(&run->lock);
	return busy;
}

int ash_inode_log_free(struct ash_txn *txn, uint64_t ino)
{
	struct ash_volume *volume = ash_txn_volume(txn);
	uint32_t index;
	struct run *run = run_of(volume, ino, &index);
	struct ash_buffer *bitmap;
	struct ash_record record;
	struct ash_inode header;
	int result = ash_record_get(volume, ino, &record);

	if (result)
		return result;
	result = run_load(volume, run);
	if (!result && (atomic_load(&run->state) != RUN_LOADED || !is_busy(run, index)))
		result = ash_damaged(volume, bitmap_id(run).block, "inode bitmap does not fit an inode that is freed");
	if (!result)
		result = ash_buffer_get(volume, bitmap_id(run), &bitmap);
	if (!result) {
		ash_txn_bits(txn, bitmap, index, 1, false);
		ash_record_header(&record, &header);
		header.mode = ash_put32(0);
		header.nlink = ash_put32(0);
		ash_record_set_header(txn, &record, &header);
		ash_txn_on_end(txn, free_end, &ino, sizeof(ino));
		ash_buffer_put(volume, bitmap);
	}
	ash_record_put(volume, &record);
	return result;
}

/*
 * File handles have the lower half only, so that half must not begin anew with each mount: an old handle would open the new
 * file behind a number. Multiples of the golden ratio of 2^32 lie as far from each other as can be (Knuth, The Art of
 * Computer Programming 3, 6.4), so two mounts meet only after a great many new files.
 */
uint64_t ash_new_generation(struct ash_volume *volume)
{
	uint32_t counter = atomic_fetch_add(&volume->itable->generation, 1) + 1;

	return volume->epoch << 32 | (uint32_t)(counter + (uint32_t)volume->epoch * 0x9e3779b1u);
}

/* ---- Life ---- */

void ash_itable_counts(struct ash_volume *volume, uint64_t *total, uint64_t *used)
{
	*total = atomic_load(&volume->itable->run_count) * volume->inodes_per_run;
	*used = atomic_load(&volume->itable->used);
}

/*
 * The extents of run `number` from the table's tree, each checked to lie in the volume (I8), and not over the log or the
 * group table: one of the two was damaged under a right checksum then.
 */
static int read_segments(struct ash_volume *volume, const struct ash_tree *tree, uint64_t number,
			 struct ash_extent **segments, uint32_t *room, uint32_t *count)
{
	uint64_t at = number * run_blocks(volume), end = at + run_blocks(volume);

	for (*count = 0; at < end; (*count)++) {
		struct ash_mapping mapping;
		int result = ash_map_get(tree, at, end - at, &mapping);

		if (result)
			return result;
		if (!mapping.start || mapping.unwritten || !mapping.count || mapping.count > end - at ||
		    mapping.start >= volume->block_count || mapping.count > volume->block_count - mapping.start ||
		    ash_is_log_or_group_table(volume, (struct ash_extent){ mapping.start, mapping.count }))
			return ash_damaged(volume, 0, "extents of the inode table");
		if (*count == *room) {
			struct ash_extent *more = realloc(*segments, (*room + 16) * sizeof(*more));

			if (!more)
				return -ENOMEM;
			*segments = more;
			*room += 16;
		}
		(*segments)[*count] = (struct ash_extent){ mapping.start, mapping.count };
		at += mapping.count;
	}
	return 0;
}

/*
 * Is the bitmap there, for all that its place tells? Extents of a few bytes claim millions of runs, and each takes
 * memory: of each thousand one is looked at, and more must be there than not, but for a few that damage may have met.
 * fsck takes the others out of such a table.
 */
static int run_looked_at(struct ash_volume *volume, const struct run *run, uint64_t *missing)
{
	struct ash_buffer *buffer;
	int result = run->number % CHUNK_RUNS == CHUNK_RUNS - 1 ? ash_buffer_get(volume, bitmap_id(run), &buffer) :
								  -ENOENT;

	if (!result)
		ash_buffer_put(volume, buffer);
	if (result != -EUCLEAN)
		return result == -ENOMEM ? result : 0;
	++*missing;
	return *missing > run->number / CHUNK_RUNS / 2 + MISSING_MAX ?
		       ash_damaged(volume, 0, "inode table: most of its runs are not there") :
		       0;
}

static int read_runs(struct ash_volume *volume, const struct ash_tree *tree, uint64_t runs)
{
	uint64_t missing = 0;
	struct ash_extent *segments = NULL;
	uint32_t room = 0, count;
	int result = 0;

	for (uint64_t number = 0; number < runs && !result; number++) {
		struct run *run;

		result = read_segments(volume, tree, number, &segments, &room, &count);
		if (!result)
			result = list_room(volume->itable, number);
		if (!result)
			result = run_create(number, segments, count, &run);
		if (!result)
			list_publish(volume->itable, run);
		if (!result)
			result = run_looked_at(volume, run, &missing);
	}
	free(segments);
	return result;
}

static int read_table(struct ash_volume *volume)
{
	const struct ash_super *super = (const void *)volume->super->data;
	uint64_t runs = ash_get64(super->inode_runs);
	struct ash_record table;
	struct ash_tree tree;
	int result;

	if (!runs || runs > volume->block_count / run_blocks(volume))
		return ash_damaged(volume, 0, "number of inode runs");
	result = ash_record_get(volume, ASH_INO_TABLE, &table);
	if (result)
		return result;
	ash_record_tree(volume, &table, false, &tree);
	result = read_runs(volume, &tree, runs);
	ash_record_put(volume, &table);
	return result;
}

/* The last unmount was not clean: the bitmaps tell how many inodes are in use. */
static int count_used(struct ash_volume *volume)
{
	uint64_t used = 0, runs = atomic_load(&volume->itable->run_count);

	for (uint64_t number = 0; number < runs; number++) {
		struct run *run = run_at(volume->itable, number);
		int result = run_load(volume, run);

		if (result && !ash_unreadable(result))
			return result;
		if (atomic_load(&run->state) == RUN_LOADED) {
			used += volume->inodes_per_run - atomic_load(&run->free);
		} else {
			used += volume->inodes_per_run;
			run->assumed = true;
		}
	}
	atomic_store(&volume->itable->used, used);
	return 0;
}

bool ash_itable_settle(struct ash_volume *volume)
{
	uint64_t runs = atomic_load(&volume->itable->run_count);

	for (uint64_t number = 0; number < runs; number++) {
		struct run *run = run_at(volume->itable, number);

		if (run->assumed && (run_load(volume, run) || run->assumed))
			return false;
	}
	return true;
}

int ash_itable_open(struct ash_volume *volume)
{
	struct ash_itable *itable = calloc(1, sizeof(*itable));
	int result;

	if (!itable)
		return -ENOMEM;
	pthread_mutex_init(&itable->grow_lock, NULL);
	pthread_mutex_init(&itable->compat_lock, NULL);
	volume->itable = itable;
	result = read_table(volume);
	if (!result && volume->was_clean)
		atomic_store(&itable->used, volume->clean_used_inodes);
	else if (!result)
		result = count_used(volume);
	if (result)
		ash_itable_close(volume);
	return result;
}

void ash_itable_close(struct ash_volume *volume)
{
	struct ash_itable *itable = volume->itable;
	uint64_t runs;

	if (!itable)
		return;
	runs = atomic_load(&itable->run_count);
	for (uint64_t number = 0; number < runs; number++)
		run_destroy(run_at(itable, number));
	for (uint64_t i = 0; i < CHUNKS && i <= runs / CHUNK_RUNS; i++) /* one run may have been made room for */
		free(itable->chunks[i]);
	pthread_mutex_destroy(&itable->grow_lock);
	pthread_mutex_destroy(&itable->compat_lock);
	free(itable);
	volume->itable = NULL;
}
