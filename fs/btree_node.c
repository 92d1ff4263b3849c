/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * One node of the B+tree.
 *
 * Concept: a slotted page (format.h, "Trees"). Slots are u16 offsets sorted by key and grow up behind the
 * 8-byte header; records grow down from the end. A deleted record leaves its bytes in the heap (`heap_free`)
 * until an insertion needs them; then the node is compacted. So the log sees a few bytes for most changes:
 * the record, the shifted slots and the header.
 *
 * Rules: records have even sizes (ash_record_size), hence even offsets. Always true of a good node:
 * live record sizes + heap_free == size - heap_start. The key of an inner node's first record means nothing.
 *
 * Trust (I8): ash_node_check() alone reads a node that nobody has checked; it uses no field before its bounds
 * are known. Everything else asserts at most.
 *
 * Locks: none here. The owner of the tree holds its lock, exclusively for changes (I11).
 */
#include "btree_node.h"

#include <assert.h>

#define HEADER_SIZE ((uint32_t)sizeof(struct ash_node_header))
#define SLOT_SIZE ((uint32_t)sizeof(ash_le16))
#define RECORD_HEADER ((uint32_t)sizeof(struct ash_tree_record))
#define MAX_SLOTS ((ASH_TREE_NODE_SIZE - HEADER_SIZE) / (SLOT_SIZE + RECORD_HEADER))
/* Records around the place where the key should be: a spread of hashed keys over a leaf of 70 is 4 records (sigma). */
#define SEARCH_WINDOW 14u
/* One bit for each two bytes of a node. */
#define MAP_WORDS ((ASH_TREE_NODE_SIZE / 2 + 63) / 64)

static_assert(4 * (SLOT_SIZE + ((RECORD_HEADER + ASH_TREE_MAX_VALUE + 1) & ~1u)) <= ASH_TREE_NODE_SIZE - HEADER_SIZE,
	      "four records fit");

/* ---- Reading ---- */

static inline const ash_le16 *slots_of(const void *node)
{
	return (const ash_le16 *)((const uint8_t *)node + HEADER_SIZE);
}

static uint32_t heap_start_of(const void *node)
{
	return ash_get16(((const struct ash_node_header *)node)->heap_start);
}

static uint32_t heap_free_of(const void *node)
{
	return ash_get16(((const struct ash_node_header *)node)->heap_free);
}

/* In [low, high), index of the first record with a key of at least `key`. */
static uint32_t bisect(const void *node, uint64_t key, uint32_t low, uint32_t high)
{
	while (low < high) {
		uint32_t middle = (low + high) / 2;

		if (ash_node_key(node, middle) < key)
			low = middle + 1;
		else
			high = middle;
	}
	return low;
}

/* Where in a node of `count` records with keys in [low, high) `key` lies if these are spread evenly. */
static uint32_t interpolate(uint64_t key, uint64_t low, uint64_t high, uint32_t count)
{
	uint64_t range = (high ? high : UINT64_MAX) - low, place = key - low;
	unsigned shift = range >> 48 ? 16 : 0; /* place * count stays below 2^64 */

	if (key < low || place > range)
		return 0;
	return (uint32_t)((place >> shift) * count / ((range >> shift) + 1));
}

/* How many of the records [from, to) have a smaller key. No branch depends on a key: their loads do not wait for each other. */
static uint32_t count_less(const void *node, uint64_t key, uint32_t from, uint32_t to)
{
	uint32_t less = 0;

	for (uint32_t i = from; i < to; i++)
		less += ash_node_key(node, i) < key;
	return less;
}

/* Of the records from `first` on. */
static inline uint32_t search_near(const void *node, uint64_t key, uint32_t first, uint64_t low_key, uint64_t high_key)
{
	uint32_t count = ash_node_count(node), from = first, to = count, less;

	if (count - first > SEARCH_WINDOW) {
		uint32_t guess = interpolate(key, low_key, high_key, count);

		from = guess > first + SEARCH_WINDOW / 2 ? guess - SEARCH_WINDOW / 2 : first;
		to = from + SEARCH_WINDOW < count ? from + SEARCH_WINDOW : count;
	}
	less = count_less(node, key, from, to);
	if (!less && from > first)
		return bisect(node, key, first, from);
	if (less == to - from && to < count)
		return bisect(node, key, to, count);
	return from + less;
}

uint32_t ash_node_search_near(const void *node, uint64_t key, uint64_t low_key, uint64_t high_key)
{
	return search_near(node, key, 0, low_key, high_key);
}

uint32_t ash_node_search_child(const void *node, uint64_t key, uint64_t low_key, uint64_t high_key)
{
	uint32_t index = search_near(node, key, 1, low_key, high_key);

	if (index < ash_node_count(node) && ash_node_key(node, index) == key)
		return index;
	return index - 1;
}

/* Bytes between the slots and the heap. */
static uint32_t gap_of(const void *node)
{
	return heap_start_of(node) - HEADER_SIZE - SLOT_SIZE * ash_node_count(node);
}

