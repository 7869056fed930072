"""Pictures as cached latents: encoded once, so that the encoder can be freed before training."""
from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Generator, Sequence

import numpy as np
from PIL import ImageOps

from styleblend.base.base import Base
from styleblend.files.pictures import load_picture, to_array
from styleblend.machine.runtime import jt
from styleblend.settings import PictureSettings
from styleblend.training.work import WorkDone


@dataclass(frozen=True)
class LatentCache:
    """Mean and deviation of every picture's latent and of its mirror image's: (2, N, 4, h, w) float32 on the host.

    `fingerprint`: 16 hex digits that change when a picture, their order or the size does. `scale` is the autoencoder's.
    """

    mean: np.ndarray
    deviation: np.ndarray
    scale: float
    fingerprint: str

    def __len__(self) -> int:
        return self.mean.shape[1]

    def sample(self, rng: np.random.Generator, index: np.ndarray) -> np.ndarray:
        """Scaled latents (B, 4, h, w) of the pictures `index` (B,).

        They are mirrored by chance where the cache holds mirror images.
        """
        view = rng.integers(0, self.mean.shape[0], len(index))
        mean, deviation = self.mean[view, index], self.deviation[view, index]
        return ((mean + deviation * rng.standard_normal(mean.shape)) * self.scale).astype(np.float32)


def encode_pictures(base: Base, paths: Sequence, width: int, height: int, mirror: bool,
                    reading: PictureSettings = PictureSettings()) -> Generator[WorkDone, None, LatentCache]:
    """Encode every picture, and its mirror image where `mirror` says so; returns the cache."""
    means, deviations, digest = [], [], hashlib.sha256(f"{width} {height}".encode())
    for number, path in enumerate(paths):
        yield WorkDone("encoding pictures", number, len(paths), "picture")
        image = load_picture(path, reading.max_pixels)
        digest.update(hashlib.sha256(Path(path).read_bytes()).digest())
        for view in (image, ImageOps.mirror(image)) if mirror else (image,):
            with jt.no_grad():
                posterior = base.vae.encode(jt.array(to_array(view, width, height, reading.fit)[None]))
                means.append(posterior.mean.numpy()[0])
                deviations.append(posterior.std.numpy()[0])
    yield WorkDone("encoding pictures", len(paths), len(paths), "picture")
    shape = len(paths), 2 if mirror else 1, *means[0].shape
    mean, deviation = (np.stack(values).reshape(shape).transpose(1, 0, 2, 3, 4) for values in (means, deviations))
    return LatentCache(mean, deviation, base.vae.scale, digest.hexdigest()[:16])
