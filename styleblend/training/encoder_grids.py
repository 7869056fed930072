"""Picture grids while a style encoder is trained: the sample prompts in the style of a few pictures of its corpus."""
from __future__ import annotations

from pathlib import Path
from typing import Callable, Dict, Generator, List, Optional, Sequence, Tuple

import numpy as np
from PIL import Image

from styleblend.adapters.style_encoders import style_tokens
from styleblend.files.corpus import Corpus, Entry
from styleblend.files.pictures import contact_sheet, save_png
from styleblend.files.prompts import with_article
from styleblend.machine.runtime import jt
from styleblend.methods import style_encoder
from styleblend.models.style_encoder import StyleEncoder
from styleblend.pipeline import Picture, Pipeline
from styleblend.settings import RunSettings
from styleblend.training.corpus_cache import CorpusCache
from styleblend.training.picture_grids import TITLE
from styleblend.training.scores import as_drawn, scorers_for
from styleblend.training.work import WorkDone

SHOWN = 4  # pictures of the corpus
SEED = 1  # of all pictures of a grid


def shown_of(entries: Sequence[Entry]) -> Dict[str, int]:
    """Names and places of the pictures of a grid: the first one of each style, and where no style is known of all."""
    found: Dict[str, int] = {}
    for place, entry in enumerate(entries):
        found.setdefault(entry.style or entry.name, place)
    return dict(list(found.items())[:SHOWN])


def encoder_grids(pipeline: Pipeline, settings: RunSettings, encoder: StyleEncoder, cache: CorpusCache,
                  corpus: Corpus) -> Tuple[Callable, str]:
    """A generator function that draws a grid to a path and returns its score; and by what it is scored.

    A row begins with a picture of the corpus, and shows the config's sample prompts in the style that the encoder reads
    in it then. The pipeline must have the settings of the training.
    """
    if settings.training.sample_every:  # before the training, not at its first grid
        pipeline.check(settings.sampling)
        pipeline.tokenizer(style_encoder.StyleEncoder.name).refuse_reserved(settings.training.sample_prompts)
    shown, prompts, batch = shown_of(corpus.entries), settings.training.sample_prompts, settings.sampling.batch
    paths = {name: [corpus.path(corpus.entries[place])] for name, place in shown.items()}
    scorers = scorers_for(settings, paths, settings.training.encoder_score)
    parts = [prompts[begin:begin + batch] for begin in range(0, len(prompts), batch)]
    steps, template = settings.sampling.steps, encoder.config.template
    originals = {name: as_drawn(settings, own)[0] for name, own in paths.items()}

    def write(path: Path) -> Generator[WorkDone, None, Optional[float]]:
        rows: List[List[Tuple[str, Image.Image]]] = []
        scores, done, total = [], 0, len(shown) * len(parts) * steps
        for number, (name, place) in enumerate(shown.items()):
            tokens = style_tokens(encoder, cache.pictures(np.array([place])))[0]
            style = style_encoder.style_of(tokens, template, name, {})
            pictures = []
            for part in parts:
                request = pipeline.request(*map(with_article, part), style=style, seeds=SEED)
                for event in pipeline.draw(request):
                    if isinstance(event, Picture):
                        pictures.append(Image.fromarray(event.pixels))
                    else:
                        yield WorkDone(TITLE, done + event.done, total, "step")
                done += steps
            scores += [scorers[number](pictures, prompts, path)] if scorers else []
            rows.append([(name, originals[name]), *zip(prompts, pictures)])
        save_png(path, contact_sheet(rows))
        jt.gc()
        return float(np.mean(scores)) if scores and scorers[0].weights else None

    return write, scorers[0].scored_by if scorers else ""
