/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Backups of the superblock: where they are, which to believe when block 0 is gone, and when they outvote it.
 *
 * When block 0 is gone, backups are looked for where mkfs and resize put them: the last block of the volume, when what
 * is left of block 0 still tells it, that of the device, the groups 1, 3, 5, 7, 9 ..., and then anywhere in the first
 * group, where a small volume on a large device ends. A device may have held another Ashlar volume before, or a volume
 * may have grown: then copies are found that are good and out of date. So all of them are gathered, and the one is
 * taken by which most of the volume is found (evidence.c).
 *
 * No locks: one thread.
 */
#include "internal.h"

#define SEARCH_BLOCKS 256u /* read at a time */

/* ---- Where they are ---- */

static uint64_t device_blocks(const struct checker *checker)
{
	return bdev_geometry(checker->dev)->size >> ASH_BLOCK_SHIFT;
}

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
static unsigned backup_guesses(const struct checker *checker, uint64_t list[BACKUP_MAX])
{
	unsigned count = 0;
	uint64_t blocks = device_blocks(checker), rest = blocks % ASH_BLOCKS_PER_GROUP;

	backup_candidate(list, &count, blocks - 1);
	if (rest && rest < ASH_MIN_GROUP_BLOCKS && blocks > rest)
		backup_candidate(list, &count, blocks - rest - 1);
	backup_groups(list, &count, blocks);
	return count;
}

unsigned backup_places(uint64_t list[BACKUP_MAX], uint64_t block_count)
{
	unsigned count = 0;

	backup_candidate(list, &count, block_count - 1);
	backup_groups(list, &count, block_count);
	return count;
}

/* ---- When block 0 is gone ---- */

/* Good backups, wherever they are from: an older volume's may lie between those of the one that is looked for. */
struct backups {
	struct ash_super *copies; /* BACKUP_MAX */
	uint64_t blocks[BACKUP_MAX];
	unsigned count;
};

static int backups_open(struct backups *backups)
{
	*backups = (struct backups){ .copies = bdev_buffer_alloc(BACKUP_MAX * sizeof(*backups->copies)) };
	return backups->copies ? 0 : -ENOMEM;
}

static void backups_close(struct backups *backups)
{
	bdev_buffer_free(backups->copies, BACKUP_MAX * sizeof(*backups->copies));
}

/* Is there a good superblock? It is read into `copy`. */
static bool backup_good(struct checker *checker, uint64_t block, struct ash_super *copy)
{
	int error;

	return !block_read(checker, block, copy) && !super_wrong(copy, block, device_blocks(checker), &error);
}

static void backup_try(struct checker *checker, struct backups *backups, uint64_t block)
{
	unsigned count = backups->count;

	for (unsigned i = 0; i < count; i++)
		if (backups->blocks[i] == block)
			return;
	if (count < BACKUP_MAX && backup_good(checker, block, &backups->copies[count]))
		backups->blocks[backups->count++] = block;
}

/*
 * A volume of one group on a larger device ends anywhere in the first group, from `at` on. A larger volume has a backup
 * at the start of the second, where backup_guesses() looks.
 */
static int backups_search(struct checker *checker, struct backups *backups, uint64_t at)
{
	uint64_t blocks = device_blocks(checker), end = blocks < ASH_BLOCKS_PER_GROUP ? blocks : ASH_BLOCKS_PER_GROUP;
	uint8_t *piece = bdev_buffer_alloc(SEARCH_BLOCKS * ASH_BLOCK_SIZE);
	int result = piece ? 0 : -ENOMEM;

	for (; at < end && !result; at += SEARCH_BLOCKS) {
		uint64_t count = end - at < SEARCH_BLOCKS ? end - at : SEARCH_BLOCKS;

		result = check_cancelled(checker);
		if (!result)
			result = blocks_read(checker, at, count, piece, NULL);
		for (uint64_t i = 0; i < count && !result; i++) {
			const struct ash_super *super = (const void *)(piece + i * ASH_BLOCK_SIZE);

			if (!memcmp(super->volume_magic, ASH_VOLUME_MAGIC, 8))
				backup_try(checker, backups, at + i);
		}
	}
	bdev_buffer_free(piece, SEARCH_BLOCKS * ASH_BLOCK_SIZE);
	return result;
}

bool same_constants(const struct ash_super *a, const struct ash_super *b)
{
	return !memcmp(a->header.metadata_uuid, b->header.metadata_uuid, 16) && a->version.raw == b->version.raw &&
	       a->group_table_start.raw == b->group_table_start.raw && a->log_start.raw == b->log_start.raw &&
	       a->log_blocks.raw == b->log_blocks.raw && a->checksum_seed.raw == b->checksum_seed.raw &&
	       a->inodes_per_run.raw == b->inodes_per_run.raw && !memcmp(a->hash_key, b->hash_key, 16);
}

