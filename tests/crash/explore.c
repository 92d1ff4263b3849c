/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * From a recording to crash states.
 *
 * Concept: a cut is a place in the recording: entries before it had been issued. Of these some are durable (a flush
 * that began after they completed has completed, or they are FUA and have completed); the others may each be there, be
 * missing, or be torn into 512-byte sectors. States are made at two kinds of place:
 *   - at every cut, with everything that was issued (every prefix of the writes);
 *   - before every flush, during every FUA write, and at the end: distinct subsets and tears of what is not durable.
 * What a disk may reorder shows only where writes overlap, and there a later write that is missing or torn gives every
 * mix that another order could give.
 * States with equal images, for which the same syncs are due, are judged once. One thread; no locks.
 */
#include "explore.h"

#include <ashlar/format.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>
#include "tests/support/record.h"

#define SECTOR 512u
#define STATE_TIMEOUT 60 /* seconds: longer is a hang */

/* What had been done when the power went. */
struct moment {
	struct history_moment operations;
	size_t grown, growing; /* growths that had returned, that had begun */
};

/* One recording being cut: of the workload, or of a recovery. */
struct exploration {
	const struct explore_settings *settings;
	struct explore_result *result;
	struct script *script;
	struct arena *arena; /* base: what is durable at `cut` */
	struct bdev *record;
	size_t count;           /* entries */
	size_t *durable_at;     /* per entry: first cut at which it is certainly there */
	struct moment *moments; /* per cut */
	const uint64_t *sizes;  /* blocks of the volume, per number of growths */
	uint64_t *past;         /* per number of operations begun: hash of these */
	size_t formatted_at;    /* cut at which mkfs had returned */
	size_t cut;
	struct seen seen;
	struct generator random;
	unsigned share;
	bool of_recovery, stop;
};

/* ---- Entries ---- */

static const struct record_entry *entry_of(const struct exploration *x, size_t index)
{
	return record_get(x->record, index);
}

static bool changes(const struct record_entry *entry)
{
	return entry->kind == RECORD_WRITE || entry->kind == RECORD_WRITE_ZEROES || entry->kind == RECORD_DISCARD;
}

static size_t durable_cut(const struct exploration *x, size_t index)
{
	const struct record_entry *entry = entry_of(x, index);

	if (entry->completed_at == RECORD_IN_FLIGHT || entry->result)
		return SIZE_MAX;
	if (entry->kind == RECORD_WRITE && (entry->flags & BDEV_FUA))
		return entry->completed_at;
	for (size_t f = entry->completed_at; f < x->count; f++) {
		const struct record_entry *flush = entry_of(x, f);

		if (flush->kind == RECORD_FLUSH && !flush->result)
			return flush->completed_at;
	}
	return SIZE_MAX;
}

/* `moment`: that of the first cut. */
static void note_marks(struct exploration *x, struct moment moment)
{
	x->moments = test_alloc((x->count + 1) * sizeof(*x->moments));
	x->moments[0] = moment;
	x->formatted_at = 0;
	for (size_t i = 0; i < x->count; i++) {
		const struct record_entry *entry = entry_of(x, i);

		if (entry->kind == RECORD_MARK && entry->mark == MARK_FORMATTED)
			x->formatted_at = i + 1;
		else if (entry->kind == RECORD_MARK && entry->mark == MARK_GROWTH_BEGIN)
			moment.growing++;
		else if (entry->kind == RECORD_MARK && entry->mark == MARK_GROWTH_END)
			moment.grown = moment.growing;
		else if (entry->kind == RECORD_MARK && entry->mark & 1)
			moment.operations.completed = entry->mark / 2 + 1;
		else if (entry->kind == RECORD_MARK)
			moment.operations.issued = entry->mark / 2 + 1;
		x->moments[i + 1] = moment;
	}
}

/* Of the operations begun so far, for each number of them. */
static void note_past(struct exploration *x)
{
	const struct history *history = &x->script->history;

	x->past = test_alloc((history->count + 1) * sizeof(*x->past));
	for (size_t i = 0; i < history->count; i++)
		x->past[i + 1] = seen_mix(x->past[i], op_hash(&history->ops[i]));
}

