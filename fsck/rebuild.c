/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Writing a fork anew.
 *
 * gather: walk what is readable of the old tree and keep what is right (extents in order, entries that lead somewhere,
 * attributes whose values are whole), corrected where it can be; add what other passes want added.
 * write: pack the records into new nodes on free blocks, flush, then switch the inode record, flush. An interruption
 * before the switch changes nothing; after it the old nodes are merely unused, which pass 4 sees.
 * When no block is free, the fork's own old nodes are used again: better than giving up, though an interruption
 * in that moment loses what the tree held. Where they are not enough either, nothing is written, and what was taken is
 * free again for the others.
 *
 * Memory: the fork's records. No locks: one thread.
 */
#include "internal.h"

#include <stdio.h>
#include <stdlib.h>

#define LEAF_FILL (ASH_TREE_NODE_SIZE - 256u) /* room for a few insertions before the first split */
#define NODE_HEADER ((uint32_t)sizeof(struct ash_node_header))
#define RECORD_HEADER ((uint32_t)sizeof(struct ash_tree_record))

struct item {
	uint64_t key;
	size_t at; /* value in gather.bytes */
	uint32_t length;
	bool moved; /* key must be chosen within its hash */
};

struct gather {
	struct checker *checker;
	uint64_t ino;
	struct ash_inode record;
	bool attribute, directory;
	LIST(struct item) items;
	LIST(uint64_t) old_nodes, new_nodes;
	LIST(struct block_run) taken; /* for the new fork: free again where it does not come about */
	size_t written;               /* of new_nodes */
	uint8_t *bytes;
	size_t used, space;
	uint64_t floor, eof_block;
	uint64_t data_blocks; /* of the kept records */
	uint64_t children;    /* directories among the entries */
	struct name_set set;
};

/* ---- Free blocks ---- */

static bool group_words_free(struct checker *checker, uint64_t group, bool strict, uint64_t words[GROUP_WORDS])
{
	struct ash_bitmap_block *bitmap = (void *)checker->scratch;
	uint64_t block = ash_group_bitmap(group), any = 0;
	bool untouched = checker->group_flags[group] & ASH_GROUP_UNINIT;

	map_group_bits(&checker->found, group, words);
	/* What the bitmap calls used may belong to something that is not readable now: taken only when nothing else is left. */
	if (strict && !untouched && !block_read(checker, block, bitmap) &&
	    !block_wrong(checker, bitmap, block, ASH_MAGIC_BLOCK_BITMAP, group))
		for (uint32_t i = 0; i < GROUP_WORDS; i++)
			words[i] |= ((const uint64_t *)(const void *)bitmap->bits)[i];
	for (uint32_t i = 0; i < GROUP_WORDS; i++)
		any |= ~words[i];
	return any;
}

static int allocate_from(struct checker *checker, bool strict, uint32_t most, uint64_t *block, uint32_t *count)
{
	uint64_t words[GROUP_WORDS], start = checker->next_free_block;

	for (uint64_t n = 0; n <= checker->group_count; n++) {
		uint64_t group = (start / ASH_BLOCKS_PER_GROUP + n) % checker->group_count;
		uint32_t first = n ? 0 : (uint32_t)(start % ASH_BLOCKS_PER_GROUP);

		if (!group_words_free(checker, group, strict, words))
			continue;
		for (uint32_t bit = first; bit < ASH_BITS_PER_BITMAP; bit++) {
			if (bit_test((const uint8_t *)words, bit))
				continue;
			*block = ash_group_start(group) + bit;
			for (*count = 1; *count < most && bit + *count < ASH_BITS_PER_BITMAP; ++*count)
				if (bit_test((const uint8_t *)words, bit + *count))
					break;
			checker->next_free_block = (*block + *count) % checker->block_count;
			return map_set(&checker->found, *block, *count, NULL, NULL);
		}
	}
	return -ENOSPC;
}

int blocks_allocate(struct checker *checker, uint32_t most, uint64_t *block, uint32_t *count)
{
	int result = allocate_from(checker, true, most, block, count);

	return result == -ENOSPC ? allocate_from(checker, false, most, block, count) : result;
}

static int take_block(struct gather *gather, uint64_t *block)
{
	uint32_t count;
	int result = blocks_allocate(gather->checker, 1, block, &count);
	struct block_run *last = gather->taken.count ? &gather->taken.items[gather->taken.count - 1] : NULL;

	if (!result && last && last->start + last->count == *block) {
		last->count++;
		return 0;
	}
	return result ? result : LIST_ADD(&gather->taken, (struct block_run){ *block, 1 });
}

