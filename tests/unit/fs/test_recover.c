/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Replay: torn home writes are mended and damage is not (I8), dead timelines stay dead, control blocks, the end of the
 * chain, blocks that the device does not give, and logs that somebody forged with right checksums.
 */
#include "engine_fixture.h"
#include "fs/names.h"

#define CONTENT (ASH_BLOCK_SIZE - BODY)

struct block {
	uint8_t bytes[ASH_BLOCK_SIZE];
};

/* The state that the next test cuts: geometry is gone with the volume. */
struct place {
	uint64_t log_start, ring, position; /* of the next log block */
	uint32_t seed;
};

static struct place place_of(const struct engine *engine)
{
	const struct ash_volume *volume = engine->volume;

	return (struct place){ volume->log_start, volume->log_blocks - 2, volume->log->written, volume->checksum_seed };
}

static uint64_t place_block(const struct place *place, uint64_t position)
{
	return place->log_start + 2 + position % place->ring;
}

static void force(struct engine *engine)
{
	cr_assert_eq(ash_log_force(engine->volume, ash_log_end(engine->volume)), 0);
}

/* ---- A crash, damage, and opening again ---- */

struct crash {
	struct engine engine;
	struct place place; /* as crash_mark() or the cut found it */
	uint64_t node;      /* of owner 5 */
};

/* A volume with one node full of `value`, not durable yet. */
static void crash_open(struct crash *crash, const char *device, uint64_t log_blocks, uint8_t value)
{
	engine_open(&crash->engine, device, log_blocks);
	crash->node = node_new(&crash->engine, 5, value);
}

/* All so far is durable; the next log block is the one to harm. */
static void crash_mark(struct crash *crash)
{
	force(&crash->engine);
	crash->place = place_of(&crash->engine);
}

static void crash_fill(struct crash *crash, uint32_t offset, uint32_t length, uint8_t value)
{
	node_fill(&crash->engine, crash->node, 5, offset, length, value);
}

static bool crash_is(struct crash *crash, uint32_t offset, uint32_t length, uint8_t value)
{
	return node_is(&crash->engine, crash->node, 5, offset, length, value);
}

/* After the power went a block rots; what an open of that says. */
static int crash_reopen(struct crash *crash, uint64_t rotten)
{
	image_spoil(&crash->engine, rotten, 100);
	return engine_try_mount(&crash->engine);
}

static uint64_t newest_control(struct engine *engine, const struct place *place)
{
	struct ash_log_control pair[2];

	image_read(engine, place->log_start, &pair[0]);
	image_read(engine, place->log_start + 1, &pair[1]);
	return place->log_start + (ash_get64(pair[1].sequence) > ash_get64(pair[0].sequence));
}

/* The power goes, then the newest control block rots. */
static int crash_lose_control(struct crash *crash)
{
	crash->place = place_of(&crash->engine);
	engine_cut(&crash->engine);
	return crash_reopen(crash, newest_control(&crash->engine, &crash->place));
}

/* The power goes when a checkpoint has written everything home, this block too, and has not moved the tail yet. */
static void cut_within_checkpoint(struct engine *engine, uint64_t block, struct block *home)
{
	uint64_t control = engine->volume->log_start;
	struct block controls[2];

	for (uint64_t i = 0; i < 2; i++)
		image_read(engine, control + i, &controls[i]);
	cr_assert_eq(ash_log_checkpoint(engine->volume, true), 0);
	image_read(engine, block, home);
	ash_abandon(engine->volume);
	engine->volume = NULL;
	for (uint64_t i = 0; i < 2; i++)
		image_write(engine, control + i, &controls[i]);
}

/* ---- Torn home writes ---- */

struct torn {
	struct engine engine;
	uint64_t block;
	struct block old_home, new_home;
};

/*
 * A node went home as `old_home`; changed, logged, and written home again as `new_home`. The power went at the moment
 * of that second write.
 */
static void torn_prepare(struct torn *torn)
{
	engine_open(&torn->engine, "mem:16M", 0);
	torn->block = node_new(&torn->engine, 5, 0x11);
	cr_assert_eq(ash_checkpoint(torn->engine.volume), 0);
	image_read(&torn->engine, torn->block, &torn->old_home);
	for (uint32_t i = 0; i < 4; i++)
		node_fill(&torn->engine, torn->block, 5, i * 1024, 300, (uint8_t)(0x20 + i));
	cut_within_checkpoint(&torn->engine, torn->block, &torn->new_home);
}

static bool torn_is_whole(struct torn *torn)
{
	bool whole = true;

	for (uint32_t i = 0; i < 4; i++)
		whole &= node_is(&torn->engine, torn->block, 5, i * 1024, 300, (uint8_t)(0x20 + i));
	return whole && node_is(&torn->engine, torn->block, 5, 400, 600, 0x11);
}

Test(recover, torn_home_write_is_mended)
{
	for (uint32_t sector = 0; sector <= 8; sector++) {
		struct torn torn;
		struct block mixed;

		torn_prepare(&torn);
		memcpy(&mixed, &torn.new_home, sector * 512);
		memcpy(mixed.bytes + sector * 512, torn.old_home.bytes + sector * 512, ASH_BLOCK_SIZE - sector * 512);
		image_write(&torn.engine, torn.block, &mixed);
		engine_mount(&torn.engine);
		cr_expect(torn_is_whole(&torn), "%u sectors", sector);
		cr_expect_eq(torn.engine.errors, 0, "%u sectors: %s", sector, torn.engine.last_error);
		/* and a crash in the middle of mending it is no worse */
		cr_assert_eq(ash_log_checkpoint(torn.engine.volume, true), 0);
		ash_abandon(torn.engine.volume);
		engine_mount(&torn.engine);
		cr_expect(torn_is_whole(&torn));
		cr_expect_eq(torn.engine.errors, 0);
		engine_close(&torn.engine);
	}
}

/* The image of this block that fsck would look through, and the seed of its checksums. */
static uint32_t image_replayed(struct engine *engine, uint64_t block, struct block *image)
{
	char error[BDEV_ERROR_TEXT] = "";
	struct ash_overlay *overlay;
	struct ash_super super;

	image_read(engine, 0, &super);
	cr_assert_eq(ash_overlay_open(engine->dev, &super, &overlay, error), 0, "%s", error);
	cr_assert_not_null(ash_overlay_block(overlay, block));
	memcpy(image, ash_overlay_block(overlay, block), sizeof(*image));
	ash_overlay_close(overlay);
	return ash_get32(super.checksum_seed);
}

