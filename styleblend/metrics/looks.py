"""Likeness by the features of the judge's networks, without weights of other networks: on emoji art alone."""
from __future__ import annotations

from typing import Callable, Dict, Sequence

import numpy as np
from PIL import Image, ImageOps

from styleblend.metrics import Metric, Score
from styleblend.metrics.dino import SetLikeness
from styleblend.metrics.judge import BATCH, Judge


def seen(judge: Judge, features: Callable, pictures: Sequence[Image.Image]) -> np.ndarray:
    """(N, width) features of pictures, a few of which are open at a time; what is not square is seen in its middle."""
    size = (judge.size, judge.size)
    return np.concatenate([features(np.stack([
        np.asarray(ImageOps.fit(pictures[i], size, Image.BOX))
        for i in range(begin, min(begin + BATCH, len(pictures)))])) for begin in range(0, len(pictures), BATCH)])


class JudgedLooks(SetLikeness):
    """The likeness of a set's looks by the judge."""

    name = "judge_looks"
    higher_is_better = {"judge_set": True, "judge_style": True}

    def encoded(self, pictures: Sequence[Image.Image]) -> np.ndarray:
        return seen(self.network, self.network.looks, pictures)


class JudgedLeak(Metric):
    """What of the style pictures' content is in a drawing: the largest cosine with one of them of what they show."""

    name = "leak"
    higher_is_better = {"leak": False}

    def __init__(self, judge: Judge):
        self.judge = judge

    def measure(self, pictures: Sequence[Image.Image], prompts: Sequence[str],
                style_pictures: Sequence[Image.Image]) -> Dict[str, Score]:
        drawn, shown = (seen(self.judge, self.judge.features, some) for some in (pictures, style_pictures))
        return {"leak": (drawn @ shown.T).max(1)}
