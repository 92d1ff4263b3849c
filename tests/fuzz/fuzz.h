/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What the fuzz harnesses share: an image with one of everything, patched by the input.
 *
 * An input for the image harnesses is a list of patches: u16 target, u16 offset, u8 control, bytes. `control`: bits 0-4
 * length - 1; bit 5: seal the checksum afterwards, so that the damage lies behind it; bit 6: copy the block of another
 * target over this one first. Targets are the metadata blocks of the image, so that nearly every patch matters.
 */
#ifndef TESTS_FUZZ_H
#define TESTS_FUZZ_H

#include <stddef.h>
#include <stdint.h>
#include "tests/image/image.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* The image, made at the first call, restored at each. `clean`: closed in order. */
struct image *fuzz_image(bool clean);
/* Apply the patches of an input. */
void fuzz_patch(struct image *image, const uint8_t *data, size_t size);
/* Metadata blocks of the image. */
const uint64_t *fuzz_targets(struct image *image, size_t *count);
/* Something that must hold does not: print and abort, so that the fuzzer keeps the input. */
void fuzz_fail(const char *format, ...) __attribute__((format(printf, 1, 2), noreturn));

#endif
