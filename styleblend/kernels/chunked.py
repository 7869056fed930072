"""Attention in plain Jittor operators, some queries at a time: for GPUs and precisions that have no kernel of their own yet.

Scores exist for one chunk of queries only, at most `LIMIT` bytes; the backward pass computes them again (Dao et al. 2022, section 3.1,
without the tiling of keys).
"""
from __future__ import annotations

from typing import Optional, Sequence

import numpy as np

from styleblend.kernels.reference import joined, split, taken
from styleblend.machine.precision import cast, product_type
from styleblend.machine.runtime import jt

LIMIT = 128 * 2 ** 20  # of float32 scores: two such arrays and their gradient are alive at a time


class Attention(jt.Function):
    """Core of `attention` on heads: q (n, L, d), k and v (n, S, d), `bias` (n, 1, S) or None. Keeps its inputs, its result, and no scores."""

    def __init__(self, scale: float, causal: bool, chunk: int):
        self.scale, self.causal, self.chunk = scale, causal, chunk

    def weights(self, begin: int):
        """Softmax of the scores of one chunk of queries, in float32: (n, chunk, S)."""
        scores = jt.nn.bmm(self.q[:, begin:begin + self.chunk] * self.scale, self.k.permute(0, 2, 1)).float32()
        if self.bias is not None:
            scores = scores + self.bias
        if self.causal:
            place = np.arange(begin, begin + scores.shape[1])[:, None]
            scores = scores + jt.array(np.where(np.arange(scores.shape[2]) > place, np.float32(-1e30), np.float32(0))[None])
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
        d_q, d_k, d_v = [], jt.zeros(self.k.shape, "float32"), jt.zeros(self.v.shape, "float32")
        d_bias = None if self.bias is None else jt.zeros(self.bias.shape, "float32")
        with jt.no_grad():
            for begin in range(0, self.q.shape[1], self.chunk):
                part = slice(begin, begin + self.chunk)
                weights, given = self.weights(begin), gradient[:, part]
                along = (given * self.out[:, part]).float32().sum(dim=-1, keepdims=True)
                slope = weights * (jt.nn.bmm(given, self.v.permute(0, 2, 1)).float32() - along)
                narrow = slope.cast(self.q.dtype)
                d_q.append(jt.nn.bmm(narrow, self.k) * self.scale)
                d_k = d_k + jt.nn.bmm(narrow.permute(0, 2, 1), self.q[:, part]).float32() * self.scale
                d_v = d_v + jt.nn.bmm(weights.cast(given.dtype).permute(0, 2, 1), given).float32()
                if d_bias is not None:
                    d_bias = d_bias + slope.sum(dim=1, keepdims=True)
                # these alone (weak_sync off): other gradients are half built, see styleblend.models.checkpointing
                jt.sync([d_q[-1], d_k, d_v] + ([] if d_bias is None else [d_bias]), device_sync=False, weak_sync=False)
            return jt.concat(d_q, dim=1), d_k.cast(self.k.dtype), d_v.cast(self.v.dtype), d_bias


def attention(q, k, v, heads: int, bias=None, q_rows: Optional[Sequence[int]] = None, kv_rows: Optional[Sequence[int]] = None,
              scale: Optional[float] = None, causal: bool = False, limit: int = LIMIT):
    """As `kernels.reference.attention`. `limit`: bytes that the scores of a chunk may take."""
    kept = q.dtype
    q, k, v = taken(*(cast(x, product_type(x.dtype)) for x in (q, k, v)), q_rows, kv_rows)  # so gradients of a row that is read twice add up in the wide type
    rows, queries, width = q.shape
    keys = k.shape[1]
    if bias is not None:
        bias = bias.float32().reshape(-1, 1, 1, keys).broadcast([rows, heads, 1, keys]).reshape(rows * heads, 1, keys)
    chunk = max(1, min(queries, limit // (4 * rows * heads * keys)))
    core = Attention((width // heads) ** -0.5 if scale is None else scale, causal, chunk)
    return cast(joined(core(split(q, heads), split(k, heads), split(v, heads), bias), heads), kept)
