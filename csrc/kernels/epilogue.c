/* What follows a convolution before its result leaves the cache: normalisation, activation and max-pooling of a row of
 * windows, and the way back. The windows do not overlap and lie inside the image. */
#include "kernel.h"

#include <string.h>

/* Small numbers as one byte each, for the first n <= CN_LANES lanes. GCC 12 converts between vectors of bytes and of
 * integers byte by byte, so that this is written for each instruction set. */
#if defined(__AVX512BW__) && CN_LANES == 16
CN_INLINE ivec load_bytes(const uint8_t *p, cn_size n) {
    return (ivec)_mm512_cvtepu8_epi32(_mm_maskz_loadu_epi8(CN_FIRST(n), p));
}
CN_INLINE void store_bytes(uint8_t *p, ivec v, cn_size n) {
    _mm512_mask_cvtepi32_storeu_epi8(p, CN_FIRST(n), (__m512i)v);
}
#elif defined(__AVX2__) && CN_LANES == 8
/* n bytes from two loads, or in two stores, that may overlap: a copy of n bytes would be a call. */
#define PARTS_OF_BYTES(M)                                                                                             \
    if (n >= 4)                                                                                                       \
        M(uint32_t)                                                                                                   \
    else if (n >= 2)                                                                                                  \
        M(uint16_t)                                                                                                   \
    else                                                                                                              \
        M(uint8_t)

CN_INLINE ivec load_bytes(const uint8_t *p, cn_size n) {
    uint64_t all;
#define LOAD(type)                                                                                                    \
    {                                                                                                                 \
        type first, last;                                                                                             \
        memcpy(&first, p, sizeof first);                                                                              \
        memcpy(&last, p + n - (cn_size)sizeof last, sizeof last);                                                     \
        all = first | (uint64_t)last << 8 * (n - (cn_size)sizeof last);                                               \
    }
    PARTS_OF_BYTES(LOAD)
#undef LOAD
    return (ivec)_mm256_cvtepu8_epi32(_mm_cvtsi64_si128((int64_t)all));
}
CN_INLINE void store_bytes(uint8_t *p, ivec v, cn_size n) {
    const __m256i shorts = _mm256_packus_epi32((__m256i)v, (__m256i)v);
    const __m256i halves = _mm256_packus_epi16(shorts, shorts);
    const uint64_t low = (uint32_t)_mm256_extract_epi32(halves, 0), high = (uint32_t)_mm256_extract_epi32(halves, 4);
    const uint64_t all = low | high << 32;
#define STORE(type)                                                                                                   \
    {                                                                                                                 \
        const type first = (type)all, last = (type)(all >> 8 * (n - (cn_size)sizeof last));                           \
        memcpy(p, &first, sizeof first);                                                                              \
        memcpy(p + n - (cn_size)sizeof last, &last, sizeof last);                                                     \
    }
    PARTS_OF_BYTES(STORE)
#undef STORE
}
#else
CN_INLINE ivec load_bytes(const uint8_t *p, cn_size n) {
    ivec v = {0};
    for (cn_size i = 0; i < n; i++) v[i] = p[i];
    return v;
}
CN_INLINE void store_bytes(uint8_t *p, ivec v, cn_size n) {
    for (cn_size i = 0; i < n; i++) p[i] = (uint8_t)v[i];
}
#endif

/* The parameters of a vector of channels; what an epilogue does without is left out when the calls are unrolled. */
typedef struct channel_part {
    vec mean, scale, shift, slope;
} channel_part;

CN_INLINE channel_part load_part_of(const cn_epilogue *e, const int activation, const int normalised, cn_size channel,
                                    cn_size lanes) {
    channel_part p = {{0}, {0}, {0}, {0}};
    if (normalised) {
        p.mean = load_lanes(e->mean + channel, lanes);
        p.scale = load_lanes(e->scale + channel, lanes);
        p.shift = load_lanes(e->shift + channel, lanes);
    }
    if (activation == CN_SLOPE) p.slope = load_lanes(e->slope + channel, lanes);
    return p;
}

CN_INLINE vec normalise(const int normalised, const channel_part *p, vec x) {
    if (normalised) return (x - p->mean) * p->scale + p->shift;
    return x;
}