static void give_back(struct gather *gather)
{
	for (size_t i = 0; i < gather->taken.count; i++)
		map_clear(&gather->checker->found, gather->taken.items[i].start, gather->taken.items[i].count);
}

/* ---- Gathering ---- */

static int keep(struct gather *gather, uint64_t key, const void *value, uint32_t length, bool moved)
{
	struct item item = { key, gather->used, length, moved };

	if (gather->space - gather->used < length) {
		size_t wanted = gather->space * 2 + 4096;
		uint8_t *grown = realloc(gather->bytes, wanted);

		if (!grown)
			return -ENOMEM;
		gather->bytes = grown;
		gather->space = wanted;
	}
	memcpy(gather->bytes + gather->used, value, length);
	gather->used += length;
	return LIST_ADD(&gather->items, item);
}

static int keep_extent(struct gather *gather, uint64_t key, uint64_t start, uint64_t count, uint32_t flags)
{
	struct ash_extent_value value = { ash_put64(start), ash_put32((uint32_t)count), ash_put32(flags) };

	gather->data_blocks += count;
	return keep(gather, key, &value, sizeof(value), false);
}

/*
 * A file's part that others own: block by block to new places; pieces that follow each other become one extent. What
 * is a hole of the image becomes one of the file: few bytes of an image that is nearly all hole would have it all
 * written.
 */
static int keep_copy(struct gather *gather, uint64_t key, uint64_t start, uint64_t count)
{
	struct checker *checker = gather->checker;
	uint8_t *block = checker->scratch + ASH_BLOCK_SIZE;
	uint64_t piece = 0, length = 0, to = 0;
	bool link = S_ISLNK(ash_get32(gather->record.mode)); /* has no holes */
	int result = 0;

	for (uint64_t i = 0, next; i < count && !result; i++) {
		next = link ? i : block_with_data(checker, start + i, start + count) - start;
		if (next > i && length) {
			result = keep_extent(gather, key + i - length, piece, length, 0);
			length = 0;
		}
		i = next;
		if (i == count || result)
			break;
		result = take_block(gather, &to);
		if (!result && block_read(checker, start + i, block))
			memset(block, 0, ASH_BLOCK_SIZE);
		if (!result)
			result = block_write_raw(checker, to, block, 1);
		if (!result && length && to == piece + length) {
			length++;
			continue;
		}
		if (!result && length)
			result = keep_extent(gather, key + i - length, piece, length, 0);
		piece = to;
		length = 1;
	}
	return result ? result : length ? keep_extent(gather, key + count - length, piece, length, 0) : 0;
}

static int gather_range(struct gather *gather, uint64_t key, uint64_t start, uint64_t count, uint32_t flags)
{
	int result = 0;

	while (count && !result) {
		const struct loss *loss = loss_find(gather->checker, gather->ino, false, start, count);
		uint64_t sound = !loss ? count : loss->start > start ? loss->start - start : 0, lost;

		if (sound)
			result = keep_extent(gather, key, start, sound, flags);
		key += sound;
		start += sound;
		count -= sound;
		if (!loss || result)
			break;
		lost = loss->start + loss->count - start < count ? loss->start + loss->count - start : count;
		if (loss->copy && !(flags & ASH_EXTENT_UNWRITTEN))
			result = keep_copy(gather, key, start, lost);
		key += lost;
		start += lost;
		count -= lost;
	}
	return result;
}

static int gather_extent(void *context, uint64_t key, const uint8_t *value, uint32_t length)
{
	struct gather *gather = context;
	const struct ash_extent_value *extent = (const void *)value;
	uint64_t count;

	if (extent_wrong(gather->checker, key, value, length, gather->floor) ||
	    (S_ISLNK(ash_get32(gather->record.mode)) && (ash_get32(extent->flags) & ASH_EXTENT_UNWRITTEN)))
		return 0;
	count = ash_get32(extent->count);
	gather->floor = key + count;
	if (!(ash_get32(extent->flags) & ASH_EXTENT_UNWRITTEN) && key + count > gather->eof_block)
		count = key < gather->eof_block ? gather->eof_block - key : 0;
	return count ? gather_range(gather, key, ash_get64(extent->start), count, ash_get32(extent->flags)) : 0;
}

