/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Making, walking and reading images: see image.h. Single-threaded. */
#include "image.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include "fs/btree.h"
#include "fs/checksum.h"
#include "tests/support/fault.h"

#define CHUNK (1u << 20)

void die(const char *format, ...)
{
	va_list arguments;

	va_start(arguments, format);
	printf("Bail out! ");
	vprintf(format, arguments);
	printf("\n");
	va_end(arguments);
	exit(1);
}

static void need(int result, const char *what)
{
	if (result < 0)
		die("%s: %s", what, strerror(-result));
}

static void no_log(void *context, enum ash_log_level level, const char *text)
{
	(void)context;
	(void)level;
	(void)text;
}

/* ---- Walking ---- */

struct walk {
	struct ash_volume *volume;
	struct manifest *manifest;
	uint64_t directory;
	uint32_t names;
	uint64_t *children;
	uint8_t *types;
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
	uint64_t limit = attr->size < 64u << 20 ? attr->size : 64u << 20;
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
	if (length <= 2 && !memcmp(name, "..", length))
		return 0;
	walk->names += ash_crc32c((uint32_t)ino, name, length);
	if (walk->count == walk->space) {
		walk->space = walk->space ? walk->space * 2 : 64;
		walk->children = realloc(walk->children, walk->space * sizeof(*walk->children));
		walk->types = realloc(walk->types, walk->space);
		if (!walk->children || !walk->types)
			die("out of memory");
	}
	walk->types[walk->count] = (uint8_t)type;
	walk->children[walk->count++] = ino;
	return walk->count > 100000;
}

static void walk_inode(struct ash_volume *volume, struct manifest *manifest, uint64_t ino, uint64_t parent,
		       unsigned depth)
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
	known->parent_of_first_name = parent;
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
		walk_inode(volume, manifest, walk.children[i], ino, depth + 1);
	free(walk.children);
	free(walk.types);
}

