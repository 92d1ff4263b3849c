/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Extended attributes, the public calls: namespaces, POSIX ACLs, times; storing them is xattr.c.
 *
 * Concept: setting is prepare (a long value goes to claimed blocks, I2) - begin - lock - set - commit. An access ACL
 * changes the mode in the same transaction and is not stored when the mode says as much.
 *
 * Locks: the inode's: shared to read, exclusive to change.
 */
#include "names.h"

#include <sys/xattr.h>

enum kind { KIND_PLAIN, KIND_ACL_ACCESS, KIND_ACL_DEFAULT };

struct setter {
	struct ash_volume *volume;
	const char *name;
	enum kind kind;
	const void *value; /* NULL: remove */
	size_t size;
	int flags; /* XATTR_* */
	bool kill_sgid;
	struct ash_xattr_prepared prepared;
};

/* 0: not of this class; 1: a name of it; -EINVAL: the class alone, as the kernel's xattr_resolve_name() says. */
static int in_class(const char *name, const char *prefix)
{
	size_t length = strlen(prefix);

	if (strncmp(name, prefix, length))
		return 0;
	return name[length] ? 1 : -EINVAL;
}

static int plain_name(const char *name)
{
	static const char *const classes[] = { "user.", "trusted.", "security." };

	for (size_t i = 0; i < sizeof(classes) / sizeof(classes[0]); i++) {
		int found = in_class(name, classes[i]);

		if (found)
			return found < 0 ? found : 0;
	}
	return -EOPNOTSUPP;
}

static int classify(const char *name, enum kind *kind)
{
	size_t length = strnlen(name, ASH_NAME_MAX + 1);

	if (!length || length > ASH_NAME_MAX)
		return -ERANGE;
	*kind = KIND_PLAIN;
	if (!strcmp(name, ASH_ACL_ACCESS))
		*kind = KIND_ACL_ACCESS;
	else if (!strcmp(name, ASH_ACL_DEFAULT))
		*kind = KIND_ACL_DEFAULT;
	else
		return plain_name(name);
	return 0;
}

/* ---- Reading ---- */

int ash_getxattr(struct ash_volume *volume, uint64_t ino, const char *name, void *value, size_t size)
{
	struct ash_held held;
	struct ash_tree tree;
	enum kind kind;
	int result = classify(name, &kind);

	if (!result)
		result = ash_hold(volume, ino, false, &held);
	if (result)
		return result;
	if (held.record.inode->attr_kind == ASH_FORK_EMPTY) {
		result = -ENODATA;
	} else {
		ash_record_tree(volume, &held.record, true, &tree);
		result = ash_xattr_get(&tree, name, value, size);
	}
	ash_release(volume, &held);
	return result;
}

int ash_listxattr(struct ash_volume *volume, uint64_t ino, char *list, size_t size)
{
	struct ash_held held;
	struct ash_tree tree;
	int result = ash_hold(volume, ino, false, &held);

	if (result)
		return result;
	if (held.record.inode->attr_kind != ASH_FORK_EMPTY) {
		ash_record_tree(volume, &held.record, true, &tree);
		result = ash_xattr_list(&tree, list, size);
	}
	ash_release(volume, &held);
	return result;
}

/* ---- Changing ---- */

static int check_held(const struct setter *setter, const struct ash_held *held)
{
	uint32_t mode = ash_record_mode(&held->record);

	if (ash_record_flags(&held->record) & (ASH_INODE_IMMUTABLE | ASH_INODE_APPEND))
		return -EPERM;
	if (!ash_record_nlink(&held->record) && !ash_lookup_count(setter->volume, held->icore->ino))
		return -ESTALE;
	if (setter->kind != KIND_PLAIN && S_ISLNK(mode))
		return -EOPNOTSUPP;
	if (setter->kind == KIND_ACL_DEFAULT && !S_ISDIR(mode))
		return setter->value ? -EACCES : -ENODATA;
	return 0;
}

static int log_plain(struct ash_txn *txn, struct setter *setter, struct ash_record *record)
{
	struct ash_tree tree;

	ash_record_tree(setter->volume, record, true, &tree);
	if (setter->value)
		return ash_xattr_set(txn, &tree, setter->name, &setter->prepared, setter->flags);
	return record->inode->attr_kind == ASH_FORK_EMPTY ? -ENODATA : ash_xattr_remove(txn, &tree, setter->name);
}

/* XATTR_CREATE and XATTR_REPLACE speak of what is stored. */
static int check_acl_flags(const struct setter *setter, const struct ash_record *record)
{
	uint8_t blob[ASH_ACL_SIZE_MAX];
	int size = setter->flags ? ash_acl_get(setter->volume, record, setter->name, blob) : 0;

	if (size < 0)
		return size;
	if (size && setter->flags & XATTR_CREATE)
		return -EEXIST;
	return !size && setter->flags & XATTR_REPLACE ? -ENODATA : 0;
}

