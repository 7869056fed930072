"""Norms and the gated GELU against plain Jittor operators."""
import numpy as np
import pytest

from styleblend import kernels
from styleblend.kernels import cpu, reference
from styleblend.machine.runtime import jt
from test_kernels import error


def frozen(array):
    return jt.array(array.astype(np.float32)).stop_grad()


NORMS = {  # the input's shape, then the kernel of an input
    "group norm": ((2, 64, 16, 16), lambda core, x, w, b: core.group_norm(x, w(64), b(64), 16, 1e-5)),
    "group norm, SiLU": ((2, 64, 16, 16), lambda core, x, w, b: core.group_norm(x, w(64), b(64), 16, 1e-5, silu=True)),
    "group norm, odd sizes": ((3, 6, 5, 3), lambda core, x, w, b: core.group_norm(x, w(6), b(6), 2, 1e-6, silu=True)),
    "group norm, many pixels": ((2, 8, 60, 60),
                                lambda core, x, w, b: core.group_norm(x, w(8), b(8), 2, 1e-5, silu=True)),
    "group norm, one pixel": ((1, 32, 1, 1), lambda core, x, w, b: core.group_norm(x, w(32), b(32), 4, 1e-5)),
    "layer norm": ((4, 77, 128), lambda core, x, w, b: core.layer_norm(x, w(128), b(128), 1e-5)),
    "layer norm, wide": ((3, 5, 1280), lambda core, x, w, b: core.layer_norm(x, w(1280), b(1280), 1e-5)),
    "layer norm, odd size": ((5, 13), lambda core, x, w, b: core.layer_norm(x, w(13), b(13), 1e-5)),
    "geglu": ((2, 9, 512), lambda core, x, w, b: core.geglu(x)),
    "geglu, odd size": ((7, 10), lambda core, x, w, b: core.geglu(x)),
}


LARGE = {  # for a card: as in Stable Diffusion 2.1's UNet and decoder
    "group norm, UNet": ((2, 320, 96, 96),
                         lambda core, x, w, b: core.group_norm(x, w(320), b(320), 32, 1e-5, silu=True)),
    "group norm, decoder": ((1, 128, 512, 512), lambda core, x, w, b: core.group_norm(x, w(128), b(128), 32, 1e-6)),
    "layer norm, UNet": ((2, 9216, 320), lambda core, x, w, b: core.layer_norm(x, w(320), b(320), 1e-5)),
    "geglu, UNet": ((2, 4096, 2560), lambda core, x, w, b: core.geglu(x)),
}


def found_by(core, name: str, x) -> list:
    """Result and gradient of x by the kernels of a module."""
    weight, bias = (lambda n: frozen(1 + 0.3 * np.sin(np.arange(n)))), (lambda n: frozen(np.cos(np.arange(n))))
    out = {**NORMS, **LARGE}[name][1](core, x, weight, bias).float32()
    direction = jt.array(np.random.default_rng(4).standard_normal(out.shape).astype(np.float32))
    return [out.numpy(), jt.grad((out * direction).sum(), x).float32().numpy()]


def numbers(name: str, scale: float = 1, level: float = 0):
    """The input of a case of NORMS or LARGE."""
    shape, _ = {**NORMS, **LARGE}[name]
    return jt.array((np.random.default_rng(3).standard_normal(shape) * scale + level).astype(np.float32))


@pytest.mark.parametrize("scale, level", [(1, 0), (30, 0), (1, 1000)], ids=["normal", "large", "far from zero"])
@pytest.mark.parametrize("name", NORMS)
def test_norms_agree_with_plain_operators(name, scale, level):
    """Result and gradient. Far from zero a variance by E[x^2] - E[x]^2 would have no digit left."""
    x = numbers(name, scale, level)
    for ours, theirs in zip(*(found_by(core, name, x) for core in (cpu, reference))):
        assert np.isfinite(ours).all()
        # 1000 + noise: its own rounding is 6e-5 of the deviation
        assert error(ours, theirs) <= (1e-5 if not level else 2e-3)


@pytest.mark.parametrize("call, message", [
    (lambda x, w: kernels.group_norm(x, w(6), w(6), 4, 1e-5), "4 groups do not share 6 channels"),
    (lambda x, w: kernels.group_norm(x, w(5), w(6), 2, 1e-5), "a weight for each of 6 channels"),
    (lambda x, w: kernels.layer_norm(x, w(3), w(2), 1e-5), "a weight for each of 3 channels")])
def test_a_norm_whose_sizes_do_not_fit_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call(jt.zeros((2, 6, 5, 3)), lambda n: frozen(np.ones(n)))


def test_a_norm_that_learns_takes_the_plain_path():
    """The CPU's kernels compute no gradient of the weight: a base is frozen.

    One that is not gets its gradient all the same.
    """
    x, weight, bias = (jt.array(np.arange(8, dtype=np.float32).reshape(1, 4, 2, 1)), jt.array(np.ones(4, np.float32)),
                       jt.array(np.zeros(4, np.float32)))
    gradient = jt.grad((kernels.group_norm(x, weight, bias, 2, 1e-5) * x).sum(), weight)
    assert np.abs(gradient.numpy()).max() > 0.1
