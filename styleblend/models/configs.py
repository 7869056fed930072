"""Sizes of the networks, read field by field from the `config.json` files of a diffusers folder.

The defaults are Stable Diffusion 2.1 (768 px, v-prediction). A field that this implementation cannot honour is refused
with its name, so that no checkpoint is ever run as something that it is not.
"""
from __future__ import annotations

import reprlib
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from styleblend.errors import StyleBlendError, printable
from styleblend.files.content import instead_of_text
from styleblend.files.text import read_json
from styleblend.settings import MOST_STEPS


@dataclass(frozen=True)
class ClipTextConfig:
    """CLIP text encoder (OpenCLIP ViT-H without its last layer)."""

    vocab_size: int = 49408
    hidden_size: int = 1024
    intermediate_size: int = 4096
    num_hidden_layers: int = 23
    num_attention_heads: int = 16
    max_position_embeddings: int = 77
    hidden_act: str = "gelu"
    layer_norm_eps: float = 1e-5

    # transformers' own defaults, for fields that an old file leaves out
    file_defaults = {"hidden_act": "quick_gelu"}
    accepted = {"hidden_act": ("gelu", "quick_gelu")}


@dataclass(frozen=True)
class ClipVisionConfig:
    """CLIP image encoder (ViT-L/14). It ranks look-alikes and measures pictures."""

    hidden_size: int = 1024
    intermediate_size: int = 4096
    num_hidden_layers: int = 24
    num_attention_heads: int = 16
    image_size: int = 224
    patch_size: int = 14
    hidden_act: str = "quick_gelu"
    layer_norm_eps: float = 1e-5

    file_defaults: Any = None
    accepted = {"hidden_act": ("gelu", "quick_gelu")}


FITS = ("squash", "crop")  # how a picture of other proportions becomes square for a style encoder


@dataclass(frozen=True)
class StyleEncoderConfig(ClipVisionConfig):
    """A style encoder: sizes of its image encoder and of the tokens, what pictures and prompts look like to it."""

    tokens: int = 8  # of a picture
    width: int = 1024  # of a token: that of the base's word embeddings
    fit: str = "squash"
    template: str = "{prompt}, in the style of {}."  # of the captions that it was trained with
    base: str = ""  # fingerprint of the base that it belongs to; "": it does not say

    family = "style encoder"
    accepted = {**ClipVisionConfig.accepted, "fit": FITS}
    # an encoder has any size: one that is not said would be taken for that of ViT-L/14
    required = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "image_size",
                "patch_size")


@dataclass(frozen=True)
class ClipConfig:
    """What both towers of a CLIP share."""

    projection_dim: int = 512

    file_defaults: Any = None
    accepted = {}


@dataclass(frozen=True)
class ViTConfig:
    """A vision transformer of transformers, such as DINO (ViT-B/8). It only measures pictures."""

    hidden_size: int = 768
    intermediate_size: int = 3072
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    image_size: int = 224
    patch_size: int = 8
    hidden_act: str = "gelu"
    layer_norm_eps: float = 1e-12
    qkv_bias: bool = True

    file_defaults = {"patch_size": 16}
    accepted = {"hidden_act": ("gelu",), "qkv_bias": (True,)}


@dataclass(frozen=True)
class Dinov2Config:
    """DINOv2 (ViT-B/14). It only measures pictures."""

    hidden_size: int = 768
    mlp_ratio: int = 4
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    image_size: int = 518
    patch_size: int = 14
    hidden_act: str = "gelu"
    layer_norm_eps: float = 1e-6
    qkv_bias: bool = True
    use_swiglu_ffn: bool = False

    file_defaults = {"image_size": 224, "patch_size": 16}
    accepted = {"hidden_act": ("gelu",), "qkv_bias": (True,), "use_swiglu_ffn": (False,)}


@dataclass(frozen=True)
class UNetEncoderConfig:
    """The first half of a conditional UNet: what the UNet and a ControlNet have in common.

    `attention_head_dim` is the NUMBER of heads of a level, by a historical slip of the format.
    """

    in_channels: int = 4
    block_out_channels: tuple = (320, 640, 1280, 1280)
    layers_per_block: int = 2
    attention_head_dim: tuple = (5, 10, 20, 20)
    cross_attention_dim: int = 1024
    norm_num_groups: int = 32
    norm_eps: float = 1e-5
    down_block_types: tuple = ("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",)
    use_linear_projection: bool = True
    act_fn: str = "silu"
    flip_sin_to_cos: bool = True
    freq_shift: int = 0

    file_defaults = {"use_linear_projection": False}
    accepted = {"use_linear_projection": (True,), "act_fn": ("silu",), "flip_sin_to_cos": (True,), "freq_shift": (0,)}