static void prepare(struct exploration *x)
{
	x->count = record_count(x->record);
	x->durable_at = test_alloc(x->count * sizeof(*x->durable_at));
	for (size_t i = 0; i < x->count; i++)
		x->durable_at[i] = changes(entry_of(x, i)) ? durable_cut(x, i) : SIZE_MAX;
}

static void apply_part(struct arena *arena, const struct record_entry *entry, uint64_t from, uint64_t length)
{
	if (entry->kind == RECORD_WRITE)
		arena_write(arena, entry->offset + from, (const unsigned char *)entry->data + from, length);
	else
		arena_zero(arena, entry->offset + from, length);
}

/* Move the base of the arena to what is durable at `cut`. Order matters: later writes are applied again. */
static void move_to(struct exploration *x, size_t cut)
{
	size_t first = SIZE_MAX;

	arena_reset(x->arena);
	for (size_t i = 0; i < cut && first == SIZE_MAX; i++) {
		if (x->durable_at[i] <= cut && x->durable_at[i] > x->cut)
			first = i;
	}
	for (size_t i = first; i < cut; i++) {
		if (x->durable_at[i] <= cut)
			apply_part(x->arena, entry_of(x, i), 0, entry_of(x, i)->length);
	}
	arena_accept(x->arena);
	x->cut = cut;
}

/* ---- Judging ---- */

static void save_image(const struct exploration *x, const unsigned char *image)
{
	char path[512];
	int fd;

	snprintf(path, sizeof(path), "%s/%s-%zu-%llu.img", x->settings->save, x->script->workload->name, x->cut,
		 (unsigned long long)x->result->violations);
	fd = open(path, O_CREAT | O_TRUNC | O_WRONLY, 0644);
	if (fd < 0 || write(fd, image, x->arena->size) != (ssize_t)x->arena->size)
		perror(path);
	if (fd >= 0)
		close(fd);
}

static void describe_moment(const struct exploration *x, const struct moment *moment, char *text, size_t size)
{
	char operation[200] = "nothing";
	int used = 0;

	if (moment->operations.issued)
		op_describe(&x->script->history.ops[moment->operations.issued - 1], operation, sizeof(operation));
	if (moment->growing)
		used = snprintf(text, size, "growths: %zu begun, %zu done, ", moment->growing, moment->grown);
	snprintf(text + used, size - (size_t)used, "%zu operations done, last begun: %s", moment->operations.completed,
		 operation);
}

static void violation(struct exploration *x, const struct moment *moment, const char *how, const char *text)
{
	char when[300];

	describe_moment(x, moment, when, sizeof(when));
	if (x->result->violations < 3)
		snprintf(x->result->text[x->result->violations], VERDICT_TEXT, "%scut %zu of %zu, %s, %s: %.800s",
			 x->of_recovery ? "second crash during recovery, " : "", x->cut, x->count, how, when, text);
	x->result->violations++;
	if (x->settings->stop_at_first)
		x->stop = true;
}

static void explore_recovery(struct exploration *x, uint64_t key);

static const struct moment *moment_of(const struct exploration *x)
{
	return &x->moments[x->cut];
}

/* What is due: a state is judged again when more of it is. */
static uint64_t hash_due(const struct exploration *x)
{
	const struct moment *moment = moment_of(x);
	uint64_t syncs = history_syncs(&x->script->history, moment->operations.completed);
	uint64_t due = syncs * 2 + (x->cut < x->formatted_at);

	return moment->grown ? seen_mix(due, moment->grown) : due;
}

/* Everything that the oracle is told of the operations before the crash. */
static uint64_t hash_past(const struct exploration *x)
{
	const struct workload *workload = x->script->workload;
	const struct moment *moment = moment_of(x);
	uint64_t kind = workload->fua | workload->write_through << 1 | workload->discard << 2;
	uint64_t hash = seen_mix(seen_mix(x->past ? x->past[moment->operations.issued] : 0, kind),
				 history_syncs(&x->script->history, moment->operations.completed));

	for (size_t i = moment->grown; moment->growing && i <= moment->growing; i++)
		hash = seen_mix(hash, x->sizes[i]);
	return hash;
}

