"""Statistics that rows take from other rows: pooled group norms and AdaIN, against float64."""
import numpy as np
import pytest

from reference import seeded
from styleblend import kernels
from styleblend.kernels import cpu, reference
from styleblend.machine.runtime import jt

ROWS, CHANNELS, GROUPS, EPS = 4, 12, 3, 1e-5


def shares():
    """(rows, rows): the first row keeps to itself, the others take from several."""
    found = np.abs(seeded.values("shares", (ROWS, ROWS)))
    found[0] = np.eye(ROWS)[0]
    return (found / found.sum(1, keepdims=True)).astype(np.float32)


def pooled_by_hand(x, weight, bias, pooling, silu):
    x = x.astype(np.float64)
    groups = x.reshape(ROWS, GROUPS, -1)
    mean = pooling @ groups.mean(-1)
    square = pooling @ (groups ** 2).mean(-1)
    deviation = np.sqrt(square - mean ** 2 + EPS)
    y = ((groups - mean[..., None]) / deviation[..., None]).reshape(x.shape)
    y = y * weight.reshape(1, -1, 1, 1) + bias.reshape(1, -1, 1, 1)
    return y / (1 + np.exp(-y)) if silu else y


@pytest.mark.parametrize("silu", [False, True])
@pytest.mark.parametrize("size", [(6, 5), (16, 16), (1, 3)], ids=str)
@pytest.mark.parametrize("core", [cpu, reference], ids=["cpu", "plain"])
def test_pooled_group_norm(core, size, silu):
    x = seeded.values("pooled", (ROWS, CHANNELS, *size)) + np.arange(ROWS, dtype=np.float32).reshape(-1, 1, 1, 1)
    weight, bias, pooling = seeded.values("w", (CHANNELS,)), seeded.values("b", (CHANNELS,)), shares()
    given = [jt.array(one) for one in (x, weight, bias)]
    found = core.group_norm(*given, GROUPS, EPS, silu, pooling).numpy()
    np.testing.assert_allclose(found, pooled_by_hand(x, weight, bias, pooling.astype(np.float64), silu), atol=2e-5)
    own = core.group_norm(*given, GROUPS, EPS, silu, np.eye(ROWS, dtype=np.float32)).numpy()
    np.testing.assert_allclose(own, core.group_norm(*given, GROUPS, EPS, silu).numpy(), atol=1e-6)


def test_a_pooled_norm_whose_input_learns_has_its_gradient():
    x = jt.array(seeded.values("learns", (ROWS, CHANNELS, 4, 4)))
    weight, bias = (jt.array(seeded.values(name, (CHANNELS,))).stop_grad() for name in "wb")
    gradients = [jt.grad((run(x, weight, bias, GROUPS, EPS, True, shares()) * x.stop_fuse()).sum(), x).numpy()
                 for run in (kernels.group_norm, reference.group_norm)]
    assert np.abs(gradients[0]).max() > 0.1
    np.testing.assert_allclose(*gradients, atol=1e-5)


@pytest.mark.parametrize("tokens", [2, 7, 64, 1000])
def test_adain(tokens):
    x, towards = seeded.values("adain", (ROWS, tokens, 16)) * 3 + 5, shares()
    wide = x.astype(np.float64)
    mean, deviation = wide.mean(1), np.sqrt(wide.var(1, ddof=1) + 1e-5)
    normal = (wide - mean[:, None]) / deviation[:, None]
    expected = normal * (towards @ deviation)[:, None] + (towards @ mean)[:, None]
    np.testing.assert_allclose(kernels.adain(jt.array(x), towards).numpy(), expected, atol=1e-4)


def test_adain_of_what_does_not_vary_is_finite():
    x = np.ones((ROWS, 9, 4), np.float32)
    assert np.isfinite(kernels.adain(jt.array(x), shares()).numpy()).all()
    assert np.isfinite(kernels.adain(jt.array(x[:, :1]), shares()).numpy()).all()
