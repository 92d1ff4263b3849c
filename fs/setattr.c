/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Reading and changing attributes.
 *
 * Concept: one function, apply(), makes all changes of a record within a transaction. A change of size is a
 * transaction of file data code (file.h), which calls apply() inside it, so that size, times, suid bits and capability
 * change together.
 *
 * Rules: a chmod keeps the access ACL in step; a chown, truncation or explicit request drops security.capability and,
 * as on Linux, suid and (where the group may execute) sgid of what is not a directory. Immutable inodes take nothing
 * but flags, append-only ones besides that only "now" as a time. The first i or a flag of a volume sets a feature bit
 * in the superblock in the same transaction, so that the next mount answers OPEN.
 *
 * Locks: the inode's, exclusive; then compat_lock (itable.c) for that bit.
 */
#include "file_edit.h"
#include "names.h"
#include "wbuf.h"

#define CAPABILITY "security.capability"
#define SET_OWNER (ASH_SET_UID | ASH_SET_GID)
#define SET_EXPLICIT_TIMES (ASH_SET_ATIME | ASH_SET_MTIME | ASH_SET_CTIME)
#define SET_TIMES (SET_EXPLICIT_TIMES | ASH_SET_ATIME_NOW | ASH_SET_MTIME_NOW)
#define SET_MTIME (ASH_SET_MTIME | ASH_SET_MTIME_NOW)
#define FROZEN (ASH_INODE_IMMUTABLE | ASH_INODE_APPEND)

struct change {
	struct ash_volume *volume;
	const struct ash_setattr *want;
	struct timespec now;
	bool compat_locked;
	uint32_t flags; /* of the inode, afterwards */
};

int ash_getattr(struct ash_volume *volume, uint64_t ino, struct ash_attr *attr)
{
	return ash_inode_read(volume, ino, attr, NULL);
}

/* ---- Checks ---- */

static bool is_valid_time(const struct timespec *time)
{
	return time->tv_nsec >= 0 && time->tv_nsec < 1000000000;
}

static int check_request(const struct ash_setattr *want)
{
	if ((want->valid & ASH_SET_ATIME && !is_valid_time(&want->atime)) ||
	    (want->valid & ASH_SET_MTIME && !is_valid_time(&want->mtime)) ||
	    (want->valid & ASH_SET_CTIME && !is_valid_time(&want->ctime)))
		return -EINVAL;
	if (want->valid & ASH_SET_FLAGS) {
		if (want->valid & ASH_SET_SIZE)
			return -EINVAL;
		if (want->flags & ~ASH_INODE_USER_FLAGS)
			return -EOPNOTSUPP;
	}
	return want->valid & ASH_SET_SIZE && want->size > INT64_MAX ? -EFBIG : 0;
}

/*
 * utimensat(2) with "now" for both: the kernel, which owns mtime and ctime of regular files under the writeback cache,
 * sends its own clock for these two, equal.
 */
static bool is_touch(const struct ash_setattr *want)
{
	return want->valid == (ASH_SET_ATIME_NOW | ASH_SET_MTIME | ASH_SET_CTIME) &&
	       want->mtime.tv_sec == want->ctime.tv_sec && want->mtime.tv_nsec == want->ctime.tv_nsec;
}

/* What an append-only inode takes: nothing of the caller's choice. A ctime alone is a chown that changes nobody. */
static bool is_harmless(const struct ash_setattr *want)
{
	uint32_t harmful = ASH_SET_MODE | SET_OWNER | ASH_SET_SIZE | SET_EXPLICIT_TIMES | ASH_SET_KILL_SUIDGID;

	return !(want->valid & harmful) || want->valid == ASH_SET_CTIME || is_touch(want);
}

