"""What turns the states of a vision transformer into one large map (Ranftl et al. 2021): all depth estimators have it.

Attribute names are those of the transformers checkpoints.
"""
from __future__ import annotations

from typing import List, Sequence

from styleblend.machine.runtime import jt
from styleblend.models.layers import Conv2d, Linear, empty, gelu
from styleblend.models.resampling import aligned_linear_matrix, linear_matrix, resized


class SpreadConv2d(jt.nn.Module):
    """A transposed convolution whose windows do not overlap: each place becomes factor x factor of them."""

    def __init__(self, channels: int, factor: int):
        self.factor = factor
        self.weight, self.bias = empty(channels, channels, factor, factor), empty(channels)

    def execute(self, x):
        rows, channels, height, width = x.shape
        n = self.factor
        x = jt.matmul(x.permute(0, 2, 3, 1).reshape(-1, channels), self.weight.reshape(channels, -1))
        x = x.reshape(rows, height, width, channels, n, n).permute(0, 3, 1, 4, 2, 5)
        return x.reshape(rows, channels, height * n, width * n) + self.bias.reshape(1, -1, 1, 1)


class ReassembleLayer(jt.nn.Module):
    """A map of `width` channels to one of `channels`, its sides times `factor`."""

    def __init__(self, width: int, channels: int, factor: float):
        self.projection, self.resize = Conv2d(width, channels, 1), None
        if factor > 1:
            self.resize = SpreadConv2d(channels, int(factor))
        elif factor < 1:
            self.resize = Conv2d(channels, channels, 3, stride=int(1 / factor), padding=1)

    def execute(self, x):
        x = self.projection(x)
        return x if self.resize is None else self.resize(x)


class ReassembleStage(jt.nn.Module):
    """States to maps of growing strides.

    The first `ready` of what comes in are maps already. `readout`: the class token is mixed into each place, else it is
    left out.
    """

    def __init__(self, width: int, sizes: Sequence[int], factors: Sequence[float], ready: int, readout: bool):
        self.ready = ready
        self.layers = jt.nn.ModuleList([jt.nn.Identity() if number < ready else ReassembleLayer(width, size, factor)
                                        for number, (size, factor) in enumerate(zip(sizes, factors))])
        self.readout_projects = None
        if readout:
            self.readout_projects = jt.nn.ModuleList([
                jt.nn.ModuleList([] if number < ready else [Linear(2 * width, width)]) for number in range(len(sizes))])

    def execute(self, found: List, height: int, width: int) -> List:
        """`found`: maps, then states (B, 1 + height * width, channels)."""
        maps = list(found[:self.ready])
        for number in range(self.ready, len(self.layers)):
            token, x = found[number][:, :1], found[number][:, 1:]
            if self.readout_projects is not None:
                x = gelu(self.readout_projects[number][0](jt.concat([x, token.broadcast(x.shape)], dim=2)))
            rows, _, channels = x.shape
            maps.append(self.layers[number](x.permute(0, 2, 1).reshape(rows, channels, height, width)))
        return maps


class ResidualLayer(jt.nn.Module):
    def __init__(self, channels: int):
        self.convolution1, self.convolution2 = (Conv2d(channels, channels, 3, padding=1) for _ in range(2))

    def execute(self, x):
        return x + self.convolution2(jt.nn.relu(self.convolution1(jt.nn.relu(x))))


class FusionLayer(jt.nn.Module):
    """A coarse map and the next finer one to a map that is larger. (The first layer has no finer one to add.)"""

    def __init__(self, channels: int):
        self.projection = Conv2d(channels, channels, 1)
        self.residual_layer1, self.residual_layer2 = (ResidualLayer(channels) for _ in range(2))

    def execute(self, x, finer=None, size=None):
        """`size` (height, width) of the result; None: twice that of `x`."""
        if finer is not None:
            x = x + self.residual_layer1(resized(finer, *x.shape[2:], linear_matrix))
        height, width = size or (2 * side for side in x.shape[2:])
        return self.projection(resized(self.residual_layer2(x), height, width, aligned_linear_matrix))


class FusionStage(jt.nn.Module):
    def __init__(self, channels: int, count: int):
        self.layers = jt.nn.ModuleList([FusionLayer(channels) for _ in range(count)])

    def execute(self, maps: List, exact: bool):
        """Fine to coarse maps to one. `exact`: each step takes the size of the next map, else it doubles its own."""
        x, coarse_first = None, maps[::-1]
        for number, (layer, one) in enumerate(zip(self.layers, coarse_first)):
            size = tuple(coarse_first[number + 1].shape[2:]) if exact and number + 1 < len(maps) else None
            x = layer(one, None, size) if x is None else layer(x, one, size)
        return x


class Neck(jt.nn.Module):
    """States of several layers to one map of `config.fusion_hidden_size` channels."""

    def __init__(self, config, width: int, ready: int = 0, readout: bool = False):
        sizes, channels = config.neck_hidden_sizes, config.fusion_hidden_size
        self.reassemble_stage = ReassembleStage(width, sizes, config.reassemble_factors, ready, readout)
        self.convs = jt.nn.ModuleList([Conv2d(size, channels, 3, padding=1, bias=False) for size in sizes])
        self.fusion_stage = FusionStage(channels, len(sizes))

    def execute(self, found: List, height: int, width: int, exact: bool):
        maps = self.reassemble_stage(found, height, width)
        return self.fusion_stage([conv(one) for conv, one in zip(self.convs, maps)], exact)
