"""LDM's and OpenCLIP's names of the layers are read as diffusers' are, from every program, and written."""
from __future__ import annotations

import numpy as np
import pytest
from test_formats import TEXT_NAMES, UNET_NAMES, assert_same, full_lora, renamed

from styleblend.adapters import lora
from styleblend.adapters.foreign_files import read_tensors
from styleblend.adapters.formats import TEXT_PATHS, UNET_PATHS, layer_table
from styleblend.adapters.inspect import inspect
from styleblend.adapters.lora import text_lora, unet_lora
from styleblend.adapters.original_names import of_text, of_unet, original_names
from styleblend.cli import main
from styleblend.errors import StyleBlendError
from styleblend.files.tensor_files import write_safetensors


@pytest.fixture(scope="module")
def ours(tiny_base):
    return full_lora(tiny_base.unet, lora.UNET_TARGETS)


@pytest.fixture(scope="module")
def our_text(tiny_base):
    return full_lora(tiny_base.text_encoder, lora.TEXT_TARGETS)


def ldm(path: str) -> str:
    return of_unet(path, 2)


# The attention blocks in the config of the original (model_channels 320, num_res_blocks 2, attention at 4, 2 and 1).
BLOCKS = {"down_blocks.0.attentions.0": "input_blocks.1.1", "down_blocks.0.attentions.1": "input_blocks.2.1",
          "down_blocks.1.attentions.0": "input_blocks.4.1", "down_blocks.1.attentions.1": "input_blocks.5.1",
          "down_blocks.2.attentions.0": "input_blocks.7.1", "down_blocks.2.attentions.1": "input_blocks.8.1",
          "mid_block.attentions.0": "middle_block.1",
          "up_blocks.1.attentions.0": "output_blocks.3.1", "up_blocks.1.attentions.1": "output_blocks.4.1",
          "up_blocks.1.attentions.2": "output_blocks.5.1", "up_blocks.2.attentions.0": "output_blocks.6.1",
          "up_blocks.2.attentions.1": "output_blocks.7.1", "up_blocks.2.attentions.2": "output_blocks.8.1",
          "up_blocks.3.attentions.0": "output_blocks.9.1", "up_blocks.3.attentions.1": "output_blocks.10.1",
          "up_blocks.3.attentions.2": "output_blocks.11.1"}


def test_every_block_has_its_original_name(tiny_base):
    found = original_names([path for path, _ in lora.targets(tiny_base.unet, lora.UNET_TARGETS)], "unet")
    blocks = {path.split(".transformer_blocks")[0]: name.split(".transformer_blocks")[0]
              for path, name in found.items()}
    assert blocks == BLOCKS and {path.split(".transformer_blocks")[0] for path in UNET_PATHS} == set(BLOCKS)
    assert of_text("text_model.encoder.layers.3.self_attn.out_proj") == "resblocks.3.attn.out_proj"


def test_other_depths_are_counted_from_the_names():
    """A UNet of three layers a block: the downsampler is the fourth."""
    paths = [f"{block}.transformer_blocks.0.attn1.to_q" for block in
             ("down_blocks.1.attentions.0", "down_blocks.1.attentions.2", "up_blocks.1.attentions.3")]
    assert [name.split(".trans")[0] for name in original_names(paths, "unet").values()] == [
        "input_blocks.5.1", "input_blocks.7.1", "output_blocks.7.1"]


@pytest.mark.parametrize("kind, paths, names", [("unet", UNET_PATHS, 5), ("text", TEXT_PATHS, 7)])
def test_no_two_layers_share_a_name(kind, paths, names):
    """Of all the names that files give a layer."""
    assert len(layer_table(paths, kind)) == names * len(paths)


def dots_to_underscores(start):
    return lambda path: start + ldm(path).replace(".", "_")


