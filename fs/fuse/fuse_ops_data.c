/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * File data: READ, WRITE, SEEK_DATA and SEEK_HOLE, COPY_FILE_RANGE; handlers of our own.
 *
 * A lone READ is done by the blocking call, straight into the buffer that the reply is written from. When another
 * request is waiting already, or data is in flight, it is submitted and the leader goes on with the next request,
 * so that the depth that callers offer reaches the device; the reply is sent from the completion. A submission that
 * the core declines (hole, buffered data, unaligned) falls back to the blocking call, before which all that came with it
 * goes to the device: a stream of such requests would keep it waiting.
 *
 * No locks. Completions run in the leader, inside ash_queue_reap(), which a call of the leader's runs by itself when it
 * must wait for writes in flight: they reply, and call nothing that waits.
 */
#include "fuse_front.h"
#include "fuse_protocol.h"

#include <ashlar/format.h>
#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

/* Bytes: what is smaller, and not O_DIRECT, belongs into the write-behind buffer. */
#define ASYNC_WRITE_MINIMUM (128u * 1024u)
#define ABANDONED_NS 100000000u

/* Is it worth while not to wait for this one? Only the leader may use the queue. */
static bool others_wait(const struct front *front)
{
	return current_worker->leading && front->queue &&
	       (ash_queue_in_flight(front->queue) > 0 || transport_pending(&front->transport));
}

static void read_reply(struct request *request, int64_t result)
{
	if (result < 0)
		reply_error(request, (int)result);
	else
		reply_payload(request, (size_t)result);
}

static void read_done(void *user, int64_t result)
{
	struct request *request = user;

	read_reply(request, result);
	request_finish(request);
}

static bool submit_read(struct request *request, size_t size, uint64_t offset, unsigned flags)
{
	struct front *front = request->front;

	if (!others_wait(front)) {
		current_worker->alone = front->queue != NULL; /* asked just now, and the wait is next */
		return false;
	}
	current_worker->keep_lead = true;
	int rc = ash_submit_read_flags(front->queue, request->nodeid, request->payload, size, offset, flags, read_done,
				       request);
	current_worker->keep_lead = false;
	return rc > 0;
}

bool raw_read(struct request *request)
{
	const struct fuse_read_in *in = request_argument(request, struct fuse_read_in);

	if (!in)
		return false;
	/* Copies: the reply's header is put over the end of the request. */
	size_t size = in->size < FRONT_MAX_WRITE ? in->size : FRONT_MAX_WRITE;
	uint64_t offset = in->offset;
	/* Those of the open file; of a read ahead, of the file that caused it. */
	unsigned flags = in->flags & O_NOATIME ? ASH_READ_NO_ATIME : 0;
	if (submit_read(request, size, offset, flags))
		return true;
	crew_kick(current_worker);
	read_reply(request,
		   ash_read_flags(request->front->volume, request->nodeid, request->payload, size, offset, flags));
	return false;
}

/*
 * The kernel wants the set-user-id bits killed by every direct write of a caller without CAP_FSETID, whatever the mode.
 * Where there are none, it is a write like others, which may be asynchronous, and of which the kernel need not be told.
 * security.capability is not meant: it goes with any write.
 *
 * No chmod is missed: the kernel holds the inode's lock over write(2) as over chmod(2). Only of an asynchronous write it
 * lets go before we answer, and then a chmod that comes between is the later one: its bits stay.
 */
static unsigned kill_flags(const struct request *request, const struct fuse_write_in *in)
{
	struct ash_attr attr;

	if (!(in->write_flags & FUSE_WRITE_KILL_SUIDGID))
		return 0;
	if (ash_getattr(request->front->volume, request->nodeid, &attr))
		return ASH_WRITE_KILL_SUIDGID | ASH_WRITE_KILL_SGID;
	if (!(attr.mode & (S_ISUID | S_ISGID)))
		return 0;
	return ASH_WRITE_KILL_SUIDGID | (request_is_outside_group(request, attr.gid) ? ASH_WRITE_KILL_SGID : 0);
}