static int log_acl(struct ash_txn *txn, struct setter *setter, struct ash_record *record, uint32_t *mode)
{
	bool store = setter->value && !ash_acl_is_empty(setter->size), equivalent;
	int result = check_acl_flags(setter, record);

	if (result)
		return result;
	if (store && setter->kind == KIND_ACL_ACCESS) {
		*mode = ash_acl_mode(setter->value, setter->size, *mode, &equivalent);
		store = !equivalent;
	}
	if (store)
		return ash_acl_set(txn, record, setter->name, setter->value, setter->size);
	return ash_attribute_drop(txn, record, setter->name);
}

static int log_change(struct ash_txn *txn, struct setter *setter, struct ash_held *held)
{
	uint32_t mode = ash_record_mode(&held->record);
	struct timespec now = ash_now();
	struct ash_inode header;
	int result = check_held(setter, held);

	if (result)
		return result;
	if (setter->kind == KIND_PLAIN)
		result = log_plain(txn, setter, &held->record);
	else
		result = log_acl(txn, setter, &held->record, &mode);
	if (result)
		return result;
	/* The kernel asks it of the default ACL, too, which changes no mode. */
	if (setter->kill_sgid && setter->kind == KIND_ACL_ACCESS)
		mode &= ~(uint32_t)S_ISGID;
	ash_record_header(&held->record, &header);
	header.mode = ash_put32(mode);
	ash_header_set_ctime(&header, &now);
	ash_record_set_header(txn, &held->record, &header);
	return 0;
}

static int change_locked(struct setter *setter, struct ash_icore *icore, uint64_t *lsn, uint32_t *flags)
{
	struct ash_volume *volume = setter->volume;
	struct ash_held held = { 0 };
	struct ash_txn *txn;
	int result = ash_txn_begin(volume, ASH_TXN_NAME, &txn);

	if (result)
		return result;
	result = ash_hold_icore(volume, icore, true, &held);
	if (!result)
		result = log_change(txn, setter, &held);
	if (result) {
		ash_txn_abort(txn);
	} else {
		*lsn = ash_txn_commit(txn);
		*flags = ash_record_flags(&held.record);
		ash_icore_raise(icore, *lsn, true);
	}
	ash_unhold(volume, &held);
	return result;
}

static int change_once(struct setter *setter, struct ash_icore *icore, uint64_t *lsn, uint32_t *flags)
{
	struct ash_volume *volume = setter->volume;
	bool prepare = setter->value && setter->kind == KIND_PLAIN;
	struct ash_block_id id;
	uint32_t offset;
	int result = ash_itable_locate(volume, icore->ino, &id, &offset);

	if (!result && prepare)
		result = ash_xattr_prepare(volume, id.block, setter->value, (uint32_t)setter->size, &setter->prepared);
	if (result)
		return result;
	result = change_locked(setter, icore, lsn, flags);
	if (result && prepare)
		ash_xattr_unprepare(volume, &setter->prepared);
	return result;
}

static int change(struct setter *setter, uint64_t ino)
{
	struct ash_volume *volume = setter->volume;
	struct ash_icore *icore;
	uint32_t flags = 0;
	uint64_t lsn = 0;
	int result = ash_check_writable(volume);

	if (!result)
		result = ash_icore_get(volume, ino, &icore);
	if (result)
		return result;
	result = change_once(setter, icore, &lsn, &flags);
	if (result == -ENOSPC && ash_reclaim_space(volume))
		result = change_once(setter, icore, &lsn, &flags);
	ash_icore_put(volume, icore);
	return result ? result : ash_finish_sync(volume, lsn, flags);
}

int ash_setxattr(struct ash_volume *volume, uint64_t ino, const char *name, const void *value, size_t size, int flags)
{
	struct setter setter = {
		.volume = volume,
		.name = name,
		.value = size ? value : "",
		.size = size,
		.flags = flags & (XATTR_CREATE | XATTR_REPLACE),
		.kill_sgid = flags & ASH_XATTR_KILL_SGID,
	};
	int result = classify(name, &setter.kind);

	if (result)
		return result;
	if (flags & ~(XATTR_CREATE | XATTR_REPLACE | ASH_XATTR_KILL_SGID))
		return -EINVAL;
	if (size > ASH_XATTR_SIZE_MAX)
		return -E2BIG;
	if (setter.kind != KIND_PLAIN)
		result = ash_acl_check(setter.value, size);
	return result ? result : change(&setter, ino);
}

int ash_removexattr(struct ash_volume *volume, uint64_t ino, const char *name)
{
	struct setter setter = { .volume = volume, .name = name };
	int result = classify(name, &setter.kind);

	return result ? result : change(&setter, ino);
}
