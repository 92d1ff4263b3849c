/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Crash images with undo: see arena.h. Rule: all writing to `work` goes through arena_write() and arena_zero(), which
 * note the block. Poison that nobody has written over is one piece of memory, mapped as often as an image has room for
 * it: a device of several groups costs what is written to it. No locks: the volumes under test have no threads.
 */
#include "arena.h"

#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>
#include "blockdrv/done.h"
#include "tests/model/content.h"

#define BLOCK 4096u
#define PIECE (1u << 20) /* of poison */

/* Any good mix will do: states are told apart by a sum over their blocks. */
static uint64_t block_hash(uint64_t index, const unsigned char *data)
{
	uint64_t a = index * 0x9e3779b97f4a7c15ull + 1, b = ~index;

	for (size_t i = 0; i < BLOCK; i += 16) {
		uint64_t word[2];

		memcpy(word, data + i, sizeof(word));
		a = (a ^ word[0]) * 0xff51afd7ed558ccdull;
		b = (b ^ word[1]) * 0xc4ceb9fe1a85ec53ull;
		a ^= a >> 32;
		b ^= b >> 29;
	}
	a += b * 0x9e3779b97f4a7c15ull;
	return a ^ a >> 31;
}

/* A file of one piece of poison. */
static int poison_file(void)
{
	static const unsigned char poison[BLOCK] = { [0 ... BLOCK - 1] = ARENA_POISON };
	int fd = memfd_create("poison", MFD_CLOEXEC);

	for (unsigned at = 0; fd >= 0 && at < PIECE; at += BLOCK) {
		if (write(fd, poison, BLOCK) != BLOCK) {
			close(fd);
			return -1;
		}
	}
	return fd;
}

