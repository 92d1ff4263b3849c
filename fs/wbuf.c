// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * The write-behind buffer: taking writes in, showing and dropping what is buffered. wbuf_flush.c writes it out.
 *
 * Concept: see wbuf.h. A write is taken in three steps, of which only the first two can fail and both are undone
 * then (I9): pages and space are taken; pages that the write covers partly are filled with the file's old bytes; pages
 * are merged into the inode's array and the bytes copied.
 *
 * Locks: the inode's lock, exclusively, for all of it; wb->lock shortly inside for free pages and the dirty list.
 */
#include <stdlib.h>
#include "file_edit.h"

#define BLOCK_MASK (ASH_BLOCK_SIZE - 1)
#define WRITE_PAGES_MAX (ASH_WB_MAX_WRITE / ASH_BLOCK_SIZE + 2) /* unaligned, and the old end of file */
#define ROOT_RECORDS                                             \
	((ASH_DATA_FORK_SIZE - sizeof(struct ash_node_header)) / \
	 (sizeof(struct ash_tree_record) + sizeof(struct ash_extent_value) + 2))
#define LEAF_HALF 64u /* inserts in order that one new leaf surely takes */

uint64_t ash_monotonic_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC_COARSE, &now);
	return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

/* ---- Life ---- */

static int open_region(struct ash_write_behind *wb, uint64_t bytes)
{
	wb->page_count = (uint32_t)(bytes >> ASH_BLOCK_SHIFT);
	wb->region_bytes = (size_t)wb->page_count << ASH_BLOCK_SHIFT;
	wb->region = bdev_buffer_alloc(wb->region_bytes);
	wb->free_pages = malloc(wb->page_count * sizeof(*wb->free_pages));
	if (!wb->region || !wb->free_pages)
		return -ENOMEM;
	/* The lowest on top: memory that was never used is not touched before it must be. */
	for (uint32_t i = 0; i < wb->page_count; i++)
		wb->free_pages[i] = wb->page_count - 1 - i;
	wb->free_count = wb->page_count;
	return 0;
}

int ash_wb_open(struct ash_volume *volume)
{
	struct ash_write_behind *wb = calloc(1, sizeof(*wb));
	uint64_t bytes = volume->options.write_behind_bytes;

	if (!wb)
		return -ENOMEM;
	pthread_mutex_init(&wb->flush_lock, NULL);
	pthread_mutex_init(&wb->lock, NULL);
	pthread_mutex_init(&wb->reclaim_lock, NULL);
	volume->wb = wb;
	/* Also with sync, which may be turned off: memory that is not used costs nothing. */
	if (volume->options.no_write_behind || volume->options.read_only)
		return 0;
	if (bytes > (uint64_t)UINT32_MAX << ASH_BLOCK_SHIFT)
		bytes = (uint64_t)UINT32_MAX << ASH_BLOCK_SHIFT;
	int rc = open_region(wb, bytes);
	if (rc)
		ash_wb_close(volume);
	return rc;
}

static void close_buffers(struct ash_volume *volume)
{
	struct ash_write_behind *wb = volume->wb;

	while (wb->head) {
		struct ash_write_buffer *buffer = wb->head;

		ash_wb_unlink(wb, buffer);
		ash_space_unreserve(volume, buffer->reserved);
		buffer->icore->buffered = NULL;
		ash_icore_put(volume, buffer->icore);
		ash_wb_free(buffer);
	}
}

void ash_wb_close(struct ash_volume *volume)
{
	struct ash_write_behind *wb = volume->wb;

	if (!wb)
		return;
	close_buffers(volume);
	ash_wb_drop_kept(volume, UINT64_MAX);
	while (wb->truncations) {
		struct ash_pending_truncation *next = wb->truncations->next;

		free(wb->truncations);
		wb->truncations = next;
	}
	while (wb->bounce_count)
		bdev_buffer_free(wb->bounces[--wb->bounce_count], ASH_BOUNCE_BYTES);
	while (wb->idle_queue_count)
		bdev_queue_close(wb->idle_queues[--wb->idle_queue_count]);
	if (wb->region)
		bdev_buffer_free(wb->region, wb->region_bytes);
	free(wb->free_pages);
	free(wb->changed);
	pthread_mutex_destroy(&wb->reclaim_lock);
	pthread_mutex_destroy(&wb->lock);
	pthread_mutex_destroy(&wb->flush_lock);
	free(wb);
	volume->wb = NULL;
}

