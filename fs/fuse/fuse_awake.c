/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Keeping the cores of a small virtual machine awake while requests come one after the other.
 *
 * A guest's idle core halts, and waking it costs an exit to the hypervisor each way: 30 to 75 us measured for a wake-up
 * that takes 3 us on one core. The scheduler makes it the rule: when the daemon replies, it wakes the caller on the
 * core that looks idle, away from the daemon, and the next request has to cross again. With no idle core in sight it
 * leaves both where they are. Linux has a cure of its own, the haltpoll governor, but it is seldom at work. Measured
 * on two cores: create, write and close of a small file 410 us without, 45 us with this.
 *
 * So, while requests follow each other within SPAN_NS, one thread a core spins at the lowest priority (nice 19: anybody
 * else who wants the core has it at once); HOT_NS after the last request they sleep, and an idle mount costs nothing.
 * The leader's own core needs no spinner. Requests that are in flight together, and large ones, have work for more than
 * one core, which the scheduler must be free to give out: for them nothing spins. (Reads of 4 KiB at depth 16: 65 000 a
 * second with spinners, 105 000 without.)
 *
 * Only in virtual machines, only with 2 to MAX_CORES cores: on more, or on metal, the cure would cost more than the ill.
 *
 * Locks: none. `last`, `hot`, `core`, `stopping` are atomic; the streak belongs to the leader. `hot` is the futex.
 */
#include "fuse_front.h"

#include <limits.h>
#include <linux/futex.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define SPAN_NS 300000u
#define HOT_NS 500000u
#define TELL_NS 50000u /* between two stores that take the cache line away from the spinners */
#define UNSEEN_MAX 3u  /* requests after one look at the clock, when the gap before it was under TELL_NS */
#define PAUSES 64
#define STREAK 16u
/* A streak a moment ago: fewer requests are enough, for a caller that waited for a disk goes on. */
#define STREAK_BUSY 2u
#define BUSY_NS 100000000u
#define GAP_NS 500000u    /* away from the core for so long: somebody has work for it */
#define RIVAL_NS 2000000l /* for whom the core is left alone, at first; each time twice as long */
#define RIVAL_NS_MAX 64000000l
#define CALM_NS 100000000u       /* without such a one: as at first */
#define OWN_CORE_NS 200000l      /* first nap on the leader's own core; the next ones are longer, */
#define OWN_CORE_NS_MAX 3200000l /* since each costs the leader two switches */

/* One line of a file of sysfs, empty when there is none. */
static void read_line(const char *path, char line[64])
{
	FILE *file = fopen(path, "re");

	line[0] = '\0';
	if (!file)
		return;
	if (fgets(line, 64, file))
		line[strcspn(line, "\n")] = '\0';
	fclose(file);
}

/* Its parameter has a value also where the governor has no driver to work with, as is usual: then it does nothing. */
static bool haltpoll_works(void)
{
	char governor[64], driver[64], poll_ns[64];

	read_line("/sys/devices/system/cpu/cpuidle/current_governor_ro", governor);
	read_line("/sys/devices/system/cpu/cpuidle/current_driver", driver);
	read_line("/sys/module/haltpoll/parameters/guest_halt_poll_ns", poll_ns);
	return !strcmp(governor, "haltpoll") && driver[0] && strcmp(driver, "none") != 0 &&
	       strtoul(poll_ns, NULL, 10) > 0;
}

/* Does this machine halt its cores under a hypervisor, without polling first? */
static bool waking_is_expensive(void)
{
	char line[4096];
	bool guest = false;
	FILE *file = haltpoll_works() ? NULL : fopen("/proc/cpuinfo", "re");

	if (!file)
		return false;
	while (!guest && fgets(line, sizeof(line), file))
		guest = !strncmp(line, "flags", 5) && strstr(line, " hypervisor");
	fclose(file);
	return guest;
}

/* The sibling of a core that shares its units has them for itself. */
static void pause_core(void)
{
#if defined(__x86_64__) || defined(__i386__)
	__builtin_ia32_pause();
#else
	__asm__ volatile("" ::: "memory");
#endif
}

/* Who else wants this core? */
struct rival {
	uint64_t seen;  /* ns, of the last look at the clock */
	uint64_t since; /* ns, when the last nap for somebody's sake ended */
	long switches;  /* how often the kernel had taken the core away then */
	long nap_ns;
};

static long switches_forced(void)
{
	struct rusage usage;

	return getrusage(RUSAGE_THREAD, &usage) ? 0 : usage.ru_nivcsw;
}

static void nap(long ns)
{
	nanosleep(&(struct timespec){ .tv_nsec = ns }, NULL);
}

/*
 * Nice 19 counts within a session only where the kernel groups processes by session (autogroup): against a busy process of
 * another one the spinner would get half of the core. Somebody who had the core for long keeps it awake himself.
 */
