/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Orphans: inodes without a name that are still looked up, and inodes with a long truncation to finish.
 *
 * Concept: the set of orphans lives in memory and in log records (the engine keeps both); no place on the disk is hot.
 * An inode enters the set in the transaction that takes its last name, and leaves it in the one that frees its record,
 * so that after a crash recovery finds in the set exactly what must be finished.
 *
 * Rules: an unlinked inode is deleted when its lookup count is 0: by the thread that unlinks it, by the one whose
 * forget brings the count to 0 (the mark in the lookup count tells it), or by recovery. Deletion is a chain of bounded
 * transactions, each of which leaves a state that the chain can go on from; of a small inode it is a single one. A
 * failure leaves the inode in the set for the next mount.
 *
 * Locks: the inode's own.
 */
#include "map.h"
#include "names.h"
#include "plant.h"

#include <stdlib.h>

#define CHAIN_BYTES (24u << 10)      /* log bytes after which a transaction of the chain ends */
#define ALL_FILE_BLOCKS (1ull << 52) /* beyond any offset */

void ash_orphan_add(struct ash_txn *txn, uint64_t ino)
{
	if (!ASH_PLANTED(ASH_PLANT_NO_ORPHAN))
		ash_txn_orphan(txn, ino, true);
}

void ash_orphan_remove(struct ash_txn *txn, uint64_t ino)
{
	if (!ASH_PLANTED(ASH_PLANT_NO_ORPHAN))
		ash_txn_orphan(txn, ino, false);
}

static bool has_data_blocks(const struct ash_record *record)
{
	/* A directory that lost its name is empty: its tree has no nodes. */
	return record->inode->data_kind == ASH_FORK_TREE && !S_ISDIR(ash_record_mode(record));
}

static uint32_t root_level(const uint8_t *fork)
{
	return ash_node_level(fork);
}

bool ash_orphan_is_small(const struct ash_record *record)
{
	if (has_data_blocks(record) && root_level(record->inode->data))
		return false;
	return record->inode->attr_kind != ASH_FORK_TREE || !root_level(record->inode->attr);
}

static int free_data(struct ash_txn *txn, struct ash_record *record)
{
	uint64_t remaining = 0, freed = 0;
	struct ash_tree tree;
	int result;

	if (!has_data_blocks(record))
		return 0;
	ash_record_tree(ash_txn_volume(txn), record, false, &tree);
	result = ash_map_remove(txn, &tree, 0, ALL_FILE_BLOCKS, CHAIN_BYTES, &remaining, &freed);
	return !result && remaining ? -EUCLEAN : result; /* one leaf is never too much for a transaction */
}

static int free_attributes(struct ash_txn *txn, struct ash_record *record)
{
	struct ash_tree tree;
	int result;

	if (record->inode->attr_kind != ASH_FORK_TREE)
		return 0;
	ash_record_tree(ash_txn_volume(txn), record, true, &tree);
	result = ash_xattr_clear(txn, &tree, CHAIN_BYTES);
	return result > 0 ? -EUCLEAN : result;
}

int ash_orphan_free_now(struct ash_txn *txn, struct ash_held *held)
{
	int result = free_data(txn, &held->record);

	if (!result)
		result = free_attributes(txn, &held->record);
	return result ? result : ash_inode_log_free(txn, held->icore->ino);
}

/* ---- Finishing ---- */

/* 1: it has links or is looked up (again): nothing to do. Exclusive lock. */
static int must_live(struct ash_volume *volume, const struct ash_held *held)
{
	return ash_record_nlink(&held->record) || ash_lookup_count(volume, held->icore->ino);
}

/* Free a small orphan. 1: it is none, or not small; *live says which. */
static int finish_small(struct ash_volume *volume, struct ash_icore *icore, bool *live)
{
	struct ash_held held = { 0 };
	struct ash_txn *txn;
	int result = ash_txn_begin_modest(volume, ASH_TXN_NAME, &txn);

	if (result)
		return result;
	result = ash_hold_icore(volume, icore, true, &held);
	if (!result) {
		*live = must_live(volume, &held);
		result = *live || !ash_orphan_is_small(&held.record) ? 1 : ash_orphan_free_now(txn, &held);
	}
	if (result) {
		ash_txn_abort(txn);
	} else {
		ash_orphan_remove(txn, icore->ino);
		ash_icore_raise(icore, ash_txn_commit(txn), true);
		ash_wb_drop(volume, icore, 0);
		ash_truncation_forget(volume, icore->ino);
		ash_icore_set_deleted(volume, icore);
	}
	ash_unhold(volume, &held);
	return result;
}

