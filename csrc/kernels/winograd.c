/* Winograd's minimal filtering F(m x n, 3 x 3): the transforms before and after the products.
 *
 * An output tile of m x n pixels is A^T [(G w G'^T) * (B^T d B')] A', where d is the (m+2) x (n+2) pixels under it, w
 * the 3 x 3 weights and * multiplies element by element; summed over input channels, each of the (m+2) (n+2) elements
 * is a matrix product. The matrices on the left are those of m, on the right those of n. Of the 9 m n multiplications
 * of a tile (m+2) (n+2) remain: 2.25 times fewer for 2 x 2, 3 times for 4 x 2, 4 times for 4 x 4.
 *
 * The gradient of the weights is the transpose of the same: G^T [(B^T d B') * (A dy A'^T)] G'.
 *
 * A. Lavin and S. Gray, "Fast Algorithms for Convolutional Neural Networks", CVPR 2016. The points are 0, 1, -1 and
 * infinity for 2, and 1/2 and -2 besides for 4, which lose less than the usual 2 and -2: errors (root mean square) of
 * the output are 0.6 to 0.8 times those of direct summation for 2 x 2, 1.3 to 1.7 times for 4 x 2, and 2.6 to 3.5 times
 * for 4 x 4; with 2 and -2 they were 1.5 to 2 and 3.5 to 4.7 times.
 * B. Barabasz, A. Anderson, K. M. Soodhalter and D. Gregg, "Error Analysis and Improving the Accuracy of Winograd
 * Convolution for Deep Neural Networks", ACM Transactions on Mathematical Software 46, 2020. */
#include "kernel.h"

#define LARGEST 6

/* As much of it as a tile has. */
typedef vec square[LARGEST][LARGEST];

/* Each of the five matrices times one column: from d[0], d[step], ... to t[0], t[step], ... */

/* B^T: m + 2 numbers to m + 2. */
CN_INLINE void input_column(const int m, const vec *d, vec *t, const int step) {
    if (m == 2) {
        t[0] = d[0] - d[2 * step];
        t[step] = d[step] + d[2 * step];
        t[2 * step] = d[2 * step] - d[step];
        t[3 * step] = d[step] - d[3 * step];
    } else {
        /* All but the rows of the points 1/2 and -2 have the factor (x - 1/2) (x + 2) = x^2 + 3/2 x - 1. */
        vec u[4];
        CN_UNROLL for (int i = 0; i < 4; i++) u[i] = d[(i + 2) * step] + 1.5f * d[(i + 1) * step] - d[i * step];
        const vec even = d[4 * step] - d[2 * step], odd = d[3 * step] - d[step];
        t[0] = u[2] - u[0];
        t[step] = u[2] + u[1];
        t[2 * step] = u[2] - u[1];
        t[3 * step] = even + 2.0f * odd;
        t[4 * step] = even - 0.5f * odd;
        t[5 * step] = u[3] - u[1];
    }
}

/* A^T: m + 2 numbers to m. */
CN_INLINE void output_column(const int m, const vec *d, vec *t, const int step) {
    if (m == 2) {
        t[0] = d[0] + d[step] + d[2 * step];
        t[step] = d[step] - d[2 * step] - d[3 * step];
    } else {
        const vec sum = d[step] + d[2 * step], difference = d[step] - d[2 * step];
        t[0] = d[0] + sum + (d[3 * step] + d[4 * step]);
        t[step] = difference + (0.5f * d[3 * step] - 2.0f * d[4 * step]);
        t[2 * step] = sum + (0.25f * d[3 * step] + 4.0f * d[4 * step]);
        t[3 * step] = difference + (0.125f * d[3 * step] - 8.0f * d[4 * step]) + d[5 * step];
    }
}

/* A: m numbers to m + 2. */
CN_INLINE void output_grad_column(const int m, const vec *d, vec *t, const int step) {
    if (m == 2) {
        t[0] = d[0];
        t[step] = d[0] + d[step];
        t[2 * step] = d[0] - d[step];
        t[3 * step] = -d[step];
    } else {
        const vec even = d[0] + d[2 * step], odd = d[step] + d[3 * step];
        t[0] = d[0];
        t[step] = even + odd;
        t[2 * step] = even - odd;
        t[3 * step] = (d[0] + 0.25f * d[2 * step]) + (0.5f * d[step] + 0.125f * d[3 * step]);
        t[4 * step] = (d[0] + 4.0f * d[2 * step]) - (2.0f * d[step] + 8.0f * d[3 * step]);
        t[5 * step] = d[3 * step];
    }
}

