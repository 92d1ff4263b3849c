/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Files that never change once they have their name: written under another one, renamed, perhaps over a file with the
 * same name. The name tells number and size, and these give every byte. So whoever opens such a file finds it whole,
 * also while it is replaced, gets another link or loses its last one, and when the volume is full.
 */
#include "stress.h"
#include "unit.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define PUBLISHED_MAX 160
#define SIZE_MAX_BYTES (700u << 10)
#define GENERATION 1u

struct publish {
	unsigned number; /* atomic: of files ever published, about */
};

/* What a name tells. */
struct title {
	uint32_t number, size;
};

static void print_title(const struct title *title, char kind, char name[40])
{
	snprintf(name, 40, "%c%08x-%u", kind, title->number, title->size);
}

static bool parse_title(const char *name, struct title *title)
{
	char kind;

	return sscanf(name, "%c%8x-%u", &kind, &title->number, &title->size) == 3 && (kind == 'p' || kind == 'q');
}

static uint32_t draw_size(struct stress_worker *worker)
{
	switch (stress_draw(worker, 8)) {
	case 0:
		return stress_draw(worker, 3) ? stress_draw(worker, 200) : 0;
	case 1:
	case 2:
		return stress_draw(worker, 4097);
	case 3:
		return stress_draw(worker, SIZE_MAX_BYTES);
	default:
		return stress_draw(worker, 65536);
	}
}

/* All bytes that the title tells, in a buffer of whole units. */
static unsigned char *content_of(const struct title *title)
{
	size_t room = (title->size + UNIT) / UNIT * UNIT;
	unsigned char *content = malloc(room);

	if (!content)
		abort();
	unit_fill(content, room, 0, title->number, GENERATION);
	return content;
}

static bool write_all(struct stress_worker *worker, struct target_file *file, const struct title *title)
{
	struct target *target = worker->stress->target;
	unsigned char *content = content_of(title);
	size_t at = 0, piece = 1 + stress_draw(worker, stress_draw(worker, 2) ? 20000 : SIZE_MAX_BYTES);
	bool good = true;

	while (good && at < title->size) {
		size_t length = title->size - at < piece ? title->size - at : piece;
		int64_t rc = target->ops->write(target, file, content + at, length, at, false);

		good = stress_went(worker, "write of a file", rc);
		if (good && rc == 0) {
			stress_violation(worker->stress, "a write of %zu bytes wrote none", length);
			good = false;
		}
		at += good ? (size_t)rc : 0;
	}
	free(content);
	return good;
}

static void remove_one(struct stress_worker *worker, const struct target_list *list)
{
	struct target *target = worker->stress->target;
	const char *name;
	struct title title;
	int rc;

	if (!list->count)
		return;
	name = list->entries[stress_draw(worker, (uint32_t)list->count)].name;
	if (!parse_title(name, &title))
		return;
	rc = target->ops->unlink(target, FOLDER_FILES, name, NULL);
	if (rc && rc != -ENOENT)
		stress_violation(worker->stress, "unlink of %s: %s", name, strerror(-rc));
}

/* New, or the same again over what is there. False: there was no space. */
static bool publish_one(struct stress_worker *worker, const struct title *again)
{
	struct stress *stress = worker->stress;
	struct target *target = stress->target;
	struct title title = { .number = stress_owner(worker), .size = draw_size(worker) };
	struct target_file file;
	char temporary[40], name[40];
	bool good;
	int rc;

	print_title(&title, 't', temporary);
	if (again)
		title = *again;
	print_title(&title, 'p', name);
	if (!stress_went(worker, "create of a file", target->ops->create(target, FOLDER_FILES, temporary, 1, &file)))
		return false;
	good = write_all(worker, &file, &title);
	/* What the kernel holds back may fail later: then it must be known before the file gets its name. */
	if (good && ((stress->full && target->kernel) || !stress_draw(worker, 8)))
		good = stress_went(worker, "fsync of a file",
				   target->ops->fsync(target, &file, stress_draw(worker, 2)));
	target->ops->close(target, &file);
	if (good)
		good = stress_went(worker, "rename of a file",
				   target->ops->rename(target, FOLDER_FILES, temporary, FOLDER_FILES, name, 0));
	if (good) {
		ADD(&stress->publish->number, 1);
		return true;
	}
	rc = target->ops->unlink(target, FOLDER_FILES, temporary, NULL);
	if (rc)
		stress_violation(stress, "unlink of %s: %s", temporary, strerror(-rc));
	return false;
}

