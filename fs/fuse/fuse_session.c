/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * From a request to its handler.
 *
 * libfuse's low-level API knows most kinds of requests. Some never reach it: those that libfuse 3.14 does not know
 * (SYNCFS, TMPFILE, STATX, COPY_FILE_RANGE_64), those whose flags it drops (WRITE, SETATTR, OPEN and SETXATTR carry the
 * duties of HANDLE_KILLPRIV_V2, READDIR and READDIRPLUS O_NOATIME), those that are answered later from another thread,
 * data, where no byte should be copied twice, and the most frequent ones (fuse_ops_frequent.c). They are in
 * `raw_handlers`.
 *
 * The reply to INIT is libfuse's with our own set of flags: what this front end relies on is decided in one place,
 * feature_flags() below, and not by the defaults of a library.
 *
 * Locking: `buffers_lock` protects the free list. Everything else belongs to the worker that calls.
 */
#include "fuse_front.h"
#include "fuse_protocol.h"
#include "mkfs/standard.h"

#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define FREE_BUFFERS 20u /* kept; each may hold 1 MiB of memory */

/* ---- Buffers ---- */

/* `memory`: NULL for a request without a buffer. */
static void request_set_memory(struct request *request, unsigned char *memory, size_t size)
{
	request->memory = memory;
	request->memory_size = size;
	request->payload = memory ? memory + BUFFER_HEAD_ROOM : NULL;
	request->in = memory ? (const void *)(memory + BUFFER_REQUEST_OFFSET) : NULL;
	request->argument = memory ? request->in + 1 : NULL;
}

struct request *request_detach(struct request *request)
{
	struct request *spare = calloc(1, sizeof(*spare));

	if (!spare)
		return NULL;
	spare->front = request->front;
	request_set_memory(spare, request->memory, request->memory_size);
	request_set_memory(request, NULL, 0);
	return spare;
}

struct request *request_shrink(struct request *request)
{
	const size_t size = BUFFER_REQUEST_OFFSET + request->length;
	unsigned char *memory = bdev_buffer_alloc(size);
	struct request *spare = memory ? request_detach(request) : NULL;

	if (!spare) {
		bdev_buffer_free(memory, size);
		return NULL;
	}
	memcpy(memory + BUFFER_REQUEST_OFFSET, spare->memory + BUFFER_REQUEST_OFFSET, request->length);
	request_set_memory(request, memory, size);
	return spare;
}

void request_attach(struct request *request, struct request *spare)
{
	request_set_memory(request, spare->memory, spare->memory_size);
	free(spare);
}

struct request *request_get(struct front *front)
{
	pthread_mutex_lock(&front->buffers_lock);
	struct request *request = front->free_buffers;
	if (request) {
		front->free_buffers = request->next;
		front->free_count--;
	}
	pthread_mutex_unlock(&front->buffers_lock);
	if (request)
		return request;
	request = calloc(1, sizeof(*request));
	if (!request)
		return NULL;
	unsigned char *memory = bdev_buffer_alloc(BUFFER_SIZE);
	if (!memory) {
		free(request);
		return NULL;
	}
	request->front = front;
	request_set_memory(request, memory, BUFFER_SIZE);
	return request;
}

static void request_free(struct request *request)
{
	if (request->memory)
		bdev_buffer_free(request->memory, request->memory_size);
	free(request);
}

void request_put(struct request *request)
{
	struct front *front = request->front;

	pthread_mutex_lock(&front->buffers_lock);
	bool keep = request->memory_size == BUFFER_SIZE && front->free_count < FREE_BUFFERS;
	if (keep) {
		request->next = front->free_buffers;
		front->free_buffers = request;
		front->free_count++;
	}
	pthread_mutex_unlock(&front->buffers_lock);
	if (!keep)
		request_free(request);
}

static void buffers_free(struct front *front)
{
	while (front->free_buffers) {
		struct request *request = front->free_buffers;
		front->free_buffers = request->next;
		request_free(request);
	}
}

