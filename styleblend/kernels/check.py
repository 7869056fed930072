"""Does Jittor compute right on this device? One operator of each kind that the program needs, against NumPy.

`styleblend doctor cuda` runs it in a process of its own, since a bad CUDA ends the whole process.
"""
from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Iterator

import numpy as np

ALLOWED = {"float32": 1e-3, "float16": 1e-2}  # relative L2; float32 may be multiplied on tensor cores


def operators() -> Iterator[tuple[str, str, Callable, np.ndarray]]:
    """Of each operator its name, type of numbers, a call of Jittor, and what should come out."""
    from styleblend import kernels
    from styleblend.machine.precision import cast
    from styleblend.machine.runtime import jt
    rng = np.random.default_rng(0)
    a, b, x, w = (rng.standard_normal(shape).astype(np.float32)
                  for shape in ((130, 96), (96, 70), (2, 16, 20, 12), (8, 16, 3, 3)))
    for dtype in ALLOWED:
        yield "product", dtype, lambda dtype=dtype: cast(jt.array(a), dtype) @ cast(jt.array(b), dtype), a @ b
        yield "convolution", dtype, lambda dtype=dtype: jt.nn.conv2d(
            cast(jt.array(x), dtype), cast(jt.array(w), dtype), padding=1), convolution(x, w)
    q, k, v = (rng.standard_normal((2, tokens, 128)).astype(np.float32) for tokens in (90, 77, 77))
    for dtype in ALLOWED:
        yield "attention", dtype, lambda dtype=dtype: kernels.attention(
            *(cast(jt.array(one), dtype) for one in (q, k, v)), 2), attention(q, k, v, 2)
    weight, bias = np.linspace(0.5, 1.5, 16, dtype=np.float32), np.sin(np.arange(16, dtype=np.float32))
    for dtype in ALLOWED:
        yield "group norm", dtype, lambda dtype=dtype: kernels.group_norm(
            cast(jt.array(x), dtype), *frozen(jt, weight, bias), 4, 1e-5, silu=True), group_norm(x, weight, bias, 4)
        yield "layer norm", dtype, lambda dtype=dtype: kernels.layer_norm(
            cast(jt.array(x.transpose(0, 2, 3, 1)), dtype), *frozen(jt, weight, bias), 1e-5), layer_norm(
                x.transpose(0, 2, 3, 1), weight, bias)
        yield "gated GELU", dtype, lambda dtype=dtype: kernels.geglu(cast(jt.array(a), dtype)), geglu(a)
    yield "sum", "float32", lambda: jt.array(x).sum((2, 3)), x.sum((2, 3))
    yield "softmax", "float32", lambda: jt.nn.softmax(jt.array(a), -1), softmax(a)
    yield "turned axes", "float32", lambda: jt.array(x).transpose(0, 2, 3, 1), x.transpose(0, 2, 3, 1)
    yield "order", "float32", lambda: jt.argsort(jt.array(a[0]))[1], np.sort(a[0])
    yield "gradient", "float32", lambda: gradient_of_square(jt, b), 2 * b
    tokens = rng.standard_normal((2, 70, 128)).astype(np.float32)
    yield from slopes(jt, "attention", tokens, lambda x: kernels.attention(x, x, x, 2),
                      lambda x: attention(x, x, x, 2))
    yield from slopes(jt, "group norm", x, lambda x: kernels.group_norm(
        x, *frozen(jt, weight, bias), 4, 1e-5, silu=True), lambda x: group_norm(x, weight, bias, 4))
    yield from slopes(jt, "layer norm", x.transpose(0, 2, 3, 1), lambda x: kernels.layer_norm(
        x, *frozen(jt, weight, bias), 1e-5), lambda x: layer_norm(x, weight, bias))
    yield from slopes(jt, "gated GELU", a, kernels.geglu, geglu)


