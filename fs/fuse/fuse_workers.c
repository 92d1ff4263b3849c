/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Leader and followers.
 *
 * A wake-up that crosses cores costs four times a whole request, so requests are not handed from thread to thread:
 * one thread, the leader, reads a request, handles it and replies, on the core where the caller woke it. Only while the
 * leader waits for the device could another request be served meanwhile; then, and only then, another thread takes
 * the lead, and the old leader becomes a follower once it has replied.
 *
 * Most waits are over sooner than a wake-up. So the leader only publishes that it waits (crew_wait_begin(): the
 * number of the wait in `offer`), and one follower, the watcher, looks at that word every TICK: the same number
 * twice means a long wait, and it takes the lead with one compare-and-swap. When another request is already waiting
 * (one poll(2) tells) the watcher is woken at once. After QUIET_TICKS without a wait the watcher sleeps until the
 * bell rings, so that an idle mount costs nothing.
 *
 *	offer: 0 -> n	leader, crew_wait_begin()
 *	offer: n -> 0	leader, crew_wait_end(): it still leads; or the watcher: the watcher leads
 *
 * Threads are started on demand: there is always one follower, up to the limit (threads=N). Waits for the device's
 * flush, WRITEs that wait for the device and copies, of which callers can cause any number, never take them all:
 * fuse_sync.c.
 *
 * Locking: `offer`, `waits`, `urgent`, `bell`, `dormant`, `stopping` are atomic; `lock` protects the rest and is
 * never held over a wait for the device. The pair (offer, dormant) is a Dekker handshake: each side stores its own
 * word before it loads the other's, sequentially consistent.
 */
#include "fuse_front.h"

#include <errno.h>
#include <limits.h>
#include <linux/futex.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#define TICK_NS 200000l
#define QUIET_TICKS 5u

_Thread_local struct worker *current_worker;

static void bell_wait(struct crew *crew, uint32_t value, long timeout_ns)
{
	struct timespec timeout = { .tv_nsec = timeout_ns };

	syscall(SYS_futex, &crew->bell, FUTEX_WAIT_PRIVATE, value, timeout_ns ? &timeout : NULL, NULL, 0);
}

static void bell_ring(struct crew *crew)
{
	atomic_fetch_add(&crew->bell, 1);
	syscall(SYS_futex, &crew->bell, FUTEX_WAKE_PRIVATE, INT_MAX, NULL, NULL, 0);
}

/* ---- The leader ---- */

void crew_wait_begin(void *context)
{
	struct worker *worker = current_worker;

	(void)context;
	if (!worker || worker->waits++ > 0 || !worker->leading || worker->keep_lead)
		return;
	struct crew *crew = &worker->front->crew;
	worker->offer = atomic_fetch_add(&crew->waits, 1) + 1;
	atomic_store(&crew->offer, worker->offer);
	bool urgent = !worker->alone && transport_pending(&worker->front->transport);
	worker->alone = false;
	if (urgent)
		atomic_store(&crew->urgent, worker->offer);
	if (urgent || atomic_load(&crew->dormant))
		bell_ring(crew);
}

void crew_wait_end(void *context)
{
	struct worker *worker = current_worker;

	(void)context;
	if (!worker || --worker->waits > 0 || !worker->offer)
		return;
	uint64_t offer = worker->offer;
	worker->offer = 0;
	if (!atomic_compare_exchange_strong(&worker->front->crew.offer, &offer, 0)) {
		worker->leading = false;
		/* What this call still waits for is the new leader's to reap. */
		if (worker->front->queue)
			ash_queue_disown(worker->front->queue);
	}
}

/* The connection ended: everybody goes home. */
static void connection_lost(struct front *front, int error)
{
	uint64_t one = 1;

	if (error != -ENODEV)
		front->connection_error = error;
	crew_stop(front);
	if (write(front->down, &one, sizeof(one)) < 0)
		front_log(front, ASH_LOG_ERROR, "cannot signal the end of the connection");
}

enum queue_call {
	QUEUE_POLL, /* answer what is finished, without a system call */
	QUEUE_REAP, /* the same when the event descriptor polled readable */
	QUEUE_KICK, /* requests that came in a row go to the device together, once something else is to be done or waited for */
};

/* Callbacks reply to requests, which may wait: with the lead kept, for the queue is this thread's. */
static void queue_call(struct worker *worker, enum queue_call call)
{
	struct ash_queue *queue = worker->front->queue;

	worker->keep_lead = true;
	if (call == QUEUE_POLL)
		ash_queue_poll(queue);
	else if (call == QUEUE_REAP)
		ash_queue_reap(queue, false);
	else
		ash_queue_kick(queue);
	worker->keep_lead = false;
}