static int check_allowed(uint32_t flags, const struct ash_setattr *want)
{
	/* Exactly these two: the kernel writes back the times of a write that was allowed. */
	if (want->valid & ASH_SET_FLAGS || want->valid == (ASH_SET_MTIME | ASH_SET_CTIME))
		return 0;
	if (flags & ASH_INODE_IMMUTABLE && want->valid)
		return -EPERM;
	return flags & ASH_INODE_APPEND && !is_harmless(want) ? -EPERM : 0;
}

/* ---- Changes ---- */

static uint32_t new_mode(const struct ash_setattr *want, uint32_t mode)
{
	if (want->valid & ASH_SET_MODE)
		return (mode & S_IFMT) | (want->mode & 07777u);
	if (!S_ISDIR(mode) && want->valid & (SET_OWNER | ASH_SET_KILL_SUIDGID))
		return ash_mode_without_suidgid(mode, want->valid & ASH_SET_KILL_SGID);
	return mode;
}

static void set_times(struct ash_inode *header, const struct change *change)
{
	const struct ash_setattr *want = change->want;
	const struct timespec *now = &change->now;
	const struct timespec *atime = want->valid & ASH_SET_ATIME ? &want->atime : NULL;
	const struct timespec *mtime = want->valid & ASH_SET_MTIME ? &want->mtime : NULL;

	if (want->valid & ASH_SET_ATIME_NOW)
		atime = now;
	if (want->valid & ASH_SET_MTIME_NOW || (!mtime && want->valid & ASH_SET_SIZE))
		mtime = now;
	if (atime) {
		header->atime = ash_put64((uint64_t)atime->tv_sec);
		header->atime_ns = ash_put32((uint32_t)atime->tv_nsec);
	}
	if (mtime)
		ash_header_set_mtime(header, mtime);
	ash_header_set_ctime(header, want->valid & ASH_SET_CTIME ? &want->ctime : now);
}

/* The access ACL follows a chmod. */
static int change_acl(struct ash_txn *txn, struct change *change, struct ash_record *record, uint32_t mode)
{
	uint8_t blob[ASH_ACL_SIZE_MAX];
	int size = ash_acl_get(change->volume, record, ASH_ACL_ACCESS, blob);

	if (size <= 0)
		return size;
	ash_acl_chmod(blob, (size_t)size, mode);
	return ash_acl_set(txn, record, ASH_ACL_ACCESS, blob, (size_t)size);
}

static int change_attributes(struct ash_txn *txn, struct change *change, struct ash_record *record)
{
	const struct ash_setattr *want = change->want;
	int result = 0;

	if (want->valid & ASH_SET_MODE)
		result = change_acl(txn, change, record, want->mode);
	if (!result && want->valid & (SET_OWNER | ASH_SET_SIZE | ASH_SET_KILL_PRIV) &&
	    !S_ISDIR(ash_record_mode(record)))
		result = ash_attribute_drop(txn, record, CAPABILITY);
	return result;
}

/* The lock is held until the commit: the bytes have one owner (I11). */
static void note_inode_flags(struct ash_txn *txn, struct change *change)
{
	struct ash_volume *volume = change->volume;
	const struct ash_super *super = (const void *)volume->super->data;
	ash_le64 compat;

	pthread_mutex_lock(ash_compat_lock(volume));
	change->compat_locked = true;
	compat = ash_put64(ash_get64(super->compat) | ASH_COMPAT_INODE_FLAGS);
	ash_txn_set(txn, volume->super, offsetof(struct ash_super, compat), &compat, sizeof(compat));
}

static void ended(struct change *change)
{
	if (change->compat_locked)
		pthread_mutex_unlock(ash_compat_lock(change->volume));
	change->compat_locked = false;
}

