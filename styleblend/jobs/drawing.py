"""The one place where jobs draw: phrases, seeds and settings become pictures, with progress on the way."""
from __future__ import annotations

from typing import List, Optional, Sequence

from PIL import Image

from styleblend.adapters.style import Style
from styleblend.base.base import Base
from styleblend.jobs.events import Job, Progress
from styleblend.pipeline import PLAIN, StyleBlendPipeline, branches_of
from styleblend.settings import BlendSettings, SamplingSettings

STEPS = "drawing"  # title of the progress of a batch


def pipeline_for(base: Base) -> StyleBlendPipeline:
    """A pipeline on this base, for `draw_pictures`."""
    return StyleBlendPipeline(base)


def refuse_reserved(pipeline: StyleBlendPipeline, phrases: Sequence[str]) -> None:
    """StyleBlendError for phrases with tokens that only the program may use: asked before the first picture is drawn."""
    pipeline.tokenizer.refuse_reserved(phrases)


def put_in(pipeline: StyleBlendPipeline, style: Optional[Style]) -> None:
    """The style (None: none) becomes that of the pipeline."""
    if pipeline.style is not style:
        pipeline.set_style(style)


def encode_texts(pipeline: StyleBlendPipeline, style: Optional[Style], phrases: Sequence[str], sampling: SamplingSettings):
    """The text states of these phrases, for `draw_pictures` with the same style and the same guidance and negative prompts."""
    put_in(pipeline, style)
    branches = branches_of(style)
    if style is None:
        return pipeline.encode(phrases, branches, sampling.guidance != 1, {PLAIN.name: sampling.fine_negative})
    return pipeline.encode_for(phrases, sampling, branches)


def draw_pictures(pipeline: StyleBlendPipeline, style: Optional[Style], phrases: Sequence[str], seeds: Sequence[int], sampling: SamplingSettings,
                  blend: BlendSettings, texts=None, once: bool = False) -> Job[List[Image.Image]]:
    """Yields the progress of the steps; returns one picture for each phrase, `sampling.width` x `sampling.height`.

    Without a style the pictures are plain, and `sampling.fine_negative` is their negative prompt. `texts`: what `encode_texts` gave for these
    phrases. `once` uses the pipeline up: each network is freed when its work is done.
    """
    texts = encode_texts(pipeline, style, phrases, sampling) if texts is None else texts
    yield Progress(STEPS, 0, sampling.steps, "step")
    # the steps inside are not told one by one: `generate` has no way to wait between them
    pixels = pipeline.generate(phrases, seeds, sampling, blend, branches_of(style), text=texts, once=once)
    yield Progress(STEPS, sampling.steps, sampling.steps, "step")
    return [Image.fromarray(picture) for picture in pixels]
