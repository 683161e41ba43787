/* Lines on standard input and output: "ready" - a line - the result - end of input. */

#include "load.h"

#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <unistd.h>

/* One byte at a time: nothing that comes later may be swallowed by a buffer. */
bool next_line(char *line, size_t size)
{
    size_t length = 0;
    char byte;
    for (;;) {
        if (read(0, &byte, 1) != 1)
            return false;
        if (byte == '\n')
            break;
        if (length + 1 < size)
            line[length++] = byte;
    }
    line[length] = 0;
    return true;
}

bool told_to_stop(void)
{
    struct pollfd standard_input = {.fd = 0, .events = POLLIN};
    return poll(&standard_input, 1, 0) > 0;
}

void wait_for_end(void)
{
    char line[80];
    while (next_line(line, sizeof line))
        ;
}

static double own_cpu_seconds(void)
{
    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    return (double)(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec)
           + (double)(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) / 1e6;
}

static double spent_before;

void say_ready(void)
{
    puts("{\"ready\": true}");
    fflush(stdout);
    char line[80];
    if (!next_line(line, sizeof line))
        exit(3);
    spent_before = own_cpu_seconds();
}

/* The first failure is our own words and strerror's: nothing in it needs an escape. */
void result_start(const struct failures *failures)
{
    printf("{\"failures\": %ld, \"first_failure\": \"%s\"", failures->count, failures->first);
    result_number("cpu_seconds", own_cpu_seconds() - spent_before);
}

void result_number(const char *name, double value)
{
    printf(", \"%s\": %.9g", name, value);
}

void result_end(void)
{
    puts("}");
    fflush(stdout);
}
