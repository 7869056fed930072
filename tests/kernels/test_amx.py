"""Attention with the CPU's matrix tiles, on any CPU: `amx_emulator.h` stands in for the instructions.

In float32, where each number is split into three of bfloat16, and of bfloat16 as it is.
"""
from __future__ import annotations

import ctypes
import os
import platform
import subprocess
from pathlib import Path

import numpy as np
import pytest

from styleblend.kernels import sources
from styleblend.kernels.segments import Segment, reading
from styleblend.machine.precision import rounded
from test_kernels import exact_gradients

INCLUDES = "#include <immintrin.h>\n#include <sys/syscall.h>\n#include <unistd.h>\n"
ENTRY = """
extern "C" int run_{size}(const styleblend::Problem* p, const float* q, const float* k, const float* v, float* out,
                          float* log_sum, const float* d_out, float* d_q, float* d_k, float* d_v) {{
    styleblend::attention_forward<{size}>(*p, q, k, v, out, log_sum);
    styleblend::attention_backward<{size}>(*p, q, k, v, out, log_sum, d_out, d_q, d_k, d_v);
    return styleblend::tiles_serve<{size}>(*p);
}}
extern "C" void keep_small_numbers_{size}(bool kept) {{
    _mm_setcsr(kept ? _mm_getcsr() & ~0x8040 : _mm_getcsr() | 0x8040);
}}
"""


