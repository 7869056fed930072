// Linear layers and convolutions in bfloat16 on the CPU, and the gradients of their inputs. Weights are read as they
// are kept; nothing of them stays beside them.
#pragma once
#include "products_cpu.h"

namespace styleblend {

inline int pair_of(BFloat16 lower, BFloat16 upper) { return lower.bits | (int)((uint32_t)upper.bits << 16); }

// A right factor that is laid out once, before the product, by all threads.
struct Laid {
    int depth;
    Uncleared memory;
    const int* at;

    Laid(int depth, int columns) : depth(padded(depth, STEP)), memory((size_t)this->depth / 2 * padded(columns, SIDE)),
                                   at((const int*)memory.begin()) {}
    int* block(int j) { return (int*)at + (size_t)j * (depth / 2); }
    size_t room(int) const { return 0; }
    size_t step(int, int) const { return (size_t)depth / 2 * SIDE; }
    const int* part(int j, int, int from, int, int*) const { return at + (size_t)j * (depth / 2) + from / 2 * SIDE; }
};

// The rows of a matrix are the columns of the right factor, as y = x W^T reads W.
inline Laid laid_by_rows(const Matrix& w) {
    Laid to(w.columns, w.rows);
    #pragma omp parallel for
    for (int j = 0; j < w.rows; j += SIDE) {
        int* block = to.block(j);
        int there = std::min(SIDE, w.rows - j), whole = w.columns / 2;
        std::memset(block, 0, to.step(0, 0) * sizeof(int));
        for (int k = 0; k < whole; k += 16)  // in squares, so that both sides stay in the cache
            for (int n = 0; n < there; n++)
                for (int i = k; i < std::min(k + 16, whole); i++)
                    std::memcpy(block + i * SIDE + n, w.row(j + n) + 2 * i, sizeof(int));
        for (int n = 0; w.columns % 2 && n < there; n++)
            block[whole * SIDE + n] = pair_of(w.row(j + n)[w.columns - 1], BFloat16{0});
    }
    return to;
}

// The matrix itself is the right factor, as d_x = d_y W reads it.
inline Laid laid_as_it_is(const Matrix& w) {
    Laid to(w.rows, w.columns);
    #pragma omp parallel for
    for (int j = 0; j < w.columns; j += SIDE) {
        int* block = to.block(j);
        int there = std::min(SIDE, w.columns - j);
        std::memset(block, 0, to.step(0, 0) * sizeof(int));
        for (int k = 0; k < w.rows; k += 2)
            for (int n = 0; n < there; n++)
                block[k / 2 * SIDE + n] = pair_of(w.row(k)[j + n], k + 1 < w.rows ? w.row(k + 1)[j + n] : BFloat16{0});
    }
    return to;
}

// y (tokens, out) = x (tokens, in) times the factor, plus a number for each column (null: none).
template <class T>
void linear_with(const Matrix& x, int out, const Laid& right, const float* bias, T* y) {
    multiply_bfloat16(x, out, right, false, [=](int i, int j, const float* block) {
        for (int r = 0; r < std::min(SIDE, x.rows - i); r++)
            for (int n = 0; n < std::min(SIDE, out - j); n += LANES) {
                int count = std::min(LANES, out - j - n);
                Floats sum = *(const Floats*)(block + r * SIDE + n);
                store(y + (size_t)(i + r) * out + j + n, bias ? sum + load(bias + j + n, count) : sum, count);
            }
    });
}

template <class T>
void linear_forward(int tokens, int in, int out, const BFloat16* x, const BFloat16* w, const float* bias, T* y) {
    linear_with(Matrix{x, tokens, in}, out, laid_by_rows(Matrix{w, out, in}), bias, y);
}

template <class T> void linear_backward(int tokens, int in, int out, const BFloat16* d_y, const BFloat16* w, T* d_x) {
    linear_with(Matrix{d_y, tokens, out}, in, laid_as_it_is(Matrix{w, out, in}), nullptr, d_x);
}

// A convolution of pictures (images, channels, height, width) with a square kernel; the result is `down` x `across`.
// `spread`: places from one of their pixels to the next, with zeros between them.
struct Pictures {
    int images, channels, height, width, kernel, stride, border, spread, down, across;
    int pixels() const { return down * across; }  // of the result
    int lines() const { return (down - 1) * stride + kernel; }  // of a picture with its border, as far as it is read
    int pitch() const { return (across - 1) * stride + kernel; }
    size_t plane() const { return (size_t)lines() * pitch(); }
    bool as_it_is() const { return border == 0 && spread == 1 && lines() == height && pitch() == width; }
};

// The pictures with a border of zeros around each.
struct Bordered {
    std::vector<BFloat16> memory;
    const BFloat16* at;