uint64_t ash_wb_reserved_blocks(struct ash_volume *volume)
{
	return atomic_load(&volume->wb->reserved);
}

uint64_t ash_wb_bytes(struct ash_volume *volume)
{
	struct ash_write_behind *wb = volume->wb;

	pthread_mutex_lock(&wb->lock);
	uint64_t pages = wb->page_count - wb->free_count;
	pthread_mutex_unlock(&wb->lock);
	return pages << ASH_BLOCK_SHIFT;
}

/* ---- Pages, list, space ---- */

/* Pages of the region: all or nothing. */
static bool take_pages(struct ash_write_behind *wb, uint32_t count, uint32_t *pages)
{
	pthread_mutex_lock(&wb->lock);
	bool enough = wb->free_count >= count;
	for (uint32_t i = 0; enough && i < count; i++)
		pages[i] = wb->free_pages[--wb->free_count];
	pthread_mutex_unlock(&wb->lock);
	return enough;
}

static void give_pages(struct ash_write_behind *wb, const uint32_t *pages, uint32_t count)
{
	pthread_mutex_lock(&wb->lock);
	while (count)
		wb->free_pages[wb->free_count++] = pages[--count];
	pthread_mutex_unlock(&wb->lock);
}

void ash_wb_unlink(struct ash_write_behind *wb, struct ash_write_buffer *buffer)
{
	*(buffer->previous ? &buffer->previous->next : &wb->head) = buffer->next;
	*(buffer->next ? &buffer->next->previous : &wb->tail) = buffer->previous;
	buffer->next = buffer->previous = NULL;
}

void ash_wb_append(struct ash_write_behind *wb, struct ash_write_buffer *buffer)
{
	buffer->next = NULL;
	buffer->previous = wb->tail;
	*(wb->tail ? &wb->tail->next : &wb->head) = buffer;
	wb->tail = buffer;
}

void ash_wb_free(struct ash_write_buffer *buffer)
{
	if (buffer->pages != buffer->first)
		free(buffer->pages);
	free(buffer);
}

/*
 * What must be set aside for `holes` new blocks and `ranges` map changes: data blocks, and tree nodes, of which there
 * are none while the records fit the root. Each change may split one node on every level; with the volume fragmented a
 * run becomes several extents, which fill new leaves at least half.
 */
uint64_t ash_wb_reserve_needed(const struct ash_record *record, const struct ash_tree *tree, uint64_t holes,
			       uint64_t ranges)
{
	uint64_t height = 0, records = 0;

	if (record->inode->data_kind == ASH_FORK_TREE) {
		height = ash_tree_height(tree);
		records = ash_node_count(record->inode->data);
	}
	/* Of the changes of holes, at least one is among `holes`. */
	if (!height && records + holes + ranges <= ROOT_RECORDS + (holes != 0))
		return holes;
	return holes + ranges * (height + 2) + holes / LEAF_HALF + 2;
}

/* Exclusive lock held: give back what is reserved beyond `need`. */
static void trim_reserve(struct ash_volume *volume, struct ash_write_buffer *buffer, uint64_t need)
{
	if (buffer->reserved <= need)
		return;
	uint64_t surplus = buffer->reserved - need;

	buffer->reserved = need;
	atomic_fetch_sub(&volume->wb->reserved, surplus);
	ash_space_unreserve(volume, surplus);
}

