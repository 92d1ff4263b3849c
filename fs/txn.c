/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Transactions: the contract is in txn.h.
 *
 * A transaction changes buffers in place. Before each change the old bytes go to its arena as an undo
 * entry that hangs in two lists: the buffer's (so that the checkpoint can take it back in its copy) and the
 * transaction's (for abort). Commit turns the same entries into one redo record: for bytes, what the buffer
 * holds now in the merged ranges; for bits, the logical change (I11). Then, under log.lock, the record is appended
 * and every buffer learns its LSN and loses the entries: from that moment its committed image holds the change.
 *
 * Locks: log.lock -> buffer.lock. The arena belongs to the thread that runs the transaction.
 */
#include "engine.h"

#include <stdlib.h>

#define END_CONTEXT 64u
#define MERGE_GAP 16u /* a new item costs as much as this many bytes */
#define RANGES 48u    /* byte ranges of one buffer that are merged */

/* What a transaction did to one buffer. */
struct ash_touch {
	struct ash_touch *next; /* in order of first touch */
	struct ash_buffer *buffer;
	bool formatted;
	bool revoked; /* freed by the same transaction: nothing of it is logged */
};

struct end_call {
	struct end_call *next; /* newest first */
	ash_txn_end end;
	uint64_t context[END_CONTEXT / 8];
};

struct side_item { /* revokes, orphans */
	struct side_item *next;
	uint8_t kind;
	uint64_t value;
};

/* Memory beyond the arena, when a transaction of many tiny changes needs more undo than its class gives. */
struct overflow {
	struct overflow *next;
};

struct ash_txn {
	struct ash_volume *volume;
	uint64_t reserved_blocks;
	uint32_t log_bytes; /* the reservation */
	uint32_t bytes;     /* collected so far, an upper estimate of the record */
	bool system;
	unsigned arena_class;
	uint32_t arena_used, arena_size;
	struct ash_touch *touches, **touches_end;
	struct ash_undo *undo; /* newest first */
	struct end_call *ends;
	struct side_item *side, **side_end;
	struct overflow *overflow;
	/* the arena's bytes follow */
};

/* ---- Arenas ---- */

static const uint32_t arena_sizes[4] = { 48u << 10, 192u << 10, 320u << 10, 512u << 10 };

static unsigned arena_class_of(uint32_t log_bytes)
{
	uint64_t need = (uint64_t)log_bytes * 4 + sizeof(struct ash_txn);

	for (unsigned i = 0; i < 4; i++)
		if (need <= arena_sizes[i])
			return i;
	return 4;
}

static struct ash_txn *arena_get(struct ash_log *log, uint32_t log_bytes)
{
	unsigned class = arena_class_of(log_bytes);
	uint32_t size = class < 4 ? arena_sizes[class] : log_bytes * 4 + (uint32_t)sizeof(struct ash_txn);
	struct ash_txn *txn = NULL;

	if (class < 4) {
		pthread_mutex_lock(&log->arena_lock);
		txn = log->arenas[class];
		if (txn) {
			log->arenas[class] = *(void **)txn;
			log->arena_count[class]--;
		}
		pthread_mutex_unlock(&log->arena_lock);
	}
	if (!txn)
		txn = malloc(size);
	if (!txn)
		return NULL;
	memset(txn, 0, sizeof(*txn));
	txn->arena_class = class;
	txn->arena_size = size;
	txn->arena_used = sizeof(*txn);
	txn->log_bytes = log_bytes;
	txn->touches_end = &txn->touches;
	txn->side_end = &txn->side;
	return txn;
}

static void arena_put(struct ash_log *log, struct ash_txn *txn)
{
	unsigned class = txn->arena_class;

	while (txn->overflow) {
		struct overflow *more = txn->overflow;

		txn->overflow = more->next;
		free(more);
	}
	if (class < 4) {
		pthread_mutex_lock(&log->arena_lock);
		if (log->arena_count[class] < 16) {
			*(void **)txn = log->arenas[class];
			log->arenas[class] = txn;
			log->arena_count[class]++;
			txn = NULL;
		}
		pthread_mutex_unlock(&log->arena_lock);
	}
	free(txn);
}

