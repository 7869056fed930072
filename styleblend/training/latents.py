"""Pictures as cached latents: encoded once, so that the encoder can be freed before training."""
from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Sequence

import numpy as np
from PIL import ImageOps

from styleblend.base.base import Base
from styleblend.files.pictures import load_picture, to_array
from styleblend.machine.runtime import jt
from styleblend.settings import PictureSettings


class LatentCache:
    """Mean and deviation of every picture's latent and of its mirror image's: (2, N, 4, h, w) float32 on the host.

    `fingerprint`: 16 hex digits that change when a picture, their order or the size does.
    """

    def __init__(self, base: Base, paths: Sequence, width: int, height: int, mirror: bool,
                 reading: PictureSettings = PictureSettings()):
        self.scale, self.mirror = base.vae.scale, mirror
        means, deviations, digest = [], [], hashlib.sha256(f"{width} {height}".encode())
        with jt.no_grad():
            for path in paths:
                image = load_picture(path, reading.max_pixels)
                digest.update(hashlib.sha256(Path(path).read_bytes()).digest())
                for view in (image, ImageOps.mirror(image)) if mirror else (image,):
                    posterior = base.vae.encode(jt.array(to_array(view, width, height, reading.fit)[None]))
                    means.append(posterior.mean.numpy()[0])
                    deviations.append(posterior.std.numpy()[0])
        self.fingerprint = digest.hexdigest()[:16]
        views = 2 if mirror else 1
        self.mean = np.stack(means).reshape(len(paths), views, *means[0].shape).transpose(1, 0, 2, 3, 4)
        self.deviation = np.stack(deviations).reshape(self.mean.transpose(1, 0, 2, 3, 4).shape).transpose(1, 0, 2, 3, 4)

    def __len__(self) -> int:
        return self.mean.shape[1]

    def sample(self, rng: np.random.Generator, index: np.ndarray) -> np.ndarray:
        """Scaled latents (B, 4, h, w) of the pictures `index` (B,).

        They are mirrored by chance where the cache holds mirror images.
        """
        view = rng.integers(0, self.mean.shape[0], len(index))
        mean, deviation = self.mean[view, index], self.deviation[view, index]
        return ((mean + deviation * rng.standard_normal(mean.shape)) * self.scale).astype(np.float32)
