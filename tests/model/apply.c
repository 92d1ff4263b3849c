/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The operations of the reference filesystem. Each function checks everything first and changes then, so that a
 * failed operation leaves the model as it was (I9). Time stamps are those of the operation's clock. No locks.
 */
#include "model.h"

#include <errno.h>
#include <linux/falloc.h>
#include <linux/fs.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/xattr.h>
#include <unistd.h>

#define CAPABILITY "security.capability"
#define SIZE_LIMIT ((uint64_t)INT64_MAX)

struct applying {
	struct model *model;
	const struct op *op;
	uint64_t index;
};

static int64_t ns_of(struct timespec time)
{
	return time.tv_sec * 1000000000ll + time.tv_nsec;
}

static void touch(const struct applying *a, struct model_node *node)
{
	node->last_operation = a->index;
	node->last_not_only_times = a->index;
}

static void touch_ctime(const struct applying *a, struct model_node *node)
{
	touch(a, node);
	node->ctime = a->op->time;
}

static void touch_directory(const struct applying *a, struct model_node *directory)
{
	touch_ctime(a, directory);
	directory->mtime = a->op->time;
}

static void release_if_dead(struct model *model, struct model_node *node)
{
	if (node->nlink == 0 && node->lookups == 0)
		model_remove_node(model, node);
}

/* The directory of a name operation; NULL with *error set. */
static struct model_node *directory_for(const struct model *model, uint64_t ino, const char *name, int64_t *error)
{
	struct model_node *directory = model_find(model, ino);

	*error = 0;
	if (!directory)
		*error = -ESTALE;
	else if (!S_ISDIR(directory->mode))
		*error = -ENOTDIR;
	else if (strlen(name) > 255)
		*error = -ENAMETOOLONG;
	return *error ? NULL : directory;
}

static int64_t apply_lookup(const struct applying *a)
{
	int64_t error;
	struct model_node *directory = directory_for(a->model, a->op->ino, a->op->name, &error), *node;

	if (error == -ENOTDIR && !strcmp(a->op->name, ".")) /* as the kernel asks for an exported file handle */
		directory = model_find(a->model, a->op->ino);
	if (!directory)
		return error;
	if (!strcmp(a->op->name, ".") && !directory->nlink)
		return -ESTALE;
	if (!strcmp(a->op->name, "."))
		node = directory;
	else if (!strcmp(a->op->name, ".."))
		node = model_find(a->model, directory->parent);
	else
		node = model_child(a->model, directory, a->op->name);
	if (!node)
		return -ENOENT;
	node->lookups++;
	return 0;
}

/* A new inode as create and tmpfile make it. */
static struct model_node *new_node(const struct applying *a, const struct model_node *parent)
{
	const struct ash_create *create = &a->op->create;
	uint32_t mode = S_ISLNK(create->mode) ? (S_IFLNK | 0777) : (create->mode & ~(create->umask & 0777u));
	struct model_node *node = model_add_node(a->model, a->op->result_ino, mode);

	node->uid = create->uid;
	node->gid = create->gid;
	if (parent->mode & S_ISGID) {
		node->gid = parent->gid;
		if (S_ISDIR(mode))
			node->mode |= S_ISGID;
	}
	node->rdev = S_ISCHR(mode) || S_ISBLK(mode) ? create->rdev : 0;
	/* nodump and noatime, and synchronous where there is data to write */
	node->flags = parent->flags & (S_ISREG(mode) || S_ISDIR(mode) ? 0xc8u : 0xc0u);
	node->atime = node->mtime = node->ctime = node->btime = a->op->time;
	node->lookups = 1;
	touch(a, node);
	return node;
}

static int64_t apply_create(const struct applying *a)
{
	int64_t error;
	struct model_node *directory = directory_for(a->model, a->op->ino, a->op->name, &error), *node;

	if (!directory)
		return error;
	if (model_find_entry(directory, a->op->name))
		return -EEXIST;
	if (directory->nlink == 0)
		return -ENOENT;
	if (a->op->result < 0)
		return 0;
	node = new_node(a, directory);
	if (S_ISDIR(node->mode)) {
		node->parent = directory->ino;
		directory->nlink++;
	}
	if (S_ISLNK(node->mode)) {
		node->target = test_strdup(a->op->target);
		node->size = strlen(a->op->target);
	}
	model_add_entry(directory, a->op->name, node->ino);
	touch_directory(a, directory);
	return 0;
}

