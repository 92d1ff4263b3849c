/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Lines for people, whose reader waits for us: its log lies on the mount. */
#include "fs/fuse/fuse_front.h"
#include "mkfs/standard.h"

#include <criterion/criterion.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <syslog.h>
#include <time.h>
#include <unistd.h>

#define LINES 1000u

/* ---- syslog, and the rest of the front end ---- */

static pthread_mutex_t reader_lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t reader_changed = PTHREAD_COND_INITIALIZER;
static bool stuck;
static unsigned lines, in_order, told_lost;
static _Atomic unsigned calls;

void syslog(int priority, const char *format, ...)
{
	va_list arguments;
	char text[FRONT_LINE];
	unsigned lost;

	(void)priority;
	va_start(arguments, format);
	vsnprintf(text, sizeof(text), format, arguments);
	va_end(arguments);
	atomic_fetch_add(&calls, 1);
	pthread_mutex_lock(&reader_lock);
	while (stuck)
		pthread_cond_wait(&reader_changed, &reader_lock);
	if (sscanf(text, "%u more lines", &lost) == 1)
		told_lost += lost;
	else if ((unsigned)atoi(text + strlen("line ")) == lines++)
		in_order++;
	pthread_mutex_unlock(&reader_lock);
}

void standard_clean(char *text)
{
	(void)text;
}

uint64_t front_now_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

static void reader_goes_on(void)
{
	pthread_mutex_lock(&reader_lock);
	stuck = false;
	pthread_cond_broadcast(&reader_changed);
	pthread_mutex_unlock(&reader_lock);
}

/* ---- Tests ---- */

static struct front *front_open(bool background)
{
	struct front *front = aligned_alloc(_Alignof(struct front), sizeof(*front));

	cr_assert_not_null(front);
	memset(front, 0, sizeof(*front));
	pthread_mutex_init(&front->log.lock, NULL);
	pthread_cond_init(&front->log.changed, NULL);
	front->options.foreground = !background;
	atomic_store(&front->background, background);
	log_start(front);
	return front;
}

/* The reader goes on when the request of its own is answered, which is when all has been said. */
Test(log, nobody_waits_for_a_reader_who_waits_for_us, .timeout = 20)
{
	struct front *front = front_open(true);

	stuck = true;
	for (unsigned i = 0; i < LINES; i++)
		front_log(front, ASH_LOG_ERROR, "line %u", i);
	reader_goes_on();
	cr_expect(log_stop(front));
	cr_expect_geq(lines, LOG_LINES);
	cr_expect_eq(in_order, lines);
	cr_expect_eq(lines + told_lost, LINES, "%u lines, %u lost", lines, told_lost);
	free(front);
}

/* The same with stderr, of `ashlarfs -f`: a pipe that is full. */
Test(log, nobody_waits_for_the_reader_of_a_pipe, .timeout = 20)
{
	struct front *front = front_open(false);
	unsigned number, told = 0, lost = 0;
	char line[2 * FRONT_LINE];
	int ends[2];

	cr_assert_eq(pipe(ends), 0);
	const int before = dup(STDERR_FILENO);
	dup2(ends[1], STDERR_FILENO);
	close(ends[1]);
	front_log(front, ASH_LOG_NOTICE, "line 0");
	cr_assert_gt(read(ends[0], line, sizeof(line)), 0, "told at once");
	for (unsigned i = 0; i < LINES; i++)
		front_log(front, ASH_LOG_ERROR, "line %u %*s", i, 500, "");
	FILE *reader = fdopen(ends[0], "r");
	while (lost == 0 && fgets(line, sizeof(line), reader))
		if (sscanf(line, "ashlarfs: line %u", &number) == 1)
			cr_expect_eq(number, told++);
		else
			cr_expect_eq(sscanf(line, "ashlarfs: %u more lines", &lost), 1);
	cr_expect(log_stop(front));
	dup2(before, STDERR_FILENO);
	cr_expect_gt(told, LOG_LINES);
	cr_expect_eq(told + lost, LINES);
	fclose(reader);
	free(front);
}

/* And a terminal, which polls writable when it has room for a part of a line. */
Test(log, nobody_waits_for_the_reader_of_a_terminal, .timeout = 20)
{
	const int reader = posix_openpt(O_RDWR | O_NOCTTY);
	char text[2 * FRONT_LINE];

	cr_assert_geq(reader, 0);
	cr_assert_eq(grantpt(reader) | unlockpt(reader), 0);
	const int terminal = open(ptsname(reader), O_RDWR | O_NOCTTY);
	cr_assert_geq(terminal, 0);
	const int before = dup(STDERR_FILENO);
	dup2(terminal, STDERR_FILENO);
	struct front *front = front_open(false);
	for (unsigned i = 0; i < LINES; i++)
		front_log(front, ASH_LOG_ERROR, "line %u %*s", i, 500, "");
	fcntl(reader, F_SETFL, O_NONBLOCK);
	bool ended = false;
	while (!ended) {
		while (read(reader, text, sizeof(text)) > 0)
			;
		pthread_mutex_lock(&front->log.lock);
		ended = !front->log.count && !front->log.lost && !front->log.passing;
		pthread_mutex_unlock(&front->log.lock);
		usleep(1000);
	}
	cr_expect(log_stop(front));
	dup2(before, STDERR_FILENO);
	close(terminal);
	close(reader);
	free(front);
}

/* A reader that keeps up is told all. */
Test(log, nothing_is_lost, .timeout = 20)
{
	struct front *front = front_open(true);

	for (unsigned i = 0; i < LINES; i++) {
		front_log(front, ASH_LOG_ERROR, "line %u", i);
		while (atomic_load(&calls) <= i)
			usleep(100);
	}
	cr_expect(log_stop(front));
	cr_expect_eq(in_order, LINES);
	cr_expect_eq(told_lost, 0);
	free(front);
}

/* The program ends all the same. */
Test(log, the_end_does_not_wait_for_ever, .timeout = 60)
{
	struct front *front = front_open(true);

	stuck = true;
	front_log(front, ASH_LOG_ERROR, "line 0");
	cr_expect_not(log_stop(front));
	reader_goes_on();
	pthread_join(front->log.thread, NULL);
	free(front->log.lines);
	free(front);
}
