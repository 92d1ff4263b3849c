/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * ashlarctl dump: one block or inode record, field by field, for people who look for damage. So nothing here
 * refuses a bad block: what is wrong is printed beside the content. Every count and offset that comes from the
 * device is bounded before it is used (I8).
 *
 * What the log holds of a block is newer than the block: it is shown instead, and the output says so.
 */
#include "mkfs/ctl.h"

#include "fs/checksum.h"
#include "fs/recover.h"

#include <ctype.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- Opening ---- */

static int read_super(struct ctl_raw *raw)
{
	struct ash_super *super = raw->super;
	const char *name = bdev_name(raw->dev);
	uint64_t unknown;
	int result;

	if (bdev_geometry(raw->dev)->size < ASH_BLOCK_SIZE)
		return tool_error(-EINVAL, "%s: too short to hold an Ashlar volume", name);
	result = bdev_read(raw->dev, super, ASH_BLOCK_SIZE, 0);
	if (result)
		return tool_error(result, "%s: reading block 0: %s", name, strerror(-result));
	if (memcmp(super->volume_magic, ASH_VOLUME_MAGIC, sizeof(super->volume_magic)) != 0)
		return tool_error(-EINVAL, "%s: is not an Ashlar volume", name);
	if (ash_get32(super->header.crc) != ash_block_crc(0, super))
		return tool_error(-EUCLEAN, "%s: the superblock is damaged: run fsck.ashlar", name);
	unknown = ash_get64(super->incompat) & ~ASH_INCOMPAT_KNOWN;
	if (unknown)
		return tool_error(-ENOTSUP, "%s: has features that this version does not know (incompat %" PRIx64 ")",
				  name, unknown);
	if (bdev_geometry(raw->dev)->size >> ASH_BLOCK_SHIFT < ash_get64(super->block_count))
		return tool_error(-ENODATA, "%s: is shorter than its volume: it was truncated", name);
	return 0;
}

static int open_overlay(struct ctl_raw *raw)
{
	char error[BDEV_ERROR_TEXT] = "";
	int result = bdev_lock(raw->dev, false, TOOL_LOCK_TIMEOUT_MS);

	if (result)
		return tool_error(result, "%s is in use by another Ashlar program", bdev_name(raw->dev));
	result = ash_overlay_open(raw->dev, raw->super, &raw->overlay, error);
	return result ? tool_error(result, "%s: %s", bdev_name(raw->dev), error[0] ? error : strerror(-result)) : 0;
}

int ctl_open_raw(const char *name, bool overlay, struct ctl_raw *out)
{
	struct bdev_open_options options = { .read_only = true, .allow_buffered = true };
	const char *path = tool_device_path(name);
	char error[BDEV_ERROR_TEXT] = "";
	int result;

	memset(out, 0, sizeof(*out));
	if (path && tool_check_kind(path))
		return -EINVAL;
	result = bdev_open(name, &options, &out->dev, error);
	if (result)
		return tool_error(result, "%s", error);
	out->super = bdev_buffer_alloc(ASH_BLOCK_SIZE);
	result = out->super ? read_super(out) : tool_error(-ENOMEM, "out of memory");
	if (!result && overlay)
		result = open_overlay(out);
	if (result)
		ctl_close_raw(out);
	return result;
}

void ctl_close_raw(struct ctl_raw *raw)
{
	if (raw->overlay)
		ash_overlay_close(raw->overlay);
	if (raw->super)
		bdev_buffer_free(raw->super, ASH_BLOCK_SIZE);
	bdev_close(raw->dev);
}

/* ---- Common parts ---- */

const char *ctl_block_type(uint32_t magic)
{
	switch (magic) {
	case ASH_MAGIC_SUPER:
		return "superblock";
	case ASH_MAGIC_GROUP_TABLE:
		return "group table";
	case ASH_MAGIC_BLOCK_BITMAP:
		return "block bitmap";
	case ASH_MAGIC_INODE_BITMAP:
		return "inode bitmap";
	case ASH_MAGIC_TREE_NODE:
		return "tree node";
	case ASH_MAGIC_LOG_CONTROL:
		return "log control";
	case ASH_MAGIC_LOG_BLOCK:
		return "log block";
	}
	return NULL;
}