/* One transaction's worth of attributes: 1 when more is left. */
static int clear_attributes(struct ash_volume *volume, struct ash_icore *icore)
{
	struct ash_held held = { 0 };
	struct ash_tree tree;
	struct ash_txn *txn;
	int result = ash_txn_begin_modest(volume, ASH_TXN_NAME, &txn);

	if (result)
		return result;
	result = ash_hold_icore(volume, icore, true, &held);
	if (!result && held.record.inode->attr_kind == ASH_FORK_TREE) {
		ash_record_tree(volume, &held.record, true, &tree);
		result = ash_xattr_clear(txn, &tree, CHAIN_BYTES);
	}
	if (result < 0)
		ash_txn_abort(txn);
	else
		ash_icore_raise(icore, ash_txn_commit(txn), true);
	ash_unhold(volume, &held);
	return result;
}

static int free_large(struct ash_volume *volume, struct ash_icore *icore)
{
	int result = ash_file_free_all(volume, icore);

	if (result)
		return result;
	do
		result = clear_attributes(volume, icore);
	while (result > 0);
	return result;
}

int ash_orphan_finish(struct ash_volume *volume, uint64_t ino)
{
	struct ash_icore *icore;
	bool live = false;
	int result = ash_icore_get_orphan(volume, ino, &icore);

	if (result)
		return result == -ESTALE ? 0 : result; /* another thread was faster */
	result = finish_small(volume, icore, &live);
	if (result == 1 && !live) {
		result = free_large(volume, icore);
		if (!result)
			result = finish_small(volume, icore, &live);
		if (result == 1 && !live)
			result = ash_damaged(volume, 0, "orphan inode that cannot be emptied");
	}
	ash_icore_put(volume, icore);
	if (result == -ESTALE)
		return 0;
	return live ? 0 : result;
}

/* ---- Recovery ---- */

/* A number in the set whose record is free, or is nothing that can be truncated: a leftover. */
static int forget_orphan(struct ash_volume *volume, uint64_t ino)
{
	struct ash_txn *txn;
	int result = ash_txn_begin_modest(volume, ASH_TXN_SMALL, &txn);

	if (result)
		return result;
	ash_txn_orphan(txn, ino, false);
	ash_txn_commit(txn);
	return 0;
}

static int recover_one(struct ash_volume *volume, uint64_t ino)
{
	struct ash_record record;
	uint32_t nlink, mode;
	int result = -ESTALE; /* reserved numbers are no orphans, whatever the log says (I8) */

	if (ino >= ASH_INO_FIRST_FREE)
		result = ash_record_get(volume, ino, &record); /* mounting: nobody else is here */
	if (result == -ESTALE)
		return forget_orphan(volume, ino);
	if (result)
		return result;
	nlink = ash_record_nlink(&record);
	mode = ash_record_mode(&record);
	ash_record_put(volume, &record);
	if (nlink && !S_ISREG(mode))
		return forget_orphan(volume, ino);
	return nlink ? ash_file_finish_truncate(volume, ino) : ash_orphan_finish(volume, ino);
}

int ash_orphan_recover(struct ash_volume *volume)
{
	uint64_t *list = NULL;
	size_t count = 0;
	int result;

	if (ash_check_writable(volume))
		return 0; /* they stay hidden: no name, no lookup count */
	result = ash_log_orphans(volume, &list, &count);
	for (size_t i = 0; i < count && !result; i++) {
		result = recover_one(volume, list[i]);
		/* also one of which something cannot be read: it is no reason to refuse all the others */
		if (result == -EUCLEAN || (result == -EIO && !atomic_load(&volume->failed))) {
			ash_say(volume, ASH_LOG_WARNING, "orphan inode %llu is damaged and stays; run fsck.ashlar -f",
				(unsigned long long)list[i]);
			result = 0;
		}
	}
	free(list);
	return result == -EROFS ? 0 : result; /* read-only because of damage met here: that has been said */
}
