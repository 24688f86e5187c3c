/* The products of a dense layer, whose stored weight is w[in, out].
 *
 * All three end in one register tile that reads its operands where they lie. Packing pays where hundreds of rows of the
 * left operand pass over a block of the right one; a batch has tens, and packing for it cost 10 to 30 % of the time at
 * most sizes. The exceptions are below, at PACKED_ROWS.
 *
 * Every element is summed in the order of the depth, whatever the size of the tile that it falls into. */
#include "shuffle.h"

/* Where there are 32 registers a tile has up to 24 accumulators, 6 x 4 or 12 x 2, where there are 16 up to 12. Wide tiles
 * serve small batches: 1 to 8 samples still fill the width, w is read in stretches of four cache lines, and few enough
 * rows of x are read at once not to push each other out of the first-level cache where they lie a power of two apart.
 * High ones serve narrow layers: ten classes are one vector, and fewer than 8 sums would wait for the multiply-add. */
#if CN_TILE_ROWS * CN_TILE_VECTORS >= 24
#define VECTORS 4
#else
#define VECTORS 2
#endif
#define ROWS 6
#define NARROW (VECTORS / 2)
#define NARROW_ROWS 12

/* All tiles pass over one block of the right operand before the next, so that it stays in the second-level cache. Of
 * deeper blocks the rows push each other out where they lie 4 KB apart (512: 30 % slower there); in shallower ones
 * tiles are loaded and stored more often (128: 5 to 10 % slower everywhere). */
#define DEPTH 256

/* From here on rows of the right operand have memory pages of their own, and all of them fall into the same few sets of
 * the caches: a copy of the block pays from ten tiles that read it. */
#define PACKED_ROWS 60
#define PACKED_STRIDE 1000

/* Depth of a copied block: 32 KB of AVX-512, less of the others, so that it stays in the first-level cache. */
#define PACKED_DEPTH (CN_LANES == 16 ? 128 : 256)

/* Samples up to which an input gradient is made of dot products; beyond, transposing the weights costs less than the
 * sums over lanes. Measured: about 6, 10 and 16 for vectors of 16, 8 and 4 lanes. */
#define FEW_ROWS (64 / CN_LANES)

/* Where loads and stores have no masks, columns that do not fill a vector are copied to and from where they do. */
#define MASKS (CN_LANES > 4)

/* Keeps v in its register up to here. x86 has multiply-adds that overwrite a factor in place of the sum. GCC uses one
 * at the last use of a factor, and then has to move sums about: up to fourteen moves a step. */
#if defined(__FMA__)
#define STAY(v) __asm__("" : : "v"(v))
#else
#define STAY(v) (void)(v)
#endif

static const float zeros[VECTORS * CN_LANES] = {0};

/* c = start + a b, for `rows` rows and `vectors` vectors of columns of which the last has `lanes` lanes. `whole` says
 * that all lanes are there and that rows of b begin where cache lines do, if that matters. */
CN_INLINE void tile(const int rows, const int vectors, const int whole, cn_size lanes, cn_size depth, const float *a,
                    cn_size a_row, cn_size a_step, const float *b, cn_size b_row, const float *start, cn_size start_row,
                    float *c, cn_size c_row) {
    enum { GROUPS = NARROW_ROWS / 3 };
    const cn_size last = CN_LANES * (vectors - 1);
    vec sum[NARROW_ROWS][VECTORS];
    if (whole) lanes = CN_LANES;
    CN_UNROLL for (int r = 0; r < rows; r++) {
        CN_UNROLL for (int v = 0; v < vectors - 1; v++) sum[r][v] = load(start + r * start_row + v * CN_LANES);
        sum[r][vectors - 1] = load_lanes(start + r * start_row + last, lanes);
    }
    /* Rows are reached from one pointer in three: x86 addresses p, p + s and p + 2s without arithmetic. */
    const float *p[GROUPS];
    CN_UNROLL for (int g = 0; g < GROUPS; g++) p[g] = a + 3 * g * a_row;
    for (cn_size k = 0; k < depth; k++) {
        vec w[VECTORS];
        CN_UNROLL for (int v = 0; v < vectors - 1; v++) w[v] = load(b + v * CN_LANES);
        w[vectors - 1] = load_lanes(b + last, lanes);
        if (CN_ASKS_AHEAD) {
            CN_FETCH_LINES(b + CN_AHEAD * b_row, vectors * CN_LANES);
            if (!whole) __builtin_prefetch(b + CN_AHEAD * b_row + last + CN_LANES - 1);
        }
        CN_UNROLL for (int r = 0; r < rows; r++) {
            const vec x = splat(p[r / 3][r % 3 * a_row]);
            CN_UNROLL for (int v = 0; v < vectors; v++) sum[r][v] += x * w[v];
            /* A factor of one product may stay in memory. */
            if (vectors > 1) STAY(x);
        }
        if (rows > 1) CN_UNROLL for (int v = 0; v < vectors; v++) STAY(w[v]);
        CN_UNROLL for (int g = 0; g < GROUPS; g++) p[g] += a_step;
        b += b_row;
    }
    CN_UNROLL for (int r = 0; r < rows; r++) {
        CN_UNROLL for (int v = 0; v < vectors - 1; v++) store(c + r * c_row + v * CN_LANES, sum[r][v]);
        store_lanes(c + r * c_row + last, sum[r][vectors - 1], lanes);
    }
}

