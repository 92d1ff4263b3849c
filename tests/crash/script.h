/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What a workload is, and the calls it is written in.
 *
 * A workload is two functions: `setup` makes the state before (not recorded, ends with an unmount), `run` is recorded,
 * from mount to unmount. Both use the calls below: paths are resolved with the model, every answer is compared
 * with the model's. A generator of workloads passes its own data in `context`.
 */
#ifndef TESTS_CRASH_SCRIPT_H
#define TESTS_CRASH_SCRIPT_H

#include "arena.h"
#include "beside.h"
#include "tests/model/generate.h"
#include "tests/model/history.h"
#include "tests/model/run.h"

struct script;

struct workload {
	const char *name;
	void (*setup)(struct script *script); /* may be NULL */
	void (*run)(struct script *script);
	const void *context;
	unsigned mib;        /* size of the volume; 0: 6 */
	unsigned device_mib; /* size of the device; 0: the same. Larger: the volume is to grow */
	unsigned log_blocks; /* 0: the least */
	bool write_through;  /* no write-behind */
	bool fua;            /* device with FUA */
	bool discard;
	bool may_fill;    /* -ENOSPC is expected */
	bool record_mkfs; /* the recording begins with mkfs; no setup */
	bool crowded;     /* so many operations that the quick level takes a sample of the prefixes */
};

#define SCRIPT_GROWTHS 24u

struct script {
	const struct workload *workload;
	struct arena *arena;
	struct bdev *dev; /* record layer, or the bare arena while setting up */
	bool recording;
	struct model model;
	struct runner runner;
	struct history history;
	uint32_t next_pattern;
	uint64_t sizes[SCRIPT_GROWTHS + 1]; /* blocks of the volume: when it was opened, and after each growth since */
	size_t growths;
	bool dry;    /* no volume: the model says whether the operation would succeed */
	bool failed; /* an answer was wrong: runner.failure; dry: an operation would fail, or do nothing */
	/* Instead of running on volume and model and keeping it in the history (fault campaigns); NULL: that. */
	void (*execute)(struct script *script, struct op *op);
	void *executor; /* its own */
	char failed_operation[200];
};

/* Marks in the recording. */
#define MARK_BEGIN(index) ((uint64_t)(index)*2)
#define MARK_END(index) ((uint64_t)(index)*2 + 1)
/* Growths are in no history: they change nothing that the oracle looks at. They have an order. */
#define MARK_GROWTH_BEGIN (UINT64_MAX - 1)
#define MARK_GROWTH_END (UINT64_MAX - 2)

void script_do(struct script *s, struct op *op);
uint64_t script_ino(struct script *s, const char *path);

void do_create(struct script *s, const char *path);
void do_create_mode(struct script *s, const char *path, uint32_t mode);
void do_mkdir(struct script *s, const char *path);
void do_symlink(struct script *s, const char *path, size_t target_length);
void do_link(struct script *s, const char *old, const char *path);
void do_unlink(struct script *s, const char *path);
void do_rmdir(struct script *s, const char *path);
void do_rename(struct script *s, const char *from, const char *to, int flags);
/* Keep a reference: the file is open. */
uint64_t do_open(struct script *s, const char *path);
uint64_t do_tmpfile(struct script *s, const char *directory);
void do_link_ino(struct script *s, uint64_t ino, const char *path);
void do_forget(struct script *s, uint64_t ino);

void do_write(struct script *s, const char *path, uint64_t offset, size_t length, int flags);
void do_write_ino(struct script *s, uint64_t ino, uint64_t offset, size_t length, int flags);
void do_truncate(struct script *s, const char *path, uint64_t size);
void do_truncate_ino(struct script *s, uint64_t ino, uint64_t size);
void do_fallocate(struct script *s, const char *path, int mode, uint64_t offset, uint64_t length);
void do_copy(struct script *s, const char *from, uint64_t from_offset, const char *to, uint64_t to_offset,
	     uint64_t length);

void do_chmod(struct script *s, const char *path, uint32_t mode);
void do_chown(struct script *s, const char *path, uint32_t uid, uint32_t gid);
void do_times(struct script *s, const char *path, int64_t seconds);
void do_setxattr(struct script *s, const char *path, const char *name, size_t length);
void do_removexattr(struct script *s, const char *path, const char *name);

void do_fsync_ino(struct script *s, uint64_t ino, bool data_only);
void do_fsync(struct script *s, const char *path);
void do_fdatasync(struct script *s, const char *path);
void do_write_back(struct script *s, const char *path);
void do_sync(struct script *s);
void do_checkpoint(struct script *s);
/*
 * A checkpoint of the older half of the log, and `operations` before the `passes`-th flush of it. Where nothing is recorded:
 * one after the other.
 */
void do_checkpoint_beside(struct script *s, uint32_t passes, void (*operations)(struct script *s));
/* To a size in blocks that a volume may have (choose_size() of grow.c leaves it alone); 0 blocks: the whole device. */
void do_grow(struct script *s, uint64_t blocks);
/* The same while the volume's own worker is at `chore`, before its `passes`-th flush. */
void do_grow_beside(struct script *s, enum chore chore, uint32_t passes, uint64_t blocks);
/* Was the last answer -ENOSPC? (workloads with may_fill) */
bool was_full(const struct script *s);

extern const struct workload scripted_workloads[];
extern const size_t scripted_workload_count;
extern const struct workload growth_workloads[]; /* of volumes that grow */
extern const size_t growth_workload_count;
/* All of both; NULL behind the last. */
const struct workload *workload_at(size_t index);

#endif
