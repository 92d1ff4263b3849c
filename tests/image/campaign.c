/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Running a campaign of damaged images in a child: see judge.h.
 *
 * The child makes the images in an order that is always the same. When it dies, the parent names the image that it was
 * at, and starts another child that passes over all images up to that one.
 */
#include "judge.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define HANG_SECONDS 120u /* sanitizers and busy machines included */

/* Of the child and the parent. */
struct shared {
	uint64_t index; /* of the image that is being judged, from 1 on */
	uint64_t cases, distinct, violations, skipped;
	unsigned tests, failures; /* lines of TAP */
	char name[sizeof(((struct test *)0)->name)];
	bool marks[CAMPAIGN_MARKS];
};
static struct shared *shared;

/* Of the child. */
static struct {
	uint64_t index, pass_over, *hashes;
	size_t hash_count, hash_space;
	unsigned share;
} run;

enum level test_level(void)
{
	const char *level = getenv("ASHLAR_TEST_LEVEL");

	if (!level || !*level || !strcmp(level, "normal"))
		return LEVEL_NORMAL;
	return strcmp(level, "quick") ? LEVEL_LONG : LEVEL_QUICK;
}

/* ---- Which images ---- */

static uint64_t mix(uint64_t z)
{
	z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9ull;
	z = (z ^ z >> 27) * 0x94d049bb133111ebull;
	return z ^ z >> 31;
}

/* Equal damage gives an equal number. */
static uint64_t image_hash(struct image *image)
{
	uint8_t data[ASH_BLOCK_SIZE] __attribute__((aligned(4096)));
	uint64_t hash = 0;

	for (uint64_t block = 0; block < image->size >> ASH_BLOCK_SHIFT; block++) {
		const uint64_t *now = (const void *)data, *old;

		if (!image->dirty[block])
			continue;
		image_read(image, block, data);
		old = (const void *)(image->pristine + (block << ASH_BLOCK_SHIFT));
		for (unsigned i = 0; i < ASH_BLOCK_SIZE / 8; i++)
			if (now[i] != old[i])
				hash += mix(mix(block * 512 + i) + now[i]);
	}
	return hash;
}

/* False when it was there. */
static bool hash_add(uint64_t hash)
{
	size_t at;

	if (run.hash_count * 2 >= run.hash_space) {
		uint64_t *old = run.hashes;
		size_t count = run.hash_space;

		run.hash_space = count ? count * 2 : 4096;
		run.hashes = calloc(run.hash_space, sizeof(*run.hashes));
		if (!run.hashes)
			die("out of memory");
		run.hash_count = 0;
		for (size_t i = 0; i < count; i++)
			if (old[i])
				hash_add(old[i]);
		free(old);
	}
	hash += !hash;
	for (at = hash % run.hash_space; run.hashes[at]; at = (at + 1) % run.hash_space)
		if (run.hashes[at] == hash)
			return false;
	run.hashes[at] = hash;
	run.hash_count++;
	return true;
}

bool campaign_wants(struct image *image, const struct test *test)
{
	const char *only = getenv("DAMAGE_ONLY");
	uint64_t hash = image_hash(image);
	bool fresh = hash_add(hash);

	if (++run.index <= run.pass_over || (only && !strstr(test->name, only)))
		return false;
	shared->index = run.index;
	if (!fresh && !test->always)
		return false; /* judged under another name */
	shared->distinct += fresh;
	if (!only && !test->always && mix(hash) % 100 >= run.share) {
		shared->skipped++;
		return false;
	}
	shared->cases++;
	snprintf(shared->name, sizeof(shared->name), "%s", test->name);
	alarm(HANG_SECONDS);
	return true;
}

/* ---- Results ---- */

static void line(const char *name, const char *trouble)
{
	shared->tests++;
	if (trouble) {
		shared->failures++;
		printf("not ok %u - %s: %s\n", shared->tests, name, trouble);
	} else {
		printf("ok %u - %s\n", shared->tests, name);
	}
	fflush(stdout);
}

void campaign_result(const struct test *test, const char *trouble)
{
	alarm(0);
	shared->violations += trouble != NULL;
	line(test->name, trouble);
}

void campaign_check(const char *name, bool good)
{
	if (shared->index >= run.pass_over)
		line(name, good ? NULL : "no");
}

bool *campaign_marks(void)
{
	return shared->marks;
}

/* ---- The processes ---- */

static void child(void (*body)(struct image *image), struct image *image)
{
	run.pass_over = shared->index;
	body(image);
	free(run.hashes);
	fflush(stdout);
	exit(0);
}

/* False when the child died on an image. */
static bool child_ended(pid_t pid)
{
	char trouble[64];
	int status;

	if (waitpid(pid, &status, 0) != pid)
		die("waitpid failed");
	if (WIFEXITED(status) && WEXITSTATUS(status) == 0)
		return true;
	if (WIFEXITED(status) && !shared->index)
		die("the campaign cannot begin (status %d)", WEXITSTATUS(status));
	if (WIFSIGNALED(status) && WTERMSIG(status) == SIGALRM)
		snprintf(trouble, sizeof(trouble), "hangs");
	else if (WIFSIGNALED(status))
		snprintf(trouble, sizeof(trouble), "dies by signal %d", WTERMSIG(status));
	else
		snprintf(trouble, sizeof(trouble), "ends the process with status %d", WEXITSTATUS(status));
	shared->violations++;
	line(shared->name, trouble);
	return false;
}

void campaign_run(const char *name, unsigned share, void (*body)(struct image *image), struct image *image)
{
	time_t began = time(NULL);
	pid_t pid;

	if (!shared)
		shared = mmap(NULL, sizeof(*shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (shared == MAP_FAILED)
		die("no shared memory");
	shared->index = shared->cases = shared->distinct = shared->violations = shared->skipped = 0;
	memset(shared->marks, 0, sizeof(shared->marks));
	run.share = share;
	do {
		fflush(stdout);
		pid = fork();
		if (pid < 0)
			die("fork failed");
		if (!pid)
			child(body, image);
	} while (!child_ended(pid));
	printf("# campaign %s: cases %llu, distinct %llu images, violations %llu, skipped %llu, seconds %llu\n", name,
	       (unsigned long long)shared->cases, (unsigned long long)shared->distinct,
	       (unsigned long long)shared->violations, (unsigned long long)shared->skipped,
	       (unsigned long long)(time(NULL) - began));
}

int campaign_end(void)
{
	printf("1..%u\n", shared->tests);
	return shared->failures ? 1 : 0;
}
