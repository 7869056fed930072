"""The GPU's attention kernels, run on the CPU.

`cuda_emulator.h` stands in for CUDA, and the source is the one that a GPU gets. Every access to memory is watched
(`cuda_checks.h`): races and what lies beyond a buffer end the launch.
"""
from __future__ import annotations

import ctypes
import functools
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest

from styleblend.kernels import cuda, reference, sources
from styleblend.kernels.segments import Segment, reading
from styleblend.machine.cards import shared_memory
from styleblend.machine.runtime import jt

ROOT = Path(__file__).parents[2]
TYPES = {"float": np.float32, "__half": np.float16, "__nv_bfloat16": np.uint16}  # NumPy has no bfloat16: its bits
#           type, precision, relative error allowed
WAYS = {"float32": ("float", "FMA", 1e-5), "float32 split": ("float", "SPLIT", 1e-5), "TF32": ("float", "TF32", 5e-3),
        "float16": ("__half", "FMA", 5e-3), "bfloat16": ("__nv_bfloat16", "FMA", 1e-2)}

# The header with the emulator where the GPU's instructions are, as text: as Jittor compiles it.
CHECKS = ROOT / "tests" / "cuda_checks.cpp"
EMULATOR = (ROOT / "tests" / "cuda_emulator.h").read_text().replace(
    '#include "cuda_checks.h"\n', CHECKS.with_suffix(".h").read_text())
HEADER = cuda.HEADER.replace('#include "helper_cuda.h"\n', "").replace(sources.whole("ptx.h"), EMULATOR)
BOTH = """
using namespace styleblend::cuda;
template <class T, int SIZE, Precision P> int both(const Problem<T>& p) {
    cudaError_t error = attention_forward<T, SIZE, P>(p);
    return error != cudaSuccess || !p.d_result ? error : attention_backward<T, SIZE, P>(p);
}
"""
ENTRY = 'extern "C" int run(const Problem<{type}>* p) {{ return both<{type}, {size}, {precision}>(*p); }}\n'


class Problem(ctypes.Structure):
    """As in attention_cuda.h."""

    NUMBERS = ("rows", "q_count", "kv_count", "heads", "queries", "keys", "width", "segments")
    ARRAYS = ("q_rows", "kv_rows", "scales", "shifts", "q", "k", "v", "result", "log_sum", "d_result", "delta",
              "d_q", "d_k", "d_v")
    _fields_ = ([(name, ctypes.c_int) for name in NUMBERS] + [("scale", ctypes.c_float), ("causal", ctypes.c_bool)]
                + [("bias", ctypes.c_void_p), ("bias_rows", ctypes.c_int)]
                + [(name, ctypes.c_void_p) for name in ARRAYS])


def entry(size: int, way: str) -> str:
    """The function that runs the kernels for heads of this size."""
    return BOTH + ENTRY.format(type=WAYS[way][0], size=size, precision=WAYS[way][1])


def compiled(folder: Path, source: str) -> ctypes.CDLL:
    """Kernels with watched accesses, and what watches them, by g++."""
    (folder / "kernels.cpp").write_text(source)
    common = [os.environ["cc_path"], "-std=c++14", "-O2", "-fPIC", "-w", "-fno-strict-aliasing"]
    subprocess.run([*common, "-fsanitize=thread", "-c", "-o", folder / "kernels.o", folder / "kernels.cpp"], check=True)
    subprocess.run([*common, "-shared", f"-I{CHECKS.parent}", CHECKS, folder / "kernels.o", "-o",
                    folder / "kernels.so"], check=True)
    library = ctypes.CDLL(str(folder / "kernels.so"))
    library.what_failed.restype = ctypes.c_char_p
    return library


@pytest.fixture(scope="session")
def library(tmp_path_factory):
    """A function: head size, way to multiply (and bytes of shared memory) -> kernels, compiled when first wanted."""
    return functools.lru_cache(maxsize=None)(lambda size, way, shared=shared_memory(75): compiled(
        tmp_path_factory.mktemp("cuda"), cuda.SHARED.format(shared) + HEADER + entry(size, way)))


