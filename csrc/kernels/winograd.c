/* Winograd's minimal filtering F(m x m, 3 x 3): the transforms before and after the products.
 *
 * An output tile of m x m pixels is A^T [(G w G^T) * (B^T d B)] A, where d is the (m+2) x (m+2) pixels under it, w the
 * 3 x 3 weights and * multiplies element by element; summed over input channels, each of the (m+2)^2 elements is a matrix
 * product. Of the 9 m^2 multiplications of a tile (m+2)^2 remain: 2.25 times fewer for m = 2, 4 times for m = 4.
 *
 * The gradient of the weights is the transpose of the same: G^T [(B^T d B) * (A dy A^T)] G.
 *
 * A. Lavin and S. Gray, "Fast Algorithms for Convolutional Neural Networks", CVPR 2016. The points are 0, 1, -1 for m = 2
 * and 0, 1, -1, 2, -2 for m = 4, whose larger numbers lose about one decimal digit. */
#include "kernel.h"

#define LARGEST 6

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
        const vec even = d[4 * step] - 4.0f * d[2 * step], odd = d[3 * step] - 4.0f * d[step];
        const vec near = d[4 * step] - d[2 * step], far = 2.0f * (d[3 * step] - d[step]);
        t[0] = 4.0f * d[0] - 5.0f * d[2 * step] + d[4 * step];
        t[step] = even + odd;
        t[2 * step] = even - odd;
        t[3 * step] = near + far;
        t[4 * step] = near - far;
        t[5 * step] = 4.0f * d[step] - 5.0f * d[3 * step] + d[5 * step];
    }
}

/* A^T: m + 2 numbers to m. */
CN_INLINE void output_column(const int m, const vec *d, vec *t, const int step) {
    if (m == 2) {
        t[0] = d[0] + d[step] + d[2 * step];
        t[step] = d[step] - d[2 * step] - d[3 * step];
    } else {
        const vec sum = d[step] + d[2 * step], difference = d[step] - d[2 * step];
        const vec far_sum = d[3 * step] + d[4 * step], far_difference = d[3 * step] - d[4 * step];
        t[0] = d[0] + sum + far_sum;
        t[step] = difference + 2.0f * far_difference;
        t[2 * step] = sum + 4.0f * far_sum;
        t[3 * step] = difference + 8.0f * far_difference + d[5 * step];
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
        const vec far_even = d[0] + 4.0f * d[2 * step], far_odd = 2.0f * d[step] + 8.0f * d[3 * step];
        t[0] = d[0];
        t[step] = even + odd;
        t[2 * step] = even - odd;
        t[3 * step] = far_even + far_odd;
        t[4 * step] = far_even - far_odd;
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
        const vec outer = (d[0] + d[2 * step]) * (-1.0f / 6), middle = d[step] * (1.0f / 6);
        const vec far_outer = d[0] * (1.0f / 24) + d[2 * step] * (1.0f / 6), far_middle = d[step] * (1.0f / 12);
        t[0] = d[0] * 0.25f;
        t[step] = outer - middle;
        t[2 * step] = outer + middle;
        t[3 * step] = far_outer + far_middle;
        t[4 * step] = far_outer - far_middle;
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
        const vec sum = (d[step] + d[2 * step]) * (1.0f / 6), difference = (d[2 * step] - d[step]) * (1.0f / 6);
        const vec far_sum = d[3 * step] + d[4 * step], far_difference = (d[3 * step] - d[4 * step]) * (1.0f / 12);
        t[0] = 0.25f * d[0] - sum + (1.0f / 24) * far_sum;
        t[step] = difference + far_difference;
        t[2 * step] = (1.0f / 6) * far_sum - sum + d[5 * step];
    }
}

/* A transform of a square: its matrix from the left on each column, then from the right on each row. */
#define TRANSFORM(column, m, from, to, d, t)                                                                          \
    do {                                                                                                              \
        square half;                                                                                                  \
        CN_UNROLL for (int j = 0; j < (from); j++) column(m, &(d)[0][j], &half[0][j], LARGEST);                       \
        CN_UNROLL for (int i = 0; i < (to); i++) column(m, half[i], (t)[i], 1);                                       \
    } while (0)

/* Calls the inline function `kernel` with m as a constant. */
#define WITH_TILE(kernel, ...)                                                                                        \
    if (m == 2)                                                                                                       \
        kernel(2, __VA_ARGS__);                                                                                       \
    else                                                                                                              \
        kernel(4, __VA_ARGS__)

/* n x n vectors from an image, or to one, and (m+2)^2 vectors from a transform, or to one. */
CN_INLINE void load_pixels(const int n, cn_size lanes, const float *x, cn_size x_row, cn_size x_pixel, square d) {
    CN_UNROLL for (int i = 0; i < n; i++) {
        const float *p = x;
        CN_UNROLL for (int j = 0; j < n; j++) {
            d[i][j] = load_lanes(p, lanes);
            CN_WALK(p, x_pixel);
        }
        CN_WALK(x, x_row);
    }
}

