/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The look at the volume in memory after a fault: see subject.h. What a file may hold after an error was reported for it is any
 * byte that it once held at that place; everything else must be as the model says. One thread.
 */
#include "alloc.h"
#include "subject.h"
#include "tests/model/observe.h"

#include <ashlar/format.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

uint64_t audit_data_subject(const struct op *op)
{
	switch (op->kind) {
	case OP_WRITE:
	case OP_FALLOCATE:
		return op->ino;
	case OP_COPY_RANGE:
		return op->ino2;
	case OP_SETATTR:
		return op->change.valid & ASH_SET_SIZE ? op->ino : 0;
	default:
		return 0;
	}
}

void audit_remember(struct subject *x, uint64_t ino)
{
	const struct model_node *node = model_find(&x->script.model, ino);

	if (!node || !S_ISREG(node->mode))
		return;
	if (x->trail_count == x->trail_capacity) {
		x->trail_capacity = x->trail_capacity ? x->trail_capacity * 2 : 64;
		x->trail = test_realloc(x->trail, x->trail_capacity * sizeof(*x->trail));
	}
	x->trail[x->trail_count].ino = ino;
	content_copy(&x->trail[x->trail_count++].content, &node->content);
}

static unsigned char byte_of(const struct content *content, uint64_t offset)
{
	unsigned char byte;

	content_read(content, offset, &byte, 1);
	return byte;
}

/* Was this byte ever there? */
static bool byte_held(const struct subject *x, uint64_t ino, uint64_t offset, unsigned char byte)
{
	const struct model_node *base = model_find(&x->script.history.base, ino);

	if (!byte || (base && byte_of(&base->content, offset) == byte))
		return true;
	for (size_t i = 0; i < x->trail_count; i++) {
		if (x->trail[i].ino == ino && byte_of(&x->trail[i].content, offset) == byte)
			return true;
	}
	return false;
}

/* Is it what the copy was to put there? Of a source that is unknown, anything that it once held. */
static bool byte_copied(const struct subject *x, const struct op *op, uint64_t offset, unsigned char byte)
{
	const struct model_node *source = model_find(&x->script.model, op->ino);
	uint64_t from = op->offset + (offset - op->offset2);

	if (!source || offset < op->offset2 || offset - op->offset2 >= op->length)
		return false;
	if (subject_unknown(x, op->ino))
		return byte_held(x, op->ino, from, byte);
	return from < source->size && byte_of(&source->content, from) == byte;
}

/* One that was there, or that `op` may have put there before it failed. */
static bool byte_known(const struct subject *x, const struct op *op, uint64_t ino, uint64_t offset, unsigned char byte)
{
	unsigned char written;

	if (byte_held(x, ino, offset, byte))
		return true;
	if (op->kind == OP_COPY_RANGE && op->ino2 == ino)
		return byte_copied(x, op, offset, byte);
	if (op->kind != OP_WRITE || op->ino != ino || (!(op->flags & ASH_WRITE_APPEND) && offset < op->offset))
		return false;
	pattern_fill(&written, 1, offset, op->pattern);
	return written == byte;
}

static void check_bytes(struct subject *x, const struct op *op, const struct model_node *expected,
			const struct model_node *seen)
{
	for (size_t i = 0; i < seen->content.count && !x->bad; i++) {
		uint64_t start = seen->content.slots[i].index * CONTENT_PAGE;
		const unsigned char *got = seen->content.slots[i].page->data;
		const unsigned char *want = content_page(&expected->content, seen->content.slots[i].index);

		for (size_t j = 0; j < CONTENT_PAGE && start + j < seen->size && !x->bad; j++) {
			char text[120];

			if (got[j] == (want ? want[j] : 0) || byte_known(x, op, expected->ino, start + j, got[j]))
				continue;
			snprintf(text, sizeof(text), "inode %llu: offset %llu holds 0x%02x, which was never there",
				 (unsigned long long)expected->ino, (unsigned long long)(start + j), got[j]);
			subject_bad(x, "foreign data after an error", text);
		}
	}
}

