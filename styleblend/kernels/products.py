"""Linear layers and convolutions in bfloat16 on a CPU that multiplies it (`layers_cpu.h`), as Jittor operators.

Weights are frozen: the only gradient is that of the input.
"""
from __future__ import annotations

import math

from styleblend.kernels import sources
from styleblend.kernels.bfloat16 import TYPES
from styleblend.machine.precision import cast
from styleblend.machine.runtime import jt

LAYERS = sources.source("layers_cpu.h")
LINEAR = """
    const auto *x = (const styleblend::BFloat16*)in0_p, *w = (const styleblend::BFloat16*)in1_p;
    styleblend::linear_{way}((int)data["tokens"], (int)data["in"], (int)data["out"], x, w{bias}, ({type}*)out0_p);
"""
CONVOLUTION = """
    const auto *x = (const styleblend::BFloat16*)in0_p, *w = (const styleblend::BFloat16*)in1_p;
    styleblend::Pictures p{{(int)data["images"], in1_shape1, (int)data["height"], (int)data["width"], in1_shape2,
                           (int)data["stride"], (int)data["padding"], 1, (int)data["down"], (int)data["across"]}};
    styleblend::convolution_{way}(p, in1_shape0, x, w{bias}, ({type}*)out0_p);
"""


class Product(jt.Function):
    """A layer: LINEAR or CONVOLUTION. `numbers` are what the source reads as `data`; `result`: the type it gives."""

    def __init__(self, source: str, shape: list, numbers: dict, result: str):
        self.source, self.shape, self.numbers, self.result = source, shape, numbers, result

    def execute(self, x, weight, bias):
        self.inputs = x.shape, weight
        source = self.source.format(way="forward", type=TYPES[self.result],
                                    bias=", nullptr" if bias is None else ", in2_p")
        return jt.code(self.shape, self.result, [x, weight] if bias is None else [x, weight, bias], cpu_header=LAYERS,
                       cpu_src=source, data=self.numbers)

    def grad(self, gradient):
        if gradient is None:
            return None, None, None
        shape, weight = self.inputs
        source = self.source.format(way="backward", type=TYPES["bfloat16"], bias="")
        return jt.code(shape, "bfloat16", [cast(gradient, "bfloat16"), weight], cpu_header=LAYERS, cpu_src=source,
                       data=self.numbers), None, None


def linear(x, weight, bias, result: str = "bfloat16"):
    """x (..., in), weight (out, in) in bfloat16, bias (out,) in float32 or None -> (..., out) as `result`."""
    (out, within), shape = weight.shape, list(x.shape[:-1])
    numbers = {"tokens": math.prod(shape), "in": within, "out": out}
    return Product(LINEAR, shape + [out], numbers, result)(cast(x, "bfloat16"), weight, bias)


def convolution(x, weight, bias, stride: int, padding: int):
    """x (B, in, H, W), weight (out, in, k, k) in bfloat16, bias (out,) in float32 or None -> (B, out, H', W')."""
    if padding >= weight.shape[2]:  # the gradient's kernel would have a border of less than nothing
        raise ValueError(f"a padding of {padding} is too much for a kernel of {weight.shape[2]}")
    images, _, height, width = x.shape
    down, across = ((side + 2 * padding - weight.shape[2]) // stride + 1 for side in (height, width))
    numbers = {"images": images, "height": height, "width": width, "stride": stride, "padding": padding, "down": down,
               "across": across}
    return Product(CONVOLUTION, [images, weight.shape[0], down, across], numbers, "bfloat16")(
        cast(x, "bfloat16"), weight, bias)
