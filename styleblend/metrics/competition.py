"""The score of the fourth Jittor competition (2024), track 2, as its published checker computes it."""
from __future__ import annotations

from dataclasses import dataclass
from typing import Dict, List, Mapping, Sequence, Tuple

import numpy as np
from PIL import Image

from styleblend.metrics import Metric
from styleblend.metrics.clip import ClipPrecision, ClipQuality
from styleblend.metrics.colour import ColourHistograms
from styleblend.metrics.dino import Dinov2Likeness
from styleblend.metrics.fid import FrechetDistance, frechet
from styleblend.metrics.networks import Clip, ClipResNet, ImageEncoder
from styleblend.metrics.perceptual import PerceptualDistance
from styleblend.models.inception import InceptionStem
from styleblend.models.squeezenet import LPIPSHeads, SqueezeNet

PARTS = {"dinov2": True, "histogram": True, "lpips": False, "clip_r": True, "fid": False, "clip_iqa": True}
Drawn = Tuple[Sequence[Image.Image], Sequence[str], Sequence[Image.Image]]  # pictures, prompts, style pictures


@dataclass(frozen=True)
class Quirks:
    """What the checker does, and published scores therefore contain. False: as was meant."""

    overflow: bool = True           # RGB histograms have no blue
    wrapped_hue: bool = True        # HSV histograms count hues from 256 degrees on as red to green
    unscaled_quality: bool = True   # CLIP-IQA is given 0..255 in place of 0..1
    fid_of_last_style: bool = True  # FID sees only the last style; else all styles as one set


def total(parts: Mapping[str, float]) -> float:
    """The score from its six components, 0..1: likeness with the style times fidelity and quality."""
    style = 0.2 * parts["dinov2"] + 0.4 * parts["histogram"] + 0.4 * (1 - parts["lpips"])
    return style * (0.5 * parts["clip_r"] + 0.4 * (20 - min(parts["fid"], 20)) / 20 + 0.1 * parts["clip_iqa"])


class CompetitionScore(Metric):
    """The score and its six components, each one number. `score_styles` takes a whole board."""

    name = "competition"
    higher_is_better = {"competition": True, **{f"competition_{part}": higher for part, higher in PARTS.items()}}
    needs = ("dinov2", "squeezenet", "lpips", "clip", "words", "inception", "clip_resnet")

    def __init__(self, dinov2: ImageEncoder, squeezenet: SqueezeNet, lpips: LPIPSHeads, clip: Clip, words: List[str], inception: InceptionStem,
                 clip_resnet: ClipResNet, quirks: Quirks = Quirks()):
        self.quirks, self.frechet = quirks, FrechetDistance(inception)
        self.precision = ClipPrecision(clip, words)
        self.by_style = [Dinov2Likeness(dinov2), ColourHistograms(quirks.overflow, quirks.wrapped_hue), PerceptualDistance(squeezenet, lpips),
                         ClipQuality(clip_resnet, quirks.unscaled_quality)]

    def measure(self, pictures: Sequence[Image.Image], prompts: Sequence[str], style_pictures: Sequence[Image.Image]):
        return self.score_styles({"": (pictures, prompts, style_pictures)})

    def score_styles(self, styles: Mapping[str, Drawn]) -> Dict[str, float]:
        """For a board: pictures, prompts and style pictures of each style, in the order of their names.

        Four components are means over styles of means over pictures; CLIP-R is the share of all pictures, FID compares sets.
        """
        means = [{name: np.mean(value) for metric in self.by_style for name, value in metric.score(*drawn).items()} for drawn in styles.values()]
        parts = {part: float(np.mean([mean[part] for mean in means])) for part in PARTS if part in means[0]}
        parts["clip_r"] = float(np.mean(np.concatenate([self.precision.score(*drawn)["clip_r"] for drawn in styles.values()])))
        compared = list(styles.values())[-1:] if self.quirks.fid_of_last_style else list(styles.values())
        drawn, wanted = (self.frechet.gaussian(*(style[place] for style in compared)) for place in (0, 2))
        parts["fid"] = frechet(wanted, drawn)
        return {"competition": total(parts), **{f"competition_{part}": parts[part] for part in PARTS}}
