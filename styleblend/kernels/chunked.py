"""Attention in plain Jittor operators, some queries at a time: for GPUs and precisions without a kernel of their own.

Scores exist for one chunk of queries only, at most `LIMIT` bytes; the backward pass computes them again (Dao et al.
2022, section 3.1, without the tiling of keys). Keys and values of several segments are copied, one behind the other.
"""
from __future__ import annotations

from typing import Optional, Sequence

import numpy as np

from styleblend.kernels.reference import factors_of_keys, joined, split, taken
from styleblend.kernels.segments import Segment, reading
from styleblend.machine.precision import cast, product_type
from styleblend.machine.runtime import jt

LIMIT = 128 * 2 ** 20  # of float32 scores: two such arrays and their gradient are alive at a time


class Attention(jt.Function):
    """Core of `attention` on heads: q (n, L, d), k and v (n, S, d), `bias` (n, 1, S) or None.

    `factor` (n, 1, S) or None: the scores of each key are multiplied by it, before the bias is added.
    Keeps its inputs, its result, and no scores.
    """

    def __init__(self, scale: float, causal: bool, chunk: int, factor=None):
        self.scale, self.causal, self.chunk, self.factor = scale, causal, chunk, factor

    def weights(self, begin: int):
        """Softmax of the scores of one chunk of queries, in float32: (n, chunk, S)."""
        scores = jt.nn.bmm(self.q[:, begin:begin + self.chunk] * self.scale, self.k.permute(0, 2, 1)).float32()
        if self.factor is not None:
            scores = scores * self.factor
        if self.bias is not None:
            scores = scores + self.bias
        if self.causal:
            place = np.arange(begin, begin + scores.shape[1])[:, None]
            hidden = np.arange(scores.shape[2]) > place
            scores = scores + jt.array(np.where(hidden, np.float32(-1e30), np.float32(0))[None])
        return jt.nn.softmax(scores, dim=-1)

    def execute(self, q, k, v, bias):
        self.q, self.k, self.v, self.bias = q, k, v, bias
        parts = []
        with jt.no_grad():
            for begin in range(0, q.shape[1], self.chunk):
                parts.append(jt.nn.bmm(self.weights(begin).cast(v.dtype), v))
                parts[-1].sync()  # now: put off to the end, the scores of all chunks could be there at a time
            self.out = jt.concat(parts, dim=1)
        return self.out

    def grad(self, gradient):
        if gradient is None:
            return None, None, None, None
        gradient = cast(gradient, self.q.dtype)
        d_q, d_k, d_v = [], jt.zeros(self.k.shape, "float32"), jt.zeros(self.v.shape, "float32")
        d_bias = None if self.bias is None else jt.zeros(self.bias.shape, "float32")
        with jt.no_grad():
            for begin in range(0, self.q.shape[1], self.chunk):
                part = slice(begin, begin + self.chunk)
                weights, given = self.weights(begin), gradient[:, part]
                along = (given * self.out[:, part]).float32().sum(dim=-1, keepdims=True)
                slope = weights * (jt.nn.bmm(given, self.v.permute(0, 2, 1)).float32() - along)
                narrow = (slope if self.factor is None else slope * self.factor).cast(self.q.dtype)
                d_q.append(jt.nn.bmm(narrow, self.k) * self.scale)
                d_k = d_k + jt.nn.bmm(narrow.permute(0, 2, 1), self.q[:, part]).float32() * self.scale
                d_v = d_v + jt.nn.bmm(weights.cast(given.dtype).permute(0, 2, 1), given).float32()
                if d_bias is not None:
                    d_bias = d_bias + slope.sum(dim=1, keepdims=True)
                # these alone (weak_sync off): other gradients are half built, see styleblend.models.checkpointing
                jt.sync([d_q[-1], d_k, d_v] + ([] if d_bias is None else [d_bias]), device_sync=False, weak_sync=False)
            return jt.concat(d_q, dim=1), d_k.cast(self.k.dtype), d_v.cast(self.v.dtype), d_bias


def of_heads(numbers, rows: int, heads: int):
    """A number for each key, in each row or in all -> (rows * heads, 1, keys)."""
    keys = numbers.shape[-1]
    return numbers.reshape(-1, 1, 1, keys).broadcast([rows, heads, 1, keys]).reshape(rows * heads, 1, keys)


def attention(q, k, v, heads: int, bias=None, q_rows: Optional[Sequence[int]] = None,
              segments: Optional[Sequence[Segment]] = None, scale: Optional[float] = None, causal: bool = False,
              limit: int = LIMIT):
    """As `kernels.reference.attention`. `limit`: bytes that the scores of a chunk may take."""
    kept, keys = q.dtype, k.shape[1]
    read = reading(q.shape[0], k.shape[0], q_rows, segments)
    q, k, v = (cast(x, product_type(x.dtype)) for x in (q, k, v))
    q, k, v = taken(q, k, v, read)  # in the wide type, so that there the gradients of a row that is read twice add up
    rows, queries, width = q.shape
    factor = None
    if not read.plain:
        factor, bias = factors_of_keys(read, keys)
        factor = of_heads(factor, rows, heads)
    if bias is not None:
        bias = of_heads(bias.float32(), rows, heads)
    chunk = max(1, min(queries, limit // (4 * rows * heads * k.shape[1])))
    core = Attention((width // heads) ** -0.5 if scale is None else scale, causal, chunk, factor)
    return cast(joined(core(split(q, heads), split(k, heads), split(v, heads), bias), heads), kept)
