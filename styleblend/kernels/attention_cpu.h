// Softmax attention on the CPU, forward and backward, without ever holding a matrix of scores (Dao et al. 2022,
// algorithms 1 and 4). Every thread works on tiles of queries and keys that stay in its cache (attention_tiles.h); the
// backward pass computes the scores again from the saved log-sum-exp. k and v are read where they are, once for every
// tile, without a copy. D is the head size, a compile-time constant; any number of queries, keys and segments.
#pragma once
#include <memory>
#include "attention_amx.h"

namespace styleblend {

constexpr int QUERIES = 256;  // what one thread takes at a time, in groups
// Keys of a tile of the forward pass: sums are fetched and follow the maximum a third as often, and strips of 6 fit.
constexpr int SPAN = 192;
// Keys that a thread takes at a time in the backward pass: enough that preparing the queries anew costs little.
constexpr int PART = 1024;

// As attention_forward, for rows that are the first of their kind.
template <int D>
void attention_forward_vectors(const Problem& p, const float* q, const float* k, const float* v, float* out,
                               float* log_sum) {
    int tiles = (p.queries + QUERIES - 1) / QUERIES;
    #pragma omp parallel
    {
        Memory memory(2 * D * QUERIES + SPAN * GROUP + 2 * QUERIES + GROUP);
        float *turned_q = memory.begin(), *sum = turned_q + D * QUERIES, *score = sum + D * QUERIES,
              *top = score + SPAN * GROUP, *total = top + QUERIES, *most = total + QUERIES;
        #pragma omp for schedule(dynamic)
        for (int unit = 0; unit < p.rows * p.heads * tiles; unit++) {
            int row = unit / (p.heads * tiles), head = unit / tiles % p.heads, first = unit % tiles * QUERIES;
            if (p.first_like(row) != row) continue;
            int count = std::min(QUERIES, p.queries - first);
            int last = p.causal ? std::min(p.keys, first + count) : p.keys, spans = (last + SPAN - 1) / SPAN;
            turn<D>(q + p.at(p.q_rows[row], p.queries, first, head, D), p.width, count, turned_q, p.scale * LOG2E);
            std::fill(sum, sum + D * QUERIES, 0.f);
            std::fill(top, top + QUERIES, HIDDEN); std::fill(total, total + QUERIES, 0.f);
            for (int tile = 0; tile < p.segments * spans; tile++) {
                Segment its = p.segment(tile / spans, row);
                if (its.row < 0) continue;
                int key = tile % spans * SPAN, keys = std::min(SPAN, last - key);
                bool changed = p.bias || p.causal || its.changes_scores();
                size_t place = p.at(its.row, p.keys, key, head, D);
                for (int from = 0; from < count; from += GROUP) {
                    int group = padded(std::min(GROUP, count - from), LANES);
                    float *its_q = turned_q + D * from, *its_sum = sum + D * from;
                    std::fill(most, most + GROUP, HIDDEN);
                    multiply<false, true>(keys, group, D, k + place, p.width, 1, its_q, GROUP, score, GROUP, most);
                    finish_scores(p, row, its, first + from, group, key, keys, score);
                    if (changed) find_most(score, keys, group, most);  // no longer the product's
                    soften<D>(score, keys, group, most, top + from, total + from, its_sum);
                    multiply<true>(D, group, keys, v + place, 1, p.width, score, GROUP, its_sum, GROUP);
                }
            }
            store_result<D>(p, row, head, first, count, sum, top, total, out, log_sum);
        }
    }
}

// out (rows, queries, width) and the log-sum-exp of every query's scores (rows, heads, queries).
template <int D>
void attention_forward(const Problem& p, const float* q, const float* k, const float* v, float* out, float* log_sum) {
    if (tiles_serve<D>(p)) attention_forward_amx<D>(p, q, k, v, out, log_sum);
    else attention_forward_vectors<D>(p, q, k, v, out, log_sum);
    copy_alike(p, out, log_sum);
}

// What a thread takes at a time in the backward pass: keys `from` to `last` of a segment of one row, with all its
// queries, the first of which that may see such a key is `seen`.
struct Part {
    int row, head, from, last, seen;
    Segment its;
};

// The backward pass of one thread. Beside the tiles it holds q, the result's gradient and q's gradient of one head,
// turned: three times D numbers a query.
template <int D> struct Backward {
    static constexpr int P = padded(D, LANES);
    const Problem& p;
    const size_t all, turned, as_rows, of_keys;
    Memory memory;
    std::unique_ptr<TileScores<D>> tiles;  // where the CPU has them
    float *turned_q, *turned_o, *sum_q, *rows_q, *rows_o, *base, *delta, *weight, *slope, *sum_k, *sum_v;

    explicit Backward(const Problem& p)
        : p(p), all(padded(p.queries, GROUP)), turned(D * all), as_rows(D == P ? 0 : P * all),
          of_keys((size_t)P * std::min(PART, padded(p.keys, KEYS))),
          memory(3 * turned + 2 * as_rows + 2 * all + 2 * KEYS * GROUP + 2 * of_keys),
          tiles(tiles_serve<D>(p) ? new TileScores<D>(p.queries) : nullptr) {
        turned_q = memory.begin(); turned_o = turned_q + turned; sum_q = turned_o + turned;
        rows_q = sum_q + turned; rows_o = rows_q + as_rows;
        base = rows_o + as_rows; delta = base + all;
        weight = delta + all; slope = weight + KEYS * GROUP;
        sum_k = slope + KEYS * GROUP; sum_v = sum_k + of_keys;
    }

    // The queries of a part: turned, with what their scores and gradients are taken from; no sums yet.
    void prepare(const Part& part, const float* its_q, const float* out, const float* log_sum, const float* its_o) {
        turn<D>(its_q, p.width, p.queries, turned_q, p.scale * LOG2E);
        turn<D>(its_o, p.width, p.queries, turned_o);
        if (tiles) tiles->take_queries(turned_q);
        std::fill(sum_q, sum_q + turned, 0.f); std::fill(base, base + all, -HIDDEN); std::fill(delta, delta + all, 0.f);
        std::fill(sum_k, sum_k + 2 * of_keys, 0.f);
        for (int i = part.seen; i < p.queries; i++) {
            const float* o = out + p.at(part.row, p.queries, i, part.head, D);
            for (int d = 0; d < D; d++) delta[i] += o[d] * its_o[(size_t)i * p.width + d];
            base[i] = log_sum[((size_t)part.row * p.heads + part.head) * p.queries + i] * LOG2E;
        }
        if (D == P) return;
        std::fill(rows_q, rows_q + 2 * as_rows, 0.f);
        for (int i = part.seen; i < p.queries; i++)
            for (int d = 0; d < D; d++) {
                rows_q[(size_t)i * P + d] = its_q[(size_t)i * p.width + d];
                rows_o[(size_t)i * P + d] = its_o[(size_t)i * p.width + d];
            }
    }

    // The sums of a part. The two products whose result is [key][d] read q and the result's gradient as rows `step`
    // apart: where they are, or padded to whole vectors.
    void add_up(const Part& part, const float* its_q, const float* its_o, size_t step, const float* k, const float* v) {
        for (int key = part.from; key < part.last; key += KEYS) {
            int keys = std::min(KEYS, part.last - key);
            size_t place = p.at(part.its.row, p.keys, key, part.head, D), done = (size_t)(key - part.from) * P;
            if (tiles) tiles->take_keys(k + place, p.width, keys);
            for (int first = p.causal ? key / GROUP * GROUP : 0; first < p.queries; first += GROUP) {
                int count = std::min(GROUP, p.queries - first), group = padded(count, LANES);
                size_t at = (size_t)D * first;
                if (tiles) tiles->product(first / GROUP, weight);
                else multiply<false>(keys, group, D, k + place, p.width, 1, turned_q + at, GROUP, weight, GROUP);
                multiply<false>(keys, group, D, v + place, p.width, 1, turned_o + at, GROUP, slope, GROUP);
                finish_scores(p, part.row, part.its, first, group, key, keys, weight);
                weigh(weight, slope, keys, group, base + first, delta + first);
                multiply<true>(keys, P, count, weight, GROUP, 1, its_o + first * step, step, sum_v + done, P);
                multiply<true>(keys, P, count, slope, GROUP, 1, its_q + first * step, step, sum_k + done, P);
                multiply<true>(D, group, keys, k + place, 1, p.width, slope, GROUP, sum_q + at, GROUP);
            }
        }
    }

    // A part's sums into the gradients.
    void hand_over(const Part& part, float* d_q, float* d_k, float* d_v) const {
        float scale = p.scale * part.its.scale;
        for (int j = 0; j < part.last - part.from; j++) {
            size_t to = p.at(part.its.row, p.keys, part.from + j, part.head, D);
            for (int d = 0; d < D; d++) {
                d_k[to + d] += sum_k[(size_t)j * P + d] * scale;
                d_v[to + d] += sum_v[(size_t)j * P + d];
            }
        }
        for (int i = part.seen; i < p.queries; i++) {
            float* to = d_q + p.at(p.q_rows[part.row], p.queries, i, part.head, D);
            for (int d = 0; d < D; d++) to[d] += sum_q[(size_t)D * (i / GROUP * GROUP) + d * GROUP + i % GROUP] * scale;
        }
    }
};

// Gradients of q, k and v, which must be zero before. A thread makes the products of a part of the keys, then adds them
// to the gradients in the order of the parts (`ordered`). So rows may share q or k and v, and the bits are the same
// however many threads there are.
template <int D>
void attention_backward(const Problem& p, const float* q, const float* k, const float* v, const float* out,
                        const float* log_sum, const float* d_out, float* d_q, float* d_k, float* d_v) {
    constexpr bool WHOLE = D % LANES == 0;
    int parts = (p.keys + PART - 1) / PART, of_head = p.segments * parts;
    #pragma omp parallel
    {
        Backward<D> work(p);
        #pragma omp for ordered schedule(dynamic)
        for (int unit = 0; unit < p.rows * p.heads * of_head; unit++) {
            int row = unit / (p.heads * of_head), head = unit / of_head % p.heads, from = unit % parts * PART;
            Part part{row, head, from, std::min(p.keys, from + PART), p.causal ? from / GROUP * GROUP : 0,
                      p.segment(unit / parts % p.segments, row)};
            if (part.its.row < 0) continue;
            const float* its_q = q + p.at(p.q_rows[row], p.queries, 0, head, D);
            const float* its_o = d_out + p.at(row, p.queries, 0, head, D);
            work.prepare(part, its_q, out, log_sum, its_o);
            if (WHOLE) work.add_up(part, its_q, its_o, p.width, k, v);
            else work.add_up(part, work.rows_q, work.rows_o, work.P, k, v);
            #pragma omp ordered
            work.hand_over(part, d_q, d_k, d_v);
        }
    }
}

}  // namespace styleblend
