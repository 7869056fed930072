// Group norm (Wu & He 2018) with or without SiLU, layer norm (Ba et al. 2016) and the gated GELU (Shazeer 2020) on a
// GPU, with the gradients of their inputs. T is the type of the input, the result and their gradients; all is computed
// in float32. A norm reads its arrays twice, the second time out of the cache where they fit into it.
#pragma once
#include "ptx.h"

namespace styleblend { namespace cuda {

// N neighbours, which a thread reads and writes at once: 16 bytes, where sizes are multiples of that.
template <class T, int N> struct alignas(N * sizeof(T)) Run { T number[N]; };
template <class T> constexpr int longest() { return 16 / sizeof(T); }

// Whether arrays of `size` numbers a row can be read in the longest runs.
template <class T> bool runs_fit(int size, const void* a, const void* b, const void* c) {
    return size % longest<T>() == 0 && ((size_t)a | (size_t)b | (size_t)c) % 16 == 0;
}

// ---------------------------------------------------------------- norms

// `units` of `count` neighbours each are normed. A unit of LAYER is a token, whose numbers have a weight and a bias of
// their own. Else it is a group of a row; `groups` a row, `pixels` numbers with one weight and bias.
template <class T> struct Norm {
    int units, count, groups, pixels;
    float eps;
    const T* x;
    const float *weight, *bias;
    T* y;
    float* statistics;  // (units, 2): mean and 1 / deviation, for the gradient
    const T* d_y;       // from here on only the backward pass
    T* d_x;
    int threads;  // of a block; `launch_norm` says how many
    template <bool LAYER> __device__ int channel(int unit, int i) const {
        return LAYER ? i : unit % groups * (count / pixels) + i / pixels;
    }
};

constexpr int MOST_THREADS = 1024, TOKENS_OF_A_BLOCK = 4;

// The sums of two numbers over a warp: each lane has them.
inline __device__ float2 sum_of_warp(float2 x) {
    for (int other = 16; other; other /= 2) {
        float a = __shfl_xor_sync(~0u, x.x, other), b = __shfl_xor_sync(~0u, x.y, other);
        x = {x.x + a, x.y + b};
    }
    return x;
}

// Over those who share a unit: a warp a token, a block a group.
template <bool LAYER> __device__ float2 sum_of_all(float2 x, int threads) {
    x = sum_of_warp(x);
    if (LAYER) return x;
    extern __shared__ float4 memory[];
    float2* of_warps = (float2*)memory;
    __syncthreads();  // all threads have read the sums of before
    if (threadIdx.x % 32 == 0) of_warps[threadIdx.x / 32] = x;
    __syncthreads();
    float2 total = {0, 0};
    for (int warp = 0; warp < threads / 32; warp++)
        total = {total.x + of_warps[warp].x, total.y + of_warps[warp].y};
    return total;
}

inline __device__ float sigmoid(float t) { return 1.f / (1.f + expf(-t)); }

// The unit of this thread; which of its numbers the thread reads first, and how far it steps.
template <bool LAYER, int N> struct Place {
    int unit, first, step;
    __device__ explicit Place(int threads) {
        unit = LAYER ? blockIdx.x * (threads / 32) + threadIdx.x / 32 : blockIdx.x;
        first = (LAYER ? threadIdx.x % 32 : threadIdx.x) * N;
        step = (LAYER ? 32 : threads) * N;
    }
};

// The sums of x - level and of its square over numbers up to `end`.
template <class T, int N, bool LAYER>
__device__ float2 sums(const T* x, const Place<LAYER, N>& at, int end, float level, int threads) {
    float2 found = {0, 0};
    #pragma unroll 4
    for (int i = at.first; i < end; i += at.step) {
        Run<T, N> run = *(const Run<T, N>*)(x + i);
        #pragma unroll
        for (int n = 0; n < N; n++) {
            float d = (float)run.number[n] - level;
            found = {found.x + d, found.y + d * d};
        }
    }
    return sum_of_all<LAYER>(found, threads);
}

// The variance is that of the numbers less a level near their mean, the mean of the first of them: E[x^2] - E[x]^2
// loses digits in float32 where the mean is large.
template <class T, int N, bool LAYER, bool SILU>
__global__ void __launch_bounds__(LAYER ? 32 * TOKENS_OF_A_BLOCK : MOST_THREADS) norm_forward(const Norm<T> p) {
    const Place<LAYER, N> at(p.threads);
    if (LAYER && at.unit >= p.units) return;
    const T* x = p.x + (size_t)at.unit * p.count;
    T* y = p.y + (size_t)at.unit * p.count;
    int some = min(p.count, at.step);
    float level = sums<T, N, LAYER>(x, at, some, 0, p.threads).x / some;
    float2 found = sums<T, N, LAYER>(x, at, p.count, level, p.threads);
    float beside = found.x / p.count, mean = level + beside;
    float inverse = 1.f / sqrtf(fmaxf(found.y / p.count - beside * beside, 0.f) + p.eps);
    if (at.first == 0) {
        p.statistics[2 * at.unit] = mean;
        p.statistics[2 * at.unit + 1] = inverse;
    }
    for (int i = at.first; i < p.count; i += at.step) {
        Run<T, N> in = *(const Run<T, N>*)(x + i), out;
        int channel = p.template channel<LAYER>(at.unit, i);
        #pragma unroll
        for (int n = 0; n < N; n++) {
            int c = channel + (LAYER ? n : 0);
            float t = ((float)in.number[n] - mean) * inverse * p.weight[c] + p.bias[c];
            out.number[n] = T(SILU ? t * sigmoid(t) : t);
        }
        *(Run<T, N>*)(y + i) = out;
    }
}

// With x^ = (x - mean) / deviation and d its gradient, that of x is (d - mean(d) - x^ mean(d x^)) / deviation (Ioffe &
// Szegedy 2015, section 3, put together).
template <class T, int N, bool LAYER, bool SILU>
__global__ void __launch_bounds__(LAYER ? 32 * TOKENS_OF_A_BLOCK : MOST_THREADS) norm_backward(const Norm<T> p) {
    const Place<LAYER, N> at(p.threads);
    if (LAYER && at.unit >= p.units) return;
    size_t begin = (size_t)at.unit * p.count;
    float mean = p.statistics[2 * at.unit], inverse = p.statistics[2 * at.unit + 1];
    auto each = [&](auto use) {  // calls it with the place of each run, x^ and its gradient
        #pragma unroll 2
        for (int i = at.first; i < p.count; i += at.step) {
            Run<T, N> x = *(const Run<T, N>*)(p.x + begin + i), d_y = *(const Run<T, N>*)(p.d_y + begin + i);
            int channel = p.template channel<LAYER>(at.unit, i);
            float normal[N], d[N];
            #pragma unroll
            for (int n = 0; n < N; n++) {
                float weight = p.weight[channel + (LAYER ? n : 0)];
                normal[n] = ((float)x.number[n] - mean) * inverse;
                d[n] = (float)d_y.number[n] * weight;
                if (SILU) {
                    float t = normal[n] * weight + p.bias[channel], s = sigmoid(t);
                    d[n] *= s * (1.f + t * (1.f - s));
                }
            }
            use(i, normal, d);
        }
    };
    float2 found = {0, 0};
    each([&](int, const float* normal, const float* d) {
        #pragma unroll
        for (int n = 0; n < N; n++) found = {found.x + d[n], found.y + d[n] * normal[n]};
    });
    found = sum_of_all<LAYER>(found, p.threads);
    float mean_of_d = found.x / p.count, slope = found.y / p.count;
    each([&](int i, const float* normal, const float* d) {
        Run<T, N> out;
        #pragma unroll
        for (int n = 0; n < N; n++) out.number[n] = T((d[n] - mean_of_d - normal[n] * slope) * inverse);
        *(Run<T, N>*)(p.d_x + begin + i) = out;
    });
}

template <class T, int N, bool LAYER> cudaError_t launch_norm(void (*kernel)(const Norm<T>), Norm<T> p) {
    int wanted = (p.count / N + 31) / 32 * 32;
    p.threads = LAYER ? 32 * TOKENS_OF_A_BLOCK : wanted < MOST_THREADS ? wanted : MOST_THREADS;
    dim3 grid(LAYER ? (p.units + TOKENS_OF_A_BLOCK - 1) / TOKENS_OF_A_BLOCK : p.units);
    void* arguments[] = {(void*)&p};
    return cudaLaunchKernel(kernel, grid, dim3(p.threads), arguments, LAYER ? 0 : p.threads / 32 * sizeof(float2), 0);
}

template <class T, bool LAYER, bool SILU> cudaError_t normed(const Norm<T>& p, bool backward) {
    static_assert(!(LAYER && SILU), "each number of a layer norm has a bias of its own");
    constexpr int N = longest<T>();
    if (p.units == 0 || p.count == 0) return cudaSuccess;
    bool whole = runs_fit<T>(LAYER ? p.count : p.pixels, p.x, backward ? p.d_y : p.x, backward ? p.d_x : p.y);
    if (whole) return launch_norm<T, N, LAYER>(backward ? norm_backward<T, N, LAYER, SILU>
                                                        : norm_forward<T, N, LAYER, SILU>, p);
    return launch_norm<T, 1, LAYER>(backward ? norm_backward<T, 1, LAYER, SILU> : norm_forward<T, 1, LAYER, SILU>, p);
}

// ---------------------------------------------------------------- gated GELU

// x (tokens, 2 * size), values then gates -> y (tokens, size) = value * gate * P(gate), P the normal distribution.
template <class T> struct Gated {
    int tokens, size;
    const T *x, *d_y;
    T *y, *d_x;
    int threads;  // of a block, which has a token; `geglu` says how many
};

constexpr int GATED_THREADS = 256;

template <class T, int N, bool BACKWARD> __global__ void __launch_bounds__(GATED_THREADS) gated(const Gated<T> p) {
    typedef Run<T, N> R;
    size_t result = (size_t)blockIdx.x * p.size, input = 2 * result;
    for (int i = threadIdx.x * N; i < p.size; i += p.threads * N) {
        R values = *(const R*)(p.x + input + i), gates = *(const R*)(p.x + input + p.size + i), given, one, two;
        if (BACKWARD) given = *(const R*)(p.d_y + result + i);
        #pragma unroll
        for (int n = 0; n < N; n++) {
            float value = (float)values.number[n], gate = (float)gates.number[n];
            float below = 0.5f + 0.5f * erff(gate * 0.70710678f);
            if (BACKWARD) {
                float density = 0.39894228f * expf(-0.5f * gate * gate), d = (float)given.number[n];
                one.number[n] = T(d * gate * below);
                two.number[n] = T(d * value * (below + gate * density));
            } else {
                one.number[n] = T(value * gate * below);
            }
        }
        *(R*)((BACKWARD ? p.d_x + input : p.y + result) + i) = one;
        if (BACKWARD) *(R*)(p.d_x + input + p.size + i) = two;
    }
}

template <class T> cudaError_t geglu(Gated<T> p, bool backward) {
    constexpr int N = longest<T>();
    if (p.tokens == 0 || p.size == 0) return cudaSuccess;
    bool whole = runs_fit<T>(p.size, p.x, backward ? p.d_y : p.x, backward ? p.d_x : p.y);
    int wanted = ((whole ? p.size / N : p.size) + 31) / 32 * 32;
    p.threads = wanted < GATED_THREADS ? wanted : GATED_THREADS;
    void (*kernel)(const Gated<T>) = whole ? backward ? gated<T, N, true> : gated<T, N, false>
                                           : backward ? gated<T, 1, true> : gated<T, 1, false>;
    void* arguments[] = {(void*)&p};
    return cudaLaunchKernel(kernel, dim3(p.tokens), dim3(p.threads), arguments, 0, 0);
}

} }  // namespace styleblend::cuda