def exact(q, k, v, d_out, heads, bias, read, scale, causal):
    """Result, log-sum-exp and gradients of q, k and v in float64, one head of one row at a time.

    A row has the keys of all its segments, one behind the other.
    """
    rows, queries, width = d_out.shape
    size = width // heads
    out, log_sum = np.zeros(d_out.shape), np.zeros((rows, heads, queries))
    d_q, d_k, d_v = (np.zeros(x.shape) for x in (q, k, v))
    for b in range(rows):
        parts = [s for s in range(len(read.kv_rows)) if read.kv_rows[s, b] >= 0]
        factor, shift = (np.repeat(x[parts, b].astype(np.float64), k.shape[1]) for x in read.factors)
        for h in range(heads):
            own = slice(h * size, (h + 1) * size)
            of_q, its_kv = (read.q_rows[b], slice(None), own), [(read.kv_rows[s, b], slice(None), own) for s in parts]
            its_k, its_v = (np.concatenate([x[of_kv] for of_kv in its_kv]) for x in (k, v))
            scores = q[of_q] @ its_k.T * scale * factor + shift
            if bias is not None:
                scores = scores + bias[b % len(bias)]
            if causal:
                scores = np.where(np.arange(k.shape[1]) > np.arange(queries)[:, None], -np.inf, scores)
            top = scores.max(axis=1, keepdims=True)
            weights = np.exp(scores - top)
            log_sum[b, h] = (top + np.log(weights.sum(axis=1, keepdims=True)))[:, 0]
            weights /= weights.sum(axis=1, keepdims=True)
            out[b][:, own] = weights @ its_v
            given = d_out[b][:, own]
            slope = weights * (given @ its_v.T - (given * out[b][:, own]).sum(axis=1, keepdims=True)) * factor
            d_q[of_q] += slope @ its_k * scale
            for of_kv, part in zip(its_kv, np.split(np.arange(len(its_k)), len(parts))):
                d_v[of_kv] += weights.T[part] @ given
                d_k[of_kv] += slope.T[part] @ q[of_q] * scale
    return dict(result=out, log_sum=log_sum, d_q=d_q, d_k=d_k, d_v=d_v)


def stored(x, kind):
    """float64 -> the bytes of `kind`, and the numbers that these are."""
    if kind != "__nv_bfloat16":
        narrow = x.astype(TYPES[kind])
        return narrow, narrow.astype(np.float64)
    bits = x.astype(np.float32).view(np.uint32)
    bits = ((bits + 0x7fff + (bits >> 16 & 1)) >> 16).astype(np.uint16)
    return bits, read(bits, kind)


def read(x, kind):
    return ((x.astype(np.uint32) << 16).view(np.float32).astype(np.float64) if kind == "__nv_bfloat16"
            else x.astype(np.float64))


