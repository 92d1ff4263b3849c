/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * One operation on volume and model: see run.h. The volume goes first, since the model takes the inode numbers and the
 * length of short writes from it; every other answer is the model's own. One thread; the core may have its own.
 */
#include "run.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static _Atomic int64_t clock_ns = 1000000000000000000;

struct timespec __wrap_ash_now(void);

struct timespec __wrap_ash_now(void)
{
	int64_t ns = atomic_load(&clock_ns);

	return (struct timespec){ .tv_sec = ns / 1000000000, .tv_nsec = ns % 1000000000 };
}

void test_clock_set(int64_t ns)
{
	atomic_store(&clock_ns, ns);
}

/* ---- Calls ---- */

static int64_t call_with_data(struct ash_volume *volume, struct op *op, void *data)
{
	unsigned char *own = NULL;
	int64_t result;

	if (!data || op->kind == OP_WRITE || op->kind == OP_SETXATTR) {
		own = test_alloc(op->length);
		data = own;
	}
	switch (op->kind) {
	case OP_READ:
		result = ash_read(volume, op->ino, data, op->length, op->offset);
		break;
	case OP_WRITE: {
		uint64_t offset = op->offset;

		if (op->flags & ASH_WRITE_APPEND) { /* the pattern is a function of the place */
			struct ash_attr attr;

			if (!ash_getattr(volume, op->ino, &attr))
				offset = attr.size;
		}
		pattern_fill(data, op->length, offset, op->pattern);
		result = ash_write(volume, op->ino, data, op->length, op->offset, (unsigned)op->flags);
		break;
	}
	case OP_READLINK:
		result = ash_readlink(volume, op->ino, data, op->length);
		break;
	case OP_GETXATTR:
		result = ash_getxattr(volume, op->ino, op->name, data, op->length);
		break;
	case OP_SETXATTR:
		pattern_fill(data, op->length, 0, op->pattern);
		result = ash_setxattr(volume, op->ino, op->name, data, op->length, op->flags);
		break;
	default:
		result = ash_listxattr(volume, op->ino, data, op->length);
		break;
	}
	free(own);
	return result;
}

/* The number of a whiteout is found by its name; once more when a planted fault hits that. */
static int64_t call_rename(struct ash_volume *volume, const struct op *op, struct ash_attr *attr)
{
	unsigned flags = (unsigned)op->flags;
	int64_t result;

	if (!(flags & RENAME_WHITEOUT))
		return ash_rename(volume, op->ino, op->name, op->ino2, op->name2, flags);
	result = ash_rename_whiteout(volume, op->ino, op->name, op->ino2, op->name2, flags & ~RENAME_WHITEOUT,
				     op->create.uid, op->create.gid);
	if (!result && ash_lookup(volume, op->ino, op->name, attr))
		result = ash_lookup(volume, op->ino, op->name, attr);
	return result;
}

static int64_t call_name(struct ash_volume *volume, struct op *op, struct ash_attr *attr)
{
	switch (op->kind) {
	case OP_LOOKUP:
		return ash_lookup(volume, op->ino, op->name, attr);
	case OP_CREATE:
		return ash_create(volume, op->ino, op->name, &op->create, attr);
	case OP_TMPFILE:
		return ash_tmpfile(volume, op->ino, &op->create, attr);
	case OP_LINK:
		return ash_link(volume, op->ino2, op->ino, op->name, attr);
	case OP_UNLINK:
		return ash_unlink(volume, op->ino, op->name, NULL);
	case OP_RMDIR:
		return ash_rmdir(volume, op->ino, op->name, NULL);
	default:
		return call_rename(volume, op, attr);
	}
}

static int64_t call_other(struct ash_volume *volume, struct op *op, struct ash_attr *attr)
{
	struct ash_statfs statfs;

	switch (op->kind) {
	case OP_FORGET:
		ash_forget(volume, op->ino, op->length);
		return 0;
	case OP_GETATTR:
		return ash_getattr(volume, op->ino, attr);
	case OP_SETATTR:
		return ash_setattr(volume, op->ino, &op->change, attr);
	case OP_FALLOCATE:
		return ash_fallocate(volume, op->ino, op->flags, op->offset, op->length);
	case OP_SEEK:
		return ash_seek(volume, op->ino, op->offset, op->flags);
	case OP_COPY_RANGE:
		return ash_copy_range(volume, op->ino, op->offset, op->ino2, op->offset2, op->length);
	case OP_REMOVEXATTR:
		return ash_removexattr(volume, op->ino, op->name);
	case OP_FSYNC:
		return ash_fsync(volume, op->ino, op->flags);
	case OP_WRITE_BACK:
		return ash_write_back(volume, op->ino);
	case OP_SYNC:
		return ash_sync(volume);
	case OP_CHECKPOINT:
		return ash_checkpoint(volume);
	case OP_STATFS:
		return ash_statfs(volume, &statfs);
	default:
		return 0;
	}
}