void crew_kick(struct worker *worker)
{
	struct front *front = worker->front;

	if (worker->leading && front->queue && ash_queue_in_flight(front->queue) > 0)
		queue_call(worker, QUEUE_KICK);
}

/* One request into the worker's buffer; completions are answered meanwhile. 1: there is one; 0: look again. */
static int next_request(struct worker *worker)
{
	struct front *front = worker->front;
	struct request *request = worker->request;
	bool busy = front->queue && ash_queue_in_flight(front->queue) > 0;

	if (busy)
		queue_call(worker, QUEUE_POLL);
	bool warming = !busy && front->transport.prompt >= 0 && follow_warming(&front->follow);
	ssize_t length = transport_receive(&front->transport, request->memory + BUFFER_REQUEST_OFFSET,
					   BUFFER_SIZE - BUFFER_REQUEST_OFFSET, !busy && !warming, &request->channel);
	if (length > 0) {
		const struct fuse_in_header *in = (const void *)(request->memory + BUFFER_REQUEST_OFFSET);

		request->length = (size_t)length;
		if (busy && in->opcode != FUSE_READ && in->opcode != FUSE_WRITE)
			queue_call(worker, QUEUE_KICK);
		return 1;
	}
	if (busy)
		queue_call(worker, QUEUE_KICK);
	if (length != -EAGAIN)
		return (int)length;
	if (!busy)
		return 0;
	bool completions;
	int rc = transport_wait(&front->transport, ash_queue_event_fd(front->queue), &completions);
	if (rc == 0 && completions)
		queue_call(worker, QUEUE_REAP);
	return rc;
}

static void lead(struct worker *worker)
{
	struct front *front = worker->front;

	while (worker->leading && !atomic_load_explicit(&front->crew.stopping, memory_order_relaxed)) {
		if (!worker->request)
			worker->request = request_get(front);
		if (!worker->request) {
			/* out of memory: the kernel keeps the requests, and those in flight have buffers to give back */
			if (front->queue && ash_queue_in_flight(front->queue) > 0)
				queue_call(worker, QUEUE_REAP);
			usleep(1000);
			continue;
		}
		int rc = next_request(worker);
		if (rc > 0) {
			struct request *request = worker->request;
			struct follow_hint hint =
				follow_look(request, front->queue && ash_queue_in_flight(front->queue) > 0);
			worker->alone = false;
			awake_request(&front->awake, hint.crowd);
			session_dispatch(worker);
			write_finish(worker);
			sync_finish(worker);
			if (worker->leading)
				follow_caller(&front->follow, hint);
		} else if (rc < 0) {
			connection_lost(front, rc);
			return;
		}
	}
}

/* ---- Followers ---- */

static bool take_offer(struct crew *crew, uint64_t offer)
{
	return atomic_compare_exchange_strong(&crew->offer, &offer, 0);
}

/* Sleep until the leader waits again. */
static void watch_dormant(struct crew *crew, uint32_t bell)
{
	atomic_store(&crew->dormant, true);
	if (!atomic_load(&crew->offer) && !atomic_load(&crew->stopping))
		bell_wait(crew, bell, 0);
	atomic_store(&crew->dormant, false);
}

/* Watch the leader. True: this thread leads now; false: the crew stops. */
static bool watch(struct crew *crew)
{
	uint64_t seen = 0, waits = 0;
	unsigned quiet = 0;

	while (!atomic_load(&crew->stopping)) {
		uint32_t bell = atomic_load(&crew->bell);
		uint64_t offer = atomic_load(&crew->offer);
		if (offer && (offer == seen || offer == atomic_load(&crew->urgent)) && take_offer(crew, offer))
			return true;
		uint64_t waits_now = atomic_load(&crew->waits);
		quiet = offer || waits_now != waits ? 0 : quiet + 1;
		waits = waits_now;
		seen = offer;
		if (quiet > QUIET_TICKS) {
			watch_dormant(crew, bell);
			quiet = 0;
		} else {
			bell_wait(crew, bell, TICK_NS);
		}
	}
	return false;
}

static int worker_start(struct front *front, bool leading);

/* Wait for the lead. Only one follower watches; the others sleep until it has taken the lead. */
static bool follow(struct worker *worker)
{
	struct front *front = worker->front;
	struct crew *crew = &front->crew;

	pthread_mutex_lock(&crew->lock);
	crew->idle++;
	pthread_cond_broadcast(&crew->calmer);
	while (crew->watching && !atomic_load(&crew->stopping))
		pthread_cond_wait(&crew->unwatched, &crew->lock);
	crew->watching = true;
	pthread_mutex_unlock(&crew->lock);

	bool leads = watch(crew);

	pthread_mutex_lock(&crew->lock);
	crew->watching = false;
	crew->idle--;
	bool start = leads && crew->idle == 0 && crew->total < crew->limit;
	/* One watches: the others would wake up for nothing at each change of the lead. */
	pthread_cond_signal(&crew->unwatched);
	pthread_mutex_unlock(&crew->lock);
	if (start)
		worker_start(front, false);
	if (leads)
		follow_release(&front->follow); /* the state of the last leader is not about this thread */
	return leads;
}

