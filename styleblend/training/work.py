"""What a training says of the work before and between its steps."""
from __future__ import annotations

from dataclasses import dataclass
from typing import Generator, Iterator


@dataclass(frozen=True)
class WorkDone:
    """`done` of `total` units of the work `title` are done."""

    title: str
    done: int
    total: int
    unit: str


def ended(work: Generator) -> Iterator:
    """What `work` yields. Closing this generator does not close that one: it is brought to its end first."""
    for event in work:
        try:
            yield event
        except GeneratorExit:
            for _ in work:
                pass
            raise
