"""The residual network of DPT-hybrid: ResNet v2 of Big Transfer (BiT, Kolesnikov et al. 2020), up to its third stage.

Attribute names are those of the transformers checkpoint.
"""
from __future__ import annotations

from typing import List

from styleblend.machine.runtime import jt
from styleblend.models.depth_configs import BitConfig, eighth_steps
from styleblend.models.layers import GroupNorm, empty, same_padded

WEIGHT_EPS, NORM_EPS = 1e-8, 1e-5


class StandardizedConv2d(jt.nn.Module):
    """Convolution by weights of mean 0 and variance 1 in each output channel (Qiao et al. 2019)."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int, stride: int = 1):
        self.kernel_size, self.stride = kernel_size, stride
        self.weight = empty(out_channels, in_channels, kernel_size, kernel_size)

    def execute(self, x):
        rows = self.weight.reshape(self.weight.shape[0], -1)
        rows = rows - rows.mean(1, keepdims=True)
        rows = rows / jt.sqrt((rows * rows).mean(1, keepdims=True) + WEIGHT_EPS)
        return jt.nn.conv2d(same_padded(x, self.kernel_size, self.stride), rows.reshape(self.weight.shape), None,
                            self.stride)


class BitEmbeddings(jt.nn.Module):
    """A quarter of each side."""

    def __init__(self, config: BitConfig):
        self.convolution = StandardizedConv2d(3, config.embedding_size, 7, 2)
        self.norm = GroupNorm(config.num_groups, config.embedding_size, NORM_EPS)

    def execute(self, pictures):
        x = jt.nn.relu(self.norm(self.convolution(pictures)))
        return jt.nn.max_pool2d(same_padded(x, 3, 2), 3, 2)


class Downsample(jt.nn.Module):
    def __init__(self, in_channels: int, out_channels: int, stride: int, groups: int):
        self.conv = StandardizedConv2d(in_channels, out_channels, 1, stride)
        self.norm = GroupNorm(groups, out_channels, NORM_EPS)

    def execute(self, x):
        return self.norm(self.conv(x))


class BottleneckLayer(jt.nn.Module):
    """Three convolutions beside a shortcut, which the first layer of a stage adapts to its size (`first`)."""

    def __init__(self, in_channels: int, out_channels: int, stride: int, groups: int, first: bool):
        inner = eighth_steps(out_channels / 4)
        self.downsample = Downsample(in_channels, out_channels, stride, groups) if first else None
        self.conv1 = StandardizedConv2d(in_channels, inner, 1)
        self.conv2 = StandardizedConv2d(inner, inner, 3, stride)
        self.conv3 = StandardizedConv2d(inner, out_channels, 1)
        self.norm1, self.norm2 = (GroupNorm(groups, inner, NORM_EPS) for _ in range(2))
        self.norm3 = GroupNorm(groups, out_channels, NORM_EPS)

    def execute(self, x):
        shortcut = x if self.downsample is None else self.downsample(x)
        x = jt.nn.relu(self.norm1(self.conv1(x)))
        x = jt.nn.relu(self.norm2(self.conv2(x)))
        return jt.nn.relu(self.norm3(self.conv3(x)) + shortcut)


class BitStage(jt.nn.Module):
    def __init__(self, in_channels: int, out_channels: int, stride: int, depth: int, groups: int):
        self.layers = jt.nn.ModuleList([
            BottleneckLayer(out_channels if number else in_channels, out_channels, 1 if number else stride, groups,
                            first=number == 0) for number in range(depth)])

    def execute(self, x):
        for layer in self.layers:
            x = layer(x)
        return x


class BitEncoder(jt.nn.Module):
    def __init__(self, config: BitConfig):
        widths = [config.embedding_size, *config.stage_widths]
        self.stages = jt.nn.ModuleList([
            BitStage(narrow, wide, 2 if number else 1, depth, config.num_groups)
            for number, (narrow, wide, depth) in enumerate(zip(widths, widths[1:], config.depths))])


class BitModel(jt.nn.Module):
    def __init__(self, config: BitConfig):
        self.embedder, self.encoder = BitEmbeddings(config), BitEncoder(config)


class BitBackbone(jt.nn.Module):
    def __init__(self, config: BitConfig):
        self.bit = BitModel(config)

    def execute(self, pictures) -> List:
        """pictures (B, 3, H, W), normalised -> the maps behind each stage: a 4th, an 8th and a 16th of each side."""
        x, found = self.bit.embedder(pictures), []
        for stage in self.bit.encoder.stages:
            x = stage(x)
            found.append(x)
        return found
