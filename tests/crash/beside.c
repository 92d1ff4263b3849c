/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A chore in a thread that can be stopped: see beside.h. */
#include "beside.h"
#include "script.h"

#include <ashlar/ashlar.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>
#include "fs/log.h"
#include "tests/support/record.h"

#define PATIENCE_NS 5000000

static _Thread_local struct beside *chore_here;

/* True: the thread that does the operations sleeps. One that has only lost its processor to others does not (proc(5)). */
static bool caller_sleeps(const struct beside *beside)
{
	char path[64], text[256];
	const char *state;
	ssize_t got;
	int fd;

	snprintf(path, sizeof(path), "/proc/self/task/%d/stat", (int)beside->caller);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	got = fd < 0 ? -1 : read(fd, text, sizeof(text) - 1);
	if (fd >= 0)
		close(fd);
	if (got <= 0)
		return true; /* cannot be told: as if nobody came, the chore goes on */
	text[got] = 0;
	state = strrchr(text, ')');
	return !state || strncmp(state, ") S", 3) == 0;
}

/* True: told to go on within PATIENCE_NS. The lock is given up meanwhile. */
static bool told_to_go_on(struct beside *beside)
{
	struct timespec until;

	clock_gettime(CLOCK_MONOTONIC, &until);
	until.tv_nsec += PATIENCE_NS;
	until.tv_sec += until.tv_nsec / 1000000000;
	until.tv_nsec %= 1000000000;
	while (beside->stopped && pthread_cond_timedwait(&beside->changed, &beside->lock, &until) != ETIMEDOUT)
		;
	return !beside->stopped;
}

/*
 * Twice in a row, for a caller that comes just now may sleep a moment for beside->lock. The time alone tells nothing:
 * on a busy machine an operation takes longer than any patience.
 */
static void stop_locked(struct beside *beside)
{
	beside->stopped = true;
	pthread_cond_broadcast(&beside->changed);
	for (unsigned asleep = 0; asleep < 2;) {
		if (told_to_go_on(beside))
			return;
		asleep = caller_sleeps(beside) ? asleep + 1 : 0;
	}
	beside->stopped = false;
	beside->passes = BESIDE_NEVER;
}

static void before_request(void *context, const struct bdev_request *request)
{
	struct beside *beside = chore_here;

	(void)context;
	if (!beside || (beside->at_barriers && request->op != BDEV_FLUSH && !(request->flags & BDEV_FUA)))
		return;
	pthread_mutex_lock(&beside->lock);
	if (beside->passes == 0)
		stop_locked(beside);
	else if (beside->passes != BESIDE_NEVER)
		beside->passes--;
	pthread_mutex_unlock(&beside->lock);
}

/* The inode may be gone by now, the volume full: no business of a chore. */
static void *chore_main(void *argument)
{
	struct beside *beside = argument;

	chore_here = beside;
	switch (beside->chore) {
	case CHORE_HALF:
		ash_log_checkpoint(beside->volume, false);
		break;
	case CHORE_CHECKPOINT:
		ash_log_checkpoint(beside->volume, true);
		break;
	case CHORE_WRITE_BACK:
		ash_write_back(beside->volume, beside->ino);
		break;
	case CHORE_FSYNC:
		ash_fsync(beside->volume, beside->ino, false);
		break;
	case CHORE_SYNC:
	case CHORE_KINDS:
		ash_sync(beside->volume);
		break;
	}
	pthread_mutex_lock(&beside->lock);
	beside->finished = true;
	pthread_cond_broadcast(&beside->changed);
	pthread_mutex_unlock(&beside->lock);
	return NULL;
}

void beside_begin(struct beside *beside, struct bdev *dev, uint32_t passes)
{
	pthread_condattr_t monotonic;

	beside->stopped = beside->finished = false;
	beside->caller = gettid();
	beside->passes = passes;
	pthread_mutex_init(&beside->lock, NULL);
	pthread_condattr_init(&monotonic);
	pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
	pthread_cond_init(&beside->changed, &monotonic);
	pthread_condattr_destroy(&monotonic);
	record_ask(dev, before_request, NULL);
	if (pthread_create(&beside->thread, NULL, chore_main, beside))
		abort();
}

bool beside_stopped(struct beside *beside)
{
	bool stopped;

	pthread_mutex_lock(&beside->lock);
	while (!beside->stopped && !beside->finished)
		pthread_cond_wait(&beside->changed, &beside->lock);
	stopped = beside->stopped;
	pthread_mutex_unlock(&beside->lock);
	return stopped;
}

void beside_go_on(struct beside *beside, uint32_t passes)
{
	pthread_mutex_lock(&beside->lock);
	if (beside->stopped) {
		beside->stopped = false;
		beside->passes = passes;
	}
	pthread_cond_broadcast(&beside->changed);
	pthread_mutex_unlock(&beside->lock);
}

void beside_end(struct beside *beside, struct bdev *dev)
{
	pthread_join(beside->thread, NULL);
	record_ask(dev, NULL, NULL);
	pthread_cond_destroy(&beside->changed);
	pthread_mutex_destroy(&beside->lock);
}

void do_checkpoint_beside(struct script *s, uint32_t passes, void (*operations)(struct script *s))
{
	struct beside beside = { .volume = s->runner.volume, .chore = CHORE_HALF, .at_barriers = true };

	if (s->failed)
		return;
	if (!s->recording) {
		do_checkpoint(s);
		operations(s);
		return;
	}
	beside_begin(&beside, s->dev, passes);
	while (beside_stopped(&beside)) {
		operations(s);
		beside_go_on(&beside, BESIDE_NEVER);
	}
	beside_end(&beside, s->dev);
}

/* The chore may have ended before it came so far: then it grows behind it. */
void do_grow_beside(struct script *s, enum chore chore, uint32_t passes, uint64_t blocks)
{
	struct beside beside = { .volume = s->runner.volume, .chore = chore, .at_barriers = true };
	bool grown = false;

	if (s->failed)
		return;
	if (!s->recording) {
		do_grow(s, blocks);
		return;
	}
	beside_begin(&beside, s->dev, passes);
	while (beside_stopped(&beside)) {
		do_grow(s, blocks);
		grown = true;
		beside_go_on(&beside, BESIDE_NEVER);
	}
	beside_end(&beside, s->dev);
	if (!grown)
		do_grow(s, blocks);
}
