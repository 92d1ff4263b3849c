/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Metadata block cache: the contract is in cache.h.
 *
 * Shards by block number, each with a hash table, a clock ring of all its buffers and a lock. The clock hand frees
 * buffers that nobody holds, that are clean and were not used since it last came by. Dirty buffers stay: the log bounds
 * their number (engine.h: dirty_limit).
 *
 * References are taken and dropped without the lock, so that the common path never touches it. What keeps a buffer from
 * getting a reference while it becomes another one is a bit of the count itself: the hand claims a buffer by changing
 * the count from 0 to CLAIMED, and there it stays until the buffer stands for a block again. Buffers are never given
 * back while the cache lives, so an old pointer leads to some buffer, and the reference shows which one.
 *
 * A buffer whose block was freed is detached: out of hash and ring, on the shard's graveyard until its last
 * holder is gone.
 */
#include "engine.h"
#include "inode.h"

#include <stdlib.h>
#include <sys/mman.h>

#define SHARDS 64u
#define HUGE_PAGE (2u << 20)
#define NEIGHBOURS 8u /* 64 bytes of pointers */
#define CHUNKS_IN_HUGE_PAGE 8u
#define CHUNK_BLOCKS_MAX 61u
#define SLAB_BLOCKS (CHUNKS_IN_HUGE_PAGE * CHUNK_BLOCKS_MAX)
#define CLOCK_LOOKS 64u    /* buffers a turn of the clock looks at */
#define CLAIMED (1u << 31) /* of a buffer's references */
#define HOPS_MAX 4u        /* of a chain followed without the lock: it may change, even into a circle */
static_assert(SLAB_BLOCKS * (ASH_BLOCK_SIZE + sizeof(struct ash_buffer)) <= HUGE_PAGE, "slab");
static_assert(offsetof(struct ash_buffer, clock_next) <= 64, "what every look-up looks at is in one cache line");

struct shard {
	struct ash_lock lock;
	pthread_mutex_t load_lock; /* for sleeping on `loaded`; `loading` ends under both */
	pthread_cond_t loaded;
	_Atomic(struct ash_buffer *) *buckets; /* changed under the lock */
	uint32_t bucket_count, count;
	struct ash_buffer *hand;      /* clock ring */
	struct ash_buffer *graveyard; /* through hash_next */
	struct ash_buffer *spare;     /* free buffers with data, through hash_next */
	_Atomic uint64_t hits;        /* no lock, nor one operation: of two threads that meet one may go uncounted */
	uint64_t misses;
};

struct slab {
	struct slab *next;
	struct ash_buffer *buffers;
	uint8_t *data;
	uint32_t blocks, taken;
};

struct ash_cache {
	struct shard shards[SHARDS];
	uint32_t limit; /* buffers a shard */
	uint32_t chunk_blocks;
	pthread_mutex_t slab_lock;
	struct slab *slabs;
	_Atomic uint64_t blocks;
};

/* In this layout then: data of SLAB_BLOCKS blocks, their buffers behind it. */
static bool slabs_are_huge(const struct ash_cache *cache)
{
	return cache->chunk_blocks == CHUNK_BLOCKS_MAX;
}

/* Neighbours in one cache line of buckets: inode blocks lie side by side, a directory's leaves near each other. */
static uint64_t hash_of(uint64_t block)
{
	return block / NEIGHBOURS * 0x9e3779b97f4a7c15ull;
}

static struct shard *shard_of(struct ash_cache *cache, uint64_t block)
{
	return &cache->shards[hash_of(block) >> 58];
}

static _Atomic(struct ash_buffer *) *bucket_of(const struct shard *shard, uint64_t block)
{
	uint64_t place = (hash_of(block) >> 20) * NEIGHBOURS + block % NEIGHBOURS;

	return &shard->buckets[place & (shard->bucket_count - 1)];
}

static struct ash_buffer *bucket_first(const struct shard *shard, uint64_t block)
{
	return atomic_load_explicit(bucket_of(shard, block), memory_order_acquire);
}

static inline struct ash_buffer *next_of(const struct ash_buffer *buffer)
{
	return atomic_load_explicit(&buffer->hash_next, memory_order_acquire);
}

/* Also of a buffer that is about to become another one. */
static inline uint64_t block_of(const struct ash_buffer *buffer)
{
	return __atomic_load_n(&buffer->id.block, __ATOMIC_RELAXED);
}

