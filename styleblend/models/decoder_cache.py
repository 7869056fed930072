"""What a text decoder remembers while it says a text: keys and values, so that each token is computed once."""
from __future__ import annotations

from typing import Any, List, Sequence, Tuple

import numpy as np

from styleblend.machine.runtime import jt
from styleblend.models.text_search import Step

KeysAndValues = Tuple[Any, Any]  # both (rows, tokens, width)


class DecoderCache:
    """Keys and values of every layer: `read` of the one source that all rows look at, `said` of the text so far."""

    def __init__(self, read: Sequence[KeysAndValues]):
        self.read = list(read)
        self.said: List[Any] = [None] * len(self.read)

    @property
    def length(self) -> int:
        """How many tokens of the text are in the last layer: those of all calls before."""
        return 0 if self.said[-1] is None else self.said[-1][0].shape[1]

    def extended(self, layer: int, new: KeysAndValues) -> KeysAndValues:
        """The keys and values of a layer with those of new tokens behind them."""
        before = self.said[layer]
        self.said[layer] = new if before is None else tuple(jt.concat(pair, dim=1) for pair in zip(before, new))
        return self.said[layer]

    def choose(self, rows: np.ndarray) -> None:
        """Go on with these rows."""
        if self.length and not np.array_equal(rows, np.arange(self.said[0][0].shape[0])):
            index = jt.array(rows.astype(np.int32))
            self.said = [tuple(x[index] for x in pair) for pair in self.said]


def step_of(decoder, cache: DecoderCache) -> Step:
    """What `text_search` asks for logits: `decoder` takes ids (B, 1) and the cache."""
    def step(tokens: np.ndarray, rows: np.ndarray) -> np.ndarray:
        cache.choose(rows)
        with jt.no_grad():
            return decoder(tokens[:, None], cache).numpy()[:, -1]
    return step
