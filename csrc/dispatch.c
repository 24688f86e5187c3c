/* Which tables this build has, and which of them this machine can run. The build defines CN_HAVE_<ISA> for each. */
#include "cnet.h"

#include <string.h>

#define CN_DECLARE(isa) extern const cn_table cn_table__##isa;
CN_DECLARE(baseline)
CN_DECLARE(avx2)
CN_DECLARE(avx512)
CN_DECLARE(neon)

/* Best first. The compiler's cpu_supports also asks whether the operating system saves the wide registers. */
const cn_table *cn_table_at(int i) {
#ifdef CN_HAVE_AVX512
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") && i-- == 0)
        return &cn_table__avx512;
#endif
#ifdef CN_HAVE_AVX2
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && i-- == 0) return &cn_table__avx2;
#endif
#ifdef CN_HAVE_NEON
    if (i-- == 0) return &cn_table__neon;
#endif
    return i == 0 ? &cn_table__baseline : NULL;
}

const cn_table *cn_table_named(const char *isa) {
    const cn_table *table;
    for (int i = 0; (table = cn_table_at(i)); i++)
        if (strcmp(table->isa, isa) == 0) return table;
    return NULL;
}
