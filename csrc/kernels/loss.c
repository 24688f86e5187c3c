/* Softmax, and cross-entropy with its gradient in the same pass. */
#include "vmath.h"

#include <float.h>
#include <math.h>

/* y[j] = e^(x[j] - m), with m the largest x; returns their sum, and m. A NaN in the row makes the sum NaN. */
CN_INLINE float exponentials(cn_size classes, const float *x, float *y, float *largest) {
    vec top = splat(-INFINITY), sum = {0};
    for (cn_size j = 0; j < classes; j += CN_LANES) {
        const vec v = j + CN_LANES <= classes ? load(x + j) : load_part(x + j, classes - j, -INFINITY);
        top = blend(v > top, v, top);
    }
    *largest = max_lanes(top);
    for (cn_size j = 0; j < classes; j += CN_LANES) {
        const cn_size lanes = min_size(CN_LANES, classes - j);
        vec v = lanes == CN_LANES ? load(x + j) : load_part(x + j, lanes, -INFINITY);
        v = vexp(v - *largest);
        if (lanes < CN_LANES) {
            /* Lanes beyond the row hold e^(-inf - m): zero, but NaN where m is -inf too. */
            float part[CN_LANES] = {0};
            store_part(part, v, lanes);
            v = load(part);
        }
        store_lanes(y + j, v, lanes);
        sum += v;
    }
    return sum_lanes(sum);
}

/* y = softmax(x) for each row. */
void CN_NAME(softmax_f32)(cn_size rows, cn_size classes, const float *x, float *y) {
    for (cn_size i = 0; i < rows; i++, x += classes, y += classes) {
        float largest;
        const float share = 1.0f / exponentials(classes, x, y, &largest);
        for (cn_size j = 0; j < classes; j++) y[j] *= share;
    }
}

/* dx[j] = y[j] * (dy[j] - sum over k of dy[k] y[k]) for each row: the product with the Jacobian of softmax. */
void CN_NAME(softmax_grad_f32)(cn_size rows, cn_size classes, const float *y, const float *dy, float *dx) {
    for (cn_size i = 0; i < rows; i++, y += classes, dy += classes, dx += classes) {
        vec sum = {0};
        for (cn_size j = 0; j < classes; j += CN_LANES) {
            const cn_size lanes = min_size(CN_LANES, classes - j);
            sum += load_lanes(y + j, lanes) * load_lanes(dy + j, lanes);
        }
        const float product = sum_lanes(sum);
        for (cn_size j = 0; j < classes; j++) dx[j] = y[j] * (dy[j] - product);
    }
}

/* Cross-entropy of softmax(x), for each row: losses[i] = -sum over j of t[j] log softmax(x)[j], and
 * dx[j] = scale * (softmax(x)[j] * sum(t) - t[j]). The targets are rows of t, or where t is NULL one-hot at labels[i]. */
void CN_NAME(softmax_cross_entropy_f32)(cn_size rows, cn_size classes, const float *x, const int64_t *labels,
                                        const float *t, float scale, float *dx, double *losses) {
    for (cn_size i = 0; i < rows; i++, x += classes, dx += classes) {
        float largest;
        const float sum = exponentials(classes, x, dx, &largest);
        /* log softmax(x)[j] = x[j] - largest - log_sum: scores are subtracted first, where they are large and alike. */
        const double log_sum = log((double)sum);
        if (!t) {
            const float share = scale / sum;
            for (cn_size j = 0; j < classes; j++) dx[j] *= share;
            dx[labels[i]] -= scale;
            losses[i] = log_sum + ((double)largest - (double)x[labels[i]]);
        } else {
            double total = 0, loss = 0;
            for (cn_size j = 0; j < classes; j++) {
                total += t[j];
                /* A class without weight says nothing, also where its score is -inf. */
                if (t[j] != 0) loss += t[j] * (log_sum + ((double)largest - (double)x[j]));
            }
            const float share = (float)total / sum;
            for (cn_size j = 0; j < classes; j++) dx[j] = scale * (dx[j] * share - t[j]);
            losses[i] = loss;
            t += classes;
        }
    }
}

/* Cross-entropy of probabilities p, for each row: losses[i] = -sum over j of t[j] log q[j], dp[j] = -scale * t[j] / q[j]
 * with q = max(p, FLT_MIN), which bounds the loss where a probability has been rounded to zero. */
void CN_NAME(cross_entropy_f32)(cn_size rows, cn_size classes, const float *p, const int64_t *labels, const float *t,
                                float scale, float *dp, double *losses) {
    for (cn_size i = 0; i < rows; i++, p += classes, dp += classes) {
        double loss = 0;
        for (cn_size j = 0; j < classes; j++) {
            const float weight = t ? t[j] : (float)(j == labels[i]);
            /* Written so that NaN stays. */
            const float q = p[j] < FLT_MIN ? FLT_MIN : p[j];
            if (weight != 0) loss -= weight * log((double)q);
            dp[j] = weight != 0 ? -scale * weight / q : 0;
        }
        losses[i] = loss;
        if (t) t += classes;
    }
}
