"""Sizes of a BLIP that describes pictures, from the config.json of transformers; the defaults are the published base.

What its picture reader is told is in `styleblend/context/captioner.py`.
"""
from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Tuple

from styleblend.errors import StyleBlendError
from styleblend.models.configs import read_config, read_object


@dataclass(frozen=True)
class BlipVisionConfig:
    """The vision transformer (ViT-B/16)."""

    hidden_size: int = 768
    intermediate_size: int = 3072
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    image_size: int = 384
    patch_size: int = 16
    hidden_act: str = "gelu"
    layer_norm_eps: float = 1e-5

    family = "BLIP"
    file_defaults: Any = None
    accepted = {"hidden_act": ("gelu",)}


@dataclass(frozen=True)
class BlipTextConfig:
    """The decoder (BERT-base with cross-attention). `bos_token_id` begins a caption, `sep_token_id` ends it."""

    vocab_size: int = 30524
    hidden_size: int = 768
    encoder_hidden_size: int = 768
    intermediate_size: int = 3072
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    max_position_embeddings: int = 512
    hidden_act: str = "gelu"
    layer_norm_eps: float = 1e-12
    bos_token_id: int = 30522
    sep_token_id: int = 102
    is_decoder: bool = True

    family = "BLIP"
    file_defaults = {"num_attention_heads": 8}
    accepted = {"hidden_act": ("gelu",), "is_decoder": (True,)}


def read_blip(path: Path) -> Tuple[BlipTextConfig, BlipVisionConfig]:
    """Both configs of a BLIP, fit for each other."""
    for section in ("text_config", "vision_config"):
        if not isinstance(read_object(path).get(section), dict):
            raise StyleBlendError(f"{path}: {section} is missing: download it again")
    text = read_config(BlipTextConfig, path, "text_config")
    vision = read_config(BlipVisionConfig, path, "vision_config")
    for wrong, what in ((text.encoder_hidden_size != vision.hidden_size,
                         "text_config.encoder_hidden_size does not fit vision_config.hidden_size"),
                        (max(text.bos_token_id, text.sep_token_id) >= text.vocab_size,
                         "bos_token_id or sep_token_id is beyond vocab_size"),
                        (vision.image_size % vision.patch_size != 0, "image_size is no multiple of patch_size")):
        if wrong:
            raise StyleBlendError(f"{path}: {what}: download it again")
    return text, vision
