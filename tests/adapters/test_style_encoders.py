"""Style encoders on disk: our folder, the image encoder with its map beside it, and the published checkpoint."""
from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from reference import seeded
from styleblend.adapters.encoder_files import encoder_hash
from styleblend.adapters.style_encoders import (encoder_fingerprint, load_style_encoder, save_style_encoder, sizes_of,
                                                style_tokens)
from styleblend.cli import main
from styleblend.errors import StyleBlendError
from styleblend.files.style_pictures import read_by_encoder, square
from styleblend.files.tensor_files import read_safetensors, write_safetensors
from test_pickles import saved_by_torch

PIXELS = seeded.values("encoder/pixels", (2, 3, 28, 28))


@pytest.fixture(scope="module")
def tokens(tiny_encoder):
    return style_tokens(load_style_encoder(tiny_encoder), PIXELS)


def test_what_is_saved_is_loaded(tiny_encoder, tiny_base, tokens, tmp_path):
    encoder = load_style_encoder(tiny_encoder, tiny_base)
    assert tokens.shape == (2, 8, 32) and np.abs(tokens[0] - tokens[1]).max() > 0.01
    folder = save_style_encoder(tmp_path / "copy", encoder, "a card")
    assert np.array_equal(style_tokens(load_style_encoder(folder, tiny_base), PIXELS), tokens)
    assert (folder / "README.md").read_text() == "a card" and encoder_hash(folder) == encoder_hash(tiny_encoder)
    assert encoder_fingerprint(load_style_encoder(folder)) == encoder_fingerprint(encoder)


def test_a_picture_alone_has_the_tokens_that_it_has_among_others(tiny_encoder, tokens):
    alone = style_tokens(load_style_encoder(tiny_encoder), PIXELS[1:])
    np.testing.assert_allclose(alone[0], tokens[1], atol=1e-6)


def test_an_image_encoder_with_its_map_beside_it(tiny_encoder, tiny_base, tokens, tmp_path):
    """As transformers saves one: with a projection and without anything of tokens in its config.json."""
    tensors, config = read_safetensors(tiny_encoder / "model.safetensors"), json.loads(
        (tiny_encoder / "config.json").read_text())
    write_safetensors(tmp_path / "mapping.safetensors", {key: tensors.pop(key) for key in ("proj.weight", "proj.bias")})
    write_safetensors(tmp_path / "model.safetensors",
                      {**tensors, "visual_projection.weight": np.ones((4, 32), np.float32)})
    for key in ("tokens", "width", "fit", "template", "base"):
        del config[key]
    (tmp_path / "config.json").write_text(json.dumps(config))
    encoder = load_style_encoder(tmp_path, tiny_base)
    assert np.array_equal(style_tokens(encoder, PIXELS), tokens) and encoder.config.fit == "squash"
    before = encoder_hash(tmp_path)
    write_safetensors(tmp_path / "mapping.safetensors", {"proj.weight": np.ones((256, 32), np.float32),
                                                         "proj.bias": np.ones(256, np.float32)})
    assert encoder_hash(tmp_path) != before


def test_the_hash_is_of_the_weights_and_of_what_config_json_changes_in_pictures(tiny_encoder, tmp_path):
    """Not of the base; and of a published checkpoint it is that of the file, as sha256sum prints it."""
    folder = shutil.copytree(tiny_encoder, tmp_path / "copy")
    config, weights = json.loads((folder / "config.json").read_text()), folder / "model.safetensors"
    found = {}
    for name, changes in (("same", {}), ("base", {"base": ""}), ("template", {"template": "{prompt} by {}"}),
                          ("fit", {"fit": "crop"}), ("act", {"hidden_act": "gelu"})):
        (folder / "config.json").write_text(json.dumps({**config, **changes}))
        found[name] = encoder_hash(folder)
        assert encoder_hash(weights) == found[name]
    assert found["same"] == found["base"] == encoder_hash(tiny_encoder) and len(set(found.values())) == 4
    (folder / "config.json").unlink()
    assert encoder_hash(weights) == hashlib.sha256(weights.read_bytes()).hexdigest()[:16]


@pytest.mark.parametrize("wrapped", [False, True])
def test_a_published_checkpoint(tiny_encoder, tiny_base, tokens, tmp_path, wrapped):
    """One dict of `vision_model.*` and `proj.*`, maybe with the class around the image encoder in its names."""
    tensors = read_safetensors(tiny_encoder / "model.safetensors")
    named = {f"vision_model.{key}" if wrapped and key.startswith("vision_model.") else key: value
             for key, value in tensors.items()}
    path = tmp_path / "vision_mapping_model.pt"
    path.write_bytes(saved_by_torch({**named, "vision_model.embeddings.position_ids": np.zeros((1, 17), np.float32)}))
    with pytest.raises(StyleBlendError, match="put the config.json of its image encoder beside it"):
        load_style_encoder(path, tiny_base)
    shutil.copy(tiny_encoder / "config.json", tmp_path)
    assert np.array_equal(style_tokens(load_style_encoder(path, tiny_base), PIXELS), tokens)


@pytest.mark.parametrize("width, patch, layers, places, act, heads", [
    (1024, 14, 24, 257, "quick_gelu", 16), (1280, 14, 32, 257, "gelu", 16), (768, 32, 12, 50, "quick_gelu", 12)])
