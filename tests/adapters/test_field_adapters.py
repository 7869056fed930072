"""Adapter files as people have them, made after public reports: each is read as it is meant, or named for what it is.

Small equals of the files in `../field/adapters` beside the golden arrays, and these themselves where they are there.
"""
from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save
from test_hostile_pickles import HOSTILE
from test_load import torch_file

from styleblend.adapters.foreign_files import read_tensors
from styleblend.adapters.formats import UNET_PATHS, flat
from styleblend.adapters.inspect import inspect
from styleblend.adapters.lora import unet_lora
from styleblend.cli import main
from styleblend.errors import StyleBlendError

FIELD = Path(os.environ.get("STYLEBLEND_GOLDEN", "nowhere")).parent / "field" / "adapters"
RANDOM = np.random.default_rng(0)
DOWN, UP = (RANDOM.normal(size=shape).astype(np.float32) for shape in ((4, 16), (16, 4)))
KOHYA, DOTS = "lora_unet_" + UNET_PATHS[0].replace(".", "_"), f"unet.{UNET_PATHS[0]}"
LDM = f"diffusion_model.input_blocks.1.1.{UNET_PATHS[0].partition('attentions.0.')[2]}"
PAIR = {f"{KOHYA}.lora_down.weight": DOWN, f"{KOHYA}.lora_up.weight": UP}
WHOLE = {**PAIR, f"{KOHYA}.alpha": np.array(4.0, np.float32)}

# file -> (small equal, factor of the up matrix, or words of the refusal)
FILES = {
    "good.safetensors": (save(WHOLE), 1), "UPPER.SAFETENSORS": (save(WHOLE), 1),
    "pickle_named.safetensors": (torch_file(WHOLE), 1),
    "page.safetensors": (b"<!DOCTYPE html><html><head><title>Sign in</title></head>", "a web page"),
    "peft_header_alpha.safetensors": (save({f"{DOTS}.lora_A.weight": DOWN, f"{DOTS}.lora_B.weight": UP},
                                           {"lora_alpha": "8", "r": "4"}), 2),
    "kohya_header_alpha.safetensors": (save(PAIR, {"ss_network_alpha": "1.0", "ss_network_dim": "4"}), 0.25),
    "alpha0.safetensors": (save({**PAIR, f"{KOHYA}.alpha": np.array(0.0, np.float32)}), 0),
    "comfy_train.safetensors": (save({f"{LDM}.lora_down.weight": DOWN, f"{LDM}.lora_up.weight": UP,
                                      f"{LDM}.alpha": np.array(4.0, np.float32)}), 1),
    # more of the same kinds
    "pickle_named.SafeTensors": (torch_file(WHOLE), 1), "no_ending_torch": (torch_file(WHOLE), 1),
    "no_ending": (save(WHOLE), 1), "named.pt": (save(WHOLE), 1),
}


@pytest.fixture(params=["made", "field"])
def files(request, tmp_path):
    """The files by name, as made here, and as they are beside the golden arrays."""
    if request.param == "field":
        return {path.name: path for path in FIELD.glob("*")} or pytest.skip("no folder of field inputs")
    for name, (data, _) in FILES.items():
        (tmp_path / name).write_bytes(data)
    return {name: tmp_path / name for name in FILES}


def network_of(width: int):
    """A UNet whose first level is as wide as the files are."""
    from styleblend.models.configs import UNetConfig
    from styleblend.models.unet import UNet2DConditionModel
    return UNet2DConditionModel(UNetConfig(block_out_channels=(width,) * 4, attention_head_dim=(1,) * 4,
                                           cross_attention_dim=8, norm_num_groups=4))


@pytest.mark.filterwarnings("ignore")
def test_each_is_read_as_it_is_meant(files, capsys):
    """load (`unet_lora`) and inspect agree."""
    good = flat(read_tensors(files["good.safetensors"]))
    pair = {end: next(value for key, value in good.items() if f"lora_{end}" in key) for end in ("down", "up")}
    network = network_of(pair["down"].shape[1])
    for name, path in files.items():
        expected = FILES[name][1]
        if isinstance(expected, str):
            with pytest.raises(StyleBlendError, match=expected):
                read_tensors(path)
            assert main(["inspect", str(path)]) == 2 and expected in capsys.readouterr().err
            continue
        found = unet_lora(read_tensors(path), network, str(path))
        assert list(found) == [f"{UNET_PATHS[0]}.lora.{end}.weight" for end in ("down", "up")], name
        np.testing.assert_array_equal(found[f"{UNET_PATHS[0]}.lora.down.weight"], pair["down"], name)
        np.testing.assert_array_equal(found[f"{UNET_PATHS[0]}.lora.up.weight"], pair["up"] * np.float32(expected), name)
        facts = inspect(path)
        assert facts["alpha / rank"] == f"{expected:g}" and ("changes nothing" in facts.get("strength", "")) == (
            expected == 0), name


def test_a_file_that_is_named_otherwise_says_so(files):
    with pytest.warns(UserWarning, match="is a PyTorch file that is named .safetensors: it is read as one"):
        read_tensors(files["pickle_named.safetensors"])


@pytest.mark.filterwarnings("ignore:.*is a PyTorch file")
@pytest.mark.parametrize("name", ["ink.safetensors", "ink", "ink.png"])
def test_no_name_leads_a_pickle_around_the_restricted_reader(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for data, words in (HOSTILE["pickle: os.system, protocol 2"], (torch_file(WHOLE)[:-40], "half a download")):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(StyleBlendError, match=words):
            inspect(Path(name))
    assert os.listdir(tmp_path) == [name]
