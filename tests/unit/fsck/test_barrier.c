/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Repairs that lose what was not flushed: from each state that this can leave the next check must get the volume sound,
 * with all that could be read before the first.
 *
 * Some barriers back each other, so that none of them alone shows: the one before an empty log is begun (that of
 * log_give_up() and that of log_horizon()), and the one before the mark is taken back (that of finish() and that of
 * super_write_all()). Two cannot show at all: the one between bitmaps and the group table, for while the mark stands
 * the next check compares both with what it finds, and the one behind the record of a new lost+found, for the tree of
 * the root has one before the root leads there.
 */
#include "forge_fixture.h"

#include "tests/unit/fs/loss_fixture.h"

#define SIZE (16u << 20)
#define BLOCKS (SIZE / ASH_BLOCK_SIZE)
#define NAMES 240u
#define EXTENTS 500u

/* What could be read of the volume before the first repair. */
struct known {
	uint64_t folder, file;
	bool name[NAMES];
	uint64_t ino[NAMES];
	bool extent[EXTENTS];
	uint32_t mode; /* of sick->file; 0: does not matter */
	unsigned names, extents;
};

struct judge {
	struct known known;
	struct sick sick; /* the state that is judged */
	char why[1200];
};

/* ---- A volume with something to lose ---- */

static void name_of(unsigned i, char name[128])
{
	memset(name, 'n', 127);
	snprintf(name, 128, "%0100u", i);
}

static void fill_block(uint8_t block[ASH_BLOCK_SIZE], unsigned i)
{
	memset(block, 0, ASH_BLOCK_SIZE);
	snprintf((char *)block, ASH_BLOCK_SIZE, "part %u", i);
}

/* A directory of several leaves, and a file of many extents. */
static void content_make(struct sick *sick, struct known *known)
{
	struct ash_create directory = { .mode = S_IFDIR | 0755 }, file = { .mode = S_IFREG | 0644 };
	struct ash_volume *volume = sick->engine.volume;
	uint8_t block[ASH_BLOCK_SIZE];
	struct ash_attr attr;
	char name[128];

	cr_assert_eq(ash_create(volume, ASH_INO_ROOT, "folder", &directory, &attr), 0);
	known->folder = attr.ino;
	cr_assert_eq(ash_create(volume, ASH_INO_ROOT, "extents", &file, &attr), 0);
	known->file = attr.ino;
	for (unsigned i = 0; i < EXTENTS; i++) {
		fill_block(block, i);
		cr_assert_eq(ash_write(volume, known->file, block, sizeof(block), 2ull * i * sizeof(block), 0),
			     sizeof(block));
	}
	for (unsigned i = 0; i < NAMES; i++) {
		name_of(i, name);
		cr_assert_eq(ash_create(volume, known->folder, name, &file, &attr), 0);
		known->ino[i] = attr.ino;
	}
}

static void volume_make(struct sick *sick, struct known *known)
{
	sick_open(sick, true);
	engine_mount(&sick->engine);
	content_make(sick, known);
	cr_assert_eq(ash_close(sick->engine.volume), 0);
	sick->engine.volume = NULL;
}

/* The first leaf of a fork's tree whose root has only leaves below it. */
static uint64_t first_leaf(struct sick *sick, uint64_t ino)
{
	struct ash_inode record;
	const uint8_t *value;
	uint32_t length;
	uint64_t key;

	inode_get(&sick->engine, ino, &record);
	cr_assert_eq(record.data_kind, ASH_FORK_TREE);
	cr_assert_eq(ash_node_level(record.data), 1);
	cr_assert_gt(ash_node_count(record.data), 2);
	ash_node_record(record.data, 0, &key, &value, &length);
	return ash_get64(*(const ash_le64 *)(const void *)value);
}

/* ---- What can be read ---- */

static bool has_name(struct sick *sick, const struct known *known, unsigned i)
{
	struct ash_attr attr;
	char name[128];

	name_of(i, name);
	return !ash_lookup(sick->engine.volume, known->folder, name, &attr) && attr.ino == known->ino[i];
}

static bool has_extent(struct sick *sick, const struct known *known, unsigned i)
{
	uint8_t want[ASH_BLOCK_SIZE], have[ASH_BLOCK_SIZE];

	fill_block(want, i);
	return ash_read(sick->engine.volume, known->file, have, sizeof(have), 2ull * i * sizeof(have)) ==
		       sizeof(have) &&
	       !memcmp(want, have, sizeof(have));
}

/* A volume that cannot be mounted for now: all. */
static void known_take(struct sick *sick, struct known *known)
{
	bool mounted;

	sick->engine.options.no_write = true;
	mounted = !engine_try_mount(&sick->engine);
	for (unsigned i = 0; i < NAMES; i++)
		known->names += known->name[i] = !mounted || has_name(sick, known, i);
	for (unsigned i = 0; i < EXTENTS; i++)
		known->extents += known->extent[i] = !mounted || has_extent(sick, known, i);
	if (mounted)
		ash_abandon(sick->engine.volume);
	sick->engine.volume = NULL;
	sick->engine.options.no_write = false;
	cr_assert_gt(known->names, NAMES / 2);
	cr_assert_gt(known->extents, EXTENTS / 2);
}

