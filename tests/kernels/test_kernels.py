"""The kernels against plain Jittor operators: results, gradients, and what a swap saves."""
import os
import platform
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings, strategies as st

from styleblend import kernels
from styleblend.kernels import chunked, cpu, reference, sources
from styleblend.kernels.segments import Segment
from styleblend.machine.precision import cast, rounded
from styleblend.machine.runtime import jt

#         rows, queries, keys, heads, size, options
CASES = [(2, 256, 256, 1, 64, {}),                                               # the mini base's first sites
         (4, 64, 77, 2, 64, {}),                                                 # cross-attention
         (2, 77, 77, 4, 32, dict(causal=True)),                                  # the text encoder
         # both swaps: two pairs of equal rows
         (4, 130, 200, 2, 64, dict(q_rows=(0, 0, 2, 2), segments=[Segment((1, 1, 3, 3))])),
         (3, 150, 10, 1, 16, dict(segments=[Segment((2, 2, 0))])),               # a row whose k and v nobody reads
         (1, 9, 300, 1, 8, dict(scale=0.3)),
         # nothing is a multiple
         (3, 5, 7, 3, 20, {}), (2, 40, 50, 2, 17, dict(bias=1)), (2, 40, 50, 2, 80, dict(bias=2)),
         (1, 70, 3, 1, 512, {})]


def setting(rows, queries, keys, heads, size, options):
    rng = np.random.default_rng(queries)
    q, k, v, weight = (jt.array(rng.standard_normal((rows, n, heads * size)).astype(np.float32))
                       for n in (queries, keys, keys, queries))
    options = dict(options)
    if "bias" in options:
        options["bias"] = jt.array(rng.standard_normal((options["bias"], keys)).astype(np.float32) * 3)
    return (q, k, v), weight, options


def error(ours, theirs):
    return np.linalg.norm(ours - theirs) / max(np.linalg.norm(theirs), 1e-6)


@pytest.mark.parametrize("case", CASES, ids=lambda c: "x".join(map(str, c[:5])) + "".join(f"-{o}" for o in c[5]))
def test_core_agrees_with_plain_operators(case):
    """Result and gradients within 2e-6 relative L2, with the CPU's matrix tiles, where it has any, within 6e-6.

    q, k and v that a swap overwrites get no gradient. Chunked: ten queries or so at a time.
    """
    inputs, weight, options = setting(*case)
    rows, _, keys, heads, *_ = case
    results = {}
    for name, core, more in (("plain", reference, {}), ("vectors", cpu, dict(tiles=False)), ("tiles", cpu, {}),
                             ("chunked", chunked, dict(limit=4 * rows * heads * keys * 10))):
        out = core.attention(*inputs, heads, **options, **more)
        results[name] = [out.numpy()] + [g.numpy() for g in jt.grad((out * weight).sum(), list(inputs))]
    plain = results.pop("plain")
    for core, found in results.items():
        for name, ours, theirs in zip(("out", "dq", "dk", "dv"), found, plain):
            assert error(ours, theirs) <= (6e-6 if core == "tiles" else 2e-6), (core, name)


# ---------------------------------------------------------------- any shape, against float64

ALLOWED = {"float32": 1e-5, "float16": 5e-3, "bfloat16": 5e-3}  # relative L2
# counted apart: Jittor cuts a gradient off to bfloat16, and of few numbers that alone may be more
CUT = {"float32": 0, "float16": 0, "bfloat16": 2.0 ** -7}
# times: so much larger are the terms of a gradient that nearly vanishes, as with two keys of which one has nearly all
# the weight
CANCELLED = 50
CORES = {"vectors": (cpu, dict(tiles=False)), "tiles": (cpu, {}), "chunked": (chunked, dict(limit=2 ** 20)),
         "plain": (reference, {})}