/* Lots are drawn with the state's key: what happens to a state does not depend on those before it. */
static bool lot(const struct exploration *x, uint64_t key, unsigned which, unsigned of, unsigned wins)
{
	return seen_mix(key ^ x->settings->seed, which) % of < wins;
}

static void judge_new_state(struct exploration *x, const char *how, uint64_t key)
{
	const struct moment *moment = moment_of(x);
	bool grows = x->script->workload->device_mib;
	struct judgement judgement = { .script = x->script,
				       .moment = moment->operations,
				       .may_be_unformatted = x->cut < x->formatted_at,
				       .check_before = lot(x, key, 1, 10, grows ? 4 : 1),
				       .use_after = lot(x, key, 2, 4, 1),
				       .grow_after = grows && lot(x, key, 4, 3, 1),
				       .sizes = x->sizes + moment->grown,
				       .size_count = moment->growing - moment->grown + 1 };
	char text[VERDICT_TEXT];
	unsigned char *image = NULL; /* before recovery changes it */
	bool good;

	*(x->of_recovery ? &x->result->recovery_states : &x->result->states) += 1;
	if (x->settings->save) {
		image = test_alloc(x->arena->size);
		memcpy(image, x->arena->work, x->arena->size);
	}
	if (!x->of_recovery && lot(x, key, 3, 1000, x->settings->recovery_permille * (grows ? 4 : 1)))
		explore_recovery(x, key);
	alarm(STATE_TIMEOUT);
	if (arena_device(x->arena, x->script->workload->fua, &judgement.dev))
		abort();
	good = judge(&judgement, text);
	bdev_close(judgement.dev);
	alarm(0);
	if (!good && image)
		save_image(x, image);
	if (!good)
		violation(x, moment, how, text);
	free(image);
}

/*
 * The state in `work` is complete: judge it unless it was seen. True: it was new to this workload. Which states are
 * made depends on that alone, not on what other workloads had, so that one workload can be repeated by itself.
 */
static bool judge_state(struct exploration *x, const char *how)
{
	uint64_t image = arena_hash(x->arena), key;

	key = seen_mix(image, hash_due(x));
	if (!seen_add(&x->seen, key))
		return false;
	if (lot(x, key, 0, 100, 100 - x->share))
		x->result->skipped += !x->of_recovery; /* a sample of a sample is not missed */
	else if (x->settings->known && !x->of_recovery && !seen_add(x->settings->known, seen_mix(image, hash_past(x))))
		x->result->repeated++;
	else
		judge_new_state(x, how, key);
	return true;
}

/* ---- Making states ---- */

/* Is it open whether the entry is on the disk? `in_flight`: the FUA write that is just being done. */
static bool is_open(const struct exploration *x, size_t index, size_t in_flight)
{
	return changes(entry_of(x, index)) && (x->durable_at[index] > x->cut || index == in_flight);
}

static size_t first_open(const struct exploration *x, size_t in_flight)
{
	size_t i = 0;

	while (i < x->cut && !is_open(x, i, in_flight))
		i++;
	return i;
}

static void make_prefix(struct exploration *x)
{
	arena_reset(x->arena);
	for (size_t i = first_open(x, SIZE_MAX); i < x->cut; i++) {
		if (changes(entry_of(x, i)))
			apply_part(x->arena, entry_of(x, i), 0, entry_of(x, i)->length);
	}
}

/* Some of its sectors: a prefix, a suffix, or any. */
static void apply_torn(struct exploration *x, const struct record_entry *entry)
{
	uint64_t sectors = entry->length / SECTOR, middle = generator_below(&x->random, sectors + 1) * SECTOR;

	switch (generator_below(&x->random, 3)) {
	case 0:
		apply_part(x->arena, entry, 0, middle);
		break;
	case 1:
		apply_part(x->arena, entry, middle, entry->length - middle);
		break;
	default:
		for (uint64_t i = 0; i < sectors; i++) {
			if (generator_next(&x->random) & 1)
				apply_part(x->arena, entry, i * SECTOR, SECTOR);
		}
	}
}

