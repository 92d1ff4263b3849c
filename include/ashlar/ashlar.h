/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The volume API: a filesystem as a library, usable in process, by several threads, with several
 * volumes open at once. The FUSE front end, the tools and the tests are thin layers over it.
 *
 * Conventions
 * - 0 or a count on success, negative errno on failure. -EUCLEAN: damaged metadata was met.
 *   -EROFS: the volume is read-only, also after a failed log or metadata write (I6).
 * - Names are NUL-terminated byte strings without '/', at most ASH_NAME_MAX bytes (-ENAMETOOLONG).
 * - A failed operation leaves memory and disk as if it had never begun (I9).
 * - Inode references: every call that answers "an inode" to the caller (lookup, create, link,
 *   tmpfile; marked [+1]) adds one to the lookup count of that inode; the caller gives it back with
 *   ash_forget(). An unlinked inode lives until its count is 0. An inode number may be used in calls
 *   while its count is above 0; others are validated and give -ESTALE when free.
 * - Nothing here checks permissions (the kernel does with default_permissions; a library user is
 *   the owner of the volume), but all consequences of ownership are here: sgid inheritance, default
 *   ACLs, clearing of suid/sgid/capabilities as asked for.
 * - All calls but ash_grow() are thread-safe. Every call may block on the device. No call may be made from a
 *   callback unless said otherwise.
 */
#ifndef ASHLAR_ASHLAR_H
#define ASHLAR_ASHLAR_H

#include <ashlar/blockdev.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <time.h>