static void print_hex(const uint8_t *data, size_t length)
{
	for (size_t at = 0; at < length; at += 16) {
		printf("%04zx ", at);
		for (size_t i = 0; i < 16; i++)
			printf(" %02x", data[at + i]);
		fputs("  ", stdout);
		for (size_t i = 0; i < 16; i++)
			putchar(isprint(data[at + i]) ? data[at + i] : '.');
		putchar('\n');
	}
}

static void print_name(const uint8_t *name, size_t length)
{
	for (size_t i = 0; i < length; i++)
		printf(isprint(name[i]) ? "%c" : "\\x%02x", name[i]);
}

static void print_uuid(const char *what, const uint8_t uuid[16])
{
	char text[TOOL_UUID_TEXT];

	tool_format_uuid(uuid, text);
	printf("%s%s\n", what, text);
}

static const char *verdict(bool good)
{
	return good ? "good" : "BAD";
}

static void print_header(const struct ctl_raw *raw, const struct ash_block_header *header, uint64_t address)
{
	bool super = ash_get32(header->magic) == ASH_MAGIC_SUPER;
	uint32_t crc = ash_block_crc(super ? 0 : ash_get32(raw->super->checksum_seed), header);

	printf("checksum       %08" PRIx32 " %s\n", ash_get32(header->crc), verdict(crc == ash_get32(header->crc)));
	printf("address        %" PRIu64 " %s\n", ash_get64(header->address),
	       verdict(ash_get64(header->address) == address));
	printf("owner          %" PRIu64 "\n", ash_get64(header->owner));
	print_uuid("metadata UUID  ", header->metadata_uuid);
}

/* ---- Trees ---- */

static void print_extent(const uint8_t *value)
{
	struct ash_extent_value extent;

	memcpy(&extent, value, sizeof(extent));
	printf("blocks %" PRIu64 " + %" PRIu32 "%s", ash_get64(extent.start), ash_get32(extent.count),
	       ash_get32(extent.flags) & ASH_EXTENT_UNWRITTEN ? " unwritten" : "");
}

static void print_dirent(const uint8_t *value)
{
	struct ash_dirent_value entry;

	memcpy(&entry, value, sizeof(entry));
	printf("inode %" PRIu64 " type %u '", ash_get64(entry.ino), entry.type);
	print_name(value + sizeof(entry), entry.name_length);
	putchar('\'');
}

static void print_xattr(const uint8_t *value, size_t length)
{
	struct ash_xattr_value attribute;

	memcpy(&attribute, value, sizeof(attribute));
	if (sizeof(attribute) + attribute.name_length > length) {
		fputs("BAD length", stdout);
		return;
	}
	putchar('\'');
	print_name(value + sizeof(attribute), attribute.name_length);
	printf("' %" PRIu32 " bytes %s", ash_get32(attribute.value_length), attribute.kind ? "outside" : "inline");
}

/* A leaf does not say what it holds. A name has its own length in it and no NUL, which the flags of an extent are. */
static bool looks_like_dirent(const uint8_t *value, size_t length)
{
	struct ash_dirent_value entry;

	if (length <= sizeof(entry))
		return false;
	memcpy(&entry, value, sizeof(entry));
	return sizeof(entry) + entry.name_length == length && !memchr(value + sizeof(entry), 0, entry.name_length);
}

static void print_leaf_value(const uint8_t *value, size_t length)
{
	if (looks_like_dirent(value, length))
		print_dirent(value);
	else if (length == sizeof(struct ash_extent_value))
		print_extent(value);
	else if (length > sizeof(struct ash_xattr_value))
		print_xattr(value, length);
	else
		printf("BAD value of %zu bytes", length);
}

