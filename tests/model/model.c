/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The nodes of the reference filesystem: table, entries, attributes, copies. The operations are in apply.c.
 * Rules and locking: model.h.
 */
#include "model.h"

#include <stdlib.h>
#include <string.h>

static size_t slot_of(const struct model *model, uint64_t ino)
{
	size_t at = (ino * 0x9e3779b97f4a7c15ull >> 20) & (model->capacity - 1);

	while (model->nodes[at] && model->nodes[at]->ino != ino)
		at = (at + 1) & (model->capacity - 1);
	return at;
}

struct model_node *model_find(const struct model *model, uint64_t ino)
{
	return model->nodes[slot_of(model, ino)];
}

static void table_grow(struct model *model)
{
	struct model_node **old = model->nodes;
	size_t old_capacity = model->capacity;

	model->capacity = old_capacity * 2;
	model->nodes = test_alloc(model->capacity * sizeof(*model->nodes));
	for (size_t i = 0; i < old_capacity; i++) {
		if (old[i])
			model->nodes[slot_of(model, old[i]->ino)] = old[i];
	}
	free(old);
}

static void table_add(struct model *model, struct model_node *node)
{
	if (model->count * 2 >= model->capacity)
		table_grow(model);
	model->nodes[slot_of(model, node->ino)] = node;
	model->count++;
}

void model_empty(struct model *model)
{
	*model = (struct model){ .capacity = 64 };
	model->nodes = test_alloc(model->capacity * sizeof(*model->nodes));
}

struct model_node *model_add_node(struct model *model, uint64_t ino, uint32_t mode)
{
	struct model_node *node = test_alloc(sizeof(*node));

	node->ino = ino;
	node->mode = mode;
	node->nlink = S_ISDIR(mode) ? 2 : 1;
	node->atime_known = true;
	table_add(model, node);
	return node;
}

void model_init(struct model *model)
{
	model_empty(model);
	model_add_node(model, 1, S_IFDIR | 0755)->parent = 1;
}

static void node_free(struct model_node *node)
{
	for (size_t i = 0; i < node->entry_count; i++)
		free(node->entries[i].name);
	for (size_t i = 0; i < node->xattr_count; i++) {
		free(node->xattrs[i].name);
		free(node->xattrs[i].value);
	}
	free(node->entries);
	free(node->xattrs);
	free(node->target);
	content_free(&node->content);
	free(node);
}

void model_free(struct model *model)
{
	for (size_t i = 0; i < model->capacity; i++) {
		if (model->nodes[i])
			node_free(model->nodes[i]);
	}
	free(model->nodes);
	*model = (struct model){ 0 };
}

static struct model_node *node_copy(const struct model_node *from)
{
	struct model_node *to = test_alloc(sizeof(*to));

	*to = *from;
	to->target = from->target ? test_strdup(from->target) : NULL;
	content_copy(&to->content, &from->content);
	to->entries = test_alloc(from->entry_count * sizeof(*to->entries));
	to->entry_capacity = from->entry_count;
	for (size_t i = 0; i < from->entry_count; i++)
		to->entries[i] = (struct model_entry){ test_strdup(from->entries[i].name), from->entries[i].ino };
	to->xattrs = test_alloc(from->xattr_count * sizeof(*to->xattrs));
	for (size_t i = 0; i < from->xattr_count; i++) {
		const struct model_xattr *xattr = &from->xattrs[i];

		to->xattrs[i] = (struct model_xattr){ test_strdup(xattr->name), test_alloc(xattr->size), xattr->size };
		memcpy(to->xattrs[i].value, xattr->value, xattr->size);
	}
	return to;
}

void model_copy(struct model *to, const struct model *from)
{
	*to = (struct model){ .capacity = from->capacity, .count = from->count };
	to->nodes = test_alloc(to->capacity * sizeof(*to->nodes));
	for (size_t i = 0; i < from->capacity; i++)
		to->nodes[i] = from->nodes[i] ? node_copy(from->nodes[i]) : NULL;
}

/* Open addressing: what follows in the cluster is put in again. */
void model_remove_node(struct model *model, struct model_node *node)
{
	size_t at = slot_of(model, node->ino);

	model->nodes[at] = NULL;
	model->count--;
	node_free(node);
	for (at = (at + 1) & (model->capacity - 1); model->nodes[at]; at = (at + 1) & (model->capacity - 1)) {
		struct model_node *moved = model->nodes[at];

		model->nodes[at] = NULL;
		model->nodes[slot_of(model, moved->ino)] = moved;
	}
}