/* G: 3 numbers to m + 2. */
CN_INLINE void weight_column(const int m, const vec *d, vec *t, const int step) {
    if (m == 2) {
        t[0] = d[0];
        t[step] = 0.5f * (d[0] + d[step] + d[2 * step]);
        t[2 * step] = 0.5f * (d[0] - d[step] + d[2 * step]);
        t[3 * step] = d[2 * step];
    } else {
        const vec outer = (d[0] + d[2 * step]) * (1.0f / 3), middle = d[step] * (1.0f / 3);
        t[0] = d[0];
        t[step] = middle + outer;
        t[2 * step] = middle - outer;
        t[3 * step] = (4.0f * d[0] + 2.0f * d[step] + d[2 * step]) * (-4.0f / 15);
        t[4 * step] = (d[0] - 2.0f * d[step] + 4.0f * d[2 * step]) * (1.0f / 15);
        t[5 * step] = d[2 * step];
    }
}

/* G^T: m + 2 numbers to 3. */
CN_INLINE void weight_grad_column(const int m, const vec *d, vec *t, const int step) {
    if (m == 2) {
        const vec sum = 0.5f * (d[step] + d[2 * step]), difference = 0.5f * (d[step] - d[2 * step]);
        t[0] = d[0] + sum;
        t[step] = difference;
        t[2 * step] = sum + d[3 * step];
    } else {
        const vec sum = (d[step] + d[2 * step]) * (1.0f / 3), difference = (d[step] - d[2 * step]) * (1.0f / 3);
        const vec half = d[3 * step] * (-4.0f / 15), minus_two = d[4 * step] * (1.0f / 15);
        t[0] = d[0] + difference + (4.0f * half + minus_two);
        t[step] = sum + 2.0f * (half - minus_two);
        t[2 * step] = d[5 * step] + difference + (half + 4.0f * minus_two);
    }
}

/* A transform of a rectangle: the matrix of m from the left on each of `width` columns, which have `height` numbers
 * then, and that of n from the right on each row. */
#define TRANSFORM(column, m, n, width, height, d, t)                                                                  \
    do {                                                                                                              \
        square half;                                                                                                  \
        CN_UNROLL for (int j = 0; j < (width); j++) column(m, &(d)[0][j], &half[0][j], LARGEST);                      \
        CN_UNROLL for (int i = 0; i < (height); i++) column(n, half[i], (t)[i], 1);                                   \
    } while (0)

/* Calls the inline function `kernel` with m and n as constants. */
#define WITH_TILE(kernel, ...)                                                                                        \
    if (m == 2)                                                                                                       \
        kernel(2, 2, __VA_ARGS__);                                                                                    \
    else if (n == 2)                                                                                                  \
        kernel(4, 2, __VA_ARGS__);                                                                                    \
    else                                                                                                              \
        kernel(4, 4, __VA_ARGS__)

/* m x n vectors from an image, or to one, and (m+2) (n+2) vectors from a transform, or to one. */
CN_INLINE void load_pixels(const int m, const int n, cn_size lanes, const float *x, cn_size x_row, cn_size x_pixel,
                           square d) {
    CN_UNROLL for (int i = 0; i < m; i++) {
        const float *p = x;
        CN_UNROLL for (int j = 0; j < n; j++) {
            d[i][j] = load_lanes(p, lanes);
            CN_WALK(p, x_pixel);
        }
        CN_WALK(x, x_row);
    }
}

CN_INLINE void store_pixels(const int m, const int n, cn_size rows, cn_size columns, cn_size lanes, const square t,
                            float *y, cn_size y_row, cn_size y_pixel) {
    CN_UNROLL for (int i = 0; i < m; i++) {
        float *p = y;
        CN_UNROLL for (int j = 0; j < n; j++) {
            if (i < rows && j < columns) store_lanes(p, t[i][j], lanes);
            CN_WALK(p, y_pixel);
        }
        CN_WALK(y, y_row);
    }
}

CN_INLINE void load_elements(const int m, const int n, cn_size lanes, const float *v, cn_size v_element, square d) {
    CN_UNROLL for (int i = 0; i < m + 2; i++) CN_UNROLL for (int j = 0; j < n + 2; j++) {
        d[i][j] = load_lanes(v, lanes);
        CN_WALK(v, v_element);
    }
}