static bool image_is_good(struct engine *engine, uint64_t block)
{
	struct block image;
	uint32_t seed = image_replayed(engine, block, &image);

	return ash_get32(((const struct ash_block_header *)(const void *)&image)->crc) == ash_block_crc(seed, &image);
}

Test(recover, damage_under_replay_is_not_blessed)
{
	struct torn torn;
	struct block damaged, after;
	struct ash_buffer *buffer;

	torn_prepare(&torn);
	damaged = torn.old_home;
	damaged.bytes[BODY + 700] ^= 1; /* no record covers this byte */
	image_write(&torn.engine, torn.block, &damaged);
	cr_expect(!image_is_good(&torn.engine, torn.block));
	torn.engine.options.continue_on_damage = true;
	engine_mount(&torn.engine);
	cr_expect_eq(torn.engine.errors, 1);
	cr_expect_eq(counters(&torn.engine).damaged_blocks, 1);
	cr_expect_eq(ash_buffer_get(torn.engine.volume, node_id(torn.block, 5), &buffer), -EUCLEAN);
	cr_assert_eq(ash_close(torn.engine.volume), 0);
	torn.engine.volume = NULL;
	image_read(&torn.engine, torn.block, &after);
	cr_expect_arr_eq(after.bytes, damaged.bytes, ASH_BLOCK_SIZE, "left for fsck as it was");
	engine_close(&torn.engine);
}

/* Of a block of inodes: the record that rotted stays bad, the one that the log changed is whole. */
Test(recover, damage_to_one_inode_is_not_blessed_and_costs_no_other)
{
	const struct ash_create create = { .mode = S_IFREG | 0644 };
	const struct ash_setattr change = { .valid = ASH_SET_MODE, .mode = 0600 };
	struct ash_attr changed, rotten;
	struct ash_inode records[ASH_INODES_PER_BLOCK];
	struct ash_record record;
	struct engine engine;
	uint32_t seed, at[2];
	uint64_t block;

	engine_open(&engine, "mem:16M", 0);
	cr_assert_eq(ash_create(engine.volume, ASH_INO_ROOT, "changed", &create, &changed), 0);
	cr_assert_eq(ash_create(engine.volume, ASH_INO_ROOT, "rotten", &create, &rotten), 0);
	cr_assert_eq(ash_checkpoint(engine.volume), 0);
	cr_assert_eq(ash_setattr(engine.volume, changed.ino, &change, NULL), 0);
	cr_assert_eq(ash_record_get(engine.volume, changed.ino, &record), 0);
	block = record.buffer->id.block;
	at[0] = (uint32_t)(changed.ino % ASH_INODES_PER_BLOCK);
	at[1] = (uint32_t)(rotten.ino % ASH_INODES_PER_BLOCK);
	cr_assert_eq((const uint8_t *)record.inode - record.buffer->data, at[0] * ASH_INODE_SIZE);
	ash_record_put(engine.volume, &record);
	cr_assert_eq(ash_record_get(engine.volume, rotten.ino, &record), 0);
	cr_assert_eq(record.buffer->id.block, block);
	ash_record_put(engine.volume, &record);
	engine_cut(&engine);
	image_spoil(&engine, block, at[1] * ASH_INODE_SIZE + 200);
	seed = image_replayed(&engine, block, (struct block *)(void *)records);
	cr_expect_eq(ash_get32(records[at[0]].mode) & 07777, 0600u);
	cr_expect_eq(ash_get32(records[at[0]].crc), ash_inode_crc(seed, &records[at[0]]));
	cr_expect_neq(ash_get32(records[at[1]].crc), ash_inode_crc(seed, &records[at[1]]));
	engine_close(&engine);
}

/* Without an announcement a bad home block cannot be a torn write of ours. */
Test(recover, bad_block_without_announcement_is_damage)
{
	struct engine engine;
	struct ash_buffer *buffer;
	uint64_t block;

	engine_open(&engine, "mem:16M", 0);
	block = node_new(&engine, 5, 0x11);
	cr_assert_eq(ash_checkpoint(engine.volume), 0);
	node_fill(&engine, block, 5, 0, 100, 0x22);
	engine_cut(&engine);
	image_spoil(&engine, block, BODY + 50); /* even where the log would repair the byte */
	engine.options.continue_on_damage = true;
	engine_mount(&engine);
	cr_expect_eq(ash_buffer_get(engine.volume, node_id(block, 5), &buffer), -EUCLEAN);
	cr_expect_eq(counters(&engine).damaged_blocks, 2);
	engine_close(&engine);
}

/* ---- Freed metadata (I3) ---- */

/* A freed node becomes file data, all while its records are still in the log. */
static void block_becomes_data(struct engine *engine, uint64_t block, struct block *data)
{
	struct ash_extent extent;
	struct ash_txn *txn;

	cr_assert_eq(ash_claim(engine->volume, block, 1, 0, &extent), 0);
	cr_assert_eq(extent.start, block);
	memset(data, 0x77, sizeof(*data));
	image_write(engine, block, data);
	ash_log_note_data(engine->volume);
	txn = engine_begin(engine, ASH_TXN_SMALL);
	cr_assert_eq(ash_alloc_log(txn, extent), 0);
	ash_txn_commit(txn);
}

Test(recover, revoked_block_keeps_its_new_content)
{
	struct engine engine;
	struct block data, after;
	uint64_t block;

	engine_open(&engine, "mem:16M", 0);
	block = node_new(&engine, 5, 0x11);
	node_free(&engine, block);
	force(&engine);
	block_becomes_data(&engine, block, &data);
	engine_again(&engine);
	cr_assert_eq(ash_close(engine.volume), 0);
	engine.volume = NULL;
	image_read(&engine, block, &after);
	cr_expect_arr_eq(after.bytes, data.bytes, ASH_BLOCK_SIZE);
	engine_close(&engine);
}

