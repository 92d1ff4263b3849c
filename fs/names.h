/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What the files of the namespace layer share: icache.c, lookup_count.c, itable.c, inode_record.c, namespace.c,
 * create.c, remove.c, rename.c, readdir.c, orphan.c, setattr.c, acl.c, xattr_api.c, grow.c, scrub*.c. Nothing else
 * includes this.
 */
#ifndef FS_NAMES_H
#define FS_NAMES_H

#include "dir.h"
#include "file.h"
#include "inode.h"
#include "volume.h"
#include "xattr.h"

#define ASH_INODE_HEADER_SIZE offsetof(struct ash_inode, data)

/* ---- icache.c ---- */

/* As ash_icore_get(), and also for an orphan that nobody looks up any more (to finish it). */
int ash_icore_get_orphan(struct ash_volume *volume, uint64_t ino, struct ash_icore **out);
/*
 * The in-core inode of a claimed number, before its transaction begins. Until it is published every
 * ash_icore_get() of the number gives -ESTALE, so its record is the creator's without a lock. -ENOMEM.
 */
int ash_icore_new(struct ash_volume *volume, uint64_t ino, struct ash_icore **out);
/* The record is committed (before the parent's lock drops): let others have it. */
void ash_icore_publish(struct ash_volume *volume, struct ash_icore *icore, uint64_t generation, uint64_t lsn);
/* The record was freed, or the new inode was given up. Exclusive lock held, or not published. */
void ash_icore_set_deleted(struct ash_volume *volume, struct ash_icore *icore);
/* A record ending at `lsn` changed the inode: what ash_icore_touch() does at commit. */
void ash_icore_raise(struct ash_icore *icore, uint64_t lsn, bool data);
/* Is any in-core inode of this number referenced? */
bool ash_icore_present(struct ash_volume *volume, uint64_t ino);
/*
 * Run `look` on the in-core inode if nobody holds it and it has nothing buffered (or if there is none): then
 * nobody can change the record meanwhile. False when somebody holds it: take the lock instead.
 */
bool ash_icore_if_idle(struct ash_volume *volume, uint64_t ino, void (*look)(void *context), void *context);
struct ash_lookups *ash_icache_lookups(struct ash_volume *volume);

/* ---- lookup_count.c ---- */

/* Marks that live beside the count, as long as it is not 0. */
#define ASH_LOOKUP_UNLINKED 1u /* nlink is 0: delete when the count gets 0 */
#define ASH_LOOKUP_TMPFILE 2u  /* from ash_tmpfile() and never linked: may be linked */

int ash_lookups_open(struct ash_lookups **out);
void ash_lookups_close(struct ash_lookups *lookups);
/* The count of `ino` will be asked for soon: fetch where it is. No lock needed. */
void ash_lookup_prefetch(struct ash_volume *volume, uint64_t ino);
/* Add to the count, room included: 0 or -ENOMEM. */
int ash_lookup_take(struct ash_volume *volume, uint64_t ino, uint64_t count);
/* Take off; the count left. *marks: as they were before. */
uint64_t ash_lookup_release(struct ash_volume *volume, uint64_t ino, uint64_t count, unsigned *marks);
/* Replace the marks. False when the count is 0: nothing was marked. */
bool ash_lookup_mark(struct ash_volume *volume, uint64_t ino, unsigned marks);
unsigned ash_lookup_marks(struct ash_volume *volume, uint64_t ino);

/* ---- itable.c ---- */

/* The record will be read soon: fetch it into the processor's cache if it is in memory (cache.h). */
void ash_itable_prefetch(struct ash_volume *volume, uint64_t ino);

/* The bitmap block of run `number`; false beyond the table. */
bool ash_itable_bitmap(struct ash_volume *volume, uint64_t number, struct ash_block_id *id);
/* Owns the record and the tree of inode 0, and ash_super.inode_runs. */
pthread_mutex_t *ash_itable_lock(struct ash_volume *volume);
/* Owns ash_super.compat; held from the change until commit. A leaf but for the engine's locks. */
pthread_mutex_t *ash_compat_lock(struct ash_volume *volume);

/* ---- inode_record.c ---- */

