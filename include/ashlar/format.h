/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * On-disk format, version 1. docs/FORMAT.md is the text that goes with it.
 *
 * Everything is little-endian and kept in distinct types, so that a raw field cannot be used as a
 * number by accident. Block addresses are 64-bit, in units of ASH_BLOCK_SIZE, from the volume start.
 * Every metadata block begins with struct ash_block_header, except blocks of the inode table, whose
 * 512-byte records carry number and checksum each (they are changed by many owners at once).
 */
#ifndef ASHLAR_FORMAT_H
#define ASHLAR_FORMAT_H

#include <assert.h>
#include <endian.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/stat.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct {
	uint16_t raw;
} ash_le16;
typedef struct {
	uint32_t raw;
} ash_le32;
typedef struct {
	uint64_t raw;
} ash_le64;

static inline uint16_t ash_get16(ash_le16 v)
{
	return le16toh(v.raw);
}
static inline uint32_t ash_get32(ash_le32 v)
{
	return le32toh(v.raw);
}
static inline uint64_t ash_get64(ash_le64 v)
{
	return le64toh(v.raw);
}
static inline ash_le16 ash_put16(uint16_t v)
{
	return (ash_le16){ htole16(v) };
}
static inline ash_le32 ash_put32(uint32_t v)
{
	return (ash_le32){ htole32(v) };
}
static inline ash_le64 ash_put64(uint64_t v)
{
	return (ash_le64){ htole64(v) };
}

#define ASH_BLOCK_SIZE 4096u
#define ASH_BLOCK_SHIFT 12u
#define ASH_FORMAT_VERSION 1u
#define ASH_VOLUME_MAGIC "ASHLARFS" /* 8 bytes, no NUL */

/* Block types: the magic of a block header. Written as text in little-endian order. */
#define ASH_MAGIC_SUPER 0x42535341u        /* "ASSB" */
#define ASH_MAGIC_GROUP_TABLE 0x54475341u  /* "ASGT" */
#define ASH_MAGIC_BLOCK_BITMAP 0x42425341u /* "ASBB" */
#define ASH_MAGIC_INODE_BITMAP 0x42495341u /* "ASIB" */
#define ASH_MAGIC_TREE_NODE 0x4e545341u    /* "ASTN" */
#define ASH_MAGIC_LOG_CONTROL 0x434c5341u  /* "ASLC" */
#define ASH_MAGIC_LOG_BLOCK 0x424c5341u    /* "ASLB" */
#define ASH_MAGIC_INODE 0x4e495341u        /* "ASIN": an inode record, not a block */

/*
 * `crc` is CRC32C over the whole block with the crc field as zero, started with the volume's
 * `checksum_seed` (the superblock's own starts with 0, since the seed is inside it). In a group table
 * block it ends before `free_blocks`: see struct ash_group_table_block.
 */
struct ash_block_header {
	ash_le32 magic;
	ash_le32 crc;
	ash_le64 address;          /* own block number; of a backup superblock: its own place */
	ash_le64 owner;            /* tree node: inode number; bitmap: group or run; else 0 */
	uint8_t metadata_uuid[16]; /* fixed for the life of the volume */
};
static_assert(sizeof(struct ash_block_header) == 40, "block header");

/* ---- Inodes ---- */

#define ASH_INODE_SIZE 512u
#define ASH_INODES_PER_BLOCK (ASH_BLOCK_SIZE / ASH_INODE_SIZE)
#define ASH_INO_TABLE 0u /* the inode table itself; its record lives in the superblock */
#define ASH_INO_ROOT 1u
#define ASH_INO_FIRST_FREE 8u /* 2-7 are reserved */

#define ASH_FORK_AREA 384u /* bytes: data fork followed by attribute fork */
#define ASH_DATA_FORK_SIZE 256u
#define ASH_ATTR_FORK_SIZE 128u

