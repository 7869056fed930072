"""The norms of a GPU, which has no kernels for them, compile a few small operators, however deep the network is."""
from __future__ import annotations

import numpy as np
import pytest

from reference import seeded
from styleblend import kernels
from styleblend.adapters import lora
from styleblend.base.base import load_base
from styleblend.kernels import norms, reference
from styleblend.machine.precision import cast
from styleblend.machine.runtime import jt
from styleblend.models.attention import AttentionContext
from styleblend.models.rows import Rows


def test_a_checkpointed_training_needs_few_operators(tiny_folder, monkeypatch):
    """With gradients as Jittor derives them it computes operators of hundreds, and compiles for an hour."""
    monkeypatch.setattr(kernels, "best", lambda x, *frozen: norms)
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


@pytest.mark.parametrize("dtype, near", [("float16", 2e-3), ("bfloat16", 2e-2)])
def test_half_types(dtype, near):
    """Computed in float32: off by the rounding of the result alone."""
    x = np.random.default_rng(1).standard_normal((2, 8, 6, 6)).astype(np.float32)
    weight, bias = (jt.array(np.linspace(0.5, 1, 8).astype(np.float32)).stop_grad() for _ in range(2))
    half = cast(jt.array(x), dtype)
    found = norms.group_norm(half, weight, bias, 4, 1e-5, silu=True)
    assert found.dtype == dtype and jt.grad(cast(found, "float32").sum(), half).dtype == dtype
    expected = reference.group_norm(cast(half, "float32"), weight, bias, 4, 1e-5, silu=True).numpy()
    assert np.abs(cast(found, "float32").numpy() - expected).max() <= near * np.abs(expected).max()
