"""Attention cores behind one function: `attention(q, k, v, heads, ...)`."""
from typing import Optional, Sequence

from styleblend.kernels import cpu, reference
from styleblend.runtime import jt

__all__ = ["attention"]


def attention(q, k, v, heads: int, bias=None, q_rows: Optional[Sequence[int]] = None, kv_rows: Optional[Sequence[int]] = None,
              scale: Optional[float] = None, causal: bool = False):
    """Softmax attention; arguments and result as in `kernels.reference.attention`, by the best core for this device and precision.

    The CPU core takes float32. A GPU, other precisions, and a bias that wants a gradient have the plain one so far.
    """
    plain = jt.flags.use_cuda or q.dtype != "float32" or (bias is not None and not bias.is_stop_grad())
    core = reference if plain else cpu
    return core.attention(q, k, v, heads, bias, q_rows, kv_rows, scale, causal)