uint32_t ash_node_used(const struct ash_node *node)
{
	const uint8_t *bytes = ash_node_bytes(node);

	return node->size - gap_of(bytes) - heap_free_of(bytes);
}

bool ash_node_fits(const struct ash_node *node, uint32_t length)
{
	return ash_node_used(node) + SLOT_SIZE + ash_record_size(length) <= node->size;
}

/* ---- Checking ---- */

/* Mark [first, first + count) in the map; false if part of it was marked before. */
static bool mark_range(uint64_t *map, uint32_t first, uint32_t count)
{
	while (count) {
		uint32_t bit = first % 64;
		uint32_t here = count < 64 - bit ? count : 64 - bit;
		uint64_t mask = (here == 64 ? ~0ull : (1ull << here) - 1) << bit;

		if (map[first / 64] & mask)
			return false;
		map[first / 64] |= mask;
		first += here;
		count -= here;
	}
	return true;
}

static const char *check_records(const uint8_t *node, uint32_t size, uint32_t level, uint32_t count,
				 uint32_t heap_start)
{
	uint32_t live = 0;
	uint64_t previous = 0;
	uint64_t map[MAP_WORDS];

	memset(map, 0, (size / 2 + 63) / 64 * sizeof(map[0]));
	for (uint32_t i = 0; i < count; i++) {
		uint32_t offset = ash_get16(slots_of(node)[i]);
		const struct ash_tree_record *record = (const void *)(node + offset);
		uint32_t length;

		if (offset < heap_start || offset % 2 || offset + RECORD_HEADER > size)
			return "tree node slot out of bounds";
		length = ash_get16(record->length);
		if (length > ASH_TREE_MAX_VALUE || offset + ash_record_size(length) > size)
			return "tree record out of bounds";
		if (level && length != sizeof(ash_le64))
			return "tree child pointer of wrong length";
		if (!mark_range(map, offset / 2, ash_record_size(length) / 2))
			return "tree records overlap";
		/* The first key of an inner node counts as the lowest there is, whatever is written. */
		if (i > (level ? 1u : 0u) && ash_get64(record->key) <= previous)
			return "tree keys out of order";
		previous = ash_get64(record->key);
		live += ash_record_size(length);
	}
	if (live + heap_free_of(node) != size - heap_start)
		return "tree node free space is wrong";
	return NULL;
}

const char *ash_node_check(const void *node, uint32_t size, uint32_t level)
{
	uint32_t own_level = ash_node_level(node), count = ash_node_count(node), heap_start = heap_start_of(node);

	if (own_level > ASH_TREE_MAX_LEVEL)
		return "tree level too high";
	if (level != UINT32_MAX && own_level != level)
		return "tree level is wrong";
	if (heap_start > size || heap_start % 2 || count > MAX_SLOTS || HEADER_SIZE + SLOT_SIZE * count > heap_start)
		return "tree node header is wrong";
	if (own_level && !count)
		return "inner tree node without children";
	return check_records(node, size, own_level, count, heap_start);
}

/* ---- Building ---- */

void ash_node_image_begin(struct ash_node_image *image, uint32_t size, uint32_t level)
{
	assert(size <= sizeof(image->bytes));
	image->size = size;
	image->level = level;
	image->count = 0;
	image->heap_start = size;
}

static void write_record(uint8_t *to, uint64_t key, const void *value, uint32_t length)
{
	struct ash_tree_record *record = (struct ash_tree_record *)to;

	record->key = ash_put64(key);
	record->length = ash_put16((uint16_t)length);
	if (length)
		memcpy(record->value, value, length);
	if (length % 2)
		record->value[length] = 0;
}

void ash_node_image_add(struct ash_node_image *image, uint64_t key, const void *value, uint32_t length)
{
	ash_le16 slot;

	assert(image->heap_start >= HEADER_SIZE + SLOT_SIZE * (image->count + 1) + ash_record_size(length));
	image->heap_start -= ash_record_size(length);
	write_record(image->bytes + image->heap_start, key, value, length);
	slot = ash_put16((uint16_t)image->heap_start);
	memcpy(image->bytes + HEADER_SIZE + SLOT_SIZE * image->count, &slot, sizeof(slot));
	image->count++;
}

void ash_node_image_copy(struct ash_node_image *image, const void *node, uint32_t first, uint32_t count)
{
	for (uint32_t i = first; i < first + count; i++) {
		uint64_t key;
		const uint8_t *value;
		uint32_t length;

		ash_node_record(node, i, &key, &value, &length);
		ash_node_image_add(image, key, value, length);
	}
}

static struct ash_node_header make_header(uint32_t level, uint32_t count, uint32_t heap_start, uint32_t heap_free)
{
	return (struct ash_node_header){
		.level = ash_put16((uint16_t)level),
		.count = ash_put16((uint16_t)count),
		.heap_start = ash_put16((uint16_t)heap_start),
		.heap_free = ash_put16((uint16_t)heap_free),
	};
}

