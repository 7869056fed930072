"""The kernels in plain Jittor operators: right on every device, and the reference that faster ones are tested against.

Norms and the gated GELU compute in float32 and return the type of their input. Attention computes in the type that it
is given.
"""
from __future__ import annotations

from typing import Optional, Sequence

import numpy as np

from styleblend.kernels.segments import Reading, Segment, reading
from styleblend.machine.precision import cast
from styleblend.machine.runtime import jt


def taken(q, k, v, read: Reading):
    """q, k and v with the batch rows that are read, of k and v the segments one behind the other.

    Where a row does not read a segment, one that it does read stands in: `factors_of_keys` hides it there.
    """
    rows = np.where(read.kv_rows < 0, read.kv_rows.max(axis=0), read.kv_rows)
    k, v = ([at_rows(x, one) for one in rows] for x in (k, v))
    return (at_rows(q, read.q_rows), *(x[0] if len(x) == 1 else jt.concat(x, dim=1) for x in (k, v)))


def at_rows(x, rows: np.ndarray):
    """The batch rows of `x` that the index says."""
    return x if np.array_equal(rows, np.arange(x.shape[0])) else x[jt.array(rows)]


def factors_of_keys(read: Reading, keys: int):
    """What the scores of every key are multiplied by, and what is added then: two Vars (rows, segments * keys)."""
    scale, shift = read.factors
    return [jt.array(x.T.repeat(keys, axis=1)) for x in (scale, np.where(read.kv_rows < 0, np.float32(-1e30), shift))]


def split(x, heads: int):
    """(rows, tokens, heads * d) -> (rows * heads, tokens, d)."""
    rows, tokens, width = x.shape
    size = width // heads
    return x.reshape(rows, tokens, heads, size).permute(0, 2, 1, 3).reshape(rows * heads, tokens, size)


def joined(x, heads: int):
    """The inverse of `split`."""
    rows, tokens, size = x.shape
    rows //= heads
    return x.reshape(rows, heads, tokens, size).permute(0, 2, 1, 3).reshape(rows, tokens, heads * size)


def attention(q, k, v, heads: int, bias=None, q_rows: Optional[Sequence[int]] = None,
              segments: Optional[Sequence[Segment]] = None, scale: Optional[float] = None, causal: bool = False):
    """Softmax attention (Vaswani et al. 2017, eq. 1) of every batch row, with the rows of q, k and v chosen by index.

    q (any rows, L, heads * d), k and v (any rows, S, heads * d), any L and S. Row b of the result (B, L, heads * d)
    attends with row `q_rows[b]` of q, None: row b. It attends to row `rows[b]` of k and v in each of the `segments`
    as if these stood one behind the other, one softmax over all; None: one segment, row b. The scores of segment s are
    `segments[s].scale * (scale * q.k) + segments[s].shift`; `scale` defaults to d ** -0.5.
    `bias` (S,) or (B, S), or None, is added to the scores of each key, and `causal` hides the keys after a query's own
    position: both go with one segment only, without a scale or a shift of its own.
    """
    read = reading(q.shape[0], k.shape[0], q_rows, segments)
    keys = k.shape[1]
    q, k, v = taken(q, k, v, read)
    rows, queries, width = q.shape
    scale = (width // heads) ** -0.5 if scale is None else scale
    scores = jt.nn.bmm(split(q, heads) * scale, split(k, heads).permute(0, 2, 1))
    if not read.plain:
        factor, summand = (x.reshape(rows, 1, 1, -1) for x in factors_of_keys(read, keys))
        scores = (scores.reshape(rows, heads, queries, -1) * factor + summand).reshape(scores.shape)
    if bias is not None:
        bias = bias.reshape(-1, 1, 1, bias.shape[-1])
        scores = (scores.reshape(rows, heads, queries, -1) + bias).reshape(scores.shape)
    if causal:
        hidden = np.triu(np.full((queries, scores.shape[-1]), -1e30, np.float32), 1)
        scores = scores + jt.array(hidden)
    return joined(jt.nn.bmm(jt.nn.softmax(scores, dim=-1), split(v, heads)), heads)


def group_norm(x, weight, bias, groups: int, eps: float, silu: bool = False, pooling: Optional[np.ndarray] = None):
    """Group norm (Wu & He 2018) of (rows, channels, height, width), then x * sigmoid(x) with `silu`.

    The variance is that of the centred values: E[x^2] - E[x]^2 loses digits in fp32. Means are taken over each pixel
    row, then over those: one running fp32 sum over a whole 768 px group would be wrong by a part in a thousand.
    `pooling` (rows, rows) float32: row r takes its mean and variance over the values of every row s, which count with
    the weight `pooling[r, s]`; the weights of a row add up to 1. None: each row over its own.
    """
    rows, channels = x.shape[:2]
    grouped = cast(x, "float32").reshape(rows, groups, -1, x.shape[-1])
    mean = grouped.mean(dim=3, keepdims=True).mean(dim=2, keepdims=True)
    centred = grouped - mean
    variance = (centred * centred).mean(dim=3, keepdims=True).mean(dim=2, keepdims=True)
    if pooling is not None:
        own, share = mean.reshape(1, rows, groups), jt.array(pooling).reshape(rows, rows, 1)
        pooled = (share * own).sum(dim=1, keepdims=True)
        apart = own - pooled
        variance = (share * (variance.reshape(1, rows, groups) + apart * apart)).sum(dim=1).reshape(variance.shape)
        centred = grouped - pooled.reshape(mean.shape)
    y = (centred * (1 / jt.sqrt(variance + eps))).reshape(rows, channels, -1)
    y = (y * weight.reshape(1, -1, 1) + bias.reshape(1, -1, 1)).reshape(x.shape)
    return cast(y * y.sigmoid() if silu else y, x.dtype)


def layer_norm(x, weight, bias, eps: float):
    """Layer norm (Ba et al. 2016) over the last axis."""
    wide = cast(x, "float32")
    centred = wide - wide.mean(dim=-1, keepdims=True)
    scale = 1 / jt.sqrt((centred * centred).mean(dim=-1, keepdims=True) + eps)
    return cast(centred * scale * weight + bias, x.dtype)


def geglu(x):
    """Gated GELU (Shazeer 2020) of (..., 2 n), values then gates -> (..., n).

    Exact: the error function, not its tanh approximation.
    """
    value, gate = jt.chunk(cast(x, "float32"), 2, dim=-1)
    return cast(value * gate * (0.5 + 0.5 * (gate * 0.7071067811865476).erf()), x.dtype)


def adain(x, towards: np.ndarray):
    """Adaptive instance norm (Huang & Belongie 2017, eq. 8) of tokens (rows, tokens, width), over the tokens.

    Row r takes over the mean and the deviation of every row s with the weight `towards[r, s]` (rows, rows) float32; the
    weights of a row add up to 1, and a row with all of it on itself stays as it is. The variance is unbiased, and 1e-5
    is added to it (StyleAligned's published code).
    """
    wide, rows = cast(x, "float32"), x.shape[0]
    mean = wide.mean(dim=1)
    centred = wide - mean.reshape(rows, 1, -1)
    deviation = jt.sqrt((centred * centred).sum(dim=1) / max(x.shape[1] - 1, 1) + 1e-5)
    share = jt.array(towards)
    factor, offset = jt.matmul(share, deviation) / deviation, jt.matmul(share, mean)
    return cast(centred * factor.reshape(rows, 1, -1) + offset.reshape(rows, 1, -1), x.dtype)
