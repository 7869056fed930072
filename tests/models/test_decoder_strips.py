"""The decoder in strips: the whole picture, whatever the height of the strips, with less memory."""
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from drawing import pictures, request
from reference import seeded
from styleblend.models import decoder_strips as strips
from styleblend.base.base import load_base
from styleblend.pipeline import Pipeline
from styleblend.machine.runtime import jt
from styleblend.settings import SamplingSettings

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("size", [(32, 32), (16, 40)], ids=["256 px", "128 x 320 px"])
def test_strips_are_the_whole_picture(tiny_base, size):
    """Within 1e-4 of values of about -1..1, and bit for bit the same for any height of the strips.

    They see the same norms.
    """
    latent = jt.array(seeded.values("z", (1, 4, *size)))
    with jt.no_grad():
        whole = tiny_base.vae.decode(latent).numpy()
        found = [strips.decode(tiny_base.vae, latent, rows) for rows in (10, 64, 1000)]
    assert whole.std() > 0.05 and np.abs(found[0] - whole).max() <= 1e-4
    assert np.array_equal(found[0], found[1]) and np.array_equal(found[1], found[2])


def test_pictures_are_decoded_one_at_a_time(tiny_base):
    """Bit for bit what each is alone, in strips and whole."""
    latents = jt.array(seeded.values("z", (3, 4, 8, 8)))
    for strip in (0, 16):
        pipeline = Pipeline(tiny_base)
        together = pipeline.decode(latents, strip)
        assert all(np.array_equal(pipeline.decode(latents[n:n + 1], strip)[0], together[n]) for n in range(3))


def test_the_setting_is_followed(tiny_base):
    pipeline, sampling = Pipeline(tiny_base), SamplingSettings(width=64, height=64, steps=2, output=None)
    whole = pictures(pipeline, request(["A cat"], [1], sampling))
    used = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(strips, "convolved",
                      lambda *given, real=strips.convolved, **named: used.append(given[2]) or real(*given, **named))
        strip = pictures(pipeline, request(["A cat"], [1], sampling.model_copy(update={"vae_strip": 24})))
    assert set(used) == {24} and np.abs(whole.astype(int) - strip).max() <= 1


def test_a_pipeline_that_draws_once_draws_the_same(tiny_folder):
    """Bit for bit, with each network freed behind its work."""
    found, sampling = [], SamplingSettings(width=64, height=64, steps=2, output=None)
    for once in (False, True):
        pipeline = Pipeline(load_base(tiny_folder))
        found.append(pictures(pipeline, request(["A cat"], [1], sampling), once=once))
        assert [pipeline.base.unet is None, pipeline.base.text_encoder is None] == [once, once]
    assert np.array_equal(*found)


MEASURE = """
import re, sys
sys.path.insert(0, "tests")
from reference import seeded
from styleblend.models import decoder_strips as strips
from styleblend.base import weights
from styleblend.models.configs import VaeConfig
from styleblend.models.vae import AutoencoderKL
from styleblend.machine.runtime import jt
vae = AutoencoderKL(VaeConfig(**{**seeded.VAE, "block_out_channels": (64, 64, 64, 64)}))
weights.load(vae, {name: seeded.weight(name, tuple(p.shape)) for name, p in weights.parameters(vae).items()}, "here")
run = (lambda z: strips.decode(vae, z, 32)) if sys.argv[1] == "strips" else (lambda z: vae.decode(z).numpy())
status = lambda: int(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1])
with jt.no_grad():
    run(jt.array(seeded.values("z", (1, 4, 8, 8))))  # what compiling takes does not count
    before = status()
    run(jt.array(seeded.values("z", (1, 4, 64, 64))))
print((status() - before) / 1024)
"""


def test_strips_take_less_memory():
    """512 px with 64 channels everywhere: one feature map is 64 MiB."""
    whole, strip = (float(subprocess.run([sys.executable, "-c", MEASURE, way], cwd=ROOT, capture_output=True, text=True,
                                         check=True).stdout.split()[-1]) for way in ("whole", "strips"))
    assert strip < 0.75 * whole