void ash_node_image_store(struct ash_txn *txn, struct ash_node_image *image, const struct ash_node *node)
{
	struct ash_node_header header = make_header(image->level, image->count, image->heap_start, 0);

	assert(image->size == node->size);
	memcpy(image->bytes, &header, sizeof(header));
	ash_txn_set(txn, node->buffer, node->offset, image->bytes, HEADER_SIZE + SLOT_SIZE * image->count);
	if (image->count)
		ash_txn_set(txn, node->buffer, node->offset + image->heap_start, image->bytes + image->heap_start,
			    image->size - image->heap_start);
}

/* ---- Changing ---- */

static void set_header(struct ash_txn *txn, const struct ash_node *node, uint32_t count, uint32_t heap_start,
		       uint32_t heap_free)
{
	struct ash_node_header header = make_header(ash_node_level(ash_node_bytes(node)), count, heap_start, heap_free);

	ash_txn_set(txn, node->buffer, node->offset, &header, sizeof(header));
}

static void set_slots(struct ash_txn *txn, const struct ash_node *node, uint32_t index, const ash_le16 *slots,
		      uint32_t count)
{
	uint32_t offset = node->offset + HEADER_SIZE + SLOT_SIZE * index;

	if (count)
		ash_txn_set(txn, node->buffer, offset, slots, SLOT_SIZE * count);
}

/* Compaction and insertion in one, so that the log sees the node once. */
static void insert_compacting(struct ash_txn *txn, const struct ash_node *node, uint32_t index,
			      const struct ash_tree_item *item)
{
	const uint8_t *bytes = ash_node_bytes(node);
	struct ash_node_image image;

	ash_node_image_begin(&image, node->size, ash_node_level(bytes));
	ash_node_image_copy(&image, bytes, 0, index);
	ash_node_image_add(&image, item->key, item->value, item->length);
	ash_node_image_copy(&image, bytes, index, ash_node_count(bytes) - index);
	ash_node_image_store(txn, &image, node);
}

void ash_node_insert(struct ash_txn *txn, const struct ash_node *node, uint32_t index, const struct ash_tree_item *item)
{
	const uint8_t *bytes = ash_node_bytes(node);
	uint32_t count = ash_node_count(bytes), size = ash_record_size(item->length);
	uint32_t heap_start = heap_start_of(bytes), heap_free = heap_free_of(bytes);
	uint8_t record[RECORD_HEADER + ASH_TREE_MAX_VALUE + 2] __attribute__((aligned(8)));
	ash_le16 slots[MAX_SLOTS + 1];

	assert(ash_node_fits(node, item->length) && index <= count);
	if (gap_of(bytes) < SLOT_SIZE + size) {
		insert_compacting(txn, node, index, item);
		return;
	}
	heap_start -= size;
	write_record(record, item->key, item->value, item->length);
	slots[0] = ash_put16((uint16_t)heap_start);
	memcpy(slots + 1, slots_of(bytes) + index, SLOT_SIZE * (count - index));
	ash_txn_set(txn, node->buffer, node->offset + heap_start, record, size);
	set_slots(txn, node, index, slots, count - index + 1);
	set_header(txn, node, count + 1, heap_start, heap_free);
}

void ash_node_remove(struct ash_txn *txn, const struct ash_node *node, uint32_t index)
{
	const uint8_t *bytes = ash_node_bytes(node);
	uint32_t count = ash_node_count(bytes), size = ash_node_record_size(bytes, index);
	uint32_t heap_start = heap_start_of(bytes), heap_free = heap_free_of(bytes);
	ash_le16 slots[MAX_SLOTS];

	assert(index < count);
	if (count == 1) {
		set_header(txn, node, 0, node->size, 0);
		return;
	}
	if (ash_get16(slots_of(bytes)[index]) == heap_start)
		heap_start += size;
	else
		heap_free += size;
	memcpy(slots, slots_of(bytes) + index + 1, SLOT_SIZE * (count - index - 1));
	set_slots(txn, node, index, slots, count - index - 1);
	set_header(txn, node, count - 1, heap_start, heap_free);
}

void ash_node_truncate(struct ash_txn *txn, const struct ash_node *node, uint32_t count)
{
	const uint8_t *bytes = ash_node_bytes(node);
	uint32_t heap_free = heap_free_of(bytes);

	if (count == ash_node_count(bytes))
		return;
	if (!count) {
		set_header(txn, node, 0, node->size, 0);
		return;
	}
	for (uint32_t i = count; i < ash_node_count(bytes); i++)
		heap_free += ash_node_record_size(bytes, i);
	set_header(txn, node, count, heap_start_of(bytes), heap_free);
}

void ash_node_set_value(struct ash_txn *txn, const struct ash_node *node, uint32_t index, const void *value)
{
	const struct ash_tree_record *record = ash_node_record_at(ash_node_bytes(node), index);
	uint32_t offset = (uint32_t)(record->value - node->buffer->data);

	ash_txn_set(txn, node->buffer, offset, value, ash_get16(record->length));
}
