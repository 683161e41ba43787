/* Payload one way, over one or several connections; what counts is what the receiver says it got. */

#include "load.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>

/* The chunks come from changing places of the pool, so that a swapped or repeated one is seen. */
static size_t next_chunk(struct caller *caller)
{
    size_t count = caller->left < CHUNK ? caller->left : CHUNK;
    caller->bytes = pool + next_random(&caller->random) % (POOL - CHUNK);
    caller->left -= count;
    return count;
}

static void rewind_to_start(struct caller *caller, long number, size_t bytes)
{
    caller->random = (uint64_t)number * 2 + 1;
    caller->left = bytes;
    caller->sent = caller->got = 0;
}

/* Which hash the receiver has to come to; before the clock runs. */
static uint64_t expected(struct caller *caller)
{
    hash_start(&caller->hash);
    while (caller->left) {
        size_t count = next_chunk(caller);
        hash_add(&caller->hash, caller->bytes, count);
    }
    return hash_end(&caller->hash);
}

struct sending {
    size_t chunk; /* the size of the present one */
    unsigned char told[16];
    uint64_t hash;
    bool finished;
};

static enum outcome push(int poller, struct caller *caller, struct sending *sending, struct failures *failures)
{
    for (int turn = 0; turn < 4; turn++) {
        if (caller->sent == sending->chunk) {
            if (!caller->left) {
                sending->finished = true;
                watch(poller, caller, EPOLL_CTL_MOD, EPOLLIN);
                return PENDING;
            }
            sending->chunk = next_chunk(caller);
            caller->sent = 0;
        }
        ssize_t count = send(caller->socket, caller->bytes + caller->sent, sending->chunk - caller->sent, MSG_NOSIGNAL);
        if (count < 0) {
            if (would_block())
                return PENDING;
            note(failures, "bulk payload", errno);
            return FAILED;
        }
        caller->sent += (size_t)count;
    }
    return PENDING;
}

static enum outcome confirm(struct caller *caller, struct sending *sending, size_t bytes, struct failures *failures)
{
    uint64_t told[2];
    ssize_t count = recv(caller->socket, sending->told + caller->got, sizeof sending->told - caller->got, 0);
    if (count < 0 && would_block())
        return PENDING;
    if (count <= 0) {
        note(failures, count ? "the receiver's answer" : "closed before the receiver had answered", count ? errno : 0);
        return FAILED;
    }
    caller->got += (size_t)count;
    if (caller->got < sizeof sending->told)
        return PENDING;
    memcpy(told, sending->told, sizeof told);
    if (told[0] == bytes && told[1] == sending->hash)
        return DONE;
    note(failures, told[0] == bytes ? "the receiver got other bytes" : "the receiver got another number of bytes", 0);
    return FAILED;
}

int run_bulk(const struct options *options)
{
    struct failures failures = {0};
    size_t each = options->bytes / (size_t)options->connections;
    struct caller *callers = establish(options, 'S', &failures);
    struct sending *sendings = calloc((size_t)options->connections, sizeof *sendings);
    struct epoll_event events[64];
    int poller = make_poller();
    long done = 0;
    if (!sendings)
        give_up("calloc");
    for (long number = 0; number < options->connections; number++) {
        rewind_to_start(&callers[number], number, each);
        sendings[number].hash = expected(&callers[number]);
        rewind_to_start(&callers[number], number, each);
    }
    for (long number = 0; number < options->connections && !failures.count; number++) {
        uint64_t announced = each;
        if (send(callers[number].socket, &announced, sizeof announced, MSG_NOSIGNAL) != sizeof announced)
            note(&failures, "the number of bytes", errno);
    }
    say_ready();
    uint64_t began = now(), progress = began;
    for (long number = 0; number < options->connections && !failures.count; number++)
        watch(poller, &callers[number], EPOLL_CTL_ADD, EPOLLIN | EPOLLOUT);
    while (done < options->connections && !failures.count) {
        int count = epoll_wait(poller, events, 64, 100);
        if (count > 0)
            progress = now();
        else if (seconds_since(progress) > options->timeout)
            note(&failures, "bytes were lost, or wait too long: no progress in time", 0);
        for (int number = 0; number < count && !failures.count; number++) {
            struct caller *caller = events[number].data.ptr;
            struct sending *sending = &sendings[caller - callers];
            if (events[number].events & (EPOLLIN | EPOLLHUP | EPOLLERR)) {
                if (confirm(caller, sending, each, &failures) == DONE) {
                    watch(poller, caller, EPOLL_CTL_DEL, 0);
                    done++;
                }
            } else if (!sending->finished) {
                push(poller, caller, sending, &failures);
            }
        }
    }
    double seconds = (double)(now() - began) / 1e9;
    result_start(&failures);
    result_number("seconds", seconds);
    result_number("bytes", (double)(each * (size_t)options->connections));
    result_end();
    wait_for_end();
    return 0;
}
