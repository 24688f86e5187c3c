/* Dropout, with random numbers that are a function of their position: Philox4x32-10 of Salmon, Moraes, Dror and Shaw,
 * "Parallel random numbers: as easy as 1, 2, 3", SC 2011. Each lane is a generator of its own that turns a counter and a
 * key into four words; nothing is carried from one element to the next, so any thread may make any part of a mask. */
#include "kernel.h"

#if defined(__SSE2__)
#include <emmintrin.h>
#elif defined(__ARM_NEON)
#include <arm_neon.h>
#endif

typedef uint32_t uvec __attribute__((vector_size(CN_LANES * 4), aligned(4), may_alias));
/* A generator's word in the lower half of each lane. What the upper half holds does not matter. */
typedef uint64_t wide __attribute__((vector_size(CN_LANES * 4), aligned(4), may_alias));

#define ROUNDS 10
#define FACTOR_0 0xD2511F53u
#define FACTOR_1 0xCD9E8D57u
#define WEYL_0 0x9E3779B9u
#define WEYL_1 0xBB67AE85u

/* The product of the lower halves, in full. Compilers do not see that the upper halves have no part in it, and multiply
 * those too, in three instructions or ten. */
CN_INLINE wide multiply(wide a, uint32_t factor) {
#if defined(__AVX512F__) && CN_LANES == 16
    return (wide)_mm512_mul_epu32((__m512i)a, _mm512_set1_epi64(factor));
#elif defined(__AVX2__) && CN_LANES == 8
    return (wide)_mm256_mul_epu32((__m256i)a, _mm256_set1_epi64x(factor));
#elif defined(__SSE2__) && CN_LANES == 4
    return (wide)_mm_mul_epu32((__m128i)a, _mm_set1_epi64x(factor));
#elif defined(__ARM_NEON) && CN_LANES == 4
    return (wide)vmull_u32(vmovn_u64((uint64x2_t)a), vdup_n_u32(factor));
#else
    return (a & 0xFFFFFFFFu) * factor;
#endif
}

/* Words c[0..3] of the counter become four words of output. */
CN_INLINE void philox(wide c[4], uint32_t key_0, uint32_t key_1) {
    CN_UNROLL for (int round = 0; round < ROUNDS; round++) {
        const wide product_0 = multiply(c[0], FACTOR_0), product_1 = multiply(c[2], FACTOR_1);
        c[0] = c[1] ^ key_0 ^ product_1 >> 32;
        c[1] = product_1;
        c[2] = c[3] ^ key_1 ^ product_0 >> 32;
        c[3] = product_0;
        key_0 += WEYL_0;
        key_1 += WEYL_1;
    }
}

/* y[i] = x[i] * scale where the random word of element first + i is at least threshold, else 0.
 *
 * Elements come in blocks of 4 * 16: word w of generator g of block b, for g < 16, belongs to element 64 b + 16 w + g,
 * and its counter is (16 b + g, call). The numbering is the same for every vector length. first is a multiple of 64. */
void CN_NAME(dropout_f32)(cn_size size, cn_size first, const float *x, uint64_t seed, uint64_t call, uint32_t threshold,
                          float scale, float *y) {
    enum { BLOCK = 64, GENERATORS = 16 };
    /* Neighbours fall into two vectors, the even ones and the odd ones: their words then meet without a shuffle. */
    wide even;
    for (int i = 0; i < CN_LANES / 2; i++) even[i] = 2 * (uint64_t)i;
    for (cn_size i = 0; i < size; i += BLOCK) {
        for (int g = 0; g < GENERATORS; g += CN_LANES) {
            const uint64_t counter = (uint64_t)(first + i) / 4 + (uint64_t)g;
            wide c[2][4];
            CN_UNROLL for (int odd = 0; odd < 2; odd++) {
                /* Sixteen generators of a block never carry into the upper word: the counter is a multiple of 16. */
                c[odd][0] = even + (uint32_t)counter + odd;
                c[odd][1] = (wide){0} + (counter >> 32);
                c[odd][2] = (wide){0} + (uint32_t)call;
                c[odd][3] = (wide){0} + (call >> 32);
                philox(c[odd], (uint32_t)seed, (uint32_t)(seed >> 32));
            }
            CN_UNROLL for (int w = 0; w < 4; w++) {
                const cn_size at = i + w * GENERATORS + g;
                if (at >= size) break;
                const cn_size lanes = min_size(CN_LANES, size - at);
                const uvec words = (uvec)((c[0][w] & 0xFFFFFFFFu) | c[1][w] << 32);
                const ivec kept = (ivec)(words >= threshold);
                store_lanes(y + at, (vec)(kept & (ivec)(load_lanes(x + at, lanes) * scale)), lanes);
            }
        }
    }
}

/* The four words of the generator with the given words of the counter and the key; for tests. */
void CN_NAME(philox_u32)(const uint32_t *counter, const uint32_t *key, uint32_t *words) {
    wide c[4];
    for (int w = 0; w < 4; w++) c[w] = (wide){0} + counter[w];
    philox(c, key[0], key[1]);
    for (int w = 0; w < 4; w++) words[w] = (uint32_t)c[w][0];
}
