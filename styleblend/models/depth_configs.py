"""Sizes of the depth estimators, read field by field as in `configs`. The defaults are the two published networks'."""
from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, List

from styleblend.errors import StyleBlendError
from styleblend.models.configs import Dinov2Config, read_config, read_object


@dataclass(frozen=True)
class DepthBackboneConfig(Dinov2Config):
    """The DINOv2 in Depth Anything V2 small; `out_indices` are the layers behind which its states are read."""

    model_type: str = "dinov2"
    hidden_size: int = 384
    num_attention_heads: int = 6
    out_indices: tuple = (3, 6, 9, 12)
    apply_layernorm: bool = True

    family = "Depth Anything"
    file_defaults = {"model_type": "", "hidden_size": 768, "num_attention_heads": 12, "image_size": 224,
                     "out_indices": (12,)}
    accepted = {**Dinov2Config.accepted, "model_type": ("dinov2",), "apply_layernorm": (True,)}


@dataclass(frozen=True)
class DepthAnythingConfig:
    """Depth Anything V2 small, behind its backbone."""

    patch_size: int = 14
    reassemble_hidden_size: int = 384
    reassemble_factors: tuple = (4.0, 2.0, 1.0, 0.5)
    neck_hidden_sizes: tuple = (48, 96, 192, 384)
    fusion_hidden_size: int = 64
    head_in_index: int = -1
    head_hidden_size: int = 32
    depth_estimation_type: str = "relative"  # near is bright; a metric depth is dark there
    max_depth: float = 1.0

    family = "Depth Anything"
    file_defaults: Any = None
    accepted = {"head_in_index": (-1,), "depth_estimation_type": ("relative",), "max_depth": (1,)}


@dataclass(frozen=True)
class BitConfig:
    """The residual network (BiT) in DPT-hybrid, up to its third stage."""

    model_type: str = "bit"
    num_channels: int = 3
    embedding_size: int = 64
    hidden_sizes: tuple = (256, 512, 1024, 2048)
    depths: tuple = (3, 4, 9)
    num_groups: int = 32
    layer_type: str = "bottleneck"
    hidden_act: str = "relu"
    global_padding: str = "SAME"
    embedding_dynamic_padding: bool = True
    output_stride: int = 32
    width_factor: int = 1
    out_features: tuple = ("stage1", "stage2", "stage3")

    family = "DPT-hybrid"
    file_defaults = {"depths": (3, 4, 6, 3), "layer_type": "preactivation", "global_padding": "",
                     "embedding_dynamic_padding": False, "out_features": ("stage4",)}
    accepted = {"model_type": ("bit",), "num_channels": (3,), "layer_type": ("bottleneck",), "hidden_act": ("relu",),
                "global_padding": ("SAME", "same"), "embedding_dynamic_padding": (True,), "output_stride": (32,),
                "width_factor": (1,), "out_features": (("stage1", "stage2", "stage3"),)}

    @property
    def stage_widths(self) -> List[int]:
        """The channels behind each stage."""
        return [eighth_steps(size) for size, _ in zip(self.hidden_sizes, self.depths)]