void *session_scratch(void)
{
	/* Behind whatever name is still pointed to: requests that use this are shorter than a page. */
	return current_worker->request->payload + 8192;
}

/* ---- Replies ---- */

static const char *const opcode_names[] = {
	[FUSE_LOOKUP] = "LOOKUP",
	[FUSE_FORGET] = "FORGET",
	[FUSE_GETATTR] = "GETATTR",
	[FUSE_SETATTR] = "SETATTR",
	[FUSE_READLINK] = "READLINK",
	[FUSE_SYMLINK] = "SYMLINK",
	[FUSE_MKNOD] = "MKNOD",
	[FUSE_MKDIR] = "MKDIR",
	[FUSE_UNLINK] = "UNLINK",
	[FUSE_RMDIR] = "RMDIR",
	[FUSE_RENAME] = "RENAME",
	[FUSE_LINK] = "LINK",
	[FUSE_OPEN] = "OPEN",
	[FUSE_READ] = "READ",
	[FUSE_WRITE] = "WRITE",
	[FUSE_STATFS] = "STATFS",
	[FUSE_RELEASE] = "RELEASE",
	[FUSE_FSYNC] = "FSYNC",
	[FUSE_SETXATTR] = "SETXATTR",
	[FUSE_GETXATTR] = "GETXATTR",
	[FUSE_LISTXATTR] = "LISTXATTR",
	[FUSE_REMOVEXATTR] = "REMOVEXATTR",
	[FUSE_FLUSH] = "FLUSH",
	[FUSE_INIT] = "INIT",
	[FUSE_OPENDIR] = "OPENDIR",
	[FUSE_READDIR] = "READDIR",
	[FUSE_RELEASEDIR] = "RELEASEDIR",
	[FUSE_FSYNCDIR] = "FSYNCDIR",
	[FUSE_GETLK] = "GETLK",
	[FUSE_SETLK] = "SETLK",
	[FUSE_SETLKW] = "SETLKW",
	[FUSE_ACCESS] = "ACCESS",
	[FUSE_CREATE] = "CREATE",
	[FUSE_INTERRUPT] = "INTERRUPT",
	[FUSE_BMAP] = "BMAP",
	[FUSE_DESTROY] = "DESTROY",
	[FUSE_IOCTL] = "IOCTL",
	[FUSE_POLL] = "POLL",
	[FUSE_NOTIFY_REPLY] = "NOTIFY_REPLY",
	[FUSE_BATCH_FORGET] = "BATCH_FORGET",
	[FUSE_FALLOCATE] = "FALLOCATE",
	[FUSE_READDIRPLUS] = "READDIRPLUS",
	[FUSE_RENAME2] = "RENAME2",
	[FUSE_LSEEK] = "LSEEK",
	[FUSE_COPY_FILE_RANGE] = "COPY_FILE_RANGE",
	[FUSE_SYNCFS] = "SYNCFS",
	[FUSE_TMPFILE] = "TMPFILE",
	[PROTOCOL_STATX] = "STATX",
	[PROTOCOL_COPY_FILE_RANGE_64] = "COPY_FILE_RANGE_64",
};

static void request_trace(const struct request *request)
{
	const char *name = request->opcode < PROTOCOL_OPCODES ? opcode_names[request->opcode] : NULL;

	fprintf(stderr, "%" PRIu64 " %s(%u) node %" PRIu64 " length %zu: %d, %" PRIu64 " us\n", request->unique,
		name ? name : "?", request->opcode, request->nodeid, request->length, request->result,
		(front_now_ns() - request->started) / 1000);
}

int reply_error(struct request *request, int error)
{
	struct fuse_out_header out = { .len = sizeof(out), .error = error, .unique = request->unique };
	struct iovec iov = { .iov_base = &out, .iov_len = sizeof(out) };

	request->result = error;
	if (!error && sync_keep_reply(request, &iov, 1))
		return 0;
	return transport_send(request->channel, &iov, 1);
}