static int64_t apply_tmpfile(const struct applying *a)
{
	struct model_node *directory = model_find(a->model, a->op->ino), *node;

	if (!directory)
		return -ESTALE;
	if (!S_ISDIR(directory->mode))
		return -ENOTDIR;
	if (directory->nlink == 0)
		return -ENOENT;
	if (a->op->result < 0)
		return 0;
	node = new_node(a, directory);
	node->nlink = 0;
	node->temporary = true;
	return 0;
}

static int64_t apply_link(const struct applying *a)
{
	int64_t error;
	struct model_node *directory = directory_for(a->model, a->op->ino, a->op->name, &error);
	struct model_node *node = model_find(a->model, a->op->ino2);

	if (!directory)
		return error;
	if (!node)
		return -ESTALE;
	if (S_ISDIR(node->mode))
		return -EPERM;
	if (model_find_entry(directory, a->op->name))
		return -EEXIST;
	if (directory->nlink == 0 || (node->nlink == 0 && !node->temporary))
		return -ENOENT;
	node->nlink++;
	node->lookups++;
	node->temporary = false;
	touch_ctime(a, node);
	model_add_entry(directory, a->op->name, node->ino);
	touch_directory(a, directory);
	return 0;
}

static int64_t apply_unlink(const struct applying *a)
{
	int64_t error;
	struct model_node *directory = directory_for(a->model, a->op->ino, a->op->name, &error), *node;

	if (!directory)
		return error;
	node = model_child(a->model, directory, a->op->name);
	if (!node)
		return -ENOENT;
	if (S_ISDIR(node->mode))
		return -EISDIR;
	model_remove_entry(directory, a->op->name);
	touch_directory(a, directory);
	node->nlink--;
	touch_ctime(a, node);
	release_if_dead(a->model, node);
	return 0;
}

/* A directory loses its only name. */
static void kill_directory(const struct applying *a, struct model_node *parent, struct model_node *node)
{
	parent->nlink--;
	node->nlink = 0;
	touch_ctime(a, node);
	release_if_dead(a->model, node);
}

static int64_t apply_rmdir(const struct applying *a)
{
	int64_t error;
	struct model_node *directory = directory_for(a->model, a->op->ino, a->op->name, &error), *node;

	if (!directory)
		return error;
	node = model_child(a->model, directory, a->op->name);
	if (!node)
		return -ENOENT;
	if (!S_ISDIR(node->mode))
		return -ENOTDIR;
	if (node->entry_count)
		return -ENOTEMPTY;
	model_remove_entry(directory, a->op->name);
	touch_directory(a, directory);
	kill_directory(a, directory, node);
	return 0;
}

/* Is `node` the directory `ancestor` or below it? */
static bool is_below(const struct model *model, const struct model_node *node, const struct model_node *ancestor)
{
	while (node && node != ancestor && node->ino != 1)
		node = model_find(model, node->parent);
	return node == ancestor;
}

/* A directory moves to another parent: its link count and ".." with it. */
static void move_parent(struct model_node *node, struct model_node *from, struct model_node *to)
{
	if (!S_ISDIR(node->mode) || from == to)
		return;
	from->nlink--;
	to->nlink++;
	node->parent = to->ino;
}

static int64_t exchange(const struct applying *a, struct model_node *from, struct model_node *to,
			struct model_node *node, struct model_node *other)
{
	if (!other)
		return -ENOENT;
	if (node == other)
		return 0;
	if ((S_ISDIR(node->mode) && is_below(a->model, to, node)) ||
	    (S_ISDIR(other->mode) && is_below(a->model, from, other)))
		return -EINVAL;
	model_find_entry(from, a->op->name)->ino = other->ino;
	model_find_entry(to, a->op->name2)->ino = node->ino;
	move_parent(node, from, to);
	move_parent(other, to, from);
	touch_ctime(a, node);
	touch_ctime(a, other);
	touch_directory(a, from);
	touch_directory(a, to);
	return 0;
}

