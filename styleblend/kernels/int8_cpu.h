// Weights in int8 with a factor for each row (output channel), made of float32 and back.
#pragma once
#include <cmath>
#include "vectors.h"

namespace styleblend {

typedef int8_t Bytes __attribute__((vector_size(LANES), aligned(1), may_alias));

// to = the nearest whole multiples of the rows' factors, ties to even; each row's largest number becomes 127 or -127.
inline void narrow(int rows, size_t width, const float* from, int8_t* to, float* factors) {
    #pragma omp parallel for
    for (int i = 0; i < rows; i++) {
        const float* row = from + i * width;
        float most = 0;
        for (size_t k = 0; k < width; k++) most = std::max(most, std::fabs(row[k]));
        bool counts = most > 1e-30f;  // else 127 / most is beyond float32
        factors[i] = counts ? most / 127 : 0;
        float per = counts ? 127 / most : 0;
        for (size_t k = 0; k < width; k++) to[i * width + k] = (int8_t)std::lrint(row[k] * per);
    }
}

inline Floats floats(const int8_t* from) {
    return __builtin_convertvector(__builtin_convertvector(*(const Bytes*)from, Ints), Floats);
}

// Back, as float32 or bfloat16.
template <class T> void widen(int rows, size_t width, const int8_t* from, const float* factors, T* to) {
    #pragma omp parallel for
    for (int i = 0; i < rows; i++) {
        const int8_t* row = from + i * width;
        size_t k = 0;
        for (; k + LANES <= width; k += LANES) store(to + i * width + k, floats(row + k) * factors[i], LANES);
        for (; k < width; k++) store(to + i * width + k, Floats{} + row[k] * factors[i], 1);
    }
}

}  // namespace styleblend
