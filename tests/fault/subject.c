/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Running a workload with a fault in it: see subject.h. The same lines run in the parent (no fault) and in its children. One thread.
 */
#include "subject.h"
#include "alloc.h"
#include "tests/model/observe.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define AFTER_FAULT 40 /* operations that are still done */
#define CLOCK_START 1700000000

void subject_bad(struct subject *x, const char *what, const char *detail)
{
	if (!x->bad)
		snprintf(x->text, sizeof(x->text), "%s: %.700s", what, detail);
	x->bad = true;
}

unsigned subject_hits(const struct subject *x)
{
	return x->in->kind == INJECT_ENOMEM ? alloc_hits() : x->fault ? fault_hits(x->fault) : 0;
}

bool subject_fault_over(const struct subject *x)
{
	return x->in->struck && (x->in->kind == INJECT_ENOMEM || x->in->struck->rule.count == 1);
}

bool subject_gone(const struct subject *x)
{
	return x->in->struck && x->in->struck->gone;
}

bool subject_unknown(const struct subject *x, uint64_t ino)
{
	for (unsigned i = 0; i < x->unknown_count; i++) {
		if (x->unknown[i] == ino)
			return true;
	}
	return false;
}

void subject_set_unknown(struct subject *x, uint64_t ino)
{
	history_doubt(&x->script.history, ino);
	if (!subject_unknown(x, ino) && x->unknown_count < SUBJECT_FILES)
		x->unknown[x->unknown_count++] = ino;
}

void subject_look(struct subject *x)
{
	struct ash_volume_info info;

	ash_volume_info(x->script.runner.volume, &info);
	if (info.failed && !x->in->struck)
		subject_bad(x, "the volume failed", "without a fault");
	if (info.failed && x->in->kind == INJECT_ENOMEM)
		subject_bad(x, "the volume failed", "for want of memory");
	if (info.read_only && !info.failed)
		subject_bad(x, "the volume is read-only", "without having failed");
	x->failed = info.failed;
}

/* ---- Operations ---- */

static bool is_sync(const struct op *op)
{
	return op->kind == OP_FSYNC || op->kind == OP_SYNC || op->kind == OP_CHECKPOINT;
}

static bool is_change(const struct op *op)
{
	switch (op->kind) {
	case OP_CREATE:
	case OP_TMPFILE:
	case OP_LINK:
	case OP_UNLINK:
	case OP_RMDIR:
	case OP_SETATTR:
	case OP_FALLOCATE:
	case OP_SETXATTR:
	case OP_REMOVEXATTR:
		return true;
	case OP_WRITE:
	case OP_COPY_RANGE:
		return op->result > 0;
	default:
		return false;
	}
}

/* A fault took away what it was to work on. */
static bool lacks_subject(const struct op *op)
{
	switch (op->kind) {
	case OP_SYNC:
	case OP_CHECKPOINT:
	case OP_STATFS:
	case OP_NONE:
		return false;
	case OP_LINK:
	case OP_RENAME:
	case OP_COPY_RANGE:
		return !op->ino || !op->ino2;
	default:
		return !op->ino;
	}
}

/* Is the answer an error that the fault explains? */
static bool is_excused(const struct subject *x, const struct op *op, bool faulted, bool was_failed)
{
	int error = x->in->struck && x->in->struck->rule.error ? x->in->struck->rule.error : -EIO;

	if (op->result >= 0)
		return false;
	/* As long as the device fails data is lost in the background: each file tells it once. */
	if (!faulted && !was_failed)
		return op->result == error && x->in->struck && !subject_fault_over(x) &&
		       (op->kind == OP_FSYNC || op->kind == OP_SYNC || op->kind == OP_CHECKPOINT);
	if (x->failed && (op->result == -EROFS || op->result == -EIO))
		return true;
	return faulted && (op->result == error || (op->result == -EIO && x->in->kind != INJECT_ENOMEM));
}

void subject_remember(struct subject *x, const struct op *op, bool completed)
{
	struct history *history = &x->script.history;

	if (x->frozen)
		return;
	history_add(history, op);
	x->moment.issued = history->count;
	if (completed)
		x->moment.completed = history->count;
	else
		x->frozen = true;
}

