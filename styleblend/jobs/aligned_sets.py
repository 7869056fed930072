"""What `align` has drawn into a folder: which pictures, what they show, and which pictures their look comes from.

Nothing here needs Jittor.
"""
from __future__ import annotations

import contextlib
from dataclasses import dataclass
from pathlib import Path
from typing import Dict, Optional

from styleblend.errors import StyleBlendError
from styleblend.record import Record, read_record
from styleblend.settings import AlignSettings

PLAIN = "plain"  # in the folder of a set: the same prompts and seeds without sharing
DRAWN = "reference.png"  # there, too: the reference where words of its own draw it


@dataclass(frozen=True)
class AlignedSet:
    """A set of pictures, or the ones beside it that share nothing.

    `phrases`: what each picture shows, without the look. `references`: what each reference picture shows; `shares`: how
    much each counts, 1 in all. `style`: the learned style that it was drawn in, "" for none.
    """

    phrases: Dict[Path, str]
    references: Dict[Path, str]
    shares: Dict[Path, float]
    style: str


def set_in(folder: Path) -> Optional[AlignedSet]:
    """The set in this folder; None where `align` drew nothing there."""
    folder = Path(folder)
    drawn = records_in(folder)
    around = records_in(folder.absolute().parent) if folder.absolute().name == PLAIN else drawn
    aligned = {path.name: record for path, record in around.items() if isinstance(record.settings, AlignSettings)}
    phrases = {path: aligned[path.name].prompt for path in drawn if path.name in aligned and path.name != DRAWN}
    if not phrases:
        return None
    first, references, shares = next(iter(aligned.values())), {}, {}
    for one, weight in zip(first.settings.counted(), first.settings.weights()):
        path = Path(one.picture)
        references[path], shares[path] = one.prompt or path.stem, shares.get(path, 0.0) + weight
    return AlignedSet(phrases, references, shares, first.style)


def records_in(folder: Path) -> Dict[Path, Record]:
    """The pictures in a folder that say how they were drawn."""
    found = {}
    for path in sorted(folder.glob("*.png")):
        with contextlib.suppress(StyleBlendError):
            found[path] = read_record(path)
    return found
