/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * In-core inodes.
 *
 * Concept: a hash from number to struct ash_icore, in shards. An in-core inode exists while somebody references it,
 * while it has buffered data, a preallocation or an unreported error (I5), and for a while longer on the shard's short
 * idle list, so that a directory in use is not built again for every operation.
 *
 * States: LOADING (its record is being read; others wait), FRESH (its record is about to be created;
 * others get -ESTALE), READY. `core.deleted` says that the record is gone; it leaves the hash with the last reference.
 *
 * Rules: a record changes only under its in-core inode's exclusive lock, or by the creator while FRESH. So what is not
 * in the hash, or there without a reference, cannot change as long as the shard's lock is held:
 * ash_icore_if_idle() reads attributes that way without making an in-core inode.
 * An inode loaded again takes the log's end as its LSN (I5): later than its last change for certain.
 *
 * Locks: one for each shard, not held over I/O; nothing but the lookup counts and the engine comes below it.
 * The inode locks themselves prefer writers and are not recursive.
 */
#include "names.h"

#include <stdlib.h>

#define SHARDS 64u
#define BUCKETS_MIN 64u
#define IDLE_MAX 32u /* a shard */
#define SPARE_MAX 16u

enum state { STATE_LOADING, STATE_FRESH, STATE_READY };

struct entry {
	struct ash_icore core; /* first: an ash_icore pointer is an entry pointer */
	enum state state;
	bool idle;
	struct entry *idle_next, *idle_previous;
};

struct shard {
	struct ash_lock lock;
	pthread_mutex_t wait_lock; /* taken under `lock`; for sleeping on `changed` */
	pthread_cond_t changed;
	uint64_t changes; /* wait_lock: entries loaded or gone */
	struct ash_icore **buckets;
	size_t bucket_mask, count;
	struct entry *idle_first, *idle_last; /* last: used longest ago */
	unsigned idle_count, spare_count;
	struct entry *spare; /* free entries, linked by core.hash_next */
} __attribute__((aligned(64)));

struct ash_icache {
	struct shard shards[SHARDS];
	struct ash_lookups *lookups;
	pthread_rwlockattr_t lock_kind;
};

static uint64_t hash_of(uint64_t ino)
{
	return ino * UINT64_C(0x9e3779b97f4a7c15);
}

static struct shard *shard_of(struct ash_volume *volume, uint64_t ino)
{
	return &volume->icache->shards[(hash_of(ino) >> 32) % SHARDS];
}

static struct ash_icore **bucket_of(const struct shard *shard, uint64_t ino)
{
	return &shard->buckets[(hash_of(ino) >> 40) & shard->bucket_mask];
}

struct ash_lookups *ash_icache_lookups(struct ash_volume *volume)
{
	return volume->icache->lookups;
}

/* ---- Waiting for an entry; shard lock held ---- */

static void tell_change(struct shard *shard)
{
	pthread_mutex_lock(&shard->wait_lock);
	shard->changes++;
	pthread_cond_broadcast(&shard->changed);
	pthread_mutex_unlock(&shard->wait_lock);
}

/*
 * The shard's lock is dropped meanwhile. Nobody changes an entry without it, so nothing is missed. Whoever changes it may
 * be reading the device.
 */
static void wait_change(struct ash_volume *volume, struct shard *shard)
{
	uint64_t before;

	pthread_mutex_lock(&shard->wait_lock);
	before = shard->changes;
	pthread_mutex_unlock(&shard->wait_lock);
	ash_unlock(&shard->lock);
	ash_wait_begin(volume);
	pthread_mutex_lock(&shard->wait_lock);
	while (shard->changes == before)
		pthread_cond_wait(&shard->changed, &shard->wait_lock);
	pthread_mutex_unlock(&shard->wait_lock);
	ash_wait_end(volume);
	ash_lock(&shard->lock);
}

/* ---- Entries; shard lock held ---- */

static struct entry *find(const struct shard *shard, uint64_t ino)
{
	struct ash_icore *core = *bucket_of(shard, ino);

	while (core && core->ino != ino)
		core = core->hash_next;
	return (struct entry *)core;
}

