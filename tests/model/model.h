/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The reference filesystem: what the volume API should do, in memory, as simply as can be.
 *
 * Concept: a set of nodes found by inode number. The numbers are the volume's: a create is applied with the number
 * that the volume gave. Time is given with each operation (the tests replace the clock of the core), so that every
 * time stamp is predictable. A model can be copied cheaply; the crash tests keep one at the last sync and
 * replay the operations since.
 *
 * Rules: an operation that fails changes nothing (I9). No locks: one thread.
 */
#ifndef TESTS_MODEL_MODEL_H
#define TESTS_MODEL_MODEL_H

#include "content.h"

#include <ashlar/ashlar.h>

struct model_entry {
	char *name;
	uint64_t ino;
};

struct model_xattr {
	char *name;
	unsigned char *value;
	size_t size;
};

struct model_node {
	uint64_t ino, rdev, size, parent;
	uint32_t mode, nlink, uid, gid, flags;
	int64_t atime, mtime, ctime, btime; /* ns */
	bool atime_known;                   /* false: depends on the atime policy */
	char *target;                       /* symbolic links */
	struct content content;
	struct model_entry *entries; /* directories: sorted by name, without "." and ".." */
	size_t entry_count, entry_capacity;
	struct model_xattr *xattrs;
	size_t xattr_count;
	uint64_t lookups; /* references that the test holds */
	bool temporary;   /* made by O_TMPFILE and not linked yet */
	bool emptied;     /* truncated to zero, and not written since: the next write is not left behind (I7) */
	/* for the crash tests: index of the last operation, of writes none counted, that touched it */
	uint64_t last_operation;      /* any */
	uint64_t last_not_only_times; /* what fdatasync must make durable */
};

struct model {
	struct model_node **nodes; /* hash table by number, open addressing */
	size_t capacity, count;
};

void model_init(struct model *model);  /* with a root directory */
void model_empty(struct model *model); /* without */
void model_free(struct model *model);
void model_copy(struct model *to, const struct model *from);

struct model_node *model_find(const struct model *model, uint64_t ino);
struct model_node *model_add_node(struct model *model, uint64_t ino, uint32_t mode);
/* Child of a directory node; NULL: none. */
struct model_node *model_child(const struct model *model, const struct model_node *directory, const char *name);
void model_add_entry(struct model_node *directory, const char *name, uint64_t ino);
struct model_entry *model_find_entry(const struct model_node *directory, const char *name);
void model_remove_entry(struct model_node *directory, const char *name);
void model_remove_node(struct model *model, struct model_node *node);
bool model_remove_xattr(struct model_node *node, const char *name);
struct model_xattr *model_find_xattr(const struct model_node *node, const char *name);
void model_set_xattr(struct model_node *node, const char *name, const void *value, size_t size);
/* "/a/b" to a node. */
struct model_node *model_path(const struct model *model, const char *path);

/* The unmount: references end, unlinked nodes go. */
void model_drop_references(struct model *model);

/* Bytes of data that all files hold in pages, for generators that must not fill the volume. */
uint64_t model_data_bytes(const struct model *model);

/* ---- Operations ---- */

enum op_kind {
	OP_NONE, /* skipped: its subject is gone */
	OP_LOOKUP,
	OP_CREATE,
	OP_TMPFILE,
	OP_LINK,
	OP_UNLINK,
	OP_RMDIR,
	OP_RENAME,
	OP_READLINK,
	OP_FORGET,
	OP_GETATTR,
	OP_SETATTR,
	OP_READDIR,
	OP_READ,
	OP_WRITE,
	OP_FALLOCATE,
	OP_SEEK,
	OP_COPY_RANGE,
	OP_GETXATTR,
	OP_SETXATTR,
	OP_LISTXATTR,
	OP_REMOVEXATTR,
	OP_FSYNC,
	OP_WRITE_BACK,
	OP_SYNC,
	OP_CHECKPOINT,
	OP_STATFS,
	OP_KINDS
};

#define OP_NAME_SIZE 264

struct op {
	enum op_kind kind;
	uint64_t ino;  /* subject: file, or parent directory for names */
	uint64_t ino2; /* link: the file; rename: the new parent; copy: the target */
	char name[OP_NAME_SIZE], name2[OP_NAME_SIZE];
	char *target; /* symbolic link target; owned */
	struct ash_create create;
	struct ash_setattr change;
	uint64_t offset, offset2, length;
	uint32_t pattern; /* of written data or attribute values */
	int flags;        /* write, rename, xattr flags; whence; fallocate mode; fsync: data only */
	int64_t time;     /* ns: the clock while it runs */
	/* filled by running it on a volume */
	int64_t result;      /* as of the API; writes may be short */
	uint64_t result_ino; /* of calls that give an inode */
};

/*
 * Apply an operation. `op->result` and `result_ino` are the volume's answers: the model uses the number for new nodes
 * and a short count for writes; it never uses the error. Returns the result that it expects.
 */
int64_t model_apply(struct model *model, const struct op *op, uint64_t index);

void op_free(struct op *op);
void op_copy(struct op *to, const struct op *from);
/* OP_NONE when there is no such kind. */
enum op_kind op_kind_by_name(const char *name);
/* Of arguments and results: equal for equal operations. */
uint64_t op_hash(const struct op *op);
/* One line for people. */
void op_describe(const struct op *op, char *text, size_t size);

#endif
