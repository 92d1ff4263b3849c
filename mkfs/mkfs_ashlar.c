/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * mkfs.ashlar: make a volume on a device or image file.
 *
 * Order, which is the point of this file: arguments; what kind of thing the target is; who uses it (always a
 * refusal); what it contains (a refusal without -f); the plan. Until then nothing is written. Then the device is
 * opened exclusively and locked; what was checked before is looked at again, since another run may have been quicker;
 * and then the file gets its length, the volume is made, and filled (-d). Nothing is changed without the lock, nor
 * undone: a file that this run created is removed when it fails, but never somebody else's volume.
 */
#include "mkfs/fill.h"
#include "mkfs/json.h"
#include "mkfs/probe.h"
#include "mkfs/standard.h"
#include "mkfs/tool.h"

#include "fs/mkvolume.h"

#include <ashlar/format.h>
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <inttypes.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define LOOKED_AT ((off_t)1 << 20) /* bytes of a file in which unknown data count */

struct request {
	const char *name;   /* as given: may have a driver prefix */
	const char *path;   /* without it */
	const char *folder; /* -d */
	uint64_t size;      /* bytes; 0: as the device */
	struct ash_mkfs_options options;
	uint8_t uuid[16];
	bool force, dry_run, quiet, json;
	bool exists;              /* the target did before this run */
	bool grown;               /* the file was made longer */
	uint64_t old_size;        /* bytes, of a regular file */
	char content[PROBE_TEXT]; /* what -f overwrites; "": nothing that is known */
	struct stat st;
};

static void usage(FILE *out)
{
	fputs("Usage: mkfs.ashlar [options] DEVICE [SIZE]\n"
	      "Make an Ashlar volume on a block device or image file. SIZE (512M, 4GiB) creates or\n"
	      "limits an image file, or limits the part of a device that is used.\n\n"
	      "  -f          go on although the device contains a file system or partition table\n"
	      "  -n          say what would be done, write nothing\n"
	      "  -q          print nothing on success\n"
	      "  -K          do not discard the old content\n"
	      "  -L LABEL    volume label, at most 64 bytes\n"
	      "  -U UUID     volume UUID, or 'random'\n"
	      "  -l SIZE     size of the log, 1M to 124M (default: a 64th of the volume, at most 64M)\n"
	      "  -d FOLDER   fill the volume with a copy of FOLDER\n"
	      "  -b SIZE     block size; only 4096 is possible\n"
	      "      --json  print the result as JSON\n"
	      "  -V, --version   print the version\n"
	      "  -h, --help      print this text\n\n"
	      "A device that is in use is always refused. See mkfs.ashlar(8).\n",
	      out);
}

/* ---- Arguments ---- */

static int parse_log_size(struct request *request, const char *text)
{
	uint64_t bytes;

	if (bdev_parse_size(text, &bytes) || bytes < 1u << 20 || (bytes >> ASH_BLOCK_SHIFT) + 2 > ASH_LOG_MAX_BLOCKS)
		return tool_error(-1, "log size %s: must be between 1M and 124M", text);
	request->options.log_blocks = (bytes >> ASH_BLOCK_SHIFT) + 2; /* two control blocks come on top */
	return 0;
}

static int parse_block_size(const char *text)
{
	uint64_t bytes;

	if (bdev_parse_size(text, &bytes) || bytes != ASH_BLOCK_SIZE)
		return tool_error(-1, "block size %s: only %u is possible", text, ASH_BLOCK_SIZE);
	return 0;
}

static int parse_label(struct request *request, const char *text)
{
	if (strlen(text) > ASH_LABEL_SIZE)
		return tool_error(-1, "the label is longer than %u bytes", ASH_LABEL_SIZE);
	request->options.label = text;
	return 0;
}

static int parse_volume_uuid(struct request *request, const char *text)
{
	if (tool_parse_uuid(text, request->uuid))
		return tool_error(-1, "'%s' is not a UUID: give 32 hexadecimal digits or 'random'", text);
	return 0;
}

