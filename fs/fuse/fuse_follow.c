/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Keeping the leader on its caller's core.
 *
 * A request and its reply are two wake-ups. When leader and caller share a core they cost 4 us together, and 50 to
 * 75 us when each one has to wake an idle core; the scheduler, left alone, keeps the two apart for ever, because
 * each finds the core it last ran on idle. So the leader looks now and then where its caller runs (the `processor'
 * field of /proc/PID/stat, PID being in the request) and binds itself to that core.
 *
 * Bulk work is the opposite case: large data, write-back by the kernel's flusher (no PID) and requests in flight are
 * copied by one core while another one works, and wake-ups are few. After BULK_RUN such requests in a row the leader is
 * released, and the scheduler spreads the load.
 *
 * A move alone does not last: as long as both cores are mostly idle, the scheduler wakes the caller on the other
 * one, which is idle since we left it. It lasts once the leader has been busy for a while (its share of the load
 * decides), so before a move the leader warms up: it polls for requests instead of sleeping, for 200 us, up to 1 ms
 * when that was not enough. Measured on two cores: without it a chase at 75 us for a request, with it 4 us after
 * one move.
 *
 * Moving costs ten to twenty microseconds. Two callers on two cores must not make the leader run to and fro: looks are
 * SAMPLE_NS apart, and moves back off up to MOVE_NS_MAX while they do not last.
 *
 * The leader itself must not look: /proc of a process that is in the middle of execve(2) is locked, and execve closes
 * files, which sends us what they have dirty and waits for the reply. So a thread that no request depends on, the lookout,
 * looks on demand, and the leader finds what it saw at the next occasion.
 *
 * The state belongs to the leader, but for the pair (ask, seen), which is atomic. No locks.
 */
#include "fuse_front.h"

#include <fcntl.h>
#include <linux/futex.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#define SAMPLE_NS 200000u       /* between two looks */
#define SAME_CALLER_NS 1000000u /* between two looks at one caller */
#define MOVE_NS_MIN 200000u     /* between two moves, at first */
#define MOVE_NS_MAX 20000000u
#define WARM_NS_MAX 1000000u
#define BULK_RUN 4u
#define CALM_RUN 32u
#define BULK_SIZE (64u * 1024u)
#define PROCESSOR_FIELD 39 /* of /proc/PID/stat, proc(5) */

/* Last core of a thread, or -1. */
static int thread_processor(uint32_t thread)
{
	char path[32], text[1024];

	snprintf(path, sizeof(path), "/proc/%u/stat", thread);
	int descriptor = open(path, O_RDONLY | O_CLOEXEC);
	if (descriptor < 0)
		return -1;
	ssize_t length = read(descriptor, text, sizeof(text) - 1);
	close(descriptor);
	if (length <= 0)
		return -1;
	text[length] = '\0';
	const char *at = strrchr(text, ')'); /* field 2, a name with anything in it */
	for (int field = 2; at && field < PROCESSOR_FIELD; field++)
		at = strchr(at + 1, ' ');
	int processor;
	return at && sscanf(at, "%d", &processor) == 1 ? processor : -1;
}

/* ---- The lookout ---- */

#define ASK_NOTHING 0u
#define ASK_END UINT32_MAX /* no thread has this number */

static void *lookout_main(void *argument)
{
	struct follow *follow = argument;
	uint32_t thread;

	prctl(PR_SET_NAME, "ashlarfs-look");
	while ((thread = atomic_exchange(&follow->ask, ASK_NOTHING)) != ASK_END) {
		if (thread == ASK_NOTHING) {
			syscall(SYS_futex, &follow->ask, FUTEX_WAIT_PRIVATE, ASK_NOTHING, NULL, NULL, 0);
			continue;
		}
		int processor = thread_processor(thread);
		if (processor >= 0)
			atomic_store(&follow->seen, (uint64_t)thread << 32 | ((uint32_t)processor + 1));
	}
	return NULL;
}

static void lookout_ask(struct follow *follow, uint32_t thread)
{
	atomic_store(&follow->ask, thread);
	syscall(SYS_futex, &follow->ask, FUTEX_WAKE_PRIVATE, 1, NULL, NULL, 0);
}

void follow_start(struct follow *follow)
{
	*follow = (struct follow){ .bound = -1, .move_ns = MOVE_NS_MIN };
	follow->enabled = sched_getaffinity(0, sizeof(follow->allowed), &follow->allowed) == 0 &&
			  CPU_COUNT(&follow->allowed) > 1 &&
			  pthread_create(&follow->lookout, NULL, lookout_main, follow) == 0;
}

void follow_stop(struct follow *follow)
{
	if (!follow->enabled)
		return;
	follow->enabled = false;
	lookout_ask(follow, ASK_END);
	pthread_join(follow->lookout, NULL);
}

/* ---- The leader ---- */

void follow_release(struct follow *follow)
{
	if (follow->enabled)
		sched_setaffinity(0, sizeof(follow->allowed), &follow->allowed);
	follow->bound = -1;
	follow->warm_until = 0;
}

/* The caller is on another core: warm up, unless the last move was a moment ago. */
static void warm_start(struct follow *follow, int processor, uint64_t now)
{
	if (!CPU_ISSET(processor, &follow->allowed) || (follow->bound >= 0 && now - follow->moved < follow->move_ns))
		return;
	/* When the last move did not last: longer this time, and less often. */
	if (follow->bound >= 0)
		follow->move_ns = now - follow->moved < MOVE_NS_MAX ? follow->move_ns * 2 : MOVE_NS_MIN;
	if (follow->move_ns > MOVE_NS_MAX)
		follow->move_ns = MOVE_NS_MAX;
	follow->target = processor;
	follow->warm_until = now + (follow->move_ns < WARM_NS_MAX ? follow->move_ns : WARM_NS_MAX);
}

static void move(struct follow *follow, uint64_t now)
{
	cpu_set_t set;

	CPU_ZERO(&set);
	CPU_SET(follow->target, &set);
	if (sched_setaffinity(0, sizeof(set), &set) == 0) {
		follow->bound = follow->target;
		follow->moved = now;
	}
}

bool follow_warming(struct follow *follow)
{
	if (!follow->warm_until)
		return false;
	uint64_t now = front_now_ns();
	if (now < follow->warm_until)
		return true;
	follow->warm_until = 0;
	move(follow, now);
	return false;
}

struct follow_hint follow_look(const struct request *request, bool busy)
{
	const struct fuse_read_in *read = (const void *)(request->in + 1);
	struct follow_hint hint = { .caller = request->in->pid };

	hint.crowd = busy || request->length > BULK_SIZE ||
		     (request->in->opcode == FUSE_READ && request->length >= sizeof(*request->in) + sizeof(*read) &&
		      read->size >= BULK_SIZE);
	hint.bulk = hint.crowd || hint.caller == 0;
	return hint;
}

/* Has the lookout seen somebody? Its core, or -1. */
static int lookout_saw(struct follow *follow, uint32_t thread)
{
	uint64_t seen = atomic_exchange(&follow->seen, 0);

	return seen >> 32 == thread ? (int)(uint32_t)seen - 1 : -1;
}

void follow_caller(struct follow *follow, struct follow_hint hint)
{
	if (!follow->enabled || follow->warm_until)
		return;
	if (hint.bulk) {
		if (++follow->bulk_run < BULK_RUN)
			return;
		follow->calm = CALM_RUN;
		if (follow->bound >= 0)
			follow_release(follow);
		return;
	}
	follow->bulk_run = 0;
	if (follow->calm) {
		follow->calm--;
		return;
	}
	if (atomic_load_explicit(&follow->seen, memory_order_relaxed)) {
		int processor = lookout_saw(follow, hint.caller);

		if (processor >= 0 && processor != follow->bound)
			warm_start(follow, processor, front_now_ns());
	}
	bool same = hint.caller == follow->caller && follow->bound >= 0;
	/* One caller after the same: look at the clock only now and then. */
	if (same && ++follow->skipped % 16)
		return;
	uint64_t now = front_now_ns();
	if (now - follow->sampled < (same ? SAME_CALLER_NS : SAMPLE_NS))
		return;
	follow->sampled = now;
	follow->caller = hint.caller;
	if (atomic_load_explicit(&follow->ask, memory_order_relaxed) == ASK_NOTHING)
		lookout_ask(follow, hint.caller);
}
