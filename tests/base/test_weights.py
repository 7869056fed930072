"""Loading a base: strict, in one piece, and with one clear line when it cannot be done."""
from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml

from styleblend.base import weights
from styleblend.files import tensor_files
from styleblend.base.base import load_base
from styleblend.cli import main
from styleblend.diffusion.samplers import SAMPLERS
from styleblend.errors import StyleBlendError
from styleblend.models.configs import ScheduleConfig, check_schedule
from styleblend.models.layers import Linear
from styleblend.machine.runtime import jt
from styleblend.pipeline import Pipeline

FILES = {"unet": "unet/diffusion_pytorch_model.safetensors", "vae": "vae/diffusion_pytorch_model.safetensors",
         "text_encoder": "text_encoder/model.safetensors"}
GAIN = "conv_norm_out.weight"  # a tensor of the UNet


@pytest.fixture
def folder(tiny_folder, tmp_path) -> Path:
    """A copy of the tiny base that a test may damage."""
    return Path(shutil.copytree(tiny_folder, tmp_path / "base"))


def change_tensors(folder: Path, part: str, change) -> None:
    """Rewrite a network's file; `change` takes the dict of tensors and returns the new one."""
    tensor_files.write_safetensors(folder / FILES[part], change(tensor_files.read_safetensors(folder / FILES[part])))


def change_config(folder: Path, name: str, **values) -> None:
    """Set fields of a JSON file; None takes a field away."""
    data = {**json.loads((folder / name).read_text()), **values}
    (folder / name).write_text(json.dumps({key: value for key, value in data.items() if value is not None}))


def networks(base) -> dict:
    return {"unet": base.unet, "vae": base.vae, "text_encoder": base.text_encoder}


def same_parameters(first, second) -> bool:
    """Whether two networks hold the same numbers, bit for bit."""
    ours, theirs = weights.parameters(first), weights.parameters(second)
    return list(ours) == list(theirs) and all(np.array_equal(ours[name].numpy(), theirs[name].numpy()) for name in ours)


# ---------------------------------------------------------------- what is refused

def truncate(folder):
    path = folder / FILES["unet"]
    path.write_bytes(path.read_bytes()[:-1000])


def truncate_header(folder):
    path = folder / FILES["vae"]
    path.write_bytes(path.read_bytes()[:100])


def no_safetensors(folder):
    (folder / FILES["unet"]).write_bytes(b"<html>404 not found</html>" * 40)


def pickle_only(folder):
    (folder / FILES["unet"]).rename(folder / "unet" / "diffusion_pytorch_model.bin")


def stable_diffusion_1_5(folder):
    """Its config files, as far as they say what it is."""
    change_config(folder, "unet/config.json", use_linear_projection=None, cross_attention_dim=768, attention_head_dim=8)
    change_config(folder, "text_encoder/config.json", hidden_size=768, hidden_act="quick_gelu", num_hidden_layers=12)
    change_config(folder, "scheduler/scheduler_config.json", prediction_type=None)


def width_768(folder):
    """Linear projections do not save a base whose texts are 768 wide."""
    change_config(folder, "unet/config.json", cross_attention_dim=768)
    change_config(folder, "text_encoder/config.json", hidden_size=768)


