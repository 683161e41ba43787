/* Round trips: every connection has one message on its way, and each byte that comes back is compared. */

#include "load.h"

#include <errno.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

enum { ENOUGH = 10000 }; /* failures, with keep_going */

static struct histogram times;
static struct failures failures;
static const struct options *wanted;
static int poller;
static uint64_t choice = 88172645463325252;

static void lose(struct caller *caller)
{
    long number = (long)(next_random(&choice) % 65536);
    hang_up(caller);
    if (wanted->keep_going)
        call(poller, caller, wanted->port, number);
}

static void push(struct caller *caller)
{
    ssize_t count = send(caller->socket, caller->bytes + caller->sent, wanted->size - caller->sent, MSG_NOSIGNAL);
    if (count < 0 && !would_block()) {
        note(&failures, "message", errno);
        lose(caller);
        return;
    }
    bool waited = caller->sent != 0;
    caller->sent += count > 0 ? (size_t)count : 0;
    if (caller->sent < wanted->size)
        watch(poller, caller, EPOLL_CTL_MOD, EPOLLIN | EPOLLOUT);
    else if (waited)
        watch(poller, caller, EPOLL_CTL_MOD, EPOLLIN);
}

static void next_message(struct caller *caller, uint64_t time)
{
    caller->bytes = pool + next_random(&choice) % (POOL - CHUNK);
    caller->sent = caller->got = 0;
    caller->began = time;
    push(caller);
}

/* True when the message is back. */
static bool take(struct caller *caller)
{
    static unsigned char buffer[CHUNK];
    ssize_t count = recv(caller->socket, buffer, wanted->size - caller->got, 0);
    if (count < 0 && would_block())
        return false;
    if (count <= 0) {
        note(&failures, count ? "echo" : "closed before the echo was complete", count ? errno : 0);
        lose(caller);
        return false;
    }
    if (memcmp(buffer, caller->bytes + caller->got, (size_t)count) != 0) {
        note(&failures, "the echo differs from what was sent", 0);
        lose(caller);
        return false;
    }
    caller->got += (size_t)count;
    return caller->got == wanted->size;
}

/* All connections for so long; true unless one failed for good. */
static bool exchange(struct caller *callers, double seconds, uint64_t *last)
{
    struct epoll_event events[256];
    uint64_t began = now(), until = began + (uint64_t)(seconds * 1e9), checked = began, progress = began;
    long busy = wanted->connections;
    for (long number = 0; number < busy; number++)
        if (callers[number].greeted)
            next_message(&callers[number], now());
    while (busy) {
        int count = epoll_wait(poller, events, 256, 100);
        uint64_t time = now();
        for (int number = 0; number < count; number++) {
            struct caller *caller = events[number].data.ptr;
            if (caller->socket < 0)
                continue;
            if (!caller->greeted) {
                enum outcome outcome = greet(poller, caller, 'E', &failures);
                if (outcome == FAILED)
                    lose(caller);
                else if (outcome == DONE)
                    next_message(caller, now());
                continue;
            }
            if (events[number].events & EPOLLOUT)
                push(caller);
            if (caller->socket < 0 || !(events[number].events & ~(unsigned)EPOLLOUT) || !take(caller))
                continue;
            *last = progress = now();
            histogram_add(&times, *last - caller->began);
            if (*last < until)
                next_message(caller, *last);
            else
                busy--;
        }
        if (failures.count > (wanted->keep_going ? ENOUGH : 0))
            return false;
        if (time - checked > 10000000) {
            checked = time;
            if (told_to_stop())
                until = time;
            if (seconds_since(progress) > wanted->timeout) {
                note(&failures, "no echo in time", 0);
                return false;
            }
        }
    }
    return true;
}

int run_echo(const struct options *options)
{
    wanted = options;
    poller = make_poller();
    struct caller *callers = establish(options, 'E', &failures);
    uint64_t last = now();
    bool reachable = !failures.count;
    for (long number = 0; number < options->connections && reachable; number++)
        watch(poller, &callers[number], EPOLL_CTL_ADD, EPOLLIN);
    if (reachable)
        exchange(callers, options->seconds < 1 ? options->seconds / 5 : 0.2, &last);
    memset(&times, 0, sizeof times);
    say_ready();
    uint64_t began = now();
    if (reachable && (!failures.count || options->keep_going))
        exchange(callers, options->seconds, &last);
    result_start(&failures);
    result_number("seconds", (double)(last - began) / 1e9);
    result_number("operations", (double)times.count);
    result_number("p50", histogram_microseconds(&times, 0.5));
    result_number("p99", histogram_microseconds(&times, 0.99));
    result_number("most", (double)times.most / 1000);
    result_end();
    wait_for_end();
    return 0;
}
