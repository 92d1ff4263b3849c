// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * One inode under its lock: looked at, or changed within a transaction.
 *
 * Concept: struct ash_edit holds what every data operation needs (transaction, lock, record, tree, claimed blocks),
 * so that each of them reads: begin, look up the map, claim, write the data, map, set the header, commit. Any failure
 * before the commit is ash_edit_abort(): the record and the trees go back, claims are returned (I9).
 *
 * Locks: the transaction begins before the inode's lock is taken (I10). One inode per edit. Blocks claimed ahead
 * (preallocation) hang on the in-core inode under its lock and are not in any transaction.
 */
#include "file_edit.h"

#define SPECULATE_FROM_BLOCKS 16u /* files from 64 KiB on get blocks ahead */
#define SPECULATE_MAX_BLOCKS 256u

static int check_type(const struct ash_record *record)
{
	uint32_t mode = ash_get32(record->inode->mode);

	return S_ISREG(mode) ? 0 : S_ISDIR(mode) ? -EISDIR : -EINVAL;
}

int ash_edit_look(struct ash_edit *edit, struct ash_volume *volume, struct ash_icore *icore, bool exclusive)
{
	edit->volume = volume;
	edit->icore = icore;
	edit->txn = NULL;
	edit->added = edit->removed = 0;
	edit->claim_count = 0;
	ash_icore_lock(volume, icore, exclusive);
	int rc = icore->deleted ? -ESTALE : ash_record_get(volume, icore->ino, &edit->record);
	if (rc)
		goto unlock;
	rc = check_type(&edit->record);
	if (rc) {
		ash_record_put(volume, &edit->record);
		goto unlock;
	}
	ash_record_tree(volume, &edit->record, false, &edit->tree);
	return 0;
unlock:
	ash_icore_unlock(icore);
	return rc;
}

int ash_edit_begin(struct ash_edit *edit, struct ash_volume *volume, struct ash_icore *icore, uint32_t log_bytes)
{
	struct ash_txn *txn;
	int rc = ash_txn_begin_modest(volume, log_bytes, &txn);

	if (rc)
		return rc;
	rc = ash_edit_look(edit, volume, icore, true);
	if (rc) {
		ash_txn_abort(txn);
		return rc;
	}
	edit->txn = txn;
	edit->log_bytes = log_bytes;
	return 0;
}

int ash_edit_begin_settled(struct ash_edit *edit, struct ash_volume *volume, struct ash_icore *icore,
			   uint32_t log_bytes)
{
	for (;;) {
		int rc = ash_edit_begin(edit, volume, icore, log_bytes);

		if (rc)
			return rc;
		bool truncating = ash_truncation_pending(volume, icore->ino);
		if (!truncating && !icore->buffered)
			return 0;
		ash_edit_abort(edit);
		rc = truncating ? ash_file_resume_truncate(volume, icore) : ash_wb_settle_inode(volume, icore);
		if (rc)
			return rc;
	}
}

void ash_edit_hold(struct ash_volume *volume, struct ash_icore *icore)
{
	struct ash_icore *same;
	int rc = ash_icore_get(volume, icore->ino, &same);

	/* It is in core and not deleted, which its lock keeps so. */
	assert(!rc && same == icore);
	(void)rc;
}

uint64_t ash_edit_commit_locked(struct ash_edit *edit, bool data)
{
	ash_icore_touch(edit->txn, edit->icore, data);
	return ash_txn_commit(edit->txn);
}

void ash_edit_unlock(struct ash_edit *edit)
{
	ash_record_put(edit->volume, &edit->record);
	ash_icore_unlock(edit->icore);
}

uint64_t ash_edit_commit(struct ash_edit *edit, bool data)
{
	uint64_t lsn = ash_edit_commit_locked(edit, data);

	ash_edit_unlock(edit);
	return lsn;
}