struct backup_rank {
	const struct ash_super *super;
	uint64_t block;
	unsigned evidence, alike;
};

static struct backup_rank backup_rank(struct checker *checker, const struct backups *backups, unsigned index)
{
	const struct ash_super *super = &backups->copies[index];
	struct backup_rank rank = { .super = super,
				    .block = backups->blocks[index],
				    .evidence = super_evidence(checker, super) };

	for (unsigned i = 0; i < backups->count; i++)
		rank.alike += same_constants(&backups->copies[i], super);
	return rank;
}

/* Volumes only grow: of two copies of one, that of more blocks is the newer one, whatever an older one knows of the table. */
static bool ranks_before(const struct backup_rank *a, const struct backup_rank *b)
{
	if (same_constants(a->super, b->super))
		return ash_get64(a->super->block_count) > ash_get64(b->super->block_count);
	return a->evidence != b->evidence ? a->evidence > b->evidence : a->alike > b->alike;
}

/* The best of them; of `super` NULL where there is none. */
static struct backup_rank backups_best(struct checker *checker, const struct backups *backups)
{
	struct backup_rank best = { 0 };

	for (unsigned i = 0; i < backups->count; i++) {
		struct backup_rank rank = backup_rank(checker, backups, i);

		if (!i || ranks_before(&rank, &best))
			best = rank;
	}
	return best;
}

/* The best of them into checker->super. Is anything but the inode table found where it says? */
static bool backup_choose(struct checker *checker, const struct backups *backups)
{
	struct backup_rank best = backups_best(checker, backups);

	if (!best.super)
		return false;
	*checker->super = *best.super;
	checker->super_from = best.block;
	checker->stale_super = true;
	return super_evidence_is_fixed(best.evidence);
}

int backup_find(struct checker *checker, uint64_t told)
{
	struct backups backups;
	uint64_t list[BACKUP_MAX];
	unsigned count = backup_guesses(checker, list);
	int result = backups_open(&backups);

	if (!result && told > 1 && told <= device_blocks(checker))
		backup_try(checker, &backups, told - 1);
	for (unsigned i = 0; i < count && !result; i++)
		backup_try(checker, &backups, list[i]);
	/* What lies elsewhere may be a file's content: it is asked only when no place has a good one that is not old. */
	if (!result && (!backup_choose(checker, &backups) || super_is_outgrown(checker, checker->super))) {
		result = backups_search(checker, &backups, ASH_VOLUME_MIN_BLOCKS - 1);
		if (!result)
			backup_choose(checker, &backups);
		if (!result && !backups.count)
			result = -ENOENT;
	}
	backups_close(&backups);
	return result;
}

/* ---- When block 0 lies ---- */

static void outvote(struct checker *checker, uint64_t block, const char *why)
{
	if (block_read(checker, block, checker->scratch))
		return;
	memcpy(checker->super, checker->scratch, sizeof(*checker->super));
	checker->super_from = block;
	checker->stale_super = true;
	checker->outvoted = why;
}

static bool backups_have(const struct backups *backups, const struct ash_super *super)
{
	for (unsigned i = 0; i < backups->count; i++)
		if (same_constants(&backups->copies[i], super))
			return true;
	return false;
}

/* The block of the largest of them that is a copy of this volume of more blocks; 0: none is. */
static uint64_t backups_larger(const struct backups *backups, const struct ash_super *super)
{
	uint64_t blocks = ash_get64(super->block_count), larger = 0;

	for (unsigned i = 0; i < backups->count; i++) {
		const struct ash_super *copy = &backups->copies[i];

		if (!same_constants(copy, super) || ash_get64(copy->block_count) <= blocks)
			continue;
		blocks = ash_get64(copy->block_count);
		larger = backups->blocks[i];
	}
	return larger;
}

/*
 * The backups of a larger size may all lie behind the end that the primary tells. There an older copy of the volume may
 * have left them, too: they are believed when the old part, which growing changes, knows of the new one, and block 0 is
 * not just the last that has not come home from the log. A volume that still has one group, on a larger device, ends
 * anywhere in that.
 */
static int larger_behind(struct checker *checker, uint64_t *larger)
{
	struct backups backups;
	uint64_t list[BACKUP_MAX], blocks = ash_get64(checker->super->block_count);
	unsigned count = backup_guesses(checker, list);
	int result;

	if (!super_is_outgrown(checker, checker->super) || journal_grows(checker))
		return 0;
	result = backups_open(&backups);
	for (unsigned i = 0; i < count && !result; i++)
		if (list[i] >= blocks)
			backup_try(checker, &backups, list[i]);
	*larger = backups_larger(&backups, checker->super);
	if (!result && !*larger && ash_get32(checker->super->group_count) == 1) {
		result = backups_search(checker, &backups, blocks);
		*larger = backups_larger(&backups, checker->super);
	}
	backups_close(&backups);
	return result;
}

