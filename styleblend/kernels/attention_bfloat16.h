// Attention's forward pass in bfloat16 on a CPU with matrix tiles: both products of the numbers as they are, with
// float32 sums, and the running softmax of attention_tiles.h in float32. Scores are exact; the weights of the softmax
// are rounded to bfloat16, and its powers of two are as exact as these need.
#pragma once
#include "attention_tiles.h"
#include "products_cpu.h"
#ifdef __AMX_BF16__

namespace styleblend {

constexpr int BATCH = 1024;  // queries that a thread takes at a time, SIDE of them a group

// 2^x for x <= 0 to a relative 8e-5, a fiftieth of what rounding to bfloat16 may change. Below -126 it is nearly zero.
inline Floats exp2_rough(Floats x) {
    x = larger(x, Floats{} - 126.f);
    Ints n = __builtin_convertvector(x - 0.5f, Ints);
    Floats r = x - __builtin_convertvector(n, Floats), p = Floats{} + 0.0551716744f;
    p = p * r + 0.2426111220f;
    p = p * r + 0.6932609883f;
    p = p * r + 0.9999280752f;
    return (Floats)((Ints)p + (n << 23));
}

// Tokens as rows of D numbers -> pairs of the depth, as a right factor wants them; missing tokens are zero.
template <int D> inline void pairs_of_rows(const BFloat16* from, size_t stride, int tokens, int* to) {
    for (int t = 0; t < SIDE; t++)
        for (int d = 0; d < D / 2; d++) {
            int pair = 0;
            if (t < tokens) std::memcpy(&pair, from + t * stride + 2 * d, sizeof pair);
            to[d * SIDE + t] = pair;
        }
}

// `keys` tokens, KEYS at most -> [d][key], a left factor; missing ones are zero.
template <int D> inline void turned_about(const BFloat16* from, size_t stride, int keys, BFloat16* to) {
    int pairs[KEYS / 2][D];  // of neighbours, so that half as many numbers change their places
    for (int j = 0; j < KEYS / 2; j++)
        for (int d = 0; d < D; d++) {
            uint32_t lower = 2 * j < keys ? from[2 * j * stride + d].bits : 0,
                     upper = 2 * j + 1 < keys ? from[(2 * j + 1) * stride + d].bits : 0;
            pairs[j][d] = lower | upper << 16;
        }
    for (int d = 0; d < D; d++)
        for (int j = 0; j < KEYS / 2; j++) std::memcpy(to + d * KEYS + 2 * j, &pairs[j][d], sizeof(int));
}

// One tile of the running softmax, for LANES queries: products [key][query], `factor` times which are scores, become
// weights, as pairs of keys. `top`, `total` and the sums [d][query] follow the new maximum.
template <int D>
inline void soften_to_pairs(const float* product, float factor, int keys, float* top, float* total, float* sum,
                            int* weight) {
    const auto at = [=](int j) { return *(const Floats*)(product + j * SIDE); };
    Floats most[4] = {at(0), at(0), at(0), at(0)}, before = *(Floats*)top, added{};
    for (int j = 0; j < keys; j += 4)  // four chains: one would wait for itself
        for (int n = 0; n < 4; n++) most[n] = larger(most[n], at(std::min(j + n, keys - 1)));
    Floats high = larger(before, larger(larger(most[0], most[1]), larger(most[2], most[3])) * factor);
    for (int j = 0; j < KEYS; j += 2) {
        Floats one = j < keys ? exp2_rough(at(j) * factor - high) : Floats{},
               other = j + 1 < keys ? exp2_rough(at(j + 1) * factor - high) : Floats{};
        added += one + other;
        Ints lower = ((Ints)one + 0x8000) >> 16 & 0xFFFF, upper = ((Ints)other + 0x8000) & (int)0xFFFF0000;
        *(Ints*)(weight + j / 2 * SIDE) = lower | upper;
    }
    if (std::memcmp(&before, &high, sizeof high)) {
        Floats keep = exp2_negative(before - high);
        for (int d = 0; d < D; d++) *(Floats*)(sum + d * SIDE) *= keep;
        *(Floats*)total *= keep;
        *(Floats*)top = high;
    }
    *(Floats*)total += added;
}

// As attention_forward of attention_cpu.h. Only where `tiles_allowed()`, for D a multiple of STEP and a scale above 0.
template <int D>
void attention_forward_bfloat16(const Problem& p, const BFloat16* q, const BFloat16* k, const BFloat16* v,
                                BFloat16* out, float* log_sum) {
    constexpr size_t PAIRS = (size_t)D / 2 * SIDE, SUMS = (size_t)D * SIDE, TILE_OF_KEYS = (size_t)KEYS * D;
    int parts = (p.queries + BATCH - 1) / BATCH, block = std::min(BATCH, padded(p.queries, SIDE));
    int groups = block / SIDE;
    #pragma omp parallel
    {
        Tiles configured;
        Memory memory(groups * (PAIRS + SUMS) + 2 * block + KEYS * SIDE * 3 / 2 + TILE_OF_KEYS);
        float *sum = memory.begin(), *top = sum + groups * SUMS, *total = top + block, *product = total + block;
        int *its_q = (int*)(product + KEYS * SIDE), *weight = its_q + groups * PAIRS;
        BFloat16 *its_v = (BFloat16*)(weight + KEYS / 2 * SIDE), *copy = its_v + TILE_OF_KEYS;
        #pragma omp for schedule(dynamic)
        for (int unit = 0; unit < p.rows * p.heads * parts; unit++) {
            int row = unit / (p.heads * parts), head = unit / parts % p.heads, first = unit % parts * BATCH;
            if (p.first_like(row) != row) continue;
            int count = std::min(BATCH, p.queries - first), last = p.causal ? std::min(p.keys, first + count) : p.keys;
            for (int from = 0; from < count; from += SIDE)
                pairs_of_rows<D>(q + p.at(p.q_rows[row], p.queries, first + from, head, D), p.width,
                                 std::min(SIDE, count - from), its_q + from / SIDE * PAIRS);
            std::fill(sum, sum + groups * SUMS, 0.f);
            std::fill(top, top + block, HIDDEN); std::fill(total, total + block, 0.f);
            for (int tile = 0, spans = (last + KEYS - 1) / KEYS; tile < p.segments * spans; tile++) {
                Segment its = p.segment(tile / spans, row);
                if (its.row < 0) continue;
                int key = tile % spans * KEYS, keys = std::min(KEYS, last - key);
                bool changed = p.bias || p.causal || its.changes_scores();
                size_t place = p.at(its.row, p.keys, key, head, D), stride = p.width;
                const BFloat16* its_k = k + place;
                if (keys < KEYS) {
                    std::memset(copy, 0, TILE_OF_KEYS * sizeof(BFloat16));
                    for (int j = 0; j < keys; j++) std::memcpy(copy + j * D, its_k + j * stride, D * sizeof(BFloat16));
                    its_k = copy; stride = D;
                }
                turned_about<D>(v + place, p.width, keys, its_v);
                for (int from = 0; from < count; from += SIDE) {
                    float *its_sum = sum + from / SIDE * SUMS, factor = p.scale * LOG2E;
                    for (int j = 0; j < KEYS; j += SIDE)
                        add_by_tiles(its_k + j * stride, stride, its_q + from / SIDE * PAIRS, D, product + j * SIDE,
                                     true);
                    if (changed) {
                        for (int i = 0; i < keys * SIDE; i += LANES) *(Floats*)(product + i) *= factor;
                        finish_scores<SIDE>(p, row, its, first + from, SIDE, key, keys, product);
                        factor = 1;
                    }
                    for (int i = 0; i < SIDE; i += LANES)
                        soften_to_pairs<D>(product + i, factor, keys, top + from + i, total + from + i, its_sum + i,
                                           weight + i);
                    for (int d = 0; d < D; d += SIDE)
                        add_by_tiles(its_v + d * KEYS, KEYS, weight, KEYS, its_sum + d * SIDE, false);
                }
            }
            for (int i = 0; i < count; i++) {
                float share = 1 / total[i], *its_sum = sum + i / SIDE * SUMS + i % SIDE;
                BFloat16* to = out + p.at(row, p.queries, first + i, head, D);
                for (int d = 0; d < D; d++) to[d] = nearest(its_sum[d * SIDE] * share);
                log_sum[((size_t)row * p.heads + head) * p.queries + first + i] = (top[i] + std::log2(total[i])) * LN2;
            }
        }
    }
    copy_alike(p, out, log_sum);
}

}  // namespace styleblend
#endif
