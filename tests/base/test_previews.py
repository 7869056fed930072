"""Previews: factors beside an autoencoder, TAESD against diffusers, and what is said where neither fits."""
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from agreement import largest, relative
from reference import seeded
from styleblend.base.base import load_base
from styleblend.base.previews import FACTORS_FILE, SD_LATENT_RGB, Previews, Taesd, read_taesd, taesd_names
from styleblend.errors import StyleBlendError
from styleblend.files.tensor_files import write_safetensors
from styleblend.machine.runtime import jt
from styleblend.pipeline import Picture, Pipeline, Progress
from styleblend.settings import read_settings

REFERENCE = Path(__file__).parents[1] / "data" / "taesd.npz"
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def weights():
    """The made-up decoder by diffusers' names."""
    lines = str(np.load(REFERENCE)["names"]).split("\n")
    shapes = {name: tuple(map(int, shape.split("x"))) for name, shape in (line.split() for line in lines)}
    return {name: seeded.weight(f"taesd/{name}", shape) for name, shape in shapes.items()}


def original_names(weights: dict) -> dict:
    """The same as the original file has them: no prefix, numbers one higher."""
    parts = {name: name.split(".", 3) for name in weights}
    return {f"{int(number) + 1}.{rest}": weights[name] for name, (_, _, number, rest) in parts.items()}


