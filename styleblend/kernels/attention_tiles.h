// The parts that attention on the CPU is made of: products of tiles, the running softmax (Milakov & Gimelshein 2018),
// the layout. Tiles lie as [key][query] and [d][query], so that queries fill a vector: the softmax needs no sums across
// one.
#pragma once
#include <algorithm>
#include <cmath>
#include <cstring>
#include "vectors.h"

namespace styleblend {

constexpr int KEYS = 64, GROUP = 64;  // of a tile
constexpr float HIDDEN = -1e30f;

// C (R x LANES N) = (ADD: +=) A (R x k) B (k x LANES N): the sums stay in registers.
// A's element (r, i) is a[r * ra + i * ia].
// MOST: `most` follows the largest number of each column. Found here, C needs not be read again for it.
template <int R, int N, bool ADD, bool MOST>
inline void block(const float* a, size_t ra, size_t ia, const float* b, size_t ldb, float* c, size_t ldc, int k,
                  float* most) {
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
    if (!MOST) return;
    for (int n = 0; n < N; n++) {
        Floats high = *(const Floats*)(most + n * LANES);
        for (int r = 0; r < R; r++) high = larger(high, sum[r][n]);
        *(Floats*)(most + n * LANES) = high;
    }
}

constexpr int ACROSS = REGISTERS == 32 ? 4 : 2;  // vectors of a row of C at a time

// The same for all m rows of C, in strips of as many sums as three quarters of the registers hold (the others hold what
// is loaded), then what is left.
template <int N, bool ADD, bool MOST>
inline void strips(int m, int k, const float* a, size_t ra, size_t ia, const float* b, size_t ldb, float* c, size_t ldc,
                   float* most) {
    constexpr int R = std::min(12, REGISTERS * 3 / 4 / N);
    int i = 0;
    for (; i + R <= m; i += R) block<R, N, ADD, MOST>(a + i * ra, ra, ia, b, ldb, c + i * ldc, ldc, k, most);
    for (; i + 4 <= m; i += 4) block<4, N, ADD, MOST>(a + i * ra, ra, ia, b, ldb, c + i * ldc, ldc, k, most);
    for (; i < m; i++) block<1, N, ADD, MOST>(a + i * ra, ra, ia, b, ldb, c + i * ldc, ldc, k, most);
}

// C (m x n) = (ADD: +=) A (m x k) B (k x n); n a multiple of LANES, m any number. MOST: `most` (n) as in `block`; it
// begins at what is there.
template <bool ADD, bool MOST = false>
inline void multiply(int m, int n, int k, const float* a, size_t ra, size_t ia, const float* b, size_t ldb, float* c,
                     size_t ldc, float* most = nullptr) {
    for (int j = 0; j < n; j += ACROSS * LANES) {
        float* its = MOST ? most + j : nullptr;
        switch (std::min(ACROSS, (n - j) / LANES)) {
            case 4: strips<4, ADD, MOST>(m, k, a, ra, ia, b + j, ldb, c + j, ldc, its); break;
            case 3: strips<3, ADD, MOST>(m, k, a, ra, ia, b + j, ldb, c + j, ldc, its); break;
            case 2: strips<2, ADD, MOST>(m, k, a, ra, ia, b + j, ldb, c + j, ldc, its); break;
            default: strips<1, ADD, MOST>(m, k, a, ra, ia, b + j, ldb, c + j, ldc, its);
        }
    }
}

// Tokens as rows of D numbers, `stride` apart, times `factor` -> [d][token] tiles of GROUP tokens, one after the other:
// rows as far apart as all tokens would meet in the same few lines of the cache. What is missing to the last full tile
// is zero. Never inlined: the loops around it would leave it too few registers.
template <int D> __attribute__((noinline))
void turn(const float* from, size_t stride, int count, float* to, float factor = 1) {
    for (int t = 0; t < count; t += GROUP, to += D * GROUP)
        for (int part = 0; part < GROUP; part += LANES) {  // in squares, so that both sides stay in the cache
            const float* its = from + (t + part) * stride;
            int there = std::min(LANES, count - t - part);
            for (int d = 0; d < D; d++) {
                float* its_to = to + d * GROUP + part;
                if (there == LANES)
                    for (int i = 0; i < LANES; i++) its_to[i] = its[i * stride + d] * factor;
                else
                    for (int i = 0; i < LANES; i++) its_to[i] = i < there ? its[i * stride + d] * factor : 0.f;
            }
        }
}

// What one row of the result reads as a segment: a row of k and v, or -1. Its scores are multiplied by `scale`, then
// `shift` is added.
struct Segment {
    int row;
    float scale, shift;

    bool changes_scores() const { return scale != 1 || shift != 0; }
};

struct Problem {
    int rows, heads, queries, keys, width;  // of a batch row: `width` = heads * D numbers a token
    int segments;  // each of `keys` keys
    float scale;
    bool causal, tiles;  // tiles: may use the matrix tiles of the CPU
    const float* bias;  // (bias_rows, keys), or null; for one segment
    int bias_rows;
    const int *q_rows, *kv_rows;  // (rows), (segments, rows): which row of q, and of k and v, each row reads; -1: none
    const float *scales, *shifts;  // (segments, rows)

