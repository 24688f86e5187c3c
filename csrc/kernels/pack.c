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

/* A square of CN_LANES x CN_LANES: log2(CN_LANES) rounds of perfect shuffles transpose it in registers. */
static void transpose_square(const float *x, cn_size x_row, float *y, cn_size y_row) {
    vec a[CN_LANES], b[CN_LANES];
    CN_UNROLL for (int i = 0; i < CN_LANES; i++) a[i] = load(x + i * x_row);
    CN_UNROLL for (int round = 0; round < ROUNDS; round++) {
        CN_UNROLL for (int i = 0; i < CN_LANES / 2; i++) {
            b[2 * i] = INTERLEAVE_LOW(a[i], a[i + CN_LANES / 2]);
            b[2 * i + 1] = INTERLEAVE_HIGH(a[i], a[i + CN_LANES / 2]);
        }
        CN_UNROLL for (int i = 0; i < CN_LANES; i++) a[i] = b[i];
    }
    CN_UNROLL for (int i = 0; i < CN_LANES; i++) store(y + i * y_row, a[i]);
}

/* y[j, i] = x[i, j] for i < rows and j < columns. */
void CN_NAME(transpose_f32)(cn_size rows, cn_size columns, const float *x, cn_size x_row, float *y, cn_size y_row) {
    const cn_size whole_rows = rows - rows % CN_LANES, whole_columns = columns - columns % CN_LANES;
    for (cn_size i = 0; i < whole_rows; i += CN_LANES)
        for (cn_size j = 0; j < whole_columns; j += CN_LANES)
            transpose_square(x + i * x_row + j, x_row, y + j * y_row + i, y_row);
    for (cn_size i = 0; i < rows; i++)
        for (cn_size j = i < whole_rows ? whole_columns : 0; j < columns; j++) y[j * y_row + i] = x[i * x_row + j];
}

/* panel[i, j] = x[i, j] for i < rows and j < columns <= CN_PANEL, and 0 in the other columns of the panel. */
void CN_NAME(pack_f32)(cn_size rows, cn_size columns, const float *x, cn_size x_row, float *panel) {
    if (columns == CN_PANEL) {
        for (cn_size i = 0; i < rows; i++, x += x_row, panel += CN_PANEL)
            CN_UNROLL for (int v = 0; v < CN_TILE_VECTORS; v++) store(panel + v * CN_LANES, load(x + v * CN_LANES));
    } else {
        for (cn_size i = 0; i < rows; i++, x += x_row, panel += CN_PANEL)
            for (cn_size j = 0; j < CN_PANEL; j++) panel[j] = j < columns ? x[j] : 0;
    }
}

/* panel[i, j] = x[j, i] for i < rows and j < columns <= CN_PANEL, and 0 in the other columns of the panel. */
void CN_NAME(pack_transposed_f32)(cn_size rows, cn_size columns, const float *x, cn_size x_row, float *panel) {
    CN_NAME(transpose_f32)(columns, rows, x, x_row, panel, CN_PANEL);
    for (cn_size i = 0; i < rows; i++)
        for (cn_size j = columns; j < CN_PANEL; j++) panel[i * CN_PANEL + j] = 0;
}
