/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Rename and exchange.
 *
 * Concept: one transaction moves the name, corrects both directories and, when there was a target, takes its link off:
 * after a crash either all of it happened or nothing (I7). So it is with a whiteout, the character device 0:0 by which
 * overlayfs marks a name as gone: it is made in the same transaction and put where the old name was.
 *
 * Rules:
 * - Replace-by-rename must not yield an empty file after a crash (I7): when the target exists and the source has
 *   buffered data, the attempt is given up, the data is written back, and the rename begins again.
 * - Between two parents the volume's rename lock is held. Under it no directory changes its place, so that the
 *   ancestors of both parents, noted before any inode is locked, stay true: they say which parent is locked first, and
 *   refuse to move a directory into itself (-EINVAL) or over one of its ancestors (-ENOTEMPTY).
 * - Within one parent no place changes; the parent's lock is enough, but when two folders in it are to be locked: the order
 *   of their numbers is not that of the tree, so the volume's rename lock is held then, too (see lock_children()).
 *
 * Locks: rename lock -> parents (ancestor first, unrelated ones by number) -> source and target (directories first,
 * then by number).
 */
#include "names.h"
#include "plant.h"

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>

#ifndef RENAME_NOREPLACE
#define RENAME_NOREPLACE 1u
#define RENAME_EXCHANGE 2u
#endif
#ifndef RENAME_WHITEOUT
#define RENAME_WHITEOUT 4u
#endif

#define SUBDIRECTORIES_MAX 0xfffffffeu

/* Numbers of a directory and of all above it, up to the root. */
struct ancestors {
	uint64_t *list;
	size_t count, room;
};

/* One end of a rename. */
struct place {
	uint64_t parent;
	const char *name;
	size_t length;
	struct ash_icore *icore;    /* of the parent */
	struct ancestors ancestors; /* of the parent, itself first */
	struct ash_held *held;      /* the parent; both ends share it when there is only one */
	struct ash_held own;
	struct ash_entry entry;
	struct ash_held child;
	bool exists;
};

struct mover {
	struct ash_volume *volume;
	unsigned flags;
	struct place from, to;
	bool may_free;
	bool siblings; /* within one folder, two folders of it: with rename_lock, as between parents */
	struct ash_last_name last;
	struct ash_maker *whiteout; /* NULL: the old name goes */
	uint64_t write_back;        /* inode whose data must be written before; 0: none */
	uint64_t lsn;
	uint32_t sync_flags;
};

/* ---- Ancestors ---- */

static int ancestors_add(struct ancestors *ancestors, uint64_t ino)
{
	if (ancestors->count == ancestors->room) {
		size_t room = ancestors->room ? ancestors->room * 2 : 32;
		uint64_t *list = realloc(ancestors->list, room * sizeof(*list));

		if (!list)
			return -ENOMEM;
		ancestors->list = list;
		ancestors->room = room;
	}
	ancestors->list[ancestors->count++] = ino;
	return 0;
}

/* Rename lock held, no inode lock. A cycle in a damaged volume is noticed (Brent). */
static int ancestors_read(struct ash_volume *volume, uint64_t ino, struct ancestors *ancestors)
{
	uint64_t mark = ino, next;
	size_t steps = 0, limit = 2;
	int result = ancestors_add(ancestors, ino);

	while (!result && ino != ASH_INO_ROOT) {
		result = ash_parent(volume, ino, &next);
		if (result)
			break;
		ino = next;
		if (ino == mark)
			return ash_damaged(volume, 0, "cycle of directories");
		if (++steps == limit) {
			mark = ino;
			limit *= 2;
			steps = 0;
		}
		result = ancestors_add(ancestors, ino);
	}
	return result;
}

static bool ancestors_have(const struct ancestors *ancestors, uint64_t ino)
{
	for (size_t i = 0; i < ancestors->count; i++)
		if (ancestors->list[i] == ino)
			return true;
	return false;
}

/* ---- Locking ---- */