typedef void tile_function(cn_size lanes, cn_size depth, const float *a, cn_size a_row, cn_size a_step, const float *b,
                           cn_size b_row, const float *start, cn_size start_row, float *c, cn_size c_row);

/* A function for each size of tile: in one function for all, compilers run out of registers for addresses. */
#define DEFINE(name, rows, vectors, whole)                                                                            \
    static void name##_##rows##_##vectors(cn_size lanes, cn_size depth, const float *a, cn_size a_row, cn_size a_step, \
                                          const float *b, cn_size b_row, const float *start, cn_size start_row,       \
                                          float *c, cn_size c_row) {                                                  \
        tile(rows, vectors, whole, lanes, depth, a, a_row, a_step, b, b_row, start, start_row, c, c_row);             \
    }
#if MASKS
#define TILE(rows, vectors) DEFINE(part, rows, vectors, 0) DEFINE(whole, rows, vectors, 1)
#define NAME(rows, vectors) [vectors - 1][rows - 1] = {part_##rows##_##vectors, whole_##rows##_##vectors},
#else
#define TILE(rows, vectors) DEFINE(whole, rows, vectors, 1)
#define NAME(rows, vectors) [vectors - 1][rows - 1] = {whole_##rows##_##vectors, whole_##rows##_##vectors},
#endif
#define FEW(M, n) M(1, n) M(2, n) M(3, n) M(4, n) M(5, n) M(6, n)
#define MANY(M, n) FEW(M, n) M(7, n) M(8, n) M(9, n) M(10, n) M(11, n) M(12, n)
#if VECTORS == 4
#define FOR_EACH_TILE(M) MANY(M, 1) MANY(M, 2) FEW(M, 3) FEW(M, 4)
#else
#define FOR_EACH_TILE(M) MANY(M, 1) FEW(M, 2)
#endif
FOR_EACH_TILE(TILE)
static tile_function *const tile_of[VECTORS][NARROW_ROWS][2] = {FOR_EACH_TILE(NAME)};

/* A row of so many vectors, of the last of which so many lanes are read and so many written. */
CN_INLINE void copy_row(cn_size vectors, const float *from, cn_size read, float *to, cn_size written) {
    const cn_size last = (vectors - 1) * CN_LANES;
    for (cn_size j = 0; j < last; j += CN_LANES) store(to + j, load(from + j));
    store_lanes(to + last, load_lanes(from + last, read), written);
}

/* c[i, j] = start[i, j] + sum over k of a[i * a_row + k * a_step] * b[k, j], for i < rows, j < width and k < depth.
 * start may be NULL (zero), one row (start_row 0) or c itself. */
