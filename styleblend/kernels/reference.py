"""The kernels in plain Jittor operators: right on every device, and the reference that faster ones are tested against.

Norms and the gated GELU compute in float32 and return the type of their input. Attention computes in the type that it is given.
"""
from __future__ import annotations

from typing import Optional, Sequence

import numpy as np

from styleblend.machine.precision import cast
from styleblend.machine.runtime import jt


def taken(q, k, v, q_rows: Optional[Sequence[int]], kv_rows: Optional[Sequence[int]]):
    """q, k and v with the batch rows that the index says; None: their own."""
    if q_rows is not None:
        q = q[jt.array(list(q_rows), "int32")]
    if kv_rows is not None:
        index = jt.array(list(kv_rows), "int32")
        k, v = k[index], v[index]
    return q, k, v


def split(x, heads: int):
    """(rows, tokens, heads * d) -> (rows * heads, tokens, d)."""
    rows, tokens, width = x.shape
    return x.reshape(rows, tokens, heads, width // heads).permute(0, 2, 1, 3).reshape(rows * heads, tokens, width // heads)


def joined(x, heads: int):
    """The inverse of `split`."""
    rows, tokens, size = x.shape
    return x.reshape(rows // heads, heads, tokens, size).permute(0, 2, 1, 3).reshape(rows // heads, tokens, heads * size)


def attention(q, k, v, heads: int, bias=None, q_rows: Optional[Sequence[int]] = None, kv_rows: Optional[Sequence[int]] = None,
              scale: Optional[float] = None, causal: bool = False):
    """Softmax attention (Vaswani et al. 2017, eq. 1) of every batch row, with the rows of q and of k, v chosen by index.

    q (B, L, heads * d), k and v (B, S, heads * d), any L and S. Row b of the result attends with row `q_rows[b]` of q to
    row `kv_rows[b]` of k and v; None means row b itself. `bias` (S,) or (B, S) is added to the scores of each key, or None.
    `scale` defaults to d ** -0.5; `causal` hides the keys after a query's own position. Returns (B, L, heads * d).
    """
    q, k, v = taken(q, k, v, q_rows, kv_rows)
    rows, queries, width = q.shape
    scale = (width // heads) ** -0.5 if scale is None else scale
    scores = jt.nn.bmm(split(q, heads) * scale, split(k, heads).permute(0, 2, 1))
    if bias is not None:
        bias = bias.reshape(-1, 1, 1, bias.shape[-1])
        scores = (scores.reshape(rows, heads, queries, -1) + bias).reshape(scores.shape)
    if causal:
        hidden = np.triu(np.full((queries, scores.shape[-1]), -1e30, np.float32), 1)
        scores = scores + jt.array(hidden)
    return joined(jt.nn.bmm(jt.nn.softmax(scores, dim=-1), split(v, heads)), heads)


def group_norm(x, weight, bias, groups: int, eps: float, silu: bool = False):
    """Group norm (Wu & He 2018) of (rows, channels, height, width), then x * sigmoid(x) with `silu`.

    The variance is that of the centred values: E[x^2] - E[x]^2 loses digits in fp32. Means are taken over each pixel row,
    then over those: one running fp32 sum over a whole 768 px group would be wrong by a part in a thousand.
    """
    rows, channels = x.shape[:2]
    grouped = cast(x, "float32").reshape(rows, groups, -1, x.shape[-1])
    centred = grouped - grouped.mean(dim=3, keepdims=True).mean(dim=2, keepdims=True)
    scale = 1 / jt.sqrt((centred * centred).mean(dim=3, keepdims=True).mean(dim=2, keepdims=True) + eps)
    y = (centred * scale).reshape(rows, channels, -1)
    y = (y * weight.reshape(1, -1, 1) + bias.reshape(1, -1, 1)).reshape(x.shape)
    return cast(y * y.sigmoid() if silu else y, x.dtype)


def layer_norm(x, weight, bias, eps: float):
    """Layer norm (Ba et al. 2016) over the last axis."""
    wide = cast(x, "float32")
    centred = wide - wide.mean(dim=-1, keepdims=True)
    scale = 1 / jt.sqrt((centred * centred).mean(dim=-1, keepdims=True) + eps)
    return cast(centred * scale * weight + bias, x.dtype)


def geglu(x):
    """Gated GELU (Shazeer 2020) of (..., 2 n), values then gates -> (..., n). Exact: the error function, not its tanh approximation."""
    value, gate = jt.chunk(cast(x, "float32"), 2, dim=-1)
    return cast(value * gate * (0.5 + 0.5 * (gate * 0.7071067811865476).erf()), x.dtype)
