/* The face of csrc: one table of kernels per instruction set, and the functions that choose a table.
 *
 * Sizes and strides count elements, not bytes. Kernels know neither Python nor threads, allocate nothing and report no
 * errors: their callers have checked every argument. */
#ifndef CNET_H
#define CNET_H

#include <stddef.h>
#include <stdint.h>

typedef ptrdiff_t cn_size;

enum { CN_LINE = 16 }; /* floats of a cache line */

/* Ask for floats that will be read, or written over, to be brought to the second-level cache. */
static inline void cn_ask(const float *p, cn_size floats, int to_write) {
    for (cn_size i = 0; i < floats; i += CN_LINE)
        if (to_write)
            __builtin_prefetch(p + i, 1, 2);
        else
            __builtin_prefetch(p + i, 0, 2);
}

/* What follows a convolution, each part optional: (x - mean) * scale + shift for each channel, an activation, and the
 * maximum of windows of pool_rows x pool_columns. CN_SLOPE multiplies what is not above zero by the channel's slope. */
enum cn_activation { CN_IDENTITY, CN_RELU, CN_SLOPE };

typedef struct cn_epilogue {
    enum cn_activation activation;
    cn_size pool_rows, pool_columns;
    const float *mean, *scale, *shift; /* NULL without a normalisation */
    const float *slope;
} cn_epilogue;

typedef struct cn_table {
    const char *isa;
    cn_size lanes;        /* floats in a vector register */
    cn_size tile_rows;    /* rows of the register tile */
    cn_size tile_columns; /* columns of the register tile: the width of a packed panel */
#define CN_KERNEL(name, arguments) void (*name) arguments;
#include "kernels.def"
#undef CN_KERNEL
} cn_table;

/* The table called `isa`, or NULL if this build has none of that name or this machine cannot run it. */
const cn_table *cn_table_named(const char *isa);

/* The i-th table this machine can run, best first, or NULL after the last. */
const cn_table *cn_table_at(int i);

#endif
