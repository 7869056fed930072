"""The one place where jobs draw: phrases, seeds and settings become pictures, with progress on the way."""
from __future__ import annotations

from typing import List, Optional, Sequence

from PIL import Image

from styleblend.adapters.style import Style
from styleblend.jobs.events import Job, Progress, result_of
from styleblend.jobs.previews import preview_of
from styleblend.methods.method import Request
from styleblend.pipeline import Picture, Pipeline
from styleblend.settings import ContentSettings, ControlSettings, MethodSettings, SamplingSettings, method_of

STEPS = "drawing"  # title of the progress of a batch


def request_for(style: Optional[Style], phrases: Sequence[str], seeds: Sequence[int], sampling: SamplingSettings,
                settings: Optional[MethodSettings] = None, control: Sequence[ControlSettings] = (),
                content: Optional[ContentSettings] = None) -> Request:
    """A request for one picture of each phrase.

    `settings` are the method's own, and say which it is; None: the style's. Without either the pictures are plain.
    """
    method = method_of(settings, style.settings.method if style else Request.method)
    return Request(tuple(phrases), tuple(seeds), sampling, style, method, settings, control=tuple(control),
                   content=content)


def refuse_reserved(pipeline: Pipeline, style: Optional[Style], phrases: Sequence[str]) -> None:
    """StyleBlendError for phrases with tokens that only the program may use: asked before a picture is drawn."""
    pipeline.tokenizer(style.settings.method if style else Request.method).refuse_reserved(phrases)


def encode_texts(pipeline: Pipeline, style: Style, phrases: Sequence[str], sampling: SamplingSettings) -> List:
    """The text states of these phrases, for `draw_pictures`.

    They hold for the same style, the same negative prompts, and guidance that is on or off as here.
    """
    request = result_of(prepared(pipeline, request_for(style, phrases, [0] * len(phrases), sampling)))
    return pipeline.encode(pipeline.recipe(request), request.method, pipeline.applied(style))


def prepared(pipeline: Pipeline, request: Request) -> Job[Request]:
    """Yields the progress of what a method computes before it draws, and returns the request with it."""
    steps = pipeline.prepared(request)
    while True:
        try:
            yield progress_of(next(steps), pipeline)
        except StopIteration as end:
            return end.value


def progress_of(event, pipeline: Pipeline) -> Progress:
    """A step of a pipeline as the event of a job."""
    return Progress(event.what, event.done, event.total, "step", preview=preview_of(event.x0, pipeline.preview))


def draw_pictures(pipeline: Pipeline, style: Optional[Style], phrases: Sequence[str], seeds: Sequence[int],
                  sampling: SamplingSettings,
                  settings: MethodSettings, texts=None, once: bool = False,
                  control: Sequence[ControlSettings] = (),
                  content: Optional[ContentSettings] = None) -> Job[List[Image.Image]]:
    """Yields the progress of the steps; returns one picture for each phrase, `sampling.width` x `sampling.height`.

    `settings` are the method's own. `texts`: what `encode_texts` gave for these phrases. `once` uses the base up: each
    network is freed when its work is done. `control`: pictures that hold the layout. `content`: the
    picture that is drawn anew.
    """
    pictures = []
    yield Progress(STEPS, 0, sampling.steps, "step")
    request = request_for(style, phrases, seeds, sampling, settings, control, content)
    for event in pipeline.draw(request, texts=texts, once=once):
        if isinstance(event, Picture):
            pictures.append(Image.fromarray(event.pixels))
        else:
            yield progress_of(event, pipeline)
    return pictures
