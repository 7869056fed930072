"""Make a prompt of other media, as a job: what is read says how far it is, and sentences of its own."""
from __future__ import annotations

from styleblend.context.events import Step
from styleblend.context.prompt import Context, Media, made_of
from styleblend.jobs.events import Job, Log, Progress
from styleblend.settings import RunSettings


def make_context(media: Media, settings: RunSettings) -> Job[Context]:
    """The prompt of these media. StyleBlendError as in `styleblend.context.prompt`."""
    reading = made_of(media, settings)
    while True:
        try:
            event = next(reading)
        except StopIteration as end:
            return end.value
        yield Progress(event.title, event.done, event.total, event.unit) if isinstance(event, Step) else \
            Log(event.sentence)
