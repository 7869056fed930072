"""A pipeline that JDiffusion has in memory becomes a base: its own memory, its tokenizer, the same pictures."""
from __future__ import annotations

import gc
import json
import shutil
import tempfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import styleblend
from drawing import all_branches, request
from reference import seeded
from styleblend.base import weights
from styleblend.files import tensor_files
from styleblend.errors import StyleBlendError
from styleblend.pipeline import Pipeline
from styleblend.machine.runtime import jt
from styleblend.settings import SamplingSettings

FILES = {"unet": "unet/diffusion_pytorch_model.safetensors", "vae": "vae/diffusion_pytorch_model.safetensors",
         "text_encoder": "text_encoder/model.safetensors"}
TEXTS = ["A cat in the style of Monet.", "Épicé, don't 123 ☃", ""]


class Part(jt.nn.Module):
    """Any module, as far as its names tell: "conv_in.weight" is the attribute `weight` of the attribute `conv_in`."""

    def put(self, name: str, variable) -> None:
        first, _, rest = name.partition(".")
        if not rest:
            setattr(self, first, variable)
            return
        if first not in self.__dict__:
            setattr(self, first, Part())
        self.__dict__[first].put(rest, variable)


class TextConfig:
    """transformers' configurations are objects with to_dict; those of diffusers are dicts."""

    def __init__(self, **values):
        self.values = values

    def to_dict(self) -> dict:
        return {**self.values, "torch_dtype": "float32", "architectures": ["CLIPTextModel"]}


def part(folder: Path, name: str) -> Part:
    module = Part()
    for key, tensor in tensor_files.read_safetensors(folder / FILES[name]).items():
        module.put(key, jt.array(tensor))
    config = json.loads((folder / name / "config.json").read_text())
    module.config = (TextConfig(**config) if name == "text_encoder"
                     else {"_class_name": "Theirs", "num_class_embeds": None, **config})
    return module


@pytest.fixture
def theirs(tiny_folder):
    """The tiny base as JDiffusion holds one: made of other classes, with fields and buffers that we have no use for."""
    from transformers import CLIPTokenizer

    pipeline = SimpleNamespace(**{name: part(tiny_folder, name) for name in FILES},
                               tokenizer=CLIPTokenizer.from_pretrained(str(tiny_folder / "tokenizer")))
    pipeline.scheduler = SimpleNamespace(config={**seeded.SCHEDULE, "prediction_type": "v_prediction",
                                                 "trained_betas": None, "skip_prk_steps": True})
    pipeline.text_encoder.put("text_model.embeddings.position_ids", jt.array(np.arange(77, dtype=np.int32)[None]))
    return pipeline


