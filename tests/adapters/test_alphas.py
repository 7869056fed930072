"""How strong a LoRA is where its header says so, who wins where a file disagrees with itself, and a strength of 0."""
from __future__ import annotations

import json
import warnings

import numpy as np
import pytest
from test_formats import UNET_NAMES, renamed
from test_original_names import UNET

from styleblend.adapters.foreign_files import read_tensors
from styleblend.adapters.formats import UNET_PATHS, pairs
from styleblend.adapters.inspect import inspect
from styleblend.adapters.load import parts_of
from styleblend.errors import StyleBlendError
from styleblend.files.tensor_files import write_safetensors

RANK, TWO_LAYERS = 4, UNET_PATHS[:2]
NAMES = {"kohya": UNET_NAMES["kohya"], "diffusers": UNET_NAMES["diffusers"], "PEFT": UNET_NAMES["PEFT in diffusers"],
         "bare": UNET_NAMES["diffusers, one network"], "LDM": UNET["ComfyUI"], "kohya LDM": UNET["kohya"]}


def lora(names: str = "diffusers", paths=TWO_LAYERS, rank: int = RANK) -> dict:
    ones = {f"{path}.lora.{end}.weight": np.ones(shape, np.float32) for path in paths
            for end, shape in (("down", (rank, 8)), ("up", (8, rank)))}
    return renamed(ones, *NAMES[names])


def factors(path) -> dict:
    """What each layer's up matrix is multiplied by, by the last word of the layer; `load` and `inspect` agree."""
    found = pairs(read_tensors(path), "unet", str(path), lambda layer, key: layer)
    each = {layer.removesuffix(".lora.up.weight")[-4:]: float(up[0, 0])
            for layer, up in found.items() if layer.endswith("up.weight")}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        said = inspect(path)["alpha / rank"]
    assert said == ", ".join(f"{factor:.3g}" for factor in sorted(set(each.values()))) or set(each.values()) == {1}
    return each


HEADERS = {
    "lora_alpha and r": ({"lora_alpha": "8", "r": "4"}, 2), "lora_alpha alone": ({"lora_alpha": "2.0"}, 0.5),
    "of the network": ({"unet.lora_alpha": "8", "unet.r": "4", "text_encoder.lora_alpha": "1"}, 2),
    "of the network first": ({"lora_alpha": "4", "unet.lora_alpha": "8"}, 2),
    "of the other network": ({"text_encoder.lora_alpha": "1"}, 1),
    "network_alpha": ({"network_alpha": "2", "network_dim": "4"}, 0.5), "alpha": ({"alpha": "16", "rank": "4"}, 4),
    "kohya": ({"ss_network_alpha": "1.0", "ss_network_dim": "4"}, 0.25),
    "kohya, none": ({"ss_network_alpha": "None", "ss_network_dim": "4"}, 1),
    "kohya, several": ({"ss_network_alpha": "Dynamic", "ss_network_dim": "Dynamic"}, 1),
    "PEFT before kohya": ({"lora_alpha": "8", "ss_network_alpha": "8"}, 2),
    "rank stabilised": ({"lora_alpha": "8", "use_rslora": "True"}, 4),
    "diffusers' JSON": ({"lora_adapter_metadata": json.dumps({"unet.lora_alpha": 8, "unet.r": 4})}, 2),
    "JSON of networks": ({"lora_adapter_metadata": json.dumps({"unet": {"lora_alpha": 8, "r": 4}})}, 2),
    "JSON of one network": ({"lora_adapter_metadata": json.dumps({"lora_alpha": 8, "r": 4})}, 2),
}


@pytest.mark.parametrize("names", NAMES)
@pytest.mark.parametrize("header", HEADERS)
def test_alpha_in_the_header_counts_whatever_the_names_are(tmp_path, header, names):
    fields, factor = HEADERS[header]
    write_safetensors(tmp_path / "x.safetensors", lora(names), fields)
    assert set(factors(tmp_path / "x.safetensors").values()) == {factor}
    if factor != 1:
        assert "its header" in inspect(tmp_path / "x.safetensors")["alpha is from"]


@pytest.mark.parametrize("names", NAMES)
def test_a_layers_own_alpha_wins_and_that_is_said(tmp_path, names):
    tensors = lora(names)
    layer = next(iter(tensors)).split(".lora")[0]
    write_safetensors(tmp_path / "x", {**tensors, f"{layer}.alpha": np.array(2.0)}, {"ss_network_alpha": "8"})
    with pytest.warns(UserWarning, match=r"alpha is 2 in its tensors and 8 in its header \(ss_network_alpha\); "
                                         "its tensors won"):
        found = factors(tmp_path / "x")
    assert sorted(found.values()) == [0.5, 2]  # the other layer has its alpha from the header
    assert inspect(tmp_path / "x")["alpha is from"] == "its tensors, its header (ss_network_alpha)"


