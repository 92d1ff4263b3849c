/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A test layer that records every change and flush. See record.h.
 *
 * Locking: `lock` guards the array of entries; it is not held while the device below works, so the
 * order of the log is the order in which requests took the lock: the order of their issue.
 */
#include "record.h"

#include "../../blockdrv/layer.h"

#include <assert.h>
#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

struct record_layer {
	struct bdev_layer layer;
	pthread_mutex_t lock;
	struct record_entry **entries;
	size_t count, room;
	void (*ask)(void *context, const struct bdev_request *request); /* set while nothing is in flight */
	void *ask_context;
};

static void entry_free(struct record_entry *entry)
{
	if (!entry)
		return;
	bdev_buffer_free(entry->data, entry->length);
	free(entry);
}

static int append_locked(struct record_layer *record, struct record_entry *entry)
{
	if (record->count == record->room) {
		size_t room = record->room ? record->room * 2 : 64;
		struct record_entry **entries = realloc(record->entries, room * sizeof(*entries));

		if (!entries)
			return -ENOMEM;
		record->entries = entries;
		record->room = room;
	}
	record->entries[record->count++] = entry;
	return 0;
}

static int append(struct record_layer *record, struct record_entry *entry)
{
	int result;

	pthread_mutex_lock(&record->lock);
	result = append_locked(record, entry);
	pthread_mutex_unlock(&record->lock);
	return result;
}

static enum record_kind kind_of(enum bdev_op op)
{
	switch (op) {
	case BDEV_WRITE:
		return RECORD_WRITE;
	case BDEV_DISCARD:
		return RECORD_DISCARD;
	case BDEV_WRITE_ZEROES:
		return RECORD_WRITE_ZEROES;
	default:
		return RECORD_FLUSH;
	}
}

/* The data is copied into one aligned buffer, ready to be applied with direct I/O. */
static bool copy_data(struct record_entry *entry, const struct bdev_request *request)
{
	unsigned char *at = bdev_buffer_alloc(request->length);

	entry->data = at;
	if (!at)
		return false;
	for (int i = 0; i < request->iov_count; i++) {
		memcpy(at, request->iov[i].iov_base, request->iov[i].iov_len);
		at += request->iov[i].iov_len;
	}
	return true;
}

static struct record_entry *entry_create(const struct bdev_request *request)
{
	struct record_entry *entry = calloc(1, sizeof(*entry));

	if (!entry)
		return NULL;
	entry->kind = kind_of(request->op);
	entry->flags = request->flags;
	entry->offset = request->offset;
	entry->length = request->length;
	entry->completed_at = RECORD_IN_FLIGHT;
	if (entry->kind == RECORD_WRITE && !copy_data(entry, request)) {
		free(entry);
		return NULL;
	}
	return entry;
}

static bool record_before(struct bdev_layer *layer, struct bdev_layer_slot *slot)
{
	struct record_layer *record = (struct record_layer *)layer;
	struct record_entry *entry;

	if (slot->request.op == BDEV_READ)
		return true;
	if (record->ask)
		record->ask(record->ask_context, &slot->request);
	entry = entry_create(&slot->request);
	if (!entry || append(record, entry)) {
		entry_free(entry);
		slot->request.result = -ENOMEM; /* what is not recorded must not happen */
		return false;
	}
	slot->data = entry;
	return true;
}

static void record_after(struct bdev_layer *layer, struct bdev_layer_slot *slot)
{
	struct record_layer *record = (struct record_layer *)layer;
	struct record_entry *entry = slot->data;

	if (!entry)
		return;
	pthread_mutex_lock(&record->lock);
	entry->completed_at = record->count;
	entry->result = slot->request.result;
	pthread_mutex_unlock(&record->lock);
}

static void record_close(struct bdev *dev)
{
	struct record_layer *record = (struct record_layer *)dev;

	record_clear(dev);
	free(record->entries);
	pthread_mutex_destroy(&record->lock);
	free(record);
}

static const struct bdev_operations record_operations = {
	.name = "record",
	.close = record_close,
	BDEV_LAYER_OPERATIONS,
};

int record_open(struct bdev *lower, struct bdev **out)
{
	struct record_layer *record = calloc(1, sizeof(*record));

	if (!record)
		return -ENOMEM;
	bdev_init_layer(&record->layer.dev, &record_operations, lower);
	record->layer.before = record_before;
	record->layer.after = record_after;
	pthread_mutex_init(&record->lock, NULL);
	*out = &record->layer.dev;
	return 0;
}

int record_mark(struct bdev *record_layer, uint64_t mark)
{
	struct record_layer *record = (struct record_layer *)record_layer;
	struct record_entry *entry = calloc(1, sizeof(*entry));
	int result = -ENOMEM;

	if (entry) {
		entry->kind = RECORD_MARK;
		entry->mark = mark;
		result = append(record, entry);
	}
	if (result)
		free(entry);
	return result;
}

void record_clear(struct bdev *record_layer)
{
	struct record_layer *record = (struct record_layer *)record_layer;

	pthread_mutex_lock(&record->lock);
	for (size_t i = 0; i < record->count; i++)
		entry_free(record->entries[i]);
	record->count = 0;
	pthread_mutex_unlock(&record->lock);
}

size_t record_count(struct bdev *record_layer)
{
	struct record_layer *record = (struct record_layer *)record_layer;
	size_t count;

	pthread_mutex_lock(&record->lock);
	count = record->count;
	pthread_mutex_unlock(&record->lock);
	return count;
}

const struct record_entry *record_get(struct bdev *record_layer, size_t index)
{
	struct record_layer *record = (struct record_layer *)record_layer;
	const struct record_entry *entry;

	pthread_mutex_lock(&record->lock);
	assert(index < record->count);
	entry = record->entries[index];
	pthread_mutex_unlock(&record->lock);
	return entry;
}

/* Did the caller learn, before the crash, that this entry succeeded? */
static bool was_acknowledged(const struct record_entry *entry, size_t cut)
{
	return entry->result == 0 && entry->completed_at != RECORD_IN_FLIGHT && entry->completed_at < cut;
}

bool record_is_durable(struct bdev *record_layer, size_t index, size_t cut)
{
	const struct record_entry *entry = record_get(record_layer, index);

	if (entry->kind == RECORD_FLUSH || entry->kind == RECORD_MARK || !was_acknowledged(entry, cut))
		return false;
	if (entry->flags & BDEV_FUA)
		return true;
	/* A flush that was issued after this completed, and was itself acknowledged. */
	for (size_t i = entry->completed_at; i < cut; i++) {
		const struct record_entry *flush = record_get(record_layer, i);

		if (flush->kind == RECORD_FLUSH && was_acknowledged(flush, cut))
			return true;
	}
	return false;
}

int record_apply_part(const struct record_entry *entry, struct bdev *target, uint64_t first, uint64_t length)
{
	switch (entry->kind) {
	case RECORD_WRITE:
		return bdev_write(target, (const char *)entry->data + first, length, entry->offset + first, 0);
	case RECORD_DISCARD:
	case RECORD_WRITE_ZEROES:
		return bdev_write_zeroes(target, entry->offset + first, length);
	case RECORD_FLUSH:
	case RECORD_MARK:
		return 0;
	}
	return -EINVAL;
}

int record_apply(const struct record_entry *entry, struct bdev *target)
{
	return record_apply_part(entry, target, 0, entry->length);
}

void record_ask(struct bdev *record_layer, void (*ask)(void *context, const struct bdev_request *request),
		void *context)
{
	struct record_layer *record = (struct record_layer *)record_layer;

	record->ask = ask;
	record->ask_context = context;
}