static int lock_parents(struct mover *mover)
{
	struct ash_volume *volume = mover->volume;
	struct place *first = &mover->from, *second = &mover->to;
	int result;

	mover->from.held = &mover->from.own;
	mover->to.held = first->icore == second->icore ? &mover->from.own : &mover->to.own;
	if (first->icore == second->icore)
		return ash_hold_icore(volume, first->icore, true, first->held);
	if (ancestors_have(&first->ancestors, second->parent) ||
	    (!ancestors_have(&second->ancestors, first->parent) && second->parent < first->parent)) {
		first = &mover->to;
		second = &mover->from;
	}
	result = ash_hold_icore(volume, first->icore, true, first->held);
	return result ? result : ash_hold_icore(volume, second->icore, true, second->held);
}

static int find_entry(struct mover *mover, struct place *place)
{
	struct ash_tree tree;
	int result;

	ash_record_tree(mover->volume, &place->held->record, false, &tree);
	result = ash_dir_find(&tree, place->name, place->length, &place->entry);
	place->exists = !result;
	return result;
}

static int lock_child(struct mover *mover, struct place *place)
{
	return ash_hold_child(mover->volume, place->held, place->entry.ino, &place->child);
}

/*
 * Folders that are unrelated are locked in the order of their numbers, by who holds rename_lock: one of them may be above a
 * third one, whose rename waits for the other. So -EDEADLK when two folders are wanted without it.
 */
static int lock_children(struct mover *mover)
{
	struct place *first = &mover->from, *second = &mover->to;
	int result;

	if (!second->exists)
		return lock_child(mover, first);
	if (first->icore == second->icore && !mover->siblings && first->entry.type == DT_DIR &&
	    second->entry.type == DT_DIR)
		return -EDEADLK;
	if ((first->entry.type == DT_DIR) == (second->entry.type == DT_DIR) ? second->entry.ino < first->entry.ino :
									      second->entry.type == DT_DIR) {
		first = &mover->to;
		second = &mover->from;
	}
	result = lock_child(mover, first);
	return result ? result : lock_child(mover, second);
}

static void unlock_all(struct mover *mover)
{
	ash_release(mover->volume, &mover->from.child);
	ash_release(mover->volume, &mover->to.child);
	ash_unhold(mover->volume, &mover->to.own);
	ash_unhold(mover->volume, &mover->from.own);
}

/* ---- Checks ---- */

static bool is_directory(const struct place *place)
{
	return S_ISDIR(ash_record_mode(&place->child.record));
}

static bool is_frozen(const struct ash_held *held)
{
	return ash_record_flags(&held->record) & (ASH_INODE_IMMUTABLE | ASH_INODE_APPEND);
}

static int check_parents(const struct mover *mover)
{
	int result = ash_check_directory(mover->from.held);

	if (!result)
		result = ash_check_directory(mover->to.held);
	if (!result && (is_frozen(mover->from.held) || ash_record_flags(&mover->to.held->record) & ASH_INODE_IMMUTABLE))
		result = -EPERM;
	return result;
}

/* Both parents are locked; no child is yet, since ancestors of a parent must not be locked after it. */
static int check_entries(struct mover *mover)
{
	bool exchange = mover->flags & RENAME_EXCHANGE;
	int result = find_entry(mover, &mover->from);

	if (result)
		return result;
	result = find_entry(mover, &mover->to);
	if (result && result != -ENOENT)
		return result;
	if (mover->to.exists && mover->flags & RENAME_NOREPLACE)
		return -EEXIST;
	if (!mover->to.exists && exchange)
		return -ENOENT;
	if (ancestors_have(&mover->to.ancestors, mover->from.entry.ino))
		return -EINVAL;
	if (mover->to.exists && ancestors_have(&mover->from.ancestors, mover->to.entry.ino))
		return exchange ? -EINVAL : -ENOTEMPTY;
	/* In one directory no ancestors were noted: one of them in it is damage, which ash_hold_child() sees. */
	return 0;
}

