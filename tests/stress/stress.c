/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What all kinds of workers use, see stress.h. */
#include "stress.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#define VIOLATIONS_SHOWN 20

uint32_t stress_draw(struct stress_worker *worker, uint32_t limit)
{
	worker->random = worker->random * UINT64_C(6364136223846793005) + 1442695040888963407u;
	return (uint32_t)((worker->random >> 32) * limit >> 32);
}

uint64_t stress_now(void)
{
	struct timespec time;

	clock_gettime(CLOCK_MONOTONIC, &time);
	return (uint64_t)time.tv_sec * 1000000000u + (uint64_t)time.tv_nsec;
}

bool stress_stopped(const struct stress *stress)
{
	return LOAD(&stress->stop);
}

void stress_step(struct stress_worker *worker, const char *step)
{
	STORE(&worker->step, step);
	STORE(&worker->beats, worker->beats + 1);
	ADD(&worker->stress->operations, 1);
}

uint32_t stress_owner(struct stress_worker *worker)
{
	return (worker->number + 1) << 24 | ++worker->created;
}

void stress_violation(struct stress *stress, const char *format, ...)
{
	char text[LINEAR_TEXT + 200];
	va_list list;

	if (ADD(&stress->violations, 1) > VIOLATIONS_SHOWN)
		return;
	va_start(list, format);
	vsnprintf(text, sizeof(text), format, list);
	va_end(list);
	printf("# violation (seed %llu): ", (unsigned long long)stress->seed);
	for (const char *at = text; *at; at++)
		printf(*at == '\n' ? "\n#   " : "%c", *at);
	printf("\n");
	fflush(stdout);
}

bool stress_went(struct stress_worker *worker, const char *what, int64_t rc)
{
	if (rc >= 0)
		return true;
	if (rc == -ENOSPC && worker->stress->full)
		ADD(&worker->stress->full_answers, 1);
	else
		stress_violation(worker->stress, "%s: %s", what, strerror((int)-rc));
	return false;
}
