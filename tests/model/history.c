/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The crash oracle: see history.h.
 *
 * Two passes over the operations. The first collects, for each file, the events of its data, and the floor: the
 * shortest prefix that holds all that was synced. The second builds the model prefix by prefix and compares from the
 * floor on. A write is not one of the ordered operations: its place in the prefix does not matter, only whether its
 * bytes are possible.
 */
#include "history.h"
#include "observe.h"

#include <linux/falloc.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum event_kind {
	EVENT_CREATE,   /* a new life of the inode number */
	EVENT_WRITE,    /* [from, to) may have the new bytes */
	EVENT_TRUNCATE, /* the size is `size`; what was behind is gone */
	EVENT_ALLOCATE, /* the size is at least `to` (0: unchanged) */
	EVENT_PUNCH,    /* whole blocks of [from, to) are zero, the rest may be */
	EVENT_ZERO,     /* [from, to) may be zero */
	EVENT_EXACT,    /* content and size are these (synced, or the data record is ordered: I7) */
};

struct event {
	enum event_kind kind;
	size_t index; /* prefixes of at least this length hold the operation; 0: always counts */
	uint64_t ino, from, to, size;
	bool times_too; /* EXACT: time stamps as well */
	struct content content;
};

struct events {
	struct event *list;
	size_t count, capacity;
	size_t floor;
};

void history_start(struct history *history, const struct model *base)
{
	model_copy(&history->base, base);
	for (size_t i = 0; i < history->base.capacity; i++) {
		if (history->base.nodes[i]) {
			history->base.nodes[i]->last_operation = 0;
			history->base.nodes[i]->last_not_only_times = 0;
		}
	}
	history->ops = NULL;
	history->count = history->capacity = 0;
	history->doubtful = NULL;
	history->doubtful_count = 0;
}

void history_add(struct history *history, const struct op *op)
{
	if (history->count == history->capacity) {
		history->capacity = history->capacity ? history->capacity * 2 : 64;
		history->ops = test_realloc(history->ops, history->capacity * sizeof(*history->ops));
	}
	op_copy(&history->ops[history->count++], op);
}

static bool is_doubtful(const struct history *history, uint64_t ino)
{
	for (size_t i = 0; i < history->doubtful_count; i++) {
		if (history->doubtful[i] == ino)
			return true;
	}
	return false;
}

void history_doubt(struct history *history, uint64_t ino)
{
	if (is_doubtful(history, ino))
		return;
	history->doubtful = test_realloc(history->doubtful, (history->doubtful_count + 1) * sizeof(*history->doubtful));
	history->doubtful[history->doubtful_count++] = ino;
}

void history_free(struct history *history)
{
	for (size_t i = 0; i < history->count; i++)
		op_free(&history->ops[i]);
	free(history->ops);
	free(history->doubtful);
	model_free(&history->base);
	*history = (struct history){ 0 };
}

/* ---- First pass ---- */

static struct event *event_add(struct events *events, enum event_kind kind, size_t index, const struct model_node *node)
{
	struct event *event;

	if (events->count == events->capacity) {
		events->capacity = events->capacity ? events->capacity * 2 : 64;
		events->list = test_realloc(events->list, events->capacity * sizeof(*events->list));
	}
	event = &events->list[events->count++];
	*event = (struct event){ .kind = kind, .index = index, .ino = node->ino, .size = node->size };
	content_copy(&event->content, &node->content);
	return event;
}

static void events_free(struct events *events)
{
	for (size_t i = 0; i < events->count; i++)
		content_free(&events->list[i].content);
	free(events->list);
}

static void raise_floor(struct events *events, size_t index)
{
	if (index > events->floor)
		events->floor = index;
}

static void note_synced(struct events *events, const struct model_node *node, bool data_only)
{
	raise_floor(events, data_only ? node->last_not_only_times : node->last_operation);
	if (S_ISREG(node->mode))
		event_add(events, EVENT_EXACT, 0, node)->times_too = !data_only;
}

static void note_all_synced(struct events *events, const struct model *model, size_t index)
{
	raise_floor(events, index);
	for (size_t i = 0; i < model->capacity; i++) {
		if (model->nodes[i] && S_ISREG(model->nodes[i]->mode))
			event_add(events, EVENT_EXACT, 0, model->nodes[i])->times_too = true;
	}
}

static void note_range(struct events *events, enum event_kind kind, size_t index, const struct model_node *node,
		       uint64_t from, uint64_t to)
{
	struct event *event = event_add(events, kind, index, node);

	event->from = from;
	event->to = to;
}

