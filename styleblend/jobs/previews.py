"""How pictures look while they are drawn: a small one of the steps' guess, and a file that always holds the last."""
from __future__ import annotations

import math
from pathlib import Path
from typing import Any, Callable, Optional

import numpy as np
from PIL import Image

from styleblend.errors import StyleBlendError
from styleblend.files.output_files import refuse_no_file, refuse_unwritable_file
from styleblend.files.pictures import opened
from styleblend.files.saved_pictures import FORMATS, save_picture, texts_of
from styleblend.jobs.events import Event, Progress

COLUMNS, LONGEST, GAP = 4, 256, 2  # pictures beside each other; pixels of the longer side of one, and between two
LARGER = 8  # times the latents, at most: as large as the picture will be
TEXT = "styleblend-preview"  # the text in the file of a preview, by which the next one knows that it may replace it


def preview_of(latents, look: Callable[[Any], Optional[np.ndarray]]) -> Callable[[], Optional[Image.Image]]:
    """What makes the preview of these latents (n, 4, h, w) when it is called. `look`: `Pipeline.preview`."""
    def picture() -> Optional[Image.Image]:
        pixels = look(latents)
        return None if pixels is None else side_by_side(pixels, max(latents.shape[2:]))
    return picture


def side_by_side(pixels: np.ndarray, latents: int) -> Image.Image:
    """uint8 (n, h, w, 3) -> one picture. `latents`: how many these were along the longer side."""
    count, height, width = pixels.shape[:3]
    factor = min(LONGEST, LARGER * latents) / max(height, width)
    width, height = max(1, round(width * factor)), max(1, round(height * factor))
    columns = min(count, COLUMNS)
    rows = math.ceil(count / columns)
    sheet = Image.new("RGB", (columns * (width + GAP) - GAP, rows * (height + GAP) - GAP), "white")
    for n, one in enumerate(pixels):
        row, column = divmod(n, columns)
        sheet.paste(Image.fromarray(one).resize((width, height), Image.BICUBIC),
                    (column * (width + GAP), row * (height + GAP)))
    return sheet


class PreviewFile:
    """A file that always holds the last preview, whole: for a viewer that reads it again and again."""

    def __init__(self, path: Path):
        self.path = path
        refuse_no_file(path)
        if path.suffix.lower() not in FORMATS:
            raise StyleBlendError(f"--preview {path}: end it in .png, .jpg or .webp")
        refuse_unwritable_file(path)
        self.refuse_other()

    def refuse_other(self) -> None:
        """StyleBlendError where the file is there and no preview: nobody has asked to replace it."""
        if not self.path.exists():
            return
        try:
            with opened(self.path) as image:
                if TEXT in texts_of(image):
                    return
        except StyleBlendError:
            pass  # no picture at all
        raise StyleBlendError(f"--preview {self.path} is there, and no preview: name another file, or remove it")

    def show(self, event: Event) -> None:
        """Write the event's preview, where it has one."""
        picture = event.preview() if isinstance(event, Progress) and event.preview else None
        if picture:
            save_picture(self.path, picture, {TEXT: f"{event.title}: {event.done} of {event.total}"})