Test(recover, freed_and_used_as_metadata_again)
{
	struct engine engine;
	struct ash_buffer *buffer;
	struct ash_txn *txn;
	uint64_t block;

	engine_open(&engine, "mem:16M", 0);
	block = node_new(&engine, 5, 0x11);
	node_free(&engine, block);
	force(&engine);
	txn = engine_begin(&engine, ASH_TXN_TREE);
	cr_assert_eq(ash_alloc_meta(txn, block, 0, &block), 0);
	cr_assert_eq(ash_txn_new_block(txn, node_id(block, 6), &buffer), 0);
	ash_txn_set(txn, buffer, BODY + 10, "new", 3);
	ash_buffer_put(engine.volume, buffer);
	ash_txn_commit(txn);
	engine_again(&engine);
	cr_expect(node_is(&engine, block, 6, 0, 10, 0));
	cr_expect(node_is(&engine, block, 6, 20, CONTENT - 20, 0));
	engine_close(&engine);
}

/*
 * A node is freed, made again in the same place and freed again, all within one log, before the block becomes file
 * data: it is the last revoke that counts, for the first one does not cover the records of the second life.
 */
Test(recover, freed_twice_within_one_log)
{
	struct engine engine;
	struct ash_buffer *buffer;
	struct ash_txn *txn;
	struct block data, after;
	uint64_t block, again;

	engine_open(&engine, "mem:16M", 0);
	block = node_new(&engine, 5, 0x11);
	node_free(&engine, block);
	force(&engine);
	txn = engine_begin(&engine, ASH_TXN_TREE);
	cr_assert_eq(ash_alloc_meta(txn, block, 0, &again), 0);
	cr_assert_eq(again, block);
	cr_assert_eq(ash_txn_new_block(txn, node_id(block, 5), &buffer), 0);
	ash_txn_set(txn, buffer, BODY + 10, "new", 3);
	ash_buffer_put(engine.volume, buffer);
	ash_txn_commit(txn);
	node_free(&engine, block);
	force(&engine);
	block_becomes_data(&engine, block, &data);
	engine_again(&engine);
	cr_assert_eq(ash_close(engine.volume), 0);
	engine.volume = NULL;
	image_read(&engine, block, &after);
	cr_expect_arr_eq(after.bytes, data.bytes, ASH_BLOCK_SIZE);
	engine_close(&engine);
}

/* ---- Timelines ---- */

static void log_block_seal(const struct place *place, struct ash_log_block *block)
{
	block->header.crc = ash_put32(ash_block_crc(place->seed, block));
}

/*
 * A dead life wrote blocks p, p+1. The crash lost p; the next life wrote another p. Behind it the old p+1, even chained
 * on by a forger to the new p, must not replay.
 */
Test(recover, dead_timeline_never_replays)
{
	struct crash crash;
	struct engine *engine = &crash.engine;
	struct block dead, zero = { { 0 } };
	struct ash_log_block *forged = (void *)&dead;
	struct ash_log_block alive;
	uint64_t position;

	crash_open(&crash, "mem:16M", 0, 0);
	crash_mark(&crash);
	position = crash.place.position;
	crash_fill(&crash, 0, 10, 0xd1);
	force(engine);
	crash_fill(&crash, 0, 10, 0xd2);
	engine_cut(engine);
	image_read(engine, place_block(&crash.place, position + 1), &dead);
	image_write(engine, place_block(&crash.place, position), &zero);
	image_write(engine, place_block(&crash.place, position + 1), &zero);
	engine_mount(engine);
	cr_expect(crash_is(&crash, 0, 10, 0));
	crash_fill(&crash, 20, 10, 0xa1);
	cr_assert_eq(place_of(engine).position, position);
	engine_cut(engine);
	image_read(engine, place_block(&crash.place, position), &alive);
	forged->previous_crc = alive.header.crc;
	log_block_seal(&crash.place, forged);
	image_write(engine, place_block(&crash.place, position + 1), forged);
	engine_mount(engine);
	cr_expect(crash_is(&crash, 0, 10, 0), "the dead life");
	cr_expect(crash_is(&crash, 20, 10, 0xa1), "the living one");
	cr_expect_eq(engine->errors, 0);
	engine_close(engine);
}

Test(recover, every_mount_takes_a_new_epoch)
{
	struct engine engine;
	uint64_t epoch;

	engine_open(&engine, "mem:16M", 0);
	epoch = engine.volume->epoch;
	for (int i = 1; i < 5; i++) {
		ash_abandon(engine.volume);
		engine_mount(&engine);
		cr_expect_eq(engine.volume->epoch, epoch + (uint64_t)i);
	}
	engine_close(&engine);
}

/* ---- Control blocks ---- */

Test(recover, torn_control_block_leaves_the_other_one)
{
	struct crash crash;

	crash_open(&crash, "mem:16M", 0, 1);
	cr_assert_eq(ash_checkpoint(crash.engine.volume), 0);
	crash_fill(&crash, 0, 10, 2);
	cr_assert_eq(ash_log_checkpoint(crash.engine.volume, true), 0);
	cr_assert_eq(crash_lose_control(&crash), 0);
	cr_expect(crash_is(&crash, 0, 10, 2));
	cr_expect(crash_is(&crash, 10, 100, 1));
	cr_expect_eq(crash.engine.errors, 0);
	/* the next one is written over the torn one, not over the good one */
	crash_fill(&crash, 0, 10, 3);
	cr_assert_eq(ash_close(crash.engine.volume), 0);
	engine_mount(&crash.engine);
	cr_expect(crash_is(&crash, 0, 10, 3));
	engine_close(&crash.engine);
}

/* The sequence of the control block that rules when `forged` stands in the place of the newest one. */
static uint64_t ruling_sequence(struct crash *crash, uint64_t block, struct ash_log_control *forged)
{
	struct ash_overlay *overlay;
	char error[BDEV_ERROR_TEXT];
	struct block super;
	uint64_t sequence;

	forged->header.crc = ash_put32(ash_block_crc(crash->place.seed, forged));
	image_write(&crash->engine, block, forged);
	image_read(&crash->engine, 0, &super);
	cr_assert_eq(ash_overlay_open(crash->engine.dev, (const void *)&super, &overlay, error), 0, "%s", error);
	sequence = ash_get64(ash_overlay_info(overlay)->control.sequence);
	ash_overlay_close(overlay);
	return sequence;
}

