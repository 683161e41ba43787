/* New connections: connect, one byte there, one byte back, close; a fixed number at a time. */

#include "load.h"

#include <stdlib.h>
#include <sys/epoll.h>
#include <unistd.h>

enum { ENOUGH = 10000 }; /* failures */

int run_connect(const struct options *options)
{
    static struct histogram times;
    struct failures failures = {0};
    struct options first = *options;
    first.connections = 1;
    struct caller *callers = establish(&first, 'E', &failures);
    hang_up(callers);
    free(callers);
    callers = calloc((size_t)options->connections, sizeof *callers);
    if (!callers)
        give_up("calloc");
    struct epoll_event events[256];
    int poller = make_poller();
    long started = 0, busy = 0;
    bool reachable = !failures.count;
    say_ready();
    uint64_t began = now(), last = began, checked = began, until = began + (uint64_t)(options->seconds * 1e9);
    for (; reachable && busy < options->connections; busy++)
        call(poller, &callers[busy], options->port, started++);
    while (busy) {
        int count = epoll_wait(poller, events, 256, 100);
        uint64_t time = now();
        for (int number = 0; number < count; number++) {
            struct caller *caller = events[number].data.ptr;
            enum outcome outcome = greet(poller, caller, 'E', &failures);
            if (outcome == PENDING)
                continue;
            if (outcome == DONE) {
                last = now();
                histogram_add(&times, last - caller->began);
            }
            hang_up(caller);
            if (time < until && failures.count < ENOUGH)
                call(poller, caller, options->port, started++);
            else
                busy--;
        }
        if (time - checked > 10000000) {
            checked = time;
            if (told_to_stop())
                until = time;
            if (seconds_since(last) > options->timeout) {
                note(&failures, "no new connection in time", 0);
                break;
            }
        }
    }
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
