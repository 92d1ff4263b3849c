/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Transactions: random ones against a model with crashes and checkpoints, by one thread and by several; then the single
 * rules: undo (I9), ownership of logged bytes (I11), order of callbacks, refusal on a read-only volume.
 */
#include "engine_fixture.h"

#include <pthread.h>

#define NODES 200u
#define CONTENT (ASH_BLOCK_SIZE - BODY)

/* ---- Against a model ---- */

struct node {
	uint64_t block; /* 0: none */
	uint8_t content[CONTENT];
};

struct model {
	struct engine *engine;
	uint64_t first_owner; /* threads have disjoint owners: each owns its nodes (I11) */
	uint64_t random;
	struct node nodes[NODES];
	struct node saved[4];
};

static uint64_t dice(struct model *model, uint64_t sides)
{
	return engine_random(&model->random) % sides;
}

static void node_change(struct model *model, struct ash_txn *txn, struct ash_buffer *buffer, struct node *node)
{
	uint8_t bytes[64];

	for (uint64_t i = dice(model, 6); i; i--) {
		uint32_t to = (uint32_t)dice(model, CONTENT - 64), from = (uint32_t)dice(model, CONTENT - 64);
		uint32_t length = 1 + (uint32_t)dice(model, 64);

		for (uint32_t k = 0; k < length; k++)
			bytes[k] = (uint8_t)engine_random(&model->random);
		switch (dice(model, 4)) {
		case 0:
			memmove(node->content + to, node->content + from, length);
			break;
		case 1:
			memset(node->content + to, 0, length);
			break;
		default:
			memcpy(node->content + to, bytes, length);
		}
		ash_txn_set(txn, buffer, BODY + to, node->content + to, length);
	}
}

static void node_step(struct model *model, struct ash_txn *txn, uint64_t index)
{
	struct ash_volume *volume = model->engine->volume;
	struct node *node = &model->nodes[index];
	uint64_t owner = model->first_owner + index;
	struct ash_buffer *buffer;

	if (!node->block) {
		cr_assert_eq(ash_alloc_meta(txn, dice(model, 16000), 0, &node->block), 0);
		cr_assert_eq(ash_txn_new_block(txn, node_id(node->block, owner), &buffer), 0);
		memset(node->content, 0, CONTENT);
	} else {
		buffer = node_get(model->engine, node->block, owner);
	}
	node_change(model, txn, buffer, node);
	if (!dice(model, 10)) {
		cr_assert_eq(ash_free(txn, (struct ash_extent){ node->block, 1 }, true), 0);
		node->block = 0;
	}
	ash_buffer_put(volume, buffer);
}

static void model_step(struct model *model)
{
	struct ash_txn *txn = engine_begin(model->engine, ASH_TXN_NAME / 4);
	uint64_t start = dice(model, NODES), count = 1 + dice(model, 4), lsn;

	for (uint64_t i = 0; i < count; i++) {
		uint64_t index = (start + i * 7) % NODES;

		model->saved[i] = model->nodes[index];
		node_step(model, txn, index);
	}
	if (!dice(model, 5)) {
		ash_txn_abort(txn);
		for (uint64_t i = 0; i < count; i++)
			model->nodes[(start + i * 7) % NODES] = model->saved[i];
		return;
	}
	lsn = ash_txn_commit(txn);
	if (!dice(model, 50))
		cr_assert_eq(ash_log_force(model->engine->volume, lsn), 0);
	if (!dice(model, 300))
		cr_assert_eq(ash_log_checkpoint(model->engine->volume, dice(model, 2)), 0);
}

static void model_compare(struct model *model)
{
	for (uint64_t i = 0; i < NODES; i++) {
		struct ash_buffer *buffer;

		if (!model->nodes[i].block)
			continue;
		buffer = node_get(model->engine, model->nodes[i].block, model->first_owner + i);
		cr_assert_arr_eq(buffer->data + BODY, model->nodes[i].content, CONTENT, "node %llu",
				 (unsigned long long)i);
		ash_buffer_put(model->engine->volume, buffer);
	}
}

static uint64_t model_blocks(const struct model *model)
{
	uint64_t count = 0;

	for (uint64_t i = 0; i < NODES; i++)
		count += model->nodes[i].block != 0;
	return count;
}

