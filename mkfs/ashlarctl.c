/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * ashlarctl: look into, copy out of, and administer Ashlar volumes. This file knows the commands by name; the work
 * is in ctl_*.c. Commands that only read never write the device: what the log holds is overlaid in memory.
 */
#include "mkfs/ctl.h"

#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct command {
	const char *name, *arguments, *text;
	int least, most; /* number of arguments */
	int (*run)(const struct ctl *ctl);
};

static const struct command commands[] = {
	{ "info", "DEVICE", "label, UUID, size, use, state", 1, 1, ctl_info },
	{ "ls", "DEVICE [PATH]", "list a folder (-l details, -a with . and .., -R recursive)", 1, 2, ctl_ls },
	{ "stat", "DEVICE PATH", "all attributes of a file", 2, 2, ctl_stat },
	{ "cat", "DEVICE PATH", "content of a file to standard output", 2, 2, ctl_cat },
	{ "get", "DEVICE PATH TARGET", "copy a file or tree out of the volume", 3, 3, ctl_get },
	{ "log", "DEVICE", "records in the log (-l with their items)", 1, 1, ctl_log },
	{ "dump", "DEVICE BLOCK|inode:N", "a block or inode record as it is on the device (-x bytes)", 2, 2, ctl_dump },
	{ "label", "DEVICE [LABEL]", "print or set the label", 1, 2, ctl_label },
	{ "uuid", "DEVICE [UUID|random]", "print or set the UUID", 1, 2, ctl_uuid },
	{ "resize", "DEVICE [SIZE]", "grow an unmounted volume to SIZE or to the whole device", 1, 2, ctl_resize },
	{ "trim", "DEVICE|FOLDER", "discard free space, mounted or not", 1, 1, ctl_trim },
};

static void usage(FILE *out)
{
	fputs("Usage: ashlarctl [options] COMMAND ARGUMENTS\n"
	      "Look into, copy out of, and administer Ashlar volumes.\n\n",
	      out);
	for (unsigned i = 0; i < sizeof(commands) / sizeof(commands[0]); i++)
		fprintf(out, "  %-7s%-22s %s\n", commands[i].name, commands[i].arguments, commands[i].text);
	fputs("\n      --json     info, ls, stat, log: print JSON\n"
	      "  -V, --version  print the version\n"
	      "  -h, --help     print this text\n\n"
	      "PATH is a path inside the volume, or inode:N. See ashlarctl(8).\n",
	      out);
}

static int run(const char *name, const struct ctl *ctl)
{
	for (unsigned i = 0; i < sizeof(commands) / sizeof(commands[0]); i++) {
		const struct command *command = &commands[i];

		if (strcmp(command->name, name) != 0)
			continue;
		if (ctl->count < command->least || ctl->count > command->most)
			return tool_error(-1, "usage: ashlarctl %s %s", command->name, command->arguments);
		return command->run(ctl);
	}
	return tool_error(-1, "no command '%s': see ashlarctl --help", name);
}

enum { OPTION_JSON = 256 };

static int parse_option(struct ctl *ctl, int option)
{
	switch (option) {
	case OPTION_JSON:
		ctl->json = true;
		return 0;
	case 'a':
		ctl->all = true;
		return 0;
	case 'l':
		ctl->detailed = true;
		return 0;
	case 'R':
		ctl->recursive = true;
		return 0;
	case 'x':
		ctl->hexadecimal = true;
		return 0;
	case 'V':
		printf("ashlarctl %s\n", ash_version());
		exit(0);
	case 'h':
		usage(stdout);
		exit(0);
	}
	fputs("Try 'ashlarctl --help'.\n", stderr);
	return -1;
}

int main(int argc, char **argv)
{
	static const struct option options[] = {
		{ "json", no_argument, NULL, OPTION_JSON },
		{ "version", no_argument, NULL, 'V' },
		{ "help", no_argument, NULL, 'h' },
		{ 0 },
	};
	struct ctl ctl = { 0 };
	int option, result;

	while ((option = getopt_long(argc, argv, "alRxVh", options, NULL)) != -1)
		if (parse_option(&ctl, option))
			return 1;
	if (optind == argc) {
		usage(stderr);
		return 1;
	}
	ctl.count = argc - optind - 1;
	ctl.arguments = argv + optind + 1;
	result = run(argv[optind], &ctl);
	if (fflush(stdout) || ferror(stdout))
		result = tool_error(-1, "standard output: not everything could be written");
	return result ? 1 : 0;
}
