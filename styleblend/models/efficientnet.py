"""EfficientNet-Lite0 (Tan & Le 2019; without squeeze and excitation, with ReLU6) up to its head.

Attribute names are those of its PyTorch port.
"""
from __future__ import annotations

from typing import List

from styleblend.models.layers import BatchNorm2d, empty, same_padded
from styleblend.machine.runtime import jt

EPS = 1e-3
#         blocks, kernel, stride, expansion, channels
STAGES = ((1, 3, 1, 1, 16), (2, 3, 2, 6, 24), (2, 5, 2, 6, 40), (3, 3, 2, 6, 80), (3, 5, 1, 6, 112), (4, 5, 2, 6, 192),
          (1, 3, 1, 6, 320))
TAPS = (0, 2, 4, 10, 15)  # the last block of each size: features are compared after these


def relu6(x):
    return jt.clamp(x, 0.0, 6.0)


class SameConv2d(jt.nn.Module):
    """Convolution whose output has ceil(size / stride) places, as TensorFlow pads it."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int, stride: int = 1, groups: int = 1):
        self.kernel_size, self.stride, self.groups = kernel_size, stride, groups
        self.weight = empty(out_channels, in_channels // groups, kernel_size, kernel_size)

    def execute(self, x):
        x = same_padded(x, self.kernel_size, self.stride)
        return jt.nn.conv2d(x, self.weight, None, self.stride, 0, 1, self.groups)


class MBConvBlock(jt.nn.Module):
    """Expand, filter each channel by itself, project; a residual where nothing changes its shape."""

    def __init__(self, channels: int, kernel_size: int, stride: int, expansion: int, out_channels: int):
        inner, self.residual = channels * expansion, stride == 1 and channels == out_channels
        self._expand_conv, self._bn0 = ((SameConv2d(channels, inner, 1), BatchNorm2d(inner, EPS))
                                        if expansion > 1 else (None, None))
        self._depthwise_conv, self._bn1 = (SameConv2d(inner, inner, kernel_size, stride, groups=inner),
                                           BatchNorm2d(inner, EPS))
        self._project_conv, self._bn2 = SameConv2d(inner, out_channels, 1), BatchNorm2d(out_channels, EPS)

    def execute(self, x):
        y = x if self._expand_conv is None else relu6(self._bn0(self._expand_conv(x)))
        y = self._bn2(self._project_conv(relu6(self._bn1(self._depthwise_conv(y)))))
        return x + y if self.residual else y


class EfficientNetLite0(jt.nn.Module):
    def __init__(self):
        self._conv_stem, self._bn0 = SameConv2d(3, 32, 3, 2), BatchNorm2d(32, EPS)
        blocks, channels = [], 32
        for count, kernel_size, stride, expansion, out_channels in STAGES:
            for number in range(count):
                blocks.append(MBConvBlock(channels, kernel_size, stride if number == 0 else 1, expansion, out_channels))
                channels = out_channels
        self._blocks = jt.nn.ModuleList(blocks)

    def execute(self, pictures) -> List:
        """pictures (B, 3, height, width), (value - 127) / 128 -> five feature maps, fine to coarse."""
        x, found = relu6(self._bn0(self._conv_stem(pictures))), []
        for number, block in enumerate(self._blocks):
            x = block(x)
            if number in TAPS:
                found.append(x)
        return found
