/* OpenMP's run-time calls, or their serial meaning where the build has no OpenMP. */
#ifndef CNET_OPENMP_H
#define CNET_OPENMP_H

#ifdef _OPENMP
#include <omp.h>

/* Ends the waiting threads; the next parallel region starts new ones. GCC has the call since 9 but announces OpenMP 4.5. */
static inline void cn_release_threads(void) {
#if _OPENMP >= 201811 || (defined(__GNUC__) && !defined(__clang__) && __GNUC__ >= 9)
    omp_pause_resource_all(omp_pause_soft);
#endif
}
static inline int cn_has_openmp(void) { return 1; }
#else
static inline void cn_release_threads(void) {}
static inline int cn_has_openmp(void) { return 0; }
#endif

#endif