CN_INLINE void store_elements(const int m, const int n, cn_size lanes, const square t, float *v, cn_size v_element) {
    CN_UNROLL for (int i = 0; i < m + 2; i++) CN_UNROLL for (int j = 0; j < n + 2; j++) {
        store_lanes(v, t[i][j], lanes);
        CN_WALK(v, v_element);
    }
}

CN_INLINE void input_tile(const int m, const int n, cn_size lanes, const float *x, cn_size x_row, cn_size x_pixel,
                          float *v, cn_size v_element) {
    square d, t;
    load_pixels(m + 2, n + 2, lanes, x, x_row, x_pixel, d);
    TRANSFORM(input_column, m, n, n + 2, m + 2, d, t);
    store_elements(m, n, lanes, t, v, v_element);
}

CN_INLINE void input_tiles(const int m, const int n, cn_size tiles, cn_size channels, const float *x, cn_size x_row,
                           cn_size x_pixel, float *v, cn_size v_element, cn_size v_tile) {
    for (cn_size tile = 0; tile < tiles; tile++, x += n * x_pixel, v += v_tile) {
#define TILE(c, lanes) input_tile(m, n, lanes, x + (c), x_row, x_pixel, v + (c), v_element)
        CN_FOR_VECTORS(channels, TILE);
#undef TILE
    }
}

/* B^T d B' for a row of tiles: v[e * v_element + t * v_tile + c] for each element e of the (m+2) (n+2), tile t and
 * channel c. Tile t begins at pixel n t of x, whose rows lie x_row floats apart and whose pixels x_pixel. Tiles are
 * 2 x 2, 4 x 2 or 4 x 4. */
void CN_NAME(winograd_input_f32)(cn_size m, cn_size n, cn_size tiles, cn_size channels, const float *x, cn_size x_row,
                                 cn_size x_pixel, float *v, cn_size v_element, cn_size v_tile) {
    WITH_TILE(input_tiles, tiles, channels, x, x_row, x_pixel, v, v_element, v_tile);
}

CN_INLINE void output_grad_tile(const int m, const int n, cn_size lanes, const float *dy, cn_size dy_row,
                                cn_size dy_pixel, float *v, cn_size v_element) {
    square d, t;
    load_pixels(m, n, lanes, dy, dy_row, dy_pixel, d);
    TRANSFORM(output_grad_column, m, n, n, m + 2, d, t);
    store_elements(m, n, lanes, t, v, v_element);
}

CN_INLINE void output_grad_tiles(const int m, const int n, cn_size tiles, cn_size channels, const float *dy,
                                 cn_size dy_row, cn_size dy_pixel, float *v, cn_size v_element, cn_size v_tile) {
    for (cn_size tile = 0; tile < tiles; tile++, dy += n * dy_pixel, v += v_tile) {
#define TILE(c, lanes) output_grad_tile(m, n, lanes, dy + (c), dy_row, dy_pixel, v + (c), v_element)
        CN_FOR_VECTORS(channels, TILE);
#undef TILE
    }
}

/* A dy A'^T for a row of tiles of m x n pixels of dy; arguments as for winograd_input_f32. */
void CN_NAME(winograd_output_grad_f32)(cn_size m, cn_size n, cn_size tiles, cn_size channels, const float *dy,
                                       cn_size dy_row, cn_size dy_pixel, float *v, cn_size v_element, cn_size v_tile) {
    WITH_TILE(output_grad_tiles, tiles, channels, dy, dy_row, dy_pixel, v, v_element, v_tile);
}

CN_INLINE void output_tile(const int m, const int n, cn_size rows, cn_size columns, cn_size lanes, const float *v,
                           cn_size v_element, const float *bias, float *y, cn_size y_row, cn_size y_pixel) {
    const vec start = bias ? load_lanes(bias, lanes) : (vec){0};
    square d, t;
    load_elements(m, n, lanes, v, v_element, d);
    TRANSFORM(output_column, m, n, n + 2, m, d, t);
    CN_UNROLL for (int i = 0; i < m; i++) CN_UNROLL for (int j = 0; j < n; j++) t[i][j] += start;
    store_pixels(m, n, rows, columns, lanes, t, y, y_row, y_pixel);
}

