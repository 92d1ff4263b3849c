/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What the command-line tools share: messages, device names, UUID and size texts, opening with the right checks. */
#ifndef MKFS_TOOL_H
#define MKFS_TOOL_H

#include <ashlar/ashlar.h>
#include <signal.h>

#define TOOL_UUID_TEXT 37          /* with NUL */
#define TOOL_LOCK_TIMEOUT_MS 3000u /* a mount that is just ending holds the lock for as long as it writes */

/* Print "program: text" as one line on stderr, control characters as '?'. Returns `code`, so that callers can `return tool_error(...)`. */
int tool_error(int code, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* The text of the first error so far, cut off at some length; "" when there was none. For --json. */
const char *tool_first_error(void);

/* standard_option_error() as a message. Returns `code`. */
int tool_option_error(int code, int option, char *const *argv);

/* SIGINT, SIGTERM and SIGHUP wait until the caller puts the mask `before` back. */
void tool_hold_interrupts(sigset_t *before);

/* Copying a tree keeps a descriptor for each level: it can be deeper than the usual limit of open files. */
void tool_raise_file_limit(void);

/* To standard output; on a terminal control characters become '?'. */
void tool_print_text(const char *text);

/* The path in a device name: "uring:/dev/sda" -> "/dev/sda". NULL for names without one ("mem:64M"). */
const char *tool_device_path(const char *name);

/*
 * Resolve "LABEL=..." and "UUID=...": *name becomes the path of the device, and *device memory to free. Other names stay,
 * with *device NULL. 0, or -1 after a message.
 */
int tool_resolve_tag(const char **name, char **device);

/* Until nobody uses the device, see probe_wait_free(). 0, or negative errno after a message. */
int tool_wait_free(const char *name);

/* -1 after a message that the mount at `folder` is its user's alone, so that we cannot `what` ("trim") it. */
int tool_private_mount(const char *folder, const char *what);

/* NULL, or why `path` cannot hold a volume. */
const char *tool_kind_wrong(const char *path);
/* LABEL= or UUID=, which names an existing volume? */
bool tool_is_tag(const char *name);

/* 0, or -1 after a message when no volume can be made in `path`: folder, character device, fifo, socket, missing. */
int tool_check_target(const char *path);
/* The same, or a file that is too small: no volume is in `path`. */
int tool_check_kind(const char *path);

void tool_format_uuid(const uint8_t uuid[16], char text[TOOL_UUID_TEXT]);
/* "random" or 32 hex digits with or without dashes. 0, -EINVAL, or the error of getrandom(2). */
int tool_parse_uuid(const char *text, uint8_t uuid[16]);
/* "1.5 GiB". */
void tool_format_size(uint64_t bytes, char text[32]);

/* An open volume with its device. */
struct tool_volume {
	struct bdev *dev;
	struct ash_volume *volume;
};

enum tool_mode {
	TOOL_READ,  /* no_write: nothing on the device changes, the log is overlaid */
	TOOL_WRITE, /* exclusive */
};

/* Open with all checks; 0 or negative errno after a one-line message. */
int tool_open(const char *name, enum tool_mode mode, struct tool_volume *out);
/* 0 or -1 after a message. `result` is the outcome so far and is returned when closing adds no error. */
int tool_close(struct tool_volume *opened, int result);

#endif
