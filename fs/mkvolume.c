/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Making an empty volume.
 *
 * Concept: the whole layout is decided first, as numbers (struct layout); then it is written. What is
 * in use is a short list of extents: group table, log, first run of the inode table, backup at the very
 * end. A group that none of them touches is left UNINIT: its bitmap is not written, so that making a
 * volume takes a few dozen writes whatever its size.
 *
 * Order: the old superblock is wiped first and the new one is written last, after a flush. A crash in
 * between leaves a device without a superblock, never half of a volume that looks whole.
 *
 * Rules: no lock, no thread, nothing read from the device. The caller has looked at what is there and
 * holds the owner lock. Every write is checked, and the first failure ends the work.
 */
#include <ashlar/ashlar.h>
#include <ashlar/format.h>

#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/random.h>

#include "checksum.h"
#include "mkvolume.h"

#define MIB_BLOCKS ((1u << 20) >> ASH_BLOCK_SHIFT)
#define FIRST_EPOCH 1u
#define DEFAULT_LOG_MAX_BLOCKS (64u * MIB_BLOCKS)
/* Foreign signatures lie at the beginning and at the end of a device; both are zeroed. */
#define WIPE_BLOCKS MIB_BLOCKS

struct extent {
	uint64_t start, count; /* blocks */
};

enum used { USED_TABLE, USED_LOG, USED_RUN, USED_LAST, USED_COUNT };

struct layout {
	uint64_t block_count;
	uint64_t group_count;
	uint32_t inodes_per_run;
	struct extent used[USED_COUNT]; /* besides the superblocks and bitmaps at the start of each group */
	uint64_t free_blocks;
};

struct identity {
	uint8_t uuid[16], metadata_uuid[16], hash_key[16];
	uint32_t checksum_seed;
};

struct maker {
	struct bdev *dev; /* NULL while planning */
	const char *name; /* of the device, for messages */
	uint64_t device_blocks;
	const struct ash_mkfs_options *options;
	struct layout layout;
	struct identity identity;
	int64_t now;    /* seconds */
	uint8_t *block; /* one block of scratch memory, aligned for the device */
	char *error;    /* BDEV_ERROR_TEXT bytes or NULL */
};

__attribute__((format(printf, 3, 4))) static int fail(struct maker *maker, int code, const char *format, ...)
{
	va_list arguments;

	if (maker->error) {
		va_start(arguments, format);
		vsnprintf(maker->error, BDEV_ERROR_TEXT, format, arguments);
		va_end(arguments);
	}
	return code;
}

static uint64_t round_up_div(uint64_t value, uint64_t unit)
{
	return value / unit + (value % unit != 0);
}

/* ---- Layout ---- */

static uint64_t group_length(const struct layout *layout, uint64_t group)
{
	uint64_t rest = layout->block_count - ash_group_start(group);

	return rest < ASH_BLOCKS_PER_GROUP ? rest : ASH_BLOCKS_PER_GROUP;
}

/* First block of a group behind its superblock copy and bitmap. */
static uint64_t group_data_start(uint64_t group)
{
	return ash_group_bitmap(group) + 1;
}

static bool extent_in_group(const struct extent *extent, uint64_t group)
{
	uint64_t start = ash_group_start(group);

	return extent->count && extent->start < start + ASH_BLOCKS_PER_GROUP && extent->start + extent->count > start;
}

/* Groups with more than their fixed blocks in use have a bitmap on disk. */
static bool group_is_initialized(const struct layout *layout, uint64_t group)
{
	for (unsigned i = 0; i < USED_COUNT; i++)
		if (extent_in_group(&layout->used[i], group))
			return true;
	return false;
}

/*
 * Put `count` contiguous blocks at *cursor or, when its group has no room for them, at the start of the
 * next group that has. The last block of the volume is kept for the backup.
 */
