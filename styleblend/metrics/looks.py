"""Likeness of looks by the features of the judge's style network: without weights of other networks, on emoji art."""
from __future__ import annotations

from typing import Sequence

import numpy as np
from PIL import Image, ImageOps

from styleblend.metrics.dino import SetLikeness
from styleblend.metrics.judge import BATCH


class JudgedLooks(SetLikeness):
    """The likeness of a set's looks by the judge. A picture that is not square is looked at in its middle."""

    name = "judge_looks"
    higher_is_better = {"judge_set": True, "judge_style": True}

    def encoded(self, pictures: Sequence[Image.Image]) -> np.ndarray:
        """A few pictures are open at a time."""
        size = (self.network.size, self.network.size)
        return np.concatenate([self.network.looks(np.stack([
            np.asarray(ImageOps.fit(pictures[i], size, Image.BOX))
            for i in range(begin, min(begin + BATCH, len(pictures)))])) for begin in range(0, len(pictures), BATCH)])
