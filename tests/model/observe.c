/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Concept: the volume is read through its public calls only, breadth first by a list of directories, so that a
 * damaged tree cannot make the walk recurse. Files up to OBSERVE_DENSE bytes are read whole (what SEEK says is not
 * trusted), larger ones where SEEK_DATA finds data. No locks.
 */
#include "observe.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define OBSERVE_DENSE (4u << 20)
#define OBSERVE_CHUNK (256u << 10)
#define OBSERVE_MAX_NODES 3000000u

struct walk {
	struct ash_volume *volume;
	struct model *model;
	char *text;
	size_t size;
	unsigned char *chunk;
	uint64_t *pending; /* directories still to read */
	size_t pending_count, pending_capacity;
};

static int walk_failed(struct walk *walk, uint64_t ino, const char *what, int64_t error)
{
	snprintf(walk->text, walk->size, "walk: %s of inode %llu: %s", what, (unsigned long long)ino,
		 error < 0 ? strerror((int)-error) : "nonsense");
	return error < 0 ? (int)error : -EUCLEAN;
}

static int64_t ns_of(struct timespec time)
{
	return time.tv_sec * 1000000000ll + time.tv_nsec;
}

static int read_part(struct walk *walk, struct model_node *node, uint64_t offset, uint64_t end)
{
	while (offset < end) {
		size_t length = end - offset < OBSERVE_CHUNK ? end - offset : OBSERVE_CHUNK;
		int64_t got = ash_read(walk->volume, node->ino, walk->chunk, length, offset);

		if (got != (int64_t)length)
			return walk_failed(walk, node->ino, "read", got);
		for (size_t at = 0; at < length; at += CONTENT_PAGE) {
			size_t part = length - at < CONTENT_PAGE ? length - at : CONTENT_PAGE;
			const unsigned char *from = walk->chunk + at;

			if (from[0] || memcmp(from, from + 1, part - 1))
				content_write(&node->content, offset + at, from, part);
		}
		offset += length;
	}
	return 0;
}

static int read_sparse(struct walk *walk, struct model_node *node)
{
	uint64_t offset = 0;

	for (;;) {
		int64_t data = ash_seek(walk->volume, node->ino, offset, SEEK_DATA), hole;
		int error;

		if (data == -ENXIO)
			return 0;
		if (data < (int64_t)offset)
			return walk_failed(walk, node->ino, "SEEK_DATA", data);
		hole = ash_seek(walk->volume, node->ino, (uint64_t)data, SEEK_HOLE);
		if (hole <= data)
			return walk_failed(walk, node->ino, "SEEK_HOLE", hole);
		if (hole - data > 64 << 20)
			return 0; /* data up to nowhere: an allowed answer, not worth reading */
		error = read_part(walk, node, (uint64_t)data & ~(uint64_t)(CONTENT_PAGE - 1), (uint64_t)hole);
		if (error)
			return error;
		offset = (uint64_t)hole;
	}
}

static int read_target(struct walk *walk, struct model_node *node)
{
	int length = ash_readlink(walk->volume, node->ino, (char *)walk->chunk, 4096);

	if (length <= 0 || length > 4095)
		return walk_failed(walk, node->ino, "readlink", length);
	walk->chunk[length] = 0;
	node->target = test_strdup((char *)walk->chunk);
	return 0;
}

static int read_xattrs(struct walk *walk, struct model_node *node)
{
	int length = ash_listxattr(walk->volume, node->ino, NULL, 0), got;
	char *names, *value;

	if (length <= 0)
		return length < 0 ? walk_failed(walk, node->ino, "listxattr", length) : 0;
	names = test_alloc((size_t)length);
	value = test_alloc(65536);
	got = ash_listxattr(walk->volume, node->ino, names, (size_t)length);
	for (int at = 0; got == length && at < length; at += (int)strlen(names + at) + 1) {
		int size = ash_getxattr(walk->volume, node->ino, names + at, value, 65536);

		if (size < 0)
			got = size;
		else
			model_set_xattr(node, names + at, value, (size_t)size);
	}
	free(names);
	free(value);
	return got == length ? 0 : walk_failed(walk, node->ino, "reading attributes", got);
}

static void node_from_attr(struct model_node *node, const struct ash_attr *attr)
{
	node->nlink = attr->nlink;
	node->uid = attr->uid;
	node->gid = attr->gid;
	node->rdev = attr->rdev;
	node->size = attr->size;
	node->flags = attr->flags;
	node->atime = ns_of(attr->atime);
	node->mtime = ns_of(attr->mtime);
	node->ctime = ns_of(attr->ctime);
	node->btime = ns_of(attr->btime);
}

