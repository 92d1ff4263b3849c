/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Sparse, shared pages: see content.h. Rule: a page with more than one reference is never written, it is copied first.
 * No locks: one thread.
 */
#include "content.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void *test_alloc(size_t size)
{
	void *memory = calloc(1, size ? size : 1);

	if (!memory) {
		fprintf(stderr, "Bail out! out of memory\n");
		abort();
	}
	return memory;
}

void *test_realloc(void *memory, size_t size)
{
	void *bigger = realloc(memory, size ? size : 1);

	if (!bigger) {
		fprintf(stderr, "Bail out! out of memory\n");
		abort();
	}
	return bigger;
}

char *test_strdup(const char *text)
{
	size_t size = strlen(text) + 1;

	return memcpy(test_alloc(size), text, size);
}

static void page_put(struct content_page *page)
{
	if (--page->references == 0)
		free(page);
}

void content_free(struct content *content)
{
	for (size_t i = 0; i < content->count; i++)
		page_put(content->slots[i].page);
	free(content->slots);
	*content = (struct content){ 0 };
}

void content_copy(struct content *to, const struct content *from)
{
	*to = (struct content){ .count = from->count, .capacity = from->count };
	if (!from->count)
		return;
	to->slots = test_alloc(from->count * sizeof(*to->slots));
	memcpy(to->slots, from->slots, from->count * sizeof(*to->slots));
	for (size_t i = 0; i < to->count; i++)
		to->slots[i].page->references++;
}

size_t content_seek(const struct content *content, uint64_t index)
{
	size_t low = 0, high = content->count;

	while (low < high) {
		size_t middle = (low + high) / 2;

		if (content->slots[middle].index < index)
			low = middle + 1;
		else
			high = middle;
	}
	return low;
}

const unsigned char *content_page(const struct content *content, uint64_t index)
{
	size_t at = content_seek(content, index);

	if (at == content->count || content->slots[at].index != index)
		return NULL;
	return content->slots[at].page->data;
}

/* The page for writing, made when absent, copied when shared. */
static unsigned char *page_for_write(struct content *content, uint64_t index)
{
	size_t at = content_seek(content, index);
	struct content_page *page, *old = NULL;

	if (at < content->count && content->slots[at].index == index) {
		old = content->slots[at].page;
		if (old->references == 1)
			return old->data;
	}
	page = test_alloc(sizeof(*page));
	page->references = 1;
	if (old) {
		memcpy(page->data, old->data, CONTENT_PAGE);
		page_put(old);
		content->slots[at].page = page;
		return page->data;
	}
	if (content->count == content->capacity) {
		content->capacity = content->capacity ? content->capacity * 2 : 4;
		content->slots = test_realloc(content->slots, content->capacity * sizeof(*content->slots));
	}
	memmove(content->slots + at + 1, content->slots + at, (content->count - at) * sizeof(*content->slots));
	content->slots[at] = (struct content_slot){ .index = index, .page = page };
	content->count++;
	return page->data;
}

void content_read(const struct content *content, uint64_t offset, void *buffer, size_t length)
{
	unsigned char *to = buffer;

	while (length) {
		size_t in_page = offset % CONTENT_PAGE;
		size_t part = CONTENT_PAGE - in_page < length ? CONTENT_PAGE - in_page : length;
		const unsigned char *page = content_page(content, offset / CONTENT_PAGE);

		if (page)
			memcpy(to, page + in_page, part);
		else
			memset(to, 0, part);
		to += part;
		offset += part;
		length -= part;
	}
}

void content_write(struct content *content, uint64_t offset, const void *buffer, size_t length)
{
	const unsigned char *from = buffer;

	while (length) {
		size_t in_page = offset % CONTENT_PAGE;
		size_t part = CONTENT_PAGE - in_page < length ? CONTENT_PAGE - in_page : length;

		memcpy(page_for_write(content, offset / CONTENT_PAGE) + in_page, from, part);
		from += part;
		offset += part;
		length -= part;
	}
}

static void zero_in_page(struct content *content, uint64_t offset, size_t length)
{
	if (length && content_page(content, offset / CONTENT_PAGE))
		memset(page_for_write(content, offset / CONTENT_PAGE) + offset % CONTENT_PAGE, 0, length);
}

void content_zero(struct content *content, uint64_t offset, uint64_t length)
{
	uint64_t end = length > UINT64_MAX - offset ? UINT64_MAX : offset + length;
	uint64_t first = offset / CONTENT_PAGE + (offset % CONTENT_PAGE != 0), last = end / CONTENT_PAGE;
	size_t low, high;

	if (!length)
		return;
	if (offset / CONTENT_PAGE == end / CONTENT_PAGE) {
		zero_in_page(content, offset, end - offset);
		return;
	}
	if (offset % CONTENT_PAGE)
		zero_in_page(content, offset, CONTENT_PAGE - offset % CONTENT_PAGE);
	zero_in_page(content, end - end % CONTENT_PAGE, end % CONTENT_PAGE);
	low = content_seek(content, first);
	high = content_seek(content, last);
	for (size_t i = low; i < high; i++)
		page_put(content->slots[i].page);
	if (high == low)
		return; /* there may be no array at all */
	memmove(content->slots + low, content->slots + high, (content->count - high) * sizeof(*content->slots));
	content->count -= high - low;
}

static const unsigned char zero_page[CONTENT_PAGE];

static bool page_equal(const struct content *a, const struct content *b, uint64_t index, uint64_t size, uint64_t *where)
{
	const unsigned char *left = content_page(a, index), *right = content_page(b, index);
	uint64_t start = index * CONTENT_PAGE;
	size_t length;

	if (start >= size)
		return true;
	length = size - start < CONTENT_PAGE ? size - start : CONTENT_PAGE;
	left = left ? left : zero_page;
	right = right ? right : zero_page;
	if (left == right || !memcmp(left, right, length))
		return true;
	for (size_t i = 0; i < length; i++) {
		if (left[i] != right[i]) {
			*where = start + i;
			break;
		}
	}
	return false;
}

bool content_equal(const struct content *a, const struct content *b, uint64_t size, uint64_t *where)
{
	for (size_t i = 0; i < a->count; i++) {
		if (!page_equal(a, b, a->slots[i].index, size, where))
			return false;
	}
	for (size_t i = 0; i < b->count; i++) {
		if (!page_equal(a, b, b->slots[i].index, size, where))
			return false;
	}
	return true;
}

void pattern_fill(void *buffer, size_t length, uint64_t offset, uint32_t id)
{
	unsigned char *to = buffer;
	uint32_t salt = id * 2654435761u;

	for (size_t i = 0; i < length; i++) {
		uint32_t at = (uint32_t)((offset + i) ^ ((offset + i) >> 9));

		to[i] = (unsigned char)(((at * 167u + (salt >> 8) + (salt >> 20)) & 0xffu) % 255u + 1u);
	}
}