static void print_record(const uint8_t *node, size_t size, unsigned offset, bool leaf)
{
	struct ash_tree_record record;
	size_t length;

	if (offset > size || size - offset < sizeof(record)) {
		printf("  BAD record offset %u\n", offset);
		return;
	}
	memcpy(&record, node + offset, sizeof(record));
	length = ash_get16(record.length);
	printf("  key %" PRIu64 ": ", ash_get64(record.key));
	if (length > size - offset - sizeof(record)) {
		printf("BAD length %zu", length);
	} else if (leaf) {
		print_leaf_value(node + offset + sizeof(record), length);
	} else {
		ash_le64 child = { 0 };

		memcpy(&child, node + offset + sizeof(record), length < sizeof(child) ? length : sizeof(child));
		printf("child block %" PRIu64, ash_get64(child));
	}
	putchar('\n');
}

static void print_node(const uint8_t *node, size_t size)
{
	struct ash_node_header header;
	unsigned count;

	memcpy(&header, node, sizeof(header));
	count = ash_get16(header.count);
	printf("node           level %u, %u records, heap from %u, %u bytes lost\n", ash_get16(header.level), count,
	       ash_get16(header.heap_start), ash_get16(header.heap_free));
	if (count > (size - sizeof(header)) / sizeof(ash_le16)) {
		puts("  BAD count");
		return;
	}
	for (unsigned i = 0; i < count; i++) {
		ash_le16 slot;

		memcpy(&slot, node + sizeof(header) + i * sizeof(slot), sizeof(slot));
		print_record(node, size, ash_get16(slot), ash_get16(header.level) == 0);
	}
}

/* ---- Inodes ---- */

static void print_stamp(const char *what, ash_le64 seconds, ash_le32 nanoseconds)
{
	printf("%s%" PRId64 ".%09" PRIu32 "\n", what, (int64_t)ash_get64(seconds), ash_get32(nanoseconds));
}

static void print_fork(const char *what, uint8_t kind, const uint8_t *fork, size_t size, uint64_t inline_size)
{
	static const char *const kinds[] = { "empty", "inline", "tree" };

	printf("%s%s\n", what, kind < 3 ? kinds[kind] : "BAD");
	if (kind == ASH_FORK_TREE)
		print_node(fork, size);
	if (kind == ASH_FORK_INLINE) {
		fputs("  '", stdout);
		print_name(fork, inline_size < size ? inline_size : size);
		puts("'");
	}
}

static void print_inode_header(const struct ash_inode *inode)
{
	printf("mode           %06" PRIo32 "\nlinks          %" PRIu32 "\n", ash_get32(inode->mode),
	       ash_get32(inode->nlink));
	printf("owner          %" PRIu32 ":%" PRIu32 "\n", ash_get32(inode->uid), ash_get32(inode->gid));
	printf("size           %" PRIu64 "\nblocks         %" PRIu64 "\n", ash_get64(inode->size),
	       ash_get64(inode->blocks));
	print_stamp("atime          ", inode->atime, inode->atime_ns);
	print_stamp("mtime          ", inode->mtime, inode->mtime_ns);
	print_stamp("ctime          ", inode->ctime, inode->ctime_ns);
	print_stamp("btime          ", inode->btime, inode->btime_ns);
	printf("rdev           %" PRIu64 "\nparent         %" PRIu64 "\nflags          %" PRIx32 "\n",
	       ash_get64(inode->rdev), ash_get64(inode->parent), ash_get32(inode->flags));
}

static void print_inode(const struct ctl_raw *raw, const struct ash_inode *inode, uint64_t ino)
{
	uint32_t crc = ash_inode_crc(ash_get32(raw->super->checksum_seed), inode);
	bool used = ash_get32(inode->magic) == ASH_MAGIC_INODE;

	printf("inode          %" PRIu64 "%s\n", ino, used ? "" : ": never used");
	if (!used)
		return;
	printf("checksum       %08" PRIx32 " %s\n", ash_get32(inode->crc), verdict(crc == ash_get32(inode->crc)));
	printf("number         %" PRIu64 " %s\n", ash_get64(inode->ino), verdict(ash_get64(inode->ino) == ino));
	printf("generation     %" PRIx64 "\n", ash_get64(inode->generation));
	if (!ash_get32(inode->mode) && !ash_get32(inode->nlink))
		puts("state          free");
	print_inode_header(inode);
	print_fork("data fork      ", inode->data_kind, inode->data, sizeof(inode->data), ash_get64(inode->size));
	print_fork("attribute fork ", inode->attr_kind, inode->attr, sizeof(inode->attr), 0);
}