static int place(const struct layout *layout, uint64_t *cursor, uint64_t count, struct extent *out)
{
	for (uint64_t group = *cursor / ASH_BLOCKS_PER_GROUP; group < layout->group_count; group++) {
		uint64_t start = group_data_start(group);
		uint64_t end = ash_group_start(group) + group_length(layout, group);

		if (group + 1 == layout->group_count)
			end--;
		if (start < *cursor)
			start = *cursor;
		if (start + count <= end) {
			*out = (struct extent){ start, count };
			*cursor = start + count;
			return 0;
		}
	}
	return -ENOSPC;
}

static uint32_t default_inodes_per_run(uint64_t blocks)
{
	if (blocks < 64u * MIB_BLOCKS)
		return 256;
	return blocks < 1024u * MIB_BLOCKS ? 2048 : 16384;
}

/* A 64th of the volume, 1 to 64 MiB, not over a quarter unless the least possible log is. */
static uint64_t default_log_blocks(uint64_t blocks)
{
	uint64_t log = blocks / 64;

	if (log > DEFAULT_LOG_MAX_BLOCKS)
		log = DEFAULT_LOG_MAX_BLOCKS;
	if (log > blocks / 4)
		log = blocks / 4;
	return log < ASH_LOG_MIN_BLOCKS ? ASH_LOG_MIN_BLOCKS : log;
}

/* Twice the table that the groups need now, so that the volume can grow; one block holds 504 groups. */
static uint64_t table_blocks(uint64_t groups)
{
	return round_up_div(2 * groups, ASH_GROUPS_PER_TABLE_BLOCK);
}

static int choose_size(struct maker *maker)
{
	uint64_t device = maker->device_blocks;
	uint64_t blocks = maker->options->block_count ? maker->options->block_count : device;
	struct layout *layout = &maker->layout;

	if (blocks > device)
		return fail(maker, -EINVAL,
			    "%s: holds %" PRIu64 " blocks of 4 KiB, fewer than the %" PRIu64 " asked for", maker->name,
			    device, blocks);
	if (blocks % ASH_BLOCKS_PER_GROUP < ASH_MIN_GROUP_BLOCKS && blocks > ASH_BLOCKS_PER_GROUP)
		blocks -= blocks % ASH_BLOCKS_PER_GROUP;
	if (blocks < ASH_VOLUME_MIN_BLOCKS)
		return fail(maker, -EINVAL, "%s: too small: a volume needs at least %u MiB", maker->name,
			    ASH_VOLUME_MIN_BLOCKS / MIB_BLOCKS);
	if (blocks > (uint64_t)UINT32_MAX * ASH_BLOCKS_PER_GROUP)
		return fail(maker, -EFBIG, "%s: larger than the format can hold", maker->name);
	layout->block_count = blocks;
	layout->group_count = round_up_div(blocks, ASH_BLOCKS_PER_GROUP);
	return 0;
}

