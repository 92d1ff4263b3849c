/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The B+tree against a sorted array, on a volume in memory: random insertions, replacements and deletions with commits
 * and aborts, for several patterns of keys and sizes; then the shape (fill, height, blocks), and what damage does (I8).
 */
#include <criterion/criterion.h>
#include <criterion/parameterized.h>
#include <errno.h>

#include "fs/btree_node.h"
#include "tree_fixture.h"

/* ---- The model: a sorted array of keys; a value follows from key, version and length ---- */

struct entry {
	uint64_t key;
	uint32_t version, length;
};

struct model {
	struct entry *entries;
	size_t count, room;
};

static size_t model_find(const struct model *model, uint64_t key)
{
	size_t low = 0, high = model->count;

	while (low < high) {
		size_t middle = (low + high) / 2;

		if (model->entries[middle].key < key)
			low = middle + 1;
		else
			high = middle;
	}
	return low;
}

static bool model_has(const struct model *model, uint64_t key)
{
	size_t i = model_find(model, key);

	return i < model->count && model->entries[i].key == key;
}

static void model_set(struct model *model, struct entry entry)
{
	size_t i = model_find(model, entry.key);

	if (i == model->count || model->entries[i].key != entry.key) {
		if (model->count == model->room) {
			model->room = model->room ? model->room * 2 : 1024;
			model->entries = realloc(model->entries, model->room * sizeof(entry));
			cr_assert(model->entries);
		}
		memmove(model->entries + i + 1, model->entries + i, (model->count - i) * sizeof(entry));
		model->count++;
	}
	model->entries[i] = entry;
}

static void model_delete(struct model *model, uint64_t key)
{
	size_t i = model_find(model, key);

	model->count--;
	memmove(model->entries + i, model->entries + i + 1, (model->count - i) * sizeof(*model->entries));
}

static void model_copy(struct model *to, const struct model *from)
{
	to->count = from->count;
	if (to->room < from->count) {
		to->room = from->room;
		to->entries = realloc(to->entries, to->room * sizeof(*to->entries));
		cr_assert(to->entries);
	}
	if (from->count)
		memcpy(to->entries, from->entries, from->count * sizeof(*to->entries));
}

static void value_make(uint8_t *value, const struct entry *entry)
{
	uint64_t state = entry->key ^ (uint64_t)entry->version << 40;

	for (uint32_t i = 0; i < entry->length; i += 8) {
		uint64_t word = fixture_random(&state);

		memcpy(value + i, &word, entry->length - i < 8 ? entry->length - i : 8);
	}
}

static void expect_record(const struct ash_cursor *cursor, const struct entry *entry)
{
	uint8_t value[ASH_TREE_MAX_VALUE + 8];

	value_make(value, entry);
	cr_assert(cursor->valid);
	cr_assert_eq(cursor->key, entry->key, "key %lx instead of %lx", (unsigned long)cursor->key,
		     (unsigned long)entry->key);
	cr_assert_eq(cursor->length, entry->length);
	cr_assert_eq(memcmp(cursor->value, value, entry->length), 0);
}

static void expect_equal(const struct ash_tree *tree, const struct model *model)
{
	struct ash_cursor cursor = { 0 };
	int found = ash_tree_seek(tree, 0, &cursor);

	for (size_t i = 0; i < model->count; i++) {
		cr_assert_eq(found, 1, "%zu records instead of %zu", i, model->count);
		expect_record(&cursor, &model->entries[i]);
		found = ash_tree_next(&cursor);
	}
	cr_assert_eq(found, 0);
	ash_cursor_done(&cursor);
}

/* ---- A whole tree, checked node by node, without the tree's own walking ---- */

struct shape {
	uint64_t nodes, records, used, leaves;
};

static void walk_node(const struct ash_tree *tree, const uint8_t *node, uint32_t size, uint64_t low, uint64_t high,
		      struct shape *shape)
{
	uint32_t level = ash_node_level(node), count = ash_node_count(node);

