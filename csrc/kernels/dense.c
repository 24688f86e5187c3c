/* One panel of columns of each of a dense layer's three products. The stored weight is w[in, out]. */
#include "kernel.h"

/* Depth of a packed block: with CN_PANEL columns of AVX-512 it is 32 KB, which the second-level cache delivers as fast as
 * a tile consumes it. Deeper blocks give each row of x a longer stretch to prefetch; 160 to 1600 measured within 10 %. */
#define DEPTH 256

/* Below this many rows a packed block is not read often enough to pay for packing it. */
#define FEW_ROWS 4

static const cn_size whole_run[1] = {0};

/* y[m, j] = bias[j] + sum over k of x[m, k] * w[k, j], for m < rows and j < width <= CN_PANEL. bias may be NULL. */
void CN_NAME(dense_forward_f32)(cn_size rows, cn_size width, cn_size depth, const float *x, cn_size x_row,
                                const float *w, cn_size w_row, const float *bias, float *y, cn_size y_row) {
    if (rows < FEW_ROWS && width % CN_LANES == 0) {
        CN_NAME(gemm_f32)(rows, width, x, x_row, whole_run, 1, depth, w, w_row, bias, 0, y, y_row);
        return;
    }
    float panel[DEPTH * CN_PANEL] __attribute__((aligned(64)));
    const float *start = bias;
    cn_size start_row = 0;
    /* Once even at depth 0: an empty sum is the bias. */
    cn_size k = 0;
    do {
        const cn_size count = min_size(DEPTH, depth - k);
        CN_NAME(pack_f32)(count, width, w + k * w_row, w_row, panel);
        CN_NAME(gemm_f32)(rows, width, x + k, x_row, whole_run, 1, count, panel, CN_PANEL, start, start_row, y, y_row);
        start = y, start_row = y_row;
        k += DEPTH;
    } while (k < depth);
}

/* dx[m, j] = sum over n of dy[m, n] * w[j, n], for m < rows and j < width <= CN_PANEL. */
void CN_NAME(dense_input_grad_f32)(cn_size rows, cn_size width, cn_size depth, const float *dy, cn_size dy_row,
                                   const float *w, cn_size w_row, float *dx, cn_size dx_row) {
    float panel[DEPTH * CN_PANEL] __attribute__((aligned(64)));
    const float *start = NULL;
    cn_size n = 0;
    do {
        const cn_size count = min_size(DEPTH, depth - n);
        CN_NAME(pack_transposed_f32)(count, width, w + n, w_row, panel);
        CN_NAME(gemm_f32)(rows, width, dy + n, dy_row, whole_run, 1, count, panel, CN_PANEL, start, dx_row, dx, dx_row);
        start = dx;
        n += DEPTH;
    } while (n < depth);
}

/* dw[k, j] += sum over m of x[m, k] * dy[m, j], for k < rows, j < width <= CN_PANEL and m < samples. */
void CN_NAME(dense_weight_grad_f32)(cn_size rows, cn_size width, cn_size samples, const float *x, cn_size x_row,
                                    const float *dy, cn_size dy_row, float *dw, cn_size dw_row) {
    float panel[DEPTH * CN_PANEL] __attribute__((aligned(64)));
    for (cn_size m = 0; m < samples; m += DEPTH) {
        const cn_size count = min_size(DEPTH, samples - m);
        CN_NAME(pack_f32)(count, width, dy + m * dy_row, dy_row, panel);
        CN_NAME(outer_f32)(rows, width, 1, count, x + m * x_row, 0, x_row, panel, 0, CN_PANEL, dw, dw, dw_row);
    }
}