static void unclaim(struct ash_edit *edit, const struct ash_edit_claim *claim)
{
	ash_unclaim(edit->volume, claim->extent, claim->flags);
	if ((claim->flags & ASH_CLAIM_RESERVED) && edit->icore->buffered) {
		edit->icore->buffered->reserved += claim->extent.count;
		atomic_fetch_add(&edit->volume->wb->reserved, claim->extent.count);
	}
}

void ash_edit_undo(struct ash_edit *edit)
{
	if (edit->txn)
		ash_txn_abort(edit->txn);
	edit->txn = NULL;
	while (edit->claim_count)
		unclaim(edit, &edit->claims[--edit->claim_count]);
}

void ash_edit_abort(struct ash_edit *edit)
{
	ash_edit_undo(edit);
	ash_record_put(edit->volume, &edit->record);
	ash_icore_unlock(edit->icore);
}

void ash_edit_unclaim_last(struct ash_edit *edit)
{
	unclaim(edit, &edit->claims[--edit->claim_count]);
}

bool ash_edit_log_room(const struct ash_edit *edit)
{
	return ash_txn_bytes(edit->txn) + ASH_EDIT_STEP_BYTES <= edit->log_bytes;
}

bool ash_edit_room(const struct ash_edit *edit)
{
	return edit->claim_count < ASH_EDIT_CLAIMS && ash_edit_log_room(edit);
}

/* ---- The record ---- */

void ash_edit_header(const struct ash_edit *edit, struct ash_inode *header)
{
	memcpy(header, edit->record.inode, offsetof(struct ash_inode, data));
	header->blocks = ash_put64(ash_get64(header->blocks) + edit->added - edit->removed);
}

void ash_edit_set_header(struct ash_edit *edit, const struct ash_inode *header)
{
	ash_record_set_header(edit->txn, &edit->record, header);
	edit->added = edit->removed = 0;
}

void ash_stamp_mtime(struct ash_inode *header, struct timespec now)
{
	header->mtime = ash_put64((uint64_t)now.tv_sec);
	header->mtime_ns = ash_put32((uint32_t)now.tv_nsec);
}

void ash_stamp_ctime(struct ash_inode *header, struct timespec now)
{
	header->ctime = ash_put64((uint64_t)now.tv_sec);
	header->ctime_ns = ash_put32((uint32_t)now.tv_nsec);
}

static void set_data_kind(struct ash_edit *edit, uint8_t kind)
{
	ash_record_set(edit->txn, &edit->record, offsetof(struct ash_inode, data_kind), &kind, 1);
}

void ash_edit_set_inline(struct ash_edit *edit, const uint8_t *content, uint64_t size)
{
	uint8_t bytes[ASH_DATA_FORK_SIZE] = { 0 };
	uint8_t kind = size ? ASH_FORK_INLINE : ASH_FORK_EMPTY;

	assert(size <= sizeof(bytes));
	if (size)
		memcpy(bytes, content, size);
	if (edit->record.inode->data_kind != kind)
		set_data_kind(edit, kind);
	ash_record_set(edit->txn, &edit->record, offsetof(struct ash_inode, data), bytes, sizeof(bytes));
}

/* ---- Map and claims ---- */

int ash_edit_map(const struct ash_edit *edit, uint64_t block, uint64_t limit, struct ash_mapping *out)
{
	if (edit->record.inode->data_kind == ASH_FORK_TREE)
		return ash_map_get(&edit->tree, block, limit, out);
	*out = (struct ash_mapping){ .file_block = block, .count = limit };
	return 0;
}

/* Where the next blocks would best lie: behind those of the block before, else behind the last new file. */
static uint64_t claim_goal(const struct ash_edit *edit, uint64_t block)
{
	struct ash_mapping before;

	if (edit->claim_count) {
		const struct ash_edit_claim *last = &edit->claims[edit->claim_count - 1];

		if (last->block + last->extent.count == block) /* perhaps not mapped yet */
			return last->extent.start + last->extent.count;
	}
	if (block && edit->record.inode->data_kind == ASH_FORK_TREE &&
	    !ash_map_get(&edit->tree, block - 1, 1, &before) && before.start)
		return before.start + before.count;
	return atomic_load_explicit(&edit->volume->wb->rotor, memory_order_relaxed);
}

