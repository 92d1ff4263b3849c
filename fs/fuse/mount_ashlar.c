/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * mount.ashlar: the helper that mount(8) runs for `mount -t ashlar DEVICE FOLDER` and for fstab.
 *
 * Called as `mount.ashlar DEVICE FOLDER [-sfnvrw] [-N namespace] [-t type] [-o options]...`. It runs ashlarfs, which
 * lies in the same folder or in one of the usual places. Options are judged here by the parser of ashlarfs, so that
 * wrong use and a failed mount have the exit status that mount(8) documents. Remounting is done here: it changes the
 * kernel's flags, of which the server is told afterwards. For that it is installed as mount.fuseblk.ashlar and
 * mount.fuse.ashlar, too, since mount(8) takes the type from the kernel then, and its options.
 */
#include "fuse_options.h"
#include "fuse_remount.h"

#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/wait.h>
#include <unistd.h>
#include "mkfs/probe.h"
#include "mkfs/standard.h"
#include "mkfs/tool.h"

#ifndef ST_NOSYMFOLLOW
#define ST_NOSYMFOLLOW 0x2000
#endif

/* As in mount(8). */
enum exit_code { EXIT_USAGE = 1, EXIT_SYSTEM = 2, EXIT_INTERNAL = 4, EXIT_MOUNT = 32 };

struct arguments {
	const char *device, *folder;
	char *options; /* of all -o, -r and -w, joined; NULL: none */
	bool fake, sloppy, verbose, remount, nofail;
	struct front_options parsed;
};

static int usage_error(const char *what)
{
	return tool_error(EXIT_USAGE, "%s; try 'mount.ashlar --help'", what);
}

static int print_help(void)
{
	puts("Usage: mount.ashlar DEVICE FOLDER [-sfnvrw] [-o option,...]\n"
	     "Mount the Ashlar volume on DEVICE; run by mount(8).\n\n"
	     "  -o OPTIONS     mount options, see ashlarfs(1); may be given more than once\n"
	     "  -r, -w         as -o ro, -o rw\n"
	     "  -s             ignore unknown options\n"
	     "  -f             check device, folder and options, but do not mount\n"
	     "  -n             accepted: there is no mtab\n"
	     "  -v             say what is done\n"
	     "  -V, --version  print the version\n"
	     "  -h, --help     print this text\n\n"
	     "See mount.ashlar(8) and ashlarfs(1).");
	return standard_finish(0, EXIT_SYSTEM);
}

/* ---- Arguments ---- */

/* Later ones win, as if they were one list. "remount" is for this program alone. */
static int add_options(struct arguments *arguments, const char *list)
{
	char *copy = strdup(list), *rest = copy, *option, *joined;

	while (copy && (option = strsep(&rest, ","))) {
		if (strcmp(option, "nofail") == 0)
			arguments->nofail = true;
		if (strcmp(option, "remount") == 0) {
			arguments->remount = true;
			continue;
		}
		if (asprintf(&joined, "%s%s%s", arguments->options ? arguments->options : "",
			     arguments->options ? "," : "", option) < 0) {
			free(copy);
			copy = NULL;
			break;
		}
		free(arguments->options);
		arguments->options = joined;
	}
	free(copy);
	return copy ? 0 : tool_error(EXIT_SYSTEM, "out of memory");
}

static int parse_option(struct arguments *arguments, int option, char **argv)
{
	switch (option) {
	case 's':
		arguments->sloppy = true;
		return 0;
	case 'f':
		arguments->fake = true;
		return 0;
	case 'v':
		arguments->verbose = true;
		return 0;
	case 'r':
		return add_options(arguments, "ro");
	case 'w':
		return add_options(arguments, "rw");
	case 'o':
		return add_options(arguments, optarg);
	case 'n':
	case 'N': /* mount(8) has entered the namespace */
	case 't':
		return 0;
	case 'h':
		exit(print_help());
	case 'V':
		puts("mount.ashlar " ASHLAR_VERSION);
		exit(standard_finish(0, EXIT_SYSTEM));
	}
	return tool_option_error(EXIT_USAGE, option, argv);
}

/* What ashlarfs is going to be told. How many. */
static int server_arguments(const struct arguments *arguments, char *argv[8])
{
	int count = 0;

	argv[count++] = "ashlarfs";
	if (arguments->sloppy)
		argv[count++] = "-s";
	if (arguments->options) {
		argv[count++] = "-o";
		argv[count++] = arguments->options;
	}
	argv[count++] = "--";
	argv[count++] = (char *)arguments->device;
	argv[count++] = (char *)arguments->folder;
	argv[count] = NULL;
	return count;
}