/* A copy of the header, to be changed and set back. Take it after tree calls: they change `blocks` in place. */
static inline void ash_record_header(const struct ash_record *record, struct ash_inode *header)
{
	memcpy(header, record->inode, ASH_INODE_HEADER_SIZE);
}
static inline void ash_header_set_mtime(struct ash_inode *header, const struct timespec *now)
{
	header->mtime = ash_put64((uint64_t)now->tv_sec);
	header->mtime_ns = ash_put32((uint32_t)now->tv_nsec);
}
static inline void ash_header_set_ctime(struct ash_inode *header, const struct timespec *now)
{
	header->ctime = ash_put64((uint64_t)now->tv_sec);
	header->ctime_ns = ash_put32((uint32_t)now->tv_nsec);
}
static inline uint32_t ash_record_mode(const struct ash_record *record)
{
	return ash_get32(record->inode->mode);
}
static inline uint32_t ash_record_flags(const struct ash_record *record)
{
	return ash_get32(record->inode->flags);
}
static inline uint32_t ash_record_nlink(const struct ash_record *record)
{
	return ash_get32(record->inode->nlink);
}

/* Attributes of a record alone, buffered data not included. Looks at the header only. */
void ash_inode_attr(const struct ash_inode *inode, struct ash_attr *out);
/* Attributes of an inode that the caller holds no lock of. `parent` may be NULL. */
int ash_inode_read(struct ash_volume *volume, uint64_t ino, struct ash_attr *attr, uint64_t *parent);
/* The same for a caller that holds a directory's lock: -EBUSY when it would have to wait for that of another directory. */
int ash_inode_try_read(struct ash_volume *volume, uint64_t ino, struct ash_attr *attr);
/*
 * Is it a directory, and which is its parent (of no use for others), without its lock. Of one whose name the caller's lock
 * keeps where it is both stay. -ESTALE, -EUCLEAN.
 */
int ash_inode_parent(struct ash_volume *volume, uint64_t ino, bool *directory, uint64_t *parent);

/* ---- A locked inode: namespace.c and others ---- */

struct ash_held {
	struct ash_icore *icore; /* NULL: nothing is held */
	struct ash_record record;
};
/* Lock and look at the record. On failure nothing is held. */
int ash_hold(struct ash_volume *volume, uint64_t ino, bool exclusive, struct ash_held *held);
/* The same for an in-core inode that the caller already references ; its reference stays the caller's. */
int ash_hold_icore(struct ash_volume *volume, struct ash_icore *icore, bool exclusive, struct ash_held *held);
/* The same, shared, without waiting: -EBUSY. */
int ash_try_hold_icore(struct ash_volume *volume, struct ash_icore *icore, struct ash_held *held);
/* Unlock; the reference stays the caller's. Harmless on what is not held. */
void ash_unhold(struct ash_volume *volume, struct ash_held *held);
/* Unlock and put; harmless on what is not held. */
void ash_release(struct ash_volume *volume, struct ash_held *held);
/*
 * A folder or link was read, and ash_atime_due() said so under its lock, which is dropped by now: set the access time, in
 * a transaction of its own. A time that cannot be noted is no error of the read.
 */
void ash_note_access(struct ash_volume *volume, struct ash_icore *icore);
/*
 * Lock, exclusively, what a name in `parent` stands for, whose exclusive lock is held. -EUCLEAN when that is free, or a
 * directory with another parent: it is not waited for, since it may lie above.
 */
int ash_hold_child(struct ash_volume *volume, const struct ash_held *parent, uint64_t ino, struct ash_held *child);
/* -EINVAL, -ENAMETOOLONG or the length. "." and ".." are names here. */
int ash_name_length(const char *name);
bool ash_name_is_dots(const char *name);
/* A directory that is alive: 0, -ENOTDIR, -ENOENT. */
int ash_check_directory(const struct ash_held *held);
/* May names be added to it? Also -EPERM; an append-only directory takes new names. */
int ash_check_may_add(const struct ash_held *parent);
/*
 * Is nothing in it? 0, -ENOTEMPTY; -EUCLEAN when its record counts no entries and there are some. A sound directory costs no
 * look at its tree.
 */
int ash_check_empty(struct ash_volume *volume, const struct ash_held *held);
/*
 * Entry count and links of a directory, which lose or gain so many, mtime and ctime now. After the change of the tree.
 * -EUCLEAN when they cannot have been right.
 */
