"""The attention core against float64: every way to call it, and its gradients."""
from __future__ import annotations


import numpy as np
import pytest

from reference import seeded
from styleblend.kernels import attention
from styleblend.kernels.segments import Segment
from styleblend.machine.runtime import jt


def exact(q, k, v, heads, bias=None, q_rows=None, segments=(Segment(),), scale=None, causal=False):
    """The same function for one segment, written in float64 with one loop."""
    kv_rows = segments[0].rows
    q, k, v = (x.astype(np.float64) for x in (q, k, v))
    rows, queries, width = q.shape
    size = width // heads
    out = np.zeros((rows, queries, width))
    for b in range(rows):
        for h in range(heads):
            own = slice(h * size, (h + 1) * size)
            qs = q[q_rows[b] if q_rows else b][:, own]
            ks, vs = (x[kv_rows[b] if kv_rows else b][:, own] for x in (k, v))
            scores = qs @ ks.T * (size ** -0.5 if scale is None else scale)
            if bias is not None:
                scores = scores + np.broadcast_to(bias, (rows, bias.shape[-1]))[b]
            if causal:
                scores = np.where(np.tril(np.ones_like(scores)) > 0, scores, -np.inf)
            scores = np.exp(scores - scores.max(axis=1, keepdims=True))
            out[b][:, own] = scores / scores.sum(axis=1, keepdims=True) @ vs
    return out


def make(name, rows, queries, keys, width, bias=None):
    q, k, v = (seeded.values(f"{name}/q", (rows, queries, width)),
               *(seeded.values(f"{name}/{n}", (rows, keys, width)) for n in "kv"))
    return q, k, v, {None: None, "keys": seeded.values(f"{name}/b", (keys,)),
                     "rows": seeded.values(f"{name}/b", (rows, keys))}[bias]


CORES = {  # rows, queries, keys, heads, head size, options
    "self": (2, 64, 64, 2, 16, {}),
    "cross": (2, 64, 77, 2, 16, {}),
    "one token": (1, 1, 1, 1, 8, {}),
    "odd sizes": (3, 13, 7, 3, 5, {}),
    "many keys": (1, 3, 1500, 1, 64, {}),
    "causal": (2, 77, 77, 4, 8, dict(causal=True)),
    "causal longer": (2, 9, 12, 2, 8, dict(causal=True)),
    "own scale": (2, 16, 16, 2, 8, dict(scale=0.7)),
    "bias for all rows": (3, 16, 20, 2, 8, dict(bias="keys")),
    "bias for each row": (3, 16, 20, 2, 8, dict(bias="rows")),
    "swap q": (4, 16, 16, 2, 8, dict(q_rows=(0, 2, 2, 2))),
    "swap kv": (4, 16, 20, 2, 8, dict(segments=[Segment((3, 1, 3, 3))])),
    "swap both": (4, 16, 16, 2, 8, dict(q_rows=(0, 2, 2, 2), segments=[Segment((3, 1, 3, 3))])),
    "everything": (4, 12, 12, 3, 6, dict(q_rows=(1, 0, 3, 3), segments=[Segment((2, 1, 0, 2))], bias="rows",
                                         causal=True, scale=0.3)),
}


@pytest.mark.parametrize("name", CORES)
def test_core_against_float64(name):
    rows, queries, keys, heads, size, options = CORES[name]
    options = dict(options)
    q, k, v, bias = make(name, rows, queries, keys, heads * size, options.pop("bias", None))
    expected = exact(q, k, v, heads, bias=bias, **options)
    with jt.no_grad():
        out = attention(jt.array(q), jt.array(k), jt.array(v), heads, bias=None if bias is None else jt.array(bias),
                        **options).numpy()
    assert out.shape == expected.shape
    assert np.linalg.norm(out - expected) <= 1e-5 * np.linalg.norm(expected)


def test_core_with_large_scores():
    q, k, v, _ = make("large", 2, 9, 11, 16)
    with jt.no_grad():
        out = attention(jt.array(q * 100), jt.array(k * 10), jt.array(v), 2).numpy()
    expected = exact(q * np.float32(100), k * np.float32(10), v, 2)
    assert np.isfinite(out).all() and np.linalg.norm(out - expected) <= 1e-3 * np.linalg.norm(expected)


@pytest.mark.parametrize("options", [{}, dict(causal=True), dict(q_rows=(1, 1, 0), segments=[Segment((2, 0, 0))]),
                                     dict(bias="rows", scale=0.4)], ids=str)
def test_gradients_of_the_core_against_finite_differences(options):
    """Central differences of the float64 function, in every element of q, k, v and the bias."""
    options, heads, step = dict(options), 2, 1e-4
    arrays = dict(zip("qkvb", make("gradients", 3, 4, 5, 6, options.pop("bias", None))))
    arrays = {name: a for name, a in arrays.items() if a is not None}
    direction = seeded.values("gradients/out", (3, 4, 6))

    def value(a) -> float:
        return float((exact(a["q"], a["k"], a["v"], heads, bias=a.get("b"), **options) * direction).sum())

    variables = {name: jt.array(a) for name, a in arrays.items()}
    out = attention(variables["q"], variables["k"], variables["v"], heads, bias=variables.get("b"), **options)
    found = jt.grad((out * jt.array(direction)).sum(), list(variables.values()))
    for (name, array), gradient in zip(arrays.items(), found):
        expected = np.zeros(array.shape)
        for i in np.ndindex(*array.shape):
            moved = {sign: {**arrays, name: array.astype(np.float64)} for sign in (1, -1)}
            for sign, values in moved.items():
                values[name] = values[name].copy()
                values[name][i] += sign * step
            expected[i] = (value(moved[1]) - value(moved[-1])) / (2 * step)
        assert np.linalg.norm(gradient.numpy() - expected) <= 1e-3 * np.linalg.norm(expected), name
