// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * Getting space back: preallocations, in-core inodes kept for them, and what to do about ENOSPC.
 *
 * Concept: a preallocation is a claim that is not logged: blocks behind the last extent of a file that grows in small
 * pieces. It costs nothing after a crash, counts as free for statfs, and is dropped by age, by truncation and whenever
 * space runs out. Since in-core inodes vanish with their last reference, those with a preallocation (or a fresh
 * truncation to zero, I7) are kept by a small table of references.
 *
 * Locks: wb->lock for the table; the inode's lock for the preallocation itself. The table is emptied by trying the
 * inode locks, so it may be done from anywhere; an inode that is busy stays. Who lacks space, and so holds none of these
 * locks, waits for it.
 */
#include "file_edit.h"

#include <time.h>

#define SETTLE_NS (10ull * 1000 * 1000 * 1000)
#define NO_KEEPER ASH_WB_KEEPERS
#define BUSY_NS (100 * 1000 * 1000) /* for one file, then others have their turn */

void ash_drop_preallocation(struct ash_volume *volume, struct ash_icore *icore)
{
	if (!icore->preallocated.count)
		return;
	ash_unclaim(volume, icore->preallocated, ASH_CLAIM_AHEAD);
	icore->preallocated = (struct ash_extent){ 0 };
}

/* wb lock held: the entry of the inode, or a free one, or NULL. */
static struct ash_wb_keeper *keeper_for(struct ash_write_behind *wb, const struct ash_icore *icore)
{
	struct ash_wb_keeper *empty = NULL;

	for (unsigned i = 0; i < ASH_WB_KEEPERS; i++) {
		if (wb->keepers[i].icore == icore)
			return &wb->keepers[i];
		if (!wb->keepers[i].icore)
			empty = &wb->keepers[i];
	}
	return empty;
}

static uint64_t oldest_kept(struct ash_write_behind *wb)
{
	uint64_t oldest = UINT64_MAX;

	pthread_mutex_lock(&wb->lock);
	for (unsigned i = 0; i < ASH_WB_KEEPERS; i++)
		if (wb->keepers[i].icore && wb->keepers[i].since_ns < oldest)
			oldest = wb->keepers[i].since_ns;
	pthread_mutex_unlock(&wb->lock);
	return oldest;
}

/* False when the table is full of others. */
static bool try_keep(struct ash_volume *volume, struct ash_icore *icore)
{
	struct ash_write_behind *wb = volume->wb;

	pthread_mutex_lock(&wb->lock);
	struct ash_wb_keeper *keeper = keeper_for(wb, icore);
	bool fresh = keeper && !keeper->icore;
	if (keeper)
		*keeper = (struct ash_wb_keeper){ icore, ash_monotonic_ns() };
	pthread_mutex_unlock(&wb->lock);
	if (fresh)
		ash_edit_hold(volume, icore);
	return keeper != NULL;
}

void ash_wb_keep(struct ash_volume *volume, struct ash_icore *icore)
{
	if (try_keep(volume, icore))
		return;
	ash_wb_drop_kept(volume, oldest_kept(volume->wb));
	if (!try_keep(volume, icore))
		ash_drop_preallocation(volume, icore); /* nobody would give it back */
}

void ash_wb_unkeep(struct ash_volume *volume, struct ash_icore *icore)
{
	struct ash_write_behind *wb = volume->wb;
	bool kept = false;

	pthread_mutex_lock(&wb->lock);
	for (unsigned i = 0; i < ASH_WB_KEEPERS; i++) {
		if (wb->keepers[i].icore != icore)
			continue;
		wb->keepers[i].icore = NULL;
		kept = true;
	}
	pthread_mutex_unlock(&wb->lock);
	if (kept)
		ash_icore_put(volume, icore);
}

/* Take an entry out of the table whose inode can be locked at once. `*busy`: it cannot. */
static struct ash_icore *take_kept(struct ash_write_behind *wb, unsigned index, uint64_t before_ns, bool *busy)
{
	struct ash_wb_keeper *keeper = &wb->keepers[index];
	struct ash_icore *icore = NULL;

	pthread_mutex_lock(&wb->lock);
	if (keeper->icore && keeper->since_ns <= before_ns) {
		if (pthread_rwlock_trywrlock(&keeper->icore->lock)) {
			*busy = true;
		} else {
			icore = keeper->icore;
			keeper->icore = NULL;
		}
	}
	pthread_mutex_unlock(&wb->lock);
	return icore;
}

/* `*busy`: the first entry, in turn from `first` on, that stays because its inode is busy; NO_KEEPER: none does. */
static bool drop_kept(struct ash_volume *volume, uint64_t before_ns, unsigned first, unsigned *busy)
{
	bool came_back = false;

	*busy = NO_KEEPER;
	for (unsigned i = 0; i < ASH_WB_KEEPERS; i++) {
		unsigned index = (first + i) % ASH_WB_KEEPERS;
		bool stays = false;
		struct ash_icore *icore = take_kept(volume->wb, index, before_ns, &stays);

		if (stays && *busy == NO_KEEPER)
			*busy = index;
		if (!icore)
			continue;
		came_back |= icore->preallocated.count != 0;
		ash_drop_preallocation(volume, icore);
		ash_icore_unlock(icore);
		ash_icore_put(volume, icore);
	}
	return came_back;
}

bool ash_wb_drop_kept(struct ash_volume *volume, uint64_t before_ns)
{
	unsigned busy;

	return drop_kept(volume, before_ns, 0, &busy);
}