int reply_data(struct request *request, const void *data, size_t length)
{
	struct fuse_out_header out = { .len = (uint32_t)(sizeof(out) + length), .unique = request->unique };
	struct iovec iov[2] = { { .iov_base = &out, .iov_len = sizeof(out) },
				{ .iov_base = (void *)data, .iov_len = length } };

	request->result = 0;
	if (sync_keep_reply(request, iov, length ? 2 : 1))
		return 0;
	return transport_send(request->channel, iov, length ? 2 : 1);
}

int reply_payload(struct request *request, size_t length)
{
	struct fuse_out_header *out = (struct fuse_out_header *)request->payload - 1;
	struct iovec iov = { .iov_base = out, .iov_len = sizeof(*out) + length };

	*out = (struct fuse_out_header){ .len = (uint32_t)(sizeof(*out) + length), .unique = request->unique };
	request->result = 0;
	return transport_send(request->channel, &iov, 1);
}

void request_finish(struct request *request)
{
	if (request->front->options.debug)
		request_trace(request);
	request_put(request);
}

/* ---- Arguments ---- */

const void *request_argument_check(struct request *request, size_t size)
{
	if (request->argument_length >= size)
		return request->argument;
	reply_error(request, -EINVAL);
	return NULL;
}

const char *request_name(struct request *request, size_t offset)
{
	const char *name = (const char *)request->argument + offset;

	if (request->argument_length > offset && memchr(name, '\0', request->argument_length - offset))
		return name;
	reply_error(request, -EINVAL);
	return NULL;
}

/* ---- Dispatch ---- */

bool raw_unsupported(struct request *request)
{
	reply_error(request, -ENOSYS);
	return false;
}

static const request_handler raw_handlers[PROTOCOL_OPCODES] = {
	[FUSE_LOOKUP] = raw_lookup,
	[FUSE_GETATTR] = raw_getattr,
	[FUSE_MKNOD] = raw_mknod,
	[FUSE_MKDIR] = raw_mkdir,
	[FUSE_UNLINK] = raw_unlink,
	[FUSE_FORGET] = raw_forget,
	[FUSE_BATCH_FORGET] = raw_batch_forget,
	[FUSE_FSYNC] = raw_fsync,
	[FUSE_FSYNCDIR] = raw_fsync,
	[FUSE_GETXATTR] = raw_getxattr,
	[FUSE_READ] = raw_read,
	[FUSE_WRITE] = raw_write,
	[FUSE_LSEEK] = raw_seek,
	[FUSE_COPY_FILE_RANGE] = raw_copy_range,
	[PROTOCOL_COPY_FILE_RANGE_64] = raw_copy_range,
	[FUSE_SETATTR] = raw_setattr,
	[PROTOCOL_STATX] = raw_statx,
	[FUSE_OPEN] = raw_open,
	[FUSE_OPENDIR] = raw_opendir,
	[FUSE_READDIR] = raw_readdir,
	[FUSE_READDIRPLUS] = raw_readdirplus,
	[FUSE_TMPFILE] = raw_tmpfile,
	[FUSE_SETXATTR] = raw_setxattr,
	[FUSE_IOCTL] = raw_ioctl,
	[FUSE_SYNCFS] = raw_syncfs,
	/* ENOSYS once, and the kernel does it alone from then on. */
	[FUSE_FLUSH] = raw_unsupported,
	[FUSE_ACCESS] = raw_unsupported,
	[FUSE_POLL] = raw_unsupported,
	[FUSE_INTERRUPT] = raw_unsupported,
};

void session_pass(struct request *request)
{
	struct fuse_buf buffer = { .mem = (void *)request->in, .size = request->length };

	fuse_session_process_buf(request->front->session, &buffer);
}

/*
 * As long as nobody opens a file that exists, the kernel has not learnt that OPEN is not answered, and sends a RELEASE
 * for every file that CREATE opened. With CREATE unanswered too it uses MKNOD and opens alone. Volumes that answer OPEN
 * answer CREATE, by operation_create(): one request instead of two.
 */
