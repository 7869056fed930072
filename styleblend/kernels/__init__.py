"""Kernels with one interface for every device: attention, norms, the gated GELU. Each has a plain form in `reference`.

The CPU and a GPU have their own, which compute in float32 (attention multiplies as its types say). Everything else is
plain, attention in chunks of queries.
"""
from functools import lru_cache
from typing import Optional, Sequence

import numpy as np

from styleblend.kernels import chunked, cpu, cuda, reference
from styleblend.kernels.segments import Segment, reading
from styleblend.machine.runtime import jt, say

__all__ = ["adain", "attention", "geglu", "group_norm", "layer_norm"]


def best(x, *frozen):
    """The kernels for this device.

    They compute no gradient of the `frozen` inputs: if one wants it, the plain ones.
    """
    if any(f is not None and not f.is_stop_grad() for f in frozen):
        return reference
    return cuda if jt.flags.use_cuda else cpu


def attention_core(x, heads: int, bias):
    """The module whose attention suits q = `x`.

    Chunks of queries are for what has no kernel, and that is said: a `bias` that wants a gradient, large heads (the
    VAE's) and 16-bit numbers of which a GPU has no products.
    """
    if bias is not None and not bias.is_stop_grad():
        announce("a bias that learns")
        return chunked
    if not jt.flags.use_cuda:
        return cpu
    dtype, size = str(x.dtype), x.shape[2] // heads
    if cuda.has_kernel(dtype, size):
        return cuda
    announce(f"heads of {size} numbers" if size > cuda.LARGEST else f"{dtype} on this GPU")
    return chunked


@lru_cache(maxsize=None)  # each once
def announce(what: str) -> None:
    """Say that the slower core is at work, and why."""
    say(f"attention with {what} has no kernel of its own and runs in plain operators, some queries at a time: "
        f"the same result, more slowly.")


def check(q, k, v, heads: int, bias, q_rows: Optional[Sequence[int]], segments: Optional[Sequence[Segment]],
          causal: bool) -> None:
    """ValueError for what does not go together.

    The kernels would read what is not theirs; plain operators would repeat rows in silence.
    """
    if (not len(q.shape) == len(k.shape) == len(v.shape) == 3 or list(k.shape) != list(v.shape)
            or q.shape[2] != k.shape[2]):
        raise ValueError(f"attention needs q (B, L, width) and k, v (B, S, width), "
                         f"not {list(q.shape)}, {list(k.shape)} and {list(v.shape)}")
    if heads < 1 or q.shape[2] % heads or 0 in (*q.shape, *k.shape):
        raise ValueError(f"{heads} heads do not share q {list(q.shape)} and k {list(k.shape)}: "
                         f"every size must be at least 1, and the width a multiple of the heads")
    read = reading(q.shape[0], k.shape[0], q_rows, segments)
    if not read.plain and (bias is not None or causal):
        raise ValueError(f"{'a bias' if bias is not None else 'causal attention'} goes with one segment only, "
                         f"without a scale or a shift of its own")
    rows, keys = len(read.q_rows), k.shape[1]
    if bias is not None and list(bias.shape) not in ([keys], [1, keys], [rows, keys]):
        raise ValueError(f"a bias is a number for each key, ({keys},), in each row or in all {rows}, "
                         f"not {list(bias.shape)}")


def attention(q, k, v, heads: int, bias=None, q_rows: Optional[Sequence[int]] = None,
              segments: Optional[Sequence[Segment]] = None, scale: Optional[float] = None, causal: bool = False):
    """Softmax attention; arguments and result as in `kernels.reference.attention`.

    No core holds a whole matrix of scores, and segments are read where they are (in chunks of queries: copied).
    """
    check(q, k, v, heads, bias, q_rows, segments, causal)
    return attention_core(q, heads, bias).attention(q, k, v, heads, bias, q_rows, segments, scale, causal)


def check_norm(weight, bias, channels: int, groups: int = 1) -> None:
    """ValueError for what does not go together: see `check`."""
    if groups < 1 or channels % groups:
        raise ValueError(f"{groups} groups do not share {channels} channels: a group has as many as another")
    if list(weight.shape) != [channels] or list(bias.shape) != [channels]:
        raise ValueError(f"a norm needs a weight for each of {channels} channels, and a bias, "
                         f"not {list(weight.shape)} and {list(bias.shape)}")


def group_norm(x, weight, bias, groups: int, eps: float, silu: bool = False, pooling: Optional[np.ndarray] = None):
    """Group norm of (rows, channels, height, width), with `silu` followed by x * sigmoid(x).

    `pooling`: whose values count in a row's mean and variance, as in `kernels.reference.group_norm`.
    """
    check_norm(weight, bias, x.shape[1], groups)
    frozen = (weight, bias) if pooling is None else (weight, bias, x)
    return best(x, *frozen).group_norm(x, weight, bias, groups, eps, silu, pooling)


def layer_norm(x, weight, bias, eps: float):
    """Layer norm over the last axis."""
    check_norm(weight, bias, x.shape[-1])
    return best(x, weight, bias).layer_norm(x, weight, bias, eps)


def geglu(x):
    """Gated GELU of (..., 2 n), values then gates -> (..., n)."""
    return best(x).geglu(x)


def adain(x, towards: np.ndarray):
    """Tokens (rows, tokens, width) with the mean and the deviation of other rows: see `kernels.reference.adain`."""
    return reference.adain(x, towards)
