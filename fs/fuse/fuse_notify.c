/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What the kernel is told unasked.
 *
 * Attributes. The kernel keeps attributes for ever, so whatever changes on an inode otherwise than by a reply that
 * describes it has to be announced: blocks after delayed allocation, for one. The core calls back from its own threads;
 * the inodes go into a small ring, and a thread that holds no lock writes the notifications. A full ring
 * makes the callback wait for room: losing an announcement would leave a wrong st_blocks for ever. A worker does not
 * wait for it, since that thread may be waiting for a WRITE (below).
 *
 * Link counts. After UNLINK and RENAME the kernel counts i_nlink down itself, although an answer with the new count may
 * have come in between; too low a count would stay then, and link(2) fail on 0. Whoever took one of several names away
 * calls notify_links_changed(); when attributes of the inode are answered within LATE_NS from then, or may have been
 * since the name went, for the caller has waited and others have served, or others were within a request when it
 * began, it is announced after that time, when the kernel has surely counted. (To announce it always would make more
 * of these answers.)
 *
 * SEEK_DATA and SEEK_HOLE. They arrive without the kernel's dirty pages, so what looks like a hole, or like the end
 * of the file, may be data that was written and not yet sent. The answer "data here" is right in any case. Any other
 * answer is given only after the kernel has written back and dropped its pages of the range in question:
 * NOTIFY_INVAL_INODE with a range does that, and waits for the WRITE requests. So it must not be called by a worker
 * that the WRITEs may need; the requests are passed to the thread here, which asks the volume again afterwards. A hole
 * that turns out to be data says that a writer fills them: SEEK_HOLE then has all the rest written back, not one hole
 * after the other. A worker looks at one block only, for a walk over all extents would keep the lead.
 *
 * chattr +i. The kernel does not know the flag, and a WRITE from its page cache does not say when the data was
 * accepted. So all pages are written back, and dropped, before the flag is set, with the inode locked against write(2)
 * by the kernel; what it sends later is refused, and then it is told to forget these pages, which it would show
 * otherwise.
 *
 * The end. While its thread waits in the kernel for pages, only WRITEs that are answered, or the end of the connection,
 * wake it; no signal does. So it is stopped before the crew is, and what comes for it afterwards is an I/O error.
 *
 * Locking: `lock` protects ring and list, and is released before the kernel or the volume is called.
 */
#include "fuse_front.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <unistd.h>

#define RING_START 1024u
#define RING_LIMIT (1u << 20)
#define LATE_NS 20000000u /* a caller that was woken by a reply has run by then, and has finished its system call */
#define SEEK_ROUNDS 4u    /* a writer may keep filling the hole in front of us: then it is data */

#define NOTICE_PAGES (UINT64_C(1) << 63) /* of an entry of the ring: the pages, too */

void notify_attributes_now(struct front *front, uint64_t ino)
{
	/* Offset -1: attributes only. -ENOENT: the kernel does not know the inode, all the better. */
	fuse_lowlevel_notify_inval_inode(front->session, ino, -1, 0);
}

static bool ring_grow(struct notifier *notifier)
{
	size_t size = notifier->size ? notifier->size * 2 : RING_START;
	uint64_t *inodes = size <= RING_LIMIT ? malloc(size * sizeof(*inodes)) : NULL;

	if (!inodes)
		return false;
	for (size_t i = 0; i < notifier->count; i++)
		inodes[i] = notifier->inodes[(notifier->head + i) % notifier->size];
	free(notifier->inodes);
	notifier->inodes = inodes;
	notifier->size = size;
	notifier->head = 0;
	return true;
}

/* Lock held. False: there is no room. */
static bool ring_add_locked(struct notifier *notifier, uint64_t entry)
{
	size_t last = notifier->count ? (notifier->head + notifier->count - 1) % notifier->size : 0;

	if (notifier->count && notifier->inodes[last] == entry)
		return true;
	if (notifier->count == notifier->size && !ring_grow(notifier))
		return false;
	notifier->inodes[(notifier->head + notifier->count++) % notifier->size] = entry;
	pthread_cond_broadcast(&notifier->changed);
	return true;
}

/* For workers, which do not wait. False: there is no room. */
static bool ring_try(struct notifier *notifier, uint64_t entry)
{
	pthread_mutex_lock(&notifier->lock);
	bool done = !notifier->started || notifier->stopping || ring_add_locked(notifier, entry);
	pthread_mutex_unlock(&notifier->lock);
	return done;
}

void notify_attributes_changed(void *context, uint64_t ino)
{
	struct notifier *notifier = &((struct front *)context)->notifier;

	pthread_mutex_lock(&notifier->lock);
	while (notifier->started && !notifier->stopping && !ring_add_locked(notifier, ino))
		pthread_cond_wait(&notifier->changed, &notifier->lock);
	pthread_mutex_unlock(&notifier->lock);
}