	cr_assert_null(ash_node_check(node, size, UINT32_MAX), "%s", ash_node_check(node, size, UINT32_MAX));
	for (uint32_t i = 0; i < count; i++) {
		struct ash_block_id id = { 0, ASH_MAGIC_TREE_NODE, tree->owner };
		struct ash_buffer *buffer;
		uint64_t key, next;
		const uint8_t *value;
		uint32_t length;

		ash_node_record(node, i, &key, &value, &length);
		if (!level || i) {
			cr_assert(key >= low);
			cr_assert(!high || key < high);
		}
		if (!level) {
			shape->records++;
			continue;
		}
		next = i + 1 < count ? ash_node_key(node, i + 1) : high;
		id.block = ash_node_child(node, i);
		cr_assert_eq(ash_buffer_get(tree->volume, id, &buffer), 0);
		cr_assert_eq(ash_node_level(buffer->data + 40), level - 1);
		cr_assert(ash_node_count(buffer->data + 40) > 0);
		shape->nodes++;
		if (level == 1) {
			struct ash_node leaf = { buffer, 40, ASH_TREE_NODE_SIZE };

			shape->leaves++;
			shape->used += ash_node_used(&leaf);
		}
		walk_node(tree, buffer->data + 40, ASH_TREE_NODE_SIZE, i ? key : low, next, shape);
		ash_buffer_put(tree->volume, buffer);
	}
}

static struct shape expect_sound(const struct fixture *fixture, const struct ash_tree *tree)
{
	struct shape shape = { 0 };

	if (tree->buffer->data[tree->kind_offset] == ASH_FORK_TREE)
		walk_node(tree, tree->buffer->data + tree->offset, tree->size, 0, 0, &shape);
	cr_assert_eq(shape.nodes, fixture_blocks(fixture), "%lu nodes, %lu blocks", (unsigned long)shape.nodes,
		     (unsigned long)fixture_blocks(fixture));
	return shape;
}

/* ---- Random operations ---- */

enum pattern { RANDOM_SPARSE, RANDOM_DENSE, ASCENDING, DESCENDING, CLUSTERED, FEW };

struct plan {
	enum pattern pattern;
	uint32_t min_length, max_length;
	bool attribute; /* the smaller root */
	unsigned operations;
	unsigned keep; /* records the run hovers around */
};

struct run {
	struct fixture fixture;
	struct ash_tree *tree;
	struct model model, before;
	const struct plan *plan;
	uint64_t random, next;
	uint32_t version;
};

static uint64_t some_key(struct run *run)
{
	uint64_t random = fixture_random(&run->random);

	switch (run->plan->pattern) {
	case RANDOM_SPARSE:
		return random;
	case RANDOM_DENSE:
		return random % (run->plan->keep * 2);
	case ASCENDING:
		return random % 8 ? run->next += 1 + random % 5 : random % (run->next + 1);
	case DESCENDING:
		return random % 8 ? run->next -= 1 + random % 5 : run->next + random % 100000;
	case CLUSTERED:
		return (random % 50) << 40 | (random >> 32) % 1000;
	case FEW:
	default:
		return random % 24;
	}
}

static uint32_t some_length(struct run *run)
{
	return run->plan->min_length +
	       (uint32_t)(fixture_random(&run->random) % (run->plan->max_length - run->plan->min_length + 1));
}

static void insert_one(struct run *run, struct ash_txn *txn)
{
	struct entry entry = { some_key(run), run->version++, some_length(run) };
	uint8_t value[ASH_TREE_MAX_VALUE + 8];
	bool exists = model_has(&run->model, entry.key);
	int result;

	value_make(value, &entry);
	result = ash_tree_insert(txn, run->tree, entry.key, value, entry.length);
	cr_assert_eq(result, exists ? -EEXIST : 0, "insert: %d", result);
	if (!exists)
		model_set(&run->model, entry);
}

/* A key that is there, mostly. */
static uint64_t some_old_key(struct run *run)
{
	if (!run->model.count || fixture_random(&run->random) % 16 == 0)
		return some_key(run);
	return run->model.entries[fixture_random(&run->random) % run->model.count].key;
}