/* Is this name of a directory the one that counts? */
static bool link_counts(struct gather *gather, uint64_t target, uint64_t key)
{
	const struct directory_info *child = directory_find(gather->checker, target);

	return child && target != ASH_INO_ROOT && child->found_parent == gather->ino && child->found_key == key;
}

/* Twice the same name: the second gets its inode number behind it. */
static void rename_second(struct ash_dirent_value *entry, uint8_t name[ASH_NAME_MAX])
{
	char suffix[24];
	int length = snprintf(suffix, sizeof(suffix), "#%llu", (unsigned long long)ash_get64(entry->ino));
	int old = entry->name_length;

	if (old + length > (int)ASH_NAME_MAX)
		old = (int)ASH_NAME_MAX - length;
	memcpy(name + old, suffix, (size_t)length);
	entry->name_length = (uint8_t)(old + length);
}

static int keep_entry(struct gather *gather, const struct ash_dirent_value *entry, const uint8_t *name, uint64_t key,
		      bool moved)
{
	uint8_t value[sizeof(*entry) + ASH_NAME_MAX];

	memcpy(value, entry, sizeof(*entry));
	memcpy(value + sizeof(*entry), name, entry->name_length);
	if (entry->type == DT_DIR)
		gather->children++;
	return keep(gather, key, value, (uint32_t)sizeof(*entry) + entry->name_length, moved);
}

static int gather_entry(void *context, uint64_t key, const uint8_t *value, uint32_t length)
{
	struct gather *gather = context;
	struct checker *checker = gather->checker;
	struct ash_dirent_value entry;
	uint8_t name[ASH_NAME_MAX], state;
	uint64_t target, right;
	bool seen = false;
	int result = 0;

	if (dirent_wrong(value, length))
		return 0;
	memcpy(&entry, value, sizeof(entry));
	memcpy(name, value + sizeof(entry), entry.name_length);
	target = ash_get64(entry.ino);
	state = target < checker->inode_count ? inode_state(checker, target) : 0;
	if (!(state & (INODE_TYPE | INODE_DAMAGED)))
		return 0;
	if (!(state & INODE_DAMAGED))
		entry.type = state & INODE_TYPE;
	if (entry.type == DT_DIR && !(state & INODE_DAMAGED) && !link_counts(gather, target, key))
		return 0;
	right = name_key(checker, name, entry.name_length);
	if ((key & ~KEY_COLLISION_MASK) == right) {
		result = name_set_add(checker, &gather->set, key, name, entry.name_length, &seen);
		if (seen) {
			rename_second(&entry, name);
			right = name_key(checker, name, entry.name_length);
		}
	}
	if (result)
		return result;
	if (seen || (key & ~KEY_COLLISION_MASK) != right)
		return keep_entry(gather, &entry, name, right, true);
	return keep_entry(gather, &entry, name, key, false);
}

static uint64_t external_blocks(const struct ash_xattr_value *attribute, const struct gather *gather, bool *lost)
{
	struct external external;
	uint64_t blocks = 0;

	external_get(attribute, &external);
	for (uint32_t i = 0; i < external.count; i++) {
		blocks += external.extents[i].count;
		if (loss_find(gather->checker, gather->ino, true, external.extents[i].start, external.extents[i].count))
			*lost = true;
	}
	return blocks;
}

static int gather_attribute(void *context, uint64_t key, const uint8_t *value, uint32_t length)
{
	struct gather *gather = context;
	struct checker *checker = gather->checker;
	const struct ash_xattr_value *attribute = (const void *)value;
	uint64_t right, blocks;
	bool lost = false, seen = false;
	int result = 0;

	if (attribute_wrong(checker, value, length))
		return 0;
	if (attribute->kind == 1 && (attribute_value_wrong(checker, value, &result) || result))
		return result;
	blocks = external_blocks(attribute, gather, &lost);
	if (lost)
		return 0;
	right = name_key(checker, attribute->name_and_value, attribute->name_length);
	if ((key & ~KEY_COLLISION_MASK) == right)
		result = name_set_add(checker, &gather->set, key, attribute->name_and_value, attribute->name_length,
				      &seen);
	if (result || seen)
		return result;
	gather->data_blocks += blocks;
	return keep(gather, (key & ~KEY_COLLISION_MASK) == right ? key : right, value, length,
		    (key & ~KEY_COLLISION_MASK) != right);
}

