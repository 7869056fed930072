"""The CPU's kernels (`attention_cpu.h`, `norms_cpu.h`) as Jittor operators with their gradients.

They compute in float32, whatever they are given.
"""
from __future__ import annotations

from typing import Optional, Sequence

import numpy as np

from styleblend.kernels import sources
from styleblend.kernels.segments import Reading, Segment, reading
from styleblend.machine.precision import cast
from styleblend.machine.runtime import jt

ATTENTION, NORMS = sources.source("attention_cpu.h"), sources.source("norms_cpu.h")
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
BACKWARD = PROBLEM + """
    std::memset(out0_p, 0, out0->size); std::memset(out1_p, 0, out1->size); std::memset(out2_p, 0, out2->size);
    styleblend::attention_backward<{size}>(p, in0_p, in1_p, in2_p, in6_p, in7_p, in8_p, out0_p, out1_p, out2_p);
"""


class Attention(jt.Function):
    """One call of the core; keeps q, k, v, the result and a number a query for the gradient, and no scores."""

    forward, backward = FORWARD, BACKWARD

    def __init__(self, heads: int, size: int, scale: float, causal: bool, tiles: bool, read: Reading, bias):
        self.size, self.read, self.bias = size, read, bias
        self.data = {"heads": heads, "scale": scale, "causal": int(causal), "tiles": int(tiles)}

    def execute(self, q, k, v):
        batch, queries, width = len(self.read.q_rows), q.shape[1], q.shape[2]
        self.inputs = [q, k, v, jt.array(self.read.rows), jt.array(self.read.factors), self.bias]
        shapes = [(batch, queries, width), (batch, self.data["heads"], queries)]
        self.results = list(jt.code(shapes, ["float32"] * 2, self.inputs, cpu_header=ATTENTION,
                                    cpu_src=self.forward.format(size=self.size), data=self.data))
        return self.results[0]

    def grad(self, gradient):
        if gradient is None:
            return None, None, None
        shapes, given = [x.shape for x in self.inputs[:3]], self.inputs + self.results + [gradient]
        return tuple(jt.code(shapes, ["float32"] * 3, given, cpu_header=ATTENTION,
                             cpu_src=self.backward.format(size=self.size), data=self.data))


def attention(q, k, v, heads: int, bias=None, q_rows: Optional[Sequence[int]] = None,
              segments: Optional[Sequence[Segment]] = None, scale: Optional[float] = None, causal: bool = False,
              tiles: bool = True):
    """As `kernels.reference.attention`, on the CPU. The gradient of `bias` is not computed.

    `tiles`: use matrix tiles where the CPU has them.
    """
    size = q.shape[2] // heads
    read = reading(q.shape[0], k.shape[0], q_rows, segments)
    bias = jt.zeros((1, 0)) if bias is None else bias.reshape(-1, bias.shape[-1]).float32()
    call = Attention(heads, size, size ** -0.5 if scale is None else scale, causal, tiles, read, bias)
    return cast(call(*(cast(x, "float32") for x in (q, k, v))), q.dtype)


class Kernel(jt.Function):
    """A kernel of `norms_cpu.h`: sources of the forward and the backward pass; `numbers` are what they read as `data`.

    The forward pass writes the result to out0, and to out1 what the backward pass needs again besides the inputs.
    """

    def __init__(self, forward: str, backward: str, shapes: list, numbers: dict):
        self.forward, self.backward, self.shapes, self.numbers = forward, backward, shapes, numbers

    def execute(self, *inputs):
        self.inputs = list(inputs)
        self.results = jt.code(self.shapes, ["float32"] * len(self.shapes), self.inputs, cpu_header=NORMS,
                               cpu_src=self.forward, data=self.numbers)
        return self.results[0]

    def grad(self, gradient):
        if gradient is None:
            return (None,) * len(self.inputs)
        kept = self.inputs + list(self.results[1:]) + [gradient]
        found = jt.code(self.inputs[0].shape, "float32", kept, cpu_header=NORMS, cpu_src=self.backward,
                        data=self.numbers)
        return (found,) + (None,) * (len(self.inputs) - 1)


GROUPS = """
    styleblend::Groups g{in0_shape0, in0_shape1, (int)data["groups"], (int)data["pixels"], (float)data["eps"]};
"""


def group_norm(x, weight, bias, groups: int, eps: float, silu: bool = False, pooling: Optional[np.ndarray] = None):
    """As `kernels.reference.group_norm`; the gradients of `weight` and `bias` are not computed.

    With `pooling` there is no gradient at all.
    """
    kind, pixels = "true" if silu else "false", int(np.prod(x.shape[2:]))
    numbers = {"groups": groups, "pixels": pixels, "eps": eps}
    if pooling is not None:
        given = [cast(x, "float32"), weight, bias, jt.array(pooling)]
        source = GROUPS + f"styleblend::group_norm_pooled<{kind}>(g, in0_p, in1_p, in2_p, in3_p, out0_p);"
        return cast(jt.code(x.shape, "float32", given, cpu_header=NORMS, cpu_src=source, data=numbers), x.dtype)
    kernel = Kernel(GROUPS + f"styleblend::group_norm_forward<{kind}>(g, in0_p, in1_p, in2_p, out0_p, out1_p);",
                    GROUPS + f"styleblend::group_norm_backward<{kind}>(g, in0_p, in1_p, in2_p, in3_p, in4_p, out0_p);",
                    [x.shape, (x.shape[0], groups, 2)], numbers)
    return cast(kernel(cast(x, "float32"), weight, bias), x.dtype)


def layer_norm(x, weight, bias, eps: float):
    """As `kernels.reference.layer_norm`; the gradients of `weight` and `bias` are not computed."""
    tokens, size = int(np.prod(x.shape[:-1])), x.shape[-1]
    given = '(int)data["tokens"], (int)data["size"]'
    kernel = Kernel(f'styleblend::layer_norm_forward({given}, (float)data["eps"], '
                    f'in0_p, in1_p, in2_p, out0_p, out1_p);',
                    f'styleblend::layer_norm_backward({given}, in0_p, in1_p, in3_p, in4_p, out0_p);',
                    [x.shape, (tokens, 2)], {"tokens": tokens, "size": size, "eps": eps})
    return cast(kernel(cast(x, "float32"), weight, bias), x.dtype)


def geglu(x):
    """As `kernels.reference.geglu`."""
    shape = list(x.shape[:-1]) + [x.shape[-1] // 2]
    kernel = Kernel('styleblend::geglu_forward((int)data["tokens"], (int)data["size"], in0_p, out0_p);',
                    'styleblend::geglu_backward((int)data["tokens"], (int)data["size"], in0_p, in1_p, out0_p);',
                    [shape], {"tokens": int(np.prod(shape[:-1])), "size": shape[-1]})
    return cast(kernel(cast(x, "float32")), x.dtype)
