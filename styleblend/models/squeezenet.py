"""SqueezeNet 1.1 (Iandola et al. 2016) up to its classifier, and LPIPS (Zhang et al. 2018) on it.

Attribute names are those of torchvision and lpips.
"""
from __future__ import annotations

from typing import List

import numpy as np

from styleblend.models.layers import Conv2d, empty
from styleblend.machine.runtime import jt

TAPS = (1, 4, 7, 9, 10, 11, 12)  # the features after these layers are compared
CHANNELS = (64, 128, 256, 384, 384, 512, 512)
SHIFT, SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)  # ImageNet's mean and deviation for pictures in -1..1


class ReLU(jt.nn.Module):
    def execute(self, x):
        return jt.nn.relu(x)


class MaxPool(jt.nn.Module):
    """3 x 3 with stride 2, the last windows cut off by the border."""

    def execute(self, x):
        return jt.nn.max_pool2d(x, 3, 2, ceil_mode=True)


class Fire(jt.nn.Module):
    def __init__(self, channels: int, squeezed: int, expanded: int):
        self.squeeze = Conv2d(channels, squeezed, 1)
        self.expand1x1 = Conv2d(squeezed, expanded, 1)
        self.expand3x3 = Conv2d(squeezed, expanded, 3, padding=1)

    def execute(self, x):
        x = jt.nn.relu(self.squeeze(x))
        return jt.nn.relu(jt.concat([self.expand1x1(x), self.expand3x3(x)], dim=1))


class SqueezeNet(jt.nn.Module):
    def __init__(self):
        self.features = jt.nn.ModuleList([Conv2d(3, 64, 3, stride=2), ReLU(), MaxPool(), Fire(64, 16, 64),
                                          Fire(128, 16, 64), MaxPool(), Fire(128, 32, 128), Fire(256, 32, 128),
                                          MaxPool(), Fire(256, 48, 192), Fire(384, 48, 192), Fire(384, 64, 256),
                                          Fire(512, 64, 256)])

    def execute(self, pictures) -> List:
        """pictures (B, 3, height, width) in -1..1 -> seven feature maps, fine to coarse."""
        x = ((pictures - jt.array(np.reshape(SHIFT, (1, 3, 1, 1)).astype(np.float32)))
             / jt.array(np.reshape(SCALE, (1, 3, 1, 1)).astype(np.float32)))
        found = []
        for number, layer in enumerate(self.features):
            x = layer(x)
            if number in TAPS:
                found.append(x)
        return found


class LPIPSHeads(jt.nn.Module):
    """How much each channel of each feature map counts."""

    def __init__(self):
        for number, channels in enumerate(CHANNELS):
            setattr(self, f"lin{number}", Head(channels))

    def execute(self, one: List, other: List):
        """Two lists of feature maps of length 1 (`unit`) -> (B,), 0 for equal pictures.

        The maps are (B, C, H, W) or (1, C, H, W).
        """
        heads = [getattr(self, f"lin{number}") for number in range(len(CHANNELS))]
        return sum(((a - b) ** 2 * head.weight).sum(1).mean((1, 2)) for a, b, head in zip(one, other, heads))


class Head(jt.nn.Module):
    def __init__(self, channels: int):
        self.weight = empty(1, channels, 1, 1)


def unit(features):
    """Feature vectors of length 1; those near 0 stay there."""
    return features / jt.sqrt((features * features).sum(1, keepdims=True) + 1e-8)
