/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Lines for people: to stderr, or to syslog once the daemon is in the background.
 *
 * Whoever reads them may be behind, and may be waiting for us: his log, or his program, may lie on this mount.
 * syslog(3) and a pipe wait for him then. No worker, and nobody who holds a lock of the core, may do that, for his own
 * request would never be answered. So while requests are served, lines go into a ring, from which a thread passes them
 * on that nobody waits for. Lines for which there is no room are counted, and the number is told. What stderr takes at
 * once it gets at once.
 *
 * Before that thread is there, or when it cannot be had, lines are passed on directly.
 *
 * Locking: `lock` protects the ring and is held over no call that waits.
 */
#include "fuse_front.h"
#include "mkfs/standard.h"

#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <syslog.h>
#include <time.h>
#include <unistd.h>

#define LAST_LINES_NS 5000000000u /* at the end: a reader that is stuck is not waited for any longer */

/*
 * One write for one line, whatever other threads print. No stream: exit(3) writes out what is in any of them, that of
 * dprintf(3) too, and would wait for a reader that we do not wait for any more.
 */
static void write_line(const char *text)
{
	char line[FRONT_LINE + 16];
	int length = snprintf(line, sizeof(line), "ashlarfs: %s\n", text);

	for (ssize_t done = 0, more; done < length; done += more) {
		more = write(STDERR_FILENO, line + done, (size_t)(length - done));
		if (more <= 0)
			return; /* there is nobody to tell */
	}
}

static void pass_on(bool background, enum ash_log_level level, const char *text)
{
	static const int priorities[] = { LOG_ERR, LOG_WARNING, LOG_NOTICE };

	if (background)
		syslog(priorities[level], "%s", text);
	else
		write_line(text);
}

/* The next one, or how many there was no room for. False: there is nothing, and will be nothing. */
static bool take(struct front_log *log, struct front_line *line)
{
	pthread_mutex_lock(&log->lock);
	log->passing = false;
	while (!log->count && !log->lost && !log->stopping)
		pthread_cond_wait(&log->changed, &log->lock);
	log->passing = log->count || log->lost;
	if (log->count) {
		*line = log->lines[log->head];
		log->head = (log->head + 1) % LOG_LINES;
		log->count--;
	} else if (log->lost) {
		line->level = ASH_LOG_WARNING;
		snprintf(line->text, sizeof(line->text), "%u more lines, which nobody had time to read", log->lost);
		log->lost = 0;
	}
	bool found = log->passing;
	pthread_mutex_unlock(&log->lock);
	return found;
}

static void *log_main(void *argument)
{
	struct front *front = argument;
	struct front_log *log = &front->log;
	struct front_line line;

	prctl(PR_SET_NAME, "ashlarfs-log");
	while (take(log, &line))
		pass_on(atomic_load(&front->background), line.level, line.text);
	pthread_mutex_lock(&log->lock);
	log->ended = true;
	pthread_cond_broadcast(&log->changed);
	pthread_mutex_unlock(&log->lock);
	return NULL;
}

/* A pipe or socket that polls writable has room for a line; a terminal may have it for one byte. */
static bool stderr_takes_a_line(void)
{
	struct pollfd poll_stderr = { .fd = STDERR_FILENO, .events = POLLOUT };

	return !isatty(STDERR_FILENO) && poll(&poll_stderr, 1, 0) == 1;
}

/* Lock held. */
static void add(struct front_log *log, enum ash_log_level level, const char *text)
{
	if (log->count == LOG_LINES || log->lost) {
		log->lost++;
		return;
	}
	struct front_line *line = &log->lines[(log->head + log->count++) % LOG_LINES];
	line->level = level;
	memcpy(line->text, text, strlen(text) + 1);
	pthread_cond_broadcast(&log->changed);
}

void front_log(struct front *front, enum ash_log_level level, const char *format, ...)
{
	const bool background = atomic_load(&front->background);
	struct front_log *log = &front->log;
	va_list arguments;
	char text[FRONT_LINE];

	if (level == ASH_LOG_NOTICE && !background && !front->options.foreground)
		return;
	va_start(arguments, format);
	vsnprintf(text, sizeof(text), format, arguments);
	va_end(arguments);
	standard_clean(text);
	pthread_mutex_lock(&log->lock);
	bool started = log->started;
	/* Not in front of others. */
	bool at_once = started && !log->count && !log->lost && !log->passing && !background && stderr_takes_a_line();
	if (at_once)
		pass_on(background, level, text);
	else if (started)
		add(log, level, text);
	pthread_mutex_unlock(&log->lock);
	if (!started)
		pass_on(background, level, text);
}

void log_start(struct front *front)
{
	struct front_log *log = &front->log;

	pthread_mutex_lock(&log->lock);
	log->lines = malloc(LOG_LINES * sizeof(*log->lines));
	log->started = log->lines && pthread_create(&log->thread, NULL, log_main, front) == 0;
	pthread_mutex_unlock(&log->lock);
}

bool log_stop(struct front *front)
{
	const uint64_t end = front_now_ns() + LAST_LINES_NS;
	const struct timespec until = { .tv_sec = (time_t)(end / 1000000000u), .tv_nsec = (long)(end % 1000000000u) };
	struct front_log *log = &front->log;
	int rc = 0;

	pthread_mutex_lock(&log->lock);
	const bool started = log->started;
	log->started = false;
	log->stopping = true;
	pthread_cond_broadcast(&log->changed);
	while (started && !log->ended && rc == 0)
		rc = pthread_cond_clockwait(&log->changed, &log->lock, CLOCK_MONOTONIC, &until);
	pthread_mutex_unlock(&log->lock);
	if (rc)
		return false;
	if (started)
		pthread_join(log->thread, NULL);
	free(log->lines);
	log->lines = NULL;
	return true;
}
