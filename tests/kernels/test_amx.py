"""Attention with the CPU's matrix tiles, on any CPU: `amx_emulator.h` stands in for the instructions."""
from __future__ import annotations

import ctypes
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest

from styleblend.kernels import sources
from styleblend.kernels.segments import Segment, reading
from test_kernels import exact_gradients

INCLUDES = "#include <immintrin.h>\n#include <sys/syscall.h>\n#include <unistd.h>\n"
ENTRY = """
extern "C" int run_{size}(const styleblend::Problem* p, const float* q, const float* k, const float* v, float* out,
                          float* log_sum, const float* d_out, float* d_q, float* d_k, float* d_v) {{
    styleblend::attention_forward<{size}>(*p, q, k, v, out, log_sum);
    styleblend::attention_backward<{size}>(*p, q, k, v, out, log_sum, d_out, d_q, d_k, d_v);
    return styleblend::tiles_serve<{size}>(*p);
}}
"""


class Problem(ctypes.Structure):
    """As in attention_tiles.h."""

    NUMBERS = ("rows", "heads", "queries", "keys", "width", "segments")
    ARRAYS = ("q_rows", "kv_rows", "scales", "shifts")
    _fields_ = ([(name, ctypes.c_int) for name in NUMBERS] + [("scale", ctypes.c_float)]
                + [(name, ctypes.c_bool) for name in ("causal", "tiles")]
                + [("bias", ctypes.c_void_p), ("bias_rows", ctypes.c_int)]
                + [(name, ctypes.c_void_p) for name in ARRAYS])


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    folder, text = tmp_path_factory.mktemp("amx"), sources.whole("attention_cpu.h")
    assert text.count(INCLUDES) == 1
    text = text.replace(INCLUDES, (Path(__file__).parents[1] / "amx_emulator.h").read_text())
    (folder / "kernels.cpp").write_text(text + "".join(ENTRY.format(size=size) for size in (32, 64)))
    subprocess.run([os.environ["cc_path"], "-std=c++14", "-O2", "-D__AMX_BF16__", "-fopenmp", "-shared", "-fPIC", "-w",
                    "-o", folder / "kernels.so", folder / "kernels.cpp"], check=True)
    return ctypes.CDLL(str(folder / "kernels.so"))


#        batch rows of q, and of k and v, queries, keys, heads, size, options
CASES = [(2, 2, 64, 64, 1, 64, {}), (1, 1, 130, 77, 2, 32, {}), (1, 1, 1100, 40, 1, 32, {}),
         (2, 2, 90, 100, 1, 64, dict(causal=True)), (2, 2, 70, 50, 1, 64, dict(bias=2)),
         (3, 3, 66, 70, 1, 64, dict(q_rows=(0, 2, 2), segments=[Segment((1, 1, 1))])),
         # shared attention, and a third segment with no scale; rows 1 and 2 read alike, row 3 with another shift
         (3, 3, 66, 70, 1, 64, dict(q_rows=(0, 1, 1, 1), segments=[Segment((0, 1, 1, 1)),
                                                                   Segment((-1, 0, 0, 0), 1.5, (0, -1, -1, 2)),
                                                                   Segment((2, -1, -1, -1), 0, 0.7)])),
         (2, 2, 64, 150, 2, 32, dict(segments=[Segment(), Segment((1, -1), -2)]))]


@pytest.mark.parametrize("case", CASES, ids=lambda c: "x".join(map(str, c[:6])) + "".join(f"-{o}" for o in c[6]))
def test_tiles_agree_with_float64(library, case):
    """The result and the gradients. Every number of the result and of the log-sum-exp is NaN before."""
    q_count, kv_count, queries, keys, heads, size, options = case
    options = {"bias": 0, "q_rows": None, "segments": None, "causal": False, **options}
    read = reading(q_count, kv_count, options["q_rows"], options["segments"])
    count, width, rng = len(read.q_rows), heads * size, np.random.default_rng(keys)
    q, k, v = (rng.standard_normal((n, tokens, width)).astype(np.float32)
               for n, tokens in ((q_count, queries), (kv_count, keys), (kv_count, keys)))
    bias = 2 * rng.standard_normal((options.pop("bias"), keys)).astype(np.float32)
    out, log_sum = (np.full(shape, np.nan, np.float32) for shape in ((count, queries, width), (count, heads, queries)))
    address = lambda x: x.ctypes.data
    p = Problem(rows=count, heads=heads, queries=queries, keys=keys, width=width, segments=len(read.kv_rows), scale=0.2,
                causal=options["causal"], tiles=True, bias=address(bias) if len(bias) else None, bias_rows=len(bias),
                q_rows=address(read.q_rows), kv_rows=address(read.kv_rows), scales=address(read.factors[0]),
                shifts=address(read.factors[1]))
    direction, gradients = rng.standard_normal(out.shape).astype(np.float32), [np.zeros_like(x) for x in (q, k, v)]
    arrays = [ctypes.c_void_p(address(x)) for x in (q, k, v, out, log_sum, direction, *gradients)]
    assert getattr(library, f"run_{size}")(ctypes.byref(p), *arrays), "the tiles were not used"
    assert np.isfinite(log_sum).all()
    expected, _ = exact_gradients(q, k, v, direction, heads, bias if len(bias) else None, scale=0.2, **options)
    for ours, theirs in zip((out, *gradients), expected):
        assert np.linalg.norm(ours - theirs) <= 2e-6 * np.linalg.norm(theirs)
