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

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>
#include "tests/model/observe.h"
#include "tests/support/record.h"

#define SECTOR 512u
#define MARK_FORMATTED UINT64_MAX
#define STATE_TIMEOUT 60 /* seconds: longer is a hang */
#define MOUNT_TIME 1700000000000000000

struct seen {
	uint64_t *keys;
	size_t capacity, count;
};

/* One recording being cut: of the workload, or of a recovery. */
struct exploration {
	const struct explore_settings *settings;
	struct explore_result *result;
	struct script *script;
	struct arena *arena; /* base: what is durable at `cut` */
	struct bdev *record;
	size_t count;                   /* entries */
	size_t *durable_at;             /* per entry: first cut at which it is certainly there */
	struct history_moment *moments; /* per cut; NULL: `moment` always */
	struct history_moment moment;
	size_t formatted_at; /* cut at which mkfs had returned */
	size_t cut;
	struct seen seen;
	struct generator random;
	unsigned share;
	bool of_recovery, stop;
};

/* ---- Set of states seen ---- */

static bool seen_add(struct seen *seen, uint64_t key)
{
	size_t at;

	if (seen->count * 2 >= seen->capacity) {
		struct seen bigger = { .capacity = seen->capacity ? seen->capacity * 2 : 1024 };

		bigger.keys = test_alloc(bigger.capacity * sizeof(*bigger.keys));
		for (size_t i = 0; i < seen->capacity; i++) {
			if (seen->keys[i])
				seen_add(&bigger, seen->keys[i]);
		}
		free(seen->keys);
		*seen = bigger;
	}
	key = key ? key : 1;
	for (at = key & (seen->capacity - 1); seen->keys[at]; at = (at + 1) & (seen->capacity - 1)) {
		if (seen->keys[at] == key)
			return false;
	}
	seen->keys[at] = key;
	seen->count++;
	return true;
}

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

static void note_marks(struct exploration *x)
{
	struct history_moment moment = { 0, 0 };

	x->moments = test_alloc((x->count + 1) * sizeof(*x->moments));
	x->formatted_at = 0;
	for (size_t i = 0; i < x->count; i++) {
		const struct record_entry *entry = entry_of(x, i);

		if (entry->kind == RECORD_MARK && entry->mark == MARK_FORMATTED)
			x->formatted_at = i + 1;
		else if (entry->kind == RECORD_MARK && entry->mark & 1)
			moment.completed = entry->mark / 2 + 1;
		else if (entry->kind == RECORD_MARK)
			moment.issued = entry->mark / 2 + 1;
		x->moments[i + 1] = moment;
	}
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

static void violation(struct exploration *x, const struct history_moment *moment, const char *how, const char *text)
{
	char operation[200] = "nothing";

	if (moment->issued)
		op_describe(&x->script->history.ops[moment->issued - 1], operation, sizeof(operation));
	if (x->result->violations < 3)
		snprintf(x->result->text[x->result->violations], VERDICT_TEXT,
			 "%scut %zu of %zu, %s, %zu operations done, last begun: %s: %.800s",
			 x->of_recovery ? "second crash during recovery, " : "", x->cut, x->count, how,
			 moment->completed, operation, text);
	x->result->violations++;
	if (x->settings->stop_at_first)
		x->stop = true;
}

static void explore_recovery(struct exploration *x, const struct history_moment *moment);

/* The state in `work` is complete: judge it unless it was seen. True: it was new. */
static bool judge_state(struct exploration *x, const char *how)
{
	struct history_moment moment = x->moments ? x->moments[x->cut] : x->moment;
	struct judgement judgement = { .script = x->script,
				       .moment = moment,
				       .may_be_unformatted = x->cut < x->formatted_at };
	char text[VERDICT_TEXT];
	unsigned char *image = NULL; /* before recovery changes it */
	bool good;

	if (!seen_add(&x->seen, arena_hash(x->arena) +
					history_syncs(&x->script->history, moment.completed) * 0x9e3779b97f4a7c15ull +
					(x->cut < x->formatted_at)))
		return false;
	if (generator_below(&x->random, 100) >= x->share) {
		x->result->skipped++;
		return true;
	}
	*(x->of_recovery ? &x->result->recovery_states : &x->result->states) += 1;
	if (x->settings->save) {
		image = test_alloc(x->arena->size);
		memcpy(image, x->arena->work, x->arena->size);
	}
	judgement.check_before = generator_below(&x->random, 10) == 0;
	judgement.use_after = generator_below(&x->random, 4) == 0;
	if (!x->of_recovery && generator_below(&x->random, 1000) < x->settings->recovery_permille)
		explore_recovery(x, &moment);
	alarm(STATE_TIMEOUT);
	if (arena_device(x->arena, x->script->workload->fua, &judgement.dev))
		abort();
	good = judge(&judgement, text);
	bdev_close(judgement.dev);
	alarm(0);
	if (!good && image)
		save_image(x, image);
	if (!good)
		violation(x, &moment, how, text);
	free(image);
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
			explore_window(x, cut - 1, wanted / 2);
	}
}

