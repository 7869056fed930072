"""The GPU's kernels (`attention_cuda.h`, `norms_cuda.h`) as Jittor operators with their gradients."""
from __future__ import annotations

from typing import Optional, Sequence

import numpy as np

from styleblend.kernels import reference, sources
from styleblend.kernels.kernel import Kernel
from styleblend.kernels.segments import Reading, Segment, reading
from styleblend.machine.cards import exact_product, shared_memory
from styleblend.machine.precision import cast
from styleblend.machine.runtime import jt

TYPES = {"float32": "float", "float16": "__half", "bfloat16": "__nv_bfloat16"}
NEEDS = {"float32": 0, "float16": 75, "bfloat16": 80}  # compute capability, times ten
LARGEST = 160  # head size: larger ones do not fit into the shared memory
HEADER, NORMS = ('#include "helper_cuda.h"\n' + sources.source(name) for name in ("attention_cuda.h", "norms_cuda.h"))
SHARED = "#define STYLEBLEND_SHARED {}\n"
# inputs: 0 q, 1 k, 2 v, 3 and 4 `rows` and `factors` of a Reading, 5 the bias
PROBLEM = """
    styleblend::cuda::Problem<{type}> p{{}};
    p.rows = in3_shape1; p.segments = in3_shape0 - 1; p.q_count = in0_shape0; p.kv_count = in1_shape0;
    p.heads = (int)data["heads"]; p.queries = in0_shape1; p.keys = in1_shape1; p.width = in0_shape2;
    p.scale = (float)data["scale"]; p.causal = data["causal"] != 0;
    p.bias_rows = (int)data["bias_rows"]; p.bias = p.bias_rows ? in5_p : nullptr;
    p.q_rows = in3_p; p.kv_rows = in3_p + p.rows; p.scales = in4_p; p.shifts = in4_p + p.segments * p.rows;
    p.q = in0_p; p.k = in1_p; p.v = in2_p;
"""
FORWARD = PROBLEM + """
    p.result = out0_p; p.log_sum = out1_p;
    checkCudaErrors((styleblend::cuda::attention_forward<{type}, {size}, styleblend::cuda::{precision}>(p)));
"""
BACKWARD = PROBLEM + """
    p.result = in6_p; p.log_sum = in7_p; p.d_result = in8_p;
    p.d_q = out0_p; p.d_k = out1_p; p.d_v = out2_p; p.delta = out3_p;
    checkCudaErrors((styleblend::cuda::attention_backward<{type}, {size}, styleblend::cuda::{precision}>(p)));
"""


def capability() -> int:
    """The least compute capability of the GPUs here, times ten."""
    return min(jt.flags.cuda_archs)


def has_kernel(dtype: str, size: int) -> bool:
    """Whether there is a kernel for heads of `size` numbers of this type on the GPUs here."""
    return dtype in NEEDS and size <= LARGEST and capability() >= NEEDS[dtype]


def precision(dtype: str) -> str:
    """How float32 is multiplied.

    Exactly, or roughly (11 binary digits) on tensor cores that can, where Jittor's own products are rough too.
    """
    if dtype != "float32":
        return "FMA"
    return "TF32" if jt.flags.use_tensorcore and capability() >= 80 else exact_product(capability())


class Attention(jt.Function):
    """One call of the core; keeps q, k, v, the result and a number a query for the gradient, and no scores."""

    def __init__(self, heads: int, size: int, scale: float, causal: bool, read: Reading, bias):
        self.size, self.read, self.bias = size, read, jt.zeros((1, 1)) if bias is None else bias
        self.data = {"heads": heads, "scale": scale, "causal": int(causal),
                     "bias_rows": 0 if bias is None else bias.shape[0]}

    def run(self, source: str, shapes: list, types: list, inputs: list):
        kind = self.inputs[0].dtype
        header = SHARED.format(shared_memory(capability())) + HEADER
        return jt.code(shapes, types, inputs, cuda_header=header, data=self.data,
                       cuda_src=source.format(type=TYPES[str(kind)], size=self.size, precision=precision(str(kind))))

    def execute(self, q, k, v):
        self.inputs = [q, k, v, jt.array(self.read.rows), jt.array(self.read.factors), self.bias]
        batch, queries, width = len(self.read.q_rows), q.shape[1], q.shape[2]
        self.sums = (batch, self.data["heads"], queries)
        self.results = list(self.run(FORWARD, [(batch, queries, width), self.sums], [q.dtype, "float32"], self.inputs))
        return self.results[0]

    def grad(self, gradient):
        if gradient is None:
            return None, None, None
        given = self.inputs[:3]
        return tuple(self.run(BACKWARD, [x.shape for x in given] + [self.sums], [x.dtype for x in given] + ["float32"],
                              self.inputs + self.results + [gradient.cast(given[0].dtype)])[:3])


