/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The metadata cache: its bound, what it refuses to hand out (I8), and that damage stays where it is. */
#include "engine_fixture.h"
#include "fs/checksum.h"

#include <pthread.h>
#include <sched.h>

#include "fs/inode.h"

Test(cache, stays_within_its_limit)
{
	enum { COUNT = 2000 };
	struct engine engine;
	uint64_t blocks[COUNT];

	engine_open(&engine, "mem:64M", 2000);
	for (uint64_t i = 0; i < COUNT; i++)
		blocks[i] = node_new(&engine, 100 + i, (uint8_t)i);
	cr_assert_eq(ash_checkpoint(engine.volume), 0);
	for (int round = 0; round < 2; round++)
		for (uint64_t i = 0; i < COUNT; i++)
			cr_assert(node_is(&engine, blocks[i], 100 + i, 0, 100, (uint8_t)i));
	/* 1 MiB are 256 buffers; a shard may be one over while all its others are held */
	cr_expect_leq(counters(&engine).cache_blocks, 256 + 16);
	cr_expect_gt(counters(&engine).cache_misses, COUNT);
	engine_close(&engine);
}

Test(cache, damaged_block_fails_alone)
{
	struct engine engine;
	struct ash_buffer *buffer;
	uint64_t bad, good;

	engine_open(&engine, "mem:16M", 0);
	bad = node_new(&engine, 5, 1);
	good = node_new(&engine, 6, 2);
	cr_assert_eq(ash_close(engine.volume), 0);
	image_spoil(&engine, bad, 2000);
	engine.options.continue_on_damage = true;
	engine_mount(&engine);
	cr_expect_eq(ash_buffer_get(engine.volume, node_id(bad, 5), &buffer), -EUCLEAN);
	cr_expect_null(buffer);
	cr_expect_eq(counters(&engine).damaged_blocks, 1);
	cr_expect_eq(engine.errors, 1);
	cr_expect(node_is(&engine, good, 6, 0, 100, 2));
	cr_expect_neq(node_fill(&engine, good, 6, 0, 10, 3), 0, "and the volume is still writable");
	engine_close(&engine);
}

Test(cache, damage_makes_the_volume_read_only_unless_asked_otherwise)
{
	struct engine engine;
	struct ash_buffer *buffer;
	struct ash_txn *txn;
	uint64_t bad;

	engine_open(&engine, "mem:16M", 0);
	bad = node_new(&engine, 5, 1);
	cr_assert_eq(ash_close(engine.volume), 0);
	image_spoil(&engine, bad, 2000);
	engine_mount(&engine);
	cr_expect_eq(ash_buffer_get(engine.volume, node_id(bad, 5), &buffer), -EUCLEAN);
	cr_expect_eq(ash_txn_begin(engine.volume, ASH_TXN_SMALL, &txn), -EROFS);
	cr_expect_eq(ash_close(engine.volume), 0);
	engine_mount(&engine);
	cr_expect_eq(ash_get32(((struct ash_super *)engine.volume->super->data)->state), ASH_STATE_ERRORS);
	engine_close(&engine);
}

Test(cache, right_block_for_the_wrong_owner_is_damage)
{
	struct engine engine;
	struct ash_buffer *buffer;
	uint64_t block, moved;
	uint8_t bytes[ASH_BLOCK_SIZE];

	engine_open(&engine, "mem:16M", 0);
	engine.options.continue_on_damage = true;
	block = node_new(&engine, 5, 1);
	moved = node_new(&engine, 5, 2);
	cr_assert_eq(ash_close(engine.volume), 0);
	image_read(&engine, block, bytes);
	image_write(&engine, moved, bytes); /* a misplaced write */
	engine_mount(&engine);
	cr_expect_eq(ash_buffer_get(engine.volume, node_id(block, 7), &buffer), -EUCLEAN, "read");
	cr_expect(node_is(&engine, block, 5, 0, 10, 1));
	cr_expect_eq(ash_buffer_get(engine.volume, node_id(block, 7), &buffer), -EUCLEAN, "cached");
	cr_expect_eq(ash_buffer_get(engine.volume, node_id(moved, 5), &buffer), -EUCLEAN, "address");
	cr_expect_eq(ash_buffer_get(engine.volume, node_id(1ull << 40, 5), &buffer), -EUCLEAN, "outside");
	engine_close(&engine);
}

