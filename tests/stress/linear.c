/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* See linear.h. Locks: none; one thread. */
#include "linear.h"

#include <errno.h>
#include <linux/fs.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define SLOTS 64
#define CONFIGURATIONS_MAX 50000

struct configuration {
	uint32_t names[LINEAR_NAMES];
	uint64_t done; /* slots of running operations that have had their instant */
};

struct set {
	struct configuration *items;
	size_t count, capacity;
};

struct event {
	uint64_t time;
	size_t op;
	bool end;
};

struct search {
	const struct linear_problem *problem;
	const struct linear_op *slots[SLOTS]; /* running */
	uint64_t running;
	unsigned *slot_of;
	struct set now, next, reach;
	/* Counts that are judged apart from the order of names, and have not fitted yet. */
	const struct linear_op *counts[SLOTS];
	unsigned count_count;
};

/* ---- The rules: may `op` answer as it did when the names are these? They apply it, also when it may not. ---- */

static bool is_directory(uint32_t object)
{
	return object & LINEAR_DIRECTORY;
}

static uint32_t count_links(const struct linear_problem *problem, const uint32_t *names, uint32_t object)
{
	uint32_t links = 0;

	for (unsigned i = 0; i < problem->names; i++)
		links += names[i] == object;
	return links;
}

static bool apply_create(uint32_t *names, const struct linear_op *op)
{
	if (names[op->name])
		return op->result == -EEXIST;
	names[op->name] = op->object;
	return op->result == 0;
}

static bool was_linked(const struct linear_problem *problem, uint32_t object)
{
	for (size_t i = 0; problem->kernel && i < problem->linked_count; i++)
		if (problem->linked[i] == object)
			return true;
	return false;
}

/* When several refusals apply, each is right. */
static bool apply_link(const struct linear_problem *problem, uint32_t *names, const struct linear_op *op)
{
	bool exists = names[op->name], directory = is_directory(op->object);
	bool gone = !directory && !count_links(problem, names, op->object);

	if (op->result)
		return (exists && op->result == -EEXIST) || (directory && op->result == -EPERM) ||
		       ((gone || was_linked(problem, op->object)) && op->result == -ENOENT);
	names[op->name] = op->object;
	return !exists && !gone && !directory;
}

static bool apply_remove(uint32_t *names, const struct linear_op *op)
{
	bool want_directory = op->kind == LINEAR_RMDIR;
	uint32_t object = names[op->name];

	if (!object)
		return op->result == -ENOENT;
	if (is_directory(object) != want_directory)
		return op->result == (want_directory ? -ENOTDIR : -EISDIR);
	names[op->name] = 0;
	return op->result == 0 && (!op->object || op->object == object);
}

static bool apply_rename(uint32_t *names, const struct linear_op *op)
{
	uint32_t from = names[op->name], to = names[op->other];

	if (!from)
		return op->result == -ENOENT;
	if (op->flags & RENAME_EXCHANGE) {
		if (!to)
			return op->result == -ENOENT;
		names[op->name] = to;
		names[op->other] = from;
		return op->result == 0;
	}
	if (to && op->flags & RENAME_NOREPLACE)
		return op->result == -EEXIST;
	if (to == from) /* the same name, or two names of one file: nothing happens */
		return op->result == 0;
	if (to && is_directory(to) != is_directory(from))
		return op->result == (is_directory(to) ? -EISDIR : -ENOTDIR);
	names[op->name] = 0;
	names[op->other] = from;
	return op->result == 0;
}

static bool apply_lookup(const uint32_t *names, const struct linear_op *op)
{
	uint32_t object = names[op->name];

	if (op->result)
		return !object && op->result == -ENOENT;
	return object && (op->object == LINEAR_ANY || op->object == object);
}

static bool needs_space(const struct linear_op *op)
{
	return op->kind == LINEAR_CREATE || op->kind == LINEAR_LINK || op->kind == LINEAR_RENAME;
}

static bool apply_any(const struct linear_problem *problem, uint32_t *names, const struct linear_op *op)
{
	if (op->result == -ENOSPC)
		return problem->may_be_full && needs_space(op);
	switch (op->kind) {
	case LINEAR_CREATE:
		return apply_create(names, op);
	case LINEAR_LINK:
		return apply_link(problem, names, op);
	case LINEAR_UNLINK:
	case LINEAR_RMDIR:
		return apply_remove(names, op);
	case LINEAR_RENAME:
		return apply_rename(names, op);
	case LINEAR_LOOKUP:
		return apply_lookup(names, op);
	case LINEAR_COUNT:
		return op->result == 0 && count_links(problem, names, op->object) == op->links;
	case LINEAR_KINDS:
		break;
	}
	return false;
}

