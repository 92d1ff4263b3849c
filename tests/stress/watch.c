/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The hang detector: a thread that looks at all workers once a second. When one stands still too long, each worker
 * prints its own stack (a signal; a lock that it waits for does not keep it), the kernel's view of each thread is shown,
 * and the process ends.
 */
#include "stress.h"

#include <dirent.h>
#include <execinfo.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static struct {
	struct stress_worker *workers;
	unsigned count, seconds;
	unsigned stop; /* atomic */
	pthread_t thread;
} watch;

static void print_stack(int signal)
{
	void *frames[40];
	int count = backtrace(frames, 40);

	(void)signal;
	backtrace_symbols_fd(frames, count, STDOUT_FILENO);
}

static void print_file(const char *thread, const char *file)
{
	char path[300], text[1000];
	ssize_t got;
	int fd;

	snprintf(path, sizeof(path), "/proc/self/task/%s/%s", thread, file);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	got = fd < 0 ? -1 : read(fd, text, sizeof(text) - 1);
	if (fd >= 0)
		close(fd);
	if (got <= 0)
		return;
	text[got] = 0;
	printf("# thread %s, %s: %s\n", thread, file, text);
}

static void print_threads(void)
{
	DIR *tasks = opendir("/proc/self/task");
	struct dirent *entry;

	while (tasks && (entry = readdir(tasks))) {
		if (entry->d_name[0] == '.')
			continue;
		print_file(entry->d_name, "comm");
		print_file(entry->d_name, "wchan");
		print_file(entry->d_name, "stack");
	}
	if (tasks)
		closedir(tasks);
}

static void hang(const struct stress_worker *late)
{
	printf("# hang: %s worker %u stands still for %u s in %s\n", late->kind, late->number, watch.seconds,
	       LOAD(&late->step));
	for (unsigned i = 0; i < watch.count; i++) {
		if (!LOAD(&watch.workers[i].running))
			continue;
		printf("# %s worker %u (%s):\n", watch.workers[i].kind, i, LOAD(&watch.workers[i].step));
		fflush(stdout);
		pthread_kill(watch.workers[i].thread, SIGUSR1);
		sleep(1);
	}
	print_threads();
	printf("Bail out! a hang\n");
	fflush(stdout);
	_exit(3);
}

static void *look(void *context)
{
	uint64_t seen[STRESS_THREADS + 1] = { 0 };
	unsigned still[STRESS_THREADS + 1] = { 0 };

	(void)context;
	for (unsigned tick = 1; !LOAD(&watch.stop); tick++) {
		usleep(50000);
		if (tick % 20)
			continue;
		for (unsigned i = 0; i < watch.count; i++) {
			uint64_t beats = LOAD(&watch.workers[i].beats);

			still[i] = beats == seen[i] && LOAD(&watch.workers[i].running) ? still[i] + 1 : 0;
			seen[i] = beats;
			if (still[i] >= watch.seconds)
				hang(&watch.workers[i]);
		}
	}
	return NULL;
}

void watch_start(struct stress_worker *workers, unsigned count, unsigned seconds)
{
	struct sigaction action = { .sa_handler = print_stack, .sa_flags = SA_RESTART };
	void *frames[4];

	backtrace(frames, 4); /* loads what it needs now, not in the handler */
	sigaction(SIGUSR1, &action, NULL);
	watch.workers = workers;
	watch.count = count;
	watch.seconds = seconds;
	STORE(&watch.stop, 0u);
	if (pthread_create(&watch.thread, NULL, look, NULL))
		abort();
}

void watch_stop(void)
{
	STORE(&watch.stop, 1u);
	pthread_join(watch.thread, NULL);
}