CN_INLINE void output_tiles(const int m, const int n, cn_size rows, cn_size columns, cn_size channels, const float *v,
                            cn_size v_element, cn_size v_tile, const float *bias, float *y, cn_size y_row,
                            cn_size y_pixel) {
    for (; columns > 0; columns -= n, v += v_tile, y += n * y_pixel) {
#define TILE_OF(rows, columns, c, lanes)                                                                              \
    output_tile(m, n, rows, columns, lanes, v + (c), v_element, bias ? bias + (c) : NULL, y + (c), y_row, y_pixel)
#define WHOLE(c, lanes) TILE_OF(m, n, c, lanes)
#define PART(c, lanes) TILE_OF(rows, columns, c, lanes)
        if (rows >= m && columns >= n)
            CN_FOR_VECTORS(channels, WHOLE);
        else
            CN_FOR_VECTORS(channels, PART);
#undef PART
#undef WHOLE
#undef TILE_OF
    }
}

/* y = bias + A^T v A' for a row of tiles, of which `rows` <= m rows and `columns` columns of pixels are wanted; v as in
 * winograd_input_f32. bias may be NULL. */
void CN_NAME(winograd_output_f32)(cn_size m, cn_size n, cn_size rows, cn_size columns, cn_size channels, const float *v,
                                  cn_size v_element, cn_size v_tile, const float *bias, float *y, cn_size y_row,
                                  cn_size y_pixel) {
    WITH_TILE(output_tiles, rows, columns, channels, v, v_element, v_tile, bias, y, y_row, y_pixel);
}

CN_INLINE void weight_tile(const int m, const int n, cn_size lanes, const float *w, cn_size w_row, cn_size w_column,
                           float *u, cn_size u_element) {
    square d, t;
    load_pixels(3, 3, lanes, w, w_row, w_column, d);
    TRANSFORM(weight_column, m, n, 3, m + 2, d, t);
    store_elements(m, n, CN_LANES, t, u, u_element);
}

CN_INLINE void weight_tiles(const int m, const int n, cn_size depth, cn_size width, const float *w, cn_size w_row,
                            cn_size w_column, cn_size w_depth, float *u, cn_size u_element) {
    for (cn_size k = 0; k < depth; k++, w += w_depth, u += CN_PANEL)
        CN_UNROLL for (cn_size c = 0; c < CN_PANEL; c += CN_LANES) {
            if (c + CN_LANES <= width)
                weight_tile(m, n, CN_LANES, w + c, w_row, w_column, u + c, u_element);
            else
                weight_tile(m, n, width > c ? width - c : 0, w + c, w_row, w_column, u + c, u_element);
        }
}

/* G w G'^T for a panel: u[e * u_element + k * CN_PANEL + j] for each element e, input channel k < depth and output
 * channel j < width; the panel's other columns are 0. Tap (a, b) lies at w[a * w_row + b * w_column + k * w_depth + j],
 * with steps that may be negative. */
void CN_NAME(winograd_weight_f32)(cn_size m, cn_size n, cn_size depth, cn_size width, const float *w, cn_size w_row,
                                  cn_size w_column, cn_size w_depth, float *u, cn_size u_element) {
    WITH_TILE(weight_tiles, depth, width, w, w_row, w_column, w_depth, u, u_element);
}

CN_INLINE void weight_grad_tile(const int m, const int n, cn_size lanes, const float *u, cn_size u_element, float *dw,
                                cn_size dw_tap) {
    square d, t, sum;
    load_elements(m, n, lanes, u, u_element, d);
    TRANSFORM(weight_grad_column, m, n, n + 2, 3, d, t);
    load_pixels(3, 3, lanes, dw, 3 * dw_tap, dw_tap, sum);
    CN_UNROLL for (int i = 0; i < 3; i++) CN_UNROLL for (int j = 0; j < 3; j++) sum[i][j] += t[i][j];
    store_pixels(3, 3, 3, 3, lanes, sum, dw, 3 * dw_tap, dw_tap);
}

CN_INLINE void weight_grad_tiles(const int m, const int n, cn_size size, const float *u, cn_size u_element, float *dw,
                                 cn_size dw_tap) {
#define TILE(c, lanes) weight_grad_tile(m, n, lanes, u + (c), u_element, dw + (c), dw_tap)
    CN_FOR_VECTORS(size, TILE);
#undef TILE
}

/* dw[a, b] += G^T u G' for `size` neighbouring weights: u[e * u_element + i] to dw[(3 a + b) * dw_tap + i]. */
void CN_NAME(winograd_weight_grad_f32)(cn_size m, cn_size n, cn_size size, const float *u, cn_size u_element, float *dw,
                                       cn_size dw_tap) {
    WITH_TILE(weight_grad_tiles, size, u, u_element, dw, dw_tap);
}