static int gather_node(void *context, uint64_t block)
{
	struct gather *gather = context;

	/* Not one that is somebody else's, too: see node_place(). */
	return map_test(&gather->checker->twice, block) ? 0 : LIST_ADD(&gather->old_nodes, block);
}

/* The table's good extents are known; the others are what made it need this. */
static int gather_table(struct gather *gather)
{
	const struct checker *checker = gather->checker;
	int result = 0;

	for (size_t i = 0; i < checker->table.count && !result; i++) {
		const struct table_extent *extent = &checker->table.items[i];

		result = keep_extent(gather, extent->file_block, extent->start, extent->count, 0);
	}
	return result;
}

static int compare_hashes(const void *a, const void *b)
{
	const uint64_t *x = a, *y = b;

	return *x < *y ? -1 : *x > *y;
}

/* The hashes of the names that are kept, sorted; NULL: no memory. */
static uint64_t *hashes_kept(const struct gather *gather)
{
	uint64_t *hashes = malloc((gather->items.count + 1) * sizeof(*hashes));

	if (!hashes)
		return NULL;
	for (size_t i = 0; i < gather->items.count; i++)
		hashes[i] = gather->items.items[i].key & ~KEY_COLLISION_MASK;
	qsort(hashes, gather->items.count, sizeof(*hashes), compare_hashes);
	return hashes;
}

/* "#N", or with ".1", ".2" ... behind it when somebody has that name: its key. */
static uint64_t addition_name(const struct checker *checker, const uint64_t *hashes, size_t count,
			      struct ash_dirent_value *entry, uint8_t name[ASH_NAME_MAX])
{
	unsigned long long ino = ash_get64(entry->ino);
	char text[48];
	uint64_t key;

	for (unsigned n = 0;; n++) {
		int length = n ? snprintf(text, sizeof(text), "#%llu.%u", ino, n) :
				 snprintf(text, sizeof(text), "#%llu", ino);

		key = name_key(checker, text, (size_t)length);
		if (bsearch(&key, hashes, count, sizeof(*hashes), compare_hashes))
			continue;
		memcpy(name, text, (size_t)length);
		entry->name_length = (uint8_t)length;
		return key;
	}
}

static int compare_additions(const void *a, const void *b)
{
	const struct addition *x = a, *y = b;

	if (x->directory != y->directory)
		return x->directory < y->directory ? -1 : 1;
	return x->ino < y->ino ? -1 : x->ino > y->ino;
}

static int gather_additions(struct gather *gather)
{
	struct checker *checker = gather->checker;
	size_t count = gather->items.count;
	uint64_t *hashes = NULL;
	int result = 0;

	/* many may wait for lost+found while thousands of others are written anew */
	for (size_t i = LIST_FROM(&checker->additions, gather->ino); i < checker->additions.count && !result; i++) {
		const struct addition *addition = &checker->additions.items[i];
		struct ash_dirent_value entry = { .ino = ash_put64(addition->ino), .type = addition->type };
		uint8_t name[ASH_NAME_MAX] = "lost+found";
		uint64_t key;

		if (addition->directory != gather->ino)
			break;
		if (!hashes && !(hashes = hashes_kept(gather)))
			return -ENOMEM;
		if (addition->ino == checker->lost_found) {
			entry.name_length = 10;
			key = name_key(checker, name, entry.name_length);
		} else {
			key = addition_name(checker, hashes, count, &entry, name);
		}
		result = keep_entry(gather, &entry, name, key, true);
	}
	free(hashes);
	return result;
}

static int gather_fork(struct gather *gather)
{
	const struct ash_inode *record = &gather->record;
	uint64_t size = ash_get64(record->size);
	struct tree_walk walk = {
		.checker = gather->checker, .owner = gather->ino, .context = gather, .node = gather_node
	};
	int result = 0;

	gather->eof_block = size / ASH_BLOCK_SIZE + (size % ASH_BLOCK_SIZE != 0);
	if (gather->ino == ASH_INO_TABLE)
		return gather_table(gather);
	walk.record = gather->attribute ? gather_attribute : gather->directory ? gather_entry : gather_extent;
	if ((gather->attribute ? record->attr_kind : record->data_kind) == ASH_FORK_TREE)
		result = tree_walk(&walk, gather->attribute ? record->attr : record->data,
				   gather->attribute ? ASH_ATTR_FORK_SIZE : ASH_DATA_FORK_SIZE);
	if (!result && gather->directory && !gather->attribute)
		result = gather_additions(gather);
	return result;
}