def run(library, way, arrays, size, heads, bias=None, q_rows=None, segments=None, scale=None, causal=False):
    """What the kernels write for q, k, v and the result's gradient, and `exact`. Every output is NaN before, and so is
    what must not be read. AssertionError says what was wrong in the kernels' accesses to memory.
    """
    kind = WAYS[way][0]
    its = reading(len(arrays["q"]), len(arrays["k"]), q_rows, segments)
    count = len(its.q_rows)
    given = {name: stored(x, kind) for name, x in arrays.items()}
    bias = None if bias is None else np.ascontiguousarray(bias, np.float32)
    scale = size ** -0.5 if scale is None else scale
    nothing = np.uint16(0x7fff) if kind == "__nv_bfloat16" else TYPES[kind](np.nan)
    out = {"result": np.full(given["d_result"][0].shape, nothing)}
    out.update({f"d_{name}": np.full(given[name][0].shape, nothing) for name in "qkv"})
    queries, keys = arrays["q"].shape[1], arrays["k"].shape[1]
    sums = {name: np.full((count, heads, queries), np.nan, np.float32) for name in ("log_sum", "delta")}
    address = lambda x: x.ctypes.data
    of_rows = {"q_rows": its.q_rows, "kv_rows": its.kv_rows, "scales": its.factors[0], "shifts": its.factors[1]}
    p = Problem(rows=count, q_count=len(arrays["q"]), kv_count=len(arrays["k"]), heads=heads, queries=queries,
                keys=keys, width=heads * size, segments=len(its.kv_rows), scale=scale, causal=causal,
                bias=None if bias is None else address(bias), bias_rows=0 if bias is None else len(bias),
                **{name: address(x[0]) for name, x in given.items()},
                **{name: address(x) for name, x in {**of_rows, **out, **sums}.items()})
    kernels = library(size, way)
    kernels.has_no_buffers()
    for array, writable in ([(x[0], False) for x in given.values()] + [(x, False) for x in of_rows.values()]
                            + [(x, True) for x in (*out.values(), *sums.values())]
                            + [(bias, False)] * (bias is not None)):
        kernels.has_buffer(ctypes.c_void_p(address(array)), ctypes.c_size_t(array.nbytes), writable)
    assert kernels.run(ctypes.byref(p)) == 0, kernels.what_failed().decode()
    found = {**{name: read(x, kind) for name, x in out.items()}, "log_sum": sums["log_sum"].astype(np.float64)}
    return found, exact(*(given[n][1] for n in ("q", "k", "v", "d_result")), heads, bias, its, scale, causal)


def make(seed, q_count, kv_count, count, queries, keys, width):
    rng = np.random.default_rng(seed)
    return {name: rng.standard_normal(shape) for name, shape in (
        ("q", (q_count, queries, width)), ("k", (kv_count, keys, width)), ("v", (kv_count, keys, width)),
        ("d_result", (count, queries, width)))}


#        queries, keys, size, heads, options; q and k, v have two rows, or three if rows are chosen
CASES = [(1, 1, 64, 1, {}), (64, 64, 64, 2, {}), (77, 130, 64, 1, {}), (130, 9, 64, 1, dict(bias=1)),
         (48, 31, 40, 2, {}), (17, 150, 40, 1, dict(bias=2)), (20, 40, 80, 1, {}), (77, 77, 64, 1, dict(causal=True)),
         (100, 33, 40, 1, dict(causal=True)), (33, 100, 80, 1, dict(causal=True, bias=1)),
         (50, 70, 64, 1, dict(q_rows=(0, 2, 2, 2), segments=[Segment((1, 1, 1, 1))])),
         (21, 19, 17, 2, dict(q_rows=(0, 0), segments=[Segment((2, 2))], bias=2, scale=0.4)),
         (40, 70, 80, 1, dict(q_rows=(1, 1, 0, 1), segments=[Segment((2, 2, 0, 1))], bias=1)),
         # shared attention: each its own keys and those of row 0, which has its own only; rows 1 and 2 are alike
         (50, 70, 64, 1, dict(q_rows=(0, 1, 1, 2), segments=[Segment((0, 1, 1, 2)),
                                                             Segment((-1, 0, 0, 0), 1.3, (0, -1, -1, 2))])),
         # alike in what they read, but not in its scale or shift; a row read in two segments; negative and no scale
         (36, 33, 40, 1, dict(q_rows=(0, 0, 0, 2), segments=[
             Segment((2, 2, 2, 1), (1, 1, -2, 0)), Segment((2, 2, 2, -1), 0.5, (0, 0.7, 0, 0)),
             Segment((-1, -1, -1, 0), 3, -50)]))]
# watched accesses take their time: sizes of 64 and 40, a part tile, a bias, causal, segments; the others are slow
QUICK = (CASES[2], CASES[4], CASES[5], CASES[7], CASES[-2], CASES[-1])