enum { OPTION_JSON = 256 };

static int parse_option(struct request *request, int option)
{
	switch (option) {
	case 'f':
		request->force = true;
		return 0;
	case 'n':
		request->dry_run = true;
		return 0;
	case 'q':
		request->quiet = true;
		return 0;
	case 'K':
		request->options.no_discard = true;
		return 0;
	case 'L':
		return parse_label(request, optarg);
	case 'U':
		return parse_volume_uuid(request, optarg);
	case 'l':
		return parse_log_size(request, optarg);
	case 'd':
		request->folder = optarg;
		return 0;
	case 'b':
		return parse_block_size(optarg);
	case OPTION_JSON:
		request->json = true;
		return 0;
	case 'V':
		printf("mkfs.ashlar %s\n", ash_version());
		exit(standard_finish(0, 1));
	case 'h':
		usage(stdout);
		exit(standard_finish(0, 1));
	}
	return -1;
}

static int parse_target(struct request *request, int count, char **arguments)
{
	if (count < 1)
		return tool_error(-1, "a device or file is missing; try 'mkfs.ashlar --help'");
	if (count > 2)
		return tool_error(-1, "'%s' is too much; try 'mkfs.ashlar --help'", arguments[2]);
	if (tool_is_tag(arguments[0]))
		return tool_error(-1, "%s: names a volume that exists; mkfs wants a device or a file", arguments[0]);
	request->name = arguments[0];
	request->path = tool_device_path(arguments[0]);
	if (!request->path)
		return tool_error(-1, "%s: memory does not outlive this program: give a device or file", request->name);
	if (count == 2 && (bdev_parse_size(arguments[1], &request->size) || !request->size))
		return tool_error(-1, "'%s' is not a size: write 512M or 4GiB", arguments[1]);
	return 0;
}

static int parse_arguments(struct request *request, int argc, char **argv)
{
	static const struct option options[] = {
		{ "json", no_argument, NULL, OPTION_JSON },
		{ "version", no_argument, NULL, 'V' },
		{ "help", no_argument, NULL, 'h' },
		{ 0 },
	};
	int option;

	tool_parse_uuid("random", request->uuid);
	request->options.uuid = request->uuid;
	request->options.root_uid = geteuid(); /* who makes a volume can use it */
	request->options.root_gid = getegid();
	opterr = 0; /* one line, ours */
	while ((option = getopt_long(argc, argv, ":fnqKL:U:l:d:b:Vh", options, NULL)) != -1) {
		if (option == '?' || option == ':')
			return tool_option_error(-1, option, argv);
		if (parse_option(request, option))
			return -1;
	}
	return parse_target(request, argc - optind, argv + optind);
}

/* ---- Checks: nothing is written yet ---- */

static int check_folder(const char *folder)
{
	struct stat st;

	if (stat(folder, &st))
		return tool_error(-1, "%s: %s", folder, strerror(errno));
	if (!S_ISDIR(st.st_mode))
		return tool_error(-1, "%s: is not a folder", folder);
	return access(folder, R_OK | X_OK) ? tool_error(-1, "%s: %s", folder, strerror(errno)) : 0;
}

/* Where the nodes of devices are, no image is meant. What is mounted below (/dev/shm) may hold some. */
static bool is_device_name(const char *path)
{
	char folder[PATH_MAX];
	struct stat there, devices;

	if (strncmp(path, "/dev/", 5) != 0)
		return false;
	snprintf(folder, sizeof(folder), "%.*s", (int)(strrchr(path, '/') - path), path);
	return stat(folder, &there) || stat("/dev", &devices) || there.st_dev == devices.st_dev;
}

static int check_missing(const struct request *request)
{
	if (!request->size)
		return tool_error(-1, "%s: does not exist; to create an image file give its size: mkfs.ashlar %s SIZE",
				  request->path, request->path);
	if (is_device_name(request->path))
		return tool_error(-1, "%s: no such device", request->path);
	return 0;
}