/* The model follows what is really there: the error was reported. */
static void accept(struct subject *x, struct model_node *expected, const struct model_node *seen)
{
	content_free(&expected->content);
	content_copy(&expected->content, &seen->content);
	expected->size = seen->size;
	expected->mtime = seen->mtime;
	expected->ctime = seen->ctime;
	history_doubt(&x->script.history, expected->ino);
	audit_remember(x, expected->ino);
}

/* Was the error that belongs to this file given to the caller already? */
static bool was_told(const struct op *op, uint64_t ino)
{
	if (op->result >= 0 && (op->kind != OP_WRITE || op->result == (int64_t)op->length))
		return false;
	return audit_data_subject(op) == ino || (op->kind == OP_FSYNC && op->ino == ino);
}

/* Data of `expected` is not what it should be: this must be said to who asks, once. */
static void check_report(struct subject *x, const struct op *op, uint64_t ino, bool *synced)
{
	struct ash_volume *volume = x->script.runner.volume;
	bool told = was_told(op, ino);
	int error;

	if (x->failed || !subject_fault_over(x))
		return;
	if (op->result >= 0 && !told && !*synced && x->in->point % 2) {
		*synced = true;
		if (!ash_sync(volume))
			subject_bad(x, "loss", "sync succeeded after buffered data was lost in the background");
	}
	error = ash_fsync(volume, ino, false);
	if (!told && !error)
		subject_bad(x, "loss", "fsync of a file that lost data succeeded");
	if (told && error && op->kind == OP_FSYNC)
		subject_bad(x, "loss", "fsync reported one error twice");
	if (ash_fsync(volume, ino, false))
		subject_bad(x, "loss", "fsync reported one error twice");
}

static unsigned blocks_that_differ(const struct model_node *expected, const struct model_node *seen)
{
	unsigned char want[ASH_BLOCK_SIZE], got[ASH_BLOCK_SIZE];
	unsigned count = 0;

	for (uint64_t at = 0; at < expected->size; at += ASH_BLOCK_SIZE) {
		content_read(&expected->content, at, want, ASH_BLOCK_SIZE);
		content_read(&seen->content, at, got, ASH_BLOCK_SIZE);
		count += memcmp(want, got, ASH_BLOCK_SIZE) != 0;
	}
	return count;
}

/*
 * What is written out of the buffer is tried again in parts: a request that fails once costs nothing if it had parts, else
 * its block, and what would lie behind an end of file in that block.
 */
static void check_amount(struct subject *x, const struct op *op, const struct model_node *expected,
			 const struct model_node *seen)
{
	struct fault_event event;

	if (audit_data_subject(op) == expected->ino || x->failed || !subject_fault_over(x) ||
	    !fault_first(x->fault, &event) || event.op != BDEV_WRITE || x->in->kind == INJECT_ENOSPC)
		return;
	if (event.length > ASH_BLOCK_SIZE)
		subject_bad(x, "loss", "of a request that could have been done again in parts");
	else if (expected->size == seen->size && blocks_that_differ(expected, seen) > 1)
		subject_bad(x, "loss", "of more than the block that could not be written");
}

/* A regular file that differs in size, data or times. */
static void check_loss(struct subject *x, const struct op *op, struct model_node *expected,
		       const struct model_node *seen, const char *difference, bool *synced)
{
	/* A range that takes several transactions to empty stays empty as far as they got. */
	bool partly = op->kind == OP_FALLOCATE && op->flags && op->ino == expected->ino && op->result < 0;

	if (x->in->kind == INJECT_ENOMEM && !partly) {
		subject_bad(x, "changed by a failed allocation", difference);
		return;
	}
	check_bytes(x, op, expected, seen);
	check_amount(x, op, expected, seen);
	check_report(x, op, expected->ino, synced);
	if (!x->bad)
		accept(x, expected, seen);
}