static unsigned char *image_map(int fd, uint64_t size)
{
	unsigned char *image = mmap(NULL, size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	for (uint64_t at = 0; image != MAP_FAILED && at < size; at += PIECE) {
		uint64_t length = size - at < PIECE ? size - at : PIECE;

		if (mmap(image + at, length, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_FIXED | MAP_NORESERVE, fd, 0) ==
		    MAP_FAILED)
			image = MAP_FAILED;
	}
	if (image == MAP_FAILED) {
		fprintf(stderr, "Bail out! no room for an image\n");
		abort();
	}
	return image;
}

static void make(struct arena *arena, uint64_t size)
{
	int fd = poison_file();

	*arena = (struct arena){ .size = size };
	arena->base = image_map(fd, size);
	arena->work = image_map(fd, size);
	close(fd);
	arena->block_hashes = test_alloc(size / BLOCK * sizeof(*arena->block_hashes));
	arena->dirty = test_alloc(size / BLOCK * sizeof(*arena->dirty));
	arena->is_dirty = test_alloc(size / BLOCK);
	arena->moved = test_alloc(size / BLOCK * sizeof(*arena->moved));
	arena->is_moved = test_alloc(size / BLOCK);
	arena->written = test_alloc(size / BLOCK * sizeof(*arena->written));
	arena->is_written = test_alloc(size / BLOCK);
}

void arena_init(struct arena *arena, uint64_t size)
{
	make(arena, size);
	for (uint64_t i = 0; i < size / BLOCK; i++) {
		arena->block_hashes[i] = block_hash(i, arena->base + i * BLOCK);
		arena->base_hash += arena->block_hashes[i];
	}
}

void arena_free(struct arena *arena)
{
	if (arena->size) {
		munmap(arena->base, arena->size);
		munmap(arena->work, arena->size);
	}
	free(arena->block_hashes);
	free(arena->dirty);
	free(arena->is_dirty);
	free(arena->moved);
	free(arena->is_moved);
	free(arena->written);
	free(arena->is_written);
	*arena = (struct arena){ 0 };
}

void arena_reset(struct arena *arena)
{
	for (size_t i = 0; i < arena->dirty_count; i++) {
		uint64_t at = (uint64_t)arena->dirty[i] * BLOCK;

		memcpy(arena->work + at, arena->base + at, BLOCK);
		arena->is_dirty[arena->dirty[i]] = 0;
	}
	arena->dirty_count = 0;
}

void arena_accept(struct arena *arena)
{
	for (size_t i = 0; i < arena->dirty_count; i++) {
		uint32_t block = arena->dirty[i];
		uint64_t at = (uint64_t)block * BLOCK;

		memcpy(arena->base + at, arena->work + at, BLOCK);
		arena->base_hash -= arena->block_hashes[block];
		arena->block_hashes[block] = block_hash(block, arena->base + at);
		arena->base_hash += arena->block_hashes[block];
		arena->is_dirty[block] = 0;
		if (!arena->is_moved[block]) {
			arena->is_moved[block] = 1;
			arena->moved[arena->moved_count++] = block;
		}
	}
	arena->dirty_count = 0;
}

void arena_init_like(struct arena *arena, const struct arena *from)
{
	make(arena, from->size);
	memcpy(arena->block_hashes, from->block_hashes, from->size / BLOCK * sizeof(*arena->block_hashes));
	arena->base_hash = from->base_hash;
	for (size_t i = 0; i < from->written_count; i++) {
		uint64_t at = (uint64_t)from->written[i] * BLOCK;

		memcpy(arena->base + at, from->base + at, BLOCK);
		arena_write(arena, at, from->work + at, BLOCK);
	}
	arena_accept(arena);
	memset(arena->is_moved, 0, arena->size / BLOCK);
	arena->moved_count = 0;
}

void arena_restore(struct arena *arena, const struct arena *from)
{
	arena_reset(arena);
	for (size_t i = 0; i < arena->moved_count; i++) {
		uint64_t at = (uint64_t)arena->moved[i] * BLOCK;

		arena_write(arena, at, from->work + at, BLOCK);
		arena->is_moved[arena->moved[i]] = 0;
	}
	arena->moved_count = 0;
	arena_accept(arena);
	for (size_t i = 0; i < arena->moved_count; i++)
		arena->is_moved[arena->moved[i]] = 0;
	arena->moved_count = 0;
}

static void mark(struct arena *arena, uint64_t offset, uint64_t length)
{
	for (uint64_t block = offset / BLOCK; block * BLOCK < offset + length; block++) {
		if (!arena->is_dirty[block]) {
			arena->is_dirty[block] = 1;
			arena->dirty[arena->dirty_count++] = (uint32_t)block;
		}
		if (!arena->is_written[block]) {
			arena->is_written[block] = 1;
			arena->written[arena->written_count++] = (uint32_t)block;
		}
	}
}

void arena_write(struct arena *arena, uint64_t offset, const void *data, size_t length)
{
	mark(arena, offset, length);
	memcpy(arena->work + offset, data, length);
}

void arena_zero(struct arena *arena, uint64_t offset, uint64_t length)
{
	mark(arena, offset, length);
	memset(arena->work + offset, 0, length);
}

uint64_t arena_hash(const struct arena *arena)
{
	uint64_t hash = arena->base_hash;

	for (size_t i = 0; i < arena->dirty_count; i++) {
		uint32_t block = arena->dirty[i];

		hash += block_hash(block, arena->work + (uint64_t)block * BLOCK) - arena->block_hashes[block];
	}
	return hash;
}

/* ---- The device ---- */

/* Operations and a chore (beside.h) may be at it together. */
struct arena_device {
	struct bdev dev;
	struct arena *arena;
	pthread_mutex_t lock;
};

static int device_rw(struct bdev *dev, bool write, const struct iovec *iov, int count, uint64_t offset, unsigned flags)
{
	struct arena_device *device = (struct arena_device *)dev;
	struct arena *arena = device->arena;

	(void)flags;
	pthread_mutex_lock(&device->lock);
	for (int i = 0; i < count; i++) {
		if (write)
			arena_write(arena, offset, iov[i].iov_base, iov[i].iov_len);
		else
			memcpy(iov[i].iov_base, arena->work + offset, iov[i].iov_len);
		offset += iov[i].iov_len;
	}
	pthread_mutex_unlock(&device->lock);
	return 0;
}

static int device_flush(struct bdev *dev)
{
	(void)dev;
	return 0;
}

static int device_zero(struct bdev *dev, uint64_t offset, uint64_t length)
{
	struct arena_device *device = (struct arena_device *)dev;

	pthread_mutex_lock(&device->lock);
	arena_zero(device->arena, offset, length);
	pthread_mutex_unlock(&device->lock);
	return 0;
}

static void device_close(struct bdev *dev)
{
	pthread_mutex_destroy(&((struct arena_device *)dev)->lock);
	free(dev);
}

static const struct bdev_operations device_operations = {
	.name = "arena",
	.rw = device_rw,
	.flush = device_flush,
	.discard = device_zero,
	.write_zeroes = device_zero,
	.close = device_close,
	BDEV_EMULATED_QUEUE_OPERATIONS,
};

int arena_device(struct arena *arena, bool fua, struct bdev **out)
{
	struct arena_device *device = test_alloc(sizeof(*device));
	int error = bdev_init(&device->dev, &device_operations, "arena", &(struct bdev_open_options){ 0 });

	if (error) {
		free(device);
		return error;
	}
	device->arena = arena;
	pthread_mutex_init(&device->lock, NULL);
	device->dev.geometry = (struct bdev_geometry){
		.size = arena->size,
		.logical_block = 512,
		.physical_block = 512,
		.memory_align = 512,
		.discard_granularity = 4096,
		.volatile_cache = true,
		.fua = fua,
		.discard = true,
		.write_zeroes = true,
	};
	*out = &device->dev;
	return 0;
}
