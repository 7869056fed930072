// Softmax attention on the CPU, forward and backward, without ever holding a matrix of scores (Dao et al. 2022, algorithms 1 and 4). Every thread
// works on tiles of queries and keys that stay in its cache (attention_tiles.h); the backward pass computes the scores again from the saved
// log-sum-exp. k and v are read where they are, once for every tile, without a copy.
// D is the head size, a compile-time constant; any number of queries and keys.
#pragma once
#include "attention_amx.h"

namespace styleblend {

constexpr int QUERIES = 256;  // what one thread takes at a time, in groups
constexpr int SPAN = 192;  // keys of a tile of the forward pass: sums are fetched and follow the maximum a third as often, and strips of 6 fit
constexpr int PART = 1024;  // keys that a thread takes at a time in the backward pass: enough that preparing the queries anew costs little

// As attention_forward, for rows that are the first of their kind.
template <int D> void attention_forward_vectors(const Problem& p, const float* q, const float* k, const float* v, float* out, float* log_sum) {
    int tiles = (p.queries + QUERIES - 1) / QUERIES;
    #pragma omp parallel
    {
        Memory memory(2 * D * QUERIES + SPAN * GROUP + 2 * QUERIES + GROUP);
        float *turned_q = memory.begin(), *sum = turned_q + D * QUERIES, *score = sum + D * QUERIES, *top = score + SPAN * GROUP, *total = top + QUERIES,
              *most = total + QUERIES;
        #pragma omp for schedule(dynamic)
        for (int unit = 0; unit < p.rows * p.heads * tiles; unit++) {
            int row = unit / (p.heads * tiles), head = unit / tiles % p.heads, first = unit % tiles * QUERIES;
            if (p.first_like(row) != row) continue;
            int count = std::min(QUERIES, p.queries - first), last = p.causal ? std::min(p.keys, first + count) : p.keys;
            turn<D>(q + p.at(p.q_rows[row], p.queries, first, head, D), p.width, count, turned_q, p.scale * LOG2E);
            std::fill(sum, sum + D * QUERIES, 0.f); std::fill(top, top + QUERIES, HIDDEN); std::fill(total, total + QUERIES, 0.f);
            for (int key = 0; key < last; key += SPAN) {
                int keys = std::min(SPAN, last - key);
                const float *its_k = k + p.at(p.kv_rows[row], p.keys, key, head, D), *its_v = v + p.at(p.kv_rows[row], p.keys, key, head, D);
                for (int from = 0; from < count; from += GROUP) {
                    int group = padded(std::min(GROUP, count - from), LANES);
                    std::fill(most, most + GROUP, HIDDEN);
                    multiply<false, true>(keys, group, D, its_k, p.width, 1, turned_q + D * from, GROUP, score, GROUP, most);
                    finish_scores(p, row, first + from, group, key, keys, score);
                    if (p.bias || p.causal) find_most(score, keys, group, most);  // no longer the product's
                    soften<D>(score, keys, group, most, top + from, total + from, sum + D * from);
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

// Gradients of q, k and v, which must be zero before. A thread takes a part of the keys of a head of a row, with all queries: the products for these
// keys, then the sums into the gradients, in the order of the parts (`ordered`). So rows may share q or k and v, and the bits are the same however
// many threads there are. Beside the tiles a thread holds q, the result's gradient and q's gradient of one head, turned: three times D numbers a query.
template <int D> void attention_backward(const Problem& p, const float* q, const float* k, const float* v, const float* out, const float* log_sum,
                                         const float* d_out, float* d_q, float* d_k, float* d_v) {
    constexpr int P = padded(D, LANES);
    int all = padded(p.queries, GROUP), parts = (p.keys + PART - 1) / PART;
    size_t turned = (size_t)D * all, as_rows = D == P ? 0 : (size_t)P * all, of_keys = (size_t)P * std::min(PART, padded(p.keys, KEYS));
    #pragma omp parallel
    {
        Memory memory(3 * turned + 2 * as_rows + 2 * all + 2 * KEYS * GROUP + 2 * of_keys);
        float *turned_q = memory.begin(), *turned_o = turned_q + turned, *sum_q = turned_o + turned, *rows_q = sum_q + turned, *rows_o = rows_q + as_rows,
              *base = rows_o + as_rows, *delta = base + all, *weight = delta + all, *slope = weight + KEYS * GROUP, *sum_k = slope + KEYS * GROUP,
              *sum_v = sum_k + of_keys;
        #pragma omp for ordered schedule(dynamic)
        for (int unit = 0; unit < p.rows * p.heads * parts; unit++) {
            int row = unit / (p.heads * parts), head = unit / parts % p.heads, from = unit % parts * PART, last = std::min(p.keys, from + PART);
            int of_q = p.q_rows[row], of_kv = p.kv_rows[row], seen = p.causal ? from / GROUP * GROUP : 0;  // the first query that may see a key of the part
            const float *its_q = q + p.at(of_q, p.queries, 0, head, D), *its_o = d_out + p.at(row, p.queries, 0, head, D);
            turn<D>(its_q, p.width, p.queries, turned_q, p.scale * LOG2E);
            turn<D>(its_o, p.width, p.queries, turned_o);
            std::fill(sum_q, sum_q + turned, 0.f); std::fill(base, base + all, -HIDDEN); std::fill(delta, delta + all, 0.f);
            std::fill(sum_k, sum_k + 2 * of_keys, 0.f);
            for (int i = seen; i < p.queries; i++) {
                const float* o = out + p.at(row, p.queries, i, head, D);
                for (int d = 0; d < D; d++) delta[i] += o[d] * its_o[(size_t)i * p.width + d];
                base[i] = log_sum[((size_t)row * p.heads + head) * p.queries + i] * LOG2E;
            }
            // the two products whose result is [key][d] read q and the gradient as rows: where they are, or padded to whole vectors
            size_t step = p.width;
            if (D != P) {
                std::fill(rows_q, rows_q + 2 * as_rows, 0.f);
                for (int i = seen; i < p.queries; i++)
                    for (int d = 0; d < D; d++) { rows_q[(size_t)i * P + d] = its_q[i * step + d]; rows_o[(size_t)i * P + d] = its_o[i * step + d]; }
                its_q = rows_q; its_o = rows_o; step = P;
            }
            for (int key = from; key < last; key += KEYS) {
                int keys = std::min(KEYS, last - key);
                const float *its_k = k + p.at(of_kv, p.keys, key, head, D), *its_v = v + p.at(of_kv, p.keys, key, head, D);
                float *to_k = sum_k + (size_t)(key - from) * P, *to_v = sum_v + (size_t)(key - from) * P;
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
                    multiply<true>(keys, P, count, weight, GROUP, 1, its_o + first * step, step, to_v, P);
                    multiply<true>(keys, P, count, slope, GROUP, 1, its_q + first * step, step, to_k, P);
                    multiply<true>(D, group, keys, its_k, 1, p.width, slope, GROUP, sum_q + (size_t)D * first, GROUP);
                }
            }
            #pragma omp ordered
            {
                for (int j = 0; j < last - from; j++) {
                    size_t to = p.at(of_kv, p.keys, from + j, head, D);
                    for (int d = 0; d < D; d++) { d_k[to + d] += sum_k[(size_t)j * P + d] * p.scale; d_v[to + d] += sum_v[(size_t)j * P + d]; }
                }
                for (int i = seen; i < p.queries; i++) {
                    float* to = d_q + p.at(of_q, p.queries, i, head, D);
                    for (int d = 0; d < D; d++) to[d] += sum_q[(size_t)D * (i / GROUP * GROUP) + d * GROUP + i % GROUP] * p.scale;
                }
            }
        }
    }
}

}  // namespace styleblend
