/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Pass 1b, only when pass 1 met blocks that are claimed twice: who claims them, and who keeps them.
 *
 * Fixed metadata, the log and the inode table keep what they have; then tree blocks (their headers name
 * their owner, so no two trees can both be right); then long attribute values whose checksums are right; then data in the
 * order of inode numbers; then attribute values whose checksums are wrong: their blocks are another's by now. A loser
 * among files gets a copy of the contested blocks, so that nothing is lost whoever was right; where somebody's metadata
 * lies, it gets a hole. Where all contested claims together exceed the volume, no copies are made: they would not fit, and
 * nobody's disk came to that by a few bad sectors. Data is then owned by who claims least, for it is the others who cannot
 * be right.
 *
 * Time: a word of the maps for each 64 claimed blocks, but for groups that are claimed as a whole again and again;
 * memory: the claims, and no more losses than blocks and claims. No locks: one thread.
 */
#include "internal.h"

#include <stdlib.h>

/* A range with contested blocks in it. */
struct claim {
	uint64_t ino, start, count;
	uint64_t all; /* blocks of the inode's claims together */
	bool node, attribute;
	bool wrong; /* by its checksum: the value of an attribute */
};

struct claims {
	struct checker *checker;
	uint64_t ino, floor;
	bool attribute, wrong;
	bool copies; /* there are */
	LIST(struct claim) list;
	struct block_map system, owned;
	bool *settled; /* groups of which every block has an owner, since one claimed all of it; without copies only */
};

static int claim_range(struct claims *claims, uint64_t start, uint64_t count, bool node)
{
	if (!map_any(&claims->checker->twice, start, count))
		return 0;
	return LIST_ADD(&claims->list, (struct claim){ .ino = claims->ino,
						       .start = start,
						       .count = count,
						       .node = node,
						       .attribute = claims->attribute,
						       .wrong = claims->wrong });
}

static int claim_node(void *context, uint64_t block)
{
	return claim_range(context, block, 1, true);
}

static int claim_extent(void *context, uint64_t key, const uint8_t *value, uint32_t length)
{
	struct claims *claims = context;
	const struct ash_extent_value *extent = (const void *)value;

	if (extent_wrong(claims->checker, key, value, length, claims->floor))
		return 0;
	claims->floor = key + ash_get32(extent->count);
	return claim_range(claims, ash_get64(extent->start), ash_get32(extent->count), false);
}

static int claim_attribute(void *context, uint64_t key, const uint8_t *value, uint32_t length)
{
	struct claims *claims = context;
	const struct ash_xattr_value *attribute = (const void *)value;
	struct external external;
	bool contested = false;
	int result = 0;

	(void)key;
	if (attribute_wrong(claims->checker, value, length))
		return 0;
	external_get(attribute, &external);
	for (uint32_t i = 0; i < external.count; i++)
		contested |= map_any(&claims->checker->twice, external.extents[i].start, external.extents[i].count);
	if (!contested)
		return 0;
	claims->wrong = attribute_value_wrong(claims->checker, value, &result);
	for (uint32_t i = 0; i < external.count && !result; i++)
		result = claim_range(claims, external.extents[i].start, external.extents[i].count, false);
	claims->wrong = false;
	return result;
}

static int claim_inode(struct claims *claims, const struct ash_inode *record)
{
	struct tree_walk walk = { .checker = claims->checker,
				  .owner = claims->ino,
				  .context = claims,
				  .node = claim_node,
				  .record = S_ISDIR(ash_get32(record->mode)) ? NULL : claim_extent };
	int result = 0;

	claims->floor = 0;
	claims->attribute = false;
	if (record->data_kind == ASH_FORK_TREE)
		result = tree_walk(&walk, record->data, ASH_DATA_FORK_SIZE);
	claims->attribute = true;
	walk.record = claim_attribute;
	if (!result && record->attr_kind == ASH_FORK_TREE)
		result = tree_walk(&walk, record->attr, ASH_ATTR_FORK_SIZE);
	return result;
}

/* Tell the inode's claims, which are those from number `first` on, what they are together. */
static void weigh(struct claims *claims, size_t first)
{
	uint64_t all = 0;

	for (size_t i = first; i < claims->list.count; i++)
		all += claims->list.items[i].count;
	for (size_t i = first; i < claims->list.count; i++)
		claims->list.items[i].all = all;
}

static int collect(struct claims *claims)
{
	struct checker *checker = claims->checker;
	int result = 0;

	for (uint64_t ino = ASH_INO_ROOT;
	     (ino = inode_known_from(checker, ino, checker->inode_count)) < checker->inode_count && !result; ino++) {
		size_t first = claims->list.count;
		struct ash_inode record;

		result = check_cancelled(checker);
		if (result || !(inode_state(checker, ino) & INODE_TYPE))
			continue;
		claims->ino = ino;
		result = inode_read(checker, ino, &record);
		if (!result)
			result = claim_inode(claims, &record);
		weigh(claims, first);
	}
	return result;
}

