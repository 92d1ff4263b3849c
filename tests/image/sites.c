/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Finding the places of fields: see sites.h. */
#include "sites.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include "fs/btree.h"
#include "fs/recover.h"

#define NODES_MAX 64u
#define ITEM_KINDS (ASH_LOG_ORPHAN_RESET + 1)

/* ---- The list ---- */

/* What the sites that are added have in common. */
struct finder {
	struct image *image;
	struct sites *sites;
	struct site common;
};

static void add_field(struct finder *finder, enum structure structure, const struct field *field, uint32_t base)
{
	struct sites *sites = finder->sites;
	struct site *site;

	if (sites->count == sites->space) {
		sites->space = sites->space ? sites->space * 2 : 1024;
		sites->items = realloc(sites->items, sites->space * sizeof(*sites->items));
		if (!sites->items)
			die("out of memory");
	}
	site = &sites->items[sites->count++];
	*site = finder->common;
	site->structure = structure;
	site->field = *field;
	site->offset = base + field->offset;
}

static void add(struct finder *finder, enum structure structure, uint32_t base)
{
	const struct fields *fields = &structures[structure];

	for (unsigned i = 0; i < fields->count; i++)
		if (fields->items[i].kind != F_NESTED)
			add_field(finder, structure, &fields->items[i], base);
}

__attribute__((format(printf, 2, 3))) static void name(struct finder *finder, const char *format, ...)
{
	va_list arguments;

	va_start(arguments, format);
	vsnprintf(finder->common.place, sizeof(finder->common.place), format, arguments);
	va_end(arguments);
}

/* ---- Trees ---- */

/* A value and what is behind it; `tree`: what the records of the tree are. */
static void find_value(struct finder *finder, enum structure tree, const uint8_t *block, uint32_t at)
{
	const struct ash_xattr_value *attribute = (const void *)(block + at);
	const struct ash_xattr_external *external;
	uint32_t behind;

	add(finder, tree, at);
	if (tree == S_DIRENT)
		add_field(finder, tree, &(struct field){ "name", sizeof(struct ash_dirent_value), 4, F_BYTES, REPORT },
			  at);
	if (tree != S_XATTR)
		return;
	add_field(finder, tree, &(struct field){ "name", sizeof(*attribute), 4, F_BYTES, REPORT }, at);
	behind = at + (uint32_t)sizeof(*attribute) + attribute->name_length;
	if (!attribute->kind) {
		add_field(finder, tree, &(struct field){ "value", 0, 1, F_BYTES, ANY }, behind);
		return;
	}
	external = (const void *)(block + behind);
	add(finder, S_EXTERNAL, behind);
	for (uint32_t i = 0; i < ash_get32(external->extent_count); i += 16)
		add(finder, S_EXTERNAL_EXTENT, behind + (uint32_t)offsetof(struct ash_xattr_external, extents[i]));
}

/* A node at `at` of a block. */
static void find_node(struct finder *finder, enum structure tree, uint8_t *block, uint32_t at)
{
	uint8_t *node = block + at;
	uint32_t count = ash_node_count(node), picks[] = { 0, 1, count - 1 };
	char place[sizeof(finder->common.place)];

	memcpy(place, finder->common.place, sizeof(place));
	add(finder, S_NODE, at);
	for (unsigned i = 0; i < 3; i++) {
		uint32_t record;

		if (picks[i] >= count || (i && picks[i] <= picks[i - 1]))
			continue;
		record = (uint32_t)((uint8_t *)node_record(node, picks[i]) - block);
		name(finder, "%.44s, record %u", place, picks[i]);
		add(finder, S_SLOT, at + (uint32_t)sizeof(struct ash_node_header) + 2 * picks[i]);
		add(finder, S_RECORD, record);
		if (ash_node_level(node))
			add(finder, S_CHILD, record + (uint32_t)sizeof(struct ash_tree_record));
		else
			find_value(finder, tree, block, record + (uint32_t)sizeof(struct ash_tree_record));
	}
}

