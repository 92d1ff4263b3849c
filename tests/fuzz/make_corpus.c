/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Seeds for libFuzzer: `make_corpus DIR` makes DIR/node, DIR/super, DIR/log, DIR/mount and DIR/fsck. Nodes are those of a real
 * image; the others are patches that hit each kind of metadata block once.
 */
#include "fuzz.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>

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

static void save_patches(struct image *image, const char *folder)
{
	size_t count;

	fuzz_targets(image, &count);
	for (size_t i = 0; i < count; i += 1 + count / 64) {
		uint8_t input[16] = { (uint8_t)i, (uint8_t)i, (uint8_t)(i >> 8), 60, 0, 32 | 3, 1, 2, 3, 4 };

		save(folder, "mount", i, input, 10);
		save(folder, "fsck", i, input, 10);
		save(folder, "super", i, input + 3, 6);
		save(folder, "log", i, input + 1, 8);
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
	save_patches(image, argv[1]);
	image_free(image);
	return 0;
}
