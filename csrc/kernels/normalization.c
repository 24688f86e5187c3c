/* Batch normalisation: moments of each channel over the rows of a chunk, and the passes that use them.
 *
 * A chunk is small enough to stay in the first-level cache, so its mean is found first and the squares are summed about
 * it: no cancellation, and still one pass over memory. Chunks are combined in float64 by the caller. */
#include "kernel.h"

/* mean[c] and squares[c] = sum over rows of (x[r, c] - mean[c])^2. */
void CN_NAME(moments_f32)(cn_size rows, cn_size channels, const float *x, float *mean, float *squares) {
    const float share = 1.0f / (float)rows;
    for (cn_size c = 0; c < channels; c += CN_LANES) {
        const cn_size lanes = min_size(CN_LANES, channels - c);
        /* Two sums each, so that one addition need not wait for the last. */
        vec even = {0}, odd = {0};
        cn_size r = 0;
        for (; r + 2 <= rows; r += 2) {
            even += load_lanes(x + r * channels + c, lanes);
            odd += load_lanes(x + (r + 1) * channels + c, lanes);
        }
        if (r < rows) even += load_lanes(x + r * channels + c, lanes);
        const vec middle = (even + odd) * share;
        even = odd = (vec){0};
        /* The mean is rounded; what is left about it corrects both. */
        vec rest = {0}, other_rest = {0};
        for (r = 0; r + 2 <= rows; r += 2) {
            const vec a = load_lanes(x + r * channels + c, lanes) - middle;
            const vec b = load_lanes(x + (r + 1) * channels + c, lanes) - middle;
            even += a * a;
            odd += b * b;
            rest += a;
            other_rest += b;
        }
        if (r < rows) {
            const vec a = load_lanes(x + r * channels + c, lanes) - middle;
            even += a * a;
            rest += a;
        }
        rest += other_rest;
        const vec about = even + odd - rest * rest * share;
        store_lanes(mean + c, middle + rest * share, lanes);
        store_lanes(squares + c, blend(about < (vec){0}, (vec){0}, about), lanes);
    }
}

/* y[r, c] = (x[r, c] - mean[c]) * scale[c] + shift[c]; y may be x. */
void CN_NAME(normalise_f32)(cn_size rows, cn_size channels, const float *x, const float *mean, const float *scale,
                            const float *shift, float *y) {
    for (cn_size r = 0; r < rows; r++, x += channels, y += channels) {
        for (cn_size c = 0; c < channels; c += CN_LANES) {
            const cn_size lanes = min_size(CN_LANES, channels - c);
            const vec distance = load_lanes(x + c, lanes) - load_lanes(mean + c, lanes);
            store_lanes(y + c, distance * load_lanes(scale + c, lanes) + load_lanes(shift + c, lanes), lanes);
        }
    }
}

/* total[c] = sum over rows of dy[r, c], and slope[c] = sum over rows of dy[r, c] * (x[r, c] - mean[c]). */
void CN_NAME(normalise_sums_f32)(cn_size rows, cn_size channels, const float *x, const float *dy, const float *mean,
                                 float *total, float *slope) {
    for (cn_size c = 0; c < channels; c += CN_LANES) {
        const cn_size lanes = min_size(CN_LANES, channels - c);
        const vec middle = load_lanes(mean + c, lanes);
        vec sum = {0}, product = {0};
        for (cn_size r = 0; r < rows; r++) {
            const vec g = load_lanes(dy + r * channels + c, lanes);
            sum += g;
            product += g * (load_lanes(x + r * channels + c, lanes) - middle);
        }
        store_lanes(total + c, sum, lanes);
        store_lanes(slope + c, product, lanes);
    }
}

/* dx[r, c] = dy[r, c] * scale[c] - ((x[r, c] - mean[c]) * factor[c] + offset[c]). */
void CN_NAME(normalise_grad_f32)(cn_size rows, cn_size channels, const float *x, const float *dy, const float *mean,
                                 const float *scale, const float *factor, const float *offset, float *dx) {
    for (cn_size r = 0; r < rows; r++, x += channels, dy += channels, dx += channels) {
        for (cn_size c = 0; c < channels; c += CN_LANES) {
            const cn_size lanes = min_size(CN_LANES, channels - c);
            const vec distance = load_lanes(x + c, lanes) - load_lanes(mean + c, lanes);
            store_lanes(dx + c,
                        load_lanes(dy + c, lanes) * load_lanes(scale + c, lanes) -
                            (distance * load_lanes(factor + c, lanes) + load_lanes(offset + c, lanes)),
                        lanes);
        }
    }
}
