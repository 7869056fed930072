// Softmax attention on the CPU, forward and backward, without ever holding a matrix of scores (Dao et al. 2022, algorithms 1 and 4;
// the running maximum is that of Milakov & Gimelshein 2018). Every thread works on tiles of queries and keys that stay in its cache; the
// backward pass computes the scores again from the saved log-sum-exp. Tiles lie as [key][query] and [d][query], so that 16 queries fill a
// vector: the softmax needs no sums across a vector, and k and v are read where they are, once for every tile, without a copy.
// D is the head size, a compile-time constant; any number of queries and keys.
#pragma once
#include <algorithm>
#include <cmath>
#include <cstring>
#include "vectors.h"

namespace styleblend {

constexpr int KEYS = 64, GROUP = 64, QUERIES = 256;  // QUERIES: what one thread takes at a time, in groups
constexpr float HIDDEN = -1e30f;

// C (R x 16 N) = (ADD: +=) A (R x k) B (k x 16 N): the sums stay in registers. A's element (r, i) is a[r * ra + i * ia].
template <int R, int N, bool ADD> inline void block(const float* a, size_t ra, size_t ia, const float* b, size_t ldb, float* c, size_t ldc, int k) {
    Floats sum[R][N];
    for (int r = 0; r < R; r++)
        for (int n = 0; n < N; n++) sum[r][n] = ADD ? *(const Floats*)(c + r * ldc + n * LANES) : Floats{};
    for (int i = 0; i < k; i++) {
        Floats row[N];
        for (int n = 0; n < N; n++) row[n] = *(const Floats*)(b + i * ldb + n * LANES);
        for (int r = 0; r < R; r++) {
            float x = a[r * ra + i * ia];
            for (int n = 0; n < N; n++) sum[r][n] += x * row[n];
        }
    }
    for (int r = 0; r < R; r++)
        for (int n = 0; n < N; n++) *(Floats*)(c + r * ldc + n * LANES) = sum[r][n];
}

// The same for all m rows of C, in strips of 24 sums (with the loads that is what 32 registers hold), then what is left.
template <int N, bool ADD> inline void strips(int m, int k, const float* a, size_t ra, size_t ia, const float* b, size_t ldb, float* c, size_t ldc) {
    constexpr int R = N == 4 ? 6 : N == 3 ? 8 : 12;
    int i = 0;
    for (; i + R <= m; i += R) block<R, N, ADD>(a + i * ra, ra, ia, b, ldb, c + i * ldc, ldc, k);
    for (; i + 4 <= m; i += 4) block<4, N, ADD>(a + i * ra, ra, ia, b, ldb, c + i * ldc, ldc, k);
    for (; i < m; i++) block<1, N, ADD>(a + i * ra, ra, ia, b, ldb, c + i * ldc, ldc, k);
}

// C (m x n) = (ADD: +=) A (m x k) B (k x n); n a multiple of LANES, m any number.
template <bool ADD> inline void multiply(int m, int n, int k, const float* a, size_t ra, size_t ia, const float* b, size_t ldb, float* c, size_t ldc) {
    for (int j = 0; j < n; j += 4 * LANES)
        switch (std::min(4, (n - j) / LANES)) {
            case 4: strips<4, ADD>(m, k, a, ra, ia, b + j, ldb, c + j, ldc); break;
            case 3: strips<3, ADD>(m, k, a, ra, ia, b + j, ldb, c + j, ldc); break;
            case 2: strips<2, ADD>(m, k, a, ra, ia, b + j, ldb, c + j, ldc); break;
            default: strips<1, ADD>(m, k, a, ra, ia, b + j, ldb, c + j, ldc);
        }
}

// Tokens as rows of D numbers, `stride` apart, times `factor` -> [d][token] tiles of GROUP tokens, one after the other: rows as far apart as
// all tokens would meet in the same few lines of the cache. What is missing to the last full tile is zero.
template <int D> inline void turn(const float* from, size_t stride, int count, float* to, float factor = 1) {
    for (int t = 0; t < count; t += GROUP, to += D * GROUP)
        for (int part = 0; part < GROUP; part += LANES)  // in squares, so that both sides stay in the cache
            for (int d = 0; d < D; d++)
                for (int i = part; i < part + LANES; i++) to[d * GROUP + i] = t + i < count ? from[(t + i) * stride + d] * factor : 0.f;
}

struct Problem {
    int rows, heads, queries, keys, width;  // of a batch row: `width` = heads * D numbers a token
    float scale;
    bool causal;
    const float* bias;  // (bias_rows, keys), or null
    int bias_rows;
    const int *q_rows, *kv_rows;  // (rows): which row of q, and of k and v, each row reads

