/* Connections that have carried one byte each way, and are held. */

#include "load.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

static void look(const struct caller *callers, long count, struct failures *failures)
{
    char byte;
    for (long number = 0; number < count; number++)
        if (recv(callers[number].socket, &byte, 1, MSG_PEEK | MSG_DONTWAIT) >= 0 || !would_block())
            note(failures, "an idle connection was closed", 0);
}

int run_idle(const struct options *options)
{
    struct failures failures = {0};
    struct caller *callers = calloc((size_t)options->connections, sizeof *callers);
    long held = 0, asked;
    char line[80];
    if (!callers)
        give_up("calloc");
    say_ready();
    do {
        if (!next_line(line, sizeof line))
            return 0;
        asked = atol(line);
        if (asked > options->connections)
            asked = options->connections;
        look(callers, held, &failures);
        if (asked > held && establish_more(callers, held, asked, options, 'E', &failures))
            held = asked;
        result_start(&failures);
        result_number("held", (double)held);
        result_end();
    } while (!failures.count);
    wait_for_end();
    return 0;
}
