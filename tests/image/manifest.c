/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Walking and reading volumes: see image.h. Single-threaded. */
#include "image.h"

#include <stdio.h>
#include <stdlib.h>
#include "fs/checksum.h"

#define READ_LIMIT (64ull << 20) /* bytes: a damaged size may say anything */

void quiet_log(void *context, enum ash_log_level level, const char *text)
{
	(void)context;
	(void)level;
	(void)text;
}

struct walk {
	struct ash_volume *volume;
	struct manifest *manifest;
	uint64_t directory;
	uint32_t names;
	uint64_t *children;
	size_t count, space;
};

static void note_error(struct manifest *manifest, int64_t result)
{
	if (result < 0 && !manifest->error)
		manifest->error = (int)result;
}

static struct known_inode *add(struct manifest *manifest)
{
	if (manifest->count == manifest->space) {
		manifest->space = manifest->space ? manifest->space * 2 : 64;
		manifest->items = realloc(manifest->items, manifest->space * sizeof(*manifest->items));
		if (!manifest->items)
			die("out of memory");
	}
	manifest->items[manifest->count] = (struct known_inode){ 0 };
	return &manifest->items[manifest->count++];
}

const struct known_inode *manifest_find(const struct manifest *manifest, uint64_t ino)
{
	for (size_t i = 0; i < manifest->count; i++)
		if (manifest->items[i].ino == ino)
			return &manifest->items[i];
	return NULL;
}

static uint32_t read_content(struct walk *walk, uint64_t ino, const struct ash_attr *attr)
{
	static uint8_t buffer[65536] __attribute__((aligned(4096)));
	uint64_t limit = attr->size < READ_LIMIT ? attr->size : READ_LIMIT;
	uint32_t crc = 0;

	if (S_ISLNK(attr->mode)) {
		int length = ash_readlink(walk->volume, ino, (char *)buffer, sizeof(buffer));

		note_error(walk->manifest, length);
		return length > 0 ? ash_crc32c(0, buffer, (size_t)length) : 0;
	}
	for (uint64_t at = 0; S_ISREG(attr->mode) && at < limit;) {
		int64_t got = ash_read(walk->volume, ino, buffer, sizeof(buffer), at);

		note_error(walk->manifest, got);
		if (got <= 0)
			break;
		crc = ash_crc32c(crc, buffer, (size_t)got);
		at += (uint64_t)got;
	}
	return crc;
}

/* In no order: values are added up. */
static uint32_t read_attributes(struct walk *walk, uint64_t ino)
{
	static char names[65536], value[65536 + 1];
	int length = ash_listxattr(walk->volume, ino, names, sizeof(names));
	uint32_t sum = 0;

	note_error(walk->manifest, length);
	for (int at = 0; at < length; at += (int)strlen(names + at) + 1) {
		int got = ash_getxattr(walk->volume, ino, names + at, value, sizeof(value) - 1);

		note_error(walk->manifest, got);
		sum += ash_crc32c(ash_crc32c(0, names + at, strlen(names + at)), value, got > 0 ? (size_t)got : 0);
	}
	return sum;
}

static int on_entry(void *context, const char *name, size_t length, uint64_t ino, unsigned type, uint64_t next,
		    const struct ash_attr *attr)
{
	struct walk *walk = context;

	(void)next;
	(void)attr;
	(void)type;
	if (length <= 2 && !memcmp(name, "..", length))
		return 0;
	walk->names += ash_crc32c((uint32_t)ino, name, length);
	if (walk->count == walk->space) {
		walk->space = walk->space ? walk->space * 2 : 64;
		walk->children = realloc(walk->children, walk->space * sizeof(*walk->children));
		if (!walk->children)
			die("out of memory");
	}
	walk->children[walk->count++] = ino;
	return walk->count > 100000;
}

static void walk_inode(struct ash_volume *volume, struct manifest *manifest, uint64_t ino, unsigned depth)
{
	struct walk walk = { .volume = volume, .manifest = manifest, .directory = ino };
	struct known_inode *known;
	struct ash_attr attr;
	size_t index;
	int result;

	if (manifest_find(manifest, ino))
		return;
	known = add(manifest);
	index = manifest->count - 1;
	known->ino = ino;
	result = ash_getattr(volume, ino, &attr);
	note_error(manifest, result);
	if (result)
		return;
	known->mode = attr.mode;
	known->nlink = attr.nlink;
	known->size = attr.size;
	known->content = read_content(&walk, ino, &attr);
	known->attributes = read_attributes(&walk, ino);
	if (!S_ISDIR(attr.mode) || depth > 64)
		return;
	note_error(manifest, ash_readdir(volume, ino, 0, false, on_entry, &walk));
	manifest->items[index].content = walk.names;
	for (size_t i = 0; i < walk.count; i++)
		walk_inode(volume, manifest, walk.children[i], depth + 1);
	free(walk.children);
}

void manifest_walk(struct ash_volume *volume, struct manifest *out)
{
	memset(out, 0, sizeof(*out));
	walk_inode(volume, out, ASH_INO_ROOT, 0);
}

int manifest_take(struct bdev *dev, const struct ash_open_options *options, struct manifest *out)
{
	struct ash_open_options quiet = *options;
	struct ash_volume *volume;
	char error[BDEV_ERROR_TEXT];
	int result;

	memset(out, 0, sizeof(*out));
	quiet.log = quiet_log;
	result = ash_open(dev, &quiet, &volume, error);
	if (result)
		return result;
	manifest_walk(volume, out);
	if (options->no_write)
		ash_abandon(volume);
	else
		note_error(out, ash_close(volume));
	return 0;
}

void manifest_free(struct manifest *manifest)
{
	free(manifest->items);
	*manifest = (struct manifest){ 0 };
}
