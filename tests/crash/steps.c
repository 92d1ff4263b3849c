/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The table of operations for generated workloads. They are done to a small tree, so that two of them meet often:
 *
 *     /A/foo   12388 bytes (three blocks and an end), old bytes on the disk behind it; attribute user.a
 *     /A/bar   100 bytes (in the inode)           /A/C, /B/C   empty directories       /A/sym   symbolic link
 *     /B/foo   135668 bytes: two blocks, a hole of eight, two, then every second one, so that its extents are a tree;
 *              attribute user.big, which needs a block
 *     /B       also has 30 long names of one more file, so that it is a tree, too
 *
 * and to the names new and dir, which are not there at first: such operations make sense only after another one, and
 * the sequences in which they cannot succeed are passed over.
 */
#include "generated.h"

#include <linux/falloc.h>
#include <linux/fs.h>

#define KEEP FALLOC_FL_KEEP_SIZE
#define PUNCH (FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE)
#define ZERO FALLOC_FL_ZERO_RANGE
#define BLOCK 4096ull

#define NAME(kind_, group_, path_)                                  \
	{                                                           \
		.kind = (kind_), .group = (group_), .path = (path_) \
	}
#define SIZED(kind_, group_, path_, length_)                                             \
	{                                                                                \
		.kind = (kind_), .group = (group_), .path = (path_), .length = (length_) \
	}
#define PAIR(kind_, group_, path_, to_, flags_)                                                     \
	{                                                                                           \
		.kind = (kind_), .group = (group_), .path = (path_), .to = (to_), .flags = (flags_) \
	}
#define RANGE(kind_, group_, path_, offset_, length_, flags_)                                                  \
	{                                                                                                      \
		.kind = (kind_), .group = (group_), .path = (path_), .offset = (offset_), .length = (length_), \
		.flags = (flags_)                                                                              \
	}
#define COPY(path_, offset_, to_, other_, length_)                                                           \
	{                                                                                                    \
		.kind = STEP_COPY, .group = "copy range", .path = (path_), .to = (to_), .offset = (offset_), \
		.other = (other_), .length = (length_)                                                       \
	}
#define TMPFILE(path_, to_, length_)                                                                          \
	{                                                                                                     \
		.kind = STEP_TMPFILE, .group = "O_TMPFILE", .path = (path_), .to = (to_), .length = (length_) \
	}
#define XATTR(kind_, group_, path_, to_, length_)                                                     \
	{                                                                                             \
		.kind = (kind_), .group = (group_), .path = (path_), .to = (to_), .length = (length_) \
	}