    Bordered(const Pictures& p, const BFloat16* x)
        : memory(p.as_it_is() ? 0 : p.images * p.channels * p.plane()), at(x) {
        if (p.as_it_is()) return;
        #pragma omp parallel for
        for (int i = 0; i < p.images * p.channels; i++)
            for (int y = 0; y < p.height && p.border + y * p.spread < p.lines(); y++) {
                const BFloat16* from = x + ((size_t)i * p.height + y) * p.width;
                BFloat16* to = memory.data() + i * p.plane() + (size_t)(p.border + y * p.spread) * p.pitch() + p.border;
                int count = std::min(p.width, (p.pitch() - p.border + p.spread - 1) / p.spread);
                if (p.spread == 1) std::memcpy(to, from, count * sizeof(BFloat16));
                else
                    for (int n = 0; n < count; n++) to[n * p.spread] = from[n];
            }
        at = memory.data();
    }
};

// The right factor of a convolution: a column for every pixel of the result, in the depth channels and places of the
// kernel, as the weights have them. RUN pixels of a row are read at a time.
template <int RUN> struct Neighbourhoods {
    const Pictures& p;
    const BFloat16* at;  // of bordered pictures
    std::vector<ptrdiff_t> offsets;  // of every number of the depth, from a pixel's first place of the kernel

    Neighbourhoods(const Pictures& p, const BFloat16* at) : p(p), at(at) {
        for (int c = 0; c < p.channels; c++)
            for (int y = 0; y < p.kernel; y++)
                for (int x = 0; x < p.kernel; x++) offsets.push_back(c * p.plane() + (size_t)y * p.pitch() + x);
    }
    size_t room(int columns) const { return (size_t)DEEP / 2 * padded(columns, SIDE); }
    size_t step(int from, int to) const { return (size_t)padded(to - from, STEP) / 2 * SIDE; }

    const int* part(int j, int columns, int from, int to, int* room) const {
        constexpr int RUNS = SIDE / RUN;
        int all = p.images * p.pixels(), deep = padded(to - from, STEP);
        for (int block = 0; block < padded(columns, SIDE); block += SIDE) {
            const BFloat16* starts[RUNS];
            for (int run = 0; run < RUNS; run++) {
                int n = j + block + run * RUN, inside = n < all ? n : 0;  // what is beyond the last is not looked at
                int image = inside / p.pixels(), y = inside % p.pixels() / p.across, x = inside % p.across;
                starts[run] = at + image * p.channels * p.plane() + ((size_t)y * p.pitch() + x) * p.stride;
            }
            int* its = room + (size_t)block * (deep / 2);
            for (int k = from; k < from + deep; k += 2, its += SIDE) {
                if (k >= to) { std::memset(its, 0, SIDE * sizeof(int)); continue; }
                ptrdiff_t lower = offsets[k], upper = k + 1 < to ? offsets[k + 1] : -1;
                for (int run = 0; run < RUNS; run++)
                    for (int i = 0; i < RUN; i++)
                        its[run * RUN + i] = pair_of(starts[run][lower + i],
                                                     upper < 0 ? BFloat16{0} : starts[run][upper + i]);
            }
        }
        return room;
    }
};

// y (images, out, down, across) = weights (out, channels * kernel * kernel) on the pictures, plus the bias.
template <int RUN, class T>
void convolution_of(const Pictures& p, const BFloat16* x, const Matrix& weights, const float* bias, T* y) {
    Bordered bordered(p, x);
    Neighbourhoods<RUN> right(p, bordered.at);
    int all = p.images * p.pixels(), out = weights.rows;
    multiply_bfloat16(weights, all, right, true, [=](int i, int j, const float* block) {
        for (int r = 0; r < std::min(SIDE, out - i); r++)
            for (int n = 0; n < std::min(SIDE, all - j);) {
                int image = (j + n) / p.pixels(), pixel = (j + n) % p.pixels();
                int count = std::min({LANES, SIDE - n, all - j - n, p.pixels() - pixel});
                Floats sum = load(block + r * SIDE + n, count);
                store(y + ((size_t)image * out + i + r) * p.pixels() + pixel, bias ? sum + bias[i + r] : sum, count);
                n += count;
            }
    });
}

template <class T>
void convolution_forward(Pictures p, int out, const BFloat16* x, const BFloat16* w, const float* bias, T* y) {
    Matrix weights{w, out, p.channels * p.kernel * p.kernel};
    if (p.kernel == 1 && p.stride == 1 && p.as_it_is()) {  // no neighbours: the pixels are one long row
        p.width = p.across = p.pixels();
        p.height = p.down = 1;
    }
    if (p.stride == 1 && p.across % 16 == 0) convolution_of<16>(p, x, weights, bias, y);
    else if (p.stride == 1 && p.across % 4 == 0) convolution_of<4>(p, x, weights, bias, y);
    else convolution_of<1>(p, x, weights, bias, y);
}

// d_x of the convolution `p` with weights (out, channels, kernel, kernel): a convolution of d_y, its pixels as far
// apart as the kernel stepped, with the weights of each pair of channels turned about.
template <class T>
void convolution_backward(const Pictures& p, int out, const BFloat16* d_y, const BFloat16* w, T* d_x) {
    int places = p.kernel * p.kernel;
    std::vector<BFloat16> turned((size_t)out * p.channels * places);
    #pragma omp parallel for
    for (int c = 0; c < p.channels; c++)
        for (int n = 0; n < out; n++)
            for (int i = 0; i < places; i++)
                turned[((size_t)c * out + n) * places + i] = w[((size_t)n * p.channels + c) * places + places - 1 - i];
    Pictures back{p.images, out, p.down, p.across, p.kernel, 1, p.kernel - 1 - p.border, p.stride, p.height, p.width};
    convolution_forward(back, p.channels, d_y, turned.data(), nullptr, d_x);
}

}  // namespace styleblend
