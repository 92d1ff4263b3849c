/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Making and restoring images: see image.h. Single-threaded. */
#include "image.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include "fs/recover.h"
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

/* ---- Making ---- */

/*
 * The clock of the core is replaced at link time (--wrap=ash_now): images are equal in every run, and so are the shares
 * that campaigns choose by content, and what a fuzzer's input means.
 */
struct timespec __wrap_ash_now(void);

static int64_t ticks;

struct timespec __wrap_ash_now(void)
{
	ticks++;
	return (struct timespec){ .tv_sec = 1700000000 + ticks / 100, .tv_nsec = ticks % 100 * 10000000 };
}

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

/* ---- What the log of an image that was not closed holds ---- */

/* Whatever changes from here on is in the log only. Items of every kind, before and behind a checkpoint. */
static void make_log(struct ash_volume *volume)
{
	uint64_t late = make(volume, 1, "late", S_IFDIR | 0755, NULL), scattered, removed;
	struct ash_create create = { .mode = S_IFREG | 0644 };
	struct ash_attr held[3];
	char name[64];

	scattered = make(volume, late, "scattered", S_IFREG | 0644, NULL);
	for (unsigned i = 0; i < 200; i++) {
		snprintf(name, sizeof(name), "late-%u", i);
		make(volume, late, name, S_IFREG | 0644, NULL);
		fill(volume, scattered, i * 8192ull, 4096, i);
	}
	for (unsigned i = 0; i < 3; i++) {
		snprintf(name, sizeof(name), "held-%u", i);
		need(ash_create(volume, late, name, &create, &held[i]), name);
		fill(volume, held[i].ino, 0, 9000, i);
		need(ash_unlink(volume, late, name, &removed), name);
	}
	need(ash_checkpoint(volume), "checkpoint");
	ash_forget(volume, held[0].ino, 1);
	need(ash_unlink(volume, late, "scattered", &removed), "unlink");
	for (unsigned i = 0; i < 100; i++) {
		snprintf(name, sizeof(name), "late-%u", i);
		need(ash_unlink(volume, late, name, &removed), name);
		snprintf(name, sizeof(name), "later-%u", i);
		fill(volume, make(volume, late, name, S_IFREG | 0644, NULL), 0, 5000, i);
	}
	need(ash_unlink(volume, late, "late-150", &removed), "unlink");
	need(ash_sync(volume), "sync");
}

/* The power goes in a checkpoint, before the tail moves: home writes are announced in the log, and done. */
static void interrupt_checkpoint(struct image *image, struct ash_volume *volume)
{
	struct fault_rule rule = { .ops = FAULT_OP(BDEV_WRITE), .length = 2 * ASH_BLOCK_SIZE };
	struct ash_volume_info info;

	need(ash_volume_info(volume, &info), "the volume's figures");
	rule.offset = info.log_start << ASH_BLOCK_SHIFT; /* the control blocks */
	need(fault_add(image->fault, &rule), "a fault");
	if (!ash_checkpoint(volume) || !fault_hits(image->fault))
		die("the checkpoint did not fail");
	fault_clear(image->fault);
}

static int note_kinds(void *context, const struct ash_log_view *view)
{
	unsigned *kinds = context;
	uint32_t at = sizeof(struct ash_log_record);

	for (uint32_t i = 0; i < view->items && at + sizeof(struct ash_log_item) <= view->length; i++) {
		struct ash_log_item item; /* not aligned in the log */

		memcpy(&item, view->record + at, sizeof(item));
		*kinds |= 1u << item.kind;
		at += (uint32_t)sizeof(item) + ash_get16(item.length);
	}
	return 0;
}

static void check_log(struct image *image)
{
	struct ash_overlay *overlay;
	char error[BDEV_ERROR_TEXT];
	unsigned kinds = 0;

	need(ash_overlay_open(image->dev, &image->super, &overlay, error), error);
	ash_overlay_each_record(overlay, note_kinds, &kinds);
	ash_overlay_close(overlay);
	/* the engine reads ORPHAN_RESET, but has no use for it: damage to other kinds makes it */
	for (unsigned kind = ASH_LOG_BYTES; kind <= ASH_LOG_ORPHAN_DEL; kind++)
		if (!(kinds & 1u << kind))
			die("the image's log has no item of kind %u", kind);
}

