/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A small JSON writer. Names on disk are any bytes, JSON is UTF-8: a byte that is not part of valid UTF-8 is
 * written as the lone surrogate \udcXX (as Python's "surrogateescape" does), so nothing is lost.
 *
 * A key of NULL writes an element of an array, or the outermost value.
 */
#ifndef MKFS_JSON_H
#define MKFS_JSON_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

struct json {
	FILE *out;
	unsigned depth;
	bool has_members; /* the open object or array has one: a comma is due */
};

void json_begin(struct json *json, FILE *out);
/* Has this program begun to write JSON? An error then belongs into what is there, or behind it. */
bool json_has_begun(void);
/* Ends the line; 0 or negative errno when the output could not be written. */
int json_end(struct json *json);
/* To standard output, an object whose one member is "error": for who reads that output only. */
void json_print_error(const char *text);

void json_open(struct json *json, const char *key, char bracket); /* '{' or '[' */
void json_close(struct json *json, char bracket);                 /* '}' or ']' */
void json_string(struct json *json, const char *key, const char *text);
void json_bytes(struct json *json, const char *key, const char *text, size_t length);
void json_number(struct json *json, const char *key, uint64_t value);
void json_signed(struct json *json, const char *key, int64_t value);
void json_bool(struct json *json, const char *key, bool value);

#endif
