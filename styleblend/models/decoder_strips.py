"""The VAE's decoder in strips: the same picture, up to the last bits, with the memory of some rows of it.

Feature maps wait as arrays in the host's memory; the device gets as many rows of one as a convolution can take at a
time, with the rows beside them. Norms take the mean and deviation of the whole map. Tiles that are decoded each by
itself do not: on the mini base they were 5/255 away from the whole picture on average, at 256 px in tiles of 128 with a
quarter in common.
"""
from __future__ import annotations

from typing import Callable, Optional

import numpy as np

from styleblend.models.layers import Conv2d, GroupNorm, silu
from styleblend.models.unet import ResnetBlock2D, nearest
from styleblend.models.vae import AutoencoderKL
from styleblend.machine.runtime import jt


def normaliser(norm: GroupNorm, x: np.ndarray) -> Callable:
    """A function of some rows of x (1, channels, height, width): their group norm with SiLU.

    By the statistics of all rows.
    """
    groups = x.reshape(norm.groups, -1)
    mean = groups.mean(axis=1, dtype=np.float64).astype(np.float32)
    scale = np.array([1 / np.sqrt(np.square(group - m).mean(dtype=np.float64) + norm.eps)
                      for group, m in zip(groups, mean)], np.float32)
    mean, scale = (jt.array(a.repeat(x.shape[1] // norm.groups)).reshape(1, -1, 1, 1) for a in (mean, scale))
    gain, shift = scale * norm.weight.reshape(1, -1, 1, 1), norm.bias.reshape(1, -1, 1, 1)
    return lambda part: silu((part - mean) * gain + shift)


def convolved(conv: Conv2d, x: np.ndarray, rows: int, before: Callable, grow: int = 1,
              plus: Optional[Callable] = None) -> np.ndarray:
    """conv(before(x)) for a 3x3 convolution, `rows` rows of the result at a time.

    The result is `grow` times as high and wide as x. `plus(part)` is added: it gets where a strip is, as an index into
    the result.
    """
    height, width = x.shape[2] * grow, x.shape[3] * grow
    out = np.empty((1, conv.weight.shape[0], height, width), np.float32)
    for top in range(0, height, rows):
        bottom = min(top + rows, height)
        first, last = max(top - grow, 0), min(bottom + grow, height)  # the neighbours that the convolution reads
        y = conv(before(jt.array(x[:, :, first // grow:last // grow])))[:, :, top - first:bottom - first]
        part = (slice(None), slice(None), slice(top, bottom))
        out[part] = (y if plus is None else y + plus(part)).numpy()
    return out


def resnet(block: ResnetBlock2D, x: np.ndarray, rows: int) -> np.ndarray:
    """As the block, without a time embedding."""
    y = convolved(block.conv1, x, rows, normaliser(block.norm1, x))
    way_round = ((lambda part: jt.array(x[part]))
                 if block.conv_shortcut is None else (lambda part: block.conv_shortcut(jt.array(x[part]))))
    return convolved(block.conv2, y, rows, normaliser(block.norm2, y), plus=way_round)


def decode(vae: AutoencoderKL, latents, rows: int) -> np.ndarray:
    """As `vae.decode` of one unscaled latent (1, 4, h, w), in horizontal strips: (1, 3, H, W).

    `rows` (an even number) of every feature map at a time.
    """
    decoder = vae.decoder
    # the smallest maps, and all of them for the attention
    x = decoder.mid_block(decoder.conv_in(vae.post_quant_conv(latents))).numpy()
    for level in decoder.up_blocks:
        for block in level.resnets:
            x = resnet(block, x, rows)
        if level.resample:
            double = lambda part: nearest(part, (2 * part.shape[2], 2 * part.shape[3]))
            x = convolved(level.upsamplers[0].conv, x, rows, double, grow=2)
        jt.gc()
    return convolved(decoder.conv_out, x, rows, normaliser(decoder.conv_norm_out, x))