enum ash_fork_kind {
	ASH_FORK_EMPTY = 0,  /* no content */
	ASH_FORK_INLINE = 1, /* data fork: `size` bytes of file content or symlink target */
	ASH_FORK_TREE = 2,   /* a tree root node (struct ash_node_header) of any level; level 0 is a record list */
};

/* ash_inode.flags: the values of FS_*_FL of <linux/fs.h>, so that chattr needs no mapping */
#define ASH_INODE_SYNC 0x00000008u
#define ASH_INODE_IMMUTABLE 0x00000010u
#define ASH_INODE_APPEND 0x00000020u
#define ASH_INODE_NODUMP 0x00000040u
#define ASH_INODE_NOATIME 0x00000080u
#define ASH_INODE_USER_FLAGS 0x000000f8u

struct ash_inode {
	ash_le32 magic; /* ASH_MAGIC_INODE; a free record is all zeroes or keeps its last content with nlink 0 and mode 0 */
	ash_le32 crc; /* CRC32C of the record, crc field as zero, seeded; set when the block goes home */
	ash_le64 ino;
	ash_le64 generation; /* mount epoch << 32 | counter + epoch * 0x9e3779b1: never equal for two lives of one number */
	ash_le32 mode;
	ash_le32 nlink;
	ash_le32 uid;
	ash_le32 gid;
	ash_le64 size;                       /* bytes; directories: number of entries */
	ash_le64 blocks;                     /* allocated blocks of both forks, tree nodes included */
	ash_le64 atime, mtime, ctime, btime; /* seconds since the epoch, signed */
	ash_le32 atime_ns, mtime_ns, ctime_ns, btime_ns;
	ash_le64 rdev;   /* device nodes: as makedev(3) */
	ash_le64 parent; /* directories: inode of the parent; root: itself */
	ash_le32 flags;
	uint8_t data_kind; /* enum ash_fork_kind */
	uint8_t attr_kind; /* EMPTY or TREE */
	ash_le16 reserved;
	uint8_t data[ASH_DATA_FORK_SIZE];
	uint8_t attr[ASH_ATTR_FORK_SIZE];
};
static_assert(sizeof(struct ash_inode) == ASH_INODE_SIZE, "inode record");
static_assert(offsetof(struct ash_inode, data) == 128, "inode header");

/* Is the type in `mode` one that an inode can have? The whole list. */
static inline int ash_mode_type_known(uint32_t mode)
{
	return S_ISREG(mode) || S_ISDIR(mode) || S_ISLNK(mode) || S_ISCHR(mode) || S_ISBLK(mode) || S_ISFIFO(mode) ||
	       S_ISSOCK(mode);
}

/* ---- Superblock ---- */

#define ASH_LABEL_SIZE 64u /* bytes, NUL padded, not always terminated */

/* incompat: a reader that does not know a bit must not touch the volume */
#define ASH_INCOMPAT_KNOWN 0ull
#define ASH_INCOMPAT_SHARED_EXTENTS 1ull /* reserved for reflink */
#define ASH_INCOMPAT_DATA_CHECKSUMS 2ull /* reserved */
#define ASH_INCOMPAT_SNAPSHOTS 4ull      /* reserved */
/* ro-compat: a reader that does not know a bit may only read */
#define ASH_RO_COMPAT_KNOWN 0ull
#define ASH_COMPAT_KNOWN 0ull
/* compat: harmless to those who do not know it */
#define ASH_COMPAT_INODE_FLAGS 1ull /* some inode has had chattr i or a: OPEN is answered by the server */