/*
 * Memory that lives as long as the transaction. Sized so that it does not run out; if it does and malloc
 * fails too, the change cannot be undone: the volume fails (I6) and NULL makes the caller go on without undo.
 */
static void *arena_alloc(struct ash_txn *txn, uint32_t size)
{
	struct overflow *more;
	void *memory;

	size = (size + 15u) & ~15u;
	if (txn->arena_used + size <= txn->arena_size) {
		memory = (uint8_t *)txn + txn->arena_used;
		txn->arena_used += size;
		return memory;
	}
	more = malloc(sizeof(*more) + 8 + size);
	if (!more) {
		ash_volume_fail(txn->volume, -ENOMEM, "no memory for the undo of a change");
		return NULL;
	}
	more->next = txn->overflow;
	txn->overflow = more;
	return (uint8_t *)more + 16;
}
static_assert(sizeof(struct overflow) == 8, "overflow header");

/* ---- Begin ---- */

uint64_t ash_log_used_blocks_locked(const struct ash_log *log)
{
	return log->position - ash_lsn_position(log->tail_lsn) + 1;
}

/* Log blocks that renewing the orphan set takes besides the records of the set: partly filled ones at both ends. */
enum { RENEW_SLACK = 8 };

/* Announcements of the checkpoint and renewed orphans (8 blocks between two forces) and system transactions come without a question. */
static bool memory_full(const struct ash_log *log, uint64_t need)
{
	return log->position - log->written + 1 + log->reserved_blocks + need + log->system_reserve + 8 >
	       log->memory_blocks;
}

static bool device_full(const struct ash_log *log, uint64_t need, uint64_t keep)
{
	return ash_log_used_blocks_locked(log) + log->reserved_blocks + need + keep > log->blocks;
}

/*
 * Log blocks that transactions leave alone: for the checkpoint, for logging the orphan set again, for system transactions.
 * The orphan set is kept room for once by modest ones, which can make it smaller again and write data, twice by others,
 * and three times by who adds to it: so it stops those long before it stops everybody.
 */
enum kept_sets { KEPT_BY_MODEST = 1, KEPT_BY_OTHERS = 2, KEPT_BY_ADDERS = 3 };

static uint64_t reserve(const struct ash_log *log, enum kept_sets sets)
{
	return log->checkpoint_reserve + log->system_reserve + sets * ash_log_orphan_blocks_locked(log);
}

/* More orphans than this log can carry: with everything home there would be no room, so no checkpoint can make any. */
static bool orphans_fill_log(const struct ash_log *log, uint64_t need, enum kept_sets sets)
{
	return ash_log_orphan_blocks_locked(log) + RENEW_SLACK + need + reserve(log, sets) > log->blocks;
}

/* log.lock held; dropped and taken again while waiting. */
static int wait_for_room(struct ash_volume *volume, uint64_t need, enum kept_sets sets)
{
	struct ash_log *log = volume->log;

	for (int idle = 0, rounds = 0;;) {
		bool memory = memory_full(log, need);
		bool device = device_full(log, need, reserve(log, sets)) || log->dirty_count > log->dirty_limit;
		uint64_t tail = log->tail_lsn, end;
		int error = 0;

		if (atomic_load(&volume->read_only))
			return -EROFS;
		if (!memory && !device)
			return 0;
		if (!log->reserved_blocks && orphans_fill_log(log, need, sets))
			return -ENOSPC;
		if (memory && log->position - log->written + log->used > 0 && idle == 0) {
			end = ash_log_append_lsn(log);
			pthread_mutex_unlock(&log->lock);
			ash_log_force(volume, end);
			pthread_mutex_lock(&log->lock);
			idle = memory_full(log, need) ? 1 : 0;
			continue;
		}
		if (device && !memory) {
			pthread_mutex_unlock(&log->lock);
			error = ash_log_checkpoint(volume, rounds++ > 0);
			pthread_mutex_lock(&log->lock);
			if (error == -ENOMEM)
				return error;
			if (tail != log->tail_lsn)
				continue;
			/* everything is home and nobody holds a reservation */
			if (rounds > 3 && !log->reserved_blocks && device_full(log, need, reserve(log, sets)))
				return -ENOSPC;
		}
		/* only the reservations of open transactions stand in the way: each ends by itself */
		if (log->reserved_blocks) {
			const struct timespec until = ash_deadline(CLOCK_MONOTONIC, 2000000);

			ash_wait_begin(volume);
			pthread_cond_clockwait(&log->changed, &log->lock, CLOCK_MONOTONIC, &until);
			ash_wait_end(volume);
		}
		idle = 0;
	}
}

