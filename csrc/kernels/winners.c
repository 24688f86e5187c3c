/* The weight gradient of a convolution behind max-pooling: of the pixels of a window only the winner has a gradient. */
#include "kernel.h"

/* Sums that a tile holds, vectors by rows of the kernel, to each of which every winner adds: as many as there are
 * registers for, beside a gradient and an x. */
#if CN_TILE_ROWS >= 12
#define MOST_SUMS 21
#define MOST_VECTORS 6
#else
#define MOST_SUMS 12
#define MOST_VECTORS 4
#endif
#define MOST_ROWS 7

/* Rows of windows of one channel, see winners_grad_f32. */
typedef struct winner_rows {
    cn_size rows, columns, channels;
    const float *gradient;
    const uint8_t *index;
    const cn_size *taps;
    cn_size row_step, column_step;
} winner_rows;

CN_INLINE void add_winner(const int rows, const int vectors, cn_size lanes, float gradient, const float *x,
                          const cn_size *segments, vec *sum) {
    const vec g = splat(gradient);
    /* One pointer a window and one a row, where compilers would rather have one for each vector, more than there are
     * registers. */
    CN_WALK(x, 0);
    CN_UNROLL for (int r = 0; r < rows; r++) {
        const float *p = x + segments[r];
        CN_WALK(p, 0);
        CN_UNROLL for (int v = 0; v < vectors - 1; v++) sum[r * vectors + v] += g * load(p + v * CN_LANES);
        sum[r * vectors + vectors - 1] += g * load_part(p + (vectors - 1) * CN_LANES, lanes, 0);
    }
}

CN_INLINE void winners_tile(const int rows, const int vectors, cn_size lanes, const winner_rows *w, const float *x,
                            const cn_size *segments, float *const *dw) {
    /* Few sums do not hide the latency of a multiply-add: then every second window is added up apart. */
    const int sums = rows * vectors, apart = 2 * sums <= MOST_SUMS;
    const float *gradient = w->gradient;
    const uint8_t *index = w->index;
    vec sum[MOST_SUMS];
    CN_UNROLL for (int i = 0; i < sums * (1 + apart); i++) sum[i] = (vec){0};
    for (cn_size r = 0; r < w->rows; r++) {
        const float *from = x + r * w->row_step;
        cn_size k = 0;
#define WINNER(sum)                                                                                                   \
    add_winner(rows, vectors, lanes, *gradient, from + w->taps[*index], segments, sum);                               \
    gradient += w->channels, index += w->channels, from += w->column_step
        if (apart)
            for (; k + 2 <= w->columns; k += 2) {
                WINNER(sum);
                WINNER(sum + sums);
            }
        for (; k < w->columns; k++) {
            WINNER(sum);
        }
#undef WINNER
    }
    CN_UNROLL for (int r = 0; r < rows; r++)
        CN_UNROLL for (int v = 0; v < vectors; v++) {
            const cn_size width = v < vectors - 1 ? CN_LANES : lanes;
            float *to = dw[r] + v * CN_LANES;
            if (apart) sum[r * vectors + v] += sum[sums + r * vectors + v];
            store_part(to, load_part(to, width, 0) + sum[r * vectors + v], width);
        }
}

/* dw[s * run + i] += sum over windows (r, k) of gradient[r, k] *
 * x[r * row_step + k * column_step + taps[index[r, k]] + segments[s] + i] for i < run: the windows' gradients, and
 * which tap of the pooling they belong to, each with `channels` elements a window, of which the first counts. */
void CN_NAME(winners_grad_f32)(cn_size rows, cn_size columns, cn_size channels, const float *gradient,
                               const uint8_t *index, const cn_size *taps, cn_size row_step, cn_size column_step,
                               cn_size segment_count, const cn_size *segments, cn_size run, const float *x, float *dw) {
    const winner_rows w = {rows, columns, channels, gradient, index, taps, row_step, column_step};
    const cn_size all = (run + CN_LANES - 1) / CN_LANES, pieces = (all + MOST_VECTORS - 1) / MOST_VECTORS;
    for (cn_size piece = 0; piece < pieces; piece++) {
        /* As even as can be: 7 vectors are 3 + 4. */
        const cn_size first = all * piece / pieces, vectors = all * (piece + 1) / pieces - first;
        const cn_size lanes = min_size(CN_LANES, run - (first + vectors - 1) * CN_LANES);
        for (cn_size s = 0, height; s < segment_count; s += height) {
            cn_size at[MOST_ROWS];
            float *to[MOST_ROWS];
            height = min_size(segment_count - s, min_size(MOST_ROWS, MOST_SUMS / vectors));
            /* Odd heights, as kernels have; of an even one a row follows. */
            height -= height % 2 == 0;
#define ROWS(v, r)                                                                                                    \
    case (v)*8 + (r): {                                                                                               \
        CN_UNROLL for (int i = 0; i < (r); i++) at[i] = segments[s + i] + first * CN_LANES;                           \
        CN_UNROLL for (int i = 0; i < (r); i++) to[i] = dw + (s + i) * run + first * CN_LANES;                        \
        winners_tile(r, v, lanes, &w, x, at, to);                                                                     \
        break;                                                                                                        \
    }
            switch (vectors * 8 + height) {
                ROWS(1, 1) ROWS(1, 3) ROWS(1, 5) ROWS(1, 7) ROWS(2, 1) ROWS(2, 3) ROWS(2, 5) ROWS(3, 1) ROWS(3, 3)
                ROWS(4, 1) ROWS(4, 3)
#if MOST_VECTORS == 6
                ROWS(2, 7) ROWS(3, 5) ROWS(3, 7) ROWS(4, 5) ROWS(5, 1) ROWS(5, 3) ROWS(6, 1) ROWS(6, 3)
#endif
            }
#undef ROWS
        }
    }
}