/* May `node` take the place of `other`? */
static int64_t may_replace(const struct model_node *node, const struct model_node *other)
{
	if (S_ISDIR(node->mode) && !S_ISDIR(other->mode))
		return -ENOTDIR;
	if (!S_ISDIR(node->mode) && S_ISDIR(other->mode))
		return -EISDIR;
	return S_ISDIR(other->mode) && other->entry_count ? -ENOTEMPTY : 0;
}

static int64_t apply_rename(const struct applying *a)
{
	int64_t error, error2;
	struct model_node *from = directory_for(a->model, a->op->ino, a->op->name, &error), *node, *other;
	struct model_node *to = directory_for(a->model, a->op->ino2, a->op->name2, &error2);

	if ((a->op->flags & ~(RENAME_NOREPLACE | RENAME_EXCHANGE | RENAME_WHITEOUT)) ||
	    ((a->op->flags & RENAME_EXCHANGE) && a->op->flags != RENAME_EXCHANGE))
		return -EINVAL;
	if (!from || !to)
		return error ? error : error2;
	node = model_child(a->model, from, a->op->name);
	other = model_child(a->model, to, a->op->name2);
	if (!node)
		return -ENOENT;
	if (a->op->flags & RENAME_EXCHANGE)
		return exchange(a, from, to, node, other);
	if (other && (a->op->flags & RENAME_NOREPLACE))
		return -EEXIST;
	if (node == other) {
		node->lookups += a->op->flags & RENAME_WHITEOUT ? 1 : 0; /* run.c looks for the whiteout */
		return 0;
	}
	if (to->nlink == 0)
		return -ENOENT; /* removed: it is below nothing any more */
	if (S_ISDIR(node->mode) && is_below(a->model, to, node))
		return -EINVAL;
	error = other ? may_replace(node, other) : 0;
	if (error)
		return error;
	model_remove_entry(from, a->op->name);
	if (other)
		model_remove_entry(to, a->op->name2);
	model_add_entry(to, a->op->name2, node->ino);
	if (a->op->flags & RENAME_WHITEOUT)
		model_add_entry(from, a->op->name, new_node(a, from)->ino);
	move_parent(node, from, to);
	touch_ctime(a, node);
	touch_directory(a, from);
	touch_directory(a, to);
	if (other && S_ISDIR(other->mode)) {
		kill_directory(a, to, other);
	} else if (other) {
		other->nlink--;
		touch_ctime(a, other);
		release_if_dead(a->model, other);
	}
	return 0;
}

static int64_t apply_readlink(const struct applying *a)
{
	struct model_node *node = model_find(a->model, a->op->ino);

	if (!node)
		return -ESTALE;
	if (!S_ISLNK(node->mode))
		return -EINVAL;
	node->atime_known = false;
	return (int64_t)node->size;
}

static int64_t apply_forget(const struct applying *a)
{
	struct model_node *node = model_find(a->model, a->op->ino);

	if (!node)
		return 0;
	node->lookups -= a->op->length < node->lookups ? a->op->length : node->lookups;
	release_if_dead(a->model, node);
	return 0;
}

/* True: there was something to take. */
static bool kill_privileges(struct model_node *node, bool suid)
{
	uint32_t mode = node->mode;
	bool killed = model_remove_xattr(node, CAPABILITY);

	if (!suid)
		return killed;
	node->mode &= ~(uint32_t)S_ISUID;
	if (node->mode & S_IXGRP)
		node->mode &= ~(uint32_t)S_ISGID;
	return killed || node->mode != mode;
}

static void set_size(struct model_node *node, uint64_t size)
{
	if (size < node->size)
		content_zero(&node->content, size, UINT64_MAX - size);
	if (!size && node->size)
		node->emptied = true;
	node->size = size;
}

static int64_t check_setattr(const struct model_node *node, const struct ash_setattr *change)
{
	if (!node)
		return -ESTALE;
	if (!(change->valid & ASH_SET_SIZE))
		return 0;
	if (S_ISDIR(node->mode))
		return -EISDIR;
	if (!S_ISREG(node->mode))
		return -EINVAL;
	return change->size > SIZE_LIMIT ? -EFBIG : 0;
}

