/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Pass 0: the superblock, its backups, the group table.
 *
 * The primary rules when it is good. Backups hold the same constant fields; what changes during a volume's life
 * (label, table inode, counters) may lag behind in them and is brought up to date by a repairing run that found the
 * structure sound. Foreign content of block 0 is no reason to refuse: people ask fsck for help exactly then; that no
 * other filesystem lives there is the caller's check. Which backup helps: backup.c.
 *
 * No locks: one thread.
 */
#include "internal.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

static const char *refuse(int *error, int code, const char *why)
{
	*error = code;
	return why;
}

const char *super_wrong(const struct ash_super *super, uint64_t address, uint64_t device_blocks, int *error)
{
	const char *why;

	if (ash_get32(super->header.magic) != ASH_MAGIC_SUPER || memcmp(super->volume_magic, ASH_VOLUME_MAGIC, 8))
		return refuse(error, -EINVAL, "no Ashlar superblock");
	if (ash_get32(super->header.crc) != ash_block_crc(0, super))
		return refuse(error, -EINVAL, "wrong checksum");
	if (ash_get64(super->header.address) != address)
		return refuse(error, -EINVAL, "belongs to another place");
	if (super->header.owner.raw)
		return refuse(error, -EINVAL, "belongs to an inode");
	if (ash_get32(super->version) != ASH_FORMAT_VERSION || ash_get32(super->block_shift) != ASH_BLOCK_SHIFT)
		return refuse(error, -ENOTSUP, "unknown format version");
	if ((ash_get64(super->incompat) & ~ASH_INCOMPAT_KNOWN) || (ash_get64(super->ro_compat) & ~ASH_RO_COMPAT_KNOWN))
		return refuse(error, -ENOTSUP, "unknown feature bits");
	why = ash_geometry_wrong(super);
	if (why)
		return refuse(error, -EINVAL, why);
	if (ash_get64(super->block_count) > device_blocks)
		return refuse(error, -ENODATA, "the device is shorter than the volume");
	return NULL;
}

static int read_super(struct checker *checker, uint64_t block)
{
	return block_read(checker, block, checker->super);
}

static int cannot(struct checker *checker, int error, const char *why)
{
	snprintf(checker->result->error, sizeof(checker->result->error), "%s: %s", bdev_name(checker->dev), why);
	return error;
}

static int two_volumes(struct checker *checker, uint64_t other)
{
	snprintf(checker->result->error, sizeof(checker->result->error),
		 "%s: inodes of two volumes are there, of that in block 0 and of that whose superblock is in block "
		 "%" PRIu64 ": keep one of them with -b 0 or -b %" PRIu64 " (-n shows what that does)",
		 bdev_name(checker->dev), other, other);
	return -ENOTUNIQ;
}

static int primary_judge(struct checker *checker)
{
	uint64_t other = 0;
	int result = backup_outvote(checker, &other);

	if (result == -ENOENT)
		return cannot(checker, -EINVAL, "no Ashlar volume: nothing but its superblock is found");
	return result == -ENOTUNIQ ? two_volumes(checker, other) : result;
}

/* By a block 0 that could be read, bad as it is. */
static uint64_t blocks_told(const struct ash_super *super)
{
	return memcmp(super->volume_magic, ASH_VOLUME_MAGIC, 8) ? 0 : ash_get64(super->block_count);
}

