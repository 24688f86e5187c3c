/* Max pooling of one row of windows. Lanes run over channels, which lie contiguous; the caller has clipped each window
 * to the image, so a window is a first cell, its tap number, and a count of rows and columns of taps. */
#include "kernel.h"

typedef uint16_t shorts __attribute__((vector_size(CN_LANES * 2), aligned(2), may_alias));

CN_INLINE void store_index(uint16_t *p, ivec v, cn_size n) {
    const shorts narrow = __builtin_convertvector(v, shorts);
    if (n >= CN_LANES)
        *(shorts *)p = narrow;
    else
        for (cn_size i = 0; i < n; i++) p[i] = narrow[i];
}

/* Loops over the usual windows are unrolled: their taps are few, and the loop would cost more than a tap. */
#define FOR_WINDOW(rows, columns, M)                                                                                  \
    if (rows == 2 && columns == 2)                                                                                    \
        M(2, 2);                                                                                                      \
    else if (rows == 3 && columns == 3)                                                                               \
        M(3, 3);                                                                                                      \
    else                                                                                                              \
        M(rows, columns);

/* Maximum and its tap over rows x columns taps. "Greater, or NaN" in the order of the taps: the first maximum wins, and
 * the last NaN. Only the first `lanes` lanes are read. */
CN_INLINE vec window_max(const int indexed, cn_size lanes, cn_size rows, cn_size columns, cn_size row_step,
                         cn_size column_step, cn_size first_tap, cn_size kernel_width, const float *x, ivec *index) {
    vec most = splat(-__builtin_inff());
    ivec at = (int32_t)first_tap - (ivec){0};
    for (cn_size r = 0; r < rows; r++)
        for (cn_size k = 0; k < columns; k++) {
            const vec value = load_lanes(x + r * row_step + k * column_step, lanes);
            const ivec wins = (value > most) | (value != value);
            most = blend(wins, value, most);
            if (indexed) {
                const ivec tap = (int32_t)(first_tap + r * kernel_width + k) - (ivec){0};
                at = (wins & tap) | (~wins & at);
            }
        }
    *index = at;
    return most;
}

/* One window. x_room and y_room are the floats from x and y on that may be read and written. */
CN_INLINE void pool_window(const int indexed, cn_size rows, cn_size columns, cn_size row_step, cn_size column_step,
                           cn_size first_tap, cn_size kernel_width, cn_size channels, const float *x, cn_size x_room,
                           float *y, uint16_t *index, cn_size y_room) {
#define WINDOW_MAX(lanes)                                                                                             \
    window_max(indexed, lanes, rows, columns, row_step, column_step, first_tap, kernel_width, x + c, &winner)
    ivec winner;
    cn_size c = 0;
    for (; c + CN_LANES <= channels; c += CN_LANES) {
        store(y + c, WINDOW_MAX(CN_LANES));
        if (indexed) store_index(index + c, winner, CN_LANES);
    }
    if (c == channels) return;
    /* Beyond the last channel lie the next pixel's: reading them too is cheaper than reading less, and in the output
     * the next pixel overwrites what spills. Only the last pixels of an array or a row have no room for that. */
    const cn_size last_tap = (rows - 1) * row_step + (columns - 1) * column_step;
    const vec most = last_tap + c + CN_LANES <= x_room ? WINDOW_MAX(CN_LANES) : WINDOW_MAX(channels - c);
    const cn_size n = c + CN_LANES <= y_room ? CN_LANES : channels - c;
    store_lanes(y + c, most, n);
    if (indexed) store_index(index + c, winner, n);
#undef WINDOW_MAX
}

