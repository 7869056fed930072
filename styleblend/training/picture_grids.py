"""Picture grids during training: the same prompts and seeds each time, so that progress can be seen."""
from __future__ import annotations

from pathlib import Path
from typing import Callable, Generator, Optional, Sequence

from PIL import Image

from styleblend.adapters.style import Applied
from styleblend.files.pictures import contact_sheet, save_png
from styleblend.files.prompts import with_article
from styleblend.methods.method import Request
from styleblend.pipeline import Picture, Pipeline
from styleblend.settings import MethodSettings, RunSettings
from styleblend.training.scores import Scorer
from styleblend.training.work import WorkDone

TITLE = "picture grid"


def grid_writer(pipeline: Pipeline, settings: RunSettings, branch: Optional[str], style: Callable[[], Applied],
                seeds: Sequence[int] = (1, 2), frozen_text: bool = False, scorer: Optional[Scorer] = None,
                method: str = Request.method, drawing: Optional[MethodSettings] = None) -> Callable:
    """A generator function that draws the config's sample prompts, writes them to a path, and returns their score.

    It yields `WorkDone`; its result is None without a `scorer`. `style()` gives the adapters as they are then; `branch`
    of the `method` draws alone (None: what it has), with the settings `drawing` (None: the config's blend).
    `frozen_text` encodes the prompts here and now, once: the text encoder may be freed afterwards.
    """
    sampling, prompts = settings.sampling, settings.training.sample_prompts
    jobs = [(prompt, seed) for prompt in prompts for seed in seeds]
    batches = [jobs[i:i + sampling.batch] for i in range(0, len(jobs), sampling.batch)]
    requests = [Request(tuple(with_article(prompt) for prompt, _ in batch), tuple(seed for _, seed in batch), sampling,
                        method=method, settings=settings.blend if drawing is None else drawing,
                        branches=(branch,) if branch else None) for batch in batches]
    # before the training, not at its first grid
    if settings.training.sample_every:
        pipeline.check(sampling)
    pipeline.tokenizer(method, style()).refuse_reserved(prompts)

    def encode(request):
        return pipeline.encode(pipeline.recipe(request, style()), request.method, style())

    texts = [encode(request) for request in requests] if frozen_text else [None] * len(requests)

    def write(path: Path) -> Generator[WorkDone, None, Optional[float]]:
        pictures, steps = [], sampling.steps
        for number, (request, text) in enumerate(zip(requests, texts)):
            yield WorkDone(TITLE, number * steps, len(requests) * steps, "step")
            for event in pipeline.draw(request, style(), text):
                if isinstance(event, Picture):
                    pictures.append(Image.fromarray(event.pixels))
                else:
                    yield WorkDone(TITLE, number * steps + event.done, len(requests) * steps, "step")
        cells = [(f"{prompt} {seed}", picture) for (prompt, seed), picture in zip(jobs, pictures)]
        save_png(path, contact_sheet([cells[i:i + len(seeds)] for i in range(0, len(cells), len(seeds))]))
        return scorer(pictures, [prompt for prompt, _ in jobs], path) if scorer else None

    return write
