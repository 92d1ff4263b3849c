/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A few files whose blocks are written, zeroed and read by many threads at once.
 *
 * Concept: each block is a register with one writer at a time (a lock of the test over a quarter of a file) and any
 * number of readers, which take no lock. Writes are numbered. A reader notes the number of the last write of the block
 * that was complete before its call (`done`) and of the last that began before its answer (`begun`): every 16 bytes
 * that it got must be from a write in between, or zero, if a zeroing is in between. So without a write at the same time
 * the answer is exact, and with one it may be a mixture of old and new, as POSIX allows for more than one
 * sector, but never older, never foreign.
 *
 * The size only changes within `shape`, held exclusively: truncated and at once extended again.
 */
#include "stress.h"
#include "unit.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define FILES 3
#define REGIONS 4
#define REGION_BLOCKS 48
#define BLOCKS (REGIONS * REGION_BLOCKS)
#define BLOCK 4096u
#define SIZE (BLOCKS * (uint64_t)BLOCK)
#define TORN_RETRIES 1000

struct register_block {
	uint32_t done, begun;           /* atomic; generations */
	uint32_t zero_done, zero_begun; /* of zeroings alone */
};

/* For the report of a violation. */
#define CHANGES 256
struct change {
	const char *what;
	uint32_t first, count, generation;
	int64_t result;
};

struct register_file {
	struct target_file file;
	uint32_t owner;
	uint32_t generation;              /* atomic */
	uint32_t shape_begun, shape_done; /* atomic */
	pthread_rwlock_t shape;           /* zeroing: exclusive; writing: shared; before the lock of a region */
	pthread_mutex_t regions[REGIONS];
	struct register_block blocks[BLOCKS];
	pthread_mutex_t changes_lock;
	struct change changes[CHANGES]; /* the last ones */
	unsigned change_count;
};

struct blocks {
	struct register_file files[FILES];
};

struct range {
	struct register_file *file;
	uint32_t first, count; /* blocks */
};

static void name_of(int i, char name[16])
{
	snprintf(name, 16, "r%d", i);
}

static void *new_buffer(void)
{
	void *buffer = NULL;

	if (posix_memalign(&buffer, BLOCK, SIZE))
		abort();
	return buffer;
}

/* ---- Writers ---- */

static void range_begun(const struct range *range, uint32_t generation, bool zero)
{
	for (uint32_t i = range->first; i < range->first + range->count; i++) {
		STORE(&range->file->blocks[i].begun, generation);
		if (zero)
			STORE(&range->file->blocks[i].zero_begun, generation);
	}
}

static void range_done(const struct range *range, uint32_t generation, bool zero)
{
	for (uint32_t i = range->first; i < range->first + range->count; i++) {
		STORE(&range->file->blocks[i].done, generation);
		if (zero)
			STORE(&range->file->blocks[i].zero_done, generation);
	}
}

static void remember(const struct range *range, const char *what, uint32_t generation, int64_t result)
{
	struct register_file *file = range->file;

	pthread_mutex_lock(&file->changes_lock);
	file->changes[file->change_count++ % CHANGES] =
		(struct change){ what, range->first, range->count, generation, result };
	pthread_mutex_unlock(&file->changes_lock);
}

/* What happened to a block that is wrong. */
static void print_changes(struct register_file *file, uint32_t block)
{
	pthread_mutex_lock(&file->changes_lock);
	for (unsigned i = file->change_count > CHANGES ? file->change_count - CHANGES : 0; i < file->change_count;
	     i++) {
		const struct change *change = &file->changes[i % CHANGES];

		if (block >= change->first && block < change->first + change->count)
			printf("#   %u: %s of %u blocks from %u -> %lld\n", change->generation, change->what,
			       change->count, change->first, (long long)change->result);
	}
	pthread_mutex_unlock(&file->changes_lock);
}

/* The caller has the range to itself. */
static void write_range(struct stress_worker *worker, const struct range *range, bool through)
{
	struct stress *stress = worker->stress;
	uint32_t generation = ADD(&range->file->generation, 1);
	size_t length = (size_t)range->count * BLOCK;
	uint64_t offset = (uint64_t)range->first * BLOCK;
	struct range written = *range;
	void *buffer = new_buffer();
	int64_t rc;

	unit_fill(buffer, length, offset, range->file->owner, generation);
	range_begun(range, generation, false);
	rc = stress->target->ops->write(stress->target, &range->file->file, buffer, length, offset, through);
	free(buffer);
	remember(range, through ? "write through" : "write", generation, rc);
	if (!stress_went(worker, "write of blocks", rc))
		return;
	/* A part only: no space for the rest, which is as it was. */
	if (rc % BLOCK || ((size_t)rc < length && !stress->full))
		stress_violation(stress, "write of %zu bytes wrote %lld", length, (long long)rc);
	written.count = (uint32_t)(rc / BLOCK);
	range_done(&written, generation, false);
}

