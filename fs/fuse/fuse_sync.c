/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Requests that wait for the device's flush: FSYNC, FSYNCDIR, SYNCFS, and WRITE of a file opened with O_SYNC or O_DSYNC
 * once its data is written.
 *
 * A flush takes as long as a hundred requests, and callers that wait for one come in any number. A worker each would
 * leave nobody to serve the others. So at most `limit` workers wait for flushes, two less than there are. While so many
 * do, a request is kept here, without its buffer of a megabyte; whoever has finished one takes what was kept since,
 * several at once (ash_fsync_all()), so that any number of callers share flushes as if each had a thread.
 *
 * Nothing stays here: something is kept only while `limit` workers are at it, and each of them leaves only when nothing
 * is kept. So crew_quiesce() and crew_join(), which wait for the workers, wait for what is kept, too. Without memory to
 * keep a request, its worker serves it at once. Whoever serves what was kept may lead: it offers the lead in each wait.
 *
 * Locking: `lock` protects the list and the count, and is released before the volume or the kernel is called.
 */
#include "fuse_front.h"

/* A worker takes this part of what is kept: all of them have some to write back, and those who come late get some. */
#define SYNC_SHARE 2u

static void answer(struct request *request, int error)
{
	struct fuse_write_out out = { .size = request->written };

	if (!error && request->opcode == FUSE_WRITE)
		reply_data(request, &out, sizeof(out));
	else
		reply_error(request, error);
}

/*
 * FSYNCs are answered first: SYNCFS may have much more to write. What came before its one call is durable for all, or
 * all are told what was lost since the first of them came.
 */
static void serve(struct front *front, struct request *const *requests, size_t count)
{
	struct ash_fsync items[ASH_FSYNC_MAX];
	const struct request *first = NULL; /* SYNCFS: they may have been kept in another order than they came */
	size_t used = 0;

	for (size_t i = 0; i < count; i++)
		if (requests[i]->opcode != FUSE_SYNCFS)
			items[used++] =
				(struct ash_fsync){ .ino = requests[i]->nodeid, .flags = requests[i]->sync_flags };
		else if (!first || requests[i]->sync_begin < first->sync_begin)
			first = requests[i];
	ash_fsync_all(front->volume, items, used);
	used = 0;
	for (size_t i = 0; i < count; i++)
		if (requests[i]->opcode != FUSE_SYNCFS)
			answer(requests[i], items[used++].result);
	if (!first)
		return;
	int error = ash_sync_since(front->volume, first->sync_begin);
	for (size_t i = 0; i < count; i++)
		if (requests[i]->opcode == FUSE_SYNCFS)
			answer(requests[i], error);
}

/* Is there a place among those who wait? Lock held. */
static bool enter(struct syncs *syncs)
{
	if (syncs->active >= syncs->limit)
		return false;
	syncs->active++;
	current_worker->syncing = true;
	return true;
}

/* Lock held. */
static void keep(struct syncs *syncs, struct request *request)
{
	request->next = NULL;
	*syncs->kept_end = request;
	syncs->kept_end = &request->next;
	syncs->kept_count++;
}

/* True: the request was kept, and the worker's buffer went back to the free ones. */
static bool keep_if_full(struct front *front, struct request *request)
{
	struct syncs *syncs = &front->syncs;

	pthread_mutex_lock(&syncs->lock);
	bool full = !enter(syncs);
	pthread_mutex_unlock(&syncs->lock);
	struct request *spare = full ? request_detach(request) : NULL;
	if (!spare)
		return false;
	pthread_mutex_lock(&syncs->lock);
	full = !enter(syncs);
	if (full)
		keep(syncs, request);
	else
		request_attach(request, spare);
	pthread_mutex_unlock(&syncs->lock);
	if (full)
		request_put(spare);
	return full;
}

bool sync_serve(struct request *request, unsigned flags)
{
	struct front *front = request->front;

	request->sync_flags = flags;
	if (request->opcode == FUSE_SYNCFS)
		request->sync_begin = ash_sync_begin(front->volume);
	if (keep_if_full(front, request))
		return true;
	serve(front, &request, 1);
	return false;
}

/* Some of what is kept; 0: nothing, and the worker does not count as one who waits any more. */
static size_t take_kept(struct syncs *syncs, struct request **requests)
{
	size_t count = 0;

	pthread_mutex_lock(&syncs->lock);
	size_t share = (syncs->kept_count + SYNC_SHARE - 1) / SYNC_SHARE;
	for (; count < share && count < ASH_FSYNC_MAX; count++) {
		requests[count] = syncs->kept;
		syncs->kept = syncs->kept->next;
		syncs->kept_count--;
	}
	if (!syncs->kept)
		syncs->kept_end = &syncs->kept;
	if (!count)
		syncs->active--;
	pthread_mutex_unlock(&syncs->lock);
	return count;
}

void sync_finish(struct worker *worker)
{
	struct front *front = worker->front;
	struct request *requests[ASH_FSYNC_MAX];
	size_t count;

	if (!worker->syncing)
		return;
	while ((count = take_kept(&front->syncs, requests))) {
		serve(front, requests, count);
		for (size_t i = 0; i < count; i++)
			request_finish(requests[i]);
	}
	worker->syncing = false;
}

void sync_start(struct front *front)
{
	const unsigned threads = front->options.threads;

	front->syncs.limit = threads > SYNC_SPARED_WORKERS + 1 ? threads - SYNC_SPARED_WORKERS : 1;
}