static void replace_one(struct run *run, struct ash_txn *txn)
{
	struct entry entry = { some_old_key(run), run->version++, some_length(run) };
	uint8_t value[ASH_TREE_MAX_VALUE + 8];
	size_t i = model_find(&run->model, entry.key);
	bool exists = model_has(&run->model, entry.key);
	int result;

	if (exists && entry.version % 2)
		entry.length = run->model.entries[i].length;
	value_make(value, &entry);
	result = ash_tree_replace(txn, run->tree, entry.key, value, entry.length);
	cr_assert_eq(result, exists ? 0 : -ENOENT, "replace: %d", result);
	if (exists)
		model_set(&run->model, entry);
}

static void delete_one(struct run *run, struct ash_txn *txn)
{
	uint64_t key = some_old_key(run);
	bool exists = model_has(&run->model, key);
	int result = ash_tree_delete(txn, run->tree, key);

	cr_assert_eq(result, exists ? 0 : -ENOENT, "delete: %d", result);
	if (exists)
		model_delete(&run->model, key);
}

static void one_operation(struct run *run, struct ash_txn *txn)
{
	uint64_t choice = fixture_random(&run->random) % 100;
	/* Phases of growing and of shrinking, so that splits and joins both happen at every size. */
	bool grow = run->model.count < run->plan->keep * (run->version / 3000 % 2 ? 1 : 0) + run->plan->keep / 20;

	if (choice < 20)
		replace_one(run, txn);
	else if (choice < (grow ? 85 : 45))
		insert_one(run, txn);
	else
		delete_one(run, txn);
}

static void look_somewhere(struct run *run)
{
	uint64_t key = fixture_random(&run->random) % 4 ? some_old_key(run) : some_key(run);
	size_t i = model_find(&run->model, key);
	bool exists = model_has(&run->model, key);
	uint8_t value[ASH_TREE_MAX_VALUE + 8], expected[ASH_TREE_MAX_VALUE + 8];
	struct ash_cursor cursor = { 0 };
	int found = ash_tree_get(run->tree, key, value, sizeof(value));

	cr_assert_eq(found, exists ? (int)run->model.entries[i].length : -ENOENT);
	if (exists) {
		value_make(expected, &run->model.entries[i]);
		cr_assert_eq(memcmp(value, expected, (size_t)found), 0);
	}
	cr_assert_eq(ash_tree_seek(run->tree, key, &cursor), i < run->model.count);
	if (i < run->model.count)
		expect_record(&cursor, &run->model.entries[i]);
	if (!exists)
		i--;
	cr_assert_eq(ash_tree_seek_before(run->tree, key, &cursor), i < run->model.count);
	if (i < run->model.count)
		expect_record(&cursor, &run->model.entries[i]);
	i++;
	if (cursor.valid) {
		cr_assert_eq(ash_tree_next(&cursor), i < run->model.count);
		if (i < run->model.count)
			expect_record(&cursor, &run->model.entries[i]);
	}
	ash_cursor_done(&cursor);
}

static unsigned one_transaction(struct run *run)
{
	struct ash_txn *txn = fixture_begin(&run->fixture, ASH_TXN_RENAME);
	unsigned operations = 1 + (unsigned)(fixture_random(&run->random) % 4);
	bool abort = fixture_random(&run->random) % 10 == 0;
	uint64_t blocks = fixture_blocks(&run->fixture);

	if (abort)
		model_copy(&run->before, &run->model);
	for (unsigned i = 0; i < operations; i++)
		one_operation(run, txn);
	if (!abort) {
		ash_txn_commit(txn);
		return operations;
	}
	ash_txn_abort(txn);
	model_copy(&run->model, &run->before);
	cr_assert_eq(fixture_blocks(&run->fixture), blocks);
	if (fixture_random(&run->random) % 20 == 0)
		expect_equal(run->tree, &run->model);
	return operations;
}

