/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The library's allocations: counted, made to fail, and checked for leaks.
 *
 * Concept: malloc and its kin are replaced at link time (--wrap, see meson.build). Only what is allocated between
 * alloc_enter() and alloc_leave() is the library's; the test's own helpers that run inside are excepted by name. One thread.
 */
#ifndef TESTS_FAULT_ALLOC_H
#define TESTS_FAULT_ALLOC_H

#include "inject.h"

/* Every allocation of the library is a point of the injector (of kind INJECT_ENOMEM). NULL: none is. */
void alloc_attach(struct injector *in);
/* The calling code is the library's from here on, until the matching leave. Nests. */
void alloc_enter(void);
void alloc_leave(void);
/* Allocations that failed so far. */
unsigned alloc_hits(void);
/* Pieces of memory that the library holds. */
size_t alloc_live(void);
/* Forget what is held. */
void alloc_forget(void);

#endif
