// Products of bfloat16 matrices on a CPU with instructions for them, with float32 sums: matrix tiles (AMX), or dot
// products of pairs in vectors (AVX512-BF16, twice as fast as float32 on AMD's processors).
//
// result (rows x columns) = left (rows x depth) right (depth x columns). The left factor is read where it lies. The
// right one comes in blocks of SIDE columns, in each the pairs of the depth one below the other, as the instructions
// want them: [block][depth / 2][SIDE] pairs. The sums of a column add up in the same order whatever the sizes of the
// parts and however many threads there are.
#pragma once
#include <cmath>
#include <cstdlib>
#include <memory>
#include <omp.h>
#include "tile_unit.h"
#include "vectors.h"
#ifdef __AVX512BF16__
#include <immintrin.h>
#endif

namespace styleblend {

constexpr int SIDE = 32;  // a block of the result: SIDE x SIDE
constexpr int STEP = 32;  // a depth is filled up with zeros to whole steps
constexpr int DEEP = 512;  // of the depth at a time: SIDE rows of the left factor stay in the first cache
constexpr size_t NUMBERS = 160 << 10;  // of the result that a thread works on: with its factors in the second cache
constexpr int MOST_ROWS = 256, MOST_COLUMNS = 640;

// c (SIDE x SIDE) = a (SIDE x depth) b (depth x SIDE), added to what is there unless `fresh`.
#if defined(__AVX512BF16__)
template <int R> inline void add_rows(const BFloat16* a, size_t stride, const int* b, int depth, float* c, bool fresh) {
    __m512 sum[R][2];
    for (int r = 0; r < R; r++)
        for (int n = 0; n < 2; n++) sum[r][n] = fresh ? _mm512_setzero_ps() : _mm512_loadu_ps(c + r * SIDE + n * 16);
    for (int k = 0; k < depth; k += 2, b += SIDE) {
        __m512bh left = (__m512bh)_mm512_loadu_si512(b), right = (__m512bh)_mm512_loadu_si512(b + 16);
        for (int r = 0; r < R; r++) {
            int pair;
            std::memcpy(&pair, a + r * stride + k, sizeof pair);
            __m512bh x = (__m512bh)_mm512_set1_epi32(pair);
            sum[r][0] = _mm512_dpbf16_ps(sum[r][0], x, left);
            sum[r][1] = _mm512_dpbf16_ps(sum[r][1], x, right);
        }
    }
    for (int r = 0; r < R; r++)
        for (int n = 0; n < 2; n++) _mm512_storeu_ps(c + r * SIDE + n * 16, sum[r][n]);
}
inline void add_by_vectors(const BFloat16* a, size_t stride, const int* b, int depth, float* c, bool fresh) {
    add_rows<12>(a, stride, b, depth, c, fresh);
    add_rows<12>(a + 12 * stride, stride, b, depth, c + 12 * SIDE, fresh);
    add_rows<8>(a + 24 * stride, stride, b, depth, c + 24 * SIDE, fresh);
}
#else
inline void add_by_vectors(const BFloat16*, size_t, const int*, int, float*, bool) { std::abort(); }
#endif
#ifdef __AMX_BF16__
inline void add_by_tiles(const BFloat16* a, size_t stride, const int* b, int depth, float* c, bool fresh) {
    constexpr size_t ROW = SIDE * sizeof(float);
    whole_memory();
    if (fresh) {
        _tile_zero(0); _tile_zero(1); _tile_zero(2); _tile_zero(3);
    } else {
        _tile_loadd(0, c, ROW); _tile_loadd(1, c + TILE, ROW);
        _tile_loadd(2, c + TILE * SIDE, ROW); _tile_loadd(3, c + TILE * SIDE + TILE, ROW);
    }
    for (int k = 0; k < depth; k += DEPTH, a += DEPTH, b += DEPTH / 2 * SIDE) {
        _tile_loadd(4, a, stride * sizeof(BFloat16));
        _tile_loadd(6, b, ROW); _tile_dpbf16ps(0, 4, 6);
        _tile_loadd(7, b + TILE, ROW); _tile_dpbf16ps(1, 4, 7);
        _tile_loadd(5, a + TILE * stride, stride * sizeof(BFloat16));
        _tile_dpbf16ps(2, 5, 6); _tile_dpbf16ps(3, 5, 7);
    }
    _tile_stored(0, c, ROW); _tile_stored(1, c + TILE, ROW);
    _tile_stored(2, c + TILE * SIDE, ROW); _tile_stored(3, c + TILE * SIDE + TILE, ROW);
}
#else
struct Tiles {};
inline bool tiles_allowed() { return false; }
inline void add_by_tiles(const BFloat16*, size_t, const int*, int, float*, bool) { std::abort(); }
#endif

// What multiplies bfloat16 here: 2 the tiles, 1 the vectors, 0 nothing.
inline int product_unit() {
    if (tiles_allowed()) return 2;
#ifdef __AVX512BF16__
    return 1;
#else
    return 0;
#endif
}

// Working memory as `Memory` is, with whatever was there before: clearing what is written anyway takes time.
struct Uncleared {
    std::unique_ptr<float[]> all;
    explicit Uncleared(size_t size) : all(new float[size + Memory::LINE / sizeof(float)]) { flush_small_numbers(); }
    float* begin() { return (float*)(((size_t)all.get() + Memory::LINE - 1) / Memory::LINE * Memory::LINE); }
};

// A matrix that is read where it lies: `rows` rows of `columns` numbers.
struct Matrix {
    const BFloat16* at;
    int rows, columns;
    const BFloat16* row(int i) const { return at + (size_t)i * columns; }
};

// SIDE rows of a left factor, from `i` on, numbers `from` to `to`, with zeros to whole steps. What is there in full is
// read where it is, the rest in a copy; beyond the last row there are zeros.
inline const BFloat16* strip_of(const Matrix& left, int i, int from, int to, BFloat16* copy, size_t* stride) {
    if (i + SIDE <= left.rows && (to - from) % STEP == 0) {
        *stride = left.columns;
        return left.row(i) + from;
    }
    *stride = padded(to - from, STEP);
    std::memset(copy, 0, SIDE * *stride * sizeof(BFloat16));
    for (int r = 0; r < std::min(SIDE, left.rows - i); r++)
        std::memcpy(copy + r * *stride, left.row(i + r) + from, (to - from) * sizeof(BFloat16));
    return copy;
}

// How many rows and columns of the result a thread takes at a time, in whole blocks. `whole_rows`: all rows, where they
// leave room for two blocks.
struct Parts {
    int rows, columns, down, across;

