/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The volume as a whole: open, close, sync, the background worker.
 *
 * Order of opening: owner lock, superblock (or a backup), log replay into memory, superblock again (replay may have
 * changed it), cache and log, allocator, inode table, in-core inodes, write-behind, orphans, worker. Closing is the
 * reverse. The owner lock is held before the log is read and until everything is down, so that nobody else can
 * replay or write in between.
 *
 * Locks: worker_lock guards only the worker's flags. Everything else here is set while opening, single-threaded.
 */
#include "engine.h"
#include "inode.h"
#include "log_mount.h"
#include "recover.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#define DEFAULT_CACHE (64ull << 20)
#define DEFAULT_WRITE_BEHIND (32ull << 20)
#define DEFAULT_COMMIT_SECONDS 5u
#define NS_PER_SECOND 1000000000ull
#define WORKER_TURNS 4u              /* in a commit interval */
#define DISCARD_TURN_NS 100000000ull /* of each turn, at most */
#define DISCARD_END_NS 2000000000ull /* at the end */
#define SETTLE_TRIES 10u             /* in half a second */
#define LOCK_WAIT_MS 3000u           /* a daemon that is shutting down gives the device up within this time */

const char *ash_version(void)
{
	return ASHLAR_VERSION;
}

static const char *level_name(enum ash_log_level level)
{
	return level == ASH_LOG_ERROR ? "error" : level == ASH_LOG_WARNING ? "warning" : "notice";
}

void ash_say(struct ash_volume *volume, enum ash_log_level level, const char *format, ...)
{
	char text[512];
	va_list arguments;

	va_start(arguments, format);
	vsnprintf(text, sizeof(text), format, arguments);
	va_end(arguments);
	if (volume->options.log)
		volume->options.log(volume->options.context, level, text);
	else
		fprintf(stderr, "ashlar: %s: %s: %s\n", bdev_name(volume->dev), level_name(level), text);
}

/*
 * The kernel's own time stamps tick with its timer. With the same clock, the time of a write that follows a create
 * within the tick is the one that the file has already, and the kernel has no SETATTR to send when the file is closed.
 */
struct timespec ash_now(void)
{
	struct timespec now;

	clock_gettime(CLOCK_REALTIME_COARSE, &now);
	return now;
}

void ash_set_read_only(struct ash_volume *volume, const char *reason)
{
	if (!atomic_exchange(&volume->read_only, true))
		ash_say(volume, ASH_LOG_ERROR, "the volume is read-only from now on: %s", reason);
}

void ash_set_atime(struct ash_volume *volume, enum ash_atime atime, bool no_directory_atime)
{
	atomic_store(&volume->atime, (int)atime);
	atomic_store(&volume->no_directory_atime, no_directory_atime);
}

void ash_set_sync(struct ash_volume *volume, bool sync)
{
	atomic_store(&volume->sync, sync);
}

static __attribute__((format(printf, 3, 4))) int fail_with(char *text, int error, const char *format, ...)
{
	va_list arguments;

	if (text) {
		va_start(arguments, format);
		vsnprintf(text, BDEV_ERROR_TEXT, format, arguments);
		va_end(arguments);
	}
	return error;
}

/* ---- Superblock ---- */

/* Within one group, behind its superblock copy and bitmap, and before the volume's last block. */
static bool region_good(uint64_t start, uint64_t count, uint64_t blocks)
{
	uint64_t group = start / ASH_BLOCKS_PER_GROUP;

	return count && start < blocks && count < blocks - start && start > ash_group_bitmap(group) &&
	       start + count <= ash_group_start(group + 1);
}

/* A last group has room for its own blocks, unless it is the first one, which is larger anyway. */
static bool groups_good(uint64_t blocks, uint64_t groups)
{
	return groups && ash_group_start(groups - 1) < blocks && blocks <= ash_group_start(groups) &&
	       (groups == 1 || blocks - ash_group_start(groups - 1) >= ASH_MIN_GROUP_BLOCKS);
}

