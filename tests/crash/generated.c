/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Doing the steps of the table, and the sets of workloads made of them: see generated.h. One thread.
 */
#include "generated.h"
#include "beside.h"

#include <linux/falloc.h>
#include <linux/fs.h>
#include <ashlar/format.h>
#include <stdio.h>
#include <string.h>

#define RANDOM_SET 1000000ull /* seeds; a number, so that the set has a size */
#define RANDOM_MIN 20u        /* operations */
#define RANDOM_MAX 60u
#define GROWN_MIB 384u /* of the device of a volume that grows: four groups */

/* ---- One step ---- */

/* So many long names that the directory is a tree of several blocks. */
static void fill_directory(struct script *s, const char *directory)
{
	char first[32], path[300];

	snprintf(first, sizeof(first), "%s/pad", directory);
	do_create(s, first);
	for (int i = 0; i < 30; i++) {
		snprintf(path, sizeof(path), "%s/%0200d", directory, i);
		do_link(s, first, path);
	}
}

/* The volume as all generated workloads find it: see steps.c. */
static void small_tree(struct script *s)
{
	do_mkdir(s, "/A");
	do_mkdir(s, "/B");
	do_mkdir(s, "/A/C");
	do_mkdir(s, "/B/C");
	do_create(s, "/A/foo");
	do_write(s, "/A/foo", 0, 16384, 0);
	do_sync(s);
	do_truncate(s, "/A/foo", 12388); /* behind the end there are old bytes on the disk */
	do_setxattr(s, "/A/foo", "user.a", 20);
	do_create(s, "/A/bar");
	do_write(s, "/A/bar", 0, 100, 0);
	do_create(s, "/B/foo");
	do_write(s, "/B/foo", 0, 8192, 0);
	do_write(s, "/B/foo", 40960, 8192, 0);
	for (uint64_t block = 14; block < 32; block += 2)
		do_write(s, "/B/foo", block * 4096, 4096, 0);
	do_write(s, "/B/foo", 131072, 4596, 0);
	fill_directory(s, "/B");
	do_setxattr(s, "/B/foo", "user.big", 3000);
	do_symlink(s, "/A/sym", 20);
	do_sync(s);
}

static uint64_t unlink_open(struct script *s, const char *path)
{
	uint64_t ino = do_open(s, path);

	do_unlink(s, path);
	return ino;
}

static uint64_t make_tmpfile(struct script *s, const struct step *step)
{
	uint64_t ino = do_tmpfile(s, step->path);

	if (step->length)
		do_write_ino(s, ino, 0, step->length, 0);
	if (step->to)
		do_link_ino(s, ino, step->to);
	return ino;
}

/* Returns the inode that is kept open, or 0. */
static uint64_t do_operation(struct script *s, const struct step *step)
{
	switch (step->kind) {
	case STEP_CREATE:
		do_create(s, step->path);
		break;
	case STEP_MKDIR:
		do_mkdir(s, step->path);
		break;
	case STEP_RMDIR:
		do_rmdir(s, step->path);
		break;
	case STEP_SYMLINK:
		do_symlink(s, step->path, step->length);
		break;
	case STEP_LINK:
		do_link(s, step->path, step->to);
		break;
	case STEP_UNLINK:
		do_unlink(s, step->path);
		break;
	case STEP_UNLINK_OPEN:
		return unlink_open(s, step->path);
	case STEP_RENAME:
		do_rename(s, step->path, step->to, step->flags);
		break;
	case STEP_TRUNCATE:
		do_truncate(s, step->path, step->length);
		break;
	case STEP_WRITE:
		do_write(s, step->path, step->offset, step->length, step->flags);
		break;
	case STEP_FALLOCATE:
		do_fallocate(s, step->path, step->flags, step->offset, step->length);
		break;
	case STEP_COPY:
		do_copy(s, step->path, step->offset, step->to, step->other, step->length);
		break;
	case STEP_SETXATTR:
		do_setxattr(s, step->path, step->to, step->length);
		break;
	case STEP_REMOVEXATTR:
		do_removexattr(s, step->path, step->to);
		break;
	case STEP_CHMOD:
		do_chmod(s, step->path, (uint32_t)step->flags);
		break;
	case STEP_TMPFILE:
		return make_tmpfile(s, step);
	}
	return 0;
}

/* Where the object is found after the step. */
static const char *subject_of(const struct step *step)
{
	bool moved = step->kind == STEP_RENAME || step->kind == STEP_LINK || step->kind == STEP_COPY;

	return moved || step->kind == STEP_TMPFILE ? step->to : step->path;
}

static void sync_parent(struct script *s, const struct step *step)
{
	const char *name = subject_of(step) ? subject_of(step) : step->path, *slash = strrchr(name, '/');
	char parent[64];

	snprintf(parent, sizeof(parent), "%.*s", slash > name ? (int)(slash - name) : 1, name);
	do_fsync(s, parent);
}

