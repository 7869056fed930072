"""Control maps: what a ControlNet reads, made of any picture."""
from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from styleblend.errors import StyleBlendError
from styleblend.files.canny import canny
from styleblend.files.pictures import load_picture
from styleblend.settings import ControlSettings


def control_map(control: ControlSettings, width: int, height: int) -> np.ndarray:
    """The map of a control picture, uint8 (height, width, 3). Of other proportions the middle is taken.

    StyleBlendError for a picture that cannot be read, or in which there is nothing to follow.
    """
    picture = load_picture(Path(control.picture))
    if picture.size != (width, height):
        picture = ImageOps.fit(picture, (width, height), Image.LANCZOS)
    pixels = np.asarray(picture)
    if control.kind == "canny":
        pixels = np.repeat(canny(pixels, control.low, control.high)[..., None], 3, axis=2)
    if pixels.min() == pixels.max():
        what = "has no edges" if control.kind == "canny" else "is of one colour"
        cure = ", or lower its thresholds" if control.kind == "canny" else ""
        raise StyleBlendError(f"the control picture {control.picture} {what}: there is nothing to follow, so take "
                              f"another{cure}")
    return pixels