const char *ash_geometry_wrong(const struct ash_super *super)
{
	uint64_t blocks = ash_get64(super->block_count), groups = ash_get32(super->group_count);
	uint64_t table = ash_get64(super->group_table_start), table_blocks = ash_get64(super->group_table_blocks);
	uint64_t log = ash_get64(super->log_start), log_blocks = ash_get64(super->log_blocks);
	uint32_t per_run = ash_get32(super->inodes_per_run);

	if (blocks < ASH_VOLUME_MIN_BLOCKS || blocks > 1ull << 50 ||
	    ash_get32(super->blocks_per_group) != ASH_BLOCKS_PER_GROUP || !groups_good(blocks, groups))
		return "impossible geometry";
	if (!region_good(log, log_blocks, blocks) || log_blocks < ASH_LOG_MIN_BLOCKS || log_blocks > ASH_LOG_MAX_BLOCKS)
		return "impossible log";
	if (!region_good(table, table_blocks, blocks) || table_blocks * ASH_GROUPS_PER_TABLE_BLOCK < groups)
		return "impossible group table";
	if (log < table + table_blocks && table < log + log_blocks)
		return "log and group table overlap";
	if (per_run < 2 * ASH_INO_FIRST_FREE || per_run % ASH_INODES_PER_BLOCK || per_run > ASH_BITS_PER_BITMAP)
		return "impossible inode runs";
	return NULL;
}

/* NULL, or why this is not a usable superblock at `block`. */
static const char *super_check(const struct ash_super *super, uint64_t block)
{
	const char *wrong;

	if (memcmp(super->volume_magic, ASH_VOLUME_MAGIC, 8) || ash_get32(super->header.magic) != ASH_MAGIC_SUPER)
		return "no Ashlar volume";
	if (ash_get32(super->header.crc) != ash_block_crc(0, super))
		return "bad checksum";
	if (ash_get64(super->header.address) != block)
		return "belongs to another address";
	if (super->header.owner.raw)
		return "belongs to an inode";
	if (ash_get32(super->version) != ASH_FORMAT_VERSION || ash_get32(super->block_shift) != ASH_BLOCK_SHIFT)
		return NULL; /* judged by its own message */
	wrong = ash_geometry_wrong(super);
	if (wrong)
		return wrong;
	/* a close would copy it to the backups: the only good copies then (its own checksum is covered by the block's) */
	if (super->table_inode.attr_kind != ASH_FORK_EMPTY)
		return "an inode table with attributes";
	return ash_inode_check(0, ASH_INO_TABLE, &super->table_inode, false);
}

static int super_try(struct bdev *dev, uint64_t block, struct ash_super *super, const char **wrong)
{
	int error;

	*wrong = "outside the device";
	if ((block + 1) * ASH_BLOCK_SIZE > bdev_geometry(dev)->size)
		return -EUCLEAN;
	error = bdev_read(dev, super, ASH_BLOCK_SIZE, block * ASH_BLOCK_SIZE);
	*wrong = "cannot be read";
	if (error)
		return error;
	*wrong = super_check(super, block);
	return *wrong ? -EUCLEAN : 0;
}

/*
 * `told`: blocks that a bad block 0 claims, or 0. Torn while the volume grew it tells the old size or the new one, and there
 * is a backup for either; it is the only way to that of a volume of one group that is smaller than its device.
 */
static int super_find_backup(struct bdev *dev, uint64_t told, struct ash_super *super)
{
	static const uint64_t groups[] = { 1, 3, 5, 7, 9, 25, 27, 49 };
	uint64_t last = bdev_geometry(dev)->size / ASH_BLOCK_SIZE;
	const char *wrong;

	if (told > 1 && told < last && !super_try(dev, told - 1, super, &wrong))
		return 0;
	if (last && !super_try(dev, last - 1, super, &wrong))
		return 0;
	for (size_t i = 0; i < sizeof(groups) / sizeof(groups[0]); i++)
		if (!super_try(dev, ash_group_start(groups[i]), super, &wrong))
			return 0;
	return -EUCLEAN;
}

/* A superblock that says where the log is. Block 0 itself must be good (or mended by replay) later. */
static int super_read(struct ash_volume *volume, struct ash_super *super, char *text)
{
	const char *name = bdev_name(volume->dev), *wrong;
	uint64_t size = bdev_geometry(volume->dev)->size;
	bool ours;
	int error;

	if (size < ASH_BLOCK_SIZE)
		return fail_with(text, -EINVAL,
				 "%s: too small (%llu bytes) to hold an Ashlar volume; make one with mkfs.ashlar", name,
				 (unsigned long long)size);
	error = super_try(volume->dev, 0, super, &wrong);
	if (!error)
		return 0;
	ours = error == -EUCLEAN && !memcmp(super->volume_magic, ASH_VOLUME_MAGIC, 8);
	if (ash_unreadable(error) && !super_find_backup(volume->dev, ours ? ash_get64(super->block_count) : 0, super)) {
		ash_say(volume, ASH_LOG_WARNING, "the superblock is damaged (%s); using a backup", wrong);
		return 0;
	}
	if (error != -EUCLEAN)
		return fail_with(text, error, "%s: reading the superblock: %s", name, strerror(-error));
	if (!ours)
		return fail_with(text, -EINVAL, "%s: not an Ashlar volume; make one with mkfs.ashlar", name);
	return fail_with(text, -EUCLEAN, "%s: superblock: %s and no backup is good; run fsck.ashlar", name, wrong);
}