/* What the kernel shows of a FUSE mount, and mount(8) hands back for a remount. */
static bool is_kernel_option(const char *option)
{
	static const char *const names[] = { "user_id=", "group_id=", "rootmode=", "blksize=", "max_read=" };

	for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++)
		if (strncmp(option, names[i], strlen(names[i])) == 0)
			return true;
	return false;
}

static void drop_kernel_options(char *list)
{
	char *rest = list, *kept = list, *option;

	while (rest && (option = strsep(&rest, ","))) {
		size_t length = strlen(option);

		if (is_kernel_option(option))
			continue;
		if (kept != list)
			*kept++ = ',';
		memmove(kept, option, length + 1);
		kept += length;
	}
	if (kept == list && list)
		*list = '\0';
}

/* Judged by its own parser. */
static int check_options(struct arguments *arguments)
{
	char *argv[8];
	char error[OPTION_ERROR_TEXT];

	if (arguments->remount)
		drop_kernel_options(arguments->options);
	int count = server_arguments(arguments, argv);

	return options_parse(&arguments->parsed, count, argv, error) ? tool_error(EXIT_USAGE, "%s", error) : 0;
}

static int parse(struct arguments *arguments, int argc, char **argv)
{
	static const struct option long_options[] = {
		{ "help", no_argument, NULL, 'h' },
		{ "version", no_argument, NULL, 'V' },
		{ NULL, 0, NULL, 0 },
	};
	int option, status = 0;

	opterr = 0;
	while (!status && (option = getopt_long(argc, argv, ":sfnvrwhVN:t:o:", long_options, NULL)) != -1)
		status = parse_option(arguments, option, argv);
	if (status)
		return status;
	if (argc - optind != 2)
		return usage_error(argc - optind < 2 ? "a device and a folder are needed" : "too many arguments");
	arguments->device = argv[optind];
	arguments->folder = argv[optind + 1];
	return check_options(arguments);
}

/* ---- -f ---- */

/*
 * With nofail a device that does not exist is no error and not worth a line. mount(8) sees to that only where it mounts
 * itself, and `mount -a` takes over the status of a helper.
 */
static bool device_may_be_missing(const struct arguments *arguments)
{
	const char *path = tool_device_path(arguments->device);
	char *resolved = NULL;
	struct stat st;
	int error;

	if (!arguments->nofail || !path)
		return false;
	if (tool_is_tag(path)) {
		error = probe_resolve_tag(path, &resolved);
		free(resolved);
		return error == -ENODEV;
	}
	return stat(path, &st) && (errno == ENOENT || errno == ENOTDIR);
}

/* All that can be found out without mounting. */
static int check_only(const struct arguments *arguments)
{
	const char *device = arguments->device;
	struct tool_volume opened;
	char *resolved = NULL;
	struct stat st;
	int result;

	if (stat(arguments->folder, &st) || !S_ISDIR(st.st_mode))
		return tool_error(EXIT_MOUNT, "%s: is not a folder", arguments->folder);
	result = tool_resolve_tag(&device, &resolved);
	if (!result)
		result = tool_open(device, TOOL_READ, &opened);
	if (!result)
		result = tool_close(&opened, 0);
	free(resolved);
	return result ? EXIT_MOUNT : 0;
}

/* ---- Remounting ---- */

/* Any other file system would take the flags as well. */
static bool is_our_mount(const char *folder)
{
	int fd = open(folder, O_PATH | O_CLOEXEC);
	bool ours = fd >= 0 && probe_is_ours(fd);

	if (fd >= 0)
		close(fd);
	return ours;
}

/* What the kernel has now, as flags for mount(2): what a remount leaves out it keeps, or not, by rules of its own. */
static int kernel_flags(const char *folder, unsigned long *flags)
{
	struct statvfs st;

	if (statvfs(folder, &st))
		return -1;
	*flags = st.f_flag & (ST_RDONLY | ST_NOSUID | ST_NODEV | ST_NOEXEC | ST_SYNCHRONOUS | ST_NOATIME |
			      ST_NODIRATIME); /* of the same values */
	if (st.f_flag & ST_RELATIME)
		*flags |= MS_RELATIME;
	if (!(st.f_flag & (ST_NOATIME | ST_RELATIME)))
		*flags |= MS_STRICTATIME;
	if (st.f_flag & ST_NOSYMFOLLOW)
		*flags |= MS_NOSYMFOLLOW;
	return 0;
}

/* 0 or an error number. */
static int tell_server(const char *folder, unsigned long flags)
{
	uint64_t argument = flags & REMOUNT_FLAGS;
	int fd = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	int error = fd < 0 || ioctl(fd, REMOUNT_IOCTL, &argument) ? errno : 0;

	if (fd >= 0)
		close(fd);
	return error;
}

