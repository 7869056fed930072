"""Attention cores behind one function: `attention(q, k, v, heads, ...)`."""
from styleblend.kernels.reference import attention

__all__ = ["attention"]