/* Where the first byte lies that is not zero, below `end`; -1: nowhere. Holes are passed over. */
static off_t find_data(int fd, off_t end)
{
	static const char zeroes[ASH_BLOCK_SIZE];
	char block[ASH_BLOCK_SIZE];
	off_t offset = lseek(fd, 0, SEEK_DATA);

	while (offset >= 0 && offset < end) {
		ssize_t got = pread(fd, block, sizeof(block), offset);

		if (got <= 0)
			return -1;
		if (memcmp(block, zeroes, (size_t)got) != 0)
			return offset;
		offset = lseek(fd, offset + got, SEEK_DATA);
	}
	return -1;
}

/* A regular file with something that nobody knows near its start may be a document: a slip in the command line. */
static int probe_unknown_content(const struct request *request, char what[PROBE_TEXT])
{
	int fd = S_ISREG(request->st.st_mode) ? open(request->path, O_RDONLY | O_CLOEXEC) : -1;
	off_t found;

	if (fd < 0)
		return 0;
	found = find_data(fd, LOOKED_AT);
	close(fd);
	if (found < 0)
		return 0;
	snprintf(what, PROBE_TEXT,
		 found < ASH_BLOCK_SIZE ? "contains data of an unknown kind" :
					  "holds data of an unknown kind behind its start");
	return 1;
}

static int check_content(struct request *request)
{
	char *what = request->content;
	int result = probe_signature(request->path, what);

	if (!result)
		result = probe_unknown_content(request, what);
	if (result < 0)
		return tool_error(-1, "%s: looking for signatures: %s", request->path, strerror(-result));
	if (result && !request->force)
		return tool_error(-1, "%s %s; use -f to overwrite it", request->path, what);
	if (!result)
		what[0] = 0;
	return 0;
}

/* When nothing is left that could refuse it: who reads this takes the old content for lost. */
static void announce_overwriting(const struct request *request)
{
	if (request->content[0] && !request->quiet && !request->json)
		fprintf(stderr, "mkfs.ashlar: %s %s: %s\n", request->path, request->content,
			request->dry_run ? "it would be overwritten" : "overwriting it");
}

static int check_topology(const struct request *request)
{
	struct probe_topology topology;

	if (probe_topology(request->path, &topology))
		return 0;
	if (topology.logical_sector > ASH_BLOCK_SIZE)
		return tool_error(-1, "%s: sectors of %u bytes are larger than a block (%u bytes)", request->path,
				  topology.logical_sector, ASH_BLOCK_SIZE);
	if (topology.alignment_offset && !request->quiet)
		tool_error(0, "warning: %s begins %u bytes off a physical block: writes will be slow", request->path,
			   topology.alignment_offset);
	return 0;
}

static int check_regular_size(struct request *request)
{
	request->old_size = (uint64_t)request->st.st_size;
	if (!request->old_size && !request->size)
		return tool_error(-1, "%s: is an empty file; give a size: mkfs.ashlar %s SIZE", request->path,
				  request->path);
	if (!request->size && request->old_size < (uint64_t)ASH_VOLUME_MIN_BLOCKS << ASH_BLOCK_SHIFT)
		return tool_error(-1, "%s: is too small (%" PRIu64 " bytes): a volume needs at least 4 MiB",
				  request->path, request->old_size);
	return 0;
}

/* Before anything is said about overwriting. */
static int check_permission(const struct request *request)
{
	if (request->dry_run || access(request->path, R_OK | W_OK) == 0)
		return 0;
	return tool_error(-1, "%s: %s", request->path, strerror(errno));
}