static inline struct ash_buffer *hash_find(struct shard *shard, uint64_t block)
{
	struct ash_buffer *buffer = bucket_first(shard, block);

	while (buffer && buffer->id.block != block)
		buffer = next_of(buffer);
	return buffer;
}

static void set_next(struct ash_buffer *buffer, struct ash_buffer *next)
{
	atomic_store_explicit(&buffer->hash_next, next, memory_order_release);
}

static void hash_insert(struct shard *shard, struct ash_buffer *buffer)
{
	set_next(buffer, bucket_first(shard, buffer->id.block));
	atomic_store_explicit(bucket_of(shard, buffer->id.block), buffer, memory_order_release);
	shard->count++;
}

static void hash_remove(struct shard *shard, struct ash_buffer *buffer)
{
	struct ash_buffer *before = bucket_first(shard, buffer->id.block);

	if (before == buffer) {
		atomic_store_explicit(bucket_of(shard, buffer->id.block), next_of(buffer), memory_order_release);
	} else {
		while (next_of(before) != buffer)
			before = next_of(before);
		set_next(before, next_of(buffer));
	}
	shard->count--;
}

static void clock_insert(struct shard *shard, struct ash_buffer *buffer)
{
	if (!shard->hand) {
		buffer->clock_next = buffer->clock_previous = buffer;
		shard->hand = buffer;
		return;
	}
	/* behind the hand: the last to be looked at */
	buffer->clock_next = shard->hand;
	buffer->clock_previous = shard->hand->clock_previous;
	buffer->clock_previous->clock_next = buffer;
	shard->hand->clock_previous = buffer;
}

static void clock_remove(struct shard *shard, struct ash_buffer *buffer)
{
	if (buffer->clock_next == buffer) {
		shard->hand = NULL;
		return;
	}
	if (shard->hand == buffer)
		shard->hand = buffer->clock_next;
	buffer->clock_next->clock_previous = buffer->clock_previous;
	buffer->clock_previous->clock_next = buffer->clock_next;
}

/* A claimed buffer. */
static void spare_put(struct shard *shard, struct ash_buffer *buffer)
{
	set_next(buffer, shard->spare);
	shard->spare = buffer;
}

/*
 * A slab is one piece of memory: data of its blocks, then their buffers. A big cache takes slabs of one huge page,
 * cut into eight chunks for eight shards: a random look-up would otherwise miss the TLB at every step.
 */
static struct slab *slab_create(struct ash_cache *cache)
{
	bool huge = slabs_are_huge(cache);
	size_t size = huge ? HUGE_PAGE : cache->chunk_blocks * (ASH_BLOCK_SIZE + sizeof(struct ash_buffer));
	struct slab *slab = malloc(sizeof(*slab));

	if (!slab)
		return NULL;
	slab->blocks = huge ? SLAB_BLOCKS : cache->chunk_blocks;
	slab->taken = 0;
	slab->data = aligned_alloc(huge ? HUGE_PAGE : ASH_BLOCK_SIZE,
				   (size + ASH_BLOCK_SIZE - 1) / ASH_BLOCK_SIZE * ASH_BLOCK_SIZE);
	if (!slab->data) {
		free(slab);
		return NULL;
	}
	if (huge)
		madvise(slab->data, HUGE_PAGE, MADV_HUGEPAGE); /* a wish */
	slab->buffers = (void *)(slab->data + (size_t)slab->blocks * ASH_BLOCK_SIZE);
	slab->next = cache->slabs;
	cache->slabs = slab;
	return slab;
}

/* A chunk of fresh buffers for one shard's spare list. */
static int chunk_add(struct ash_cache *cache, struct shard *shard)
{
	struct slab *slab;
	uint32_t first = 0;

	pthread_mutex_lock(&cache->slab_lock);
	slab = cache->slabs;
	if (!slab || slab->taken == slab->blocks)
		slab = slab_create(cache);
	if (slab) {
		first = slab->taken;
		slab->taken += cache->chunk_blocks;
	}
	pthread_mutex_unlock(&cache->slab_lock);
	if (!slab)
		return -ENOMEM;
	memset(&slab->buffers[first], 0, cache->chunk_blocks * sizeof(struct ash_buffer));
	for (uint32_t i = first; i < first + cache->chunk_blocks; i++) {
		slab->buffers[i].data = slab->data + (size_t)i * ASH_BLOCK_SIZE;
		atomic_init(&slab->buffers[i].references, CLAIMED);
		spare_put(shard, &slab->buffers[i]);
	}
	return 0;
}

