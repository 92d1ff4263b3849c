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
 * Nothing stays here: something is kept only while some worker is at it, and each of them leaves only when nothing
 * is kept. So crew_quiesce() and crew_join(), which wait for the workers, wait for what is kept, too. Without memory to
 * keep a request, its worker serves it at once. Whoever serves what was kept may lead: it offers the lead in each wait.
 *
 * WRITEs from the page cache. The kernel sends up to FRONT_QUEUE_DEPTH of one file at once, which wait for each other:
 * for the inode's lock, and whoever writes out what is buffered of a file holds it for as long as the device takes. So
 * does copy_file_range(2), which is much work in one request, and of which there are as many as callers. So do WRITEs
 * with O_DIRECT or O_SYNC that the queue of asynchronous requests does not take: to blocks that are not written yet, or
 * to parts of blocks; and those to append-only files, which come past the page cache as well: while the write-behind
 * buffer is full.
 * Together with those who wait for flushes they take all workers but two; one of each kind is let in always: those who
 * sync may have to wait for others' writes. Further ones are kept here with their data, and whoever has finished one
 * takes the next: as many WRITEs from the page cache as the kernel sends at once, which may be 64 MiB of data, as much
 * of others, and any number of copies, which need no buffer. What the kernel has not acknowledged is not made when its
 * caller is gone.
 * None is kept unless some worker writes, and that one leaves only when none is: crew_quiesce() and crew_join() wait
 * for them, too.
 *
 * What was written and has to be durable is left to those who wait for flushes. Where there are none, whoever wrote it
 * becomes one, and writes and syncs in turn while anything is kept that is to be written: neither may wait for ever.
 * Where there are several, all but one write instead while WRITEs are kept: one flush is enough for any number, but a
 * WRITE is done by one. Else whoever came first would keep all places.
 *
 * Locking: `lock` protects the lists and the counts, and is released before the volume or the kernel is called.
 */
#include "fuse_front.h"

#include <assert.h>
#include <string.h>

/* A worker takes this part of what is kept: all of them have some to write back, and those who come late get some. */
#define SYNC_SHARE 2u

#define DIRECT_BYTES_MAX (64u << 20) /* memory of WRITEs past the page cache that are kept */
#define WRITES_NS 50000000u          /* so long somebody writes who syncs, too: many writes share a flush */
#define SHRINK_MAX (65u << 10)       /* 64 KiB and the headers: what is longer is not copied, but keeps its buffer */

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

