/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * POSIX access control lists, stored as the kernel passes them (struct posix_acl_xattr_header of
 * <linux/posix_acl_xattr.h>, version 2).
 *
 * Concept: pure functions on the blob, after fs/posix_acl.c of Linux (posix_acl_valid, _equiv_mode, _create_masq,
 * _chmod_masq), and the few lines that fetch and store it. Who may do what is the kernel's business.
 *
 * Rules: the entries come in order: owner, named users, owning group, named groups, mask, others; a mask is there if
 * any named entry is. A blob is checked before it is stored and after it is read (I8). An ACL is at most 63 entries
 * long, so that it always lies in the attribute's record and a chmod never needs blocks.
 *
 * Locks: the inode's lock, by the caller.
 */
#include "names.h"

#define ACL_VERSION 2u
#define TAG_USER_OBJ 0x01u
#define TAG_USER 0x02u
#define TAG_GROUP_OBJ 0x04u
#define TAG_GROUP 0x08u
#define TAG_MASK 0x10u
#define TAG_OTHER 0x20u
#define UNDEFINED_ID 0xffffffffu

struct acl_header {
	ash_le32 version;
} __attribute__((packed));

struct acl_entry {
	ash_le16 tag, permissions;
	ash_le32 id;
} __attribute__((packed));

static size_t entry_count(size_t size)
{
	return size < sizeof(struct acl_header) ? 0 : (size - sizeof(struct acl_header)) / sizeof(struct acl_entry);
}

static struct acl_entry *entries_of(void *blob)
{
	return (struct acl_entry *)((uint8_t *)blob + sizeof(struct acl_header));
}

bool ash_acl_is_empty(size_t size)
{
	return !entry_count(size);
}

/* ---- Checking ---- */

/* What may follow: the state is the tag that was seen last. */
static bool follows(uint32_t last, uint32_t tag)
{
	switch (tag) {
	case TAG_USER_OBJ:
		return !last;
	case TAG_USER:
		return last == TAG_USER_OBJ || last == TAG_USER;
	case TAG_GROUP_OBJ:
		return last == TAG_USER_OBJ || last == TAG_USER;
	case TAG_GROUP:
		return last == TAG_GROUP_OBJ || last == TAG_GROUP;
	case TAG_MASK:
		return last == TAG_GROUP_OBJ || last == TAG_GROUP;
	case TAG_OTHER:
		return last == TAG_GROUP_OBJ || last == TAG_GROUP || last == TAG_MASK;
	default:
		return false;
	}
}

static int check_entries(const struct acl_entry *entries, size_t count)
{
	bool named = false, mask = false;
	uint32_t last = 0;

	for (size_t i = 0; i < count; i++) {
		uint32_t tag = ash_get16(entries[i].tag);

		if (!follows(last, tag) || ash_get16(entries[i].permissions) & ~7u)
			return -EINVAL;
		if (tag == TAG_USER || tag == TAG_GROUP) {
			named = true;
			if (ash_get32(entries[i].id) == UNDEFINED_ID)
				return -EINVAL;
		}
		mask = mask || tag == TAG_MASK;
		last = tag;
	}
	return last == TAG_OTHER && (mask || !named) ? 0 : -EINVAL;
}

int ash_acl_check(const void *blob, size_t size)
{
	const struct acl_header *header = blob;

	if (!size)
		return 0;
	if (size < sizeof(*header) || (size - sizeof(*header)) % sizeof(struct acl_entry))
		return -EINVAL;
	if (ash_get32(header->version) != ACL_VERSION)
		return -EOPNOTSUPP;
	if (ash_acl_is_empty(size))
		return 0;
	if (size > ASH_ACL_SIZE_MAX)
		return -E2BIG;
	return check_entries((const struct acl_entry *)((const uint8_t *)blob + sizeof(*header)), entry_count(size));
}

/* ---- ACL and mode; the blob is checked ---- */

static struct acl_entry *find_tag(void *blob, size_t size, uint32_t tag)
{
	struct acl_entry *entries = entries_of(blob);