static bool wanted(struct ash_buffer *buffer)
{
	return atomic_load(&buffer->loading) || atomic_load(&buffer->references) || atomic_load(&buffer->dirty);
}

/*
 * Shard lock held. True: nobody has the buffer, nobody will get it, and it is clean.
 *
 * Only a holder makes a buffer dirty. The checkpoint alone gets past the claim: it takes references of dirty buffers whatever
 * the count says, and makes them clean before it lets go. So once the claimed buffer is seen to be clean it stays so and no
 * reference is added; but the checkpoint may have come and cleaned it since the claim, and still have its own: the count,
 * looked at last, tells.
 */
static bool claim(struct ash_buffer *buffer)
{
	uint32_t none = 0;

	if (wanted(buffer) || !atomic_compare_exchange_strong(&buffer->references, &none, CLAIMED))
		return false;
	if (!atomic_load(&buffer->dirty) && atomic_load(&buffer->references) == CLAIMED)
		return true;
	atomic_fetch_sub(&buffer->references, CLAIMED);
	return false;
}

static void graveyard_sweep(struct ash_cache *cache, struct shard *shard)
{
	struct ash_buffer *buffer = shard->graveyard, *next;

	shard->graveyard = NULL;
	for (; buffer; buffer = next) {
		next = next_of(buffer);
		/* a dirty one still hangs in the log's list; it comes here by damage only, and goes once it is home */
		if (claim(buffer)) {
			spare_put(shard, buffer);
			atomic_fetch_sub(&cache->blocks, 1);
		} else {
			set_next(buffer, shard->graveyard);
			shard->graveyard = buffer;
		}
	}
}

/*
 * One turn of the clock: frees one buffer to the spare list if it can. At the most two times round, and no more than
 * CLOCK_LOOKS buffers a turn: in a shard full of dirty ones (a log that a larger cache left) nothing can go.
 */
static void evict_one(struct ash_cache *cache, struct shard *shard)
{
	for (uint32_t looked = 0; shard->hand && looked < 2 * shard->count && looked < CLOCK_LOOKS; looked++) {
		struct ash_buffer *buffer = shard->hand;

		shard->hand = buffer->clock_next;
		if (wanted(buffer))
			continue;
		if (atomic_exchange_explicit(&buffer->accessed, false, memory_order_relaxed) || !claim(buffer))
			continue;
		hash_remove(shard, buffer);
		clock_remove(shard, buffer);
		spare_put(shard, buffer);
		atomic_fetch_sub(&cache->blocks, 1);
		return;
	}
}

/* Shard lock held: a fresh buffer with one reference, in hash and ring. `loading`: its bytes will be read; others wait. */
static struct ash_buffer *buffer_create(struct ash_cache *cache, struct shard *shard, struct ash_block_id id,
					bool loading)
{
	struct ash_buffer *buffer;

	if (shard->graveyard)
		graveyard_sweep(cache, shard);
	/* two for one, so that a shard that grew over its limit (all dirty or held) comes back to it */
	for (int i = 0; i < 2 && shard->count >= cache->limit; i++)
		evict_one(cache, shard);
	if (!shard->spare && chunk_add(cache, shard))
		return NULL;
	buffer = shard->spare;
	shard->spare = next_of(buffer);
	buffer->dirty_next = buffer->dirty_previous = NULL;
	__atomic_store_n(&buffer->id.block, id.block, __ATOMIC_RELAXED);
	buffer->id.type = id.type;
	buffer->id.owner = id.owner;
	atomic_store_explicit(&buffer->dirty, false, memory_order_relaxed);
	atomic_store_explicit(&buffer->checked, 0, memory_order_relaxed);
	atomic_store_explicit(&buffer->bad_records, 0, memory_order_relaxed);
	buffer->undo = NULL;
	buffer->first_lsn = buffer->last_lsn = buffer->next_first_lsn = 0;
	buffer->writing = buffer->dead = false;
	atomic_store_explicit(&buffer->accessed, true, memory_order_relaxed);
	atomic_store_explicit(&buffer->loading, loading, memory_order_relaxed);
	atomic_store_explicit(&buffer->replayed, false, memory_order_relaxed);
	atomic_store_explicit(&buffer->detached, false, memory_order_relaxed);
	buffer->load_error = 0;
	/* No longer claimed: whoever gets a reference from now on sees all of the above. */
	atomic_store_explicit(&buffer->references, 1, memory_order_release);
	hash_insert(shard, buffer);
	atomic_fetch_add(&cache->blocks, 1);
	clock_insert(shard, buffer);
	return buffer;
}