@st.composite
def problems(draw):
    """Any number of queries and keys up to 2,000; few rows and heads, so that it takes no time."""
    queries, keys, size, heads = (draw(x) for x in (st.integers(1, 2000), st.integers(1, 2000),
                                                    st.sampled_from((64, 17, 8)), st.integers(1, 2)))
    count, of_q, of_kv = (draw(st.integers(1, 2)) for _ in range(3))
    indices = {"none": (None, None), "q": (count, None), "kv": (None, count), "both": (count, count)}[
        draw(st.sampled_from(("none", "q", "kv", "both")))]
    count = count if any(indices) else of_q
    of_q, of_kv = (count if wanted is None else there for wanted, there in zip(indices, (of_q, of_kv)))
    q_rows, kv_rows = (None if wanted is None else tuple(draw(st.integers(0, there - 1)) for _ in range(count))
                       for wanted, there in zip(indices, (of_q, of_kv)))
    segments = None if kv_rows is None else [Segment(kv_rows)]
    options = dict(q_rows=q_rows, segments=segments, causal=draw(st.booleans()),
                   scale=draw(st.sampled_from((None, 0.3))))
    return ((of_q, of_kv, count), (queries, keys), heads, size, draw(st.sampled_from((0, 1, count))), options,
            draw(st.integers(0, 2 ** 32 - 1)))


