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

typedef vec tile[CN_TILE_ROWS][CN_TILE_VECTORS];

/* A tile's part of a matrix: `vectors` vectors of each row, the last of which has `lanes` lanes. */
CN_INLINE void load_tile(const int rows, const int vectors, cn_size lanes, const float *x, cn_size x_row, tile t) {
    CN_UNROLL for (int r = 0; r < rows; r++) {
        CN_UNROLL for (int v = 0; v < vectors - 1; v++) t[r][v] = load(x + r * x_row + v * CN_LANES);
        t[r][vectors - 1] = load_lanes(x + r * x_row + (vectors - 1) * CN_LANES, lanes);
    }
}

CN_INLINE void store_tile(const int rows, const int vectors, cn_size lanes, const tile t, float *x, cn_size x_row) {
    CN_UNROLL for (int r = 0; r < rows; r++) {
        CN_UNROLL for (int v = 0; v < vectors - 1; v++) store(x + r * x_row + v * CN_LANES, t[r][v]);
        store_lanes(x + r * x_row + (vectors - 1) * CN_LANES, t[r][vectors - 1], lanes);
    }
}

CN_INLINE void gemm_tile(const int rows, const int vectors, cn_size lanes, const float *a, cn_size a_row,
                         const cn_size *segments, cn_size segment_count, cn_size run, const float *b, cn_size b_row,
                         const float *start, cn_size start_row, float *c, cn_size c_row) {
    tile sum;
    load_tile(rows, vectors, lanes, start, start_row, sum);
    for (cn_size s = 0; s < segment_count; s++) {
        const float *p[GROUPS];
        CN_UNROLL for (int g = 0; g < GROUPS; g++) p[g] = a + segments[s] + g * GROUP * a_row;
        for (cn_size i = 0; i < run; i++) {
            vec w[CN_TILE_VECTORS];
            CN_UNROLL for (int v = 0; v < vectors; v++) w[v] = load(b + v * CN_LANES);
            if (CN_ASKS_AHEAD) CN_FETCH_LINES(b + CN_AHEAD * b_row, vectors * CN_LANES);
            b += b_row;
            CN_UNROLL for (int r = 0; r < rows; r++) {
                const vec x = splat(p[r / GROUP][r % GROUP * a_row]);
                CN_UNROLL for (int v = 0; v < vectors; v++) sum[r][v] += x * w[v];
            }
            CN_UNROLL for (int g = 0; g < GROUPS; g++) p[g]++;
        }
    }
    store_tile(rows, vectors, lanes, sum, c, c_row);
}

/* Few sums do not hide the latency of a multiply-add: a small tile is summed over every second or fourth point apart. */
#define CHAINS(sums)                                                                                                  \
    (4 * (sums) <= CN_TILE_ROWS * CN_TILE_VECTORS ? 4 : 2 * (sums) <= CN_TILE_ROWS * CN_TILE_VECTORS ? 2 : 1)

CN_INLINE void outer_step(const int rows, const int vectors, cn_size lanes, const float *a, const float *b, tile sum) {
    vec w[CN_TILE_VECTORS];
    CN_UNROLL for (int v = 0; v < vectors - 1; v++) w[v] = load(b + v * CN_LANES);
    w[vectors - 1] = load_lanes(b + (vectors - 1) * CN_LANES, lanes);
    CN_UNROLL for (int r = 0; r < rows; r++) {
        const vec x = splat(a[r]);
        CN_UNROLL for (int v = 0; v < vectors; v++) sum[r][v] += x * w[v];
    }
}

CN_INLINE void outer_tile(const int rows, const int vectors, cn_size lanes, cn_size lines, cn_size points,
                          const float *a, cn_size a_line, cn_size a_point, const float *b, cn_size b_line,
                          cn_size b_point, const float *start, float *c, cn_size c_row) {
    const int chains = CHAINS(rows * vectors);
    tile sum[4];
    CN_UNROLL for (int chain = 0; chain < chains; chain++) CN_UNROLL for (int r = 0; r < rows; r++)
        CN_UNROLL for (int v = 0; v < vectors; v++) sum[chain][r][v] = (vec){0};
    for (cn_size line = 0; line < lines; line++) {
        const float *p = a + line * a_line, *q = b + line * b_line;
        cn_size point = 0;
        for (; point + chains <= points; point += chains)
            CN_UNROLL for (int chain = 0; chain < chains; chain++, p += a_point, q += b_point)
                outer_step(rows, vectors, lanes, p, q, sum[chain]);
        for (; point < points; point++, p += a_point, q += b_point) outer_step(rows, vectors, lanes, p, q, sum[0]);
    }
    CN_UNROLL for (int chain = 1; chain < chains; chain++) CN_UNROLL for (int r = 0; r < rows; r++)
        CN_UNROLL for (int v = 0; v < vectors; v++) sum[0][r][v] += sum[chain][r][v];
    if (start) {
        /* Added last, or every product would be rounded to the size of all sums so far. */
        tile before;
        load_tile(rows, vectors, lanes, start, c_row, before);
        CN_UNROLL for (int r = 0; r < rows; r++)
            CN_UNROLL for (int v = 0; v < vectors; v++) sum[0][r][v] += before[r][v];
    }
    store_tile(rows, vectors, lanes, sum[0], c, c_row);
}