int ash_wb_raise_reserve(struct ash_volume *volume, struct ash_write_buffer *buffer, uint64_t need)
{
	if (buffer->reserved >= need)
		return 0;
	uint64_t more = need - buffer->reserved;
	int rc = ash_space_reserve(volume, more);

	if (rc)
		return rc;
	buffer->reserved = need;
	atomic_fetch_add(&volume->wb->reserved, more);
	return 0;
}

uint32_t ash_wb_find(const struct ash_write_buffer *buffer, uint64_t block)
{
	uint32_t low = 0, high = buffer->count;

	if (high && buffer->pages[high - 1].block < block)
		return high; /* appending */
	while (low < high) {
		uint32_t middle = low + (high - low) / 2;

		if (buffer->pages[middle].block < block)
			low = middle + 1;
		else
			high = middle;
	}
	return low;
}

static bool has_page(const struct ash_write_buffer *buffer, uint64_t block)
{
	uint32_t index = ash_wb_find(buffer, block);

	return index < buffer->count && buffer->pages[index].block == block;
}

void ash_wb_remove_pages(struct ash_volume *volume, struct ash_write_buffer *buffer, uint32_t from, uint32_t to)
{
	struct ash_write_behind *wb = volume->wb;

	pthread_mutex_lock(&wb->lock);
	for (uint32_t i = from; i < to; i++) {
		wb->free_pages[wb->free_count++] = buffer->pages[i].page;
		buffer->holes -= buffer->pages[i].hole;
	}
	pthread_mutex_unlock(&wb->lock);
	memmove(buffer->pages + from, buffer->pages + to, (buffer->count - to) * sizeof(*buffer->pages));
	buffer->count -= to - from;
	/* A buffer that is filled as fast as it is flushed would set aside space for all that ever went through it. */
	uint32_t most = 2 * buffer->count - buffer->holes;
	if (buffer->ranges > most)
		buffer->ranges = most;
}

void ash_wb_detach(struct ash_volume *volume, struct ash_icore *icore)
{
	struct ash_write_behind *wb = volume->wb;
	struct ash_write_buffer *buffer = icore->buffered;

	assert(!buffer->count);
	trim_reserve(volume, buffer, 0);
	icore->buffered = NULL;
	pthread_mutex_lock(&wb->lock);
	bool taken = buffer->taken;
	if (taken)
		buffer->detached = true; /* its flusher frees it and drops its reference */
	else
		ash_wb_unlink(wb, buffer);
	pthread_mutex_unlock(&wb->lock);
	if (taken)
		return;
	ash_wb_free(buffer);
	ash_icore_put(volume, icore);
}

/* ---- What others see ---- */

uint64_t ash_wb_blocks(const struct ash_icore *icore)
{
	return icore->buffered ? icore->buffered->holes : 0;
}

bool ash_wb_times(const struct ash_icore *icore, struct timespec *modified)
{
	if (!icore->buffered || !icore->buffered->times)
		return false;
	*modified = icore->buffered->modified;
	return true;
}

void ash_wb_forget_times(struct ash_icore *icore)
{
	if (icore->buffered)
		icore->buffered->times = false;
}

void ash_wb_drop(struct ash_volume *volume, struct ash_icore *icore, uint64_t offset)
{
	struct ash_write_buffer *buffer = icore->buffered;

	ash_drop_preallocation(volume, icore);
	if (!offset)
		ash_wb_unkeep(volume, icore); /* the inode may be going away: no reference of ours may stay */
	if (!buffer)
		return;
	ash_wb_remove_pages(volume, buffer, ash_wb_find(buffer, ash_blocks_of(offset)), buffer->count);
	if (!buffer->count) {
		ash_wb_detach(volume, icore);
		return;
	}
	if (icore->buffered_size > offset)
		icore->buffered_size = offset;
	uint32_t last = buffer->count - 1;
	if ((offset & BLOCK_MASK) && buffer->pages[last].block == offset >> ASH_BLOCK_SHIFT)
		memset(ash_wb_page_bytes(volume, buffer->pages[last].page) + (offset & BLOCK_MASK), 0,
		       ASH_BLOCK_SIZE - (offset & BLOCK_MASK));
}

