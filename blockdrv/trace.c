/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The trace layer: tells a sink about each finished request.
 *
 * Locking: none. The sink is called by whoever finishes a request, on several threads at a time.
 */
#include "layer.h"

#include <errno.h>
#include <stdlib.h>

struct trace_layer {
	struct bdev_layer layer;
	void (*sink)(void *context, const struct bdev_trace_event *event);
	void *context;
};

static bool trace_before(struct bdev_layer *layer, struct bdev_layer_slot *slot)
{
	(void)layer;
	slot->start_ns = bdev_now_ns();
	return true;
}

static void trace_after(struct bdev_layer *layer, struct bdev_layer_slot *slot)
{
	struct trace_layer *trace = (struct trace_layer *)layer;
	struct bdev_trace_event event = {
		.op = slot->request.op,
		.flags = slot->request.flags,
		.offset = slot->request.offset,
		.length = slot->request.length,
		.start_ns = slot->start_ns,
		.end_ns = bdev_now_ns(),
		.result = slot->request.result,
	};

	trace->sink(trace->context, &event);
}

static void trace_close(struct bdev *dev)
{
	free(dev);
}

static const struct bdev_operations trace_operations = {
	.name = "trace",
	.close = trace_close,
	BDEV_LAYER_OPERATIONS,
};

int bdev_trace_open(struct bdev *lower, void (*sink)(void *context, const struct bdev_trace_event *event),
		    void *context, struct bdev **out)
{
	struct trace_layer *trace = calloc(1, sizeof(*trace));

	if (!trace)
		return -ENOMEM;
	bdev_init_layer(&trace->layer.dev, &trace_operations, lower);
	trace->layer.before = trace_before;
	trace->layer.after = trace_after;
	trace->sink = sink;
	trace->context = context;
	*out = &trace->layer.dev;
	return 0;
}