void notify_attributes_soon(struct front *front, uint64_t ino)
{
	ring_try(&front->notifier, ino);
}

void notify_links_changed(struct front *front, uint64_t ino, bool others)
{
	struct notifier *notifier = &front->notifier;
	/* Without the lead since the name went: others have answered meanwhile, perhaps with the new count. */
	const bool answered = others || !current_worker->leading;
	bool room;

	if (ash_defer_is_due()) { /* the kernel counts when the reply comes, which waits: see answer_late() */
		current_worker->request->late_links = ino;
		return;
	}
	pthread_mutex_lock(&notifier->lock);
	room = notifier->started && notifier->late_count < LATE_NOTICES;
	if (room) {
		notifier->late[(notifier->late_head + notifier->late_count) % LATE_NOTICES] =
			(struct late_notice){ ino, front_now_ns() + LATE_NS, answered };
		notifier->late_count++;
		pthread_cond_broadcast(&notifier->changed);
	}
	pthread_mutex_unlock(&notifier->lock);
	if (!room && !ring_try(notifier, ino)) /* early is better than never */
		notify_attributes_now(front, ino);
}

void notify_attributes_answered(struct front *front, uint64_t ino)
{
	struct notifier *notifier = &front->notifier;

	if (!atomic_load(&notifier->late_count))
		return;
	pthread_mutex_lock(&notifier->lock);
	for (size_t i = 0; i < notifier->late_count; i++) {
		struct late_notice *notice = &notifier->late[(notifier->late_head + i) % LATE_NOTICES];

		notice->answered |= notice->ino == ino;
	}
	pthread_mutex_unlock(&notifier->lock);
}

/* One thread serves all: a buffer of a megabyte each would wait there, with nothing to be read in it. */
static void give_buffer(struct request *request)
{
	struct request *spare = request_detach(request);

	if (spare)
		request_put(spare);
}

/* False: too late. */
static bool job_add(struct request *request, void (*job)(struct request *request))
{
	struct notifier *notifier = &request->front->notifier;

	request->next = NULL;
	request->later = job;
	pthread_mutex_lock(&notifier->lock);
	bool late = notifier->stopping;
	if (!late) {
		*notifier->jobs_end = request;
		notifier->jobs_end = &request->next;
		pthread_cond_broadcast(&notifier->changed);
	}
	pthread_mutex_unlock(&notifier->lock);
	return !late;
}

void notify_later(struct request *request, void (*job)(struct request *request))
{
	if (job_add(request, job))
		return;
	reply_error(request, -EIO); /* as everything will be in a moment */
	request_finish(request);
}

int notify_pages_write_back(struct front *front, uint64_t ino, uint64_t offset, uint64_t end)
{
	int rc = fuse_lowlevel_notify_inval_inode(front->session, ino, (off_t)offset, end ? (off_t)(end - offset) : 0);

	return rc == -ENOENT ? 0 : rc;
}

static void pages_forget(struct request *request)
{
	notify_pages_write_back(request->front, request->nodeid, 0, 0);
	request_finish(request);
}

bool notify_pages_refused(struct request *request)
{
	if (ring_try(&request->front->notifier, request->nodeid | NOTICE_PAGES))
		return false;
	/* The request is the memory that it takes. */
	give_buffer(request);
	if (!job_add(request, pages_forget))
		request_finish(request);
	return true;
}

static void seek_reply(struct request *request, int64_t result)
{
	struct fuse_lseek_out out = { .offset = (uint64_t)result };

	if (result < 0)
		reply_error(request, (int)result);
	else
		reply_data(request, &out, sizeof(out));
	request_finish(request);
}

/* Where the next data after the hole at `offset` begins; 0 when there is none. */
static uint64_t hole_end(struct front *front, uint64_t ino, uint64_t offset)
{
	int64_t data = ash_seek(front->volume, ino, offset, SEEK_DATA);

	return data > (int64_t)offset ? (uint64_t)data : 0;
}

/* Where what is in doubt from `start` on ends; 0: with the file. */
static uint64_t seek_doubt_end(const struct request *request, unsigned round, uint64_t start, int64_t before)
{
	if (request->seek_whence == SEEK_DATA)
		return before >= 0 ? (uint64_t)before : 0;
	return round > 0 ? 0 : hole_end(request->front, request->nodeid, start);
}