/* Shard lock held. */
static void buffer_detach_locked(struct ash_cache *cache, struct shard *shard, struct ash_buffer *buffer)
{
	hash_remove(shard, buffer);
	clock_remove(shard, buffer);
	atomic_store(&buffer->detached, true);
	set_next(buffer, shard->graveyard);
	shard->graveyard = buffer;
	graveyard_sweep(cache, shard);
}

/* ---- Verification (I8) ---- */

const char *ash_header_wrong(const struct ash_volume *volume, struct ash_block_id id, const uint8_t *data,
			     bool verify_crc)
{
	const struct ash_block_header *header = (const void *)data;

	if (ash_get32(header->magic) != id.type)
		return "wrong magic";
	if (verify_crc && ash_get32(header->crc) != ash_block_crc(volume->checksum_seed, data))
		return "bad checksum";
	if (ash_get64(header->address) != id.block)
		return "belongs to another address";
	if (ash_get64(header->owner) != id.owner)
		return "belongs to another owner";
	if (memcmp(header->metadata_uuid, volume->metadata_uuid, 16))
		return "belongs to another volume";
	return NULL;
}

/* A bad record spoils its own inode only. */
uint32_t ash_records_wrong(const struct ash_volume *volume, struct ash_block_id id, const uint8_t *data,
			   bool verify_crc)
{
	static const struct ash_inode zero;
	uint32_t bad = 0;

	for (uint32_t i = 0; i < ASH_INODES_PER_BLOCK; i++) {
		const struct ash_inode *record = (const void *)(data + i * ASH_INODE_SIZE);

		if (!memcmp(record, &zero, sizeof(zero)))
			continue;
		if (ash_inode_check(volume->checksum_seed, id.owner + i, record, verify_crc))
			bad |= 1u << i;
	}
	return bad;
}

static int verify(struct ash_volume *volume, struct ash_buffer *buffer, struct ash_block_id id, bool verify_crc)
{
	const char *wrong;

	if (id.type == ASH_TYPE_INODE_TABLE) {
		/* a checkpoint may be looking already when the content came from the log */
		atomic_fetch_or(&buffer->bad_records, ash_records_wrong(volume, id, buffer->data, verify_crc));
		return 0;
	}
	wrong = ash_header_wrong(volume, id, buffer->data, verify_crc);
	return wrong ? ash_damaged(volume, id.block, wrong) : 0;
}

int ash_damaged(struct ash_volume *volume, uint64_t block, const char *what)
{
	atomic_fetch_add(&volume->damaged_blocks, 1);
	/* -f, since only the unmount of a volume that may be written tells fsck that there was damage. */
	ash_say(volume, ASH_LOG_ERROR, "damaged metadata: block %llu: %s; run fsck.ashlar -f",
		(unsigned long long)block, what);
	if (!volume->options.continue_on_damage && !atomic_load(&volume->read_only))
		ash_set_read_only(volume, "damaged metadata (errors=remount-ro)");
	return -EUCLEAN;
}

/* ---- Getting ---- */

/* The loader's part: no lock held; others wait for `loading` to end. */
static int buffer_load(struct ash_volume *volume, struct shard *shard, struct ash_buffer *buffer)
{
	int error;

	ash_wait_begin(volume);
	error = bdev_read(volume->dev, buffer->data, ASH_BLOCK_SIZE, buffer->id.block * ASH_BLOCK_SIZE);
	ash_wait_end(volume);
	if (error)
		ash_say(volume, ASH_LOG_ERROR, "reading block %llu: %s", (unsigned long long)buffer->id.block,
			strerror(-error));
	else
		error = verify(volume, buffer, buffer->id, true);
	ash_lock(&shard->lock);
	buffer->load_error = error;
	pthread_mutex_lock(&shard->load_lock);
	atomic_store(&buffer->loading, false);
	pthread_cond_broadcast(&shard->loaded);
	pthread_mutex_unlock(&shard->load_lock);
	if (error) {
		atomic_fetch_sub(&buffer->references, 1);
		if (!buffer->detached) /* by ash_buffer_get_new(): a damaged tree points to a block that is free */
			buffer_detach_locked(volume->cache, shard, buffer);
	}
	ash_unlock(&shard->lock);
	return error;
}

