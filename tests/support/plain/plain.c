/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Runs the tests of a program that was built with the small criterion.h: one child each, TAP to standard output. */
#include <criterion/criterion.h>

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#define STATUS_FAILED 1
#define STATUS_SKIPPED 77

static struct plain_test *tests;
static int failed; /* of the test that runs in this child; threads may set it */

void plain_register(struct plain_test *test)
{
	test->next = tests;
	tests = test;
}

void plain_check(bool good, bool fatal, const char *file, int line, const char *what, const char *format, ...)
{
	va_list arguments;

	if (good)
		return;
	__atomic_store_n(&failed, 1, __ATOMIC_RELAXED);
	printf("# %s:%d: %s: ", file, line, what);
	va_start(arguments, format);
	vprintf(format, arguments);
	va_end(arguments);
	putchar('\n');
	fflush(stdout);
	if (fatal)
		_exit(STATUS_FAILED);
}

void plain_skip(const char *format, ...)
{
	va_list arguments;

	fputs("# skipped: ", stdout);
	va_start(arguments, format);
	vprintf(format, arguments);
	va_end(arguments);
	putchar('\n');
	fflush(stdout);
	_exit(STATUS_SKIPPED);
}

/* exit() and not _exit(): ThreadSanitizer gives its verdict there. */
static void run_in_child(const struct plain_test *test, void *parameter)
{
	if (test->options.timeout > 0)
		alarm((unsigned)test->options.timeout * 10); /* sanitizers are slow */
	if (test->options.init)
		test->options.init();
	test->run(parameter);
	if (test->options.fini)
		test->options.fini();
	fflush(stdout);
	exit(failed ? STATUS_FAILED : 0);
}

static int run_one(const struct plain_test *test, void *parameter)
{
	int status = -1;
	bool skipped;
	pid_t child;

	fflush(stdout);
	child = fork();
	if (child == 0)
		run_in_child(test, parameter);
	if (child > 0)
		waitpid(child, &status, 0);
	skipped = WIFEXITED(status) && WEXITSTATUS(status) == STATUS_SKIPPED;
	printf("%s - %s::%s%s", status == 0 || skipped ? "ok" : "not ok", test->suite, test->name,
	       skipped ? " # SKIP" : "");
	if (status && !skipped)
		printf(WIFSIGNALED(status) ? " (signal %d)" : " (status %d)",
		       WIFSIGNALED(status) ? WTERMSIG(status) : WEXITSTATUS(status));
	putchar('\n');
	return status && !skipped;
}

int main(void)
{
	unsigned count = 0, failures = 0;

	for (const struct plain_test *test = tests; test; test = test->next) {
		struct plain_parameters parameters = { NULL, 0, 1 };

		if (test->options.disabled)
			continue;
		if (test->parameters)
			parameters = test->parameters();
		for (size_t i = 0; i < parameters.count; i++, count++)
			failures += (unsigned)run_one(test, (char *)parameters.first + i * parameters.size);
	}
	printf("1..%u\n", count);
	return failures > 0;
}