static bool data_equal(const struct model_node *expected, const struct model_node *seen, char *text, size_t size)
{
	uint64_t where = 0;

	if (expected->size != seen->size || !content_equal(&expected->content, &seen->content, seen->size, &where)) {
		snprintf(text, size, "inode %llu: size %llu, found %llu, or data at %llu",
			 (unsigned long long)expected->ino, (unsigned long long)expected->size,
			 (unsigned long long)seen->size, (unsigned long long)where);
		return false;
	}
	return times_equal(expected, seen, text, size);
}

static int64_t ns_of(struct timespec time)
{
	return time.tv_sec * 1000000000ll + time.tv_nsec;
}

/* Unlinked files that are still open: no walk finds them. Their data and times alone. */
static void see_orphans(struct subject *x, struct model *seen)
{
	const struct model *model = &x->script.model;
	struct ash_volume *volume = x->script.runner.volume;

	for (size_t i = 0; i < model->capacity; i++) {
		const struct model_node *node = model->nodes[i];
		struct model_node *out;
		struct ash_attr attr;
		unsigned char *data;

		if (!node || node->nlink || !S_ISREG(node->mode) || ash_getattr(volume, node->ino, &attr) ||
		    attr.size > 4 << 20)
			continue;
		data = test_alloc(attr.size);
		if (ash_read(volume, node->ino, data, attr.size, 0) == (int64_t)attr.size) {
			out = model_add_node(seen, node->ino, attr.mode);
			out->nlink = 0;
			out->size = attr.size;
			out->mtime = ns_of(attr.mtime);
			out->ctime = ns_of(attr.ctime);
			out->btime = ns_of(attr.btime);
			out->atime = ns_of(attr.atime);
			content_write(&out->content, 0, data, attr.size);
		}
		free(data);
	}
}

/* A write drops security.capability before it changes the first byte, as it must when it fails half-way. */
static void follow_capability(struct subject *x, const struct op *op, const struct model *seen)
{
	static const char name[] = "security.capability";
	const struct model_node *node = model_find(&x->script.model, op->ino), *other = model_find(seen, op->ino);
	struct op dropped = { .kind = OP_REMOVEXATTR, .ino = op->ino, .time = op->time };

	if (op->kind != OP_WRITE || op->result >= 0 || !node || !other || !model_find_xattr(node, name) ||
	    model_find_xattr(other, name))
		return;
	memcpy(dropped.name, name, sizeof(name));
	model_apply(&x->script.model, &dropped, x->script.runner.index);
	subject_remember(x, &dropped, true);
}

static void compare_all(struct subject *x, const struct op *op, const struct model *seen)
{
	const struct model *model = &x->script.model;
	char text[400] = "";
	bool synced = false;
	size_t linked = 0;

	for (size_t i = 0; i < model->capacity && !x->bad; i++) {
		struct model_node *node = model->nodes[i];
		const struct model_node *other = node && node->nlink ? model_find(seen, node->ino) : NULL;

		if (node && !node->nlink)
			other = model_find(seen, node->ino);
		if (!node || (!node->nlink && !other))
			continue;
		linked++;
		if (!other || (node->nlink && !nodes_equal(node, other, text, sizeof(text))))
			subject_bad(x, "changed by a failed operation", other ? text : "an inode is missing");
		else if (S_ISREG(node->mode) && !subject_unknown(x, node->ino) &&
			 !data_equal(node, other, text, sizeof(text)))
			check_loss(x, op, node, other, text, &synced);
		else if (!S_ISREG(node->mode) && !times_equal(node, other, text, sizeof(text)))
			subject_bad(x, "changed by a failed operation", text);
	}
	if (linked != seen->count)
		subject_bad(x, "changed by a failed operation", "there are more inodes than there should be");
}

/* ---- What kind of request failed ---- */

enum request_class { CLASS_UNKNOWN, CLASS_DATA, CLASS_METADATA };