/* It failed. When the volume failed with it, it may or may not have happened on the disk. */
static void remember_refused(struct subject *x, const struct op *op, bool was_failed)
{
	struct op maybe = *op;

	if (!x->failed) {
		if (audit_data_subject(op))
			history_doubt(&x->script.history, audit_data_subject(op));
		return;
	}
	if (was_failed)
		return;
	if (!is_sync(op) && op->kind != OP_CREATE && op->kind != OP_TMPFILE)
		maybe.result = op->kind == OP_WRITE || op->kind == OP_COPY_RANGE ? (int64_t)op->length : 0;
	subject_remember(x, &maybe, false);
}

/* Files with data that may still be in memory only: on a device that goes on failing it may get lost at any time. */
static void note_buffered(struct subject *x, const struct op *op)
{
	uint64_t ino = audit_data_subject(op);

	if (op->kind == OP_SYNC || op->kind == OP_CHECKPOINT)
		x->buffered_count = 0;
	for (unsigned i = 0; op->kind == OP_FSYNC && i < x->buffered_count; i++) {
		if (x->buffered[i] == op->ino)
			x->buffered[i--] = x->buffered[--x->buffered_count];
	}
	if (!ino)
		return;
	if (x->in->struck && !subject_fault_over(x) && subject_hits(x))
		subject_set_unknown(x, ino);
	for (unsigned i = 0; i < x->buffered_count; i++) {
		if (x->buffered[i] == ino)
			return;
	}
	if (x->buffered_count < SUBJECT_FILES)
		x->buffered[x->buffered_count++] = ino;
}

static void judge_answer(struct subject *x, struct op *op, const struct ash_attr *attr, const void *data, bool faulted,
			 bool was_failed)
{
	struct runner *runner = &x->script.runner;
	unsigned before = subject_hits(x);
	char what[200];

	op_describe(op, what, sizeof(what));
	if (was_failed && op->result >= 0 && (is_sync(op) || is_change(op))) {
		subject_bad(x, "I6: acknowledged by a failed volume", what);
		return;
	}
	if (op->result == -ENOSPC && x->source->base.may_fill)
		return;
	runner->may_be_full = x->source->base.may_fill || faulted;
	if (!runner_judge(runner, op, attr, data) && !subject_unknown(x, op->ino) && !subject_unknown(x, op->ino2) &&
	    !subject_unknown(x, op->result_ino) &&
	    !(op->kind == OP_READDIR && subject_hits(x) != before && !strstr(runner->failure, "is wrong"))) {
		char text[VERDICT_TEXT];

		snprintf(text, sizeof(text), "%.200s: %.400s", what, runner->failure);
		subject_bad(x, "wrong answer", text);
	}
	subject_remember(x, op, true);
	if (audit_data_subject(op))
		audit_remember(x, audit_data_subject(op));
	note_buffered(x, op);
}

/* True: it failed because of the fault. */
static bool execute_once(struct subject *x, struct op *op)
{
	struct runner *runner = &x->script.runner;
	unsigned char *data = test_alloc(op->length < (1u << 24) ? op->length : 0);
	unsigned before = subject_hits(x);
	struct ash_attr attr;
	bool was_failed = x->failed, faulted, refused;

	runner->failure[0] = 0;
	runner->clock += 1000;
	op->time = runner->clock;
	if (op->kind == OP_WRITE && (op->flags & ASH_WRITE_APPEND) && model_find(&x->script.model, op->ino))
		op->offset = model_find(&x->script.model, op->ino)->size; /* where the pattern counts from */
	if (x->in->trace) {
		char what[200];

		op_describe(op, what, sizeof(what));
		printf("# %s\n", what);
	}
	alloc_enter();
	run_on_volume(runner->volume, op, &attr, data);
	alloc_leave();
	faulted = subject_hits(x) != before;
	for (unsigned i = 0; faulted && !subject_fault_over(x) && i < x->buffered_count; i++)
		subject_set_unknown(x, x->buffered[i]);
	subject_look(x);
	refused = is_excused(x, op, faulted, was_failed);
	if (x->in->trace)
		printf("#   = %lld%s%s\n", (long long)op->result, faulted ? ", met the fault" : "",
		       x->failed ? ", the volume has failed" : "");
	if (refused)
		remember_refused(x, op, was_failed);
	else
		judge_answer(x, op, &attr, data, faulted, was_failed);
	runner->index++;
	free(data);
	faulted = subject_hits(x) != before; /* readdir is asked by the judge */
	if (faulted && !x->audited && !x->bad)
		audit(x, op);
	return refused;
}

