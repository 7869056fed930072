// Softmax attention on a GPU, forward and backward, without ever holding a matrix of scores (Dao et al. 2022, algorithms 1 and 4; one warp has
// whole rows of scores as in Dao 2023, section 3.3). float16 needs compute capability 7.5; bfloat16, TF32 and SPLIT need 8.0.
// T is the type of q, k, v, the result and their gradients; sums are float32. SIZE, the size of a head, is any number up to 160.
#pragma once
#include "blocks.h"

namespace styleblend { namespace cuda {

constexpr float LOG2E = 1.44269504f, LN2 = 0.69314718f;
constexpr float HIDDEN = -3.4e38f, LOWEST = -3e38f;  // the score of what must not be seen, and where a maximum begins: 2^(HIDDEN - LOWEST) is 0

template <class T> struct Problem {
    int rows, q_count, kv_count, heads, queries, keys, width;  // rows of the result, of q, and of k and v; `width` numbers a token
    float scale;
    bool causal;
    const float* bias;  // (bias_rows, keys), or null
    int bias_rows;
    const int *q_rows, *kv_rows;  // (rows): which row of q, and of k and v, each row reads
    const T *q, *k, *v;
    T* result;       // (rows, queries, width)
    float* log_sum;  // of the exponentials of each query's scores: (rows, heads, queries)
    const T* d_result;  // from here on only the backward pass; it writes every number of d_q, d_k and d_v
    float* delta;       // room for the sum of result * d_result of each query: as log_sum
    T *d_q, *d_k, *d_v;

    __device__ size_t at(int row, int tokens, int head, int size) const { return (size_t)row * tokens * width + head * size; }
    __device__ size_t sums(int row, int head) const { return ((size_t)row * heads + head) * queries; }
    __device__ bool alike(int a, int b) const { return a == b || (bias_rows < 2 && q_rows[a] == q_rows[b] && kv_rows[a] == kv_rows[b]); }

    // N blocks of products, of the queries from `mine` on and the keys from `other` on, or KEYS the other way round -> scores in units of log 2,
    // with the bias; HIDDEN where there is no such query or key or it must not be seen.
    template <bool KEYS, int N> __device__ void finish_scores(Block<float>* score, int row, int mine, int other) const {
        float unit = scale * LOG2E;
        const float* its_bias = bias ? bias + (size_t)(bias_rows > 1 ? row : 0) * keys : nullptr;
        auto finish = [&](float s, int mine, int other) {
            int query = KEYS ? other : mine, key = KEYS ? mine : other;
            bool seen = key < keys && query < queries && !(causal && key > query);
            return seen ? s * unit + (its_bias ? its_bias[key] * LOG2E : 0.f) : HIDDEN;
        };
        bool plain = !bias && other + 16 * N <= (KEYS ? queries : keys) && (!causal || (KEYS ? mine + 15 <= other : other + 16 * N - 1 <= mine));
        if (plain) {
            #pragma unroll
            for (int i = 0; i < 4 * N; i++) score[i / 4].pair[i % 4] = {score[i / 4].pair[i % 4].x * unit, score[i / 4].pair[i % 4].y * unit};
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

template <class T, int SIZE, Precision P> __global__ void __launch_bounds__(THREADS) forward(const Problem<T> p) {
    typedef Tile<T, SIZE> L;
    constexpr int K = blocks(SIZE), N = L::TOKENS / 16;
    extern __shared__ float4 memory[];
    int row = blockIdx.z, head = blockIdx.y, begin = blockIdx.x * OWN, first = begin + threadIdx.x / 32 * 16;
    for (int b = 0; b < row; b++)
        if (p.alike(b, row)) return;  // its block writes this row too
    Block<T> q[K];
    load<SIZE>(p.q + p.at(p.q_rows[row], p.queries, head, SIZE), p.width, first, p.queries, q);
    Block<float> sum[K] = {};
    float top[2] = {LOWEST, LOWEST}, total[2] = {0, 0};  // of the lane's rows g and g + 8; `total` is that of its own columns until the end
    size_t from = p.at(p.kv_rows[row], p.keys, head, SIZE);
    int end = p.causal ? min(p.keys, begin + OWN) : p.keys;
    for_each_tile<SIZE>(p.k + from, p.v + from, p.width, 0, end, (T*)memory, [&](int token, const T* k, const T* v) {
        Block<float> score[N] = {};
        multiply<true, K, N, L::PITCH, P>(q, k, score);
        p.template finish_scores<false, N>(score, row, first, token);
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
    });
    for (int r = 0; r < 2; r++)
        for (int n = 1; n < 4; n *= 2) total[r] += __shfl_xor_sync(~0u, total[r], n);
    for (int b = row; b < p.rows; b++) {
        if (!p.alike(row, b)) continue;
        store<SIZE>(sum, 1 / total[0], 1 / total[1], p.result + p.at(b, p.queries, head, SIZE), p.width, first, p.queries);
        for (int r = 0; r < 2; r++)
            if (lane() % 4 == 0 && first + row_of(r) < p.queries) p.log_sum[p.sums(b, head) + first + row_of(r)] = (top[r] + log2f(total[r])) * LN2;
    }
}

// The gradient of q by blocks of queries (which leave `delta` behind), then those of k and v by blocks of keys: KEYS. A block takes one row of q, or of
// k and v, and adds up what all rows of the result that read it say, always in the same order: the same numbers every time.
// With s the scores, w their softmax and o the result: dv = w^T do, ds = w (do v^T - delta), dq = ds k, dk = ds^T q. By keys all are turned.
template <class T, int SIZE, Precision P, bool KEYS> __global__ void __launch_bounds__(THREADS) backward(const Problem<T> p) {
    typedef Tile<T, SIZE> L;
    constexpr int K = blocks(SIZE);
    extern __shared__ float4 memory[];
    int source = blockIdx.z, head = blockIdx.y, begin = blockIdx.x * OWN, first = begin + threadIdx.x / 32 * 16, count = KEYS ? p.keys : p.queries;
    size_t own = p.at(source, count, head, SIZE);
    Block<T> mine[K], partner[K];  // k and v, or q and the result's gradient
    load<SIZE>((KEYS ? p.k : p.q) + own, p.width, first, count, mine);
    if (KEYS) load<SIZE>(p.v + own, p.width, first, count, partner);
    Block<float> d_mine[K] = {}, d_partner[KEYS ? K : 1] = {};
    for (int row = 0; row < p.rows; row++) {
        if ((KEYS ? p.kv_rows : p.q_rows)[row] != source) continue;
        size_t q_at = p.at(p.q_rows[row], p.queries, head, SIZE), kv_at = p.at(p.kv_rows[row], p.keys, head, SIZE), result_at = p.at(row, p.queries, head, SIZE);
        const float* log_sum = p.log_sum + p.sums(row, head);
        float *delta = p.delta + p.sums(row, head), own_log_sum[2] = {0, 0}, own_delta[2] = {0, 0};
        if (!KEYS) {
            Block<T> result[K];
            load<SIZE>(p.result + result_at, p.width, first, count, result);
            load<SIZE>(p.d_result + result_at, p.width, first, count, partner);
            #pragma unroll
            for (int k = 0; k < K; k++)
                #pragma unroll
                for (int i = 0; i < 4; i++) {
                    float2 o = wide(result[k].pair[i]), d = wide(partner[k].pair[i]);
                    own_delta[i & 1] += o.x * d.x + o.y * d.y;
                }
            for (int r = 0; r < 2; r++) {
                for (int n = 1; n < 4; n *= 2) own_delta[r] += __shfl_xor_sync(~0u, own_delta[r], n);
                int query = first + row_of(r);
                if (query < p.queries) {
                    own_log_sum[r] = log_sum[query];
                    if (lane() % 4 == 0) delta[query] = own_delta[r];
                }
            }
        }
        const T *one = KEYS ? p.q + q_at : p.k + kv_at, *two = KEYS ? p.d_result + result_at : p.v + kv_at;
        int from = KEYS && p.causal ? begin : 0, end = KEYS ? p.queries : p.causal ? min(p.keys, begin + OWN) : p.keys;
        for_each_tile<SIZE>(one, two, p.width, from, end, (T*)memory, [&](int token, const T* theirs, const T* their_partner) {
            for (int n = 0; n < L::TOKENS / 16; n++) {
                const T *other = theirs + 16 * n * L::PITCH, *other_partner = their_partner + 16 * n * L::PITCH;
                Block<float> weight = {}, slope = {};
                multiply<true, K, 1, L::PITCH, P>(mine, other, &weight);
                multiply<true, K, 1, L::PITCH, P>(partner, other_partner, &slope);
                p.template finish_scores<KEYS, 1>(&weight, row, first, token + 16 * n);
                #pragma unroll
                for (int i = 0; i < 4; i++) {
                    float2 &w = weight.pair[i], &s = slope.pair[i], base = {own_log_sum[i & 1], own_log_sum[i & 1]}, level = {own_delta[i & 1], own_delta[i & 1]};
                    if (KEYS) {
                        int query = min(token + 16 * n + column_of(i), p.queries - 1), next = min(query + 1, p.queries - 1);  // those beyond have no weight
                        base = {log_sum[query], log_sum[next]};
                        level = {delta[query], delta[next]};
                    }
                    w = {exp2f(w.x - base.x * LOG2E), exp2f(w.y - base.y * LOG2E)};
                    s = {w.x * (s.x - level.x), w.y * (s.y - level.y)};
                }
                Block<T> narrow_slope = narrowed<T>(slope);
                multiply<false, 1, K, L::PITCH, P>(&narrow_slope, other, d_mine);
                if (KEYS) {
                    Block<T> narrow_weight = narrowed<T>(weight);
                    multiply<false, 1, K, L::PITCH, P>(&narrow_weight, other_partner, d_partner);
                }
            }
        });
    }
    store<SIZE>(d_mine, p.scale, p.scale, (KEYS ? p.d_k : p.d_q) + own, p.width, first, count);
    if (KEYS) store<SIZE>(d_partner, 1, 1, p.d_v + own, p.width, first, count);
}

template <class T, int SIZE> cudaError_t launch(void (*kernel)(const Problem<T>), const Problem<T>& p, int tokens, int rows) {
    void* arguments[] = {(void*)&p};
    return cudaLaunchKernel(kernel, dim3((tokens + OWN - 1) / OWN, p.heads, rows), dim3(THREADS), arguments, Tile<T, SIZE>::BYTES, 0);
}

template <class T, int SIZE, Precision P> cudaError_t attention_forward(const Problem<T>& p) {
    return launch<T, SIZE>(forward<T, SIZE, P>, p, p.queries, p.rows);
}

template <class T, int SIZE, Precision P> cudaError_t attention_backward(const Problem<T>& p) {
    cudaError_t error = launch<T, SIZE>(backward<T, SIZE, P, false>, p, p.queries, p.q_count);
    return error != cudaSuccess ? error : launch<T, SIZE>(backward<T, SIZE, P, true>, p, p.keys, p.kv_count);
}

} }  // namespace styleblend::cuda
