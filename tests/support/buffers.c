/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Large buffers of the library are kept for the next volume (link option --wrap).
 *
 * Concept: judging a state, or an image, opens a volume several times, each time with some MiB of fresh buffers of which
 * a few pages are used; the page faults of these cost more than all the rest of a verdict. So buffers that the library
 * would map and unmap are kept by length; before one goes out again, the pages that were touched are cleared (mincore()
 * tells which), so that the promise "zeroed" of bdev_buffer_alloc() holds. Huge pages are off, since one write would make
 * 2 MiB of them. To AddressSanitizer a buffer that is kept is freed memory; under ThreadSanitizer nothing is kept.
 *
 * Locks: one for the list of kept buffers.
 */
#include <ashlar/blockdev.h>

#include <pthread.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>

#define KEPT 8u
#define KEEP_FROM (256u << 10)
#define KEEP_MAX (32u << 20)
#define PAGE 4096u

#ifndef __has_feature /* clang's */
#define __has_feature(name) 0
#endif

#if defined(__SANITIZE_THREAD__) || __has_feature(thread_sanitizer)
#define KEEPS 0
#else
#define KEEPS 1
#endif

#if defined(__SANITIZE_ADDRESS__) || __has_feature(address_sanitizer)
#include <sanitizer/asan_interface.h>
#else
#define ASAN_POISON_MEMORY_REGION(memory, length) ((void)(memory), (void)(length))
#define ASAN_UNPOISON_MEMORY_REGION(memory, length) ((void)(memory), (void)(length))
#endif

void *__real_bdev_buffer_alloc(size_t length);
void __real_bdev_buffer_free(void *buffer, size_t length);
void *__wrap_bdev_buffer_alloc(size_t length);
void __wrap_bdev_buffer_free(void *buffer, size_t length);

static struct kept {
	void *memory;
	size_t length;
} kept[KEPT];
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER; /* of these */

static bool is_kept_size(size_t length)
{
	return KEEPS && length >= KEEP_FROM && length <= KEEP_MAX && length % PAGE == 0;
}

static void clear_touched(unsigned char *memory, size_t length)
{
	static unsigned char resident[KEEP_MAX / PAGE];

	if (mincore(memory, length, resident)) {
		memset(memory, 0, length);
		return;
	}
	for (size_t i = 0; i < length / PAGE; i++) {
		if (resident[i] & 1)
			memset(memory + i * PAGE, 0, PAGE);
	}
}

static void *take(size_t length)
{
	void *memory = NULL;

	pthread_mutex_lock(&lock);
	for (unsigned i = 0; !memory && i < KEPT; i++) {
		if (!kept[i].memory || kept[i].length != length)
			continue;
		memory = kept[i].memory;
		kept[i].memory = NULL;
		ASAN_UNPOISON_MEMORY_REGION(memory, length);
		clear_touched(memory, length);
	}
	pthread_mutex_unlock(&lock);
	return memory;
}

static bool keep(void *buffer, size_t length)
{
	bool done = false;

	pthread_mutex_lock(&lock);
	for (unsigned i = 0; !done && i < KEPT; i++) {
		if (kept[i].memory)
			continue;
		ASAN_POISON_MEMORY_REGION(buffer, length);
		kept[i] = (struct kept){ buffer, length };
		done = true;
	}
	pthread_mutex_unlock(&lock);
	return done;
}

void *__wrap_bdev_buffer_alloc(size_t length)
{
	void *memory = is_kept_size(length) ? take(length) : NULL;

	if (memory)
		return memory;
	if (is_kept_size(length))
		prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0);
	return __real_bdev_buffer_alloc(length);
}

void __wrap_bdev_buffer_free(void *buffer, size_t length)
{
	if (!buffer || !is_kept_size(length) || !keep(buffer, length))
		__real_bdev_buffer_free(buffer, length);
}