static int super_features(struct ash_volume *volume, const struct ash_super *super, char *text)
{
	const char *name = bdev_name(volume->dev);
	uint64_t incompat = ash_get64(super->incompat) & ~ASH_INCOMPAT_KNOWN;
	uint64_t ro_compat = ash_get64(super->ro_compat) & ~ASH_RO_COMPAT_KNOWN;
	uint64_t size = bdev_geometry(volume->dev)->size;

	if (ash_get32(super->version) != ASH_FORMAT_VERSION)
		return fail_with(text, -ENOTSUP,
				 "%s: format version %u; this program knows version %u: use a newer one", name,
				 ash_get32(super->version), ASH_FORMAT_VERSION);
	if (ash_get32(super->block_shift) != ASH_BLOCK_SHIFT)
		return fail_with(text, -ENOTSUP, "%s: unknown block size", name);
	if (incompat)
		return fail_with(text, -ENOTSUP,
				 "%s: has features that this version does not know (incompat 0x%llx): use a newer one",
				 name, (unsigned long long)incompat);
	if (ash_get64(super->block_count) > size / ASH_BLOCK_SIZE)
		return fail_with(
			text, -ENODATA,
			"%s: the volume has %llu blocks, the device only %llu: a truncated image or the wrong device",
			name, (unsigned long long)ash_get64(super->block_count),
			(unsigned long long)(size / ASH_BLOCK_SIZE));
	if (ro_compat && !volume->no_write) {
		ash_say(volume, ASH_LOG_WARNING, "unknown ro-compat features 0x%llx: opened read-only",
			(unsigned long long)ro_compat);
		volume->no_write = true; /* not even a replay: what it would have to keep true is not known */
		atomic_store(&volume->read_only, true);
	}
	return 0;
}

static void super_take(struct ash_volume *volume, const struct ash_super *super)
{
	volume->block_count = ash_get64(super->block_count);
	volume->group_count = ash_get32(super->group_count);
	volume->group_table_start = ash_get64(super->group_table_start);
	volume->group_table_blocks = ash_get64(super->group_table_blocks);
	volume->log_start = ash_get64(super->log_start);
	volume->log_blocks = ash_get64(super->log_blocks);
	volume->checksum_seed = ash_get32(super->checksum_seed);
	volume->inodes_per_run = ash_get32(super->inodes_per_run);
	memcpy(volume->hash_key, super->hash_key, 16);
	memcpy(volume->metadata_uuid, super->header.metadata_uuid, 16);
}

/* ---- Worker ---- */

void ash_worker_kick(struct ash_volume *volume)
{
	if (!volume->worker_running)
		return;
	pthread_mutex_lock(&volume->worker_lock);
	if (!volume->worker_kick) {
		volume->worker_kick = true;
		pthread_cond_signal(&volume->worker_wake);
	}
	pthread_mutex_unlock(&volume->worker_lock);
}

static bool checkpoint_due(struct ash_volume *volume)
{
	struct ash_log *log = volume->log;
	bool due;

	pthread_mutex_lock(&log->lock);
	due = log->dirty_count > log->dirty_limit / 2 || ash_log_used_blocks_locked(log) > log->blocks / 2;
	pthread_mutex_unlock(&log->lock);
	return due;
}

/*
 * What waits for about the commit interval becomes durable; space is freed before somebody has to wait for it. Data that
 * was written out for its age is forced at once: it has waited already. Discards, which a device may take seconds for,
 * come in portions between all this; true: there are more.
 */
static bool worker_turn(struct ash_volume *volume, bool interval)
{
	bool aged = ash_wb_tick(volume);

	if (atomic_load(&volume->failed))
		return false;
	if (interval || aged ||
	    ash_log_end(volume) - ash_log_durable(volume) > volume->log->memory_blocks / 4 * ASH_LOG_PAYLOAD)
		ash_log_force(volume, ash_log_end(volume));
	ash_alloc_reap(volume);
	bool more = ash_alloc_discard(volume, DISCARD_TURN_NS);
	if (checkpoint_due(volume))
		ash_log_checkpoint(volume, false);
	return more;
}

static struct timespec later(struct timespec from, uint64_t ns)
{
	ns += (uint64_t)from.tv_nsec;
	return (struct timespec){ from.tv_sec + (time_t)(ns / NS_PER_SECOND), (long)(ns % NS_PER_SECOND) };
}

