/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A mutex of four bytes for sections of a few dozen instructions: the three-state futex lock of U. Drepper,
 * "Futexes Are Tricky" (2011), section 5. One inlined atomic operation each way when nobody else is there, against two
 * calls of about 25 instructions for a pthread mutex; a cached lookup takes nine of them. Zero is unlocked.
 * No condition variables, no recursion.
 */
#ifndef FS_LOCK_H
#define FS_LOCK_H

#include <linux/futex.h>
#include <stdatomic.h>
#include <stdint.h>
#include <sys/syscall.h>
#include <unistd.h>

struct ash_lock {
	_Atomic uint32_t state; /* 0 free, 1 taken, 2 taken and somebody may sleep */
};

static inline void ash_lock_wait(struct ash_lock *lock)
{
	while (atomic_exchange_explicit(&lock->state, 2, memory_order_acquire) != 0)
		syscall(SYS_futex, &lock->state, FUTEX_WAIT_PRIVATE, 2, NULL, NULL, 0);
}

static inline void ash_lock(struct ash_lock *lock)
{
	uint32_t free_state = 0;

	if (!atomic_compare_exchange_strong_explicit(&lock->state, &free_state, 1, memory_order_acquire,
						     memory_order_relaxed))
		ash_lock_wait(lock);
}

static inline void ash_unlock(struct ash_lock *lock)
{
	if (atomic_exchange_explicit(&lock->state, 0, memory_order_release) == 2)
		syscall(SYS_futex, &lock->state, FUTEX_WAKE_PRIVATE, 1, NULL, NULL, 0);
}

#endif
