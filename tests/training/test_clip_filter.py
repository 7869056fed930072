"""The CLIP filter of the look-alikes: the right tower of a CLIP folder, and the candidates that are nearest."""
from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from reference import seeded
from styleblend.base import weights
from styleblend.files import tensor_files
from styleblend.files.captions import StylePicture
from styleblend.cli import main
from styleblend.models.configs import ClipVisionConfig
from styleblend.errors import StyleBlendError
from styleblend.jobs.events import result_of
from styleblend.models.clip_vision import DEVIATION, MEAN, CLIPVisionModel
from styleblend.machine.runtime import jt
from styleblend.settings import LookAlikeSettings, PictureSettings
from styleblend.training.clip_filter import find_clip, load_clip, nearest_look_alikes, patch_features, prepared


@pytest.fixture
def clip_folder(tmp_path):
    """A whole CLIP as it is published: both towers in one file and one config, with an old buffer."""
    names = weights.parameters(CLIPVisionModel(ClipVisionConfig(**seeded.VISION)))
    tensors = {name: seeded.weight(f"vision/{name}", tuple(p.shape)) for name, p in names.items()}
    tensors.update({"text_model.final_layer_norm.weight": np.ones(8, np.float32), "logit_scale": np.float32(2.6),
                    "vision_model.embeddings.position_ids": np.arange(17)[None]})
    folder = tmp_path / "clip"
    tensor_files.write_safetensors(folder / "model.safetensors", tensors)
    (folder / "config.json").write_text(json.dumps(
        {"hidden_size": 999, "text_config": {"hidden_size": 8}, "vision_config": seeded.VISION}))
    return folder


@pytest.fixture
def pictures(tmp_path):
    """A style picture and four candidates: ever more noise over it, in an order that is not that of their names."""
    rng = np.random.default_rng(0)
    clean, noise = rng.integers(0, 255, (28, 28, 3)), rng.integers(0, 255, (28, 28, 3))
    paths = []
    for name, share in (("style", 0), ("a", 0.9), ("b", 0.1), ("c", 0.5), ("d", 0.3)):
        paths.append(tmp_path / f"{name}.png")
        Image.fromarray(np.uint8(clean * (1 - share) + noise * share)).save(paths[-1])
    return paths


def test_the_image_tower_of_a_whole_clip_is_taken(clip_folder):
    clip = load_clip(clip_folder)
    key = "vision_model.encoder.layers.2.mlp.fc1.weight"
    assert clip.config == ClipVisionConfig(**seeded.VISION)
    assert np.array_equal(weights.parameters(clip)[key].numpy(), seeded.weight(f"vision/{key}", (64, 32)))


def test_a_folder_without_an_image_tower_is_refused(clip_folder):
    tensor_files.write_safetensors(clip_folder / "model.safetensors",
                                   {"text_model.final_layer_norm.weight": np.ones(8, np.float32)})
    with pytest.raises(StyleBlendError, match="vision_model"):
        load_clip(clip_folder)


@pytest.mark.parametrize("size", seeded.SIZES)
def test_pictures_are_prepared_as_by_the_reference_processor(size, tmp_path):
    """transformers' CLIPImageProcessor (`tests/reference/make_metric_references.py`).

    The shorter side by bicubic filter, the middle, mean and deviation.
    """
    Image.fromarray(seeded.pictures(f"processed/{size[0]}", 1, *size)[0]).save(tmp_path / "picture.png")
    wanted = np.load(Path(__file__).parents[1] / "data" / "metrics.npz")[f"processed/clip/{size[0]}"]
    assert np.abs(prepared(tmp_path / "picture.png", 28) - wanted).max() <= 1 / 255


def test_padded_style_pictures_are_padded_here_too(tmp_path):
    """Look-alikes of them have the same white borders."""
    Image.new("RGB", (40, 20), (10, 20, 30)).save(tmp_path / "wide.png")
    white, inside = ((np.array(c) / 255 - MEAN) / DEVIATION for c in ((255,) * 3, (10, 20, 30)))
    pixels = prepared(tmp_path / "wide.png", 28, PictureSettings(fit="pad"))
    np.testing.assert_allclose(pixels[:, [0, -1]].transpose(1, 2, 0), np.broadcast_to(white, (2, 28, 3)), atol=1e-5)
    np.testing.assert_allclose(pixels[:, 14], np.repeat(inside[:, None], 28, 1), atol=1e-5)


