/* What the machine can do at best: the two roofs that benchmarks/kernels.py holds the other kernels against. */
#include "kernel.h"

#define CHAINS (CN_TILE_ROWS * CN_TILE_VECTORS)

/* 2 * `rounds` * tile_rows * tile_columns operations that touch no memory: s = s * factor + term in as many registers
 * as the tile of gemm_f32 has, which hides the latency of the multiply-add. y[j] for j < lanes is the sum of the
 * registers, lest the compiler find that nobody needs them. */
void CN_NAME(probe_arithmetic_f32)(cn_size rounds, float factor, float term, float *y) {
    vec sum[CHAINS];
    CN_UNROLL for (int i = 0; i < CHAINS; i++) sum[i] = splat((float)i);
    for (cn_size round = 0; round < rounds; round++)
        CN_UNROLL for (int i = 0; i < CHAINS; i++) sum[i] = sum[i] * factor + term;
    CN_UNROLL for (int i = 1; i < CHAINS; i++) sum[0] += sum[i];
    store(y, sum[0]);
}

/* y[i] += x[i] for i < size: two floats read and one written, and no line is fetched only to be overwritten. */
void CN_NAME(probe_memory_f32)(cn_size size, const float *x, float *y) {
    cn_size i = 0;
    for (; i + 4 * CN_LANES <= size; i += 4 * CN_LANES)
        CN_UNROLL for (int v = 0; v < 4; v++)
            store(y + i + v * CN_LANES, load(y + i + v * CN_LANES) + load(x + i + v * CN_LANES));
    for (; i < size; i++) y[i] += x[i];
}