CN_INLINE vec activate(const int activation, const channel_part *p, vec x) {
    if (activation == CN_RELU) return blend(x <= (vec){0}, (vec){0}, x);
    if (activation == CN_SLOPE) return blend(x > (vec){0}, x, p->slope * x);
    return x;
}

/* One vector of channels of one window. ReLU and the identity never exchange the order of two numbers, so they wait for
 * the maximum; a slope may be negative. "Greater, or NaN" in the order of the taps: the first maximum wins, and the last
 * NaN, as in maxpool2d.c. */
CN_INLINE void window(const int activation, const int normalised, const cn_size rows, const cn_size columns,
                      const channel_part *p, const float *x, cn_size x_row, cn_size x_pixel, cn_size lanes, float *y,
                      uint8_t *index, float *before) {
    vec raw = load_lanes(x, lanes), most = normalise(normalised, p, raw);
    ivec winner = {0};
    if (activation == CN_SLOPE) most = activate(activation, p, most);
    for (cn_size r = 0; r < rows; r++)
        for (cn_size k = r == 0; k < columns; k++) {
            const vec other = load_lanes(x + r * x_row + k * x_pixel, lanes);
            vec value = normalise(normalised, p, other);
            if (activation == CN_SLOPE) value = activate(activation, p, value);
            const ivec wins = (value > most) | (value != value), tap = (int32_t)(r * columns + k) - (ivec){0};
            most = blend(wins, value, most);
            winner = (wins & tap) | (~wins & winner);
            if (before) raw = blend(wins, other, raw);
        }
    store_lanes(y, activation == CN_SLOPE ? most : activate(activation, p, most), lanes);
    if (index) store_bytes(index, winner, lanes);
    if (before) store_lanes(before, raw, lanes);
}

CN_INLINE void epilogue(const int activation, const int normalised, const cn_size rows, const cn_size columns,
                        const cn_epilogue *e, cn_size windows, cn_size width, cn_size channel, const float *x,
                        cn_size x_row, cn_size x_pixel, float *y, uint8_t *index, float *before, cn_size y_pixel) {
#define VECTOR(c, lanes)                                                                                              \
    do {                                                                                                              \
        const channel_part p = load_part_of(e, activation, normalised, channel + (c), lanes);                         \
        for (cn_size j = 0; j < windows; j++) {                                                                       \
            const cn_size to = j * y_pixel + (c);                                                                     \
            window(activation, normalised, rows, columns, &p, x + j * columns * x_pixel + (c), x_row, x_pixel, lanes, \
                   y + to, index ? index + to : NULL, before ? before + to : NULL);                                   \
        }                                                                                                             \
    } while (0)
    CN_FOR_VECTORS(width, VECTOR);
#undef VECTOR
}

/* Calls M(activation, normalised, rows, columns) with all but unusual windows as constants. */
#define WITH_WINDOW(M, activation, normalised)                                                                        \
    if (e->pool_rows == 1 && e->pool_columns == 1)                                                                    \
        M(activation, normalised, 1, 1);                                                                              \
    else if (e->pool_rows == 2 && e->pool_columns == 2)                                                               \
        M(activation, normalised, 2, 2);                                                                              \
    else                                                                                                              \
        M(activation, normalised, e->pool_rows, e->pool_columns);
#define WITH_NORMALISATION(M, activation)                                                                             \
    if (e->mean) {                                                                                                    \
        M(activation, 1);                                                                                             \
    } else {                                                                                                          \
        M(activation, 0);                                                                                             \
    }
/* Calls M(activation, normalised) with constants. */
#define WITH_EPILOGUE(M)                                                                                              \
    if (e->activation == CN_RELU) {                                                                                   \
        WITH_NORMALISATION(M, CN_RELU)                                                                                \
    } else if (e->activation == CN_SLOPE) {                                                                           \
        WITH_NORMALISATION(M, CN_SLOPE)                                                                               \
    } else {                                                                                                          \
        WITH_NORMALISATION(M, CN_IDENTITY)                                                                            \
    }

/* A row of windows, for channels channel .. channel + width - 1: y = the maximum over the window of
 * activation((x - mean) * scale + shift), index = the tap it came from, before = the x it came from. x begins at these
 * channels of the first tap; so do y, index and before, of which the last two may be NULL. */
