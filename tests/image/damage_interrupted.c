/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Repairs that are cut off: the device dies at the n-th write, or the user cancels at the n-th question for that. The next
 * run must finish the work. See damage.h.
 */
#include "damage.h"

#include <stdio.h>
#include "tests/support/fault.h"

enum wound {
	WOUND_SUPER,
	WOUND_GROUP_TABLE,
	WOUND_BITMAP,
	WOUND_RUN,
	WOUND_CONTROLS,
	WOUND_NODE,
	WOUND_INNER_NODE,
	WOUND_ATTRIBUTE_NODE,
	WOUND_ROOT,
	WOUND_INODES,
	WOUND_SHARED,
	WOUND_COUNT,
};
static const char *const wound_names[] = {
	"the superblock",     "the group table",          "the block bitmap",  "a run's bitmap", "the log control",
	"a directory's leaf", "a directory's inner node", "an attribute node", "the root",       "a block of inodes",
	"shared blocks",
};

static void zero_block(struct image *image, uint64_t block)
{
	static const uint8_t zero[ASH_BLOCK_SIZE] __attribute__((aligned(4096)));

	image_write(image, block, zero);
}

/* Nodes come with a parent before its children: the first is an inner one in a deep tree. */
static void zero_node(struct image *image, uint64_t ino, bool attribute, unsigned index, struct test *test)
{
	uint64_t blocks[64];
	unsigned count = locate_nodes(image, ino, attribute, blocks, 64);

	if (index >= count)
		die("inode %llu has only %u tree blocks", (unsigned long long)ino, count);
	test->affected[test->affected_count++] = ino;
	zero_block(image, blocks[index]);
}

static void share_blocks(struct image *image, struct test *test)
{
	struct ash_inode victim, thief;

	inode_get(image, image->block_file, &victim);
	inode_get(image, image->unwritten_file, &thief);
	((struct ash_extent_value *)(void *)node_record(thief.data, 0)->value)->start =
		((struct ash_extent_value *)(void *)node_record(victim.data, 0)->value)->start;
	inode_put(image, image->unwritten_file, &thief, true);
	test->affected[test->affected_count++] = image->unwritten_file;
}

static void inflict(struct image *image, enum wound wound, struct test *test)
{
	static const struct ash_inode no_inode;
	uint64_t log = ash_get64(image->super.log_start);
	uint32_t offset;

	switch (wound) {
	case WOUND_SUPER:
		zero_block(image, 0);
		break;
	case WOUND_GROUP_TABLE:
		zero_block(image, ash_get64(image->super.group_table_start));
		break;
	case WOUND_BITMAP:
		zero_block(image, ash_group_bitmap(0));
		break;
	case WOUND_RUN:
		zero_block(image, locate_table_block(image, 0));
		break;
	case WOUND_CONTROLS:
		zero_block(image, log);
		zero_block(image, log + 1);
		break;
	case WOUND_NODE:
		zero_node(image, image->flat_directory, false, 1, test);
		break;
	case WOUND_INNER_NODE:
		zero_node(image, image->deep_directory, false, 0, test);
		break;
	case WOUND_ATTRIBUTE_NODE:
		zero_node(image, image->attribute_file, true, 0, test);
		break;
	case WOUND_ROOT:
		inode_put(image, ASH_INO_ROOT, &no_inode, false);
		test->affected[test->affected_count++] = ASH_INO_ROOT;
		break;
	case WOUND_INODES:
		zero_block(image, locate_inode(image, image->flat_directory, &offset));
		for (unsigned i = 0; i < ASH_INODES_PER_BLOCK; i++)
			test->affected[test->affected_count++] =
				image->flat_directory - image->flat_directory % ASH_INODES_PER_BLOCK + i;
		break;
	case WOUND_SHARED:
		share_blocks(image, test);
		break;
	case WOUND_COUNT:
		break;
	}
}

/* The device dies at the n-th write of the repair; the next run, not forced, must finish the work. */
static bool interrupt(struct image *image, enum wound wound, unsigned after)
{
	struct test test = { .names_move = true, .must_not = true };
	struct fault_rule rule = { .ops = FAULT_OP(BDEV_WRITE), .skip = after, .sticky = true };
	struct ash_check_options options = { .mode = ASH_CHECK_YES };
	struct ash_check_result result;
	bool hit;

	inflict(image, wound, &test);
	if (fault_add(image->fault, &rule))
		die("no room for a fault");
	options.force = true;
	ash_check(image->dev, &options, &result);
	hit = fault_hits(image->fault) > 0;
	fault_clear(image->fault);
	options.force = after == 0; /* nothing was written: nothing says that there is work to finish */
	if (ash_check(image->dev, &options, &result))
		printf("# the second run: %s\n", result.error);
	snprintf(test.name, sizeof(test.name), "repair of %s interrupted after %u writes", wound_names[wound], after);
	judge(image, &test);
	return hit;
}

/* ---- Cancelled ---- */

static bool countdown(void *context)
{
	unsigned *left = context;

	if (*left)
		(*left)--;
	return !*left;
}

/* It ends early without an error, and the next run, forced only when nothing was written, finishes the work. */
static bool cancel(struct image *image, enum wound wound, unsigned after)
{
	struct test test = { .names_move = true, .must_not = true };
	unsigned left = after;
	struct ash_check_options first = {
		.mode = ASH_CHECK_YES, .force = true, .cancelled = countdown, .context = &left
	};
	struct ash_check_options second = { .mode = ASH_CHECK_YES };
	struct ash_check_result result;
	char name[sizeof(test.name) + 60];
	bool cancelled, good;
	int error;

	inflict(image, wound, &test);
	error = ash_check(image->dev, &first, &result);
	cancelled = result.cancelled;
	good = !error && (cancelled || (!result.left && left));
	second.force = !result.changed;
	if (ash_check(image->dev, &second, &result) || result.skipped || result.left)
		good = !cancelled && result.skipped;
	snprintf(test.name, sizeof(test.name), "repair of %s cancelled at point %u", wound_names[wound], after);
	snprintf(name, sizeof(name), "%s: it ends early, and the next run ends the work", test.name);
	judge(image, &test);
	campaign_check(name, good);
	return cancelled;
}

void damage_interrupted(struct image *image)
{
	for (enum wound wound = 0; wound < WOUND_COUNT; wound++)
		for (unsigned after = 0; interrupt(image, wound, after) && after < 400; after += 1 + after / 16)
			;
	for (enum wound wound = 0; wound < WOUND_COUNT; wound++)
		for (unsigned after = 1; cancel(image, wound, after) && after < 400; after += 1 + after / 16)
			;
}
