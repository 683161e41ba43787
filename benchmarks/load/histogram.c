/* A histogram with 256 buckets for each power of two. */

#include "load.h"

static unsigned place(uint64_t value)
{
    if (value < 256)
        return (unsigned)value;
    unsigned power = 63U - (unsigned)__builtin_clzll(value);
    return (power - 7) * 256 + (unsigned)((value >> (power - 8)) & 255);
}

static double middle(unsigned place)
{
    if (place < 256)
        return place;
    unsigned power = place / 256 + 7;
    double width = (double)(UINT64_C(1) << (power - 8));
    return (256.0 + place % 256 + 0.5) * width;
}

void histogram_add(struct histogram *histogram, uint64_t nanoseconds)
{
    histogram->bucket[place(nanoseconds)]++;
    histogram->count++;
    if (nanoseconds > histogram->most)
        histogram->most = nanoseconds;
}

double histogram_microseconds(const struct histogram *histogram, double fraction)
{
    uint64_t wanted = (uint64_t)(fraction * (double)histogram->count), seen = 0;
    for (unsigned number = 0; number < 64 * 256; number++) {
        seen += histogram->bucket[number];
        if (seen > wanted)
            return middle(number) / 1000;
    }
    return (double)histogram->most / 1000;
}
