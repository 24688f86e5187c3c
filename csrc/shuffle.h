/* Shuffles of whole vectors, and sums over lanes by them. */
#ifndef CNET_SHUFFLE_H
#define CNET_SHUFFLE_H

#include "kernel.h"

/* The two halves of the perfect shuffle of a and b: a0 b0 a1 b1 ... */
#if CN_LANES == 4
#define CN_INTERLEAVE_LOW(a, b) __builtin_shufflevector(a, b, 0, 4, 1, 5)
#define CN_INTERLEAVE_HIGH(a, b) __builtin_shufflevector(a, b, 2, 6, 3, 7)
#define CN_LOG2_LANES 2
#elif CN_LANES == 8
#define CN_INTERLEAVE_LOW(a, b) __builtin_shufflevector(a, b, 0, 8, 1, 9, 2, 10, 3, 11)
#define CN_INTERLEAVE_HIGH(a, b) __builtin_shufflevector(a, b, 4, 12, 5, 13, 6, 14, 7, 15)
#define CN_LOG2_LANES 3
#elif CN_LANES == 16
#define CN_INTERLEAVE_LOW(a, b) __builtin_shufflevector(a, b, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23)
#define CN_INTERLEAVE_HIGH(a, b) \
    __builtin_shufflevector(a, b, 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31)
#define CN_LOG2_LANES 4
#else
#error "write the perfect shuffle for this number of lanes"
#endif

/* Lane j of the result is the sum over the lanes of sum[j], for j < count <= CN_LANES, at two shuffles each: vectors half
 * of them apart share one, each with its halves added, first of two and at last of all. The other lanes are 0, and sum
 * is left changed. */
CN_INLINE vec sums_of_lanes(const int count, vec *sum) {
    CN_UNROLL for (int half = CN_LANES / 2; half; half /= 2) CN_UNROLL for (int j = 0; j < half; j++) if (j < count) {
        const vec other = j + half < count ? sum[j + half] : (vec){0};
        sum[j] = CN_INTERLEAVE_LOW(sum[j], other) + CN_INTERLEAVE_HIGH(sum[j], other);
    }
    return sum[0];
}

#endif