static int choose_layout(struct maker *maker)
{
	const struct ash_mkfs_options *options = maker->options;
	struct layout *layout = &maker->layout;
	uint64_t log = options->log_blocks ? options->log_blocks : default_log_blocks(layout->block_count);
	uint32_t inodes = options->inodes_per_run;
	uint64_t cursor = group_data_start(0);

	if (log < ASH_LOG_MIN_BLOCKS || log > ASH_LOG_MAX_BLOCKS)
		return fail(maker, -EINVAL, "the log must have %u to %u blocks of 4 KiB, not %" PRIu64,
			    ASH_LOG_MIN_BLOCKS, ASH_LOG_MAX_BLOCKS, log);
	if (!inodes)
		inodes = default_inodes_per_run(layout->block_count);
	if (inodes % ASH_INODES_PER_BLOCK || inodes < 2 * ASH_INO_FIRST_FREE || inodes > ASH_BITS_PER_BITMAP)
		return fail(maker, -EINVAL, "inodes per run must be a multiple of %u from %u to %u, not %u",
			    ASH_INODES_PER_BLOCK, 2 * ASH_INO_FIRST_FREE, ASH_BITS_PER_BITMAP, inodes);
	layout->inodes_per_run = inodes;
	layout->used[USED_LAST] = (struct extent){ layout->block_count - 1, 1 };
	if (place(layout, &cursor, table_blocks(layout->group_count), &layout->used[USED_TABLE]) ||
	    layout->used[USED_TABLE].start >= ASH_BLOCKS_PER_GROUP)
		return fail(maker, -EFBIG, "%s: the group table does not fit the first group", maker->name);
	if (place(layout, &cursor, log, &layout->used[USED_LOG]))
		return fail(maker, -ENOSPC,
			    "%s: no room for a log of %" PRIu64 " blocks of 4 KiB: choose a smaller one", maker->name,
			    log);
	if (place(layout, &cursor, 1 + inodes / ASH_INODES_PER_BLOCK, &layout->used[USED_RUN]))
		return fail(maker, -ENOSPC, "%s: no room for the inode table behind the log: choose a smaller log",
			    maker->name);
	return 0;
}

/* ---- Identity ---- */

static int random_bytes(void *buffer, size_t length)
{
	uint8_t *bytes = buffer;

	while (length) {
		ssize_t got = getrandom(bytes, length, 0);

		if (got < 0 && errno != EINTR)
			return -errno;
		if (got > 0) {
			bytes += got;
			length -= (size_t)got;
		}
	}
	return 0;
}

/* SplitMix64 over the four words of a test's seed: reproducible, not secret. */
static void seeded_bytes(const uint8_t seed[32], void *buffer, size_t length)
{
	uint8_t *bytes = buffer;
	uint64_t words[4];

	memcpy(words, seed, sizeof(words));
	for (size_t i = 0; i < length; i++) {
		uint64_t z = words[i % 4] = le64toh(words[i % 4]) + UINT64_C(0x9e3779b97f4a7c15) * (i + 1);

		z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
		z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
		bytes[i] = (uint8_t)(z ^ (z >> 31));
	}
}

static void make_uuid_v4(uint8_t uuid[16])
{
	uuid[6] = (uint8_t)((uuid[6] & 0x0f) | 0x40);
	uuid[8] = (uint8_t)((uuid[8] & 0x3f) | 0x80);
}

static int choose_identity(struct maker *maker)
{
	const struct ash_mkfs_options *options = maker->options;
	struct identity *identity = &maker->identity;
	int result = 0;

	memset(identity, 0, sizeof(*identity));
	if (options->seed)
		seeded_bytes(options->seed, identity, sizeof(*identity));
	else
		result = random_bytes(identity, sizeof(*identity));
	if (result)
		return fail(maker, result, "no random numbers: %s", strerror(-result));
	make_uuid_v4(identity->uuid);
	make_uuid_v4(identity->metadata_uuid);
	if (options->uuid)
		memcpy(identity->uuid, options->uuid, sizeof(identity->uuid));
	maker->now = options->now ? options->now : (int64_t)time(NULL);
	return 0;
}

/* ---- Encoding ---- */

static void begin_block(const struct maker *maker, void *block, uint32_t magic, uint64_t address, uint64_t owner)
{
	struct ash_block_header *header = block;

	memset(block, 0, ASH_BLOCK_SIZE);
	header->magic = ash_put32(magic);
	header->address = ash_put64(address);
	header->owner = ash_put64(owner);
	memcpy(header->metadata_uuid, maker->identity.metadata_uuid, sizeof(header->metadata_uuid));
}

static void seal_block(uint32_t seed, void *block)
{
	struct ash_block_header *header = block;

	header->crc = ash_put32(ash_block_crc(seed, block));
}

static void seal_inode(const struct maker *maker, struct ash_inode *inode)
{
	inode->crc = ash_put32(ash_inode_crc(maker->identity.checksum_seed, inode));
}

