/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Command line and mount options.
 *
 * Two tables: options that are flags of mount(2), which mount(8) also knows, and options of Ashlar. What mount(8) and
 * fstab pass along and what is nobody's business here (noauto, nofail, x-systemd.*) is accepted and ignored; what
 * nobody knows is an error, because a misspelt option that is ignored would be found out too late.
 *
 * No state outside `struct front_options`; no locks.
 */
#include "fuse_options.h"

#include <errno.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include "mkfs/standard.h"

#define DEFAULT_THREADS 10u /* a limit: two are started, more only while threads wait for the device */
#define MAX_THREADS 64u
#define NO_EXECUTION (MS_NOSUID | MS_NODEV | MS_NOEXEC)

struct flag_option {
	const char *name;
	unsigned long set, clear;
};

static const struct flag_option flag_options[] = {
	{ "ro", MS_RDONLY, 0 },
	{ "rw", 0, MS_RDONLY },
	{ "nosuid", MS_NOSUID, 0 },
	{ "suid", 0, MS_NOSUID },
	{ "nodev", MS_NODEV, 0 },
	{ "dev", 0, MS_NODEV },
	{ "noexec", MS_NOEXEC, 0 },
	{ "exec", 0, MS_NOEXEC },
	{ "sync", MS_SYNCHRONOUS, 0 },
	{ "async", 0, MS_SYNCHRONOUS },
	{ "dirsync", MS_DIRSYNC, 0 },
	{ "noatime", MS_NOATIME, MS_RELATIME | MS_STRICTATIME },
	{ "atime", MS_RELATIME, MS_NOATIME }, /* a flag of its own, or a remount would leave noatime */
	{ "nodiratime", MS_NODIRATIME, 0 },
	{ "diratime", 0, MS_NODIRATIME },
	{ "relatime", MS_RELATIME, MS_NOATIME | MS_STRICTATIME },
	{ "norelatime", 0, MS_RELATIME },
	{ "strictatime", MS_STRICTATIME, MS_NOATIME | MS_RELATIME },
	{ "nostrictatime", 0, MS_STRICTATIME },
	{ "lazytime", MS_LAZYTIME, 0 },
	{ "nolazytime", 0, MS_LAZYTIME },
	{ "silent", MS_SILENT, 0 },
	{ "loud", 0, MS_SILENT },
	{ "nosymfollow", MS_NOSYMFOLLOW, 0 },
	{ "symfollow", 0, MS_NOSYMFOLLOW },
	{ "user", NO_EXECUTION, 0 },
	{ "users", NO_EXECUTION, 0 },
	{ "owner", MS_NOSUID | MS_NODEV, 0 },
	{ "group", MS_NOSUID | MS_NODEV, 0 },
	/* accepted, nothing to do */
	{ "nouser", 0, 0 },
	{ "nousers", 0, 0 },
	{ "noowner", 0, 0 },
	{ "nogroup", 0, 0 },
	{ "defaults", 0, 0 },
	{ "auto", 0, 0 },
	{ "noauto", 0, 0 },
	{ "nofail", 0, 0 },
	{ "_netdev", 0, 0 },
	{ "mand", 0, 0 },
	{ "nomand", 0, 0 },
	{ "iversion", 0, 0 },
	{ "noiversion", 0, 0 },
	{ "loop", 0, 0 },
	{ "default_permissions", 0, 0 },
};

/* Options with any value that are for mount(8), systemd or people. */
static const char *const ignored_prefixes[] = { "x-", "X-", "comment=", "user=", "uhelper=", "helper=", "loop=" };
static const char *const security_prefixes[] = { "context=", "fscontext=", "defcontext=", "rootcontext=" };

static bool has_prefix(const char *text, const char *prefix)
{
	return strncmp(text, prefix, strlen(prefix)) == 0;
}

static int parse_number(const char *text, unsigned long maximum, unsigned long *out)
{
	char *end;

	errno = 0;
	unsigned long value = strtoul(text, &end, 10);
	if (*text < '0' || *text > '9' || *end || errno || value > maximum)
		return -EINVAL;
	*out = value;
	return 0;
}

static int number_error(char *error, const char *name, const char *value, const char *what)
{
	snprintf(error, OPTION_ERROR_TEXT, "option %s=%.64s: %s expected", name, value, what);
	return -EINVAL;
}