/* So many orphans can be added before the next transaction begins: want of memory is met where it can still be refused. */
enum { ORPHANS_AHEAD = 192 };

static int begin(struct ash_volume *volume, uint32_t log_bytes, enum kept_sets sets, struct ash_txn **out)
{
	struct ash_log *log = volume->log;
	uint64_t need = ash_log_blocks_for(log_bytes);
	struct ash_txn *txn;
	int error;

	*out = NULL;
	assert(need <= log->blocks / 4);
	error = ash_check_writable(volume);
	if (error)
		return error;
	txn = arena_get(log, log_bytes);
	if (!txn)
		return -ENOMEM;
	pthread_mutex_lock(&log->lock);
	error = ash_orphan_set_room(&log->orphans, ORPHANS_AHEAD);
	if (error)
		goto unlock;
	if (memory_full(log, need) || log->dirty_count > log->dirty_limit || device_full(log, need, reserve(log, sets)))
		error = wait_for_room(volume, need, sets);
	if (!error)
		log->reserved_blocks += need;
unlock:
	pthread_mutex_unlock(&log->lock);
	if (error) {
		arena_put(log, txn);
		return error;
	}
	txn->volume = volume;
	txn->reserved_blocks = need;
	*out = txn;
	return 0;
}

int ash_txn_begin(struct ash_volume *volume, uint32_t log_bytes, struct ash_txn **out)
{
	return begin(volume, log_bytes, KEPT_BY_OTHERS, out);
}

int ash_txn_begin_modest(struct ash_volume *volume, uint32_t log_bytes, struct ash_txn **out)
{
	return begin(volume, log_bytes, KEPT_BY_MODEST, out);
}

int ash_txn_orphan_room(const struct ash_txn *txn)
{
	struct ash_log *log = txn->volume->log;
	bool full;

	pthread_mutex_lock(&log->lock);
	full = orphans_fill_log(log, ash_log_blocks_for(ASH_TXN_RENAME), KEPT_BY_ADDERS);
	pthread_mutex_unlock(&log->lock);
	return full ? -ENOSPC : 0;
}

int ash_txn_begin_system(struct ash_volume *volume, struct ash_txn **out)
{
	struct ash_log *log = volume->log;
	uint64_t need = ash_log_blocks_for(ASH_TXN_SMALL), keep;
	struct ash_txn *txn;
	int error = ash_check_writable(volume);

	*out = NULL;
	if (error)
		return error;
	txn = arena_get(log, ASH_TXN_SMALL);
	if (!txn)
		return -ENOMEM;
	pthread_mutex_lock(&log->lock);
	keep = reserve(log, KEPT_BY_MODEST) - log->system_reserve; /* what modest ones leave is for these */
	/* what the running checkpoint took of it counts as used already */
	keep -= log->round_blocks < keep ? log->round_blocks : keep;
	/* the ring in memory keeps the system reserve free as well: see ash_log_open_overlay() */
	if (device_full(log, need, keep))
		error = -ENOSPC;
	else
		log->reserved_blocks += need;
	pthread_mutex_unlock(&log->lock);
	if (error) {
		arena_put(log, txn);
		return error;
	}
	txn->volume = volume;
	txn->system = true;
	txn->reserved_blocks = need;
	*out = txn;
	return 0;
}

struct ash_volume *ash_txn_volume(const struct ash_txn *txn)
{
	return txn->volume;
}

uint32_t ash_txn_bytes(const struct ash_txn *txn)
{
	return txn->bytes;
}

/* ---- Changes ---- */

void ash_bits_change(uint8_t *bits, uint32_t first, uint32_t count, bool set)
{
	for (; count && first % 8; first++, count--)
		bits[first / 8] = set ? bits[first / 8] | (1u << first % 8) : bits[first / 8] & ~(1u << first % 8);
	memset(bits + first / 8, set ? 0xff : 0, count / 8);
	first += count / 8 * 8;
	count %= 8;
	for (; count; first++, count--)
		bits[first / 8] = set ? bits[first / 8] | (1u << first % 8) : bits[first / 8] & ~(1u << first % 8);
}