@pytest.fixture(scope="module", params=["diffusers", "original"])
def taesd_folder(request, weights, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    if request.param == "original":
        write_safetensors(folder / "taesd_decoder.safetensors", original_names(weights))
    else:  # has an encoder, too
        write_safetensors(folder / "diffusion_pytorch_model.safetensors",
                          {**weights, "encoder.layers.0.weight": np.zeros((64, 3, 3, 3), np.float32)})
    return folder


def test_taesd_decodes_as_in_diffusers(taesd_folder, report):
    decoder, expected = read_taesd(next(taesd_folder.iterdir())), np.load(REFERENCE)["pictures"]
    with jt.no_grad():
        found = decoder(jt.array(seeded.values("taesd/latents", (2, 4, 5, 7)) * np.float32(2)))
    report(f"TAESD: {relative(found, expected):.1e} of diffusers' pictures, {largest(found, expected):.1e} at most")
    assert relative(found, expected) < 1e-5


def test_the_originals_names_become_diffusers(weights):
    ours = {name[len("decoder."):] for name in weights}
    assert set(taesd_names(weights)) == set(taesd_names(original_names(weights))) == ours
    assert sum(array.size for array in weights.values()) == 1_222_531


def test_a_preview_is_a_taesds_where_there_is_one(tiny_base, taesd_folder):
    latents = jt.array(seeded.values("preview", (2, 4, 8, 8)))
    assert Previews(tiny_base, str(taesd_folder))(latents).shape == (2, 64, 64, 3)
    assert Previews(tiny_base, str(next(taesd_folder.iterdir())))(latents).shape == (2, 64, 64, 3)
    assert Previews(tiny_base)(latents).shape == (2, 8, 8, 3)


def test_large_latents_are_averaged_before_taesd(taesd_folder):
    decode = Taesd(read_taesd(next(taesd_folder.iterdir())))
    assert decode(jt.array(seeded.values("preview", (1, 4, 72, 80)))).shape == (1, 288, 320, 3)


def test_one_that_is_missing_is_said(tiny_base, tmp_path, caplog):
    assert Previews(tiny_base, str(tmp_path / "none"))(jt.zeros((1, 4, 8, 8))).shape == (1, 8, 8, 3)
    assert "there is no TAESD in" in caplog.text


@pytest.mark.parametrize("name, data, words", [
    ("taesd.safetensors", None, "tensors are missing"), ("taesd.pth", b"\x80\x02}.", "a pickle, which is never")])
def test_a_file_that_is_none_is_refused(tiny_base, tmp_path, name, data, words):
    write_safetensors(tmp_path / name, {"1.weight": np.zeros((64, 4, 3, 3), np.float32)})
    if data:
        (tmp_path / name).write_bytes(data)
    with pytest.raises(StyleBlendError, match=words):
        Previews(tiny_base, str(tmp_path / name))(jt.zeros((1, 4, 8, 8)))


@pytest.fixture
def tiny_copy(tiny_folder, tmp_path):
    """A copy of the tiny base whose autoencoder has another scale."""
    folder = tmp_path / "base"
    shutil.copytree(tiny_folder, folder)
    config = json.loads((folder / "vae" / "config.json").read_text())
    (folder / "vae" / "config.json").write_text(json.dumps({**config, "scaling_factor": 0.7}))
    return folder


def test_factors_lie_beside_the_autoencoder(tiny_copy, taesd_folder, caplog):
    """Latents of another scale are not Stable Diffusion's."""
    base, latents = load_base(tiny_copy), jt.array(seeded.values("preview", (1, 4, 8, 8)))
    assert Previews(base)(latents) is None and "no previews" in caplog.text
    with pytest.raises(StyleBlendError, match="has others"):
        Previews(base, str(taesd_folder))(latents)
    path = tiny_copy / "vae" / FACTORS_FILE
    path.write_text(json.dumps({"factors": [[1, 0, 0], [0, 1, 0], [0, 0, 1], [0, 0, 0]], "bias": [0, 0, -1]}))
    expected = np.clip(latents.numpy().transpose(0, 2, 3, 1)[..., :3] + [0, 0, -1], -1, 1) / 2 + 0.5
    assert np.abs(Previews(base)(latents) / 255 - expected).max() <= 0.51 / 255
    for broken in ({"factors": [[1, 0, 0]], "bias": [0, 0, 0]}, {"bias": [0, 0, 0]}, {"factors": "many", "bias": 1}):
        path.write_text(json.dumps(broken))
        with pytest.raises(StyleBlendError, match="holds no factors"):
            Previews(base)(latents)


def test_what_the_channels_of_stable_diffusions_latents_mean():
    """The first two are light, the last is dark, and takes away blue most."""
    bright = SD_LATENT_RGB(jt.array(np.array([1, 1, 0, 0], np.float32).reshape(1, 4, 1, 1)))
    dark = SD_LATENT_RGB(jt.array(np.array([0, 0, 0, 1], np.float32).reshape(1, 4, 1, 1)))
    assert (bright > 0.5).all() and (dark < 0).all() and dark.argmin() == 2


@pytest.fixture(scope="module")
def mini():
    settings = read_settings(ROOT / "configs" / "mini.yaml")
    return Pipeline(load_base(ROOT / "checkpoints" / "mini" / "base"), settings)


def drawn(pipeline: Pipeline, look: bool) -> tuple:
    """The previews of all steps, where they are looked at, and the picture."""
    previews = []
    for event in pipeline.draw(pipeline.request("A rabbit", style=str(ROOT / "checkpoints/mini/styles/fxemoji"))):
        if isinstance(event, Progress) and look:
            previews.append(pipeline.preview(event.x0)[0])
        if isinstance(event, Picture):
            return previews, event.pixels


def test_previews_come_near_the_picture_and_change_nothing_of_it(mini, report):
    """Their correlation with the small picture that becomes of them, of the mini base."""
    previews, picture = drawn(mini, look=True)
    assert np.array_equal(drawn(mini, look=False)[1], picture)
    small = picture.reshape(16, 8, 16, 8, 3).mean((1, 3)).ravel()
    near = {step: float(np.corrcoef(previews[step - 1].ravel(), small)[0, 1]) for step in (1, 10, 20, 30)}
    report("correlation of previews with the picture: " + ", ".join(f"step {n}: {r:.3f}" for n, r in near.items()))
    assert near[1] < near[10] < near[20] < near[30] and near[30] > 0.98