Test(recover, control_block_that_cannot_be_true_does_not_rule)
{
	struct ash_log_control newest, forged;
	struct crash crash;
	uint64_t block, sequence;

	crash_open(&crash, "mem:16M", 0, 1);
	cr_assert_eq(ash_checkpoint(crash.engine.volume), 0);
	crash_fill(&crash, 0, 10, 2);
	cr_assert_eq(ash_log_checkpoint(crash.engine.volume, true), 0);
	crash.place = place_of(&crash.engine);
	engine_cut(&crash.engine);
	block = newest_control(&crash.engine, &crash.place);
	image_read(&crash.engine, block, &newest);
	sequence = ash_get64(newest.sequence);
	forged = newest;
	cr_expect_eq(ruling_sequence(&crash, block, &forged), sequence);
	forged = newest;
	forged.header.owner = ash_put64(7);
	cr_expect_eq(ruling_sequence(&crash, block, &forged), sequence - 1, "owner");
	forged = newest;
	forged.sequence = ash_put64(1ull << 62);
	cr_expect_eq(ruling_sequence(&crash, block, &forged), sequence - 1, "sequence");
	forged = newest;
	forged.epoch = ash_put64(1ull << 62);
	cr_expect_eq(ruling_sequence(&crash, block, &forged), sequence - 1, "epoch");
	forged = newest;
	forged.epoch_position = ash_put64(ash_get64(newest.tail_position) + crash.place.ring + 1);
	cr_expect_eq(ruling_sequence(&crash, block, &forged), sequence - 1, "position of the epoch");
	engine_close(&crash.engine);
}

Test(recover, both_control_blocks_bad_is_an_error)
{
	struct crash crash;

	crash_open(&crash, "mem:16M", 0, 1);
	crash_mark(&crash);
	engine_cut(&crash.engine);
	image_spoil(&crash.engine, crash.place.log_start, 60);
	cr_expect_eq(crash_reopen(&crash, crash.place.log_start + 1), -EUCLEAN);
	engine_close(&crash.engine);
}

/* The durable newest control block rots away, and the log has used the space that it had freed. */
Test(recover, lost_control_block_is_noticed)
{
	struct crash crash;
	uint64_t filled;

	crash_open(&crash, "mem:64M", 2000, 0);
	cr_assert_eq(ash_checkpoint(crash.engine.volume), 0);
	for (filled = 0; filled < 900; filled++)
		crash_fill(&crash, 0, CONTENT, (uint8_t)filled);
	cr_assert_eq(ash_checkpoint(crash.engine.volume), 0);
	for (filled = 0; filled < 1200; filled++)
		crash_fill(&crash, 0, CONTENT, (uint8_t)filled);
	cr_expect_eq(crash_lose_control(&crash), -EUCLEAN, "not an old state that looks fine");
	engine_close(&crash.engine);
}

Test(recover, lost_epoch_is_noticed)
{
	struct crash crash;

	crash_open(&crash, "mem:16M", 0, 0);
	engine_again(&crash.engine);
	crash_fill(&crash, 0, 10, 2); /* acknowledged under the new epoch */
	cr_expect_eq(crash_lose_control(&crash), -EUCLEAN);
	engine_close(&crash.engine);
}

/* ---- The end of the chain ---- */

Test(recover, unfinished_log_write_ends_the_log)
{
	struct crash crash;

	crash_open(&crash, "mem:16M", 0, 1);
	crash_mark(&crash);
	for (int i = 0; i < 4; i++) /* one force of several blocks; the first of them is missing */
		crash_fill(&crash, 0, CONTENT, (uint8_t)(2 + i));
	engine_cut(&crash.engine);
	cr_assert_eq(crash_reopen(&crash, place_block(&crash.place, crash.place.position)), 0);
	cr_expect(crash_is(&crash, 0, CONTENT, 1));
	cr_expect_eq(crash.engine.errors, 0);
	engine_close(&crash.engine);
}

Test(recover, half_a_record_is_not_replayed)
{
	struct crash crash;

	crash_open(&crash, "mem:16M", 0, 1);
	crash_fill(&crash, 0, CONTENT, 2); /* with the one above: it lies in two log blocks */
	crash_fill(&crash, 0, CONTENT, 3);
	crash_mark(&crash);
	ash_abandon(crash.engine.volume);
	cr_assert_eq(crash_reopen(&crash, place_block(&crash.place, crash.place.position - 1)), 0);
	cr_expect(crash_is(&crash, 0, CONTENT, 1) || crash_is(&crash, 0, CONTENT, 2));
	engine_close(&crash.engine);
}

Test(recover, lost_durable_block_is_damage)
{
	struct crash crash;

	crash_open(&crash, "mem:16M", 0, 1);
	crash_mark(&crash);
	for (int i = 0; i < 3; i++) { /* each force says that the one before is durable */
		crash_fill(&crash, 0, 10, (uint8_t)(2 + i));
		force(&crash.engine);
	}
	ash_abandon(crash.engine.volume);
	cr_expect_eq(crash_reopen(&crash, place_block(&crash.place, crash.place.position)), -EUCLEAN);
	engine_close(&crash.engine);
}

/*
 * One log write nearly as large as they get, and as many small ones behind it as are asked for; then its second block is
 * bad. What an open of that says.
 */
static int spoil_large_write(struct crash *crash, int more)
{
	enum { BLOCKS = 3900 };
	uint64_t spoiled;

	crash_open(crash, "mem:64M", 8194, 1);
	crash_mark(crash);
	spoiled = place_block(&crash->place, crash->place.position + 1);
	for (int i = 0; i < BLOCKS; i++)
		crash_fill(crash, 0, CONTENT, (uint8_t)i);
	cr_assert_eq(place_of(&crash->engine).position, crash->place.position, "nothing is written yet");
	force(&crash->engine);
	cr_assert_gt(place_of(&crash->engine).position, crash->place.position + BLOCKS);
	for (int i = 0; i < more; i++) {
		crash_fill(crash, 0, 10, (uint8_t)i);
		force(&crash->engine);
	}
	ash_abandon(crash->engine.volume);
	return crash_reopen(crash, spoiled);
}

/* The block that proves it lies behind the end of the write. */
Test(recover, lost_block_of_a_large_durable_write_is_damage)
{
	struct crash crash;

	cr_expect_eq(spoil_large_write(&crash, 3), -EUCLEAN);
	engine_close(&crash.engine);
}