static void remember_claim(struct ash_edit *edit, uint64_t block, struct ash_extent extent, unsigned flags)
{
	edit->claims[edit->claim_count++] = (struct ash_edit_claim){ extent, block, flags };
	if (flags & ASH_CLAIM_RESERVED) {
		edit->icore->buffered->reserved -= extent.count;
		atomic_fetch_sub(&edit->volume->wb->reserved, extent.count);
	}
}

static bool use_preallocation(struct ash_edit *edit, uint64_t block, uint64_t wanted, struct ash_extent *out)
{
	struct ash_icore *icore = edit->icore;
	struct ash_extent *ahead = &icore->preallocated;

	if (!ahead->count || icore->preallocated_at != block)
		return false;
	*out = (struct ash_extent){ ahead->start, wanted < ahead->count ? wanted : ahead->count };
	ahead->start += out->count;
	ahead->count -= out->count;
	icore->preallocated_at += out->count;
	ash_claim_used(edit->volume, out->count);
	remember_claim(edit, block, *out, 0);
	return true;
}

/* Claim ahead behind `extent` for a file that grows in small pieces. Only what adjoins is kept. */
static void preallocate(struct ash_edit *edit, uint64_t block, const struct ash_extent *extent, uint64_t wanted)
{
	struct ash_icore *icore = edit->icore;
	uint64_t blocks = ash_blocks_of(ash_edit_size(edit));
	struct ash_extent ahead;

	if (block < blocks && !icore->buffered)
		return;
	if (block < SPECULATE_FROM_BLOCKS || wanted >= SPECULATE_MAX_BLOCKS || extent->count < wanted)
		return;
	uint64_t count = block / 2 < SPECULATE_MAX_BLOCKS ? block / 2 : SPECULATE_MAX_BLOCKS;
	if (ash_claim(edit->volume, extent->start + extent->count, count, ASH_CLAIM_AHEAD, &ahead))
		return;
	if (ahead.start != extent->start + extent->count) {
		ash_unclaim(edit->volume, ahead, ASH_CLAIM_AHEAD);
		return;
	}
	ash_drop_preallocation(edit->volume, icore);
	icore->preallocated = ahead;
	icore->preallocated_at = block + extent->count;
	ash_wb_keep(edit->volume, icore);
}

int ash_edit_claim(struct ash_edit *edit, uint64_t block, uint64_t wanted, unsigned flags, struct ash_extent *out)
{
	if (wanted > ASH_EXTENT_MAX_BLOCKS)
		wanted = ASH_EXTENT_MAX_BLOCKS;
	if (use_preallocation(edit, block, wanted, out))
		return 0;
	uint64_t goal = claim_goal(edit, block);
	int rc = ash_claim(edit->volume, goal, wanted, flags, out);
	if (rc)
		return rc;
	remember_claim(edit, block, *out, flags);
	if (!block)
		atomic_store_explicit(&edit->volume->wb->rotor, out->start + out->count, memory_order_relaxed);
	preallocate(edit, block, out, wanted);
	return 0;
}

int ash_edit_map_new(struct ash_edit *edit, uint64_t block, struct ash_extent extent, bool unwritten)
{
	const struct ash_mapping mapping = {
		.file_block = block, .count = extent.count, .start = extent.start, .unwritten = unwritten
	};
	int rc = ash_alloc_log(edit->txn, extent);

	if (!rc)
		rc = ash_map_insert(edit->txn, &edit->tree, &mapping);
	if (!rc)
		edit->added += extent.count;
	return rc;
}