void ash_undo_apply(const struct ash_undo *undo, uint8_t *data)
{
	uint8_t *bits = data + offsetof(struct ash_bitmap_block, bits);

	if (undo->kind == ASH_UNDO_BYTES)
		memcpy(data + undo->offset, undo->old, undo->length);
	else if (undo->kind == ASH_UNDO_SET)
		ash_bits_change(bits, undo->offset, undo->length, false);
	else if (undo->kind == ASH_UNDO_CLEAR)
		ash_bits_change(bits, undo->offset, undo->length, true);
}

/* buffer.lock held: this transaction's touch of the buffer, from its undo list. */
static struct ash_touch *touch_find(struct ash_txn *txn, struct ash_buffer *buffer)
{
	for (struct ash_undo *undo = buffer->undo; undo; undo = undo->buffer_next)
		if (undo->txn == txn)
			return undo->touch;
	return NULL;
}

static struct ash_touch *touch_create(struct ash_txn *txn, struct ash_buffer *buffer)
{
	struct ash_touch *touch = arena_alloc(txn, sizeof(*touch));

	if (!touch)
		return NULL;
	*touch = (struct ash_touch){ .buffer = ash_buffer_hold(buffer) };
	*txn->touches_end = touch;
	txn->touches_end = &touch->next;
	return touch;
}

/* buffer.lock held: remember `length` old bytes (or bits) before they change. */
static void undo_add(struct ash_txn *txn, struct ash_buffer *buffer, enum ash_undo_kind kind, uint32_t offset,
		     uint32_t length)
{
	struct ash_touch *touch = touch_find(txn, buffer);
	struct ash_undo *undo;

	if (!touch)
		touch = touch_create(txn, buffer);
	undo = touch ? arena_alloc(txn, sizeof(*undo) + (kind == ASH_UNDO_BYTES ? length : 0)) : NULL;
	if (!undo)
		return; /* the volume has failed: nothing will go home */
	undo->txn = txn;
	undo->touch = touch;
	undo->kind = kind;
	undo->offset = offset;
	undo->length = length;
	if (kind == ASH_UNDO_BYTES)
		memcpy(undo->old, buffer->data + offset, length);
	undo->buffer_next = buffer->undo;
	buffer->undo = undo;
	undo->txn_next = txn->undo;
	txn->undo = undo;
	txn->bytes += sizeof(struct ash_log_item) + (kind == ASH_UNDO_BYTES ? length : 8);
}

/* buffer.lock held: have these bytes been saved by this transaction already? Then its record holds them anyway. */
static bool undo_covers(const struct ash_txn *txn, const struct ash_buffer *buffer, uint32_t offset, uint32_t length)
{
	int looked = 0;

	for (const struct ash_undo *undo = buffer->undo; undo && looked < 8; undo = undo->buffer_next) {
		if (undo->txn != txn)
			continue;
		if (undo->kind == ASH_UNDO_FORMAT || (undo->kind == ASH_UNDO_BYTES && undo->offset <= offset &&
						      offset + length <= undo->offset + undo->length))
			return undo->kind == ASH_UNDO_BYTES;
		looked++;
	}
	return false;
}

/* How the words at two places differ; the lowest byte is the first. */
static uint64_t words_differ(const uint8_t *a, const uint8_t *b)
{
	ash_le64 x, y;

	memcpy(&x, a, sizeof(x));
	memcpy(&y, b, sizeof(y));
	return ash_get64(x) ^ ash_get64(y);
}

/* How many bytes are the same at the beginning. Records differ in little, and are compared at every change: by words. */
static uint32_t same_first(const uint8_t *a, const uint8_t *b, uint32_t length)
{
	uint32_t at = 0;

	for (uint64_t differ; length - at >= sizeof(differ); at += sizeof(differ)) {
		differ = words_differ(a + at, b + at);
		if (differ)
			return at + (uint32_t)__builtin_ctzll(differ) / 8;
	}
	while (at < length && a[at] == b[at])
		at++;
	return at;
}

