"""Pictures of some prompts, drawn and scored with one setting after another, so that settings can be compared."""
from __future__ import annotations

import time
from typing import Dict, List, Optional, Sequence, Tuple

import numpy as np
from PIL import Image

from styleblend.adapters.style import Style
from styleblend.errors import StyleBlendError
from styleblend.files.prompts import Prompt
from styleblend.jobs.drawing import draw_pictures, encode_texts
from styleblend.jobs.events import Job, Progress
from styleblend.methods.drawn_with import drawn_with
from styleblend.metrics.judge import JudgeMetric
from styleblend.metrics.weighted import weighted_mean
from styleblend.settings import MethodSettings, RunSettings, SamplingSettings, StyleSettings


class OutOfTime(Exception):
    """The time is over in the middle of the pictures."""


class ScoredPictures:
    """Pictures of the same prompts and seeds (`wanted`), drawn and scored with one style.json (`own`) after another.

    Prompts are encoded once, and nothing is drawn twice.
    """

    def __init__(self, pipeline, style: Style, settings: RunSettings, metrics: Sequence, weights: Dict[str, float],
                 originals: Sequence[Image.Image], wanted: Sequence[Tuple[Prompt, int]]):
        self.pipeline, self.style, self.settings = pipeline, style, settings
        self.metrics, self.weights = metrics, weights
        self.originals, self.wanted, size = originals, list(wanted), settings.sampling.batch
        self.batches = [self.wanted[i:i + size] for i in range(0, len(self.wanted), size)]
        self.texts = [encode_texts(pipeline, style, self.phrases(batch), settings.sampling) for batch in self.batches]
        self.known: Dict[Tuple[str, str], Dict[str, float]] = {}

    def phrases(self, batch: Sequence[Tuple[Prompt, int]]) -> List[str]:
        return [prompt.phrase(self.settings.plain_prompt) for prompt, _ in batch]

    def drawn_with(self, own: StyleSettings) -> Tuple[SamplingSettings, MethodSettings]:
        """What a style's own settings make of the config's."""
        drawn = drawn_with(self.settings, own, f"style {self.style.name}")
        return drawn.sampling, drawn.settings

    def _key(self, own: StyleSettings) -> Tuple[str, str]:
        return tuple(part.model_dump_json() for part in self.drawn_with(own))

    def remember(self, own: StyleSettings, scores: Dict[str, float]) -> None:
        """Scores of these settings from an earlier run."""
        self.known[self._key(own)] = scores

    def scores(self, own: StyleSettings, title: str, end: Optional[float] = None) -> Job[Dict[str, float]]:
        """Prompt -> mean score of its pictures. `title` is that of the progress.

        StyleBlendError when a picture has no score; OutOfTime when a batch would begin after `end` (of time.monotonic).
        """
        key = self._key(own)
        if key not in self.known:
            # what cannot be scored is said before anything is drawn, by a picture of the style in place of each
            if not self.known and self.originals:
                size = self.settings.sampling.width, self.settings.sampling.height
                self.refuse_gaps([self.originals[0].convert("RGB").resize(size)] * len(self.wanted))
            values = self.refuse_gaps((yield from self.pictures(own, title, end)))
            self.known[key] = {p.name: float(np.mean([v for v, (q, _) in zip(values, self.wanted) if q == p]))
                               for p, _ in self.wanted}
        return self.known[key]

    def pictures(self, own: StyleSettings, title: str, end: Optional[float] = None) -> Job[List[Image.Image]]:
        """All pictures, in the order of what is wanted."""
        found, (sampling, blend) = [], self.drawn_with(own)
        for batch, texts in zip(self.batches, self.texts):
            if end is not None and time.monotonic() > end:
                raise OutOfTime
            yield Progress(title, len(found), len(self.wanted), "picture")
            seeds = [seed for _, seed in batch]
            found += yield from draw_pictures(self.pipeline, self.style, self.phrases(batch), seeds, sampling, blend,
                                              texts)
        yield Progress(title, len(found), len(self.wanted), "picture")
        return found

    def refuse_gaps(self, pictures: Sequence[Image.Image]) -> np.ndarray:
        """`values`; StyleBlendError when a picture has none."""
        values = self.values(pictures)
        if not np.isfinite(values).all():
            gaps = [g for m in self.metrics if isinstance(m, JudgeMetric)
                    for g in m.gaps(pictures, [p.text for p, _ in self.wanted])]
            raise StyleBlendError(f"--metric {','.join(self.weights)} cannot be had: {'; '.join(gaps)}: name other "
                                  "prompts or another metric")
        return values

    def values(self, pictures: Sequence[Image.Image]) -> np.ndarray:
        """(N,) weighted mean of the scores that were asked for; those of which less is better count against it.

        NaN: no score.
        """
        return weighted_mean(self.weights, self.metrics, pictures, [p.text for p, _ in self.wanted], self.originals,
                             "--metric")