static void set_bits(uint8_t *bits, uint64_t first, uint64_t count)
{
	for (uint64_t i = first; i < first + count; i++)
		bits[i / 8] |= (uint8_t)(1u << (i % 8));
}

static void encode_inode(const struct maker *maker, struct ash_inode *inode, uint64_t ino)
{
	memset(inode, 0, sizeof(*inode));
	inode->magic = ash_put32(ASH_MAGIC_INODE);
	inode->ino = ash_put64(ino);
	inode->generation = ash_put64((uint64_t)FIRST_EPOCH << 32 | (ino + 1));
	inode->atime = inode->mtime = inode->ctime = inode->btime = ash_put64((uint64_t)maker->now);
}

/* A leaf root that holds one extent. */
static void encode_extent_root(uint8_t fork[ASH_DATA_FORK_SIZE], const struct extent *extent)
{
	struct ash_node_header *node = (void *)fork;
	struct ash_extent_value value = { ash_put64(extent->start), ash_put32((uint32_t)extent->count), ash_put32(0) };
	struct ash_tree_record record = { ash_put64(0), ash_put16(sizeof(value)) };
	uint16_t offset = ASH_DATA_FORK_SIZE - sizeof(record) - sizeof(value);
	ash_le16 slot = ash_put16(offset);

	node->count = ash_put16(1);
	node->heap_start = ash_put16(offset);
	memcpy(fork + sizeof(*node), &slot, sizeof(slot));
	memcpy(fork + offset, &record, sizeof(record));
	memcpy(fork + offset + sizeof(record), &value, sizeof(value));
}

static void encode_table_inode(const struct maker *maker, struct ash_inode *inode)
{
	const struct extent *run = &maker->layout.used[USED_RUN];

	encode_inode(maker, inode, ASH_INO_TABLE);
	inode->nlink = ash_put32(1);
	inode->size = ash_put64(run->count << ASH_BLOCK_SHIFT);
	inode->blocks = ash_put64(run->count);
	inode->data_kind = ASH_FORK_TREE;
	encode_extent_root(inode->data, run);
	seal_inode(maker, inode);
}

static void encode_root(const struct maker *maker, struct ash_inode *inode)
{
	uint32_t mode = maker->options->root_mode ? maker->options->root_mode & 07777u : 0755u;

	encode_inode(maker, inode, ASH_INO_ROOT);
	inode->mode = ash_put32(S_IFDIR | mode);
	inode->nlink = ash_put32(2);
	inode->uid = ash_put32(maker->options->root_uid);
	inode->gid = ash_put32(maker->options->root_gid);
	inode->parent = ash_put64(ASH_INO_ROOT);
	seal_inode(maker, inode);
}

static void encode_super_geometry(const struct layout *layout, struct ash_super *super)
{
	super->block_count = ash_put64(layout->block_count);
	super->group_count = ash_put32((uint32_t)layout->group_count);
	super->blocks_per_group = ash_put32(ASH_BLOCKS_PER_GROUP);
	super->group_table_start = ash_put64(layout->used[USED_TABLE].start);
	super->group_table_blocks = ash_put64(layout->used[USED_TABLE].count);
	super->log_start = ash_put64(layout->used[USED_LOG].start);
	super->log_blocks = ash_put64(layout->used[USED_LOG].count);
	super->inodes_per_run = ash_put32(layout->inodes_per_run);
	super->inode_runs = ash_put64(1);
}