static int super_look(struct checker *checker)
{
	uint64_t device_blocks = bdev_geometry(checker->dev)->size >> ASH_BLOCK_SHIFT;
	const char *why;
	int result = -EIO, found;

	if (!bdev_geometry(checker->dev)->size)
		return cannot(checker, -EINVAL, "is empty: no Ashlar volume");
	if (device_blocks < ASH_VOLUME_MIN_BLOCKS) {
		if (device_blocks && !read_super(checker, 0) && !super_wrong(checker->super, 0, UINT64_MAX, &result))
			return cannot(checker, -ENODATA, "the device is shorter than the volume on it");
		return cannot(checker, -EINVAL, "no Ashlar volume (too small for one)");
	}
	if (checker->options->super_block)
		return super_choose(checker, *checker->options->super_block) ?
			       cannot(checker, -EINVAL, "the block given with -b holds no superblock") :
			       0;
	why = read_super(checker, 0) ? "cannot be read" : super_wrong(checker->super, 0, device_blocks, &result);
	if (!why)
		return primary_judge(checker);
	if (result == -ENOTSUP)
		return cannot(checker, result, "has features that this version does not know: use a newer fsck.ashlar");
	if (result == -ENODATA)
		return cannot(checker, result,
			      "the device is shorter than the volume on it: is it the whole image or device?");
	found = backup_find(checker, result == -EIO ? 0 : blocks_told(checker->super));
	if (found != -ENOENT)
		return found;
	if (result == -EIO)
		return cannot(checker, result, "the superblock cannot be read, and no backup was found");
	return cannot(checker, -EINVAL, "no Ashlar volume: neither superblock nor backup found");
}

/* A check by it would cut off all that is behind its end. */
static int outgrown_refuse(struct checker *checker)
{
	if (!super_has_surely_grown(checker, checker->super, !backup_is_last(checker)) || journal_grows(checker))
		return 0;
	snprintf(checker->result->error, sizeof(checker->result->error),
		 "%s: the volume has grown, and the superblock in block %" PRIu64 " is of a time before that, but none "
		 "of the larger volume is found: -b %" PRIu64
		 " takes it as it is and gives up what lies behind its end "
		 "(-n shows what that does)",
		 bdev_name(checker->dev), checker->super_from, checker->super_from);
	return -ESTALE;
}

int super_find(struct checker *checker)
{
	int result = super_look(checker);

	return result || checker->options->super_block ? result : outgrown_refuse(checker);
}

void super_geometry(struct checker *checker)
{
	const struct ash_super *super = checker->super;

	checker->block_count = ash_get64(super->block_count);
	checker->group_count = ash_get32(super->group_count);
	checker->seed = ash_get32(super->checksum_seed);
	checker->inodes_per_run = ash_get32(super->inodes_per_run);
	memcpy(checker->result->label, super->label, ASH_LABEL_SIZE);
	checker->result->block_count = checker->block_count;
}

/* ---- Writing ---- */

static int write_copy(struct checker *checker, uint64_t block)
{
	struct ash_super *copy = (void *)checker->scratch;

	*copy = *checker->super;
	copy->header.address = ash_put64(block);
	if (block)
		copy->state = ash_put32(0);
	copy->header.crc = ash_put32(ash_block_crc(0, copy));
	return block_write_raw(checker, block, copy, 1);
}

int super_write(struct checker *checker)
{
	checker->super_from = 0;
	checker->restore = false;
	checker->super->state = ash_put32(ash_get32(checker->super->state) | (checker->marked ? 0 : ASH_STATE_ERRORS));
	checker->marked = true;
	return write_copy(checker, 0);
}

/* Backups first: as long as the old primary stands it rules. If it was restored, that is durable before. */
int super_write_all(struct checker *checker)
{
	uint64_t list[BACKUP_MAX];
	unsigned count = backup_places(list, checker->block_count);
	int result = check_flush(checker);

	for (unsigned i = 0; i < count && !result; i++)
		result = write_copy(checker, list[i]);
	if (!result)
		result = check_flush(checker);
	return result ? result : super_write(checker);
}

/* ---- Checking ---- */

static bool same_content(const struct ash_super *a, const struct ash_super *b)
{
	struct ash_super x = *a, y = *b;

	x.header.address = y.header.address;
	x.header.crc = y.header.crc;
	x.state = y.state;
	x.error_count = y.error_count;
	x.error_time = y.error_time;
	return !memcmp(&x, &y, sizeof(x));
}

/* What was written before, the primary perhaps, is durable first: a torn write costs one copy. */
static int backup_renew(struct checker *checker, uint64_t block)
{
	int result = check_flush(checker);

	return result ? result : write_copy(checker, block);
}