/* ---- Blocks with a header ---- */

static void print_super(const struct ctl_raw *raw, const struct ash_super *super)
{
	printf("version        %" PRIu32 "\n", ash_get32(super->version));
	print_uuid("UUID           ", super->uuid);
	fputs("label          ", stdout);
	print_name((const uint8_t *)super->label, strnlen(super->label, ASH_LABEL_SIZE));
	printf("\nfeatures       %" PRIx64 " %" PRIx64 " %" PRIx64 "\n", ash_get64(super->compat),
	       ash_get64(super->ro_compat), ash_get64(super->incompat));
	printf("blocks         %" PRIu64 " in %" PRIu32 " groups of %" PRIu32 "\n", ash_get64(super->block_count),
	       ash_get32(super->group_count), ash_get32(super->blocks_per_group));
	printf("group table    %" PRIu64 " + %" PRIu64 "\n", ash_get64(super->group_table_start),
	       ash_get64(super->group_table_blocks));
	printf("log            %" PRIu64 " + %" PRIu64 "\n", ash_get64(super->log_start), ash_get64(super->log_blocks));
	printf("inode runs     %" PRIu64 " of %" PRIu32 "\n", ash_get64(super->inode_runs),
	       ash_get32(super->inodes_per_run));
	printf("state          %" PRIx32 ", %" PRIu64 " errors\n", ash_get32(super->state),
	       ash_get64(super->error_count));
	print_inode(raw, &super->table_inode, ASH_INO_TABLE);
}

static void print_group_table(const struct ctl_raw *raw, const struct ash_group_table_block *table)
{
	uint64_t first = ash_get64(table->first_group), groups = ash_get32(raw->super->group_count);

	printf("first group    %" PRIu64 "\n", first);
	for (unsigned i = 0; i < ASH_GROUPS_PER_TABLE_BLOCK && first + i < groups; i++)
		printf("  group %" PRIu64 ": %" PRIu32 " free%s\n", first + i, ash_get32(table->free_blocks[i]),
		       ash_get32(table->flags[i]) & ASH_GROUP_UNINIT ? ", bitmap not written" : "");
}

static bool bit(const struct ash_bitmap_block *bitmap, unsigned i)
{
	return bitmap->bits[i / 8] >> (i % 8) & 1;
}

static void print_bitmap(const struct ash_bitmap_block *bitmap)
{
	unsigned used = 0, start = 0;

	printf("initialized    %" PRIu32 "\nin use         ", ash_get32(bitmap->initialized));
	for (unsigned i = 0; i < ASH_BITS_PER_BITMAP; i++) {
		bool set = bit(bitmap, i), last = i + 1 == ASH_BITS_PER_BITMAP || !bit(bitmap, i + 1);

		used += set;
		if (set && (i == 0 || !bit(bitmap, i - 1)))
			start = i;
		if (set && last)
			printf(start == i ? "%u " : "%u-%u ", start, i);
	}
	printf("\nbits           %u set, %u clear\n", used, ASH_BITS_PER_BITMAP - used);
}

static void print_log_control(const struct ash_log_control *control)
{
	printf("sequence       %" PRIu64 "\nepoch          %" PRIu64 " from position %" PRIu64 "\n",
	       ash_get64(control->sequence), ash_get64(control->epoch), ash_get64(control->epoch_position));
	printf("tail           position %" PRIu64 ", LSN %" PRIu64 ", checksum before %08" PRIx32 "\n",
	       ash_get64(control->tail_position), ash_get64(control->tail_lsn), ash_get32(control->tail_previous_crc));
	printf("clean          %" PRIu32 ": %" PRIu64 " free blocks, %" PRIu64 " inodes\n", ash_get32(control->clean),
	       ash_get64(control->free_blocks), ash_get64(control->used_inodes));
}

