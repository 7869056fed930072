"""Scores of the picture grids of a training, and a word when they show what the style pictures show."""
from __future__ import annotations

from pathlib import Path
from typing import Optional, Sequence

import numpy as np
from PIL import Image

from styleblend.captions import style_pictures
from styleblend.errors import StyleBlendError
from styleblend.judge import Judge, JudgeMetric
from styleblend.mix import mixed, parse_mix
from styleblend.names import entry
from styleblend.pictures import load_picture, to_array
from styleblend.runtime import say
from styleblend.settings import RunSettings

MANY = 0.25  # of a grid


class Scorer:
    """Scores pictures of the style `name` by a metric mix (`styleblend.mix`) of the judge."""

    def __init__(self, settings: RunSettings, name: str, mix: str):
        sampling, reading = settings.sampling, settings.pictures
        paths = [p.path for p in style_pictures(entry(settings.data, name))]
        arrays = [to_array(load_picture(path, reading.max_pixels), sampling.width, sampling.height, reading.fit) for path in paths]
        originals = ((np.stack(arrays).transpose(0, 2, 3, 1) + 1) * 127.5).round().astype(np.uint8)
        self.name, self.mix = name, parse_mix(mix, "training.score")
        self.judge = Judge.load()
        self.metric, self.originals = JudgeMetric(self.judge, name), [Image.fromarray(pixels) for pixels in originals]
        self.gaps = self.metric.gaps(self.originals, settings.training.sample_prompts)
        self.contents = self.judge.features(originals)
        alike = self.contents @ self.contents.T
        # nearer than half way from the nearest two style pictures to sameness: real art of the same style with other subjects never comes there
        self.limit = (1 + alike[~np.eye(len(alike), dtype=bool)].max()) / 2 if len(alike) > 1 else np.inf

    def score(self, pictures: Sequence[np.ndarray], prompts: Sequence[str]) -> Optional[float]:
        """The mean score of uint8 pictures (H, H, 3); None where the judge cannot say it."""
        if self.gaps:
            return None
        return float(mixed(self.mix, [self.metric], [Image.fromarray(p) for p in pictures], prompts, self.originals, "training.score").mean())

    def leaked(self, pictures: Sequence[np.ndarray]) -> float:
        """The share of pictures that show nearly what a style picture shows."""
        return float(((self.judge.features(np.stack(pictures)) @ self.contents.T).max(axis=1) > self.limit).mean())

    def __call__(self, pictures: Sequence[np.ndarray], prompts: Sequence[str], path: Path) -> Optional[float]:
        """The score of a grid; says so when many of its pictures leak the content of the style pictures."""
        leaked = self.leaked(pictures)
        if leaked > MANY:
            say(f"{leaked:.0%} of the pictures in {path} show nearly what a picture of {self.name} shows: the content leaks, not only the style; "
                "train fewer steps or with a lower learning rate")
        return self.score(pictures, prompts)


def scorer_for(settings: RunSettings, name: str, mix: Optional[str]) -> Optional[Scorer]:
    """None when the config asks for no score or draws no grids. Says what the judge cannot score; StyleBlendError where the best is to be kept by it."""
    sampling, training = settings.sampling, settings.training
    best = "--keep best needs a score: "
    if not mix or not training.sample_every:
        if training.keep_adapters == "best":
            raise StyleBlendError(f"{best}set training.score and training.sample_every in the config")
        return None
    side = Judge.load().size
    if sampling.width != sampling.height or sampling.width % side:
        raise StyleBlendError(f"training.score: the judge reads square pictures whose side is a multiple of {side} pixels, not {sampling.width} x {sampling.height}")
    scorer = Scorer(settings, name, mix)
    if scorer.gaps and training.keep_adapters == "best":
        raise StyleBlendError(best + "; ".join(scorer.gaps))
    if scorer.gaps:
        say(f"the picture grids get no score: {'; '.join(scorer.gaps)}")
    return scorer