static bool reached(const struct timespec *now, const struct timespec *until)
{
	return now->tv_sec > until->tv_sec || (now->tv_sec == until->tv_sec && now->tv_nsec >= until->tv_nsec);
}

/* Several turns in a commit interval, so that data need not wait for it twice; the log is forced in the last of them. */
static void *worker_main(void *argument)
{
	struct ash_volume *volume = argument;
	uint64_t step = volume->options.commit_seconds * NS_PER_SECOND / WORKER_TURNS;
	struct timespec now, until;
	unsigned turns = 0;

	clock_gettime(CLOCK_MONOTONIC, &now);
	until = later(now, step);
	pthread_mutex_lock(&volume->worker_lock);
	while (!volume->worker_stop) {
		if (!volume->worker_kick)
			pthread_cond_timedwait(&volume->worker_wake, &volume->worker_lock, &until);
		clock_gettime(CLOCK_MONOTONIC, &now);
		volume->worker_kick = false;
		if (volume->worker_stop)
			break;
		/* also when so many kicks come that the wait never times out */
		if (reached(&now, &until)) {
			until = later(now, step);
			turns++;
		}
		pthread_mutex_unlock(&volume->worker_lock);
		bool more = worker_turn(volume, turns >= WORKER_TURNS);
		turns %= WORKER_TURNS;
		pthread_mutex_lock(&volume->worker_lock);
		volume->worker_kick = volume->worker_kick || more;
	}
	pthread_mutex_unlock(&volume->worker_lock);
	return NULL;
}

static int worker_start(struct ash_volume *volume)
{
	if (volume->options.no_threads || atomic_load(&volume->read_only))
		return 0;
	volume->worker_running = true;
	volume->discards_later = volume->options.discard && bdev_geometry(volume->dev)->discard;
	if (pthread_create(&volume->worker, NULL, worker_main, volume)) {
		volume->worker_running = volume->discards_later = false;
		return -EAGAIN;
	}
	return 0;
}

static void worker_end(struct ash_volume *volume)
{
	if (!volume->worker_running)
		return;
	pthread_mutex_lock(&volume->worker_lock);
	volume->worker_stop = true;
	pthread_cond_signal(&volume->worker_wake);
	pthread_mutex_unlock(&volume->worker_lock);
	pthread_join(volume->worker, NULL);
	volume->worker_running = false;
}

/* ---- Open ---- */

static void options_take(struct ash_volume *volume, const struct ash_open_options *options)
{
	if (options)
		volume->options = *options;
	if (!volume->options.cache_bytes)
		volume->options.cache_bytes = DEFAULT_CACHE;
	if (volume->options.cache_bytes < 1u << 20)
		volume->options.cache_bytes = 1u << 20;
	if (!volume->options.write_behind_bytes)
		volume->options.write_behind_bytes = DEFAULT_WRITE_BEHIND;
	if (!volume->options.commit_seconds)
		volume->options.commit_seconds = DEFAULT_COMMIT_SECONDS;
	volume->no_write = volume->options.no_write;
	ash_set_atime(volume, volume->options.atime, volume->options.no_directory_atime);
	ash_set_sync(volume, volume->options.sync);
	atomic_store(&volume->read_only, volume->options.read_only || volume->options.no_write);
}

static void locks_init(struct ash_volume *volume)
{
	pthread_condattr_t attributes;

	pthread_mutex_init(&volume->rename_lock, NULL);
	pthread_mutex_init(&volume->worker_lock, NULL);
	pthread_condattr_init(&attributes);
	pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
	pthread_cond_init(&volume->worker_wake, &attributes);
	pthread_condattr_destroy(&attributes);
}

static void volume_free(struct ash_volume *volume)
{
	worker_end(volume);
	ash_wb_close(volume);
	ash_icache_close(volume);
	ash_itable_close(volume);
	ash_alloc_close(volume);
	ash_log_close(volume);
	ash_cache_close(volume);
	if (volume->locked_device)
		bdev_unlock(volume->dev);
	pthread_mutex_destroy(&volume->rename_lock);
	pthread_mutex_destroy(&volume->worker_lock);
	pthread_cond_destroy(&volume->worker_wake);
	free(volume);
}

static int device_lock(struct ash_volume *volume, char *text)
{
	int error;

	if (volume->options.skip_lock)
		return 0;
	error = bdev_lock(volume->dev, !volume->no_write, LOCK_WAIT_MS);
	if (error)
		return fail_with(text, error,
				 "%s: in use by another Ashlar program (%s): unmount it or wait for it to end",
				 bdev_name(volume->dev), strerror(-error));
	volume->locked_device = true;
	return 0;
}