static int check_target(const struct mover *mover)
{
	if (is_frozen(&mover->to.child) || is_frozen(mover->to.held))
		return -EPERM; /* append-only: names are not taken away */
	if (mover->flags & RENAME_EXCHANGE)
		return 0;
	if (!is_directory(&mover->to))
		return is_directory(&mover->from) ? -ENOTDIR : 0;
	if (!is_directory(&mover->from))
		return -EISDIR;
	return ash_check_empty(mover->volume, &mover->to.child);
}

static int check_children(struct mover *mover)
{
	const struct place *from = &mover->from, *to = &mover->to;
	int result = is_frozen(&from->child) ? -EPERM : 0;

	if (!result && to->exists)
		result = check_target(mover);
	if (!result && from->held != to->held && is_directory(from) && !(to->exists && is_directory(to)) &&
	    ash_record_nlink(&to->held->record) >= SUBDIRECTORIES_MAX)
		result = -EMLINK;
	if (!result && to->exists && S_ISREG(ash_record_mode(&from->child.record)) && from->child.icore->buffered &&
	    mover->write_back != from->entry.ino) {
		mover->write_back = from->entry.ino;
		result = -EAGAIN;
	}
	return result;
}

/* ---- Changes ---- */

/* The child stands in another directory now (or in the same): its ctime, and its parent field. */
static void child_moved(struct ash_txn *txn, struct place *child, uint64_t parent, const struct timespec *now)
{
	struct ash_inode header;

	ash_record_header(&child->child.record, &header);
	ash_header_set_ctime(&header, now);
	if (S_ISDIR(ash_get32(header.mode)))
		header.parent = ash_put64(parent);
	ash_record_set_header(txn, &child->child.record, &header);
}

static int set_entry(struct ash_txn *txn, struct place *place, const struct place *child)
{
	struct ash_tree tree;

	ash_record_tree(ash_txn_volume(txn), &place->held->record, false, &tree);
	return ash_dir_set(txn, &tree, &place->entry, child->entry.ino, IFTODT(ash_record_mode(&child->child.record)));
}

static int log_exchange(struct ash_txn *txn, struct mover *mover, const struct timespec *now)
{
	struct place *from = &mover->from, *to = &mover->to;
	int links = (int)is_directory(to) - (int)is_directory(from); /* that `from.parent` gets */
	int result = set_entry(txn, from, to);

	if (!result)
		result = set_entry(txn, to, from);
	if (from->held == to->held)
		links = 0;
	if (!result)
		result = ash_directory_changed(txn, from->held, 0, links, now);
	if (!result && from->held != to->held)
		result = ash_directory_changed(txn, to->held, 0, -links, now);
	if (result)
		return result;
	child_moved(txn, from, to->parent, now);
	child_moved(txn, to, from->parent, now);
	return 0;
}

/* The new name. */
static int log_new_name(struct ash_txn *txn, struct mover *mover)
{
	struct place *from = &mover->from, *to = &mover->to;
	struct ash_tree tree;

	if (to->exists)
		return set_entry(txn, to, from);
	ash_record_tree(mover->volume, &to->held->record, false, &tree);
	return ash_dir_add(txn, &tree, to->name, to->length, from->entry.ino,
			   IFTODT(ash_record_mode(&from->child.record)));
}

static int log_parents(struct ash_txn *txn, struct mover *mover, const struct timespec *now)
{
	struct place *from = &mover->from, *to = &mover->to;
	int directory = is_directory(from), replaced = to->exists, replaced_directory = replaced && is_directory(to);
	int left = mover->whiteout ? 1 : 0;
	int result;

	if (from->held == to->held)
		return ash_directory_changed(txn, from->held, left - replaced, -replaced_directory, now);
	result = ash_directory_changed(txn, from->held, left - 1, -directory, now);
	if (result)
		return result;
	return ash_directory_changed(txn, to->held, 1 - replaced, directory - replaced_directory, now);
}

/* What becomes of the old name. */
static int log_old_name(struct ash_txn *txn, struct mover *mover, const struct timespec *now)
{
	struct place *from = &mover->from;
	struct ash_tree tree;
	int result;

	ash_record_tree(mover->volume, &from->held->record, false, &tree);
	if (!mover->whiteout)
		return ash_dir_remove(txn, &tree, &from->entry); /* keys of entries never change */
	result = ash_dir_set(txn, &tree, &from->entry, mover->whiteout->ino, DT_CHR);
	mover->whiteout->now = *now;
	return result ? result : ash_maker_log(txn, mover->whiteout, from->held);
}

