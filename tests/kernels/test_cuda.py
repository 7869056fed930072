"""On a GPU: its kernels against plain Jittor operators.

The first thing to run on a card that is new to the project.
"""
import numpy as np
import pytest

from styleblend import kernels
from styleblend.kernels import chunked, cuda, reference
from styleblend.kernels.segments import Segment
from styleblend.machine.runtime import jt
from test_kernels import CASES, error, setting
from test_norms import LARGE, NORMS, found_by, numbers

pytestmark = pytest.mark.skipif(not jt.has_cuda, reason="Jittor has no GPU here")
ALLOWED = {"float32": 1e-5, "float16": 5e-3, "bfloat16": 1e-2}


def compare(dtype, case, allowed):
    """Result and gradients, relative L2: the plain operators get the same numbers in float32."""
    inputs, weight, options = setting(*case)
    narrow = [x.cast(dtype) for x in inputs]
    results = []
    for core, given in ((cuda, narrow), (reference, [x.float32() for x in narrow])):
        out = core.attention(*given, case[3], **options)
        found = [out] + jt.grad((out.float32() * weight).sum(), given)
        results.append([x.float32().numpy() for x in found])
    for name, ours, theirs in zip(("out", "dq", "dk", "dv"), *results):
        assert np.isfinite(ours).all() and error(ours, theirs) <= allowed, (name, error(ours, theirs))


@pytest.mark.parametrize("dtype", ALLOWED)
@pytest.mark.parametrize("case", [c for c in CASES if c[4] <= cuda.LARGEST],
                         ids=lambda c: "x".join(map(str, c[:5])) + "".join(f"-{o}" for o in c[5]))
def test_kernels_agree_with_plain_operators(dtype, case):
    if not cuda.has_kernel(dtype, case[4]):
        pytest.skip(f"compute capability {cuda.capability() / 10} has no products of {dtype}")
    compare(dtype, case, ALLOWED[dtype])


@pytest.mark.parametrize("dtype", ALLOWED)
@pytest.mark.parametrize("name", [*NORMS, *LARGE])
def test_norms_agree_with_plain_operators(dtype, name):
    """Result and gradient; the plain operators get the same numbers in float32."""
    x = numbers(name).cast(dtype)
    for ours, theirs in zip(found_by(cuda, name, x), found_by(reference, name, x.float32())):
        assert np.isfinite(ours).all() and error(ours, theirs) <= ALLOWED[dtype]


def test_rough_products_are_as_rough_as_they_say():
    """With Jittor's use_tensorcore float32 is multiplied as TF32: three digits."""
    with jt.flag_scope(use_tensorcore=1):
        assert cuda.precision("float32") == ("TF32" if cuda.capability() >= 80 else "FMA")
        (q, k, v), _, _ = setting(2, 256, 256, 1, 64, {})
        ours = cuda.attention(q, k, v, 1).numpy()
    assert error(ours, reference.attention(q, k, v, 1).numpy()) <= 5e-3


def test_the_same_numbers_every_time():
    """Bit for bit, gradients of rows that a swap reads several times too.

    Nothing is added in the order in which threads happen to come.
    """
    (q, k, v), weight, options = setting(4, 130, 200, 2, 64,
                                         dict(q_rows=(0, 0, 2, 2), segments=[Segment((1, 1, 3, 3))]))
    runs = [[g.numpy() for g in jt.grad((cuda.attention(q, k, v, 2, **options) * weight).sum(), [q, k, v])]
            for _ in range(3)]
    assert all(np.array_equal(a, b) for run in runs[1:] for a, b in zip(run, runs[0]))


def test_what_has_no_kernel_goes_the_plain_way():
    """The VAE's one head of 512, and a bias that learns."""
    (q, k, v), _, _ = setting(1, 70, 3, 1, 512, {})
    bias = jt.array(np.ones((1, 3), np.float32))
    assert kernels.attention_core(q, 1, None) is chunked and kernels.attention_core(q, 8, bias) is chunked
    assert kernels.attention_core(q, 8, None) is cuda and kernels.attention_core(q, 8, bias.stop_grad()) is cuda
    assert error(kernels.attention(q, k, v, 1).numpy(), reference.attention(q, k, v, 1).numpy()) <= 1e-5


def test_no_scores_in_memory():
    """65,536 queries and keys of 4 heads in float16: their scores alone would be 32 GiB.

    Some queries are compared with the plain operators.
    """
    q, k, v = (jt.array(np.random.default_rng(i).standard_normal((1, 65536, 256)).astype(np.float16)) for i in range(3))
    out = cuda.attention(q, k, v, 4)
    gradients = jt.grad(out.float32().sum(), [q, k, v])
    assert all(np.isfinite(g.numpy()).all() for g in gradients)
    expected = reference.attention(q[:, 1000:1100].float32(), k.float32(), v.float32(), 4)
    assert error(out[:, 1000:1100].float32().numpy(), expected.numpy()) <= 5e-3
