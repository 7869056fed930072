"""Pictures of some prompts, drawn and scored with one setting after another, so that settings can be compared."""
from __future__ import annotations

import sys
from typing import Callable, Dict, List, Sequence, Tuple

import numpy as np
from PIL import Image
from tqdm import tqdm

from styleblend.errors import StyleBlendError
from styleblend.metrics.judge import JudgeMetric
from styleblend.metrics.weighted import mixed
from styleblend.pipeline import StyleBlendPipeline, branches_of
from styleblend.files.prompts import Prompt
from styleblend.settings import BlendSettings, RunSettings, SamplingSettings, StyleSettings, blend_for, sampling_for


class Sitting:
    """The same prompts with the same seeds (`jobs`), drawn and scored with one style.json (`own`) after another. Prompts are encoded once, and nothing is drawn twice."""

    def __init__(self, pipeline: StyleBlendPipeline, settings: RunSettings, metrics: Sequence, mix: Dict[str, float], originals: Sequence[Image.Image],
                 jobs: Sequence[Tuple[Prompt, int]]):
        self.pipeline, self.settings, self.metrics, self.mix, self.originals, self.jobs = pipeline, settings, metrics, mix, originals, list(jobs)
        size, branches = settings.sampling.batch, branches_of(pipeline.style)
        self.batches = [self.jobs[i:i + size] for i in range(0, len(self.jobs), size)]
        self.texts = [pipeline.encode_for([p.phrase(settings.plain_prompt) for p, _ in batch], settings.sampling, branches) for batch in self.batches]
        self.known: Dict[Tuple[str, str], Dict[str, float]] = {}

    def drawn_with(self, own: StyleSettings) -> Tuple[SamplingSettings, BlendSettings]:
        """What a style's own settings make of the config's."""
        return sampling_for(self.settings.sampling, own), blend_for(self.settings.blend, own, f"style {self.pipeline.style.name}")

    def _key(self, own: StyleSettings) -> Tuple[str, str]:
        return tuple(part.model_dump_json() for part in self.drawn_with(own))

    def remember(self, own: StyleSettings, scores: Dict[str, float]) -> None:
        """Scores of these settings from an earlier run."""
        self.known[self._key(own)] = scores

    def scores(self, own: StyleSettings, title: str, each: Callable = lambda: None) -> Dict[str, float]:
        """Prompt -> mean score of its pictures. StyleBlendError when one has none. `title` is the progress bar's, `each` is called before each batch."""
        key = self._key(own)
        if key not in self.known:
            if not self.known and self.originals:  # what cannot be scored is said before anything is drawn, by a picture of the style in place of each
                size = self.settings.sampling.width, self.settings.sampling.height
                self.refuse_gaps([self.originals[0].convert("RGB").resize(size)] * len(self.jobs))
            values = self.refuse_gaps(self.pictures(own, title, each))
            self.known[key] = {p.name: float(np.mean([v for v, (q, _) in zip(values, self.jobs) if q == p])) for p, _ in self.jobs}
        return self.known[key]

    def pictures(self, own: StyleSettings, title: str, each: Callable = lambda: None) -> List[Image.Image]:
        """All pictures, in the order of the jobs."""
        found, (sampling, blend) = [], self.drawn_with(own)
        for batch, text in tqdm(list(zip(self.batches, self.texts)), desc=title, unit="batch", leave=False, dynamic_ncols=True, file=sys.stderr):
            each()
            phrases, seeds = [p.phrase(self.settings.plain_prompt) for p, _ in batch], [seed for _, seed in batch]
            found += [Image.fromarray(pixels) for pixels in self.pipeline.generate(phrases, seeds, sampling, blend, text=text)]
        return found

    def refuse_gaps(self, pictures: Sequence[Image.Image]) -> np.ndarray:
        """`values`; StyleBlendError when a picture has none."""
        values = self.values(pictures)
        if not np.isfinite(values).all():
            gaps = [g for m in self.metrics if isinstance(m, JudgeMetric) for g in m.gaps(pictures, [p.text for p, _ in self.jobs])]
            raise StyleBlendError(f"--metric {','.join(self.mix)} cannot be had: {'; '.join(gaps)}: name other prompts or another metric")
        return values

    def values(self, pictures: Sequence[Image.Image]) -> np.ndarray:
        """(N,) weighted mean of the scores that were asked for; those of which less is better count against it. NaN: no score."""
        return mixed(self.mix, self.metrics, pictures, [p.text for p, _ in self.jobs], self.originals, "--metric")
