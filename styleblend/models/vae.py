"""AutoencoderKL: pictures to latents and back. Attribute names are those of the diffusers checkpoint."""
from __future__ import annotations

from typing import NamedTuple

from styleblend.models.configs import VaeConfig
from styleblend.kernels import attention
from styleblend.models.layers import Conv2d, GroupNorm, Linear
from styleblend.models.unet import ResnetBlock2D, nearest
from styleblend.machine.precision import added
from styleblend.machine.runtime import jt

EPS = 1e-6


class Posterior(NamedTuple):
    """A diagonal Gaussian over latents; both (B, 4, h, w)."""

    mean: object
    logvar: object

    @property
    def std(self):
        return (self.logvar * 0.5).exp()

    def sample(self, noise):
        """`noise` is standard normal, shaped like the mean."""
        return self.mean + self.std * noise


class AttentionBlock(jt.nn.Module):
    """Single-head self-attention over the pixels of the smallest level, with a residual."""

    def __init__(self, channels: int, groups: int):
        self.group_norm = GroupNorm(groups, channels, EPS)
        self.to_q, self.to_k, self.to_v = (Linear(channels, channels) for _ in range(3))
        self.to_out = jt.nn.ModuleList([Linear(channels, channels)])

    def execute(self, x):
        rows, channels, height, width = x.shape
        y = self.group_norm(x).reshape(rows, channels, height * width).permute(0, 2, 1)
        y = self.to_out[0](attention(self.to_q(y), self.to_k(y), self.to_v(y), heads=1))
        return added(x, y.permute(0, 2, 1).reshape(x.shape))


class MidBlock(jt.nn.Module):
    def __init__(self, channels: int, groups: int):
        self.attentions = jt.nn.ModuleList([AttentionBlock(channels, groups)])
        self.resnets = jt.nn.ModuleList([ResnetBlock2D(channels, channels, groups, EPS, None) for _ in range(2)])

    def execute(self, x):
        return self.resnets[1](self.attentions[0](self.resnets[0](x)))


class Downsample2D(jt.nn.Module):
    """Half the size; the missing border is added right and below only, as the checkpoints were trained."""

    def __init__(self, channels: int):
        self.conv = Conv2d(channels, channels, 3, stride=2)

    def execute(self, x):
        return self.conv(jt.nn.pad(x, [0, 1, 0, 1]))


class Upsample2D(jt.nn.Module):
    def __init__(self, channels: int):
        self.conv = Conv2d(channels, channels, 3, padding=1)

    def execute(self, x):
        return self.conv(nearest(x, (x.shape[2] * 2, x.shape[3] * 2)))


class Level(jt.nn.Module):
    """Residual blocks of one resolution, then a change of resolution (`kind` None: the last level)."""

    def __init__(self, in_channels: int, out_channels: int, count: int, groups: int, kind, name: str):
        self.resnets = jt.nn.ModuleList([ResnetBlock2D(in_channels if i == 0 else out_channels, out_channels, groups,
                                                       EPS, None) for i in range(count)])
        self.resample = name if kind else None
        if kind:
            setattr(self, name, jt.nn.ModuleList([kind(out_channels)]))

    def execute(self, x):
        for resnet in self.resnets:
            x = resnet(x)
        return getattr(self, self.resample)[0](x) if self.resample else x


class Encoder(jt.nn.Module):
    def __init__(self, config: VaeConfig):
        channels, groups = config.block_out_channels, config.norm_num_groups
        self.conv_in = Conv2d(config.in_channels, channels[0], 3, padding=1)
        self.down_blocks = jt.nn.ModuleList([Level(channels[max(i - 1, 0)], c, config.layers_per_block, groups,
                                                   Downsample2D if i < len(channels) - 1 else None, "downsamplers")
                                             for i, c in enumerate(channels)])
        self.mid_block = MidBlock(channels[-1], groups)
        self.conv_norm_out = GroupNorm(groups, channels[-1], EPS)
        self.conv_out = Conv2d(channels[-1], 2 * config.latent_channels, 3, padding=1)

    def execute(self, x):
        x = self.conv_in(x)
        for level in self.down_blocks:
            x = level(x)
        return self.conv_out(self.conv_norm_out(self.mid_block(x), silu=True))


class Decoder(jt.nn.Module):
    def __init__(self, config: VaeConfig):
        channels, groups = config.block_out_channels[::-1], config.norm_num_groups
        self.conv_in = Conv2d(config.latent_channels, channels[0], 3, padding=1)
        self.mid_block = MidBlock(channels[0], groups)
        self.up_blocks = jt.nn.ModuleList([Level(channels[max(i - 1, 0)], c, config.layers_per_block + 1, groups,
                                                 Upsample2D if i < len(channels) - 1 else None, "upsamplers")
                                           for i, c in enumerate(channels)])
        self.conv_norm_out = GroupNorm(groups, channels[-1], EPS)
        self.conv_out = Conv2d(channels[-1], config.out_channels, 3, padding=1)

    def execute(self, z):
        x = self.mid_block(self.conv_in(z))
        for level in self.up_blocks:
            x = level(x)
        return self.conv_out(self.conv_norm_out(x, silu=True))


class AutoencoderKL(jt.nn.Module):
    """Pictures (B, 3, H, W) in -1..1 <-> latents (B, 4, H/8, W/8). The scaling factor is the caller's, see `scale`."""

    # in any precision: bfloat16 would show in the picture
    float32_parts = ("quant_conv", "post_quant_conv", "encoder.conv_out", "decoder.conv_out")

    def __init__(self, config: VaeConfig = VaeConfig()):
        self.config = config
        self.encoder, self.decoder = Encoder(config), Decoder(config)
        self.quant_conv = Conv2d(2 * config.latent_channels, 2 * config.latent_channels, 1)
        self.post_quant_conv = Conv2d(config.latent_channels, config.latent_channels, 1)

    @property
    def scale(self) -> float:
        """Latents times this have about unit variance: that is what the UNet sees."""
        return self.config.scaling_factor

    def encode(self, pictures) -> Posterior:
        """Height and width must be multiples of `config.downscale`."""
        moments = self.quant_conv(self.encoder(pictures))
        mean, logvar = jt.chunk(moments, 2, dim=1)
        return Posterior(mean, jt.clamp(logvar, -30.0, 20.0))

    def decode(self, latents):
        """Unscaled latents -> pictures, not clamped."""
        return self.decoder(self.post_quant_conv(latents))
