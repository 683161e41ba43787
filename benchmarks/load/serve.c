/* The application. The first byte of a connection says what it is for, and is answered with the same letter in lower case:
   'E' sends every byte back, 'S' swallows them and says at the end how many there were and their hash (16 bytes). */

#define _GNU_SOURCE
#include "load.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <unistd.h>

struct visitor {
    int socket;
    char kind;            /* 0 until the first byte */
    bool ended;           /* the client has sent all */
    struct hash *hash;    /* 'S' */
    unsigned char *queue; /* what the kernel has not taken; nothing is read meanwhile */
    size_t queued, sent;
};

static int poller;
static unsigned char buffer[CHUNK];

static void follow(struct visitor *visitor, int operation, unsigned events)
{
    struct epoll_event event = {.events = events, .data.ptr = visitor};
    if (epoll_ctl(poller, operation, visitor->socket, &event) < 0)
        give_up("epoll_ctl");
}

static void leave(struct visitor *visitor)
{
    close(visitor->socket);
    free(visitor->hash);
    free(visitor->queue);
    free(visitor);
}

static bool answer(struct visitor *visitor, const unsigned char *bytes, size_t count)
{
    ssize_t sent = send(visitor->socket, bytes, count, MSG_NOSIGNAL);
    if (sent < 0) {
        if (!would_block())
            return false;
        sent = 0;
    }
    if ((size_t)sent < count) {
        visitor->queued = count - (size_t)sent;
        visitor->sent = 0;
        visitor->queue = malloc(visitor->queued);
        if (!visitor->queue)
            give_up("malloc");
        memcpy(visitor->queue, bytes + sent, visitor->queued);
        follow(visitor, EPOLL_CTL_MOD, EPOLLOUT);
    }
    return true;
}

/* False when the connection is over. */
static bool drain(struct visitor *visitor)
{
    ssize_t sent = send(visitor->socket, visitor->queue + visitor->sent, visitor->queued - visitor->sent, MSG_NOSIGNAL);
    if (sent < 0)
        return would_block();
    visitor->sent += (size_t)sent;
    if (visitor->sent == visitor->queued) {
        free(visitor->queue);
        visitor->queue = NULL;
        if (visitor->ended)
            return false;
        follow(visitor, EPOLL_CTL_MOD, EPOLLIN);
    }
    return true;
}

static bool open_with(struct visitor *visitor, unsigned char letter)
{
    unsigned char reply = letter | 0x20;
    if (letter == 'S') {
        visitor->hash = malloc(sizeof *visitor->hash);
        if (!visitor->hash)
            give_up("malloc");
        hash_start(visitor->hash);
    } else if (letter != 'E') {
        return false;
    }
    visitor->kind = (char)letter;
    return answer(visitor, &reply, 1);
}

static bool end_of_input(struct visitor *visitor)
{
    if (visitor->kind != 'S')
        return false;
    uint64_t told[2] = {visitor->hash->length, hash_end(visitor->hash)};
    visitor->ended = true;
    return answer(visitor, (unsigned char *)told, sizeof told) && visitor->queue;
}

static bool take(struct visitor *visitor)
{
    ssize_t count = recv(visitor->socket, buffer, sizeof buffer, 0);
    if (count < 0)
        return would_block();
    if (count == 0)
        return end_of_input(visitor);
    unsigned char *bytes = buffer;
    if (!visitor->kind) {
        if (!open_with(visitor, *bytes))
            return false;
        bytes++;
        count--;
    }
    if (visitor->kind == 'S')
        hash_add(visitor->hash, bytes, (size_t)count);
    else if (count)
        return answer(visitor, bytes, (size_t)count);
    return true;
}

static void welcome(int listener)
{
    int one = 1;
    for (;;) {
        int socket_ = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
        if (socket_ < 0) {
            if (errno == ECONNABORTED)
                continue;
            if (would_block())
                return;
            give_up("accept");
        }
        setsockopt(socket_, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
        struct visitor *visitor = calloc(1, sizeof *visitor);
        if (!visitor)
            give_up("calloc");
        visitor->socket = socket_;
        follow(visitor, EPOLL_CTL_ADD, EPOLLIN);
    }
}

int serve(const struct options *options)
{
    int port;
    int listener = listen_on(options->port, &port);
    struct epoll_event events[256], listening = {.events = EPOLLIN}, input = {.events = EPOLLIN, .data.ptr = &poller};
    poller = epoll_create1(EPOLL_CLOEXEC);
    if (poller < 0 || epoll_ctl(poller, EPOLL_CTL_ADD, listener, &listening) < 0)
        give_up("epoll");
    if (epoll_ctl(poller, EPOLL_CTL_ADD, 0, &input) < 0)
        give_up("serve wants a pipe as standard input, and ends with it");
    printf("{\"port\": %d}\n", port);
    fflush(stdout);
    for (;;) {
        int count = epoll_wait(poller, events, 256, -1);
        if (count < 0 && errno != EINTR)
            give_up("epoll_wait");
        for (int number = 0; number < count; number++) {
            struct visitor *visitor = events[number].data.ptr;
            if (!visitor)
                welcome(listener);
            else if (events[number].data.ptr == &poller)
                return 0;
            else if (!(visitor->queue ? drain(visitor) : take(visitor)))
                leave(visitor);
        }
    }
}