    Parts(int m, int n, bool whole_rows) {
        int all = padded(m, SIDE), most = padded(n, SIDE), threads = omp_get_max_threads();
        rows = std::min(all, whole_rows ? (int)NUMBERS / (2 * SIDE) / SIDE * SIDE : MOST_ROWS);
        columns = std::min({most, MOST_COLUMNS, std::max(2 * SIDE, (int)(NUMBERS / rows) / SIDE * SIDE)});
        count(m, n);
        while (threads > 1 && down * across < 2 * threads && (rows > 2 * SIDE || columns > 2 * SIDE)) {
            int& larger = columns > 2 * SIDE && (whole_rows || columns >= rows) ? columns : rows;
            larger = padded((larger + 1) / 2, SIDE);
            count(m, n);
        }
    }
    void count(int m, int n) { down = (m + rows - 1) / rows; across = (n + columns - 1) / columns; }
};

// The whole product. `right.part(j, columns, from, to, room)` gives pairs `from` to `to` of the depth (`from` a
// multiple of STEP, zeros to whole steps) of so many columns, as above; `right.step(from, to)`: pairs from one block to
// the next; `right.room(columns)`: pairs of memory of its own that it wants for it. `result(i, j, block)` gets each
// block.
template <class Right, class Result>
void multiply_bfloat16(const Matrix& left, int columns, const Right& right, bool whole_rows, const Result& result) {
    int m = left.rows, depth = left.columns;
    if (m == 0 || columns == 0) return;
    const bool tiles = tiles_allowed();
    const Parts parts(m, columns, whole_rows);
    #pragma omp parallel
    {
        std::unique_ptr<Tiles> configured(tiles ? new Tiles : nullptr);
        size_t of_result = (size_t)parts.rows * parts.columns;
        Uncleared memory(of_result + SIDE * DEEP / 2 + right.room(parts.columns));
        float* sums = memory.begin();
        BFloat16* copy = (BFloat16*)(sums + of_result);
        int* room = (int*)(copy + SIDE * DEEP);
        #pragma omp for schedule(dynamic)
        for (int unit = 0; unit < parts.down * parts.across; unit++) {
            int top = unit % parts.down * parts.rows, first = unit / parts.down * parts.columns;
            int rows = std::min(parts.rows, m - top), wide = std::min(parts.columns, columns - first);
            for (int from = 0; from < depth; from += DEEP) {
                int to = std::min(depth, from + DEEP), deep = padded(to - from, STEP);
                const int* b = right.part(first, wide, from, to, room);
                for (int i = 0; i < rows; i += SIDE) {
                    size_t stride;
                    const BFloat16* a = strip_of(left, top + i, from, to, copy, &stride);
                    for (int j = 0; j < wide; j += SIDE) {
                        float* c = sums + (size_t)i * parts.columns + j * SIDE;
                        const int* its = b + j / SIDE * right.step(from, to);
                        if (tiles) add_by_tiles(a, stride, its, deep, c, from == 0);
                        else add_by_vectors(a, stride, its, deep, c, from == 0);
                    }
                }
            }
            for (int i = 0; i < rows; i += SIDE)
                for (int j = 0; j < wide; j += SIDE)
                    result(top + i, first + j, sums + (size_t)i * parts.columns + j * SIDE);
        }
    }
}

}  // namespace styleblend
