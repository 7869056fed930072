"""How near drawn pictures are to their prompts and to a style.

Some measures need only pictures, others networks whose weights a user has.

    metrics, missing = load_metrics("checkpoints/metrics")
    for metric in metrics:
        metric.score(pictures, prompts, style_pictures)    # {"clip_text": array([0.31, ...]), "clip_image": ...}

No measure stands in for another one: what has no weights is left out and named. docs/metrics.md says what each one
measures.
"""
from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from importlib import import_module
from pathlib import Path
from typing import Dict, List, Optional, Sequence, Tuple, Type, Union

import numpy as np
from PIL import Image

from styleblend.errors import StyleBlendError, did_you_mean
from styleblend.files.emphasis import spoken
from styleblend.settings import NetworkIds

Score = Union[np.ndarray, float]
# The metrics beside the judge: name -> its class, in a file of this folder. They are imported when one is asked for.
METRICS = {"clip": "clip.ClipLikeness", "clip_r": "clip.ClipPrecision", "clip_iqa": "clip.ClipQuality",
           "csd": "csd.CsdLikeness", "dino": "dino.DinoLikeness", "dinov2": "dino.Dinov2Likeness",
           "histogram": "colour.ColourHistograms", "gram": "perceptual.GramDistance",
           "lpips": "perceptual.PerceptualDistance", "fid": "fid.FrechetDistance",
           "texture": "perceptual.TextureDistance", "features": "perceptual.FeatureDistance",
           "competition": "competition.CompetitionScore"}
JUDGE_SCORES = ("both", "subject", "style", "subject_top5", "style_top1")


class Metric(ABC):
    """One measure, or several that come out of the same features.

    `higher_is_better` has a key for every number that `score` gives; `needs` are names of
    `styleblend.metrics.networks.SOURCES`; without `compares` it looks at the drawn pictures only, and one that `splits`
    can do so for some of its numbers (`alone`). `source`: the files of its networks, where it has any. `held_out`: of a
    style's real pictures 99 in 100 are less like others of the style, by the product of their `features`; None: nobody
    has measured it.
    """

    name: str
    higher_is_better: Dict[str, bool]
    needs: Tuple[str, ...] = ()
    compares = True
    splits = False
    source = ""
    held_out: Optional[float] = None

    def score(self, pictures: Sequence[Image.Image], prompts: Sequence[str],
              style_pictures: Sequence[Image.Image] = ()) -> Dict[str, Score]:
        """What was drawn for one style: an array with a number for each picture, or one number for the set.

        `prompts[i]` is what `pictures[i]` shows, without the style; the signs in it (`files.emphasis`) are no words.
        Any of the sequences may open its pictures only when they are taken out: each is gone through in batches, and
        only features are kept. StyleBlendError when there is nothing to score.
        """
        self.check(pictures, prompts, style_pictures)
        return self.measure(pictures, [spoken(prompt) for prompt in prompts], style_pictures)

    def check(self, pictures: Sequence[Image.Image], prompts: Sequence[str],
              style_pictures: Sequence[Image.Image]) -> None:
        """StyleBlendError where something is missing."""
        if not len(pictures) or self.compares and not len(style_pictures):
            raise StyleBlendError(f"there are no {'style ' if len(pictures) else ''}pictures for the metric "
                                  f"{self.name}: give it a folder that has some")
        if len(prompts) != len(pictures):
            raise StyleBlendError(f"{len(pictures)} pictures and {len(prompts)} prompts: give each picture its prompt")

    @abstractmethod
    def measure(self, pictures: Sequence[Image.Image], prompts: Sequence[str],
                style_pictures: Sequence[Image.Image]) -> Dict[str, Score]:
        """`score` of what is known to be complete."""

    def alone(self) -> Metric:
        """The same measure for pictures of which it is known that they have no style pictures."""
        found = copy.copy(self)
        found.compares = self.compares and not self.splits
        return found

    def with_shares(self, shares: Sequence[float]) -> Metric:
        """The same measure with these shares of the style pictures, 1 in all, where it can tell them apart."""
        return self

    def features(self, pictures: Sequence[Image.Image]) -> Optional[np.ndarray]:
        """(N, width) unit vectors of what pictures show, by which copies are told; None: this measure has none."""
        return None

    def gaps(self, pictures: Sequence[Image.Image], prompts: Sequence[str]) -> List[str]:
        """Sentences on what `score` cannot say of these pictures."""
        return []


class BoardMetric(Metric):
    """A metric that has a number for a whole board of styles, which is not the mean of those of its styles."""

    def part(self, pictures: Sequence[Image.Image], prompts: Sequence[str], style_pictures: Sequence[Image.Image]):
        """What the board's number needs of one style; no picture is kept."""
        self.check(pictures, prompts, style_pictures)
        return self.measure_part(pictures, [spoken(prompt) for prompt in prompts], style_pictures)

    def measure(self, pictures: Sequence[Image.Image], prompts: Sequence[str], style_pictures: Sequence[Image.Image]):
        return self.combined([self.measure_part(pictures, prompts, style_pictures)])

    @abstractmethod
    def measure_part(self, pictures: Sequence[Image.Image], prompts: Sequence[str],
                     style_pictures: Sequence[Image.Image]):
        """`part` of what is known to be complete."""

    @abstractmethod
    def combined(self, parts: Sequence) -> Dict[str, float]:
        """The numbers of all styles together, from their parts in the order of the styles' names."""


def metric_kinds() -> Dict[str, Type[Metric]]:
    """All metrics that there are, by name; the judge is none of them. All of these start Jittor."""
    places = {name: place.split(".") for name, place in METRICS.items()}
    return {name: getattr(import_module(f"styleblend.metrics.{module}"), kind)
            for name, (module, kind) in places.items()}


def refuse_unknown(names: Optional[Sequence[str]]) -> None:
    """StyleBlendError for a name that no metric has."""
    for name in names or ():
        if name not in METRICS:
            raise StyleBlendError(f"there is no metric {name}: {did_you_mean(name, METRICS)}")


def load_metrics(folder: Path, names: Optional[Sequence[str]] = None,
                 ids: NetworkIds = NetworkIds()) -> Tuple[List[Metric], List[str]]:
    """The metrics of `names` (None: all) whose weights are in `folder` or can be fetched by their `ids`.

    With them a sentence for each that is left out. Weights that are there and do not fit leave out what needs them,
    too. StyleBlendError for a name that no metric has.
    """
    from styleblend.metrics.networks import Networks
    refuse_unknown(names)
    kinds = metric_kinds()
    networks, found, missing = Networks(Path(folder), ids), [], []
    for name in kinds if names is None else names:
        needs = kinds[name].needs
        lacking = [s for s in map(networks.missing, needs) if s] or [s for s in map(networks.unfit, needs) if s]
        if lacking:
            missing.append(f"{name} is left out: {'; '.join(lacking)}")
        else:
            found.append(kinds[name](*(getattr(networks, need) for need in needs)))
            found[-1].source = ", ".join(map(networks.described, needs))
    return found, missing
