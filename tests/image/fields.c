/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The table of all fields: see fields.h. */
#include "fields.h"

/* ---- The format, field by field: M(structure, member, kind, expect) ---- */

#define BLOCK_HEADER(M, s)          \
	M(s, magic, NUMBER, REPORT) \
	M(s, crc, CHECKSUM, REPORT) \
	M(s, address, BLOCK, REPORT) M(s, owner, INODE, REPORT) M(s, metadata_uuid, BYTES, REPORT)
#define INODE(M, s)                      \
	M(s, magic, NUMBER, REPORT)      \
	M(s, crc, CHECKSUM, REPORT)      \
	M(s, ino, INODE, REPORT)         \
	M(s, generation, NUMBER, BENIGN) \
	M(s, mode, NUMBER, ANY)          \
	M(s, nlink, NUMBER, REPORT)      \
	M(s, uid, NUMBER, BENIGN)        \
	M(s, gid, NUMBER, BENIGN)        \
	M(s, size, NUMBER, ANY)          \
	M(s, blocks, NUMBER, REPORT)     \
	M(s, atime, NUMBER, BENIGN)      \
	M(s, mtime, NUMBER, BENIGN)      \
	M(s, ctime, NUMBER, BENIGN)      \
	M(s, btime, NUMBER, BENIGN)      \
	M(s, atime_ns, NUMBER, ANY)      \
	M(s, mtime_ns, NUMBER, ANY)      \
	M(s, ctime_ns, NUMBER, ANY)      \
	M(s, btime_ns, NUMBER, ANY)      \
	M(s, rdev, NUMBER, BENIGN)       \
	M(s, parent, INODE, ANY)         \
	M(s, flags, NUMBER, ANY)         \
	M(s, data_kind, NUMBER, ANY)     \
	M(s, attr_kind, NUMBER, ANY)     \
	M(s, reserved, NUMBER, BENIGN)   \
	M(s, data, BYTES, ANY)           \
	M(s, attr, BYTES, ANY)
#define SUPER(M, s)                            \
	M(s, header, NESTED, ANY)              \
	M(s, volume_magic, BYTES, REPORT)      \
	M(s, version, NUMBER, ANY)             \
	M(s, block_shift, NUMBER, ANY)         \
	M(s, uuid, BYTES, BENIGN)              \
	M(s, label, BYTES, BENIGN)             \
	M(s, compat, NUMBER, BENIGN)           \
	M(s, ro_compat, NUMBER, ANY)           \
	M(s, incompat, NUMBER, ANY)            \
	M(s, block_count, BLOCK, ANY)          \
	M(s, group_count, NUMBER, REPORT)      \
	M(s, blocks_per_group, NUMBER, REPORT) \
	M(s, group_table_start, BLOCK, REPORT) \
	M(s, group_table_blocks, NUMBER, ANY)  \
	M(s, log_start, BLOCK, ANY)            \
	M(s, log_blocks, NUMBER, ANY)          \
	M(s, checksum_seed, NUMBER, REPORT)    \
	M(s, inodes_per_run, NUMBER, ANY)      \
	M(s, hash_key, BYTES, REPORT)          \
	M(s, created, NUMBER, BENIGN)          \
	M(s, error_count, NUMBER, BENIGN)      \
	M(s, error_time, NUMBER, BENIGN)       \
	M(s, state, NUMBER, BENIGN)            \
	M(s, reserved0, NUMBER, BENIGN)        \
	M(s, inode_runs, NUMBER, REPORT)       \
	M(s, reserved, BYTES, BENIGN)          \
	M(s, table_inode, NESTED, ANY)         \
	M(s, reserved2, BYTES, BENIGN)
#define BITMAP(M, s) \
	M(s, header, NESTED, ANY) M(s, initialized, NUMBER, ANY) M(s, reserved, BYTES, BENIGN) M(s, bits, BYTES, REPORT)
#define GROUP_TABLE(M, s)                 \
	M(s, header, NESTED, ANY)         \
	M(s, first_group, NUMBER, REPORT) \
	M(s, reserved, BYTES, BENIGN) M(s, flags, BYTES, REPORT) M(s, free_blocks, BYTES, REPORT)
#define NODE(M, s)                  \
	M(s, level, NUMBER, REPORT) \
	M(s, count, NUMBER, REPORT) M(s, heap_start, NUMBER, REPORT) M(s, heap_free, NUMBER, REPORT)