static void print_log_block(const struct ash_log_block *block)
{
	printf("epoch          %" PRIu64 "\npayload        %u bytes, first record at %u\n", ash_get64(block->epoch),
	       ash_get16(block->used), ash_get16(block->first_record));
	printf("predecessor    checksum %08" PRIx32 "\n", ash_get32(block->previous_crc));
}

static void print_typed_block(const struct ctl_raw *raw, const void *block, uint64_t address)
{
	const struct ash_block_header *header = block;

	printf("block          %" PRIu64 ": %s\n", address, ctl_block_type(ash_get32(header->magic)));
	print_header(raw, header, address);
	switch (ash_get32(header->magic)) {
	case ASH_MAGIC_SUPER:
		print_super(raw, block);
		break;
	case ASH_MAGIC_GROUP_TABLE:
		print_group_table(raw, block);
		break;
	case ASH_MAGIC_BLOCK_BITMAP:
	case ASH_MAGIC_INODE_BITMAP:
		print_bitmap(block);
		break;
	case ASH_MAGIC_TREE_NODE:
		print_node((const uint8_t *)block + offsetof(struct ash_tree_block, node), ASH_TREE_NODE_SIZE);
		break;
	case ASH_MAGIC_LOG_CONTROL:
		print_log_control(block);
		break;
	case ASH_MAGIC_LOG_BLOCK:
		print_log_block(block);
		break;
	}
}

/* ---- The command ---- */

static int load(const struct ctl_raw *raw, uint64_t address, void *block)
{
	const uint8_t *image = ash_overlay_block(raw->overlay, address);
	int result;

	if (address >= ash_get64(raw->super->block_count))
		return tool_error(-EINVAL, "block %" PRIu64 " is behind the volume's end", address);
	if (image) {
		memcpy(block, image, ASH_BLOCK_SIZE);
		return 1;
	}
	result = bdev_read(raw->dev, block, ASH_BLOCK_SIZE, address << ASH_BLOCK_SHIFT);
	return result ? tool_error(result, "block %" PRIu64 ": %s", address, strerror(-result)) : 0;
}

static int dump_block(const struct ctl *ctl, const struct ctl_raw *raw, uint64_t address, void *block)
{
	int result = load(raw, address, block);

	if (result < 0)
		return result;
	if (result)
		puts("content        newer than on the device: from the log");
	if (ctl->hexadecimal || !ctl_block_type(ash_get32(((struct ash_block_header *)block)->magic)))
		print_hex(block, ASH_BLOCK_SIZE);
	else
		print_typed_block(raw, block, address);
	return 0;
}

/* The child of an inner node that covers `key`, or the extent of a leaf: the last record with a key not above. */
static bool find_record(const uint8_t *node, size_t size, uint64_t key, uint64_t *found, const uint8_t **value)
{
	struct ash_node_header header;
	bool any = false;

	memcpy(&header, node, sizeof(header));
	for (unsigned i = 0; i < ash_get16(header.count) && sizeof(header) + 2 * i + 2 <= size; i++) {
		struct ash_tree_record record;
		ash_le16 slot;

		memcpy(&slot, node + sizeof(header) + 2 * i, sizeof(slot));
		if ((size_t)ash_get16(slot) + sizeof(record) + sizeof(uint64_t) > size)
			return false;
		memcpy(&record, node + ash_get16(slot), sizeof(record));
		if (any && ash_get64(record.key) > key)
			break;
		any = true;
		*found = ash_get64(record.key);
		*value = node + ash_get16(slot) + sizeof(record);
	}
	return any;
}