static void do_write(struct stress_worker *worker, struct register_file *file)
{
	unsigned region = stress_draw(worker, REGIONS);
	struct range range = { .file = file, .first = stress_draw(worker, REGION_BLOCKS), .count = 1 };

	if (stress_draw(worker, 2))
		range.count = 1 + stress_draw(worker, stress_draw(worker, 4) ? 8 : REGION_BLOCKS);
	if (range.first + range.count > REGION_BLOCKS)
		range.count = REGION_BLOCKS - range.first;
	range.first += region * REGION_BLOCKS;
	pthread_rwlock_rdlock(&file->shape);
	pthread_mutex_lock(&file->regions[region]);
	write_range(worker, &range, !stress_draw(worker, 4));
	pthread_mutex_unlock(&file->regions[region]);
	pthread_rwlock_unlock(&file->shape);
}

/* All of the file, in one call: longer than what is buffered. */
static void do_rewrite(struct stress_worker *worker, struct register_file *file)
{
	struct range range = { .file = file, .count = BLOCKS };

	pthread_rwlock_wrlock(&file->shape);
	write_range(worker, &range, false);
	pthread_rwlock_unlock(&file->shape);
}

static void zero_by_mode(struct stress_worker *worker, const struct range *range, int mode)
{
	struct target *target = worker->stress->target;
	uint32_t generation = ADD(&range->file->generation, 1);
	int rc;

	range_begun(range, generation, true);
	rc = target->ops->fallocate(target, &range->file->file, mode, (uint64_t)range->first * BLOCK,
				    (uint64_t)range->count * BLOCK);
	remember(range, mode & FALLOC_FL_PUNCH_HOLE ? "punch" : "zero range", generation, rc);
	if (stress_went(worker, "zeroing", rc))
		range_done(range, generation, true);
}

static void zero_by_size(struct stress_worker *worker, const struct range *range)
{
	struct stress *stress = worker->stress;
	struct target *target = stress->target;
	uint32_t generation = ADD(&range->file->generation, 1);
	uint64_t cut = (uint64_t)range->first * BLOCK;
	struct range first = { .file = range->file, .first = range->first, .count = 1 }, zeroed = *range;
	/*
	 * A cut within a block leaves a part of it; that block is then written anew, which may need space. Until then
	 * what it held before is right.
	 */
	bool uneven = !stress->full && stress_draw(worker, 2);

	if (uneven) {
		zeroed.first++;
		zeroed.count--;
		cut += UNIT * (1 + stress_draw(worker, BLOCK / UNIT - 1));
	}
	range_begun(range, generation, true);
	ADD(&range->file->shape_begun, 1);
	if (stress_went(worker, "truncate", target->ops->truncate(target, &range->file->file, cut)) &&
	    stress_went(worker, "extend", target->ops->truncate(target, &range->file->file, SIZE)))
		range_done(&zeroed, generation, true);
	remember(range, "cut", generation, 0);
	ADD(&range->file->shape_done, 1);
	if (uneven)
		write_range(worker, &first, false);
}

static void do_zero(struct stress_worker *worker, struct register_file *file)
{
	struct range range = { .file = file, .first = stress_draw(worker, BLOCKS) };

	range.count = 1 + stress_draw(worker, BLOCKS - range.first);
	pthread_rwlock_wrlock(&file->shape);
	switch (stress_draw(worker, 3)) {
	case 0:
		zero_by_mode(worker, &range, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE);
		break;
	case 1:
		zero_by_mode(worker, &range, FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE);
		break;
	default:
		range.count = BLOCKS - range.first;
		zero_by_size(worker, &range);
	}
	pthread_rwlock_unlock(&file->shape);
}

/* ---- Readers ---- */

enum verdict { RIGHT, TORN, WRONG };

/* One block as it was read, between the generations `done` and `begun`; `where` is the first unit that is not right. */
UNIT_LOOP static enum verdict judge_block(const struct register_file *file, uint32_t block, const struct unit *units,
					  uint32_t done, uint32_t begun, bool zero, size_t *where)
{
	for (*where = 0; *where < BLOCK / UNIT; (*where)++) {
		const struct unit *unit = &units[*where];

		if (unit_zero(unit)) {
			if (!zero)
				return WRONG;
		} else if (!unit_right(unit, (uint64_t)block * BLOCK + *where * UNIT, file->owner)) {
			return begun == done ? WRONG : TORN;
		} else if (unit->generation < done || unit->generation > begun) {
			return WRONG;
		}
	}
	return RIGHT;
}

/* Read and judge a range. A unit that was read while it was copied is read again. */
static enum verdict read_range(struct stress_worker *worker, const struct range *range, bool complain)
{
	struct stress *stress = worker->stress;
	struct register_file *file = range->file;
	uint32_t done[BLOCKS], shape = LOAD(&file->shape_begun);
	struct unit *units = new_buffer();
	size_t length = (size_t)range->count * BLOCK, where;
	enum verdict worst = RIGHT;
	int64_t rc;

