"""What a picture shows, in words: BLIP's caption where its weights are, else what the judge of the mini base sees."""
from __future__ import annotations

from pathlib import Path
from typing import NamedTuple, Optional

from styleblend.settings import RunSettings


class Description(NamedTuple):
    """What a picture shows. `text` is empty where nothing is certain; `source` then says why.

    `source`: who says it, in words; `confidence`: its probability (0..1), None from BLIP, which gives none.
    """

    text: str
    source: str
    confidence: Optional[float] = None


def describe_picture(path: Path, settings: RunSettings) -> Description:
    """What the picture in a file shows. StyleBlendError: it cannot be read, or the weights of the config cannot."""
    raise NotImplementedError
