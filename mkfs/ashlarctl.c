/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * ashlarctl: look into, copy out of, and administer Ashlar volumes. This file knows the commands by name; the work
 * is in ctl_*.c. Commands that only read never write the device: what the log holds is overlaid in memory.
 */
#include "mkfs/ctl.h"
#include "mkfs/standard.h"

#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct command {
	const char *name, *arguments, *text;
	int least, most; /* number of arguments */
	int (*run)(const struct ctl *ctl);
	const char *options; /* that it knows, by their letters */
	bool as_fsck;        /* `run` returns the exit status, and wrong use is 16, as with fsck(8) */
};

/* Letters of options that have none. */
#define JSON 'J'
#define EXPORT 'E'

#define USAGE_AS_FSCK 16
#define OPERATION_AS_FSCK 8

static const struct command commands[] = {
	{ "info", "DEVICE", "label, UUID, size, use, state", 1, 1, ctl_info, "JE", false },
	{ "ls", "DEVICE [PATH]", "list a folder (-l details, -a with . and .., -R recursive)", 1, 2, ctl_ls, "JlaR",
	  false },
	{ "stat", "DEVICE PATH", "all attributes of a file", 2, 2, ctl_stat, "J", false },
	{ "cat", "DEVICE PATH", "content of a file to standard output", 2, 2, ctl_cat, "", false },
	{ "get", "DEVICE PATH TARGET", "copy a file or tree out of the volume", 3, 3, ctl_get, "", false },
	{ "log", "DEVICE", "records in the log (-l with their items)", 1, 1, ctl_log, "Jl", false },
	{ "dump", "DEVICE BLOCK|inode:N", "a block or inode record as it is on the device (-x bytes)", 2, 2, ctl_dump,
	  "x", false },
	{ "label", "DEVICE [LABEL]", "print or set the label", 1, 2, ctl_label, "", false },
	{ "uuid", "DEVICE [UUID|random]", "print or set the UUID", 1, 2, ctl_uuid, "", false },
	{ "resize", "DEVICE [SIZE]", "grow an unmounted volume to SIZE or to the whole device", 1, 2, ctl_resize, "",
	  false },
	{ "trim", "DEVICE|FOLDER", "discard free space, mounted or not", 1, 1, ctl_trim, "", false },
	{ "scrub", "DEVICE|FOLDER", "check all metadata, mounted or not (-p -q -v)", 1, 1, ctl_scrub, "Jpqv", true },
};

static void usage(FILE *out)
{
	fputs("Usage: ashlarctl [options] COMMAND ARGUMENTS\n"
	      "Look into, copy out of, and administer Ashlar volumes.\n\n",
	      out);
	for (unsigned i = 0; i < sizeof(commands) / sizeof(commands[0]); i++)
		fprintf(out, "  %-7s%-22s %s\n", commands[i].name, commands[i].arguments, commands[i].text);
	fputs("\n      --json     info, ls, stat, log, scrub: print JSON\n"
	      "      --export   info: print what udev wants to know, also of a volume in use\n"
	      "  -p, --progress scrub: show how far it is, on a terminal\n"
	      "  -q, --quiet    scrub: print problems only\n"
	      "  -v, --verbose  scrub: print notes as well\n"
	      "  -V, --version  print the version\n"
	      "  -h, --help     print this text\n\n"
	      "DEVICE is a block device, an image file, LABEL=text or UUID=uuid.\n"
	      "PATH is a path inside the volume, or inode:N. See ashlarctl(8).\n",
	      out);
}

static const struct command *command_find(const char *name)
{
	for (unsigned i = 0; i < sizeof(commands) / sizeof(commands[0]); i++)
		if (strcmp(commands[i].name, name) == 0)
			return &commands[i];
	return NULL;
}

/* The word of "DEVICE PATH [TARGET]" that has this number. */
static int argument_name(const char *arguments, int number, const char **name)
{
	for (*name = arguments; number > 0 && strchr(*name, ' '); number--)
		*name = strchr(*name, ' ') + 1;
	return (int)strcspn(*name, " ");
}

static bool knows(const struct command *command, char option)
{
	return strchr(command->options, option) != NULL;
}

static int unknown_to(const struct command *command, char option)
{
	char text[] = { '-', option, 0 };
	const char *word = option == JSON ? "--json" : option == EXPORT ? "--export" : text;

	return tool_error(-1, "%s has no %s; try 'ashlarctl --help'", command->name, word);
}