static unsigned write_flags(const struct request *request, const struct fuse_write_in *in)
{
	unsigned flags = kill_flags(request, in);
	if (in->flags & O_DIRECT)
		flags |= ASH_WRITE_THROUGH;
	if (in->flags & O_DSYNC)
		flags |= (in->flags & O_SYNC) == O_SYNC ? ASH_WRITE_SYNC :
							  ASH_WRITE_DSYNC; /* O_SYNC has the bit of O_DSYNC */
	return flags;
}

static void write_reply(struct request *request, int64_t result)
{
	struct fuse_write_out out = { .size = (uint32_t)result };

	if (result < 0)
		reply_error(request, (int)result);
	else
		reply_data(request, &out, sizeof(out));
}

static void write_done(void *user, int64_t result)
{
	struct request *request = user;

	write_reply(request, result);
	request_finish(request);
}

static bool submit_write(struct request *request, const void *data, const struct fuse_write_in *in, unsigned flags)
{
	struct front *front = request->front;

	if ((!(flags & ASH_WRITE_THROUGH) && in->size < ASYNC_WRITE_MINIMUM) || (flags & ASH_WRITE_KILL_SUIDGID) ||
	    !others_wait(front))
		return false;
	current_worker->keep_lead = true;
	int rc =
		ash_submit_write(front->queue, request->nodeid, data, in->size, in->offset, flags, write_done, request);
	current_worker->keep_lead = false;
	return rc > 0;
}

/*
 * All of it, or an error. The kernel does not look at the count of what comes from the page cache: a short one would lose
 * the rest without an error. Of a short one with O_DIRECT it makes EIO. So the rest is tried again, until it is done or the
 * reason is known. Growth that was not acknowledged the kernel takes back.
 */
static int64_t write_whole(struct request *request, const struct fuse_write_in *in, unsigned flags)
{
	const unsigned char *data = (const unsigned char *)(in + 1);
	int64_t done = 0;

	while (done < in->size) {
		int64_t more = ash_write(request->front->volume, request->nodeid, data + done, in->size - (size_t)done,
					 in->offset + (uint64_t)done, flags);
		if (more <= 0)
			return more ? more : -EIO;
		done += more;
	}
	return done;
}

/* The flags of the file and the credentials are guesses. */
static int64_t write_pages(struct request *request, const struct fuse_write_in *in)
{
	return write_whole(request, in, ASH_WRITE_NO_TIMES);
}

static bool write_back(struct request *request)
{
	crew_kick(current_worker);
	int64_t result = write_pages(request, request->argument);
	full_written(request->front, request->nodeid, result);
	write_reply(request, result);
	/* chattr +i since: the kernel took the data, and would go on showing it. */
	return result == -EPERM && notify_pages_refused(request);
}

/* It was kept, and others wait behind it: is there nobody to whom it matters any more? An error, or 0. */
static int abandoned(const struct request *request)
{
	if (!request->kept)
		return 0;
	if (atomic_load(&request->front->crew.stopping))
		return -EIO; /* the connection has ended */
	/* To ask takes as long as many writes do: only of those who have waited for a while. */
	return front_now_ns() - request->kept > ABANDONED_NS && caller_is_killed((pid_t)request->in->pid) ? -EINTR : 0;
}