int64_t run_on_volume(struct ash_volume *volume, struct op *op, struct ash_attr *attr, void *data)
{
	struct ash_attr own;

	attr = attr ? attr : &own;
	memset(attr, 0, sizeof(*attr));
	test_clock_set(op->time);
	op->create.target = op->target;
	switch (op->kind) {
	case OP_READ:
	case OP_WRITE:
	case OP_READLINK:
	case OP_GETXATTR:
	case OP_SETXATTR:
	case OP_LISTXATTR:
		op->result = call_with_data(volume, op, data);
		break;
	case OP_LOOKUP:
	case OP_CREATE:
	case OP_TMPFILE:
	case OP_LINK:
	case OP_UNLINK:
	case OP_RMDIR:
	case OP_RENAME:
		op->result = call_name(volume, op, attr);
		break;
	default:
		op->result = call_other(volume, op, attr);
		break;
	}
	if (op->result == 0 && (op->kind == OP_CREATE || op->kind == OP_TMPFILE || op->kind == OP_LOOKUP ||
				op->kind == OP_LINK || op->kind == OP_RENAME))
		op->result_ino = attr->ino;
	return op->result;
}

/* ---- Comparing ---- */

static bool differ(char *text, size_t size, const char *what, long long expected, long long got)
{
	snprintf(text, size, "%s: expected %lld (0x%llx), got %lld (0x%llx)", what, expected,
		 (unsigned long long)expected, got, (unsigned long long)got);
	return false;
}

static int64_t ns_of(struct timespec time)
{
	return time.tv_sec * 1000000000ll + time.tv_nsec;
}

static bool is_zero(const struct model_node *node, uint64_t from, uint64_t to)
{
	for (size_t i = content_seek(&node->content, from / CONTENT_PAGE); i < node->content.count; i++) {
		uint64_t start = node->content.slots[i].index * CONTENT_PAGE;

		for (size_t j = 0; j < CONTENT_PAGE && start + j < to; j++) {
			if (start + j >= from && node->content.slots[i].page->data[j])
				return false;
		}
	}
	return true;
}

bool attributes_fit(const struct model_node *node, const struct ash_attr *attr, char *text, size_t size)
{
	const struct {
		const char *name;
		uint64_t expected, got;
		bool skip;
	} fields[] = {
		{ "ino", node->ino, attr->ino, false },
		{ "mode", node->mode, attr->mode, false },
		{ "nlink", node->nlink, attr->nlink, false },
		{ "size", node->size, attr->size, S_ISDIR(node->mode) },
		{ "uid", node->uid, attr->uid, false },
		{ "gid", node->gid, attr->gid, false },
		{ "rdev", node->rdev, attr->rdev, false },
		{ "flags", node->flags, attr->flags, false },
		{ "atime", (uint64_t)node->atime, (uint64_t)ns_of(attr->atime), !node->atime_known },
		{ "mtime", (uint64_t)node->mtime, (uint64_t)ns_of(attr->mtime), false },
		{ "ctime", (uint64_t)node->ctime, (uint64_t)ns_of(attr->ctime), false },
		{ "btime", (uint64_t)node->btime, (uint64_t)ns_of(attr->btime), node->ino == 1 },
		{ "blocks above 0", 1, attr->blocks > 0, attr->blocks || is_zero(node, 0, node->size) },
	};

	for (size_t i = 0; i < sizeof(fields) / sizeof(*fields); i++) {
		if (!fields[i].skip && fields[i].expected != fields[i].got)
			return differ(text, size, fields[i].name, (long long)fields[i].expected,
				      (long long)fields[i].got);
	}
	return true;
}