CN_INLINE void store_pixels(const int n, cn_size rows, cn_size columns, cn_size lanes, const square t, float *y,
                            cn_size y_row, cn_size y_pixel) {
    CN_UNROLL for (int i = 0; i < n; i++) {
        float *p = y;
        CN_UNROLL for (int j = 0; j < n; j++) {
            if (i < rows && j < columns) store_lanes(p, t[i][j], lanes);
            CN_WALK(p, y_pixel);
        }
        CN_WALK(y, y_row);
    }
}

CN_INLINE void load_elements(const int m, cn_size lanes, const float *v, cn_size v_element, square d) {
    CN_UNROLL for (int i = 0; i < m + 2; i++) CN_UNROLL for (int j = 0; j < m + 2; j++) {
        d[i][j] = load_lanes(v, lanes);
        CN_WALK(v, v_element);
    }
}

CN_INLINE void store_elements(const int m, cn_size lanes, const square t, float *v, cn_size v_element) {
    CN_UNROLL for (int i = 0; i < m + 2; i++) CN_UNROLL for (int j = 0; j < m + 2; j++) {
        store_lanes(v, t[i][j], lanes);
        CN_WALK(v, v_element);
    }
}

CN_INLINE void input_tile(const int m, cn_size lanes, const float *x, cn_size x_row, cn_size x_pixel, float *v,
                          cn_size v_element) {
    square d, t;
    load_pixels(m + 2, lanes, x, x_row, x_pixel, d);
    TRANSFORM(input_column, m, m + 2, m + 2, d, t);
    store_elements(m, lanes, t, v, v_element);
}

CN_INLINE void input_tiles(const int m, cn_size tiles, cn_size channels, const float *x, cn_size x_row, cn_size x_pixel,
                           float *v, cn_size v_element, cn_size v_tile) {
    for (cn_size tile = 0; tile < tiles; tile++, x += m * x_pixel, v += v_tile) {
#define TILE(c, lanes) input_tile(m, lanes, x + (c), x_row, x_pixel, v + (c), v_element)
        CN_FOR_VECTORS(channels, TILE);
#undef TILE
    }
}

/* B^T d B for a row of tiles: v[e * v_element + t * v_tile + c] for each element e of the (m+2)^2, tile t and channel c.
 * Tile t begins at pixel m t of x, whose rows lie x_row floats apart and whose pixels x_pixel. m is 2 or 4. */
void CN_NAME(winograd_input_f32)(cn_size m, cn_size tiles, cn_size channels, const float *x, cn_size x_row,
                                 cn_size x_pixel, float *v, cn_size v_element, cn_size v_tile) {
    WITH_TILE(input_tiles, tiles, channels, x, x_row, x_pixel, v, v_element, v_tile);
}

CN_INLINE void output_grad_tile(const int m, cn_size lanes, const float *dy, cn_size dy_row, cn_size dy_pixel, float *v,
                                cn_size v_element) {
    square d, t;
    load_pixels(m, lanes, dy, dy_row, dy_pixel, d);
    TRANSFORM(output_grad_column, m, m, m + 2, d, t);
    store_elements(m, lanes, t, v, v_element);
}

CN_INLINE void output_grad_tiles(const int m, cn_size tiles, cn_size channels, const float *dy, cn_size dy_row,
                                 cn_size dy_pixel, float *v, cn_size v_element, cn_size v_tile) {
    for (cn_size tile = 0; tile < tiles; tile++, dy += m * dy_pixel, v += v_tile) {
#define TILE(c, lanes) output_grad_tile(m, lanes, dy + (c), dy_row, dy_pixel, v + (c), v_element)
        CN_FOR_VECTORS(channels, TILE);
#undef TILE
    }
}

/* A dy A^T for a row of tiles of m x m pixels of dy; arguments as for winograd_input_f32. */
void CN_NAME(winograd_output_grad_f32)(cn_size m, cn_size tiles, cn_size channels, const float *dy, cn_size dy_row,
                                       cn_size dy_pixel, float *v, cn_size v_element, cn_size v_tile) {
    WITH_TILE(output_grad_tiles, tiles, channels, dy, dy_row, dy_pixel, v, v_element, v_tile);
}

CN_INLINE void output_tile(const int m, cn_size rows, cn_size columns, cn_size lanes, const float *v, cn_size v_element,
                           const float *bias, float *y, cn_size y_row, cn_size y_pixel) {
    const vec start = bias ? load_lanes(bias, lanes) : (vec){0};
    square d, t;
    load_elements(m, lanes, v, v_element, d);
    TRANSFORM(output_column, m, m + 2, m, d, t);
    CN_UNROLL for (int i = 0; i < m; i++) CN_UNROLL for (int j = 0; j < m; j++) t[i][j] += start;
    store_pixels(m, rows, columns, lanes, t, y, y_row, y_pixel);
}

