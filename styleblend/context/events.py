"""What the readers of media say while they work: they are generators that yield these and return what they found."""
from __future__ import annotations

from dataclasses import dataclass
from typing import Generator, TypeVar, Union


@dataclass(frozen=True)
class Step:
    """`done` of `total` units of the work `title` are done."""

    title: str
    done: int
    total: int
    unit: str


@dataclass(frozen=True)
class Remark:
    """A sentence for the user."""

    sentence: str


Found = TypeVar("Found")
Reading = Generator[Union[Step, Remark], None, Found]