UNET = {
    "ComfyUI": ("diffusion_model.", ".lora_down.weight", ".lora_up.weight", ldm),
    "as in a checkpoint": ("model.diffusion_model.", ".lora_down.weight", ".lora_up.weight", ldm),
    "without prefix": ("", ".lora_down.weight", ".lora_up.weight", ldm),
    "unet.": ("unet.", ".lora.down.weight", ".lora.up.weight", ldm),
    "PEFT": ("base_model.model.", ".lora_A.weight", ".lora_B.weight", ldm),
    "PEFT around all": ("base_model.model.model.diffusion_model.", ".lora_A.default.weight", ".lora_B.default.weight",
                        ldm),
    "kohya": ("", ".lora_down.weight", ".lora_up.weight", dots_to_underscores("lora_unet_")),
    "A1111": ("", ".lora_down.weight", ".lora_up.weight", dots_to_underscores("diffusion_model_")),
    "diffusers' names with that prefix": ("diffusion_model.", ".lora_down.weight", ".lora_up.weight"),
}
TEXT = {
    "as in a checkpoint": ("cond_stage_model.model.transformer.", ".lora_down.weight", ".lora_up.weight", of_text),
    "OpenCLIP": ("transformer.", ".lora_A.weight", ".lora_B.weight", of_text),
    "OpenCLIP in a model": ("model.transformer.", ".lora_down.weight", ".lora_up.weight", of_text),
    "without prefix": ("", ".lora_down.weight", ".lora_up.weight", of_text),
    "PEFT": ("base_model.model.transformer.", ".lora_A.weight", ".lora_B.weight", of_text),
    "A1111": ("model_transformer_", ".lora_down.weight", ".lora_up.weight",
              lambda path: of_text(path).replace(".", "_")),
    "kohya's prefix": ("lora_te_", ".lora_down.weight", ".lora_up.weight",
                       lambda path: of_text(path).replace(".", "_")),
    "ComfyUI": ("text_encoders.clip_h.transformer.", ".lora_down.weight", ".lora_up.weight"),
}


@pytest.mark.filterwarnings("ignore:.*does not say how strong")
@pytest.mark.parametrize("names", UNET)
def test_every_spelling_of_the_unets_names_is_ours(tiny_base, ours, tmp_path, names):
    write_safetensors(tmp_path / "x", renamed(ours, *UNET[names]))
    assert_same(unet_lora(read_tensors(tmp_path / "x"), tiny_base.unet, "file"), ours)


@pytest.mark.filterwarnings("ignore:.*does not say how strong")
@pytest.mark.parametrize("names", TEXT)
def test_every_spelling_of_the_text_encoders_names_is_ours(tiny_base, our_text, tmp_path, names):
    write_safetensors(tmp_path / "x", renamed(our_text, *TEXT[names]))
    assert_same(text_lora(read_tensors(tmp_path / "x"), tiny_base.text_encoder, "file"), our_text)


@pytest.mark.parametrize("fused", ["attn.in_proj", "attn.in_proj_weight", "attn"])
def test_a_lora_on_the_fused_matrix_is_one_on_each_of_its_three(tiny_base, tmp_path, fused):
    """The last as PEFT names it, which puts the output projection into a layer of its own."""
    width, rng = tiny_base.text_encoder.config.hidden_size, np.random.default_rng(3)
    down, up = (rng.normal(size=shape).astype(np.float32) for shape in ((2, width), (3 * width, 2)))
    start, out = "cond_stage_model.model.transformer.resblocks.1.", "attn.base_layer.out_proj"
    write_safetensors(tmp_path / "x", {
        f"{start}{fused}.lora_A.weight": down, f"{start}{fused}.lora_B.weight": up,
        f"{start}{fused}.alpha": np.array(4.0),
        f"{start}{out}.lora_A.weight": down, f"{start}{out}.lora_B.weight": up[:width]})
    found = text_lora(read_tensors(tmp_path / "x"), tiny_base.text_encoder, "file")
    layer = "text_model.encoder.layers.1.self_attn."
    change = np.concatenate([found[f"{layer}{part}_proj.lora.up.weight"] @ found[f"{layer}{part}_proj.lora.down.weight"]
                             for part in "qkv"])
    np.testing.assert_allclose(change, 2 * up @ down, rtol=1e-5, atol=1e-6)  # alpha 4, rank 2
    np.testing.assert_array_equal(found[f"{layer}out_proj.lora.up.weight"], up[:width])
    assert len(found) == 8
    write_safetensors(tmp_path / "y", {f"{start}{fused}.lora_A.weight": down, f"{start}{fused}.lora_B.weight": up[:-1]})
    with pytest.raises(StyleBlendError, match="rows, which are not q, k and v"):
        read_tensors(tmp_path / "y")


