"""Likeness of styles, and of contents, by CSD (Somepalli et al. 2024): the measure of style of papers since."""
from __future__ import annotations

from typing import Dict, Optional, Sequence

import numpy as np
from PIL import Image

from styleblend.metrics import Metric, Score
from styleblend.metrics.dino import weighted_likeness
from styleblend.metrics.networks import ImageEncoder

STYLE, CONTENT = 0, 1  # the vectors of a picture


class CsdLikeness(Metric):
    """Cosine of each picture's style with those of the style pictures, and of its content with theirs.

    Each style picture counts with its share. A high `csd` with a high `csd_content` is a copy: content has leaked.
    """

    name = "csd"
    higher_is_better = {"csd": True, "csd_content": False}
    needs = ("csd",)

    def __init__(self, network: ImageEncoder, shares: Optional[Sequence[float]] = None):
        self.network, self.shares = network, shares

    def with_shares(self, shares: Sequence[float]) -> CsdLikeness:
        return type(self)(self.network, shares)

    def measure(self, pictures: Sequence[Image.Image], prompts: Sequence[str],
                style_pictures: Sequence[Image.Image]) -> Dict[str, Score]:
        drawn, models = self.network.encode(pictures), self.network.encode(style_pictures)
        return {name: weighted_likeness(drawn[:, head], models[:, head], self.shares)
                for name, head in (("csd", STYLE), ("csd_content", CONTENT))}

    def features(self, pictures: Sequence[Image.Image]) -> np.ndarray:
        return self.network.encode(pictures)[:, CONTENT]