/* Block of the inode table's file block `key`: down the tree of the record in the superblock. */
static int table_block(const struct ctl_raw *raw, uint64_t key, uint8_t *block, uint64_t *out)
{
	const struct ash_super *super = raw->super;
	const uint8_t *node = super->table_inode.data, *value = NULL;
	size_t size = ASH_DATA_FORK_SIZE;
	struct ash_extent_value extent;
	uint64_t first;

	for (unsigned depth = 0; depth <= ASH_TREE_MAX_LEVEL; depth++) {
		ash_le16 level;
		ash_le64 child;

		memcpy(&level, node, sizeof(level));
		if (!find_record(node, size, key, &first, &value))
			return tool_error(-EUCLEAN, "the inode table's tree is damaged");
		if (ash_get16(level) == 0)
			break;
		memcpy(&child, value, sizeof(child));
		if (load(raw, ash_get64(child), block) < 0)
			return -EUCLEAN;
		node = block + offsetof(struct ash_tree_block, node);
		size = ASH_TREE_NODE_SIZE;
	}
	if ((size_t)(value - node) + sizeof(extent) > size)
		return tool_error(-EUCLEAN, "the inode table's tree is damaged");
	memcpy(&extent, value, sizeof(extent));
	if (key < first || key - first >= ash_get32(extent.count))
		return tool_error(-EINVAL, "the inode table has no such inode");
	*out = ash_get64(extent.start) + (key - first);
	return 0;
}

static int dump_inode(const struct ctl *ctl, struct ctl_raw *raw, uint64_t ino, uint8_t *block)
{
	uint64_t per_run = ash_get32(raw->super->inodes_per_run), address = 0, in_run;
	const uint8_t *super = ash_overlay_block(raw->overlay, 0), *record = (uint8_t *)&raw->super->table_inode;
	int result = 0;

	if (super) /* the table may have grown since block 0 was written */
		memcpy(raw->super, super, ASH_BLOCK_SIZE);
	if (per_run < ASH_INODES_PER_BLOCK || per_run > ASH_BITS_PER_BITMAP || ino > UINT64_MAX / 2)
		return tool_error(-EINVAL, "the inode table has no such inode");
	if (ino != ASH_INO_TABLE) {
		in_run = ino % per_run;
		result = table_block(
			raw, ino / per_run * (1 + per_run / ASH_INODES_PER_BLOCK) + 1 + in_run / ASH_INODES_PER_BLOCK,
			block, &address);
		if (!result)
			result = load(raw, address, block);
		record = block + in_run % ASH_INODES_PER_BLOCK * ASH_INODE_SIZE;
	}
	if (result < 0)
		return result;
	printf("at             block %" PRIu64 "%s\n", address, result ? ", content from the log" : "");
	if (ctl->hexadecimal)
		print_hex(record, ASH_INODE_SIZE);
	else
		print_inode(raw, (const struct ash_inode *)record, ino);
	return 0;
}

static int dump(const struct ctl *ctl, struct ctl_raw *raw, uint8_t *block)
{
	const char *what = ctl->arguments[1];
	uint64_t number;
	char *end;

	if (ctl_parse_inode(what, &number) == 0)
		return dump_inode(ctl, raw, number, block);
	if (strncmp(what, "block:", 6) == 0)
		what += 6;
	errno = 0;
	number = strtoull(what, &end, 10);
	if (errno || end == what || *end || !isdigit((unsigned char)*what))
		return tool_error(-EINVAL, "'%s': give a block number, or inode:N", ctl->arguments[1]);
	return dump_block(ctl, raw, number, block);
}

int ctl_dump(const struct ctl *ctl)
{
	struct ctl_raw raw;
	uint8_t *block;
	int result = ctl_open_raw(ctl->arguments[0], true, &raw);

	if (result)
		return result;
	block = bdev_buffer_alloc(ASH_BLOCK_SIZE);
	result = block ? dump(ctl, &raw, block) : tool_error(-ENOMEM, "out of memory");
	if (block)
		bdev_buffer_free(block, ASH_BLOCK_SIZE);
	ctl_close_raw(&raw);
	return result;
}
