/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Taking names away: unlink and rmdir, and what rename.c needs when it replaces a target.
 *
 * Concept: one transaction takes the entry out, corrects the parent and takes a link off the inode. An inode that
 * loses its last name becomes an orphan in the same transaction, or is freed in it when it is small and nobody looks
 * it up.
 *
 * Rules: a directory goes only when it is empty; it stays usable as an empty, nameless one while it is looked up. When
 * the blocks of a damaged inode cannot be freed the name goes all the same, and the inode stays an orphan.
 *
 * Locks: the parent's, then the child's, both exclusive.
 */
#include "names.h"

static int check_may_remove(const struct ash_held *parent)
{
	int result = ash_check_directory(parent);

	if (!result && ash_record_flags(&parent->record) & (ASH_INODE_IMMUTABLE | ASH_INODE_APPEND))
		result = -EPERM;
	return result;
}

int ash_drop_link(struct ash_txn *txn, struct ash_held *held, const struct timespec *now, bool may_free,
		  struct ash_last_name *last)
{
	struct ash_volume *volume = ash_txn_volume(txn);
	struct ash_inode header;
	uint32_t nlink;
	bool stays; /* without a name: somebody looks it up */

	ash_record_header(&held->record, &header);
	nlink = ash_get32(header.nlink);
	if (!nlink)
		return ash_damaged(volume, held->record.buffer->id.block, "inode with a name has no links");
	nlink = S_ISDIR(ash_get32(header.mode)) ? 0 : nlink - 1;
	header.nlink = ash_put32(nlink);
	ash_header_set_ctime(&header, now);
	last->gone = !nlink;
	/* With both locks held the count cannot leave 0: counts are taken under the lock of a directory with its name. */
	stays = last->gone && ash_lookup_count(volume, held->icore->ino);
	if (last->gone && may_free && !stays && ash_orphan_is_small(&held->record)) {
		last->freed = true;
		if (ash_truncation_pending(volume, held->icore->ino))
			ash_orphan_remove(txn, held->icore->ino); /* its chain met an error */
		return ash_orphan_free_now(txn, held);
	}
	if (stays && ash_txn_orphan_room(txn))
		return -ENOSPC;
	ash_record_set_header(txn, &held->record, &header);
	if (last->gone)
		ash_orphan_add(txn, held->icore->ino);
	return 0;
}

void ash_link_dropped(struct ash_volume *volume, struct ash_held *held, uint64_t lsn, struct ash_last_name *last)
{
	ash_icore_raise(held->icore, lsn, true);
	if (last->freed) {
		ash_wb_drop(volume, held->icore, 0);
		ash_truncation_forget(volume, held->icore->ino);
		ash_icore_set_deleted(volume, held->icore);
	} else if (last->gone) {
		last->finish = !ash_lookup_mark(volume, held->icore->ino, ASH_LOOKUP_UNLINKED);
	}
}

struct remover {
	struct ash_volume *volume;
	struct ash_icore *parent;
	const char *name;
	size_t name_length;
	bool directory;
	bool may_free;
	struct ash_last_name last;
	uint64_t ino, lsn;
	uint32_t parent_flags;
};

/* A directory goes when nothing is in it. */
static int check_empty(const struct remover *remover, const struct ash_held *child)
{
	if (!S_ISDIR(ash_record_mode(&child->record)))
		return -ENOTDIR;
	return ash_check_empty(remover->volume, child);
}

static int check_victim(const struct remover *remover, const struct ash_held *child)
{
	int result = 0;

	if (remover->directory)
		result = check_empty(remover, child);
	else if (S_ISDIR(ash_record_mode(&child->record)))
		result = -EISDIR;
	if (!result && ash_record_flags(&child->record) & (ASH_INODE_IMMUTABLE | ASH_INODE_APPEND))
		result = -EPERM;
	return result;
}

