"""Likeness of looks by the features of the judge's style network: without weights of other networks, on emoji art."""
from __future__ import annotations

from typing import Dict, List, Optional, Sequence

import numpy as np
from PIL import Image, ImageOps

from styleblend.metrics import Metric, Score
from styleblend.metrics.dino import set_consistency, weighted_likeness
from styleblend.metrics.judge import BATCH, Judge


class JudgedLooks(Metric):
    """How alike the looks of a set are, and how like those of its style pictures, each with its share.

    A picture that is not square is looked at in its middle.
    """

    name = "judge_looks"
    higher_is_better = {"judge_set": True, "judge_style": True}
    splits = True

    def __init__(self, judge: Judge, shares: Optional[Sequence[float]] = None):
        self.judge, self.shares = judge, shares

    def with_shares(self, shares: Sequence[float]) -> JudgedLooks:
        return JudgedLooks(self.judge, shares)

    def measure(self, pictures: Sequence[Image.Image], prompts: Sequence[str],
                style_pictures: Sequence[Image.Image]) -> Dict[str, Score]:
        looks = self.looks(pictures)
        found: Dict[str, Score] = {"judge_set": set_consistency(looks)}
        if len(style_pictures):
            found["judge_style"] = weighted_likeness(looks, self.looks(style_pictures), self.shares)
        return found

    def looks(self, pictures: Sequence[Image.Image]) -> np.ndarray:
        """(N, D) unit vectors; a few pictures are open at a time."""
        found: List[np.ndarray] = []
        for begin in range(0, len(pictures), BATCH):
            some = (pictures[i] for i in range(begin, min(begin + BATCH, len(pictures))))
            found.append(self.judge.looks(np.stack([np.asarray(ImageOps.fit(p, (self.judge.size,) * 2, Image.BOX))
                                                    for p in some])))
        return np.concatenate(found)
