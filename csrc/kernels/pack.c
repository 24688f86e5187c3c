/* Rearrangement: panels for the register tiles, and transposes. */
#include "shuffle.h"

/* A square of CN_LANES x CN_LANES, or a part of one: log2(CN_LANES) rounds of perfect shuffles transpose it in registers.
 */
CN_INLINE void transpose_square(cn_size rows, cn_size columns, const float *x, cn_size x_row, float *y, cn_size y_row) {
    vec a[CN_LANES], b[CN_LANES];
    CN_UNROLL for (int i = 0; i < CN_LANES; i++) a[i] = i < rows ? load_lanes(x + i * x_row, columns) : (vec){0};
    CN_UNROLL for (int round = 0; round < CN_LOG2_LANES; round++) {
        CN_UNROLL for (int i = 0; i < CN_LANES / 2; i++) {
            b[2 * i] = CN_INTERLEAVE_LOW(a[i], a[i + CN_LANES / 2]);
            b[2 * i + 1] = CN_INTERLEAVE_HIGH(a[i], a[i + CN_LANES / 2]);
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

/* y[p, s * run + i] = a[segments[s] + p * a_point + i] for p < points and i < run: what lies under windows, as rows. */
void CN_NAME(patches_f32)(cn_size points, const float *a, cn_size a_point, const cn_size *segments,
                          cn_size segment_count, cn_size run, float *y, cn_size y_row) {
    for (cn_size p = 0; p < points; p++, a += a_point, y += y_row) {
        float *to = y;
        for (cn_size s = 0; s < segment_count; s++, to += run) {
            const float *from = a + segments[s];
#define COPY(i, lanes) store_lanes(to + (i), load_lanes(from + (i), lanes), lanes)
            CN_FOR_VECTORS(run, COPY);
#undef COPY
        }
    }
}