def test_features_are_all_patches_of_the_normalised_picture(clip_folder, pictures):
    clip = load_clip(clip_folder)
    features = patch_features(clip, pictures[0])
    pixels = np.asarray(Image.open(pictures[0]), np.float64) / 255  # already of the tower's size
    pixels = (pixels - [0.48145466, 0.4578275, 0.40821073]) / [0.26862954, 0.26130258, 0.27577711]
    with jt.no_grad():
        states = clip(jt.array(pixels.transpose(2, 0, 1)[None].astype(np.float32))).numpy()[0]
    assert features.shape == (16 * 32,) and np.linalg.norm(features) == pytest.approx(1, abs=1e-6)
    np.testing.assert_allclose(features, states[1:].ravel() / np.linalg.norm(states[1:]), atol=1e-5)


def test_the_nearest_are_kept_nearest_first(clip_folder, pictures):
    style, *candidates = pictures
    picture = StylePicture(style, "style", "A style", "style.png", "style")
    kept, = result_of(nearest_look_alikes([picture], [candidates], 3, clip_folder))
    assert [path.stem for path in kept] == ["b", "d", "c"]


@pytest.mark.parametrize("keep, remark", [(4, ""), (3, "no CLIP weights")])
def test_without_weights_all_are_kept(keep, remark, caplog):
    """In silence only when nothing was to be left out."""
    assert find_clip(LookAlikeSettings(candidates=4, keep=keep)) is None
    error = caplog.text
    assert remark in error and bool(remark) == bool(error)


def test_a_folder_is_taken_before_the_hub(clip_folder, hub):
    assert find_clip(LookAlikeSettings(clip=str(clip_folder), clip_id="owner/clip")) == clip_folder and not hub.asked


def test_the_hub_is_asked_where_the_folder_is_not(clip_folder, hub, tmp_path):
    hub.has["owner/clip"] = clip_folder
    for folder in (None, str(tmp_path / "nowhere")):
        assert find_clip(LookAlikeSettings(clip=folder, clip_id="owner/clip")) == clip_folder
    assert hub.asked == [("owner/clip", ["config.json", "model.safetensors"])] * 2


@pytest.mark.parametrize("settings, words", [
    (dict(clip="nowhere"), "tried nowhere"), (dict(clip_id="owner/gone"), "tried owner/gone on the hub (OSError)"),
    (dict(clip="nowhere", clip_id="owner/gone"), "tried nowhere, owner/gone on the hub (OSError)")])
def test_a_clip_that_is_set_and_is_not_there_stops_the_training_before_anything_is_drawn(
        settings, words, hub, world, tmp_path, capsys):
    config = yaml.safe_load(world.read_text())
    config["training"]["look_alikes"].update(chosen=1, **settings)
    world.write_text(yaml.safe_dump(config))
    assert main(["train", "coarse", "--config", str(world)]) == 2
    error = capsys.readouterr().err
    assert words in error and "training.look_alikes.clip" in error and not list(tmp_path.glob("look/*/*.png"))


def test_a_training_learns_from_what_is_kept(clip_folder, world, tmp_path):
    """Look-alikes are drawn and kept as ever; what is learned from the better half is another style than from all."""
    config, learned = yaml.safe_load(world.read_text()), []
    for chosen, clip in ((2, None), (1, str(clip_folder))):
        config["training"]["look_alikes"].update(chosen=chosen, clip=clip)
        config["adapters"] = str(tmp_path / f"chosen{chosen}")
        world.write_text(yaml.safe_dump(config))
        assert main(["train", "coarse", "--config", str(world)]) == 0
        learned.append((tmp_path / f"chosen{chosen}" / "dots" / "dots_text_encoder_lora.safetensors").read_bytes())
    assert len(list((tmp_path / "look" / "dots").glob("*.png"))) == 4 and learned[0] != learned[1]
