"""The kernels against plain Jittor operators: results, gradients, and what a swap saves."""
import platform
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from styleblend import kernels
from styleblend.kernels import chunked, cpu, headers, reference
from styleblend.runtime import jt

#         rows, queries, keys, heads, size, options
CASES = [(2, 256, 256, 1, 64, {}),                                               # the mini base's first sites
         (4, 64, 77, 2, 64, {}),                                                 # cross-attention
         (2, 77, 77, 4, 32, dict(causal=True)),                                  # the text encoder
         (4, 130, 200, 2, 64, dict(q_rows=(0, 0, 2, 2), kv_rows=(1, 1, 3, 3))),  # both swaps: two pairs of equal rows
         (3, 150, 10, 1, 16, dict(kv_rows=(2, 2, 0))),                           # a row whose k and v nobody reads
         (1, 9, 300, 1, 8, dict(scale=0.3)),
         (3, 5, 7, 3, 20, {}), (2, 40, 50, 2, 17, dict(bias=1)), (2, 40, 50, 2, 80, dict(bias=2)), (1, 70, 3, 1, 512, {})]  # nothing is a multiple


def setting(rows, queries, keys, heads, size, options):
    rng = np.random.default_rng(queries)
    q, k, v, weight = (jt.array(rng.standard_normal((rows, n, heads * size)).astype(np.float32)) for n in (queries, keys, keys, queries))
    options = dict(options)
    if "bias" in options:
        options["bias"] = jt.array(rng.standard_normal((options["bias"], keys)).astype(np.float32) * 3)
    return (q, k, v), weight, options


def error(ours, theirs):
    return np.linalg.norm(ours - theirs) / max(np.linalg.norm(theirs), 1e-6)


@pytest.mark.parametrize("case", CASES, ids=lambda c: "x".join(map(str, c[:5])) + "".join(f"-{o}" for o in c[5]))
def test_core_agrees_with_plain_operators(case):
    """Result and gradients within 2e-6 relative L2, with the CPU's matrix tiles, where it has any, within 6e-6; q, k and v that a swap
    overwrites get no gradient. Chunked: ten queries or so at a time.
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


def test_chunks_give_the_bias_its_gradient():
    """The bias that learns: the CPU's kernel does not compute its gradient, so this is what it gets."""
    (q, k, v), weight, options = setting(2, 40, 50, 2, 16, dict(bias=1))
    results = [jt.grad((core.attention(q, k, v, 2, **options, **more) * weight).sum(), options["bias"]).numpy()
               for core, more in ((reference, {}), (chunked, dict(limit=4 * 2 * 2 * 50 * 7)), (kernels, {}))]
    assert error(results[1], results[0]) <= 2e-6 and error(results[2], results[0]) <= 2e-6