/* What of the log could not be read. True: it must stay as it is, for a home block or its own end depends on that. */
static bool overlay_unsure(struct ash_volume *volume, const struct ash_overlay *overlay)
{
	const uint64_t *ring, *lost;
	size_t count, controls, lost_count;

	ash_overlay_unreadable(overlay, &ring, &count, &controls);
	ash_overlay_lost(overlay, &lost, &lost_count);
	if (controls)
		ash_say(volume, ASH_LOG_WARNING, "one of the two log control blocks cannot be read");
	if (ash_overlay_info(overlay)->end_unknown)
		ash_damaged(volume, *ring, "this part of the log cannot be read, and may hold what was synced last");
	else if (count)
		ash_say(volume, ASH_LOG_WARNING, "%zu unused blocks of the log cannot be read, the first is block %llu",
			count, (unsigned long long)*ring);
	return lost_count || ash_overlay_info(overlay)->end_unknown;
}

/*
 * Unreadable blocks may be there again tomorrow, and be given up only by somebody who decides so: fsck. Until then the
 * tail may not pass the records of a lost block (I4), nor anything be written where acknowledged ones may lie (I7).
 */
static void overlay_keep(struct ash_volume *volume, const struct ash_overlay *overlay)
{
	bool written = !volume->no_write, was_read_only = atomic_exchange(&volume->read_only, true);

	if (!overlay_unsure(volume, overlay)) {
		atomic_store(&volume->read_only, was_read_only);
		return;
	}
	volume->no_write = true;
	if (written)
		ash_say(volume, ASH_LOG_ERROR,
			"opened read-only, and without writing the log home: blocks that it needs cannot be read; run "
			"fsck.ashlar");
}

/* A read-only open of a volume that needs no replay writes nothing at all. */
static int overlay_decide(struct ash_volume *volume, const struct ash_overlay *overlay, char *text)
{
	const struct ash_overlay_info *info = ash_overlay_info(overlay);
	const uint64_t *orphans;
	size_t orphan_count;

	ash_overlay_orphans(overlay, &orphans, &orphan_count);
	if (info->records)
		ash_say(volume, ASH_LOG_NOTICE, "replaying the log: %llu records", (unsigned long long)info->records);
	if (bdev_geometry(volume->dev)->read_only && !volume->no_write) {
		if (info->records)
			return fail_with(text, -EROFS, "%s: the device is read-only and its log must be replayed first",
					 bdev_name(volume->dev));
		volume->no_write = true;
		atomic_store(&volume->read_only, true);
	}
	if (atomic_load(&volume->read_only) && !info->records && !orphan_count)
		volume->no_write = true;
	overlay_keep(volume, overlay);
	return 0;
}

/* Volumes may have grown in the log, so that only the end of the replay tells which blocks are theirs. */
static int outside(void *context, uint64_t block, const uint8_t *image)
{
	const struct ash_super *super = context;

	(void)image;
	return block >= ash_get64(super->block_count);
}

/*
 * The geometry is what the superblock says as it is after replay. It may differ from the backup that led here, and is
 * trusted no more than that was: it must be good, and tell of the same log, before anything is written. The device may
 * hold another filesystem by now, with no more of an old Ashlar volume than its backup superblock and its log.
 */
static int super_take_replayed(struct ash_volume *volume, const struct ash_overlay *overlay,
			       const struct ash_super *first, struct ash_super *super, char *text)
{
	const uint8_t *replayed = ash_overlay_block(overlay, 0);
	const char *wrong = NULL;
	int error = 0;

	if (replayed)
		memcpy(super, replayed, ASH_BLOCK_SIZE);
	else
		error = bdev_read(volume->dev, super, ASH_BLOCK_SIZE, 0);
	if (!error && ash_overlay_is_lost(overlay, 0))
		error = -EIO;
	/* unless it could be read a moment ago: that is the device, then, and not the place */
	if (ash_unreadable(error) && ash_get64(first->header.address)) {
		error = 0;
		wrong = "cannot be read";
	}
	if (!error && !wrong)
		wrong = super_check(super, 0);
	if (!error && !wrong &&
	    (ash_get64(super->log_start) != ash_get64(first->log_start) ||
	     ash_get64(super->log_blocks) != ash_get64(first->log_blocks) ||
	     ash_get32(super->checksum_seed) != ash_get32(first->checksum_seed) ||
	     memcmp(super->header.metadata_uuid, first->header.metadata_uuid, 16)))
		wrong = "tells of another log";
	if (wrong)
		error = fail_with(text, -EUCLEAN,
				  "%s: block 0: %s; a backup superblock is there: run fsck.ashlar if this is an "
				  "Ashlar volume",
				  bdev_name(volume->dev), wrong);
	if (!error && ash_overlay_each(overlay, outside, super))
		error = fail_with(text, -EUCLEAN,
				  "%s: the log changes what lies behind the volume's end; run fsck.ashlar",
				  bdev_name(volume->dev));
	if (!error)
		error = super_features(volume, super, text);
	if (!error)
		super_take(volume, super);
	return error;
}