static void grow_buckets(struct shard *shard)
{
	size_t count = (shard->bucket_mask + 1) * 2;
	struct shard larger = { .bucket_mask = count - 1 };

	larger.buckets = calloc(count, sizeof(*larger.buckets));
	if (!larger.buckets)
		return; /* longer chains */
	for (size_t i = 0; i <= shard->bucket_mask; i++) {
		struct ash_icore *core = shard->buckets[i], *next;

		for (; core; core = next) {
			struct ash_icore **bucket = bucket_of(&larger, core->ino);

			next = core->hash_next;
			core->hash_next = *bucket;
			*bucket = core;
		}
	}
	free(shard->buckets);
	shard->buckets = larger.buckets;
	shard->bucket_mask = larger.bucket_mask;
}

static struct entry *allocate(struct ash_volume *volume, struct shard *shard)
{
	struct entry *entry = shard->spare;

	if (entry) {
		shard->spare = (struct entry *)entry->core.hash_next;
		shard->spare_count--;
	} else {
		entry = malloc(sizeof(*entry));
	}
	if (entry)
		pthread_rwlock_init(&entry->core.lock, &volume->icache->lock_kind);
	return entry;
}

/*
 * The next user makes the lock anew: what a checker has learnt of the order among locks holds for the inodes that they
 * belonged to.
 */
static void recycle(struct shard *shard, struct entry *entry)
{
	pthread_rwlock_destroy(&entry->core.lock);
	if (shard->spare_count == SPARE_MAX) {
		free(entry);
		return;
	}
	entry->core.hash_next = (struct ash_icore *)shard->spare;
	shard->spare = entry;
	shard->spare_count++;
}

/* One reference, in the hash. */
static struct entry *insert(struct ash_volume *volume, struct shard *shard, uint64_t ino, enum state state)
{
	struct entry *entry = allocate(volume, shard);
	struct ash_icore **bucket, *core;

	if (!entry)
		return NULL;
	if (shard->count > shard->bucket_mask)
		grow_buckets(shard);
	bucket = bucket_of(shard, ino);
	core = &entry->core;
	core->ino = ino;
	core->generation = 0;
	core->references = 1;
	core->deleted = core->truncated_to_zero = false;
	core->write_error = core->told_error = 0;
	atomic_store_explicit(&core->told, 0, memory_order_relaxed);
	atomic_store_explicit(&core->lsn, 0, memory_order_relaxed);
	atomic_store_explicit(&core->data_lsn, 0, memory_order_relaxed);
	atomic_store_explicit(&core->async_writes, 0, memory_order_relaxed);
	atomic_store_explicit(&core->async_barred, 0, memory_order_relaxed);
	core->buffered = NULL;
	core->buffered_size = 0;
	core->preallocated = (struct ash_extent){ 0 };
	core->preallocated_at = 0;
	core->hash_next = *bucket;
	*bucket = core;
	entry->state = state;
	entry->idle = false;
	shard->count++;
	return entry;
}

static void take_out(struct shard *shard, struct entry *entry)
{
	struct ash_icore **link = bucket_of(shard, entry->core.ino);

	while (*link != &entry->core)
		link = &(*link)->hash_next;
	*link = entry->core.hash_next;
	shard->count--;
	recycle(shard, entry);
}

static void idle_remove(struct shard *shard, struct entry *entry)
{
	*(entry->idle_previous ? &entry->idle_previous->idle_next : &shard->idle_first) = entry->idle_next;
	*(entry->idle_next ? &entry->idle_next->idle_previous : &shard->idle_last) = entry->idle_previous;
	entry->idle = false;
	shard->idle_count--;
}

static void idle_add(struct shard *shard, struct entry *entry)
{
	entry->idle_previous = NULL;
	entry->idle_next = shard->idle_first;
	*(shard->idle_first ? &shard->idle_first->idle_previous : &shard->idle_last) = entry;
	shard->idle_first = entry;
	entry->idle = true;
	if (++shard->idle_count > IDLE_MAX) {
		struct entry *oldest = shard->idle_last;

		idle_remove(shard, oldest);
		take_out(shard, oldest);
	}
}

static bool must_stay(const struct ash_icore *core)
{
	return core->buffered || core->write_error || core->preallocated.count;
}

/* ---- Get and put ---- */

/* Check the record. Nobody else can have the inode's lock: the entry is LOADING. */
static int load(struct ash_volume *volume, struct ash_icore *core, bool orphan)
{
	struct ash_record record;
	int result = core->ino == ASH_INO_TABLE ? -ESTALE : ash_record_get(volume, core->ino, &record);

	if (result)
		return result;
	core->generation = ash_get64(record.inode->generation);
	if (!ash_record_nlink(&record) && !orphan && !ash_lookup_count(volume, core->ino))
		result = -ESTALE;
	ash_record_put(volume, &record);
	if (!result) {
		uint64_t end = ash_log_end(volume);

		atomic_store(&core->lsn, end);
		atomic_store(&core->data_lsn, end);
	}
	return result;
}