static void link_one(struct stress_worker *worker, const char *name, const struct title *title)
{
	struct target *target = worker->stress->target;
	struct target_found found;
	struct target_file file;
	char other[40];
	int rc = target->ops->open(target, FOLDER_FILES, name, false, &file, &found);

	if (rc == -ENOENT)
		return;
	if (!stress_went(worker, "open for link", rc))
		return;
	print_title(title, 'q', other);
	rc = target->ops->link(target, &file, FOLDER_FILES, other);
	if (rc != -EEXIST && rc != -ENOENT)
		stress_went(worker, "link", rc);
	target->ops->close(target, &file);
}

UNIT_LOOP static void compare(struct stress *stress, const char *name, const struct title *title,
			      const unsigned char *got, size_t from, size_t length)
{
	unsigned char *content = content_of(title);

	for (size_t i = 0; i < length; i++) {
		if (got[i] != content[from + i]) {
			stress_violation(stress, "file %s: byte %zu is %#x, not %#x", name, from + i, got[i],
					 content[from + i]);
			break;
		}
	}
	free(content);
}

static void read_one(struct stress_worker *worker, const char *name, const struct title *title)
{
	struct stress *stress = worker->stress;
	struct target *target = stress->target;
	struct target_found found;
	struct target_file file;
	unsigned char *buffer;
	int64_t got;
	int rc = target->ops->open(target, FOLDER_FILES, name, true, &file, &found);

	if (rc == -ENOENT)
		return;
	if (rc) {
		stress_violation(stress, "open of %s: %s", name, strerror(-rc));
		return;
	}
	if (found.size != title->size)
		stress_violation(stress, "file %s has %llu bytes", name, (unsigned long long)found.size);
	buffer = malloc(title->size + 1);
	if (!buffer)
		abort();
	/* One byte more than there may be. */
	size_t from = stress_draw(worker, 2) ? stress_draw(worker, title->size + 1) : 0;
	got = target->ops->read(target, &file, buffer, title->size - from + 1, from);
	if (got != (int64_t)(title->size - from))
		stress_violation(stress, "read of file %s from %zu: %lld", name, from, (long long)got);
	else
		compare(stress, name, title, buffer, from, (size_t)got);
	free(buffer);
	target->ops->close(target, &file);
}

void *publish_work(void *context)
{
	struct stress_worker *worker = context;
	struct stress *stress = worker->stress;
	struct target_list *list = calloc(1, sizeof(*list));

	if (!list)
		abort();
	while (!stress_stopped(stress)) {
		unsigned what = stress_draw(worker, 20);
		struct title title;
		const char *name;
		int rc = stress->target->ops->list(stress->target, FOLDER_FILES, list);

		stress_step(worker, "publish");
		if (rc)
			stress_violation(stress, "list of files: %s", strerror(-rc));
		name = list->count ? list->entries[stress_draw(worker, (uint32_t)list->count)].name : "";
		if (what < 6 || !parse_title(name, &title)) {
			if (!publish_one(worker, NULL))
				remove_one(worker, list);
		} else if (what < 8) {
			publish_one(worker, &title);
		} else if (what < 9) {
			link_one(worker, name, &title);
		} else if (what < 13 || list->count > PUBLISHED_MAX) {
			remove_one(worker, list);
		} else {
			read_one(worker, name, &title);
		}
	}
	free(list);
	return NULL;
}

void publish_verify(struct stress_worker *worker)
{
	struct stress *stress = worker->stress;
	struct target_list *list = calloc(1, sizeof(*list));
	struct title title;
	int rc;

	if (!list)
		abort();
	rc = stress->target->ops->list(stress->target, FOLDER_FILES, list);
	if (rc)
		stress_violation(stress, "list of files: %s", strerror(-rc));
	for (size_t i = 0; i < list->count; i++) {
		const char *name = list->entries[i].name;

		if (parse_title(name, &title))
			read_one(worker, name, &title);
		else if (*name == 't')
			stress_violation(stress, "file %s was left behind", name);
	}
	free(list);
}

struct publish *publish_open(void)
{
	return calloc(1, sizeof(struct publish));
}