void CN_NAME(epilogue_f32)(const cn_epilogue *e, cn_size windows, cn_size width, cn_size channel, const float *x,
                           cn_size x_row, cn_size x_pixel, float *y, uint8_t *index, float *before, cn_size y_pixel) {
#define ROW(activation, normalised, rows, columns)                                                                    \
    epilogue(activation, normalised, rows, columns, e, windows, width, channel, x, x_row, x_pixel, y, index, before,  \
             y_pixel)
#define ROW_OF(activation, normalised) WITH_WINDOW(ROW, activation, normalised)
    WITH_EPILOGUE(ROW_OF)
#undef ROW_OF
#undef ROW
}

/* The gradient at the winner of a window, before the normalisation, and what the activation's slope gets from it. `x` is
 * before[...], or y where there is no `before`: ReLU's input and output are positive in the same places. */
CN_INLINE vec through_activation(const int activation, const int normalised, const channel_part *p, vec x, vec dy,
                                 vec *dslope) {
    if (activation == CN_RELU) return blend(normalise(normalised, p, x) <= (vec){0}, (vec){0}, dy);
    if (activation == CN_SLOPE) {
        const vec input = normalise(normalised, p, x);
        const ivec above = input > (vec){0};
        *dslope += blend(above, (vec){0}, input * dy);
        return blend(above, dy, p->slope * dy);
    }
    return dy;
}

/* Vectors of channels that are summed together: whole stretches of memory are read, and no addition waits for the last. */
#define TOGETHER 4

CN_INLINE void sums_of_vectors(const int activation, const int normalised, const int vectors, const cn_epilogue *e,
                               cn_size pixels, cn_size channels, cn_size c, cn_size lanes, const float *dy,
                               const float *x, float *total, float *product, float *dslope) {
    channel_part p[TOGETHER];
    vec sum[TOGETHER], weighted[TOGETHER], slope[TOGETHER];
    CN_UNROLL for (int v = 0; v < vectors; v++) {
        p[v] = load_part_of(e, activation, normalised, c + v * CN_LANES, lanes);
        sum[v] = weighted[v] = slope[v] = (vec){0};
    }
    for (cn_size i = 0; i < pixels; i++)
        CN_UNROLL for (int v = 0; v < vectors; v++) {
            const cn_size at = i * channels + c + v * CN_LANES;
            const vec value = x ? load_lanes(x + at, lanes) : (vec){0};
            const vec g =
                through_activation(activation, normalised, &p[v], value, load_lanes(dy + at, lanes), &slope[v]);
            sum[v] += g;
            if (normalised) weighted[v] += g * (value - p[v].mean);
        }
    CN_UNROLL for (int v = 0; v < vectors; v++) {
        const cn_size at = c + v * CN_LANES;
        store_lanes(total + at, sum[v], lanes);
        if (normalised) store_lanes(product + at, weighted[v], lanes);
        if (activation == CN_SLOPE) store_lanes(dslope + at, slope[v], lanes);
    }
}

CN_INLINE void epilogue_sums(const int activation, const int normalised, const cn_epilogue *e, cn_size pixels,
                             cn_size channels, const float *dy, const float *x, float *total, float *product,
                             float *dslope) {
    cn_size c = 0;
#define SUMS(vectors, lanes)                                                                                          \
    sums_of_vectors(activation, normalised, vectors, e, pixels, channels, c, lanes, dy, x, total, product, dslope)
    for (; c + TOGETHER * CN_LANES <= channels; c += TOGETHER * CN_LANES) SUMS(TOGETHER, CN_LANES);
    for (; c + CN_LANES <= channels; c += CN_LANES) SUMS(1, CN_LANES);
    if (c < channels) SUMS(1, channels - c);
#undef SUMS
}

/* Sums over windows ("pixels" of y) of the gradient g behind the activation: total[c] = sum of g,
 * product[c] = sum of g * (x - mean) where there is a mean, dslope[c] = sum of input * dy below zero where there is a
 * slope. x[i, c] is `before` of the forward pass, or y where that was not kept; NULL without an activation. */