/* ... and at the end. */
static uint32_t same_last(const uint8_t *a, const uint8_t *b, uint32_t length)
{
	uint32_t left = length;

	for (uint64_t differ; left >= sizeof(differ); left -= sizeof(differ)) {
		differ = words_differ(a + left - sizeof(differ), b + left - sizeof(differ));
		if (differ)
			return length - left + (uint32_t)__builtin_clzll(differ) / 8;
	}
	while (left && a[left - 1] == b[left - 1])
		left--;
	return length - left;
}

void ash_txn_set(struct ash_txn *txn, struct ash_buffer *buffer, uint32_t offset, const void *source, uint32_t length)
{
	const uint8_t *bytes = source;
	uint32_t same;

	assert(offset + length <= ASH_BLOCK_SIZE);
	same = same_first(bytes, buffer->data + offset, length);
	bytes += same;
	offset += same;
	length -= same;
	length -= same_last(bytes, buffer->data + offset, length);
	if (!length)
		return;
	ash_lock(&buffer->lock);
	if (!undo_covers(txn, buffer, offset, length))
		undo_add(txn, buffer, ASH_UNDO_BYTES, offset, length);
	memcpy(buffer->data + offset, bytes, length);
	ash_unlock(&buffer->lock);
}

int ash_txn_new_block(struct ash_txn *txn, struct ash_block_id id, struct ash_buffer **out)
{
	struct ash_volume *volume = txn->volume;
	int error = ash_buffer_get_new(volume, id, out);

	if (error)
		return error;
	ash_lock(&(*out)->lock);
	if (id.type != ASH_TYPE_INODE_TABLE) {
		struct ash_block_header *header = (void *)(*out)->data;

		header->magic = ash_put32(id.type);
		header->address = ash_put64(id.block);
		header->owner = ash_put64(id.owner);
		memcpy(header->metadata_uuid, volume->metadata_uuid, 16);
	}
	undo_add(txn, *out, ASH_UNDO_FORMAT, 0, 0);
	if (txn->undo && txn->undo->kind == ASH_UNDO_FORMAT)
		txn->undo->touch->formatted = true;
	ash_unlock(&(*out)->lock);
	atomic_store(&(*out)->checked, 1);
	return 0;
}

void ash_txn_bits(struct ash_txn *txn, struct ash_buffer *buffer, uint32_t first, uint32_t count, bool set)
{
	assert(first + count <= ASH_BITS_PER_BITMAP);
	ash_lock(&buffer->lock);
	undo_add(txn, buffer, set ? ASH_UNDO_SET : ASH_UNDO_CLEAR, first, count);
	ash_bits_change(buffer->data + offsetof(struct ash_bitmap_block, bits), first, count, set);
	ash_unlock(&buffer->lock);
}

static void side_add(struct ash_txn *txn, uint8_t kind, uint64_t value)
{
	struct side_item *item = arena_alloc(txn, sizeof(*item));

	if (!item)
		return;
	*item = (struct side_item){ .kind = kind, .value = value };
	*txn->side_end = item;
	txn->side_end = &item->next;
	txn->bytes += sizeof(struct ash_log_item) + 4;
}

void ash_txn_revoke(struct ash_txn *txn, uint64_t block)
{
	side_add(txn, ASH_LOG_REVOKE, block);
}

void ash_txn_orphan(struct ash_txn *txn, uint64_t ino, bool add)
{
	if (ASH_PLANTED(ASH_PLANT_NO_ORPHAN) && add)
		return;
	if (add && ash_log_orphan_room(txn->volume->log, 1))
		ash_volume_fail(txn->volume, -ENOMEM, "no memory for the orphan set");
	side_add(txn, add ? ASH_LOG_ORPHAN_ADD : ASH_LOG_ORPHAN_DEL, ino);
}

void ash_txn_on_end(struct ash_txn *txn, ash_txn_end end, const void *context, uint32_t size)
{
	struct end_call *call = arena_alloc(txn, sizeof(*call));

	assert(size <= END_CONTEXT);
	if (!call)
		return;
	call->end = end;
	if (size)
		memcpy(call->context, context, size);
	call->next = txn->ends;
	txn->ends = call;
}

/* ---- Commit: the record ---- */

struct range {
	uint32_t offset, length;
};

