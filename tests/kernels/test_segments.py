"""Attention to several segments of keys and values: against float64, and what must be so whatever the numbers."""
import os
import subprocess
import sys
import uuid
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings, strategies as st

from styleblend import kernels
from styleblend.kernels import cpu
from styleblend.kernels.segments import Segment, reading
from styleblend.machine.precision import cast, rounded
from styleblend.machine.runtime import jt
from test_kernels import CORES, error, exact_gradients

ROOT = Path(__file__).parents[2]
LN2 = float(np.log(2))


def numbers(seed, *shapes):
    rng = np.random.default_rng(seed)
    return [rng.standard_normal(shape).astype(np.float32) for shape in shapes]


def results(core, arrays, direction, heads, dtype="float32", **options):
    """The result and the gradients of q, k and v, as float32 arrays."""
    inputs = [cast(jt.array(x), dtype) for x in arrays]
    out = core.attention(*inputs, heads, **options)
    found = [out] + jt.grad((out.float32() * jt.array(direction)).sum(), inputs)
    return [x.float32().numpy() for x in found]


# ---------------------------------------------------------------- against float64

def check(core, more, problem, dtype="float32", allowed=1e-5):
    """Result and gradients, relative L2. A gradient of which its terms leave little may be off by their rounding, one
    of which they leave nothing (one key has all the weight, whatever its score) by that of what it is made from.
    """
    (of_q, of_kv, count), (queries, keys), heads, size, options, seed = problem
    width = heads * size
    shapes = ((of_q, queries, width), (of_kv, keys, width), (of_kv, keys, width), (count, queries, width))
    *arrays, direction = (rounded(x, dtype).astype(np.float32) for x in numbers(seed, *shapes))
    exact, terms = exact_gradients(*arrays, direction, heads, None, causal=False, **options)
    found = results(core, arrays, direction, heads, dtype, **options, **more)
    for name, ours, theirs, size_of_terms in zip(("out", "dq", "dk", "dv"), found, exact, terms):
        off, size_of = np.linalg.norm(ours - theirs), np.linalg.norm(theirs)
        limit = allowed * (size_of if size_of > 1e-9 else np.linalg.norm(direction)) + 2.0 ** -22 * size_of_terms
        assert np.isfinite(ours).all() and off <= limit, (name, off, limit)


#         rows of q, of k and v, and of the result; queries and keys; heads, size; options; seed
PROBLEMS = {
    "shared": ((3, 3, 3), (70, 70), 2, 16, dict(q_rows=None, segments=[
        Segment(), Segment((-1, 0, 0), (1, 0.7, 1.4), (0, 0, LN2))], scale=None), 1),
    "alike but for scale or shift": ((2, 3, 4), (9, 150), 1, 16, dict(q_rows=(1, 1, 1, 1), segments=[
        Segment((2, 2, 2, 2)), Segment((0, 0, 0, 0), (1, 1, -2, 1), (0, 0.5, 0, 0)),
        Segment((1, 1, 1, -1))], scale=0.3), 2),
    "in any order": ((2, 2, 3), (130, 40), 1, 16, dict(q_rows=(1, 0, 0), segments=[
        Segment((-1, 1, -1), 0), Segment((0, -1, 1), 1, -2000), Segment((0, 0, 1), 30, 1e4)], scale=None), 3),
}


@pytest.mark.parametrize("name", PROBLEMS)
@pytest.mark.parametrize("core", CORES)
def test_cores_agree_with_float64(core, name):
    check(*CORES[core], PROBLEMS[name])


@pytest.mark.parametrize("dtype, allowed", [("float16", 5e-3), ("bfloat16", 1e-2)])
@pytest.mark.parametrize("core", ["vectors", "chunked"])
def test_half_precision(core, dtype, allowed):
    check(*CORES[core], PROBLEMS["shared"], dtype, allowed)


@st.composite
def problems(draw):
    """Up to four segments, each with rows of its own, of which some are not read; scales and shifts of any sign."""
    of_q, of_kv, count = (draw(st.integers(1, 3)) for _ in range(3))
    queries, keys, heads = draw(st.integers(1, 300)), draw(st.integers(1, 1200)), draw(st.integers(1, 2))
    size = draw(st.sampled_from((64, 17, 8)))
    q_rows = tuple(draw(st.integers(0, of_q - 1)) for _ in range(count))
    segments = []
    for _ in range(draw(st.integers(1, 4))):
        rows = tuple(draw(st.integers(-1, of_kv - 1)) for _ in range(count))
        scale, shift = (draw(st.one_of(one, st.tuples(*[one] * count))) for one in (
            st.sampled_from((1.0, 0.5, -1.5, 0.0, 10.0)), st.sampled_from((0.0, 1.5, -3.0, -1e4, LN2))))
        segments.append(Segment(rows, scale, shift))
    read = [any(segment.rows[row] >= 0 for segment in segments) for row in range(count)]
    if not all(read):
        segments.append(Segment(tuple(-1 if there else 0 for there in read)))
    options = dict(q_rows=q_rows, segments=segments, scale=draw(st.sampled_from((None, 0.3))))
    return (of_q, of_kv, count), (queries, keys), heads, size, options, draw(st.integers(0, 2 ** 32 - 1))


