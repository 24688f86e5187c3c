/* Dropout, with random numbers that are a function of their position: Philox4x32-10 of Salmon, Moraes, Dror and Shaw,
 * "Parallel random numbers: as easy as 1, 2, 3", SC 2011. Each lane is a generator of its own that turns a counter and a
 * key into four words; nothing is carried from one element to the next, so any thread may make any part of a mask. */
#include "kernel.h"

typedef uint32_t uvec __attribute__((vector_size(CN_LANES * 4), aligned(4), may_alias));
typedef uint64_t wide __attribute__((vector_size(CN_LANES * 8), aligned(4), may_alias));

#define ROUNDS 10
#define FACTOR_0 0xD2511F53u
#define FACTOR_1 0xCD9E8D57u
#define WEYL_0 0x9E3779B9u
#define WEYL_1 0xBB67AE85u

/* Words c[0..3] of the counter become four words of output. */
CN_INLINE void philox(uvec c[4], uint32_t key_0, uint32_t key_1) {
    CN_UNROLL for (int round = 0; round < ROUNDS; round++) {
        const wide product_0 = __builtin_convertvector(c[0], wide) * FACTOR_0;
        const wide product_1 = __builtin_convertvector(c[2], wide) * FACTOR_1;
        const uvec high_0 = __builtin_convertvector(product_0 >> 32, uvec);
        const uvec high_1 = __builtin_convertvector(product_1 >> 32, uvec);
        c[0] = high_1 ^ c[1] ^ key_0;
        c[1] = __builtin_convertvector(product_1, uvec);
        c[2] = high_0 ^ c[3] ^ key_1;
        c[3] = __builtin_convertvector(product_0, uvec);
        key_0 += WEYL_0;
        key_1 += WEYL_1;
    }
}

/* y[i] = x[i] * scale where the random word of element first + i is at least threshold, else 0.
 *
 * Elements come in blocks of 4 * 16: word w of lane l of block b, for l < 16, belongs to element 64 b + 16 w + l, and its
 * counter is (16 b + l, call). The numbering is the same for every vector length. first is a multiple of 64. */
void CN_NAME(dropout_f32)(cn_size size, cn_size first, const float *x, uint64_t seed, uint64_t call, uint32_t threshold,
                          float scale, float *y) {
    enum { BLOCK = 64, GENERATORS = 16 };
    uvec lane;
    for (int i = 0; i < CN_LANES; i++) lane[i] = (uint32_t)i;
    for (cn_size i = 0; i < size; i += BLOCK) {
        for (int g = 0; g < GENERATORS; g += CN_LANES) {
            const uint64_t counter = (uint64_t)(first + i) / 4 + (uint64_t)g;
            /* Sixteen generators of a block never carry into the upper word: the counter is a multiple of 16. */
            uvec c[4] = {lane + (uint32_t)counter, (uvec){0} + (uint32_t)(counter >> 32), (uvec){0} + (uint32_t)call,
                         (uvec){0} + (uint32_t)(call >> 32)};
            philox(c, (uint32_t)seed, (uint32_t)(seed >> 32));
            CN_UNROLL for (int w = 0; w < 4; w++) {
                const cn_size at = i + w * GENERATORS + g;
                if (at >= size) break;
                const cn_size lanes = min_size(CN_LANES, size - at);
                const ivec kept = (ivec)(c[w] >= threshold);
                store_lanes(y + at, (vec)(kept & (ivec)(load_lanes(x + at, lanes) * scale)), lanes);
            }
        }
    }
}

/* words[4 * g + w] = word w of the generator with the given counter words and key, for one generator; for tests. */
void CN_NAME(philox_u32)(const uint32_t *counter, const uint32_t *key, uint32_t *words) {
    uvec c[4];
    for (int w = 0; w < 4; w++) c[w] = (uvec){0} + counter[w];
    philox(c, key[0], key[1]);
    for (int w = 0; w < 4; w++) words[w] = c[w][0];
}
