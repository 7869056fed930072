"""Measuring networks by their hub ids: the folder first, only what is needed, safetensors only.

What cannot be had is left out by name.
"""
import shutil

import pytest

from styleblend.metrics import load_metrics
from styleblend.metrics.networks import SOURCES
from styleblend.settings import NetworkIds
from made_up_networks import put_made_up


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("weights")
    put_made_up(folder, "clip", "clip_resnet", "dinov2", "squeezenet", "lpips")
    return folder


def test_every_network_may_have_a_hub_id():
    assert set(NetworkIds.model_fields) == set(SOURCES) - {"words"}


def test_a_folder_is_taken_before_the_hub(folder, hub):
    (metric,), _ = load_metrics(folder, ["dinov2"], NetworkIds(dinov2="owner/dinov2"))
    assert not hub.asked and str(folder) in metric.source


def test_what_is_not_in_the_folder_is_fetched_by_its_id(folder, tmp_path, hub):
    """Only what the wanted metrics need, once, and of files with several names the published one."""
    for need, name in (("clip", "model.safetensors"), ("clip_resnet", "open_clip_model.safetensors"),
                       ("lpips", "squeeze.safetensors")):
        hub.has[f"owner/{need}"] = shutil.copytree(folder / SOURCES[need][0], tmp_path / "hub" / need)
        (tmp_path / "hub" / need / "model.safetensors").rename(tmp_path / "hub" / need / name)
    for stray in ("clip/other.safetensors", "clip_resnet/model.safetensors", "clip/pytorch_model.bin"):
        (tmp_path / "hub" / stray).write_bytes(b"not wanted")
    shutil.copytree(folder / "lpips" / "squeezenet", tmp_path / "weights" / "lpips" / "squeezenet")
    ids = NetworkIds(clip="owner/clip", clip_resnet="owner/clip_resnet", lpips="owner/lpips", dino="owner/dino")
    metrics, missing = load_metrics(tmp_path / "weights", ["clip", "clip_iqa", "lpips"], ids)
    assert ([metric.name for metric in metrics] == ["clip", "clip_iqa", "lpips"] and not missing
            and "open_clip_model.safetensors" in metrics[1].source)
    assert [name for name, _ in hub.asked] == ["owner/clip", "owner/clip_resnet", "owner/lpips"]
    assert all("config.json" in patterns and not any(".bin" in pattern or ".p" in pattern for pattern in patterns)
               for _, patterns in hub.asked)


def test_what_the_hub_does_not_have_is_left_out_by_name(tmp_path, hub):
    metrics, missing = load_metrics(tmp_path, ["dinov2", "dino", "histogram"], NetworkIds(dinov2="owner/gone"))
    assert [metric.name for metric in metrics] == ["histogram"]
    assert missing == [f"dinov2 is left out: {tmp_path / 'dinov2'} is missing, "
                       "and owner/gone on the hub (OSError) cannot be had: "
                       "put facebook/dinov2-base: config.json, model.safetensors there",
                       f"dino is left out: {tmp_path / 'dino'} is missing: "
                       "put facebook/dino-vitb8: config.json, model.safetensors there"]


def test_a_model_of_the_hub_without_safetensors_is_left_out(folder, tmp_path, hub):
    hub.has["owner/dinov2"] = shutil.copytree(folder / "dinov2", tmp_path / "hub")
    (tmp_path / "hub" / "model.safetensors").rename(tmp_path / "hub" / "pytorch_model.bin")
    metrics, (sentence,) = load_metrics(tmp_path / "weights", ["dinov2"], NetworkIds(dinov2="owner/dinov2"))
    assert not metrics and "holds no model.safetensors" in sentence