#ifdef __cplusplus
extern "C" {
#endif

struct ash_volume;

/* ---- Volume ---- */

enum ash_atime { ASH_ATIME_RELATIVE, ASH_ATIME_STRICT, ASH_ATIME_NONE };
enum ash_log_level { ASH_LOG_ERROR, ASH_LOG_WARNING, ASH_LOG_NOTICE };

struct ash_open_options {
	bool read_only;          /* no changes by the caller; the log is replayed all the same */
	bool no_write;           /* implies read_only: never write the device, overlay the log in memory */
	bool no_threads;         /* no background threads: checkpoint and write-behind run inside calls (tests) */
	bool no_write_behind;    /* writes go through at once */
	bool sync;               /* every operation is durable before it returns */
	bool discard;            /* discard freed blocks in the background */
	bool continue_on_damage; /* errors=continue: keep writing after damaged metadata (not after I/O errors) */
	bool skip_lock;          /* the caller already holds bdev_lock() on the device */
	bool foreign_backups;    /* write although a backup superblock is another volume's (fsck, which was told so) */
	enum ash_atime atime;
	bool no_directory_atime;     /* access times of directories stay */
	uint64_t cache_bytes;        /* metadata cache; 0: 64 MiB; at least 1 MiB */
	uint64_t write_behind_bytes; /* buffered file data; 0: 32 MiB */
	unsigned commit_seconds;     /* 0: 5 */
	/* One line without newline per event (damage, read-only, replay). Any thread, may be called with
	 * locks held: must not call back. NULL: stderr. */
	void (*log)(void *context, enum ash_log_level level, const char *text);
	void *context;
	/*
	 * A call is about to wait for the device or a lock for long, or to look through very much / has ended that;
	 * per thread, nests. May be NULL.
	 */
	void (*wait_begin)(void *context);
	void (*wait_end)(void *context);
	/* Attributes of `ino` changed outside a call on it (blocks after write-behind ...). Called by a thread
	 * that holds no lock. May be NULL. */
	void (*attributes_changed)(void *context, uint64_t ino);
};

/*
 * Open the volume on `dev` (not owned). Takes bdev_lock() unless skip_lock (exclusive, shared when
 * no_write), checks the superblock (a backup serves if it is damaged), replays the log, starts a new
 * epoch. When blocks that the log needs cannot be read the volume opens as with no_write, and says so: a later open, or
 * fsck.ashlar, finds the log as it is. So does a volume with unknown ro_compat bits, of which it is not known what a
 * writer would have to keep true, and one with a backup superblock of another volume, which was perhaps written over.
 *
 * One `dev` serves one volume: the lock belongs to the handle, so that a second ash_open() on the same one is not
 * refused, and the two would destroy the volume. Through another handle, in this process too, it is -EBUSY.
 *
 * On failure a one-line text for people in `error` (BDEV_ERROR_TEXT bytes, may be
 * NULL): -EBUSY in use, -EINVAL not an Ashlar volume, -ENOTSUP unknown incompat bits, -EUCLEAN needs fsck, -EROFS
 * (device read-only and log not empty: use no_write), -ENODATA device shorter than the volume.
 */
int ash_open(struct bdev *dev, const struct ash_open_options *options, struct ash_volume **out, char *error);

/* Write everything, checkpoint, mark clean, free. The volume is gone afterwards also on error; the
 * error says that something acknowledged may not be on the device (I5). */
int ash_close(struct ash_volume *volume);

/* Free without writing anything: as if the power was cut now (tests, fatal errors). */
void ash_abandon(struct ash_volume *volume);

struct ash_statfs {
	uint64_t block_size;                            /* bytes */
	uint64_t blocks, free_blocks, available_blocks; /* available: free less reserves and buffered data */
	uint64_t inodes, free_inodes;
	uint64_t name_max;
	uint8_t uuid[16];
};
int ash_statfs(struct ash_volume *volume, struct ash_statfs *out);

struct ash_volume_info {
	uint8_t uuid[16], metadata_uuid[16];
	char label[65];
	uint64_t block_count, group_count, log_start, log_blocks, group_table_start, group_table_blocks;
	uint64_t compat, ro_compat, incompat;
	uint64_t created, error_count, error_time, epoch, inode_runs, used_inodes, free_blocks;
	uint32_t version, inodes_per_run, state;
	uint64_t log_tail_lsn, log_end_lsn, log_durable_lsn;
	bool read_only, no_write, failed;
	bool was_clean; /* closed in order before this open: there was nothing to replay and no orphan */
};
int ash_volume_info(struct ash_volume *volume, struct ash_volume_info *out);
int ash_set_label(struct ash_volume *volume, const char *label); /* at most 64 bytes, -E2BIG */
int ash_set_uuid(struct ash_volume *volume, const uint8_t uuid[16]);
/*
 * Grow to `blocks` (at most what the device holds; 0: all of it). -EINVAL when smaller than now. Not thread-safe: no
 * other call on the volume may be under way.
 */
int ash_grow(struct ash_volume *volume, uint64_t blocks);

/* Everything completed so far is durable when it returns 0 (I5). Reclaims pending frees. */
int ash_sync(struct ash_volume *volume);
/*
 * The same for somebody who has waited for his turn. When data was lost and another sync, or an fsync, told of it since
 * ash_sync_begin(), it may have been his, and this one tells of it, too. The number never falls.
 */
uint64_t ash_sync_begin(struct ash_volume *volume);
int ash_sync_since(struct ash_volume *volume, uint64_t begin);
/* ash_sync, then write all dirty metadata home and move the log tail to its end. */
int ash_checkpoint(struct ash_volume *volume);
/*
 * Change an option while the volume is open. Calls under way may still go by the old one, and what was done before
 * sync was turned on is ash_sync()'s.
 */
void ash_set_atime(struct ash_volume *volume, enum ash_atime atime, bool no_directory_atime);
void ash_set_sync(struct ash_volume *volume, bool sync);
/* Turn read-only for good (errors=remount-ro, forced shutdown). */
void ash_set_read_only(struct ash_volume *volume, const char *reason);
/*
 * Discard free space in [start, start + length) bytes, runs of at least `minimum` bytes. `trimmed`: bytes. What is
 * being discarded is still space: whoever lacks it waits for it, which ends the trim early, with 0.
 */
int ash_trim(struct ash_volume *volume, uint64_t start, uint64_t length, uint64_t minimum, uint64_t *trimmed);
/*
 * The same until `stop` (may be NULL) is true, which is asked before each discard (of 128 MiB at most), without a lock: -EINTR then.
 * `trimmed` is what was discarded, whatever is returned.
 */
typedef bool (*ash_stop)(void *context);
int ash_trim_until(struct ash_volume *volume, uint64_t start, uint64_t length, uint64_t minimum, ash_stop stop,
		   void *context, uint64_t *trimmed);

/* Counters since open, for `ashlarctl`, benchmarks and tests. */
struct ash_counters {
	uint64_t transactions, log_records_bytes, log_blocks_written, commits, flushes;
	uint64_t checkpoints, home_writes, cache_hits, cache_misses, cache_blocks, inodes_in_core;
	uint64_t write_behind_bytes, damaged_blocks;
};
void ash_counters(struct ash_volume *volume, struct ash_counters *out);

/* ---- Attributes ---- */

struct ash_attr {
	uint64_t ino, generation, size, blocks; /* size: bytes; blocks: 512-byte units as in stat(2) */
	uint32_t mode, nlink, uid, gid;
	uint64_t rdev;
	struct timespec atime, mtime, ctime, btime;
	uint32_t flags; /* ASH_INODE_* */
};

int ash_getattr(struct ash_volume *volume, uint64_t ino, struct ash_attr *attr);

#define ASH_SET_MODE 1u
#define ASH_SET_UID 2u
#define ASH_SET_GID 4u
#define ASH_SET_SIZE 8u
#define ASH_SET_ATIME 16u
#define ASH_SET_MTIME 32u
#define ASH_SET_CTIME 64u
#define ASH_SET_ATIME_NOW 128u
#define ASH_SET_MTIME_NOW 256u
#define ASH_SET_FLAGS 512u         /* chattr; also enforces nothing itself */
#define ASH_SET_KILL_SUIDGID 1024u /* with a size change: clear suid, and sgid if group-executable */
#define ASH_SET_KILL_PRIV 2048u    /* chown, truncate: drop security.capability (always done for UID/GID/SIZE) */
#define ASH_SET_KILL_SGID 4096u    /* with UID, GID, KILL_SUIDGID: sgid also if not group-executable */
struct ash_setattr {
	uint32_t valid, mode, uid, gid, flags;
	uint64_t size;
	struct timespec atime, mtime, ctime;
};
/* One transaction (long truncations are finished by a chain that survives a crash). `attr` may be NULL. */
int ash_setattr(struct ash_volume *volume, uint64_t ino, const struct ash_setattr *change, struct ash_attr *attr);

/* ---- Names ---- */

struct ash_create {
	uint32_t mode;     /* with the type: S_IFREG, S_IFDIR, S_IFLNK, S_IFCHR, S_IFBLK, S_IFIFO, S_IFSOCK */
	uint32_t umask;    /* applied unless the parent has a default ACL */
	uint32_t uid, gid; /* of the caller; gid gives way to a sgid parent's */
	uint64_t rdev;
	const char *target; /* S_IFLNK: 1 to 4095 bytes */
};

int ash_lookup(struct ash_volume *volume, uint64_t parent, const char *name,
	       struct ash_attr *attr); /* [+1]; "..", and "." of any type (-ESTALE when it has no name any more) */
int ash_create(struct ash_volume *volume, uint64_t parent, const char *name, const struct ash_create *create,
	       struct ash_attr *attr); /* [+1]; -EEXIST */
int ash_tmpfile(struct ash_volume *volume, uint64_t parent, const struct ash_create *create,
		struct ash_attr *attr); /* [+1] nlink 0 */
int ash_link(struct ash_volume *volume, uint64_t ino, uint64_t parent, const char *name,
	     struct ash_attr *attr); /* [+1]; -EMLINK, -EPERM */
/* `removed`, when not NULL, gets the inode number that lost a name. */
int ash_unlink(struct ash_volume *volume, uint64_t parent, const char *name, uint64_t *removed);
int ash_rmdir(struct ash_volume *volume, uint64_t parent, const char *name, uint64_t *removed);
/* flags: RENAME_NOREPLACE, RENAME_EXCHANGE of <linux/fs.h>; others -EINVAL. */
int ash_rename(struct ash_volume *volume, uint64_t parent, const char *name, uint64_t new_parent, const char *new_name,
	       unsigned flags);
/*
 * As with RENAME_WHITEOUT: a character device 0:0 of mode 0, which belongs to `uid` and `gid` as a new file would,
 * takes the place of the old name, in the same transaction. flags: RENAME_NOREPLACE or 0. No lookup count comes with
 * it.
 */
int ash_rename_whiteout(struct ash_volume *volume, uint64_t parent, const char *name, uint64_t new_parent,
			const char *new_name, unsigned flags, uint32_t uid, uint32_t gid);
/* Target without NUL; returns its length (at most `size` bytes are stored). */
int ash_readlink(struct ash_volume *volume, uint64_t ino, char *buffer, size_t size);
/* Give back `count` lookups. */
void ash_forget(struct ash_volume *volume, uint64_t ino, uint64_t count);
/* Parent of a directory (for ".." of an id not looked up): number in *parent. [no count] */
int ash_parent(struct ash_volume *volume, uint64_t ino, uint64_t *parent);

/*
 * Read a directory from `position` (0: start; else a position given with an entry: continue behind
 * it). Calls `emit` for "." and ".." and every entry with the position to continue from; it returns
 * nonzero to stop (that entry is then not consumed). `emit` runs under the directory's shared lock: it may
 * call nothing of this API. With `attributes`, `attr` is filled ([+1] for each consumed entry except
 * "." and ".."), else NULL; also NULL, and no [+1], when the inode is damaged, or is a directory that
 * another thread is changing just then. Entries that exist throughout are returned exactly once.
 */
typedef int (*ash_emit)(void *context, const char *name, size_t name_length, uint64_t ino, unsigned type,
			uint64_t next_position, const struct ash_attr *attr);
int ash_readdir(struct ash_volume *volume, uint64_t ino, uint64_t position, bool attributes, ash_emit emit,
		void *context);
/* The same with flags: ASH_READ_NO_ATIME. */
int ash_readdir_flags(struct ash_volume *volume, uint64_t ino, uint64_t position, bool attributes, unsigned flags,
		      ash_emit emit, void *context);

/* ---- File data ---- */

/* Returns bytes read, fewer only at end of file. Any alignment; aligned memory avoids a copy. */
int64_t ash_read(struct ash_volume *volume, uint64_t ino, void *buffer, size_t length, uint64_t offset);
#define ASH_READ_NO_ATIME 1u /* O_NOATIME: the access time stays */
int64_t ash_read_flags(struct ash_volume *volume, uint64_t ino, void *buffer, size_t length, uint64_t offset,
		       unsigned flags);

#define ASH_WRITE_KILL_SUIDGID 1u /* clear suid, and sgid if group-executable, in the same transaction */
#define ASH_WRITE_NO_TIMES 2u     /* FUSE_WRITE_CACHE: the kernel owns mtime and ctime, and cleared privileges before */
#define ASH_WRITE_THROUGH 4u      /* O_DIRECT: not into the write-behind buffer */
#define ASH_WRITE_SYNC 8u         /* O_SYNC: durable when it returns, with times and mode */
#define ASH_WRITE_APPEND 16u      /* offset is ignored: at end of file */
#define ASH_WRITE_KILL_SGID 32u   /* with KILL_SUIDGID: sgid also if not group-executable */
#define ASH_WRITE_DSYNC 64u       /* O_DSYNC: the data is durable when it returns, and what it takes to read it */
/* Returns bytes written (all, or fewer before ENOSPC/EIO), or negative errno when none. security.capability is dropped,
 * except with NO_TIMES. -EPERM: immutable, whatever the flags are; append-only, and the offset lies below the end of file
 * (not with NO_TIMES: the page cache writes back whole pages). */
int64_t ash_write(struct ash_volume *volume, uint64_t ino, const void *buffer, size_t length, uint64_t offset,
		  unsigned flags);

/* mode: 0, FALLOC_FL_KEEP_SIZE, PUNCH_HOLE|KEEP_SIZE, ZERO_RANGE[|KEEP_SIZE]; else -EOPNOTSUPP. -EPERM: immutable, or
 * append-only and not for space alone. */
int ash_fallocate(struct ash_volume *volume, uint64_t ino, int mode, uint64_t offset, uint64_t length);
/* whence: SEEK_DATA, SEEK_HOLE. Result offset or -ENXIO. */
int64_t ash_seek(struct ash_volume *volume, uint64_t ino, uint64_t offset, int whence);
/* The same, but looks no further than `limit` (bytes): no data before it: -ENXIO; no hole: the limit, or the size. */
int64_t ash_seek_before(struct ash_volume *volume, uint64_t ino, uint64_t offset, int whence, uint64_t limit);
/* -EPERM: the target is immutable, or append-only and `to_offset` before its end. */
int64_t ash_copy_range(struct ash_volume *volume, uint64_t from, uint64_t from_offset, uint64_t to, uint64_t to_offset,
		       uint64_t length);
/* The device block behind file block `block`, for FIBMAP and swapon(2), also of preallocated space: 0 for a hole. */
int ash_bmap(struct ash_volume *volume, uint64_t ino, uint64_t block, uint64_t *out);
/*
 * I5. With `data_only`, time stamps alone may stay behind. Reports a write-behind error once, to all callers for this
 * inode that are under way. Works on directories.
 */
int ash_fsync(struct ash_volume *volume, uint64_t ino, bool data_only);
#define ASH_FSYNC_DATA 1u    /* `data_only` */
#define ASH_FSYNC_WRITTEN 2u /* what ash_write() has written through, as O_SYNC: write-behind errors stay unreported */
#define ASH_FSYNC_LSN 4u     /* no inode, but everything before `lsn`, from ash_defer_end() */
#define ASH_FSYNC_MAX 32u
struct ash_fsync {
	uint64_t ino;
	unsigned flags;
	int result; /* out: of this one */
	uint64_t lsn;
};
/* At most ASH_FSYNC_MAX at once: all is written before the first wait for the device's flush, which they share. */
void ash_fsync_all(struct ash_volume *volume, struct ash_fsync *items, size_t count);
/*
 * From here on the calling thread's changes of this volume do not wait for the device's flush where ash_set_sync() or the
 * S flag of an inode wants them to: they return when they are done, and are not durable. Whoever calls this owes the
 * wait (ASH_FSYNC_LSN), and must not acknowledge them before it. Reads, ash_fsync() and ash_sync() are as always. NULL: of
 * none.
 */
void ash_defer_begin(struct ash_volume *volume);
/* Has such a wait been put off since? */
bool ash_defer_is_due(void);
/* Waits are not put off any more. True: some were, and `*lsn` is what is to be durable for all of them. */
bool ash_defer_end(uint64_t *lsn);
/* Write this inode's buffered data and append its record; durability not included. */
int ash_write_back(struct ash_volume *volume, uint64_t ino);

/*
 * Asynchronous reads and writes for one thread's event loop. A queue belongs to one thread: that which used it last.
 * ash_submit_read/write return 1: submitted, `done` will be called from ash_queue_reap() with the byte
 * count or negative errno; 0: must be done by the blocking call. Nothing is locked while the I/O is in flight; its
 * blocks cannot be reused (I3).
 *
 * It is 0 where more is to be done than to move whole blocks between aligned memory and the place that they have on the
 * device: for holes, buffered data, files small enough to be in their inode, an offset or length that is no multiple of
 * 4096, a full queue, and while somebody changes the file. A read: 0 also while its access time is due for an update,
 * which the blocking call then makes (ASH_READ_NO_ATIME and ASH_ATIME_NONE have none). A write: always 0 without
 * ASH_WRITE_THROUGH, so with flags 0, and with SYNC, DSYNC, APPEND or KILL_SUIDGID; 0 also behind the end of the file,
 * when it has extended attributes (there may be one to drop) or is immutable or chattr +S, and on a volume that is sync
 * or read-only.
 *
 * A call that changes the size of a file, or part of one of its blocks, waits until asynchronous writes to that file
 * have ended: their queue must be reaped meanwhile. The thread that owns the queue may make such a call itself; it
 * then reaps, and callbacks run, inside the call.
 */
struct ash_queue;
int ash_queue_open(struct ash_volume *volume, unsigned depth, struct ash_queue **out);
void ash_queue_close(struct ash_queue *queue);
int ash_queue_event_fd(struct ash_queue *queue);
/* The calling thread, if the queue belongs to it, leaves it to another: calls of its own reap it no more. */
void ash_queue_disown(struct ash_queue *queue);
typedef void (*ash_done)(void *user, int64_t result);
int ash_submit_read(struct ash_queue *queue, uint64_t ino, void *buffer, size_t length, uint64_t offset, ash_done done,
		    void *user);
int ash_submit_read_flags(struct ash_queue *queue, uint64_t ino, void *buffer, size_t length, uint64_t offset,
			  unsigned flags, ash_done done, void *user);
int ash_submit_write(struct ash_queue *queue, uint64_t ino, const void *buffer, size_t length, uint64_t offset,
		     unsigned flags, ash_done done, void *user);
/*
 * Requests that come together go to the device together: submissions are staged (32 at most) until ash_queue_kick(),
 * which ash_queue_reap() does by itself. Call it before waiting for anything else. Callbacks may run inside, when the
 * device takes no more requests. Returns the number of device requests.
 */
int ash_queue_kick(struct ash_queue *queue);
/* Run the callbacks of what is finished, without waiting, without a system call where the driver can. Leaves the event
 * descriptor as it is: when that polled readable, use ash_queue_reap(). Returns how many, or negative errno. */
int ash_queue_poll(struct ash_queue *queue);
/* Run the callbacks of finished requests; wait for at least one when `wait` and any is in flight. Returns how many. */
int ash_queue_reap(struct ash_queue *queue, bool wait);
unsigned ash_queue_in_flight(const struct ash_queue *queue);

/* ---- Extended attributes ---- */

/* Full names ("user.x", "trusted.x", "security.x", "system.posix_acl_access", "system.posix_acl_default");
 * others -EOPNOTSUPP. size 0 asks for the length. -ENODATA, -ERANGE. */
int ash_getxattr(struct ash_volume *volume, uint64_t ino, const char *name, void *value, size_t size);
/* flags: XATTR_CREATE, XATTR_REPLACE. A POSIX ACL updates the mode. -EEXIST, -ENODATA, -E2BIG, -ERANGE (name). */
#define ASH_XATTR_KILL_SGID 0x10000 /* FUSE_SETXATTR_ACL_KILL_SGID; of the access ACL only */
int ash_setxattr(struct ash_volume *volume, uint64_t ino, const char *name, const void *value, size_t size, int flags);
int ash_listxattr(struct ash_volume *volume, uint64_t ino, char *list, size_t size);
int ash_removexattr(struct ash_volume *volume, uint64_t ino, const char *name);

/* ---- Making a volume ---- */

struct ash_mkfs_options {
	const char *label;       /* NULL: none */
	const uint8_t *uuid;     /* NULL: random */
	uint64_t block_count;    /* 0: whole device */
	uint64_t log_blocks;     /* 0: by size */
	uint32_t inodes_per_run; /* 0: by size */
	bool no_discard;
	uint32_t root_mode; /* 0: 0755 */
	uint32_t root_uid, root_gid;
	const uint8_t *seed; /* 32 bytes instead of random numbers (tests); NULL: random */
	int64_t now;         /* seconds; 0: the clock (tests) */
};
#define ASH_VOLUME_MIN_BLOCKS 1024u /* 4 MiB */
#define ASH_LOG_MIN_BLOCKS 258u     /* 1 MiB and the control blocks */
#define ASH_LOG_MAX_BLOCKS 32000u
/* Write an empty volume. Does not look at what is there: callers check first. Durable on return. */
int ash_mkfs(struct bdev *dev, const struct ash_mkfs_options *options, char *error);

const char *ash_version(void);

#ifdef __cplusplus
}
#endif
#endif