/* What the log does not touch stays as it is, whatever becomes of the log. */
static void keep_settled(struct image *image)
{
	size_t kept = 0;

	for (size_t i = 0; i < image->settled.count; i++) {
		const struct known_inode *old = &image->settled.items[i];
		const struct known_inode *now = manifest_find(&image->manifest, old->ino);

		if (now && !memcmp(old, now, sizeof(*old)))
			image->settled.items[kept++] = *old;
	}
	image->settled.count = kept;
	if (kept < 100)
		die("the log touches nearly everything: the image does not test what it should");
}

/* ---- Images ---- */

/* Tests are single-threaded (no_threads), so that no lock is needed. */
static void watch(void *context, const struct bdev_trace_event *event)
{
	struct image *image = context;

	if (event->op == BDEV_READ || event->op == BDEV_FLUSH)
		return;
	image->writes++;
	if (image->volume_size && event->offset + event->length > image->volume_size)
		image->outside++;
	for (uint64_t at = event->offset; image->dirty && at < event->offset + event->length; at += ASH_BLOCK_SIZE)
		image->dirty[at >> ASH_BLOCK_SHIFT] = 1;
}

static void fill_volume(struct image *image)
{
	struct ash_open_options options = { .no_threads = true, .log = quiet_log };
	char error[BDEV_ERROR_TEXT] = "";
	struct ash_volume *volume;

	need(ash_open(image->dev, &options, &volume, error), error);
	make_files(image, volume);
	make_attributes(image, volume);
	make_directories(image, volume);
	if (image->clean) {
		need(ash_close(volume), "close");
		return;
	}
	need(ash_checkpoint(volume), "checkpoint");
	manifest_walk(volume, &image->settled);
	make_log(volume);
	interrupt_checkpoint(image, volume);
	ash_abandon(volume);
}

static void keep_bytes(struct image *image)
{
	image->pristine = bdev_buffer_alloc(image->size);
	image->dirty = calloc(image->size >> ASH_BLOCK_SHIFT, 1);
	if (!image->pristine || !image->dirty)
		die("out of memory");
	for (uint64_t at = 0; at < image->size; at += CHUNK)
		need(bdev_read(image->dev, image->pristine + at, CHUNK, at), "reading the image");
	memcpy(&image->super, image->pristine, sizeof(image->super));
	image->seed = ash_get32(image->super.checksum_seed);
	image->volume_size = ash_get64(image->super.block_count) << ASH_BLOCK_SHIFT;
}

void image_make(struct image *image, const char *device, unsigned flags)
{
	static const uint8_t seed[32] = "a volume that is to be damaged";
	struct ash_mkfs_options options = { .seed = seed,
					    .now = 1700000000,
					    .label = "damage",
					    .inodes_per_run = 256,
					    .log_blocks = ASH_LOG_MIN_BLOCKS };
	struct ash_open_options look = { .no_write = true, .no_threads = true };
	struct bdev_open_options device_options = { 0 };
	char error[BDEV_ERROR_TEXT] = "";
	struct bdev *driver;

	/* Huge pages take longer to clear than these small volumes to check. */
	prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0);
	memset(image, 0, sizeof(*image));
	image->clean = flags & IMAGE_CLEAN;
	need(bdev_open(device, &device_options, &driver, error), error);
	need(fault_open(driver, &image->fault), "the fault layer");
	need(bdev_trace_open(image->fault, watch, image, &image->dev), "the trace layer");
	image->size = bdev_geometry(image->dev)->size;
	options.block_count = (image->size >> ASH_BLOCK_SHIFT) - (flags & IMAGE_TAIL ? IMAGE_TAIL_BLOCKS : 0);
	need(ash_mkfs(image->dev, &options, error), error);
	fill_volume(image);
	keep_bytes(image);
	need(manifest_take(image->dev, &look, &image->manifest), "walking the fresh image");
	need(image->manifest.error, "walking the fresh image");
	if (image->clean)
		return;
	check_log(image);
	keep_settled(image);
}

void image_free(struct image *image)
{
	manifest_free(&image->manifest);
	manifest_free(&image->settled);
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
	image->outside = 0;
	ticks = 1000000; /* later than all that is in the image */
}

bool image_outside(struct image *image)
{
	uint8_t data[ASH_BLOCK_SIZE] __attribute__((aligned(4096)));

	image_read(image, 0, data);
	return image->outside && ((struct ash_super *)(void *)data)->block_count.raw == image->super.block_count.raw;
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