def exact_gradients(q, k, v, direction, heads, bias, q_rows, segments, scale, causal):
    """The result, and the gradients of q, k and v, in float64, a head of a row at a time; and the size of what each of
    them is the sum of.
    """
    found, terms = ([np.zeros(direction.shape), *(np.zeros(x.shape) for x in (q, k, v))] for _ in range(2))
    scale = (q.shape[2] // heads) ** -0.5 if scale is None else scale
    for row in range(len(direction)):
        of_q, parts = row if q_rows is None else q_rows[row], read_by(row, segments)
        factor, shift = (np.repeat([part[i] for part in parts], k.shape[1]) for i in (1, 2))
        for own in np.split(np.arange(q.shape[2]), heads):
            one_q, given = (x[:, own].astype(np.float64) for x in (q[of_q], direction[row]))
            one_k, one_v = (np.concatenate([x[part[0]][:, own] for part in parts]).astype(np.float64) for x in (k, v))
            scores = one_q @ one_k.T * scale * factor + shift + (0 if bias is None else bias[row % len(bias)])
            if causal:
                scores[np.arange(len(one_k)) > np.arange(len(one_q))[:, None]] = -np.inf
            weights = np.exp(scores - scores.max(axis=1, keepdims=True))
            weights /= weights.sum(axis=1, keepdims=True)
            found[0][row][:, own] = weights @ one_v
            delta, steep = (given * found[0][row][:, own]).sum(axis=1, keepdims=True), weights * scale * factor
            slope = steep * (given @ one_v.T - delta)
            of_slope = np.abs(steep) * (np.abs(given @ one_v.T) + np.abs(delta))
            found[1][of_q][:, own] += slope @ one_k
            terms[1][of_q][:, own] += of_slope @ np.abs(one_k)
            for (of_kv, *_), part in zip(parts, np.split(np.arange(len(one_k)), len(parts))):
                found[2][of_kv][:, own] += slope.T[part] @ one_q
                found[3][of_kv][:, own] += weights.T[part] @ given
                terms[2][of_kv][:, own] += of_slope.T[part] @ np.abs(one_q)
    return found, [np.linalg.norm(x) for x in terms]


def read_by(row, segments):
    """The segments that a row of the result reads: (row of k and v, scale, shift) of each."""
    one = lambda numbers: numbers[row] if isinstance(numbers, tuple) else numbers
    parts = [(row if s.rows is None else s.rows[row], one(s.scale), one(s.shift)) for s in segments or [Segment()]]
    return [part for part in parts if part[0] >= 0]


# One in `share` of the problems also goes to the plain operators: most shapes want some that are not compiled yet, half
# a second each.
@pytest.mark.parametrize("share", [3, pytest.param(1, marks=pytest.mark.slow)])
@pytest.mark.parametrize("dtype", ALLOWED)
# the same shapes every time
@settings(max_examples=50, derandomize=True, deadline=None, database=None,
          suppress_health_check=list(HealthCheck))
@given(problem=problems())
# a gradient 130 times smaller than its terms
@example(problem=((1, 1, 1), (2, 2), 1, 64, 1, dict(q_rows=None, segments=None, causal=False, scale=None), 1))
def test_any_shape_against_float64(problem, dtype, share):
    """Result and gradients of every core; the exact ones are those of the same rounded inputs."""
    (of_q, of_kv, count), (queries, keys), heads, size, biases, options, number = problem
    rng, width = np.random.default_rng(number), heads * size
    shapes = ((of_q, queries, width), (of_kv, keys, width), (of_kv, keys, width), (count, queries, width))
    *arrays, direction = (rounded(rng.standard_normal(shape, np.float32), dtype).astype(np.float32) for shape in shapes)
    bias = 2 * rng.standard_normal((biases, keys), np.float32) if biases else None
    expected, sizes_of_terms = exact_gradients(*arrays, direction, heads, bias, **options)
    for name, (core, more) in CORES.items():
        if core is reference and dtype != "float32":
            continue  # adds up in the type that it is given
        if core is not cpu and (number - 1) % share:
            continue
        inputs = [cast(jt.array(x), dtype) for x in arrays]
        out = core.attention(*inputs, heads, None if bias is None else jt.array(bias), **options, **more)
        found = [out] + jt.grad((out.float32() * jt.array(direction)).sum(), inputs)
        for part, ours, theirs, size_of_terms in zip(("out", "dq", "dk", "dv"), found, expected, sizes_of_terms):
            assert ours.dtype == dtype and list(ours.shape) == list(theirs.shape)
            size_of = np.linalg.norm(theirs)
            if size_of < 1e-9:
                # one key has all the weight, whatever its score: no gradient, but for rounding
                size_of = np.linalg.norm(direction)
            off = np.abs(ours.float32().numpy() - theirs) - CUT[dtype] * np.abs(theirs)
            allowed = ALLOWED[dtype] * size_of
            if dtype == "float32" and size_of_terms > CANCELLED * size_of:
                # hardly anything is left of what was subtracted but its rounding: two units in the last place
                allowed += 2.0 ** -22 * size_of_terms
            assert np.linalg.norm(np.maximum(off, 0)) <= allowed, (name, part)


class Poisoned(cpu.Attention):
    """The CPU's operator, with NaN in every output before the kernel begins."""

    forward = "for (auto* out : {{out0, out1}}) std::memset(out->ptr<char>(), 0xFF, out->size);" + cpu.FORWARD
    backward = "for (auto* out : {{out0, out1, out2}}) std::memset(out->ptr<char>(), 0xFF, out->size);" + cpu.BACKWARD


@pytest.mark.parametrize("case", [
    (2, 130, 77, 2, 64, {}), (3, 70, 150, 2, 64, dict(q_rows=(1, 1, 2), segments=[Segment((2, 2, 0))])),
    (3, 5, 1100, 1, 17, dict(segments=[Segment((2, 2, 0))])), (2, 90, 20, 1, 17, dict(causal=True)),
    (3, 70, 150, 2, 64, dict(segments=[Segment((0, -1, 0)), Segment((-1, 2, 2), 0.5, -1)]))], ids=str)
def test_every_output_is_written(case, monkeypatch):
    """Bit for bit the same in memory that holds NaN.

    Also the gradients of rows that nobody reads and of keys that nobody sees.
    """
    (q, k, v), weight, options = setting(*case)
    results = []
    for operator in (cpu.Attention, Poisoned):
        monkeypatch.setattr(cpu, "Attention", operator)
        out = cpu.attention(q, k, v, case[3], **options)
        results.append([out.numpy()] + [g.numpy() for g in jt.grad((out * weight).sum(), [q, k, v])])
    assert all(np.isfinite(clean).all() and np.array_equal(clean, poisoned) for clean, poisoned in zip(*results))


def test_gradients_are_the_same_with_any_number_of_threads():
    """Bit for bit, with rows that share q, k and v, some in two segments, and more keys than a thread takes at a time.
    """
    code = """
        import hashlib, test_kernels as t
        segments = [t.Segment((1, 1, 3, 3)), t.Segment((3, -1, 3, 0), (2, 1, 1, 1), -1)]
        (q, k, v), weight, options = t.setting(4, 130, 2100, 2, 64, dict(q_rows=(0, 0, 2, 2), segments=segments))
        gradients = t.jt.grad((t.cpu.attention(q, k, v, 2, **options) * weight).sum(), [q, k, v])
        print(*(hashlib.sha256(g.numpy()).hexdigest() for g in gradients))
    """
    found = set()
    for threads in (1, 2, 3, 7):
        environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "PYTHONPATH": str(Path(__file__).parents[2])}
        found.add(subprocess.run([sys.executable, "-c", textwrap.dedent(code)], cwd=Path(__file__).parent,
                                 env=environment, capture_output=True, text=True, check=True).stdout.splitlines()[-1])
    assert len(found) == 1


# ---------------------------------------------------------------- what does not go together

