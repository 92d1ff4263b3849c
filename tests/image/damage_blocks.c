/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Damage to whole blocks: zeroed, rubbish, copies of others, swapped. See damage.h. */
#include "damage.h"

#include <stdio.h>
#include <stdlib.h>
#include "fs/checksum.h"

void affect_block(struct test *test, struct image *image, const struct site *site)
{
	uint64_t first;

	(void)image;
	if (!site->owner)
		return;
	test->names_move = true;
	first = site->owner - site->owner % ASH_INODES_PER_BLOCK;
	for (unsigned i = 0; i < (site->cover == COVER_RECORD ? ASH_INODES_PER_BLOCK : 1); i++)
		affect(test, site->cover == COVER_RECORD ? first + i : site->owner);
	if (site->cover == COVER_NONE)
		affect(test, image->block_file);
}

/* One site for each block. */
static struct sites blocks_find(struct image *image)
{
	struct sites sites;
	size_t kept = 0;

	sites_find(image, &sites);
	for (size_t i = 0; i < sites.count; i++) {
		size_t j = 0;

		while (j < kept && sites.items[j].block != sites.items[i].block)
			j++;
		if (j == kept)
			sites.items[kept++] = sites.items[i];
	}
	sites.count = kept;
	return sites;
}

static struct test block_test(struct image *image, const struct site *site, const char *what)
{
	struct test test = { .must_report = image->clean && !site->spare };

	snprintf(test.name, sizeof(test.name), "the block of %s: %s", site->place, what);
	affect_block(&test, image, site);
	if (!image->clean)
		test.known = &image->settled;
	return test;
}

static void replace(struct image *image, const struct site *site, const void *data, const char *what)
{
	struct test test = block_test(image, site, what);

	image_write(image, site->block, data);
	judge(image, &test);
}

static void whole(struct image *image, const struct site *site)
{
	uint8_t data[ASH_BLOCK_SIZE] __attribute__((aligned(4096))) = { 0 };

	replace(image, site, data, "zeroed");
	for (unsigned i = 0; i < sizeof(data); i++)
		data[i] = (uint8_t)(i * 197 + (i >> 5));
	replace(image, site, data, "rubbish");
	memset(data, 0xff, sizeof(data));
	replace(image, site, data, "all ones");
	image_read(image, site->block, data);
	memset(data + ASH_BLOCK_SIZE / 2, 0, ASH_BLOCK_SIZE / 2);
	if (memcmp(data, image->pristine + (site->block << ASH_BLOCK_SHIFT), sizeof(data)))
		replace(image, site, data, "second half zeroed");
	image_read(image, 0, data);
	if (site->block)
		replace(image, site, data, "a copy of block 0");
}

/* ---- Swapped ---- */

static void readdress(const struct image *image, const struct site *site, uint64_t owner, uint8_t *data)
{
	struct ash_block_header *header = (void *)data;

	if (site->cover == COVER_RECORD) {
		for (unsigned i = 0; i < ASH_INODES_PER_BLOCK; i++) {
			struct ash_inode *record = (void *)(data + i * ASH_INODE_SIZE);

			record->ino = ash_put64(site->owner - site->owner % ASH_INODES_PER_BLOCK + i);
			if (record->magic.raw)
				record->crc = ash_put32(ash_inode_crc(image->seed, record));
		}
		return;
	}
	header->address = ash_put64(site->block);
	header->owner = ash_put64(owner);
	block_seal(image, data);
}

/* `forged`: each says that it belongs where it is. */
static void swap(struct image *image, const struct site *a, const struct site *b, bool forged)
{
	uint8_t x[ASH_BLOCK_SIZE] __attribute__((aligned(4096))), y[ASH_BLOCK_SIZE] __attribute__((aligned(4096)));
	struct test test = { .must_report = !forged && image->clean && (!a->spare || !b->spare) };
	uint64_t owner_a, owner_b;

	snprintf(test.name, sizeof(test.name), "%.80s and %.80s swapped%s", a->place, b->place,
		 forged ? ", under right checksums" : "");
	affect_block(&test, image, a);
	affect_block(&test, image, b);
	test.blind = forged;
	image_read(image, a->block, x);
	image_read(image, b->block, y);
	if (!memcmp(x, y, sizeof(x)))
		return;
	owner_a = ash_get64(((struct ash_block_header *)(void *)x)->owner);
	owner_b = ash_get64(((struct ash_block_header *)(void *)y)->owner);
	if (forged) {
		readdress(image, a, owner_a, y);
		readdress(image, b, owner_b, x);
	}
	image_write(image, a->block, y);
	image_write(image, b->block, x);
	judge(image, &test);
}

static bool is_super_block(const struct image *image, const struct site *site)
{
	return !site->block || site->block == ash_get64(image->super.block_count) - 1;
}

void damage_blocks(struct image *image)
{
	struct sites blocks = blocks_find(image);
	uint64_t last = ash_get64(image->super.block_count) - 1;

	for (size_t i = 0; i < blocks.count; i++)
		/* without a backup at the device's end nobody finds the volume again: see damage_supers */
		if (blocks.items[i].block || image->size >> ASH_BLOCK_SHIFT == last + 1)
			whole(image, &blocks.items[i]);
	for (size_t i = 0; i < blocks.count; i++)
		for (size_t j = i + 1; j < blocks.count; j++) {
			const struct site *a = &blocks.items[i], *b = &blocks.items[j];

			if (is_super_block(image, a) || is_super_block(image, b) ||
			    (a->cover == COVER_RECORD && b->cover == COVER_RECORD && a->owner == b->owner))
				continue;
			/* all neighbours, and every seventh of the other pairs */
			if (j != i + 1 && (i * 31 + j) % 7)
				continue;
			swap(image, a, b, false);
			if (a->cover == b->cover && a->cover != COVER_NONE && a->structure == b->structure)
				swap(image, a, b, true);
		}
	sites_free(&blocks);
}