/* The inode table has a checksum for each record: neighbours of a bad one live on, and it is never stamped good. */
Test(cache, bad_inode_record_spoils_itself_only)
{
	struct ash_create create = { .mode = S_IFREG | 0644 };
	struct engine engine;
	struct ash_attr first, second, attr;
	struct ash_block_id id;
	uint32_t offset;
	uint8_t bytes[ASH_BLOCK_SIZE], after[ASH_BLOCK_SIZE];

	engine_open(&engine, "mem:16M", 0);
	engine.options.continue_on_damage = true;
	cr_assert_eq(ash_create(engine.volume, ASH_INO_ROOT, "first", &create, &first), 0);
	cr_assert_eq(ash_create(engine.volume, ASH_INO_ROOT, "second", &create, &second), 0);
	cr_assert_eq(ash_itable_locate(engine.volume, first.ino, &id, &offset), 0);
	cr_assert_eq(ash_close(engine.volume), 0);
	image_spoil(&engine, id.block, offset + 100);
	image_read(&engine, id.block, bytes);
	engine_mount(&engine);
	cr_expect_eq(ash_getattr(engine.volume, first.ino, &attr), -EUCLEAN);
	cr_expect_eq(ash_setattr(engine.volume, second.ino,
				 &(struct ash_setattr){ .valid = ASH_SET_MODE, .mode = 0600 }, NULL),
		     0);
	cr_assert_eq(ash_close(engine.volume), 0);
	image_read(&engine, id.block, after);
	cr_expect_arr_eq(bytes + offset, after + offset, ASH_INODE_SIZE, "the damage went home as it was");
	engine_mount(&engine);
	cr_expect_eq(ash_getattr(engine.volume, first.ino, &attr), -EUCLEAN);
	cr_expect_eq(ash_getattr(engine.volume, second.ino, &attr), 0);
	cr_expect_eq(attr.mode & 07777, 0600);
	engine_close(&engine);
}

struct reader {
	struct engine *engine;
	const uint64_t *blocks;
	uint64_t random;
};

static void *read_many(void *argument)
{
	struct reader *reader = argument;

	for (int i = 0; i < 5000; i++) {
		uint64_t index = engine_random(&reader->random) % 600;

		cr_assert(node_is(reader->engine, reader->blocks[index], 100 + index, 0, 50, (uint8_t)index));
	}
	return NULL;
}

/* 600 nodes, and threads that use them through a cache of 256. */
struct readers {
	struct engine engine;
	uint64_t blocks[600];
	struct reader each[3];
	pthread_t threads[3];
};

static void readers_open(struct readers *readers)
{
	engine_open(&readers->engine, "mem:64M", 0);
	for (uint64_t i = 0; i < 600; i++)
		readers->blocks[i] = node_new(&readers->engine, 100 + i, (uint8_t)i);
}

static void readers_start(struct readers *readers, void *(*body)(void *reader))
{
	for (int i = 0; i < 3; i++) {
		readers->each[i] = (struct reader){ &readers->engine, readers->blocks, (uint64_t)i + 1 };
		cr_assert_eq(pthread_create(&readers->threads[i], NULL, body, &readers->each[i]), 0);
	}
}

static void readers_join(struct readers *readers)
{
	for (int i = 0; i < 3; i++)
		pthread_join(readers->threads[i], NULL);
	cr_expect_eq(readers->engine.errors, 0);
}

Test(cache, threads_read_through_a_small_cache)
{
	struct readers readers;

	readers_open(&readers);
	cr_assert_eq(ash_checkpoint(readers.engine.volume), 0);
	readers_start(&readers, read_many);
	readers_join(&readers);
	engine_close(&readers.engine);
}

