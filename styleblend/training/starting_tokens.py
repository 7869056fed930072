"""The vectors of another style that a training starts from: of tokens that Style Encoder wrote, or of any embedding."""
from __future__ import annotations

from typing import Optional

import numpy as np

from styleblend.adapters.parts import PARTS
from styleblend.adapters.style import load_style
from styleblend.adapters.style_files import find_style
from styleblend.base.base import Base
from styleblend.errors import StyleBlendError
from styleblend.machine.runtime import say
from styleblend.settings import RunSettings

STARTS = ("style_tokens", "fine_embeds")  # embeddings that say a style in a prompt


def starting_tokens(base: Base, settings: RunSettings) -> Optional[np.ndarray]:
    """The vectors (n, width) of the style that `training.start` names; None: it names none.

    StyleBlendError where there is no such style, or it has no embedding.
    """
    name = settings.training.start
    if not name:
        return None
    style = load_style(find_style(settings.adapters, name), name, base)
    part = next((part for part in STARTS if part in PARTS[style.settings.method] and style.has(part)), None)
    if part is None:
        raise StyleBlendError(f"training.start: {name}, a style of {style.settings.method}, has no embedding to start "
                              "from: name one of styleblend encode")
    vectors = np.atleast_2d(style.parts[part])
    say(f"starts from the {len(vectors)} vectors of {name}")
    return vectors
