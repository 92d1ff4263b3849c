/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * ashlarctl: one function per command, each with the arguments behind its name. They return 0, or nonzero after a
 * one-line message; positive is the exit status.
 */
#ifndef MKFS_CTL_H
#define MKFS_CTL_H

#include "mkfs/json.h"
#include "mkfs/tool.h"

#include <ashlar/format.h>

#include <sys/types.h>

struct ctl {
	bool json, all, detailed, recursive, hexadecimal; /* --json -a -l -R -x */
	bool quiet, progress, verbose;                    /* -q -p -v */
	bool export;                                      /* --export */
	int count;
	char **arguments;
};

int ctl_info(const struct ctl *ctl);
int ctl_label(const struct ctl *ctl);
int ctl_uuid(const struct ctl *ctl);
int ctl_resize(const struct ctl *ctl);
int ctl_trim(const struct ctl *ctl);
int ctl_ls(const struct ctl *ctl);
int ctl_stat(const struct ctl *ctl);
int ctl_cat(const struct ctl *ctl);
int ctl_get(const struct ctl *ctl);
int ctl_log(const struct ctl *ctl);
int ctl_dump(const struct ctl *ctl);
/* Returns the exit status. */
int ctl_scrub(const struct ctl *ctl);

/* ---- Names inside a volume (ctl_files.c) ---- */

/*
 * Find "/path" or "inode:N" ("<N>"). Symbolic links are not followed. 0 or negative errno after a message. Give it
 * back with ctl_drop().
 */
struct ctl_file {
	struct ash_attr attr;
	bool counted; /* a lookup count is held */
};
int ctl_find(struct ash_volume *volume, const char *name, struct ctl_file *out);
void ctl_drop(struct ash_volume *volume, const struct ctl_file *file);
/* 0 and the number in *ino when `text` is "inode:N" or "<N>", else -EINVAL. */
int ctl_parse_inode(const char *text, uint64_t *ino);

/* A folder's entries, read in bounded batches, since nothing may be called while one is being read. */
struct ctl_entry {
	char name[ASH_NAME_MAX + 1];
	size_t name_length;
	struct ash_attr attr; /* for "." and ".." only ino is set */
	bool dot;             /* "." or "..": no lookup count is held */
	bool counted;         /* a lookup count is held */
	int error;            /* why there are no attributes but the number; 0: they are there */
};
typedef int (*ctl_visit)(void *context, const struct ctl_entry *entry);
/* Calls `visit` for every entry, "." and ".." too; nonzero ends it and is returned. Negative errno without message. */
int ctl_each_entry(struct ash_volume *volume, uint64_t ino, ctl_visit visit, void *context);
/* For a message about an entry with an error. */
const char *ctl_entry_wrong(const struct ctl_entry *entry);

/*
 * Folders visited in a walk. A folder has one name; a damaged volume may give it several, even below itself: without
 * this a walk would not end. 0: first visit, -ELOOP: seen before, -ENOMEM.
 */
struct ctl_visited {
	void *tree;
};
int ctl_visit_once(struct ctl_visited *visited, uint64_t ino);
void ctl_visited_free(struct ctl_visited *visited);

/* ---- Content (ctl_copy.c) ---- */

/* All of it, at a place in a file; `offset` -1: where the descriptor stands. 0 or negative errno, without a message. */
int ctl_write_all(int fd, const char *data, size_t length, off_t offset);

/* ---- Raw blocks (ctl_dump.c) ---- */

/* The device without an open volume, and the log's newer images of its blocks. */
struct ctl_raw {
	struct bdev *dev;
	struct ash_super *super;     /* block 0, magic and checksum verified */
	struct ash_overlay *overlay; /* NULL when not asked for */
};
/* With `overlay` the device must not be in use. 0 or negative after a message. */
int ctl_open_raw(const char *name, bool overlay, struct ctl_raw *out);
void ctl_close_raw(struct ctl_raw *raw);
/* What a block magic stands for; NULL when unknown. */
const char *ctl_block_type(uint32_t magic);

#endif
