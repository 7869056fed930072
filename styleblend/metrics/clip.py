"""What CLIP (Radford et al. 2021) says of pictures.

Do they show their prompts, are they like a style, are they good?
"""
from __future__ import annotations

from typing import Dict, List, Sequence

import numpy as np
from PIL import Image

from styleblend.metrics import Metric, Score
from styleblend.metrics.networks import Clip, ClipResNet

QUALITY = ("Good photo.", "Bad photo.")


class ClipLikeness(Metric):
    """Cosine of each picture with its prompt, and, where there are any, its mean cosine with the style pictures."""

    name = "clip"
    higher_is_better = {"clip_text": True, "clip_image": True}
    needs = ("clip",)
    splits = True

    def __init__(self, clip: Clip):
        self.clip = clip

    def measure(self, pictures: Sequence[Image.Image], prompts: Sequence[str], style_pictures: Sequence[Image.Image]):
        images = self.clip.images.encode(pictures)
        found: Dict[str, Score] = {"clip_text": (images * self.clip.texts.encode(prompts)).sum(1)}
        if len(style_pictures):
            found["clip_image"] = (images @ self.clip.images.encode(style_pictures).T).mean(1)
        return found

    def features(self, pictures: Sequence[Image.Image]) -> np.ndarray:
        return self.clip.images.encode(pictures)


class ClipPrecision(Metric):
    """Whether a picture's own prompt is among the `top` that fit it best, of a list of words and itself.

    1 or 0 for each picture.
    """

    name = "clip_r"
    higher_is_better = {"clip_r": True}
    needs = ("clip", "words")
    compares = False
    top = 5

    def __init__(self, clip: Clip, words: List[str]):
        self.clip, self.words = clip, sorted(set(words))

    def measure(self, pictures: Sequence[Image.Image], prompts: Sequence[str], style_pictures: Sequence[Image.Image]):
        prompts = [prompt.lower() for prompt in prompts]
        images = self.clip.images.encode(pictures)
        own = (images * self.clip.texts.encode(prompts)).sum(1, keepdims=True)
        other = np.array([[word != prompt for word in self.words] for prompt in prompts])
        better = (images @ self.clip.texts.encode(self.words).T > own) & other
        return {"clip_r": (better.sum(1) < self.top).astype(np.float64)}


class ClipQuality(Metric):
    """CLIP-IQA (Wang et al. 2023): how much nearer a picture is to "Good photo." than to "Bad photo.", 0..1.

    `unscaled`: pictures are read as 0..255 where the network expects 0..1, as the checker of the competition reads
    them.
    """

    name = "clip_iqa"
    higher_is_better = {"clip_iqa": True}
    needs = ("clip_resnet",)
    compares = False

    def __init__(self, clip: ClipResNet, unscaled: bool = False):
        self.clip, self.unscaled = clip, unscaled

    def measure(self, pictures: Sequence[Image.Image], prompts: Sequence[str], style_pictures: Sequence[Image.Image]):
        features = self.clip.encode(pictures, 1 if self.unscaled else 255)
        good, bad = 100 * (features @ self.clip.texts.encode(QUALITY).T.astype(np.float64)).T
        return {"clip_iqa": 1 / (1 + np.exp(bad - good))}