static void run_plan(const struct plan *plan)
{
	struct run run = { .plan = plan, .random = plan->operations + plan->pattern };
	unsigned done = 0, checked = 0;

	run.next = plan->pattern == DESCENDING ? 1ull << 50 : 0;
	fixture_open(&run.fixture, "mem:64M");
	run.tree = plan->attribute ? &run.fixture.attr : &run.fixture.data;
	while (done < plan->operations) {
		done += one_transaction(&run);
		look_somewhere(&run);
		if (done - checked > plan->operations / 40) {
			checked = done;
			cr_assert_eq(run.fixture.last_message[0], 0, "%s", run.fixture.last_message);
			if (fixture_random(&run.random) % 4 == 0)
				fixture_cut(&run.fixture);
			expect_sound(&run.fixture, run.tree);
			expect_equal(run.tree, &run.model);
		}
	}
	while (run.model.count) {
		struct ash_txn *txn = fixture_begin(&run.fixture, ASH_TXN_RENAME);
		uint64_t key = run.model.entries[fixture_random(&run.random) % run.model.count].key;

		cr_assert_eq(ash_tree_delete(txn, run.tree, key), 0);
		ash_txn_commit(txn);
		model_delete(&run.model, key);
		if (run.model.count % 256 == 0)
			expect_equal(run.tree, &run.model);
	}
	cr_assert_eq(expect_sound(&run.fixture, run.tree).records, 0);
	cr_assert_eq(run.tree->buffer->data[run.tree->kind_offset], ASH_FORK_EMPTY);
	cr_assert_eq(run.fixture.last_message[0], 0, "%s", run.fixture.last_message);
	free(run.model.entries);
	free(run.before.entries);
	fixture_close(&run.fixture);
}

ParameterizedTestParameters(btree, equals_a_sorted_array)
{
	static struct plan plans[] = {
		{ RANDOM_SPARSE, 16, 16, false, 40000, 8000 },
		{ RANDOM_DENSE, 11, 265, false, 40000, 4000 },
		{ RANDOM_SPARSE, 0, 1000, true, 30000, 1500 },
		{ RANDOM_DENSE, 900, 1000, true, 15000, 1500 },
		{ ASCENDING, 16, 16, false, 25000, 5000 },
		{ DESCENDING, 0, 40, true, 20000, 4000 },
		{ CLUSTERED, 0, 300, false, 20000, 2000 },
		{ FEW, 0, 60, false, 20000, 20 },
		{ FEW, 0, 1000, true, 20000, 20 },
		{ RANDOM_SPARSE, 0, 2, false, 20000, 9000 },
	};

	return cr_make_param_array(struct plan, plans, sizeof(plans) / sizeof(plans[0]));
}

ParameterizedTest(struct plan *plan, btree, equals_a_sorted_array, .timeout = 240)
{
	run_plan(plan);
}

/* ---- Single behaviours ---- */

static void insert_range(struct fixture *fixture, struct ash_tree *tree, uint64_t first, uint64_t count, uint64_t step,
			 uint32_t length)
{
	uint8_t value[ASH_TREE_MAX_VALUE] = { 0 };

	for (uint64_t i = 0; i < count; i++) {
		struct ash_txn *txn = fixture_begin(fixture, ASH_TXN_TREE);

		cr_assert_eq(ash_tree_insert(txn, tree, first + i * step, value, length), 0);
		ash_txn_commit(txn);
	}
}

Test(btree, empty_tree_has_nothing)
{
	struct fixture fixture;
	struct ash_cursor cursor = { 0 };
	struct ash_txn *txn;
	uint8_t value[8] = { 0 };

	fixture_open(&fixture, "mem:16M");
	cr_assert_eq(ash_tree_seek(&fixture.data, 0, &cursor), 0);
	cr_assert_eq(ash_tree_seek_before(&fixture.data, UINT64_MAX, &cursor), 0);
	cr_assert_eq(ash_tree_next(&cursor), 0);
	cr_assert_eq(ash_tree_get(&fixture.data, 1, value, 8), -ENOENT);
	txn = fixture_begin(&fixture, ASH_TXN_TREE);
	cr_assert_eq(ash_tree_delete(txn, &fixture.data, 1), -ENOENT);
	cr_assert_eq(ash_tree_replace(txn, &fixture.data, 1, value, 8), -ENOENT);
	ash_txn_abort(txn);
	cr_assert_eq(ash_tree_height(&fixture.data), 0);
	fixture_close(&fixture);
}