/* `maximum` in MiB. */
static int parse_memory(const char *name, const char *value, unsigned long maximum, uint64_t *bytes, char *error)
{
	unsigned long number;
	char what[64];

	if (parse_number(value, maximum, &number) || number == 0) {
		snprintf(what, sizeof(what), "a size in MiB from 1 to %lu", maximum);
		return number_error(error, name, value, what);
	}
	*bytes = (uint64_t)number << 20;
	return 0;
}

static int parse_number_option(struct front_options *options, const char *name, const char *value, char *error)
{
	unsigned long number;

	if (strcmp(name, "commit") == 0) {
		if (parse_number(value, 3600, &number))
			return number_error(error, name, value, "seconds, at most 3600,");
		options->volume.commit_seconds = (unsigned)number; /* 0: the default, as for ext4 */
	} else if (strcmp(name, "cache") == 0) {
		return parse_memory(name, value, 1ul << 20, &options->volume.cache_bytes, error);
	} else if (strcmp(name, "write_behind") == 0) {
		return parse_memory(name, value, 1ul << 16, &options->volume.write_behind_bytes, error);
	} else {
		if (parse_number(value, MAX_THREADS, &number) || number == 0)
			return number_error(error, name, value, "a number from 1 to 64");
		options->threads = (unsigned)number;
	}
	return 0;
}

/* "mem" and what other builds have are known to bdev_open(), which says so. */
static bool is_driver(const char *name)
{
	/* Of the last three the device layer says that this build has none. Memory ("mem") holds no volume at a mount. */
	static const char *const drivers[] = { "aio", "uring", "sync", "nbd", "nvme", "vhost-user" };

	for (size_t i = 0; i < sizeof(drivers) / sizeof(drivers[0]); i++)
		if (strcmp(name, drivers[i]) == 0)
			return true;
	return false;
}

/* Options of Ashlar. 1: it was one, 0: not, or -EINVAL. */
static int parse_own_option(struct front_options *options, const char *option, char *error)
{
	const char *equal = strchr(option, '=');
	char name[16] = "";

	if (strcmp(option, "discard") == 0 || strcmp(option, "nodiscard") == 0) {
		options->volume.discard = option[0] == 'd';
		return 1;
	}
	if (strcmp(option, "allow_other") == 0) {
		options->allow_other = true;
		return 1;
	}
	if (strcmp(option, "errors=remount-ro") == 0 || strcmp(option, "errors=continue") == 0) {
		options->volume.continue_on_damage = strcmp(option, "errors=continue") == 0;
		return 1;
	}
	if (has_prefix(option, "errors=")) {
		snprintf(error, OPTION_ERROR_TEXT, "option %.64s: errors=remount-ro or errors=continue expected",
			 option);
		return -EINVAL;
	}
	if (!equal || (size_t)(equal - option) >= sizeof(name))
		return 0;
	memcpy(name, option, (size_t)(equal - option));
	if (strcmp(name, "driver") == 0) {
		if (strlen(equal + 1) >= sizeof(options->driver) || !equal[1])
			return number_error(error, name, equal + 1, "the name of a driver (aio, uring, sync)");
		if (!is_driver(equal + 1)) {
			snprintf(error, OPTION_ERROR_TEXT, "no such driver: %s (aio, uring, sync)", equal + 1);
			return -EINVAL;
		}
		strcpy(options->driver, equal + 1);
		return 1;
	}
	if (strcmp(name, "commit") && strcmp(name, "cache") && strcmp(name, "write_behind") && strcmp(name, "threads"))
		return 0;
	return parse_number_option(options, name, equal + 1, error) ? -EINVAL : 1;
}

static int add_security_option(struct front_options *options, const char *option)
{
	char *joined;

	if (asprintf(&joined, "%s%s%s", options->security ? options->security : "", options->security ? "," : "",
		     option) < 0)
		return -ENOMEM;
	free(options->security);
	options->security = joined;
	return 0;
}

