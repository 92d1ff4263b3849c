/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Chores beside the operations of a workload: what the volume's own worker, or another caller, does meanwhile.
 *
 * Concept: a second thread does the chore and stops before its n-th change or flush of the device; the script does some
 * operations; the chore goes on, to its next stop or its end. So every order of the two at the device can be had, and
 * the same one again. Where an operation sleeps for what the chore holds (a lock, the lead of a log write) the chore goes
 * on without being told.
 *
 * A chore claims nothing: it is in no history. What it makes durable may be there, as after any write-back.
 */
#ifndef TESTS_CRASH_BESIDE_H
#define TESTS_CRASH_BESIDE_H

#include <ashlar/blockdev.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#define BESIDE_NEVER UINT32_MAX

enum chore { CHORE_HALF, CHORE_CHECKPOINT, CHORE_WRITE_BACK, CHORE_FSYNC, CHORE_SYNC, CHORE_KINDS };

struct beside {
	struct ash_volume *volume;
	enum chore chore;
	uint64_t ino;     /* of the file that is written back */
	bool at_barriers; /* stops before flushes and FUA writes only */
	pid_t caller;     /* the thread that does the operations */
	pthread_t thread;
	pthread_mutex_t lock; /* of what follows */
	pthread_cond_t changed;
	uint32_t passes; /* requests until the next stop; BESIDE_NEVER: no more */
	bool stopped, finished;
};

/*
 * `dev`: the record layer that the volume lies on. `beside` has the volume and what is wanted; the chore stops before its
 * request number `passes` from 0 on.
 */
void beside_begin(struct beside *beside, struct bdev *dev, uint32_t passes);
/* True: the chore has stopped. False: it has ended, and beside_end() is due. */
bool beside_stopped(struct beside *beside);
void beside_go_on(struct beside *beside, uint32_t passes);
void beside_end(struct beside *beside, struct bdev *dev);

#endif