/* NULL, or what is missing. */
static const char *known_lost(struct sick *sick, const struct known *known)
{
	struct ash_attr attr;

	for (unsigned i = 0; i < NAMES; i++) {
		if (known->name[i] && !has_name(sick, known, i))
			return "a name is lost";
		if (ash_getattr(sick->engine.volume, known->ino[i], &attr) || attr.nlink != 1)
			return "a file is lost";
	}
	for (unsigned i = 0; i < EXTENTS; i++)
		if (known->extent[i] && !has_extent(sick, known, i))
			return "content is lost";
	if (known->mode && (ash_getattr(sick->engine.volume, sick->file, &attr) || (attr.mode & 07777) != known->mode))
		return "a change that was durable is lost";
	return NULL;
}

/* ---- The next check ---- */

/* NULL, or what is wrong. A volume of which nothing was changed does not say that there is work to finish. */
static const char *state_check(struct judge *judge, bool untouched)
{
	struct ash_check_options options = { .mode = ASH_CHECK_YES, .no_threads = true, .force = untouched };
	struct ash_check_options look = {
		.mode = ASH_CHECK_NO, .no_threads = true, .report = note_code, .context = &judge->sick
	};
	struct ash_check_result result;
	const char *why;
	bool skipped;

	judge->sick.codes[0] = 0;
	if (ash_check(judge->sick.engine.dev, &options, &result))
		return "the next check cannot run";
	if (result.left)
		return "the next check leaves something";
	skipped = result.skipped;
	if (ash_check(judge->sick.engine.dev, &look, &result) || result.problems)
		return skipped ? "the next check takes it for clean" : "the next check does not make it sound";
	if (engine_try_mount(&judge->sick.engine))
		return "it cannot be mounted";
	why = known_lost(&judge->sick, &judge->known);
	if (ash_close(judge->sick.engine.volume) && !why)
		why = "it cannot be closed";
	judge->sick.engine.volume = NULL;
	return why;
}

static const char *state_judge(void *context, bool untouched)
{
	struct judge *judge = context;
	const char *why = state_check(judge, untouched);

	if (!why)
		return NULL;
	snprintf(judge->why, sizeof(judge->why), "%s: %s", why, judge->sick.codes);
	return judge->why;
}

/* ---- The first repair ---- */

/* `sick` is damaged, and is closed by this. */
static void explore_repair(struct sick *sick, struct known *known, const char *code)
{
	static struct judge judge;
	static struct losses losses;

	known_take(sick, known);
	losses_open(&losses, &sick->engine.dev);
	cr_expect_eq(check(sick, ASH_CHECK_YES).left, 0, "%s", sick->codes);
	cr_expect(strstr(sick->codes, code), "%s: %s", code, sick->codes);
	judge.known = *known;
	judge.sick = *sick;
	judge.sick.engine.dev = losses.dev;
	losses.judge = state_judge;
	losses.context = &judge;
	losses_explore(&losses);
	losses_close(&losses);
	engine_close(&sick->engine);
}

/* ---- Repairs ---- */

static void spoil_leaf(struct sick *sick, uint64_t ino)
{
	image_spoil(&sick->engine, first_leaf(sick, ino), 1000);
}

/* New nodes must be durable before the record leads to them. */
Test(barrier, tree_of_extents, .timeout = 600)
{
	struct known known = { 0 };
	struct sick sick;

	volume_make(&sick, &known);
	spoil_leaf(&sick, known.file);
	explore_repair(&sick, &known, "tree-data");
}

/* The files whose names are lost come to a new lost+found. */
Test(barrier, tree_of_a_directory, .timeout = 600)
{
	struct known known = { 0 };
	struct sick sick;

	volume_make(&sick, &known);
	spoil_leaf(&sick, known.folder);
	explore_repair(&sick, &known, "tree-directory");
}

/* ... and to one that is there: no flush but that of the tree that is done is between the trees. */
static void explore_trees(bool bitmap)
{
	struct ash_create create = { .mode = S_IFDIR | 0700 };
	struct known known = { 0 };
	struct ash_attr attr;
	struct sick sick;

	volume_make(&sick, &known);
	engine_mount(&sick.engine);
	cr_assert_eq(ash_create(sick.engine.volume, ASH_INO_ROOT, "lost+found", &create, &attr), 0);
	cr_assert_eq(ash_close(sick.engine.volume), 0);
	sick.engine.volume = NULL;
	spoil_leaf(&sick, known.folder);
	if (bitmap)
		spoil_leaf(&sick, known.file);
	else
		image_spoil(&sick.engine, ash_group_bitmap(0), 100);
	explore_repair(&sick, &known, "tree-directory");
}

