/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Files whose data found no room: their next write(2) fails.
 *
 * The kernel takes what write(2) brings into its page cache, and only the WRITE of its write-back gets ENOSPC. That
 * is told by fsync(2), once, and a program that does not call it would go on writing for ever. But before it takes
 * data the kernel wants to know size and mode of the file: where they are not valid it sends a GETATTR, of an open
 * file (FUSE_GETATTR_FH), and write(2) fails with the error that this is answered with. So a file of which a WRITE
 * from the page cache failed is remembered here, its attributes are made invalid (fuse_notify.c), and stay so: as
 * long as it is remembered, they are answered for no time at all.
 *
 * read(2) across the end of the file and lseek(2) to it send the same GETATTR, and have to go on. So who asks is looked
 * at (fuse_caller.c), and only who is in a call that writes gets the error. stat(2) asks otherwise.
 *
 * Which errors: ENOSPC, and EROFS of a volume that has turned read-only. What a device could not write (EIO) may be
 * written the next time; that is told by fsync(2) alone.
 *
 * A file is forgotten, and its attributes are valid again, when
 * - there is room again, or the volume is not read-only any more. Who asks finds that out. A WRITE that
 *   found none although as much counted as free is believed for ROOM_NS;
 * - a WRITE of its pages finds room;
 * - it is truncated, or the kernel forgets it;
 * - an FSYNC comes. The kernel sends none while it has an error to tell: somebody was told;
 * - there are too many: the one that was remembered first.
 * Nothing is lost by forgetting one too early: its next WRITE that fails brings it back.
 *
 * The error is also that of a write to blocks that the file has already: whether it is one is not known before.
 *
 * Rules
 * - The notice is sent by the notifier's thread: the kernel waits for an inode that goes, which waits for WRITEs.
 * - A GETATTR or LOOKUP that is answered before the notice and taken after it leaves the attributes invalid: the kernel
 *   counts its versions. A SETATTR does not; the next WRITE that fails makes up for that.
 * - Where nothing is remembered, one relaxed load is all that it costs.
 *
 * Locking: `lock` protects the table and is a leaf; the volume, the kernel and /proc are asked without it. `count` is
 * written under it.
 */
#include "fuse_front.h"

#include <errno.h>
#include <string.h>

#define ROOM_BYTES (1u << 20) /* so much is room, or that part of the volume, whichever is less */
#define ROOM_PART 64u
#define ROOM_NS 1000000000u

static unsigned count_locked(const struct full_files *full)
{
	return atomic_load_explicit(&full->count, memory_order_relaxed);
}

/* Lock held. NULL: not remembered. */
static struct full_file *find(struct full_files *full, uint64_t ino)
{
	for (unsigned i = 0; i < count_locked(full); i++)
		if (full->files[i].ino == ino)
			return &full->files[i];
	return NULL;
}

/* Lock held. The rest stays in the order of time. */
static void take_out(struct full_files *full, struct full_file *file)
{
	const struct full_file *end = full->files + count_locked(full);

	memmove(file, file + 1, (size_t)((const char *)end - (const char *)(file + 1)));
	atomic_store_explicit(&full->count, count_locked(full) - 1, memory_order_relaxed);
}

static uint64_t available_bytes(struct front *front, uint64_t *enough)
{
	struct ash_statfs statfs;

	if (ash_statfs(front->volume, &statfs))
		return *enough = 0;
	uint64_t part = statfs.blocks / ROOM_PART * statfs.block_size;
	*enough = part < ROOM_BYTES ? part : ROOM_BYTES;
	return statfs.available_blocks * statfs.block_size;
}

static void remember(struct front *front, uint64_t ino, int error)
{
	struct full_files *full = &front->full;
	uint64_t enough;
	struct full_file news = { .ino = ino, .error = error, .failed = front_now_ns() };

	news.available = available_bytes(front, &enough);
	pthread_mutex_lock(&full->lock);
	struct full_file *file = find(full, ino);
	if (!file) {
		if (count_locked(full) == FULL_FILES)
			take_out(full, full->files);
		file = &full->files[count_locked(full)];
		atomic_store_explicit(&full->count, count_locked(full) + 1, memory_order_relaxed);
	}
	*file = news;
	pthread_mutex_unlock(&full->lock);
	notify_attributes_soon(front, ino);
}

void full_forget(struct front *front, uint64_t ino)
{
	struct full_files *full = &front->full;

	if (full_empty(front))
		return;
	pthread_mutex_lock(&full->lock);
	struct full_file *file = find(full, ino);
	if (file)
		take_out(full, file);
	pthread_mutex_unlock(&full->lock);
}

void full_written(struct front *front, uint64_t ino, int64_t result)
{
	if (result == -ENOSPC || result == -EROFS)
		remember(front, ino, (int)result);
	else if (result > 0)
		full_forget(front, ino);
}

uint64_t full_validity(struct front *front, uint64_t ino)
{
	struct full_files *full = &front->full;

	if (full_empty(front))
		return FRONT_TIMEOUT_SECONDS;
	pthread_mutex_lock(&full->lock);
	bool known = find(full, ino) != NULL;
	pthread_mutex_unlock(&full->lock);
	return known ? 0 : FRONT_TIMEOUT_SECONDS;
}

static bool still_holds(struct front *front, const struct full_file *file, uint64_t available, uint64_t enough)
{
	struct ash_volume_info info;

	if (file->error == -EROFS)
		return ash_volume_info(front->volume, &info) == 0 && info.read_only;
	if (available < enough)
		return true;
	/* There was as much, and it did not help: blocks of a damaged group count as free, for one. */
	return available < file->available + enough && front_now_ns() - file->failed < ROOM_NS;
}

/* What there is to tell about the file; 0: nothing (any more). */
static int error_of(struct front *front, uint64_t ino)
{
	struct full_files *full = &front->full;
	struct full_file copy = { 0 };
	uint64_t enough;

	pthread_mutex_lock(&full->lock);
	const struct full_file *file = find(full, ino);
	if (file)
		copy = *file;
	pthread_mutex_unlock(&full->lock);
	if (!file)
		return 0;
	uint64_t available = available_bytes(front, &enough);
	if (still_holds(front, &copy, available, enough))
		return copy.error;
	full_forget(front, ino);
	return 0;
}

int full_write_error(struct request *request)
{
	const struct fuse_getattr_in *in = request->argument;
	struct front *front = request->front;

	if (request->argument_length < sizeof(*in) || !(in->getattr_flags & FUSE_GETATTR_FH))
		return 0;
	int error = error_of(front, request->nodeid);
	if (!error)
		return 0;
	/* May take a while: others are served. */
	crew_kick(current_worker);
	crew_wait_begin(NULL);
	bool writes = caller_writes(request);
	crew_wait_end(NULL);
	return writes ? error : 0;
}