/* Leaves the names alone when the answer does not fit. */
static bool apply(const struct linear_problem *problem, uint32_t *names, const struct linear_op *op)
{
	uint32_t changed[LINEAR_NAMES];

	memcpy(changed, names, sizeof(changed));
	if (!apply_any(problem, changed, op))
		return false;
	memcpy(names, changed, sizeof(changed));
	return true;
}

static bool changes_nothing(const struct linear_op *op)
{
	return op->result || op->kind == LINEAR_LOOKUP || op->kind == LINEAR_COUNT;
}

/* ---- The search ---- */

static bool set_add(struct set *set, const struct configuration *item)
{
	for (size_t i = 0; i < set->count; i++)
		if (!memcmp(&set->items[i], item, sizeof(*item)))
			return true;
	if (set->count == CONFIGURATIONS_MAX)
		return false;
	if (set->count == set->capacity) {
		set->capacity = set->capacity ? 2 * set->capacity : 64;
		set->items = realloc(set->items, set->capacity * sizeof(*set->items));
		if (!set->items)
			abort();
	}
	set->items[set->count++] = *item;
	return true;
}

/* What changes nothing has its instant as soon as it fits: no other order could need it later. */
static void settle_readers(const struct search *search, struct configuration *item)
{
	for (uint64_t left = search->running & ~item->done; left; left &= left - 1) {
		unsigned slot = (unsigned)__builtin_ctzll(left);

		if (changes_nothing(search->slots[slot]) && apply(search->problem, item->names, search->slots[slot]))
			item->done |= UINT64_C(1) << slot;
	}
}

/* ---- Counts apart from the order ---- */

static bool judged_apart(const struct search *search, const struct linear_op *op)
{
	return search->problem->kernel && op->kind == LINEAR_COUNT;
}

/* Drop the counts that fit these names. */
static void settle_counts(struct search *search, const uint32_t *names)
{
	unsigned left = 0;

	for (unsigned i = 0; i < search->count_count; i++)
		if (count_links(search->problem, names, search->counts[i]->object) != search->counts[i]->links)
			search->counts[left++] = search->counts[i];
	search->count_count = left;
}

/* Look at everything that the names can be at this moment, without deciding anything. */
static bool look_around(struct search *search)
{
	search->reach.count = 0;
	for (size_t i = 0; i < search->now.count; i++)
		if (!set_add(&search->reach, &search->now.items[i]))
			return false;
	for (size_t i = 0; i < search->reach.count && search->count_count; i++) {
		struct configuration item = search->reach.items[i];

		settle_counts(search, item.names);
		for (uint64_t left = search->running & ~item.done; left; left &= left - 1) {
			unsigned slot = (unsigned)__builtin_ctzll(left);
			struct configuration step = item;

			if (changes_nothing(search->slots[slot]) ||
			    !apply(search->problem, step.names, search->slots[slot]))
				continue;
			step.done |= UINT64_C(1) << slot;
			if (!set_add(&search->reach, &step))
				return false;
		}
	}
	return true;
}

/* A count begins or ends. */
static enum linear_outcome step_count(struct search *search, const struct linear_op *op, bool end)
{
	if (!end) {
		if (search->count_count == SLOTS)
			return LINEAR_UNDECIDED;
		search->counts[search->count_count++] = op;
		return LINEAR_GOOD;
	}
	if (!look_around(search))
		return LINEAR_UNDECIDED;
	for (unsigned i = 0; i < search->count_count; i++)
		if (search->counts[i] == op)
			return LINEAR_BAD;
	return LINEAR_GOOD;
}

/* All configurations in which the operation of `slot` has had its instant. `now` grows while it is walked. */
static enum linear_outcome answer(struct search *search, unsigned slot)
{
	uint64_t bit = UINT64_C(1) << slot;

	search->next.count = 0;
	for (size_t i = 0; i < search->now.count; i++) {
		struct configuration item = search->now.items[i];

		settle_readers(search, &item);
		if (item.done & bit) {
			item.done &= ~bit;
			if (!set_add(&search->next, &item))
				return LINEAR_UNDECIDED;
			continue;
		}
		for (uint64_t left = search->running & ~item.done; left; left &= left - 1) {
			unsigned other = (unsigned)__builtin_ctzll(left);
			struct configuration step = item;

			if (changes_nothing(search->slots[other]) ||
			    !apply(search->problem, step.names, search->slots[other]))
				continue;
			step.done |= UINT64_C(1) << other;
			if (!set_add(&search->now, &step))
				return LINEAR_UNDECIDED;
		}
	}
	if (!search->next.count)
		return LINEAR_BAD;
	struct set swap = search->now;
	search->now = search->next;
	search->next = swap;
	search->running &= ~bit;
	return LINEAR_GOOD;
}

/* At equal times what begins comes first: then the two are concurrent, which allows more. */
static int compare_events(const void *a, const void *b)
{
	const struct event *one = a, *two = b;

	if (one->time != two->time)
		return one->time < two->time ? -1 : 1;
	return (int)one->end - (int)two->end;
}

