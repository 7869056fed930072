"""The CPU's kernels (`attention_cpu.h`, `norms_cpu.h`) as Jittor operators with their gradients.

They compute in float32. bfloat16 is read and written as it is, and multiplied as it is where the CPU has matrix tiles.
"""
from __future__ import annotations

from typing import Optional, Sequence

import numpy as np

from styleblend.kernels import sources
from styleblend.kernels.bfloat16 import TYPES, unit
from styleblend.kernels.kernel import Kernel
from styleblend.kernels.segments import Reading, Segment, reading
from styleblend.machine.precision import cast
from styleblend.machine.runtime import jt

ATTENTION, NORMS = sources.source("attention_cpu.h"), sources.source("norms_cpu.h")
NARROW_ATTENTION = sources.source("attention_bfloat16.h")
# inputs: 0 q, 1 k, 2 v, 3 and 4 `rows` and `factors` of a Reading, 5 the bias (empty: none)
PROBLEM = """
    styleblend::Problem p{{}};
    p.rows = in3_shape1; p.segments = in3_shape0 - 1; p.heads = (int)data["heads"];
    p.queries = in0_shape1; p.keys = in1_shape1; p.width = in0_shape2;
    p.scale = (float)data["scale"]; p.causal = data["causal"] != 0; p.tiles = data["tiles"] != 0;
    p.bias = in5_shape1 == in1_shape1 ? in5_p : nullptr; p.bias_rows = in5_shape0;
    p.q_rows = in3_p; p.kv_rows = in3_p + p.rows; p.scales = in4_p; p.shifts = in4_p + p.segments * p.rows;
"""
FORWARD = PROBLEM + "styleblend::attention_forward<{size}>(p, in0_p, in1_p, in2_p, out0_p, out1_p);"
NARROW = PROBLEM + """
    typedef styleblend::BFloat16 T;
    styleblend::attention_forward_bfloat16<{size}>(p, (T*)in0_p, (T*)in1_p, (T*)in2_p, (T*)out0_p, out1_p);
"""
BACKWARD = PROBLEM + """
    std::memset(out0_p, 0, out0->size); std::memset(out1_p, 0, out1->size); std::memset(out2_p, 0, out2->size);
    styleblend::attention_backward<{size}>(p, in0_p, in1_p, in2_p, in6_p, in7_p, in8_p, out0_p, out1_p, out2_p);
"""


class Attention(jt.Function):
    """One call of the core; keeps q, k, v, the result and a number a query for the gradient, and no scores."""

    forward, narrow, backward = FORWARD, NARROW, BACKWARD

    def __init__(self, heads: int, size: int, scale: float, causal: bool, tiles: bool, read: Reading, bias):
        self.size, self.read, self.bias = size, read, bias
        self.data = {"heads": heads, "scale": scale, "causal": int(causal), "tiles": int(tiles)}

    def execute(self, q, k, v):
        batch, queries, width = len(self.read.q_rows), q.shape[1], q.shape[2]
        self.inputs = [q, k, v, jt.array(self.read.rows), jt.array(self.read.factors), self.bias]
        shapes = [(batch, queries, width), (batch, self.data["heads"], queries)]
        header, forward = (ATTENTION, self.forward) if q.dtype == "float32" else (NARROW_ATTENTION, self.narrow)
        self.results = list(jt.code(shapes, [str(q.dtype), "float32"], self.inputs, cpu_header=header,
                                    cpu_src=forward.format(size=self.size), data=self.data))
        return self.results[0]

    def grad(self, gradient):
        if gradient is None:
            return None, None, None
        kind, shapes = self.inputs[0].dtype, [x.shape for x in self.inputs[:3]]
        q, k, v, result, gradient = (cast(x, "float32") for x in (*self.inputs[:3], self.results[0], gradient))
        given = [q, k, v, *self.inputs[3:], result, self.results[1], gradient]
        found = jt.code(shapes, ["float32"] * 3, given, cpu_header=ATTENTION,
                        cpu_src=self.backward.format(size=self.size), data=self.data)
        return tuple(cast(one, kind) for one in found)


