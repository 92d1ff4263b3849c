/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The calls that workloads are written in: each fills an operation and hands it to script_do(), which runs it on volume
 * and model, marks its begin and end in the recording and keeps it in the history. After a wrong answer the rest of a
 * workload is skipped. One thread.
 */
#include "script.h"

#include <errno.h>
#include <libgen.h>
#include <linux/fs.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "fs/engine.h"
#include "tests/support/record.h"

#define DISCARD_NS 3600000000000ull /* all of them */

static void mark(struct script *s, uint64_t value)
{
	if (s->recording && record_mark(s->dev, value))
		abort();
}

/* What a volume would answer when nothing is in the way; the inode numbers are made up. */
static void imagine(struct script *s, struct op *op)
{
	const struct model_node *directory = model_find(&s->model, op->ino), *node;

	op->time = s->runner.clock += 1000;
	if (op->kind == OP_CREATE || op->kind == OP_TMPFILE) {
		op->result_ino = 1000000 + s->next_pattern++;
	} else if (op->kind == OP_LINK) {
		op->result_ino = op->ino2;
	} else if (op->kind == OP_LOOKUP) {
		node = directory ? model_child(&s->model, directory, op->name) : NULL;
		op->result_ino = node ? node->ino : 0;
	} else if (op->kind == OP_WRITE) {
		op->result = (int64_t)op->length;
	} else if (op->kind == OP_COPY_RANGE) {
		op->result = model_apply(&s->model, op, 0); /* asked only: it is not applied with a result of 0 */
		s->failed |= op->result <= 0;
	}
	if (!s->failed)
		s->failed = model_apply(&s->model, op, 0) < 0;
}

/* The volumes have no worker, which would come by at any time: so after each operation. */
static void discard_freed(struct script *s)
{
	struct ash_volume *volume = s->runner.volume;

	volume->discards_later = true;
	ash_alloc_reap(volume);
	ash_alloc_discard(volume, DISCARD_NS);
}

void script_do(struct script *s, struct op *op)
{
	size_t index = s->history.count;
	bool fits;

	if (s->failed)
		return;
	if (s->dry) {
		imagine(s, op);
		return;
	}
	if (s->execute) {
		s->execute(s, op);
		return;
	}
	mark(s, MARK_BEGIN(index));
	fits = runner_do(&s->runner, op);
	if (s->workload->discard)
		discard_freed(s);
	mark(s, MARK_END(index));
	if (s->recording)
		history_add(&s->history, op);
	if (!fits) {
		s->failed = true;
		op_describe(op, s->failed_operation, sizeof(s->failed_operation));
	}
}

bool was_full(const struct script *s)
{
	return s->failed || (s->history.count && s->history.ops[s->history.count - 1].result == -ENOSPC);
}

uint64_t script_ino(struct script *s, const char *path)
{
	struct model_node *node = model_path(&s->model, path);

	if (!node && !s->failed && (s->dry || !s->workload->may_fill)) {
		s->failed = true;
		snprintf(s->runner.failure, sizeof(s->runner.failure), "the workload is wrong: no %.900s", path);
	}
	return node ? node->ino : 0;
}

/* Parent's number, and the name into `name`. */
static uint64_t split(struct script *s, const char *path, char name[OP_NAME_SIZE])
{
	const char *slash = strrchr(path, '/');
	char parent[1024];

	snprintf(parent, sizeof(parent), "%.*s", (int)(slash - path), path);
	snprintf(name, OP_NAME_SIZE, "%s", slash + 1);
	return script_ino(s, parent);
}

static void give_back(struct script *s, const struct op *op)
{
	if (op->result == 0 && op->result_ino)
		do_forget(s, op->result_ino);
}

static void create(struct script *s, const char *path, uint32_t mode, char *target)
{
	struct op op = { .kind = OP_CREATE, .target = target, .create = { .mode = mode, .umask = 022, .rdev = 0x501 } };

	op.ino = split(s, path, op.name);
	script_do(s, &op);
	give_back(s, &op);
	op_free(&op);
}

void do_create_mode(struct script *s, const char *path, uint32_t mode)
{
	create(s, path, mode, NULL);
}

void do_create(struct script *s, const char *path)
{
	create(s, path, S_IFREG | 0644, NULL);
}

void do_mkdir(struct script *s, const char *path)
{
	create(s, path, S_IFDIR | 0755, NULL);
}

void do_symlink(struct script *s, const char *path, size_t target_length)
{
	char *target = test_alloc(target_length + 1);

	memset(target, 't', target_length);
	create(s, path, S_IFLNK | 0777, target);
}

void do_link(struct script *s, const char *old, const char *path)
{
	do_link_ino(s, script_ino(s, old), path);
}

void do_link_ino(struct script *s, uint64_t ino, const char *path)
{
	struct op op = { .kind = OP_LINK, .ino2 = ino };

	op.ino = split(s, path, op.name);
	script_do(s, &op);
	give_back(s, &op);
}

static void remove_name(struct script *s, enum op_kind kind, const char *path)
{
	struct op op = { .kind = kind };

	op.ino = split(s, path, op.name);
	script_do(s, &op);
}

void do_unlink(struct script *s, const char *path)
{
	remove_name(s, OP_UNLINK, path);
}

void do_rmdir(struct script *s, const char *path)
{
	remove_name(s, OP_RMDIR, path);
}

void do_rename(struct script *s, const char *from, const char *to, int flags)
{
	struct op op = { .kind = OP_RENAME, .flags = flags, .create = { .mode = S_IFCHR } };

	op.ino = split(s, from, op.name);
	op.ino2 = split(s, to, op.name2);
	script_do(s, &op);
}

