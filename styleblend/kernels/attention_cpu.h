// Softmax attention on the CPU, forward and backward, without ever holding a matrix of scores (Dao et al. 2022, algorithms 1 and 4;
// the running maximum is that of Milakov & Gimelshein 2018). Every thread works on one tile of queries and one tile of keys at a time, in
// buffers of some 100 KiB that stay in its cache; the backward pass computes the scores again from the saved log-sum-exp.
// D is the head size, a compile-time constant; any number of queries and keys. Needs g++ (vector extensions), no intrinsics.
#pragma once
#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

namespace styleblend {

typedef float Floats __attribute__((vector_size(64), aligned(4), may_alias));
typedef int Ints __attribute__((vector_size(64), aligned(4), may_alias));
constexpr int LANES = 16, ROWS = 4, KEYS = 64, QUERIES = 128;
constexpr float HIDDEN = -1e30f;
constexpr int padded(int n, int to) { return (n + to - 1) / to * to; }

// e^x for x <= 0: Cody-Waite reduction to +-ln(2)/2, then the Taylor polynomial of degree 6 (relative error < 4e-7).
inline Floats exp_negative(Floats x) {
    Ints alive = x > -87.f;
    x = alive ? x : Floats{} - 87.f;
    Ints n = __builtin_convertvector(x * 1.44269504f - 0.5f, Ints);
    Floats k = __builtin_convertvector(n, Floats), r = x - k * 0.693359375f + k * 2.12194440e-4f;
    Floats p = Floats{} + 1.f / 720;
    p = p * r + 1.f / 120; p = p * r + 1.f / 24; p = p * r + 1.f / 6; p = p * r + 0.5f; p = p * r + 1.f; p = p * r + 1.f;
    Floats power = (Floats)((n + 127) << 23);
    return alive ? p * power : Floats{};
}

// C (ROWS x 16 N) = or += A (ROWS x k) B (k x 16 N): the sums stay in registers.
template <int N> inline void block(const float* a, int lda, const float* b, int ldb, float* c, int ldc, int k, bool add) {
    Floats sum[ROWS][N];
    for (int r = 0; r < ROWS; r++)
        for (int n = 0; n < N; n++) sum[r][n] = add ? *(const Floats*)(c + r * ldc + n * LANES) : Floats{};
    for (int i = 0; i < k; i++) {
        Floats row[N];
        for (int n = 0; n < N; n++) row[n] = *(const Floats*)(b + (size_t)i * ldb + n * LANES);
        for (int r = 0; r < ROWS; r++) {
            float x = a[r * lda + i];
            for (int n = 0; n < N; n++) sum[r][n] += x * row[n];
        }
    }
    for (int r = 0; r < ROWS; r++)
        for (int n = 0; n < N; n++) *(Floats*)(c + r * ldc + n * LANES) = sum[r][n];
}

// C (m x n) = or += A (m x k) B (k x n); m a multiple of ROWS, n of LANES.
inline void multiply(int m, int n, int k, const float* a, int lda, const float* b, int ldb, float* c, int ldc, bool add) {
    for (int i = 0; i < m; i += ROWS)
        for (int j = 0; j < n; j += 4 * LANES) {
            const float* left = a + (size_t)i * lda;
            switch (std::min(4, (n - j) / LANES)) {
                case 4: block<4>(left, lda, b + j, ldb, c + (size_t)i * ldc + j, ldc, k, add); break;
                case 3: block<3>(left, lda, b + j, ldb, c + (size_t)i * ldc + j, ldc, k, add); break;
                case 2: block<2>(left, lda, b + j, ldb, c + (size_t)i * ldc + j, ldc, k, add); break;
                default: block<1>(left, lda, b + j, ldb, c + (size_t)i * ldc + j, ldc, k, add);
            }
        }
}

// `count` rows of D numbers, `stride` apart, times `factor`, to rows of `ld`; the rest up to `rows` x `ld` is zero.
template <int D> inline void load(const float* from, size_t stride, int count, int rows, float* to, int ld, float factor = 1) {
    std::fill(to, to + (size_t)rows * ld, 0.f);
    for (int i = 0; i < count; i++)
        for (int d = 0; d < D; d++) to[(size_t)i * ld + d] = from[i * stride + d] * factor;
}

inline void transpose(const float* from, int rows, int columns, int ld_from, float* to, int ld_to) {
    for (int r = 0; r < rows; r += LANES)  // in squares, so that both sides stay in the cache
        for (int c = 0; c < columns; c++)
            for (int i = r; i < std::min(r + LANES, rows); i++) to[(size_t)c * ld_to + i] = from[(size_t)i * ld_from + c];
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

// Scores of a tile of queries and keys that is in place: adds the bias, hides what must not be seen.
inline void finish_scores(const Problem& p, int row, int first_query, int queries, int first_key, int keys, float* score) {
    const float* bias = p.bias ? p.bias + (size_t)(p.bias_rows > 1 ? row : 0) * p.keys + first_key : nullptr;
    for (int i = 0; i < queries; i++) {
        int seen = p.causal ? std::max(0, std::min(keys, first_query + i + 1 - first_key)) : keys;
        float* s = score + i * KEYS;
        if (bias) for (int j = 0; j < seen; j++) s[j] += bias[j];
        for (int j = seen; j < KEYS; j++) s[j] = HIDDEN;
    }
}

// out (rows, queries, width) and the log-sum-exp of every query's scores (rows, heads, queries).
template <int D> void attention_forward(const Problem& p, const float* q, const float* k, const float* v, float* out, float* log_sum) {
    constexpr int P = padded(D, LANES);
    int tiles = (p.queries + QUERIES - 1) / QUERIES;
    #pragma omp parallel
    {
        std::vector<float> memory((2 * QUERIES + 2 * KEYS) * P + QUERIES * KEYS + 2 * QUERIES);
        float *tile_q = memory.data(), *sum = tile_q + QUERIES * P, *tile_k = sum + QUERIES * P, *tile_v = tile_k + KEYS * P,
              *score = tile_v + KEYS * P, *top = score + QUERIES * KEYS, *total = top + QUERIES;
        #pragma omp for schedule(dynamic)
        for (int unit = 0; unit < p.rows * p.heads * tiles; unit++) {
            int row = unit / (p.heads * tiles), head = unit / tiles % p.heads, first = unit % tiles * QUERIES;
            if (p.first_like(row) != row) continue;
            int count = std::min(QUERIES, p.queries - first), rows = padded(count, ROWS);
            load<D>(q + p.at(p.q_rows[row], p.queries, first, head, D), p.width, count, rows, tile_q, P, p.scale);
            std::fill(sum, sum + rows * P, 0.f); std::fill(top, top + QUERIES, HIDDEN); std::fill(total, total + QUERIES, 0.f);
            int last = p.causal ? std::min(p.keys, first + count) : p.keys;
            for (int key = 0; key < last; key += KEYS) {
                int keys = std::min(KEYS, last - key), wide = padded(keys, LANES);
                const float* from = k + p.at(p.kv_rows[row], p.keys, key, head, D);
                std::fill(tile_k, tile_k + KEYS * P, 0.f);
                transpose(from, keys, D, p.width, tile_k, KEYS);
                load<D>(v + p.at(p.kv_rows[row], p.keys, key, head, D), p.width, keys, KEYS, tile_v, P);
                multiply(rows, wide, D, tile_q, P, tile_k, KEYS, score, KEYS, false);
                finish_scores(p, row, first, count, key, keys, score);
                for (int i = 0; i < count; i++) {
                    float *s = score + i * KEYS, high = top[i];
                    for (int j = 0; j < wide; j++) high = std::max(high, s[j]);
                    float keep = std::exp(top[i] - high);
                    Floats added{};
                    for (int j = 0; j < wide; j += LANES) {
                        Floats e = exp_negative(*(Floats*)(s + j) - high);
                        *(Floats*)(s + j) = e; added += e;
                    }
                    float more = 0;
                    for (int j = 0; j < LANES; j++) more += added[j];
                    total[i] = total[i] * keep + more; top[i] = high;
                    if (keep != 1) for (int d = 0; d < P; d++) sum[i * P + d] *= keep;
                }
                multiply(rows, P, keys, score, KEYS, tile_v, P, sum, P, true);
            }
            for (int i = 0; i < count; i++) {
                float share = 1 / total[i], *to = out + p.at(row, p.queries, first + i, head, D);
                for (int d = 0; d < D; d++) to[d] = sum[i * P + d] * share;
                log_sum[((size_t)row * p.heads + head) * p.queries + first + i] = top[i] + std::log(total[i]);
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

// Gradients of q, k and v, which must be zero before. Rows that share q or k and v add to the same gradient: then one thread takes all rows of a head.
template <int D> void attention_backward(const Problem& p, const float* q, const float* k, const float* v, const float* out, const float* log_sum,
                                         const float* d_out, float* d_q, float* d_k, float* d_v) {
    constexpr int P = padded(D, LANES), TILE = KEYS;
    bool shared = false;
    for (int row = 0; row < p.rows; row++) shared |= p.q_rows[row] != row || p.kv_rows[row] != row;
    int units = shared ? p.heads : p.rows * p.heads;
    #pragma omp parallel
    {
        std::vector<float> memory(TILE * P * 10 + TILE * TILE * 3);
        float *tile_q = memory.data(), *tile_o = tile_q + TILE * P, *sum_q = tile_o + TILE * P, *tile_k = sum_q + TILE * P, *turned_k = tile_k + TILE * P,
              *tile_v = turned_k + TILE * P, *turned_v = tile_v + TILE * P, *sum_k = turned_v + TILE * P, *sum_v = sum_k + TILE * P, *spare = sum_v + TILE * P,
              *weight = spare + TILE * P, *slope = weight + TILE * TILE, *turned = slope + TILE * TILE;
        #pragma omp for schedule(dynamic)
        for (int unit = 0; unit < units; unit++)
            for (int row = shared ? 0 : unit / p.heads; row < (shared ? p.rows : unit / p.heads + 1); row++) {
                int head = unit % p.heads, of_q = p.q_rows[row], of_kv = p.kv_rows[row];
                for (int key = 0; key < p.keys; key += TILE) {
                    int keys = std::min(TILE, p.keys - key), wide = padded(keys, LANES);
                    load<D>(k + p.at(of_kv, p.keys, key, head, D), p.width, keys, TILE, tile_k, P);
                    load<D>(v + p.at(of_kv, p.keys, key, head, D), p.width, keys, TILE, tile_v, P);
                    transpose(tile_k, TILE, P, P, turned_k, TILE); transpose(tile_v, TILE, P, P, turned_v, TILE);
                    std::fill(sum_k, sum_k + TILE * P, 0.f); std::fill(sum_v, sum_v + TILE * P, 0.f);
                    for (int first = p.causal ? key / TILE * TILE : 0; first < p.queries; first += TILE) {
                        int count = std::min(TILE, p.queries - first), rows = padded(count, ROWS);
                        load<D>(q + p.at(of_q, p.queries, first, head, D), p.width, count, TILE, tile_q, P, p.scale);
                        load<D>(d_out + p.at(row, p.queries, first, head, D), p.width, count, TILE, tile_o, P);
                        multiply(rows, wide, D, tile_q, P, turned_k, TILE, weight, TILE, false);
                        multiply(rows, wide, D, tile_o, P, turned_v, TILE, slope, TILE, false);
                        finish_scores(p, row, first, count, key, keys, weight);
                        for (int i = 0; i < count; i++) {
                            const float *o = out + p.at(row, p.queries, first + i, head, D);
                            float delta = 0, base = log_sum[((size_t)row * p.heads + head) * p.queries + first + i];
                            for (int d = 0; d < D; d++) delta += o[d] * tile_o[i * P + d];
                            for (int j = 0; j < TILE; j += LANES) {
                                Floats* w = (Floats*)(weight + i * TILE + j);
                                Floats* s = (Floats*)(slope + i * TILE + j);
                                // a score is at most its row's log-sum-exp but for rounding: the exponent's range is x <= 0
                                Floats x = *w - base;
                                *w = exp_negative(x < 0.f ? x : Floats{});
                                *s = j < wide ? *w * (*s - delta) : Floats{};
                            }
                        }
                        transpose(weight, count, TILE, TILE, turned, TILE);
                        multiply(wide, P, count, turned, TILE, tile_o, P, sum_v, P, true);
                        transpose(slope, count, TILE, TILE, turned, TILE);
                        multiply(wide, P, count, turned, TILE, tile_q, P, sum_k, P, true);  // tile_q holds the scale
                        multiply(rows, P, keys, slope, TILE, tile_k, P, sum_q, P, false);
                        for (int i = 0; i < count; i++) {
                            float* to = d_q + p.at(of_q, p.queries, first + i, head, D);
                            for (int d = 0; d < D; d++) to[d] += sum_q[i * P + d] * p.scale;
                        }
                    }
                    for (int j = 0; j < keys; j++) {
                        size_t to = p.at(of_kv, p.keys, key + j, head, D);
                        for (int d = 0; d < D; d++) { d_k[to + d] += sum_k[j * P + d]; d_v[to + d] += sum_v[j * P + d]; }
                    }
                }
            }
    }
}

}  // namespace styleblend