static int log_remove(struct ash_txn *txn, struct remover *remover, struct ash_held *parent, struct ash_held *child,
		      const struct ash_entry *entry)
{
	struct timespec now = ash_now();
	struct ash_tree tree;
	int result = check_victim(remover, child);

	if (result)
		return result;
	ash_record_tree(remover->volume, &parent->record, false, &tree);
	result = ash_dir_remove(txn, &tree, entry);
	if (!result)
		result = ash_directory_changed(txn, parent, -1, remover->directory ? -1 : 0, &now);
	return result ? result : ash_drop_link(txn, child, &now, remover->may_free, &remover->last);
}

/* The parent is locked: find the name and lock what it stands for. */
static int hold_child(const struct remover *remover, const struct ash_held *parent, struct ash_entry *entry,
		      struct ash_held *child)
{
	struct ash_tree tree;
	int result = check_may_remove(parent);

	if (result)
		return result;
	ash_record_tree(remover->volume, &parent->record, false, &tree);
	result = ash_dir_find(&tree, remover->name, remover->name_length, entry);
	if (result)
		return result;
	return ash_hold_child(remover->volume, parent, entry->ino, child);
}

static int remove_once(struct remover *remover)
{
	struct ash_volume *volume = remover->volume;
	struct ash_held parent = { 0 }, child = { 0 };
	struct ash_entry entry;
	struct ash_txn *txn;
	int result = ash_txn_begin(volume, ASH_TXN_NAME, &txn);

	if (result)
		return result;
	remover->last = (struct ash_last_name){ 0 };
	result = ash_hold_icore(volume, remover->parent, true, &parent);
	if (!result)
		result = hold_child(remover, &parent, &entry, &child);
	if (!result)
		result = log_remove(txn, remover, &parent, &child, &entry);
	if (result) {
		ash_txn_abort(txn);
	} else {
		remover->lsn = ash_txn_commit(txn);
		remover->ino = entry.ino;
		remover->parent_flags = ash_record_flags(&parent.record);
		ash_icore_raise(remover->parent, remover->lsn, true);
		ash_link_dropped(volume, &child, remover->lsn, &remover->last);
	}
	ash_release(volume, &child);
	ash_unhold(volume, &parent);
	return result;
}

static int remove_name(struct ash_volume *volume, uint64_t parent, struct remover *remover, uint64_t *removed)
{
	int result = ash_icore_get(volume, parent, &remover->parent);

	if (result)
		return result;
	result = remove_once(remover);
	if (result == -ENOSPC && ash_reclaim_space(volume))
		result = remove_once(remover);
	if (result == -EUCLEAN && remover->last.freed) {
		/* Its blocks cannot be freed; the name can go all the same. */
		remover->may_free = false;
		result = remove_once(remover);
	}
	ash_icore_put(volume, remover->parent);
	if (result)
		return result;
	if (removed)
		*removed = remover->ino;
	if (remover->last.finish)
		(void)ash_orphan_finish(volume, remover->ino); /* logged; the name is gone anyhow */
	return ash_finish_sync(volume, remover->lsn, remover->parent_flags);
}

int ash_unlink(struct ash_volume *volume, uint64_t parent, const char *name, uint64_t *removed)
{
	struct remover remover = { .volume = volume, .name = name, .may_free = true };
	int length = ash_name_length(name);

	if (length < 0)
		return length;
	if (ash_name_is_dots(name))
		return -EISDIR;
	remover.name_length = (size_t)length;
	return remove_name(volume, parent, &remover, removed);
}

int ash_rmdir(struct ash_volume *volume, uint64_t parent, const char *name, uint64_t *removed)
{
	struct remover remover = { .volume = volume, .name = name, .directory = true, .may_free = true };
	int length = ash_name_length(name);

	if (length < 0)
		return length;
	if (ash_name_is_dots(name))
		return name[1] ? -ENOTEMPTY : -EINVAL;
	remover.name_length = (size_t)length;
	return remove_name(volume, parent, &remover, removed);
}
