/* ReLU and its relatives, forward and backward. Each is one pass whose arithmetic hides behind its memory traffic. */
#include "kernel.h"

#include <string.h>

/* Written as "zero where x <= 0" and not as a maximum, so that NaN passes through, forward and backward. */
CN_INLINE vec zero_below(vec x, vec value) { return blend(x <= (vec){0}, (vec){0}, value); }

CN_INLINE vec scale_below(vec x, vec slope, vec value) { return blend(x > (vec){0}, value, slope * value); }

/* y[i] = 0 where x[i] <= 0, else x[i]. */
void CN_NAME(relu_f32)(cn_size size, const float *x, float *y) {
    cn_size i = 0;
    for (; i + CN_LANES <= size; i += CN_LANES) {
        const vec value = load(x + i);
        store(y + i, zero_below(value, value));
    }
    const vec value = load_part(x + i, size - i, 0);
    store_part(y + i, zero_below(value, value), size - i);
}

/* dx[i] = 0 where x[i] <= 0, else dy[i]. x may be the output of relu_f32: it is <= 0 in the same places. */
void CN_NAME(relu_grad_f32)(cn_size size, const float *x, const float *dy, float *dx) {
    cn_size i = 0;
    for (; i + CN_LANES <= size; i += CN_LANES) store(dx + i, zero_below(load(x + i), load(dy + i)));
    const cn_size n = size - i;
    store_part(dx + i, zero_below(load_part(x + i, n, 0), load_part(dy + i, n, 0)), n);
}

/* y[i] = x[i] where x[i] > 0, else slope * x[i]. */
void CN_NAME(leaky_relu_f32)(cn_size size, float slope, const float *x, float *y) {
    cn_size i = 0;
    for (; i + CN_LANES <= size; i += CN_LANES) {
        const vec value = load(x + i);
        store(y + i, scale_below(value, splat(slope), value));
    }
    const vec value = load_part(x + i, size - i, 0);
    store_part(y + i, scale_below(value, splat(slope), value), size - i);
}

/* dx[i] = dy[i] where x[i] > 0, else slope * dy[i]. */
void CN_NAME(leaky_relu_grad_f32)(cn_size size, float slope, const float *x, const float *dy, float *dx) {
    cn_size i = 0;
    for (; i + CN_LANES <= size; i += CN_LANES)
        store(dx + i, scale_below(load(x + i), splat(slope), load(dy + i)));
    const cn_size n = size - i;
    store_part(dx + i, scale_below(load_part(x + i, n, 0), splat(slope), load_part(dy + i, n, 0)), n);
}

/* A row of few channels would be all tail. A multiple of CN_LANES of them, end to end, are whole vectors: PReLU takes
 * that many rows for one wide row, with the slopes repeated, and enough of them that its sums are independent. From
 * this many channels on a tail a row costs less than the repetition. */
#define NARROW 32
#define WIDE (NARROW * CN_LANES)

CN_INLINE cn_size rows_in_one(cn_size channels) {
    if (channels % CN_LANES == 0 || channels >= NARROW) return 1;
    return channels < NARROW / 2 ? NARROW / 2 / channels * CN_LANES : CN_LANES;
}

/* The slopes of a wide row: `slope` itself, or its repetition in `repeated`. */
CN_INLINE const float *widen(cn_size channels, cn_size width, const float *slope, float *repeated) {
    if (width == channels) return slope;
    memcpy(repeated, slope, channels * sizeof(float));
    for (cn_size n = channels; n < width; n *= 2)
        memcpy(repeated + n, repeated, min_size(n, width - n) * sizeof(float));
    return repeated;
}

static void prelu_row(cn_size width, const float *slope, const float *x, float *y) {
    cn_size i = 0;
    for (; i + CN_LANES <= width; i += CN_LANES) {
        const vec value = load(x + i);
        store(y + i, scale_below(value, load(slope + i), value));
    }
    if (i == width) return;
    const cn_size n = width - i;
    const vec value = load_part(x + i, n, 0);
    store_part(y + i, scale_below(value, load_part(slope + i, n, 0), value), n);
}

/* y[r, c] = x[r, c] where x[r, c] > 0, else slope[c] * x[r, c]. */
void CN_NAME(prelu_f32)(cn_size rows, cn_size channels, const float *slope, const float *x, float *y) {
    float repeated[WIDE];
    const cn_size width = rows_in_one(channels) * channels, size = rows * channels;
    const float *wide = widen(channels, width, slope, repeated);
    for (cn_size i = 0; i < size; i += width) prelu_row(min_size(width, size - i), wide, x + i, y + i);
}

/* The sums of a row's columns stay in memory, in the first-level cache: there are as many as columns. */
CN_INLINE vec prelu_grad_vector(vec slope, vec x, vec dy, vec *sum) {
    *sum += blend(x > (vec){0}, (vec){0}, x * dy);
    return scale_below(x, slope, dy);
}

CN_INLINE void prelu_grad_row(const int with_dx, cn_size width, const float *slope, const float *x, const float *dy,
                              float *dx, float *sums) {
    cn_size i = 0;
    for (; i + CN_LANES <= width; i += CN_LANES) {
        vec sum = load(sums + i);
        const vec result = prelu_grad_vector(load(slope + i), load(x + i), load(dy + i), &sum);
        store(sums + i, sum);
        if (with_dx) store(dx + i, result);
    }
    if (i == width) return;
    const cn_size n = width - i;
    vec sum = load_part(sums + i, n, 0);
    const vec result =
        prelu_grad_vector(load_part(slope + i, n, 0), load_part(x + i, n, 0), load_part(dy + i, n, 0), &sum);
    store_part(sums + i, sum, n);
    if (with_dx) store_part(dx + i, result, n);
}

/* dx[r, c] = dy[r, c] where x[r, c] > 0, else slope[c] * dy[r, c]; dx may be NULL.
 * dslope[c] = sum over r of x[r, c] * dy[r, c] where x[r, c] is not > 0. */
void CN_NAME(prelu_grad_f32)(cn_size rows, cn_size channels, const float *slope, const float *x, const float *dy,
                             float *dx, float *dslope) {
    float repeated[WIDE], wide_sums[WIDE];
    const cn_size width = rows_in_one(channels) * channels, size = rows * channels;
    const float *wide = widen(channels, width, slope, repeated);
    float *sums = width == channels ? dslope : wide_sums;
    memset(sums, 0, width * sizeof(float));
    for (cn_size i = 0; i < size; i += width) {
        const cn_size n = min_size(width, size - i);
        if (dx)
            prelu_grad_row(1, n, wide, x + i, dy + i, dx + i, sums);
        else
            prelu_grad_row(0, n, wide, x + i, dy + i, NULL, sums);
    }
    if (width == channels) return;
    memcpy(dslope, sums, channels * sizeof(float));
    for (cn_size i = channels; i < width; i += channels)
        for (cn_size c = 0; c < channels; c++) dslope[c] += sums[i + c];
}