void step_do(struct script *s, const struct step *step, enum step_sync sync)
{
	uint64_t open_ino = do_operation(s, step);

	if (s->failed)
		return;
	switch (sync) {
	case SYNC_NOTHING:
	case SYNC_KINDS:
		break;
	case SYNC_FSYNC:
	case SYNC_FDATASYNC:
		do_fsync_ino(s, open_ino ? open_ino : script_ino(s, subject_of(step)), sync == SYNC_FDATASYNC);
		break;
	case SYNC_PARENT:
		sync_parent(s, step);
		break;
	case SYNC_ALL:
		do_sync(s);
		break;
	}
}

/* ---- Text ---- */

static const char *const sync_names[SYNC_KINDS] = { "no sync", "fsync", "fdatasync", "fsync of the parent", "sync" };
static const char *const mode_names[MODE_KINDS] = { "", "FUA: ", "write-through: " };

void step_describe(const struct step *step, enum step_sync sync, char *text, size_t size)
{
	int used = snprintf(text, size, "%s %s", step->group, step->path);

	if (step->to)
		used += snprintf(text + used, size - (size_t)used, " %s", step->to);
	if (step->offset || step->other)
		used += snprintf(text + used, size - (size_t)used, " at %llu", (unsigned long long)step->offset);
	if (step->other)
		used += snprintf(text + used, size - (size_t)used, " to %llu", (unsigned long long)step->other);
	if (step->length || step->kind == STEP_TRUNCATE)
		used += snprintf(text + used, size - (size_t)used, " %llu", (unsigned long long)step->length);
	snprintf(text + used, size - (size_t)used, ", %s", sync_names[sync]);
}

static enum generated_mode mode_of(const struct workload *workload)
{
	return workload->fua ? MODE_FUA : workload->write_through ? MODE_WRITE_THROUGH : MODE_PLAIN;
}

void generated_describe(const struct generated *generated, char *text, size_t size)
{
	int used = snprintf(text, size, "%s", mode_names[mode_of(&generated->workload)]);

	if (generated_is_random(generated->set))
		snprintf(text + used, size - (size_t)used, "random operations%s, seed %llu",
			 generated->set == GENERATED_BESIDE ? " beside chores" :
			 generated->set == GENERATED_GROWTH ? " and growths" :
							      "",
			 (unsigned long long)generated->index);
	for (unsigned i = 0; i < generated->count; i++) {
		char step[200];

		step_describe(generated->steps[i], generated->syncs[i], step, sizeof(step));
		used += snprintf(text + used, size - (size_t)used, "%s%s", i ? "; " : "", step);
	}
}

/* ---- The sets ---- */

static void run_steps(struct script *s)
{
	const struct generated *generated = s->workload->context;

	for (unsigned i = 0; i < generated->count; i++)
		step_do(s, generated->steps[i], generated->syncs[i]);
}

/* Of a file or folder that is there. */
static uint64_t random_ino(const struct model *model, struct generator *generator)
{
	for (size_t i = 0, at = generator_below(generator, model->capacity); i < model->capacity; i++, at++) {
		const struct model_node *node = model->nodes[at % model->capacity];

		if (node)
			return node->ino;
	}
	return ASH_INO_ROOT;
}

/* A fifth of these operations are syncs of some kind, so that there is something that must not be lost. */
static void random_sync(struct generator *generator, const struct model *model, struct op *op)
{
	uint64_t choice = generator_below(generator, 100), ino;

	if (choice >= 20)
		return;
	op_free(op);
	*op = (struct op){ .kind = OP_FSYNC, .ino = 1, .flags = choice >= 12 };
	if (choice < 5)
		op->kind = choice < 2 ? OP_CHECKPOINT : OP_SYNC;
	ino = random_ino(model, generator);
	if (op->kind == OP_FSYNC)
		op->ino = ino;
}

static bool changes_something(const struct op *op)
{
	switch (op->kind) {
	case OP_NONE:
	case OP_GETATTR:
	case OP_READDIR:
	case OP_READ:
	case OP_READLINK:
	case OP_SEEK:
	case OP_GETXATTR:
	case OP_LISTXATTR:
	case OP_STATFS:
		return false;
	default:
		return op->length <= 130000;
	}
}

/* Leave so little space that freed blocks are used again soon. Unwritten blocks behind the end are never read. */
static void fill_volume(struct script *s, const char *path, uint64_t blocks_left)
{
	struct ash_statfs statfs;

	do_create(s, path);
	if (!s->failed && ash_statfs(s->runner.volume, &statfs) == 0 && statfs.available_blocks > blocks_left)
		do_fallocate(s, path, FALLOC_FL_KEEP_SIZE, 0, (statfs.available_blocks - blocks_left) * 4096);
	do_sync(s);
}