/* ---- Keys ---- */

/* By hash; in it those whose key is settled first, then by key. */
static int compare_items(const void *a, const void *b)
{
	const struct item *x = a, *y = b;
	uint64_t hash_x = x->key & ~KEY_COLLISION_MASK, hash_y = y->key & ~KEY_COLLISION_MASK;

	if (hash_x != hash_y)
		return hash_x < hash_y ? -1 : 1;
	if (x->moved != y->moved)
		return x->moved ? 1 : -1;
	return x->key < y->key ? -1 : x->key > y->key;
}

static int compare_keys(const void *a, const void *b)
{
	const struct item *x = a, *y = b;

	return x->key < y->key ? -1 : x->key > y->key;
}

static bool same_name(const struct gather *gather, const struct item *a, const struct item *b)
{
	const uint8_t *x = gather->bytes + a->at, *y = gather->bytes + b->at;
	uint32_t length_at = gather->attribute ? 0 : offsetof(struct ash_dirent_value, name_length);
	uint32_t name_at = gather->attribute ? sizeof(struct ash_xattr_value) : sizeof(struct ash_dirent_value);

	return x[length_at] == y[length_at] && !memcmp(x + name_at, y + name_at, x[length_at]);
}

/* Give moved items of one hash free collision numbers; of equal names, and where no number is left, the later goes. */
static void settle_hash(struct gather *gather, struct item *items, size_t count)
{
	const struct item *owner[1u << ASH_DIR_COLLISION_BITS] = { NULL };

	for (size_t i = 0; i < count; i++) {
		uint32_t number = KEY_COLLISION_MASK + 1;
		bool drop = false;

		for (uint32_t n = KEY_COLLISION_MASK + 1; n-- > 0 && items[i].moved;) {
			if (!owner[n])
				number = n;
			else if (same_name(gather, &items[i], owner[n]))
				drop = true;
		}
		if (!items[i].moved)
			number = items[i].key & KEY_COLLISION_MASK;
		if (drop || number > KEY_COLLISION_MASK) {
			items[i].length = 0;
			continue;
		}
		owner[number] = &items[i];
		items[i].key = (items[i].key & ~KEY_COLLISION_MASK) | number;
	}
}

static void settle_keys(struct gather *gather)
{
	struct item *items = gather->items.items;
	size_t count = gather->items.count, kept = 0;

	if (!count || (!gather->attribute && !gather->directory))
		return;
	qsort(items, count, sizeof(*items), compare_items);
	for (size_t first = 0, end; first < count; first = end) {
		for (end = first + 1; end < count; end++)
			if ((items[end].key & ~KEY_COLLISION_MASK) != (items[first].key & ~KEY_COLLISION_MASK))
				break;
		settle_hash(gather, items + first, end - first);
	}
	for (size_t i = 0; i < count; i++)
		if (items[i].length)
			items[kept++] = items[i];
	gather->items.count = kept;
	qsort(items, kept, sizeof(*items), compare_keys);
}

/* ---- Writing ---- */

static uint32_t record_space(uint32_t length)
{
	return 2 + ((RECORD_HEADER + length + 1) & ~1u);
}

/* How many of `count` items from `items` fit `size` bytes of node. */
static size_t fitting(const struct item *items, size_t count, uint32_t size)
{
	uint32_t used = NODE_HEADER;
	size_t n = 0;

	while (n < count && used + record_space(items[n].length) <= size)
		used += record_space(items[n++].length);
	return n;
}

static void pack(uint8_t *node, uint32_t size, uint32_t level, const struct item *items, size_t count,
		 const uint8_t *bytes)
{
	struct ash_node_header *header = (void *)node;
	uint32_t heap = size;

	memset(node, 0, size);
	for (size_t i = 0; i < count; i++) {
		struct ash_tree_record record = { ash_put64(items[i].key), ash_put16((uint16_t)items[i].length) };
		ash_le16 slot;

		heap -= record_space(items[i].length) - 2;
		slot = ash_put16((uint16_t)heap);
		memcpy(node + heap, &record, RECORD_HEADER);
		memcpy(node + heap + RECORD_HEADER, bytes + items[i].at, items[i].length);
		memcpy(node + NODE_HEADER + 2 * i, &slot, sizeof(slot));
	}
	header->level = ash_put16((uint16_t)level);
	header->count = ash_put16((uint16_t)count);
	header->heap_start = ash_put16((uint16_t)heap);
}

