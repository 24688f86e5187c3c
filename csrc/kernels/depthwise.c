/* Convolution with one input and one output channel a group: no sum over channels, so lanes run over channels. */
#include "kernel.h"

/* Points that share the loads of a weight vector. */
#define POINTS 4

CN_INLINE void depthwise_points(const int count, cn_size lanes, cn_size taps, const float *a, cn_size a_point,
                                const cn_size *offsets, const float *w, cn_size w_row, vec start, float *y,
                                cn_size y_point) {
    vec sum[POINTS];
    CN_UNROLL for (int p = 0; p < count; p++) sum[p] = start;
    for (cn_size t = 0; t < taps; t++) {
        const vec weight = load_lanes(w + t * w_row, lanes);
        CN_UNROLL for (int p = 0; p < count; p++)
            sum[p] += load_lanes(a + offsets[t] + p * a_point, lanes) * weight;
    }
    CN_UNROLL for (int p = 0; p < count; p++) store_lanes(y + p * y_point, sum[p], lanes);
}

/* y[p, c] = bias[c] + sum over t of a[offsets[t] + p * a_point + c] * w[t, c]; bias may be NULL. */
void CN_NAME(depthwise_f32)(cn_size points, cn_size channels, cn_size taps, const float *a, cn_size a_point,
                            const cn_size *offsets, const float *w, const float *bias, float *y, cn_size y_point) {
    for (cn_size c = 0; c < channels; c += CN_LANES) {
        const cn_size lanes = min_size(CN_LANES, channels - c);
        const vec start = bias ? load_lanes(bias + c, lanes) : (vec){0};
        cn_size p = 0;
        for (; p + POINTS <= points; p += POINTS)
            depthwise_points(POINTS, lanes, taps, a + p * a_point + c, a_point, offsets, w + c, channels, start,
                             y + p * y_point + c, y_point);
        for (; p < points; p++)
            depthwise_points(1, lanes, taps, a + p * a_point + c, a_point, offsets, w + c, channels, start,
                             y + p * y_point + c, y_point);
    }
}

/* dw[t, c] += sum over lines and points of a[offsets[t] + line * a_line + point * a_point + c]
 *     * b[line * b_line + point * channels + c]. */
void CN_NAME(depthwise_weight_grad_f32)(cn_size lines, cn_size points, cn_size channels, cn_size taps, const float *a,
                                        cn_size a_line, cn_size a_point, const cn_size *offsets, const float *b,
                                        cn_size b_line, float *dw) {
    for (cn_size t = 0; t < taps; t++)
        for (cn_size c = 0; c < channels; c += CN_LANES) {
            const cn_size lanes = min_size(CN_LANES, channels - c);
            vec sum = load_lanes(dw + t * channels + c, lanes);
            for (cn_size line = 0; line < lines; line++) {
                const float *p = a + offsets[t] + line * a_line + c, *q = b + line * b_line + c;
                for (cn_size i = 0; i < points; i++)
                    sum += load_lanes(p + i * a_point, lanes) * load_lanes(q + i * channels, lanes);
            }
            store_lanes(dw + t * channels + c, sum, lanes);
        }
}