Test(barrier, tree_after_a_tree, .timeout = 600)
{
	explore_trees(true);
}

/* Then old nodes of the directory are taken for lost+found. */
Test(barrier, tree_after_a_tree_without_a_bitmap, .timeout = 600)
{
	explore_trees(false);
}

Test(barrier, bitmaps_and_group_table, .timeout = 600)
{
	struct known known = { 0 };
	struct ash_super super;
	struct sick sick;

	volume_make(&sick, &known);
	image_read(&sick.engine, 0, &super);
	image_spoil(&sick.engine, ash_group_bitmap(0), 100);
	image_spoil(&sick.engine, ash_get64(super.group_table_start), 100);
	image_spoil(&sick.engine, run_start(&sick.engine), 100);
	explore_repair(&sick, &known, "bitmap-bad");
}

/* Some copy of the superblock is good at any time. */
Test(barrier, superblock, .timeout = 600)
{
	struct known known = { 0 };
	struct sick sick;

	volume_make(&sick, &known);
	image_spoil(&sick.engine, 0, 100);
	image_spoil(&sick.engine, ash_group_bitmap(0), 100);
	explore_repair(&sick, &known, "super-bad");
}

Test(barrier, superblock_and_a_stale_backup, .timeout = 600)
{
	static const uint8_t seed[] = "barrier barrier barrier barrier!";
	struct ash_mkfs_options options = { .seed = seed, .now = 1000000000, .log_blocks = 1024, .inodes_per_run = 256 };
	char error[BDEV_ERROR_TEXT] = "", device[32];
	uint8_t backup[ASH_BLOCK_SIZE];
	struct known known = { 0 };
	struct sick sick;

	memset(&sick, 0, sizeof(sick));
	snprintf(device, sizeof(device), "mem:%u", SIZE);
	cr_assert_eq(fault_open(engine_device(device), &sick.engine.dev), 0);
	cr_assert_eq(ash_mkfs(sick.engine.dev, &options, error), 0, "%s", error);
	sick.engine.options.no_threads = true;
	engine_mount(&sick.engine);
	files_make(&sick);
	image_read(&sick.engine, BLOCKS - 1, backup); /* it knows one run of two */
	content_make(&sick, &known);
	cr_assert_eq(ash_close(sick.engine.volume), 0);
	sick.engine.volume = NULL;
	image_write(&sick.engine, BLOCKS - 1, backup);
	image_spoil(&sick.engine, 0, 100);
	explore_repair(&sick, &known, "table-lost-run");
}

/* What the superblock is to say is known when it has been restored, and the only backup says less. */
Test(barrier, superblock_that_is_changed_after_its_restoration, .timeout = 600)
{
	struct ash_setattr change = { .valid = ASH_SET_FLAGS, .flags = ASH_INODE_IMMUTABLE };
	uint8_t backup[ASH_BLOCK_SIZE];
	struct known known = { 0 };
	struct sick sick;

	volume_make(&sick, &known);
	image_read(&sick.engine, BLOCKS - 1, backup);
	engine_mount(&sick.engine);
	cr_assert_eq(ash_setattr(sick.engine.volume, sick.file, &change, NULL), 0);
	cr_assert_eq(ash_close(sick.engine.volume), 0);
	sick.engine.volume = NULL;
	image_write(&sick.engine, BLOCKS - 1, backup); /* as before the first unmount since */
	image_spoil(&sick.engine, 0, 100);
	explore_repair(&sick, &known, "super-compat");
}

/* The only backup is good, but not all that it says of the table. */
Test(barrier, backup_that_is_corrected, .timeout = 600)
{
	struct known known = { 0 };
	struct ash_super super;
	struct sick sick;

	volume_make(&sick, &known);
	image_read(&sick.engine, 0, &super);
	super.table_inode.blocks = ash_put64(7);
	super.table_inode.size = ash_put64(7);
	super_put(&sick.engine, BLOCKS - 1, &super);
	image_spoil(&sick.engine, 0, 100);
	explore_repair(&sick, &known, "inode-");
}

/* What the log holds must be at home before the log is empty. Without a group table the engine does not replay it. */
Test(barrier, log_that_is_given_up, .timeout = 600)
{
	struct known known = { .mode = 0611 };
	struct ash_setattr change = { .valid = ASH_SET_MODE, .mode = 0611 };
	struct ash_super super;
	struct sick sick;

	volume_make(&sick, &known);
	engine_mount(&sick.engine);
	cr_assert_eq(ash_setattr(sick.engine.volume, sick.file, &change, NULL), 0);
	engine_cut(&sick.engine);
	image_read(&sick.engine, 0, &super);
	image_spoil(&sick.engine, ash_get64(super.group_table_start), 100);
	explore_repair(&sick, &known, "log-replay");
}
