"""The weights of a prompt's words, on the text states that cross-attention reads."""
from __future__ import annotations

import numpy as np

from styleblend.machine.precision import cast
from styleblend.machine.runtime import jt


def weighted(states, weights: np.ndarray):
    """Text states (n, tokens, width) times the weights of their tokens (n, tokens), each text with its mean put back.

    As A1111's web UI does it to a single prompt. Texts whose weights are all 1 keep their bits.
    """
    touched = (weights != 1).any(axis=1)
    if not touched.any():
        return states
    before = cast(states, "float32")
    after = before * jt.array(weights.astype(np.float32)[:, :, None])
    factor = before.mean((1, 2), keepdims=True) / after.mean((1, 2), keepdims=True)
    factor = jt.ternary(jt.array(touched[:, None, None]), factor, jt.ones_like(factor))
    return cast(after * factor, states.dtype)
