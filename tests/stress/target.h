/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What the stress test works on: a volume through the library, or a mounted one through system calls. Both offer the
 * same few operations with the same answers (0 or a count, negative errno), so that one generator and one checker serve
 * both.
 *
 * An object is known by its owner (uid): whoever creates one gives it a number of its own, and every look at it tells
 * the number in the same instant as the object. (Through system calls: setfsuid(2), which is per thread.)
 */
#ifndef TESTS_STRESS_TARGET_H
#define TESTS_STRESS_TARGET_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

/* The folders of the test, in the volume's root. */
enum target_folder { FOLDER_NAMES_0, FOLDER_NAMES_1, FOLDER_FILES, FOLDER_BALLAST, TARGET_FOLDERS };

struct target_file {
	uint64_t ino;
	int fd; /* system calls only */
};

struct target_found {
	uint64_t ino, size;
	uint32_t owner, links;
	mode_t mode;
};

#define TARGET_LIST 512

struct target_list {
	size_t count;
	struct {
		char name[40];
		uint32_t owner; /* LINEAR_ANY: not told */
	} entries[TARGET_LIST];
};

struct target;

struct target_operations {
	/* Exclusive; the new file is open. */
	int (*create)(struct target *target, enum target_folder folder, const char *name, uint32_t owner,
		      struct target_file *file);
	int (*mkdir)(struct target *target, enum target_folder folder, const char *name, uint32_t owner);
	/* `removed`: number of the inode that lost a name, 0 when not told. */
	int (*unlink)(struct target *target, enum target_folder folder, const char *name, uint64_t *removed);
	int (*rmdir)(struct target *target, enum target_folder folder, const char *name);
	int (*rename)(struct target *target, enum target_folder folder, const char *name,
		      enum target_folder other_folder, const char *other, unsigned flags);
	int (*lookup)(struct target *target, enum target_folder folder, const char *name, struct target_found *found);
	/* A reference, good for link and stat of anything, and for `data` also for reading and writing. */
	int (*open)(struct target *target, enum target_folder folder, const char *name, bool data,
		    struct target_file *file, struct target_found *found);
	void (*close)(struct target *target, struct target_file *file);
	int (*stat)(struct target *target, struct target_file *file, struct target_found *found);
	int (*link)(struct target *target, struct target_file *file, enum target_folder folder, const char *name);
	int (*list)(struct target *target, enum target_folder folder, struct target_list *list);
	int64_t (*read)(struct target *target, struct target_file *file, void *buffer, size_t length, uint64_t offset);
	/* `through`: past every buffer, where offset, length and memory allow it. */
	int64_t (*write)(struct target *target, struct target_file *file, const void *buffer, size_t length,
			 uint64_t offset, bool through);
	int (*truncate)(struct target *target, struct target_file *file, uint64_t size);
	int (*fallocate)(struct target *target, struct target_file *file, int mode, uint64_t offset, uint64_t length);
	int (*fsync)(struct target *target, struct target_file *file, bool data_only);
	int (*sync_folder)(struct target *target, enum target_folder folder);
	int (*sync)(struct target *target);
	int (*checkpoint)(struct target *target); /* through system calls: sync */
	int (*trim)(struct target *target, uint64_t minimum);
	int (*free_bytes)(struct target *target, uint64_t *free);
	/* Forget clean cached things, as far as there is a way. */
	void (*forget)(struct target *target, struct target_file *file);
};

struct target {
	const struct target_operations *ops;
	struct ash_volume *volume;        /* the library's */
	uint64_t folders[TARGET_FOLDERS]; /* inode numbers, or descriptors */
	/* A kernel is between: its pages may find the volume full after their write was acknowledged; see linear.h, too. */
	bool kernel;
};

/* Make the folders (or find them) in an open volume, in a mounted one. 0 or negative errno. */
int target_open_library(struct target *target, struct ash_volume *volume);
int target_open_mount(struct target *target, const char *path);
void target_close(struct target *target);

extern const char *const target_folder_names[TARGET_FOLDERS];

#endif