struct ash_super {
	struct ash_block_header header;
	char volume_magic[8]; /* at byte 40: ASH_VOLUME_MAGIC */
	ash_le32 version;
	ash_le32 block_shift; /* 12 */
	uint8_t uuid[16];     /* what users see; can be changed */
	char label[ASH_LABEL_SIZE];
	ash_le64 compat, ro_compat, incompat;
	ash_le64 block_count; /* of the volume */
	ash_le32 group_count;
	ash_le32 blocks_per_group;  /* ASH_BLOCKS_PER_GROUP */
	ash_le64 group_table_start; /* block */
	ash_le64 group_table_blocks;
	ash_le64 log_start; /* block: two control blocks, then log_blocks - 2 log blocks */
	ash_le64 log_blocks;
	ash_le32 checksum_seed;
	ash_le32 inodes_per_run; /* multiple of ASH_INODES_PER_BLOCK, at most ASH_BITS_PER_BITMAP */
	uint8_t hash_key[16];    /* SipHash key of directory and attribute names */
	ash_le64 created;        /* seconds */
	ash_le64 error_count;    /* damaged blocks met so far */
	ash_le64 error_time;     /* seconds, of the last one */
	ash_le32 state;          /* ASH_STATE_* */
	ash_le32 reserved0;
	ash_le64 inode_runs; /* runs in the inode table */
	uint8_t reserved[1776];
	struct ash_inode table_inode; /* at byte 2048: ASH_INO_TABLE */
	uint8_t reserved2[1536];
};
#define ASH_STATE_ERRORS 1u /* damage was met; fsck clears it */
static_assert(offsetof(struct ash_super, table_inode) == 2048, "table inode");
static_assert(sizeof(struct ash_super) == ASH_BLOCK_SIZE, "superblock");

/* ---- Groups ---- */

#define ASH_BITS_PER_BITMAP ((ASH_BLOCK_SIZE - 64u) * 8u) /* 32256 */
#define ASH_BLOCKS_PER_GROUP ASH_BITS_PER_BITMAP          /* 126 MiB */

/* Bitmap of a group (set: in use) or of an inode run (set: inode in use). Bit i: byte i / 8, bit i % 8. */
struct ash_bitmap_block {
	struct ash_block_header header; /* owner: group number; inode bitmap: run number */
	ash_le32 initialized;           /* inode bitmap: inode blocks of the run that were ever formatted */
	uint8_t reserved[20];
	uint8_t bits[ASH_BLOCK_SIZE - 64u];
};
static_assert(offsetof(struct ash_bitmap_block, bits) == 64, "bitmap");
static_assert(sizeof(struct ash_bitmap_block) == ASH_BLOCK_SIZE, "bitmap block");

#define ASH_GROUPS_PER_TABLE_BLOCK 504u
#define ASH_GROUP_UNINIT 1u /* the bitmap block on disk is not valid: only the fixed blocks are in use */

/*
 * Free counts are derived from the bitmaps and not logged: they lie outside the checksum and are
 * counted again for each group whose bitmap replay touched.
 */
struct ash_group_table_block {
	struct ash_block_header header;
	ash_le64 first_group;
	uint8_t reserved[16];
	ash_le32 flags[ASH_GROUPS_PER_TABLE_BLOCK];
	ash_le32 free_blocks[ASH_GROUPS_PER_TABLE_BLOCK];
};
#define ASH_GROUP_TABLE_CRC_LENGTH offsetof(struct ash_group_table_block, free_blocks)
static_assert(sizeof(struct ash_group_table_block) == ASH_BLOCK_SIZE, "group table block");

/*
 * Fixed blocks. Group g starts at block g * ASH_BLOCKS_PER_GROUP. Groups 0, 1 and the powers of 3, 5
 * and 7 hold a superblock (0: the primary) in their first block and the bitmap in their second; all
 * others have the bitmap first. The very last block of the volume holds one more backup. The last
 * group may be short; mkfs and resize leave a rest of fewer than ASH_MIN_GROUP_BLOCKS unused.
 */
#define ASH_MIN_GROUP_BLOCKS 64u
static inline int ash_is_power_of(uint64_t n, uint64_t base)
{
	while (n > 1 && n % base == 0)
		n /= base;
	return n == 1;
}
static inline int ash_group_has_super(uint64_t group)
{
	return group <= 1 || ash_is_power_of(group, 3) || ash_is_power_of(group, 5) || ash_is_power_of(group, 7);
}
static inline uint64_t ash_group_start(uint64_t group)
{
	return group * ASH_BLOCKS_PER_GROUP;
}
static inline uint64_t ash_group_bitmap(uint64_t group)
{
	return ash_group_start(group) + (ash_group_has_super(group) ? 1 : 0);
}

