/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * mount.ashlar: the helper that mount(8) runs for `mount -t ashlar DEVICE FOLDER` and for fstab.
 *
 * Called as `mount.ashlar DEVICE FOLDER [-sfnv] [-N namespace] [-t type] [-o options]`. It becomes ashlarfs, which
 * lies in the same folder or in one of the usual places. Remounting concerns the kernel's flags only and is done
 * here.
 */
#include <errno.h>
#include <limits.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <unistd.h>
#include "mkfs/standard.h"

struct arguments {
	const char *device, *folder, *options;
	bool fake, sloppy, verbose, help, version;
};

static int usage_error(const char *what)
{
	fprintf(stderr, "mount.ashlar: %s (usage: mount.ashlar DEVICE FOLDER [-sfnv] [-o option,...])\n", what);
	return 1;
}

static int parse(struct arguments *arguments, int argc, char **argv)
{
	int option;

	opterr = 0;
	while ((option = getopt(argc, argv, "sfnvrwhVN:t:o:")) != -1) {
		switch (option) {
		case 's':
			arguments->sloppy = true;
			break;
		case 'f':
			arguments->fake = true;
			break;
		case 'v':
			arguments->verbose = true;
			break;
		case 'h':
			arguments->help = true;
			return 0;
		case 'V':
			arguments->version = true;
			return 0;
		case 'o':
			arguments->options = optarg;
			break;
		case '?':
			if (strcmp(argv[optind - 1], "--help") == 0)
				arguments->help = true;
			else if (strcmp(argv[optind - 1], "--version") == 0)
				arguments->version = true;
			else
				return usage_error("unknown option");
			return 0;
		}
	}
	if (argc - optind != 2)
		return usage_error("a device and a folder are needed");
	arguments->device = argv[optind];
	arguments->folder = argv[optind + 1];
	return 0;
}

static bool has_option(const char *options, const char *name)
{
	size_t length = strlen(name);

	for (const char *at = options; at; at = strchr(at, ',') ? strchr(at, ',') + 1 : NULL)
		if (strncmp(at, name, length) == 0 && (at[length] == ',' || at[length] == '\0'))
			return true;
	return false;
}

static int remount(const struct arguments *arguments)
{
	static const struct {
		const char *name;
		unsigned long flag;
	} flags[] = {
		{ "ro", MS_RDONLY },         { "nosuid", MS_NOSUID },           { "nodev", MS_NODEV },
		{ "noexec", MS_NOEXEC },     { "sync", MS_SYNCHRONOUS },        { "noatime", MS_NOATIME },
		{ "relatime", MS_RELATIME }, { "strictatime", MS_STRICTATIME }, { "nodiratime", MS_NODIRATIME },
		{ "lazytime", MS_LAZYTIME },
	};
	unsigned long value = MS_REMOUNT;

	for (size_t i = 0; i < sizeof(flags) / sizeof(flags[0]); i++)
		if (has_option(arguments->options, flags[i].name))
			value |= flags[i].flag;
	if (mount(arguments->device, arguments->folder, NULL, value, NULL) == 0)
		return 0;
	fprintf(stderr, "mount.ashlar: cannot remount %s: %s\n", arguments->folder, strerror(errno));
	return 32;
}

static void become(const char *path, const struct arguments *arguments)
{
	const char *argv[8];
	int count = 0;

	argv[count++] = "ashlarfs";
	if (arguments->sloppy)
		argv[count++] = "-s";
	if (arguments->options && *arguments->options) {
		argv[count++] = "-o";
		argv[count++] = arguments->options;
	}
	argv[count++] = "--";
	argv[count++] = arguments->device;
	argv[count++] = arguments->folder;
	argv[count] = NULL;
	if (arguments->verbose)
		fprintf(stderr, "mount.ashlar: running %s\n", path);
	execv(path, (char **)argv);
}

int main(int argc, char **argv)
{
	static const char *const places[] = { "/usr/local/sbin/ashlarfs", "/usr/local/bin/ashlarfs",
					      "/usr/sbin/ashlarfs",       "/usr/bin/ashlarfs",
					      "/sbin/ashlarfs",           "/bin/ashlarfs" };
	struct arguments arguments = { 0 };
	char self[PATH_MAX + 16];
	int rc;

	standard_guard();
	rc = parse(&arguments, argc, argv);
	if (rc)
		return rc;
	if (arguments.help || arguments.version) {
		puts(arguments.help ? "Usage: mount.ashlar DEVICE FOLDER [-sfnv] [-o option,...]\nRun by mount(8); see "
				      "ashlarfs(8)." :
				      "mount.ashlar " ASHLAR_VERSION);
		return standard_finish(0, 1);
	}
	if (arguments.fake)
		return 0;
	if (has_option(arguments.options, "remount"))
		return remount(&arguments);
	ssize_t length = readlink("/proc/self/exe", self, PATH_MAX);
	if (length > 0) {
		self[length] = '\0';
		strcpy(strrchr(self, '/') + 1, "ashlarfs");
		become(self, &arguments);
	}
	for (size_t i = 0; i < sizeof(places) / sizeof(places[0]); i++)
		become(places[i], &arguments);
	fprintf(stderr, "mount.ashlar: cannot run ashlarfs: %s\n", strerror(errno));
	return 32;
}
