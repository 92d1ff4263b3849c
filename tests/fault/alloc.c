/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Allocation failures: see alloc.h. Rule: the table of what the library holds is made of memory that is not counted.
 */
#include "alloc.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

void *__real_malloc(size_t size);
void *__real_calloc(size_t count, size_t size);
void *__real_realloc(void *memory, size_t size);
void *__real_reallocarray(void *memory, size_t count, size_t size);
void *__real_aligned_alloc(size_t alignment, size_t size);
char *__real_strdup(const char *text);
void __real_free(void *memory);
void *__real_mmap(void *address, size_t length, int protection, int flags, int fd, off_t offset);
int __real_munmap(void *address, size_t length);
void *__real_test_alloc(size_t size);
void *__real_test_realloc(void *memory, size_t size);

void *__wrap_malloc(size_t size);
void *__wrap_calloc(size_t count, size_t size);
void *__wrap_realloc(void *memory, size_t size);
void *__wrap_reallocarray(void *memory, size_t count, size_t size);
void *__wrap_aligned_alloc(size_t alignment, size_t size);
char *__wrap_strdup(const char *text);
void __wrap_free(void *memory);
void *__wrap_mmap(void *address, size_t length, int protection, int flags, int fd, off_t offset);
int __wrap_munmap(void *address, size_t length);
void *__wrap_test_alloc(size_t size);
void *__wrap_test_realloc(void *memory, size_t size);

static struct {
	struct injector *in;
	unsigned inside; /* depth of alloc_enter() */
	unsigned hits;
	void **held; /* hash set, open addressing, at most half full */
	size_t capacity, count;
} state;

void alloc_attach(struct injector *in)
{
	state.in = in;
}

void alloc_enter(void)
{
	state.inside++;
}

void alloc_leave(void)
{
	state.inside--;
}

unsigned alloc_hits(void)
{
	return state.hits;
}

size_t alloc_live(void)
{
	return state.count;
}

void alloc_forget(void)
{
	__real_free(state.held);
	state.held = NULL;
	state.capacity = state.count = 0;
}

/* ---- What is held ---- */

static size_t slot_of(void *const *held, size_t capacity, const void *memory)
{
	size_t slot = ((uintptr_t)memory >> 4) * 0x9e3779b97f4a7c15ull >> 20 & (capacity - 1);

	while (held[slot] && held[slot] != memory)
		slot = (slot + 1) & (capacity - 1);
	return slot;
}

static void hold(void *memory)
{
	if ((state.count + 1) * 2 > state.capacity) {
		size_t capacity = state.capacity ? state.capacity * 2 : 1024;
		void **held = __real_calloc(capacity, sizeof(*held));

		if (!held)
			abort();
		for (size_t i = 0; i < state.capacity; i++) {
			if (state.held[i])
				held[slot_of(held, capacity, state.held[i])] = state.held[i];
		}
		__real_free(state.held);
		state.held = held;
		state.capacity = capacity;
	}
	state.held[slot_of(state.held, state.capacity, memory)] = memory;
	state.count++;
}

static void let_go(const void *memory)
{
	size_t slot, next;

	if (!state.count || !memory)
		return;
	slot = slot_of(state.held, state.capacity, memory);
	if (!state.held[slot])
		return;
	state.held[slot] = NULL;
	state.count--;
	for (next = (slot + 1) & (state.capacity - 1); state.held[next]; next = (next + 1) & (state.capacity - 1)) {
		void *moved = state.held[next];

		state.held[next] = NULL;
		state.held[slot_of(state.held, state.capacity, moved)] = moved;
	}
}

/* ---- Failing ---- */

static bool fails(void)
{
	unsigned inside = state.inside;
	bool strikes;

	if (!inside || !state.in)
		return false;
	state.inside = 0;
	strikes = inject_here(state.in);
	state.inside = inside;
	if (!strikes)
		return false;
	state.hits++;
	errno = ENOMEM;
	return true;
}

static void *got(void *memory)
{
	if (memory && state.inside)
		hold(memory);
	return memory;
}

void *__wrap_malloc(size_t size)
{
	return fails() ? NULL : got(__real_malloc(size));
}

void *__wrap_calloc(size_t count, size_t size)
{
	return fails() ? NULL : got(__real_calloc(count, size));
}

void *__wrap_aligned_alloc(size_t alignment, size_t size)
{
	return fails() ? NULL : got(__real_aligned_alloc(alignment, size));
}

char *__wrap_strdup(const char *text)
{
	return fails() ? NULL : got(__real_strdup(text));
}

void *__wrap_realloc(void *memory, size_t size)
{
	if (fails())
		return NULL;
	let_go(memory);
	return got(__real_realloc(memory, size));
}

void *__wrap_reallocarray(void *memory, size_t count, size_t size)
{
	if (fails())
		return NULL;
	let_go(memory);
	return got(__real_reallocarray(memory, count, size));
}

void __wrap_free(void *memory)
{
	let_go(memory);
	__real_free(memory);
}

void *__wrap_mmap(void *address, size_t length, int protection, int flags, int fd, off_t offset)
{
	void *memory;

	if (fails())
		return MAP_FAILED;
	memory = __real_mmap(address, length, protection, flags, fd, offset);
	if (memory != MAP_FAILED)
		got(memory);
	return memory;
}

int __wrap_munmap(void *address, size_t length)
{
	let_go(address);
	return __real_munmap(address, length);
}

/* ---- The test's own ---- */

void *__wrap_test_alloc(size_t size)
{
	unsigned inside = state.inside;
	void *memory;

	state.inside = 0;
	memory = __real_test_alloc(size);
	state.inside = inside;
	return memory;
}

void *__wrap_test_realloc(void *memory, size_t size)
{
	unsigned inside = state.inside;

	state.inside = 0;
	memory = __real_test_realloc(memory, size);
	state.inside = inside;
	return memory;
}
