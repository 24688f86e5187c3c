/* Parameter updates: one pass over weights, gradients and state. */
#include "kernel.h"

/* One step of stochastic gradient descent, for i < size:
 *
 *     g = sign * gradient[i] + decay * weight[i]
 *     b = momentum * buffer[i] + keep * g;  buffer[i] = b          (where buffer is not NULL)
 *     weight[i] -= rate * (look_ahead * g + ahead * b)
 *
 * The caller turns PyTorch's options into these factors: the first step has momentum 0 and keep 1, Nesterov has
 * look_ahead 1 and ahead = momentum, plain momentum 0 and 1. Products with the factors 0 and 1 are exact. */
CN_INLINE vec step(vec weight, vec gradient, vec *buffer, float rate, float sign, float decay, float momentum,
                   float keep, float look_ahead, float ahead) {
    const vec g = sign * gradient + decay * weight;
    *buffer = momentum * *buffer + keep * g;
    return weight - rate * (look_ahead * g + ahead * *buffer);
}

void CN_NAME(sgd_f32)(cn_size size, float *weight, const float *gradient, float *buffer, float rate, float sign,
                      float decay, float momentum, float keep, float look_ahead, float ahead) {
    for (cn_size i = 0; i < size; i += CN_LANES) {
        const cn_size lanes = min_size(CN_LANES, size - i);
        /* At the first step the buffer may hold anything, and 0 * NaN is not 0: it must not be read. */
        vec state = momentum != 0 ? load_lanes(buffer + i, lanes) : (vec){0};
        const vec next = step(load_lanes(weight + i, lanes), load_lanes(gradient + i, lanes), &state, rate, sign, decay,
                              momentum, keep, look_ahead, ahead);
        store_lanes(weight + i, next, lanes);
        if (buffer) store_lanes(buffer + i, state, lanes);
    }
}
