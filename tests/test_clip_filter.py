"""The CLIP filter of the look-alikes: the right tower of a CLIP folder, and the candidates that are nearest."""
from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from reference import seeded
from styleblend import weights
from styleblend.captions import StylePicture
from styleblend.config import ClipVisionConfig
from styleblend.errors import StyleBlendError
from styleblend.models.clip_vision import CLIPVisionModel
from styleblend.runtime import jt
from styleblend.settings import LookAlikeSettings
from styleblend.training.clip_filter import load_clip, nearest_look_alikes, patch_features


@pytest.fixture
def clip_folder(tmp_path):
    """A whole CLIP as it is published: both towers in one file and one config, with an old buffer."""
    names = weights.parameters(CLIPVisionModel(ClipVisionConfig(**seeded.VISION)))
    tensors = {name: seeded.weight(f"vision/{name}", tuple(p.shape)) for name, p in names.items()}
    tensors.update({"text_model.final_layer_norm.weight": np.ones(8, np.float32), "logit_scale": np.float32(2.6),
                    "vision_model.embeddings.position_ids": np.arange(17)[None]})
    folder = tmp_path / "clip"
    weights.write_safetensors(folder / "model.safetensors", tensors)
    (folder / "config.json").write_text(json.dumps({"hidden_size": 999, "text_config": {"hidden_size": 8}, "vision_config": seeded.VISION}))
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
    weights.write_safetensors(clip_folder / "model.safetensors", {"text_model.final_layer_norm.weight": np.ones(8, np.float32)})
    with pytest.raises(StyleBlendError, match="vision_model"):
        load_clip(clip_folder)


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
    settings = LookAlikeSettings(candidates=4, keep=3, clip=str(clip_folder))
    kept, = nearest_look_alikes([StylePicture(style, "style", "A style")], [candidates], settings)
    assert [path.stem for path in kept] == ["b", "d", "c"]


@pytest.mark.parametrize("keep, remark", [(4, ""), (3, "no CLIP weights")])
def test_without_weights_all_are_kept(keep, remark, pictures, capsys):
    """In silence only when nothing was to be left out."""
    files = [pictures[1:]]
    assert nearest_look_alikes([StylePicture(pictures[0], "style", "A style")], files, LookAlikeSettings(candidates=4, keep=keep)) == files
    error = capsys.readouterr().err
    assert remark in error and bool(remark) == bool(error)