static void exploration_free(struct exploration *x)
{
	free(x->durable_at);
	free(x->moments);
	free(x->seen.keys);
}

/* The state in x->arena is recovered in a second arena, that recovery recorded and cut again. */
static void explore_recovery(struct exploration *x, const struct history_moment *moment)
{
	struct ash_open_options options = crash_open_options(x->script->workload);
	struct arena arena;
	struct bdev *device;
	struct ash_volume *volume;
	struct exploration again = { .settings = x->settings,
				     .result = x->result,
				     .script = x->script,
				     .arena = &arena,
				     .moment = *moment,
				     .random = x->random,
				     .share = 25,
				     .of_recovery = true };

	arena_init(&arena, x->arena->size);
	arena_load(&arena, x->arena);
	if (arena_device(&arena, x->script->workload->fua, &device) || record_open(device, &again.record))
		abort();
	if (x->cut >= x->formatted_at && ash_open(again.record, &options, &volume, NULL) == 0) {
		ash_abandon(volume);
		arena_reset(&arena);
		prepare(&again);
		explore_cuts(&again, 6);
		x->stop |= again.stop;
	}
	bdev_close(again.record);
	exploration_free(&again);
	arena_free(&arena);
}

/* ---- Recording ---- */

static bool broken(struct script *s, struct explore_result *result, const char *what, const char *detail)
{
	(void)s;
	result->broken = true;
	snprintf(result->text[0], VERDICT_TEXT, "%s: %.900s", what, detail);
	return false;
}

static int format(struct script *s, char *error)
{
	static const uint8_t key[32] = { 1, 2, 3 };
	struct ash_mkfs_options options = { .seed = key,
					    .now = MOUNT_TIME / 1000000000,
					    .no_discard = true,
					    .log_blocks = s->workload->log_blocks ? s->workload->log_blocks :
										    ASH_LOG_MIN_BLOCKS };

	return ash_mkfs(s->dev, &options, error);
}

static bool open_volume(struct script *s, struct explore_result *result)
{
	struct ash_open_options options = crash_open_options(s->workload);
	char error[BDEV_ERROR_TEXT] = "";
	int code = ash_open(s->dev, &options, &s->runner.volume, error);

	return code ? broken(s, result, "mount", error[0] ? error : strerror(-code)) : true;
}

static bool close_volume(struct script *s, struct explore_result *result)
{
	int code = ash_close(s->runner.volume);

	model_drop_references(&s->model);
	if (s->failed) {
		char text[VERDICT_TEXT];

		snprintf(text, sizeof(text), "%.200s: %.900s", s->failed_operation, s->runner.failure);
		return broken(s, result, "wrong answer", text);
	}
	return code ? broken(s, result, "unmount", strerror(-code)) : true;
}

