"""DPT-hybrid (Ranftl et al. 2021; Intel/dpt-hybrid-midas): a residual network, a transformer on it, neck and head.

Attribute names are those of the transformers checkpoint.
"""
from __future__ import annotations

from styleblend.machine.runtime import jt
from styleblend.models.bit import BitBackbone
from styleblend.models.depth_configs import BitConfig, DPTConfig
from styleblend.models.dino import Encoder, ViTLayer
from styleblend.models.dpt_neck import Neck
from styleblend.models.layers import Conv2d, LayerNorm, empty
from styleblend.models.resampling import aligned_linear_matrix, resized

READY = 2  # maps that the neck takes from the residual network as they are
HEAD = 32  # channels before the last convolution


class HybridEmbeddings(jt.nn.Module):
    """Pictures to the maps of the residual network, and to tokens of the last one."""

    def __init__(self, config: DPTConfig, backbone: BitConfig):
        self.backbone = BitBackbone(backbone)
        self.projection = Conv2d(backbone.stage_widths[-1], config.hidden_size, 1)
        self.cls_token = empty(1, 1, config.hidden_size)
        self.position_embeddings = empty(1, (config.image_size // config.patch_size) ** 2 + 1, config.hidden_size)

    def execute(self, pictures):
        maps = self.backbone(pictures)
        x = self.projection(maps[-1])
        rows, size = x.shape[:2]
        tokens = x.reshape(rows, size, -1).permute(0, 2, 1)
        return maps, jt.concat([self.cls_token.broadcast([rows, 1, size]), tokens], dim=1) + self.position_embeddings


class DPTModel(jt.nn.Module):
    def __init__(self, config: DPTConfig, backbone: BitConfig):
        self.layers = config.backbone_out_indices[READY:]
        self.embeddings = HybridEmbeddings(config, backbone)
        self.encoder = Encoder([ViTLayer(config) for _ in range(config.num_hidden_layers)])
        self.layernorm = LayerNorm(config.hidden_size, config.layer_norm_eps)  # in the checkpoint; depth goes without

    def execute(self, pictures) -> list:
        """The first maps of the residual network, then the states behind some layers of the transformer."""
        maps, x = self.embeddings(pictures)
        found = maps[:READY]
        for number, layer in enumerate(self.encoder.layer):
            x = layer(x)
            if number in self.layers:
                found.append(x)
        return found


class Doubled(jt.nn.Module):
    """Both sides times two."""

    def execute(self, x):
        return resized(x, 2 * x.shape[2], 2 * x.shape[3], aligned_linear_matrix)


class DPTHead(jt.nn.Module):
    def __init__(self, channels: int):
        self.head = jt.nn.Sequential(
            Conv2d(channels, channels // 2, 3, padding=1), Doubled(), Conv2d(channels // 2, HEAD, 3, padding=1),
            jt.nn.ReLU(), Conv2d(HEAD, 1, 1), jt.nn.ReLU())

    def execute(self, x):
        return self.head(x)


class DPTForDepthEstimation(jt.nn.Module):
    def __init__(self, config: DPTConfig = DPTConfig(), backbone: BitConfig = BitConfig()):
        self.config = config
        self.dpt = DPTModel(config, backbone)
        self.neck = Neck(config, config.hidden_size, READY, readout=True)
        self.head = DPTHead(config.fusion_hidden_size)

    def execute(self, pictures):
        """pictures (B, 3, image_size, image_size), normalised -> depth (B, H, W), large where it is near."""
        side = self.config.image_size // self.config.patch_size
        return self.head(self.neck(self.dpt(pictures), side, side, exact=False))[:, 0]
