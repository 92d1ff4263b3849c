/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What the fuzz harnesses share: an image with one of everything, patched by the input.
 *
 * An input for the image harnesses is a byte of flags and a list of patches: u16 target, u16 offset, u8 control, bytes.
 * `control`: bits 0-4 length - 1; bit 5: seal the checksum afterwards, so that the damage lies behind it; bit 6: copy the
 * block of another target over this one first; bit 7: in the log, mend the chain behind the block, too. Targets are the
 * metadata blocks of the image, so that nearly every patch matters.
 *
 * fuzz_mutate.c makes and changes such inputs through the table of all fields (tests/image/fields.h).
 */
#ifndef TESTS_FUZZ_H
#define TESTS_FUZZ_H

#include <stddef.h>
#include <stdint.h>
#include "tests/image/image.h"
#include "tests/image/sites.h"

#define PATCH_HEADER 5u
#define PATCH_BYTES_MAX 32u
#define PATCH_SEAL 32u
#define PATCH_COPY 64u
#define PATCH_CHAIN 128u

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
size_t LLVMFuzzerMutate(uint8_t *data, size_t size, size_t max_size);
size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max_size, unsigned seed);

/* The image, made at the first call, restored at each. `clean`: closed in order. */
struct image *fuzz_image(bool clean);
/* Apply the patches of an input. */
void fuzz_patch(struct image *image, const uint8_t *data, size_t size);
/* Metadata blocks of the image. */
const uint64_t *fuzz_targets(struct image *image, size_t *count);
/* The places of fields in the image that a harness wants damaged. */
const struct sites *fuzz_sites(struct image *image);
/* Something that must hold does not: print and abort, so that the fuzzer keeps the input. */
void fuzz_fail(const char *format, ...) __attribute__((format(printf, 1, 2), noreturn));

/* ---- Given by each image harness ---- */

struct fuzz_harness {
	bool (*wants)(const struct site *site); /* is damage there of any interest? NULL: everywhere */
	bool only_open;                         /* it looks at the image that was not closed only */
};
extern const struct fuzz_harness fuzz_harness;

#endif