int manifest_take(struct bdev *dev, const struct ash_open_options *options, struct manifest *out)
{
	struct ash_open_options quiet = *options;
	struct ash_volume *volume;
	char error[BDEV_ERROR_TEXT];
	int result;

	memset(out, 0, sizeof(*out));
	quiet.log = no_log;
	result = ash_open(dev, &quiet, &volume, error);
	if (result)
		return result;
	walk_inode(volume, out, ASH_INO_ROOT, ASH_INO_ROOT, 0);
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

/* ---- Making ---- */

static uint64_t make(struct ash_volume *volume, uint64_t parent, const char *name, uint32_t mode, const char *target)
{
	struct ash_create create = { .mode = mode, .target = target, .rdev = 0x103 };
	struct ash_attr attr;

	need(ash_create(volume, parent, name, &create, &attr), name);
	ash_forget(volume, attr.ino, 1);
	return attr.ino;
}

static void fill(struct ash_volume *volume, uint64_t ino, uint64_t offset, size_t length, unsigned key)
{
	uint8_t *bytes = malloc(length);

	if (!bytes)
		die("out of memory");
	for (size_t i = 0; i < length; i++)
		bytes[i] = (uint8_t)((i * 31 + key * 7 + (i >> 9)) | 1);
	if (ash_write(volume, ino, bytes, length, offset, ASH_WRITE_THROUGH) != (int64_t)length)
		die("writing %zu bytes at %llu failed", length, (unsigned long long)offset);
	free(bytes);
}

static void make_files(struct image *image, struct ash_volume *volume)
{
	char target[1500];

	memset(target, 't', sizeof(target));
	target[sizeof(target) - 1] = 0;
	image->empty = make(volume, 1, "empty", S_IFREG | 0644, NULL);
	image->inline_file = make(volume, 1, "inline", S_IFREG | 0640, NULL);
	fill(volume, image->inline_file, 0, 200, 1);
	image->block_file = make(volume, 1, "block", S_IFREG | 0600, NULL);
	fill(volume, image->block_file, 0, 10000, 2);
	image->extent_file = make(volume, 1, "extents", S_IFREG | 0600, NULL);
	for (unsigned i = 0; i < 400; i++)
		fill(volume, image->extent_file, i * 8192ull, 4096, 3 + i);
	image->unwritten_file = make(volume, 1, "unwritten", S_IFREG | 0600, NULL);
	fill(volume, image->unwritten_file, 0, 4096, 4);
	need(ash_fallocate(volume, image->unwritten_file, FALLOC_FL_KEEP_SIZE, 4096, 65536), "fallocate");
	image->short_link = make(volume, 1, "short", S_IFLNK | 0777, "inline");
	image->long_link = make(volume, 1, "long", S_IFLNK | 0777, target);
	image->fifo = make(volume, 1, "fifo", S_IFIFO | 0600, NULL);
	image->device = make(volume, 1, "device", S_IFCHR | 0600, NULL);
}

static void make_attributes(struct image *image, struct ash_volume *volume)
{
	static char value[20000];

	image->attribute_file = make(volume, 1, "attributes", S_IFREG | 0644, NULL);
	memset(value, 'v', sizeof(value));
	need(ash_setxattr(volume, image->attribute_file, "user.long", value, sizeof(value), 0), "long attribute");
	for (unsigned i = 0; i < 40; i++) {
		char name[64];

		snprintf(name, sizeof(name), "user.attribute-%u", i);
		need(ash_setxattr(volume, image->attribute_file, name, value, 100 + i, 0), "attribute");
	}
	need(ash_setxattr(volume, image->block_file, "user.short", "x", 1, 0), "short attribute");
	need(ash_setxattr(volume, image->block_file, "user.outside", value, 5000, 0), "outside attribute");
}

static void make_directories(struct image *image, struct ash_volume *volume)
{
	struct ash_attr attr;
	char name[256];

	image->small_directory = make(volume, 1, "small", S_IFDIR | 0755, NULL);
	image->child_directory = make(volume, image->small_directory, "child", S_IFDIR | 0700, NULL);
	make(volume, image->child_directory, "leaf", S_IFREG | 0644, NULL);
	image->hard = make(volume, image->small_directory, "hard", S_IFREG | 0644, NULL);
	fill(volume, image->hard, 0, 3000, 9);
	image->flat_directory = make(volume, 1, "flat", S_IFDIR | 0755, NULL);
	for (unsigned i = 0; i < 300; i++) {
		snprintf(name, sizeof(name), "entry-%u", i);
		make(volume, image->flat_directory, name, S_IFREG | 0644, NULL);
	}
	image->deep_directory = make(volume, 1, "deep", S_IFDIR | 0755, NULL);
	for (unsigned i = 0; i < 300; i++) {
		memset(name, 'n', 240);
		snprintf(name + 236, 20, "%u", i);
		need(ash_link(volume, image->hard, image->deep_directory, name, &attr), "link");
		ash_forget(volume, image->hard, 1);
	}
}

/* Tests are single-threaded (no_threads), so that no lock is needed. */
static void watch(void *context, const struct bdev_trace_event *event)
{
	struct image *image = context;

	if (event->op == BDEV_READ || event->op == BDEV_FLUSH)
		return;
	image->writes++;
	for (uint64_t at = event->offset; image->dirty && at < event->offset + event->length; at += ASH_BLOCK_SIZE)
		image->dirty[at >> ASH_BLOCK_SHIFT] = 1;
}

void image_make(struct image *image, const char *device, bool clean)
{
	static const uint8_t seed[32] = "a volume that is to be damaged";
	struct ash_mkfs_options options = { .seed = seed, .now = 1700000000, .label = "damage", .inodes_per_run = 256 };
	struct ash_open_options open_options = { .no_threads = true, .log = no_log };
	struct ash_open_options look = { .no_write = true, .no_threads = true };
	struct bdev_open_options device_options = { 0 };
	char error[BDEV_ERROR_TEXT] = "";
	struct ash_volume *volume;
	struct bdev *driver;

	memset(image, 0, sizeof(*image));
	need(bdev_open(device, &device_options, &driver, error), error);
	need(fault_open(driver, &image->fault), "the fault layer");
	need(bdev_trace_open(image->fault, watch, image, &image->dev), "the trace layer");
	need(ash_mkfs(image->dev, &options, error), error);
	need(ash_open(image->dev, &open_options, &volume, error), error);
	make_files(image, volume);
	make_attributes(image, volume);
	make_directories(image, volume);
	need(ash_sync(volume), "sync");
	if (clean)
		need(ash_close(volume), "close");
	else
		ash_abandon(volume);
	image->size = bdev_geometry(image->dev)->size;
	image->pristine = bdev_buffer_alloc(image->size);
	image->dirty = calloc(image->size >> ASH_BLOCK_SHIFT, 1);
	if (!image->pristine || !image->dirty)
		die("out of memory");
	for (uint64_t at = 0; at < image->size; at += CHUNK)
		need(bdev_read(image->dev, image->pristine + at, CHUNK, at), "reading the image");
	memcpy(&image->super, image->pristine, sizeof(image->super));
	image->seed = ash_get32(image->super.checksum_seed);
	need(manifest_take(image->dev, &look, &image->manifest), "walking the fresh image");
	need(image->manifest.error, "walking the fresh image");
}

void image_free(struct image *image)
{
	manifest_free(&image->manifest);
	free(image->dirty);
	bdev_buffer_free(image->pristine, image->size);
	bdev_close(image->dev);
}

void image_restore(struct image *image)
{
	for (uint64_t block = 0; block < image->size >> ASH_BLOCK_SHIFT; block++)
		if (image->dirty[block]) {
			image_write(image, block, image->pristine + (block << ASH_BLOCK_SHIFT));
			image->dirty[block] = 0;
		}
}

void image_read(struct image *image, uint64_t block, void *data)
{
	need(bdev_read(image->dev, data, ASH_BLOCK_SIZE, block << ASH_BLOCK_SHIFT), "reading a block");
}

void image_write(struct image *image, uint64_t block, const void *data)
{
	uint8_t aligned[ASH_BLOCK_SIZE] __attribute__((aligned(4096)));

	memcpy(aligned, data, sizeof(aligned));
	need(bdev_write(image->dev, aligned, ASH_BLOCK_SIZE, block << ASH_BLOCK_SHIFT, 0), "writing a block");
}

/* ---- Places ---- */

struct ash_tree_record *node_record(void *node, unsigned index)
{
	const ash_le16 *slots = (const void *)((uint8_t *)node + sizeof(struct ash_node_header));

	return (void *)((uint8_t *)node + ash_get16(slots[index]));
}

static unsigned node_children(struct image *image, uint8_t *node, uint64_t *blocks, unsigned count, unsigned max)
{
	uint8_t child[ASH_BLOCK_SIZE] __attribute__((aligned(4096)));

	if (!ash_node_level(node))
		return count;
	for (unsigned i = 0; i < ash_node_count(node) && count < max; i++) {
		ash_le64 pointer;

		memcpy(&pointer, node_record(node, i)->value, sizeof(pointer));
		blocks[count++] = ash_get64(pointer);
		image_read(image, ash_get64(pointer), child);
		count = node_children(image, child + offsetof(struct ash_tree_block, node), blocks, count, max);
	}
	return count;
}

unsigned locate_nodes(struct image *image, uint64_t ino, bool attribute, uint64_t *blocks, unsigned max)
{
	struct ash_inode record;

	inode_get(image, ino, &record);
	if ((attribute ? record.attr_kind : record.data_kind) != ASH_FORK_TREE)
		return 0;
	return node_children(image, attribute ? record.attr : record.data, blocks, 0, max);
}

/* Small images have their table's extents in its inode. */
uint64_t locate_table_block(struct image *image, uint64_t file_block)
{
	uint8_t *root = image->super.table_inode.data;

	if (ash_node_level(root))
		die("the inode table is too scattered for this test");
	for (unsigned i = 0; i < ash_node_count(root); i++) {
		const struct ash_tree_record *record = node_record(root, i);
		const struct ash_extent_value *extent = (const void *)record->value;
		uint64_t first = ash_get64(record->key);

		if (file_block >= first && file_block - first < ash_get32(extent->count))
			return ash_get64(extent->start) + file_block - first;
	}
	die("block %llu of the inode table is not mapped", (unsigned long long)file_block);
}

uint64_t locate_inode(struct image *image, uint64_t ino, uint32_t *offset)
{
	uint32_t per_run = ash_get32(image->super.inodes_per_run);
	uint64_t run_blocks = 1 + per_run / ASH_INODES_PER_BLOCK;

	*offset = (uint32_t)(ino % ASH_INODES_PER_BLOCK) * ASH_INODE_SIZE;
	return locate_table_block(image, ino / per_run * run_blocks + 1 + ino % per_run / ASH_INODES_PER_BLOCK);
}

void inode_get(struct image *image, uint64_t ino, struct ash_inode *out)
{
	uint8_t data[ASH_BLOCK_SIZE] __attribute__((aligned(4096)));
	uint32_t offset;
	uint64_t block = locate_inode(image, ino, &offset);

	image_read(image, block, data);
	memcpy(out, data + offset, sizeof(*out));
}

void inode_put(struct image *image, uint64_t ino, const struct ash_inode *record, bool seal)
{
	uint8_t data[ASH_BLOCK_SIZE] __attribute__((aligned(4096)));
	struct ash_inode copy = *record;
	uint32_t offset;
	uint64_t block = locate_inode(image, ino, &offset);

	if (seal)
		copy.crc = ash_put32(ash_inode_crc(image->seed, &copy));
	image_read(image, block, data);
	memcpy(data + offset, &copy, sizeof(copy));
	image_write(image, block, data);
}

void block_put(struct image *image, uint64_t block, void *data, bool seal)
{
	struct ash_block_header *header = data;

	if (seal)
		header->crc = ash_put32(ash_block_crc(image->seed, data));
	image_write(image, block, data);
}