void CN_NAME(epilogue_sums_f32)(const cn_epilogue *e, cn_size pixels, cn_size channels, const float *dy, const float *x,
                                float *total, float *product, float *dslope) {
#define SUMS(activation, normalised)                                                                                  \
    epilogue_sums(activation, normalised, e, pixels, channels, dy, x, total, product, dslope)
    WITH_EPILOGUE(SUMS)
#undef SUMS
}

CN_INLINE void spread(const int activation, const int normalised, const cn_size columns, cn_size first, cn_size last,
                      const channel_part *p, vec factor, vec offset, cn_size channels, const float *dy, const float *x,
                      const uint8_t *index, const float *raw, cn_size raw_row, cn_size lanes, float *dx,
                      cn_size dx_row) {
    vec unused = {0};
    const vec value = x ? load_lanes(x, lanes) : (vec){0};
    vec g = through_activation(activation, normalised, p, value, load_lanes(dy, lanes), &unused);
    if (normalised) g *= p->scale;
    const ivec winner = index ? load_bytes(index, lanes) : (ivec){0};
    for (cn_size r = first; r < last; r++)
        for (cn_size k = 0; k < columns; k++) {
            const ivec tap = (int32_t)(r * columns + k) - (ivec){0};
            vec here = index ? blend(winner == tap, g, (vec){0}) : g;
            if (normalised)
                here -= (load_lanes(raw + r * raw_row + k * channels, lanes) - p->mean) * factor + offset;
            store_lanes(dx + r * dx_row + k * channels, here, lanes);
        }
}

CN_INLINE void epilogue_grad(const int activation, const int normalised, const cn_size columns, cn_size first,
                             cn_size last, const cn_epilogue *e, cn_size windows, cn_size channels, const float *dy,
                             const float *x, const uint8_t *index, const float *raw, cn_size raw_row,
                             const float *factor, const float *offset, float *dx, cn_size dx_row) {
#define VECTOR(c, lanes)                                                                                              \
    do {                                                                                                              \
        const channel_part p = load_part_of(e, activation, normalised, c, lanes);                                     \
        const vec slope = normalised ? load_lanes(factor + (c), lanes) : (vec){0};                                    \
        const vec shift = normalised ? load_lanes(offset + (c), lanes) : (vec){0};                                    \
        for (cn_size j = 0; j < windows; j++) {                                                                       \
            const cn_size from = j * channels + (c), to = from + j * (columns - 1) * channels;                        \
            spread(activation, normalised, columns, first, last, &p, slope, shift, channels, dy + from,               \
                   x ? x + from : NULL, index ? index + from : NULL, raw + to, raw_row, lanes, dx + to, dx_row);      \
        }                                                                                                             \
    } while (0)
    CN_FOR_VECTORS(channels, VECTOR);
#undef VECTOR
}

/* dx of a row of windows, of which the rows first .. last - 1 are wanted: each window's gradient, behind the activation,
 * at its winner and zero elsewhere; everywhere if index is NULL. With a normalisation
 * dx = g * scale - ((raw - mean) * factor + offset), where raw is what the forward pass had for x. Pixels of dx and raw
 * have `channels` floats, and rows dx_row and raw_row; x is as in epilogue_sums_f32. */
void CN_NAME(epilogue_grad_f32)(const cn_epilogue *e, cn_size windows, cn_size channels, cn_size first, cn_size last,
                                const float *dy, const float *x, const uint8_t *index, const float *raw,
                                cn_size raw_row, const float *factor, const float *offset, float *dx, cn_size dx_row) {
    /* The columns of a window are a constant where they usually are; which rows are wanted may differ. */
#define GRAD(activation, normalised, columns)                                                                         \
    epilogue_grad(activation, normalised, columns, first, last, e, windows, channels, dy, x, index, raw, raw_row,     \
                  factor, offset, dx, dx_row)
#define GRAD_OF(activation, normalised)                                                                               \
    if (e->pool_columns == 1)                                                                                         \
        GRAD(activation, normalised, 1);                                                                              \
    else if (e->pool_columns == 2)                                                                                    \
        GRAD(activation, normalised, 2);                                                                              \
    else                                                                                                              \
        GRAD(activation, normalised, e->pool_columns)
    WITH_EPILOGUE(GRAD_OF)
#undef GRAD_OF
#undef GRAD
}
