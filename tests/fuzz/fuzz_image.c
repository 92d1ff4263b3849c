/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* See fuzz.h. Static state is fine here: a harness is one process with one thread. */
#include "fuzz.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include "fs/checksum.h"

#define TARGETS_MAX 4096u

struct fuzz_state {
	struct image image; /* first: fuzz_targets() finds the state by it */
	bool made;
	uint64_t targets[TARGETS_MAX];
	size_t target_count;
};
static struct fuzz_state states[2]; /* abandoned with a full log; closed in order */

void fuzz_fail(const char *format, ...)
{
	va_list arguments;

	va_start(arguments, format);
	vfprintf(stderr, format, arguments);
	va_end(arguments);
	fputc('\n', stderr);
	abort();
}

static bool is_metadata(const uint8_t *data)
{
	static const uint32_t magics[] = {
		ASH_MAGIC_SUPER,     ASH_MAGIC_GROUP_TABLE, ASH_MAGIC_BLOCK_BITMAP, ASH_MAGIC_INODE_BITMAP,
		ASH_MAGIC_TREE_NODE, ASH_MAGIC_LOG_CONTROL, ASH_MAGIC_LOG_BLOCK,
	};
	ash_le32 magic;

	memcpy(&magic, data, sizeof(magic));
	for (size_t i = 0; i < sizeof(magics) / sizeof(magics[0]); i++)
		if (ash_get32(magic) == magics[i])
			return true;
	/* An inode block: any of its records is one. */
	for (uint32_t i = 0; i < ASH_INODES_PER_BLOCK; i++) {
		memcpy(&magic, data + i * ASH_INODE_SIZE, sizeof(magic));
		if (ash_get32(magic) == ASH_MAGIC_INODE)
			return true;
	}
	return false;
}

struct image *fuzz_image(bool clean)
{
	struct fuzz_state *state = &states[clean];
	struct image *image = &state->image;

	if (state->made) {
		image_restore(image);
		return image;
	}
	image_make(image, "mem:8M", clean);
	state->made = true;
	for (uint64_t block = 0; block < image->size >> ASH_BLOCK_SHIFT && state->target_count < TARGETS_MAX; block++)
		if (is_metadata(image->pristine + (block << ASH_BLOCK_SHIFT)))
			state->targets[state->target_count++] = block;
	return image;
}

const uint64_t *fuzz_targets(struct image *image, size_t *count)
{
	struct fuzz_state *state = (struct fuzz_state *)image;

	*count = state->target_count;
	return state->targets;
}

static void seal(const struct image *image, uint8_t *data)
{
	struct ash_block_header *header = (void *)data;
	ash_le32 magic;

	if (is_metadata(data) && ash_get32(header->magic) != ASH_MAGIC_INODE && ash_get32(header->magic)) {
		header->crc = ash_put32(ash_block_crc(image->seed, data));
		return;
	}
	for (uint32_t i = 0; i < ASH_INODES_PER_BLOCK; i++) {
		struct ash_inode *record = (void *)(data + i * ASH_INODE_SIZE);

		memcpy(&magic, record, sizeof(magic));
		if (ash_get32(magic) == ASH_MAGIC_INODE)
			record->crc = ash_put32(ash_inode_crc(image->seed, record));
	}
}

void fuzz_patch(struct image *image, const uint8_t *data, size_t size)
{
	size_t target_count;
	const uint64_t *targets = fuzz_targets(image, &target_count);
	uint8_t block[ASH_BLOCK_SIZE] __attribute__((aligned(4096)));

	for (unsigned patches = 0; size >= 6 && patches < 64; patches++) {
		uint64_t target = targets[(data[0] | data[1] << 8) % target_count];
		uint32_t offset = (uint32_t)(data[2] | data[3] << 8) % ASH_BLOCK_SIZE;
		uint32_t length = (data[4] & 31u) + 1;
		uint8_t control = data[4];

		data += 5;
		size -= 5;
		if (length > size)
			length = (uint32_t)size;
		if (length > ASH_BLOCK_SIZE - offset)
			length = ASH_BLOCK_SIZE - offset;
		image_read(image, control & 64 ? targets[(data[0] * 31u) % target_count] : target, block);
		memcpy(block + offset, data, length);
		data += length;
		size -= length;
		if (control & 32)
			seal(image, block);
		image_write(image, target, block);
	}
}
