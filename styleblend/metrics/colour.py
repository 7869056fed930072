"""Likeness of colours: correlation of colour histograms with those of a style.

As the checker of the Jittor competition of 2024 computes it.
"""
from __future__ import annotations

import sys
from typing import Sequence

import numpy as np
from PIL import Image

from styleblend.metrics import Metric
from styleblend.metrics.preprocessing import batches

HUES = (20, 40, 75, 155, 190, 270, 295, 315)  # upper ends in degrees; from 315 on it is red again
LEVELS = (51, 178)                            # of saturation and value: 0.2 and 0.7 of 255


def rgb_histogram(pixels: np.ndarray, overflow: bool = True) -> np.ndarray:
    """Counts of colours in 16 x 16 x 16 cells, (4096,), of uint8 pixels (H, W, 3).

    `overflow`: blue, the first channel of OpenCV, is lost, since 256 times its level does not fit into 8 bits. 256
    cells are then used at most.
    """
    red, green, blue = (pixels[..., i].astype(np.int64) // 16 for i in range(3))
    return np.bincount((green * 16 + red + (0 if overflow else blue * 256)).ravel(), minlength=4096).astype(np.float64)


def opencv_hsv(pixels: np.ndarray):
    """Hue (0..179, half degrees), saturation and value (0..255) of uint8 RGB.

    Rounded with the fixed-point tables of OpenCV.
    """
    red, green, blue = (pixels[..., i].astype(np.int64) for i in range(3))
    value = pixels.max(-1).astype(np.int64)
    spread = value - pixels.min(-1)
    divisor = np.maximum(np.arange(256), 1)
    by_value, by_spread = (np.rint((scale << 12) / (parts * divisor)).astype(np.int64)
                           for scale, parts in ((255, 1.0), (180, 6.0)))
    saturation = (spread * by_value[value] + 2048) >> 12
    hue = np.where(value == red, green - blue,
                   np.where(value == green, blue - red + 2 * spread, red - green + 4 * spread))
    hue = (hue * by_spread[spread] + 2048) >> 12
    return np.where(hue < 0, hue + 180, hue), saturation, value


def hsv_histogram(pixels: np.ndarray, wrapped_hue: bool = True) -> np.ndarray:
    """Counts in 8 hues x 3 saturations x 3 values, (72,), of uint8 pixels (H, W, 3).

    `wrapped_hue`: the hue is doubled in 8 bits, so 256 degrees and more begin again at 0, and blues count as reds and
    greens.
    """
    hue, saturation, value = opencv_hsv(pixels)
    hue = 2 * hue % (256 if wrapped_hue else 360)
    place = np.searchsorted(HUES, hue, side="left") % len(HUES)
    cell = (9 * place + 3 * np.searchsorted(LEVELS, saturation, side="left")
            + np.searchsorted(LEVELS, value, side="left"))
    return np.bincount(cell.ravel(), minlength=72).astype(np.float64)


def correlation(one: np.ndarray, other: np.ndarray) -> float:
    """Pearson correlation; 1 when one of the two is flat, as in OpenCV."""
    one, other = one - one.mean(), other - other.mean()
    size = (one @ one) * (other @ other)
    return float(one @ other / np.sqrt(size)) if size > sys.float_info.epsilon else 1.0


class ColourHistograms(Metric):
    """Correlation of each picture's histogram with the mean histogram of the style.

    In RGB and in HSV, and the mean of the two.
    """

    name = "histogram"
    higher_is_better = {"histogram": True, "histogram_rgb": True, "histogram_hsv": True}

    def __init__(self, overflow: bool = True, wrapped_hue: bool = True):
        self.overflow, self.wrapped_hue = overflow, wrapped_hue

    def histograms(self, picture: Image.Image):
        pixels = np.asarray(picture.convert("RGB"))
        return rgb_histogram(pixels, self.overflow), hsv_histogram(pixels, self.wrapped_hue)

    def measure(self, pictures: Sequence[Image.Image], prompts: Sequence[str], style_pictures: Sequence[Image.Image]):
        style = [np.mean(part, 0)
                 for part in zip(*(self.histograms(picture) for picture, in batches(style_pictures, 1)))]
        rgb, hsv = np.array([[correlation(own, mean) for own, mean in zip(self.histograms(picture), style)]
                             for picture, in batches(pictures, 1)]).T
        return {"histogram": (rgb + hsv) / 2, "histogram_rgb": rgb, "histogram_hsv": hsv}