static void note_write(struct events *events, const struct op *op, size_t index, const struct model_node *node,
		       uint64_t old_size, bool completed)
{
	uint64_t from = op->flags & ASH_WRITE_APPEND ? old_size : op->offset;

	note_range(events, EVENT_WRITE, index, node, from, from + (uint64_t)op->result);
	if ((op->flags & ASH_WRITE_SYNC) && completed)
		note_synced(events, node, true);
}

static void note_fallocate(struct events *events, const struct op *op, size_t index, const struct model_node *node)
{
	uint64_t end = op->offset + op->length;

	if (op->flags & FALLOC_FL_PUNCH_HOLE)
		note_range(events, EVENT_PUNCH, index, node, op->offset, end);
	if (op->flags & FALLOC_FL_ZERO_RANGE)
		note_range(events, EVENT_ZERO, index, node, op->offset, end);
	if (!(op->flags & FALLOC_FL_KEEP_SIZE))
		note_range(events, EVENT_ALLOCATE, index, node, 0, end);
}

/* After `op` was applied to the model. `old_size`: of its subject before. `replaced`: a rename found a file there. */
static void note(struct events *events, const struct model *model, const struct op *op, size_t index, uint64_t old_size,
		 bool replaced, bool completed)
{
	const struct model_node *node = model_find(model, op->ino), *other;

	if (op->result < 0)
		return;
	switch (op->kind) {
	case OP_CREATE:
	case OP_TMPFILE:
		event_add(events, EVENT_CREATE, index, model_find(model, op->result_ino));
		break;
	case OP_WRITE:
		if (op->result > 0)
			note_write(events, op, index, node, old_size, completed);
		break;
	case OP_COPY_RANGE:
		if (op->result > 0)
			note_range(events, EVENT_WRITE, index, model_find(model, op->ino2), op->offset2,
				   op->offset2 + (uint64_t)op->result);
		break;
	case OP_SETATTR:
		if (op->change.valid & ASH_SET_SIZE)
			event_add(events, EVENT_TRUNCATE, index, node);
		break;
	case OP_FALLOCATE:
		note_fallocate(events, op, index, node);
		break;
	case OP_RENAME:
		other = model_child(model, model_find(model, op->ino2), op->name2);
		if (replaced && other && S_ISREG(other->mode))
			event_add(events, EVENT_EXACT, index, other);
		break;
	case OP_FSYNC:
		if (completed && node)
			note_synced(events, node, op->flags);
		break;
	case OP_SYNC:
	case OP_CHECKPOINT:
		if (completed)
			note_all_synced(events, model, index);
		break;
	default:
		break;
	}
}

static bool replaces_file(const struct model *model, const struct op *op)
{
	const struct model_node *directory = op->kind == OP_RENAME ? model_find(model, op->ino2) : NULL;
	const struct model_node *node = directory ? model_child(model, directory, op->name2) : NULL;

	/* two names of one file: nothing happens */
	return node && S_ISREG(node->mode) && (op->flags & ~RENAME_WHITEOUT) == 0 &&
	       node != model_child(model, model_find(model, op->ino), op->name);
}

static void collect_events(const struct history *history, struct history_moment moment, struct events *events)
{
	struct model model;

	model_copy(&model, &history->base);
	for (size_t i = 0; i < moment.issued; i++) {
		const struct op *op = &history->ops[i];
		const struct model_node *node = model_find(&model, op->ino);
		uint64_t old_size = node ? node->size : 0;
		bool replaced = replaces_file(&model, op), refilled = op->kind == OP_WRITE && node && node->emptied;

		if (op->result < 0)
			continue;
		model_apply(&model, op, i + 1);
		note(events, &model, op, i + 1, old_size, replaced, i < moment.completed);
		/* replace by truncation: when a later operation is there, its data is */
		if (refilled && op->result > 0)
			event_add(events, EVENT_EXACT, i + 2, model_find(&model, op->ino));
	}
	model_free(&model);
}

/* ---- Second pass ---- */

struct candidate {
	const struct history *history;
	const struct events *events;
	size_t prefix;
	const struct model *model; /* after the prefix */
	const struct model *observed;
	char *text;
	size_t size;
};

/* Does the event say something for this prefix? Those that only widen what is possible count always. */
static bool event_counts(const struct candidate *c, const struct event *event)
{
	return event->index <= c->prefix;
}

static void size_range(const struct candidate *c, uint64_t ino, uint64_t *low, uint64_t *high)
{
	const struct model_node *base = model_find(&c->history->base, ino);

	*low = *high = base ? base->size : 0;
	for (size_t i = 0; i < c->events->count; i++) {
		const struct event *event = &c->events->list[i];

		if (event->ino != ino || !event_counts(c, event)) {
			if (event->ino == ino && event->kind == EVENT_CREATE)
				break; /* a later life */
			continue;
		}
		if (event->kind == EVENT_CREATE)
			*low = *high = 0;
		if (event->kind == EVENT_TRUNCATE || event->kind == EVENT_EXACT)
			*low = *high = event->size;
		if (event->kind == EVENT_WRITE || event->kind == EVENT_ALLOCATE)
			*high = event->to > *high ? event->to : *high;
		if (event->kind == EVENT_ALLOCATE)
			*low = event->to > *low ? event->to : *low;
	}
}

