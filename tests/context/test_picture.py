"""What a picture shows: by a BLIP in a folder, and, where there is none, by the judge."""
from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from reference import seeded
from small_networks import blip_folder
from styleblend.context.captioner import load_captioner
from styleblend.context.picture import JUDGE, SURE, describe_picture, judged, with_article
from styleblend.errors import StyleBlendError
from styleblend.files.tensor_files import read_safetensors, write_safetensors
from styleblend.metrics.judge import Judge
from styleblend.settings import ContextSettings, read_settings
from test_picture_limits import bomb
from test_pickles import saved_by_torch

SHOWN = Path(__file__).parents[2] / "data" / "mini" / "fxemoji" / "images"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return blip_folder(tmp_path_factory.mktemp("blip"))


@pytest.fixture
def settings():
    return read_settings("mini")


@pytest.fixture
def with_blip(settings, folder):
    return settings.model_copy(update={"context": ContextSettings(captioner=str(folder))})


@pytest.fixture
def picture(tmp_path):
    path = tmp_path / "picture.png"
    Image.fromarray(seeded.pictures("caption/48", 1, 48, 40)[0]).save(path)
    return path


def copied(folder: Path, tmp_path: Path) -> Path:
    return shutil.copytree(folder, tmp_path / "copy")


# ---------------------------------------------------------------- BLIP

def test_a_caption(with_blip, picture, folder):
    """Words, and neither start nor end; the same each time."""
    found = describe_picture(picture, with_blip)
    assert found == describe_picture(picture, with_blip)
    # the stored tokens of 3 beams; [50] begins, 16 ends
    assert found.text == found.content == " ".join(f"word{number}" for number in stored_words())
    assert found.source == folder.name and found.confidence is None


def stored_words() -> list:
    from test_language_parity import REFERENCE
    return REFERENCE["blip/48/beams3"].tolist()[1:-1]


def test_as_it_was_first_published(folder, with_blip, picture, tmp_path):
    """A pickle with whole numbers among its tensors, which says the tied matrices twice."""
    wanted, copy = describe_picture(picture, with_blip), copied(folder, tmp_path)
    tensors = read_safetensors(copy / "model.safetensors")
    decoder = "text_decoder.bert.embeddings."
    tensors["text_decoder.cls.predictions.decoder.weight"] = tensors[f"{decoder}word_embeddings.weight"]
    tensors[f"{decoder}position_ids"] = np.arange(24)[None]
    (copy / "pytorch_model.bin").write_bytes(saved_by_torch(tensors))
    (copy / "model.safetensors").unlink()
    settings = with_blip.model_copy(update={"context": ContextSettings(captioner=str(copy))})
    assert describe_picture(picture, settings).text == wanted.text


def test_of_the_hub_by_its_id(settings, folder, picture, hub, tmp_path):
    """As safetensors; only where the hub has none, the pickle."""
    hub.has["Salesforce/blip-image-captioning-base"] = folder
    published = ContextSettings(captioner="Salesforce/blip-image-captioning-base")
    settings = settings.model_copy(update={"context": published})
    assert describe_picture(picture, settings).text
    assert len(hub.asked) == 1 and "pytorch_model.bin" not in hub.asked[0][1]
    copy = hub.has["Salesforce/blip-image-captioning-base"] = copied(folder, tmp_path)
    (copy / "model.safetensors").unlink()
    with pytest.raises(StyleBlendError, match="holds no model.safetensors or pytorch_model.bin"):
        describe_picture(picture, settings)
    assert "pytorch_model.bin" in hub.asked[-1][1]
    settings = settings.model_copy(update={"context": ContextSettings(captioner="nobody/blip")})
    with pytest.raises(StyleBlendError, match="nobody/blip on the hub .OSError. cannot be had: put its config.json"):
        describe_picture(picture, settings)