static bool has_attributes(const struct request *request)
{
	return request->late_length && (request->opcode == FUSE_SETATTR || request->opcode == FUSE_LINK);
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

	if (!error && has_attributes(request))
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

/* Of all but SYNCFS, in the order of `items`: those with attributes, or the others. */
static void answer_some(struct request *const *requests, const struct ash_fsync *items, size_t count, bool attributes)
{
	for (size_t i = 0; i < count; i++) {
		if (requests[i]->opcode == FUSE_SYNCFS)
			continue;
		if (has_attributes(requests[i]) == attributes)
			answer(requests[i], items->result);
		items++;
	}
}

/*
 * First those whose replies are ready, then those that wait for an inode's attributes, which somebody may be writing.
 * SYNCFS comes last: it may have much more to write. What came before its one call is durable for all, or all are told
 * what was lost since the first of them came.
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
	answer_some(requests, items, count, false);
	answer_some(requests, items, count, true);
	if (!first)
		return;
	int error = ash_sync_since(front->volume, first->sync_begin);
	for (size_t i = 0; i < count; i++)
		if (requests[i]->opcode == FUSE_SYNCFS)
			answer(requests[i], error);
}

/* Lock held. */
static bool all_busy(const struct syncs *syncs)
{
	return syncs->active + syncs->writing - syncs->both >= syncs->limit;
}

/* Is there a place among those who wait? Lock held. Whoever writes goes on with that if others can wait for it. */
static bool enter(struct syncs *syncs)
{
	if (syncs->active && (current_worker->writing || all_busy(syncs)))
		return false;
	syncs->active++;
	syncs->both += current_worker->writing;
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

/* Some of what is kept; 0: the worker does not count as one who waits any more, but maybe as one who writes. */
static size_t take_kept(struct worker *worker, struct request **requests)
{
	struct syncs *syncs = &worker->front->syncs;
	size_t count = 0;

	pthread_mutex_lock(&syncs->lock);
	const bool writes_instead = syncs->writes && !worker->writing && syncs->active - syncs->both > 1;
	size_t share = writes_instead ? 0 : (syncs->kept_count + SYNC_SHARE - 1) / SYNC_SHARE;
	for (; count < share && count < ASH_FSYNC_MAX; count++) {
		requests[count] = syncs->kept;
		syncs->kept = syncs->kept->next;
		syncs->kept_count--;
	}
	if (!syncs->kept)
		syncs->kept_end = &syncs->kept;
	if (!count) {
		syncs->active--;
		syncs->both -= worker->writing;
		worker->syncing = false;
		syncs->writing += writes_instead;
		worker->writing |= writes_instead;
	}
	pthread_mutex_unlock(&syncs->lock);
	return count;
}

static void serve_kept(struct worker *worker)
{
	struct front *front = worker->front;
	struct request *requests[ASH_FSYNC_MAX];
	const size_t count = take_kept(worker, requests);

	if (count)
		serve(front, requests, count);
	for (size_t i = 0; i < count; i++)
		request_finish(requests[i]);
}

void sync_finish(struct worker *worker)
{
	while (worker->syncing) {
		serve_kept(worker);
		write_finish(worker);
	}
}

/* ---- WRITEs, and copies ---- */

static bool is_write_of_pages(const struct request *request)
{
	const struct fuse_write_in *in = request->argument;

	return request->opcode == FUSE_WRITE && (in->write_flags & FUSE_WRITE_CACHE);
}

static bool is_direct_write(const struct request *request)
{
	return request->opcode == FUSE_WRITE && !is_write_of_pages(request);
}

/* Lock held. What a request need not have with it while it waits goes to `spare`. False: it cannot be kept. */
static bool prepare_to_wait(const struct syncs *syncs, struct request *request, struct request **spare)
{
	if (is_write_of_pages(request))
		return syncs->pages_count < FRONT_QUEUE_DEPTH;
	if (is_direct_write(request)) {
		if (syncs->direct_bytes + request->memory_size > DIRECT_BYTES_MAX)
			return false;
		if (request->length > SHRINK_MAX)
			return true;
		*spare = request_shrink(request);
	} else {
		*spare = request_detach(request);
	}
	return *spare;
}

/* Lock held. `sign`: 1 or -1 */
static void count_write(struct syncs *syncs, const struct request *request, int sign)
{
	if (is_write_of_pages(request))
		syncs->pages_count += (unsigned)sign;
	else if (is_direct_write(request))
		syncs->direct_bytes += (size_t)sign * request->memory_size;
}

bool write_keep(struct request *request, bool (*job)(struct request *request))
{
	struct syncs *syncs = &request->front->syncs;
	struct request *spare = NULL;

	pthread_mutex_lock(&syncs->lock);
	bool keep = syncs->writing && all_busy(syncs) && prepare_to_wait(syncs, request, &spare);
	if (keep) {
		request->next = NULL;
		request->write_job = job;
		request->kept = front_now_ns();
		*syncs->writes_end = request;
		syncs->writes_end = &request->next;
		count_write(syncs, request, 1);
	} else {
		syncs->writing++;
		current_worker->writing = true;
	}
	pthread_mutex_unlock(&syncs->lock);
	if (spare)
		request_put(spare);
	return keep;
}

/* NULL: nothing is kept, and the worker does not count as one who writes any more. */
static struct request *take_write(struct worker *worker)
{
	struct syncs *syncs = &worker->front->syncs;

	pthread_mutex_lock(&syncs->lock);
	struct request *request = syncs->writes;
	if (request) {
		syncs->writes = request->next;
		count_write(syncs, request, -1);
		if (!syncs->writes)
			syncs->writes_end = &syncs->writes;
	} else {
		syncs->writing--;
		syncs->both -= worker->syncing;
		worker->writing = false;
	}
	pthread_mutex_unlock(&syncs->lock);
	return request;
}

/* As if it were the worker's current request, so that its reply can be kept until it is durable. */
static void do_kept(struct worker *worker, struct request *request)
{
	struct request *own = worker->request;

	worker->request = request;
	bool kept = session_run(request, request->write_job);
	worker->request = own;
	if (!kept)
		request_finish(request);
}

void write_finish(struct worker *worker)
{
	struct request *request;
	uint64_t synced = 0; /* not yet */

	while (worker->writing && (request = take_write(worker))) {
		do_kept(worker, request);
		if (worker->syncing && front_now_ns() - synced > WRITES_NS) {
			serve_kept(worker);
			synced = front_now_ns();
		}
	}
}

void sync_start(struct front *front)
{
	const unsigned threads = front->options.threads;

	front->syncs.limit = threads > SYNC_SPARED_WORKERS + 1 ? threads - SYNC_SPARED_WORKERS : 1;
}