BROKEN = {  # what is done to the folder, words that the message must have
    "a missing tensor": (lambda f: change_tensors(f, "unet", lambda t: {k: v for k, v in t.items() if k != GAIN}),
                         ["1 tensors are missing", GAIN, FILES["unet"]]),
    "a missing tensor of the VAE": (
        lambda f: change_tensors(f, "vae", lambda t: {k: v for k, v in t.items() if "quant_conv" not in k}),
        ["4 tensors are missing"]),
    "an extra tensor": (lambda f: change_tensors(f, "text_encoder",
                                                 lambda t: {**t, "text_projection.weight": np.zeros(3, np.float32)}),
                        ["1 tensors are too much", "text_projection.weight"]),
    "a wrong shape": (lambda f: change_tensors(f, "unet", lambda t: {**t, GAIN: np.ones(17, np.float32)}),
                      ["another shape", GAIN, "(17,)", "(16,)"]),
    "everything at once": (
        lambda f: change_tensors(f, "unet", lambda t: {
            **{k: v for k, v in t.items() if k != "conv_in.bias"}, GAIN: np.ones(17, np.float32),
            "other": np.ones(1, np.float32)}),
        ["missing", "too much", "another shape"]),
    "a truncated file": (truncate, [FILES["unet"], "no whole safetensors file"]),
    "a truncated header": (truncate_header, [FILES["vae"], "no whole safetensors file"]),
    "a page instead of weights": (no_safetensors, [FILES["unet"], "no whole safetensors file"]),
    "an empty file": (lambda f: (f / FILES["unet"]).write_bytes(b""), [FILES["unet"], "no whole safetensors file"]),
    "a pickle only": (pickle_only, ["diffusion_pytorch_model.bin", "pickle", ".safetensors"]),
    "no weights at all": (lambda f: (f / FILES["vae"]).unlink(), ["vae", "whole diffusers folder"]),
    "no part": (lambda f: shutil.rmtree(f / "unet"), ["unet/config.json is missing"]),
    "no scheduler": (lambda f: shutil.rmtree(f / "scheduler"), ["scheduler_config.json is missing"]),
    "a config that is no JSON": (lambda f: (f / "unet" / "config.json").write_text("{"), ["unet/config.json", "JSON"]),
    "a config that is a list": (lambda f: (f / "unet" / "config.json").write_text("[]"), ["unet/config.json", "JSON"]),
    "Stable Diffusion 1.5": (stable_diffusion_1_5, ["unet/config.json", "use_linear_projection", "1.x"]),
    "a text width of 768": (width_768, ["1.x", "768"]),
    "parts of two models": (lambda f: change_config(f, "text_encoder/config.json", hidden_size=64),
                            ["64 wide", "reads 32", "two models"]),
    "another noise schedule": (lambda f: change_config(f, "scheduler/scheduler_config.json", beta_schedule="linear"),
                               ["beta_schedule", "'linear'"]),
    "steps beyond the schedule": (lambda f: change_config(f, "scheduler/scheduler_config.json", steps_offset=5000),
                                  ["steps_offset is 5000", "1000 time steps"]),
    "steps a little beyond it": (lambda f: change_config(f, "scheduler/scheduler_config.json", steps_offset=2),
                                 ["steps_offset is 2", "in 500 steps, for one"]),
    "too few time steps": (lambda f: change_config(f, "scheduler/scheduler_config.json", num_train_timesteps=10),
                           ["num_train_timesteps is 10", "Stable Diffusion has 1000"]),
    "noise that shrinks": (lambda f: change_config(f, "scheduler/scheduler_config.json", beta_start=0.5),
                           ["beta_start is 0.5"]),
    "noise of more than 1": (lambda f: change_config(f, "scheduler/scheduler_config.json", beta_end=1.5),
                             ["beta_end 1.5"]),
    "a time step of noise alone": (lambda f: change_config(f, "scheduler/scheduler_config.json", beta_end=0.9),
                                   ["beta_end 0.9", "with nothing else"]),
    "a time step without noise": (lambda f: change_config(f, "scheduler/scheduler_config.json", beta_start=1e-9),
                                  ["beta_start 1e-09", "no noise"]),
    "another prediction": (lambda f: change_config(f, "scheduler/scheduler_config.json", prediction_type="sample"),
                           ["prediction_type", "'sample'"]),
    "another activation": (lambda f: change_config(f, "text_encoder/config.json", hidden_act="relu"),
                           ["hidden_act", "'relu'"]),
    "Stable Diffusion XL": (lambda f: change_config(f, "model_index.json", _class_name="StableDiffusionXLPipeline"),
                            ["StableDiffusionXLPipeline", "2.x"]),
    "no folder": (shutil.rmtree, ["does not exist"]),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_base_is_refused_with_one_line(name, folder):
    damage, words = BROKEN[name]
    damage(folder)
    with pytest.raises(StyleBlendError) as caught:
        load_base(folder)
    message = str(caught.value)
    assert "\n" not in message and all(word in message for word in words), message


def test_the_report_names_three_tensors_and_the_cure(folder):
    """Not all of them: another model's file would fill the screen."""
    change_tensors(folder, "unet", lambda t: {k: v for k, v in t.items() if not k.startswith("mid_block")})
    with pytest.raises(StyleBlendError) as caught:
        load_base(folder)
    message = str(caught.value)
    assert message.count("mid_block.") == 3 and ", ...)" in message and "Download the whole folder again" in message


SEVENS = {"weight": np.full((3, 4), 7, np.float32), "bias": np.full(3, 7, np.float32)}
WRONG = pytest.mark.parametrize("wrong", [
    {"bias": np.ones(3, np.float32)}, {"weight": np.ones((3, 2), np.float32), "bias": np.ones(3, np.float32)},
    {"weight": np.ones((3, 4), np.float32), "bias": np.ones(3, np.float32), "other": np.ones(1, np.float32)}],
    ids=["missing", "shape", "extra"])


@WRONG
def test_nothing_is_half_loaded(wrong):
    network = Linear(4, 3)
    weights.load(network, dict(SEVENS), "first")
    with pytest.raises(StyleBlendError, match="second"):
        weights.load(network, wrong, "second")
    assert (network.weight.numpy() == 7).all() and (network.bias.numpy() == 7).all()


@WRONG
def test_nothing_is_half_shared(wrong):
    network = Linear(4, 3)
    weights.load(network, dict(SEVENS), "first")
    with pytest.raises(StyleBlendError, match="second"):
        weights.share(network, {name: jt.array(t) for name, t in wrong.items()}, "second")
    assert (network.weight.numpy() == 7).all() and (network.bias.numpy() == 7).all()


def test_a_missing_tokenizer_file_is_named(folder):
    (folder / "tokenizer" / "merges.txt").unlink()
    with pytest.raises(StyleBlendError, match="merges.txt is missing"):
        load_base(folder).tokenizer()


class Schedule:
    """As much of a noise schedule as its time steps depend on."""

    def __init__(self, count: int, offset: int):
        self.config = ScheduleConfig(num_train_timesteps=count, steps_offset=offset)

    def __len__(self) -> int:
        return self.config.num_train_timesteps


@pytest.mark.parametrize("count", [100, 101, 250, 1000, 1001, 1500, 4000])
@pytest.mark.parametrize("offset", range(4))
def test_a_schedule_is_refused_where_a_sampler_would_leave_it(count, offset):
    """Every number of steps that settings allow, walked by every sampler: each time step is there, and there once."""
    schedule = Schedule(count, offset)

    def walks(sampler, steps: int) -> bool:
        times = sampler.timesteps(schedule, steps)
        return len(set(times.tolist())) == steps and 0 <= times.min() and times.max() < count

    numbers = range(1, schedule.config.most_steps + 1)
    if all(walks(sampler, steps) for sampler in SAMPLERS.values() for steps in numbers):
        check_schedule(schedule.config, Path("scheduler.json"))
    else:
        with pytest.raises(StyleBlendError, match=f"scheduler.json: steps_offset is {offset}, which leads out of the"):
            check_schedule(schedule.config, Path("scheduler.json"))
    assert numbers[-1] == min(count - 1, 999)


def test_more_steps_than_the_schedule_has_are_refused(trained, folder, tmp_path, capsys):
    """Where base and settings meet: in drawing and, before anything is drawn or learned, in training."""
    change_config(folder, "scheduler/scheduler_config.json", num_train_timesteps=100)
    settings = {**yaml.safe_load(trained.read_text()), "base": str(folder), "adapters": str(tmp_path / "new")}
    settings["training"]["look_alikes"]["steps"] = 100
    trained.write_text(yaml.safe_dump(settings))
    assert main(["train", "coarse", "--config", str(trained)]) == 2
    words = "is 100, and the noise schedule of this base has 100 time steps: ask for 99 at most"
    assert f"training.look_alikes.steps {words}" in capsys.readouterr().err
    settings["training"]["look_alikes"]["steps"], settings["sampling"]["steps"] = 2, 100
    settings["training"]["sample_every"] = 1
    trained.write_text(yaml.safe_dump(settings))
    assert main(["train", "fine", "--config", str(trained)]) == 2
    assert f"sampling.steps {words}" in capsys.readouterr().err
    assert not list(tmp_path.rglob("new/**/*.safetensors")) and not list(tmp_path.rglob("look/**/*.png"))
    with pytest.raises(StyleBlendError, match=f"sampling.steps {words}"):
        Pipeline(load_base(folder)).pictures("A cat", steps=100, width=64, height=64)


# ---------------------------------------------------------------- what is accepted

def write_typed(path: Path, tensors: dict, kind: str) -> None:
    """A safetensors file in F32, F16 or BF16, byte by byte: NumPy has no bfloat16."""
    header, blobs, offset = {}, [], 0
    for name, tensor in tensors.items():
        if kind == "BF16":
            blob = (tensor.astype(np.float32).view(np.uint32) >> 16).astype(np.uint16).tobytes()
        else:
            blob = tensor.astype({"F32": np.float32, "F16": np.float16}[kind]).tobytes()
        header[name] = {"dtype": kind, "shape": list(tensor.shape), "data_offsets": [offset, offset + len(blob)]}
        blobs.append(blob)
        offset += len(blob)
    head = json.dumps(header).encode()
    head += b" " * (-len(head) % 8)
    path.write_bytes(len(head).to_bytes(8, "little") + head + b"".join(blobs))


def test_precisions_on_disk_load_the_same(folder):
    """Numbers that all three can hold: 7 bits, not too small for fp16."""
    original = tensor_files.read_safetensors(folder / FILES["vae"])
    tensors = {name: (np.round(t * 64) / 64).astype(np.float32) for name, t in original.items()}
    loaded = {}
    for kind in ("F32", "F16", "BF16"):
        write_typed(folder / FILES["vae"], tensors, kind)
        loaded[kind] = load_base(folder).vae
        assert all(p.dtype == "float32" for p in weights.parameters(loaded[kind]).values())
    assert same_parameters(loaded["F32"], loaded["F16"]) and same_parameters(loaded["F32"], loaded["BF16"])
    assert np.array_equal(loaded["BF16"].encoder.conv_in.weight.numpy(), tensors["encoder.conv_in.weight"])


def test_scalars_and_empty_files_of_bfloat16(tmp_path):
    write_typed(tmp_path / "x.safetensors", {"a": np.array([[1.5, -2]], np.float32),
                                             "scalar": np.array(3, np.float32)}, "BF16")
    found = tensor_files.read_safetensors(tmp_path / "x.safetensors")
    assert found["a"].tolist() == [[1.5, -2]] and found["scalar"].shape == () and found["scalar"] == 3


def test_a_file_named_fp16_is_found(folder, tiny_base):
    path = folder / FILES["vae"]
    path.rename(path.with_name("diffusion_pytorch_model.fp16.safetensors"))
    assert same_parameters(load_base(folder).vae, tiny_base.vae)


def test_names_of_transformers_5_and_old_buffers(folder, tiny_base):
    change_tensors(folder, "text_encoder", lambda t: {k[len("text_model."):]: v for k, v in t.items()})
    assert same_parameters(load_base(folder).text_encoder, tiny_base.text_encoder)
    change_tensors(folder, "text_encoder", lambda t: {**{f"text_model.{k}": v for k, v in t.items()},
                                                      "text_model.embeddings.position_ids": np.arange(77)[None]})
    assert same_parameters(load_base(folder).text_encoder, tiny_base.text_encoder)


@pytest.mark.parametrize("convolutions", [False, True], ids=["matrices", "1x1 convolutions"])
def test_old_names_of_the_autoencoders_attention(convolutions, folder, tiny_base):
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}

    def rename(tensors):
        renamed = {}
        for key, tensor in tensors.items():
            for new_name, old_name in old.items():
                if f"mid_block.attentions.0.{new_name}." in key:
                    key = key.replace(new_name, old_name)
                    tensor = tensor[:, :, None, None] if convolutions and tensor.ndim == 2 else tensor
            renamed[key] = tensor
        return renamed

    change_tensors(folder, "vae", rename)
    assert sum("proj_attn" in key for key in tensor_files.read_safetensors(folder / FILES["vae"])) == 4
    assert same_parameters(load_base(folder).vae, tiny_base.vae)


