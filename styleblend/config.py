"""Sizes of the networks, read field by field from the `config.json` files of a diffusers folder.

The defaults are Stable Diffusion 2.1 (768 px, v-prediction). A field that this implementation cannot honour is refused
with its name, so that no checkpoint is ever run as something that it is not.
"""
from __future__ import annotations

import json
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from styleblend.errors import StyleBlendError


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
    """CLIP image encoder (ViT-L/14): it only ranks look-alikes by their likeness to a style picture."""

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


@dataclass(frozen=True)
class UNetConfig:
    """Conditional UNet. `attention_head_dim` means the NUMBER of heads of a level, by a historical slip of the format."""

    in_channels: int = 4
    out_channels: int = 4
    sample_size: int = 96
    block_out_channels: tuple = (320, 640, 1280, 1280)
    layers_per_block: int = 2
    attention_head_dim: tuple = (5, 10, 20, 20)
    cross_attention_dim: int = 1024
    norm_num_groups: int = 32
    norm_eps: float = 1e-5
    down_block_types: tuple = ("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D")
    up_block_types: tuple = ("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D")
    use_linear_projection: bool = True
    act_fn: str = "silu"
    flip_sin_to_cos: bool = True
    freq_shift: int = 0

    file_defaults = {"use_linear_projection": False}
    accepted = {"use_linear_projection": (True,), "act_fn": ("silu",), "flip_sin_to_cos": (True,), "freq_shift": (0,)}


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
    accepted = {"beta_schedule": ("scaled_linear",), "prediction_type": ("v_prediction", "epsilon"), "clip_sample": (False,),
                "set_alpha_to_one": (False,)}


def read_config(kind: type, path: Path):
    """An instance of the dataclass `kind` from the JSON file `path`.

    Raises StyleBlendError when the file is missing, is no JSON, or asks for something that is not built here.
    """
    try:
        data = json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise StyleBlendError(f"{path} is missing: give a whole diffusers folder (unet, text_encoder, vae, tokenizer, scheduler)") from None
    except (OSError, ValueError) as error:
        raise StyleBlendError(f"{path} cannot be read as JSON ({error}): download it again") from None
    if not isinstance(data, dict):
        raise StyleBlendError(f"{path} holds no JSON object: download it again")
    if kind is ClipVisionConfig:
        data = data.get("vision_config", data)  # a whole CLIP keeps both towers in one file
    values = {}
    for f in fields(kind):
        if f.name == "file_defaults":
            continue
        default = (kind.file_defaults or {}).get(f.name, f.default)
        value = data.get(f.name, default)
        value = default if value is None else value
        values[f.name] = tuple(value) if isinstance(value, list) else value
    levels = len(values.get("block_out_channels", ()))
    if isinstance(values.get("attention_head_dim"), int):  # one number for all levels
        values["attention_head_dim"] = (values["attention_head_dim"],) * levels
    for name, allowed in kind.accepted.items():
        if values[name] not in allowed:
            hint = " (this looks like Stable Diffusion 1.x; StyleBlend needs a 2.x base)" if name == "use_linear_projection" else ""
            raise StyleBlendError(f"{path}: {name} is {values[name]!r}, but only {' or '.join(map(repr, allowed))} is supported{hint}")
    return kind(**values)
