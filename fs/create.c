/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Making inodes: ash_create(), ash_tmpfile(), and for rename.c what stands for a name that was renamed away.
 *
 * Concept: what can wait for the device or for space comes first, without a lock: a number is claimed, a lookup count
 * taken, the target of a long symbolic link written to a claimed block (I2). Then one transaction writes
 * the name, the record and what the parent hands down: group of a sgid directory, chattr flags, default ACL.
 *
 * Rules: until the transaction is committed the new in-core inode is FRESH (icache.c): nobody else can get it, so its
 * record needs no lock. A failure gives back every claim (I9).
 *
 * Locks: the parent's: exclusive for a name, shared for a file without one.
 */
#include "map.h"
#include "names.h"

#include <ashlar/blockdev.h>
#include <dirent.h>

#define SUBDIRECTORIES_MAX 0xfffffffeu

static int check_create(const struct ash_create *create)
{
	size_t length;

	if (!ash_mode_type_known(create->mode))
		return -EINVAL;
	if (!S_ISLNK(create->mode))
		return 0;
	if (!create->target || !create->target[0])
		return -ENOENT;
	length = strnlen(create->target, ASH_BLOCK_SIZE);
	return length < ASH_BLOCK_SIZE ? 0 : -ENAMETOOLONG;
}

static bool has_long_target(const struct ash_create *create)
{
	return S_ISLNK(create->mode) && strlen(create->target) > ASH_DATA_FORK_SIZE;
}

/* Write a long target to a claimed block: data before pointer (I2). */
static int write_target(struct ash_maker *maker)
{
	struct ash_volume *volume = maker->volume;
	struct ash_block_id id;
	uint32_t offset;
	char *block;
	int result = ash_itable_locate(volume, maker->ino, &id, &offset);

	if (!result)
		result = ash_claim(volume, id.block, 1, 0, &maker->target);
	if (result)
		return result;
	block = bdev_buffer_alloc(ASH_BLOCK_SIZE);
	if (!block)
		return -ENOMEM;
	memcpy(block, maker->create->target, strlen(maker->create->target));
	ash_wait_begin(volume);
	result = bdev_write(volume->dev, block, ASH_BLOCK_SIZE, maker->target.start << ASH_BLOCK_SHIFT, 0);
	ash_wait_end(volume);
	bdev_buffer_free(block, ASH_BLOCK_SIZE);
	if (!result)
		ash_log_note_data(volume);
	return result;
}

static int prepare(struct ash_maker *maker, uint64_t near)
{
	struct ash_volume *volume = maker->volume;
	int result = ash_inode_claim(volume, near, &maker->ino);

	if (result)
		return result;
	result = ash_icore_new(volume, maker->ino, &maker->icore);
	if (!result && has_long_target(maker->create))
		result = write_target(maker);
	if (!result && maker->looked_up) {
		result = ash_lookup_take(volume, maker->ino, 1);
		maker->counted = !result;
	}
	return result;
}

int ash_maker_prepare(struct ash_maker *maker, uint64_t near)
{
	int result;

	maker->ino = 0;
	maker->icore = NULL;
	maker->target.count = 0;
	maker->counted = false;
	result = prepare(maker, near);
	if (result)
		ash_maker_give_back(maker);
	return result;
}

void ash_maker_give_back(struct ash_maker *maker)
{
	struct ash_volume *volume = maker->volume;

	if (!maker->ino)
		return;
	if (maker->counted)
		ash_lookup_drop(volume, maker->ino, 1);
	if (maker->target.count)
		ash_unclaim(volume, maker->target, 0);
	if (maker->icore) {
		ash_icore_set_deleted(volume, maker->icore);
		ash_icore_put(volume, maker->icore);
	}
	ash_inode_unclaim(volume, maker->ino);
}

/* What ext4 hands down, so that tools find it: immutable and append-only are not among it. */
static uint32_t inherited_flags(uint32_t parent_flags, uint32_t mode)
{
	uint32_t flags = ASH_INODE_NODUMP | ASH_INODE_NOATIME;

	if (S_ISREG(mode) || S_ISDIR(mode))
		flags |= ASH_INODE_SYNC;
	return parent_flags & flags;
}