/* References are taken without a lock: what one is held to stays the block that was asked for, whoever evicts meanwhile. */
static void *hold_many(void *argument)
{
	struct reader *reader = argument;

	for (int i = 0; i < 50000; i++) {
		uint64_t index =
			engine_random(&reader->random) % 600; /* of which 256 are there: the hand never rests */
		struct ash_block_id id = node_id(reader->blocks[index], 100 + index);
		struct ash_buffer *buffer;

		cr_assert_eq(ash_buffer_get(reader->engine->volume, id, &buffer), 0);
		for (int look = 0; look < 2; look++) {
			cr_assert_eq(buffer->id.block, id.block);
			cr_assert_eq(ash_get64(((struct ash_block_header *)buffer->data)->address), id.block);
			if (i % 8 == 0)
				sched_yield();
		}
		ash_buffer_put(reader->engine->volume, buffer);
	}
	return NULL;
}

Test(cache, a_held_block_stays_what_it_is)
{
	struct readers readers;
	struct engine *engine = &readers.engine;
	const uint64_t *blocks = readers.blocks;

	readers_open(&readers);
	readers_start(&readers, hold_many);
	/* and the checkpoint takes references of its own */
	for (int round = 0; round < 20; round++) {
		for (uint64_t i = 0; i < 600; i += 7)
			cr_assert_neq(node_fill(engine, blocks[i], 100 + i, 200, 50, (uint8_t)round), 0);
		cr_assert_eq(ash_checkpoint(engine->volume), 0);
	}
	readers_join(&readers);
	for (uint64_t i = 0; i < 600; i++)
		cr_expect(node_is(engine, blocks[i], 100 + i, 0, 50, (uint8_t)i));
	engine_close(engine);
}

/* A bitmap with a right checksum that says "free" of a block with metadata. */
static void forget_bit(struct engine *engine, uint64_t block)
{
	uint64_t group = block / ASH_BLOCKS_PER_GROUP, bit = block % ASH_BLOCKS_PER_GROUP;
	_Alignas(16) uint8_t super[ASH_BLOCK_SIZE], bytes[ASH_BLOCK_SIZE];
	struct ash_bitmap_block *bitmap = (void *)bytes;

	image_read(engine, 0, super);
	image_read(engine, ash_group_bitmap(group), bytes);
	bitmap->bits[bit / 8] &= (uint8_t) ~(1u << bit % 8);
	bitmap->header.crc =
		ash_put32(ash_block_crc(ash_get32(((struct ash_super *)(void *)super)->checksum_seed), bytes));
	image_write(engine, ash_group_bitmap(group), bytes);
}

Test(cache, metadata_in_use_is_not_made_new_when_a_bitmap_lies)
{
	struct ash_buffer *buffer;
	struct ash_txn *txn;
	struct engine e;
	uint64_t block;

	engine_open(&e, "mem:64M", 0);
	uint64_t x = node_new(&e, 100, 1), y = node_new(&e, 101, 1), z = node_new(&e, 102, 1);
	cr_assert_eq(ash_close(e.volume), 0);
	e.volume = NULL;
	forget_bit(&e, x);
	e.options.continue_on_damage = true;
	engine_mount(&e);
	node_fill(&e, x, 100, 0, 64, 2);
	node_fill(&e, y, 101, 0, 64, 2);
	node_fill(&e, z, 102, 0, 64, 2);
	txn = engine_begin(&e, ASH_TXN_TREE);
	cr_assert_eq(ash_alloc_meta(txn, x, 0, &block), 0);
	cr_assert_eq(block, x);
	cr_expect_eq(ash_txn_new_block(txn, node_id(block, 200), &buffer), -EUCLEAN);
	ash_txn_abort(txn);
	cr_expect_gt(e.errors, 0);
	cr_expect_eq(ash_checkpoint(e.volume), 0);
	engine_again(&e);
	cr_expect(node_is(&e, y, 101, 0, 64, 2));
	cr_expect(node_is(&e, z, 102, 0, 64, 2));
	engine_close(&e);
}
