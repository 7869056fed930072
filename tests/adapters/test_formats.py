"""LoRAs and embeddings of every program that we name are read to the same numbers.

Everything else is refused in one clear sentence.
"""
from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest

from styleblend.adapters import lora
from styleblend.adapters.foreign_files import read_tensors
from styleblend.models.configs import ClipTextConfig, UNetConfig
from styleblend.errors import StyleBlendError
from styleblend.adapters.formats import embedding, to_diffusers_text, to_diffusers_unet
from styleblend.adapters.lora import text_lora, unet_lora
from styleblend.models.clip_text import CLIPTextModel
from styleblend.models.unet import UNet2DConditionModel
from styleblend.adapters.pickles import read_arrays
from styleblend.files.tensor_files import read_metadata, read_safetensors, write_safetensors

RANK = 2
NEEDS_GOLDEN = pytest.mark.skipif("STYLEBLEND_GOLDEN" not in os.environ,
                                  reason="STYLEBLEND_GOLDEN names no folder of reference files")
LAYER = "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"
PROJECTION = "text_model.encoder.layers.0.self_attn.q_proj"


@pytest.fixture(scope="module")
def unet():
    return UNet2DConditionModel(UNetConfig(block_out_channels=(8, 16, 16, 16), attention_head_dim=(1, 2, 2, 2),
                                           cross_attention_dim=8, norm_num_groups=4))


@pytest.fixture(scope="module")
def text_encoder():
    return CLIPTextModel(ClipTextConfig(hidden_size=8, num_hidden_layers=2, num_attention_heads=2,
                                        intermediate_size=16))


def full_lora(network, pattern: str) -> dict:
    """A LoRA of random numbers for all layers, in our names."""
    rng, found = np.random.default_rng(0), {}
    for path, linear in lora.targets(network, pattern):
        found[f"{path}.lora.down.weight"] = rng.normal(size=(RANK, linear.in_features)).astype(np.float32)
        found[f"{path}.lora.up.weight"] = rng.normal(size=(linear.out_features, RANK)).astype(np.float32)
    return found


@pytest.fixture(scope="module")
def ours(unet):
    return full_lora(unet, lora.UNET_TARGETS)


@pytest.fixture(scope="module")
def our_text(text_encoder):
    return full_lora(text_encoder, lora.TEXT_TARGETS)


def renamed(tensors: dict, prefix: str, down: str, up: str, layer=lambda path: path) -> dict:
    """The same LoRA under other names."""
    found = {}
    for key, value in tensors.items():
        path, end = key.split(".lora.")
        found[prefix + layer(path) + (down if end == "down.weight" else up)] = value
    return found


def assert_same(found: dict, expected: dict) -> None:
    assert set(found) == set(expected)
    for key in expected:
        assert found[key].dtype == np.float32 and np.array_equal(found[key], expected[key]), key


def processor(path: str) -> str:
    parent, last = path.replace("to_out.0", "to_out").rsplit(".", 1)
    return f"{parent}.processor.{last}"


def old_text(path: str) -> str:
    parent, last = path.rsplit(".", 1)
    return f"{parent}.{dict(q_proj='to_q', k_proj='to_k', v_proj='to_v', out_proj='to_out')[last]}"