static int check_target(struct request *request)
{
	int result;

	if (request->folder && check_folder(request->folder))
		return -1;
	request->exists = stat(request->path, &request->st) == 0;
	if (!request->exists)
		return errno == ENOENT ? check_missing(request) :
					 tool_error(-1, "%s: %s", request->path, strerror(errno));
	result = tool_check_target(request->path);
	if (!result && S_ISREG(request->st.st_mode))
		result = check_regular_size(request);
	if (!result)
		result = check_permission(request);
	if (!result)
		result = tool_wait_free(request->name);
	if (!result)
		result = check_topology(request);
	if (!result)
		result = check_content(request);
	return result;
}

/* Blocks that the device has, or will have once the file is made as long as asked for. */
static int device_blocks(const struct request *request, uint64_t *blocks)
{
	struct bdev_open_options options = { .read_only = true, .allow_buffered = true };
	char error[BDEV_ERROR_TEXT] = "";
	struct bdev *dev;

	if (!request->exists || (S_ISREG(request->st.st_mode) && request->size > request->old_size)) {
		*blocks = request->size >> ASH_BLOCK_SHIFT;
		return 0;
	}
	if (bdev_open(request->name, &options, &dev, error))
		return tool_error(-1, "%s", error);
	*blocks = bdev_geometry(dev)->size >> ASH_BLOCK_SHIFT;
	bdev_close(dev);
	return 0;
}

static int make_plan(struct request *request, struct ash_mkfs_plan *plan)
{
	char error[BDEV_ERROR_TEXT] = "";
	uint64_t blocks = 0;

	if (device_blocks(request, &blocks))
		return -1;
	request->options.block_count = request->size >> ASH_BLOCK_SHIFT;
	if (request->size && request->options.block_count < ASH_VOLUME_MIN_BLOCKS)
		return tool_error(-1, "%s: too small: a volume needs at least 4 MiB", request->path);
	if (ash_mkfs_plan(request->path, blocks, &request->options, plan, error))
		return tool_error(-1, "%s", error);
	return 0;
}

/* ---- Making ---- */

/* The one piece of state that a signal handler can reach: the file that this run has made, until it is complete. */
static const char *volatile unfinished;

static void on_interrupt(int signal_number)
{
	if (unfinished)
		unlink(unfinished);
	raise(signal_number); /* SA_RESETHAND: this ends the program */
}

static void heed_interrupts(void)
{
	struct sigaction action = { .sa_handler = on_interrupt, .sa_flags = (int)SA_RESETHAND };

	sigaction(SIGINT, &action, NULL);
	sigaction(SIGTERM, &action, NULL);
	sigaction(SIGHUP, &action, NULL);
}

/*
 * Made empty: it gets its length when it is locked. It is its owner's alone: who can read an image reads all files in
 * it, whatever their modes, and can keep others from opening it by a lock.
 */
static int create_file(struct request *request)
{
	int fd = open(request->path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600), result = 0;

	if (fd < 0 || fstat(fd, &request->st))
		result = tool_error(-1, "%s: %s", request->path, strerror(errno));
	if (fd >= 0)
		close(fd);
	request->st.st_size = 0; /* what it has got since is somebody else's */
	return result;
}

static bool is_same_file(const struct request *request, const struct stat *st)
{
	return st->st_dev == request->st.st_dev && st->st_ino == request->st.st_ino &&
	       st->st_rdev == request->st.st_rdev;
}

/* Of this run and not to be opened: away with it, unless somebody else has found it and makes a volume in it. */
static void remove_created(const struct request *request)
{
	struct flock lock = { .l_type = F_WRLCK, .l_whence = SEEK_SET };
	int fd = open(request->path, O_WRONLY | O_CLOEXEC);
	struct stat st;

	if (fd < 0)
		return;
	if (fcntl(fd, F_OFD_SETLK, &lock) == 0 && fstat(fd, &st) == 0 && is_same_file(request, &st) && !st.st_size)
		unlink(request->path);
	close(fd);
}

/* The checks were made before the lock was taken: another run may have been quicker, even that this one waited for. */
static int check_again(struct request *request)
{
	struct stat st;

	if (stat(request->path, &st))
		return tool_error(-1, "%s: %s", request->path, strerror(errno));
	if (!is_same_file(request, &st) || st.st_size != request->st.st_size)
		return tool_error(-1, "%s: somebody else has changed it meanwhile; try again", request->path);
	return request->exists && !request->force ? check_content(request) : 0;
}