Test(btree, extreme_keys)
{
	struct fixture fixture;
	struct ash_cursor cursor = { 0 };

	fixture_open(&fixture, "mem:16M");
	insert_range(&fixture, &fixture.data, 0, 1, 1, 8);
	insert_range(&fixture, &fixture.data, UINT64_MAX, 1, 1, 8);
	insert_range(&fixture, &fixture.data, 1000, 1000, 7, 8);
	cr_assert_eq(ash_tree_seek(&fixture.data, UINT64_MAX, &cursor), 1);
	cr_assert_eq(cursor.key, UINT64_MAX);
	cr_assert_eq(ash_tree_next(&cursor), 0);
	cr_assert_eq(ash_tree_seek_before(&fixture.data, UINT64_MAX, &cursor), 1);
	cr_assert_eq(cursor.key, UINT64_MAX);
	cr_assert_eq(ash_tree_seek_before(&fixture.data, 999, &cursor), 1);
	cr_assert_eq(cursor.key, 0);
	ash_cursor_done(&cursor);
	fixture_close(&fixture);
}

Test(btree, get_refuses_a_small_buffer)
{
	struct fixture fixture;
	uint8_t value[16];

	fixture_open(&fixture, "mem:16M");
	insert_range(&fixture, &fixture.data, 5, 1, 1, 16);
	cr_assert_eq(ash_tree_get(&fixture.data, 5, value, 15), -ERANGE);
	cr_assert_eq(ash_tree_get(&fixture.data, 5, value, 16), 16);
	fixture_close(&fixture);
}

Test(btree, insert_alone_sees_the_next_leaf)
{
	struct fixture fixture;
	struct ash_txn *txn;
	uint8_t value[16] = { 0 };

	fixture_open(&fixture, "mem:16M");
	insert_range(&fixture, &fixture.data, 255, 3000, 256, 16);
	/* Each range of 256 holds its last key only, so the search for its first key often ends at a leaf's end. */
	for (uint64_t i = 0; i < 3000; i++) {
		txn = fixture_begin(&fixture, ASH_TXN_TREE);
		cr_assert_eq(ash_tree_insert_alone(txn, &fixture.data, i * 256, 256, value, 16), -EEXIST);
		cr_assert_eq(ash_tree_insert_alone(txn, &fixture.data, i * 256, 255, value, 16), 0);
		ash_txn_abort(txn);
	}
	fixture_close(&fixture);
}

Test(btree, ascending_keys_fill_the_nodes)
{
	struct fixture fixture;
	struct shape shape;

	fixture_open(&fixture, "mem:64M");
	insert_range(&fixture, &fixture.data, 0, 20000, 1, 16);
	shape = expect_sound(&fixture, &fixture.data);
	cr_assert_eq(shape.records, 20000);
	cr_assert(shape.used > shape.leaves * ASH_TREE_NODE_SIZE / 100 * 98, "leaves are %lu %% full",
		  (unsigned long)(shape.used * 100 / (shape.leaves * ASH_TREE_NODE_SIZE)));
	fixture_close(&fixture);
}

Test(btree, random_keys_fill_two_thirds)
{
	struct fixture fixture;
	struct shape shape;

	fixture_open(&fixture, "mem:64M");
	insert_range(&fixture, &fixture.data, 1, 20000, 0x9e3779b97f4a7c15ull, 30);
	shape = expect_sound(&fixture, &fixture.data);
	cr_assert(shape.used > shape.leaves * ASH_TREE_NODE_SIZE / 100 * 60);
	cr_assert_eq(ash_tree_height(&fixture.data), 2);
	fixture_close(&fixture);
}

/* Deleting here and there joins the poor nodes: what is left does not stay spread over all of them. */
Test(btree, random_deletions_join_nodes)
{
	struct fixture fixture;
	struct shape before, after;

	fixture_open(&fixture, "mem:64M");
	insert_range(&fixture, &fixture.data, 1, 20000, 0x9e3779b97f4a7c15ull, 30);
	before = expect_sound(&fixture, &fixture.data);
	for (uint64_t i = 0; i < 20000; i++) {
		struct ash_txn *txn = fixture_begin(&fixture, ASH_TXN_TREE);

		if (i % 20)
			cr_assert_eq(ash_tree_delete(txn, &fixture.data, 1 + i * 0x9e3779b97f4a7c15ull), 0);
		ash_txn_commit(txn);
	}
	after = expect_sound(&fixture, &fixture.data);
	cr_assert_eq(after.records, 1000);
	cr_assert(after.leaves * 6 < before.leaves, "%lu leaves of %lu", (unsigned long)after.leaves,
		  (unsigned long)before.leaves);
	cr_assert_eq(ash_tree_height(&fixture.data), 2);
	fixture_close(&fixture);
}