static int node_place(struct gather *gather)
{
	uint64_t block = 0;
	int result = take_block(gather, &block);

	if (result == -ENOSPC && gather->old_nodes.count) {
		block = gather->old_nodes.items[--gather->old_nodes.count];
		result = 0;
	}
	return result ? result : LIST_ADD(&gather->new_nodes, block);
}

/* How many nodes the tree has below a root of that size. */
static size_t nodes_needed(const struct gather *gather, uint32_t root_size)
{
	const uint32_t pointer = record_space(sizeof(ash_le64));
	size_t in_root = (root_size - NODE_HEADER) / pointer, in_node = (ASH_TREE_NODE_SIZE - NODE_HEADER) / pointer;
	const struct item *items = gather->items.items;
	size_t count = gather->items.count, level = 0, needed;

	if (fitting(items, count, root_size) == count)
		return 0;
	for (size_t first = 0; first < count; level++)
		first += fitting(items + first, count - first, LEAF_FILL);
	for (needed = level; level > in_root; needed += level)
		level = (level + in_node - 1) / in_node;
	return needed;
}

/* All before the first is written: no old node is overwritten for a tree that is not finished then. */
static int nodes_place(struct gather *gather, uint32_t root_size)
{
	size_t needed = nodes_needed(gather, root_size);
	int result = 0;

	while (gather->new_nodes.count < needed && !result)
		result = node_place(gather);
	return result;
}

/* Write one level; its nodes become the items of the level above. */
static int write_level(struct gather *gather, uint32_t level)
{
	struct checker *checker = gather->checker;
	struct ash_tree_block *node = (void *)checker->node_buffers;
	struct item *items = gather->items.items;
	size_t count = gather->items.count, above = 0;
	int result = 0;

	for (size_t first = 0, n; first < count && !result; first += n) {
		struct item pointer = { .key = items[first].key, .length = sizeof(ash_le64) };
		uint64_t block = gather->new_nodes.items[gather->written++];
		ash_le64 value;

		n = fitting(items + first, count - first, level ? ASH_TREE_NODE_SIZE : LEAF_FILL);
		block_begin(checker, node, block, ASH_MAGIC_TREE_NODE, gather->ino);
		pack((uint8_t *)&node->node, ASH_TREE_NODE_SIZE, level, items + first, n, gather->bytes);
		result = block_write(checker, block, node);
		/* The pointer's value takes the place of the first value that is now on disk. */
		value = ash_put64(block);
		pointer.at = items[first].at;
		memcpy(gather->bytes + pointer.at, &value, sizeof(value));
		items[above++] = pointer;
	}
	gather->items.count = above;
	return result;
}

/* Until what is left fits the root. -ENOSPC: nothing of the fork was touched. */
static int write_nodes(struct gather *gather, uint32_t root_size, uint32_t *level)
{
	int result = nodes_place(gather, root_size);

	if (result)
		return result;
	for (*level = 0; fitting(gather->items.items, gather->items.count, root_size) < gather->items.count;
	     (*level)++) {
		if (*level >= ASH_TREE_MAX_LEVEL)
			return -EUCLEAN;
		result = write_level(gather, *level);
		if (result)
			return result;
	}
	return check_flush(gather->checker);
}

/* Blocks of the other fork. */
static int count_node(void *context, uint64_t block)
{
	(void)block;
	(*(uint64_t *)context)++;
	return 0;
}

static int count_extent(void *context, uint64_t key, const uint8_t *value, uint32_t length)
{
	(void)key;
	if (length == sizeof(struct ash_extent_value))
		*(uint64_t *)context += ash_get32(((const struct ash_extent_value *)(const void *)value)->count);
	return 0;
}

struct count_walk {
	uint64_t blocks; /* first: count_node() adds here */
	struct checker *checker;
};

static int count_attribute(void *context, uint64_t key, const uint8_t *value, uint32_t length)
{
	struct count_walk *count = context;
	const struct ash_xattr_value *attribute = (const void *)value;
	struct external external;

	(void)key;
	if (attribute_wrong(count->checker, value, length))
		return 0;
	external_get(attribute, &external);
	for (uint32_t i = 0; i < external.count; i++)
		count->blocks += external.extents[i].count;
	return 0;
}

