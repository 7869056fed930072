"""Frechet distance of two sets of pictures (Heusel et al. 2017), with the 64 features that the competition takes."""
from __future__ import annotations

from typing import Sequence

import numpy as np
from PIL import Image

from styleblend.metrics import Metric
from styleblend.metrics.preprocessing import batches, normalised
from styleblend.models.inception import InceptionStem
from styleblend.machine.runtime import jt


class Gaussian:
    """Mean and covariance of features, from sums: nothing is kept of a picture."""

    def __init__(self, size: int = 64):
        self.count, self.sum, self.products = 0, np.zeros(size), np.zeros((size, size))

    def add(self, features: np.ndarray) -> None:
        """features (N, size)"""
        features = features.astype(np.float64)
        self.count += len(features)
        self.sum += features.sum(0)
        self.products += features.T @ features

    def __add__(self, other: "Gaussian") -> "Gaussian":
        """Of the features of both."""
        both = Gaussian(len(self.sum))
        both.count = self.count + other.count
        both.sum = self.sum + other.sum
        both.products = self.products + other.products
        return both

    @property
    def mean(self) -> np.ndarray:
        return self.sum / self.count

    @property
    def covariance(self) -> np.ndarray:
        return (self.products - self.count * np.outer(self.mean, self.mean)) / (self.count - 1)


def frechet(one: Gaussian, other: Gaussian) -> float:
    """|m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^(1/2)). NaN when a set has a single picture.

    The trace of the root is the sum of the roots of the eigenvalues: no root of a matrix that may have none.
    """
    if min(one.count, other.count) < 2:
        return float("nan")
    roots = np.sqrt(np.linalg.eigvals(one.covariance @ other.covariance).astype(complex)).real.sum()
    return float(((one.mean - other.mean) ** 2).sum() + np.trace(one.covariance)
                 + np.trace(other.covariance) - 2 * roots)


class FrechetDistance(Metric):
    """Distance of the drawn pictures from the style pictures as sets."""

    name = "fid"
    higher_is_better = {"fid": False}
    needs = ("inception",)

    def __init__(self, network: InceptionStem):
        self.network = network

    def gaussian(self, pictures: Sequence[Image.Image]) -> Gaussian:
        """Of the features of these pictures."""
        found = Gaussian()
        for picture, in batches(pictures, 1):  # one by one, since each may have its own size
            with jt.no_grad():
                found.add(self.network(jt.array(normalised(picture.convert("RGB"), (0, 0, 0), (1, 1, 1),
                                                           scale=1)[None])).numpy())
        return found

    def measure(self, pictures: Sequence[Image.Image], prompts: Sequence[str], style_pictures: Sequence[Image.Image]):
        return {"fid": frechet(self.gaussian(style_pictures), self.gaussian(pictures))}