UNET_NAMES = {
    "diffusers": ("unet.", ".lora.down.weight", ".lora.up.weight"),
    "diffusers, one network": ("", ".lora.down.weight", ".lora.up.weight"),
    "PEFT in diffusers": ("unet.", ".lora_A.weight", ".lora_B.weight"),
    "PEFT": ("base_model.model.", ".lora_A.weight", ".lora_B.weight"),
    "PEFT, named adapter": ("base_model.model.", ".lora_A.default.weight", ".lora_B.default.weight"),
    "attention processors": ("", "_lora.down.weight", "_lora.up.weight", processor),
    "attention processors, prefix": ("unet.", "_lora.down.weight", "_lora.up.weight", processor),
    "kohya": ("lora_unet_", ".lora_down.weight", ".lora_up.weight", lambda path: path.replace(".", "_")),
}
TEXT_NAMES = {
    "diffusers": ("text_encoder.", ".lora_linear_layer.down.weight", ".lora_linear_layer.up.weight"),
    "diffusers, one network": ("", ".lora_linear_layer.down.weight", ".lora_linear_layer.up.weight"),
    "ours": ("", ".lora.down.weight", ".lora.up.weight"),
    "PEFT in diffusers": ("text_encoder.", ".lora_A.weight", ".lora_B.weight"),
    "PEFT": ("base_model.model.", ".lora_A.weight", ".lora_B.weight"),
    "PEFT on transformers 5": ("base_model.model.", ".lora_A.weight", ".lora_B.weight",
                               lambda path: path.replace("text_model.", "")),
    "old diffusers": ("text_encoder.", "_lora.down.weight", "_lora.up.weight", old_text),
    "kohya": ("lora_te_", ".lora_down.weight", ".lora_up.weight", lambda path: path.replace(".", "_")),
    "kohya, by diffusers": ("lora_te1_", ".lora_down.weight", ".lora_up.weight",
                            lambda path: path.replace("text_model.", "").replace(".", "_")),
    "StyleBlend, flat": ("", ".lora_layer.down.weight", ".lora_layer.up.weight"),
}


@pytest.mark.parametrize("names", UNET_NAMES)
def test_every_programs_unet_lora_becomes_ours(unet, ours, names):
    theirs = renamed(ours, *UNET_NAMES[names])
    assert len(theirs) == len(ours) == 2 * 4 * 2 * 16  # down and up, four layers, two attentions, sixteen sites
    found = unet_lora(theirs, unet, "file")
    assert_same(found, ours)
    assert names == "diffusers, one network" or not set(theirs) & set(found)


@pytest.mark.parametrize("names", TEXT_NAMES)
def test_every_programs_text_lora_becomes_ours(text_encoder, our_text, names):
    assert_same(text_lora(renamed(our_text, *TEXT_NAMES[names]), text_encoder, "file"), our_text)


def test_the_published_nested_text_lora_becomes_ours(text_encoder, our_text):
    nested = {}
    for key, value in our_text.items():
        path, end = key.split(".lora.")
        nested.setdefault(f"{path}.lora_layer", {})[end] = value
    assert_same(text_lora(nested, text_encoder, "file"), our_text)


def test_what_we_save_has_diffusers_names_and_comes_back(unet, text_encoder, ours, our_text):
    saved = {**to_diffusers_unet(ours), **to_diffusers_text(our_text)}
    assert (f"unet.{LAYER}.lora.down.weight" in saved
            and f"text_encoder.{PROJECTION}.lora_linear_layer.up.weight" in saved)
    assert_same(unet_lora(saved, unet, "file"), ours)  # each takes its part of a file that holds both
    assert_same(text_lora(saved, text_encoder, "file"), our_text)
    assert unet_lora(to_diffusers_text(our_text), unet, "file") == {}


def test_what_is_read_loads_into_the_network(unet, text_encoder, ours, our_text):
    for network, pattern, read, tensors, prefix in ((unet, lora.UNET_TARGETS, unet_lora, ours, "lora_unet_"),
                                                    (text_encoder, lora.TEXT_TARGETS, text_lora, our_text, "lora_te_")):
        theirs = renamed(tensors, prefix, ".lora_down.weight", ".lora_up.weight", lambda path: path.replace(".", "_"))
        loras = lora.load(network, pattern, read(theirs, network, "file"), "file")
        assert_same(lora.arrays(network, loras), tensors)


