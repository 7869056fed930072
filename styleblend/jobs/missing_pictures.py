"""Pictures that a job draws into a folder: which are kept, where they cannot be written, and the missing ones."""
from __future__ import annotations

from pathlib import Path
from typing import Collection, Dict, Iterable, List, NamedTuple, Optional, Sequence, Set, TypeVar

from PIL import Image

from styleblend.adapters.style import Style
from styleblend.errors import StyleBlendError
from styleblend.files.output_files import refuse_no_file, refuse_taken, refuse_unwritable
from styleblend.files.pictures import is_whole
from styleblend.files.saved_pictures import save_picture
from styleblend.jobs.drawing import draw_pictures
from styleblend.jobs.events import Drawn, Job, Log
from styleblend.pipeline import Pipeline
from styleblend.record import Record, changes, read_record
from styleblend.settings import SamplingSettings

Place = TypeVar("Place")


class Wanted(NamedTuple):
    """A picture's file, and what it is to say of itself."""

    path: Path
    record: Record


def kept_otherwise(kept: Iterable[Wanted]) -> Optional[str]:
    """A sentence on pictures that are kept, although they would come out otherwise now.

    As after another training, or with other settings.
    """
    old: Dict[str, List[str]] = {}
    for path, record in kept:
        try:
            different = changes(read_record(path), record)
        except StyleBlendError:
            continue  # drawn by something else: nothing is known of it
        if different:
            old[f"{path.parent.name}/{path.name}"] = different
    if not old:
        return None
    what = ", ".join(sorted(set().union(*old.values())))
    named = ", ".join(list(old)[:3]) + (f" and {len(old) - 3} more" if len(old) > 3 else "")
    return f"kept, although drawn with other {what} than now: {named}; --overwrite draws again what is there"


def missing_of(wanted: Sequence[Wanted], overwrite: bool) -> Job[Set[Path]]:
    """The files that are to be drawn; a sentence on others that are kept, although they would come out otherwise."""
    missing = {one.path for one in wanted if overwrite or not is_whole(one.path)}
    sentence = kept_otherwise(one for one in wanted if one.path not in missing)
    if sentence:
        yield Log(sentence)
    return missing


def refuse_outputs(paths: Sequence[Path], pages: Sequence[Path], lock: Path, overwrite: bool) -> None:
    """StyleBlendError where a picture cannot be written, or one of the `pages` would replace what is not a job's.

    Where the job's `lock` or one of its pictures is there, the pages are its own.
    """
    for folder in dict.fromkeys(path.parent for path in paths):
        refuse_unwritable(folder)
    for path in paths:
        refuse_no_file(path)
    if not lock.exists() and not any(path.exists() for path in paths):
        for page in pages:
            refuse_taken(page, overwrite)


def batches(places: Sequence[Place], missing: Collection[Place], size: int) -> List[Sequence[Place]]:
    """The places that are drawn together, as an unbroken run draws them; those without anything to do are left out.

    A batch is drawn whole if one of its pictures is missing: the last bits of a picture depend on its batch, and a run
    that was stopped and started again gives the same files as an unbroken one.
    """
    every = [places[i:i + size] for i in range(0, len(places), size)]
    return [batch for batch in every if any(place in missing for place in batch)]


def draw_batch(pipeline: Pipeline, style: Optional[Style], batch: Sequence[Wanted], missing: Collection[Path],
               sampling: SamplingSettings) -> Job[List[Path]]:
    """Draw pictures together, by the method of their records, and write those that are missing; returns their files."""
    records, drawn = [record for _, record in batch], []
    pictures = yield from draw_pictures(pipeline, style, [record.prompt for record in records],
                                        [record.seed for record in records], sampling, records[0].settings,
                                        control=records[0].control, content=records[0].content)
    for (path, record), picture in zip(batch, pictures):
        if path in missing:
            saved = saved_size(picture, record.sampling.saved_size)
            drawn.append(save_picture(path, saved, record.chunks()))
            yield Drawn(path, saved, record)
    return drawn


def saved_size(picture: Image.Image, longer: Optional[int]) -> Image.Image:
    """The picture with its longer side at `longer` pixels; None: as drawn."""
    if not longer or max(picture.size) == longer:
        return picture
    factor = longer / max(picture.size)
    return picture.resize((round(picture.width * factor), round(picture.height * factor)), Image.BICUBIC)
