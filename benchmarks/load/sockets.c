/* Sockets, the clock, limits, and the words for what went wrong. */

#define _GNU_SOURCE
#include "load.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>

#ifndef IP_BIND_ADDRESS_NO_PORT
#define IP_BIND_ADDRESS_NO_PORT 24
#endif

uint64_t now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (uint64_t)time.tv_sec * UINT64_C(1000000000) + (uint64_t)time.tv_nsec;
}

double seconds_since(uint64_t then)
{
    return (double)(now() - then) / 1e9;
}

void give_up(const char *what)
{
    fprintf(stderr, "load: %s: %s\n", what, strerror(errno));
    exit(2);
}

void raise_limit(void)
{
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit) == 0) {
        limit.rlim_cur = limit.rlim_max;
        setrlimit(RLIMIT_NOFILE, &limit);
    }
}

bool would_block(void)
{
    return errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR;
}

static struct sockaddr_in loopback(int port, long number)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    address.sin_addr.s_addr = htonl((uint32_t)(0x7f000001 + number));
    return address;
}

/* A non-blocking connection on its way; the source moves through 127.0.0.2 to .17, so that no port runs out. */
int dial(int port, long number)
{
    int one = 1;
    int socket_ = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (socket_ < 0)
        return -1;
    struct sockaddr_in source = loopback(0, 1 + number % 16), target = loopback(port, 0);
    setsockopt(socket_, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &one, sizeof one);
    setsockopt(socket_, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    if (bind(socket_, (struct sockaddr *)&source, sizeof source) < 0)
        give_up("bind to 127.0.0.x");
    if (connect(socket_, (struct sockaddr *)&target, sizeof target) < 0 && errno != EINPROGRESS)
        give_up("connect");
    return socket_;
}

int listen_on(int port, int *chosen)
{
    int one = 1;
    int socket_ = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    struct sockaddr_in address = loopback(port, 0);
    socklen_t length = sizeof address;
    if (socket_ < 0)
        give_up("socket");
    setsockopt(socket_, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (bind(socket_, (struct sockaddr *)&address, sizeof address) < 0)
        give_up("bind");
    if (listen(socket_, 4096) < 0)
        give_up("listen");
    if (getsockname(socket_, (struct sockaddr *)&address, &length) < 0)
        give_up("getsockname");
    *chosen = ntohs(address.sin_port);
    return socket_;
}

void note(struct failures *failures, const char *what, int number)
{
    if (failures->count++ == 0)
        snprintf(failures->first, sizeof failures->first, "%s%s%s", what, number ? ": " : "",
                 number ? strerror(number) : "");
}
