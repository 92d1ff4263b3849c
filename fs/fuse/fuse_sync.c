/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Requests that would take all workers, so that nobody else were served.
 *
 * Those that wait for the device's flush: FSYNC, FSYNCDIR, SYNCFS, WRITE of a file opened with O_SYNC or O_DSYNC
 * once its data is written, and every change once it is made that `-o sync` or chattr +S wants durable: its handler
 * replies as always, and the reply is kept.
 *
 * A flush takes as long as a hundred requests, and callers that wait for one come in any number. A worker each would
 * leave nobody to serve the others. So at most `limit` workers wait for flushes or write (see below), two less than
 * there are. While so many do, a request is kept here, without its buffer of a megabyte; whoever has finished one takes
 * what was kept since, several at once (ash_fsync_all()), so that any number of callers share flushes as if each had a
 * thread.
 *
 * Nothing stays here: something is kept only while some worker waits for flushes, and that one leaves only when nothing
 * is kept; one is let in always. So crew_quiesce() and crew_join(), which wait for the workers, wait for what is kept,
 * too. Without memory to keep a request, its worker serves it at once. Whoever serves what was kept may lead: it offers
 * the lead in each wait.
 *
 * WRITEs from the page cache. The kernel sends up to FRONT_QUEUE_DEPTH of one file at once, which wait for each other:
 * for the inode's lock, and whoever writes out what is buffered of a file holds it for as long as the device takes. So
 * does copy_file_range(2), which is much work in one request, and of which there are as many as callers.
 * Together with those who wait for flushes they take all workers but two; one of them is let in always, for others may
 * wait for it before they sync. Further ones are kept here with their data, and whoever has finished one takes the
 * next: as many WRITEs as the kernel sends at once, which may be 64 MiB of data, and any number of copies, which need
 * no buffer, and are not made when their callers are gone. Those that have to be durable share a flush, a few at a time.
 * None is kept unless some worker writes, and that one leaves only when none is: crew_quiesce() and crew_join() wait
 * for them, too.
 *
 * Locking: `lock` protects the lists and the counts, and is released before the volume or the kernel is called.
 */
#include "fuse_front.h"

#include <assert.h>
#include <string.h>

/* A worker takes this part of what is kept: all of them have some to write back, and those who come late get some. */
#define SYNC_SHARE 2u
/* So many WRITEs and copies share a flush: the first one's reply waits until the data of all is written, too. */
#define WRITES_SHARE 8u

/* The inode that a reply names, and that thereby has one lookup more. */
static uint64_t entry_of(const struct request *request)
{
	switch (request->opcode) {
	case FUSE_MKNOD:
	case FUSE_MKDIR:
	case FUSE_SYMLINK:
	case FUSE_LINK:
	case FUSE_CREATE:
	case FUSE_TMPFILE:
		return ((const struct fuse_entry_out *)(request->late + sizeof(struct fuse_out_header)))->nodeid;
	default:
		return 0;
	}
}

/*
 * Attributes of an inode that others know are as old as the wait is long. Of what has changed since, the kernel may
 * have been told already: it would go on showing what was before.
 */
static void attributes_renew(struct request *request)
{
	void *reply = request->late + sizeof(struct fuse_out_header);
	struct fuse_attr_out *out = reply;
	struct ash_attr attr;

	if (request->opcode != FUSE_SETATTR && request->opcode != FUSE_LINK)
		return;
	uint64_t ino = request->opcode == FUSE_LINK ? entry_of(request) : request->nodeid;
	if (ash_getattr(request->front->volume, ino, &attr))
		return;
	if (request->opcode == FUSE_LINK) {
		attr_to_fuse_entry(&attr, reply);
	} else {
		out->attr_valid = full_validity(request->front, ino);
		attr_to_fuse(&attr, &out->attr);
	}
}

static void answer_late(struct request *request, int error)
{
	struct iovec iov = { .iov_base = request->late, .iov_len = request->late_length };

	if (!error)
		attributes_renew(request);
	if (request->late_links)
		notify_links_changed(request->front, request->late_links, true);
	int rc = error ? reply_error(request, error) : transport_send(request->channel, &iov, 1);

	if ((error || rc) && entry_of(request))
		ash_forget(request->front->volume, entry_of(request), 1);
}

