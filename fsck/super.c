/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Pass 0: the superblock, its backups, the group table.
 *
 * The primary rules when it is good. Backups hold the same constant fields; what changes during a volume's life
 * (label, table inode, counters) may lag behind in them and is brought up to date by any repairing run. When
 * block 0 is gone, the backups are looked for where mkfs and resize put them: the last block of the device,
 * then the groups 1, 3, 5, 7, 9 ... Another foreign content of block 0 is no reason to refuse: people ask fsck for help
 * exactly then; that no other filesystem lives there is the caller's check.
 *
 * No locks: one thread.
 */
#include "internal.h"

#include <stdio.h>
#include <stdlib.h>

#define BACKUP_MAX 64u
#define SEARCH_BLOCKS 256u /* read at a time */

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

/* ---- Backups ---- */

static void backup_candidate(uint64_t list[BACKUP_MAX], unsigned *count, uint64_t block)
{
	for (unsigned i = 0; i < *count; i++)
		if (list[i] == block)
			return;
	if (*count < BACKUP_MAX && block)
		list[(*count)++] = block;
}

/* Groups 1 and the powers of 3, 5 and 7 that the blocks hold, in ascending order of each power. */
static void backup_groups(uint64_t list[BACKUP_MAX], unsigned *count, uint64_t blocks)
{
	static const unsigned bases[] = { 3, 5, 7 };

	if (blocks > ash_group_start(1))
		backup_candidate(list, count, ash_group_start(1));
	for (unsigned i = 0; i < sizeof(bases) / sizeof(bases[0]); i++)
		for (uint64_t group = bases[i]; group <= UINT32_MAX && ash_group_start(group) < blocks;
		     group *= bases[i])
			backup_candidate(list, count, ash_group_start(group));
}

/* The volume may end before the device does: mkfs leaves a rest of fewer than ASH_MIN_GROUP_BLOCKS. */
static unsigned backup_guesses(uint64_t list[BACKUP_MAX], uint64_t device_blocks)
{
	unsigned count = 0;
	uint64_t rest = device_blocks % ASH_BLOCKS_PER_GROUP;

	backup_candidate(list, &count, device_blocks - 1);
	if (rest && rest < ASH_MIN_GROUP_BLOCKS && device_blocks > rest)
		backup_candidate(list, &count, device_blocks - rest - 1);
	backup_groups(list, &count, device_blocks);
	return count;
}

static unsigned backup_places(uint64_t list[BACKUP_MAX], uint64_t block_count)
{
	unsigned count = 0;

	backup_candidate(list, &count, block_count - 1);
	backup_groups(list, &count, block_count);
	return count;
}

static int read_super(struct checker *checker, uint64_t block)
{
	return block_read(checker, block, checker->super);
}

static bool take_backup(struct checker *checker, uint64_t block, uint64_t device_blocks)
{
	int error;

	if (read_super(checker, block) || super_wrong(checker->super, block, device_blocks, &error))
		return false;
	checker->super_from = block;
	checker->stale_super = true;
	return true;
}

/*
 * A volume of one group on a larger device ends anywhere in the first group. A larger volume has a backup at the start of
 * the second, where backup_guesses() looks.
 */
static bool search_backup(struct checker *checker, uint64_t device_blocks)
{
	uint64_t end = device_blocks < ASH_BLOCKS_PER_GROUP ? device_blocks : ASH_BLOCKS_PER_GROUP;
	uint8_t *piece = bdev_buffer_alloc(SEARCH_BLOCKS * ASH_BLOCK_SIZE);
	bool found = false;

	for (uint64_t at = ASH_VOLUME_MIN_BLOCKS - 1; piece && at < end && !found; at += SEARCH_BLOCKS) {
		uint64_t count = end - at < SEARCH_BLOCKS ? end - at : SEARCH_BLOCKS;

		blocks_read(checker, at, count, piece, NULL);
		for (uint64_t i = 0; i < count && !found; i++) {
			const struct ash_super *super = (const void *)(piece + i * ASH_BLOCK_SIZE);

			found = !memcmp(super->volume_magic, ASH_VOLUME_MAGIC, 8) &&
				take_backup(checker, at + i, device_blocks);
		}
	}
	bdev_buffer_free(piece, SEARCH_BLOCKS * ASH_BLOCK_SIZE);
	return found;
}

static bool find_backup(struct checker *checker, uint64_t device_blocks)
{
	uint64_t list[BACKUP_MAX];
	unsigned count = backup_guesses(list, device_blocks);

	for (unsigned i = 0; i < count; i++)
		if (take_backup(checker, list[i], device_blocks))
			return true;
	return search_backup(checker, device_blocks);
}