def test_two_headers_disagree_and_the_first_wins(tmp_path):
    write_safetensors(tmp_path / "x", lora(), {"lora_adapter_metadata": json.dumps({"unet.lora_alpha": 8}),
                                               "ss_network_alpha": "1"})
    with pytest.warns(UserWarning, match=r"8 in its header \(lora_adapter_metadata\) and 1 in its header \(ss"):
        assert set(factors(tmp_path / "x").values()) == {2}


def test_what_agrees_is_not_remarked_on(tmp_path, recwarn):
    tensors = lora("kohya")
    alphas = {f"{key.split('.')[0]}.alpha": np.array(1.0, np.float16) for key in tensors}
    write_safetensors(tmp_path / "x", {**tensors, **alphas}, {"ss_network_alpha": "1.0", "ss_network_dim": "4"})
    assert set(factors(tmp_path / "x").values()) == {0.25} and not recwarn.list


def test_the_rank_is_that_of_the_matrices_and_another_one_is_said(tmp_path, recwarn):
    """Unless the settings have ranks of single layers, which these may be."""
    write_safetensors(tmp_path / "x", {**lora(paths=TWO_LAYERS[:1]), **lora(paths=TWO_LAYERS[1:], rank=8)},
                      {"lora_alpha": "4", "r": "4"})
    with pytest.warns(UserWarning, match="the rank is 8 in its matrices and 4 in its header"):
        assert factors(tmp_path / "x") == {"to_q": 1, "to_k": 0.5}
    recwarn.clear()
    settings = {"unet.lora_alpha": 4, "unet.r": 4, "unet.rank_pattern": {"to_k": 8}, "unet.alpha_pattern": {"to_k": 16}}
    write_safetensors(tmp_path / "x", {**lora(paths=TWO_LAYERS[:1]), **lora(paths=TWO_LAYERS[1:], rank=8)},
                      {"lora_adapter_metadata": json.dumps(settings)})
    assert factors(tmp_path / "x") == {"to_q": 1, "to_k": 2} and not recwarn.list


@pytest.mark.parametrize("value, words", [("much", "lora_alpha in its header is no number"), ("nan", "is no number"),
                                          ("1e99", "is no number"), ("\x1b[2J", "is no number")])
def test_a_field_that_is_no_number_is_said_and_not_counted(tmp_path, value, words):
    write_safetensors(tmp_path / "x", lora(), {"lora_alpha": value})
    with pytest.warns(UserWarning, match=words) as said:
        assert set(factors(tmp_path / "x").values()) == {1}
    assert all(str(one.message).isprintable() for one in said)


def test_kohyas_zero_is_the_rank(tmp_path):
    """So its scripts read --network_alpha 0, and then write the rank as each layer's alpha."""
    write_safetensors(tmp_path / "x", lora("kohya"), {"ss_network_alpha": "0"})
    with pytest.warns(UserWarning, match="is 0, which kohya's scripts take as the rank"):
        assert set(factors(tmp_path / "x").values()) == {1}


def test_a_header_does_not_reach_an_embedding(tmp_path):
    write_safetensors(tmp_path / "x", {"<ink>": np.ones((1, 1024), np.float32)}, {"lora_alpha": "8"})
    assert set(parts_of(tmp_path / "x")) == {"fine_embeds"} and "alpha is from" not in inspect(tmp_path / "x")


def zero(end: str) -> dict:
    return {key: value * (0 if end in key else 1) for key, value in lora("kohya").items()}


def alphas_of(value: float, count: int) -> dict:
    return {f"{key.split('.')[0]}.alpha": np.array(value) for key in list(lora("kohya"))[:2 * count]}


SILENT = {
    "alpha 0": ({**lora("kohya"), **alphas_of(0, 2)}, {}, "it changes nothing"),
    "up matrices of 0": (zero("lora_up"), {}, "it changes nothing"),
    "down matrices of 0": (zero("lora_down"), {}, "it changes nothing"),
    "alpha 0 in the header": (lora("kohya"), {"lora_alpha": "0"}, "it changes nothing"),
    "one layer of two": ({**lora("kohya"), **alphas_of(0, 1)}, {}, "in 1 of 2 layers"),
    "none": (lora("kohya"), {}, ""),
}


@pytest.mark.parametrize("kind", SILENT)
def test_a_strength_of_0_is_said(tmp_path, kind):
    tensors, header, words = SILENT[kind]
    write_safetensors(tmp_path / "x", tensors, header)
    said = inspect(tmp_path / "x").get("strength", "")
    assert words in said and bool(said) == bool(words)


def test_a_pattern_that_is_more_than_a_name_is_refused_in_plain_fields_too(tmp_path):
    write_safetensors(tmp_path / "x", lora(), {"lora_alpha": "8", "alpha_pattern": '{"(a+)+b": 3}'})
    with pytest.raises(StyleBlendError, match="more than the name"):
        read_tensors(tmp_path / "x")
