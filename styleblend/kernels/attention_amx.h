// Attention of attention_cpu.h on a CPU with matrix tiles (AMX, x86 servers since 2023): the same steps, but both
// products of the forward pass, and the scores of the backward pass, are made by the tile unit, which multiplies
// bfloat16 sixteen times as fast as vectors multiply float32.
// A float32 is the exact sum of three bfloat16, so products of these parts make one of float32 (Henry, Tang & Heinecke
// 2019), six of them. With two parts and three products the values would have an error of 4e-6, a fifth of the time
// less, and pictures that differ from those of other CPUs by 2 of 255.
#pragma once
#include "attention_tiles.h"
#include "tile_unit.h"
#ifdef __AMX_BF16__

namespace styleblend {

typedef short HalfLanes __attribute__((vector_size(32), aligned(2), may_alias));

constexpr int PARTS = 3;
// One thread takes more of them than without tiles, since it prepares k and v for each of these blocks anew.
constexpr int AMX_QUERIES = 1024;

// Whether there are tiles and the problem fills them.
template <int D> bool tiles_serve(const Problem& p) {
    return p.tiles && tiles_allowed() && D % DEPTH == 0 && p.queries >= GROUP;
}

// x as a sum of PARTS bfloat16, each in the upper half of its lane. Rounded, not cut off: what is left for the next
// part is half as much.
inline void split(Floats x, Ints* parts) {
    for (int n = 0; n < PARTS; n++) {
        parts[n] = ((Ints)x + 0x8000) & (int)0xFFFF0000;
        x -= (Floats)parts[n];
    }
}

// Rows of `columns` float32 -> for each part rows of as many bfloat16, `step` apart: the left factor.
inline void left_factor(const float* from, size_t stride, int rows, int columns, short* to, size_t part, size_t step) {
    for (int r = 0; r < rows; r++)
        for (int c = 0; c < columns; c += LANES) {
            Ints parts[PARTS];
            split(*(const Floats*)(from + r * stride + c), parts);
            for (int n = 0; n < PARTS; n++)
                *(HalfLanes*)(to + n * part + r * step + c) = __builtin_convertvector(parts[n] >> 16, HalfLanes);
        }
}

// Rows of GROUP float32 -> for each part rows of GROUP pairs, one number of each of two rows: the right factor. A
// missing second row is zero.
inline void right_factor(const float* from, int rows, int columns, int* to, size_t part) {
    for (int r = 0; r < rows; r += 2)
        for (int c = 0; c < columns; c += LANES) {
            Ints first[PARTS], second[PARTS];
            split(*(const Floats*)(from + r * GROUP + c), first);
            split(r + 1 < rows ? *(const Floats*)(from + (r + 1) * GROUP + c) : Floats{}, second);
            for (int n = 0; n < PARTS; n++)
                *(Ints*)(to + n * part + r / 2 * GROUP + c) = (first[n] >> 16 & 0xFFFF) | second[n];
        }
}

// C (M x GROUP) = (ADD: +=) A (M x depth) B (depth x GROUP), each factor in its parts; products of parts too small to
// matter are left out. The large one comes last: what is added to a large sum is rounded to its last place.
template <int M, bool ADD>
inline void tile_product(const short* a, size_t a_part, size_t a_step, const int* b, size_t b_part, float* c,
                         int depth) {
    constexpr size_t ROW = GROUP * sizeof(float);
    whole_memory();
    for (int i = 0; i < M; i += 2 * TILE)
        for (int j = 0; j < GROUP; j += 2 * TILE) {
            float* to = c + i * GROUP + j;
            if (ADD) {
                _tile_loadd(0, to, ROW); _tile_loadd(1, to + TILE, ROW);
                _tile_loadd(2, to + TILE * GROUP, ROW); _tile_loadd(3, to + TILE * GROUP + TILE, ROW);
            } else {
                _tile_zero(0); _tile_zero(1); _tile_zero(2); _tile_zero(3);
            }
            for (int k = 0; k < depth; k += DEPTH)
                for (int m = PARTS - 1; m >= 0; m--) {
                    const short* left = a + m * a_part + i * a_step + k;
                    _tile_loadd(4, left, a_step * sizeof(short));
                    _tile_loadd(5, left + TILE * a_step, a_step * sizeof(short));
                    for (int n = PARTS - 1 - m; n >= 0; n--) {
                        const int* right = b + n * b_part + k / 2 * GROUP + j;
                        _tile_loadd(6, right, ROW); _tile_loadd(7, right + TILE, ROW);
                        _tile_dpbf16ps(0, 4, 6); _tile_dpbf16ps(1, 4, 7);
                        _tile_dpbf16ps(2, 5, 6); _tile_dpbf16ps(3, 5, 7);
                    }
                }
            _tile_stored(0, to, ROW); _tile_stored(1, to + TILE, ROW);
            _tile_stored(2, to + TILE * GROUP, ROW); _tile_stored(3, to + TILE * GROUP + TILE, ROW);
        }
}

// `keys` keys, KEYS at most, of a head -> left factors of the scores; what is missing to KEYS is zero.
template <int D> inline void factors_of_keys(const float* k, size_t stride, int keys, short* its_k) {
    constexpr size_t HALF = (size_t)KEYS * D;
    left_factor(k, stride, keys, D, its_k, HALF, D);
    for (int n = 0; n < PARTS; n++)
        std::memset(its_k + n * HALF + keys * D, 0, (KEYS - keys) * D * sizeof(short));
}

// The scores as the forward pass makes them, for the backward pass of one thread. That takes their exponents with the
// forward pass's log-sum-exp: with other last bits of the scores the weights of a query would not add up to 1.
template <int D> class TileScores {
    static constexpr size_t PAIRS = (size_t)D / 2 * GROUP, HALF = (size_t)KEYS * D;
    Tiles configured;
    const int groups;
    Memory memory;
    int* its_q;
    short* its_k;

  public:
    explicit TileScores(int queries)
        : groups(padded(queries, GROUP) / GROUP), memory(groups * PARTS * PAIRS + PARTS * HALF / 2),
          its_q((int*)memory.begin()), its_k((short*)(its_q + groups * PARTS * PAIRS)) {}

    // Of a head, as `turn` lays them out.
    void take_queries(const float* turned) {
        for (int group = 0; group < groups; group++)
            right_factor(turned + (size_t)group * D * GROUP, D, GROUP, its_q + group * PARTS * PAIRS, PAIRS);
    }

    void take_keys(const float* k, size_t stride, int keys) { factors_of_keys<D>(k, stride, keys, its_k); }

    // score (KEYS x GROUP) = the keys that were taken, with one group of the queries.
    void product(int group, float* score) const {
        tile_product<KEYS, false>(its_k, HALF, D, its_q + group * PARTS * PAIRS, PAIRS, score, D);
    }
};

// As attention_forward, for rows that are the first of their kind.
template <int D>
void attention_forward_amx(const Problem& p, const float* q, const float* k, const float* v, float* out,
                           float* log_sum) {
    static_assert(KEYS == GROUP, "turn<D> lays v out in tiles of GROUP tokens");
    constexpr size_t PAIRS = (size_t)D / 2 * GROUP, TURNED = (size_t)D * GROUP, HALF = (size_t)KEYS * D,
                     WEIGHTS = (size_t)KEYS / 2 * GROUP, ROOM = std::max((size_t)KEYS * GROUP, TURNED),
                     QUERY_PARTS = PARTS * PAIRS;
    int tiles = (p.queries + AMX_QUERIES - 1) / AMX_QUERIES, block = std::min(AMX_QUERIES, padded(p.queries, GROUP)),
        groups = block / GROUP;
    #pragma omp parallel
    {
        Tiles configured;
        Memory memory(groups * (QUERY_PARTS + TURNED) + 2 * block + GROUP + ROOM + PARTS * WEIGHTS
                      + 2 * PARTS * HALF / 2);
        float *sum = memory.begin(), *top = sum + groups * TURNED, *total = top + block, *most = total + block,
              *score = most + GROUP;
        int *its_q = (int*)(score + ROOM), *weight = its_q + groups * QUERY_PARTS;
        short *its_k = (short*)(weight + PARTS * WEIGHTS), *its_v = its_k + PARTS * HALF;
        #pragma omp for schedule(dynamic)
        for (int unit = 0; unit < p.rows * p.heads * tiles; unit++) {
            int row = unit / (p.heads * tiles), head = unit / tiles % p.heads, first = unit % tiles * AMX_QUERIES;
            if (p.first_like(row) != row) continue;
            int count = std::min(AMX_QUERIES, p.queries - first);
            int last = p.causal ? std::min(p.keys, first + count) : p.keys, spans = (last + KEYS - 1) / KEYS;
            for (int from = 0; from < count; from += GROUP) {
                const float* query = q + p.at(p.q_rows[row], p.queries, first + from, head, D);
                turn<D>(query, p.width, std::min(GROUP, count - from), score, p.scale * LOG2E);
                right_factor(score, D, GROUP, its_q + from / GROUP * QUERY_PARTS, PAIRS);
            }
            std::fill(sum, sum + groups * TURNED, 0.f);
            std::fill(top, top + block, HIDDEN); std::fill(total, total + block, 0.f);
            for (int tile = 0; tile < p.segments * spans; tile++) {
                Segment its = p.segment(tile / spans, row);
                if (its.row < 0) continue;
                int key = tile % spans * KEYS, keys = std::min(KEYS, last - key);
                size_t place = p.at(its.row, p.keys, key, head, D);
                factors_of_keys<D>(k + place, p.width, keys, its_k);
                turn<D>(v + place, p.width, keys, score);
                left_factor(score, GROUP, D, KEYS, its_v, HALF, KEYS);
                size_t missing = (KEYS - keys) / 2 * GROUP * sizeof(int);
                for (int n = 0; n < PARTS; n++)
                    std::memset(weight + n * WEIGHTS + (keys + 1) / 2 * GROUP, 0, missing);
                for (int from = 0; from < count; from += GROUP) {
                    int group = padded(std::min(GROUP, count - from), LANES);
                    int* queries = its_q + from / GROUP * QUERY_PARTS;
                    float* its_sum = sum + from / GROUP * TURNED;
                    tile_product<KEYS, false>(its_k, HALF, D, queries, PAIRS, score, D);
                    finish_scores(p, row, its, first + from, group, key, keys, score);
                    find_most(score, keys, group, most);
                    soften<D>(score, keys, group, most, top + from, total + from, its_sum);
                    right_factor(score, keys, GROUP, weight, WEIGHTS);
                    tile_product<D, true>(its_v, HALF, KEYS, weight, WEIGHTS, its_sum, KEYS);
                }
            }
            store_result<D>(p, row, head, first, count, sum, top, total, out, log_sum);
        }
    }
}

}  // namespace styleblend
#else
namespace styleblend {
template <int D> bool tiles_serve(const Problem&) { return false; }
template <int D> void attention_forward_amx(const Problem&, const float*, const float*, const float*, float*, float*) {}
template <int D> struct TileScores {
    explicit TileScores(int) {}
    void take_queries(const float*) {}
    void take_keys(const float*, size_t, int) {}
    void product(int, float*) const {}
};
}  // namespace styleblend
#endif
