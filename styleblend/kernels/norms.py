"""Norms in Jittor's operators with their gradients written out: those of a GPU, which has no kernels for them.

Jittor fuses operators of one shape. With gradients as it derives them, and gradient checkpointing, those on means and
variances become operators of hundreds and thousands, others at every step of the way: a training of LoRAs on the mini
base compiled 606 of them where it compiles 28 with these, and a GPU's compiler is ten times as slow as a CPU's.
"""
from __future__ import annotations

from typing import Optional

import numpy as np

from styleblend.kernels import reference
from styleblend.kernels.reference import geglu  # noqa: F401 (a part of the kernels for a device)
from styleblend.machine.precision import cast
from styleblend.machine.runtime import jt


def mean(x, *axes: int):
    """The mean over axes, which stay as ones: one after the other, and not fused with what reads it."""
    for axis in axes:
        x = x.mean(dim=axis, keepdims=True)
    return x.stop_fuse()


class Norm(jt.Function):
    """A norm over `axes` of `shape`, the view of x in which these are axes; keeps x and two numbers a group.

    With x^ = (x - mean) / deviation and d the gradient of x^, that of x is
    (d - mean(d) - x^ mean(d x^)) / deviation (Ioffe & Szegedy 2015, section 3, put together).
    """

    def __init__(self, shape: tuple, axes: tuple, factors: tuple, eps: float, silu: bool):
        self.shape, self.axes, self.factors, self.eps, self.silu = shape, axes, factors, eps, silu

    def scaled(self, x, weight):
        """x by a weight for each channel: `factors` is the shape in which channels are an axis, and of the weight."""
        whole, own = self.factors
        return x.reshape(whole) * weight.reshape(own)

    def normed(self):
        return (cast(self.x, "float32").reshape(self.shape) - self.mean) * self.inverse

    def affine(self, normed):
        return self.scaled(normed, self.weight) + self.bias.reshape(self.factors[1])

    def execute(self, x, weight, bias):
        self.x, self.weight, self.bias = x, weight, bias
        wide = cast(x, "float32").reshape(self.shape)
        self.mean = mean(wide, *self.axes)
        centred = wide - self.mean
        self.inverse = (1 / jt.sqrt(mean(centred * centred, *self.axes) + self.eps)).stop_fuse()
        y = self.affine(centred * self.inverse)
        return cast((y * y.sigmoid() if self.silu else y).reshape(x.shape), x.dtype)

    def grad(self, gradient):
        if gradient is None:
            return None, None, None
        normed, found = self.normed(), cast(gradient, "float32")
        if self.silu:
            y = self.affine(normed)
            share = y.sigmoid()
            found = found.reshape(y.shape) * (share * (1 + y * (1 - share)))
        found = self.scaled(found, self.weight).reshape(normed.shape)
        found = (found - mean(found, *self.axes) - normed * mean(found * normed, *self.axes)) * self.inverse
        return cast(found.reshape(self.x.shape), self.x.dtype), None, None


def group_norm(x, weight, bias, groups: int, eps: float, silu: bool = False, pooling: Optional[np.ndarray] = None):
    """As `kernels.reference.group_norm`; the gradients of `weight` and `bias` are not computed."""
    if pooling is not None:
        return reference.group_norm(x, weight, bias, groups, eps, silu, pooling)
    rows, channels, width = x.shape[0], x.shape[1], x.shape[-1]
    pixels = int(np.prod(x.shape[2:]))
    shape = (rows, groups, channels // groups * pixels // width, width)
    return Norm(shape, (3, 2), ((rows, channels, pixels), (1, channels, 1)), eps, silu)(x, weight, bias)


def layer_norm(x, weight, bias, eps: float):
    """As `kernels.reference.layer_norm`; the gradients of `weight` and `bias` are not computed."""
    shape, size = tuple(x.shape), x.shape[-1]
    return Norm(shape, (-1,), (shape, (size,)), eps, False)(x, weight, bias)
