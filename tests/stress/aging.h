/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The aging campaign: lanes of work on a mounted volume, each in a folder of its own, and a journal outside the volume that
 * says what each lane did and what of it was synced. The daemon may be killed at any moment; the journal then tells
 * what may be found.
 *
 * Names: the folder is what it was after a prefix of the lane's operations, which holds everything up to the last one that was
 * synced (I7). An operation that was under way counts as the last one, and may be missing.
 *
 * Data: a file is a list of changes (unit.h: each 16 bytes tell the change they come from). What was synced is found
 * exactly, unless later changes touched it; of these each unit may be there or not. Never anything else.
 */
#ifndef TESTS_STRESS_AGING_H
#define TESTS_STRESS_AGING_H

#include <stdbool.h>
#include <stdint.h>

#define LANES 2
#define LANE_NAMES 8192 /* names of a lane, n0 to n8191 */
#define LANE_FILES 10000
#define LANE_OPERATIONS 20000 /* between two syncs of everything */
#define FILE_CHANGES 24
#define FILE_SIZE_MAX (4u << 20)

enum change_kind { CHANGE_WRITE, CHANGE_SIZE };

struct change {
	uint32_t generation, kind;
	uint32_t from, to; /* bytes; a change of size: from the old one to the new one */
};

struct aging_file {
	uint32_t owner; /* the file's number, its uid; 0: this record is free */
	uint32_t size;
	uint32_t count, synced; /* changes, those that are durable */
	uint32_t synced_size;
	uint32_t last_operation; /* the last one on its names, counted from the lane's start */
	uint32_t doubtful;       /* what it holds is not known (a crash, no space): it is removed next */
	struct change changes[FILE_CHANGES];
};

enum name_kind { NAME_CREATE, NAME_REMOVE, NAME_RENAME };

struct name_operation {
	uint32_t kind, name, other, file; /* file: index; of a rename the one that is moved */
};

struct lane {
	uint32_t base[LANE_NAMES];                         /* file index + 1 behind each name at `floor`; 0: none */
	uint32_t names[LANE_NAMES];                        /* the same now */
	uint32_t floor, begun;                             /* operations: certainly durable; begun */
	struct name_operation operations[LANE_OPERATIONS]; /* those from `floor` on */
	uint32_t owners, generations;
	struct aging_file files[LANE_FILES];
};

struct journal {
	struct lane lanes[LANES];
	uint64_t operations, syncs, checked_files, checked_bytes, violations;
};

#define AGING_PATH 300 /* the folder of a lane */

/* The journal, mapped; made when there is none. NULL, with errno. */
struct journal *aging_open(const char *path);
void aging_violation(struct journal *journal, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* One operation forward on a map of names. */
void aging_apply(uint32_t *names, const struct name_operation *operation);
/* Everything before operation `floor` is durable. */
void aging_advance(struct lane *lane, uint32_t floor);

/* Does the open file hold what its record says, as after a crash (`crashed`), or exactly? False, with errno and without a
 * violation, when it cannot be read in the second case. */
bool aging_check_content(struct journal *journal, const struct aging_file *file, int fd, const char *path,
			 bool crashed);
/* After a crash and a new mount: find the prefix, check every file; what was found is what is durable from now on. */
void aging_verify(struct journal *journal, const char *mount);
/* Fragmentation and free space of an unmounted volume. */
int aging_figures(const char *device, const char *when);

#endif