/* The lowest run of set bits, which are cleared: how long it is, and *first. */
static uint64_t run_take(uint64_t *bits, uint64_t *first)
{
	uint64_t low = (uint64_t)__builtin_ctzll(*bits), rest = ~(*bits >> low);
	uint64_t length = rest ? (uint64_t)__builtin_ctzll(rest) : 64;

	*first = low;
	*bits &= length < 64 ? ~(((1ull << length) - 1) << low) : 0;
	return length;
}

static bool same_fork(const struct loss *a, const struct loss *b)
{
	return a->ino == b->ino && a->attribute == b->attribute;
}

/* Does `next`, which does not begin before `loss`, go on where that ends, or lie in it? */
static bool loss_continues(const struct loss *loss, const struct loss *next)
{
	return same_fork(loss, next) && loss->node == next->node && loss->copy == next->copy &&
	       next->start >= loss->start && next->start <= loss->start + loss->count;
}

static int lose_run(struct claims *claims, const struct claim *claim, uint64_t start, uint64_t count, bool copy)
{
	struct checker *checker = claims->checker;
	struct loss *last = checker->losses.count ? &checker->losses.items[checker->losses.count - 1] : NULL;
	struct loss loss = { .ino = claim->ino,
			     .start = start,
			     .count = count,
			     .attribute = claim->attribute,
			     .node = claim->node,
			     .copy = copy };

	if (!last || !loss_continues(last, &loss) || last->start + last->count != loss.start)
		return LIST_ADD(&checker->losses, loss);
	last->count += loss.count;
	return 0;
}

static int lose(struct claims *claims, const struct claim *claim, uint64_t word, uint64_t bits, bool copy)
{
	int result = 0;

	while (bits && !result) {
		uint64_t first, length = run_take(&bits, &first);

		result = lose_run(claims, claim, word + first, length, copy);
	}
	return result;
}

static int own(struct block_map *map, uint64_t word, uint64_t bits)
{
	int result = 0;

	while (bits && !result) {
		uint64_t first, length = run_take(&bits, &first);

		result = map_set(map, word + first, length, NULL, NULL);
	}
	return result;
}

/*
 * Does the claim have the whole group that begins there, and was it settled for another that had it? It is from now
 * on.
 */
static bool group_settled(struct claims *claims, const struct claim *claim, uint64_t block)
{
	uint64_t group = block / ASH_BLOCKS_PER_GROUP;
	bool settled;

	if (claims->copies || block % ASH_BLOCKS_PER_GROUP || block < claim->start ||
	    claim->start + claim->count - block < ASH_BLOCKS_PER_GROUP || !claims->checker->twice.full[group])
		return false;
	settled = claims->settled[group];
	claims->settled[group] = true;
	return settled;
}

/* What nobody had so far is the claim's. */
static int settle(struct claims *claims, const struct claim *claim)
{
	uint64_t end = claim->start + claim->count;
	int result = check_cancelled(claims->checker);

	for (uint64_t word = claim->start & ~63ull; word < end && !result; word += 64) {
		uint64_t contested, holes, copies;

		if (group_settled(claims, claim, word)) {
			result = lose_run(claims, claim, word, ASH_BLOCKS_PER_GROUP, false);
			word += ASH_BLOCKS_PER_GROUP - 64;
			continue;
		}
		contested = map_word(&claims->checker->twice, word);
		if (word < claim->start)
			contested &= ~0ull << (claim->start - word);
		if (end - word < 64)
			contested &= ~(~0ull << (end - word));
		holes = contested & map_word(&claims->system, word);
		copies = contested & map_word(&claims->owned, word) & ~holes;
		result = own(claim->node ? &claims->system : &claims->owned, word, contested & ~holes & ~copies);
		if (!claims->copies) {
			holes |= copies;
			copies = 0;
		}
		if (!result)
			result = lose(claims, claim, word, copies, true);
		if (!result)
			result = lose(claims, claim, word, holes, false);
	}
	return result;
}

static int system_blocks(struct claims *claims)
{
	struct checker *checker = claims->checker;
	const struct ash_super *super = checker->super;
	struct block_map *map = &claims->system;
	int result =
		map_set(map, ash_get64(super->group_table_start), ash_get64(super->group_table_blocks), NULL, NULL);

	if (!result)
		result = map_set(map, ash_get64(super->log_start), ash_get64(super->log_blocks), NULL, NULL);
	if (!result)
		result = map_set(map, checker->block_count - 1, 1, NULL, NULL);
	for (size_t i = 0; i < checker->table.count && !result; i++)
		result = map_set(map, checker->table.items[i].start, checker->table.items[i].count, NULL, NULL);
	for (size_t i = 0; i < checker->table_nodes.count && !result; i++)
		result = map_set(map, checker->table_nodes.items[i], 1, NULL, NULL);
	return result;
}

