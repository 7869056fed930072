"""The first layers of the Inception v3 of FID (Heusel et al. 2017), up to the first pooling.

Attribute names are those of its PyTorch port.

Only the 64 features that the score of the competition uses are here. FID as papers report it takes 2048 from the last
layer: do not compare the two.
"""
from __future__ import annotations

from styleblend.models.layers import BatchNorm2d, Conv2d
from styleblend.models.resampling import corner_linear_matrix, resized
from styleblend.machine.runtime import jt

SIDE = 299


class BasicConv2d(jt.nn.Module):
    def __init__(self, in_channels: int, out_channels: int, stride: int = 1, padding: int = 0):
        self.conv, self.bn = (Conv2d(in_channels, out_channels, 3, stride, padding, bias=False),
                              BatchNorm2d(out_channels, 1e-3))

    def execute(self, x):
        return jt.nn.relu(self.bn(self.conv(x)))


class InceptionStem(jt.nn.Module):
    """Pictures to 64 numbers each."""

    def __init__(self):
        self.Conv2d_1a_3x3 = BasicConv2d(3, 32, stride=2)
        self.Conv2d_2a_3x3 = BasicConv2d(32, 32)
        self.Conv2d_2b_3x3 = BasicConv2d(32, 64, padding=1)

    def execute(self, pictures):
        """pictures (B, 3, height, width) in 0..255 -> (B, 64)."""
        x = resized(pictures, SIDE, SIDE, corner_linear_matrix)
        x = self.Conv2d_2b_3x3(self.Conv2d_2a_3x3(self.Conv2d_1a_3x3((x - 128) / 128)))
        return jt.nn.max_pool2d(x, 3, 2).mean((2, 3))
