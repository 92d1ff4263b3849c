/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Threads that do everything at once to a few names, and write down what was answered.
 *
 * A history is judged with the workers at rest. Whatever was answered in two instants is written down as two operations
 * of the same time: what stands behind a name and how many links that has; each name of a list.
 */
#include "stress.h"

#include <ashlar/ashlar.h>
#include <errno.h>
#include <linux/fs.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#define HISTORY_SIZE 40000
#define OPERATION_RECORDS 8 /* of one call at most */

static enum target_folder folder_of(unsigned name)
{
	return name < NAMES_COUNT / 2 ? FOLDER_NAMES_0 : FOLDER_NAMES_1;
}

static const char *text_of(unsigned name)
{
	static const char *const texts[] = { "a", "b", "c" };

	return texts[name % (NAMES_COUNT / 2)];
}

static void record(struct stress_worker *worker, struct linear_op op)
{
	op.thread = worker->number;
	if (op.result == -ENOSPC)
		ADD(&worker->stress->full_answers, 1);
	if (worker->history_count < worker->history_size)
		worker->history[worker->history_count++] = op;
}

/* What a look at a name told; both parts in the same time. */
static void record_found(struct stress_worker *worker, uint64_t begin, uint64_t end, unsigned name, int rc,
			 const struct target_found *found)
{
	struct linear_op op = { .begin = begin, .end = end, .kind = LINEAR_LOOKUP, .name = (uint8_t)name, .result = rc };

	if (!rc)
		op.object = found->owner;
	record(worker, op);
	if (rc)
		return;
	if (!!S_ISDIR(found->mode) != !!(found->owner & LINEAR_DIRECTORY))
		stress_violation(worker->stress, "object %#x has mode %o", found->owner, found->mode);
	if (!S_ISDIR(found->mode)) {
		op.kind = LINEAR_COUNT;
		op.links = found->links;
		record(worker, op);
	}
}

static void do_create(struct stress_worker *worker, struct linear_op *op)
{
	struct target *target = worker->stress->target;
	struct target_file file;

	op->kind = LINEAR_CREATE;
	op->object = stress_owner(worker);
	op->begin = stress_now();
	op->result = target->ops->create(target, folder_of(op->name), text_of(op->name), op->object, &file);
	op->end = stress_now();
	if (!op->result)
		target->ops->close(target, &file);
}

static void do_mkdir(struct stress_worker *worker, struct linear_op *op)
{
	struct target *target = worker->stress->target;

	op->kind = LINEAR_CREATE;
	op->object = stress_owner(worker) | LINEAR_DIRECTORY;
	op->begin = stress_now();
	op->result = target->ops->mkdir(target, folder_of(op->name), text_of(op->name), op->object);
	op->end = stress_now();
}

static void do_remove(struct stress_worker *worker, struct linear_op *op, bool directory)
{
	struct target *target = worker->stress->target;

	op->kind = directory ? LINEAR_RMDIR : LINEAR_UNLINK;
	op->begin = stress_now();
	if (directory)
		op->result = target->ops->rmdir(target, folder_of(op->name), text_of(op->name));
	else
		op->result = target->ops->unlink(target, folder_of(op->name), text_of(op->name), NULL);
	op->end = stress_now();
}

static void do_rename(struct stress_worker *worker, struct linear_op *op)
{
	static const unsigned flags[] = { 0, 0, RENAME_NOREPLACE, RENAME_EXCHANGE };
	struct target *target = worker->stress->target;

	op->kind = LINEAR_RENAME;
	op->other = (uint8_t)stress_draw(worker, NAMES_COUNT);
	op->flags = flags[stress_draw(worker, 4)];
	op->begin = stress_now();
	op->result = target->ops->rename(target, folder_of(op->name), text_of(op->name), folder_of(op->other),
					 text_of(op->other), op->flags);
	op->end = stress_now();
}

static void do_lookup(struct stress_worker *worker, unsigned name)
{
	struct target *target = worker->stress->target;
	struct target_found found = { 0 };
	uint64_t begin = stress_now();
	int rc = target->ops->lookup(target, folder_of(name), text_of(name), &found);

	record_found(worker, begin, stress_now(), name, rc, &found);
}

/* Look, then link what was found: two operations, one after the other. */
static void do_link(struct stress_worker *worker, unsigned name)
{
	struct target *target = worker->stress->target;
	struct linear_op op = { .kind = LINEAR_LINK, .name = (uint8_t)stress_draw(worker, NAMES_COUNT) };
	struct target_found found = { 0 };
	struct target_file file;
	uint64_t begin = stress_now();
	int rc = target->ops->open(target, folder_of(name), text_of(name), false, &file, &found);

	record_found(worker, begin, stress_now(), name, rc, &found);
	if (rc)
		return;
	op.object = found.owner;
	op.begin = stress_now();
	op.result = target->ops->link(target, &file, folder_of(op.name), text_of(op.name));
	op.end = stress_now();
	target->ops->close(target, &file);
	record(worker, op);
}