static uint8_t *item_put(uint8_t *at, uint8_t kind, uint64_t block, uint32_t value, const void *tail, uint16_t length)
{
	struct ash_log_item item = {
		.kind = kind, .length = ash_put16(length), .value = ash_put32(value), .block = ash_put64(block)
	};

	memcpy(at, &item, sizeof(item));
	if (length)
		memcpy(at + sizeof(item), tail, length);
	return at + sizeof(item) + length;
}

/* Sorted insertion with merging of what overlaps or nearly touches; false when the table is full. */
static bool range_add(struct range *ranges, uint32_t *count, uint32_t max, uint32_t offset, uint32_t length)
{
	uint32_t end = offset + length, i = 0, j;

	while (i < *count && ranges[i].offset + ranges[i].length + MERGE_GAP < offset)
		i++;
	for (j = i; j < *count && ranges[j].offset <= end + MERGE_GAP; j++) {
		if (ranges[j].offset < offset)
			offset = ranges[j].offset;
		if (ranges[j].offset + ranges[j].length > end)
			end = ranges[j].offset + ranges[j].length;
	}
	if (j == i && *count == max)
		return false;
	memmove(&ranges[i + 1], &ranges[j], (*count - j) * sizeof(*ranges));
	*count = *count - (j - i) + 1;
	ranges[i] = (struct range){ offset, end - offset };
	return true;
}

static uint8_t *bytes_put(const struct ash_buffer *buffer, struct range range, uint8_t *at, uint32_t *items)
{
	++*items;
	return item_put(at, ASH_LOG_BYTES, buffer->id.block, range.offset, buffer->data + range.offset,
			(uint16_t)range.length);
}

/*
 * All byte ranges of one touch, in one pass over the transaction's entries of that buffer. Merging fills gaps no longer
 * than an item's header, so the record never gets longer by it than txn.bytes says. When the table is full, ranges go into
 * the record one by one: a larger range could hold bytes of another owner's open transaction (I11).
 */
static uint8_t *touch_put_bytes(struct ash_touch *touch, uint8_t *at, uint32_t *items)
{
	struct ash_buffer *buffer = touch->buffer;
	struct range ranges[RANGES];
	uint32_t count = 0;

	for (struct ash_undo *undo = buffer->undo; undo; undo = undo->buffer_next) {
		if (undo->touch != touch || undo->kind != ASH_UNDO_BYTES)
			continue;
		if (!range_add(ranges, &count, RANGES, undo->offset, undo->length))
			at = bytes_put(buffer, (struct range){ undo->offset, undo->length }, at, items);
	}
	for (uint32_t i = 0; i < count; i++)
		at = bytes_put(buffer, ranges[i], at, items);
	return at;
}

/* Bit changes stay in their order; the list is newest first, so recurse through what is few entries. */
static uint8_t *undo_put_bits(struct ash_touch *touch, struct ash_undo *undo, uint8_t *at, uint32_t *items)
{
	ash_le32 count;

	for (; undo; undo = undo->buffer_next)
		if (undo->touch == touch && (undo->kind == ASH_UNDO_SET || undo->kind == ASH_UNDO_CLEAR))
			break;
	if (!undo)
		return at;
	at = undo_put_bits(touch, undo->buffer_next, at, items);
	count = ash_put32(undo->length);
	++*items;
	return item_put(at, undo->kind == ASH_UNDO_SET ? ASH_LOG_BITS_SET : ASH_LOG_BITS_CLEAR, touch->buffer->id.block,
			undo->offset, &count, sizeof(count));
}

static uint8_t *touch_put(struct ash_touch *touch, uint8_t *at, uint32_t *items)
{
	struct ash_buffer *buffer = touch->buffer;
	ash_le64 owner = ash_put64(buffer->id.owner);

	if (touch->formatted) {
		at = item_put(at, ASH_LOG_FORMAT, buffer->id.block, buffer->id.type, &owner, sizeof(owner));
		++*items;
	}
	/* others may hang their entries into this list meanwhile */
	ash_lock(&buffer->lock);
	at = touch_put_bytes(touch, at, items);
	at = undo_put_bits(touch, buffer->undo, at, items);
	ash_unlock(&buffer->lock);
	return at;
}