static struct event *sort_events(const struct linear_problem *problem)
{
	struct event *events = calloc(2 * problem->count + 1, sizeof(*events));

	if (!events)
		abort();
	for (size_t i = 0; i < problem->count; i++) {
		events[2 * i] = (struct event){ problem->ops[i].begin, i, false };
		events[2 * i + 1] = (struct event){ problem->ops[i].end, i, true };
	}
	qsort(events, 2 * problem->count, sizeof(*events), compare_events);
	return events;
}

static enum linear_outcome step(struct search *search, const struct event *event)
{
	const struct linear_op *op = &search->problem->ops[event->op];
	unsigned slot;

	if (judged_apart(search, op))
		return step_count(search, op, event->end);
	if (event->end) {
		/* Before the answer decides what the names were. */
		if (search->count_count && !look_around(search))
			return LINEAR_UNDECIDED;
		return answer(search, search->slot_of[event->op]);
	}
	if (search->running == UINT64_MAX)
		return LINEAR_UNDECIDED;
	slot = (unsigned)__builtin_ctzll(~search->running);
	search->slots[slot] = op;
	search->slot_of[event->op] = slot;
	search->running |= UINT64_C(1) << slot;
	return LINEAR_GOOD;
}

/* ---- What to tell about a violation ---- */

void linear_print(const struct linear_op *op, uint64_t zero, char *text, size_t size)
{
	static const char *const kinds[] = { "create", "link", "unlink", "rmdir", "rename", "lookup", "count" };
	char rest[80] = "";

	if (op->kind == LINEAR_RENAME)
		snprintf(rest, sizeof(rest), " to n%u%s%s", op->other, op->flags & RENAME_NOREPLACE ? " noreplace" : "",
			 op->flags & RENAME_EXCHANGE ? " exchange" : "");
	else if (op->kind == LINEAR_COUNT)
		snprintf(rest, sizeof(rest), " of %#x: %u", op->object, op->links);
	else if (op->object == LINEAR_ANY)
		snprintf(rest, sizeof(rest), " found");
	else if (op->object)
		snprintf(rest, sizeof(rest), " %#x", op->object);
	snprintf(text, size, "[%lld, %lld] thread %u: %s n%u%s -> %s", (long long)(op->begin - zero),
		 (long long)(op->end - zero), op->thread, kinds[op->kind], op->name, rest,
		 op->result ? strerrorname_np(-op->result) : "0");
}

static void explain(const struct search *search, const struct event *events, size_t at, char *text)
{
	const struct linear_problem *problem = search->problem;
	const struct linear_op *bad = &problem->ops[events[at].op];
	size_t used, first = at > 24 ? at - 24 : 0;
	char line[200];

	linear_print(bad, bad->begin, line, sizeof(line));
	used = (size_t)snprintf(text, LINEAR_TEXT, "%s (ns) fits no order.\nPossible before this answer:", line);
	for (size_t i = 0; i < search->now.count && i < 8; i++) {
		used += (size_t)snprintf(text + used, LINEAR_TEXT - used, "\n  names");
		for (unsigned n = 0; n < problem->names; n++)
			used += (size_t)snprintf(text + used, LINEAR_TEXT - used, " %#x",
						 search->now.items[i].names[n]);
	}
	used += (size_t)snprintf(text + used, LINEAR_TEXT - used, "\nBefore it, and while it ran:");
	/* What ended a little before it began, or later, and began before it ended; in the order of beginnings. */
	for (size_t i = 0; i < at && used < LINEAR_TEXT - 300; i++) {
		const struct linear_op *op = &problem->ops[events[i].op];

		if (events[i].end || op->end < events[first].time)
			continue;
		linear_print(op, bad->begin, line, sizeof(line));
		used += (size_t)snprintf(text + used, LINEAR_TEXT - used, "\n  %s", line);
	}
}

enum linear_outcome linear_check(const struct linear_problem *problem, char *explanation)
{
	struct search search = { .problem = problem };
	struct event *events = sort_events(problem);
	struct configuration start = { .done = 0 };
	enum linear_outcome outcome = LINEAR_GOOD;

	*explanation = 0;
	search.slot_of = calloc(problem->count + 1, sizeof(*search.slot_of));
	if (!search.slot_of)
		abort();
	memcpy(start.names, problem->start, sizeof(start.names));
	set_add(&search.now, &start);
	for (size_t i = 0; i < 2 * problem->count && outcome == LINEAR_GOOD; i++) {
		outcome = step(&search, &events[i]);
		if (outcome == LINEAR_BAD)
			explain(&search, events, i, explanation);
	}
	free(search.now.items);
	free(search.next.items);
	free(search.reach.items);
	free(search.slot_of);
	free(events);
	return outcome;
}
