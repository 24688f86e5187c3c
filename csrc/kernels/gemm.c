/* The two register tiles that dense and convolution are made of.
 *
 * gemm_f32 is y = x w for a dense layer, and a convolution too: the rows of `a` are pixels, and the sum runs over
 * `segments`, the stretches of an image under the kernel window that lie contiguous in memory. No patch matrix is ever
 * written. outer_f32 sums products over points (samples or pixels): the gradient of the weights.
 *
 * A tile is CN_TILE_ROWS x CN_TILE_VECTORS accumulators. Each step loads CN_TILE_VECTORS vectors of b, broadcasts one
 * float per row of a, and multiplies: enough independent sums to hide the latency of the multiply-add on every core. */
#include "kernel.h"

#if CN_TILE_VECTORS != 2 || CN_TILE_ROWS > 14
#error "the switches below know tiles of 1 to 14 rows and 1 or 2 vectors"
#endif

/* A compile-time row count for every size of tile up to the ISA's own. */
#if CN_TILE_ROWS == 14
#define FOR_EACH_ROW_COUNT(M) M(1) M(2) M(3) M(4) M(5) M(6) M(7) M(8) M(9) M(10) M(11) M(12) M(13) M(14)
#elif CN_TILE_ROWS == 12
#define FOR_EACH_ROW_COUNT(M) M(1) M(2) M(3) M(4) M(5) M(6) M(7) M(8) M(9) M(10) M(11) M(12)
#elif CN_TILE_ROWS == 6
#define FOR_EACH_ROW_COUNT(M) M(1) M(2) M(3) M(4) M(5) M(6)
#else
#error "list the row counts of this tile"
#endif

/* Rows are reached from one pointer in three: x86 addresses p, p + s and p + 2s without arithmetic, and fourteen
 * pointers would not fit the general registers. */
#define GROUP 3
#define GROUPS ((CN_TILE_ROWS + GROUP - 1) / GROUP)

/* Where a tile starts from when the sum starts at zero; every row reads it, with stride 0. */
static const float zeros[CN_PANEL] = {0};

CN_INLINE void gemm_tile(const int rows, const int vectors, const float *a, cn_size a_row, const cn_size *segments,
                         cn_size segment_count, cn_size run, const float *b, cn_size b_row, const float *start,
                         cn_size start_row, float *c, cn_size c_row) {
    vec sum[CN_TILE_ROWS][CN_TILE_VECTORS];
    CN_UNROLL for (int r = 0; r < rows; r++) CN_UNROLL for (int v = 0; v < vectors; v++)
        sum[r][v] = load(start + r * start_row + v * CN_LANES);
    for (cn_size s = 0; s < segment_count; s++) {
        const float *p[GROUPS];
        CN_UNROLL for (int g = 0; g < GROUPS; g++) p[g] = a + segments[s] + g * GROUP * a_row;
        for (cn_size i = 0; i < run; i++) {
            vec w[CN_TILE_VECTORS];
            CN_UNROLL for (int v = 0; v < vectors; v++) w[v] = load(b + v * CN_LANES);
            b += b_row;
            CN_UNROLL for (int r = 0; r < rows; r++) {
                const vec x = splat(p[r / GROUP][r % GROUP * a_row]);
                CN_UNROLL for (int v = 0; v < vectors; v++) sum[r][v] += x * w[v];
            }
            CN_UNROLL for (int g = 0; g < GROUPS; g++) p[g]++;
        }
    }
    CN_UNROLL for (int r = 0; r < rows; r++) CN_UNROLL for (int v = 0; v < vectors; v++)
        store(c + r * c_row + v * CN_LANES, sum[r][v]);
}

CN_INLINE void outer_tile(const int rows, const int vectors, cn_size lines, cn_size points, const float *a,
                          cn_size a_line, cn_size a_point, const float *b, cn_size b_line, cn_size b_point,
                          const float *start, cn_size start_row, float *c, cn_size c_row) {
    vec sum[CN_TILE_ROWS][CN_TILE_VECTORS];
    CN_UNROLL for (int r = 0; r < rows; r++) CN_UNROLL for (int v = 0; v < vectors; v++)
        sum[r][v] = load(start + r * start_row + v * CN_LANES);
    for (cn_size line = 0; line < lines; line++) {
        const float *p = a + line * a_line, *q = b + line * b_line;
        for (cn_size point = 0; point < points; point++) {
            vec w[CN_TILE_VECTORS];
            CN_UNROLL for (int v = 0; v < vectors; v++) w[v] = load(q + v * CN_LANES);
            CN_UNROLL for (int r = 0; r < rows; r++) {
                const vec x = splat(p[r]);
                CN_UNROLL for (int v = 0; v < vectors; v++) sum[r][v] += x * w[v];
            }
            p += a_point;
            q += b_point;
        }
    }
    CN_UNROLL for (int r = 0; r < rows; r++) CN_UNROLL for (int v = 0; v < vectors; v++)
        store(c + r * c_row + v * CN_LANES, sum[r][v]);
}

