/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Inodes, for a scrub: the tree of the inode table, then each run's bitmap and inode blocks, and with each inode in use its
 * forks, leaf by leaf.
 *
 * A look takes no lock. Where it finds something wrong, record or leaf are looked at again with the inode's lock held:
 * only that is reported. What an inode adds up to (blocks; entries and links of a directory) is compared at its
 * end. When it changed meanwhile the sums do not fit; then all of it is added up under its lock, if it is small enough to
 * be held for that long.
 *
 * Locks: an inode's shared lock, or the lock of the inode table, over the reads of one leaf, or of SUM_LEAVES of them.
 */
#include "scrub.h"

#define SUM_LEAVES 256u

/* ---- One inode ---- */

/* An inode that is held while a suspect is looked at again. */
struct held {
	struct ash_held held;
	struct ash_inode record;
	uint64_t block;
};

static bool hold(struct scrub *scrub, uint64_t ino, struct held *held)
{
	struct ash_volume *volume = scrub->volume;
	int result = 0;

	scrub_forget(scrub);
	scrub->sure = true;
	if (ino == ASH_INO_TABLE) {
		ash_lock_long(volume, ash_itable_lock(volume));
		scrub_committed(volume->super, scrub->committed);
		held->record = ((const struct ash_super *)(const void *)scrub->committed)->table_inode;
		held->block = 0;
		return true;
	}
	result = ash_hold(volume, ino, false, &held->held);
	if (!result) {
		held->record = *held->held.record.inode;
		held->block = held->held.record.buffer->id.block;
		return true;
	}
	/* Free by now, or an orphan that nobody holds: nothing to judge. A bad record was reported with its block. */
	if (result == -ENOMEM)
		scrub->error = result;
	return false;
}

static void let_go(struct scrub *scrub, uint64_t ino, struct held *held)
{
	if (ino == ASH_INO_TABLE)
		pthread_mutex_unlock(ash_itable_lock(scrub->volume));
	else
		ash_release(scrub->volume, &held->held);
	scrub_forget(scrub);
}

static void look_at_record(struct scrub *scrub, const struct ash_inode *record, uint64_t block)
{
	uint64_t ino = ash_get64(record->ino), parent = ash_get64(record->parent);

	if (!scrub_inode_in_use(scrub, ino))
		scrub_problem(scrub, ino, block, "inode in use is free in the bitmap");
	/* of a removed directory that is still open nothing is known */
	if (S_ISDIR(ash_get32(record->mode)) && ash_get32(record->nlink) &&
	    (!parent || !scrub_inode_in_use(scrub, parent)))
		scrub_problem(scrub, ino, block, "parent of a directory is not in use");
}

/* Look without a lock; if there is a suspicion, once more with it. */
static void check_record(struct scrub *scrub, const struct ash_inode *record, uint64_t block)
{
	uint64_t ino = ash_get64(record->ino);
	struct held held;

	scrub->sure = scrub->suspect = false;
	look_at_record(scrub, record, block);
	if (scrub->suspect && hold(scrub, ino, &held)) {
		look_at_record(scrub, &held.record, held.block);
		let_go(scrub, ino, &held);
	}
	scrub->sure = true;
}

static bool has_tree(const struct ash_inode *record, bool attribute)
{
	return (attribute ? record->attr_kind : record->data_kind) == ASH_FORK_TREE;
}

/* The next leaf of the fork that the state stands in. */
static void check_leaf(struct scrub *scrub, const struct ash_inode *record, uint64_t block)
{
	struct ash_scrub *state = scrub->state;
	uint64_t ino = ash_get64(record->ino), key = state->key, problems = state->problems;
	bool attribute = state->fork == SCRUB_FORK_ATTRIBUTE;
	struct scrub_tally tally = { 0 };
	struct held held;

	scrub->sure = scrub->suspect = false;
	scrub_leaf(scrub, record, block, attribute, key, &tally, &state->key);
	if (scrub->suspect && hold(scrub, ino, &held)) {
		tally = (struct scrub_tally){ 0 };
		state->key = 0;
		if (has_tree(&held.record, attribute))
			scrub_leaf(scrub, &held.record, held.block, attribute, key, &tally, &state->key);
		let_go(scrub, ino, &held);
	}
	scrub->sure = true;
	if (state->key <= key)
		state->key = 0; /* bounds only grow; else the tree changed into another one */
	state->tally[0] += tally.blocks;
	state->tally[1] += tally.entries;
	state->tally[2] += tally.subdirectories;
	state->tally[3] |= state->problems > problems;
}

