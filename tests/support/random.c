/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Every random number is the same (link option --wrap): campaigns with a seed are then equal each time. The library has
 * its hash functions from getrandom(), and the order in which it walks a table, as that of the orphans, shows in its writes.
 */
#include <string.h>
#include <sys/random.h>

ssize_t __wrap_getrandom(void *buffer, size_t length, unsigned flags);

ssize_t __wrap_getrandom(void *buffer, size_t length, unsigned flags)
{
	(void)flags;
	memset(buffer, 0xb5, length);
	return (ssize_t)length;
}
