"""Attention whose scores get a summand for each pair of query and key. All scores are held: it is for few keys."""
from __future__ import annotations

from styleblend.kernels.reference import joined, split
from styleblend.machine.runtime import jt


def biased_attention(q, k, v, heads: int, bias, scale: float):
    """softmax(scale * q k^T + bias) v, (rows, L, width).

    `q` (rows, L, width); `k`, `v` (rows, S, width). `bias` (heads, L, S) for all rows, or (windows, heads, L, S) where
    the rows are the windows of one picture after another.
    """
    q, k, v = (split(part, heads) for part in (q, k, v))
    scores = jt.nn.bmm(q, k.permute(0, 2, 1))
    scores = scores if scale == 1 else scores * scale
    scores = (scores.reshape(-1, *bias.shape) + bias).reshape(scores.shape)
    return joined(jt.nn.bmm(jt.nn.softmax(scores, dim=-1), v), heads)