/* SEEK_DATA may find "data" that is zero; what it skips must be zero. SEEK_HOLE must point at zeroes or at EOF. */
static bool seek_allowed(const struct model_node *node, const struct op *op)
{
	uint64_t at = (uint64_t)op->result;

	if (op->offset >= node->size)
		return op->result == -ENXIO;
	if (op->flags == SEEK_DATA && op->result == -ENXIO)
		return is_zero(node, op->offset, node->size);
	if (op->result < 0 || at < op->offset || at > node->size)
		return false;
	if (op->flags == SEEK_DATA)
		return at < node->size && is_zero(node, op->offset, at);
	return at == node->size || is_zero(node, at, at + 1);
}

struct listing {
	const struct model_node *node;
	uint64_t found, position;
	uint32_t stop_after; /* entries in one call */
	uint32_t emitted;
	bool wrong;
	char name[OP_NAME_SIZE];
};

static int listing_entry(void *context, const char *name, size_t length, uint64_t ino, unsigned type,
			 uint64_t next_position, const struct ash_attr *attr)
{
	struct listing *listing = context;
	const struct model_entry *entry;

	(void)type;
	(void)attr;
	if (listing->emitted == listing->stop_after)
		return 1;
	listing->emitted++;
	listing->position = next_position;
	snprintf(listing->name, sizeof(listing->name), "%.*s", (int)length, name);
	listing->found++;
	if (!strcmp(listing->name, ".") || !strcmp(listing->name, "..")) {
		uint64_t expected = listing->name[1] ? listing->node->parent : listing->node->ino;

		listing->wrong |= ino != expected && listing->node->nlink;
		return 0;
	}
	entry = model_find_entry(listing->node, listing->name);
	if (!entry || entry->ino != ino)
		listing->wrong = true;
	return listing->wrong;
}

/* Everything is listed once, in pieces of `stop_after` entries. */
static bool readdir_fits(struct runner *runner, const struct op *op)
{
	struct model_node *node = model_find(runner->model, op->ino);
	struct listing listing = { .node = node, .stop_after = op->length ? (uint32_t)op->length : UINT32_MAX };
	int result;

	if (node && S_ISDIR(node->mode) && node->nlink == 0)
		return true; /* removed: the kernel does not ask */
	if (!node || !S_ISDIR(node->mode))
		return ash_readdir(runner->volume, op->ino, 0, false, listing_entry, &listing) ==
		       (node ? -ENOTDIR : -ESTALE);
	do {
		listing.emitted = 0;
		result = ash_readdir(runner->volume, op->ino, listing.position, false, listing_entry, &listing);
		if (result < 0 || listing.wrong)
			break;
	} while (listing.emitted);
	if (result >= 0 && !listing.wrong && listing.found == node->entry_count + 2)
		return true;
	snprintf(runner->failure, sizeof(runner->failure),
		 "readdir of %llu: result %d, %llu entries, expected %llu, last \"%s\"%s", (unsigned long long)op->ino,
		 result, (unsigned long long)listing.found, (unsigned long long)node->entry_count + 2, listing.name,
		 listing.wrong ? " is wrong" : "");
	return false;
}

static bool list_fits(const struct model_node *node, const unsigned char *list, int64_t length)
{
	size_t found = 0;

	for (int64_t at = 0; at < length; at += (int64_t)strlen((const char *)list + at) + 1) {
		if (!model_find_xattr(node, (const char *)list + at))
			return false;
		found++;
	}
	return found == node->xattr_count;
}

/* Does what was read equal what the model holds? */
static bool data_fits(struct runner *runner, const struct op *op, const unsigned char *data)
{
	const struct model_node *node = model_find(runner->model, op->ino);
	const struct model_xattr *xattr;
	unsigned char *expected;
	size_t length = (size_t)op->result, bad = 0;

	if (!node || op->result <= 0 || !op->length)
		return true;
	if (op->kind == OP_LISTXATTR && !list_fits(node, data, op->result)) {
		snprintf(runner->failure, sizeof(runner->failure), "listxattr gives other names");
		return false;
	}
	if (op->kind != OP_READ && op->kind != OP_READLINK && op->kind != OP_GETXATTR)
		return true;
	length = length < op->length ? length : op->length;
	expected = test_alloc(length);
	if (op->kind == OP_READ)
		content_read(&node->content, op->offset, expected, length);
	else if (op->kind == OP_READLINK)
		memcpy(expected, node->target, length);
	else if ((xattr = model_find_xattr(node, op->name)) != NULL)
		memcpy(expected, xattr->value, length);
	while (bad < length && data[bad] == expected[bad])
		bad++;
	if (bad < length)
		snprintf(runner->failure, sizeof(runner->failure),
			 "byte %zu (offset %llu): expected 0x%02x, got 0x%02x", bad,
			 (unsigned long long)(op->offset + bad), expected[bad], data[bad]);
	free(expected);
	return bad == length;
}

