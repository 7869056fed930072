"""Picture grids during training: the same prompts and seeds each time, so that progress can be seen."""
from __future__ import annotations

from pathlib import Path
from typing import Callable, Sequence

from PIL import Image

from styleblend.pictures import contact_sheet, save_png
from styleblend.pipeline import Branch, StyleBlendPipeline, article
from styleblend.settings import RunSettings


def grid_writer(pipeline: StyleBlendPipeline, settings: RunSettings, branches: Sequence[Branch], seeds: Sequence[int] = (0, 1)) -> Callable:
    """A function that draws the config's sample prompts with the networks as they are now, and writes them to a path."""
    prompts = [p for p in settings.training.sample_prompts for _ in seeds]
    every = list(seeds) * len(settings.training.sample_prompts)

    def write(path: Path) -> None:
        pictures = []
        for begin in range(0, len(prompts), settings.sampling.batch):
            part = slice(begin, begin + settings.sampling.batch)
            pictures += list(pipeline.generate([article(p) for p in prompts[part]], every[part], settings.sampling, settings.blend, tuple(branches)))
        cells = [(f"{p} {s}", Image.fromarray(x)) for p, s, x in zip(prompts, every, pictures)]
        save_png(path, contact_sheet([cells[i:i + len(seeds)] for i in range(0, len(cells), len(seeds))]))

    return write