static uint32_t record_bound(const struct ash_txn *txn)
{
	return (uint32_t)sizeof(struct ash_log_record) + txn->bytes;
}

static uint8_t *side_put(struct ash_txn *txn, uint8_t *at, uint32_t *items)
{
	ash_le32 one = ash_put32(1);

	for (struct side_item *item = txn->side; item; item = item->next, ++*items) {
		if (item->kind == ASH_LOG_REVOKE && ASH_PLANTED(ASH_PLANT_NO_REVOKE)) {
			--*items;
			continue;
		}
		at = item_put(at, item->kind, item->value, 0, &one, item->kind == ASH_LOG_REVOKE ? sizeof(one) : 0);
	}
	return at;
}

/* A tree empties a node, or even makes one, and frees it in one transaction: replay must not see it (I3). */
static void touches_mark_revoked(struct ash_txn *txn)
{
	for (struct side_item *item = txn->side; item; item = item->next) {
		struct ash_buffer *buffer = item->kind == ASH_LOG_REVOKE ? ash_buffer_peek(txn->volume, item->value) :
									   NULL;
		struct ash_touch *touch;

		if (!buffer)
			continue;
		ash_lock(&buffer->lock);
		touch = touch_find(txn, buffer);
		if (touch)
			touch->revoked = true;
		ash_unlock(&buffer->lock);
		ash_buffer_put(txn->volume, buffer);
	}
}

/*
 * Build the record. Order inside: revokes first (they void what came before, not what follows), then per buffer
 * the format, bytes, bits.
 */
static uint8_t *record_build(struct ash_txn *txn, uint32_t *length)
{
	uint8_t *record = arena_alloc(txn, record_bound(txn));
	struct ash_log_record header;
	uint32_t items = 0;
	uint8_t *at;

	if (!record)
		return NULL;
	touches_mark_revoked(txn);
	at = side_put(txn, record + sizeof(header), &items);
	for (struct ash_touch *touch = txn->touches; touch; touch = touch->next)
		if (!touch->revoked)
			at = touch_put(touch, at, &items);
	*length = (uint32_t)(at - record);
	header = (struct ash_log_record){ .length = ash_put32(*length), .items = ash_put32(items) };
	memcpy(record, &header, sizeof(header));
	assert(*length <= record_bound(txn));
	return record;
}

/* buffer.lock held: the transaction's changes of the buffer can no longer be undone. Returns how many bits became free. */
static int64_t undo_forget(struct ash_txn *txn, struct ash_buffer *buffer)
{
	int64_t delta = 0;

	for (struct ash_undo **link = &buffer->undo; *link;) {
		struct ash_undo *undo = *link;

		if (undo->txn != txn) {
			link = &undo->buffer_next;
			continue;
		}
		if (undo->kind == ASH_UNDO_SET)
			delta -= undo->length;
		else if (undo->kind == ASH_UNDO_CLEAR)
			delta += undo->length;
		*link = undo->buffer_next;
	}
	return delta;
}

/* log.lock held: the buffer's committed image now holds this transaction. */
static void touch_settle(struct ash_volume *volume, struct ash_txn *txn, struct ash_touch *touch, uint64_t start,
			 uint64_t end)
{
	struct ash_buffer *buffer = touch->buffer;
	int64_t delta;

	ash_lock(&buffer->lock);
	delta = undo_forget(txn, buffer);
	buffer->last_lsn = end;
	ash_unlock(&buffer->lock);
	ash_log_dirty_locked(volume->log, buffer, start);
	if (buffer->id.type == ASH_MAGIC_BLOCK_BITMAP && delta)
		ash_alloc_bits_committed(volume, buffer->id.owner, delta, start, end);
}

static void txn_release(struct ash_txn *txn)
{
	struct ash_volume *volume = txn->volume;

	for (struct ash_touch *touch = txn->touches; touch; touch = touch->next)
		ash_buffer_put(volume, touch->buffer);
	arena_put(volume->log, txn);
}

/* Commit callbacks run in the order of registration; the list is newest first. */
static void ends_run_forward(struct ash_volume *volume, struct end_call *call, uint64_t lsn)
{
	struct end_call *reversed = NULL;

	while (call) {
		struct end_call *next = call->next;

		call->next = reversed;
		reversed = call;
		call = next;
	}
	for (; reversed; reversed = reversed->next)
		reversed->end(volume, reversed->context, lsn);
}

