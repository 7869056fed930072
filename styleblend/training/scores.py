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
SOURCE = "coarse_score or fine_score"  # the settings that ask for a score


class Scorer:
    """Scores pictures of the style `name` by a metric mix (`styleblend.mix`) of the judge."""

    def __init__(self, settings: RunSettings, name: str, mix: str, judge: Judge):
        sampling, reading = settings.sampling, settings.pictures
        paths = [p.path for p in style_pictures(entry(settings.data, name))]
        arrays = [to_array(load_picture(path, reading.max_pixels), sampling.width, sampling.height, reading.fit) for path in paths]
        originals = ((np.stack(arrays).transpose(0, 2, 3, 1) + 1) * 127.5).round().astype(np.uint8)
        self.name, self.mix = name, parse_mix(mix, SOURCE)
        self.judge, self.metric, self.originals = judge, JudgeMetric(judge, name), [Image.fromarray(pixels) for pixels in originals]
        prompts, self.gaps = settings.training.sample_prompts, []
        if not np.isfinite(self.values(self.originals[:1] * len(prompts), prompts)).all():  # what the mix does not ask for may be unknown
            self.gaps = self.metric.gaps(self.originals, prompts)
        self.contents = judge.features(originals)
        alike = self.contents @ self.contents.T
        # nearer than half way from the nearest two style pictures to sameness: real art of the same style with other subjects never comes there
        self.limit = (1 + alike[~np.eye(len(alike), dtype=bool)].max()) / 2 if len(alike) > 1 else np.inf

    def score(self, pictures: Sequence[np.ndarray], prompts: Sequence[str]) -> Optional[float]:
        """The mean score of uint8 pictures (H, H, 3); None where the judge cannot say it."""
        if self.gaps:
            return None
        return float(self.values([Image.fromarray(p) for p in pictures], prompts).mean())

    def values(self, pictures: Sequence[Image.Image], prompts: Sequence[str]) -> np.ndarray:
        """(N,) of the mix; NaN: no score."""
        return mixed(self.mix, [self.metric], pictures, prompts, self.originals, SOURCE)

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
    """None when the config asks for no score, draws no grids, or draws them in a size that the judge does not read.

    What the judge cannot score is said; StyleBlendError where the best step is to be kept by it.
    """
    sampling, training, scorer = settings.sampling, settings.training, None
    if not mix or not training.sample_every:
        gaps = [f"set {SOURCE} and sample_every in the config"] if training.keep_adapters == "best" else []
    else:
        judge = Judge.load()
        if judge.reads(sampling.width, sampling.height):
            scorer = Scorer(settings, name, mix, judge)
            gaps = scorer.gaps
        else:
            gaps = [f"the judge reads square pictures whose side is a multiple of {judge.size} pixels, not {sampling.width} x {sampling.height}"]
    if gaps and training.keep_adapters == "best":
        raise StyleBlendError(f"--keep best needs a score: {'; '.join(gaps)}")
    if gaps:
        say(f"the picture grids get no score: {'; '.join(gaps)}")
    return scorer