static void find_nodes(struct finder *finder, const char *what, uint64_t ino, bool attribute, enum structure tree)
{
	uint64_t blocks[NODES_MAX];
	unsigned count = locate_nodes(finder->image, ino, attribute, blocks, NODES_MAX);
	unsigned picks[] = { 0, 1, count - 1 };

	finder->common.cover = COVER_BLOCK;
	for (unsigned i = 0; i < 3; i++) {
		uint8_t data[ASH_BLOCK_SIZE] __attribute__((aligned(4096)));

		if (picks[i] >= count || (i && picks[i] <= picks[i - 1]))
			continue;
		finder->common.block = blocks[picks[i]];
		name(finder, "%s node %u of %s", attribute ? "attribute" : "data", picks[i], what);
		add(finder, S_BLOCK_HEADER, 0);
		image_read(finder->image, blocks[picks[i]], data);
		find_node(finder, tree, data, offsetof(struct ash_tree_block, node));
	}
}

/* ---- Inodes ---- */

static void find_inode(struct finder *finder, const char *what, uint64_t ino)
{
	uint8_t data[ASH_BLOCK_SIZE] __attribute__((aligned(4096)));
	uint32_t at;
	uint64_t block = locate_inode(finder->image, ino, &at);
	const struct ash_inode *record = (const void *)(data + at);
	enum structure tree;

	image_read(finder->image, block, data);
	tree = (ash_get32(record->mode) & S_IFMT) == S_IFDIR ? S_DIRENT : S_EXTENT;
	finder->common = (struct site){ .block = block, .cover = COVER_RECORD, .owner = ino };
	name(finder, "inode %s", what);
	add(finder, S_INODE, at);
	if (record->data_kind == ASH_FORK_TREE) {
		name(finder, "data root of %s", what);
		find_node(finder, tree, data, at + (uint32_t)offsetof(struct ash_inode, data));
	}
	if (record->attr_kind == ASH_FORK_TREE) {
		name(finder, "attribute root of %s", what);
		find_node(finder, S_XATTR, data, at + (uint32_t)offsetof(struct ash_inode, attr));
	}
	find_nodes(finder, what, ino, false, tree);
	find_nodes(finder, what, ino, true, S_XATTR);
}

/* A record that no inode uses, in a block that others do. */
static void find_free_inode(struct finder *finder)
{
	struct ash_inode record;
	uint64_t ino = ASH_INO_FIRST_FREE;
	uint32_t at;

	do
		inode_get(finder->image, ++ino, &record);
	while (record.magic.raw);
	finder->common = (struct site){ .block = locate_inode(finder->image, ino, &at), .cover = COVER_RECORD };
	finder->common.spare = true;
	finder->common.owner = ino;
	name(finder, "a free inode");
	add(finder, S_INODE, at);
}

static void find_inodes(struct finder *finder)
{
	const struct image *image = finder->image;
	const struct {
		const char *name;
		uint64_t ino;
	} list[] = {
		{ "root", ASH_INO_ROOT },
		{ "empty file", image->empty },
		{ "inline file", image->inline_file },
		{ "block file", image->block_file },
		{ "extent file", image->extent_file },
		{ "unwritten file", image->unwritten_file },
		{ "long link", image->long_link },
		{ "short link", image->short_link },
		{ "fifo", image->fifo },
		{ "device", image->device },
		{ "small directory", image->small_directory },
		{ "child directory", image->child_directory },
		{ "flat directory", image->flat_directory },
		{ "deep directory", image->deep_directory },
		{ "attribute file", image->attribute_file },
	};

	for (size_t i = 0; i < sizeof(list) / sizeof(list[0]); i++)
		find_inode(finder, list[i].name, list[i].ino);
	if (image->clean)
		find_free_inode(finder);
}

/* Values of this image's long attributes are blocks full of 'v'. */
static void find_long_values(struct finder *finder)
{
	uint64_t blocks = ash_get64(finder->image->super.block_count);
	uint8_t data[ASH_BLOCK_SIZE] __attribute__((aligned(4096)));
	unsigned found = 0;

	for (uint64_t block = 1; block < blocks && found < 2; block++) {
		image_read(finder->image, block, data);
		if (data[0] != 'v' || data[4095] != 'v' || memcmp(data, data + 1, 4095))
			continue;
		/* whose it is the image does not say: either file's */
		finder->common = (struct site){ .block = block, .owner = finder->image->attribute_file };
		name(finder, "long attribute value %u", found++);
		add_field(finder, S_XATTR, &(struct field){ "long value", 100, 8, F_BYTES, REPORT }, 0);
	}
}

/* ---- Fixed places ---- */

