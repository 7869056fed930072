"""The decoder of TAESD, a tiny autoencoder of Stable Diffusion 1 and 2's latents (Boer Bohan, 2023).

It makes rough pictures in a hundredth of the autoencoder's work, for previews. Attribute names are those of diffusers'
AutoencoderTiny.
"""
from __future__ import annotations

from styleblend.machine.runtime import jt
from styleblend.models.layers import Conv2d
from styleblend.models.unet import nearest

CHANNELS, BLOCKS, LEVELS = 64, 3, 3  # the published sizes: there are no others for these latents
LIMIT = 3  # latents are bent so that they stay below it


class ReLU(jt.nn.Module):
    """Has a number of its own among the layers, as in the published files."""

    def execute(self, x):
        return jt.nn.relu(x)


class Upsample(jt.nn.Module):
    """Twice the size, each pixel four times."""

    def execute(self, x):
        return nearest(x, (2 * x.shape[2], 2 * x.shape[3]))


class AutoencoderTinyBlock(jt.nn.Module):
    """Three convolutions beside a way past them."""

    def __init__(self, channels: int):
        self.conv = jt.nn.ModuleList([Conv2d(channels, channels, 3, padding=1), ReLU(),
                                      Conv2d(channels, channels, 3, padding=1), ReLU(),
                                      Conv2d(channels, channels, 3, padding=1)])

    def execute(self, x):
        y = x
        for layer in self.conv:
            y = layer(y)
        return jt.nn.relu(y + x)


class TaesdDecoder(jt.nn.Module):
    """Scaled latents (B, 4, h, w), as the UNet sees them -> pictures (B, 3, 8h, 8w), about -1..1, not clamped."""

    def __init__(self):
        layers = [Conv2d(4, CHANNELS, 3, padding=1), ReLU()]
        for _ in range(LEVELS):
            layers += [AutoencoderTinyBlock(CHANNELS) for _ in range(BLOCKS)]
            layers += [Upsample(), Conv2d(CHANNELS, CHANNELS, 3, padding=1, bias=False)]
        layers += [AutoencoderTinyBlock(CHANNELS), Conv2d(CHANNELS, 3, 3, padding=1)]
        self.layers = jt.nn.ModuleList(layers)

    def execute(self, x):
        x = jt.tanh(x / LIMIT) * LIMIT
        for layer in self.layers:
            x = layer(x)
        return x * 2 - 1  # published files give 0..1