int ash_directory_changed(struct ash_txn *txn, struct ash_held *parent, int entries, int links,
			  const struct timespec *now);
/* The operation is committed: durable too, if the options or the S flag of one of the inodes ask for it. */
int ash_finish_sync(struct ash_volume *volume, uint64_t lsn, uint32_t flags);

/* ---- A new inode: create.c, also for rename.c ---- */

struct ash_maker {
	struct ash_volume *volume;
	const struct ash_create *create;
	const char *name; /* NULL: without a name */
	size_t name_length;
	bool looked_up;           /* who asks for it gets a lookup count of 1 */
	bool counted;             /* it is taken */
	uint64_t ino;             /* claimed */
	struct ash_icore *icore;  /* fresh */
	struct ash_extent target; /* of a long symbolic link: claimed and written; count 0: none */
	struct ash_inode record;  /* header, and the data fork if there is an inline target */
	struct timespec now;
	uint64_t lsn;
	uint32_t parent_flags;
};
/* What is done without locks and without a transaction. On failure there is nothing to give back. */
int ash_maker_prepare(struct ash_maker *maker, uint64_t near);
/* Everything but the name. A lock of the parent is held. */
int ash_maker_log(struct ash_txn *txn, struct ash_maker *maker, const struct ash_held *parent);
/* Committed, the parent's lock still held: others may have it now. The reference to `icore` is still to be put. */
void ash_maker_publish(struct ash_maker *maker, uint64_t lsn);
/* Prepared, and not published. */
void ash_maker_give_back(struct ash_maker *maker);

/* ---- Losing a name: remove.c, also for rename.c ---- */

/* What becomes of an inode that lost its last name. */
struct ash_last_name {
	bool gone;   /* nlink got 0 */
	bool freed;  /* the record was freed in the same transaction */
	bool finish; /* nobody looks it up: call ash_orphan_finish() without locks */
};
/* Take one link off `held` (all of a directory's). Exclusive lock. `may_free`: small inodes go at once. */
int ash_drop_link(struct ash_txn *txn, struct ash_held *held, const struct timespec *now, bool may_free,
		  struct ash_last_name *last);
/* After the commit, before the lock drops. */
void ash_link_dropped(struct ash_volume *volume, struct ash_held *held, uint64_t lsn, struct ash_last_name *last);
/* ---- orphan.c ---- */

/* Is the inode small enough to be freed within the transaction that took its last name? */
bool ash_orphan_is_small(const struct ash_record *record);
/* Free forks and record of such an inode. Exclusive lock; ash_wb_drop() is still to be done after the commit. */
int ash_orphan_free_now(struct ash_txn *txn, struct ash_held *held);

/* ---- acl.c ---- */

#define ASH_ACL_ACCESS "system.posix_acl_access"
#define ASH_ACL_DEFAULT "system.posix_acl_default"
/* ACLs always fit a tree record, so that no ACL change ever needs data blocks: 63 entries. */
#define ASH_ACL_SIZE_MAX ASH_XATTR_INLINE_MAX

/* 0 or -EINVAL, -EOPNOTSUPP (version), -E2BIG. Size 0 and the header alone are valid: no ACL. */
int ash_acl_check(const void *blob, size_t size);
bool ash_acl_is_empty(size_t size);
/* chmod: the entries of an access ACL follow `mode`. */
void ash_acl_chmod(void *blob, size_t size, uint32_t mode);
/* The permission bits that an access ACL gives; *equivalent: it says nothing that the bits do not. */
uint32_t ash_acl_mode(const void *blob, size_t size, uint32_t mode, bool *equivalent);
/*
 * The access ACL that a new inode gets from a default ACL, in place; *mode is cut down as well. True: it must be
 * stored.
 */
bool ash_acl_inherit(void *blob, size_t size, uint32_t *mode);
/* The stored ACL: its size, 0 when there is none, negative errno. */
int ash_acl_get(struct ash_volume *volume, const struct ash_record *record, const char *name,
		uint8_t blob[ASH_ACL_SIZE_MAX]);
int ash_acl_set(struct ash_txn *txn, struct ash_record *record, const char *name, const void *blob, size_t size);
/* Drop an attribute if it is there. */
int ash_attribute_drop(struct ash_txn *txn, struct ash_record *record, const char *name);

#endif
