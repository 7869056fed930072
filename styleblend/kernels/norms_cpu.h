// Group norm (Wu & He 2018) with or without SiLU, layer norm (Ba et al. 2016) and the gated GELU (Shazeer 2020) on the
// CPU, with the gradients of their inputs: each reads its input from memory once, where a chain of operators would read
// and write it five times. Means and variances: 16 partial sums over a run of pixels or features, then double; the
// variance is that of the centred values.
#pragma once
#include <cmath>
#include "vectors.h"

namespace styleblend {

struct Groups {
    int rows, channels, groups, pixels;  // x (rows, channels, pixels)
    float eps;
    int count() const { return rows * groups; }
    int size() const { return channels / groups; }  // channels of a group
    int channel(int unit, int c) const { return unit % groups * size() + c; }
    size_t at(int unit, int c) const { return ((size_t)(unit / groups) * channels + channel(unit, c)) * pixels; }
};

// The mean and the variance of one group of one row.
struct Moments { float mean; double variance; };
template <class T> Moments moments_of(const Groups& g, int unit, const T* x) {
    const T* in = x + g.at(unit, 0);
    double sum = 0, squares = 0, count = (double)g.size() * g.pixels;
    for (int c = 0; c < g.size(); c++) {
        PartialSums part;
        for (int i = 0; i < g.pixels; i += LANES) part.add(load(in + (size_t)c * g.pixels + i, g.pixels - i));
        sum += part.total();
    }
    float mean = sum / count;
    for (int c = 0; c < g.size(); c++) {
        PartialSums part;
        for (int i = 0; i < g.pixels; i += LANES) {
            Floats d = first(load(in + (size_t)c * g.pixels + i, g.pixels - i) - mean, g.pixels - i);
            part.add(d * d);
        }
        squares += part.total();
    }
    return {mean, squares / count};
}

template <bool SILU, class T>
void normalise(const Groups& g, int unit, float mean, float scale, const T* x, const float* weight, const float* bias,
               T* y) {
    for (int c = 0; c < g.size(); c++) {
        float factor = scale * weight[g.channel(unit, c)], offset = bias[g.channel(unit, c)];
        const T* from = x + g.at(unit, c);
        T* to = y + g.at(unit, c);
        for (int i = 0; i < g.pixels; i += LANES) {
            Floats t = (load(from + i, g.pixels - i) - mean) * factor + offset;
            store(to + i, SILU ? t * sigmoid(t) : t, g.pixels - i);
        }
    }
}

// `statistics` (rows, groups, 2): mean and 1 / deviation, for the gradient.
template <bool SILU, class T>
void group_norm_forward(const Groups& g, const T* x, const float* weight, const float* bias, T* y, float* statistics) {
    #pragma omp parallel for
    for (int unit = 0; unit < g.count(); unit++) {
        Moments m = moments_of(g, unit, x);
        float scale = 1 / std::sqrt(m.variance + g.eps);
        statistics[2 * unit] = m.mean; statistics[2 * unit + 1] = scale;
        normalise<SILU>(g, unit, m.mean, scale, x, weight, bias, y);
    }
}

// The same with a mean and a variance over several rows: row r takes those of row s with the weight
// `pooling[r * rows + s]`, and the weights of a row add up to 1.
template <bool SILU, class T>
void group_norm_pooled(const Groups& g, const T* x, const float* weight, const float* bias, const float* pooling,
                       T* y) {
    std::vector<Moments> own(g.count());
    #pragma omp parallel for
    for (int unit = 0; unit < g.count(); unit++) own[unit] = moments_of(g, unit, x);
    #pragma omp parallel for
    for (int unit = 0; unit < g.count(); unit++) {
        const float* share = pooling + (size_t)(unit / g.groups) * g.rows;
        double mean = 0, variance = 0;
        for (int s = 0; s < g.rows; s++) mean += (double)share[s] * own[s * g.groups + unit % g.groups].mean;
        for (int s = 0; s < g.rows; s++) {
            Moments m = own[s * g.groups + unit % g.groups];
            variance += share[s] * (m.variance + (m.mean - mean) * (m.mean - mean));
        }
        normalise<SILU>(g, unit, mean, 1 / std::sqrt(variance + g.eps), x, weight, bias, y);
    }
}

template <bool SILU>
void group_norm_backward(const Groups& g, const float* x, const float* weight, const float* bias,
                         const float* statistics, const float* d_y, float* d_x) {
    #pragma omp parallel for
    for (int unit = 0; unit < g.count(); unit++) {
        float mean = statistics[2 * unit], scale = statistics[2 * unit + 1];
        double sum = 0, along = 0, count = (double)g.size() * g.pixels;
        for (int c = 0; c < g.size(); c++) {  // first the gradient of the normalised values, into d_x
            float factor = weight[g.channel(unit, c)], offset = bias[g.channel(unit, c)];
            size_t at = g.at(unit, c);
            PartialSums part, part_along;
            for (int i = 0; i < g.pixels; i += LANES) {
                Floats normal = (load(x + at + i, g.pixels - i) - mean) * scale,
                       d = load(d_y + at + i, g.pixels - i) * factor;
                if (SILU) {
                    Floats t = normal * factor + offset, s = sigmoid(t);
                    d *= s * (1.f + t * (1.f - s));
                }
                store(d_x + at + i, d, g.pixels - i);
                part.add(d); part_along.add(d * normal);  // beyond the end d is zero
            }
            sum += part.total(); along += part_along.total();
        }
        float level = sum / count, slope = along / count;
        for (int c = 0; c < g.size(); c++) {
            size_t at = g.at(unit, c);
            for (int i = 0; i < g.pixels; i += LANES) {
                Floats normal = (load(x + at + i, g.pixels - i) - mean) * scale;
                store(d_x + at + i, (load(d_x + at + i, g.pixels - i) - level - normal * slope) * scale, g.pixels - i);
            }
        }
    }
}

// x (tokens, size); `statistics` (tokens, 2) as above.
template <class T>
void layer_norm_forward(int tokens, int size, float eps, const T* x, const float* weight, const float* bias, T* y,
                        float* statistics) {
    #pragma omp parallel for
    for (int token = 0; token < tokens; token++) {
        const T* in = x + (size_t)token * size;
        PartialSums sum, squares;
        for (int i = 0; i < size; i += LANES) sum.add(load(in + i, size - i));
        float mean = sum.total() / size;
        for (int i = 0; i < size; i += LANES) {
            Floats d = first(load(in + i, size - i) - mean, size - i);
            squares.add(d * d);
        }
        float scale = 1 / std::sqrt(squares.total() / size + eps);
        statistics[2 * token] = mean; statistics[2 * token + 1] = scale;
        for (int i = 0; i < size; i += LANES)
            store(y + (size_t)token * size + i,
                  (load(in + i, size - i) - mean) * scale * load(weight + i, size - i) + load(bias + i, size - i),
                  size - i);
    }
}

template <class T>
void layer_norm_backward(int tokens, int size, const T* x, const float* weight, const float* statistics, const T* d_y,
                         T* d_x) {
    #pragma omp parallel for
    for (int token = 0; token < tokens; token++) {
        const T *in = x + (size_t)token * size, *given = d_y + (size_t)token * size;
        T* out = d_x + (size_t)token * size;
        float mean = statistics[2 * token], scale = statistics[2 * token + 1];
        PartialSums sum, along;
        for (int i = 0; i < size; i += LANES) {
            Floats d = load(given + i, size - i) * load(weight + i, size - i);
            sum.add(d); along.add(d * (load(in + i, size - i) - mean) * scale);
        }
        float level = sum.total() / size, slope = along.total() / size;
        for (int i = 0; i < size; i += LANES) {
            Floats d = load(given + i, size - i) * load(weight + i, size - i),
                   normal = (load(in + i, size - i) - mean) * scale;
            store(out + i, (d - level - normal * slope) * scale, size - i);
        }
    }
}

// x (tokens, 2 * size), values then gates -> y (tokens, size) = value * gate * P(gate), P the normal distribution.
template <class T> void geglu_forward(int tokens, int size, const T* x, T* y) {
    #pragma omp parallel for
    for (int token = 0; token < tokens; token++) {
        const T *value = x + (size_t)token * 2 * size, *gates = value + size;
        for (int i = 0; i < size; i += LANES) {
            Floats gate = load(gates + i, size - i);
            store(y + (size_t)token * size + i, load(value + i, size - i) * gate * normal(gate).below, size - i);
        }
    }
}

template <class T> void geglu_backward(int tokens, int size, const T* x, const T* d_y, T* d_x) {
    #pragma omp parallel for
    for (int token = 0; token < tokens; token++) {
        const T *value = x + (size_t)token * 2 * size, *gates = value + size;
        T *d_value = d_x + (size_t)token * 2 * size, *d_gate = d_value + size;
        for (int i = 0; i < size; i += LANES) {
            Floats gate = load(gates + i, size - i), given = load(d_y + (size_t)token * size + i, size - i);
            Normal n = normal(gate);
            store(d_value + i, given * gate * n.below, size - i);
            store(d_gate + i, given * load(value + i, size - i) * (n.below + gate * n.density), size - i);
        }
    }
}

}  // namespace styleblend
