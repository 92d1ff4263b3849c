/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * File content in memory: sparse pages, shared between copies until one of them writes.
 *
 * A page that is absent is zero. Copying a content costs one reference per page, so that the crash tests can keep
 * the model's state at many moments. Not thread-safe: every test process has one thread that uses it.
 */
#ifndef TESTS_MODEL_CONTENT_H
#define TESTS_MODEL_CONTENT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define CONTENT_PAGE 4096u

struct content_page {
	unsigned references;
	unsigned char data[CONTENT_PAGE];
};

struct content_slot {
	uint64_t index; /* page number in the file */
	struct content_page *page;
};

struct content {
	struct content_slot *slots; /* sorted by index */
	size_t count, capacity;
};

/* All of these end the process when memory runs out: a test cannot go on. */
void *test_alloc(size_t size);
void *test_realloc(void *memory, size_t size);
char *test_strdup(const char *text);

void content_free(struct content *content);
/* `to` is overwritten, not freed. */
void content_copy(struct content *to, const struct content *from);
void content_read(const struct content *content, uint64_t offset, void *buffer, size_t length);
void content_write(struct content *content, uint64_t offset, const void *buffer, size_t length);
void content_zero(struct content *content, uint64_t offset, uint64_t length);
/* The page, or NULL when it is zero. */
const unsigned char *content_page(const struct content *content, uint64_t index);
/* First page with an index of at least `index`: position in slots, or count. */
size_t content_seek(const struct content *content, uint64_t index);
/* Do both hold the same bytes below `size`? If not, *where is the first difference. */
bool content_equal(const struct content *a, const struct content *b, uint64_t size, uint64_t *where);

/* Test data: byte `offset + i` of the write numbered `id`. Never zero, so that a hole is told from data. */
void pattern_fill(void *buffer, size_t length, uint64_t offset, uint32_t id);

#endif