@pytest.mark.parametrize("alpha", [np.array(1, np.float32), np.array([1], np.float16), np.array(1), 1, 1.0])
def test_kohyas_alpha_goes_into_the_up_matrix(unet, ours, alpha):
    theirs = renamed(ours, *UNET_NAMES["kohya"])
    one = "lora_unet_" + LAYER.replace(".", "_")
    found = unet_lora({f"{one}.alpha": alpha, **theirs}, unet, "file")
    # alpha 1, rank 2
    assert_same(found, {**ours, f"{LAYER}.lora.up.weight": ours[f"{LAYER}.lora.up.weight"] * np.float32(0.5)})


def test_alpha_of_all_layers_scales_what_the_lora_adds(text_encoder, our_text):
    theirs = renamed(our_text, *TEXT_NAMES["kohya"])
    theirs.update({key.replace(".lora_up.weight", ".alpha"): np.array(16.0)
                   for key in theirs if key.endswith("up.weight")})
    found = text_lora(theirs, text_encoder, "file")
    for key in our_text:
        assert np.array_equal(found[key], our_text[key] * (8 if ".up." in key else 1))


# ---------------------------------------------------------------- strength beside the matrices: PEFT and diffusers

PEFT = dict(peft_type="LORA", r=RANK, lora_alpha=6, use_rslora=False, rank_pattern={"attn2.to_v": RANK},
            alpha_pattern={r"^mid_block\.attentions\.0\.transformer_blocks\.0\.attn1\.to_q$": 8,
                           "attn2.to_v": 10, "to_v": 4, "tn1.to_q": 1000})


def in_header(prefix, config):
    return {"lora_adapter_metadata": json.dumps({prefix + key: value for key, value in config.items()}, indent=2)}


@pytest.mark.parametrize("stabilised", [False, True])
@pytest.mark.parametrize("where, names", [
    ("adapter_config.json", "PEFT"), ("adapter_config.json", "PEFT, named adapter"), ("unet.", "diffusers"),
    ("unet.", "PEFT in diffusers"), ("", "diffusers, one network")])
def test_the_strength_beside_the_matrices_is_used(unet, ours, tmp_path, where, names, stabilised):
    """The names of PEFT 0.21 and diffusers 0.37: alpha / rank, or alpha / sqrt(rank).

    Single layers by the first name that fits.
    """
    config, path = {**PEFT, "use_rslora": stabilised}, tmp_path / "adapter_model.safetensors"
    write_safetensors(path, renamed(ours, *UNET_NAMES[names]),
                      {} if where.endswith("json") else in_header(where, config))
    if where.endswith("json"):
        (tmp_path / where).write_text(json.dumps(config))
    found = unet_lora(read_tensors(path), unet, "file")
    assert set(found) == set(ours)
    for key, value in ours.items():
        alpha = (8 if key.startswith("mid_block.attentions.0.transformer_blocks.0.attn1.to_q.")
                 else 10 if "attn2.to_v" in key else 4 if "to_v" in key else 6)
        factor = alpha / (RANK ** 0.5 if stabilised else RANK) if ".up." in key else 1
        np.testing.assert_allclose(found[key], value * np.float32(factor), rtol=1e-6, err_msg=key)
    assert inspect_strength(path) == ("2.83, 4.24, 5.66, 7.07" if stabilised else "2, 3, 4, 5")


def inspect_strength(path):
    from styleblend.adapters.inspect import inspect
    tensors = {key: value if "attn2" not in key or value.shape[0] != RANK else np.zeros((RANK, 1024), np.float32)
               for key, value in read_safetensors(path).items()}  # a text width that some model has
    write_safetensors(path, tensors, read_metadata(path))
    return inspect(path)["alpha / rank"]