static int backup_check(struct checker *checker, uint64_t block)
{
	struct problem_context context = { .block = block };
	const struct ash_super *backup = (const void *)checker->scratch;
	int error = block_read(checker, block, checker->scratch);
	bool fix;

	if (error)
		context.why = "cannot be read";
	else
		context.why = super_wrong(backup, block, UINT64_MAX, &error);
	if (!context.why && !same_constants(backup, checker->super))
		context.why = "differs from the primary";
	if (!context.why && same_content(backup, checker->super))
		return 0;
	fix = problem(checker, context.why ? PROBLEM_BACKUP_BAD : PROBLEM_BACKUP_STALE, &context);
	return fix ? backup_renew(checker, block) : 0;
}

/* Backups are not logged: one that a power cut tore at unmount is mended by the next, before the log is called clean. */
int backups_check(struct checker *checker)
{
	uint64_t list[BACKUP_MAX];
	unsigned count = checker->log_clean ? backup_places(list, checker->block_count) : 0;
	int result = 0;

	for (unsigned i = 0; i < count && !result; i++)
		result = backup_check(checker, list[i]);
	return result;
}

static const char *table_inode_wrong(const struct ash_super *super)
{
	const struct ash_inode *inode = &super->table_inode;

	if (ash_get32(inode->magic) != ASH_MAGIC_INODE || ash_get64(inode->ino) != ASH_INO_TABLE)
		return "not an inode";
	/* its own checksum is not looked at: the superblock's covers it */
	if (inode->data_kind != ASH_FORK_TREE || inode->attr_kind != ASH_FORK_EMPTY)
		return "no extents";
	return ash_node_check(inode->data, ASH_DATA_FORK_SIZE, UINT32_MAX);
}

/* One without any run: lost.c finds them by their bitmaps. */
static void table_inode_blank(struct ash_super *super)
{
	struct ash_inode *inode = &super->table_inode;
	struct ash_node_header *root = (void *)inode->data;

	memset(inode, 0, sizeof(*inode));
	inode->magic = ash_put32(ASH_MAGIC_INODE);
	inode->nlink = ash_put32(1);
	inode->data_kind = ASH_FORK_TREE;
	root->heap_start = ash_put16(ASH_DATA_FORK_SIZE);
	super->inode_runs = ash_put64(0);
}

/*
 * A backup's table inode may lack the newest runs, which lost.c finds. One that leads to a run that the primary's does not
 * find is the better one: the primary's was damaged under a right checksum. A check that only looks goes on with what a repair
 * would.
 */
static int table_inode_check(struct checker *checker)
{
	struct problem_context context = { .why = table_inode_wrong(checker->super) };
	uint64_t list[BACKUP_MAX];
	unsigned count = backup_places(list, checker->block_count);
	struct ash_super *backup = (void *)checker->scratch;
	bool fix;
	int error;

	for (unsigned i = 0; i < count; i++) {
		if (block_read(checker, list[i], backup) ||
		    super_wrong(backup, list[i], checker->block_count, &error) || table_inode_wrong(backup))
			continue;
		if (!context.why &&
		    (!same_constants(backup, checker->super) || !table_leads_further(checker, backup, checker->super)))
			continue;
		if (!context.why)
			context.why = "a backup knows more of the inode table";
		context.block = list[i];
		fix = problem(checker, PROBLEM_SUPER_TABLE_INODE, &context);
		if (!fix && checker->repair)
			return cannot(checker, -EUCLEAN,
				      "the inode table cannot be found without repairing the superblock");
		checker->super->table_inode = backup->table_inode;
		checker->super->inode_runs = backup->inode_runs;
		checker->stale_super = true;
		checker->restore |= fix;
		return 0;
	}
	if (!context.why)
		return 0;
	fix = problem(checker, PROBLEM_SUPER_TABLE_LOST, &context);
	if (!fix && checker->repair)
		return cannot(checker, -EUCLEAN, "the inode table cannot be found: no copy of its inode is good");
	table_inode_blank(checker->super);
	checker->stale_super = true;
	checker->restore |= fix;
	return 0;
}