static void fill_record(struct ash_maker *maker, const struct ash_held *parent, uint32_t mode)
{
	const struct ash_create *create = maker->create;
	struct ash_inode *record = &maker->record;
	bool sgid = ash_record_mode(&parent->record) & S_ISGID;
	ash_le64 now = ash_put64((uint64_t)maker->now.tv_sec);
	ash_le32 now_ns = ash_put32((uint32_t)maker->now.tv_nsec);

	memset(record, 0, ASH_INODE_HEADER_SIZE);
	if (sgid && S_ISDIR(mode))
		mode |= S_ISGID;
	record->magic = ash_put32(ASH_MAGIC_INODE);
	record->ino = ash_put64(maker->ino);
	record->generation = ash_put64(ash_new_generation(maker->volume));
	record->mode = ash_put32(mode);
	record->flags = ash_put32(inherited_flags(ash_record_flags(&parent->record), mode));
	record->nlink = ash_put32(S_ISDIR(mode) ? 2 : maker->name ? 1 : 0);
	record->uid = ash_put32(create->uid);
	record->gid = sgid ? parent->record.inode->gid : ash_put32(create->gid);
	record->atime = record->mtime = record->ctime = record->btime = now;
	record->atime_ns = record->mtime_ns = record->ctime_ns = record->btime_ns = now_ns;
	if (S_ISCHR(mode) || S_ISBLK(mode))
		record->rdev = ash_put64(create->rdev);
	if (S_ISDIR(mode))
		record->parent = ash_put64(parent->icore->ino);
	if (!S_ISLNK(mode))
		return;
	record->size = ash_put64(strlen(create->target));
	if (maker->target.count)
		return;
	record->data_kind = ASH_FORK_INLINE;
	memset(record->data, 0, sizeof(record->data));
	memcpy(record->data, create->target, strlen(create->target));
}

static int map_target(struct ash_txn *txn, struct ash_maker *maker, struct ash_record *record)
{
	struct ash_mapping mapping = { 0, 1, maker->target.start, false };
	struct ash_inode header;
	struct ash_tree tree;
	int result = ash_alloc_log(txn, maker->target);

	if (result)
		return result;
	ash_record_tree(maker->volume, record, false, &tree);
	result = ash_map_insert(txn, &tree, &mapping);
	if (result)
		return result;
	ash_record_header(record, &header);
	header.blocks = ash_put64(ash_get64(header.blocks) + 1);
	ash_record_set_header(txn, record, &header);
	return 0;
}

struct inherited {
	uint8_t access[ASH_ACL_SIZE_MAX], defaults[ASH_ACL_SIZE_MAX];
	int size;
	bool store_access;
};

/* The parent's default ACL takes the place of the umask. */
static int inherit(struct ash_maker *maker, const struct ash_held *parent, struct inherited *acl, uint32_t *mode)
{
	acl->size = 0;
	if (S_ISLNK(*mode)) {
		*mode = S_IFLNK | 0777;
		return 0;
	}
	if (parent->record.inode->attr_kind != ASH_FORK_EMPTY)
		acl->size = ash_acl_get(maker->volume, &parent->record, ASH_ACL_DEFAULT, acl->defaults);
	if (acl->size < 0)
		return acl->size;
	if (!acl->size) {
		*mode &= ~(maker->create->umask & 0777u);
		return 0;
	}
	memcpy(acl->access, acl->defaults, (size_t)acl->size);
	acl->store_access = ash_acl_inherit(acl->access, (size_t)acl->size, mode);
	return 0;
}

/* Everything beyond the record itself. */
static int log_extras(struct ash_txn *txn, struct ash_maker *maker, const struct inherited *acl, uint32_t mode)
{
	struct ash_record record;
	int result = ash_record_get(maker->volume, maker->ino, &record);

	if (result)
		return result;
	if (maker->target.count)
		result = map_target(txn, maker, &record);
	if (!result && acl->size && acl->store_access)
		result = ash_acl_set(txn, &record, ASH_ACL_ACCESS, acl->access, (size_t)acl->size);
	if (!result && acl->size && S_ISDIR(mode))
		result = ash_acl_set(txn, &record, ASH_ACL_DEFAULT, acl->defaults, (size_t)acl->size);
	ash_record_header(&record, &maker->record);
	ash_record_put(maker->volume, &record);
	return result;
}

int ash_maker_log(struct ash_txn *txn, struct ash_maker *maker, const struct ash_held *parent)
{
	uint32_t mode = maker->create->mode & (S_IFMT | 07777u);
	struct inherited acl;
	int result = inherit(maker, parent, &acl, &mode);

	if (result)
		return result;
	fill_record(maker, parent, mode);
	result = ash_inode_log_new(txn, maker->ino, &maker->record);
	if (!result && (acl.size || maker->target.count))
		result = log_extras(txn, maker, &acl, mode);
	return result;
}