static void walk_later(struct walk *walk, uint64_t ino)
{
	if (walk->pending_count == walk->pending_capacity) {
		walk->pending_capacity = walk->pending_capacity ? walk->pending_capacity * 2 : 16;
		walk->pending = test_realloc(walk->pending, walk->pending_capacity * sizeof(*walk->pending));
	}
	walk->pending[walk->pending_count++] = ino;
}

static int observe_node(struct walk *walk, uint64_t ino, uint64_t parent)
{
	struct ash_attr attr;
	struct model_node *node;
	int error = ash_getattr(walk->volume, ino, &attr);

	if (error)
		return walk_failed(walk, ino, "getattr", error);
	node = model_find(walk->model, ino);
	if (node) /* one more name of it */
		return S_ISDIR(attr.mode) ? walk_failed(walk, ino, "directory with two names", 1) : 0;
	if (walk->model->count >= OBSERVE_MAX_NODES)
		return walk_failed(walk, ino, "endless walk", 1);
	node = model_add_node(walk->model, ino, attr.mode);
	node_from_attr(node, &attr);
	error = read_xattrs(walk, node);
	if (error)
		return error;
	if (S_ISDIR(attr.mode)) {
		error = ash_parent(walk->volume, ino, &node->parent);
		if (error || node->parent != parent)
			return walk_failed(walk, ino, "parent", error ? error : 1);
		walk_later(walk, ino);
	} else if (S_ISLNK(attr.mode)) {
		return read_target(walk, node);
	} else if (S_ISREG(attr.mode)) {
		return attr.size <= OBSERVE_DENSE ? read_part(walk, node, 0, attr.size) : read_sparse(walk, node);
	}
	return 0;
}

static int collect_entry(void *context, const char *name, size_t length, uint64_t ino, unsigned type,
			 uint64_t next_position, const struct ash_attr *attr)
{
	struct model_node *directory = context;
	char copy[OP_NAME_SIZE];

	(void)type;
	(void)next_position;
	(void)attr;
	snprintf(copy, sizeof(copy), "%.*s", (int)length, name);
	if (strcmp(copy, ".") && strcmp(copy, ".."))
		model_add_entry(directory, copy, ino);
	return 0;
}

/* An entry's lookup must lead where readdir said. */
static int observe_entry(struct walk *walk, uint64_t directory, const char *name, uint64_t ino)
{
	struct ash_attr attr;
	int error = ash_lookup(walk->volume, directory, name, &attr);

	if (error)
		return walk_failed(walk, directory, "lookup of a listed name", error);
	ash_forget(walk->volume, attr.ino, 1);
	if (attr.ino != ino)
		return walk_failed(walk, directory, "lookup and readdir differ", 1);
	return observe_node(walk, ino, directory);
}

static int observe_directory(struct walk *walk, uint64_t ino)
{
	struct model_node *node = model_find(walk->model, ino);
	uint64_t size = node->size;
	int error = ash_readdir(walk->volume, ino, 0, false, collect_entry, node);

	if (error)
		return walk_failed(walk, ino, "readdir", error);
	if (node->entry_count ? size % node->entry_count || !size : size) /* so many bytes for an entry */
		return walk_failed(walk, ino, "entry count", 1);
	for (size_t i = 0; i < node->entry_count; i++) {
		if (i && !strcmp(node->entries[i].name, node->entries[i - 1].name))
			return walk_failed(walk, ino, "name listed twice", 1);
		error = observe_entry(walk, ino, node->entries[i].name, node->entries[i].ino);
		if (error)
			return error;
	}
	return 0;
}

int observe(struct ash_volume *volume, struct model *out, char *text, size_t size)
{
	struct walk walk = { .volume = volume, .model = out, .text = text, .size = size };
	int error;

	model_empty(out);
	walk.chunk = test_alloc(OBSERVE_CHUNK);
	error = observe_node(&walk, 1, 1);
	for (size_t i = 0; !error && i < walk.pending_count; i++)
		error = observe_directory(&walk, walk.pending[i]);
	free(walk.chunk);
	free(walk.pending);
	return error;
}

/* ---- Comparing ---- */

static bool differ(char *text, size_t size, uint64_t ino, const char *what, long long expected, long long got)
{
	snprintf(text, size, "inode %llu: %s: expected %lld (0x%llx), found %lld (0x%llx)", (unsigned long long)ino,
		 what, expected, (unsigned long long)expected, got, (unsigned long long)got);
	return false;
}

static bool xattrs_equal(const struct model_node *expected, const struct model_node *observed, char *text, size_t size)
{
	for (size_t i = 0; i < expected->xattr_count; i++) {
		const struct model_xattr *want = &expected->xattrs[i], *got = model_find_xattr(observed, want->name);

		if (!got || got->size != want->size || memcmp(got->value, want->value, got->size)) {
			snprintf(text, size, "inode %llu: attribute %s is %s", (unsigned long long)expected->ino,
				 want->name, got ? "different" : "missing");
			return false;
		}
	}
	if (expected->xattr_count != observed->xattr_count)
		return differ(text, size, expected->ino, "number of attributes", (long long)expected->xattr_count,
			      (long long)observed->xattr_count);
	return true;
}

