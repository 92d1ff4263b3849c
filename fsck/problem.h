/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Every inconsistency is one row of a table: code, severity, whether preen may repair it, message, question.
 *
 * Rule: no other file decides whether something is repaired; they ask problem() and obey. A problem that was
 * declined is remembered and not counted or asked again when a later round meets it once more.
 */
#ifndef FSCK_PROBLEM_H
#define FSCK_PROBLEM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct checker;

enum problem_code {
	/* pass 0 */
	PROBLEM_SUPER_BAD,
	PROBLEM_SUPER_TABLE_INODE,
	PROBLEM_SUPER_TABLE_LOST,
	PROBLEM_SUPER_ERRORS,
	PROBLEM_SUPER_COMPAT,
	PROBLEM_BACKUP_BAD,
	PROBLEM_BACKUP_STALE,
	PROBLEM_LOG_CONTROL_ONE,
	PROBLEM_LOG_CONTROL_BOTH,
	PROBLEM_LOG_REPLAY,
	PROBLEM_LOG_DAMAGED_BLOCK,
	PROBLEM_LOG_UNREADABLE,
	PROBLEM_LOG_END_UNREADABLE,
	PROBLEM_LOG_HOME_UNREADABLE,
	PROBLEM_GROUP_TABLE_BAD,
	PROBLEM_GROUP_FLAGS,
	/* pass 1 */
	PROBLEM_TABLE_SIZE,
	PROBLEM_TABLE_EXTENT,
	PROBLEM_TABLE_LOST_RUN,
	PROBLEM_TABLE_HOLE,
	PROBLEM_RUN_BITMAP,
	PROBLEM_BLOCK_UNREADABLE,
	PROBLEM_FREE_RECORD,
	PROBLEM_INODE_DAMAGED,
	PROBLEM_INODE_CRC,
	PROBLEM_INODE_FIELD,
	PROBLEM_INODE_TYPE,
	PROBLEM_INODE_DOUBT,
	PROBLEM_INODE_SIZE,
	PROBLEM_INODE_BLOCKS,
	PROBLEM_RESERVED_INODE,
	PROBLEM_ROOT_MISSING,
	PROBLEM_TREE_DATA,
	PROBLEM_TREE_DIRECTORY,
	PROBLEM_TREE_ATTRIBUTE,
	PROBLEM_EXTENT,
	PROBLEM_EXTENT_BEYOND_EOF,
	PROBLEM_XATTR,
	PROBLEM_XATTR_KEY,
	PROBLEM_XATTR_VALUE,
	PROBLEM_DUPLICATE_BLOCKS,
	PROBLEM_DUPLICATE_TOO_MANY,
	/* pass 2 */
	PROBLEM_DIRENT,
	PROBLEM_DIRENT_KEY,
	PROBLEM_DIRENT_TARGET,
	PROBLEM_DIRENT_TYPE,
	PROBLEM_DIRENT_DUPLICATE,
	PROBLEM_DIRENT_SECOND_PARENT,
	PROBLEM_DIRECTORY_SIZE,
	PROBLEM_DIRECTORY_PARENT,
	/* pass 3 */
	PROBLEM_UNREACHABLE_DIRECTORY,
	PROBLEM_UNREACHABLE_INODE,
	PROBLEM_LOST_ORPHAN,
	PROBLEM_LINK_COUNT,
	/* pass 4 */
	PROBLEM_BITMAP_BAD,
	PROBLEM_BITMAP_MISSING_BITS,
	PROBLEM_BITMAP_EXTRA_BITS,
	PROBLEM_GROUP_UNINIT_USED,
	PROBLEM_GROUP_FREE_COUNT,
	PROBLEM_INODE_BITMAP_MISSING,
	PROBLEM_INODE_BITMAP_EXTRA,
	/* pass 5 */
	PROBLEM_TOTAL_BLOCKS,
	PROBLEM_TOTAL_INODES,
	/* repairs that cannot be done */
	PROBLEM_NO_SPACE,
	PROBLEM_COUNT,
};

/* What the message speaks of; only what its row uses need be set. */
struct problem_context {
	uint64_t ino;        /* %i */
	uint64_t block;      /* %b */
	uint64_t number;     /* %d: group, run, directory, another inode */
	uint64_t have, want; /* %h, %w */
	const char *why;     /* %y */
	const void *name;    /* %n: escaped when shown */
	size_t name_length;
};

/* Report, decide, count. True: the caller repairs it now. */
bool problem(struct checker *checker, enum problem_code code, const struct problem_context *context);

#endif