static const char *sums_wrong(const struct ash_inode *record, const struct scrub_tally *tally)
{
	if (ash_get64(record->blocks) != tally->blocks)
		return "inode has another number of blocks than it says";
	if (!S_ISDIR(ash_get32(record->mode)))
		return NULL;
	if (ash_get64(record->size) != tally->entries)
		return "directory has another number of entries than it says";
	if (ash_get32(record->nlink) && ash_get32(record->nlink) != 2 + tally->subdirectories)
		return "directory has another number of links than it says";
	return NULL;
}

/* Add up all of a held inode. False when it is too large, or damage in it was met. */
static bool add_up(struct scrub *scrub, const struct held *held, struct scrub_tally *tally)
{
	uint64_t problems = scrub->state->problems, key;
	unsigned leaves = 0;

	for (int attribute = 0; attribute < 2; attribute++) {
		key = 0;
		if (!has_tree(&held->record, attribute))
			continue;
		do {
			scrub_leaf(scrub, &held->record, held->block, attribute, key, tally, &key);
			if (++leaves > SUM_LEAVES)
				return false;
		} while (key);
	}
	return scrub->state->problems == problems;
}

static void check_sums(struct scrub *scrub, const struct ash_inode *record)
{
	const uint64_t *sums = scrub->state->tally;
	struct scrub_tally tally = { sums[0], sums[1], sums[2] };
	uint64_t ino = ash_get64(record->ino);
	const char *wrong;
	struct held held;

	if (sums[3] || !sums_wrong(record, &tally) || !hold(scrub, ino, &held))
		return;
	tally = (struct scrub_tally){ 0 };
	wrong = add_up(scrub, &held, &tally) ? sums_wrong(&held.record, &tally) : NULL;
	if (wrong)
		scrub_problem(scrub, ino, held.block, wrong);
	let_go(scrub, ino, &held);
}

/* What is left of an inode until the time is up. True: it is done. */
static bool look_at_inode(struct scrub *scrub, const struct ash_inode *record, uint64_t block)
{
	struct ash_scrub *state = scrub->state;

	if (state->fork == SCRUB_FORK_NONE) {
		if (ash_get64(record->ino) != ASH_INO_TABLE) {
			check_record(scrub, record, block);
			state->inodes++;
			state->directories += S_ISDIR(ash_get32(record->mode));
		}
		memset(state->tally, 0, sizeof(state->tally));
		state->key = 0;
		state->fork = SCRUB_FORK_DATA;
	}
	for (; state->fork <= SCRUB_FORK_ATTRIBUTE; state->fork++) {
		if (!has_tree(record, state->fork == SCRUB_FORK_ATTRIBUTE))
			continue;
		do {
			check_leaf(scrub, record, block);
			if (state->key && scrub_time_is_up(scrub))
				return false;
		} while (state->key);
	}
	state->fork = SCRUB_FORK_NONE;
	check_sums(scrub, record);
	return true;
}

void scrub_phase_table(struct scrub *scrub)
{
	const struct ash_super *super = (const void *)scrub->committed;
	struct ash_inode record;

	scrub_committed(scrub->volume->super, scrub->committed);
	record = super->table_inode;
	if (look_at_inode(scrub, &record, 0))
		scrub_next_phase(scrub->state);
}

/* ---- Inode blocks ---- */

/* The inode block with `ino`, and those behind it as far as they are neighbours. NULL: never written. */
static const uint8_t *records_ahead(struct scrub *scrub, uint64_t ino, struct ash_block_id *id,
				    struct scrub_home **home)
{
	struct ash_block_id next;
	uint32_t offset, count = 1;
	uint64_t at;

