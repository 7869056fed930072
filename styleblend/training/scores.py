"""Scores of the picture grids of a training, and a word when they show what the style pictures show."""
from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Dict, List, Mapping, Optional, Sequence, Tuple

import numpy as np
from PIL import Image

from styleblend.files.captions import style_pictures
from styleblend.errors import StyleBlendError
from styleblend.metrics.judge import Judge, JudgeMetric
from styleblend.metrics import Metric, load_metrics, metric_kinds
from styleblend.metrics.networks import Networks
from styleblend.metrics.weighted import described, no_score, parse_weights, weighted_mean
from styleblend.files.shipped import data_of
from styleblend.files.pictures import load_picture, to_array
from styleblend.machine.runtime import say
from styleblend.settings import RunSettings

MANY = 0.25  # of a grid
SOURCE = "coarse_score, fine_score, dreamstyler_score or encoder_score"  # the settings that ask for a score


class Scorer:
    """Scores pictures of the style `name` by a weighted mean (`styleblend.metrics.weighted`) of `metrics`.

    Without `weights` nothing is scored. `scored_by` is the weights in words.
    """

    def __init__(self, name: str, weights: Dict[str, float], metrics: Sequence[Metric],
                 originals: Sequence[Image.Image]):
        self.name, self.weights, self.metrics, self.originals = name, weights, metrics, originals
        self.scored_by = described(weights)
        seen = [(metric, contents) for metric in metrics
                for contents in [metric.features(originals)] if contents is not None]
        self.watch, self.contents = seen[0] if seen else (None, None)
        self.limit = likeness_limit(self.contents, self.watch.held_out) if seen else np.inf

    def score(self, pictures: Sequence[Image.Image], prompts: Sequence[str]) -> Optional[float]:
        """The mean score of pictures of these prompts; None without weights."""
        return (float(weighted_mean(self.weights, self.metrics, pictures, prompts, self.originals, SOURCE).mean())
                if self.weights else None)

    def leaked(self, pictures: Sequence[Image.Image]) -> float:
        """The share of pictures that show nearly what a style picture shows."""
        return (float(((self.watch.features(pictures) @ self.contents.T).max(axis=1) > self.limit).mean())
                if np.isfinite(self.limit) else 0.0)

    def __call__(self, pictures: Sequence[Image.Image], prompts: Sequence[str], path: Path) -> Optional[float]:
        """The score of a grid; says so when many of its pictures leak the content of the style pictures."""
        leaked = self.leaked(pictures)
        if leaked > MANY:
            say(f"{leaked:.0%} of the pictures in {path} show nearly what a picture of {self.name} shows: "
                "the content leaks, not only the style; train fewer steps or with a lower learning rate")
        return self.score(pictures, prompts)


def likeness_limit(contents: np.ndarray, held_out: Optional[float]) -> float:
    """How like its nearest style picture other art of the style may be.

    As much as real held-out art is, and as the style pictures are among themselves. Where held-out art was not
    measured: half the way from there to sameness, since a few pictures hardly ever hold the two of a style that are
    most alike.
    """
    alike = contents @ contents.T
    nearest = float(alike[~np.eye(len(alike), dtype=bool)].max()) if len(alike) > 1 else None
    if held_out is not None:
        return max(held_out, nearest or 0.0)
    return (1 + nearest) / 2 if nearest is not None else np.inf


def scoring_files(settings: RunSettings) -> List[Path]:
    """The weights in the config's folder that the scores of both trainings need; nothing is fetched for the answer."""
    training, networks = settings.training, Networks(Path(settings.metrics.weights))
    texts = (training.coarse_score, training.fine_score, training.dreamstyler_score, training.encoder_score)
    scores = {score for text in texts if text and training.sample_every for score in parse_weights(text, SOURCE)}
    needs = {need for kind in metric_kinds().values() if scores & set(kind.higher_is_better) for need in kind.needs}
    found = []
    for need in sorted(needs):
        with contextlib.suppress(StyleBlendError):  # what is not there or cannot be read will not be loaded either
            found.append(networks.weight_file(need))
    return found


