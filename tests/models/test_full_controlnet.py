"""The ControlNet at the sizes of Stable Diffusion 2.1 against diffusers, with seeded random weights.

`pytest -m full -rP tests/models/test_full_controlnet.py` prints the errors. PyTorch needs 2 GB of memory, then we 4.
"""
from __future__ import annotations

import numpy as np
import pytest

from reference import seeded
from styleblend.base import weights
from styleblend.machine.runtime import jt
from styleblend.models.configs import ControlNetConfig
from styleblend.models.controlnet import ControlNetModel

SIZES = {"small": seeded.CONTROLNET, "full": seeded.SD21_CONTROLNET}
SD21_PARAMETERS = 364_228_240


@pytest.mark.full
@pytest.mark.parametrize("size", SIZES)
def test_full_controlnet(size, tmp_path, peer):
    out = tmp_path / "full.npz"
    peer("make_controlnet_reference.py", out, *["--small"] * (size == "small"))
    expected, network = np.load(out), ControlNetModel(ControlNetConfig(**SIZES[size]))
    own = weights.parameters(network)
    count = sum(int(np.prod(p.shape)) for p in own.values())
    assert count == expected["parameters"] and (size == "small" or count == SD21_PARAMETERS)
    for name, parameter in own.items():  # one by one: all at once would need the memory twice
        parameter.assign(jt.array(seeded.weight(f"controlnet/{name}", tuple(parameter.shape))))
        parameter.sync()
    latents, text, picture = (jt.array(array) for array in seeded.controlnet_inputs(SIZES[size]))
    with jt.no_grad():
        times = jt.array(np.array(seeded.FULL_TIMES, np.float32))
        found = network(latents, times, text, network.embedded(picture))
        found = {**{f"down/{number}": x.numpy() for number, x in enumerate(found.down)}, "mid": found.mid.numpy()}
    assert set(found) == set(expected.files) - {"parameters"} and len(found) == 13
    for name, residual in found.items():
        theirs = expected[name].astype(np.float64)
        assert residual.shape == theirs.shape
        error = np.linalg.norm(residual - theirs) / np.linalg.norm(theirs)
        print(f"{size} controlnet, {name} {residual.shape}: {error:.2e}")
        assert error <= 1e-4
