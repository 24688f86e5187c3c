/* Batch normalisation: moments of each channel over the rows of a chunk, and the passes that use them.
 *
 * A chunk is small enough to stay in the first-level cache, so its mean is found first and the squares are summed about
 * it: no cancellation, and still one pass over memory. Chunks are combined in float64. */
#include "kernel.h"

/* Sums that advance together, to hide the latency of an addition: of as many vectors of channels, which makes whole
 * stretches of memory be read, or of as many rows where there are not so many channels. */
#define TOGETHER 4

/* M(r, j) for each row r, j being which of `lines` rows of sums it goes to. */
#define FOR_EACH_ROW(M)                                                                                               \
    do {                                                                                                              \
        cn_size r_ = 0;                                                                                               \
        for (; r_ + lines <= rows; r_ += lines) CN_UNROLL for (int j_ = 0; j_ < lines; j_++) M(r_ + j_, j_);          \
        for (; r_ < rows; r_++) M(r_, 0);                                                                             \
    } while (0)

CN_INLINE void moments(const int vectors, cn_size lanes, cn_size rows, cn_size channels, const float *x, float *mean,
                       float *squares) {
    const int lines = TOGETHER / vectors;
    const float share = 1.0f / (float)rows;
    vec sum[TOGETHER], rest[TOGETHER], about[TOGETHER];
    CN_UNROLL for (int i = 0; i < TOGETHER; i++) sum[i] = rest[i] = about[i] = (vec){0};
#define ADD(r, j)                                                                                                     \
    CN_UNROLL for (int v = 0; v < vectors; v++) sum[(j)*vectors + v] +=                                               \
        load_lanes(x + (r)*channels + v * CN_LANES, lanes)
    FOR_EACH_ROW(ADD);
#undef ADD
    CN_UNROLL for (int i = vectors; i < TOGETHER; i++) sum[i % vectors] += sum[i];
    CN_UNROLL for (int v = 0; v < vectors; v++) sum[v] *= share;
    /* The mean is rounded; what is left about it corrects both. */
#define ADD(r, j)                                                                                                     \
    CN_UNROLL for (int v = 0; v < vectors; v++) {                                                                     \
        const vec distance = load_lanes(x + (r)*channels + v * CN_LANES, lanes) - sum[v];                             \
        rest[(j)*vectors + v] += distance;                                                                            \
        about[(j)*vectors + v] += distance * distance;                                                                \
    }
    FOR_EACH_ROW(ADD);
#undef ADD
    CN_UNROLL for (int i = vectors; i < TOGETHER; i++) {
        rest[i % vectors] += rest[i];
        about[i % vectors] += about[i];
    }
    CN_UNROLL for (int v = 0; v < vectors; v++) {
        const vec squared = about[v] - rest[v] * rest[v] * share;
        store_lanes(mean + v * CN_LANES, sum[v] + rest[v] * share, lanes);
        store_lanes(squares + v * CN_LANES, blend(squared < (vec){0}, (vec){0}, squared), lanes);
    }
}

/* mean[c] and squares[c] = sum over rows of (x[r, c] - mean[c])^2. */
void CN_NAME(moments_f32)(cn_size rows, cn_size channels, const float *x, float *mean, float *squares) {
    cn_size c = 0;
    for (; c + TOGETHER * CN_LANES <= channels; c += TOGETHER * CN_LANES)
        moments(TOGETHER, CN_LANES, rows, channels, x + c, mean + c, squares + c);
    for (; c + CN_LANES <= channels; c += CN_LANES) moments(1, CN_LANES, rows, channels, x + c, mean + c, squares + c);
    if (c < channels) moments(1, channels - c, rows, channels, x + c, mean + c, squares + c);
}

/* Mean and biased variance of each channel over all rows, from those of chunks: `chunks` holds, for chunk after chunk,
 * the mean of each folded channel and then the squares about it. A folded row is `folds` rows side by side; a chunk has
 * `size` of them, the last perhaps fewer, and the rows that are left over are a chunk that is not folded. The squares
 * between chunks are those about the joint mean. */
void CN_NAME(combine_moments_f32)(cn_size rows, cn_size channels, cn_size folds, cn_size size, const float *chunks,
                                  float *mean, float *variance) {
    const cn_size folded = rows / folds, rest = rows % folds, width = folds * channels;
    const cn_size count = (folded + size - 1) / size;
    for (cn_size c = 0; c < channels; c += CN_LANES) {
        const cn_size lanes = min_size(CN_LANES, channels - c);
        double middle[CN_LANES] = {0}, squares[CN_LANES] = {0};
/* M(part, rows of it, step from means to squares) for each part of each chunk. */
#define FOR_EACH_PART(M)                                                                                              \
    do {                                                                                                              \
        for (cn_size i = 0; i < count; i++)                                                                           \
            for (cn_size f = 0; f < folds; f++)                                                                       \
                M(chunks + 2 * i * width + f * channels + c, min_size(size, folded - i * size), width);               \
        if (rest) M(chunks + 2 * count * width + c, rest, channels);                                                  \
    } while (0)
#define ADD(part, number, step)                                                                                       \
    for (cn_size l = 0; l < lanes; l++) middle[l] += (double)(number) / (double)rows * (part)[l]
        FOR_EACH_PART(ADD);
#undef ADD
#define ADD(part, number, step)                                                                                       \
    for (cn_size l = 0; l < lanes; l++) {                                                                             \
        const double distance = (part)[l] - middle[l];                                                                \
        squares[l] += (part)[(step) + l] + (double)(number) * distance * distance;                                    \
    }
        FOR_EACH_PART(ADD);
#undef ADD
#undef FOR_EACH_PART
        for (cn_size l = 0; l < lanes; l++) {
            mean[c + l] = (float)middle[l];
            variance[c + l] = (float)(squares[l] / (double)rows);
        }
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