static int lock_device(const struct request *request, struct bdev *dev)
{
	int result = bdev_lock(dev, true, TOOL_LOCK_TIMEOUT_MS);

	if (result == -EBUSY)
		return tool_error(-1, "%s is in use by another Ashlar program", request->path);
	return result ? tool_error(-1, "%s: locking: %s", request->path, strerror(-result)) : 0;
}

static int open_locked(struct request *request, struct bdev **dev)
{
	struct bdev_open_options options = { .exclusive = true, .allow_buffered = true };
	char error[BDEV_ERROR_TEXT] = "";
	int result = request->exists ? 0 : create_file(request);

	if (result)
		return result;
	if (bdev_open(request->name, &options, dev, error)) {
		if (!request->exists)
			remove_created(request);
		return tool_error(-1, "%s", error);
	}
	result = lock_device(request, *dev);
	if (!result)
		result = check_again(request);
	if (!result && !request->exists)
		unfinished = request->path;
	return result;
}

/* Whose file it is, is known when it is locked: until then an interrupt waits, so that none leaves an empty file. */
static int take_device(struct request *request, struct bdev **dev)
{
	sigset_t before;
	int result;

	if (!request->exists)
		tool_hold_interrupts(&before);
	result = open_locked(request, dev);
	if (!request->exists)
		sigprocmask(SIG_SETMASK, &before, NULL);
	return result;
}

static int grow_file(struct request *request, struct bdev *dev)
{
	int result;

	if (!S_ISREG(request->st.st_mode) || request->old_size >= request->size)
		return 0;
	request->grown = true;
	if (truncate(request->path, (off_t)request->size))
		return tool_error(-1, "%s: making a file of %" PRIu64 " bytes: %s", request->path, request->size,
				  strerror(errno));
	result = bdev_refresh_size(dev);
	return result ? tool_error(-1, "%s: %s", request->path, strerror(-result)) : 0;
}

/* Called with the lock held, by whose holder nobody else's work can be undone. */
static void undo_growth(const struct request *request)
{
	if (!request->exists)
		unlink(request->path);
	else if (request->grown && truncate(request->path, (off_t)request->old_size))
		tool_error(0, "%s: could not be made as short as before: %s", request->path, strerror(errno));
}

static int fill(const struct request *request, struct bdev *dev, struct fill_result *filled)
{
	struct ash_open_options options = { .skip_lock = true };
	char error[BDEV_ERROR_TEXT] = "";
	struct ash_volume *volume;
	struct stat st;
	int result, closed;

	if (ash_open(dev, &options, &volume, error))
		return tool_error(-1, "filling: %s", error);
	result = fill_volume(volume, request->folder, stat(request->path, &st) ? NULL : &st, filled);
	closed = ash_close(volume);
	if (closed && !result)
		result = tool_error(-1, "filling: %s", strerror(-closed));
	if (result && request->exists)
		tool_error(0, "%s: the volume is good but holds only a part of %s", request->path, request->folder);
	return result;
}

static int make_volume(struct request *request, struct bdev *dev)
{
	char error[BDEV_ERROR_TEXT] = "";
	int result = grow_file(request, dev);

	if (result)
		return result;
	return ash_mkfs(dev, &request->options, error) ? tool_error(-1, "%s", error) : 0;
}

static int make_locked(struct request *request, struct bdev *dev, struct fill_result *filled)
{
	int result = make_volume(request, dev);

	if (result && request->exists)
		undo_growth(request);
	if (!result && request->folder)
		result = fill(request, dev, filled);
	if (result && !request->exists)
		undo_growth(request);
	return result;
}

