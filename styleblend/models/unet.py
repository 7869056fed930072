"""The conditional UNet of Stable Diffusion 2.x. Attribute names are those of the diffusers checkpoint."""
from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, List, NamedTuple, Optional, Sequence

import numpy as np

from styleblend.models.checkpointing import checkpoint
from styleblend.models.configs import UNetConfig
from styleblend.models.attention import Attention, AttentionContext, BasicTransformerBlock, Site, repeated
from styleblend.models.layers import Conv2d, GroupNorm, Linear, silu
from styleblend.machine.precision import added, cast
from styleblend.machine.runtime import jt


def timestep_embedding(timesteps, size: int):
    """Sinusoids of the time step (Ho et al. 2020), cosines first. `timesteps` (B,) any number type -> (B, size)."""
    half = size // 2
    exponent = -math.log(10000) * np.arange(half, dtype=np.float32) / half
    # t near 1000 multiplies a last-digit error: NumPy's fp32 exp has some
    frequency = np.exp(exponent.astype(np.float64)).astype(np.float32)
    angle = timesteps.float32().reshape(-1, 1) * jt.array(frequency).reshape(1, -1)
    return jt.concat([angle.cos(), angle.sin()], dim=1)


class TimestepEmbedding(jt.nn.Module):
    def __init__(self, size: int, out: int):
        self.linear_1, self.linear_2 = Linear(size, out), Linear(out, out)

    def execute(self, x):
        return self.linear_2(silu(self.linear_1(x)))


def pooling_of(context: Optional[AttentionContext], x):
    """Whose values count in the group norms of `x`."""
    return context.pooling.get(x.shape[0]) if context else None


class ResnetBlock2D(jt.nn.Module):
    """Two 3x3 convolutions with a residual; the time embedding is added between them (None in the autoencoder)."""

    checkpointing = False

    def __init__(self, in_channels: int, out_channels: int, groups: int, eps: float, time_size: Optional[int]):
        self.norm1, self.conv1 = GroupNorm(groups, in_channels, eps), Conv2d(in_channels, out_channels, 3, padding=1)
        self.norm2, self.conv2 = GroupNorm(groups, out_channels, eps), Conv2d(out_channels, out_channels, 3, padding=1)
        if time_size:
            self.time_emb_proj = Linear(time_size, out_channels)
        self.conv_shortcut = Conv2d(in_channels, out_channels, 1) if in_channels != out_channels else None

    def execute(self, x, time=None, context: Optional[AttentionContext] = None):
        """x (B, C, H, W) -> the block's output.

        `time`: the embedding after its SiLU, or what `project_times` made of it for every block.
        """
        shift = time[self] if isinstance(time, dict) else None if time is None else self.time_emb_proj(time)
        pooling = pooling_of(context, x)
        if self.checkpointing:
            return checkpoint(self, {}, lambda x, shift: self.compute(x, shift, pooling), x, shift)
        return self.compute(x, shift, pooling)

    def compute(self, x, shift, pooling=None):
        y = self.conv1(self.norm1(x, silu=True, pooling=pooling))
        if shift is not None:
            y = added(y, shift.reshape(shift.shape[0], -1, 1, 1))
        y = self.conv2(self.norm2(y, silu=True, pooling=pooling))
        return added(y, x if self.conv_shortcut is None else self.conv_shortcut(x))


class Transformer2DModel(jt.nn.Module):
    """Pixels as tokens through one transformer block, with linear projections in and out."""

    checkpointing = False

    def __init__(self, channels: int, heads: int, config: UNetConfig, self_site: Site, cross_site: Site):
        self.norm = GroupNorm(config.norm_num_groups, channels, 1e-6)
        self.proj_in, self.proj_out = Linear(channels, channels), Linear(channels, channels)
        self.transformer_blocks = jt.nn.ModuleList(
            [BasicTransformerBlock(channels, heads, config.cross_attention_dim, self_site, cross_site)])

    def execute(self, x, text, context=None):
        if self.checkpointing:
            return checkpoint(self, context.loras if context else {},
                              lambda x, text: self.compute(x, text, context), x, text)
        return self.compute(x, text, context)

    def compute(self, x, text, context):
        rows, channels, height, width = x.shape
        y = self.norm(x, pooling=pooling_of(context, x)).reshape(rows, channels, height * width).permute(0, 2, 1)
        y = self.proj_in(y)
        for block in self.transformer_blocks:
            y = block(y, text, context)
        y = self.proj_out(y).permute(0, 2, 1)
        return added(repeated(x, y.shape[0]), y.reshape([y.shape[0], channels, height, width]))


