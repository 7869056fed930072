"""ControlNet (Zhang et al. 2023): a copy of the UNet's first half reads a picture and steers the UNet's second half.

Attribute names are those of the diffusers checkpoint.
"""
from __future__ import annotations

from typing import Optional

import numpy as np

from styleblend.machine.runtime import jt
from styleblend.models.attention import AttentionContext, repeated
from styleblend.models.configs import ControlNetConfig
from styleblend.models.layers import Conv2d, silu
from styleblend.models.unet import Residuals, UNetEncoder


class ControlNetConditioningEmbedding(jt.nn.Module):
    """From a control picture to the size of the latents: an eighth of each side with the usual four widths."""

    def __init__(self, config: ControlNetConfig):
        widths = config.conditioning_embedding_out_channels
        self.conv_in = Conv2d(config.conditioning_channels, widths[0], 3, padding=1)
        blocks = []
        for width, wider in zip(widths, widths[1:]):
            blocks += [Conv2d(width, width, 3, padding=1), Conv2d(width, wider, 3, stride=2, padding=1)]
        self.blocks = jt.nn.ModuleList(blocks)
        self.conv_out = Conv2d(widths[-1], config.block_out_channels[0], 3, padding=1)

    def execute(self, picture):
        """picture (n, 3, H, W) in 0..1 -> (n, channels, H / 8, W / 8)."""
        x = silu(self.conv_in(picture))
        for block in self.blocks:
            x = silu(block(x))
        return self.conv_out(x)


class ControlNetModel(UNetEncoder):
    """(latents, time step, text states, control picture) -> what is added to the UNet's skip connections."""

    float32_parts = (*UNetEncoder.float32_parts, "controlnet_cond_embedding")

    def __init__(self, config: ControlNetConfig = ControlNetConfig()):
        super().__init__(config)
        self.controlnet_cond_embedding = ControlNetConditioningEmbedding(config)
        self.controlnet_down_blocks = jt.nn.ModuleList([Conv2d(width, width, 1) for width in self.skip_channels])
        self.controlnet_mid_block = Conv2d(config.block_out_channels[-1], config.block_out_channels[-1], 1)

    @property
    def downscale(self) -> int:
        """How many pixels of a control picture there are for one of the latents, each way."""
        return 2 ** (len(self.config.conditioning_embedding_out_channels) - 1)

    def embedded(self, picture):
        """A control picture (n, 3, H, W) in 0..1, RGB, for `execute`: it is the same in every step."""
        if self.config.controlnet_conditioning_channel_order == "bgr":
            picture = picture[:, ::-1]
        return self.controlnet_cond_embedding(picture)

    def execute(self, latents, timestep, text, condition, context: Optional[AttentionContext] = None,
                strength: float = 1.0, guess: bool = False) -> Residuals:
        """latents (B, 4, h, w), a time in 0..999, text (B, 77, cross_attention_dim) and `condition`, what `embedded`
        gave of one picture or of B -> `Residuals`.

        The text may have several times as many rows as the latents, as for the UNet. `strength` is a factor of all
        residuals. `guess`: the deeper ones count more, from a tenth to all (the paper, section 3.4).
        """
        x = self.conv_in(latents)
        x, skips = self.encode(x + condition, self.shifts(timestep, context), text, context)
        count = len(skips) + 1
        factors = np.logspace(-1, 0, count) * strength if guess else [strength] * count
        down = [conv(skip) * float(factor) for conv, skip, factor in zip(self.controlnet_down_blocks, skips, factors)]
        return Residuals(down, self.controlnet_mid_block(x) * float(factors[-1]))


def on_rows(found: Residuals, rows: dict, count: int) -> Residuals:
    """Residuals of some rows as those of all `count`: zero elsewhere. `rows`: row of all -> row of `found`."""
    def spread(x, made: int):
        x = repeated(x, made)
        nothing = jt.zeros((1, *x.shape[1:]), x.dtype)
        return jt.concat([x, nothing])[jt.array(np.array([rows.get(row, made) for row in range(count)], np.int32))]

    made = found.mid.shape[0]
    return Residuals([spread(x, made) for x in found.down], spread(found.mid, made))