def check(library, case, way):
    queries, keys, size, heads, options = case
    options = dict(options)
    given = 3 if "segments" in options else 2
    count = len(options.get("q_rows", range(given)))
    arrays = make(queries, given, given, count, queries, keys, heads * size)
    if "bias" in options:
        options["bias"] = np.random.default_rng(keys).standard_normal((1 if options["bias"] == 1 else count, keys)) * 2
    found, expected = run(library, way, arrays, size, heads, **options)
    for name, theirs in expected.items():
        error = np.abs(found[name] - theirs).max() / max(np.abs(theirs).max(), 1)
        assert error <= WAYS[way][2], (name, error)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("case", [
    pytest.param(c, marks=() if c in QUICK else pytest.mark.slow,
                 id="x".join(map(str, c[:4])) + "".join(f"-{o}" for o in c[4])) for c in CASES])
def test_kernels_agree_with_float64(library, case, way):
    """Result and gradients, relative to the largest; rows of q, k and v that nobody reads get zeros.

    No number stays as it was before.
    """
    check(library, case, way)


@pytest.mark.parametrize("way", WAYS)
def test_no_tile_is_overwritten_too_soon(library, way):
    """The same when what is copied for the next tile is there at once: a warp that has not finished this one must not
    read it. So it is from one segment to the next.
    """
    for case in (CASES[2], CASES[-2]):
        kernels = library(case[2], way)
        kernels.copies_arrive_early(True)
        try:
            check(library, case, way)
        finally:
            kernels.copies_arrive_early(False)


@pytest.mark.parametrize("way", ["float32", "float32 split", "bfloat16"])
def test_scores_of_any_size(library, way):
    """Scores of -1000 and less, and keys that a bias of -1e30 hides: no overflow, and nothing of the hidden ones."""
    arrays = make(5, 1, 1, 1, 20, 90, 64)
    arrays["q"], arrays["k"] = 300 * np.abs(arrays["q"]), -np.abs(arrays["k"])
    arrays["v"][0, 70:] = 1e3
    found, expected = run(library, way, arrays, 64, 1, bias=np.where(np.arange(90) < 70, 0, -1e30)[None])
    assert all(np.isfinite(x).all() for x in found.values())
    assert np.abs(found["result"]).max() < 10
    np.testing.assert_allclose(found["result"], expected["result"], atol=0.02)
    assert not found["d_k"][0, 70:].any() and not found["d_v"][0, 70:].any()


@pytest.mark.parametrize("way", ["float32", "float32 split"])
def test_sums_over_many_keys(library, way):
    """Tensor cores cut sums off instead of rounding them.

    With 1,500 keys and values of one sign these errors would add up.
    """
    arrays = make(9, 1, 1, 1, 10, 1500, 64)
    arrays["v"] = np.abs(arrays["v"])
    found, expected = run(library, way, arrays, 64, 1)
    np.testing.assert_allclose(found["result"], expected["result"], rtol=5e-6)


def test_rows_do_not_depend_on_each_other(library):
    """Bit for bit: a row alone, or read twice by a swap."""
    arrays = make(6, 3, 3, 3, 70, 80, 64)
    together, _ = run(library, "float16", arrays, 64, 1)
    alone, _ = run(library, "float16", {name: x[1:2] for name, x in arrays.items()}, 64, 1)
    swapped, _ = run(library, "float16", arrays, 64, 1, q_rows=(1, 1, 2), segments=[Segment((1, 1, 2))])
    assert np.array_equal(alone["result"][0], together["result"][1])
    for name in ("result", "log_sum"):
        assert np.array_equal(swapped[name], together[name][[1, 1, 2]])


# ---------------------------------------------------------------- shapes by chance