def test_each_network_has_its_strength_and_a_layers_own_alpha_counts_first(
        unet, text_encoder, ours, our_text, tmp_path):
    both = {**renamed(ours, *UNET_NAMES["diffusers"]), **renamed(our_text, *TEXT_NAMES["diffusers"]),
            f"unet.{LAYER}.alpha": np.array(1.0)}
    write_safetensors(tmp_path / "lora.safetensors", both,
                      {"lora_adapter_metadata": json.dumps({"unet.lora_alpha": 4, "text_encoder.lora_alpha": 8})})
    tensors = read_tensors(tmp_path / "lora.safetensors")
    found = {**unet_lora(tensors, unet, "file"), **text_lora(tensors, text_encoder, "file")}
    for key, value in {**ours, **our_text}.items():
        assert np.array_equal(found[key], value * (
            1 if ".down." in key else 0.5 if key.startswith(LAYER) else 4 if key in our_text else 2)), key


def test_a_peft_file_without_its_configuration_is_said(ours, tmp_path):
    write_safetensors(tmp_path / "lora.safetensors", renamed(ours, *UNET_NAMES["PEFT"]))
    with pytest.warns(UserWarning, match="keeps lora_alpha in adapter_config.json.* alpha is taken as the rank"):
        read_tensors(tmp_path / "lora.safetensors")


@pytest.mark.parametrize("changes, words", [
    (dict(lora_alpha="16"), "lora_alpha is not one number"),
    (dict(lora_alpha=float("nan")), "lora_alpha is not one number"), (dict(lora_alpha=True), "is not one number"),
    (dict(alpha_pattern={"to_v": None}), "alpha_pattern is not one number"),
    (dict(alpha_pattern=["to_v"]), "alpha_pattern is no JSON object"),
    (dict(alpha_pattern={"(a+)+b": 3}), r"\(a\+\)\+b in alpha_pattern is more than the name of a layer"),
    (dict(alpha_pattern={".*to_v": 3}), "more than the name"),
], ids=str)
def test_strengths_that_are_none(ours, tmp_path, changes, words):
    write_safetensors(tmp_path / "lora.safetensors", renamed(ours, *UNET_NAMES["diffusers"]),
                      in_header("unet.", {**PEFT, **changes}))
    with pytest.raises(StyleBlendError, match=words):
        read_tensors(tmp_path / "lora.safetensors")


@pytest.mark.parametrize("text", ["", "[]", "{", "[" * 9999, " " * (1 << 20) + "{}"], ids=lambda text: text[:9])
def test_a_header_that_is_no_configuration(ours, tmp_path, text):
    write_safetensors(tmp_path / "lora.safetensors", renamed(ours, *UNET_NAMES["diffusers"]),
                      {"lora_adapter_metadata": text})
    with pytest.raises(StyleBlendError, match="lora_adapter_metadata in its header cannot be read"):
        read_tensors(tmp_path / "lora.safetensors")


def test_half_precision_and_1x1_convolutions(unet, ours):
    theirs = {key: value.astype(np.float16)[:, :, None, None] for key, value in ours.items()}
    found = unet_lora(theirs, unet, "file")
    assert_same(found, {key: value.astype(np.float16).astype(np.float32) for key, value in ours.items()})


def test_other_linear_layers_can_be_allowed(unet):
    feed_forward = full_lora(unet, r".*\.ff\.net\.(0\.proj|2)")
    theirs = renamed(feed_forward, *UNET_NAMES["kohya"])
    with pytest.raises(StyleBlendError, match="ff_net_0_proj.* names no layer"):
        unet_lora(theirs, unet, "file")
    assert_same(unet_lora(theirs, unet, "file", pattern=".*"), feed_forward)


DOWN, UP = np.zeros((RANK, 8), np.float32), np.zeros((8, RANK), np.float32)


