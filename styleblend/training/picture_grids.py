"""Picture grids during training: the same prompts and seeds each time, so that progress can be seen."""
from __future__ import annotations

from pathlib import Path
from typing import Callable, Optional, Sequence

from PIL import Image

from styleblend.files.pictures import contact_sheet, save_png
from styleblend.pipeline import Branch, StyleBlendPipeline
from styleblend.files.prompts import article
from styleblend.settings import RunSettings
from styleblend.training.scores import Scorer


def grid_writer(pipeline: StyleBlendPipeline, settings: RunSettings, branches: Sequence[Branch], seeds: Sequence[int] = (1, 2),
                frozen_text: bool = False, scorer: Optional[Scorer] = None) -> Callable:
    """A function that draws the config's sample prompts with the networks as they are then, writes them to a path, and returns their score (None without a `scorer`).

    `frozen_text` encodes the prompts here and now, once: the text encoder may be freed afterwards.
    """
    sampling, branches = settings.sampling, tuple(branches)
    jobs = [(prompt, seed) for prompt in settings.training.sample_prompts for seed in seeds]
    batches = [jobs[i:i + sampling.batch] for i in range(0, len(jobs), sampling.batch)]

    # before the training, not at its first grid
    if settings.training.sample_every:
        pipeline.base.schedule.config.refuse_more_steps(sampling.steps, "sampling.steps")
    pipeline.tokenizer.refuse_reserved(settings.training.sample_prompts)

    def encode(batch):
        return pipeline.encode_for([article(prompt) for prompt, _ in batch], sampling, branches)

    texts = [encode(batch) for batch in batches] if frozen_text else [None] * len(batches)

    def write(path: Path) -> Optional[float]:
        pictures = []
        for batch, text in zip(batches, texts):
            phrases, numbers = [article(prompt) for prompt, _ in batch], [seed for _, seed in batch]
            pictures += map(Image.fromarray, pipeline.generate(phrases, numbers, sampling, settings.blend, branches, text=text))
        cells = [(f"{prompt} {seed}", picture) for (prompt, seed), picture in zip(jobs, pictures)]
        save_png(path, contact_sheet([cells[i:i + len(seeds)] for i in range(0, len(cells), len(seeds))]))
        return scorer(pictures, [prompt for prompt, _ in jobs], path) if scorer else None

    return write
