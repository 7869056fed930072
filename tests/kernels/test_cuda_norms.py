"""The GPU's norms and its gated GELU, run on the CPU by `cuda_emulator.h` as in `test_cuda_kernels.py`."""
from __future__ import annotations

import ctypes
import functools

import numpy as np
import pytest

from reference import seeded
from styleblend import kernels
from styleblend.adapters import lora
from styleblend.base.base import load_base
from styleblend.kernels import cuda, reference, sources
from styleblend.machine.runtime import jt
from styleblend.models.attention import AttentionContext
from styleblend.models.rows import Rows
from test_cuda_kernels import EMULATOR, TYPES, compiled, read, stored
from test_kernels import error
from test_norms import NORMS, found_by, numbers

HEADER = cuda.NORMS.replace('#include "helper_cuda.h"\n', "").replace(sources.whole("ptx.h"), EMULATOR)
ALLOWED = {"float": 1e-5, "__half": 5e-3, "__nv_bfloat16": 5e-3}  # relative L2
ENTRY = """
using namespace styleblend::cuda;
extern "C" int run_norm(const Norm<T>* p) {
    cudaError_t error = normed<T, LAYER, SILU>(*p, false);
    return error != cudaSuccess ? error : normed<T, LAYER, SILU>(*p, true);
}
extern "C" int run_gated(const Gated<T>* p) {
    cudaError_t error = geglu(*p, false);
    return error != cudaSuccess ? error : geglu(*p, true);
}
"""


def structure(numbers: str, arrays: str, *others) -> type:
    """A struct of `norms_cuda.h`: whole numbers, then `others`, then pointers, then the number of threads."""
    fields = [(name, ctypes.c_int) for name in numbers.split()] + list(others)
    return type("Structure", (ctypes.Structure,), {"_fields_": [
        *fields, *((name, ctypes.c_void_p) for name in arrays.split()), ("threads", ctypes.c_int)]})


Norm = structure("units count groups pixels", "x weight bias y statistics d_y d_x", ("eps", ctypes.c_float))
Gated = structure("tokens size", "x d_y y d_x")


def entry(kind: str, layer: bool = False, silu: bool = False) -> str:
    names = {"T": kind, "LAYER": str(layer).lower(), "SILU": str(silu).lower()}
    return "".join(f"#define {name} {value}\n" for name, value in names.items()) + ENTRY


@pytest.fixture(scope="session")
def library(tmp_path_factory):
    """A function: type, layer norm or not, with SiLU or not -> kernels, compiled when first wanted."""
    return functools.lru_cache(maxsize=None)(lambda *of: compiled(tmp_path_factory.mktemp("norms"),
                                                                  HEADER + entry(*of)))


def called(kernels, name: str, problem: ctypes.Structure, given: list, outputs: list) -> None:
    """Run both passes; AssertionError says what was wrong in their accesses to memory."""
    kernels.has_no_buffers()
    for array, writable in [(x, False) for x in given] + [(x, True) for x in outputs]:
        kernels.has_buffer(ctypes.c_void_p(array.ctypes.data), ctypes.c_size_t(array.nbytes), writable)
    assert getattr(kernels, name)(ctypes.byref(problem)) == 0, kernels.what_failed().decode()


def aligned(x: np.ndarray, off: int = 0) -> np.ndarray:
    """A copy that begins at an address as a card gives them, or `off` numbers behind it."""
    room = np.zeros(x.size + 64, x.dtype)
    begin = -room.ctypes.data % 64 // x.itemsize + off
    room[begin:begin + x.size] = x.ravel()
    return room[begin:begin + x.size].reshape(x.shape)


def empty(shape, kind: str) -> np.ndarray:
    """Not-a-number everywhere."""
    return aligned(np.full(shape, 0x7fff if kind == "__nv_bfloat16" else np.nan, TYPES[kind]))


def normed(kernels, kind: str, x, d_y, groups: int, layer: bool, eps: float, off: int = 0) -> tuple:
    """What the kernels write for x (units of rows, channels, pixels), or (tokens, size) with `layer`, and what is
    exact: result, gradient, mean and 1 / deviation.
    """
    channels = x.shape[1]
    weight, bias = (aligned(f(np.arange(channels)).astype(np.float32)) for f in (lambda n: 1 + 0.3 * np.sin(n), np.cos))
    (x, exact_x), (d_y, exact_d) = ((aligned(bits, off), numbers) for bits, numbers in (stored(x, kind),
                                                                                      stored(d_y, kind)))
    y, d_x, units = empty(x.shape, kind), empty(x.shape, kind), x.shape[0] * groups
    statistics = np.full((units, 2), np.nan, np.float32)
    pixels = 1 if layer else x.shape[2]
    arrays = {"x": x, "weight": weight, "bias": bias, "y": y, "statistics": statistics, "d_y": d_y, "d_x": d_x}
    problem = Norm(units=units, count=x.size // units, groups=groups, pixels=pixels, eps=eps,
                   **{name: array.ctypes.data for name, array in arrays.items()})
    called(kernels, "run_norm", problem, [x, weight, bias, d_y], [y, statistics, d_x])
    found = {"y": read(y, kind), "d_x": read(d_x, kind), "statistics": statistics}
    return found, (exact_x, exact_d, weight.astype(np.float64), bias.astype(np.float64))