void ash_wb_drop_preallocations(struct ash_volume *volume)
{
	ash_wb_drop_kept(volume, UINT64_MAX);
}

/*
 * Between two looks. Nothing is held; what this thread has in flight itself it must reap itself, for others may wait for
 * it.
 */
static void settle_pause(struct ash_volume *volume)
{
	struct timespec pause = { .tv_nsec = 500000 };

	if (ash_async_reap_own(volume))
		return;
	ash_wait_begin(volume);
	nanosleep(&pause, NULL);
	ash_wait_end(volume);
}

/* The inode's lock, waited for a while. By the realtime clock, the only one that ThreadSanitizer knows here. */
static bool lock_in_time(struct ash_volume *volume, struct ash_icore *icore)
{
	const struct timespec until = ash_deadline(CLOCK_REALTIME, BUSY_NS);

	ash_wait_begin(volume);
	bool locked = !pthread_rwlock_timedwrlock(&icore->lock, &until);
	ash_wait_end(volume);
	return locked;
}

/* 0: nobody is there any more. */
static uint64_t kept_ino(struct ash_write_behind *wb, unsigned index)
{
	pthread_mutex_lock(&wb->lock);
	uint64_t ino = wb->keepers[index].icore ? wb->keepers[index].icore->ino : 0;
	pthread_mutex_unlock(&wb->lock);
	return ino;
}

/*
 * What a busy file has ahead. Its lock is waited for in the queue: of a file that several read all the time it is never
 * free when one only looks. True: blocks came back.
 */
static bool drop_busy(struct ash_volume *volume, unsigned index)
{
	uint64_t ino = kept_ino(volume->wb, index);
	struct ash_icore *icore;
	bool came_back = false;

	if (!ino || ash_async_reap_own(volume))
		return false;
	if (ash_icore_get(volume, ino, &icore)) {
		settle_pause(volume);
		return false;
	}
	if (lock_in_time(volume, icore)) {
		came_back = icore->preallocated.count != 0;
		ash_drop_preallocation(volume, icore);
		ash_wb_unkeep(volume, icore);
		ash_icore_unlock(icore);
	}
	ash_icore_put(volume, icore);
	return came_back;
}

/*
 * Give all back that growing files have ahead. Who is at such a file may keep it busy over the device, and there is
 * space: it is waited for until he pauses, or has set other blocks aside, one file after the other. Bounded, for a
 * device may hang. True: blocks came back.
 */
static bool settle_kept(struct ash_volume *volume, uint64_t end)
{
	uint64_t begin = ash_monotonic_ns();
	unsigned busy;
	bool came_back = drop_kept(volume, UINT64_MAX, 0, &busy);

	while (busy != NO_KEEPER && ash_alloc_ahead(volume) && !atomic_load(&volume->failed) &&
	       ash_monotonic_ns() <= end) {
		came_back |= drop_busy(volume, busy);
		came_back |= drop_kept(volume, begin, busy + 1, &busy);
	}
	return came_back;
}

/*
 * Wait until what was freed until now is available. The log is forced at once, but a checkpoint that runs, I/O in flight, a
 * trim and whoever else is just making it available take their time, and there is space: data that was acknowledged must not
 * be lost to their being slow. Bounded, for a device may hang. False: it was not to be had in time.
 */
static bool settle_freed(struct ash_volume *volume, uint64_t freed, uint64_t end)
{
	bool available;

	for (;;) {
		ash_wait_begin(volume); /* for who discards just now */
		available = ash_alloc_available(volume, freed);
		ash_wait_end(volume);
		if (available || atomic_load(&volume->failed) || ash_monotonic_ns() > end)
			return available;
		settle_pause(volume);
	}
}

/* True: something may have been freed. */
static bool reclaim(struct ash_volume *volume)
{
	bool withdrawn = ash_alloc_lack(volume), freed = false;
	uint64_t pending, end;

	/*
	 * The reserve is the worst case; written out, data takes what it takes. An error is one of some files: the others
	 * are written, and data that is lost takes nothing.
	 */
	if (ash_wb_reserved_blocks(volume)) {
		(void)ash_wb_flush_all(volume);
		freed = true;
	}
	end = ash_monotonic_ns() + SETTLE_NS;
	/* behind the flush, which sets blocks aside itself */
	freed |= settle_kept(volume, end);
	pending = ash_alloc_freed(volume);
	if ((!pending && !withdrawn) || ash_log_force(volume, ash_log_end(volume)))
		return freed;
	return settle_freed(volume, pending, end) || freed;
}

/* Who holds it may wait for what this thread has in flight, which nobody else reaps. */
static void reclaim_lock(struct ash_volume *volume)
{
	while (pthread_mutex_trylock(&volume->wb->reclaim_lock)) {
		if (ash_async_reap_own(volume))
			continue;
		ash_lock_long(volume, &volume->wb->reclaim_lock);
		return;
	}
}

bool ash_reclaim_space(struct ash_volume *volume)
{
	struct ash_write_behind *wb = volume->wb;
	uint64_t before = atomic_load(&wb->reclaims_begun), number;

	if (atomic_load(&volume->read_only))
		return false;
	reclaim_lock(volume);
	/* Somebody else's began, and ended, while this thread waited for it: what it freed may do. */
	bool freed = wb->reclaim_succeeded > before;
	if (!freed) {
		number = atomic_fetch_add(&wb->reclaims_begun, 1) + 1;
		freed = reclaim(volume);
		if (freed)
			wb->reclaim_succeeded = number;
	}
	pthread_mutex_unlock(&wb->reclaim_lock);
	return freed;
}