/* ---- Taking a write in ---- */

/* The pages that a write adds. */
struct intake {
	uint32_t count;
	uint32_t holes;
	uint32_t runs; /* map changes that these pages add, at most */
	struct ash_wb_page pages[WRITE_PAGES_MAX];
};

/* Does file block `block` lack a block on the device? *until: first file block for which the answer may differ. */
static int block_is_hole(struct ash_edit *edit, uint64_t block, uint64_t limit, struct ash_mapping *mapping)
{
	if (block >= mapping->file_block && block < mapping->file_block + mapping->count)
		return 0;
	return ash_edit_map(edit, block, limit, mapping);
}

/* Is the page before it, of the same kind, going to be flushed with it? */
static bool continues(const struct ash_wb_page *page, const struct ash_write_buffer *buffer, uint32_t added)
{
	const struct ash_wb_page *before = NULL;

	if (added && page[-1].block + 1 == page->block) {
		before = &page[-1];
	} else if (buffer && page->block) {
		uint32_t index = ash_wb_find(buffer, page->block - 1);

		if (index < buffer->count && buffer->pages[index].block == page->block - 1)
			before = &buffer->pages[index];
	}
	return before && before->hole == page->hole && before->unwritten == page->unwritten;
}

static int intake_add(struct ash_edit *edit, struct intake *intake, uint64_t block, uint64_t limit,
		      struct ash_mapping *mapping)
{
	const struct ash_write_buffer *buffer = edit->icore->buffered;

	if (buffer && has_page(buffer, block))
		return 0;
	int rc = block_is_hole(edit, block, limit, mapping);
	if (rc)
		return rc;
	struct ash_wb_page *page = &intake->pages[intake->count];
	*page = (struct ash_wb_page){ .block = block, .hole = !mapping->start, .unwritten = mapping->unwritten };
	if (!continues(page, buffer, intake->count))
		intake->runs +=
			page->hole + 2 * page->unwritten; /* the middle of an unwritten extent makes three of one */
	intake->holes += page->hole;
	intake->count++;
	return 0;
}

/* Which pages does a write of [offset, end) need? Those it touches, and that of the old end of file (see wbuf.h). */
static int intake_plan(struct ash_edit *edit, struct intake *intake, uint64_t offset, uint64_t end)
{
	uint64_t size = ash_edit_size(edit), first = offset >> ASH_BLOCK_SHIFT, last = (end - 1) >> ASH_BLOCK_SHIFT;
	struct ash_mapping mapping = { 0 };
	int rc = 0;

	intake->count = intake->holes = intake->runs = 0;
	if (edit->record.inode->data_kind == ASH_FORK_INLINE && first > 0)
		rc = intake_add(edit, intake, 0, 1, &mapping);
	else if ((size & BLOCK_MASK) && end > size && size >> ASH_BLOCK_SHIFT < first) {
		/* A hole at the old end needs no zeroing. */
		rc = intake_add(edit, intake, size >> ASH_BLOCK_SHIFT, 1, &mapping);
		if (!rc && intake->count && intake->pages[0].hole)
			intake->count = intake->holes = intake->runs = 0;
	}
	for (uint64_t block = first; block <= last && !rc; block++)
		rc = intake_add(edit, intake, block, last - block + 1, &mapping);
	return rc;
}

static int fill_page(struct ash_edit *edit, const struct ash_wb_page *page)
{
	uint8_t *bytes = ash_wb_page_bytes(edit->volume, page->page);
	struct ash_mapping mapping;

	if (edit->record.inode->data_kind == ASH_FORK_INLINE && page->block == 0) {
		memset(bytes, 0, ASH_BLOCK_SIZE);
		memcpy(bytes, edit->record.inode->data, ash_edit_disk_size(edit));
		return 0;
	}
	int rc = ash_edit_map(edit, page->block, 1, &mapping);
	return rc ? rc : ash_edit_fill(edit, &mapping, page->block, bytes);
}

