/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* One random operation, done alike on two filesystems. See twin.c. */
#ifndef TESTS_MOUNT_TWIN_H
#define TESTS_MOUNT_TWIN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#define SLOTS 10
#define PATHS 2
#define NUMBERS 6
#define PATH_BYTES 1200
#define NOTE_BYTES 400

/* One of the two: the folder in which everything happens, and its open files. */
struct side {
	const char *name; /* of the folder, as given */
	int root;         /* descriptor of the folder */
	int slot[SLOTS];  /* -1: closed */
};

struct op {
	unsigned kind;
	char path[PATHS][PATH_BYTES];
	unsigned slot[PATHS];
	uint64_t number[NUMBERS]; /* random; an operation makes its arguments of them */
	unsigned user;            /* index: 0 is root */
};

struct result {
	long value;
	int error;             /* errno when value is -1 */
	uint64_t digest;       /* of data that came back */
	char note[NOTE_BYTES]; /* the call, for people */
	bool unsure;           /* the two may differ: only the state that is left counts */
};

unsigned op_kinds(void);
const char *op_name(unsigned kind);
unsigned op_weight(unsigned kind);
/* How many of the paths it uses. */
unsigned op_paths(unsigned kind);
bool op_makes_folder(unsigned kind);
bool op_opens(unsigned kind);
/* Do it, as its user, in the side's folder. The caller is root and is so afterwards. */
void op_run(struct side *side, const struct op *op, struct result *result);

uint64_t digest_add(uint64_t digest, const void *data, size_t length);
/* Exits: a test whose own means fail proves nothing. */
void die(const char *what) __attribute__((noreturn));

#endif
