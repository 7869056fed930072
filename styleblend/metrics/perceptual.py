"""Distances in the features of small networks: LPIPS, which compares places, and Gram matrices, which do not."""
from __future__ import annotations

from typing import Iterator, List, Sequence

import numpy as np
from PIL import Image

from styleblend.metrics import Metric
from styleblend.metrics.preprocessing import Preprocessing, batches
from styleblend.models.efficientnet import EfficientNetLite0
from styleblend.models.squeezenet import LPIPSHeads, SqueezeNet, unit
from styleblend.machine.runtime import jt

HALF = (0.5, 0.5, 0.5)
PREPROCESSING = Preprocessing(256, resampling=Image.Resampling.BILINEAR, mean=HALF, deviation=HALF)  # to -1..1


LITE = Preprocessing(224, mean=(127 / 255,) * 3, deviation=(128 / 255,) * 3)  # EfficientNet-Lite's


def feature_maps(network, pictures: Sequence[Image.Image],
                 preprocessing: Preprocessing = PREPROCESSING) -> Iterator[List]:
    """The feature maps of each picture, one picture after the other."""
    for picture, in batches(pictures, 1):
        yield network(jt.array(preprocessing(picture)[None]))


class PerceptualDistance(Metric):
    """LPIPS (Zhang et al. 2018) with SqueezeNet: mean distance of each picture from the style pictures."""

    name = "lpips"
    higher_is_better = {"lpips": False}
    needs = ("squeezenet", "lpips")

    def __init__(self, network: SqueezeNet, heads: LPIPSHeads):
        self.network, self.heads = network, heads

    def measure(self, pictures: Sequence[Image.Image], prompts: Sequence[str], style_pictures: Sequence[Image.Image]):
        with jt.no_grad():
            style = [unit(jt.concat(maps, 0)) for maps in zip(*feature_maps(self.network, style_pictures))]
            return {"lpips": np.array([self.heads([unit(m) for m in maps], style).mean().item()
                                       for maps in feature_maps(self.network, pictures)])}


def gram(features):
    """(1, C, H, W) -> (C, C): how often two channels are strong together, wherever."""
    rows = features.reshape(features.shape[1], -1)
    return jt.matmul(rows, rows.transpose()) / rows.shape[1]


class GramDistance(Metric):
    """Difference of Gram matrices (Gatys et al. 2016) from the style's mean ones, in units of their size.

    The mean over seven layers, 0 for equal texture.
    """

    name = "gram"
    higher_is_better = {"gram": False}
    needs = ("squeezenet",)

    preprocessing = PREPROCESSING

    def __init__(self, network):
        self.network = network

    def matrices(self, pictures: Sequence[Image.Image]) -> Iterator[List[np.ndarray]]:
        for maps in feature_maps(self.network, pictures, self.preprocessing):
            yield [gram(features).numpy() for features in maps]

    def measure(self, pictures: Sequence[Image.Image], prompts: Sequence[str], style_pictures: Sequence[Image.Image]):
        with jt.no_grad():
            style = [np.mean(layer, 0) for layer in zip(*self.matrices(style_pictures))]
            return {self.name: np.array([np.mean([np.linalg.norm(own - mean) / np.linalg.norm(mean)
                                                  for own, mean in zip(matrices, style)])
                                         for matrices in self.matrices(pictures)])}


class TextureDistance(GramDistance):
    """The same over five layers of EfficientNet-Lite0: for where nothing else can be had.

    Its weights come in a small Python package.
    """

    name = "texture"
    higher_is_better = {"texture": False}
    needs = ("efficientnet",)
    preprocessing = LITE


class FeatureDistance(Metric):
    """Squared distance of unit feature vectors of EfficientNet-Lite0, place by place, from the style pictures.

    This is LPIPS without learned weights, 0..4.
    """

    name = "features"
    higher_is_better = {"features": False}
    needs = ("efficientnet",)

    def __init__(self, network: EfficientNetLite0):
        self.network = network

    def measure(self, pictures: Sequence[Image.Image], prompts: Sequence[str], style_pictures: Sequence[Image.Image]):
        with jt.no_grad():
            style = [unit(jt.concat(maps, 0)) for maps in zip(*feature_maps(self.network, style_pictures, LITE))]
            return {"features": np.array([np.mean([((unit(own) - wanted) ** 2).sum(1).mean().item()
                                                   for own, wanted in zip(maps, style)])
                                          for maps in feature_maps(self.network, pictures, LITE)])}