    size_t at(int row, int tokens, int token, int head, int d) const {
        return ((size_t)row * tokens + token) * width + head * d;
    }

    Segment segment(int s, int row) const {
        int i = s * rows + row;
        return {kv_rows[i], scales[i], shifts[i]};
    }

    // Whether two rows read the same q, and the same k and v in the same way.
    bool alike(int a, int b) const {
        if (bias_rows > 1 || q_rows[a] != q_rows[b]) return false;
        for (int s = 0; s < segments; s++) {
            Segment one = segment(s, a), other = segment(s, b);
            if (one.row != other.row || one.scale != other.scale || one.shift != other.shift) return false;
        }
        return true;
    }

    // The first row like this one: what it attends to is the same.
    int first_like(int row) const {
        for (int b = 0; b < row; b++)
            if (alike(b, row)) return b;
        return row;
    }
};

// A tile of products [key][query], times log2(e), becomes one of scores: as the segment wants them, with the bias, and
// what must not be seen is hidden. WIDE numbers from one key to the next.
template <int WIDE = GROUP>
inline void finish_scores(const Problem& p, int row, const Segment& its, int first_query, int queries, int first_key,
                          int keys, float* score) {
    if (its.changes_scores())
        for (int j = 0; j < keys; j++)
            for (int i = 0; i < queries; i += LANES) {
                Floats* s = (Floats*)(score + j * WIDE + i);
                *s = *s * its.scale + its.shift * LOG2E;
            }
    const float* bias = p.bias ? p.bias + (size_t)(p.bias_rows > 1 ? row : 0) * p.keys + first_key : nullptr;
    if (bias)
        for (int j = 0; j < keys; j++)
            for (int i = 0; i < queries; i += LANES) *(Floats*)(score + j * WIDE + i) += bias[j] * LOG2E;
    if (p.causal)
        for (int j = std::max(0, first_query - first_key + 1); j < keys; j++)
            for (int i = 0; i < std::min(queries, first_key + j - first_query); i++) score[j * WIDE + i] = HIDDEN;
}

// The largest score of each query of a tile.
inline void find_most(const float* score, int keys, int queries, float* most) {
    for (int i = 0; i < queries; i += LANES) {
        const Floats* s = (const Floats*)(score + i);
        Floats high[4] = {s[0], s[0], s[0], s[0]};
        for (int j = 0; j < keys; j += 4)  // four chains: one would wait for itself
            for (int n = 0; n < 4; n++) high[n] = larger(high[n], s[std::min(j + n, keys - 1) * (GROUP / LANES)]);
        *(Floats*)(most + i) = larger(larger(high[0], high[1]), larger(high[2], high[3]));
    }
}

// One tile of the running softmax: scores [key][query] become weights 2^(score - top); `top`, `total` and the sums
// [d][query] follow the new maximum, for which `most` has the tile's.
template <int D>
inline void soften(float* score, int keys, int queries, const float* most, float* top, float* total, float* sum) {
    for (int i = 0; i < queries; i += LANES) {
        Floats* s = (Floats*)(score + i);
        constexpr int STEP = GROUP / LANES;
        Floats before = *(Floats*)(top + i), added{}, high = larger(before, *(const Floats*)(most + i));
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

// In the backward pass the scores of a tile become weights again, 2^(score - base), and the gradients of the weights
// those of the scores. A score is at most its query's log-sum-exp `base`, but for rounding.
inline void weigh(float* weight, float* slope, int keys, int queries, const float* base, const float* delta) {
    for (int j = 0; j < keys; j++)
        for (int i = 0; i < queries; i += LANES) {
            Floats *w = (Floats*)(weight + j * GROUP + i), *s = (Floats*)(slope + j * GROUP + i);
            *w = exp2_negative(*w - *(Floats*)(base + i));
            *s = *w * (*s - *(Floats*)(delta + i));
        }
}

// The result of `count` queries from `first` on: their sums, [d][query] in groups, over the totals; and the log-sum-exp
// of their scores.
template <int D>
inline void store_result(const Problem& p, int row, int head, int first, int count, const float* sum, const float* top,
                         const float* total, float* out, float* log_sum) {
    for (int i = 0; i < count; i++) {
        float share = 1 / total[i], *to = out + p.at(row, p.queries, first + i, head, D);
        for (int d = 0; d < D; d++) to[d] = sum[i / GROUP * D * GROUP + d * GROUP + i % GROUP] * share;
        log_sum[((size_t)row * p.heads + head) * p.queries + first + i] = (top[i] + std::log2(total[i])) * LN2;
    }
}

// The result and the log-sum-exp of rows that are like an earlier one.
template <class T> void copy_alike(const Problem& p, T* out, float* log_sum) {
    size_t size = (size_t)p.queries * p.width, sums = (size_t)p.heads * p.queries;
    for (int row = 0; row < p.rows; row++) {
        int like = p.first_like(row);
        if (like != row) {
            std::memcpy(out + row * size, out + like * size, size * sizeof(T));
            std::memcpy(log_sum + row * sums, log_sum + like * sums, sums * sizeof(float));
        }
    }
}

}  // namespace styleblend