def attention(q, k, v, heads: int, bias=None, q_rows: Optional[Sequence[int]] = None,
              segments: Optional[Sequence[Segment]] = None, scale: Optional[float] = None, causal: bool = False,
              tiles: bool = True):
    """As `kernels.reference.attention`, on the CPU. The gradient of `bias` is not computed.

    `tiles`: use matrix tiles where the CPU has them.
    """
    size = q.shape[2] // heads
    read = reading(q.shape[0], k.shape[0], q_rows, segments)
    bias = jt.zeros((1, 0)) if bias is None else bias.reshape(-1, bias.shape[-1]).float32()
    scale = size ** -0.5 if scale is None else scale
    call = Attention(heads, size, scale, causal, tiles, read, bias)
    fills_tiles = tiles and size % 32 == 0 and q.shape[1] >= 64 and scale > 0
    kind = "bfloat16" if q.dtype == "bfloat16" and fills_tiles and unit() == "tiles" else "float32"
    return cast(call(*(cast(x, kind) for x in (q, k, v))), q.dtype)


def computed(dtype: str) -> str:
    """The type in which the kernels of `norms_cpu.h` read and write what is kept as `dtype`."""
    return "bfloat16" if str(dtype) == "bfloat16" else "float32"


def code(shapes, types, inputs, source: str, numbers: dict):
    """An operator of `norms_cpu.h`; T in the source is the type of the first input."""
    return jt.code(shapes, types, inputs, cpu_header=NORMS, data=numbers,
                   cpu_src=f"typedef {TYPES[str(inputs[0].dtype)]} T;{source}")


GROUPS = """
    styleblend::Groups g{in0_shape0, in0_shape1, (int)data["groups"], (int)data["pixels"], (float)data["eps"]};
"""


def group_norm(x, weight, bias, groups: int, eps: float, silu: bool = False, pooling: Optional[np.ndarray] = None):
    """As `kernels.reference.group_norm`; the gradients of `weight` and `bias` are not computed.

    With `pooling` there is no gradient at all.
    """
    name, pixels, kind = "true" if silu else "false", int(np.prod(x.shape[2:])), computed(x.dtype)
    numbers = {"groups": groups, "pixels": pixels, "eps": eps}
    if pooling is not None:
        given = [cast(x, kind), weight, bias, jt.array(pooling)]
        source = GROUPS + f"styleblend::group_norm_pooled<{name}>(g, (T*)in0_p, in1_p, in2_p, in3_p, (T*)out0_p);"
        return cast(code(x.shape, kind, given, source, numbers), x.dtype)
    kernel = Kernel(
        code, GROUPS + f"styleblend::group_norm_forward<{name}>(g, (T*)in0_p, in1_p, in2_p, (T*)out0_p, out1_p);",
        GROUPS + f"styleblend::group_norm_backward<{name}>(g, in0_p, in1_p, in2_p, in3_p, in4_p, out0_p);",
        [x.shape, (x.shape[0], groups, 2)], numbers, wide=True)
    return cast(kernel(cast(x, kind), weight, bias), x.dtype)


def layer_norm(x, weight, bias, eps: float):
    """As `kernels.reference.layer_norm`; the gradients of `weight` and `bias` are not computed."""
    tokens, size = int(np.prod(x.shape[:-1])), x.shape[-1]
    given = '(int)data["tokens"], (int)data["size"]'
    kernel = Kernel(code, f'styleblend::layer_norm_forward({given}, (float)data["eps"], '
                    f'(T*)in0_p, in1_p, in2_p, (T*)out0_p, out1_p);',
                    f'styleblend::layer_norm_backward({given}, (T*)in0_p, in1_p, in3_p, (T*)in4_p, (T*)out0_p);',
                    [x.shape, (tokens, 2)], {"tokens": tokens, "size": size, "eps": eps})
    return cast(kernel(cast(x, computed(x.dtype)), weight, bias), x.dtype)


def geglu(x):
    """As `kernels.reference.geglu`."""
    shape = list(x.shape[:-1]) + [x.shape[-1] // 2]
    given = '(int)data["tokens"], (int)data["size"]'
    kernel = Kernel(code, f'styleblend::geglu_forward({given}, (T*)in0_p, (T*)out0_p);',
                    f'styleblend::geglu_backward({given}, (T*)in0_p, (T*)in1_p, (T*)out0_p);',
                    [shape], {"tokens": int(np.prod(shape[:-1])), "size": shape[-1]})
    return cast(kernel(cast(x, computed(x.dtype))), x.dtype)
