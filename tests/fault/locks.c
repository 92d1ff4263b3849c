/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Read-write locks for a process with one thread that forks while it holds some (link option --wrap).
 *
 * glibc's know their writer by its thread number, which is another one in a forked child. Without other threads a lock is a count, and
 * waiting for one would be for ever: that, and a lock that is still held when it is destroyed, is a defect and ends the process.
 */
#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int __wrap_pthread_rwlock_init(pthread_rwlock_t *lock, const pthread_rwlockattr_t *attributes);
int __wrap_pthread_rwlock_destroy(pthread_rwlock_t *lock);
int __wrap_pthread_rwlock_rdlock(pthread_rwlock_t *lock);
int __wrap_pthread_rwlock_tryrdlock(pthread_rwlock_t *lock);
int __wrap_pthread_rwlock_wrlock(pthread_rwlock_t *lock);
int __wrap_pthread_rwlock_trywrlock(pthread_rwlock_t *lock);
int __wrap_pthread_rwlock_unlock(pthread_rwlock_t *lock);

/* In the lock's memory: readers, or -1 for a writer. */
static int *holders(pthread_rwlock_t *lock)
{
	return (int *)lock;
}

static void stop(const char *why)
{
	fprintf(stderr, "# %s\n", why);
	abort();
}

int __wrap_pthread_rwlock_init(pthread_rwlock_t *lock, const pthread_rwlockattr_t *attributes)
{
	(void)attributes;
	memset(lock, 0, sizeof(*lock));
	return 0;
}

int __wrap_pthread_rwlock_destroy(pthread_rwlock_t *lock)
{
	if (*holders(lock))
		stop("an inode's lock is destroyed while it is held");
	return 0;
}

int __wrap_pthread_rwlock_tryrdlock(pthread_rwlock_t *lock)
{
	if (*holders(lock) < 0)
		return EBUSY;
	++*holders(lock);
	return 0;
}

int __wrap_pthread_rwlock_trywrlock(pthread_rwlock_t *lock)
{
	if (*holders(lock))
		return EBUSY;
	*holders(lock) = -1;
	return 0;
}

int __wrap_pthread_rwlock_rdlock(pthread_rwlock_t *lock)
{
	if (__wrap_pthread_rwlock_tryrdlock(lock))
		stop("the only thread waits for a lock that it holds");
	return 0;
}

int __wrap_pthread_rwlock_wrlock(pthread_rwlock_t *lock)
{
	if (__wrap_pthread_rwlock_trywrlock(lock))
		stop("the only thread waits for a lock that it holds");
	return 0;
}

int __wrap_pthread_rwlock_unlock(pthread_rwlock_t *lock)
{
	if (!*holders(lock))
		stop("a lock is released that nobody holds");
	*holders(lock) += *holders(lock) < 0 ? 1 : -1;
	return 0;
}
