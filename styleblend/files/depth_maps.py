"""Depth maps as control pictures: grey, the nearest white and the farthest black. Nothing here starts Jittor."""
from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from styleblend.errors import StyleBlendError
from styleblend.files.limits import MAX_PIXELS
from styleblend.files.pictures import load_picture

MOST_COLOUR = 16  # between the channels of a pixel; a grey JPEG has a little


def from_depth(depth: np.ndarray) -> np.ndarray:
    """Depth (H, W) of any scale -> uint8 (H, W, 3), from black to white, cut off to whole values as is usual."""
    low, high = float(depth.min()), float(depth.max())
    if not 0 < high - low < np.inf:  # false for NaN, too
        raise StyleBlendError("the depth of this picture is the same everywhere, so there is no layout to hold: take "
                              "a picture with things before a background, or give a depth map of your own")
    grey = ((depth - np.float32(low)) / np.float32(high - low) * 255).clip(0, 255).astype(np.uint8)
    return np.repeat(grey[..., None], 3, axis=2)


def load_depth_map(path: Path, width: int, height: int, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """A map that somebody made, as uint8 (height, width, 3). Another size is resized; other proportions are refused."""
    picture = load_picture(path, max_pixels)
    pixels = np.asarray(picture, int)
    if (pixels.max(axis=2) - pixels.min(axis=2)).max() > MOST_COLOUR:
        raise StyleBlendError(f"{path} has colours, and a depth map is grey, near things bright: give a grey one, "
                              "or this picture for its depth to be estimated")
    grey = picture.convert("L")
    if min(grey.getextrema()) == max(grey.getextrema()):
        raise StyleBlendError(f"the depth map {path} is of one colour: it holds no layout")
    # by a pixel of one side a size that was rounded may be off
    if abs(grey.width * height - grey.height * width) > max(*grey.size, width, height):
        raise StyleBlendError(f"the depth map {path} is {grey.width} x {grey.height}, and {width} x {height} is drawn, "
                              "which has other proportions: crop it, or draw in its proportions")
    if grey.size != (width, height):
        grey = grey.resize((width, height), Image.Resampling.BICUBIC)
    return np.repeat(np.asarray(grey)[..., None], 3, axis=2)
