"""Where style tokens stand in a caption, as Style Encoder was trained (Chang 2025): in place of its last word.

A caption ends ", in the style of sks."; the vectors take the place of "sks". They are written as ids from the
vocabulary on, which `CLIPTextModel` reads from its `placeholders`, so gradients flow to the vectors.
"""
from __future__ import annotations

from typing import Tuple

import numpy as np

from styleblend.base.tokens import Tokenizer


def with_style_tokens(tokenizer: Tokenizer, rows: np.ndarray, count: int = 8) -> Tuple[np.ndarray, np.ndarray]:
    """Ids (B, 77) of captions with `count` style tokens each, and whether there was too little room (B,).

    `rows`: the captions' ids with start and end, padded (`Tokenizer.encode`). The tokens begin two places before the
    first end-of-text, whatever stands there, or where they and two more just fit; what stood behind their beginning
    comes behind them, two places of it. Caption b has the ids vocabulary + b * count up to vocabulary + (b + 1) *
    count - 1: `placeholders` are the vectors (B * count, width), one caption after the other.
    """
    ids, last = np.array(rows), rows.shape[1] - count - 2
    ends = (ids == tokenizer.bpe.end_id).argmax(1)  # its place, since padding may have the id of a word
    begins = np.minimum(ends - 2, last)
    for number, (row, begin) in enumerate(zip(ids, begins)):
        behind = rows[number, begin + 1:begin + 3]
        row[begin:begin + count] = tokenizer.vocabulary + number * count + np.arange(count)
        row[begin + count:begin + count + 2] = behind
    return ids, ends - 2 > last
