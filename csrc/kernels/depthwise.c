/* Convolution with one input and one output channel a group: no sum over channels, so lanes run over channels. And what
 * makes one of a convolution in small groups. */
#include "kernel.h"

/* Points that share the loads of a weight vector, and taps that share those of a gradient: sums enough to hide the latency
 * of a multiply-add, in half the registers of the smallest instruction set. */
#define SHARED 8

/* What is left of `count` after groups of 8 is done in groups of 4, 2 and 1. */
#define IN_GROUPS(count, M)                                                                                           \
    do {                                                                                                              \
        cn_size i_ = 0;                                                                                               \
        for (; i_ + SHARED <= (count); i_ += SHARED) M(SHARED, i_);                                                   \
        if ((count)-i_ >= 4) {                                                                                        \
            M(4, i_);                                                                                                 \
            i_ += 4;                                                                                                  \
        }                                                                                                             \
        if ((count)-i_ >= 2) {                                                                                        \
            M(2, i_);                                                                                                 \
            i_ += 2;                                                                                                  \
        }                                                                                                             \
        if (i_ < (count)) M(1, i_);                                                                                   \
    } while (0)

CN_INLINE void depthwise_points(const int count, cn_size lanes, cn_size taps, const float *a, cn_size a_point,
                                const cn_size *offsets, const float *w, cn_size w_row, vec start, float *y,
                                cn_size y_point) {
    vec sum[SHARED];
    CN_UNROLL for (int p = 0; p < count; p++) sum[p] = start;
    for (cn_size t = 0; t < taps; t++) {
        const vec weight = load_lanes(w + t * w_row, lanes);
        const float *from = a + offsets[t];
        CN_UNROLL for (int p = 0; p < count; p++) {
            sum[p] += load_lanes(from, lanes) * weight;
            CN_WALK(from, a_point);
        }
    }
    CN_UNROLL for (int p = 0; p < count; p++) store_lanes(y + p * y_point, sum[p], lanes);
}

CN_INLINE void depthwise_vector(cn_size lanes, cn_size points, cn_size channels, cn_size taps, const float *a,
                                cn_size a_point, const cn_size *offsets, const float *w, const float *bias, float *y,
                                cn_size y_point) {
    const vec start = bias ? load_lanes(bias, lanes) : (vec){0};
#define POINTS(count, p)                                                                                              \
    depthwise_points(count, lanes, taps, a + (p)*a_point, a_point, offsets, w, channels, start, y + (p)*y_point, y_point)
    IN_GROUPS(points, POINTS);
#undef POINTS
}

/* y[p, c] = bias[c] + sum over t of a[offsets[t] + p * a_point + c] * w[t, c]; bias may be NULL. */
void CN_NAME(depthwise_f32)(cn_size points, cn_size channels, cn_size taps, const float *a, cn_size a_point,
                            const cn_size *offsets, const float *w, const float *bias, float *y, cn_size y_point) {
#define VECTOR(c, lanes)                                                                                              \
    depthwise_vector(lanes, points, channels, taps, a + (c), a_point, offsets, w + (c), bias ? bias + (c) : NULL,     \
                     y + (c), y_point)
    CN_FOR_VECTORS(channels, VECTOR);
#undef VECTOR
}

CN_INLINE void depthwise_taps(const int count, cn_size lanes, cn_size lines, cn_size points, cn_size channels,
                              const float *a, cn_size a_line, cn_size a_point, const cn_size *offsets, const float *b,
                              cn_size b_line, float *dw) {
    vec sum[SHARED];
    CN_UNROLL for (int t = 0; t < count; t++) sum[t] = load_lanes(dw + t * channels, lanes);
    for (cn_size line = 0; line < lines; line++) {
        const float *from = a + line * a_line, *gradient = b + line * b_line;
        for (cn_size i = 0; i < points; i++, from += a_point, gradient += channels) {
            const vec g = load_lanes(gradient, lanes);
            CN_UNROLL for (int t = 0; t < count; t++) sum[t] += load_lanes(from + offsets[t], lanes) * g;
        }
    }
    CN_UNROLL for (int t = 0; t < count; t++) store_lanes(dw + t * channels, sum[t], lanes);
}

CN_INLINE void depthwise_grad_vector(cn_size lanes, cn_size lines, cn_size points, cn_size channels, cn_size taps,
                                     const float *a, cn_size a_line, cn_size a_point, const cn_size *offsets,
                                     const float *b, cn_size b_line, float *dw) {
#define TAPS(count, t)                                                                                                \
    depthwise_taps(count, lanes, lines, points, channels, a, a_line, a_point, offsets + (t), b, b_line,               \
                   dw + (t)*channels)
    IN_GROUPS(taps, TAPS);
#undef TAPS
}

/* dw[t, c] += sum over lines and points of a[offsets[t] + line * a_line + point * a_point + c]
 *     * b[line * b_line + point * channels + c]. */
void CN_NAME(depthwise_weight_grad_f32)(cn_size lines, cn_size points, cn_size channels, cn_size taps, const float *a,
                                        cn_size a_line, cn_size a_point, const cn_size *offsets, const float *b,
                                        cn_size b_line, float *dw) {
#define VECTOR(c, lanes)                                                                                              \
    depthwise_grad_vector(lanes, lines, points, channels, taps, a + (c), a_line, a_point, offsets, b + (c), b_line,   \
                          dw + (c))
    CN_FOR_VECTORS(channels, VECTOR);
#undef VECTOR
}

/* y[p, i, g, j] = x[p, g, i] for i < depth, g < groups and j < breadth. Writes up to a vector beyond the end. */
void CN_NAME(spread_f32)(cn_size points, cn_size groups, cn_size depth, cn_size breadth, const float *x, float *y) {
    for (cn_size p = 0; p < points; p++, x += groups * depth)
        for (cn_size i = 0; i < depth; i++)
            for (cn_size g = 0; g < groups; g++, y += breadth) {
                const vec value = splat(x[g * depth + i]);
                /* What is written too far is written again by the next. */
                for (cn_size j = 0; j < breadth; j += CN_LANES) store(y + j, value);
            }
}
