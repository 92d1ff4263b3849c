/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The /dev/fuse transport.
 *
 * Two descriptors of one connection. The first one blocks: a lone caller costs one read(2) and one write(2) for each
 * request. The second one, a clone (FUSE_DEV_IOC_CLONE), does not: it is read while data requests are in flight, when
 * the leader must not sleep in read(2), since completions have to be answered. poll(2) alone would not do: a request
 * that it reported can be gone when it is read, because its caller was killed.
 *
 * The kernel wants a reply on the descriptor that the request was read from, hence `channel`.
 *
 * Only the leader receives; anybody may send. No locks.
 */
#include "fuse_transport.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/fuse.h>
#include <poll.h>
#include <stdint.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#define JOIN_MAX 256u /* bytes; ENTRY and ATTR replies fit */

int transport_open(struct transport *transport, int descriptor)
{
	uint32_t master = (uint32_t)descriptor;

	transport->descriptor = descriptor;
	transport->prompt = -1;
	int clone = open("/dev/fuse", O_RDWR | O_CLOEXEC | O_NONBLOCK);
	if (clone < 0)
		return 0; /* an ordinary user may not open it: requests are handled one at a time then */
	if (ioctl(clone, FUSE_DEV_IOC_CLONE, &master) < 0) {
		close(clone);
		return 0;
	}
	transport->prompt = clone;
	return 0;
}

void transport_close(struct transport *transport)
{
	if (transport->prompt >= 0)
		close(transport->prompt);
	transport->prompt = -1;
	transport->descriptor = -1;
}

/* No thread here is cancelled: the wrappers of libc, which allow for it, cost two locked operations a call. */
ssize_t transport_receive(struct transport *transport, void *memory, size_t size, bool wait, int *channel)
{
	*channel = wait || transport->prompt < 0 ? transport->descriptor : transport->prompt;
	ssize_t length = syscall(SYS_read, *channel, memory, size);

	if (length >= (ssize_t)sizeof(struct fuse_in_header))
		return length;
	if (length >= 0)
		return -EIO;
	/* ENOENT: the request was interrupted while it was copied. */
	return errno == EINTR || errno == ENOENT ? -EAGAIN : -errno;
}

bool transport_waiting(const struct transport *transport)
{
	struct pollfd poll_fuse = { .fd = transport->descriptor, .events = POLLIN };

	return poll(&poll_fuse, 1, 0) == 1 && (poll_fuse.revents & POLLIN);
}

bool transport_pending(const struct transport *transport)
{
	return transport->prompt >= 0 && transport_waiting(transport);
}

int transport_wait(const struct transport *transport, int event, bool *event_ready)
{
	struct pollfd polls[2] = { { .fd = transport->descriptor, .events = POLLIN },
				   { .fd = event, .events = POLLIN } };

	*event_ready = false;
	if (poll(polls, 2, -1) < 0)
		return errno == EINTR ? 0 : -errno;
	*event_ready = polls[1].revents != 0;
	return 0;
}

/*
 * The kernel takes a reply page by page and vector by vector, and pins the page each time; a small reply in one piece
 * that does not cross a page is pinned once.
 */
int transport_send(int channel, const struct iovec *iov, int count)
{
	_Alignas(JOIN_MAX) unsigned char joined[JOIN_MAX];
	const void *piece = iov[0].iov_base;
	size_t length = 0, used = 0;
	ssize_t sent;

	for (int i = 0; i < count; i++)
		length += iov[i].iov_len;
	if (count > 1 && length <= JOIN_MAX) {
		for (int i = 0; i < count; used += iov[i++].iov_len)
			memcpy(joined + used, iov[i].iov_base, iov[i].iov_len);
		piece = joined;
		count = 1;
	}
	sent = count == 1 ? syscall(SYS_write, channel, piece, length) : syscall(SYS_writev, channel, iov, count);
	return sent < 0 ? -errno : 0;
}