	bool same_shape = LOAD(&file->shape_done) == shape;
	for (uint32_t i = 0; i < range->count; i++)
		done[i] = LOAD(&file->blocks[range->first + i].done);
	rc = stress->target->ops->read(stress->target, &file->file, units, length, (uint64_t)range->first * BLOCK);
	same_shape = same_shape && LOAD(&file->shape_begun) == shape;
	if (rc < 0 || (same_shape && (size_t)rc != length)) {
		stress_violation(stress, "read of %zu bytes at %llu: %lld", length,
				 (unsigned long long)range->first * BLOCK, (long long)rc);
		rc = 0;
	}
	for (uint32_t i = 0; i < rc / BLOCK; i++) {
		const struct register_block *block = &file->blocks[range->first + i];
		uint32_t begun = LOAD(&block->begun);
		const struct unit *got = units + i * (BLOCK / UNIT);
		enum verdict verdict = judge_block(file, range->first + i, got, done[i], begun,
						   LOAD(&block->zero_begun) >= done[i], &where);

		if (verdict == WRONG || (verdict == TORN && complain)) {
			stress_violation(stress, "file r%d block %u unit %zu: {%#x %u %u %#x}, complete %u, begun %u",
					 (int)(file - stress->blocks->files), range->first + i, where, got[where].owner,
					 got[where].generation, got[where].place, got[where].check, done[i], begun);
			if (worst != WRONG)
				print_changes(file, range->first + i);
		}
		if (verdict > worst)
			worst = verdict;
	}
	free(units);
	return worst;
}

static void do_read(struct stress_worker *worker, struct register_file *file)
{
	struct range range = { .file = file, .first = stress_draw(worker, BLOCKS) };

	range.count = 1 + stress_draw(worker, BLOCKS - range.first);
	if (stress_draw(worker, 2) && range.count > 4)
		range.count = 4;
	for (int i = 0; i < TORN_RETRIES; i++) {
		if (read_range(worker, &range, i == TORN_RETRIES - 1) != TORN)
			return;
		ADD(&worker->stress->torn, 1);
	}
}

void *blocks_work(void *context)
{
	struct stress_worker *worker = context;
	struct stress *stress = worker->stress;
	bool may_zero = !(stress->full && stress->target->kernel);

	while (!stress_stopped(stress)) {
		struct register_file *file = &stress->blocks->files[stress_draw(worker, FILES)];
		unsigned what = stress_draw(worker, 40);

		stress_step(worker, "blocks");
		if (what < 14)
			do_write(worker, file);
		else if (what < 15)
			do_rewrite(worker, file);
		else if (what < 17 && may_zero)
			do_zero(worker, file);
		else if (what < 18)
			stress_went(worker, "fsync of blocks",
				    stress->target->ops->fsync(stress->target, &file->file, stress_draw(worker, 2)));
		else if (what < 19)
			stress->target->ops->forget(stress->target, &file->file);
		else
			do_read(worker, file);
	}
	return NULL;
}

void blocks_verify(struct stress_worker *worker)
{
	struct blocks *blocks = worker->stress->blocks;

	for (int i = 0; i < FILES; i++) {
		struct register_file *file = &blocks->files[i];
		struct range range = { .file = file, .count = BLOCKS };

		/* What failed for want of space has changed nothing. */
		for (uint32_t b = 0; b < BLOCKS; b++) {
			file->blocks[b].begun = file->blocks[b].done;
			file->blocks[b].zero_begun = file->blocks[b].zero_done;
		}
		read_range(worker, &range, true);
	}
}

struct blocks *blocks_open(struct stress *stress, struct stress_worker *worker)
{
	struct blocks *blocks = calloc(1, sizeof(*blocks));
	struct target *target = stress->target;
	char name[16];

	if (!blocks)
		abort();
	for (int i = 0; i < FILES; i++) {
		struct register_file *file = &blocks->files[i];
		struct range range = { .file = file, .count = BLOCKS };
		int rc;

		name_of(i, name);
		file->owner = stress_owner(worker);
		pthread_rwlock_init(&file->shape, NULL);
		pthread_mutex_init(&file->changes_lock, NULL);
		for (int r = 0; r < REGIONS; r++)
			pthread_mutex_init(&file->regions[r], NULL);
		rc = target->ops->create(target, FOLDER_FILES, name, file->owner, &file->file);
		if (rc) {
			stress_violation(stress, "create of %s: %s", name, strerror(-rc));
			free(blocks);
			return NULL;
		}
		write_range(worker, &range, false);
		rc = target->ops->fsync(target, &file->file, false);
		if (rc)
			stress_violation(stress, "fsync of %s: %s", name, strerror(-rc));
	}
	return blocks;
}

void blocks_close(struct stress *stress)
{
	for (int i = 0; stress->blocks && i < FILES; i++)
		stress->target->ops->close(stress->target, &stress->blocks->files[i].file);
}

void blocks_reopen(struct stress *stress)
{
	struct target_found found;
	char name[16];

	for (int i = 0; stress->blocks && i < FILES; i++) {
		int rc;

		name_of(i, name);
		rc = stress->target->ops->open(stress->target, FOLDER_FILES, name, true, &stress->blocks->files[i].file,
					       &found);
		if (rc)
			stress_violation(stress, "open of %s: %s", name, strerror(-rc));
	}
}
