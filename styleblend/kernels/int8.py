"""Weights in int8 on the CPU: a number of one byte, and a factor in float32 for each output channel.

Channels have their own factor since their sizes differ by far. They are symmetric (no zero point): a factor is the
largest number of its channel / 127, and what is kept the nearest multiple of it, so that it is off by half a factor at
most (Jacob et al. 2018, section 2.1, with Z = 0).
"""
from __future__ import annotations

from typing import NamedTuple

from styleblend.kernels import sources
from styleblend.kernels.bfloat16 import TYPES
from styleblend.machine.runtime import jt

HEADER = sources.source("int8_cpu.h")


class Int8(NamedTuple):
    """How a layer reads its weight, which is kept as int8."""

    factors: "jt.Var"  # (out,) float32
    dtype: str  # of the layer's results


def narrowed(weight) -> tuple:
    """float32 weights (out, ...) -> the same as int8, and the factor (out,) of each output channel."""
    shapes = [weight.shape, (weight.shape[0],)]
    return tuple(jt.code(shapes, ["int8", "float32"], [weight], cpu_header=HEADER, cpu_src="""
        styleblend::narrow(in0_shape0, in0->num / std::max<size_t>(in0_shape0, 1), in0_p, (int8_t*)out0_p, out1_p);"""))


def widened(weight, factors, dtype: str, x):
    """int8 weights (out, ...) times their factors (out,), as float32 or bfloat16: for one product, with `x`.

    It is an input, so that nothing is computed, and takes memory, before it is there.
    """
    return jt.code(weight.shape, dtype, [weight, factors, x], cpu_header=HEADER, cpu_src=f"""
        styleblend::widen(in0_shape0, in0->num / std::max<size_t>(in0_shape0, 1), (const int8_t*)in0_p, in1_p,
                          ({TYPES[dtype]}*)out0_p);""")
