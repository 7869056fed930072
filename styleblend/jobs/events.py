"""What a job says while it works, and how to run one.

A job is a generator: it takes a request, yields events and returns its result. Whoever runs it decides what becomes of
the events: bars, a web page, nothing. It raises StyleBlendError (also Busy), prints nothing and reads no command line.
Closing it stops the work: whole files are kept, and a training saves its step first.
"""
from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Callable, Generator, Optional, TypeVar, Union

from PIL import Image

from styleblend.record import Record


@dataclass(frozen=True)
class Progress:
    """`done` of `total` units of the work `title` are done.

    Work inside other work, such as the steps of a picture, has a title of its own. `preview`, of pictures that are
    drawn, makes a small one of how they look now, side by side; None where that cannot be seen. It costs nothing unless
    it is called, which is to be before the next event and in the job's own thread. `value`: the number that one
    watches, such as the loss of a training.
    """

    title: str
    done: int
    total: int
    unit: str
    note: str = ""
    preview: Optional[Callable[[], Optional[Image.Image]]] = None
    value: Optional[float] = None


@dataclass(frozen=True)
class Drawn:
    """A picture is finished. `path` is None where it is not saved, `record` where it says nothing of itself."""

    path: Optional[Path]
    picture: Image.Image
    record: Optional[Record]


@dataclass(frozen=True)
class Written:
    """Another file is there, whole: a contact sheet, a page, a picture grid of a training."""

    path: Path


@dataclass(frozen=True)
class Log:
    """A sentence for the user."""

    sentence: str


Event = Union[Progress, Drawn, Written, Log]
Result = TypeVar("Result")
Job = Generator[Event, None, Result]


def result_of(job: Generator[Event, None, Result], each: Callable[[Event], object] = lambda event: None) -> Result:
    """Run a job to its end; what it returns. `each` gets every event."""
    while True:
        try:
            event = next(job)
        except StopIteration as end:
            return end.value
        each(event)