static int fill_partial(struct ash_edit *edit, const struct intake *intake, uint64_t offset, uint64_t end)
{
	for (uint32_t i = 0; i < intake->count; i++) {
		uint64_t begin = intake->pages[i].block << ASH_BLOCK_SHIFT;

		if (begin >= offset && begin + ASH_BLOCK_SIZE <= end)
			continue;
		int rc = fill_page(edit, &intake->pages[i]);
		if (rc)
			return rc;
	}
	return 0;
}

static struct ash_write_buffer *buffer_new(struct ash_volume *volume, struct ash_icore *icore)
{
	struct ash_write_buffer *buffer = calloc(1, sizeof(*buffer));

	if (!buffer)
		return NULL;
	buffer->icore = icore;
	buffer->since_ns = ash_monotonic_ns();
	buffer->pages = buffer->first;
	buffer->capacity = sizeof(buffer->first) / sizeof(buffer->first[0]);
	ash_edit_hold(volume, icore);
	return buffer;
}

static int make_room(struct ash_write_buffer *buffer, uint32_t more)
{
	uint32_t capacity = buffer->capacity;

	while (capacity < buffer->count + more)
		capacity *= 2;
	if (capacity == buffer->capacity)
		return 0;
	bool embedded = buffer->pages == buffer->first;
	struct ash_wb_page *pages = realloc(embedded ? NULL : buffer->pages, capacity * sizeof(*pages));
	if (!pages)
		return -ENOMEM;
	if (embedded)
		memcpy(pages, buffer->first, sizeof(buffer->first));
	buffer->pages = pages;
	buffer->capacity = capacity;
	return 0;
}

/* Both are sorted and disjoint: merge from the end. */
static void merge(struct ash_write_buffer *buffer, const struct intake *intake)
{
	uint32_t old = buffer->count, added = intake->count;

	buffer->count += added;
	for (uint32_t at = buffer->count; added; at--) {
		if (old && buffer->pages[old - 1].block > intake->pages[added - 1].block)
			buffer->pages[at - 1] = buffer->pages[--old];
		else
			buffer->pages[at - 1] = intake->pages[--added];
	}
	buffer->holes += intake->holes;
	buffer->ranges += intake->runs;
}

static void copy_in(struct ash_volume *volume, const struct ash_write_buffer *buffer, const uint8_t *source,
		    uint64_t offset, uint64_t length)
{
	uint32_t index = ash_wb_find(buffer, offset >> ASH_BLOCK_SHIFT);

	while (length) {
		uint64_t inside = offset & BLOCK_MASK;
		uint64_t take = length < ASH_BLOCK_SIZE - inside ? length : ASH_BLOCK_SIZE - inside;

		memcpy(ash_wb_page_bytes(volume, buffer->pages[index++].page) + inside, source, take);
		source += take;
		offset += take;
		length -= take;
	}
}

/* Pages and space for the plan, filled. On failure everything is given back. */
static int intake_take(struct ash_edit *edit, struct ash_write_buffer *buffer, struct intake *intake, uint64_t offset,
		       uint64_t end)
{
	struct ash_volume *volume = edit->volume;
	uint64_t before = buffer->reserved;
	uint32_t numbers[WRITE_PAGES_MAX];
	int rc = make_room(buffer, intake->count);

	if (rc)
		return rc;
	if (!take_pages(volume->wb, intake->count, numbers))
		return -ENOBUFS;
	for (uint32_t i = 0; i < intake->count; i++)
		intake->pages[i].page = numbers[i];
	rc = ash_wb_raise_reserve(volume, buffer,
				  ash_wb_reserve_needed(&edit->record, &edit->tree, buffer->holes + intake->holes,
							buffer->ranges + intake->runs));
	if (!rc)
		rc = fill_partial(edit, intake, offset, end);
	if (!rc)
		return 0;
	trim_reserve(volume, buffer, before);
	give_pages(volume->wb, numbers, intake->count);
	return rc;
}