def exactly(x, d_y, weight, bias, groups: int, eps: float, silu: bool) -> dict:
    """In float64."""
    shape = (-1, x.shape[1], x.size // (x.shape[0] * x.shape[1]))
    of_units = (x.shape[0] * groups, -1)
    units = x.reshape(of_units)
    mean, variance = units.mean(1, keepdims=True), units.var(1, keepdims=True)
    inverse = 1 / np.sqrt(variance + eps)
    normal = ((units - mean) * inverse).reshape(shape)
    t = normal * weight[:, None] + bias[:, None]
    share = 1 / (1 + np.exp(-t)) if silu else 1
    d = d_y.reshape(shape) * (share * (1 + t * (1 - share)) if silu else 1) * weight[:, None]
    d, normal = d.reshape(of_units), normal.reshape(of_units)
    d_x = (d - d.mean(1, keepdims=True) - normal * (d * normal).mean(1, keepdims=True)) * inverse
    return {"y": (t * share).reshape(x.shape), "d_x": d_x.reshape(x.shape),
            "statistics": np.concatenate([mean, inverse], 1), "terms": np.linalg.norm(d * inverse)}


def agree(found: dict, exact: dict, allowed: float) -> None:
    """Relative L2. Of a gradient that nearly vanishes, as with two numbers a unit, rounding of its terms is left."""
    for name, ours in found.items():
        rest = 2.0 ** -21 * exact["terms"] if name == "d_x" else 0
        assert np.linalg.norm(ours - exact[name]) <= allowed * np.linalg.norm(exact[name]) + rest, name


def by_chance(seed: int) -> tuple:
    """Rows, channels, pixels, groups (a layer norm: 0), SiLU, a shift of all arrays in memory."""
    rng = np.random.default_rng(seed)
    shift = int(rng.integers(1, 4)) * bool(rng.random() < 0.2)
    if seed % 2:
        return int(rng.integers(1, 20)), int(rng.choice([320, 1, 13, 64, 77, 1000])), 1, 0, False, shift
    groups = int(rng.integers(1, 5))
    size, pixels = int(rng.integers(1, 6)), int(rng.choice([1, 3, 16, 63, 64, 400]))
    return int(rng.integers(1, 4)), groups * size, pixels, groups, bool(rng.random() < 0.5), shift


# by default, the 16-bit types have one shape of each norm: every other one compiles kernels of its own
@pytest.mark.parametrize("kind, seed", [
    pytest.param(kind, seed, marks=() if seed < (4 if kind == "float" else 2) else pytest.mark.slow)
    for kind in ALLOWED for seed in range(50)])
def test_norms_of_any_shape(library, kind, seed):
    """Against float64, in arrays that held no number, with every access watched."""
    rows, channels, pixels, groups, silu, shift = by_chance(seed)
    rng, layer = np.random.default_rng(100 + seed), not groups
    shape = (rows, channels) if layer else (rows, channels, pixels)
    x, d_y = rng.standard_normal(shape) * 3 + 1, rng.standard_normal(shape)
    found, given = normed(library(kind, layer, silu), kind, x, d_y, groups or 1, layer, 1e-5, shift)
    agree(found, exactly(*given, groups or 1, 1e-5, silu), ALLOWED[kind])


@pytest.mark.parametrize("kind", ["float", pytest.param("__half", marks=pytest.mark.slow)])
@pytest.mark.parametrize("pixels", [6000, 2003], ids=["long runs", "single numbers"])
def test_groups_of_several_steps(library, kind, pixels):
    """As all groups of Stable Diffusion are: more numbers than the most threads read at once."""
    rng = np.random.default_rng(pixels)
    x, d_y = rng.standard_normal((1, 4, pixels)) + 0.5, rng.standard_normal((1, 4, pixels))
    found, given = normed(library(kind, False, True), kind, x, d_y, 2, False, 1e-5)
    agree(found, exactly(*given, 2, 1e-5, True), ALLOWED[kind])


@pytest.mark.parametrize("way, allowed", [
    ("far from zero", 1e-4), ("the first are not like the rest", 1e-5), ("all the same", 1e-5), ("large", 1e-5)])
def test_norms_of_hard_numbers(library, way, allowed):
    """E[x^2] - E[x]^2 would have no digit left; neither may the numbers that the level is taken from decide."""
    x = np.random.default_rng(1).standard_normal((1, 2, 6000))
    if way == "far from zero":
        x = np.float32(x + 1000)
    if way == "the first are not like the rest":
        x.reshape(-1)[:4096] += 300
    x = x * 0 + 5 if way == "all the same" else x * 1e4 if way == "large" else x
    d_y = np.random.default_rng(2).standard_normal(x.shape)
    found, given = normed(library("float", False, False), "float", x, d_y, 1, False, 1e-5)
    agree(found, exactly(*given, 1, 1e-5, False), allowed)


@pytest.mark.parametrize("kind", ALLOWED)
@pytest.mark.parametrize("tokens, size, shift", [(3, 64, 0), (7, 5, 0), (1, 300, 0), (2, 64, 1)])
def test_gated_gelu(library, kind, tokens, size, shift):
    """Result and gradient against float64."""
    from math import erf
    rng = np.random.default_rng(size)
    (x, exact_x), (d_y, exact_d) = ((aligned(bits, shift), numbers) for bits, numbers in (
        stored(3 * rng.standard_normal((tokens, n)), kind) for n in (2 * size, size)))
    y, d_x = empty((tokens, size), kind), empty((tokens, 2 * size), kind)
    problem = Gated(tokens=tokens, size=size,
                    **{name: a.ctypes.data for name, a in {"x": x, "d_y": d_y, "y": y, "d_x": d_x}.items()})
    called(library(kind, True, False), "run_gated", problem, [x, d_y], [y, d_x])
    value, gate = exact_x[:, :size], exact_x[:, size:]
    below = 0.5 + 0.5 * np.vectorize(erf)(gate / np.sqrt(2))
    slope = value * (below + gate * np.exp(-gate ** 2 / 2) / np.sqrt(2 * np.pi))
    assert error(read(y, kind), value * gate * below) <= ALLOWED[kind]
    assert error(read(d_x, kind), np.concatenate([exact_d * gate * below, exact_d * slope], 1)) <= ALLOWED[kind]


MISTAKES = {  # what is taken out of the kernels, what is put in, what is said
    "no barrier behind the sums": ("    __syncthreads();\n    float2 total", "    float2 total", "no barrier between"),
    "no barrier before the sums": ("    __syncthreads();  // all threads have read the sums of before\n", "",
                                   "no barrier between"),
    "too little shared memory": ("p.threads / 32 * sizeof(float2)", "4", "launch did not ask for"),
    "numbers beyond the last": ("    for (int i = at.first; i < p.count; i += at.step) {\n        Run<T, N> in",
                                "    for (int i = at.first; i <= p.count; i += at.step) {\n        Run<T, N> in",
                                "an output that thread|memory that is none of"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_are_found(tmp_path, mistake):
    there, instead, said = MISTAKES[mistake]
    assert there in HEADER
    kernels = compiled(tmp_path, HEADER.replace(there, instead) + entry("float"))
    x = np.ones((2, 4, 96))
    with pytest.raises(AssertionError, match=said):
        normed(kernels, "float", x, x, 2, False, 1e-5)


# ---------------------------------------------------------------- the operators

def on_the_cpu(shapes, types, inputs, source, numbers):
    """The text that a GPU gets, given to Jittor as the CPU's."""
    assert inputs[0].dtype == "float32"
    header = HEADER + "inline void checkCudaErrors(cudaError_t error) { if (error) throw error; }\n"
    return jt.code(shapes, types, inputs, cpu_header=header, cpu_src=f"typedef float T;{source}", data=numbers)


@pytest.mark.parametrize("name", NORMS)
def test_operators_agree_with_plain_ones(monkeypatch, name):
    """What Jittor passes to the kernels and gets from them: result and gradient within 1e-5 relative L2."""
    monkeypatch.setattr(cuda, "code", on_the_cpu)
    x = numbers(name)
    for ours, theirs in zip(*(found_by(core, name, x) for core in (cuda, reference))):
        assert error(ours, theirs) <= 1e-5


def test_a_checkpointed_training_needs_few_operators(tiny_folder, monkeypatch):
    """With gradients of norms as Jittor derives them it computes operators of hundreds, and compiles for an hour."""
    monkeypatch.setattr(cuda, "code", on_the_cpu)
    monkeypatch.setattr(kernels, "best", lambda x, *frozen: cuda)
    unet = load_base(tiny_folder).unet
    unet.enable_gradient_checkpointing()
    loras = lora.new(unet, lora.UNET_TARGETS, 2, np.random.default_rng(0))
    x, text = (jt.array(seeded.values("x", (1, 4, 16, 16))),
               jt.array(seeded.values("text", (1, 77, unet.config.cross_attention_dim))))
    loss = (unet(x, 500, text, AttentionContext(Rows({"picture": 1}), loras=loras)) ** 2).mean()
    with jt.profile_scope() as report:
        jt.sync(jt.grad(loss, list(lora.parameters(unet, loras).values())))
    parts = [row[0].count("opkey") for row in report[1:]]
    assert 40 < len(parts) < 200 and max(parts) <= 40