static void find_super(struct finder *finder, uint64_t block)
{
	finder->common = (struct site){ .block = block, .cover = COVER_BLOCK };
	if (block)
		name(finder, "backup superblock %llu", (unsigned long long)block);
	else
		name(finder, "superblock");
	add(finder, S_BLOCK_HEADER, 0);
	add(finder, S_SUPER, 0);
	finder->common.cover = COVER_TABLE;
	name(finder, "table inode in %s %llu", block ? "backup" : "block", (unsigned long long)block);
	add(finder, S_INODE, offsetof(struct ash_super, table_inode));
	find_node(finder, S_EXTENT, (uint8_t *)&finder->image->super,
		  offsetof(struct ash_super, table_inode) + offsetof(struct ash_inode, data));
}

static void find_group_table(struct finder *finder)
{
	const unsigned entries[] = { 0, 1, ASH_GROUPS_PER_TABLE_BLOCK - 1 };

	finder->common =
		(struct site){ .block = ash_get64(finder->image->super.group_table_start), .cover = COVER_BLOCK };
	name(finder, "group table");
	add(finder, S_BLOCK_HEADER, 0);
	add(finder, S_GROUP_TABLE, 0);
	for (unsigned i = 0; i < 3; i++) {
		const uint32_t flags = (uint32_t)offsetof(struct ash_group_table_block, flags[entries[i]]);
		const uint32_t counts = (uint32_t)offsetof(struct ash_group_table_block, free_blocks[entries[i]]);

		finder->common.spare = entries[i] >= ash_get32(finder->image->super.group_count);
		name(finder, "group table, entry %u", entries[i]);
		add_field(finder, S_GROUP_TABLE, &(struct field){ "flags", 0, 4, F_NUMBER, REPORT }, flags);
		add_field(finder, S_GROUP_TABLE, &(struct field){ "free_blocks", 0, 4, F_NUMBER, REPORT }, counts);
	}
}

/* `bits`: so many say something; behind them nobody looks. */
static void find_bitmap(struct finder *finder, uint64_t block, const char *what, unsigned number, uint32_t bits)
{
	const struct fields *fields = &structures[S_BITMAP];

	finder->common = (struct site){ .block = block, .cover = COVER_BLOCK };
	name(finder, "bitmap of %s %u", what, number);
	add(finder, S_BLOCK_HEADER, 0);
	for (unsigned i = 0; i < fields->count; i++) {
		struct field field = fields->items[i], last;

		if (field.kind == F_NESTED)
			continue;
		if (field.offset != offsetof(struct ash_bitmap_block, bits)) {
			add_field(finder, S_BITMAP, &field, 0);
			continue;
		}
		field.size = bits / 8;
		add_field(finder, S_BITMAP, &field, 0);
		last = (struct field){ "last bits", field.offset + field.size - 8, 8, F_BYTES, REPORT };
		add_field(finder, S_BITMAP, &last, 0);
		if (bits < ASH_BITS_PER_BITMAP) {
			last = (struct field){ "bits of nothing", field.offset + field.size, 8, F_BYTES, ANY };
			add_field(finder, S_BITMAP, &last, 0);
		}
	}
}

static void find_fixed(struct finder *finder)
{
	const struct ash_super *super = &finder->image->super;
	uint32_t run_blocks = 1 + ash_get32(super->inodes_per_run) / ASH_INODES_PER_BLOCK;

	find_super(finder, 0);
	for (unsigned group = 1; group < ash_get32(super->group_count); group++)
		if (ash_group_has_super(group))
			find_super(finder, ash_group_start(group));
	find_super(finder, ash_get64(super->block_count) - 1);
	find_group_table(finder);
	for (unsigned group = 0; group < ash_get32(super->group_count); group++)
		find_bitmap(finder, ash_group_bitmap(group), "group", group, ASH_BITS_PER_BITMAP);
	for (unsigned run = 0; run < ash_get64(super->inode_runs); run++)
		find_bitmap(finder, locate_table_block(finder->image, run * run_blocks), "inode run", run,
			    ash_get32(super->inodes_per_run));
	for (unsigned i = 0; i < 2; i++) {
		finder->common =
			(struct site){ .block = ash_get64(super->log_start) + i, .cover = COVER_BLOCK, .spare = true };
		name(finder, "log control block %u", i);
		add(finder, S_BLOCK_HEADER, 0);
		add(finder, S_LOG_CONTROL, 0);
	}
}