/* What a backup, in one of the volume's own places, proves of block 0. */
struct finding {
	const char *wrong; /* NULL: nothing */
	bool foreign;      /* it is another volume's */
};

static struct finding backup_proves(const struct ash_super *backup, const struct ash_super *super)
{
	if (memcmp(backup->header.metadata_uuid, super->header.metadata_uuid, 16) != 0)
		return (struct finding){ .wrong = "the backup of the superblock is another volume's", .foreign = true };
	if (ash_get64(backup->inode_runs) > ash_get64(super->inode_runs))
		return (struct finding){ .wrong = "a backup of the superblock knows more of the inode table" };
	if (ash_get64(backup->block_count) > ash_get64(super->block_count))
		return (struct finding){ .wrong = "it is of a time before the volume grew, as a backup tells" };
	return (struct finding){ .wrong = NULL };
}

/*
 * Inode table and volume only grow, and the backups in a volume's own places are written when block 0 at home has it as
 * it is: one that counts more runs or blocks tells that block 0 is an old one, whose last write was lost. What the
 * newer runs and blocks hold must not be written over, nor that backup. Two of them are read: the first that every
 * close writes, and that of group 1, for when the volume grew the place of the first may hold anything. (What a growth
 * that a crash took back left lies behind the end.) Where one is another volume's, the first blocks were written over
 * by a copy of that volume or of this one: mkfs and growing write all backups before block 0.
 */
static struct finding backups_compare(struct ash_volume *volume, const struct ash_super *super,
				      struct ash_super *backup)
{
	const uint64_t places[] = { volume->block_count - 1, ash_group_start(1) };
	struct finding finding = { .wrong = NULL };
	const char *unused;

	for (unsigned i = 0; i < 2 && places[i] < volume->block_count && !finding.wrong; i++)
		if (!super_try(volume->dev, places[i], backup, &unused))
			finding = backup_proves(backup, super);
	return finding;
}

/*
 * Of two volumes that lie over each other somebody wants one. Going home, the log of the one would destroy more of the
 * other, so it is only looked through until fsck was told which.
 */
static void foreign_keep(struct ash_volume *volume, const struct finding *finding)
{
	if (!finding->foreign || volume->options.foreign_backups)
		return;
	if (!volume->no_write)
		ash_say(volume, ASH_LOG_ERROR, "opened read-only, and without writing the log home: run fsck.ashlar");
	volume->no_write = true;
	atomic_store(&volume->read_only, true);
}

static int overlay_open(struct ash_volume *volume, const struct ash_super *super, struct ash_overlay **overlay,
			char *text)
{
	int error = ash_overlay_open(volume->dev, super, overlay, text);

	if (!error || (text && *text))
		return error;
	return fail_with(text, error, "%s: reading the log: %s", bdev_name(volume->dev), strerror(-error));
}

static int engine_open(struct ash_volume *volume, const struct ash_super *first, char *text)
{
	struct ash_super *pair = bdev_buffer_alloc(2 * ASH_BLOCK_SIZE);
	struct ash_block_id id = { 0, ASH_MAGIC_SUPER, 0 };
	struct finding finding = { .wrong = NULL };
	struct ash_overlay *overlay = NULL;
	int error;

	if (text)
		*text = 0;
	error = pair ? overlay_open(volume, first, &overlay, text) : -ENOMEM;
	if (!error)
		error = super_take_replayed(volume, overlay, first, pair, text);
	if (!error) {
		finding = backups_compare(volume, pair, &pair[1]);
		foreign_keep(volume, &finding);
		error = overlay_decide(volume, overlay, text);
	}
	if (!error)
		error = ash_cache_open(volume);
	if (!error)
		error = ash_log_open_overlay(volume, overlay);
	ash_overlay_close(overlay);
	bdev_buffer_free(pair, 2 * ASH_BLOCK_SIZE);
	if (!error && finding.wrong)
		ash_damaged(volume, 0, finding.wrong);
	return error ? error : ash_buffer_get(volume, id, &volume->super);
}

