/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A test layer that makes matching requests slow. See delay.h.
 *
 * Concept: the queue lies on a queue of the common layer code, which runs `before`. That hook stores
 * the time before which the request may not be seen in `driver_private[0]` of the request that was handed
 * to us; `driver_private` is ours (blockdrv/driver.h). Reap sorts completions into due and held ones.
 *
 * A request that is held until its release is due when `released` is set; a queue that has one looks again every millisecond.
 *
 * Locking: `lock` guards the rule and `released`. A queue belongs to one thread at a time.
 */
#include "delay.h"

#include "../../blockdrv/layer.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

struct delay_layer {
	struct bdev_layer layer;
	pthread_mutex_t lock;
	pthread_cond_t let_go;
	struct delay_rule rule;
	unsigned matched, used;
	bool active, released;
};

struct delay_queue {
	struct bdev_queue queue;
	struct bdev_queue *inner;   /* a queue of the common layer code on the same device */
	struct bdev_request **held; /* completed below, not due yet */
	unsigned held_count;
	int timer_fd, poll_fd;
};

static struct delay_queue *delay_queue(struct bdev_queue *base)
{
	return (struct delay_queue *)base;
}

static void sleep_ns(uint64_t nanoseconds)
{
	struct timespec time = { (time_t)(nanoseconds / 1000000000u), (long)(nanoseconds % 1000000000u) };

	while (nanosleep(&time, &time) && errno == EINTR)
		;
}

/* ---- The rule. ---- */

static bool rule_matches(const struct delay_rule *rule, const struct bdev_request *request)
{
	if (rule->ops && !(rule->ops & DELAY_OP(request->op)))
		return false;
	if (request->op == BDEV_FLUSH || !rule->length)
		return true;
	if (request->offset < rule->offset)
		return rule->offset - request->offset < request->length;
	return request->offset - rule->offset < rule->length;
}

static uint64_t delay_of(struct delay_layer *delay, const struct bdev_request *request)
{
	uint64_t nanoseconds = 0;

	pthread_mutex_lock(&delay->lock);
	if (delay->active && rule_matches(&delay->rule, request) && delay->matched++ >= delay->rule.skip &&
	    (!delay->rule.count || delay->used < delay->rule.count)) {
		delay->used++;
		nanoseconds = delay->rule.nanoseconds;
	}
	pthread_mutex_unlock(&delay->lock);
	return nanoseconds;
}

static bool delay_before(struct bdev_layer *layer, struct bdev_layer_slot *slot)
{
	uint64_t nanoseconds = delay_of((struct delay_layer *)layer, &slot->request);

	if (!slot->original)
		slot->value = nanoseconds;
	else
		slot->original->driver_private[0] = (void *)(uintptr_t)(!nanoseconds || nanoseconds == DELAY_HELD ?
										nanoseconds :
										bdev_now_ns() + nanoseconds);
	return true;
}

static bool is_released(struct delay_layer *delay)
{
	bool released;

	pthread_mutex_lock(&delay->lock);
	released = delay->released;
	pthread_mutex_unlock(&delay->lock);
	return released;
}

static void wait_release(struct delay_layer *delay)
{
	pthread_mutex_lock(&delay->lock);
	while (!delay->released)
		pthread_cond_wait(&delay->let_go, &delay->lock);
	pthread_mutex_unlock(&delay->lock);
}

static void delay_after(struct bdev_layer *layer, struct bdev_layer_slot *slot)
{
	if (!slot->original && slot->value == DELAY_HELD)
		wait_release((struct delay_layer *)layer);
	else if (!slot->original && slot->value)
		sleep_ns(slot->value);
}

static uint64_t due_at(const struct bdev_request *request)
{
	return (uint64_t)(uintptr_t)request->driver_private[0];
}

/* ---- The queue. ---- */

static void delay_queue_close(struct bdev_queue *base)
{
	struct delay_queue *queue = delay_queue(base);

	if (queue->timer_fd >= 0)
		close(queue->timer_fd);
	if (queue->poll_fd >= 0)
		close(queue->poll_fd);
	if (queue->inner)
		bdev_layer_queue_close(queue->inner);
	free(queue->held);
	free(queue);
}

static int delay_queue_open(struct bdev *dev, unsigned depth, struct bdev_queue **out)
{
	struct delay_queue *queue = calloc(1, sizeof(*queue));
	int result = -ENOMEM;

	if (!queue)
		return -ENOMEM;
	queue->poll_fd = -1;
	queue->timer_fd = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
	queue->held = calloc(depth, sizeof(struct bdev_request *));
	if (queue->timer_fd >= 0 && queue->held)
		result = bdev_layer_queue_open(dev, depth, &queue->inner);
	if (result) {
		delay_queue_close(&queue->queue);
		return result;
	}
	queue->inner->dev = dev;
	queue->inner->depth = depth;
	*out = &queue->queue;
	return 0;
}

static int delay_submit(struct bdev_queue *base, struct bdev_request *const *requests, unsigned count)
{
	struct delay_queue *queue = delay_queue(base);
	int result = bdev_layer_submit(queue->inner, requests, count);

	if (result > 0)
		queue->inner->in_flight += (unsigned)result;
	return result;
}

/* Move what is due from `held` to `out`; the number moved. */
static unsigned take_due(struct delay_queue *queue, struct bdev_request **out, unsigned max)
{
	uint64_t now = is_released((struct delay_layer *)queue->inner->dev) ? DELAY_HELD : bdev_now_ns();
	unsigned count = 0, kept = 0;

	for (unsigned i = 0; i < queue->held_count; i++) {
		if (count < max && due_at(queue->held[i]) <= now)
			out[count++] = queue->held[i];
		else
			queue->held[kept++] = queue->held[i];
	}
	queue->held_count = kept;
	return count;
}