def attention(q, k, v, heads: int, bias=None, q_rows: Optional[Sequence[int]] = None,
              segments: Optional[Sequence[Segment]] = None, scale: Optional[float] = None, causal: bool = False):
    """As `kernels.reference.attention`, on a GPU, where `has_kernel` says so.

    The gradient of `bias` is not computed.
    """
    size = q.shape[2] // heads
    read = reading(q.shape[0], k.shape[0], q_rows, segments)
    bias = None if bias is None else bias.reshape(-1, bias.shape[-1]).float32()
    return Attention(heads, size, size ** -0.5 if scale is None else scale, causal, read, bias)(q, k, v)


# ---------------------------------------------------------------- norms and the gated GELU

NORM = """
    styleblend::cuda::Norm<T> p{{}};
    p.units = (int)data["units"]; p.count = (int)data["count"];
    p.groups = (int)data["groups"]; p.pixels = (int)data["pixels"]; p.eps = (float)data["eps"];
    p.x = in0_p; p.weight = in1_p; p.bias = in2_p; {arrays}
    checkCudaErrors((styleblend::cuda::normed<T, {layer}, {silu}>(p, {backward})));
"""
GATED = """
    styleblend::cuda::Gated<T> p{{}};
    p.tokens = (int)data["tokens"]; p.size = (int)data["size"]; p.x = in0_p; {arrays}
    checkCudaErrors(styleblend::cuda::geglu(p, {backward}));
"""
GEGLU = (GATED.format(arrays="p.y = out0_p;", backward="false"),
         GATED.format(arrays="p.d_y = in1_p; p.d_x = out0_p;", backward="true"))


def norm_sources(layer: bool, silu: bool) -> tuple[str, str]:
    """Of the forward and the backward pass."""
    arrays = {"false": "p.y = out0_p; p.statistics = out1_p;",
              "true": "p.statistics = in3_p; p.d_y = in4_p; p.d_x = out0_p;"}
    return tuple(NORM.format(arrays=its, backward=backward, layer=str(layer).lower(), silu=str(silu).lower())
                 for backward, its in arrays.items())


def code(shapes, types, inputs, source: str, numbers: dict):
    """An operator of `norms_cuda.h`; T in the source is the type of the first input."""
    return jt.code(shapes, types, inputs, cuda_header=NORMS, data=numbers,
                   cuda_src=f"typedef {TYPES[str(inputs[0].dtype)]} T;{source}")


def computed(dtype) -> str:
    """The type in which the kernels read and write what is kept as `dtype`."""
    return str(dtype) if str(dtype) in TYPES else "float32"


def norm(x, weight, bias, layer: bool, silu: bool, numbers: dict):
    """A norm of units of neighbours in memory: see `Norm` in `norms_cuda.h`."""
    kernel = Kernel(code, *norm_sources(layer, silu), [x.shape, (numbers["units"], 2)], numbers)
    return cast(kernel(cast(x, computed(x.dtype)), weight.float32(), bias.float32()), x.dtype)


def group_norm(x, weight, bias, groups: int, eps: float, silu: bool = False, pooling: Optional[np.ndarray] = None):
    """As `kernels.reference.group_norm`; the gradients of `weight` and `bias` are not computed."""
    if pooling is not None:
        return reference.group_norm(x, weight, bias, groups, eps, silu, pooling)
    pixels = int(np.prod(x.shape[2:]))
    return norm(x, weight, bias, False, silu, {"units": x.shape[0] * groups, "count": x.shape[1] // groups * pixels,
                                               "groups": groups, "pixels": pixels, "eps": eps})


def layer_norm(x, weight, bias, eps: float):
    """As `kernels.reference.layer_norm`; the gradients of `weight` and `bias` are not computed."""
    return norm(x, weight, bias, True, False, {"units": int(np.prod(x.shape[:-1])), "count": x.shape[-1],
                                               "groups": 1, "pixels": 1, "eps": eps})


def geglu(x):
    """As `kernels.reference.geglu`."""
    shape = list(x.shape[:-1]) + [x.shape[-1] // 2]
    kernel = Kernel(code, *GEGLU, [shape], {"tokens": int(np.prod(shape[:-1])), "size": shape[-1]})
    return cast(kernel(cast(x, computed(x.dtype))), x.dtype)
