"""Kernels with one interface for every device: attention, norms, the gated GELU. Each has a plain form in `reference`.

The CPU has its own, which compute in float32, and a GPU its own attention. Everything else is plain, attention in chunks of queries.
"""
from typing import Optional, Sequence

from styleblend.kernels import chunked, cpu, cuda, reference
from styleblend.runtime import jt

__all__ = ["attention", "geglu", "group_norm", "layer_norm"]


def best(x, *frozen):
    """The kernels for this device. The CPU's compute no gradient of the `frozen` inputs: if one wants it, the plain ones."""
    plain = jt.flags.use_cuda or any(f is not None and not f.is_stop_grad() for f in frozen)
    return reference if plain else cpu


def attention_core(x, heads: int, bias):
    """The module whose attention suits q = `x`. Chunks of queries are for what has no kernel: a `bias` that wants a gradient, large heads
    (the VAE's) and 16-bit numbers of which a GPU has no products.
    """
    if bias is not None and not bias.is_stop_grad():
        return chunked
    if jt.flags.use_cuda:
        return cuda if cuda.has_kernel(str(x.dtype), x.shape[2] // heads) else chunked
    return cpu


def attention(q, k, v, heads: int, bias=None, q_rows: Optional[Sequence[int]] = None, kv_rows: Optional[Sequence[int]] = None,
              scale: Optional[float] = None, causal: bool = False):
    """Softmax attention; arguments and result as in `kernels.reference.attention`. No core holds a whole matrix of scores."""
    return attention_core(q, heads, bias).attention(q, k, v, heads, bias, q_rows, kv_rows, scale, causal)


def group_norm(x, weight, bias, groups: int, eps: float, silu: bool = False):
    """Group norm of (rows, channels, height, width), with `silu` followed by x * sigmoid(x)."""
    return best(x, weight, bias).group_norm(x, weight, bias, groups, eps, silu)


def layer_norm(x, weight, bias, eps: float):
    """Layer norm over the last axis."""
    return best(x, weight, bias).layer_norm(x, weight, bias, eps)


def geglu(x):
    """Gated GELU of (..., 2 n), values then gates -> (..., n)."""
    return best(x).geglu(x)
