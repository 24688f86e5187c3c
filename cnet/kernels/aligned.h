/* Aligned memory from the system, to be given back with free(). */
#ifndef CNET_ALIGNED_H
#define CNET_ALIGNED_H

#include <stdlib.h>

#if defined(__linux__)
#include <sys/mman.h>
#endif

enum { CN_CACHE_LINE = 64, CN_HUGE_PAGE = 2 << 20 };

static inline void *cn_allocate(size_t size) {
    void *data = NULL;
    /* From two pages of 2 MB on, ask for them: one fault in place of 512, and one entry of the address cache. */
    const int huge = size >= 2 * CN_HUGE_PAGE;
    if (posix_memalign(&data, huge ? CN_HUGE_PAGE : CN_CACHE_LINE, size)) return NULL;
#if defined(MADV_HUGEPAGE)
    if (huge) madvise(data, size, MADV_HUGEPAGE);
#endif
    return data;
}

#endif