def metrics_for(settings: RunSettings, name: str, weights: Dict[str, float]) -> Tuple[List[Metric], List[str]]:
    """The metrics that give the scores in `weights`, and sentences on those that cannot be had."""
    sampling, found, gaps = settings.sampling, [], []
    of_metric = {score: metric for metric, kind in metric_kinds().items() for score in kind.higher_is_better}
    unknown = [score for score in weights if score not in of_metric and score not in JudgeMetric.higher_is_better]
    if unknown:
        raise no_score(unknown[0], [*JudgeMetric.higher_is_better, *of_metric], SOURCE)
    if any(score in JudgeMetric.higher_is_better for score in weights):
        judge = Judge.load()
        if judge.reads(sampling.width, sampling.height):
            found.append(JudgeMetric(judge, name))
        else:
            gaps.append(f"the judge reads square pictures whose side is a multiple of {judge.size} pixels, "
                        f"not {sampling.width} x {sampling.height}")
    others = list(dict.fromkeys(of_metric[score] for score in weights if score in of_metric))
    if others:
        loaded, missing = load_metrics(Path(settings.metrics.weights), others, settings.metrics.ids)
        found, gaps = found + loaded, gaps + missing
    return found, gaps


def scores_at_hand(metrics: Sequence[Metric], weights: Dict[str, float], originals: Sequence[Image.Image],
                   prompts: Sequence[str]) -> Tuple[Dict[str, float], List[str]]:
    """The scores in `weights` that `metrics` can say of pictures of these prompts, and sentences on the others.

    Tried on a style picture.
    """
    known, gaps, pictures = [], [], originals[:1] * len(prompts)
    for metric in metrics:
        own = [score for score in metric.higher_is_better if score in weights]
        finite = [score for score in own
                  if np.isfinite(weighted_mean({score: 1.0}, [metric], pictures, prompts, originals, SOURCE)).all()]
        if finite != own:
            gaps += metric.gaps(pictures, prompts) or [f"{metric.name} gives no numbers for pictures of these prompts"]
        known += finite
    return {score: weight for score, weight in weights.items() if score in known}, gaps


def scorer_for(settings: RunSettings, name: str, score: Optional[str]) -> Optional[Scorer]:
    """Of the style `name` in the config's data; None where `scorers_for` has none."""
    pictures = [picture.path for picture in style_pictures(data_of(settings.data, name))]
    return next(iter(scorers_for(settings, {name: pictures}, score)), None)


def scorers_for(settings: RunSettings, styles: Mapping[str, Sequence[Path]], score: Optional[str]) -> List[Scorer]:
    """One for the pictures of each style, all of the same scores.

    None when the config asks for no score, draws no grids, or nothing of what it asks for can be had. What cannot be
    scored is said, and the rest is the score; StyleBlendError where the best step is to be kept by it.
    """
    training = settings.training
    if not score or not training.sample_every:
        if training.keep_adapters == "best":
            raise StyleBlendError(f"--keep best needs a score: set {SOURCE} and sample_every in the config")
        return []
    wanted = parse_weights(score, SOURCE)
    metrics, gaps = metrics_for(settings, next(iter(styles)), wanted)
    own = {name: [JudgeMetric(one.judge, name) if isinstance(one, JudgeMetric) else one for one in metrics]
           for name in styles}
    originals, found = {name: as_drawn(settings, paths) for name, paths in styles.items()}, wanted
    for name in styles:
        found, more = scores_at_hand(own[name], found, originals[name], training.sample_prompts)
        gaps += [gap for gap in more if gap not in gaps]
    if gaps and training.keep_adapters == "best":
        raise StyleBlendError(f"--keep best needs a score: {'; '.join(gaps)}")
    if gaps:
        say(f"the picture grids are scored by {described(found)} alone: {'; '.join(gaps)}"
            if found else f"the picture grids get no score: {'; '.join(gaps)}")
    return [Scorer(name, found, own[name], originals[name]) for name in styles] if metrics else []


def as_drawn(settings: RunSettings, paths: Sequence[Path]) -> List[Image.Image]:
    """Pictures in the size that is drawn."""
    sampling, reading = settings.sampling, settings.pictures
    arrays = [to_array(load_picture(path, reading.max_pixels), sampling.width, sampling.height, reading.fit)
              for path in paths]
    return [Image.fromarray(((a.transpose(1, 2, 0) + 1) * 127.5).round().astype(np.uint8)) for a in arrays]
