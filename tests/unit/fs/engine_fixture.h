/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A volume in memory for the tests of the engine (cache, transactions, log, recovery, allocator). The blocks that these
 * tests change are tree nodes that no file owns: the engine does not look inside.
 *
 * A crash is ash_abandon(): the device keeps what was written. What a real device may lose or tear on top of that
 * is put there by hand, through image_read() and image_write().
 */
#ifndef TESTS_ENGINE_FIXTURE_H
#define TESTS_ENGINE_FIXTURE_H

#include <ashlar/ashlar.h>
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "fs/engine.h"
#include "fs/recover.h"
#include "tests/support/delay.h"
#include "tests/support/fault.h"
#include "tests/support/record.h"

#define BODY 40u /* where a node's content begins */

struct engine {
	struct bdev *dev; /* the top layer */
	struct ash_volume *volume;
	struct ash_open_options options;
	unsigned errors; /* lines logged as errors */
	char last_error[512];
};

static inline void engine_log(void *context, enum ash_log_level level, const char *text)
{
	struct engine *engine = context;

	if (level != ASH_LOG_ERROR)
		return;
	__atomic_fetch_add(&engine->errors, 1, __ATOMIC_RELAXED);
	snprintf(engine->last_error, sizeof(engine->last_error), "%s", text);
}

static inline struct bdev *engine_device(const char *name)
{
	struct bdev_open_options options = { 0 };
	char error[BDEV_ERROR_TEXT] = "";
	struct bdev *dev;

	cr_assert_eq(bdev_open(name, &options, &dev, error), 0, "%s", error);
	return dev;
}

static inline void engine_format(struct bdev *dev, uint64_t log_blocks)
{
	static const uint8_t seed[] = "engine engine engine engine 1234";
	struct ash_mkfs_options options = { .seed = seed, .now = 1000000000, .log_blocks = log_blocks };
	char error[BDEV_ERROR_TEXT] = "";

	cr_assert_eq(ash_mkfs(dev, &options, error), 0, "%s", error);
}

static inline int engine_try_mount(struct engine *engine)
{
	char error[BDEV_ERROR_TEXT] = "";
	int result;

	engine->options.log = engine_log;
	engine->options.context = engine;
	result = ash_open(engine->dev, &engine->options, &engine->volume, error);
	if (result)
		engine->volume = NULL;
	return result;
}

static inline void engine_mount(struct engine *engine)
{
	cr_assert_eq(engine_try_mount(engine), 0);
}

/* A fresh volume; `log_blocks` 0: as small as can be. */
static inline void engine_open(struct engine *engine, const char *device, uint64_t log_blocks)
{
	memset(engine, 0, sizeof(*engine));
	engine->dev = engine_device(device);
	engine_format(engine->dev, log_blocks ? log_blocks : ASH_LOG_MIN_BLOCKS);
	engine->options.no_threads = true;
	engine->options.cache_bytes = 1u << 20;
	engine_mount(engine);
}

/* The power goes after everything committed so far became durable. */
static inline void engine_cut(struct engine *engine)
{
	cr_assert_eq(ash_log_force(engine->volume, ash_log_end(engine->volume)), 0);
	ash_abandon(engine->volume);
	engine->volume = NULL;
}

static inline void engine_again(struct engine *engine)
{
	engine_cut(engine);
	engine_mount(engine);
}

static inline void engine_close(struct engine *engine)
{
	if (engine->volume)
		ash_abandon(engine->volume);
	bdev_close(engine->dev);
}

/* ---- Nodes ---- */

static inline struct ash_block_id node_id(uint64_t block, uint64_t owner)
{
	return (struct ash_block_id){ block, ASH_MAGIC_TREE_NODE, owner };
}

static inline struct ash_txn *engine_begin(struct engine *engine, uint32_t bytes)
{
	struct ash_txn *txn;

	cr_assert_eq(ash_txn_begin(engine->volume, bytes, &txn), 0);
	return txn;
}

static inline struct ash_buffer *node_get(struct engine *engine, uint64_t block, uint64_t owner)
{
	struct ash_buffer *buffer;
	int error = ash_buffer_get(engine->volume, node_id(block, owner), &buffer);

	cr_assert_eq(error, 0, "block %llu: %d", (unsigned long long)block, error);
	return buffer;
}

