/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What the command-line tools share.
 *
 * Rules: an error is one line on stderr that says what to do; a function that printed it returns negative, and
 * nobody prints a second one. Damage that the library meets on the way is a line of its own, which names the block.
 */
#include "mkfs/tool.h"

#include "mkfs/probe.h"
#include "mkfs/standard.h"

#include <ashlar/format.h>

#include <errno.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/resource.h>
#include <unistd.h>

/* Of the program, not of a volume: what --json is going to tell. */
static char first_error[512];

const char *tool_first_error(void)
{
	return first_error;
}

/* Names from a volume are any bytes: one line it stays, and no orders to the terminal. */
static void print_line(const char *format, va_list arguments)
{
	char *text;

	if (vasprintf(&text, format, arguments) < 0) {
		fprintf(stderr, "%s: out of memory\n", program_invocation_short_name);
		return;
	}
	standard_clean(text);
	fprintf(stderr, "%s: %s\n", program_invocation_short_name, text);
	free(text);
}

int tool_error(int code, const char *format, ...)
{
	va_list arguments;

	if (!first_error[0]) {
		va_start(arguments, format);
		vsnprintf(first_error, sizeof(first_error), format, arguments);
		va_end(arguments);
	}

	fflush(stdout);
	va_start(arguments, format);
	print_line(format, arguments);
	va_end(arguments);
	return code;
}

int tool_option_error(int code, int option, char *const *argv)
{
	char text[256];

	standard_option_error(option, argv, text, sizeof(text));
	return tool_error(code, "%s", text);
}

void tool_print_text(const char *text)
{
	bool terminal = isatty(STDOUT_FILENO);

	if (!terminal) {
		fputs(text, stdout);
		return;
	}
	while (*text) {
		const char *start = text;

		if (standard_next(&text))
			fwrite(start, 1, (size_t)(text - start), stdout);
		else
			putchar('?');
	}
}

void tool_raise_file_limit(void)
{
	struct rlimit limit;

	if (getrlimit(RLIMIT_NOFILE, &limit) == 0) {
		limit.rlim_cur = limit.rlim_max;
		setrlimit(RLIMIT_NOFILE, &limit);
	}
}

const char *tool_device_path(const char *name)
{
	static const char *const prefixes[] = { "aio:", "uring:", "sync:" };

	for (unsigned i = 0; i < sizeof(prefixes) / sizeof(prefixes[0]); i++)
		if (strncmp(name, prefixes[i], strlen(prefixes[i])) == 0)
			return name + strlen(prefixes[i]);
	return strncmp(name, "mem:", 4) == 0 ? NULL : name;
}

bool tool_is_tag(const char *name)
{
	return strncmp(name, "LABEL=", 6) == 0 || strncmp(name, "UUID=", 5) == 0;
}

static const char *tag_error(const char *name, int error)
{
	switch (error) {
	case -EINVAL:
		return name[0] == 'L' ? "a label has 1 to 64 bytes" : "a UUID has 32 hexadecimal digits";
	case -EEXIST:
		return "more than one volume has it: name the device";
	case -ENODEV:
		return "no such volume";
	}
	return strerror(-error);
}

int tool_resolve_tag(const char **name, char **device)
{
	int error;

	*device = NULL;
	if (!tool_is_tag(*name))
		return 0;
	error = probe_resolve_tag(*name, device);
	if (error)
		return tool_error(-1, "%s: %s", *name, tag_error(*name, error));
	*name = *device;
	return 0;
}

int tool_private_mount(const char *folder, const char *what)
{
	return tool_error(
		-1,
		"%s: Permission denied: the mount is its user's alone, not even root's: %s the volume when it "
		"is unmounted, or let its user mount it with allow_other",
		folder, what);
}

const char *tool_kind_wrong(const char *path)
{
	struct stat st;

	if (stat(path, &st))
		return strerror(errno);
	if (S_ISDIR(st.st_mode))
		return "is a folder, not a block device or image file";
	if (!S_ISREG(st.st_mode) && !S_ISBLK(st.st_mode))
		return "is neither a block device nor a regular file";
	return NULL;
}

int tool_check_target(const char *path)
{
	const char *why = tool_kind_wrong(path);

	return why ? tool_error(-1, "%s: %s", path, why) : 0;
}

int tool_check_kind(const char *path)
{
	struct stat st;

	if (tool_check_target(path))
		return -1;
	if (stat(path, &st) == 0 && S_ISREG(st.st_mode) && st.st_size < ASH_BLOCK_SIZE)
		return tool_error(-1, "%s: is too small (%lld bytes): no Ashlar volume", path, (long long)st.st_size);
	return 0;
}

/* ---- UUIDs and sizes ---- */

