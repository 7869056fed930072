"""Likeness of pictures by DINO: inside a set (Hertz et al. 2024), and with one or several style pictures."""
from __future__ import annotations

from abc import abstractmethod
from typing import Any, Dict, Optional, Sequence

import numpy as np
from PIL import Image

from styleblend.errors import StyleBlendError
from styleblend.metrics import Metric, Score
from styleblend.metrics.networks import ImageEncoder


def set_consistency(features: np.ndarray) -> float:
    """Mean cosine of all pairs of different pictures; rows of `features` (N, width) have length 1.

    NaN for a single picture.
    """
    likeness = features @ features.T
    return float(np.mean(likeness[np.triu_indices(len(features), 1)])) if len(features) > 1 else float("nan")


def weighted_likeness(features: np.ndarray, styles: np.ndarray, shares: Optional[Sequence[float]] = None) -> np.ndarray:
    """For each picture the sum of its cosines with the style pictures, each with its share (None: equal ones).

    Their mean is the weighted multi-style score.
    """
    shares = np.full(len(styles), 1 / len(styles)) if shares is None else np.asarray(shares, np.float64)
    if shares.shape != (len(styles),) or not np.isclose(shares.sum(), 1):
        raise StyleBlendError(f"{len(shares)} shares that sum up to {shares.sum():.3g} for {len(styles)} style "
                              "pictures: give one for each, 1 in all")
    return features @ styles.T @ shares


class SetLikeness(Metric):
    """How alike a set is, and how like its style pictures each picture is, each of these with its share.

    Without style pictures there is the first only. `higher_is_better` names the two, in this order.
    """

    splits = True

    def __init__(self, network: Any, shares: Optional[Sequence[float]] = None):
        self.network, self.shares = network, shares

    def with_shares(self, shares: Sequence[float]) -> SetLikeness:
        return type(self)(self.network, shares)

    @abstractmethod
    def encoded(self, pictures: Sequence[Image.Image]) -> np.ndarray:
        """(N, width) unit vectors."""

    def measure(self, pictures: Sequence[Image.Image], prompts: Sequence[str],
                style_pictures: Sequence[Image.Image]) -> Dict[str, Score]:
        vectors, (of_set, of_style) = self.encoded(pictures), self.higher_is_better
        found: Dict[str, Score] = {of_set: set_consistency(vectors)}
        if len(style_pictures):
            found[of_style] = weighted_likeness(vectors, self.encoded(style_pictures), self.shares)
        return found


class DinoLikeness(SetLikeness):
    """The likeness of a set by DINO ViT-B/8."""

    name = "dino"
    higher_is_better = {"dino_set": True, "dino_style": True}
    needs = ("dino",)

    def encoded(self, pictures: Sequence[Image.Image]) -> np.ndarray:
        return self.network.encode(pictures)

    def features(self, pictures: Sequence[Image.Image]) -> np.ndarray:
        return self.encoded(pictures)


class Dinov2Likeness(Metric):
    """DINOv2: mean cosine of each picture with the style pictures."""

    name = "dinov2"
    higher_is_better = {"dinov2": True}
    needs = ("dinov2",)

    def __init__(self, dinov2: ImageEncoder):
        self.dinov2 = dinov2

    def measure(self, pictures: Sequence[Image.Image], prompts: Sequence[str], style_pictures: Sequence[Image.Image]):
        return {"dinov2": weighted_likeness(self.dinov2.encode(pictures), self.dinov2.encode(style_pictures))}

    def features(self, pictures: Sequence[Image.Image]) -> np.ndarray:
        return self.dinov2.encode(pictures)
