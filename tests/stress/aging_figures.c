/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * How fragmented files and free space are, through the volume API: extents by ash_bmap(), runs of free blocks by what
 * ash_trim() finds in runs of at least 2^n blocks.
 */
#include "aging.h"

#include <ashlar/ashlar.h>
#include <ashlar/format.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define SIZES 12 /* runs of at least 1, 2, 4 ... blocks */

struct figures {
	struct ash_volume *volume;
	uint64_t files, fragmented, extents, blocks, most;
	uint64_t inodes[LANES * LANE_NAMES], inode_count;
};

static int take_inode(void *context, const char *name, size_t length, uint64_t ino, unsigned type, uint64_t next,
		      const struct ash_attr *attr)
{
	struct figures *figures = context;

	(void)length;
	(void)type;
	(void)next;
	(void)attr;
	if (name[0] != '.' && figures->inode_count < LANES * LANE_NAMES)
		figures->inodes[figures->inode_count++] = ino;
	return 0;
}

static int count_extents(struct figures *figures, uint64_t ino)
{
	struct ash_attr attr;
	uint64_t extents = 0, last = 0, block;
	int rc = ash_getattr(figures->volume, ino, &attr);

	for (uint64_t i = 0; !rc && i < (attr.size + ASH_BLOCK_SIZE - 1) / ASH_BLOCK_SIZE; i++) {
		rc = ash_bmap(figures->volume, ino, i, &block);
		if (rc || !block)
			continue;
		figures->blocks++;
		extents += block != last + 1;
		last = block;
	}
	if (rc)
		return rc;
	figures->files += extents != 0;
	figures->fragmented += extents > 1;
	figures->extents += extents;
	figures->most = extents > figures->most ? extents : figures->most;
	return 0;
}

static int count_lane(struct figures *figures, int lane)
{
	struct ash_attr attr;
	char name[20];
	int rc;

	snprintf(name, sizeof(name), "lane%d", lane);
	rc = ash_lookup(figures->volume, 1, name, &attr);
	if (rc)
		return rc;
	figures->inode_count = 0;
	rc = ash_readdir(figures->volume, attr.ino, 0, false, take_inode, figures);
	ash_forget(figures->volume, attr.ino, 1);
	for (uint64_t i = 0; !rc && i < figures->inode_count; i++)
		rc = count_extents(figures, figures->inodes[i]);
	return rc;
}

static int print_free(struct ash_volume *volume, const char *when)
{
	uint64_t at_least[SIZES + 1] = { 0 };

	for (unsigned i = 0; i < SIZES; i++) {
		int rc = ash_trim(volume, 0, UINT64_MAX, (uint64_t)ASH_BLOCK_SIZE << i, &at_least[i]);

		if (rc)
			return rc;
	}
	printf("# free space %s:", when);
	for (unsigned i = 0; i < SIZES; i++) {
		uint64_t blocks = (at_least[i] - at_least[i + 1]) / ASH_BLOCK_SIZE;

		if (blocks)
			printf(" %u%s %llu,", 1u << i, i + 1 == SIZES ? "+" : "", (unsigned long long)blocks);
	}
	printf(" all %llu (blocks in runs of at least so many)\n", (unsigned long long)at_least[0] / ASH_BLOCK_SIZE);
	return 0;
}

int aging_figures(const char *device, const char *when)
{
	struct ash_open_options options = { 0 };
	struct figures *figures = calloc(1, sizeof(*figures));
	char error[BDEV_ERROR_TEXT] = "";
	struct bdev *dev;
	int rc = figures ? bdev_open(device, &(struct bdev_open_options){ 0 }, &dev, error) : -1;

	if (rc)
		goto out;
	rc = ash_open(dev, &options, &figures->volume, error);
	if (!rc) {
		for (int i = 0; i < LANES && !rc; i++)
			rc = count_lane(figures, i);
		if (!rc)
			rc = print_free(figures->volume, when);
		int closed = ash_close(figures->volume);
		rc = rc ? rc : closed;
	}
	bdev_close(dev);
	if (!rc)
		printf("# fragmentation %s: %llu files with data, %.2f extents each, at most %llu, %.1f %% in one "
		       "piece, "
		       "%.1f KiB an extent\n",
		       when, (unsigned long long)figures->files,
		       figures->files ? (double)figures->extents / (double)figures->files : 0,
		       (unsigned long long)figures->most,
		       figures->files ?
			       100.0 * (double)(figures->files - figures->fragmented) / (double)figures->files :
			       0,
		       figures->extents ? 4.0 * (double)figures->blocks / (double)figures->extents : 0);
out:
	if (rc)
		printf("# figures: %s %s\n", strerror(-rc), error);
	free(figures);
	return rc ? 1 : 0;
}