static void encode_super(const struct maker *maker, struct ash_super *super, uint64_t address)
{
	const struct identity *identity = &maker->identity;
	const char *label = maker->options->label;

	begin_block(maker, super, ASH_MAGIC_SUPER, address, 0);
	memcpy(super->volume_magic, ASH_VOLUME_MAGIC, sizeof(super->volume_magic));
	super->version = ash_put32(ASH_FORMAT_VERSION);
	super->block_shift = ash_put32(ASH_BLOCK_SHIFT);
	memcpy(super->uuid, identity->uuid, sizeof(super->uuid));
	memcpy(super->hash_key, identity->hash_key, sizeof(super->hash_key));
	super->checksum_seed = ash_put32(identity->checksum_seed);
	super->created = ash_put64((uint64_t)maker->now);
	if (label)
		memcpy(super->label, label, strlen(label));
	encode_super_geometry(&maker->layout, super);
	encode_table_inode(maker, &super->table_inode);
	seal_block(0, super);
}

/* Bits of a group: superblock copy and bitmap, what the used extents cover, what lies behind the volume's end. */
static void encode_group_bits(const struct layout *layout, uint64_t group, uint8_t *bits)
{
	uint64_t start = ash_group_start(group), length = group_length(layout, group);

	set_bits(bits, 0, group_data_start(group) - start);
	set_bits(bits, length, ASH_BITS_PER_BITMAP - length);
	for (unsigned i = 0; i < USED_COUNT; i++)
		if (extent_in_group(&layout->used[i], group)) /* no extent crosses a group's end: see place() */
			set_bits(bits, layout->used[i].start - start, layout->used[i].count);
}

static uint32_t group_free_blocks(const struct layout *layout, uint64_t group)
{
	uint64_t used = group_data_start(group) - ash_group_start(group);

	for (unsigned i = 0; i < USED_COUNT; i++)
		if (extent_in_group(&layout->used[i], group))
			used += layout->used[i].count;
	return (uint32_t)(group_length(layout, group) - used);
}

static void count_free_blocks(struct layout *layout)
{
	layout->free_blocks = 0;
	for (uint64_t group = 0; group < layout->group_count; group++)
		layout->free_blocks += group_free_blocks(layout, group);
}

static void encode_table_block(const struct maker *maker, void *block, uint64_t index)
{
	const struct layout *layout = &maker->layout;
	uint64_t first = index * ASH_GROUPS_PER_TABLE_BLOCK;
	struct ash_group_table_block *table = block;

	begin_block(maker, block, ASH_MAGIC_GROUP_TABLE, layout->used[USED_TABLE].start + index, 0);
	table->first_group = ash_put64(first);
	for (unsigned i = 0; i < ASH_GROUPS_PER_TABLE_BLOCK && first + i < layout->group_count; i++) {
		bool initialized = group_is_initialized(layout, first + i);

		table->flags[i] = ash_put32(initialized ? 0 : ASH_GROUP_UNINIT);
		table->free_blocks[i] = ash_put32(group_free_blocks(layout, first + i));
	}
	seal_block(maker->identity.checksum_seed, block);
}

/* ---- Writing ---- */

static int write_blocks(struct maker *maker, const void *data, uint64_t first, uint64_t count)
{
	int result = bdev_write(maker->dev, data, count << ASH_BLOCK_SHIFT, first << ASH_BLOCK_SHIFT, 0);

	if (result)
		return fail(maker, result, "%s: writing block %" PRIu64 ": %s", maker->name, first, strerror(-result));
	return 0;
}

static int zero_blocks(struct maker *maker, uint64_t first, uint64_t count)
{
	int result = bdev_write_zeroes(maker->dev, first << ASH_BLOCK_SHIFT, count << ASH_BLOCK_SHIFT);

	if (result)
		return fail(maker, result, "%s: zeroing block %" PRIu64 ": %s", maker->name, first, strerror(-result));
	return 0;
}

static int flush(struct maker *maker)
{
	int result = bdev_flush(maker->dev);

	return result ? fail(maker, result, "%s: flush: %s", maker->name, strerror(-result)) : 0;
}