const struct step generated_steps[] = {
	NAME(STEP_CREATE, "creat", "/A/new"),
	NAME(STEP_CREATE, "creat", "/B/new"),
	NAME(STEP_CREATE, "creat", "/new"),
	NAME(STEP_CREATE, "creat", "/A/C/new"),
	NAME(STEP_MKDIR, "mkdir", "/A/dir"),
	NAME(STEP_MKDIR, "mkdir", "/B/dir"),
	NAME(STEP_MKDIR, "mkdir", "/dir"),
	NAME(STEP_MKDIR, "mkdir", "/A/C/dir"),
	NAME(STEP_RMDIR, "rmdir", "/A/C"),
	NAME(STEP_RMDIR, "rmdir", "/B/C"),
	NAME(STEP_RMDIR, "rmdir", "/A/dir"),
	NAME(STEP_RMDIR, "rmdir", "/B/dir"),
	SIZED(STEP_SYMLINK, "symlink", "/A/new", 20),
	SIZED(STEP_SYMLINK, "symlink", "/B/new", 700),
	PAIR(STEP_LINK, "link", "/A/foo", "/A/new", 0),
	PAIR(STEP_LINK, "link", "/A/foo", "/B/new", 0),
	PAIR(STEP_LINK, "link", "/A/bar", "/B/new", 0),
	PAIR(STEP_LINK, "link", "/B/foo", "/A/new", 0),
	PAIR(STEP_LINK, "link", "/A/sym", "/A/new", 0),
	PAIR(STEP_LINK, "link", "/A/new", "/B/new", 0),
	NAME(STEP_UNLINK, "unlink", "/A/foo"),
	NAME(STEP_UNLINK, "unlink", "/A/bar"),
	NAME(STEP_UNLINK, "unlink", "/B/foo"),
	NAME(STEP_UNLINK, "unlink", "/A/sym"),
	NAME(STEP_UNLINK, "unlink", "/A/new"),
	NAME(STEP_UNLINK, "unlink", "/B/new"),
	NAME(STEP_UNLINK_OPEN, "unlink of an open file", "/A/foo"),
	NAME(STEP_UNLINK_OPEN, "unlink of an open file", "/B/foo"),
	NAME(STEP_UNLINK_OPEN, "unlink of an open file", "/A/new"),

	PAIR(STEP_RENAME, "rename", "/A/foo", "/A/new", 0),
	PAIR(STEP_RENAME, "rename", "/A/bar", "/A/new", 0),
	PAIR(STEP_RENAME, "rename", "/A/sym", "/A/new", 0),
	PAIR(STEP_RENAME, "rename", "/A/C", "/A/dir", 0),
	PAIR(STEP_RENAME, "rename to another directory", "/A/foo", "/B/new", 0),
	PAIR(STEP_RENAME, "rename to another directory", "/B/foo", "/new", 0),
	PAIR(STEP_RENAME, "rename to another directory", "/A/new", "/B/new", 0),
	PAIR(STEP_RENAME, "rename to another directory", "/A/C", "/B/dir", 0),
	PAIR(STEP_RENAME, "rename to another directory", "/B", "/A/dir", 0),
	PAIR(STEP_RENAME, "rename over a file", "/A/foo", "/A/bar", 0),
	PAIR(STEP_RENAME, "rename over a file", "/A/bar", "/A/foo", 0),
	PAIR(STEP_RENAME, "rename over a file", "/A/foo", "/B/foo", 0),
	PAIR(STEP_RENAME, "rename over a file", "/B/foo", "/A/bar", 0),
	PAIR(STEP_RENAME, "rename over a file", "/A/foo", "/B/pad", 0),
	PAIR(STEP_RENAME, "rename over a file", "/A/sym", "/A/bar", 0),
	PAIR(STEP_RENAME, "rename over a file", "/A/new", "/A/foo", 0),
	PAIR(STEP_RENAME, "rename over a file", "/A/new", "/B/foo", 0),
	PAIR(STEP_RENAME, "rename over a directory", "/A/C", "/B/C", 0),
	PAIR(STEP_RENAME, "rename over a directory", "/B/C", "/A/C", 0),
	PAIR(STEP_RENAME, "rename over a directory", "/A/dir", "/A/C", 0),
	PAIR(STEP_RENAME, "rename exchange", "/A/foo", "/A/bar", RENAME_EXCHANGE),
	PAIR(STEP_RENAME, "rename exchange", "/A/foo", "/B/foo", RENAME_EXCHANGE),
	PAIR(STEP_RENAME, "rename exchange", "/A/foo", "/A/C", RENAME_EXCHANGE),
	PAIR(STEP_RENAME, "rename exchange", "/A/bar", "/B", RENAME_EXCHANGE),
	PAIR(STEP_RENAME, "rename exchange", "/A/C", "/B/C", RENAME_EXCHANGE),
	PAIR(STEP_RENAME, "rename exchange", "/A/sym", "/B/foo", RENAME_EXCHANGE),
	PAIR(STEP_RENAME, "rename exchange", "/A/new", "/A/foo", RENAME_EXCHANGE),
	PAIR(STEP_RENAME, "rename noreplace", "/A/foo", "/A/new", RENAME_NOREPLACE),
	PAIR(STEP_RENAME, "rename noreplace", "/A/bar", "/B/new", RENAME_NOREPLACE),
	PAIR(STEP_RENAME, "rename noreplace", "/A/C", "/B/dir", RENAME_NOREPLACE),
	PAIR(STEP_RENAME, "rename whiteout", "/A/foo", "/A/bar", RENAME_WHITEOUT),
	PAIR(STEP_RENAME, "rename whiteout", "/A/foo", "/B/new", RENAME_WHITEOUT),
	PAIR(STEP_RENAME, "rename whiteout", "/A/C", "/B/dir", RENAME_WHITEOUT),

	SIZED(STEP_TRUNCATE, "truncate down", "/A/foo", 0),
	SIZED(STEP_TRUNCATE, "truncate down", "/A/foo", 5000),
	SIZED(STEP_TRUNCATE, "truncate down", "/A/foo", 8192),
	SIZED(STEP_TRUNCATE, "truncate down", "/A/bar", 0),
	SIZED(STEP_TRUNCATE, "truncate down", "/A/bar", 50),
	SIZED(STEP_TRUNCATE, "truncate down", "/B/foo", 0),
	SIZED(STEP_TRUNCATE, "truncate down", "/B/foo", 20000),
	SIZED(STEP_TRUNCATE, "truncate down", "/B/foo", 45000),
	SIZED(STEP_TRUNCATE, "truncate down", "/B/foo", 100000),
	SIZED(STEP_TRUNCATE, "truncate down", "/A/new", 0),
	SIZED(STEP_TRUNCATE, "truncate up", "/A/foo", 16384),
	SIZED(STEP_TRUNCATE, "truncate up", "/A/foo", 20000),
	SIZED(STEP_TRUNCATE, "truncate up", "/A/bar", 200),
	SIZED(STEP_TRUNCATE, "truncate up", "/A/bar", 5000),
	SIZED(STEP_TRUNCATE, "truncate up", "/B/foo", 200000),
	SIZED(STEP_TRUNCATE, "truncate up", "/A/new", 5000),

	RANGE(STEP_WRITE, "append", "/A/foo", 0, 100, ASH_WRITE_APPEND),
	RANGE(STEP_WRITE, "append", "/A/foo", 0, 5000, ASH_WRITE_APPEND),
	RANGE(STEP_WRITE, "append", "/A/bar", 0, 50, ASH_WRITE_APPEND),
	RANGE(STEP_WRITE, "append", "/A/bar", 0, 5000, ASH_WRITE_APPEND),
	RANGE(STEP_WRITE, "append", "/B/foo", 0, 3000, ASH_WRITE_APPEND),
	RANGE(STEP_WRITE, "append", "/A/new", 0, 100, ASH_WRITE_APPEND),
	RANGE(STEP_WRITE, "append", "/A/new", 0, 10000, ASH_WRITE_APPEND),
	RANGE(STEP_WRITE, "append", "/B/new", 0, 5000, ASH_WRITE_APPEND),
	RANGE(STEP_WRITE, "overwrite", "/A/foo", 0, BLOCK, 0),
	RANGE(STEP_WRITE, "overwrite", "/A/foo", 0, 12388, 0),
	RANGE(STEP_WRITE, "overwrite", "/A/bar", 0, 100, 0),
	RANGE(STEP_WRITE, "overwrite", "/A/bar", 20, 30, 0),
	RANGE(STEP_WRITE, "overwrite", "/B/foo", 0, 2 * BLOCK, 0),
	RANGE(STEP_WRITE, "overwrite", "/A/new", 0, BLOCK, 0),
	RANGE(STEP_WRITE, "write at a hole", "/B/foo", 4 * BLOCK, BLOCK, 0),
	RANGE(STEP_WRITE, "write at a hole", "/B/foo", 2 * BLOCK, 8 * BLOCK, 0),
	RANGE(STEP_WRITE, "write at a hole", "/A/foo", 5 * BLOCK, BLOCK, 0),
	RANGE(STEP_WRITE, "write at a hole", "/A/foo", 50000, 1000, 0),
	RANGE(STEP_WRITE, "write at a hole", "/A/bar", 2 * BLOCK, 100, 0),
	RANGE(STEP_WRITE, "write unaligned", "/A/foo", 1000, 5000, 0),
	RANGE(STEP_WRITE, "write unaligned", "/A/foo", 4000, 200, 0),
	RANGE(STEP_WRITE, "write unaligned", "/A/foo", 12000, 1000, 0),
	RANGE(STEP_WRITE, "write unaligned", "/B/foo", 7000, 3000, 0),
	RANGE(STEP_WRITE, "write unaligned", "/B/foo", 39000, 3000, 0),
	RANGE(STEP_WRITE, "write through, aligned", "/A/foo", 0, BLOCK, ASH_WRITE_THROUGH),
	RANGE(STEP_WRITE, "write through, aligned", "/A/foo", 0, 4 * BLOCK, ASH_WRITE_THROUGH),
	RANGE(STEP_WRITE, "write through, aligned", "/A/foo", 4 * BLOCK, 2 * BLOCK, ASH_WRITE_THROUGH),
	RANGE(STEP_WRITE, "write through, aligned", "/A/bar", 0, BLOCK, ASH_WRITE_THROUGH),
	RANGE(STEP_WRITE, "write through, aligned", "/B/foo", 4 * BLOCK, 2 * BLOCK, ASH_WRITE_THROUGH),
	RANGE(STEP_WRITE, "write through, aligned", "/A/new", 0, 2 * BLOCK, ASH_WRITE_THROUGH),
	RANGE(STEP_WRITE, "write with O_SYNC", "/A/foo", 1000, 2000, ASH_WRITE_SYNC),
	RANGE(STEP_WRITE, "write with O_SYNC", "/A/bar", 100, 5000, ASH_WRITE_SYNC),

	RANGE(STEP_FALLOCATE, "fallocate", "/A/foo", 0, 4 * BLOCK, 0),
	RANGE(STEP_FALLOCATE, "fallocate", "/A/bar", 0, 2 * BLOCK, 0),
	RANGE(STEP_FALLOCATE, "fallocate", "/B/foo", 2 * BLOCK, 20000, 0),
	RANGE(STEP_FALLOCATE, "fallocate", "/B/foo", 13 * BLOCK, 30 * BLOCK, 0),
	RANGE(STEP_FALLOCATE, "fallocate", "/A/new", 0, 2 * BLOCK, 0),
	RANGE(STEP_FALLOCATE, "fallocate, keep size", "/A/foo", 3 * BLOCK, 4 * BLOCK, KEEP),
	RANGE(STEP_FALLOCATE, "fallocate, keep size", "/A/bar", BLOCK, 2 * BLOCK, KEEP),
	RANGE(STEP_FALLOCATE, "fallocate, keep size", "/B/foo", 2 * BLOCK, 4 * BLOCK, KEEP),
	RANGE(STEP_FALLOCATE, "fallocate, keep size", "/A/new", 0, 2 * BLOCK, KEEP),
	RANGE(STEP_FALLOCATE, "punch hole", "/A/foo", BLOCK, BLOCK, PUNCH),
	RANGE(STEP_FALLOCATE, "punch hole", "/A/foo", 1000, 6000, PUNCH),
	RANGE(STEP_FALLOCATE, "punch hole", "/A/foo", 2 * BLOCK, 2 * BLOCK, PUNCH),
	RANGE(STEP_FALLOCATE, "punch hole", "/A/bar", 10, 50, PUNCH),
	RANGE(STEP_FALLOCATE, "punch hole", "/B/foo", 0, 4 * BLOCK, PUNCH),
	RANGE(STEP_FALLOCATE, "punch hole", "/B/foo", 13 * BLOCK, 14 * BLOCK, PUNCH),
	RANGE(STEP_FALLOCATE, "zero range", "/A/foo", BLOCK, BLOCK, ZERO),
	RANGE(STEP_FALLOCATE, "zero range", "/A/foo", 1000, 6000, ZERO),
	RANGE(STEP_FALLOCATE, "zero range", "/A/foo", 2 * BLOCK, 4 * BLOCK, ZERO),
	RANGE(STEP_FALLOCATE, "zero range", "/A/foo", 2 * BLOCK, 4 * BLOCK, ZERO | KEEP),
	RANGE(STEP_FALLOCATE, "zero range", "/A/bar", 10, 50, ZERO),
	RANGE(STEP_FALLOCATE, "zero range", "/B/foo", BLOCK, 4 * BLOCK, ZERO),
	RANGE(STEP_FALLOCATE, "zero range", "/B/foo", 13 * BLOCK, 14 * BLOCK, ZERO),

	COPY("/A/foo", 0, "/A/bar", 0, 12388),
	COPY("/A/foo", 0, "/B/foo", 4 * BLOCK, 2 * BLOCK),
	COPY("/B/foo", BLOCK, "/A/foo", BLOCK, 20000),
	COPY("/A/foo", 0, "/A/foo", 5 * BLOCK, BLOCK),
	COPY("/A/foo", 0, "/A/new", 0, 12388),

	XATTR(STEP_SETXATTR, "setxattr", "/A/foo", "user.a", 40),
	XATTR(STEP_SETXATTR, "setxattr", "/A/foo", "user.b", 30),
	XATTR(STEP_SETXATTR, "setxattr", "/A/foo", "user.b", 3000),
	XATTR(STEP_SETXATTR, "setxattr", "/A/bar", "user.b", 200),
	XATTR(STEP_SETXATTR, "setxattr", "/B", "user.b", 100),
	XATTR(STEP_SETXATTR, "setxattr", "/B/foo", "user.big", 6000),
	XATTR(STEP_SETXATTR, "setxattr", "/A/new", "user.b", 100),
	XATTR(STEP_REMOVEXATTR, "removexattr", "/A/foo", "user.a", 0),
	XATTR(STEP_REMOVEXATTR, "removexattr", "/A/foo", "user.b", 0),
	XATTR(STEP_REMOVEXATTR, "removexattr", "/B/foo", "user.big", 0),
	RANGE(STEP_CHMOD, "chmod", "/A/foo", 0, 0, 0600),
	RANGE(STEP_CHMOD, "chmod", "/A/bar", 0, 0, 04755),
	RANGE(STEP_CHMOD, "chmod", "/A", 0, 0, 0700),
	RANGE(STEP_CHMOD, "chmod", "/A/new", 0, 0, 0600),

	TMPFILE("/A", "/A/new", 0),
	TMPFILE("/A", "/A/new", 5000),
	TMPFILE("/B", "/B/new", 100),
	TMPFILE("/A", NULL, 9000),
};
const size_t generated_step_count = sizeof(generated_steps) / sizeof(*generated_steps);