#define TREE_BLOCK(M, s) M(s, header, NESTED, ANY) M(s, node, NESTED, ANY)
#define RECORD(M, s) M(s, key, NUMBER, ANY) M(s, length, NUMBER, REPORT)
#define EXTENT(M, s) M(s, start, BLOCK, REPORT) M(s, count, NUMBER, REPORT) M(s, flags, NUMBER, ANY)
#define DIRENT(M, s) M(s, ino, INODE, REPORT) M(s, type, NUMBER, REPORT) M(s, name_length, NUMBER, REPORT)
#define XATTR(M, s)                       \
	M(s, name_length, NUMBER, REPORT) \
	M(s, kind, NUMBER, REPORT) M(s, reserved, NUMBER, ANY) M(s, value_length, NUMBER, REPORT)
#define EXTERNAL(M, s) M(s, value_crc, NUMBER, REPORT) M(s, extent_count, NUMBER, REPORT)
#define EXTERNAL_EXTENT(M, s) M(s, start, BLOCK, REPORT) M(s, count, NUMBER, REPORT)
#define LOG_CONTROL(M, s)                    \
	M(s, header, NESTED, ANY)            \
	M(s, sequence, NUMBER, ANY)          \
	M(s, epoch, NUMBER, ANY)             \
	M(s, tail_position, NUMBER, ANY)     \
	M(s, tail_lsn, NUMBER, ANY)          \
	M(s, tail_previous_crc, NUMBER, ANY) \
	M(s, clean, NUMBER, ANY)             \
	M(s, epoch_position, NUMBER, ANY)    \
	M(s, free_blocks, NUMBER, ANY)       \
	M(s, used_inodes, NUMBER, ANY)       \
	M(s, reserved, BYTES, BENIGN)
#define LOG_BLOCK(M, s)                     \
	M(s, header, NESTED, ANY)           \
	M(s, epoch, NUMBER, ANY)            \
	M(s, previous_crc, NUMBER, ANY)     \
	M(s, used, NUMBER, ANY)             \
	M(s, first_record, NUMBER, ANY)     \
	M(s, durable_position, NUMBER, ANY) \
	M(s, payload, BYTES, ANY)
#define LOG_RECORD(M, s) M(s, length, NUMBER, ANY) M(s, items, NUMBER, ANY) M(s, lsn, NUMBER, ANY)
#define LOG_ITEM(M, s)          \
	M(s, kind, NUMBER, ANY) \
	M(s, reserved, NUMBER, ANY) M(s, length, NUMBER, ANY) M(s, value, NUMBER, ANY) M(s, block, BLOCK, ANY)

/* Parts that have no name in the format, or end in a list. */
struct slot {
	ash_le16 offset;
};
struct child {
	ash_le64 block;
};
struct external_extent {
	ash_le64 start;
	ash_le32 count;
} __attribute__((packed, aligned(2)));
static_assert(sizeof(struct external_extent) == sizeof(((struct ash_xattr_external *)0)->extents[0]),
	      "list of extents");
#define SLOT(M, s) M(s, offset, NUMBER, REPORT)
#define CHILD(M, s) M(s, block, BLOCK, REPORT)

#define ROW(s, member, kind, expect) { #member, offsetof(s, member), sizeof(((s *)0)->member), F_##kind, expect },
#define PLUS_SIZE(s, member, kind, expect) +sizeof(((s *)0)->member)

