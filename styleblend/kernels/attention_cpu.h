// Softmax attention on the CPU, forward and backward, without ever holding a matrix of scores (Dao et al. 2022, algorithms 1 and 4). Every thread
// works on tiles of queries and keys that stay in its cache (attention_tiles.h); the backward pass computes the scores again from the saved
// log-sum-exp. k and v are read where they are, once for every tile, without a copy.
// D is the head size, a compile-time constant; any number of queries and keys.
#pragma once
#include "attention_amx.h"

namespace styleblend {

constexpr int QUERIES = 256;  // what one thread takes at a time, in groups

// As attention_forward, for rows that are the first of their kind.
template <int D> void attention_forward_vectors(const Problem& p, const float* q, const float* k, const float* v, float* out, float* log_sum) {
    int tiles = (p.queries + QUERIES - 1) / QUERIES;
    #pragma omp parallel
    {
        Memory memory(2 * D * QUERIES + KEYS * GROUP + 2 * QUERIES);
        float *turned_q = memory.begin(), *sum = turned_q + D * QUERIES, *score = sum + D * QUERIES, *top = score + KEYS * GROUP, *total = top + QUERIES;
        #pragma omp for schedule(dynamic)
        for (int unit = 0; unit < p.rows * p.heads * tiles; unit++) {
            int row = unit / (p.heads * tiles), head = unit / tiles % p.heads, first = unit % tiles * QUERIES;
            if (p.first_like(row) != row) continue;
            int count = std::min(QUERIES, p.queries - first), last = p.causal ? std::min(p.keys, first + count) : p.keys;
            turn<D>(q + p.at(p.q_rows[row], p.queries, first, head, D), p.width, count, turned_q, p.scale * LOG2E);
            std::fill(sum, sum + D * QUERIES, 0.f); std::fill(top, top + QUERIES, HIDDEN); std::fill(total, total + QUERIES, 0.f);
            for (int key = 0; key < last; key += KEYS) {
                int keys = std::min(KEYS, last - key);
                const float *its_k = k + p.at(p.kv_rows[row], p.keys, key, head, D), *its_v = v + p.at(p.kv_rows[row], p.keys, key, head, D);
                for (int from = 0; from < count; from += GROUP) {
                    int group = padded(std::min(GROUP, count - from), LANES);
                    multiply<false>(keys, group, D, its_k, p.width, 1, turned_q + D * from, GROUP, score, GROUP);
                    finish_scores(p, row, first + from, group, key, keys, score);
                    soften<D>(score, keys, group, top + from, total + from, sum + D * from);
                    multiply<true>(D, group, keys, its_v, 1, p.width, score, GROUP, sum + D * from, GROUP);
                }
            }
            store_result<D>(p, row, head, first, count, sum, top, total, out, log_sum);
        }
    }
}

// out (rows, queries, width) and the log-sum-exp of every query's scores (rows, heads, queries).
template <int D> void attention_forward(const Problem& p, const float* q, const float* k, const float* v, float* out, float* log_sum) {
    if (tiles_serve<D>(p)) attention_forward_amx<D>(p, q, k, v, out, log_sum);
    else attention_forward_vectors<D>(p, q, k, v, out, log_sum);
    size_t size = (size_t)p.queries * p.width, sums = (size_t)p.heads * p.queries;
    for (int row = 0; row < p.rows; row++) {
        int like = p.first_like(row);
        if (like != row) {
            std::memcpy(out + row * size, out + like * size, size * sizeof(float));
            std::memcpy(log_sum + row * sums, log_sum + like * sums, sums * sizeof(float));
        }
    }
}

// Gradients of q, k and v, which must be zero before. Rows that share q or k and v add to the same gradient: then one thread takes all rows of a
// head. Beside the tiles a thread holds q, the result's gradient and q's gradient of one head, turned: three times D numbers a query.
template <int D> void attention_backward(const Problem& p, const float* q, const float* k, const float* v, const float* out, const float* log_sum,
                                         const float* d_out, float* d_q, float* d_k, float* d_v) {
    constexpr int P = padded(D, LANES);
    int all = padded(p.queries, GROUP);
    bool shared = false;
    for (int row = 0; row < p.rows; row++) shared |= p.q_rows[row] != row || p.kv_rows[row] != row;
    int units = shared ? p.heads : p.rows * p.heads;
    #pragma omp parallel
    {
        Memory memory((size_t)(3 * D + 2 * P + 2) * all + 2 * KEYS * GROUP + 2 * KEYS * P);
        float *turned_q = memory.begin(), *turned_o = turned_q + (size_t)D * all, *sum_q = turned_o + (size_t)D * all, *rows_q = sum_q + (size_t)D * all,
              *rows_o = rows_q + (size_t)P * all, *base = rows_o + (size_t)P * all, *delta = base + all, *weight = delta + all, *slope = weight + KEYS * GROUP,
              *sum_k = slope + KEYS * GROUP, *sum_v = sum_k + KEYS * P;
        #pragma omp for schedule(dynamic)
        for (int unit = 0; unit < units; unit++)
            for (int row = shared ? 0 : unit / p.heads; row < (shared ? p.rows : unit / p.heads + 1); row++) {
                int head = unit % p.heads, of_q = p.q_rows[row], of_kv = p.kv_rows[row];
                const float *its_q = q + p.at(of_q, p.queries, 0, head, D), *its_o = d_out + p.at(row, p.queries, 0, head, D);
                turn<D>(its_q, p.width, p.queries, turned_q, p.scale * LOG2E);
                turn<D>(its_o, p.width, p.queries, turned_o);
                std::fill(sum_q, sum_q + (size_t)D * all, 0.f); std::fill(base, base + all, -HIDDEN); std::fill(delta, delta + all, 0.f);
                for (int i = 0; i < p.queries; i++) {
                    const float* o = out + p.at(row, p.queries, i, head, D);
                    for (int d = 0; d < D; d++) delta[i] += o[d] * its_o[(size_t)i * p.width + d];
                    base[i] = log_sum[((size_t)row * p.heads + head) * p.queries + i] * LOG2E;
                }
                // the two products whose result is [key][d] read q and the gradient as rows: where they are, or padded to whole vectors
                size_t step = p.width;
                if (D != P) {
                    std::fill(rows_q, rows_q + (size_t)2 * P * all, 0.f);
                    for (int i = 0; i < p.queries; i++)
                        for (int d = 0; d < D; d++) { rows_q[(size_t)i * P + d] = its_q[i * step + d]; rows_o[(size_t)i * P + d] = its_o[i * step + d]; }
                    its_q = rows_q; its_o = rows_o; step = P;
                }
                for (int key = 0; key < p.keys; key += KEYS) {
                    int keys = std::min(KEYS, p.keys - key);
                    const float *its_k = k + p.at(of_kv, p.keys, key, head, D), *its_v = v + p.at(of_kv, p.keys, key, head, D);
                    std::fill(sum_k, sum_k + 2 * KEYS * P, 0.f);
                    for (int first = p.causal ? key / GROUP * GROUP : 0; first < p.queries; first += GROUP) {
                        int count = std::min(GROUP, p.queries - first), group = padded(count, LANES);
                        multiply<false>(keys, group, D, its_k, p.width, 1, turned_q + (size_t)D * first, GROUP, weight, GROUP);
                        multiply<false>(keys, group, D, its_v, p.width, 1, turned_o + (size_t)D * first, GROUP, slope, GROUP);
                        finish_scores(p, row, first, group, key, keys, weight);
                        for (int j = 0; j < keys; j++)
                            for (int i = 0; i < group; i += LANES) {
                                Floats *w = (Floats*)(weight + j * GROUP + i), *s = (Floats*)(slope + j * GROUP + i);
                                *w = exp2_negative(*w - *(Floats*)(base + first + i));  // a score is at most its query's log-sum-exp, but for rounding
                                *s = *w * (*s - *(Floats*)(delta + first + i));
                            }
                        multiply<true>(keys, P, count, weight, GROUP, 1, its_o + first * step, step, sum_v, P);
                        multiply<true>(keys, P, count, slope, GROUP, 1, its_q + first * step, step, sum_k, P);
                        multiply<true>(D, group, keys, its_k, 1, p.width, slope, GROUP, sum_q + (size_t)D * first, GROUP);
                    }
                    for (int j = 0; j < keys; j++) {
                        size_t to = p.at(of_kv, p.keys, key + j, head, D);
                        for (int d = 0; d < D; d++) { d_k[to + d] += sum_k[j * P + d] * p.scale; d_v[to + d] += sum_v[j * P + d]; }
                    }
                }
                for (int i = 0; i < p.queries; i++) {
                    float* to = d_q + p.at(of_q, p.queries, i, head, D);
                    for (int d = 0; d < D; d++) to[d] += sum_q[(size_t)D * (i / GROUP * GROUP) + d * GROUP + i % GROUP] * p.scale;
                }
            }
    }
}

}  // namespace styleblend