/* The model is asked before: a step of several operations must not stop in the middle. */
static bool would_succeed(const struct script *s, const struct step *step)
{
	struct script dry = { .workload = s->workload, .dry = true, .next_pattern = s->next_pattern };
	bool succeeds;

	dry.runner.clock = s->runner.clock;
	model_copy(&dry.model, &s->model);
	step_do(&dry, step, SYNC_NOTHING);
	succeeds = !dry.failed;
	model_free(&dry.model);
	return succeeds;
}

/* True: there was one that can be done. */
static bool random_step(struct script *s, struct generator *generator)
{
	const struct step *step = &generated_steps[generator_below(generator, generated_step_count)];

	if (!would_succeed(s, step))
		return false;
	step_do(s, step, SYNC_NOTHING);
	return true;
}

/* True: it was done. */
static bool random_operation(struct script *s, struct generator *generator)
{
	struct op op;
	bool done = false;

	generate(generator, &s->model, &op);
	random_sync(generator, &s->model, &op);
	if (op.kind == OP_WRITE)
		op.flags &= ~(int)(ASH_WRITE_KILL_SUIDGID | ASH_WRITE_NO_TIMES);
	if (changes_something(&op)) {
		script_do(s, &op);
		done = op.result >= 0;
	}
	op_free(&op);
	return done;
}

/* Half of the operations are those of the table, which meet on the same few objects. True: one was done. */
static bool random_either(struct script *s, struct generator *generator)
{
	return generator_below(generator, 2) ? random_step(s, generator) : random_operation(s, generator);
}

/* A chore that stops up to three times while operations are done. How many were. */
static unsigned random_chore(struct script *s, struct generator *generator)
{
	struct beside beside = { .volume = s->runner.volume };
	uint64_t range;
	unsigned done = 0;

	beside.chore = (enum chore)generator_below(generator, CHORE_KINDS);
	beside.ino = random_ino(&s->model, generator);
	beside.at_barriers = generator_below(generator, 2);
	range = beside.at_barriers ? 4 : 12;
	beside_begin(&beside, s->dev, (uint32_t)generator_below(generator, range));
	for (unsigned stops = 0; beside_stopped(&beside); stops++) {
		for (uint64_t tries = 1 + generator_below(generator, 4); tries && !s->failed; tries--)
			done += random_either(s, generator);
		beside_go_on(&beside, stops < 2 ? (uint32_t)generator_below(generator, range) : BESIDE_NEVER);
	}
	beside_end(&beside, s->dev);
	return done;
}

/* Changes of the blocks that nearly every operation changes, so that these are older in the log than what comes next. */
static void stir(struct script *s)
{
	static const char *const files[] = { "/A/foo", "/A/bar", "/B/foo", "/B", "/A" };

	do_create(s, "/stir");
	do_write(s, "/stir", 0, 4096, 0);
	do_write_back(s, "/stir");
	for (size_t i = 0; i < sizeof(files) / sizeof(files[0]); i++)
		do_chmod(s, files[i], 0700 + s->next_pattern++ % 8 * 8);
	do_unlink(s, "/stir");
}

/* A step of the table that can be done, on `path` unless that is NULL. What it was done on, NULL: there is none. */
static const char *some_step(struct script *s, struct generator *generator, const char *path)
{
	size_t at = generator_below(generator, generated_step_count);

	for (size_t i = 0; i < generated_step_count && !s->failed; i++, at++) {
		const struct step *step = &generated_steps[at % generated_step_count];

		if ((path && strcmp(step->path, path)) || !would_succeed(s, step))
			continue;
		step_do(s, step, SYNC_NOTHING);
		return subject_of(step);
	}
	return NULL;
}

/*
 * One operation that is synced; a checkpoint of the older half of the log, which finds it in the younger; and another
 * operation on the same thing before it ends. The tail must not pass what the second took away, for that may never have
 * been.
 */
static void run_checkpoint(struct script *s, struct generator *generator)
{
	struct beside beside = { .volume = s->runner.volume, .at_barriers = generator_below(generator, 4) };
	const char *subject;

	for (uint64_t rounds = 2 + generator_below(generator, 6); rounds; rounds--)
		stir(s);
	subject = some_step(s, generator, NULL);
	do_sync(s);
	beside.chore = generator_below(generator, 4) ? CHORE_HALF : CHORE_CHECKPOINT;
	beside_begin(&beside, s->dev, (uint32_t)generator_below(generator, beside.at_barriers ? 5 : 12));
	while (beside_stopped(&beside)) {
		some_step(s, generator, subject);
		beside_go_on(&beside, BESIDE_NEVER);
	}
	beside_end(&beside, s->dev);
}