@dataclass(frozen=True)
class UNetConfig(UNetEncoderConfig):
    """Conditional UNet."""

    out_channels: int = 4
    sample_size: int = 96
    up_block_types: tuple = ("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3


@dataclass(frozen=True)
class ControlNetConfig(UNetEncoderConfig):
    """The half of a UNet that reads a control picture. Its sizes must be those of the UNet that it steers."""

    conditioning_channels: int = 3
    conditioning_embedding_out_channels: tuple = (16, 32, 96, 256)
    controlnet_conditioning_channel_order: str = "rgb"
    global_pool_conditions: bool = False
    only_cross_attention: bool = False

    accepted = {**UNetEncoderConfig.accepted, "controlnet_conditioning_channel_order": ("rgb", "bgr"),
                "global_pool_conditions": (False,), "conditioning_channels": (3,), "only_cross_attention": (False,)}


@dataclass(frozen=True)
class VaeConfig:
    """AutoencoderKL. One latent pixel covers 2^(levels - 1) picture pixels each way: 8 with four levels."""

    in_channels: int = 3
    out_channels: int = 3
    latent_channels: int = 4
    block_out_channels: tuple = (128, 256, 512, 512)
    layers_per_block: int = 2
    norm_num_groups: int = 32
    scaling_factor: float = 0.18215
    act_fn: str = "silu"

    file_defaults: Any = None
    accepted = {"act_fn": ("silu",)}

    @property
    def downscale(self) -> int:
        return 2 ** (len(self.block_out_channels) - 1)


@dataclass(frozen=True)
class ScheduleConfig:
    """The noise schedule that a base was trained with."""

    num_train_timesteps: int = 1000
    beta_start: float = 0.00085
    beta_end: float = 0.012
    beta_schedule: str = "scaled_linear"
    prediction_type: str = "v_prediction"
    steps_offset: int = 1
    set_alpha_to_one: bool = False
    clip_sample: bool = False

    file_defaults = {"prediction_type": "epsilon"}
    accepted = {"beta_schedule": ("scaled_linear",), "prediction_type": ("v_prediction", "epsilon"),
                "clip_sample": (False,), "set_alpha_to_one": (False,)}

    @property
    def most_steps(self) -> int:
        """In how many steps a picture can be drawn, by any sampler."""
        return min(MOST_STEPS, self.num_train_timesteps - 1)

    def refuse_more_steps(self, steps: int, setting: str) -> None:
        """StyleBlendError when the schedule has no room for so many steps; `setting` asks for them."""
        if steps > self.most_steps:
            raise StyleBlendError(f"{setting} is {steps}, and the noise schedule of this base has "
                                  f"{self.num_train_timesteps} time steps: ask for {self.most_steps} at most")


MAX_SIZE, MAX_LEVELS = 65_536, 8  # no width, count or number of levels of a Stable Diffusion model is larger
MIN_TIMESTEPS = 100  # of a noise schedule: with fewer hardly a number of steps that anyone draws with has room
COUNTS = {"num_hidden_layers": 128, "layers_per_block": 16, "depths": 64}  # of these each one is a layer that is built
# the least that a whole number may be, where it is not 1
LEAST = {"steps_offset": 0, "freq_shift": 0, "backbone_out_indices": 0, "neck_ignore_stages": 0, "head_in_index": -1}


def well_typed(name: str, value: Any, default: Any) -> bool:
    """Whether a value of a file is of the kind of its default, and of a size that a network can have."""
    if isinstance(default, tuple):
        return (isinstance(value, tuple) and 0 < len(value) <= MAX_LEVELS
                and all(well_typed(name, v, default[0]) for v in value))
    if isinstance(default, (bool, str)):
        return type(value) is type(default)
    if isinstance(default, int):
        return type(value) is int and LEAST.get(name, 1) <= value <= COUNTS.get(name, MAX_SIZE)
    return type(value) in (int, float) and 0 < value < MAX_SIZE  # false for NaN, too


def check_sizes(values: dict, path: Path) -> None:
    """Refuse sizes that do not go together: no network can be built of them."""
    channels = values.get("block_out_channels", ())
    for name in ("attention_head_dim", "down_block_types", "up_block_types"):
        if name in values and len(values[name]) != len(channels):
            raise StyleBlendError(f"{path}: {name} has {len(values[name])} levels and block_out_channels "
                                  f"{len(channels)}: download it again")
    parts = [(c, values["norm_num_groups"], "norm_num_groups") for c in channels]
    parts += list(zip(channels, values.get("attention_head_dim", ()), ["attention_head_dim"] * len(channels)))
    if isinstance(values.get("num_attention_heads"), int):
        parts.append((values["hidden_size"], values["num_attention_heads"], "num_attention_heads"))
    for width, count, name in parts:
        if width % count:
            raise StyleBlendError(f"{path}: a width of {width} cannot be divided into {count} ({name}): "
                                  "download it again")


def check_schedule(config: ScheduleConfig, path: Path) -> None:
    """Refuse a noise schedule that no sampler can walk from noise to a picture."""
    count, offset, first, last = config.num_train_timesteps, config.steps_offset, config.beta_start, config.beta_end
    if count < MIN_TIMESTEPS:
        raise StyleBlendError(f"{path}: num_train_timesteps is {count}, too few to draw in steps of them "
                              "(Stable Diffusion has 1000): download it again")
    outside = [n for n in range(1, config.most_steps + 1) if (n - 1) * (count // n) + offset >= count]  # DDIM's first
    if outside:
        raise StyleBlendError(f"{path}: steps_offset is {offset}, which leads out of the schedule of {count} time "
                              f"steps (in {outside[0]} steps, for one): download it again")
    if not first <= last < 1:
        raise StyleBlendError(f"{path}: beta_start is {first} and beta_end {last}, but noise grows to less than 1: "
                              "download it again")
    left = np.log1p(-np.linspace(first ** 0.5, last ** 0.5, count) ** 2).sum()  # of the picture, at the end
    if first < np.finfo(np.float32).eps or left < np.log(np.finfo(np.float32).tiny):
        raise StyleBlendError(f"{path}: from beta_start {first} to beta_end {last} there is a time step with no noise, "
                              "or with nothing else: download it again")


def read_object(path: Path) -> dict:
    """The object in a JSON file of a base; StyleBlendError when there is none."""
    if not Path(path).is_file():
        raise StyleBlendError(f"{path} is missing: give a whole diffusers folder (unet, text_encoder, vae, tokenizer, "
                              "scheduler)")
    instead = instead_of_text(path)
    if instead:
        raise StyleBlendError(f"{path} is {instead.what}: {instead.cure}")
    data = read_json(path, "download it again")
    if not isinstance(data, dict):
        raise StyleBlendError(f"{path} holds no JSON object: download it again")
    return data


def read_config(kind: type, path: Path, section: str = ""):
    """An instance of the dataclass `kind` from the JSON file `path`, or from its object `section` where it has one.

    (A CLIP keeps both towers in one file.) Raises StyleBlendError when the file is missing, is no JSON, says something
    that no network can be, or asks for something that is not built here.
    """
    data = read_object(path)
    data = data.get(section, data)
    data = data if isinstance(data, dict) else {}
    unsaid = [name for name in getattr(kind, "required", ()) if data.get(name) is None]
    if unsaid:
        raise StyleBlendError(f"{path} does not say {', '.join(unsaid)}, so it is not the whole config.json of a "
                              f"{kind.family}: download it again")
    values, defaults = {}, {f.name: f.default for f in fields(kind) if f.name != "file_defaults"}
    for name in defaults:
        default = (kind.file_defaults or {}).get(name, defaults[name])
        value = data.get(name, default)
        value = default if value is None else value
        values[name] = tuple(value) if isinstance(value, list) else value
    levels = values.get("block_out_channels", ())
    if type(values.get("attention_head_dim")) is int and isinstance(levels, tuple):  # one number for all levels
        values["attention_head_dim"] = (values["attention_head_dim"],) * len(levels)
    for name, allowed in kind.accepted.items():
        if values[name] not in allowed:
            is_old = name == "use_linear_projection"
            hint = " (this looks like Stable Diffusion 1.x; StyleBlend needs a 2.x base)" if is_old else ""
            raise StyleBlendError(f"{path}: {name} is {shown(values[name])}, but only "
                                  f"{' or '.join(map(repr, allowed))} is supported{hint}")
    for name, value in values.items():
        if not well_typed(name, value, defaults[name]):
            family = getattr(kind, "family", "Stable Diffusion 2.x")
            raise StyleBlendError(f"{path}: {name} is {shown(value)}, which no {family} has "
                                  f"(there it is like {defaults[name]!r}): download it again")
    check_sizes(values, path)
    config = kind(**values)
    if isinstance(config, ScheduleConfig):
        check_schedule(config, path)
    return config


def shown(value: Any) -> str:
    """A value of a file for a message: short, whatever it is."""
    return printable(reprlib.repr(value))
