"""Linear layers and convolutions in bfloat16 against float64.

By matrix tiles, on any CPU (`amx_emulator.h` stands in for the instructions), by what this CPU has, and as the networks
call them.
"""
from __future__ import annotations

import ctypes
import os
import platform
import subprocess
from pathlib import Path

import numpy as np
import pytest

from reference import seeded
from styleblend.base import weights
from styleblend.kernels import bfloat16, products, sources
from styleblend.machine.precision import cast, rounded
from styleblend.machine.runtime import jt
from styleblend.models.layers import Conv2d, Linear
from test_amx import INCLUDES

ENTRY = """
using styleblend::BFloat16;
extern "C" int unit(int threads) { omp_set_num_threads(threads); return styleblend::product_unit(); }
extern "C" void linear(int tokens, int in, int out, const BFloat16* x, const BFloat16* w, const float* bias, float* y,
                       const BFloat16* d_y, float* d_x) {
    styleblend::linear_forward(tokens, in, out, x, w, bias, y);
    styleblend::linear_backward(tokens, in, out, d_y, w, d_x);
}
extern "C" void convolution(const styleblend::Pictures* p, int out, const BFloat16* x, const BFloat16* w,
                            const float* bias, float* y, const BFloat16* d_y, float* d_x) {
    styleblend::convolution_forward(*p, out, x, w, bias, y);
    styleblend::convolution_backward(*p, out, d_y, w, d_x);
}
"""
FLAGS = Path("/proc/cpuinfo").read_text().split() if Path("/proc/cpuinfo").is_file() else []
#        how it is compiled, what it then multiplies with, what the CPU must have
UNITS = {"tiles, emulated": (("-D__AMX_BF16__",), 2, None), "tiles": (("-march=native",), 2, "amx_bf16"),
         "vectors": (("-march=native", "-mno-amx-tile", "-mno-amx-bf16"), 1, "avx512_bf16")}


@pytest.fixture(scope="module", params=UNITS)
def library(tmp_path_factory, request):
    flags, unit, needed = UNITS[request.param]
    if needed and needed not in FLAGS:
        pytest.skip(f"this CPU has no {needed}")
    folder, text = tmp_path_factory.mktemp("products"), sources.whole("layers_cpu.h")
    if needed is None:
        assert text.count(INCLUDES) == 1
        text = text.replace(INCLUDES, (Path(__file__).parents[1] / "amx_emulator.h").read_text())
    (folder / "kernels.cpp").write_text(text + ENTRY)
    subprocess.run([os.environ["cc_path"], "-std=c++14", "-O2", *flags, "-fopenmp", "-shared", "-fPIC", "-w", "-o",
                    folder / "kernels.so", folder / "kernels.cpp"], check=True)
    found = ctypes.CDLL(str(folder / "kernels.so"))
    assert found.unit(2) == unit
    return found


@pytest.mark.skipif(platform.machine() != "x86_64", reason="the CPUs are x86's")
@pytest.mark.parametrize("cpu", ["x86-64", "haswell", "skylake-avx512"])
def test_a_cpu_without_the_instructions_multiplies_in_float32(tmp_path, cpu):
    """As compiled for one of 2003, of 2013 and of 2017: nothing is there, and networks in bfloat16 go the other way."""
    (tmp_path / "unit.cpp").write_text(sources.whole("products_cpu.h")
                                       + "int main() { return styleblend::product_unit(); }")
    subprocess.run([os.environ["cc_path"], "-std=c++14", f"-march={cpu}", "-fopenmp", "-w", "-o", tmp_path / "unit",
                    tmp_path / "unit.cpp"], check=True)
    assert subprocess.run([tmp_path / "unit"]).returncode == 0


def numbers(name: str, *shape: int):
    """bfloat16 numbers: as float64, and their bits with NaN before and behind them, which must not be read."""
    exact = rounded(seeded.values(name, shape), "bfloat16")
    bits = np.full(exact.size + 256, 0x7FC0, np.uint16)
    bits[128:-128] = exact.view(np.uint32).ravel() >> 16
    return exact.astype(np.float64), bits[128:-128]