/* Past the page cache; raw_write() has looked at the arguments. */
static bool write_through(struct request *request)
{
	const struct fuse_write_in *in = request->argument;
	/* Past the write-behind buffer as O_SYNC wants it; who waits for the flush is decided when it is written. */
	const unsigned durable = request->write_flags & (ASH_WRITE_SYNC | ASH_WRITE_DSYNC);
	const unsigned flags = durable ? (request->write_flags & ~durable) | ASH_WRITE_THROUGH : request->write_flags;

	crew_kick(current_worker);
	int64_t result = abandoned(request);
	if (!result && in->flags & O_DIRECT)
		result = write_whole(request, in, flags);
	else if (!result)
		result = ash_write(request->front->volume, request->nodeid, in + 1, in->size, in->offset, flags);
	/* The kernel goes on believing in the old mode: a set-user-id that is gone must not be executed. */
	if (flags & ASH_WRITE_KILL_SUIDGID)
		notify_attributes_now(request->front, request->nodeid);
	/* On a sync volume, or with chattr +S, its reply waits anyway, for all of this (ash_defer_begin()). */
	if (result > 0 && durable && !ash_defer_is_due()) {
		request->written = (uint32_t)result;
		return sync_serve(request, ASH_FSYNC_WRITTEN | (durable & ASH_WRITE_SYNC ? 0 : ASH_FSYNC_DATA));
	}
	write_reply(request, result);
	return false;
}

bool raw_write(struct request *request)
{
	const struct fuse_write_in *in = request_argument(request, struct fuse_write_in);

	if (!in)
		return false;
	const unsigned char *data = (const unsigned char *)(in + 1);
	if (in->size > request->argument_length - sizeof(*in)) {
		reply_error(request, -EINVAL);
		return false;
	}
	if (in->write_flags & FUSE_WRITE_CACHE)
		return write_keep(request, write_back) || write_back(request);
	request->write_flags = write_flags(request, in);
	request->kept = 0;
	if (submit_write(request, data, in, request->write_flags))
		return true;
	return write_keep(request, write_through) || write_through(request);
}

bool raw_seek(struct request *request)
{
	const struct fuse_lseek_in *in = request_argument(request, struct fuse_lseek_in);

	if (!in)
		return false;
	if (in->whence != SEEK_DATA && in->whence != SEEK_HOLE) {
		reply_error(request, -EINVAL);
		return false;
	}
	request->seek_offset = in->offset;
	request->seek_whence = (int)in->whence;
	/* The one answer that is certain now: data right here. To look further takes too long for whom others wait for. */
	int64_t result = in->whence == SEEK_DATA ? ash_seek_before(request->front->volume, request->nodeid, in->offset,
								   SEEK_DATA, in->offset + 1) :
						   -ENXIO;
	if (result >= 0 && result == (int64_t)in->offset) {
		struct fuse_lseek_out out = { .offset = in->offset };

		reply_data(request, &out, sizeof(out));
		return false;
	}
	notify_seek(request);
	return true;
}

#define COPY_RANGE_MAX (8u << 20)

/*
 * A short copy is always allowed: a caller that is to be killed need not wait for the rest of a large file, nor others for a
 * worker.
 */
static bool copy_range(struct request *request)
{
	const struct fuse_copy_file_range_in *in = &request->copy;
	bool wide = request->opcode != FUSE_COPY_FILE_RANGE;
	uint64_t length = in->len < COPY_RANGE_MAX ? in->len : COPY_RANGE_MAX;
	int64_t copied = -EINVAL;

	if (atomic_load(&request->front->crew.stopping))
		copied = -EIO; /* it was kept, and the connection has ended: nobody would get the answer */
	else if (!request->memory && caller_is_killed(request->copies_for))
		copied = -EINTR; /* it was kept, and others wait behind it */
	else if (!in->flags)
		copied = ash_copy_range(request->front->volume, request->nodeid, in->off_in, in->nodeid_out,
					in->off_out, length);
	struct protocol_copy_range_out out = { .bytes_copied = (uint64_t)copied };
	if (wide && copied >= 0)
		reply_data(request, &out, sizeof(out));
	else
		write_reply(request, copied);
	return false;
}

bool raw_copy_range(struct request *request)
{
	const struct fuse_copy_file_range_in *in = request_argument(request, struct fuse_copy_file_range_in);

	if (!in)
		return false;
	request->copy = *in;
	request->copies_for = (pid_t)request->in->pid;
	return write_keep(request, copy_range) || copy_range(request);
}