int ash_edit_outline(struct ash_edit *edit, unsigned claim_flags)
{
	uint64_t size = ash_edit_disk_size(edit);
	struct ash_extent extent;

	if (edit->record.inode->data_kind != ASH_FORK_INLINE)
		return 0;
	int rc = ash_edit_claim(edit, 0, 1, claim_flags, &extent);
	if (rc)
		return rc;
	uint8_t *bounce = ash_bounce_get(edit->volume);
	if (!bounce)
		return -ENOMEM;
	memset(bounce, 0, ASH_BLOCK_SIZE);
	memcpy(bounce, edit->record.inode->data, size < ASH_DATA_FORK_SIZE ? size : ASH_DATA_FORK_SIZE);
	rc = ash_data_write(edit->volume, bounce, ASH_BLOCK_SIZE, extent.start);
	ash_bounce_put(edit->volume, bounce);
	if (rc)
		return rc;
	ash_edit_set_inline(edit, NULL, 0);
	return ash_edit_map_new(edit, 0, extent, false);
}

/* ---- suid, sgid, security.capability ---- */

static const char capability_name[] = "security.capability";

uint32_t ash_mode_without_suidgid(uint32_t mode, bool all_sgid)
{
	return mode & ~(S_ISUID | (all_sgid || mode & S_IXGRP ? S_ISGID : 0u));
}

static uint32_t killed_mode(uint32_t mode, struct ash_file_intent intent)
{
	return intent.kills_suidgid ? ash_mode_without_suidgid(mode, intent.kills_all_sgid) : mode;
}

static bool has_capability(struct ash_edit *edit)
{
	struct ash_tree tree;

	if (edit->record.inode->attr_kind == ASH_FORK_EMPTY)
		return false;
	ash_record_tree(edit->volume, &edit->record, true, &tree);
	return ash_xattr_get(&tree, capability_name, NULL, 0) >= 0;
}

static bool must_kill(struct ash_edit *edit, struct ash_file_intent intent)
{
	uint32_t mode = ash_get32(edit->record.inode->mode);

	return killed_mode(mode, intent) != mode || has_capability(edit);
}

static int kill_privileges(struct ash_volume *volume, struct ash_icore *icore, struct ash_file_intent intent)
{
	struct ash_edit edit;
	struct ash_inode header;
	struct ash_tree tree;
	int rc = ash_edit_begin(&edit, volume, icore, ASH_TXN_TREE + ASH_TXN_SMALL);
	if (rc)
		return rc;
	if (has_capability(&edit)) {
		ash_record_tree(volume, &edit.record, true, &tree);
		rc = ash_xattr_remove(edit.txn, &tree, capability_name);
		if (rc) {
			ash_edit_abort(&edit);
			return rc;
		}
	}
	ash_edit_header(&edit, &header);
	header.mode = ash_put32(killed_mode(ash_get32(header.mode), intent));
	ash_stamp_ctime(&header, ash_now());
	ash_edit_set_header(&edit, &header);
	ash_edit_commit(&edit, true);
	return 0;
}

int ash_file_begin_change(struct ash_volume *volume, struct ash_icore *icore, struct ash_file_intent intent, bool *sync)
{
	struct ash_edit edit;
	int rc = ash_edit_look(&edit, volume, icore, false);

	if (rc)
		return rc;
	uint32_t flags = ash_get32(edit.record.inode->flags);
	bool must = !intent.keeps_privileges && must_kill(&edit, intent);
	bool overwrites = intent.overwrites || (intent.writes && intent.at < ash_edit_size(&edit));
	if (flags & ASH_INODE_IMMUTABLE || (flags & ASH_INODE_APPEND && overwrites))
		rc = -EPERM;
	else if (intent.appends && ash_edit_size(&edit) >= ASH_FILE_MAX_SIZE)
		rc = -EFBIG; /* before anything is taken away */
	ash_edit_abort(&edit);
	*sync = flags & ASH_INODE_SYNC || atomic_load(&volume->sync);
	return !rc && must ? kill_privileges(volume, icore, intent) : rc;
}

int ash_file_make_durable(struct ash_volume *volume, struct ash_icore *icore, bool data_only)
{
	uint64_t lsn = atomic_load(data_only ? &icore->data_lsn : &icore->lsn);

	return ash_log_defer(volume, lsn) ? 0 : ash_log_make_durable(volume, lsn);
}