/* A cached buffer must be what the caller expects, too: two owners of one block mean a damaged tree. */
static int buffer_match(struct ash_volume *volume, struct ash_buffer *buffer, struct ash_block_id id)
{
	if (buffer->id.type == id.type && buffer->id.owner == id.owner)
		return 0;
	if (buffer->id.type == ASH_TYPE_LOST)
		return ash_damaged(volume, id.block, "it cannot be read, and the log holds only parts of it");
	return ash_damaged(volume, id.block, "is used by two owners");
}

/* Shard lock held, dropped while sleeping; a reference keeps the buffer. */
static void wait_loaded(struct ash_volume *volume, struct shard *shard, struct ash_buffer *buffer)
{
	ash_unlock(&shard->lock);
	ash_wait_begin(volume);
	pthread_mutex_lock(&shard->load_lock);
	while (buffer->loading)
		pthread_cond_wait(&shard->loaded, &shard->load_lock);
	pthread_mutex_unlock(&shard->load_lock);
	ash_wait_end(volume);
	ash_lock(&shard->lock);
}

/*
 * The buffer, and the bytes that the caller will look at, together: a look-up in a large cache is a chain of cache misses.
 * No lock need be held. Buffers stay where they are while the cache lives, and a prefetch of anything is harmless.
 */
static inline void prefetch(struct ash_cache *cache, uint64_t block, uint32_t offset)
{
	const struct ash_buffer *buffer = bucket_first(shard_of(cache, block), block);
	const uint8_t *slab = (const uint8_t *)((uintptr_t)buffer & ~(uintptr_t)(HUGE_PAGE - 1)), *data;

	if (!slabs_are_huge(cache) || !buffer)
		return;
	__builtin_prefetch(buffer);
	data = slab +
	       (size_t)(buffer - (const struct ash_buffer *)(slab + SLAB_BLOCKS * ASH_BLOCK_SIZE)) * ASH_BLOCK_SIZE;
	for (uint32_t line = 0; line < 3; line++)
		__builtin_prefetch(data + offset + line * 64);
}

void ash_buffer_prefetch(struct ash_volume *volume, uint64_t block, uint32_t offset)
{
	prefetch(volume->cache, block, offset);
}

/* From any count but a claimed one. */
static inline bool reference_try(struct ash_buffer *buffer)
{
	uint32_t count = atomic_load_explicit(&buffer->references, memory_order_relaxed);

	while (!(count & CLAIMED))
		if (atomic_compare_exchange_weak_explicit(&buffer->references, &count, count + 1, memory_order_acquire,
							  memory_order_relaxed))
			return true;
	return false;
}

/* Of a referenced buffer, hence one that stays what it is: `id`, with nothing to be done or to be said about it? */
static inline bool is_ready(const struct ash_buffer *buffer, struct ash_block_id id)
{
	return !atomic_load_explicit(&buffer->loading, memory_order_acquire) &&
	       !atomic_load_explicit(&buffer->replayed, memory_order_acquire) &&
	       !atomic_load_explicit(&buffer->detached, memory_order_acquire) && !buffer->load_error &&
	       buffer->id.block == id.block && buffer->id.type == id.type && buffer->id.owner == id.owner;
}

static inline void count_hit(struct shard *shard)
{
	uint64_t hits = atomic_load_explicit(&shard->hits, memory_order_relaxed);

	atomic_store_explicit(&shard->hits, hits + 1, memory_order_relaxed);
}

/* The common case, without the lock. NULL says nothing: look with the lock held. */
static inline struct ash_buffer *try_get(struct shard *shard, struct ash_block_id id)
{
	struct ash_buffer *buffer = bucket_first(shard, id.block);

	for (unsigned hops = 0; buffer && block_of(buffer) != id.block; hops++)
		buffer = hops < HOPS_MAX ? next_of(buffer) : NULL;
	if (!buffer || !reference_try(buffer))
		return NULL;
	if (!is_ready(buffer, id)) {
		atomic_fetch_sub(&buffer->references, 1);
		return NULL;
	}
	if (!atomic_load_explicit(&buffer->accessed, memory_order_relaxed))
		atomic_store_explicit(&buffer->accessed, true, memory_order_relaxed);
	count_hit(shard);
	return buffer;
}