struct byte_set {
	uint64_t bits[4];
};

static void set_only(struct byte_set *set, unsigned char byte)
{
	*set = (struct byte_set){ { 0 } };
	set->bits[byte / 64] |= 1ull << byte % 64;
}

static void set_add(struct byte_set *set, unsigned char byte)
{
	set->bits[byte / 64] |= 1ull << byte % 64;
}

static unsigned char byte_at(const struct content *content, uint64_t offset)
{
	const unsigned char *page = content_page(content, offset / CONTENT_PAGE);

	return page ? page[offset % CONTENT_PAGE] : 0;
}

static void apply_event(const struct candidate *c, const struct event *event, uint64_t offset, struct byte_set *set)
{
	bool counts = event_counts(c, event), inside = offset >= event->from && offset < event->to;
	uint64_t page = offset & ~(uint64_t)(CONTENT_PAGE - 1);

	switch (event->kind) {
	case EVENT_CREATE:
		set_only(set, 0);
		break;
	case EVENT_WRITE:
		if (inside)
			set_add(set, byte_at(&event->content, offset));
		break;
	case EVENT_TRUNCATE:
		if (counts && offset >= event->size)
			set_only(set, 0);
		break;
	case EVENT_PUNCH:
		if (inside && counts && page >= event->from && page + CONTENT_PAGE <= event->to)
			set_only(set, 0);
		else if (inside)
			set_add(set, 0);
		break;
	case EVENT_ZERO:
		if (inside)
			set_add(set, 0);
		break;
	case EVENT_EXACT:
		if (counts)
			set_only(set, byte_at(&event->content, offset));
		break;
	case EVENT_ALLOCATE:
		break;
	}
}

/* Can the event say anything about the page at `start`? */
static bool concerns(const struct candidate *c, const struct event *event, uint64_t start)
{
	switch (event->kind) {
	case EVENT_CREATE:
	case EVENT_EXACT:
		return event_counts(c, event);
	case EVENT_TRUNCATE:
		return event_counts(c, event) && event->size < start + CONTENT_PAGE;
	case EVENT_ALLOCATE:
		return false;
	default:
		return event->from < start + CONTENT_PAGE && event->to > start;
	}
}

/* The file's events that concern the page, NULL-terminated. */
static const struct event **page_events(const struct candidate *c, uint64_t ino, uint64_t start)
{
	const struct event **list = test_alloc((c->events->count + 1) * sizeof(*list));
	size_t count = 0;

	for (size_t i = 0; i < c->events->count; i++) {
		const struct event *event = &c->events->list[i];

		if (event->ino != ino)
			continue;
		if (event->kind == EVENT_CREATE && !event_counts(c, event))
			break; /* a later life */
		if (concerns(c, event, start))
			list[count++] = event;
	}
	return list;
}

/* What the file may hold at `offset`. */
static struct byte_set possible_bytes(const struct candidate *c, uint64_t ino, const struct event **events,
				      uint64_t offset)
{
	const struct model_node *base = model_find(&c->history->base, ino);
	struct byte_set set;

	set_only(&set, base ? byte_at(&base->content, offset) : 0);
	for (; *events; events++)
		apply_event(c, *events, offset, &set);
	return set;
}

/* Byte by byte: the page differs from what the model has. */
static bool bytes_possible(const struct candidate *c, const struct model_node *expected, const unsigned char *want,
			   const unsigned char *got, uint64_t start, uint64_t end)
{
	const struct event **events = page_events(c, expected->ino, start);
	uint64_t offset;

	for (offset = start; offset < end; offset++) {
		unsigned char byte = got ? got[offset - start] : 0;
		struct byte_set set;

		if (offset < expected->size && byte == (want ? want[offset - start] : 0))
			continue;
		set = possible_bytes(c, expected->ino, events, offset);
		if (set.bits[byte / 64] >> byte % 64 & 1)
			continue;
		snprintf(c->text, c->size,
			 "inode %llu: offset %llu holds 0x%02x, which was never there (now 0x%02x in the model)",
			 (unsigned long long)expected->ino, (unsigned long long)offset, byte,
			 want ? want[offset - start] : 0);
		break;
	}
	free(events);
	return offset == end;
}