def test_a_base_loads_what_is_on_disk(tiny_folder, tiny_base):
    for part, network in networks(tiny_base).items():
        stored, own = tensor_files.read_safetensors(tiny_folder / FILES[part]), weights.parameters(network)
        assert (set(stored) == set(own)
                and all(np.array_equal(own[name].numpy(), tensor) for name, tensor in stored.items()))
        assert all(p.is_stop_grad() for p in own.values())


def test_sharing_copies_nothing():
    first, second = Linear(4, 3), Linear(4, 3)
    weights.load(first, dict(SEVENS), "first")
    pointers = {name: v.raw_ptr for name, v in weights.parameters(first).items()}
    weights.share(second, weights.parameters(first), "second")
    assert {name: v.raw_ptr for name, v in weights.parameters(second).items()} == pointers
    assert same_parameters(first, second) and (second.weight.numpy() == 7).all()
    weights.load(second, {name: t + 1 for name, t in SEVENS.items()}, "third")  # a new load gives it memory of its own
    assert (first.weight.numpy() == 7).all() and (second.weight.numpy() == 8).all()


def test_shared_half_precision_becomes_float32():
    first, second = {name: jt.array(t).float16() for name, t in SEVENS.items()}, Linear(4, 3)
    weights.share(second, first, "half")
    assert second.weight.dtype == second.bias.dtype == "float32" and (second.weight.numpy() == 7).all()
    assert all(v.dtype == "float16" for v in first.values())


def test_config_fields_set_the_prediction(folder):
    change_config(folder, "scheduler/scheduler_config.json", prediction_type=None)
    assert load_base(folder).schedule.config.prediction_type == "epsilon"