Test(btree, an_insertion_logs_little)
{
	struct fixture fixture;
	uint64_t total = 0, random = 17;

	fixture_open(&fixture, "mem:64M");
	insert_range(&fixture, &fixture.data, 1, 10000, 0x9e3779b97f4a7c15ull, 20);
	for (uint64_t i = 0; i < 2000; i++) {
		struct ash_txn *txn = fixture_begin(&fixture, ASH_TXN_TREE);
		uint8_t value[20] = { 1 };

		cr_assert_eq(ash_tree_insert(txn, &fixture.data, fixture_random(&random), value, 20), 0);
		total += ash_txn_bytes(txn);
		cr_assert(ash_txn_bytes(txn) < ASH_TXN_TREE);
		ash_txn_commit(txn);
	}
	cr_assert(total / 2000 < 400, "%lu bytes for one insertion", (unsigned long)(total / 2000));
	fixture_close(&fixture);
}

/* The worst that a height of 3 can do must stay within what callers reserve. */
Test(btree, the_largest_change_fits_the_reservation)
{
	struct fixture fixture;
	uint64_t random = 1;
	uint32_t largest = 0;

	fixture_open(&fixture, "mem:256M");
	for (unsigned i = 0; i < 30000; i++) {
		struct ash_txn *txn = fixture_begin(&fixture, ASH_TXN_TREE);
		uint8_t value[ASH_TREE_MAX_VALUE] = { 0 };
		uint64_t key = fixture_random(&random);

		cr_assert_eq(ash_tree_insert(txn, &fixture.data, key, value, i % 16 ? 700 : 1000), 0);
		if (ash_txn_bytes(txn) > largest)
			largest = ash_txn_bytes(txn);
		ash_txn_commit(txn);
	}
	cr_assert_geq(ash_tree_height(&fixture.data), 3);
	cr_assert(largest < ASH_TXN_TREE, "%u bytes", largest);
	fixture_close(&fixture);
}

Test(btree, a_full_volume_gives_enospc_and_abort_repairs)
{
	struct fixture fixture;
	uint8_t value[ASH_TREE_MAX_VALUE] = { 0 };
	uint64_t key = 0, blocks;
	int result = 0;

	fixture_open(&fixture, "mem:8M");
	while (!result) {
		struct ash_txn *txn = fixture_begin(&fixture, ASH_TXN_TREE);

		blocks = fixture_blocks(&fixture);
		key += 10;
		result = ash_tree_insert(txn, &fixture.data, key, value, 1000);
		if (!result)
			ash_txn_commit(txn);
		else
			ash_txn_abort(txn);
	}
	cr_assert_eq(result, -ENOSPC);
	cr_assert_eq(fixture_blocks(&fixture), blocks);
	cr_assert_eq(expect_sound(&fixture, &fixture.data).records, key / 10 - 1);
	/* Deleting always works. */
	for (uint64_t i = 10; i < key; i += 10) {
		struct ash_txn *txn = fixture_begin(&fixture, ASH_TXN_TREE);

		cr_assert_eq(ash_tree_delete(txn, &fixture.data, i), 0);
		ash_txn_commit(txn);
	}
	cr_assert_eq(fixture_blocks(&fixture), 0);
	fixture_close(&fixture);
}

Test(btree, survives_a_remount)
{
	struct fixture fixture;

	fixture_open(&fixture, "mem:64M");
	insert_range(&fixture, &fixture.data, 1, 5000, 0x9e3779b97f4a7c15ull, 40);
	ash_record_put(fixture.volume, &fixture.record);
	cr_assert_eq(ash_close(fixture.volume), 0);
	fixture_mount(&fixture);
	cr_assert_eq(expect_sound(&fixture, &fixture.data).records, 5000);
	fixture_close(&fixture);
}

