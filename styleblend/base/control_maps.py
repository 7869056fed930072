"""Control maps: what a ControlNet reads, made of any picture."""
from __future__ import annotations

from pathlib import Path
from typing import Callable

import numpy as np
from PIL import Image, ImageOps

from styleblend.base.depth_estimators import DepthEstimator
from styleblend.errors import StyleBlendError
from styleblend.files.canny import canny
from styleblend.files.depth_maps import load_depth_map
from styleblend.files.pictures import load_picture
from styleblend.settings import ControlSettings
from styleblend.settings.control import BY_ESTIMATOR, EDGES


def control_map(control: ControlSettings, width: int, height: int,
                estimator: Callable[[str], DepthEstimator]) -> np.ndarray:
    """The map of a control picture, uint8 (height, width, 3). Of other proportions the middle is taken.

    `estimator(name)`: the one that sees depth; "" where `control` names none. StyleBlendError for a picture that cannot
    be read, or in which there is nothing to follow.
    """
    if control.kind == "depth_map":
        return load_depth_map(Path(control.picture), width, height)
    picture = load_picture(Path(control.picture))
    if picture.size != (width, height):
        picture = ImageOps.fit(picture, (width, height), Image.LANCZOS)
    pixels = np.asarray(picture)
    if control.kind in BY_ESTIMATOR:
        pixels = estimator(control.estimator or "").control_picture(picture)
    if control.kind in EDGES:
        pixels = np.repeat(canny(pixels, control.low, control.high)[..., None], 3, axis=2)
    if pixels.min() == pixels.max():
        what = "has no edges" if control.kind in EDGES else "is of one colour"
        raise StyleBlendError(f"the control picture {control.picture} {what}: there is nothing to follow, so take "
                              "another")
    return pixels