/* The rest of the device, too short for a group or a block: other formats keep their data at the very end. */
static int wipe_device_end(struct maker *maker)
{
	const struct bdev_geometry *geometry = bdev_geometry(maker->dev);
	uint64_t end = geometry->size - geometry->size % geometry->logical_block;
	uint64_t start = maker->layout.block_count << ASH_BLOCK_SHIFT;
	int result;

	if (maker->options->block_count || start >= end)
		return 0;
	result = bdev_write_zeroes(maker->dev, start, end - start);
	return result ? fail(maker, result, "%s: zeroing the end: %s", maker->name, strerror(-result)) : 0;
}

/*
 * Block 0 goes first, durably; then what other formats keep at both ends of a device, and the content. With a size
 * asked for, only the volume's own range is touched. A discard is advice: what refuses it may be full of old data.
 */
static int wipe(struct maker *maker)
{
	uint64_t blocks = maker->layout.block_count;
	uint64_t ends = blocks / 2 < WIPE_BLOCKS ? blocks / 2 : WIPE_BLOCKS;
	int result;

	memset(maker->block, 0, ASH_BLOCK_SIZE);
	result = write_blocks(maker, maker->block, 0, 1);
	if (!result)
		result = flush(maker);
	if (!result && !maker->options->no_discard && bdev_geometry(maker->dev)->discard)
		bdev_discard(maker->dev, 0, blocks << ASH_BLOCK_SHIFT);
	if (!result)
		result = zero_blocks(maker, 0, ends);
	if (!result)
		result = zero_blocks(maker, blocks - ends, ends);
	return result ? result : wipe_device_end(maker);
}

static int write_group_table(struct maker *maker)
{
	const struct extent *table = &maker->layout.used[USED_TABLE];

	for (uint64_t i = 0; i < table->count; i++) {
		int result;

		encode_table_block(maker, maker->block, i);
		result = write_blocks(maker, maker->block, table->start + i, 1);
		if (result)
			return result;
	}
	return 0;
}

static int write_group_bitmap(struct maker *maker, uint64_t group)
{
	struct ash_bitmap_block *bitmap = (void *)maker->block;

	begin_block(maker, bitmap, ASH_MAGIC_BLOCK_BITMAP, ash_group_bitmap(group), group);
	encode_group_bits(&maker->layout, group, bitmap->bits);
	seal_block(maker->identity.checksum_seed, bitmap);
	return write_blocks(maker, bitmap, ash_group_bitmap(group), 1);
}

static int write_group_bitmaps(struct maker *maker)
{
	int result = 0;

	for (uint64_t group = 0; group < maker->layout.group_count && !result; group++)
		if (group_is_initialized(&maker->layout, group))
			result = write_group_bitmap(maker, group);
	return result;
}

/* Both control blocks say: clean, nothing to replay. The first log block is zeroed: no record of an earlier life. */
static int write_log(struct maker *maker)
{
	const struct layout *layout = &maker->layout;
	uint64_t start = layout->used[USED_LOG].start;
	struct ash_log_control *control = (void *)maker->block;

	for (unsigned i = 0; i < 2; i++) {
		int result;

		begin_block(maker, control, ASH_MAGIC_LOG_CONTROL, start + i, 0);
		control->sequence = ash_put64(1 + i);
		control->epoch = ash_put64(FIRST_EPOCH);
		control->clean = ash_put32(1);
		control->free_blocks = ash_put64(layout->free_blocks);
		control->used_inodes = ash_put64(ASH_INO_FIRST_FREE); /* the bits that are set, reserved ones too */
		seal_block(maker->identity.checksum_seed, control);
		result = write_blocks(maker, control, start + i, 1);
		if (result)
			return result;
	}
	memset(maker->block, 0, ASH_BLOCK_SIZE);
	return write_blocks(maker, maker->block, start + 2, 1);
}