static bool entries_equal(const struct model_node *expected, const struct model_node *observed, char *text, size_t size)
{
	size_t i = 0;

	while (i < expected->entry_count && i < observed->entry_count &&
	       !strcmp(expected->entries[i].name, observed->entries[i].name) &&
	       expected->entries[i].ino == observed->entries[i].ino)
		i++;
	if (i == expected->entry_count && i == observed->entry_count)
		return true;
	snprintf(text, size,
		 "directory %llu: expected \"%.30s\" (ino %llu), found \"%.30s\" (ino %llu); %zu and %zu entries",
		 (unsigned long long)expected->ino, i < expected->entry_count ? expected->entries[i].name : "",
		 (unsigned long long)(i < expected->entry_count ? expected->entries[i].ino : 0),
		 i < observed->entry_count ? observed->entries[i].name : "",
		 (unsigned long long)(i < observed->entry_count ? observed->entries[i].ino : 0), expected->entry_count,
		 observed->entry_count);
	return false;
}

bool nodes_equal(const struct model_node *expected, const struct model_node *observed, char *text, size_t size)
{
	const struct {
		const char *name;
		uint64_t expected, got;
	} fields[] = {
		{ "mode", expected->mode, observed->mode },       { "nlink", expected->nlink, observed->nlink },
		{ "uid", expected->uid, observed->uid },          { "gid", expected->gid, observed->gid },
		{ "rdev", expected->rdev, observed->rdev },       { "flags", expected->flags, observed->flags },
		{ "parent", expected->parent, observed->parent },
	};

	for (size_t i = 0; i < sizeof(fields) / sizeof(*fields); i++) {
		if (fields[i].expected != fields[i].got)
			return differ(text, size, expected->ino, fields[i].name, (long long)fields[i].expected,
				      (long long)fields[i].got);
	}
	if (S_ISLNK(expected->mode) && strcmp(expected->target, observed->target)) {
		snprintf(text, size, "inode %llu: link target differs", (unsigned long long)expected->ino);
		return false;
	}
	return entries_equal(expected, observed, text, size) && xattrs_equal(expected, observed, text, size);
}

bool times_equal(const struct model_node *expected, const struct model_node *observed, char *text, size_t size)
{
	if (expected->atime_known && expected->atime != observed->atime)
		return differ(text, size, expected->ino, "atime", expected->atime, observed->atime);
	if (expected->mtime != observed->mtime)
		return differ(text, size, expected->ino, "mtime", expected->mtime, observed->mtime);
	if (expected->ctime != observed->ctime)
		return differ(text, size, expected->ino, "ctime", expected->ctime, observed->ctime);
	if (expected->btime != observed->btime && expected->ino != 1)
		return differ(text, size, expected->ino, "btime", expected->btime, observed->btime);
	return true;
}

static bool contents_equal(const struct model_node *expected, const struct model_node *observed, char *text,
			   size_t size)
{
	uint64_t where = 0;
	unsigned char want, got;

	if (!S_ISREG(expected->mode))
		return true;
	if (expected->size != observed->size)
		return differ(text, size, expected->ino, "size", (long long)expected->size, (long long)observed->size);
	if (content_equal(&expected->content, &observed->content, expected->size, &where))
		return true;
	content_read(&expected->content, where, &want, 1);
	content_read(&observed->content, where, &got, 1);
	snprintf(text, size, "inode %llu: data at offset %llu: expected 0x%02x, found 0x%02x",
		 (unsigned long long)expected->ino, (unsigned long long)where, want, got);
	return false;
}

bool models_equal(const struct model *expected, const struct model *observed, unsigned what, char *text, size_t size)
{
	size_t linked = 0;

	for (size_t i = 0; i < expected->capacity; i++) {
		const struct model_node *node = expected->nodes[i], *seen;

		if (!node || (node->nlink == 0 && !(what & COMPARE_REFERENCED)))
			continue;
		linked++;
		seen = model_find(observed, node->ino);
		if (!seen) {
			snprintf(text, size, "inode %llu is missing", (unsigned long long)node->ino);
			return false;
		}
		if (!nodes_equal(node, seen, text, size) || !times_equal(node, seen, text, size))
			return false;
		if ((what & COMPARE_CONTENT) && !contents_equal(node, seen, text, size))
			return false;
	}
	if (linked != observed->count)
		return differ(text, size, 0, "number of inodes", (long long)linked, (long long)observed->count);
	return true;
}