void tool_format_uuid(const uint8_t uuid[16], char text[TOOL_UUID_TEXT])
{
	char *out = text;

	for (unsigned i = 0; i < 16; i++) {
		if (i == 4 || i == 6 || i == 8 || i == 10)
			*out++ = '-';
		out += sprintf(out, "%02x", uuid[i]);
	}
}

static int random_uuid(uint8_t uuid[16])
{
	if (getrandom(uuid, 16, 0) != 16)
		return errno ? -errno : -EIO;
	uuid[6] = (uint8_t)((uuid[6] & 0x0f) | 0x40);
	uuid[8] = (uint8_t)((uuid[8] & 0x3f) | 0x80);
	return 0;
}

int tool_parse_uuid(const char *text, uint8_t uuid[16])
{
	return strcmp(text, "random") == 0 ? random_uuid(uuid) : probe_parse_uuid(text, uuid);
}

void tool_format_size(uint64_t bytes, char text[32])
{
	static const char *const units[] = { "bytes", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB" };
	double value = (double)bytes;
	unsigned unit = 0;

	for (; value >= 1024 && unit < 6; unit++)
		value /= 1024;
	if (unit == 0)
		snprintf(text, 32, "%" PRIu64 " bytes", bytes);
	else
		snprintf(text, 32, "%.4g %s", value, units[unit]);
}

/* ---- Signals ---- */

void tool_hold_interrupts(sigset_t *before)
{
	sigset_t interrupts;

	sigemptyset(&interrupts);
	sigaddset(&interrupts, SIGINT);
	sigaddset(&interrupts, SIGTERM);
	sigaddset(&interrupts, SIGHUP);
	sigprocmask(SIG_BLOCK, &interrupts, before);
}

/* ---- Open and close ---- */

/* What the library tells comes from any thread; a damaged block that is looked at again is told once. */
static void log_line(void *context, enum ash_log_level level, const char *text)
{
	static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
	static char last[512];

	(void)context;
	if (level == ASH_LOG_NOTICE)
		return;
	pthread_mutex_lock(&lock);
	if (strncmp(last, text, sizeof(last) - 1) != 0) {
		snprintf(last, sizeof(last), "%s", text);
		tool_error(0, "%s", text);
	}
	pthread_mutex_unlock(&lock);
}

/* A refusal with its reason where the reason can be seen from outside. */
static int busy_error(const char *name, const char *fallback)
{
	const char *path = tool_device_path(name);
	char what[PROBE_TEXT];

	if (path && probe_in_use(path, what) > 0)
		return tool_error(-EBUSY, "%s %s: unmount it first", path, what);
	return tool_error(-EBUSY, "%s", fallback);
}

int tool_wait_free(const char *name)
{
	const char *path = tool_device_path(name);
	char what[PROBE_TEXT];
	int result = path ? probe_wait_free(path, TOOL_LOCK_TIMEOUT_MS, what) : 0;

	if (result < 0)
		return tool_error(result, "%s: %s", path, strerror(-result));
	return result ? tool_error(-EBUSY, "%s %s: unmount it first", path, what) : 0;
}

static int open_device(const char *name, enum tool_mode mode, struct bdev **out)
{
	struct bdev_open_options options = { .read_only = mode == TOOL_READ,
					     .exclusive = mode == TOOL_WRITE,
					     .allow_buffered = true };
	const char *path = tool_device_path(name);
	char error[BDEV_ERROR_TEXT] = "";
	int result;

	if (path && tool_check_kind(path))
		return -EINVAL;
	result = mode == TOOL_WRITE ? tool_wait_free(name) : 0;
	if (result)
		return result;
	result = bdev_open(name, &options, out, error);
	if (result == -EBUSY)
		return busy_error(name, error);
	return result ? tool_error(result, "%s", error) : 0;
}

int tool_open(const char *name, enum tool_mode mode, struct tool_volume *out)
{
	struct ash_open_options options = { .no_write = mode == TOOL_READ,
					    .read_only = mode == TOOL_READ,
					    .log = log_line };
	char error[BDEV_ERROR_TEXT] = "";
	int result = open_device(name, mode, &out->dev);

	if (result)
		return result;
	result = ash_open(out->dev, &options, &out->volume, error);
	if (!result)
		return 0;
	bdev_close(out->dev);
	if (result == -EBUSY)
		return busy_error(name, error);
	return tool_error(result, "%s", error);
}

int tool_close(struct tool_volume *opened, int result)
{
	int closed = ash_close(opened->volume);

	bdev_close(opened->dev);
	if (closed && !result)
		result = tool_error(-1, "closing the volume: %s: not everything may be on the device",
				    strerror(-closed));
	return result;
}