@pytest.mark.parametrize("changed, message", [
    (dict(bias=(1, 7)), "a bias is a number for each key"), (dict(bias=(2, 8)), "a bias is a number for each key"),
    (dict(bias=(3, 1, 8)), "a bias is a number for each key"),
    (dict(q_rows=(0, 1, 3)), "there is no row 3 in q, which has 3"),
    (dict(q_rows=(0, 1, -1)), "there is no row -1 in q, which has 3"),
    (dict(segments=[Segment((0, -2, 2))]), "there is no row -2 in k, which has 3"),
    (dict(segments=[Segment(), Segment((0, 3, 2))]), "there is no row 3 in k, which has 3"),
    (dict(q_rows=(0, 1), segments=[Segment((0, 1, 2))]), "2 rows of q cannot attend to 3 rows"),
    (dict(q_rows=(0, 1)), "2 rows of q cannot attend to 3 rows"),
    (dict(segments=[Segment(), Segment((0, 1))]), "3 rows of q cannot attend to 2 rows"),
    (dict(q_rows=(), segments=[Segment(())]), "0 rows of q"), (dict(heads=3), "3 heads do not share"),
    (dict(v=(3, 9, 16)), "attention needs q"), (dict(k=(3, 8, 8), v=(3, 8, 8)), "attention needs q"),
    (dict(k=(3, 0, 16), v=(3, 0, 16)), "at least 1"),
    (dict(segments=[]), "at least one segment"),
    (dict(segments=[Segment((0, -1, 2))]), "row 1 of the result reads no segment"),
    (dict(segments=[Segment((0, 1, -1)), Segment((-1, 1, -1))]), "row 2 of the result reads no segment"),
    (dict(segments=[Segment(scale=(1, 2))]), "one number or one for each of 3 rows, not 2 numbers"),
    (dict(segments=[Segment(shift=(1, 2, 3, 4))]), "one number or one for each of 3 rows, not 4 numbers"),
    (dict(segments=[Segment(), Segment(scale=float("nan"))]), "a segment's scale must be a number of at most 1e"),
    (dict(segments=[Segment(), Segment(scale=(1, -2e6, 1))]), "a segment's scale must be a number of at most 1e"),
    (dict(segments=[Segment(), Segment(shift=float("-inf"))]), "a segment's shift must be a number of at most 1e"),
    (dict(segments=[Segment(), Segment()], causal=True), "causal attention goes with one segment only"),
    (dict(segments=[Segment(scale=2)], causal=True), "causal attention goes with one segment only"),
    (dict(segments=[Segment(shift=(0, 1, 0))], bias=(1, 8)), "a bias goes with one segment only"),
    (dict(segments=[Segment(), Segment()], bias=(1, 8)), "a bias goes with one segment only")], ids=str)
def test_what_does_not_go_together_is_refused(changed, message):
    """Before any core sees it: the kernels would read what is not theirs."""
    options = {"q": (3, 5, 16), "k": (3, 8, 16), "v": (3, 8, 16), "heads": 2, **changed}
    arrays = {name: jt.zeros(options.pop(name)) for name in ("q", "k", "v", "bias") if name in options}
    with pytest.raises(ValueError, match=message):
        kernels.attention(**arrays, **options)


def test_a_slower_core_is_announced_once(caplog):
    """A bias that learns has no kernel."""
    kernels.announce.cache_clear()
    (q, k, v), _, options = setting(2, 4, 5, 1, 8, dict(bias=1))
    for _ in range(2):
        kernels.attention(q, k, v, 1, **options).sync()
        kernels.attention(q, k, v, 1, options["bias"].stop_grad().clone().stop_grad()).sync()
    assert caplog.text.count("attention with a bias that learns has no kernel of its own") == 1


def test_chunks_give_the_bias_its_gradient():
    """The bias that learns: the CPU's kernel does not compute its gradient, so this is what it gets."""
    (q, k, v), weight, options = setting(2, 40, 50, 2, 16, dict(bias=1))
    results = [jt.grad((core.attention(q, k, v, 2, **options, **more) * weight).sum(), options["bias"]).numpy()
               for core, more in ((reference, {}), (chunked, dict(limit=4 * 2 * 2 * 50 * 7)), (kernels, {}))]
    assert error(results[1], results[0]) <= 2e-6 and error(results[2], results[0]) <= 2e-6


