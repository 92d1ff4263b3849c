/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Every structure of the on-disk format and every field of it, as a table: what the damage campaigns and the fuzzers'
 * mutator go through.
 *
 * The table is kept complete by the compiler: the sizes of the fields of a structure must add up to the structure's.
 * test_fields compares the list of structures with include/ashlar/format.h itself.
 */
#ifndef TESTS_IMAGE_FIELDS_H
#define TESTS_IMAGE_FIELDS_H

#include <ashlar/format.h>
#include <stdbool.h>

enum structure {
	S_BLOCK_HEADER,
	S_INODE,
	S_SUPER,
	S_BITMAP,
	S_GROUP_TABLE,
	S_NODE,
	S_SLOT, /* of a node: an offset; no structure of its own in the format */
	S_TREE_BLOCK,
	S_RECORD,
	S_EXTENT,
	S_DIRENT,
	S_XATTR,
	S_EXTERNAL,
	S_EXTERNAL_EXTENT, /* of the list in struct ash_xattr_external */
	S_CHILD,           /* value of an inner node's record: a block number */
	S_LOG_CONTROL,
	S_LOG_BLOCK,
	S_LOG_RECORD,
	S_LOG_ITEM,
	STRUCTURES,
};

/* What a field is: which values are worth writing into it. */
enum field_kind {
	F_NUMBER,
	F_BYTES,
	F_BLOCK,    /* number of a block */
	F_INODE,    /* number of an inode */
	F_CHECKSUM, /* sealing undoes damage to it */
	F_NESTED,   /* a structure with rows of its own, at the same place */
};

/* What a look must say of a change under a right checksum. */
enum expect {
	ANY,    /* depends on the value */
	REPORT, /* every change is an inconsistency */
	BENIGN, /* one value is as good as another */
};

struct field {
	const char *name;
	uint32_t offset, size;
	enum field_kind kind;
	enum expect expect;
};

struct fields {
	const char *type; /* as in format.h, without "struct"; NULL: a part of another structure */
	const struct field *items;
	unsigned count;
	uint32_t size;
};
extern const struct fields structures[STRUCTURES];

/* ---- Values ---- */

enum change {
	CHANGE_ZERO,
	CHANGE_ONES,
	CHANGE_PLUS_ONE,
	CHANGE_MINUS_ONE,
	CHANGE_PLUS_THREE,
	CHANGE_HIGH_BIT,
	CHANGE_RUBBISH,
	CHANGE_NUMBERS, /* those above make sense for every field; those below for block and inode numbers */
	CHANGE_SELF = CHANGE_NUMBERS,
	CHANGE_NEIGHBOUR, /* what the next structure of the same kind has there */
	CHANGE_OTHER,     /* what a structure of another owner has there */
	CHANGE_OUTSIDE,   /* the first that is none */
	CHANGE_FAR,       /* far outside */
	CHANGE_LOG,       /* metadata at a fixed place: a log block; an inode number: the table's */
	CHANGE_BITMAP,    /* ... a bitmap; a reserved inode */
	CHANGE_TABLE,     /* ... the inode table; the root */
	CHANGES,
};
extern const char *const change_names[CHANGES];

/* Change `size` bytes in place by one of the first CHANGE_NUMBERS ways. False when that changes nothing. */
bool change_bytes(uint8_t *bytes, uint32_t size, enum change change);

#endif