static void execute(struct script *script, struct op *op)
{
	struct subject *x = script->executor;

	if (x->bad || (x->in->struck && x->operations_after++ > AFTER_FAULT))
		return;
	if (x->in->struck && lacks_subject(op)) {
		op->result = -ENOENT;
		return;
	}
	if (execute_once(x, op) && !x->bad && !x->failed && subject_fault_over(x))
		execute_once(x, op); /* the fault is over: now it works */
	if (x->bad) {
		char what[200], text[VERDICT_TEXT];

		op_describe(op, what, sizeof(what));
		snprintf(text, sizeof(text), "%.600s (at operation: %.200s)", x->text, what);
		memcpy(x->text, text, sizeof(text));
	}
}

void subject_call(struct subject *x, const char *name, int64_t (*call)(struct subject *x), int64_t expected)
{
	for (unsigned tries = 0; !x->bad && tries < 2; tries++) {
		unsigned before = subject_hits(x);
		bool was_failed = x->failed;
		struct op as_op = { .kind = OP_NONE };

		alloc_enter();
		as_op.result = call(x);
		alloc_leave();
		subject_look(x);
		if (as_op.result == expected)
			tries = 2;
		else if (!is_excused(x, &as_op, subject_hits(x) != before, was_failed))
			subject_bad(x, name, strerror((int)-as_op.result));
		if (subject_hits(x) != before && !x->audited && !x->bad)
			audit(x, &as_op);
		if (x->failed || !subject_fault_over(x))
			break;
	}
}

/* ---- The run ---- */

static struct ash_open_options open_options(const struct subject *x)
{
	struct ash_open_options options = crash_open_options(&x->source->base);

	options.write_behind_bytes = x->source->write_behind ? x->source->write_behind : 1 << 20;
	return options;
}

/* A volume that the power was cut under, with everything that `before` did in its log. */
static void run_before(struct subject *x)
{
	struct ash_open_options options = open_options(x);
	struct script *s = &x->script;

	if (arena_device(x->script.arena, false, &s->dev) || ash_open(s->dev, &options, &s->runner.volume, NULL))
		abort();
	s->runner.may_be_full = x->source->before->may_fill;
	x->source->before->run(s);
	if (ash_sync(s->runner.volume))
		abort();
	ash_abandon(s->runner.volume);
	model_drop_references(&s->model);
	bdev_close(s->dev);
	history_free(&s->history);
	history_start(&s->history, &s->model);
}

/* A volume that does not fill its device: there is room to grow. */
static void make_small(struct subject *x)
{
	static const uint8_t key[32] = { 4, 5, 6 };
	struct ash_mkfs_options mkfs = { .block_count = x->source->small_blocks,
					 .log_blocks = ASH_LOG_MIN_BLOCKS,
					 .seed = key,
					 .now = CLOCK_START };
	struct ash_open_options options = open_options(x);
	struct script *s = &x->script;
	char text[BDEV_ERROR_TEXT] = "";

	arena_reset(x->script.arena);
	if (arena_device(x->script.arena, false, &s->dev) || ash_mkfs(s->dev, &mkfs, text) ||
	    ash_open(s->dev, &options, &s->runner.volume, text))
		abort();
	model_free(&s->model);
	if (observe(s->runner.volume, &s->model, text, sizeof(text)) || ash_close(s->runner.volume))
		abort();
	bdev_close(s->dev);
	history_free(&s->history);
	history_start(&s->history, &s->model);
}

static bool prepare(struct subject *x)
{
	struct script *s = &x->script;
	char text[STAGE_TEXT] = "";

	if (!stage_set(&x->stage, &x->workload, text)) {
		subject_bad(x, "setting up", text);
		return false;
	}
	s->workload = &x->workload;
	s->arena = &x->stage.arena;
	s->next_pattern = x->stage.next_pattern;
	s->runner = (struct runner){ .model = &s->model, .clock = x->stage.clock };
	model_copy(&s->model, &x->stage.model);
	history_start(&s->history, &s->model);
	if (x->source->small_blocks)
		make_small(x);
	if (x->source->before)
		run_before(x);
	if (s->failed)
		subject_bad(x, "setting up", s->runner.failure);
	arena_accept(s->arena);
	return !x->bad;
}

static void open_devices(struct subject *x)
{
	struct bdev *device;

	if (arena_device(x->script.arena, x->workload.fua, &device) || fault_open(device, &x->fault))
		abort();
	inject_device(x->in, x->fault);
	if (x->in->kind == INJECT_ENOMEM)
		alloc_attach(x->in);
	alloc_forget();
}

