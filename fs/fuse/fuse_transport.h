/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * How requests come from the kernel and replies go back. One implementation so far, /dev/fuse, in
 * fuse_transport_dev.c; FUSE over io_uring would be another file behind these calls.
 */
#ifndef ASHLAR_FUSE_TRANSPORT_H
#define ASHLAR_FUSE_TRANSPORT_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>
#include <sys/uio.h>

struct transport {
	int descriptor; /* blocking; INIT and notifications use it */
	int prompt;     /* a clone of it with O_NONBLOCK, for reading while other work is in flight; -1: none */
};

/* `descriptor` stays the caller's. */
int transport_open(struct transport *transport, int descriptor);
void transport_close(struct transport *transport);

/*
 * Receive one request into `memory`. Returns its length and the channel for its reply; -EAGAIN: none there (only
 * without `wait`) or nothing yet (signal, interrupted request); -ENODEV: unmounted; other errors: the connection is
 * broken.
 */
ssize_t transport_receive(struct transport *transport, void *memory, size_t size, bool wait, int *channel);

/* Is another request waiting to be received? */
bool transport_waiting(const struct transport *transport);
/* The same, if it can be received while other work is in flight. */
bool transport_pending(const struct transport *transport);

/* Wait until a request can be received or `event` is readable (then *event_ready). */
int transport_wait(const struct transport *transport, int event, bool *event_ready);

/* Send a reply or notification. 0 or negative errno (-ENOENT: the request is gone). */
int transport_send(int channel, const struct iovec *iov, int count);

#endif