static int __attribute__((noinline))
get_locked(struct ash_volume *volume, struct ash_block_id id, struct ash_buffer **out)
{
	struct shard *shard = shard_of(volume->cache, id.block);
	struct ash_buffer *buffer;
	int error;

	if (id.block >= volume->block_count)
		return ash_damaged(volume, id.block, "address outside the volume");
	ash_lock(&shard->lock);
	buffer = hash_find(shard, id.block);
	if (!buffer) {
		shard->misses++;
		buffer = buffer_create(volume->cache, shard, id, true);
		ash_unlock(&shard->lock);
		if (!buffer)
			return -ENOMEM;
		error = buffer_load(volume, shard, buffer);
		if (!error)
			*out = buffer;
		return error;
	}
	count_hit(shard);
	atomic_store_explicit(&buffer->accessed, true, memory_order_relaxed);
	atomic_fetch_add(&buffer->references, 1);
	if (buffer->loading)
		wait_loaded(volume, shard, buffer);
	error = buffer->load_error;
	if (!error && buffer->replayed && buffer->id.type == id.type) {
		/* the log says what it holds; whether it makes sense is seen here, at its first use */
		error = verify(volume, buffer, id, false);
		if (!error) {
			buffer->id.owner = id.owner; /* inode table: known only now */
			atomic_store_explicit(&buffer->replayed, false, memory_order_release);
		}
	}
	ash_unlock(&shard->lock);
	if (!error)
		error = buffer_match(volume, buffer, id);
	if (error) {
		ash_buffer_put(volume, buffer);
		return error;
	}
	*out = buffer;
	return 0;
}

static inline int buffer_get(struct ash_volume *volume, struct ash_block_id id, struct ash_buffer **out)
{
	*out = try_get(shard_of(volume->cache, id.block), id);
	return *out ? 0 : get_locked(volume, id, out);
}

int ash_buffer_get(struct ash_volume *volume, struct ash_block_id id, struct ash_buffer **out)
{
	return buffer_get(volume, id, out);
}

int ash_buffer_get_at(struct ash_volume *volume, struct ash_block_id id, uint32_t offset, struct ash_buffer **out)
{
	prefetch(volume->cache, id.block, offset);
	return buffer_get(volume, id, out);
}

void ash_buffer_put(struct ash_volume *volume, struct ash_buffer *buffer)
{
	(void)volume;
	atomic_fetch_sub(&buffer->references, 1);
}

int ash_buffer_get_new(struct ash_volume *volume, struct ash_block_id id, struct ash_buffer **out)
{
	struct shard *shard = shard_of(volume->cache, id.block);
	struct ash_buffer *buffer;

	*out = NULL;
	ash_lock(&shard->lock);
	buffer = hash_find(shard, id.block);
	if (buffer && atomic_load(&buffer->dirty)) {
		/* freed metadata is clean and out of the cache: the bitmap that says "free" is wrong (I8) */
		ash_unlock(&shard->lock);
		return ash_damaged(volume, id.block, "free in the bitmap, but metadata is in it");
	}
	if (buffer)
		buffer_detach_locked(volume->cache, shard, buffer);
	buffer = buffer_create(volume->cache, shard, id, false);
	if (buffer) /* before others can find it */
		memset(buffer->data, 0, ASH_BLOCK_SIZE);
	ash_unlock(&shard->lock);
	*out = buffer;
	return buffer ? 0 : -ENOMEM;
}

void ash_buffer_detach(struct ash_volume *volume, uint64_t block)
{
	struct shard *shard = shard_of(volume->cache, block);
	struct ash_buffer *buffer;

	ash_lock(&shard->lock);
	buffer = hash_find(shard, block);
	if (buffer)
		buffer_detach_locked(volume->cache, shard, buffer);
	ash_unlock(&shard->lock);
}

struct ash_buffer *ash_buffer_peek(struct ash_volume *volume, uint64_t block)
{
	struct shard *shard = shard_of(volume->cache, block);
	struct ash_buffer *buffer;

	ash_lock(&shard->lock);
	buffer = hash_find(shard, block);
	if (buffer && buffer->loading)
		buffer = NULL;
	if (buffer)
		atomic_fetch_add(&buffer->references, 1);
	ash_unlock(&shard->lock);
	return buffer;
}