/* The state before the recording: formatted, set up, unmounted; the model with it. */
static bool set_up(struct script *s, struct explore_result *result)
{
	char error[BDEV_ERROR_TEXT] = "";

	if (arena_device(s->arena, s->workload->fua, &s->dev))
		abort();
	if (format(s, error))
		return broken(s, result, "mkfs", error);
	if (!open_volume(s, result))
		return false;
	model_free(&s->model);
	if (observe(s->runner.volume, &s->model, error, sizeof(error)))
		return broken(s, result, "observing a new volume", error);
	if (s->workload->setup)
		s->workload->setup(s);
	if (!close_volume(s, result))
		return false;
	bdev_close(s->dev);
	s->dev = NULL;
	history_start(&s->history, &s->model);
	return true;
}

/* The unmount is a sync: everything before it is due afterwards. */
static bool record_close(struct script *s, struct explore_result *result)
{
	struct op op = { .kind = OP_SYNC };
	size_t index = s->history.count;

	record_mark(s->dev, MARK_BEGIN(index));
	if (!close_volume(s, result))
		return false;
	record_mark(s->dev, MARK_END(index));
	history_add(&s->history, &op);
	return true;
}

static bool record_workload(struct script *s, struct explore_result *result)
{
	struct bdev *device;
	char error[BDEV_ERROR_TEXT] = "";

	if (arena_device(s->arena, s->workload->fua, &device) || record_open(device, &s->dev))
		abort();
	if (s->workload->record_mkfs && format(s, error))
		return broken(s, result, "mkfs", error);
	if (s->workload->record_mkfs)
		record_mark(s->dev, MARK_FORMATTED);
	if (!open_volume(s, result))
		return false;
	s->recording = true;
	s->workload->run(s);
	s->recording = false;
	return record_close(s, result);
}

static void cut_recording(struct script *s, const struct explore_settings *settings, struct explore_result *result)
{
	struct exploration x = { .settings = settings,
				 .result = result,
				 .script = s,
				 .arena = s->arena,
				 .record = s->dev,
				 .share = s->workload->crowded ? settings->crowded_share : settings->share };

	generator_init(&x.random, settings->seed);
	arena_reset(s->arena);
	prepare(&x);
	note_marks(&x);
	result->operations = s->history.count;
	for (size_t i = 0; settings->trace && i < s->history.count; i++) {
		char text[200];

		op_describe(&s->history.ops[i], text, sizeof(text));
		printf("# %zu: %s\n", i + 1, text);
	}
	fflush(stdout);
	for (size_t i = 0; i < x.count; i++) {
		result->writes += changes(entry_of(&x, i));
		result->flushes += entry_of(&x, i)->kind == RECORD_FLUSH;
	}
	explore_cuts(&x, settings->subsets);
	exploration_free(&x);
}

void explore(const struct workload *workload, const struct explore_settings *settings, struct explore_result *result)
{
	struct arena arena;
	struct script s = { .workload = workload, .arena = &arena };
	struct timespec begin, end;

	memset(result, 0, sizeof(*result));
	clock_gettime(CLOCK_MONOTONIC, &begin);
	arena_init(&arena, (uint64_t)(workload->mib ? workload->mib : 6) << 20);
	model_init(&s.model);
	s.runner = (struct runner){ .model = &s.model, .clock = MOUNT_TIME, .may_be_full = workload->may_fill };
	test_clock_set(MOUNT_TIME);
	if (set_up(&s, result)) {
		if (workload->record_mkfs) { /* the base is an empty disk */
			uint64_t size = arena.size;

			arena_free(&arena);
			arena_init(&arena, size);
		}
		arena_accept(&arena);
		if (record_workload(&s, result))
			cut_recording(&s, settings, result);
	}
	if (s.dev)
		bdev_close(s.dev);
	history_free(&s.history);
	model_free(&s.model);
	arena_free(&arena);
	clock_gettime(CLOCK_MONOTONIC, &end);
	result->seconds = (double)(end.tv_sec - begin.tv_sec) + (double)(end.tv_nsec - begin.tv_nsec) / 1e9;
}