static void set_times(const struct applying *a, struct model_node *node)
{
	const struct ash_setattr *change = &a->op->change;

	if (change->valid & ASH_SET_ATIME)
		node->atime = ns_of(change->atime);
	if (change->valid & ASH_SET_ATIME_NOW)
		node->atime = a->op->time;
	if (change->valid & (ASH_SET_ATIME | ASH_SET_ATIME_NOW))
		node->atime_known = true;
	if (change->valid & ASH_SET_MTIME)
		node->mtime = ns_of(change->mtime);
	else if (change->valid & (ASH_SET_MTIME_NOW | ASH_SET_SIZE))
		node->mtime = a->op->time;
	node->ctime = change->valid & ASH_SET_CTIME ? ns_of(change->ctime) : a->op->time;
}

static int64_t apply_setattr(const struct applying *a)
{
	struct model_node *node = model_find(a->model, a->op->ino);
	const struct ash_setattr *change = &a->op->change;
	const uint32_t only_times = ASH_SET_ATIME | ASH_SET_MTIME | ASH_SET_CTIME | ASH_SET_ATIME_NOW |
				    ASH_SET_MTIME_NOW;
	int64_t error = check_setattr(node, change);

	if (error || !change->valid)
		return error;
	if (change->valid & ASH_SET_UID)
		node->uid = change->uid;
	if (change->valid & ASH_SET_GID)
		node->gid = change->gid;
	if (change->valid & ASH_SET_FLAGS)
		node->flags = change->flags;
	if (!S_ISDIR(node->mode) &&
	    (change->valid & (ASH_SET_UID | ASH_SET_GID | ASH_SET_SIZE | ASH_SET_KILL_SUIDGID | ASH_SET_KILL_PRIV)))
		kill_privileges(node, change->valid & (ASH_SET_KILL_SUIDGID | ASH_SET_UID | ASH_SET_GID));
	if (change->valid & ASH_SET_MODE) /* said in the same call: it stays */
		node->mode = (node->mode & S_IFMT) | (change->mode & 07777u);
	if (change->valid & ASH_SET_SIZE)
		set_size(node, change->size);
	set_times(a, node);
	node->last_operation = a->index;
	if (change->valid & ~only_times)
		node->last_not_only_times = a->index;
	return 0;
}

static int64_t check_file(const struct model_node *node)
{
	if (!node)
		return -ESTALE;
	if (S_ISDIR(node->mode))
		return -EISDIR;
	return S_ISREG(node->mode) ? 0 : -EINVAL;
}

static int64_t apply_read(const struct applying *a)
{
	struct model_node *node = model_find(a->model, a->op->ino);
	int64_t error = check_file(node);
	uint64_t rest;

	if (error)
		return error;
	if (a->op->length)
		node->atime_known = false;
	if (a->op->offset >= node->size)
		return 0;
	rest = node->size - a->op->offset;
	return (int64_t)(a->op->length < rest ? a->op->length : rest);
}

static void write_content(struct model_node *node, uint64_t offset, uint64_t length, uint32_t pattern,
			  uint64_t pattern_offset)
{
	unsigned char *data = test_alloc(length);

	pattern_fill(data, length, pattern_offset, pattern);
	content_write(&node->content, offset, data, length);
	if (offset + length > node->size)
		node->size = offset + length;
	node->emptied = false;
	free(data);
}

static int64_t apply_write(const struct applying *a)
{
	struct model_node *node = model_find(a->model, a->op->ino);
	int64_t error = check_file(node);
	uint64_t offset, length = a->op->length, result;

	if (error)
		return error;
	offset = a->op->flags & ASH_WRITE_APPEND ? node->size : a->op->offset;
	if (!length)
		return 0;
	if (offset >= SIZE_LIMIT)
		return -EFBIG;
	if (length > SIZE_LIMIT - offset)
		length = SIZE_LIMIT - offset;
	result = length;
	if (a->op->result > 0 && (uint64_t)a->op->result < length) /* ENOSPC on the way */
		length = (uint64_t)a->op->result;
	else if (a->op->result <= 0)
		return (int64_t)result;
	write_content(node, offset, length, a->op->pattern, offset);
	if (a->op->flags & ASH_WRITE_NO_TIMES) /* the kernel saw to times and privileges before */
		return (int64_t)result;
	kill_privileges(node, a->op->flags & ASH_WRITE_KILL_SUIDGID);
	node->mtime = node->ctime = a->op->time;
	return (int64_t)result;
}