static bool mount(struct subject *x)
{
	struct ash_open_options options = open_options(x);
	char error_text[BDEV_ERROR_TEXT] = "";
	struct op as_op = { .kind = OP_NONE };

	alloc_enter();
	as_op.result = ash_open(x->fault, &options, &x->script.runner.volume, error_text);
	alloc_leave();
	if (as_op.result && !is_excused(x, &as_op, subject_hits(x) != 0, false))
		subject_bad(x, "mount", error_text[0] ? error_text : strerror((int)-as_op.result));
	if (!as_op.result)
		subject_look(x);
	return as_op.result == 0;
}

/* The unmount is a sync: when it succeeds everything is due. */
static bool unmount(struct subject *x)
{
	struct op op = { .kind = OP_SYNC };
	unsigned before = subject_hits(x);
	bool was_failed = x->failed;
	int error;

	alloc_enter();
	error = ash_close(x->script.runner.volume);
	alloc_leave();
	model_drop_references(&x->script.model);
	if (!error && was_failed)
		subject_bad(x, "I6", "the unmount of a failed volume succeeded");
	if (error && !was_failed && subject_hits(x) == before)
		subject_bad(x, "unmount", strerror(-error));
	if (error && x->in->kind == INJECT_ENOMEM)
		subject_bad(x, "an unmount gave up for want of memory", strerror(-error));
	if (!error)
		subject_remember(x, &op, true);
	return error == 0;
}

static void check_memory(struct subject *x)
{
	char text[60];

	snprintf(text, sizeof(text), "%zu pieces of memory", alloc_live());
	if (alloc_live())
		subject_bad(x, "leak", text);
}

/* Files that an error was reported for: as they were seen in memory afterwards, so they are on the disk. */
static void check_doubtful(struct subject *x)
{
	struct ash_open_options options = open_options(x);
	struct ash_volume *volume;
	struct model seen;
	char text[400] = "";

	if (!x->script.history.doubtful_count || x->unknown_count || x->frozen)
		return;
	options.no_write = options.read_only = true;
	if (ash_open(x->fault, &options, &volume, NULL))
		return;
	if (observe(volume, &seen, text, sizeof(text)) ||
	    !models_equal(&x->script.model, &seen, COMPARE_CONTENT, text, sizeof(text)))
		subject_bad(x, "after an error, a good unmount and a mount", text);
	model_free(&seen);
	ash_close(volume);
}

static void judge_disk(struct subject *x, bool unmounted)
{
	struct judgement judgement = { .script = &x->script,
				       .moment = x->moment,
				       .check_before = x->in->point % 8 == 1,
				       .use_after = x->in->point % 4 == 0,
				       .dev = x->fault };
	char text[VERDICT_TEXT];

	fault_clear(x->fault);
	fault_ask(x->fault, NULL, NULL);
	alloc_attach(NULL);
	if (unmounted)
		check_doubtful(x);
	if (!x->bad && !judge(&judgement, text))
		subject_bad(x, "on a good device afterwards", text);
}

static void run(struct subject *x)
{
	bool mounted, unmounted = false;

	x->in->armed = true;
	mounted = mount(x);
	if (mounted) {
		x->script.execute = execute;
		x->script.executor = x;
		if (subject_hits(x) && !x->bad)
			audit(x, &(struct op){ .kind = OP_NONE });
		x->workload.run(&x->script);
		if (x->source->more && !x->bad)
			x->source->more(x);
		if (x->script.failed)
			subject_bad(x, "the workload", x->script.runner.failure);
		unmounted = unmount(x);
	}
	x->in->armed = false;
	if (!x->bad)
		check_memory(x);
	if (!x->bad)
		judge_disk(x, unmounted);
}

static void subject_free(struct subject *x)
{
	if (x->fault)
		bdev_close(x->fault);
	for (size_t i = 0; i < x->trail_count; i++)
		content_free(&x->trail[i].content);
	free(x->trail);
	history_free(&x->script.history);
	model_free(&x->script.model);
	stage_free(&x->stage);
}

void subject_run(const struct fault_workload *workload, struct injector *in)
{
	struct subject x = { .workload = workload->base, .source = workload, .in = in };

	if (prepare(&x)) {
		x.workload.may_fill = true; /* names may be missing */
		open_devices(&x);
		run(&x);
	}
	in->results->read_only += x.failed;
	inject_finish(in, !x.bad, x.text);
	alloc_attach(NULL);
	subject_free(&x);
}