/* Freed metadata never goes home, and a later use of the block starts from a fresh buffer. */
static void revoked_forget(struct ash_volume *volume, struct ash_txn *txn)
{
	for (struct side_item *item = txn->side; item; item = item->next) {
		struct ash_buffer *buffer;

		if (item->kind != ASH_LOG_REVOKE)
			continue;
		buffer = ash_buffer_peek(volume, item->value);
		if (!buffer)
			continue;
		ash_log_forget_locked(volume->log, buffer);
		ash_buffer_detach(volume, item->value);
		ash_buffer_put(volume, buffer);
	}
}

/* No memory for the record: the volume has failed (I6), nothing goes home any more; only no list may point into the arena. */
static void touches_drop(struct ash_txn *txn)
{
	for (struct ash_touch *touch = txn->touches; touch; touch = touch->next) {
		ash_lock(&touch->buffer->lock);
		undo_forget(txn, touch->buffer);
		ash_unlock(&touch->buffer->lock);
	}
}

static bool wants_background(const struct ash_log *log)
{
	return log->position - log->written > log->memory_blocks / 3 || log->dirty_count > log->dirty_limit / 2 ||
	       ash_log_used_blocks_locked(log) > log->blocks / 2;
}

uint64_t ash_txn_commit(struct ash_txn *txn)
{
	struct ash_volume *volume = txn->volume;
	struct ash_log *log = volume->log;
	uint32_t length = 0;
	uint8_t *record = NULL;
	uint64_t start, end;
	bool kick;

	if (txn->touches || txn->side)
		record = record_build(txn, &length);
	pthread_mutex_lock(&log->lock);
	start = end = ash_log_append_lsn(log);
	if (record) {
		start = ash_log_append_locked(volume, record, length);
		end = ash_log_append_lsn(log);
		revoked_forget(volume, txn);
		for (struct ash_touch *touch = txn->touches; touch; touch = touch->next)
			touch_settle(volume, txn, touch, start, end);
		for (struct side_item *item = txn->side; item; item = item->next)
			if (item->kind != ASH_LOG_REVOKE)
				ash_orphan_set_change(&log->orphans, item->value, start,
						      item->kind == ASH_LOG_ORPHAN_ADD);
		if (txn->side)
			log->superseding_lsn = end;
	} else {
		touches_drop(txn);
	}
	log->reserved_blocks -= txn->reserved_blocks;
	if (device_full(log, 0, log->blocks / 4))
		pthread_cond_broadcast(&log->changed);
	kick = wants_background(log);
	pthread_mutex_unlock(&log->lock);
	atomic_fetch_add_explicit(&log->transactions, 1, memory_order_relaxed);
	ends_run_forward(volume, txn->ends, end ? end : 1); /* 0 would say aborted; a fresh log ends there */
	txn_release(txn);
	if (kick)
		ash_worker_kick(volume);
	return end;
}

/* ---- Abort ---- */

static void undo_unlink(struct ash_undo *undo)
{
	struct ash_buffer *buffer = undo->touch->buffer;
	struct ash_undo **link = &buffer->undo;

	while (*link != undo)
		link = &(*link)->buffer_next;
	*link = undo->buffer_next;
}

void ash_txn_abort(struct ash_txn *txn)
{
	struct ash_volume *volume = txn->volume;
	struct ash_log *log = volume->log;

	for (struct ash_undo *undo = txn->undo; undo; undo = undo->txn_next) {
		struct ash_buffer *buffer = undo->touch->buffer;

		ash_lock(&buffer->lock);
		ash_undo_apply(undo, buffer->data);
		undo_unlink(undo);
		ash_unlock(&buffer->lock);
		if (undo->kind == ASH_UNDO_FORMAT)
			ash_buffer_detach(volume, buffer->id.block);
	}
	pthread_mutex_lock(&log->lock);
	log->reserved_blocks -= txn->reserved_blocks;
	pthread_cond_broadcast(&log->changed);
	pthread_mutex_unlock(&log->lock);
	for (struct end_call *call = txn->ends; call; call = call->next)
		call->end(volume, call->context, 0);
	txn_release(txn);
}