/* Each open entry survives with `percent`, and is torn with `torn_percent` of these. */
static void make_random(struct exploration *x, size_t first, size_t in_flight, unsigned percent, unsigned torn_percent)
{
	arena_reset(x->arena);
	for (size_t i = first; i < x->cut; i++) {
		const struct record_entry *entry = entry_of(x, i);

		if (!changes(entry) || (is_open(x, i, in_flight) && generator_below(&x->random, 100) >= percent))
			continue;
		if (is_open(x, i, in_flight) && generator_below(&x->random, 100) < torn_percent)
			apply_torn(x, entry);
		else
			apply_part(x->arena, entry, 0, entry->length);
	}
}

/* Entry number `n` of the open ones is there if bit n of `mask` is set. */
static void make_subset(struct exploration *x, size_t first, size_t in_flight, uint64_t mask)
{
	arena_reset(x->arena);
	for (size_t i = first; i < x->cut; i++) {
		const struct record_entry *entry = entry_of(x, i);

		if (!changes(entry))
			continue;
		if (is_open(x, i, in_flight)) {
			bool chosen = mask & 1;

			mask >>= 1;
			if (!chosen)
				continue;
		}
		apply_part(x->arena, entry, 0, entry->length);
	}
}

static size_t count_open(const struct exploration *x, size_t first, size_t in_flight)
{
	size_t open = 0;

	for (size_t i = first; i < x->cut; i++)
		open += is_open(x, i, in_flight);
	return open;
}

/* All subsets when few, and random subsets and tears until enough distinct ones were found. */
static void explore_window(struct exploration *x, size_t in_flight, unsigned wanted)
{
	size_t first = first_open(x, in_flight), open = count_open(x, first, in_flight);
	unsigned found = 0;

	if (!open)
		return;
	for (uint64_t mask = 0; open <= 5 && mask < 1ull << open && !x->stop; mask++) {
		make_subset(x, first, in_flight, mask);
		found += judge_state(x, "subset");
	}
	if (open > 5) { /* each one alone, each one missing */
		for (size_t i = 0; i < open && open < 64 && found < wanted / 2 && !x->stop; i++) {
			make_subset(x, first, in_flight, ~(1ull << i));
			found += judge_state(x, "one write missing");
		}
	}
	for (unsigned tries = 0; found < wanted && tries < wanted * 3 && !x->stop; tries++) {
		static const unsigned percents[] = { 50, 85, 20, 95 };

		make_random(x, first, in_flight, percents[tries % 4], tries % 3 ? 35 : 0);
		found += judge_state(x, "random subset and tears");
	}
}

static void explore_cuts(struct exploration *x, unsigned wanted)
{
	for (size_t cut = 0; cut <= x->count && !x->stop; cut++) {
		const struct record_entry *last = cut ? entry_of(x, cut - 1) : NULL;

		move_to(x, cut);
		make_prefix(x);
		judge_state(x, "prefix");
		if (cut == x->count || entry_of(x, cut)->kind == RECORD_FLUSH)
			explore_window(x, SIZE_MAX, wanted);
		if (last && last->kind == RECORD_WRITE && (last->flags & BDEV_FUA))
			explore_window(x, cut - 1, wanted);
	}
}

static void exploration_free(struct exploration *x)
{
	free(x->durable_at);
	free(x->moments);
	free(x->past);
	seen_free(&x->seen);
}

/* The sizes that the volume may have at this crash, and that of the device. How many. */
static size_t sizes_again(const struct exploration *x, uint64_t sizes[SCRIPT_GROWTHS + 2])
{
	const struct moment *moment = moment_of(x);
	size_t count = moment->growing - moment->grown + 1;

	memcpy(sizes, x->sizes + moment->grown, count * sizeof(*sizes));
	sizes[count] = x->arena->size >> ASH_BLOCK_SHIFT;
	return count + 1;
}

