/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Seeds for libFuzzer: `make_corpus DIR` makes a folder for each harness. Nodes are those of a real image, operations
 * those of trees that grow and shrink; the others are patches that damage each field of the format once.
 */
#include "fuzz.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>

const struct fuzz_harness fuzz_harness;

static void save(const char *folder, const char *kind, size_t number, const void *data, size_t size)
{
	char path[4096];
	FILE *file;

	snprintf(path, sizeof(path), "%s/%s", folder, kind);
	if (mkdir(path, 0777) && errno != EEXIST)
		die("%s: %s", path, strerror(errno));
	snprintf(path, sizeof(path), "%s/%s/seed-%zu", folder, kind, number);
	file = fopen(path, "wb");
	if (!file || fwrite(data, 1, size, file) != size || fclose(file))
		die("%s: %s", path, strerror(errno));
}

static void save_nodes(struct image *image, const char *folder)
{
	size_t count, number = 0;
	const uint64_t *targets = fuzz_targets(image, &count);
	uint8_t block[ASH_BLOCK_SIZE] __attribute__((aligned(4096))), input[ASH_BLOCK_SIZE];

	for (size_t i = 0; i < count; i++) {
		image_read(image, targets[i], block);
		if (ash_get32(((struct ash_block_header *)block)->magic) != ASH_MAGIC_TREE_NODE)
			continue;
		input[0] = 0;
		memcpy(input + 1, block + offsetof(struct ash_tree_block, node), ASH_TREE_NODE_SIZE);
		save(folder, "node", number++, input, 1 + ASH_TREE_NODE_SIZE);
	}
}

/* Each field of the format once, in turn with each way to change it. */
static void save_patches(struct image *image, bool clean, const char *folder)
{
	const struct sites *sites = fuzz_sites(image);
	size_t count, target;
	const uint64_t *targets = fuzz_targets(image, &count);

	for (size_t i = 0; i < sites->count; i++) {
		const struct site *site = &sites->items[i];
		uint8_t data[ASH_BLOCK_SIZE] __attribute__((aligned(4096))), input[1 + PATCH_HEADER + PATCH_BYTES_MAX];
		uint32_t length = site->field.size < PATCH_BYTES_MAX ? site->field.size : PATCH_BYTES_MAX;
		size_t number = 2 * i + clean;

		for (target = 0; target < count && targets[target] != site->block; target++)
			;
		image_read(image, site->block, data);
		if (target == count || !site_change(image, sites, i, i % CHANGES, data))
			continue;
		input[0] = clean | 2;
		input[1] = (uint8_t)target;
		input[2] = (uint8_t)(target >> 8);
		input[3] = (uint8_t)site->offset;
		input[4] = (uint8_t)(site->offset >> 8);
		input[5] = (uint8_t)(PATCH_SEAL | PATCH_CHAIN | (length - 1));
		memcpy(input + 6, data + site->offset, length);
		if (i % 8 == 0) {
			save(folder, "mount", number, input, 6 + length);
			save(folder, "fsck", number, input, 6 + length);
		}
		if (site->structure == S_SUPER || site->cover == COVER_TABLE)
			save(folder, "super", number, input, 6 + length);
		if (!clean && (site->cover == COVER_LOG || site->structure == S_LOG_CONTROL))
			save(folder, "log", number, input, 6 + length);
	}
}

/* Growing, shrinking and mixed trees, with small and large values. */
static void save_operations(const char *folder)
{
	uint8_t input[1 + 4 * 300];

	for (unsigned seed = 0; seed < 16; seed++) {
		input[0] = (uint8_t)seed;
		for (unsigned i = 0; i < 300; i++) {
			uint8_t *step = input + 1 + 4 * i;

			step[0] = (uint8_t)(seed < 8 && i < 200 ? 0 : i * 7 + seed);
			step[1] = (uint8_t)(i * 37 + seed);
			step[2] = (uint8_t)(i * 11);
			step[3] = (uint8_t)(seed & 4 ? 250 : i % 20);
		}
		save(folder, "tree", seed, input, sizeof(input));
	}
}

int main(int argc, char **argv)
{
	struct image *image;

	if (argc != 2)
		die("usage: make_corpus DIR");
	if (mkdir(argv[1], 0777) && errno != EEXIST)
		die("%s: %s", argv[1], strerror(errno));
	image = fuzz_image(true);
	save_nodes(image, argv[1]);
	save_operations(argv[1]);
	save_patches(image, true, argv[1]);
	image_free(image);
	image = fuzz_image(false);
	save_patches(image, false, argv[1]);
	image_free(image);
	return 0;
}