@settings(max_examples=60, derandomize=True, deadline=None, database=None, suppress_health_check=list(HealthCheck))
@given(problem=problems())
@example(problem=((1, 2, 2), (70, 1500), 1, 64, dict(q_rows=(0, 0), segments=[
    Segment((0, 1)), Segment((1, -1), 2, -1), Segment((1, 1), -1)], scale=None), 5))  # more keys than a thread takes
def test_any_segments_against_float64(problem):
    """The CPU's kernels, with and without matrix tiles."""
    for core in ("vectors", "tiles"):
        check(*CORES[core], problem)


@pytest.mark.slow
@pytest.mark.parametrize("core", ["plain", "chunked"])
@settings(max_examples=60, derandomize=True, deadline=None, database=None, suppress_health_check=list(HealthCheck))
@given(problem=problems())
def test_any_segments_in_plain_operators(core, problem):
    """Their sums over keys are coarser."""
    check(*CORES[core], problem, allowed=5e-5)


# ---------------------------------------------------------------- whatever the numbers

@pytest.fixture(scope="module")
def shared():
    """q, k, v and a direction: a reference in row 0, two rows beside it; and what plain attention gives, by core."""
    *arrays, direction = numbers(7, *[(3, 96, 32)] * 4)
    plain = {name: results(core, arrays, direction, 2, **more) for name, (core, more) in CORES.items()}
    return arrays, direction, plain


def close(found, expected, allowed=3e-6):
    return all(error(ours, theirs) <= allowed for ours, theirs in zip(found, expected))


@pytest.mark.parametrize("core", CORES)
def test_what_is_read_twice_counts_once(core, shared):
    """A row's own keys and values in two segments, whatever the shift: the softmax of the same scores."""
    (arrays, direction, plain), (attend, more) = shared, CORES[core]
    for shift in (0, LN2, -7, (3, 0, -1e30)):
        found = results(attend, arrays, direction, 2, segments=[Segment(), Segment(shift=shift)], **more)
        assert close(found, plain[core])


@pytest.mark.parametrize("core", CORES)
def test_a_far_shift_takes_a_segment_away(core, shared):
    """And ln 2 counts it twice."""
    (arrays, direction, plain), (attend, more) = shared, CORES[core]
    run = lambda *segments: results(attend, arrays, direction, 2, segments=[Segment(), *segments], **more)
    assert close(run(Segment((0, 0, 0), shift=(0, -1e30, -300))), plain[core])
    one, two = Segment((-1, 0, 0)), Segment((-1, 0, 0), shift=LN2)
    assert close(run(two), run(one, one)) and not close(run(two), run(one), 1e-2)


@pytest.mark.parametrize("core", CORES)
def test_sharing_leaves_the_reference_as_it_is(core, shared):
    """Bit for bit where its row does not read the second segment; but for rounding where it reads itself twice."""
    (arrays, direction, plain), (attend, more) = shared, CORES[core]
    apart, twice = (results(attend, arrays, direction, 2, segments=[Segment(), Segment(rows, (1, 0.6, 0.6), 0.4)],
                            **more)[0] for rows in ((-1, 0, 0), (0, 0, 0)))
    assert attend is not cpu or np.array_equal(apart[0], plain[core][0][0])
    assert close([apart[0], twice[0]], [plain[core][0][0]] * 2) and close([apart[1:]], [twice[1:]])
    assert not close([apart[1:]], [plain[core][0][1:]], 1e-2)


def test_a_shift_of_all_that_is_read_does_nothing(shared):
    """Bit for bit, so large shifts cost no digits."""
    arrays, direction, plain = shared
    for shift in (1e30, -1e30, (5, 0, -123.4)):
        found = results(cpu, arrays, direction, 2, segments=[Segment(shift=shift)])
        assert all(np.array_equal(ours, theirs) for ours, theirs in zip(found, plain["tiles"]))