	/* inode 0 lies elsewhere; its slot is in the first block */
	if (ash_itable_locate(scrub->volume, ino ? ino : 1, id, &offset))
		return NULL;
	if (ino < scrub->ahead_first || ino >= scrub->ahead_first + scrub->ahead_count * ASH_INODES_PER_BLOCK) {
		while (count < SCRUB_AHEAD &&
		       !ash_itable_locate(scrub->volume, id->owner + (uint64_t)count * ASH_INODES_PER_BLOCK, &next,
					  &offset) &&
		       next.block == id->block + count)
			count++;
		scrub_home_records(scrub, *id, count, scrub->homes, scrub->ahead);
		if (!scrub->ahead_count)
			scrub_time_more(scrub); /* on a slow device the read alone may have used it all */
		scrub->ahead_first = id->owner;
		scrub->ahead_count = count;
	}
	at = (ino - scrub->ahead_first) / ASH_INODES_PER_BLOCK;
	*home = &scrub->homes[at];
	return scrub->ahead + at * ASH_BLOCK_SIZE;
}

/* The first time that a step comes to a block. */
static void look_at_block(struct scrub *scrub, struct ash_block_id id, const struct scrub_home *home,
			  const uint8_t *block)
{
	scrub_take_home(scrub, id.block, home);
	for (uint32_t i = 0; i < ASH_INODES_PER_BLOCK && !home->wrong; i++) {
		const void *record = block + i * ASH_INODE_SIZE;
		const char *wrong;

		if (!(home->bad_records & 1u << i))
			continue;
		wrong = ash_inode_check(scrub->volume->checksum_seed, id.owner + i, record, true);
		scrub_problem(scrub, id.owner + i, id.block, wrong ? wrong : "not what was written last");
	}
}

/* False: the run cannot be looked at. */
static bool look_at_run(struct scrub *scrub, uint64_t run)
{
	const struct ash_bitmap_block *bitmap = (const void *)scrub->block;
	struct scrub_home home;
	struct ash_block_id id;

	if (!ash_itable_bitmap(scrub->volume, run, &id))
		return false;
	home = scrub_home(scrub, id, scrub->block);
	if (!scrub_take_home(scrub, id.block, &home))
		return home.newer;
	if (ash_get32(bitmap->initialized) > scrub->volume->inodes_per_run / ASH_INODES_PER_BLOCK) {
		scrub_problem(scrub, 0, id.block, "inode bitmap: count of initialized blocks");
		return false;
	}
	return true;
}

/* From the inode that the state names to the end of its block, or until the time is up. */
void scrub_phase_inodes(struct scrub *scrub)
{
	struct ash_scrub *state = scrub->state;
	uint64_t per_run = scrub->volume->inodes_per_run, run = state->index / per_run, total, used;
	struct scrub_home *home;
	struct ash_block_id id;
	const uint8_t *block;

	ash_itable_counts(scrub->volume, &total, &used);
	if (state->index >= total) {
		scrub_next_phase(state);
		return;
	}
	if (state->index % per_run == 0 && state->fork == SCRUB_FORK_NONE && !look_at_run(scrub, run)) {
		state->index = (run + 1) * per_run;
		return;
	}
	block = records_ahead(scrub, state->index, &id, &home);
	if (!block) {
		state->index = (run + 1) * per_run;
		state->fork = SCRUB_FORK_NONE;
		return;
	}
	if (state->index % ASH_INODES_PER_BLOCK == 0 && state->fork == SCRUB_FORK_NONE)
		look_at_block(scrub, id, home, block);
	do {
		uint32_t slot = (uint32_t)(state->index - id.owner);
		const struct ash_inode *record = (const void *)(block + slot * ASH_INODE_SIZE);
		bool good = home->usable && !(home->bad_records & 1u << slot);

		if (good && ash_get32(record->magic) == ASH_MAGIC_INODE && ash_get32(record->mode) &&
		    !look_at_inode(scrub, record, id.block))
			return;
		state->fork = SCRUB_FORK_NONE;
		state->index++;
	} while (state->index % ASH_INODES_PER_BLOCK && !scrub_time_is_up(scrub));
}
