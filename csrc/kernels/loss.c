/* Softmax, and cross-entropy with its gradient in the same pass. */
#include "vmath.h"

#include <float.h>
#include <math.h>

/* Classes up to which rows are transposed, so that lanes are rows and a sum over classes needs no sum over lanes. For ten
 * classes a row then takes 21 ns in place of 120; at 64, if they are whole vectors, it is as fast either way. */
#define FEW_CLASSES 64

/* Rows that are computed together. */
#define ROWS CN_LANES

/* y = scale * softmax(x) for rows <= ROWS rows of at most FEW_CLASSES; also the largest x of each row, and the sum of
 * e^(x - largest). A NaN in a row makes its sum NaN. */
static void softmax_few(cn_size rows, cn_size classes, const float *x, float scale, float *y, float *largest,
                        float *sum) {
    float columns[FEW_CLASSES * ROWS] __attribute__((aligned(64)));
    vec top = splat(-INFINITY), total = {0};
    if (rows < ROWS)
        for (cn_size j = 0; j < classes; j++) store(columns + j * ROWS, (vec){0});
    CN_NAME(transpose_f32)(rows, classes, x, classes, columns, ROWS);
    for (cn_size j = 0; j < classes; j++) {
        const vec v = load(columns + j * ROWS);
        top = blend(v > top, v, top);
    }
    for (cn_size j = 0; j < classes; j++) {
        const vec v = vexp(load(columns + j * ROWS) - top);
        store(columns + j * ROWS, v);
        total += v;
    }
    const vec share = scale / total;
    for (cn_size j = 0; j < classes; j++) store(columns + j * ROWS, load(columns + j * ROWS) * share);
    CN_NAME(transpose_f32)(classes, rows, columns, ROWS, y, classes);
    store_lanes(largest, top, rows);
    store_lanes(sum, total, rows);
}

/* The same for one row of any number of classes. */
static void softmax_row(cn_size classes, const float *x, float scale, float *y, float *largest, float *sum) {
    vec top = splat(-INFINITY), total = {0};
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
        total += v;
    }
    *sum = sum_lanes(total);
    const float share = scale / *sum;
    for (cn_size j = 0; j < classes; j++) y[j] *= share;
}

static void softmax(cn_size rows, cn_size classes, const float *x, float scale, float *y, float *largest, float *sum) {
    if (classes <= FEW_CLASSES)
        softmax_few(rows, classes, x, scale, y, largest, sum);
    else
        for (cn_size i = 0; i < rows; i++)
            softmax_row(classes, x + i * classes, scale, y + i * classes, largest + i, sum + i);
}

/* y = softmax(x) for each row. */
void CN_NAME(softmax_f32)(cn_size rows, cn_size classes, const float *x, float *y) {
    float largest[ROWS], sum[ROWS];
    for (cn_size i = 0; i < rows; i += ROWS)
        softmax(min_size(ROWS, rows - i), classes, x + i * classes, 1, y + i * classes, largest, sum);
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
    float largest[ROWS], sum[ROWS];
    for (cn_size i = 0; i < rows; i++, x += classes, dx += classes) {
        const cn_size lane = i % ROWS;
        if (lane == 0) softmax(min_size(ROWS, rows - i), classes, x, scale, dx, largest, sum);
        /* log softmax(x)[j] = x[j] - largest - log_sum: scores are subtracted first, where they are large and alike. */
        const double log_sum = log((double)sum[lane]), most = (double)largest[lane];
        if (!t) {
            losses[i] = log_sum + (most - (double)x[labels[i]]);
            dx[labels[i]] -= scale;
        } else {
            double total = 0, loss = 0;
            for (cn_size j = 0; j < classes; j++) {
                total += t[j];
                /* A class without weight says nothing, also where its score is -inf. */
                if (t[j] != 0) loss += t[j] * (log_sum + (most - (double)x[j]));
            }
            for (cn_size j = 0; j < classes; j++) dx[j] = dx[j] * (float)total - scale * t[j];
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

/* *hits = the number of rows whose largest element, the first one of several or the first NaN, is that of the label. */
void CN_NAME(count_hits_f32)(cn_size rows, cn_size classes, const float *x, const int64_t *labels, cn_size *hits) {
    *hits = 0;
    for (cn_size i = 0; i < rows; i++, x += classes) {
        const cn_size label = labels[i];
        if (label < 0 || label >= classes) continue;
        const float most = x[label];
        int missed = 0;
        if (most == most) {
            ivec miss = {0};
            /* Lanes beyond a stretch are never above the label's score, and as low only where it can be no maximum. */
            for (cn_size j = 0; j < label; j += CN_LANES)
                miss |= ~(load_part(x + j, min_size(CN_LANES, label - j), -INFINITY) < most);
            for (cn_size j = label + 1; j < classes; j += CN_LANES)
                miss |= ~(load_part(x + j, min_size(CN_LANES, classes - j), -INFINITY) <= most);
            for (int lane = 0; lane < CN_LANES; lane++) missed |= miss[lane];
        } else {
            for (cn_size j = 0; j < label; j++) missed |= x[j] != x[j];
        }
        *hits += !missed;
    }
}