void ash_buffer_set_replayed(struct ash_volume *volume, struct ash_buffer *buffer)
{
	struct shard *shard = shard_of(volume->cache, buffer->id.block);

	ash_lock(&shard->lock);
	buffer->replayed = true;
	ash_unlock(&shard->lock);
}

/* ---- Going home ---- */

void ash_image_stamp(uint32_t seed, uint32_t type, uint32_t bad_records, uint8_t *image)
{
	if (type != ASH_TYPE_INODE_TABLE) {
		struct ash_block_header *header = (void *)image;
		struct ash_super *super = (void *)image;

		if (type == ASH_MAGIC_SUPER)
			super->table_inode.crc = ash_put32(ash_inode_crc(seed, &super->table_inode));
		header->crc = ash_put32(ash_block_crc(seed, image));
		return;
	}
	for (uint32_t i = 0; i < ASH_INODES_PER_BLOCK; i++) {
		struct ash_inode *record = (void *)(image + i * ASH_INODE_SIZE);

		if (ash_get32(record->magic) == ASH_MAGIC_INODE && !(bad_records & 1u << i))
			record->crc = ash_put32(ash_inode_crc(seed, record));
	}
}

uint32_t ash_image_crc(uint32_t seed, const uint8_t *image)
{
	const struct ash_block_header *header = (const void *)image;

	if (ash_get32(header->magic) == ASH_MAGIC_GROUP_TABLE)
		return ash_crc32c(seed, image, ASH_GROUP_TABLE_CRC_LENGTH);
	return ash_crc32c(seed, image, ASH_BLOCK_SIZE);
}

/* ---- Life ---- */

uint64_t ash_cache_blocks(struct ash_volume *volume)
{
	return atomic_load(&volume->cache->blocks);
}

uint64_t ash_cache_limit(struct ash_volume *volume)
{
	return (uint64_t)volume->cache->limit * SHARDS;
}

void ash_cache_hits(struct ash_volume *volume, uint64_t *hits, uint64_t *misses)
{
	*hits = *misses = 0;
	for (uint32_t i = 0; i < SHARDS; i++) {
		struct shard *shard = &volume->cache->shards[i];

		ash_lock(&shard->lock);
		*hits += shard->hits;
		*misses += shard->misses;
		ash_unlock(&shard->lock);
	}
}

int ash_cache_open(struct ash_volume *volume)
{
	struct ash_cache *cache = calloc(1, sizeof(*cache));
	uint32_t buckets = 16;

	if (!cache)
		return -ENOMEM;
	cache->limit = volume->options.cache_bytes / ASH_BLOCK_SIZE / SHARDS;
	cache->chunk_blocks = cache->limit < 4 ? 4 : cache->limit > CHUNK_BLOCKS_MAX ? CHUNK_BLOCKS_MAX : cache->limit;
	while (buckets < cache->limit)
		buckets *= 2;
	pthread_mutex_init(&cache->slab_lock, NULL);
	volume->cache = cache;
	for (uint32_t i = 0; i < SHARDS; i++) {
		struct shard *shard = &cache->shards[i];

		pthread_mutex_init(&shard->load_lock, NULL);
		pthread_cond_init(&shard->loaded, NULL);
		shard->bucket_count = buckets;
		shard->buckets = aligned_alloc(64, buckets * sizeof(*shard->buckets));
		if (!shard->buckets)
			return -ENOMEM; /* ash_cache_close() frees what is there */
		for (uint32_t b = 0; b < buckets; b++)
			atomic_init(&shard->buckets[b], NULL);
	}
	return 0;
}

static void shard_close(struct shard *shard)
{
	free(shard->buckets);
	pthread_mutex_destroy(&shard->load_lock);
	pthread_cond_destroy(&shard->loaded);
}

void ash_cache_close(struct ash_volume *volume)
{
	struct ash_cache *cache = volume->cache;

	if (!cache)
		return;
	for (uint32_t i = 0; i < SHARDS; i++)
		shard_close(&cache->shards[i]);
	while (cache->slabs) {
		struct slab *slab = cache->slabs;

		cache->slabs = slab->next;
		free(slab->data);
		free(slab);
	}
	pthread_mutex_destroy(&cache->slab_lock);
	free(cache);
	volume->cache = NULL;
}
