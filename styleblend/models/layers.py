"""Linear, convolution and norms with the parameter names of PyTorch checkpoints.

A layer with matrices computes as `styleblend.machine.precision` says and returns the type of its matrix; norms and the
rest return the type of their input.

Parameters start as lazy constants: nothing is computed or allocated for them before the loader puts the real weights
in.
"""
from __future__ import annotations

from typing import Optional

from styleblend.errors import StyleBlendError
from styleblend.kernels import group_norm, layer_norm, products
from styleblend.kernels.bfloat16 import multiplied
from styleblend.kernels.int8 import Int8, widened
from styleblend.machine.precision import cast, product_type
from styleblend.machine.runtime import jt


def empty(*shape: int) -> "jt.Var":
    """A parameter that is waiting for its checkpoint.

    Its zeros exist only as a graph node until somebody reads them.
    """
    return jt.zeros(shape, "float32")


class Weighted(jt.nn.Module):
    """A layer with a matrix, kept in the type of its results or as int8."""

    weight: "jt.Var"
    int8: Optional[Int8] = None

    def dtype(self) -> str:
        """The type of its results."""
        return self.int8.dtype if self.int8 else str(self.weight.dtype)

    def matrix(self, dtype: str, x):
        """The weight in the type that a product with x reads. StyleBlendError for int8 on a GPU."""
        if self.int8 and jt.flags.use_cuda:
            raise StyleBlendError("a base with weights in int8 was loaded for the CPU: load it again with float16")
        return widened(self.weight, self.int8.factors, dtype, x) if self.int8 else cast(self.weight, dtype)


class Linear(Weighted):
    """`y = x W^T + b`, plus a LoRA where one is given (see `styleblend.adapters.lora`)."""

    def __init__(self, in_features: int, out_features: int, bias: bool = True):
        self.in_features, self.out_features = in_features, out_features
        self.weight = empty(out_features, in_features)
        self.bias = empty(out_features) if bias else None

    def execute(self, x, lora=None, lora_scale=None):
        """`x` (..., in); `lora_scale` None (scale 1) or a Var (rows,) with one factor for each batch row."""
        kept = self.dtype()
        if multiplied(kept):
            y = products.linear(x, self.matrix(kept, x), self.bias, kept if lora is None else "float32")
            return y if lora is None else cast(y + lora(x, lora_scale), kept)
        within = product_type(kept)
        # in float32 from here on by a cast, whose gradient has the product's type again: cuBLAS multiplies no two types
        y = cast(jt.nn.matmul_transpose(cast(x, within), self.matrix(within, x)), "float32")
        if self.bias is not None:
            y = y + self.bias
        if lora is not None:
            y = y + lora(x, lora_scale)
        return cast(y, kept)


class Conv2d(Weighted):
    """Convolution on (rows, channels, height, width); `padding` one number for all sides."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int, stride: int = 1, padding: int = 0,
                 bias: bool = True):
        self.stride, self.padding = stride, padding
        self.weight = empty(out_channels, in_channels, kernel_size, kernel_size)
        self.bias = empty(out_channels) if bias else None

    def execute(self, x):
        kept = self.dtype()
        if multiplied(kept):
            return products.convolution(x, self.matrix(kept, x), self.bias, self.stride, self.padding)
        y = jt.nn.conv2d(cast(x, "float32"), self.matrix("float32", x), self.bias, self.stride, self.padding)
        return cast(y, kept)


class BatchNorm2d(jt.nn.Module):
    """Batch norm with the mean and variance that the training left behind."""

    def __init__(self, channels: int, eps: float = 1e-5):
        self.eps = eps
        self.weight, self.bias, self.running_mean, self.running_var = (empty(channels) for _ in range(4))

    def execute(self, x):
        scale = self.weight / jt.sqrt(self.running_var + self.eps)
        return x * scale.reshape(1, -1, 1, 1) + (self.bias - self.running_mean * scale).reshape(1, -1, 1, 1)


class GroupNorm(jt.nn.Module):
    """Group norm of (rows, channels, height, width)."""

    def __init__(self, groups: int, channels: int, eps: float):
        self.groups, self.eps = groups, eps
        self.weight, self.bias = empty(channels), empty(channels)

    def execute(self, x, silu: bool = False, pooling=None):
        return group_norm(x, self.weight, self.bias, self.groups, self.eps, silu, pooling)


class LayerNorm(jt.nn.Module):
    """Layer norm over the last axis."""

    def __init__(self, size: int, eps: float = 1e-5):
        self.eps = eps
        self.weight, self.bias = empty(size), empty(size)

    def execute(self, x):
        return layer_norm(x, self.weight, self.bias, self.eps)


def same_padded(x, kernel_size: int, stride: int):
    """x with the zeros around it that give a convolution ceil(size / stride) places, as TensorFlow pads.

    What is left over of them comes last.
    """
    short = [max((-(-size // stride) - 1) * stride + kernel_size - size, 0) for size in x.shape[2:]]
    rows, columns = ((one // 2, one - one // 2) for one in short)
    return jt.nn.pad(x, (*columns, *rows)) if any(short) else x


def silu(x):
    return x * x.sigmoid()


def gelu(x):
    """Exact GELU (Hendrycks & Gimpel 2016): the error function, not its tanh approximation."""
    return x * (0.5 + 0.5 * (x * 0.7071067811865476).erf())


def quick_gelu(x):
    return x * (x * 1.702).sigmoid()