static int remount_failed(const struct arguments *arguments, int error)
{
	return tool_error(error == EPERM ? EXIT_USAGE : EXIT_MOUNT, "cannot remount %s: %s", arguments->folder,
			  strerror(error));
}

static int stays_read_only(const char *folder)
{
	return tool_error(EXIT_MOUNT,
			  "cannot remount %s read-write: its volume was opened read-only, or turned read-only after "
			  "an error; unmount it and mount it again",
			  folder);
}

/*
 * The kernel first, since it may refuse: files are open for writing. Then the server, whether it is to become looser or
 * stricter: until it is told it only does what was right before. When it does not follow, all is put back.
 */
static int remount(const struct arguments *arguments)
{
	const char *device = arguments->device, *folder = arguments->folder;
	unsigned long flags = MS_REMOUNT | arguments->parsed.mount_flags, before, now;

	if (probe_is_private(folder))
		return tool_error(EXIT_MOUNT,
				  "cannot remount %s: it is an ordinary user's mount, and root cannot reach it: "
				  "unmount it, or let its user mount it with allow_other",
				  folder);
	if (!is_our_mount(folder))
		return tool_error(EXIT_MOUNT, "cannot remount %s: it is not a mounted Ashlar volume", folder);
	if (kernel_flags(folder, &before))
		return remount_failed(arguments, errno);
	if (mount(device, folder, NULL, flags, NULL)) {
		/* The kernel knows that the device cannot be written, as the loop device of a read-only mount cannot. */
		if (errno == EACCES && (before & MS_RDONLY) && !(flags & MS_RDONLY))
			return stays_read_only(folder);
		return remount_failed(arguments, errno);
	}
	if (kernel_flags(folder, &now))
		return remount_failed(arguments, errno);
	int error = tell_server(folder, now);
	if (error == EROFS) {
		mount(device, folder, NULL, flags | MS_RDONLY, NULL);
		return stays_read_only(folder);
	}
	/*
	 * A server from before there was such a call goes on as it did: it need not hear of flags that concern the
	 * kernel.
	 */
	if (!error || (error == ENOTTY && !((before ^ now) & REMOUNT_FLAGS)))
		return 0;
	mount(device, folder, NULL, MS_REMOUNT | before, NULL);
	tell_server(folder, before);
	return tool_error(EXIT_MOUNT, "cannot remount %s: telling its server: %s", folder, strerror(error));
}

/* ---- Mounting ---- */

static void become(const char *path, const struct arguments *arguments)
{
	char *argv[8];

	server_arguments(arguments, argv);
	if (arguments->verbose && access(path, X_OK) == 0)
		fprintf(stderr, "mount.ashlar: running %s\n", path);
	execv(path, argv);
}

/* Never returns. */
static void run_server(const struct arguments *arguments)
{
	static const char *const places[] = { "/usr/local/sbin/ashlarfs", "/usr/local/bin/ashlarfs",
					      "/usr/sbin/ashlarfs",       "/usr/bin/ashlarfs",
					      "/sbin/ashlarfs",           "/bin/ashlarfs" };
	char self[PATH_MAX + 16];
	ssize_t length = readlink("/proc/self/exe", self, PATH_MAX);

	if (length > 0) {
		self[length] = '\0';
		strcpy(strrchr(self, '/') + 1, "ashlarfs");
		become(self, arguments);
	}
	for (size_t i = 0; i < sizeof(places) / sizeof(places[0]); i++)
		become(places[i], arguments);
	_exit(tool_error(EXIT_MOUNT, "cannot run ashlarfs: %s", strerror(errno)));
}

/* ashlarfs ends when the mount is up or has failed, with a message and status 1 then: to mount(8) that is 32. */
static int mount_volume(const struct arguments *arguments)
{
	pid_t child = fork();
	int status;

	if (child < 0)
		return tool_error(EXIT_SYSTEM, "cannot start: %s", strerror(errno));
	if (child == 0)
		run_server(arguments);
	while (waitpid(child, &status, 0) < 0)
		if (errno != EINTR)
			return tool_error(EXIT_INTERNAL, "waiting for ashlarfs: %s", strerror(errno));
	return WIFEXITED(status) && WEXITSTATUS(status) == 0 ? 0 : EXIT_MOUNT;
}

int main(int argc, char **argv)
{
	struct arguments arguments = { 0 };
	int status;

	standard_guard();
	status = parse(&arguments, argc, argv);
	if (!status && arguments.remount && !arguments.fake)
		status = remount(&arguments);
	else if (!status && !device_may_be_missing(&arguments))
		status = arguments.fake ? check_only(&arguments) : mount_volume(&arguments);
	options_free(&arguments.parsed);
	free(arguments.options);
	return status;
}