static void run_model(uint64_t seed)
{
	struct engine engine;
	struct model *model = calloc(1, sizeof(*model));
	uint64_t empty;

	engine_open(&engine, "mem:64M", ASH_LOG_MIN_BLOCKS + seed * 97 % 400);
	*model = (struct model){ .engine = &engine, .first_owner = 100, .random = seed * 7919 + 1 };
	empty = free_blocks(&engine);
	for (int round = 0; round < 12; round++) {
		for (uint64_t i = dice(model, 1500); i; i--)
			model_step(model);
		if (dice(model, 3)) {
			engine_cut(&engine);
		} else {
			cr_assert_eq(ash_close(engine.volume), 0);
			engine.volume = NULL;
		}
		engine_mount(&engine);
		model_compare(model);
		cr_assert_eq(free_blocks(&engine) + model_blocks(model), empty, "round %d", round);
	}
	cr_assert_eq(engine.errors, 0, "%s", engine.last_error);
	free(model);
	engine_close(&engine);
}

Test(txn, random_transactions_equal_the_model)
{
	for (uint64_t seed = 1; seed <= 6; seed++)
		run_model(seed);
}

static void *model_thread(void *argument)
{
	for (int i = 0; i < 800; i++)
		model_step(argument);
	return NULL;
}

Test(txn, threads_share_bitmaps_log_and_checkpoint)
{
	enum { THREADS = 4 };
	struct model *models = calloc(THREADS, sizeof(*models));
	struct engine engine;
	pthread_t threads[THREADS];
	uint64_t empty, used;

	engine_open(&engine, "mem:64M", 0);
	ash_abandon(engine.volume);
	engine.options.no_threads = false; /* with the background worker */
	engine_mount(&engine);
	empty = free_blocks(&engine);
	for (uint64_t i = 0; i < THREADS; i++)
		models[i] = (struct model){ .engine = &engine, .first_owner = 1000 * (i + 1), .random = i + 1 };
	for (int round = 0; round < 3; round++) {
		used = 0;
		for (int i = 0; i < THREADS; i++)
			cr_assert_eq(pthread_create(&threads[i], NULL, model_thread, &models[i]), 0);
		for (int i = 0; i < THREADS; i++)
			pthread_join(threads[i], NULL);
		engine_again(&engine);
		for (int i = 0; i < THREADS; i++) {
			model_compare(&models[i]);
			used += model_blocks(&models[i]);
		}
		cr_assert_eq(free_blocks(&engine) + used, empty);
	}
	cr_assert_eq(engine.errors, 0, "%s", engine.last_error);
	free(models);
	engine_close(&engine);
}

/* ---- Single rules ---- */

Test(txn, abort_puts_bytes_and_bits_back)
{
	struct engine engine;
	struct ash_txn *txn;
	struct ash_buffer *buffer;
	uint64_t block, other, before;

	engine_open(&engine, "mem:16M", 0);
	block = node_new(&engine, 5, 0x11);
	before = free_blocks(&engine);
	txn = engine_begin(&engine, ASH_TXN_TREE);
	buffer = node_get(&engine, block, 5);
	ash_txn_set(txn, buffer, BODY, "changed", 7);
	ash_txn_set(txn, buffer, BODY + 3, "changed again", 13);
	ash_buffer_put(engine.volume, buffer);
	other = node_make(&engine, txn, 6);
	cr_assert_eq(ash_free(txn, (struct ash_extent){ block, 1 }, true), 0);
	ash_txn_abort(txn);
	cr_expect(node_is(&engine, block, 5, 0, CONTENT, 0x11));
	cr_expect_eq(free_blocks(&engine), before);
	cr_expect(!ash_buffer_peek(engine.volume, other), "the new block's buffer is gone");
	engine_again(&engine);
	cr_expect(node_is(&engine, block, 5, 0, CONTENT, 0x11));
	cr_expect_eq(free_blocks(&engine), before);
	engine_close(&engine);
}

