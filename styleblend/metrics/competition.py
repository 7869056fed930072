"""The score of the fourth Jittor competition (2024), track 2, as its published checker computes it."""
from __future__ import annotations

from dataclasses import dataclass
from typing import Dict, List, Mapping, Sequence

import numpy as np
from PIL import Image

from styleblend.metrics import BoardMetric
from styleblend.metrics.clip import ClipPrecision, ClipQuality
from styleblend.metrics.colour import ColourHistograms
from styleblend.metrics.dino import Dinov2Likeness
from styleblend.metrics.fid import FrechetDistance, Gaussian, frechet
from styleblend.metrics.networks import Clip, ClipResNet, ImageEncoder
from styleblend.metrics.perceptual import PerceptualDistance
from styleblend.models.inception import InceptionStem
from styleblend.models.squeezenet import LPIPSHeads, SqueezeNet

PARTS = {"dinov2": True, "histogram": True, "lpips": False, "clip_r": True, "fid": False, "clip_iqa": True}

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


@dataclass(frozen=True)
class StylePart:
    """What the score needs of one style: means over its pictures, who passed CLIP-R, and the sets that FID compares."""

    means: Dict[str, float]
    clip_r: np.ndarray
    drawn: Gaussian
    wanted: Gaussian


class CompetitionScore(BoardMetric):
    """The score and its six components, each one number."""

    name = "competition"
    higher_is_better = {"competition": True, **{f"competition_{part}": higher for part, higher in PARTS.items()}}
    needs = ("dinov2", "squeezenet", "lpips", "clip", "words", "inception", "clip_resnet")

    def __init__(self, dinov2: ImageEncoder, squeezenet: SqueezeNet, lpips: LPIPSHeads, clip: Clip, words: List[str],
                 inception: InceptionStem, clip_resnet: ClipResNet, quirks: Quirks = Quirks()):
        self.quirks, self.frechet = quirks, FrechetDistance(inception)
        self.precision = ClipPrecision(clip, words)
        self.by_style = [Dinov2Likeness(dinov2), ColourHistograms(quirks.overflow, quirks.wrapped_hue),
                         PerceptualDistance(squeezenet, lpips), ClipQuality(clip_resnet, quirks.unscaled_quality)]

    def measure_part(self, pictures: Sequence[Image.Image], prompts: Sequence[str],
                     style_pictures: Sequence[Image.Image]) -> StylePart:
        means = {name: float(np.mean(value)) for metric in self.by_style
                 for name, value in metric.score(pictures, prompts, style_pictures).items()}
        return StylePart(means, self.precision.score(pictures, prompts)["clip_r"], self.frechet.gaussian(pictures),
                         self.frechet.gaussian(style_pictures))

    def combined(self, parts: Sequence[StylePart]) -> Dict[str, float]:
        """Four components are means over styles of means over pictures.

        CLIP-R is the share of all pictures, FID compares sets.
        """
        found = {name: float(np.mean([part.means[name] for part in parts])) for name in PARTS if name in parts[0].means}
        found["clip_r"] = float(np.mean(np.concatenate([part.clip_r for part in parts])))
        compared = parts[-1:] if self.quirks.fid_of_last_style else parts
        found["fid"] = frechet(sum((part.wanted for part in compared), Gaussian()),
                               sum((part.drawn for part in compared), Gaussian()))
        return {"competition": total(found), **{f"competition_{name}": found[name] for name in PARTS}}
