"""The prompts that style pictures are learned under."""
from __future__ import annotations

from typing import Sequence

import numpy as np

from styleblend.base.tokens import Tokenizer
from styleblend.files.captions import StylePicture
from styleblend.files.emphasis import escaped
from styleblend.methods.styleblend import TEMPLATES


def prompt_ids(tokenizer: Tokenizer, branch: str, pictures: Sequence[StylePicture]) -> np.ndarray:
    """(N, 77) token ids of "<what a picture shows> in the style of <C>." or of <F>, as the branch has it."""
    phrases = [picture.phrase for picture in pictures]
    tokenizer.refuse_reserved([escaped(phrase) for phrase in phrases])
    return tokenizer.encode([tokenizer.fitted_caption(TEMPLATES[branch], phrase) for phrase in phrases])