	for (size_t i = 0; i < entry_count(size); i++)
		if (ash_get16(entries[i].tag) == tag)
			return &entries[i];
	return NULL;
}

static uint32_t permissions(const struct acl_entry *entry)
{
	return ash_get16(entry->permissions);
}

/* The entry that the group bits of the mode show. */
static struct acl_entry *group_class(void *blob, size_t size)
{
	struct acl_entry *mask = find_tag(blob, size, TAG_MASK);

	return mask ? mask : find_tag(blob, size, TAG_GROUP_OBJ);
}

void ash_acl_chmod(void *blob, size_t size, uint32_t mode)
{
	find_tag(blob, size, TAG_USER_OBJ)->permissions = ash_put16(mode >> 6 & 7u);
	group_class(blob, size)->permissions = ash_put16(mode >> 3 & 7u);
	find_tag(blob, size, TAG_OTHER)->permissions = ash_put16(mode & 7u);
}

static bool says_more_than_mode(void *blob, size_t size)
{
	return find_tag(blob, size, TAG_USER) || find_tag(blob, size, TAG_GROUP) || find_tag(blob, size, TAG_MASK);
}

uint32_t ash_acl_mode(const void *blob, size_t size, uint32_t mode, bool *equivalent)
{
	void *acl = (void *)(uintptr_t)blob; /* only looked at */

	*equivalent = !says_more_than_mode(acl, size);
	return (mode & ~0777u) | permissions(find_tag(acl, size, TAG_USER_OBJ)) << 6 |
	       permissions(group_class(acl, size)) << 3 | permissions(find_tag(acl, size, TAG_OTHER));
}

static void cut(struct acl_entry *entry, uint32_t allowed)
{
	entry->permissions = ash_put16(permissions(entry) & allowed & 7u);
}

bool ash_acl_inherit(void *blob, size_t size, uint32_t *mode)
{
	bool equivalent;

	cut(find_tag(blob, size, TAG_USER_OBJ), *mode >> 6);
	cut(group_class(blob, size), *mode >> 3);
	cut(find_tag(blob, size, TAG_OTHER), *mode);
	*mode = ash_acl_mode(blob, size, *mode, &equivalent);
	return !equivalent;
}

/* ---- Stored ACLs ---- */

int ash_acl_get(struct ash_volume *volume, const struct ash_record *record, const char *name,
		uint8_t blob[ASH_ACL_SIZE_MAX])
{
	struct ash_tree tree;
	int size;

	if (record->inode->attr_kind == ASH_FORK_EMPTY)
		return 0;
	ash_record_tree(volume, record, true, &tree);
	size = ash_xattr_get(&tree, name, blob, ASH_ACL_SIZE_MAX);
	if (size == -ENODATA)
		return 0;
	if (size == -ERANGE || (size >= 0 && (ash_acl_is_empty((size_t)size) || ash_acl_check(blob, (size_t)size))))
		return ash_damaged(volume, record->buffer->id.block, "access control list");
	return size;
}

int ash_acl_set(struct ash_txn *txn, struct ash_record *record, const char *name, const void *blob, size_t size)
{
	struct ash_xattr_prepared prepared;
	struct ash_tree tree;
	int result = ash_xattr_prepare(ash_txn_volume(txn), 0, blob, (uint32_t)size, &prepared);

	if (result)
		return result;
	assert(!prepared.external); /* no I/O: ASH_ACL_SIZE_MAX */
	ash_record_tree(ash_txn_volume(txn), record, true, &tree);
	return ash_xattr_set(txn, &tree, name, &prepared, 0);
}

int ash_attribute_drop(struct ash_txn *txn, struct ash_record *record, const char *name)
{
	struct ash_tree tree;
	int result;

	if (record->inode->attr_kind == ASH_FORK_EMPTY)
		return 0;
	ash_record_tree(ash_txn_volume(txn), record, true, &tree);
	result = ash_xattr_remove(txn, &tree, name);
	return result == -ENODATA ? 0 : result;
}