static void *worker_main(void *argument)
{
	struct worker *worker = argument;
	struct front *front = worker->front;

	current_worker = worker;
	/* Not the starter's core. */
	sched_setaffinity(0, sizeof(front->follow.allowed), &front->follow.allowed);
	prctl(PR_SET_NAME, "ashlarfs-worker");
	prctl(PR_SET_TIMERSLACK, 20000);
	while (!atomic_load(&front->crew.stopping)) {
		if (!worker->leading)
			worker->leading = follow(worker);
		if (worker->leading)
			lead(worker);
	}
	pthread_mutex_lock(&front->crew.lock);
	front->crew.idle++; /* for crew_quiesce() */
	pthread_cond_broadcast(&front->crew.calmer);
	pthread_mutex_unlock(&front->crew.lock);
	if (worker->request)
		request_put(worker->request);
	return NULL;
}

/* ---- The crew ---- */

static int worker_start(struct front *front, bool leading)
{
	struct crew *crew = &front->crew;
	struct worker *worker = calloc(1, sizeof(*worker));

	if (!worker)
		return -ENOMEM;
	worker->front = front;
	worker->leading = leading;
	pthread_mutex_lock(&crew->lock);
	int rc = pthread_create(&worker->thread, NULL, worker_main, worker);
	if (rc == 0) {
		worker->next = crew->all;
		crew->all = worker;
		crew->total++;
	}
	pthread_mutex_unlock(&crew->lock);
	if (rc)
		free(worker);
	return -rc;
}

static void interrupted(int signal_number)
{
	(void)signal_number;
}

int crew_start(struct front *front)
{
	struct crew *crew = &front->crew;
	struct sigaction action = { .sa_handler = interrupted }; /* no SA_RESTART: ends read(2) */

	pthread_mutex_init(&crew->lock, NULL);
	pthread_cond_init(&crew->calmer, NULL);
	pthread_cond_init(&crew->unwatched, NULL);
	sigaction(SIGUSR1, &action, NULL);
	follow_start(&front->follow);
	crew->limit = front->options.threads;
	sync_start(front);
	awake_start(front);
	int rc = crew->limit > 1 ? worker_start(front, false) : 0;
	return rc ? rc : worker_start(front, true);
}

void crew_stop(struct front *front)
{
	struct crew *crew = &front->crew;

	atomic_store(&crew->stopping, true);
	bell_ring(crew);
	pthread_mutex_lock(&crew->lock);
	pthread_cond_broadcast(&crew->unwatched);
	pthread_mutex_unlock(&crew->lock);
}

/* Wait for what is still in flight. */
static void queue_drain(struct front *front)
{
	while (front->queue && ash_queue_in_flight(front->queue) > 0)
		if (ash_queue_reap(front->queue, true) < 0)
			break;
}

void crew_join(struct front *front)
{
	struct crew *crew = &front->crew;

	for (;;) {
		pthread_mutex_lock(&crew->lock);
		struct worker *worker = crew->all;
		if (worker)
			crew->all = worker->next;
		pthread_mutex_unlock(&crew->lock);
		if (!worker)
			break;
		/* The leader may sleep in read(2): interrupt it until it has noticed. */
		while (pthread_tryjoin_np(worker->thread, NULL)) {
			pthread_kill(worker->thread, SIGUSR1);
			usleep(1000);
		}
		free(worker);
	}
	awake_stop(front); /* the leader, which tells them of requests, is gone */
	follow_stop(&front->follow);
	queue_drain(front); /* the replies go nowhere */
}

/* Is somebody beside the calling worker inside a request? Lock held. */
static bool others_busy(const struct crew *crew)
{
	return crew->idle + 1 < crew->total;
}

bool crew_others(struct front *front)
{
	struct crew *crew = &front->crew;

	pthread_mutex_lock(&crew->lock);
	bool others = others_busy(crew);
	pthread_mutex_unlock(&crew->lock);
	return others;
}

void crew_quiesce(struct front *front)
{
	struct crew *crew = &front->crew;

	queue_drain(front);
	pthread_mutex_lock(&crew->lock);
	/* Also when the crew stops meanwhile: who has left counts as idle. */
	while (others_busy(crew))
		pthread_cond_wait(&crew->calmer, &crew->lock);
	pthread_mutex_unlock(&crew->lock);
}