static int other_blocks(struct gather *gather, uint64_t *blocks)
{
	const struct ash_inode *record = &gather->record;
	struct count_walk count = { .checker = gather->checker };
	struct tree_walk walk = {
		.checker = gather->checker, .owner = gather->ino, .context = &count, .node = count_node
	};
	bool data = gather->attribute;
	int result = 0;

	walk.record = !data ? count_attribute : gather->directory ? NULL : count_extent;
	if ((data ? record->data_kind : record->attr_kind) == ASH_FORK_TREE)
		result = tree_walk(&walk, data ? record->data : record->attr,
				   data ? ASH_DATA_FORK_SIZE : ASH_ATTR_FORK_SIZE);
	*blocks = count.blocks;
	return result;
}

static int switch_record(struct gather *gather, uint32_t level, uint64_t entries, uint64_t blocks)
{
	struct ash_inode *record = &gather->record;
	uint32_t size = gather->attribute ? ASH_ATTR_FORK_SIZE : ASH_DATA_FORK_SIZE;
	uint8_t kind = gather->items.count ? ASH_FORK_TREE : ASH_FORK_EMPTY;
	uint8_t *fork = gather->attribute ? record->attr : record->data;

	if (kind == ASH_FORK_TREE)
		pack(fork, size, level, gather->items.items, gather->items.count, gather->bytes);
	else
		memset(fork, 0, size);
	if (gather->attribute)
		record->attr_kind = kind;
	else
		record->data_kind = kind;
	record->blocks = ash_put64(blocks);
	if (gather->directory && !gather->attribute) {
		record->size = ash_put64(entries);
		record->nlink = ash_put32((uint32_t)(2 + gather->children));
	}
	gather->checker->changed = true;
	return inode_write(gather->checker, gather->ino, record);
}

static int rebuild_gathered(struct gather *gather)
{
	uint64_t other = 0, entries;
	uint32_t level;
	int result = gather_fork(gather);

	if (!result)
		result = other_blocks(gather, &other);
	if (result)
		return result;
	settle_keys(gather);
	entries = gather->items.count;
	result = write_nodes(gather, gather->attribute ? ASH_ATTR_FORK_SIZE : ASH_DATA_FORK_SIZE, &level);
	if (!result)
		result = switch_record(gather, level, entries, other + gather->data_blocks + gather->new_nodes.count);
	return result ? result : check_flush(gather->checker);
}

static int rebuild_one(struct checker *checker, const struct rebuild *rebuild, bool names_known)
{
	struct gather gather = { .checker = checker, .ino = rebuild->ino, .attribute = rebuild->attribute };
	int result = inode_read(checker, rebuild->ino, &gather.record);

	if (rebuild->ino != ASH_INO_TABLE)
		inode_state_drop(checker, rebuild->ino,
				 rebuild->attribute ? INODE_REBUILD_ATTRIBUTE : INODE_REBUILD_DATA);
	if (result)
		return result;
	/* It may have been cleared since. */
	if (rebuild->ino != ASH_INO_TABLE && !(inode_state(checker, rebuild->ino) & INODE_TYPE))
		return 0;
	gather.directory = S_ISDIR(ash_get32(gather.record.mode));
	/* Which of its entries lead somewhere, and which name of a directory counts, only pass 2 knows: next round. */
	if (gather.directory && !gather.attribute && !names_known) {
		/* it will be met, and asked about, again */
		checker->result->problems--;
		checker->result->fixed--;
		return 0;
	}
	result = rebuild_gathered(&gather);
	if (result == -ENOSPC) {
		give_back(&gather);
		problem(checker, PROBLEM_NO_SPACE, &(struct problem_context){ .ino = rebuild->ino });
		result = 0;
	}
	free(gather.bytes);
	LIST_FREE(&gather.items);
	LIST_FREE(&gather.old_nodes);
	LIST_FREE(&gather.new_nodes);
	LIST_FREE(&gather.taken);
	return result;
}

int rebuild_all(struct checker *checker, bool names_known)
{
	int result = 0;

	if (checker->additions.count)
		qsort(checker->additions.items, checker->additions.count, sizeof(*checker->additions.items),
		      compare_additions);
	for (size_t i = 0; i < checker->rebuilds.count && !result; i++) {
		result = check_cancelled(checker);
		if (result)
			checker->rebuilds.count -= i; /* so many were promised and not done */
		else
			result = rebuild_one(checker, &checker->rebuilds.items[i], names_known);
	}
	if (!result)
		checker->rebuilds.count = 0;
	return result;
}
