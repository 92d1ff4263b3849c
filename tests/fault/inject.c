/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Forking at every point: see inject.h. Rule: nothing here allocates between fork and exit of a child but what the workload
 * does, so that a child behaves as the parent would have. One thread.
 */
#include "inject.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#define WRITES (FAULT_OP(BDEV_WRITE) | FAULT_OP(BDEV_WRITE_ZEROES))

static const struct inject_variant read_variants[] = {
	{ .name = "EIO once", .rule = { .ops = FAULT_OP(BDEV_READ), .count = 1 } },
	{ .name = "EIO, device gone", .rule = { .ops = FAULT_OP(BDEV_READ), .sticky = true }, .gone = true },
};
static const struct inject_variant write_variants[] = {
	{ .name = "EIO once", .rule = { .ops = WRITES | FAULT_OP(BDEV_DISCARD), .count = 1 } },
	{ .name = "EIO, device gone", .rule = { .ops = WRITES | FAULT_OP(BDEV_DISCARD), .sticky = true }, .gone = true },
	{ .name = "EIO of all writes from here on", .rule = { .ops = WRITES | FAULT_OP(BDEV_DISCARD) } },
};
static const struct inject_variant flush_variants[] = {
	{ .name = "EIO once", .rule = { .ops = FAULT_OP(BDEV_FLUSH), .count = 1 } },
	{ .name = "EIO, device gone", .rule = { .ops = FAULT_OP(BDEV_FLUSH), .sticky = true }, .gone = true },
};
static const struct inject_variant short_variants[] = {
	{ .name = "one sector",
	  .rule = { .ops = FAULT_OP(BDEV_READ) | FAULT_OP(BDEV_WRITE),
		    .count = 1,
		    .short_transfer = true,
		    .short_bytes = 512 } },
	{ .name = "half",
	  .rule = { .ops = FAULT_OP(BDEV_READ) | FAULT_OP(BDEV_WRITE), .count = 1, .short_transfer = true },
	  .half = true },
	{ .name = "half, device gone",
	  .rule = { .ops = FAULT_OP(BDEV_READ) | FAULT_OP(BDEV_WRITE), .sticky = true, .short_transfer = true },
	  .half = true,
	  .gone = true },
};
static const struct inject_variant enospc_variants[] = {
	{ .name = "ENOSPC once", .rule = { .ops = WRITES, .count = 1, .error = -ENOSPC } },
	{ .name = "ENOSPC of all writes from here on", .rule = { .ops = WRITES, .error = -ENOSPC } },
};
static const struct inject_variant enomem_variants[] = { { .name = "ENOMEM once", .rule = { .error = -ENOMEM } } };

static const struct {
	const char *name;
	const struct inject_variant *variants;
	unsigned count;
} kinds[INJECT_KINDS] = {
	[INJECT_READ] = { "fault_read", read_variants, 2 },       [INJECT_WRITE] = { "fault_write", write_variants, 3 },
	[INJECT_FLUSH] = { "fault_flush", flush_variants, 2 },    [INJECT_SHORT] = { "fault_short", short_variants, 3 },
	[INJECT_ENOSPC] = { "fault_enospc", enospc_variants, 2 }, [INJECT_ENOMEM] = { "enomem", enomem_variants, 1 },
};

const char *inject_name(enum inject_kind kind)
{
	return kinds[kind].name;
}

/* ---- Points ---- */

static void note_violation(struct injector *in, unsigned variant, const char *text)
{
	struct inject_results *results = in->results;

	if (results->violations < INJECT_TEXTS)
		snprintf(results->text[results->violations], VERDICT_TEXT, "--point %llu --variant %u (%s): %.1000s",
			 (unsigned long long)in->points, variant, kinds[in->kind].variants[variant].name, text);
	results->violations++;
}

/* The child's fate. */
static void await(struct injector *in, pid_t child, unsigned variant)
{
	struct inject_results *results = in->results;
	char text[100];
	int status;

	while (waitpid(child, &status, 0) < 0 && errno == EINTR)
		;
	results->cases++;
	if (WIFSIGNALED(status)) {
		snprintf(text, sizeof(text), "%s", WTERMSIG(status) == SIGALRM ? "hangs" : strsignal(WTERMSIG(status)));
		note_violation(in, variant, text);
	} else if (!results->told) {
		note_violation(in, variant, "ended without a verdict");
	} else if (results->verdict[0]) {
		note_violation(in, variant, results->verdict);
	}
}

static bool strike(struct injector *in, unsigned variant)
{
	in->point = in->points;
	in->variant = variant;
	in->struck = &kinds[in->kind].variants[variant];
	return true;
}

bool inject_here(struct injector *in)
{
	if (!in->armed || in->struck)
		return false;
	if (in->only_point != UINT64_MAX) {
		if (in->points == in->only_point)
			return strike(in, in->only_variant);
		in->points++;
		return false;
	}
	in->results->points++;
	if (generator_below(&in->random, 100) >= in->share && in->points != in->also) {
		in->results->skipped += kinds[in->kind].count;
		in->points++;
		return false;
	}
	for (unsigned variant = 0; variant < kinds[in->kind].count; variant++) {
		pid_t child;

		in->results->told = false;
		in->results->verdict[0] = 0;
		fflush(stdout);
		child = fork();
		if (child < 0) {
			perror("fork");
			abort();
		}
		if (child == 0) {
			alarm(INJECT_SECONDS);
			return strike(in, variant);
		}
		await(in, child, variant);
	}
	in->points++;
	return false;
}

/* ---- The device ---- */

struct device_point {
	struct injector *in;
	struct bdev *layer;
};

static void ask(void *context, const struct bdev_request *request)
{
	struct device_point *point = context;
	struct fault_rule rule;
	unsigned ops = kinds[point->in->kind].variants[0].rule.ops;

	if (!(ops & FAULT_OP(request->op)) || !inject_here(point->in))
		return;
	rule = point->in->struck->rule;
	if (point->in->struck->half)
		rule.short_bytes = request->length / 2;
	if (fault_add(point->layer, &rule))
		abort();
}

void inject_device(struct injector *in, struct bdev *fault_layer)
{
	static struct device_point point; /* one device in a process of the campaign */

	point = (struct device_point){ in, fault_layer };
	if (kinds[in->kind].variants[0].rule.ops)
		fault_ask(fault_layer, ask, &point);
}

void inject_finish(struct injector *in, bool good, const char *text)
{
	struct inject_results *results = in->results;

	if (in->only_point != UINT64_MAX) {
		results->points = results->cases = 1;
		if (!good)
			note_violation(in, in->only_variant, text);
		return;
	}
	if (in->struck) {
		snprintf(results->verdict, sizeof(results->verdict), "%s", good ? "" : text);
		results->told = true;
		_exit(0);
	}
	if (!good) {
		results->broken = true;
		snprintf(results->text[0], VERDICT_TEXT, "%s", text);
	}
}
