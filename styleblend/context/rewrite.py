"""Several sentences in one, by T5."""
from __future__ import annotations

from typing import NamedTuple, Optional, Sequence

from styleblend.settings import RunSettings


class Summary(NamedTuple):
    """`text` is None where no T5 is there. `source`: who made it, or why nobody did, in words."""

    text: Optional[str]
    source: str


def summarise(sentences: Sequence[str], settings: RunSettings) -> Summary:
    """The sentences, in their order, as one. StyleBlendError: the weights of the config cannot be read."""
    raise NotImplementedError
