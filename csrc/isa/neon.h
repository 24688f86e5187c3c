/* AArch64: 32 registers of 4 floats. The 12 x 2 tile takes 24 accumulators, 2 vectors of b and up to 6 of a, which
 * multiply by lane without a broadcast. */
#define CN_ISA neon
#define CN_LANES 4
#define CN_TILE_ROWS 12
#define CN_TILE_VECTORS 2