/* Shard lock held; dropped and taken again. */
static int load_entry(struct ash_volume *volume, struct shard *shard, struct entry *entry, bool orphan)
{
	int result;

	ash_unlock(&shard->lock);
	result = load(volume, &entry->core, orphan);
	ash_lock(&shard->lock);
	if (result)
		take_out(shard, entry);
	else
		entry->state = STATE_READY;
	tell_change(shard);
	return result;
}

static struct entry *find_settled(struct ash_volume *volume, struct shard *shard, uint64_t ino)
{
	struct entry *entry;

	while ((entry = find(shard, ino)) && entry->state == STATE_LOADING)
		wait_change(volume, shard);
	return entry;
}

static int get(struct ash_volume *volume, uint64_t ino, bool orphan, struct ash_icore **out)
{
	struct shard *shard = shard_of(volume, ino);
	struct entry *entry;
	int result = 0;

	ash_lock(&shard->lock);
	entry = find_settled(volume, shard, ino);
	if (!entry) {
		entry = insert(volume, shard, ino, STATE_LOADING);
		result = entry ? load_entry(volume, shard, entry, orphan) : -ENOMEM;
	} else if (entry->state == STATE_FRESH || entry->core.deleted) {
		result = -ESTALE;
	} else {
		if (entry->idle)
			idle_remove(shard, entry);
		entry->core.references++;
	}
	ash_unlock(&shard->lock);
	if (!result)
		*out = &entry->core;
	return result;
}

int ash_icore_get(struct ash_volume *volume, uint64_t ino, struct ash_icore **out)
{
	return get(volume, ino, false, out);
}

int ash_icore_get_orphan(struct ash_volume *volume, uint64_t ino, struct ash_icore **out)
{
	return get(volume, ino, true, out);
}

void ash_icore_put(struct ash_volume *volume, struct ash_icore *icore)
{
	struct shard *shard = shard_of(volume, icore->ino);
	struct entry *entry = (struct entry *)icore;

	ash_lock(&shard->lock);
	assert(icore->references > 0);
	if (!--icore->references) {
		if (icore->deleted) {
			assert(!icore->buffered);
			take_out(shard, entry);
			tell_change(shard);
		} else if (!must_stay(icore)) {
			idle_add(shard, entry);
		}
	}
	ash_unlock(&shard->lock);
}

/* ---- New and gone ---- */

int ash_icore_new(struct ash_volume *volume, uint64_t ino, struct ash_icore **out)
{
	struct shard *shard = shard_of(volume, ino);
	struct entry *entry;

	ash_lock(&shard->lock);
	/* Only somebody who asked for a number that was free can be here: it goes away by itself. */
	while ((entry = find(shard, ino)))
		wait_change(volume, shard);
	entry = insert(volume, shard, ino, STATE_FRESH);
	ash_unlock(&shard->lock);
	if (!entry)
		return -ENOMEM;
	*out = &entry->core;
	return 0;
}

void ash_icore_publish(struct ash_volume *volume, struct ash_icore *icore, uint64_t generation, uint64_t lsn)
{
	struct shard *shard = shard_of(volume, icore->ino);

	ash_lock(&shard->lock);
	icore->generation = generation;
	ash_icore_raise(icore, lsn, true);
	((struct entry *)icore)->state = STATE_READY;
	ash_unlock(&shard->lock);
}

void ash_icore_set_deleted(struct ash_volume *volume, struct ash_icore *icore)
{
	struct shard *shard = shard_of(volume, icore->ino);

	ash_lock(&shard->lock);
	icore->deleted = true;
	ash_unlock(&shard->lock);
}

bool ash_icore_present(struct ash_volume *volume, uint64_t ino)
{
	struct shard *shard = shard_of(volume, ino);
	bool present;

	ash_lock(&shard->lock);
	present = find(shard, ino);
	ash_unlock(&shard->lock);
	return present;
}

bool ash_icore_if_idle(struct ash_volume *volume, uint64_t ino, void (*look)(void *context), void *context)
{
	struct shard *shard = shard_of(volume, ino);
	const struct entry *entry;
	bool idle;

	ash_lock(&shard->lock);
	entry = find(shard, ino);
	idle = !entry || entry->idle;
	if (idle)
		look(context);
	ash_unlock(&shard->lock);
	return idle;
}