@pytest.fixture
def temporary(tmp_path, monkeypatch) -> Path:
    """The folder in which temporary files are made."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def test_weights_are_the_pipelines_own_memory(theirs, tiny_base):
    pointers = {name: {key: v.raw_ptr for key, v in getattr(theirs, name).state_dict().items()} for name in FILES}
    base = styleblend.from_jdiffusion(theirs)
    for name in FILES:
        ours, loaded = weights.parameters(getattr(base, name)), weights.parameters(getattr(tiny_base, name))
        assert set(ours) == set(loaded) and all(v.raw_ptr == pointers[name][key] for key, v in ours.items())
        # nor did theirs move
        assert {key: v.raw_ptr for key, v in getattr(theirs, name).state_dict().items()} == pointers[name]
    assert base.fingerprint() == tiny_base.fingerprint()


def test_the_pipeline_can_still_be_trained(theirs):
    """A base takes no gradients; the pipeline that it shares its memory with does."""
    base = styleblend.from_jdiffusion(theirs)
    theirs_too, ours = theirs.unet.conv_in.weight, base.unet.conv_in.weight
    assert theirs_too.requires_grad and not ours.requires_grad
    gradient = jt.grad((theirs_too * theirs_too).sum(), theirs_too)
    assert np.array_equal(gradient.numpy(), 2 * theirs_too.numpy()) and gradient.numpy().any()


def test_it_draws_what_the_folder_draws(theirs, tiny_base, tiny_style):
    sampling = SamplingSettings(steps=2, width=64, height=64, guidance=3.0)
    asked = request(["A cat"], [7], sampling, tiny_style)
    ours, from_theirs = (all_branches(Pipeline(base), asked)
                         for base in (tiny_base, styleblend.from_jdiffusion(theirs)))
    assert ours.std() > 5 and np.array_equal(ours, from_theirs)


@pytest.mark.parametrize("pad", ["!", "<|endoftext|>"])
def test_the_tokenizer_gives_the_pipelines_ids(pad, theirs):
    """The padding is part of it: SD 2.x pads with "!", other tokenizers with the end token."""
    theirs.tokenizer.pad_token = pad
    base = styleblend.from_jdiffusion(theirs)
    ours = base.tokenizer(("<C>",))
    padded = theirs.tokenizer(TEXTS, padding="max_length", max_length=77)["input_ids"]
    assert ours.encode(TEXTS).tolist() == padded and ours.pad == padded[0][-1]
    assert ours.ids("<C>")[1:-1] == [ours.vocabulary] == [len(theirs.tokenizer)]


def test_a_tokenizer_without_the_rust_core_writes_its_own_files(theirs, tiny_folder):
    """transformers 4 has such a one: save_vocabulary is all that it offers."""
    def save_vocabulary(folder):
        for name in ("vocab.json", "merges.txt"):
            shutil.copy(tiny_folder / "tokenizer" / name, folder)

    expected = styleblend.from_jdiffusion(theirs).tokenizer().encode(TEXTS)
    theirs.tokenizer = SimpleNamespace(pad_token="!", save_vocabulary=save_vocabulary)
    base = styleblend.from_jdiffusion(theirs)
    assert np.array_equal(base.tokenizer().encode(TEXTS), expected)


@pytest.mark.parametrize("prediction", ["v_prediction", "epsilon"])
def test_the_prediction_is_the_schedulers(prediction, theirs):
    theirs.scheduler.config["prediction_type"] = prediction
    assert styleblend.from_jdiffusion(theirs).schedule.config.prediction_type == prediction


def wider(pipeline):
    pipeline.unet.conv_in.bias = jt.zeros((17,))


REFUSED = {  # what is done to the pipeline, words that the message must have
    "no tokenizer": (lambda p: delattr(p, "tokenizer"), ["no tokenizer", "2.x"]),
    "a missing tensor": (lambda p: delattr(p.unet.conv_norm_out, "weight"),
                         ["the pipeline's unet", "1 tensors are missing", "conv_norm_out.weight"]),
    "an adapter in it": (lambda p: p.unet.put("conv_in.lora_layer.down.weight", jt.zeros((2, 4))),
                         ["1 tensors are too much", "lora_layer"]),
    "another shape": (wider, ["conv_in.bias", "(17,)", "(16,)"]),
    "Stable Diffusion 1.5": (lambda p: p.unet.config.update(use_linear_projection=False),
                             ["use_linear_projection", "1.x"]),
}


@pytest.mark.parametrize("name", REFUSED)
def test_another_pipeline_is_refused_with_one_line(name, theirs, temporary):
    damage, words = REFUSED[name]
    damage(theirs)
    with pytest.raises(StyleBlendError) as caught:
        styleblend.from_jdiffusion(theirs)
    message = str(caught.value)
    assert "\n" not in message and all(word in message for word in words), message
    assert not list(temporary.iterdir())


def test_the_tokenizers_folder_goes_with_the_base(theirs, temporary):
    base = styleblend.from_jdiffusion(theirs)
    assert list(temporary.iterdir()) == [base.folder]
    del base
    gc.collect()
    assert not list(temporary.iterdir())