def address(array) -> ctypes.c_void_p:
    return ctypes.c_void_p(array.ctypes.data)


def near(found, exact) -> bool:
    """Every number is there, and off by no more than sums in float32 are."""
    return np.isfinite(found).all() and np.abs(found - exact).max() <= 2e-6 * np.abs(exact).max() * exact.size ** 0.1


#          tokens, in, out: less than a block, whole blocks, odd numbers, more depth than a part, several parts
LINEARS = [(1, 1, 1), (5, 7, 9), (64, 64, 32), (33, 65, 70), (70, 1100, 40), (300, 40, 700)]


@pytest.mark.parametrize("tokens, within, out", LINEARS)
def test_linear_layers_agree_with_float64(library, tokens, within, out):
    (x, x_bits), (w, w_bits) = numbers("x", tokens, within), numbers("w", out, within)
    (d_y, d_bits), bias = numbers("d", tokens, out), seeded.values("b", (out,))
    found = []
    for threads in (1, 3):
        library.unit(threads)
        y, d_x = np.full((tokens, out), np.nan, np.float32), np.full((tokens, within), np.nan, np.float32)
        library.linear(tokens, within, out, address(x_bits), address(w_bits), address(bias), address(y),
                       address(d_bits), address(d_x))
        assert near(y, x @ w.T + bias) and near(d_x, d_y @ w)
        found.append((y, d_x))
    assert all(np.array_equal(one, other) for one, other in zip(*found)), "the bits depend on the number of threads"