/* Several mistakes in one call: which one is named first is not laid down. */
static bool another_mistake(const struct runner *runner, const struct op *op, int64_t expected)
{
	const struct model_node *other = model_find(runner->model, op->ino2);

	if (expected >= 0 || op->result >= 0)
		return false;
	if (op->result == -ENAMETOOLONG && strlen(op->name) > 255)
		return true;
	switch (op->kind) {
	case OP_LINK:
		return op->result == -EPERM && other && (S_ISDIR(other->mode) || op->ino == op->ino2);
	case OP_RENAME:
		return (expected == -EISDIR && op->result == -ENOTEMPTY) ||
		       (expected == -EINVAL && op->result == -ENOTEMPTY) || expected == -ENOTDIR ||
		       expected == -ENAMETOOLONG;
	case OP_FALLOCATE:
		return op->result == -EOPNOTSUPP || op->result == -EFBIG || op->result == -EINVAL;
	case OP_SETATTR:
		return op->result == -EFBIG && op->change.size > INT64_MAX;
	case OP_SETXATTR:
		return op->result == -E2BIG && op->length > 65536;
	default:
		return false;
	}
}

static bool result_fits(struct runner *runner, const struct op *op, int64_t expected)
{
	const struct model_node *node = model_find(runner->model, op->ino);

	if (op->kind == OP_SEEK && node && S_ISREG(node->mode)) {
		if (seek_allowed(node, op))
			return true;
		snprintf(runner->failure, sizeof(runner->failure), "seek of %llu from %llu whence %d gives %lld",
			 (unsigned long long)op->ino, (unsigned long long)op->offset, op->flags, (long long)op->result);
		return false;
	}
	if (op->kind == OP_READDIR)
		return true; /* readdir_fits() asks itself */
	if (op->kind == OP_COPY_RANGE && op->result > 0 && op->result <= expected)
		return true;
	if (op->result == expected)
		return true;
	if (runner->may_be_full && op->kind == OP_WRITE && op->result > 0 && op->result < expected)
		return true;
	if (another_mistake(runner, op, expected))
		return true;
	return differ(runner->failure, sizeof(runner->failure), "result", expected, op->result);
}

static bool returns_attributes(const struct op *op)
{
	return op->result == 0 && (op->kind == OP_LOOKUP || op->kind == OP_CREATE || op->kind == OP_TMPFILE ||
				   op->kind == OP_LINK || op->kind == OP_GETATTR || op->kind == OP_SETATTR);
}

static bool compare(struct runner *runner, struct op *op, int64_t expected, const struct ash_attr *attr,
		    const void *data)
{
	const struct model_node *node = model_find(runner->model, op->result_ino ? op->result_ino : op->ino);

	if (!result_fits(runner, op, expected))
		return false;
	if (returns_attributes(op) && node && !attributes_fit(node, attr, runner->failure, sizeof(runner->failure)))
		return false;
	if (op->kind == OP_READDIR && !readdir_fits(runner, op))
		return false;
	return data_fits(runner, op, data);
}

bool runner_judge(struct runner *runner, struct op *op, const struct ash_attr *attr, const void *data)
{
	int64_t expected = model_apply(runner->model, op, runner->index);

	return compare(runner, op, expected, attr, data);
}

bool runner_do(struct runner *runner, struct op *op)
{
	struct ash_attr attr;
	unsigned char *data = test_alloc(op->length < (1u << 24) ? op->length : 0);
	bool fits;

	runner->failure[0] = 0;
	runner->clock += 1000;
	op->time = runner->clock;
	run_on_volume(runner->volume, op, &attr, data);
	if (op->result == -ENOSPC && runner->may_be_full) {
		runner->full_count++;
		fits = true;
	} else {
		fits = runner_judge(runner, op, &attr, data);
	}
	runner->index++;
	free(data);
	return fits;
}
