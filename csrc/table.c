/* The table of one instruction set; compiled once for each, like the kernels. */
#include "kernel.h"

#define TEXT_(a) #a
#define TEXT(a) TEXT_(a)

const cn_table CN_NAME(table) = {
    .isa = TEXT(CN_ISA),
    .lanes = CN_LANES,
    .tile_rows = CN_TILE_ROWS,
    .tile_columns = CN_PANEL,
#define CN_KERNEL(name, arguments) .name = CN_NAME(name),
#include "kernels.def"
#undef CN_KERNEL
};