Test(recover, large_unfinished_write_ends_the_log)
{
	struct crash crash;

	cr_assert_eq(spoil_large_write(&crash, 0), 0);
	cr_expect_eq(crash.engine.errors, 0, "%s", crash.engine.last_error);
	cr_expect(crash_is(&crash, 0, CONTENT, 1), "no record of it fits its first block");
	engine_close(&crash.engine);
}

/* The control block of a new epoch says how far the log reached, without a block of that epoch. */
Test(recover, lost_block_before_the_epoch_is_damage)
{
	for (uint64_t lost = 1; lost <= 3; lost++) {
		struct crash crash;

		crash_open(&crash, "mem:16M", 0, 1);
		for (int i = 0; i < 4; i++)
			crash_fill(&crash, 0, CONTENT, (uint8_t)i);
		engine_again(&crash.engine);
		crash_mark(&crash); /* nothing to force: the epoch begins here */
		ash_abandon(crash.engine.volume);
		cr_expect_eq(crash_reopen(&crash, place_block(&crash.place, crash.place.position - lost)), -EUCLEAN);
		engine_close(&crash.engine);
	}
}

/* ---- Blocks that the device does not give (I8) ---- */

/* As crash_open(), and over the fault layer. */
static void sick_open(struct crash *crash, uint8_t value)
{
	struct engine *engine = &crash->engine;

	memset(engine, 0, sizeof(*engine));
	cr_assert_eq(fault_open(engine_device("mem:16M"), &engine->dev), 0);
	engine_format(engine->dev, 1024);
	engine->options.no_threads = true;
	engine->options.cache_bytes = 1u << 20;
	engine_mount(engine);
	crash->node = node_new(engine, 5, value);
	cr_assert_eq(ash_checkpoint(engine->volume), 0);
}

/* -ENODATA is what Linux makes of a medium error. */
static void make_unreadable(struct engine *engine, uint64_t block)
{
	struct fault_rule rule = { .ops = FAULT_OP(BDEV_READ),
				   .offset = block * ASH_BLOCK_SIZE,
				   .length = ASH_BLOCK_SIZE,
				   .error = block % 2 ? -EIO : -ENODATA };

	cr_assert_eq(fault_add(engine->dev, &rule), 0);
}

static void close_clean(struct engine *engine)
{
	cr_assert_eq(ash_close(engine->volume), 0);
	engine->volume = NULL;
}

static bool writes(const struct engine *engine)
{
	return !engine->volume->no_write && !atomic_load(&engine->volume->read_only);
}

/* What made the volume open without writing is there again: all is as it was, and nothing was lost meanwhile. */
static void expect_all_back(struct crash *crash, uint8_t value)
{
	close_clean(&crash->engine);
	fault_clear(crash->engine.dev);
	crash->engine.errors = 0;
	engine_mount(&crash->engine);
	cr_expect(writes(&crash->engine));
	cr_expect(crash_is(crash, 0, 10, value));
	cr_expect_eq(crash->engine.errors, 0, "%s", crash->engine.last_error);
}

Test(recover, unreadable_control_block_leaves_the_other_one)
{
	for (uint64_t newest = 0; newest < 2; newest++) {
		struct crash crash;
		uint64_t block;

		sick_open(&crash, 1);
		crash_fill(&crash, 0, 10, 2);
		cr_assert_eq(ash_log_checkpoint(crash.engine.volume, true), 0);
		crash.place = place_of(&crash.engine);
		engine_cut(&crash.engine);
		block = newest_control(&crash.engine, &crash.place);
		make_unreadable(&crash.engine, newest ? block : 2 * crash.place.log_start + 1 - block);
		engine_mount(&crash.engine);
		cr_expect(writes(&crash.engine));
		cr_expect(crash_is(&crash, 0, 10, 2));
		cr_expect_eq(crash.engine.errors, 0, "%s", crash.engine.last_error);
		crash_fill(&crash, 0, 10, 3);
		expect_all_back(&crash, 3);
		engine_close(&crash.engine);
	}
}

Test(recover, both_control_blocks_unreadable_is_an_error)
{
	struct crash crash;

	sick_open(&crash, 1);
	crash_mark(&crash);
	engine_cut(&crash.engine);
	make_unreadable(&crash.engine, crash.place.log_start);
	make_unreadable(&crash.engine, crash.place.log_start + 1);
	cr_expect_eq(engine_try_mount(&crash.engine), -EUCLEAN);
	engine_close(&crash.engine);
}

Test(recover, device_that_goes_away_at_the_control_blocks_is_no_damage)
{
	struct fault_rule gone = { .ops = FAULT_OP(BDEV_READ), .length = ASH_BLOCK_SIZE, .sticky = true };
	struct crash crash;

	sick_open(&crash, 1);
	crash_mark(&crash);
	engine_cut(&crash.engine);
	gone.offset = crash.place.log_start * ASH_BLOCK_SIZE;
	cr_assert_eq(fault_add(crash.engine.dev, &gone), 0);
	cr_expect_eq(engine_try_mount(&crash.engine), -EIO);
	fault_clear(crash.engine.dev);
	engine_mount(&crash.engine);
	cr_expect(crash_is(&crash, 0, 10, 1));
	engine_close(&crash.engine);
}

/* The end of a log that was closed, and blocks behind it, that nobody needs. */
Test(recover, unreadable_unused_log_block_does_not_matter)
{
	for (uint64_t behind = 0; behind < 200; behind += 100) {
		struct crash crash;

		sick_open(&crash, 1);
		crash_fill(&crash, 0, 10, 2);
		close_clean(&crash.engine);
		engine_mount(&crash.engine);
		crash.place = place_of(&crash.engine);
		close_clean(&crash.engine);
		make_unreadable(&crash.engine, place_block(&crash.place, crash.place.position + behind));
		engine_mount(&crash.engine);
		cr_expect(writes(&crash.engine));
		cr_expect_eq(crash.engine.errors, 0, "%s", crash.engine.last_error);
		crash_fill(&crash, 0, 10, 3);
		expect_all_back(&crash, 3);
		engine_close(&crash.engine);
	}
}

Test(recover, unreadable_durable_block_is_damage)
{
	struct crash crash;

	sick_open(&crash, 1);
	crash_mark(&crash);
	for (int i = 0; i < 3; i++) {
		crash_fill(&crash, 0, 10, (uint8_t)(2 + i));
		force(&crash.engine);
	}
	ash_abandon(crash.engine.volume);
	make_unreadable(&crash.engine, place_block(&crash.place, crash.place.position));
	cr_expect_eq(engine_try_mount(&crash.engine), -EUCLEAN);
	engine_close(&crash.engine);
}

