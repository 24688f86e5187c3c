/* Rearrangement: panels for the register tiles, and transposes. */
#include "kernel.h"

/* The two halves of the perfect shuffle of a and b: a0 b0 a1 b1 ... */
#if CN_LANES == 4
#define INTERLEAVE_LOW(a, b) __builtin_shufflevector(a, b, 0, 4, 1, 5)
#define INTERLEAVE_HIGH(a, b) __builtin_shufflevector(a, b, 2, 6, 3, 7)
#define ROUNDS 2
#elif CN_LANES == 8
#define INTERLEAVE_LOW(a, b) __builtin_shufflevector(a, b, 0, 8, 1, 9, 2, 10, 3, 11)
#define INTERLEAVE_HIGH(a, b) __builtin_shufflevector(a, b, 4, 12, 5, 13, 6, 14, 7, 15)
#define ROUNDS 3
#elif CN_LANES == 16
#define INTERLEAVE_LOW(a, b) __builtin_shufflevector(a, b, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23)
#define INTERLEAVE_HIGH(a, b) \
    __builtin_shufflevector(a, b, 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31)
#define ROUNDS 4
#else
#error "write the perfect shuffle for this number of lanes"
#endif

/* A square of CN_LANES x CN_LANES, or a part of one: log2(CN_LANES) rounds of perfect shuffles transpose it in registers.
 */
CN_INLINE void transpose_square(cn_size rows, cn_size columns, const float *x, cn_size x_row, float *y, cn_size y_row) {
    vec a[CN_LANES], b[CN_LANES];
    CN_UNROLL for (int i = 0; i < CN_LANES; i++) a[i] = i < rows ? load_lanes(x + i * x_row, columns) : (vec){0};
    CN_UNROLL for (int round = 0; round < ROUNDS; round++) {
        CN_UNROLL for (int i = 0; i < CN_LANES / 2; i++) {
            b[2 * i] = INTERLEAVE_LOW(a[i], a[i + CN_LANES / 2]);
            b[2 * i + 1] = INTERLEAVE_HIGH(a[i], a[i + CN_LANES / 2]);
        }
        CN_UNROLL for (int i = 0; i < CN_LANES; i++) a[i] = b[i];
    }
    CN_UNROLL for (int i = 0; i < CN_LANES; i++) if (i < columns) store_lanes(y + i * y_row, a[i], rows);
}

static void transpose_whole(const float *x, cn_size x_row, float *y, cn_size y_row) {
    transpose_square(CN_LANES, CN_LANES, x, x_row, y, y_row);
}

static void transpose_part(cn_size rows, cn_size columns, const float *x, cn_size x_row, float *y, cn_size y_row) {
    transpose_square(rows, columns, x, x_row, y, y_row);
}

/* y[j, i] = x[i, j] for i < rows and j < columns. */
void CN_NAME(transpose_f32)(cn_size rows, cn_size columns, const float *x, cn_size x_row, float *y, cn_size y_row) {
    for (cn_size i = 0; i < rows; i += CN_LANES)
        for (cn_size j = 0; j < columns; j += CN_LANES) {
            const cn_size high = min_size(CN_LANES, rows - i), wide = min_size(CN_LANES, columns - j);
            const float *from = x + i * x_row + j;
            float *to = y + j * y_row + i;
            if (high == CN_LANES && wide == CN_LANES)
                transpose_whole(from, x_row, to, y_row);
            else
                transpose_part(high, wide, from, x_row, to, y_row);
        }
}

#if CN_TILE_VECTORS != 2
#error "panels are packed as two vectors"
#endif

/* panel[i, j] = x[i, j] for i < rows and j < columns <= CN_PANEL, and 0 in the other columns of the panel. */
void CN_NAME(pack_f32)(cn_size rows, cn_size columns, const float *x, cn_size x_row, float *panel) {
    if (columns == CN_PANEL) {
        for (cn_size i = 0; i < rows; i++, x += x_row, panel += CN_PANEL)
            CN_UNROLL for (int v = 0; v < CN_TILE_VECTORS; v++) store(panel + v * CN_LANES, load(x + v * CN_LANES));
    } else {
        const cn_size first = min_size(CN_LANES, columns), second = columns - first;
        for (cn_size i = 0; i < rows; i++, x += x_row, panel += CN_PANEL) {
            store(panel, load_lanes(x, first));
            store(panel + CN_LANES, load_part(x + first, second, 0));
        }
    }
}

/* panel[i, j] = x[j, i] for i < rows and j < columns <= CN_PANEL, and 0 in the other columns of the panel. */
void CN_NAME(pack_transposed_f32)(cn_size rows, cn_size columns, const float *x, cn_size x_row, float *panel) {
    CN_NAME(transpose_f32)(columns, rows, x, x_row, panel, CN_PANEL);
    for (cn_size i = 0; i < rows; i++)
        for (cn_size j = columns; j < CN_PANEL; j++) panel[i * CN_PANEL + j] = 0;
}
