"""Depth estimators against transformers: small ones from folders as it saves them, and, on request, the published."""
from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from reference import seeded
from styleblend.base.depth_estimators import OWN, PUBLISHED, Size, load_depth_estimator
from styleblend.cli import main
from styleblend.errors import StyleBlendError
from styleblend.record import read_record
from styleblend.files.tensor_files import read_safetensors, write_safetensors
from styleblend.machine.runtime import jt
from styleblend.models.depth_configs import (BitConfig, DepthAnythingConfig, DepthBackboneConfig, DPTConfig,
                                             read_depth_anything, read_dpt)

TESTS = Path(__file__).parents[1]
REFERENCE = np.load(TESTS / "data" / "depth.npz")
NAMES = ("depth_anything", "dpt")
MASK = "backbone.embeddings.mask_token"  # in the file, and of no use


def write_folder(folder: Path, name: str, stored) -> Path:
    """The folder whose depth is stored: weights by the stored names, and config files as transformers wrote them."""
    shapes = dict(line.rsplit(" ", 1) for line in str(stored[f"{name}/names"]).splitlines())
    write_safetensors(folder / "model.safetensors",
                      {key: seeded.weight(f"{name}/{key}", tuple(map(int, shape.split("x"))))
                       for key, shape in shapes.items()})
    for file in ("config", "preprocessor_config"):
        (folder / f"{file}.json").write_text(str(stored[f"{name}/{file}"]))
    return folder


def picture_of(width: int, height: int) -> Image.Image:
    return Image.fromarray(seeded.pictures(f"depth/{width}", 1, width, height)[0])


def agree(name: str, found: np.ndarray, wanted: np.ndarray, limit: float) -> None:
    """Relative to what differs from place to place."""
    assert found.shape == wanted.shape
    error = np.linalg.norm(found - wanted.astype(np.float64)) / np.linalg.norm(wanted - wanted.mean())
    print(f"{name}: {error:.2e}")
    assert error <= limit


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    found = {name: tmp_path_factory.mktemp(name) for name in NAMES}
    return {name: write_folder(folder, name, REFERENCE) for name, folder in found.items()}


@pytest.fixture(scope="module")
def estimators(folders):
    return {name: load_depth_estimator(folder) for name, folder in folders.items()}


def compare(name: str, width: int, height: int, estimator, stored, limit: float) -> None:
    """What is read, the depth of the network and the control picture."""
    picture, case = picture_of(width, height), f"{name}/{width}"
    read = estimator.prepared(picture)
    np.testing.assert_allclose(read[:, ::7, ::7], stored[f"{case}/read"], atol=1e-5)
    with jt.no_grad():
        depth = estimator.network(jt.array(read[None])).numpy()[0]
    agree(f"{name}, {width} x {height}", depth, stored[f"{case}/depth"], limit)
    control = estimator.control_picture(picture)
    assert control.shape == (height, width, 3) and control.dtype == np.uint8
    assert (control == control[..., :1]).all() and control.min() == 0 and control.max() == 255
    off = np.abs(control[..., 0].astype(int) - stored[f"{case}/control"])
    assert off.max() <= 1 and (off > 0).mean() <= 0.01  # values are cut off: the last bits may move one over an edge