static int log_name(struct ash_txn *txn, struct ash_maker *maker, struct ash_held *parent)
{
	bool directory = S_ISDIR(maker->create->mode);
	struct ash_tree tree;
	int result;

	if (directory && ash_record_nlink(&parent->record) >= SUBDIRECTORIES_MAX)
		return -EMLINK;
	ash_record_tree(maker->volume, &parent->record, false, &tree);
	result = ash_dir_add(txn, &tree, maker->name, maker->name_length, maker->ino, IFTODT(maker->create->mode));
	return result ? result : ash_directory_changed(txn, parent, 1, directory, &maker->now);
}

static int log_create(struct ash_txn *txn, struct ash_maker *maker, struct ash_held *parent)
{
	int result = ash_check_may_add(parent);

	maker->now = ash_now();
	if (!result)
		result = maker->name ? log_name(txn, maker, parent) : ash_txn_orphan_room(txn);
	if (!result)
		result = ash_maker_log(txn, maker, parent);
	if (!result && !maker->name)
		ash_orphan_add(txn, maker->ino);
	return result;
}

void ash_maker_publish(struct ash_maker *maker, uint64_t lsn)
{
	maker->lsn = lsn;
	ash_icore_publish(maker->volume, maker->icore, ash_get64(maker->record.generation), lsn);
}

/* Prepared: one transaction. */
static int create_logged(struct ash_maker *maker, struct ash_icore *parent_icore)
{
	struct ash_volume *volume = maker->volume;
	struct ash_held parent = { 0 };
	struct ash_txn *txn;
	int result = ash_txn_begin(volume, ASH_TXN_NAME, &txn);

	if (result)
		return result;
	result = ash_hold_icore(volume, parent_icore, maker->name, &parent);
	if (!result)
		result = log_create(txn, maker, &parent);
	if (result) {
		ash_txn_abort(txn);
		ash_unhold(volume, &parent);
		return result;
	}
	uint64_t lsn = ash_txn_commit(txn);
	if (maker->name)
		ash_icore_raise(parent_icore, lsn, true);
	else
		ash_lookup_mark(volume, maker->ino, ASH_LOOKUP_UNLINKED | ASH_LOOKUP_TMPFILE);
	ash_maker_publish(maker, lsn);
	maker->parent_flags = ash_record_flags(&parent.record);
	ash_unhold(volume, &parent);
	ash_icore_put(volume, maker->icore);
	return 0;
}

static int create_once(struct ash_maker *maker, uint64_t parent)
{
	struct ash_icore *parent_icore;
	int result = ash_icore_get(maker->volume, parent, &parent_icore);

	if (result)
		return result;
	result = ash_maker_prepare(maker, parent);
	if (!result) {
		result = create_logged(maker, parent_icore);
		if (result)
			ash_maker_give_back(maker);
	}
	ash_icore_put(maker->volume, parent_icore);
	return result;
}

static int create(struct ash_maker *maker, uint64_t parent, struct ash_attr *attr)
{
	int result = create_once(maker, parent);

	if (result == -ENOSPC && ash_reclaim_space(maker->volume))
		result = create_once(maker, parent);
	if (result)
		return result;
	ash_inode_attr(&maker->record, attr);
	result = ash_finish_sync(maker->volume, maker->lsn, maker->parent_flags);
	if (result)
		ash_forget(maker->volume, maker->ino, 1);
	return result;
}

int ash_create(struct ash_volume *volume, uint64_t parent, const char *name, const struct ash_create *options,
	       struct ash_attr *attr)
{
	struct ash_maker maker = { .volume = volume, .create = options, .name = name, .looked_up = true };
	int length = ash_name_length(name);
	int result = length < 0 ? length : check_create(options);

	if (result)
		return result;
	if (ash_name_is_dots(name))
		return -EEXIST;
	maker.name_length = (size_t)length;
	return create(&maker, parent, attr);
}

int ash_tmpfile(struct ash_volume *volume, uint64_t parent, const struct ash_create *options, struct ash_attr *attr)
{
	struct ash_maker maker = { .volume = volume, .create = options, .looked_up = true };

	return S_ISREG(options->mode) ? create(&maker, parent, attr) : -EINVAL;
}
