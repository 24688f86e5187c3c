/* The compiler's own target: SSE2 on x86-64, 16 registers of 4 floats and no fused multiply-add, so the tile leaves one
 * register for the product. Any other machine compiles these vectors to what it has. */
#define CN_ISA baseline
#define CN_LANES 4
#define CN_TILE_ROWS 6
#define CN_TILE_VECTORS 2