/* What was synced is there after a cut, read from the log (I7). */
Test(btree, survives_a_power_cut)
{
	struct fixture fixture;

	fixture_open(&fixture, "mem:64M");
	insert_range(&fixture, &fixture.data, 1, 5000, 0x9e3779b97f4a7c15ull, 40);
	for (uint64_t i = 0; i < 4900; i++) {
		struct ash_txn *txn = fixture_begin(&fixture, ASH_TXN_TREE);

		cr_assert_eq(ash_tree_delete(txn, &fixture.data, 1 + i * 0x9e3779b97f4a7c15ull), 0);
		ash_txn_commit(txn);
	}
	fixture_cut(&fixture);
	cr_assert_eq(expect_sound(&fixture, &fixture.data).records, 100);
	fixture_close(&fixture);
}

/*
 * The change that empties a node and the one that frees it are one record: replay must not bring the first back over
 * what was written there since (I3).
 */
Test(btree, replay_leaves_freed_nodes_alone)
{
	struct fixture fixture;
	uint64_t leaves[16];
	uint32_t count;
	uint8_t *data = bdev_buffer_alloc(ASH_BLOCK_SIZE);

	fixture_open(&fixture, "mem:64M");
	insert_range(&fixture, &fixture.data, 0, 1000, 1, 16);
	cr_assert_eq(ash_checkpoint(fixture.volume), 0);
	count = ash_node_count(fixture.data.buffer->data + fixture.data.offset);
	for (uint32_t i = 0; i < count; i++)
		leaves[i] = ash_node_child(fixture.data.buffer->data + fixture.data.offset, i);
	for (uint64_t i = 0; i < 1000; i++) {
		struct ash_txn *txn = fixture_begin(&fixture, ASH_TXN_TREE);

		cr_assert_eq(ash_tree_delete(txn, &fixture.data, i), 0);
		ash_txn_commit(txn);
	}
	cr_assert_eq(ash_log_force(fixture.volume, ash_log_end(fixture.volume)), 0);
	/* The nodes are free now: this is somebody's file data. */
	memset(data, 0xab, ASH_BLOCK_SIZE);
	for (uint32_t i = 0; i < count; i++)
		cr_assert_eq(bdev_write(fixture.dev, data, ASH_BLOCK_SIZE, leaves[i] * ASH_BLOCK_SIZE, 0), 0);
	fixture_cut(&fixture);
	cr_assert_eq(ash_checkpoint(fixture.volume), 0);
	for (uint32_t i = 0; i < count; i++) {
		cr_assert_eq(bdev_read(fixture.dev, data, ASH_BLOCK_SIZE, leaves[i] * ASH_BLOCK_SIZE), 0);
		for (uint32_t j = 0; j < ASH_BLOCK_SIZE; j++)
			cr_assert_eq(data[j], 0xab, "block %lu was overwritten by replay", (unsigned long)leaves[i]);
	}
	bdev_buffer_free(data, ASH_BLOCK_SIZE);
	fixture_close(&fixture);
}

/* ---- Damage ---- */

static struct ash_buffer *root_child(struct fixture *fixture, uint32_t index)
{
	const uint8_t *root = fixture->data.buffer->data + fixture->data.offset;
	struct ash_block_id id = { ash_node_child(root, index), ASH_MAGIC_TREE_NODE, fixture->data.owner };
	struct ash_buffer *buffer;

	cr_assert_eq(ash_buffer_get(fixture->volume, id, &buffer), 0);
	return buffer;
}

/* Offset in the block of the value of record `index` of the root. */
static uint8_t *root_value(struct fixture *fixture, uint32_t index)
{
	uint64_t key;
	const uint8_t *value;
	uint32_t length;

	ash_node_record(fixture->data.buffer->data + fixture->data.offset, index, &key, &value, &length);
	return (uint8_t *)value;
}

static void expect_damage(struct fixture *fixture)
{
	struct ash_cursor cursor = { 0 };
	int result = ash_tree_seek(&fixture->data, 0, &cursor);

	while (result > 0)
		result = ash_tree_next(&cursor);
	cr_assert_eq(result, -EUCLEAN);
	cr_assert_neq(fixture->last_message[0], 0);
	ash_cursor_done(&cursor);
}