@pytest.mark.skipif(platform.machine() != "x86_64", reason="names processors of x86")
@pytest.mark.parametrize("header", ["attention_cpu.h", "norms_cpu.h"])
@pytest.mark.parametrize("processor", ["x86-64", "x86-64-v3", "sapphirerapids"],
                         ids=["no AVX", "AVX2", "AVX-512 and matrix tiles"])
def test_headers_compile_for_every_processor(processor, header):
    """Jittor writes what its operators need behind the last #include of a header.

    No condition on the processor may leave that out.
    """
    before, last, after = sources.source(header).rpartition("#include")
    include, _, rest = after.partition("\n")
    made = f"""
        template void styleblend::attention_forward<64>(const styleblend::Problem&, const float*, const float*,
                                                        const float*, float*, float*);
    """ if header == "attention_cpu.h" else ""
    text = (f"#include <cmath>\n#include <cstring>\n{before}{last}{include}\n#define from_jittor int\n{rest}\n{made}\n"
            "from_jittor main() { return 0; }\n")
    command = ["g++", "-std=c++14", "-fopenmp", "-Ofast", f"-march={processor}", "-Wno-psabi", "-x", "c++", "-",
               "-S", "-o", "/dev/null"]
    result = subprocess.run(command, input=text, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr[-2000:]


MEASURE = """
import re
import numpy as np
from styleblend.kernels import chunked
from styleblend.machine.runtime import jt
q, k, v = (jt.array(np.random.default_rng(i).standard_normal((1, 3072, 4 * 16)).astype(np.float32)) for i in range(3))
small = [x[:, :64] for x in (q, k, v)]
# its own: ru_maxrss begins with the parent's
status = lambda: int(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1])
jt.sync(jt.grad(chunked.attention(*small, 4, limit=2 ** 14).sum(), small))  # what compiling takes does not count
before = status()
jt.sync(jt.grad(chunked.attention(q, k, v, 4, limit=LIMIT).sum(), [q, k, v]))
jt.sync_all(True)
print((status() - before) / 1024)
"""


def test_chunks_never_hold_all_scores():
    """3,072 x 3,072 scores of 4 heads are 144 MiB, and a gradient needs them three times.

    In chunks of 4 MiB all of it stays far below.
    """
    small, whole = (float(subprocess.run([sys.executable, "-c", MEASURE.replace("LIMIT", limit)],
                                         cwd=Path(__file__).parents[2], capture_output=True, text=True,
                                         check=True).stdout.split()[-1]) for limit in ("2 ** 22", "2 ** 30"))
    assert small < 100 and whole > 144, (small, whole)


def test_scores_of_any_size():
    """Scores of +-1000: no overflow, and the weight goes to the largest."""
    q, k = (jt.array(np.array([[[x] * 4]], np.float32).repeat(3, 1)) for x in (50.0, 1.0))
    k = k * jt.array(np.array([-5, 0, 5], np.float32).reshape(1, 3, 1))
    v = jt.array(np.arange(12, dtype=np.float32).reshape(1, 3, 4))
    np.testing.assert_allclose(cpu.attention(q, k, v, 1).numpy(),
                               np.tile(np.arange(8, 12, dtype=np.float32), (1, 3, 1)))
    np.testing.assert_allclose(cpu.attention(q * -1e3, k, v, 1).numpy(),
                               np.tile(np.arange(4, dtype=np.float32), (1, 3, 1)))
    # 72 tokens of 64: with matrix tiles, where the CPU has any
    q, k, v = (jt.concat([jt.concat([x] * 24, 1)] * 16, 2) for x in (q, k, v))
    np.testing.assert_allclose(cpu.attention(q, k, v, 1).numpy(),
                               np.tile(np.arange(8, 12, dtype=np.float32), (1, 72, 16)))


def test_rows_do_not_depend_on_each_other():
    """Bit for bit: a row alone, in a batch, or shared by a swap."""
    (q, k, v), _, _ = setting(4, 200, 90, 2, 64, {})
    together = cpu.attention(q, k, v, 2).numpy()
    for row in range(4):
        assert np.array_equal(cpu.attention(q[row:row + 1], k[row:row + 1], v[row:row + 1], 2).numpy()[0],
                              together[row])
    swapped = cpu.attention(q, k, v, 2, q_rows=(1, 1, 2, 3), segments=[Segment((1, 1, 2, 3))]).numpy()
    assert np.array_equal(swapped, together[[1, 1, 2, 3]])