/* Position of the name, or where it would be. */
static size_t entry_position(const struct model_node *directory, const char *name, bool *found)
{
	size_t low = 0, high = directory->entry_count;

	*found = false;
	while (low < high) {
		size_t middle = (low + high) / 2;
		int order = strcmp(directory->entries[middle].name, name);

		if (order == 0) {
			*found = true;
			return middle;
		}
		if (order < 0)
			low = middle + 1;
		else
			high = middle;
	}
	return low;
}

struct model_entry *model_find_entry(const struct model_node *directory, const char *name)
{
	bool found;
	size_t at = entry_position(directory, name, &found);

	return found ? &directory->entries[at] : NULL;
}

struct model_node *model_child(const struct model *model, const struct model_node *directory, const char *name)
{
	struct model_entry *entry = model_find_entry(directory, name);

	return entry ? model_find(model, entry->ino) : NULL;
}

void model_add_entry(struct model_node *directory, const char *name, uint64_t ino)
{
	bool found;
	size_t at = entry_position(directory, name, &found);

	if (directory->entry_count == directory->entry_capacity) {
		directory->entry_capacity = directory->entry_capacity ? directory->entry_capacity * 2 : 4;
		directory->entries =
			test_realloc(directory->entries, directory->entry_capacity * sizeof(*directory->entries));
	}
	memmove(directory->entries + at + 1, directory->entries + at,
		(directory->entry_count - at) * sizeof(*directory->entries));
	directory->entries[at] = (struct model_entry){ test_strdup(name), ino };
	directory->entry_count++;
	directory->size = directory->entry_count;
}

void model_remove_entry(struct model_node *directory, const char *name)
{
	bool found;
	size_t at = entry_position(directory, name, &found);

	if (!found)
		return;
	free(directory->entries[at].name);
	directory->entry_count--;
	memmove(directory->entries + at, directory->entries + at + 1,
		(directory->entry_count - at) * sizeof(*directory->entries));
	directory->size = directory->entry_count;
}

struct model_xattr *model_find_xattr(const struct model_node *node, const char *name)
{
	for (size_t i = 0; i < node->xattr_count; i++) {
		if (!strcmp(node->xattrs[i].name, name))
			return &node->xattrs[i];
	}
	return NULL;
}

void model_set_xattr(struct model_node *node, const char *name, const void *value, size_t size)
{
	struct model_xattr *xattr = model_find_xattr(node, name);

	if (!xattr) {
		node->xattrs = test_realloc(node->xattrs, (node->xattr_count + 1) * sizeof(*node->xattrs));
		xattr = &node->xattrs[node->xattr_count++];
		*xattr = (struct model_xattr){ .name = test_strdup(name) };
	}
	free(xattr->value);
	xattr->value = test_alloc(size);
	xattr->size = size;
	if (size)
		memcpy(xattr->value, value, size);
}

bool model_remove_xattr(struct model_node *node, const char *name)
{
	struct model_xattr *xattr = model_find_xattr(node, name);

	if (!xattr)
		return false;
	free(xattr->name);
	free(xattr->value);
	*xattr = node->xattrs[--node->xattr_count];
	return true;
}

struct model_node *model_path(const struct model *model, const char *path)
{
	struct model_node *node = model_find(model, 1);
	char part[OP_NAME_SIZE];

	while (node && *path) {
		size_t length;

		path += strspn(path, "/");
		length = strcspn(path, "/");
		if (!length)
			break;
		if (length >= sizeof(part))
			return NULL;
		memcpy(part, path, length);
		part[length] = 0;
		node = model_child(model, node, part);
		path += length;
	}
	return node;
}

void model_drop_references(struct model *model)
{
	for (size_t i = 0; i < model->capacity; i++) {
		struct model_node *node = model->nodes[i];

		if (!node)
			continue;
		node->lookups = 0;
		node->emptied = false;
		if (node->nlink == 0) {
			model_remove_node(model, node);
			i = (size_t)-1; /* the cluster moved: look again */
		}
	}
}

/* Preallocated blocks are not in pages: a part of the size stands for them. */
static uint64_t node_bytes(const struct model_node *node)
{
	uint64_t bytes = node->content.count * CONTENT_PAGE + CONTENT_PAGE / 8;

	if (S_ISREG(node->mode))
		bytes += node->size < 65536 ? node->size : 65536;
	for (size_t i = 0; i < node->xattr_count; i++)
		bytes += node->xattrs[i].size;
	return bytes;
}

uint64_t model_data_bytes(const struct model *model)
{
	uint64_t bytes = 0;

	for (size_t i = 0; i < model->capacity; i++) {
		if (model->nodes[i])
			bytes += node_bytes(model->nodes[i]);
	}
	return bytes;
}
