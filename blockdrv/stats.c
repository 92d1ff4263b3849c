/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The statistics layer: counts, latencies and depth for each kind of request.
 *
 * Concept: a request's latency is from its submit to its reap, as the caller sees it.
 *
 * Locking: none; every number is an atomic counter of its own, so a snapshot may mix moments.
 */
#include "layer.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>

#define STATS_KINDS 5
#define STATS_BUCKETS 40

struct stats_layer {
	struct bdev_layer layer;
	struct bdev_stats_kind kinds[STATS_KINDS]; /* by enum bdev_op */
	uint64_t in_flight[STATS_KINDS];
};

static void add(uint64_t *counter, uint64_t amount)
{
	__atomic_fetch_add(counter, amount, __ATOMIC_RELAXED);
}

static uint64_t get(const uint64_t *counter)
{
	return __atomic_load_n(counter, __ATOMIC_RELAXED);
}

static void set(uint64_t *counter, uint64_t value)
{
	__atomic_store_n(counter, value, __ATOMIC_RELAXED);
}

static void raise_to(uint64_t *maximum, uint64_t value)
{
	uint64_t old = get(maximum);

	while (old < value &&
	       !__atomic_compare_exchange_n(maximum, &old, value, true, __ATOMIC_RELAXED, __ATOMIC_RELAXED))
		;
}

static unsigned bucket_of(uint64_t latency_ns)
{
	unsigned bucket = 63u - (unsigned)__builtin_clzll(latency_ns | 1);

	return bucket < STATS_BUCKETS ? bucket : STATS_BUCKETS - 1;
}

static bool stats_before(struct bdev_layer *layer, struct bdev_layer_slot *slot)
{
	struct stats_layer *stats = (struct stats_layer *)layer;
	enum bdev_op op = slot->request.op;
	uint64_t in_flight = __atomic_add_fetch(&stats->in_flight[op], 1, __ATOMIC_RELAXED);

	raise_to(&stats->kinds[op].in_flight_max, in_flight);
	slot->start_ns = bdev_now_ns();
	return true;
}

static void stats_after(struct bdev_layer *layer, struct bdev_layer_slot *slot)
{
	struct stats_layer *stats = (struct stats_layer *)layer;
	struct bdev_stats_kind *kind = &stats->kinds[slot->request.op];
	uint64_t latency = bdev_now_ns() - slot->start_ns;

	__atomic_fetch_sub(&stats->in_flight[slot->request.op], 1, __ATOMIC_RELAXED);
	add(&kind->requests, 1);
	if (slot->request.result)
		add(&kind->errors, 1);
	else if (slot->request.op != BDEV_FLUSH)
		add(&kind->bytes, slot->request.length);
	add(&kind->latency_total_ns, latency);
	raise_to(&kind->latency_max_ns, latency);
	add(&kind->latency_histogram[bucket_of(latency)], 1);
}

static void stats_close(struct bdev *dev)
{
	free(dev);
}

static const struct bdev_operations stats_operations = {
	.name = "stats",
	.close = stats_close,
	BDEV_LAYER_OPERATIONS,
};

int bdev_stats_open(struct bdev *lower, struct bdev **out)
{
	struct stats_layer *stats = calloc(1, sizeof(*stats));

	if (!stats)
		return -ENOMEM;
	bdev_init_layer(&stats->layer.dev, &stats_operations, lower);
	stats->layer.before = stats_before;
	stats->layer.after = stats_after;
	*out = &stats->layer.dev;
	return 0;
}

static void copy_kind(struct bdev_stats_kind *from, struct bdev_stats_kind *out)
{
	out->requests = get(&from->requests);
	out->bytes = get(&from->bytes);
	out->errors = get(&from->errors);
	out->latency_total_ns = get(&from->latency_total_ns);
	out->latency_max_ns = get(&from->latency_max_ns);
	out->in_flight_max = get(&from->in_flight_max);
	for (int i = 0; i < STATS_BUCKETS; i++)
		out->latency_histogram[i] = get(&from->latency_histogram[i]);
}

void bdev_stats_get(struct bdev *stats_layer, struct bdev_stats *out)
{
	struct stats_layer *stats = (struct stats_layer *)stats_layer;

	assert(stats_layer->operations == &stats_operations);
	copy_kind(&stats->kinds[BDEV_READ], &out->read);
	copy_kind(&stats->kinds[BDEV_WRITE], &out->write);
	copy_kind(&stats->kinds[BDEV_FLUSH], &out->flush);
	copy_kind(&stats->kinds[BDEV_DISCARD], &out->discard);
	copy_kind(&stats->kinds[BDEV_WRITE_ZEROES], &out->write_zeroes);
}

static void reset_kind(struct bdev_stats_kind *kind, uint64_t in_flight)
{
	set(&kind->requests, 0);
	set(&kind->bytes, 0);
	set(&kind->errors, 0);
	set(&kind->latency_total_ns, 0);
	set(&kind->latency_max_ns, 0);
	set(&kind->in_flight_max, in_flight);
	for (int i = 0; i < STATS_BUCKETS; i++)
		set(&kind->latency_histogram[i], 0);
}

void bdev_stats_reset(struct bdev *stats_layer)
{
	struct stats_layer *stats = (struct stats_layer *)stats_layer;

	assert(stats_layer->operations == &stats_operations);
	for (int op = 0; op < STATS_KINDS; op++)
		reset_kind(&stats->kinds[op], get(&stats->in_flight[op]));
}
