"""CLIP's image encoders at their published sizes against transformers, with seeded random weights.

They are what style encoders of Stable Diffusion are made of: ViT-L/14, as published, and the ViT-H/14 that belongs to
Stable Diffusion 2.x. `pytest -m full -rP tests/models/test_full_clip_vision.py` prints the errors; 3 GB of memory.
"""
from __future__ import annotations

import numpy as np
import pytest

from agreement import relative
from reference import seeded
from styleblend.base import weights
from styleblend.machine.runtime import jt
from styleblend.models.configs import StyleEncoderConfig
from styleblend.models.style_encoder import StyleEncoder

PARAMETERS = {"ViT-L/14": 303_179_776, "ViT-H/14": 630_766_080}


@pytest.mark.full
@pytest.mark.parametrize("size", seeded.CLIP_VISION)
def test_full_clip_vision(size, tmp_path, peer):
    out = tmp_path / "full.npz"
    peer("make_clip_vision_reference.py", out, size)
    expected = np.load(out)
    network = StyleEncoder(StyleEncoderConfig(**seeded.CLIP_VISION[size], width=4))
    own = {name: p for name, p in weights.parameters(network).items() if name.startswith("vision_model.")}
    count = sum(int(np.prod(p.shape)) for p in own.values())
    assert count == expected["parameters"] == PARAMETERS.get(size, count)
    for name, parameter in own.items():  # one by one: all at once would need the memory twice
        parameter.assign(jt.array(seeded.weight(f"clip_vision/{name}", tuple(parameter.shape))))
        parameter.sync()
    pictures = jt.array(seeded.clip_vision_pictures(seeded.CLIP_VISION[size]))
    with jt.no_grad():
        last = super(StyleEncoder, network).execute(pictures).numpy()
        pooled = network.pooled(pictures).numpy()
    errors = relative(last, expected["last"]), relative(pooled, expected["pooled"])
    print(f"{size}, {count:,} weights: last state {errors[0]:.2e}, pooled {errors[1]:.2e}")
    assert max(errors) <= 1e-4