@pytest.mark.parametrize("tensors, message", [
    ({"lora_te1_text_model_encoder_layers_0_self_attn_q_proj.lora_down.weight": DOWN,
      "lora_te2_text_model_encoder_layers_0_self_attn_q_proj.lora_down.weight": DOWN},
     "Stable Diffusion XL .*lora_te2_.* 2.x"),
    ({"lora_te2_text_model_encoder_layers_0_self_attn_q_proj.lora_down.weight": DOWN},
     "Stable Diffusion XL .*lora_te2_.* 2.x"),
    ({"text_encoder_2.text_model.encoder.layers.0.self_attn.q_proj.lora_A.weight": DOWN},
     "Stable Diffusion XL .*text_encoder_2."),
    ({"lora_unet_input_blocks_4_1_transformer_blocks_1_attn1_to_q.lora_down.weight": DOWN}, "Stable Diffusion XL"),
    ({"lora_unet_input_blocks_4_1_proj_in.lora_down.weight": DOWN}, "names no layer of this base"),
    ({"transformer.single_transformer_blocks.0.attn.to_q.lora_A.weight": DOWN}, "Flux.* Stable Diffusion 2.x"),
    ({"lora_unet_double_blocks_0_img_attn_proj.lora_down.weight": DOWN}, "Flux"),
    ({"diffusion_model.double_blocks.0.img_attn.proj.lora_A.weight": DOWN}, "Flux"),
    ({"lora_transformer_single_transformer_blocks_0_attn_to_q.lora_down.weight": DOWN}, "Flux"),
    ({"lora_unet_joint_blocks_0_x_block_attn_qkv.lora_down.weight": DOWN}, "Stable Diffusion 3"),
    ({f"unet.{LAYER}.hada_w1_a": DOWN}, "a LoHa .*hada_w1_a.*plain LoRA"),
    ({f"lora_unet_{LAYER.replace('.', '_')}.lokr_w2_a": DOWN}, "a LoKr"),
    ({f"unet.{LAYER}.lora.down.weight": DOWN, f"unet.{LAYER}.dora_scale": DOWN}, "a DoRA"),
    ({f"unet.{LAYER}.lora_magnitude_vector.default.weight": DOWN}, "a DoRA"),
    ({"model.diffusion_model.input_blocks.0.0.weight": DOWN}, "a whole checkpoint"),
    ({"state_dict": {"model.diffusion_model.input_blocks.0.0.weight": DOWN}}, "a whole checkpoint"),
    ({"controlnet_cond_embedding.conv_in.weight": DOWN}, "a ControlNet"),
    ({"ip_adapter": {"1.to_k_ip.weight": DOWN}}, "an IP-Adapter"),
    ({f"{LAYER}.lora.down.weight": DOWN, f"{LAYER}.lora.up.weight": np.zeros((8, RANK + 1), np.float32)},
     "rank 2 in its down matrix and 3"),
    ({f"{LAYER}.lora.down.weight": np.zeros((RANK, 320), np.float32),
      f"{LAYER}.lora.up.weight": np.zeros((320, RANK), np.float32)}, "is for another base"),
    ({f"{LAYER.replace('attn1.to_q', 'attn2.to_k')}.lora.down.weight": np.zeros((RANK, 768), np.float32),
      f"{LAYER.replace('attn1.to_q', 'attn2.to_k')}.lora.up.weight": UP},
     r"text width 768 \(Stable Diffusion 1.x\), needed 8"),
    ({f"unet.{LAYER}.weight": DOWN}, "is no name that"),
    ({"evil\x1b[2J" + "x" * 1000: DOWN}, r"^file: evil\\x1b\[2Jx+ is no name"),
    ({"unet.down_blocks.9.attentions.0.transformer_blocks.0.attn1.to_q.lora.down.weight": DOWN},
     "down_blocks.9.*names no layer of this base"),
    ({"lora_unet_down_blocks_9_attn1_to_q.alpha": np.array(1.0)}, "down_blocks_9.*names no layer of this base"),
    ({f"{LAYER}.lora.down.weight": DOWN}, f"{LAYER} has no up matrix.*incomplete"),
    ({f"{LAYER}.lora.up.weight": UP, f"{LAYER}.alpha": 1.0}, f"{LAYER} has no down matrix"),
    ({f"{LAYER}.lora.down.weight": DOWN, f"unet.{LAYER}.lora.down.weight": DOWN}, "a second time"),
    ({f"{LAYER}.lora.down.weight": DOWN.astype(int)}, "no floating-point numbers"),
    ({f"{LAYER}.lora.down.weight": [1.0]}, "no floating-point numbers"),
    ({f"{LAYER}.lora.down.weight": np.zeros((2, 8, 3, 3), np.float32)}, r"has the shape \(2, 8, 3, 3\)"),
    ({f"{LAYER}.lora.down.weight": np.zeros((0, 8), np.float32)}, r"has the shape \(0, 8\)"),
    ({f"{LAYER}.alpha": np.array([1.0, 2.0])}, "is not one number"),
    ({f"{LAYER}.alpha": float("nan")}, "is not one number"),
    ({f"{LAYER}.alpha": "16"}, "is not one number"),
])
def test_what_cannot_be_read_is_named(unet, tensors, message):
    with pytest.raises(StyleBlendError, match=message) as error:
        unet_lora(tensors, unet, "file")
    assert str(error.value).startswith("file") and len(str(error.value)) < 350 and str(error.value).isprintable()


