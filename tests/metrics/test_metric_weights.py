"""Weights of the metrics: what is said of those that are not there or cannot be read, and what is scored without."""
from __future__ import annotations

import re
import shutil
from pathlib import Path

import numpy as np
import pytest

from styleblend.base import weights
from styleblend.files import tensor_files
from styleblend.errors import StyleBlendError
from styleblend.metrics import load_metrics
from styleblend.metrics.competition import CompetitionScore
from styleblend.metrics.networks import PACKAGES, SOURCES, Networks
from test_pickles import mapping, old_file, old_storage, tensor
from made_up_networks import file_of
from made_up_networks import drawn, folder, style  # noqa: F401 (fixtures work by being here)


def test_without_weights_the_rest_is_scored_and_the_others_are_named(tmp_path, monkeypatch):
    monkeypatch.setitem(PACKAGES, "efficientnet", "no_such_package")
    metrics, missing = load_metrics(tmp_path)
    assert [metric.name for metric in metrics] == ["histogram"]
    assert len(missing) == 12
    assert (f"dino is left out: {tmp_path / 'dino'} is missing: "
            "put facebook/dino-vitb8: config.json, model.safetensors there") in missing
    assert all(SOURCES[need][1] in missing[-1] for need in CompetitionScore.needs)


@pytest.mark.parametrize("spoil, words", [
    (lambda f: (f / "clip" / "vocab.json").unlink(), "vocab.json"),
    (lambda f: next((f / "clip").glob("*.safetensors")).write_bytes(b"\x09\0\0\0\0\0\0\0{"), "clip"),
    (lambda f: [p.unlink() for p in (f / "clip").iterdir()], "config.json"),
    (lambda f: (f / "clip" / "second.safetensors").write_bytes(b""), "leave one of them")])
def test_weights_that_cannot_be_read_leave_out_only_what_needs_them(folder, tmp_path, spoil, words):
    shutil.copytree(folder, tmp_path / "weights")
    spoil(tmp_path / "weights")
    metrics, missing = load_metrics(tmp_path / "weights", ["clip", "dinov2", "clip_r"])
    assert [metric.name for metric in metrics] == ["dinov2"] and len(missing) == 2
    assert all(sentence.startswith(f"{name} is left out: ") and words in sentence
               for name, sentence in zip(("clip", "clip_r"), missing))


def test_a_metric_says_where_its_networks_are_from(folder):
    (metric,), _ = load_metrics(folder, ["dinov2"])
    assert re.fullmatch(rf"{re.escape(str(folder / 'dinov2'))}/\S+ \(sha256 [0-9a-f]{{10}}\)", metric.source)


def test_a_name_that_no_metric_has(tmp_path):
    with pytest.raises(StyleBlendError, match="no metric beauty: there are clip, "):
        load_metrics(tmp_path, ["beauty"])


def test_nothing_to_score(folder, drawn, style):
    (clip,), _ = load_metrics(folder, ["clip"])
    for pictures, prompts, wanted, message in (
            (drawn[:2], ["cat"], style, "2 pictures and 1 prompts"), ([], [], style, "no pictures for the metric clip"),
            (drawn[:2], ["cat", "dog"], [], "no style pictures for the metric clip")):
        with pytest.raises(StyleBlendError, match=message):
            clip.score(pictures, prompts, wanted)


def broken(folder: Path, tmp_path: Path, need: str, change) -> Networks:
    copy = shutil.copytree(folder, tmp_path / "copy")
    path = copy / SOURCES[need][0] / "model.safetensors"
    tensors = tensor_files.read_safetensors(path)
    change(tensors)
    tensor_files.write_safetensors(path, tensors)
    return Networks(copy)


@pytest.mark.parametrize("need, gone", [
    ("clip", "text_projection.weight"), ("clip_resnet", "visual.layer2.0.bn3.running_var"),
    ("clip_resnet", "ln_final.weight"), ("dino", "layernorm.weight"),
    ("dinov2", "encoder.layer.1.layer_scale2.lambda1"), ("squeezenet", "features.12.expand3x3.bias"),
    ("lpips", "lin6.model.1.weight"), ("inception", "Conv2d_2b_3x3.bn.bias")])
def test_a_tensor_that_is_missing(need, gone, folder, tmp_path):
    with pytest.raises(StyleBlendError, match="docs/metrics.md"):
        getattr(broken(folder, tmp_path, need, lambda tensors: tensors.pop(gone)), need)


@pytest.mark.parametrize("need, cut", [
    ("clip", "text_projection.weight"), ("clip_resnet", "ln_final.bias"), ("dino", "layernorm.bias"),
    ("dinov2", "embeddings.cls_token"), ("squeezenet", "features.0.bias"), ("lpips", "lin0.model.1.weight")])
def test_a_tensor_too_much_or_of_another_shape(need, cut, folder, tmp_path):
    def change(tensors):
        tensors[cut] = tensors[cut].reshape(-1)[:-1]
        tensors["surprise"] = np.ones(3, np.float32)
    with pytest.raises(StyleBlendError, match="too much.*surprise.*another shape"):
        getattr(broken(folder, tmp_path, need, change), need)


@pytest.mark.parametrize("name, shape", [
    ("transformer.resblocks.0.attn.in_proj_bias", (383,)), ("token_embedding.weight", (1000, 100)),
    ("visual.conv3.weight", ()), ("visual.layer4.0.conv1.weight", None)])
def test_sizes_that_no_resnet_of_clip_has(name, shape, folder, tmp_path):
    def change(tensors):
        tensors.pop(name) if shape is None else tensors.update({name: np.ones(shape, np.float32)})
    with pytest.raises(StyleBlendError, match="no CLIP RN50|does not fit"):
        broken(folder, tmp_path, "clip_resnet", change).clip_resnet


def test_heads_of_lpips_as_they_are_published(tmp_path):
    """A file of PyTorch before 1.6."""
    place = tmp_path / SOURCES["lpips"][0]
    place.mkdir(parents=True)
    tensors = file_of("lpips")
    program = mapping(**{name: tensor(array.shape, (array.size, 1, 1, 1), data=old_storage(array.size, key=name))
                         for name, array in tensors.items()})
    (place / "squeeze.pth").write_bytes(old_file(program, **{f"_{name}": array for name, array in tensors.items()}))
    heads = weights.parameters(Networks(tmp_path).lpips)
    assert len(heads) == 7 and all(
        np.array_equal(heads[f"lin{i}.weight"].numpy(), tensors[f"lin{i}.model.1.weight"]) for i in range(7))


def test_no_words_to_choose_from(tmp_path):
    (tmp_path / "words.txt").write_text("\n \n")
    with pytest.raises(StyleBlendError, match="words.txt is empty"):
        Networks(tmp_path).words


def test_a_folder_with_two_files_of_weights_or_none(folder, tmp_path):
    place = tmp_path / "lpips" / "heads"
    place.mkdir(parents=True)
    with pytest.raises(StyleBlendError, match="holds no weights"):
        Networks(tmp_path).lpips
    for name in ("squeeze.safetensors", "alex.safetensors"):
        tensor_files.write_safetensors(place / name, file_of("lpips"))
    with pytest.raises(StyleBlendError, match="alex.safetensors, squeeze.safetensors: leave one"):
        Networks(tmp_path).lpips