/* A new node within `txn`. */
static inline uint64_t node_make(struct engine *engine, struct ash_txn *txn, uint64_t owner)
{
	struct ash_buffer *buffer;
	uint64_t block;

	cr_assert_eq(ash_alloc_meta(txn, 0, 0, &block), 0);
	cr_assert_eq(ash_txn_new_block(txn, node_id(block, owner), &buffer), 0);
	ash_buffer_put(engine->volume, buffer);
	return block;
}

/* A transaction that fills `length` bytes of the node with `value`; the LSN behind it. */
static inline uint64_t node_fill(struct engine *engine, uint64_t block, uint64_t owner, uint32_t offset,
				 uint32_t length, uint8_t value)
{
	struct ash_txn *txn = engine_begin(engine, ASH_TXN_SMALL);
	struct ash_buffer *buffer = node_get(engine, block, owner);
	uint8_t bytes[ASH_BLOCK_SIZE];

	memset(bytes, value, length);
	ash_txn_set(txn, buffer, BODY + offset, bytes, length);
	ash_buffer_put(engine->volume, buffer);
	return ash_txn_commit(txn);
}

/* A committed node filled with `value`. */
static inline uint64_t node_new(struct engine *engine, uint64_t owner, uint8_t value)
{
	struct ash_txn *txn = engine_begin(engine, ASH_TXN_TREE);
	uint64_t block = node_make(engine, txn, owner);

	ash_txn_commit(txn);
	node_fill(engine, block, owner, 0, ASH_BLOCK_SIZE - BODY, value);
	return block;
}

static inline bool node_is(struct engine *engine, uint64_t block, uint64_t owner, uint32_t offset, uint32_t length,
			   uint8_t value)
{
	struct ash_buffer *buffer = node_get(engine, block, owner);
	bool same = true;

	for (uint32_t i = 0; i < length; i++)
		same &= buffer->data[BODY + offset + i] == value;
	ash_buffer_put(engine->volume, buffer);
	return same;
}

static inline void node_free(struct engine *engine, uint64_t block)
{
	struct ash_txn *txn = engine_begin(engine, ASH_TXN_SMALL);

	cr_assert_eq(ash_free(txn, (struct ash_extent){ block, 1 }, true), 0);
	ash_txn_commit(txn);
}

static inline uint64_t free_blocks(struct engine *engine)
{
	uint64_t free_blocks, available;

	ash_alloc_counts(engine->volume, &free_blocks, &available);
	return free_blocks;
}

static inline struct ash_counters counters(struct engine *engine)
{
	struct ash_counters counters;

	ash_counters(engine->volume, &counters);
	return counters;
}

/* ---- The device underneath ---- */

static inline void image_read(struct engine *engine, uint64_t block, void *out)
{
	uint8_t *buffer = bdev_buffer_alloc(ASH_BLOCK_SIZE);

	cr_assert_eq(bdev_read(engine->dev, buffer, ASH_BLOCK_SIZE, block * ASH_BLOCK_SIZE), 0);
	memcpy(out, buffer, ASH_BLOCK_SIZE);
	bdev_buffer_free(buffer, ASH_BLOCK_SIZE);
}

static inline void image_write(struct engine *engine, uint64_t block, const void *bytes)
{
	uint8_t *buffer = bdev_buffer_alloc(ASH_BLOCK_SIZE);

	memcpy(buffer, bytes, ASH_BLOCK_SIZE);
	cr_assert_eq(bdev_write(engine->dev, buffer, ASH_BLOCK_SIZE, block * ASH_BLOCK_SIZE, 0), 0);
	bdev_buffer_free(buffer, ASH_BLOCK_SIZE);
}

static inline void image_spoil(struct engine *engine, uint64_t block, uint32_t byte)
{
	uint8_t bytes[ASH_BLOCK_SIZE];

	image_read(engine, block, bytes);
	bytes[byte] ^= 0x5a;
	image_write(engine, block, bytes);
}

static inline uint64_t engine_random(uint64_t *state)
{
	*state ^= *state << 13;
	*state ^= *state >> 7;
	*state ^= *state << 17;
	return *state;
}

#endif