/* The buffer is new: it joins the inode and the dirty list. */
static void attach(struct ash_edit *edit, struct ash_write_buffer *buffer)
{
	struct ash_write_behind *wb = edit->volume->wb;

	edit->icore->buffered_size = ash_edit_disk_size(edit);
	edit->icore->buffered = buffer;
	pthread_mutex_lock(&wb->lock);
	buffer->sequence = ++wb->sequence;
	ash_wb_append(wb, buffer);
	pthread_mutex_unlock(&wb->lock);
}

static int64_t write_locked(struct ash_edit *edit, const uint8_t *source, uint64_t length, uint64_t offset,
			    unsigned flags)
{
	struct ash_icore *icore = edit->icore;
	struct ash_write_buffer *buffer = icore->buffered;
	struct intake intake;
	int rc = intake_plan(edit, &intake, offset, offset + length);

	if (rc)
		return rc;
	if (!buffer)
		buffer = buffer_new(edit->volume, icore);
	rc = buffer ? intake_take(edit, buffer, &intake, offset, offset + length) : -ENOMEM;
	if (rc) {
		if (buffer && !icore->buffered) {
			ash_wb_free(buffer);
			ash_icore_put(edit->volume, icore);
		}
		return rc;
	}
	if (!icore->buffered)
		attach(edit, buffer);
	merge(buffer, &intake);
	copy_in(edit->volume, buffer, source, offset, length);
	if (offset + length > icore->buffered_size)
		icore->buffered_size = offset + length;
	if (!(flags & ASH_WRITE_NO_TIMES)) {
		buffer->times = true;
		buffer->modified = ash_now();
	}
	return (int64_t)length;
}

/* One try: -EAGAIN go through, -ENOBUFS no page free, -EINPROGRESS a truncation must be finished first. */
static int64_t try_write(struct ash_volume *volume, struct ash_icore *icore, const uint8_t *source, uint64_t length,
			 uint64_t offset, unsigned flags)
{
	struct ash_edit edit;
	int64_t result = ash_edit_look(&edit, volume, icore, true);

	if (result)
		return result;
	if (flags & ASH_WRITE_APPEND)
		offset = ash_edit_size(&edit);
	if (icore->truncated_to_zero || length > ASH_FILE_MAX_SIZE - offset)
		result = -EAGAIN;
	else if (ash_truncation_pending(volume, icore->ino))
		result = -EINPROGRESS;
	else
		result = write_locked(&edit, source, length, offset, flags);
	ash_edit_abort(&edit);
	return result;
}

/* Over half full: the worker, or without one this thread, writes some out. */
static void relieve(struct ash_volume *volume)
{
	struct ash_write_behind *wb = volume->wb;

	pthread_mutex_lock(&wb->lock);
	bool over = wb->page_count - wb->free_count > wb->page_count / 2;
	pthread_mutex_unlock(&wb->lock);
	if (!over)
		return;
	if (volume->options.no_threads)
		ash_wb_flush_down(volume, wb->page_count / 4);
	else
		ash_worker_kick(volume);
}

int64_t ash_wb_write(struct ash_volume *volume, struct ash_icore *icore, const void *source, size_t length,
		     uint64_t offset, unsigned flags)
{
	struct ash_write_behind *wb = volume->wb;

	if (!wb->page_count || length > ASH_WB_MAX_WRITE || length / ASH_BLOCK_SIZE + 3 > wb->page_count / 2)
		return -EAGAIN;
	for (unsigned tries = 0; tries < 4; tries++) {
		int64_t result = try_write(volume, icore, source, length, offset, flags);
		int rc = 0;

		if (result > 0) {
			relieve(volume);
			return result;
		}
		if (result == -ENOBUFS)
			rc = ash_wb_flush_down(volume, wb->page_count / 2);
		else if (result == -EINPROGRESS)
			rc = ash_file_resume_truncate(volume, icore);
		else if (result == -ENOSPC || result == -ENOMEM)
			return -EAGAIN; /* written through, which reclaims space or fails honestly */
		else
			return result;
		if (rc)
			return -EAGAIN;
	}
	return -EAGAIN;
}