static bool create_is_answered(const struct request *request)
{
	return request->opcode != FUSE_CREATE || request->front->answers_open;
}

static void initialised(struct front *front)
{
	uint64_t one = 1;

	mount_tune(front);
	atomic_store(&front->initialised, true);
	if (write(front->up, &one, sizeof(one)) < 0)
		front_log(front, ASH_LOG_ERROR, "cannot signal that the mount is up");
}

/* After DESTROY: the kernel may still send FORGETs, which want no reply. */
static bool without_volume(struct request *request)
{
	if (request->opcode != FUSE_FORGET && request->opcode != FUSE_BATCH_FORGET)
		reply_error(request, -EIO);
	return false;
}

static bool handle(struct request *request)
{
	if (!request->front->volume)
		return without_volume(request);
	if (request->opcode < PROTOCOL_OPCODES && raw_handlers[request->opcode])
		return raw_handlers[request->opcode](request);
	if (!create_is_answered(request))
		return raw_unsupported(request);
	session_pass(request);
	return false;
}

bool session_run(struct request *request, bool (*handler)(struct request *request))
{
	uint64_t lsn;

	ash_defer_begin(request->front->volume);
	bool kept = handler(request);
	/* Whoever keeps a request has not replied. */
	if (ash_defer_end(&lsn) && !kept && request->late_length)
		kept = sync_serve_late(request, lsn);
	return kept;
}

void session_dispatch(struct worker *worker)
{
	struct request *request = worker->request;
	struct front *front = worker->front;

	request->argument_length = request->length - sizeof(*request->in);
	request->opcode = request->in->opcode;
	request->unique = request->in->unique;
	request->nodeid = request->in->nodeid;
	request->result = 0;
	request->late_length = 0;
	request->late_links = 0;
	if (front->options.debug)
		request->started = front_now_ns();
	if (session_run(request, handle)) {
		worker->request = NULL; /* the leader gets another */
		return;
	}
	if (front->options.debug)
		request_trace(request);
	if (request->opcode == FUSE_INIT && !atomic_load(&front->initialised))
		initialised(front);
}

/* ---- libfuse ---- */

/*
 * What the connection is to be like, as a subset of what the kernel offers. Left out on purpose: ATOMIC_O_TRUNC
 * (OPEN is not answered: the truncation would be lost), AUTO_INVAL_DATA (nobody else changes files, and it costs a
 * GETATTR for each read), NO_OPENDIR_SUPPORT (see raw_opendir()), POSIX_LOCKS and FLOCK_LOCKS (the kernel does them
 * alone), the SPLICE flags (slower for small requests).
 */
static uint32_t feature_flags(const struct front *front)
{
	uint32_t flags = FUSE_ASYNC_READ | FUSE_EXPORT_SUPPORT | FUSE_BIG_WRITES | FUSE_DONT_MASK | FUSE_HAS_IOCTL_DIR |
			 FUSE_DO_READDIRPLUS | FUSE_READDIRPLUS_AUTO | FUSE_ASYNC_DIO | FUSE_WRITEBACK_CACHE |
			 FUSE_PARALLEL_DIROPS | FUSE_POSIX_ACL | FUSE_MAX_PAGES | FUSE_CACHE_SYMLINKS |
			 FUSE_HANDLE_KILLPRIV_V2 | FUSE_SETXATTR_EXT | FUSE_ABORT_ERROR;

	return front->answers_open ? flags : flags | FUSE_NO_OPEN_SUPPORT;
}

/* Offered by the kernel: INIT is the only request that is in the buffer while this is called. */
static void init_reply_patch(struct front *front, struct fuse_init_out *out)
{
	const struct request *request = current_worker->request;
	const struct fuse_init_in *in = request->argument;
	const size_t flags_end = offsetof(struct fuse_init_in, flags) + sizeof(in->flags);

	if (request->argument_length < flags_end)
		return;
	front->protocol_minor = in->minor;
	out->flags = feature_flags(front) & in->flags;
	out->flags2 = 0;
	out->max_readahead = in->max_readahead;
	out->max_write = FRONT_MAX_WRITE;
	out->max_pages = FRONT_MAX_PAGES;
	out->max_background = FRONT_QUEUE_DEPTH;
	out->congestion_threshold = FRONT_QUEUE_DEPTH * 3 / 4;
	out->time_gran = 1;
}