static int layers_open(struct ash_volume *volume)
{
	int error = ash_alloc_open(volume);

	if (!error)
		error = ash_itable_open(volume);
	if (!error)
		error = ash_icache_open(volume);
	if (!error)
		error = ash_wb_open(volume);
	return error;
}

/* Finish what a crash left, also for a caller who may only read afterwards, as ext4 does. */
static int recover_finish(struct ash_volume *volume)
{
	int error;

	if (volume->no_write)
		return 0;
	if (!volume->options.read_only)
		return ash_orphan_recover(volume); /* does nothing when damage has made the volume read-only */
	if (!atomic_load(&volume->damaged_blocks) || volume->options.continue_on_damage)
		atomic_store(&volume->read_only, false);
	error = ash_orphan_recover(volume);
	if (!error)
		error = ash_log_checkpoint(volume, true);
	atomic_store(&volume->read_only, true);
	return error;
}

static int volume_open(struct ash_volume *volume, char *text)
{
	struct ash_super *super = bdev_buffer_alloc(ASH_BLOCK_SIZE);
	const char *name = bdev_name(volume->dev);
	int error = super ? device_lock(volume, text) : -ENOMEM;

	if (!error)
		error = super_read(volume, super, text);
	if (!error)
		error = super_features(volume, super, text);
	if (!error) {
		error = engine_open(volume, super, text);
		if (!error)
			error = layers_open(volume);
		if (!error)
			error = recover_finish(volume);
		if (!error)
			error = worker_start(volume);
		if (error && text && !*text)
			fail_with(text, error, "%s: %s%s", name, strerror(-error),
				  error == -EUCLEAN ? "; run fsck.ashlar" : "");
	}
	bdev_buffer_free(super, ASH_BLOCK_SIZE);
	return error;
}

int ash_open(struct bdev *dev, const struct ash_open_options *options, struct ash_volume **out, char *error_text)
{
	struct ash_volume *volume = calloc(1, sizeof(*volume));
	int error;

	*out = NULL;
	if (!volume)
		return fail_with(error_text, -ENOMEM, "out of memory");
	volume->dev = dev;
	options_take(volume, options);
	locks_init(volume);
	error = volume_open(volume, error_text);
	if (error) {
		volume_free(volume);
		return error;
	}
	*out = volume;
	return 0;
}

/* ---- Close ---- */

/* Damage seen is told to fsck through the superblock. */
static void error_state_write(struct ash_volume *volume)
{
	struct ash_super *super = (void *)volume->super->data;
	ash_le64 count = ash_put64(ash_get64(super->error_count) + atomic_load(&volume->damaged_blocks));
	ash_le64 when = ash_put64((uint64_t)ash_now().tv_sec);
	ash_le32 state = ash_put32(ash_get32(super->state) | ASH_STATE_ERRORS);
	struct ash_txn *txn;

	if (!atomic_load(&volume->damaged_blocks) || atomic_load(&volume->failed) || volume->options.read_only)
		return;
	atomic_store(&volume->read_only, false);
	if (ash_txn_begin(volume, ASH_TXN_SMALL, &txn))
		return;
	ash_txn_set(txn, volume->super, offsetof(struct ash_super, error_count), &count, sizeof(count));
	ash_txn_set(txn, volume->super, offsetof(struct ash_super, error_time), &when, sizeof(when));
	ash_txn_set(txn, volume->super, offsetof(struct ash_super, state), &state, sizeof(state));
	ash_txn_commit(txn);
}

static int backup_write(struct ash_volume *volume, struct ash_super *copy, uint64_t block)
{
	copy->header.address = ash_put64(block);
	copy->header.crc = ash_put32(ash_block_crc(0, copy));
	return bdev_write(volume->dev, copy, ASH_BLOCK_SIZE, block * ASH_BLOCK_SIZE, 0);
}

/* Write the copy at `block` if it is not `now` already. */
static int backup_refresh(struct ash_volume *volume, struct ash_super *now, struct ash_super *old, uint64_t block,
			  bool flush)
{
	const uint32_t from = offsetof(struct ash_super, volume_magic);
	int error = bdev_read(volume->dev, old, ASH_BLOCK_SIZE, block * ASH_BLOCK_SIZE);

	/* one that cannot be read is written anew: that may be all that the place needs */
	if (error && !ash_unreadable(error))
		return error;
	if (!error && !super_check(old, block) &&
	    !memcmp((uint8_t *)old + from, (uint8_t *)now + from, ASH_BLOCK_SIZE - from))
		return 0;
	error = backup_write(volume, now, block);
	return error || !flush ? error : bdev_flush(volume->dev);
}