def by_chance(seed):
    """A way to multiply and a case: any numbers of tokens, rows, heads and segments, and what else there is."""
    rng = np.random.default_rng(seed)
    given, count = rng.integers(1, 4, 2)
    case = dict(way=list(WAYS)[seed % len(WAYS)], size=int(rng.choice([8, 17, 33, 40, 64, 80, 160])),
                heads=int(rng.integers(1, 4)), given=int(given), queries=int(rng.integers(1, 150)),
                keys=int(rng.integers(1, 150)), q_rows=tuple(map(int, rng.integers(0, given, count))),
                segments=[Segment(tuple(map(int, rng.integers(0, given, count))))])
    kind = rng.choice(["segments", "causal", "bias", "bias of each row"])
    if kind == "segments":
        rows = rng.integers(-1, given, (rng.integers(1, 4), count))
        rows[0] = np.maximum(rows[0], 0)  # each row reads something
        case["segments"] = [Segment(tuple(map(int, its)), tuple(rng.uniform(-2, 2, count)),
                                    tuple(rng.uniform(-2, 2, count))) for its in rows]
    elif kind == "causal":
        case["causal"] = True
    else:
        case["bias"] = rng.standard_normal((1 if kind == "bias" else count, case["keys"])) * 2
    if rng.random() < 0.5:
        case["scale"] = float(rng.uniform(0.05, 1) / case["size"] ** 0.5)
    return case


@pytest.mark.parametrize("seed", [*range(3), *(pytest.param(n, marks=pytest.mark.slow) for n in range(3, 50))])
def test_shapes_by_chance(library, seed):
    """Relative L2 of the result and of each gradient; whether anything is read or written where it should not be.

    With tiles as Turing has them, and as Hopper does.
    """
    case = by_chance(seed)
    way, given, queries, keys = (case.pop(name) for name in ("way", "given", "queries", "keys"))
    arrays = make(seed, given, given, len(case["q_rows"]), queries, keys, case["heads"] * case["size"])
    shared = shared_memory((75, 90)[seed // 5 % 2])
    found, expected = run(lambda *of: library(*of, shared), way, arrays, **case)
    for name, theirs in expected.items():
        error = np.linalg.norm(found[name] - theirs) / max(np.linalg.norm(theirs), 1e-30)
        assert error <= (1e-5 if way in ("float32", "float32 split") else 5e-3), (name, error)


# ---------------------------------------------------------------- the operator

class OnTheCpu(cuda.Attention):
    """The operator with the text that a GPU gets, given to Jittor as the CPU's."""

    def run(self, source, shapes, types, inputs):
        return jt.code(shapes, types, inputs,
                       cpu_header=HEADER + "inline void checkCudaErrors(cudaError_t error) "
                                           "{ if (error) throw error; }\n",
                       cpu_src=source.format(type="float", size=self.size, precision="SPLIT"), data=self.data)


@pytest.mark.parametrize("options", [
    {}, dict(causal=True, scale=0.5), dict(q_rows=(0, 2, 2, 2), segments=[Segment((1, 1, 0, 1))], bias=1),
    dict(segments=[Segment((1, 1, 0))], bias=2),
    dict(segments=[Segment(), Segment((-1, 0, 0), 0.8, (0, 1, -1))])], ids=str)
def test_operator_agrees_with_plain_operators(monkeypatch, options):
    """What Jittor passes to the kernels and gets from them: result and gradients within 1e-5 relative L2."""
    monkeypatch.setattr(cuda, "Attention", OnTheCpu)
    options = dict(options)
    q, k, v, weight = (jt.array(x.astype(np.float32))
                       for x in make(7, 3, 3, len(options.get("q_rows", (0, 1, 2))), 20, 37, 32).values())
    if "bias" in options:
        options["bias"] = jt.array(np.random.default_rng(8).standard_normal((1 if options["bias"] == 1 else 3, 37))
                                   .astype(np.float32))
    results = []
    for core in (cuda, reference):
        out = core.attention(q, k, v, 2, **options)
        results.append([out.numpy()] + [g.numpy() for g in jt.grad((out * weight).sum(), [q, k, v])])
    for ours, theirs in zip(*results):
        assert np.linalg.norm(ours - theirs) <= 1e-5 * np.linalg.norm(theirs)