static enum request_class class_of(const struct fault_event *event)
{
	static const uint32_t magics[] = { ASH_MAGIC_SUPER,        ASH_MAGIC_GROUP_TABLE, ASH_MAGIC_BLOCK_BITMAP,
					   ASH_MAGIC_INODE_BITMAP, ASH_MAGIC_TREE_NODE,   ASH_MAGIC_LOG_CONTROL,
					   ASH_MAGIC_LOG_BLOCK,    ASH_MAGIC_INODE };
	uint32_t head = (uint32_t)event->head[0] | (uint32_t)event->head[1] << 8 | (uint32_t)event->head[2] << 16 |
			(uint32_t)event->head[3] << 24;

	if (event->op == BDEV_FLUSH)
		return CLASS_METADATA;
	if (head == ASH_MAGIC_SUPER && event->offset)
		return CLASS_UNKNOWN; /* a backup: nothing hangs on it */
	for (size_t i = 0; i < sizeof(magics) / sizeof(*magics); i++) {
		if (event->op == BDEV_WRITE && head == magics[i])
			return CLASS_METADATA;
	}
	return event->op == BDEV_WRITE && !head ? CLASS_UNKNOWN : CLASS_DATA; /* a free inode record begins so, too */
}

static void check_class(struct subject *x)
{
	struct fault_event event;
	char text[120];

	if (x->in->kind == INJECT_ENOMEM || !fault_first(x->fault, &event))
		return;
	snprintf(text, sizeof(text), "request %d at block %llu, %llu bytes, head %02x%02x%02x%02x", event.op,
		 (unsigned long long)event.offset / ASH_BLOCK_SIZE, (unsigned long long)event.length, event.head[3],
		 event.head[2], event.head[1], event.head[0]);
	if (class_of(&event) == CLASS_METADATA && !x->failed)
		subject_bad(x, "the volume goes on after a failed log or metadata write or flush", text);
	if (class_of(&event) == CLASS_DATA && x->failed && subject_fault_over(x))
		subject_bad(x, "the volume failed because of data", text);
}

/* With the S flag an operation is done first and made durable then: when that fails it has happened in memory. */
static bool is_ambiguous(const struct subject *x, const struct op *op)
{
	const uint64_t inos[] = { op->ino, op->ino2 };

	for (unsigned i = 0; i < 2 && x->failed && op->result < 0; i++) {
		const struct model_node *node = model_find(&x->script.model, inos[i]);
		const struct model_node *child = node ? model_child(&x->script.model, node, op->name) : NULL;

		if ((node && (node->flags & ASH_INODE_SYNC)) || (child && (child->flags & ASH_INODE_SYNC)))
			return true;
	}
	return x->failed && op->result < 0 && op->kind == OP_SETATTR && (op->change.valid & ASH_SET_FLAGS);
}

void audit(struct subject *x, const struct op *op)
{
	struct ash_volume *volume = x->script.runner.volume;
	struct model seen;
	char reason[400];
	int error;

	x->audited = true;
	check_class(x);
	if (x->failed && !x->bad && !ash_sync(volume))
		subject_bad(x, "I6", "sync succeeded on a failed volume");
	if (x->failed && op->result < 0 && audit_data_subject(op))
		subject_set_unknown(x, audit_data_subject(op));
	if (is_ambiguous(x, op))
		return;
	error = observe(volume, &seen, reason, sizeof(reason));
	if (!error && !x->bad) {
		see_orphans(x, &seen);
		follow_capability(x, op, &seen);
		compare_all(x, op, &seen);
	}
	/* SEEK first writes buffered data out, which may go on failing */
	if (error && !subject_gone(x) && (subject_fault_over(x) || !strstr(reason, "SEEK")))
		subject_bad(x, "reading after the fault", reason);
	if (error && audit_data_subject(op))
		subject_set_unknown(x, audit_data_subject(op));
	model_free(&seen);
}