/* ---- Trees ---- */

/*
 * One B+tree for extents, directory entries and extended attributes. A node is a slotted page:
 * `slots` (offsets of records from the node's start, sorted by key) grows up behind the node header,
 * records grow down from the end. A record is {key, length, value}. Inner nodes: the value is the
 * child's block number, the key is the lowest key that the child may hold (of the first: any).
 * A root lies in the inode's fork with the same layout, the header without the block header.
 */
struct ash_node_header {
	ash_le16 level;      /* 0: leaf */
	ash_le16 count;      /* slots */
	ash_le16 heap_start; /* offset (from the start of this node header) of the lowest record */
	ash_le16 heap_free;  /* bytes lost to deleted records inside the heap */
};
static_assert(sizeof(struct ash_node_header) == 8, "node header");

struct ash_tree_block {
	struct ash_block_header header; /* owner: the inode number */
	struct ash_node_header node;    /* at byte 40; offsets count from here; node size 4056 */
					/* ash_le16 slots[], ..., records */
};
#define ASH_TREE_NODE_SIZE (ASH_BLOCK_SIZE - (uint32_t)offsetof(struct ash_tree_block, node))

struct ash_tree_record {
	ash_le64 key;
	ash_le16 length; /* of the value, bytes */
	uint8_t value[];
} __attribute__((packed, aligned(2)));
static_assert(sizeof(struct ash_tree_record) == 10, "tree record");
#define ASH_TREE_MAX_VALUE 1000u /* bytes: at least four records fit a node */
#define ASH_TREE_MAX_LEVEL 12u

/* Data fork of files and long symlinks: key = first file block. Holes are absent. */
struct ash_extent_value {
	ash_le64 start; /* block */
	ash_le32 count; /* blocks, at least 1 */
	ash_le32 flags; /* ASH_EXTENT_* */
} __attribute__((packed, aligned(2)));
#define ASH_EXTENT_UNWRITTEN 1u
#define ASH_EXTENT_MAX_BLOCKS (1u << 20) /* keeps arithmetic small; neighbours may continue */
static_assert(sizeof(struct ash_extent_value) == 16, "extent");

/*
 * Data fork of directories: key = (SipHash-2-4 of the name >> 9) << 8 | collision: 55 bits of hash and
 * 8 of collision number; keys 0-2 are reserved ("start", "." and ".." of readdir positions): a hash of
 * zero counts as one. A collision number is the lowest free one at creation and never changes.
 */
struct ash_dirent_value {
	ash_le64 ino;
	uint8_t type; /* DT_* */
	uint8_t name_length;
	uint8_t name[];
} __attribute__((packed, aligned(2)));
#define ASH_NAME_MAX 255u
#define ASH_DIR_COLLISION_BITS 8u

/*
 * Attribute fork: key as for directories, of the full attribute name (with its namespace prefix).
 * A value of at most ASH_XATTR_INLINE_MAX bytes lies in the record; a longer one in `block_count`
 * extents of blocks listed behind the name, written like file data before the record (I2), each
 * protected by `value_crc` (CRC32C, seeded, of the value bytes).
 */
struct ash_xattr_value {
	uint8_t name_length;
	uint8_t kind; /* 0: inline, 1: external */
	ash_le16 reserved;
	ash_le32 value_length;
	uint8_t name_and_value[]; /* name; then the value, or struct ash_xattr_external */
} __attribute__((packed, aligned(2)));
struct ash_xattr_external {
	ash_le32 value_crc;
	ash_le32 extent_count; /* 1 .. ASH_XATTR_MAX_EXTENTS */
	struct {
		ash_le64 start;
		ash_le32 count;
	} __attribute__((packed, aligned(2))) extents[];
} __attribute__((packed, aligned(2)));
#define ASH_XATTR_INLINE_MAX 512u
#define ASH_XATTR_SIZE_MAX 65536u
#define ASH_XATTR_MAX_EXTENTS 17u