static int64_t apply_fallocate(const struct applying *a)
{
	struct model_node *node = model_find(a->model, a->op->ino);
	int64_t error = check_file(node);
	int mode = a->op->flags;
	uint64_t end;

	if (error)
		return error;
	if (mode != 0 && mode != FALLOC_FL_KEEP_SIZE && mode != (FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE) &&
	    mode != FALLOC_FL_ZERO_RANGE && mode != (FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE))
		return -EOPNOTSUPP;
	if (!a->op->length)
		return -EINVAL;
	if (a->op->offset > SIZE_LIMIT || a->op->length > SIZE_LIMIT - a->op->offset)
		return -EFBIG;
	if (a->op->result < 0)
		return 0;
	end = a->op->offset + a->op->length;
	if (mode & (FALLOC_FL_PUNCH_HOLE | FALLOC_FL_ZERO_RANGE))
		content_zero(&node->content, a->op->offset, a->op->length);
	if ((mode & (FALLOC_FL_PUNCH_HOLE | FALLOC_FL_ZERO_RANGE)) ||
	    (!(mode & FALLOC_FL_KEEP_SIZE) && end > node->size))
		node->mtime = a->op->time; /* what can be read has changed */
	kill_privileges(node, false);
	if (!(mode & FALLOC_FL_KEEP_SIZE) && end > node->size)
		node->size = end;
	touch_ctime(a, node);
	return 0;
}

static int64_t apply_copy(const struct applying *a)
{
	struct model_node *from = model_find(a->model, a->op->ino), *to = model_find(a->model, a->op->ino2);
	int64_t error = check_file(from) ? check_file(from) : check_file(to);
	uint64_t length = a->op->length;
	unsigned char *data;

	if (error)
		return error;
	if (a->op->offset >= from->size)
		return 0;
	if (length > from->size - a->op->offset)
		length = from->size - a->op->offset;
	if (from == to && a->op->offset < a->op->offset2 + length && a->op->offset2 < a->op->offset + length)
		return -EINVAL;
	if (a->op->result <= 0 || (uint64_t)a->op->result > length)
		return (int64_t)length;
	length = (uint64_t)a->op->result; /* copying less is allowed */
	data = test_alloc(length);
	content_read(&from->content, a->op->offset, data, length);
	content_write(&to->content, a->op->offset2, data, length);
	free(data);
	if (a->op->offset2 + length > to->size)
		to->size = a->op->offset2 + length;
	to->emptied = false; /* a copy promises nothing */
	kill_privileges(to, false);
	from->atime_known = false;
	to->mtime = to->ctime = a->op->time;
	return a->op->result;
}

static int64_t check_xattr(const struct model_node *node, const char *name)
{
	if (!node)
		return -ESTALE;
	if (strlen(name) > 255)
		return -ERANGE;
	return strchr(name, '.') && strncmp(name, "bogus.", 6) ? 0 : -EOPNOTSUPP;
}

static int64_t apply_getxattr(const struct applying *a)
{
	struct model_node *node = model_find(a->model, a->op->ino);
	int64_t error = check_xattr(node, a->op->name);
	struct model_xattr *xattr;

	if (error)
		return error;
	xattr = model_find_xattr(node, a->op->name);
	if (!xattr)
		return -ENODATA;
	return a->op->length && a->op->length < xattr->size ? -ERANGE : (int64_t)xattr->size;
}

