"""Captions for the pictures of a style: texts beside them, to be edited, which trainings read."""
from __future__ import annotations

from typing import NamedTuple

from styleblend.context.picture import PictureDescriber
from styleblend.errors import StyleBlendError
from styleblend.files.captions import StylePicture, style_pictures, write_caption
from styleblend.files.names import composed, entry
from styleblend.files.nameless import says_nothing
from styleblend.files.prompts import article
from styleblend.files.shipped import data_of
from styleblend.jobs.choices import known_style
from styleblend.jobs.events import Job, Log, Progress
from styleblend.settings import RunSettings


class Captions(NamedTuple):
    """How many captions are new, were there already, and are missing since nobody can say what is shown."""

    written: int
    kept: int
    missing: int


def write_captions(settings: RunSettings, style: str, overwrite: bool = False) -> Job[Captions]:
    """Write `NAME.txt` beside each picture of a style that has no caption, with `overwrite` beside all.

    StyleBlendError: there is no such style, it comes with the program, or something cannot be read.
    """
    name = known_style(settings, style)
    if data_of(settings.data, name) != entry(settings.data, name):
        raise StyleBlendError(f"the pictures of {name} come with the program: copy them, and train --pictures FOLDER")
    pictures = style_pictures(data_of(settings.data, name))
    bare = [picture for picture in pictures if overwrite or not picture.written]
    describer, written = PictureDescriber(settings), 0
    for number, picture in enumerate(bare):
        yield Progress("captions", number, len(bare), "picture")
        text, source = caption_of(picture, describer, name)
        if not text:
            yield Log(f"{picture.file}: {source}")
            continue
        path = write_caption(picture, text, overwrite and picture.written)
        yield Log(f"{path}: {text} ({source})")
        written += 1
    return Captions(written, len(pictures) - len(bare), len(bare) - written)


def caption_of(picture: StylePicture, describer: PictureDescriber, style: str) -> tuple:
    """What a picture shows, without how it is drawn, and who says it; "" and why nobody does.

    Without a BLIP its name counts more than the judge: whoever gave it knew the picture.
    """
    stem = composed(picture.path.stem)
    if describer.captioner is None and not says_nothing(stem, style):
        return article(stem.replace("_", " ")), "by its name"
    found = describer.describe(picture.path)
    sure = "" if found.confidence is None else f", {found.confidence:.0%} sure"
    return found.content, found.source + (sure if found.content else "")
