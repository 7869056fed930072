"""Depth Anything V2 (Yang et al. 2024): DINOv2, the neck of DPT, and a head that draws depth.

Attribute names are those of the transformers checkpoint.
"""
from __future__ import annotations

from styleblend.machine.runtime import jt
from styleblend.models.depth_configs import DepthAnythingConfig, DepthBackboneConfig
from styleblend.models.dino import DinoModel
from styleblend.models.dpt_neck import Neck
from styleblend.models.layers import Conv2d
from styleblend.models.resampling import aligned_linear_matrix, resized


class DepthAnythingHead(jt.nn.Module):
    def __init__(self, channels: int, inner: int):
        self.conv1 = Conv2d(channels, channels // 2, 3, padding=1)
        self.conv2 = Conv2d(channels // 2, inner, 3, padding=1)
        self.conv3 = Conv2d(inner, 1, 1)

    def execute(self, x, height: int, width: int):
        x = resized(self.conv1(x), height, width, aligned_linear_matrix)
        return jt.nn.relu(self.conv3(jt.nn.relu(self.conv2(x))))


class DepthAnythingForDepthEstimation(jt.nn.Module):
    def __init__(self, config: DepthAnythingConfig = DepthAnythingConfig(),
                 backbone: DepthBackboneConfig = DepthBackboneConfig()):
        self.config = config
        self.backbone = DinoModel(backbone)
        self.neck = Neck(config, backbone.hidden_size)
        self.head = DepthAnythingHead(config.fusion_hidden_size, config.head_hidden_size)

    def execute(self, pictures):
        """pictures (B, 3, H, W), normalised -> depth (B, H, W), large where it is near.

        Sides are multiples of the patch.
        """
        patch = self.config.patch_size
        height, width = (side // patch for side in pictures.shape[2:])
        states = self.backbone.states(pictures, self.backbone.config.out_indices)
        x = self.neck(states, height, width, exact=True)
        return self.head(x, height * patch, width * patch)[:, 0]
