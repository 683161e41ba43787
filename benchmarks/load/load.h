/* The load generator of the benchmark and the application behind the proxies; what its parts know of each other. */

#ifndef LOAD_H
#define LOAD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* --- what was asked for */

struct options {
    int port;
    long connections;
    size_t bytes;    /* bulk: payload of all connections together */
    size_t size;     /* echo: payload of one message */
    double seconds;  /* echo, connect: how long */
    double timeout;  /* without any progress for so long, what is outstanding has failed */
    bool keep_going; /* echo: a connection that fails is counted and replaced */
};

/* --- payload.c: pseudo-random bytes and their hash */

enum { POOL = 2 << 20, CHUNK = 256 << 10 };

extern unsigned char pool[POOL];

void fill_pool(void);
uint64_t next_random(uint64_t *state);

/* 64 bits over length and order of all bytes; a change within one 8-byte word never goes unseen. */
struct hash {
    uint64_t lane[4];
    uint64_t length;
    unsigned char rest[32];
};

void hash_start(struct hash *hash);
void hash_add(struct hash *hash, const unsigned char *bytes, size_t count);
uint64_t hash_end(const struct hash *hash);

/* --- histogram.c: durations in nanoseconds, kept to 0.4 % */

struct histogram {
    uint64_t count, most;
    uint64_t bucket[64 * 256];
};

void histogram_add(struct histogram *histogram, uint64_t nanoseconds);
double histogram_microseconds(const struct histogram *histogram, double fraction);

/* --- sockets.c */

uint64_t now(void); /* nanoseconds, monotonic */
double seconds_since(uint64_t then);
void raise_limit(void);
void give_up(const char *what) __attribute__((noreturn));
int dial(int port, long number);
int listen_on(int port, int *chosen);
bool would_block(void);

/* What went wrong while it ran; the first is told in words. */
struct failures {
    long count;
    char first[200];
};

void note(struct failures *failures, const char *what, int number);

/* --- control.c: the conversation with whoever started us, one line each way at a time */

bool next_line(char *line, size_t size); /* false at the end of input */
bool told_to_stop(void);                 /* there is input, or its end */
void say_ready(void);                    /* returns when told to begin */
void wait_for_end(void);
void result_start(const struct failures *failures);
void result_number(const char *name, double value);
void result_end(void);

/* --- callers.c: connections of a client */

struct caller {
    int socket; /* -1: not connected */
    bool asked, greeted;
    const unsigned char *bytes; /* what is being sent: in the pool */
    size_t sent, got;
    uint64_t began;  /* of this round trip, or of this connection */
    uint64_t random; /* bulk: where the next chunk comes from */
    size_t left;     /* bulk: what is to be sent after this chunk */
    struct hash hash;
};

enum outcome { PENDING, DONE, FAILED };

int make_poller(void);
void watch(int poller, struct caller *caller, int operation, unsigned events);
void call(int poller, struct caller *caller, int port, long number);
void hang_up(struct caller *caller);
enum outcome greet(int poller, struct caller *caller, char letter, struct failures *failures);
struct caller *establish(const struct options *options, char letter, struct failures *failures);
bool establish_more(struct caller *callers, long from, long until, const struct options *options, char letter,
                    struct failures *failures);

/* --- the modes */

int serve(const struct options *options);
int run_bulk(const struct options *options);
int run_echo(const struct options *options);
int run_connect(const struct options *options);
int run_idle(const struct options *options);

#endif