@pytest.mark.skipif(platform.machine() != "x86_64", reason="names processors of x86")
@pytest.mark.parametrize("header", ["attention_cpu.h", "norms_cpu.h"])
@pytest.mark.parametrize("processor", ["x86-64", "x86-64-v3", "sapphirerapids"], ids=["no AVX", "AVX2", "AVX-512 and matrix tiles"])
def test_headers_compile_for_every_processor(processor, header):
    """Jittor writes what its operators need behind the last #include of a header: no condition on the processor may leave that out."""
    before, last, after = headers.source(header).rpartition("#include")
    include, _, rest = after.partition("\n")
    made = f"""
        template void styleblend::attention_forward<64>(const styleblend::Problem&, const float*, const float*, const float*, float*, float*);
    """ if header == "attention_cpu.h" else ""
    text = f"#include <cmath>\n#include <cstring>\n{before}{last}{include}\n#define from_jittor int\n{rest}\n{made}\nfrom_jittor main() {{ return 0; }}\n"
    command = ["g++", "-std=c++14", "-fopenmp", "-Ofast", f"-march={processor}", "-Wno-psabi", "-x", "c++", "-", "-S", "-o", "/dev/null"]
    result = subprocess.run(command, input=text, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr[-2000:]


MEASURE = """
import resource, sys
import numpy as np
from styleblend.kernels import chunked
from styleblend.runtime import jt
q, k, v = (jt.array(np.random.default_rng(i).standard_normal((1, 3072, 4 * 16)).astype(np.float32)) for i in range(3))
small = [x[:, :64] for x in (q, k, v)]
jt.sync(jt.grad(chunked.attention(*small, 4, limit=2 ** 14).sum(), small))  # what compiling takes does not count
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
jt.sync(jt.grad(chunked.attention(q, k, v, 4, limit=2 ** 22).sum(), [q, k, v]))
jt.sync_all(True)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)
"""


def test_chunks_never_hold_all_scores():
    """3,072 x 3,072 scores of 4 heads are 144 MiB, and a gradient needs them three times; in chunks of 4 MiB all of it stays far below."""
    result = subprocess.run([sys.executable, "-c", MEASURE], cwd=Path(__file__).parents[1], capture_output=True, text=True, check=True)
    assert float(result.stdout.split()[-1]) < 100


def test_scores_of_any_size():
    """Scores of +-1000: no overflow, and the weight goes to the largest."""
    q, k = (jt.array(np.array([[[x] * 4]], np.float32).repeat(3, 1)) for x in (50.0, 1.0))
    k = k * jt.array(np.array([-5, 0, 5], np.float32).reshape(1, 3, 1))
    v = jt.array(np.arange(12, dtype=np.float32).reshape(1, 3, 4))
    np.testing.assert_allclose(cpu.attention(q, k, v, 1).numpy(), np.tile(np.arange(8, 12, dtype=np.float32), (1, 3, 1)))
    np.testing.assert_allclose(cpu.attention(q * -1e3, k, v, 1).numpy(), np.tile(np.arange(4, dtype=np.float32), (1, 3, 1)))
    q, k, v = (jt.concat([jt.concat([x] * 24, 1)] * 16, 2) for x in (q, k, v))  # 72 tokens of 64: with matrix tiles, where the CPU has any
    np.testing.assert_allclose(cpu.attention(q, k, v, 1).numpy(), np.tile(np.arange(8, 12, dtype=np.float32), (1, 72, 16)))


def test_rows_do_not_depend_on_each_other():
    """Bit for bit: a row alone, in a batch, or shared by a swap."""
    (q, k, v), _, _ = setting(4, 200, 90, 2, 64, {})
    together = cpu.attention(q, k, v, 2).numpy()
    for row in range(4):
        assert np.array_equal(cpu.attention(q[row:row + 1], k[row:row + 1], v[row:row + 1], 2).numpy()[0], together[row])
    swapped = cpu.attention(q, k, v, 2, q_rows=(1, 1, 2, 3), kv_rows=(1, 1, 2, 3)).numpy()
    assert np.array_equal(swapped, together[[1, 1, 2, 3]])


# ---------------------------------------------------------------- norms and the gated GELU

def frozen(array):
    return jt.array(array.astype(np.float32)).stop_grad()


NORMS = {  # the input's shape, then the kernel of an input
    "group norm": ((2, 64, 16, 16), lambda core, x, w, b: core.group_norm(x, w(64), b(64), 16, 1e-5)),
    "group norm, SiLU": ((2, 64, 16, 16), lambda core, x, w, b: core.group_norm(x, w(64), b(64), 16, 1e-5, silu=True)),
    "group norm, odd sizes": ((3, 6, 5, 3), lambda core, x, w, b: core.group_norm(x, w(6), b(6), 2, 1e-6, silu=True)),
    "group norm, one pixel": ((1, 32, 1, 1), lambda core, x, w, b: core.group_norm(x, w(32), b(32), 4, 1e-5)),
    "layer norm": ((4, 77, 128), lambda core, x, w, b: core.layer_norm(x, w(128), b(128), 1e-5)),
    "layer norm, odd size": ((5, 13), lambda core, x, w, b: core.layer_norm(x, w(13), b(13), 1e-5)),
    "geglu": ((2, 9, 512), lambda core, x, w, b: core.geglu(x)),
    "geglu, odd size": ((7, 10), lambda core, x, w, b: core.geglu(x)),
}


@pytest.mark.parametrize("scale, level", [(1, 0), (30, 0), (1, 1000)], ids=["normal", "large", "far from zero"])
@pytest.mark.parametrize("name", NORMS)
def test_norms_agree_with_plain_operators(name, scale, level):
    """Result and gradient. Far from zero a variance by E[x^2] - E[x]^2 would have no digit left."""
    shape, run = NORMS[name]
    rng = np.random.default_rng(3)
    x, numbers = jt.array((rng.standard_normal(shape) * scale + level).astype(np.float32)), rng.standard_normal(shape).astype(np.float32)
    w, b = (lambda n: frozen(1 + 0.3 * np.sin(np.arange(n)))), (lambda n: frozen(np.cos(np.arange(n))))
    results = []
    for core in (cpu, reference):
        out = run(core, x, w, b)
        direction = jt.array(np.ascontiguousarray(numbers[..., :out.shape[-1]]))
        results.append([out.numpy(), jt.grad((out * direction).sum(), x).numpy()])
    for ours, theirs in zip(*results):
        assert np.isfinite(ours).all()
        assert error(ours, theirs) <= (1e-5 if not level else 2e-3)  # 1000 + noise: its own rounding is 6e-5 of the deviation


def test_a_norm_that_learns_takes_the_plain_path():
    """The CPU's kernels compute no gradient of the weight: a base is frozen. One that is not gets its gradient all the same."""
    x, weight, bias = jt.array(np.arange(8, dtype=np.float32).reshape(1, 4, 2, 1)), jt.array(np.ones(4, np.float32)), jt.array(np.zeros(4, np.float32))
    gradient = jt.grad((kernels.group_norm(x, weight, bias, 2, 1e-5) * x).sum(), weight)
    assert np.abs(gradient.numpy()).max() > 0.1