@pytest.mark.parametrize("core", CORES)
def test_what_no_row_reads_does_not_matter(core, shared):
    """NaN in its keys and values, and in the keys of a row that is hidden from some: their results are clean."""
    (arrays, direction, _), (attend, more) = shared, CORES[core]
    poisoned = [arrays[0], *(np.concatenate([x, np.full((1, *x.shape[1:]), np.nan, np.float32)]) for x in arrays[1:])]
    segments = [Segment((0, 1, 2)), Segment((-1, 0, -1), 0.5), Segment((1, -1, -1), 1, 2)]
    clean, found = (results(attend, x, direction, 2, segments=segments, **more) for x in (arrays, poisoned))
    assert all(np.array_equal(ours[:3], theirs) for ours, theirs in zip(found, clean))
    assert not any(x[3].any() for x in found[2:])
    arrays = [arrays[0], *(x.copy() for x in arrays[1:])]
    for x in arrays[1:]:
        x[2] = np.nan
    out = attend.attention(*map(jt.array, arrays), 2, segments=segments, **more).numpy()
    assert np.isfinite(out[:2]).all() and np.isnan(out[2]).all()


# ---------------------------------------------------------------- what it costs

class Counted(cpu.Attention):
    """The CPU's operator, as text that no earlier run has compiled."""

    mark = uuid.uuid4().hex
    forward = f'(void)"{mark}";' + cpu.FORWARD


def test_one_kernel_for_any_segments(monkeypatch, shared):
    """Neither their number nor a scale or shift is compiled in: these change between the steps of a drawing."""
    arrays, *_ = shared
    monkeypatch.setattr(cpu, "Attention", Counted)
    folder = Path(jt.compiler.cache_path) / "jit"
    before = set(folder.iterdir())
    for segments in (None, [Segment(scale=0.5)], [Segment(), Segment((0, 0, 0), 1, 2)], [Segment()] * 3):
        kernels.attention(*map(jt.array, arrays), 2, segments=segments).sync()
    ours = [path for path in set(folder.glob("*.cc")) - before if Counted.mark in path.read_text(errors="ignore")]
    for path in [path for one in ours for path in folder.glob(f"{one.stem}.*")]:
        path.unlink()  # of no use to anybody else
    assert len(ours) == 1


MEASURE = """
import re
import numpy as np
from styleblend.kernels import chunked, cpu
from styleblend.kernels.segments import Segment
from styleblend.machine.runtime import jt
q, k, v = (jt.array(np.random.default_rng(i).standard_normal((2, 4096, 64)).astype(np.float32)) for i in range(3))
small = [x[:, :64] for x in (q, k, v)]
segments = [Segment(), Segment((-1, 0), 0.9, 0.5)]
status = lambda: int(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1])
jt.sync(jt.grad(CORE.attention(*small, 1, segments=segments).sum(), small))  # what compiling takes does not count
before = status()
jt.sync(jt.grad(CORE.attention(q, k, v, 1, segments=segmentsMORE).sum(), [q, k, v]))
jt.sync_all(True)
print((status() - before) / 1024)
"""


@pytest.mark.parametrize("core, more, most", [
    ("cpu", "", 40), pytest.param("chunked", ", limit=2 ** 22", 80, marks=pytest.mark.slow)])
def test_two_segments_hold_no_scores(core, more, most):
    """4,096 queries and 8,192 keys of two rows: scores alone are 256 MiB; q, k, v, result and gradients are 16 MiB."""
    run = subprocess.run([sys.executable, "-c", MEASURE.replace("CORE", core).replace("MORE", more)], cwd=ROOT,
                         env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, check=True)
    used = float(run.stdout.split()[-1])
    assert used < most, used


# ---------------------------------------------------------------- the numbers themselves

def test_a_segment_is_the_same_from_lists_and_arrays():
    assert Segment([0, 1], np.array([1, 2]), np.float32(3)) == Segment((0, 1), (1.0, 2.0), 3.0)
    assert len({Segment([0]), Segment((np.int64(0),))}) == 1
    with pytest.raises(TypeError):
        Segment((0.5,))


def test_what_is_written_out_for_the_kernels():
    """-1 where a row reads nothing, the largest shift of a row is 0, and the arrays are nobody's to change."""
    read = reading(3, 4, None, [Segment((3, 2, -1), 2, (5, 1, 9)), Segment((-1, 0, 1), (1, 3, 4), 2)])
    assert read.q_rows.tolist() == [0, 1, 2] and read.kv_rows.tolist() == [[3, 2, -1], [-1, 0, 1]]
    assert read.factors.tolist() == [[[2, 2, 1], [1, 3, 4]], [[0, -1, 0], [0, 0, 0]]] and not read.plain
    assert reading(3, 3, None, None).plain and reading(3, 3, None, [Segment(scale=(1, 1, 1))]).plain
    with pytest.raises(ValueError):
        read.factors[0, 0, 0] = 1
