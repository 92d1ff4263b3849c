/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Hostile images: damage to every field of every structure, and what the engine and the check make of it (judge.h says
 * what must hold, fields.h and sites.h what is damaged).
 *
 *   test_damage [--seed N] [--share PERCENT] [PART ...]     parts: see below; none: all
 *
 * DAMAGE_ONLY=text judges the images with that in their name, DAMAGE_VERBOSE=1 shows the problems. The quick level judges a
 * share of each part, chosen by the damage itself. Prints TAP.
 */
#include "damage.h"

#include <stdio.h>
#include <stdlib.h>

static const struct part {
	const char *name, *device;
	unsigned flags;
	void (*body)(struct image *image);
	unsigned quick; /* percent at the quick level */
	unsigned usual; /* at the normal one */
} parts[] = {
	{ "fields", "mem:16M", IMAGE_CLEAN | IMAGE_TAIL, damage_fields, 1, 100 },
	{ "supers", "mem:16M", IMAGE_CLEAN, damage_supers, 2, 100 },
	{ "blocks", "mem:16M", IMAGE_CLEAN, damage_blocks, 10, 100 },
	{ "shapes", "mem:16M", IMAGE_CLEAN | IMAGE_TAIL, damage_shapes, 100, 100 },
	{ "doubts", "mem:16M", IMAGE_CLEAN | IMAGE_TAIL, damage_doubts, 100, 100 },
	{ "groups", "mem:140M", IMAGE_CLEAN, damage_groups, 1, 100 },
	{ "log", "mem:16M", IMAGE_TAIL, damage_log, 2, 100 },
	{ "unclean", "mem:16M", IMAGE_TAIL, damage_unclean, 1, 25 },
	{ "unclean_blocks", "mem:16M", 0, damage_blocks, 5, 50 },
	{ "pairs", "mem:16M", IMAGE_CLEAN | IMAGE_TAIL, damage_pairs, 100, 100 },
	{ "unclean_pairs", "mem:16M", IMAGE_TAIL, damage_pairs, 100, 100 },
	{ "interrupted", "mem:16M", IMAGE_CLEAN, damage_interrupted, 100, 100 },
};
#define PARTS (sizeof(parts) / sizeof(parts[0]))

static void run(const struct part *part, unsigned share)
{
	struct image image;
	char name[64];

	if (!share)
		share = test_level() == LEVEL_QUICK ? part->quick : test_level() == LEVEL_NORMAL ? part->usual : 100;
	snprintf(name, sizeof(name), "damage_%s", part->name);
	image_make(&image, part->device, part->flags);
	campaign_run(name, share, part->body, &image);
	image_free(&image);
}

int main(int argc, char **argv)
{
	unsigned share = 0, done = 0;

	for (int i = 1; i < argc; i++) {
		const struct part *part = NULL;

		if (i + 1 < argc && !strcmp(argv[i], "--seed")) {
			damage_seed = strtoull(argv[++i], NULL, 0);
			continue;
		}
		if (i + 1 < argc && !strcmp(argv[i], "--share")) {
			share = (unsigned)strtoul(argv[++i], NULL, 0);
			continue;
		}
		for (size_t j = 0; j < PARTS; j++)
			if (!strcmp(argv[i], parts[j].name))
				part = &parts[j];
		if (!part)
			die("no part %s", argv[i]);
		run(part, share);
		done++;
	}
	for (size_t i = 0; i < PARTS && !done; i++)
		run(&parts[i], share);
	return campaign_end();
}