uint64_t do_open(struct script *s, const char *path)
{
	struct op op = { .kind = OP_LOOKUP };

	op.ino = split(s, path, op.name);
	script_do(s, &op);
	return op.result_ino;
}

uint64_t do_tmpfile(struct script *s, const char *directory)
{
	struct op op = { .kind = OP_TMPFILE, .ino = script_ino(s, directory), .create = { .mode = S_IFREG | 0600 } };

	script_do(s, &op);
	return op.result_ino;
}

void do_forget(struct script *s, uint64_t ino)
{
	struct op op = { .kind = OP_FORGET, .ino = ino, .length = 1 };

	script_do(s, &op);
}

void do_write_ino(struct script *s, uint64_t ino, uint64_t offset, size_t length, int flags)
{
	struct op op = { .kind = OP_WRITE,
			 .ino = ino,
			 .offset = offset,
			 .length = length,
			 .flags = flags,
			 .pattern = ++s->next_pattern };

	script_do(s, &op);
}

void do_write(struct script *s, const char *path, uint64_t offset, size_t length, int flags)
{
	do_write_ino(s, script_ino(s, path), offset, length, flags);
}

void do_truncate_ino(struct script *s, uint64_t ino, uint64_t size)
{
	struct op op = { .kind = OP_SETATTR, .ino = ino, .change = { .valid = ASH_SET_SIZE, .size = size } };

	script_do(s, &op);
}

void do_truncate(struct script *s, const char *path, uint64_t size)
{
	do_truncate_ino(s, script_ino(s, path), size);
}

void do_fallocate(struct script *s, const char *path, int mode, uint64_t offset, uint64_t length)
{
	struct op op = {
		.kind = OP_FALLOCATE, .ino = script_ino(s, path), .flags = mode, .offset = offset, .length = length
	};

	script_do(s, &op);
}

void do_copy(struct script *s, const char *from, uint64_t from_offset, const char *to, uint64_t to_offset,
	     uint64_t length)
{
	struct op op = { .kind = OP_COPY_RANGE,
			 .ino = script_ino(s, from),
			 .ino2 = script_ino(s, to),
			 .offset = from_offset,
			 .offset2 = to_offset,
			 .length = length };

	script_do(s, &op);
}

static void setattr(struct script *s, const char *path, const struct ash_setattr *change)
{
	struct op op = { .kind = OP_SETATTR, .ino = script_ino(s, path), .change = *change };

	script_do(s, &op);
}

void do_chmod(struct script *s, const char *path, uint32_t mode)
{
	setattr(s, path, &(struct ash_setattr){ .valid = ASH_SET_MODE, .mode = mode });
}

void do_chown(struct script *s, const char *path, uint32_t uid, uint32_t gid)
{
	setattr(s, path, &(struct ash_setattr){ .valid = ASH_SET_UID | ASH_SET_GID, .uid = uid, .gid = gid });
}

void do_times(struct script *s, const char *path, int64_t seconds)
{
	setattr(s, path,
		&(struct ash_setattr){ .valid = ASH_SET_ATIME | ASH_SET_MTIME,
				       .atime = { .tv_sec = seconds },
				       .mtime = { .tv_sec = seconds + 1, .tv_nsec = 17 } });
}

void do_setxattr(struct script *s, const char *path, const char *name, size_t length)
{
	struct op op = {
		.kind = OP_SETXATTR, .ino = script_ino(s, path), .length = length, .pattern = ++s->next_pattern
	};

	snprintf(op.name, sizeof(op.name), "%s", name);
	script_do(s, &op);
}

void do_removexattr(struct script *s, const char *path, const char *name)
{
	struct op op = { .kind = OP_REMOVEXATTR, .ino = script_ino(s, path) };

	snprintf(op.name, sizeof(op.name), "%s", name);
	script_do(s, &op);
}

static void on_inode(struct script *s, enum op_kind kind, const char *path, int flags)
{
	struct op op = { .kind = kind, .ino = script_ino(s, path), .flags = flags };

	script_do(s, &op);
}

void do_fsync_ino(struct script *s, uint64_t ino, bool data_only)
{
	script_do(s, &(struct op){ .kind = OP_FSYNC, .ino = ino, .flags = data_only });
}

void do_fsync(struct script *s, const char *path)
{
	on_inode(s, OP_FSYNC, path, 0);
}

void do_fdatasync(struct script *s, const char *path)
{
	on_inode(s, OP_FSYNC, path, 1);
}

void do_write_back(struct script *s, const char *path)
{
	on_inode(s, OP_WRITE_BACK, path, 0);
}

void do_sync(struct script *s)
{
	script_do(s, &(struct op){ .kind = OP_SYNC });
}

void do_grow(struct script *s, uint64_t blocks)
{
	struct ash_volume_info info;
	int error;

	if (s->failed || s->dry)
		return;
	if (s->growths == SCRIPT_GROWTHS)
		abort();
	s->sizes[s->growths + 1] = blocks;
	mark(s, MARK_GROWTH_BEGIN);
	error = ash_grow(s->runner.volume, blocks);
	mark(s, MARK_GROWTH_END);
	s->growths++;
	ash_volume_info(s->runner.volume, &info);
	if (!error && info.block_count == blocks)
		return;
	s->failed = true;
	snprintf(s->failed_operation, sizeof(s->failed_operation), "grow to %llu blocks", (unsigned long long)blocks);
	snprintf(s->runner.failure, sizeof(s->runner.failure), "%s, now %llu blocks", strerror(-error),
		 (unsigned long long)info.block_count);
}

void do_checkpoint(struct script *s)
{
	script_do(s, &(struct op){ .kind = OP_CHECKPOINT });
}
