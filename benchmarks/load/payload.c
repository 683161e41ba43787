/* Pseudo-random payload, the same in every run, and a hash that costs much less than any proxy. */

#include "load.h"

#include <string.h>

unsigned char pool[POOL];

/* xorshift64*: Vigna, "An experimental exploration of Marsaglia's xorshift generators, scrambled", 2016. */
uint64_t next_random(uint64_t *state)
{
    uint64_t value = *state;
    value ^= value >> 12;
    value ^= value << 25;
    value ^= value >> 27;
    *state = value;
    return value * UINT64_C(2685821657736338717);
}

void fill_pool(void)
{
    uint64_t state = UINT64_C(0x9e3779b97f4a7c15);
    for (size_t at = 0; at < POOL; at += 8) {
        uint64_t value = next_random(&state);
        memcpy(pool + at, &value, 8);
    }
}

/* Each step is a bijection of the lane for a given word and of the word for a given lane. */
static uint64_t step(uint64_t lane, uint64_t word)
{
    lane = (lane ^ word) * UINT64_C(0x9fb21c651e98df25);
    return lane ^ (lane >> 29);
}

static void block(struct hash *hash, const unsigned char *bytes)
{
    for (int number = 0; number < 4; number++) {
        uint64_t word;
        memcpy(&word, bytes + 8 * number, 8);
        hash->lane[number] = step(hash->lane[number], word);
    }
}

void hash_start(struct hash *hash)
{
    memset(hash, 0, sizeof *hash);
    for (int number = 0; number < 4; number++)
        hash->lane[number] = (uint64_t)number + 1;
}

void hash_add(struct hash *hash, const unsigned char *bytes, size_t count)
{
    size_t held = hash->length % 32;
    hash->length += count;
    if (held) {
        size_t taken = count < 32 - held ? count : 32 - held;
        memcpy(hash->rest + held, bytes, taken);
        bytes += taken;
        count -= taken;
        if (held + taken < 32)
            return;
        block(hash, hash->rest);
    }
    for (; count >= 32; bytes += 32, count -= 32)
        block(hash, bytes);
    memcpy(hash->rest, bytes, count);
}

uint64_t hash_end(const struct hash *hash)
{
    struct hash last = *hash;
    memset(last.rest + last.length % 32, 0, 32 - last.length % 32);
    block(&last, last.rest);
    uint64_t result = last.length;
    for (int number = 0; number < 4; number++)
        result = step(result, last.lane[number]);
    return result;
}