static ssize_t session_writev(int descriptor, struct iovec *iov, int count, void *context)
{
	struct front *front = context;
	struct fuse_out_header *out = iov[0].iov_base;
	struct worker *worker = current_worker;

	if (worker && out->unique) {
		descriptor = worker->request->channel;
		worker->request->result = out->error;
		if (worker->request->opcode == FUSE_INIT && count == 2 &&
		    iov[1].iov_len >= sizeof(struct fuse_init_out))
			init_reply_patch(front, iov[1].iov_base);
		if (!out->error && sync_keep_reply(worker->request, iov, count))
			return out->len;
	}
	int rc = transport_send(descriptor, iov, count);
	if (rc == 0)
		return out->len;
	errno = -rc;
	return -1;
}

/* libfuse insists on one; requests are received by the transport. */
static ssize_t session_read(int descriptor, void *buffer, size_t size, void *context)
{
	(void)context;
	return read(descriptor, buffer, size);
}

static void operation_init(void *context, struct fuse_conn_info *connection)
{
	(void)context;
	/* Only for libfuse's own checks; the kernel gets what init_reply_patch() says. */
	connection->max_write = FRONT_MAX_WRITE;
	connection->want &= connection->capable;
	connection->want |= connection->capable & (FUSE_CAP_DONT_MASK | FUSE_CAP_IOCTL_DIR | FUSE_CAP_READDIRPLUS);
	connection->want &= ~(unsigned)(FUSE_CAP_SPLICE_READ | FUSE_CAP_SPLICE_WRITE | FUSE_CAP_SPLICE_MOVE);
}

/*
 * fuseblk: umount(2) waits for the reply to this. Afterwards everything is on the device and the device is free
 * but for the kernel's own claim, which ends with umount(2).
 */
static void operation_destroy(void *context)
{
	struct front *front = context;
	struct worker *worker = current_worker;

	if (!worker)
		return; /* session_close(), not a request */
	worker->keep_lead = true;
	crew_quiesce(front);
	notify_stop(front);
	device_close(front);
	worker->keep_lead = false;
}

static void log_libfuse(enum fuse_log_level level, const char *format, va_list arguments)
{
	char line[1024];

	if (level > FUSE_LOG_ERR)
		return;
	vsnprintf(line, sizeof(line), format, arguments);
	line[strcspn(line, "\n")] = 0;
	standard_clean(line);
	fprintf(stderr, "%s\n", line);
}

int session_open(struct front *front)
{
	struct fuse_lowlevel_ops operations = { .init = operation_init, .destroy = operation_destroy };
	struct fuse_args args = FUSE_ARGS_INIT(0, NULL);

	fuse_set_log_func(log_libfuse);
	ops_fill(&operations);
	ops_directory_fill(&operations);
	ops_xattr_fill(&operations);
	ops_ioctl_fill(&operations);
	if (fuse_opt_add_arg(&args, "ashlarfs") || mount_arguments(front, &args)) {
		fuse_opt_free_args(&args);
		return -ENOMEM;
	}
	front->session = fuse_session_new(&args, &operations, sizeof(operations), front);
	fuse_opt_free_args(&args);
	return front->session ? 0 : -ENOMEM;
}

int session_connect(struct front *front, int descriptor)
{
	static const struct fuse_custom_io io = { .writev = session_writev, .read = session_read };

	/* The session closes the descriptor at its end. */
	if (fuse_session_custom_io(front->session, &io, descriptor))
		return -EINVAL;
	return transport_open(&front->transport, descriptor);
}

void session_close(struct front *front)
{
	if (front->session)
		fuse_session_destroy(front->session);
	front->session = NULL;
	transport_close(&front->transport);
	buffers_free(front);
}