    size_t at(int row, int tokens, int token, int head, int d) const { return ((size_t)row * tokens + token) * width + head * d; }

    // The first row that reads the same q, k, v and bias: what it attends to is the same.
    int first_like(int row) const {
        if (bias_rows > 1) return row;
        for (int b = 0; b < row; b++)
            if (q_rows[b] == q_rows[row] && kv_rows[b] == kv_rows[row]) return b;
        return row;
    }
};

// A tile of scores [key][query], times log2(e), is in place: adds the bias, hides what must not be seen.
inline void finish_scores(const Problem& p, int row, int first_query, int queries, int first_key, int keys, float* score) {
    const float* bias = p.bias ? p.bias + (size_t)(p.bias_rows > 1 ? row : 0) * p.keys + first_key : nullptr;
    if (bias)
        for (int j = 0; j < keys; j++)
            for (int i = 0; i < queries; i += LANES) *(Floats*)(score + j * GROUP + i) += bias[j] * LOG2E;
    if (p.causal)
        for (int j = std::max(0, first_query - first_key + 1); j < keys; j++)
            for (int i = 0; i < std::min(queries, first_key + j - first_query); i++) score[j * GROUP + i] = HIDDEN;
}

// One tile of the running softmax: scores [key][query] become weights 2^(score - top); `top`, `total` and the sums [d][query] follow the new maximum.
template <int D> inline void soften(float* score, int keys, int queries, float* top, float* total, float* sum) {
    for (int i = 0; i < queries; i += LANES) {
        Floats* s = (Floats*)(score + i);
        constexpr int STEP = GROUP / LANES;
        Floats before = *(Floats*)(top + i), added{}, most[4] = {before, before, before, before};
        for (int j = 0; j < keys; j += 4)  // four chains: one would wait for itself
            for (int n = 0; n < 4; n++) most[n] = larger(most[n], s[std::min(j + n, keys - 1) * STEP]);
        Floats high = larger(larger(most[0], most[1]), larger(most[2], most[3]));
        for (int j = 0; j < keys; j++) added += s[j * STEP] = exp2_negative(s[j * STEP] - high);
        if (std::memcmp(&before, &high, sizeof high)) {
            Floats keep = exp2_negative(before - high);
            for (int d = 0; d < D; d++) *(Floats*)(sum + d * GROUP + i) *= keep;
            *(Floats*)(total + i) *= keep;
            *(Floats*)(top + i) = high;
        }
        *(Floats*)(total + i) += added;
    }
}

// out (rows, queries, width) and the log-sum-exp of every query's scores (rows, heads, queries).
template <int D> void attention_forward(const Problem& p, const float* q, const float* k, const float* v, float* out, float* log_sum) {
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
            for (int i = 0; i < count; i++) {
                float share = 1 / total[i], *to = out + p.at(row, p.queries, first + i, head, D);
                for (int d = 0; d < D; d++) to[d] = sum[i / GROUP * D * GROUP + d * GROUP + i % GROUP] * share;
                log_sum[((size_t)row * p.heads + head) * p.queries + first + i] = (top[i] + std::log2(total[i])) * LN2;
            }
        }
    }
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