static int64_t apply_setxattr(const struct applying *a)
{
	struct model_node *node = model_find(a->model, a->op->ino);
	int64_t error = check_xattr(node, a->op->name);
	struct model_xattr *xattr;
	unsigned char *value;

	if (error)
		return error;
	if (a->op->length > 65536)
		return -E2BIG;
	xattr = model_find_xattr(node, a->op->name);
	if (xattr && (a->op->flags & XATTR_CREATE))
		return -EEXIST;
	if (!xattr && (a->op->flags & XATTR_REPLACE))
		return -ENODATA;
	if (a->op->result < 0)
		return 0;
	value = test_alloc(a->op->length);
	pattern_fill(value, a->op->length, 0, a->op->pattern);
	model_set_xattr(node, a->op->name, value, a->op->length);
	free(value);
	touch_ctime(a, node);
	return 0;
}

static int64_t apply_listxattr(const struct applying *a)
{
	struct model_node *node = model_find(a->model, a->op->ino);
	size_t size = 0;

	if (!node)
		return -ESTALE;
	for (size_t i = 0; i < node->xattr_count; i++)
		size += strlen(node->xattrs[i].name) + 1;
	return a->op->length && a->op->length < size ? -ERANGE : (int64_t)size;
}

static int64_t apply_removexattr(const struct applying *a)
{
	struct model_node *node = model_find(a->model, a->op->ino);
	int64_t error = check_xattr(node, a->op->name);

	if (error)
		return error;
	if (!model_remove_xattr(node, a->op->name))
		return -ENODATA;
	touch_ctime(a, node);
	return 0;
}

static int64_t apply_nothing(const struct applying *a)
{
	(void)a;
	return 0;
}

static int64_t apply_on_inode(const struct applying *a)
{
	return model_find(a->model, a->op->ino) ? 0 : -ESTALE;
}

static int64_t apply_readdir(const struct applying *a)
{
	struct model_node *node = model_find(a->model, a->op->ino);

	if (!node)
		return -ESTALE;
	if (!S_ISDIR(node->mode))
		return -ENOTDIR;
	node->atime_known = false;
	return 0;
}

/* The answer is a matter of judgement (seek_allowed in run.c): a hole may be reported as data. */
static int64_t apply_seek(const struct applying *a)
{
	struct model_node *node = model_find(a->model, a->op->ino);
	int64_t error = check_file(node);

	return error ? error : a->op->offset >= node->size ? -ENXIO : a->op->result;
}

int64_t model_apply(struct model *model, const struct op *op, uint64_t index)
{
	static int64_t (*const functions[OP_KINDS])(const struct applying *) = {
		[OP_NONE] = apply_nothing,        [OP_LOOKUP] = apply_lookup,
		[OP_CREATE] = apply_create,       [OP_TMPFILE] = apply_tmpfile,
		[OP_LINK] = apply_link,           [OP_UNLINK] = apply_unlink,
		[OP_RMDIR] = apply_rmdir,         [OP_RENAME] = apply_rename,
		[OP_READLINK] = apply_readlink,   [OP_FORGET] = apply_forget,
		[OP_GETATTR] = apply_on_inode,    [OP_SETATTR] = apply_setattr,
		[OP_READDIR] = apply_readdir,     [OP_READ] = apply_read,
		[OP_WRITE] = apply_write,         [OP_FALLOCATE] = apply_fallocate,
		[OP_SEEK] = apply_seek,           [OP_COPY_RANGE] = apply_copy,
		[OP_GETXATTR] = apply_getxattr,   [OP_SETXATTR] = apply_setxattr,
		[OP_LISTXATTR] = apply_listxattr, [OP_REMOVEXATTR] = apply_removexattr,
		[OP_FSYNC] = apply_on_inode,      [OP_WRITE_BACK] = apply_on_inode,
		[OP_SYNC] = apply_nothing,        [OP_CHECKPOINT] = apply_nothing,
		[OP_STATFS] = apply_nothing,
	};
	struct applying applying = { model, op, index };

	return functions[op->kind](&applying);
}

/* ---- Operations as data ---- */

void op_free(struct op *op)
{
	free(op->target);
	op->target = NULL;
}

void op_copy(struct op *to, const struct op *from)
{
	*to = *from;
	to->target = from->target ? test_strdup(from->target) : NULL;
	to->create.target = to->target;
}

static uint64_t hash_bytes(uint64_t hash, const void *bytes, size_t length)
{
	const unsigned char *from = bytes;

	for (size_t i = 0; i < length; i++)
		hash = (hash ^ from[i]) * 0x100000001b3ull; /* FNV-1a */
	return hash;
}