CN_INLINE void pool_row(const int indexed, cn_size columns, cn_size channels, const cn_size *start, const cn_size *tap,
                        const cn_size *taps, cn_size column_step, cn_size kernel_width, cn_size rows, cn_size row_tap,
                        cn_size row_step, const float *x, cn_size x_size, float *y, uint16_t *index) {
    for (cn_size j = 0; j < columns; j++) {
        const cn_size from = start[j] * channels, to = j * channels, first_tap = row_tap * kernel_width + tap[j];
#define POOL(rows, taps)                                                                                              \
    pool_window(indexed, rows, taps, row_step, column_step, first_tap, kernel_width, channels, x + from,              \
                x_size - from, y + to, indexed ? index + to : NULL, columns * channels - to)
        FOR_WINDOW(rows, taps[j], POOL)
#undef POOL
    }
}

/* y[j, c] = max over the taps of window j, and index[j, c] = the tap's number, row_tap * kernel_width + column tap;
 * index may be NULL. x points at column 0 of the first row inside the image, and x_size floats may be read from there.
 * Window j has `rows` rows of taps, row_step floats apart, and taps[j] columns, column_step apart, the first of which
 * has the numbers row_tap and tap[j] and stands in column start[j]. An empty window gives -inf. */
void CN_NAME(maxpool_row_f32)(cn_size columns, cn_size channels, const cn_size *start, const cn_size *tap,
                              const cn_size *taps, cn_size column_step, cn_size kernel_width, cn_size rows,
                              cn_size row_tap, cn_size row_step, const float *x, cn_size x_size, float *y,
                              uint16_t *index) {
    if (index)
        pool_row(1, columns, channels, start, tap, taps, column_step, kernel_width, rows, row_tap, row_step, x,
                 x_size, y, index);
    else
        pool_row(0, columns, channels, start, tap, taps, column_step, kernel_width, rows, row_tap, row_step, x,
                 x_size, y, NULL);
}

/* Adds dy to the taps that won, tap by tap, for a whole vector of channels: cheaper than one scalar after another as
 * long as a window has no more taps than a vector has lanes. */
CN_INLINE void scatter_vector(cn_size rows, cn_size columns, cn_size row_step, cn_size column_step, cn_size first_tap,
                              cn_size kernel_width, const float *dy, const uint16_t *index, float *dx) {
    const vec value = load(dy);
    const ivec winner = __builtin_convertvector(*(const shorts *)index, ivec);
    for (cn_size r = 0; r < rows; r++)
        for (cn_size k = 0; k < columns; k++) {
            float *to = dx + r * row_step + k * column_step;
            const ivec tap = (int32_t)(first_tap + r * kernel_width + k) - (ivec){0};
            store(to, load(to) + blend(winner == tap, value, (vec){0}));
        }
}

/* dx[tap index[j, c] of window j, c] += dy[j, c] for c < width; dy, index and dx have `channels` channels. The windows
 * are those of maxpool_row_f32, and offsets[t] is how many pixels tap t lies after tap 0. */
void CN_NAME(maxpool_grad_row_f32)(cn_size columns, cn_size channels, cn_size width, const cn_size *start,
                                   const cn_size *tap, const cn_size *taps, cn_size column_step, cn_size kernel_width,
                                   cn_size rows, cn_size row_tap, cn_size row_step, const cn_size *offsets,
                                   const float *dy, const uint16_t *index, float *dx) {
    for (cn_size j = 0; j < columns; j++, dy += channels, index += channels) {
        if (rows * taps[j] == 0) continue;
        const cn_size first_tap = row_tap * kernel_width + tap[j];
        float *to = dx + start[j] * channels;
        cn_size c = 0;
        if (rows * taps[j] <= CN_LANES)
            for (; c + CN_LANES <= width; c += CN_LANES) {
#define SCATTER(rows, taps)                                                                                           \
    scatter_vector(rows, taps, row_step, column_step, first_tap, kernel_width, dy + c, index + c, to + c)
                FOR_WINDOW(rows, taps[j], SCATTER)
#undef SCATTER
            }
        const cn_size origin = offsets[first_tap] * channels;
        for (; c < width; c++) to[offsets[index[c]] * channels - origin + c] += dy[c];
    }
}