void CN_NAME(product_f32)(cn_size rows, cn_size width, cn_size depth, const float *a, cn_size a_row, cn_size a_step,
                          const float *b, cn_size b_row, const float *start, cn_size start_row, float *c,
                          cn_size c_row) {
    float panel[PACKED_DEPTH * VECTORS * CN_LANES] __attribute__((aligned(64)));
    float edge[NARROW_ROWS * VECTORS * CN_LANES] __attribute__((aligned(64)));
    /* Panels, blocks of depth and tiles are as even as can be: 16 rows are 5 + 5 + 6, not 6 + 6 + 4. */
    const cn_size vectors = (width + CN_LANES - 1) / CN_LANES, panels = (vectors + VECTORS - 1) / VECTORS;
    for (cn_size p = 0; p < panels; p++) {
        const cn_size first = vectors * p / panels, count = vectors * (p + 1) / panels - first;
        const cn_size column = first * CN_LANES, lanes = min_size(CN_LANES, width - column - (count - 1) * CN_LANES);
        const cn_size most = count <= NARROW ? NARROW_ROWS : ROWS, tiles = (rows + most - 1) / most;
        const int ragged = !MASKS && lanes < CN_LANES;
        const int packed = ragged || (rows >= PACKED_ROWS && b_row >= PACKED_STRIDE);
        const cn_size deepest = packed ? PACKED_DEPTH : DEPTH;
        /* Once even at depth 0: an empty sum is where it starts. */
        const cn_size blocks = depth ? (depth + deepest - 1) / deepest : 1;
        for (cn_size block = 0; block < blocks; block++) {
            const cn_size k = depth * block / blocks, steps = depth * (block + 1) / blocks - k;
            const float *right = b + k * b_row + column;
            cn_size right_row = b_row;
            if (packed) {
                right_row = count * CN_LANES;
                for (cn_size s = 0; s < steps; s++)
                    copy_row(count, right + s * b_row, lanes, panel + s * right_row, CN_LANES);
                right = panel;
            }
            const int whole = lanes == CN_LANES && (!CN_ASKS_AHEAD || right_row % CN_LINE == 0);
            for (cn_size t = 0; t < tiles; t++) {
                const cn_size i = rows * t / tiles, height = rows * (t + 1) / tiles - i;
                const float *left = a + i * a_row + k * a_step;
                float *to = c + i * c_row + column;
                const float *from = block ? to : start ? start + i * start_row + column : zeros;
                const cn_size from_row = block ? c_row : start ? start_row : 0;
                tile_function *const compute = tile_of[count - 1][height - 1][whole];
                if (ragged) {
                    for (cn_size r = 0; r < height; r++)
                        copy_row(count, from + r * from_row, lanes, edge + r * right_row, CN_LANES);
                    compute(CN_LANES, steps, left, a_row, a_step, right, right_row, edge, right_row, edge, right_row);
                    for (cn_size r = 0; r < height; r++)
                        copy_row(count, edge + r * right_row, CN_LANES, to + r * c_row, lanes);
                } else {
                    compute(lanes, steps, left, a_row, a_step, right, right_row, from, from_row, to, c_row);
                }
            }
        }
    }
}

/* dx[j] = sum over n of dy[n] * w[j, n] for j < count <= CN_LANES: as many dot products at once as a vector has lanes,
 * so that the sums over lanes cost two shuffles a product. */
static void dot_products(cn_size count, cn_size depth, const float *dy, const float *w, cn_size w_row, float *dx) {
    const float *row[CN_LANES];
    vec sum[CN_LANES];
    CN_UNROLL for (int j = 0; j < CN_LANES; j++) {
        /* Rows that are not there are read as the last one, and not stored. */
        row[j] = w + min_size(j, count - 1) * w_row;
        sum[j] = (vec){0};
    }
    cn_size n = 0;
    for (; n + CN_LANES <= depth; n += CN_LANES) {
        const vec x = load(dy + n);
        CN_UNROLL for (int j = 0; j < CN_LANES; j++) sum[j] += x * load(row[j] + n);
    }
    if (n < depth) {
        const vec x = load_part(dy + n, depth - n, 0);
        CN_UNROLL for (int j = 0; j < CN_LANES; j++) sum[j] += x * load_part(row[j] + n, depth - n, 0);
    }
    store_lanes(dx, sums_of_lanes(CN_LANES, sum), count);
}

/* dx[m, j] = sum over n of dy[m, n] * w[j, n], for m < rows and j < width. */
void CN_NAME(dense_input_grad_f32)(cn_size rows, cn_size width, cn_size depth, const float *dy, cn_size dy_row,
                                   const float *w, cn_size w_row, float *dx, cn_size dx_row) {
    enum { COLUMNS = VECTORS * CN_LANES };
    if (rows <= FEW_ROWS) {
        for (cn_size j = 0; j < width; j += CN_LANES)
            for (cn_size m = 0; m < rows; m++)
                dot_products(min_size(CN_LANES, width - j), depth, dy + m * dy_row, w + j * w_row, w_row,
                             dx + m * dx_row + j);
        return;
    }
    float panel[PACKED_DEPTH * COLUMNS] __attribute__((aligned(64)));
    for (cn_size j = 0; j < width; j += COLUMNS) {
        const cn_size columns = min_size(COLUMNS, width - j);
        const float *start = NULL;
        /* Once even at depth 0: an empty sum is zero. */
        cn_size n = 0;
        do {
            const cn_size count = min_size(PACKED_DEPTH, depth - n);
            CN_NAME(transpose_f32)(columns, count, w + j * w_row + n, w_row, panel, COLUMNS);
            CN_NAME(product_f32)(rows, columns, count, dy + n, dy_row, 1, panel, COLUMNS, start, dx_row, dx + j,
                                 dx_row);
            start = dx + j;
            n += PACKED_DEPTH;
        } while (n < depth);
    }
}
