// Blocks of 16 x 16 numbers in the registers of a warp, tiles of tokens in shared memory, and their products: what the
// GPU kernels are made of.
//
// Lane 4 g + t of a warp (g = 0..7, t = 0..3) holds four pairs of neighbours of a block, at (row, column):
//   0: (g, 2 t)   1: (g + 8, 2 t)   2: (g, 2 t + 8)   3: (g + 8, 2 t + 8)
// The tensor cores return products like this, and want the left factor like this: a product becomes the next one's
// factor where it is.
#pragma once
#include "ptx.h"

namespace styleblend { namespace cuda {

// a thread block has OWN tokens to work for, 16 a warp
constexpr int WARPS = 4, THREADS = 32 * WARPS, OWN = 16 * WARPS;
// Bytes of shared memory that a thread block takes, where it can: that of three fits into a multiprocessor of
// capability 7.5, of four into one of 8.6. Who compiles may say more for others.
#ifndef STYLEBLEND_SHARED
#define STYLEBLEND_SHARED (24 * 1024)
#endif
constexpr int MOST_SHARED = 48 * 1024;  // that every GPU has for a thread block
__host__ __device__ constexpr int blocks(int n) { return (n + 15) / 16; }

inline __device__ int lane() { return threadIdx.x % 32; }
inline __device__ int row_of(int pair) { return lane() / 4 + 8 * (pair & 1); }
inline __device__ int column_of(int pair) { return lane() % 4 * 2 + 8 * (pair >> 1); }

template <class T> struct PairOf;
template <> struct PairOf<float> { typedef float2 Type; };
template <> struct PairOf<__half> { typedef __half2 Type; };
template <> struct PairOf<__nv_bfloat16> { typedef __nv_bfloat162 Type; };
template <class T> struct Block { typename PairOf<T>::Type pair[4]; };

inline __device__ float2 wide(float2 x) { return x; }
inline __device__ float2 wide(__half2 x) { return __half22float2(x); }
inline __device__ float2 wide(__nv_bfloat162 x) { return __bfloat1622float2(x); }
inline __device__ void narrow(float2 x, float2& to) { to = x; }
inline __device__ void narrow(float2 x, __half2& to) { to = __float22half2_rn(x); }
inline __device__ void narrow(float2 x, __nv_bfloat162& to) { to = __float22bfloat162_rn(x); }
template <class T> __device__ Block<T> narrowed(const Block<float>& from) {
    Block<T> to;
    for (int i = 0; i < 4; i++) narrow(from.pair[i], to.pair[i]);
    return to;
}

// 16 rows of SIZE columns in global memory, `stride` apart, from `row` on -> registers. Beyond `count` rows and SIZE
// columns there are zeros.
template <int SIZE, class T> __device__ void load(const T* from, size_t stride, int row, int count, Block<T>* to) {
    #pragma unroll
    for (int k = 0; k < blocks(SIZE); k++)
        #pragma unroll
        for (int i = 0; i < 4; i++) {
            int r = row + row_of(i), c = 16 * k + column_of(i);
            const T* at = from + r * stride + c;
            narrow(float2{0, 0}, to[k].pair[i]);
            if (r < count && c < SIZE) {
                if (SIZE % 2 == 0) to[k].pair[i] = *(const typename PairOf<T>::Type*)at;
                else {
                    to[k].pair[i].x = at[0];
                    if (c + 1 < SIZE) to[k].pair[i].y = at[1];
                }
            }
        }
}

// And back, row g times `upper`, row g + 8 times `lower`; nothing is written beyond.
template <int SIZE, class T>
__device__ void store(const Block<float>* from, float upper, float lower, T* to, size_t stride, int row, int count) {
    #pragma unroll
    for (int k = 0; k < blocks(SIZE); k++)
        #pragma unroll
        for (int i = 0; i < 4; i++) {
            int r = row + row_of(i), c = 16 * k + column_of(i);
            float factor = i & 1 ? lower : upper;
            typename PairOf<T>::Type pair;
            narrow(float2{from[k].pair[i].x * factor, from[k].pair[i].y * factor}, pair);
            T* at = to + r * stride + c;
            if (r < count && c < SIZE) {
                if (SIZE % 2 == 0) *(typename PairOf<T>::Type*)at = pair;
                else {
                    at[0] = pair.x;
                    if (c + 1 < SIZE) at[1] = pair.y;
                }
            }
        }
}

// The three ways to multiply in float32; 16-bit numbers have one. FMA: no tensor cores. TF32: they round the factors to
// 11 binary digits. SPLIT: a factor is the sum of two such, and three of the four products of those give float32's
// precision.
enum Precision { FMA, TF32, SPLIT };

// How tokens of SIZE_ numbers lie in shared memory, as many a tile as leave room for four tiles. The pitch: lanes of
// different tokens should not meet in a bank. Those of a matrix load are neighbours, FMA's are two tokens apart. In
// float32 on tensor cores both are: with this pitch they meet in twos where the depth is the tokens.
template <class Number, int SIZE_, Precision P> struct Tile {
    typedef Number T;
    static constexpr int SIZE = SIZE_, WIDTH = 16 * blocks(SIZE), PITCH = WIDTH + (sizeof(T) == 4 && P == FMA ? 4 : 8);
    static constexpr int TOKENS = 4 * 64 * PITCH * sizeof(T) <= STYLEBLEND_SHARED   ? 64
                                  : 4 * 32 * PITCH * sizeof(T) <= STYLEBLEND_SHARED ? 32
                                                                                    : 16;
    static constexpr int NUMBERS = TOKENS * PITCH, BYTES = 4 * NUMBERS * sizeof(T);
    static_assert(BYTES <= MOST_SHARED, "heads of more than 160 do not fit");
};

// Tokens `first` to `end` -> a tile; what is missing to a full tile and to whole blocks is zero.
template <class L, class T> __device__ void copy(const T* from, size_t stride, int first, int end, T* tile) {
    constexpr int SIZE = L::SIZE, PART = SIZE * sizeof(T) % 16 == 0 ? 16 / sizeof(T) : 1, PARTS = L::WIDTH / PART;
    // threads at a token: each stays in its columns
    constexpr int ACROSS = PARTS <= 8 ? 8 : PARTS <= 16 ? 16 : 32, STEP = THREADS / ACROSS;
    for (int column = threadIdx.x % ACROSS * PART; column < L::WIDTH; column += ACROSS * PART)
        #pragma unroll
        for (int i = 0; i < L::TOKENS / STEP; i++) {
            int token = threadIdx.x / ACROSS + i * STEP;
            bool there = first + token < end && column < SIZE;
            const T* source = there ? from + (first + token) * stride + column : from;
            T* to = tile + token * L::PITCH + column;
            if (PART > 1) copy_16_bytes(to, source, there);
            else *to = there ? *source : T(0.f);
        }
}

// `work(token, tile, other tile)` for every tile of two matrices of tokens. While a tile is worked on the next one is
// on its way.
template <class L, class T, class Work>
__device__ void for_each_tile(const T* one, const T* two, size_t stride, int begin, int end, T* memory, Work work) {
    auto ask = [&](int token, T* to) {
        if (token < end) {
            copy<L>(one, stride, token, end, to);
            copy<L>(two, stride, token, end, to + L::NUMBERS);
        }
        end_of_copies();
    };
    T *now = memory, *next = memory + 2 * L::NUMBERS;
    ask(begin, now);
    for (int token = begin; token < end; token += L::TOKENS) {
        ask(token + L::TOKENS, next);
        wait_for_copies<1>();
        __syncthreads();  // for the others' copies too
        work(token, (const T*)now, (const T*)(now + L::NUMBERS));
        __syncthreads();  // the tile is free
        T* done = now;
        now = next; next = done;
    }
}

inline __device__ float tf32(float x) { return __uint_as_float((__float_as_uint(x) + 0x1000u) & ~0x1fffu); }

// c (16 x 16 N) += a (16 x 16 K) b; b in shared memory as b[column][depth] (TURNED: the rows there are the columns of
// b) or b[depth][column].
template <bool TURNED, int K, int N, int PITCH, Precision P, class T>
__device__ void multiply(const Block<T>* a, const T* b, Block<float>* c) {
    int matrix = lane() / 8, line = lane() % 8;
    #pragma unroll
    for (int k = 0; k < K; k++)
        #pragma unroll
        for (int n = 0; n < N; n++) {
            int column = 16 * n + matrix / 2 * 8, depth = 16 * k + matrix % 2 * 8;
            typename PairOf<T>::Type factor[4];
            load_matrices<!TURNED>(factor,
                                   TURNED ? b + (column + line) * PITCH + depth : b + (depth + line) * PITCH + column);
            mma(c[n].pair[0], c[n].pair[1], a[k].pair, factor[0], factor[1]);
            mma(c[n].pair[2], c[n].pair[3], a[k].pair, factor[2], factor[3]);
        }
}

// Of b two columns from `column` on, four deep, in as few loads as there can be.
template <bool TURNED, int PITCH> __device__ void load_factors(const float* b, int column, int depth, float2* to) {
    if (TURNED) {
        float4 one = *(const float4*)(b + column * PITCH + depth);
        float4 next = *(const float4*)(b + (column + 1) * PITCH + depth);
        to[0] = {one.x, next.x}; to[1] = {one.y, next.y}; to[2] = {one.z, next.z}; to[3] = {one.w, next.w};
    } else {
        #pragma unroll
        for (int i = 0; i < 4; i++) to[i] = *(const float2*)(b + (depth + i) * PITCH + column);
    }
}

// In steps of 8 deep. A pair's two numbers stand for the places t and t + 4 of the depth, in a and in b: the order of a
// sum is free.
template <bool TURNED, int K, int N, int PITCH, Precision P>
__device__ void multiply(const Block<float>* a, const float* b, Block<float>* c) {
    int g = lane() / 4, t = lane() % 4;
    #pragma unroll
    for (int step = 0; step < 2 * K; step++) {
        const float2 upper = a[step / 2].pair[step % 2 * 2], lower = a[step / 2].pair[step % 2 * 2 + 1];
        if (P == FMA) {
            #pragma unroll
            for (int half = 0; half < 2; half++) {
                float x[4], y[4];  // the lane of the group that has a number gives it to the others
                #pragma unroll
                for (int i = 0; i < 4; i++) {
                    x[i] = __shfl_sync(~0u, i % 2 ? upper.y : upper.x, 4 * g + 2 * half + i / 2);
                    y[i] = __shfl_sync(~0u, i % 2 ? lower.y : lower.x, 4 * g + 2 * half + i / 2);
                }
                #pragma unroll
                for (int n = 0; n < 2 * N; n++) {
                    float2 factor[4];
                    load_factors<TURNED, PITCH>(b, 8 * n + 2 * t, 8 * step + 4 * half, factor);
                    float2 *of_x = &c[n / 2].pair[n % 2 * 2], *of_y = of_x + 1;
                    #pragma unroll
                    for (int i = 0; i < 4; i++) {
                        of_x->x += x[i] * factor[i].x; of_x->y += x[i] * factor[i].y;
                        of_y->x += y[i] * factor[i].x; of_y->y += y[i] * factor[i].y;
                    }
                }
            }
        } else {
            float whole[4] = {upper.x, lower.x, upper.y, lower.y};
            float big[4], rest[4];
            #pragma unroll
            for (int i = 0; i < 4; i++) {
                compute_anew(whole[i]);
                big[i] = tf32(whole[i]);
                rest[i] = whole[i] - big[i];
            }
    #pragma unroll
            for (int n = 0; n < 2 * N; n++) {
                int column = 8 * n + g, depth = 8 * step + 2 * t;
                float2 factor = TURNED ? *(const float2*)(b + column * PITCH + depth)
                                       : float2{b[depth * PITCH + column], b[(depth + 1) * PITCH + column]};
                float2 *of_x = &c[n / 2].pair[n % 2 * 2], *of_y = of_x + 1;
                float b0 = tf32(factor.x), b1 = tf32(factor.y);
                // summed up outside the tensor cores: they do not round, but cut off (Ootomo & Yokota 2022)
                if (P == SPLIT) {
                    float2 x = {0, 0}, y = {0, 0};
                    mma(x, y, rest, b0, b1);
                    mma(x, y, big, factor.x - b0, factor.y - b1);
                    mma(x, y, big, b0, b1);
                    of_x->x += x.x; of_x->y += x.y;
                    of_y->x += y.x; of_y->y += y.y;
                } else mma(*of_x, *of_y, big, b0, b1);
            }
        }
    }
}
} }  // namespace styleblend::cuda