static unsigned turn_of(const struct claim *claim)
{
	return claim->node ? 0 : claim->wrong ? 3 : claim->attribute ? 1 : 2;
}

/* Who claims least first: one that claims everything must not take it from all others. */
static int compare_weights(const void *a, const void *b)
{
	const struct claim *x = a, *y = b;

	if (x->all != y->all)
		return x->all < y->all ? -1 : 1;
	return x->ino < y->ino ? -1 : x->ino > y->ino;
}

static int compare_losses(const void *a, const void *b)
{
	const struct loss *x = a, *y = b;

	if (x->ino != y->ino)
		return x->ino < y->ino ? -1 : 1;
	if (x->attribute != y->attribute)
		return x->attribute ? 1 : -1;
	return x->start < y->start ? -1 : x->start > y->start;
}

/* A fork may claim, and lose, a block more than once. */
static void merge_losses(struct checker *checker)
{
	struct loss *losses = checker->losses.items;
	size_t kept = 0;

	for (size_t i = 1; i < checker->losses.count; i++) {
		struct loss *last = &losses[kept];
		uint64_t end = losses[i].start + losses[i].count;

		if (!loss_continues(last, &losses[i]))
			losses[++kept] = losses[i];
		else if (end > last->start + last->count)
			last->count = end - last->start;
	}
	checker->losses.count = kept + 1;
}

/* Ask once for each fork; what is not to be repaired is no loss. */
static int decide(struct claims *claims)
{
	struct checker *checker = claims->checker;
	struct loss *losses = checker->losses.items;
	size_t kept = 0, end;
	int result = 0;

	for (size_t first = 0; first < checker->losses.count && !result; first = end) {
		struct problem_context context = { .ino = losses[first].ino,
						   .block = losses[first].start,
						   .number = losses[first].attribute };
		bool repair;

		for (end = first; end < checker->losses.count && same_fork(&losses[first], &losses[end]); end++)
			context.have += losses[end].count;
		repair = problem(checker, claims->copies ? PROBLEM_DUPLICATE_BLOCKS : PROBLEM_DUPLICATE_TOO_MANY,
				 &context);
		if (repair)
			result = rebuild_schedule(checker, context.ino, context.number);
		/* A tree block that lies where it must not is moved by the rebuild itself. */
		for (size_t i = first; i < end; i++)
			if (repair && !losses[i].node)
				losses[kept++] = losses[i];
	}
	checker->losses.count = kept;
	return result;
}

int claims_resolve(struct checker *checker)
{
	struct claims claims = { .checker = checker, .copies = checker->twice_count <= checker->block_count };
	int result = map_open(&claims.system, checker->block_count, true);

	if (!result)
		result = map_open(&claims.owned, checker->block_count, false);
	claims.settled = calloc(checker->group_count, sizeof(*claims.settled));
	if (!claims.settled)
		result = -ENOMEM;
	if (!result)
		result = system_blocks(&claims);
	if (!result)
		result = collect(&claims);
	if (!result && !claims.copies && claims.list.count)
		qsort(claims.list.items, claims.list.count, sizeof(*claims.list.items), compare_weights);
	for (unsigned turn = 0; turn < 4; turn++)
		for (size_t i = 0; i < claims.list.count && !result; i++)
			if (turn_of(&claims.list.items[i]) == turn)
				result = settle(&claims, &claims.list.items[i]);
	if (!result && checker->losses.count) {
		qsort(checker->losses.items, checker->losses.count, sizeof(*checker->losses.items), compare_losses);
		merge_losses(checker);
		result = decide(&claims);
	}
	LIST_FREE(&claims.list);
	free(claims.settled);
	map_close(&claims.system);
	map_close(&claims.owned);
	return result;
}

const struct loss *loss_find(const struct checker *checker, uint64_t ino, bool attribute, uint64_t start,
			     uint64_t count)
{
	const struct loss wanted = { .ino = ino, .attribute = attribute, .start = start };
	size_t low = 0, high = checker->losses.count;

	/* the first that does not end before */
	while (low < high) {
		size_t middle = (low + high) / 2;
		const struct loss *loss = &checker->losses.items[middle];

		if (same_fork(loss, &wanted) ? loss->start + loss->count <= start : compare_losses(loss, &wanted) < 0)
			low = middle + 1;
		else
			high = middle;
	}
	if (low == checker->losses.count || !same_fork(&checker->losses.items[low], &wanted) ||
	    checker->losses.items[low].start >= start + count)
		return NULL;
	return &checker->losses.items[low];
}