static int parse_option(struct front_options *options, const char *option, char *error)
{
	if (!*option)
		return 0;
	for (size_t i = 0; i < sizeof(flag_options) / sizeof(flag_options[0]); i++) {
		if (strcmp(option, flag_options[i].name))
			continue;
		options->mount_flags &= ~flag_options[i].clear;
		options->mount_flags |= flag_options[i].set;
		return 0;
	}
	for (size_t i = 0; i < sizeof(ignored_prefixes) / sizeof(ignored_prefixes[0]); i++)
		if (has_prefix(option, ignored_prefixes[i]))
			return 0;
	for (size_t i = 0; i < sizeof(security_prefixes) / sizeof(security_prefixes[0]); i++)
		if (has_prefix(option, security_prefixes[i]))
			return add_security_option(options, option);
	int rc = parse_own_option(options, option, error);
	if (rc == 0)
		snprintf(error, OPTION_ERROR_TEXT, "unknown option '%.128s' (see ashlarfs --help)", option);
	return rc == 1 || (rc == 0 && options->sloppy) ? 0 : -EINVAL;
}

/* Split at commas outside double quotes, as mount(8) does. */
static int parse_option_list(struct front_options *options, const char *list, char *error)
{
	char *copy = strdup(list), *start = copy;
	bool quoted = false;
	int rc = copy ? 0 : -ENOMEM;

	for (char *at = copy; rc == 0; at++) {
		if (*at == '"')
			quoted = !quoted;
		if (*at && (*at != ',' || quoted))
			continue;
		bool last = !*at;
		*at = '\0';
		rc = parse_option(options, start, error);
		if (last)
			break;
		start = at + 1;
	}
	free(copy);
	return rc;
}

enum ash_atime options_atime(unsigned long mount_flags)
{
	if (mount_flags & (MS_RDONLY | MS_NOATIME))
		return ASH_ATIME_NONE;
	return mount_flags & MS_STRICTATIME ? ASH_ATIME_STRICT : ASH_ATIME_RELATIVE;
}

static void derive_volume_options(struct front_options *options)
{
	struct ash_open_options *volume = &options->volume;

	volume->read_only = options->mount_flags & MS_RDONLY;
	/* There is no finer setting below: with dirsync everything is synchronous. */
	volume->sync = options->mount_flags & (MS_SYNCHRONOUS | MS_DIRSYNC);
	volume->atime = options_atime(options->mount_flags);
	volume->no_directory_atime = options->mount_flags & MS_NODIRATIME;
}

static int parse_arguments(struct front_options *options, int argc, char **argv, char *error)
{
	static const struct option long_options[] = {
		{ "help", no_argument, NULL, 'h' },
		{ "version", no_argument, NULL, 'V' },
		{ NULL, 0, NULL, 0 },
	};
	int option, rc = 0;

	opterr = 0;
	optind = 0;
	while (rc == 0 && (option = getopt_long(argc, argv, ":o:fdhVrwns", long_options, NULL)) != -1) {
		switch (option) {
		case 'o':
			rc = parse_option_list(options, optarg, error);
			break;
		case 'f':
			options->foreground = true;
			break;
		case 'd':
			options->foreground = options->debug = true;
			break;
		case 'h':
			options->help = true;
			return 0;
		case 'V':
			options->version = true;
			return 0;
		case 'r':
			options->mount_flags |= MS_RDONLY;
			break;
		case 'w':
			options->mount_flags &= ~(unsigned long)MS_RDONLY;
			break;
		case 's':
			options->sloppy = true;
			break;
		case 'n':
			break; /* as mount(8): no mtab */
		default:
			standard_option_error(option, argv, error, OPTION_ERROR_TEXT);
			rc = -EINVAL;
		}
	}
	return rc;
}

int options_parse(struct front_options *options, int argc, char **argv, char *error)
{
	memset(options, 0, sizeof(*options));
	options->threads = DEFAULT_THREADS;
	strcpy(error, "out of memory");
	int rc = parse_arguments(options, argc, argv, error);
	if (rc || options->help || options->version)
		return rc;
	if (argc - optind != 2) {
		snprintf(error, OPTION_ERROR_TEXT, "%s (usage: ashlarfs DEVICE MOUNTPOINT [-o option,...])",
			 argc - optind < 2 ? "a device and a mount point are needed" : "too many arguments");
		return -EINVAL;
	}
	options->device = strdup(argv[optind]);
	options->mountpoint = strdup(argv[optind + 1]);
	derive_volume_options(options);
	return options->device && options->mountpoint ? 0 : -ENOMEM;
}

void options_free(struct front_options *options)
{
	free(options->device);
	free(options->mountpoint);
	free(options->security);
}