static void answer(struct request *request, int error)
{
	struct fuse_write_out out = { .size = request->written };

	if (request->late_length)
		answer_late(request, error);
	else if (!error && request->opcode == FUSE_WRITE)
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
			items[used++] = (struct ash_fsync){ .ino = requests[i]->nodeid,
							    .flags = requests[i]->sync_flags,
							    .lsn = requests[i]->late_lsn };
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

/*
 * Is there a place among those who wait? Lock held. One is let in always, to take what is kept. Whoever writes waits for
 * his own flush only, and is counted among those who write: of syncs there may be no end, and what is kept of WRITEs and
 * copies may wait for this worker alone.
 */
static bool enter(struct syncs *syncs)
{
	if (current_worker->writing)
		return syncs->active < syncs->limit;
	if (syncs->active && syncs->active + syncs->writing >= syncs->limit)
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

bool sync_keep_reply(struct request *request, const struct iovec *iov, int count)
{
	size_t length = 0;

	/* What comes to its end in a wait of this request's is another one. */
	if (!ash_defer_is_due() || !current_worker || current_worker->request != request)
		return false;
	for (int i = 0; i < count; i++) {
		assert(length + iov[i].iov_len <= sizeof(request->late));
		memcpy(request->late + length, iov[i].iov_base, iov[i].iov_len);
		length += iov[i].iov_len;
	}
	request->late_length = length;
	return true;
}

bool sync_serve_late(struct request *request, uint64_t lsn)
{
	request->late_lsn = lsn;
	return sync_serve(request, ASH_FSYNC_LSN);
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

/* ---- WRITEs from the page cache, and copies ---- */

/* Lock held. A copy that has to wait gives its buffer to `spare`. */
static bool write_has_to_wait(const struct syncs *syncs, struct request *request, struct request **spare)
{
	if (!syncs->writing || syncs->writing + syncs->active < syncs->limit)
		return false;
	if (request->opcode == FUSE_WRITE)
		return syncs->writes_count < FRONT_QUEUE_DEPTH;
	*spare = request_detach(request);
	return *spare;
}

bool write_keep(struct request *request, bool (*job)(struct request *request))
{
	struct syncs *syncs = &request->front->syncs;
	struct request *spare = NULL;

	pthread_mutex_lock(&syncs->lock);
	bool keep = write_has_to_wait(syncs, request, &spare);
	if (keep) {
		request->next = NULL;
		request->write_job = job;
		*syncs->writes_end = request;
		syncs->writes_end = &request->next;
		syncs->writes_count += request->opcode == FUSE_WRITE;
	} else {
		syncs->writing++;
		current_worker->writing = true;
	}
	pthread_mutex_unlock(&syncs->lock);
	if (spare)
		request_put(spare);
	return keep;
}

/* NULL: nothing is kept; with `leaves` the worker does not count as one who writes any more then. */
static struct request *take_write(struct syncs *syncs, bool leaves)
{
	pthread_mutex_lock(&syncs->lock);
	struct request *request = syncs->writes;
	if (request) {
		syncs->writes = request->next;
		syncs->writes_count -= request->opcode == FUSE_WRITE;
		if (!syncs->writes)
			syncs->writes_end = &syncs->writes;
	} else if (leaves) {
		syncs->writing--;
	}
	pthread_mutex_unlock(&syncs->lock);
	return request;
}

/* True: its reply waits until what was written is durable. Else it is answered and finished. */
static bool write_kept(struct worker *worker, struct request *request)
{
	struct request *own = worker->request, *spare;
	uint64_t lsn;

	worker->request = request; /* whose reply may be kept: sync_keep_reply() */
	ash_defer_begin(worker->front->volume);
	bool given = request->write_job(request);
	bool due = ash_defer_end(&lsn);
	worker->request = own;
	if (given)
		return false;
	if (!due || !request->late_length) {
		request_finish(request);
		return false;
	}
	request->late_lsn = lsn;
	request->sync_flags = ASH_FSYNC_LSN;
	spare = request->memory ? request_detach(request) : NULL;
	if (spare)
		request_put(spare);
	return true;
}

void write_finish(struct worker *worker)
{
	struct front *front = worker->front;
	struct request *late[WRITES_SHARE], *request;
	unsigned taken;

	if (!worker->writing)
		return;
	do {
		size_t count = 0;

		for (taken = 0; taken < WRITES_SHARE && (request = take_write(&front->syncs, !taken)); taken++)
			if (write_kept(worker, request))
				late[count++] = request;
		if (count)
			serve(front, late, count);
		for (size_t i = 0; i < count; i++)
			request_finish(late[i]);
	} while (taken);
	worker->writing = false;
}

void sync_start(struct front *front)
{
	const unsigned threads = front->options.threads;

	front->syncs.limit = threads > SYNC_SPARED_WORKERS + 1 ? threads - SYNC_SPARED_WORKERS : 1;
}
