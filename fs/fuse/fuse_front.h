/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The FUSE front end: one mount of one volume.
 *
 * The way of a request, file by file:
 *
 *	fuse_transport_dev.c  read from /dev/fuse into a request buffer, by the thread that leads
 *	fuse_workers.c        who leads; reading and replying goes on while a leader waits for the device
 *	fuse_session.c        dispatch: our own handler for an opcode, else libfuse's low-level operations
 *	fuse_ops*.c           the handlers: check, call the volume API (ashlar.h), reply
 *	fuse_sync.c           who waits for the device's flush, writes or copies, so that not all workers do
 *	fuse_full.c           whose data found no room: the next write(2) has to fail
 *	fuse_caller.c         whether who asks is an administrator, or writes
 *
 * and beside it fuse_options.c and fuse_device.c (what the command line says and opens), fuse_mount.c (the
 * kernel's side of mounting), fuse_notify.c (what we tell the kernel unasked), fuse_log.c (what we tell people),
 * fuse_main.c (life and death).
 *
 * Locking. The front end keeps almost nothing that is shared: the leadership (one atomic word), the list of free
 * request buffers, the list of inodes to tell the kernel about, the requests that wait for a flush, files without
 * room, lines for people. Each has a lock of its own, a leaf held for a few instructions. No lock of the front end is
 * held while the volume is called or the kernel written to.
 *
 * Rules
 * - A request buffer belongs to the request in it until the reply is sent. An asynchronous request takes its
 *   buffer along and the worker gets another.
 * - A reply goes to the channel (descriptor) that its request came from.
 * - Counts given in a reply that could not be delivered are taken back (ash_forget()).
 * - The queue of asynchronous data requests belongs to the role of the leader, not to a thread. Inside calls on the
 *   queue leadership is not given away.
 */
#ifndef ASHLAR_FUSE_FRONT_H
#define ASHLAR_FUSE_FRONT_H

#define FUSE_USE_VERSION 314

#include <ashlar/ashlar.h>
#include <fuse_lowlevel.h>
#include <linux/fuse.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "fuse_options.h"
#include "fuse_transport.h"

#define FRONT_MAX_WRITE (1024u * 1024u) /* bytes of data in one READ or WRITE */
#define FRONT_MAX_PAGES (FRONT_MAX_WRITE / 4096u)
#define FRONT_QUEUE_DEPTH 64u /* data requests in flight on the device */
#define FRONT_SCRATCH_SIZE FRONT_MAX_WRITE
#define FRONT_XATTR_LIMIT 65536u /* bytes: XATTR_SIZE_MAX and XATTR_LIST_MAX of <linux/limits.h> */

/* Seconds. The volume is changed through this mount alone, so that names and attributes stay valid for ever. */
#define FRONT_TIMEOUT_SECONDS 0x7fffffffu

struct front;
struct worker;

/*
 * Memory of one request, a multiple of pages:
 *
 *	| page of head room, the request starts 80 bytes before its end | payload, 1 MiB | scratch page |
 *
 * 80 bytes are the headers of a WRITE, so that its data begins at `payload`, page-aligned: no copy before O_DIRECT.
 * The headers of a READ have 80 bytes too: its data is read to `payload`, with the reply's header right before it.
 */
#define BUFFER_HEAD_ROOM 4096u
#define BUFFER_REQUEST_OFFSET (BUFFER_HEAD_ROOM - 80u)
#define BUFFER_SIZE (BUFFER_HEAD_ROOM + FRONT_MAX_WRITE + 8192u)

/* Bytes of the longest reply to a change: a new inode that is opened with it. */
#define LATE_REPLY_MAX (sizeof(struct fuse_out_header) + sizeof(struct fuse_entry_out) + sizeof(struct fuse_open_out))

struct request {
	struct front *front;
	struct request *next;            /* free list, or the list of the notifier or of fuse_sync.c */
	unsigned char *memory;           /* NULL once detached: what is below `channel` is left */
	unsigned char *payload;          /* memory + BUFFER_HEAD_ROOM */
	const struct fuse_in_header *in; /* memory + BUFFER_REQUEST_OFFSET */
	const void *argument;            /* behind the header */
	size_t memory_size;              /* bytes: BUFFER_SIZE, or less after request_shrink() */
	size_t length;                   /* bytes received */
	size_t argument_length;
	int channel; /* descriptor for the reply */
	/* Kept apart, since a reply overwrites the headers. */
	uint32_t opcode;
	uint64_t unique, nodeid;
	uint64_t started; /* ns, with -d */
	int32_t result;   /* error of the reply, for -d */
	/* On its way through the notifier: what is to be done there, and with what */
	void (*later)(struct request *request);
	uint64_t seek_offset;
	int seek_whence;
	uint32_t inode_flags;
	/* To be made durable */
	unsigned sync_flags; /* of struct ash_fsync */
	uint32_t written;    /* bytes, of a WRITE */
	bool (*write_job)(struct request *request);
	unsigned write_flags;                /* ASH_WRITE_..., of a WRITE past the page cache */
	uint64_t kept;                       /* ns, when such a one was; 0: it was not */
	struct fuse_copy_file_range_in copy; /* arguments of a copy, */
	pid_t copies_for;                    /* and the thread that waits for it */
	uint64_t sync_begin;                 /* of a SYNCFS: ash_sync_begin() */
	/* The reply of a change that has to be durable first, because of `-o sync` or chattr +S */
	uint64_t late_lsn;
	uint64_t late_links; /* the inode that lost one of several names; 0: none */
	size_t late_length;  /* bytes; 0: none */
	_Alignas(8) unsigned char late[LATE_REPLY_MAX];
};

/* One thread that may lead. */
struct worker {
	struct front *front;
	struct request *request; /* the buffer for the next or current request */
	struct worker *next;
	pthread_t thread;
	bool leading;
	bool keep_lead; /* inside a call on the queue, or in DESTROY: do not offer the lead */
	bool alone;     /* no request was waiting a moment ago, within this one: the next wait need not ask */
	bool syncing;   /* counted in syncs.active */
	bool writing;   /* counted in syncs.writing */
	unsigned waits; /* nesting of wait_begin() */
	uint64_t offer; /* number of the wait in which the lead is offered; 0: none */
};

/* On which core the leader runs: fuse_follow.c. Belongs to the leader, but for what is atomic. */
struct follow {
	cpu_set_t allowed;
	bool enabled;    /* there is more than one core to choose from */
	int bound;       /* core that the leader is bound to; -1: none */
	uint32_t caller; /* thread that was looked at last */
	unsigned skipped, bulk_run;
	unsigned calm; /* requests to come before it is bound again */
	uint64_t sampled, moved, move_ns;
	uint64_t warm_until; /* polling before a move; 0: not */
	int target;          /* of that move */
	pthread_t lookout;
	_Atomic uint32_t ask;  /* futex: thread that is to be looked at; 0: none */
	_Atomic uint64_t seen; /* what the lookout saw: thread << 32 | core + 1; 0: nothing new */
};

/* Leader and followers: fuse_workers.c. */
struct crew {
	_Atomic uint64_t offer;  /* the wait during which the leader may be replaced; 0: none */
	_Atomic uint64_t waits;  /* waits so far */
	_Atomic uint64_t urgent; /* the offer that should be taken at once */
	_Atomic uint32_t bell;   /* futex: wakes the watcher */
	_Atomic bool dormant;    /* the watcher sleeps until the bell rings */
	_Atomic bool stopping;
	pthread_mutex_t lock;     /* the rest */
	pthread_cond_t calmer;    /* one more is idle */
	pthread_cond_t unwatched; /* there is no watcher, or the crew stops */
	bool watching;            /* some follower is the watcher */
	unsigned total, idle, limit;
	struct worker *all;
};

/* Who waits for the device's flush, and who writes past our buffer or from the page cache, or copies: fuse_sync.c. */
#define SYNC_SPARED_WORKERS 2u /* one leads, one watches it: they serve the rest, whatever the others wait for */
struct syncs {
	pthread_mutex_t lock;
	struct request *kept; /* about in the order of arrival */
	struct request **kept_end;
	size_t kept_count;
	struct request *writes; /* WRITEs and copies, in the order of arrival */
	struct request **writes_end;
	unsigned pages_count;           /* of WRITEs from the page cache, which have their data with them */
	size_t direct_bytes;            /* memory of the other WRITEs */
	unsigned active, writing, both; /* workers: wait for flushes; write; do one after the other */
	unsigned limit;                 /* of all of them, unless one alone does what it does */
};

/* Files of which the page cache holds data that found no room: fuse_full.c. */
#define FULL_FILES 64u
struct full_file {
	uint64_t ino;
	uint64_t available; /* bytes, when the last WRITE failed, */
	uint64_t failed;    /* ns */
	int error;
};

struct full_files {
	_Atomic unsigned count;
	pthread_mutex_t lock;
	struct full_file files[FULL_FILES]; /* in the order in which they came */
};

/* What the kernel is told unasked, by a thread of its own: fuse_notify.c. */
#define LATE_NOTICES 1024u
struct late_notice {
	uint64_t ino, due; /* ns */
	bool answered;     /* the kernel was told of its attributes since: it may have counted twice */
};

struct notifier {
	pthread_t thread;
	pthread_mutex_t lock;
	pthread_cond_t changed;
	uint64_t *inodes; /* ring of inodes whose attributes changed, or pages (NOTICE_PAGES) */
	size_t head, count, size;
	struct late_notice late[LATE_NOTICES]; /* ring, in the order in which they are due */
	size_t late_head;
	_Atomic size_t late_count;
	struct request *jobs; /* requests that need the kernel's dirty pages first */
	struct request **jobs_end;
	bool started, stopping;
};

#define AWAKE_MAX_CORES 4u
struct awake;
struct awake_thread {
	pthread_t thread;
	struct awake *awake;
	int core;
};

enum awake_heat {
	AWAKE_COLD, /* sleep */
	AWAKE_HOT,  /* spin */
	AWAKE_END,  /* for good */
};

/* Cores kept from halting while requests follow each other: fuse_awake.c. */
struct awake {
	/* what the spinners look at all the time, so it is written seldom */
	_Alignas(64) _Atomic uint64_t last; /* ns, of the last request */
	_Atomic uint32_t hot;               /* futex: enum awake_heat */
	_Atomic int core;                   /* the leader's */
	_Atomic bool stopping;
	_Alignas(64) uint64_t recent; /* ns, of the last request; the leader's, as is the streak */
	unsigned streak;              /* requests that came close together, at least */
	unsigned unseen;              /* of the next requests, how many will not be looked at */
	uint64_t busy_until;          /* ns; a streak is expected to go on until then */
	unsigned count;
	struct awake_thread threads[AWAKE_MAX_CORES];
};

/* On their way to people: fuse_log.c. */
#define FRONT_LINE 1024u /* bytes */
struct front_line {
	enum ash_log_level level;
	char text[FRONT_LINE];
};

#define LOG_LINES 256u
struct front_log {
	pthread_t thread;
	pthread_mutex_t lock;
	pthread_cond_t changed;
	struct front_line *lines; /* ring */
	size_t head, count;
	unsigned lost; /* lines without room */
	bool passing;  /* the thread has one that it took out */
	bool started, stopping, ended;
};

struct front {
	struct front_options options;
	/* device */
	char *source;       /* path for messages and /proc/mounts */
	struct bdev *guard; /* the image file behind our loop device: holds its owner lock; or NULL */
	struct bdev *device;
	int loop;                  /* descriptor that keeps a loop device alive until it is opened; -1 */
	bool loop_refused;         /* an image, and no loop device can be had */
	bool block_device;         /* mount as fuseblk */
	bool answers_open;         /* some inode may have chattr i or a */
	uint32_t protocol_minor;   /* of the kernel: <linux/fuse.h> has a list of what came with each */
	struct ash_volume *volume; /* NULL before the mount and after DESTROY */
	struct ash_queue *queue;   /* belongs to the leader */
	int close_error;           /* of ash_close() */
	/* kernel */
	char *mountpoint;   /* absolute */
	dev_t mount_number; /* st_dev of the mount; 0: not known */
	struct fuse_session *session;
	struct transport transport;
	struct crew crew;
	struct follow follow;
	struct awake awake;
	struct notifier notifier;
	struct syncs syncs;
	struct full_files full;
	struct front_log log;
	pthread_mutex_t buffers_lock;
	struct request *free_buffers;
	unsigned free_count;
	int up;                   /* eventfd: INIT was answered */
	int down;                 /* eventfd: the connection ended */
	_Atomic bool background;  /* stderr is gone: syslog */
	_Atomic bool initialised; /* INIT was answered */
	int connection_error;     /* why the connection ended otherwise than by unmounting; 0 */
};

/* Does a write past the kernel's cache (FOPEN_DIRECT_IO) take the pages out that it makes stale? From Linux 6.6 on. */
static inline bool front_direct_writes_drop_pages(const struct front *front)
{
	return front->protocol_minor >= 39;
}

/*
 * Can a limit be set for its dirty pages? Before Linux 6.14 a strict one fell to nothing while a mount was idle, and then
 * held writers up.
 */
static inline bool front_limits_dirty_data(const struct front *front)
{
	return front->protocol_minor >= 42;
}

/* ---- fuse_log.c ---- */
/* One line for people: stderr before the daemon is in the background, syslog afterwards. Any lock may be held. */
void front_log(struct front *front, enum ash_log_level level, const char *format, ...)
	__attribute__((format(printf, 3, 4)));
/* From here on nobody waits for those who read. Called once. */
void log_start(struct front *front);
/* No more lines come. False: the last ones could not be passed on in time, and `front` must stay. */
bool log_stop(struct front *front);

/* ---- fuse_main.c ---- */
uint64_t front_now_ns(void);
/* Close all descriptors from `first` up but one (-1: all). */
void front_close_descriptors(int first, int except);

/* ---- fuse_awake.c ---- */
/* Start the threads where they help; nothing is lost where they cannot be had. */
void awake_start(struct front *front);
/* The leader has a request. */
void awake_request(struct awake *awake, bool crowd);
void awake_stop(struct front *front);

/* ---- fuse_device.c ---- */
/* Open device and volume as the options say. On failure a line was printed. */
int device_open(struct front *front);
/* Give up the exclusive claim for the kernel's. */
int device_release_claim(struct front *front);
/* Everything to the device, then close it; may be called twice. */
int device_close(struct front *front);

/* ---- fuse_mount.c ---- */
/* The mount point: exists, is a folder, becomes absolute. On failure a line was printed. */
int mount_check_point(struct front *front);
/* Arguments for libfuse's session: the mount options when fusermount3 mounts for an ordinary user. */
int mount_arguments(struct front *front, struct fuse_args *args);
/* Mount and connect the session. On failure a line was printed. */
int mount_attach(struct front *front);
/*
 * Ask the kernel to unmount; requests must be served meanwhile. `lazy`: also when it is in use. -ENOENT: the mount
 * point does not lead to this mount any more, and nothing was done.
 */
int mount_detach(struct front *front, bool lazy);
/* Detach a mount that is in use, and have the kernel send what it has of it by now. Requests must be served meanwhile. */
void mount_detach_in_use(struct front *front);
/* Have the kernel send its dirty pages, wherever the mount is reached now. Requests must be served meanwhile. */
void mount_write_back(struct front *front);
/* Readahead and dirty limits of the mount, where permitted. */
void mount_tune(struct front *front);

/* ---- fuse_session.c ---- */
int session_open(struct front *front);
/* The session works on this descriptor of /dev/fuse from now on, and owns it. */
int session_connect(struct front *front, int descriptor);
void session_close(struct front *front);
/* The current request is libfuse's to handle. */
void session_pass(struct request *request);
/* Handle the request in the worker's buffer; afterwards the worker has a free buffer again. */
void session_dispatch(struct worker *worker);
/* `handler` does the worker's current request, whose reply waits when it has to be durable first. True: it was kept. */
bool session_run(struct request *request, bool (*handler)(struct request *request));
struct request *request_get(struct front *front);
void request_put(struct request *request);
/*
 * Take the buffer from a request that is to be answered later and needs nothing of it; replies to it and
 * request_finish() go on working. Returns the request that has the buffer now, or NULL (no memory): nothing happened.
 */
struct request *request_detach(struct request *request);
/* The same for a request that needs what was received: it gets a copy in memory of its own, as little as it takes. */
struct request *request_shrink(struct request *request);
/* Undo that. */
void request_attach(struct request *request, struct request *spare);
/* Replies of our own handlers. 0, or negative errno when the kernel did not take it (-ENOENT: interrupted). */
int reply_error(struct request *request, int error);
int reply_data(struct request *request, const void *data, size_t length);
/* The first `length` bytes of the payload, without a copy. */
int reply_payload(struct request *request, size_t length);
/* Ends an asynchronous request: logs it and frees its buffer. */
void request_finish(struct request *request);
/* Scratch memory of the current request, of requests shorter than a page: FRONT_SCRATCH_SIZE bytes. */
void *session_scratch(void);

/* ---- fuse_workers.c ---- */
extern _Thread_local struct worker *current_worker;
int crew_start(struct front *front);
void crew_stop(struct front *front);
void crew_join(struct front *front);
/* Wait until no other worker is inside a request. Called by the leader, which keeps the lead. */
void crew_quiesce(struct front *front);
/*
 * Is another worker inside a request? Only those who are when the caller, leading, begins one: others would need the
 * lead.
 */
bool crew_others(struct front *front);
/*
 * The leader is about to do something else than to submit: what it has submitted goes to the device. Others: nothing.
 */
void crew_kick(struct worker *worker);
void crew_wait_begin(void *context);
void crew_wait_end(void *context);

/* ---- fuse_follow.c ---- */
void follow_start(struct follow *follow);
void follow_stop(struct follow *follow);
struct follow_hint {
	uint32_t caller; /* thread that made the request; 0: the kernel itself */
	bool crowd;      /* requests in flight, or much data: several cores have work */
	bool bulk;       /* such a one, or nobody to follow */
};
/* What a request says, before it is handled; `busy`: others are in flight. */
struct follow_hint follow_look(const struct request *request, bool busy);
/* After the reply, so that looking and moving do not delay it. */
void follow_caller(struct follow *follow, struct follow_hint hint);
/* Poll instead of sleeping? Moves when it is over. */
bool follow_warming(struct follow *follow);
/* Run anywhere again. */
void follow_release(struct follow *follow);

/* ---- fuse_notify.c ---- */
int notify_start(struct front *front);
/*
 * Returns when its thread has ended, whoever calls a second time. Requests must be served meanwhile: see
 * fuse_notify.c.
 */
void notify_stop(struct front *front);
/* For threads of the core: it may wait for the notifier's thread. */
void notify_attributes_changed(void *context, uint64_t ino);
/* Tell the kernel at once that attributes of `ino` changed; the caller holds no lock of the core. */
void notify_attributes_now(struct front *front, uint64_t ino);
/*
 * Tell the kernel soon that what it knows of the attributes of `ino` is not valid. For workers: waits for nothing, and
 * tells nothing where too much waits to be told already.
 */
void notify_attributes_soon(struct front *front, uint64_t ino);
/*
 * An inode is about to be answered to have lost one of several names; see fuse_notify.c. `others`: what crew_others()
 * said before the name went.
 */
void notify_links_changed(struct front *front, uint64_t ino, bool others);
/* Attributes of an inode are about to be answered. Cheap while no link count is in doubt. Any lock may be held. */
void notify_attributes_answered(struct front *front, uint64_t ino);
/*
 * The kernel holds pages of the inode whose WRITE was just refused: it is to forget them. True: the request, which is
 * answered, was kept.
 */
bool notify_pages_refused(struct request *request);
/* Answer SEEK_DATA or SEEK_HOLE after the kernel wrote back the pages that matter. Takes the request. */
void notify_seek(struct request *request);
/* `job` answers and finishes the request in the notifier's thread, where the kernel may be made to write back. */
void notify_later(struct request *request, void (*job)(struct request *request));
/*
 * Make the kernel write back and drop its pages from `offset` to `end` (exclusive; 0: to the end of the file). Only
 * there.
 */
int notify_pages_write_back(struct front *front, uint64_t ino, uint64_t offset, uint64_t end);

/* ---- fuse_sync.c ---- */
void sync_start(struct front *front);
/*
 * Answer FSYNC, FSYNCDIR, SYNCFS, or a WRITE of `written` bytes, when it is durable; `flags`: of struct ash_fsync.
 * True: the request was kept.
 */
bool sync_serve(struct request *request, unsigned flags);
/*
 * A reply without an error to the worker's current request. True: what was done has to be durable first (ash_defer_begin()),
 * and the reply is kept with the request, for sync_serve_late().
 */
bool sync_keep_reply(struct request *request, const struct iovec *iov, int count);
/* Send it when everything before `lsn` is durable. True: the request was kept. */
bool sync_serve_late(struct request *request, uint64_t lsn);
/*
 * The worker has dispatched its request: it serves what was kept meanwhile, if the request waited for a flush. It may
 * go on with WRITEs.
 */
void sync_finish(struct worker *worker);

/*
 * A WRITE that may wait for the device, or a copy, is about to be done. True: it was kept, since there are too many;
 * `job` is called for it later, in a worker, and tells whether it kept the request.
 */
bool write_keep(struct request *request, bool (*job)(struct request *request));
/* The worker has dispatched its request: it does what was kept meanwhile, if it was such a WRITE. Before sync_finish(). */
void write_finish(struct worker *worker);

/* ---- fuse_full.c ---- */
static inline bool full_empty(const struct front *front)
{
	return !atomic_load_explicit(&front->full.count, memory_order_relaxed);
}
/* A WRITE from the page cache is about to be answered by this count or error. Asks the volume. */
void full_written(struct front *front, uint64_t ino, int64_t result);
/* What was lost of the file matters no more. */
void full_forget(struct front *front, uint64_t ino);
/* How long the kernel may believe attributes of the inode: seconds. */
uint64_t full_validity(struct front *front, uint64_t ino);
/* A GETATTR came: the error by which write(2) is to fail; 0: answer it. Offers the lead. */
int full_write_error(struct request *request);

/* ---- fuse_ops*.c: handlers behind libfuse ---- */
void ops_fill(struct fuse_lowlevel_ops *ops);
void ops_directory_fill(struct fuse_lowlevel_ops *ops);
void ops_xattr_fill(struct fuse_lowlevel_ops *ops);
/* st_blocks before an attribute is changed, and, before the reply, tell the kernel if it is another one now. */
uint64_t xattr_blocks(struct front *front, uint64_t ino);
void xattr_blocks_tell(struct front *front, uint64_t ino, uint64_t before);
void ops_ioctl_fill(struct fuse_lowlevel_ops *ops);
struct front *request_front(fuse_req_t request);

/* ---- fuse_caller.c ---- */
/* uid 0 with CAP_SYS_ADMIN. Reads /proc: only for requests of some system calls, see fuse_caller.c. */
bool caller_is_administrator(fuse_req_t request);
/* The thread, which only waits for the reply to die. False when that cannot be known. For copies and direct WRITEs. */
bool caller_is_killed(pid_t pid);
/* Is in a call that writes the request's inode. False when that cannot be known. Only for a GETATTR of an open file. */
bool caller_writes(const struct request *request);

/* ---- handlers of our own: true when the request was kept (its reply comes later) ---- */
typedef bool (*request_handler)(struct request *request);
void attr_to_fuse(const struct ash_attr *attr, struct fuse_attr *out);
void attr_to_fuse_entry(const struct ash_attr *attr, struct fuse_entry_out *out);
/* The end of a handler that answers attributes, or the error `result`: false. */
bool reply_attributes(struct request *request, int result, const struct ash_attr *attr);
bool raw_read(struct request *request);
bool raw_write(struct request *request);
bool raw_seek(struct request *request);
bool raw_copy_range(struct request *request);
bool raw_lookup(struct request *request);
bool raw_getattr(struct request *request);
bool raw_mknod(struct request *request);
bool raw_mkdir(struct request *request);
bool raw_unlink(struct request *request);
bool raw_forget(struct request *request);
bool raw_batch_forget(struct request *request);
bool raw_fsync(struct request *request);
bool raw_getxattr(struct request *request);
bool raw_setattr(struct request *request);
bool raw_statx(struct request *request);
bool raw_open(struct request *request);
bool raw_opendir(struct request *request);
bool raw_readdir(struct request *request);
bool raw_readdirplus(struct request *request);
bool raw_tmpfile(struct request *request);
bool raw_setxattr(struct request *request);
bool raw_ioctl(struct request *request);
bool raw_syncfs(struct request *request);
bool raw_unsupported(struct request *request);

/* The argument of a request as a structure, or NULL (and EINVAL replied) when it is too short. */
#define request_argument(request, type) ((const type *)request_argument_check(request, sizeof(type)))
const void *request_argument_check(struct request *request, size_t size);

/*
 * Does the caller lose set-group-ID where the group may not execute? A request tells of no supplementary groups: who
 * is in the file's by one of those counts as outside, and a bit goes that the kernel would have left.
 */
static inline bool request_is_outside_group(const struct request *request, uint32_t gid)
{
	return request->in->uid != 0 && request->in->gid != gid;
}
/* The NUL-terminated name `offset` bytes into the argument, or NULL (and EINVAL replied). */
const char *request_name(struct request *request, size_t offset);

#endif
