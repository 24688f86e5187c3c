/* What every kernel source includes: the vector types of the instruction set being compiled, and the few operations on
 * them that the language lacks. Kernels are written once on GCC/Clang vector extensions; isa/<name>.h holds the numbers
 * that differ. Only the parts of a vector are written for each instruction set here, for those that have masks. */
#ifndef CNET_KERNEL_H
#define CNET_KERNEL_H

#include "cnet.h"
#include CN_ISA_HEADER

#if defined(__AVX2__)
#include <immintrin.h>
#endif

#define CN_PASTE_(a, b) a##b
#define CN_PASTE(a, b) CN_PASTE_(a, b)

/* cn_gemm_f32__avx2 and so on: the name under which table.c finds a kernel of this instruction set. */
#define CN_NAME(kernel) CN_PASTE(CN_PASTE(cn_, kernel), CN_PASTE(__, CN_ISA))

/* Every kernel may call the others of its instruction set. */
#define CN_KERNEL(name, arguments) void CN_NAME(name) arguments;
#include "kernels.def"
#undef CN_KERNEL

#define CN_PANEL (CN_TILE_VECTORS * CN_LANES)

/* Accumulator arrays live in registers only if every loop over them is unrolled away. */
#if defined(__clang__)
#define CN_UNROLL _Pragma("clang loop unroll(full)")
#else
#define CN_UNROLL _Pragma("GCC unroll 64")
#endif

#define CN_INLINE static inline __attribute__((always_inline))

/* Unaligned, may-alias vectors: arrays of float are read through them at any address. */
typedef float vec __attribute__((vector_size(CN_LANES * 4), aligned(4), may_alias));
typedef int32_t ivec __attribute__((vector_size(CN_LANES * 4), aligned(4), may_alias));

CN_INLINE vec load(const float *p) { return *(const vec *)p; }
CN_INLINE void store(float *p, vec v) { *(vec *)p = v; }
CN_INLINE vec splat(float s) { return s - (vec){0}; }

/* C has no vector ?: in GCC 12; comparison masks are all ones or all zeros. */
CN_INLINE vec blend(ivec mask, vec yes, vec no) { return (vec)((mask & (ivec)yes) | (~mask & (ivec)no)); }

/* The first n <= CN_LANES lanes; the others read as `fill`, and nothing beyond the n is touched. */
#if defined(__AVX512F__) && CN_LANES == 16
#define CN_FIRST(n) ((__mmask16)((1u << (n)) - 1))
CN_INLINE vec load_part(const float *p, cn_size n, float fill) {
    return (vec)_mm512_mask_loadu_ps(_mm512_set1_ps(fill), CN_FIRST(n), p);
}
CN_INLINE void store_part(float *p, vec v, cn_size n) { _mm512_mask_storeu_ps(p, CN_FIRST(n), (__m512)v); }
#elif defined(__AVX2__) && CN_LANES == 8
#define CN_FIRST(n) _mm256_cmpgt_epi32(_mm256_set1_epi32((int)(n)), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7))
CN_INLINE vec load_part(const float *p, cn_size n, float fill) {
    return blend((ivec)CN_FIRST(n), (vec)_mm256_maskload_ps(p, CN_FIRST(n)), splat(fill));
}
CN_INLINE void store_part(float *p, vec v, cn_size n) { _mm256_maskstore_ps(p, CN_FIRST(n), (__m256)v); }
#elif CN_LANES == 4
/* The branches of all parts were half of the baseline's code, which had better be small than fast: there they are
 * functions of their own. */
#if defined(__ARM_NEON)
#define CN_PART CN_INLINE
#else
#define CN_PART static __attribute__((noinline, unused))
#endif
CN_PART vec load_part(const float *p, cn_size n, float fill) {
    return (vec){n > 0 ? p[0] : fill, n > 1 ? p[1] : fill, n > 2 ? p[2] : fill, n > 3 ? p[3] : fill};
}
CN_PART void store_part(float *p, vec v, cn_size n) {
    if (n > 0) p[0] = v[0];
    if (n > 1) p[1] = v[1];
    if (n > 2) p[2] = v[2];
    if (n > 3) p[3] = v[3];
}
#else
#error "write the parts of a vector for this number of lanes"
#endif

/* A vector, or the part of one that is left at the end of a row. */
CN_INLINE vec load_lanes(const float *p, cn_size lanes) { return lanes == CN_LANES ? load(p) : load_part(p, lanes, 0); }

CN_INLINE void store_lanes(float *p, vec v, cn_size lanes) {
    if (lanes == CN_LANES)
        store(p, v);
    else
        store_part(p, v, lanes);
}

/* Calls M(c, lanes) for each vector of a row of `channels` channels: `lanes` is a constant but for the last, so that the
 * code for whole vectors has no branches. */
#define CN_FOR_VECTORS(channels, M)                                                                                   \
    do {                                                                                                              \
        cn_size c_ = 0;                                                                                               \
        for (; c_ + CN_LANES <= (channels); c_ += CN_LANES) M(c_, CN_LANES);                                          \
        if (c_ < (channels)) M(c_, (channels)-c_);                                                                    \
    } while (0)

/* A pointer that walks. Compilers would rather compute all the addresses of an unrolled loop ahead, and spill them. */
#define CN_WALK(p, step)                                                                                              \
    do {                                                                                                              \
        (p) += (step);                                                                                                \
        __asm__("" : "+r"(p));                                                                                        \
    } while (0)

/* Ask for the cache lines of so many floats, which will be read soon. */
#define CN_FETCH_LINES(p, floats)                                                                                     \
    CN_UNROLL for (int f_ = 0; f_ < (floats); f_ += CN_LINE) __builtin_prefetch((p) + f_)

/* A register tile whose vectors are cache lines asks for rows of its right factor so many steps ahead, else it waits for
 * the second-level cache: dense layers ran at 125 GFLOP/s without and at 139 with, of 177, and products of 256 channels
 * gained 4 to 8 %. More rows that lie 4 KB apart would push each other out. Shorter vectors ask for half the bytes in
 * the same time and gain nothing. */
#define CN_AHEAD 8
#define CN_ASKS_AHEAD (CN_LANES == CN_LINE)

CN_INLINE cn_size min_size(cn_size a, cn_size b) { return a < b ? a : b; }

#endif
