/* Convolution with few output channels: lanes run along the sum, and every output is a dot product. */
#include "shuffle.h"

/* Channels that share the loads of a point. Points times channels are as many sums as a vector has lanes, so that adding
 * up their lanes costs two shuffles a product. */
#define MOST_CHANNELS 4
#define GROUPS ((CN_LANES + 2) / 3)

/* One step of all products, for `lanes` terms of each sum. Rows are reached from one pointer in three, as in gemm.c. */
CN_INLINE void dots_step(const int points, const int channels, cn_size lanes, const float *const *p, cn_size a_point,
                         const float *w, cn_size w_row, vec *sum) {
    vec weight[MOST_CHANNELS];
    CN_UNROLL for (int o = 0; o < channels; o++) weight[o] = load_lanes(w + o * w_row, lanes);
    CN_UNROLL for (int i = 0; i < points; i++) {
        const vec x = load_lanes(p[i / 3] + i % 3 * a_point, lanes);
        CN_UNROLL for (int o = 0; o < channels; o++) sum[i * channels + o] += x * weight[o];
    }
}

CN_INLINE void dots_tile(const int points, const int channels, const float *a, cn_size a_point,
                         const cn_size *segments, cn_size segment_count, cn_size run, const float *w, cn_size w_row,
                         const float *bias, float *y, cn_size y_point) {
    const int sums = points * channels;
    vec sum[CN_LANES];
    float result[CN_LANES];
    CN_UNROLL for (int j = 0; j < sums; j++) sum[j] = (vec){0};
    for (cn_size s = 0; s < segment_count; s++, w += run) {
        const float *p[GROUPS];
        CN_UNROLL for (int g = 0; 3 * g < points; g++) p[g] = a + segments[s] + 3 * g * a_point;
        cn_size i = 0;
        for (; i + CN_LANES <= run; i += CN_LANES) {
            dots_step(points, channels, CN_LANES, p, a_point, w + i, w_row, sum);
            CN_UNROLL for (int g = 0; 3 * g < points; g++) p[g] += CN_LANES;
        }
        if (i < run) dots_step(points, channels, run - i, p, a_point, w + i, w_row, sum);
    }
    store(result, sums_of_lanes(sums, sum));
    for (int i = 0; i < points; i++, y += y_point)
        for (int o = 0; o < channels; o++) y[o] = result[i * channels + o] + (bias ? bias[o] : 0);
}

/* As many points at once as there are sums for, then a quarter as many, then one by one. */
CN_INLINE void dots(const int channels, cn_size points, const float *a, cn_size a_point, const cn_size *segments,
                    cn_size segment_count, cn_size run, const float *w, cn_size w_row, const float *bias, float *y,
                    cn_size y_point) {
    const int most = CN_LANES / (channels == 3 ? 4 : channels), few = most / 4;
    cn_size i = 0;
#define TILES(n)                                                                                                      \
    for (; i + (n) <= points; i += (n))                                                                               \
        dots_tile(n, channels, a + i * a_point, a_point, segments, segment_count, run, w, w_row, bias, y + i * y_point, \
                  y_point)
    TILES(most);
    if (few > 1) TILES(few);
    TILES(1);
#undef TILES
}

/* y[p, o] = bias[o] + sum over s and i of a[segments[s] + p * a_point + i] * w[o * w_row + s * run + i]
 * for p < points and o < channels; bias may be NULL. */
void CN_NAME(dots_f32)(cn_size points, cn_size channels, const float *a, cn_size a_point, const cn_size *segments,
                       cn_size segment_count, cn_size run, const float *w, cn_size w_row, const float *bias, float *y,
                       cn_size y_point) {
    /* As even as can be: 5 channels are 2 + 3. */
    const cn_size parts = (channels + MOST_CHANNELS - 1) / MOST_CHANNELS;
    for (cn_size part = 0; part < parts; part++) {
        const cn_size o = channels * part / parts;
        const float *from = w + o * w_row, *start = bias ? bias + o : NULL;
#define CHANNELS(n)                                                                                                   \
    case n:                                                                                                           \
        dots(n, points, a, a_point, segments, segment_count, run, from, w_row, start, y + o, y_point);                \
        break;
        switch (channels * (part + 1) / parts - o) { CHANNELS(1) CHANNELS(2) CHANNELS(3) CHANNELS(4) }
#undef CHANNELS
    }
}