NARROW = """
using styleblend::BFloat16;
extern "C" void narrow_{size}(const styleblend::Problem* p, const BFloat16* q, const BFloat16* k, const BFloat16* v,
                              BFloat16* out, float* log_sum) {{
    styleblend::attention_forward_bfloat16<{size}>(*p, q, k, v, out, log_sum);
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


def emulated(folder: Path, header: str, entry: str) -> ctypes.CDLL:
    """The kernels of a header with emulated tiles, behind functions for heads of 32 and of 64."""
    text = sources.whole(header)
    assert text.count(INCLUDES) == 1
    text = text.replace(INCLUDES, (Path(__file__).parents[1] / "amx_emulator.h").read_text())
    (folder / "kernels.cpp").write_text(text + "".join(entry.format(size=size) for size in (32, 64)))
    subprocess.run([os.environ["cc_path"], "-std=c++14", "-O2", "-D__AMX_BF16__", "-fopenmp", "-shared", "-fPIC", "-w",
                    "-o", folder / "kernels.so", folder / "kernels.cpp"], check=True)
    return ctypes.CDLL(str(folder / "kernels.so"))


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    return emulated(tmp_path_factory.mktemp("amx"), "attention_cpu.h", ENTRY)


@pytest.fixture(scope="module")
def narrow_library(tmp_path_factory):
    return emulated(tmp_path_factory.mktemp("narrow"), "attention_bfloat16.h", NARROW)


#        batch rows of q, and of k and v, queries, keys, heads, size, options
CASES = [(2, 2, 64, 64, 1, 64, {}), (1, 1, 130, 77, 2, 32, {}), (1, 1, 1100, 40, 1, 32, {}),
         (2, 2, 90, 100, 1, 64, dict(causal=True)), (2, 2, 70, 50, 1, 64, dict(bias=2)),
         (3, 3, 66, 70, 1, 64, dict(q_rows=(0, 2, 2), segments=[Segment((1, 1, 1))])),
         # shared attention, and a third segment with no scale; rows 1 and 2 read alike, row 3 with another shift
         (3, 3, 66, 70, 1, 64, dict(q_rows=(0, 1, 1, 1), segments=[Segment((0, 1, 1, 1)),
                                                                   Segment((-1, 0, 0, 0), 1.5, (0, -1, -1, 2)),
                                                                   Segment((2, -1, -1, -1), 0, 0.7)])),
         (2, 2, 64, 150, 2, 32, dict(segments=[Segment(), Segment((1, -1), -2)]))]


class Setting:
    """A case with numbers: those of q, k and v as `kept`, and what the kernels are told of it."""

    def __init__(self, case, kept=lambda x: x):
        q_count, kv_count, queries, keys, self.heads, self.size, options = case
        self.options = {"bias": 0, "q_rows": None, "segments": None, "causal": False, **options}
        self.read = reading(q_count, kv_count, self.options["q_rows"], self.options["segments"])
        count, width, self.rng = len(self.read.q_rows), self.heads * self.size, np.random.default_rng(keys)
        self.arrays = [kept(self.rng.standard_normal((n, tokens, width)).astype(np.float32))
                       for n, tokens in ((q_count, queries), (kv_count, keys), (kv_count, keys))]
        self.bias = 2 * self.rng.standard_normal((self.options.pop("bias"), keys)).astype(np.float32)
        self.shape = (count, queries, width)
        self.log_sum = np.full((count, self.heads, queries), np.nan, np.float32)
        self.problem = Problem(
            rows=count, heads=self.heads, queries=queries, keys=keys, width=width, segments=len(self.read.kv_rows),
            scale=0.2, causal=self.options["causal"], tiles=True, bias=address(self.bias) if len(self.bias) else None,
            bias_rows=len(self.bias), q_rows=address(self.read.q_rows), kv_rows=address(self.read.kv_rows),
            scales=address(self.read.factors[0]), shifts=address(self.read.factors[1]))

    def exact(self, direction):
        """The result and the gradients of q, k and v, in float64."""
        return exact_gradients(*self.arrays, direction, self.heads, self.bias if len(self.bias) else None, scale=0.2,
                               **self.options)[0]


def address(array) -> int:
    return array.ctypes.data


def pointers(*arrays) -> list:
    return [ctypes.c_void_p(address(array)) for array in arrays]


def name_of(case) -> str:
    return "x".join(map(str, case[:6])) + "".join(f"-{option}" for option in case[6])


@pytest.mark.parametrize("case", CASES, ids=name_of)
def test_tiles_agree_with_float64(library, case):
    """The result and the gradients. Every number of the result and of the log-sum-exp is NaN before."""
    given = Setting(case)
    out, direction = np.full(given.shape, np.nan, np.float32), given.rng.standard_normal(given.shape).astype(np.float32)
    gradients = [np.zeros_like(x) for x in given.arrays]
    arrays = pointers(*given.arrays, out, given.log_sum, direction, *gradients)
    assert getattr(library, f"run_{given.size}")(ctypes.byref(given.problem), *arrays), "the tiles were not used"
    assert np.isfinite(given.log_sum).all()
    for ours, theirs in zip((out, *gradients), given.exact(direction)):
        assert np.linalg.norm(ours - theirs) <= 2e-6 * np.linalg.norm(theirs)


@pytest.mark.parametrize("case", CASES, ids=name_of)
def test_bfloat16_agrees_with_float64(library, narrow_library, case):
    """Of numbers that bfloat16 has: the result is off by the rounding of its weights, and its own.

    The log-sum-exp is that of float32: with another one the backward pass's weights would not add up to 1.
    """
    given = Setting(case, lambda x: rounded(x, "bfloat16"))
    bits = [(x.view(np.uint32) >> 16).astype(np.uint16) for x in given.arrays]
    out = np.full(given.shape, 0x7FC0, np.uint16)
    getattr(narrow_library, f"narrow_{given.size}")(ctypes.byref(given.problem), *pointers(*bits, out, given.log_sum))
    found = (out.astype(np.uint32) << 16).view(np.float32)
    expected = given.exact(np.zeros(given.shape, np.float32))[0]
    assert np.linalg.norm(found - expected) <= 4e-3 * np.linalg.norm(expected)
    wide, out, rest = np.full(given.log_sum.shape, np.nan, np.float32), np.zeros(given.shape, np.float32), [
        np.zeros(given.shape, np.float32), *(np.zeros_like(x) for x in given.arrays)]
    getattr(library, f"run_{given.size}")(ctypes.byref(given.problem), *pointers(*given.arrays, out, wide, *rest))
    assert np.abs(given.log_sum - wide).max() <= 2e-4


@pytest.mark.skipif(platform.machine() != "x86_64", reason="the instruction is one of x86")
def test_no_thread_keeps_numbers_that_another_takes_for_zero(library):
    """Whichever thread computes a gradient whose numbers end below 2^-126.

    A library that is compiled with -Ofast changes only the thread that loads it.
    """
    given, found = Setting((1, 1, 64, 64, 4, 64, {})), []
    given.arrays[0] *= 3
    direction = 1e-32 * given.rng.standard_normal(given.shape).astype(np.float32)
    for kept in (True, False):
        out, gradients = np.zeros(given.shape, np.float32), [np.zeros_like(x) for x in given.arrays]
        library.keep_small_numbers_64(kept)
        library.run_64(ctypes.byref(given.problem), *pointers(*given.arrays, out, given.log_sum, direction, *gradients))
        found.append(gradients)
    assert all(np.array_equal(one, other) for one, other in zip(*found))
