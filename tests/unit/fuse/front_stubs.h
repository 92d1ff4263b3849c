/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The rest of the front end, for tests of one file of it. What is answered and finished is counted. */
#ifndef TESTS_UNIT_FUSE_FRONT_STUBS_H
#define TESTS_UNIT_FUSE_FRONT_STUBS_H

#include "fs/fuse/fuse_front.h"

#include <stdlib.h>

_Thread_local struct worker *current_worker;
static _Atomic unsigned answered, finished;
static bool due; /* a change waits until it is durable */

bool ash_defer_is_due(void)
{
	return due;
}

int reply_error(struct request *request, int error)
{
	(void)request;
	(void)error;
	atomic_fetch_add(&answered, 1);
	return 0;
}

int reply_data(struct request *request, const void *data, size_t length)
{
	(void)data;
	(void)length;
	return reply_error(request, 0);
}

int transport_send(int channel, const struct iovec *iov, int count)
{
	(void)channel;
	(void)iov;
	(void)count;
	return reply_error(NULL, 0);
}

void request_finish(struct request *request)
{
	atomic_fetch_add(&finished, 1);
	free(request);
}

void request_put(struct request *request)
{
	free(request);
}

struct request *request_detach(struct request *request)
{
	(void)request;
	return calloc(1, sizeof(struct request));
}

#endif
