/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Directory entries.
 *
 * Concept: one tree record per name. The key is 55 bits of keyed hash and an 8-bit collision number (format.h), so
 * that a key is also the entry's readdir position: it never changes while the entry lives. All names with
 * one hash lie side by side; a search walks these few. Adding takes the lowest free collision number. The common case,
 * a hash that nobody has, is decided and inserted in one search.
 *
 * Distrust (I8): each value is checked by ash_dirent_check() before it is used; damage gives -EUCLEAN for what
 * meets it.
 *
 * Locks: the directory's lock owns the entries: shared to find and walk, exclusive to change.
 */
#include "dir.h"

#include "volume.h"

#define COLLISIONS (1u << ASH_DIR_COLLISION_BITS)
#define FIRST_KEY 3u /* 0-2: start, "." and ".." */
#define ENTRY_HEADER ((uint32_t)offsetof(struct ash_dirent_value, name))

uint64_t ash_name_key(const struct ash_volume *volume, const char *name, size_t length)
{
	uint64_t hash = ash_siphash(volume->hash_key, name, length) >> 9;

	return (hash ? hash : 1) << ASH_DIR_COLLISION_BITS;
}

static bool dots(const uint8_t *name, uint32_t length)
{
	return name[0] == '.' && (length == 1 || (length == 2 && name[1] == '.'));
}

/* All but the bytes of the name. */
static const char *check_header(const uint8_t *value, uint32_t length)
{
	const struct ash_dirent_value *entry = (const void *)value;

	if (length < ENTRY_HEADER + 1 || length != ENTRY_HEADER + entry->name_length)
		return "directory entry of wrong length";
	if (!ash_get64(entry->ino))
		return "directory entry without an inode";
	if (!entry->type || entry->type > 15)
		return "directory entry of unknown type";
	return NULL;
}

static const char *check_name(const struct ash_dirent_value *entry)
{
	if (memchr(entry->name, 0, entry->name_length) || memchr(entry->name, '/', entry->name_length))
		return "name with a forbidden byte";
	if (dots(entry->name, entry->name_length))
		return "\".\" or \"..\" as a directory entry";
	return NULL;
}

const char *ash_dirent_check(const uint8_t *value, uint32_t length)
{
	const char *wrong = check_header(value, length);

	return wrong ? wrong : check_name((const void *)value);
}

static int damaged(const struct ash_tree *tree, const struct ash_buffer *leaf, const char *what)
{
	return ash_damaged(tree->volume, (leaf ? leaf : tree->buffer)->id.block, what);
}

/* What the cursor stands on: 1 when it has this good name, else 0; -EUCLEAN. */
static int entry_match(const struct ash_cursor *cursor, const char *name, size_t length, struct ash_entry *out)
{
	const struct ash_dirent_value *value = (const void *)cursor->value;
	const char *wrong = check_header(cursor->value, cursor->length);
	bool same = false;

	if (!wrong && cursor->key < FIRST_KEY)
		wrong = "directory entry with a reserved key";
	if (!wrong) {
		same = value->name_length == length && !memcmp(value->name, name, length);
		wrong = same ? NULL : check_name(value);
	}
	if (wrong)
		return damaged(&cursor->tree, cursor->leaf, wrong);
	*out = (struct ash_entry){ cursor->key, ash_get64(value->ino), value->type };
	return same;
}

/*
 * Search the names with the hash of `base`. 1: found; 0: not there, and *unused is the lowest free key
 * (base + COLLISIONS when there is none).
 */
static int search(const struct ash_tree *tree, uint64_t base, const char *name, size_t length, struct ash_entry *out,
		  uint64_t *unused)
{
	struct ash_cursor cursor = { 0 };
	int result = ash_tree_seek(tree, base, &cursor);

	*unused = base;
	while (result > 0 && cursor.key - base < COLLISIONS) {
		result = entry_match(&cursor, name, length, out);
		if (result < 0)
			break;
		if (result)
			goto out;
		if (cursor.key == *unused)
			++*unused;
		result = ash_tree_next(&cursor);
	}
	result = result < 0 ? result : 0;
out:
	ash_cursor_done(&cursor);
	return result;
}

int ash_dir_find(const struct ash_tree *tree, const char *name, size_t length, struct ash_entry *out)
{
	uint64_t unused;
	int result = search(tree, ash_name_key(tree->volume, name, length), name, length, out, &unused);

	if (result > 0)
		return 0;
	return result ? result : -ENOENT;
}

/* A value in memory of its own: `buffer` has room for the longest. Its length. */
static uint32_t encode(uint8_t *buffer, const char *name, size_t length, uint64_t ino, uint8_t type)
{
	struct ash_dirent_value *value = (void *)buffer;

	value->ino = ash_put64(ino);
	value->type = type;
	value->name_length = (uint8_t)length;
	memcpy(value->name, name, length);
	return ENTRY_HEADER + (uint32_t)length;
}

int ash_dir_add(struct ash_txn *txn, struct ash_tree *tree, const char *name, size_t length, uint64_t ino, uint8_t type)
{
	uint64_t base = ash_name_key(tree->volume, name, length), unused;
	uint8_t value[ENTRY_HEADER + ASH_NAME_MAX] __attribute__((aligned(8)));
	struct ash_entry found;
	uint32_t value_length;
	int result;

	if (!length || length > ASH_NAME_MAX)
		return -ENAMETOOLONG;
	value_length = encode(value, name, length, ino, type);
	result = ash_tree_insert_alone(txn, tree, base, COLLISIONS, value, value_length);
	if (result != -EEXIST)
		return result;
	/* Someone has this hash: the same name or a collision. */
	result = search(tree, base, name, length, &found, &unused);
	if (result)
		return result < 0 ? result : -EEXIST;
	if (unused - base >= COLLISIONS)
		return -ENOSPC;
	return ash_tree_insert(txn, tree, unused, value, value_length);
}

int ash_dir_remove(struct ash_txn *txn, struct ash_tree *tree, const struct ash_entry *entry)
{
	return ash_tree_delete(txn, tree, entry->key);
}

int ash_dir_set(struct ash_txn *txn, struct ash_tree *tree, const struct ash_entry *entry, uint64_t ino, uint8_t type)
{
	uint8_t buffer[ENTRY_HEADER + ASH_NAME_MAX] __attribute__((aligned(8)));
	struct ash_dirent_value *value = (void *)buffer;
	int length = ash_tree_get(tree, entry->key, buffer, sizeof(buffer));
	const char *wrong;

	if (length == -ERANGE)
		return damaged(tree, NULL, "directory entry too long");
	if (length < 0)
		return length;
	wrong = ash_dirent_check(buffer, (uint32_t)length);
	if (wrong)
		return damaged(tree, NULL, wrong);
	value->ino = ash_put64(ino);
	value->type = type;
	return ash_tree_replace(txn, tree, entry->key, buffer, (uint32_t)length);
}

int ash_dir_walk(const struct ash_tree *tree, uint64_t position, ash_dir_each each, void *context)
{
	struct ash_cursor cursor = { 0 };
	int result;

	if (position == UINT64_MAX)
		return 0;
	result = ash_tree_seek(tree, position + 1 < FIRST_KEY ? FIRST_KEY : position + 1, &cursor);
	while (result > 0) {
		const struct ash_dirent_value *value = (const void *)cursor.value;
		struct ash_entry entry;

		result = entry_match(&cursor, "", 0, &entry);
		if (result)
			break;
		if (each(context, &entry, (const char *)value->name, value->name_length)) {
			result = 1;
			break;
		}
		result = ash_tree_next(&cursor);
	}
	ash_cursor_done(&cursor);
	return result;
}