/* ---- Locks and LSNs ---- */

void ash_icore_lock(struct ash_volume *volume, struct ash_icore *icore, bool exclusive)
{
	int busy = exclusive ? pthread_rwlock_trywrlock(&icore->lock) : pthread_rwlock_tryrdlock(&icore->lock);

	if (!busy)
		return;
	ash_wait_begin(volume);
	if (exclusive)
		pthread_rwlock_wrlock(&icore->lock);
	else
		pthread_rwlock_rdlock(&icore->lock);
	ash_wait_end(volume);
}

void ash_icore_unlock(struct ash_icore *icore)
{
	pthread_rwlock_unlock(&icore->lock);
}

static void raise_to(_Atomic uint64_t *value, uint64_t lsn)
{
	uint64_t old = atomic_load_explicit(value, memory_order_relaxed);

	while (old < lsn && !atomic_compare_exchange_weak(value, &old, lsn))
		;
}

void ash_icore_raise(struct ash_icore *icore, uint64_t lsn, bool data)
{
	raise_to(&icore->lsn, lsn);
	if (data)
		raise_to(&icore->data_lsn, lsn);
}

struct touch {
	struct ash_icore *icore;
	bool data;
};

static void touch_end(struct ash_volume *volume, void *context, uint64_t lsn)
{
	const struct touch *touch = context;

	(void)volume;
	if (lsn)
		ash_icore_raise(touch->icore, lsn, touch->data);
}

void ash_icore_touch(struct ash_txn *txn, struct ash_icore *icore, bool data)
{
	struct touch touch = { icore, data };

	ash_txn_on_end(txn, touch_end, &touch, sizeof(touch));
}

/* ---- Life ---- */

uint64_t ash_icache_count(struct ash_volume *volume)
{
	uint64_t count = 0;

	for (unsigned i = 0; i < SHARDS; i++) {
		struct shard *shard = &volume->icache->shards[i];

		ash_lock(&shard->lock);
		count += shard->count;
		ash_unlock(&shard->lock);
	}
	return count;
}

static int shard_open(struct shard *shard)
{
	pthread_mutex_init(&shard->wait_lock, NULL);
	pthread_cond_init(&shard->changed, NULL);
	shard->bucket_mask = BUCKETS_MIN - 1;
	shard->buckets = calloc(BUCKETS_MIN, sizeof(*shard->buckets));
	return shard->buckets ? 0 : -ENOMEM;
}

int ash_icache_open(struct ash_volume *volume)
{
	struct ash_icache *icache = aligned_alloc(64, sizeof(*icache));
	int result = 0;

	if (!icache)
		return -ENOMEM;
	memset(icache, 0, sizeof(*icache));
	pthread_rwlockattr_init(&icache->lock_kind);
	pthread_rwlockattr_setkind_np(&icache->lock_kind, PTHREAD_RWLOCK_PREFER_WRITER_NONRECURSIVE_NP);
	for (unsigned i = 0; i < SHARDS; i++)
		if (shard_open(&icache->shards[i]))
			result = -ENOMEM;
	if (!result)
		result = ash_lookups_open(&icache->lookups);
	volume->icache = icache;
	if (result)
		ash_icache_close(volume);
	return result;
}

static void chain_free(struct ash_icore *core, bool locks)
{
	while (core) {
		struct ash_icore *next = core->hash_next;

		if (locks)
			pthread_rwlock_destroy(&core->lock);
		free(core);
		core = next;
	}
}

void ash_icache_close(struct ash_volume *volume)
{
	struct ash_icache *icache = volume->icache;

	if (!icache)
		return;
	for (unsigned i = 0; i < SHARDS; i++) {
		struct shard *shard = &icache->shards[i];

		for (size_t b = 0; shard->buckets && b <= shard->bucket_mask; b++)
			chain_free(shard->buckets[b], true);
		chain_free((struct ash_icore *)shard->spare, false);
		free(shard->buckets);
		pthread_mutex_destroy(&shard->wait_lock);
		pthread_cond_destroy(&shard->changed);
	}
	ash_lookups_close(icache->lookups);
	pthread_rwlockattr_destroy(&icache->lock_kind);
	free(icache);
	volume->icache = NULL;
}