/* Tiles store whole vectors. Where the last vector of a row is not whole, a tile works on this copy of its part of c. */
typedef struct edge {
    float start[CN_TILE_ROWS * CN_PANEL], c[CN_TILE_ROWS * CN_PANEL];
} edge;

static void enter_edge(edge *e, cn_size rows, cn_size width, const float *start, cn_size start_row) {
    for (cn_size r = 0; r < rows; r++)
        for (cn_size j = 0; j < CN_PANEL; j++) e->start[r * CN_PANEL + j] = j < width ? start[r * start_row + j] : 0;
}

static void leave_edge(const edge *e, cn_size rows, cn_size width, float *c, cn_size c_row) {
    for (cn_size r = 0; r < rows; r++)
        for (cn_size j = 0; j < width; j++) c[r * c_row + j] = e->c[r * CN_PANEL + j];
}

/* c[r, j] = start[r, j] + sum over s, i of a[segments[s] + r * a_row + i] * b[s * run + i, j]
 * for r < rows and j < width <= CN_PANEL. start may be NULL (zero), one row (start_row 0) or c itself. b is readable up
 * to whole vectors. */
void CN_NAME(gemm_f32)(cn_size rows, cn_size width, const float *a, cn_size a_row, const cn_size *segments,
                       cn_size segment_count, cn_size run, const float *b, cn_size b_row, const float *start,
                       cn_size start_row, float *c, cn_size c_row) {
    /* Even tiles: 16 rows are 8 + 8, not 14 + 2, and both halves keep enough sums in flight. */
    const cn_size tiles = (rows + CN_TILE_ROWS - 1) / CN_TILE_ROWS;
    edge e;
    if (!start) start = zeros, start_row = 0;
    for (cn_size t = 0; t < tiles; t++) {
        const cn_size first = rows * t / tiles, count = rows * (t + 1) / tiles - first;
        const float *at = a + first * a_row, *from = start + first * start_row;
        float *to = c + first * c_row;
        cn_size from_row = start_row, to_row = c_row;
        if (width % CN_LANES) {
            enter_edge(&e, count, width, from, from_row);
            from = e.start, to = e.c, from_row = to_row = CN_PANEL;
        }
#define TILE(n)                                                                                                       \
    case n:                                                                                                           \
        if (width > CN_LANES)                                                                                         \
            gemm_tile(n, 2, at, a_row, segments, segment_count, run, b, b_row, from, from_row, to, to_row);           \
        else                                                                                                          \
            gemm_tile(n, 1, at, a_row, segments, segment_count, run, b, b_row, from, from_row, to, to_row);           \
        break;
        switch (count) { FOR_EACH_ROW_COUNT(TILE) }
#undef TILE
        if (to == e.c) leave_edge(&e, count, width, c + first * c_row, c_row);
    }
}

/* c[r, j] = start[r, j] + sum over lines and points of
 *     a[line * a_line + point * a_point + r] * b[line * b_line + point * b_point + j]
 * for r < rows and j < width <= CN_PANEL. start is c (accumulate) or NULL (zero). b is readable up to whole vectors. */
void CN_NAME(outer_f32)(cn_size rows, cn_size width, cn_size lines, cn_size points, const float *a, cn_size a_line,
                        cn_size a_point, const float *b, cn_size b_line, cn_size b_point, const float *start, float *c,
                        cn_size c_row) {
    const cn_size tiles = (rows + CN_TILE_ROWS - 1) / CN_TILE_ROWS;
    edge e;
    for (cn_size t = 0; t < tiles; t++) {
        const cn_size first = rows * t / tiles, count = rows * (t + 1) / tiles - first;
        const float *at = a + first, *from = start ? start + first * c_row : zeros;
        float *to = c + first * c_row;
        cn_size from_row = start ? c_row : 0, to_row = c_row;
        if (width % CN_LANES) {
            enter_edge(&e, count, width, from, from_row);
            from = e.start, to = e.c, from_row = to_row = CN_PANEL;
        }
#define TILE(n)                                                                                                       \
    case n:                                                                                                           \
        if (width > CN_LANES)                                                                                         \
            outer_tile(n, 2, lines, points, at, a_line, a_point, b, b_line, b_point, from, from_row, to, to_row);     \
        else                                                                                                          \
            outer_tile(n, 1, lines, points, at, a_line, a_point, b, b_line, b_point, from, from_row, to, to_row);     \
        break;
        switch (count) { FOR_EACH_ROW_COUNT(TILE) }
#undef TILE
        if (to == e.c) leave_edge(&e, count, width, c + first * c_row, c_row);
    }
}