static void seek_answer(struct request *request)
{
	struct front *front = request->front;
	const uint64_t ino = request->nodeid, offset = request->seek_offset;
	int64_t before = ash_seek(front->volume, ino, offset, request->seek_whence);

	for (unsigned round = 0; round < SEEK_ROUNDS; round++) {
		/* SEEK_DATA: the hole from `offset` to the answer is in doubt; SEEK_HOLE: the hole at the answer. */
		uint64_t start = request->seek_whence == SEEK_HOLE && before >= 0 ? (uint64_t)before : offset;
		uint64_t end = seek_doubt_end(request, round, start, before);
		if (before < 0 && before != -ENXIO)
			break;
		if (request->seek_whence == SEEK_DATA && before == (int64_t)offset)
			break;
		if (notify_pages_write_back(front, ino, start, end))
			continue;
		int64_t after = ash_seek(front->volume, ino, offset, request->seek_whence);
		if (after == before) {
			seek_reply(request, after);
			return;
		}
		before = after;
	}
	/* Pages kept changing: as data, which is never wrong. There is always a hole at the end. */
	if (before == -ENXIO && request->seek_whence == SEEK_DATA) {
		seek_reply(request, -ENXIO);
		return;
	}
	if (before >= 0 && request->seek_whence == SEEK_DATA)
		before = (int64_t)offset;
	seek_reply(request, before);
}

void notify_seek(struct request *request)
{
	give_buffer(request);
	notify_later(request, seek_answer);
}

static bool late_is_due(const struct notifier *notifier)
{
	return notifier->late_count && notifier->late[notifier->late_head].due <= front_now_ns();
}

/* Until there is something to do. */
static void wait_for_work(struct notifier *notifier)
{
	while (!notifier->stopping && !notifier->jobs && !notifier->count && !late_is_due(notifier)) {
		if (!notifier->late_count) {
			pthread_cond_wait(&notifier->changed, &notifier->lock);
			continue;
		}
		uint64_t due = notifier->late[notifier->late_head].due;
		struct timespec until = { .tv_sec = (time_t)(due / 1000000000u), .tv_nsec = (long)(due % 1000000000u) };

		pthread_cond_clockwait(&notifier->changed, &notifier->lock, CLOCK_MONOTONIC, &until);
	}
}

/* Take what there is to do. False: stop. */
static bool take_work(struct notifier *notifier, struct request **job, uint64_t *inodes, size_t room, size_t *count)
{
	pthread_mutex_lock(&notifier->lock);
	wait_for_work(notifier);
	*job = notifier->jobs;
	if (*job) {
		notifier->jobs = (*job)->next;
		if (!notifier->jobs)
			notifier->jobs_end = &notifier->jobs;
	}
	for (*count = 0; *count < room && notifier->count; notifier->count--) {
		inodes[(*count)++] = notifier->inodes[notifier->head];
		notifier->head = (notifier->head + 1) % notifier->size;
	}
	for (; *count < room && late_is_due(notifier); notifier->late_count--) {
		if (notifier->late[notifier->late_head].answered)
			inodes[(*count)++] = notifier->late[notifier->late_head].ino;
		notifier->late_head = (notifier->late_head + 1) % LATE_NOTICES;
	}
	pthread_cond_broadcast(&notifier->changed);
	bool stop = notifier->stopping;
	pthread_mutex_unlock(&notifier->lock);
	return !stop || *job;
}

static void notice_send(struct front *front, uint64_t entry)
{
	if (entry & NOTICE_PAGES)
		notify_pages_write_back(front, entry & ~NOTICE_PAGES, 0, 0); /* attributes, too */
	else
		notify_attributes_now(front, entry);
}

static void *notifier_main(void *argument)
{
	struct front *front = argument;
	struct request *job;
	uint64_t inodes[64];
	size_t count;

	prctl(PR_SET_NAME, "ashlarfs-notify");
	while (take_work(&front->notifier, &job, inodes, sizeof(inodes) / sizeof(inodes[0]), &count)) {
		for (size_t i = 0; i < count; i++)
			notice_send(front, inodes[i]);
		if (job)
			job->later(job);
	}
	return NULL;
}

int notify_start(struct front *front)
{
	struct notifier *notifier = &front->notifier;

	pthread_mutex_lock(&notifier->lock);
	bool room = ring_grow(notifier);
	notifier->started = room;
	pthread_mutex_unlock(&notifier->lock);
	if (!room)
		return -ENOMEM;
	int rc = pthread_create(&notifier->thread, NULL, notifier_main, front);
	if (rc)
		notifier->started = false;
	return -rc;
}

void notify_stop(struct front *front)
{
	struct notifier *notifier = &front->notifier;

	pthread_mutex_lock(&notifier->lock);
	bool first = !notifier->stopping;
	notifier->stopping = true;
	pthread_cond_broadcast(&notifier->changed);
	while (!first && notifier->started)
		pthread_cond_wait(&notifier->changed, &notifier->lock);
	bool join = notifier->started;
	pthread_mutex_unlock(&notifier->lock);
	if (!join)
		return;
	pthread_join(notifier->thread, NULL);
	pthread_mutex_lock(&notifier->lock);
	notifier->started = false;
	pthread_cond_broadcast(&notifier->changed);
	pthread_mutex_unlock(&notifier->lock);
}