/* ---- The log ---- */

/* What was seen of each kind of thing: the first two and every fortieth are taken. */
struct log_walk {
	struct finder *finder;
	uint64_t records, kinds[ITEM_KINDS];
};

static bool wanted(uint64_t *seen)
{
	uint64_t index = (*seen)++;

	return index < 2 || index % 40 == 39;
}

/* False when `length` bytes from there on are not in one block. */
static bool log_place(struct finder *finder, uint64_t lsn, uint32_t length, uint32_t *offset)
{
	const struct ash_super *super = &finder->image->super;
	uint64_t position = lsn / ASH_LOG_PAYLOAD, ring = ash_get64(super->log_blocks) - 2;

	*offset = (uint32_t)(lsn % ASH_LOG_PAYLOAD);
	finder->common.block = ash_get64(super->log_start) + 2 + position % ring;
	if (*offset + length > ASH_LOG_PAYLOAD)
		return false;
	*offset += (uint32_t)offsetof(struct ash_log_block, payload);
	return true;
}

static void find_item(struct log_walk *walk, uint64_t lsn, const struct ash_log_item *item)
{
	static const char *const kinds[ITEM_KINDS] = {
		"",       "bytes", "format",     "bits set",      "bits clear",
		"revoke", "home",  "orphan add", "orphan delete", "orphan reset"
	};
	struct field tail = { "tail", sizeof(*item), ash_get16(item->length), F_NUMBER, ANY };
	uint32_t at;

	if (item->kind >= ITEM_KINDS || !wanted(&walk->kinds[item->kind]))
		return;
	if (tail.size > 8)
		tail.size = 8;
	if (!log_place(walk->finder, lsn, (uint32_t)sizeof(*item) + tail.size, &at))
		return;
	name(walk->finder, "log item %s %llu", kinds[item->kind], (unsigned long long)walk->kinds[item->kind] - 1);
	add(walk->finder, S_LOG_ITEM, at);
	if (tail.size)
		add_field(walk->finder, S_LOG_ITEM, &tail, at);
}

static int find_record(void *context, const struct ash_log_view *view)
{
	struct log_walk *walk = context;
	uint32_t at = sizeof(struct ash_log_record), place;

	if (wanted(&walk->records) && log_place(walk->finder, view->lsn, at, &place)) {
		name(walk->finder, "log record %llu", (unsigned long long)walk->records - 1);
		add(walk->finder, S_LOG_RECORD, place);
	}
	for (uint32_t i = 0; i < view->items; i++) {
		struct ash_log_item item; /* not aligned in the log */

		memcpy(&item, view->record + at, sizeof(item));
		find_item(walk, view->lsn + at, &item);
		at += (uint32_t)sizeof(item) + ash_get16(item.length);
	}
	return 0;
}

static void find_log(struct finder *finder)
{
	const struct ash_super *super = &finder->image->super;
	struct log_walk walk = { .finder = finder };
	struct ash_overlay *overlay;
	char error[BDEV_ERROR_TEXT];
	uint64_t first, end;

	if (ash_overlay_open(finder->image->dev, super, &overlay, error))
		die("%s", error);
	finder->common = (struct site){ .cover = COVER_LOG, .spare = true };
	ash_overlay_each_record(overlay, find_record, &walk);
	first = ash_get64(ash_overlay_info(overlay)->control.tail_position);
	end = ash_overlay_info(overlay)->end_position;
	ash_overlay_close(overlay);
	for (uint64_t position = first; position < end; position++) {
		uint32_t at;

		if (position > first + 1 && position < end - 2 && position % 16)
			continue;
		log_place(finder, position * ASH_LOG_PAYLOAD, 0, &at);
		name(finder, "log block %llu", (unsigned long long)position);
		add(finder, S_BLOCK_HEADER, 0);
		add(finder, S_LOG_BLOCK, 0);
	}
}

void sites_find(struct image *image, struct sites *out)
{
	struct finder finder = { .image = image, .sites = out };

	*out = (struct sites){ 0 };
	find_fixed(&finder);
	find_inodes(&finder);
	find_long_values(&finder);
	if (!image->clean)
		find_log(&finder);
}

void sites_free(struct sites *sites)
{
	free(sites->items);
	*sites = (struct sites){ 0 };
}