int super_check(struct checker *checker)
{
	struct problem_context context = { .block = checker->super_from,
					   .why = checker->outvoted ? checker->outvoted : "not readable or not valid" };
	int result;

	if (checker->super_from && !checker->restore)
		checker->restore = problem(checker, PROBLEM_SUPER_BAD, &context);
	result = table_inode_check(checker);
	checker->backup_runs = backups_count_runs(checker, checker->super);
	if (!result && !checker->marked && (ash_get32(checker->super->state) & ASH_STATE_ERRORS))
		problem(checker, PROBLEM_SUPER_ERRORS, NULL);
	return result;
}

/* ---- Group table ---- */

static int group_block_rebuild(struct checker *checker, uint64_t index)
{
	struct ash_group_table_block *table = (void *)checker->scratch;
	uint64_t block = ash_get64(checker->super->group_table_start) + index;

	/* No group counts as untouched: pass 4 writes the bitmaps. */
	block_begin(checker, table, block, ASH_MAGIC_GROUP_TABLE, 0);
	table->first_group = ash_put64(index * ASH_GROUPS_PER_TABLE_BLOCK);
	checker->changed = true;
	return block_write(checker, block, table);
}

static void group_block_take(struct checker *checker, const struct ash_group_table_block *table, uint64_t index,
			     bool good)
{
	for (uint64_t i = 0; i < ASH_GROUPS_PER_TABLE_BLOCK; i++) {
		uint64_t group = index * ASH_GROUPS_PER_TABLE_BLOCK + i;

		if (group >= checker->group_count)
			return;
		checker->group_flags[group] = good ? ash_get32(table->flags[i]) : 0;
		checker->group_free[group] = good ? ash_get32(table->free_blocks[i]) : 0;
	}
}

/* Slots that have no group yet are zero; growing the volume fills them. */
static bool slots_beyond_used(const struct checker *checker, const struct ash_group_table_block *table, uint64_t index)
{
	uint64_t first = index * ASH_GROUPS_PER_TABLE_BLOCK;

	for (uint64_t i = 0; i < ASH_GROUPS_PER_TABLE_BLOCK; i++)
		if (first + i >= checker->group_count && (table->flags[i].raw || table->free_blocks[i].raw))
			return true;
	return false;
}

static int group_block_check(struct checker *checker, uint64_t index)
{
	struct problem_context context = { .block = ash_get64(checker->super->group_table_start) + index };
	const struct ash_group_table_block *table = (const void *)checker->scratch;

	if (block_read(checker, context.block, checker->scratch))
		context.why = "cannot be read";
	else
		context.why = block_wrong(checker, checker->scratch, context.block, ASH_MAGIC_GROUP_TABLE, 0);
	if (!context.why && ash_get64(table->first_group) != index * ASH_GROUPS_PER_TABLE_BLOCK)
		context.why = "names another group";
	if (!context.why && slots_beyond_used(checker, table, index))
		context.why = "tells of groups behind the last one";
	checker->table_block_good[index] = !context.why;
	group_block_take(checker, table, index, !context.why);
	if (context.why && problem(checker, PROBLEM_GROUP_TABLE_BAD, &context))
		return group_block_rebuild(checker, index);
	return 0;
}

int group_table_check(struct checker *checker)
{
	uint64_t blocks = ash_get64(checker->super->group_table_blocks);
	int result = 0;

	checker->group_flags = calloc(checker->group_count, sizeof(*checker->group_flags));
	checker->group_free = calloc(checker->group_count, sizeof(*checker->group_free));
	checker->table_block_good = calloc(blocks, sizeof(*checker->table_block_good));
	if (!checker->group_flags || !checker->group_free || !checker->table_block_good)
		return -ENOMEM;
	for (uint64_t i = 0; i < blocks && !result; i++) /* those without a group too: resize relies on them */
		result = group_block_check(checker, i);
	return result;
}