@pytest.mark.parametrize("width, height", seeded.DEPTH_SIZES)
@pytest.mark.parametrize("name", NAMES)
def test_depth_is_that_of_transformers(name, width, height, estimators):
    compare(name, width, height, estimators[name], REFERENCE, 1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_every_tensor_of_the_file_counts(name, folders, estimators):
    """No parameter is left out of the network, and none is in it twice: but for those that depth goes without."""
    tensors = read_safetensors(folders[name] / "model.safetensors")
    assert set(dict(estimators[name].network.named_parameters())) == set(tensors) - {MASK}


@pytest.mark.full
@pytest.mark.parametrize("name", NAMES)
def test_published_sizes(name, tmp_path, peer):
    """Made-up weights of 100 and 490 MB, through files, against transformers in a process of its own."""
    out = tmp_path / "full.npz"
    peer("make_depth_references.py", "--full", out, name)
    stored = np.load(out)
    estimator = load_depth_estimator(write_folder(tmp_path, name, stored))
    compare(name, *seeded.FULL_DEPTH_SIZE, estimator, stored, 1e-4)
    count = sum(int(np.prod(p.shape)) for p in estimator.network.parameters())
    assert count == {"depth_anything": 24_784_705, "dpt": 122_377_985}[name]


# what the published config.json files say where they do not say what transformers takes for granted
PUBLISHED_CONFIGS = {
    read_depth_anything: ((DepthAnythingConfig(), DepthBackboneConfig()), {
        "architectures": ["DepthAnythingForDepthEstimation"], "backbone": None, "model_type": "depth_anything",
        "backbone_config": {"hidden_size": 384, "image_size": 518, "model_type": "dinov2", "num_attention_heads": 6,
                            "out_features": ["stage3", "stage6", "stage9", "stage12"], "out_indices": [3, 6, 9, 12],
                            "patch_size": 14, "reshape_hidden_states": False, "torch_dtype": "float32"},
        "fusion_hidden_size": 64, "head_hidden_size": 32, "head_in_index": -1, "neck_hidden_sizes": [48, 96, 192, 384],
        "patch_size": 14, "reassemble_factors": [4, 2, 1, 0.5], "reassemble_hidden_size": 384}),
    read_dpt: ((DPTConfig(), BitConfig()), {
        "architectures": ["DPTForDepthEstimation"], "is_hybrid": True, "model_type": "dpt", "image_size": 384,
        "backbone_config": {"depths": [3, 4, 9], "embedding_dynamic_padding": True, "global_padding": "SAME",
                            "hidden_sizes": [256, 512, 1024, 2048], "layer_type": "bottleneck", "model_type": "bit",
                            "out_features": ["stage1", "stage2", "stage3"]},
        "backbone_featmap_shape": [1, 1024, 24, 24], "neck_hidden_sizes": [256, 512, 768, 768], "patch_size": 16,
        "readout_type": "project", "reassemble_factors": [1, 1, 1, 0.5], "use_bias_in_fusion_residual": None}),
}


@pytest.mark.parametrize("read", PUBLISHED_CONFIGS, ids=lambda read: read.__name__)
def test_the_defaults_are_the_published_sizes(read, tmp_path):
    wanted, config = PUBLISHED_CONFIGS[read]
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert read(tmp_path / "config.json") == wanted


# ---------------------------------------------------------------- how a picture is read

@pytest.mark.parametrize("number", range(len(seeded.READ_SIZES)))
def test_proportions_are_kept_in_whole_patches(number):
    """As Depth Anything asks: the side that has to change less becomes 518 pixels."""
    size = OWN["depth_anything"].size(*seeded.READ_SIZES[number], Size(518, 518))
    assert size == tuple(REFERENCE["read_sizes"][number]) and not any(side % 14 for side in size)


def test_a_thin_picture_keeps_a_patch():
    assert OWN["depth_anything"].size(2072, 20, Size(518, 518)) == (518, 14)  # and not 0


@pytest.mark.parametrize("name", NAMES)
def test_without_a_preprocessor_config_the_published_one_counts(name, folders, estimators, tmp_path):
    folder = shutil.copytree(folders[name], tmp_path / name)
    (folder / "preprocessor_config.json").unlink()
    estimator = load_depth_estimator(folder)
    assert estimator.preprocessing == estimators[name].preprocessing
    assert estimator.prepared(picture_of(40, 30)).shape == {"depth_anything": (3, 392, 518), "dpt": (3, 48, 48)}[name]


def test_old_preprocessor_configs_have_one_size(folders, tmp_path):
    folder = shutil.copytree(folders["dpt"], tmp_path / "old")
    (folder / "preprocessor_config.json").write_text(json.dumps(
        {"do_normalize": True, "do_resize": True, "image_mean": [0.5] * 3, "image_std": [0.5] * 3, "resample": 2,
         "size": 48, "feature_extractor_type": "DPTFeatureExtractor", "ensure_multiple_of": 1}))
    estimator = load_depth_estimator(folder)
    assert estimator.preprocessing.resample == 2
    assert estimator.prepared(picture_of(40, 30)).shape == (3, 48, 48)


def test_half_precision_on_disk(folders, estimators, tmp_path):
    folder = shutil.copytree(folders["depth_anything"], tmp_path / "half")
    tensors = read_safetensors(folder / "model.safetensors")
    write_safetensors(folder / "model.safetensors", {name: t.astype(np.float16) for name, t in tensors.items()})
    picture = picture_of(90, 61)
    agree("float16", load_depth_estimator(folder).depth(picture), estimators["depth_anything"].depth(picture), 0.02)


def test_of_the_hub_by_its_id(folders, hub, tmp_path):
    hub.has[PUBLISHED[1]] = folders["dpt"]
    load_depth_estimator(PUBLISHED[1])
    assert hub.asked == [(PUBLISHED[1], ["config.json", "preprocessor_config.json", "model.safetensors"])]
    with pytest.raises(StyleBlendError, match="Small-hf on the hub .OSError. cannot be had"):
        load_depth_estimator(PUBLISHED[0])


# ---------------------------------------------------------------- what is refused

def changed(folder: Path, tmp_path: Path, file: str, **values) -> Path:
    """A copy of a folder with other values in a config; `backbone__name` is one of the backbone's; None removes."""
    copy = shutil.copytree(folder, tmp_path / "changed")
    config = json.loads((copy / file).read_text())
    for name, value in values.items():
        part = config["backbone_config"] if name.startswith("backbone__") else config
        part[name.replace("backbone__", "")] = value
        if value is None:
            del part[name.replace("backbone__", "")]
    (copy / file).write_text(json.dumps(config))
    return copy


@pytest.mark.parametrize("name, values, message", [
    ("depth_anything", {"model_type": "zoedepth"}, "no depth estimator that is known here .*zoedepth"),
    ("depth_anything", {"model_type": None}, "no depth estimator that is known here"),
    ("depth_anything", {"depth_estimation_type": "metric"}, "depth_estimation_type is 'metric'"),
    ("depth_anything", {"backbone_config": None}, "backbone_config is missing"),
    ("depth_anything", {"backbone__model_type": "dinov2_with_registers"}, "dinov2_with_registers"),
    ("depth_anything", {"backbone__use_swiglu_ffn": True}, "use_swiglu_ffn is True"),
    ("depth_anything", {"backbone__apply_layernorm": False}, "apply_layernorm is False"),
    ("depth_anything", {"backbone__out_indices": [1, 2, 4]}, "neck_hidden_sizes does not fit the layers"),
    ("depth_anything", {"backbone__out_indices": [1, 2, 4, 6]}, "out_indices does not fit the layers"),
    ("depth_anything", {"backbone__out_indices": [2, 1, 4, 5]}, "out_indices does not fit the layers"),
    ("depth_anything", {"backbone__patch_size": 7}, "patch_size does not fit backbone_config.patch_size"),
    ("depth_anything", {"reassemble_hidden_size": 64}, "reassemble_hidden_size does not fit"),
    ("depth_anything", {"reassemble_factors": [4, 2, 1]}, "reassemble_factors does not fit neck_hidden_sizes"),
    ("depth_anything", {"reassemble_factors": [4, 2, 1, 0.4]}, "whole numbers of pixels"),
    ("depth_anything", {"reassemble_factors": [4000, 2, 1, 0.5]}, "whole numbers of pixels"),
    ("depth_anything", {"head_in_index": 0}, "head_in_index is 0"),
    ("depth_anything", {"fusion_hidden_size": "wide"}, "which no Depth Anything has"),
    ("dpt", {"is_hybrid": False}, "is_hybrid is False"), ("dpt", {"readout_type": "add"}, "readout_type is 'add'"),
    ("dpt", {"backbone__layer_type": "preactivation"}, "layer_type is 'preactivation'"),
    ("dpt", {"backbone__out_features": ["stage2", "stage3"]}, "out_features is"),
    ("dpt", {"backbone__num_groups": 5}, "num_groups does not fit"),
    ("dpt", {"backbone__depths": [1, 2]}, "depths does not fit"),
    ("dpt", {"backbone__depths": [1, 2, 999]}, "depths is"),
    ("dpt", {"backbone_out_indices": [0, 1, 2, 4]}, "backbone_out_indices does not fit"),
    ("dpt", {"neck_hidden_sizes": [16, 24, 32, 24]}, "neck_hidden_sizes does not fit backbone_config.hidden_sizes"),
    ("dpt", {"image_size": 50}, "patches of 16"), ("dpt", {"image_size": 64}, "of another size than 64 x 64"),
    ("dpt", {"num_attention_heads": 5}, "cannot be divided into 5"),
])
def test_another_network_is_refused(name, values, message, folders, tmp_path):
    with pytest.raises(StyleBlendError, match=message) as error:
        load_depth_estimator(changed(folders[name], tmp_path, "config.json", **values))
    assert len(str(error.value).replace(str(tmp_path), "")) < 240


@pytest.mark.parametrize("name, values, message", [
    ("depth_anything", {"do_pad": True}, "do_pad is True"), ("depth_anything", {"resample": 9}, "resample is 9"),
    ("depth_anything", {"image_mean": [0.5]}, "not of three colours"),
    ("depth_anything", {"image_std": [0.5, 0.5, 0.0]}, "image_std is"),
    ("depth_anything", {"image_processor_type": "ZoeDepthImageProcessor"}, "is for a ZoeDepthImageProcessor"),
    ("depth_anything", {"size": None}, "no height and width"),
    ("depth_anything", {"size": {"shortest_edge": 518}}, "no height and width"),
    ("depth_anything", {"size": {"height": 0, "width": 518}}, "height is 0"),
    ("depth_anything", {"size": {"height": 518, "width": 60000}}, "size is 518 x 60000"),
    ("depth_anything", {"ensure_multiple_of": 7}, "not cut into patches of 14 pixels"),
    ("depth_anything", {"keep_aspect_ratio": False, "ensure_multiple_of": 1, "size": {"height": 70, "width": 9}},
     "not cut into patches of 14 pixels"),
    ("dpt", {"size": {"height": 64, "width": 64}}, "of another size than 48 x 48"),
    ("dpt", {"keep_aspect_ratio": True}, "of another size than 48 x 48"),
])
def test_another_way_to_read_a_picture_is_refused(name, values, message, folders, tmp_path):
    with pytest.raises(StyleBlendError, match=message):
        load_depth_estimator(changed(folders[name], tmp_path, "preprocessor_config.json", **values))


def test_what_is_not_whole_is_said(folders, tmp_path, monkeypatch):
    with pytest.raises(StyleBlendError, match="does not fit its config.json"):
        load_depth_estimator(changed(folders["dpt"], tmp_path, "config.json", fusion_hidden_size=24))
    (tmp_path / "checkpoints").mkdir()
    monkeypatch.chdir(tmp_path)
    for name in ("nothing", tmp_path / "nowhere", "checkpoints/depth"):
        with pytest.raises(StyleBlendError, match="config.json is missing: name a depth estimator by --depth-est"):
            load_depth_estimator(name)
    copy = shutil.copytree(folders["dpt"], tmp_path / "copy")
    weights = copy / "model.safetensors"
    whole = read_safetensors(weights)
    for wrong, message in (({**whole, "extra": np.zeros(3, np.float32)}, "1 tensors are too much .extra"),
                           ({name: t for name, t in list(whole.items())[1:]}, "1 tensors are missing"),
                           ({**whole, "dpt.layernorm.bias": np.full(32, np.nan, np.float32)}, "NaN or infinity")):
        write_safetensors(weights, wrong)
        with pytest.raises(StyleBlendError, match=message):
            load_depth_estimator(copy)
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(StyleBlendError, match="no whole safetensors file"):
        load_depth_estimator(copy)
    weights.unlink()
    (copy / "pytorch_model.bin").write_bytes(b"x")
    with pytest.raises(StyleBlendError, match="model.safetensors is missing"):
        load_depth_estimator(copy)


def test_a_picture_that_is_a_line_is_refused(estimators):
    with pytest.raises(StyleBlendError, match="900 x 100 is too long"):
        estimators["depth_anything"].control_picture(Image.new("RGB", (900, 100)))


def test_no_depth_is_said(folders, tmp_path):
    """A network whose last convolution answers below 0 sees the same depth everywhere."""
    copy = shutil.copytree(folders["depth_anything"], tmp_path / "flat")
    tensors = read_safetensors(copy / "model.safetensors")
    tensors["head.conv3.bias"] = np.full(1, -100, np.float32)
    write_safetensors(copy / "model.safetensors", tensors)
    with pytest.raises(StyleBlendError, match="depth of this picture is the same everywhere"):
        load_depth_estimator(copy).control_picture(picture_of(33, 57))


@pytest.mark.parametrize("kind", ["depth", "depth_edges"])
def test_a_picture_is_steered_by_the_depth_of_another(kind, world, tmp_path, folders, tiny_controlnet):
    picture_of(96, 96).save(tmp_path / "layout.png")
    options = ["--control", kind, "--control-picture", str(tmp_path / "layout.png"), "--controlnet",
               str(tiny_controlnet)]
    run = ["draw", "--config", str(world), "--prompt", "A cat", "--output", str(tmp_path / "one.png")]
    assert main([*run, *options]) == 2  # the config's estimator is not there
    assert main([*run, *options, "--depth-estimator", str(folders[NAMES[0]])]) == 0
    [said] = read_record(tmp_path / "one.png").control
    assert (said.kind, said.estimator) == (kind, str(folders[NAMES[0]]))
    assert main([*run, "--overwrite", "--control", "canny", *options[2:], "--depth-estimator", "x"]) == 2  # no effect