CN_INLINE void output_tiles(const int m, cn_size rows, cn_size columns, cn_size channels, const float *v,
                            cn_size v_element, cn_size v_tile, const float *bias, float *y, cn_size y_row,
                            cn_size y_pixel) {
    for (; columns > 0; columns -= m, v += v_tile, y += m * y_pixel) {
#define TILE_OF(rows, columns, c, lanes)                                                                              \
    output_tile(m, rows, columns, lanes, v + (c), v_element, bias ? bias + (c) : NULL, y + (c), y_row, y_pixel)
#define WHOLE(c, lanes) TILE_OF(m, m, c, lanes)
#define PART(c, lanes) TILE_OF(rows, columns, c, lanes)
        if (rows >= m && columns >= m)
            CN_FOR_VECTORS(channels, WHOLE);
        else
            CN_FOR_VECTORS(channels, PART);
#undef PART
#undef WHOLE
#undef TILE_OF
    }
}

/* y = bias + A^T v A for a row of tiles, of which `rows` <= m rows and `columns` columns of pixels are wanted; v as in
 * winograd_input_f32. bias may be NULL. */
void CN_NAME(winograd_output_f32)(cn_size m, cn_size rows, cn_size columns, cn_size channels, const float *v,
                                  cn_size v_element, cn_size v_tile, const float *bias, float *y, cn_size y_row,
                                  cn_size y_pixel) {
    WITH_TILE(output_tiles, rows, columns, channels, v, v_element, v_tile, bias, y, y_row, y_pixel);
}

CN_INLINE void weight_tile(const int m, cn_size lanes, const float *w, cn_size w_row, cn_size w_column, float *u,
                           cn_size u_element) {
    square d, t;
    load_pixels(3, lanes, w, w_row, w_column, d);
    TRANSFORM(weight_column, m, 3, m + 2, d, t);
    store_elements(m, CN_LANES, t, u, u_element);
}

CN_INLINE void weight_tiles(const int m, cn_size depth, cn_size width, const float *w, cn_size w_row, cn_size w_column,
                            cn_size w_depth, float *u, cn_size u_element) {
    for (cn_size k = 0; k < depth; k++, w += w_depth, u += CN_PANEL)
        CN_UNROLL for (cn_size c = 0; c < CN_PANEL; c += CN_LANES) {
            if (c + CN_LANES <= width)
                weight_tile(m, CN_LANES, w + c, w_row, w_column, u + c, u_element);
            else
                weight_tile(m, width > c ? width - c : 0, w + c, w_row, w_column, u + c, u_element);
        }
}

/* G w G^T for a panel: u[e * u_element + k * CN_PANEL + j] for each element e, input channel k < depth and output channel
 * j < width; the panel's other columns are 0. Tap (a, b) lies at w[a * w_row + b * w_column + k * w_depth + j], with
 * steps that may be negative. */
void CN_NAME(winograd_weight_f32)(cn_size m, cn_size depth, cn_size width, const float *w, cn_size w_row,
                                  cn_size w_column, cn_size w_depth, float *u, cn_size u_element) {
    WITH_TILE(weight_tiles, depth, width, w, w_row, w_column, w_depth, u, u_element);
}

CN_INLINE void weight_grad_tile(const int m, cn_size lanes, const float *u, cn_size u_element, float *dw,
                                cn_size dw_tap) {
    square d, t, sum;
    load_elements(m, lanes, u, u_element, d);
    TRANSFORM(weight_grad_column, m, m + 2, 3, d, t);
    load_pixels(3, lanes, dw, 3 * dw_tap, dw_tap, sum);
    CN_UNROLL for (int i = 0; i < 3; i++) CN_UNROLL for (int j = 0; j < 3; j++) sum[i][j] += t[i][j];
    store_pixels(3, 3, 3, lanes, sum, dw, 3 * dw_tap, dw_tap);
}

CN_INLINE void weight_grad_tiles(const int m, cn_size size, const float *u, cn_size u_element, float *dw,
                                 cn_size dw_tap) {
#define TILE(c, lanes) weight_grad_tile(m, lanes, u + (c), u_element, dw + (c), dw_tap)
    CN_FOR_VECTORS(size, TILE);
#undef TILE
}

/* dw[a, b] += G^T u G for `size` neighbouring weights: u[e * u_element + i] to dw[(3 a + b) * dw_tap + i]. */
void CN_NAME(winograd_weight_grad_f32)(cn_size m, cn_size size, const float *u, cn_size u_element, float *dw,
                                       cn_size dw_tap) {
    WITH_TILE(weight_grad_tiles, size, u, u_element, dw, dw_tap);
}
