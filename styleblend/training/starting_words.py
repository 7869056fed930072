"""The words that <F> starts from: of several phrases the one in whose style the base draws the style pictures best."""
from __future__ import annotations

from typing import Generator, List, Sequence

import numpy as np

from styleblend.files.captions import StylePicture
from styleblend.methods.styleblend import TEMPLATES
from styleblend.pipeline import Pipeline
from styleblend.training.noise_loss import noise_loss
from styleblend.machine.runtime import jt, say
from styleblend.training.latents import LatentCache
from styleblend.training.loop import step_rng
from styleblend.training.work import WorkDone

LEVELS = 8  # noise levels at which each picture is looked at,
NOISIEST = 0.75  # of the schedule from here on: where a picture is nearly noise, what becomes of it is up to the words


def starting_words(pipeline: Pipeline, phrases: Sequence[str], pictures: List[StylePicture], cache: LatentCache,
                   seed: int, batch: int) -> Generator[WorkDone, None, str]:
    """Choose the phrase with the lowest diffusion loss on the pictures as "<caption> in the style of <phrase>.".

    A single one is taken unseen. All phrases see the same noise, at the same levels, which are spread evenly over the
    noisiest quarter of the schedule. `batch`: rows of one call of the UNet.
    """
    if len(phrases) == 1:
        return phrases[0]
    base, losses, tokenizer = pipeline.base, [], pipeline.tokenizer("styleblend")
    for number, phrase in enumerate(phrases):
        yield WorkDone("choosing words", number, len(phrases), "phrase")
        template = TEMPLATES["fine"].replace("<F>", phrase)
        ids = tokenizer.encode([tokenizer.fitted_caption(template, p.phrase) for p in pictures])
        rng, found = step_rng(seed, "start", 0), []
        with jt.no_grad():
            texts = base.text_encoder(ids).numpy()
            for level in range(LEVELS):
                for begin in range(0, len(pictures), batch):
                    index = np.arange(begin, min(begin + batch, len(pictures)))
                    def times(rng):
                        return ((NOISIEST + (1 - NOISIEST) * (level + rng.random(len(index))) / LEVELS)
                                * len(base.schedule)).astype(int)

                    loss = noise_loss(base, cache, rng, index, lambda index: jt.array(texts[index]), times=times)
                    found.append(len(index) * loss.item())
        losses.append(sum(found) / (LEVELS * len(pictures)))
    yield WorkDone("choosing words", len(phrases), len(phrases), "phrase")
    best = int(np.argmin(losses))
    say(f"<F> starts from {phrases[best]!r}, in whose style the base draws the pictures best: loss "
        + ", ".join(f"{losses[i]:.3f} {phrases[i]!r}" for i in np.argsort(losses)[:3]))
    return phrases[best]