/* ---- Log ---- */

/*
 * The log is a ring of `log_blocks - 2` blocks behind two control blocks. Position p (counted from 0
 * since mkfs, never reset) lives in block log_start + 2 + p % (log_blocks - 2). An LSN is
 * position * ASH_LOG_PAYLOAD + byte within the payload.
 */
struct ash_log_control {
	struct ash_block_header header;
	ash_le64 sequence;          /* of the two control blocks the valid one with the higher sequence rules */
	ash_le64 epoch;             /* of the mount that wrote it */
	ash_le64 tail_position;     /* first log block that replay needs */
	ash_le64 tail_lsn;          /* first record that replay needs, inside that block or later */
	ash_le32 tail_previous_crc; /* crc of the log block before tail_position */
	ash_le32 clean;             /* 1: nothing to replay, totals below are true */
	ash_le64 epoch_position;    /* first position written by `epoch`: blocks from here on carry it */
	ash_le64 free_blocks;       /* totals when clean */
	ash_le64 used_inodes;
	uint8_t reserved[ASH_BLOCK_SIZE - 104];
};
static_assert(sizeof(struct ash_log_control) == ASH_BLOCK_SIZE, "log control");

struct ash_log_block {
	struct ash_block_header header; /* address: own block; owner: the position */
	ash_le64 epoch;
	ash_le32 previous_crc;     /* header.crc of the block at position - 1 */
	ash_le16 used;             /* payload bytes in use */
	ash_le16 first_record;     /* payload offset of the first record that begins here; ASH_LOG_NO_RECORD */
	ash_le64 durable_position; /* every position below was durable when this block was written */
	uint8_t payload[ASH_BLOCK_SIZE - 64];
};
#define ASH_LOG_PAYLOAD (ASH_BLOCK_SIZE - 64u)
#define ASH_LOG_NO_RECORD 0xffffu
#define ASH_LOG_WRITE_MAX 4096u /* blocks of one log write, which all have the same durable_position */
static_assert(offsetof(struct ash_log_block, payload) == 64, "log block");

/* A record: this header, then items; it may run over block ends. Records follow each other without gap
 * inside the used payload; a block closed early (used < payload) ends with a complete record. */
struct ash_log_record {
	ash_le32 length; /* with this header and the items */
	ash_le32 items;  /* number of items */
	ash_le64 lsn;    /* of this record's first byte */
};
static_assert(sizeof(struct ash_log_record) == 16, "log record");

enum ash_log_item_kind {
	ASH_LOG_BYTES = 1,    /* block, offset, length, then the bytes */
	ASH_LOG_FORMAT = 2,   /* block; value = block type magic, owner follows as 8 bytes: all zero but the header */
	ASH_LOG_BITS_SET = 3, /* block, value = first bit, count as 4 bytes behind */
	ASH_LOG_BITS_CLEAR = 4,
	ASH_LOG_REVOKE = 5,     /* block, count as 4 bytes behind: earlier items for these blocks are void */
	ASH_LOG_HOME = 6,       /* block, value = crc of the image; LSN as 8 bytes behind: a home write of the
				 * image as of LSN follows. The crc is CRC32C (seeded) of the whole block as
				 * written; of a group table block only up to free_blocks */
	ASH_LOG_ORPHAN_ADD = 7, /* block field = inode number */
	ASH_LOG_ORPHAN_DEL = 8,
	ASH_LOG_ORPHAN_RESET = 9, /* empties the set: a full list follows in the same record as ADDs */
};
struct ash_log_item {
	uint8_t kind;
	uint8_t reserved;
	ash_le16 length; /* bytes behind this header (BYTES: number of bytes logged) */
	ash_le32 value;  /* BYTES: offset in block */
	ash_le64 block;
};
static_assert(sizeof(struct ash_log_item) == 16, "log item");

#ifdef __cplusplus
}
#endif
#endif
