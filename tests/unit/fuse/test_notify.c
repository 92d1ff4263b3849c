/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What the kernel is told unasked, while the thread that tells it waits in the kernel for a WRITE, which only a worker can
 * answer: no worker may wait for that thread.
 */
#include "front_stubs.h"

#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

/* As in fuse_notify.c: so many inodes wait to be told of, at most. */
#define RING_LIMIT (1u << 20)

#define WRITTEN_LATE 1u /* its pages are written back when a worker comes to it */
#define REFUSED 2u
#define FIRST 100u

/* ---- The kernel ---- */

static pthread_mutex_t kernel_lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t kernel_changed = PTHREAD_COND_INITIALIZER;
static bool writing, written; /* the pages of WRITTEN_LATE */
static _Atomic unsigned attributes_told, refused_told;

int fuse_lowlevel_notify_inval_inode(struct fuse_session *session, fuse_ino_t ino, off_t offset, off_t length)
{
	(void)session;
	(void)length;
	if (offset < 0) {
		atomic_fetch_add(&attributes_told, 1);
		return 0;
	}
	if (ino == REFUSED)
		atomic_fetch_add(&refused_told, 1);
	if (ino != WRITTEN_LATE)
		return 0;
	pthread_mutex_lock(&kernel_lock);
	writing = true;
	pthread_cond_broadcast(&kernel_changed);
	while (!written)
		pthread_cond_wait(&kernel_changed, &kernel_lock);
	pthread_mutex_unlock(&kernel_lock);
	return 0;
}

static void wait_until_writing(void)
{
	pthread_mutex_lock(&kernel_lock);
	while (!writing)
		pthread_cond_wait(&kernel_changed, &kernel_lock);
	pthread_mutex_unlock(&kernel_lock);
}

static void answer_write(void)
{
	pthread_mutex_lock(&kernel_lock);
	written = true;
	pthread_cond_broadcast(&kernel_changed);
	pthread_mutex_unlock(&kernel_lock);
}

/* ---- The clock, and the volume ---- */

uint64_t front_now_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

int64_t ash_seek(struct ash_volume *volume, uint64_t ino, uint64_t offset, int whence)
{
	(void)volume;
	(void)ino;
	(void)whence;
	return (int64_t)offset;
}

/* ---- Tests ---- */

static struct front *front_open(struct worker *worker)
{
	struct front *front = aligned_alloc(_Alignof(struct front), sizeof(*front));

	cr_assert_not_null(front);
	writing = written = false;
	attributes_told = refused_told = answered = finished = 0;
	memset(front, 0, sizeof(*front));
	pthread_mutex_init(&front->notifier.lock, NULL);
	pthread_cond_init(&front->notifier.changed, NULL);
	front->notifier.jobs_end = &front->notifier.jobs;
	*worker = (struct worker){ .front = front, .leading = true };
	current_worker = worker;
	cr_assert_eq(notify_start(front), 0);
	return front;
}

static void front_close(struct front *front)
{
	notify_stop(front);
	free(front->notifier.inodes);
	free(front);
	current_worker = NULL;
}

static struct request *make_request(struct front *front, uint64_t ino)
{
	struct request *request = calloc(1, sizeof(*request));

	cr_assert_not_null(request);
	request->front = front;
	request->nodeid = ino;
	return request;
}

/* The thread waits in the kernel, and everything that it has room for waits for it. */
static void fill(struct front *front)
{
	struct request *seek = make_request(front, WRITTEN_LATE);

	seek->seek_whence = SEEK_HOLE;
	notify_seek(seek);
	wait_until_writing();
	for (uint64_t i = 0; i < LATE_NOTICES + RING_LIMIT; i++)
		notify_links_changed(front, FIRST + i, true);
	cr_expect_eq(atomic_load(&attributes_told), 0);
}

static bool reaches(_Atomic unsigned *count, unsigned wanted)
{
	for (unsigned i = 0; i < 5000 && atomic_load(count) < wanted; i++)
		usleep(1000);
	return atomic_load(count) == wanted;
}

/* It is told at once: nothing is lost, nobody waits. */
Test(notify, names_go_while_the_thread_waits_for_a_worker, .timeout = 100)
{
	struct worker worker;
	struct front *front = front_open(&worker);

	fill(front);
	notify_links_changed(front, FIRST - 1, true);
	cr_expect_eq(atomic_load(&attributes_told), 1);
	answer_write();
	cr_expect(reaches(&attributes_told, LATE_NOTICES + RING_LIMIT + 1));
	front_close(front);
	cr_expect_eq(atomic_load(&answered), 1);
	cr_expect_eq(atomic_load(&finished), 1);
}

/* The pages of a refused WRITE are forgotten once the thread has time. */
Test(notify, a_write_is_refused_while_the_thread_waits_for_a_worker, .timeout = 100)
{
	struct worker worker;
	struct front *front = front_open(&worker);
	struct request *refused = make_request(front, REFUSED);

	fill(front);
	cr_expect(notify_pages_refused(refused), "kept");
	cr_expect_eq(atomic_load(&refused_told), 0);
	answer_write();
	cr_expect(reaches(&refused_told, 1));
	front_close(front);
	cr_expect_eq(atomic_load(&answered), 1, "only the one who seeks is answered here");
	cr_expect_eq(atomic_load(&finished), 2);
}

/* With room for it, it is not kept, and there is one notice for those that follow each other. */
Test(notify, refused_writes_one_after_the_other, .timeout = 100)
{
	struct worker worker;
	struct front *front = front_open(&worker);
	struct request *seek = make_request(front, WRITTEN_LATE), *refused = make_request(front, REFUSED);

	seek->seek_whence = SEEK_HOLE;
	notify_seek(seek);
	wait_until_writing();
	for (unsigned i = 0; i < 10; i++)
		cr_expect_not(notify_pages_refused(refused));
	answer_write();
	cr_expect(reaches(&refused_told, 1));
	front_close(front);
	free(refused);
}
