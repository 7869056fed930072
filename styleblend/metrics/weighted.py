"""One number for a picture out of several scores: their weighted mean, asked for as "both" or "subject=2,style"."""
from __future__ import annotations

from typing import Dict, Sequence

import numpy as np
from PIL import Image

from styleblend.errors import StyleBlendError, did_you_mean


def parse_weights(text: str, source: str) -> Dict[str, float]:
    """"subject=2,style" -> {"subject": 2, "style": 1}. `source` begins the sentence of the error."""
    weights = {}
    for item in text.split(","):
        name, _, weight = item.partition("=")
        try:
            weights[name.strip()] = float(weight or 1)
        except ValueError:
            weights[name.strip()] = 0.0
        if not np.isfinite(weights[name.strip()]) or not weights[name.strip()]:
            raise StyleBlendError(f"{source} {item}: the weight must be a number other than 0")
    return weights


def described(weights: Dict[str, float]) -> str:
    """{"subject": 2, "style": 1} -> "2 subject + style"."""
    return " + ".join(name if weight == 1 else f"{weight:g} {name}" for name, weight in weights.items())


def no_score(name: str, known: Sequence[str], source: str) -> StyleBlendError:
    """The sentence for a score that there is not, with the near one and some that there are."""
    return StyleBlendError(f"{source}: there is no score {name!r} of single pictures; {did_you_mean(name, known)}")


def weighted_mean(weights: Dict[str, float], metrics: Sequence, pictures: Sequence[Image.Image], prompts: Sequence[str],
                  originals: Sequence[Image.Image], source: str) -> np.ndarray:
    """(N,) weighted mean of the scores in `weights`, which `metrics` (`styleblend.metrics.Metric`) give.

    Those of which less is better count against it. NaN: no score.
    """
    found, signs = {}, {}
    for metric in metrics:
        signs.update({name: 1 if higher else -1 for name, higher in metric.higher_is_better.items()})
        found.update({name: value
                      for name, value in metric.score(pictures, prompts, originals).items() if np.ndim(value)})
    unknown = next((name for name in weights if name not in found), None)
    if unknown:
        raise no_score(unknown, list(found), source)
    return (sum(weight * signs[name] * np.asarray(found[name], float)
                for name, weight in weights.items()) / sum(map(abs, weights.values())))
