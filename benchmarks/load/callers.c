/* The connections of a client: dialled, greeted with one byte and its answer, and from then on used by a mode. */

#include "load.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

enum { AT_A_TIME = 64 };

int make_poller(void)
{
    int poller = epoll_create1(EPOLL_CLOEXEC);
    if (poller < 0)
        give_up("epoll_create1");
    return poller;
}

void watch(int poller, struct caller *caller, int operation, unsigned events)
{
    struct epoll_event event = {.events = events, .data.ptr = caller};
    if (epoll_ctl(poller, operation, caller->socket, &event) < 0)
        give_up("epoll_ctl");
}

void call(int poller, struct caller *caller, int port, long number)
{
    caller->asked = caller->greeted = false;
    caller->began = now();
    caller->socket = dial(port, number);
    if (caller->socket < 0)
        give_up("socket");
    watch(poller, caller, EPOLL_CTL_ADD, EPOLLOUT);
}

void hang_up(struct caller *caller)
{
    if (caller->socket >= 0)
        close(caller->socket);
    caller->socket = -1;
}

/* One step towards a connection that has carried a byte there and one back; DONE leaves it watched for input. */
enum outcome greet(int poller, struct caller *caller, char letter, struct failures *failures)
{
    char reply;
    if (!caller->asked) {
        int number = 0;
        socklen_t length = sizeof number;
        getsockopt(caller->socket, SOL_SOCKET, SO_ERROR, &number, &length);
        if (number) {
            note(failures, "connect", number);
            return FAILED;
        }
        if (send(caller->socket, &letter, 1, MSG_NOSIGNAL) != 1) {
            note(failures, "first byte", errno);
            return FAILED;
        }
        caller->asked = true;
        watch(poller, caller, EPOLL_CTL_MOD, EPOLLIN);
        return PENDING;
    }
    ssize_t count = recv(caller->socket, &reply, 1, 0);
    if (count < 0 && would_block())
        return PENDING;
    if (count != 1) {
        note(failures, count ? "answer to the first byte" : "closed before the first answer", count ? errno : 0);
        return FAILED;
    }
    if (reply != (letter | 0x20)) {
        note(failures, "a wrong answer to the first byte", 0);
        return FAILED;
    }
    caller->greeted = true;
    return DONE;
}

/* Connections number from to until, a few at a time; false if one fails. */
bool establish_more(struct caller *callers, long from, long until, const struct options *options, char letter,
                    struct failures *failures)
{
    int poller = make_poller();
    struct epoll_event events[AT_A_TIME];
    long next = from, done = from;
    uint64_t progress = now();
    while (done < until && !failures->count) {
        for (; next < until && next - done < AT_A_TIME; next++)
            call(poller, &callers[next], options->port, next);
        int count = epoll_wait(poller, events, AT_A_TIME, 100);
        for (int number = 0; number < count; number++) {
            struct caller *caller = events[number].data.ptr;
            if (greet(poller, caller, letter, failures) != DONE)
                continue;
            watch(poller, caller, EPOLL_CTL_DEL, 0);
            done++;
            progress = now();
        }
        if (seconds_since(progress) > options->timeout)
            note(failures, "no answer to the first byte in time", 0);
    }
    close(poller);
    return !failures->count;
}

struct caller *establish(const struct options *options, char letter, struct failures *failures)
{
    struct caller *callers = calloc((size_t)options->connections, sizeof *callers);
    if (!callers)
        give_up("calloc");
    for (long number = 0; number < options->connections; number++)
        callers[number].socket = -1;
    establish_more(callers, 0, options->connections, options, letter, failures);
    return callers;
}