class Downsample2D(jt.nn.Module):
    def __init__(self, channels: int):
        self.conv = Conv2d(channels, channels, 3, stride=2, padding=1)

    def execute(self, x):
        return self.conv(x)


class Upsample2D(jt.nn.Module):
    """Nearest neighbour to the size of the skip connection that comes next, then a convolution."""

    def __init__(self, channels: int):
        self.conv = Conv2d(channels, channels, 3, padding=1)

    def execute(self, x, size):
        return self.conv(nearest(x, size))


def nearest(x, size):
    """Nearest-neighbour resize of (B, C, H, W) to `size` = (height, width)."""
    rows, channels, height, width = x.shape
    if tuple(size) == (2 * height, 2 * width):
        return x.reshape(rows, channels, height, 1, width, 1).broadcast([rows, channels, height, 2, width, 2]).reshape(
            rows, channels, 2 * height, 2 * width)
    y = jt.array((np.arange(size[0]) * height // size[0]).astype(np.int32))
    z = jt.array((np.arange(size[1]) * width // size[1]).astype(np.int32))
    return x[:, :, y][:, :, :, z]


class DownBlock(jt.nn.Module):
    """Residual blocks, each followed by a transformer where the level has attention, then half the size."""

    def __init__(self, in_channels, out_channels, time_size, config, heads, sites, last):
        groups, eps = config.norm_num_groups, config.norm_eps
        self.resnets = jt.nn.ModuleList([ResnetBlock2D(in_channels if i == 0 else out_channels, out_channels, groups,
                                                       eps, time_size) for i in range(config.layers_per_block)])
        self.attentions = (jt.nn.ModuleList([Transformer2DModel(out_channels, heads, config, *pair) for pair in sites])
                           if sites else None)
        self.downsamplers = None if last else jt.nn.ModuleList([Downsample2D(out_channels)])

    def execute(self, x, time, text, context, skips: List, most: Optional[int] = None):
        """Adds to the skip connections; nothing is computed beyond `most` of them."""
        for i, resnet in enumerate(self.resnets):
            if len(skips) == most:
                return x
            x = resnet(x, time, context)
            if self.attentions is not None:
                x = self.attentions[i](x, text, context)
            skips.append(x)
        if self.downsamplers is not None and len(skips) != most:
            x = self.downsamplers[0](x)
            skips.append(x)
        return x


class MidBlock(jt.nn.Module):
    def __init__(self, channels, time_size, config, heads, sites):
        self.resnets = jt.nn.ModuleList([ResnetBlock2D(channels, channels, config.norm_num_groups, config.norm_eps,
                                                       time_size) for _ in range(2)])
        self.attentions = jt.nn.ModuleList([Transformer2DModel(channels, heads, config, *sites[0])])

    def execute(self, x, time, text, context):
        x = self.attentions[0](self.resnets[0](x, time, context), text, context)
        return self.resnets[1](x, time, context)


@dataclass
class DeepFeatures:
    """What comes into the last `layers` layers of the upward half, to be kept for the next steps (`DeepCache`).

    `x`: None until the UNet has computed it; where it is there, what leads to it is left out.
    """

    layers: int
    x: Any = None  # (rows, channels, height, width)


class UpBlock(jt.nn.Module):
    """Like DownBlock with one more layer; each residual block also reads the matching skip connection."""

    def __init__(self, in_channels, skip_channels, out_channels, time_size, config, heads, sites, last):
        groups, eps = config.norm_num_groups, config.norm_eps
        self.resnets = jt.nn.ModuleList([
            ResnetBlock2D((in_channels if i == 0 else out_channels) + skip, out_channels, groups, eps, time_size)
            for i, skip in enumerate(skip_channels)])
        self.attentions = (jt.nn.ModuleList([Transformer2DModel(out_channels, heads, config, *pair) for pair in sites])
                           if sites else None)
        self.upsamplers = None if last else jt.nn.ModuleList([Upsample2D(out_channels)])

    def execute(self, x, time, text, context, skips: List, first: int = 0, deep: Optional[DeepFeatures] = None):
        """From layer `first` on. `x` is kept in `deep` on its way."""
        for i, resnet in list(enumerate(self.resnets))[first:]:
            if deep and len(skips) == deep.layers:
                deep.x = x
            x = resnet(jt.concat([x, repeated(skips.pop(), x.shape[0])], dim=1), time, context)
            if self.attentions is not None:
                x = self.attentions[i](x, text, context)
        return x if self.upsamplers is None else self.upsamplers[0](x, skips[-1].shape[2:])


class Residuals(NamedTuple):
    """What a ControlNet adds (Zhang et al. 2023, section 3.2).

    To each skip connection in forward order, and behind the middle block.
    """

    # (rows, channels, height, width) each; with fewer rows than the UNet has there they are repeated
    down: Sequence[Any]
    mid: Any


def skip_with(x, more):
    """A skip connection and what is added to it. The one with fewer rows stands for all conditions, and is repeated."""
    rows = max(x.shape[0], more.shape[0])
    return added(repeated(x, rows), repeated(more, rows))


class UNetEncoder(jt.nn.Module):
    """The first half of the UNet, to its middle block: what the UNet and a ControlNet have in common."""

    # in any precision: what reads and writes latents and times
    float32_parts = ("conv_in", "conv_out", "time_embedding")

    def __init__(self, config):
        self.config = config
        channels, time_size = config.block_out_channels, config.block_out_channels[0] * 4
        self.sites: List[Site] = []
        self.conv_in = Conv2d(config.in_channels, channels[0], 3, padding=1)
        self.time_embedding = TimestepEmbedding(channels[0], time_size)
        down, self.skip_channels = [], [channels[0]]
        for i, kind in enumerate(config.down_block_types):
            last, count = i == len(channels) - 1, config.layers_per_block
            pairs = self.add_sites(f"down_blocks.{i}", count, 2 ** i) if kind.startswith("CrossAttn") else None
            down.append(DownBlock(channels[max(i - 1, 0)], channels[i], time_size, config,
                                  config.attention_head_dim[i], pairs, last))
            self.skip_channels += [channels[i]] * (count + (not last))
        self.down_blocks = jt.nn.ModuleList(down)
        self.mid_block = MidBlock(channels[-1], time_size, config, config.attention_head_dim[-1],
                                  self.add_sites("mid_block", 1, 2 ** (len(channels) - 1)))

    def add_sites(self, prefix: str, count: int, downscale: int) -> list:
        """The next sites in forward order: of each transformer its self- and its cross-attention."""
        pairs = []
        for i in range(count):
            name, index = f"{prefix}.attentions.{i}.transformer_blocks.0", len(self.sites) // 2
            pairs.append((Site(name + ".attn1", index, "self", downscale),
                          Site(name + ".attn2", index, "cross", downscale)))
            self.sites.extend(pairs[-1])
        return pairs

    def enable_gradient_checkpointing(self) -> None:
        """From now on the backward pass computes each block's activations again: less memory, one more forward pass."""
        for module in self.modules():
            if isinstance(module, (ResnetBlock2D, Transformer2DModel)):
                module.checkpointing = True

    def project_text(self, text, loras={}, lora_scale=None) -> dict:
        """k and v of every cross-attention for `AttentionContext.text`.

        A picture needs them once, not in every step.
        """
        return {m.site.name: m.keys_and_values(text, loras, lora_scale) for m in self.modules()
                if isinstance(m, Attention) and m.site.kind == "cross"}

    def embed(self, timesteps):
        """The embedding of time steps (n,), after its SiLU: (n, time_size)."""
        return silu(self.time_embedding(timestep_embedding(timesteps, self.config.block_out_channels[0])))

    def project_times(self, timesteps) -> dict:
        """What each residual block adds at each of these times, (n, channels), for `AttentionContext.times`.

        A picture needs it once, not in every step.
        """
        time = self.embed(jt.array(np.asarray(timesteps, np.float32)))
        return {m: m.time_emb_proj(time) for m in self.modules() if isinstance(m, ResnetBlock2D)}

    def shifts(self, timestep, context: Optional[AttentionContext]):
        """What the residual blocks add at a time: of each, where the context has it, or its embedding."""
        if context and context.times:
            return {block: shifts[context.step:context.step + 1] for block, shifts in context.times.items()}
        # a number is the same for all rows: they share its embedding
        return self.embed(timestep if isinstance(timestep, jt.Var) else jt.array(np.full(1, timestep, np.float32)))

    def encode(self, x, time, text, context: Optional[AttentionContext], most: Optional[int] = None) -> tuple:
        """From what `conv_in` gave to behind the middle block: that, and the skip connections.

        `most`: only the first so many skip connections are wanted, and nothing behind them is computed.
        """
        x = cast(x, self.mid_block.resnets[0].conv1.dtype())
        skips = [x]
        for block in self.down_blocks:
            if len(skips) != most:
                x = block(x, time, text, context, skips, most)
        return (self.mid_block(x, time, text, context) if most is None else None), skips


class UNet2DConditionModel(UNetEncoder):
    """Noise prediction: (latents, time step, text states) -> epsilon or v, as the base was trained."""

    def __init__(self, config: UNetConfig = UNetConfig()):
        super().__init__(config)
        channels, levels, time_size = (config.block_out_channels, len(config.block_out_channels),
                                       config.block_out_channels[0] * 4)
        skip_channels, up = list(self.skip_channels), []
        for i, kind in enumerate(config.up_block_types):
            level, count = levels - 1 - i, config.layers_per_block + 1
            pairs = self.add_sites(f"up_blocks.{i}", count, 2 ** level) if kind.startswith("CrossAttn") else None
            skips = [skip_channels.pop() for _ in range(count)]
            up.append(UpBlock(channels[min(level + 1, levels - 1)], skips, channels[level], time_size, config,
                              config.attention_head_dim[level], pairs, i == levels - 1))
        self.up_blocks = jt.nn.ModuleList(up)
        self.conv_norm_out = GroupNorm(config.norm_num_groups, channels[0], config.norm_eps)
        self.conv_out = Conv2d(channels[0], config.out_channels, 3, padding=1)

    def execute(self, latents, timestep, text, context: Optional[AttentionContext] = None,
                residuals: Optional[Residuals] = None, deep: Optional[DeepFeatures] = None):
        """latents (B, 4, h, w), timestep, text (B, 77, cross_attention_dim) -> (B, 4, h, w) float32.

        `timestep`: a number or Var (B,) in 0..999. The text may have several times as many rows as the latents, one set
        for each condition. All conditions draw from the same latents, and until the text comes in, behind the first
        self-attention, they are one. `residuals` are added to the skip connections. `deep` keeps the deep blocks' work;
        where it has it already they are left out.
        """
        time, known = self.shifts(timestep, context), deep is not None and deep.x is not None
        x, skips = self.encode(self.conv_in(latents), time, text, context, deep.layers if known else None)
        if residuals:
            skips = [skip_with(skip, more) for skip, more in zip(skips, residuals.down)]
            x = x if known else skip_with(x, residuals.mid)
        x, left_out = (deep.x, len(self.skip_channels) - deep.layers) if known else (x, 0)
        for block in self.up_blocks:
            first, left_out = min(left_out, len(block.resnets)), max(left_out - len(block.resnets), 0)
            if first < len(block.resnets):
                x = block(x, time, text, context, skips, first, deep)
        return self.conv_out(self.conv_norm_out(x, silu=True, pooling=pooling_of(context, x)))
