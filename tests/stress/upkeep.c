/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What goes on beside the work: syncs of every kind, checkpoints, trims, and pressure. The ballast is more metadata than
 * the cache holds, and somebody always looks at all of it. The filler takes all space but a little, gives some back, takes
 * it again, so that those who need space meet every state between plenty and none, frees that wait for their
 * record (I3) among them.
 */
#include "stress.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define BALLAST 400
#define FILLER "filler"
#define ROOM (2u << 20) /* bytes that a full volume has left at first */
#define GIVE (512u << 10)

static bool make_ballast(struct stress_worker *worker)
{
	struct target *target = worker->stress->target;
	struct target_file file;
	char name[40];

	for (int i = 0; i < BALLAST; i++) {
		snprintf(name, sizeof(name), "ballast-%d", i);
		if (!stress_went(worker, "ballast", target->ops->create(target, FOLDER_BALLAST, name, 1, &file)))
			return false;
		/* Two extents each. */
		target->ops->write(target, &file, name, 1, 0, false);
		target->ops->write(target, &file, name, 1, 40960, false);
		target->ops->close(target, &file);
	}
	return true;
}

/* Take all space but `room`, as far as possible. */
static bool fill(struct stress_worker *worker, struct target_file *file, uint64_t size, uint64_t room)
{
	struct target *target = worker->stress->target;
	uint64_t free_bytes;
	int rc = target->ops->free_bytes(target, &free_bytes);

	while (!rc && free_bytes > room) {
		uint64_t take = free_bytes - room;

		rc = target->ops->fallocate(target, file, 0, size, take);
		if (rc == -ENOSPC)
			return true; /* others were quicker */
		size += take;
		if (!rc)
			rc = target->ops->free_bytes(target, &free_bytes);
	}
	return stress_went(worker, "filling", rc);
}

bool upkeep_open(struct stress *stress, struct stress_worker *worker)
{
	struct target *target = stress->target;
	struct target_file file;
	bool good;

	if (!make_ballast(worker))
		return false;
	if (!stress_went(worker, "filler", target->ops->create(target, FOLDER_FILES, FILLER, 1, &file)))
		return false;
	good = !stress->full || fill(worker, &file, 0, ROOM);
	target->ops->close(target, &file);
	return good;
}

static void give_and_take(struct stress_worker *worker)
{
	struct target *target = worker->stress->target;
	struct target_found found;
	struct target_file file;

	if (!stress_went(worker, "open of the filler",
			 target->ops->open(target, FOLDER_FILES, FILLER, true, &file, &found)))
		return;
	if (stress_draw(worker, 2)) {
		uint64_t give = stress_draw(worker, GIVE);

		stress_went(worker, "cutting the filler",
			    target->ops->truncate(target, &file, found.size > give ? found.size - give : 0));
	} else {
		fill(worker, &file, found.size, stress_draw(worker, ROOM));
	}
	target->ops->close(target, &file);
}

static void look_at_ballast(struct stress_worker *worker)
{
	struct target *target = worker->stress->target;
	struct target_found found;
	struct target_file file;
	unsigned first = stress_draw(worker, BALLAST);
	char name[40], byte[2];

	for (unsigned i = first; i < BALLAST && i < first + 100; i++) {
		snprintf(name, sizeof(name), "ballast-%u", i);
		if (!stress_went(worker, "ballast",
				 target->ops->open(target, FOLDER_BALLAST, name, true, &file, &found)))
			continue;
		if (target->ops->read(target, &file, byte, 1, 40960) != 1 || byte[0] != 'b' || found.size != 40961)
			stress_violation(worker->stress, "%s has changed", name);
		target->ops->forget(target, &file);
		target->ops->close(target, &file);
		if (i % 16 == 0)
			stress_step(worker, "ballast");
	}
}

void *upkeep_work(void *context)
{
	struct stress_worker *worker = context;
	struct stress *stress = worker->stress;
	struct target *target = stress->target;
	uint64_t free_bytes;

	while (!stress_stopped(stress)) {
		struct timespec pause = { .tv_nsec = (long)stress_draw(worker, 3000000) };

		stress_step(worker, "upkeep");
		switch (stress_draw(worker, 10)) {
		case 0:
			stress_went(worker, "sync", target->ops->sync(target));
			break;
		case 1:
			stress_went(worker, "checkpoint", target->ops->checkpoint(target));
			break;
		case 2:
			stress_went(worker, "trim", target->ops->trim(target, 4096u << stress_draw(worker, 8)));
			break;
		case 3:
			stress_went(worker, "fsync of a folder",
				    target->ops->sync_folder(target, stress_draw(worker, TARGET_FOLDERS)));
			break;
		case 4:
			stress_went(worker, "statfs", target->ops->free_bytes(target, &free_bytes));
			break;
		case 5:
		case 6:
			look_at_ballast(worker);
			break;
		default:
			if (stress->full)
				give_and_take(worker);
		}
		nanosleep(&pause, NULL);
	}
	return NULL;
}