static int make(struct request *request, struct fill_result *filled)
{
	struct bdev *dev = NULL;
	int result;

	if (!request->exists)
		heed_interrupts();
	result = take_device(request, &dev);
	if (!result) {
		announce_overwriting(request);
		result = make_locked(request, dev, filled);
	}
	unfinished = NULL;
	if (dev)
		bdev_close(dev);
	return result;
}

/* ---- Reports ---- */

static void report_text(const struct request *request, const struct ash_mkfs_plan *plan,
			const struct fill_result *filled)
{
	const char *label = request->options.label ? request->options.label : "";
	char uuid[TOOL_UUID_TEXT], size[32], log[32];

	tool_format_uuid(request->uuid, uuid);
	tool_format_size(plan->block_count << ASH_BLOCK_SHIFT, size);
	tool_format_size(plan->log_blocks << ASH_BLOCK_SHIFT, log);
	printf("%s: %s Ashlar volume%s", request->path, request->dry_run ? "would make an" : "made an",
	       label[0] ? " '" : "");
	tool_print_text(label);
	puts(label[0] ? "'" : "");
	printf("  UUID    %s\n", uuid);
	printf("  size    %s: %" PRIu64 " blocks of 4 KiB in %" PRIu64 " group%s\n", size, plan->block_count,
	       plan->group_count, plan->group_count == 1 ? "" : "s");
	printf("  log     %s at block %" PRIu64 "\n", log, plan->log_start);
	printf("  inodes  no fixed number, in runs of %" PRIu32 "\n", plan->inodes_per_run);
	if (request->folder && !request->dry_run)
		printf("  filled  %" PRIu64 " files, %" PRIu64 " folders, %" PRIu64 " others from %s\n", filled->files,
		       filled->folders, filled->others, request->folder);
	else if (request->folder)
		printf("  filled  would be copied from %s\n", request->folder);
}

static void report_filled(struct json *json, const struct fill_result *filled)
{
	json_open(json, "filled", '{');
	json_number(json, "files", filled->files);
	json_number(json, "folders", filled->folders);
	json_number(json, "others", filled->others);
	json_number(json, "bytes", filled->bytes);
	json_close(json, '}');
}

static void report_json(const struct request *request, const struct ash_mkfs_plan *plan,
			const struct fill_result *filled)
{
	char uuid[TOOL_UUID_TEXT];
	struct json json;

	tool_format_uuid(request->uuid, uuid);
	json_begin(&json, stdout);
	json_open(&json, NULL, '{');
	json_string(&json, "device", request->path);
	json_bool(&json, "dry_run", request->dry_run);
	json_string(&json, "uuid", uuid);
	json_string(&json, "label", request->options.label ? request->options.label : "");
	json_number(&json, "block_size", ASH_BLOCK_SIZE);
	json_number(&json, "blocks", plan->block_count);
	json_number(&json, "groups", plan->group_count);
	json_number(&json, "free_blocks", plan->free_blocks);
	json_number(&json, "log_start", plan->log_start);
	json_number(&json, "log_blocks", plan->log_blocks);
	json_number(&json, "inodes_per_run", plan->inodes_per_run);
	if (request->folder && !request->dry_run)
		report_filled(&json, filled);
	json_close(&json, '}');
	json_end(&json);
}

static void report(const struct request *request, const struct ash_mkfs_plan *plan, const struct fill_result *filled)
{
	if (request->json)
		report_json(request, plan, filled);
	else if (!request->quiet)
		report_text(request, plan, filled);
}

int main(int argc, char **argv)
{
	struct request request = { 0 };
	struct fill_result filled = { 0 };
	struct ash_mkfs_plan plan;

	standard_guard();
	if (parse_arguments(&request, argc, argv) || check_target(&request) || make_plan(&request, &plan) ||
	    (!request.dry_run && make(&request, &filled))) {
		if (request.json)
			json_print_error(tool_first_error());
		return standard_finish(1, 1);
	}
	if (request.dry_run)
		announce_overwriting(&request);
	report(&request, &plan, &filled);
	return standard_finish(0, 1);
}