/* First run of the inode table: its bitmap, and the only inode block that counts as initialized. */
static int write_inode_run(struct maker *maker)
{
	uint64_t start = maker->layout.used[USED_RUN].start;
	struct ash_bitmap_block *bitmap = (void *)maker->block;
	struct ash_inode *records = (void *)maker->block;
	int result;

	begin_block(maker, bitmap, ASH_MAGIC_INODE_BITMAP, start, 0);
	bitmap->initialized = ash_put32(1);
	set_bits(bitmap->bits, 0, ASH_INO_FIRST_FREE);
	seal_block(maker->identity.checksum_seed, bitmap);
	result = write_blocks(maker, bitmap, start, 1);
	if (result)
		return result;
	memset(maker->block, 0, ASH_BLOCK_SIZE);
	encode_root(maker, &records[ASH_INO_ROOT]);
	return write_blocks(maker, records, start + 1, 1);
}

static int write_super(struct maker *maker, uint64_t address)
{
	encode_super(maker, (void *)maker->block, address);
	return write_blocks(maker, maker->block, address, 1);
}

static int write_backups(struct maker *maker)
{
	int result = 0;

	for (uint64_t group = 1; group < maker->layout.group_count && !result; group++)
		if (ash_group_has_super(group))
			result = write_super(maker, ash_group_start(group));
	return result ? result : write_super(maker, maker->layout.block_count - 1);
}

static int write_volume(struct maker *maker)
{
	static int (*const steps[])(struct maker *) = {
		wipe, write_group_table, write_group_bitmaps, write_log, write_inode_run, write_backups, flush,
	};

	for (unsigned i = 0; i < sizeof(steps) / sizeof(steps[0]); i++) {
		int result = steps[i](maker);

		if (result)
			return result;
	}
	return 0;
}

static int plan(struct maker *maker)
{
	int result;

	if (maker->options->label && strlen(maker->options->label) > ASH_LABEL_SIZE)
		return fail(maker, -E2BIG, "the label is longer than %u bytes", ASH_LABEL_SIZE);
	result = choose_size(maker);
	if (!result)
		result = choose_layout(maker);
	if (!result)
		count_free_blocks(&maker->layout);
	return result;
}

static const struct ash_mkfs_options default_options;

int ash_mkfs_plan(const char *name, uint64_t device_blocks, const struct ash_mkfs_options *options,
		  struct ash_mkfs_plan *out, char *error)
{
	struct maker maker = {
		.name = name,
		.device_blocks = device_blocks,
		.options = options ? options : &default_options,
		.error = error,
	};
	const struct layout *layout = &maker.layout;
	int result = plan(&maker);

	if (result)
		return result;
	*out = (struct ash_mkfs_plan){
		.block_count = layout->block_count,
		.group_count = layout->group_count,
		.group_table_start = layout->used[USED_TABLE].start,
		.group_table_blocks = layout->used[USED_TABLE].count,
		.log_start = layout->used[USED_LOG].start,
		.log_blocks = layout->used[USED_LOG].count,
		.inodes_per_run = layout->inodes_per_run,
		.free_blocks = layout->free_blocks,
	};
	return 0;
}

int ash_mkfs(struct bdev *dev, const struct ash_mkfs_options *options, char *error)
{
	struct maker maker = {
		.dev = dev,
		.name = bdev_name(dev),
		.device_blocks = bdev_geometry(dev)->size >> ASH_BLOCK_SHIFT,
		.options = options ? options : &default_options,
		.error = error,
	};
	int result;

	if (bdev_geometry(dev)->read_only)
		return fail(&maker, -EROFS, "%s: read-only device", maker.name);
	result = plan(&maker);
	if (!result)
		result = choose_identity(&maker);
	if (result)
		return result;
	maker.block = bdev_buffer_alloc(ASH_BLOCK_SIZE);
	if (!maker.block)
		return fail(&maker, -ENOMEM, "out of memory");
	result = write_volume(&maker);
	if (!result)
		result = write_super(&maker, 0);
	if (!result)
		result = flush(&maker);
	bdev_buffer_free(maker.block, ASH_BLOCK_SIZE);
	return result;
}