/*
 * Backups follow the superblock when the inode table grew or a name changed. They are not logged: each is compared, so
 * that one which a power cut tore is mended by the next unmount. The one in the last block is durable before the
 * others are touched: a torn write costs one copy, never all.
 */
static int backups_refresh(struct ash_volume *volume)
{
	struct ash_super *pair = bdev_buffer_alloc(2 * ASH_BLOCK_SIZE), *now = &pair[1];
	int error;

	if (!pair)
		return -ENOMEM;
	memcpy(now, volume->super->data, ASH_BLOCK_SIZE);
	ash_image_stamp(volume->checksum_seed, ASH_MAGIC_SUPER, 0, (uint8_t *)now);
	error = backup_refresh(volume, now, pair, volume->block_count - 1, true);
	for (uint64_t group = 1; !error && group < volume->group_count; group++)
		if (ash_group_has_super(group))
			error = backup_refresh(volume, now, pair, ash_group_start(group), false);
	bdev_buffer_free(pair, 2 * ASH_BLOCK_SIZE);
	return error;
}

/* Memory may be short for a moment only, and what a close leaves undone nobody does later. */
static int persevere(struct ash_volume *volume, int (*step)(struct ash_volume *volume))
{
	const struct timespec pause = { .tv_nsec = 50000000 };
	int error = step(volume);

	for (unsigned tries = 0; error == -ENOMEM && tries < SETTLE_TRIES; tries++) {
		nanosleep(&pause, NULL);
		error = step(volume);
	}
	return error;
}

static int checkpoint_all(struct ash_volume *volume)
{
	return ash_log_checkpoint(volume, true);
}

static int volume_settle(struct ash_volume *volume)
{
	uint64_t free_blocks, available, total, used;
	bool exact;
	int error = 0, rc;

	if (!atomic_load(&volume->read_only))
		error = persevere(volume, ash_wb_flush_all);
	else if (ash_wb_bytes(volume))
		error = -EIO; /* the volume became read-only under data that was acknowledged to write(2) (I5) */
	if (!error)
		error = ash_wb_take_loss(volume, ash_wb_losses_told(volume));
	ash_wb_drop_preallocations(volume);
	exact = ash_itable_settle(volume); /* otherwise the next open counts anew */
	error_state_write(volume);
	if (atomic_load(&volume->failed))
		return -EIO;
	/* also when an inode's data could not be written: the metadata goes home, the caller hears of it */
	rc = persevere(volume, checkpoint_all);
	if (rc)
		return rc;
	/* what was damaged may be whole in a backup only: fsck wants it as it is */
	rc = atomic_load(&volume->damaged_blocks) ? 0 : persevere(volume, backups_refresh);
	if (rc)
		return rc;
	ash_alloc_counts(volume, &free_blocks, &available);
	ash_itable_counts(volume, &total, &used);
	if (volume->log->orphans.count)
		return error; /* somebody still holds them: the next open finishes them */
	rc = ash_log_write_control(volume, volume->log->tail_lsn, exact, free_blocks, used);
	return rc ? rc : error;
}

int ash_close(struct ash_volume *volume)
{
	int error = 0;

	worker_end(volume);
	if (!volume->no_write)
		error = volume_settle(volume);
	/* nobody waits for long at umount for what is only advice: FITRIM makes up for the rest */
	if (!error && !atomic_load(&volume->failed))
		ash_alloc_discard(volume, DISCARD_END_NS);
	volume_free(volume);
	return error;
}

void ash_abandon(struct ash_volume *volume)
{
	volume_free(volume);
}

/* ---- Sync ---- */

uint64_t ash_sync_begin(struct ash_volume *volume)
{
	return volume->no_write ? 0 : ash_wb_losses_told(volume);
}

int ash_sync_since(struct ash_volume *volume, uint64_t begin)
{
	int data_error, loss, error;

	if (volume->no_write)
		return 0;
	data_error = ash_wb_flush_all(volume);
	loss = ash_wb_take_loss(volume, begin);
	if (!data_error)
		data_error = loss;
	error = ash_log_make_durable(volume, ash_log_end(volume));
	ash_alloc_reap(volume);
	return error ? error : data_error;
}

int ash_sync(struct ash_volume *volume)
{
	return ash_sync_since(volume, ash_sync_begin(volume));
}

int ash_checkpoint(struct ash_volume *volume)
{
	int error = ash_sync(volume);

	return error || volume->no_write ? error : ash_log_checkpoint(volume, true);
}
