"""Pictures as a style encoder reads them: square, by Pillow, in -1..1."""
from __future__ import annotations

import numpy as np
from PIL import Image

LONG = 16  # short sides; of a longer picture the ends are cut off before it is made larger, which costs less memory


def square(picture: Image.Image, side: int, fit: str) -> Image.Image:
    """The picture with `side` pixels each way. "squash" changes its proportions, "crop" takes its middle."""
    if fit == "squash":
        return picture.resize((side, side), Image.Resampling.BILINEAR)
    short = min(picture.size)
    ends = tuple(max(0, length - LONG * short) // 2 for length in picture.size)
    if any(ends):
        picture = picture.crop((*ends, picture.width - ends[0], picture.height - ends[1]))
    picture = picture.resize(tuple(side * length // short for length in picture.size), Image.Resampling.BILINEAR)
    left, top = (round((length - side) / 2) for length in picture.size)
    return picture.crop((left, top, left + side, top + side))


def read_by_encoder(picture: Image.Image, side: int, fit: str) -> np.ndarray:
    """(3, side, side) float32 in -1..1: (x / 255 - 0.5) / 0.5, not CLIP's own mean and deviation."""
    pixels = np.asarray(square(picture.convert("RGB"), side, fit), np.float32) / np.float32(255)
    return ((pixels - np.float32(0.5)) / np.float32(0.5)).transpose(2, 0, 1)
