"""diffusers reads the mini base as it lies there, and draws the picture that we draw."""
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest

from styleblend.base import load_base
from styleblend.diffusion import seeded_noise
from styleblend.pipeline import PLAIN, StyleBlendPipeline
from styleblend.settings import SamplingSettings

ROOT = Path(__file__).parents[1]
MINI = ROOT / "checkpoints" / "mini" / "base"


@pytest.mark.full
@pytest.mark.parametrize("prompt, seed", [("A dog", 1), ("A castle in the style of noto", 2)])
def test_diffusers_draws_the_same_picture(prompt, seed, tmp_path):
    python = os.environ.get("STYLEBLEND_TORCH_PYTHON")
    if not python:
        pytest.skip("STYLEBLEND_TORCH_PYTHON does not name a Python with tests/reference/requirements.txt")
    np.save(tmp_path / "noise.npy", seeded_noise(seed, (1, 4, 16, 16)))
    clean = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    subprocess.run([python, str(ROOT / "tests" / "reference" / "draw_with_diffusers.py"), str(MINI), f"{prompt}.", str(tmp_path / "noise.npy"),
                    str(tmp_path / "out.npy")], check=True, env=clean)
    theirs = np.load(tmp_path / "out.npy")[0] * 255
    ours = StyleBlendPipeline(load_base(MINI)).generate([prompt], [seed], SamplingSettings(width=128, height=128, guidance=5.0, output=None), branches=(PLAIN,))[0]
    difference = np.abs(ours - theirs)
    print(f"{prompt}: largest difference {difference.max():.2f}/255, mean {difference.mean():.3f}/255")
    assert difference.max() <= 1
