"""Sizes of a CLAP, from the config.json of transformers; the defaults are laion/clap-htsat-unfused.

What its sound reader is told is in `styleblend/context/clap.py`.
"""
from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from styleblend.errors import StyleBlendError
from styleblend.models.clap_features import FRAMES, N_MELS
from styleblend.models.configs import read_config, read_object


@dataclass(frozen=True)
class ClapAudioConfig:
    """HTSAT (Swin-tiny), which looks at a spectrogram of `spec_size` x `spec_size`."""

    spec_size: int = 256
    num_mel_bins: int = N_MELS
    patch_size: int = 4
    patch_stride: tuple = (4, 4)
    patch_embed_input_channels: int = 1
    patch_embeds_hidden_size: int = 96
    hidden_size: int = 768
    depths: tuple = (2, 2, 6, 2)
    num_attention_heads: tuple = (4, 8, 16, 32)
    window_size: int = 8
    mlp_ratio: float = 4.0
    hidden_act: str = "gelu"
    layer_norm_eps: float = 1e-5
    qkv_bias: bool = True
    enable_fusion: bool = False
    enable_patch_layer_norm: bool = True
    flatten_patch_embeds: bool = True

    family = "CLAP"
    file_defaults: Any = None
    accepted = {"hidden_act": ("gelu",), "qkv_bias": (True,), "enable_fusion": (False,), "num_mel_bins": (N_MELS,),
                "patch_embed_input_channels": (1,), "enable_patch_layer_norm": (True,),
                "flatten_patch_embeds": (True,)}

    @property
    def sides(self) -> list:
        """Of each stage: how many tokens high and wide its picture is."""
        return [self.spec_size // self.patch_size // 2 ** number for number in range(len(self.depths))]

    @property
    def widths(self) -> list:
        """Of each stage: the numbers of a token."""
        return [self.patch_embeds_hidden_size * 2 ** number for number in range(len(self.depths))]


@dataclass(frozen=True)
class ClapTextConfig:
    """RoBERTa-base. The place of its first token is `pad_token_id` + 1."""

    vocab_size: int = 50265
    hidden_size: int = 768
    intermediate_size: int = 3072
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    max_position_embeddings: int = 514
    type_vocab_size: int = 1
    pad_token_id: int = 1
    hidden_act: str = "gelu"
    layer_norm_eps: float = 1e-12

    family = "CLAP"
    file_defaults: Any = None
    accepted = {"hidden_act": ("gelu",)}

    @property
    def most_tokens(self) -> int:
        return self.max_position_embeddings - self.pad_token_id - 1


@dataclass(frozen=True)
class ClapProjectionConfig:
    """What both towers share: the space in which sounds and texts are compared."""

    projection_dim: int = 512
    projection_hidden_act: str = "relu"

    family = "CLAP"
    file_defaults: Any = None
    accepted = {"projection_hidden_act": ("relu",)}


class ClapConfig(NamedTuple):
    """All three of them."""

    audio: ClapAudioConfig = ClapAudioConfig()
    text: ClapTextConfig = ClapTextConfig()
    projection: ClapProjectionConfig = ClapProjectionConfig()


def read_clap(path: Path) -> ClapConfig:
    """The configs of a CLAP. StyleBlendError for what no CLAP is, or what is not built here."""
    for section in ("text_config", "audio_config"):
        if not isinstance(read_object(path).get(section), dict):
            raise StyleBlendError(f"{path}: {section} is missing: download it again")
    config = ClapConfig(read_config(ClapAudioConfig, path, "audio_config"),
                        read_config(ClapTextConfig, path, "text_config"), read_config(ClapProjectionConfig, path))
    fault = fault_of(config.audio) or ("max_position_embeddings leaves no room for a text"
                                       if config.text.most_tokens < 8 else "")
    if fault:
        raise StyleBlendError(f"{path}: {fault}: download it again")
    return config


def fault_of(audio: ClapAudioConfig) -> str:
    """What does not go together in the sizes of a sound tower; "" where all does."""
    stages = len(audio.depths)
    if len(audio.num_attention_heads) != stages:
        return f"num_attention_heads has {len(audio.num_attention_heads)} stages and depths {stages}"
    if audio.patch_stride != (audio.patch_size, audio.patch_size):
        return "patch_stride is not patch_size, both ways"
    if audio.spec_size % (audio.patch_size * audio.window_size * 2 ** (stages - 1)):
        return "spec_size cannot be cut into patches, and each stage into windows"
    if audio.spec_size % N_MELS or audio.spec_size ** 2 // N_MELS < FRAMES:
        return f"spec_size has no room for ten seconds ({FRAMES} frames of {N_MELS} bands)"
    if audio.hidden_size != audio.widths[-1]:
        return "hidden_size is not that of the last stage"
    if any(width % heads for width, heads in zip(audio.widths, audio.num_attention_heads)):
        return "the width of a stage cannot be divided into its num_attention_heads"
    return ""
