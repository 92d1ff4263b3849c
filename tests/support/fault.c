/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A test layer that makes requests fail on demand. See fault.h.
 *
 * Locking: `lock` guards the rules and counters; it is not held while the device below works.
 */
#include "fault.h"

#include "../../blockdrv/layer.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

struct fault_state {
	struct fault_rule rule;
	unsigned matched, fired;
};

struct fault_layer {
	struct bdev_layer layer;
	pthread_mutex_t lock;
	struct fault_state states[FAULT_RULES_MAX];
	unsigned count, hits;
	int gone; /* the error of a sticky rule that fired, else 0 */
	struct fault_event first;
	void (*ask)(void *context, const struct bdev_request *request); /* set while nothing is in flight */
	void *ask_context;
};

static bool rule_matches(const struct fault_rule *rule, const struct bdev_request *request)
{
	if (rule->ops != FAULT_ANY && !(rule->ops & FAULT_OP(request->op)))
		return false;
	if (request->op == BDEV_FLUSH || !rule->length)
		return true;
	if (request->offset < rule->offset)
		return rule->offset - request->offset < request->length;
	return request->offset - rule->offset < rule->length;
}

static bool state_fires(struct fault_state *state, const struct bdev_request *request)
{
	if (!rule_matches(&state->rule, request))
		return false;
	if (state->matched++ < state->rule.skip)
		return false;
	if (state->rule.count && state->fired >= state->rule.count)
		return false;
	state->fired++;
	return true;
}

/* Lock held. */
static void note_first(struct fault_layer *fault, const struct bdev_request *request)
{
	fault->first = (struct fault_event){ request->op, request->offset, request->length, { 0 } };
	if (request->op == BDEV_WRITE && request->iov_count && request->iov[0].iov_len >= sizeof(fault->first.head))
		memcpy(fault->first.head, request->iov[0].iov_base, sizeof(fault->first.head));
}

/* The error for this request or 0; `rule` gets a copy of the rule that fired, if one did. */
static int decide(struct fault_layer *fault, const struct bdev_request *request, struct fault_rule *rule)
{
	int error = 0;

	pthread_mutex_lock(&fault->lock);
	error = fault->gone;
	for (unsigned i = 0; i < fault->count && !error; i++) {
		if (!state_fires(&fault->states[i], request))
			continue;
		*rule = fault->states[i].rule;
		error = rule->error ? rule->error : -EIO;
		if (rule->sticky)
			fault->gone = error;
	}
	if (error && !fault->hits++)
		note_first(fault, request);
	pthread_mutex_unlock(&fault->lock);
	return error;
}

/* Let the first `bytes` of a read or write through. */
static void transfer_part(struct bdev *lower, const struct bdev_request *request, uint64_t bytes)
{
	uint64_t offset = request->offset;

	bytes &= ~(uint64_t)(bdev_geometry(lower)->logical_block - 1);
	for (int i = 0; i < request->iov_count && bytes; i++) {
		size_t part = request->iov[i].iov_len < bytes ? request->iov[i].iov_len : bytes;

		if (request->op == BDEV_WRITE)
			bdev_write(lower, request->iov[i].iov_base, part, offset, request->flags);
		else
			bdev_read(lower, request->iov[i].iov_base, part, offset);
		offset += part;
		bytes -= part;
	}
}

static bool fault_before(struct bdev_layer *layer, struct bdev_layer_slot *slot)
{
	struct fault_layer *fault = (struct fault_layer *)layer;
	struct fault_rule rule = { 0 };
	int error;

	if (fault->ask)
		fault->ask(fault->ask_context, &slot->request);
	error = decide(fault, &slot->request, &rule);

	if (!error)
		return true;
	if (rule.short_transfer && (slot->request.op == BDEV_READ || slot->request.op == BDEV_WRITE))
		transfer_part(layer->dev.lower, &slot->request, rule.short_bytes);
	slot->request.result = error;
	return false;
}

static void fault_close(struct bdev *dev)
{
	pthread_mutex_destroy(&((struct fault_layer *)dev)->lock);
	free(dev);
}

static const struct bdev_operations fault_operations = {
	.name = "fault",
	.close = fault_close,
	BDEV_LAYER_OPERATIONS,
};

int fault_open(struct bdev *lower, struct bdev **out)
{
	struct fault_layer *fault = calloc(1, sizeof(*fault));

	if (!fault)
		return -ENOMEM;
	bdev_init_layer(&fault->layer.dev, &fault_operations, lower);
	fault->layer.before = fault_before;
	pthread_mutex_init(&fault->lock, NULL);
	*out = &fault->layer.dev;
	return 0;
}

int fault_add(struct bdev *fault_layer, const struct fault_rule *rule)
{
	struct fault_layer *fault = (struct fault_layer *)fault_layer;
	int result = -ENOSPC;

	pthread_mutex_lock(&fault->lock);
	if (fault->count < FAULT_RULES_MAX) {
		fault->states[fault->count++] = (struct fault_state){ .rule = *rule };
		result = 0;
	}
	pthread_mutex_unlock(&fault->lock);
	return result;
}

void fault_clear(struct bdev *fault_layer)
{
	struct fault_layer *fault = (struct fault_layer *)fault_layer;

	pthread_mutex_lock(&fault->lock);
	fault->count = 0;
	fault->hits = 0;
	fault->gone = 0;
	pthread_mutex_unlock(&fault->lock);
}

unsigned fault_hits(struct bdev *fault_layer)
{
	struct fault_layer *fault = (struct fault_layer *)fault_layer;
	unsigned hits;

	pthread_mutex_lock(&fault->lock);
	hits = fault->hits;
	pthread_mutex_unlock(&fault->lock);
	return hits;
}

bool fault_first(struct bdev *fault_layer, struct fault_event *out)
{
	struct fault_layer *fault = (struct fault_layer *)fault_layer;
	bool any;

	pthread_mutex_lock(&fault->lock);
	any = fault->hits != 0;
	*out = fault->first;
	pthread_mutex_unlock(&fault->lock);
	return any;
}

void fault_ask(struct bdev *fault_layer, void (*ask)(void *context, const struct bdev_request *request), void *context)
{
	struct fault_layer *fault = (struct fault_layer *)fault_layer;

	fault->ask = ask;
	fault->ask_context = context;
}