/* ash_record_change: all but the size itself. */
static int apply(struct ash_txn *txn, struct ash_icore *icore, struct ash_record *record, void *context)
{
	struct change *change = context;
	const struct ash_setattr *want = change->want;
	struct ash_inode header;
	int result = check_allowed(ash_record_flags(record), want);

	(void)icore;
	if (!result && !ash_record_nlink(record) && !ash_lookup_count(change->volume, ash_get64(record->inode->ino)))
		result = -ESTALE;
	if (!result)
		result = change_attributes(txn, change, record);
	if (result)
		return result;
	ash_record_header(record, &header);
	header.mode = ash_put32(new_mode(want, ash_get32(header.mode)));
	if (want->valid & ASH_SET_UID)
		header.uid = ash_put32(want->uid);
	if (want->valid & ASH_SET_GID)
		header.gid = ash_put32(want->gid);
	if (want->valid & ASH_SET_FLAGS)
		header.flags = ash_put32((ash_get32(header.flags) & ~ASH_INODE_USER_FLAGS) | want->flags);
	set_times(&header, change);
	ash_record_set_header(txn, record, &header);
	change->flags = ash_get32(header.flags);
	if (want->valid & ASH_SET_FLAGS && want->flags & FROZEN)
		note_inode_flags(txn, change);
	return 0;
}

/* ---- The call ---- */

static uint32_t transaction_size(uint32_t valid)
{
	uint32_t attributes = ASH_SET_MODE | SET_OWNER | ASH_SET_KILL_PRIV;

	return valid & attributes ? ASH_TXN_NAME : ASH_TXN_SMALL;
}

static int change_record(struct change *change, struct ash_icore *icore, struct ash_attr *attr)
{
	struct ash_volume *volume = change->volume;
	struct ash_held held = { 0 };
	struct ash_txn *txn;
	int result = ash_txn_begin(volume, transaction_size(change->want->valid), &txn);

	if (result)
		return result;
	result = ash_hold_icore(volume, icore, true, &held);
	if (!result)
		result = apply(txn, icore, &held.record, change);
	if (result) {
		ash_txn_abort(txn);
	} else {
		/* fdatasync may leave time stamps behind, nothing else */
		ash_icore_raise(icore, ash_txn_commit(txn), change->want->valid & ~SET_TIMES);
		if (change->want->valid & SET_MTIME)
			ash_wb_forget_times(icore);
		ash_record_attr(&held.record, icore, attr);
	}
	ended(change);
	ash_unhold(volume, &held);
	return result;
}

static int change_size(struct change *change, struct ash_icore *icore, struct ash_attr *attr)
{
	struct ash_volume *volume = change->volume;
	int result = ash_inode_read(volume, icore->ino, attr, NULL);

	if (!result && !S_ISREG(attr->mode))
		result = S_ISDIR(attr->mode) ? -EISDIR : -EINVAL;
	if (!result)
		result = check_allowed(attr->flags, change->want); /* before anything is zeroed or dropped */
	if (!result)
		result = ash_file_set_size(volume, icore, change->want->size, apply, change);
	return result ? result : ash_inode_read(volume, icore->ino, attr, NULL);
}

static int change_once(struct change *change, struct ash_icore *icore, struct ash_attr *attr)
{
	if (change->want->valid & ASH_SET_SIZE)
		return change_size(change, icore, attr);
	return change_record(change, icore, attr);
}

int ash_setattr(struct ash_volume *volume, uint64_t ino, const struct ash_setattr *want, struct ash_attr *attr)
{
	struct change change = { .volume = volume, .want = want, .now = ash_now() };
	struct ash_attr unwanted;
	struct ash_icore *icore;
	int result = check_request(want);

	if (!attr)
		attr = &unwanted;
	if (result)
		return result;
	if (!want->valid)
		return ash_getattr(volume, ino, attr);
	result = ash_check_writable(volume);
	if (!result)
		result = ash_icore_get(volume, ino, &icore);
	if (result)
		return result;
	result = change_once(&change, icore, attr);
	if (result == -ENOSPC && ash_reclaim_space(volume))
		result = change_once(&change, icore, attr);
	if (!result)
		result = ash_finish_sync(volume, atomic_load(&icore->lsn), change.flags);
	ash_icore_put(volume, icore);
	return result;
}