/* By some blocks or by groups, to a border or near one; if there is room. */
static void random_growth(struct script *s, struct generator *generator)
{
	uint64_t now = s->sizes[s->growths], device = s->arena->size >> ASH_BLOCK_SHIFT;
	uint64_t border = (now / ASH_BLOCKS_PER_GROUP + 1 + generator_below(generator, 3) / 2) * ASH_BLOCKS_PER_GROUP;
	uint64_t blocks = generator_below(generator, 2) ? now + 1 + generator_below(generator, 300) : border;

	if (blocks == border && generator_below(generator, 3))
		blocks += ASH_MIN_GROUP_BLOCKS + generator_below(generator, 200);
	else if (blocks % ASH_BLOCKS_PER_GROUP < ASH_MIN_GROUP_BLOCKS) /* a rest that is no group is left alone */
		blocks += ASH_MIN_GROUP_BLOCKS - blocks % ASH_BLOCKS_PER_GROUP;
	if (blocks > device)
		return;
	if (generator_below(generator, 3))
		do_grow(s, blocks);
	else
		do_grow_beside(s, generator_below(generator, 2) ? CHORE_HALF : CHORE_SYNC,
			       (uint32_t)generator_below(generator, 4), blocks);
}

/* Operations, with growths between, on volumes that are nearly full, or not; so that old and new parts are used. */
static void run_growth(struct script *s, struct generator *generator)
{
	static const char *const fillers[] = { "/full0", "/full1", "/full2", "/full3" };
	uint64_t growths = 1 + generator_below(generator, 3);

	for (uint64_t i = 0; i <= growths && !s->failed; i++) {
		if (i)
			random_growth(s, generator);
		if (generator_below(generator, 2))
			fill_volume(s, fillers[i], 20 + generator_below(generator, 60));
		for (uint64_t tries = generator_below(generator, 16); tries; tries--)
			random_either(s, generator);
	}
}

static void run_random(struct script *s)
{
	const struct generated *generated = s->workload->context;
	struct generator generator;
	unsigned wanted;

	generator_init(&generator, generated->index);
	generator.data_limit = 700000;
	generator.names = 6; /* few, so that operations meet */
	generator.no_far_offsets = true;
	generator.next_pattern = 1000;
	if (generated->set == GENERATED_BESIDE && generated->index % 4) {
		run_checkpoint(s, &generator);
		return;
	}
	if (generated->set == GENERATED_GROWTH) {
		run_growth(s, &generator);
		return;
	}
	wanted = RANDOM_MIN + (unsigned)generator_below(&generator, RANDOM_MAX - RANDOM_MIN + 1);
	if (generated->index / MODE_KINDS % 2)
		fill_volume(s, "/full", 30 + generator_below(&generator, 60));
	for (unsigned tries = 0; wanted && tries < 1000 && !s->failed; tries++) {
		unsigned done = generated->set == GENERATED_BESIDE && !generator_below(&generator, 3) ?
					random_chore(s, &generator) :
					random_either(s, &generator);

		wanted -= done < wanted ? done : wanted;
	}
}

uint64_t generated_size(enum generated_set set)
{
	uint64_t single = generated_step_count * SYNC_KINDS;

	return set == GENERATED_ONE ? single * MODE_KINDS : set == GENERATED_TWO ? single * single : RANDOM_SET;
}

static void set_mode(struct generated *generated, uint64_t mode)
{
	generated->workload.fua = mode == MODE_FUA;
	generated->workload.write_through = mode == MODE_WRITE_THROUGH;
}

void generated_make(struct generated *generated, enum generated_set set, uint64_t index)
{
	uint64_t single = generated_step_count * SYNC_KINDS, rest = index;

	*generated = (struct generated){ .workload = *generated_base(set), .set = set, .index = index };
	generated->workload.context = generated;
	generated->workload.run = generated_is_random(set) ? run_random : run_steps;
	if (generated_is_random(set)) {
		generated->workload.may_fill = true;
		set_mode(generated, index % MODE_KINDS);
		return;
	}
	generated->count = set == GENERATED_ONE ? 1 : 2;
	for (unsigned i = 0; i < generated->count; i++, rest /= single) {
		generated->steps[i] = &generated_steps[rest % single / SYNC_KINDS];
		generated->syncs[i] = (enum step_sync)(rest % SYNC_KINDS);
	}
	/* One operation: in each mode. Two: every third pair in each; which one must not follow from the operations. */
	set_mode(generated, set == GENERATED_ONE ? rest : (index ^ index >> 7 ^ index >> 13) % MODE_KINDS);
}

const struct workload *generated_base(enum generated_set set)
{
	static const struct workload base = { .name = "generated", .setup = small_tree, .mib = 4 };
	static const struct workload small = {
		.name = "generated", .setup = small_tree, .mib = 4, .device_mib = GROWN_MIB
	};

	return set == GENERATED_GROWTH ? &small : &base;
}
