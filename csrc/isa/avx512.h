/* AVX-512: 32 registers of 16 floats. The 14 x 2 tile takes 28 accumulators, 2 vectors of b and 1 broadcast of a. */
#define CN_ISA avx512
#define CN_LANES 16
#define CN_TILE_ROWS 14
#define CN_TILE_VECTORS 2