def test_the_sizes_of_published_encoders(tmp_path, width, patch, layers, places, act, heads):
    """ViT-L/14, H/14 and B/32, of which a checkpoint says nothing but its shapes."""
    shapes = {"vision_model.embeddings.patch_embedding.weight": (width, 3, patch, patch),
              "vision_model.embeddings.position_embedding.weight": (places, width),
              **{f"vision_model.encoder.layers.{n}.mlp.fc1.weight": (4 * width, 1) for n in range(layers)}}
    sizes = sizes_of({key: np.broadcast_to(np.float32(0), shape) for key, shape in shapes.items()}, tmp_path / "it.pt")
    assert (sizes.hidden_size, sizes.intermediate_size, sizes.num_hidden_layers, sizes.patch_size, sizes.image_size,
            sizes.hidden_act, sizes.num_attention_heads) == (width, 4 * width, layers, patch, 224, act, heads)


def without(key):
    return lambda tensors: tensors.pop(key)


@pytest.mark.parametrize("change, words", [
    (without("proj.weight"), "it is an image encoder alone"),
    (without("vision_model.post_layernorm.bias"), "1 tensors are missing (vision_model.post_layernorm.bias)"),
    (lambda tensors: tensors.update(more=np.ones(2, np.float32)), "1 tensors are too much (more)"),
    (lambda tensors: tensors["proj.bias"].fill(np.nan), "holds NaN or infinity in proj.bias"),
    (lambda tensors: tensors.update({"proj.weight": tensors["proj.weight"][:-1]}), "have another shape"),
    (lambda tensors: tensors.update({"proj.bias": tensors["proj.bias"].astype(np.int32)}),
     "holds int32 in proj.bias, as weights that are packed or cut off do"),
])
def test_weights_that_do_not_fit(tiny_encoder, tmp_path, change, words):
    folder = shutil.copytree(tiny_encoder, tmp_path / "copy")
    tensors = {key: value.copy() for key, value in read_safetensors(folder / "model.safetensors").items()}
    change(tensors)
    write_safetensors(folder / "model.safetensors", tensors)
    with pytest.raises(StyleBlendError) as raised:
        load_style_encoder(folder)
    assert words in str(raised.value)


def test_weights_that_are_not_there_or_torn(tiny_encoder, tmp_path):
    folder = shutil.copytree(tiny_encoder, tmp_path / "copy")
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(StyleBlendError, match="half a download"):
        load_style_encoder(folder)
    weights.unlink()
    with pytest.raises(StyleBlendError, match="model.safetensors is missing"):
        load_style_encoder(folder)


def test_sizes_that_are_not_said(tiny_encoder, tmp_path):
    """They would be those of ViT-L/14, and the advice about weights that do not fit would lead astray."""
    folder = shutil.copytree(tiny_encoder, tmp_path / "copy")
    config = json.loads((folder / "config.json").read_text())
    for said, words in (({}, "does not say hidden_size, intermediate_size"),
                        ({**config, "patch_size": None}, "does not say patch_size, so")):
        (folder / "config.json").write_text(json.dumps(said))
        with pytest.raises(StyleBlendError, match=words):
            load_style_encoder(folder)


def test_the_config_of_a_whole_clip(tiny_encoder, tiny_base, tokens, tmp_path):
    folder = shutil.copytree(tiny_encoder, tmp_path / "copy")
    config = json.loads((folder / "config.json").read_text())
    own = {name: config.pop(name) for name in ("template", "base", "fit", "tokens", "width")}
    assert own["tokens"] == 8 and own["fit"] == "squash"
    (folder / "config.json").write_text(json.dumps({"projection_dim": 512, "vision_config": config}))
    weights = shutil.move(str(folder / "model.safetensors"), str(folder / "style.safetensors"))
    assert np.array_equal(style_tokens(load_style_encoder(Path(weights), tiny_base), PIXELS), tokens)


def test_an_encoder_is_no_adapter(tiny_encoder, capsys):
    assert main(["inspect", str(tiny_encoder / "model.safetensors")]) == 2
    assert "is an image encoder, or a style encoder" in capsys.readouterr().err


def test_how_pictures_are_made_square():
    """A picture of two halves: squashed it has both, cropped the middle of each."""
    from PIL import Image
    picture = Image.new("RGB", (80, 20), "white")
    picture.paste("black", (0, 0, 40, 20))
    squashed, cropped = (np.asarray(square(picture, 20, fit))[:, :, 0] for fit in ("squash", "crop"))
    assert squashed.shape == cropped.shape == (20, 20)
    for found in (squashed, cropped):
        assert (found[:, :8] == 0).all() and (found[:, 12:] == 255).all()
    tall = picture.transpose(Image.Transpose.ROTATE_90)
    assert np.array_equal(np.asarray(square(tall, 20, "crop"))[:, :, 0], np.rot90(cropped))
    thin = Image.fromarray(np.arange(60000, dtype=np.uint16).astype(np.uint8)[:, None])  # whole it would have 4 GiB
    assert np.array_equal(np.asarray(square(thin, 256, "crop"))[:, 0],
                          np.asarray(square(thin.crop((0, 29995, 1, 30005)), 256, "crop"))[:, 0])
    pixels = read_by_encoder(picture, 20, "squash")
    assert (pixels.dtype, pixels.shape, pixels.min(), pixels.max()) == (np.float32, (3, 20, 20), -1, 1)