/* A good superblock where a volume as large as the device has its backups: its block, 0 where there is none. */
static uint64_t backup_elsewhere(struct checker *checker, struct ash_super *backup)
{
	uint64_t list[BACKUP_MAX];
	unsigned count = backup_guesses(checker, list);

	for (unsigned i = 0; i < count; i++)
		if (backup_good(checker, list[i], backup) && !same_constants(backup, checker->super))
			return list[i];
	return 0;
}

/*
 * The only backup, in checker->scratch, or the best of several volumes', differs. It is believed when more of the
 * volume is where it says, or all that is there of an inode table. With another volume's first blocks, written to the wrong
 * device, come its first inodes, too: which of two volumes with inodes somebody wants, no evidence tells, and a repair
 * would be the end of the other one.
 */
static int outvote_alone(struct checker *checker, uint64_t block)
{
	const struct ash_super *primary = checker->super, *backup = (const void *)checker->scratch;
	bool here = false, there = false;
	int result = 0;

	if (backup->checksum_seed.raw != primary->checksum_seed.raw &&
	    memcmp(backup->header.metadata_uuid, primary->header.metadata_uuid, 16)) {
		result = table_find(checker, backup, &there);
		if (!result && there)
			result = table_find(checker, primary, &here);
	}
	if (result || (here && there))
		return result ? result : -ENOTUNIQ;
	if (!there && super_evidence(checker, backup) <= super_evidence(checker, primary) &&
	    !table_is_elsewhere(checker, primary, backup))
		return super_evidence(checker, primary) ? 0 : -ENOENT;
	outvote(checker, block, "it differs from all its backups");
	return 0;
}

/* By the backups that are in the primary's own places. */
static int backups_outvote(struct checker *checker, const struct backups *backups, uint64_t *other)
{
	uint64_t larger = backups_larger(backups, checker->super);
	struct backup_rank best;
	int result = larger ? 0 : larger_behind(checker, &larger);

	if (larger && !result)
		outvote(checker, larger, "it is of a time before the volume grew");
	if (result || larger || backups_have(backups, checker->super))
		return result;
	best = backups_best(checker, backups);
	*other = best.super ? best.block : backup_elsewhere(checker, (void *)checker->scratch);
	if (!*other || block_read(checker, *other, checker->scratch))
		return super_evidence(checker, checker->super) ? 0 : -ENOENT;
	if (best.alike < 2 || best.alike < backups->count)
		return outvote_alone(checker, *other);
	outvote(checker, *other, "it differs from all its backups");
	return 0;
}

/*
 * A primary with a right checksum but other constants than all its backups was made by something else than Ashlar, or
 * for another device. Two backups are believed, unless others are of yet another volume: then one of the two is out of
 * date, and their number tells nothing. And a backup in one of the volume's own places learns that it grew when the
 * primary at home has it, durably: a primary of a smaller volume is an old one. So do those behind its end.
 *
 * A primary without any backup, and without anything where it says, was left by another volume: a repair would make
 * what is there now an empty one.
 */
int backup_outvote(struct checker *checker, uint64_t *other)
{
	struct backups backups;
	uint64_t list[BACKUP_MAX];
	unsigned count = backup_places(list, ash_get64(checker->super->block_count));
	int result = backups_open(&backups);

	for (unsigned i = 0; i < count && !result; i++)
		backup_try(checker, &backups, list[i]);
	if (!result)
		result = backups_outvote(checker, &backups, other);
	backups_close(&backups);
	return result;
}

bool backup_is_last(struct checker *checker)
{
	struct ash_super *backup = (void *)checker->scratch;

	return backup_good(checker, ash_get64(checker->super->block_count) - 1, backup) &&
	       same_constants(backup, checker->super);
}

/* The superblock that somebody chose. */
int super_choose(struct checker *checker, uint64_t block)
{
	if (!backup_good(checker, block, checker->super))
		return -ENOENT;
	if (block)
		outvote(checker, block, "another one was chosen");
	return 0;
}

/*
 * Runs only become more, and a backup in these places knows of none before the primary does, as the log leaves it: a
 * primary that counts fewer is an old one.
 */
uint64_t backups_count_runs(struct checker *checker, const struct ash_super *super)
{
	uint64_t list[BACKUP_MAX], runs = 0;
	unsigned count = backup_places(list, ash_get64(super->block_count));
	struct ash_super *backup = (void *)checker->scratch;

	for (unsigned i = 0; i < count; i++)
		if (backup_good(checker, list[i], backup) && same_constants(backup, super) &&
		    ash_get64(backup->inode_runs) > runs)
			runs = ash_get64(backup->inode_runs);
	return runs;
}

uint64_t runs_counted(const struct checker *checker)
{
	uint64_t runs = ash_get64(checker->super->inode_runs);

	if (checker->backup_runs > runs)
		runs = checker->backup_runs;
	return checker->named_runs > runs ? checker->named_runs : runs;
}