#define TABLE(LIST, s, name)                                 \
	static const struct field name[] = { LIST(ROW, s) }; \
	static_assert((0 LIST(PLUS_SIZE, s)) == sizeof(s), "a field of " #s " is missing here")

TABLE(BLOCK_HEADER, struct ash_block_header, header_fields);
TABLE(INODE, struct ash_inode, inode_fields);
TABLE(SUPER, struct ash_super, super_fields);
TABLE(BITMAP, struct ash_bitmap_block, bitmap_fields);
TABLE(GROUP_TABLE, struct ash_group_table_block, group_table_fields);
TABLE(NODE, struct ash_node_header, node_fields);
TABLE(SLOT, struct slot, slot_fields);
TABLE(TREE_BLOCK, struct ash_tree_block, tree_block_fields);
TABLE(RECORD, struct ash_tree_record, record_fields);
TABLE(EXTENT, struct ash_extent_value, extent_fields);
TABLE(DIRENT, struct ash_dirent_value, dirent_fields);
TABLE(XATTR, struct ash_xattr_value, xattr_fields);
TABLE(EXTERNAL, struct ash_xattr_external, external_fields);
TABLE(EXTERNAL_EXTENT, struct external_extent, external_extent_fields);
TABLE(CHILD, struct child, child_fields);
TABLE(LOG_CONTROL, struct ash_log_control, log_control_fields);
TABLE(LOG_BLOCK, struct ash_log_block, log_block_fields);
TABLE(LOG_RECORD, struct ash_log_record, log_record_fields);
TABLE(LOG_ITEM, struct ash_log_item, log_item_fields);

#define STRUCTURE(type, fields, s)                                            \
	{                                                                     \
		type, fields, sizeof(fields) / sizeof((fields)[0]), sizeof(s) \
	}
const struct fields structures[STRUCTURES] = {
	[S_BLOCK_HEADER] = STRUCTURE("ash_block_header", header_fields, struct ash_block_header),
	[S_INODE] = STRUCTURE("ash_inode", inode_fields, struct ash_inode),
	[S_SUPER] = STRUCTURE("ash_super", super_fields, struct ash_super),
	[S_BITMAP] = STRUCTURE("ash_bitmap_block", bitmap_fields, struct ash_bitmap_block),
	[S_GROUP_TABLE] = STRUCTURE("ash_group_table_block", group_table_fields, struct ash_group_table_block),
	[S_NODE] = STRUCTURE("ash_node_header", node_fields, struct ash_node_header),
	[S_SLOT] = STRUCTURE(NULL, slot_fields, struct slot),
	[S_TREE_BLOCK] = STRUCTURE("ash_tree_block", tree_block_fields, struct ash_tree_block),
	[S_RECORD] = STRUCTURE("ash_tree_record", record_fields, struct ash_tree_record),
	[S_EXTENT] = STRUCTURE("ash_extent_value", extent_fields, struct ash_extent_value),
	[S_DIRENT] = STRUCTURE("ash_dirent_value", dirent_fields, struct ash_dirent_value),
	[S_XATTR] = STRUCTURE("ash_xattr_value", xattr_fields, struct ash_xattr_value),
	[S_EXTERNAL] = STRUCTURE("ash_xattr_external", external_fields, struct ash_xattr_external),
	[S_EXTERNAL_EXTENT] = STRUCTURE(NULL, external_extent_fields, struct external_extent),
	[S_CHILD] = STRUCTURE(NULL, child_fields, struct child),
	[S_LOG_CONTROL] = STRUCTURE("ash_log_control", log_control_fields, struct ash_log_control),
	[S_LOG_BLOCK] = STRUCTURE("ash_log_block", log_block_fields, struct ash_log_block),
	[S_LOG_RECORD] = STRUCTURE("ash_log_record", log_record_fields, struct ash_log_record),
	[S_LOG_ITEM] = STRUCTURE("ash_log_item", log_item_fields, struct ash_log_item),
};

/* ---- Values ---- */

const char *const change_names[CHANGES] = {
	[CHANGE_ZERO] = "zeroed",           [CHANGE_ONES] = "all ones",        [CHANGE_PLUS_ONE] = "plus 1",
	[CHANGE_MINUS_ONE] = "minus 1",     [CHANGE_PLUS_THREE] = "plus 3",    [CHANGE_HIGH_BIT] = "highest bit",
	[CHANGE_RUBBISH] = "rubbish",       [CHANGE_SELF] = "itself",          [CHANGE_NEIGHBOUR] = "its neighbour's",
	[CHANGE_OTHER] = "another owner's", [CHANGE_OUTSIDE] = "just outside", [CHANGE_FAR] = "far outside",
	[CHANGE_LOG] = "in the log",        [CHANGE_BITMAP] = "a bitmap",      [CHANGE_TABLE] = "in the inode table",
};

/* Little-endian: the first eight bytes of longer fields count as the number. */
static void add(uint8_t *bytes, uint32_t size, int what)
{
	uint32_t length = size < 8 ? size : 8;

	for (uint32_t i = 0; i < length && what; i++) {
		int sum = bytes[i] + what;

		bytes[i] = (uint8_t)sum;
		what = sum < 0 ? -1 : sum > 255 ? 1 : 0;
	}
}

bool change_bytes(uint8_t *bytes, uint32_t size, enum change change)
{
	uint8_t old[ASH_BLOCK_SIZE];

	memcpy(old, bytes, size);
	switch (change) {
	case CHANGE_ZERO:
		memset(bytes, 0, size);
		break;
	case CHANGE_ONES:
		memset(bytes, 0xff, size);
		break;
	case CHANGE_PLUS_ONE:
		add(bytes, size, 1);
		break;
	case CHANGE_MINUS_ONE:
		add(bytes, size, -1);
		break;
	case CHANGE_PLUS_THREE:
		add(bytes, size, 3);
		break;
	case CHANGE_HIGH_BIT:
		bytes[size - 1] ^= 0x80;
		break;
	case CHANGE_RUBBISH:
		for (uint32_t i = 0; i < size; i++)
			bytes[i] = (uint8_t)(i * 197 + (i >> 5) + 0x5b);
		break;
	default:
		break;
	}
	return memcmp(old, bytes, size) != 0;
}