static void give_way(struct rival *rival, uint64_t now)
{
	if (now - rival->seen > GAP_NS && switches_forced() != rival->switches) {
		rival->nap_ns = now - rival->since > CALM_NS ? RIVAL_NS : rival->nap_ns * 2;
		if (rival->nap_ns > RIVAL_NS_MAX)
			rival->nap_ns = RIVAL_NS_MAX;
		nap(rival->nap_ns);
		now = front_now_ns();
		rival->since = now;
		rival->switches = switches_forced();
	}
	rival->seen = now;
}

static void spin(struct awake *awake, int core)
{
	uint64_t now = front_now_ns();
	struct rival rival = { .seen = now, .since = now, .switches = switches_forced(), .nap_ns = RIVAL_NS };
	long own_core_ns = OWN_CORE_NS;

	for (; !atomic_load(&awake->stopping); now = front_now_ns()) {
		if (now > atomic_load_explicit(&awake->last, memory_order_relaxed) + HOT_NS)
			return;
		if (atomic_load_explicit(&awake->core, memory_order_relaxed) == core) {
			nap(own_core_ns);
			own_core_ns = own_core_ns < OWN_CORE_NS_MAX ? own_core_ns * 2 : OWN_CORE_NS_MAX;
			rival.seen = front_now_ns();
			continue;
		}
		own_core_ns = OWN_CORE_NS;
		give_way(&rival, now);
		for (int i = 0; i < PAUSES; i++)
			pause_core();
	}
}

static void *awake_main(void *argument)
{
	struct awake_thread *thread = argument;
	struct awake *awake = thread->awake;
	cpu_set_t set;

	prctl(PR_SET_NAME, "ashlarfs-awake");
	CPU_ZERO(&set);
	CPU_SET((size_t)thread->core, &set);
	if (sched_setaffinity(0, sizeof(set), &set) || setpriority(PRIO_PROCESS, (id_t)syscall(SYS_gettid), 19))
		return NULL; /* never spin where, or as, it was not meant to */
	while (!atomic_load(&awake->stopping)) {
		uint32_t hot = AWAKE_HOT;

		if (atomic_load(&awake->hot) == AWAKE_COLD)
			syscall(SYS_futex, &awake->hot, FUTEX_WAIT_PRIVATE, AWAKE_COLD, NULL, NULL, 0);
		spin(awake, thread->core);
		atomic_compare_exchange_strong(&awake->hot, &hot, AWAKE_COLD);
	}
	return NULL;
}

void awake_start(struct front *front)
{
	struct awake *awake = &front->awake;
	cpu_set_t allowed;

	if (sched_getaffinity(0, sizeof(allowed), &allowed) || CPU_COUNT(&allowed) < 2 ||
	    CPU_COUNT(&allowed) > (int)AWAKE_MAX_CORES || !waking_is_expensive())
		return;
	for (int core = 0; core < CPU_SETSIZE && awake->count < AWAKE_MAX_CORES; core++) {
		struct awake_thread *thread = &awake->threads[awake->count];

		if (!CPU_ISSET((size_t)core, &allowed))
			continue;
		*thread = (struct awake_thread){ .awake = awake, .core = core };
		if (pthread_create(&thread->thread, NULL, awake_main, thread))
			break; /* a wish */
		awake->count++;
	}
}

void awake_request(struct awake *awake, bool crowd)
{
	uint32_t cold = AWAKE_COLD;
	uint64_t now;

	if (!awake->count)
		return;
	if (crowd) { /* a core that looks idle is wanted now */
		awake->streak = awake->unseen = 0;
		return;
	}
	if (awake->unseen) { /* requests so close together need no look at the clock each */
		awake->unseen--;
		return;
	}
	now = front_now_ns();
	awake->streak = now - awake->recent < SPAN_NS ? awake->streak + 1 : 0;
	if (awake->streak >= STREAK && now - awake->recent < TELL_NS)
		awake->unseen = UNSEEN_MAX;
	awake->recent = now;
	if (now - atomic_load_explicit(&awake->last, memory_order_relaxed) > TELL_NS) {
		atomic_store_explicit(&awake->last, now, memory_order_relaxed);
		atomic_store_explicit(&awake->core, sched_getcpu(), memory_order_relaxed);
	}
	if (awake->streak >= STREAK)
		awake->busy_until = now + BUSY_NS;
	if (awake->streak < (now < awake->busy_until ? STREAK_BUSY : STREAK) ||
	    atomic_load_explicit(&awake->hot, memory_order_relaxed) != AWAKE_COLD)
		return;
	atomic_compare_exchange_strong(&awake->hot, &cold, AWAKE_HOT);
	syscall(SYS_futex, &awake->hot, FUTEX_WAKE_PRIVATE, INT_MAX, NULL, NULL, 0);
}

void awake_stop(struct front *front)
{
	struct awake *awake = &front->awake;

	atomic_store(&awake->stopping, true);
	atomic_store(&awake->hot, AWAKE_END);
	syscall(SYS_futex, &awake->hot, FUTEX_WAKE_PRIVATE, INT_MAX, NULL, NULL, 0);
	for (unsigned i = 0; i < awake->count; i++)
		pthread_join(awake->threads[i].thread, NULL);
	awake->count = 0;
}