def eighth_steps(value: float) -> int:
    """The nearest multiple of 8, neither zero nor more than a tenth below: as the network rounds its widths."""
    nearest = max(8, int(value + 4) // 8 * 8)
    return nearest + 8 if nearest < 0.9 * value else nearest


@dataclass(frozen=True)
class DPTConfig:
    """DPT-hybrid (MiDaS 3), around its residual network."""

    is_hybrid: bool = True
    hidden_size: int = 768
    intermediate_size: int = 3072
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    image_size: int = 384
    patch_size: int = 16
    hidden_act: str = "gelu"
    layer_norm_eps: float = 1e-12
    qkv_bias: bool = True
    backbone_out_indices: tuple = (2, 5, 8, 11)
    readout_type: str = "project"
    reassemble_factors: tuple = (1.0, 1.0, 1.0, 0.5)
    neck_hidden_sizes: tuple = (256, 512, 768, 768)
    neck_ignore_stages: tuple = (0, 1)
    fusion_hidden_size: int = 256
    use_batch_norm_in_fusion_residual: bool = False
    use_bias_in_fusion_residual: bool = True
    head_in_index: int = -1
    add_projection: bool = False

    family = "DPT-hybrid"
    file_defaults = {"is_hybrid": False, "reassemble_factors": (4.0, 2.0, 1.0, 0.5),
                     "neck_hidden_sizes": (96, 192, 384, 768)}
    accepted = {"is_hybrid": (True,), "hidden_act": ("gelu",), "qkv_bias": (True,), "readout_type": ("project",),
                "neck_ignore_stages": ((0, 1),), "use_batch_norm_in_fusion_residual": (False,),
                "use_bias_in_fusion_residual": (True,), "head_in_index": (-1,), "add_projection": (False,)}


def read_backbone(kind: type, path: Path):
    """The object `backbone_config` of a config.json as `kind`."""
    if not isinstance(read_object(path).get("backbone_config"), dict):
        raise StyleBlendError(f"{path}: backbone_config is missing: download it again")
    return read_config(kind, path, "backbone_config")


def read_depth_anything(path: Path) -> tuple:
    """Both configs of a Depth Anything, fit for each other."""
    config, backbone = read_config(DepthAnythingConfig, path), read_backbone(DepthBackboneConfig, path)
    refuse(path, config.patch_size != backbone.patch_size, "patch_size", "backbone_config.patch_size")
    refuse(path, config.reassemble_hidden_size != backbone.hidden_size, "reassemble_hidden_size",
           "backbone_config.hidden_size")
    check_neck(path, config, backbone.out_indices)
    check_layers(path, backbone.out_indices, 1, backbone.num_hidden_layers, "out_indices")
    return config, backbone


def read_dpt(path: Path) -> tuple:
    """Both configs of a DPT-hybrid, fit for each other."""
    config, backbone = read_config(DPTConfig, path), read_backbone(BitConfig, path)
    check_neck(path, config, config.backbone_out_indices)
    check_layers(path, config.backbone_out_indices, 0, config.num_hidden_layers - 1, "backbone_out_indices")
    refuse(path, len(config.neck_hidden_sizes) != 4, "neck_hidden_sizes", "the four levels of DPT-hybrid")
    refuse(path, len(backbone.depths) != 3 or len(backbone.hidden_sizes) < 3, "backbone_config.depths",
           "its three stages")
    widths = [backbone.embedding_size, *backbone.stage_widths, *(eighth_steps(w / 4) for w in backbone.stage_widths)]
    refuse(path, any(width % backbone.num_groups for width in widths), "backbone_config.num_groups", "the widths there")
    refuse(path, list(config.neck_hidden_sizes[:2]) != backbone.stage_widths[:2], "neck_hidden_sizes",
           "backbone_config.hidden_sizes")
    refuse(path, config.image_size % 16 != 0 or config.patch_size != 16, "image_size and patch_size",
           "patches of 16 pixels")  # the stages of the residual network halve a side four times
    return config, backbone


def check_neck(path: Path, config, layers: tuple) -> None:
    """Refuse a neck whose lists do not have an entry for each map that it reads, or that cannot resize one."""
    count = len(config.neck_hidden_sizes)
    refuse(path, len(config.reassemble_factors) != count, "reassemble_factors", "neck_hidden_sizes")
    refuse(path, len(layers) != count, "neck_hidden_sizes", "the layers that are read")
    whole = [max(factor, 1 / factor) for factor in config.reassemble_factors]
    refuse(path, any(factor not in range(1, 17) for factor in whole), "reassemble_factors", "whole numbers of pixels")


def check_layers(path: Path, layers: tuple, first: int, last: int, name: str) -> None:
    """Refuse layers that are not there, or not in their order."""
    refuse(path, list(layers) != sorted(set(layers)) or not first <= layers[0] <= layers[-1] <= last, name,
           "the layers of its transformer")


def refuse(path: Path, wrong: bool, name: str, other: str) -> None:
    if wrong:
        raise StyleBlendError(f"{path}: {name} does not fit {other}: download it again")
