/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Aligned buffers: single ones, and a pool of equal ones.
 *
 * Concept: a pool is one mapping, cut into equal buffers; the free ones are a stack, so that the
 * buffer returned last, which is warm in the caches, goes out first.
 *
 * Locking: one mutex for the stack, held for a few instructions; a condition for those who wait.
 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE /* MAP_HUGETLB, MADV_HUGEPAGE */
#endif
#include <ashlar/blockdev.h>

#include <assert.h>
#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#define BUFFER_ALIGN 4096u
#define HUGE_PAGE (2u << 20)
/* Above this, fresh pages from the kernel are cheaper than clearing old ones. */
#define BUFFER_MAP_FROM (256u << 10)

static bool round_up(size_t length, size_t unit, size_t *out)
{
	if (length == 0)
		length = 1;
	if (__builtin_add_overflow(length, unit - 1, out))
		return false;
	*out &= ~(unit - 1);
	return true;
}

void *bdev_buffer_alloc(size_t length)
{
	void *buffer;

	if (!round_up(length, BUFFER_ALIGN, &length))
		return NULL;
	if (length >= BUFFER_MAP_FROM) {
		buffer = mmap(NULL, length, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		if (buffer == MAP_FAILED)
			return NULL;
		if (length >= HUGE_PAGE / 2)
			madvise(buffer, length,
				MADV_HUGEPAGE); /* fewer faults and shorter page lists for I/O; a wish */
		return buffer;
	}
	buffer = aligned_alloc(BUFFER_ALIGN, length);
	if (buffer)
		memset(buffer, 0, length);
	return buffer;
}

void bdev_buffer_free(void *buffer, size_t length)
{
	if (!buffer || !round_up(length, BUFFER_ALIGN, &length))
		return;
	if (length >= BUFFER_MAP_FROM)
		munmap(buffer, length);
	else
		free(buffer);
}

struct bdev_pool {
	pthread_mutex_t lock;
	pthread_cond_t returned;
	unsigned char *memory;
	size_t memory_length, buffer_size;
	unsigned count, free_count;
	void *free[]; /* a stack */
};

static void *map_pool(size_t *length, bool huge)
{
	size_t huge_length;
	void *memory;

	if (huge && round_up(*length, HUGE_PAGE, &huge_length)) {
		memory = mmap(NULL, huge_length, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB, -1,
			      0);
		if (memory != MAP_FAILED) {
			*length = huge_length;
			return memory;
		}
	}
	memory = mmap(NULL, *length, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (memory == MAP_FAILED)
		return NULL;
	if (huge)
		madvise(memory, *length, MADV_HUGEPAGE); /* transparent ones then; a wish only */
	return memory;
}

int bdev_pool_create(size_t buffer_size, unsigned count, bool huge, struct bdev_pool **out)
{
	struct bdev_pool *pool;
	size_t length;

	if (!count || !round_up(buffer_size, BUFFER_ALIGN, &buffer_size) ||
	    __builtin_mul_overflow(buffer_size, (size_t)count, &length))
		return -EINVAL;
	pool = calloc(1, sizeof(*pool) + count * sizeof(void *));
	if (!pool)
		return -ENOMEM;
	pool->memory = map_pool(&length, huge);
	if (!pool->memory) {
		free(pool);
		return -ENOMEM;
	}
	pthread_mutex_init(&pool->lock, NULL);
	pthread_cond_init(&pool->returned, NULL);
	pool->memory_length = length;
	pool->buffer_size = buffer_size;
	pool->count = count;
	for (unsigned i = count; i-- > 0;)
		pool->free[pool->free_count++] = pool->memory + i * buffer_size;
	*out = pool;
	return 0;
}

void bdev_pool_destroy(struct bdev_pool *pool)
{
	if (!pool)
		return;
	assert(pool->free_count == pool->count);
	munmap(pool->memory, pool->memory_length);
	pthread_cond_destroy(&pool->returned);
	pthread_mutex_destroy(&pool->lock);
	free(pool);
}

void *bdev_pool_get(struct bdev_pool *pool)
{
	void *buffer = NULL;

	pthread_mutex_lock(&pool->lock);
	if (pool->free_count)
		buffer = pool->free[--pool->free_count];
	pthread_mutex_unlock(&pool->lock);
	return buffer;
}

void *bdev_pool_get_wait(struct bdev_pool *pool)
{
	void *buffer;

	pthread_mutex_lock(&pool->lock);
	while (!pool->free_count)
		pthread_cond_wait(&pool->returned, &pool->lock);
	buffer = pool->free[--pool->free_count];
	pthread_mutex_unlock(&pool->lock);
	return buffer;
}

void bdev_pool_put(struct bdev_pool *pool, void *buffer)
{
	pthread_mutex_lock(&pool->lock);
	assert(pool->free_count < pool->count);
	assert(((unsigned char *)buffer - pool->memory) % (ptrdiff_t)pool->buffer_size == 0);
	pool->free[pool->free_count++] = buffer;
	pthread_cond_signal(&pool->returned);
	pthread_mutex_unlock(&pool->lock);
}