def test_the_layer_that_stable_diffusion_does_not_read_is_left_out_aloud(tiny_base, our_text, tmp_path):
    layer = "cond_stage_model.model.transformer.resblocks.23.attn.out_proj"
    more = {f"{layer}.lora_{end}.weight": np.ones((2, 2), np.float32) for end in ("down", "up")}
    write_safetensors(tmp_path / "x", {**renamed(our_text, *TEXT["as in a checkpoint"]), **more})
    with pytest.warns(UserWarning, match="layer 23 of the text encoder is left out"):
        assert_same(text_lora(read_tensors(tmp_path / "x"), tiny_base.text_encoder, "file"), our_text)


def as_comfyui_trains(ours: dict) -> dict:
    """All layers of the UNet, with the vectors of norms and biases beside them."""
    start, tensors = "diffusion_model.", renamed(ours, *UNET["ComfyUI"])
    for layer in ("time_embed.0", "input_blocks.0.0", "input_blocks.1.0.in_layers.2", "input_blocks.1.0.emb_layers.1",
                  "input_blocks.3.0.op", "input_blocks.4.0.skip_connection", "input_blocks.1.1.proj_in",
                  "input_blocks.1.1.transformer_blocks.0.ff.net.0.proj", "output_blocks.5.2.conv", "out.2"):
        tensors.update({f"{start}{layer}.lora_{end}.weight": np.ones((2, 2), np.float32) for end in ("down", "up")})
        tensors.update({f"{start}{layer}.alpha": np.array(1.0), f"{start}{layer}.diff_b": np.ones(2, np.float32)})
    for layer in ("input_blocks.1.0.in_layers.0", "input_blocks.1.1.norm", "out.0",
                  "input_blocks.1.1.transformer_blocks.0.norm1"):
        tensors.update({f"{start}{layer}.{end}": np.ones(2, np.float32) for end in ("diff", "diff_b")})
    return {**tensors, f"{start}{ldm(UNET_PATHS[3])}.diff_b": np.ones(2, np.float32)}


def test_what_comfyuis_trainer_changes_beside_attention_is_left_out_when_asked(tiny_base, ours, tmp_path):
    write_safetensors(tmp_path / "x", as_comfyui_trains(ours))
    with pytest.raises(StyleBlendError, match="layers outside attention .bias, .*--attention-only") as refused:
        read_tensors(tmp_path / "x")
    assert len(str(refused.value)) - len(str(tmp_path)) < 240
    with pytest.warns(UserWarning, match="layers outside attention"):
        assert_same(unet_lora(read_tensors(tmp_path / "x", True), tiny_base.unet, "file"), ours)


def test_a_whole_difference_of_an_attention_layer_is_no_lora(tmp_path):
    write_safetensors(tmp_path / "x", {f"diffusion_model.{ldm(UNET_PATHS[3])}.diff": np.ones((8, 8), np.float32)})
    with pytest.raises(StyleBlendError, match="LyCORIS"):
        read_tensors(tmp_path / "x")


# ---------------------------------------------------------------- which model these names are for, the widths tell

def pair(name: str, width: int, end=(".lora_down.weight", ".lora_up.weight")) -> dict:
    return {name + end[0]: np.ones((2, width), np.float32), name + end[1]: np.ones((8, 2), np.float32)}