static uint64_t next_due(const struct delay_queue *queue)
{
	uint64_t next = UINT64_MAX, soon = bdev_now_ns() + 1000000;

	for (unsigned i = 0; i < queue->held_count; i++) {
		uint64_t due = due_at(queue->held[i]) == DELAY_HELD ? soon : due_at(queue->held[i]);

		next = due < next ? due : next;
	}
	return next;
}

/* The timer makes our descriptor readable when the next held request is due. */
static void arm_timer(struct delay_queue *queue)
{
	uint64_t next = next_due(queue);
	struct itimerspec time = { 0 };

	if (next != UINT64_MAX) {
		time.it_value.tv_sec = (time_t)(next / 1000000000u);
		time.it_value.tv_nsec = (long)(next % 1000000000u);
	}
	timerfd_settime(queue->timer_fd, TFD_TIMER_ABSTIME, &time, NULL);
}

/* Collect from below without waiting. Held ones have room: no more are in flight than the depth. */
static int collect(struct delay_queue *queue, unsigned min)
{
	struct bdev_request **into = queue->held + queue->held_count;
	unsigned in_flight = queue->inner->in_flight;
	int count;

	if (!in_flight)
		return 0;
	count = bdev_layer_reap(queue->inner, into, min, in_flight);
	if (count > 0) {
		queue->held_count += (unsigned)count;
		queue->inner->in_flight -= (unsigned)count;
	}
	return count;
}

static int delay_reap(struct bdev_queue *base, struct bdev_request **out, unsigned min, unsigned max)
{
	struct delay_queue *queue = delay_queue(base);
	unsigned count = 0;

	for (;;) {
		/* Nothing is held: wait below. Something is: look below often, so that others overtake. */
		int result = collect(queue, count < min && !queue->held_count ? 1 : 0);

		if (result < 0)
			return count ? (int)count : result;
		count += take_due(queue, out + count, max - count);
		if (count >= min)
			break;
		if (queue->held_count) {
			uint64_t now = bdev_now_ns(), next = next_due(queue);
			uint64_t wait = next > now ? next - now : 0;

			if (queue->inner->in_flight && wait > 100000)
				wait = 100000;
			sleep_ns(wait);
		}
	}
	arm_timer(queue);
	return (int)count;
}

static int delay_event_fd(struct bdev_queue *base)
{
	struct delay_queue *queue = delay_queue(base);
	struct epoll_event event = { .events = EPOLLIN };
	int lower;

	if (queue->poll_fd >= 0)
		return queue->poll_fd;
	lower = bdev_layer_event_fd(queue->inner);
	if (lower < 0)
		return -1;
	queue->poll_fd = epoll_create1(EPOLL_CLOEXEC);
	if (queue->poll_fd < 0)
		return -1;
	if (epoll_ctl(queue->poll_fd, EPOLL_CTL_ADD, lower, &event) ||
	    epoll_ctl(queue->poll_fd, EPOLL_CTL_ADD, queue->timer_fd, &event)) {
		close(queue->poll_fd);
		queue->poll_fd = -1;
	}
	return queue->poll_fd;
}

static void delay_event_clear(struct bdev_queue *base)
{
	struct delay_queue *queue = delay_queue(base);
	uint64_t expirations;

	if (read(queue->timer_fd, &expirations, sizeof(expirations)) < 0)
		expirations = 0; /* not expired; reap arms it again */
	bdev_layer_event_clear(queue->inner);
}

static void delay_close(struct bdev *dev)
{
	pthread_mutex_destroy(&((struct delay_layer *)dev)->lock);
	pthread_cond_destroy(&((struct delay_layer *)dev)->let_go);
	free(dev);
}

static const struct bdev_operations delay_operations = {
	.name = "delay",
	.rw = bdev_layer_rw,
	.flush = bdev_layer_flush,
	.discard = bdev_layer_discard,
	.write_zeroes = bdev_layer_write_zeroes,
	.close = delay_close,
	.queue_open = delay_queue_open,
	.queue_close = delay_queue_close,
	.submit = delay_submit,
	.reap = delay_reap,
	.event_fd = delay_event_fd,
	.event_clear = delay_event_clear,
};

int delay_open(struct bdev *lower, struct bdev **out)
{
	struct delay_layer *delay = calloc(1, sizeof(*delay));

	if (!delay)
		return -ENOMEM;
	bdev_init_layer(&delay->layer.dev, &delay_operations, lower);
	delay->layer.before = delay_before;
	delay->layer.after = delay_after;
	pthread_mutex_init(&delay->lock, NULL);
	pthread_cond_init(&delay->let_go, NULL);
	*out = &delay->layer.dev;
	return 0;
}

void delay_set(struct bdev *delay_layer, const struct delay_rule *rule)
{
	struct delay_layer *delay = (struct delay_layer *)delay_layer;

	pthread_mutex_lock(&delay->lock);
	delay->active = rule != NULL;
	if (rule)
		delay->rule = *rule;
	delay->matched = delay->used = 0;
	delay->released = false;
	pthread_mutex_unlock(&delay->lock);
}

void delay_release(struct bdev *delay_layer)
{
	struct delay_layer *delay = (struct delay_layer *)delay_layer;

	pthread_mutex_lock(&delay->lock);
	delay->released = true;
	delay->active = false;
	pthread_cond_broadcast(&delay->let_go);
	pthread_mutex_unlock(&delay->lock);
}

unsigned delay_caught(struct bdev *delay_layer)
{
	struct delay_layer *delay = (struct delay_layer *)delay_layer;
	unsigned used;

	pthread_mutex_lock(&delay->lock);
	used = delay->used;
	pthread_mutex_unlock(&delay->lock);
	return used;
}