@NEEDS_GOLDEN
def test_reference_files_are_read_and_written_alike():
    from styleblend.base.base import load_base
    folder = Path(os.environ["STYLEBLEND_GOLDEN"])
    base = load_base(folder / "base")
    for part, read, write, network in (("unet", unet_lora, to_diffusers_unet, base.unet),
                                       ("text_encoder", text_lora, to_diffusers_text, base.text_encoder)):
        tensors = read_arrays(folder / "style" / f"tiny_{part}_lora.bin")
        assert_same(write(read(tensors, network, "file")), tensors)
    for file, token in (("coarse", "<C>"), ("fine", "<F>"), ("composition", "<C>"), ("texture", "<T>")):
        found, vector = embedding(read_arrays(folder / "style" / f"tiny_{file}_style_embeds.bin"), 64, "file")
        assert found == token and vector.shape == (1, 64)


TWO = np.arange(16, dtype=np.float16).reshape(2, 8)


@pytest.mark.parametrize("tensors, token, rows", [
    ({"<ink>": TWO}, "<ink>", 2),
    ({"<ink>": TWO[0]}, "<ink>", 1),
    ({"string_to_token": {"*": 265}, "string_to_param": {"*": TWO}, "name": "ink", "step": 500, "sd_checkpoint": None},
     "ink", 2),
    ({"string_to_token": {"*": 265}, "string_to_param": {"*": TWO}, "name": ""}, None, 2),
    ({"emb_params": TWO}, None, 2),
])
def test_embeddings_of_every_program(tensors, token, rows):
    found, vectors = embedding(tensors, 8, "file")
    assert found == token and vectors.dtype == np.float32 and np.array_equal(vectors, TWO[:rows])


@pytest.mark.parametrize("tensors, message", [
    ({"<ink>": np.zeros(768, np.float32)},
     r"width 768 \(Stable Diffusion 1.x\), the base needs 1024 \(Stable Diffusion 2.x\)"),
    ({"emb_params": np.zeros((3, 320), np.float32)}, "width 320, the base needs 1024"),
    ({"clip_l": np.zeros((1, 768)), "clip_g": np.zeros((1, 1280))}, "Stable Diffusion XL .*clip_l"),
    ({"a": TWO, "b": TWO}, r"holds 2 embeddings \(a, b\)"),
    ({}, "holds 0 embeddings"),
    ({"string_to_param": {}}, "holds 0 embeddings"),
    ({"string_to_param": {"*": 3}}, "no vectors"),
    ({"<ink>": np.zeros((1, 2, 1024), np.float32)}, "no vectors"),
    ({"<ink>": np.zeros(1024, int)}, "no vectors"),
])
def test_embeddings_that_do_not_fit(tensors, message):
    with pytest.raises(StyleBlendError, match=message):
        embedding(tensors, 1024, "file")