static int log_move(struct ash_txn *txn, struct mover *mover, const struct timespec *now)
{
	struct place *from = &mover->from, *to = &mover->to;
	int result = log_new_name(txn, mover);

	if (!result)
		result = log_old_name(txn, mover, now);
	if (!result)
		result = log_parents(txn, mover, now);
	if (result)
		return result;
	child_moved(txn, from, to->parent, now);
	return to->exists ? ash_drop_link(txn, &to->child, now, mover->may_free, &mover->last) : 0;
}

/* ---- One attempt ---- */

/* 1: the two names are one inode, nothing to do. */
static int log_rename(struct ash_txn *txn, struct mover *mover)
{
	struct timespec now = ash_now();
	int result = lock_parents(mover);

	if (!result)
		result = check_parents(mover);
	if (!result)
		result = check_entries(mover);
	if (result)
		return result;
	if (mover->to.exists && mover->from.entry.ino == mover->to.entry.ino)
		return 1;
	result = lock_children(mover);
	if (!result)
		result = check_children(mover);
	if (result)
		return result;
	return mover->flags & RENAME_EXCHANGE ? log_exchange(txn, mover, &now) : log_move(txn, mover, &now);
}

/* After the commit, before the locks drop. */
static void renamed(struct mover *mover)
{
	struct place *from = &mover->from, *to = &mover->to;

	ash_icore_raise(from->icore, mover->lsn, true);
	ash_icore_raise(to->icore, mover->lsn, true);
	ash_icore_raise(from->child.icore, mover->lsn, true);
	if (to->exists && mover->flags & RENAME_EXCHANGE)
		ash_icore_raise(to->child.icore, mover->lsn, true);
	else if (to->exists)
		ash_link_dropped(mover->volume, &to->child, mover->lsn, &mover->last);
	if (mover->whiteout)
		ash_maker_publish(mover->whiteout, mover->lsn);
	mover->sync_flags = ash_record_flags(&from->held->record) | ash_record_flags(&to->held->record);
}

static int rename_prepared(struct mover *mover)
{
	struct ash_txn *txn;
	int result = ash_txn_begin(mover->volume, ASH_TXN_RENAME, &txn);

	if (result)
		return result;
	mover->last = (struct ash_last_name){ 0 };
	mover->from.exists = mover->to.exists = false;
	result = log_rename(txn, mover);
	if (result) {
		ash_txn_abort(txn);
	} else {
		mover->lsn = ash_txn_commit(txn);
		renamed(mover);
	}
	unlock_all(mover);
	return result;
}

static int rename_once(struct mover *mover)
{
	struct ash_maker *whiteout = mover->whiteout;
	int result = whiteout ? ash_maker_prepare(whiteout, mover->from.parent) : 0;

	if (result)
		return result;
	result = rename_prepared(mover);
	if (whiteout && result)
		ash_maker_give_back(whiteout);
	else if (whiteout)
		ash_icore_put(mover->volume, whiteout->icore);
	return result;
}

/* Rename lock held when the parents differ, and when two folders are to be locked. */
static int rename_placed(struct mover *mover)
{
	struct ash_volume *volume = mover->volume;
	int result = 0;

	if (mover->from.icore != mover->to.icore) {
		mover->from.ancestors.count = mover->to.ancestors.count = 0;
		result = ancestors_read(volume, mover->from.parent, &mover->from.ancestors);
		if (!result)
			result = ancestors_read(volume, mover->to.parent, &mover->to.ancestors);
	}
	return result ? result : rename_once(mover);
}

static int rename_locked(struct mover *mover)
{
	struct ash_volume *volume = mover->volume;
	bool alone = mover->siblings || mover->from.icore != mover->to.icore;
	int result;

	if (alone)
		ash_lock_long(volume, &volume->rename_lock);
	result = rename_placed(mover);
	if (alone)
		pthread_mutex_unlock(&volume->rename_lock);
	return result;
}