/* An option that does nothing would be taken for one that did something. */
static int check_options(const struct command *command, const struct ctl *ctl)
{
	const struct {
		bool given;
		char letter;
	} options[] = {
		{ ctl->json, JSON },    { ctl->export, EXPORT }, { ctl->all, 'a' },
		{ ctl->detailed, 'l' }, { ctl->recursive, 'R' }, { ctl->hexadecimal, 'x' },
		{ ctl->quiet, 'q' },    { ctl->progress, 'p' },  { ctl->verbose, 'v' },
	};

	for (unsigned i = 0; i < sizeof(options) / sizeof(options[0]); i++)
		if (options[i].given && !knows(command, options[i].letter))
			return unknown_to(command, options[i].letter);
	if (ctl->export && ctl->json)
		return tool_error(-1, "--export and --json are two forms: choose one");
	return 0;
}

/* 0, or a message that says what is missing or too much. */
static int check_arguments(const struct command *command, const struct ctl *ctl)
{
	const char *missing;
	int length = argument_name(command->arguments, ctl->count, &missing);

	if (ctl->count < command->least)
		return tool_error(-1, "%s: %.*s is missing (usage: ashlarctl %s %s); try 'ashlarctl --help'",
				  command->name, length, missing, command->name, command->arguments);
	if (ctl->count > command->most)
		return tool_error(-1, "%s: '%s' is too much (usage: ashlarctl %s %s); try 'ashlarctl --help'",
				  command->name, ctl->arguments[command->most], command->name, command->arguments);
	return check_options(command, ctl);
}

/* The exit status. */
static int run_command(const struct command *command, struct ctl *ctl)
{
	const char *name;
	char *device;
	int result;

	if (check_arguments(command, ctl))
		return command->as_fsck ? USAGE_AS_FSCK : 1;
	name = ctl->arguments[0];
	if (tool_resolve_tag(&name, &device))
		return command->as_fsck ? OPERATION_AS_FSCK : 1;
	ctl->arguments[0] = (char *)name;
	result = command->run(ctl);
	free(device);
	return result < 0 ? 1 : result;
}

/* The exit status. An error is told in JSON as well, where JSON may be expected. */
static int run(const struct command *command, struct ctl *ctl)
{
	int result = run_command(command, ctl);

	if (result && ctl->json && !ctl->export && knows(command, JSON) && !json_has_begun())
		json_print_error(tool_first_error());
	return result;
}

/* No command was run: the error in JSON too, if that was asked for by then. */
static int refused(const struct ctl *ctl, int code)
{
	if (ctl->json)
		json_print_error(tool_first_error());
	return standard_finish(code, code);
}

/* Of a wrong option: the command is the first word without a dash, for no option has an argument. */
static int usage_code(int argc, char **argv)
{
	const struct command *command = NULL;

	for (int i = 1; i < argc && !command; i++)
		if (argv[i][0] != '-')
			command = command_find(argv[i]);
	return command && command->as_fsck ? USAGE_AS_FSCK : 1;
}

static int parse_option(struct ctl *ctl, int option)
{
	switch (option) {
	case JSON:
		ctl->json = true;
		return 0;
	case EXPORT:
		ctl->export = true;
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
	case 'p':
		ctl->progress = true;
		return 0;
	case 'q':
		ctl->quiet = true;
		return 0;
	case 'v':
		ctl->verbose = true;
		return 0;
	case 'V':
		printf("ashlarctl %s\n", ash_version());
		exit(standard_finish(0, 1));
	case 'h':
		usage(stdout);
		exit(standard_finish(0, 1));
	}
	return -1;
}

int main(int argc, char **argv)
{
	static const struct option options[] = {
		{ "json", no_argument, NULL, JSON },    { "export", no_argument, NULL, EXPORT },
		{ "progress", no_argument, NULL, 'p' }, { "quiet", no_argument, NULL, 'q' },
		{ "verbose", no_argument, NULL, 'v' },  { "version", no_argument, NULL, 'V' },
		{ "help", no_argument, NULL, 'h' },     { 0 },
	};
	const struct command *command;
	struct ctl ctl = { 0 };
	int option, code;

	standard_guard();
	opterr = 0; /* one line, ours */
	while ((option = getopt_long(argc, argv, "alpqRvxVh", options, NULL)) != -1)
		if (parse_option(&ctl, option))
			return refused(&ctl, tool_option_error(usage_code(argc, argv), option, argv));
	if (optind == argc)
		return refused(&ctl, tool_error(1, "a command is missing; try 'ashlarctl --help'"));
	command = command_find(argv[optind]);
	if (!command)
		return refused(&ctl, tool_error(1, "no command '%s': see ashlarctl --help", argv[optind]));
	ctl.count = argc - optind - 1;
	ctl.arguments = argv + optind + 1;
	code = run(command, &ctl);
	return standard_finish(code, command->as_fsck ? OPERATION_AS_FSCK : 1);
}