uint64_t op_hash(const struct op *op)
{
	const struct ash_setattr *change = &op->change;
	const uint64_t numbers[] = {
		(uint64_t)op->kind,
		op->ino,
		op->ino2,
		op->offset,
		op->offset2,
		op->length,
		op->pattern,
		(uint64_t)op->flags,
		(uint64_t)op->time,
		(uint64_t)op->result,
		op->result_ino,
		op->create.mode,
		op->create.umask,
		op->create.uid,
		op->create.gid,
		op->create.rdev,
		change->valid,
		change->mode,
		change->uid,
		change->gid,
		change->flags,
		change->size,
		(uint64_t)ns_of(change->atime),
		(uint64_t)ns_of(change->mtime),
		(uint64_t)ns_of(change->ctime),
	};
	uint64_t hash = hash_bytes(0xcbf29ce484222325ull, numbers, sizeof(numbers));

	hash = hash_bytes(hash, op->name, strlen(op->name) + 1);
	hash = hash_bytes(hash, op->name2, strlen(op->name2) + 1);
	return op->target ? hash_bytes(hash, op->target, strlen(op->target)) : hash;
}

static const char *const kind_names[OP_KINDS] = {
	"none",        "lookup",    "create",     "tmpfile",    "link",       "unlink",   "rmdir",
	"rename",      "readlink",  "forget",     "getattr",    "setattr",    "readdir",  "read",
	"write",       "fallocate", "seek",       "copy_range", "getxattr",   "setxattr", "listxattr",
	"removexattr", "fsync",     "write_back", "sync",       "checkpoint", "statfs",
};

enum op_kind op_kind_by_name(const char *name)
{
	for (unsigned kind = 0; kind < OP_KINDS; kind++) {
		if (!strcmp(kind_names[kind], name))
			return (enum op_kind)kind;
	}
	return OP_NONE;
}

static int describe_arguments(const struct op *op, char *text, size_t size)
{
	unsigned long long ino = op->ino, ino2 = op->ino2, offset = op->offset, length = op->length;

	switch (op->kind) {
	case OP_CREATE:
	case OP_TMPFILE:
		return snprintf(text, size, "(%llu, \"%.24s\", mode 0%o, umask 0%o)", ino, op->name, op->create.mode,
				op->create.umask);
	case OP_LINK:
		return snprintf(text, size, "(ino %llu at %llu, \"%.24s\")", ino2, ino, op->name);
	case OP_RENAME:
		return snprintf(text, size, "(%llu, \"%.24s\" to %llu, \"%.24s\", flags %d)", ino, op->name, ino2,
				op->name2, op->flags);
	case OP_SETATTR:
		return snprintf(text, size, "(%llu, valid 0x%x, mode 0%o, size %llu)", ino, op->change.valid,
				op->change.mode, (unsigned long long)op->change.size);
	case OP_COPY_RANGE:
		return snprintf(text, size, "(%llu at %llu to %llu at %llu, length %llu)", ino, offset, ino2,
				(unsigned long long)op->offset2, length);
	case OP_LOOKUP:
	case OP_UNLINK:
	case OP_RMDIR:
	case OP_GETXATTR:
	case OP_SETXATTR:
	case OP_REMOVEXATTR:
		return snprintf(text, size, "(%llu, \"%.40s\", length %llu, flags %d)", ino, op->name, length,
				op->flags);
	default:
		return snprintf(text, size, "(%llu, offset %llu, length %llu, flags 0x%x)", ino, offset, length,
				(unsigned)op->flags);
	}
}

void op_describe(const struct op *op, char *text, size_t size)
{
	int used = snprintf(text, size, "%s", kind_names[op->kind]);

	used += describe_arguments(op, text + used, size - (size_t)used);
	if ((size_t)used < size && op->result_ino)
		snprintf(text + used, size - (size_t)used, " = %lld ino %llu", (long long)op->result,
			 (unsigned long long)op->result_ino);
	else if ((size_t)used < size)
		snprintf(text + used, size - (size_t)used, " = %lld", (long long)op->result);
}