/* Nothing proves that the last block was acknowledged, and nothing that it was not: it was. */
Test(recover, unreadable_last_block_is_not_given_up_by_a_mount)
{
	struct crash crash;

	sick_open(&crash, 1);
	crash_mark(&crash);
	crash_fill(&crash, 0, 10, 2);
	engine_cut(&crash.engine);
	make_unreadable(&crash.engine, place_block(&crash.place, crash.place.position));
	engine_mount(&crash.engine);
	cr_expect(!writes(&crash.engine));
	cr_expect(crash_is(&crash, 0, 10, 1), "what was read can be seen");
	cr_expect_geq(crash.engine.errors, 1);
	cr_expect_eq(counters(&crash.engine).damaged_blocks, 1);
	expect_all_back(&crash, 2);
	engine_close(&crash.engine);
}

/* Nor is the log's end certain when the control block that may say more cannot be read either. */
Test(recover, unreadable_control_and_log_block_are_not_given_up)
{
	struct crash crash;

	sick_open(&crash, 1);
	close_clean(&crash.engine);
	engine_mount(&crash.engine);
	crash_mark(&crash);
	crash_fill(&crash, 0, 10, 2);
	engine_cut(&crash.engine);
	make_unreadable(&crash.engine, newest_control(&crash.engine, &crash.place));
	make_unreadable(&crash.engine, place_block(&crash.place, crash.place.position));
	engine_mount(&crash.engine);
	cr_expect(!writes(&crash.engine), "the older control block says clean");
	expect_all_back(&crash, 2);
	engine_close(&crash.engine);
}

Test(recover, unreadable_home_block_spoils_itself_only)
{
	struct crash crash;
	struct engine *engine = &crash.engine;
	struct ash_buffer *buffer;
	uint64_t other;

	sick_open(&crash, 1);
	other = node_new(engine, 6, 1);
	cr_assert_eq(ash_checkpoint(engine->volume), 0);
	crash_fill(&crash, 0, 10, 2);
	node_fill(engine, other, 6, 0, 10, 2);
	engine_cut(engine);
	make_unreadable(engine, crash.node);
	engine->options.continue_on_damage = true; /* even so: the log is all that there is of the change */
	engine_mount(engine);
	cr_expect(!writes(engine));
	cr_expect(node_is(engine, other, 6, 0, 10, 2));
	cr_expect_eq(counters(engine).damaged_blocks, 1);
	cr_expect_eq(ash_buffer_get(engine->volume, node_id(crash.node, 5), &buffer), -EUCLEAN);
	fault_clear(engine->dev);
	cr_expect_eq(ash_buffer_get(engine->volume, node_id(crash.node, 5), &buffer), -EUCLEAN, "an old state");
	expect_all_back(&crash, 2);
	cr_expect(node_is(engine, other, 6, 0, 10, 2));
	engine_close(engine);
}

/* As with a bad checksum: a backup tells where the log is, and fsck is asked for. */
Test(recover, unreadable_superblock_wants_fsck)
{
	struct crash crash;

	sick_open(&crash, 1);
	close_clean(&crash.engine);
	make_unreadable(&crash.engine, 0);
	cr_expect_eq(engine_try_mount(&crash.engine), -EUCLEAN);
	engine_close(&crash.engine);
}

Test(recover, unreadable_backup_superblock_is_written_anew)
{
	struct crash crash;

	sick_open(&crash, 1);
	make_unreadable(&crash.engine, crash.engine.volume->block_count - 1);
	close_clean(&crash.engine);
	engine_mount(&crash.engine);
	cr_expect(crash.engine.volume->was_clean);
	engine_close(&crash.engine);
}

Test(recover, unreadable_inode_bitmap_leaves_the_records)
{
	struct ash_create create = { .mode = S_IFREG | 0644 };
	struct ash_attr attr;
	struct ash_block_id id;
	struct crash crash;

	sick_open(&crash, 1);
	cr_assert_eq(ash_create(crash.engine.volume, ASH_INO_ROOT, "file", &create, &attr), 0);
	cr_assert_eq(ash_checkpoint(crash.engine.volume), 0);
	cr_assert(ash_itable_bitmap(crash.engine.volume, 0, &id));
	engine_cut(&crash.engine);
	make_unreadable(&crash.engine, id.block);
	engine_mount(&crash.engine);
	cr_expect(writes(&crash.engine));
	cr_expect_eq(ash_lookup(crash.engine.volume, ASH_INO_ROOT, "file", &attr), 0);
	engine_close(&crash.engine);
}

static uint64_t used_inodes(const struct engine *engine)
{
	struct ash_volume_info info;

	cr_assert_eq(ash_volume_info(engine->volume, &info), 0);
	return info.used_inodes;
}

/* What a mount could not count it assumes; an unmount must not write that down as the truth. */
Test(recover, inodes_that_could_not_be_counted_are_counted_later)
{
	for (int heals = 0; heals < 2; heals++) {
		struct ash_block_id id;
		struct crash crash;
		uint64_t used;

		sick_open(&crash, 1);
		crash_fill(&crash, 0, 10, 2);
		force(&crash.engine);
		used = used_inodes(&crash.engine);
		cr_assert(ash_itable_bitmap(crash.engine.volume, 0, &id));
		engine_cut(&crash.engine);
		make_unreadable(&crash.engine, id.block);
		engine_mount(&crash.engine);
		cr_expect_gt(used_inodes(&crash.engine), used);
		if (heals)
			fault_clear(crash.engine.dev);
		close_clean(&crash.engine);
		fault_clear(crash.engine.dev);
		engine_mount(&crash.engine);
		cr_expect_eq(crash.engine.volume->was_clean, heals);
		cr_expect_eq(used_inodes(&crash.engine), used);
		engine_close(&crash.engine);
	}
}

/* ---- Forged logs: every checksum is right (I8) ---- */

struct forgery {
	struct crash crash;
	struct ash_log_block block;
	uint32_t at; /* payload used */
};

