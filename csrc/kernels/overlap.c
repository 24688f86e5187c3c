/* Adding up products that fall on the same place. */
#include "kernel.h"

CN_INLINE void overlap_row(cn_size columns, cn_size channels, cn_size c, cn_size lanes, const cn_size *starts,
                           const cn_size *taps, cn_size tap_step, cn_size rows, cn_size row_step, const float *x,
                           float *y) {
    for (cn_size j = 0; j < columns; j++) {
        const float *row = x + starts[j] + c;
        vec sum = {0};
        for (cn_size r = 0; r < rows; r++, row += row_step) {
            const float *p = row;
            for (cn_size t = 0; t < taps[j]; t++, p += tap_step) sum += load(p);
        }
        store_lanes(y + j * channels + c, sum, lanes);
    }
}

/* y[j, c] = sum over r < rows and t < taps[j] of x[starts[j] + r * row_step + t * tap_step + c]. Whole vectors are read
 * from x. */
void CN_NAME(overlap_row_f32)(cn_size columns, cn_size channels, const cn_size *starts, const cn_size *taps,
                              cn_size tap_step, cn_size rows, cn_size row_step, const float *x, float *y) {
#define VECTOR(c, lanes) overlap_row(columns, channels, c, lanes, starts, taps, tap_step, rows, row_step, x, y)
    CN_FOR_VECTORS(channels, VECTOR);
#undef VECTOR
}