static bool page_possible(const struct candidate *c, const struct model_node *expected,
			  const struct model_node *observed, uint64_t index)
{
	const unsigned char *want = content_page(&expected->content, index);
	const unsigned char *got = content_page(&observed->content, index);
	uint64_t start = index * CONTENT_PAGE, end = start + CONTENT_PAGE;

	end = end < observed->size ? end : observed->size;
	if (want == got || start >= end || (want && got && end <= expected->size && !memcmp(want, got, end - start)))
		return true;
	return bytes_possible(c, expected, want, got, start, end);
}

static bool data_possible(const struct candidate *c, const struct model_node *expected,
			  const struct model_node *observed)
{
	uint64_t low, high;

	size_range(c, expected->ino, &low, &high);
	if (observed->size < low || observed->size > high) {
		snprintf(c->text, c->size, "inode %llu: size %llu, expected %llu to %llu",
			 (unsigned long long)expected->ino, (unsigned long long)observed->size, (unsigned long long)low,
			 (unsigned long long)high);
		return false;
	}
	for (size_t i = 0; i < observed->content.count; i++) {
		if (!page_possible(c, expected, observed, observed->content.slots[i].index))
			return false;
	}
	for (size_t i = 0; i < expected->content.count; i++) {
		if (!page_possible(c, expected, observed, expected->content.slots[i].index))
			return false;
	}
	return true;
}

/* Written data that is not synced takes its time stamps with it. */
static bool times_are_due(const struct candidate *c, uint64_t ino)
{
	bool due = true;

	for (size_t i = 0; i < c->events->count; i++) {
		const struct event *event = &c->events->list[i];

		if (event->ino != ino)
			continue;
		if (event->kind == EVENT_CREATE && !event_counts(c, event))
			break;
		if (event->kind == EVENT_CREATE || (event->kind == EVENT_EXACT && event->times_too))
			due = true;
		if (event->kind == EVENT_WRITE)
			due = false;
	}
	return due;
}

static bool node_possible(const struct candidate *c, const struct model_node *node)
{
	const struct model_node *seen = model_find(c->observed, node->ino);

	if (!seen) {
		snprintf(c->text, c->size, "inode %llu is missing", (unsigned long long)node->ino);
		return false;
	}
	if (!nodes_equal(node, seen, c->text, c->size))
		return false;
	if (is_doubtful(c->history, node->ino))
		return true;
	if (times_are_due(c, node->ino) && !times_equal(node, seen, c->text, c->size))
		return false;
	return !S_ISREG(node->mode) || data_possible(c, node, seen);
}

static bool candidate_fits(const struct candidate *c)
{
	size_t linked = 0;

	for (size_t i = 0; i < c->model->capacity; i++) {
		if (c->model->nodes[i] && c->model->nodes[i]->nlink) {
			if (!node_possible(c, c->model->nodes[i]))
				return false;
			linked++;
		}
	}
	if (linked == c->observed->count)
		return true;
	snprintf(c->text, c->size, "%zu inodes are expected, %zu are found", linked, c->observed->count);
	return false;
}

bool history_explains(const struct history *history, struct history_moment moment, const struct model *observed,
		      size_t *prefix, char *text, size_t size)
{
	struct events events = { 0 };
	struct model model;
	char reason[512] = "", last_reason[512] = "";
	size_t used = 0;
	bool found = false;

	collect_events(history, moment, &events);
	model_copy(&model, &history->base);
	for (size_t k = 0; k <= moment.issued && !found; k++) {
		struct candidate candidate = { history, &events, k, &model, observed, reason, sizeof(reason) };

		if (k && history->ops[k - 1].result >= 0)
			model_apply(&model, &history->ops[k - 1], k);
		if (k < events.floor)
			continue;
		found = candidate_fits(&candidate);
		if (!found && getenv("HISTORY_VERBOSE"))
			fprintf(stderr, "# prefix %zu: %s\n", k, reason);
		if (found) {
			*prefix = k;
		} else if (used + 1 < size && strcmp(reason, last_reason) &&
			   (k < events.floor + 2 || k + 4 > moment.issued)) { /* the ends tell most */
			int more = snprintf(text + used, size - used, "%s%zu: %s", used ? "; " : "no prefix fits: ", k,
					    reason);

			used += more > 0 ? (size_t)more : 0;
			snprintf(last_reason, sizeof(last_reason), "%s", reason);
		}
	}
	model_free(&model);
	events_free(&events);
	return found;
}

size_t history_syncs(const struct history *history, size_t completed)
{
	size_t syncs = 0;

	for (size_t i = 0; i < completed && i < history->count; i++) {
		const struct op *op = &history->ops[i];

		if (op->result >= 0 && (op->kind == OP_FSYNC || op->kind == OP_SYNC || op->kind == OP_CHECKPOINT ||
					(op->kind == OP_WRITE && (op->flags & ASH_WRITE_SYNC))))
			syncs++;
	}
	return syncs;
}