/* A volume whose log ends with one more block, in which the forger writes. */
static void forgery_begin(struct forgery *forgery)
{
	struct ash_log_block last;

	crash_open(&forgery->crash, "mem:16M", 0, 1);
	crash_fill(&forgery->crash, 0, 10, 2);
	crash_mark(&forgery->crash);
	image_read(&forgery->crash.engine, place_block(&forgery->crash.place, forgery->crash.place.position - 1),
		   &last);
	memset(&forgery->block, 0, sizeof(forgery->block));
	forgery->block.header = last.header;
	forgery->block.header.address = ash_put64(place_block(&forgery->crash.place, forgery->crash.place.position));
	forgery->block.header.owner = ash_put64(forgery->crash.place.position);
	forgery->block.epoch = last.epoch;
	forgery->block.previous_crc = last.header.crc;
	forgery->at = sizeof(struct ash_log_record);
	engine_cut(&forgery->crash.engine);
}

static void forgery_item(struct forgery *forgery, uint8_t kind, uint64_t block, uint32_t value, const void *tail,
			 uint16_t length)
{
	struct ash_log_item item = {
		.kind = kind, .length = ash_put16(length), .value = ash_put32(value), .block = ash_put64(block)
	};

	memcpy(forgery->block.payload + forgery->at, &item, sizeof(item));
	if (length)
		memcpy(forgery->block.payload + forgery->at + sizeof(item), tail, length);
	forgery->at += (uint32_t)sizeof(item) + length;
}

static int forgery_mount(struct forgery *forgery, uint32_t length, uint32_t items, int64_t lsn_error)
{
	struct ash_log_record record = {
		.length = ash_put32(length ? length : forgery->at),
		.items = ash_put32(items),
		.lsn = ash_put64(forgery->crash.place.position * ASH_LOG_PAYLOAD + (uint64_t)lsn_error),
	};

	memcpy(forgery->block.payload, &record, sizeof(record));
	forgery->block.used = ash_put16((uint16_t)forgery->at);
	log_block_seal(&forgery->crash.place, &forgery->block);
	image_write(&forgery->crash.engine, place_block(&forgery->crash.place, forgery->crash.place.position),
		    &forgery->block);
	return engine_try_mount(&forgery->crash.engine);
}

struct bad_item {
	uint8_t kind;
	uint64_t block;
	uint32_t value;
	uint16_t length;
	uint32_t tail[2];
};

/* `log`: added to the first block of the log. */
static const struct bad_item bad_items[] = {
	{ ASH_LOG_BYTES, 400, ASH_BLOCK_SIZE - 4, 8, { 0 } },
	{ ASH_LOG_BYTES, 400, UINT32_MAX, 8, { 0 } },
	{ ASH_LOG_BYTES, 1ull << 60, 0, 8, { 0 } },
	{ ASH_LOG_BYTES, 4096, 0, 8, { 0 } },
	{ ASH_LOG_FORMAT, 400, ASH_MAGIC_TREE_NODE, 4, { 0 } },
	{ ASH_LOG_BITS_SET, 1, ASH_BITS_PER_BITMAP - 1, 4, { 2 } },
	{ ASH_LOG_BITS_CLEAR, 1, UINT32_MAX, 4, { 2 } },
	{ ASH_LOG_BITS_CLEAR, 1, 5, 4, { UINT32_MAX } },
	{ ASH_LOG_BITS_SET, 1, 5, 8, { 1 } },
	{ ASH_LOG_REVOKE, 0, 0, 4, { 1 } },
	{ ASH_LOG_REVOKE, 400, 0, 4, { UINT32_MAX } },
	{ ASH_LOG_REVOKE, 400, 0, 0, { 0 } },
	{ ASH_LOG_HOME, 400, 0, 4, { 0 } },
	{ ASH_LOG_ORPHAN_ADD, 0, 0, 0, { 0 } },
	{ ASH_LOG_ORPHAN_ADD, 9, 0, 8, { 0 } },
	{ 0, 400, 0, 0, { 0 } },
	{ 99, 400, 0, 0, { 0 } },
};

Test(recover, impossible_items_are_refused)
{
	for (size_t i = 0; i < sizeof(bad_items) / sizeof(bad_items[0]); i++) {
		const struct bad_item *bad = &bad_items[i];
		struct forgery forgery;

		forgery_begin(&forgery);
		forgery_item(&forgery, bad->kind, bad->block, bad->value, bad->tail, bad->length);
		cr_expect_eq(forgery_mount(&forgery, 0, 1, 0), -EUCLEAN, "item %zu", i);
		engine_close(&forgery.crash.engine);
	}
}

Test(recover, log_does_not_write_into_itself)
{
	for (uint64_t i = 0; i < 3; i++) {
		struct forgery forgery;

		forgery_begin(&forgery);
		forgery_item(&forgery, ASH_LOG_BYTES, forgery.crash.place.log_start + i, 0, "forged!!", 8);
		cr_expect_eq(forgery_mount(&forgery, 0, 1, 0), -EUCLEAN);
		engine_close(&forgery.crash.engine);
	}
}

Test(recover, impossible_records_are_refused)
{
	static const struct {
		uint32_t length, items;
		int64_t lsn_error;
	} cases[] = { { 3, 0, 0 }, { 0, 0, 0 }, { 0, 2, 0 }, { 0, UINT32_MAX, 0 }, { 0, 1, 16 }, { 0, 1, -4032 } };

	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		struct forgery forgery;

		forgery_begin(&forgery);
		forgery_item(&forgery, ASH_LOG_ORPHAN_DEL, 9, 0, NULL, 0);
		cr_expect_eq(forgery_mount(&forgery, cases[i].length, cases[i].items, cases[i].lsn_error), -EUCLEAN,
			     "case %zu", i);
		engine_close(&forgery.crash.engine);
	}
}

