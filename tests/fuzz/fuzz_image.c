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
	struct sites sites;
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

static void keep_wanted(struct sites *sites)
{
	size_t kept = 0;

	for (size_t i = 0; i < sites->count; i++)
		if (!fuzz_harness.wants || fuzz_harness.wants(&sites->items[i]))
			sites->items[kept++] = sites->items[i];
	sites->count = kept;
}

static void state_make(struct fuzz_state *state, bool clean)
{
	struct image *image = &state->image;

	/* The one that was not closed has no backup at the device's end, but room to write outside. */
	image_make(image, "mem:8M", clean ? IMAGE_CLEAN : IMAGE_TAIL);
	state->made = true;
	for (uint64_t block = 0; block < image->size >> ASH_BLOCK_SHIFT && state->target_count < TARGETS_MAX; block++)
		if (is_metadata(image->pristine + (block << ASH_BLOCK_SHIFT)))
			state->targets[state->target_count++] = block;
	sites_find(image, &state->sites);
	keep_wanted(&state->sites);
}

struct image *fuzz_image(bool clean)
{
	struct fuzz_state *state = &states[clean];

	if (state->made)
		image_restore(&state->image);
	else
		state_make(state, clean);
	return &state->image;
}

const uint64_t *fuzz_targets(struct image *image, size_t *count)
{
	struct fuzz_state *state = (struct fuzz_state *)image;

	*count = state->target_count;
	return state->targets;
}

const struct sites *fuzz_sites(struct image *image)
{
	return &((struct fuzz_state *)image)->sites;
}

static void seal_record(const struct image *image, struct ash_inode *record)
{
	if (ash_get32(record->magic) == ASH_MAGIC_INODE)
		record->crc = ash_put32(ash_inode_crc(image->seed, record));
}

static void seal(const struct image *image, uint8_t *data)
{
	const struct ash_block_header *header = (const void *)data;

	if (ash_get32(header->magic) == ASH_MAGIC_SUPER)
		seal_record(image, &((struct ash_super *)(void *)data)->table_inode);
	if (is_metadata(data) && ash_get32(header->magic) != ASH_MAGIC_INODE && ash_get32(header->magic)) {
		block_seal(image, data);
		return;
	}
	for (uint32_t i = 0; i < ASH_INODES_PER_BLOCK; i++)
		seal_record(image, (struct ash_inode *)(void *)(data + i * ASH_INODE_SIZE));
}

void fuzz_patch(struct image *image, const uint8_t *data, size_t size)
{
	size_t target_count;
	const uint64_t *targets = fuzz_targets(image, &target_count);
	uint64_t ring = ash_get64(image->super.log_start) + 2, chain = UINT64_MAX;
	uint8_t block[ASH_BLOCK_SIZE] __attribute__((aligned(4096)));

	for (unsigned patches = 0; size > PATCH_HEADER && patches < 64; patches++) {
		uint64_t target = targets[(data[0] | data[1] << 8) % target_count];
		uint32_t offset = (uint32_t)(data[2] | data[3] << 8) % ASH_BLOCK_SIZE;
		uint32_t length = (data[4] & (PATCH_BYTES_MAX - 1)) + 1;
		uint8_t control = data[4];

		data += PATCH_HEADER;
		size -= PATCH_HEADER;
		if (length > size)
			length = (uint32_t)size;
		if (length > ASH_BLOCK_SIZE - offset)
			length = ASH_BLOCK_SIZE - offset;
		image_read(image, control & PATCH_COPY ? targets[(data[0] * 31u) % target_count] : target, block);
		memcpy(block + offset, data, length);
		data += length;
		size -= length;
		if (control & PATCH_SEAL)
			seal(image, block);
		image_write(image, target, block);
		if ((control & PATCH_SEAL) && (control & PATCH_CHAIN) && target >= ring && target - ring < chain &&
		    target - ring < ash_get64(image->super.log_blocks) - 2)
			chain = target - ring;
	}
	if (chain != UINT64_MAX)
		log_rechain(image, chain);
}