KOHYA = "lora_unet_input_blocks_4_1_transformer_blocks_0_"
OTHER_MODELS = {
    "kohya, SD 1": (pair(f"{KOHYA}attn2_to_k", 768), "768 .Stable Diffusion 1"),
    "kohya, XL": (pair(f"{KOHYA}attn2_to_v", 2048), "2048 .Stable Diffusion XL"),
    "kohya, XL by its depth": (pair("lora_unet_middle_block_1_transformer_blocks_7_attn1_to_q", 1280), "diffusion XL"),
    "diffusers, XL by its depth": (pair("unet.down_blocks.1.attentions.0.transformer_blocks.1.attn1.to_q", 640), "XL"),
    "ComfyUI, SD 1": (pair("diffusion_model.output_blocks.5.1.transformer_blocks.0.attn2.to_k", 768), "768"),
    "ComfyUI, XL": (pair("diffusion_model.input_blocks.4.1.transformer_blocks.0.attn2.to_k", 2048), "XL"),
    "ComfyUI, Flux": (pair("diffusion_model.double_blocks.0.img_attn.qkv", 3072), "Flux"),
    "ComfyUI, another transformer": (pair("diffusion_model.layers.0.attention.to_q", 2304), "another transformer"),
    "text encoder of SD 1": (pair("cond_stage_model.transformer.text_model.encoder.layers.0.self_attn.q_proj", 768),
                             "768 .Stable Diffusion 1"),
    "text encoders of XL": (pair("conditioner.embedders.1.model.transformer.resblocks.0.attn.out_proj", 1280), "XL"),
    "ComfyUI, text encoders of XL": (
        pair("text_encoders.clip_g.transformer.text_model.encoder.layers.0.self_attn.q_proj", 1280), "XL"),
    "a block without attention": (pair("diffusion_model.input_blocks.3.1.transformer_blocks.0.attn1.to_q", 8),
                                  "names no layer"),
}


@pytest.mark.parametrize("kind", OTHER_MODELS)
def test_inspect_and_load_refuse_another_model_alike(kind, tiny_base, tmp_path):
    tensors, words = OTHER_MODELS[kind]
    write_safetensors(tmp_path / "x", tensors)
    with pytest.raises(StyleBlendError, match=f"(?i){words}") as of_inspect:
        inspect(tmp_path / "x")
    with pytest.raises(StyleBlendError, match=f"(?i){words}"):
        found = read_tensors(tmp_path / "x")
        unet_lora(found, tiny_base.unet, str(tmp_path / "x"))
        text_lora(found, tiny_base.text_encoder, str(tmp_path / "x"))
    assert len(str(of_inspect.value)) - len(str(tmp_path)) < 230


@pytest.mark.parametrize("width", [1024, 128])
def test_kohyas_original_names_of_our_models_are_not_called_xl(width, tmp_path):
    write_safetensors(tmp_path / "x", pair(f"{KOHYA}attn2_to_k", width))
    facts = inspect(tmp_path / "x")
    assert facts["width"].startswith(str(width)) and facts["targets"] == "to_k" and "original" in facts["kind"]


def test_a_layer_under_both_names_is_there_twice(tiny_base, ours, tmp_path):
    one = {key: value for key, value in ours.items() if key.startswith(UNET_PATHS[0])}
    write_safetensors(tmp_path / "x", {**renamed(one, *UNET["ComfyUI"]), **renamed(one, *UNET_NAMES["kohya"])})
    for read in (inspect, lambda path: unet_lora(read_tensors(path), tiny_base.unet, "file")):
        with pytest.raises(StyleBlendError, match="a second time under another name"):
            read(tmp_path / "x")


def test_both_networks_in_one_file_come_apart(tiny_base, ours, our_text, tmp_path):
    write_safetensors(tmp_path / "x", {**renamed(ours, *UNET["ComfyUI"]), **renamed(our_text, *TEXT_NAMES["kohya"])})
    found = read_tensors(tmp_path / "x")
    assert_same(unet_lora(found, tiny_base.unet, "file"), ours)
    assert_same(text_lora(found, tiny_base.text_encoder, "file"), our_text)


def test_what_is_exported_has_the_names_of_an_original_checkpoint(trained, tmp_path, capsys):
    assert main(["export", str(tmp_path / "adapters" / "dots"), "--format", "ldm", "--output",
                 str(tmp_path / "out")]) == 0
    assert "--format kohya" in capsys.readouterr().err  # for ComfyUI's text encoder
    names = {key.rsplit(".lora_", 1)[0] for key in read_tensors(tmp_path / "out" / "dots.safetensors")
             if not key.endswith("alpha")}
    assert {name for name in names if name.startswith("diffusion_model.")} == {
        f"diffusion_model.{ldm(path)}" for path in UNET_PATHS}
    assert {name.split(".attn.")[0] for name in names if name.startswith("cond")} == {
        f"cond_stage_model.model.transformer.resblocks.{i}" for i in range(3)}
