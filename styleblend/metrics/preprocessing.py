"""Pictures as the measuring networks read them: equal to the processors of transformers and torchvision, by Pillow."""
from __future__ import annotations

from dataclasses import dataclass
from typing import Iterator, List, Optional, Sequence, Tuple

import numpy as np
from PIL import Image

BATCH = 8
IMAGENET_MEAN, IMAGENET_DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Preprocessing:
    """How a network wants its pictures: resized, cropped and normalised.

    `resize`: the new length of the shorter side, of which the middle square of side `crop` is kept; without `crop` of
    both sides.
    """

    resize: int
    crop: Optional[int] = None
    resampling: Image.Resampling = Image.Resampling.BICUBIC
    mean: Tuple[float, ...] = IMAGENET_MEAN
    deviation: Tuple[float, ...] = IMAGENET_DEVIATION

    def __call__(self, picture: Image.Image) -> np.ndarray:
        """(3, side, side) float32."""
        return normalised(self.fitted(picture.convert("RGB")), self.mean, self.deviation)

    def fitted(self, picture: Image.Image) -> Image.Image:
        if self.crop is None:
            return picture.resize((self.resize, self.resize), self.resampling)
        short = min(picture.size)
        picture = picture.resize(tuple(self.resize * side // short for side in picture.size), self.resampling)
        left, top = ((side - self.crop) // 2 for side in picture.size)
        return picture.crop((left, top, left + self.crop, top + self.crop))


def normalised(picture: Image.Image, mean: Sequence[float], deviation: Sequence[float],
               scale: float = 255) -> np.ndarray:
    """(3, H, W) float32: values divided by `scale`, less the mean, in units of the deviation."""
    pixels = np.asarray(picture, np.float32) / np.float32(scale)
    return ((pixels - np.float32(mean)) / np.float32(deviation)).transpose(2, 0, 1)


def batches(items: Sequence, size: int = BATCH) -> Iterator[List]:
    """Lists of `size` items, the last one shorter. Each is taken out of `items` only now."""
    for begin in range(0, len(items), size):
        yield [items[i] for i in range(begin, min(begin + size, len(items)))]