/* A record that changes the superblock: the volume that it describes is judged before anything is written. */
Test(recover, superblock_from_the_log_is_judged)
{
	static const struct {
		uint32_t offset;
		uint64_t value;
	} fields[] = {
		{ offsetof(struct ash_super, block_count), 1ull << 40 },
		{ offsetof(struct ash_super, block_count), 5 },
		{ offsetof(struct ash_super, log_start), 1000 },
		{ offsetof(struct ash_super, log_blocks), 300 },
		{ offsetof(struct ash_super, group_table_blocks), 1ull << 45 },
		{ offsetof(struct ash_super, incompat), 1ull << 63 },
	};

	for (size_t i = 0; i < sizeof(fields) / sizeof(fields[0]); i++) {
		ash_le64 value = ash_put64(fields[i].value);
		struct forgery forgery;
		struct block before, after;

		forgery_begin(&forgery);
		forgery_item(&forgery, ASH_LOG_BYTES, 0, fields[i].offset, &value, sizeof(value));
		image_read(&forgery.crash.engine, forgery.crash.place.log_start, &before);
		cr_expect_lt(forgery_mount(&forgery, 0, 1, 0), 0, "field %zu", i);
		image_read(&forgery.crash.engine, forgery.crash.place.log_start, &after);
		cr_expect_arr_eq(before.bytes, after.bytes, ASH_BLOCK_SIZE, "nothing was written");
		engine_close(&forgery.crash.engine);
	}
}

/* ---- Whose device is it ---- */

/* Another filesystem was made over the volume: its backup superblock and its log are still there. */
Test(recover, foreign_device_with_an_old_backup_is_left_alone)
{
	struct engine engine = { .options = { .no_threads = true } };
	struct bdev *memory = engine_device("mem:16M");
	struct block foreign;

	engine_format(memory, 0);
	cr_assert_eq(record_open(memory, &engine.dev), 0);
	memset(&foreign, 0xe4, sizeof(foreign));
	image_write(&engine, 0, &foreign);
	record_clear(engine.dev);
	cr_expect_lt(engine_try_mount(&engine), 0);
	cr_expect_eq(record_count(engine.dev), 0, "nothing may be written");
	engine_close(&engine);
}

/* The first half of a volume of equal size that was in use, with all that its log holds, over this one's. */
static void overwritten_open(struct engine *engine)
{
	struct ash_mkfs_options own = { .log_blocks = ASH_LOG_MIN_BLOCKS };
	struct bdev *memory = engine_device("mem:16M");
	struct engine other;
	struct block copy;

	cr_assert_eq(ash_mkfs(memory, &own, NULL), 0);
	memset(engine, 0, sizeof(*engine));
	cr_assert_eq(record_open(memory, &engine->dev), 0);
	engine_open(&other, "mem:16M", 0);
	node_new(&other, 5, 0x55);
	engine_cut(&other);
	for (uint64_t block = 0; block < bdev_geometry(memory)->size / ASH_BLOCK_SIZE / 2; block++) {
		image_read(&other, block, &copy);
		image_write(engine, block, &copy);
	}
	engine_close(&other);
	record_clear(engine->dev);
}

/* Which of the two somebody wants is not for a mount to decide: nothing is written over what is left of either. */
Test(recover, volume_that_another_one_was_copied_over_is_left_alone)
{
	struct ash_volume_info info;
	struct engine engine;

	overwritten_open(&engine);
	for (unsigned read_only = 0; read_only < 2; read_only++) {
		engine.options = (struct ash_open_options){ .no_threads = true,
							    .read_only = read_only,
							    .continue_on_damage = !read_only };
		engine_mount(&engine);
		cr_expect_eq(ash_check_writable(engine.volume), -EROFS);
		cr_expect_eq(ash_volume_info(engine.volume, &info), 0);
		cr_expect(info.no_write);
		cr_expect(strstr(engine.last_error, "another volume"), "%s", engine.last_error);
		cr_expect_eq(ash_close(engine.volume), 0);
		engine.volume = NULL;
		cr_expect_eq(record_count(engine.dev), 0, "nothing may be written");
	}
	engine_close(&engine);
}

/* A mounted volume; it is closed. */
static void tear_superblock(struct engine *engine)
{
	struct block old_home, new_home;

	image_read(engine, 0, &old_home);
	cr_assert_eq(ash_set_label(engine->volume, "a new label"), 0);
	cut_within_checkpoint(engine, 0, &new_home);
	/* the checksum and the label do not fit */
	memcpy(new_home.bytes, old_home.bytes, offsetof(struct ash_super, label));
	image_write(engine, 0, &new_home);
	engine_mount(engine);
	cr_expect_str_eq(((struct ash_super *)engine->volume->super->data)->label, "a new label");
	cr_assert_eq(ash_close(engine->volume), 0);
	engine_mount(engine);
	cr_expect_eq(engine->errors, 0, "%s", engine->last_error);
	engine_close(engine);
}

Test(recover, torn_superblock_is_mended_by_its_backup_and_the_log)
{
	struct engine engine;

	engine_open(&engine, "mem:16M", 0);
	tear_superblock(&engine);
}

/* Its only backup is neither at the end of the device nor at the start of a group. */
Test(recover, torn_superblock_of_a_volume_that_is_smaller_than_its_device)
{
	struct engine engine = { .options = { .no_threads = true } };
	struct ash_mkfs_options options = { .block_count = 3000 };
	char error[BDEV_ERROR_TEXT] = "";

	engine.dev = engine_device("mem:16M");
	cr_assert_eq(ash_mkfs(engine.dev, &options, error), 0, "%s", error);
	engine_mount(&engine);
	tear_superblock(&engine);
}

/* ---- Without writing ---- */

Test(recover, no_write_open_replays_in_memory_only)
{
	struct engine engine = { .options = { .no_threads = true } };
	struct bdev *memory = engine_device("mem:16M");
	uint64_t block;

	engine_format(memory, 0);
	cr_assert_eq(record_open(memory, &engine.dev), 0);
	engine_mount(&engine);
	block = node_new(&engine, 5, 1);
	engine_cut(&engine);
	record_clear(engine.dev);
	engine.options.no_write = true;
	engine_mount(&engine);
	cr_expect(node_is(&engine, block, 5, 0, CONTENT, 1));
	cr_expect_eq(ash_close(engine.volume), 0);
	engine.volume = NULL;
	for (size_t i = 0; i < record_count(engine.dev); i++)
		cr_expect_eq(record_get(engine.dev, i)->kind, RECORD_FLUSH);
	engine_close(&engine);
}

Test(recover, clean_volume_replays_nothing)
{
	struct engine engine;

	engine_open(&engine, "mem:16M", 0);
	node_new(&engine, 5, 1);
	cr_assert_eq(ash_close(engine.volume), 0);
	engine_mount(&engine);
	cr_expect(engine.volume->was_clean);
	ash_abandon(engine.volume);
	engine_mount(&engine);
	cr_expect(!engine.volume->was_clean, "an open volume is not clean");
	engine_close(&engine);
}
