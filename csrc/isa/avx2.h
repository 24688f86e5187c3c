/* AVX2 and FMA: 16 registers of 8 floats. The 6 x 2 tile takes 12 accumulators, 2 vectors of b and 1 broadcast of a. */
#define CN_ISA avx2
#define CN_LANES 8
#define CN_TILE_ROWS 6
#define CN_TILE_VECTORS 2