/* Two owners change one block at the same time, as inodes of one table block do. */
Test(txn, record_holds_no_bytes_of_another_open_transaction)
{
	struct engine engine;
	struct ash_txn *mine, *theirs;
	struct ash_buffer *buffer;
	uint64_t block;

	engine_open(&engine, "mem:16M", 0);
	block = node_new(&engine, 5, 0);
	buffer = node_get(&engine, block, 5);
	theirs = engine_begin(&engine, ASH_TXN_SMALL);
	mine = engine_begin(&engine, ASH_TXN_SMALL);
	ash_txn_set(theirs, buffer, BODY + 3000, "uncommitted", 11);
	/* more ranges than the merge table holds, too far apart to merge */
	for (uint32_t i = 0; i < 70; i++)
		ash_txn_set(mine, buffer, BODY + i * 40, "x", 1);
	ash_txn_commit(mine);
	ash_buffer_put(engine.volume, buffer);
	engine_again(&engine);
	free(theirs); /* it ended in the crash */
	cr_expect(node_is(&engine, block, 5, 3000, 11, 0), "nobody committed these");
	for (uint32_t i = 0; i < 70; i++)
		cr_expect(node_is(&engine, block, 5, i * 40, 1, 'x'));
	engine_close(&engine);
}

/* The checkpoint may come in the middle of a transaction: home gets the committed image only. */
Test(txn, checkpoint_leaves_out_what_is_not_committed)
{
	struct engine engine;
	struct ash_txn *txn;
	struct ash_buffer *buffer;
	uint64_t block;
	uint8_t home[ASH_BLOCK_SIZE];

	engine_open(&engine, "mem:16M", 0);
	block = node_new(&engine, 5, 0x22);
	txn = engine_begin(&engine, ASH_TXN_SMALL);
	buffer = node_get(&engine, block, 5);
	ash_txn_set(txn, buffer, BODY, "uncommitted", 11);
	cr_assert_eq(ash_log_checkpoint(engine.volume, true), 0);
	image_read(&engine, block, home);
	cr_expect_eq(home[BODY], 0x22);
	ash_txn_commit(txn);
	ash_buffer_put(engine.volume, buffer);
	engine_again(&engine);
	buffer = node_get(&engine, block, 5);
	cr_expect_arr_eq(buffer->data + BODY, "uncommitted", 11);
	ash_buffer_put(engine.volume, buffer);
	engine_close(&engine);
}

static char order[8];

static void note_end(struct ash_volume *volume, void *context, uint64_t lsn)
{
	size_t length = strlen(order);

	(void)volume;
	order[length] = *(char *)context;
	cr_expect(lsn ? *(char *)context < 'a' : *(char *)context >= 'a');
}

Test(txn, callbacks_run_forward_at_commit_and_backward_at_abort)
{
	struct engine engine;
	struct ash_txn *txn;

	engine_open(&engine, "mem:16M", 0);
	txn = engine_begin(&engine, ASH_TXN_SMALL);
	ash_txn_on_end(txn, note_end, "A", 1);
	ash_txn_on_end(txn, note_end, "B", 1);
	ash_txn_commit(txn);
	txn = engine_begin(&engine, ASH_TXN_SMALL);
	ash_txn_on_end(txn, note_end, "a", 1);
	ash_txn_on_end(txn, note_end, "b", 1);
	ash_txn_abort(txn);
	cr_expect_str_eq(order, "ABba");
	engine_close(&engine);
}

Test(txn, metadata_made_and_freed_in_one_transaction_leaves_nothing)
{
	struct engine engine;
	struct ash_txn *txn;
	uint64_t block, before;

	engine_open(&engine, "mem:16M", 0);
	before = free_blocks(&engine);
	txn = engine_begin(&engine, ASH_TXN_TREE);
	block = node_make(&engine, txn, 9);
	cr_assert_eq(ash_free(txn, (struct ash_extent){ block, 1 }, true), 0);
	ash_txn_commit(txn);
	cr_expect_eq(free_blocks(&engine), before);
	engine_again(&engine);
	cr_expect_eq(free_blocks(&engine), before);
	cr_expect(!ash_buffer_peek(engine.volume, block));
	engine_close(&engine);
}

Test(txn, read_only_volume_opens_none)
{
	struct engine engine;
	struct ash_txn *txn;

	engine_open(&engine, "mem:16M", 0);
	ash_set_read_only(engine.volume, "test");
	cr_expect_eq(ash_txn_begin(engine.volume, ASH_TXN_SMALL, &txn), -EROFS);
	cr_expect_eq(ash_txn_begin_system(engine.volume, &txn), -EROFS);
	engine_close(&engine);
}
