"""Small rough pictures of latents, while they are drawn.

Each latent stands for 8 x 8 pixels, and its four numbers say the colour of these nearly linearly. Factors for that lie
beside an autoencoder (`vae/latent_rgb.json`); those of Stable Diffusion 1 and 2 are known. A TAESD, where there is one,
shows more than colours.
"""
from __future__ import annotations

import math
from pathlib import Path
from typing import Callable, NamedTuple, Optional

import numpy as np

from styleblend.base.base import Base
from styleblend.base.weights import load
from styleblend.errors import StyleBlendError
from styleblend.files.hub import folder_of, is_id
from styleblend.files.tensor_files import read_safetensors
from styleblend.machine.runtime import jt, say
from styleblend.models.configs import VaeConfig, read_object
from styleblend.models.taesd import TaesdDecoder

FACTORS_FILE = "latent_rgb.json"
TAESD_FILES = ("taesd_decoder.safetensors", "diffusion_pytorch_model.safetensors")  # the original's, diffusers'
TAESD_SIDE = 64  # latents a side, at most, that it decodes: larger ones are averaged first
ADVICE = "Use the decoder of madebyollin/taesd"
SD_SCALE = VaeConfig().scaling_factor


class LatentRgb(NamedTuple):
    """Colours of scaled latents in -1..1: `latents @ factors + bias`; (4, 3) and (3,)."""

    factors: np.ndarray
    bias: np.ndarray

    def __call__(self, latents) -> np.ndarray:
        return latents.numpy().transpose(0, 2, 3, 1) @ self.factors + self.bias


# As ComfyUI's latent_formats.py has them (040a324); without a bias.
SD_LATENT_RGB = LatentRgb(np.array([[0.3512, 0.2297, 0.3227], [0.3250, 0.4974, 0.2350],
                                    [-0.2829, 0.1762, 0.2721], [-0.2120, -0.2616, -0.7177]], np.float32),
                          np.zeros(3, np.float32))


class Taesd:
    """Pictures of scaled latents in -1..1, by a TAESD."""

    def __init__(self, decoder: TaesdDecoder):
        self.decoder = decoder

    def __call__(self, latents) -> np.ndarray:
        pool = math.ceil(max(latents.shape[2:]) / TAESD_SIDE)
        with jt.no_grad():
            small = jt.nn.avg_pool2d(latents, pool, pool) if pool > 1 else latents
            return self.decoder(small).numpy().transpose(0, 2, 3, 1)


class Previews:
    """The previews of one base. What makes them is read when the first is asked for.

    `taesd`: a folder, a file or a hub id; None, or one that is not there: factors are used.
    """

    def __init__(self, base: Base, taesd: Optional[str] = None):
        self.base, self.taesd = base, taesd
        self._look: Optional[Callable] = None
        self._read = False

    def __call__(self, latents) -> Optional[np.ndarray]:
        """Scaled latents (n, 4, h, w) -> uint8 (n, H, W, 3); None where nothing is known of these latents.

        H and W are those of the latents, with a TAESD up to 8 times these. The latents are only read.
        """
        if not self._read:
            self._look, self._read = self.found(), True
        if self._look is None:
            return None
        return (np.clip(np.nan_to_num(self._look(latents)) / 2 + 0.5, 0, 1) * 255).round().astype(np.uint8)

    def found(self) -> Optional[Callable]:
        """What makes previews here; None, and a sentence, where nothing does."""
        if self.taesd:
            path = find_taesd(self.taesd)
            if path is not None:
                refuse_other_latents(self.base, path)
                return Taesd(read_taesd(path))
            say(f"there is no TAESD in {self.taesd}: previews show the colours of 8 x 8 pixels")
        look = latent_rgb(self.base)
        if look is None:
            say(f"no previews: nothing is known of the latents of {self.base.folder / 'vae'}, which has no "
                f"{FACTORS_FILE}")
        return look


def latent_rgb(base: Base) -> Optional[LatentRgb]:
    """The factors of a base's latents: those beside its autoencoder, else Stable Diffusion's where it has these."""
    path = base.folder / "vae" / FACTORS_FILE
    if path.is_file():
        return read_factors(path)
    return SD_LATENT_RGB if is_sd(base) else None


def is_sd(base: Base) -> bool:
    """Whether a base has the latents of Stable Diffusion 1 and 2, by their scaling factor."""
    return math.isclose(base.vae.scale, SD_SCALE)


def read_factors(path: Path) -> LatentRgb:
    """The factors and the bias in a file. StyleBlendError for others than 4 x 3 and 3 finite numbers."""
    data = read_object(path)
    try:
        found = LatentRgb(np.array(data["factors"], np.float32), np.array(data["bias"], np.float32))
    except (KeyError, TypeError, ValueError):
        found = None
    if found is None or found.factors.shape != (4, 3) or found.bias.shape != (3,) or not all(
            np.isfinite(part).all() for part in found):
        raise StyleBlendError(f'{path} holds no factors of a preview: it needs "factors", 4 x 3 numbers, and "bias", 3')
    return found


def find_taesd(named: str) -> Optional[Path]:
    """The file of a TAESD; None where there is none. A hub id is asked for on the hub."""
    place = Path(named)
    if is_id(named) and not place.exists() and not place.parent.is_dir():
        place = folder_of(named, TAESD_FILES, "taesd_decoder.safetensors")
    if place.is_dir():
        return next((place / name for name in TAESD_FILES if (place / name).is_file()), None)
    return place if place.is_file() else None


def refuse_other_latents(base: Base, path: Path) -> None:
    """StyleBlendError for a base whose latents no TAESD of Stable Diffusion can read."""
    if not is_sd(base):
        raise StyleBlendError(f"{path} decodes the latents of Stable Diffusion 1 and 2, and {base.folder / 'vae'} has "
                              "others: leave taesd out of the config")


def read_taesd(path: Path) -> TaesdDecoder:
    """The decoder in a file, under diffusers' names or the original's."""
    decoder = TaesdDecoder()
    load(decoder, taesd_names(read_safetensors(path)), str(path), advice=ADVICE)
    return decoder


def taesd_names(tensors: dict) -> dict:
    """The decoder's tensors by diffusers' names, without `decoder.`.

    The original counts the bending of the latents as layer 0, so its numbers are one higher.
    """
    if any(name.startswith("decoder.") for name in tensors):
        return {name[len("decoder."):]: one for name, one in tensors.items() if name.startswith("decoder.")}
    found = {}
    for name, one in tensors.items():
        number, dot, rest = name.partition(".")
        found[f"layers.{int(number) - 1}.{rest}" if dot and number.isdecimal() else name] = one
    return found
