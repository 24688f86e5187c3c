/* Sums in a fixed order: what makes gradients the same bits at any thread count. */
#include "kernel.h"

/* y[j] += sum over rows of x[i, j], row after row, for j < columns. */
void CN_NAME(column_sum_f32)(cn_size rows, cn_size columns, const float *x, cn_size x_row, float *y) {
    cn_size j = 0;
    for (; j + 4 * CN_LANES <= columns; j += 4 * CN_LANES) {
        vec sum[4];
        CN_UNROLL for (int v = 0; v < 4; v++) sum[v] = load(y + j + v * CN_LANES);
        for (cn_size i = 0; i < rows; i++)
            CN_UNROLL for (int v = 0; v < 4; v++) sum[v] += load(x + i * x_row + j + v * CN_LANES);
        CN_UNROLL for (int v = 0; v < 4; v++) store(y + j + v * CN_LANES, sum[v]);
    }
    for (; j + CN_LANES <= columns; j += CN_LANES) {
        vec sum = load(y + j);
        for (cn_size i = 0; i < rows; i++) sum += load(x + i * x_row + j);
        store(y + j, sum);
    }
    for (; j < columns; j++) {
        float sum = y[j];
        for (cn_size i = 0; i < rows; i++) sum += x[i * x_row + j];
        y[j] = sum;
    }
}

/* y[i] += parts[0, i] + parts[1, i] + ..., added up in that order, for i < size. */
void CN_NAME(add_parts_f32)(cn_size parts, cn_size size, const float *x, cn_size x_part, float *y) {
    cn_size i = 0;
    for (; i + CN_LANES <= size; i += CN_LANES) {
        vec sum = load(x + i);
        for (cn_size p = 1; p < parts; p++) sum += load(x + p * x_part + i);
        store(y + i, load(y + i) + sum);
    }
    for (; i < size; i++) {
        float sum = x[i];
        for (cn_size p = 1; p < parts; p++) sum += x[p * x_part + i];
        y[i] += sum;
    }
}
