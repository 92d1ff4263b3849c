/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Reading a directory.
 *
 * Concept: a position is the key of the entry before it: 0 is the start, "." has key 1, ".." key 2. Keys never change
 * while an entry lives, so that every entry that exists throughout is returned exactly once, whatever is
 * created and removed meanwhile.
 *
 * Rules: the directory's shared lock is held over one call, `emit` included. A lookup count given with an entry is
 * taken before `emit` and given back when the entry is not consumed; the name, kept by the lock, keeps the inode. An
 * entry whose inode is damaged is still emitted, without attributes and without a count.
 *
 * Locks: the directory's, then one child's at a time (inode.h: a parent before its children). No directory's is waited
 * for: in a damaged volume the child may be a parent of this one, and who has locked it may wait for ours. An entry that is
 * busy so is emitted as one that is damaged; who wants its attributes can ask for them.
 */
#include "names.h"

#include <dirent.h>

#define KEY_DOT 1u
#define KEY_DOT_DOT 2u

struct reader {
	struct ash_volume *volume;
	uint64_t ino;
	bool attributes;
	ash_emit emit;
	void *context;
	int error;
};

/* `emit` sees names with a NUL behind them. */
static int emit_entry(struct reader *reader, const struct ash_entry *entry, const char *name, size_t length,
		      const struct ash_attr *attr)
{
	char text[ASH_NAME_MAX + 1];

	memcpy(text, name, length);
	text[length] = '\0';
	return reader->emit(reader->context, text, length, entry->ino, entry->type, entry->key, attr);
}

static int emit_counted(struct reader *reader, const struct ash_entry *entry, const char *name, size_t length)
{
	struct ash_attr attr;
	int result = ash_lookup_take(reader->volume, entry->ino, 1);

	if (result) {
		reader->error = result;
		return 1;
	}
	result = ash_inode_try_read(reader->volume, entry->ino, &attr);
	if (result) {
		ash_forget(reader->volume, entry->ino, 1);
		return emit_entry(reader, entry, name, length, NULL);
	}
	result = emit_entry(reader, entry, name, length, &attr);
	if (result)
		ash_forget(reader->volume, entry->ino, 1); /* it has a name: this never deletes */
	return result;
}

static int each_entry(void *context, const struct ash_entry *entry, const char *name, size_t length)
{
	struct reader *reader = context;

	if (reader->attributes && entry->ino != reader->ino)
		return emit_counted(reader, entry, name, length);
	return emit_entry(reader, entry, name, length, NULL);
}

static int emit_dots(struct reader *reader, const struct ash_held *held, uint64_t position)
{
	struct ash_entry dot = { KEY_DOT, reader->ino, DT_DIR };
	struct ash_entry dot_dot = { KEY_DOT_DOT, ash_get64(held->record.inode->parent), DT_DIR };
	struct ash_attr attr;
	const struct ash_attr *shown = NULL;

	if (reader->attributes && position < KEY_DOT_DOT) {
		/* Of ".." nothing but the number is known without its lock, which must not be taken here. */
		ash_record_attr(&held->record, held->icore, &attr);
		shown = &attr;
	}
	if (position < KEY_DOT && emit_entry(reader, &dot, ".", 1, shown))
		return 1;
	if (shown) {
		attr = (struct ash_attr){ .ino = dot_dot.ino, .mode = S_IFDIR };
		shown = &attr;
	}
	return position < KEY_DOT_DOT && emit_entry(reader, &dot_dot, "..", 2, shown);
}

static int read_held(struct reader *reader, const struct ash_held *held, uint64_t position)
{
	struct ash_tree tree;
	int result;

	if (!S_ISDIR(ash_record_mode(&held->record)))
		return -ENOTDIR;
	if (!ash_record_nlink(&held->record))
		return 0; /* removed: not even "." */
	if (emit_dots(reader, held, position))
		return 0;
	ash_record_tree(reader->volume, &held->record, false, &tree);
	result = ash_dir_walk(&tree, position < KEY_DOT_DOT ? KEY_DOT_DOT : position, each_entry, reader);
	if (result < 0)
		return result;
	return reader->error;
}

int ash_readdir_flags(struct ash_volume *volume, uint64_t ino, uint64_t position, bool attributes, unsigned flags,
		      ash_emit emit, void *context)
{
	struct reader reader = {
		.volume = volume, .ino = ino, .attributes = attributes, .emit = emit, .context = context
	};
	struct ash_icore *icore;
	struct ash_held held = { 0 };
	bool due = false;
	int result = ash_icore_get(volume, ino, &icore);

	if (result)
		return result;
	result = ash_hold_icore(volume, icore, false, &held);
	if (!result) {
		due = !position && !(flags & ASH_READ_NO_ATIME) && ash_atime_due(volume, held.record.inode);
		result = read_held(&reader, &held, position);
		ash_unhold(volume, &held);
	}
	if (!result && due)
		ash_note_access(volume, icore);
	ash_icore_put(volume, icore);
	return result;
}

int ash_readdir(struct ash_volume *volume, uint64_t ino, uint64_t position, bool attributes, ash_emit emit,
		void *context)
{
	return ash_readdir_flags(volume, ino, position, attributes, 0, emit, context);
}
