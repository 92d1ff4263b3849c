/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A volume with blocks that the device does not give until they are written, and a check of it that notes what it met.
 */
#ifndef TESTS_SICK_FIXTURE_H
#define TESTS_SICK_FIXTURE_H

#include "tests/unit/fs/engine_fixture.h"

#include <sys/resource.h>
#include <unistd.h>
#include "fs/names.h"
#include "fsck/check.h"

#define FILES 40u

struct sick {
	struct engine engine;
	uint64_t file;  /* changed in the log, and not at home */
	uint64_t table; /* the block of its record */
	uint64_t bad;   /* the block that cannot be read until it is written */
	uint64_t log_start, ring, position;
	char codes[1024]; /* of the problems that the last check reported */
};

/* A write heals the place. */
static inline void heal(void *context, const struct bdev_request *request)
{
	const struct sick *sick = context;
	uint64_t offset = sick->bad * ASH_BLOCK_SIZE;

	if (request->op == BDEV_WRITE && request->offset <= offset && request->offset + request->length > offset)
		fault_clear(sick->engine.dev);
}

static inline void files_make(struct sick *sick)
{
	struct ash_create create = { .mode = S_IFREG | 0644 };
	struct ash_attr attr;
	char name[16];

	for (unsigned i = 0; i < FILES; i++) {
		snprintf(name, sizeof(name), "file%u", i);
		cr_assert_eq(ash_create(sick->engine.volume, ASH_INO_ROOT, name, &create, &attr), 0);
	}
	sick->file = attr.ino;
}

/* The power went after the mode of a file was changed; `clean`: the volume was closed after that. */
static inline void sick_open(struct sick *sick, bool clean)
{
	struct ash_setattr change = { .valid = ASH_SET_MODE, .mode = 0600 };
	struct engine *engine = &sick->engine;
	struct ash_block_id id;
	uint32_t offset;

	memset(sick, 0, sizeof(*sick));
	cr_assert_eq(fault_open(engine_device("mem:16M"), &engine->dev), 0);
	engine_format(engine->dev, 1024);
	engine->options.no_threads = true;
	engine_mount(engine);
	files_make(sick);
	cr_assert_eq(ash_checkpoint(engine->volume), 0);
	cr_assert_eq(ash_setattr(engine->volume, sick->file, &change, NULL), 0);
	cr_assert_eq(ash_itable_locate(engine->volume, sick->file, &id, &offset), 0);
	sick->table = id.block;
	if (clean)
		cr_assert_eq(ash_checkpoint(engine->volume), 0);
	else
		cr_assert_eq(ash_log_force(engine->volume, ash_log_end(engine->volume)), 0);
	sick->log_start = engine->volume->log_start;
	sick->ring = engine->volume->log_blocks - 2;
	sick->position = engine->volume->log->written;
	if (clean)
		cr_assert_eq(ash_close(engine->volume), 0);
	else
		ash_abandon(engine->volume);
	engine->volume = NULL;
}

static inline void make_unreadable(struct sick *sick, uint64_t block)
{
	struct fault_rule rule = { .ops = FAULT_OP(BDEV_READ),
				   .offset = block * ASH_BLOCK_SIZE,
				   .length = ASH_BLOCK_SIZE };

	sick->bad = block;
	cr_assert_eq(fault_add(sick->engine.dev, &rule), 0);
	fault_ask(sick->engine.dev, heal, sick);
}

static inline void note_code(void *context, const struct ash_check_problem *problem)
{
	struct sick *sick = context;
	size_t length = strlen(sick->codes);

	snprintf(sick->codes + length, sizeof(sick->codes) - length, "%s ", problem->code);
}

/* Further memory of the process is limited to so many bytes. */
static inline void memory_limit(uint64_t bytes)
{
	FILE *file = fopen("/proc/self/statm", "r");
	struct rlimit limit;
	unsigned long pages;

	cr_assert(file && fscanf(file, "%lu", &pages) == 1);
	fclose(file);
	limit.rlim_cur = limit.rlim_max = (uint64_t)pages * (uint64_t)sysconf(_SC_PAGESIZE) + bytes;
	cr_assert_eq(setrlimit(RLIMIT_AS, &limit), 0);
}

static inline struct ash_check_result check(struct sick *sick, enum ash_check_mode mode)
{
	struct ash_check_options options = {
		.mode = mode, .force = true, .no_threads = true, .report = note_code, .context = sick
	};
	struct ash_check_result result;

	sick->codes[0] = 0;
	cr_assert_eq(ash_check(sick->engine.dev, &options, &result), 0, "%s", result.error);
	return result;
}

static inline void expect_healed(struct sick *sick, const char *code)
{
	struct ash_check_result result = check(sick, ASH_CHECK_NO);

	cr_expect(!result.changed);
	cr_expect(strstr(sick->codes, code), "%s", sick->codes);
	result = check(sick, ASH_CHECK_YES);
	cr_expect_eq(result.left, 0, "%s", sick->codes);
	cr_expect(strstr(sick->codes, code), "%s", sick->codes);
	result = check(sick, ASH_CHECK_NO);
	cr_expect_eq(result.problems, 0, "%s: %s", code, result.first);
	cr_expect_eq(result.notes, 0, "%s: %s", code, sick->codes);
}

/* All files are there, but for those of the table block that was given up; the change in the log is seen. */
static inline void expect_files(struct sick *sick, bool change)
{
	struct ash_attr attr;

	engine_mount(&sick->engine);
	cr_expect_eq(ash_lookup(sick->engine.volume, ASH_INO_ROOT, "file0", &attr), 0);
	if (change) {
		cr_expect_eq(ash_getattr(sick->engine.volume, sick->file, &attr), 0);
		cr_expect_eq(attr.mode & 07777, 0600);
	}
	cr_expect_eq(ash_close(sick->engine.volume), 0);
	sick->engine.volume = NULL;
}

#endif
