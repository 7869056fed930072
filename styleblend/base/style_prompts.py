"""Where style tokens stand in a caption, as Style Encoder was trained (Chang 2025): in place of its last word.

A caption ends ", in the style of sks.", or without the period; the vectors take the place of "sks". They are written
as ids from the vocabulary on, which `CLIPTextModel` reads from its `placeholders`, so gradients flow to the vectors.
"""
from __future__ import annotations

from typing import Tuple

import numpy as np

from styleblend.base.tokens import Tokenizer
from styleblend.files.corpus import WORD


def with_style_tokens(tokenizer: Tokenizer, rows: np.ndarray, count: int = 8) -> Tuple[np.ndarray, np.ndarray]:
    """Ids (B, 77) of captions with `count` style tokens each, and whether there was too little room (B,).

    `rows`: the captions' ids with start and end, padded (`Tokenizer.encode`). The tokens begin one place before the
    first end-of-text where "sks" stands there and they have room, else as published: two places before it, whatever
    stands there, or where they and two more just fit. What stood behind their beginning, that one place or those two,
    comes behind them. Caption b has the ids vocabulary + b * count up to vocabulary + (b + 1) * count - 1:
    `placeholders` are the vectors (B * count, width), one caption after the other.
    """
    ids, room = np.array(rows), rows.shape[1] - count
    ends = (ids == tokenizer.bpe.end_id).argmax(1)  # its place, since padding may have the id of a word
    unsigned = (ids[np.arange(len(ids)), ends - 1] == tokenizer.id_of(WORD)) & (ends <= room)
    behind = np.where(unsigned, 1, 2)
    begins = np.minimum(ends - behind, room - behind)
    for number, (row, begin, left) in enumerate(zip(ids, begins, behind)):
        row[begin:begin + count] = tokenizer.vocabulary + number * count + np.arange(count)
        row[begin + count:begin + count + left] = rows[number, begin + 1:begin + 1 + left]
    return ids, ends > room