def test_where_it_is_looked_for_by_itself(settings, folder, picture, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert describe_picture(picture, settings).source.startswith(JUDGE)
    shutil.copytree(folder, tmp_path / "checkpoints" / "blip-image-captioning-base")
    assert describe_picture(picture, settings).source == "blip-image-captioning-base"


@pytest.mark.parametrize("values, message", [
    ({"model_type": "blip-2"}, "holds no BLIP that describes pictures .its model_type is 'blip-2'"),
    ({"text_config": None}, "text_config is missing"),
    ({"text_config": {"hidden_act": "relu"}}, "hidden_act is 'relu'"),
    ({"text_config": {"encoder_hidden_size": 47}}, "does not fit vision_config.hidden_size"),
    ({"text_config": {"sep_token_id": 61}}, "is beyond vocab_size"),
    ({"text_config": {"vocab_size": 50, "bos_token_id": 49}}, "tokenizer.json has 60 words"),
    ({"vision_config": {"image_size": 65}}, "image_size is no multiple of patch_size"),
    ({"vision_config": {"hidden_size": "wide"}}, "which no BLIP has"),
])
def test_another_network_is_refused(values, message, folder, tmp_path):
    copy = copied(folder, tmp_path)
    config = json.loads((copy / "config.json").read_text())
    for name, value in values.items():
        config[name] = {**config[name], **value} if isinstance(value, dict) else value
    (copy / "config.json").write_text(json.dumps(config))
    with pytest.raises(StyleBlendError, match=message) as error:
        load_captioner(copy)
    assert len(str(error.value).replace(str(tmp_path), "")) < 240


@pytest.mark.parametrize("file, data, message", [
    ("config.json", None, "config.json is missing: a BLIP that describes pictures is a folder with"),
    ("config.json", b"[1]", "holds no JSON object"),
    ("tokenizer.json", None, "tokenizer.json is missing: download it"),
    ("tokenizer.json", b"{}", "tokenizer.json cannot be read"),
    ("tokenizer.json", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n", "Git LFS"),
    ("model.safetensors", None, "holds no model.safetensors or pytorch_model.bin"),
    ("model.safetensors", b"\0" * 64, "is no whole safetensors file"),
    ("preprocessor_config.json", b'{"image_mean": [0.5, 0.5, 0.5]}', "image_mean is"),
])
def test_a_folder_that_is_not_whole(file, data, message, folder, tmp_path):
    copy = copied(folder, tmp_path)
    if data is None:
        (copy / file).unlink()
    else:
        (copy / file).write_bytes(data)
    with pytest.raises(StyleBlendError, match=message):
        load_captioner(copy)


def test_weights_of_another_size(folder, tmp_path):
    copy = copied(folder, tmp_path)
    config = json.loads((copy / "config.json").read_text())
    config["text_config"]["intermediate_size"] = 65
    (copy / "config.json").write_text(json.dumps(config))
    with pytest.raises(StyleBlendError, match="tensors have another shape .*needed .65"):
        load_captioner(copy)


def test_numbers_that_are_none(folder, tmp_path):
    copy = copied(folder, tmp_path)
    tensors = read_safetensors(copy / "model.safetensors")
    tensors["vision_model.post_layernorm.bias"][:] = np.nan
    write_safetensors(copy / "model.safetensors", tensors)
    with pytest.raises(StyleBlendError, match="NaN or infinity"):
        load_captioner(copy)


# ---------------------------------------------------------------- the judge

@pytest.mark.parametrize("name, words", [("snake", "a snake"), ("office_building", "an office building")])
def test_the_judge_names_subject_and_look(name, words, settings):
    found = describe_picture(SHOWN / f"{name}.png", settings)
    assert (found.text, found.content) == (f"{words}, in the look of fxemoji", words)
    assert found.source == JUDGE and SURE <= found.confidence <= 1


def test_on_drawings_that_it_never_saw():
    """It speaks of many of them, and is right then; docs/context.md has the figures of all 968."""
    judge = Judge.load()
    with np.load(Path(__file__).parents[1] / "data" / "judge_reference.npz") as real:
        found = [judged(judge, Image.fromarray(pixels)) for pixels in real["pictures"]]
        right = [one.content == with_article(str(subject)) for one, subject in zip(found, real["subjects"]) if one.text]
    assert len(right) >= len(found) / 3 and np.mean(right) >= 0.85


@pytest.mark.parametrize("pixels, reason", [
    (np.full((64, 64, 3), 255, np.uint8), "the picture is of one colour"),
    (np.random.default_rng(0).integers(0, 255, (64, 90, 3), np.uint8), f"{JUDGE} is not sure")])
def test_where_it_is_not_sure_it_says_nothing(pixels, reason, settings, tmp_path):
    Image.fromarray(pixels).save(tmp_path / "a.png")
    found = describe_picture(tmp_path / "a.png", settings)
    assert found.text == found.content == "" and found.source.startswith(reason)


@pytest.mark.parametrize("subject, words", [("owl", "an owl"), ("cherries", "cherries"), ("bus", "a bus"),
                                            ("wine glass", "a wine glass"), ("nest with eggs", "a nest with eggs"),
                                            ("octopus", "an octopus"), ("rhinoceros", "a rhinoceros")])
def test_articles(subject, words):
    assert with_article(subject) == words


def test_files_that_are_no_pictures(settings, tmp_path):
    (tmp_path / "a.png").write_text("no picture")
    for path, message in ((tmp_path / "a.png", "cannot be read"), (tmp_path / "b.png", "does not exist"),
                          (bomb(tmp_path / "c.png", 60_000, 60_000), "more than 64,000,000")):
        with pytest.raises(StyleBlendError, match=message):
            describe_picture(path, settings)
