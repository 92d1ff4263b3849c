/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * How much a test does: ASHLAR_TEST_LEVEL is quick, normal (or unset), long or deep, each at least the one before it.
 */
#ifndef TESTS_SUPPORT_LEVEL_H
#define TESTS_SUPPORT_LEVEL_H

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

static inline bool test_level_is_quick(void)
{
	const char *level = getenv("ASHLAR_TEST_LEVEL");

	return level && !strcmp(level, "quick");
}

static inline bool test_level_is_long(void)
{
	const char *level = getenv("ASHLAR_TEST_LEVEL");

	return level && (!strcmp(level, "long") || !strcmp(level, "deep"));
}

/* The programs of a sanitizer take two to three times as long: of what the plain build judges at the quick level, half. */
#if defined(__SANITIZE_ADDRESS__)
#define TEST_QUICK_PART(amount) (((amount) + 1) / 2)
#else
#define TEST_QUICK_PART(amount) (amount)
#endif

#endif