def slopes(jt, name: str, x: np.ndarray, call: Callable, exact: Callable) -> Iterator[tuple]:
    """A gradient along one direction, against the difference quotient in float64."""
    rng, step = np.random.default_rng(1), 1e-4
    x, direction = np.ascontiguousarray(x), rng.standard_normal(x.shape)
    ahead, behind = (exact(x + sign * step * direction) for sign in (1, -1))
    weights = rng.standard_normal(ahead.shape)

    def found():
        var = jt.array(x)
        gradient = jt.grad((call(var) * jt.array(weights.astype(np.float32))).sum(), [var])[0]
        return (gradient * jt.array(direction.astype(np.float32))).sum()

    yield f"gradient of {name}", "float32", found, np.array([(weights * (ahead - behind)).sum() / (2 * step)])


def gradient_of_square(jt, numbers: np.ndarray):
    """The gradient of the sum of squares."""
    var = jt.array(numbers)
    return jt.grad((var * var).sum(), [var])[0]


def frozen(jt, *arrays: np.ndarray) -> list:
    """Weights that do not learn."""
    return [jt.array(x).stop_grad() for x in arrays]


def group_norm(x: np.ndarray, weight: np.ndarray, bias: np.ndarray, groups: int) -> np.ndarray:
    """And SiLU."""
    its = x.reshape(len(x), groups, -1)
    its = (its - its.mean(2, keepdims=True)) / np.sqrt(its.var(2, keepdims=True) + 1e-5)
    y = its.reshape(x.shape) * weight[:, None, None] + bias[:, None, None]
    return y / (1 + np.exp(-y))


def layer_norm(x: np.ndarray, weight: np.ndarray, bias: np.ndarray) -> np.ndarray:
    return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5) * weight + bias


def geglu(x: np.ndarray) -> np.ndarray:
    """Values, then gates."""
    value, gate = np.split(x, 2, axis=-1)
    return value * gate * (0.5 + 0.5 * np.vectorize(math.erf)(gate / math.sqrt(2)))


def convolution(x: np.ndarray, w: np.ndarray) -> np.ndarray:
    """3 x 3, padded by one."""
    padded = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)))
    parts = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), (2, 3))
    return np.einsum("nchwij,ocij->nohw", parts, w, optimize=True)


def softmax(x: np.ndarray) -> np.ndarray:
    exponents = np.exp(x - x.max(-1, keepdims=True))
    return exponents / exponents.sum(-1, keepdims=True)


def attention(q: np.ndarray, k: np.ndarray, v: np.ndarray, heads: int) -> np.ndarray:
    """Softmax attention of (rows, tokens, heads * size)."""
    q, k, v = (x.reshape(*x.shape[:2], heads, -1).transpose(0, 2, 1, 3) for x in (q, k, v))
    found = softmax(q @ k.transpose(0, 1, 3, 2) * q.shape[-1] ** -0.5) @ v
    return found.transpose(0, 2, 1, 3).reshape(found.shape[0], found.shape[2], -1)


def reason_of(error: Exception) -> str:
    """The line that says why; Jittor's errors tell first where in its source it stopped."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    return next((line for line in lines if line.startswith("Reason:")), lines[0])[:160]


def check() -> int:
    """A line an operator: whether it is right, where, its error, its time; the number of those that are not."""
    from styleblend.machine.runtime import device
    wrong = 0
    for name, dtype, call, expected in operators():
        try:
            found = call().float32().numpy()
            begin = time.perf_counter()
            call().float32().numpy()
            seconds = time.perf_counter() - begin
            off = np.linalg.norm(found - expected) / np.linalg.norm(expected)
            fine, said = off <= ALLOWED[dtype], f"off by {off:.1e}, {seconds * 1e3:.1f} ms"
        except Exception as error:  # whatever Jittor and CUDA raise: the next operator is tried all the same
            fine, said = False, reason_of(error)
        wrong += not fine
        print(f"{'ok' if fine else 'wrong'} {name} {dtype} on {device()}: {said}", flush=True)
    return wrong


if __name__ == "__main__":
    sys.exit(1 if check() else 0)