static void do_list(struct stress_worker *worker, unsigned name)
{
	struct target *target = worker->stress->target;
	unsigned first = name / (NAMES_COUNT / 2) * (NAMES_COUNT / 2);
	struct target_list *list = malloc(sizeof(*list));
	uint64_t begin = stress_now(), end;
	int rc = list ? target->ops->list(target, folder_of(name), list) : -ENOMEM;

	end = stress_now();
	if (rc)
		stress_violation(worker->stress, "list: %s", strerror(-rc));
	for (unsigned i = first; !rc && i < first + NAMES_COUNT / 2; i++) {
		struct linear_op op = {
			.begin = begin, .end = end, .kind = LINEAR_LOOKUP, .name = (uint8_t)i, .result = -ENOENT
		};

		for (size_t e = 0; e < list->count; e++) {
			if (!strcmp(list->entries[e].name, text_of(i))) {
				op.result = 0;
				op.object = list->entries[e].owner;
			}
		}
		record(worker, op);
	}
	free(list);
}

static void one_operation(struct stress_worker *worker)
{
	struct linear_op op = { .name = (uint8_t)stress_draw(worker, NAMES_COUNT) };

	switch (stress_draw(worker, 16)) {
	case 0:
	case 1:
	case 2:
		do_create(worker, &op);
		break;
	case 3:
		do_mkdir(worker, &op);
		break;
	case 4:
	case 5:
		do_remove(worker, &op, false);
		break;
	case 6:
		do_remove(worker, &op, true);
		break;
	case 7:
	case 8:
	case 9:
	case 10:
		do_rename(worker, &op);
		break;
	case 11:
	case 12:
		do_link(worker, op.name);
		return;
	case 13:
		do_list(worker, op.name);
		return;
	default:
		do_lookup(worker, op.name);
		return;
	}
	record(worker, op);
}

void *names_work(void *context)
{
	struct stress_worker *worker = context;

	while (!stress_stopped(worker->stress) && worker->history_count + OPERATION_RECORDS < worker->history_size) {
		stress_step(worker, "names");
		one_operation(worker);
	}
	return NULL;
}

unsigned names_history_room(void)
{
	return HISTORY_SIZE;
}

void names_look(struct stress_worker *worker)
{
	for (unsigned i = 0; i < NAMES_COUNT; i++)
		do_lookup(worker, i);
	do_list(worker, 0);
	do_list(worker, NAMES_COUNT / 2);
}

/* Objects with a second name, from now on. */
static void remember_links(struct stress *stress, struct linear_problem *problem)
{
	for (size_t i = 0; i < problem->count; i++) {
		if (problem->ops[i].kind != LINEAR_LINK || problem->ops[i].result)
			continue;
		stress->linked = realloc(stress->linked, (stress->linked_count + 1) * sizeof(*stress->linked));
		if (!stress->linked)
			abort();
		stress->linked[stress->linked_count++] = problem->ops[i].object;
	}
	problem->linked = stress->linked;
	problem->linked_count = stress->linked_count;
}

void names_judge(struct stress *stress, struct stress_worker *workers, unsigned count, uint32_t start[LINEAR_NAMES])
{
	struct linear_problem problem = { .names = NAMES_COUNT,
					  .may_be_full = stress->full,
					  .kernel = stress->target->kernel };
	struct linear_op *all;
	static char text[LINEAR_TEXT];
	size_t total = 0;

	for (unsigned i = 0; i < count; i++)
		total += workers[i].history_count;
	all = malloc((total + 1) * sizeof(*all));
	if (!all)
		abort();
	for (unsigned i = 0; i < count; i++) {
		if (workers[i].history_count)
			memcpy(all + problem.count, workers[i].history, workers[i].history_count * sizeof(*all));
		problem.count += workers[i].history_count;
		workers[i].history_count = 0;
	}
	memcpy(problem.start, start, sizeof(problem.start));
	problem.ops = all;
	if (problem.kernel)
		remember_links(stress, &problem);
	switch (linear_check(&problem, text)) {
	case LINEAR_GOOD:
		break;
	case LINEAR_BAD:
		stress_violation(stress, "names: %s", text);
		break;
	case LINEAR_UNDECIDED:
		stress_violation(stress, "names: too many operations at a time to judge");
		break;
	}
	/* The last looks, one after the other with nobody else there, are the next start. */
	memset(start, 0, LINEAR_NAMES * sizeof(*start));
	for (size_t i = 0; i < problem.count; i++)
		if (all[i].thread == STRESS_THREADS && all[i].kind == LINEAR_LOOKUP && !all[i].result &&
		    all[i].object != LINEAR_ANY)
			start[all[i].name] = all[i].object;
	free(all);
}