/* c[r, j] = start[r, j] + sum over s, i of a[segments[s] + r * a_row + i] * b[s * run + i, j]
 * for r < rows and j < width <= CN_PANEL. start may be NULL (zero), one row (start_row 0) or c itself. b is readable up
 * to whole vectors. */
void CN_NAME(gemm_f32)(cn_size rows, cn_size width, const float *a, cn_size a_row, const cn_size *segments,
                       cn_size segment_count, cn_size run, const float *b, cn_size b_row, const float *start,
                       cn_size start_row, float *c, cn_size c_row) {
    /* Even tiles: 16 rows are 8 + 8, not 14 + 2, and both halves keep enough sums in flight. */
    const cn_size tiles = (rows + CN_TILE_ROWS - 1) / CN_TILE_ROWS, lanes = (width - 1) % CN_LANES + 1;
    if (!start) start = zeros, start_row = 0;
    for (cn_size t = 0; t < tiles; t++) {
        const cn_size first = rows * t / tiles, count = rows * (t + 1) / tiles - first;
        const float *at = a + first * a_row, *from = start + first * start_row;
        float *to = c + first * c_row;
#define TILE(n)                                                                                                       \
    case n:                                                                                                           \
        if (width > CN_LANES)                                                                                         \
            gemm_tile(n, 2, lanes, at, a_row, segments, segment_count, run, b, b_row, from, start_row, to, c_row);    \
        else                                                                                                          \
            gemm_tile(n, 1, lanes, at, a_row, segments, segment_count, run, b, b_row, from, start_row, to, c_row);    \
        break;
        switch (count) { FOR_EACH_ROW_COUNT(TILE) }
#undef TILE
    }
}

/* c[r, j] = start[r, j] + sum over lines and points of
 *     a[line * a_line + point * a_point + r] * b[line * b_line + point * b_point + j]
 * for r < rows and j < width <= CN_PANEL. start is c (accumulate) or NULL (zero). */
void CN_NAME(outer_f32)(cn_size rows, cn_size width, cn_size lines, cn_size points, const float *a, cn_size a_line,
                        cn_size a_point, const float *b, cn_size b_line, cn_size b_point, const float *start, float *c,
                        cn_size c_row) {
    const cn_size tiles = (rows + CN_TILE_ROWS - 1) / CN_TILE_ROWS, lanes = (width - 1) % CN_LANES + 1;
    for (cn_size t = 0; t < tiles; t++) {
        const cn_size first = rows * t / tiles, count = rows * (t + 1) / tiles - first;
        const float *at = a + first, *from = start ? start + first * c_row : NULL;
        float *to = c + first * c_row;
        /* The sums that the next tile adds to, which come from further away than the factors. */
        if (start)
            for (cn_size r = first + count; r < rows * (t + 2) / tiles && r < rows; r++)
                CN_FETCH_LINES(c + r * c_row, CN_PANEL);
#define TILE_OF(n, vectors, lanes)                                                                                    \
    outer_tile(n, vectors, lanes, lines, points, at, a_line, a_point, b, b_line, b_point, from, to, c_row)
#define TILE(n)                                                                                                       \
    case n:                                                                                                           \
        if (width == CN_PANEL)                                                                                        \
            TILE_OF(n, 2, CN_LANES);                                                                                  \
        else if (width > CN_LANES)                                                                                    \
            TILE_OF(n, 2, lanes);                                                                                     \
        else                                                                                                          \
            TILE_OF(n, 1, lanes);                                                                                     \
        break;
        switch (count) { FOR_EACH_ROW_COUNT(TILE) }
#undef TILE
#undef TILE_OF
    }
}
