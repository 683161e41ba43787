/* load MODE [--option value ...]: the load generator of the benchmark and the application behind the proxies.

   serve                          the application; says its port, ends with its standard input
   bulk    --connections --bytes  pseudo-random payload, length and hash compared with what the receiver says
   echo    --connections --size --seconds
   connect --connections --seconds    new connections, one byte there and one back
   idle                           a line on standard input is how many connections to hold

   A client says {"ready": true} when it is set up, begins at a line on standard input, says its result in one line
   of JSON and holds its connections until its standard input ends. Exit status: 0 also when connections failed
   (the result says so), 2 when the generator itself could not go on. */

#include "load.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int usage(const char *what)
{
    fprintf(stderr, "load: %s\nload serve|bulk|echo|connect|idle [--port N] [--connections N] [--bytes N] [--size N] "
                    "[--seconds S] [--timeout S] [--keep-going 1]\n", what);
    return 64;
}

static bool set(struct options *options, const char *name, const char *value)
{
    if (!strcmp(name, "--port"))
        options->port = atoi(value);
    else if (!strcmp(name, "--connections"))
        options->connections = atol(value);
    else if (!strcmp(name, "--bytes"))
        options->bytes = (size_t)atoll(value);
    else if (!strcmp(name, "--size"))
        options->size = (size_t)atoll(value);
    else if (!strcmp(name, "--seconds"))
        options->seconds = atof(value);
    else if (!strcmp(name, "--timeout"))
        options->timeout = atof(value);
    else if (!strcmp(name, "--keep-going"))
        options->keep_going = atoi(value);
    else
        return false;
    return true;
}

int main(int count, char **words)
{
    struct options options = {.connections = 1, .bytes = 64 << 20, .size = 64, .seconds = 1, .timeout = 20};
    if (count < 2)
        return usage("which mode?");
    for (int at = 2; at < count; at += 2)
        if (at + 1 == count || !set(&options, words[at], words[at + 1]))
            return usage(words[at]);
    if (options.connections < 1 || options.size < 1 || options.size > CHUNK)
        return usage("at least one connection, and messages of 1 byte to 256 KiB");
    signal(SIGPIPE, SIG_IGN);
    raise_limit();
    fill_pool();
    if (!strcmp(words[1], "serve"))
        return serve(&options);
    if (!strcmp(words[1], "bulk"))
        return run_bulk(&options);
    if (!strcmp(words[1], "echo"))
        return run_echo(&options);
    if (!strcmp(words[1], "connect"))
        return run_connect(&options);
    if (!strcmp(words[1], "idle"))
        return run_idle(&options);
    return usage(words[1]);
}