/* After a crash while it grew, too. A failure ends here; judge() sees it. */
static void grow_again(struct exploration *again, struct ash_volume *volume)
{
	if (record_mark(again->record, MARK_GROWTH_BEGIN))
		abort();
	if (!ash_grow(volume, 0) && record_mark(again->record, MARK_GROWTH_END))
		abort();
}

/*
 * The state in x->arena is recovered in a second arena, that recovery recorded and cut again; with it, where volumes
 * grow, a growth.
 */
static void explore_recovery(struct exploration *x, uint64_t key)
{
	struct ash_open_options options = crash_open_options(x->script->workload);
	uint64_t sizes[SCRIPT_GROWTHS + 2];
	struct moment moment = { .operations = moment_of(x)->operations, .growing = sizes_again(x, sizes) - 2 };
	struct arena arena;
	struct bdev *device;
	struct ash_volume *volume;
	struct exploration again = { .settings = x->settings,
				     .result = x->result,
				     .script = x->script,
				     .arena = &arena,
				     .sizes = sizes,
				     .share = 25,
				     .of_recovery = true };

	generator_init(&again.random, key);
	arena_init_like(&arena, x->arena);
	if (arena_device(&arena, x->script->workload->fua, &device) || record_open(device, &again.record))
		abort();
	if (x->cut >= x->formatted_at && ash_open(again.record, &options, &volume, NULL) == 0) {
		if (x->script->workload->device_mib)
			grow_again(&again, volume);
		ash_abandon(volume);
		arena_reset(&arena);
		prepare(&again);
		note_marks(&again, moment);
		explore_cuts(&again, 6);
		x->stop |= again.stop;
	}
	bdev_close(again.record);
	exploration_free(&again);
	arena_free(&arena);
}

/* ---- The whole of it ---- */

static void trace(const struct script *s)
{
	for (size_t i = 0; i < s->history.count; i++) {
		char text[200];

		op_describe(&s->history.ops[i], text, sizeof(text));
		printf("# %zu: %s\n", i + 1, text);
	}
	fflush(stdout);
}

static void cut_recording(struct script *s, const struct explore_settings *settings, struct explore_result *result)
{
	struct exploration x = { .settings = settings,
				 .result = result,
				 .script = s,
				 .arena = s->arena,
				 .record = s->dev,
				 .sizes = s->sizes,
				 .share = s->workload->crowded ? settings->crowded_share : settings->share };

	arena_reset(s->arena);
	prepare(&x);
	note_marks(&x, (struct moment){ 0 });
	note_past(&x);
	generator_init(&x.random, seen_mix(settings->seed, x.past[s->history.count]));
	result->operations = s->history.count;
	if (settings->trace)
		trace(s);
	for (size_t i = 0; i < x.count; i++) {
		result->writes += changes(entry_of(&x, i));
		result->flushes += entry_of(&x, i)->kind == RECORD_FLUSH;
	}
	explore_cuts(&x, settings->subsets);
	exploration_free(&x);
}

void explore_on(struct stage *stage, const struct workload *workload, const struct explore_settings *settings,
		struct explore_result *result)
{
	struct script script;
	struct timespec begin, end;

	memset(result, 0, sizeof(*result));
	clock_gettime(CLOCK_MONOTONIC, &begin);
	if (stage_record(stage, workload, &script, result->text[0]))
		cut_recording(&script, settings, result);
	else
		result->broken = true;
	stage_strike(&script);
	clock_gettime(CLOCK_MONOTONIC, &end);
	result->seconds = (double)(end.tv_sec - begin.tv_sec) + (double)(end.tv_nsec - begin.tv_nsec) / 1e9;
}

void explore(const struct workload *workload, const struct explore_settings *settings, struct explore_result *result)
{
	struct stage stage;

	memset(result, 0, sizeof(*result));
	if (stage_set(&stage, workload, result->text[0]))
		explore_on(&stage, workload, settings, result);
	else
		result->broken = true;
	stage_free(&stage);
}
