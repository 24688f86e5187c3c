/* Elementary functions on whole vectors. */
#ifndef CNET_VMATH_H
#define CNET_VMATH_H

#include "kernel.h"

/* e^x within 1.5 units in the last place over all floats; overflows to infinity, underflows gradually, keeps NaN.
 *
 * x = n ln 2 + r with |r| <= ln 2 / 2; e^r by a polynomial of degree 6 (Cephes' expf, S. Moshier), 2^n in two factors so
 * that neither the largest nor the denormal results leave the range of an exponent. */
CN_INLINE vec vexp(vec x) {
    const float log2_e = 1.44269504088896341f, ln2_high = 0.693359375f, ln2_low = -2.12194440e-4f;
    const float to_integer = 12582912.0f; /* 1.5 * 2^23: adding it rounds to the nearest integer */
    /* Beyond these the result is infinity or zero already; NaN fails both comparisons and passes. */
    x = blend(x > 89.0f, splat(89.0f), x);
    x = blend(x < -104.0f, splat(-104.0f), x);
    const vec shifted = x * log2_e + to_integer;
    const vec n = shifted - to_integer;
    const ivec exponent = (ivec)shifted - (ivec)splat(to_integer);
    const vec r = x - n * ln2_high - n * ln2_low;
    vec p = splat(1.9875691500e-4f);
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * r * r + r + 1.0f;
    const ivec half = exponent >> 1;
    return p * (vec)((half + 127) << 23) * (vec)((exponent - half + 127) << 23);
}

/* Lane 0 + lane 1 + ..., as a tree: neighbours half a vector apart first. */
CN_INLINE float sum_lanes(vec v) {
    float lanes[CN_LANES];
    store(lanes, v);
    CN_UNROLL for (int n = CN_LANES / 2; n > 0; n /= 2) CN_UNROLL for (int i = 0; i < n; i++) lanes[i] += lanes[i + n];
    return lanes[0];
}

/* The largest lane; any other than a NaN lane where there is one. */
CN_INLINE float max_lanes(vec v) {
    float lanes[CN_LANES];
    store(lanes, v);
    CN_UNROLL for (int n = CN_LANES / 2; n > 0; n /= 2) CN_UNROLL for (int i = 0; i < n; i++)
        lanes[i] = lanes[i] > lanes[i + n] ? lanes[i] : lanes[i + n];
    return lanes[0];
}

#endif