/* Fields that never change, or change together with the volume's shape. */
static bool same_constants(const struct ash_super *a, const struct ash_super *b)
{
	return !memcmp(a->header.metadata_uuid, b->header.metadata_uuid, 16) && a->version.raw == b->version.raw &&
	       a->group_table_start.raw == b->group_table_start.raw && a->log_start.raw == b->log_start.raw &&
	       a->log_blocks.raw == b->log_blocks.raw && a->checksum_seed.raw == b->checksum_seed.raw &&
	       a->inodes_per_run.raw == b->inodes_per_run.raw && !memcmp(a->hash_key, b->hash_key, 16);
}

/*
 * A primary with a right checksum but other constants than all its backups was made by something else than Ashlar. Two
 * backups are believed; a single one when more of the volume is where it says.
 */
static void outvote(struct checker *checker)
{
	uint64_t list[BACKUP_MAX], against = 0;
	unsigned count = backup_places(list, ash_get64(checker->super->block_count)), votes = 0;
	struct ash_super *backup = (void *)checker->scratch;
	int error;

	for (unsigned i = 0; i < count; i++) {
		if (block_read(checker, list[i], backup) ||
		    super_wrong(backup, list[i], bdev_geometry(checker->dev)->size >> ASH_BLOCK_SHIFT, &error))
			continue;
		if (same_constants(backup, checker->super))
			return;
		against = list[i];
		votes++;
	}
	if (!votes || block_read(checker, against, backup))
		return;
	if (votes < 2 && super_evidence(checker, backup) <= super_evidence(checker, checker->super))
		return;
	*checker->super = *backup;
	checker->super_from = against;
	checker->stale_super = checker->outvoted = true;
}

static int cannot(struct checker *checker, int error, const char *why)
{
	snprintf(checker->result->error, sizeof(checker->result->error), "%s: %s", bdev_name(checker->dev), why);
	return error;
}

int super_find(struct checker *checker)
{
	uint64_t device_blocks = bdev_geometry(checker->dev)->size >> ASH_BLOCK_SHIFT;
	const char *why;
	int result = -EIO;

	if (!bdev_geometry(checker->dev)->size)
		return cannot(checker, -EINVAL, "is empty: no Ashlar volume");
	if (device_blocks < ASH_VOLUME_MIN_BLOCKS) {
		if (device_blocks && !read_super(checker, 0) && !super_wrong(checker->super, 0, UINT64_MAX, &result))
			return cannot(checker, -ENODATA, "the device is shorter than the volume on it");
		return cannot(checker, -EINVAL, "no Ashlar volume (too small for one)");
	}
	why = read_super(checker, 0) ? "cannot be read" : super_wrong(checker->super, 0, device_blocks, &result);
	if (!why) {
		outvote(checker);
		return 0;
	}
	if (result == -ENOTSUP)
		return cannot(checker, result, "has features that this version does not know: use a newer fsck.ashlar");
	if (result == -ENODATA)
		return cannot(checker, result,
			      "the device is shorter than the volume on it: is it the whole image or device?");
	if (find_backup(checker, device_blocks))
		return 0;
	if (result == -EIO)
		return cannot(checker, result, "the superblock cannot be read, and no backup was found");
	return cannot(checker, -EINVAL, "no Ashlar volume: neither superblock nor backup found");
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

/* Backups first: as long as the old primary stands it rules. */
int super_write_all(struct checker *checker)
{
	uint64_t list[BACKUP_MAX];
	unsigned count = backup_places(list, checker->block_count);
	int result = 0;

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
	return fix ? write_copy(checker, block) : 0;
}

/* Backups are not logged: one that a power cut tore at unmount is mended by the next, before the log is called clean. */
static int backups_check(struct checker *checker)
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
 * find is the better one: the primary's was damaged under a right checksum.
 */
static int table_inode_check(struct checker *checker)
{
	struct problem_context context = { .why = table_inode_wrong(checker->super) };
	uint64_t list[BACKUP_MAX];
	unsigned count = backup_places(list, checker->block_count);
	struct ash_super *backup = (void *)checker->scratch;
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
		if (!problem(checker, PROBLEM_SUPER_TABLE_INODE, &context))
			return cannot(checker, -EUCLEAN,
				      "the inode table cannot be found without repairing the superblock");
		checker->super->table_inode = backup->table_inode;
		checker->super->inode_runs = backup->inode_runs;
		checker->stale_super = checker->restore = true;
		return 0;
	}
	if (!context.why)
		return 0;
	if (!problem(checker, PROBLEM_SUPER_TABLE_LOST, &context))
		return cannot(checker, -EUCLEAN, "the inode table cannot be found: no copy of its inode is good");
	table_inode_blank(checker->super);
	checker->stale_super = checker->restore = true;
	return 0;
}

int super_check(struct checker *checker)
{
	struct problem_context context = { .block = checker->super_from,
					   .why = checker->outvoted ? "it differs from all its backups" :
								      "not readable or not valid" };
	int result;

	if (checker->super_from && !checker->restore)
		checker->restore = problem(checker, PROBLEM_SUPER_BAD, &context);
	result = table_inode_check(checker);
	if (!result && !checker->restore)
		result = backups_check(checker);
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
