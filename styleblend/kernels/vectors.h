// As many floats at a time as a register of the CPU holds, and the functions of them that the CPU kernels share. Needs
// g++ (vector extensions), no intrinsics.
#pragma once
#include <algorithm>
#include <cstdint>
#include <cstring>
#include <vector>
#ifdef __SSE__
#include <xmmintrin.h>
#endif

namespace styleblend {

// A vector that is wider than a register lies in memory, and is worked on piece by piece: twenty times slower.
#if defined(__AVX512F__) || defined(__AMX_BF16__)
constexpr int LANES = 16, REGISTERS = 32;
#elif defined(__AVX__)
constexpr int LANES = 8, REGISTERS = 16;
#elif defined(__aarch64__)
constexpr int LANES = 4, REGISTERS = 32;
#else
constexpr int LANES = 4, REGISTERS = 16;
#endif
typedef float Floats __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
typedef int Ints __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
typedef uint16_t Halves __attribute__((vector_size(2 * LANES), aligned(2), may_alias));
struct BFloat16 { uint16_t bits; };  // the upper half of a float32
constexpr float LOG2E = 1.44269504f, LN2 = 0.69314718f;
constexpr int padded(int n, int to) { return (n + to - 1) / to * to; }

inline Floats larger(Floats a, Floats b) { return a > b ? a : b; }

// 2^x for x <= 0.5: the whole part of x goes into the exponent, the rest, within a half, into a polynomial (relative
// error < 1.1e-7, 1 at 0). Below -126 it is 0.
inline Floats exp2_negative(Floats x) {
    Ints alive = x > -126.f, n = __builtin_convertvector(x - 0.5f, Ints);
    Floats r = x - __builtin_convertvector(n, Floats), p = Floats{} + 0.00132647273f;
    p = p * r + 0.00967151299f;
    p = p * r + 0.0555073358f;
    p = p * r + 0.240222424f;
    p = p * r + 0.693147004f;
    p = p * r + 1.f;
    return (Floats)(((Ints)p + (n << 23)) & alive);
}

inline Floats sigmoid(Floats x) {
    Floats e = exp2_negative((x > 0.f ? -x : x) * LOG2E), whole = 1.f / (1.f + e);
    return x > 0.f ? whole : e * whole;
}

// The share of the standard normal distribution below x, and its density: erf by Abramowitz & Stegun 7.1.26, absolute
// error < 1.5e-7.
struct Normal { Floats below, density; };
inline Normal normal(Floats x) {
    Floats size = x > 0.f ? x : -x, e = exp2_negative(x * x * (-0.5f * LOG2E)), t = 1.f / (1.f + 0.231641888f * size),
           p = Floats{} + 1.061405429f;
    p = p * t - 1.453152027f; p = p * t + 1.421413741f; p = p * t - 0.284496736f; p = p * t + 0.254829592f;
    Floats tail = 0.5f * p * t * e;
    return {x > 0.f ? 1.f - tail : tail, 0.398942280f * e};
}

// A sum of many vectors: 16 partial sums, however wide a vector is. Fewer would be longer, and longer ones round more.
class PartialSums {
    static constexpr int COUNT = 16 / LANES;
    Floats part[COUNT]{};
    int added = 0;

  public:
    void add(Floats x) {  // to the oldest, which becomes the newest: no index, so all stay in registers
        Floats oldest = part[0] + x;
        for (int n = 1; n < COUNT; n++) part[n - 1] = part[n];
        part[COUNT - 1] = oldest;
        added++;
    }
    float total() const {
        float sum = 0;
        for (int n = 0; n < COUNT; n++)
            for (int i = 0; i < LANES; i++) sum += part[(n + COUNT - added % COUNT) % COUNT][i];
        return sum;
    }
};

// The first `count` numbers, the others zero.
inline Floats first(Floats x, int count) {
    Ints lane;
    for (int i = 0; i < LANES; i++) lane[i] = i;
    return lane < count ? x : Floats{};
}

// Up to LANES numbers, the missing ones zero; and back.
inline Floats load(const float* from, int count) {
    if (count >= LANES) return *(const Floats*)from;
    Floats x{};
    std::memcpy(&x, from, count * sizeof(float));
    return x;
}
inline void store(float* to, Floats x, int count) { std::memcpy(to, &x, std::min(count, LANES) * sizeof(float)); }

// The same of bfloat16, rounded to the nearest, ties to even.
inline Floats load(const BFloat16* from, int count) {
    Halves x{};
    if (count >= LANES) x = *(const Halves*)from;
    else std::memcpy(&x, from, count * sizeof(BFloat16));
    return (Floats)(__builtin_convertvector(x, Ints) << 16);
}
inline Halves rounded(Floats x) {
    Ints bits = (Ints)x;
    return __builtin_convertvector((bits + 0x7FFF + (bits >> 16 & 1)) >> 16, Halves);
}
inline BFloat16 nearest(float x) {
    uint32_t bits;
    std::memcpy(&bits, &x, sizeof bits);
    return {(uint16_t)((bits + 0x7FFF + (bits >> 16 & 1)) >> 16)};
}
inline void store(BFloat16* to, Floats x, int count) {
    Halves bits = rounded(x);
    std::memcpy(to, &bits, std::min(count, LANES) * sizeof(BFloat16));
}

// From now on this thread takes numbers below 2^-126 for zero. A library that is compiled with -Ofast says so to the
// one thread that loads it, and which thread computes what is left to chance.
inline void flush_small_numbers() {
#ifdef __SSE__
    _mm_setcsr(_mm_getcsr() | 0x8040);
#endif
}

// Working memory of a thread that begins at a cache line: a vector load that crosses one costs two.
struct Memory {
    static constexpr size_t LINE = 64;
    std::vector<float> all;
    explicit Memory(size_t size) : all(size + LINE / sizeof(float)) { flush_small_numbers(); }
    float* begin() { return (float*)(((size_t)all.data() + LINE - 1) / LINE * LINE); }
};

}  // namespace styleblend