static void damage_open(struct fixture *fixture)
{
	fixture_open(fixture, "mem:64M");
	insert_range(fixture, &fixture->data, 1, 600, 3, 16);
	cr_assert_eq(ash_tree_height(&fixture->data), 1);
}

Test(btree_damage, child_outside_of_the_volume)
{
	struct fixture fixture;
	ash_le64 wild = ash_put64(1ull << 60);

	damage_open(&fixture);
	memcpy(root_value(&fixture, 1), &wild, 8);
	expect_damage(&fixture);
	fixture_close(&fixture);
}

Test(btree_damage, child_is_block_zero)
{
	struct fixture fixture;

	damage_open(&fixture);
	memset(root_value(&fixture, 1), 0, 8);
	expect_damage(&fixture);
	fixture_close(&fixture);
}

Test(btree_damage, two_children_are_one)
{
	struct fixture fixture;

	damage_open(&fixture);
	memcpy(root_value(&fixture, 1), root_value(&fixture, 0), 8);
	expect_damage(&fixture);
	fixture_close(&fixture);
}

Test(btree_damage, child_of_a_wrong_level)
{
	struct fixture fixture;
	struct ash_buffer *child;

	damage_open(&fixture);
	child = root_child(&fixture, 1);
	child->data[40] = 1;
	expect_damage(&fixture);
	ash_buffer_put(fixture.volume, child);
	fixture_close(&fixture);
}

Test(btree_damage, empty_child)
{
	struct fixture fixture;
	struct ash_buffer *child;

	damage_open(&fixture);
	child = root_child(&fixture, 1);
	child->data[42] = child->data[43] = 0;
	expect_damage(&fixture);
	ash_buffer_put(fixture.volume, child);
	fixture_close(&fixture);
}

Test(btree_damage, unknown_fork_kind)
{
	struct fixture fixture;

	damage_open(&fixture);
	fixture.data.buffer->data[fixture.data.kind_offset] = 77;
	expect_damage(&fixture);
	fixture_close(&fixture);
}

/* Random bytes anywhere in root and leaves: every call ends, with an error or without one. */
Test(btree_damage, random_bytes_never_crash_or_loop, .timeout = 120)
{
	uint64_t random = 99;

	for (unsigned round = 0; round < 150; round++) {
		struct fixture fixture;

		damage_open(&fixture);
		for (unsigned i = 0; i <= round % 4; i++) {
			uint64_t dice = fixture_random(&random);
			struct ash_buffer *child = root_child(&fixture, (uint32_t)(dice % 2));
			uint8_t *node = dice % 3 ? child->data + 40 : fixture.data.buffer->data + fixture.data.offset;
			uint32_t size = dice % 3 ? ASH_TREE_NODE_SIZE : fixture.data.size;
			uint32_t where = (uint32_t)(dice >> 32) % (dice % 5 ? size : 32);

			node[where] = (uint8_t)(dice >> 16);
			atomic_store(&child->checked, 0);
			atomic_store(&fixture.data.buffer->checked, 0);
			ash_buffer_put(fixture.volume, child);
			if (node != child->data + 40)
				break;
		}
		for (uint64_t key = 0; key < 1800; key += 7) {
			struct ash_txn *txn = fixture_begin(&fixture, ASH_TXN_TREE);
			struct ash_cursor cursor = { 0 };
			uint8_t value[100] = { 0 };

			ash_tree_seek(&fixture.data, key, &cursor);
			ash_tree_next(&cursor);
			ash_tree_seek_before(&fixture.data, key, &cursor);
			ash_cursor_done(&cursor);
			ash_tree_get(&fixture.data, key, value, 100);
			ash_tree_insert(txn, &fixture.data, key, value, 100);
			ash_txn_abort(txn);
			txn = fixture_begin(&fixture, ASH_TXN_TREE);
			ash_tree_delete(txn, &fixture.data, key);
			ash_txn_abort(txn);
		}
		fixture_close(&fixture);
	}
}