/* With what has to be done between attempts, nothing held. */
static int rename_attempts(struct mover *mover)
{
	bool reclaimed = false;
	int result;

	for (;;) {
		result = rename_locked(mover);
		if (result == -EAGAIN) { /* once for an inode: see check_children() */
			result = ash_write_back(mover->volume, mover->write_back);
			if (result && result != -ESTALE) /* stale: its name is gone, which the next attempt sees */
				return result;
		} else if (result == -EDEADLK && !mover->siblings) {
			mover->siblings = true;
		} else if (result == -ENOSPC && !reclaimed && ash_reclaim_space(mover->volume)) {
			reclaimed = true;
		} else if (result == -EUCLEAN && mover->last.freed) {
			mover->may_free = false; /* its blocks cannot be freed; the name can go all the same */
		} else {
			return result;
		}
	}
}

static int rename_icores(struct mover *mover)
{
	struct ash_volume *volume = mover->volume;
	int result = rename_attempts(mover);

	free(mover->from.ancestors.list);
	free(mover->to.ancestors.list);
	if (result)
		return result < 0 ? result : 0;
	if (mover->last.finish)
		(void)ash_orphan_finish(volume, mover->to.entry.ino); /* logged; the name is gone anyhow */
	return ash_finish_sync(volume, mover->lsn, mover->sync_flags);
}

static int check_names(struct mover *mover, const char *name, const char *new_name)
{
	int length = ash_name_length(name), new_length = ash_name_length(new_name);

	if (length < 0 || new_length < 0)
		return length < 0 ? length : new_length;
	if (ash_name_is_dots(name) || ash_name_is_dots(new_name))
		return mover->flags & RENAME_NOREPLACE && !ash_name_is_dots(name) ? -EEXIST : -EBUSY;
	mover->from.name = name;
	mover->from.length = (size_t)length;
	mover->to.name = new_name;
	mover->to.length = (size_t)new_length;
	return 0;
}

static int rename_between(struct mover *mover, uint64_t parent, const char *name, uint64_t new_parent,
			  const char *new_name)
{
	struct ash_volume *volume = mover->volume;
	int result = check_names(mover, name, new_name);

	if (!result)
		result = ash_icore_get(volume, parent, &mover->from.icore);
	if (result)
		return result;
	mover->from.parent = parent;
	mover->to.parent = new_parent;
	result = ash_icore_get(volume, new_parent, &mover->to.icore);
	if (!result) {
		if (ASH_PLANTED(ASH_PLANT_RENAME_SPLIT))
			(void)ash_unlink(volume, new_parent, new_name, NULL);
		result = rename_icores(mover);
		ash_icore_put(volume, mover->to.icore);
	}
	ash_icore_put(volume, mover->from.icore);
	return result;
}

int ash_rename(struct ash_volume *volume, uint64_t parent, const char *name, uint64_t new_parent, const char *new_name,
	       unsigned flags)
{
	struct mover mover = { .volume = volume, .flags = flags, .may_free = true };

	if (flags & ~(RENAME_NOREPLACE | RENAME_EXCHANGE) || flags == (RENAME_NOREPLACE | RENAME_EXCHANGE))
		return -EINVAL;
	return rename_between(&mover, parent, name, new_parent, new_name);
}

int ash_rename_whiteout(struct ash_volume *volume, uint64_t parent, const char *name, uint64_t new_parent,
			const char *new_name, unsigned flags, uint32_t uid, uint32_t gid)
{
	const struct ash_create device = { .mode = S_IFCHR, .uid = uid, .gid = gid };
	struct ash_maker whiteout = { .volume = volume, .create = &device, .name = name };
	struct mover mover = { .volume = volume, .flags = flags, .may_free = true, .whiteout = &whiteout };

	if (flags & ~RENAME_NOREPLACE)
		return -EINVAL;
	return rename_between(&mover, parent, name, new_parent, new_name);
}
