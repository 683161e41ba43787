/* The application. The first byte of a connection says what it is for, and is answered with the same letter in lower case:
   'E' sends every byte back. 'S' takes 8 bytes that say how many will follow, swallows those, and says how many there
   were and their hash (16 bytes): when they are complete or the client ends, for not every proxy passes on an end in one
   direction only. */

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

struct swallowed {
    unsigned char announced[8];
    size_t heard; /* of those 8 */
    struct hash hash;
};

struct visitor {
    int socket;
    char kind;                   /* 0 until the first byte */
    bool ended;                  /* the client will send no more */
    struct swallowed *swallowed; /* 'S' */
    unsigned char *queue;        /* what the kernel has not taken; nothing is read meanwhile */
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
    free(visitor->swallowed);
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
        visitor->swallowed = calloc(1, sizeof *visitor->swallowed);
        if (!visitor->swallowed)
            give_up("calloc");
        hash_start(&visitor->swallowed->hash);
    } else if (letter != 'E') {
        return false;
    }
    visitor->kind = (char)letter;
    return answer(visitor, &reply, 1);
}

static bool report(struct visitor *visitor)
{
    uint64_t told[2] = {visitor->swallowed->hash.length, hash_end(&visitor->swallowed->hash)};
    return answer(visitor, (unsigned char *)told, sizeof told);
}

static bool swallow(struct visitor *visitor, const unsigned char *bytes, size_t count)
{
    struct swallowed *swallowed = visitor->swallowed;
    uint64_t announced;
    for (; count && swallowed->heard < 8; count--)
        swallowed->announced[swallowed->heard++] = *bytes++;
    if (!count)
        return true;
    hash_add(&swallowed->hash, bytes, count);
    memcpy(&announced, swallowed->announced, 8);
    return swallowed->hash.length < announced || report(visitor);
}

static bool end_of_input(struct visitor *visitor)
{
    visitor->ended = true;
    return visitor->kind == 'S' && report(visitor) && visitor->queue;
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
    if (!count)
        return true;
    return (visitor->kind == 'S' ? swallow : answer)(visitor, bytes, (size_t)count);
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