def exact_convolution(x, w, stride: int, padding: int):
    """(B, in, H, W) and (out, in, k, k) -> the result, and the function of its gradient that gives that of x."""
    size = w.shape[2]
    wide = np.pad(x, ((0, 0), (0, 0), (padding,) * 2, (padding,) * 2))
    down, across = ((side - size) // stride + 1 for side in wide.shape[2:])
    places = [(slice(None), slice(None), slice(i, i + (down - 1) * stride + 1, stride),
               slice(j, j + (across - 1) * stride + 1, stride), i, j) for i in range(size) for j in range(size)]
    y = sum(np.einsum("bchw,oc->bohw", wide[at[:4]], w[:, :, at[4], at[5]]) for at in places)

    def gradient(d_y):
        d_wide = np.zeros_like(wide)
        for at in places:
            d_wide[at[:4]] += np.einsum("bohw,oc->bchw", d_y, w[:, :, at[4], at[5]])
        return d_wide[:, :, padding:padding + x.shape[2], padding:padding + x.shape[3]]

    return y, gradient


#               images, channels, height, width, kernel, out, stride, padding
CONVOLUTIONS = [(1, 3, 4, 16, 3, 5, 1, 1), (2, 16, 16, 16, 3, 40, 1, 1), (3, 40, 4, 12, 3, 33, 1, 1),
                (2, 7, 5, 7, 3, 9, 1, 1), (2, 70, 8, 4, 1, 33, 1, 0), (1, 5, 3, 3, 5, 3, 1, 2),
                (2, 33, 8, 8, 3, 40, 2, 1),
                (1, 4, 7, 9, 3, 6, 2, 1), (1, 4, 9, 9, 3, 6, 2, 0), (2, 6, 8, 8, 2, 7, 2, 0), (1, 8, 9, 5, 3, 4, 3, 2),
                (1, 130, 3, 32, 3, 34, 1, 1)]


class Pictures(ctypes.Structure):
    """As in layers_cpu.h."""

    _fields_ = [(name, ctypes.c_int) for name in ("images", "channels", "height", "width", "kernel", "stride", "border",
                                                  "spread", "down", "across")]


@pytest.mark.parametrize("case", CONVOLUTIONS, ids=lambda case: "-".join(map(str, case)))
def test_convolutions_agree_with_float64(library, case):
    images, channels, height, width, size, out, stride, padding = case
    (x, x_bits), (w, w_bits) = numbers("x", images, channels, height, width), numbers("w", out, channels, size, size)
    exact, gradient = exact_convolution(x, w, stride, padding)
    (d_y, d_bits), bias = numbers("d", *exact.shape), seeded.values("b", (out,))
    p, found = Pictures(images, channels, height, width, size, stride, padding, 1, *exact.shape[2:]), []
    for threads in (1, 3):
        library.unit(threads)
        y, d_x = np.full(exact.shape, np.nan, np.float32), np.full(x.shape, np.nan, np.float32)
        library.convolution(ctypes.byref(p), out, address(x_bits), address(w_bits), address(bias), address(y),
                            address(d_bits), address(d_x))
        assert near(y, exact + bias[:, None, None]) and near(d_x, gradient(d_y))
        found.append((y, d_x))
    assert all(np.array_equal(one, other) for one, other in zip(*found)), "the bits depend on the number of threads"


# ---------------------------------------------------------------- as the networks call them

def layer_of(layer):
    """A layer with seeded weights, kept in bfloat16."""
    tensors = {name: seeded.weight(name, tuple(p.shape)) for name, p in weights.parameters(layer).items()}
    weights.load(layer, dict(tensors), "here", "bfloat16")
    return layer


NETWORK_LAYERS = [(Linear(40, 24), (2, 5, 40)), (Linear(40, 24, bias=False), (3, 40)),
                  (Conv2d(6, 9, 3, padding=1), (2, 6, 5, 8)), (Conv2d(6, 9, 3, stride=2), (1, 6, 9, 9)),
                  (Conv2d(6, 9, 1, bias=False), (2, 6, 4, 4))]


@pytest.mark.parametrize("layer, shape", NETWORK_LAYERS, ids=lambda one: type(one).__name__)
def test_layers_and_their_gradients_are_those_of_float32(layer, shape):
    """Of the same numbers; the result is off by its last rounding, also on a CPU where Jittor multiplies in float32."""
    layer, x = layer_of(layer), rounded(seeded.values("x", shape), "bfloat16")
    wide = lambda one: None if one is None else one.float32()
    given, exact = jt.array(x), jt.array(x)
    y = layer(cast(given, "bfloat16"))
    if isinstance(layer, Linear):
        expected = jt.nn.matmul_transpose(exact, wide(layer.weight))
        expected = expected if layer.bias is None else expected + layer.bias
    else:
        expected = jt.nn.conv2d(exact, wide(layer.weight), layer.bias, layer.stride, layer.padding)
    assert y.dtype == "bfloat16" and y.shape == expected.shape
    direction = jt.array(rounded(seeded.values("d", tuple(y.shape)), "bfloat16"))
    found, of_exact = jt.grad((y.float32() * direction).sum(), given), jt.grad((expected * direction).sum(), exact)
    for ours, theirs in ((y.float32(), expected), (found, of_exact)):
        assert np.linalg.norm(ours.numpy() - theirs.numpy()) <= 2.0 ** -8 * np.linalg.norm(theirs.numpy())


def test_padding_is_smaller_than_the_kernel():
    with pytest.raises(ValueError, match="padding of 1"):
        products.convolution(jt.zeros((1, 2, 4, 4)), jt.zeros((3, 2, 1, 1)), None, 1, 1)


@pytest.mark.skipif(not bfloat16.unit(), reason="this CPU multiplies no bfloat16")
def test_a_result_may_stay_float32():
    layer, x = layer_of(Linear(40, 24)), jt.array(seeded.values("x", (3, 40)))
    y = products.linear(x, layer.weight, layer.bias, "float32")
    assert y.dtype == "float32" and np.array_equal(cast(y, "bfloat16").float32().numpy(), layer(x).float32().numpy())
