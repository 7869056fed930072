// Softmax attention on a GPU, forward and backward, without ever holding a matrix of scores (Dao et al. 2022,
// algorithms 1 and 4; one warp has whole rows of scores as in Dao 2023, section 3.3). float16 needs compute capability
// 7.5; bfloat16, TF32 and SPLIT need 8.0. T is the type of q, k, v, the result and their gradients; sums are float32.
// SIZE, the size of a head, is any number up to 160.
#pragma once
#include "blocks.h"

namespace styleblend { namespace cuda {

constexpr float LOG2E = 1.44269504f, LN2 = 0.69314718f;
// The score of what must not be seen, and where a maximum begins: 2^(HIDDEN - LOWEST) is 0.
constexpr float HIDDEN = -3.4e38f, LOWEST = -3e38f;

// What one row of the result reads as a segment: a row of k and v, or -1. Its scores are multiplied by `scale`, then
// `shift` is added.
struct Segment {
    int row;
    float scale, shift;
};

template <class T> struct Problem {
    int rows, q_count, kv_count;  // of the result, of q, and of k and v
    int heads, queries, keys, width;  // `width` numbers a token
    int segments;  // each of `keys` keys
    float scale;
    bool causal;
    const float* bias;  // (bias_rows, keys), or null; for one segment
    int bias_rows;
    const int *q_rows, *kv_rows;  // (rows), (segments, rows): which row of q, and of k and v, each row reads; -1: none
    const float *scales, *shifts;  // (segments, rows)
    const T *q, *k, *v;
    T* result;       // (rows, queries, width)
    float* log_sum;  // of the exponentials of each query's scores: (rows, heads, queries)
    const T* d_result;  // from here on only the backward pass; it writes every number of d_q, d_k and d_v
    float* delta;       // room for the sum of result * d_result of each query: as log_sum
    T *d_q, *d_k, *d_v;

    __device__ size_t at(int row, int tokens, int head, int size) const {
        return (size_t)row * tokens * width + head * size;
    }
    __device__ size_t sums(int row, int head) const { return ((size_t)row * heads + head) * queries; }
    __device__ Segment segment(int s, int row) const {
        int i = s * rows + row;
        return {kv_rows[i], scales[i], shifts[i]};
    }

    // Whether two rows read the same q, and the same k and v in the same way.
    __device__ bool alike(int a, int b) const {
        bool same = a == b || (bias_rows < 2 && q_rows[a] == q_rows[b]);
        for (int s = 0; same && a != b && s < segments; s++) {
            Segment one = segment(s, a), other = segment(s, b);
            same = one.row == other.row && one.scale == other.scale && one.shift == other.shift;
        }
        return same;
    }

    // N blocks of products, of the queries from `mine` on and the keys from `other` on, or KEYS the other way round ->
    // scores in units of log 2, with the bias; HIDDEN where there is no such query or key or it must not be seen.
    template <bool KEYS, int N>
    __device__ void finish_scores(Block<float>* score, int row, int s, int mine, int other) const {
        const Segment its = segment(s, row);
        float unit = scale * its.scale * LOG2E, shift = its.shift * LOG2E;
        const float* its_bias = bias ? bias + (size_t)(bias_rows > 1 ? row : 0) * keys : nullptr;
        auto finish = [&](float s, int mine, int other) {
            int query = KEYS ? other : mine, key = KEYS ? mine : other;
            bool seen = key < keys && query < queries && !(causal && key > query);
            return seen ? s * unit + (its_bias ? its_bias[key] * LOG2E : shift) : HIDDEN;
        };
        bool whole = other + 16 * N <= (KEYS ? queries : keys);
        if (whole && !bias && (!causal || (KEYS ? mine + 15 <= other : other + 16 * N - 1 <= mine))) {
            #pragma unroll
            for (int i = 0; i < 4 * N; i++) {
                float2& s = score[i / 4].pair[i % 4];
                s = {s.x * unit + shift, s.y * unit + shift};
            }
        } else {
            #pragma unroll
            for (int i = 0; i < 4 * N; i++) {
                float2& s = score[i / 4].pair[i % 4];
                int m = mine + row_of(i % 4), o = other + i / 4 * 16 + column_of(i % 4);
                s = {finish(s.x, m, o), finish(s.y, m, o + 1)};
            }
        }
    }
};

// The running softmax of a warp meets a tile of scores: `top`, `total` and the sums, those of the lane's rows g and g +
// 8, follow the new maximum. `total` is that of the lane's own columns.
template <int N, int K>
__device__ void follow_maximum(const Block<float>* score, float* top, float* total, Block<float>* sum) {
    float high[2] = {top[0], top[1]}, keep[2];
    #pragma unroll
    for (int n = 0; n < N; n++)
        #pragma unroll
        for (int i = 0; i < 4; i++) high[i & 1] = fmaxf(high[i & 1], fmaxf(score[n].pair[i].x, score[n].pair[i].y));
    for (int r = 0; r < 2; r++) {
        for (int n = 1; n < 4; n *= 2) high[r] = fmaxf(high[r], __shfl_xor_sync(~0u, high[r], n));
        keep[r] = exp2f(top[r] - high[r]);
        top[r] = high[r];
        total[r] *= keep[r];
    }
    #pragma unroll
    for (int k = 0; k < K; k++)
        #pragma unroll
        for (int i = 0; i < 4; i++) { sum[k].pair[i].x *= keep[i & 1]; sum[k].pair[i].y *= keep[i & 1]; }
}

template <class T, int SIZE, Precision P> __global__ void __launch_bounds__(THREADS) forward(const Problem<T> p) {
    typedef Tile<T, SIZE, P> L;
    constexpr int K = blocks(SIZE), N = L::TOKENS / 16;
    extern __shared__ float4 memory[];
    int row = blockIdx.z, head = blockIdx.y, begin = blockIdx.x * OWN, first = begin + threadIdx.x / 32 * 16;
    for (int b = 0; b < row; b++)
        if (p.alike(b, row)) return;  // row b's blocks write this one's result too
    Block<T> q[K];
    load<SIZE>(p.q + p.at(p.q_rows[row], p.queries, head, SIZE), p.width, first, p.queries, q);
    Block<float> sum[K] = {};
    float top[2] = {LOWEST, LOWEST}, total[2] = {0, 0};
    for (int s = 0; s < p.segments; s++) {
        int of_kv = p.kv_rows[s * p.rows + row], end = p.causal ? min(p.keys, begin + OWN) : p.keys;
        if (of_kv < 0) continue;
        size_t from = p.at(of_kv, p.keys, head, SIZE);
        auto work = [&](int token, const T* k, const T* v) {
            Block<float> score[N] = {};
            multiply<true, K, N, L::PITCH, P>(q, k, score);
            p.template finish_scores<false, N>(score, row, s, first, token);
            follow_maximum<N, K>(score, top, total, sum);
            #pragma unroll
            for (int n = 0; n < N; n++) {
                #pragma unroll
                for (int i = 0; i < 4; i++) {
                    float2& s = score[n].pair[i];
                    s = float2{exp2f(s.x - top[i & 1]), exp2f(s.y - top[i & 1])};
                    total[i & 1] += s.x + s.y;
                }
                Block<T> weight = narrowed<T>(score[n]);
                multiply<false, 1, K, L::PITCH, P>(&weight, v + 16 * n * L::PITCH, sum);
            }
        };
        for_each_tile<L>(p.k + from, p.v + from, p.width, 0, end, (T*)memory, work);
    }
    for (int r = 0; r < 2; r++)
        for (int n = 1; n < 4; n *= 2) total[r] += __shfl_xor_sync(~0u, total[r], n);
    for (int b = row; b < p.rows; b++) {
        if (!p.alike(row, b)) continue;
        T* to = p.result + p.at(b, p.queries, head, SIZE);
        store<SIZE>(sum, 1 / total[0], 1 / total[1], to, p.width, first, p.queries);
        for (int r = 0; r < 2; r++)
            if (lane() % 4 == 0 && first + row_of(r) < p.queries)
                p.log_sum[p.sums(b, head) + first + row_of(r)] = (top[r] + log2f(total[r])) * LN2;
    }
}

// Of every query of a row and head in memory, and of the lane's own two: the log-sum-exp of its scores, and the sum of
// result * gradient. `delta` in memory is written by the kernel that goes by queries, for the one that goes by keys.
struct Levels {
    const float* log_sum;
    float* delta;
    float own_log_sum[2], own_delta[2];
};

// The lane's own levels, from the result and its gradient.
template <class T, int SIZE>
__device__ void find_levels(const Problem<T>& p, const T* result, int first, const Block<T>* d_result, Levels& to) {
    constexpr int K = blocks(SIZE);
    Block<T> its[K];
    load<SIZE>(result, p.width, first, p.queries, its);
    #pragma unroll
    for (int k = 0; k < K; k++)
        #pragma unroll
        for (int i = 0; i < 4; i++) {
            float2 o = wide(its[k].pair[i]), d = wide(d_result[k].pair[i]);
            to.own_delta[i & 1] += o.x * d.x + o.y * d.y;
        }
    for (int r = 0; r < 2; r++) {
        for (int n = 1; n < 4; n *= 2) to.own_delta[r] += __shfl_xor_sync(~0u, to.own_delta[r], n);
        int query = first + row_of(r);
        if (query < p.queries) {
            to.own_log_sum[r] = to.log_sum[query];
            if (lane() % 4 == 0) to.delta[query] = to.own_delta[r];
        }
    }
}

// A block of scores becomes weights; the gradients of these become those of the products q k. `first_query`: of KEYS.
template <bool KEYS>
__device__ void weigh(Block<float>& weight, Block<float>& slope, const Levels& of, float scale, int first_query,
                      int queries) {
    #pragma unroll
    for (int i = 0; i < 4; i++) {
        float2 &w = weight.pair[i], &s = slope.pair[i];
        float2 base = {of.own_log_sum[i & 1], of.own_log_sum[i & 1]};
        float2 level = {of.own_delta[i & 1], of.own_delta[i & 1]};
        if (KEYS) {  // queries beyond the last one have no weight
            int query = min(first_query + column_of(i), queries - 1), next = min(query + 1, queries - 1);
            base = {of.log_sum[query], of.log_sum[next]};
            level = {of.delta[query], of.delta[next]};
        }
        w = {exp2f(w.x - base.x * LOG2E), exp2f(w.y - base.y * LOG2E)};
        s = {w.x * (s.x - level.x) * scale, w.y * (s.y - level.y) * scale};
    }
}

// The gradient of q by blocks of queries (which leave `delta` behind), then those of k and v by blocks of keys: KEYS. A
// block takes one row of q, or of k and v, and adds up what all rows of the result that read it say, in whatever
// segment, always in the same order: the same numbers every time.
// With s the scores, w their softmax and o the result: dv = w^T do, ds = w (do v^T - delta), dq = ds k, dk = ds^T q. By
// keys all are turned.
template <class T, int SIZE, Precision P, bool KEYS>
__global__ void __launch_bounds__(THREADS) backward(const Problem<T> p) {
    typedef Tile<T, SIZE, P> L;
    constexpr int K = blocks(SIZE);
    extern __shared__ float4 memory[];
    int source = blockIdx.z, head = blockIdx.y, begin = blockIdx.x * OWN, first = begin + threadIdx.x / 32 * 16;
    int count = KEYS ? p.keys : p.queries, from = KEYS && p.causal ? begin : 0;
    int end = KEYS ? p.queries : p.causal ? min(p.keys, begin + OWN) : p.keys;
    size_t own = p.at(source, count, head, SIZE);
    Block<T> mine[K], partner[K];  // k and v, or q and the result's gradient
    load<SIZE>((KEYS ? p.k : p.q) + own, p.width, first, count, mine);
    if (KEYS) load<SIZE>(p.v + own, p.width, first, count, partner);
    Block<float> d_mine[K] = {}, d_partner[KEYS ? K : 1] = {};
    for (int row = 0; row < p.rows; row++) {
        if (!KEYS && p.q_rows[row] != source) continue;
        size_t q_at = p.at(p.q_rows[row], p.queries, head, SIZE), result_at = p.at(row, p.queries, head, SIZE);
        Levels levels = {p.log_sum + p.sums(row, head), p.delta + p.sums(row, head), {0, 0}, {0, 0}};
        if (!KEYS) {
            load<SIZE>(p.d_result + result_at, p.width, first, count, partner);
            find_levels<T, SIZE>(p, p.result + result_at, first, partner, levels);
        }
        for (int s = 0; s < p.segments; s++) {
            int of_kv = p.kv_rows[s * p.rows + row];
            if (KEYS ? of_kv != source : of_kv < 0) continue;
            size_t kv_at = p.at(of_kv, p.keys, head, SIZE);
            const T *one = KEYS ? p.q + q_at : p.k + kv_at, *two = KEYS ? p.d_result + result_at : p.v + kv_at;
            auto work = [&](int token, const T* theirs, const T* their_partner) {
                for (int n = 0; n < L::TOKENS / 16; n++) {
                    const T *other = theirs + 16 * n * L::PITCH, *other_partner = their_partner + 16 * n * L::PITCH;
                    Block<float> weight = {}, slope = {};
                    multiply<true, K, 1, L::PITCH, P>(mine, other, &weight);
                    multiply<true, K, 1, L::PITCH, P>(partner, other_partner, &slope);
                    p.template finish_scores<KEYS, 1>(&weight, row, s, first, token + 16 * n);
                    weigh<KEYS>(weight, slope, levels, p.segment(s, row).scale, token + 16 * n, p.queries);
                    Block<T> narrow_slope = narrowed<T>(slope);
                    multiply<false, 1, K, L::PITCH, P>(&narrow_slope, other, d_mine);
                    if (KEYS) {
                        Block<T> narrow_weight = narrowed<T>(weight);
                        multiply<false, 1, K, L::PITCH, P>(&narrow_weight, other_partner, d_partner);
                    }
                }
            };
            for_each_tile<L>(one, two, p.width, from, end, (T*)memory, work);
        }
    }
    store<SIZE>(d_mine, p.scale, p.scale, (KEYS ? p.d_k : p.d_q) + own, p.width, first, count);
    if (KEYS) store<SIZE>(d_partner, 1, 1, p.d_v + own, p.width, first, count);
}

template <class L, class T>
cudaError_t launch(void (*kernel)(const Problem<T>), const Problem<T>& p, int tokens, int rows) {
    void* arguments[] = {(void*)&p};
    dim3 grid((tokens + OWN - 1) / OWN, p.heads, rows);
    return cudaLaunchKernel(kernel, grid, dim3(THREADS), arguments, L::BYTES, 0);
}

template <class T, int SIZE, Precision P> cudaError_t attention_forward(const Problem<T>& p) {
    return launch<Tile<T, SIZE, P>>(forward<T, SIZE, P>, p, p.queries, p.rows);
}

template <class T, int SIZE, Precision P> cudaError_t attention_backward(const Problem<T>& p) {
    typedef Tile<T, SIZE, P> L;
    cudaError_t error = launch<L>(backward<T, SIZE, P, false>, p, p.queries, p.q_count);
    return error != cudaSuccess ? error : launch<L>(backward<T, SIZE, P, true>, p, p.keys, p.kv_count);
}

} }  // namespace styleblend::cuda
